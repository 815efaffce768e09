//! Address space that one machine's guarded blocks come from: reserved at once, and given back at once with the machine.
//!
//! Whole pages are taken and given back; until they are made accessible, and afterwards, they are not. A mapping of its own for
//! each block would be merged by the host with its neighbours and split again by each change, which costs more the more machines
//! a process has had.

use std::collections::HashMap;
use std::io;

use crate::loader::pe;

/// Bytes that are reserved: address space, which is not memory.
const RESERVED: usize = 64 << 30;

/// See the module.
#[derive(Default)]
pub(super) struct Arena {
    /// Where it begins; 0 before anything was taken.
    base: usize,
    used: usize,
    /// What was given back, by its length.
    free: HashMap<usize, Vec<usize>>,
}

impl Arena {
    /// Takes `length` bytes, whole pages, which are zeroes once they are accessible.
    ///
    /// # Errors
    ///
    /// What the host says when the space is reserved, or that nothing of it is left.
    pub(super) fn take(&mut self, length: usize) -> io::Result<usize> {
        if let Some(base) = self.free.get_mut(&length).and_then(Vec::pop) {
            return Ok(base);
        }
        if self.base == 0 {
            self.base = pe::reserve(RESERVED)?;
        }
        if length > RESERVED - self.used {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let base = self.base + self.used;
        self.used += length;
        Ok(base)
    }

    /// Gives back what was taken, and is inaccessible again.
    pub(super) fn give_back(&mut self, base: usize, length: usize) {
        // What the host keeps of it would not be zeroes.
        if pe::discard(base, length).is_ok() {
            self.free.entry(length).or_default().push(base);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.base != 0 {
            pe::unmap(self.base, RESERVED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_taken_again_and_is_zeroes() {
        let mut arena = Arena::default();
        let (one, other) = (arena.take(8192).unwrap(), arena.take(4096).unwrap());
        assert_eq!(other, one + 8192);
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        pe::protect(one, 4096, writable).unwrap();
        let first = std::ptr::with_exposed_provenance_mut::<u8>(one);
        // SAFETY: accessible, and nobody else's.
        unsafe { first.write(7) };
        pe::protect(one, 4096, libc::PROT_NONE).unwrap();
        arena.give_back(one, 8192);
        assert_ne!(arena.take(4096).unwrap(), one, "of another length");
        assert_eq!(arena.take(8192).unwrap(), one);
        pe::protect(one, 4096, writable).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { first.read() }, 0);
    }

    #[test]
    fn there_is_an_end() {
        let mut arena = Arena::default();
        arena.take(RESERVED).unwrap();
        assert!(arena.take(4096).is_err());
    }
}
