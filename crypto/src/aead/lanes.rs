//! ChaCha20 with one register of each state word: four or eight lanes at a time.
//!
//! Written once for every width below 512 bits. The functions are forced inline and so take the
//! target features of the tier that calls them.
#![allow(unsafe_code)] // Lanes are read and written through raw places.

use super::chacha::{BLOCK_LEN, CONSTANTS};
use super::deal::{Blocks, Dealer, Lanes};
use super::group::{GROUP, Group};
use super::piece::read_once;

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
    /// The twenty rounds.
    fn rounds(state: &mut [Self; 16]);
    /// Sixteen words of `N` blocks become `N` blocks of `16 / N` registers.
    fn transpose(words: &[Self; 16]) -> [Self; 16];
}

/// Adds the key stream to the blocks of each packet's text, and derives one-time keys.
#[inline(always)]
pub(super) fn crypt<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &mut Group<'_, '_>,
    blocks: Blocks,
) {
    let one_key = group.one_key();
    let mut lanes = Lanes::<N>::IDLE;
    let mut dealer = Dealer::new(blocks);
    while dealer.deal(group, &mut lanes) > 0 {
        let start = start::<R, N>(proof, group, &lanes, one_key);
        let mut state = start;
        R::rounds(&mut state);
        for (word, start) in state.iter_mut().zip(start) {
            *word = word.add(start);
        }
        finish::<R, N>(group, &lanes, &R::transpose(&state));
    }
}

/// The state of all lanes before the rounds.
#[inline(always)]
fn start<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &Group<'_, '_>,
    lanes: &Lanes<N>,
    one_key: bool,
) -> [R; 16] {
    let mut state = [R::splat(proof, 0); 16];
    for (word, constant) in state.iter_mut().zip(CONSTANTS) {
        *word = R::splat(proof, constant);
    }
    let mut keys = [&[0; 8]; N];
    let (mut counter_low, mut counter_high) = ([0; N], [0; N]);
    for lane in 0..N {
        let packet = group.packet(usize::from(lanes.packet[lane]) % GROUP);
        if let Some((key, counter)) = group.key(packet) {
            keys[lane] = key;
            counter_low[lane] = counter as u32;
            counter_high[lane] = (counter >> 32) as u32;
        }
    }
    for word in 0..8 {
        state[4 + word] = if one_key {
            R::splat(proof, keys[0][word])
        } else {
            R::load(proof, &keys.map(|key| key[word]))
        };
    }
    state[12] = R::load(proof, &lanes.block);
    state[14] = R::load(proof, &counter_low);
    state[15] = R::load(proof, &counter_high);
    state
}

/// Adds the key stream to the text.
#[inline(always)]
fn finish<R: Register<N>, const N: usize>(
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    blocks: &[R; 16],
) {
    for lane in 0..N {
        let rest = usize::from(lanes.rest[lane]);
        let (index, start) = lanes.place(lane);
        let packet = *group.packet(index);
        let start_of_text = start.unwrap_or(0);
        let source = packet.source.wrapping_add(start_of_text);
        let destination = packet.destination.wrapping_add(start_of_text);
        if rest == BLOCK_LEN {
            for part in 0..16 / N {
                let at = 4 * N * part;
                let block = blocks[lane * (16 / N) + part];
                // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
                let text = unsafe { block.xor_once(source.wrapping_add(at)) };
                // SAFETY: by the same the destination has 64 bytes here.
                unsafe { text.store(destination.wrapping_add(at)) };
            }
        } else if rest > 0 {
            let mut stream = [0; BLOCK_LEN];
            for part in 0..16 / N {
                let place = stream.as_mut_ptr().wrapping_add(4 * N * part);
                // SAFETY: `stream` has the bytes.
                unsafe { blocks[lane * (16 / N) + part].store(place) };
            }
            if start.is_none() {
                let words = stream.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
                for (to, word) in group.one_time.0[index % GROUP].iter_mut().zip(words) {
                    *to = word;
                }
                continue;
            }
            // SAFETY: by the invariants of `Lanes` and `Packet` both have `rest` bytes here.
            unsafe { xor_part(source, destination, rest, &stream) };
        }
    }
}

/// Adds the first bytes of the key stream to the text.
///
/// # Safety
///
/// `source` is valid for reads and `destination` for writes of `rest` bytes, `rest <= 64`, and they
/// are the same or do not overlap.
pub(super) unsafe fn xor_part(
    source: *const u8,
    destination: *mut u8,
    rest: usize,
    stream: &[u8; BLOCK_LEN],
) {
    let (words, _) = stream.as_chunks::<8>();
    let mut done = 0;
    for word in words.iter().take(rest / 8) {
        // SAFETY: the caller's promise: `done + 8 <= rest`.
        let text = unsafe { read_once::<8>(source.wrapping_add(done)) };
        let text = (u64::from_le_bytes(text) ^ u64::from_le_bytes(*word)).to_le_bytes();
        // SAFETY: as above; an array of bytes needs no alignment.
        unsafe { destination.wrapping_add(done).cast::<[u8; 8]>().write(text) };
        done += 8;
    }
    for byte in stream.get(done..rest).unwrap_or(&[]) {
        // SAFETY: the caller's promise: `done < rest`.
        let [text] = unsafe { read_once::<1>(source.wrapping_add(done)) };
        // SAFETY: as above.
        unsafe { destination.wrapping_add(done).write(text ^ byte) };
        done += 1;
    }
}
