//! Shared ownership whose allocation may fail; `alloc`'s `Arc` aborts when there is no memory.
//!
//! Strong references only. Any thread, `<= DISPATCH_LEVEL`, if the value may be dropped there.
#![allow(unsafe_code)] // Ownership by count has no safe form.

use alloc::boxed::Box;
use core::{
    fmt,
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use nt::{pool::try_box, status::NtError};

/// A value and how many own it.
struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

/// One of the owners of a `T`.
///
/// # Invariants
///
/// The pointer came from a box, and `owners` counts this owner, so it has not been freed.
pub(crate) struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: as for `Arc`: owners on several threads share the value, and any may drop it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Moves `value` to the pool, with one owner.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; `value` is then dropped.
    pub(crate) fn try_new(value: T) -> Result<Self, NtError> {
        let counted = try_box(Counted { owners: AtomicUsize::new(1), value })?;
        // INVARIANT: from a box, and counted.
        Ok(Self(NonNull::from(Box::leak(counted))))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: not freed, by the type invariant.
        let counted = unsafe { self.0.as_ref() };
        // Relaxed: whoever clones already owns. There are fewer owners than addresses.
        counted.owners.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: just counted.
        Self(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: not freed, by the type invariant.
        &unsafe { self.0.as_ref() }.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: not freed, by the type invariant.
        let counted = unsafe { self.0.as_ref() };
        // Release: what this owner did comes before the last one frees.
        if counted.owners.fetch_sub(1, Ordering::Release) == 1 {
            // Pairs with the releases of the other owners.
            fence(Ordering::Acquire);
            // SAFETY: from a box by the type invariant, and the last owner is going.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_owner_drops_the_value() {
        struct Value<'c>(&'c AtomicUsize);
        impl Drop for Value<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = AtomicUsize::new(0);
        let first = Shared::try_new(Value(&dropped)).unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.addr(), second.clone().0.addr());
        drop(second);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}
