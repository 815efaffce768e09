//! Operations on 512-bit registers, as methods that need no `unsafe` where they are used.
//!
//! The methods are forced inline and carry no target feature of their own: they become part of the
//! `#[target_feature]` function that calls them. What keeps them from being called elsewhere is
//! that a first value of the type can be made only with a proof that the features may be used.
#![allow(unsafe_code)] // Intrinsics called outside a `#[target_feature]` function.

use core::arch::x86_64::*;
use core::ops::Range;

use super::deal::{Lanes, Put};
use super::edge512;
use super::group::Packet;
use super::lanes::Text;
use super::rows::{Row, Stream};
use super::tier::{Avx512, Ifma};

/// Sixteen 32-bit or eight 64-bit lanes.
///
/// # Invariants
///
/// A value exists only while a proof of AVX-512 F, BW, VL and DQ does.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct V512(pub(super) __m512i);

/// Declares methods of [`V512`] that are one intrinsic each.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $(<$($count:ident),+>)? ($($other:ident),*) = $intrinsic:ident;)*) => {
        impl V512 {
            $($(#[$doc])*
            #[inline(always)]
            pub(super) fn $name $(<$(const $count: i32),+>)? (self $(, $other: Self)*) -> Self {
                // SAFETY: by the type invariant the features of the intrinsic may be used.
                Self(unsafe { $intrinsic $(::<$($count),+>)? (self.0 $(, $other.0)*) })
            })*
        }
    };
}

operations! {
    /// Sum of 32-bit lanes.
    add32(other) = _mm512_add_epi32;
    /// Sum of 64-bit lanes.
    add64(other) = _mm512_add_epi64;
    /// Bitwise difference.
    xor(other) = _mm512_xor_si512;
    /// Bitwise and.
    and(other) = _mm512_and_si512;
    /// Bitwise or.
    or(other) = _mm512_or_si512;
    /// Low 32-bit lanes of each 128 bits, interleaved.
    low32(other) = _mm512_unpacklo_epi32;
    /// High 32-bit lanes of each 128 bits, interleaved.
    high32(other) = _mm512_unpackhi_epi32;
    /// Low 64-bit lanes of each 128 bits, interleaved.
    low64(other) = _mm512_unpacklo_epi64;
    /// High 64-bit lanes of each 128 bits, interleaved.
    high64(other) = _mm512_unpackhi_epi64;
}

impl V512 {
    /// All zero.
    #[inline(always)]
    pub(super) fn zero(_: Avx512<'_>) -> Self {
        // SAFETY: the argument is the proof.
        Self(unsafe { _mm512_setzero_si512() })
    }

    /// The same 32 bits in each lane.
    #[inline(always)]
    pub(super) fn splat32(_: Avx512<'_>, lane: u32) -> Self {
        // SAFETY: the argument is the proof.
        Self(unsafe { _mm512_set1_epi32(lane.cast_signed()) })
    }

    /// The same 64 bits in each lane.
    #[inline(always)]
    pub(super) fn splat64(_: Avx512<'_>, lane: u64) -> Self {
        // SAFETY: the argument is the proof.
        Self(unsafe { _mm512_set1_epi64(lane.cast_signed()) })
    }

    /// These sixteen lanes.
    #[inline(always)]
    pub(super) fn load32(_: Avx512<'_>, lanes: &[u32; 16]) -> Self {
        // SAFETY: the first argument is the proof, the second has 64 bytes; no alignment needed.
        Self(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) })
    }

    /// These eight lanes.
    #[inline(always)]
    pub(super) fn load64(_: Avx512<'_>, lanes: &[u64; 8]) -> Self {
        // SAFETY: the first argument is the proof, the second has 64 bytes; no alignment needed.
        Self(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) })
    }

    /// These sixteen lanes, widened.
    #[inline(always)]
    pub(super) fn widen8(_: Avx512<'_>, lanes: &[u8; 16]) -> Self {
        // SAFETY: the argument has 16 bytes; no alignment needed. SSE2 is the baseline.
        let lanes = unsafe { _mm_loadu_si128(lanes.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm512_cvtepu8_epi32(lanes) })
    }

    /// These sixteen lanes, widened.
    #[inline(always)]
    pub(super) fn widen16(_: Avx512<'_>, lanes: &[u16; 16]) -> Self {
        // SAFETY: the first argument is the proof, the second has 32 bytes; no alignment needed.
        let lanes = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm512_cvtepu16_epi32(lanes) })
    }

    /// Stores the eight 64-bit lanes.
    #[inline(always)]
    pub(super) fn store64(self, lanes: &mut [u64; 8]) {
        // SAFETY: the type invariant; the argument has 64 bytes; no alignment needed.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), self.0) };
    }

    /// Stores the sixteen 32-bit lanes.
    #[inline(always)]
    pub(super) fn store32(self, lanes: &mut [u32; 16]) {
        // SAFETY: the type invariant; the argument has 64 bytes; no alignment needed.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), self.0) };
    }

    /// The 64 bytes from `place`.
    ///
    /// # Safety
    ///
    /// `place` is valid for reads of 64 bytes, which do not change meanwhile.
    #[inline(always)]
    pub(super) unsafe fn load(_: Avx512<'_>, place: *const u8) -> Self {
        // SAFETY: the first argument is the proof; the caller promises the bytes.
        Self(unsafe { _mm512_loadu_si512(place.cast()) })
    }

    /// The bytes of `mask` from `place`, zero elsewhere.
    ///
    /// # Safety
    ///
    /// `place` is valid for reads of the bytes of `mask`, which do not change meanwhile.
    #[inline(always)]
    pub(super) unsafe fn load_part(_: Avx512<'_>, place: *const u8, mask: u64) -> Self {
        // SAFETY: the first argument is the proof; the caller promises the bytes; others are not
        // touched.
        Self(unsafe { _mm512_maskz_loadu_epi8(mask, place.cast()) })
    }

    /// Adds the block of key stream to the `len` bytes of the packet's text from `start` on, which need
    /// not be 64 and may lie in pieces.
    ///
    /// # Safety
    ///
    /// The packet's text has these bytes, `len` is 1 to 64.
    #[inline(always)]
    pub(super) unsafe fn add_to_edge(self, packet: &Packet, start: usize, len: usize) {
        // SAFETY: the type invariant; the caller's promise.
        unsafe { edge512::add_stream(self.0, packet, start, len) };
    }

    /// The packet's text from `start` on as bytes `part`, zero elsewhere.
    ///
    /// # Safety
    ///
    /// The packet's text has so many bytes, at least one, and they do not change; `part` ends by 64.
    #[inline(always)]
    pub(super) unsafe fn text(
        proof: Avx512<'_>,
        packet: &Packet,
        start: usize,
        part: Range<usize>,
    ) -> Self {
        // SAFETY: the first argument is the proof; the caller's promise.
        Self(unsafe { edge512::text(Self::zero(proof).0, packet, start, part) })
    }

    /// Stores the lower four 64-bit lanes.
    #[inline(always)]
    pub(super) fn store_low_half(self, lanes: &mut [u64; 4]) {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        let low = unsafe { _mm512_castsi512_si256(self.0) };
        // SAFETY: the argument has 32 bytes; no alignment needed.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), low) };
    }

    /// The lower four 64-bit lanes; the upper four are zero.
    #[inline(always)]
    pub(super) fn low_half(_: Avx512<'_>, lanes: &[u64; 4]) -> Self {
        // SAFETY: the first argument is the proof, the second has 32 bytes; no alignment needed.
        let low = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm512_zextsi256_si512(low) })
    }

    /// The lower 32 bytes are `low`, the upper 32 `high`.
    #[inline(always)]
    pub(super) fn halves(_: Avx512<'_>, low: &[u32; 8], high: &[u32; 8]) -> Self {
        // SAFETY: the first argument is the proof, the second has 32 bytes; no alignment needed.
        let lower = unsafe { _mm256_loadu_si256(low.as_ptr().cast()) };
        // SAFETY: as above, of the third.
        let upper = unsafe { _mm256_loadu_si256(high.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        let lower = unsafe { _mm512_zextsi256_si512(lower) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm512_inserti64x4::<1>(lower, upper) })
    }

    /// Lane `i` is lane `index[i]` of `self`, by 32-bit lanes.
    #[inline(always)]
    pub(super) fn pick32(self, index: Self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_permutexvar_epi32(index.0, self.0) })
    }

    /// Lane `i` is lane `index[i]` of `self` and `other`, one behind the other, by 64-bit lanes.
    #[inline(always)]
    pub(super) fn pick64(self, index: Self, other: Self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_permutex2var_epi64(self.0, index.0, other.0) })
    }

    /// 32-bit lanes rotated left.
    #[inline(always)]
    pub(super) fn rotate32<const N: i32>(self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_rol_epi32::<N>(self.0) })
    }

    /// 32-bit lanes of each 128 bits in the order of `N`.
    #[inline(always)]
    pub(super) fn turn32<const N: i32>(self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_shuffle_epi32::<N>(self.0) })
    }

    /// 64-bit lanes shifted left.
    #[inline(always)]
    pub(super) fn left64<const N: u32>(self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_slli_epi64::<N>(self.0) })
    }

    /// 64-bit lanes shifted right.
    #[inline(always)]
    pub(super) fn right64<const N: u32>(self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_srli_epi64::<N>(self.0) })
    }

    /// Two 128-bit lanes of `self`, then two of `other`, chosen by `N`.
    #[inline(always)]
    pub(super) fn quarters<const N: i32>(self, other: Self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_shuffle_i32x4::<N>(self.0, other.0) })
    }

    /// Bits 44 to 107 of the 128-bit numbers `high:self`.
    #[inline(always)]
    pub(super) fn middle44(self, _: Ifma<'_>, high: Self) -> Self {
        // SAFETY: the second argument is the proof of VBMI2.
        Self(unsafe { _mm512_shrdi_epi64::<44>(self.0, high.0) })
    }

    /// `self` plus the low 52 bits of the product of the low 52 bits of `a` and `b`.
    #[inline(always)]
    pub(super) fn add_low52(self, _: Ifma<'_>, a: Self, b: Self) -> Self {
        // SAFETY: the second argument is the proof of IFMA.
        Self(unsafe { _mm512_madd52lo_epu64(self.0, a.0, b.0) })
    }

    /// `self` plus the high 52 bits of the product of the low 52 bits of `a` and `b`.
    #[inline(always)]
    pub(super) fn add_high52(self, _: Ifma<'_>, a: Self, b: Self) -> Self {
        // SAFETY: the second argument is the proof of IFMA.
        Self(unsafe { _mm512_madd52hi_epu64(self.0, a.0, b.0) })
    }

    /// 64-bit lanes of `self` where `mask` has a bit, zero elsewhere.
    #[inline(always)]
    pub(super) fn only64(self, mask: u8) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_maskz_mov_epi64(mask, self.0) })
    }

    /// 64-bit lanes of `other` where `mask` has a bit, of `self` elsewhere.
    #[inline(always)]
    pub(super) fn blend64(self, mask: u8, other: Self) -> Self {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        Self(unsafe { _mm512_mask_blend_epi64(mask, self.0, other.0) })
    }

    /// The top bit of each 64-bit lane.
    #[inline(always)]
    pub(super) fn signs64(self) -> u8 {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        unsafe { _mm512_movepi64_mask(self.0) }
    }

    /// Which 64-bit lanes are below those of `other`, unsigned.
    #[inline(always)]
    pub(super) fn below64(self, other: Self) -> u8 {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        unsafe { _mm512_cmplt_epu64_mask(self.0, other.0) }
    }

    /// Sum of the eight 64-bit lanes.
    #[inline(always)]
    pub(super) fn sum64(self) -> u64 {
        // SAFETY: by the type invariant the features of the intrinsic may be used.
        unsafe { _mm512_reduce_add_epi64(self.0) }.cast_unsigned()
    }
}

impl Put<32> for Avx512<'_> {
    #[inline(always)]
    fn blocks(
        self,
        lanes: &mut Lanes<32>,
        into: Range<usize>,
        (packet, block, text): (u8, u16, *const u8),
    ) {
        if into.len() <= 2 {
            // Stores to both are then faster than those under a mask to all.
            for lane in [into.start, into.end.wrapping_sub(1)] {
                lanes.packet[lane % 32] = packet;
                lanes.rest[lane % 32] = 64;
                lanes.block[lane % 32] = block.wrapping_add(lane.wrapping_sub(into.start) as u16);
                lanes.text[lane % 32] = text;
            }
            return;
        }
        let (mask, zero) = (mask(&into), block.wrapping_sub(into.start as u16));
        // SAFETY: `self` is the proof.
        unsafe { put8(&mut lanes.packet, mask, packet) };
        // SAFETY: as above.
        unsafe { put8(&mut lanes.rest, mask, 64) };
        // SAFETY: as above.
        unsafe { count16(&mut lanes.block, mask, zero) };
        // SAFETY: as above.
        unsafe { put64(&mut lanes.text, mask, text) };
    }
    #[inline(always)]
    fn text(self, lanes: &mut Lanes<32>, into: Range<usize>, text: *const u8) {
        if into.len() <= 2 {
            for lane in [into.start, into.end.wrapping_sub(1)] {
                lanes.text[lane % 32] = text;
            }
            return;
        }
        // SAFETY: `self` is the proof.
        unsafe { put64(&mut lanes.text, mask(&into), text) };
    }
}

/// Bits for these lanes of thirty-two.
#[inline(always)]
fn mask(lanes: &Range<usize>) -> u32 {
    let below = |end: usize| u64::MAX.unbounded_shr(64 - end as u32) as u32;
    below(lanes.end) & !below(lanes.start)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn put8(lanes: &mut [u8; 32], mask: u32, value: u8) {
    let value = _mm256_set1_epi8(value.cast_signed());
    // SAFETY: the array has 32 bytes; no alignment needed.
    unsafe { _mm256_mask_storeu_epi8(lanes.as_mut_ptr().cast(), mask, value) };
}

/// Lane `i` becomes `zero + i`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn count16(lanes: &mut [u16; 32], mask: u32, zero: u16) {
    let counts: [u16; 32] = core::array::from_fn(|lane| lane as u16);
    // SAFETY: the array has 64 bytes; no alignment needed.
    let counts = unsafe { _mm512_loadu_si512(counts.as_ptr().cast()) };
    let counts = _mm512_add_epi16(counts, _mm512_set1_epi16(zero.cast_signed()));
    // SAFETY: the array has 64 bytes; no alignment needed.
    unsafe { _mm512_mask_storeu_epi16(lanes.as_mut_ptr().cast(), mask, counts) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn put64(lanes: &mut [*const u8; 32], mask: u32, value: *const u8) {
    let value = _mm512_set1_epi64(value.expose_provenance() as i64);
    for (part, lanes) in lanes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mask = (mask >> (8 * part)) as u8;
        // SAFETY: the part has 64 bytes; no alignment needed.
        unsafe { _mm512_mask_storeu_epi64(lanes.as_mut_ptr().cast(), mask, value) };
    }
}

impl Text for V512 {
    #[inline(always)]
    unsafe fn xor_once(self, place: *const u8) -> Self {
        // SAFETY: the type invariant; the caller promises the bytes.
        Self(unsafe { xor_once(self.0, place) })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut u8) {
        // SAFETY: the type invariant; the caller promises the bytes.
        unsafe { _mm512_storeu_si512(place.cast(), self.0) };
    }
}

impl Row for V512 {
    type Proof<'s> = Avx512<'s>;
    const BLOCKS: usize = 4;

    #[inline(always)]
    fn splat(_: Avx512<'_>, row: [u32; 4]) -> Self {
        // SAFETY: the array has 16 bytes; no alignment needed. SSE2 is the baseline.
        let row = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm512_broadcast_i32x4(row) })
    }

    #[inline(always)]
    fn counts(proof: Avx512<'_>) -> Self {
        Self::load32(proof, &[0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add32(other)
    }

    #[inline(always)]
    fn quarter_round(rows: &mut [Self; 4]) {
        let [mut a, mut b, mut c, mut d] = *rows;
        a = a.add32(b);
        d = d.xor(a).rotate32::<16>();
        c = c.add32(d);
        b = b.xor(c).rotate32::<12>();
        a = a.add32(b);
        d = d.xor(a).rotate32::<8>();
        c = c.add32(d);
        b = b.xor(c).rotate32::<7>();
        *rows = [a, b, c, d];
    }

    #[inline(always)]
    fn diagonal(rows: &mut [Self; 4], back: bool) {
        let [a, _, c, d] = rows;
        (*a, *c, *d) = if back {
            (a.turn32::<0x39>(), c.turn32::<0x93>(), d.turn32::<0x4e>())
        } else {
            (a.turn32::<0x93>(), c.turn32::<0x39>(), d.turn32::<0x4e>())
        };
    }

    #[inline(always)]
    fn blocks([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        let (ab, cd) = (a.quarters::<0x44>(b), c.quarters::<0x44>(d));
        let (upper_ab, upper_cd) = (a.quarters::<0xee>(b), c.quarters::<0xee>(d));
        [
            ab.quarters::<0x88>(cd),
            ab.quarters::<0xdd>(cd),
            upper_ab.quarters::<0x88>(upper_cd),
            upper_ab.quarters::<0xdd>(upper_cd),
        ]
    }

    #[inline(always)]
    fn load(proof: Avx512<'_>, stream: &Stream, at: usize) -> Self {
        match stream.bytes.get(at..at + 64) {
            // SAFETY: the slice has 64 bytes, and they are ours.
            Some(bytes) => unsafe { Self::load(proof, bytes.as_ptr()) },
            None => Self::zero(proof),
        }
    }

    #[inline(always)]
    fn keep(self, stream: &mut Stream, at: usize) {
        if let Some(bytes) = stream.bytes.get_mut(at..at + 64) {
            // SAFETY: the slice has 64 bytes, and they are ours.
            unsafe { self.store(bytes.as_mut_ptr()) };
        }
    }
}

/// `with` plus, bit by bit, the 64 bytes from `place`.
///
/// # Safety
///
/// `place` is valid for reads of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn xor_once(with: __m512i, place: *const u8) -> __m512i {
    let out: __m512i;
    // SAFETY: the caller's promise. Assembly, so that the compiler can neither repeat nor split a
    // read of memory that may change.
    unsafe {
        core::arch::asm!(
            "vpxorq {out}, {with}, [{place}]",
            out = lateout(zmm_reg) out, with = in(zmm_reg) with, place = in(reg) place,
            options(readonly, nostack, preserves_flags),
        );
    }
    out
}
