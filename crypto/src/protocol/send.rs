//! What is checked and computed of an inner packet before it is sealed: pure functions.
//!
//! Any level. [WG §5.4.6]

use core::net::IpAddr;

use abi::discard::Discard;

use super::{
    ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN},
    limits::PADDING_MULTIPLE,
    messages::TRANSPORT_HEADER_LEN,
    receive::{InnerPacket, TrafficClass},
};
use crate::aead::TAG_LEN;

/// Length of an inner packet of `len` bytes once it is padded, for a tunnel whose MTU is `mtu` (0:
/// not known).
///
/// The next multiple of 16, but never past the MTU. A packet longer than the MTU (one that is to be
/// cut later) is padded as its last segment would be.
#[must_use]
// spec: WG 5.4.6-c, WG 6.5-a — a keepalive stays empty.
pub fn padded_len(len: usize, mtu: usize) -> usize {
    let whole = |len: usize| len.checked_next_multiple_of(PADDING_MULTIPLE).unwrap_or(len);
    let Some(segment) = len.checked_rem(mtu) else { return whole(len) };
    let segment = if len > mtu { segment } else { len };
    let padded = whole(segment).min(mtu);
    len.saturating_add(padded.saturating_sub(segment))
}

/// The longest inner packet whose datagram, padding included, is no longer than `link_mtu` bytes with its
/// IP header; 0 if there is none.
#[must_use]
// spec: WG 13-a
pub fn inner_mtu(link_mtu: usize, ipv6: bool) -> usize {
    const AROUND: usize = UDP_HEADER_LEN + TRANSPORT_HEADER_LEN + TAG_LEN;
    let ip = if ipv6 { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN };
    link_mtu.saturating_sub(ip).saturating_sub(AROUND)
}

/// How long packets to a peer may be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    adapter: usize,
    path: usize,
}

impl Default for PathMtu {
    /// Nothing is known.
    fn default() -> Self {
        Self { adapter: usize::MAX, path: usize::MAX }
    }
}

impl PathMtu {
    /// For an adapter and a path ([`inner_mtu`]) of which so much is known; 0 is nothing.
    #[must_use]
    pub const fn new(adapter: usize, path: usize) -> Self {
        const fn known(mtu: usize) -> usize {
            if mtu == 0 { usize::MAX } else { mtu }
        }
        let (adapter, path) = (known(adapter), known(path));
        Self { adapter, path: if path < adapter { path } else { adapter } }
    }

    /// The longest whose datagram need not be cut; never more than the adapter's.
    #[must_use]
    pub const fn path(self) -> usize {
        self.path
    }

    /// What senders of a family are held to: the same, but no less than what IPv4 (576) or IPv6 (1280) promises
    /// that everything takes. [RFC 791; RFC 8200 §5]
    #[must_use]
    pub fn of(self, ipv6: bool) -> usize {
        let promised = if ipv6 { 1280 } else { 576 };
        self.path.max(promised).min(self.adapter)
    }

    /// What others are to be told: the same, but where the adapter's is more than fits, a multiple of 16. The
    /// peer may not know this end of the way, and pads to that.
    #[must_use]
    pub fn told(self, ipv6: bool) -> usize {
        let most = self.of(ipv6);
        if most < self.adapter { most & !(PADDING_MULTIPLE - 1) } else { most }
    }

    /// The adapter's.
    #[must_use]
    pub const fn adapter(self) -> usize {
        self.adapter
    }
}

/// An inner packet to send: where to, and with which congestion mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Inner destination, which chooses the peer.
    pub destination: IpAddr,
    /// Type-of-service byte of the datagram that carries it: no DSCP, the inner ECN.
    pub outer_tos: u8,
}

/// Checks an inner packet that is `len` bytes long and begins with `head`.
///
/// `head` holds at least the IP header (40 bytes suffice); longer is fine.
///
/// # Errors
///
/// [`Discard::MalformedPacket`] unless it is IPv4 or IPv6 and as long as its header says.
// spec: WG 3-d
pub fn outgoing(head: &[u8], len: usize) -> Result<Outgoing, Discard> {
    let packet = InnerPacket::parse(head, len).map_err(|_| Discard::MalformedPacket)?;
    if packet.len != len {
        return Err(Discard::MalformedPacket);
    }
    let outer_tos = encapsulated(packet.traffic_class);
    Ok(Outgoing { destination: packet.destination, outer_tos })
}

/// Outer type-of-service byte for an inner one: DSCP is never copied, CE becomes ECT(0). [RFC 3168 §9.1.1]
///
/// RFC 6040 §4.1 copies CE; Linux does not. What arrives inside is the same, whatever the way does to it.
// spec: WG 13-c
pub(super) fn encapsulated(inner: TrafficClass) -> u8 {
    match inner.ecn() {
        0b11 => 0b10,
        ecn => ecn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec-test: WG 13-a
    #[test]
    fn a_datagram_is_as_long_as_the_link_takes() {
        assert_eq!((inner_mtu(1500, false), inner_mtu(1500, true)), (1440, 1420));
        for (link, ipv6) in [(1500, true), (1499, false), (1400, true), (1281, false)] {
            let most = inner_mtu(link, ipv6);
            let around = if ipv6 { 80 } else { 60 };
            let longest = (0..=most).map(|len| padded_len(len, most) + around).max();
            assert_eq!(longest, Some(link), "padding does not go past it");
        }
        assert_eq!((inner_mtu(59, false), inner_mtu(0, true)), (0, 0));
    }

    #[test]
    fn senders_are_held_to_what_their_family_promises_at_least() {
        for (adapter, path, least, v4, v6) in [
            (1420, 0, 1420, 1420, 1420),
            (1420, 1440, 1420, 1420, 1420),
            (1420, 1419, 1419, 1419, 1419),
            (1420, 1340, 1340, 1340, 1340),
            (1420, 1000, 1000, 1000, 1280),
            (1420, 100, 100, 576, 1280),
            (900, 100, 100, 576, 900),
            (0, 100, 100, 576, 1280),
            (0, 0, usize::MAX, usize::MAX, usize::MAX),
        ] {
            let mtu = PathMtu::new(adapter, path);
            assert_eq!((mtu.path(), mtu.of(false), mtu.of(true)), (least, v4, v6), "{mtu:?}");
        }
        assert_eq!(PathMtu::default(), PathMtu::new(0, 0));
        for (path, told) in [(1440, 1420), (1420, 1420), (1419, 1408), (1340, 1328), (1296, 1296)] {
            assert_eq!(PathMtu::new(1420, path).told(false), told, "{path}");
        }
    }

    // spec-test: WG 13-c, WG 13-d
    #[test]
    fn what_arrives_is_what_rfc_6040_would_deliver() {
        for (inner, on_the_way) in
            (0..4_u8).flat_map(|inner| (0..4_u8).map(move |way| (inner, way)))
        {
            // Its normal mode copies; the way changes ECT to CE or between the two, and nothing else.
            let arrives = |outer: u8| {
                let outer =
                    if outer == 0 || on_the_way == 0 { outer } else { outer.max(on_the_way) };
                let mut packet = [0x45, inner, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0];
                super::super::receive::decapsulate_ecn(&mut packet, outer);
                packet[1]
            };
            let sent = encapsulated(TrafficClass(inner));
            assert_eq!(arrives(sent), arrives(inner), "{inner} and {on_the_way}");
        }
    }

    // spec-test: WG 3-d, WG 13-c
    #[test]
    fn outgoing_packets_are_as_long_as_they_say() {
        let mut packet = [0; 28];
        packet[..4].copy_from_slice(&[0x45, 0xFF, 0, 28]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        let expected = Outgoing { destination: "10.0.0.2".parse().unwrap(), outer_tos: 0b10 };
        assert_eq!(outgoing(&packet, 28), Ok(expected));
        assert_eq!(outgoing(&packet[..20], 28), Ok(expected), "the header suffices");
        for len in [0, 19, 20, 27, 29] {
            assert_eq!(outgoing(&packet, len), Err(Discard::MalformedPacket), "{len}");
        }
        for (ecn, outer) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            packet[1] = 0x88 | ecn;
            assert_eq!(outgoing(&packet, 28).unwrap().outer_tos, outer);
        }
        packet[0] = 0x55;
        assert_eq!(outgoing(&packet, 28), Err(Discard::MalformedPacket));
    }
}
