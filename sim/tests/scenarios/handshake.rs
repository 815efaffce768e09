//! The handshake: each side begins it, both begin at once, with and without a preshared key, and with a wrong one.
//!
//! ```text
//!   ┌───────┐ ── initiation ──► ┌──────┐
//!   │ alpha │ ◄── response ──── │ beta │   then the other way round, then both arrows at once
//!   └───────┘ ── data ────────► └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::{Direction, Discard};
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, PeerSettings, Station};

/// Handshake messages each side has made, and each has taken.
fn messages(pair: &Pair) -> [(u64, u64); 2] {
    [&pair.alpha, &pair.beta].map(|station| {
        let ledger = Ledger::of(station);
        (ledger.counter(Counter::HandshakesOut), ledger.counter(Counter::HandshakesIn))
    })
}

#[test]
fn either_side_begins() {
    for seed in 1..5 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            assert_eq!(messages(pair), [(1, 1), (1, 1)], "seed {seed}");
        });
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.beta, &pair.alpha);
            assert_eq!(messages(pair), [(1, 1), (1, 1)], "seed {seed}");
        });
    }
}

// spec-test: WG 5.4-p
#[test]
fn both_begin_at_once() {
    for seed in 1..9 {
        machines::with_pair(seed, |pair| {
            let world = &pair.world;
            let begun = world.now();
            let both =
                [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)].map(|(one, other)| {
                    let (endpoint, to) = (one.endpoint().clone(), other.inner()[0]);
                    world.spawn("ping", move || {
                        assert!(
                            endpoint.ping(to, 56, machines::PATIENCE).is_some(),
                            "no answer from {to}"
                        );
                    })
                });
            for pings in both {
                assert!(pings.join(Some(world.now() + Duration::from_secs(60))), "seed {seed}");
            }
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
            // A peer has one handshake under way: to answer the other's initiation is to give up one's own, so both
            // responses come too late. One side, who is first by chance, tries again after 5 s, and then it is done; if both
            // chose the same time, it is as before, 5 s later.
            let late = Ledger::of(&pair.alpha).discards(Direction::Inbound);
            assert!((1..=3).contains(&late), "seed {seed}: {late} late responses");
            assert_eq!(messages(pair), [(2 * late + 1, late + 1); 2], "seed {seed}");
            assert!(world.now() - begun >= Duration::from_secs(5 * late), "seed {seed}");
            for station in [&pair.alpha, &pair.beta] {
                assert_eq!(station.endpoint().counts().packets_in, 6, "seed {seed}");
                assert_eq!(
                    Ledger::of(station).discards(Direction::Inbound),
                    late,
                    "seed {seed}: the late responses"
                );
            }
        });
    }
}

// spec-test: WG 5.2-a
#[test]
fn preshared_keys_must_agree() {
    machines::with_pair(1, |pair| {
        let share = |one: &Station, other: &Station, key| {
            let peer = PeerSettings { preshared_key: Some(key), ..other.as_peer().unwrap() };
            one.set_peers(&[peer]).unwrap();
        };
        let to = pair.beta.inner()[0];
        share(&pair.alpha, &pair.beta, [7; 32]);
        share(&pair.beta, &pair.alpha, [8; 32]);
        assert_eq!(pair.alpha.endpoint().ping(to, 56, Duration::from_secs(4)), None, "keys differ");
        assert_eq!(Ledger::of(&pair.alpha).discarded(Discard::BadHandshake), 1);
        share(&pair.beta, &pair.alpha, [7; 32]);
        machines::ping(&pair.alpha, &pair.beta);
    });
}
