//! A spin lock that owns its data.
//!
//! The guard is the only way to the data; it borrows the caller's IRQL token and lends out
//! `DISPATCH_LEVEL`, so "lock held" and "at dispatch" are one fact, and an inner lock taken with
//! the guard's token does not raise again. Locks of the protocol core are `crypto`'s own; this one
//! is for what lives in NT's crates. Any thread, `<= DISPATCH_LEVEL`.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use wdk_sys::{
    KIRQL, KSPIN_LOCK,
    ntddk::{
        KeAcquireSpinLockAtDpcLevel, KeAcquireSpinLockRaiseToDpc, KeReleaseSpinLock,
        KeReleaseSpinLockFromDpcLevel,
    },
};

use crate::irql::{Dispatch, Irql};

/// Data that one CPU at a time may touch. Wraps [`KSPIN_LOCK`].
///
/// # Invariants
///
/// `lock` is zero (what `KeInitializeSpinLock` writes) or written by the routines below; `data` is
/// touched by the lock's holder only.
///
/// [`KSPIN_LOCK`]: https://learn.microsoft.com/windows-hardware/drivers/kernel/spin-locks
#[derive(Debug)]
pub struct SpinLock<T> {
    lock: UnsafeCell<KSPIN_LOCK>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock hands the data from thread to thread, one at a time.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: as above; a shared SpinLock gives access to its holder only.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock around `data`.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn new(data: T) -> Self {
        Self { lock: UnsafeCell::new(0), data: UnsafeCell::new(data) }
    }

    /// Spins until the lock is free, and holds it until the guard is dropped.
    ///
    /// Taking it twice on one CPU never ends. The order between locks is that of the fields of
    /// what holds them.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; `DISPATCH_LEVEL` while held.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keacquirespinlock>
    pub fn lock<'held, L: Irql>(&'held self, _level: &'held L) -> Guard<'held, T> {
        let previous = if L::AT_DISPATCH {
            // SAFETY: the token says we are at DISPATCH_LEVEL; the lock is initialised (type
            // invariant) and lives as long as the guard.
            unsafe { KeAcquireSpinLockAtDpcLevel(self.lock.get()) };
            None
        } else {
            // SAFETY: the token says we are at most at DISPATCH_LEVEL; the rest as above.
            Some(unsafe { KeAcquireSpinLockRaiseToDpc(self.lock.get()) })
        };
        Guard { lock: self, previous, _thread: PhantomData }
    }

    /// The data, which nobody else can reach.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

/// A held lock; the way to its data.
///
/// # Invariants
///
/// This thread holds `lock`; `previous` is the level to go back to, if taking the lock raised it.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct Guard<'held, T> {
    lock: &'held SpinLock<T>,
    previous: Option<KIRQL>,
    _thread: PhantomData<*const ()>,
}

impl<T> Guard<'_, T> {
    /// Holding a lock is being at `DISPATCH_LEVEL`.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    #[must_use]
    pub fn level(&self) -> Dispatch<'_> {
        // SAFETY: by the type invariant the lock is held, and the token borrows its guard.
        unsafe { Dispatch::assume() }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held (type invariant), so only this guard's borrows are alive.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; this borrow of the guard is unique.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        match self.previous {
            // SAFETY: by the type invariant this thread holds the lock and came from this level.
            Some(previous) => unsafe { KeReleaseSpinLock(self.lock.lock.get(), previous) },
            // SAFETY: by the type invariant this thread holds the lock, taken at DISPATCH_LEVEL.
            None => unsafe { KeReleaseSpinLockFromDpcLevel(self.lock.lock.get()) },
        }
    }
}
