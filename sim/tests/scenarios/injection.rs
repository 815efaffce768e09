//! Datagrams leave by injection, in either shape of list, and by the sockets whenever that is not to be had.
//!
//! ```text
//!              ┌─ injected (InjectedOut) ─────────────────┐
//!   sealed ────┤                                          ├── network
//!              └─ handed over (InjectionPassed) ─ socket ─┘
//!                 no endpoint yet · firewall · refused
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
use sim::nt::fwp;
use sim::nt::machine::{Machine, Options};

fn engine(engine: u32, fast: u32) -> Options {
    machines::with_policies(&[(Policy::SendEngine, engine), (Policy::FastPath, fast)])
}

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

/// Loads both ways, a packet every `every`.
fn both_ways(pair: &Pair, every: Duration) -> [Load; 2] {
    [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
        .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 1000, every))
}

/// What one sent the other has got, and every datagram left by one of the two ways.
fn nothing_lost(pair: &Pair, why: &str) {
    let ledgers = [Ledger::of(&pair.alpha), Ledger::of(&pair.beta)];
    for (one, other) in [(&ledgers[0], &ledgers[1]), (&ledgers[1], &ledgers[0])] {
        let (sent, got) = (one.counter(Counter::PacketsOut), other.counter(Counter::PacketsIn));
        assert_eq!(got, sent, "{why}\n{one}\n{other}");
        assert_eq!(one.discards(Direction::Outbound), 0, "{why}\n{one}");
        let ways = one.counter(Counter::InjectedOut) + one.counter(Counter::InjectionPassed);
        assert_eq!(ways, one.counter(Counter::DatagramsOut), "{why}\n{one}");
    }
}

#[test]
fn every_engine_carries_files_byte_for_byte() {
    let file: Vec<u8> = (0..150_000_u32).map(|at| ((at * 31) >> 5) as u8 ^ at as u8).collect();
    for seed in 1..3 {
        for (number, fast) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
            machines::with_pair_of(seed, &engine(number, fast), |pair| {
                let why = format!("seed {seed}, engine {number}, fast path {fast}");
                for (from, at) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                    machines::send_file(from, at, &file, &why);
                    pair.world.sleep(Duration::from_secs(1));
                    let ledger = Ledger::of(from);
                    let injected = ledger.counter(Counter::InjectedOut);
                    assert_eq!(injected > 50, number != 0, "{why}\n{ledger}");
                    let taken = Ledger::of(at).counter(Counter::Absorbed);
                    assert_eq!(taken > 20, fast != 0, "{why}\n{ledger}");
                }
                if number != 0 {
                    nothing_lost(pair, &why);
                }
            });
        }
    }
}

#[test]
fn an_engine_that_fails_hands_over_and_loses_nothing() {
    for function in ["FwpsInjectTransportSendAsync1", "FwpsAllocateNetBufferAndNetBufferList0"] {
        for (seed, number) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            machines::with_pair_of(seed, &engine(number, 1), |pair| {
                machines::ping(&pair.alpha, &pair.beta);
                let loads = both_ways(pair, Duration::from_micros(700));
                let ledger = || Ledger::of(&pair.alpha);
                for round in 0..3 {
                    let why = format!("seed {seed}, engine {number}, {function}, round {round}");
                    let injected = ledger().counter(Counter::InjectedOut);
                    pair.world.sleep(Duration::from_millis(40));
                    let before = ledger();
                    assert!(
                        before.counter(Counter::InjectedOut) > injected + 20,
                        "{why}\n{before}"
                    );
                    machine(&pair.alpha).faults().refuse(function);
                    // What is already with the stack completes.
                    pair.world.sleep(Duration::from_millis(10));
                    let broken = ledger();
                    pair.world.sleep(Duration::from_millis(40));
                    let after = ledger();
                    machine(&pair.alpha).faults().never();
                    for (counter, more) in
                        [(Counter::InjectedOut, false), (Counter::InjectionPassed, true)]
                    {
                        let [early, late] = [&broken, &after].map(|it| it.counter(counter));
                        assert_eq!(late > early + 20, more, "{why}\n{broken}\n{after}");
                        assert!(more || late == early, "{why}\n{broken}\n{after}");
                    }
                }
                drop(loads);
                pair.world.sleep(Duration::from_secs(1));
                nothing_lost(pair, function);
            });
        }
    }
}

#[test]
fn completions_may_be_withheld() {
    for (seed, number) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        machines::with_pair_of(seed, &engine(number, 1), |pair| {
            let why = format!("seed {seed}, engine {number}");
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair, Duration::from_millis(1));
            pair.world.sleep(Duration::from_millis(20));
            fwp::hold_injections(machine(&pair.alpha), true);
            pair.world.sleep(Duration::from_millis(300));
            let pending = fwp::pending_injections(machine(&pair.alpha));
            assert!(pending >= 32, "{why}: {pending} wait");
            // With every request out the sockets go on.
            let before = Ledger::of(&pair.beta).counter(Counter::PacketsIn);
            pair.world.sleep(Duration::from_millis(50));
            let beta = Ledger::of(&pair.beta);
            assert!(beta.counter(Counter::PacketsIn) > before + 20, "{why}\n{beta}");
            // The port goes, and waits for what was injected from it.
            let (alpha, clock) = (pair.alpha.computer().machine().clone(), pair.world.clone());
            let wait = Duration::from_millis(200);
            let stack = pair.world.spawn("the stack goes on", move || {
                clock.sleep(wait);
                fwp::hold_injections(&alpha, false);
            });
            let began = pair.world.now();
            machines::set_port(&pair.alpha, 4501);
            assert!(pair.world.now() >= began + wait, "{why}: gone before its completions");
            assert!(stack.join(Some(pair.world.now() + wait)), "{why}");
            drop(loads);
            pair.world.sleep(Duration::from_millis(100));
            assert_eq!(fwp::pending_injections(machine(&pair.alpha)), 0, "{why}");
            machines::ping(&pair.alpha, &pair.beta);
        });
    }
}

#[test]
fn an_endpoint_that_is_gone_is_sent_from_no_more() {
    for (seed, number) in [(1, 1), (2, 2)] {
        machines::with_pair_of(seed, &engine(number, 1), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair, Duration::from_micros(900));
            for port in 4501..4507 {
                pair.world.sleep(Duration::from_millis(40));
                machines::set_port(&pair.alpha, port);
                sim::nt::wsk::lose_transport(machine(&pair.beta));
            }
            let before = Ledger::of(&pair.alpha).counter(Counter::InjectedOut);
            pair.world.sleep(Duration::from_millis(60));
            drop(loads);
            machines::ping(&pair.alpha, &pair.beta);
            let alpha = Ledger::of(&pair.alpha);
            let why = format!("seed {seed}, engine {number}");
            assert!(alpha.counter(Counter::InjectedOut) > before + 20, "{why}\n{alpha}");
            assert_eq!(alpha.counter(Counter::HandshakesOut), 1, "{why}\n{alpha}");
        });
    }
}
