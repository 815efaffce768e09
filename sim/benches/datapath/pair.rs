//! Two machines with a tunnel, measured packet by packet in the calling thread.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abi::policy::Policy;
use sim::host::memory::Network;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{PORT, Station};
use sim::host::null::{Mode, Null, fill};
use sim::nt::machine::{Machine, Options};
use sim::nt::wsk;
use sim::verifier::schedule::World;

use super::sample::{Armed, Clock};

/// Packets of one sample.
pub(super) const PACKETS: usize = 1024;
/// Datagrams that the network card hands over at once.
const BATCH: usize = 64;
/// Bytes of IPv4's and UDP's headers.
const HEADERS: usize = 28;
/// Bytes of a packet to be cut at most: what the driver declares.
const MOST: usize = 65_535 - 120;
/// Segments of one: fewer than the driver refuses.
const MOST_SEGMENTS: usize = 256;
/// What a sample took: of the calling thread, and by the clock.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two stations that know each other, and the network they do without while they are measured.
pub(super) struct Pair {
    from: End,
    to: End,
    _network: Network,
}

struct End {
    station: Station,
    outer: Arc<Null>,
    received: Arc<AtomicU64>,
}

impl End {
    fn machine(&self) -> &Machine {
        self.station.computer().machine()
    }

    fn poll(&self) {
        self.station.tunnel().adapter().poll_here(self.machine());
    }
}

impl Pair {
    /// Boots two machines of `cpus` CPUs, and sends until every packet goes the ways that `policies` ask for; `granted` if the
    /// stack may give packets of up to 64 KiB.
    pub(super) fn boot(
        world: &Arc<World>,
        driver: &Path,
        cpus: u32,
        policies: &[(Policy, u32)],
        granted: bool,
    ) -> Self {
        let network = Network::new(world);
        let parameters = policies.iter().map(|(policy, value)| (policy.name().to_owned(), *value));
        let options = Options {
            cpus,
            verified: false,
            parameters: parameters.collect(),
            choices: wsk::good_offloads()
                .chain([("GSO_IS_GRANTED".to_owned(), granted)])
                .collect(),
            ..Options::default()
        };
        let end = |number: u8| {
            let mut outer = None;
            let wrap = |host| {
                let null = Null::new(host);
                outer = Some(null.clone());
                null as Arc<dyn sim::host::Outer>
            };
            let station =
                Station::boot_behind(world, &network, number, options.clone(), driver, wrap);
            let station = station.unwrap_or_else(|error| panic!("station {number}: {error}"));
            End { station, outer: outer.expect("asked for once"), received: Arc::default() }
        };
        let (from, to) = (end(1), end(2));
        for (one, other) in [(&from, &to), (&to, &from)] {
            let peer = other.station.as_peer().expect("a key");
            one.station.set_peers(&[peer]).expect("a peer");
            one.station.set_up(true).expect("up");
        }
        let pair = Self { from, to, _network: network };
        pair.warm();
        pair
    }

    /// Sessions and flows are there once packets have gone both ways; then the queues are polled by hand.
    fn warm(&self) {
        let inner = self.to.station.inner()[0];
        for _ in 0..20 {
            assert!(
                self.from.station.endpoint().ping(inner, 56, PATIENCE).is_some(),
                "no ping came back"
            );
        }
        for end in [&self.from, &self.to] {
            let received = end.received.clone();
            let adapter = end.station.tunnel().adapter();
            adapter.on_receive(move |packets| {
                received.fetch_add(packets.len() as u64, Ordering::Relaxed);
            });
            adapter.poll_by_hand(end.machine(), true);
            end.outer.set_mode(Mode::Count);
        }
    }

    /// Sends [`PACKETS`] packets of `size` bytes: time from the transmit ring to the last send, and all of them gone.
    pub(super) fn send(&self, size: usize) -> Taken {
        self.transmit(size, true)
    }

    /// The same; with `armed` it may be sampled.
    fn transmit(&self, size: usize, armed: bool) -> Taken {
        let end = &self.from;
        let packet = self.packet(size);
        let mut left = PACKETS;
        let adapter = end.station.tunnel().adapter();
        let fill = |buffer: &mut [u8]| {
            left = left.checked_sub(1)?;
            buffer[..packet.len()].copy_from_slice(&packet);
            Some((packet.len(), 0))
        };
        let (sent, done) = (end.outer.sent(), adapter.sent().completed);
        assert_eq!(adapter.send_with(end.machine(), fill), Ok(PACKETS));
        let armed = armed.then(Armed::new);
        let (clock, begun) = (Clock::start(), Instant::now());
        loop {
            end.poll();
            if end.outer.sent() - sent >= PACKETS as u64
                && adapter.sent().completed - done == PACKETS as u64
            {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {PACKETS} were sent",
                end.outer.sent() - sent
            );
        }
        let taken = Taken { cpu: clock.elapsed(), wall: begun.elapsed() };
        drop(armed);
        taken
    }

    /// Sends `total` packets of `size` bytes, the ring filled again as it empties: time until the last of them is sent.
    pub(super) fn stream(&self, size: usize, total: u64) -> Duration {
        let end = &self.from;
        let packet = self.packet(size);
        let adapter = end.station.tunnel().adapter();
        let (sent, done) = (end.outer.sent(), adapter.sent().completed);
        let (mut queued, begun) = (0, Instant::now());
        while end.outer.sent() - sent < total || adapter.sent().completed - done < total {
            let room = PACKETS as u64 - (queued - (adapter.sent().completed - done));
            let mut left = room.min(total - queued);
            if left >= PACKETS as u64 / 4 || (left > 0 && left == total - queued) {
                let taken = adapter.send_with(end.machine(), |buffer: &mut [u8]| {
                    left = left.checked_sub(1)?;
                    buffer[..packet.len()].copy_from_slice(&packet);
                    Some((packet.len(), 0))
                });
                queued += taken.expect("an adapter that runs") as u64;
            }
            end.poll();
            if begun.elapsed() > PATIENCE {
                self.print_ways();
                panic!(
                    "{} of {total} were sent, {queued} queued, {:?}",
                    end.outer.sent() - sent,
                    adapter.sent()
                );
            }
        }
        begun.elapsed()
    }

    /// Sends as many packets of `size` bytes, in super-packets of as many as fit 64 KiB; so that there may be a few more.
    /// Returns how many there were, too.
    pub(super) fn send_super(&self, size: usize) -> (Taken, usize) {
        let end = &self.from;
        let mss = size - HEADERS;
        let each = ((MOST - HEADERS) / mss).min(MOST_SEGMENTS);
        let whole = self.packet(HEADERS + each * mss);
        let adapter = end.station.tunnel().adapter();
        let (sent, done) = (end.outer.sent(), adapter.sent().completed);
        let supers = PACKETS.div_ceil(each);
        for _ in 0..supers {
            assert_eq!(adapter.send_super(end.machine(), &whole, mss), Ok(()));
        }
        let packets = (supers * each) as u64;
        let armed = Armed::new();
        let (clock, begun) = (Clock::start(), Instant::now());
        while end.outer.sent() - sent < packets || adapter.sent().completed - done < supers as u64 {
            end.poll();
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {packets} were sent",
                end.outer.sent() - sent
            );
        }
        let taken = Taken { cpu: clock.elapsed(), wall: begun.elapsed() };
        drop(armed);
        (taken, packets as usize)
    }

    /// Receives [`PACKETS`] packets of `size` bytes: time from the first indication to the last packet's, sealing not counted.
    pub(super) fn receive(&self, size: usize) -> Taken {
        self.from.outer.set_mode(Mode::Record);
        self.transmit(size, false);
        self.from.outer.set_mode(Mode::Count);
        let datagrams = self.from.outer.take_recorded();
        let end = &self.to;
        let landing = end.outer.landing().expect("an open socket");
        let remote = SocketAddr::new(self.from.station.outer()[0], PORT);
        let batches = datagrams.chunks(BATCH);
        let mut batches: Vec<_> =
            batches.map(|batch| fill(&*landing, batch, remote, end.station.outer()[0])).collect();
        let before = end.received.load(Ordering::Relaxed);
        let count = || end.received.load(Ordering::Relaxed) - before;
        let (armed, clock, begun) = (Armed::new(), Clock::start(), Instant::now());
        for batch in &mut batches {
            landing.landed(batch);
            end.poll();
        }
        while count() < PACKETS as u64 {
            end.poll();
            assert!(begun.elapsed() < PATIENCE, "{} of {PACKETS} arrived", count());
        }
        let taken = Taken { cpu: clock.elapsed(), wall: begun.elapsed() };
        drop(armed);
        taken
    }

    /// A UDP packet of `size` bytes in all, from inside to inside.
    fn packet(&self, size: usize) -> Vec<u8> {
        let [source, destination]: [IpAddr; 2] =
            [&self.from, &self.to].map(|end| end.station.inner()[0]);
        let payload = Payload::Datagram { ports: (4000, 4001), data: vec![0x5A; size - HEADERS] };
        Packet { source, destination, payload }.to_bytes()
    }

    /// `driver!function [file:line]` of an address in the driver of the machine that sends, or that receives; none elsewhere.
    pub(super) fn driver_code(&self, address: usize) -> Option<String> {
        [&self.from, &self.to].iter().find_map(|end| {
            end.machine().is_driver_code(address).then(|| end.machine().describe(address))
        })
    }

    /// Whether the fast path and the engine that were asked for are those that were used.
    pub(super) fn print_ways(&self) {
        for (name, end) in [("sender", &self.from), ("receiver", &self.to)] {
            let block = end.station.tunnel().statistics().expect("statistics");
            let statistics = abi::statistics::Statistics::parse(&block).expect("our layout");
            let used = abi::statistics::Counter::ALL.iter().filter(|c| statistics.counter(**c) > 0);
            let used = used.map(|c| format!("{} {}", c.name(), statistics.counter(*c)));
            let lost = abi::discard::Discard::ALL.iter();
            let lost = lost.filter(|reason| statistics.discarded(**reason) > 0);
            let lost =
                lost.map(|reason| format!("{} {}", reason.name(), statistics.discarded(*reason)));
            println!("  {name}: {}", used.chain(lost).collect::<Vec<_>>().join(", "));
        }
    }

    /// Takes both machines down; nothing may be left.
    pub(super) fn shut_down(self) {
        for end in [self.from, self.to] {
            end.station.tunnel().adapter().poll_by_hand(end.machine(), false);
            end.outer.set_mode(Mode::Pass);
            let leaks = end.station.shut_down().unwrap_or_else(|error| panic!("{error}"));
            assert!(leaks.is_empty(), "{} things were left behind", leaks.len());
        }
    }
}
