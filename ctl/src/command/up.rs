//! `up`: brings the tunnel of a file up, or says what that would do.

use std::path::{Path, PathBuf};

use clap::Args;
use ctl::config::read::{Purpose, Reading};
use ctl::tunnel::{Plan, is_name};

use super::strip::{read_file, tunnel_of};
use super::{Failure, Outcome};

/// Arguments of `up`.
#[derive(Args)]
pub(crate) struct Up {
    /// The file, which the tunnel is named for: NAME.conf, or NAME.conf.dpapi.
    file: PathBuf,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Run the commands of the file, such as PreUp. On Windows policy says whether they are.
    #[cfg(unix)]
    #[arg(long)]
    scripts: bool,
}

impl Up {
    pub(crate) fn run(self) -> Outcome {
        // Where nothing is run, commands may stand there.
        let scripts = self.dry_run || self.runs_scripts();
        let (plan, reading) = plan_of(&self.file, scripts)?;
        if self.dry_run {
            return super::print(&plan.to_string());
        }
        bring_up(&plan, reading)
    }

    #[cfg(unix)]
    fn runs_scripts(&self) -> bool {
        self.scripts
    }

    #[cfg(windows)]
    fn runs_scripts(&self) -> bool {
        false
    }
}

#[cfg(windows)]
fn bring_up(plan: &Plan, _: Reading) -> Outcome {
    Err(Failure::new(
        &plan.name,
        "nothing on Windows brings it up yet; --dry-run says what would be done",
    ))
}

#[cfg(unix)]
fn bring_up(plan: &Plan, reading: Reading) -> Outcome {
    use ctl::linux::{Machine, lacking};

    lacking(plan).iter().for_each(|lacking| super::note(format_args!("Warning: {lacking}")));
    let came = ctl::tunnel::up(plan, reading.config, &mut Machine::of(&plan.name));
    // `down` knows what there is by the file, or by what it finds.
    came.map(drop)
        .map_err(|failure| Failure::new(format_args!("Unable to bring up {}", plan.name), failure))
}

/// The plan of a file, and what it says.
pub(super) fn plan_of(file: &Path, scripts: bool) -> Result<(Plan, Reading), Failure> {
    let name = tunnel_of(file);
    if !is_name(name) {
        return Err(Failure::new(file.display(), super::NAME_IS));
    }
    let reading = read_file(file, Purpose::Tunnel { scripts })?;
    Ok((Plan::of(name, &reading.config), reading))
}
