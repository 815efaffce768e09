//! `up --dry-run`: what would be done to bring a tunnel up, and to take it down.

use std::path::PathBuf;

use clap::Args;
use ctl::config::read::Purpose;
use ctl::tunnel::{Plan, is_name};

use super::strip::{read_file, tunnel_of};
use super::{Failure, Outcome};

/// Arguments of `up`.
#[derive(Args)]
pub(crate) struct Up {
    /// The file, which the tunnel is named for: NAME.conf, or NAME.conf.dpapi.
    file: PathBuf,
    /// Only say what would be done. So far nothing else can be asked for.
    #[arg(long, required = true)]
    dry_run: bool,
}

impl Up {
    /// Prints the plan.
    pub(crate) fn run(self) -> Outcome {
        let name = tunnel_of(&self.file);
        if !is_name(name) {
            let why = "a tunnel's name, which its file has, is up to 32 of A-Z a-z 0-9 _ = + . -";
            return Err(Failure::new(self.file.display(), why));
        }
        // Nothing is run, so commands may stand there.
        let reading = read_file(&self.file, Purpose::Tunnel { scripts: true })?;
        super::print(&Plan::of(name, &reading.config).to_string())
    }
}
