//! The thread behind an execution context: it is the poll DPC as well as the worker thread.
//!
//! [`State`] says when each may run; one host thread plays both, pinned to the queue's CPU and at
//! `DISPATCH_LEVEL` in the driver while it is the DPC. That they never overlap is then by
//! construction, as NetAdapterCx has it by its lock.
//!
//! In fast mode a host's thread runs the DPCs that it asked for itself ([`with_dpcs`]), as a CPU does whose IRQL
//! falls below `DISPATCH_LEVEL`: no other thread is woken for them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use super::execution_context::{Phase, PollEnd, PollLoop, Round, Runner, State, Step, Wake};
use crate::nt::machine::{Level, Machine};
use crate::verifier::rules;
use crate::verifier::schedule::{JoinHandle, Key, lock};

type Task = Box<dyn FnOnce(&Machine) + Send>;

/// What a queue does when it is polled.
pub(crate) trait Poll: Send + Sync {
    /// One round; the number of packets moved. `level` is what the driver is to be called at.
    fn round(&self, machine: &Machine, level: Level) -> usize;
    /// Arms the notifications.
    fn arm(&self, machine: &Machine, level: Level);
    /// Disarms them.
    fn disarm(&self);
}

thread_local! {
    /// The contexts whose DPC this thread is going to run; `None` where it runs none.
    static ASKED_FOR: RefCell<Option<Vec<Arc<ExecutionContext>>>> = const { RefCell::new(None) };
}

/// Runs `body` in a thread of the host, and then, in the same thread, the poll DPCs that were asked for meanwhile. In fast
/// mode; otherwise just `body`.
pub(crate) fn with_dpcs<R>(machine: &Machine, body: impl FnOnce() -> R) -> R {
    let is_within = ASKED_FOR.with_borrow(Option::is_some);
    if is_within || machine.world().is_virtual() || machine.options().verified {
        return body();
    }
    ASKED_FOR.set(Some(Vec::new()));
    let _ended = Ended;
    let result = body();
    let next = || ASKED_FOR.with_borrow_mut(|asked| asked.as_mut().and_then(Vec::pop));
    while let Some(context) = next() {
        context.run_dpc(machine);
    }
    result
}

/// Ends what [`with_dpcs`] began, also if the machine's end unwinds it.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        ASKED_FOR.set(None);
    }
}

/// An execution context with its thread.
pub(crate) struct ExecutionContext {
    state: Mutex<State>,
    tasks: Mutex<VecDeque<Task>>,
    over: AtomicBool,
    by_hand: AtomicBool,
    dpc_rounds: u32,
    cpu: u32,
    /// What is polled, once that has begun.
    poll: OnceLock<Weak<dyn Poll>>,
}

impl ExecutionContext {
    /// Makes a sleeping context whose DPC runs on `cpu`.
    pub(crate) fn new(dpc_rounds: u32, cpu: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(true)),
            tasks: Mutex::default(),
            over: AtomicBool::new(false),
            by_hand: AtomicBool::new(false),
            dpc_rounds,
            cpu,
            poll: OnceLock::new(),
        })
    }

    /// Starts its thread, which polls `poll`.
    pub(crate) fn start(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        name: &str,
        poll: Arc<dyn Poll>,
    ) -> JoinHandle {
        // It is started once.
        let _ = self.poll.set(Arc::downgrade(&poll));
        let (context, inner) = (self.clone(), machine.clone());
        machine
            .world()
            .spawn(&format!("{} {name}", machine.name()), move || context.run(&inner, &*poll))
    }

    /// Ends its thread.
    pub(crate) fn end(&self, machine: &Machine) {
        self.over.store(true, Ordering::Release);
        machine.world().wake(Key::of(self));
    }

    /// There may be work to poll for. Callable at any IRQL.
    pub(crate) fn notify(self: &Arc<Self>, machine: &Machine) {
        let wake = lock(&self.state).notify();
        if wake == Wake::Dpc && !self.is_left_to_hand() && self.is_asked_for_here() {
            return;
        }
        self.carry_out(machine, wake);
    }

    /// Leaves the DPC to this thread, if it runs any.
    fn is_asked_for_here(self: &Arc<Self>) -> bool {
        ASKED_FOR
            .with_borrow_mut(|asked| asked.as_mut().map(|asked| asked.push(self.clone())).is_some())
    }

    /// Runs the DPC here, unless somebody has.
    fn run_dpc(&self, machine: &Machine) {
        if let Some(poll) = self.poll.get().and_then(Weak::upgrade) {
            machine.on_cpu(self.cpu, || self.serve(machine, &*poll, Runner::Dpc));
            // The thread goes on, as either: this one has its own work.
            let phase = lock(&self.state).phase();
            if matches!(phase, Phase::WaitingWorkerDpc | Phase::WaitingWorkerThread) {
                self.carry_out(machine, Wake::Thread);
            }
        }
    }

    /// Whether a poll should give way to a task.
    fn task_pending(&self) -> bool {
        lock(&self.state).task_pending()
    }

    /// Runs `task` in the worker thread and waits for it; `false` if the machine died first.
    pub(crate) fn run_task(
        &self,
        machine: &Machine,
        task: impl FnOnce(&Machine) + Send + 'static,
    ) -> bool {
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        lock(&self.tasks).push_back(Box::new(move |machine| {
            task(machine);
            finished.store(true, Ordering::Release);
            machine.world().wake(Key::of(&*finished));
        }));
        let wake = lock(&self.state).queue_task();
        self.carry_out(machine, wake);
        let waited = machine.wait(Key::of(&*done), None, "a task of an execution context", || {
            done.load(Ordering::Acquire).then_some(())
        });
        if waited.is_err() && !machine.is_dead() {
            machine.die(&rules::SIMULATOR, "a task of an execution context never ran");
        }
        waited.is_ok()
    }

    /// Leaves polling to whoever calls [`ExecutionContext::poll_here`]; tasks stay the thread's.
    pub(crate) fn set_by_hand(&self, machine: &Machine, by_hand: bool) {
        self.by_hand.store(by_hand, Ordering::Release);
        machine.world().wake(Key::of(self));
    }

    /// Polls in the calling thread, as long as there is work and no task.
    pub(crate) fn poll_here(&self, machine: &Machine, poll: &dyn Poll) {
        while !machine.is_dead() && !self.task_pending() {
            let phase = lock(&self.state).phase();
            match phase {
                Phase::WaitingWorkerDpc => {
                    machine.on_cpu(self.cpu, || self.serve(machine, poll, Runner::Dpc));
                }
                Phase::WaitingWorkerThread => self.serve(machine, poll, Runner::Thread),
                Phase::Stopped | Phase::Running => return,
            }
        }
    }

    /// Whether the thread has to leave a poll alone.
    fn is_left_to_hand(&self) -> bool {
        self.by_hand.load(Ordering::Acquire)
    }

    fn carry_out(&self, machine: &Machine, wake: Wake) {
        if wake != Wake::Nobody && (!self.is_left_to_hand() || self.task_pending()) {
            machine.world().wake(Key::of(self));
        }
    }

    fn run(&self, machine: &Arc<Machine>, poll: &dyn Poll) {
        loop {
            let runner = machine.wait(Key::of(self), None, "work for a packet queue", || {
                if self.over.load(Ordering::Acquire) {
                    return Some(None);
                }
                let state = lock(&self.state);
                if self.is_left_to_hand() && !state.task_pending() {
                    return None;
                }
                match state.phase() {
                    Phase::WaitingWorkerDpc => Some(Some(Runner::Dpc)),
                    Phase::WaitingWorkerThread => Some(Some(Runner::Thread)),
                    _ => None,
                }
            });
            match runner {
                Ok(Some(Runner::Dpc)) => {
                    machine.on_cpu(self.cpu, || self.serve(machine, poll, Runner::Dpc))
                }
                Ok(Some(Runner::Thread)) => self.serve(machine, poll, Runner::Thread),
                _ => return,
            }
        }
    }

    fn serve(&self, machine: &Machine, poll: &dyn Poll, runner: Runner) {
        let mut step = lock(&self.state).enter(runner);
        loop {
            step = match step {
                Step::Leave(_) => return,
                Step::RunTask => {
                    let task = lock(&self.tasks).pop_front();
                    if let Some(task) = task {
                        task(machine);
                    }
                    lock(&self.state).task_done()
                }
                Step::Poll => {
                    let end = self.poll(machine, poll, runner);
                    lock(&self.state).polled(end)
                }
            };
        }
    }

    fn poll(&self, machine: &Machine, poll: &dyn Poll, runner: Runner) -> PollEnd {
        let level = if runner == Runner::Dpc { Level::Dispatch } else { Level::Passive };
        let mut rounds = PollLoop::default();
        let mut done = 0;
        poll.disarm();
        loop {
            if machine.is_dead() {
                return PollEnd::NoMoreWork;
            }
            let work = poll.round(machine, level);
            done += 1;
            let out_of_budget = runner == Runner::Dpc && done >= self.dpc_rounds;
            match rounds.round(work, self.task_pending(), out_of_budget) {
                Round::Again => {}
                Round::Arm => poll.arm(machine, level),
                Round::Disarm => poll.disarm(),
                Round::End(end) => return end,
            }
        }
    }
}

/// How long a power transition may wait for the driver before Windows gives the machine up.
pub(crate) const POWER_WATCHDOG: Duration = Duration::from_secs(120);

/// Waits until `done`, and stops the machine if that takes longer than Windows allows a power
/// transition to take; `false` if the machine is dead.
pub(crate) fn wait_or_die(
    machine: &Machine,
    key: Key,
    what: &'static str,
    mut done: impl FnMut() -> bool,
) -> bool {
    let deadline = machine.world().now() + POWER_WATCHDOG;
    match machine.wait(key, Some(deadline), what, || done().then_some(())) {
        Ok(()) => true,
        Err(None) => false,
        Err(Some(_)) => {
            machine.die(&rules::DRIVER_POWER_STATE_FAILURE, format!("waited 120 s for {what}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;
    use crate::nt::machine::Options;
    use crate::verifier::schedule::{Mode, World};

    /// Notes who polls it and at which level; has one packet in each of the next `left` rounds.
    struct Notes {
        left: Mutex<usize>,
        polls: Mutex<Vec<(ThreadId, Level)>>,
    }

    impl Poll for Notes {
        fn round(&self, _: &Machine, level: Level) -> usize {
            lock(&self.polls).push((std::thread::current().id(), level));
            let mut left = lock(&self.left);
            let moved = usize::from(*left > 0);
            *left -= moved;
            moved
        }

        fn arm(&self, _: &Machine, _: Level) {}

        fn disarm(&self) {}
    }

    /// Asks for `packets` from a host's thread; who polled, of the host's thread, and at which level.
    fn polled(verified: bool, packets: usize, dpc_rounds: u32) -> Vec<(bool, Level)> {
        let world = World::new(Mode::Parallel);
        let _main = world.enter("main");
        let machine = Machine::boot(&world, Options { verified, ..Options::default() });
        let context = ExecutionContext::new(dpc_rounds, 0);
        let notes = Arc::new(Notes { left: Mutex::new(packets), polls: Mutex::default() });
        let thread = context.start(&machine, "queue", notes.clone());
        with_dpcs(&machine, || {
            with_dpcs(&machine, || context.notify(&machine));
            if !verified {
                assert!(lock(&notes.polls).is_empty(), "a DPC ran above the level it was asked at");
            }
        });
        let is_idle = || lock(&context.state).phase() == Phase::Stopped;
        while !is_idle() || *lock(&notes.left) != 0 {
            world.sleep(Duration::from_millis(1));
        }
        context.end(&machine);
        assert!(thread.join(None));
        assert!(ASKED_FOR.with_borrow(Option::is_none));
        let here = std::thread::current().id();
        let polls = lock(&notes.polls);
        polls.iter().map(|(thread, level)| (*thread == here, *level)).collect()
    }

    /// The CPU's own thread, which has just been started, may be quicker once: then it is tried again.
    fn here(packets: usize, dpc_rounds: u32) -> Vec<(bool, Level)> {
        let mut tries = (0..50).map(|_| polled(false, packets, dpc_rounds));
        let here = tries.find(|polls| polls.first() == Some(&(true, Level::Dispatch)));
        here.expect("the host's thread never runs what it asked for")
    }

    #[test]
    fn the_hosts_thread_runs_the_dpcs_that_it_asked_for_in_fast_mode_only() {
        let fast = here(5, u32::MAX);
        assert!(
            fast.len() > 5 && fast.iter().all(|poll| *poll == (true, Level::Dispatch)),
            "{fast:?}"
        );
        let verified = polled(true, 5, u32::MAX);
        assert!(verified.len() > 5, "{verified:?}");
        assert!(verified.iter().all(|poll| *poll == (false, Level::Dispatch)), "{verified:?}");
    }

    #[test]
    fn what_a_dpc_leaves_is_the_worker_threads() {
        let polls = here(9, 3);
        let (dpc, thread) = polls.split_at(3);
        assert!(dpc.iter().all(|poll| *poll == (true, Level::Dispatch)), "{polls:?}");
        assert!(thread.len() >= 6, "{polls:?}");
        assert!(thread.iter().all(|poll| *poll == (false, Level::Passive)), "{polls:?}");
    }
}
