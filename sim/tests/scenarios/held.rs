//! The CPUs have no time for DPCs for a while: what was taken waits on the rings, up to the bounds, and the sockets have the rest.
//!
//! ```text
//!                  ┌─ taken: 3 of each CPU, 3 of each peer, 256 on each ring ── DPC, later ─┐
//!   datagrams ─────┤                                                                        ├── adapter
//!                  └─ PermittedCpuFull, PermittedPeerFull, PermittedRingFull ── sockets ────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::Direction;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::Network;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Machine;
use sim::nt::{dpc, fwp};

/// More than any machine holds.
const NO_BOUND: u32 = 65_536;

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

fn send(pair: &Pair, count: usize) {
    for _ in 0..count {
        while !pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![6; 200]) {
            pair.world.sleep(Duration::from_micros(50));
        }
        pair.world.sleep(Duration::from_micros(20));
    }
}

/// Runs rounds of `count` datagrams while DPCs are withheld, and checks that exactly `most` are held of them, that `counter`
/// counts the others, and that all sums are right.
fn bounded(policies: &[(Policy, u32)], count: usize, most: usize, counter: Counter) {
    for seed in 1..3 {
        machines::with_pair_of(seed, &machines::with_policies(policies), |pair| {
            let beta = machine(&pair.beta);
            machines::ping(&pair.alpha, &pair.beta);
            for round in 0..4 {
                let why = format!("seed {seed}, round {round}: {policies:?}");
                let (before, asked) = (Ledger::of(&pair.beta), fwp::counts(beta).classified);
                let window = Duration::from_micros(20) * count as u32 + Duration::from_millis(60);
                dpc::withhold(beta, window);
                send(pair, count);
                pair.world.sleep(Duration::from_millis(20));
                assert_eq!(fwp::held_nic_buffers(beta), most, "{why}: held");
                let (full, now) = (Ledger::of(&pair.beta), fwp::counts(beta).classified);
                let more = |counter| full.counter(counter) - before.counter(counter);
                assert_eq!(more(Counter::Absorbed), 0, "{why}: none is handed over yet\n{full}");
                let passed = full.permitted() - before.permitted();
                assert_eq!(passed + most as u64, now - asked, "{why}\n{full}");
                let others = passed - more(counter);
                assert!(more(counter) > 0 && others <= passed / 2, "{why}\n{full}");
                pair.world.sleep(window);
                let after = Ledger::of(&pair.beta);
                assert_eq!(fwp::held_nic_buffers(beta), 0, "{why}: given back");
                let taken = after.counter(Counter::Absorbed) - before.counter(Counter::Absorbed);
                assert_eq!(taken, most as u64, "{why}\n{after}");
            }
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            let (sent, got) =
                (alpha.counter(Counter::PacketsOut), beta.counter(Counter::PacketsIn));
            assert_eq!(got, sent, "seed {seed}: {policies:?}\n{alpha}\n{beta}");
            assert_eq!(beta.discards(Direction::Inbound), 0, "seed {seed}: {policies:?}\n{beta}");
        });
    }
}

#[test]
fn three_of_each_cpu() {
    bounded(&[(Policy::HeldPerCpu, 3)], 100, 2 * 3, Counter::PermittedCpuFull);
}

#[test]
fn three_of_each_peer() {
    bounded(&[(Policy::HeldPerPeer, 3)], 100, 3, Counter::PermittedPeerFull);
}

#[test]
fn as_many_as_a_ring_has_room_for() {
    let policies = [(Policy::HeldPerCpu, NO_BOUND), (Policy::HeldPerPeer, NO_BOUND)];
    bounded(&policies, 1200, 2 * 256, Counter::PermittedRingFull);
}

/// The card's buffers are with the driver itself when its adapter is pulled out.
#[test]
fn an_adapter_is_pulled_out_with_ten_thousand_on_its_rings() {
    const LISTS: usize = 10_000;
    for (seed, engine) in [(1, 0), (2, 1)] {
        machines::on_virtual_time(seed, |world, driver| {
            let network = Network::new(world);
            let policies = [
                (Policy::HeldPerCpu, NO_BOUND),
                (Policy::HeldPerPeer, NO_BOUND),
                (Policy::SendEngine, engine),
            ];
            let boot = |name: &str, number, cpus| {
                let mut options = machines::with_policies(&policies);
                name.clone_into(&mut options.name);
                options.cpus = cpus;
                Station::boot(world, &network, number, options, driver).unwrap()
            };
            // A ring holds 256, and each CPU has one.
            let (alpha, station) = (boot("alpha", 1, 2), boot("beta", 2, 48));
            machines::join(&alpha, &station);
            machines::ping(&alpha, &station);
            let beta = station.computer().machine().clone();
            fwp::limit_nic_buffers(&beta, 2 * LISTS);
            let handed_over = Ledger::of(&station).counter(Counter::Absorbed);
            dpc::withhold(&beta, Duration::from_secs(30));
            let every = Duration::from_micros(100);
            let load = machines::Load::start(world, &alpha, station.inner()[0], 100, every);
            while fwp::held_nic_buffers(&beta) < LISTS {
                assert!(!beta.is_dead(), "{}", sim::host::computer::report(&beta));
                world.sleep(Duration::from_millis(10));
            }
            let ledger = Ledger::of(&station);
            assert_eq!(ledger.counter(Counter::Absorbed), handed_over, "seed {seed}\n{ledger}");
            // The load goes on into what is gone.
            let place = station.pull_out().unwrap();
            let computer = place.computer();
            drop(load);
            assert_eq!(fwp::held_nic_buffers(&beta), 0, "seed {seed}: all are given back");
            assert_eq!(fwp::objects(&beta), 0, "seed {seed}: nothing asks for more");
            machines::nothing_left(&computer.unload().unwrap());
            machines::nothing_left(&alpha.shut_down().unwrap());
        });
    }
}
