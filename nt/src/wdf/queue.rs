//! A queue of requests that wait for something to happen.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/creating-i-o-queues>

use core::ptr;

use wdk_sys::{WDFQUEUE, WDFREQUEST};

use super::{Request, call};
use crate::status::check;

/// A handle of a queue.
///
/// # Invariants
///
/// The queue's device has not been cleaned up, as for [`super::Device`].
#[derive(Clone, Copy, Debug)]
pub struct Queue(WDFQUEUE);

// SAFETY: the framework's functions take a queue's handle on any thread.
unsafe impl Send for Queue {}
// SAFETY: as above; the framework does its own locking.
unsafe impl Sync for Queue {}

impl Queue {
    /// Wraps a handle.
    ///
    /// # Safety
    ///
    /// The queue exists, and the type's invariant is kept from here on.
    pub(super) unsafe fn from_raw(queue: WDFQUEUE) -> Self {
        Self(queue)
    }

    /// The handle.
    pub(super) fn as_raw(self) -> WDFQUEUE {
        self.0
    }

    /// Takes the request that has waited longest out of a manual queue; `None` if none waits.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn retrieve(self) -> Option<Request> {
        let mut request: WDFREQUEST = ptr::null_mut();
        // SAFETY: the queue exists by the type invariant; the handle's place lives through the call.
        let status = unsafe { call!(WdfIoQueueRetrieveNextRequest, self.0, &raw mut request) };
        check(status).ok()?;
        // SAFETY: with success the framework hands the request over.
        Some(unsafe { Request::from_raw(request) })
    }
}
