//! Other products' filters decide before ours or after, and their objects are in our place.
//!
//! ```text
//!   sublayer 0xFFFF   permit ─ ours may take      hard permit ─ sockets      block ✂      soft block ─ ours permits
//!   sublayer 0, ours
//!   sublayer 0        veto ✂  block ✂, of what ours has only permitted
//!   our keys          taken: sockets, and once a second another try
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp::{self, Foreign, Layer, Object, Verdict, foreign};
use sim::nt::machine::Machine;

/// What one port needs.
const OBJECTS: usize = 10;
const EQUALS: &str = "OF_EQUAL_WEIGHT_THE_LATER_IS_ASKED_FIRST";

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

/// Beta's ledger, and what it counted more of in 60 ms under load.
struct Window {
    before: Ledger,
    after: Ledger,
}

impl Window {
    fn of(pair: &Pair, station: &Station) -> Self {
        // What is under way still counts for what was before.
        pair.world.sleep(Duration::from_millis(5));
        let before = Ledger::of(station);
        pair.world.sleep(Duration::from_millis(60));
        Self { before, after: Ledger::of(station) }
    }

    fn more(&self, counter: Counter) -> u64 {
        self.after.counter(counter) - self.before.counter(counter)
    }
}

fn one_way(pair: &Pair) -> Load {
    let every = Duration::from_micros(500);
    Load::start(&pair.world, &pair.alpha, pair.beta.inner()[0], 600, every)
}

/// What becomes of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The callouts take them as ever.
    Taken,
    /// The sockets have them all.
    Sockets,
    /// They are blocked, all of them.
    Blocked,
    /// Those that the callouts do not take are.
    SomeBlocked,
}

/// Puts filters of others' at the inbound layer of beta, under load, and takes them away again.
fn clash(seed: u64, later_first: bool, filters: &[(u16, Verdict)], fate: Fate) {
    let mut options = machines::verified("machine");
    options.choices.insert(EQUALS.to_owned(), later_first);
    machines::with_pair_of(seed, &options, |pair| {
        let why = format!("seed {seed}, {filters:?}, later first: {later_first}: {fate:?}");
        machines::ping(&pair.alpha, &pair.beta);
        let load = one_way(pair);
        let (beta, port) = (machine(&pair.beta), pair.beta.port());
        let ours = fwp::objects(beta);
        let added: Vec<u64> = filters
            .iter()
            .map(|(sublayer, verdict)| {
                let layer = Layer::InboundTransportV4;
                let (sublayer, verdict) = (*sublayer, *verdict);
                foreign::add_foreign(beta, &Foreign { layer, sublayer, weight: 7, port, verdict })
            })
            .collect();
        let blocked = fwp::counts(beta).blocked;
        let window = Window::of(pair, &pair.beta);
        let more = |counter| window.more(counter);
        let (came, why) = (more(Counter::PacketsIn), format!("{why}\n{}", window.after));
        let blocked = fwp::counts(beta).blocked - blocked;
        let takes = matches!(fate, Fate::Taken | Fate::SomeBlocked);
        assert_eq!(more(Counter::Absorbed) > 50, takes, "{why}");
        assert_eq!(more(Counter::Absorbed) > 0, takes, "{why}");
        assert_eq!(came > 50, fate != Fate::Blocked, "{why}");
        assert_eq!(came > 0, fate != Fate::Blocked, "{why}");
        assert_eq!(blocked > 0, matches!(fate, Fate::Blocked | Fate::SomeBlocked), "{why}");
        let no_right = matches!(fate, Fate::Sockets)
            || (fate == Fate::Blocked && filters.iter().any(|(sublayer, _)| *sublayer > 0));
        assert!(more(Counter::PermittedNoRight) > 50 || !no_right, "{why}");
        assert_eq!(window.after.discards(Direction::Inbound), 0, "{why}");
        for id in added {
            foreign::remove_foreign(beta, id);
        }
        assert_eq!(fwp::objects(beta), ours, "{why}");
        let window = Window::of(pair, &pair.beta);
        assert!(window.more(Counter::Absorbed) > 50, "{why}: taken again\n{}", window.after);
        drop(load);
        machines::ping(&pair.beta, &pair.alpha);
        let handshakes = Ledger::of(&pair.alpha).counter(Counter::HandshakesOut);
        assert_eq!(handshakes, 1, "{why}: the session goes on");
    });
}

#[test]
fn who_is_heavier_decides_first() {
    const HEAVY: u16 = 0xFFFF;
    for seed in 1..3 {
        for (filters, fate) in [
            (&[(HEAVY, Verdict::Permit)][..], Fate::Taken),
            (&[(HEAVY, Verdict::HardPermit)], Fate::Sockets),
            (&[(HEAVY, Verdict::SoftBlock)], Fate::Taken),
            (&[(HEAVY, Verdict::Block)], Fate::Blocked),
            (&[(HEAVY, Verdict::Veto)], Fate::Blocked),
            // A veto is heard even behind a permission that cannot be taken back.
            (&[(HEAVY, Verdict::HardPermit), (0x100, Verdict::Veto)], Fate::Blocked),
            (&[(HEAVY, Verdict::HardPermit), (0x100, Verdict::Block)], Fate::Sockets),
            // Beside each other in one weight: whichever of the two is asked first.
            (&[(HEAVY, Verdict::HardPermit), (HEAVY, Verdict::HardPermit)], Fate::Sockets),
        ] {
            for later_first in [false, true] {
                clash(seed, later_first, filters, fate);
            }
        }
    }
}

#[test]
fn a_sublayer_of_our_own_weight_is_asked_before_us_or_behind_us() {
    for seed in 1..3 {
        // Their key is the lesser one.
        clash(seed, false, &[(0, Verdict::Block)], Fate::Blocked);
        clash(seed, true, &[(0, Verdict::Block)], Fate::SomeBlocked);
        clash(seed, false, &[(0, Verdict::Permit)], Fate::Taken);
        clash(seed, true, &[(0, Verdict::Permit)], Fate::Taken);
        clash(seed, false, &[(0, Verdict::HardPermit)], Fate::Sockets);
        clash(seed, true, &[(0, Verdict::HardPermit)], Fate::Taken);
    }
}

#[test]
fn what_others_let_not_out_is_counted_and_comes_again() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2)] {
        let options = machines::with_policy(Policy::SendEngine, engine);
        machines::with_pair_of(seed, &options, |pair| {
            let why = format!("seed {seed}, engine {engine}");
            machines::ping(&pair.alpha, &pair.beta);
            let load = one_way(pair);
            pair.world.sleep(Duration::from_millis(30));
            let (alpha, port) = (machine(&pair.alpha), pair.alpha.port());
            let (layer, verdict) = (Layer::OutboundTransportV4, Verdict::Block);
            let block = Foreign { layer, sublayer: 0xFFFF, weight: 0, port, verdict };
            let id = foreign::add_foreign(alpha, &block);
            pair.world.sleep(Duration::from_millis(5));
            let carried = pair.network.carried().sent;
            let window = Window::of(pair, &pair.alpha);
            let failed = window.after.discarded(Discard::SendFailed)
                - window.before.discarded(Discard::SendFailed);
            assert_eq!(pair.network.carried().sent, carried, "{why}: nothing leaves");
            assert!(failed > 50, "{why}\n{}", window.after);
            foreign::remove_foreign(alpha, id);
            let window = Window::of(pair, &pair.alpha);
            assert!(window.more(Counter::DatagramsOut) > 50, "{why}\n{}", window.after);
            let injected = window.more(Counter::InjectedOut);
            assert_eq!(injected > 50, engine != 0, "{why}\n{}", window.after);
            drop(load);
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
}

#[test]
fn a_port_that_others_forbid_is_not_changed_to() {
    const DENIED: i32 = 0xC000_0022_u32 as i32;
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let beta = machine(&pair.beta);
            let forbid = |layer| {
                let (port, verdict) = (4501, Verdict::Block);
                let filter = Foreign { layer, sublayer: 0x8000, weight: 0, port, verdict };
                foreign::add_foreign(beta, &filter)
            };
            let ids = [Layer::ResourceAssignmentV4, Layer::ResourceAssignmentV6].map(forbid);
            assert_eq!(pair.beta.set_port(4501), Err(DENIED), "seed {seed}");
            // The old port is there still, with all that is its.
            assert_eq!(fwp::objects(beta), OBJECTS, "seed {seed}");
            machines::ping(&pair.alpha, &pair.beta);
            let load = one_way(pair);
            let window = Window::of(pair, &pair.beta);
            assert!(window.more(Counter::Absorbed) > 50, "seed {seed}\n{}", window.after);
            drop(load);
            for id in ids {
                foreign::remove_foreign(beta, id);
            }
            assert_eq!(pair.beta.set_port(4501), Ok(()), "seed {seed}");
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
}

/// Restarts beta's service while somebody else's object with our key stands in it, and then cleans up.
fn occupied(seed: u64, which: usize) {
    machines::with_pair(seed, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let beta = machine(&pair.beta);
        let ours = foreign::objects_by_key(beta);
        let object = ours[which];
        let why = format!("seed {seed}: {object:?}");
        let load = one_way(pair);
        fwp::stop_bfe(beta);
        foreign::leave_behind(beta, object);
        fwp::start_bfe(beta);
        pair.world.sleep(Duration::from_secs(3));
        let window = Window::of(pair, &pair.beta);
        let came = window.more(Counter::PacketsIn);
        assert!(came > 50, "{why}: the socket has them\n{}", window.after);
        assert_eq!(window.more(Counter::Absorbed), 0, "{why}\n{}", window.after);
        assert_eq!(fwp::objects(beta), 0, "{why}: all of ours, or nothing");
        // A new port, meanwhile, is no trouble.
        machines::set_port(&pair.beta, 4501);
        machines::ping(&pair.beta, &pair.alpha);
        let log = beta.prints();
        assert!(log.iter().any(|line| line.contains("until the filter engine takes")), "{log:?}");
        foreign::clean_up(beta, object);
        pair.world.sleep(Duration::from_secs(2));
        assert_eq!(fwp::objects(beta), OBJECTS, "{why}: tried again");
        let window = Window::of(pair, &pair.beta);
        assert!(window.more(Counter::Absorbed) > 50, "{why}\n{}", window.after);
        drop(load);
        assert_eq!(foreign::objects_by_key(beta).len(), ours.len(), "{why}");
    });
}

#[test]
fn an_object_in_our_place_leaves_the_sockets_until_it_is_gone() {
    machines::with_pair(1, |pair| {
        let ours = foreign::objects_by_key(machine(&pair.beta));
        assert!(matches!(
            ours[..],
            [Object::Provider(_), Object::Sublayer(_), Object::Callout(..), ..]
        ));
        assert_eq!(ours.len(), 6);
    });
    for which in 0..6 {
        occupied(which as u64 + 1, which);
    }
}
