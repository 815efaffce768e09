//! Callouts as drivers register them in the kernel (`FwpsCalloutRegister*`).
//!
//! A registration and the engine's object of the same key find each other; either may come first, or alone. What a filter
//! does whose callout is not registered is `classify.rs`'s affair. Unregistering waits for the classifies that run, or says
//! that it cannot be now: a driver has to go on asking before it may unload.
//!
//! Source: DDI fwpsk/nf-fwpsk-fwpscalloutregister2, …-fwpscalloutunregisterbyid0.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::layers::Guid;
use super::objects::Filter;
use super::{Fwp, answer, classify, fwp};
use crate::loader::probe::{self, Fault};
use crate::nt::imports;
use crate::nt::machine::Machine;
use crate::nt::thread::{Call, Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// `FWPS_CALLOUT_NOTIFY_ADD_FILTER`.
pub(crate) const ADD_FILTER: u64 = 0;
/// `FWPS_CALLOUT_NOTIFY_DELETE_FILTER`.
pub(crate) const DELETE_FILTER: u64 = 1;
/// `FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW`, which needs flow contexts.
const CONDITIONAL_ON_FLOW: u32 = 1;
/// `FWP_CALLOUT_FLAG_ALLOW_URO`.
pub(crate) const ALLOW_URO: u32 = 0x200;

/// One registration.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) key: Guid,
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) classify: usize,
    notify: usize,
    running: AtomicUsize,
    gone: AtomicBool,
}

impl Registration {
    /// Enters its classify function; false if it is unregistered.
    pub(crate) fn begin(&self) -> bool {
        self.running.fetch_add(1, Ordering::SeqCst);
        let there = !self.gone.load(Ordering::SeqCst);
        if !there {
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
        there
    }

    /// Leaves it.
    pub(crate) fn end(&self, machine: &Machine) {
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 && self.gone.load(Ordering::SeqCst) {
            machine.world().wake(Key::of(&self.running));
        }
    }
}

/// The registrations of one machine.
#[derive(Default)]
pub(crate) struct Callouts {
    all: Mutex<FxHashMap<Guid, Arc<Registration>>>,
    /// What the next attempts to unregister are answered, before anything else is looked at.
    refusals: Mutex<VecDeque<i32>>,
}

impl Callouts {
    pub(crate) fn find(&self, key: &Guid) -> Option<Arc<Registration>> {
        lock(&self.all).get(key).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.all).len()
    }
}

/// Answers the next attempts to unregister a callout with these statuses: STATUS_DEVICE_BUSY for flows that have a context,
/// STATUS_FWP_IN_USE for another attempt under way.
pub fn refuse_unregistering(machine: &Machine, statuses: &[i32]) {
    lock(&fwp(machine).callouts.refusals).extend(statuses);
}

/// Tells a filter's callout that the filter comes or goes; false if it objects.
pub(crate) fn notify(machine: &Machine, fwp: &Fwp, filter: &Filter, what: u64) -> bool {
    let Some(callout) = fwp.callouts.find(&filter.callout).filter(|callout| callout.notify != 0)
    else {
        return true;
    };
    let key = if what == ADD_FILTER { filter.key.as_ptr().expose_provenance() } else { 0 };
    let arguments = [what, key as u64, filter.seen.address() as u64];
    let answered = machine.call(Call::new("notifyFn", callout.notify, Level::Passive), &arguments);
    answered.is_ok_and(|status| status as i32 >= 0)
}

fn read(at: usize) -> Result<(Guid, u32, usize, usize), Fault> {
    let key = probe::bytes(at, 16)?.try_into().unwrap_or_default();
    Ok((key, probe::read(at + 16)?, probe::read(at + 24)?, probe::read(at + 32)?))
}

fn register(thread: &Thread, device: usize, callout: usize, id: usize) -> i32 {
    let Ok((key, flags, classify, notify)) = read(callout) else {
        return thread.bad_pointer("callout", callout);
    };
    if device == 0 || classify == 0 || notify == 0 {
        thread.stop(&rules::WFP_CALLOUT, "no device object, classifyFn or notifyFn");
        return 0;
    }
    if flags & CONDITIONAL_ON_FLOW != 0 {
        thread.stop(&rules::NOT_PROVIDED, "a callout that is conditional on flow contexts");
        return 0;
    }
    let fwp = fwp(thread.machine());
    let number = lock(&fwp.engine).callout_id(&key);
    {
        let mut all = lock(&fwp.callouts.all);
        if all.contains_key(&key) {
            return answer::ALREADY_EXISTS;
        }
        let (running, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
        all.insert(
            key,
            Arc::new(Registration { key, id: number, flags, classify, notify, running, gone }),
        );
    }
    classify::compile(thread.machine(), &fwp);
    if id != 0 && probe::write(id, number).is_err() {
        return thread.bad_pointer("calloutId", id);
    }
    answer::SUCCESS
}

fn unregister(thread: &Thread, id: u32) -> i32 {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    let found = lock(&fwp.callouts.all).values().find(|callout| callout.id == id).cloned();
    let Some(callout) = found else { return answer::CALLOUT_NOT_FOUND };
    if let Some(refusal) = lock(&fwp.callouts.refusals).pop_front() {
        return refusal;
    }
    let busy = callout.running.load(Ordering::SeqCst) > 0;
    if busy && !machine.either(&super::UNREGISTERING_WAITS_FOR_CLASSIFIES) {
        return answer::IN_USE;
    }
    callout.gone.store(true, Ordering::SeqCst);
    lock(&fwp.callouts.all).remove(&callout.key);
    classify::compile(machine, &fwp);
    let idle = || (callout.running.load(Ordering::SeqCst) == 0).then_some(());
    let deadline = machine.world().now() + Duration::from_secs(20);
    let ended =
        machine.wait(Key::of(&callout.running), Some(deadline), "classifies of a callout", idle);
    if ended.is_err() && !machine.is_dead() {
        thread.stop(&rules::DEADLOCK_CALLOUT, "a classify of the callout does not return");
    }
    answer::SUCCESS
}

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// Registers a callout's functions (Windows 8).
    [max: PASSIVE, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpscalloutregister2", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpsCalloutRegister2(thread, device: usize, callout: usize, id: usize) -> i32 {
        register(thread, device, callout, id)
    }

    /// Registers a callout's functions (Windows 10 1809); only their filter's provider context differs.
    [max: PASSIVE, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpscalloutregister3", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpsCalloutRegister3(thread, device: usize, callout: usize, id: usize) -> i32 {
        register(thread, device, callout, id)
    }

    /// Takes a callout's functions back; only after success may they go.
    [max: PASSIVE, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpscalloutunregisterbyid0", point: true]
    fn FwpsCalloutUnregisterById0(thread, id: u32) -> i32 {
        unregister(thread, id)
    }
}
