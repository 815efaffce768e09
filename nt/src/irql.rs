//! The interrupt request level, as proof that is passed along.
//!
//! Three tokens and no more, because the driver runs at no other level:
//!
//! | token | proves | made by |
//! |---|---|---|
//! | [`Passive`] | at `PASSIVE_LEVEL` | callbacks documented so, our threads |
//! | [`AtMostDispatch`] | at or below `DISPATCH_LEVEL` | callbacks documented `<=` |
//! | [`Dispatch`] | at `DISPATCH_LEVEL` | [`raise`], a held lock, a DPC |
//!
//! A token is not `Send`: it speaks of this thread, now. One made by raising the level says so, and
//! what would raise it again does not. What raises the level
//! borrows the token it was given, so a `Passive` lent by [`Passive::lend`] cannot be used before
//! the level is back. Debug builds compare each new token with `KeGetCurrentIrql`; the simulator
//! checks every call of ours in any build.

use core::marker::PhantomData;

use wdk_sys::{
    DISPATCH_LEVEL, KIRQL,
    ntddk::{KeGetCurrentIrql, KeLowerIrql},
};

use crate::sys::ke::KfRaiseIrql;

/// Keeps a token on the thread it speaks of: raw pointers are neither `Send` nor `Sync`.
type OfThisThread = PhantomData<*const ()>;

/// Proof that this thread is at `PASSIVE_LEVEL`: it may wait, page and read the registry.
#[derive(Debug)]
pub struct Passive(OfThisThread);

/// Proof that this thread is at or below `DISPATCH_LEVEL`: it may take spin locks.
///
/// # Invariants
///
/// If `is_there`, the thread is at `DISPATCH_LEVEL` as long as the token is used.
#[derive(Debug)]
pub struct AtMostDispatch {
    is_there: bool,
    _thread: OfThisThread,
}

/// Proof that this thread is at `DISPATCH_LEVEL` as long as `'held`, and so stays on its CPU.
#[derive(Debug)]
pub struct Dispatch<'held>(PhantomData<&'held ()>, OfThisThread);

impl Passive {
    /// Takes the caller's word that this thread is at `PASSIVE_LEVEL`.
    ///
    /// # Safety
    ///
    /// The thread is at `PASSIVE_LEVEL` and, but for what borrows this token, stays there as long
    /// as the token is used.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub unsafe fn assume() -> Self {
        debug_assert!(current() == 0, "not at PASSIVE_LEVEL");
        Self(PhantomData)
    }

    /// Lends the token to something that raises the level; it cannot be used meanwhile.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn lend(&mut self) -> &AtMostDispatch {
        &AtMostDispatch::SOMEWHERE
    }

    /// Runs `body` at `DISPATCH_LEVEL` and comes back.
    ///
    /// `body` must not use this token, although it can see it; a debug build stops if it does.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; `body` runs at `DISPATCH_LEVEL`.
    pub fn pinned<R>(&self, body: impl FnOnce(&Dispatch<'_>) -> R) -> R {
        AtMostDispatch::SOMEWHERE.pinned(body)
    }
}

impl AtMostDispatch {
    /// At some level that is low enough.
    const SOMEWHERE: Self = Self { is_there: false, _thread: PhantomData };
    /// At `DISPATCH_LEVEL`: for who holds a [`Dispatch`].
    const THERE: Self = Self { is_there: true, _thread: PhantomData };

    /// Takes the caller's word that this thread is at or below `DISPATCH_LEVEL`.
    ///
    /// # Safety
    ///
    /// The thread is at or below `DISPATCH_LEVEL` as long as the token is used.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub unsafe fn assume() -> Self {
        debug_assert!(u32::from(current()) <= DISPATCH_LEVEL, "above DISPATCH_LEVEL");
        Self::SOMEWHERE
    }

    /// Runs `body` at `DISPATCH_LEVEL` and comes back.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; `body` runs at `DISPATCH_LEVEL`.
    pub fn pinned<R>(&self, body: impl FnOnce(&Dispatch<'_>) -> R) -> R {
        let raised = raise(self);
        body(&raised.level())
    }
}

impl Dispatch<'_> {
    /// Takes the caller's word that this thread is at `DISPATCH_LEVEL`, as in a DPC.
    ///
    /// # Safety
    ///
    /// The thread is at `DISPATCH_LEVEL` as long as the token is used.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    #[must_use]
    pub unsafe fn assume() -> Self {
        debug_assert!(u32::from(current()) == DISPATCH_LEVEL, "not at DISPATCH_LEVEL");
        Self(PhantomData, PhantomData)
    }

    /// The same, for who asks for less; raising it costs nothing.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    #[must_use]
    pub fn at_most(&self) -> &AtMostDispatch {
        // INVARIANT: this token says so for as long as it is borrowed.
        &AtMostDispatch::THERE
    }
}

#[cfg(test)]
impl Dispatch<'_> {
    /// A token where there are no levels.
    pub(crate) const fn in_a_test() -> Self {
        Self(PhantomData, PhantomData)
    }
}

/// A level at which spin locks may be taken.
///
/// Sealed: the three tokens are all there are. [`Passive`] takes part through [`Passive::lend`].
pub trait Irql: sealed::Sealed {
    /// Whether the level is exactly `DISPATCH_LEVEL`, so that nothing needs to raise it.
    const AT_DISPATCH: bool;
}

impl Irql for AtMostDispatch {
    const AT_DISPATCH: bool = false;
}

impl Irql for Dispatch<'_> {
    const AT_DISPATCH: bool = true;
}

mod sealed {
    /// Keeps [`super::Irql`] to this module's tokens.
    pub trait Sealed {}
    impl Sealed for super::AtMostDispatch {}
    impl Sealed for super::Dispatch<'_> {}
}

/// Raises this thread to `DISPATCH_LEVEL` until the guard is dropped, if it is not known to be there.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keraiseirql>
#[must_use = "the level is lowered when the guard is dropped"]
pub fn raise(level: &AtMostDispatch) -> Raised<'_> {
    let previous = (!level.is_there).then(|| {
        // SAFETY: the token says the level is at most DISPATCH_LEVEL, so this does not lower it; the
        // guard restores it on this thread, from which it cannot be sent away.
        unsafe { KfRaiseIrql(DISPATCH_LEVEL as KIRQL) }
    });
    Raised { previous, _from: PhantomData, _thread: PhantomData }
}

/// A thread raised to `DISPATCH_LEVEL`; dropping it goes back to the level before.
///
/// # Invariants
///
/// `previous` is what `KfRaiseIrql` returned on this thread, and has not been restored; or none, and the
/// thread was there before.
///
/// Guards must go in the opposite order of their making, as borrows of one token and scopes make
/// them; [`core::mem::forget`] leaves the thread raised.
#[derive(Debug)]
pub struct Raised<'level> {
    previous: Option<KIRQL>,
    _from: PhantomData<&'level AtMostDispatch>,
    _thread: OfThisThread,
}

impl Raised<'_> {
    /// The level this guard holds.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    #[must_use]
    pub fn level(&self) -> Dispatch<'_> {
        Dispatch(PhantomData, PhantomData)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // SAFETY: by the type invariant this is the level the thread had before.
            unsafe { KeLowerIrql(previous) };
        }
    }
}

/// The current level, as a number.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetcurrentirql>
#[must_use]
pub fn current() -> u8 {
    // SAFETY: only reads a register of this CPU; allowed at any level.
    unsafe { KeGetCurrentIrql() }
}
