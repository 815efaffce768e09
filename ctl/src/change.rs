//! What a SET asks: made of a configuration file or of words, and written as the IOCTL's buffer.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};

use abi::ioctl::{AllowedIp, InterfaceChange, Set, Writer};
use zeroize::Zeroizing;

use crate::config::{Config, Endpoint, Interface, Peer, Prefix};
use crate::key::{PublicKey, SecretKey};

/// A change of an interface. What is absent stays as it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The private key; all zeros removes it.
    pub private_key: Option<SecretKey>,
    /// The UDP port; 0 is any.
    pub listen_port: Option<u16>,
    /// Whether all peers go first.
    pub replace_peers: bool,
    /// Peers, each once.
    pub peers: Vec<PeerChange>,
}

/// A change of a peer, which is made if there is none. What is absent stays as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerChange {
    /// Who.
    pub public_key: PublicKey,
    /// Whether it goes.
    pub remove: bool,
    /// Whether nothing is done if there is none.
    pub update_only: bool,
    /// The preshared key; all zeros removes it.
    pub preshared_key: Option<SecretKey>,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives; 0 is none.
    pub persistent_keepalive: Option<u16>,
    /// Whether its allowed IPs go first.
    pub replace_allowed_ips: bool,
    /// Allowed IPs, and whether each is taken from it.
    pub allowed_ips: Vec<(Prefix, bool)>,
}

impl PeerChange {
    /// Nothing but who.
    #[must_use]
    pub fn of(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// A name of a host that leads to no address.
#[derive(Debug)]
pub struct Unresolved {
    /// As it was written.
    pub endpoint: String,
    /// What the resolver says.
    pub error: std::io::Error,
}

impl Change {
    /// What a file adds to an interface (`addconf`).
    #[must_use]
    pub fn adding(config: Config) -> Self {
        let Config { interface, peers } = config;
        Self {
            private_key: interface.private_key,
            listen_port: interface.listen_port,
            replace_peers: false,
            peers: peers.into_iter().map(Into::into).collect(),
        }
    }

    /// Makes an interface what a file says, and nothing else (`setconf`).
    #[must_use]
    pub fn setting(config: Config) -> Self {
        let mut change = Self::adding(config);
        change.private_key.get_or_insert_with(SecretKey::none);
        change.listen_port.get_or_insert(0);
        change.replace_peers = true;
        change
    }

    /// The same for one that is as `running` says, and without a disturbance of peers that stay (`syncconf`).
    #[must_use]
    pub fn syncing(config: Config, running: &Set<'_>) -> Self {
        let mut change = Self::setting(config);
        change.replace_peers = false;
        let wanted = change.peers.iter().enumerate().map(|(at, peer)| (peer.public_key, at));
        let wanted: HashMap<_, _> = wanted.collect();
        for peer in running.peers() {
            let public_key = PublicKey(*peer.public_key());
            let staying = wanted.get(&public_key).and_then(|at| change.peers.get_mut(*at));
            match staying {
                Some(staying) => {
                    staying.preshared_key.get_or_insert_with(SecretKey::none);
                    staying.persistent_keepalive.get_or_insert(0);
                }
                None => {
                    change.peers.push(PeerChange { remove: true, ..PeerChange::of(public_key) });
                }
            }
        }
        change
    }

    /// Looks names of hosts up, all of them, before anything is changed.
    ///
    /// # Errors
    ///
    /// The first that leads nowhere.
    pub fn resolve(&mut self) -> Result<(), Unresolved> {
        self.resolve_by(|name, port| {
            let mut found = (name, port).to_socket_addrs()?;
            found.next().map(Some).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        })
    }

    /// The same by another resolver. A name that it knows no address of yet stays a name.
    ///
    /// # Errors
    ///
    /// The first that leads nowhere.
    pub fn resolve_by(
        &mut self,
        mut resolver: impl FnMut(&str, u16) -> std::io::Result<Option<SocketAddr>>,
    ) -> Result<(), Unresolved> {
        for peer in &mut self.peers {
            if let Some(Endpoint::Host(name, port)) = &peer.endpoint {
                let address = resolver(name, *port)
                    .map_err(|error| Unresolved { endpoint: format!("{name}:{port}"), error })?;
                let address = address.map(Endpoint::Address);
                peer.endpoint = address.or_else(|| peer.endpoint.take());
            }
        }
        Ok(())
    }

    /// The buffer of WG_IOCTL_SET. Names that were not looked up are left out.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut buffer = Zeroizing::new(vec![0; self.write(&mut [])]);
        self.write(&mut buffer);
        buffer
    }

    fn write(&self, buffer: &mut [u8]) -> usize {
        let interface = InterfaceChange {
            private_key: self.private_key.as_ref().map(SecretKey::expose),
            listen_port: self.listen_port,
            replace_peers: self.replace_peers,
        };
        let mut writer = Writer::new(buffer, &interface.into());
        for peer in &self.peers {
            let fields = abi::ioctl::PeerChange {
                public_key: &peer.public_key.0,
                remove: peer.remove,
                update_only: peer.update_only,
                preshared_key: peer.preshared_key.as_ref().map(SecretKey::expose),
                endpoint: address(peer.endpoint.as_ref()),
                persistent_keepalive_s: peer.persistent_keepalive,
                replace_allowed_ips: peer.replace_allowed_ips,
            };
            writer.peer(&fields.into());
            for &(Prefix { address, length }, remove) in &peer.allowed_ips {
                writer.allowed_ip(&AllowedIp { address, cidr: length, remove });
            }
        }
        writer.len_bytes()
    }
}

fn address(endpoint: Option<&Endpoint>) -> Option<SocketAddr> {
    match endpoint? {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Host(..) => None,
    }
}

impl From<Peer> for PeerChange {
    /// The peer as a file has it: its allowed IPs are these alone.
    fn from(peer: Peer) -> Self {
        Self {
            public_key: peer.public_key,
            remove: false,
            update_only: false,
            preshared_key: peer.preshared_key,
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            replace_allowed_ips: true,
            allowed_ips: peer.allowed_ips.into_iter().map(|prefix| (prefix, false)).collect(),
        }
    }
}

impl From<&Set<'_>> for Config {
    /// The file that makes an interface what it is.
    fn from(running: &Set<'_>) -> Self {
        let interface = Interface {
            private_key: running.private_key().map(SecretKey::of).filter(|key| !key.is_none()),
            listen_port: running.listen_port().filter(|port| *port != 0),
            ..Interface::default()
        };
        let peers = running.peers().map(|peer| Peer {
            public_key: PublicKey(*peer.public_key()),
            preshared_key: peer.preshared_key().map(SecretKey::of).filter(|key| !key.is_none()),
            allowed_ips: peer
                .allowed_ips()
                .map(|ip| Prefix { address: ip.address, length: ip.cidr })
                .collect(),
            endpoint: peer.endpoint().map(Endpoint::Address),
            persistent_keepalive: peer.persistent_keepalive_s().filter(|seconds| *seconds != 0),
        });
        Self { interface, peers: peers.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::{Purpose, read};

    const KEYS: [&str; 3] = [
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=",
        "ERERERERERERERERERERERERERERERERERERERERERE=",
    ];

    fn config(text: &str) -> Config {
        read(text.as_bytes(), Purpose::Interface)
            .map_err(|problems| format!("{problems:?}"))
            .unwrap()
            .config
    }

    fn running(text: &str) -> Zeroizing<Vec<u8>> {
        Change::adding(config(text)).encode()
    }

    #[test]
    fn a_file_says_what_the_buffer_says() {
        let [one, two, psk] = KEYS;
        let text = format!(
            "[Interface]\nListenPort = 7\nPrivateKey = {one}\n\n[Peer]\nPublicKey = {two}\nPresharedKey = {psk}\n\
             AllowedIPs = 10.0.0.0/8, fd00::/8\nEndpoint = [2001:db8::1]:9\nPersistentKeepalive = 25\n"
        );
        let buffer = Change::setting(config(&text)).encode();
        let set = Set::parse(&buffer).unwrap();
        assert_eq!(set.len_bytes(), buffer.len());
        assert!(set.replaces_peers() && set.peers().all(|peer| peer.replaces_allowed_ips()));
        assert_eq!(*crate::config::print::print(&Config::from(&set)), text);
    }

    #[test]
    fn what_is_absent_goes_with_setconf_and_stays_with_addconf() {
        let [one, ..] = KEYS;
        let peer = format!("[Peer]\nPublicKey = {one}\n");
        let setting = Change::setting(config(&peer));
        assert!(setting.private_key.is_some_and(|key| key.is_none()));
        assert_eq!((setting.listen_port, setting.replace_peers), (Some(0), true));
        let adding = Change::adding(config(&peer));
        assert!(adding.private_key.is_none() && adding.peers[0].preshared_key.is_none());
        assert_eq!((adding.listen_port, adding.replace_peers), (None, false));
        assert_eq!(adding.peers[0].persistent_keepalive, None);
    }

    #[test]
    fn syncing_removes_who_is_not_named_and_resets_who_stays() {
        let [one, two, three] = KEYS;
        let before = running(&format!(
            "[Peer]\nPublicKey = {one}\nPresharedKey = {three}\nPersistentKeepalive = 9\n[Peer]\nPublicKey = {two}\n"
        ));
        let file = format!("[Peer]\nPublicKey = {one}\n[Peer]\nPublicKey = {three}\n");
        let change = Change::syncing(config(&file), &Set::parse(&before).unwrap());
        assert!(!change.replace_peers);
        let [stays, comes, goes] = &change.peers[..] else { panic!("{}", change.peers.len()) };
        assert!(stays.preshared_key.as_ref().is_some_and(SecretKey::is_none) && !stays.remove);
        assert_eq!(stays.persistent_keepalive, Some(0));
        assert!(comes.preshared_key.is_none() && !comes.remove);
        assert_eq!((goes.public_key.to_string(), goes.remove), (two.to_owned(), true));
    }

    #[test]
    fn a_name_is_looked_up_before_anything_is_done() {
        let [one, ..] = KEYS;
        let mut change =
            Change::adding(config(&format!("[Peer]\nPublicKey = {one}\nEndpoint = localhost:7\n")));
        change.resolve().unwrap();
        let Some(Endpoint::Address(address)) = &change.peers[0].endpoint else { panic!("a name") };
        assert!(address.ip().is_loopback() && address.port() == 7);
    }
}
