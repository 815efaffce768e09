//! The arguments, the commands, and what these have in common: where the driver is and how a failure is told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use abi::discard::Discard;
use abi::policy::{Policy, SCALING_EXCLUDE};
use abi::statistics::{Counter, Statistics};
use clap::{Args, Parser, Subcommand};
use sim::host::computer::{BootError, Tunnel};
use sim::verifier::report::Leak;

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod policy;
pub(crate) mod rules;
pub(crate) mod schedules;
pub(crate) mod soak;
pub(crate) mod up;

/// Runs penstock.sys, a Windows kernel driver, on Linux: as a WireGuard tunnel, as a demonstration, or to look at it.
///
/// The driver file is the one that scripts/build.sh makes for Windows, loaded unchanged.
#[derive(Parser)]
#[command(name = "penstock-sim", disable_version_flag = true, arg_required_else_help = true)]
struct CommandLine {
    /// Print the version, and how much of the simulated Windows is guessed.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be a WireGuard tunnel: make the TUN device NAME and answer `wg` for it.
    ///
    /// Stays in the foreground, as `wireguard-go -f NAME` does. Configure it with `wg set NAME ...`, give it addresses
    /// and bring it up with `ip`. Ends on SIGINT, SIGTERM, when the device is deleted, or when
    /// /var/run/wireguard/NAME.sock is removed; the adapter is then brought down and the driver unloaded.
    ///
    /// Exit code 3: the driver left something behind, or stopped the machine.
    Up(up::Up),
    /// Change policy values of the driver behind NAME while it runs, as an administrator would in the registry.
    ///
    /// Every adapter of the driver follows at once; nothing is lost. What is out of bounds is the default, and the driver's
    /// log says so.
    Policy(policy::Change),
    /// Show two simulated Windows machines talking through a tunnel, in this process alone.
    ///
    /// Needs neither root nor a network. Time is virtual, so the same seed gives the same run.
    Demo(demo::Demo),
    /// Load and unload a driver and say what it imports and what it left behind.
    Check(check::Check),
    /// Have two simulated Windows machines talk while everything about them changes, for an hour or as long as is said.
    ///
    /// Prints a line a minute. Exit code 1: a packet is not accounted for, memory grows, or nothing goes through any more;
    /// 3: the driver stopped a machine, or left something behind.
    Soak(soak::Soak),
    /// Run a small scenario under many orders of events: one for each seed, its CPUs switched at imports, callbacks and atomics.
    ///
    /// A failure prints its report, the shortest list of switches that still shows it, and how to run that again. Exit code 3:
    /// something failed.
    Schedules(schedules::Schedules),
    /// List the rules that stop a simulated machine: what each forbids, whose it is in Windows, and the test that proves it.
    Rules(rules::Rules),
}

/// Which driver.
#[derive(Args, Clone, Debug)]
struct DriverFile {
    /// The driver file [default: target/driver/penstock.sys, here or beside this program].
    #[arg(long = "driver", value_name = "PATH")]
    path: Option<PathBuf>,
}

/// What an administrator has set.
#[derive(Args, Clone, Debug)]
struct Policies {
    /// Set a policy value of the driver, as the registry would. May be repeated.
    ///
    /// An unknown NAME is answered with the list of them.
    #[arg(long = "policy", value_name = "NAME=VALUE", value_parser = policy)]
    policies: Vec<Setting>,
}

/// A value and its name in the registry.
#[derive(Clone, Debug)]
enum Setting {
    /// A `REG_DWORD`.
    Number(String, u32),
    /// A `REG_SZ`.
    Text(String, String),
}

impl Policies {
    /// The numbers.
    fn numbers(&self) -> BTreeMap<String, u32> {
        let number = |setting: &Setting| match setting {
            Setting::Number(name, value) => Some((name.clone(), *value)),
            Setting::Text(..) => None,
        };
        self.policies.iter().filter_map(number).collect()
    }

    /// The texts.
    fn texts(&self) -> BTreeMap<String, String> {
        let text = |setting: &Setting| match setting {
            Setting::Text(name, value) => Some((name.clone(), value.clone())),
            Setting::Number(..) => None,
        };
        self.policies.iter().filter_map(text).collect()
    }
}

/// Reads `NAME=VALUE`. Bounds are the driver's to look at.
fn policy(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once('=').ok_or("it is written NAME=VALUE")?;
    if name.eq_ignore_ascii_case(SCALING_EXCLUDE) {
        return Ok(Setting::Text(SCALING_EXCLUDE.to_owned(), value.to_owned()));
    }
    let known = Policy::ALL.iter().find(|policy| policy.name().eq_ignore_ascii_case(name));
    let Some(known) = known else {
        let all = Policy::ALL.iter().map(|policy| {
            let (range, default) = (policy.range(), policy.default());
            let (least, most) = (range.start(), range.end());
            format!(
                "\n  {:12} {least} to {most}, default {default} ({})",
                policy.name(),
                policy.unit()
            )
        });
        let all = all.collect::<String>();
        return Err(format!(
            "there is no policy {name}; there are{all}\n  {SCALING_EXCLUDE} a list of CPUs"
        ));
    };
    let value = value.parse().map_err(|error| format!("{}: {error}", known.name()))?;
    Ok(Setting::Number(known.name().to_owned(), value))
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let line = CommandLine::parse();
    if line.version {
        println!("penstock-sim {}", env!("CARGO_PKG_VERSION"));
        println!("{}", sim::nt::guesses());
        return ExitCode::SUCCESS;
    }
    let outcome = match line.command {
        Some(Command::Up(up)) => up.run(),
        Some(Command::Policy(change)) => change.run(),
        Some(Command::Demo(demo)) => demo.run(),
        Some(Command::Check(check)) => check.run(),
        Some(Command::Soak(soak)) => soak.run(),
        Some(Command::Schedules(schedules)) => schedules.run(),
        Some(Command::Rules(rules)) => rules.run(),
        None => return ExitCode::from(2),
    };
    match outcome {
        Ok(leaks) if leaks.is_empty() => ExitCode::SUCCESS,
        Ok(leaks) => {
            for leak in &leaks {
                eprintln!("left behind: {}: {}", leak.kind, leak.detail);
            }
            ExitCode::from(3)
        }
        Err(Failure { message, code }) => {
            eprintln!("penstock-sim: {message}");
            ExitCode::from(code)
        }
    }
}

/// What a command that ran to its end found left behind.
pub(crate) type Outcome = Result<Vec<Leak>, Failure>;

/// Why a command did not run to its end.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For a person.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        let code = if matches!(error, BootError::Stopped(_)) { 3 } else { 1 };
        Self { message: error.to_string(), code }
    }
}

/// Prints what a tunnel's driver counted: every counter, and the discards there were, by reason.
pub(crate) fn print_statistics(tunnel: &Tunnel) -> Result<(), Failure> {
    let block = tunnel
        .statistics()
        .map_err(|status| Failure::new(format!("statistics: {status:#010x}")))?;
    let statistics =
        Statistics::parse(&block).ok_or_else(|| Failure::new("statistics of another layout"))?;
    for counter in Counter::ALL {
        println!("  {:24} {:>12}", counter.name(), statistics.counter(*counter));
    }
    for reason in Discard::ALL.iter().filter(|reason| statistics.discarded(**reason) > 0) {
        let (name, packets) = (reason.name(), statistics.discarded(*reason));
        println!("  discarded {name:14} {packets:>12}  {}", reason.description());
    }
    Ok(())
}

/// Where the driver is built to, seen from the repository.
const BUILT: &str = "target/driver/penstock.sys";

impl DriverFile {
    /// The file, checked to be there.
    pub(crate) fn find(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.path {
            return found(path).ok_or_else(|| missing(path));
        }
        let program = std::env::current_exe().unwrap_or_default();
        let beside = program.ancestors().skip(1).map(|directory| directory.join("penstock.sys"));
        let above = program.ancestors().skip(1).map(|directory| directory.join(BUILT));
        let here = std::iter::once(PathBuf::from(BUILT));
        here.chain(beside.take(1))
            .chain(above)
            .find_map(|path| found(&path))
            .ok_or_else(|| missing(Path::new(BUILT)))
    }
}

fn found(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_owned())
}

fn missing(path: &Path) -> Failure {
    Failure::new(format!(
        "there is no driver at {} (scripts/build.sh builds it; --driver PATH names another)",
        path.display()
    ))
}
