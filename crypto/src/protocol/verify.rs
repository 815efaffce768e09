//! The checksums of a received packet: right, wrong, or not looked at.
//!
//! The tunnel authenticates a packet from one end to the other, not what was wrong before it came in:
//! so the sums are added up, and what is said of them is what was found. Everything that is not plain
//! (fragments, extension headers, lengths that contradict each other, UDP without a checksum) is left
//! to the stack.

use core::ops::Range;

use super::{
    checksum::Sum,
    ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP, TCP_HEADER_LEN, UDP, UDP_HEADER_LEN, is_fragment},
};

/// What was found of one checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// It was not looked at, or there is none.
    #[default]
    NotChecked,
    /// It is right.
    Valid,
    /// It is wrong.
    Invalid,
}

/// What was found of a packet's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// Of the IPv4 header.
    pub ip: Finding,
    /// Of TCP or UDP.
    pub transport: Finding,
}

/// Which checksums are worth looking at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worth {
    /// IPv4 headers.
    pub ipv4: bool,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl Worth {
    /// Nothing.
    pub const NOTHING: Self = Self { ipv4: false, tcp: false, udp: false };
    /// Everything.
    pub const EVERYTHING: Self = Self { ipv4: true, tcp: true, udp: true };
}

impl Checksums {
    /// Looks at a packet, which is as long as its header says.
    // spec: WG 13-g
    #[must_use]
    pub fn of(packet: &[u8], worth: Worth) -> Self {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::of_ipv4(packet, worth).unwrap_or_default(),
            Some(6) => Self::of_ipv6(packet, worth).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    fn of_ipv4(packet: &[u8], worth: Worth) -> Option<Self> {
        let [first, _, _, _, _, _, f0, f1, _, protocol, ..] =
            *packet.first_chunk::<IPV4_HEADER_LEN>()?;
        let header = usize::from(first & 0x0F).saturating_mul(4);
        let (header, above) = packet.split_at_checked(header)?;
        if header.len() < IPV4_HEADER_LEN {
            return None;
        }
        let mut found = Self::default();
        if worth.ipv4 {
            found.ip = finding(Sum::default().and(header));
        }
        // With its first or its last part only there is no sum over the whole.
        if !is_fragment([f0, f1]) && found.ip != Finding::Invalid {
            let addresses = header.get(12..20)?;
            found.transport = transport(protocol, addresses, above, worth);
        }
        Some(found)
    }

    fn of_ipv6(packet: &[u8], worth: Worth) -> Option<Self> {
        let (header, above) = packet.split_at_checked(IPV6_HEADER_LEN)?;
        let transport = transport(*header.get(6)?, header.get(8..)?, above, worth);
        Some(Self { ip: Finding::NotChecked, transport })
    }
}

/// What is to be said of a transport's checksum.
fn transport(protocol: u8, addresses: &[u8], above: &[u8], worth: Worth) -> Finding {
    let worthwhile = match protocol {
        TCP => worth.tcp && is_tcp(above),
        UDP => worth.udp && is_checked_udp(above),
        _ => false,
    };
    if !worthwhile {
        return Finding::NotChecked;
    }
    finding(Sum::of_pseudo_header(addresses, protocol, above.len()).and(above))
}

/// Whether a TCP segment has a whole header.
fn is_tcp(segment: &[u8]) -> bool {
    let words = segment.get(12).map_or(0, |byte| usize::from(byte >> 4));
    (TCP_HEADER_LEN..=segment.len()).contains(&words.saturating_mul(4))
}

/// Whether a UDP datagram has a checksum, over exactly these bytes.
fn is_checked_udp(datagram: &[u8]) -> bool {
    const LENGTH: Range<usize> = 4..6;
    const CHECKSUM: Range<usize> = 6..UDP_HEADER_LEN;
    let length = datagram.get(LENGTH).and_then(<[u8]>::first_chunk);
    length.is_some_and(|length| usize::from(u16::from_be_bytes(*length)) == datagram.len())
        && datagram.get(CHECKSUM).is_some_and(|checksum| checksum != [0, 0])
}

/// Whether a sum over everything, its checksum too, is all ones.
fn finding(sum: Sum) -> Finding {
    if sum.checksum() == [0, 0] { Finding::Valid } else { Finding::Invalid }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use Finding::{Invalid, NotChecked, Valid};

    /// A packet with `above` behind its IP header, whose checksum (if it has one) is right.
    fn packet(ipv6: bool, protocol: u8, above: &[u8]) -> Vec<u8> {
        let mut packet = if ipv6 {
            let mut header = std::vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header.extend([0xFD; 32]);
            header[4..6].copy_from_slice(&(above.len() as u16).to_be_bytes());
            header
        } else {
            let mut header = std::vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
            header.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            header[2..4].copy_from_slice(&(20 + above.len() as u16).to_be_bytes());
            let sum = Sum::default().and(&header).checksum();
            header[10..12].copy_from_slice(&sum);
            header
        };
        packet.extend(above);
        packet
    }

    /// TCP or UDP with `payload`, its checksum right.
    fn whole(ipv6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (header, at) = if protocol == TCP { (20, 16) } else { (8, 6) };
        let mut above = std::vec![0_u8; header];
        above[..4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        above.extend(payload);
        if protocol == UDP {
            let len = above.len() as u16;
            above[4..6].copy_from_slice(&len.to_be_bytes());
        } else {
            above[12] = 0x50;
        }
        let without = packet(ipv6, protocol, &above);
        let addresses = if ipv6 { 8..40 } else { 12..20 };
        let sum = Sum::default()
            .and(&without[addresses])
            .and(&(above.len() as u32).to_be_bytes())
            .and(&[0, protocol])
            .and(&above)
            .checksum();
        above[at..at + 2].copy_from_slice(if sum == [0, 0] { &[0xFF, 0xFF] } else { &sum });
        packet(ipv6, protocol, &above)
    }

    fn of(packet: &[u8]) -> (Finding, Finding) {
        let Checksums { ip, transport } = Checksums::of(packet, Worth::EVERYTHING);
        (ip, transport)
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_stack() {
        let udp = whole(false, UDP, &[1, 2, 3]);
        assert_eq!(of(&udp), (Valid, Valid));
        // No checksum; a length that is not the datagram's; cut off in the header.
        let mut none = udp.clone();
        none[26..28].fill(0);
        assert_eq!(of(&none), (Valid, NotChecked));
        let mut short = udp.clone();
        short[25] -= 1;
        assert_eq!(of(&short), (Valid, NotChecked));
        for (len, words) in [(19, 5), (20, 4), (20, 6), (23, 6)] {
            let mut segment = [0; 23];
            segment[12] = words << 4;
            assert_eq!(of(&packet(false, TCP, &segment[..len])), (Valid, NotChecked), "{len}");
        }
        assert_eq!(of(&packet(false, UDP, &[0; 7])), (Valid, NotChecked));
        assert_eq!(of(&packet(false, 1, &[0; 30])), (Valid, NotChecked));
        // A fragment, the first or another, has no sum over the whole.
        for fragment in [[0x20, 0], [0, 1]] {
            let mut part = udp.clone();
            part[6..8].copy_from_slice(&fragment);
            part[10..12].fill(0);
            let sum = Sum::default().and(&part[..20]).checksum();
            part[10..12].copy_from_slice(&sum);
            assert_eq!(of(&part), (Valid, NotChecked), "{fragment:?}");
        }
        // IPv6 has no checksum of its own, and what stands before the transport is not looked through.
        assert_eq!(of(&whole(true, TCP, &[])), (NotChecked, Valid));
        assert_eq!(of(&packet(true, 0, &[UDP, 0, 0, 0, 0, 0, 0, 0])), (NotChecked, NotChecked));
        for strange in [&[][..], &[0x45; 19], &[0x60; 39], &[0x4F; 40], &[0x44; 40], &[0x55; 40]] {
            assert_eq!(of(strange), (NotChecked, NotChecked), "{strange:?}");
        }
    }

    #[test]
    fn only_what_is_worth_it_is_looked_at() {
        for protocol in [TCP, UDP] {
            for number in 0..8 {
                let [ipv4, tcp, udp] = [1, 2, 4].map(|bit| number & bit != 0);
                let found = Checksums::of(&whole(false, protocol, b"x"), Worth { ipv4, tcp, udp });
                let looked = |yes: bool| if yes { Valid } else { NotChecked };
                let transport = looked(if protocol == TCP { tcp } else { udp });
                assert_eq!(found, Checksums { ip: looked(ipv4), transport });
            }
        }
    }

    proptest! {
        // spec-test: WG 13-g
        #[test]
        fn right_is_valid_and_any_wrong_bit_is_not(
            ipv6: bool,
            tcp: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            bit: usize,
        ) {
            let protocol = if tcp { TCP } else { UDP };
            let mut packet = whole(ipv6, protocol, &payload);
            let header = if ipv6 { 40 } else { 20 };
            let ip = if ipv6 { NotChecked } else { Valid };
            prop_assert_eq!(of(&packet), (ip, Valid));
            // UDP's length and checksum, and the length of TCP's header, say whether it is looked at.
            let bits = (packet.len() - header) * 8;
            let at = bit % bits;
            let special = if tcp { 100..104 } else { 32..64 }.contains(&at);
            packet[header + at / 8] ^= 1 << (at % 8);
            prop_assume!(!special);
            prop_assert_eq!(of(&packet), (ip, Invalid));
        }

        #[test]
        fn a_wrong_ipv4_header_is_invalid_and_no_more_is_said(bit in 0_usize..128) {
            let mut packet = whole(false, TCP, b"payload");
            // Not its version and length, and not the addresses, which the other sum has too.
            prop_assume!((8..96).contains(&bit));
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(of(&packet), (Invalid, NotChecked));
        }

        #[test]
        fn any_bytes_are_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = of(&bytes);
        }
    }
}
