//! Every size of packet, IPv4 and IPv6 inside, over IPv4 and IPv6 outside: exact bytes, exact padding, in order.
//!
//! ```text
//!   10.9.0.1 ┌───────┐ 192.0.2.1  or  2001:db8:1::1 ════ 198.51.100.1  or  2001:db8:2::1 ┌──────┐ 10.9.0.2
//!   fd09::1 ─┤ alpha ├───────────────────────────────────────────────────────────────────┤ beta ├─ fd09::2
//!            └───────┘      a datagram: 16 header, packet padded to 16 or the MTU, 16 tag └──────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use sim::host::memory::pair::{Pair, PeerSettings};
use sim::host::routes::Prefix;

/// Sends a packet of `length` bytes to beta's `to`, and checks that it arrives and what it took.
fn one_packet(pair: &Pair, to: IpAddr, length: usize, mtu: usize) {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let data: Vec<u8> = (0..length - headers).map(|at| (at * 7 + length) as u8).collect();
    let before = pair.network.carried();
    assert!(
        pair.alpha.endpoint().send_datagram(to, data.clone()),
        "{length} bytes to {to}: not taken"
    );
    let from = pair.alpha.inner()[usize::from(to.is_ipv6())];
    let got = pair.beta.endpoint().take_datagram(machines::PATIENCE);
    assert_eq!(got, Some((from, data)), "{length} bytes to {to}");
    let after = pair.network.carried();
    let padded = length.next_multiple_of(16).min(mtu);
    let (datagrams, bytes) = (after.sent - before.sent, after.bytes - before.bytes);
    assert_eq!((datagrams, bytes), (1, 32 + padded as u64), "{length} bytes to {to}");
}

fn all_sizes(outer: usize, granted: bool) {
    let mut options = machines::verified("machine");
    options.choices.insert("GSO_IS_GRANTED".to_owned(), granted);
    machines::with_pair_of(3, &options, |pair| {
        let mut peer = pair.beta.as_peer().unwrap();
        peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[outer], pair.beta.port()));
        pair.alpha.set_peers(&[peer]).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        let mtu = pair.alpha.tunnel().adapter().mtu() as usize;
        for to in pair.beta.inner() {
            let least = if to.is_ipv4() { 28 } else { 48 };
            let middle = [575, 576, 577, 1279, 1280, 1281];
            for length in (least..least + 34).chain(middle).chain(mtu - 34..=mtu) {
                one_packet(pair, to, length, mtu);
            }
        }
        for to in pair.beta.inner() {
            let headers = if to.is_ipv4() { 28 } else { 48 };
            assert!(pair.alpha.endpoint().send_datagram(to, vec![0; mtu + 1 - headers]));
        }
        machines::ping(&pair.alpha, &pair.beta);
        // NetAdapterCx gives no bytes of what is too long, unless packets of up to 64 KiB may come.
        let ledger = Ledger::of(&pair.alpha);
        let reason = if granted { Discard::Oversize } else { Discard::MalformedPacket };
        assert_eq!(ledger.discarded(reason), 2, "larger than the MTU\n{ledger}");
    });
}

// spec-test: WG 5.4.6-c, WG 2.1-c
#[test]
fn every_size_over_ipv4() {
    all_sizes(0, false);
    all_sizes(0, true);
}

// spec-test: WG 5.4.6-c, WG 2.1-c
#[test]
fn every_size_over_ipv6() {
    all_sizes(1, false);
    all_sizes(1, true);
}

// spec-test: WG 2-a, WG 2-b
#[test]
fn what_has_no_peer_or_a_false_source_goes_nowhere() {
    machines::with_pair(4, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let stranger: IpAddr = [10, 9, 0, 99].into();
        assert!(pair.alpha.endpoint().send_datagram(stranger, vec![0; 100]));
        // Beta no longer believes that alpha has an IPv4 address.
        let mut peer = pair.alpha.as_peer().unwrap();
        peer.allowed_ips.remove(0);
        pair.beta.set_peers(&[peer]).unwrap();
        assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![1; 100]));
        assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[1], vec![2; 100]));
        let got = pair.beta.endpoint().take_datagram(machines::PATIENCE);
        assert_eq!(got, Some((pair.alpha.inner()[1], vec![2; 100])));
        assert_eq!(Ledger::of(&pair.alpha).discarded(Discard::NoPeer), 1);
        assert_eq!(Ledger::of(&pair.beta).discarded(Discard::WrongSource), 1);
    });
}

// spec-test: WG 2-a
#[test]
fn packets_of_one_advance_go_each_to_its_peer() {
    machines::with_pair(5, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        // Another peer, who is nowhere, has the addresses beside beta's; others nobody has.
        let nowhere = PeerSettings {
            public_key: [9; 32],
            endpoint: None,
            preshared_key: None,
            persistent_keepalive_s: 0,
            allowed_ips: vec![Prefix::new([10, 9, 1, 0].into(), 24)],
        };
        pair.alpha.set_peers(&[pair.beta.as_peer().unwrap(), nowhere]).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        let [v4, v6] = pair.beta.inner();
        const ROUNDS: u8 = 30;
        for round in 0..ROUNDS {
            let others = [[10, 9, 1, round], [10, 9, 2, round]].map(IpAddr::from);
            for to in [others[0], v4, others[1], others[0], v6] {
                let data = if to == v4 || to == v6 { vec![round; 64] } else { vec![0xEE; 64] };
                while !pair.alpha.endpoint().send_datagram(to, data.clone()) {
                    pair.world.sleep(Duration::from_micros(10));
                }
            }
        }
        // One of a flow goes by the socket, so the order may be another.
        let take = |_| pair.beta.endpoint().take_datagram(machines::PATIENCE).unwrap();
        let mut got: Vec<_> = (0..2 * ROUNDS).map(take).collect();
        got.sort();
        let from = pair.alpha.inner().into_iter();
        let sent = from.flat_map(|from| (0..ROUNDS).map(move |round| (from, vec![round; 64])));
        assert_eq!(got, sent.collect::<Vec<_>>());
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.discarded(Discard::NoPeer), ROUNDS.into(), "{ledger}");
        assert_eq!(ledger.discarded(Discard::NoEndpoint), 2 * u64::from(ROUNDS), "{ledger}");
    });
}
