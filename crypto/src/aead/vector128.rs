//! 128-bit registers with SSE2, which every x86-64 has and every kernel allows at any time.
#![allow(unsafe_code)] // Intrinsics, loads and stores.

use core::arch::x86_64::*;

use super::lanes::{Register, Text};

/// Four 32-bit lanes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct V128(__m128i);

/// Declares a binary operation that is one intrinsic.
macro_rules! interleave {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident;)*) => {
        impl V128 {
            $($(#[$doc])*
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: SSE2 is the baseline.
                Self(unsafe { $intrinsic(self.0, other.0) })
            })*
        }
    };
}

interleave! {
    /// Low 32-bit lanes, interleaved.
    low32 = _mm_unpacklo_epi32;
    /// High 32-bit lanes, interleaved.
    high32 = _mm_unpackhi_epi32;
    /// Low 64-bit lanes, interleaved.
    low64 = _mm_unpacklo_epi64;
    /// High 64-bit lanes, interleaved.
    high64 = _mm_unpackhi_epi64;
}

impl Register<4> for V128 {
    /// Nothing to prove.
    type Proof<'s> = ();

    #[inline(always)]
    fn splat((): (), lane: u32) -> Self {
        // SAFETY: SSE2 is the baseline.
        Self(unsafe { _mm_set1_epi32(lane.cast_signed()) })
    }

    #[inline(always)]
    fn load((): (), lanes: &[u32; 4]) -> Self {
        // SAFETY: the argument has 16 bytes; no alignment needed.
        Self(unsafe { _mm_loadu_si128(lanes.as_ptr().cast()) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: SSE2 is the baseline.
        Self(unsafe { _mm_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    fn rounds(state: &mut [Self; 16]) {
        // SAFETY: SSE2 is the baseline; row 0 is the first 64 bytes of `state`, aligned to 16, and
        // the other rows go in and out by value.
        unsafe { rounds_xmm!(state) };
    }

    #[inline(always)]
    fn transpose(x: &[Self; 16]) -> [Self; 16] {
        let mut out = *x;
        for row in 0..4 {
            let [a, b, c, d] = [x[4 * row], x[4 * row + 1], x[4 * row + 2], x[4 * row + 3]];
            let (ab, cd) = (a.low32(b), c.low32(d));
            out[row] = ab.low64(cd);
            out[4 + row] = ab.high64(cd);
            let (ab, cd) = (a.high32(b), c.high32(d));
            out[8 + row] = ab.low64(cd);
            out[12 + row] = ab.high64(cd);
        }
        out
    }
}

impl Text for V128 {
    #[inline(always)]
    unsafe fn xor_once(self, place: *const u8) -> Self {
        let text: __m128i;
        // SAFETY: the caller promises the bytes. Assembly, so that the compiler can neither repeat
        // nor split a read of memory that may change.
        unsafe {
            core::arch::asm!(
                "movdqu {text}, [{place}]",
                text = out(xmm_reg) text, place = in(reg) place,
                options(readonly, nostack, preserves_flags),
            );
        }
        // SAFETY: SSE2 is the baseline.
        Self(unsafe { _mm_xor_si128(self.0, text) })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut u8) {
        // SAFETY: the caller promises the bytes; no alignment needed.
        unsafe { _mm_storeu_si128(place.cast(), self.0) };
    }
}
