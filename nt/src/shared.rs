//! A value with several owners, on the heap; making it may fail.
//!
//! `alloc`'s `Arc` cannot be made fallibly. This one has no weak references. The last owner drops
//! the value where it is, so a value that must go at `PASSIVE_LEVEL` needs its last owner there.

use alloc::boxed::Box;
use core::{
    fmt,
    ops::Deref,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use crate::{pool, status::NtError};

/// # Invariants
///
/// `owners` counts the [`Shared`] there are; the last one frees the block.
struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

/// One of the owners of a value.
///
/// # Invariants
///
/// The block is live, and counts this value among its owners.
pub struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: the value is used from any thread, and dropped on the last owner's.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Moves `value` to the heap; this is its first owner.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(value: T) -> Result<Self, NtError> {
        let counted = pool::try_box(Counted { owners: AtomicUsize::new(1), value })?;
        // INVARIANT: one owner, which is this.
        Ok(Self(NonNull::from(Box::leak(counted))))
    }

    /// Whether both own the same value.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        this.0 == other.0
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: by the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones owns already. 2^63 owners do not fit into memory.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: counted just now.
        Self(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Release: what this owner did happens before the drop by the last, who acquires below.
        if self.counted().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: this was the last owner; made by a box in `try_new`.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_last_owner_drops() {
        struct Noted<'n>(&'n Cell<u32>);
        impl Drop for Noted<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let drops = Cell::new(0);
        let first = Shared::try_new(Noted(&drops)).unwrap();
        let second = first.clone();
        assert!(Shared::ptr_eq(&first, &second));
        drop(first);
        assert_eq!(drops.get(), 0);
        drop(second);
        assert_eq!(drops.get(), 1);
    }
}
