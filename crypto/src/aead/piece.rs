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
    start: *const u8,
    len: usize,
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
        Self { start, len, steady: false, source: PhantomData }
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
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
        let at = at.min(self.len);
        let rest = self.start.wrapping_add(at);
        // INVARIANT: both are parts of this run.
        (Self { len: at, ..*self }, Self { start: rest, len: self.len - at, ..*self })
    }

    /// Reads each byte once into the front of `into`; returns how many fitted.
    pub(super) fn copy_to(&self, into: &mut [u8]) -> usize {
        let count = self.len.min(into.len());
        if count >= STRING {
            // SAFETY: `count` bytes are readable by the type invariant and writable because `into`
            // has them; `from_raw` excludes an overlap, and a `&mut` excludes it for slices.
            unsafe { copy_once(self.start, into.as_mut_ptr(), count) };
            return count;
        }
        let (words, rest) = into[..count].as_chunks_mut::<8>();
        let mut from = self.start;
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
}

/// From this length on, a string instruction is worth its start. Padding and tags are shorter.
const STRING: usize = 64;

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // INVARIANT: a slice is readable for its lifetime.
        Self { start: bytes.as_ptr(), len: bytes.len(), steady: true, source: PhantomData }
    }
}

/// Bytes that others may write meanwhile, as a packet's in a ring.
#[cfg(not(loom))] // A modelled atomic is more than its byte.
impl<'a> From<&'a [crate::sync::atomic::AtomicU8]> for Piece<'a> {
    fn from(bytes: &'a [crate::sync::atomic::AtomicU8]) -> Self {
        // INVARIANT: a slice is readable for its lifetime, and an atomic is as large as its byte.
        Self { start: bytes.as_ptr().cast(), len: bytes.len(), steady: false, source: PhantomData }
    }
}

/// Copies `count` bytes, reading each exactly once whatever the compiler thinks of it.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `count` bytes, and they do not overlap. The
/// bytes at `from` may change meanwhile.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn copy_once(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller's promise covers the reads and the writes; the direction flag is clear in
    // every ABI this is built for. Assembly, because the compiler may neither split nor repeat the
    // reads, and a read that races with a foreign writer is then no undefined behaviour of Rust.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies `count` bytes, reading each exactly once whatever the compiler thinks of it.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of `count` bytes, and they do not overlap. The
/// bytes at `from` may change meanwhile.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn copy_once(from: *const u8, to: *mut u8, count: usize) {
    for at in 0..count {
        // SAFETY: `at < count`, so the address is inside the readable run.
        let source = unsafe { from.add(at) };
        // SAFETY: as above; a volatile read is done once and not invented again.
        let byte = unsafe { source.read_volatile() };
        // SAFETY: `at < count`, so the address is inside the writable run.
        let target = unsafe { to.add(at) };
        // SAFETY: as above; `u8` needs no alignment.
        unsafe { target.write(byte) };
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
        // SAFETY: the caller's promise; assembly for the reason in `copy_once`.
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
