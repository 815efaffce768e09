//! Reference counts whose allocation may fail.
//!
//! [`Shared`] exists because `alloc::sync::Arc` can only allocate by aborting when memory is short,
//! and a kernel driver must be able to say no. It has no weak references: who makes a cycle breaks
//! it by hand.

#![allow(unsafe_code)] // Reference counts are made of pointers.

use alloc::alloc::{Layout, alloc, dealloc};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
};

use super::{
    OutOfMemory,
    atomic::{AtomicUsize, Ordering, fence},
    fetch,
};

/// A reference-counted value whose allocation may fail.
///
/// # Invariants
///
/// `counted` points to a live [`Counted`] made by `Shared::allocate`, and this value owns one of
/// its `references`.
pub struct Shared<T> {
    counted: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

/// `repr(C)`: [`Shared::from_raw`] computes the block from the value's address.
#[repr(C)]
struct Counted<T> {
    references: AtomicUsize,
    value: T,
}

// SAFETY: a `Shared` on another thread gives `&T` there (`T: Sync`) and may be the one that drops
// `T` (`T: Send`).
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: `&Shared` gives `&T` and can be cloned into a `Shared`: the same two bounds.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The layout of the block that the value and its count are in.
    pub const LAYOUT: Layout = Layout::new::<Counted<T>>();

    /// Where the value is behind what a reference points at, in bytes, for a debugger: there the count is, and a reference is
    /// nothing but that pointer, null for `None`.
    pub const VALUE: usize = {
        assert!(size_of::<Option<Self>>() == size_of::<usize>());
        core::mem::offset_of!(Counted<T>, value)
    };

    /// Moves `value` into a new allocation with one reference.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; `value` is then dropped.
    pub fn try_new(value: T) -> Result<Self, OutOfMemory> {
        // INVARIANT: just made, with one reference, which is this one.
        Ok(Self { counted: Self::allocate(value, 1)?, owns: PhantomData })
    }

    /// The same with two references, of which none costs anything.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; `value` is then dropped.
    pub fn try_pair(value: T) -> Result<(Self, Self), OutOfMemory> {
        let counted = Self::allocate(value, 2)?;
        // INVARIANT: just made, with two references, which are these.
        Ok((Self { counted, owns: PhantomData }, Self { counted, owns: PhantomData }))
    }

    fn allocate(value: T, references: usize) -> Result<NonNull<Counted<T>>, OutOfMemory> {
        let layout = Self::LAYOUT;
        // SAFETY: `Counted` holds an `AtomicUsize`, so the layout is not of size zero.
        let block = unsafe { alloc(layout) };
        let counted = NonNull::new(block.cast::<Counted<T>>()).ok_or(OutOfMemory)?;
        // SAFETY: freshly allocated with the layout of `Counted<T>`: aligned, large enough, nobody
        // else's.
        unsafe { counted.write(Counted { references: AtomicUsize::new(references), value }) };
        Ok(counted)
    }

    /// Whether both are references to the same value.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        this.counted == other.counted
    }

    /// Has the processor fetch the count, which a new reference changes; nobody waits for it.
    pub(crate) fn prefetch(this: &Self) {
        fetch(this.counted.as_ptr());
    }

    /// The value, if this is the only reference to it.
    pub fn get_mut(this: &mut Self) -> Option<&mut T> {
        // Acquire pairs with the Release of whoever dropped the last other reference.
        if this.counted().references.load(Ordering::Acquire) != 1 {
            return None;
        }
        // SAFETY: by the type invariant the block is live; the count is one and that one is
        // borrowed mutably here, so nobody can clone or dereference it meanwhile.
        Some(unsafe { &mut (*this.counted.as_ptr()).value })
    }

    /// Turns the reference into a pointer to the value, to be carried through a context of the
    /// system.
    ///
    /// The reference stays counted until [`Shared::from_raw`] takes it back.
    pub fn into_raw(this: Self) -> *const T {
        let counted = core::mem::ManuallyDrop::new(this).counted;
        // SAFETY: by the type invariant the block is live, so the projection stays inside it.
        unsafe { &raw const (*counted.as_ptr()).value }
    }

    /// Takes back what [`Shared::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// `value` came from [`Shared::into_raw`] of the same `T`, and is taken back once.
    pub unsafe fn from_raw(value: *const T) -> Self {
        // SAFETY: the caller promises that `value` lies in a `Counted<T>` at exactly this offset.
        let block = unsafe { value.byte_sub(core::mem::offset_of!(Counted<T>, value)) };
        // SAFETY: derived from a pointer into a live block, so it is not null.
        let counted = unsafe { NonNull::new_unchecked(block.cast::<Counted<T>>().cast_mut()) };
        // INVARIANT: the block is live because the reference given away was never dropped; it is
        // this one again.
        Self { counted, owns: PhantomData }
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: by the type invariant the block is live for as long as `self`, and only shared
        // borrows of it exist (`get_mut` borrows `self` mutably).
        unsafe { self.counted.as_ref() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

/// References that are counted. Leaking as many takes centuries; a count that wraps would be a use after free.
const MOST_REFERENCES: usize = usize::MAX / 2;
/// The count of a value that is never dropped: as far from both ends as can be, so that whoever counts meanwhile comes to neither.
const SATURATED: usize = usize::MAX / 4 * 3;

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from one that exists, so the block cannot go away
        // meanwhile.
        let before = self.counted().references.fetch_add(1, Ordering::Relaxed);
        if before >= MOST_REFERENCES {
            // As Linux' `refcount_t`: whoever leaks references leaks the value, too.
            self.counted().references.store(SATURATED, Ordering::Relaxed);
        }
        // INVARIANT: one more reference was counted: this one.
        Self { counted: self.counted, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let references = &self.counted().references;
        // The only reference is counted off by nobody else, and made two by nobody: a look is enough, which spares the last
        // user of most values an exchange. Acquire pairs with the Release of every other reference's drop.
        if references.load(Ordering::Acquire) != 1 {
            // Release: what this reference's user did to the value happens before whoever drops it.
            if references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // As the load.
            fence(Ordering::Acquire);
        }
        let counted = self.counted.as_ptr();
        // SAFETY: this was the last reference, so by the type invariant no other `Shared` to this block
        // exists or can be made.
        unsafe { ptr::drop_in_place(counted) };
        // SAFETY: allocated in `allocate` with this layout, and freed once, by the last reference.
        unsafe { dealloc(counted.cast(), Layout::new::<Counted<T>>()) };
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    extern crate std;

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{MOST_REFERENCES, SATURATED, Shared};

    #[test]
    fn the_last_reference_drops_the_value_once() {
        struct Counts<'count>(&'count AtomicU64);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let drops = AtomicU64::new(0);
        let mut first = Shared::try_new(Counts(&drops)).unwrap();
        assert!(Shared::get_mut(&mut first).is_some());
        let second = first.clone();
        assert!(Shared::ptr_eq(&first, &second));
        assert!(Shared::get_mut(&mut first).is_none());
        let raw = Shared::into_raw(second);
        drop(first);
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        // SAFETY: `raw` is what `into_raw` gave away above, taken back once.
        drop(unsafe { Shared::from_raw(raw) });
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_count_that_would_wrap_stays_where_no_drop_reaches_its_end() {
        let first = Shared::try_new(7).unwrap();
        let count = || first.counted().references.load(Ordering::Relaxed);
        for near in [MOST_REFERENCES, usize::MAX - 1, usize::MAX] {
            first.counted().references.store(near, Ordering::Relaxed);
            let others = [first.clone(), first.clone()];
            assert_eq!(count(), SATURATED);
            drop(others);
            assert_eq!(count(), SATURATED - 2);
        }
        first.counted().references.store(MOST_REFERENCES - 1, Ordering::Relaxed);
        let last = first.clone();
        assert_eq!(count(), MOST_REFERENCES, "counted");
        drop(last);
        first.counted().references.store(1, Ordering::Relaxed);
    }

    #[test]
    fn values_of_any_alignment_come_back_from_raw() {
        #[repr(align(64))]
        struct Wide(u8);
        let raw = Shared::into_raw(Shared::try_new(Wide(7)).unwrap());
        assert!(raw.is_aligned());
        // SAFETY: `raw` is what `into_raw` gave away in the first line, taken back once.
        assert_eq!(unsafe { Shared::from_raw(raw) }.0, 7);
    }
}

/// See `sync.rs`.
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::Shared;

    /// The value's last use on one thread happens before its drop on the other.
    #[test]
    fn loom_shared_drops_after_every_use() {
        struct Watched(loom::cell::UnsafeCell<u8>);
        // SAFETY: loom's cell reports unordered accesses, which is what this test is about.
        unsafe impl Sync for Watched {}
        impl Drop for Watched {
            fn drop(&mut self) {
                self.0.with_mut(|_| ());
            }
        }
        loom::model(|| {
            let first = Shared::try_new(Watched(loom::cell::UnsafeCell::new(0))).unwrap();
            let second = first.clone();
            let thread = loom::thread::spawn(move || second.0.with(|_| ()));
            first.0.with(|_| ());
            drop(first);
            thread.join().unwrap();
        });
    }
}
