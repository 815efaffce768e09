//! Somebody else's callout stands before ours: it takes the right to decide, drops, re-injects, holds.
//!
//! ```text
//!               neighbour                 ours
//!   datagram ── clears the right ──────── lets pass (PermittedNoRight) ── socket
//!            ── drops ✂
//!            ── keeps, puts back late ─── comes out of order
//!            ── references ────────────── takes, and both give back
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::discard::Direction;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp::{self, Neighbour};
use sim::nt::machine::Machine;

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

/// Datagrams that beta's neighbour took for good, and the ledgers of both, after 300 ms under load both ways with such
/// neighbours.
fn live_beside(habits: Neighbour, pair: &Pair) -> (u64, Ledger, Ledger) {
    machines::ping(&pair.alpha, &pair.beta);
    for station in [&pair.alpha, &pair.beta] {
        fwp::set_neighbour(machine(station), habits);
    }
    let every = Duration::from_micros(600);
    let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
        .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 800, every));
    pair.world.sleep(Duration::from_millis(300));
    drop(loads);
    pair.world.sleep(Duration::from_secs(1));
    for station in [&pair.alpha, &pair.beta] {
        fwp::set_neighbour(machine(station), Neighbour::default());
        assert_eq!(fwp::held_nic_buffers(machine(station)), 0, "everything is given back");
    }
    let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
    let absorbed = fwp::counts(machine(&pair.beta)).absorbed;
    (absorbed - beta.counter(Counter::Absorbed), alpha, beta)
}

const DELAY: Duration = Duration::from_millis(2);

#[test]
fn each_habit_alone_and_all_together() {
    let none = Neighbour { delay: DELAY, ..Neighbour::default() };
    for (seed, engine) in [(1, 0), (2, 1), (3, 2)] {
        for habits in [
            Neighbour { clears_right: 3, ..none },
            Neighbour { drops: 4, ..none },
            Neighbour { reinjects: 3, ..none },
            Neighbour { clones: 3, ..none },
            Neighbour { holds: 2, ..none },
            Neighbour { clears_right: 5, drops: 9, reinjects: 5, clones: 5, holds: 3, ..none },
        ] {
            let options = machines::with_policy(Policy::SendEngine, engine);
            machines::with_pair_of(seed, &options, |pair| {
                let (gone, alpha, beta) = live_beside(habits, pair);
                let why = format!("seed {seed}, engine {engine}: {habits:?}\n{alpha}\n{beta}");
                // What is put back was absorbed once, and came all the same.
                let dropped = alpha.counter(Counter::PacketsOut) - beta.counter(Counter::PacketsIn);
                assert!(dropped <= gone, "{why}");
                assert_eq!(dropped > 0, habits.drops > 0, "{why}");
                let put_back = habits.reinjects + habits.clones;
                assert_eq!(gone > 0, habits.drops + put_back > 0, "{why}");
                assert_eq!(dropped == gone, put_back == 0, "{why}");
                let decided = habits.clears_right + habits.drops + put_back > 0;
                assert_eq!(beta.counter(Counter::PermittedNoRight) > 20, decided, "{why}");
                assert!(beta.counter(Counter::Absorbed) > 100, "{why}");
                assert_eq!(beta.discards(Direction::Inbound), 0, "{why}");
                machines::ping(&pair.alpha, &pair.beta);
            });
        }
    }
}

#[test]
fn one_that_decides_everything_leaves_the_sockets() {
    for seed in 1..3 {
        machines::with_pair(seed, |pair| {
            let habits = Neighbour { clears_right: 1, ..Neighbour::default() };
            machines::ping(&pair.alpha, &pair.beta);
            let before = Ledger::of(&pair.beta).counter(Counter::Absorbed);
            let (gone, alpha, beta) = live_beside(habits, pair);
            let after = beta.counter(Counter::Absorbed);
            // Those of the second ping may still have been taken.
            assert!(after <= before + 4, "seed {seed}\n{beta}");
            assert_eq!(gone, 0, "seed {seed}\n{beta}");
            let (sent, got) =
                (alpha.counter(Counter::PacketsOut), beta.counter(Counter::PacketsIn));
            assert_eq!(got, sent, "seed {seed}\n{alpha}\n{beta}");
        });
    }
}
