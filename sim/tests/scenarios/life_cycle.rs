//! What PnP and power do to an adapter, again and again, while both ends send: nothing is left, and it works afterwards.
//!
//! ```text
//!   ┌──────────────────────────────────┐ ══ load ══► ┌──────┐
//!   │ alpha  ⟳ sleep, rebalance,       │             │ beta │
//!   │        pulled out, another driver│ ◄══ load ══ │      │
//!   │        removal refused, standby, │             │      │
//!   │        BFE late, network changes │             │      │
//!   └──────────────────────────────────┘             └──────┘
//! ```
//!
//! `PENSTOCK_ROUNDS=500` has each happen so often instead of [`ROUNDS`].
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use abi::discard::Discard;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::host::memory::{CARD, Network};
use sim::nt::fwp;

use crate::machines::accounting::Ledger;
use crate::machines::{self, Load};

/// How often, unless the environment says otherwise.
const ROUNDS: u64 = 25;
/// Between two packets of a load.
const EVERY: Duration = Duration::from_micros(500);

fn rounds() -> u64 {
    std::env::var("PENSTOCK_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

/// Has `change` do something to alpha, again and again, while both send, by IPv4 one and by IPv6 the other.
fn under_load(seed: u64, change: impl Fn(&Pair, u64)) {
    machines::with_pair(seed, |pair| {
        let (alpha, beta) = (&pair.alpha, &pair.beta);
        machines::ping(alpha, beta);
        let loads = [(alpha, beta.inner()[0]), (beta, alpha.inner()[1])]
            .map(|(from, to)| Load::start(&pair.world, from, to, 1000, EVERY));
        for round in 0..rounds() {
            pair.world.sleep(Duration::from_millis(20 + round % 7));
            change(pair, round);
        }
        drop(loads);
        machines::ping(alpha, beta);
        machines::ping(beta, alpha);
    });
}

#[test]
fn the_system_sleeps_and_wakes_under_load() {
    under_load(1, |pair, round| {
        pair.alpha.tunnel().sleep().unwrap();
        pair.world.sleep(Duration::from_millis([0, 3, 50][round as usize % 3]));
        if round % 10 == 9 {
            // Longer than a keepalive and a handshake wait.
            pair.world.sleep(Duration::from_secs(30));
        }
        pair.alpha.tunnel().wake().unwrap();
    });
}

#[test]
fn a_week_of_sleep_ends_with_a_handshake() {
    machines::with_pair(2, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        for station in [&pair.alpha, &pair.beta] {
            station.tunnel().sleep().unwrap();
        }
        pair.world.sleep(Duration::from_secs(7 * 24 * 3600));
        for station in [&pair.beta, &pair.alpha] {
            station.tunnel().wake().unwrap();
        }
        let before = Ledger::of(&pair.alpha).counter(Counter::HandshakesOut);
        machines::ping(&pair.alpha, &pair.beta);
        let alpha = Ledger::of(&pair.alpha);
        assert!(alpha.counter(Counter::HandshakesOut) > before, "{alpha}");
    });
}

#[test]
fn the_device_is_stopped_and_started_under_load() {
    under_load(3, |pair, _| pair.alpha.tunnel().rebalance().unwrap());
}

/// Boots both, and has `change` make another alpha of alpha while beta sends to it and it to beta.
fn again_and_again(seed: u64, change: impl Fn(Station) -> Station) {
    machines::on_virtual_time(seed, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            Station::boot(world, &network, number, machines::verified(name), driver).unwrap()
        };
        let (mut alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        let to_alpha = Load::start(world, &beta, alpha.inner()[1], 1000, EVERY);
        for round in 0..rounds() {
            machines::join(&alpha, &beta);
            machines::ping(&alpha, &beta);
            let to_beta = Load::start(world, &alpha, beta.inner()[0], 1000, EVERY);
            world.sleep(Duration::from_millis(20 + round % 7));
            // Its last packets find the adapter gone, as a program's do.
            alpha = change(alpha);
            drop(to_beta);
        }
        machines::join(&alpha, &beta);
        // Beta would go on with the last alpha's session for 15 seconds.
        machines::ping(&alpha, &beta);
        machines::ping(&beta, &alpha);
        drop(to_alpha);
        world.sleep(Duration::from_secs(1));
        let beta_saw = Ledger::of(&beta);
        assert!(beta_saw.counter(Counter::PacketsIn) > rounds() * 10, "{beta_saw}");
        assert_eq!(beta_saw.discarded(Discard::BadTag), 0, "{beta_saw}");
        for station in [alpha, beta] {
            machines::nothing_left(&station.shut_down().unwrap());
        }
    });
}

#[test]
fn an_adapter_is_pulled_out_and_another_plugged_in_under_load() {
    again_and_again(4, |alpha| alpha.replace().unwrap());
}

#[test]
fn another_driver_takes_over_under_load() {
    let driver = machines::driver();
    again_and_again(5, |alpha| {
        let (next, leaks) = alpha.restart(&driver).unwrap();
        machines::nothing_left(&leaks);
        next
    });
}

#[test]
fn a_removal_is_refused_under_load() {
    under_load(6, |pair, _| {
        let before = Ledger::of(&pair.beta);
        pair.alpha.tunnel().query_remove_in_vain().unwrap();
        pair.world.sleep(Duration::from_millis(5));
        let after = Ledger::of(&pair.beta);
        let [before, now] = [&before, &after].map(|it| it.counter(Counter::PacketsIn));
        assert!(now > before, "it went on\n{after}");
    });
}

/// Modern standby has no sleep state: what may change is the device's own power state, while programs ask and peers send.
#[test]
fn the_device_is_powered_down_while_the_system_works() {
    under_load(7, |pair, round| {
        let tunnel = pair.alpha.tunnel();
        tunnel.sleep().unwrap();
        // Bringing it up or down is done in the caller's thread, whatever the device's power.
        if round % 3 == 0 {
            pair.alpha.set_up(false).unwrap();
            pair.alpha.set_up(true).unwrap();
        }
        pair.world.sleep(Duration::from_millis(round % 9));
        tunnel.wake().unwrap();
        let answer = tunnel.get().unwrap();
        assert!(abi::ioctl::Set::parse(&answer).is_ok_and(|set| set.peer_count() == 1));
    });
}

/// The driver is loaded before BFE runs: the sockets have everything, and callouts from when it does.
#[test]
fn bfe_comes_after_the_driver_under_load() {
    let driver = machines::driver();
    again_and_again(8, |alpha| {
        let machine = alpha.computer().machine().clone();
        let world = machine.world().clone();
        // What was started without, it gets under load, before it is taken away.
        fwp::start_bfe(&machine);
        let ways = Ledger::of(&alpha);
        world.sleep(Duration::from_millis(20));
        let now = Ledger::of(&alpha);
        let [before, after] = [&ways, &now].map(|it| it.counter(Counter::Absorbed));
        assert!(after > before, "callouts take them\n{now}");
        let place = alpha.take_out().unwrap();
        machines::nothing_left(&place.computer().unload().unwrap());
        fwp::stop_bfe(&machine);
        place.computer().load(&driver).unwrap();
        let next = place.plug_in().unwrap();
        assert_eq!(fwp::objects(&machine), 0, "no filters without BFE");
        next
    });
}

/// The card's routes go and come back, worse and better than before.
#[test]
fn the_network_changes_under_load() {
    under_load(9, |pair, round| {
        let host = pair.alpha.host();
        let mut cut = Vec::new();
        host.change(|tables| {
            cut = tables.routes.extract_if(.., |route| route.interface == CARD).collect();
        });
        pair.world.sleep(Duration::from_millis([0, 1, 30][round as usize % 3]));
        cut.iter_mut().for_each(|route| route.metric = 1 + (round % 50) as u32);
        host.change(|tables| tables.routes.extend_from_slice(&cut));
    });
}
