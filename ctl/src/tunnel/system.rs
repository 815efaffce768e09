//! What a system can do for a tunnel: the few things that a plan is made of, each with what takes it back.
//!
//! Whatever fails has changed nothing, but for [`System::set_interface`], whose two families may differ then. What is taken back may have
//! gone by itself: that is no failure.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use zeroize::Zeroizing;

use super::filters::Filter;
use super::guid::Guid;
use crate::config::Prefix;

/// How long a command of a tunnel's file may take.
pub const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What is told of a command that takes longer.
pub(crate) fn too_long(limit: Duration) -> io::Error {
    let why = format!(
        "it did not end within {} s, and was ended with all that it started: start what is to go on in the background",
        limit.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Whether something was there before it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It was, and was the same: it is not taken back.
    There,
    /// It was not.
    Absent,
}

/// What both IP interfaces of the adapter have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The MTU, in bytes.
    pub mtu: u16,
    /// Whether the metric is 0, so that its default routes come before others.
    pub first: bool,
}

/// Servers and domains of the adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Domains that names are looked for in.
    pub search: Vec<String>,
}

/// A system with one tunnel, whose adapter is the one that was opened last.
pub trait System {
    /// Makes the adapter, or opens it.
    ///
    /// # Errors
    ///
    /// What the system says, as of all the others.
    fn open_adapter(&mut self, name: &str, guid: Guid) -> io::Result<Before>;

    /// Removes the adapter, and with it its configuration, addresses, routes and DNS.
    ///
    /// # Errors
    ///
    /// As above.
    fn remove_adapter(&mut self) -> io::Result<()>;

    /// What the driver has been told, and what its peers did (WG_IOCTL_GET).
    ///
    /// # Errors
    ///
    /// As above.
    fn configuration(&mut self) -> io::Result<Zeroizing<Vec<u8>>>;

    /// Tells the driver (WG_IOCTL_SET): all of it, or nothing.
    ///
    /// # Errors
    ///
    /// As above.
    fn configure(&mut self, configuration: Zeroizing<Vec<u8>>) -> io::Result<()>;

    /// Installs these filters, until [`System::unfilter`] or the end of the process.
    ///
    /// # Errors
    ///
    /// As above.
    fn filter(&mut self, filters: &[Filter]) -> io::Result<()>;

    /// Removes them.
    ///
    /// # Errors
    ///
    /// As above.
    fn unfilter(&mut self) -> io::Result<()>;

    /// The MTU of the interface that the default route beside the adapter's own leaves by; none without one.
    ///
    /// # Errors
    ///
    /// As above.
    fn default_mtu(&mut self) -> io::Result<Option<u16>>;

    /// The largest MTU that the adapter's interfaces may have.
    ///
    /// # Errors
    ///
    /// As above.
    fn largest_mtu(&mut self) -> io::Result<u16>;

    /// What the adapter's IP interfaces have.
    ///
    /// # Errors
    ///
    /// As above.
    fn interface(&mut self) -> io::Result<Interface>;

    /// Sets it.
    ///
    /// # Errors
    ///
    /// As above.
    fn set_interface(&mut self, interface: Interface) -> io::Result<()>;

    /// The driver opens its sockets, as those of this process.
    ///
    /// # Errors
    ///
    /// As above.
    fn bring_up(&mut self) -> io::Result<Before>;

    /// It closes them.
    ///
    /// # Errors
    ///
    /// As above.
    fn bring_down(&mut self) -> io::Result<()>;

    /// Gives the adapter an address, which can be used at once.
    ///
    /// # Errors
    ///
    /// As above.
    fn add_address(&mut self, address: Prefix) -> io::Result<Before>;

    /// Takes it.
    ///
    /// # Errors
    ///
    /// As above.
    fn remove_address(&mut self, address: Prefix) -> io::Result<()>;

    /// Makes a route through the adapter.
    ///
    /// # Errors
    ///
    /// As above.
    fn add_route(&mut self, route: Prefix) -> io::Result<Before>;

    /// Removes it.
    ///
    /// # Errors
    ///
    /// As above.
    fn remove_route(&mut self, route: Prefix) -> io::Result<()>;

    /// What the adapter has of DNS.
    ///
    /// # Errors
    ///
    /// As above.
    fn dns(&mut self) -> io::Result<Dns>;

    /// Sets it.
    ///
    /// # Errors
    ///
    /// As above.
    fn set_dns(&mut self, dns: &Dns) -> io::Result<()>;

    /// Runs a command of the tunnel's file, to its end: by the system's interpreter, under its full path, without a window and with
    /// nothing in its environment but the tunnel's name. One that takes longer than [`COMMAND_MAX`] is ended, with all that it started.
    ///
    /// # Errors
    ///
    /// It could not be run, took too long, or ended with a failure.
    fn run(&mut self, command: &str) -> io::Result<()>;

    /// Addresses that a name leads to, the one to be taken first. None: it is not known yet, and is looked up again later.
    ///
    /// # Errors
    ///
    /// What the resolver says.
    fn resolve(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        (host, port).to_socket_addrs().map(Iterator::collect)
    }
}
