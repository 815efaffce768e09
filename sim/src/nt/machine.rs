//! One simulated Windows: its CPUs, memory, objects, registry, clock and the driver it has loaded.
//!
//! A [`Machine`] is a value; a process may have many, each with its own copy of the image. Machines that talk to each other
//! share one [`World`]. [`Machine::boot`] gives the owner ([`Power`]): dropping it switches the machine off. When a rule is
//! broken the machine *stops*: its report is kept, every wait in it ends, no driver code runs in it any more, and the process
//! goes on.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::loader::gate::{ImportFrame, Registers};
use crate::loader::gdb::Companion;
use crate::loader::pe::Image;
use crate::loader::probe;
use crate::loader::symbols::Symbols;
use crate::nt::level::{DISPATCH, PASSIVE};
use crate::nt::lock_order;
use crate::nt::memory::{self, Memory};
use crate::nt::ob::Objects;
use crate::nt::pool::Pool;
use crate::nt::processor::Processor;
use crate::nt::ps::Process;
use crate::nt::registry::Registry;
use crate::nt::se::Token;
pub use crate::nt::thread::{Call, Dead, Level, Thread};
use crate::nt::timer::Timers;
use crate::nt::topology::Topology;
use crate::nt::{Behaviour, Mark};
use crate::verifier::fault::{Delay, Faults};
use crate::verifier::report::{Frame, Leak, Stop};
use crate::verifier::schedule::{JoinHandle, Key, World, lock};

mod driver;
mod stopping;

/// What a machine is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shown in reports.
    pub name: String,
    /// Simulated CPUs, at most 64.
    pub cpus: u32,
    /// Where they are, and then how many; none is `cpus` in one group, all alike.
    pub topology: Option<Topology>,
    /// Whether the verifier checks vector state, stacks and pool overruns. False is the fast mode.
    pub verified: bool,
    /// Fixed answers for behaviours marked unknown, by name; the others are drawn.
    pub choices: BTreeMap<String, bool>,
    /// Whether `DbgPrintEx` goes to standard error.
    pub print: bool,
    /// `REG_DWORD` values of the driver's `Parameters` key, by name.
    pub parameters: BTreeMap<String, u32>,
    /// `REG_SZ` values there.
    pub texts: BTreeMap<String, String>,
    /// False is a fault: saving the extended state answers success and does nothing, and so does restoring it.
    pub keeps_extended_state: bool,
    /// A session that is there before any driver, as an autologger is: [`crate::nt::etw::AT_BOOT`].
    pub traced: Option<crate::nt::etw::Wanted>,
    /// Whether memory that the driver gives up is kept as it was, and stacks are not painted, for [`Machine::memory`].
    pub remembers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "machine".into(),
            cpus: 2,
            topology: None,
            verified: true,
            choices: BTreeMap::new(),
            print: false,
            parameters: BTreeMap::new(),
            texts: BTreeMap::new(),
            keeps_extended_state: true,
            traced: None,
            remembers: false,
        }
    }
}

type Extensions = FxHashMap<TypeId, Arc<dyn Any + Send + Sync>>;
type UnloadCheck = Box<dyn Fn(&Machine, &mut Vec<Leak>) + Send + Sync>;

/// See the module.
pub struct Machine {
    this: Weak<Self>,
    options: Options,
    topology: Topology,
    world: Arc<World>,
    processors: Vec<Processor>,
    next_processor: AtomicU32,
    dead: AtomicBool,
    off: AtomicBool,
    report: Mutex<Option<Stop>>,
    image: RwLock<Option<Arc<Image>>>,
    range: [AtomicUsize; 2],
    symbols: Symbols,
    companion: Mutex<Option<Companion>>,
    objects: Objects,
    pool: Pool,
    registry: Registry,
    timers: Timers,
    faults: Faults,
    system: Arc<Process>,
    driver: AtomicUsize,
    extensions: RwLock<Extensions>,
    unload_checks: Mutex<Vec<UnloadCheck>>,
    stacks: Mutex<BTreeMap<&'static str, usize>>,
    choices: Mutex<BTreeMap<&'static str, bool>>,
    owned: Mutex<FxHashMap<usize, Box<[u128]>>>,
    pub(crate) driver_threads: Mutex<Vec<(usize, JoinHandle)>>,
    background: Mutex<Vec<JoinHandle>>,
    pub(crate) prints: Mutex<Vec<String>>,
}

/// The owner of a running machine; dropping it switches the machine off and waits for its own threads.
pub struct Power(Arc<Machine>);

impl Deref for Power {
    type Target = Arc<Machine>;

    fn deref(&self) -> &Arc<Machine> {
        &self.0
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        self.0.switch_off();
    }
}

/// How long switching off waits for threads that should end at once (Parallel mode).
const SWITCH_OFF: Duration = Duration::from_secs(5);

impl Machine {
    /// Switches a machine on.
    pub fn boot(world: &Arc<World>, options: Options) -> Power {
        crate::loader::trap::install();
        let plain = || Topology::plain(options.cpus.clamp(1, 64));
        let topology = options.topology.clone().unwrap_or_else(plain);
        let cpus = topology.cpus();
        let machine = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            topology,
            world: world.clone(),
            processors: (0..cpus).map(Processor::new).collect(),
            next_processor: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            off: AtomicBool::new(false),
            report: Mutex::default(),
            image: RwLock::default(),
            range: Default::default(),
            symbols: Symbols::default(),
            companion: Mutex::default(),
            objects: Objects::default(),
            pool: Pool::new(options.verified, options.remembers),
            registry: Registry::default(),
            timers: Timers::default(),
            faults: Faults::default(),
            system: Process::new(4, "System", Token::system()),
            driver: AtomicUsize::new(0),
            extensions: RwLock::default(),
            unload_checks: Mutex::default(),
            stacks: Mutex::default(),
            choices: Mutex::default(),
            owned: Mutex::default(),
            driver_threads: Mutex::default(),
            background: Mutex::default(),
            prints: Mutex::default(),
            options: Options { cpus, ..options },
        });
        for (name, value) in &machine.options.parameters {
            machine.registry.set_u32(&machine.parameters_key(), name, *value);
        }
        for (name, value) in &machine.options.texts {
            machine.registry.set_text(&machine.parameters_key(), name, value);
        }
        if let Some(wanted) = machine.options.traced {
            machine.begin_trace(wanted);
        }
        for number in 0..cpus {
            machine.background("idle", move |machine| {
                machine.processors[number as usize].idle(machine)
            });
        }
        machine.background("timers", |machine| machine.timers.run(machine));
        Power(machine)
    }

    /// Starts a thread that serves this machine until it is switched off: `body` must end soon after [`Machine::is_off`] or
    /// [`Machine::is_dead`] says so (both wake every key).
    pub fn background(&self, name: &str, body: impl FnOnce(&Machine) + Send + 'static) {
        let Some(machine) = self.this.upgrade() else { return };
        let handle =
            self.world.spawn(&format!("{} {name}", self.options.name), move || body(&machine));
        let mut threads = lock(&self.background);
        // A thread that has ended keeps its stack for as long as its handle is kept.
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
    }

    fn switch_off(&self) {
        self.off.store(true, Ordering::SeqCst);
        self.world.wake_all();
        let deadline = self.world.now() + SWITCH_OFF;
        let threads = std::mem::take(&mut *lock(&self.background));
        let drivers = std::mem::take(&mut *lock(&self.driver_threads));
        for thread in threads {
            thread.join(Some(deadline));
        }
        if self.is_dead() {
            for (_, thread) in drivers {
                thread.join(Some(deadline));
            }
            for failed in self.crash_data().failed {
                eprintln!("[{}] at the bugcheck: {failed}", self.name());
            }
        }
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// What it was booted with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its clock and scheduler.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Fault injection of this machine.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Its registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Path of the `Parameters` key of the driver's service.
    pub fn parameters_key(&self) -> String {
        format!("{}\\Parameters", self.service_key())
    }

    /// Path of the driver's service key, the second argument of its entry point.
    pub fn service_key(&self) -> String {
        r"\Registry\Machine\System\CurrentControlSet\Services\penstock".to_owned()
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// How much pool the driver uses.
    pub fn pool_use(&self) -> crate::nt::pool::PoolUse {
        self.pool.usage()
    }

    /// How often pool under the tag of these letters was allocated so far.
    pub fn pool_allocations(&self, tag: [u8; 4]) -> u64 {
        self.pool.allocations(u32::from_le_bytes(tag))
    }

    /// The System process: what threads belong to unless something else is said.
    pub fn system_process(&self) -> Arc<Process> {
        self.system.clone()
    }

    pub(crate) fn processor(&self, number: u32) -> &Processor {
        &self.processors[number as usize]
    }

    /// Where its CPUs are.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn processors(&self) -> &[Processor] {
        &self.processors
    }

    pub(crate) fn next_processor(&self) -> u32 {
        self.next_processor.fetch_add(1, Ordering::Relaxed) % self.options.cpus
    }

    /// Takes the thread's CPU, or in Parallel mode another one it may run on, if its own is busy.
    pub(crate) fn take_processor(&self, thread: &Thread) -> Result<(), Dead> {
        if self.is_dead() {
            return Err(Dead);
        }
        if self.processor(thread.cpu()).try_take(thread) {
            return Ok(());
        }
        for other in 0..self.options.cpus {
            if thread.affinity() >> other & 1 != 0 && self.processor(other).try_take(thread) {
                thread.set_processor(other);
                return Ok(());
            }
        }
        self.processor(thread.cpu()).take(thread)
    }

    /// The process that the driver knows by `address` (`PEPROCESS`), if it has seen it.
    pub fn process(&self, address: usize) -> Option<Arc<Process>> {
        self.objects.process(address)
    }

    /// Interrupt and system time in 100 ns, as the shared user data page has them: of the last tick.
    pub(crate) fn coarse_time(&self) -> crate::nt::timer::CoarseTime {
        crate::nt::timer::coarse(self)
    }

    /// Whether it has stopped.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether it is being switched off.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Calls the driver from any host thread.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn call(&self, call: Call, arguments: &[u64]) -> Result<u64, Dead> {
        Thread::with(self, |thread| thread.call(call, arguments))
    }

    /// Calls a function that the driver could call, as the driver would: through its gate.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    ///
    /// # Panics
    ///
    /// If nobody provides it.
    pub fn call_import(
        &self,
        dll: &str,
        name: &'static str,
        arguments: &[u64],
    ) -> Result<u64, Dead> {
        let function =
            crate::nt::address(dll, name).unwrap_or_else(|| panic!("{dll}!{name} is not provided"));
        self.call(Call::new(name, function, Level::Current), arguments)
    }

    /// Runs `body`; calls in it are made by a thread of `process`.
    pub fn as_process<R>(&self, process: &Arc<Process>, body: impl FnOnce() -> R) -> R {
        Thread::with(self, |thread| {
            let before = thread.replace_process(process.clone());
            let answer = body();
            thread.replace_process(before);
            answer
        })
    }

    /// Runs `body`; calls in it are made on CPU `number`.
    pub fn on_cpu<R>(&self, number: u32, body: impl FnOnce() -> R) -> R {
        Thread::with(self, |thread| thread.pinned(number % self.options.cpus, body))
    }

    /// Keeps CPU `number` from everything for `time` from soon on: something else has it at `DISPATCH_LEVEL`. DPCs and whoever
    /// raises there wait; a thread that is not bound to it finds another one.
    pub fn keep_cpu(&self, number: u32, time: Duration) {
        self.background("stalled", move |machine| {
            machine.on_cpu(number, || {
                machine.with_thread(|thread| {
                    if thread.raise(DISPATCH).is_ok() {
                        machine.take_time(Delay::For(time));
                        thread.lower(PASSIVE);
                    }
                });
            });
        });
    }

    /// Has the calling thread do nothing for a time, at whichever IRQL, while others go on; a machine that stops ends it.
    pub(crate) fn take_time(&self, delay: Delay) {
        let time = match delay {
            Delay::For(time) => time,
            Delay::Upto(most) => {
                Duration::from_nanos(self.world.random() % (most.as_nanos() as u64 + 1))
            }
        };
        let (place, deadline) = (0_u8, self.world.now() + time);
        let _ = self.wait(Key::of(&place), Some(deadline), "time to pass", || None::<()>);
    }

    /// Runs `body` with the calling host thread's simulated thread.
    pub fn with_thread<R>(&self, body: impl FnOnce(&Thread) -> R) -> R {
        Thread::with(self, body)
    }

    /// The state that a subsystem keeps for this machine; made on first use.
    ///
    /// # Panics
    ///
    /// Never: the map is keyed by the type.
    pub fn extension<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let key = TypeId::of::<T>();
        let known =
            self.extensions.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let any = known.unwrap_or_else(|| {
            let mut all = self.extensions.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(key).or_insert_with(|| Arc::<T>::default()).clone()
        });
        any.downcast().unwrap_or_else(|_| unreachable!("keyed by its type"))
    }

    /// Adds a check for what is left after the driver's unload routine has returned.
    pub fn at_unload(&self, check: impl Fn(&Machine, &mut Vec<Leak>) + Send + Sync + 'static) {
        lock(&self.unload_checks).push(Box::new(check));
    }

    /// Allocates zeroed memory, 16-byte aligned, that the driver may see and the simulator owns.
    pub fn allocate(&self, size: usize) -> usize {
        let mut block = vec![0_u128; size.div_ceil(16).max(1)].into_boxed_slice();
        let address = block.as_mut_ptr().expose_provenance();
        lock(&self.owned).insert(address, block);
        address
    }

    /// Frees what [`Machine::allocate`] gave; false if it did not.
    pub fn release(&self, address: usize) -> bool {
        let Some(block) = lock(&self.owned).remove(&address) else { return false };
        lock_order::forget(self, address, size_of_val(&*block));
        if self.options.remembers {
            let what = "released memory of the frameworks".to_owned();
            self.extension::<Memory>().keep(what, memory::bytes(address, size_of_val(&*block)));
        }
        true
    }

    /// The answer of a behaviour that nobody knows: fixed by [`Options::choices`], else drawn once per machine.
    pub fn either(&self, behaviour: &'static Behaviour) -> bool {
        debug_assert_eq!(behaviour.mark, Mark::Unknown, "{} is known", behaviour.name);
        let fixed = self.options.choices.get(behaviour.name).copied();
        let mut drawn = lock(&self.choices);
        *drawn
            .entry(behaviour.name)
            .or_insert_with(|| fixed.unwrap_or_else(|| self.world.random() & 1 != 0))
    }

    /// The answers drawn so far, for the report of a run.
    pub fn choices(&self) -> BTreeMap<&'static str, bool> {
        lock(&self.choices).clone()
    }

    pub(crate) fn note_stack(&self, callback: &'static str, used: usize) {
        let mut stacks = lock(&self.stacks);
        let most = stacks.entry(callback).or_default();
        *most = used.max(*most);
    }

    /// Most stack each callback has used (verified mode).
    pub fn stack_use(&self) -> BTreeMap<&'static str, usize> {
        lock(&self.stacks).clone()
    }

    /// Everything the driver printed.
    pub fn prints(&self) -> Vec<String> {
        lock(&self.prints).clone()
    }

    /// The image, if one is loaded.
    pub fn image(&self) -> Option<Arc<Image>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `driver!function+0x12 [file:line]` for an address of the driver.
    pub fn describe(&self, address: usize) -> String {
        let Some(image) = self.image() else { return format!("{address:#x}") };
        self.symbols.name(&image, address, false)
    }

    /// As [`Machine::describe`], for a return address.
    pub(crate) fn describe_caller(&self, address: usize) -> String {
        let Some(image) = self.image() else { return format!("{address:#x}") };
        self.symbols.name(&image, address, true)
    }

    pub(crate) fn walk(
        &self,
        thread: &Thread,
        from: Registers,
        outer: *const ImportFrame,
    ) -> Vec<Frame> {
        match self.image() {
            Some(image) => self.symbols.walk(&image, thread, from, outer),
            None => Vec::new(),
        }
    }

    /// Writes to memory of [`Machine::allocate`].
    pub(crate) fn poke<T: probe::Plain>(&self, address: usize, value: T) {
        // It is our own memory, so it cannot fault.
        let written = probe::write(address, value);
        debug_assert!(written.is_ok());
    }

    /// A `UNICODE_STRING` in the simulator's memory.
    pub fn unicode(&self, text: &str) -> usize {
        let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let address = self.allocate(16 + units.len());
        self.poke(address, (units.len() - 2) as u16);
        self.poke(address + 2, units.len() as u16);
        self.poke(address + 8, address + 16);
        let written = probe::write_bytes(address + 16, &units);
        debug_assert!(written.is_ok());
        address
    }

    /// Waits in this machine: as [`World::wait`], but ends also when the machine dies.
    ///
    /// # Errors
    ///
    /// `None` if the machine died, else how the wait ended.
    pub fn wait<T>(
        &self,
        key: Key,
        deadline: Option<Duration>,
        what: &'static str,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, Option<crate::verifier::schedule::WaitEnd>> {
        let ended = self.world.wait(key, deadline, what, || {
            if self.is_dead() {
                return Some(None);
            }
            poll().map(Some)
        });
        match ended {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(None),
            Err(end) => Err(Some(end)),
        }
    }
}
