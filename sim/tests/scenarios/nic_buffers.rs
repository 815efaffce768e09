//! The network card's buffers are few, withheld, or all with callouts when the adapter is pulled out.
//!
//! ```text
//!   card  ▭▭▭▭▭▭▭▭ 10,000 ── referenced by a neighbour, some by us ── adapter ✂
//!         ◄──────────────── each comes back once, nothing is touched afterwards
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp::{self, Neighbour};
use sim::nt::machine::Machine;

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

#[test]
fn a_card_of_four_buffers_does_not_starve() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2)] {
        let options = machines::with_policy(Policy::SendEngine, engine);
        machines::with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            fwp::limit_nic_buffers(machine(&pair.beta), 4);
            let file: Vec<u8> = (0..200_000_u32).map(|at| ((at * 13) >> 3) as u8).collect();
            let (from, to) = (pair.alpha.inner()[0], pair.beta.inner()[0]);
            let sent = pair.alpha.endpoint().send_file(to, &file, machines::PATIENCE);
            assert!(sent.is_some(), "seed {seed}");
            assert!(pair.beta.endpoint().take_file(from) == Some(file), "seed {seed}: other bytes");
            assert!(Ledger::of(&pair.beta).counter(Counter::Absorbed) > 50, "seed {seed}");
            pair.world.sleep(Duration::from_secs(1));
            assert_eq!(fwp::held_nic_buffers(machine(&pair.beta)), 0, "seed {seed}");
        });
    }
}

#[test]
fn what_is_withheld_comes_back_and_traffic_goes_on() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let beta = machine(&pair.beta);
            fwp::limit_nic_buffers(beta, 64);
            let holds =
                Neighbour { holds: 1, delay: Duration::from_millis(500), ..Neighbour::default() };
            fwp::set_neighbour(beta, holds);
            let every = Duration::from_millis(1);
            let load = Load::start(&pair.world, &pair.alpha, pair.beta.inner()[0], 400, every);
            pair.world.sleep(Duration::from_millis(300));
            assert_eq!(fwp::held_nic_buffers(beta), 64, "seed {seed}: every one");
            assert!(fwp::counts(beta).no_buffer > 100, "seed {seed}");
            fwp::set_neighbour(beta, Neighbour::default());
            pair.world.sleep(Duration::from_millis(600));
            let before = Ledger::of(&pair.beta).counter(Counter::PacketsIn);
            pair.world.sleep(Duration::from_millis(100));
            let now = Ledger::of(&pair.beta);
            assert!(now.counter(Counter::PacketsIn) > before + 80, "seed {seed}\n{now}");
            drop(load);
            pair.world.sleep(Duration::from_millis(100));
            assert_eq!(fwp::held_nic_buffers(beta), 0, "seed {seed}");
        });
    }
}

#[test]
fn an_adapter_is_pulled_out_with_ten_thousand_referenced() {
    const LISTS: usize = 10_000;
    for (seed, engine) in [(1, 0), (2, 1), (3, 2)] {
        machines::on_virtual_time(seed, |world, driver| {
            let options = machines::with_policy(Policy::SendEngine, engine);
            let pair = Pair::boot(world, &options, driver).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            let beta = pair.beta.computer().machine().clone();
            fwp::limit_nic_buffers(&beta, 2 * LISTS);
            let holds =
                Neighbour { holds: 1, delay: Duration::from_secs(60), ..Neighbour::default() };
            fwp::set_neighbour(&beta, holds);
            let every = Duration::from_micros(100);
            let load = Load::start(world, &pair.alpha, pair.beta.inner()[0], 100, every);
            while fwp::held_nic_buffers(&beta) < LISTS {
                assert!(!beta.is_dead(), "{}", sim::host::computer::report(&beta));
                world.sleep(Duration::from_millis(10));
            }
            let ledger = Ledger::of(&pair.beta);
            assert!(ledger.counter(Counter::Absorbed) > 8000, "seed {seed}\n{ledger}");
            let Pair { alpha, beta: station, .. } = pair;
            fwp::set_neighbour(&beta, Neighbour::default());
            // The load goes on into what is gone. The neighbour keeps the lists for a while yet.
            let place = station.pull_out().unwrap();
            let computer = place.computer();
            drop(load);
            assert!(fwp::held_nic_buffers(&beta) >= LISTS, "seed {seed}");
            assert_eq!(fwp::objects(&beta), 0, "seed {seed}: nothing asks for more");
            world.sleep(Duration::from_secs(61));
            assert_eq!(fwp::held_nic_buffers(&beta), 0, "seed {seed}: each comes back");
            machines::nothing_left(&computer.unload().unwrap());
            machines::nothing_left(&alpha.shut_down().unwrap());
        });
    }
}
