//! Tunnels that policy sets: public material alone, read into the same [`Config`] that a file gives.
//!
//! Each is a text (`REG_SZ`) below the key [`KEY`] of Group Policy's and of this machine's values, called as the tunnel is: what
//! stands in a file of `wg-quick`, between semicolons and without sections, each `PublicKey` beginning a peer:
//!
//! `Address = 10.0.0.2/32; DNS = 10.0.0.1; PublicKey = …; Endpoint = vpn.example.org:51820; AllowedIPs = 10.0.0.0/8`
//!
//! Everybody on a machine may read policies. A private or preshared key in one is no secret any more, and the tunnel is refused.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{From, GROUP, LOCAL, Registry, Value};
use crate::config::Config;
use crate::config::key_names::Key;
use crate::config::print::print;
use crate::config::read::{Purpose, read};
use crate::key::{PublicKey, SecretKey};
use crate::tunnel::is_name;
use crate::words::said;

/// The key below [`GROUP`] and [`LOCAL`] that has a value for each tunnel.
pub use abi::policy::TUNNELS as KEY;

/// Where it can be said which values a key has.
pub trait Listed: Registry {
    /// The names of the values of `key`; none, if there is no such key.
    ///
    /// # Errors
    ///
    /// Whatever reading says.
    fn names(&self, key: &str) -> io::Result<Vec<String>>;
}

/// What policy comes to for one tunnel.
pub struct PolicyTunnel {
    /// Its name.
    pub name: String,
    /// What it is, and who said so; nothing if all was refused.
    pub config: Option<(Config, From)>,
    /// Who was not listened to, and why.
    pub refused: Vec<(From, String)>,
}

/// Every tunnel that is named, Group Policy's over this machine's, in the order of their names. One that is wrong is refused alone.
///
/// # Errors
///
/// What tunnels there are could not be read.
pub fn tunnels(registry: &impl Listed) -> io::Result<Vec<PolicyTunnel>> {
    // The registry's names differ in more than case.
    let mut found: BTreeMap<String, PolicyTunnel> = BTreeMap::new();
    for (from, key) in [(From::Group, GROUP), (From::Local, LOCAL)] {
        let key = format!(r"{key}\{KEY}");
        for name in registry.names(&key)? {
            let tunnel = found.entry(name.to_lowercase()).or_insert_with(|| PolicyTunnel {
                name: name.clone(),
                config: None,
                refused: Vec::new(),
            });
            if tunnel.config.is_some() {
                continue;
            }
            let read = match registry.value(&key, &name) {
                Ok(None) => continue,
                Ok(Some(Value::Text(text))) => tunnel_of(&name, &text),
                Ok(Some(_)) => Err("it is no REG_SZ".to_owned()),
                Err(error) => Err(said(&error)),
            };
            match read {
                Ok(config) => tunnel.config = Some((config, from)),
                Err(why) => tunnel.refused.push((from, why)),
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Reads the text of the tunnel `name`. What comes of it has no secret.
///
/// # Errors
///
/// What is wrong with it, in one line. No value is repeated in it, for it may be a key.
pub fn tunnel_of(name: &str, text: &str) -> Result<Config, String> {
    if !is_name(name) {
        return Err("its name is no tunnel's: up to 32 letters, digits and _=+.-".to_owned());
    }
    let settings = text.split(';').map(str::trim).filter(|setting| !setting.is_empty());
    // What would be another line of a file, or a part of one that is not read.
    if text.chars().any(|letter| letter.is_control() || letter == '#')
        || settings.clone().any(|setting| setting.starts_with('['))
    {
        return Err(
            "settings stand between semicolons, without lines, sections and comments".to_owned()
        );
    }
    let mut file = String::from("[Interface]\n");
    for setting in settings {
        let word = setting.split('=').next().unwrap_or_default().trim();
        match Key::find(word) {
            Some((key @ (Key::PrivateKey | Key::PresharedKey), _)) => {
                return Err(format!(
                    "{}: everybody may read policies, so this key is no secret any more; give the tunnel another",
                    key.name()
                ));
            }
            Some((key @ Key::Script(_), _)) => {
                return Err(format!("{}: commands are of files", key.name()));
            }
            Some((Key::PublicKey, _)) => file += "[Peer]\n",
            _ => {}
        }
        file += setting;
        file.push('\n');
    }
    let reading =
        read(file.as_bytes(), Purpose::Tunnel { scripts: false }).map_err(|problems| {
            let told: Vec<_> = problems.into_iter().map(|problem| problem.what).collect();
            told.join("; ")
        })?;
    if reading.config.peers.is_empty() {
        return Err("it has no peer, which begins with its PublicKey".to_owned());
    }
    Ok(reading.config)
}

/// The file of a tunnel of policy, and the public key that it has. The private one is that of the file `before`, and made here if there is none.
///
/// # Errors
///
/// `before` has no key, or the system has no random bytes. Nothing is lost then: the caller keeps what it has.
pub fn file_of(
    mut config: Config,
    before: Option<&[u8]>,
) -> Result<(Zeroizing<String>, PublicKey), String> {
    let key = match before {
        None => SecretKey::random_private().map_err(|error| error.to_string())?,
        Some(file) => read(file, Purpose::Tunnel { scripts: false })
            .ok()
            .and_then(|reading| reading.config.interface.private_key)
            .ok_or("its file has no private key: remove the file, and it gets a new one")?,
    };
    let public = key.public();
    config.interface.private_key = Some(key);
    Ok((print(&config), public))
}

/// Tunnels that policy names no more. Group Policy takes its values away and sets them again when one of them changes, so a tunnel
/// is gone only when it has not been there for [`Absent::PATIENCE`]: its key would be gone with it.
#[derive(Default)]
pub struct Absent(HashMap<String, Instant>);

impl Absent {
    /// How long a tunnel may be absent.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Which of the tunnels that are `kept` are gone at the time `now`, where policy names `named`. Names differ in more than case.
    pub fn gone<'a>(&mut self, kept: &'a [String], named: &[String], now: Instant) -> Vec<&'a str> {
        let is_named = |name: &str| named.iter().any(|other| other.eq_ignore_ascii_case(name));
        let absent: Vec<_> = kept.iter().filter(|name| !is_named(name)).collect();
        self.0.retain(|name, _| absent.contains(&name));
        let mut is_gone = |name: &str| {
            let since = self.0.entry(name.to_owned()).or_insert(now);
            now.duration_since(*since) >= Self::PATIENCE
        };
        absent.into_iter().map(String::as_str).filter(|name| is_gone(name)).collect()
    }

    /// Whether a tunnel is absent, so that this has to be asked again.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_OF_PEER: &str = "mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";

    struct Set(Vec<(&'static str, &'static str, Value)>);

    impl Registry for Set {
        fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
            let found = self.0.iter().find(|(at, of, _)| (*at, *of) == (key, name));
            Ok(found.map(|(.., value)| value.clone()))
        }
    }

    impl Listed for Set {
        fn names(&self, key: &str) -> io::Result<Vec<String>> {
            let of = self.0.iter().filter(|(at, ..)| *at == key);
            Ok(of.map(|(_, name, _)| (*name).to_owned()).collect())
        }
    }

    fn refused(text: &str) -> String {
        tunnel_of("office", text).err().unwrap_or_default()
    }

    #[test]
    fn a_tunnel_is_what_a_file_would_give() {
        let text = format!(
            "Address=10.0.0.2/32;DNS = 10.0.0.1, example.org; MTU = 1400; PublicKey = {KEY_OF_PEER}; \
             Endpoint = vpn.example.org:51820; AllowedIPs = 10.0.0.0/8, fd00::/8; PersistentKeepalive = 25;"
        );
        let config = tunnel_of("office", &text).unwrap_or_default();
        let file = format!(
            "[Interface]\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1, example.org\nMTU = 1400\n[Peer]\nPublicKey = {KEY_OF_PEER}\n\
             Endpoint = vpn.example.org:51820\nAllowedIPs = 10.0.0.0/8, fd00::/8\nPersistentKeepalive = 25\n"
        );
        let of_file = read(file.as_bytes(), Purpose::Tunnel { scripts: false });
        assert_eq!(*print(&config), *print(&of_file.unwrap_or_default().config));
        assert_eq!(config.peers.len(), 1);
    }

    #[test]
    fn a_secret_refuses_the_tunnel_and_is_not_repeated() {
        for key in ["PrivateKey", "presharedkey", " PRIVATEKEY "] {
            let why = refused(&format!("PublicKey = {KEY_OF_PEER}; {key} = {KEY_OF_PEER}"));
            assert!(
                why.contains("everybody may read policies") && !why.contains(KEY_OF_PEER),
                "{why}"
            );
        }
    }

    #[test]
    fn what_is_no_tunnel_is_refused() {
        let peer = format!("PublicKey = {KEY_OF_PEER}");
        for (text, why) in [
            ("", "no peer"),
            ("Address = 10.0.0.2/32", "no peer"),
            (&*format!("Endpoint = a:1; {peer}"), "Endpoint belongs in [Peer]"),
            (&*format!("{peer}; AllowedIP = 10.0.0.0/8"), "AllowedIPs"),
            (&*format!("{peer}\nPrivateKey = {KEY_OF_PEER}"), "without lines"),
            (&*format!("{peer}; [Interface]"), "without lines"),
            (&*format!("{peer} # of the office"), "without lines"),
            (&*format!("PostUp = run; {peer}"), "commands are of files"),
            (&*format!("{peer}; Address = 10.0.0.1"), "Address belongs in [Interface]"),
        ] {
            assert!(refused(text).contains(why), "{text}: {}", refused(text));
        }
        assert!(tunnel_of("of/fice", &peer).is_err_and(|why| why.contains("its name")));
    }

    #[test]
    fn the_key_is_made_once_and_stays_when_the_text_changes() {
        let config = |address| {
            let text = format!("Address = {address}; PublicKey = {KEY_OF_PEER}");
            tunnel_of("office", &text).unwrap_or_default()
        };
        let (first, key) = file_of(config("10.0.0.2/32"), None).unwrap();
        let read = read(first.as_bytes(), Purpose::Tunnel { scripts: false }).unwrap_or_default();
        assert_eq!(read.config.interface.private_key.map(|key| key.public()), Some(key));
        let (again, same) = file_of(config("10.0.0.2/32"), Some(first.as_bytes())).unwrap();
        assert!(*again == *first && same == key);
        let (other, same) = file_of(config("10.0.0.3/32"), Some(first.as_bytes())).unwrap();
        assert!(other.contains("10.0.0.3/32") && !other.contains("10.0.0.2") && same == key);
        assert_ne!(file_of(config("10.0.0.2/32"), None).unwrap().1, key);
        for file in ["", "[Interface]\n", "x"] {
            let why = file_of(config("10.0.0.2/32"), Some(file.as_bytes())).err();
            assert!(why.is_some_and(|why| why.contains("remove the file")));
        }
    }

    #[test]
    fn a_tunnel_is_gone_when_it_was_absent_for_long() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let kept = names(&["office", "Home"]);
        let (mut absent, start) = (Absent::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(absent.gone(&kept, &names(&["OFFICE", "home"]), at(0)).is_empty());
        assert!(!absent.waits());
        assert!(absent.gone(&kept, &names(&["home"]), at(1)).is_empty() && absent.waits());
        assert!(absent.gone(&kept, &names(&["home"]), at(10)).is_empty());
        // It is set again: the time begins anew.
        assert!(absent.gone(&kept, &names(&["home", "office"]), at(11)).is_empty());
        assert!(absent.gone(&kept, &names(&["home"]), at(12)).is_empty());
        assert_eq!(absent.gone(&kept, &[], at(22)), ["office"]);
        assert_eq!(absent.gone(&kept, &[], at(32)), ["office", "Home"]);
        // What was removed is not waited for.
        assert!(absent.gone(&[], &[], at(33)).is_empty() && !absent.waits());
    }

    #[test]
    fn group_policy_is_over_local_and_what_is_wrong_is_refused_alone() {
        const GROUPS: &str = r"SOFTWARE\Policies\Penstock\Tunnels";
        const LOCALS: &str = r"SOFTWARE\Penstock\Tunnels";
        let text = |address| Value::Text(format!("Address = {address}; PublicKey = {KEY_OF_PEER}"));
        let set = Set(vec![
            (GROUPS, "both", text("10.0.0.1/32")),
            (LOCALS, "Both", text("10.0.0.2/32")),
            (GROUPS, "wrong", Value::Dword(1)),
            (LOCALS, "wrong", text("10.0.0.3/32")),
            (LOCALS, "x y", text("10.0.0.4/32")),
        ]);
        let tunnels = tunnels(&set).unwrap_or_default();
        let told: Vec<_> = tunnels
            .iter()
            .map(|tunnel| {
                let of = tunnel.config.as_ref().map(|(config, from)| {
                    (config.interface.tunnel.addresses[0].to_string(), *from)
                });
                (&*tunnel.name, of, tunnel.refused.len())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("both", Some(("10.0.0.1/32".to_owned(), From::Group)), 0),
                ("wrong", Some(("10.0.0.3/32".to_owned(), From::Local)), 1),
                ("x y", None, 1),
            ]
        );
    }
}
