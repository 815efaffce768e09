//! Of IP headers and those behind them, what several files look at.

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6_HEADER_LEN: usize = 40;
/// Bytes of a TCP header without options.
pub(super) const TCP_HEADER_LEN: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP_HEADER_LEN: usize = 8;
/// IP's number of TCP.
pub(super) const TCP: u8 = 6;
/// IP's number of UDP.
pub(super) const UDP: u8 = 17;

/// Whether bytes 6 and 7 of an IPv4 header say that the packet is a part of a longer one.
pub(super) fn is_fragment(bytes: [u8; 2]) -> bool {
    u16::from_be_bytes(bytes) & 0x3FFF != 0
}
