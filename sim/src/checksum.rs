//! The Internet checksum, for everything of the simulator's that makes packets or looks at them.
//!
//! Sums are of words as this machine reads them: a checksum's own bytes are those of [`u16::to_ne_bytes`], and as a number of
//! the network's it is [`u16::from_be`] of that. The driver has its own; this is what it is judged by.
//!
//! Source: RFC 1071; RFC 8200 section 8.1 for the pseudo header.

/// IP's number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP's number of UDP.
pub(crate) const UDP: u8 = 17;

/// The addresses in an IP header of 20 bytes or 40; none if there are fewer.
pub(crate) fn addresses(packet: &[u8]) -> &[u8] {
    let range = if packet.first().is_some_and(|first| first >> 4 == 6) { 8..40 } else { 12..20 };
    packet.get(range).unwrap_or_default()
}

/// The sum of RFC 1071, not folded, of words as this machine reads them.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    whole + u64::from(u32::from_ne_bytes(last))
}

/// A sum folded to 16 bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The sum of a pseudo header: `addresses` are source and destination, `len` the bytes from the transport header on.
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    let [.., b, c, d] = (len as u32).to_be_bytes();
    sum(addresses) + sum(&[0, b, c, d]) + sum(&[0, 0, 0, protocol])
}

/// The checksum a sum makes; in UDP never 0, which would say that there is none.
pub(crate) fn finish(protocol: u8, sum: u64) -> u16 {
    match !fold(sum) {
        0 if protocol == UDP => 0xFFFF,
        checksum => checksum,
    }
}

/// Writes length and checksum of an IP header whose transport header is at `l4`, for a packet of `len` bytes.
pub(crate) fn finish_ip(packet: &mut [u8], l4: usize, len: usize) {
    if packet[0] >> 4 == 6 {
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        return;
    }
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let checksum = !fold(sum(&packet[..l4]));
    packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
}
