//! Clones of lists, as others' callouts make them (`FwpsAllocateCloneNetBufferList0`).
//!
//! A clone is a NET_BUFFER_LIST, NET_BUFFERs and MDLs of its own over the bytes of its parent, which is referenced and counts
//! it until it is freed. So whoever gave the parent does without it for that long: the network card without its buffer, a
//! driver that injected it without its completion. In the stack a clone is a list like any other ([`Received`]).
//!
//! Source: DDI fwpsk/nf-fwpsk-fwpsallocateclonenetbufferlist0, …-fwpsfreeclonenetbufferlist0; WDD network/types-of-callouts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::received::{About, Nic, Received};
use super::{Fwp, fwp};
use crate::loader::probe;
use crate::nt::machine::Machine;
use crate::nt::ndis::layout::{Buffer, list};
use crate::verifier::rules;

/// Pool tag of clones.
pub(super) const TAG: u32 = u32::from_le_bytes(*b"NbrC");

/// What a clone is made of.
pub(crate) enum Parent {
    /// A list of the stack's.
    Shown(Arc<Received>),
    /// A list that a driver has injected.
    Injected(usize),
}

impl Parent {
    /// Its address.
    pub(super) fn at(&self) -> usize {
        match self {
            Self::Shown(received) => received.at,
            Self::Injected(at) => *at,
        }
    }

    /// The clone is made: the parent stays, and counts it.
    fn keep(&self, nic: &Nic) {
        count(self.at(), 1);
        if let Self::Shown(received) = self {
            nic.reference(received);
        }
    }

    /// The clone is gone.
    pub(super) fn let_go(&self, machine: &Machine, nic: &Nic) {
        count(self.at(), -1);
        let fwp = fwp(machine);
        fwp.clones.fetch_sub(1, Ordering::SeqCst);
        match self {
            Self::Shown(received) => nic.dereference(machine, received),
            Self::Injected(_) => fwp.injections.look_again(machine),
        }
    }
}

/// How many clones a list has.
pub(super) fn children(list: usize) -> i32 {
    probe::atomic_u32(list + list::CHILD_REFERENCES)
        .map_or(0, |count| count.load(Ordering::SeqCst) as i32)
}

fn count(list: usize, more: i32) {
    if let Ok(count) = probe::atomic_u32(list + list::CHILD_REFERENCES) {
        count.fetch_add(more as u32, Ordering::SeqCst);
    }
}

/// Clones that nobody has freed.
#[must_use]
pub fn held_clones(machine: &Machine) -> usize {
    fwp(machine).clones.load(Ordering::SeqCst)
}

impl Fwp {
    /// Clones a list whose buffers are `buffers`, from `lead` bytes before their data on; `None` if there is no memory.
    pub(super) fn clone_list(
        &self,
        machine: &Machine,
        (parent, buffers): (Parent, &[(usize, Buffer)]),
        lead: u32,
        about: About,
    ) -> Option<Received> {
        parent.keep(&self.nic);
        self.clones.fetch_add(1, Ordering::SeqCst);
        let at = parent.at();
        let made = Received::clone_of(machine, (parent, buffers), lead, about);
        if made.is_none() {
            machine.die(&rules::SIMULATOR, format!("no memory for a clone of {at:#x}"));
        }
        made
    }
}
