//! Somebody else's callout at the transport layers, in a heavier sublayer: what antivirus and firewalls do.
//!
//! It is asked before the driver's callouts. Each of its habits strikes one packet in a few: it takes the right to decide
//! away; keeps a packet, or a clone of it, to put it back into the stack later (so that it comes out of order and with an
//! injection state); drops it; or only references it for a while, which costs the network card a buffer. What it may not do it
//! leaves: a coalesced list is not cloned, one that ALE has still to classify is not put back, nor one it has put in itself.
//!
//! Source: `facts/risks.md` 14; WDD network/types-of-callouts, network/packet-injection-functions; DDI
//! fwpsk/nf-fwpsk-fwpsinjecttransportreceiveasync0.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::classify::Decision;
use super::clones::Parent;
use super::layers::Facts;
use super::objects::{BLOCK, PERMIT};
use super::received::{About, Received};
use super::{Fwp, fwp, inbound, outbound};
use crate::host::Sending;
use crate::nt::machine::Machine;
use crate::nt::ndis::layout::Buffer;
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
    /// Absorbs, and puts a clone back within [`Neighbour::delay`], in any order.
    pub clones: u32,
    /// The same with what is sent.
    pub clones_sent: u32,
    /// Absorbs for good.
    pub drops: u32,
    /// References, and gives back after [`Neighbour::delay`]; what is decided is left to others.
    pub holds: u32,
    /// How long it keeps what it puts back or holds.
    pub delay: Duration,
}

/// A packet it keeps, and what it knows of it.
pub(crate) struct Taken {
    pub(crate) endpoint: u64,
    pub(crate) facts: Facts,
    pub(crate) what: What,
}

/// What it puts back.
pub(crate) enum What {
    /// A copy of a received datagram.
    Copy { about: About, payload: Vec<u8> },
    /// A clone of one, data behind the headers.
    Received(Received),
    /// A clone of a list of sent ones, data at the UDP header; and how it was to leave.
    Sent(Received, Sending),
}

/// The neighbour of one machine.
#[derive(Default)]
pub(crate) struct Next {
    is_there: AtomicBool,
    habits: Mutex<Neighbour>,
    taken: Mutex<Vec<(Duration, Taken)>>,
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
        let taken = lock(&self.taken).iter().map(|(due, _)| *due).min();
        let held = lock(&self.held).front().map(|(due, _)| *due);
        taken.into_iter().chain(held).min()
    }

    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// Whether it looks at what is sent.
    pub(crate) fn sees_sent(&self) -> bool {
        self.is_there() && lock(&self.habits).clones_sent > 0
    }

    fn keep(&self, machine: &Machine, after: Duration, taken: Taken) {
        lock(&self.taken).push((machine.world().now() + after, taken));
        machine.world().wake(Key::of(&self.taken));
    }

    /// The first packet whose time has come.
    fn take_due(&self, now: Duration) -> Option<Taken> {
        let mut taken = lock(&self.taken);
        let due = taken.iter().enumerate().filter(|(_, (due, _))| *due <= now);
        let (at, _) = due.min_by_key(|(_, (due, _))| *due)?;
        Some(taken.remove(at).1)
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
                let first = self.take_due(now);
                let let_go = lock(&self.held).pop_front_if(|(due, _)| *due <= now);
                if let Some((_, list)) = &let_go {
                    fwp(machine).nic.dereference(machine, list);
                }
                let changed = let_go.is_some() || self.next_due() != next;
                first.map(Some).or_else(|| changed.then_some(None))
            };
            if let Ok(Some(back)) = machine.wait(Key::of(&self.taken), next, "the neighbour", due) {
                put_back(machine, back);
            }
        }
    }
}

/// Puts everything it keeps back now, in the calling thread.
#[cfg(test)]
pub(crate) fn put_back_all(machine: &Machine) {
    let all = std::mem::take(&mut *lock(&fwp(machine).neighbour.taken));
    all.into_iter().for_each(|(_, taken)| put_back(machine, taken));
}

fn put_back(machine: &Machine, back: Taken) {
    let fwp = fwp(machine);
    match back.what {
        What::Copy { about, payload } => {
            inbound::reinject_copy(machine, &fwp, (back.endpoint, back.facts), about, &payload);
        }
        What::Received(list) => {
            inbound::reinject(machine, &fwp, (back.endpoint, back.facts), list);
        }
        What::Sent(list, how) => {
            outbound::reinject(machine, &fwp, (back.endpoint, back.facts), list, &how);
        }
    }
}

/// What it decides about a received packet.
pub(crate) fn look(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    received: &Received,
    required: bool,
) -> Decision {
    let next = &fwp.neighbour;
    // It knows its own.
    if !next.is_there() || received.about.injected_by == HANDLE {
        return Decision::OPEN;
    }
    let habits = *lock(&next.habits);
    let strikes = |one_in| strikes(machine, one_in);
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
    if received.about.merged || required {
        return Decision::OPEN;
    }
    let about = received.about;
    if strikes(habits.reinjects) {
        let what = What::Copy { about, payload: received.payload() };
        next.keep(machine, habits.delay, Taken { endpoint, facts, what });
        return Decision::hard(BLOCK, true);
    }
    if strikes(habits.clones)
        && let Some(parent) = fwp.nic.find(received.at)
    {
        let lead = if facts.local.is_ipv6() { 48 } else { 28 };
        let about = About { injected_by: HANDLE, before: (about.injected_by, 0), ..about };
        let buffers = received.buffers();
        if let Some(clone) = fwp.clone_list(machine, (Parent::Shown(parent), buffers), lead, about)
        {
            let what = What::Received(clone);
            next.keep(machine, within(machine, habits.delay), Taken { endpoint, facts, what });
        }
        return Decision::hard(BLOCK, true);
    }
    Decision::OPEN
}

/// What it decides about a list of sent datagrams, by whom it was injected, if it was.
pub(crate) fn look_at_sent(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    (parent, buffers): (Parent, &[(usize, Buffer)]),
    (injected, how): ((usize, u64), &Sending),
) -> Decision {
    let next = &fwp.neighbour;
    if !next.is_there() || injected.0 == HANDLE || !strikes(machine, lock(&next.habits).clones_sent)
    {
        return Decision::OPEN;
    }
    let about = About {
        ipv6: facts.remote.is_ipv6(),
        injected_by: HANDLE,
        before: injected,
        ..About::default()
    };
    if let Some(clone) = fwp.clone_list(machine, (parent, buffers), 0, about) {
        let delay = lock(&next.habits).delay;
        let what = What::Sent(clone, *how);
        next.keep(machine, within(machine, delay), Taken { endpoint, facts, what });
    }
    Decision::hard(BLOCK, true)
}

fn strikes(machine: &Machine, one_in: u32) -> bool {
    one_in != 0 && machine.world().random().is_multiple_of(one_in.into())
}

/// Some time up to `most`.
fn within(machine: &Machine, most: Duration) -> Duration {
    Duration::from_nanos(machine.world().random() % (most.as_nanos() as u64 + 1))
}
