//! Somebody else's callout clones what comes and what goes, and puts the clones back, later and in another order.
//!
//! ```text
//!               neighbour                        stack                ours
//!   datagram ── clones, absorbs ─ 0..5 ms ─ injected by another ── taken, or let pass
//!   run ─────── clones, absorbs ─ 0..5 ms ─ previously by us ────── let pass ─ network
//!                  └ the run, its IRP and its injection wait for the clone ┘
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

const DELAY: Duration = Duration::from_millis(5);

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

/// A neighbour that clones one packet in so many that come, and one list in so many that go.
fn cloner(clones: u32, clones_sent: u32) -> Neighbour {
    Neighbour { clones, clones_sent, delay: DELAY, ..Neighbour::default() }
}

fn set(pair: &Pair, habits: Neighbour) {
    for station in [&pair.alpha, &pair.beta] {
        fwp::set_neighbour(machine(station), habits);
    }
}

/// Nothing that was cloned is still out, and of what was sent nothing is lost.
fn all_is_back(pair: &Pair, why: &str) {
    let ledgers = [Ledger::of(&pair.alpha), Ledger::of(&pair.beta)];
    for (station, ledger) in [&pair.alpha, &pair.beta].into_iter().zip(&ledgers) {
        let out = (fwp::held_clones(machine(station)), fwp::held_nic_buffers(machine(station)));
        assert_eq!(out, (0, 0), "{why}: clones, and buffers held");
        assert_eq!(fwp::pending_injections(machine(station)), 0, "{why}");
        assert_eq!(ledger.discards(Direction::Inbound), 0, "{why}\n{ledger}");
        assert_eq!(ledger.discards(Direction::Outbound), 0, "{why}\n{ledger}");
    }
    let [alpha, beta] = &ledgers;
    for (one, other) in [(alpha, beta), (beta, alpha)] {
        let (sent, got) = (one.counter(Counter::PacketsOut), other.counter(Counter::PacketsIn));
        assert_eq!(got, sent, "{why}\n{one}\n{other}");
    }
}

#[test]
fn the_same_bytes_through_clones_of_what_comes_and_goes() {
    let file: Vec<u8> = (0..150_000_u32).map(|at| ((at * 37) >> 4) as u8 ^ at as u8).collect();
    for (seed, engine, fast) in [(1, 0, 0), (2, 0, 1), (3, 1, 1), (4, 2, 1), (5, 1, 0)] {
        for habits in [cloner(2, 0), cloner(0, 2), cloner(3, 3)] {
            let policies = [(Policy::SendEngine, engine), (Policy::FastPath, fast)];
            machines::with_pair_of(seed, &machines::with_policies(&policies), |pair| {
                let why = format!("seed {seed}, engine {engine}, fast path {fast}: {habits:?}");
                machines::ping(&pair.alpha, &pair.beta);
                let before = Ledger::of(&pair.beta);
                set(pair, habits);
                for (from, at) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                    machines::send_file(from, at, &file, &why);
                }
                pair.world.sleep(Duration::from_secs(1));
                set(pair, Neighbour::default());
                all_is_back(pair, &why);
                let after = Ledger::of(&pair.beta);
                let more = |counter| after.counter(counter) - before.counter(counter);
                assert_eq!(more(Counter::Absorbed) > 20, fast != 0, "{why}\n{after}");
                // What it cloned it had decided, and our callout is asked about that, too.
                let asked = fast != 0 || engine != 0;
                let decided = habits.clones > 0 && asked;
                assert_eq!(more(Counter::PermittedNoRight) > 20, decided, "{why}\n{after}");
                let injects = more(Counter::InjectedOut) > 20;
                assert_eq!(injects, engine != 0, "{why}\n{after}");
            });
        }
    }
}

/// What the callouts were asked about is what they count, clones and all.
#[test]
fn the_rows_of_clones_add_up() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            set(pair, cloner(2, 0));
            let every = Duration::from_micros(300);
            let load = Load::start(&pair.world, &pair.alpha, pair.beta.inner()[0], 900, every);
            pair.world.sleep(Duration::from_millis(200));
            drop(load);
            pair.world.sleep(Duration::from_secs(1));
            let (beta, stack) = (Ledger::of(&pair.beta), fwp::counts(machine(&pair.beta)));
            let put_back = stack.absorbed - beta.counter(Counter::Absorbed);
            assert!(put_back > 50, "seed {seed}\n{beta}");
            // Each clone is one more classify than the card has received.
            let judged = beta.counter(Counter::Absorbed) + beta.permitted();
            let asked = stack.classified - stack.no_buffer + put_back;
            assert_eq!(judged, asked, "seed {seed}: {stack:?}\n{beta}");
            assert!(beta.counter(Counter::PermittedNoRight) >= put_back, "seed {seed}\n{beta}");
            set(pair, Neighbour::default());
            all_is_back(pair, &format!("seed {seed}"));
        });
    }
}

#[test]
fn an_adapter_is_pulled_out_with_clones_of_its_datagrams_about() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2), (4, 1)] {
        machines::on_virtual_time(seed, |world, driver| {
            let options = machines::with_policy(Policy::SendEngine, engine);
            let pair = Pair::boot(world, &options, driver).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            let beta = pair.beta.computer().machine().clone();
            let slow = Neighbour { delay: Duration::from_millis(300), ..cloner(1, 1) };
            fwp::set_neighbour(&beta, slow);
            let every = Duration::from_micros(500);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(world, one, other.inner()[0], 300, every));
            world.sleep(Duration::from_millis(100));
            assert!(fwp::held_clones(&beta) > 100, "seed {seed}");
            assert_eq!(fwp::pending_injections(&beta) > 0, engine != 0, "seed {seed}");
            let Pair { alpha, beta: station, .. } = pair;
            let place = station.pull_out().unwrap();
            let computer = place.computer();
            drop(loads);
            assert_eq!(fwp::pending_injections(&beta), 0, "seed {seed}: waits for its own");
            fwp::set_neighbour(&beta, Neighbour::default());
            world.sleep(Duration::from_secs(1));
            let out = (fwp::held_clones(&beta), fwp::held_nic_buffers(&beta));
            assert_eq!(out, (0, 0), "seed {seed}: each is put back, or has nowhere to go");
            machines::nothing_left(&computer.unload().unwrap());
            machines::nothing_left(&alpha.shut_down().unwrap());
        });
    }
}
