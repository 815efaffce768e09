//! Locks, reference counts and atomics for code that runs with preemption off, and on any host in
//! tests.
//!
//! The protocol is entered from several CPUs at once, at up to `DISPATCH_LEVEL` on NT, where
//! nothing may wait. Its locks therefore spin, and whoever holds one must not be preempted:
//! [`Ground::pinned`] is how the ground under this crate promises that. Bodies passed to a lock are
//! tens of nanoseconds long: copies, map look-ups, list splices; never a cipher, never a curve,
//! never a call out of this crate.
//!
//! Everything atomic is named through [`atomic`], which is loom's with the feature `loom`, so that a
//! model checker can run this file's tests over every interleaving, and shuttle's with `shuttle`,
//! which draws interleavings of longer histories. This module, `aead` and `pipeline/chunk.rs` are where the crate has `unsafe`.

#![allow(unsafe_code)] // Locks are made of cells.

use core::fmt;

use atomic::{AtomicU32, Ordering};

mod shared;

pub use shared::Shared;

/// Atomics: `core`'s, or loom's or shuttle's when a model checker is in charge.
pub mod atomic {
    #[cfg(not(any(feature = "loom", feature = "shuttle")))]
    pub use core::sync::atomic::*;

    #[cfg(feature = "loom")]
    pub use loom::sync::atomic::*;

    #[cfg(feature = "shuttle")]
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
    #[cfg(feature = "loom")]
    turn: loom::sync::Mutex<()>,
}

// SAFETY: `with` hands out `&mut T` to one thread at a time, so sharing the lock only ever moves
// `T` between threads.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Makes an unlocked lock around `value`.
    #[cfg(not(feature = "loom"))]
    pub const fn new(value: T) -> Self {
        Self { held: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Makes an unlocked lock around `value`.
    #[cfg(feature = "loom")]
    pub fn new(value: T) -> Self {
        let (held, value) = (AtomicU32::new(0), cell::UnsafeCell::new(value));
        Self { held, value, turn: loom::sync::Mutex::new(()) }
    }

    /// Where the value is in the lock, in bytes, for a debugger.
    pub const VALUE: usize = core::mem::offset_of!(Self, value) + cell::value_of::<T>();

    /// Runs `body` with the value, alone.
    ///
    /// `body` must not take this lock again and must not call out of this crate.
    ///
    /// # IRQL
    ///
    /// Whatever `ground` allows; `<= DISPATCH_LEVEL` on NT.
    pub fn with<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(feature = "loom")]
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
    #[cfg(not(feature = "loom"))]
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Makes an unlocked lock around `value`.
    #[cfg(feature = "loom")]
    pub fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: cell::UnsafeCell::new(value) }
    }

    /// Where the value is in the lock, in bytes, for a debugger.
    pub const VALUE: usize = core::mem::offset_of!(Self, value) + cell::value_of::<T>();

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
    #[cfg(not(any(feature = "loom", feature = "shuttle")))]
    core::hint::spin_loop();
    #[cfg(feature = "loom")]
    loom::thread::yield_now();
    #[cfg(feature = "shuttle")]
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

/// `UnsafeCell` with loom's closure interface, so that both builds read the same.
pub(crate) mod cell {
    #[cfg(feature = "loom")]
    pub(crate) use loom::cell::UnsafeCell;

    /// Where the value is in its cell; a model checker's cells are none that a debugger sees.
    pub(crate) const fn value_of<T>() -> usize {
        #[cfg(not(feature = "loom"))]
        return core::mem::offset_of!(UnsafeCell<T>, 0);
        #[cfg(feature = "loom")]
        return 0;
    }

    #[cfg(not(feature = "loom"))]
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    #[cfg(not(feature = "loom"))]
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

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    extern crate std;

    use std::thread;

    use super::{RwSpinLock, SpinLock, Unpinned};

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
}

/// `cargo test -p crypto --features loom --release --lib loom`
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::{RwSpinLock, SpinLock, Unpinned};

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
}
