//! The Internet checksum over bytes in pieces. [RFC 1071]
//!
//! Pure functions, any level. The bytes may change while they are read; each is read once.

use crate::aead::Piece;

/// A ones' complement sum of 16-bit words, over all pieces that were added, as if they lay together.
///
/// The words are summed as they lie in memory: a sum does not depend on the order of bytes, only the
/// end of it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Of folded words, at most one a piece: it cannot overflow.
    total: u64,
    /// An odd number of bytes was added: the next one is the second of its word.
    odd: bool,
}

impl Sum {
    /// Of what a transport's checksum covers besides its header and payload, `len` bytes of them:
    /// `addresses` are those of the IP header, of either family.
    #[must_use]
    pub(super) fn of_pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> Self {
        // In one piece, as pieces cost: addresses, length, protocol, and zeros, which add nothing.
        let mut header = [0; 40];
        let [.., l0, l1, l2, l3, _, protocol_at] = &mut header;
        [*l0, *l1, *l2, *l3] = (len as u32).to_be_bytes();
        *protocol_at = protocol;
        for (place, byte) in header.iter_mut().zip(addresses) {
            *place = *byte;
        }
        Self::default().and(&header)
    }

    /// Adds the bytes of a piece.
    pub fn add(&mut self, piece: &Piece<'_>) {
        let folded = fold(piece.sum());
        let folded = if self.odd { folded.swap_bytes() } else { folded };
        self.total = self.total.wrapping_add(folded.into());
        self.odd ^= !piece.len().is_multiple_of(2);
    }

    /// The same, with bytes of our own.
    #[must_use]
    pub fn and(mut self, bytes: &[u8]) -> Self {
        self.add(&bytes.into());
        self
    }

    /// The same, with another sum behind an even number of bytes.
    #[must_use]
    pub fn and_sum(mut self, other: Self) -> Self {
        self.total = self.total.wrapping_add(fold(other.total).into());
        self
    }

    /// The checksum, as it lies in a header: what makes the sum with it all ones.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        (!fold(self.total)).to_le_bytes()
    }
}

/// A checksum as it is once two of the bytes it covers, that begin at an even place, have become others.
/// [RFC 1624]
///
/// If it was wrong it stays so.
#[must_use]
pub(super) fn updated(checksum: [u8; 2], before: [u8; 2], after: [u8; 2]) -> [u8; 2] {
    if before == after {
        return checksum;
    }
    // HC' = ~(~HC + ~m + m'), in ones' complement.
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    let sum = word(checksum) ^ 0xFFFF;
    (!fold(sum.wrapping_add(word(before) ^ 0xFFFF).wrapping_add(word(after)))).to_ne_bytes()
}

/// Adds the carries back, until there are none.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF).wrapping_add(sum >> 32);
    let sum = (sum & 0xFFFF).wrapping_add(sum >> 16 & 0xFFFF).wrapping_add(sum >> 32);
    let sum = (sum & 0xFFFF).wrapping_add(sum >> 16);
    (sum & 0xFFFF).wrapping_add(sum >> 16) as u16
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 has it.
    pub(super) fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn edges() {
        assert_eq!(Sum::default().checksum(), [0xFF, 0xFF]);
        // RFC 1071, section 3.
        let sum = Sum::default().and(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(u16::from_be_bytes(sum.checksum()), !0xDDF2);
        assert_eq!(Sum::default().and(&[0xFF; 65_536]).checksum(), [0, 0]);
        assert_eq!(fold(u64::MAX), 0xFFFF);
        assert_eq!(fold(0x1_FFFF_FFFF), 1);
    }

    proptest! {
        /// Sums that are all ones, and carry nevertheless.
        #[test]
        fn words_that_carry(
            words in proptest::collection::vec(prop_oneof![Just(0_u64), Just(1), Just(!0), Just(!1), any::<u64>()], 0..40),
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let sum = Sum::default().and(&bytes);
            // 0 and all ones are the same number, and the sum of nothing is 0.
            let expected = naive(&bytes);
            prop_assert_eq!(u16::from_be_bytes(sum.checksum()) % 0xFFFF, expected % 0xFFFF);
            prop_assert_eq!(sum.checksum() == [0xFF; 2], bytes.iter().all(|byte| *byte == 0));
        }

        #[test]
        fn pieces_of_any_length_add_up(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..8),
        ) {
            let mut sum = Sum::default();
            pieces.iter().for_each(|piece| sum.add(&piece.as_slice().into()));
            let whole: Vec<u8> = pieces.concat();
            prop_assert_eq!(u16::from_be_bytes(sum.checksum()), naive(&whole));
        }

        #[test]
        fn a_word_is_changed(
            mut words in proptest::collection::vec(any::<[u8; 2]>(), 1..9), at in any::<usize>(), new: [u8; 2],
        ) {
            let sum = |words: &[[u8; 2]]| Sum::default().and(words.as_flattened()).checksum();
            let (at, before) = (at % words.len(), sum(&words));
            let old = std::mem::replace(&mut words[at], new);
            let whole = Sum::default().and(words.as_flattened()).and(&updated(before, old, new));
            prop_assert!(whole.checksum() == [0, 0] || words.iter().all(|word| *word == [0, 0]));
        }

        #[test]
        fn a_sum_behind_an_even_number_of_bytes(
            head in proptest::collection::vec(any::<[u8; 2]>(), 0..40),
            tail in proptest::collection::vec(any::<u8>(), 0..99),
        ) {
            let head: Vec<u8> = head.concat();
            let sum = Sum::default().and(&head).and_sum(Sum::default().and(&tail));
            prop_assert_eq!(u16::from_be_bytes(sum.checksum()), naive(&[head, tail].concat()));
        }
    }
}
