//! What is left of a handshake, and what it costs, seen from inside.

use std::{net::SocketAddr, vec::Vec};

use abi::ioctl::{
    Set, Writer, interface_flag, peer_flag,
    writer::{InterfaceFields, PeerFields},
};

use super::{
    super::{
        HandshakeLoad, IndexTable, Instant,
        cookie::{CookieJar, MacKeys},
        hash_table::HashKey,
        noise::{Identity, MULTIPLICATIONS},
    },
    *,
};
use crate::sync::Unpinned;

const G: Unpinned = Unpinned;
const KEYS: [[u8; 32]; 3] = [[1; 32], [2; 32], [3; 32]];
const FROM: ([u8; 4], u16) = ([192, 0, 2, 1], 1);

fn public(private: &[u8; 32]) -> [u8; 32] {
    *Identity::new(private).unwrap().public()
}

fn now(seconds: u64) -> Now {
    let time = Duration::from_secs(1000 + seconds);
    Now { monotonic: Instant(time), wall: time }
}

/// Counts; no two draws are the same.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

#[derive(Default)]
struct Outbox(Vec<Vec<u8>>);

impl Output<()> for Outbox {
    fn send(&mut self, _: Option<&Shared<Peer<()>>>, _: &Endpoint, datagram: &[u8], _: u8) {
        self.0.push(datagram.to_vec());
    }

    fn flush(&mut self, _: &Shared<Peer<()>>, _: bool) {}
}

/// A tunnel that is up, with one peer.
struct Side {
    tunnel: Tunnel<()>,
    peer: Shared<Peer<()>>,
    out: Outbox,
    random: Counting,
}

impl Side {
    fn new(private: &[u8; 32], peer: &[u8; 32]) -> Self {
        let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
        let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
        let tunnel = Tunnel::try_new(1, index, load, HashKey::new([2; 16])).unwrap();
        let interface = InterfaceFields {
            flags: interface_flag::HAS_PRIVATE_KEY,
            listen_port: 0,
            private_key: private,
            public_key: &[0; 32],
        };
        let fields = PeerFields {
            flags: peer_flag::HAS_PUBLIC_KEY | peer_flag::HAS_ENDPOINT,
            endpoint: Some(SocketAddr::from(FROM)),
            ..PeerFields::of(peer)
        };
        let mut buffer = [0; 4096];
        let mut writer = Writer::new(&mut buffer, &interface);
        writer.peer(&fields);
        let len = writer.len_bytes();
        let request = Set::parse(&buffer[..len]).unwrap();
        let _ = tunnel.prepare(&G, &request).unwrap().commit(&G, now(0));
        let mut out = Outbox::default();
        tunnel.up(&G, &mut out);
        let peer = tunnel.find_peer(&G, peer).unwrap();
        Self { tunnel, peer, out, random: Counting(private[0]) }
    }
    /// Takes a message; whether it was accepted, and how many curve multiplications that took.
    fn take(&mut self, message: &[u8], at: Now) -> (Result<(), Discard>, usize) {
        let from = Endpoint { remote: SocketAddr::from(FROM), local: None };
        let before = MULTIPLICATIONS.get();
        let Self { tunnel, out, random, .. } = self;
        let verdict = tunnel.consume(&G, message, &from, at, random, out);
        (verdict, MULTIPLICATIONS.get() - before)
    }

    fn initiate(&mut self, at: Now) -> Vec<u8> {
        self.peer.timers.forget_last_sent();
        self.tunnel.send_initiation(&G, &self.peer, at, &mut self.random, &mut self.out);
        self.out.0.pop().unwrap()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.tunnel.close(&G);
    }
}

/// Makes the MACs of a message to the owner of `public_key` right again.
fn resealed(mut message: Vec<u8>, public_key: &[u8; 32]) -> Vec<u8> {
    CookieJar::default().seal(&MacKeys::of(public_key), &mut message, now(0).monotonic);
    message
}

fn changed(message: &[u8], at: usize) -> Vec<u8> {
    let mut message = message.to_vec();
    message[at] ^= 1;
    message
}

// spec-test: WG 5.3-c, WG 5.4.2-b, WG 5.1-h
#[test]
fn what_is_refused_costs_one_multiplication_at_most() {
    let [us, them, _] = KEYS.map(|key| public(&key));
    let (mut side, mut peer) = (Side::new(&KEYS[0], &them), Side::new(&KEYS[1], &us));
    let initiation = peer.initiate(now(1));
    assert_eq!(side.take(&initiation, now(1)), (Ok(()), 4), "es, ss, ee, se");
    let response = side.out.0.pop().unwrap();
    let later = peer.initiate(now(2));
    let stranger = Side::new(&KEYS[2], &us).initiate(now(2));
    let responses_index = changed(&response, 8);
    let indices = side.tunnel.index().len(&G);
    let bad = Discard::BadHandshake;
    for (message, reason, cost, why) in [
        (changed(&later, 116), Discard::BadMac1, 0, "mac1"),
        (changed(&response, 60), Discard::BadMac1, 0, "a response's mac1"),
        (resealed(responses_index, &us), Discard::UnknownReceiver, 0, "nobody's response"),
        (resealed(changed(&later, 8), &us), bad, 1, "ephemeral key"),
        (resealed(changed(&later, 87), &us), bad, 1, "static key's tag"),
        (stranger, Discard::UnknownPeer, 1, "a stranger"),
        (resealed(changed(&later, 115), &us), bad, 1, "timestamp's tag"),
        (initiation, Discard::StaleTimestamp, 1, "heard before"),
    ] {
        assert_eq!(side.take(&message, now(2)), (Err(reason), cost), "{why}");
    }
    side.tunnel.load().observe(512, now(2).monotonic);
    assert_eq!(side.take(&later, now(2)), (Err(Discard::CookieRequired), 0), "under load");
    assert_eq!(side.out.0.pop().unwrap()[0], 3);
    assert!(side.out.0.is_empty());
    assert_eq!(side.tunnel.index().len(&G), indices, "nothing is kept");
}

// spec-test: WG 5.4.5-b, WG 5.4.2-g
#[test]
fn nothing_is_left_of_a_handshake_that_is_done() {
    let [us, them, _] = KEYS.map(|key| public(&key));
    let (mut side, mut peer) = (Side::new(&KEYS[0], &them), Side::new(&KEYS[1], &us));
    let is_zeroed = |side: &Side| {
        side.peer.secrets.handshake.with(&G, |handshake| matches!(handshake.state, State::Zeroed))
    };
    // The responder's own attempt goes as well.
    side.initiate(now(1));
    let initiation = peer.initiate(now(1));
    assert!(!is_zeroed(&side) && !is_zeroed(&peer));
    assert_eq!(side.take(&initiation, now(1)).0, Ok(()));
    assert!(is_zeroed(&side));
    let response = side.out.0.pop().unwrap();
    assert_eq!(peer.take(&response, now(1)), (Ok(()), 2), "ee, se");
    assert!(is_zeroed(&peer));
    let index = peer.tunnel.index();
    assert_eq!([index.len(&G), side.tunnel.index().len(&G)], [1, 1], "the sessions");
    let number = Initiation::parse(&initiation).unwrap().sender;
    assert!(index.session(&G, number).is_some() && index.either(&G, number).is_some());
    assert!(index.handshake(&G, number).is_none(), "a session is no handshake");
}

// spec-test: WG 5.1-b
#[test]
fn a_timestamp_of_zeros_is_refused_and_so_is_one_that_is_not_greater() {
    let mut handshake = Handshake::new();
    let stale = Err(Discard::StaleTimestamp);
    assert_eq!(handshake.accept_timestamp(Tai64n::ZERO, now(0)), stale);
    let at = |seconds, nanoseconds: u32| {
        Tai64n::of(Duration::from_secs(seconds) + Duration::from_millis(nanoseconds.into()))
    };
    for (number, (timestamp, expected)) in [
        (at(7, 500), Ok(())),
        (at(7, 500), stale),
        (at(7, 400), stale),
        (at(6, 900), stale),
        (at(8, 0), Ok(())),
        (at(8, 20), Ok(())),
        (at(0, 0), stale),
    ]
    .into_iter()
    .enumerate()
    {
        let got = handshake.accept_timestamp(timestamp, now(number as u64));
        assert_eq!(got, expected, "row {number}");
    }
}
