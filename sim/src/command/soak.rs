//! `penstock-sim soak`: two machines under everything at once, for as long as one likes.
//!
//! ```text
//!   alpha ◄═══ datagrams and pings, four flows, a cable with weather ═══► beta
//!     ▲ one change in 200 ms: peers, port, policy, roaming, NAT, down and up, sleep, time, a failing call, a CPU that stands still
//! ```
//!
//! Real threads and four CPUs each, verified. Nothing is promised about any one packet: only that nothing stops, that every
//! packet is accounted for at the end, and that memory is what it was after the first minute.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abi::discard::Direction;
use abi::policy::Policy;
use abi::statistics::{Counter, Statistics};
use clap::Args;
use sim::host::memory::endpoint::Endpoint;
use sim::host::memory::link::Link;
use sim::host::memory::pair::{PORT, Pair, Station};
use sim::nt::machine::Options;
use sim::verifier::schedule::{Mode, World};

use super::{DriverFile, Failure, Outcome, print_statistics};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(200);
/// How long everything may take to come to rest.
const REST: Duration = Duration::from_secs(3);
/// How long a ping may take when nothing disturbs it any more: a handshake that was lost is tried again after five seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pool that a driver at rest may have more than after the first minute: receive buffers are made when none is free, 256 KiB at
/// a time, and kept. What is lost for good is seen when it unloads.
const SLACK: usize = 16 << 20;

/// The kind of change that is sleep.
const SLEEP: u64 = 14;
/// Records of each machine that are shown when there is no answer.
const TOLD: usize = 100;

/// Arguments of `soak`.
#[derive(Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    driver: DriverFile,
    /// Minutes, of which a part is a minute, too.
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// Start of the random choices; the threads are real, so no run is another's copy.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show what the drivers print.
    #[arg(long)]
    log: bool,
}

/// What the flows did.
#[derive(Default)]
struct Flows {
    stop: AtomicBool,
    pause: AtomicBool,
    sent: AtomicU64,
    taken: AtomicU64,
    pings: AtomicU64,
    answers: AtomicU64,
}

/// What one run has.
struct Run {
    pair: Pair,
    flows: Arc<Flows>,
    key: [u8; 32],
    random: u64,
    changes: BTreeMap<&'static str, u64>,
    /// Statuses that changes ended with while a call failed for them.
    refused: BTreeMap<i32, u64>,
}

impl Soak {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        let path = self.driver.find()?;
        let world = World::new(Mode::Parallel);
        let _main = world.enter("main");
        let options = Options { cpus: 4, verified: true, print: self.log, ..Options::default() };
        let pair = Pair::boot(&world, &options, &path)?;
        let key = pair.alpha.private_key();
        let key = key.map_err(|status| Failure::new(format!("GET: {status:#010x}")))?;
        let flows = Arc::new(Flows::default());
        let threads = start(&pair, &flows);
        let (changes, refused) = Default::default();
        let mut run = Run { pair, flows, key, random: self.seed | 1, changes, refused };
        let outcome = run.soak(self.minutes.max(1));
        run.flows.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join(Some(world.now() + PATIENCE));
        }
        let outcome = run.alive().and(outcome).and_then(|()| run.account());
        for (station, name) in [(&run.pair.alpha, "alpha"), (&run.pair.beta, "beta")] {
            if !station.computer().machine().is_dead() {
                println!("{name}");
                print_statistics(station.tunnel())?;
            }
        }
        outcome?;
        let leaks = run.pair.shut_down()?;
        println!("unloaded, {} things left behind", leaks.len());
        Ok(leaks)
    }
}

impl Run {
    /// Disturbs, a line a minute, and compares memory.
    fn soak(&mut self, minutes: u32) -> Result<(), Failure> {
        println!(
            "minute  changes  sent    taken   pings (answered)  handshakes  discarded  pool at rest, KiB  process, MiB"
        );
        let mut first = None;
        for minute in 1..=minutes {
            let until = Instant::now() + Duration::from_secs(60);
            while Instant::now() + REST + Duration::from_secs(2) < until {
                self.change()?;
                self.pair.world.sleep(PAUSE);
                self.alive()?;
            }
            let pool = self.rest()?;
            self.line(minute, pool)?;
            let [alpha, beta] = *first.get_or_insert(pool);
            if pool[0] > alpha + SLACK || pool[1] > beta + SLACK {
                return Err(Failure::new(format!(
                    "memory grows: {pool:?} bytes of pool at rest, {:?} after the first minute",
                    [alpha, beta]
                )));
            }
        }
        println!("changes: {:?}; refused while a call failed: {:x?}", self.changes, self.refused);
        Ok(())
    }

    fn draw(&mut self, below: u64) -> u64 {
        // Marsaglia's xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// One change, of alpha mostly.
    fn change(&mut self) -> Result<(), Failure> {
        let (kind, pick) = (self.draw(18), self.draw(1 << 20));
        let machine = self.pair.alpha.computer().machine().clone();
        // A device that does not wake up is given up by PnP, which is another test's.
        let fails = self.draw(4) == 0 && kind != SLEEP;
        if fails {
            machine.faults().fail_at(self.draw(300));
        }
        let (alpha, beta) = (&self.pair.alpha, &self.pair.beta);
        let (name, done) = match kind {
            0 => ("port", alpha.configure_interface(&self.key, PORT + (pick % 3) as u16)),
            1 => ("peer again", introduce(beta, alpha, false)),
            2 => ("roaming, by family", introduce(beta, alpha, true)),
            3 => ("down", alpha.set_up(false)),
            4..=6 => ("up", alpha.set_up(true)),
            7 => (
                "send engine",
                alpha.tunnel().set_policy(&[(Policy::SendEngine, Some((pick % 3) as u32))]),
            ),
            8 => (
                "fast path",
                alpha.tunnel().set_policy(&[(Policy::FastPath, Some((pick % 2) as u32))]),
            ),
            9 => ("GET", alpha.tunnel().get().map(drop)),
            10 => ("statistics", alpha.tunnel().statistics().map(drop)),
            11 => {
                self.pair.network.set_weather(weather(pick));
                ("weather", Ok(()))
            }
            12 => {
                machine.keep_cpu((pick % 4) as u32, Duration::from_millis(50));
                ("a CPU stands still", Ok(()))
            }
            13 => {
                alpha.host().rebind([203, 0, 113, 1 + (pick % 3) as u8].into());
                ("NAT rebinding", Ok(()))
            }
            SLEEP => {
                alpha.tunnel().sleep()?;
                self.pair.world.skip(Duration::from_secs(pick % 600));
                alpha.tunnel().wake()?;
                ("sleep", Ok(()))
            }
            _ => {
                // A session is renewed by its initiator after 120 s, by its responder after 165.
                self.pair.world.skip(Duration::from_secs(20 + pick % 60));
                ("time passes", Ok(()))
            }
        };
        if fails {
            // The call may be one of those that follow.
            self.pair.world.sleep(Duration::from_millis(20));
        }
        machine.faults().never();
        *self.changes.entry(name).or_default() += 1;
        match done {
            Err(status) if fails => *self.refused.entry(status).or_default() += 1,
            Err(status) => return Err(Failure::new(format!("{name}: {status:#010x}"))),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Everything as it was, no traffic, adapters down: bytes of pool of both.
    fn rest(&mut self) -> Result<[usize; 2], Failure> {
        self.calm()?;
        self.flows.pause.store(true, Ordering::Relaxed);
        for to in self.pair.beta.inner() {
            let ping = || self.pair.alpha.endpoint().ping(to, 64, PATIENCE).is_some();
            if !(0..3).any(|_| ping()) {
                self.tell();
                return Err(Failure::new(format!("{to}: no answer, and nothing disturbs")));
            }
        }
        let stations = [&self.pair.alpha, &self.pair.beta];
        let told = |status| Failure::new(format!("down or up: {status:#010x}"));
        stations.iter().try_for_each(|station| station.set_up(false)).map_err(told)?;
        self.pair.world.sleep(REST);
        let pool = stations.map(|station| station.computer().machine().pool_use().bytes);
        self.add_up()?;
        stations.iter().try_for_each(|station| station.set_up(true)).map_err(told)?;
        self.flows.pause.store(false, Ordering::Relaxed);
        Ok(pool)
    }

    /// What happened last, as the flight recorders have it.
    fn tell(&self) {
        for station in [&self.pair.alpha, &self.pair.beta] {
            let machine = station.computer().machine();
            println!("{}", machine.name());
            machine.recorded_lines(TOLD).iter().for_each(|line| println!("  {line}"));
        }
    }

    /// Nothing disturbs, and alpha is as it was at first.
    fn calm(&self) -> Result<(), Failure> {
        let (alpha, beta) = (&self.pair.alpha, &self.pair.beta);
        self.pair.network.set_weather(Link::default());
        let calm = alpha
            .configure_interface(&self.key, PORT)
            .and_then(|()| introduce(beta, alpha, false))
            .and_then(|()| introduce(alpha, beta, false))
            .and_then(|()| alpha.set_up(true));
        calm.map_err(|status| Failure::new(format!("calming down: {status:#010x}")))
    }

    fn line(&self, minute: u32, pool: [usize; 2]) -> Result<(), Failure> {
        let of = |which: &AtomicU64| which.load(Ordering::Relaxed);
        let blocks = self.statistics()?;
        let sum = |what: &dyn Fn(&Statistics<'_>) -> u64| {
            blocks
                .iter()
                .filter_map(|block| Statistics::parse(block))
                .map(|s| what(&s))
                .sum::<u64>()
        };
        let discarded =
            |s: &Statistics<'_>| s.discards(Direction::Outbound) + s.discards(Direction::Inbound);
        println!(
            "{minute:6}  {:7}  {:<7} {:<7} {:<6} ({:<8}  {:10}  {:9}  {:>8} {:>8}  {:8.1}",
            self.changes.values().sum::<u64>(),
            of(&self.flows.sent),
            of(&self.flows.taken),
            of(&self.flows.pings),
            format!("{})", of(&self.flows.answers)),
            sum(&|s| s.counter(Counter::HandshakesOut)),
            sum(&discarded),
            pool[0] / 1024,
            pool[1] / 1024,
            resident_mib(),
        );
        Ok(())
    }

    fn statistics(&self) -> Result<Vec<Vec<u8>>, Failure> {
        [&self.pair.alpha, &self.pair.beta]
            .into_iter()
            .map(|station| station.tunnel().statistics())
            .collect::<Result<_, _>>()
            .map_err(|status| Failure::new(format!("statistics: {status:#010x}")))
    }

    /// Whether both machines run.
    fn alive(&self) -> Result<(), Failure> {
        for station in [&self.pair.alpha, &self.pair.beta] {
            let machine = station.computer().machine();
            if machine.is_dead() {
                let report = sim::host::computer::report(machine);
                return Err(Failure {
                    message: format!("the machine stopped:\n{report}"),
                    code: 3,
                });
            }
        }
        Ok(())
    }

    /// Every packet left, arrived or was discarded for a reason: with both adapters down nothing waits.
    fn account(&self) -> Result<(), Failure> {
        for station in [&self.pair.alpha, &self.pair.beta] {
            let down = station.set_up(false);
            down.map_err(|status| Failure::new(format!("down: {status:#010x}")))?;
        }
        self.pair.world.sleep(REST);
        self.add_up()?;
        println!("every packet left, arrived or was discarded for a reason");
        Ok(())
    }

    /// Whether the counters of both do, with adapters down and nothing under way.
    fn add_up(&self) -> Result<(), Failure> {
        for (block, name) in self.statistics()?.iter().zip(["alpha", "beta"]) {
            let statistics = Statistics::parse(block)
                .ok_or_else(|| Failure::new("statistics of another layout"))?;
            let (out, into) = (statistics.waiting(), statistics.lost());
            if (out, into) != (0, 0) {
                let what = "packets that nothing says what became of";
                return Err(Failure::new(format!("{name}: {what}: {out} out, {into} in")));
            }
        }
        Ok(())
    }
}

/// Makes `of` known to `to`, by the other family's address or the first.
fn introduce(of: &Station, to: &Station, other_family: bool) -> Result<(), i32> {
    let mut peer = of.as_peer()?;
    if other_family {
        peer.endpoint = peer.endpoint.map(|at| (of.outer()[1], at.port()).into());
    }
    to.set_peers(&[peer])
}

fn weather(pick: u64) -> Link {
    Link {
        jitter: Duration::from_micros(pick % 3000),
        loss_per_mille: (pick >> 4 & 31) as u16,
        duplicate_per_mille: (pick >> 9 & 31) as u16,
        reorder_per_mille: (pick >> 14 & 63) as u16,
        ..Link::default()
    }
}

/// Both ways, by both families, each in a thread.
fn start(pair: &Pair, flows: &Arc<Flows>) -> Vec<sim::verifier::schedule::JoinHandle> {
    let ends = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)];
    ends.into_iter()
        .flat_map(|(from, to)| to.inner().map(|to| (from.endpoint().clone(), to)))
        .map(|(from, to)| {
            let (flows, world) = (flows.clone(), pair.world.clone());
            world.clone().spawn("flow", move || flow(&world, &flows, &from, to))
        })
        .collect()
}

fn flow(world: &World, flows: &Flows, from: &Endpoint, to: IpAddr) {
    while !flows.stop.load(Ordering::Relaxed) {
        if flows.pause.load(Ordering::Relaxed) {
            world.sleep(Duration::from_millis(20));
            continue;
        }
        for size in 0..24 {
            let sent = from.send_datagram(to, vec![0x5A; size * 57]);
            flows.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
        }
        flows.pings.fetch_add(1, Ordering::Relaxed);
        let answered = from.ping(to, 900, Duration::from_millis(50)).is_some();
        flows.answers.fetch_add(u64::from(answered), Ordering::Relaxed);
        while from.take_datagram(Duration::ZERO).is_some() {
            flows.taken.fetch_add(1, Ordering::Relaxed);
        }
        world.sleep(Duration::from_millis(2));
    }
}

/// MiB of this process in memory.
fn resident_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = pages.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / f64::from(1 << 20)
}
