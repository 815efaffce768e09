//! What is refused once more behind a place that already refuses it: by callers who came another way, or meanwhile.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use abi::{discard::Discard, ioctl::Set};
use crypto::protocol::{
    Endpoint, Received, Tunnel, Wants, hash_table::HashKey, messages::INITIATION_LEN,
    screen::has_cookie,
};
use net::{A, Attached, B, G, Host, Outbox, Pair, Request};

/// Gives a host a handshake message, as a worker does who has it from before.
fn consume(pair: &mut Pair, host: usize, datagram: &[u8]) -> (Result<(), Discard>, usize) {
    let from = Endpoint { remote: pair.hosts[1 - host].address, local: None };
    let now = pair.clock(host);
    let mut out = Outbox::default();
    let host = &mut pair.hosts[host];
    let result = host.tunnel.consume(&G, datagram, &from, now, &mut host.random, &mut out);
    (result, out.datagrams.len())
}

/// The first datagram of a kind that a host sent.
fn first(pair: &Pair, host: usize, kind: u8) -> Vec<u8> {
    let sent = pair.trace.iter().find(|sent| sent.from == host && sent.kind() == kind);
    sent.expect("it was sent").bytes.clone()
}

#[test]
fn a_message_that_waited_while_the_adapter_went_down_is_dropped() {
    let mut pair = Pair::new(1);
    pair.send(A, 1);
    let initiation = first(&pair, A, 1);
    pair.hosts[B].down();
    assert_eq!(consume(&mut pair, B, &initiation), (Err(Discard::NotUp), 0));
    let now = pair.clock(B);
    pair.hosts[B].up(now);
    assert_eq!(consume(&mut pair, B, &initiation), (Ok(()), 1));
}

#[test]
fn data_is_no_handshake_message() {
    let mut pair = Pair::new(2);
    pair.connect();
    let data = first(&pair, A, 4);
    assert_eq!(consume(&mut pair, B, &data), (Err(Discard::MalformedMessage), 0));
    let [screened, ..] = pair.hosts[B].tunnel.screen(&G, None, &[&data]);
    assert_eq!(screened, Err(Discard::MalformedMessage));
    let now = pair.clock(B).monotonic;
    let from = pair.hosts[A].address;
    assert_eq!(pair.hosts[B].tunnel.goes_first(&G, &data, from, now), Ok(false));
    assert!(!has_cookie(&data));
    let mut initiation = first(&pair, A, 1);
    assert!(!has_cookie(&initiation), "mac2 is zeros");
    initiation[INITIATION_LEN - 16] = 1;
    assert!(has_cookie(&initiation));
    initiation[INITIATION_LEN - 16] = 0;
    initiation[INITIATION_LEN - 1] = 1;
    assert!(has_cookie(&initiation), "in its last byte");
    let mut response = first(&pair, B, 2);
    assert!(!has_cookie(&response));
    *response.last_mut().unwrap() = 1;
    assert!(has_cookie(&response));
}

// spec-test: WG 5.4.3-c
#[test]
fn a_response_is_for_the_adapter_that_began() {
    let mut pair = Pair::new(3);
    let (index, load) = (pair.hosts[A].index.clone(), pair.hosts[A].load.clone());
    let mut other = Host::new(3, "192.0.2.1:51822", 3);
    let key = HashKey::new([3; 16]);
    other.tunnel = Tunnel::<Attached>::try_new(3, index.clone(), load, key).unwrap();
    other.index = index;
    let now = pair.clock(A);
    other.set(&pair.introduction(A), now);
    other.up(now);
    pair.send(A, 1);
    pair.run_ms(10);
    let response = first(&pair, B, 2);
    other.receive(&response, pair.hosts[B].address, pair.clock(A));
    assert_eq!(other.discards, [Discard::UnknownReceiver]);
    assert!(other.only_peer().current_session(&G).is_none());
    pair.run_ms(100);
    assert_eq!(pair.numbers(B), [1], "the one that began has it");
}

// spec-test: WG 6.2-a
#[test]
fn a_session_that_ended_while_its_packets_were_opened_moves_nothing() {
    let mut pair = Pair::new(4);
    pair.connect();
    let peer = pair.hosts[B].only_peer();
    let session = peer.current_session(&G).unwrap();
    let [before, elsewhere] = ["203.0.113.1:4711", "203.0.113.2:4711"]
        .map(|remote| Endpoint { remote: remote.parse().unwrap(), local: None });
    let received = Received { data_packets: 1, bytes: 100 };
    let now = pair.clock(B);
    assert_eq!((peer.tunnel(), peer.has_session(&G, now)), (2, true));
    let _not_yet_over = peer.received(&G, &session, &before, now, received);
    assert_eq!(peer.endpoint(&G), Some(before));
    let bytes = peer.status(&G).rx_bytes;
    pair.now += std::time::Duration::from_secs(181);
    let now = pair.clock(B);
    assert_eq!(peer.received(&G, &session, &elsewhere, now, received), Wants::NONE);
    assert_eq!((peer.endpoint(&G), peer.status(&G).rx_bytes), (Some(before), bytes));
    assert!(!peer.has_session(&G, now));
}

#[test]
fn what_waits_is_seen_from_outside() {
    let mut pair = Pair::new(5);
    let peer = pair.hosts[A].only_peer();
    assert!(!peer.has_staged());
    pair.send(A, 1);
    assert!(peer.has_staged());
    pair.run_ms(100);
    assert!(!peer.has_staged());
    assert_eq!(pair.numbers(B), [1]);
}

#[test]
fn a_port_is_told_before_anything_is_changed() {
    let pair = Pair::new(6);
    for port in [None, Some(0), Some(51_820)] {
        let request = Request { listen_port: port, ..Request::new() }.encode();
        let set = Set::parse(&request).unwrap();
        let prepared = pair.hosts[A].tunnel.prepare(&G, &set).unwrap();
        assert_eq!(prepared.listen_port(), port);
    }
}
