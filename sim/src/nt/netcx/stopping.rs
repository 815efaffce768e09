//! How the poll of a queue is told to stop, and says that it has nothing left to do.
//!
//! Source: `facts/netcx-os.md` §5 and §6.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::nt::machine::Machine;
use crate::verifier::schedule::Key;

/// Shared by a translator's poll and whoever stops its queue.
#[derive(Default)]
pub(crate) struct Stopping {
    begun: AtomicBool,
    ready: AtomicBool,
}

impl Stopping {
    /// Switches to the stopping poll, or back.
    pub(crate) fn set(&self, stopping: bool) {
        self.begun.store(stopping, Ordering::Release);
        self.ready.store(false, Ordering::Release);
    }

    /// Whether it is the stopping poll's turn.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Nothing is left to do; whoever waits sees it with the next [`Stopping::wake`].
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether the stopping poll has nothing left to do.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What to wait on for that.
    pub(crate) fn key(&self) -> Key {
        Key::of(&self.ready)
    }

    /// Wakes who waits for that.
    pub(crate) fn wake(&self, machine: &Machine) {
        machine.world().wake(self.key());
    }
}
