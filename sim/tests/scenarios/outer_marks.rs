//! What is written on the outside of datagrams, and what is read there: how long they are, and the bits of ECN and DSCP.
//!
//! ```text
//!   inner ECT(0) ──► alpha ── outer ECT(0) ──► a router that is full ── CE ──► beta ──► inner CE
//!   inner CE     ──► alpha ── outer ECT(0) ──────────────────────────────────► beta ──► inner CE
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use sim::host::memory::link::Link;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{Pair, Station};
use sim::host::memory::{CARD, Network};

use crate::machines::accounting::Ledger;
use crate::machines::{self, PATIENCE, with_pair_of};

/// Every way out and in there is.
const WAYS: [(u32, u32); 4] = [(0, 0), (1, 0), (1, 1), (1, 2)];

/// Of a datagram: its type, TOS or traffic class, bytes of payload, and IP packets.
type Marks = (u8, u8, usize, usize);

/// What `from` sends.
fn watch(network: &Network, from: &Station) -> Arc<Mutex<Vec<Marks>>> {
    let (seen, ends) = (Arc::new(Mutex::new(Vec::new())), from.outer());
    let keep = seen.clone();
    network.tap(move |datagram| {
        if ends.contains(&datagram.from.ip()) {
            let (kind, class) = (datagram.payload[0], datagram.traffic_class);
            let marks = (kind, class, datagram.payload.len(), datagram.packets);
            keep.lock().unwrap().push(marks);
        }
    });
    seen
}

/// A packet with this TOS or traffic class, which no checksum of a transport covers.
fn marked(from: IpAddr, to: IpAddr, class: u8, size: usize) -> Vec<u8> {
    let payload = Payload::Datagram { ports: (7, 7), data: vec![class; size] };
    let mut packet = Packet { source: from, destination: to, payload }.to_bytes();
    set_class(&mut packet, class);
    packet
}

/// Writes it, and a checksum added up anew.
fn set_class(packet: &mut [u8], class: u8) {
    if packet[0] >> 4 == 6 {
        (packet[0], packet[1]) = (0x60 | class >> 4, class << 4);
        return;
    }
    packet[1] = class;
    packet[10..12].fill(0);
    let sum = packet[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = sum.sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
}

/// Has alpha reach beta by its IPv4 or IPv6 address.
fn reach_by(pair: &Pair, ipv6: bool) {
    let mut peer = pair.beta.as_peer().unwrap();
    peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[usize::from(ipv6)], pair.beta.port()));
    pair.alpha.set_peers(&[peer]).unwrap();
    machines::ping(&pair.alpha, &pair.beta);
}

// spec-test: WG 13-a
#[test]
fn the_mtu_fills_a_link_of_1500_over_ipv6() {
    with_pair_of(1, &machines::verified("machine"), |pair| {
        assert_eq!(pair.alpha.tunnel().adapter().mtu(), 1420);
        for (ipv6, longest) in [(true, 1500), (false, 1480)] {
            reach_by(pair, ipv6);
            let sent = pair.network.carried();
            let to = pair.beta.inner()[0];
            assert!(pair.alpha.endpoint().send_datagram(to, vec![0; 1420 - 28]));
            assert!(pair.beta.endpoint().take_datagram(PATIENCE).is_some());
            let bytes = (pair.network.carried().bytes - sent.bytes) as usize;
            assert_eq!(bytes + 8 + if ipv6 { 40 } else { 20 }, longest);
        }
        assert_eq!(pair.network.carried().fragments, 0);
    });
}

// spec-test: WG 13-b
#[test]
fn what_a_link_is_too_small_for_is_cut_outside_and_arrives() {
    for (seed, (fast, engine)) in WAYS.into_iter().enumerate() {
        let policies = [(Policy::FastPath, fast), (Policy::SendEngine, engine)];
        with_pair_of(seed as u64, &machines::with_policies(&policies), |pair| {
            for ipv6 in [false, true] {
                reach_by(pair, ipv6);
                for mtu in [1300, 1280] {
                    pair.alpha.host().change(|tables| {
                        let card = tables.interfaces.iter_mut().find(|i| i.index == CARD);
                        card.unwrap().mtu = mtu;
                    });
                    pair.network.set_weather(Link {
                        jitter: Duration::from_millis(2),
                        reorder_per_mille: 500,
                        duplicate_per_mille: 200,
                        ..Link::default()
                    });
                    pair.world.sleep(Duration::from_millis(50));
                    let before = pair.network.carried();
                    let (from, to) = (pair.alpha.inner()[0], pair.beta.inner()[0]);
                    let data: Vec<u8> = (0..1392).map(|at| (at * 7) as u8).collect();
                    for _ in 0..20 {
                        send_uncut(&pair.alpha, from, to, &data);
                        let got = pair.beta.endpoint().take_datagram(PATIENCE);
                        assert_eq!(got, Some((from, data.clone())), "engine {engine}, {mtu}");
                    }
                    let after = pair.network.carried();
                    let [sent, fragments] =
                        [after.sent - before.sent, after.fragments - before.fragments];
                    assert_eq!((sent, fragments), (20, 40), "engine {engine}, {ipv6}, {mtu}");
                }
            }
        });
    }
}

/// A datagram that may be cut: without DF.
fn send_uncut(station: &Station, from: IpAddr, to: IpAddr, data: &[u8]) {
    let ports =
        (sim::host::memory::endpoint::DATAGRAM_PORT, sim::host::memory::endpoint::DATAGRAM_PORT);
    let payload = Payload::Datagram { ports, data: data.to_vec() };
    let mut packet = Packet { source: from, destination: to, payload }.to_bytes();
    packet[6] = 0;
    set_class(&mut packet, 0);
    assert!(station.endpoint().send_super(&packet, 0));
}

// spec-test: WG 13-c, WG 13-d
#[test]
fn marks_go_out_and_come_in() {
    /// What is inside, and what is to be outside.
    const MARKS: [(u8, u8); 8] =
        [(0x00, 0), (0x01, 1), (0x02, 2), (0x03, 2), (0xB8, 0), (0xB9, 1), (0x8A, 2), (0xFF, 2)];
    for (seed, (fast, engine)) in WAYS.into_iter().enumerate() {
        let policies = [(Policy::FastPath, fast), (Policy::SendEngine, engine)];
        let mut options = machines::with_policies(&policies);
        // Without its control messages a datagram has no mark.
        options.choices.insert("CONTROL_MESSAGES_MAY_BE_MISSING".into(), false);
        with_pair_of(seed as u64, &options, |pair| {
            let wire = watch(&pair.network, &pair.alpha);
            for ipv6 in [false, true] {
                reach_by(pair, ipv6);
                pair.beta.endpoint().keep_packets(true);
                for way in [None, Some(3), Some(1)] {
                    pair.network.set_weather(Link { mark: way, ..Link::default() });
                    wire.lock().unwrap().clear();
                    let packets: Vec<(Vec<u8>, u8, Vec<u8>)> = MARKS
                        .iter()
                        .chain(&MARKS)
                        .zip([[0, 1, 0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0, 1, 0]].concat())
                        .map(|((inner, outer), family)| {
                            let (from, to) =
                                (pair.alpha.inner()[family], pair.beta.inner()[family]);
                            let sent = marked(from, to, *inner, 64);
                            let mut expected = sent.clone();
                            set_class(&mut expected, arrives(*inner, way));
                            (sent, *outer, expected)
                        })
                        .collect();
                    for (packet, ..) in &packets {
                        assert!(pair.alpha.endpoint().send_super(packet, 0));
                    }
                    let got = || pair.beta.endpoint().take_packet(PATIENCE).unwrap();
                    let mut arrived: Vec<Vec<u8>> = packets.iter().map(|_| got()).collect();
                    let mut expected: Vec<Vec<u8>> =
                        packets.iter().map(|(_, _, expected)| expected.clone()).collect();
                    let mut outside: Vec<u8> =
                        wire.lock().unwrap().iter().filter(|m| m.0 == 4).map(|m| m.1).collect();
                    let mut outer: Vec<u8> = packets.iter().map(|(_, outer, _)| *outer).collect();
                    if (fast, engine) != (0, 0) {
                        // Of two ways, either may be first.
                        [&mut arrived, &mut expected]
                            .into_iter()
                            .for_each(|packets| packets.sort());
                        [&mut outside, &mut outer]
                            .into_iter()
                            .for_each(|marks| marks.sort_unstable());
                    }
                    assert_eq!(arrived, expected, "engine {engine}, {ipv6}, {way:?}");
                    assert_eq!(
                        outside, outer,
                        "engine {engine}, {ipv6}: runs end where marks change"
                    );
                }
                pair.network.set_weather(Link::default());
                pair.beta.endpoint().keep_packets(false);
            }
        });
    }
}

/// AF41 where the stack takes it; where it does not, and says so or does not, handshakes go on without.
// spec-test: WG 13-e
#[test]
fn handshakes_bear_their_dscp_where_that_can_be() {
    for (taken, refused) in [(true, false), (false, false), (true, true)] {
        for engine in 0..=2 {
            let mut options = machines::with_policy(Policy::SendEngine, engine);
            for (name, value) in [("TAKEN", taken), ("REFUSED", refused)] {
                options.choices.insert(format!("TRAFFIC_CLASS_IS_{name}"), value);
            }
            with_pair_of(3, &options, |pair| {
                let wire = watch(&pair.network, &pair.alpha);
                for ipv6 in [false, true] {
                    pair.alpha.set_up(false).unwrap();
                    pair.alpha.set_up(true).unwrap();
                    reach_by(pair, ipv6);
                }
                let wire = wire.lock().unwrap();
                let of = |data: bool| wire.iter().filter(move |marks| (marks.0 == 4) == data);
                let expected = if taken && !refused { 0x88 } else { 0 };
                assert!(of(false).count() >= 2, "{wire:?}");
                assert!(of(false).all(|marks| marks.1 == expected), "{taken}, {refused}: {wire:?}");
                assert!(of(true).all(|marks| marks.1 == 0), "{wire:?}");
                // What was refused is sent again at once, without.
                for station in [&pair.alpha, &pair.beta] {
                    let ledger = Ledger::of(station);
                    assert_eq!(ledger.discarded(Discard::SendFailed), 0, "{ledger}");
                }
            });
        }
    }
}

/// The inner byte after a way that marks so what can be marked.
fn arrives(inner: u8, way: Option<u8>) -> u8 {
    match (inner & 3, way) {
        (1 | 2, Some(3)) => inner | 3,
        (2, Some(1)) => inner & !3 | 1,
        _ => inner,
    }
}
