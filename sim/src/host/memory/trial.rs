//! One run of a small, busy scenario under one schedule, many of them, and what is told of one that fails.
//!
//! ```text
//!   ┌───────┐ ── datagrams ──► ┌──────┐     handshake; then, while datagrams go both ways, four changes of alpha: down and
//!   │ alpha │ ◄── datagrams ── │ beta │     up, beta removed and told of again, other ways to send and to receive; at last
//!   └───────┘                  └──────┘     a ping each way, and both drivers unloaded
//! ```
//!
//! What may go wrong with any one packet is no failure. A stop, a world at rest with something undone, a tunnel that does not
//! work afterwards and anything left behind are.

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use abi::policy::Policy;

use super::pair::{Pair, Station};
use crate::host::computer::{self, BootError};
use crate::nt::machine::{Machine, Options};
use crate::verifier::explore::{self, Plan, Preemption, Switch};
use crate::verifier::schedule::{Mode, Trace, World};

/// How long anything may take that is to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Programs that send in each direction, and bursts of up to three datagrams that each sends.
const SENDERS: usize = 2;
const BURSTS: usize = 4;
/// Changes of alpha's configuration meanwhile.
const CHANGES: usize = 4;
/// Runs that shortening a list may take.
const MOST_SHORTENED: usize = 200;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one line, the same for the same mistake.
    pub kind: String,
    /// All of it.
    pub detail: String,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it began with.
    pub seed: u64,
    /// `None` if nothing went wrong.
    pub failure: Option<Failure>,
    /// Its preemptions, in their order.
    pub switches: Vec<Switch>,
    /// What its scheduler did.
    pub trace: Trace,
}

impl Run {
    /// Its list of preemptions.
    #[must_use]
    pub fn list(&self) -> Vec<Preemption> {
        self.switches.iter().map(|switch| switch.preemption).collect()
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        let detail = error.to_string();
        Self { kind: kind(&detail), detail }
    }
}

/// The first line, without numbers that differ from run to run.
fn kind(detail: &str) -> String {
    let line = detail.lines().find(|line| line.contains("*** STOP"));
    let line = line.or(detail.lines().next()).unwrap_or_default();
    line.split(" (0x").next().unwrap_or_default().to_owned()
}

/// Runs the scenario once.
#[must_use]
pub fn run(driver: &Path, seed: u64, plan: Plan) -> Run {
    let world = World::exploring(seed, plan);
    let main = world.enter("main");
    let ended = catch_unwind(AssertUnwindSafe(|| scenario(&world, driver)));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let detail = text.unwrap_or_else(|| "a panic".to_owned());
            Some(Failure { kind: kind(&detail), detail })
        }
    };
    let (switches, trace) = (world.switches(), world.trace());
    drop(main);
    Run { seed, failure, switches, trace }
}

fn scenario(world: &Arc<World>, driver: &Path) -> Result<(), Failure> {
    let options = Options { cpus: 2, verified: true, ..Options::default() };
    let pair = Pair::boot(world, &options, driver)?;
    let done = busy(&pair);
    for station in [&pair.alpha, &pair.beta] {
        let machine = station.computer().machine();
        if machine.is_dead() {
            let detail = computer::report(machine);
            return Err(Failure { kind: kind(&detail), detail });
        }
    }
    done?;
    let leaks = pair.shut_down()?;
    if leaks.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = leaks.iter().map(ToString::to_string).collect();
    Err(Failure { kind: "something is left behind".to_owned(), detail: lines.join("\n") })
}

/// Handshake, traffic, changes under it.
fn busy(pair: &Pair) -> Result<(), Failure> {
    let status = |what: &'static str| {
        move |status: i32| {
            let kind = format!("{what}: status {status:#010x}");
            Failure { detail: kind.clone(), kind }
        }
    };
    ping(&pair.alpha, pair.beta.inner()[0])?;
    pair.world.preempt();
    let ends = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)];
    let traffic: Vec<_> = (0..SENDERS)
        .flat_map(|_| ends)
        .map(|(from, to)| {
            let (endpoint, to, clock) =
                (from.endpoint().clone(), to.inner()[0], pair.world.clone());
            pair.world.spawn("traffic", move || {
                for _ in 0..BURSTS {
                    for _ in 0..clock.random() % 4 {
                        endpoint.send_datagram(to, vec![0x5A; (clock.random() % 1300) as usize]);
                    }
                    clock.sleep(Duration::from_micros(clock.random() % 400));
                }
            })
        })
        .collect();
    let (alpha, beta) = (&pair.alpha, pair.beta.as_peer().map_err(status("GET"))?);
    for _ in 0..CHANGES {
        pair.world.sleep(Duration::from_micros(pair.world.random() % 300));
        let number = pair.world.random();
        let value = Some((number >> 32) as u32 % 2);
        match number % 4 {
            0 => alpha.set_up(false).and_then(|()| alpha.set_up(true)),
            1 => alpha
                .remove_peer(&beta.public_key)
                .and_then(|()| alpha.set_peers(std::slice::from_ref(&beta))),
            2 => alpha.tunnel().set_policy(&[(Policy::SendEngine, value)]),
            _ => alpha.tunnel().set_policy(&[(Policy::FastPath, value)]),
        }
        .map_err(status("a change"))?;
    }
    for thread in traffic {
        thread.join(Some(pair.world.now() + PATIENCE));
    }
    ping(&pair.alpha, pair.beta.inner()[1])?;
    ping(&pair.beta, pair.alpha.inner()[0])
}

fn ping(from: &Station, to: IpAddr) -> Result<(), Failure> {
    let answered = (0..3).any(|_| from.endpoint().ping(to, 56, PATIENCE).is_some());
    if answered {
        return Ok(());
    }
    let waiting = from.computer().machine().world().waiting().join("\n  ");
    let kind = format!("{to} does not answer");
    Err(Failure { detail: format!("{kind}; who waits:\n  {waiting}"), kind })
}

/// What many runs came to.
#[derive(Debug)]
pub struct Sum {
    /// How many there were.
    pub runs: u64,
    /// Their preemptions.
    pub preemptions: u64,
    /// The first that failed, at most as many as were asked for.
    pub failed: Vec<Run>,
}

/// Runs the schedules of `count` seeds from `first` on, on `jobs` threads, until `most` have failed; `progress` is told how
/// many are done.
pub fn many(
    driver: &Path,
    (first, count): (u64, u64),
    jobs: usize,
    most: usize,
    progress: impl Fn(u64) + Sync,
) -> Sum {
    let (next, runs, preemptions) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (failures, failed) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let work = || {
        while failures.load(Ordering::Relaxed) < most {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let seed = first + number;
            let run = run(driver, seed, Plan::of(seed));
            preemptions.fetch_add(run.switches.len() as u64, Ordering::Relaxed);
            if run.failure.is_some() {
                failures.fetch_add(1, Ordering::Relaxed);
                crate::verifier::schedule::lock(&failed).push(run);
            }
            progress(runs.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_by_key(|run| run.seed);
    Sum { runs: runs.into_inner(), preemptions: preemptions.into_inner(), failed }
}

/// A failure with the shortest list that still shows it.
pub struct Shortened {
    /// The run with that list.
    pub run: Run,
    /// How long the list was.
    pub before: usize,
    lines: Vec<String>,
}

/// Shortens the list of a run that failed.
#[must_use]
pub fn shorten(driver: &Path, failed: &Run) -> Shortened {
    let kind = failed.failure.as_ref().map(|failure| failure.kind.clone());
    let again = |list: &[Preemption]| {
        run(driver, failed.seed, Plan::Listed(list.iter().copied().collect()))
    };
    let same = |run: &Run| run.failure.as_ref().map(|failure| &failure.kind) == kind.as_ref();
    let list = explore::shrink(failed.list(), MOST_SHORTENED, |list| same(&again(list)));
    let found = Some(again(&list)).filter(same);
    let run = found.unwrap_or_else(|| failed.clone());
    let lines = in_words(driver, &run.switches);
    Shortened { run, before: failed.switches.len(), lines }
}

/// Preemptions by function, file and line.
fn in_words(driver: &Path, switches: &[Switch]) -> Vec<String> {
    let world = World::new(Mode::Virtual { seed: 0 });
    let _main = world.enter("names");
    let machine = Machine::boot(&world, Options { name: "names".into(), ..Options::default() });
    // Without it, offsets in the driver are told.
    let _ = machine.load(driver);
    switches.iter().map(|switch| switch.describe(&machine)).collect()
}

impl fmt::Display for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, list) = (self.run.seed, self.run.list());
        if let Some(failure) = &self.run.failure {
            writeln!(f, "{}", failure.detail.trim_end())?;
        }
        writeln!(f, "seed {seed}, {} of {} preemptions are enough:", list.len(), self.before)?;
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        write!(f, "again: penstock-sim schedules --seed {seed} --list '{}'", explore::list(&list))
    }
}
