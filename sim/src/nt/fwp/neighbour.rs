//! Somebody else's callout at the inbound transport layer, in a heavier sublayer: what antivirus and firewalls do.
//!
//! It is asked before the driver's callouts. Each of its habits strikes one packet in a few: it takes the right to decide
//! away, keeps a packet to put it back into the stack later and from PASSIVE_LEVEL (so that it comes out of order and with
//! an injection state), drops it, or only references it for a while, which costs the network card a buffer. All that is legal.
//!
//! Source: `facts/risks.md` 14; WDD network/types-of-callouts, network/packet-injection-functions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::classify::Decision;
use super::layers::Facts;
use super::objects::{BLOCK, PERMIT};
use super::received::{About, Received};
use super::{Fwp, fwp};
use crate::nt::machine::Machine;
use crate::verifier::schedule::{Key, lock};

/// What its injections are known by.
pub(crate) const HANDLE: usize = 0x4E42;

/// What the neighbour does, each to one packet in so many; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Permits, and takes the right to decide away.
    pub clears_right: u32,
    /// Absorbs, and puts a copy back into the stack after [`Neighbour::delay`].
    pub reinjects: u32,
    /// Absorbs for good.
    pub drops: u32,
    /// References, and gives back after [`Neighbour::delay`]; what is decided is left to others.
    pub holds: u32,
    /// How long it keeps what it puts back or holds.
    pub delay: Duration,
}

/// A packet it keeps.
pub(crate) struct Taken {
    pub(crate) due: Duration,
    pub(crate) endpoint: u64,
    pub(crate) facts: Facts,
    pub(crate) about: About,
    pub(crate) payload: Vec<u8>,
    pub(crate) required: bool,
}

/// The neighbour of one machine.
#[derive(Default)]
pub(crate) struct Next {
    is_there: AtomicBool,
    habits: Mutex<Neighbour>,
    taken: Mutex<VecDeque<Taken>>,
    held: Mutex<VecDeque<(Duration, Arc<Received>)>>,
}

/// Gives the machine such a neighbour, or with the default takes it away.
pub fn set_neighbour(machine: &Machine, neighbour: Neighbour) {
    let next = &fwp(machine).neighbour;
    *lock(&next.habits) = neighbour;
    next.is_there.store(neighbour != Neighbour::default(), Ordering::Release);
}

impl Next {
    fn next_due(&self) -> Option<Duration> {
        let taken = lock(&self.taken).front().map(|taken| taken.due);
        let held = lock(&self.held).front().map(|(due, _)| *due);
        taken.into_iter().chain(held).min()
    }

    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// Puts packets back and lets go of lists when their time comes, until the machine is off.
    pub(crate) fn run(&self, machine: &Machine) {
        while !machine.is_off() && !machine.is_dead() {
            let next = self.next_due();
            let due = || {
                if machine.is_off() {
                    return Some(None);
                }
                let now = machine.world().now();
                let mut taken = lock(&self.taken);
                let first = taken.pop_front_if(|first| first.due <= now);
                drop(taken);
                let let_go = lock(&self.held).pop_front_if(|(due, _)| *due <= now);
                if let Some((_, list)) = &let_go {
                    fwp(machine).nic.dereference(machine, list);
                }
                let changed = let_go.is_some() || self.next_due() != next;
                first.map(Some).or_else(|| changed.then_some(None))
            };
            if let Ok(Some(back)) = machine.wait(Key::of(&self.taken), next, "the neighbour", due) {
                super::inbound::reinject(machine, &fwp(machine), back);
            }
        }
    }
}

/// What it decides about a packet.
pub(crate) fn look(
    machine: &Machine,
    fwp: &Fwp,
    endpoint: u64,
    facts: &Facts,
    received: &Received,
    required: bool,
) -> Decision {
    let next = &fwp.neighbour;
    // It knows its own.
    if !next.is_there() || received.about.injected_by == HANDLE {
        return Decision::OPEN;
    }
    let habits = *lock(&next.habits);
    let strikes =
        |one_in: u32| one_in != 0 && machine.world().random().is_multiple_of(one_in.into());
    if strikes(habits.holds)
        && let Some(list) = fwp.nic.find(received.at)
    {
        fwp.nic.reference(&list);
        lock(&next.held).push_back((machine.world().now() + habits.delay, list));
        machine.world().wake(Key::of(&next.taken));
    }
    if strikes(habits.clears_right) {
        return Decision::hard(PERMIT, false);
    }
    if strikes(habits.drops) {
        return Decision::hard(BLOCK, true);
    }
    // Coalesced packets may not be cloned and put back.
    if !received.about.merged && strikes(habits.reinjects) {
        let due = machine.world().now() + habits.delay;
        let (facts, about) = (*facts, received.about);
        let taken = Taken { due, endpoint, facts, about, payload: received.payload(), required };
        lock(&next.taken).push_back(taken);
        machine.world().wake(Key::of(&next.taken));
        return Decision::hard(BLOCK, true);
    }
    Decision::OPEN
}
