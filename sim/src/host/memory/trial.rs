//! One run of a small, busy scenario under one schedule, many of them, and what is told of one that fails.
//!
//! ```text
//!   ┌───────┐ ── datagrams ──► ┌──────┐     what alpha goes through meanwhile, how many CPUs there are and how many datagrams
//!   │ alpha │ ◄── datagrams ── │ beta │     come at once is drawn from the seed, too: `course.rs`
//!   └───────┘                  └──────┘
//! ```
//!
//! What may go wrong with any one packet is no failure. A stop, a world at rest with something undone, a packet of which nothing
//! is said, datagrams that leave in another order than that of their counters, a tunnel that does not work afterwards and
//! anything left behind are.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::host::computer::{self, BootError};
use crate::nt::machine::{Machine, Options};
use crate::verifier::explore::{self, Plan, Preemption, Switch};
use crate::verifier::schedule::{Mode, Trace, World};

mod course;

use course::Scenario;

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

impl Failure {
    /// A request that was refused.
    fn of(what: &str, status: i32) -> Self {
        Self::plain(format!("{what}: status {status:#010x}"))
    }

    /// One of which there is no more to say than what it is.
    fn plain(kind: String) -> Self {
        Self { detail: kind.clone(), kind }
    }

    /// A machine that stopped.
    fn stopped(machine: &Machine) -> Self {
        let detail = computer::report(machine);
        Self { kind: kind(&detail), detail }
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
    let ended = catch_unwind(AssertUnwindSafe(|| Scenario::of(seed).run(&world, driver)));
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

/// Runs the schedules of `count` seeds from `first` on, one after the other, until `most` have failed; `progress` is told how
/// many are done.
pub fn many(driver: &Path, (first, count): (u64, u64), most: usize, progress: impl Fn(u64)) -> Sum {
    let mut sum = Sum { runs: 0, preemptions: 0, failed: Vec::new() };
    while sum.runs < count && sum.failed.len() < most {
        let seed = first + sum.runs;
        let run = run(driver, seed, Plan::of(seed));
        sum.runs += 1;
        sum.preemptions += run.switches.len() as u64;
        if run.failure.is_some() {
            sum.failed.push(run);
        }
        progress(sum.runs);
    }
    sum
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
