//! The Internet checksum, for everything of the simulator's that makes packets or looks at them.
//!
//! Sums are of words as this machine reads them: a checksum's own bytes are those of [`u16::to_ne_bytes`], and as a number of
//! the network's it is [`u16::from_be`] of that. The driver has its own; this is what it is judged by.
//!
//! Source: RFC 1071; RFC 8200 section 8.1 for the pseudo header.

/// The sum of RFC 1071, not folded, of words as this machine reads them.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    whole + u64::from(u32::from_ne_bytes(last))
}

/// A sum folded to 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
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
