//! A peer moves: a NAT gives it a new port, then another address, under load; its packets find it, and ours follow.
//!
//! ```text
//!   ┌───────┐                  ┌─────┐ :20001 ══╗        ┌──────┐
//!   │ alpha ├── 192.0.2.1 ─────┤ NAT │ :20002 ══╬════════┤ beta │
//!   └───────┘                  └─────┘ another ═╝        └──────┘
//!                              100.64.0.7, then 100.64.0.8
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::ioctl::Set;
use abi::statistics::Counter;
use sim::host::memory::pair::Pair;

/// Where beta thinks alpha is.
fn known(pair: &Pair) -> SocketAddr {
    let answer = pair.beta.tunnel().get().unwrap();
    let set = Set::parse(&answer).unwrap();
    set.peers().next().and_then(|peer| peer.endpoint()).unwrap()
}

// spec-test: WG 2.1-a, WG 2.1-c
#[test]
fn a_nat_that_rebinds_is_followed() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            assert_eq!(known(pair), SocketAddr::new(pair.alpha.outer()[0], pair.alpha.port()));
            let every = Duration::from_millis(1);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 300, every));
            let mut last = known(pair);
            for outside in [[100, 64, 0, 7], [100, 64, 0, 7], [100, 64, 0, 8], [100, 64, 0, 7]] {
                let outside = IpAddr::from(outside);
                pair.world.sleep(Duration::from_millis(40));
                pair.alpha.host().rebind(outside);
                pair.world.sleep(Duration::from_millis(40));
                let now = known(pair);
                assert_eq!(now.ip(), outside, "seed {seed}");
                assert_ne!(now, last, "seed {seed}: another port or address");
                last = now;
            }
            drop(loads);
            machines::ping(&pair.beta, &pair.alpha);
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            for ledger in [&alpha, &beta] {
                assert_eq!(
                    ledger.counter(Counter::HandshakesOut),
                    1,
                    "seed {seed}: the session lives on\n{ledger}"
                );
            }
            let (sent, got) =
                (alpha.counter(Counter::PacketsOut), beta.counter(Counter::PacketsIn));
            assert_eq!(got, sent, "seed {seed}: what the mover sends arrives\n{alpha}\n{beta}");
        });
    }
}

// spec-test: WG 3-a
#[test]
fn a_peer_without_an_endpoint_is_learned_from_its_first_packet() {
    machines::with_pair(1, |pair| {
        let mut alpha = pair.alpha.as_peer().unwrap();
        alpha.endpoint = None;
        machines::remove_peer(&pair.beta, &alpha.public_key);
        pair.beta.set_peers(&[alpha]).unwrap();
        assert!(pair.beta.endpoint().send_datagram(pair.alpha.inner()[0], vec![0; 10]));
        pair.world.sleep(Duration::from_secs(1));
        let beta = Ledger::of(&pair.beta);
        assert_eq!(beta.discarded(abi::discard::Discard::NoEndpoint), 1, "{beta}");
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.beta, &pair.alpha);
        assert_eq!(known(pair).ip(), pair.alpha.outer()[0]);
    });
}
