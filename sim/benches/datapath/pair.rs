//! Two machines with a tunnel, measured packet by packet in the calling thread.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::policy::Policy;
use sim::host::polled::{HEADERS, Polled};
use sim::nt::machine::Options;
use sim::nt::wsk;
use sim::verifier::schedule::World;

use super::sample::{Armed, Clock};

/// Packets of one sample.
pub(super) const PACKETS: usize = 1024;
/// Datagrams that the network card hands over at once.
const BATCH: usize = 64;
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

/// Two machines that know each other, and the network they do without while they are measured.
pub(super) struct Pair(Polled);

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
        let parameters = policies.iter().map(|(policy, value)| (policy.name().to_owned(), *value));
        let options = Options {
            cpus,
            verified: false,
            parameters: parameters.collect(),
            choices: wsk::good_offloads()
                .chain(
                    ["GSO_IS_GRANTED", "RX_CHECKSUM_IS_GRANTED"]
                        .map(|name| (name.to_owned(), granted)),
                )
                .collect(),
            ..Options::default()
        };
        Self::of(Polled::boot(world, &options, driver))
    }

    /// Two that are there.
    pub(super) fn of(ends: Polled) -> Self {
        Self(ends)
    }

    /// The two.
    pub(super) fn ends(&self) -> &Polled {
        &self.0
    }

    /// Sends [`PACKETS`] packets of `size` bytes: time from the transmit ring to the last send, and all of them gone.
    pub(super) fn send(&self, size: usize) -> Taken {
        self.transmit(size, true)
    }

    /// The same; with `armed` it may be sampled.
    fn transmit(&self, size: usize, armed: bool) -> Taken {
        let put = || assert_eq!(self.0.put(&self.0.packet(size), PACKETS), PACKETS);
        self.until_sent(put, PACKETS as u64, PACKETS as u64, armed)
    }

    /// Polls until what `put` puts into the ring is sent, so many datagrams, and so many of its slots are back.
    fn until_sent(&self, put: impl FnOnce(), datagrams: u64, slots: u64, armed: bool) -> Taken {
        let (end, adapter) = (&self.0.from, self.0.from.adapter());
        let (sent, done) = (end.outer.sent(), adapter.sent().completed);
        put();
        let armed = armed.then(Armed::new);
        let (clock, begun) = (Clock::start(), Instant::now());
        loop {
            end.poll();
            let gone = end.outer.sent() - sent;
            if gone >= datagrams && adapter.sent().completed - done >= slots {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{gone} of {datagrams} were sent");
        }
        let taken = Taken { cpu: clock.elapsed(), wall: begun.elapsed() };
        drop(armed);
        taken
    }

    /// Sends `total` packets of `size` bytes, the ring filled again as it empties: time until the last of them is sent.
    pub(super) fn stream(&self, size: usize, total: u64) -> Duration {
        let packet = self.0.packet(size);
        let (end, adapter) = (&self.0.from, self.0.from.adapter());
        let (sent, done) = (end.outer.sent(), adapter.sent().completed);
        let (mut queued, begun) = (0, Instant::now());
        while end.outer.sent() - sent < total || adapter.sent().completed - done < total {
            let room = PACKETS as u64 - (queued - (adapter.sent().completed - done));
            let left = room.min(total - queued);
            if left >= PACKETS as u64 / 4 || (left > 0 && left == total - queued) {
                queued += self.0.put(&packet, left as usize) as u64;
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
        let mss = size - HEADERS;
        let each = ((MOST - HEADERS) / mss).min(MOST_SEGMENTS);
        let whole = self.0.packet(HEADERS + each * mss);
        let supers = PACKETS.div_ceil(each);
        let put = || {
            let end = &self.0.from;
            for _ in 0..supers {
                assert_eq!(end.adapter().send_super(end.machine(), &whole, mss), Ok(()));
            }
        };
        let packets = supers * each;
        (self.until_sent(put, packets as u64, supers as u64, true), packets)
    }

    /// Receives [`PACKETS`] packets of `size` bytes: time from the first indication to the last packet's, sealing not counted.
    pub(super) fn receive(&self, size: usize) -> Taken {
        let end = &self.0.to;
        let before = end.received();
        let count = || end.received() - before;
        let mut taken = None;
        let send = || {
            let _sealing_is_not_counted = self.transmit(size, false);
        };
        self.0.land(send, BATCH, |body| {
            let (armed, clock, begun) = (Armed::new(), Clock::start(), Instant::now());
            body();
            while count() < PACKETS as u64 {
                end.poll();
                assert!(begun.elapsed() < PATIENCE, "{} of {PACKETS} arrived", count());
            }
            taken = Some(Taken { cpu: clock.elapsed(), wall: begun.elapsed() });
            drop(armed);
        });
        taken.expect("measured once")
    }

    /// `driver!function [file:line]` of an address in the driver of the machine that sends, or that receives; none elsewhere.
    pub(super) fn driver_code(&self, address: usize) -> Option<String> {
        [&self.0.from, &self.0.to].iter().find_map(|end| {
            end.machine().is_driver_code(address).then(|| end.machine().describe(address))
        })
    }

    /// Whether the fast path and the engine that were asked for are those that were used.
    pub(super) fn print_ways(&self) {
        for (name, end) in [("sender", &self.0.from), ("receiver", &self.0.to)] {
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
        self.0.shut_down();
    }
}
