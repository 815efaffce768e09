//! A simulated thread: a host thread inside one machine, with a driver stack, an IRQL and a CPU.
//!
//! IRQL is kept per thread, and raising to `DISPATCH_LEVEL` takes the thread's CPU for itself (`processor.rs`): so two threads
//! of one CPU exclude each other there, as in NT, while host threads of different CPUs really run side by side.
//!
//! Host threads get one on their first call into a machine and keep it; a thread may belong to several machines, and GS is
//! switched to the one being called. Calls nest: an import may call the driver back.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::loader::gate::{
    self, Gate, HAS_AVX, ImportFrame, MAX_ARGUMENTS, VERIFY_XSTATE, XsaveArea,
};
use crate::loader::trap::{self, Trap};
pub(crate) use crate::nt::call::Outcome;
pub use crate::nt::call::{Call, Dead, Level};
use crate::nt::level::{DISPATCH, HIGH, PASSIVE};
use crate::nt::lock_order::Held;
use crate::nt::machine::Machine;
use crate::nt::memory::Memory;
use crate::nt::processor;
use crate::nt::ps::Process;
use crate::nt::stack::{self, STACK_FILL, Stack};
use crate::nt::xstate;
use crate::verifier::explore::{Place, Preemption};
use crate::verifier::rules;

mod preemption;
mod stopping;

/// The block of a simulated thread. See the module.
#[repr(C)]
pub struct Thread {
    pub(crate) gate: Gate,
    machine: *const Machine,
    alive: Weak<Machine>,
    /// Never 0; what spin locks and processors name as their owner.
    id: u64,
    name: String,
    irql: Cell<u8>,
    processor: Cell<u32>,
    affinity: Cell<u64>,
    process: RefCell<Arc<Process>>,
    object: Cell<usize>,
    stack: Stack,
    bounds: Cell<(usize, usize)>,
    locks: RefCell<Vec<Held>>,
    pub(crate) saves: RefCell<Vec<xstate::Save>>,
    pub(crate) trap: Cell<Option<Trap>>,
    ended: Cell<bool>,
    depth: Cell<u32>,
    /// Whether it is in a callback at a bugcheck, which runs in a machine that has stopped.
    speaks_last: Cell<bool>,
    /// Whether the callback's upper vector registers hold what another left there, and no more the canaries.
    poisoned: Cell<bool>,
    /// A preemption that comes in so many instructions.
    pub(crate) steps: Cell<Option<(Preemption, u32)>>,
}

thread_local! {
    static CURRENT: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
    static ATTACHED: RefCell<Vec<Box<Thread>>> = const { RefCell::new(Vec::new()) };
}

impl Thread {
    /// Makes a thread of `machine` for a host thread.
    fn new(machine: &Machine, name: &str, process: Arc<Process>) -> Box<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let stack = match Stack::new() {
            Ok(stack) => stack,
            Err(error) => panic!("no memory for a driver stack: {error}"),
        };
        let processor = machine.next_processor();
        let flags = if machine.options().verified { VERIFY_XSTATE } else { 0 };
        let thread = Box::new(Self {
            gate: Gate {
                kpcr: [const { Cell::new(0) }; 0x1E0],
                own: Cell::new(std::ptr::null()),
                host_sp: Cell::new(0),
                call_frame: Cell::new(0),
                import: Cell::new(std::ptr::null()),
                driver_sp: Cell::new(stack.top()),
                flags: Cell::new(
                    xstate::gate_flags(flags) | if xstate::has_avx() { HAS_AVX } else { 0 },
                ),
                abandon: Cell::new(0),
                functions: Cell::new(crate::nt::gate_table()),
                canary: Cell::new(xstate::canary()),
                xmask: Cell::new(xstate::mask()),
                result: Cell::new(0),
                status: Cell::new(0),
            },
            machine,
            alive: machine.weak(),
            id,
            name: name.to_owned(),
            irql: Cell::new(PASSIVE),
            processor: Cell::new(processor),
            affinity: Cell::new(u64::MAX),
            process: RefCell::new(process),
            object: Cell::new(0),
            bounds: Cell::new(stack.bounds()),
            stack,
            locks: RefCell::default(),
            saves: RefCell::default(),
            trap: Cell::new(None),
            ended: Cell::new(false),
            depth: Cell::new(0),
            speaks_last: Cell::new(false),
            poisoned: Cell::new(false),
            steps: Cell::new(None),
        });
        thread.gate.own.set(&thread.gate);
        thread.gate.kpcr[0x18 / 8].set(std::ptr::from_ref(&thread.gate).expose_provenance() as u64);
        thread.set_object(machine.objects().create_thread());
        machine.objects().begin_thread(thread.object());
        thread.set_processor(processor);
        if machine.options().remembers {
            let import = thread.gate.import.as_ptr().expose_provenance();
            machine.extension::<Memory>().begin(id, name, thread.stack.bounds(), import);
        }
        thread
    }

    /// The thread whose driver code called the import that runs now.
    pub(crate) fn at_import() -> &'static Self {
        let current = CURRENT.get();
        assert!(!current.is_null(), "an import ran outside a simulated thread");
        // SAFETY: set while the block is alive, cleared before it goes; the block belongs to this host thread, and an import
        // runs inside a call that keeps it. The reference is used only inside the import.
        unsafe { &*current }
    }

    /// The simulated thread that this host thread is being at the moment, if it is inside a call.
    pub fn current() -> Option<&'static Self> {
        let current = CURRENT.get();
        // SAFETY: as in `at_import`.
        let thread = unsafe { current.as_ref() }?;
        (thread.depth.get() > 0).then_some(thread)
    }

    /// Runs `body` as the calling host thread's thread in `machine`.
    pub(crate) fn with<R>(machine: &Machine, body: impl FnOnce(&Self) -> R) -> R {
        let known = ATTACHED.with_borrow(|all| {
            all.iter()
                .find(|thread| std::ptr::eq(thread.alive.as_ptr(), machine))
                .map(|thread| std::ptr::from_ref(&**thread))
        });
        let thread = known.unwrap_or_else(|| {
            let host = std::thread::current();
            let thread =
                Self::new(machine, host.name().unwrap_or("host"), machine.system_process());
            let block = std::ptr::from_ref(&*thread);
            ATTACHED.with_borrow_mut(|all| {
                all.retain(|other| other.depth.get() > 0 || other.alive.strong_count() > 0);
                all.push(thread);
            });
            block
        });
        // SAFETY: the box is in this thread's list, from where it is taken only when no call is inside it (`depth`).
        let thread = unsafe { &*thread };
        let outer = CURRENT.get();
        if !std::ptr::eq(outer, thread) {
            CURRENT.set(thread);
            trap::set_gs(&thread.gate);
        }
        thread.depth.set(thread.depth.get() + 1);
        let answer = body(thread);
        thread.depth.set(thread.depth.get() - 1);
        // SAFETY: as in `at_import`: `outer` was current, so its block is alive.
        if let Some(outer) = unsafe { outer.as_ref() }
            .filter(|outer| outer.depth.get() > 0 && !std::ptr::eq(*outer, thread))
        {
            CURRENT.set(outer);
            trap::set_gs(&outer.gate);
        }
        answer
    }

    /// The machine it belongs to.
    pub fn machine(&self) -> &Machine {
        // SAFETY: a thread is only reached through `with`, whose caller holds the machine for longer.
        unsafe { &*self.machine }
    }

    /// Its number, unique in the process and never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name, for reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IRQL.
    pub fn irql(&self) -> u8 {
        self.irql.get()
    }

    pub(crate) fn set_irql(&self, irql: u8) {
        self.irql.set(irql);
    }

    /// The number of the CPU it runs on.
    pub fn cpu(&self) -> u32 {
        self.processor.get()
    }

    pub(crate) fn set_processor(&self, number: u32) {
        self.processor.set(number);
        let word = &self.gate.kpcr[0x1A0 / 8];
        word.set((word.get() & 0xFFFF_FFFF) | u64::from(number) << 32);
    }

    pub(crate) fn affinity(&self) -> u64 {
        self.affinity.get()
    }

    pub(crate) fn set_affinity(&self, mask: u64) {
        self.affinity.set(mask);
        if self.irql() < DISPATCH && mask >> self.cpu() & 1 == 0 {
            self.set_processor(mask.trailing_zeros());
        }
    }

    /// The process it runs in.
    pub fn process(&self) -> Arc<Process> {
        self.process.borrow().clone()
    }

    pub(crate) fn replace_process(&self, process: Arc<Process>) -> Arc<Process> {
        self.process.replace(process)
    }

    /// Address of its thread object, which the driver sees as `KTHREAD`.
    pub fn object(&self) -> usize {
        self.object.get()
    }

    /// The driver passed a pointer that cannot be used: a page fault in Windows. Returns what the import then returns.
    pub fn bad_pointer(&self, what: &str, address: usize) -> i32 {
        let detail = format!(
            "{what} of {} is {address:#x}, which cannot be accessed",
            crate::nt::name_of(self.import_number())
        );
        self.bugcheck(
            &rules::PAGE_FAULT_IN_NONPAGED_AREA,
            [address as u64, 0, self.caller() as u64, 0],
            detail,
        );
        crate::nt::status::STATUS_INVALID_PARAMETER
    }

    pub(crate) fn set_object(&self, object: usize) {
        self.object.set(object);
        self.gate.kpcr[0x188 / 8].set(object as u64);
    }

    pub(crate) fn bounds(&self) -> (usize, usize) {
        self.bounds.get()
    }

    pub(crate) fn own_stack(&self) -> (usize, usize) {
        self.stack.bounds()
    }

    pub(crate) fn locks(&self) -> &RefCell<Vec<Held>> {
        &self.locks
    }

    pub(crate) fn import_frame(&self) -> Option<&ImportFrame> {
        // SAFETY: null, or the frame that the gate keeps on this thread's host stack while the import runs.
        unsafe { self.gate.import.get().as_ref() }
    }

    pub(crate) fn import_number(&self) -> u64 {
        self.import_frame().map_or(u64::MAX, |frame| frame.index)
    }

    /// Where the driver called the import that runs now.
    pub fn caller(&self) -> usize {
        self.import_frame().map_or(0, |frame| frame.registers().rip as usize)
    }

    /// Gives the driver's frames up when the import returns.
    pub(crate) fn abandon(&self) {
        if self.import_frame().is_some() {
            self.gate.abandon.set(1);
        }
    }

    /// The driver ends this thread: its frames are given up, the machine goes on.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.abandon();
    }

    /// Calls the driver.
    ///
    /// # Errors
    ///
    /// [`Dead`] if the machine has stopped, before or in the call.
    pub fn call(&self, call: Call, arguments: &[u64]) -> Result<u64, Dead> {
        match self.invoke(call, arguments) {
            Outcome::Returned(value) => Ok(value),
            Outcome::ThreadEnded => {
                self.stop(
                    &rules::THREAD_ENDED,
                    format!("{} ended a thread that is not the driver's", call.name),
                );
                Err(Dead)
            }
            Outcome::Stopped => Err(Dead),
        }
    }

    pub(crate) fn invoke(&self, call: Call, arguments: &[u64]) -> Outcome {
        if self.machine().is_dead() {
            self.abandon();
            return Outcome::Stopped;
        }
        let before = self.irql();
        match call.level {
            Level::Passive if before != PASSIVE => {
                self.stop(
                    &rules::SIMULATOR,
                    format!("{} is a PASSIVE_LEVEL callback, called at IRQL {before}", call.name),
                );
                return Outcome::Stopped;
            }
            Level::Dispatch if before < DISPATCH && self.raise(DISPATCH).is_err() => {
                return Outcome::Stopped;
            }
            _ => {}
        }
        let watched = self.irql() >= DISPATCH && self.machine().options().verified;
        let began = watched.then(|| self.machine().world().now());
        let outcome = self.cross(call, arguments);
        if let Some(began) = began {
            processor::watch(self, call.name, began);
        }
        if call.level == Level::Dispatch && before < DISPATCH {
            self.lower(before);
        }
        if self.machine().is_dead() {
            self.abandon();
            return if outcome == Outcome::ThreadEnded { outcome } else { Outcome::Stopped };
        }
        outcome
    }

    /// Calls what the driver registered for a bugcheck: at `HIGH_LEVEL`, also when the machine has stopped.
    pub(crate) fn last_words(&self, call: Call, arguments: &[u64]) -> Outcome {
        let irql = self.irql.replace(HIGH);
        self.speaks_last.set(true);
        let outcome = self.cross(call, arguments);
        self.speaks_last.set(false);
        self.irql.set(irql);
        outcome
    }

    pub(crate) fn speaks_last(&self) -> bool {
        self.speaks_last.get()
    }

    /// The crossing itself, and the checks of what must be as before.
    fn cross(&self, call: Call, arguments: &[u64]) -> Outcome {
        let mut all = [0; MAX_ARGUMENTS];
        all[..arguments.len()].copy_from_slice(arguments);
        let (irql, locks, saves) =
            (self.irql(), self.locks.borrow().len(), self.saves.borrow().len());
        let verified = self.gate.flags.get() & VERIFY_XSTATE != 0;
        let paint = self.paint(call);
        let mut after = MaybeUninit::<XsaveArea>::uninit();
        if verified {
            // XSAVE wants a zeroed header; and clearing 3 KiB is not for the fast mode.
            after.write(XsaveArea::new());
        }
        if !self.speaks_last() {
            self.reach(|| Place::Begins(call.name, call.function));
        }
        let poisoned = self.poisoned.replace(false);
        // SAFETY: GS points at this block (`with`), the driver stack belongs to this thread alone, `all` and `after` live
        // across the call, and what the driver does there is the point of the program.
        unsafe { gate::gate_call(&self.gate, call.function, &all, after.as_mut_ptr()) };
        let poisoned = self.poisoned.replace(poisoned);
        if self.gate.status.get() != 0 {
            return self.after_abandon(irql, locks, saves);
        }
        // SAFETY: written above in verified mode, which is all that is asked for.
        let after = verified.then(|| unsafe { after.assume_init_ref() });
        if let Some(after) = after.filter(|_| self.machine().options().remembers) {
            self.machine().extension::<Memory>().returned(self.id, after);
        }
        if let Some(spoiled) = after.and_then(|after| xstate::spoiled(after, poisoned)) {
            let detail = format!(
                "{} returned with {spoiled} changed and not saved",
                self.machine().describe(call.function)
            );
            self.stop(&rules::EXTENDED_STATE_CORRUPTED, detail);
        }
        if let Some((from, budget)) = paint {
            self.judge_stack(call, from, budget);
        }
        self.judge_return(call, irql, locks, saves);
        if !self.speaks_last() {
            self.reach(|| Place::Ended(call.name, call.function));
        }
        Outcome::Returned(self.gate.result.get())
    }

    fn after_abandon(&self, irql: u8, locks: usize, saves: usize) -> Outcome {
        if let Some(trap) = self.trap.take() {
            self.stopped(
                trap.rule().code,
                trap.rule(),
                trap.parameters(),
                trap.describe(self),
                Some((trap.registers, self.gate.import.get())),
            );
        }
        self.locks.borrow_mut().truncate(locks);
        self.saves.borrow_mut().truncate(saves);
        if self.irql() >= DISPATCH && irql < DISPATCH {
            self.machine().processor(self.cpu()).release(self);
        }
        self.irql.set(irql);
        if self.ended.get() { Outcome::ThreadEnded } else { Outcome::Stopped }
    }

    fn judge_return(&self, call: Call, irql: u8, locks: usize, saves: usize) {
        let who = || self.machine().describe(call.function);
        if self.irql() != irql {
            let now = self.irql();
            let detail = format!(
                "{} ({}) was called at IRQL {irql} and returned at {now}",
                call.name,
                who()
            );
            self.bugcheck(&rules::IRQL_UNEXPECTED_VALUE, [now.into(), irql.into(), 0, 0], detail);
            if now >= DISPATCH && irql < DISPATCH {
                self.machine().processor(self.cpu()).release(self);
            }
            self.irql.set(irql);
        }
        let held = self.locks.borrow().len();
        if held != locks {
            self.stop(
                &rules::SPIN_LOCK_HELD,
                format!(
                    "{} ({}) returned with {held} spin locks, was called with {locks}",
                    call.name,
                    who()
                ),
            );
            self.locks.borrow_mut().truncate(locks);
        }
        let open = self.saves.borrow().len();
        if open != saves {
            self.stop(
                &rules::EXTENDED_STATE_NOT_RESTORED,
                format!("{} ({}) left {open} saves, found {saves}", call.name, who()),
            );
            self.saves.borrow_mut().truncate(saves);
        }
    }

    /// In verified mode, unless the machine remembers, fills the unused stack; returns where it begins and the budget.
    fn paint(&self, call: Call) -> Option<(usize, usize)> {
        if !self.machine().options().verified || self.machine().options().remembers {
            return None;
        }
        let (low, _) = self.bounds();
        let top = self.gate.driver_sp.get() as usize & !15;
        // SAFETY: below the driver's stack pointer and above the guard page nothing of this thread's driver stack is in use.
        unsafe { std::ptr::write_bytes(low as *mut u8, STACK_FILL, top - low) };
        Some((top, call.stack.unwrap_or(usize::MAX)))
    }

    fn judge_stack(&self, call: Call, top: usize, budget: usize) {
        let (low, _) = self.bounds();
        // SAFETY: the stack is mapped, and no driver code runs on it now.
        let bytes = unsafe { std::slice::from_raw_parts(low as *const u8, top - low) };
        let used = bytes.len() - stack::untouched(bytes);
        self.machine().note_stack(call.name, used);
        if used > budget {
            self.stop(
                &rules::STACK_BUDGET,
                format!("{} used {used} bytes of stack, it may use {budget}", call.name),
            );
        }
    }

    /// Raises the IRQL; at `DISPATCH_LEVEL` the CPU is this thread's.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub(crate) fn raise(&self, to: u8) -> Result<u8, Dead> {
        let before = self.irql();
        if before < DISPATCH && to >= DISPATCH {
            self.machine().take_processor(self)?;
        }
        self.irql.set(to);
        Ok(before)
    }

    /// Lowers the IRQL; below `DISPATCH_LEVEL` the CPU's DPCs run first.
    pub(crate) fn lower(&self, to: u8) {
        if self.irql() >= DISPATCH && to < DISPATCH {
            self.irql.set(DISPATCH);
            let processor = self.machine().processor(self.cpu());
            processor.drain(self);
            self.irql.set(to);
            processor.release(self);
        } else {
            self.irql.set(to);
        }
    }

    /// Runs `body` with driver calls going to `stack`: DPCs run on the CPU's own.
    pub(crate) fn on_stack<R>(&self, stack: &Stack, body: impl FnOnce() -> R) -> R {
        let (sp, bounds) =
            (self.gate.driver_sp.replace(stack.top()), self.bounds.replace(stack.bounds()));
        let answer = body();
        self.gate.driver_sp.set(sp);
        self.bounds.set(bounds);
        answer
    }

    /// Runs `body` pinned to CPU `number`. At `DISPATCH_LEVEL` a thread stays where it is.
    pub(crate) fn pinned<R>(&self, number: u32, body: impl FnOnce() -> R) -> R {
        if self.irql() >= DISPATCH {
            return body();
        }
        let (affinity, processor) = (self.affinity.replace(1 << number), self.cpu());
        self.set_processor(number);
        let answer = body();
        self.affinity.set(affinity);
        self.set_processor(processor);
        answer
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if std::ptr::eq(CURRENT.get(), self) {
            CURRENT.set(std::ptr::null());
        }
        if let Some(machine) = self.alive.upgrade() {
            machine.objects().forget_thread(self.object());
            machine.extension::<Memory>().end(self.id);
        }
    }
}

/// The current block for the fault handler: this thread's, even between calls.
pub(crate) fn block_of_this_thread() -> Option<&'static Thread> {
    // SAFETY: as in `Thread::at_import`; cleared in `Drop`.
    unsafe { CURRENT.try_with(Cell::get).ok()?.as_ref() }
}

/// Runs `body` in a new simulated thread named `name` on this host thread (which has none in `machine` yet).
pub(crate) fn attach(
    machine: &Machine,
    name: &str,
    object: Option<usize>,
    body: impl FnOnce(&Thread),
) {
    let thread = Thread::new(machine, name, machine.system_process());
    if let Some(object) = object {
        machine.objects().forget_thread(thread.object());
        thread.set_object(object);
        machine.objects().begin_thread(object);
    }
    ATTACHED.with_borrow_mut(|all| all.push(thread));
    Thread::with(machine, body);
}
