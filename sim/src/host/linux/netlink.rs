//! Interfaces, addresses and routes by rtnetlink: read whole, and read again when anything changed.
//!
//! The kernel's change messages could be applied one by one; reading everything again is some
//! hundred microseconds at most every so often, and cannot drift from the truth. Only what a host
//! on Windows would have is taken: the main table's unicast routes and the local table's own
//! addresses. Policy rules and other tables are not looked at: the kernel applies them when a
//! datagram leaves.
//!
//! Source: rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::descriptor::{self, check, zeroed};
use crate::host::routes::{Interface, Prefix, Route, Tables};

/// How long a listener waits before it looks whether it should end.
pub const LISTEN_MS: i32 = 200;
/// IF_TYPE_ETHERNET_CSMACD, the type in the LUIDs made up for the kernel's interfaces.
const IF_TYPE_ETHERNET: u64 = 6;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
const RTMGRP: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE) as u32;

/// Hears of changes.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: open(RTMGRP)? })
    }

    /// Waits up to `timeout_ms` for a change and takes all there are.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says; lost messages are a change, not an error.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<bool> {
        let fd = self.fd.as_raw_fd();
        if !descriptor::wait_readable(fd, fd, timeout_ms)?.0 {
            return Ok(false);
        }
        let mut scratch = [0_u8; 16384];
        loop {
            // SAFETY: as many writable bytes as it says.
            let got = unsafe {
                libc::recv(fd, scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT)
            };
            if got < 0 {
                return match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                    error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => Err(error),
                };
            }
        }
    }
}

/// Reads interfaces, addresses and routes of the current namespace.
///
/// # Errors
///
/// Whatever the kernel says.
pub fn read_tables() -> io::Result<Tables> {
    let mut tables = Tables::default();
    let fd = open(0)?;
    dump(&fd, libc::RTM_GETLINK, |body| tables.interfaces.extend(link(body)))?;
    dump(&fd, libc::RTM_GETADDR, |body| {
        if let Some((index, address)) = address(body)
            && let Some(interface) = tables.interfaces.iter_mut().find(|i| i.index == index)
        {
            interface.addresses.push(address);
        }
    })?;
    dump(&fd, libc::RTM_GETROUTE, |body| tables.routes.extend(route(body)))?;
    tables.routes.sort_unstable();
    tables.routes.dedup();
    Ok(tables)
}

/// The parts of a link message.
fn link(body: &[u8]) -> Option<Interface> {
    let (head, attributes) = body.split_at_checked(16)?;
    let index = u32_at(head, 4)?;
    let flags = u32_at(head, 8)?;
    let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    let mut interface = Interface {
        index,
        luid: IF_TYPE_ETHERNET << 48 | u64::from(index) << 24,
        name: String::new(),
        mtu: 0,
        metric: 0,
        up: flags & running == running,
        addresses: Vec::new(),
    };
    for (kind, data) in Attributes(attributes) {
        match kind {
            libc::IFLA_IFNAME => {
                let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
                interface.name = String::from_utf8_lossy(name).into_owned();
            }
            libc::IFLA_MTU => interface.mtu = u32_at(data, 0)?,
            _ => {}
        }
    }
    Some(interface)
}

/// The parts of an address message: interface, address, prefix length.
fn address(body: &[u8]) -> Option<(u32, (IpAddr, u8))> {
    let (head, attributes) = body.split_at_checked(8)?;
    let (prefix, index) = (*head.get(1)?, u32_at(head, 4)?);
    let (mut local, mut any) = (None, None);
    for (kind, data) in Attributes(attributes) {
        match kind {
            libc::IFA_LOCAL => local = ip(data),
            libc::IFA_ADDRESS => any = ip(data),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end.
    Some((index, (local.or(any)?, prefix)))
}

/// The parts of a route message, if it is one we take.
fn route(body: &[u8]) -> Option<Route> {
    let (head, attributes) = body.split_at_checked(12)?;
    let [family, length, _, _, table, _, _, kind, ..] = *head else { return None };
    let main =
        [libc::RT_TABLE_MAIN, libc::RT_TABLE_DEFAULT].contains(&table) && kind == libc::RTN_UNICAST;
    let local = table == libc::RT_TABLE_LOCAL && kind == libc::RTN_LOCAL;
    if !main && !local {
        return None;
    }
    let mut destination = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut next_hop, mut interface, mut metric) = (None, 0, 0);
    for (kind, data) in Attributes(attributes) {
        match kind {
            libc::RTA_DST => destination = ip(data)?,
            libc::RTA_GATEWAY => next_hop = ip(data),
            libc::RTA_OIF => interface = u32_at(data, 0)?,
            libc::RTA_PRIORITY => metric = u32_at(data, 0)?,
            libc::RTA_MULTIPATH if interface == 0 => {
                // The first of several next hops: rtnexthop {len, flags, hops, ifindex}, attributes.
                interface = u32_at(data, 4)?;
                let inner = Attributes(data.get(8..)?);
                next_hop = inner
                    .into_iter()
                    .find(|(k, _)| *k == libc::RTA_GATEWAY)
                    .and_then(|(_, d)| ip(d));
            }
            _ => {}
        }
    }
    let destination = Prefix::new(destination, length);
    (interface != 0).then_some(Route { destination, next_hop, interface, metric })
}

fn ip(data: &[u8]) -> Option<IpAddr> {
    if let Some(v4) = data.as_array::<4>() {
        return Some(IpAddr::from(*v4));
    }
    data.as_array::<16>().map(|v6| IpAddr::from(*v6))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// The attributes of a message: {length u16, type u16, data}, aligned to four.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let data = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & 0x3FFF, data))
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let fd = descriptor::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut name: libc::sockaddr_nl = zeroed();
    name.nl_family = libc::AF_NETLINK as u16;
    name.nl_groups = groups;
    let len = size_of::<libc::sockaddr_nl>() as u32;
    // SAFETY: `name` has `len` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), len) })?;
    Ok(fd)
}

/// Asks for everything of one kind and gives each message's body to `each`.
fn dump(fd: &OwnedFd, kind: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // nlmsghdr, then a family byte of 0 (any), padded to the longest head the kernel may expect.
    let mut request = [0_u8; HEADER + 16];
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: as many readable bytes as it says.
    let sent = unsafe { libc::send(fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    check(sent as i32)?;
    let mut answer = vec![0_u8; 1 << 16];
    loop {
        // SAFETY: as many writable bytes as it says.
        let got =
            unsafe { libc::recv(fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        let mut rest = &answer[..check(got as i32)? as usize];
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let len = u32_at(header, 0).unwrap_or(0) as usize;
            let message = i32::from(u16::from_ne_bytes([header[4], header[5]]));
            let Some(body) = rest.get(HEADER..len) else { return Ok(()) };
            match message {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = u32_at(body, 0).map_or(libc::EIO, |code| -(code as i32));
                    return Err(io::Error::from_raw_os_error(code));
                }
                _ => each(body),
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let tables = read_tables().unwrap();
        let lo = tables.interfaces.iter().find(|i| i.name == "lo").unwrap();
        assert!(lo.index > 0 && lo.mtu > 0, "{lo:?}");
        for route in &tables.routes {
            assert!(tables.interface(route.interface).is_some(), "{route:?}");
        }
    }

    #[test]
    fn any_bytes_are_walked_to_an_end() {
        let mut bytes = [0xFF_u8; 64];
        for seed in 0..2000_u32 {
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = (seed.wrapping_mul(2_654_435_761).rotate_left(at as u32) >> 3) as u8 & 0x2F;
            }
            assert!(Attributes(&bytes).count() <= 16);
            let _ = (link(&bytes), address(&bytes), route(&bytes));
        }
    }
}
