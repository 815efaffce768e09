//! The manager keeps a file for each tunnel of policy, with a private key that is made here and known nowhere else, and a service for it.

use std::path::PathBuf;
use std::time::Instant;
use std::{fs, io};

use ctl::config::Config;
use ctl::policy::tunnel::{self, Absent, PolicyTunnel};
use ctl::service::definition::file_of;
use ctl::service::events::Event;
use ctl::service::folder::{Action, Service, actions, tunnel_of};
use ctl::windows::event_log::tell_key;
use ctl::windows::policy_section::PolicySection;
use ctl::windows::registry::LocalMachine;
use ctl::windows::{dpapi, seal, services};
use ctl::words::said;

use super::folder::{Told, names, perform, restart};

/// What a kept file is called behind the tunnel's name.
const ENDING: &str = ".conf.dpapi";

/// The tunnels of policy.
pub(super) struct PolicyTunnels {
    folder: PathBuf,
    absent: Absent,
    told: Told,
}

impl PolicyTunnels {
    /// Those whose files are in `folder`.
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, absent: Absent::default(), told: Told::default() }
    }

    /// Does what is to be done now; whether nothing is left to be done.
    pub(super) fn act(&mut self, program: &str) -> bool {
        self.told.is_well = true;
        if let Err(error) = self.apply(program) {
            self.told.failed(String::new(), Event::ManagerFailed, &[&said(&error)]);
        }
        self.told.is_well && !self.absent.waits()
    }

    fn apply(&mut self, program: &str) -> io::Result<()> {
        let tunnels = {
            let _whole = PolicySection::enter();
            tunnel::tunnels(&LocalMachine)?
        };
        let kept = self.kept()?;
        let services = services::tunnels()?;
        let named: Vec<_> = tunnels.iter().map(|tunnel| tunnel.name.clone()).collect();
        for tunnel in tunnels {
            self.keep(tunnel, &kept, &services);
        }
        for name in self.absent.gone(&kept, &named, Instant::now()) {
            fs::remove_file(self.folder.join(format!("{name}{ENDING}")))?;
        }
        let folder = self.folder.display().to_string();
        let todo = actions(&folder, &names(&self.folder)?, &services::tunnels()?, |_| true);
        for action in todo.iter().filter(|action| !matches!(action, Action::Seal(_))) {
            perform(action, &self.folder, program, &mut self.told);
        }
        Ok(())
    }

    /// The tunnels that there are files of.
    fn kept(&self) -> io::Result<Vec<String>> {
        let names = names(&self.folder)?.into_iter();
        Ok(names.filter_map(|name| Some(name.strip_suffix(ENDING)?.to_owned())).collect())
    }

    /// Has the file of a tunnel be what policy says; what cannot be taken of that is told, and changes nothing.
    fn keep(&mut self, tunnel: PolicyTunnel, kept: &[String], services: &[Service]) {
        let refused = tunnel.refused.iter().map(|(from, why)| format!("{why} (from {from})"));
        let mut refused: Vec<_> = refused.collect();
        let other = self.other_file(&tunnel.name, services);
        let is_other = other.is_some();
        refused.extend(
            other.map(|file| format!("a service of this name is there for {file}: remove it")),
        );
        // There is nothing to try again before somebody changes something.
        let is_well = self.told.is_well;
        let why = (!refused.is_empty()).then(|| refused.join("; "));
        let event = Event::TunnelByPolicyRefused;
        self.told.note(format!("policy {}", tunnel.name), event, &tunnel.name, why);
        self.told.is_well = is_well;
        let Some((config, _)) = tunnel.config.filter(|_| !is_other) else { return };
        // As it was written first: names differ in more than case, and the file is bound to its name.
        let is_it = |kept: &&String| kept.eq_ignore_ascii_case(&tunnel.name);
        let (name, is_kept) = match kept.iter().find(is_it) {
            Some(name) => (name, true),
            None => (&tunnel.name, false),
        };
        let failed = self.write(name, config, is_kept).err();
        self.told.note(format!("write {name}"), event, name, failed);
    }

    /// The file that the tunnel's service is for, if it is none of these.
    fn other_file<'s>(&self, name: &str, services: &'s [Service]) -> Option<&'s str> {
        let is_of =
            |service: &str| tunnel_of(service).is_some_and(|of| of.eq_ignore_ascii_case(name));
        let service = services.iter().find(|service| is_of(&service.name));
        let file =
            service.map(|service| file_of(&service.command_line).unwrap_or("something else"));
        let ours = format!(r"{}\{name}{ENDING}", self.folder.display());
        file.filter(|file| !file.eq_ignore_ascii_case(&ours))
    }

    /// Writes the file of a tunnel, if it is to be another, and starts its service anew.
    fn write(&self, name: &str, config: Config, is_kept: bool) -> Result<(), String> {
        let path = self.folder.join(format!("{name}{ENDING}"));
        let before = if is_kept {
            let bytes = fs::read(&path).map_err(|error| said(&error))?;
            let plain = dpapi::unprotect(&bytes, name).map_err(|error| {
                let why = "its file cannot be read: remove it, and it gets a new key";
                format!("{why} ({}: {})", path.display(), said(&error))
            })?;
            Some(plain)
        } else {
            None
        };
        let (text, key) = tunnel::file_of(config, before.as_ref().map(|plain| &***plain))?;
        if before.is_some_and(|before| *before == text.as_bytes()) {
            return Ok(());
        }
        seal::write(text.as_bytes(), &path, name).map_err(|error| said(&error))?;
        tell_key(Event::TunnelByPolicy, &[name], &key);
        if is_kept { restart(name) } else { Ok(()) }
    }
}
