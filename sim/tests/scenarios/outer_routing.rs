//! Which way the tunnel's own datagrams go: never into a tunnel, by whatever route there is, and nowhere if there is none.
//!
//! ```text
//!                        ┌────────────── alpha ──────────────┐
//!   10.9.0.1 ── endpoint ┤ 10.9.0.0/24   ──► adapter, 5      │
//!   fd09::1              │ 0.0.0.0/0     ──► adapter, 5   ✗  │ better, but it leads back into the tunnel
//!                        │ 198.51.100.1  ──► adapter, 5   ✗  │ longer, and it does too
//!                        │ 0.0.0.0/0     ──► card,   25      ├── 192.0.2.1 ══════════ beta
//!                        └───────────────────────────────────┘
//!             The number is the metric. Without the last row: RoutingLoop; without any row: NoRoute; with it again: traffic.
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::{Load, verified};
use abi::discard::{Direction, Discard};
use abi::statistics::Counter;
use sim::host::Outer;
use sim::host::memory::pair::{Pair, PeerSettings, Station};
use sim::host::memory::{CARD, Network};
use sim::host::routes::{Interface, Prefix, Route, Tables};

/// Long enough for whatever the driver does at once, and shorter than any of its timers.
const SOON: Duration = Duration::from_millis(500);

/// 0.0.0.0/0 and ::/0.
fn everything() -> [Prefix; 2] {
    [Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0), Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0)]
}

/// The index of the station's adapter in its host's tables.
fn adapter(station: &Station) -> u32 {
    let luid = station.tunnel().adapter().luid();
    let tables = station.host().tables();
    tables.interfaces.iter().find(|interface| interface.luid == luid).unwrap().index
}

/// Takes away the routes that lead anywhere by the card, and returns them.
fn cut_off(station: &Station) -> Vec<Route> {
    let mut cut = Vec::new();
    station.host().change(|tables| {
        cut = tables.routes.extract_if(.., |route| route.interface == CARD).collect();
    });
    assert!(!cut.is_empty());
    cut
}

/// Adds routes.
fn add(station: &Station, routes: &[Route]) {
    station.host().change(|tables| tables.routes.extend_from_slice(routes));
}

/// Adds routes of the best metric to `destinations` by the interface with this index.
fn lead_into(station: &Station, interface: u32, destinations: &[Prefix]) {
    let route = |destination: &Prefix| Route {
        destination: *destination,
        next_hop: None,
        interface,
        metric: 0,
    };
    add(station, &destinations.iter().map(route).collect::<Vec<_>>());
}

/// Sends `count` datagrams, one at a time.
fn send(pair: &Pair, from: &Station, to: &Station, count: usize) {
    for _ in 0..count {
        assert!(from.endpoint().send_datagram(to.inner()[0], vec![0x3C; 200]));
        pair.world.sleep(Duration::from_millis(1));
    }
    pair.world.sleep(SOON);
}

/// The other station, at its outer address of the family `at`: 0 is IPv4, 1 is IPv6.
fn reached_by(other: &Station, at: usize) -> PeerSettings {
    let endpoint = Some(SocketAddr::new(other.outer()[at], other.port()));
    PeerSettings { endpoint, ..other.as_peer().unwrap() }
}

/// Nothing was sent, and each of alpha's `count` packets was discarded for `reason`.
fn assert_discarded(pair: &Pair, reason: Discard, count: u64) {
    let ledger = Ledger::of(&pair.alpha);
    assert_eq!(ledger.counter(Counter::PacketsOut), count, "{ledger}");
    assert_eq!(ledger.discarded(reason), count, "{ledger}");
    assert_eq!(ledger.discards(Direction::Outbound), count, "for no other reason\n{ledger}");
    assert_eq!(ledger.counter(Counter::DatagramsOut), 0, "{ledger}");
    assert_eq!(ledger.counter(Counter::HandshakesOut), 0, "nobody to shake hands with\n{ledger}");
    assert_eq!(pair.network.carried().sent, 0, "{ledger}");
}

#[test]
fn without_a_route_packets_are_discarded_until_there_is_one() {
    for family in 0..2 {
        machines::with_pair(1, |pair| {
            pair.alpha.set_peers(&[reached_by(&pair.beta, family)]).unwrap();
            let cut = cut_off(&pair.alpha);
            send(pair, &pair.alpha, &pair.beta, 5);
            assert_discarded(pair, Discard::NoRoute, 5);

            // The way to another family is none.
            let (right, other): (Vec<_>, Vec<_>) = cut.into_iter().partition(|route| {
                route.destination.address.is_ipv4() == pair.beta.outer()[family].is_ipv4()
            });
            add(&pair.alpha, &other);
            send(pair, &pair.alpha, &pair.beta, 2);
            assert_discarded(pair, Discard::NoRoute, 7);

            add(&pair.alpha, &right);
            send(pair, &pair.alpha, &pair.beta, 1);
            let beta = Ledger::of(&pair.beta);
            assert_eq!(beta.counter(Counter::PacketsIn), 1, "the very next one\n{beta}");
            machines::ping(&pair.alpha, &pair.beta);
            let alpha = Ledger::of(&pair.alpha);
            assert_eq!(alpha.discards(Direction::Outbound), 7, "no more were lost\n{alpha}");
        });
    }
}

#[test]
fn a_route_by_an_interface_that_is_down_is_none() {
    machines::with_pair(2, |pair| {
        let card = |up| {
            pair.alpha.host().change(|tables| {
                tables.interfaces.iter_mut().find(|i| i.index == CARD).unwrap().up = up;
            });
        };
        card(false);
        send(pair, &pair.alpha, &pair.beta, 3);
        assert_discarded(pair, Discard::NoRoute, 3);
        card(true);
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.beta, &pair.alpha);
    });
}

#[test]
fn the_only_route_leads_into_the_tunnel_itself() {
    for family in 0..2 {
        machines::with_pair(3, |pair| {
            let peer = reached_by(&pair.beta, family);
            pair.alpha
                .set_peers(&[PeerSettings { allowed_ips: everything().to_vec(), ..peer }])
                .unwrap();
            let cut = cut_off(&pair.alpha);
            lead_into(&pair.alpha, adapter(&pair.alpha), &everything());
            send(pair, &pair.alpha, &pair.beta, 5);
            assert_discarded(pair, Discard::RoutingLoop, 5);

            add(&pair.alpha, &cut);
            send(pair, &pair.alpha, &pair.beta, 1);
            let beta = Ledger::of(&pair.beta);
            assert_eq!(beta.counter(Counter::PacketsIn), 1, "the very next one\n{beta}");
            machines::ping(&pair.alpha, &pair.beta);
        });
    }
}

#[test]
fn the_only_route_leads_into_another_tunnel_of_the_driver() {
    machines::on_virtual_time(4, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            Station::boot(world, &network, number, verified(name), driver).unwrap()
        };
        let (alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        let second = alpha.beside(3).unwrap();
        machines::join(&alpha, &beta);
        second.set_up(true).unwrap();
        cut_off(&alpha);
        lead_into(&alpha, adapter(&second), &everything());
        let pair = Pair { alpha, beta, network, world: Arc::clone(world) };
        send(&pair, &pair.alpha, &pair.beta, 5);
        assert_discarded(&pair, Discard::RoutingLoop, 5);
        assert_eq!(second.tunnel().adapter().sent().accepted, 0, "nothing got there");
        let Pair { alpha, beta, network, .. } = pair;
        machines::finish(vec![beta, alpha, second], &network);
    });
}

#[test]
fn what_was_on_its_way_does_not_turn_into_the_tunnel() {
    machines::with_pair(5, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let before = (pair.network.carried().sent, Ledger::of(&pair.alpha));
        // A session is there, and so is a route that was good: the network takes neither any more.
        let cut = cut_off(&pair.alpha);
        lead_into(&pair.alpha, adapter(&pair.alpha), &everything());
        send(pair, &pair.alpha, &pair.beta, 6);
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(pair.network.carried().sent, before.0, "{alpha}");
        let sent = alpha.counter(Counter::PacketsOut) - before.1.counter(Counter::PacketsOut);
        let ended = alpha.discards(Direction::Outbound) - before.1.discards(Direction::Outbound);
        assert_eq!((sent, ended), (6, 6), "each was counted, and none came by twice\n{alpha}");
        let refused = alpha.discarded(Discard::SendFailed);
        assert!(refused <= 2, "by the old route no longer than until a worker has looked\n{alpha}");
        assert_eq!(refused + alpha.discarded(Discard::RoutingLoop), 6, "{alpha}");
        // From here on it is known.
        send(pair, &pair.alpha, &pair.beta, 4);
        let later = Ledger::of(&pair.alpha);
        let looped = later.discarded(Discard::RoutingLoop) - alpha.discarded(Discard::RoutingLoop);
        assert_eq!(looped, 4, "{later}");
        assert_eq!(pair.network.carried().sent, before.0, "{later}");

        add(&pair.alpha, &cut);
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.beta, &pair.alpha);
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(alpha.discards(Direction::Outbound), 10, "no more were lost\n{alpha}");
    });
}

#[test]
fn everything_through_the_tunnel_but_the_tunnel_itself() {
    for (seed, family) in [(6, 0), (7, 1)] {
        machines::with_pair(seed, |pair| {
            for (one, other) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                let peer = reached_by(other, family);
                one.set_peers(&[PeerSettings { allowed_ips: everything().to_vec(), ..peer }])
                    .unwrap();
                let own = adapter(one);
                lead_into(one, own, &everything());
                // NT itself would send every datagram to the peer into the tunnel.
                let outer = other.outer()[family];
                let tables = one.host().tables();
                assert_eq!(tables.best_route(outer, None).unwrap().interface, own);
            }
            machines::ping(&pair.alpha, &pair.beta);
            let file: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
            let to = pair.alpha.inner()[1];
            assert!(pair.beta.endpoint().send_file(to, &file, machines::PATIENCE).is_some());

            // Longer than the card's: it does not matter how good a route into the tunnel is.
            for (one, other) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                lead_into(one, adapter(one), &[Prefix::new(other.outer()[family], 128)]);
            }
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
            for station in [&pair.alpha, &pair.beta] {
                let ledger = Ledger::of(station);
                assert_eq!(ledger.discards(Direction::Outbound), 0, "nothing was lost\n{ledger}");
                assert!(ledger.counter(Counter::PacketsIn) > 40, "it did flow\n{ledger}");
            }
        });
    }
}

/// Some change of the network that leaves every way to the peer as good as it was.
fn harmless(tables: &mut Tables, at: usize) {
    let card = |tables: &mut Tables, change: &dyn Fn(&mut Route)| {
        tables.routes.iter_mut().filter(|route| route.interface == CARD).for_each(change);
    };
    match at % 4 {
        // All routes in another order of preference.
        0 => card(tables, &|route| route.metric = 3 - route.metric.min(3)),
        // Another interface comes, with a route that does not lead there ...
        1 => tables.interfaces.push(Interface {
            index: 77,
            luid: 71 << 48 | 77 << 24,
            name: "radio".to_owned(),
            mtu: 1500,
            metric: 1,
            up: true,
            addresses: vec![(IpAddr::from([203, 0, 113, 9]), 24)],
        }),
        2 => tables.routes.push(Route {
            destination: Prefix::new([203, 0, 113, 0].into(), 24),
            next_hop: None,
            interface: 77,
            metric: 0,
        }),
        // ... and goes.
        _ => {
            tables.interfaces.retain(|interface| interface.index != 77);
            tables.routes.retain(|route| route.interface != 77);
        }
    }
}

#[test]
fn a_route_that_changes_under_traffic_loses_nothing() {
    for seed in 8..11 {
        machines::with_pair(seed, |pair| {
            // From alpha's first packet on: the routes change while hands are shaken, too. Beta begins
            // later, for two that shake hands at once wait for a timer.
            let load = |one: &Station, other: &Station| {
                Load::start(&pair.world, one, other.inner()[1], 400, Duration::from_micros(300))
            };
            let mut loads = vec![load(&pair.alpha, &pair.beta)];
            for at in 0..100 {
                for station in [&pair.alpha, &pair.beta] {
                    station.host().change(|tables| harmless(tables, at));
                }
                pair.world.sleep(Duration::from_micros(700));
                if at == 20 {
                    loads.push(load(&pair.beta, &pair.alpha));
                }
            }
            drop(loads);
            pair.world.sleep(SOON);
            let ledgers = [Ledger::of(&pair.alpha), Ledger::of(&pair.beta)];
            for (one, other) in [(&ledgers[0], &ledgers[1]), (&ledgers[1], &ledgers[0])] {
                let sent = one.counter(Counter::PacketsOut);
                assert!(sent > 100, "seed {seed}: there was traffic\n{one}");
                assert_eq!(one.discards(Direction::Outbound), 0, "seed {seed}\n{one}");
                let got = other.counter(Counter::PacketsIn);
                assert_eq!(got, sent, "seed {seed}: what one sent the other got\n{one}\n{other}");
            }
        });
    }
}

#[test]
fn while_there_is_no_route_and_no_longer_packets_are_lost() {
    machines::with_pair(12, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let mut came = Ledger::of(&pair.beta).counter(Counter::PacketsIn);
        for round in 1..=5 {
            let cut = cut_off(&pair.alpha);
            send(pair, &pair.alpha, &pair.beta, 3);
            let alpha = Ledger::of(&pair.alpha);
            assert_eq!(
                alpha.discards(Direction::Outbound),
                6 * round - 3,
                "round {round}\n{alpha}"
            );
            // By now it is known, and each is told why.
            let known = alpha.discarded(Discard::NoRoute);
            send(pair, &pair.alpha, &pair.beta, 3);
            let alpha = Ledger::of(&pair.alpha);
            assert_eq!(alpha.discarded(Discard::NoRoute), known + 3, "round {round}\n{alpha}");
            assert_eq!(alpha.discards(Direction::Outbound), 6 * round, "round {round}\n{alpha}");
            add(&pair.alpha, &cut);
            send(pair, &pair.alpha, &pair.beta, 3);
            came += 3;
            let beta = Ledger::of(&pair.beta);
            assert_eq!(beta.counter(Counter::PacketsIn), came, "round {round}: lost\n{beta}");
        }
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(alpha.counter(Counter::HandshakesOut), 1, "the session lived on\n{alpha}");
    });
}
