//! Windows refuses one call, at every place of every phase of an adapter's life.
//!
//! ```text
//!   ping ─► phase, whose nth call that may fail fails ─► old state or new, whole ─► ping both ways ─► undone ─► n + 1
//!     n = 0, 1, … until the phase has none left
//!   phases: peers, keys, port, policy ─ handshake, traffic, rekey ─ up, down ─ sleep, rebalance ─ BFE, sockets, routes gone
//!           and back ─ removal, surprise, unload
//! ```
//!
//! Whatever is asked for is done, or refused with a status and has changed nothing; then it is done when it is asked for again.
//! Loading and adding a device are in `hostile` `faults`. Each sweep says how many calls it had fail, and must have had enough.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use abi::ioctl::Set;
use abi::policy::Policy;
use sim::host::computer::report;
use sim::host::memory::pair::{Pair, PeerSettings, Place, Station};
use sim::host::memory::{CARD, Network};
use sim::host::routes::Prefix;
use sim::nt::machine::{Machine, Options};
use sim::nt::{fwp, wsk};

use crate::machines::{self, PATIENCE};

/// How long whoever is asked has to be done: workers try again every second.
const SETTLES: Duration = Duration::from_millis(1500);
fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What a station is configured to, without what traffic changes.
#[derive(Clone, Debug, PartialEq)]
struct Configured {
    port: Option<u16>,
    private_key: Option<[u8; 32]>,
    peers: Vec<Told>,
}

/// A peer: key, preshared key, keepalive, endpoint, allowed IPs.
type Told = ([u8; 32], Option<[u8; 32]>, Option<u16>, Option<SocketAddr>, Vec<String>);

impl Configured {
    fn of(station: &Station) -> Self {
        let answer = station.tunnel().get().unwrap();
        let set = Set::parse(&answer).unwrap();
        let peers = set.peers().map(|peer| {
            let ips = peer.allowed_ips().map(|ip| format!("{}/{}", ip.address, ip.cidr));
            let mut ips: Vec<_> = ips.collect();
            ips.sort();
            let preshared_key = peer.preshared_key().copied();
            let keepalive = peer.persistent_keepalive_s();
            (*peer.public_key(), preshared_key, keepalive, peer.endpoint(), ips)
        });
        let mut peers: Vec<Told> = peers.collect();
        peers.sort();
        Self { port: set.listen_port(), private_key: set.private_key().copied(), peers }
    }
}

/// What a sweep did.
#[derive(Default)]
struct Swept {
    failed: u64,
    refused: u64,
    functions: BTreeMap<&'static str, u64>,
}

impl Swept {
    fn note(&mut self, struck: Option<&'static str>, refused: bool) {
        if let Some(function) = struck {
            self.failed += 1;
            *self.functions.entry(function).or_default() += 1;
        }
        self.refused += u64::from(refused);
    }

    fn has(&self, functions: &[&str]) -> bool {
        functions.iter().all(|function| self.functions.contains_key(function))
    }

    /// Says it, and fails if fewer than `least` calls failed, or none of `functions`.
    fn judge(&self, phase: &str, least: u64, functions: &[&str]) {
        println!(
            "{phase}: {} calls failed, {} refusals {:?}",
            self.failed, self.refused, self.functions
        );
        assert!(self.failed >= least, "{phase}: only {} calls may fail?", self.failed);
        for function in functions {
            assert!(self.functions.contains_key(function), "{phase}: {function} never failed");
        }
    }
}

/// A phase.
struct Phase<'p> {
    name: &'p str,
    /// Fewest calls that may fail, and functions that are among them.
    least: u64,
    functions: &'p [&'p str],
    /// Before; nothing fails.
    before: &'p dyn Fn(&Pair),
    /// What is asked for.
    act: &'p dyn Fn(&Pair) -> Result<(), i32>,
    /// Afterwards; nothing fails.
    undo: &'p dyn Fn(&Pair),
}

/// So many times in a row there are no further calls before a sweep has an end: a phase does not make the same number each time.
const BEYOND: u32 = 3;
/// Most sweeps until each function that is asked for has failed: its place among the calls is another each time.
const SWEEPS: u32 = 5;

fn nothing(_: &Pair) {}

/// Runs a phase with each call that it makes of the machine of `end` failing.
fn sweep(seed: u64, options: &Options, end: usize, phase: &Phase<'_>) {
    let (name, mut swept) = (phase.name, Swept::default());
    machines::with_pair_of(seed, options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let station = [&pair.alpha, &pair.beta][end];
        let (faults, mut n, mut rest, mut again) = (machine(station).faults(), 0, 0, SWEEPS);
        loop {
            (phase.before)(pair);
            let old = Configured::of(station);
            faults.fail_at(n);
            let done = (phase.act)(pair);
            pair.world.sleep(SETTLES);
            let (counted, struck) = (faults.counted(), faults.struck());
            faults.never();
            let why = format!("{name}: call {n} ({struck:?})");
            assert!(!machine(station).is_dead(), "{why}:\n{}", report(machine(station)));
            if let Err(status) = done {
                assert!(struck.is_some() && status < 0, "{why}: {status:#x}");
                assert_eq!(Configured::of(station), old, "{why}: refused, and changed");
                (phase.act)(pair).unwrap_or_else(|status| panic!("{why}: again: {status:#x}"));
            }
            (phase.undo)(pair);
            for (from, to) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                let answered = from.endpoint().ping(to.inner()[0], 56, PATIENCE);
                assert!(answered.is_some(), "{why}: {} is not reached", to.inner()[0]);
            }
            swept.note(struck, done.is_err());
            rest = if counted <= n { rest + 1 } else { 0 };
            n += 1;
            if rest == BEYOND {
                again -= 1;
                if again == 0 || swept.has(phase.functions) {
                    break;
                }
                (n, rest) = (0, 0);
            }
        }
    });
    swept.judge(name, phase.least, phase.functions);
}

/// Peers that nobody ever hears of.
fn strangers() -> Vec<PeerSettings> {
    let stranger = |number: u8| PeerSettings {
        public_key: [number; 32],
        endpoint: Some(SocketAddr::new([203, 0, 113, number].into(), 9)),
        preshared_key: Some([number; 32]),
        persistent_keepalive_s: 0,
        allowed_ips: (0..8).map(|net| Prefix::new([172, 16 + number, net, 0].into(), 24)).collect(),
    };
    (1..=3).map(stranger).collect()
}

#[test]
fn peers_are_added_and_removed() {
    let strangers = strangers();
    let add = |pair: &Pair| pair.alpha.set_peers(&strangers);
    let remove =
        |pair: &Pair| strangers.iter().try_for_each(|one| pair.alpha.remove_peer(&one.public_key));
    let options = machines::verified("machine");
    let phase = Phase {
        name: "peers added",
        least: 10,
        functions: &["ExAllocatePool2", "BCryptGenRandom"],
        before: &nothing,
        act: &add,
        undo: &|pair| remove(pair).unwrap(),
    };
    sweep(1, &options, 0, &phase);
    let phase = Phase {
        name: "a peer removed",
        least: 2,
        functions: &[],
        before: &|pair| add(pair).unwrap(),
        act: &|pair| pair.alpha.remove_peer(&strangers[1].public_key),
        undo: &|pair| {
            strangers.iter().for_each(|one| {
                let _ = pair.alpha.remove_peer(&one.public_key);
            })
        },
    };
    sweep(2, &options, 0, &phase);
}

#[test]
fn key_and_port_are_changed() {
    let (key, port) = (Cell::new(0_u8), Cell::new(0));
    let phase = Phase {
        name: "key and port",
        least: 30,
        functions: &["ExAllocatePool2", "WskSocket", "WskBind", "FwpmFilterAdd0"],
        before: &|_| {
            key.set(key.get() + 1);
            port.set(4500 + u16::from(key.get()));
        },
        act: &|pair| pair.alpha.configure_interface(&[key.get(); 32], port.get()),
        undo: &|pair| {
            let answer = pair.beta.tunnel().get().unwrap();
            for peer in Set::parse(&answer).unwrap().peers() {
                pair.beta.remove_peer(peer.public_key()).unwrap();
            }
            let mut alpha = pair.alpha.as_peer().unwrap();
            alpha.endpoint.as_mut().unwrap().set_port(port.get());
            pair.beta.set_peers(&[alpha]).unwrap();
        },
    };
    sweep(3, &machines::verified("machine"), 0, &phase);
}

#[test]
fn policy_is_changed() {
    let round = Cell::new(0);
    let phase = Phase {
        name: "policy",
        least: 40,
        functions: &["FwpmTransactionCommit0", "FwpsInjectionHandleCreate0"],
        before: &|_| round.set(round.get() + 1),
        act: &|pair| {
            // Everything that is followed under way, back and forth.
            let ways = [[0, 0, 0], [1, 2, 1]];
            ways.iter().try_for_each(|[path, engine, offloads]| {
                pair.alpha.tunnel().set_policy(&[
                    (Policy::FastPath, Some(*path)),
                    (Policy::SendEngine, Some(*engine)),
                    (Policy::OuterCoalescing, Some(*offloads)),
                    (Policy::OuterSegmentation, Some(*offloads)),
                ])
            })
        },
        undo: &|pair| {
            let defaults = [
                Policy::FastPath,
                Policy::SendEngine,
                Policy::OuterCoalescing,
                Policy::OuterSegmentation,
            ];
            pair.alpha.tunnel().set_policy(&defaults.map(|policy| (policy, None))).unwrap();
        },
    };
    sweep(4, &machines::verified("machine"), 0, &phase);
}

/// Alpha forgets beta and is told of it again: no session.
fn forget(pair: &Pair) {
    let beta = pair.beta.as_peer().unwrap();
    pair.alpha.remove_peer(&beta.public_key).unwrap();
    pair.alpha.set_peers(&[beta]).unwrap();
}

/// Packets each way. Some may be lost: they are counted, which every scenario's end looks after.
fn burst(pair: &Pair) -> Result<(), i32> {
    for (from, to) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
        for size in [1, 100, 1300] {
            from.endpoint().send_datagram(to.inner()[size % 2], vec![0x5A; size]);
        }
    }
    pair.world.sleep(milliseconds(20));
    Ok(())
}

#[test]
fn a_session_begins() {
    for end in [0, 1] {
        let phase = Phase {
            name: ["a handshake, of the initiator", "a handshake, of the responder"][end],
            least: 10,
            functions: &["ExAllocatePool2", "BCryptGenRandom", "WskSendTo or WskSendMessages"],
            before: &forget,
            act: &burst,
            undo: &nothing,
        };
        sweep(5, &machines::verified("machine"), end, &phase);
    }
}

#[test]
fn a_session_is_renewed() {
    for end in [0, 1] {
        let phase = Phase {
            name: ["a rekey, of the initiator", "a rekey, of the responder"][end],
            least: 15,
            functions: &["ExAllocatePool2", "BCryptGenRandom"],
            before: &|pair| {
                forget(pair);
                machines::ping(&pair.alpha, &pair.beta);
                pair.world.sleep(Duration::from_secs(121));
            },
            act: &burst,
            undo: &nothing,
        };
        sweep(6, &machines::verified("machine"), end, &phase);
    }
}

#[test]
fn packets_go_both_ways() {
    for (path, engine) in [(0, 0), (1, 1), (1, 2)] {
        let policies = [(Policy::FastPath, path), (Policy::SendEngine, engine)];
        let functions: &[&str] = match engine {
            0 => &["WskSendTo or WskSendMessages"],
            _ => &["FwpsInjectTransportSendAsync1"],
        };
        let phase = Phase {
            name: ["traffic by sockets", "traffic, a list a run", "traffic, a list a datagram"]
                [engine as usize],
            least: 8,
            functions,
            before: &nothing,
            act: &burst,
            undo: &nothing,
        };
        sweep(7, &machines::with_policies(&policies), 0, &phase);
    }
}

#[test]
fn it_goes_up_and_down() {
    let phase = Phase {
        name: "up",
        least: 20,
        functions: &["WskSocket", "WskBind", "FwpmFilterAdd0", "ExAllocatePool2"],
        before: &|pair| pair.alpha.set_up(false).unwrap(),
        act: &|pair| pair.alpha.set_up(true),
        undo: &nothing,
    };
    sweep(8, &machines::verified("machine"), 0, &phase);
    let phase = Phase {
        name: "down",
        least: 3,
        functions: &["FwpmTransactionBegin0"],
        before: &nothing,
        act: &|pair| pair.alpha.set_up(false),
        undo: &|pair| pair.alpha.set_up(true).unwrap(),
    };
    sweep(9, &machines::verified("machine"), 0, &phase);
}

#[test]
fn windows_parts_go_and_come_back() {
    let options = machines::with_policies(&[(Policy::FastPath, 1), (Policy::SendEngine, 1)]);
    let all =
        |pair: &Pair| assert_eq!(fwp::objects(machine(&pair.alpha)), 10, "all filters are back");
    let phase = Phase {
        name: "BFE",
        least: 10,
        functions: &["FwpmEngineOpen0", "FwpmFilterAdd0"],
        before: &nothing,
        act: &|pair| {
            fwp::stop_bfe(machine(&pair.alpha));
            burst(pair)?;
            fwp::start_bfe(machine(&pair.alpha));
            Ok(())
        },
        undo: &all,
    };
    sweep(11, &options, 0, &phase);
    let phase = Phase {
        name: "the sockets",
        least: 20,
        functions: &["WskSocket", "WskBind", "FwpmFilterAdd0"],
        before: &nothing,
        act: &|pair| {
            wsk::lose_transport(machine(&pair.alpha));
            burst(pair)
        },
        undo: &all,
    };
    sweep(12, &options, 0, &phase);
    let phase = Phase {
        name: "the routes",
        least: 4,
        functions: &["GetIpForwardTable2"],
        before: &nothing,
        act: &|pair| {
            let mut cut = Vec::new();
            let host = pair.alpha.host();
            host.change(|tables| {
                cut = tables.routes.extract_if(.., |route| route.interface == CARD).collect();
            });
            burst(pair)?;
            host.change(|tables| tables.routes.extend_from_slice(&cut));
            burst(pair)
        },
        undo: &nothing,
    };
    sweep(13, &options, 0, &phase);
}

/// What becomes of a station.
enum Fate {
    GoesOn(Station),
    /// Its device is gone; another is plugged in.
    Gone(Place),
}

/// Runs `act`, which a station may not survive, with each of its calls failing; `again` makes another of what is left.
fn sweep_fates(
    (seed, name, least): (u64, &str, u64),
    act: impl Fn(Station) -> Fate,
    again: impl Fn(Place) -> Station,
) {
    let (mut swept, mut gone) = (Swept::default(), 0);
    machines::on_virtual_time(seed, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            Station::boot(world, &network, number, machines::verified(name), driver).unwrap()
        };
        let (mut alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        for n in 0.. {
            machines::join(&alpha, &beta);
            machines::ping(&alpha, &beta);
            machine(&alpha).faults().fail_at(n);
            let fate = act(alpha);
            let faults = match &fate {
                Fate::GoesOn(alpha) => machine(alpha).faults(),
                Fate::Gone(place) => place.computer().machine().faults(),
            };
            let (counted, struck) = (faults.counted(), faults.struck());
            faults.never();
            alpha = match fate {
                Fate::GoesOn(alpha) => alpha,
                Fate::Gone(place) => {
                    gone += 1;
                    again(place)
                }
            };
            swept.note(struck, false);
            if counted <= n {
                break;
            }
        }
        machines::join(&alpha, &beta);
        machines::ping(&alpha, &beta);
        for station in [alpha, beta] {
            machines::nothing_left(&station.shut_down().unwrap());
        }
    });
    swept.judge(&format!("{name}, {gone} devices gone"), least, &[]);
}

/// Nobody can refuse a removal or an unload: whatever fails, nothing is left.
#[test]
fn it_is_unloaded() {
    let driver = machines::driver();
    sweep_fates(
        (14, "removal and unload", 3),
        |alpha| {
            let place = alpha.take_out().unwrap();
            machines::nothing_left(&place.computer().unload().unwrap());
            Fate::Gone(place)
        },
        |place| {
            place.computer().load(&driver).unwrap();
            place.plug_in().unwrap()
        },
    );
}

#[test]
fn it_is_pulled_out() {
    let pull = |alpha: Station| Fate::Gone(alpha.pull_out().unwrap());
    sweep_fates((15, "surprise removal", 3), pull, |place| place.plug_in().unwrap());
}

/// What Windows does with a device that has failed: it is gone.
fn unless_failed(alpha: Station, comes_back: bool) -> Fate {
    assert!(!machine(&alpha).is_dead(), "{}", report(machine(&alpha)));
    // Queues are made for packets.
    let _ = alpha.endpoint().send_datagram([10, 9, 0, 2].into(), vec![1; 100]);
    machine(&alpha).world().sleep(milliseconds(50));
    if comes_back && alpha.tunnel().handle().device().failed().is_none() {
        // The first may be what the failure cost.
        let ping = || alpha.endpoint().ping([10, 9, 0, 2].into(), 56, PATIENCE);
        let answered = ping().or_else(ping);
        let struck = machine(&alpha).faults().struck();
        assert!(answered.is_some(), "{struck:?}: it came back and reaches nobody");
        return Fate::GoesOn(alpha);
    }
    Fate::Gone(alpha.pull_out().unwrap())
}

#[test]
fn the_system_sleeps() {
    let sleep = |alpha: Station| {
        let world = machine(&alpha).world().clone();
        alpha.tunnel().sleep().unwrap();
        world.sleep(Duration::from_secs(20));
        let comes_back = alpha.tunnel().wake().is_ok();
        unless_failed(alpha, comes_back)
    };
    sweep_fates((10, "sleep and wake", 8), sleep, |place| place.plug_in().unwrap());
}

#[test]
fn the_device_is_stopped_and_started() {
    let rebalance = |alpha: Station| {
        let comes_back = alpha.tunnel().rebalance().is_ok();
        unless_failed(alpha, comes_back)
    };
    sweep_fates((16, "a rebalance", 8), rebalance, |place| place.plug_in().unwrap());
}

/// Functions that are refused for as long as the machine runs, and whether the driver loads without.
const LASTING: [(&str, bool); 14] = [
    ("BCryptGenRandom", false),
    ("ExAllocatePool2", false),
    ("ExAllocateTimer", false),
    ("PsCreateSystemThread", false),
    ("WskRegister", false),
    ("NotifyRouteChange2", false),
    ("WdfControlDeviceInitAllocate", true),
    ("FwpsCalloutRegister2", true),
    ("FwpmBfeStateSubscribeChanges0", true),
    ("FwpmEngineOpen0", true),
    ("FwpmTransactionBegin0", true),
    ("FwpmFilterAdd0", true),
    ("FwpsInjectionHandleCreate0", true),
    ("FwpsInjectTransportSendAsync1", true),
];

/// From before the load on, and from the first session on: handshake, traffic, rekey, another port, down and up.
#[test]
fn it_never_gets_what_it_asks_for() {
    let policies = [(Policy::SendEngine, 1), (Policy::OuterCoalescing, 1)];
    let options = machines::with_policies(&policies);
    for (seed, (function, loads)) in (1..).zip(LASTING) {
        machines::on_virtual_time(seed, |world, driver| {
            let network = Network::new(world);
            let boot = |name: &str, number| {
                let options = Options { name: name.to_owned(), ..options.clone() };
                Station::boot(world, &network, number, options, driver).unwrap()
            };
            let (alpha, beta) = (boot("alpha", 1), boot("beta", 2));
            let place = alpha.take_out().unwrap();
            machines::nothing_left(&place.computer().unload().unwrap());
            let machine = place.computer().machine().clone();
            machine.faults().fail_at(u64::MAX);
            machine.faults().refuse(function);
            let loaded = place.computer().load(driver);
            assert!(!machine.is_dead(), "{function}:\n{}", report(&machine));
            if loaded.is_err() {
                assert!(!loads, "{function}: {loaded:?}");
                assert_eq!(machine.faults().struck(), Some(function), "{function}");
                machine.faults().never();
                place.computer().load(driver).unwrap();
            }
            assert!(loads || machine.faults().struck() == Some(function), "{function}: not asked");
            let plugged = place.plug_in();
            let alpha = plugged.unwrap_or_else(|error| panic!("{function}: {error}"));
            if loads {
                live(&alpha, &beta, function, true);
            }
            machine.faults().never();
            live(&alpha, &beta, function, true);
            machine.faults().refuse(function);
            live(&alpha, &beta, function, loads);
            assert_eq!(machine.faults().struck(), Some(function), "it was never asked for");
            machine.faults().never();
            live(&alpha, &beta, function, true);
            for station in [alpha, beta] {
                machines::nothing_left(&station.shut_down().unwrap());
            }
        });
    }
}

/// A while of `alpha`'s life; if it `must`, everything is granted and pings are answered.
fn live(alpha: &Station, beta: &Station, function: &str, must: bool) {
    let world = machine(alpha).world().clone();
    let told = |done: Result<(), i32>, what: &str| {
        assert!(!must || done.is_ok(), "{function}: {what}: {done:x?}");
        assert!(!machine(alpha).is_dead(), "{function}:\n{}", report(machine(alpha)));
    };
    told(alpha.set_peers(&[beta.as_peer().unwrap()]), "peers");
    let _ = beta.set_peers(&[PeerSettings {
        endpoint: None,
        ..alpha.as_peer().unwrap_or_else(|_| beta.as_peer().unwrap())
    }]);
    told(alpha.set_up(false), "down");
    told(alpha.set_up(true), "up");
    beta.set_up(true).unwrap();
    for wait in [Duration::ZERO, Duration::from_secs(121)] {
        world.sleep(wait);
        for _ in 0..3 {
            let answered = alpha.endpoint().ping(beta.inner()[0], 56, Duration::from_secs(10));
            assert!(!must || answered.is_some(), "{function}: no answer");
        }
    }
}
