//! Locks, reference counts and atomics for code that runs with preemption off, and on any host in
//! tests.
//!
//! The protocol is entered from several CPUs at once, at up to `DISPATCH_LEVEL` on NT, where
//! nothing may wait. Its locks therefore spin, and whoever holds one must not be preempted:
//! [`Ground::pinned`] is how the ground under this crate promises that. Bodies passed to a lock are
//! tens of nanoseconds long: copies, map look-ups, list splices; never a cipher, never a curve,
//! never a call out of this crate.
//!
//! [`Shared`] exists because `alloc::sync::Arc` can only allocate by aborting when memory is short,
//! and a kernel driver must be able to say no. It has no weak references: who makes a cycle breaks
//! it by hand.
//!
//! Everything atomic is named through [`atomic`], which is loom's under `--cfg loom`, so that a
//! model checker can run this file's tests over every interleaving, and shuttle's under `--cfg shuttle`,
//! which draws interleavings of longer histories. This is, with `aead`, the only
//! file of the crate with `unsafe` in it.

#![allow(unsafe_code)] // Locks and reference counts are made of cells and pointers.

use alloc::alloc::{Layout, alloc, dealloc};
use core::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
};

use atomic::{AtomicU32, AtomicUsize, Ordering, fence};

/// Atomics: `core`'s, or loom's or shuttle's when a model checker is in charge.
pub mod atomic {
    #[cfg(not(any(loom, shuttle)))]
    pub use core::sync::atomic::*;

    #[cfg(loom)]
    pub use loom::sync::atomic::*;

    #[cfg(shuttle)]
    pub use shuttle::sync::atomic::*;
}

/// What this crate's locks stand on: a way to run a few instructions without being preempted.
///
/// On NT the implementor is the proof of being at `DISPATCH_LEVEL`, or one that raises to it and
/// lowers again. Implementations call `body` exactly once and on the calling thread.
pub trait Ground {
    /// Runs `body` with preemption off on this CPU. Calls may nest.
    fn pinned<R>(&self, body: impl FnOnce() -> R) -> R;
}

/// Ground for hosts where a spinning thread may be preempted: tests, benches and tools.
///
/// Locks stay correct there; they only may spin for a whole time slice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpinned;

impl Ground for Unpinned {
    fn pinned<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }
}

/// Memory ran out; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("out of memory")
    }
}

impl From<alloc::collections::TryReserveError> for OutOfMemory {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self
    }
}

/// Mutual exclusion by spinning.
///
/// Not fair and not reentrant. Sections are so short that fairness would cost more than it gives: a
/// ticket taken by a CPU that its hypervisor has stopped would stop everybody behind it.
pub struct SpinLock<T> {
    held: AtomicU32,
    value: cell::UnsafeCell<T>,
    /// Loom has two that spin wait for each other without end: there they wait here.
    #[cfg(loom)]
    turn: loom::sync::Mutex<()>,
}

// SAFETY: `with` hands out `&mut T` to one thread at a time, so sharing the lock only ever moves
// `T` between threads.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Makes an unlocked lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self { held: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Makes an unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        let (held, value) = (AtomicU32::new(0), cell::UnsafeCell::new(value));
        Self { held, value, turn: loom::sync::Mutex::new(()) }
    }

    /// Runs `body` with the value, alone.
    ///
    /// `body` must not take this lock again and must not call out of this crate.
    ///
    /// # IRQL
    ///
    /// Whatever `ground` allows; `<= DISPATCH_LEVEL` on NT.
    pub fn with<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(loom)]
        let _turn = self.turn.lock();
        self.spin(ground, body)
    }

    fn spin<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut T) -> R) -> R {
        ground.pinned(|| {
            // Acquire pairs with the Release in `Held::drop`: what the last holder wrote is seen
            // here.
            while self
                .held
                .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                // Relaxed: only a hint when to try again; the exchange above decides.
                while self.held.load(Ordering::Relaxed) != 0 {
                    relax();
                }
            }
            let _held = Held(&self.held);
            self.value.with_mut(|value| {
                // SAFETY: `held` went from 0 to 1 in this call and goes back only when `_held`
                // drops after this closure, so no other reference to the value exists.
                body(unsafe { &mut *value })
            })
        })
    }

    /// The value, without locking: `&mut self` proves there is nobody else.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: borrowed mutably for as long as the result lives, so nobody can be inside.
        self.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T: Default> Default for SpinLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Releases a [`SpinLock`], also when the body panics in a test.
struct Held<'lock>(&'lock AtomicU32);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Many readers or one writer, by spinning.
///
/// A waiting writer keeps new readers out, so a stream of readers cannot starve it. For the same
/// reason a reader must not read the same lock again inside its body: a writer in between would
/// wait for the first read and stop the second.
pub struct RwSpinLock<T> {
    /// Readers in the low bits; [`WRITING`] and [`WAITING`] above them.
    state: AtomicU32,
    value: cell::UnsafeCell<T>,
}

/// A writer is inside.
const WRITING: u32 = 1 << 31;
/// A writer wants to get in; readers stay out.
const WAITING: u32 = 1 << 30;

// SAFETY: readers on several threads share `&T` at once (`T: Sync`), and a writer may move `T`
// between threads (`T: Send`).
unsafe impl<T: Send + Sync> Sync for RwSpinLock<T> {}

impl<T> RwSpinLock<T> {
    /// Makes an unlocked lock around `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Makes an unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Runs `body` with the value, together with other readers.
    ///
    /// `body` must not take this lock again, not even for reading.
    ///
    /// # IRQL
    ///
    /// Whatever `ground` allows; `<= DISPATCH_LEVEL` on NT.
    pub fn read<R>(&self, ground: &impl Ground, body: impl FnOnce(&T) -> R) -> R {
        ground.pinned(|| {
            loop {
                let state = self.state.load(Ordering::Relaxed);
                // Acquire pairs with the Release in `Wrote::drop`.
                if state & (WRITING | WAITING) == 0
                    && self
                        .state
                        .compare_exchange_weak(
                            state,
                            state.wrapping_add(1),
                            Ordering::Acquire,
                            Ordering::Relaxed,
                        )
                        .is_ok()
                {
                    break;
                }
                relax();
            }
            let _reading = Reading(&self.state);
            self.value.with(|value| {
                // SAFETY: the reader count was raised in this call with no writer inside, and a
                // writer enters only at count zero, which is reached only after `_reading` drops.
                body(unsafe { &*value })
            })
        })
    }

    /// Runs `body` with the value, alone.
    ///
    /// `body` must not take this lock again.
    ///
    /// # IRQL
    ///
    /// Whatever `ground` allows; `<= DISPATCH_LEVEL` on NT.
    pub fn write<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut T) -> R) -> R {
        ground.pinned(|| {
            loop {
                let state = self.state.load(Ordering::Relaxed);
                // Nobody inside: enter, which also takes down the WAITING flag; other waiting
                // writers raise it again. Acquire pairs with the Release of the last reader or
                // writer to leave.
                if state & !WAITING == 0
                    && self
                        .state
                        .compare_exchange_weak(state, WRITING, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    break;
                }
                if state & WAITING == 0 && state & !WAITING != 0 {
                    // Relaxed: the flag only keeps readers out, it publishes nothing.
                    self.state.fetch_or(WAITING, Ordering::Relaxed);
                }
                relax();
            }
            let _wrote = Wrote(&self.state);
            self.value.with_mut(|value| {
                // SAFETY: the state went from "no reader, no writer" to WRITING in this call, and
                // until `_wrote` drops neither readers nor writers enter.
                body(unsafe { &mut *value })
            })
        })
    }

    /// The value, without locking: `&mut self` proves there is nobody else.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: borrowed mutably for as long as the result lives, so nobody can be inside.
        self.value.with_mut(|value| unsafe { &mut *value })
    }
}

/// Leaves a read section.
struct Reading<'lock>(&'lock AtomicU32);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Leaves a write section, keeping other writers' [`WAITING`] flag.
struct Wrote<'lock>(&'lock AtomicU32);

impl Drop for Wrote<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!WRITING, Ordering::Release);
    }
}

/// Lets the other hardware thread, or under loom the other model thread, go on.
fn relax() {
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}

/// Has the processor fetch an element that will be read soon; nobody waits for it.
#[inline]
pub(crate) fn prefetch<T>(slice: &[T], at: usize) {
    fetch(slice.as_ptr().wrapping_add(at));
}

/// The same for any address.
#[inline]
fn fetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which faults at no address and changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

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

/// `UnsafeCell` with loom's closure interface, so that both builds read the same.
pub(crate) mod cell {
    #[cfg(loom)]
    pub(crate) use loom::cell::UnsafeCell;

    #[cfg(not(loom))]
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, body: impl FnOnce(*const T) -> R) -> R {
            body(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, body: impl FnOnce(*mut T) -> R) -> R {
            body(self.0.get())
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::{MOST_REFERENCES, RwSpinLock, SATURATED, Shared, SpinLock, Unpinned};

    #[test]
    fn a_spin_lock_admits_one_at_a_time() {
        let lock = SpinLock::new(0_u64);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        lock.with(&Unpinned, |value| *value += 1);
                    }
                });
            }
        });
        assert_eq!(lock.with(&Unpinned, |value| *value), 40_000);
    }

    #[test]
    fn readers_never_see_half_a_write() {
        let lock = RwSpinLock::new((0_u64, 0_u64));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        lock.write(&Unpinned, |pair| {
                            pair.0 += 1;
                            pair.1 += 1;
                        });
                    }
                });
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        lock.read(&Unpinned, |pair| assert_eq!(pair.0, pair.1));
                    }
                });
            }
        });
        assert_eq!(lock.read(&Unpinned, |pair| *pair), (20_000, 20_000));
    }

    #[test]
    fn a_lock_is_released_when_its_body_panics() {
        let lock = SpinLock::new(());
        let body = std::panic::AssertUnwindSafe(|| lock.with(&Unpinned, |()| panic!("on purpose")));
        assert!(std::panic::catch_unwind(body).is_err());
        lock.with(&Unpinned, |()| ());
    }

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

/// `RUSTFLAGS="--cfg loom" cargo test -p crypto --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::{RwSpinLock, Shared, SpinLock, Unpinned};

    #[test]
    fn loom_spin_lock_excludes() {
        loom::model(|| {
            let lock = Arc::new(SpinLock::new(0));
            let other = Arc::clone(&lock);
            let thread = loom::thread::spawn(move || other.spin(&Unpinned, |value| *value += 1));
            lock.spin(&Unpinned, |value| *value += 1);
            thread.join().unwrap();
            assert_eq!(lock.with(&Unpinned, |value| *value), 2);
        });
    }

    #[test]
    fn loom_rw_spin_lock_excludes() {
        loom::model(|| {
            let lock = Arc::new(RwSpinLock::new((0, 0)));
            let other = Arc::clone(&lock);
            let thread = loom::thread::spawn(move || {
                other.write(&Unpinned, |pair| {
                    pair.0 += 1;
                    pair.1 += 1;
                });
            });
            lock.read(&Unpinned, |pair| assert_eq!(pair.0, pair.1));
            thread.join().unwrap();
            assert_eq!(lock.read(&Unpinned, |pair| *pair), (1, 1));
        });
    }

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
