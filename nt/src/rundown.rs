//! Rundown protection: entering is cheap, and the last one out lets the owner go on.
//!
//! Guards what callbacks use (a socket, an adapter) against being taken down under them. The owner
//! calls [`Rundown::wait`] once; from then on nobody enters, and it returns when all have left.

use core::{cell::UnsafeCell, mem::ManuallyDrop};

use wdk_sys::{
    EX_RUNDOWN_REF,
    ntddk::{
        ExAcquireRundownProtection, ExInitializeRundownProtection, ExReInitializeRundownProtection,
        ExReleaseRundownProtection, ExWaitForRundownProtectionRelease,
    },
};

use crate::{irql::Passive, shared::Shared};

/// A door that its owner can close. Wraps `EX_RUNDOWN_REF`.
///
/// # Invariants
///
/// Initialised by `ExInitializeRundownProtection`. The word holds a count and points to nothing
/// but a waiter's stack while it waits, so it may be moved while nobody is inside.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/run-down-protection>
pub struct Rundown(UnsafeCell<EX_RUNDOWN_REF>);

// SAFETY: NT changes the word by interlocked operations only; that is what it is for.
unsafe impl Send for Rundown {}
// SAFETY: as above.
unsafe impl Sync for Rundown {}

impl Default for Rundown {
    fn default() -> Self {
        Self::new()
    }
}

impl Rundown {
    /// An open door.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn new() -> Self {
        let word = UnsafeCell::new(EX_RUNDOWN_REF::default());
        // SAFETY: the word is ours alone and lives through the call.
        unsafe { ExInitializeRundownProtection(word.get()) };
        Self(word)
    }

    /// Enters, unless the owner has closed the door.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exacquirerundownprotection>
    #[must_use]
    pub fn enter(&self) -> Option<Inside<'_>> {
        // SAFETY: initialised (type invariant) and borrowed for the call.
        let entered = unsafe { ExAcquireRundownProtection(self.0.get()) } != 0;
        // Lazily: a guard that is made must be one that was acquired, for dropping it releases.
        entered.then(|| Inside(self))
    }

    /// Takes back what [`Inside::into_raw`] left inside.
    ///
    /// # Safety
    ///
    /// There is one call of `into_raw` on this door's guard for each call of this.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub unsafe fn from_raw(&self) -> Inside<'_> {
        Inside(self)
    }

    /// Closes the door and waits until everybody has left. Waiting again returns at once.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exwaitforrundownprotectionrelease>
    pub fn wait(&self, _passive: &Passive) {
        // SAFETY: initialised (type invariant); at PASSIVE_LEVEL, as the token says.
        unsafe { ExWaitForRundownProtectionRelease(self.0.get()) };
    }

    /// Opens the door again after [`Rundown::wait`].
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exreinitializerundownprotection>
    pub fn reopen(&mut self, passive: &Passive) {
        self.wait(passive); // only a closed door may be opened again
        // SAFETY: closed and empty since the wait, and nobody else has it: the borrow is unique.
        unsafe { ExReInitializeRundownProtection(self.0.get()) };
    }
}

/// Somebody inside a door that is shared, for as long as this value lives; it may be sent away.
///
/// # Invariants
///
/// Stands for one acquisition of the door.
#[must_use = "dropping it is leaving"]
#[derive(Debug)]
pub struct Stay(Shared<Rundown>);

impl Stay {
    /// Enters, unless the owner has closed the door.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn enter(door: &Shared<Rundown>) -> Option<Self> {
        door.enter()?.into_raw();
        // INVARIANT: acquired just now.
        Some(Self(door.clone()))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // SAFETY: by the type invariant, once.
        drop(unsafe { self.0.from_raw() });
    }
}

impl core::fmt::Debug for Rundown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rundown")
    }
}

/// Somebody inside; the owner waits for this to be dropped.
#[must_use = "dropping it is leaving"]
#[derive(Debug)]
pub struct Inside<'door>(&'door Rundown);

impl Inside<'_> {
    /// Stays inside without a guard, for an operation whose completion leaves by
    /// [`Rundown::from_raw`].
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn into_raw(self) {
        let _stays = ManuallyDrop::new(self);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // SAFETY: this guard stands for one successful acquisition of this door.
        unsafe { ExReleaseRundownProtection(self.0.0.get()) };
    }
}
