//! What is sent to this machine itself: between two adapters of it, or from an adapter to its own port. The callouts let it pass.
//!
//! ```text
//!        ┌────────── alpha, 192.0.2.1 ──────────┐
//!   ─────┤ adapter 1, :51820 ─┐                 │
//!        │                    ├ PermittedLoopback
//!   ─────┤ adapter 2, :51823 ─┘                 │
//!        └──────────────────────────────────────┘
//!   ─────┤ adapter 1, :51820 ◄┐ injected from there: PermittedInjected
//!        └────────────────────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::Network;
use sim::host::memory::pair::Station;
use sim::nt::fwp;
use sim::nt::machine::Options;

const STAYS: &str = "LOOPED_LISTS_STAY_INJECTED";

fn options(engine: u32, stays_injected: bool) -> Options {
    let mut options = machines::with_policy(Policy::SendEngine, engine);
    options.choices.insert(STAYS.to_owned(), stays_injected);
    options
}

fn between_two_of_one_machine(seed: u64, engine: u32, stays_injected: bool) {
    machines::on_virtual_time(seed, |world, driver| {
        let network = Network::new(world);
        let alpha =
            Station::boot(world, &network, 1, options(engine, stays_injected), driver).unwrap();
        let second = alpha.beside(3).unwrap();
        machines::join(&alpha, &second);
        for _ in 0..30 {
            machines::ping(&alpha, &second);
            machines::ping(&second, &alpha);
        }
        let ledgers = [&alpha, &second].map(Ledger::of);
        let both = |counter| ledgers.iter().map(|ledger| ledger.counter(counter)).sum::<u64>();
        let why = format!("seed {seed}, engine {engine}, stays injected: {stays_injected}");
        let why = format!("{why}\n{}\n{}", ledgers[0], ledgers[1]);
        assert_eq!(both(Counter::Absorbed), 0, "{why}");
        assert_eq!(both(Counter::InjectedOut) > 100, engine != 0, "{why}");
        // Each port has an injection handle of its own, so to the other this is somebody else's.
        assert_eq!(both(Counter::PermittedInjected), 0, "{why}");
        assert!(both(Counter::PermittedLoopback) > 200, "{why}");
        let stack = fwp::counts(alpha.computer().machine());
        let judged: u64 = ledgers.iter().map(Ledger::permitted).sum();
        assert_eq!(judged, stack.classified - stack.no_buffer, "{why}");
        machines::finish(vec![alpha, second], &network);
    });
}

#[test]
fn between_adapters_of_one_machine_the_sockets_carry_all() {
    for seed in 1..3 {
        for (engine, stays) in [(0, true), (1, false), (1, true), (2, false), (2, true)] {
            between_two_of_one_machine(seed, engine, stays);
        }
    }
}

#[test]
fn what_is_injected_to_its_own_port_is_not_taken_by_it() {
    const COUNT: u64 = 50;
    for (seed, engine, stays) in
        [(1, 0, true), (2, 1, true), (3, 1, false), (4, 2, true), (5, 2, false)]
    {
        machines::with_pair_of(seed, &options(engine, stays), |pair| {
            for _ in 0..3 {
                machines::ping(&pair.alpha, &pair.beta);
            }
            // Somebody has told alpha that its peer is where it is itself.
            let right = pair.beta.as_peer().unwrap();
            let mut wrong = right.clone();
            wrong.endpoint = Some(SocketAddr::new(pair.alpha.outer()[0], pair.alpha.port()));
            pair.alpha.set_peers(&[wrong]).unwrap();
            let before = Ledger::of(&pair.alpha);
            for _ in 0..COUNT {
                assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![8; 300]));
                pair.world.sleep(Duration::from_micros(300));
            }
            pair.world.sleep(Duration::from_millis(200));
            let after = Ledger::of(&pair.alpha);
            let why = format!("seed {seed}, engine {engine}, stays injected: {stays}\n{after}");
            let more = |counter| after.counter(counter) - before.counter(counter);
            let [injected, looped] =
                [Counter::PermittedInjected, Counter::PermittedLoopback].map(more);
            assert_eq!(injected + looped, COUNT, "{why}");
            assert_eq!(injected > COUNT / 2, engine != 0 && stays, "{why}");
            assert_eq!(looped > COUNT / 2, engine == 0 || !stays, "{why}");
            assert_eq!(more(Counter::Absorbed), 0, "{why}");
            // A session of beta's is none of alpha's.
            let strange = after.discarded(Discard::UnknownReceiver)
                - before.discarded(Discard::UnknownReceiver);
            assert_eq!(strange, COUNT, "{why}");
            pair.alpha.set_peers(&[right]).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
        });
    }
}
