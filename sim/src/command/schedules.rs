//! `penstock-sim schedules`: a small scenario under many orders of events, or under one of them again.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

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
    /// Processes that share them [default: one for each CPU of this host].
    #[arg(long)]
    jobs: Option<u64>,
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
        let cpus = || std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let jobs = self.jobs.unwrap_or_else(cpus).min(self.count);
        if jobs > 1 {
            return self.share(&path, jobs);
        }
        let (began, shown) = (Instant::now(), std::io::stderr().is_terminal());
        let progress = |done: u64| {
            let every = if shown { 100 } else { 5000 };
            if done.is_multiple_of(every) {
                let seconds = began.elapsed().as_secs_f64();
                eprintln!("{done} of {} from seed {}, {seconds:.0} s", self.count, self.seed);
            }
        };
        let seeds = (self.seed, self.count);
        let sum = trial::many(&path, seeds, self.failures, progress);
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

    /// Has as many processes run a part each, until one of them fails. Threads would keep each other waiting: a pool's block is
    /// protected when it is made and when it is freed, which stops every thread of a process.
    fn share(&self, driver: &Path, jobs: u64) -> Outcome {
        let failure =
            |error: std::io::Error| Failure::new(format!("a process of its own: {error}"));
        let program = std::env::current_exe().map_err(failure)?;
        let mut running = Running(Vec::new());
        for job in 0..jobs {
            let (from, to) = (self.count * job / jobs, self.count * (job + 1) / jobs);
            let mut part = Command::new(&program);
            part.args(["schedules", "--jobs", "1", "--driver"]).arg(driver);
            for (option, value) in [
                ("--seed", self.seed + from),
                ("--count", to - from),
                ("--failures", self.failures as u64),
            ] {
                part.arg(option).arg(value.to_string());
            }
            running.0.push(part.spawn().map_err(failure)?);
        }
        while !running.0.is_empty() {
            std::thread::sleep(Duration::from_millis(50));
            for at in (0..running.0.len()).rev() {
                match running.0[at].try_wait().map_err(failure)? {
                    None => {}
                    Some(ended) if ended.success() => drop(running.0.swap_remove(at)),
                    Some(_) => {
                        let message = "a process that ran schedules failed".to_owned();
                        return Err(Failure { message, code: 3 });
                    }
                }
            }
        }
        Ok(Vec::new())
    }
}

/// Processes; those that still run are ended with it.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // It may have ended.
            let _ = process.kill();
            let _ = process.wait();
        }
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
fn told(driver: &Path, runs: &[Run]) -> Outcome {
    let failed: Vec<_> = runs.iter().filter(|run| run.failure.is_some()).collect();
    for run in &failed {
        println!("\n{}", trial::shorten(driver, run));
    }
    match failed.len() {
        0 => Ok(Vec::new()),
        count => Err(Failure { message: format!("{count} schedules failed"), code: 3 }),
    }
}
