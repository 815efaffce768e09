//! One simulated CPU: who runs on it at `DISPATCH_LEVEL`, and the DPCs that wait for it.
//!
//! `owner` is the dispatch baton: a thread that raises takes it, so at most one thread of a CPU is at `DISPATCH_LEVEL`. DPCs
//! run in whoever lowers the CPU below that level, or in the CPU's idle thread, always on the CPU's own DPC stack.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::nt::level::{DISPATCH, PASSIVE};
use crate::nt::machine::Machine;
use crate::nt::stack::Stack;
use crate::nt::thread::{Call, Dead, Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// A DPC in a queue: what the callback gets, and when it may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) dpc: usize,
    pub(crate) routine: usize,
    pub(crate) context: u64,
    pub(crate) arguments: [u64; 2],
    /// Zero, or the time before which only the tick would have found it.
    pub(crate) not_before: Duration,
}

/// See the module.
pub(crate) struct Processor {
    number: u32,
    owner: AtomicU64,
    queue: Mutex<VecDeque<Queued>>,
    waiting: AtomicU64,
    inserted: AtomicU64,
    retired: AtomicU64,
    draining: AtomicU64,
    stack: Stack,
}

/// Attempts to take a busy CPU before the thread is parked (Parallel mode).
const SPINS: u32 = 200;

/// How long a CPU may be kept at `DISPATCH_LEVEL`. Windows allows 20 s for a DPC and 120 s in all; whatever takes 1 s is wrong.
const AT_DISPATCH: Duration = Duration::from_secs(1);

/// Judges how long a CPU was kept at `DISPATCH_LEVEL`, by the clock of Virtual mode.
pub(crate) fn watch(thread: &Thread, what: &str, began: Duration) {
    let world = thread.machine().world();
    let time = world.now().saturating_sub(began);
    if world.is_virtual() && time > AT_DISPATCH && !thread.machine().is_dead() {
        let detail = format!("{what} kept CPU {} for {time:?}", thread.cpu());
        let (rule, milliseconds) = (&rules::DPC_WATCHDOG_VIOLATION, time.as_millis() as u64);
        thread.bugcheck(rule, [0, milliseconds, AT_DISPATCH.as_millis() as u64, 0], detail);
    }
}

impl Processor {
    pub(crate) fn new(number: u32) -> Self {
        let stack = match Stack::new() {
            Ok(stack) => stack,
            Err(error) => panic!("no memory for a DPC stack: {error}"),
        };
        Self {
            number,
            owner: AtomicU64::new(0),
            queue: Mutex::default(),
            waiting: AtomicU64::new(0),
            inserted: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            draining: AtomicU64::new(0),
            stack,
        }
    }

    /// Where the stack for its DPCs is.
    pub(crate) fn stack_bounds(&self) -> (usize, usize) {
        self.stack.bounds()
    }

    pub(crate) fn dpc_stack(&self) -> (usize, usize) {
        self.stack.bounds()
    }

    pub(crate) fn try_take(&self, thread: &Thread) -> bool {
        self.owner.compare_exchange(0, thread.id(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the CPU, waiting for whoever has it.
    pub(crate) fn take(&self, thread: &Thread) -> Result<(), Dead> {
        let machine = thread.machine();
        let spins = if machine.world().is_virtual() { 1 } else { SPINS };
        for _ in 0..spins {
            if self.try_take(thread) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let taken = machine.world().wait(Key::of(&self.owner), None, "its CPU", || {
            if machine.is_dead() {
                return Some(Err(Dead));
            }
            self.try_take(thread).then_some(Ok(()))
        });
        taken.unwrap_or(Err(Dead))
    }

    pub(crate) fn release(&self, thread: &Thread) {
        // Only the owner gives it back; after a stop the CPU may already be somebody else's.
        let mine =
            self.owner.compare_exchange(thread.id(), 0, Ordering::Release, Ordering::Relaxed);
        if mine.is_ok() {
            thread.machine().world().wake(Key::of(&self.owner));
        }
    }

    /// Whether nobody else keeps it at `DISPATCH_LEVEL`.
    pub(crate) fn is_free_for(&self, thread: &Thread) -> bool {
        let owner = self.owner.load(Ordering::Acquire);
        owner == 0 || owner == thread.id()
    }

    /// Who waits for it waits on this.
    pub(crate) fn key(&self) -> Key {
        Key::of(&self.owner)
    }

    /// Puts a DPC into the queue, in front for importance High.
    pub(crate) fn insert(&self, machine: &Machine, queued: Queued, in_front: bool) {
        let delayed = queued.not_before > Duration::ZERO;
        {
            let mut queue = lock(&self.queue);
            if in_front {
                queue.push_front(queued);
            } else {
                queue.push_back(queued);
            }
            self.waiting.fetch_add(1, Ordering::Release);
            self.inserted.fetch_add(1, Ordering::Release);
        }
        // Whoever has the CPU runs it before letting go; in Virtual mode the idle thread is told all the same.
        let mine = || Thread::current().is_some_and(|thread| self.is_of(thread));
        if delayed || machine.world().is_virtual() || !mine() {
            machine.world().wake(Key::of(&self.queue));
        }
    }

    /// Whether `thread` has the CPU.
    fn is_of(&self, thread: &Thread) -> bool {
        self.owner.load(Ordering::Relaxed) == thread.id()
    }

    /// Takes a DPC out again; false if it was not there.
    pub(crate) fn remove(&self, dpc: usize) -> bool {
        let mut queue = lock(&self.queue);
        let Some(at) = queue.iter().position(|queued| queued.dpc == dpc) else { return false };
        queue.remove(at);
        self.waiting.fetch_sub(1, Ordering::Release);
        self.retired.fetch_add(1, Ordering::Release);
        true
    }

    /// Addresses of the DPCs that are queued.
    pub(crate) fn queued(&self) -> Vec<usize> {
        lock(&self.queue).iter().map(|queued| queued.dpc).collect()
    }

    /// The next DPC whose time has come; with `all`, also one that would still wait for the tick.
    fn pop(&self, machine: &Machine, all: bool) -> Option<Queued> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        let delayed = |queued: &Queued| !all && queued.not_before > Duration::ZERO;
        let at = match queue.iter().position(|queued| !delayed(queued)) {
            Some(at) => at,
            None => {
                let now = machine.world().now();
                queue.iter().position(|queued| queued.not_before <= now)?
            }
        };
        self.waiting.fetch_sub(1, Ordering::Release);
        queue.remove(at)
    }

    /// Runs this CPU's DPCs in `thread`, which has it at `DISPATCH_LEVEL`.
    pub(crate) fn drain(&self, thread: &Thread) {
        if self.waiting.load(Ordering::Acquire) == 0
            || self.draining.swap(1, Ordering::Acquire) != 0
        {
            return;
        }
        let machine = thread.machine();
        let began = machine.world().now();
        while let Some(queued) = self.pop(machine, false) {
            self.run(thread, queued);
        }
        if machine.options().verified {
            watch(thread, "DPCs, one after the other,", began);
        }
        self.draining.store(0, Ordering::Release);
    }

    fn run(&self, thread: &Thread, queued: Queued) {
        let machine = thread.machine();
        // The object is the driver's again before its routine runs: the routine may queue or free it.
        crate::nt::dpc::mark_idle(queued.dpc);
        let arguments =
            [queued.dpc as u64, queued.context, queued.arguments[0], queued.arguments[1]];
        let call = Call::new("DPC", queued.routine, Level::Current);
        // A stop is recorded in the machine; the queue is then emptied without running anything.
        let _ = thread.on_stack(&self.stack, || thread.call(call, &arguments));
        self.retired.fetch_add(1, Ordering::Release);
        machine.world().wake(Key::of(&self.retired));
    }

    /// Waits until every DPC that is queued now has run. At `PASSIVE_LEVEL`.
    pub(crate) fn flush(&self, machine: &Machine) -> Result<(), Dead> {
        let goal = self.inserted.load(Ordering::Acquire);
        // What waits for the tick is found now; a CPU that has no time is waited for.
        let withheld = crate::nt::dpc::withheld_until(machine);
        lock(&self.queue).iter_mut().for_each(|queued| {
            queued.not_before = queued.not_before.min(withheld);
        });
        machine.world().wake(Key::of(&self.queue));
        let flushed = machine.world().wait(Key::of(&self.retired), None, "queued DPCs", || {
            if machine.is_dead() {
                return Some(Err(Dead));
            }
            (self.retired.load(Ordering::Acquire) >= goal).then_some(Ok(()))
        });
        flushed.unwrap_or(Err(Dead))
    }

    /// The CPU's idle thread: runs DPCs that nobody else does, until the machine is switched off.
    pub(crate) fn idle(&self, machine: &Machine) {
        loop {
            let next = || lock(&self.queue).iter().map(|queued| queued.not_before).min();
            let deadline = next();
            // The end of this wait does not matter: a deadline means a delayed DPC, and being woken is checked below.
            let _ = machine.world().wait(Key::of(&self.queue), deadline, "DPCs", || {
                if machine.is_off() || machine.is_dead() {
                    return Some(());
                }
                // A DPC that came meanwhile may be due before, or the first to have a time at all.
                let next = next();
                (next != deadline || next.is_some_and(|next| next <= machine.world().now()))
                    .then_some(())
            });
            if machine.is_off() || machine.is_dead() {
                return;
            }
            Thread::with(machine, |thread| {
                thread.set_affinity(1 << self.number);
                debug_assert_eq!(thread.irql(), PASSIVE);
                if thread.raise(DISPATCH).is_ok() {
                    thread.lower(PASSIVE);
                }
            });
        }
    }
}
