//! Packets that are longer than the way to their peer takes: who is told, what is cut, and what TCP announces.
//!
//! ```text
//!   inner 1420 ──► alpha ──► card, MTU 1400 ──► beta        1400 - 60 (IPv4) or - 80 (IPv6) is what fits
//!      ▲            │
//!      └── "1340" ──┘  if it may not be cut; else its datagram is, by the stack
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::checksum::{fold, sum};
use sim::host::memory::CARD;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;

use super::segmentation::{Super, granted};
use crate::machines::accounting::Ledger;
use crate::machines::{self, PATIENCE, with_pair_of};

/// Sets the MTU of a station's network card; whoever asked is told.
fn set_card(station: &Station, mtu: u32) {
    station.host().change(|tables| {
        let card = tables.interfaces.iter_mut().find(|interface| interface.index == CARD);
        card.unwrap().mtu = mtu;
    });
}

/// Has alpha reach beta by its IPv4 or IPv6 address, over a card of this MTU, and wait until that is known.
fn reach_by(pair: &Pair, ipv6: bool, mtu: u32) {
    let mut peer = pair.beta.as_peer().unwrap();
    peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[usize::from(ipv6)], pair.beta.port()));
    pair.alpha.set_peers(&[peer]).unwrap();
    set_card(&pair.alpha, mtu);
    pair.world.sleep(Duration::from_millis(20));
    // The first packet by an old way has a worker look, and so has the first by the way that its answer tells.
    for _ in 0..2 {
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_millis(20));
    }
}

/// A UDP packet of `len` bytes, with DF if it is IPv4 and must not be cut.
fn udp(from: IpAddr, to: IpAddr, len: usize, may_be_cut: bool) -> Vec<u8> {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let data = (0..len - headers).map(|at| (at * 11) as u8).collect();
    let payload = Payload::Datagram { ports: (7, 7), data };
    let mut packet = Packet { source: from, destination: to, payload }.to_bytes();
    if may_be_cut && packet[0] == 0x45 {
        packet[6] = 0;
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
    }
    packet
}

/// Checks that this is the answer to `packet`, and returns the MTU it tells.
fn told(answer: &[u8], packet: &[u8]) -> usize {
    let ipv6 = packet[0] >> 4 == 6;
    let (at, most) = if ipv6 { (40, 1280) } else { (20, 576) };
    assert_eq!(answer.len(), (at + 8 + packet.len()).min(most));
    assert_eq!(answer[at + 8..], packet[..answer.len() - at - 8], "it quotes the packet");
    if ipv6 {
        assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]));
        assert_eq!((answer[6], &answer[40..42]), (58, &[2, 0][..]));
        let length = ((answer.len() - 40) as u32).to_be_bytes();
        let pseudo = [&answer[8..40], &length, &[0, 0, 0, 58]].concat();
        assert_eq!(fold(sum(&pseudo) + sum(&answer[40..])), 0xFFFF);
    } else {
        assert_eq!((&answer[12..16], &answer[16..20]), (&packet[16..20], &packet[12..16]));
        assert_eq!((answer[9], &answer[20..22]), (1, &[3, 4][..]));
        assert_eq!([fold(sum(&answer[..20])), fold(sum(&answer[20..]))], [0xFFFF; 2]);
    }
    u32::from_be_bytes(*answer[at + 4..].first_chunk().unwrap()) as usize
}

/// How many more of them alpha counts now.
fn more(pair: &Pair, before: &Ledger, counter: Counter) -> u64 {
    Ledger::of(&pair.alpha).counter(counter) - before.counter(counter)
}

fn options() -> Options {
    machines::verified("machine")
}

/// The way's MTU is followed, by notification: to the byte, down and up, over either family.
#[test]
fn who_must_not_be_cut_is_told_what_fits() {
    for seed in 1..=3 {
        with_pair_of(seed, &options(), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let mut told_packets = 0;
            for (outer6, card) in
                [(false, 1400), (true, 1400), (false, 1366), (true, 1500), (true, 1399)]
            {
                reach_by(pair, outer6, card);
                let fits = (card as usize - if outer6 { 80 } else { 60 }).min(1420);
                for endpoint in [&pair.alpha, &pair.beta].map(Station::endpoint) {
                    endpoint.keep_packets(true);
                }
                let before = pair.network.carried();
                for (from, to) in pair.alpha.inner().into_iter().zip(pair.beta.inner()) {
                    let packet = udp(from, to, fits, false);
                    assert!(pair.alpha.endpoint().send_super(&packet, 0));
                    assert_eq!(pair.beta.endpoint().take_packet(PATIENCE), Some(packet));
                    for len in [fits + 1, 1420].into_iter().filter(|_| fits < 1420) {
                        let packet = udp(from, to, len, false);
                        assert!(pair.alpha.endpoint().send_super(&packet, 0));
                        let answer = pair.alpha.endpoint().take_packet(PATIENCE).unwrap();
                        assert_eq!(told(&answer, &packet), fits, "seed {seed}, {outer6}, {card}");
                        told_packets += 1;
                    }
                }
                let after = pair.network.carried();
                let [sent, cut] = [after.sent - before.sent, after.fragments - before.fragments];
                assert_eq!((sent, cut), (2, 0), "seed {seed}: {card}, padding included");
                for endpoint in [&pair.alpha, &pair.beta].map(Station::endpoint) {
                    endpoint.keep_packets(false);
                }
            }
            let ledger = Ledger::of(&pair.alpha);
            assert_eq!(ledger.discarded(Discard::TooBig), told_packets, "{ledger}");
            assert_eq!(ledger.counter(Counter::TooBigTold), told_packets, "{ledger}");
        });
    }
}

/// Beta learned where alpha is from its packets, and knows the way all the same.
#[test]
fn a_learned_way_is_measured_too() {
    with_pair_of(4, &options(), |pair| {
        set_card(&pair.beta, 1300);
        let mut peer = pair.alpha.as_peer().unwrap();
        machines::remove_peer(&pair.beta, &peer.public_key);
        peer.endpoint = None;
        pair.beta.set_peers(&[peer]).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_millis(20));
        pair.beta.endpoint().keep_packets(true);
        let packet = udp(pair.beta.inner()[0], pair.alpha.inner()[0], 1241, false);
        assert!(pair.beta.endpoint().send_super(&packet, 0));
        let answer = pair.beta.endpoint().take_packet(PATIENCE).unwrap();
        assert_eq!(told(&answer, &packet), 1240);
    });
}

/// IPv4 without DF, and IPv6 of no more than IPv6 promises.
// spec-test: WG 13-b
#[test]
fn what_may_be_cut_is_sent_and_cut_outside() {
    with_pair_of(5, &options(), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        reach_by(pair, false, 700);
        pair.beta.endpoint().keep_packets(true);
        let before = (pair.network.carried(), Ledger::of(&pair.alpha));
        let (from, to) = (pair.alpha.inner(), pair.beta.inner());
        for packet in [
            udp(from[0], to[0], 1420, true),
            udp(from[0], to[0], 641, true),
            udp(from[1], to[1], 1280, false),
            udp(from[1], to[1], 641, false),
        ] {
            assert!(pair.alpha.endpoint().send_super(&packet, 0));
            assert_eq!(pair.beta.endpoint().take_packet(PATIENCE), Some(packet));
        }
        let cut = pair.network.carried().fragments - before.0.fragments;
        assert_eq!(cut, 3 + 2 + 2 + 2);
        assert_eq!(more(pair, &before.1, Counter::OversizeCut), 4);
        pair.alpha.endpoint().keep_packets(true);
        for (packet, fits) in
            [(udp(from[1], to[1], 1281, false), 1280), (udp(from[0], to[0], 641, false), 640)]
        {
            assert!(pair.alpha.endpoint().send_super(&packet, 0));
            let answer = pair.alpha.endpoint().take_packet(PATIENCE).unwrap();
            assert_eq!(told(&answer, &packet), fits);
        }
        assert_eq!(more(pair, &before.1, Counter::TooBigTold), 2);
        for endpoint in [&pair.alpha, &pair.beta].map(Station::endpoint) {
            endpoint.keep_packets(false);
        }
        reach_by(pair, false, 500);
        pair.alpha.endpoint().keep_packets(true);
        let packet = udp(from[0], to[0], 577, false);
        assert!(pair.alpha.endpoint().send_super(&packet, 0));
        let answer = pair.alpha.endpoint().take_packet(PATIENCE).unwrap();
        assert_eq!(told(&answer, &packet), 576, "no less than IPv4 promises");
    });
}

/// Errors, fragments and packets to many are not answered; and not everything is at once.
#[test]
fn not_everything_is_answered() {
    with_pair_of(6, &options(), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let mut peer = pair.beta.as_peer().unwrap();
        for many in ["224.0.0.0", "ff00::"] {
            let many: IpAddr = many.parse().unwrap();
            let length = if many.is_ipv4() { 4 } else { 8 };
            peer.allowed_ips.push(sim::host::routes::Prefix::new(many, length));
        }
        reach_by(pair, false, 1400);
        pair.alpha.set_peers(&[peer]).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_millis(20));
        pair.alpha.endpoint().keep_packets(true);
        let (from, to) = (pair.alpha.inner(), pair.beta.inner());
        let changed = |packet: Vec<u8>, changes: &[(usize, u8)]| {
            let mut packet = packet;
            changes.iter().for_each(|(at, value)| packet[*at] = *value);
            packet
        };
        let [v4, v6] = [0, 1].map(|family: usize| udp(from[family], to[family], 1400, false));
        let silent = [
            changed(v4.clone(), &[(9, 1), (20, 3)]),
            changed(v4.clone(), &[(9, 1), (20, 11)]),
            changed(v4.clone(), &[(7, 1)]),
            changed(v4.clone(), &[(16, 224)]),
            changed(v4.clone(), &[(12, 0)]),
            changed(v6.clone(), &[(6, 58), (40, 2)]),
            changed(v6.clone(), &[(6, 44), (40, 17), (42, 1), (43, 0)]),
            changed(v6.clone(), &[(24, 0xFF)]),
        ];
        let before = Ledger::of(&pair.alpha);
        for packet in &silent {
            assert!(pair.alpha.endpoint().send_super(packet, 0));
        }
        assert_eq!(pair.alpha.endpoint().take_packet(Duration::from_millis(50)), None);
        assert_eq!(more(pair, &before, Counter::TooBigUntold), silent.len() as u64);
        assert_eq!(more(pair, &before, Counter::TooBigTold), 0);
        pair.world.sleep(Duration::from_secs(1));
        let before = Ledger::of(&pair.alpha);
        for _ in 0..200 {
            assert!(pair.alpha.endpoint().send_super(&v4, 0));
        }
        pair.world.sleep(Duration::from_millis(20));
        let told = more(pair, &before, Counter::TooBigTold);
        assert!((50..=71).contains(&told), "50 at once and one a millisecond: {told}");
        assert_eq!(told + more(pair, &before, Counter::TooBigUntold), 200);
        let discarded = Ledger::of(&pair.alpha).discarded(Discard::TooBig);
        assert_eq!(discarded - before.discarded(Discard::TooBig), 200);
    });
}

/// Segments of TCP become as long as the way takes; datagrams of UDP are told, or cut outside.
#[test]
fn packets_to_be_cut_are_cut_for_the_way() {
    for seed in 1..=2 {
        let options = granted(machines::with_policies(&[(Policy::FastPath, 0)]), true);
        with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            reach_by(pair, false, 1340);
            for endpoint in [&pair.alpha, &pair.beta].map(Station::endpoint) {
                endpoint.keep_packets(true);
            }
            for (from, to, tcp) in super::segmentation::each_kind(pair) {
                let before = (pair.network.carried(), Ledger::of(&pair.alpha));
                let whole = Super::new(from, to, tcp, |mss| 5 * mss + 7);
                whole.send(&pair.alpha);
                if tcp {
                    let headers = if from.is_ipv4() { 40 } else { 60 };
                    for expected in whole.segments_of(1280 - headers) {
                        assert_eq!(pair.beta.endpoint().take_packet(PATIENCE), Some(expected));
                    }
                    assert_eq!(pair.network.carried().fragments, before.0.fragments);
                    continue;
                }
                let answer = pair.alpha.endpoint().take_packet(PATIENCE).unwrap();
                let mut first = whole.segments().remove(0);
                // What is told is the first datagram, but for its checksum.
                let at = if from.is_ipv4() { 20 } else { 40 };
                first[at + 6..at + 8].copy_from_slice(&answer[2 * at + 8 + 6..2 * at + 8 + 8]);
                assert_eq!(told(&answer, &first), 1280);
                assert_eq!(more(pair, &before.1, Counter::TooBigTold), 1);
            }
            let (from, to, _) = super::segmentation::each_kind(pair).next().unwrap();
            let before = (pair.network.carried(), Ledger::of(&pair.alpha));
            let whole = Super::new(from, to, false, |mss| 5 * mss + 7).without_df();
            whole.send(&pair.alpha);
            for expected in whole.segments() {
                assert_eq!(pair.beta.endpoint().take_packet(PATIENCE), Some(expected));
            }
            assert_eq!(pair.network.carried().fragments - before.0.fragments, 2 * 5);
            assert_eq!(more(pair, &before.1, Counter::OversizeCut), 1);
        });
    }
}

/// A SYN, with its checksum; the number it announces.
fn syn(from: IpAddr, to: IpAddr, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let options = [1, 2, 4, high, low, 4, 2, 0];
    let mut whole = Super::new(from, to, true, |_| 0).packet().to_vec();
    let at = if from.is_ipv4() { 20 } else { 40 };
    (whole[at + 12], whole[at + 13]) = (0x70, 0x02);
    whole.extend(options);
    let length = (whole.len() - at) as u16;
    let (field, value) = if at == 20 { (2, length + 20) } else { (4, length) };
    whole[field..field + 2].copy_from_slice(&value.to_be_bytes());
    if at == 20 {
        whole[10..12].fill(0);
        let checksum = !fold(sum(&whole[..20]));
        whole[10..12].copy_from_slice(&checksum.to_ne_bytes());
    }
    whole[at + 16..at + 18].fill(0);
    let addresses = if at == 20 { 12..20 } else { 8..40 };
    let pseudo = [&whole[addresses], &[0, 6], &length.to_be_bytes()].concat();
    let checksum = !fold(sum(&pseudo) + sum(&whole[at..]));
    whole[at + 16..at + 18].copy_from_slice(&checksum.to_ne_bytes());
    whole
}

/// Both ways, in every shape of network: nobody announces more than the way takes.
#[test]
fn what_tcp_announces_is_lowered_both_ways() {
    for (seed, clamps) in [(1, true), (2, true), (3, false)] {
        let options = machines::with_policy(Policy::MssClamp, clamps.into());
        with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            reach_by(pair, false, 1360);
            for endpoint in [&pair.alpha, &pair.beta].map(Station::endpoint) {
                endpoint.keep_packets(true);
            }
            let mut lowered = 0;
            // Alpha's way takes 1300 bytes, beta's all. Beta pads to a multiple of 16, of which 1296 is one.
            for family in [0, 1] {
                let headers = if family == 0 { 40 } else { 60 };
                let (a, b) = (pair.alpha.inner()[family], pair.beta.inner()[family]);
                for (from, to, outward) in
                    [(&pair.alpha, &pair.beta, true), (&pair.beta, &pair.alpha, false)]
                {
                    let (source, destination) = if outward { (a, b) } else { (b, a) };
                    for (said, heard) in [
                        (1460, 1296 - headers),
                        (1296 - headers + 1, 1296 - headers),
                        (1296 - headers, 1296 - headers),
                        (536, 536),
                    ] {
                        let packet = syn(source, destination, said);
                        assert!(from.endpoint().send_super(&packet, 0));
                        let heard = if clamps { heard } else { said };
                        let expected = syn(source, destination, heard);
                        let got = to.endpoint().take_packet(PATIENCE);
                        assert_eq!(got, Some(expected), "seed {seed}, from {source}: {said}");
                        lowered += u64::from(said != heard);
                    }
                }
            }
            // Beta lowers 1460 to what fits the adapter before alpha sees it.
            let ledger = Ledger::of(&pair.alpha);
            assert_eq!(ledger.counter(Counter::MssLowered), lowered, "{ledger}");
        });
    }
}

/// The adapter's own MTU: as long as the network takes, if policy says so.
#[test]
fn an_adapter_may_have_another_mtu() {
    for (mtu, granted_segments) in [(1968, true), (1968, false), (576, true), (1300, false)] {
        let options = granted(machines::with_policy(Policy::Mtu, mtu), granted_segments);
        with_pair_of(1, &options, |pair| {
            assert_eq!(pair.alpha.tunnel().adapter().mtu(), mtu);
            machines::ping(&pair.alpha, &pair.beta);
            for ipv6 in [false, true] {
                reach_by(pair, ipv6, 2048);
                pair.beta.endpoint().keep_packets(true);
                let before = pair.network.carried();
                for _ in 0..40 {
                    let (from, to) = (pair.alpha.inner()[0], pair.beta.inner()[0]);
                    let packet = udp(from, to, mtu as usize, false);
                    while !pair.alpha.endpoint().send_super(&packet, 0) {
                        pair.world.sleep(Duration::from_micros(50));
                    }
                }
                for _ in 0..40 {
                    let packet = pair.beta.endpoint().take_packet(PATIENCE);
                    assert_eq!(packet.map(|packet| packet.len()), Some(mtu as usize));
                }
                assert_eq!(pair.network.carried().fragments, before.fragments);
                pair.beta.endpoint().keep_packets(false);
            }
        });
    }
}
