//! Which code seals and opens on this machine, and the proof that it may run now.
//!
//! The tier is chosen once, when the driver starts, from what the CPU has (CPUID), what the
//! operating system has switched on (XGETBV) and what it says it saves (its mask of enabled
//! features). It is never chosen by `core`'s or a crate's own detection: in a kernel the CPU having
//! a register does not mean that the register is ours.
#![allow(unsafe_code)] // XGETBV, and the constructor of a proof.

use core::marker::PhantomData;

/// One implementation of the batch, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Packet by packet with the `chacha20poly1305` crate, in general registers.
    Portable,
}

impl Tier {
    /// The lower of the two: what the machine can do under a policy that says at most `limit`.
    #[must_use]
    pub fn at_most(self, limit: Self) -> Self {
        self.min(limit)
    }

    /// Whether the tier uses registers that the kernel does not save for a driver by itself.
    #[must_use]
    pub const fn needs_state(self) -> bool {
        match self {
            Self::Portable => false,
        }
    }
}

/// Chooses the fastest tier of this machine.
///
/// `enabled_features` is the operating system's mask of the extended state that it manages, as
/// `RtlGetEnabledExtendedFeatures` returns it (bit numbers are those of XCR0).
#[must_use]
pub fn detect(enabled_features: u64) -> Tier {
    let _ = enabled_features;
    Tier::Portable
}

/// Proof that this CPU's extended registers may be used, and up to which tier.
///
/// Not `Send`: the registers belong to the CPU and the moment they were saved at.
#[derive(Debug)]
pub struct ExtendedState {
    tier: Tier,
    here: PhantomData<*const ()>,
}

impl ExtendedState {
    /// States that `tier` may run here until the value is dropped.
    ///
    /// # Safety
    ///
    /// `tier` is not above what [`detect`] returned on this machine. If it
    /// [needs the state](Tier::needs_state), then until the value is dropped the code stays on this
    /// thread, and the extended state of the code it interrupted has been saved and will be
    /// restored (or, outside a kernel, belongs to this thread anyway).
    #[must_use]
    pub const unsafe fn assume(tier: Tier) -> Self {
        Self { tier, here: PhantomData }
    }

    /// The tier that will run.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        self.tier
    }
}
