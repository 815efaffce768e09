//! Random configuration requests against a model of one page, and the edges of what is refused.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use abi::ioctl::{ParseError, Set};
use crypto::protocol::{
    ConfigError, HandshakeLoad, IndexTable, Instant, Now, Tunnel, hash_table::HashKey,
};
use crypto::sync::Shared;
use net::{
    Attached, G, Outbox, Request, Seeded,
    model::{Configuration, get},
    request::{PeerRequest, public},
};
use proptest::prelude::*;

const NOW: Now =
    Now { monotonic: Instant(Duration::from_secs(5)), wall: Duration::from_secs(1_700_000_000) };

fn tunnel() -> Tunnel<Attached> {
    let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
    let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
    Tunnel::try_new(1, index, load, HashKey::new([2; 16])).unwrap()
}

fn set(tunnel: &Tunnel<Attached>, request: &Request) -> Result<usize, ConfigError> {
    let buffer = request.encode();
    let set = Set::parse(&buffer).unwrap();
    tunnel.prepare(&G, &set).map(|prepared| prepared.commit(&G, NOW).try_now.len())
}

/// Few private keys, so that peers, own keys and repeats meet.
fn private_keys() -> impl Strategy<Value = [u8; 32]> {
    (0_u8..5).prop_map(|n| [n; 32])
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..16).prop_map(|n| IpAddr::V4((0x0A00_0000 | n << 14 | n).into())),
        (0_u128..16).prop_map(|n| IpAddr::V6((0xFD_u128 << 120 | n << 60 | n).into())),
    ]
}

prop_compose! {
    fn peers()(
        key in (1_u8..5).prop_map(|n| public(&[n; 32])),
        remove in prop::bool::weighted(0.15),
        update_only in prop::bool::weighted(0.2),
        preshared_key in prop::option::of(private_keys()),
        endpoint in prop::option::of((addresses(), 1_u16..4)),
        keepalive in prop::option::of(0_u16..3),
        replace_allowed_ips in prop::bool::weighted(0.3),
        allowed_ips in prop::collection::vec((addresses(), 0_u8..=32, prop::bool::weighted(0.3)), 0..6),
    ) -> PeerRequest {
        PeerRequest {
            public_key: key,
            remove,
            update_only,
            preshared_key,
            endpoint: endpoint.map(|(address, port)| SocketAddr::new(address, port)),
            keepalive,
            replace_allowed_ips,
            allowed_ips,
        }
    }
}

prop_compose! {
    fn requests()(
        private_key in prop::option::weighted(0.3, private_keys()),
        replace_peers in prop::bool::weighted(0.1),
        peers in prop::collection::vec(peers(), 0..4),
    ) -> Request {
        Request { private_key, listen_port: None, replace_peers, peers }
    }
}

/// A thousand peers wake up: nobody is called at once, and everybody within five seconds.
// spec-test: WG 6-a
#[test]
fn after_a_sleep_a_thousand_peers_are_spread_over_five_seconds() {
    const PEERS: usize = 1000;
    let tunnel = tunnel();
    let (mut out, mut random) = (Outbox::default(), Seeded(1));
    tunnel.up(&G, &mut out);
    let peer = |n: usize| {
        let mut public_key = [9; 32];
        public_key[..8].copy_from_slice(&n.to_le_bytes());
        PeerRequest::new(public_key).keepalive(25)
    };
    let request = Request { peers: (0..PEERS).map(peer).collect(), ..Request::default() };
    set(&tunnel, &request).unwrap();
    let woke = NOW.monotonic.0 + Duration::from_secs(3600);
    let mut at = |milliseconds| {
        let monotonic = Instant(woke + Duration::from_millis(milliseconds));
        tunnel.poll(&G, Now { monotonic, ..NOW }, &mut random, &mut out);
        out.flushes.drain(..).count()
    };
    let tenths: Vec<_> = (0..=50).map(|tenth| at(tenth * 100)).collect();
    assert_eq!(tenths.iter().sum::<usize>(), PEERS, "{tenths:?}");
    assert!(tenths.iter().all(|peers| *peers <= 2 * PEERS / 50), "{tenths:?}");
    tunnel.close(&G);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any sequence of requests, up and down, leaves the tunnel as the model says.
    // spec-test: WG 11-b, WG 11-c, WG 11-d, WG 11-e, WG 11-g, WG 2-d, WG 2-e
    #[test]
    fn requests_mean_what_is_documented(steps in prop::collection::vec((requests(), any::<bool>()), 1..12)) {
        {
            let tunnel = tunnel();
            let mut model = Configuration::default();
            let mut out = Outbox::default();
            for (request, up) in &steps {
                if *up { tunnel.up(&G, &mut out) } else { tunnel.down(&G) }
                out.flushes.clear();
                let before = model.clone();
                let expected = model.apply(request);
                let done = set(&tunnel, request);
                if expected {
                    prop_assert!(done.is_ok(), "{:?}", done);
                } else {
                    prop_assert_eq!(done, Err(ConfigError::DuplicatePeer));
                    model = before;
                }
                prop_assert_eq!(&get(&tunnel), &model);
                prop_assert_eq!(tunnel.peer_count(&G), model.peers.len());
                let address = |n: u32| IpAddr::V4((0x0A00_0000 | n << 13 | n).into());
                let addresses: [_; 32] = std::array::from_fn(|n| address(n as u32));
                for some in addresses.chunks(5) {
                    let together = tunnel.peers_for::<5>(&G, some);
                    for (address, found) in some.iter().zip(together) {
                        let owner = model.owner(*address);
                        prop_assert_eq!(found.map(|peer| *peer.public_key()), owner);
                        let found = tunnel.peer_for(&G, *address);
                        prop_assert_eq!(found.map(|peer| *peer.public_key()), owner);
                    }
                }
            }
            let peers: BTreeMap<_, _> = model.peers.iter().cloned().collect();
            prop_assert_eq!(Attached::live(), peers.len());
            tunnel.close(&G);
        }
        prop_assert_eq!(Attached::live(), 0);
    }

    /// A prepared configuration that is dropped has done nothing.
    #[test]
    fn preparing_applies_nothing(first in requests(), second in requests()) {
        let tunnel = tunnel();
        let _ = set(&tunnel, &first);
        let before = get(&tunnel);
        let buffer = second.encode();
        drop(tunnel.prepare(&G, &Set::parse(&buffer).unwrap()));
        prop_assert_eq!(get(&tunnel), before);
        tunnel.close(&G);
    }

    /// Any bytes are refused or mean something, and what they mean can be applied.
    #[test]
    fn any_buffer_is_refused_or_applied(
        mut request in requests(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        request.listen_port = Some(1);
        let mut buffer = request.encode();
        for (at, byte) in damage {
            let at = at.index(buffer.len());
            buffer[at] = byte;
        }
        if cuts {
            buffer.truncate(cut.index(buffer.len()));
        }
        let tunnel = tunnel();
        let parsed: Result<Set<'_>, ParseError> = Set::parse(&buffer);
        if let Ok(set) = parsed && let Ok(prepared) = tunnel.prepare(&G, &set) {
            let _ = prepared.commit(&G, NOW);
        }
        tunnel.close(&G);
        prop_assert_eq!(tunnel.peer_count(&G), 0);
    }
}

#[test]
fn one_configuration_at_a_time() {
    let tunnel = tunnel();
    let buffer = Request::new().private_key([1; 32]).encode();
    let request = Set::parse(&buffer).unwrap();
    let first = tunnel.prepare(&G, &request).unwrap();
    assert_eq!(tunnel.prepare(&G, &request).err(), Some(ConfigError::Busy));
    drop(first);
    assert!(tunnel.prepare(&G, &request).is_ok());
}

#[test]
fn the_same_peer_twice_is_refused_whole() {
    let tunnel = tunnel();
    let peer = PeerRequest::new(public(&[3; 32]));
    let request = Request::new().private_key([1; 32]).peer(peer.clone()).peer(peer.keepalive(5));
    assert_eq!(set(&tunnel, &request), Err(ConfigError::DuplicatePeer));
    assert_eq!(get(&tunnel), Configuration::default());
}

/// The data path looks peers up and the tables grow, all at once.
#[test]
fn many_peers_while_others_look() {
    let tunnel = tunnel();
    let key = |n: u32| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        key
    };
    let address = |n: u32| IpAddr::V4((0x0A00_0000 + n).into());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut seen = 0_u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for n in (0..5000).step_by(7) {
                    if let Some(peer) = tunnel.peer_for(&G, address(n)) {
                        assert_eq!(peer.public_key(), &key(n));
                        seen += 1;
                    }
                }
            }
            seen
        });
        for batch in 0..50 {
            let mut request = Request::new();
            for n in batch * 100..(batch + 1) * 100 {
                request =
                    request.peer(PeerRequest::new(key(n)).allow(&format!("{}/32", address(n))));
            }
            assert_eq!(set(&tunnel, &request), Ok(0));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looker.join().unwrap() > 0);
    });
    assert_eq!(tunnel.peer_count(&G), 5000);
    assert_eq!(set(&tunnel, &Request::new().replace_peers()), Ok(0));
    assert_eq!(tunnel.peer_count(&G), 0);
    assert!(tunnel.peer_for(&G, address(3)).is_none());
    tunnel.close(&G);
}
