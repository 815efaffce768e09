//! What is checked and computed of an inner packet before it is sealed: pure functions.
//!
//! Any level. [WG §5.4.6]

use core::net::IpAddr;

use abi::discard::Discard;

use super::limits::PADDING_MULTIPLE;
use super::receive::{InnerPacket, TrafficClass};

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

/// Outer type-of-service byte for an inner one: DSCP is never copied, CE becomes ECT(0). [RFC 6040]
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
