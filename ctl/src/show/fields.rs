//! `show NAME FIELD` and `show NAME dump`: a line for each thing, with tabs between what it has; for scripts.
//!
//! Source: wg(8), "show"; its output.

use std::fmt::{Display, Write as _};

use abi::ioctl::Peer;
use zeroize::Zeroizing;

use super::{Shown, handshake_s};
use crate::key::{PublicKey, SecretKey};

/// What may be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Field {
    /// The interface's public key.
    PublicKey,
    /// The interface's private key.
    PrivateKey,
    /// The UDP port.
    ListenPort,
    /// The mark, which only Linux has.
    Fwmark,
    /// Public keys of peers.
    Peers,
    /// Their preshared keys.
    PresharedKeys,
    /// Where they are.
    Endpoints,
    /// What is sent to them.
    AllowedIps,
    /// When each last completed a handshake, in seconds of 1970.
    LatestHandshakes,
    /// Bytes received and sent.
    Transfer,
    /// Seconds between keepalives.
    PersistentKeepalive,
    /// All of it.
    Dump,
}

/// Stands where there is nothing.
const NONE: &str = "(none)";
const OFF: &str = "off";

/// Appends `field` of an interface; each line begins with its name if several are shown.
pub fn write(text: &mut Zeroizing<String>, shown: &Shown<'_>, field: Field, several: bool) {
    let mut lines = Lines { text, name: several.then_some(shown.name) };
    let set = &shown.set;
    match field {
        Field::PublicKey => lines.line(|line| line.public(set.public_key())),
        Field::PrivateKey => lines.line(|line| line.secret(set.private_key())),
        Field::ListenPort => lines.line(|line| line.word(set.listen_port().unwrap_or(0))),
        Field::Fwmark => lines.line(|line| line.word(OFF)),
        Field::Dump => {
            lines.line(|line| {
                line.secret(set.private_key());
                line.public(set.public_key());
                line.word(set.listen_port().unwrap_or(0));
                line.word(OFF);
            });
            for peer in set.peers() {
                lines.line(|line| dump(line, &peer));
            }
        }
        _ => {
            for peer in set.peers() {
                lines.line(|line| of_peer(line, &peer, field));
            }
        }
    }
}

fn dump(line: &mut Line<'_>, peer: &Peer<'_>) {
    line.word(PublicKey(*peer.public_key()));
    line.secret(peer.preshared_key());
    endpoint(line, peer);
    line.allowed_ips(peer, ",");
    line.word(handshake_s(peer));
    line.word(peer.rx_bytes());
    line.word(peer.tx_bytes());
    keepalive(line, peer);
}

fn of_peer(line: &mut Line<'_>, peer: &Peer<'_>, field: Field) {
    line.word(PublicKey(*peer.public_key()));
    match field {
        Field::PresharedKeys => line.secret(peer.preshared_key()),
        Field::Endpoints => endpoint(line, peer),
        Field::AllowedIps => line.allowed_ips(peer, " "),
        Field::LatestHandshakes => line.word(handshake_s(peer)),
        Field::Transfer => {
            line.word(peer.rx_bytes());
            line.word(peer.tx_bytes());
        }
        Field::PersistentKeepalive => keepalive(line, peer),
        // The key is all there is to a peer, and the others are of the interface.
        _ => {}
    }
}

fn endpoint(line: &mut Line<'_>, peer: &Peer<'_>) {
    match peer.endpoint() {
        Some(endpoint) => line.word(endpoint),
        None => line.word(NONE),
    }
}

fn keepalive(line: &mut Line<'_>, peer: &Peer<'_>) {
    match peer.persistent_keepalive_s() {
        Some(seconds) if seconds != 0 => line.word(seconds),
        _ => line.word(OFF),
    }
}

struct Lines<'t> {
    text: &'t mut Zeroizing<String>,
    name: Option<&'t str>,
}

impl Lines<'_> {
    fn line(&mut self, write: impl FnOnce(&mut Line<'_>)) {
        let mut line = Line { text: self.text, begun: false };
        if let Some(name) = self.name {
            line.word(name);
        }
        write(&mut line);
        self.text.push('\n');
    }
}

/// Words with tabs between them.
struct Line<'t> {
    text: &'t mut Zeroizing<String>,
    begun: bool,
}

impl Line<'_> {
    fn word(&mut self, word: impl Display) {
        self.tab();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{word}");
    }

    fn public(&mut self, key: Option<&[u8; 32]>) {
        match key {
            Some(key) => self.word(PublicKey(*key)),
            None => self.word(NONE),
        }
    }

    fn secret(&mut self, key: Option<&[u8; 32]>) {
        let key = key.map(SecretKey::of).filter(|key| !key.is_none());
        match key {
            Some(key) => {
                self.tab();
                key.write(self.text);
            }
            None => self.word(NONE),
        }
    }

    fn allowed_ips(&mut self, peer: &Peer<'_>, between: &str) {
        if peer.allowed_ip_count() == 0 {
            return self.word(NONE);
        }
        self.tab();
        for (number, ip) in peer.allowed_ips().enumerate() {
            let before = if number == 0 { "" } else { between };
            // As above.
            let _ = write!(self.text, "{before}{}/{}", ip.address, ip.cidr);
        }
    }

    fn tab(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            self.text.push('\t');
        }
    }
}
