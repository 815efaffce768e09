//! Poly1305 in general registers, in limbs of 64, 64 and a few bits.
//!
//! The tier-independent way: four wide products a block, no vector register, no table. One chain of
//! blocks waits for itself three quarters of the time, so several packets go abreast; as a group
//! is sorted by length they mostly end together. [RFC 8439 §2.5]
#![allow(unsafe_code)] // Text is read through raw places.

use super::group::{GROUP, Group, Packet, Tag, join};
use super::poly::CLAMP;

/// The sum of one packet and its factor.
///
/// Its fields are also read by assembly, see `rounds256`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Chain {
    /// The sum so far, modulo 2^130 - 5 but for a few bits; lowest word first.
    pub(super) sum: [u64; 3],
    pub(super) r0: u64,
    pub(super) r1: u64,
    /// `r1 * 5 / 4`: what 2^128 * `r1` is, as `r1` is clamped to a multiple of 4.
    pub(super) s1: u64,
}

impl Chain {
    #[inline(always)]
    pub(super) fn new(key: &[u64; 4]) -> Self {
        let (r0, r1) = (key[0] & CLAMP[0], key[1] & CLAMP[1]);
        Self { sum: [0; 3], r0, r1, s1: r1 + (r1 >> 2) }
    }

    /// Adds a block of 16 bytes with the bit above it, and multiplies.
    #[inline(always)]
    fn take(&mut self, block: u128) {
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let [h0, h1, h2] = self.sum;
        let (sum, carry) = join(h0, h1).overflowing_add(block);
        // At most 7 before the multiplication: see the end of this function, and `rounds256`.
        let h2 = h2 + u64::from(carry) + 1;
        let (h0, h1) = (sum as u64, (sum >> 64) as u64);
        // r0 and r1 are below 2^60, so none of these sums passes 2^128.
        let d0 = wide(h0, self.r0) + wide(h1, self.s1);
        let d1 = wide(h0, self.r1) + wide(h1, self.r0) + u128::from(h2 * self.s1) + (d0 >> 64);
        let d2 = h2 * self.r0 + (d1 >> 64) as u64;
        // What is above 2^130 comes back times 5: four times and once.
        let excess = (d2 & !3) + (d2 >> 2);
        let low = u128::from(d0 as u64) | d1 << 64;
        let (low, carry) = low.overflowing_add(u128::from(excess));
        self.sum = [low as u64, (low >> 64) as u64, (d2 & 3) + u64::from(carry)];
    }

    /// Adds the blocks of a text that are whole and lie at `text`.
    ///
    /// # Safety
    ///
    /// `text` is valid for reads of `count` times 16 bytes.
    #[inline(always)]
    unsafe fn take_blocks(&mut self, mut text: *const u8, mut count: usize) {
        #[cfg(target_arch = "x86_64")]
        if count >= 2 {
            let pairs = count / 2;
            // SAFETY: so many times two blocks are read, of the `count` that the caller promises.
            unsafe { block_pairs!(self, text, pairs) };
            text = text.wrapping_add(32 * pairs);
            count %= 2;
        }
        for block in 0..count {
            // SAFETY: the text has this block.
            self.take(unsafe { load(text.wrapping_add(16 * block)) });
        }
    }

    /// Adds the block of text from `start`, also if it lies in pieces or is less than 16 bytes; returns
    /// how many it is.
    #[inline(always)]
    pub(super) fn take_parted(&mut self, packet: &Packet, start: usize) -> usize {
        let (mut block, mut done) = (0, 0);
        let count = packet.len().saturating_sub(start).min(16);
        while done < count {
            let (place, len) = packet.run(start + done);
            let len = len.min(count - done);
            // SAFETY: the run has so many bytes.
            block |= unsafe { load_part(place, len) } << (8 * done);
            done += len;
        }
        self.take(block);
        count
    }

    /// Adds the blocks of text from `done` on that lie together, at most so many, or else the one in
    /// which a piece or the text ends; returns how many bytes that is.
    #[inline(always)]
    pub(super) fn take_run(&mut self, packet: &Packet, done: usize, most: usize) -> usize {
        let (text, len) = packet.run(done);
        let count = (len / 16).min(most);
        if count == 0 {
            return self.take_parted(packet, done);
        }
        // SAFETY: the run has `len` bytes.
        unsafe { self.take_blocks(text, count) };
        16 * count
    }

    /// Adds the text from `done` on: all blocks, and the one of which there is only a part.
    #[inline(always)]
    pub(super) fn take_rest(&mut self, packet: &Packet, mut done: usize) {
        while done < packet.len() {
            done += self.take_run(packet, done, usize::MAX);
        }
    }

    /// Adds the block of lengths, and gives the tag. [RFC 8439 §2.8]
    #[inline(always)]
    pub(super) fn tag_of(&mut self, len: usize, key: &[u64; 4]) -> Tag {
        self.take((len as u128) << 64);
        self.tag(key)
    }

    /// The tag, after the last block.
    #[inline(always)]
    fn tag(&self, key: &[u64; 4]) -> Tag {
        let [h0, h1, h2] = self.sum;
        let low = join(h0, h1);
        // Plus 5 passes 2^130 exactly if the sum is not below 2^130 - 5.
        let (reduced, carry) = low.overflowing_add(5);
        let passes = (h2 + u64::from(carry)) >> 2;
        let take = 0_u128.wrapping_sub(u128::from(passes != 0));
        let number = (reduced & take) | (low & !take);
        let tag = number.wrapping_add(join(key[2], key[3]));
        [tag as u64, (tag >> 64) as u64]
    }
}

/// Computes the tag of each of these packets, for the group to keep.
#[inline(always)]
pub(super) fn authenticate(group: &mut Group<'_, '_>, packets: core::ops::Range<usize>) {
    let (mut index, count) = (packets.start, packets.end);
    while index + ABREAST <= count {
        abreast::<ABREAST>(group, index);
        index += ABREAST;
    }
    while index < count {
        abreast::<1>(group, index);
        index += 1;
    }
}

/// Packets abreast: as many chains as fill the multiplier. Measured.
const ABREAST: usize = 4;

/// The tags of `N` packets from `index`.
#[inline(always)]
fn abreast<const N: usize>(group: &mut Group<'_, '_>, index: usize) {
    let mut chains: [Chain; N] =
        core::array::from_fn(|at| Chain::new(&group.one_time.0[(index + at) % GROUP]));
    let packets: [Packet; N] = core::array::from_fn(|at| *group.packet(index + at));
    let blocks = packets.iter().map(|packet| packet.len() / 16).min().unwrap_or(0);
    let mut block = 0;
    while block < blocks {
        let runs = packets.each_ref().map(|packet| packet.run(16 * block));
        let count = runs.iter().fold(blocks - block, |count, (_, len)| count.min(len / 16));
        for at in 0..count {
            for (chain, (text, _)) in chains.iter_mut().zip(&runs) {
                // SAFETY: every run has this block.
                chain.take(unsafe { load(text.wrapping_add(16 * at)) });
            }
        }
        block += count;
        if block < blocks {
            // The next one of some packet lies in pieces.
            for (chain, packet) in chains.iter_mut().zip(&packets) {
                chain.take_parted(packet, 16 * block);
            }
            block += 1;
        }
    }
    for (at, (chain, packet)) in chains.iter_mut().zip(&packets).enumerate() {
        let index = (index + at) % GROUP;
        chain.take_rest(packet, 16 * blocks);
        let tag = chain.tag_of(packet.len(), &group.one_time.0[index]);
        group.put_tag(index, tag);
    }
}

/// The tag of one packet.
#[inline(always)]
pub(super) fn alone(packet: &Packet, key: &[u64; 4]) -> Tag {
    let mut chain = Chain::new(key);
    chain.take_rest(packet, 0);
    chain.tag_of(packet.len(), key)
}

/// The 16 bytes from `place`, lowest first.
///
/// # Safety
///
/// `place` is valid for reads of 16 bytes.
#[inline(always)]
unsafe fn load(place: *const u8) -> u128 {
    // SAFETY: the caller's promise; an array of bytes needs no alignment.
    u128::from_le_bytes(unsafe { place.cast::<[u8; 16]>().read() })
}

/// The first `count` of 16 bytes from `place`, lowest first; put together in registers, because a load
/// would wait for several stores.
///
/// # Safety
///
/// `place` is valid for reads of `count` bytes, which are at most 16.
#[inline(always)]
unsafe fn load_part(place: *const u8, count: usize) -> u128 {
    if count == 16 {
        // SAFETY: the caller's promise.
        return unsafe { load(place) };
    }
    let (mut block, mut done) = (0, 0);
    if count & 8 != 0 {
        // SAFETY: the caller's promise; an array of bytes needs no alignment.
        block = u128::from(u64::from_le_bytes(unsafe { place.cast::<[u8; 8]>().read() }));
        done = 8;
    }
    if count & 4 != 0 {
        // SAFETY: as above.
        let word = u32::from_le_bytes(unsafe { place.wrapping_add(done).cast::<[u8; 4]>().read() });
        block |= u128::from(word) << (8 * done);
        done += 4;
    }
    if count & 2 != 0 {
        // SAFETY: as above.
        let word = u16::from_le_bytes(unsafe { place.wrapping_add(done).cast::<[u8; 2]>().read() });
        block |= u128::from(word) << (8 * done);
        done += 2;
    }
    if count & 1 != 0 {
        // SAFETY: as above.
        block |= u128::from(unsafe { place.wrapping_add(done).read() }) << (8 * done);
    }
    block
}
