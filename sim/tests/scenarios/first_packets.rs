//! The first packets of a tunnel wait for its session, and those behind them do not overtake them.
//!
//! ```text
//!   10.9.0.1 ┌───────┐  1 2 3 4 ... │ 41 42 ...   3 ms   ┌──────┐ 10.9.0.2
//!   ─────────┤ alpha ├──────────────────────────────────┤ beta ├── 1 2 3 4 ...
//!            └───────┘   wait       │ are sent           └──────┘
//!                                session
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::with_policy;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::link::Link;

const COUNT: u32 = 400;

#[test]
fn packets_do_not_overtake_those_that_waited() {
    for seed in 1..13 {
        // By one path: between two the order is that in which either hands over.
        machines::with_pair_of(seed, &with_policy(Policy::FastPath, 0), |pair| {
            let slow = Link { delay: Duration::from_micros(1500), ..Link::default() };
            pair.network.set_weather(slow);
            let (to, from) = (pair.beta.inner()[0], pair.alpha.endpoint().clone());
            let world = pair.world.clone();
            let sender = pair.world.spawn("sender", move || {
                for number in 0..COUNT {
                    while !from.send_datagram(to, number.to_le_bytes().repeat(50)) {
                        world.sleep(Duration::from_micros(30));
                    }
                    // In bursts, so that many come while those that waited are being sent.
                    if number % 4 == 3 {
                        world.sleep(Duration::from_micros(120));
                    }
                }
            });
            for expected in 0..COUNT {
                let (_, datagram) = pair.beta.endpoint().take_datagram(machines::PATIENCE).unwrap();
                let number = u32::from_le_bytes(*datagram.first_chunk().unwrap());
                assert_eq!(number, expected, "seed {seed}");
            }
            assert!(sender.join(Some(pair.world.now() + machines::PATIENCE)), "seed {seed}");
            let ledger = Ledger::of(&pair.alpha);
            let staged = ledger.counter(Counter::PacketsStaged);
            assert!((20..120).contains(&staged), "seed {seed}: some waited\n{ledger}");
        });
    }
}
