//! The manager: a service for each file in its folder, which it encrypts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use ctl::config::file;
use ctl::config::read::Purpose;
use ctl::policy::{Registry, Value};
use ctl::service::definition::{self, MANAGER_PRIVILEGES, TUNNEL_PREFIX};
use ctl::service::events::Event;
use ctl::service::folder::{Action, actions};
use ctl::tunnel::watch::Signal;
use ctl::windows::event_log::tell;
use ctl::windows::files;
use ctl::windows::registry::LocalMachine;
use ctl::windows::seal::seal;
use ctl::windows::service_main::Running;
use ctl::windows::services::{self, Stopped};
use ctl::windows::token::Token;
use ctl::windows::watch::Watch;
use ctl::words::said;

use super::Failure;
use super::follow_policy::{self, Follow};
use super::install::program;
use super::strip::parsed;

/// Where Windows says where programs are.
const WINDOWS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion";
/// The folders below that, to the one that is watched.
const FOLDERS: [&str; 3] = ["Penstock", "Data", "Configurations"];
/// How long until what failed is tried again, and until the folder is looked at though nothing was heard.
const AGAIN: Duration = Duration::from_secs(2);
const ANYWAY: Duration = Duration::from_secs(3600);

/// What is tried, and what was told of it, so that it is not told again.
type Told = HashMap<String, String>;

/// Does what is to be done until it is to stop.
pub(crate) fn manage(running: &Running) -> Result<(), Event> {
    let failed = |why: &str| {
        tell(Event::ManagerFailed, &[why]);
        Event::ManagerFailed
    };
    Token::of_process()
        .and_then(|token| token.keep_only(MANAGER_PRIVILEGES))
        .map_err(|error| failed(&said(&error)))?;
    let program = program().map_err(|failure| match failure {
        Failure::Told(why) => failed(&why),
        Failure::Unread => Event::ManagerFailed,
    })?;
    let folder = folder().map_err(|error| failed(&said(&error)))?;
    let mut watch = Watch::of(&folder).map_err(|error| failed(&said(&error)))?;
    follow_policy::watch(&running.signals()).map_err(|error| failed(&said(&error)))?;
    let signals = running.signals();
    let watching = std::thread::Builder::new()
        .spawn(move || while watch.wait().is_ok() && signals.send(Signal::Changed).is_ok() {});
    watching.map_err(|error| failed(&said(&error)))?;
    running.started();
    tell(Event::ManagerStarted, &[&folder.display().to_string()]);
    let (mut told, mut policy) = (Told::new(), Follow::default());
    loop {
        let well = act(&folder, &program, &mut told) & policy.act();
        let patience = if well { ANYWAY } else { AGAIN };
        if running.received().recv_timeout(patience) == Ok(Signal::Stop) {
            tell(Event::ManagerStopped, &[]);
            return Ok(());
        }
    }
}

/// The folder, which is made if it is not there, and is the system's and administrators' alone.
fn folder() -> io::Result<PathBuf> {
    let programs = match LocalMachine.value(WINDOWS, "ProgramFilesDir")? {
        Some(Value::Text(path)) => path,
        _ => return Err(io::Error::other(r"the registry does not say where Program Files is")),
    };
    let mut folder = PathBuf::from(programs);
    for (number, name) in FOLDERS.iter().enumerate() {
        folder.push(name);
        match number {
            // The program's own folder is everybody's to read.
            0 => match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            },
            _ => files::create_folder(&folder)?,
        }
    }
    Ok(folder)
}

/// Does all that is to be done now; whether all of it could be.
fn act(folder: &Path, program: &str, told: &mut Told) -> bool {
    let todo = || {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let names: Vec<_> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        let exists = |file: &str| Path::new(file).exists();
        Ok(actions(&folder.display().to_string(), &names, &services::tunnels()?, exists))
    };
    let mut well = true;
    let mut note = |what: String, failed: Option<(Event, &str, String)>| match failed {
        None => drop(told.remove(&what)),
        Some((event, name, why)) => {
            well = false;
            if told.get(&what) != Some(&why) {
                let words = [name, &why];
                tell(event, words.get(usize::from(name.is_empty())..).unwrap_or_default());
                told.insert(what, why);
            }
        }
    };
    let todo = todo().unwrap_or_else(|error: io::Error| {
        note(String::new(), Some((Event::ManagerFailed, "", said(&error))));
        Vec::new()
    });
    // What could not be encrypted is not installed either.
    let mut unsealed = Vec::new();
    for action in &todo {
        match action {
            Action::Seal(name) => {
                let failed = seal_tunnel(folder, name).err();
                unsealed.extend(failed.is_some().then_some(name));
                note(
                    format!("seal {name}"),
                    failed.map(|why| (Event::FileNotSealed, &**name, why)),
                );
            }
            Action::Install(name) if unsealed.contains(&name) => {}
            Action::Install(name) => {
                let failed = install_tunnel(folder, program, name).err();
                note(
                    format!("install {name}"),
                    failed.map(|why| (Event::TunnelNotStarted, &**name, why)),
                );
            }
            Action::Remove(name) => {
                let removed = services::remove(&format!("{TUNNEL_PREFIX}{name}"));
                if removed.is_ok() {
                    tell(Event::TunnelRemoved, &[name]);
                }
                let failed = removed.err().map(|error| said(&error));
                note(
                    format!("remove {name}"),
                    failed.map(|why| (Event::TunnelNotRemoved, &**name, why)),
                );
            }
        }
    }
    well
}

/// Encrypts a tunnel's file; a service that it had before is started anew.
fn seal_tunnel(folder: &Path, name: &str) -> Result<(), String> {
    let readable = folder.join(format!("{name}.conf"));
    let sealed = folder.join(format!("{name}.conf.dpapi"));
    let text = |error: io::Error| said(&error);
    let plain = files::open_to_remove(&readable).map_err(text)?.file;
    let len = plain.metadata().map_err(text)?.len();
    let bytes = file::read_all(&plain, usize::try_from(len).unwrap_or_default()).map_err(text)?;
    // One that says nothing a service could do is left to be corrected.
    parsed(&readable.display().to_string(), &bytes, Purpose::Tunnel { scripts: true }).map_err(
        |failure| match failure {
            Failure::Told(why) => why,
            Failure::Unread => String::new(),
        },
    )?;
    seal(plain, &bytes, &sealed, name).map_err(text)?;
    tell(Event::FileSealed, &[name]);
    let service = format!("{TUNNEL_PREFIX}{name}");
    let restarted = match services::stop(&service) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(said(&error)),
        Ok(()) => started(&service),
    };
    match restarted {
        Ok(()) => tell(Event::TunnelRestarted, &[name]),
        Err(why) => tell(Event::TunnelNotStarted, &[name, &why]),
    }
    Ok(())
}

fn install_tunnel(folder: &Path, program: &str, name: &str) -> Result<(), String> {
    let file = folder.join(format!("{name}.conf.dpapi")).display().to_string();
    let tunnel = definition::tunnel(name, program, &file).map_err(|error| error.to_string())?;
    services::install(&tunnel).map_err(|error| said(&error))?;
    started(&tunnel.name)?;
    tell(Event::TunnelInstalled, &[name]);
    Ok(())
}

/// Starts a service; why it does not run.
fn started(service: &str) -> Result<(), String> {
    match services::start(service) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Stopped::Told(event))) => Err(format!("it stopped, for event {}", event.number())),
        Ok(Err(Stopped::Ended(code))) => {
            Err(said(&io::Error::from_raw_os_error(code.cast_signed())))
        }
        Err(error) => Err(said(&error)),
    }
}
