//! Of IP headers and those behind them, what several files look at.

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6_HEADER_LEN: usize = 40;
/// Bytes of a TCP header without options.
pub(super) const TCP_HEADER_LEN: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP_HEADER_LEN: usize = 8;
/// IP's number of ICMP.
pub(super) const ICMP: u8 = 1;
/// IP's number of TCP.
pub(super) const TCP: u8 = 6;
/// IP's number of UDP.
pub(super) const UDP: u8 = 17;
/// IP's number of ICMPv6.
pub(super) const ICMPV6: u8 = 58;
/// IPv6's number of the header that says which fragment it is.
const FRAGMENT: u8 = 44;

/// Flags of a TCP header, in its byte 13.
pub(super) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const URG: u8 = 0x20;
    pub(crate) const CWR: u8 = 0x80;
}

/// Whether bytes 6 and 7 of an IPv4 header say that the packet is a part of a longer one.
pub(super) fn is_fragment(bytes: [u8; 2]) -> bool {
    u16::from_be_bytes(bytes) & 0x3FFF != 0
}

/// Whether an IPv6 header of this number says how long it is and what follows: hop-by-hop, routing, destination
/// options, or which fragment. [RFC 8200 §4]
pub(super) const fn is_extension(number: u8) -> bool {
    matches!(number, 0 | 43 | 60 | FRAGMENT)
}

/// The protocol above IP, and where its header begins; `None` if that is in another fragment, or not in `packet`.
pub(super) fn transport_at(packet: &[u8]) -> Option<(u8, usize)> {
    if packet.first()? >> 4 == 4 {
        let [first, _, _, _, _, _, f0, f1, _, protocol, ..] =
            *packet.first_chunk::<IPV4_HEADER_LEN>()?;
        let header = usize::from(first & 0x0F).saturating_mul(4);
        let is_first = u16::from_be_bytes([f0, f1]) & 0x1FFF == 0;
        return (header >= IPV4_HEADER_LEN && is_first).then_some((protocol, header));
    }
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let mut number = packet.first_chunk::<IPV6_HEADER_LEN>()?[6];
    let mut at = IPV6_HEADER_LEN;
    while is_extension(number) {
        let [next, len, offset_high, offset_low, ..] = *packet.get(at..)?.first_chunk::<8>()?;
        let len = match number {
            FRAGMENT if u16::from_be_bytes([offset_high, offset_low]) & 0xFFF8 != 0 => return None,
            FRAGMENT => 8,
            _ => usize::from(len).saturating_add(1).saturating_mul(8),
        };
        at = at.saturating_add(len);
        number = next;
    }
    Some((number, at))
}
