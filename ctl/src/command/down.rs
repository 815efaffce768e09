//! `down`: takes a tunnel down that `up` brought up.

use std::path::PathBuf;

use clap::Args;

#[cfg(unix)]
use super::Failure;
use super::Outcome;

/// Arguments of `down`.
#[derive(Args)]
pub(crate) struct Down {
    /// The tunnel, or its file. By its name alone whatever the interface has is taken from it.
    #[arg(value_name = "NAME|FILE")]
    tunnel: PathBuf,
    /// Run the commands of the file, PreDown and PostDown.
    #[cfg(unix)]
    #[arg(long)]
    scripts: bool,
}

impl Down {
    #[cfg(unix)]
    pub(crate) fn run(self) -> Outcome {
        use ctl::linux::Machine;

        let unable =
            |name: &str, why: String| Failure::new(format_args!("Unable to take down {name}"), why);
        let is_file = self.tunnel.extension().is_some_and(|ending| ending == "conf");
        let plan = if is_file {
            super::up::plan_of(&self.tunnel, self.scripts)?.0
        } else {
            let name = self.tunnel.to_str().unwrap_or_default();
            let plan = Machine::of(name).plan();
            plan.map_err(|why| unable(name, ctl::words::said(&why)))?
        };
        let down = ctl::tunnel::Running::of(&plan).down(&mut Machine::of(&plan.name));
        down.map_err(|left| {
            let left: Vec<_> = left.iter().map(ToString::to_string).collect();
            unable(&plan.name, left.join("\n"))
        })
    }

    /// What a tunnel has on Windows is its service's.
    #[cfg(windows)]
    pub(crate) fn run(self) -> Outcome {
        super::install::uninstall_tunnel(super::strip::tunnel_of(&self.tunnel))
    }
}
