//! BLAKE2s, keyed and cut to 16 bytes, of one message or of eight at once. [RFC 7693]
//!
//! The key is a block of its own in front of every message, so what it leaves behind is computed
//! once. Eight messages are eight lanes of YMM registers, word for word like one; they have the same
//! length, which is what a flood of one kind of handshake message has.
#![allow(unsafe_code)] // Calls into a `#[target_feature]` function, which the proof allows.

use zeroize::Zeroize;

use super::ExtendedState;
#[cfg(target_arch = "x86_64")]
use super::{
    lanes::Register,
    tier::Avx2,
    vector256::V256,
    wipe::{self, Depth},
};

/// Messages at once.
pub(crate) const LANES: usize = 8;
/// Length of the MAC.
pub(crate) const MAC_LEN: usize = 16;
/// Length of a block.
const BLOCK_LEN: usize = 64;

/// The initial value, the same as SHA-256's. [RFC 7693 §2.6]
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Which words of the block a round takes, in order. [RFC 7693 §2.7]
const SIGMA: [[u8; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

/// One 32-bit word, or one of each lane.
pub(super) trait Word: Copy {
    /// Sum.
    fn sum(self, other: Self) -> Self;
    /// Bitwise difference.
    fn difference(self, other: Self) -> Self;
    /// Rotated right by 16.
    fn right16(self) -> Self;
    /// Rotated right by 12.
    fn right12(self) -> Self;
    /// Rotated right by 8.
    fn right8(self) -> Self;
    /// Rotated right by 7.
    fn right7(self) -> Self;
}

impl Word for u32 {
    fn sum(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn difference(self, other: Self) -> Self {
        self ^ other
    }
    fn right16(self) -> Self {
        self.rotate_right(16)
    }
    fn right12(self) -> Self {
        self.rotate_right(12)
    }
    fn right8(self) -> Self {
        self.rotate_right(8)
    }
    fn right7(self) -> Self {
        self.rotate_right(7)
    }
}

/// A key, and the state behind its block.
#[derive(Clone)]
pub(crate) struct MacKey {
    state: [u32; 8],
}

impl Drop for MacKey {
    fn drop(&mut self) {
        self.state.zeroize();
    }
}

impl MacKey {
    /// Takes a key. The caller wipes its own copy.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let mut state = IV;
        // One way, no salt: the length of key and digest is all that differs from the default.
        state[0] ^= 0x0101_0000 | 32 << 8 | MAC_LEN as u32;
        let mut block = [0; BLOCK_LEN];
        block[..32].copy_from_slice(key);
        compress(&mut state, &words(&block), &IV, BLOCK_LEN as u32, 0);
        block.zeroize();
        Self { state }
    }

    /// The MAC of one message, which is not empty.
    pub(crate) fn mac(&self, message: &[u8]) -> [u8; MAC_LEN] {
        let mut state = self.state;
        let count = message.len().div_ceil(BLOCK_LEN);
        for (index, block) in message.chunks(BLOCK_LEN).enumerate() {
            let (done, last) = progress(message.len(), index, count);
            compress(&mut state, &words(&padded(block)), &IV, done, last);
        }
        let mut out = [0; MAC_LEN];
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        out
    }

    /// The MACs of eight messages of one length, which is not 0; `None` if the lengths differ or
    /// the state does not allow it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn macs(
        &self,
        state: Option<&ExtendedState>,
        messages: &[&[u8]; LANES],
    ) -> Option<[[u8; MAC_LEN]; LANES]> {
        let proof = Avx2::of(state?)?;
        if messages.iter().any(|message| message.len() != messages[0].len()) {
            return None;
        }
        // SAFETY: the proof is of the features that the functions enable.
        let macs = unsafe { eight(proof, &self.state, messages) };
        // SAFETY: as above.
        unsafe { wipe::after256(proof, Depth::Shallow) };
        Some(macs)
    }

    /// Eight at once need lanes that this target does not have yet.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn macs(
        &self,
        _: Option<&ExtendedState>,
        _: &[&[u8]; LANES],
    ) -> Option<[[u8; MAC_LEN]; LANES]> {
        None
    }
}

/// How many bytes there are up to the end of block `index` of `count`, the key's included, and
/// whether it is the last, as the flag that marks it.
fn progress(len: usize, index: usize, count: usize) -> (u32, u32) {
    let done = BLOCK_LEN + len.min((index + 1) * BLOCK_LEN);
    (done as u32, if index + 1 == count { u32::MAX } else { 0 })
}

/// A block of which there may be only the beginning.
#[inline(always)]
fn padded(bytes: &[u8]) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let count = bytes.len().min(BLOCK_LEN);
    block[..count].copy_from_slice(&bytes[..count]);
    block
}

#[inline(always)]
fn words(block: &[u8; BLOCK_LEN]) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// The compression function. [RFC 7693 §3.2]
#[inline(always)]
fn compress<W: Word>(state: &mut [W; 8], block: &[W; 16], iv: &[W; 8], done: W, last: W) {
    let mut v = [iv[0]; 16];
    v[..8].copy_from_slice(state);
    v[8..].copy_from_slice(iv);
    v[12] = v[12].difference(done);
    v[14] = v[14].difference(last);
    for order in &SIGMA {
        let word = |at: usize| block[usize::from(order[at]) % 16];
        for i in 0..4 {
            mix(&mut v, [i, 4 + i, 8 + i, 12 + i], word(2 * i), word(2 * i + 1));
        }
        for i in 0..4 {
            let columns = [i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4];
            mix(&mut v, columns, word(8 + 2 * i), word(9 + 2 * i));
        }
    }
    for (at, word) in state.iter_mut().enumerate() {
        *word = word.difference(v[at]).difference(v[8 + at]);
    }
}

/// The mixing function G. [RFC 7693 §3.1]
#[inline(always)]
fn mix<W: Word>(v: &mut [W; 16], [a, b, c, d]: [usize; 4], x: W, y: W) {
    v[a] = v[a].sum(v[b]).sum(x);
    v[d] = v[d].difference(v[a]).right16();
    v[c] = v[c].sum(v[d]);
    v[b] = v[b].difference(v[c]).right12();
    v[a] = v[a].sum(v[b]).sum(y);
    v[d] = v[d].difference(v[a]).right8();
    v[c] = v[c].sum(v[d]);
    v[b] = v[b].difference(v[c]).right7();
}

/// The MACs of eight messages of one length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline(never)] // Its stack is wiped by the caller, so it must be a frame of its own.
fn eight(proof: Avx2<'_>, start: &[u32; 8], messages: &[&[u8]; LANES]) -> [[u8; MAC_LEN]; LANES] {
    let splat = |word: u32| <V256 as Register<8>>::splat(proof, word);
    // Not by `map`, which would be a function of its own without the feature.
    let (mut state, mut iv) = ([splat(0); 8], [splat(0); 8]);
    for (lanes, word) in state.iter_mut().zip(start) {
        *lanes = splat(*word);
    }
    for (lanes, word) in iv.iter_mut().zip(IV) {
        *lanes = splat(word);
    }
    let len = messages[0].len();
    let count = len.div_ceil(BLOCK_LEN);
    for index in 0..count {
        let mut rows = [[splat(0); LANES]; 2];
        for (lane, message) in messages.iter().enumerate() {
            let block = padded(message.get(index * BLOCK_LEN..).unwrap_or(&[]));
            let words = words(&block);
            for (half, words) in rows.iter_mut().zip(words.as_chunks::<8>().0) {
                half[lane] = <V256 as Register<8>>::load(proof, words);
            }
        }
        let mut block = [splat(0); 16];
        for (words, rows) in block.as_chunks_mut::<8>().0.iter_mut().zip(rows) {
            *words = V256::transpose(rows);
        }
        let (done, last) = progress(len, index, count);
        compress(&mut state, &block, &iv, splat(done), splat(last));
    }
    let mut out = [[0; MAC_LEN]; LANES];
    for (out, row) in out.iter_mut().zip(V256::transpose(state)) {
        *out = row.low_bytes();
    }
    out
}
