//! Super-packets: whoever cuts them, what arrives is the same, byte for byte and in order.
//!
//! ```text
//!   64 KiB of TCP or UDP ──┬── granted: as it is ────► ring ── cut by the driver ──┬──► the other host
//!                          └── not: cut by tcpip ────► ring ────── sealed ─────────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::link::Link;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::nt::netcx::segmentation::cut;

use crate::machines::accounting::Ledger;
use crate::machines::{self, PATIENCE, with_pair_of};

const MTU: usize = 1420;

/// A machine that is given packets to be cut, or is not.
pub(crate) fn granted(options: Options, granted: bool) -> Options {
    let mut options = options;
    options.choices.insert("GSO_IS_GRANTED".to_owned(), granted);
    options
}

/// Sockets only: between callouts and sockets order is as either hands over.
fn sockets() -> Options {
    machines::with_policies(&[(Policy::FastPath, 0), (Policy::SendEngine, 0)])
}

/// A packet to be cut, and into what.
pub(crate) struct Super {
    packet: Vec<u8>,
    mss: usize,
}

impl Super {
    /// One from `from` to `to` whose segments are as long as the MTU, with this much payload.
    pub(crate) fn new(
        from: IpAddr,
        to: IpAddr,
        tcp: bool,
        payload: impl Fn(usize) -> usize,
    ) -> Self {
        let transport = if tcp { 20 } else { 8 };
        let mss = MTU - transport - if from.is_ipv4() { 20 } else { 40 };
        let payload = payload(mss);
        let (length, protocol) = ((transport + payload) as u16, if tcp { 6 } else { 17 });
        let mut packet = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [high, low] = (length + 20).to_be_bytes();
                let mut ip = vec![0x45, 0, high, low, 0, 9, 0x40, 0, 64, protocol, 0, 0];
                ip.extend([from.octets(), to.octets()].concat());
                ip
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let [high, low] = length.to_be_bytes();
                let mut ip = vec![0x60, 0, 0, 0, high, low, protocol, 64];
                ip.extend([from.octets(), to.octets()].concat());
                ip
            }
            _ => unreachable!("of one family"),
        };
        packet.extend([0x30, 0x39, 0, 80]);
        if tcp {
            // CWR, ACK, PSH and FIN; the sequence number wraps in the packet.
            packet.extend([0xFF, 0xFF, 0xF0, 0, 0, 0, 0, 7, 0x50, 0x99, 2, 0, 0, 1, 0, 0]);
        } else {
            packet.extend([length.to_be_bytes(), [0, 1]].concat());
        }
        packet.extend((0..payload).map(|n| ((n * 31) >> 4) as u8));
        Self { packet, mss }
    }

    /// The same, but a router may cut what becomes of it (IPv4).
    pub(crate) fn without_df(mut self) -> Self {
        self.packet[6] = 0;
        self
    }

    pub(crate) fn packet(&self) -> &[u8] {
        &self.packet
    }

    pub(crate) fn segments(&self) -> Vec<Vec<u8>> {
        self.segments_of(self.mss)
    }

    /// The same, of another length.
    pub(crate) fn segments_of(&self, mss: usize) -> Vec<Vec<u8>> {
        cut(&self.packet, mss).unwrap()
    }

    pub(crate) fn send(&self, from: &Station) {
        while !from.endpoint().send_super(&self.packet, self.mss) {
            from.computer().machine().world().sleep(Duration::from_micros(50));
        }
    }
}

/// Both families and protocols, from alpha to beta.
pub(crate) fn each_kind(pair: &Pair) -> impl Iterator<Item = (IpAddr, IpAddr, bool)> {
    let ends = pair.alpha.inner().into_iter().zip(pair.beta.inner());
    let ends: Vec<(IpAddr, IpAddr)> = ends.collect();
    ends.into_iter().flat_map(|(from, to)| [(from, to, true), (from, to, false)])
}

/// Sends it, and looks at what arrives.
fn arrives(pair: &Pair, whole: &Super, what: &str) {
    whole.send(&pair.alpha);
    for (number, expected) in whole.segments().into_iter().enumerate() {
        let packet = pair.beta.endpoint().take_packet(PATIENCE);
        assert_eq!(packet, Some(expected), "{what}: segment {number}");
    }
}

/// What it is, and the payload it has for a segment size.
type Size = (&'static str, fn(usize) -> usize);

/// The lengths at the edges; 64 KiB is what fits an IP header.
fn sizes() -> [Size; 7] {
    [
        ("one byte", |_| 1),
        ("one segment", |mss| mss),
        ("one byte more", |mss| mss + 1),
        ("three segments", |mss| 3 * mss),
        ("three, and a byte", |mss| 3 * mss + 1),
        ("a chunk and one", |mss| 33 * mss),
        ("the most", |_| 65_535 - 120),
    ]
}

#[test]
fn what_arrives_is_what_software_would_have_sent() {
    for (seed, driver_cuts) in [(1, true), (2, true), (3, false)] {
        with_pair_of(seed, &granted(sockets(), driver_cuts), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            pair.beta.endpoint().keep_packets(true);
            let before = Ledger::of(&pair.alpha);
            let (mut supers, mut segments) = (0, 0);
            for (from, to, tcp) in each_kind(pair) {
                for (name, size) in sizes() {
                    let whole = Super::new(from, to, tcp, size);
                    arrives(pair, &whole, &format!("seed {seed}, {from}, TCP {tcp}, {name}"));
                    let count = whole.segments().len() as u64;
                    // What is one segment is not given to be cut.
                    supers += u64::from(count > 1);
                    segments += if count > 1 { count } else { 0 };
                }
            }
            let after = Ledger::of(&pair.alpha);
            let counted = |counter| after.counter(counter) - before.counter(counter);
            let expected = if driver_cuts { [supers, segments] } else { [0, 0] };
            let cut = [Counter::SuperPacketsOut, Counter::SegmentsOut].map(counted);
            assert_eq!(cut, expected, "seed {seed}");
        });
    }
}

#[test]
fn without_a_session_the_segments_wait() {
    for seed in 1..=3 {
        with_pair_of(seed, &granted(sockets(), true), |pair| {
            pair.beta.endpoint().keep_packets(true);
            let kinds: Vec<_> = each_kind(pair).collect();
            let all = kinds
                .iter()
                .map(|(from, to, tcp)| Super::new(*from, *to, *tcp, |mss| 30 * mss + 5));
            let all: Vec<Super> = all.collect();
            all.iter().for_each(|whole| whole.send(&pair.alpha));
            let expected: Vec<Vec<u8>> = all.iter().flat_map(Super::segments).collect();
            assert_eq!(expected.len(), 4 * 31, "fewer than may wait");
            for (number, expected) in expected.iter().enumerate() {
                let packet = pair.beta.endpoint().take_packet(PATIENCE);
                assert_eq!(packet.as_ref(), Some(expected), "seed {seed}: segment {number}");
            }
            let ledger = Ledger::of(&pair.alpha);
            assert_eq!(ledger.counter(Counter::PacketsStaged), 4 * 31, "{ledger}");
            assert_eq!(ledger.counter(Counter::SuperPacketsOut), 4, "{ledger}");
        });
    }
}

#[test]
fn more_than_may_wait_is_counted_by_the_segment() {
    with_pair_of(5, &granted(sockets(), true), |pair| {
        machines::remove_peer(&pair.alpha, &pair.beta.public_key().unwrap());
        let (from, to, _) = each_kind(pair).next().unwrap();
        let whole = Super::new(from, to, true, |mss| 40 * mss);
        whole.send(&pair.alpha);
        pair.world.sleep(Duration::from_millis(10));
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.discarded(Discard::NoPeer), 1, "refused whole\n{ledger}");
        pair.alpha.set_peers(&[pair.beta.as_peer().unwrap()]).unwrap();
        pair.network.set_weather(Link { loss_per_mille: 1000, ..Link::default() });
        (0..5).for_each(|_| whole.send(&pair.alpha));
        pair.world.sleep(Duration::from_millis(10));
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.discarded(Discard::StagedFull), 5 * 40 - 128, "{ledger}");
    });
}

#[test]
fn the_adapter_goes_down_in_between() {
    for seed in 1..=4 {
        with_pair_of(seed, &granted(Options { cpus: 4, ..sockets() }, true), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            pair.beta.endpoint().keep_packets(true);
            let kinds: Vec<_> = each_kind(pair).collect();
            for round in 0..3 {
                for (from, to, tcp) in kinds.iter().chain(&kinds) {
                    Super::new(*from, *to, *tcp, |_| 60_000).send(&pair.alpha);
                }
                pair.world.sleep(Duration::from_micros(100 * round));
                pair.alpha.set_up(false).unwrap();
                pair.alpha.set_up(true).unwrap();
            }
        });
    }
}

#[test]
fn what_no_stack_sends_is_refused_whole_and_counted() {
    with_pair_of(1, &granted(sockets(), true), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.beta.endpoint().keep_packets(true);
        let (adapter, machine) = (pair.alpha.tunnel().adapter(), pair.alpha.computer().machine());
        let of = |ipv6: bool, tcp: bool| {
            let (from, to) =
                (pair.alpha.inner()[usize::from(ipv6)], pair.beta.inner()[usize::from(ipv6)]);
            Super::new(from, to, tcp, |_| 5000).packet
        };
        let (tcp4, udp4, tcp6) = (of(false, true), of(false, false), of(true, true));
        let (uncut, oversize) = (Discard::Unsegmentable, Discard::Oversize);
        for (packet, at, value, mss, reason, why) in [
            (&tcp4, 33, 0x02, 1000, uncut, "SYN"),
            (&tcp4, 3, 1, 1000, uncut, "another length"),
            (&tcp4, 6, 0x20, 1000, uncut, "a fragment"),
            (&tcp4, 9, 1, 1000, uncut, "ICMP"),
            (&tcp4, 0, 0x4F, 1000, uncut, "options over the TCP header"),
            (&tcp6, 6, 0, 1000, uncut, "an extension header"),
            (&tcp6, 6, 44, 1000, uncut, "a fragment header"),
            (&udp4, 0, 0x45, 1, uncut, "5000 segments"),
            (&udp4, 0, 0x45, 1393, oversize, "a byte more than the MTU"),
            (&udp4, 0, 0x45, (1 << 20) - 1, oversize, "one segment"),
            (&udp4, 0, 0x55, 1000, uncut, "version 5"),
        ] {
            let mut packet = packet.clone();
            packet[at] = value;
            let before = Ledger::of(&pair.alpha);
            adapter.send_unchecked(machine, &packet, mss).unwrap();
            pair.world.sleep(Duration::from_millis(5));
            let after = Ledger::of(&pair.alpha);
            assert_eq!(after.discarded(reason) - before.discarded(reason), 1, "{why}\n{after}");
            let out = Counter::PacketsOut;
            assert_eq!(after.counter(out) - before.counter(out), 1, "{why}: one packet");
        }
        for len in 0..60 {
            adapter.send_unchecked(machine, &tcp4[..len], 1000).unwrap();
        }
        pair.world.sleep(Duration::from_millis(5));
        assert!(pair.beta.endpoint().take_packet(Duration::from_millis(5)).is_none());
    });
}

#[test]
fn policy_declares_nothing() {
    let mut options = granted(sockets(), true);
    options.parameters.insert(Policy::Segmentation.name().to_owned(), 0);
    with_pair_of(1, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.beta.endpoint().keep_packets(true);
        for (from, to, tcp) in each_kind(pair) {
            arrives(pair, &Super::new(from, to, tcp, |mss| 9 * mss + 1), "cut before the ring");
        }
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.counter(Counter::SuperPacketsOut), 0, "{ledger}");
    });
}

/// Headers and payload of a segment lie in different places, and are sealed from there.
#[test]
fn a_segment_is_written_once() {
    let options = granted(Options { verified: false, ..sockets() }, true);
    with_pair_of(7, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.beta.endpoint().keep_packets(true);
        for (from, to, tcp) in each_kind(pair) {
            let (written, sent) = (Counter::PayloadWrittenOut, pair.network.carried().bytes);
            let before = Ledger::of(&pair.alpha).counter(written);
            let whole = Super::new(from, to, tcp, |mss| 45 * mss);
            arrives(pair, &whole, "45 segments");
            let written = Ledger::of(&pair.alpha).counter(written) - before;
            let (text, datagrams) = (45 * MTU as u64, pair.network.carried().bytes - sent);
            assert_eq!(datagrams, text + 45 * 32);
            assert_eq!(written, datagrams, "segments, outer headers and tags");
        }
    });
}

#[test]
fn four_cpus_keep_the_order() {
    let mut dealt = 0;
    for seed in 1..=4 {
        with_pair_of(seed, &granted(Options { cpus: 4, ..sockets() }, true), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            pair.beta.endpoint().keep_packets(true);
            let (from, to, _) = each_kind(pair).next().unwrap();
            let all: Vec<Super> = (0..12)
                .map(|number| Super::new(from, to, number % 3 == 0, |_| 64_000 - 37 * number))
                .collect();
            all.iter().for_each(|whole| whole.send(&pair.alpha));
            for (number, expected) in all.iter().flat_map(Super::segments).enumerate() {
                let packet = pair.beta.endpoint().take_packet(PATIENCE);
                assert_eq!(packet, Some(expected), "seed {seed}: segment {number}");
            }
            dealt += Ledger::of(&pair.alpha).counter(Counter::ChunksDealt);
        });
    }
    assert!(dealt > 0, "some were sealed elsewhere");
}
