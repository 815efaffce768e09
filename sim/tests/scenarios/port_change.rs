//! The listen port changes while packets flow, again and again: the session lives on, and the peer follows.
//!
//! ```text
//!   ┌───────┐ :51820 ══════╗   ┌──────┐
//!   │ alpha │ :4501  ══════╬══ │ beta │   each arrow replaces the one above it, under load both ways
//!   └───────┘ :4502 … ════╝   └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use abi::statistics::Counter;

// spec-test: WG 11-f
#[test]
fn the_session_survives_a_new_port() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_millis(2);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 400, every));
            for port in 4_501..4_511 {
                pair.world.sleep(Duration::from_millis(50));
                machines::set_port(&pair.alpha, port);
                let answer = pair.alpha.tunnel().get().unwrap();
                assert_eq!(abi::ioctl::Set::parse(&answer).unwrap().listen_port(), Some(port));
            }
            pair.world.sleep(Duration::from_millis(50));
            drop(loads);
            machines::ping(&pair.beta, &pair.alpha);
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            for ledger in [&alpha, &beta] {
                assert_eq!(
                    ledger.counter(Counter::HandshakesOut),
                    1,
                    "seed {seed}: one handshake\n{ledger}"
                );
                let waited = ledger.counter(Counter::PacketsStaged);
                assert!(waited <= 4, "seed {seed}: {waited} waited\n{ledger}");
            }
            // What beta sent to a port that was no longer open is lost, as on any network; nothing else is.
            let carried = pair.network.carried();
            assert!(carried.refused <= 10 * 2, "seed {seed}: {carried:?}");
            assert_eq!(beta.discarded(Discard::Replayed), 0, "seed {seed}\n{beta}");
            assert_eq!(
                beta.counter(Counter::PacketsIn),
                alpha.counter(Counter::PacketsOut),
                "seed {seed}: alpha's packets all arrive\n{alpha}\n{beta}"
            );
        });
    }
}
