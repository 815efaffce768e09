//! A network that keeps what it was given: packets stay in the adapter's ring, and the stack above sees a full queue.
//!
//! ```text
//!   stack ──► ring ──► sealed into runs ──► the network keeps them: no run left
//!         full ◄── stays                    └─ gives one back: the ring is looked at again
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::computer::report;
use sim::host::memory::Network;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::wsk;
use sim::verifier::schedule::JoinHandle;

use crate::machines::accounting::Ledger;
use crate::machines::{self, with_pair_of};

/// More than there are runs for, and room in the ring.
const MANY: usize = 20_000;

/// Sends until the stack is told that the queue is full; how many were taken.
fn fill(pair: &Pair) -> usize {
    (0..MANY)
        .take_while(|number| {
            if number % 32 == 0 {
                pair.world.sleep(Duration::from_micros(50));
            }
            pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![0x77; 1000])
        })
        .count()
}

fn with_a_network_that_keeps(scenario: impl Fn(&Pair, &dyn Fn(bool))) {
    for seed in 1..=2 {
        with_pair_of(seed, &machines::with_policy(Policy::SendEngine, 0), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let machine = pair.alpha.computer().machine();
            scenario(pair, &|keeps| wsk::hold_sends(machine, keeps));
        });
    }
}

fn arrived(pair: &Pair) -> usize {
    let next = || pair.beta.endpoint().take_datagram(Duration::from_millis(200));
    std::iter::from_fn(next).count()
}

#[test]
fn what_the_network_gives_back_in_time_loses_nothing() {
    with_a_network_that_keeps(|pair, keep| {
        keep(true);
        let taken = fill(pair);
        assert!((1000..MANY).contains(&taken), "{taken} were taken before the queue was full");
        pair.world.sleep(Duration::from_millis(20));
        keep(false);
        assert_eq!(arrived(pair), taken);
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.discarded(Discard::QueueFull), 0, "{ledger}");
    });
}

/// The network gives back what it keeps, in a moment.
fn release_soon(pair: &Pair) -> JoinHandle {
    let (clock, machine) = (pair.world.clone(), pair.alpha.computer().machine().clone());
    pair.world.spawn("network", move || {
        clock.sleep(Duration::from_millis(30));
        wsk::hold_sends(&machine, false);
    })
}

#[test]
fn an_adapter_that_goes_down_meanwhile_leaves_nothing_in_its_ring() {
    with_a_network_that_keeps(|pair, keep| {
        keep(true);
        fill(pair);
        let released = release_soon(pair);
        // Waits for the sends, since the sockets must not close before.
        pair.alpha.set_up(false).unwrap();
        assert!(released.join(Some(pair.world.now() + Duration::from_secs(1))));
        pair.alpha.set_up(true).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
    });
}

/// What the driver has left in the ring goes no further.
#[test]
fn an_adapter_that_is_paused_meanwhile_counts_what_was_in_its_ring() {
    with_a_network_that_keeps(|pair, keep| {
        keep(true);
        fill(pair);
        let released = release_soon(pair);
        // The transmit queue does not end before what it gave is back.
        let machine = pair.alpha.computer().machine();
        let restarted = pair.alpha.tunnel().adapter().pause_and_restart(machine);
        assert!(restarted.is_ok(), "{}", report(machine));
        assert!(released.join(Some(pair.world.now() + Duration::from_secs(1))));
        let ledger = Ledger::of(&pair.alpha);
        assert!(ledger.discarded(Discard::Stopping) > 0, "{ledger}");
        machines::ping(&pair.alpha, &pair.beta);
    });
}

/// Sends a chunk to `to`.
fn batch_to(alpha: &Station, to: &Station) {
    for _ in 0..32 {
        assert!(alpha.endpoint().send_datagram(to.inner()[0], vec![0x77; 1000]));
    }
    alpha.computer().machine().world().sleep(Duration::from_micros(200));
}

/// Sends to `to` until the driver leaves packets in its ring.
fn until_some_stay(alpha: &Station, to: &Station) {
    let taken = || Ledger::of(alpha).counter(Counter::PacketsOut);
    for _ in 0..MANY {
        let before = taken();
        batch_to(alpha, to);
        if taken() == before {
            return;
        }
    }
    panic!("all are taken");
}

/// Nothing is sent any more, nor comes back: it is the driver that looks at its ring after a while.
#[test]
fn a_kept_destination_stops_the_others_for_a_tenth_of_a_second() {
    for seed in 1..=4 {
        machines::on_virtual_time(seed, |world, driver| {
            let network = Network::new(world);
            let boot = |number| {
                let options = machines::with_policy(Policy::SendEngine, 0);
                Station::boot(world, &network, number, options, driver).unwrap()
            };
            let stations = [1, 2, 3].map(boot);
            let [alpha, beta, gamma] = &stations;
            machines::join(alpha, beta);
            machines::join(alpha, gamma);
            machines::ping(alpha, beta);
            machines::ping(alpha, gamma);
            wsk::keep_sends(alpha.computer().machine(), Some(beta.outer()[0]));
            until_some_stay(alpha, beta);
            let full = || Ledger::of(alpha).discarded(Discard::QueueFull);
            assert_eq!(full(), 0, "seed {seed}");
            let took = alpha.endpoint().ping(gamma.inner()[0], 56, machines::PATIENCE);
            let took = took.unwrap_or_else(|| panic!("seed {seed}: gamma does not answer"));
            let expected = Duration::from_millis(95)..Duration::from_millis(130);
            assert!(expected.contains(&took), "seed {seed}: {took:?}");
            // From then on the others have what they need, and of what is for beta the most is discarded.
            (0..20).for_each(|_| batch_to(alpha, beta));
            let took = alpha.endpoint().ping(gamma.inner()[0], 56, machines::PATIENCE).unwrap();
            assert!(took < Duration::from_millis(20), "seed {seed}: {took:?}");
            assert!(full() > 200, "seed {seed}: {}", Ledger::of(alpha));
            machines::finish(stations.into(), &network);
        });
    }
}
