//! 256-bit registers with AVX2.
//!
//! As in `vector512`, the methods are forced inline into functions that enable the features, and a
//! first value can be made only with the proof.
#![allow(unsafe_code)] // Intrinsics called outside a `#[target_feature]` function.

use core::arch::x86_64::*;

use super::lanes::Register;
use super::tier::Avx2;

/// Eight 32-bit lanes.
///
/// # Invariants
///
/// A value exists only while a proof of AVX2 does.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct V256<'s>(__m256i, core::marker::PhantomData<Avx2<'s>>);

/// Declares methods that are one intrinsic of two registers.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident $(::<$count:literal>)?;)*) => {
        impl V256<'_> {
            $($(#[$doc])*
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: by the type invariant AVX2 may be used.
                self.with(unsafe { $intrinsic $(::<$count>)? (self.0, other.0) })
            })*
        }
    };
}

operations! {
    /// Sum of 32-bit lanes.
    add32 = _mm256_add_epi32;
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

impl V256<'_> {
    /// Another value under the same proof.
    #[inline(always)]
    fn with(self, value: __m256i) -> Self {
        Self(value, self.1)
    }
}

impl<'s> Register<8> for V256<'s> {
    type Proof = Avx2<'s>;

    #[inline(always)]
    fn splat(_: Avx2<'s>, lane: u32) -> Self {
        // SAFETY: the argument is the proof.
        Self(unsafe { _mm256_set1_epi32(lane.cast_signed()) }, core::marker::PhantomData)
    }

    #[inline(always)]
    fn load(_: Avx2<'s>, lanes: &[u32; 8]) -> Self {
        // SAFETY: the first argument is the proof, the second has 32 bytes; no alignment needed.
        Self(unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }, core::marker::PhantomData)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add32(other)
    }

    #[inline(always)]
    fn rounds(state: &mut [Self; 16]) {
        // SAFETY: by the type invariant AVX2 may be used.
        unsafe { rounds(state) };
    }

    #[inline(always)]
    fn transpose(x: &[Self; 16]) -> [Self; 16] {
        let mut out = *x;
        for half in 0..2 {
            let mut fours = [x[0]; 8];
            for i in 0..2 {
                let at = 8 * half + 4 * i;
                let [a, b, c, d] = [x[at], x[at + 1], x[at + 2], x[at + 3]];
                let (ab, cd) = (a.low32(b), c.low32(d));
                fours[4 * i] = ab.low64(cd);
                fours[4 * i + 1] = ab.high64(cd);
                let (ab, cd) = (a.high32(b), c.high32(d));
                fours[4 * i + 2] = ab.low64(cd);
                fours[4 * i + 3] = ab.high64(cd);
            }
            // `fours[4 * i + j]`: four words of block `j`, then of block `4 + j`.
            for j in 0..4 {
                out[2 * j + half] = fours[j].low128(fours[4 + j]);
                out[2 * (4 + j) + half] = fours[j].high128(fours[4 + j]);
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn xor_once(self, place: *const u8) -> Self {
        // SAFETY: the type invariant; the caller promises the bytes.
        self.with(unsafe { xor_once(self.0, place) })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut u8) {
        // SAFETY: the type invariant; the caller promises the bytes; no alignment needed.
        unsafe { _mm256_storeu_si256(place.cast(), self.0) };
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

/// The twenty rounds.
#[target_feature(enable = "avx2")]
#[inline]
fn rounds(state: &mut [V256<'_>; 16]) {
    let order = |bytes: [u8; 16]| {
        let low = u128::from_le_bytes(bytes);
        let (low, high) = ((low as u64).cast_signed(), ((low >> 64) as u64).cast_signed());
        _mm256_setr_epi64x(low, high, low, high)
    };
    let turn16 = order([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13]);
    let turn8 = order([3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]);
    // SAFETY: the features are this function's; row 0 is the first 128 bytes of `state`, aligned to
    // 32, and the other rows go in and out by value.
    unsafe { rounds_ymm!(state, turn16, turn8) };
}
