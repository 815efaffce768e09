//! The commands that reach an interface's driver: `show` and what changes it.

use std::path::PathBuf;

use abi::ioctl::Set;
use clap::{Args, Subcommand};
use ctl::change::Change;
use ctl::config::read::Purpose;
use ctl::config::{Config, print};
use ctl::driver::{self, Driver};
use ctl::words::{self, said};

use super::reach::{driver, get, no_access};
use super::strip::read_file;
use super::{Failure, Outcome, note, show};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show interfaces and their peers.
    Show(show::Show),
    /// Print an interface as the file that `setconf` takes.
    Showconf {
        /// The interface.
        name: String,
    },
    /// Change an interface, add peers, remove peers, or change them.
    Set(Assignment),
    /// Make an interface what a file says, and nothing else.
    Setconf(Apply),
    /// Add what a file says to an interface.
    Addconf(Apply),
    /// As setconf, without a disturbance of peers that stay.
    Syncconf(Apply),
}

/// Arguments of `set`.
#[derive(Args)]
pub(crate) struct Assignment {
    /// The interface.
    name: String,
    /// What is to be changed:
    ///
    /// [listen-port PORT] [private-key FILE] [peer KEY [remove] [preshared-key FILE] [endpoint HOST:PORT]
    /// [persistent-keepalive SECONDS|off] [allowed-ips [+|-]ADDRESS/LENGTH,...]]...
    ///
    /// `+` gives a prefix to the peer, `-` takes it; without either the list replaces what it had.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Arguments of `setconf`, `addconf` and `syncconf`.
#[derive(Args)]
pub(crate) struct Apply {
    /// The interface.
    name: String,
    /// The file; `-` is the standard input.
    file: PathBuf,
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Show(show) => show.run(),
            Self::Showconf { name } => showconf(&name),
            Self::Set(assignment) => assignment.run(),
            Self::Setconf(apply) => apply.run(|config, _| Ok(Change::setting(config))),
            Self::Addconf(apply) => apply.run(|config, _| Ok(Change::adding(config))),
            Self::Syncconf(apply) => apply.run(|config, name| {
                let running = get(name)?;
                let running = Set::parse(&running);
                running
                    .map(|running| Change::syncing(config, &running))
                    .map_err(|_| no_access(driver::Failure::Unknown))
            }),
        }
    }
}

fn showconf(name: &str) -> Outcome {
    let answer = get(name)?;
    let set = Set::parse(&answer).map_err(|_| no_access(driver::Failure::Unknown))?;
    super::print(&print::print(&Config::from(&set)))
}

impl Assignment {
    fn run(self) -> Outcome {
        let asked = words::parse(&self.words, &words::read_key).map_err(Failure::Told)?;
        if asked.has_mark {
            note("Warning: only Linux has fwmark: it is ignored");
        }
        change(&self.name, asked.change)
    }
}

impl Apply {
    /// Applies what `change` makes of the file.
    fn run(self, change: impl FnOnce(Config, &str) -> Result<Change, Failure>) -> Outcome {
        let reading = read_file(&self.file, Purpose::Interface)?;
        self::change(&self.name, change(reading.config, &self.name)?)
    }
}

fn change(name: &str, mut change: Change) -> Outcome {
    change.resolve().map_err(|unresolved| {
        Failure::Told(format!("{}: `{}'", said(&unresolved.error), unresolved.endpoint))
    })?;
    let device = driver().open(name);
    device
        .and_then(|device| driver::set(&*device, change.encode()))
        .map_err(|failure| Failure::new("Unable to modify interface", failure))
}
