//! Executive timers (`ExAllocateTimer` ... `ExDeleteTimer`) and the clock.
//!
//! Each machine has a thread that waits for the next due time and calls the driver's callback at `DISPATCH_LEVEL`. A timer
//! without `EX_TIMER_HIGH_RESOLUTION` may fire up to a tick early; in verified mode it sometimes does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::loader::probe;
use crate::nt::level::APC;
use crate::nt::machine::Machine;
use crate::nt::thread::{Call, Level, Thread};
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, World, lock};

const EX_TIMER_HIGH_RESOLUTION: u32 = 4;
/// The clock tick.
const TICK: Duration = Duration::from_micros(15_625);
/// Seconds from 1601 to 1970.
const WINDOWS_EPOCH: Duration = Duration::from_secs(11_644_473_600);
/// Offsets in `EXT_DELETE_PARAMETERS`.
const DELETE_CALLBACK: usize = 8;
const DELETE_CONTEXT: usize = 16;

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A timer of default resolution may expire up to one clock tick early.
    [mark: Documented, source: "WDD kernel/high-resolution-timers"] DEFAULT_TIMERS_FIRE_EARLY;
    /// The callback of an executive timer runs at DISPATCH_LEVEL on a CPU of the system's choice.
    [mark: Documented, source: "DDI wdm/nc-wdm-ext_callback"] TIMER_CALLBACK_AT_DISPATCH;
}

/// The time of the last tick, in 100 ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoarseTime {
    pub(crate) interrupt: u64,
    pub(crate) system: u64,
}

/// A duration in NT's unit.
pub(crate) fn in_100ns(duration: Duration) -> u64 {
    (duration.as_nanos() / 100) as u64
}

/// Moves a machine's system time, as an administrator or a time service does: by so many seconds, back if negative. Interrupt
/// time goes on. Timers that were set to a system time keep their distance; the driver sets none.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerysystemtimeprecise>,
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryinterrupttimeprecise>
pub fn move_system_time(machine: &Machine, seconds: i64) {
    machine.timers().moved.fetch_add(seconds.saturating_mul(10_000_000), Ordering::AcqRel);
}

/// System time (since 1601) in 100 ns.
pub(crate) fn system_time(machine: &Machine) -> u64 {
    let moved = machine.timers().moved.load(Ordering::Acquire);
    in_100ns(machine.world().wall() + WINDOWS_EPOCH).saturating_add_signed(moved)
}

/// What the shared user data page says: the values of the last tick.
pub(crate) fn coarse(machine: &Machine) -> CoarseTime {
    let now = machine.world().now();
    let since = Duration::from_nanos((now.as_nanos() % TICK.as_nanos()) as u64);
    let system = system_time(machine).saturating_sub(in_100ns(since));
    CoarseTime { interrupt: in_100ns(now - since), system }
}

/// A deadline from an NT due time: negative is relative, positive is system time, in 100 ns.
pub(crate) fn deadline(machine: &Machine, due: i64) -> Duration {
    let world = machine.world();
    let span = |units: u64| Duration::from_nanos(units.saturating_mul(100));
    if due <= 0 {
        world.now() + span(due.unsigned_abs())
    } else {
        world.now() + span((due.cast_unsigned()).saturating_sub(system_time(machine)))
    }
}

struct Timer {
    callback: usize,
    context: u64,
    attributes: u32,
    due: Option<Duration>,
    period: Duration,
    running: u32,
    /// Deleted; goes when its callback has returned, then this callback is called with this context.
    deleted: Option<(usize, u64)>,
    allocated_at: usize,
}

/// The timers of a machine, by the address the driver knows them by.
#[derive(Default)]
pub(crate) struct Timers {
    set: Mutex<BTreeMap<usize, Timer>>,
    /// By how much system time was moved, in 100 ns.
    moved: AtomicI64,
}

impl Timers {
    fn key(&self) -> Key {
        Key::of(&self.set)
    }

    fn next_due(&self) -> Option<Duration> {
        lock(&self.set).values().filter_map(|timer| timer.due).min()
    }

    /// The machine's timer thread.
    pub(crate) fn run(&self, machine: &Machine) {
        let ended = || machine.is_off() || machine.is_dead();
        loop {
            let next = self.next_due();
            // Its end does not matter: what is due is looked up below.
            let _ = machine.world().wait(self.key(), next, "timers", || {
                let due = self.next_due();
                (ended() || due != next || due.is_some_and(|at| at <= machine.world().now()))
                    .then_some(())
            });
            if ended() {
                return;
            }
            while let Some((address, callback, context)) = self.expire(machine.world()) {
                let cpu = (machine.world().random() % u64::from(machine.options().cpus)) as u32;
                let call = Call::new("timer", callback, Level::Dispatch);
                // A stop is recorded in the machine, and the loop ends above.
                let _ = machine.on_cpu(cpu, || machine.call(call, &[address as u64, context]));
                self.returned(machine, address);
            }
        }
    }

    /// Takes one timer that is due.
    fn expire(&self, world: &World) -> Option<(usize, usize, u64)> {
        let now = world.now();
        let mut timers = lock(&self.set);
        let due = |timer: &Timer| timer.due.filter(|at| *at <= now);
        let (address, timer) = timers
            .iter_mut()
            .filter(|(_, timer)| due(timer).is_some())
            .min_by_key(|(_, timer)| timer.due)?;
        timer.due = (timer.period > Duration::ZERO).then(|| now + timer.period);
        timer.running += 1;
        Some((*address, timer.callback, timer.context))
    }

    fn returned(&self, machine: &Machine, address: usize) {
        let mut timers = lock(&self.set);
        let Some(timer) = timers.get_mut(&address) else { return };
        timer.running -= 1;
        let gone = timer.deleted.filter(|_| timer.running == 0);
        if gone.is_some() {
            timers.remove(&address);
        }
        drop(timers);
        if let Some((callback, context)) = gone {
            finish_delete(machine, address, callback, context);
        }
        machine.world().wake(self.key());
    }

    pub(crate) fn leaks(&self, machine: &Machine, leaks: &mut Vec<Leak>) {
        for timer in lock(&self.set).values() {
            leaks.push(Leak::new(
                "timer",
                format!("allocated by {}", machine.describe_caller(timer.allocated_at)),
            ));
        }
    }
}

fn finish_delete(machine: &Machine, address: usize, callback: usize, context: u64) {
    machine.release(address);
    if callback != 0 {
        // A stop is recorded in the machine.
        let _ = machine.call(Call::new("timer delete", callback, Level::Current), &[context]);
    }
}

/// Runs `body` with the timer, or stops the machine if there is none at `address`.
fn with_timer<R>(thread: &Thread, address: usize, body: impl FnOnce(&mut Timer) -> R) -> Option<R> {
    let mut timers = lock(&thread.machine().timers().set);
    match timers.get_mut(&address).filter(|timer| timer.deleted.is_none()) {
        Some(timer) => Some(body(timer)),
        None => {
            drop(timers);
            let detail = format!("{address:#x} is no timer, or was deleted");
            thread.bugcheck(&rules::TIMER_OR_DPC_INVALID, [1, address as u64, 0, 0], detail);
            None
        }
    }
}

/// When a timer set for `at` shall fire.
fn with_tolerance(machine: &Machine, attributes: u32, at: Duration) -> Duration {
    let world = machine.world();
    if attributes & EX_TIMER_HIGH_RESOLUTION != 0
        || !machine.options().verified
        || world.random() & 3 != 0
    {
        return at;
    }
    at.saturating_sub(Duration::from_nanos(world.random() % TICK.as_nanos() as u64))
}

fn delete(thread: &Thread, address: usize, wait: bool, parameters: usize) -> u8 {
    let (callback, context) = if parameters == 0 {
        (0, 0)
    } else {
        match (
            probe::read::<usize>(parameters + DELETE_CALLBACK),
            probe::read::<u64>(parameters + DELETE_CONTEXT),
        ) {
            (Ok(callback), Ok(context)) => (callback, context),
            _ => return thread.bad_pointer("Parameters", parameters) as u8,
        }
    };
    let machine = thread.machine();
    let Some((was_set, running)) = with_timer(thread, address, |timer| {
        timer.deleted = Some((callback, context));
        (timer.due.take().is_some(), timer.running > 0)
    }) else {
        return 0;
    };
    if !running {
        lock(&machine.timers().set).remove(&address);
        finish_delete(machine, address, callback, context);
    } else if wait {
        let ended = machine.wait(machine.timers().key(), None, "timer callback to return", || {
            (!lock(&machine.timers().set).contains_key(&address)).then_some(())
        });
        if ended.is_err() {
            thread
                .stop(&rules::DEADLOCK, "ExDeleteTimer waits for a callback that does not return");
        }
    }
    was_set.into()
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Makes a timer.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exallocatetimer", fail: 0]
    fn ExAllocateTimer(thread, callback: usize, context: u64, attributes: u32) -> usize {
        let machine = thread.machine();
        let address = machine.allocate(64);
        let allocated_at = thread.caller();
        let timer = Timer {
            callback, context, attributes, due: None, period: Duration::ZERO, running: 0, deleted: None, allocated_at,
        };
        lock(&machine.timers().set).insert(address, timer);
        address
    }

    /// Sets the timer; true if it was set already.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exsettimer"]
    fn ExSetTimer(thread, address: usize, due: i64, period: i64, parameters: usize) -> u8 {
        let machine = thread.machine();
        let at = deadline(machine, due);
        let was_set = with_timer(thread, address, |timer| {
            timer.period = Duration::from_nanos(period.unsigned_abs().saturating_mul(100));
            timer.due.replace(with_tolerance(machine, timer.attributes, at)).is_some()
        });
        machine.world().wake(machine.timers().key());
        was_set.unwrap_or(false).into()
    }

    /// Cancels the timer; true if it was set. A callback may still be running.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-excanceltimer"]
    fn ExCancelTimer(thread, address: usize, reserved: usize) -> u8 {
        with_timer(thread, address, |timer| timer.due.take().is_some()).unwrap_or(false).into()
    }

    /// Deletes the timer; with `wait`, after its callback has returned.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exdeletetimer", point: true]
    fn ExDeleteTimer(thread, address: usize, cancel: u8, wait: u8, parameters: usize) -> u8 {
        if wait != 0 && cancel == 0 {
            thread.stop(&rules::EX_TIMER, "ExDeleteTimer: Wait without Cancel");
            return 0;
        }
        if wait != 0 && thread.irql() > APC {
            thread.bugcheck(&rules::IRQL_NOT_LESS_OR_EQUAL, [0, 2, 0, 0], "ExDeleteTimer with Wait above APC_LEVEL");
            return 0;
        }
        delete(thread, address, wait != 0, parameters)
    }

    /// Time since boot in 100 ns, and the performance counter.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kequeryinterrupttimeprecise"]
    fn KeQueryInterruptTimePrecise(thread, counter: usize) -> u64 {
        let now = in_100ns(thread.machine().world().now());
        if counter != 0 && probe::write(counter, now).is_err() {
            thread.bad_pointer("QpcTimeStamp", counter);
        }
        now
    }

    /// System time, since 1601, in 100 ns.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kequerysystemtimeprecise"]
    fn KeQuerySystemTimePrecise(thread, place: usize) {
        if probe::write(place, system_time(thread.machine())).is_err() {
            thread.bad_pointer("CurrentTime", place);
        }
    }
}
