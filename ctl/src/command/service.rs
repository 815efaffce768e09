//! `service`: what the services run. What goes wrong is told in the event log, and the service stops with the event's number.

use std::fmt::Display;
use std::mem;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ctl::config::file;
use ctl::config::read::{Purpose, Reading};
use ctl::policy::allowed::refusal;
use ctl::policy::{kill_switch, runs_scripts};
use ctl::service::definition::TUNNEL_PRIVILEGES;
use ctl::service::descriptor::Sid;
use ctl::service::events::Event;
use ctl::tunnel::watch::{self, Signal, Watch};
use ctl::tunnel::{self, Plan};
use ctl::windows::event_log::tell;
use ctl::windows::files;
use ctl::windows::machine::Machine;
use ctl::windows::network_changes::NetworkChanges;
use ctl::windows::registry::LocalMachine;
use ctl::windows::service_main::{self, Running};
use ctl::windows::token::Token;
use ctl::words::said;

use super::strip::{is_sealed, parsed, tunnel_of, unsealed};
use super::{Failure, Outcome, folder, serve};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Keeps the tunnel of a file up.
    Tunnel {
        /// The file.
        file: PathBuf,
    },
    /// Watches the folder of tunnels' files.
    Manager,
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        let ended = match self {
            Self::Tunnel { file } => service_main::run(move |running| keep_up(running, &file)),
            Self::Manager => service_main::run(folder::manage),
        };
        ended.map_err(|error| {
            let why = "the service control manager starts this: `penstock install-tunnel FILE`";
            Failure::new("service", format!("{} ({why})", said(&error)))
        })
    }
}

/// Reads a tunnel's file that a service may run; and who else may read it.
pub(super) fn read_judged(path: &Path) -> Result<(Reading, Option<Sid>), Failure> {
    let name = path.display().to_string();
    let named = |error: &std::io::Error| Failure::new(&name, said(error));
    let judged = files::open(path).map_err(|error| named(&error))?;
    let len = judged.file.metadata().map_or(0, |metadata| metadata.len());
    let bytes = file::read_all(&judged.file, usize::try_from(len).unwrap_or_default());
    let bytes = bytes.map_err(|error| named(&error))?;
    let bytes = if is_sealed(path) { unsealed(path, &bytes)? } else { bytes };
    let scripts = runs_scripts(&LocalMachine);
    let reading = parsed(&name, &bytes, Purpose::Tunnel { scripts })?;
    match refusal(tunnel_of(path), &reading.config, &LocalMachine) {
        None => Ok((reading, judged.reader)),
        Some(why) => Err(Failure::new(&name, why)),
    }
}

/// Brings the tunnel of a file up, and takes it down when the service is to stop.
fn keep_up(running: &Running, path: &Path) -> Result<(), Event> {
    let name = tunnel_of(path);
    let failed = |event, why: &dyn Display| {
        tell(event, &[name, &why.to_string()]);
        event
    };
    Token::of_process()
        .and_then(|token| token.keep_only(TUNNEL_PRIVILEGES))
        .map_err(|error| failed(Event::TunnelFailed, &said(&error)))?;
    let (reading, reader) = read_judged(path).map_err(|failure| match failure {
        Failure::Told(why) => failed(Event::FileRefused, &why),
        Failure::Unread => Event::FileRefused,
    })?;
    let of = path.display().to_string();
    if let Some(reader) = reader {
        tell(Event::FileReadable, &[&of, &reader.to_string()]);
    }
    for warning in &reading.warnings {
        tell(Event::FileStrange, &[name, &warning.warning_of(&of).to_string()]);
    }
    let plan = Plan::of(name, &reading.config, kill_switch(&LocalMachine));
    let watch = Watch::of(&reading.config);
    let signals = running.signals();
    let changes = NetworkChanges::tell(move || {
        // Who has ended receives no more.
        let _ = signals.send(Signal::Changed);
    });
    let changes = changes.map_err(|error| failed(Event::TunnelFailed, &said(&error)))?;
    // Before the network is there, too: names are looked up again.
    let mut machine = Machine::of(name, true);
    let up = tunnel::up(&plan, reading.config, &mut machine)
        .map_err(|failure| failed(Event::TunnelFailed, &failure))?;
    let unseen = name.to_owned();
    let listens = serve::listen(name, move |error| {
        tell(Event::Unseen, &[&unseen, &said(&error)]);
    });
    if let Err(error) = listens {
        failed(Event::Unseen, &said(&error));
    }
    running.started();
    tell(Event::TunnelUp, &[name]);
    watch::run(watch, &mut machine, running.received(), |line| {
        tell(Event::Noted, &[name, line]);
    });
    drop(changes);
    let went = if running.ends_with_the_machine() {
        up.down_with_the_machine(&mut machine)
    } else {
        up.down(&mut machine)
    };
    for left in went.err().unwrap_or_default() {
        failed(Event::StepLeft, &left);
    }
    tell(Event::TunnelDown, &[name]);
    if running.ends_with_the_machine() {
        running.stay();
        // The filters are in it.
        mem::forget(machine);
    }
    Ok(())
}
