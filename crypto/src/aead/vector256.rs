//! 256-bit registers with AVX2.
//!
//! As in `vector512`, the methods are forced inline into functions that enable the features, and a
//! first value can be made only with the proof.
#![allow(unsafe_code)] // Intrinsics called outside a `#[target_feature]` function.

use core::arch::x86_64::*;

use super::blake2s::Word;
use super::deal::{Lanes, Position};
use super::group::Group;
use super::lanes::{Register, Rounds, Text};
use super::poly64::Chain;
use super::rows::{Row, Stream};
use super::stitch::{self, Cursor};
use super::tier::Avx2;

/// Eight 32-bit lanes.
///
/// # Invariants
///
/// A value exists only while a proof of AVX2 does.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct V256(__m256i);

/// Declares methods that are one intrinsic of two registers.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident $(::<$count:literal>)?;)*) => {
        impl V256 {
            $($(#[$doc])*
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: by the type invariant AVX2 may be used.
                Self(unsafe { $intrinsic $(::<$count>)? (self.0, other.0) })
            })*
        }
    };
}

operations! {
    /// Sum of 32-bit lanes.
    add32 = _mm256_add_epi32;
    /// Bitwise difference.
    xor = _mm256_xor_si256;
    /// Bitwise or.
    or = _mm256_or_si256;
    /// Bytes of each half in the order that the other says.
    pick8 = _mm256_shuffle_epi8;
    /// Low 32-bit lanes of each half, interleaved.
    low32 = _mm256_unpacklo_epi32;
    /// High 32-bit lanes of each half, interleaved.
    high32 = _mm256_unpackhi_epi32;
    /// Low 64-bit lanes of each half, interleaved.
    low64 = _mm256_unpacklo_epi64;
    /// High 64-bit lanes of each half, interleaved.
    high64 = _mm256_unpackhi_epi64;
    /// The low halves of both.
    low128 = _mm256_permute2x128_si256::<0x20>;
    /// The high halves of both.
    high128 = _mm256_permute2x128_si256::<0x31>;
}

impl Text for V256 {
    #[inline(always)]
    unsafe fn xor_once(self, place: *const u8) -> Self {
        // SAFETY: the type invariant; the caller promises the bytes.
        Self(unsafe { xor_once(self.0, place) })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut u8) {
        // SAFETY: the type invariant; the caller promises the bytes; no alignment needed.
        unsafe { _mm256_storeu_si256(place.cast(), self.0) };
    }
}

impl Register<8> for V256 {
    type Proof<'s> = Avx2<'s>;

    #[inline(always)]
    fn splat(_: Avx2<'_>, lane: u32) -> Self {
        // SAFETY: the argument is the proof.
        Self(unsafe { _mm256_set1_epi32(lane.cast_signed()) })
    }

    #[inline(always)]
    fn load(_: Avx2<'_>, lanes: &[u32; 8]) -> Self {
        // SAFETY: the first argument is the proof, the second has 32 bytes; no alignment needed.
        Self(unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add32(other)
    }

    #[inline(always)]
    unsafe fn rounds(state: &mut [Self; 16], count: Rounds, chain: &mut Chain, text: *const u8) {
        // SAFETY: by the type invariant AVX2 may be used; the rest is the caller's promise.
        unsafe { rounds(state, count, chain, text) }
    }

    #[inline(always)]
    fn pass(
        proof: Avx2<'_>,
        group: &mut Group<'_, '_>,
        lanes: &Lanes<8>,
        cursor: &mut Cursor,
        written: Position,
    ) {
        // SAFETY: the first argument is the proof.
        unsafe { pass(proof, group, lanes, cursor, written) };
    }

    #[inline(always)]
    fn transpose(x: [Self; 8]) -> [Self; 8] {
        let mut fours = x;
        for i in 0..2 {
            let [a, b, c, d] = [x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]];
            let (ab, cd) = (a.low32(b), c.low32(d));
            fours[4 * i] = ab.low64(cd);
            fours[4 * i + 1] = ab.high64(cd);
            let (ab, cd) = (a.high32(b), c.high32(d));
            fours[4 * i + 2] = ab.low64(cd);
            fours[4 * i + 3] = ab.high64(cd);
        }
        // `fours[4 * i + j]`: words `4 * i` to `4 * i + 3` of lane `j`, then of lane `4 + j`.
        let mut out = x;
        for j in 0..4 {
            out[j] = fours[j].low128(fours[4 + j]);
            out[4 + j] = fours[j].high128(fours[4 + j]);
        }
        out
    }
}

impl V256 {
    /// 32-bit lanes rotated left by `LEFT`, which is 32 less `RIGHT`.
    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: by the type invariant AVX2 may be used.
        let left = Self(unsafe { _mm256_slli_epi32::<LEFT>(self.0) });
        // SAFETY: by the type invariant AVX2 may be used.
        left.or(Self(unsafe { _mm256_srli_epi32::<RIGHT>(self.0) }))
    }

    /// Bytes of each four lanes in this order.
    #[inline(always)]
    fn shuffle(self, order: [u8; 16]) -> Self {
        let order = [order, order];
        // SAFETY: the array has 32 bytes; the type invariant; no alignment needed.
        self.pick8(Self(unsafe { _mm256_loadu_si256(order.as_ptr().cast()) }))
    }

    /// The lower 16 bytes.
    #[inline(always)]
    pub(super) fn low_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: by the type invariant AVX2 may be used.
        let low = unsafe { _mm256_castsi256_si128(self.0) };
        // SAFETY: the array has 16 bytes; no alignment needed. SSE2 is the baseline.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), low) };
        bytes
    }

    /// 32-bit lanes of each half in the order of `N`.
    #[inline(always)]
    fn turn32<const N: i32>(self) -> Self {
        // SAFETY: by the type invariant AVX2 may be used.
        Self(unsafe { _mm256_shuffle_epi32::<N>(self.0) })
    }
}

impl Word for V256 {
    #[inline(always)]
    fn sum(self, other: Self) -> Self {
        self.add32(other)
    }
    #[inline(always)]
    fn difference(self, other: Self) -> Self {
        self.xor(other)
    }
    #[inline(always)]
    fn right16(self) -> Self {
        self.shuffle([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13])
    }
    #[inline(always)]
    fn right12(self) -> Self {
        self.rotate::<20, 12>()
    }
    #[inline(always)]
    fn right8(self) -> Self {
        self.shuffle([1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12])
    }
    #[inline(always)]
    fn right7(self) -> Self {
        self.rotate::<25, 7>()
    }
}

impl Row for V256 {
    type Proof<'s> = Avx2<'s>;
    const BLOCKS: usize = 2;

    #[inline(always)]
    fn splat(_: Avx2<'_>, row: [u32; 4]) -> Self {
        // SAFETY: the array has 16 bytes; no alignment needed. SSE2 is the baseline.
        let row = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
        // SAFETY: the first argument is the proof.
        Self(unsafe { _mm256_broadcastsi128_si256(row) })
    }

    #[inline(always)]
    fn counts(proof: Avx2<'_>) -> Self {
        <Self as Register<8>>::load(proof, &[0, 0, 0, 0, 1, 0, 0, 0])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add32(other)
    }

    #[inline(always)]
    fn quarter_round(rows: &mut [Self; 4]) {
        let [mut a, mut b, mut c, mut d] = *rows;
        a = a.add32(b);
        d = d.xor(a).shuffle([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]);
        c = c.add32(d);
        b = b.xor(c).rotate::<12, 20>();
        a = a.add32(b);
        d = d.xor(a).shuffle([3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]);
        c = c.add32(d);
        b = b.xor(c).rotate::<7, 25>();
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
        [a.low128(b), c.low128(d), a.high128(b), c.high128(d)]
    }

    #[inline(always)]
    fn load(proof: Avx2<'_>, stream: &Stream, at: usize) -> Self {
        match stream.bytes.get(at..at + 32) {
            // SAFETY: the slice has 32 bytes; the first argument is the proof.
            Some(bytes) => Self(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }),
            None => <Self as Register<8>>::splat(proof, 0),
        }
    }

    #[inline(always)]
    fn keep(self, stream: &mut Stream, at: usize) {
        if let Some(bytes) = stream.bytes.get_mut(at..at + 32) {
            // SAFETY: the slice has 32 bytes; the type invariant.
            unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), self.0) };
        }
    }
}

/// `with` plus, bit by bit, the 32 bytes from `place`.
///
/// # Safety
///
/// `place` is valid for reads of 32 bytes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn xor_once(with: __m256i, place: *const u8) -> __m256i {
    let out: __m256i;
    // SAFETY: the caller's promise. Assembly, so that the compiler can neither repeat nor split a
    // read of memory that may change.
    unsafe {
        core::arch::asm!(
            "vpxor {out}, {with}, [{place}]",
            out = lateout(ymm_reg) out, with = in(ymm_reg) with, place = in(reg) place,
            options(readonly, nostack, preserves_flags),
        );
    }
    out
}

/// The orders of bytes that rotate 32-bit lanes, for both halves of a register.
const fn twice(order: [u8; 16]) -> [u8; 32] {
    let mut both = [0; 32];
    let mut at = 0;
    while at < 32 {
        both[at] = order[at % 16];
        at += 1;
    }
    both
}

/// Rotates left by 16.
static TURN16: [u8; 32] = twice([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]);
/// Rotates left by 8.
static TURN8: [u8; 32] = twice([3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]);

/// As [`Register::pass`].
#[target_feature(enable = "avx2,bmi2")]
#[inline(never)]
fn pass(
    proof: Avx2<'_>,
    group: &mut Group<'_, '_>,
    lanes: &Lanes<8>,
    cursor: &mut Cursor,
    written: Position,
) {
    stitch::pass::<V256, 8>(proof, group, lanes, cursor, written);
}

/// As [`Register::rounds`].
///
/// # Safety
///
/// `text` is valid for reads of `beside` times 64 bytes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn rounds(
    state: &mut [V256; 16],
    Rounds { beside, alone }: Rounds,
    chain: &mut Chain,
    text: *const u8,
) {
    // SAFETY: the features are this function's; word 3 is aligned to 32, the other words go in and
    // out by value; the factors are read where `Chain` has them, and of the text as many bytes as
    // the caller promises.
    unsafe {
        rounds_by!(half_ymm, state, beside, alone, chain, text,
            [0 "ymm0", 1 "ymm1", 2 "ymm2", 4 "ymm4", 5 "ymm5", 6 "ymm6", 7 "ymm7", 8 "ymm8",
             9 "ymm9", 10 "ymm10", 11 "ymm11", 12 "ymm12", 13 "ymm13", 14 "ymm14", 15 "ymm15"]
            "ymm3"; turn16 = sym TURN16, turn8 = sym TURN8,);
    }
}
