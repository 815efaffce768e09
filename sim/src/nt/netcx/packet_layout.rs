//! Which headers a packet starts with: what NetAdapterCx writes into `NET_PACKET.Layout`.
//!
//! On an IP medium layer 2 is `Null` with length 0. Layer 3 is IPv4 with or without options or IPv6
//! with or without extensions; layer 4 is TCP, UDP, a fragment or something else. A header that does
//! not fit into the first piece is not parsed: the fields from there on stay `Unspecified` with
//! length 0.
//!
//! Source: `facts/netcx-os.md` §5, §6 (`nxpacketlayout.cpp`, read in Microsoft's source). What is
//! given for a layer 4 that is neither TCP nor UDP is inferred.

use super::ring::Layout;

/// `NetPacketLayer2TypeNull`.
pub const LAYER2_NULL: u8 = 1;
/// `NetPacketLayer3TypeIPv4WithOptions`.
pub const IPV4_WITH_OPTIONS: u8 = 2;
/// `NetPacketLayer3TypeIPv4NoOptions`.
pub const IPV4_NO_OPTIONS: u8 = 3;
/// `NetPacketLayer3TypeIPv6WithExtensions`.
pub const IPV6_WITH_EXTENSIONS: u8 = 5;
/// `NetPacketLayer3TypeIPv6NoExtensions`.
pub const IPV6_NO_EXTENSIONS: u8 = 6;
/// `NetPacketLayer4TypeTcp`.
pub const TCP: u8 = 1;
/// `NetPacketLayer4TypeUdp`.
pub const UDP: u8 = 2;
/// `NetPacketLayer4TypeIPFragment`.
pub const IP_FRAGMENT: u8 = 3;
/// `NetPacketLayer4TypeIPNotFragment`.
pub const IP_NOT_FRAGMENT: u8 = 4;

/// Whether `layer3` is one of the IPv4 types.
#[must_use]
pub fn is_ipv4(layer3: u8) -> bool {
    (1..=3).contains(&layer3)
}

/// Whether `layer3` is one of the IPv6 types.
#[must_use]
pub fn is_ipv6(layer3: u8) -> bool {
    (4..=6).contains(&layer3)
}

/// Parses the headers at the start of `piece`, the first piece of an IP packet.
#[must_use]
pub fn parse(piece: &[u8]) -> Layout {
    let mut layout = Layout { layer2_type: LAYER2_NULL, ..Layout::default() };
    let Some(version) = piece.first().map(|byte| byte >> 4) else { return layout };
    let next = match version {
        4 => parse_ipv4(piece, &mut layout),
        6 => parse_ipv6(piece, &mut layout),
        _ => None,
    };
    match next {
        Some((_, true)) => layout.layer4_type = IP_FRAGMENT,
        Some((protocol, false)) => {
            let rest = piece.get(usize::from(layout.layer3_length)..).unwrap_or_default();
            parse_layer4(protocol, rest, &mut layout);
        }
        None => {}
    }
    layout
}

/// The protocol above IPv4 and whether the packet is a fragment.
fn parse_ipv4(piece: &[u8], layout: &mut Layout) -> Option<(u8, bool)> {
    let header: &[u8; 20] = piece.first_chunk()?;
    let length = u16::from(header[0] & 0xF) * 4;
    if length < 20 || piece.len() < usize::from(length) {
        return None;
    }
    layout.layer3_length = length;
    layout.layer3_type = if length == 20 { IPV4_NO_OPTIONS } else { IPV4_WITH_OPTIONS };
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
    Some((header[9], fragment))
}

/// The protocol above IPv6 and its extensions, and whether the packet is a fragment.
fn parse_ipv6(piece: &[u8], layout: &mut Layout) -> Option<(u8, bool)> {
    let header: &[u8; 40] = piece.first_chunk()?;
    let (mut protocol, mut length, mut fragment) = (header[6], 40_usize, false);
    // Hop-by-hop, routing, fragment, authentication, destination options.
    while matches!(protocol, 0 | 43 | 44 | 51 | 60) {
        let extension: &[u8; 8] = piece.get(length..)?.first_chunk()?;
        length += match protocol {
            44 => {
                fragment = true;
                8
            }
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        protocol = extension[0];
        if piece.len() < length || length > 0x1FF {
            return None;
        }
    }
    layout.layer3_length = length as u16;
    layout.layer3_type = if length == 40 { IPV6_NO_EXTENSIONS } else { IPV6_WITH_EXTENSIONS };
    Some((protocol, fragment))
}

fn parse_layer4(protocol: u8, rest: &[u8], layout: &mut Layout) {
    match protocol {
        6 => {
            let length = rest.get(12).map_or(0, |byte| (byte >> 4) * 4);
            if length >= 20 && rest.len() >= usize::from(length) {
                (layout.layer4_type, layout.layer4_length) = (TCP, length);
            }
        }
        17 if rest.len() >= 8 => (layout.layer4_type, layout.layer4_length) = (UDP, 8),
        17 => {}
        _ => layout.layer4_type = IP_NOT_FRAGMENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(words: u8, protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; usize::from(words) * 4];
        packet[0] = 0x40 | words;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet.extend_from_slice(rest);
        packet
    }

    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet.extend_from_slice(rest);
        packet
    }

    #[test]
    fn headers_are_found_or_left_unspecified() {
        let mut tcp = [0; 24];
        tcp[12] = 0x60;
        // Hop-by-hop of 8 bytes, then UDP.
        let mut hop = [0; 16];
        hop[0] = 17;
        for (packet, layer3, layer4, why) in [
            (vec![], (0, 0), (0, 0), "empty"),
            (vec![0x45; 19], (0, 0), (0, 0), "IPv4 header one byte short"),
            (ipv4(5, 17, 0, &[0; 8]), (IPV4_NO_OPTIONS, 20), (UDP, 8), "UDP"),
            (ipv4(5, 17, 0, &[0; 7]), (IPV4_NO_OPTIONS, 20), (0, 0), "UDP header one byte short"),
            (
                ipv4(6, 6, 0, &tcp),
                (IPV4_WITH_OPTIONS, 24),
                (TCP, 24),
                "options, and TCP with options",
            ),
            (
                ipv4(5, 6, 0, &tcp[..23]),
                (IPV4_NO_OPTIONS, 20),
                (0, 0),
                "TCP options one byte short",
            ),
            (
                ipv4(5, 17, 0x2000, &[0; 8]),
                (IPV4_NO_OPTIONS, 20),
                (IP_FRAGMENT, 0),
                "more fragments",
            ),
            (ipv4(5, 17, 0x4000, &[0; 8]), (IPV4_NO_OPTIONS, 20), (UDP, 8), "don't fragment"),
            (ipv4(5, 1, 0, &[0; 8]), (IPV4_NO_OPTIONS, 20), (IP_NOT_FRAGMENT, 0), "ICMP"),
            (ipv4(4, 17, 0, &[0; 8]), (0, 0), (0, 0), "IHL below 5"),
            (ipv6(17, &[0; 8]), (IPV6_NO_EXTENSIONS, 40), (UDP, 8), "UDP"),
            (ipv6(0, &hop), (IPV6_WITH_EXTENSIONS, 48), (UDP, 8), "hop-by-hop, UDP"),
            (
                ipv6(44, &[17, 0, 0, 1, 0, 0, 0, 0]),
                (IPV6_WITH_EXTENSIONS, 48),
                (IP_FRAGMENT, 0),
                "fragment",
            ),
            (ipv6(0, &[17]), (0, 0), (0, 0), "an extension cut off"),
            (vec![0x50; 60], (0, 0), (0, 0), "neither version"),
        ] {
            let layout = parse(&packet);
            assert_eq!((layout.layer2_type, layout.layer2_length), (LAYER2_NULL, 0), "{why}");
            assert_eq!((layout.layer3_type, layout.layer3_length), layer3, "{why}");
            assert_eq!((layout.layer4_type, layout.layer4_length), layer4, "{why}");
        }
    }
}
