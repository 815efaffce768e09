//! UDP and IP headers in bytes: written for received packets, checked for injected ones.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::{fold, pseudo, sum};

/// Bytes of a UDP header.
pub(crate) const HEADER: usize = 8;

/// The checksum of a datagram, header and all, whose own checksum field counts as it is: 0 if that is right.
pub(crate) fn checksum(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> u16 {
    let mut total = sum(datagram) + pseudo(&[], 17, datagram.len());
    for address in [source, destination] {
        total += match address {
            IpAddr::V4(v4) => sum(&v4.octets()),
            IpAddr::V6(v6) => sum(&v6.octets()),
        };
    }
    u16::from_be(!fold(total))
}

/// IP and UDP header of a received datagram of `length` payload bytes.
pub(crate) fn headers(from: SocketAddr, to: SocketAddr, class: u8, length: usize) -> Vec<u8> {
    let udp_length = (HEADER + length).min(0xFFFF) as u16;
    let mut bytes = Vec::with_capacity(48);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + HEADER + length).min(0xFFFF) as u16;
            bytes.extend([0x45, class]);
            bytes.extend(total.to_be_bytes());
            bytes.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let check = !fold(sum(&bytes));
            bytes[10..12].copy_from_slice(&check.to_ne_bytes());
        }
        (source, destination) => {
            bytes.extend([0x60 | class >> 4, class << 4, 0, 0]);
            bytes.extend(udp_length.to_be_bytes());
            bytes.extend([17, 64]);
            for address in [source, destination] {
                bytes.extend(match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                });
            }
        }
    }
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(udp_length.to_be_bytes());
    // The network card has found the checksum right; what it was nobody asks any more.
    bytes.extend([0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_their_readers_expect() {
        let v4 = headers("198.51.100.1:9".parse().unwrap(), "192.0.2.1:7".parse().unwrap(), 2, 100);
        assert_eq!((v4.len(), v4[0], v4[1], &v4[2..4]), (28, 0x45, 2, &[0_u8, 128][..]));
        assert_eq!(fold(sum(&v4[..20])), 0xFFFF, "the header's own checksum");
        let v6 = headers(
            "[2001:db8::9]:9".parse().unwrap(),
            "[2001:db8::1]:7".parse().unwrap(),
            0xAB,
            3,
        );
        assert_eq!((v6.len(), v6[0], v6[1]), (48, 0x6A, 0xB0));
        assert_eq!(v6[44..46], [0, 11]);
    }

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 768's sum over a datagram of one odd byte, computed by hand.
        let (source, destination) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut datagram = vec![0, 1, 0, 2, 0, 9, 0, 0, 0xAB];
        let check = checksum(source, destination, &datagram);
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        assert_eq!(check, 0xD0D4);
        assert_eq!(checksum(source, destination, &datagram), 0);
        datagram[8] ^= 1;
        assert_ne!(checksum(source, destination, &datagram), 0);
    }
}
