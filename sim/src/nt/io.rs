//! I/O request packets (`IoAllocateIrp` ...), as far as a driver that sends its own needs them.
//!
//! An IRP of the driver's has the stack locations it asked for; the driver sets a completion routine in the next one and hands
//! the IRP to a provider (WSK), which calls [`take_irp`] and, sooner or later, [`complete_irp`]. Freeing or reusing it in
//! between, or completing it twice, is a stop.

use std::sync::Mutex;

use rustc_hash::FxHashMap;

use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::status::{STATUS_CANCELLED, STATUS_MORE_PROCESSING_REQUIRED, is_success};
use crate::nt::thread::{Call, Dead, Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

const TYPE: usize = 0;
const SIZE: usize = 2;
const MDL_ADDRESS: usize = 8;
const IO_STATUS: usize = 48;
const INFORMATION: usize = 56;
const PENDING_RETURNED: usize = 65;
const STACK_COUNT: usize = 66;
const CURRENT_LOCATION: usize = 67;
const CANCEL: usize = 68;
const CURRENT_STACK_LOCATION: usize = 184;
/// Bytes of an `IRP`, and of an `IO_STACK_LOCATION`.
const IRP: usize = 208;
const STACK_LOCATION: usize = 72;
const LOCATION_CONTROL: usize = 3;
const LOCATION_ROUTINE: usize = 56;
const LOCATION_CONTEXT: usize = 64;
const SL_PENDING_RETURNED: u8 = 0x01;
const SL_INVOKE_ON_CANCEL: u8 = 0x20;
const SL_INVOKE_ON_SUCCESS: u8 = 0x40;
const SL_INVOKE_ON_ERROR: u8 = 0x80;
/// `IO_TYPE_IRP`.
const IO_TYPE_IRP: u16 = 6;
/// Pool tag of IRPs.
const TAG: u32 = u32::from_le_bytes(*b"Irp ");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The driver has it.
    Driver,
    /// A provider has it.
    Sent,
}

/// The IRPs of a machine.
#[derive(Default)]
struct Irps(Mutex<FxHashMap<usize, State>>);

fn initialise(irp: usize, stack_size: u8) -> Result<(), Fault> {
    let size = IRP + STACK_LOCATION * usize::from(stack_size);
    probe::fill(irp, 0, size)?;
    probe::write(irp + TYPE, IO_TYPE_IRP)?;
    probe::write(irp + SIZE, size as u16)?;
    probe::write(irp + STACK_COUNT, stack_size)?;
    probe::write(irp + CURRENT_LOCATION, stack_size + 1)?;
    probe::write(irp + CURRENT_STACK_LOCATION, irp + size)
}

/// Allocates an IRP in pool: what `IoAllocateIrp` does, also for frameworks of the simulator.
pub fn allocate_irp(machine: &Machine, stack_size: u8, at: usize) -> Option<usize> {
    let size = IRP + STACK_LOCATION * usize::from(stack_size);
    let irp = machine.pool().allocate(size, TAG, 0, at)?;
    initialise(irp, stack_size).ok()?;
    lock(&machine.extension::<Irps>().0).insert(irp, State::Driver);
    Some(irp)
}

/// A provider takes an IRP that the driver sends it; false (and a stop) if that is no IRP, or is already on its way.
pub fn take_irp(thread: &Thread, irp: usize) -> bool {
    let irps = thread.machine().extension::<Irps>();
    let before = lock(&irps.0).get_mut(&irp).map(|state| std::mem::replace(state, State::Sent));
    match before {
        Some(State::Driver) => {}
        Some(State::Sent) => {
            thread.stop(&rules::IRP, format!("{irp:#x} is sent again before it has completed"));
            return false;
        }
        None => {
            thread.stop(&rules::IRP, format!("{irp:#x} is no IRP"));
            return false;
        }
    }
    match enter_location(irp) {
        Ok(true) => true,
        Ok(false) => {
            thread.stop(&rules::IRP, format!("{irp:#x} has no stack location left"));
            false
        }
        Err(_) => {
            thread.bad_pointer("Irp", irp);
            false
        }
    }
}

/// `IoSetNextIrpStackLocation`.
fn enter_location(irp: usize) -> Result<bool, Fault> {
    let location = probe::read::<u8>(irp + CURRENT_LOCATION)?;
    if location <= 1 {
        return Ok(false);
    }
    let place = probe::read::<usize>(irp + CURRENT_STACK_LOCATION)? - STACK_LOCATION;
    probe::write(irp + CURRENT_LOCATION, location - 1)?;
    probe::write(irp + CURRENT_STACK_LOCATION, place)?;
    Ok(true)
}

/// Says that the IRP will complete later: what a provider does before it returns `STATUS_PENDING`.
///
/// # Errors
///
/// [`Fault`] if the IRP is gone.
pub fn mark_pending(irp: usize) -> Result<(), Fault> {
    let place = probe::read::<usize>(irp + CURRENT_STACK_LOCATION)? + LOCATION_CONTROL;
    probe::write(place, probe::read::<u8>(place)? | SL_PENDING_RETURNED)
}

/// Completes an IRP that [`take_irp`] took, at the caller's IRQL (`Level::Current`) or at `DISPATCH_LEVEL`.
///
/// The driver's completion routine may free or reuse the IRP; nobody may touch it afterwards.
///
/// # Errors
///
/// [`Dead`] if the machine has stopped, for instance because the IRP was completed twice.
pub fn complete_irp(
    machine: &Machine,
    irp: usize,
    status: i32,
    information: u64,
    level: Level,
) -> Result<(), Dead> {
    let irps = machine.extension::<Irps>();
    let before = lock(&irps.0).get_mut(&irp).map(|state| std::mem::replace(state, State::Driver));
    if before != Some(State::Sent) {
        machine.with_thread(|thread| {
            let detail = format!("IRP {irp:#x} is completed, but nobody has sent it");
            thread.bugcheck(&rules::MULTIPLE_IRP_COMPLETE_REQUESTS, [irp as u64, 0, 0, 0], detail);
        });
        return Err(Dead);
    }
    let routine = match leave_location(irp, status, information) {
        Ok(routine) => routine,
        Err(Fault(at)) => {
            machine.die(
                &rules::IRP,
                format!("{irp:#x} is completed, but {at:#x} in it is not mapped any more"),
            );
            return Err(Dead);
        }
    };
    let Some((routine, context)) = routine else {
        machine.die(
            &rules::IRP,
            format!("{irp:#x} completes and has no completion routine for status {status:#x}"),
        );
        return Err(Dead);
    };
    let call = Call::new("IoCompletion", routine, level);
    let answer = machine.call(call, &[0, irp as u64, context])? as i32;
    if answer != STATUS_MORE_PROCESSING_REQUIRED {
        let what = "must return STATUS_MORE_PROCESSING_REQUIRED for an IRP of its driver's own";
        machine.die(
            &rules::IRP,
            format!(
                "completion routine {} returned {answer:#x}; it {what}",
                machine.describe(routine)
            ),
        );
        return Err(Dead);
    }
    Ok(())
}

/// Stores the result and leaves the provider's location; the routine and context to call, if the driver wants to be called.
fn leave_location(
    irp: usize,
    status: i32,
    information: u64,
) -> Result<Option<(usize, u64)>, Fault> {
    probe::write(irp + IO_STATUS, i64::from(status).cast_unsigned() & 0xFFFF_FFFF)?;
    probe::write(irp + INFORMATION, information)?;
    let place = probe::read::<usize>(irp + CURRENT_STACK_LOCATION)?;
    let control = probe::read::<u8>(place + LOCATION_CONTROL)?;
    probe::write(irp + PENDING_RETURNED, control & SL_PENDING_RETURNED)?;
    probe::write(irp + CURRENT_LOCATION, probe::read::<u8>(irp + CURRENT_LOCATION)? + 1)?;
    probe::write(irp + CURRENT_STACK_LOCATION, place + STACK_LOCATION)?;
    let cancelled = probe::read::<u8>(irp + CANCEL)? != 0 || status == STATUS_CANCELLED;
    let wanted = if is_success(status) { SL_INVOKE_ON_SUCCESS } else { SL_INVOKE_ON_ERROR };
    let invoked = control & wanted != 0 || cancelled && control & SL_INVOKE_ON_CANCEL != 0;
    let routine = probe::read::<usize>(place + LOCATION_ROUTINE)?;
    let context = probe::read::<u64>(place + LOCATION_CONTEXT)?;
    Ok((invoked && routine != 0).then_some((routine, context)))
}

/// Puts an MDL into an IRP: first, or behind the others.
pub(crate) fn attach_mdl(irp: usize, mdl: usize, secondary: bool) -> Result<(), Fault> {
    if !secondary {
        return probe::write(irp + MDL_ADDRESS, mdl);
    }
    let mut place = irp + MDL_ADDRESS;
    loop {
        let next = probe::read::<usize>(place)?;
        if next == 0 {
            return probe::write(place, mdl);
        }
        // `Next` is the first field of an MDL.
        place = next;
    }
}

/// Whether the driver has the IRP; a stop if not.
fn is_drivers(thread: &Thread, irp: usize, what: &str) -> bool {
    let state = lock(&thread.machine().extension::<Irps>().0).get(&irp).copied();
    match state {
        Some(State::Driver) => true,
        Some(State::Sent) => {
            thread.stop(&rules::IRP, format!("{what} of {irp:#x}, which has not completed"));
            false
        }
        None => {
            thread.stop(&rules::IRP, format!("{what} of {irp:#x}, which is no IRP"));
            false
        }
    }
}

/// `FILE_GENERIC_READ`, `WRITE`, `EXECUTE`, `FILE_ALL_ACCESS`.
static FILE_MAPPING: [u32; 4] = [0x0012_0089, 0x0012_0116, 0x0012_00A0, 0x001F_01FF];

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Allocates an IRP.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-ioallocateirp", fail: 0]
    fn IoAllocateIrp(thread, stack_size: u8, quota: u8) -> usize {
        allocate_irp(thread.machine(), stack_size, thread.caller()).unwrap_or(0)
    }

    /// Frees an IRP of `IoAllocateIrp`.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-iofreeirp"]
    fn IoFreeIrp(thread, irp: usize) {
        if is_drivers(thread, irp, "IoFreeIrp") {
            lock(&thread.machine().extension::<Irps>().0).remove(&irp);
            // Its state says that it is a live block of this tag.
            let freed = thread.machine().pool().free(irp, TAG, thread.caller());
            debug_assert!(freed.is_ok());
        }
    }

    /// Makes an IRP as new, with a status.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-ioreuseirp"]
    fn IoReuseIrp(thread, irp: usize, status: i32) {
        if is_drivers(thread, irp, "IoReuseIrp") {
            let again = probe::read::<u8>(irp + STACK_COUNT)
                .and_then(|stack_size| initialise(irp, stack_size))
                .and_then(|()| probe::write(irp + IO_STATUS, status));
            if again.is_err() {
                thread.bad_pointer("Irp", irp);
            }
        }
    }

    /// How generic rights map to those of files.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-iogetfileobjectgenericmapping"]
    fn IoGetFileObjectGenericMapping(thread) -> usize {
        FILE_MAPPING.as_ptr().expose_provenance()
    }
}
