//! An event: set by anyone up to `DISPATCH_LEVEL`, waited for at `PASSIVE_LEVEL`.
//!
//! A `KEVENT` has a list head that points to itself, so it lives in a block of its own and never
//! moves.

use alloc::boxed::Box;
use core::{cell::UnsafeCell, fmt, ptr, time::Duration};

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, _MODE, EVENT_TYPE, KEVENT, KPROCESSOR_MODE, LARGE_INTEGER,
    STATUS_TIMEOUT,
    ntddk::{KeClearEvent, KeInitializeEvent, KeSetEvent, KeWaitForSingleObject},
};

use crate::{irql::Passive, pool, status::NtError, time::relative_100ns};

/// What one `set` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lets everybody through until it is cleared.
    Notification,
    /// Lets one waiter through, and clears itself.
    Synchronization,
}

/// A thing to wait for. Wraps `KEVENT`.
///
/// # Invariants
///
/// Initialised by `KeInitializeEvent` where it lies, and never moved.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/event-objects>
pub struct Event(Box<UnsafeCell<KEVENT>>);

// SAFETY: NT serialises all access to the object; every routine below may run on any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when the pool is empty.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializeevent>
    pub fn try_new(kind: Kind) -> Result<Self, NtError> {
        let event = pool::try_box(UnsafeCell::new(KEVENT::default()))?;
        let kind: EVENT_TYPE = match kind {
            Kind::Notification => _EVENT_TYPE::NotificationEvent,
            Kind::Synchronization => _EVENT_TYPE::SynchronizationEvent,
        };
        // SAFETY: the block is nonpaged, ours alone, and stays where it is (type invariant).
        unsafe { KeInitializeEvent(event.get(), kind, 0) };
        Ok(Self(event))
    }

    /// Sets the event.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetevent>
    pub fn set(&self) {
        // SAFETY: initialised (type invariant); no wait follows in the same breath (Wait = FALSE),
        // so any level up to DISPATCH_LEVEL is allowed.
        unsafe { KeSetEvent(self.0.get(), 0, 0) };
    }

    /// Clears the event.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keclearevent>
    pub fn clear(&self) {
        // SAFETY: initialised (type invariant).
        unsafe { KeClearEvent(self.0.get()) };
    }

    /// Waits until the event is set.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kewaitforsingleobject>
    pub fn wait(&self, _passive: &Passive) {
        self.wait_until(ptr::null_mut());
    }

    /// Waits until the event is set, at most for `timeout`; says whether it was.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kewaitforsingleobject>
    #[must_use]
    pub fn wait_for(&self, _passive: &Passive, timeout: Duration) -> bool {
        let mut due = LARGE_INTEGER { QuadPart: relative_100ns(timeout) };
        self.wait_until(&raw mut due)
    }

    /// Waits, not alertably and in kernel mode, so that only the event or the time ends it.
    fn wait_until(&self, timeout: *mut LARGE_INTEGER) -> bool {
        // SAFETY: initialised (type invariant) and borrowed for the wait; both callers have the
        // token of PASSIVE_LEVEL, and `timeout` is null or outlives the call.
        let status = unsafe {
            KeWaitForSingleObject(
                self.0.get().cast(),
                _KWAIT_REASON::Executive,
                _MODE::KernelMode as KPROCESSOR_MODE,
                0,
                timeout,
            )
        };
        status != STATUS_TIMEOUT
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}
