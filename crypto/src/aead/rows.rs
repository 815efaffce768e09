//! One packet at a time: ChaCha20 by rows instead of by words.
//!
//! A register holds a row of four words of each of its blocks, so the rounds of a few blocks take a
//! few registers and no transposing; a short packet is done after one latency of the rounds,
//! whatever the width. The key stream goes to a buffer on the stack first: opening needs block 0,
//! then has to wait for the tag, and would else compute the first blocks twice.
//!
//! Forced inline into the functions of a tier, like `lanes`.
#![allow(unsafe_code)] // The text is read and written through raw places.

use core::ops::Range;

use super::chacha::{BLOCK_LEN, CONSTANTS, DOUBLE_ROUNDS};
use super::group::{OneTimeKey, Packet};
use super::lanes::{Text, xor_part};

/// A register of rows of four words.
pub(super) trait Row: Text {
    /// What proves that it may be used.
    type Proof<'s>: Copy;
    /// How many rows it holds.
    const BLOCKS: usize;
    /// How many bytes that is.
    const LEN: usize = 16 * Self::BLOCKS;
    /// The same row everywhere.
    fn splat(proof: Self::Proof<'_>, row: [u32; 4]) -> Self;
    /// 0, 1, 2 and so on in the first words of the rows, zero elsewhere.
    fn counts(proof: Self::Proof<'_>) -> Self;
    /// Sum of each lane.
    fn add(self, other: Self) -> Self;
    /// Two quarter steps on four rows: additions to `a` and `c`, rotations by 16 and 12, 8 and 7.
    fn quarter_round(rows: &mut [Self; 4]);
    /// Words of rows 0, 2 and 3 moved until diagonals stand below each other, or back. Row 1, which the
    /// next step waits for, stays as it is.
    fn diagonal(rows: &mut [Self; 4], back: bool);
    /// Rows 0 to 3 of all blocks become blocks, one behind the other.
    fn blocks(rows: [Self; 4]) -> [Self; 4];
    /// The bytes of the buffer from `at`, one register of them.
    fn load(proof: Self::Proof<'_>, stream: &Stream, at: usize) -> Self;
    /// Puts the register into the buffer at `at`.
    fn keep(self, stream: &mut Stream, at: usize);
}

/// Blocks that the buffer holds: as many as the widest pass makes at a time. More would only be more
/// stack to wipe.
const STREAM_BLOCKS: usize = 12;

/// Length of the stream in the buffer.
const STREAM_LEN: usize = STREAM_BLOCKS * BLOCK_LEN;

/// Key stream of one packet.
#[repr(C, align(64))]
pub(super) struct Stream {
    /// The stream, and a block more, so that a block may be taken from anywhere in it.
    pub(super) bytes: [u8; STREAM_LEN + BLOCK_LEN],
}

impl Stream {
    /// With nothing in it.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { bytes: [0; STREAM_LEN + BLOCK_LEN] }
    }

    /// The one-time key of Poly1305, while block 0 is the first.
    #[inline(always)]
    pub(super) fn one_time_key(&self) -> OneTimeKey {
        let mut key = [0; 4];
        for (word, bytes) in key.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        key
    }
}

/// One packet's cipher.
pub(super) struct Cipher<'s, R: Row> {
    proof: R::Proof<'s>,
    rows: [R; 4],
}

impl<'s, R: Row> Cipher<'s, R> {
    /// The state of block 0.
    #[inline(always)]
    pub(super) fn new(proof: R::Proof<'s>, key: &[u32; 8], counter: u64) -> Self {
        let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
        let rows = [
            R::splat(proof, CONSTANTS),
            R::splat(proof, [k0, k1, k2, k3]),
            R::splat(proof, [k4, k5, k6, k7]),
            R::splat(proof, [0, 0, counter as u32, (counter >> 32) as u32]).add(R::counts(proof)),
        ];
        Self { proof, rows }
    }

    /// Makes the first part of the stream: as much as the packet needs and the buffer holds.
    #[inline(always)]
    pub(super) fn begin(&self, packet: &Packet, stream: &mut Stream) {
        self.fill(stream, 0, packet.len().div_ceil(BLOCK_LEN) + 1);
    }

    /// Adds the key stream to the whole text, after [`Cipher::begin`].
    #[inline(always)]
    pub(super) fn apply(&self, packet: &Packet, stream: &mut Stream) {
        let (mut done, mut first) = (0, 0);
        // Block 0 is not for the text.
        let mut at = BLOCK_LEN;
        loop {
            let count = (STREAM_LEN - at).min(packet.len() - done);
            self.apply_part(packet, done, stream, at..at + count);
            done += count;
            if done == packet.len() {
                break;
            }
            first += STREAM_BLOCKS;
            self.fill(stream, first, (packet.len() - done).div_ceil(BLOCK_LEN));
            at = 0;
        }
    }

    /// Adds a part of the stream to the text from `start`, a run of it after the other.
    #[inline(always)]
    fn apply_part(&self, packet: &Packet, mut start: usize, stream: &Stream, part: Range<usize>) {
        let mut at = part.start;
        while at < part.end {
            let (source, len) = packet.run(start);
            let end = part.end.min(at + len);
            let destination = packet.destination.wrapping_add(start);
            let mut done = 0;
            while at + done + R::LEN <= end {
                let stream = R::load(self.proof, stream, at + done);
                // SAFETY: by the invariant of `Packet`; the run has so many bytes.
                let text = unsafe { stream.xor_once(source.wrapping_add(done)) };
                // SAFETY: as above.
                unsafe { text.store(destination.wrapping_add(done)) };
                done += R::LEN;
            }
            let Some(rest) = stream.bytes.get(at + done..end).filter(|_| len > 0) else { break };
            // SAFETY: as above; so many bytes are left of the run.
            unsafe {
                xor_part(source.wrapping_add(done), destination.wrapping_add(done), rest);
            }
            (start, at) = (start + (end - at), end);
        }
    }

    /// Makes up to a buffer of stream from block `first`.
    #[inline(always)]
    fn fill(&self, stream: &mut Stream, first: usize, blocks: usize) {
        let blocks = blocks.min(STREAM_BLOCKS);
        let mut done = 0;
        while done < blocks {
            done += match (blocks - done).div_ceil(R::BLOCKS) {
                1 => self.pass::<1>(stream, first, done),
                2 => self.pass::<2>(stream, first, done),
                _ => self.pass::<3>(stream, first, done),
            };
        }
    }

    /// `SETS` registers of blocks from block `done` of the buffer; returns how many those are.
    #[inline(always)]
    fn pass<const SETS: usize>(&self, stream: &mut Stream, first: usize, done: usize) -> usize {
        let mut start = [self.rows; SETS];
        for (set, rows) in start.iter_mut().enumerate() {
            let block = (first + done + set * R::BLOCKS) as u32;
            rows[3] = rows[3].add(R::splat(self.proof, [block, 0, 0, 0]));
        }
        let mut state = start;
        for _ in 0..DOUBLE_ROUNDS {
            for rows in &mut state {
                R::quarter_round(rows);
                R::diagonal(rows, false);
            }
            for rows in &mut state {
                R::quarter_round(rows);
                R::diagonal(rows, true);
            }
        }
        for (set, (rows, start)) in state.iter_mut().zip(&start).enumerate() {
            for (row, start) in rows.iter_mut().zip(start) {
                *row = row.add(*start);
            }
            for (part, blocks) in R::blocks(*rows).into_iter().enumerate() {
                let at = (done + set * R::BLOCKS) * BLOCK_LEN + part * R::LEN;
                blocks.keep(stream, at);
            }
        }
        SETS * R::BLOCKS
    }
}
