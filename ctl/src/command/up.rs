//! `up`: brings the tunnel of a file up, or says what that would do.

use std::path::{Path, PathBuf};

use clap::Args;
use ctl::config::read::{Purpose, Reading};
use ctl::policy::allowed::refusal;
use ctl::policy::kill_switch;
use ctl::tunnel::{Plan, is_name};

use super::policy::REGISTRY;
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
        if let Some(why) = refusal(&plan.name, &reading.config, &REGISTRY) {
            return Err(Failure::new(format_args!("Unable to bring up {}", plan.name), why));
        }
        bring_up(&plan, reading)
    }

    #[cfg(unix)]
    fn runs_scripts(&self) -> bool {
        self.scripts
    }

    #[cfg(windows)]
    fn runs_scripts(&self) -> bool {
        ctl::policy::runs_scripts(&REGISTRY)
    }
}

/// Brings it up, looks after it until this program is to end, and takes it down: the adapter, the filters and the sockets are its own.
#[cfg(windows)]
fn bring_up(plan: &Plan, reading: Reading) -> Outcome {
    use std::sync::mpsc;

    use ctl::tunnel::watch::{self, Signal, Watch};
    use ctl::windows::machine::Machine;
    use ctl::windows::{console, network_changes::NetworkChanges};
    use ctl::words::said;

    let (sender, receiver) = mpsc::channel();
    let watched = console::stop(sender.clone()).and_then(|()| {
        NetworkChanges::tell(move || {
            let _ = sender.send(Signal::Changed);
        })
    });
    let changes = watched.map_err(|why| Failure::new(&plan.name, said(&why)))?;
    let watch = Watch::of(&reading.config);
    let mut machine = Machine::of(&plan.name, false);
    let came = ctl::tunnel::up(plan, reading.config, &mut machine);
    let running = came.map_err(|failure| unable(plan, &failure))?;
    super::note(format_args!("{} is up until this ends: Ctrl-C takes it down", plan.name));
    watch::run(watch, &mut machine, &receiver, |line| super::note(line));
    drop(changes);
    running.down(&mut machine).map_err(|left| {
        let left: Vec<_> = left.iter().map(ToString::to_string).collect();
        Failure::new(format_args!("Unable to take down {}", plan.name), left.join("\n"))
    })
}

#[cfg(unix)]
fn bring_up(plan: &Plan, reading: Reading) -> Outcome {
    use ctl::linux::{Machine, lacking};

    lacking(plan).iter().for_each(|lacking| super::note(format_args!("Warning: {lacking}")));
    let came = ctl::tunnel::up(plan, reading.config, &mut Machine::of(&plan.name));
    // `down` knows what there is by the file, or by what it finds.
    came.map(drop).map_err(|failure| unable(plan, &failure))
}

fn unable(plan: &Plan, failure: &ctl::tunnel::Failure) -> Failure {
    Failure::new(format_args!("Unable to bring up {}", plan.name), failure)
}

/// The plan of a file, and what it says.
pub(super) fn plan_of(file: &Path, scripts: bool) -> Result<(Plan, Reading), Failure> {
    let name = tunnel_of(file);
    if !is_name(name) {
        return Err(Failure::new(file.display(), super::NAME_IS));
    }
    let reading = read_file(file, Purpose::Tunnel { scripts })?;
    Ok((Plan::of(name, &reading.config, kill_switch(&REGISTRY)), reading))
}
