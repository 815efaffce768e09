//! ChaCha20 with one register of each state word: four or eight lanes at a time.
//!
//! Written once for every width below 512 bits. The functions are forced inline and so take the
//! target features of the tier that calls them.
#![allow(unsafe_code)] // Lanes are read and written through raw places.

use super::chacha::{BLOCK_LEN, CONSTANTS};
use super::deal::{Lanes, Position};
use super::group::Group;
use super::piece::read_once;
use super::poly64::Chain;
use super::stitch::Cursor;

/// A register that text goes through.
pub(super) trait Text: Copy {
    /// Adds, bit by bit, as many bytes from `place` as the register has; they are read once.
    ///
    /// # Safety
    ///
    /// `place` is valid for reads of that many bytes.
    unsafe fn xor_once(self, place: *const u8) -> Self;
    /// Stores the register at `place`.
    ///
    /// # Safety
    ///
    /// `place` is valid for writes of as many bytes as the register has.
    unsafe fn store(self, place: *mut u8);
}

/// A register of `N` 32-bit lanes.
pub(super) trait Register<const N: usize>: Text {
    /// What proves that it may be used.
    type Proof<'s>: Copy;
    /// The same 32 bits in each lane.
    fn splat(proof: Self::Proof<'_>, lane: u32) -> Self;
    /// These lanes.
    fn load(proof: Self::Proof<'_>, lanes: &[u32; N]) -> Self;
    /// Sum of each lane.
    fn add(self, other: Self) -> Self;
    /// So many double rounds with four blocks of Poly1305 beside each, then so many without.
    ///
    /// # Safety
    ///
    /// `text` is valid for reads of `beside` times [`BLOCK_LEN`] bytes.
    unsafe fn rounds(state: &mut [Self; 16], rounds: Rounds, chain: &mut Chain, text: *const u8);
    /// As [`stitch::pass`](super::stitch::pass), not inlined: two in one frame would be too much.
    fn pass(
        proof: Self::Proof<'_>,
        group: &mut Group<'_, '_>,
        lanes: &Lanes<N>,
        cursor: &mut Cursor,
        written: Position,
    );
    /// `N` words of `N` lanes become `N` lanes of `N` words.
    fn transpose(words: [Self; N]) -> [Self; N];
}

/// How many double rounds.
#[derive(Clone, Copy)]
pub(super) struct Rounds {
    /// With blocks of Poly1305 beside them.
    pub(super) beside: u32,
    /// After those, without.
    pub(super) alone: u32,
}

/// Adds the key stream to the blocks of the lanes, and keeps one-time keys. The twenty rounds are
/// the caller's.
#[inline(always)]
pub(super) fn pass<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    rounds: impl FnOnce(&mut Group<'_, '_>, &mut [R; 16]),
) {
    let mut state = start::<R, N>(proof, group, lanes);
    rounds(group, &mut state);
    // What the rounds started from is made again: that is as fast as to keep it, and takes no stack.
    let lanes = core::hint::black_box(lanes);
    let start = start::<R, N>(proof, group, lanes);
    for (word, start) in state.iter_mut().zip(start) {
        *word = word.add(start);
    }
    if let Some(source) = one_run(group, lanes) {
        finish_one::<R, N>(group, lanes, source, &state);
    } else {
        finish::<R, N>(group, lanes, &mut state);
    }
}

/// The state of all lanes before the rounds.
#[inline(always)]
fn start<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &Group<'_, '_>,
    lanes: &Lanes<N>,
) -> [R; 16] {
    let mut state = [R::splat(proof, 0); 16];
    for (word, constant) in state.iter_mut().zip(CONSTANTS) {
        *word = R::splat(proof, constant);
    }
    if lanes.are_of_one_packet() {
        let packet = group.packet(usize::from(lanes.packet[0]));
        if let Some((key, counter)) = group.key(packet) {
            for (word, key) in state[4..12].iter_mut().zip(key) {
                *word = R::splat(proof, *key);
            }
            let counts = R::load(proof, &core::array::from_fn(|lane| lane as u32));
            state[12] = R::splat(proof, u32::from(lanes.block[0])).add(counts);
            state[14] = R::splat(proof, counter as u32);
            state[15] = R::splat(proof, (counter >> 32) as u32);
        }
        return state;
    }
    let mut keys = [&[0; 8]; N];
    let (mut counter_low, mut counter_high) = ([0; N], [0; N]);
    for lane in 0..N {
        let packet = group.packet(usize::from(lanes.packet[lane]));
        if let Some((key, counter)) = group.key(packet) {
            keys[lane] = key;
            counter_low[lane] = counter as u32;
            counter_high[lane] = (counter >> 32) as u32;
        }
    }
    for (part, words) in state[4..12].as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let mut rows = *words;
        for (row, key) in rows.iter_mut().zip(keys) {
            if let Some(key) = key.as_chunks::<N>().0.get(part) {
                *row = R::load(proof, key);
            }
        }
        *words = R::transpose(rows);
    }
    let mut blocks = [0; N];
    for (word, block) in blocks.iter_mut().zip(lanes.block) {
        *word = u32::from(block);
    }
    state[12] = R::load(proof, &blocks);
    state[14] = R::load(proof, &counter_low);
    state[15] = R::load(proof, &counter_high);
    state
}

/// Where the text of the lanes is, if it is all of one packet and one run: that of block 1.
#[inline(always)]
fn one_run<const N: usize>(group: &Group<'_, '_>, lanes: &Lanes<N>) -> Option<*const u8> {
    if !lanes.are_of_one_packet() {
        return None;
    }
    let packet = group.packet(usize::from(lanes.packet[0]));
    let block = usize::from(lanes.block[0]);
    let start = BLOCK_LEN * block.saturating_sub(1);
    let end = (BLOCK_LEN * (block + N - 1)).min(packet.len());
    packet.whole(start, end.saturating_sub(start)).map(|place| place.wrapping_sub(start))
}

/// Adds the key stream to the text of one packet, which lies at `source` as far as it is of the lanes.
#[inline(always)]
fn finish_one<R: Register<N>, const N: usize>(
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    source: *const u8,
    state: &[R; 16],
) {
    let packet = *group.packet(usize::from(lanes.packet[0]));
    // Of lane 0; before the text if that is block 0.
    let start = (BLOCK_LEN * usize::from(lanes.block[0])).wrapping_sub(BLOCK_LEN);
    if lanes.are_whole() {
        for (part, words) in state.as_chunks::<N>().0.iter().enumerate() {
            for (lane, stream) in R::transpose(*words).into_iter().enumerate() {
                let at = start + BLOCK_LEN * lane + 4 * N * part;
                // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
                let text = unsafe { stream.xor_once(source.wrapping_add(at)) };
                // SAFETY: by the same the destination has 64 bytes here.
                unsafe { text.store(packet.destination.wrapping_add(at)) };
            }
        }
        return;
    }
    // Only the first lane and the last that is not idle can have less than a block.
    let mut edges = [[0; BLOCK_LEN]; 2];
    for (part, words) in state.as_chunks::<N>().0.iter().enumerate() {
        for (lane, stream) in R::transpose(*words).into_iter().enumerate() {
            let at = 4 * N * part;
            if lanes.len(lane) == BLOCK_LEN {
                let at = start.wrapping_add(BLOCK_LEN * lane + at);
                // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
                let text = unsafe { stream.xor_once(source.wrapping_add(at)) };
                // SAFETY: by the same the destination has 64 bytes here.
                unsafe { text.store(packet.destination.wrapping_add(at)) };
            } else if lanes.len(lane) > 0 {
                let edge = &mut edges[usize::from(lane > 0)];
                // SAFETY: the array has 64 bytes, and there are `16 / N` parts.
                unsafe { stream.store(edge.as_mut_ptr().wrapping_add(at)) };
            }
        }
    }
    let last = lanes.rest.iter().rposition(|rest| *rest > 0).unwrap_or(0);
    for (lane, edge) in [0, last].into_iter().zip(&edges).take(1 + last.min(1)) {
        if lanes.len(lane) < BLOCK_LEN {
            finish_edge(group, lanes, lane, edge);
        }
    }
}

/// Adds the key stream to the text, whatever there is of it.
#[inline(always)]
fn finish<R: Register<N>, const N: usize>(
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    state: &mut [R; 16],
) {
    let (parts, _) = state.as_chunks_mut::<N>();
    for words in &mut *parts {
        *words = R::transpose(*words);
    }
    for lane in 0..N {
        if usize::from(lanes.rest[lane]) == BLOCK_LEN
            && let (index, Some(start)) = lanes.place(lane)
        {
            let source = lanes.text[lane].wrapping_add(start);
            let destination = group.packet(index).destination.wrapping_add(start);
            for (part, stream) in parts.iter().enumerate() {
                let at = 4 * N * part;
                // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
                let text = unsafe { stream[lane].xor_once(source.wrapping_add(at)) };
                // SAFETY: by the same the destination has 64 bytes here.
                unsafe { text.store(destination.wrapping_add(at)) };
            }
        } else {
            let mut stream = [0; BLOCK_LEN];
            for (part, words) in parts.iter().enumerate() {
                // SAFETY: `stream` has the bytes.
                unsafe { words[lane].store(stream.as_mut_ptr().wrapping_add(4 * N * part)) };
            }
            finish_edge(group, lanes, lane, &stream);
        }
    }
}

/// Keeps the one-time key if the lane is block 0, or adds the key stream to a text that is less than
/// a block or lies in pieces.
#[inline(always)]
fn finish_edge<const N: usize>(
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    lane: usize,
    stream: &[u8; BLOCK_LEN],
) {
    let stream = stream.get(..lanes.len(lane)).unwrap_or(stream);
    if stream.is_empty() {
        return;
    }
    let (index, Some(start)) = lanes.place(lane) else {
        let words = stream.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        group.put_one_time_key(usize::from(lanes.packet[lane]), |key| {
            for (to, word) in key.iter_mut().zip(words) {
                *to = word;
            }
        });
        return;
    };
    group.packet(index).add_stream(start, stream);
}

/// Adds the key stream to the text.
///
/// # Safety
///
/// `source` is valid for reads and `destination` for writes of as many bytes as `stream` has, and
/// they are the same or do not overlap.
pub(super) unsafe fn xor_part(source: *const u8, destination: *mut u8, stream: &[u8]) {
    let (words, rest) = stream.as_chunks::<8>();
    let mut done = 0;
    for word in words {
        // SAFETY: the caller's promise.
        let text = unsafe { read_once::<8>(source.wrapping_add(done)) };
        let text = (u64::from_le_bytes(text) ^ u64::from_le_bytes(*word)).to_le_bytes();
        // SAFETY: as above; an array of bytes needs no alignment.
        unsafe { destination.wrapping_add(done).cast::<[u8; 8]>().write(text) };
        done += 8;
    }
    for byte in rest {
        // SAFETY: as above.
        let [text] = unsafe { read_once::<1>(source.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { destination.wrapping_add(done).write(text ^ byte) };
        done += 1;
    }
}
