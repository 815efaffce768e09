//! System threads that are always joined.
//!
//! A thread of ours runs code of ours, so the driver must not be gone before it: the handle joins
//! when it is dropped, and there is no way to detach.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    fmt,
    ptr::{self, NonNull},
};

use wdk_sys::{
    _KWAIT_REASON, _MODE, GROUP_AFFINITY, HANDLE, KPRIORITY, KPROCESSOR_MODE, PKTHREAD,
    STATUS_SUCCESS,
    ntddk::{
        KeSetPriorityThread, KeSetSystemGroupAffinityThread, KeWaitForSingleObject,
        ObReferenceObjectByHandle, PsCreateSystemThread, PsTerminateSystemThread, ZwClose,
    },
};

use crate::{
    irql::Passive,
    pool,
    processor::Processor,
    status::{NtError, check},
    sys::ke::{ObfDereferenceObject, THREAD_ALL_ACCESS},
};

/// A running or finished thread; dropping it waits for its end, at `PASSIVE_LEVEL`.
///
/// # Invariants
///
/// Holds one reference to a thread object.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-pscreatesystemthread>
#[must_use = "dropping it waits for the thread to end"]
pub struct Thread(NonNull<c_void>);

// SAFETY: a reference to a thread object may be used from any thread.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread of the system process that runs `body`, at `PASSIVE_LEVEL`.
    ///
    /// `body` must come to an end by something the owner does before dropping the handle.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says; `body` is then dropped here.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn spawn<F>(_passive: &Passive, body: F) -> Result<Self, NtError>
    where
        F: FnOnce(Passive) + Send + 'static,
    {
        let context = Box::into_raw(pool::try_box(body)?);
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL, as the token says; null process and attributes mean the system
        // process and a kernel handle; `run::<F>` takes the context over if the thread starts.
        let status = unsafe {
            PsCreateSystemThread(
                &raw mut handle,
                THREAD_ALL_ACCESS,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                Some(run::<F>),
                context.cast(),
            )
        };
        if let Err(error) = check(status) {
            // SAFETY: no thread started, so the box is still ours.
            drop(unsafe { Box::from_raw(context) });
            return Err(error);
        }
        Ok(Self::of_handle(handle))
    }

    /// Turns the handle of a thread just made into a reference to its object.
    fn of_handle(handle: HANDLE) -> Self {
        let mut object = ptr::null_mut();
        // SAFETY: a kernel handle of a thread, with all rights; kernel mode, so nothing is checked
        // that could be refused.
        let status = unsafe {
            ObReferenceObjectByHandle(
                handle,
                THREAD_ALL_ACCESS,
                ptr::null_mut(),
                _MODE::KernelMode as KPROCESSOR_MODE,
                &raw mut object,
                ptr::null_mut(),
            )
        };
        // SAFETY: the handle is ours and is not used again.
        let closed = unsafe { ZwClose(handle) };
        debug_assert!(closed == STATUS_SUCCESS);
        match (check(status), NonNull::new(object)) {
            // INVARIANT: the call above made the reference.
            (Ok(()), Some(object)) => Self(object),
            // A thread that cannot be joined would outlive the driver's code: stop here instead.
            _ => panic!("a thread just created cannot be referenced"),
        }
    }

    /// Sets the priority: 1 to 15 is ordinary, 8 the default, 16 to 31 real time.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetprioritythread>
    pub fn set_priority(&self, _passive: &Passive, priority: i32) {
        let thread: PKTHREAD = self.0.as_ptr().cast();
        // SAFETY: a referenced thread object (type invariant), at PASSIVE_LEVEL.
        let _previous: KPRIORITY = unsafe { KeSetPriorityThread(thread, priority) };
    }

    /// Waits for the thread to end.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn join(self, _passive: &Passive) {
        drop(self);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: a referenced thread object (type invariant); without a time limit, so at
        // PASSIVE_LEVEL, where threads are dropped (type documentation).
        let status = unsafe {
            KeWaitForSingleObject(
                self.0.as_ptr(),
                _KWAIT_REASON::Executive,
                _MODE::KernelMode as KPROCESSOR_MODE,
                0,
                ptr::null_mut(),
            )
        };
        debug_assert!(status == STATUS_SUCCESS);
        // SAFETY: the reference is ours (type invariant) and not used again.
        unsafe { ObfDereferenceObject(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Thread")
    }
}

/// `KSTART_ROUTINE`: takes the boxed body over and runs it.
unsafe extern "C" fn run<F: FnOnce(Passive)>(context: *mut c_void) {
    // SAFETY: `spawn` gave this thread, and only it, the box.
    let body = unsafe { Box::from_raw(context.cast::<F>()) };
    // SAFETY: system threads start at PASSIVE_LEVEL, and the body gives the token up at its end.
    body(unsafe { Passive::assume() });
    // SAFETY: called by the thread itself, a system thread, at PASSIVE_LEVEL; nothing on this
    // stack has anything left to drop.
    let status = unsafe { PsTerminateSystemThread(STATUS_SUCCESS) };
    debug_assert!(status == STATUS_SUCCESS);
}

/// Keeps the current thread, a system thread of ours, on one processor from here on.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetsystemgroupaffinitythread>
pub fn stay_on(_passive: &Passive, processor: Processor) {
    let number = processor.number();
    let mut affinity =
        GROUP_AFFINITY { Mask: 1 << number.Number, Group: number.Group, Reserved: [0; 3] };
    // SAFETY: one processor that exists (`Processor`'s invariant), reserved words zero; the
    // affinity before is not asked for.
    unsafe { KeSetSystemGroupAffinityThread(&raw mut affinity, ptr::null_mut()) };
}
