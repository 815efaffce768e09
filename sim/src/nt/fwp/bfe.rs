//! The base filtering engine as a service: its state, who is told of changes, and what a stop takes with it.
//!
//! A stop goes STOP_PENDING, STOPPED; a start START_PENDING, RUNNING. With the service go every session and every object in
//! it; what callout drivers registered in the kernel stays. Subscribers are told on a thread of their own, one change after
//! the other.
//!
//! Source: DDI fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0, LEARN win32/fwp/object-management.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Fwp, answer, engine, fwp};
use crate::loader::probe;
use crate::nt::imports;
use crate::nt::machine::Machine;
use crate::nt::thread::{Call, Level};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// How long a stopping service waits for its subscribers, if it does.
const PATIENCE: Duration = Duration::from_secs(5);

/// `FWPM_SERVICE_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceState {
    /// `FWPM_SERVICE_STOPPED`.
    Stopped = 0,
    /// `FWPM_SERVICE_START_PENDING`.
    StartPending = 1,
    /// `FWPM_SERVICE_STOP_PENDING`.
    StopPending = 2,
    /// `FWPM_SERVICE_RUNNING`.
    #[default]
    Running = 3,
}

/// One subscription.
struct Subscriber {
    callback: usize,
    context: u64,
    cancelled: AtomicBool,
    runs_on: Mutex<Option<std::thread::ThreadId>>,
}

impl Subscriber {
    fn key(&self) -> Key {
        Key::of(&self.runs_on)
    }
}

/// The service of one machine.
#[derive(Default)]
pub(crate) struct Bfe {
    state: Mutex<ServiceState>,
    subscribers: Mutex<FxHashMap<usize, Arc<Subscriber>>>,
    notes: Mutex<VecDeque<(Arc<Subscriber>, ServiceState)>>,
    /// Whether a subscriber is being told.
    telling: AtomicBool,
}

impl Bfe {
    pub(crate) fn state(&self) -> ServiceState {
        *lock(&self.state)
    }

    pub(crate) fn subscriptions(&self) -> usize {
        lock(&self.subscribers).len()
    }

    fn key(&self) -> Key {
        Key::of(&self.notes)
    }

    fn set(&self, machine: &Machine, state: ServiceState) {
        *lock(&self.state) = state;
        let all: Vec<_> = lock(&self.subscribers).values().cloned().collect();
        lock(&self.notes).extend(all.into_iter().map(|subscriber| (subscriber, state)));
        machine.world().wake(self.key());
    }

    /// Tells subscribers until the machine is off.
    pub(crate) fn run(&self, machine: &Machine) {
        while !machine.is_off() && !machine.is_dead() {
            let next = || {
                if machine.is_off() {
                    return Some(None);
                }
                let note = lock(&self.notes).pop_front();
                note.inspect(|_| self.telling.store(true, Ordering::Release)).map(Some)
            };
            if let Ok(Some((subscriber, state))) = machine.wait(self.key(), None, "BFE state", next)
            {
                self.tell(machine, &subscriber, state);
                self.telling.store(false, Ordering::Release);
                machine.world().wake(Key::of(&self.telling));
            }
        }
    }

    fn tell(&self, machine: &Machine, subscriber: &Subscriber, state: ServiceState) {
        *lock(&subscriber.runs_on) = Some(std::thread::current().id());
        if !subscriber.cancelled.load(Ordering::SeqCst) {
            let call = Call::new(
                "FWPM_SERVICE_STATE_CHANGE_CALLBACK0",
                subscriber.callback,
                Level::Passive,
            );
            // A machine that died over it has its report.
            let _ = machine.call(call, &[subscriber.context, state as u64]);
        }
        *lock(&subscriber.runs_on) = None;
        machine.world().wake(subscriber.key());
    }

    fn all_told(&self) -> bool {
        lock(&self.notes).is_empty() && !self.telling.load(Ordering::Acquire)
    }
}

/// Stops the service: its sessions end, and every object is gone.
pub fn stop_bfe(machine: &Machine) {
    let fwp = fwp(machine);
    fwp.bfe.set(machine, ServiceState::StopPending);
    if machine.either(&super::STOPPING_BFE_WAITS_FOR_SUBSCRIBERS) {
        let told = || fwp.bfe.all_told().then_some(());
        let deadline = machine.world().now() + PATIENCE;
        let _ = machine.wait(Key::of(&fwp.bfe.telling), Some(deadline), "BFE's subscribers", told);
    }
    engine::abort_all(machine, &fwp);
    fwp.bfe.set(machine, ServiceState::Stopped);
}

/// Starts the service.
pub fn start_bfe(machine: &Machine) {
    let fwp = fwp(machine);
    fwp.bfe.set(machine, ServiceState::StartPending);
    fwp.bfe.set(machine, ServiceState::Running);
}

/// Stops the service after `delay` and starts it again after another.
pub fn restart_bfe_later(machine: &Machine, delay: Duration) {
    machine.background("BFE restart", move |machine| {
        machine.world().sleep(delay);
        if !machine.is_off() {
            stop_bfe(machine);
            machine.world().sleep(delay);
            start_bfe(machine);
        }
    });
}

impl Fwp {
    /// Whether the service takes calls.
    pub(crate) fn is_running(&self) -> bool {
        self.bfe.state() == ServiceState::Running
    }
}

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// The state of the base filtering engine.
    [max: DISPATCH, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmbfestateget0"]
    fn FwpmBfeStateGet0(thread) -> u32 {
        fwp(thread.machine()).bfe.state() as u32
    }

    /// Asks to be told when the state changes.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpmBfeStateSubscribeChanges0(thread, device: usize, callback: usize, context: u64, handle: usize) -> i32 {
        if device == 0 || callback == 0 {
            thread.stop(&rules::WFP_SUBSCRIPTION, "no device object, or no callback");
            return 0;
        }
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        let made = machine.allocate(16);
        let (cancelled, runs_on) = (AtomicBool::new(false), Mutex::new(None));
        let subscriber = Arc::new(Subscriber { callback, context, cancelled, runs_on });
        lock(&fwp.bfe.subscribers).insert(made, subscriber);
        if probe::write(handle, made).is_err() {
            return thread.bad_pointer("changeHandle", handle);
        }
        answer::SUCCESS
    }

    /// Ends that; waits for a running callback.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmbfestateunsubscribechanges0: a call from the callback may deadlock", point: true]
    fn FwpmBfeStateUnsubscribeChanges0(thread, handle: usize) -> i32 {
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        let Some(gone) = lock(&fwp.bfe.subscribers).remove(&handle) else {
            thread.stop(&rules::WFP_SUBSCRIPTION, format!("{handle:#x} is no subscription"));
            return 0;
        };
        gone.cancelled.store(true, Ordering::SeqCst);
        machine.release(handle);
        if lock(&gone.runs_on).is_some_and(|id| id == std::thread::current().id()) {
            thread.stop(&rules::DEADLOCK_BFE_SUBSCRIPTION, "called inside the callback it waits for");
            return 0;
        }
        let idle = || lock(&gone.runs_on).is_none().then_some(());
        let deadline = machine.world().now() + Duration::from_secs(20);
        if machine.wait(gone.key(), Some(deadline), "FwpmBfeStateUnsubscribeChanges0", idle).is_err() && !machine.is_dead() {
            thread.stop(&rules::DEADLOCK_BFE_SUBSCRIPTION, "the callback it waits for does not return");
        }
        answer::SUCCESS
    }
}
