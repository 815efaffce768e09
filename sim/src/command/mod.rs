//! The commands, and what they have in common: where the driver is and how a failure is told.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use abi::discard::Discard;
use abi::statistics::{Counter, Statistics};
use sim::host::computer::{BootError, Tunnel};
use sim::verifier::report::Leak;

use crate::DriverFile;

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod up;

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
