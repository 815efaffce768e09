//! What a flood costs, and what it leaves of a tunnel on the CPU that it comes to.
//!
//! First messages one by one, beside boringtun: answering an initiation and asking for a cookie in the protocol core alone;
//! a bad mac1, one that is right while the queue is full, and data that does not open from the indication to the discard, by
//! `penstock.sys` in the simulator's fast mode, with what the simulator itself costs sampled and printed beside it. Then a
//! tunnel that is offered half of what it can carry, without and with each flood: datagrams arrive by a clock of their
//! own, in bursts of 32 as a peer's runs do, the flood's evenly between them; up to 64 of those that are there are indicated at
//! once; and the clock goes on by the CPU time that this takes. So a core that has nothing else to do is what is shown,
//! whoever else uses the machine. A flood is as fast as takes [`SHARE`] of that core, the simulator's part included. Workers are
//! not on that core: of messages with a right mac1 there are more than they answer, and the queue is full.
//!
//! ```text
//! scripts/bench.sh flood [--rounds N]    about a minute; with --functions N a profile of each message, too
//! ```
//!
//! Writes `target/bench/flood.json`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use abi::policy::Policy;
use sim::host::memory::pair::PORT;
use sim::host::null::{Mode as NullMode, fill};
use sim::host::polled::Polled;
use sim::nt::machine::Options;
use sim::nt::wsk;
use sim::verifier::schedule::{Mode, World};

#[allow(dead_code)]
mod handshakes;
#[allow(dead_code)]
mod pair;
#[allow(dead_code)]
mod profile;
mod results;
#[allow(dead_code)]
mod sample;

use handshakes::Side;
use pair::Pair;
use results::{median, root, write};
use sample::{Armed, Clock};

/// Simulated CPUs: workers have some of their own.
const CPUS: u32 = 4;
/// Datagrams indicated at once.
const BATCH: usize = 64;
/// Of a burst.
const BURST: usize = 32;
/// Bytes of a packet of the tunnel.
const SIZE: usize = 1420;
/// Packets of one run, in rounds of what the ring holds.
const ROUNDS: usize = 12;
/// What waits for a CPU: a network card's ring.
const RING: usize = 4096;
/// Messages of one sample.
const MESSAGES: usize = 4096;
/// Between two batches of a sample: longer than a batch takes.
const PAUSE: Duration = Duration::from_micros(100);
/// Of the core, for the flood.
const SHARE: f64 = 0.3;
/// Sources of a flood.
const SOURCES: usize = 100_000;

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BadMac1,
    RightMac1,
    ForgedData,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::BadMac1, "bad mac1"),
    (Kind::ForgedData, "forged data, 1420 B"),
    (Kind::RightMac1, "right mac1, no cookie"),
];
/// What a worker calls whenever it wakes.
const AT_WAKING: &str = "BCryptGenRandom";
/// How long they sleep, where what comes is more than they can answer.
const ASLEEP: Duration = Duration::from_secs(20);

fn source(number: usize) -> SocketAddr {
    let [a, b, c, d] = (0x6440_0000 + (number % SOURCES) as u32).to_be_bytes();
    SocketAddr::from(([a, b, c, d], 1024 + (number % 60_000) as u16))
}

/// A receiver, and what it may be sent.
struct Target<'p> {
    ends: &'p Polled,
    initiation: Vec<u8>,
    data: Vec<u8>,
}

impl<'p> Target<'p> {
    fn new(ends: &'p Polled) -> Self {
        let key = ends.to.station.public_key().expect("its key");
        let initiation = Side::new(&[0x77; 32], &key).initiations(1).remove(0).0;
        let mut target = Self { ends, initiation, data: Vec::new() };
        target.data = target.record().pop().expect("a datagram");
        let last = target.data.len() - 1;
        target.data[last] ^= 1;
        target
    }

    /// Datagrams of the peer, as many as the ring holds.
    fn record(&self) -> Vec<Vec<u8>> {
        let Polled { from, .. } = self.ends;
        from.outer.set_mode(NullMode::Record);
        let packet = self.ends.packet(SIZE);
        let before = from.outer.sent();
        assert_eq!(self.ends.put(&packet, pair::PACKETS), pair::PACKETS);
        while from.outer.sent() - before < pair::PACKETS as u64 {
            from.poll();
        }
        from.outer.set_mode(NullMode::Count);
        from.outer.take_recorded()
    }

    fn message(&self, kind: Kind, number: usize) -> Vec<u8> {
        match kind {
            Kind::BadMac1 => {
                let mut message = self.initiation.clone();
                message[handshakes::INITIATION - 32 + number % 16] ^= 1 << (number % 8);
                message
            }
            Kind::RightMac1 => self.initiation.clone(),
            Kind::ForgedData => self.data.clone(),
        }
    }

    /// Indicates these, and polls; CPU time of this thread in ns.
    fn indicate(&self, datagrams: &[(SocketAddr, Vec<u8>)]) -> f64 {
        let to = &self.ends.to;
        let landing = to.outer.landing().expect("an open socket");
        let (remotes, bytes): (Vec<_>, Vec<_>) = datagrams.iter().cloned().unzip();
        let mut places = fill(&*landing, &bytes, remotes[0], to.station.outer()[0]);
        for (place, remote) in places.iter_mut().zip(remotes) {
            place.remote = remote;
        }
        let (armed, clock) = (Armed::new(), Clock::start());
        landing.landed(&mut places);
        to.poll();
        let taken = clock.elapsed();
        drop(armed);
        taken.as_nanos() as f64
    }

    /// What a message of a kind costs where nothing else comes, in ns.
    fn cost(&self, kind: Kind) -> f64 {
        let mut sum = 0.0;
        for first in (0..MESSAGES).step_by(BATCH) {
            let batch: Vec<_> =
                (first..first + BATCH).map(|at| (source(at), self.message(kind, at))).collect();
            sum += self.indicate(&batch);
            // Or the CPU would have spent its share, and look at no more of them.
            std::thread::sleep(PAUSE);
        }
        sum / MESSAGES as f64
    }

    /// The same for the peer's own packets.
    fn own_cost(&self) -> f64 {
        let datagrams = self.record();
        let peer = self.peer();
        let batches = datagrams.chunks(BATCH);
        let sum: f64 = batches
            .map(|batch| {
                self.indicate(&batch.iter().map(|one| (peer, one.clone())).collect::<Vec<_>>())
            })
            .sum();
        sum / datagrams.len() as f64
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.ends.from.station.outer()[0], PORT)
    }

    /// Offers a packet every `every` ns on average, and a flood of `kind` with a message every so many ns. Returns how many of the
    /// packets were delivered, of one, and how long each took from its arrival on, in ns, sorted.
    fn offer(&self, every: f64, flood: Option<(Kind, f64)>) -> (f64, Vec<f64>) {
        let own: Vec<_> = (0..ROUNDS).flat_map(|_| self.record()).collect();
        let received = self.ends.to.received();
        let (mut now, mut next, mut forged, mut lost) = (0.0_f64, 0, 0, 0);
        let mut ring: VecDeque<(f64, Option<usize>)> = VecDeque::new();
        let mut latencies = Vec::with_capacity(own.len());
        let arrival = |number: usize| (number / BURST * BURST) as f64 * every;
        while next < own.len() || ring.iter().any(|(_, own)| own.is_some()) {
            // What has come by now, in its order.
            loop {
                let own_at = if next < own.len() { arrival(next) } else { f64::INFINITY };
                let flood_at = flood.map_or(f64::INFINITY, |(_, each)| forged as f64 * each);
                let at = own_at.min(flood_at);
                if at > now && !(ring.is_empty() && at.is_finite()) {
                    break;
                }
                now = now.max(at);
                let item = if own_at <= flood_at { Some(next) } else { None };
                if item.is_some() {
                    next += 1
                } else {
                    forged += 1
                }
                if ring.len() < RING {
                    ring.push_back((at, item));
                } else {
                    lost += usize::from(item.is_some());
                }
            }
            let batch: Vec<_> = ring.drain(..ring.len().min(BATCH)).collect();
            let datagrams: Vec<_> = batch
                .iter()
                .enumerate()
                .map(|(at, (_, item))| match (item, flood) {
                    (Some(number), _) => (self.peer(), own[*number].clone()),
                    (None, Some((kind, _))) => {
                        (source(forged + at), self.message(kind, forged + at))
                    }
                    (None, None) => unreachable!("only a flood forges"),
                })
                .collect();
            now += self.indicate(&datagrams);
            latencies.extend(batch.iter().filter(|(_, own)| own.is_some()).map(|(at, _)| now - at));
        }
        let got = self.ends.to.received() - received;
        assert_eq!(got as usize, latencies.len(), "what was indicated was delivered");
        latencies.sort_by(f64::total_cmp);
        // Late is lost, too: what came over longer than it should have is not kept up with.
        let kept = (latencies.len() as f64 / (latencies.len() + lost) as f64)
            .min(own.len() as f64 * every / now);
        (kept, latencies)
    }
}

fn main() {
    let (driver, rounds, functions) = arguments();
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    let mut rows = Vec::new();
    println!("in the protocol core, the best tenth of {rounds}; a second and core");
    let ([respond, reply], refused) = handshakes::measure(rounds);
    for row in [&respond, &reply] {
        println!(
            "  {:22} {:8.0} ns, {:9.0} a second; boringtun {:8.0} ns, {:.2}x",
            row.what,
            row.ours,
            1e9 / row.ours,
            row.theirs,
            row.theirs / row.ours
        );
        rows.push(json(row.what, "ns/message", row.ours, "boringtun", row.theirs));
    }
    // Workers have simulated CPUs of their own, and nothing is dealt to these.
    let parameters = [(Policy::FastPath, 0), (Policy::ScalingMax, 1)];
    let parameters = parameters.map(|(policy, value)| (policy.name().to_owned(), value));
    let granted = ["GSO_IS_GRANTED", "RX_CHECKSUM_IS_GRANTED"].map(|name| (name.to_owned(), false));
    let options = Options {
        cpus: CPUS,
        verified: false,
        parameters: parameters.into(),
        choices: wsk::good_offloads().chain(granted).collect(),
        ..Options::default()
    };
    let pair = Pair::of(Polled::boot(&world, &options, &driver));
    let target = Target::new(pair.ends());
    let own = median((0..rounds).map(|_| target.own_cost()).collect());
    println!(
        "\nfrom the indication on, in batches of {BATCH}: {own:.0} ns for a packet of {SIZE} bytes of the tunnel's"
    );
    let names = sample::Names::read();
    for (kind, name) in KINDS {
        let all = median((0..rounds).map(|_| target.cost(kind)).collect());
        let profile = profile::take(&names, &pair, || {
            target.cost(kind);
        });
        let [aead, driver, simulator] = profile.shares().map(|share| share * all);
        let alone = aead + driver;
        println!(
            "  {name:22} {all:5.0} ns, of it driver {alone:.0}, simulator {simulator:.0}: {:.2} million a second and core, 1 M/s take {:.0} % of one",
            1e3 / alone,
            alone / 10.0
        );
        let against = if kind == Kind::BadMac1 { Some(refused) } else { None };
        let what = format!("{name}: driver alone, sampled");
        rows.push(match against {
            Some(theirs) => json(&what, "ns/message", alone, "boringtun, no I/O", theirs),
            None => json(&what, "ns/message", alone, "a packet of the tunnel's", own),
        });
        if functions > 0 {
            profile.print(name, all, functions);
        }
    }
    println!(
        "\na tunnel at half of what a core carries, and a flood that takes {:.0} % of that core",
        SHARE * 100.0
    );
    for (kind, name) in KINDS {
        let mut runs: [Vec<(f64, f64, f64)>; 2] = Default::default();
        let mut rates = Vec::new();
        if kind == Kind::RightMac1 {
            // On this host they would share these CPUs; where there is an IRQL they do not.
            let faults = pair.ends().to.machine().faults();
            (0..2 * CPUS).for_each(|_| faults.stall(AT_WAKING, 0, ASLEEP));
            target.cost(kind);
        }
        for _ in 0..rounds.div_ceil(4) {
            // As the machine is just now.
            let (every, each) = (2.0 * target.own_cost(), target.cost(kind) / SHARE);
            rates.push(1e3 / each);
            for (flood, runs) in [None, Some((kind, each))].into_iter().zip(&mut runs) {
                let (kept, latencies) = target.offer(every, flood);
                let percentile = |of: usize| latencies[(latencies.len() - 1) * of / 100] / 1e3;
                runs.push((kept, percentile(50), percentile(99)));
            }
        }
        let middle = |runs: &[(f64, f64, f64)], which: fn(&(f64, f64, f64)) -> f64| {
            median(runs.iter().map(which).collect())
        };
        let [without, with] = [&runs[0], &runs[1]]
            .map(|runs| [middle(runs, |r| r.0), middle(runs, |r| r.1), middle(runs, |r| r.2)]);
        println!(
            "  {name:22} {:.2} M/s: {:.1} % kept; p50 {:.0} -> {:.0} us, p99 {:.0} -> {:.0} us, {:.2}x",
            median(rates),
            100.0 * with[0] / without[0],
            without[1],
            with[1],
            without[2],
            with[2],
            with[2] / without[2]
        );
        rows.push(json(
            &format!("p99 beside a flood: {name}"),
            "us",
            with[2],
            "without",
            without[2],
        ));
        rows.push(json(
            &format!("kept beside a flood: {name}"),
            "%",
            100.0 * with[0],
            "without",
            100.0 * without[0],
        ));
    }
    println!("\nwhat was counted:");
    pair.print_ways();
    pair.shut_down();
    let json = serde_json::to_string_pretty(&rows).expect("plain values");
    write("flood.json", &json);
}

/// A row of the report; of what is kept more is better, of all else less.
fn json(what: &str, unit: &str, ours: f64, peer: &str, theirs: f64) -> serde_json::Value {
    let ratio = if unit == "%" { ours / theirs } else { theirs / ours };
    let [ours, theirs, ratio] = [ours, theirs, ratio].map(|value| (value * 100.0).round() / 100.0);
    serde_json::json!({
        "what": what, "size": null, "unit": unit,
        "ours": ours, "peer": peer, "theirs": theirs, "ratio": ratio,
    })
}

fn arguments() -> (PathBuf, usize, usize) {
    let mut functions = 0;
    let (mut driver, mut rounds) = (root().join("target/driver/penstock.sys"), 21);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next();
        match (word.as_str(), value) {
            ("--rounds", Some(value)) => rounds = value.parse().unwrap_or_else(|_| usage()),
            ("--functions", Some(value)) => functions = value.parse().unwrap_or_else(|_| usage()),
            ("--driver", Some(value)) => driver = value.into(),
            _ => usage(),
        }
    }
    (driver, rounds, functions)
}

fn usage() -> ! {
    eprintln!("usage: scripts/bench.sh flood [--rounds N] [--functions N] [--driver PATH]");
    std::process::exit(2)
}
