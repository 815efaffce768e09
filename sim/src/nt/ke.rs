//! IRQL, spin locks, events, waits and processors (`Ke*`).
//!
//! Spin locks name their owner, so that a second acquisition and a foreign release are seen. A wait looks at the object's own
//! `SignalState` in the driver's memory; waking goes by its address. Not modelled: APCs and alerts (`Alertable` is ignored),
//! thread priorities, wait blocks.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::loader::probe::{self, Fault};
use crate::nt::level::{APC, DISPATCH};
use crate::nt::machine::Machine;
use crate::nt::ob::THREAD_TYPE;
use crate::nt::status::{STATUS_INVALID_PARAMETER, STATUS_SUCCESS, STATUS_TIMEOUT};
use crate::nt::thread::Thread;
use crate::nt::{lock_order, timer, topology};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, WaitEnd, lock};

/// `EventNotificationObject`, the type of a dispatcher header.
const NOTIFICATION: u8 = 0;
/// `EventSynchronizationObject`.
const SYNCHRONIZATION: u8 = 1;
const SIGNAL_STATE: usize = 4;
/// Bytes of a `KEVENT`.
const EVENT: usize = 24;

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A synchronization event releases one waiting thread; which one is not promised.
    [mark: Documented, source: "WDD kernel/event-objects"] SYNCHRONIZATION_EVENT_RELEASES_ONE;
    /// A thread below DISPATCH_LEVEL may move to another CPU between two instructions.
    [mark: Documented, source: "DDI ntddk/nf-ntddk-kegetcurrentprocessornumberex"] THREADS_MIGRATE;
}

/// Spins until the lock is `thread`'s; the IRQL is `DISPATCH_LEVEL`.
fn acquire(thread: &Thread, lock: usize) {
    let Ok(word) = probe::atomic_u64(lock) else {
        thread.bad_pointer("SpinLock", lock);
        return;
    };
    if !lock_order::take(thread, lock) {
        return;
    }
    let mut spins = 0_u64;
    loop {
        match word.compare_exchange_weak(0, thread.id(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                lock_order::taken(thread, lock);
                return;
            }
            Err(owner) if owner == thread.id() => {
                let detail = format!("spin lock {lock:#x} is this thread's already");
                return thread.bugcheck(
                    &rules::SPIN_LOCK_ALREADY_OWNED,
                    [lock as u64, 0, 0, 0],
                    detail,
                );
            }
            Err(_) if thread.machine().is_dead() => return thread.abandon(),
            Err(_) if thread.machine().world().explores() => {
                if !thread.machine().world().spin() {
                    let detail = format!("spin lock {lock:#x} is never released");
                    return thread.stop(&rules::ENDLESS_SPIN, detail);
                }
            }
            Err(_) => {
                spins += 1;
                if spins.is_multiple_of(64) {
                    std::thread::yield_now()
                } else {
                    std::hint::spin_loop()
                }
            }
        }
    }
}

fn release(thread: &Thread, lock: usize) {
    let Ok(word) = probe::atomic_u64(lock) else {
        thread.bad_pointer("SpinLock", lock);
        return;
    };
    let owner = word.load(Ordering::Relaxed);
    let held = thread.locks().borrow().iter().rposition(|held| held.lock == lock);
    match held {
        Some(at) if owner == thread.id() => {
            let held = thread.locks().borrow_mut().remove(at);
            word.store(0, Ordering::Release);
            lock_order::released(thread, held);
        }
        _ => {
            let detail = format!("spin lock {lock:#x} is not this thread's to release");
            thread.bugcheck(&rules::SPIN_LOCK_NOT_OWNED, [lock as u64, owner, 0, 0], detail);
        }
    }
}

fn raise(thread: &Thread, to: u8) -> u8 {
    let before = thread.irql();
    if to < before {
        let detail = format!("KeRaiseIrql to {to} at IRQL {before}");
        thread.bugcheck(&rules::IRQL_NOT_LESS_OR_EQUAL, [0, before.into(), to.into(), 0], detail);
        return before;
    }
    match thread.raise(to) {
        Ok(before) => before,
        Err(_) => {
            thread.abandon();
            before
        }
    }
}

fn lower(thread: &Thread, to: u8) {
    let now = thread.irql();
    if to > now {
        let detail = format!("KeLowerIrql to {to} at IRQL {now}");
        return thread.bugcheck(
            &rules::IRQL_NOT_LESS_OR_EQUAL,
            [0, now.into(), to.into(), 1],
            detail,
        );
    }
    if now >= DISPATCH && to < DISPATCH && !thread.locks().borrow().is_empty() {
        return thread.stop(&rules::IRQL_UNDER_SPIN_LOCK, format!("to {to}"));
    }
    thread.lower(to);
    if thread.machine().is_dead() {
        thread.abandon();
    }
}

/// Looks at a dispatcher object once: `Some` if the wait is satisfied.
fn try_wait(object: usize, kind: u8) -> Result<Option<()>, Fault> {
    let state = probe::atomic_u32(object + SIGNAL_STATE)?;
    let satisfied = if kind == SYNCHRONIZATION {
        state.compare_exchange(1, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    } else {
        state.load(Ordering::SeqCst) != 0
    };
    Ok(satisfied.then_some(()))
}

fn wait(thread: &Thread, object: usize, timeout: usize) -> Result<i32, Fault> {
    let kind = probe::read::<u8>(object)? & 0x7F;
    if !matches!(kind, NOTIFICATION | SYNCHRONIZATION | THREAD_TYPE) {
        thread.stop(&rules::WAIT, format!("{object:#x} is no event or thread (type {kind})"));
        return Ok(STATUS_INVALID_PARAMETER);
    }
    let due = if timeout == 0 { None } else { Some(probe::read::<i64>(timeout)?) };
    if thread.irql() >= DISPATCH && due != Some(0) {
        thread.bugcheck(
            &rules::ATTEMPTED_SWITCH_FROM_DPC,
            [0; 4],
            "KeWaitForSingleObject at DISPATCH_LEVEL",
        );
        return Ok(STATUS_INVALID_PARAMETER);
    }
    if due == Some(0) {
        return Ok(if try_wait(object, kind)?.is_some() { STATUS_SUCCESS } else { STATUS_TIMEOUT });
    }
    let machine = thread.machine();
    let deadline = due.map(|due| timer::deadline(machine, due));
    let ended = machine.wait(Key(object), deadline, "an event or thread", || {
        match try_wait(object, kind) {
            Ok(satisfied) => satisfied.map(Ok),
            Err(fault) => Some(Err(fault)),
        }
    });
    match ended {
        Ok(Ok(())) => Ok(STATUS_SUCCESS),
        Ok(Err(fault)) => Err(fault),
        Err(Some(WaitEnd::TimedOut)) => Ok(STATUS_TIMEOUT),
        Err(Some(WaitEnd::Stuck)) => {
            let others = machine.world().waiting().join("; ");
            thread.stop(
                &rules::DEADLOCK,
                format!("nobody can ever signal {object:#x}; waiting: {others}"),
            );
            Ok(STATUS_TIMEOUT)
        }
        Err(None) => {
            thread.abandon();
            Ok(STATUS_TIMEOUT)
        }
    }
}

/// The CPUs, by index as bits, that threads of the driver were bound to.
#[derive(Default)]
struct Bound(Mutex<u64>);

/// The indices of the CPUs that threads of the driver have bound themselves to so far.
pub fn bound(machine: &Machine) -> Vec<u32> {
    let bound = *lock(&machine.extension::<Bound>().0);
    (0..64).filter(|index| bound >> index & 1 != 0).collect()
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// The IRQL.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kegetcurrentirql"]
    fn KeGetCurrentIrql(thread) -> u8 {
        thread.irql()
    }

    /// Raises the IRQL and returns what it was.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-keraiseirql", point: true]
    fn KfRaiseIrql(thread, to: u8) -> u8 {
        raise(thread, to)
    }

    /// Raises to DISPATCH_LEVEL (the form of older headers).
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-keraiseirqltodpclevel", point: true]
    fn KeRaiseIrqlToDpcLevel(thread) -> u8 {
        raise(thread, DISPATCH)
    }

    /// Lowers the IRQL; the CPU's DPCs run when it falls below DISPATCH_LEVEL.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kelowerirql"]
    fn KeLowerIrql(thread, to: u8) {
        lower(thread, to);
    }

    /// Raises to DISPATCH_LEVEL and takes the lock.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-keacquirespinlock", point: true]
    fn KeAcquireSpinLockRaiseToDpc(thread, lock: usize) -> u8 {
        let before = raise(thread, DISPATCH);
        acquire(thread, lock);
        before
    }

    /// Releases the lock and lowers the IRQL.
    [max: DISPATCH, min: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kereleasespinlock"]
    fn KeReleaseSpinLock(thread, lock: usize, to: u8) {
        release(thread, lock);
        if !thread.machine().is_dead() {
            lower(thread, to);
        }
    }

    /// Takes the lock at DISPATCH_LEVEL.
    [max: HIGH, min: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-keacquirespinlockatdpclevel"]
    fn KeAcquireSpinLockAtDpcLevel(thread, lock: usize) {
        acquire(thread, lock);
    }

    /// Releases the lock at DISPATCH_LEVEL.
    [max: HIGH, min: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kereleasespinlockfromdpclevel"]
    fn KeReleaseSpinLockFromDpcLevel(thread, lock: usize) {
        release(thread, lock);
    }

    /// Makes an event: type 0 notification, 1 synchronization.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-keinitializeevent"]
    fn KeInitializeEvent(thread, event: usize, kind: u32, state: u8) {
        if kind > 1 {
            return thread.stop(&rules::EVENT, format!("KeInitializeEvent of type {kind}"));
        }
        let fields = probe::fill(event, 0, EVENT)
            .and_then(|()| probe::write(event, kind as u8))
            .and_then(|()| probe::write(event + 2, (EVENT / 4) as u8))
            .and_then(|()| probe::write(event + SIGNAL_STATE, u32::from(state != 0)));
        if fields.is_err() {
            thread.bad_pointer("Event", event);
        }
    }

    /// Signals an event and returns the state before.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kesetevent", point: true]
    fn KeSetEvent(thread, event: usize, increment: i32, wait: u8) -> i32 {
        if wait != 0 && thread.irql() > APC {
            thread.bugcheck(&rules::IRQL_NOT_LESS_OR_EQUAL, [0, 2, 0, 0], "KeSetEvent with Wait above APC_LEVEL");
            return 0;
        }
        match probe::atomic_u32(event + SIGNAL_STATE) {
            Ok(state) => {
                let before = state.swap(1, Ordering::SeqCst);
                thread.machine().world().wake(Key(event));
                before.cast_signed()
            }
            Err(_) => thread.bad_pointer("Event", event),
        }
    }

    /// Makes an event not signalled.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-keclearevent"]
    fn KeClearEvent(thread, event: usize) {
        match probe::atomic_u32(event + SIGNAL_STATE) {
            Ok(state) => state.store(0, Ordering::SeqCst),
            Err(_) => {
                thread.bad_pointer("Event", event);
            }
        }
    }

    /// Waits for an event or thread; at DISPATCH_LEVEL only with a timeout of zero.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kewaitforsingleobject", point: true]
    fn KeWaitForSingleObject(thread, object: usize, reason: u32, mode: u8, alertable: u8, timeout: usize) -> i32 {
        match wait(thread, object, timeout) {
            Ok(status) => status,
            Err(Fault(address)) => thread.bad_pointer("Object", address),
        }
    }

    /// Sets a thread's priority and returns the old one; who runs is not changed by it here.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-kesetprioritythread"]
    fn KeSetPriorityThread(thread, object: usize, priority: i32) -> i32 {
        if !(1..=31).contains(&priority) {
            thread.stop(&rules::PRIORITY, format!("KeSetPriorityThread to {priority}"));
        }
        if !thread.machine().objects().is_object(object) {
            return thread.bad_pointer("Thread", object);
        }
        8
    }

    /// Binds the calling thread to CPUs of one group.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kesetsystemgroupaffinitythread", point: true]
    fn KeSetSystemGroupAffinityThread(thread, affinity: usize, previous: usize) {
        let (Ok(mask), Ok(group)) = (probe::read::<u64>(affinity), probe::read::<u16>(affinity + 8)) else {
            thread.bad_pointer("Affinity", affinity);
            return;
        };
        let topology = thread.machine().topology();
        if previous != 0 {
            let here = topology.place(thread.cpu()).map_or(0, |place| place.group);
            let before = topology.mask(here, thread.affinity());
            if probe::write(previous, before).and_then(|()| probe::write(previous + 8, u64::from(here))).is_err() {
                thread.bad_pointer("PreviousAffinity", previous);
                return;
            }
        }
        // No valid CPU: "the routine does not change the affinity".
        let indices = topology.indices(group, mask);
        if indices != 0 {
            *lock(&thread.machine().extension::<Bound>().0) |= indices;
            thread.set_affinity(indices);
        }
    }

    /// CPUs of a group, or of all.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kequeryactiveprocessorcountex"]
    fn KeQueryActiveProcessorCountEx(thread, group: u16) -> u32 {
        thread.machine().topology().active(group)
    }

    /// CPUs there may ever be, of a group or of all: none is added here.
    [max: HIGH, mark: Documented, source: "DDI ntddk/nf-ntddk-kequerymaximumprocessorcountex"]
    fn KeQueryMaximumProcessorCountEx(thread, group: u16) -> u32 {
        thread.machine().topology().maximum(group)
    }

    /// The CPU this runs on.
    [max: HIGH, mark: Documented, source: "DDI ntddk/nf-ntddk-kegetcurrentprocessornumberex"]
    fn KeGetCurrentProcessorNumberEx(thread, number: usize) -> u32 {
        if number != 0 && topology::write_number(thread.machine(), number, thread.cpu()).is_err() {
            thread.bad_pointer("ProcNumber", number);
        }
        thread.cpu()
    }

    /// The group and number of the CPU with an index.
    [max: HIGH, mark: Documented, source: "DDI ntifs/nf-ntddk-kegetprocessornumberfromindex"]
    fn KeGetProcessorNumberFromIndex(thread, index: u32, number: usize) -> i32 {
        if index >= thread.machine().options().cpus {
            return STATUS_INVALID_PARAMETER;
        }
        match topology::write_number(thread.machine(), number, index) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => thread.bad_pointer("ProcNumber", number),
        }
    }
}
