//! Source bytes that somebody else may own, and may change while they are read.
//!
//! A packet to be sealed may lie in several fragments of a ring; one to be opened lies in the
//! buffers that an MDL chain describes. No Rust reference to such memory may exist, because a
//! reference promises that the bytes do not change. A [`Piece`] is therefore an address, a length
//! and a lifetime, and its bytes leave it by one copy only: what is authenticated and what is
//! decrypted is always that copy.
#![allow(unsafe_code)] // Foreign memory has no safe form.

use core::marker::PhantomData;

/// A run of source bytes.
///
/// # Invariants
///
/// `start` is valid for reads of `len` bytes during `'a`. The bytes may change meanwhile unless
/// `steady`.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub(super) start: *const u8,
    /// In 32 bits, so that a piece takes no more room than a slice.
    pub(super) len: u32,
    /// The bytes are borrowed as a slice, and so cannot change.
    steady: bool,
    source: PhantomData<&'a [u8]>,
}

impl<'a> Piece<'a> {
    /// Describes `len` bytes at `start`, which may change while they are read.
    ///
    /// # Safety
    ///
    /// For all of `'a`, `start` is valid for reads of `len` bytes, and those bytes do not overlap
    /// the destination of the job the piece is used in. `start` may be dangling if `len` is 0.
    #[must_use]
    pub const unsafe fn from_raw(start: *const u8, len: usize) -> Self {
        // INVARIANT: the caller's promise.
        Self { start, len: saturated(len), steady: false, source: PhantomData }
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it starts.
    pub(super) const fn start(&self) -> *const u8 {
        self.start
    }

    /// Whether its bytes cannot change, so that they may be read twice.
    pub(super) const fn is_steady(&self) -> bool {
        self.steady
    }

    /// The first `at` bytes, and the rest; all of it and nothing if it has fewer.
    pub(super) fn split_at(&self, at: usize) -> (Self, Self) {
        let at = saturated(at).min(self.len);
        let rest = self.start.wrapping_add(at as usize);
        // INVARIANT: both are parts of this run.
        (Self { len: at, ..*self }, Self { start: rest, len: self.len - at, ..*self })
    }

    /// The last `N` bytes, which do not change, if it has so many.
    #[inline(always)]
    pub(super) fn last<const N: usize>(&self) -> Option<[u8; N]> {
        let skip = self.len().checked_sub(N)?;
        // SAFETY: by the type invariant; an array of bytes needs no alignment.
        Some(unsafe { self.start.wrapping_add(skip).cast::<[u8; N]>().read() })
    }

    /// Reads each byte once into the front of `into`; returns how many fitted.
    pub(super) fn copy_to(&self, into: &mut [u8]) -> usize {
        let count = self.len().min(into.len());
        let blocks = count / BLOCK;
        // SAFETY: `count` bytes are readable by the type invariant and writable because `into` has
        // them; `from_raw` excludes an overlap, and a `&mut` excludes it for slices.
        unsafe { copy_blocks(self.start, into.as_mut_ptr(), blocks) };
        let (words, rest) = into[blocks * BLOCK..count].as_chunks_mut::<8>();
        let mut from = self.start.wrapping_add(blocks * BLOCK);
        for word in words {
            // SAFETY: as many words and bytes are left in the run as in `into[..count]`.
            *word = unsafe { read_once(from) };
            from = from.wrapping_add(8);
        }
        for byte in rest {
            // SAFETY: as above.
            [*byte] = unsafe { read_once(from) };
            from = from.wrapping_add(1);
        }
        count
    }

    /// The ones' complement sum of its 64-bit words as they lie in memory, behind the last bytes zeroes. Reads each byte once.
    pub(crate) fn sum(&self) -> u64 {
        let blocks = self.len() / BLOCK;
        // SAFETY: as many bytes are readable by the type invariant.
        let sum = unsafe { sum_blocks(self.start, blocks) };
        let mut last = [0; BLOCK];
        let (_, rest) = self.split_at(blocks * BLOCK);
        rest.copy_to(&mut last);
        last.as_chunks().0.iter().fold(sum, |sum, word| add_word(sum, *word))
    }
}

/// Adds a word, and the carry to the sum.
fn add_word(sum: u64, word: [u8; 8]) -> u64 {
    let (sum, carry) = sum.overflowing_add(u64::from_le_bytes(word));
    sum.wrapping_add(carry.into())
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // INVARIANT: a slice is readable for its lifetime.
        Self {
            start: bytes.as_ptr(),
            len: saturated(bytes.len()),
            steady: true,
            source: PhantomData,
        }
    }
}

/// Bytes that others may write meanwhile, as a packet's in a ring.
#[cfg(not(any(feature = "loom", feature = "shuttle")))] // A modelled atomic is more than its byte.
impl<'a> From<&'a [crate::sync::atomic::AtomicU8]> for Piece<'a> {
    fn from(bytes: &'a [crate::sync::atomic::AtomicU8]) -> Self {
        // INVARIANT: a slice is readable for its lifetime, and an atomic is as large as its byte.
        Self {
            start: bytes.as_ptr().cast(),
            len: saturated(bytes.len()),
            steady: false,
            source: PhantomData,
        }
    }
}

/// A length in 32 bits. What is longer is no packet: as long as can be said is refused as well.
const fn saturated(len: usize) -> u32 {
    if len > u32::MAX as usize { u32::MAX } else { len as u32 }
}

/// Where byte `skip` of these pieces is, and how many of its piece there are from it on.
///
/// # Safety
///
/// `piece` is the first of pieces that have more than `skip` bytes together.
#[inline(always)] // A call would cost the vector registers of whoever is about to add a key stream.
pub(super) unsafe fn run(mut piece: *const Piece<'_>, mut skip: usize) -> (*const u8, usize) {
    loop {
        // SAFETY: the caller's promise: the pieces before had no more than `skip` bytes.
        let Piece { start, len, .. } = *unsafe { &*piece };
        let len = len as usize;
        if skip < len {
            return (start.wrapping_add(skip), len - skip);
        }
        skip -= len;
        piece = piece.wrapping_add(1);
    }
}

/// Reads what lies past the first `skip` bytes of these pieces once, into `into`.
pub(super) fn copy_from(pieces: &[Piece<'_>], mut skip: usize, mut into: &mut [u8]) {
    for piece in pieces {
        let (skipped, rest) = piece.split_at(skip);
        skip -= skipped.len();
        let count = rest.copy_to(into);
        into = into.split_at_mut(count).1;
    }
}

/// Bytes that are copied at a time.
const BLOCK: usize = 64;

/// Copies `blocks` times 64 bytes, reading each byte exactly once.
///
/// In XMM registers, which any tier may use. Not by a string instruction: where source and
/// destination are not aligned alike that was measured at two bytes a cycle.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of so many bytes, and they do not overlap. The
/// bytes at `from` may change meanwhile.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_blocks(from: *const u8, to: *mut u8, blocks: usize) {
    // SAFETY: the caller's promise covers the reads and the writes. Assembly, because the compiler
    // may neither split nor repeat the reads, and a read that races with a foreign writer is then
    // no undefined behaviour of Rust.
    unsafe {
        core::arch::asm!(
            "test {blocks}, {blocks}",
            "jz 3f",
            "2:",
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {blocks}",
            "jnz 2b",
            "3:",
            from = inout(reg) from => _, to = inout(reg) to => _, blocks = inout(reg) blocks => _,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies `blocks` times 64 bytes, reading each byte exactly once.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of so many bytes, and they do not overlap. The
/// bytes at `from` may change meanwhile.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_blocks(from: *const u8, to: *mut u8, blocks: usize) {
    for at in 0..blocks * BLOCK {
        // SAFETY: inside the run that the caller promises; `u8` needs no alignment.
        let [byte] = unsafe { read_once(from.wrapping_add(at)) };
        // SAFETY: as above, of the writable run.
        unsafe { to.wrapping_add(at).write(byte) };
    }
}

/// Reads 8 bytes or 1, exactly once.
///
/// # Safety
///
/// `from` is valid for reads of `N` bytes, which may change meanwhile.
#[inline(always)]
pub(super) unsafe fn read_once<const N: usize>(from: *const u8) -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(target_arch = "x86_64")]
    if N == 8 {
        let word: u64;
        // SAFETY: the caller's promise; assembly for the reason in `copy_blocks`.
        unsafe {
            core::arch::asm!(
                "mov {word}, [{from}]", word = out(reg) word, from = in(reg) from,
                options(readonly, nostack, preserves_flags),
            );
        }
        bytes.copy_from_slice(&word.to_le_bytes()[..N]);
        return bytes;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: inside the caller's `N` bytes; a volatile read is done once.
        *byte = unsafe { from.wrapping_add(at).read_volatile() };
    }
    bytes
}

/// The ones' complement sum of the 64-bit words of `blocks` times 64 bytes, reading each byte exactly once.
///
/// # Safety
///
/// `from` is valid for reads of so many bytes, which may change meanwhile.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sum_blocks(from: *const u8, blocks: usize) -> u64 {
    let mut sum = 0;
    // SAFETY: the caller's promise covers the reads. Assembly for the reason that `copy_blocks` has, and for the carries.
    unsafe {
        core::arch::asm!(
            "test {blocks}, {blocks}",
            "jz 3f",
            "2:",
            // The carry stays in its flag: `lea` and `dec` leave that alone, and `test` cleared it.
            "adc {sum}, [{from}]",
            "adc {sum}, [{from} + 8]",
            "adc {sum}, [{from} + 16]",
            "adc {sum}, [{from} + 24]",
            "adc {sum}, [{from} + 32]",
            "adc {sum}, [{from} + 40]",
            "adc {sum}, [{from} + 48]",
            "adc {sum}, [{from} + 56]",
            "lea {from}, [{from} + 64]",
            "dec {blocks}",
            "jnz 2b",
            "adc {sum}, 0",
            "adc {sum}, 0",
            "3:",
            from = inout(reg) from => _, blocks = inout(reg) blocks => _, sum = inout(reg) sum,
            options(nostack, readonly),
        );
    }
    sum
}

/// The ones' complement sum of the 64-bit words of `blocks` times 64 bytes, reading each byte exactly once.
///
/// # Safety
///
/// `from` is valid for reads of so many bytes, which may change meanwhile.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn sum_blocks(from: *const u8, blocks: usize) -> u64 {
    let words = (0..blocks * (BLOCK / 8)).map(|at| {
        // SAFETY: inside the run that the caller promises.
        unsafe { read_once(from.wrapping_add(at * 8)) }
    });
    words.fold(0, add_word)
}
