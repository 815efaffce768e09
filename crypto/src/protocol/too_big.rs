//! The answer to a packet that is too long and may not be cut: ICMP "fragmentation needed", ICMPv6 "packet too big".
//!
//! It goes back to where the packet came from, as from the first router on its way. This end of the tunnel has no
//! address that the sender could not take for its own, so the answer comes from where the packet was to go: that is no
//! address of this machine's, and is reached by this interface, so no check of sources finds fault with it. Pure
//! functions over bytes that may be anything; any level. [RFC 792, 1191, 1812 §4.3.2; RFC 4443 §2.4, 3.2]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    checksum::Sum,
    ip::{ICMP, ICMPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, transport_at},
    receive::InnerPacket,
};

/// The longest answer: as long as every IPv6 link takes.
pub const MOST_BYTES: usize = 1280;
/// The longest over IPv4. [RFC 1812 §4.3.2.3]
const MOST_BYTES_V4: usize = 576;
/// Bytes of an ICMP header.
const ICMP_HEADER_LEN: usize = 8;

/// Whether the packet that begins with `front` is one that a router may cut: IPv4 without DF.
#[must_use]
pub fn may_be_cut(front: &[u8]) -> bool {
    matches!(front, [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 && flags & 0x40 == 0)
}

/// Writes the answer to the packet of `len` bytes that begins with `front` to `reply`, whose path takes `mtu` bytes;
/// `quote` writes the packet's first bytes, and says how many. Returns the answer's length.
///
/// `front` holds all its headers, as far as it has any; `reply` has [`MOST_BYTES`].
///
/// `None` if it must not be answered: an ICMP error, a fragment but the first, from or to no single host.
#[must_use]
pub fn answer(
    front: &[u8],
    len: usize,
    mtu: usize,
    reply: &mut [u8],
    quote: impl FnOnce(&mut [u8]) -> usize,
) -> Option<usize> {
    let packet = InnerPacket::header(front)?;
    let (protocol, above) = transport_at(front)?;
    let kind = front.get(above).copied();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let is_error = protocol == ICMP && kind.is_none_or(|kind| !is_query(kind));
            if is_error || !is_host_v4(source) || !is_host_v4(destination) {
                return None;
            }
            let around = IPV4_HEADER_LEN.saturating_add(ICMP_HEADER_LEN);
            let room = len.min(MOST_BYTES_V4.saturating_sub(around));
            let quoted = quote(reply.get_mut(around..around.checked_add(room)?)?);
            answer_v4(destination, source, mtu, reply, around.checked_add(quoted.min(room))?)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // Errors have numbers below 128; a redirect is not to be answered, either.
            let is_error = protocol == ICMPV6 && kind.is_none_or(|kind| kind < 128 || kind == 137);
            if is_error || !is_host_v6(source) || !is_host_v6(destination) {
                return None;
            }
            let around = IPV6_HEADER_LEN.saturating_add(ICMP_HEADER_LEN);
            let room = len.min(MOST_BYTES.saturating_sub(around));
            let quoted = quote(reply.get_mut(around..around.checked_add(room)?)?);
            answer_v6(destination, source, mtu, reply, around.checked_add(quoted.min(room))?)
        }
        _ => None,
    }
}

fn answer_v4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    mtu: usize,
    reply: &mut [u8],
    len: usize,
) -> Option<usize> {
    let (ip, icmp) = reply.get_mut(..len)?.split_first_chunk_mut::<IPV4_HEADER_LEN>()?;
    let [l0, l1] = (len as u16).to_be_bytes();
    // DF, and precedence 6: internetwork control. [RFC 1812 §4.3.2.5]
    let head = [0x45, 0xC0, l0, l1, 0, 0, 0x40, 0, 64, ICMP, 0, 0];
    let addresses = [from.octets(), to.octets()];
    fill(ip, head.iter().chain(addresses.as_flattened()));
    let [c0, c1] = Sum::default().and(ip).checksum();
    (ip[10], ip[11]) = (c0, c1);
    let [m0, m1] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
    fill(icmp, &[3, 4, 0, 0, 0, 0, m0, m1]);
    let sum = Sum::default().and(icmp).checksum();
    fill(icmp.get_mut(2..)?, &sum);
    Some(len)
}

fn answer_v6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    mtu: usize,
    reply: &mut [u8],
    len: usize,
) -> Option<usize> {
    let (ip, icmp) = reply.get_mut(..len)?.split_first_chunk_mut::<IPV6_HEADER_LEN>()?;
    let [l0, l1] = (icmp.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, l0, l1, ICMPV6, 64];
    let addresses = [from.octets(), to.octets()];
    fill(ip, head.iter().chain(addresses.as_flattened()));
    let [m0, m1, m2, m3] = u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes();
    fill(icmp, &[2, 0, 0, 0, m0, m1, m2, m3]);
    let sum = Sum::of_pseudo_header(addresses.as_flattened(), ICMPV6, icmp.len());
    let sum = sum.and(icmp).checksum();
    fill(icmp.get_mut(2..)?, &sum);
    Some(len)
}

fn fill<'b>(to: &mut [u8], bytes: impl IntoIterator<Item = &'b u8>) {
    to.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
}

/// Whether an ICMP message of this type asks or answers, and reports no error. [RFC 1122 §3.2.2]
fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
}

/// Whether it stands for one host that is not this one.
fn is_host_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn v4(len: usize) -> Vec<u8> {
        let [l0, l1] = (len as u16).to_be_bytes();
        let mut packet =
            vec![0x45, 0, l0, l1, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        packet.extend((packet.len()..len).map(|at| at as u8));
        packet
    }

    fn v6(len: usize) -> Vec<u8> {
        let [l0, l1] = (len as u16 - 40).to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, l0, l1, 17, 64];
        packet.extend([[0xFD, 9].as_slice(), &[0; 13], &[1]].concat());
        packet.extend([[0xFD, 9].as_slice(), &[0; 13], &[2]].concat());
        packet.extend((packet.len()..len).map(|at| at as u8));
        packet
    }

    fn answered(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
        let mut reply = vec![0xEE; MOST_BYTES];
        let quote = |to: &mut [u8]| {
            to.copy_from_slice(&packet[..to.len()]);
            to.len()
        };
        let front = &packet[..packet.len().min(256)];
        let len = answer(front, packet.len(), mtu, &mut reply, quote)?;
        reply.truncate(len);
        Some(reply)
    }

    #[test]
    fn the_sender_is_told_how_long_it_may_be() {
        for len in [28, 100, 548, 549, 1420] {
            let packet = v4(len);
            let reply = answered(&packet, 1300).unwrap();
            assert_eq!(reply.len(), (28 + len).min(576));
            let expected = InnerPacket {
                source: "10.9.0.2".parse().unwrap(),
                destination: "10.9.0.1".parse().unwrap(),
                len: reply.len(),
                traffic_class: super::super::receive::TrafficClass(0xC0),
            };
            assert_eq!(InnerPacket::parse(&reply, reply.len()), Ok(expected));
            assert_eq!(Sum::default().and(&reply[..20]).checksum(), [0, 0]);
            assert_eq!(Sum::default().and(&reply[20..]).checksum(), [0, 0]);
            assert_eq!(
                (reply[20..22].to_vec(), &reply[24..28]),
                (vec![3, 4], &[0, 0, 5, 0x14][..])
            );
            assert_eq!(reply[28..], packet[..reply.len() - 28]);
        }
        for len in [48, 100, 1232, 1233, 1420] {
            let packet = v6(len);
            let reply = answered(&packet, 1300).unwrap();
            assert_eq!(reply.len(), (48 + len).min(1280));
            let parsed = InnerPacket::parse(&reply, reply.len()).unwrap();
            assert_eq!(parsed.source, "fd09::2".parse::<IpAddr>().unwrap());
            assert_eq!(parsed.destination, "fd09::1".parse::<IpAddr>().unwrap());
            assert_eq!((parsed.len, reply[6]), (reply.len(), 58));
            let sum = Sum::of_pseudo_header(&reply[8..40], 58, reply.len() - 40);
            assert_eq!(sum.and(&reply[40..]).checksum(), [0, 0]);
            assert_eq!((&reply[40..42], &reply[44..48]), (&[2, 0][..], &[0, 0, 5, 0x14][..]));
            assert_eq!(reply[48..], packet[..reply.len() - 48]);
        }
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        for (at, value, why) in [
            (7, 1, "a later fragment"),
            (12, 0, "from nobody"),
            (12, 127, "from itself"),
            (12, 224, "from many"),
            (16, 224, "to many"),
            (16, 255, "to all"),
            (0, 0x44, "half a header"),
            (0, 0x75, "another version"),
        ] {
            let mut packet = v4(1400);
            packet[at] = value;
            assert_eq!(answered(&packet, 1300), None, "IPv4 {why}");
        }
        for (kind, may) in [
            (8, true),
            (0, true),
            (13, true),
            (3, false),
            (11, false),
            (5, false),
            (12, false),
            (99, false),
        ] {
            let mut packet = v4(1400);
            (packet[9], packet[20]) = (1, kind);
            assert_eq!(answered(&packet, 1300).is_some(), may, "ICMP of type {kind}");
        }
        for (at, value, why) in
            [(8, 0xFF, "from many"), (24, 0xFF, "to many"), (6, 0, "headers without end")]
        {
            let mut packet = v6(1400);
            packet[at] = value;
            if at == 6 {
                packet[40..].fill(0);
            }
            assert_eq!(answered(&packet, 1300), None, "IPv6 {why}");
        }
        let mut packet = v6(1400);
        packet[8..24].fill(0);
        assert_eq!(answered(&packet, 1300), None, "IPv6 from nobody");
        for (kind, may) in [
            (128, true),
            (129, true),
            (135, true),
            (1, false),
            (2, false),
            (127, false),
            (137, false),
        ] {
            let mut packet = v6(1400);
            (packet[6], packet[40]) = (58, kind);
            assert_eq!(answered(&packet, 1300).is_some(), may, "ICMPv6 of type {kind}");
        }
        for (offset, may) in [(0, true), (1, true), (8, false)] {
            let mut packet = v6(1400);
            packet[6] = 44;
            packet[40..48].copy_from_slice(&[17, 0, 0, offset, 0, 0, 0, 1]);
            assert_eq!(answered(&packet, 1300).is_some(), may, "fragment {offset}");
        }
        let mut packet = v4(1400);
        packet[6] = 0x20;
        assert!(answered(&packet, 1300).is_some(), "a first fragment");
        assert!(
            may_be_cut(&packet) && !may_be_cut(&v4(20)) && !may_be_cut(&v6(40)) && !may_be_cut(&[])
        );
    }

    proptest! {
        #[test]
        fn any_bytes(packet in prop::collection::vec(any::<u8>(), 0..1500), first in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()], mtu in 0..70_000_usize) {
            let mut packet = packet;
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            if let Some(reply) = answered(&packet, mtu) {
                prop_assert_eq!(InnerPacket::parse(&reply, reply.len()).unwrap().len, reply.len());
                prop_assert_eq!(answered(&reply, mtu), None, "an answer is not answered");
            }
        }
    }
}
