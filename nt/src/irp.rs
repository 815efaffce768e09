//! I/O request packets that this driver sends: made once, used again and again.
//!
//! An IRP of ours has one stack location, and before every call a completion routine is put there
//! that is invoked whatever the outcome and answers `STATUS_MORE_PROCESSING_REQUIRED`, which makes
//! the packet ours again. The I/O manager's macros for that (`IoSetCompletionRoutine`) are code in a
//! header, so they are written here. Between the call and its completion the packet belongs to who
//! was called; the call may complete it, on any CPU and up to `DISPATCH_LEVEL`, before it returns.
//!
//! Source: network/using-irps-with-winsock-kernel-functions, wdm/nf-wdm-iosetcompletionroutine.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
    ptr::{self, NonNull},
};

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, _MODE, IO_STACK_LOCATION, IRP, KEVENT, NTSTATUS, PDEVICE_OBJECT,
    PIRP, STATUS_UNSUCCESSFUL,
    ntddk::{
        IoAllocateIrp, IoFreeIrp, IoReuseIrp, KeInitializeEvent, KeSetEvent, KeWaitForSingleObject,
    },
};

use crate::{
    irql::Passive,
    status::{NtError, check},
};

/// `SL_INVOKE_ON_CANCEL | SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR`: invoke it always.
const SL_INVOKE_ALWAYS: u8 = 0x20 | 0x40 | 0x80;
/// `STATUS_MORE_PROCESSING_REQUIRED`: what keeps the I/O manager's hands off a packet of ours.
pub(crate) const STATUS_MORE_PROCESSING_REQUIRED: NTSTATUS = 0xC000_0016_u32.cast_signed();

// The two structures that are written into here. `km/wdm.h`, WDK 10.0.26100.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<IRP>() == 208);
    assert!(offset_of!(IRP, IoStatus) == 48);
    assert!(offset_of!(IRP, CurrentLocation) == 67);
    assert!(offset_of!(IRP, Tail) == 120);
    assert!(size_of::<IO_STACK_LOCATION>() == 72);
    assert!(offset_of!(IO_STACK_LOCATION, Control) == 3);
    assert!(offset_of!(IO_STACK_LOCATION, CompletionRoutine) == 56);
    assert!(offset_of!(IO_STACK_LOCATION, Context) == 64);
};

/// A completion routine; it returns [`STATUS_MORE_PROCESSING_REQUIRED`].
pub(crate) type CompletionRoutine =
    unsafe extern "C" fn(PDEVICE_OBJECT, PIRP, *mut c_void) -> NTSTATUS;

/// An IRP of one stack location, freed on drop.
///
/// # Invariants
///
/// `raw` came from `IoAllocateIrp(1, ..)`. Whoever passes it to a call keeps this value alive and
/// does not touch it until the completion routine has run.
pub(crate) struct Irp {
    raw: NonNull<IRP>,
}

// SAFETY: an IRP belongs to no thread; `IoAllocateIrp` queues it to none.
unsafe impl Send for Irp {}
// SAFETY: a shared `Irp` only reads its status, which nobody writes while the packet is ours.
unsafe impl Sync for Irp {}

impl Irp {
    /// Allocates an IRP.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn allocate() -> Result<Self, NtError> {
        // SAFETY: no precondition but the level, which every caller of this crate is within. No
        // quota: the packet is the driver's, not some process's.
        let raw = unsafe { IoAllocateIrp(1, 0) };
        // INVARIANT: just allocated with one location.
        NonNull::new(raw).map(|raw| Self { raw }).ok_or(NtError::INSUFFICIENT_RESOURCES)
    }

    /// Makes the packet ready for one call: fresh, with `routine` to be run with `context`.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn prepare(&mut self, routine: CompletionRoutine, context: *mut c_void) -> PIRP {
        let irp = self.raw.as_ptr();
        // SAFETY: by the type invariant the packet is ours: no call with it is under way.
        unsafe { IoReuseIrp(irp, STATUS_UNSUCCESSFUL) };
        // SAFETY: the packet is live; this only forms the address of a field of it.
        let current = unsafe {
            &raw const (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation
        };
        // SAFETY: IoReuseIrp set the field, behind the last location.
        let current: *mut IO_STACK_LOCATION = unsafe { current.read() };
        // SAFETY: `IoGetNextIrpStackLocation`: a fresh packet of one location points behind it, so
        // the one before is that location.
        let next = unsafe { current.sub(1) };
        // SAFETY: `next` is the packet's one stack location, live, and written by us alone.
        let location = unsafe { &mut *next };
        location.CompletionRoutine = Some(routine);
        location.Context = context;
        location.Control = SL_INVOKE_ALWAYS;
        irp
    }

    /// What the last call with this packet came to: its `Information`, or why it failed.
    ///
    /// # Errors
    ///
    /// The status of the completed packet.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn outcome(&self) -> Result<usize, NtError> {
        // SAFETY: by the type invariant the packet is live and ours, so nobody writes to it.
        let io_status = unsafe { &self.raw.as_ref().IoStatus };
        // SAFETY: completing a packet sets the status of the union.
        let status = unsafe { io_status.__bindgen_anon_1.Status };
        check(status)?;
        usize::try_from(io_status.Information).map_err(|_| NtError::UNSUCCESSFUL)
    }

    /// Makes one call with this packet and waits until it is complete.
    ///
    /// `start` passes the packet to exactly one routine that always completes it. What that
    /// returns does not matter: the outcome is the packet's.
    ///
    /// # Errors
    ///
    /// The status of the completed packet.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub(crate) fn call(
        &mut self,
        _level: &Passive,
        start: impl FnOnce(PIRP) -> NTSTATUS,
    ) -> Result<usize, NtError> {
        let mut event = MaybeUninit::<KEVENT>::uninit();
        let event = event.as_mut_ptr();
        // SAFETY: room for an event in this frame, which is left only after the event was
        // signalled; the wait below is in kernel mode, so the stack stays in memory.
        unsafe { KeInitializeEvent(event, _EVENT_TYPE::NotificationEvent, 0) };
        let _ = start(self.prepare(signal, event.cast()));
        // SAFETY: initialised above; at PASSIVE_LEVEL, as the token says, a wait is allowed.
        let _ = unsafe {
            KeWaitForSingleObject(
                event.cast(),
                _KWAIT_REASON::Executive,
                _MODE::KernelMode as i8,
                0,
                ptr::null_mut(),
            )
        };
        self.outcome()
    }
}

impl Drop for Irp {
    fn drop(&mut self) {
        // SAFETY: by the type invariant allocated by us, and no call with it is under way.
        unsafe { IoFreeIrp(self.raw.as_ptr()) };
    }
}

/// Completion routine of [`Irp::call`]: signals the event that its context is.
unsafe extern "C" fn signal(_: PDEVICE_OBJECT, _: PIRP, context: *mut c_void) -> NTSTATUS {
    // SAFETY: `Irp::call` passed its event, and waits for it before it leaves the frame.
    unsafe { KeSetEvent(context.cast(), 0, 0) };
    STATUS_MORE_PROCESSING_REQUIRED
}
