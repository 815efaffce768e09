//! Poly1305 by 52-bit products (AVX-512 IFMA), in three limbs of 44, 44 and 42 bits.
//!
//! Two shapes of the same arithmetic. *Abreast*: a lane is a packet, so sixteen packets take two
//! registers and each block costs one multiplication for all of them. *Alone*: the eight lanes are
//! eight blocks of one packet, multiplied by r^8 and by r^1 to r^8 at the end; better for one or
//! two long packets. [RFC 8439 §2.5]
//!
//! Limbs are kept below 2^44 and a bit; a product's high part is shifted by 8, because 52 - 44 is,
//! and what passes 2^130 comes back times 5. The fourth factor below is `20 * r`: 5 for that, and 4
//! because 44 + 44 + 44 is 2 bits more than 130.
#![allow(unsafe_code)] // Text is read through raw places.

use core::arch::x86_64::*;
use core::ops::Range;

use super::group::{GROUP, Group, Packet, Tag};
use super::poly::{self, Schedule};
use super::tier::Ifma;
use super::vector512::V512;

const MASK44: u64 = (1 << 44) - 1;
const MASK42: u64 = (1 << 42) - 1;
/// The bit above a block of 16 bytes, in the third limb: 2^128 / 2^88.
const PAD: u64 = 1 << 40;

/// A number modulo 2^130 - 5 in each lane.
#[derive(Clone, Copy)]
struct Number([V512; 3]);

/// A factor, with what the reduction needs of it.
#[derive(Clone, Copy)]
struct Factor {
    r: [V512; 3],
    /// `20 * r[1]` and `20 * r[2]`.
    r20: [V512; 2],
}

impl Number {
    #[inline(always)]
    fn zero(proof: Ifma<'_>) -> Self {
        Self([V512::zero(proof.wide()); 3])
    }

    /// The 128-bit numbers `high:low`.
    #[inline(always)]
    fn of(proof: Ifma<'_>, low: V512, high: V512) -> Self {
        let mask = V512::splat64(proof.wide(), MASK44);
        Self([low.and(mask), low.middle44(proof, high).and(mask), high.right64::<24>()])
    }

    /// Adds a block and the bit above it, where `pad` has one.
    #[inline(always)]
    fn add_block(self, block: Self, pad: V512) -> Self {
        let [a0, a1, a2] = self.0;
        let [b0, b1, b2] = block.0;
        Self([a0.add64(b0), a1.add64(b1), a2.add64(b2.or(pad))])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let [a0, a1, a2] = self.0;
        let [b0, b1, b2] = other.0;
        Self([a0.add64(b0), a1.add64(b1), a2.add64(b2)])
    }

    /// The product, reduced so far that it may be a factor or a summand again.
    #[inline(always)]
    fn times(self, proof: Ifma<'_>, factor: &Factor) -> Self {
        let zero = V512::zero(proof.wide());
        let mask44 = V512::splat64(proof.wide(), MASK44);
        let mask42 = V512::splat64(proof.wide(), MASK42);
        let [h0, h1, h2] = self.0;
        let [r0, r1, r2] = factor.r;
        let [s1, s2] = factor.r20;
        // The third limb is ready first and the second last: this order waits least.
        let low = |a: V512, b: V512, c: V512| {
            zero.add_low52(proof, h2, a).add_low52(proof, h0, b).add_low52(proof, h1, c)
        };
        let high = |a: V512, b: V512, c: V512| {
            zero.add_high52(proof, h2, a).add_high52(proof, h0, b).add_high52(proof, h1, c)
        };
        let (d0, e0) = (low(s1, r0, s2), high(s1, r0, s2));
        let (d1, e1) = (low(s2, r1, r0), high(s2, r1, r0));
        let (d2, e2) = (low(r0, r2, r1), high(r0, r2, r1));
        let d1 = d1.add64(d0.right64::<44>().add64(e0.left64::<8>()));
        let d2 = d2.add64(d1.right64::<44>().add64(e1.left64::<8>()));
        let carry = d2.right64::<42>().add64(e2.left64::<10>());
        let o0 = d0.and(mask44).add64(carry.add64(carry.left64::<2>()));
        let o1 = d1.and(mask44).add64(o0.right64::<44>());
        Self([o0.and(mask44), o1, d2.and(mask42)])
    }

    /// Lanes of `other` where `mask` has a bit, of `self` elsewhere.
    #[inline(always)]
    fn blend(self, mask: u8, other: Self) -> Self {
        let [a0, a1, a2] = self.0;
        let [b0, b1, b2] = other.0;
        Self([a0.blend64(mask, b0), a1.blend64(mask, b1), a2.blend64(mask, b2)])
    }

    /// Carries until every limb has its own bits only.
    #[inline(always)]
    fn carried(self, proof: Ifma<'_>) -> Self {
        let mask44 = V512::splat64(proof.wide(), MASK44);
        let mask42 = V512::splat64(proof.wide(), MASK42);
        let [mut h0, mut h1, mut h2] = self.0;
        for _ in 0..2 {
            h1 = h1.add64(h0.right64::<44>());
            h2 = h2.add64(h1.right64::<44>());
            let carry = h2.right64::<42>();
            h0 = h0.and(mask44).add64(carry.add64(carry.left64::<2>()));
            (h1, h2) = (h1.and(mask44), h2.and(mask42));
        }
        h1 = h1.add64(h0.right64::<44>());
        h2 = h2.add64(h1.right64::<44>());
        Self([h0.and(mask44), h1.and(mask44), h2])
    }

    /// The number modulo 2^130 - 5, plus `s`, modulo 2^128: the tag, low and high words.
    #[inline(always)]
    fn tag(self, proof: Ifma<'_>, s: [V512; 2]) -> [V512; 2] {
        let mask44 = V512::splat64(proof.wide(), MASK44);
        let [h0, h1, h2] = self.carried(proof).0;
        let g0 = h0.add64(V512::splat64(proof.wide(), 5));
        let g1 = h1.add64(g0.right64::<44>());
        let minus = V512::splat64(proof.wide(), (1_u64 << 42).wrapping_neg());
        let g2 = h2.add64(g1.right64::<44>()).add64(minus);
        let reduced = Self([g0.and(mask44), g1.and(mask44), g2]);
        let [h0, h1, h2] = reduced.blend(g2.signs64(), Self([h0, h1, h2])).0;
        let low = h0.or(h1.left64::<44>()).add64(s[0]);
        let high = h1.right64::<20>().or(h2.left64::<24>()).add64(s[1]);
        let one = V512::splat64(proof.wide(), 1);
        [low, high.add64(one.only64(low.below64(s[0])))]
    }
}

impl Factor {
    #[inline(always)]
    fn zero(proof: Ifma<'_>) -> Self {
        let zero = V512::zero(proof.wide());
        Self { r: [zero; 3], r20: [zero; 2] }
    }

    #[inline(always)]
    fn of(number: Number) -> Self {
        let times20 = |x: V512| x.add64(x.left64::<2>()).left64::<2>();
        let [_, r1, r2] = number.0;
        Self { r: number.0, r20: [times20(r1), times20(r2)] }
    }
}

/// Computes the tag of each of these packets, for the group to keep.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
pub(super) fn authenticate(proof: Ifma<'_>, group: &mut Group<'_, '_>, packets: Range<usize>) {
    let count = packets.len();
    let lens = packets.clone().map(|index| group.packet(index).len());
    let longest = lens.max().unwrap_or(0);
    let blocks = longest.div_ceil(16) + 1;
    // Abreast costs a multiplication per block whatever the number of packets; alone costs an
    // eighth of that for each packet, and about six more to make the powers. Measured.
    let together = packets.clone().all(|index| group.packet(index).is_together());
    if together && count * (blocks / 8 + 6) < blocks + 3 {
        for index in packets {
            let tag = alone(proof, group.packet(index), &group.one_time.0[index % GROUP]);
            group.put_tag(index, tag);
        }
    } else if count > 8 {
        abreast::<2>(proof, group, packets);
    } else {
        abreast::<1>(proof, group, packets);
    }
}

/// The tags of up to `8 * G` packets, a packet in each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline(never)] // The frames of the two widths would add up.
fn abreast<const G: usize>(proof: Ifma<'_>, group: &mut Group<'_, '_>, packets: Range<usize>) {
    let mut schedule = Schedule::<GROUP, 64>::of(group, packets, 8 * G);
    let mut sums = [Number::zero(proof); G];
    let mut chunk = 0;
    while chunk < schedule.chunks {
        if schedule.full.contains(&chunk) {
            full_chunks(proof, group, &mut schedule, &mut sums);
            chunk = schedule.full.end;
        } else {
            part_chunk(proof, group, &schedule, chunk, &mut sums);
            chunk += 1;
        }
    }
    for (set, sum) in sums.iter().enumerate() {
        add_tags(proof, group, set, &schedule, sum);
    }
}

/// Adds the block of lengths, and has the group keep the tags that gives.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline(never)] // Its frame would add to that of the chunks.
fn add_tags(
    proof: Ifma<'_>,
    group: &mut Group<'_, '_>,
    set: usize,
    schedule: &Schedule<GROUP, 64>,
    sum: &Number,
) {
    let wide = proof.wide();
    let Some(lens) = schedule.len[8 * set % GROUP..].first_chunk::<8>() else { return };
    let lens = Number::of(proof, V512::zero(wide), V512::load64(wide, &lens.map(u64::from)));
    let (factor, s) = one_time_keys(proof, group, schedule.packets.start + 8 * set);
    let pad = V512::splat64(wide, PAD);
    let [low, high] = sum.add_block(lens, pad).times(proof, &factor).tag(proof, s);
    let (mut lows, mut highs) = ([0; 8], [0; 8]);
    low.store64(&mut lows);
    high.store64(&mut highs);
    let first = schedule.packets.start + 8 * set;
    for (index, (low, high)) in (first..schedule.packets.end).zip(lows.into_iter().zip(highs)) {
        group.put_tag(index, [low, high]);
    }
}

/// The clamped `r` and the `s` of eight packets from `first` on.
///
/// Made anew where it is needed: that is cheaper than the stack to keep it.
#[inline(always)]
fn one_time_keys(proof: Ifma<'_>, group: &Group<'_, '_>, first: usize) -> (Factor, [V512; 2]) {
    let mut rows = [V512::zero(proof.wide()); 8];
    for (row, key) in rows.iter_mut().zip(&group.one_time.0[first % GROUP..]) {
        *row = V512::low_half(proof.wide(), key);
    }
    let [r0, r1, s0, s1, ..] = transpose(proof, &rows);
    let clamp = |word: V512, mask| word.and(V512::splat64(proof.wide(), mask));
    let r = Number::of(proof, clamp(r0, poly::CLAMP[0]), clamp(r1, poly::CLAMP[1]));
    (Factor::of(r), [s0, s1])
}

/// The chunks of which every packet has all 64 bytes.
///
/// Even and odd blocks apart, each by r^2: two chains of multiplications instead of one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline(never)] // Its frame would add to that of the other chunks.
fn full_chunks<const G: usize>(
    proof: Ifma<'_>,
    group: &Group<'_, '_>,
    schedule: &mut Schedule<GROUP, 64>,
    sums: &mut [Number; G],
) {
    let pad = V512::splat64(proof.wide(), PAD);
    let mut odd = [Number::zero(proof); G];
    let mut squares = [Factor::zero(proof); G];
    for (set, square) in squares.iter_mut().enumerate() {
        let (factor, _) = one_time_keys(proof, group, schedule.packets.start + 8 * set);
        *square = Factor::of(Number(factor.r).times(proof, &factor));
    }
    let Range { start: mut chunk, end } = schedule.full;
    let mut parted = chunk;
    while chunk < end {
        if chunk >= parted {
            parted = schedule.find_runs(group, chunk);
        }
        for (set, ((sum, odd), square)) in sums.iter_mut().zip(&mut odd).zip(&squares).enumerate() {
            let words = full_chunk(proof, group, schedule, set, chunk);
            for pair in 0..2 {
                let first = block(proof, &words, 2 * pair);
                let second = block(proof, &words, 2 * pair + 1);
                *sum = sum.add_block(first, pad).times(proof, square);
                *odd = odd.times(proof, square).add_block(second, pad);
            }
        }
        chunk += 1;
    }
    for (set, (sum, odd)) in sums.iter_mut().zip(odd).enumerate() {
        let (factor, _) = one_time_keys(proof, group, schedule.packets.start + 8 * set);
        *sum = sum.add(odd.times(proof, &factor));
    }
}

/// The eight words of one full chunk of eight packets.
#[inline(always)]
fn full_chunk(
    proof: Ifma<'_>,
    group: &Group<'_, '_>,
    schedule: &Schedule<GROUP, 64>,
    set: usize,
    chunk: usize,
) -> [V512; 8] {
    let mut rows = [V512::zero(proof.wide()); 8];
    if schedule.parted == 0 {
        for (lane, row) in rows.iter_mut().enumerate() {
            // SAFETY: the chunk is full: all packets have these 64 bytes, together there.
            *row = unsafe { V512::load(proof.wide(), schedule.place(8 * set + lane, chunk)) };
        }
    } else {
        for (lane, row) in (8 * set..).zip(&mut rows) {
            *row = if schedule.parted >> lane & 1 == 1 {
                let (packet, start) = (schedule.packet(group, lane), schedule.start(lane, chunk));
                // SAFETY: the chunk is full: the packet has 64 bytes from here.
                unsafe { V512::text(proof.wide(), packet, start, 0..64) }
            } else {
                // SAFETY: as above, and they are together there.
                unsafe { V512::load(proof.wide(), schedule.place(lane, chunk)) }
            };
        }
    }
    transpose(proof, &rows)
}

/// One chunk that some packets have only a part of, or nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline(never)] // As above.
fn part_chunk<const G: usize>(
    proof: Ifma<'_>,
    group: &Group<'_, '_>,
    schedule: &Schedule<GROUP, 64>,
    chunk: usize,
    sums: &mut [Number; G],
) {
    let pad = V512::splat64(proof.wide(), PAD);
    for (set, sum) in sums.iter_mut().enumerate() {
        let mut rows = [V512::zero(proof.wide()); 8];
        let mut started = [0_u8; 4];
        for (lane, row) in rows.iter_mut().enumerate() {
            let (skip, end) = schedule.part(8 * set + lane, chunk);
            let mask = _bzhi_u64(u64::MAX, end) & !_bzhi_u64(u64::MAX, skip);
            if mask != 0 && schedule.is_in_pieces(8 * set + lane) {
                let start = schedule.start(8 * set + lane, chunk);
                let part = skip as usize..end as usize;
                let packet = schedule.packet(group, 8 * set + lane);
                // SAFETY: the packet has the part.
                *row = unsafe { V512::text(proof.wide(), packet, start, part) };
            } else if mask != 0 {
                let place = schedule.place(8 * set + lane, chunk);
                // SAFETY: the packet has the bytes of the mask.
                *row = unsafe { V512::load_part(proof.wide(), place, mask) };
            }
            for (block, started) in started.iter_mut().enumerate() {
                *started |= u8::from(block as u32 >= skip / 16) << lane;
            }
        }
        let (factor, _) = one_time_keys(proof, group, schedule.packets.start + 8 * set);
        let words = transpose(proof, &rows);
        for (at, started) in started.into_iter().enumerate() {
            let added = sum.add_block(block(proof, &words, at), pad.only64(started));
            *sum = added.times(proof, &factor);
        }
    }
}

/// Block `at` of eight packets, of the four that the words are.
#[inline(always)]
fn block(proof: Ifma<'_>, words: &[V512; 8], at: usize) -> Number {
    Number::of(proof, words[2 * at], words[2 * at + 1])
}

/// Eight rows of eight words become eight words of eight rows.
#[inline(always)]
fn transpose(proof: Ifma<'_>, x: &[V512; 8]) -> [V512; 8] {
    let zero = V512::zero(proof.wide());
    let mut out = [zero; 8];
    for half in 0..2 {
        let mut pairs = [zero; 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (a, b) = (x[2 * i], x[2 * i + 1]);
            *pair = if half == 0 { a.low64(b) } else { a.high64(b) };
        }
        let a = pairs[0].quarters::<0x88>(pairs[1]);
        let b = pairs[0].quarters::<0xdd>(pairs[1]);
        let c = pairs[2].quarters::<0x88>(pairs[3]);
        let d = pairs[2].quarters::<0xdd>(pairs[3]);
        out[half] = a.quarters::<0x88>(c);
        out[4 + half] = a.quarters::<0xdd>(c);
        out[2 + half] = b.quarters::<0x88>(d);
        out[6 + half] = b.quarters::<0xdd>(d);
    }
    out
}

/// The tag of one packet that is together, eight of its blocks at a time.
///
/// A step is 128 bytes: two loads, whose halves interleaved are blocks 0, 4, 1, 5, 2, 6, 3 and 7.
/// The last step ends with the block of lengths, so the first may start before the packet does.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline(never)]
pub(super) fn alone(proof: Ifma<'_>, packet: &Packet, key: &[u64; 4]) -> Tag {
    let wide = proof.wide();
    let splat = |word: u64| V512::splat64(wide, word);
    let r1 = Number::of(proof, splat(key[0] & poly::CLAMP[0]), splat(key[1] & poly::CLAMP[1]));
    let (r8, powers) = powers(proof, r1);
    let total = packet.len().div_ceil(16) + 1;
    let steps = total.div_ceil(8);
    let lead = 16 * (8 * steps - total);
    let lens = splat(packet.len() as u64).only64(1 << 7);
    let mut sum = Number::zero(proof);
    for step in 0..steps {
        let (low, mut high, pad) = step_words(proof, packet, lead, step);
        if step + 1 == steps {
            high = high.or(lens);
        }
        sum = sum.add_block(Number::of(proof, low, high), pad);
        if step + 1 < steps {
            sum = sum.times(proof, &r8);
        }
    }
    let [h0, h1, h2] = sum.times(proof, &powers).0;
    poly::finish44([h0.sum64(), h1.sum64(), h2.sum64()], key)
}

/// The eight blocks of a step: low words, high words, and the bits above those there are.
#[inline(always)]
fn step_words(proof: Ifma<'_>, packet: &Packet, lead: usize, step: usize) -> (V512, V512, V512) {
    let wide = proof.wide();
    let pad = V512::splat64(wide, PAD);
    let start = 128 * step;
    let place = packet.source.wrapping_add(start).wrapping_sub(lead);
    if start >= lead && start - lead + 128 <= packet.len() {
        // SAFETY: the packet has the 128 bytes from here.
        let first = unsafe { V512::load(wide, place) };
        // SAFETY: as above.
        let second = unsafe { V512::load(wide, place.wrapping_add(64)) };
        return (first.low64(second), first.high64(second), pad);
    }
    let skip = lead.saturating_sub(start).min(128) as u32;
    let end = (packet.len() + lead).saturating_sub(start).min(128) as u32;
    let mask = poly::bytes(end) & !poly::bytes(skip);
    // SAFETY: the packet has the bytes of the mask.
    let first = unsafe { V512::load_part(wide, place, mask as u64) };
    // SAFETY: as above.
    let second = unsafe { V512::load_part(wide, place.wrapping_add(64), (mask >> 64) as u64) };
    let started = 0xff_u8.checked_shl(skip / 16).unwrap_or(0);
    // Blocks 0 to 3 are the even lanes, 4 to 7 the odd ones.
    let lanes = [0, 2, 4, 6, 1, 3, 5, 7];
    let pads = (0..8).fold(0, |pads, block| pads | (started >> block & 1) << lanes[block]);
    (first.low64(second), first.high64(second), pad.only64(pads))
}

/// r^8, and for each lane the power that its block needs: 8, 4, 7, 3, 6, 2, 5 and 1.
#[inline(always)]
fn powers(proof: Ifma<'_>, r1: Number) -> (Factor, Factor) {
    let by1 = Factor::of(r1);
    let r2 = r1.times(proof, &by1);
    let by2 = Factor::of(r2);
    let r4 = r2.times(proof, &by2);
    let by4 = Factor::of(r4);
    let r8 = r4.times(proof, &by4);
    // Lanes 2, 3, 6 and 7 are odd powers; the upper four are two below the lower four; the even
    // lanes are four above the odd ones.
    let one_two = r2.blend(0b1100_1100, r1);
    let three_four = one_two.times(proof, &by2);
    let one_to_four = three_four.blend(0b1111_0000, one_two);
    let five_to_eight = one_to_four.times(proof, &by4);
    let each = five_to_eight.blend(0b1010_1010, one_to_four);
    (Factor::of(r8), Factor::of(each))
}
