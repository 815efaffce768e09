//! Who may deliver: at most one at a time, and nothing that was finished is left behind.
//!
//! A word {IDLE, OWNED, OWNED|AGAIN}. Whoever has finished something claims it; a claim that finds an
//! owner sets AGAIN and leaves, and an owner can only let go while AGAIN is clear. So what became
//! finished while the owner looked elsewhere is looked at by that owner once more.
//!
//! Any IRQL that its user keeps.

use crate::sync::atomic::{AtomicU32, Ordering};

const IDLE: u32 = 0;
const OWNED: u32 = 1;
const AGAIN: u32 = 2;

/// The word.
pub(super) struct Ownership(AtomicU32);

impl Ownership {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(IDLE))
    }

    /// Becomes the owner, or has the owner look again; returns which.
    ///
    /// A new owner has begun its first look.
    pub(super) fn claim(&self) -> bool {
        // Acquire, as the owner: sees what the last one did.
        let alone = self.0.compare_exchange(IDLE, OWNED, Ordering::Acquire, Ordering::Relaxed);
        // AcqRel: Release publishes what we finished to the owner that sees AGAIN; Acquire as above, if that
        // one has let go meanwhile. Then AGAIN stays set, and makes us look twice.
        alone.is_ok() || self.0.fetch_or(OWNED | AGAIN, Ordering::AcqRel) & OWNED == 0
    }

    /// Begins another look, as the owner: what is finished from here on asks for another.
    pub(super) fn look(&self) {
        // Acquire pairs with the Release of whoever set AGAIN: what it finished is seen in this look.
        self.0.fetch_and(!AGAIN, Ordering::AcqRel);
    }

    /// Lets go, unless somebody asked for another look; returns whether it did.
    pub(super) fn let_go(&self) -> bool {
        // Release pairs with the Acquire of the next owner's claim.
        self.0.compare_exchange(OWNED, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
