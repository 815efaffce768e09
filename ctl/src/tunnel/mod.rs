//! What is done to bring a tunnel up, in what order, and how it is undone: as data, before anything is.
//!
//! Each [`Step`] knows what takes it back, and a tunnel goes down by taking back its steps from the last to the first. So routes go
//! before the filters that keep packets from leaving beside the tunnel, and a step that fails leaves nothing behind.
//! What vanishes with the adapter (keys, peers, addresses, DNS) has nothing to take back.

use std::net::IpAddr;

use crate::config::{Config, Prefix, Script, Table, value};
use crate::policy::KillSwitch;

mod execute;
pub mod filters;
pub mod guid;
pub mod names;
mod print;
pub mod system;
pub mod watch;

pub use execute::{Failure, Running, Undone, mtu, up};
use filters::Filter;
use guid::Guid;

/// Bytes that WireGuard puts around a packet, at most: IPv6, UDP, header and tag.
pub const OVERHEAD: u16 = 80;

/// The longest name of a tunnel.
const NAME_MAX: usize = 32;

/// Whether a tunnel may be called so: its name becomes part of a service's, a pipe's and a file's.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_=+.-".contains(&byte);
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(is_letter)
        && name != "."
        && name != ".."
}

/// Every step, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The tunnel's name, which the adapter gets, too.
    pub name: String,
    /// What is done.
    pub steps: Vec<Step>,
}

/// Something that is done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A command of the file's before everything else, and one behind everything when it is undone.
    Outermost {
        /// `PreUp`.
        up: Vec<String>,
        /// `PostDown`.
        down: Vec<String>,
    },
    /// The adapter is made, or opened if it is there. Undone: it is removed.
    Adapter(Guid),
    /// Keys, port and peers are set: how many peers, and which names of hosts are looked up.
    Configure {
        /// Peers.
        peers: usize,
        /// Names of hosts.
        lookups: Vec<String>,
    },
    /// Filters keep packets from leaving beside the tunnel. Undone: they go.
    KillSwitch(Vec<Filter>),
    /// What both IP interfaces of the adapter are given.
    Interface {
        /// The MTU; without one [`OVERHEAD`] less than that of the interface that the default route leaves by.
        mtu: Option<u16>,
        /// Whether its metric is 0, so that its default routes come before others.
        first: bool,
    },
    /// The driver opens its sockets. Undone: they are closed.
    Up,
    /// An address of the adapter.
    Address(Prefix),
    /// A route through the adapter. Undone: it goes.
    Route(Prefix),
    /// Servers and domains of the adapter.
    Dns {
        /// Servers.
        servers: Vec<IpAddr>,
        /// Domains that names are looked for in.
        search: Vec<String>,
    },
    /// A command of the file's behind everything else, and one before everything when it is undone.
    Innermost {
        /// `PostUp`.
        up: Vec<String>,
        /// `PreDown`.
        down: Vec<String>,
    },
}

impl Plan {
    /// What brings up the tunnel `name` of a file.
    #[must_use]
    pub fn of(name: &str, config: &Config, kill_switch: KillSwitch) -> Self {
        let tunnel = &config.interface.tunnel;
        let script = |script: Script| tunnel.scripts[script as usize].clone();
        let routes = routes(config);
        let is_default = routes.iter().any(|route| route.length == 0);
        let kill_switch = match kill_switch {
            KillSwitch::Never => false,
            KillSwitch::DefaultRoute => is_default,
            KillSwitch::Always => true,
        };
        let mut steps = Vec::new();
        let (up, down) = (script(Script::PreUp), script(Script::PostDown));
        steps.extend((!up.is_empty() || !down.is_empty()).then_some(Step::Outermost { up, down }));
        let public_key = config.interface.private_key.as_ref().map(|key| key.public());
        steps.push(Step::Adapter(Guid::of_tunnel(name, public_key)));
        let hosts = config.peers.iter().filter_map(|peer| match &peer.endpoint {
            Some(crate::config::Endpoint::Host(host, _)) => Some(host.clone()),
            _ => None,
        });
        steps.push(Step::Configure { peers: config.peers.len(), lookups: hosts.collect() });
        // Before anything is sent through the adapter or because of it.
        steps.extend(kill_switch.then(|| Step::KillSwitch(filters::kill_switch(&tunnel.dns))));
        steps.push(Step::Interface { mtu: tunnel.mtu, first: is_default });
        steps.push(Step::Up);
        steps.extend(tunnel.addresses.iter().copied().map(Step::Address));
        steps.extend(routes.into_iter().map(Step::Route));
        if !tunnel.dns.is_empty() || !tunnel.search.is_empty() {
            steps.push(Step::Dns { servers: tunnel.dns.clone(), search: tunnel.search.clone() });
        }
        let (up, down) = (script(Script::PostUp), script(Script::PreDown));
        steps.extend((!up.is_empty() || !down.is_empty()).then_some(Step::Innermost { up, down }));
        Self { name: name.to_owned(), steps }
    }
}

/// Where allowed IPs are, each once, if the file wants routes to them.
fn routes(config: &Config) -> Vec<Prefix> {
    let mut routes: Vec<Prefix> = Vec::new();
    if config.interface.tunnel.table == Some(Table::Off) {
        return routes;
    }
    let networks = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let mut seen = std::collections::HashSet::new();
    for network in networks.map(|prefix| value::network(*prefix)) {
        if seen.insert((network.address, network.length)) {
            routes.push(network);
        }
    }
    routes
}
