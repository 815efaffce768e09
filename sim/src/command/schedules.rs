//! `penstock-sim schedules`: a small scenario under many orders of events, or under one of them again.

use std::io::IsTerminal;
use std::time::Instant;

use clap::Args;
use sim::host::memory::trial::{self, Run};
use sim::verifier::explore::{self, Plan, Preemption};

use super::DriverFile;
use super::{Failure, Outcome};

/// Arguments of `schedules`.
#[derive(Args)]
pub(crate) struct Schedules {
    #[command(flatten)]
    driver: DriverFile,
    /// Seeds to run, from the first on.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads [default: one for each CPU of this host].
    #[arg(long)]
    jobs: Option<usize>,
    /// Run the seed once, preempting at these places and no others: what a failure prints, or the name of a file with it.
    #[arg(long, value_name = "ACTOR:POINT ...")]
    list: Option<String>,
    /// Go on until so many have failed.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

impl Schedules {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        let path = self.driver.find()?;
        if let Some(list) = &self.list {
            let plan = Plan::Listed(read(list)?.into_iter().collect());
            let run = trial::run(&path, self.seed, plan);
            return told(&path, &[run]);
        }
        let jobs = self.jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
        let (began, shown) = (Instant::now(), std::io::stderr().is_terminal());
        let progress = |done: u64| {
            let every = if shown { 100 } else { 5000 };
            if done.is_multiple_of(every) {
                eprintln!("{done} of {}, {:.0} s", self.count, began.elapsed().as_secs_f64());
            }
        };
        let seeds = (self.seed, self.count);
        let sum = trial::many(&path, seeds, jobs.unwrap_or(1), self.failures, progress);
        println!(
            "{} schedules from seed {}, {} preemptions, {} failed, {:.1} s",
            sum.runs,
            self.seed,
            sum.preemptions,
            sum.failed.len(),
            began.elapsed().as_secs_f64()
        );
        told(&path, &sum.failed)
    }
}

/// A list, or the file that has it.
fn read(list: &str) -> Result<Vec<Preemption>, Failure> {
    let file = std::fs::read_to_string(list);
    let text = file.as_deref().unwrap_or(list);
    explore::read_list(text)
        .map_err(|word| Failure::new(format!("{word} is no preemption: it is written ACTOR:POINT")))
}

/// Tells of each run that failed, with the shortest list that shows the same.
fn told(driver: &std::path::Path, runs: &[Run]) -> Outcome {
    let failed: Vec<_> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failed {
        println!("\n{}", trial::shorten(driver, run));
    }
    match failed.len() {
        0 => Ok(Vec::new()),
        count => Err(Failure { message: format!("{count} schedules failed"), code: 3 }),
    }
}
