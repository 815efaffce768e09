//! Wipes registers and stack that may still hold keys or what was derived from them.
//!
//! The state that a kernel restores afterwards is somebody else's, but until then ours would be
//! readable to whoever saves it, and a dump would keep it; a kernel stack is never zeroed.
//!
//! One mechanism for all: keys in other shapes, one-time keys, key stream and whatever the compiler
//! spilled lie in frames below [`batch::seal`](super::batch::seal) or `open`, and when those frames
//! are gone the place where they were is zeroed. The only other copies are the callers' [`Key`]s.
//!
//! [`Key`]: super::Key
#![allow(unsafe_code)] // Registers are cleared in assembly.

#[cfg(target_arch = "x86_64")]
use super::tier::{Avx2, Avx512};

/// How much stack a call may have used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Packets went alone.
    Shallow,
    /// A group went through the lanes.
    Deep,
}

/// What a packet that goes alone uses at most; a test finds out that it is enough.
pub(super) const SHALLOW: usize = 2304;
/// What a group uses at most; a test finds out that it is enough.
pub(super) const DEEP: usize = 3936;

/// Declares a function that zeroes `LEN` bytes of stack below its caller.
///
/// What the compiler spilled there has no name, so it cannot be wiped where it is used. Assembly,
/// because stores that nobody reads would be left out.
#[cfg(target_arch = "x86_64")]
macro_rules! stack {
    ($name:ident, $features:literal, $zero:literal, $store:literal, $width:literal) => {
        #[target_feature(enable = $features)]
        #[inline(never)]
        fn $name<const LEN: usize>() {
            let mut room = [core::mem::MaybeUninit::<u8>::uninit(); LEN];
            const { assert!(LEN > 0 && LEN % $width == 0) };
            // SAFETY: the stores end with `room`, whose length is a multiple of theirs; register 0
            // belongs to nobody.
            unsafe {
                core::arch::asm!(
                    $zero,
                    "2:",
                    $store,
                    concat!("add {at}, ", $width),
                    "cmp {at}, {end}",
                    "jb 2b",
                    at = inout(reg) room.as_mut_ptr() => _,
                    end = in(reg) room.as_mut_ptr_range().end,
                    out("xmm0") _,
                    options(nostack),
                );
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
stack!(stack256, "avx2", "vpxor xmm0, xmm0, xmm0", "vmovdqu [{at}], ymm0", 32);
#[cfg(target_arch = "x86_64")]
stack!(stack128, "sse2", "pxor xmm0, xmm0", "movdqu [{at}], xmm0", 16);

/// Zeroes nearly 4 KiB of stack below its caller for each of `pages`, and the SSE registers.
///
/// For whoever has called something that computes with secrets and is no call of this module: values that are moved, and
/// what the compiler spills, stay where they were, in a kernel whose stacks are never zeroed. What is asked for must be there.
// spec: WG 7.4-a
pub fn stack(pages: usize) {
    /// A longer frame would have to be probed, for which a driver has nothing.
    const LEN: usize = 3968;
    #[inline(never)]
    fn page(more: usize) {
        let mut room = [0_u8; LEN];
        if let Some(more) = more.checked_sub(1) {
            page(more);
        }
        // Somebody might read it: so it is written.
        core::hint::black_box(&mut room);
    }
    if let Some(more) = pages.checked_sub(1) {
        page(more);
    }
    // What was moved went through them.
    #[cfg(target_arch = "x86_64")]
    xmm();
}

/// Zeroes the registers and the stack after packets that the crate's cipher sealed or opened.
pub(super) fn after_portable() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is the baseline.
    unsafe {
        after128(Depth::Deep);
    }
    #[cfg(not(target_arch = "x86_64"))]
    stack(1);
}

/// Zeroes the registers and the stack after a tier that uses ZMM registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn after512(proof: Avx512<'_>, depth: Depth) {
    match depth {
        Depth::Shallow => stack256::<SHALLOW>(),
        Depth::Deep => stack256::<DEEP>(),
    }
    zmm(proof);
}

/// Zeroes the registers and the stack after a tier that uses YMM registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn after256(proof: Avx2<'_>, depth: Depth) {
    match depth {
        Depth::Shallow => stack256::<SHALLOW>(),
        Depth::Deep => stack256::<DEEP>(),
    }
    ymm(proof);
}

/// Zeroes the registers and the stack after a tier that uses XMM registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline(never)]
pub(super) fn after128(depth: Depth) {
    match depth {
        Depth::Shallow => stack128::<SHALLOW>(),
        Depth::Deep => stack128::<DEEP>(),
    }
    xmm();
}

/// Zeroes ZMM0 to ZMM31.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline(never)] // Where the ABI gives some of them to the caller, its frame is large.
fn zmm(_: Avx512<'_>) {
    // SAFETY: the registers are declared as overwritten; nothing else is touched.
    unsafe {
        core::arch::asm!(
            "vpxord zmm16, zmm16, zmm16", "vpxord zmm17, zmm17, zmm17",
            "vpxord zmm18, zmm18, zmm18", "vpxord zmm19, zmm19, zmm19",
            "vpxord zmm20, zmm20, zmm20", "vpxord zmm21, zmm21, zmm21",
            "vpxord zmm22, zmm22, zmm22", "vpxord zmm23, zmm23, zmm23",
            "vpxord zmm24, zmm24, zmm24", "vpxord zmm25, zmm25, zmm25",
            "vpxord zmm26, zmm26, zmm26", "vpxord zmm27, zmm27, zmm27",
            "vpxord zmm28, zmm28, zmm28", "vpxord zmm29, zmm29, zmm29",
            "vpxord zmm30, zmm30, zmm30", "vpxord zmm31, zmm31, zmm31",
            "vzeroall",
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            out("zmm30") _, out("zmm31") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Zeroes YMM0 to YMM15.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline(never)] // As above.
fn ymm(_: Avx2<'_>) {
    // SAFETY: the registers are declared as overwritten; nothing else is touched.
    unsafe {
        core::arch::asm!(
            "vzeroall",
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _,
            out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _,
            out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            out("ymm15") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Zeroes XMM0 to XMM15, as far as they are not the caller's.
#[cfg(target_arch = "x86_64")]
#[inline(never)] // As above.
fn xmm() {
    // SAFETY: the registers are declared as overwritten, so that those which the ABI gives to the
    // caller are put back behind this; nothing else is touched.
    unsafe {
        core::arch::asm!(
            "pxor xmm0, xmm0", "pxor xmm1, xmm1", "pxor xmm2, xmm2", "pxor xmm3, xmm3",
            "pxor xmm4, xmm4", "pxor xmm5, xmm5", "pxor xmm6, xmm6", "pxor xmm7, xmm7",
            "pxor xmm8, xmm8", "pxor xmm9, xmm9", "pxor xmm10, xmm10", "pxor xmm11, xmm11",
            "pxor xmm12, xmm12", "pxor xmm13, xmm13", "pxor xmm14, xmm14", "pxor xmm15, xmm15",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}
