//! Waking a packet queue, from any thread, and never after it has stopped.
//!
//! NetAdapterCx arms a queue's notification, advances the queue once more, and sleeps. Whoever then
//! has something for the queue wakes it, once: the flag is exchanged. The queue object may be gone
//! after it has stopped, so whoever wakes it, or must find it alive for another reason, is *inside*
//! meanwhile, and stopping waits until nobody is.
//!
//! Between "there is something" and "is it armed?" stands a full fence, as between arming and the
//! advance that follows: of two that meet, at least one sees the other.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/run-down-protection>

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence},
};

use wdk_sys::{
    EX_RUNDOWN_REF,
    ntddk::{
        ExAcquireRundownProtection, ExInitializeRundownProtection, ExReInitializeRundownProtection,
        ExReleaseRundownProtection, ExWaitForRundownProtectionRelease,
    },
};

use super::{Kind, queue::Started};
use crate::{
    irql::Passive,
    sys::netcx::{
        NetRxQueueNotifyMoreReceivedPacketsAvailable, NetTxQueueNotifyMoreCompletedPacketsAvailable,
    },
};

/// Wakes the queue of one kind of an adapter, while there is one.
///
/// # Invariants
///
/// `door` is initialised, and open exactly while `queue` is the handle of a started queue of `kind`.
/// The word in `door` holds a count and leads nowhere but to a waiter's stack, so the value may be
/// moved while nobody is inside.
pub struct Notifier {
    kind: Kind,
    door: UnsafeCell<EX_RUNDOWN_REF>,
    queue: AtomicPtr<c_void>,
    armed: AtomicBool,
}

// SAFETY: NT changes the door by interlocked operations only, and a queue may be notified anywhere.
unsafe impl Send for Notifier {}
// SAFETY: as above.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// A notifier without a queue.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn new(kind: Kind, passive: &Passive) -> Self {
        let notifier = Self {
            kind,
            door: UnsafeCell::new(EX_RUNDOWN_REF::default()),
            queue: AtomicPtr::new(ptr::null_mut()),
            armed: AtomicBool::new(false),
        };
        // SAFETY: the word is ours alone and lives through the call.
        unsafe { ExInitializeRundownProtection(notifier.door.get()) };
        notifier.close(passive); // nobody is inside: returns at once
        notifier
    }

    /// Lets `queue`, which is starting, be notified.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn open(&self, queue: &Started<'_>, passive: &Passive) {
        debug_assert!(queue.kind == self.kind);
        self.close(passive); // only a closed door may be opened
        self.armed.store(false, Ordering::Relaxed);
        self.queue.store(queue.queue, Ordering::Release);
        // SAFETY: closed, and nobody inside, since the wait. Whoever tries to enter meanwhile does
        // so by an interlocked operation on the same word, and enters or does not.
        unsafe { ExReInitializeRundownProtection(self.door.get()) };
    }

    /// Lets nobody notify the queue any more, and waits until nobody does.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn close(&self, _passive: &Passive) {
        // SAFETY: initialised, by the type invariant; at PASSIVE_LEVEL, as the token says. Waiting
        // at a closed door returns at once.
        unsafe { ExWaitForRundownProtectionRelease(self.door.get()) };
        self.queue.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// NetAdapterCx asks to be notified, or does not want it any more.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn arm(&self, enabled: bool) {
        self.armed.store(enabled, Ordering::Relaxed);
        // Pairs with the fence in `notify_inside`: what was published before that fence is seen by
        // the advance that follows this one, or that fence's thread sees the flag.
        fence(Ordering::SeqCst);
    }

    /// Wakes the queue, if it is armed.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) {
            // Without a queue there is nobody to wake.
            let _ = self.enter().map(|inside| inside.notify());
        }
    }

    /// Keeps the queue from stopping until the value is dropped; `None` if it is not running.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn enter(&self) -> Option<Entered<'_>> {
        // SAFETY: initialised, by the type invariant, and borrowed for the call.
        let entered = unsafe { ExAcquireRundownProtection(self.door.get()) } != 0;
        // Lazily: a guard that is made must be one that was acquired, for dropping it releases.
        entered.then(|| Entered(self))
    }

    /// Takes back what [`Entered::into_raw`] left inside.
    ///
    /// # Safety
    ///
    /// There is one call of `into_raw` on this notifier's guards for each call of this.
    pub unsafe fn from_raw(&self) -> Entered<'_> {
        Entered(self)
    }
}

impl core::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Notifier").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A queue that cannot stop meanwhile.
#[must_use = "dropping it lets the queue stop"]
#[derive(Debug)]
pub struct Entered<'notifier>(&'notifier Notifier);

impl Entered<'_> {
    /// Wakes the queue, if it is armed.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn notify(&self) {
        // Pairs with the fence in `Notifier::arm`.
        fence(Ordering::SeqCst);
        // The load spares the exchange's cache line, for the queue is seldom armed under load.
        if !self.0.armed.load(Ordering::Relaxed) || !self.0.armed.swap(false, Ordering::AcqRel) {
            return;
        }
        let queue = self.0.queue.load(Ordering::Acquire);
        let notify = match self.0.kind {
            Kind::Transmit => NetTxQueueNotifyMoreCompletedPacketsAvailable,
            Kind::Receive => NetRxQueueNotifyMoreReceivedPacketsAvailable,
        };
        // SAFETY: somebody is inside, so `queue` is a started queue of this kind; any level.
        unsafe { notify(queue) };
    }

    /// Stays inside without a guard, until [`Notifier::from_raw`].
    pub fn into_raw(self) {
        let _stays = ManuallyDrop::new(self);
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: this guard stands for one successful acquisition of this door.
        unsafe { ExReleaseRundownProtection(self.0.door.get()) };
    }
}
