//! `driver`: the driver's package, installed, updated and removed, and which version is there.

use std::path::{self, Path, PathBuf};
use std::{env, fs, io};

use clap::Subcommand;
use ctl::doctor::machine::takes_test_signatures;
use ctl::policy::engine::Writable;
use ctl::policy::{LOCAL, Registry, Value};
use ctl::service::driver_package::{Facts, Version};
use ctl::windows::registry::LocalMachine;
use ctl::windows::{driver_store, services};
use ctl::words::said;

use super::{Failure, Outcome, note, print};

/// The name of the driver's service, and of its INF.
const DRIVER: &str = "penstock";
const INF: &str = "penstock.inf";
/// The value with the services that were stopped for an upgrade.
const HELD: &str = "StoppedForUpgrade";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Say which version is installed, whether Windows would load it, and what to do.
    Status,
    /// Put the driver's package into Windows' driver store, and start the tunnels that `remove --for-upgrade` stopped.
    Install(Inf),
    /// The same, with tunnels up: their services are stopped and started again.
    Update(Inf),
    /// Take the driver's package out of the driver store, and its adapters with it. No tunnel's service may run.
    Remove {
        #[command(flatten)]
        inf: Inf,
        /// Remove the tunnels' services first; their files stay.
        #[arg(long)]
        with_tunnels: bool,
        /// Stop the tunnels that run first; `install` starts them again.
        #[arg(long, conflicts_with = "with_tunnels")]
        for_upgrade: bool,
    },
}

/// The package.
#[derive(clap::Args)]
pub(crate) struct Inf {
    /// Its penstock.inf; without it the one in the folder of this program, or in `driver` there.
    inf: Option<PathBuf>,
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Status => status(),
            Self::Install(inf) => install(&inf.path()?),
            Self::Update(inf) => update(&inf.path()?),
            Self::Remove { inf, with_tunnels, for_upgrade } => {
                let inf = inf.path()?;
                if with_tunnels {
                    remove_tunnels()?;
                }
                if for_upgrade {
                    stop_for_upgrade()?;
                }
                match running()?.first() {
                    Some(service) => {
                        let why = "it runs: stop it first, or `penstock uninstall-tunnel` it";
                        Err(Failure::new(service, why))
                    }
                    None => ended(driver_store::remove(&inf)),
                }
            }
        }
    }
}

impl Inf {
    /// Where it is, in full.
    fn path(self) -> Result<PathBuf, Failure> {
        let found = self.inf.or_else(beside).ok_or_else(|| {
            Failure::new(INF, "it is not beside this program: name it, as in the driver's package")
        })?;
        let named = |error: &io::Error| Failure::new(found.display(), said(error));
        fs::metadata(&found).map_err(|error| named(&error))?;
        path::absolute(&found).map_err(|error| named(&error))
    }
}

/// The INF that is with this program.
fn beside() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?;
    [folder.join(INF), folder.join("driver").join(INF)].into_iter().find(|path| path.is_file())
}

fn ended(done: io::Result<bool>) -> Outcome {
    match done {
        Ok(false) => Ok(()),
        Ok(true) => {
            note("Windows has to be started anew before the change is complete");
            Ok(())
        }
        Err(error) => {
            let why = "as an administrator; setupapi.dev.log in C:\\Windows\\INF says more";
            Err(Failure::new("the driver's package", format!("{} ({why})", said(&error))))
        }
    }
}

/// The tunnels' services that run.
fn running() -> Result<Vec<String>, Failure> {
    let all = services::tunnels().map_err(|error| Failure::new("services", said(&error)))?;
    let mut running = Vec::new();
    for service in all {
        let state = services::state(&service.name);
        let state = state.map_err(|error| Failure::new(&service.name, said(&error)))?;
        if state == ctl::doctor::machine::Service::Running {
            running.push(service.name);
        }
    }
    Ok(running)
}

/// What was stopped for the upgrade is started once there is a driver again. One that does not start keeps nobody from installing.
fn install(inf: &Path) -> Outcome {
    ended(driver_store::install(inf))?;
    let held = held()?;
    hold(&[])?;
    if let Err(Failure::Told(why)) = start(&held) {
        note(why);
    }
    Ok(())
}

/// Whatever comes of the update, what ran before is started again.
fn update(inf: &Path) -> Outcome {
    let running = running()?;
    let (stopped, outcome) = stop(&running);
    let outcome = outcome.and_then(|()| ended(driver_store::install(inf)));
    outcome.and(start(stopped))
}

/// Stops services until one does not, and says which did.
fn stop(running: &[String]) -> (&[String], Outcome) {
    for (at, service) in running.iter().enumerate() {
        if let Err(error) = services::stop(service) {
            return (running.split_at(at).0, Err(Failure::new(service, said(&error))));
        }
        note(format_args!("{service}: stopped"));
    }
    (running, Ok(()))
}

/// Starts services, each whatever came of the others.
fn start(stopped: &[String]) -> Outcome {
    let mut outcome = Ok(());
    for service in stopped {
        match services::start(service) {
            Ok(()) => note(format_args!("{service}: started again")),
            Err(why) => outcome = outcome.and(Err(Failure::new(service, why))),
        }
    }
    outcome
}

fn remove_tunnels() -> Outcome {
    for service in services::tunnels().map_err(|error| Failure::new("services", said(&error)))? {
        services::remove(&service.name)
            .map_err(|error| Failure::new(&service.name, said(&error)))?;
        note(format_args!("{}: removed", service.name));
    }
    Ok(())
}

/// Before they are stopped it is kept which they are, besides those of an upgrade that did not come to its end.
fn stop_for_upgrade() -> Outcome {
    let (mut held, running) = (held()?, running()?);
    held.retain(|service| !running.contains(service));
    held.extend_from_slice(&running);
    hold(&held)?;
    stop(&running).1
}

/// Services that were stopped for an upgrade.
fn held() -> Result<Vec<String>, Failure> {
    match LocalMachine.value(LOCAL, HELD) {
        Ok(Some(Value::Text(names))) => Ok(names.split_whitespace().map(str::to_owned).collect()),
        Ok(_) => Ok(Vec::new()),
        Err(error) => Err(Failure::new(HELD, said(&error))),
    }
}

/// Keeps which they are until the new package is there.
fn hold(services: &[String]) -> Outcome {
    let kept = match services {
        [] => LocalMachine.remove(LOCAL, HELD),
        // No name has a space in it: `tunnel::is_name`.
        names => LocalMachine.set(LOCAL, HELD, &Value::Text(names.join(" "))),
    };
    kept.map_err(|error| Failure::new(HELD, said(&error)))
}

fn status() -> Outcome {
    print(&installed()?)
}

/// What is installed, for a person.
pub(super) fn installed() -> Result<String, Failure> {
    let named = |error: io::Error| Failure::new(DRIVER, said(&error));
    let service = services::state(DRIVER).map_err(named)?;
    let file = installed_file().map_err(named)?;
    let options = LocalMachine.value(r"SYSTEM\CurrentControlSet\Control", "SystemStartOptions");
    let testing =
        matches!(options, Ok(Some(Value::Text(options))) if takes_test_signatures(&options));
    let inf = beside().and_then(|inf| fs::read(inf).ok());
    let facts = Facts {
        service,
        installed: file.and_then(|file| driver_store::version_of(&file).ok()),
        beside: inf.and_then(|inf| Version::of_inf(&String::from_utf8_lossy(&inf))),
        testing,
    };
    Ok(facts.to_string())
}

/// The file of the driver's service, if there is one, which says it as the kernel has it.
pub(super) fn installed_file() -> io::Result<Option<PathBuf>> {
    let windows = PathBuf::from(env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into()));
    Ok(services::command_line(DRIVER)?.map(|image| {
        let image = image.strip_prefix(r"\??\").unwrap_or(&image);
        windows.join(image.strip_prefix(r"\SystemRoot\").unwrap_or(image))
    }))
}
