//! Sessions with the base filtering engine, and transactions (`Fwpm*`).
//!
//! A session that begins a transaction is alone with the engine until it commits or aborts; others wait for it. Without one,
//! every call is a transaction of its own. What classifies packets is the state of the last commit ([`compile`]).
//!
//! When the service stops, the sessions are over: their handles answer with an error, and are still to be closed.
//!
//! Source: DDI fwpmk/nf-fwpmk-*; LEARN win32/fwp/transaction-management.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::layers::Guid;
use super::objects::{Filter, Owner, Refused, Seen, Store};
use super::{Fwp, answer, callouts, classify, fwp};
use crate::loader::probe;
use crate::nt::imports;
use crate::nt::machine::Machine;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// How long a call waits for another session's transaction if its session does not say.
const TXN_WAIT: Duration = Duration::from_secs(15);
/// `FWPM_SESSION_FLAG_DYNAMIC`.
const DYNAMIC: u32 = 1;
/// `FWPM_TXN_READ_ONLY`.
const READ_ONLY: u32 = 1;

/// Numbers of filters begin above this.
const FIRST_FILTER: u64 = 0x1_0000;

/// One open handle.
struct Session {
    dynamic: bool,
    wait: Duration,
    /// False once the service has stopped under it.
    alive: bool,
}

/// The engine's state.
#[derive(Default)]
pub(crate) struct Engine {
    store: Store,
    sessions: FxHashMap<usize, Session>,
    /// Who is in a transaction, and the state before it.
    writer: Option<(usize, Store)>,
    filters_made: u64,
    callout_ids: BTreeMap<Guid, u32>,
}

impl Engine {
    /// The number a callout has at run time: one per key, for good.
    pub(crate) fn callout_id(&mut self, key: &Guid) -> u32 {
        let next = 0x100 + self.callout_ids.len() as u32;
        *self.callout_ids.entry(*key).or_insert(next)
    }

    /// Open handles and objects, for reports.
    pub(crate) fn open_things(&self) -> (usize, usize) {
        (self.sessions.len(), self.store.len())
    }

    /// The state that packets are classified by.
    pub(crate) fn committed(&self) -> &Store {
        self.writer.as_ref().map_or(&self.store, |(_, before)| before)
    }
}

fn key(fwp: &Fwp) -> Key {
    Key::of(&fwp.engine)
}

/// Makes the state of the last commit the one that packets meet. Callouts are told of filters that are gone.
fn publish(machine: &Machine, fwp: &Fwp) {
    let changes = classify::compile(machine, fwp);
    for filter in changes.gone {
        callouts::notify(machine, fwp, &filter, callouts::DELETE_FILTER);
    }
    if changes.at_ale {
        fwp.flows.policy_changed();
    }
}

/// Ends every session and forgets every object: the service has stopped.
pub(crate) fn abort_all(machine: &Machine, fwp: &Fwp) {
    {
        let mut engine = lock(&fwp.engine);
        // What an open transaction did goes too.
        if let Some((_, before)) = engine.writer.take() {
            engine.store = before;
        }
        engine.store.service_stops();
        engine.sessions.values_mut().for_each(|session| session.alive = false);
    }
    machine.world().wake(key(fwp));
    publish(machine, fwp);
}

/// Changes the engine for somebody who is no driver here, beside whatever transaction is under way; `body` gets a number that
/// is no filter's.
pub(crate) fn intrude<T>(machine: &Machine, fwp: &Fwp, body: impl Fn(&mut Store, u64) -> T) -> T {
    let done = {
        let mut engine = lock(&fwp.engine);
        engine.filters_made += 1;
        let id = FIRST_FILTER + engine.filters_made;
        if let Some((_, before)) = &mut engine.writer {
            body(before, id);
        }
        body(&mut engine.store, id)
    };
    publish(machine, fwp);
    done
}

/// What a call on a handle that the service has left behind answers.
fn dead(machine: &Machine) -> i32 {
    if machine.either(&super::ORPHANED_SESSION_IS_ABORTED) {
        answer::SESSION_ABORTED
    } else {
        answer::RPC_SERVER_UNAVAILABLE
    }
}

/// Waits until `handle` may change the engine, and looks at its session.
fn enter(thread: &Thread, fwp: &Fwp, handle: usize, function: &str) -> Result<Owner, i32> {
    let machine = thread.machine();
    let wait = match lock(&fwp.engine).sessions.get(&handle) {
        Some(session) if !session.alive => return Err(dead(machine)),
        Some(session) => session.wait,
        None => {
            thread.stop(
                &rules::WFP_ENGINE_HANDLE,
                format!("{function}: {handle:#x} is no engine handle"),
            );
            return Err(answer::INVALID_HANDLE);
        }
    };
    let free = || {
        let engine = lock(&fwp.engine);
        let mine = engine.writer.as_ref().is_none_or(|(writer, _)| *writer == handle);
        mine.then(|| {
            engine
                .sessions
                .get(&handle)
                .filter(|session| session.alive)
                .map(|session| session.dynamic)
        })
    };
    let deadline = machine.world().now() + wait;
    match machine.wait(key(fwp), Some(deadline), "another session's transaction", free) {
        Ok(Some(dynamic)) => Ok(dynamic.then_some(handle)),
        Ok(None) => Err(dead(machine)),
        Err(_) => Err(answer::TIMEOUT),
    }
}

/// Changes the engine for a session: in its transaction, or in one of its own.
fn change<T>(
    thread: &Thread,
    (handle, function): (usize, &str),
    body: impl FnOnce(&mut Engine, Owner) -> Result<T, Refused>,
) -> Result<T, i32> {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    let owner = enter(thread, &fwp, handle, function)?;
    let (done, alone) = {
        let mut engine = lock(&fwp.engine);
        (body(&mut engine, owner), engine.writer.is_none())
    };
    match done {
        Ok(done) => {
            if alone {
                publish(machine, &fwp);
            }
            Ok(done)
        }
        Err(Refused::Status(status)) => Err(status),
        Err(Refused::Fault(at)) => {
            Err(thread.bad_pointer("the object, or something it points to,", at))
        }
    }
}

fn status(done: Result<(), i32>) -> i32 {
    done.err().unwrap_or(answer::SUCCESS)
}

/// Ends a transaction.
fn end(thread: &Thread, handle: usize, function: &str, keep: bool) -> i32 {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    if let Err(status) = enter(thread, &fwp, handle, function) {
        return status;
    }
    let added = {
        let mut engine = lock(&fwp.engine);
        let Some((_, before)) = engine.writer.take() else { return answer::NO_TXN_IN_PROGRESS };
        let undone = if keep { Store::default() } else { std::mem::take(&mut engine.store) };
        if !keep {
            engine.store = before.clone();
        }
        undone
            .filters
            .into_values()
            .filter(|filter| !before.filters.contains_key(&filter.id))
            .collect::<Vec<_>>()
    };
    machine.world().wake(key(&fwp));
    for filter in added {
        callouts::notify(machine, &fwp, &filter, callouts::DELETE_FILTER);
    }
    if keep {
        publish(machine, &fwp);
    }
    answer::SUCCESS
}

/// Reads the filter, tells its callout, and adds it.
fn add_filter(thread: &Thread, handle: usize, at: usize) -> Result<u64, i32> {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    let filter = change(thread, (handle, "FwpmFilterAdd0"), |engine, owner| {
        engine.filters_made += 1;
        let id = FIRST_FILTER + engine.filters_made;
        let mut filter = engine.store.read_filter(at, id, owner)?;
        let callout =
            if filter.callout == [0; 16] { 0 } else { engine.callout_id(&filter.callout) };
        filter.seen = Seen::new(&filter, engine.store.weight_of(&filter.sublayer), callout).into();
        Ok(filter)
    })?;
    if !callouts::notify(machine, &fwp, &filter, callouts::ADD_FILTER) {
        return Err(answer::CALLOUT_NOTIFICATION_FAILED);
    }
    change(thread, (handle, "FwpmFilterAdd0"), |engine, _| {
        let id = filter.id;
        engine.store.filters.insert(id, filter);
        Ok(id)
    })
}

fn delete_filter(engine: &mut Engine, owner: Owner, id: u64) -> Result<(), Refused> {
    let Some(filter): Option<&Filter> = engine.store.filters.get(&id) else {
        return Err(Refused::Status(answer::FILTER_NOT_FOUND));
    };
    if filter.owner.is_some() && filter.owner != owner {
        return Err(Refused::Status(answer::WRONG_SESSION));
    }
    engine.store.filters.remove(&id);
    Ok(())
}

/// Type of [`Fwp`]'s field.
pub(crate) type Shared = Mutex<Engine>;

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// Opens a session with the engine.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmengineopen0", fail: answer::INSUFFICIENT_RESOURCES, point: true]
    fn FwpmEngineOpen0(thread, server: usize, authentication: u32, identity: usize, session: usize, handle: usize) -> i32 {
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        if server != 0 || identity != 0 {
            return answer::INVALID_PARAMETER;
        }
        if !fwp.is_running() {
            return answer::RPC_SERVER_UNAVAILABLE;
        }
        let asked = if session == 0 { Ok((0, 0)) } else {
            probe::read::<u32>(session + 32).and_then(|flags| Ok((flags, probe::read::<u32>(session + 36)?)))
        };
        let Ok((flags, wait)) = asked else { return thread.bad_pointer("session", session) };
        let wait = if wait == 0 { TXN_WAIT } else { Duration::from_millis(wait.into()) };
        let made = machine.allocate(16);
        lock(&fwp.engine).sessions.insert(made, Session { dynamic: flags & DYNAMIC != 0, wait, alive: true });
        if probe::write(handle, made).is_err() {
            return thread.bad_pointer("engineHandle", handle);
        }
        answer::SUCCESS
    }

    /// Closes a session; a transaction is aborted, and what is dynamic is deleted.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmengineclose0", point: true]
    fn FwpmEngineClose0(thread, handle: usize) -> i32 {
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        if lock(&fwp.engine).writer.as_ref().is_some_and(|(writer, _)| *writer == handle) {
            end(thread, handle, "FwpmEngineClose0", false);
        }
        let gone = lock(&fwp.engine).sessions.remove(&handle);
        let Some(gone) = gone else {
            thread.stop(&rules::WFP_ENGINE_HANDLE, format!("FwpmEngineClose0: {handle:#x} is no engine handle"));
            return 0;
        };
        machine.release(handle);
        if gone.dynamic && lock(&fwp.engine).store.forget(handle) {
            publish(machine, &fwp);
        }
        answer::SUCCESS
    }

    /// Begins a transaction.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmtransactionbegin0", fail: answer::TIMEOUT, point: true]
    fn FwpmTransactionBegin0(thread, handle: usize, flags: u32) -> i32 {
        if flags & !READ_ONLY != 0 {
            return answer::INVALID_FLAGS;
        }
        let fwp = fwp(thread.machine());
        if let Err(status) = enter(thread, &fwp, handle, "FwpmTransactionBegin0") {
            return status;
        }
        let mut engine = lock(&fwp.engine);
        if engine.writer.is_some() {
            return answer::TXN_IN_PROGRESS;
        }
        engine.writer = Some((handle, engine.store.clone()));
        answer::SUCCESS
    }

    /// Makes what the transaction did hold.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmtransactioncommit0", fail: answer::INSUFFICIENT_RESOURCES, point: true]
    fn FwpmTransactionCommit0(thread, handle: usize) -> i32 {
        end(thread, handle, "FwpmTransactionCommit0", true)
    }

    /// Undoes what the transaction did.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmtransactionabort0", point: true]
    fn FwpmTransactionAbort0(thread, handle: usize) -> i32 {
        end(thread, handle, "FwpmTransactionAbort0", false)
    }

    /// Adds a provider.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmprovideradd0", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpmProviderAdd0(thread, handle: usize, provider: usize, security: usize) -> i32 {
        status(change(thread, (handle, "FwpmProviderAdd0"), |engine, owner| engine.store.add_provider(provider, owner)))
    }

    /// Adds a sublayer.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmsublayeradd0", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpmSubLayerAdd0(thread, handle: usize, sublayer: usize, security: usize) -> i32 {
        status(change(thread, (handle, "FwpmSubLayerAdd0"), |engine, owner| engine.store.add_sublayer(sublayer, owner)))
    }

    /// Adds a callout; its number is that of the registration with the same key.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmcalloutadd0", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpmCalloutAdd0(thread, handle: usize, callout: usize, security: usize, id: usize) -> i32 {
        let added = change(thread, (handle, "FwpmCalloutAdd0"), |engine, owner| {
            let key = engine.store.add_callout(callout, owner)?;
            Ok(engine.callout_id(&key))
        });
        match added {
            Ok(number) if id != 0 && probe::write(id, number).is_err() => thread.bad_pointer("id", id),
            other => status(other.map(|_| ())),
        }
    }

    /// Adds a filter; its callout is told, and may refuse it.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmfilteradd0", fail: answer::INSUFFICIENT_RESOURCES, point: true]
    fn FwpmFilterAdd0(thread, handle: usize, filter: usize, security: usize, id: usize) -> i32 {
        match add_filter(thread, handle, filter) {
            Ok(number) if id != 0 && probe::write(id, number).is_err() => thread.bad_pointer("id", id),
            other => status(other.map(|_| ())),
        }
    }

    /// Deletes a filter.
    [max: PASSIVE, mark: Documented, source: "DDI fwpmk/nf-fwpmk-fwpmfilterdeletebyid0", fail: answer::INSUFFICIENT_RESOURCES, point: true]
    fn FwpmFilterDeleteById0(thread, handle: usize, id: u64) -> i32 {
        status(change(thread, (handle, "FwpmFilterDeleteById0"), |engine, owner| delete_filter(engine, owner, id)))
    }
}
