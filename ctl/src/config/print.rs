//! A configuration as text, in the order of `wg showconf`; it reads back the same.

use std::fmt::{Display, Write as _};

use zeroize::Zeroizing;

use super::{Config, Interface, Peer, Script, Table, Tunnel};
use crate::key::SecretKey;

/// Writes `config`. The text holds its keys.
#[must_use]
pub fn print(config: &Config) -> Zeroizing<String> {
    // Room for all of it, so that no copy is left behind when it grows.
    let mut text = Text(Zeroizing::new(String::with_capacity(capacity(config))));
    text.0.push_str("[Interface]\n");
    interface(&mut text, &config.interface);
    text.0.push('\n');
    for (number, peer) in config.peers.iter().enumerate() {
        if number > 0 {
            text.0.push('\n');
        }
        text.0.push_str("[Peer]\n");
        self::peer(&mut text, peer);
    }
    text.0
}

/// What `wg` takes of it.
#[must_use]
pub fn strip(config: &Config) -> Zeroizing<String> {
    let mut stripped = config.clone();
    stripped.interface.tunnel = Tunnel::default();
    print(&stripped)
}

/// More bytes than the text has.
fn capacity(config: &Config) -> usize {
    let tunnel = &config.interface.tunnel;
    let texts = tunnel.scripts.iter().flatten().chain(&tunnel.search);
    let texts = texts.map(|text| text.len() + 16).sum::<usize>();
    let peers = config.peers.iter().map(|peer| {
        let host = peer.endpoint.as_ref().map_or(0, |endpoint| endpoint.to_string().len());
        256 + host + 48 * peer.allowed_ips.len()
    });
    512 + texts + 48 * (tunnel.addresses.len() + tunnel.dns.len()) + peers.sum::<usize>()
}

fn interface(text: &mut Text, interface: &Interface) {
    text.line("ListenPort", interface.listen_port);
    match interface.fw_mark {
        Some(0) => text.line("FwMark", Some("off")),
        mark => text.line("FwMark", mark.map(|mark| format!("{mark:#x}"))),
    }
    text.secret("PrivateKey", interface.private_key.as_ref());
    let tunnel = &interface.tunnel;
    text.list("Address", &tunnel.addresses);
    text.list("DNS", &tunnel.dns);
    text.list("DNS", &tunnel.search);
    text.line("MTU", tunnel.mtu);
    match tunnel.table {
        Some(Table::Number(number)) => text.line("Table", Some(number)),
        Some(Table::Off) => text.line("Table", Some("off")),
        Some(Table::Auto) => text.line("Table", Some("auto")),
        None => {}
    }
    for script in [Script::PreUp, Script::PostUp, Script::PreDown, Script::PostDown] {
        for command in &tunnel.scripts[script as usize] {
            text.line(super::key_names::Key::Script(script).name(), Some(command));
        }
    }
}

fn peer(text: &mut Text, peer: &Peer) {
    text.line("PublicKey", Some(&peer.public_key));
    text.secret("PresharedKey", peer.preshared_key.as_ref());
    text.list("AllowedIPs", &peer.allowed_ips);
    text.line("Endpoint", peer.endpoint.as_ref());
    text.line("PersistentKeepalive", peer.persistent_keepalive);
}

struct Text(Zeroizing<String>);

impl Text {
    /// `KEY = VALUE`, if there is one.
    fn line(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(self.0, "{key} = {value}");
        }
    }

    /// `KEY = VALUE, VALUE`, if there are some.
    fn list(&mut self, key: &str, values: &[impl Display]) {
        let Some((first, others)) = values.split_first() else { return };
        // As above.
        let _ = write!(self.0, "{key} = {first}");
        for value in others {
            let _ = write!(self.0, ", {value}");
        }
        self.0.push('\n');
    }

    /// `KEY = KEY`, if there is one.
    fn secret(&mut self, key: &str, value: Option<&SecretKey>) {
        if let Some(value) = value {
            let _ = write!(self.0, "{key} = ");
            value.write(&mut self.0);
            self.0.push('\n');
        }
    }
}
