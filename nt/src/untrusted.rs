//! Memory that somebody else may write while we read it.
//!
//! An IOCTL buffer is an allegation that bytes are there. They are copied once into memory of our
//! own, and the copy is parsed; no reference to the original ever exists, so nothing read once can
//! be different the second time. Volatile accesses, because the bytes may change under them. Any
//! IRQL at which the memory may be touched.

use alloc::vec::Vec;
use core::{marker::PhantomData, ptr::NonNull};

use crate::status::NtError;

/// Bytes to read. Deliberately not a slice.
///
/// # Invariants
///
/// `begin` is valid for reads of `len` bytes as long as `'memory`.
#[derive(Debug)]
pub struct Untrusted<'memory> {
    begin: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'memory ()>,
}

impl Untrusted<'_> {
    /// The `len` bytes at `begin`.
    ///
    /// # Safety
    ///
    /// They are mapped and may be read as long as the lifetime says; others may write them.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const unsafe fn from_raw(begin: NonNull<u8>, len: usize) -> Self {
        Self { begin, len, _memory: PhantomData }
    }

    /// The number of bytes.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads every byte once, into memory of our own.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when the pool cannot hold the copy. The caller bounds
    /// [`Untrusted::len`] first.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, if the memory is nonpaged; else `PASSIVE_LEVEL`.
    pub fn copy(&self) -> Result<Vec<u8>, NtError> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(self.len).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        copy.extend((0..self.len).map(|at| self.byte(at)));
        Ok(copy)
    }

    /// Reads the bytes into `to` if there are exactly as many.
    ///
    /// # Errors
    ///
    /// [`NtError::INFO_LENGTH_MISMATCH`] when there are not.
    ///
    /// # IRQL
    ///
    /// As [`Untrusted::copy`].
    pub fn copy_to(&self, to: &mut [u8]) -> Result<(), NtError> {
        if to.len() != self.len {
            return Err(NtError::INFO_LENGTH_MISMATCH);
        }
        for (at, byte) in to.iter_mut().enumerate() {
            *byte = self.byte(at);
        }
        Ok(())
    }

    /// Reads the byte at `at`, which every caller keeps below `len`.
    fn byte(&self, at: usize) -> u8 {
        debug_assert!(at < self.len);
        // SAFETY: `at` is below `len`, so the address is within the memory (type invariant).
        let from = unsafe { self.begin.add(at) };
        // SAFETY: readable by the type invariant; volatile, so a racing writer costs us no more
        // than a strange byte.
        unsafe { from.read_volatile() }
    }
}

/// Bytes to write an answer to, which nobody reads back.
///
/// # Invariants
///
/// `begin` is valid for writes of `len` bytes as long as `'memory`.
#[derive(Debug)]
pub struct UntrustedOutput<'memory> {
    begin: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'memory mut ()>,
}

impl UntrustedOutput<'_> {
    /// The `len` bytes at `begin`.
    ///
    /// # Safety
    ///
    /// They are mapped and may be written as long as the lifetime says; others may write them too.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const unsafe fn from_raw(begin: NonNull<u8>, len: usize) -> Self {
        Self { begin, len, _memory: PhantomData }
    }

    /// The number of bytes.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no room at all.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes `answer` at the beginning.
    ///
    /// # Errors
    ///
    /// [`NtError::BUFFER_TOO_SMALL`] when it does not fit; nothing is written then.
    ///
    /// # IRQL
    ///
    /// As [`Untrusted::copy`].
    pub fn write(&mut self, answer: &[u8]) -> Result<(), NtError> {
        if answer.len() > self.len {
            return Err(NtError::BUFFER_TOO_SMALL);
        }
        for (at, byte) in answer.iter().enumerate() {
            // SAFETY: `at` is below `answer.len()`, which is at most `len` (type invariant).
            let to = unsafe { self.begin.add(at) };
            // SAFETY: writable by the type invariant.
            unsafe { to.write_volatile(*byte) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_all_or_refuses() {
        let mut memory = [1_u8, 2, 3, 4];
        let begin = NonNull::from(&mut memory).cast();
        // SAFETY: the array outlives the value and is as long as said.
        let untrusted = unsafe { Untrusted::from_raw(begin, 4) };
        assert_eq!(untrusted.copy().unwrap(), [1, 2, 3, 4]);
        for (len, result) in [
            (3, Err(NtError::INFO_LENGTH_MISMATCH)),
            (4, Ok(())),
            (5, Err(NtError::INFO_LENGTH_MISMATCH)),
        ] {
            let mut copy = [0; 5];
            assert_eq!(untrusted.copy_to(&mut copy[..len]), result, "{len}");
        }
    }

    #[test]
    fn writes_what_fits_or_nothing() {
        let mut memory = [0_u8; 4];
        let begin = NonNull::from(&mut memory).cast();
        // SAFETY: as above; the array is not touched but through the value until it is gone.
        let mut output = unsafe { UntrustedOutput::from_raw(begin, 3) };
        assert_eq!(output.write(&[9; 4]), Err(NtError::BUFFER_TOO_SMALL));
        assert_eq!(output.write(&[7, 8]), Ok(()));
        assert_eq!(memory, [7, 8, 0, 0]);
    }
}
