//! Deferred procedure calls (`KeInitializeDpc` ... `KeFlushQueuedDpcs`).
//!
//! `KDPC.DpcData` is not null while the object is queued; `Number` holds the target CPU, offset as in Windows so that 0 means
//! "the CPU that inserts". Queues are in `processor.rs`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::loader::probe;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::processor::Queued;
use crate::nt::status::{STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::nt::thread::Thread;
use crate::nt::topology;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

const TYPE: usize = 0;
const IMPORTANCE: usize = 1;
const NUMBER: usize = 2;
const ROUTINE: usize = 24;
const CONTEXT: usize = 32;
const DPC_DATA: usize = 56;
/// Bytes of a `KDPC`.
const SIZE: usize = 64;
/// `DpcObject`.
const DPC_TYPE: u8 = 19;
const MEDIUM: u8 = 1;
const HIGH_IMPORTANCE: u8 = 2;
const MEDIUM_HIGH: u8 = 3;
/// `Number` of a DPC with a target is this more than the CPU's index.
const TARGETED: u16 = 0x500;
/// The clock tick, which finds DPCs that nobody was interrupted for.
const TICK: Duration = Duration::from_micros(15_625);

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A DPC of medium importance for another CPU is found at once if that CPU is idle, else by its next tick.
    [mark: Documented, source: "WDD kernel/organization-of-dpc-queues; facts/risks.md 2"] REMOTE_MEDIUM_DPC_WAITS;
    /// A DPC of low importance waits for the tick.
    [mark: Documented, source: "DDI wdm/nf-wdm-kesetimportancedpc, WDD kernel/organization-of-dpc-queues"] LOW_DPC_WAITS;
}

/// Until when a machine's CPUs have no time for DPCs, in nanoseconds.
#[derive(Default)]
struct Withheld(AtomicU64);

/// Keeps the CPUs of a machine from DPCs that drivers queue within the next `time`: something else has them for so long.
/// Timers and what is queued already are not kept, and waiting for DPCs takes as long. Verified mode only.
pub fn withhold(machine: &Machine, time: Duration) {
    let until = machine.world().now() + time;
    machine.extension::<Withheld>().0.store(until.as_nanos() as u64, Ordering::Release);
}

/// The time before which no DPC runs that a driver queues now; zero if that is over.
pub(crate) fn withheld_until(machine: &Machine) -> Duration {
    let until = machine.extension::<Withheld>().0.load(Ordering::Acquire);
    let until = Duration::from_nanos(until);
    if until > machine.world().now() { until } else { Duration::ZERO }
}

/// How long others may keep a CPU from its queue, in ns.
#[derive(Default)]
struct Busy(AtomicU64);

/// Has other drivers' DPCs keep the CPUs of a verified machine busy: one of ours lies in its queue for up to `longest`, while
/// the rest of the machine goes on.
pub fn keep_busy(machine: &Machine, longest: Duration) {
    machine.extension::<Busy>().0.store(longest.as_nanos() as u64, Ordering::Relaxed);
}

/// How many DPCs of medium-high importance were queued for each CPU.
#[derive(Default)]
struct Urgent(Mutex<BTreeMap<u32, u64>>);

/// How many DPCs of medium-high importance a verified machine's driver has queued for each CPU, by index.
pub fn urgent(machine: &Machine) -> BTreeMap<u32, u64> {
    lock(&machine.extension::<Urgent>().0).clone()
}

/// The object is the driver's again.
pub(crate) fn mark_idle(dpc: usize) {
    if let Ok(data) = probe::atomic_u64(dpc + DPC_DATA) {
        data.store(0, Ordering::Release);
    }
}

/// How long a DPC may lie before its CPU looks.
fn delay(machine: &Machine, thread: &Thread, importance: u8, target: u32) -> Duration {
    let late = match importance {
        HIGH_IMPORTANCE | MEDIUM_HIGH => false,
        MEDIUM => target != thread.cpu(),
        _ => true,
    };
    // Fast mode is for measuring: there every CPU counts as idle.
    if !machine.options().verified {
        return Duration::ZERO;
    }
    let withheld = withheld_until(machine);
    let busy = machine.extension::<Busy>().0.load(Ordering::Relaxed);
    let longest = if late { busy.max(TICK.as_nanos() as u64) } else { busy };
    if longest == 0 || machine.world().random() & 1 == 0 {
        return withheld;
    }
    withheld.max(machine.world().now() + Duration::from_nanos(machine.world().random() % longest))
}

fn insert(thread: &Thread, dpc: usize, arguments: [u64; 2]) -> Result<bool, probe::Fault> {
    let machine = thread.machine();
    if probe::read::<u8>(dpc + TYPE)? != DPC_TYPE {
        thread.bugcheck(
            &rules::TIMER_OR_DPC_INVALID,
            [0, dpc as u64, 0, 0],
            "KeInsertQueueDpc of what is no DPC",
        );
        return Ok(false);
    }
    let number = probe::read::<u16>(dpc + NUMBER)?;
    let target = number.checked_sub(TARGETED).map_or(thread.cpu(), u32::from);
    let claimed = probe::atomic_u64(dpc + DPC_DATA)?;
    if claimed
        .compare_exchange(0, u64::from(target) + 1, Ordering::AcqRel, Ordering::Relaxed)
        .is_err()
    {
        return Ok(false);
    }
    let importance = probe::read::<u8>(dpc + IMPORTANCE)?;
    let queued = Queued {
        dpc,
        routine: probe::read(dpc + ROUTINE)?,
        context: probe::read(dpc + CONTEXT)?,
        arguments,
        not_before: delay(machine, thread, importance, target),
    };
    if machine.options().verified && importance == MEDIUM_HIGH {
        *lock(&machine.extension::<Urgent>().0).entry(target).or_default() += 1;
    }
    machine.processor(target).insert(machine, queued, importance == HIGH_IMPORTANCE);
    Ok(true)
}

fn remove(thread: &Thread, dpc: usize) -> Result<bool, probe::Fault> {
    let place = probe::atomic_u64(dpc + DPC_DATA)?.load(Ordering::Acquire);
    let Some(cpu) =
        place.checked_sub(1).filter(|cpu| *cpu < u64::from(thread.machine().options().cpus))
    else {
        return Ok(false);
    };
    let removed = thread.machine().processor(cpu as u32).remove(dpc);
    if removed {
        mark_idle(dpc);
    }
    Ok(removed)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Makes a DPC of medium importance, for the CPU that inserts it.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-keinitializedpc"]
    fn KeInitializeDpc(thread, dpc: usize, routine: usize, context: u64) {
        let fields = probe::fill(dpc, 0, SIZE)
            .and_then(|()| probe::write(dpc + TYPE, DPC_TYPE))
            .and_then(|()| probe::write(dpc + IMPORTANCE, MEDIUM))
            .and_then(|()| probe::write(dpc + ROUTINE, routine))
            .and_then(|()| probe::write(dpc + CONTEXT, context));
        if fields.is_err() {
            thread.bad_pointer("Dpc", dpc);
        }
    }

    /// Names the CPU that the DPC runs on.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kesettargetprocessordpcex"]
    fn KeSetTargetProcessorDpcEx(thread, dpc: usize, number: usize) -> i32 {
        let Ok(cpu) = topology::read_number(thread.machine(), number) else {
            return thread.bad_pointer("ProcNumber", number);
        };
        let Some(cpu) = cpu else { return STATUS_INVALID_PARAMETER };
        match probe::write(dpc + NUMBER, TARGETED + cpu as u16) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => thread.bad_pointer("Dpc", dpc),
        }
    }

    /// Sets the importance: 0 low, 1 medium, 2 high, 3 medium high.
    [max: HIGH, mark: Documented, source: "DDI ntddk/nf-ntddk-kesetimportancedpc"]
    fn KeSetImportanceDpc(thread, dpc: usize, importance: u32) {
        if probe::write(dpc + IMPORTANCE, importance as u8).is_err() {
            thread.bad_pointer("Dpc", dpc);
        }
    }

    /// Queues the DPC; false if it is queued already.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-keinsertqueuedpc"]
    fn KeInsertQueueDpc(thread, dpc: usize, first: u64, second: u64) -> u8 {
        let Ok(inserted) = insert(thread, dpc, [first, second]) else {
            thread.bad_pointer("Dpc", dpc);
            return 0;
        };
        // Below DISPATCH_LEVEL the software interrupt comes at once.
        if inserted && thread.irql() < DISPATCH && let Ok(before) = thread.raise(DISPATCH) {
            thread.lower(before);
        }
        inserted.into()
    }

    /// Takes the DPC out of its queue; false if it was not queued.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-keremovequeuedpc"]
    fn KeRemoveQueueDpc(thread, dpc: usize) -> u8 {
        match remove(thread, dpc) {
            Ok(removed) => removed.into(),
            Err(_) => {
                thread.bad_pointer("Dpc", dpc);
                0
            }
        }
    }

    /// Waits until all DPCs that are queued on any CPU have run.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-keflushqueueddpcs", point: true]
    fn KeFlushQueuedDpcs(thread) {
        for processor in thread.machine().processors() {
            if processor.flush(thread.machine()).is_err() {
                thread.abandon();
                return;
            }
        }
    }
}
