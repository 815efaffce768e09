//! 128-bit registers with SSE2, which every x86-64 has and every kernel allows at any time.
#![allow(unsafe_code)] // Intrinsics, loads and stores.

use core::arch::x86_64::*;

use super::deal::{Lanes, Position};
use super::group::Group;
use super::lanes::{Register, Rounds, Text};
use super::poly64::Chain;
use super::stitch::{self, Cursor};

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
    unsafe fn rounds(
        state: &mut [Self; 16],
        Rounds { beside, alone }: Rounds,
        chain: &mut Chain,
        text: *const u8,
    ) {
        // SAFETY: SSE2 is the baseline; word 3 is aligned to 16, the other words go in and out by
        // value; the factors are read where `Chain` has them, and of the text as many bytes as the
        // caller promises.
        unsafe {
            rounds_by!(half_xmm, state, beside, alone, chain, text,
                [0 "xmm0", 1 "xmm1", 2 "xmm2", 4 "xmm4", 5 "xmm5", 6 "xmm6", 7 "xmm7", 8 "xmm8",
                 9 "xmm9", 10 "xmm10", 11 "xmm11", 12 "xmm12", 13 "xmm13", 14 "xmm14", 15 "xmm15"]
                "xmm3";);
        }
    }

    #[inline(never)]
    fn pass(
        (): (),
        group: &mut Group<'_, '_>,
        lanes: &Lanes<4>,
        cursor: &mut Cursor,
        written: Position,
    ) {
        stitch::pass::<Self, 4>((), group, lanes, cursor, written);
    }

    #[inline(always)]
    fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        let (lower_ab, lower_cd) = (a.low32(b), c.low32(d));
        let (upper_ab, upper_cd) = (a.high32(b), c.high32(d));
        [
            lower_ab.low64(lower_cd),
            lower_ab.high64(lower_cd),
            upper_ab.low64(upper_cd),
            upper_ab.high64(upper_cd),
        ]
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
