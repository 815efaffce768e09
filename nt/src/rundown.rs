//! Rundown protection: entering is cheap, and the last one out lets the owner go on.
//!
//! Guards what callbacks use (a socket, an adapter) against being taken down under them. The owner
//! calls [`Rundown::wait`] once; from then on nobody enters, and it returns when all have left.

use core::{cell::UnsafeCell, mem::ManuallyDrop};

#[cfg(feature = "loom")]
use model::*;
#[cfg(not(feature = "loom"))]
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

/// What NT promises of run-down protection, for loom.
///
/// The word counts users in twos; its lowest bit says that the door is closed. Entering acquires and leaving releases: what
/// was done inside has happened when the wait is over.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/run-down-protection>
#[cfg(feature = "loom")]
#[allow(non_camel_case_types, non_snake_case, reason = "NT's names")]
mod model {
    use crate::atomic::{AtomicUsize, Ordering};

    const CLOSED: usize = 1;
    const USER: usize = 2;

    #[derive(Default)]
    pub(super) struct EX_RUNDOWN_REF(AtomicUsize);

    fn word<'w>(of: *mut EX_RUNDOWN_REF) -> &'w AtomicUsize {
        // SAFETY: the five functions below are called with a word that is initialised and outlives the call.
        unsafe { &(*of).0 }
    }

    pub(super) unsafe fn ExInitializeRundownProtection(_: *mut EX_RUNDOWN_REF) {}

    pub(super) unsafe fn ExAcquireRundownProtection(of: *mut EX_RUNDOWN_REF) -> u8 {
        let open = |word: usize| (word & CLOSED == 0).then_some(word + USER);
        word(of).fetch_update(Ordering::Acquire, Ordering::Relaxed, open).is_ok().into()
    }

    pub(super) unsafe fn ExReleaseRundownProtection(of: *mut EX_RUNDOWN_REF) {
        assert!(
            word(of).fetch_sub(USER, Ordering::Release) >= USER,
            "left more often than entered"
        );
    }

    pub(super) unsafe fn ExWaitForRundownProtectionRelease(of: *mut EX_RUNDOWN_REF) {
        word(of).fetch_or(CLOSED, Ordering::Relaxed);
        while word(of).load(Ordering::Acquire) != CLOSED {
            loom::thread::yield_now();
        }
    }

    pub(super) unsafe fn ExReInitializeRundownProtection(of: *mut EX_RUNDOWN_REF) {
        assert_eq!(
            word(of).swap(0, Ordering::Release),
            CLOSED,
            "not closed, or somebody is inside"
        );
    }
}

/// `. scripts/wdk/env.sh; cargo test -p nt --features loom --release --lib loom`
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::*;

    /// A door and what is behind it, which loom's cell watches.
    struct Room {
        door: Rundown,
        thing: loom::cell::UnsafeCell<u8>,
    }

    // SAFETY: that what is inside is used under the door's protection only is what these tests are about.
    unsafe impl Sync for Room {}
    // SAFETY: plain bytes and atomics.
    unsafe impl Send for Room {}

    impl Room {
        fn new() -> Arc<Self> {
            Arc::new(Self { door: Rundown::new(), thing: loom::cell::UnsafeCell::new(0) })
        }

        fn use_it(&self) {
            self.thing.with(|_| ());
        }

        /// Closes the door and takes down what is behind it.
        fn close(&self) {
            // SAFETY: a test has no interrupts.
            self.door.wait(&unsafe { Passive::assume() });
            self.thing.with_mut(|_| ());
        }
    }

    #[test]
    fn loom_nobody_is_inside_when_the_wait_is_over() {
        loom::model(|| {
            let room = Room::new();
            let visitors = [(); 2].map(|()| {
                let room = room.clone();
                loom::thread::spawn(move || {
                    if let Some(_inside) = room.door.enter() {
                        room.use_it();
                    }
                })
            });
            room.close();
            assert!(room.door.enter().is_none(), "a closed door");
            visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
        });
    }

    /// An operation is begun inside, and its completion leaves.
    #[test]
    fn loom_the_wait_is_for_operations_that_were_begun_too() {
        loom::model(|| {
            let room = Room::new();
            let begun = room.door.enter().expect("open");
            begun.into_raw();
            let completion = {
                let room = room.clone();
                loom::thread::spawn(move || {
                    // SAFETY: for the one that was left inside above.
                    let _inside = unsafe { room.door.from_raw() };
                    room.use_it();
                })
            };
            room.close();
            completion.join().unwrap();
        });
    }

    #[test]
    fn loom_a_stay_is_left_once() {
        loom::model(|| {
            let door = Shared::try_new(Rundown::new()).expect("memory");
            let stay = Stay::enter(&door).expect("open");
            let thing = Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let visitor = {
                let thing = thing.clone();
                loom::thread::spawn(move || {
                    let stay = stay;
                    thing.store(true, loom::sync::atomic::Ordering::Relaxed);
                    drop(stay);
                })
            };
            // SAFETY: a test has no interrupts.
            door.wait(&unsafe { Passive::assume() });
            assert!(thing.load(loom::sync::atomic::Ordering::Relaxed), "it had not left");
            assert!(Stay::enter(&door).is_none(), "a closed door");
            visitor.join().unwrap();
        });
    }

    /// Who comes in after the door was opened again finds what was put there meanwhile.
    #[test]
    fn loom_a_door_may_be_opened_again() {
        loom::model(|| {
            let mut room = Room { door: Rundown::new(), thing: loom::cell::UnsafeCell::new(0) };
            // SAFETY: a test has no interrupts.
            room.door.reopen(&unsafe { Passive::assume() });
            room.thing.with_mut(|_| ());
            let room = Arc::new(room);
            let visitor = {
                let room = room.clone();
                loom::thread::spawn(move || {
                    if let Some(_inside) = room.door.enter() {
                        room.use_it();
                    }
                })
            };
            room.close();
            visitor.join().unwrap();
        });
    }
}
