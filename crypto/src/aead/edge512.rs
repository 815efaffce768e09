//! Blocks of text that are not 64 bytes together, in ZMM registers: a routine and how it is called.
//!
//! A pass ends with thirty-two blocks of key stream in registers, any of which may be the last of a
//! packet or have a piece of the source end in it. What that takes is code of its own for each if the
//! compiler places it, more than all the rest of the pass; and around a call it would spill every
//! register. This one routine leaves all but two of them alone.
#![allow(unsafe_code)] // Assembly that reads and writes raw places.

use core::arch::x86_64::__m512i;
use core::mem::offset_of;
use core::ops::Range;

use super::group::Packet;
use super::piece::Piece;

/// Adds `stream` to the `len` bytes of the packet's text from `start` on, each of which is read once.
///
/// # Safety
///
/// The packet's text has these bytes, `len` is 1 to 64.
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
#[inline]
pub(super) unsafe fn add_stream(stream: __m512i, packet: &Packet, start: usize, len: usize) {
    // SAFETY: by the invariants of `Packet` source and destination have the bytes that the caller
    // promises, and the routine changes what is declared here.
    unsafe {
        core::arch::asm!(
            "call {add_text}",
            "mov r8, -1",
            "bzhi r8, r8, rdx",
            "kmovq k1, r8",
            "vmovdqu8 [{to}] {{k1}}, zmm0",
            add_text = sym add_text, to = in(reg) packet.destination.wrapping_add(start),
            in("rax") &raw const *packet, inout("r9") start => _, in("rdx") len,
            inout("r11") 0_usize => _, inout("zmm0") stream => _, out("zmm1") _, out("k1") _,
            out("r8") _, out("r10") _, out("rdi") _,
        );
    }
}

/// The packet's text from `start` on as bytes `part` of a register, of which the others are those of
/// `zero`.
///
/// # Safety
///
/// The packet's text has so many bytes, at least one, and they do not change; `part` ends by 64.
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
#[inline]
pub(super) unsafe fn text(
    zero: __m512i,
    packet: &Packet,
    start: usize,
    part: Range<usize>,
) -> __m512i {
    let text;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "call {add_text}",
            add_text = sym add_text,
            in("rax") &raw const *packet, inout("r9") start => _, in("rdx") part.end,
            inout("r11") part.start => _, inout("zmm0") zero => text, out("zmm1") _, out("k1") _,
            out("r8") _, out("r10") _, out("rdi") _,
        );
    }
    text
}

/// Adds the text from R9 on of the packet at RAX to the bytes of ZMM0 from R11 to before RDX, and reads
/// each byte once. Changes K1, ZMM1, R8 to R11 and RDI; a leaf without a frame.
#[unsafe(naked)]
unsafe extern "C" fn add_text() {
    core::arch::naked_asm!(
        "mov r8, [rax + {source}]",
        "cmp byte ptr [rax + {in_pieces}], 0",
        "jne 2f",
        // One run.
        "add r8, r9",
        "sub r8, r11",
        "mov r9, -1",
        "bzhi r10, r9, rdx",
        "bzhi r11, r9, r11",
        "andn r11, r11, r10",
        "kmovq k1, r11",
        "vmovdqu8 zmm1 {{k1}}{{z}}, [r8]",
        "vpxorq zmm0, zmm0, zmm1",
        "ret",
        // The piece in which the text begins: at R8, with R9 bytes of text before.
        "2:",
        "mov r10d, [r8 + {len}]",
        "sub r9, r10",
        "jb 3f",
        "add r8, {size}",
        "jmp 2b",
        // -R9 bytes are left of the piece that ends at R10, and ZMM0 is done to R11. Most often all of it is
        // to be done, and the rest is in the next piece.
        "3:",
        "add r10, [r8 + {start}]",
        "test r11, r11",
        "jnz 4f",
        "mov rdi, r9",
        "neg rdi",
        "cmp rdi, rdx",
        "jae 4f",
        "mov r11d, [r8 + {size} + {len}]",
        "add r11, rdi",
        "cmp r11, rdx",
        "mov r11d, 0",
        "jb 4f",
        "mov r11, -1",
        "bzhi rdi, r11, rdi",
        "bzhi r11, r11, rdx",
        "kmovq k1, rdi",
        "andn r11, rdi, r11",
        "vmovdqu8 zmm1 {{k1}}{{z}}, [r10 + r9]",
        "kmovq k1, r11",
        "add r9, [r8 + {size} + {start}]",
        "vpxorq zmm0, zmm0, zmm1",
        "vmovdqu8 zmm1 {{k1}}{{z}}, [r9]",
        "vpxorq zmm0, zmm0, zmm1",
        "ret",
        // Any pieces.
        "4:",
        "add r10, r9",
        "sub r10, r11",
        "neg r9",
        "add r9, r11",
        "cmp r9, rdx",
        "cmova r9, rdx",
        // Of ZMM0, the bytes before R9 and not before R11.
        "mov rdi, -1",
        "bzhi r11, rdi, r11",
        "bzhi rdi, rdi, r9",
        "andn r11, r11, rdi",
        "kmovq k1, r11",
        "vmovdqu8 zmm1 {{k1}}{{z}}, [r10]",
        "vpxorq zmm0, zmm0, zmm1",
        "mov r11, r9",
        "cmp r9, rdx",
        "je 6f",
        // The next piece that is not empty.
        "5:",
        "add r8, {size}",
        "mov r9d, [r8 + {len}]",
        "mov r10, [r8 + {start}]",
        "add r10, r9",
        "neg r9",
        "jz 5b",
        "jmp 4b",
        "6:",
        "ret",
        source = const offset_of!(Packet, source),
        in_pieces = const offset_of!(Packet, in_pieces),
        start = const offset_of!(Piece<'static>, start),
        len = const offset_of!(Piece<'static>, len),
        size = const size_of::<Piece<'static>>(),
    )
}
