//! What stands in the filter engine: kept as it should be, whenever the engine runs.
//!
//! Wanted are filters for a few ports. Everything is added in one transaction when the engine runs,
//! and again after it was stopped and started; a port's filters are added before those they replace
//! are deleted, in one transaction, so that no packet finds neither. While the engine does not run
//! the packets go to the sockets, as they do without us. One thread does what the engine's state
//! asks for; a change that is wanted is made by whoever wants it.
//!
//! Everything at `PASSIVE_LEVEL`.

use alloc::vec::Vec;
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nt::{
    event::{Event, Kind},
    fwp::{EngineEvents, EngineStates, Session, Transaction, is_running},
    irql::Passive,
    mutex::Mutex,
    pool::push_within,
    shared::Shared,
    status::NtError,
    thread::Thread,
    wdf::ControlDevice,
};

use crate::layers::{PROVIDER, SUBLAYER, WEIGHT, callouts, filters, name};

/// How many filters a port has: one at each layer.
const LAYERS: usize = 4;
/// When what failed is tried again, while the engine runs.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the engine as wanted; everything is removed on drop.
pub(crate) struct Engine {
    keeper: Shared<Keeper>,
    /// Ended before the thread, which it would wake.
    states: Option<EngineStates<Told>>,
    thread: Option<Thread>,
}

/// What the thread and the callers share.
struct Keeper {
    state: Mutex<State>,
    work: Event,
    /// The engine was seen not running: what was added is gone.
    is_stale: AtomicBool,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    wanted: Vec<Wanted>,
    /// Filters that nobody wants any more.
    unwanted: Vec<[u64; LAYERS]>,
    /// Why the engine is not as wanted, and is tried again.
    trouble: Option<NtError>,
}

/// One port whose packets are to be shown.
struct Wanted {
    context: u64,
    port: u16,
    /// The numbers of its filters in the present session.
    filters: Option<[u64; LAYERS]>,
}

/// Who is told of the engine's state.
struct Told(Shared<Keeper>);

impl EngineEvents for Told {
    fn changed(&self, runs: bool) {
        if !runs {
            self.0.is_stale.store(true, Ordering::Release);
        }
        self.0.work.set();
    }
}

impl Engine {
    /// Begins to watch the engine; nothing is wanted yet.
    ///
    /// # Errors
    ///
    /// What NT answers; nothing is left behind.
    pub(crate) fn start(passive: &Passive, device: &ControlDevice) -> Result<Self, NtError> {
        let keeper = Shared::try_new(Keeper {
            state: Mutex::try_new(State::default())?,
            work: Event::try_new(Kind::Synchronization)?,
            is_stale: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })?;
        let mut engine = Self { keeper: keeper.clone(), states: None, thread: None };
        let its_keeper = keeper.clone();
        engine.thread = Some(Thread::spawn(passive, move |passive| keep(&its_keeper, &passive))?);
        engine.states = Some(EngineStates::subscribe(passive, device, Told(keeper))?);
        Ok(engine)
    }

    /// Has the packets of `port` shown with `context`, and those with `instead_of` no longer.
    ///
    /// Whether the filters are there is another matter: they will be when the engine runs.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; nothing has changed.
    pub(crate) fn want(
        &self,
        passive: &Passive,
        port: u16,
        context: u64,
        instead_of: Option<u64>,
    ) -> Result<(), NtError> {
        let mut state = self.keeper.state.lock(passive);
        state.wanted.try_reserve(1).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        state.unwanted.try_reserve(1).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        state.wanted.push(Wanted { context, port, filters: None });
        state.drop_wanted(instead_of);
        self.keeper.settle(&mut state, passive);
        Ok(())
    }

    /// Why the filters are not there although the engine runs; it is tried again.
    pub(crate) fn trouble(&self, passive: &Passive) -> Option<NtError> {
        self.keeper.state.lock(passive).trouble
    }

    /// Has packets no longer shown with `context`.
    pub(crate) fn unwant(&self, passive: &Passive, context: u64) {
        let mut state = self.keeper.state.lock(passive);
        // Room was made by `want`, for one more than there are contexts.
        state.drop_wanted(Some(context));
        self.keeper.settle(&mut state, passive);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.states = None;
        self.keeper.stop.store(true, Ordering::Release);
        self.keeper.work.set();
        // Waits for it, and it closes the session at its end.
        self.thread = None;
    }
}

/// The thread.
fn keep(keeper: &Keeper, passive: &Passive) {
    let mut again = false;
    loop {
        if again {
            let _ = keeper.work.wait_for(passive, AGAIN);
        } else {
            keeper.work.wait(passive);
        }
        let mut state = keeper.state.lock(passive);
        if keeper.stop.load(Ordering::Acquire) {
            state.session = None;
            return;
        }
        again = state.settle(keeper.is_stale.swap(false, Ordering::AcqRel), passive).is_err();
    }
}

impl Keeper {
    /// Makes the engine as wanted, or has the thread try again.
    fn settle(&self, state: &mut State, passive: &Passive) {
        if state.settle(self.is_stale.swap(false, Ordering::AcqRel), passive).is_err() {
            self.work.set();
        }
    }
}

impl State {
    /// Takes a context off what is wanted; its filters are to be deleted.
    fn drop_wanted(&mut self, context: Option<u64>) {
        let Some(at) = self.wanted.iter().position(|wanted| Some(wanted.context) == context) else {
            return;
        };
        if let Some(filters) = self.wanted.swap_remove(at).filters {
            // There is room: `want` made it.
            let _ = push_within(&mut self.unwanted, filters);
        }
    }

    /// Makes the engine as wanted; that it does not run is no error.
    fn settle(&mut self, is_stale: bool, passive: &Passive) -> Result<(), NtError> {
        let settled = self.try_settle(is_stale, passive);
        self.trouble = settled.err();
        settled
    }

    fn try_settle(&mut self, is_stale: bool, passive: &Passive) -> Result<(), NtError> {
        if is_stale || !is_running() {
            self.forget();
        }
        if !is_running() {
            return Ok(());
        }
        if self.session.is_some() && self.change(passive).is_err() {
            // Perhaps of an engine that was stopped and started unnoticed: from the beginning.
            self.forget();
        }
        if self.session.is_none() {
            self.begin(passive).inspect_err(|_| self.forget())?;
        }
        Ok(())
    }

    /// Closes the session, with which everything goes that was added in it.
    fn forget(&mut self) {
        self.session = None;
        self.unwanted.clear();
        self.wanted.iter_mut().for_each(|wanted| wanted.filters = None);
    }

    /// Opens a session and adds everything.
    fn begin(&mut self, passive: &Passive) -> Result<(), NtError> {
        let session = self.session.insert(Session::open(passive, name())?);
        let mut transaction = session.begin(passive)?;
        transaction.add_provider(PROVIDER, name())?;
        transaction.add_sublayer(SUBLAYER, PROVIDER, name(), WEIGHT)?;
        for (layer, key) in callouts() {
            transaction.add_callout(key, PROVIDER, layer, name())?;
        }
        for wanted in &mut self.wanted {
            wanted.filters = Some(add(&mut transaction, wanted)?);
        }
        transaction.commit()
    }

    /// Adds what is missing, then deletes what is not wanted, all at once.
    fn change(&mut self, passive: &Passive) -> Result<(), NtError> {
        let missing = self.wanted.iter().any(|wanted| wanted.filters.is_none());
        let Some(session) = self.session.as_mut().filter(|_| missing || !self.unwanted.is_empty())
        else {
            return Ok(());
        };
        let mut transaction = session.begin(passive)?;
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.filters.is_none()) {
            wanted.filters = Some(add(&mut transaction, wanted)?);
        }
        for number in self.unwanted.iter().flatten() {
            transaction.delete_filter(*number)?;
        }
        transaction.commit()?;
        self.unwanted.clear();
        Ok(())
    }
}

/// Adds a port's filters; returns their numbers.
fn add(transaction: &mut Transaction<'_>, wanted: &Wanted) -> Result<[u64; LAYERS], NtError> {
    let mut numbers = [0; LAYERS];
    for (number, filter) in numbers.iter_mut().zip(filters(wanted.port, wanted.context)) {
        *number = transaction.add_filter(&filter)?;
    }
    Ok(numbers)
}
