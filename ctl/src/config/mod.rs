//! Configuration files: what `wg` and `wg-quick` read, strictly.
//!
//! A file is read whole before any of it is used ([`read::read`]); every line that is wrong is told, with its place and what it
//! may have been meant to be ([`problem::Problem`]). [`print::print`] writes a configuration so that it reads back the same.
//!
//! Stricter than they are: a key that only one value can have stands once, a peer stands once, numbers are in their range, and
//! lists have no empty places. As there, `#` begins a comment, names of keys and sections are written
//! in any case, and a missing prefix length is that of the address.
//!
//! Source: wg(8), "CONFIGURATION FILE FORMAT"; wg-quick(8), "CONFIGURATION".

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::key::{PublicKey, SecretKey};

pub mod file;
pub mod key_names;
pub mod print;
pub mod problem;
pub mod read;
pub mod value;

/// A whole file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `[Interface]`.
    pub interface: Interface,
    /// Each `[Peer]`, in their order.
    pub peers: Vec<Peer>,
}

/// `[Interface]`. What is absent was not said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The private key.
    pub private_key: Option<SecretKey>,
    /// The UDP port; 0 is any.
    pub listen_port: Option<u16>,
    /// The mark of outgoing datagrams, which only Linux has; 0 is none.
    pub fw_mark: Option<u32>,
    /// What only a tunnel's file says, and not `wg`'s.
    pub tunnel: Tunnel,
}

/// What `wg-quick` and the tunnel's service do for the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Addresses of the interface.
    pub addresses: Vec<Prefix>,
    /// Servers of DNS.
    pub dns: Vec<IpAddr>,
    /// Domains that names are looked for in.
    pub search: Vec<String>,
    /// The MTU, in bytes.
    pub mtu: Option<u16>,
    /// Where routes go.
    pub table: Option<Table>,
    /// Commands, in the order of [`Script`].
    pub scripts: [Vec<String>; 4],
}

/// Where the routes to allowed IPs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Nowhere: none are made.
    Off,
    /// To the main table.
    Auto,
    /// To the one of this number, which only Linux has.
    Number(u32),
}

/// When a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Before the interface is up.
    PreUp,
    /// Behind that.
    PostUp,
    /// Before it is down.
    PreDown,
    /// Behind that.
    PostDown,
}

/// `[Peer]`. What is absent was not said.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub public_key: PublicKey,
    /// The preshared key; all zeros is none.
    pub preshared_key: Option<SecretKey>,
    /// What is sent to the peer, and taken from it.
    pub allowed_ips: Vec<Prefix>,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives; 0 is none.
    pub persistent_keepalive: Option<u16>,
}

/// An address and how much of it counts, as `10.0.0.0/8`. Host bits are as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Its bits that count, at most as many as it has.
    pub length: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and a port.
    Address(SocketAddr),
    /// The name of a host, which is looked up when the configuration is applied, and a port.
    Host(String, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
        }
    }
}
