//! The adapter goes down and up under load; what waited is dropped and counted, and the tunnel comes back by itself.
//!
//! ```text
//!   ┌──────────────┐ ══ load ══► ┌──────┐
//!   │ alpha ⇅ ⇅ ⇅  │ ◄══ load ══ │ beta │
//!   └──────────────┘             └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use abi::statistics::Counter;
use sim::host::computer::report;

#[test]
fn down_and_up_under_load() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_micros(500);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[1], 1000, every));
            for round in 0..10_u64 {
                pair.world.sleep(Duration::from_millis(30 + round));
                pair.alpha.set_up(false).unwrap();
                assert!(!pair.alpha.tunnel().adapter().link().connected, "seed {seed}");
                pair.world.sleep(Duration::from_millis(round));
                pair.alpha.set_up(true).unwrap();
                assert!(pair.alpha.tunnel().adapter().link().connected, "seed {seed}");
            }
            drop(loads);
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
            let alpha = Ledger::of(&pair.alpha);
            assert!(
                alpha.discarded(Discard::AdapterDown) > 10,
                "seed {seed}: sent while down\n{alpha}"
            );
        });
    }
}

// spec-test: WG 11-a
#[test]
fn what_waits_is_dropped_and_counted() {
    machines::with_pair(1, |pair| {
        pair.beta.set_up(false).unwrap();
        let to = pair.beta.inner()[0];
        // 128 may wait, and the oldest goes for each that comes after them.
        for _ in 0..150 {
            assert!(pair.alpha.endpoint().send_datagram(to, vec![0; 200]));
        }
        pair.world.sleep(Duration::from_millis(100));
        assert_eq!(Ledger::of(&pair.alpha).waiting(), 128);
        pair.alpha.set_up(false).unwrap();
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(alpha.counter(Counter::PacketsStaged), 150, "{alpha}");
        assert_eq!(alpha.discarded(Discard::StagedFull), 22, "{alpha}");
        assert_eq!((alpha.waiting(), alpha.discarded(Discard::StagedDropped)), (0, 128), "{alpha}");
        pair.alpha.set_up(true).unwrap();
        pair.beta.set_up(true).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
    });
}

#[test]
fn the_system_pauses_and_restarts_the_adapter_under_load() {
    machines::with_pair(2, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let every = Duration::from_micros(500);
        let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
            .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 1000, every));
        for round in 0..10_u64 {
            pair.world.sleep(Duration::from_millis(20 + round));
            let adapter = pair.alpha.tunnel().adapter();
            let machine = pair.alpha.computer().machine();
            let restarted = adapter.pause_and_restart(machine);
            assert!(restarted.is_ok(), "{}", report(machine));
        }
        drop(loads);
        machines::ping(&pair.alpha, &pair.beta);
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(alpha.counter(Counter::HandshakesOut), 1, "the session lives on\n{alpha}");
    });
}
