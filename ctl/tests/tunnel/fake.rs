//! A system of plain values: what is done to it is seen, and any call of it can be made to fail.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use abi::ioctl::{ALLOWED_IP_LEN, INTERFACE_LEN, PEER_LEN, Set};
use ctl::change::Change;
use ctl::config::{Config, Endpoint, Peer, Prefix};
use ctl::key::{PublicKey, SecretKey};
use ctl::tunnel::filters::Filter;
use ctl::tunnel::guid::Guid;
use ctl::tunnel::system::{Before, Dns, Interface, System};
use zeroize::Zeroizing;

/// What an adapter has.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Adapter {
    pub(crate) config: Config,
    pub(crate) interface: Option<Interface>,
    pub(crate) up: bool,
    pub(crate) addresses: Vec<String>,
    pub(crate) dns: Dns,
}

/// What there is.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) adapter: Option<Adapter>,
    pub(crate) routes: BTreeSet<String>,
    pub(crate) filters: Vec<Filter>,
}

/// Where a peer of an answer has what was sent to it, and its last handshake.
const TX_BYTES: usize = 104;
const LAST_HANDSHAKE: usize = 120;
/// The largest MTU of an adapter.
pub(crate) const LARGEST: u16 = 1420;

/// The system.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) state: State,
    pub(crate) default_mtu: Option<u16>,
    /// Addresses that every name leads to.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What every peer is said to have been sent, and when it answered last.
    pub(crate) sent: u64,
    pub(crate) handshake: u64,
    /// Calls, in order.
    pub(crate) calls: Vec<String>,
    /// Numbers of the calls that fail.
    pub(crate) failing: Vec<usize>,
}

impl Fake {
    fn call(&mut self, what: impl Into<String>) -> io::Result<()> {
        self.calls.push(what.into());
        if self.failing.contains(&self.calls.len()) {
            return Err(io::Error::other(format!("call {} fails", self.calls.len())));
        }
        Ok(())
    }

    /// The adapter: asked for when there is none is a mistake of the caller's.
    fn adapter(&mut self) -> &mut Adapter {
        self.state.adapter.as_mut().expect("an adapter")
    }
}

fn set(list: &mut Vec<String>, what: Prefix) -> Before {
    let what = what.to_string();
    if list.contains(&what) {
        return Before::There;
    }
    list.push(what);
    Before::Absent
}

impl System for Fake {
    fn open_adapter(&mut self, name: &str, _: Guid) -> io::Result<Before> {
        self.call(format!("open {name}"))?;
        if self.state.adapter.is_some() {
            return Ok(Before::There);
        }
        let interface = Some(Interface { mtu: LARGEST, first: false });
        self.state.adapter = Some(Adapter { interface, ..Adapter::default() });
        Ok(Before::Absent)
    }

    fn remove_adapter(&mut self) -> io::Result<()> {
        self.call("remove")?;
        self.state.adapter = None;
        self.state.routes.clear();
        Ok(())
    }

    fn configuration(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        self.call("configuration")?;
        let mut answer = Change::adding(self.adapter().config.clone()).encode();
        let (sent, handshake) = (self.sent, self.handshake);
        let peers = Set::parse(&answer).expect("a configuration");
        let lengths: Vec<_> = peers.peers().map(|peer| peer.allowed_ip_count() as usize).collect();
        let mut at = INTERFACE_LEN;
        for ips in lengths {
            answer[at + TX_BYTES..][..8].copy_from_slice(&sent.to_le_bytes());
            answer[at + LAST_HANDSHAKE..][..8].copy_from_slice(&handshake.to_le_bytes());
            at += PEER_LEN + ips * ALLOWED_IP_LEN;
        }
        Ok(answer)
    }

    fn configure(&mut self, configuration: Zeroizing<Vec<u8>>) -> io::Result<()> {
        self.call("configure")?;
        apply(&mut self.adapter().config, &Set::parse(&configuration).expect("a configuration"));
        Ok(())
    }

    fn filter(&mut self, filters: &[Filter]) -> io::Result<()> {
        self.call("filter")?;
        assert!(!self.adapter().up, "filtered behind the sockets");
        assert!(self.state.routes.is_empty(), "filtered behind the routes");
        self.state.filters = filters.to_vec();
        Ok(())
    }

    fn unfilter(&mut self) -> io::Result<()> {
        self.call("unfilter")?;
        self.state.filters.clear();
        Ok(())
    }

    fn default_mtu(&mut self) -> io::Result<Option<u16>> {
        self.call("default mtu")?;
        Ok(self.default_mtu)
    }

    fn largest_mtu(&mut self) -> io::Result<u16> {
        self.call("largest mtu")?;
        Ok(LARGEST)
    }

    fn interface(&mut self) -> io::Result<Interface> {
        self.call("interface")?;
        Ok(self.adapter().interface.expect("set with the adapter"))
    }

    fn set_interface(&mut self, interface: Interface) -> io::Result<()> {
        self.call(format!("mtu {}", interface.mtu))?;
        self.adapter().interface = Some(interface);
        Ok(())
    }

    fn bring_up(&mut self) -> io::Result<Before> {
        self.call("up")?;
        let was_up = std::mem::replace(&mut self.adapter().up, true);
        Ok(if was_up { Before::There } else { Before::Absent })
    }

    fn bring_down(&mut self) -> io::Result<()> {
        self.call("down")?;
        self.adapter().up = false;
        Ok(())
    }

    fn add_address(&mut self, address: Prefix) -> io::Result<Before> {
        self.call(format!("address {address}"))?;
        Ok(set(&mut self.adapter().addresses, address))
    }

    fn remove_address(&mut self, address: Prefix) -> io::Result<()> {
        self.call(format!("no address {address}"))?;
        self.adapter().addresses.retain(|other| *other != address.to_string());
        Ok(())
    }

    fn add_route(&mut self, route: Prefix) -> io::Result<Before> {
        self.call(format!("route {route}"))?;
        let made = self.state.routes.insert(route.to_string());
        Ok(if made { Before::Absent } else { Before::There })
    }

    fn remove_route(&mut self, route: Prefix) -> io::Result<()> {
        self.call(format!("no route {route}"))?;
        self.state.routes.remove(&route.to_string());
        Ok(())
    }

    fn dns(&mut self) -> io::Result<Dns> {
        self.call("dns")?;
        Ok(self.adapter().dns.clone())
    }

    fn set_dns(&mut self, dns: &Dns) -> io::Result<()> {
        self.call("set dns")?;
        self.adapter().dns = dns.clone();
        Ok(())
    }

    fn run(&mut self, command: &str) -> io::Result<()> {
        self.call(format!("run {command}"))
    }

    fn resolve(&mut self, host: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        self.call(format!("resolve {host}"))?;
        Ok(self.addresses.clone())
    }
}

/// What a driver makes of a SET.
fn apply(config: &mut Config, set: &Set<'_>) {
    let secret = |key: &[u8; 32]| Some(SecretKey::of(key)).filter(|key| !key.is_none());
    if let Some(key) = set.private_key() {
        config.interface.private_key = secret(key);
    }
    if let Some(port) = set.listen_port() {
        config.interface.listen_port = Some(port).filter(|port| *port != 0);
    }
    if set.replaces_peers() {
        config.peers.clear();
    }
    for change in set.peers() {
        let public_key = PublicKey(*change.public_key());
        let at = config.peers.iter().position(|peer| peer.public_key == public_key);
        if change.removes() {
            config.peers.retain(|peer| peer.public_key != public_key);
            continue;
        }
        let at = match at {
            Some(at) => at,
            None if change.updates_only() => continue,
            None => {
                config.peers.push(Peer {
                    public_key,
                    preshared_key: None,
                    allowed_ips: Vec::new(),
                    endpoint: None,
                    persistent_keepalive: None,
                });
                config.peers.len() - 1
            }
        };
        let peer = &mut config.peers[at];
        if let Some(key) = change.preshared_key() {
            peer.preshared_key = secret(key);
        }
        if let Some(seconds) = change.persistent_keepalive_s() {
            peer.persistent_keepalive = Some(seconds).filter(|seconds| *seconds != 0);
        }
        if let Some(endpoint) = change.endpoint() {
            peer.endpoint = Some(Endpoint::Address(endpoint));
        }
        if change.replaces_allowed_ips() {
            peer.allowed_ips.clear();
        }
        let ips = change.allowed_ips();
        peer.allowed_ips.extend(ips.map(|ip| Prefix { address: ip.address, length: ip.cidr }));
    }
}
