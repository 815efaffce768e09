//! Whether what a driver says of a received packet's checksums is so.
//!
//! Bits of `NET_PACKET_CHECKSUM` as `net/checksumtypes.h` has them: two each for layers 2, 3 and 4; 0 not checked, 1 valid,
//! 2 invalid. This file knows nothing of the driver's.

use super::packet_layout;
use super::rx_translator::RxPacket;
use crate::checksum;

/// Whether what the driver says of a packet's checksums is so. [`super::RX_CHECKSUMS_ARE_TOLD_TRULY`]
pub(super) fn is_true(packet: &RxPacket) -> bool {
    let bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
    let layout = packet.layout();
    let (ip, len) = (usize::from(layout.layer3_length), bytes.len());
    let says = |shift: u8, right: bool| match packet.checksum() >> shift & 3 {
        0 => true,
        1 => right,
        2 => !right,
        _ => false,
    };
    let (addresses, above) = (checksum::addresses(&bytes), bytes.get(ip..).unwrap_or_default());
    if addresses.is_empty() || !matches!(bytes[0] >> 4, 4 | 6) {
        return packet.checksum() == 0;
    }
    let header = packet_layout::is_ipv4(layout.layer3_type)
        && checksum::fold(checksum::sum(&bytes[..ip.min(len)])) == 0xFFFF;
    let protocol = match layout.layer4_type {
        packet_layout::TCP => Some(checksum::TCP),
        packet_layout::UDP => Some(checksum::UDP),
        _ => None,
    };
    let transport = protocol.is_some_and(|protocol| {
        let pseudo = checksum::pseudo(addresses, protocol, above.len());
        checksum::fold(pseudo + checksum::sum(above)) == 0xFFFF
    });
    let none = protocol.is_none() && packet.checksum() >> 4 & 3 != 0;
    packet.checksum() & 3 == 0 && !none && says(2, header) && says(4, transport)
}
