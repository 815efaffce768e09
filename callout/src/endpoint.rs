//! Addresses of the outer side: NT's `SOCKADDR_INET` as Rust's `SocketAddr`, and our own end.
//!
//! A `SOCKADDR_INET` is a union of two layouts told apart by its first field. It is treated as the
//! 28 bytes it is, so that this file is safe code that any host can test; the family and the scope
//! are in the processor's byte order, the port is in the network's. Pure; any IRQL.
//!
//! Source: `shared/ws2ipdef.h`, WDK 10.0.26100 (`SOCKADDR_IN`, `SOCKADDR_IN6`, `SOCKADDR_INET`).

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

/// Size of a `SOCKADDR_INET`, which is that of its larger half, `SOCKADDR_IN6`.
pub const SOCKADDR_LEN: usize = 28;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 23;

/// Our end of a datagram: the address it was sent to, and the interface it came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address of ours that the datagram was sent to.
    pub address: IpAddr,
    /// Index of the interface.
    pub interface: u32,
}

/// An address family of the outer side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family as NT numbers it.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }

    /// The address that stands for every address of this family.
    #[must_use]
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Writes `address` as a `SOCKADDR_INET`; bytes that its family does not use are zero.
#[must_use]
pub fn encode(address: SocketAddr) -> [u8; SOCKADDR_LEN] {
    let mut bytes = [0; SOCKADDR_LEN];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len())) else {
            return;
        };
        place.copy_from_slice(field);
        at = at.saturating_add(field.len());
    };
    match address {
        SocketAddr::V4(address) => {
            put(&AF_INET.to_ne_bytes());
            put(&address.port().to_be_bytes());
            put(&address.ip().octets());
        }
        SocketAddr::V6(address) => {
            put(&AF_INET6.to_ne_bytes());
            put(&address.port().to_be_bytes());
            put(&address.flowinfo().to_ne_bytes());
            put(&address.ip().octets());
            put(&address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// Reads a `SOCKADDR_INET`, or a `SOCKADDR_IN` or `SOCKADDR_IN6` of just its own size.
///
/// `None` when the family is neither of the two, or the bytes are fewer than its layout has.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match u16::from_ne_bytes(*family) {
        AF_INET => {
            let octets: &[u8; 4] = rest.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(*octets), port).into())
        }
        AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk()?;
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            let scope = rest.first_chunk()?;
            let flow = u32::from_ne_bytes(*flow);
            let scope = u32::from_ne_bytes(*scope);
            Some(SocketAddrV6::new(Ipv6Addr::from(*octets), port, flow, scope).into())
        }
        _ => None,
    }
}

/// `remote` in the family it is reached by: an IPv4 address mapped into IPv6 is an IPv4 address.
///
/// Our IPv6 socket is `IPV6_V6ONLY`, so such an address could not be sent to as it is written.
#[must_use]
pub fn canonical(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V6(v6) => {
            v6.ip().to_ipv4_mapped().map_or(remote, |ip| SocketAddrV4::new(ip, v6.port()).into())
        }
        SocketAddr::V4(_) => remote,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layouts_are_those_of_ws2ipdef() {
        let v4 = encode("192.0.2.1:51820".parse().unwrap());
        assert_eq!(v4[..8], [2, 0, 0xCA, 0x6C, 192, 0, 2, 1]);
        assert_eq!(v4[8..], [0; 20]);
        let v6 = encode(SocketAddrV6::new("2001:db8::7".parse().unwrap(), 1, 9, 0x0102).into());
        assert_eq!(v6[..8], [23, 0, 0, 1, 9, 0, 0, 0]);
        assert_eq!(v6[8..24], [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(v6[24..], [2, 1, 0, 0]);
    }

    #[test]
    fn only_whole_addresses_of_the_two_families_are_read() {
        for (bytes, read, why) in [
            (&[][..], false, "empty"),
            (&[2, 0, 0, 1, 10, 0, 0], false, "IPv4, one byte short"),
            (&[2, 0, 0, 1, 10, 0, 0, 1], true, "IPv4 without its padding"),
            (&[0; 28], false, "AF_UNSPEC"),
            (&[1; 28], false, "no such family"),
            (&[23; 27], false, "family 0x1717"),
        ] {
            assert_eq!(decode(bytes).is_some(), read, "{why}");
        }
        let v6 = encode("[::1]:1".parse().unwrap());
        assert!(decode(&v6).is_some());
        assert!(decode(&v6[..27]).is_none(), "IPv6, one byte short");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = canonical("[::ffff:192.0.2.1]:7".parse().unwrap());
        assert_eq!(mapped, "192.0.2.1:7".parse().unwrap());
        let plain = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(canonical(plain), plain);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ip: IpAddr, port: u16, flow: u32, scope: u32) {
            let address = match ip {
                IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
            };
            prop_assert_eq!(decode(&encode(address)), Some(address));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(address) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(address)), Some(address));
            }
        }
    }
}
