//! What is taken down with a token: a `Drop` that runs at `PASSIVE_LEVEL` and may wait.
//!
//! `Drop` has no arguments, so a type that waits at its end could only take its level on trust. This
//! takes it on trust in one place, for types of crates that are not `unsafe`.

use core::ops::{Deref, DerefMut};

use crate::irql::Passive;

/// What is to be done when a value goes, before its fields are dropped.
pub trait Close {
    /// Takes the value down.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    fn close(&mut self, passive: &Passive);
}

/// A value that is closed when it is dropped, which must be at `PASSIVE_LEVEL`.
#[derive(Debug)]
pub struct Closing<T: Close>(T);

impl<T: Close> Closing<T> {
    /// Has `value` closed at its end.
    ///
    /// # IRQL
    ///
    /// Any; dropped at `PASSIVE_LEVEL`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T: Close> Deref for Closing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Close> DerefMut for Closing<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Close> Drop for Closing<T> {
    fn drop(&mut self) {
        // SAFETY: such values are dropped at PASSIVE_LEVEL (type documentation).
        let passive = unsafe { Passive::assume() };
        self.0.close(&passive);
    }
}
