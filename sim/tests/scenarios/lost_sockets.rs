//! The transport goes from under the driver's sockets: it opens others on the same port, and the session lives on.
//!
//! ```text
//!   ┌───────┐ :51820 ═══ ✂    ┌──────┐
//!   │ alpha │                 │ beta │    under load both ways, again and again
//!   └───────┘ :51820 ════════ └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::statistics::Counter;
use sim::nt::wsk;

#[test]
fn lost_sockets_are_opened_anew() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_millis(1);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 500, every));
            for _ in 0..5 {
                pair.world.sleep(Duration::from_millis(50));
                wsk::lose_transport(pair.alpha.computer().machine());
            }
            pair.world.sleep(Duration::from_millis(50));
            let before = Ledger::of(&pair.alpha).counter(Counter::PacketsIn);
            pair.world.sleep(Duration::from_millis(50));
            drop(loads);
            let alpha = Ledger::of(&pair.alpha);
            assert!(
                alpha.counter(Counter::PacketsIn) > before + 40,
                "seed {seed}: it receives\n{alpha}"
            );
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
            let alpha = Ledger::of(&pair.alpha);
            assert_eq!(
                alpha.counter(Counter::HandshakesOut),
                1,
                "seed {seed}: the session lives on\n{alpha}"
            );
            let answer = pair.alpha.tunnel().get().unwrap();
            let port = abi::ioctl::Set::parse(&answer).unwrap().listen_port();
            assert_eq!(port, Some(pair.alpha.port()), "seed {seed}: the same port");
        });
    }
}
