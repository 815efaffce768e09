//! The ChaCha20 block function on many blocks at once, whatever the width of a register.
//!
//! One register holds the same state word of as many blocks as it has lanes, so a quarter round is
//! the scalar one, word for word, and blocks of different packets and keys need not know of each
//! other. [RFC 8439 §2.3]

/// "expand 32-byte k", the first four words of the state. [RFC 8439 §2.3]
pub(super) const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Double rounds in ChaCha20. [RFC 8439 §2.3]
pub(super) const DOUBLE_ROUNDS: u32 = 10;

/// Length of a block of key stream. [RFC 8439 §2.3]
pub(super) const BLOCK_LEN: usize = 64;

/// A register of 32-bit lanes.
pub(super) trait Words: Copy {
    /// Sum of each lane.
    fn add(self, other: Self) -> Self;
    /// Bitwise difference of each lane.
    fn xor(self, other: Self) -> Self;
    /// Each lane rotated left.
    fn rotate<const N: i32>(self) -> Self;
}

/// A column round and a diagonal round.
#[inline(always)]
pub(super) fn double_round<W: Words>(state: &mut [W; 16]) {
    quarter_rounds(state, [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]);
    quarter_rounds(state, [5, 6, 7, 4], [10, 11, 8, 9], [15, 12, 13, 14]);
}

/// Four quarter rounds abreast; the first words are always those of row 0. [RFC 8439 §2.1]
#[inline(always)]
fn quarter_rounds<W: Words>(s: &mut [W; 16], b: [usize; 4], c: [usize; 4], d: [usize; 4]) {
    quarter_step::<W, 16>(s, [0, 1, 2, 3], b, d);
    quarter_step::<W, 12>(s, c, d, b);
    quarter_step::<W, 8>(s, [0, 1, 2, 3], b, d);
    quarter_step::<W, 7>(s, c, d, b);
}

/// `into += from; turned = (turned ^ into) <<< N`, four times abreast.
#[inline(always)]
fn quarter_step<W: Words, const N: i32>(
    s: &mut [W; 16],
    into: [usize; 4],
    from: [usize; 4],
    turned: [usize; 4],
) {
    for i in 0..4 {
        s[into[i]] = s[into[i]].add(s[from[i]]);
    }
    for i in 0..4 {
        s[turned[i]] = s[turned[i]].xor(s[into[i]]).rotate::<N>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Words for u32 {
        fn add(self, other: Self) -> Self {
            self.wrapping_add(other)
        }
        fn xor(self, other: Self) -> Self {
            self ^ other
        }
        fn rotate<const N: i32>(self) -> Self {
            self.rotate_left(N.cast_unsigned())
        }
    }

    // spec-test: RFC 8439 2.3.2
    #[test]
    fn one_lane_is_the_block_function() {
        let mut start = [0; 16];
        start[..4].copy_from_slice(&CONSTANTS);
        for (at, word) in start[4..12].iter_mut().enumerate() {
            let at = at as u32 * 4;
            *word = u32::from_le_bytes([at as u8, at as u8 + 1, at as u8 + 2, at as u8 + 3]);
        }
        start[12..].copy_from_slice(&[1, 0x0900_0000, 0x4a00_0000, 0]);
        let mut state = start;
        for _ in 0..DOUBLE_ROUNDS {
            double_round(&mut state);
        }
        let out: [u32; 16] = core::array::from_fn(|i| state[i].wrapping_add(start[i]));
        assert_eq!(
            out,
            [
                0xe4e7_f110,
                0x1559_3bd1,
                0x1fdd_0f50,
                0xc471_20a3,
                0xc7f4_d1c7,
                0x0368_c033,
                0x9aaa_2204,
                0x4e6c_d4c3,
                0x4664_82d2,
                0x09aa_9f07,
                0x05d7_c214,
                0xa202_8bd9,
                0xd19c_12b5,
                0xb94e_16de,
                0xe883_d0cb,
                0x4e3c_50a2,
            ]
        );
    }
}
