//! One clock and one order of events for all simulated machines of a process.
//!
//! A [`World`] is everything that time and waiting mean here, so that the rest of the simulator is written once for two modes:
//!
//! * `Parallel`: real threads, the real clock; waiting is a sharded parking lot, as a futex is. For benchmarks and real sockets.
//! * `Virtual`: one baton. Exactly one actor (a host thread known to the world) runs; whoever waits hands the baton to another
//!   that can run, chosen by a seeded generator; when nobody can, the clock jumps to the next deadline. The same seed gives
//!   the same run.
//!
//! A wait is a closure that polls plus the [`Key`] somebody wakes after changing what it polls. That shape needs no condition
//! variable per object, works on state that lives in the driver's memory (a `KEVENT`), and means the same in both modes.
//!
//! In Virtual mode the baton never moves while an actor is at `DISPATCH_LEVEL`:
//! the driver's own spin locks spin without telling anybody, so a holder must be able to finish.
//! The exceptions are a call that a test has take time ([`crate::verifier::fault::Faults::slow`]), and a world that explores
//! schedules ([`World::exploring`], [`crate::verifier::explore`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::nt::level::DISPATCH;
use crate::nt::thread::Thread;
use crate::verifier::explore::{Explorer, Switch};

mod clock;
mod exploring;
mod host_cpu;
mod presence;

use exploring::{PASSED, Passed};
use host_cpu::HostCpu;
pub use presence::{JoinHandle, Presence};

/// How the world runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real threads and the real clock.
    Parallel,
    /// One thread at a time in an order drawn from `seed`, on a clock that jumps.
    Virtual {
        /// Start of the generator.
        seed: u64,
    },
}

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The deadline passed.
    TimedOut,
    /// Virtual mode only: nobody can run and nobody has a deadline. Told to foreground actors alone.
    Stuck,
}

/// What a wait waits on: any address, by convention that of the state its closure looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub usize);

impl Key {
    /// The key of a place in memory.
    pub fn of<T: ?Sized>(place: &T) -> Self {
        Self(std::ptr::from_ref(place).cast::<()>().addr())
    }
}

/// Locks a mutex; a poisoned one is taken as it is, because a panic elsewhere is already on its way to the user.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One bucket of the parking lot of the Parallel mode.
#[derive(Default)]
struct Lot {
    waiters: AtomicUsize,
    epoch: Mutex<u64>,
    woken: Condvar,
}

const LOTS: usize = 4096;
/// One scheduling point in this many moves the baton.
const POINTS_PER_SWITCH: u64 = 4;
/// Wall clock of a Virtual world at its start: 2026-01-01, so that runs repeat.
const VIRTUAL_EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// Interrupt time at the start of a world: a machine that has been up for a minute.
const UPTIME: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Runnable,
    Waiting { key: Key, deadline: Option<Duration> },
    Stuck,
    Done,
}

struct Actor {
    name: String,
    /// Never given twice.
    serial: u64,
    /// In a world that explores, the runnable actor of the highest rank runs.
    rank: u64,
    what: &'static str,
    state: State,
    /// Where it spun last, by the points it had passed; and whether it gave the baton away spinning, and had done nothing else
    /// since it had spun before.
    spun_at: Option<u64>,
    spins: bool,
    foreground: bool,
    turn: Arc<Condvar>,
}

struct Baton {
    now: Duration,
    generator: u64,
    actors: Vec<Actor>,
    running: Option<usize>,
    switches: u64,
    trace: u64,
    /// Actors there have been.
    serials: u64,
    /// The lowest rank that was given away.
    lowest: u64,
    spins: u64,
    /// Preemptions so far.
    taken: Vec<Switch>,
}

/// A clock, a generator and the actors that share them. See the module.
pub struct World {
    mode: Mode,
    started: Instant,
    wall: Duration,
    identity: u64,
    generator: AtomicU64,
    /// Nanoseconds that passed at once (Parallel mode).
    skipped: AtomicU64,
    lots: Vec<Lot>,
    baton: Mutex<Baton>,
    explorer: Option<Explorer>,
    /// Where its threads run, if one runs at a time.
    host_cpu: Option<HostCpu>,
}

thread_local! {
    /// The world this thread is an actor of, and its number there.
    static ACTOR: Cell<Option<(u64, usize)>> = const { Cell::new(None) };
}

/// What a seeded run did: equal for equal seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// How often the baton moved.
    pub switches: u64,
    /// A hash over who got it.
    pub hash: u64,
}

/// SplitMix64: one step of the generator.
pub(crate) fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl World {
    /// Makes a world.
    pub fn new(mode: Mode) -> Arc<Self> {
        Self::made(mode, None)
    }

    fn made(mode: Mode, explorer: Option<Explorer>) -> Arc<Self> {
        static IDENTITY: AtomicU64 = AtomicU64::new(1);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seed, wall) = match mode {
            Mode::Parallel => (since_epoch.as_nanos() as u64, since_epoch),
            Mode::Virtual { seed } => (seed, VIRTUAL_EPOCH),
        };
        let baton = Baton {
            now: UPTIME,
            generator: mix(seed.wrapping_add(GAMMA)),
            actors: Vec::new(),
            running: None,
            switches: 0,
            trace: 0,
            serials: 0,
            lowest: 1 << 63,
            spins: 0,
            taken: Vec::new(),
        };
        Arc::new(Self {
            mode,
            started: Instant::now(),
            wall,
            identity: IDENTITY.fetch_add(1, Ordering::Relaxed),
            generator: AtomicU64::new(seed),
            skipped: AtomicU64::new(0),
            lots: (0..LOTS).map(|_| Lot::default()).collect(),
            baton: Mutex::new(baton),
            explorer,
            host_cpu: matches!(mode, Mode::Virtual { .. }).then(HostCpu::take).flatten(),
        })
    }

    /// The mode it was made with.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether time is virtual and one actor runs at a time.
    pub fn is_virtual(&self) -> bool {
        matches!(self.mode, Mode::Virtual { .. })
    }

    /// The next number of the seeded generator (in Parallel mode seeded by the clock).
    pub fn random(&self) -> u64 {
        if let Some(number) = self.drawn() {
            return number;
        }
        mix(self.generator.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }

    /// What the scheduler did so far.
    pub fn trace(&self) -> Trace {
        let baton = lock(&self.baton);
        Trace { switches: baton.switches, hash: baton.trace }
    }

    /// Waits until `poll` gives a value, the deadline (a value of [`World::now`]) passes, or the world is stuck.
    ///
    /// `poll` runs at once, and again after each [`World::wake`] of `key`; it must not block. `what` is shown in reports.
    ///
    /// # Errors
    ///
    /// [`WaitEnd`].
    pub fn wait<T>(
        &self,
        key: Key,
        deadline: Option<Duration>,
        what: &'static str,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        if let Some(value) = poll() {
            return Ok(value);
        }
        match ACTOR.get() {
            Some((identity, number)) if self.is_virtual() && identity == self.identity => {
                self.wait_for_turn(number, Waiting { key, deadline, what }, poll)
            }
            _ => self.park(key, deadline, poll),
        }
    }

    /// Wakes whoever waits on `key`, to poll again.
    pub fn wake(&self, key: Key) {
        if self.is_virtual() {
            let mut baton = lock(&self.baton);
            for actor in &mut baton.actors {
                if matches!(actor.state, State::Waiting { key: on, .. } if on == key) {
                    actor.state = State::Runnable;
                }
            }
            if baton.running.is_none() {
                baton.hand_over();
            }
        }
        self.notify(self.lot(key));
    }

    /// Wakes everybody: a machine has died, or is switched off.
    pub fn wake_all(&self) {
        let mut baton = lock(&self.baton);
        for actor in &mut baton.actors {
            if matches!(actor.state, State::Waiting { .. }) {
                actor.state = State::Runnable;
            }
        }
        if self.is_virtual() && baton.running.is_none() {
            baton.hand_over();
        }
        drop(baton);
        for lot in &self.lots {
            self.notify(lot);
        }
    }

    /// Waits for `delay`.
    pub fn sleep(&self, delay: Duration) {
        let place = 0_u8;
        let deadline = self.now() + delay;
        // Its only ends are the deadline and `Stuck`, and a wait with a deadline is never stuck.
        let _ = self.wait(Key::of(&place), Some(deadline), "sleep", || None::<()>);
    }

    /// A place where another actor may take over; nothing happens at `DISPATCH_LEVEL` (see the module).
    pub fn point(&self) {
        let Some((identity, number)) = ACTOR.get() else { return };
        let raised = || Thread::current().is_some_and(|thread| thread.irql() >= DISPATCH);
        if !self.is_virtual() || self.explores() || identity != self.identity || raised() {
            return;
        }
        let mut baton = lock(&self.baton);
        if !baton.draw().is_multiple_of(POINTS_PER_SWITCH) {
            return;
        }
        baton.hand_over();
        drop(self.take_turn(baton, number));
    }

    /// Every actor that waits, and for what; for reports.
    pub fn waiting(&self) -> Vec<String> {
        let baton = lock(&self.baton);
        let waits = baton
            .actors
            .iter()
            .filter(|actor| matches!(actor.state, State::Waiting { .. } | State::Stuck));
        waits.map(|actor| format!("{}: {}", actor.name, actor.what)).collect()
    }

    fn lot(&self, key: Key) -> &Lot {
        &self.lots[mix(key.0 as u64) as usize % LOTS]
    }

    fn notify(&self, lot: &Lot) {
        // Pairs with the fence in `park`: either we see the waiter, or it sees what we changed.
        fence(Ordering::SeqCst);
        if lot.waiters.load(Ordering::Relaxed) != 0 {
            *lock(&lot.epoch) += 1;
            lot.woken.notify_all();
        }
    }

    fn park<T>(
        &self,
        key: Key,
        deadline: Option<Duration>,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let lot = self.lot(key);
        lot.waiters.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let end = loop {
            let before = *lock(&lot.epoch);
            if let Some(value) = poll() {
                break Ok(value);
            }
            let left = deadline.map(|at| at.saturating_sub(self.now()));
            if left == Some(Duration::ZERO) {
                break Err(WaitEnd::TimedOut);
            }
            let epoch = lock(&lot.epoch);
            if *epoch != before {
                continue;
            }
            match left {
                None => drop(lot.woken.wait(epoch).unwrap_or_else(PoisonError::into_inner)),
                Some(left) => drop(
                    lot.woken.wait_timeout(epoch, left).unwrap_or_else(PoisonError::into_inner),
                ),
            }
        };
        lot.waiters.fetch_sub(1, Ordering::Relaxed);
        end
    }

    fn register(&self, name: &str, foreground: bool) -> usize {
        let mut baton = lock(&self.baton);
        baton.serials += 1;
        let serial = baton.serials;
        let rank = self.explorer.as_ref().map_or(0, |explorer| explorer.rank(serial));
        let actor = Actor {
            name: name.to_owned(),
            serial,
            rank,
            what: "",
            state: State::Runnable,
            spun_at: None,
            spins: false,
            foreground,
            turn: Arc::new(Condvar::new()),
        };
        let free = baton.actors.iter().position(|actor| actor.state == State::Done);
        match free {
            Some(number) => {
                baton.actors[number] = actor;
                number
            }
            None => {
                baton.actors.push(actor);
                baton.actors.len() - 1
            }
        }
    }

    fn begin(&self, number: usize) {
        if self.is_virtual() {
            let mut baton = lock(&self.baton);
            let serial = baton.actors[number].serial;
            PASSED.set(Passed { serial, points: 0, turn: 0, drawn: 0 });
            if baton.running.is_none() {
                baton.running = Some(number);
            }
            drop(self.take_turn(baton, number));
        }
    }

    fn end(&self, number: usize) {
        let mut baton = lock(&self.baton);
        baton.actors[number].state = State::Done;
        if self.is_virtual() && baton.running == Some(number) {
            baton.hand_over();
        }
    }

    fn take_turn<'w>(
        &'w self,
        mut baton: MutexGuard<'w, Baton>,
        number: usize,
    ) -> MutexGuard<'w, Baton> {
        let turn = baton.actors[number].turn.clone();
        while baton.running != Some(number) {
            baton = turn.wait(baton).unwrap_or_else(PoisonError::into_inner);
        }
        PASSED.set(Passed { turn: 0, ..PASSED.get() });
        baton
    }

    fn wait_for_turn<T>(
        &self,
        number: usize,
        waiting: Waiting,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let Waiting { key, deadline, what } = waiting;
        loop {
            let mut baton = lock(&self.baton);
            if deadline.is_some_and(|at| at <= baton.now) {
                return Err(WaitEnd::TimedOut);
            }
            baton.actors[number].state = State::Waiting { key, deadline };
            baton.actors[number].spins = false;
            baton.actors[number].what = what;
            baton.hand_over();
            let mut baton = self.take_turn(baton, number);
            let stuck =
                std::mem::replace(&mut baton.actors[number].state, State::Runnable) == State::Stuck;
            drop(baton);
            if let Some(value) = poll() {
                return Ok(value);
            }
            if stuck {
                return Err(WaitEnd::Stuck);
            }
        }
    }
}

/// The arguments of one wait that do not depend on its type.
struct Waiting {
    key: Key,
    deadline: Option<Duration>,
    what: &'static str,
}

impl Baton {
    fn draw(&mut self) -> u64 {
        self.generator = self.generator.wrapping_add(GAMMA);
        mix(self.generator)
    }

    /// Gives the baton to an actor that can run; if there is none, lets time pass first.
    fn hand_over(&mut self) {
        loop {
            let ready = self.numbers(|actor| matches!(actor.state, State::Runnable | State::Stuck));
            // Without explorer all ranks are equal, and the generator chooses.
            let ranked = ready.iter().max_by_key(|number| self.actors[**number].rank);
            let ranked = ranked.filter(|number| self.actors[**number].rank > 0);
            let drawn = || ready.get(self.draw() as usize % ready.len().max(1));
            if let Some(&next) = ranked.or_else(drawn) {
                self.running = Some(next);
                self.switches += 1;
                self.trace = mix(self.trace ^ next as u64);
                self.actors[next].turn.notify_all();
                return;
            }
            if !self.pass_time() {
                self.running = None;
                return;
            }
        }
    }

    /// Nobody can run: jumps to the next deadline, or tells the foreground that there is none. False if nobody is left.
    fn pass_time(&mut self) -> bool {
        let deadline_of = |actor: &Actor| match actor.state {
            State::Waiting { deadline, .. } => deadline,
            _ => None,
        };
        if let Some(next) = self.actors.iter().filter_map(deadline_of).min() {
            self.now = self.now.max(next);
            for actor in &mut self.actors {
                if deadline_of(actor).is_some_and(|at| at <= next) {
                    actor.state = State::Runnable;
                }
            }
            return true;
        }
        let stuck =
            self.numbers(|actor| actor.foreground && matches!(actor.state, State::Waiting { .. }));
        for &number in &stuck {
            self.actors[number].state = State::Stuck;
        }
        !stuck.is_empty()
    }

    fn numbers(&self, which: impl Fn(&Actor) -> bool) -> Vec<usize> {
        self.actors
            .iter()
            .enumerate()
            .filter(|(_, actor)| which(actor))
            .map(|(number, _)| number)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three actors append to a list at their own pace; returns the list and the trace.
    fn race(seed: u64) -> (Vec<u32>, Trace) {
        let world = World::new(Mode::Virtual { seed });
        let _main = world.enter("main");
        let list = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..3)
            .map(|who| {
                let (world, list) = (world.clone(), list.clone());
                world.clone().spawn("racer", move || {
                    for _ in 0..20 {
                        lock(&list).push(who);
                        world.point();
                    }
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join(None));
        }
        (lock(&list).clone(), world.trace())
    }

    #[test]
    fn equal_seeds_give_equal_runs_and_others_do_not() {
        assert_eq!(race(1), race(1));
        assert_ne!(race(1).0, race(2).0);
    }

    #[test]
    fn the_clock_jumps_to_the_next_deadline() {
        let world = World::new(Mode::Virtual { seed: 3 });
        let _main = world.enter("main");
        let (real, before) = (Instant::now(), world.now());
        let sleeper = world.clone();
        let thread = world.spawn("sleeper", move || sleeper.sleep(Duration::from_secs(120)));
        world.sleep(Duration::from_secs(3600));
        assert_eq!(world.now() - before, Duration::from_secs(3600));
        assert!(thread.is_finished());
        assert!(real.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_world_at_rest_tells_the_foreground() {
        let world = World::new(Mode::Virtual { seed: 3 });
        let _main = world.enter("main");
        let end = world.wait(Key(1), None, "nothing", || None::<()>);
        assert_eq!(end, Err(WaitEnd::Stuck));
    }

    #[test]
    fn a_wake_is_never_lost() {
        for mode in [Mode::Parallel, Mode::Virtual { seed: 9 }] {
            let world = World::new(mode);
            let _main = world.enter("main");
            let turn = Arc::new(AtomicU64::new(0));
            let (other, theirs) = (world.clone(), turn.clone());
            let thread = world.spawn("pong", move || {
                for round in 0..2000 {
                    let mine = || (theirs.load(Ordering::SeqCst) == 2 * round + 1).then_some(());
                    assert!(other.wait(Key(7), None, "ping", mine).is_ok());
                    theirs.fetch_add(1, Ordering::SeqCst);
                    other.wake(Key(7));
                }
            });
            for round in 0..2000 {
                turn.fetch_add(1, Ordering::SeqCst);
                world.wake(Key(7));
                let back = || (turn.load(Ordering::SeqCst) == 2 * round + 2).then_some(());
                assert!(
                    world
                        .wait(Key(7), Some(world.now() + Duration::from_secs(20)), "pong", back)
                        .is_ok()
                );
            }
            assert!(thread.join(None));
        }
    }
}
