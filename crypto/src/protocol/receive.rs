//! What is checked of an inner packet after it was opened: pure functions over bytes a peer chose.
//!
//! The peer is authenticated, its bytes are not to be trusted more than any others. Any level. [WG
//! §3, 5.4.6]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::discard::Discard;

use super::{
    checksum::updated,
    ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN},
};

/// Type-of-service or traffic class byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficClass(pub u8);

impl TrafficClass {
    /// The congestion bits. [RFC 3168]
    #[must_use]
    pub fn ecn(self) -> u8 {
        self.0 & 0b11
    }
}

/// What the header of an inner packet says, checked against how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket {
    /// Source, which must be the peer's.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Bytes of the packet; what follows is padding.
    pub len: usize,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
}

impl InnerPacket {
    /// Reads the header in `head`, the first bytes of a packet (with padding) of `available` bytes.
    ///
    /// # Errors
    ///
    /// [`Discard::InnerVersion`] if it is not IPv4 of at least 20 or IPv6 of at least 40 bytes,
    /// [`Discard::InnerLength`] if its own length is less than its header or more than `available`.
    // spec: WG 3-b, WG 3-c
    pub fn parse(head: &[u8], available: usize) -> Result<Self, Discard> {
        let head = head.get(..head.len().min(available)).unwrap_or_default();
        let packet = Self::header(head).ok_or(Discard::InnerVersion)?;
        let header = if packet.source.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
        if packet.len < header || packet.len > available {
            return Err(Discard::InnerLength);
        }
        Ok(packet)
    }

    /// Reads the header in `head`, and compares its length with nothing.
    pub(super) fn header(head: &[u8]) -> Option<Self> {
        match head.first()? >> 4 {
            4 => head.first_chunk().map(Self::parse_v4),
            6 => head.first_chunk().map(Self::parse_v6),
            _ => None,
        }
    }

    fn parse_v4(header: &[u8; IPV4_HEADER_LEN]) -> Self {
        let [_, tos, l0, l1, _, _, _, _, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Self {
            source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
            destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
            len: u16::from_be_bytes([l0, l1]).into(),
            traffic_class: TrafficClass(tos),
        }
    }

    fn parse_v6(header: &[u8; IPV6_HEADER_LEN]) -> Self {
        let [v0, v1, _, _, l0, l1, _, _, addresses @ ..] = *header;
        let whole = u16::from_be_bytes([v0, v1]) >> 4;
        let address = |at: usize| {
            let bytes: Option<&[u8; 16]> = addresses.get(at..).and_then(<[u8]>::first_chunk);
            IpAddr::V6(Ipv6Addr::from(bytes.copied().unwrap_or_default()))
        };
        Self {
            source: address(0),
            destination: address(16),
            len: usize::from(u16::from_be_bytes([l0, l1])).saturating_add(IPV6_HEADER_LEN),
            traffic_class: TrafficClass(whole as u8),
        }
    }
}

/// Marks the packet at the front of `packet` as its datagram was marked on the way, if it can carry the
/// mark: as having met congestion, or as ECT(1) where it was ECT(0).
///
/// What cannot carry a mark of congestion is delivered without it, as by Linux. An IPv4 header's checksum
/// is brought up to date. [RFC 6040 §4.2]
// spec: WG 13-d
pub fn decapsulate_ecn(packet: &mut [u8], outer_tos: u8) {
    let outer = TrafficClass(outer_tos).ecn();
    if outer & 0b01 == 0 {
        return;
    }
    let marked = |inner: u8| match (inner, outer) {
        (0b00, _) => 0b00,
        (0b10, 0b01) => 0b01,
        (_, 0b11) => 0b11,
        _ => inner,
    };
    match packet {
        [first, tos, _, _, _, _, _, _, _, _, c0, c1, ..] if *first >> 4 == 4 => {
            let before = [*first, *tos];
            *tos = *tos & !0b11 | marked(*tos & 0b11);
            [*c0, *c1] = updated([*c0, *c1], before, [*first, *tos]);
        }
        [first, second, ..] if *first >> 4 == 6 => {
            *second = *second & !0x30 | marked(*second >> 4 & 0b11) << 4;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(len: u16) -> [u8; 40] {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    // spec-test: WG 3-b, WG 3-c
    #[test]
    fn lengths_at_their_edges() {
        let v6 = |payload: u16| {
            let mut packet = [0; 40];
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&payload.to_be_bytes());
            packet
        };
        let (version, length) = (Err(Discard::InnerVersion), Err(Discard::InnerLength));
        for (packet, available, expected, why) in [
            (v4(20), 20, Ok(20), "header only"),
            (v4(20), 19, version, "shorter than a header"),
            (v4(19), 40, length, "says less than its header"),
            (v4(40), 40, Ok(40), "exact"),
            (v4(40), 39, length, "says one more than there is"),
            (v4(0), 40, length, "says nothing"),
            (v4(30), 40, Ok(30), "padded"),
            (v6(0), 40, Ok(40), "no payload, no jumbogram"),
            (v6(0), 39, version, "shorter than a header"),
            (v6(1), 40, length, "says one more than there is"),
            (v6(60), 100, Ok(100), "exact"),
            (v6(u16::MAX), 65_575, Ok(65_575), "the longest"),
            ([0x50; 40], 40, version, "version 5"),
        ] {
            let parsed = InnerPacket::parse(&packet, available).map(|packet| packet.len);
            assert_eq!(parsed, expected, "{why}");
        }
        assert_eq!(InnerPacket::parse(&[], 0), Err(Discard::InnerVersion));
        assert_eq!(InnerPacket::parse(&[0x45], 1), Err(Discard::InnerVersion));
    }

    fn checksum(header: &[u8]) -> u16 {
        let words = header[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum: u32 = words.sum();
        let folded = (sum & 0xFFFF) + (sum >> 16);
        !((folded & 0xFFFF) + (folded >> 16)) as u16
    }

    // spec-test: WG 13-d
    #[test]
    fn congestion_marks_go_in_where_they_may() {
        for (inner, outer, expected) in [
            (0b00, 0b11, 0b00),
            (0b01, 0b11, 0b11),
            (0b10, 0b11, 0b11),
            (0b11, 0b11, 0b11),
            (0b10, 0b00, 0b10),
            (0b10, 0b01, 0b01),
            (0b01, 0b01, 0b01),
            (0b11, 0b01, 0b11),
            (0b00, 0b01, 0b00),
            (0b01, 0b10, 0b01),
            (0b00, 0b10, 0b00),
        ] {
            let mut packet = v4(40);
            packet[1] = 0xB8 | inner;
            let sum = checksum(&packet).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
            decapsulate_ecn(&mut packet, outer);
            assert_eq!(packet[1], 0xB8 | expected);
            assert_eq!(checksum(&packet), 0, "the checksum still fits");

            let mut packet = [0x60, 0x0A | inner << 4, 0, 0, 0, 0];
            packet[1] = 0x0A | inner << 4;
            decapsulate_ecn(&mut packet, outer);
            assert_eq!(packet[1], 0x0A | expected << 4);
        }
        decapsulate_ecn(&mut [], 3);
        decapsulate_ecn(&mut [0x45, 1], 3);
        decapsulate_ecn(&mut [0x60], 3);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_do_not(
            packet in proptest::collection::vec(any::<u8>(), 0..100),
            more in 0_usize..70_000,
        ) {
            if let Ok(parsed) = InnerPacket::parse(&packet, packet.len() + more) {
                prop_assert!(parsed.len <= packet.len() + more);
            }
            let mut marked = packet.clone();
            decapsulate_ecn(&mut marked, 3);
            prop_assert_eq!(marked.len(), packet.len());
        }

        /// Whatever checksum was right stays right.
        #[test]
        fn marking_keeps_the_checksum_right(mut packet in any::<[u8; 20]>(), outer in 0..4_u8) {
            packet[0] = 0x45;
            packet[10..12].fill(0);
            let sum = checksum(&packet).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
            decapsulate_ecn(&mut packet, outer);
            prop_assert_eq!(checksum(&packet), 0);
        }
    }
}
