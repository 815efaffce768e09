//! A process, held by reference.
//!
//! The process that brings an adapter up owns its sockets in the eyes of the firewall, and must
//! stay until they are closed.

use core::{ffi::c_void, fmt, ptr::NonNull};

use wdk_sys::ntddk::IoGetCurrentProcess;

use crate::{
    irql::Passive,
    sys::ke::{ObfDereferenceObject, ObfReferenceObject},
};

/// A reference to a process. Wraps `PEPROCESS`.
///
/// # Invariants
///
/// Holds one reference to a process object.
pub struct Process(NonNull<c_void>);

// SAFETY: a reference to a process object may be used from any thread.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

impl Process {
    /// The process of the current thread: the caller's in a routine called in his context, the
    /// system process in a thread of ours.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`: in a DPC the current process is whichever was interrupted.
    ///
    /// # Panics
    ///
    /// Never: there is always a current process.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iogetcurrentprocess>
    #[must_use]
    pub fn current(_passive: &Passive) -> Self {
        // SAFETY: no preconditions.
        let process = NonNull::new(unsafe { IoGetCurrentProcess() }.cast::<c_void>());
        #[expect(clippy::expect_used, reason = "every thread has a process")]
        let process = process.expect("every thread has a process");
        // SAFETY: the current process is alive, and so may be referenced.
        unsafe { ObfReferenceObject(process.as_ptr()) };
        // INVARIANT: just referenced.
        Self(process)
    }

    /// The process object, alive as long as this value; what WSK takes as `OwningProcess`.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Clone for Process {
    fn clone(&self) -> Self {
        // SAFETY: referenced by `self` (type invariant), so it may be once more.
        unsafe { ObfReferenceObject(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: the reference is ours (type invariant). At DISPATCH_LEVEL the object manager
        // defers the deletion, should this be the last one.
        unsafe { ObfDereferenceObject(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:p})", self.0)
    }
}
