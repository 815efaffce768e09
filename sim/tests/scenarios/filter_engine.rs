//! The filter engine stops, starts, refuses, and holds on to callouts: the sockets have everything meanwhile.
//!
//! ```text
//!   BFE      ══ running ══╗ stopped ╔══ running ══
//!   beta     ── absorbs ──╨─ socket ╨─ absorbs ───     under load both ways, nothing lost
//!   objects      10           0          10            (provider, sublayer, 4 callouts, 4 filters)
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::Network;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp;
use sim::nt::machine::Machine;

/// What one port needs.
const OBJECTS: usize = 10;

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

fn both_ways(pair: &Pair) -> [Load; 2] {
    let every = Duration::from_micros(700);
    [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
        .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 600, every))
}

fn nothing_lost(pair: &Pair, why: &str) {
    pair.world.sleep(Duration::from_secs(1));
    let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
    for (one, other) in [(&alpha, &beta), (&beta, &alpha)] {
        let (sent, got) = (one.counter(Counter::PacketsOut), other.counter(Counter::PacketsIn));
        assert_eq!(got, sent, "{why}\n{one}\n{other}");
        assert_eq!(one.counter(Counter::HandshakesOut), 1, "{why}\n{one}");
    }
}

fn absorbed(station: &Station) -> u64 {
    Ledger::of(station).counter(Counter::Absorbed)
}

#[test]
fn it_stops_and_starts_under_load() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2), (4, 1)] {
        let options = machines::with_policy(Policy::SendEngine, engine);
        machines::with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair);
            let beta = machine(&pair.beta);
            for round in 0..4 {
                let why = format!("seed {seed}, engine {engine}, round {round}");
                let before = absorbed(&pair.beta);
                pair.world.sleep(Duration::from_millis(60));
                assert_eq!(fwp::objects(beta), OBJECTS, "{why}");
                assert!(absorbed(&pair.beta) > before + 20, "{why}: absorbs");
                fwp::stop_bfe(beta);
                // What is on a ring is still handed over.
                pair.world.sleep(Duration::from_millis(5));
                let (stopped, got) = (absorbed(&pair.beta), Ledger::of(&pair.beta));
                pair.world.sleep(Duration::from_millis(60));
                assert_eq!(fwp::objects(beta), 0, "{why}");
                let now = Ledger::of(&pair.beta);
                assert_eq!(now.counter(Counter::Absorbed), stopped, "{why}: no filters\n{now}");
                let [before, after] = [&got, &now].map(|it| it.counter(Counter::PacketsIn));
                assert!(after > before + 40, "{why}: the socket has them\n{now}");
                fwp::start_bfe(beta);
                pair.world.sleep(Duration::from_millis(5));
            }
            fwp::restart_bfe_later(beta, Duration::from_millis(7));
            pair.world.sleep(Duration::from_millis(60));
            drop(loads);
            assert_eq!(fwp::objects(beta), OBJECTS, "seed {seed}");
            nothing_lost(pair, &format!("seed {seed}, engine {engine}"));
        });
    }
}

#[test]
fn the_port_changes_while_it_stops_and_starts() {
    for seed in 1..5 {
        let options = machines::with_policy(Policy::SendEngine, 1);
        machines::with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair);
            for round in 0..8_u16 {
                fwp::restart_bfe_later(machine(&pair.alpha), Duration::from_millis(2));
                pair.world.sleep(Duration::from_millis(u64::from(round)));
                machines::set_port(&pair.alpha, 4501 + round);
                pair.world.sleep(Duration::from_millis(20));
            }
            drop(loads);
            machines::ping(&pair.beta, &pair.alpha);
            assert_eq!(fwp::objects(machine(&pair.alpha)), OBJECTS, "seed {seed}: of one port");
            let before = absorbed(&pair.alpha);
            for _ in 0..40 {
                assert!(pair.beta.endpoint().send_datagram(pair.alpha.inner()[0], vec![1; 64]));
                pair.world.sleep(Duration::from_millis(1));
            }
            assert!(absorbed(&pair.alpha) > before + 20, "seed {seed}: absorbs on the new port");
        });
    }
}

#[test]
fn what_is_refused_is_tried_again() {
    for (seed, function) in [
        (1, "FwpmEngineOpen0"),
        (2, "FwpmTransactionBegin0"),
        (3, "FwpmProviderAdd0"),
        (4, "FwpmSubLayerAdd0"),
        (5, "FwpmCalloutAdd0"),
        (6, "FwpmFilterAdd0"),
        (7, "FwpmTransactionCommit0"),
        (8, "FwpmFilterDeleteById0"),
    ] {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let loads = both_ways(pair);
            let beta = machine(&pair.beta);
            let why = format!("seed {seed}: {function}");
            pair.world.sleep(Duration::from_millis(50));
            beta.faults().refuse(function);
            // Another port, and then everything from the beginning.
            machines::set_port(&pair.beta, 4501);
            machines::set_port(&pair.beta, pair.beta.port());
            fwp::stop_bfe(beta);
            fwp::start_bfe(beta);
            pair.world.sleep(Duration::from_secs(3));
            assert_eq!(beta.faults().struck(), Some(function), "{why}: was called");
            let (taken, before) = (absorbed(&pair.beta), Ledger::of(&pair.beta));
            pair.world.sleep(Duration::from_millis(60));
            let after = Ledger::of(&pair.beta);
            let [before, now] = [&before, &after].map(|it| it.counter(Counter::PacketsIn));
            assert!(now > before + 40, "{why}: the socket has them\n{after}");
            if function != "FwpmFilterDeleteById0" {
                assert_eq!(after.counter(Counter::Absorbed), taken, "{why}: no filters\n{after}");
                assert_eq!(fwp::objects(beta), 0, "{why}");
            }
            beta.faults().never();
            pair.world.sleep(Duration::from_secs(2));
            assert_eq!(fwp::objects(beta), OBJECTS, "{why}");
            let taken = absorbed(&pair.beta);
            pair.world.sleep(Duration::from_millis(60));
            assert!(absorbed(&pair.beta) > taken + 20, "{why}: absorbs again");
            drop(loads);
        });
    }
}

/// Two stations of which the first is loaded anew after `spoil`, and works by its sockets alone.
fn starts_without(seed: u64, spoil: impl Fn(&Machine), mend: impl Fn(&Machine), heals: bool) {
    machines::on_virtual_time(seed, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            let mut options = machines::with_policy(Policy::SendEngine, 1);
            name.clone_into(&mut options.name);
            Station::boot(world, &network, number, options, driver).unwrap()
        };
        let (alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        spoil(machine(&alpha));
        let (alpha, leaks) = alpha.restart(driver).unwrap();
        machines::nothing_left(&leaks);
        machines::join(&alpha, &beta);
        machines::ping(&alpha, &beta);
        let ledger = Ledger::of(&alpha);
        let by_callouts = (ledger.counter(Counter::Absorbed), ledger.permitted());
        assert_eq!(by_callouts, (0, 0), "seed {seed}: there are none\n{ledger}");
        mend(machine(&alpha));
        world.sleep(Duration::from_secs(2));
        for _ in 0..50 {
            assert!(beta.endpoint().send_datagram(alpha.inner()[0], vec![1; 64]));
            world.sleep(Duration::from_millis(1));
        }
        assert_eq!(absorbed(&alpha) > 10, heals, "seed {seed}\n{}", Ledger::of(&alpha));
        machines::finish(vec![alpha, beta], &network);
    });
}

#[test]
fn the_driver_starts_without_it() {
    for seed in 1..4 {
        starts_without(seed, fwp::stop_bfe, fwp::start_bfe, true);
        for function in ["FwpsCalloutRegister2", "FwpmBfeStateSubscribeChanges0"] {
            let refuse = |machine: &Machine| machine.faults().refuse(function);
            let used = |machine: &Machine| machine.faults().struck() == Some(function);
            starts_without(seed, refuse, |machine| assert!(used(machine), "{function}"), false);
        }
    }
}

#[test]
fn callouts_that_are_held_on_to_are_waited_for() {
    const DEVICE_BUSY: i32 = 0x8000_0011_u32 as i32;
    const IN_USE: i32 = 0xC022_000A_u32 as i32;
    for seed in 1..4 {
        machines::on_virtual_time(seed, |world, driver| {
            let pair = Pair::boot(world, &machines::verified("machine"), driver).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            let load = both_ways(&pair);
            world.sleep(Duration::from_millis(30));
            for station in [&pair.alpha, &pair.beta] {
                let machine = machine(station);
                fwp::refuse_unregistering(machine, &[DEVICE_BUSY, IN_USE].repeat(5));
                fwp::restart_bfe_later(machine, Duration::from_millis(1));
            }
            drop(load);
            let Pair { alpha, beta, .. } = pair;
            for station in [alpha, beta] {
                // That includes callouts, sessions, subscriptions, objects and lists.
                machines::nothing_left(&station.shut_down().unwrap());
            }
        });
    }
}
