//! A request: somebody waits for its completion.
//!
//! A [`Request`] is owned, and leaves its owner in exactly one way: completed, handed on to a queue,
//! or dropped, which completes it as cancelled, so that no caller waits for ever. Its buffers are
//! borrowed from it, because they are gone the moment it is completed.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/>

use core::{
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wdk_sys::{
    _MODE::KernelMode, _WDF_REQUEST_TYPE::WdfRequestTypeDeviceControl, KPROCESSOR_MODE, NTSTATUS,
    PVOID, STATUS_CANCELLED, STATUS_SUCCESS, USHORT, WDF_REQUEST_PARAMETERS, WDFFILEOBJECT,
    WDFREQUEST,
};

use super::{Device, Queue, call};
use crate::{
    status::{NtError, check},
    untrusted::{Untrusted, UntrustedOutput},
};

/// A control request's code and the lengths of its buffers, as its caller gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The control code.
    pub code: u32,
    /// Bytes of the input buffer.
    pub input_len: usize,
    /// Bytes of the output buffer.
    pub output_len: usize,
}

/// Who made a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestorMode {
    /// Another driver, or the kernel.
    Kernel,
    /// A program.
    User,
}

/// What a program has opened: one handle, and those that are duplicates of it.
///
/// Tells requests of one from those of another, until it is closed ([`super::DeviceEvents::closed`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(usize);

impl File {
    /// The file of this handle, which is only compared.
    pub(super) fn of(handle: WDFFILEOBJECT) -> Self {
        Self(handle.addr())
    }
}

/// One of a request's two buffers.
#[derive(Clone, Copy)]
enum Buffer {
    Input,
    Output,
}

/// The bits of a control code that say how its buffers are passed.
const METHOD_MASK: u32 = 3;
const METHOD_BUFFERED: u32 = 0;
const METHOD_IN_DIRECT: u32 = 1;
const METHOD_OUT_DIRECT: u32 = 2;

/// A request to complete.
///
/// # Invariants
///
/// The handle is of a request that this driver owns and has not completed; no other value has it.
#[must_use = "dropping a request completes it as cancelled"]
#[derive(Debug)]
pub struct Request(WDFREQUEST);

// SAFETY: a request may be used and completed on any thread.
unsafe impl Send for Request {}
// SAFETY: what a shared `Request` offers only reads what the framework keeps unchanged.
unsafe impl Sync for Request {}

impl Request {
    /// Takes a request over from the framework.
    ///
    /// # Safety
    ///
    /// The framework has just handed `request` to this driver, and nobody else has wrapped it.
    pub(super) unsafe fn from_raw(request: WDFREQUEST) -> Self {
        Self(request)
    }

    /// Gives the handle up, without completing the request.
    fn into_raw(self) -> WDFREQUEST {
        ManuallyDrop::new(self).0
    }

    /// The code and lengths, if this is a control request.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn control(&self) -> Option<Control> {
        let mut parameters = WDF_REQUEST_PARAMETERS {
            Size: size_of::<WDF_REQUEST_PARAMETERS>() as USHORT,
            ..WDF_REQUEST_PARAMETERS::default()
        };
        // SAFETY: the request is ours by the type invariant; the parameters' place is of the size it
        // says, and lives through the call.
        unsafe { call!(WdfRequestGetParameters, self.0, &raw mut parameters) };
        if parameters.Type != WdfRequestTypeDeviceControl {
            return None;
        }
        // SAFETY: the type says that this is the member of the union that was written; all of them
        // are plain numbers and pointers, in memory that was zeroed.
        let control = unsafe { parameters.Parameters.DeviceIoControl };
        Some(Control {
            code: control.IoControlCode,
            input_len: control.InputBufferLength,
            output_len: control.OutputBufferLength,
        })
    }

    /// Who made the request: a kernel caller is not judged.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn requestor_mode(&self) -> RequestorMode {
        // SAFETY: the request is ours by the type invariant.
        let mode = unsafe { call!(WdfRequestGetRequestorMode, self.0) };
        if mode == KernelMode as KPROCESSOR_MODE {
            RequestorMode::Kernel
        } else {
            RequestorMode::User
        }
    }

    /// What it was made with.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn file(&self) -> File {
        // SAFETY: the request is ours by the type invariant.
        File::of(unsafe { call!(WdfRequestGetFileObject, self.0) })
    }

    /// The input buffer, in the system's memory. Empty if the caller gave none.
    ///
    /// # Errors
    ///
    /// Whatever the framework answers, such as for a request that is no control request.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn input(&self) -> Result<Untrusted<'_>, NtError> {
        let control = self.control().ok_or(NtError::INVALID_DEVICE_REQUEST)?;
        let (begin, len) = if control.input_len == 0 {
            (NonNull::dangling(), 0)
        } else {
            self.retrieve(Buffer::Input)?
        };
        // SAFETY: mapped until the request is completed, which takes it by value.
        Ok(unsafe { Untrusted::from_raw(begin, len) })
    }

    /// The buffer that a METHOD_IN_DIRECT request carries data in: the caller's own pages, which the
    /// caller may write meanwhile. Empty if the caller gave none.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_DEVICE_REQUEST`] for a code of another method, or whatever the framework
    /// answers when it cannot map the pages.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn direct_input(&self) -> Result<Untrusted<'_>, NtError> {
        let (begin, len) = self.second_buffer(&[METHOD_IN_DIRECT])?;
        // SAFETY: mapped until the request is completed, which takes it by value; the pages were
        // probed for reading.
        Ok(unsafe { Untrusted::from_raw(begin, len) })
    }

    /// The buffer for the answer. Empty if the caller gave none.
    ///
    /// With METHOD_BUFFERED it is the same memory as the input, hence the unique borrow.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_DEVICE_REQUEST`] for a code whose method has no buffer that may be written,
    /// or whatever the framework answers when it cannot map the pages.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn output(&mut self) -> Result<UntrustedOutput<'_>, NtError> {
        let (begin, len) = self.second_buffer(&[METHOD_BUFFERED, METHOD_OUT_DIRECT])?;
        // SAFETY: mapped until the request is completed, which takes it by value; either the
        // system's memory or pages that were probed for writing.
        Ok(unsafe { UntrustedOutput::from_raw(begin, len) })
    }

    /// The second buffer of a control request, if its code has one of `methods`.
    fn second_buffer(&self, methods: &[u32]) -> Result<(NonNull<u8>, usize), NtError> {
        let control = self.control().ok_or(NtError::INVALID_DEVICE_REQUEST)?;
        if !methods.contains(&(control.code & METHOD_MASK)) {
            return Err(NtError::INVALID_DEVICE_REQUEST);
        }
        if control.output_len == 0 {
            return Ok((NonNull::dangling(), 0));
        }
        self.retrieve(Buffer::Output)
    }

    /// Where a buffer is that is not empty, and how long.
    fn retrieve(&self, buffer: Buffer) -> Result<(NonNull<u8>, usize), NtError> {
        let mut begin: PVOID = ptr::null_mut();
        let mut len = 0;
        let status = match buffer {
            // SAFETY: the request is ours by the type invariant; both places live through the call.
            Buffer::Input => unsafe {
                call!(WdfRequestRetrieveInputBuffer, self.0, 1, &raw mut begin, &raw mut len)
            },
            // SAFETY: as above.
            Buffer::Output => unsafe {
                call!(WdfRequestRetrieveOutputBuffer, self.0, 1, &raw mut begin, &raw mut len)
            },
        };
        check(status)?;
        let begin = NonNull::new(begin.cast()).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        Ok((begin, len))
    }

    /// Hands the request on, out of the caller's thread, to the default queue of `device`.
    ///
    /// # Errors
    ///
    /// Whatever the framework answers; the request then comes back with it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn enqueue(self, device: Device) -> Result<(), (Self, NtError)> {
        let request = self.into_raw();
        // SAFETY: the request was ours until here, and the device is its own and exists.
        let status = unsafe { call!(WdfDeviceEnqueueRequest, device.as_raw(), request) };
        // INVARIANT: with failure the request is still the driver's.
        check(status).map_err(|error| (Self(request), error))
    }

    /// Leaves the request in `queue`, where it waits to be retrieved.
    ///
    /// # Errors
    ///
    /// Whatever the framework answers, as when the queue takes no more; the request comes back.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn forward(self, queue: Queue) -> Result<(), (Self, NtError)> {
        let request = self.into_raw();
        // SAFETY: the request was ours until here; the queue exists by its invariant.
        let status = unsafe { call!(WdfRequestForwardToIoQueue, request, queue.as_raw()) };
        // INVARIANT: with failure the request is still the driver's.
        check(status).map_err(|error| (Self(request), error))
    }

    /// Completes the request with `result`, and tells its caller of `information` bytes.
    ///
    /// With success `information` must not be above the output length: the I/O manager would copy
    /// as many bytes of kernel memory to the caller. It is cut off at that length here. A failure
    /// has none, unless it is a warning (`STATUS_BUFFER_OVERFLOW` tells the length needed).
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn complete(self, result: Result<(), NtError>, information: usize) {
        let (status, limit) = match result {
            Ok(()) => (STATUS_SUCCESS, self.control().map_or(usize::MAX, |c| c.output_len)),
            Err(error) if is_warning(error.status()) => (error.status(), usize::MAX),
            Err(error) => (error.status(), 0),
        };
        // SAFETY: into_raw gives the ownership up, so this is the only completion.
        unsafe { complete(self.into_raw(), status, information.min(limit)) };
    }
}

/// Whether the status is of the severity whose answer the I/O manager still gives to the caller.
const fn is_warning(status: NTSTATUS) -> bool {
    status.cast_unsigned() >> 30 == 2
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: the request is ours by the type invariant, and this value goes.
        unsafe { complete(self.0, STATUS_CANCELLED, 0) };
    }
}

/// Completes a request.
///
/// # Safety
///
/// The driver owns `request`, and nobody uses it afterwards.
unsafe fn complete(request: WDFREQUEST, status: NTSTATUS, information: usize) {
    // SAFETY: the caller's promise; documented up to DISPATCH_LEVEL.
    unsafe {
        call!(WdfRequestCompleteWithInformation, request, status, information as u64);
    }
}
