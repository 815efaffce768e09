//! The manager: a service for each file in its folder, which it encrypts; and what policy says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;
use std::{fs, io};

use abi::policy::TextPolicy;

use ctl::config::file;
use ctl::config::read::Purpose;
use ctl::policy::{self, From, Registry, Value};
use ctl::service::definition::{self, MANAGER_PRIVILEGES, TUNNEL_PREFIX};
use ctl::service::events::Event;
use ctl::service::folder::{Action, actions};
use ctl::tunnel::watch::Signal;
use ctl::windows::event_log::tell;
use ctl::windows::files;
use ctl::windows::registry::LocalMachine;
use ctl::windows::seal::seal;
use ctl::windows::service_main::Running;
use ctl::windows::services;
use ctl::windows::token::Token;
use ctl::windows::watch::Watch;
use ctl::words::said;

use super::Failure;
use super::follow_policy::{self, Follow};
use super::install::program;
use super::policy_tunnels::PolicyTunnels;
use super::strip::parsed;

/// Where Windows says where programs are.
const WINDOWS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion";
/// The folders below that.
const FOLDERS: [&str; 2] = ["Penstock", "Data"];
/// The folder there that is watched unless policy names another, and the one of tunnels by policy.
const CONFIGURATIONS: &str = "Configurations";
const POLICY: &str = "Policy";
/// How long until what failed is tried again, and until the folder is looked at though nothing was heard.
const AGAIN: Duration = Duration::from_secs(2);
const ANYWAY: Duration = Duration::from_secs(3600);

/// What is tried, and what was told of it, so that it is not told again.
#[derive(Default)]
pub(super) struct Told {
    told: HashMap<String, String>,
    /// Whether nothing has failed since this was set.
    pub(super) is_well: bool,
}

impl Told {
    /// Tells that something failed of what is done for the tunnel `name`, or forgets that it did.
    pub(super) fn note(&mut self, what: String, event: Event, name: &str, failed: Option<String>) {
        match failed {
            None => drop(self.told.remove(&what)),
            Some(why) => self.failed(what, event, &[name, &why]),
        }
    }

    /// Tells that something failed, once.
    pub(super) fn failed(&mut self, what: String, event: Event, words: &[&str]) {
        self.is_well = false;
        let why = words.last().copied().unwrap_or_default();
        if self.told.get(&what).is_none_or(|told| told != why) {
            tell(event, words);
            self.told.insert(what, why.to_owned());
        }
    }
}

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
    let own = folder_of(CONFIGURATIONS).map_err(|error| failed(&said(&error)))?;
    let by_policy = folder_of(POLICY).map_err(|error| failed(&said(&error)))?;
    let signals = running.signals();
    follow_policy::watch(&signals).map_err(|error| failed(&said(&error)))?;
    running.started();
    let (mut files, mut policy) = (Files::of(own), Follow::default());
    let mut tunnels = PolicyTunnels::of(by_policy);
    loop {
        let well = files.act(&program, &signals) & policy.act() & tunnels.act(&program);
        let patience = if well { ANYWAY } else { AGAIN };
        if running.received().recv_timeout(patience) == Ok(Signal::Stop) {
            tell(Event::ManagerStopped, &[]);
            return Ok(());
        }
    }
}

/// The files that administrators put into a folder.
struct Files {
    /// The folder unless policy names another.
    own: PathBuf,
    /// The folder that is watched, and whether whoever watches it is still to do so.
    watched: Option<(PathBuf, Arc<AtomicBool>)>,
    told: Told,
}

impl Files {
    /// Those in `own`, unless policy names another folder.
    fn of(own: PathBuf) -> Self {
        Self { own, watched: None, told: Told::default() }
    }

    /// Does all that is to be done now; whether all of it could be.
    fn act(&mut self, program: &str, signals: &Sender<Signal>) -> bool {
        self.told.is_well = true;
        match self.follow(signals) {
            Ok(folder) => act(&folder, program, &mut self.told),
            Err(error) => {
                self.told.failed("folder".to_owned(), Event::ManagerFailed, &[&said(&error)]);
            }
        }
        self.told.is_well
    }

    /// Watches the folder that policy names, from now on.
    fn follow(&mut self, signals: &Sender<Signal>) -> io::Result<PathBuf> {
        let named = policy::text(TextPolicy::ConfigurationFolder, &LocalMachine);
        let folder = match named.from {
            From::Default => self.own.clone(),
            // Somebody else's: it stays as it is, and each of its files is judged.
            _ => PathBuf::from(&named.value),
        };
        if self.watched.as_ref().is_some_and(|(watched, _)| *watched == folder) {
            return Ok(folder);
        }
        if let Some((_, watches)) = self.watched.take() {
            // It ends at the next change there.
            watches.store(false, Ordering::Relaxed);
        }
        let mut watch = Watch::of(&folder)
            .map_err(|error| io::Error::other(format!("{}: {}", folder.display(), said(&error))))?;
        let watches = Arc::new(AtomicBool::new(true));
        let (signals, still) = (signals.clone(), watches.clone());
        std::thread::Builder::new().spawn(move || {
            while watch.wait().is_ok()
                && still.load(Ordering::Relaxed)
                && signals.send(Signal::Changed).is_ok()
            {}
        })?;
        tell(Event::ManagerStarted, &[&folder.display().to_string()]);
        self.watched = Some((folder.clone(), watches));
        Ok(folder)
    }
}

/// A folder, which is made if it is not there, and is the system's and administrators' alone.
fn folder_of(name: &str) -> io::Result<PathBuf> {
    let programs = match LocalMachine.value(WINDOWS, "ProgramFilesDir")? {
        Some(Value::Text(path)) => path,
        _ => return Err(io::Error::other(r"the registry does not say where Program Files is")),
    };
    let mut folder = PathBuf::from(programs);
    for (number, name) in FOLDERS.iter().chain([&name]).enumerate() {
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

/// Does all that is to be done about the files of a folder.
fn act(folder: &Path, program: &str, told: &mut Told) {
    let todo = || {
        let exists = |file: &str| Path::new(file).exists();
        let of = folder.display().to_string();
        Ok(actions(&of, &names(folder)?, &services::tunnels()?, exists))
    };
    let todo = todo().unwrap_or_else(|error: io::Error| {
        told.failed(String::new(), Event::ManagerFailed, &[&said(&error)]);
        Vec::new()
    });
    // What could not be encrypted is not installed either.
    let mut unsealed = Vec::new();
    for action in &todo {
        match action {
            Action::Seal(name) => {
                let failed = seal_tunnel(folder, name).err();
                unsealed.extend(failed.is_some().then_some(name));
                told.note(format!("seal {name}"), Event::FileNotSealed, name, failed);
            }
            Action::Install(name) if unsealed.contains(&name) => {}
            action => perform(action, folder, program, told),
        }
    }
}

/// The names of a folder's files that are texts.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Installs or removes a service.
pub(super) fn perform(action: &Action, folder: &Path, program: &str, told: &mut Told) {
    match action {
        Action::Seal(_) => {}
        Action::Install(name) => {
            let failed = install_tunnel(folder, program, name).err();
            told.note(format!("install {name}"), Event::TunnelNotStarted, name, failed);
        }
        Action::Remove(name) => {
            let removed = services::remove(&format!("{TUNNEL_PREFIX}{name}"));
            if removed.is_ok() {
                tell(Event::TunnelRemoved, &[name]);
            }
            let failed = removed.err().map(|error| said(&error));
            told.note(format!("remove {name}"), Event::TunnelNotRemoved, name, failed);
        }
    }
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
    restart(name)
}

/// Starts a tunnel's service anew, if it has one: its file has changed.
pub(super) fn restart(name: &str) -> Result<(), String> {
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
    services::start(service).map_err(|why| why.to_string())
}
