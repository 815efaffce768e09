//! An administrator changes policy while packets flow: every adapter follows at once, and nothing is lost.
//!
//! ```text
//!   Parameters\SendEngine  0 ► 1 ► 2 ► 0 ► ...   ┌───────┐ sockets ═══╗   ┌──────┐
//!   Parameters\FastPath    1 ► 0 ► 1 ► ...       │ alpha │ injection ═╬══ │ beta │   under load both ways
//!   "read it anew" ─────────────────────────────►└───────┘ callouts ══╝   └──────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use crate::machines::flow::watch_order;
use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::nt::{dpc, fwp};

/// How long each policy applies under load.
const PHASE: Duration = Duration::from_millis(40);

fn options(values: &[(Policy, u32)]) -> Options {
    let mut options = machines::with_policies(values);
    options.parameters.retain(|name, _| values.iter().any(|(policy, _)| policy.name() == name));
    options
}

fn set(station: &Station, policy: Policy, value: u32) {
    station.tunnel().set_policy(&[(policy, Some(value))]).unwrap();
}

/// Loads both ways, a packet every `every`.
fn both_ways(pair: &Pair, every: Duration) -> [Load; 2] {
    [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
        .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 900, every))
}

/// Every packet that one sent the other has got, with one handshake, and nothing was discarded on either way.
fn nothing_lost(pair: &Pair, why: &str) {
    pair.world.sleep(Duration::from_secs(1));
    let ledgers = [Ledger::of(&pair.alpha), Ledger::of(&pair.beta)];
    for (one, other) in [(&ledgers[0], &ledgers[1]), (&ledgers[1], &ledgers[0])] {
        let (sent, got) = (one.counter(Counter::PacketsOut), other.counter(Counter::PacketsIn));
        assert_eq!(got, sent, "{why}\n{one}\n{other}");
        assert!(sent > 100, "{why}: no load\n{one}");
        for direction in [Direction::Outbound, Direction::Inbound] {
            assert_eq!(one.discards(direction), 0, "{why}\n{one}");
        }
        assert_eq!(one.counter(Counter::HandshakesOut), 1, "{why}\n{one}");
    }
}

/// What alpha's counters grow by while nothing but the load happens.
fn growth(pair: &Pair, counters: &[Counter]) -> Vec<u64> {
    // What was under way before may be counted by its way when it is over.
    pair.world.sleep(PHASE / 4);
    let before = Ledger::of(&pair.alpha);
    pair.world.sleep(PHASE);
    let after = Ledger::of(&pair.alpha);
    counters.iter().map(|counter| after.counter(*counter) - before.counter(*counter)).collect()
}

#[test]
fn an_engine_is_switched_under_load_and_loses_nothing() {
    for (seed, fast) in [(1, 1), (2, 0), (3, 1)] {
        machines::with_pair_of(seed, &options(&[(Policy::FastPath, fast)]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let disorder = watch_order(&pair.network);
            let loads = both_ways(pair, Duration::from_micros(300));
            for engine in [1, 2, 0, 2, 1, 0, 1, 0] {
                let why = format!("seed {seed}, fast path {fast}, engine {engine}");
                for station in [&pair.alpha, &pair.beta] {
                    set(station, Policy::SendEngine, engine);
                }
                let grown = growth(pair, &[Counter::DatagramsOut, Counter::InjectedOut]);
                assert!(grown[0] > 80, "{why}: {grown:?}");
                if engine == 0 {
                    assert_eq!(grown[1], 0, "{why}: {grown:?}");
                } else {
                    assert!(grown[1] > 60, "{why}: {grown:?}");
                }
            }
            drop(loads);
            nothing_lost(pair, &format!("seed {seed}, fast path {fast}"));
            // The simulated stack sends when it is called: each run left before the next was handed over, by whichever way.
            assert_eq!(*disorder.lock().unwrap(), 0, "seed {seed}, fast path {fast}");
        });
    }
}

#[test]
fn the_fast_path_goes_and_comes_under_load() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
        machines::with_pair_of(seed, &options(&[(Policy::SendEngine, engine)]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair, Duration::from_micros(200));
            for fast in [0, 1, 0, 1, 0, 1] {
                let why = format!("seed {seed}, engine {engine}, fast path {fast}");
                for station in [&pair.alpha, &pair.beta] {
                    set(station, Policy::FastPath, fast);
                }
                let [taken, passed] = growth(pair, &[Counter::Absorbed, Counter::PermittedOff])[..]
                    .try_into()
                    .unwrap();
                match (fast, engine) {
                    (0, 0) => assert_eq!((taken, passed), (0, 0), "{why}: the callouts are gone"),
                    (0, _) => assert!(taken == 0 && passed > 80, "{why}: {taken}, {passed}"),
                    _ => assert!(taken > 80 && passed == 0, "{why}: {taken}, {passed}"),
                }
            }
            drop(loads);
            nothing_lost(pair, &format!("seed {seed}, engine {engine}"));
        });
    }
}

/// Changes as fast as they can be made, on CPUs that come late to their queues: what is on a ring when its port goes is handed
/// over and counted.
#[test]
fn nothing_that_was_taken_is_lost_by_a_change() {
    for seed in 1..4 {
        machines::with_pair_of(seed, &options(&[]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            dpc::keep_busy(pair.beta.computer().machine(), Duration::from_micros(200));
            let loads = both_ways(pair, Duration::from_micros(40));
            for round in 0..20 {
                pair.world.sleep(Duration::from_micros(300));
                set(&pair.beta, Policy::SendEngine, round % 3);
            }
            drop(loads);
            pair.world.sleep(Duration::from_millis(100));
            let beta = Ledger::of(&pair.beta);
            assert!(beta.counter(Counter::Absorbed) > 100, "seed {seed}\n{beta}");
            let counts = fwp::counts(pair.beta.computer().machine());
            assert_eq!(beta.counter(Counter::Absorbed), counts.absorbed, "seed {seed}\n{beta}");
            nothing_lost(pair, &format!("seed {seed}"));
        });
    }
}

#[test]
fn what_may_be_held_changes_under_load() {
    for policy in [Policy::HeldPerCpu, Policy::HeldPerPeer] {
        machines::with_pair_of(5, &options(&[]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let full = if policy == Policy::HeldPerCpu {
                Counter::PermittedCpuFull
            } else {
                Counter::PermittedPeerFull
            };
            let loads = both_ways(pair, Duration::from_micros(300));
            for (value, takes) in
                [(Some(0), false), (Some(64), true), (Some(0), false), (None, true)]
            {
                pair.alpha.tunnel().set_policy(&[(policy, value)]).unwrap();
                let grown = growth(pair, &[Counter::Absorbed, full]);
                let name = policy.name();
                assert_eq!(
                    (grown[0] > 60, grown[1] > 60),
                    (takes, !takes),
                    "{name} {value:?}: {grown:?}"
                );
            }
            drop(loads);
            nothing_lost(pair, policy.name());
        });
    }
}

#[test]
fn every_adapter_follows_whichever_was_asked() {
    machines::on_virtual_time(6, |world, driver| {
        let pair = Pair::boot(world, &options(&[]), driver).unwrap();
        let others = [pair.alpha.beside(3).unwrap(), pair.beta.beside(4).unwrap()];
        machines::join(&others[0], &others[1]);
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&others[0], &others[1]);
        for engine in [1, 0, 2] {
            // The one that is asked carries none of the traffic that is looked at.
            set(&pair.alpha, Policy::SendEngine, engine);
            let before = Ledger::of(&others[0]).counter(Counter::InjectedOut);
            for _ in 0..10 {
                machines::ping(&others[0], &others[1]);
            }
            let after = Ledger::of(&others[0]).counter(Counter::InjectedOut);
            assert_eq!(after > before, engine != 0, "engine {engine}: {before}, {after}");
        }
        let Pair { alpha, beta, network, .. } = pair;
        let [three, four] = others;
        machines::finish(vec![alpha, beta, three, four], &network);
    });
}

/// How often the log of the machine says this.
fn said(station: &Station, text: &str) -> usize {
    let lines = station.computer().machine().prints();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn an_adapter_that_comes_up_reads_it_anew() {
    machines::with_pair_of(7, &options(&[]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let machine = pair.alpha.computer().machine();
        let injected = || Ledger::of(&pair.alpha).counter(Counter::InjectedOut);
        let name = Policy::SendEngine.name();
        for (value, injects) in [(1, true), (7, false), (2, true)] {
            machine.registry().set_u32(&machine.parameters_key(), name, value);
            let refused = said(&pair.alpha, "policy SendEngine is 7");
            pair.alpha.set_up(false).unwrap();
            pair.alpha.set_up(true).unwrap();
            let before = injected();
            for _ in 0..10 {
                machines::ping(&pair.alpha, &pair.beta);
            }
            assert_eq!(injected() > before, injects, "{name} = {value}");
            let refusals = said(&pair.alpha, "policy SendEngine is 7") - refused;
            assert_eq!(refusals, usize::from(value == 7), "{name} = {value}");
        }
    });
}

#[test]
fn a_wrong_value_is_the_default_and_does_no_harm() {
    machines::with_pair_of(8, &options(&[(Policy::SendEngine, 1)]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let loads = both_ways(pair, Duration::from_micros(300));
        set(&pair.alpha, Policy::SendEngine, 3);
        let grown = growth(pair, &[Counter::DatagramsOut, Counter::InjectedOut]);
        assert!(grown[0] > 80 && grown[1] == 0, "{grown:?}");
        assert_eq!(said(&pair.alpha, "policy SendEngine is 3, and may be 0 to 2: 0 applies"), 1);
        // A value of another type is none either.
        let machine = pair.alpha.computer().machine();
        machine.registry().set_text(&machine.parameters_key(), "FastPath", "0");
        set(&pair.alpha, Policy::SendEngine, 2);
        let grown = growth(pair, &[Counter::Absorbed, Counter::InjectedOut]);
        assert!(grown[0] > 60 && grown[1] > 60, "{grown:?}");
        assert_eq!(said(&pair.alpha, "policy FastPath cannot be read as a number"), 1);
        drop(loads);
        nothing_lost(pair, "wrong values");
    });
}

#[test]
fn what_cannot_be_had_the_sockets_do_and_asking_again_helps() {
    machines::with_pair_of(9, &options(&[]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let loads = both_ways(pair, Duration::from_micros(300));
        let machine = pair.alpha.computer().machine();
        machine.faults().refuse("FwpsInjectionHandleCreate0");
        set(&pair.alpha, Policy::SendEngine, 1);
        assert_eq!(said(&pair.alpha, "no injection"), 1, "{:?}", machine.prints());
        let counters = [Counter::Absorbed, Counter::InjectedOut];
        let grown = growth(pair, &counters);
        assert!(grown[0] > 60 && grown[1] == 0, "the callouts stay: {grown:?}");
        machine.faults().never();
        set(&pair.alpha, Policy::SendEngine, 1);
        let grown = growth(pair, &counters);
        assert!(grown[0] > 60 && grown[1] > 60, "{grown:?}");
        drop(loads);
        nothing_lost(pair, "without a handle");
        assert_eq!(Ledger::of(&pair.beta).discarded(Discard::BadTag), 0);
    });
}

#[test]
fn the_widest_vector_code_changes_under_load() {
    let mut options = options(&[]);
    options.cpus = 4;
    machines::with_pair_of(10, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let loads = both_ways(pair, Duration::from_micros(300));
        for cap in [0, 1, 2, 3, 4, 0, 4] {
            set(&pair.alpha, Policy::SimdCap, cap);
            let grown = growth(pair, &[Counter::DatagramsOut, Counter::PacketsIn]);
            assert!(grown[0] > 80 && grown[1] > 80, "{cap}: {grown:?}");
        }
        drop(loads);
        nothing_lost(pair, "tiers");
    });
}
