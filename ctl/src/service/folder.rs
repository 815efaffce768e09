//! What the manager does with its folder: compares the files that are there with the services that are, and says what is to be done.

use std::collections::BTreeMap;

use super::definition::{TUNNEL_PREFIX, file_of};
use crate::tunnel::is_name;

/// A service of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub command_line: String,
}

/// Something to be done, for the tunnel of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The readable file is encrypted and removed.
    Seal(String),
    /// A service is installed for the encrypted file, and started.
    Install(String),
    /// The service is stopped and removed: the file it was for is gone.
    Remove(String),
}

/// What is done about the files of the folder and the services that are there.
///
/// `folder` is where the manager's files are, `exists` whether a file elsewhere, which a service was installed for by hand, is there.
#[must_use]
pub fn actions(
    folder: &str,
    files: &[String],
    services: &[Service],
    exists: impl Fn(&str) -> bool,
) -> Vec<Action> {
    let mut actions = Vec::new();
    // Of each tunnel, whether it has a readable file.
    let mut tunnels = BTreeMap::new();
    for file in files {
        let (name, readable) = match ending(file, ".conf.dpapi") {
            Some(name) => (name, false),
            None => match ending(file, ".conf") {
                Some(name) => (name, true),
                None => continue,
            },
        };
        if is_name(name) {
            *tunnels.entry(name.to_lowercase()).or_insert((name, false)) = (
                name,
                readable || tunnels.get(&name.to_lowercase()).is_some_and(|(_, other)| *other),
            );
        }
    }
    for service in services {
        let Some(name) = tunnel_of(&service.name) else { continue };
        let is_gone = match file_of(&service.command_line) {
            Some(file) if is_in(folder, file) => !tunnels.contains_key(&name.to_lowercase()),
            Some(file) => !exists(file),
            // It runs something else: not ours to judge.
            None => false,
        };
        if is_gone {
            actions.push(Action::Remove(name.to_owned()));
        }
    }
    for (name, readable) in tunnels.values() {
        if *readable {
            actions.push(Action::Seal((*name).to_owned()));
        }
        let has_service = services
            .iter()
            .filter_map(|service| tunnel_of(&service.name))
            .any(|other| other.eq_ignore_ascii_case(name));
        if !has_service {
            actions.push(Action::Install((*name).to_owned()));
        }
    }
    actions
}

/// The tunnel that a service is of.
#[must_use]
pub fn tunnel_of(service: &str) -> Option<&str> {
    let (prefix, name) = service.split_at_checked(TUNNEL_PREFIX.len())?;
    (prefix.eq_ignore_ascii_case(TUNNEL_PREFIX) && is_name(name)).then_some(name)
}

fn ending<'a>(file: &'a str, ending: &str) -> Option<&'a str> {
    let (name, end) = file.split_at_checked(file.len().checked_sub(ending.len())?)?;
    end.eq_ignore_ascii_case(ending).then_some(name)
}

fn is_in(folder: &str, file: &str) -> bool {
    file.rsplit_once('\\').is_some_and(|(of, _)| of.eq_ignore_ascii_case(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = r"C:\Program Files\Penstock\Data\Configurations";

    fn service(name: &str, file: &str) -> Service {
        let made = super::super::definition::tunnel(name, r"C:\p.exe", file).unwrap();
        Service { name: made.name, command_line: made.command_line }
    }

    fn done(files: &[&str], services: &[Service]) -> Vec<Action> {
        let files: Vec<_> = files.iter().map(ToString::to_string).collect();
        actions(FOLDER, &files, services, |file| file == r"D:\there.conf")
    }

    #[test]
    fn a_file_becomes_an_encrypted_one_and_a_service() {
        let (seal, install) = (Action::Seal("office".into()), Action::Install("office".into()));
        assert_eq!(done(&["office.conf"], &[]), [seal.clone(), install.clone()]);
        assert_eq!(done(&["office.conf.dpapi"], &[]), [install]);
        let ours = || service("Office", &format!(r"{FOLDER}\office.conf.dpapi"));
        // What is there and stopped stays so: somebody stopped it.
        assert_eq!(done(&["office.CONF.dpapi"], &[ours()]), []);
        for files in [["office.conf", "office.conf.dpapi"], ["office.conf.dpapi", "office.conf"]] {
            assert_eq!(done(&files, &[ours()]), std::slice::from_ref(&seal));
        }
        assert_eq!(
            done(&["notes.txt", "a b.conf", ".conf", "office.conf.dpapi.new", "ü.conf"], &[]),
            []
        );
    }

    #[test]
    fn a_service_goes_when_its_file_is_gone() {
        let gone = |name: &str| vec![Action::Remove(name.to_owned())];
        assert_eq!(
            done(&[], &[service("office", &format!(r"{FOLDER}\office.conf.dpapi"))]),
            gone("office")
        );
        assert_eq!(done(&[], &[service("by-hand", r"D:\there.conf")]), []);
        assert_eq!(done(&[], &[service("by-hand", r"D:\gone.conf")]), gone("by-hand"));
        for name in
            ["PenstockManager", "PenstockTunnel$", "WireGuardTunnel$office", "PenstockTunnel$a b"]
        {
            let other =
                Service { name: name.into(), command_line: "\"x\" service tunnel \"gone\"".into() };
            assert_eq!(done(&[], &[other]), []);
        }
        let strange = Service { name: "PenstockTunnel$x".into(), command_line: "calc.exe".into() };
        assert_eq!(done(&[], &[strange]), []);
    }
}
