//! A lock for `PASSIVE_LEVEL`: whoever has to wait sleeps.
//!
//! Made of a synchronisation event that is set while the lock is free, because the kernel's own
//! mutexes are tied to a thread and raise to APC_LEVEL, which our tokens do not know. Not reentrant.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use crate::{
    event::{Event, Kind},
    irql::Passive,
    status::NtError,
};

/// Data that one thread at a time may use, at `PASSIVE_LEVEL`.
///
/// # Invariants
///
/// `free` is set exactly while no [`Locked`] exists.
#[derive(Debug)]
pub struct Mutex<T> {
    free: Event,
    data: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches the data, so sharing the lock only moves `T` between them.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Where the data are, for a debugger.
    pub const VALUE: usize = core::mem::offset_of!(Self, data);

    /// An open lock around `data`.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(data: T) -> Result<Self, NtError> {
        let free = Event::try_new(Kind::Synchronization)?;
        free.set();
        Ok(Self { free, data: UnsafeCell::new(data) })
    }

    /// Waits until the lock is free, and takes it.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn lock<'held>(&'held self, passive: &'held Passive) -> Locked<'held, T> {
        // The event lets one waiter through and clears itself.
        self.free.wait(passive);
        Locked { mutex: self, _passive: passive }
    }
}

/// The right to use a [`Mutex`]'s data, given back on drop.
#[must_use = "the lock is given back when this is dropped"]
#[derive(Debug)]
pub struct Locked<'held, T> {
    mutex: &'held Mutex<T>,
    _passive: &'held Passive,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the invariant of `Mutex` this is the only `Locked`.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by the invariant of `Mutex` this is the only `Locked`, and it is borrowed uniquely.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        self.mutex.free.set();
    }
}
