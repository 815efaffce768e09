//! The words of `set`: what is to be changed, in the grammar of `wg set`.
//!
//! Besides, as newer ones of `wg` have it, `+` and `-` before a prefix of `allowed-ips` give it to the peer or take it away, and
//! leave the others as they are.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::slice::Iter;

use crate::change::{Change, PeerChange};
use crate::config::value::{self, Wrong};
use crate::key::SecretKey;

/// Every word there is.
const WORDS: [&str; 9] = [
    "listen-port",
    "fwmark",
    "private-key",
    "peer",
    "remove",
    "preshared-key",
    "endpoint",
    "persistent-keepalive",
    "allowed-ips",
];

/// What words ask.
pub struct Words {
    /// The change.
    pub change: Change,
    /// Whether a mark was named, which only Linux has.
    pub has_mark: bool,
}

/// Reads the key in a file, or says what is wrong with it.
type KeyFile<'f> = &'f dyn Fn(&Path) -> Result<SecretKey, String>;

/// Reads words; `key_file` reads the key in a file, of which all zeros is none.
///
/// # Errors
///
/// What is wrong, for a person.
pub fn parse(words: &[String], key_file: KeyFile<'_>) -> Result<Words, String> {
    let mut asked = Words { change: Change::default(), has_mark: false };
    let mut seen = HashSet::new();
    let mut peers = HashSet::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "peer" {
            let key = value::public_key(argument(word, &mut rest)?);
            let key = key.map_err(|wrong| in_word(word, &wrong))?;
            if !peers.insert(key) {
                return Err(format!("peer {key} is named twice"));
            }
            seen.clear();
            asked.change.peers.push(PeerChange::of(key));
            continue;
        }
        if !seen.insert(word) {
            return Err(format!("`{word}` is said twice"));
        }
        match asked.change.peers.last_mut() {
            None => asked.interface(word, &mut rest, key_file)?,
            Some(peer) => change_peer(peer, word, &mut rest, key_file)?,
        }
    }
    Ok(asked)
}

impl Words {
    /// A word before the first peer.
    fn interface(
        &mut self,
        word: &str,
        rest: &mut Iter<'_, String>,
        key_file: KeyFile<'_>,
    ) -> Result<(), String> {
        let wrong = |wrong: Wrong| in_word(word, &wrong);
        match word {
            "private-key" => {
                self.change.private_key = Some(key_file(Path::new(argument(word, rest)?))?);
            }
            "listen-port" => {
                let port = value::listen_port(argument(word, rest)?).map_err(wrong)?;
                self.change.listen_port = Some(port);
            }
            "fwmark" => {
                value::fw_mark(argument(word, rest)?).map_err(wrong)?;
                self.has_mark = true;
            }
            _ => return Err(unknown(word)),
        }
        Ok(())
    }
}

/// A word behind a peer.
fn change_peer(
    peer: &mut PeerChange,
    word: &str,
    rest: &mut Iter<'_, String>,
    key_file: KeyFile<'_>,
) -> Result<(), String> {
    let wrong = |wrong: Wrong| in_word(word, &wrong);
    match word {
        "remove" => peer.remove = true,
        "preshared-key" => {
            peer.preshared_key = Some(key_file(Path::new(argument(word, rest)?))?);
        }
        "endpoint" => {
            peer.endpoint = Some(value::endpoint(argument(word, rest)?).map_err(wrong)?);
        }
        "persistent-keepalive" => {
            let seconds = value::persistent_keepalive(argument(word, rest)?).map_err(wrong)?;
            peer.persistent_keepalive = Some(seconds);
        }
        "allowed-ips" => allowed_ips(peer, argument(word, rest)?).map_err(wrong)?,
        _ => return Err(unknown(word)),
    }
    Ok(())
}

/// The word behind `word`.
fn argument<'w>(word: &str, rest: &mut Iter<'w, String>) -> Result<&'w String, String> {
    rest.next().ok_or_else(|| format!("`{word}` has no value"))
}

fn unknown(word: &str) -> String {
    let nearest = crate::config::key_names::nearest_of(word, WORDS.into_iter());
    let hint = nearest.map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
    format!("Invalid argument: {word}{hint}")
}

fn allowed_ips(peer: &mut PeerChange, list: &str) -> Result<(), Wrong> {
    if list.is_empty() {
        peer.replace_allowed_ips = true;
        return Ok(());
    }
    for item in list.split(',').map(str::trim) {
        let (prefix, remove) = match (item.strip_prefix('-'), item.strip_prefix('+')) {
            (Some(prefix), _) => (prefix, true),
            (_, Some(prefix)) => (prefix, false),
            _ => {
                peer.replace_allowed_ips = true;
                (item, false)
            }
        };
        peer.allowed_ips.push((value::prefix(prefix)?, remove));
    }
    Ok(())
}

fn in_word(word: &str, wrong: &Wrong) -> String {
    format!("{word}: {}", wrong.why)
}

/// Reads the key in a file. Nothing in it is no key.
///
/// # Errors
///
/// What is wrong with it, for a person.
pub fn read_key(file: &Path) -> Result<SecretKey, String> {
    let named = |error: io::Error| format!("{}: {}", file.display(), said(&error));
    let text = crate::config::file::read(file).map_err(named)?;
    let no_key = || format!("{}: this is no key, which is {}", file.display(), crate::key::FORM);
    match str::from_utf8(&text).map_err(|_| no_key())?.trim() {
        "" => Ok(SecretKey::none()),
        text => SecretKey::parse(text).ok_or_else(no_key),
    }
}

/// What an error says, as the C library has it.
#[must_use]
pub fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const OTHER: &str = "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=";

    fn parse(text: &str) -> Result<Words, String> {
        let words: Vec<_> =
            text.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect();
        super::parse(&words, &|file: &Path| match file.to_str() {
            Some("/dev/null") => Ok(SecretKey::none()),
            Some("file") => Ok(SecretKey::of(&[7; 32])),
            _ => Err("no such file".to_owned()),
        })
    }

    #[test]
    fn words_become_a_change() {
        let text = format!(
            "private-key file listen-port 7 fwmark 0x1 peer {KEY} preshared-key /dev/null endpoint [::1]:9 \
             persistent-keepalive off allowed-ips 10.0.0.0/8,::/0 peer {OTHER} remove"
        );
        let Words { change, has_mark } = parse(&text).map_err(|error| panic!("{error}")).unwrap();
        assert!(has_mark && !change.replace_peers);
        let public = change.private_key.as_ref().map(SecretKey::public);
        assert_eq!(public, Some(SecretKey::of(&[7; 32]).public()));
        assert_eq!(change.listen_port, Some(7));
        let [first, second] = &change.peers[..] else { panic!() };
        assert!(first.preshared_key.as_ref().is_some_and(SecretKey::is_none));
        assert!(first.replace_allowed_ips);
        assert_eq!((first.persistent_keepalive, first.allowed_ips.len()), (Some(0), 2));
        assert!(second.remove && !first.remove && !second.replace_allowed_ips);
    }

    #[test]
    fn allowed_ips_are_replaced_given_or_taken() {
        for (list, replace, removed) in [
            ("''", true, &[][..]),
            ("10.0.0.0/8", true, &[false]),
            ("+10.0.0.0/8,-::/0", false, &[false, true]),
            ("10.0.0.0/8,+::/0", true, &[false, false]),
        ] {
            let words = parse(&format!("peer {KEY} allowed-ips {list}"))
                .map_err(|e| panic!("{e}"))
                .unwrap();
            let peer = &words.change.peers[0];
            assert_eq!(peer.replace_allowed_ips, replace, "{list}");
            let got: Vec<_> = peer.allowed_ips.iter().map(|(_, remove)| *remove).collect();
            assert_eq!(got, removed, "{list}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("listen-port".to_owned(), "`listen-port` has no value"),
            ("listen-port x".to_owned(), "listen-port: a port is a number"),
            ("listen-port 1 listen-port 1".to_owned(), "`listen-port` is said twice"),
            ("remove".to_owned(), "Invalid argument: remove"),
            ("listen-prot 1".to_owned(), "did you mean `listen-port`?"),
            ("private-key nothing".to_owned(), "no such file"),
            ("peer".to_owned(), "`peer` has no value"),
            ("peer abc".to_owned(), "peer: this is no key"),
            (format!("peer {KEY} peer {KEY}"), "is named twice"),
            (format!("peer {KEY} listen-port 1"), "Invalid argument: listen-port"),
            (format!("peer {KEY} allowed-ips 1.2.3.4/99"), "allowed-ips: the length"),
            (format!("peer {KEY} allowed-ips -"), "allowed-ips: `` is no address"),
            (format!("peer {KEY} endpoint 1.2.3.4"), "endpoint: the port is missing"),
        ] {
            let error = parse(&text).err().unwrap();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
