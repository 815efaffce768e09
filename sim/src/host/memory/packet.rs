//! Inner packets: IPv4 and IPv6 with UDP or ICMP echo, made and read with their checksums.
//!
//! As much of the IP suite as a small host needs to ping and to send datagrams, over plain bytes.
//! A packet whose checksum or length is wrong is not read at all, so a scenario that sees its
//! packets arrive has also seen that not a bit of them changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{fold, sum};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const TTL: u8 = 64;

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An echo request or reply.
    Echo {
        /// Whether it is the reply.
        reply: bool,
        /// Identifier and sequence number.
        id: (u16, u16),
        /// Its data.
        data: Vec<u8>,
    },
    /// A UDP datagram.
    Datagram {
        /// Source and destination port.
        ports: (u16, u16),
        /// Its data.
        data: Vec<u8>,
    },
}

/// An inner packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes; of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload,
}

impl Packet {
    /// The packet's bytes; empty if the families differ.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (protocol, mut body) = self.body();
        let pseudo = pseudo_header(self.source, self.destination, protocol, body.len());
        let at = checksum_at(protocol);
        let covered: &[u8] = if protocol == ICMP { &[] } else { &pseudo };
        let sum = match checksum(covered, &body) {
            0 if protocol == UDP => 0xFFFF,
            sum => sum,
        };
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header_v4(source, destination, protocol, body.len())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header_v6(source, destination, protocol, body.len())
            }
            _ => return Vec::new(),
        };
        bytes.extend(body);
        bytes
    }

    /// Reads a packet; `None` if it is not one of ours, or not intact.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (source, destination, protocol, body) = match bytes.first()? >> 4 {
            4 => parse_v4(bytes)?,
            6 => parse_v6(bytes)?,
            _ => return None,
        };
        let pseudo = pseudo_header(source, destination, protocol, body.len());
        let covered: &[u8] = if protocol == ICMP { &[] } else { &pseudo };
        if checksum(covered, body) != 0 {
            return None;
        }
        let payload = match (protocol, body.split_first_chunk::<8>()?) {
            (UDP, ([a, b, c, d, ..], data)) => Payload::Datagram {
                ports: (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
                data: data.to_vec(),
            },
            (ICMP, ([kind @ (0 | 8), 0, _, _, a, b, c, d], data))
            | (ICMPV6, ([kind @ (128 | 129), 0, _, _, a, b, c, d], data)) => Payload::Echo {
                reply: matches!(kind, 0 | 129),
                id: (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
                data: data.to_vec(),
            },
            _ => return None,
        };
        Some(Self { source, destination, payload })
    }

    /// Protocol number and body, its checksum still zero.
    fn body(&self) -> (u8, Vec<u8>) {
        match &self.payload {
            Payload::Datagram { ports, data } => {
                let length = (8 + data.len()) as u16;
                let mut body = Vec::with_capacity(8 + data.len());
                for word in [ports.0, ports.1, length, 0] {
                    body.extend(word.to_be_bytes());
                }
                body.extend(data);
                (UDP, body)
            }
            Payload::Echo { reply, id, data } => {
                let (protocol, kind) = match (self.source.is_ipv4(), reply) {
                    (true, false) => (ICMP, 8),
                    (true, true) => (ICMP, 0),
                    (false, false) => (ICMPV6, 128),
                    (false, true) => (ICMPV6, 129),
                };
                let mut body = vec![kind, 0, 0, 0];
                body.extend(id.0.to_be_bytes());
                body.extend(id.1.to_be_bytes());
                body.extend(data);
                (protocol, body)
            }
        }
    }
}

/// Whether it is an error of ICMP or ICMPv6, intact, for one of these addresses.
#[must_use]
pub fn is_error_for(bytes: &[u8], addresses: &[IpAddr]) -> bool {
    let parsed = match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => None,
    };
    let Some((source, destination, protocol, body)) = parsed else { return false };
    let pseudo = pseudo_header(source, destination, protocol, body.len());
    let (covered, kind) = (if protocol == ICMP { &[] } else { &*pseudo }, body.first());
    let is_error = match (protocol, kind) {
        (ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    };
    is_error && checksum(covered, body) == 0 && addresses.contains(&destination)
}

fn checksum_at(protocol: u8) -> usize {
    if protocol == UDP { 6 } else { 2 }
}

fn header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(((20 + length) as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&[], &header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((length as u16).to_be_bytes());
    header.extend([protocol, TTL]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

type Parsed<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn parse_v4(bytes: &[u8]) -> Option<Parsed<'_>> {
    let header = bytes.first_chunk::<20>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] != 0x45 || length != bytes.len() || checksum(&[], header) != 0 {
        return None;
    }
    let address = |at: usize| {
        Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
    };
    Some((address(12), address(16), header[9], &bytes[20..]))
}

fn parse_v6(bytes: &[u8]) -> Option<Parsed<'_>> {
    let (header, body) = bytes.split_first_chunk::<40>()?;
    if usize::from(u16::from_be_bytes([header[4], header[5]])) != body.len() {
        return None;
    }
    let address = |at: usize| header[at..at + 16].as_array::<16>().map(|a| IpAddr::from(*a));
    Some((address(8)?, address(24)?, header[6], body))
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut pseudo = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    pseudo.extend((length as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// The Internet checksum over `head` (of even length) and `body`.
fn checksum(head: &[u8], body: &[u8]) -> u16 {
    u16::from_be(!fold(sum(head) + sum(body)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packets(data: &[u8]) -> Vec<Packet> {
        let mut all = Vec::new();
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for payload in [
                Payload::Echo { reply: false, id: (7, 9), data: data.to_vec() },
                Payload::Echo { reply: true, id: (7, 9), data: data.to_vec() },
                Payload::Datagram { ports: (1, 65535), data: data.to_vec() },
            ] {
                let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
                all.push(Packet { source, destination, payload });
            }
        }
        all
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        // The example of RFC 1071's common illustration: this header sums to b861.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xC0, 0xA8, 0, 1, 0xC0, 0xA8, 0,
            0xC7,
        ];
        assert_eq!(checksum(&[], &header), 0xB861);
    }

    proptest! {
        #[test]
        fn packets_read_back_and_no_bit_may_change(data in proptest::collection::vec(any::<u8>(), 0..64), bit in any::<u16>()) {
            for packet in packets(&data) {
                let mut bytes = packet.to_bytes();
                let read = Packet::parse(&bytes);
                prop_assert_eq!(read.as_ref(), Some(&packet));
                let bit = usize::from(bit) % (bytes.len() * 8);
                // No checksum covers IPv6's traffic class, flow label and hop limit.
                if packet.source.is_ipv6() && matches!(bit / 8, 0..=3 | 7) {
                    continue;
                }
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(Packet::parse(&bytes), Some(packet));
            }
        }

        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Packet::parse(&bytes);
        }
    }
}
