//! UDP headers and their checksum, for datagrams that are injected.
//!
//! Pure; any IRQL. Source: RFC 768; RFC 1071; RFC 8200, section 8.1 (the pseudo-header, and that a
//! checksum of zero is sent as all ones).

use core::net::IpAddr;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The protocol's number.
const UDP: u16 = 17;

/// The header of a datagram; `None` when it is too long for one.
///
/// IPv4 goes without a checksum: the tag authenticates every bit of the datagram. IPv6 demands one.
/// An unspecified source, for which the stack would choose an address, is possible with IPv4 only.
#[must_use]
pub fn header(
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    payload: &[u8],
) -> Option<[u8; HEADER_LEN]> {
    let length = u16::try_from(payload.len().checked_add(HEADER_LEN)?).ok()?;
    let mut words = [source.1, destination.1, length, 0];
    match (source.0, destination.0) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {}
        (IpAddr::V6(from), IpAddr::V6(to)) if !from.is_unspecified() => {
            let mut sum = Sum::default();
            sum.add(&from.octets());
            sum.add(&to.octets());
            // Length and protocol of the pseudo-header, then the header itself.
            for word in [length, UDP, source.1, destination.1, length] {
                sum.add(&word.to_be_bytes());
            }
            sum.add(payload);
            words[3] = sum.checksum();
        }
        _ => return None,
    }
    let mut header = [0; HEADER_LEN];
    for (place, word) in header.chunks_exact_mut(2).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    Some(header)
}

/// Bytes of data behind this header, as it says; `None` if that makes no sense.
#[must_use]
pub fn data_len(header: &[u8; HEADER_LEN]) -> Option<usize> {
    let [.., high, low, _, _] = *header;
    usize::from(u16::from_be_bytes([high, low])).checked_sub(HEADER_LEN)
}

/// A one's complement sum over pieces of even length; only the last may be odd.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        // Four bytes at a time: carries gather above, and are folded at the end.
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            let word = word.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
            self.0 = self.0.wrapping_add(u64::from(word));
        }
        let mut last = [0; 4];
        for (place, byte) in last.iter_mut().zip(words.remainder()) {
            *place = *byte;
        }
        self.0 = self.0.wrapping_add(u64::from(u32::from_be_bytes(last)));
    }

    /// The complement of the sum, which is never zero: zero means that there is none.
    fn checksum(&self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF).wrapping_add(sum >> 16);
        }
        match !(sum as u16) {
            0 => 0xFFFF,
            checksum => checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn v6(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    /// The sum as RFC 1071 writes it: two bytes at a time, carry by carry.
    fn oracle(from: &IpAddr, to: &IpAddr, datagram: &[u8]) -> u16 {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { unreachable!() };
        let mut bytes = Vec::new();
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend((datagram.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 17]);
        bytes.extend(datagram);
        if bytes.len() % 2 != 0 {
            bytes.push(0);
        }
        bytes.chunks(2).fold(0_u16, |sum, pair| {
            let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
            sum + u16::from(carry)
        })
    }

    #[test]
    fn ipv4_goes_without_a_checksum() {
        let ip = |address: &str| address.parse().unwrap();
        let header = header((ip("0.0.0.0"), 51820), (ip("192.0.2.1"), 7), &[0; 32]);
        assert_eq!(header, Some([0xCA, 0x6C, 0, 7, 0, 40, 0, 0]));
    }

    #[test]
    fn a_header_says_how_much_there_is() {
        for (length, data) in
            [(0_u16, None), (7, None), (8, Some(0)), (40, Some(32)), (0xFFFF, Some(65527))]
        {
            let [high, low] = length.to_be_bytes();
            assert_eq!(data_len(&[0xFF, 0xFF, 0xFF, 0xFF, high, low, 0xFF, 0xFF]), data);
        }
    }

    #[test]
    fn what_cannot_be_sent_has_no_header() {
        let (from, to) = ((v6("2001:db8::1"), 1), (v6("2001:db8::2"), 2));
        assert!(header(from, to, &[0; 65527]).is_some(), "the longest");
        assert!(header(from, to, &[0; 65528]).is_none(), "one more");
        assert!(header((v6("::"), 1), to, &[]).is_none(), "no source to sum over");
        assert!(header(("192.0.2.1".parse().unwrap(), 1), to, &[]).is_none(), "two families");
    }

    #[test]
    fn a_sum_of_all_ones_is_not_sent_as_none() {
        let (from, to) = (v6("::1"), v6("::2"));
        // Chosen so that the complement is zero: the sum of everything else, and what it lacks.
        let mut payload = [0; 2];
        let without = header((from, 0), (to, 0), &payload).unwrap();
        payload.copy_from_slice(&without[6..]);
        let with = header((from, 0), (to, 0), &payload).unwrap();
        assert_eq!(with[6..], [0xFF, 0xFF]);
    }

    proptest! {
        #[test]
        fn a_receiver_finds_the_checksum_right(
            from: [u8; 16],
            to: [u8; 16],
            ports: (u16, u16),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (from, to) = (IpAddr::from(from), IpAddr::from(to));
            prop_assume!(!from.is_unspecified());
            let header = header((from, ports.0), (to, ports.1), &payload).unwrap();
            let datagram: Vec<u8> = header.iter().chain(&payload).copied().collect();
            prop_assert_eq!(oracle(&from, &to, &datagram), 0xFFFF);
        }
    }
}
