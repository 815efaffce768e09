//! `install-tunnel`, `uninstall-tunnel`, and the same of the manager: services, from the outside.

use std::path::{Path, PathBuf};
use std::{env, path};

use clap::Subcommand;
use ctl::service::definition::{self, Definition, MANAGER, TUNNEL_PREFIX};
use ctl::tunnel::is_name;
use ctl::windows::services;
use ctl::windows::{event_log, files};
use ctl::words::said;

use super::service::read_judged;
use super::strip::{is_sealed, tunnel_of};
use super::{Failure, Outcome, note};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Install the service that keeps the tunnel of a file up, from before anybody logs on, and start it.
    InstallTunnel {
        /// The file, which the tunnel is named for: NAME.conf, or NAME.conf.dpapi. It stays where it is, and nobody but administrators may
        /// be able to change it.
        file: PathBuf,
    },
    /// Stop a tunnel's service and remove it. The file stays.
    UninstallTunnel {
        /// The tunnel.
        name: String,
    },
    /// Install the service that keeps a tunnel for each file that is put into Penstock\Data\Configurations of Program Files, encrypted.
    InstallManager,
    /// Stop that service and remove it. Tunnels stay as they are.
    UninstallManager,
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::InstallTunnel { file } => install_tunnel(&file),
            Self::UninstallTunnel { name } => uninstall_tunnel(&name),
            Self::InstallManager => {
                let program = program()?;
                let manager = definition::manager(&program);
                install(&manager.map_err(|error| Failure::new(&program, error))?, &program)
            }
            Self::UninstallManager => uninstall(MANAGER),
        }
    }
}

fn install_tunnel(file: &Path) -> Outcome {
    let name = tunnel_of(file);
    if !is_name(name) {
        return Err(Failure::new(file.display(), super::NAME_IS));
    }
    // What the system encrypted, it alone reads.
    if is_sealed(file) {
        files::open(file).map_err(|error| Failure::new(file.display(), said(&error)))?;
    } else {
        let (reading, reader) = read_judged(file)?;
        let of = file.display().to_string();
        reading.warnings.iter().for_each(|warning| note(warning.warning_of(&of)));
        if let Some(reader) = reader {
            note(format_args!("{of}: warning: there are keys in it, and {reader} may read it"));
        }
    }
    let named = |error: &dyn std::fmt::Display| Failure::new(file.display(), error);
    let absolute = path::absolute(file).map_err(|error| named(&said(&error)))?;
    let absolute = absolute.to_str().ok_or_else(|| named(&"its path is no text"))?;
    let program = program()?;
    let tunnel = definition::tunnel(name, &program, absolute).map_err(|error| named(&error))?;
    install(&tunnel, &program)
}

/// Stops and removes the service of the tunnel `name`.
pub(crate) fn uninstall_tunnel(name: &str) -> Outcome {
    uninstall(&format!("{TUNNEL_PREFIX}{name}"))
}

fn uninstall(name: &str) -> Outcome {
    services::remove(name).map_err(|error| Failure::new(name, said(&error)))
}

/// This program, which a service is to run: as with a tunnel's file, nobody else may be able to change it.
pub(crate) fn program() -> Result<String, Failure> {
    let path = env::current_exe().map_err(|error| Failure::new("penstock.exe", said(&error)))?;
    let named = |why: &str| Failure::new(path.display(), why);
    files::open(&path).map_err(|error| named(&said(&error)))?;
    path.to_str().map(str::to_owned).ok_or_else(|| named("its path is no text"))
}

/// Installs and starts a service, or leaves nothing of it.
fn install(service: &Definition, program: &str) -> Outcome {
    let named = |why: &dyn std::fmt::Display| Failure::new(&service.name, why);
    event_log::register(program).map_err(|error| named(&said(&error)))?;
    let untaken = services::install(service).map_err(|error| named(&said(&error)))?;
    if !untaken.is_empty() {
        note(format_args!(
            "{}: this Windows does not give it {}",
            service.name,
            untaken.join(" or ")
        ));
    }
    services::start(&service.name).map_err(|why| match services::remove(&service.name) {
        Ok(()) => named(&format_args!("{why}; it was removed")),
        Err(error) => named(&format_args!("{why}; it could not be removed: {}", said(&error))),
    })
}
