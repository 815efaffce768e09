//! A program's buffer, and what a driver sees of it.
//!
//! A direct IOCTL locks the program's pages and the driver reads them through a mapping of its own,
//! while the program goes on running and may write. So a [`UserBuffer`] is memory with two mappings:
//! the program's, which lives as long as the buffer, and the driver's ([`Mapping`]), which is gone
//! when the request is completed: an access after that faults.
//!
//! Source: `facts/kmdf.md` §9; a buffer's address in its page is arbitrary (documented).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use super::driver_memory::Address;
use crate::nt::machine::Machine;

const PAGE: usize = 4096;
const MDL_SIZE: usize = 48;
const MDL_PAGES_LOCKED: u16 = 2;
const MDL_MAPPED_TO_SYSTEM_VA: u16 = 1;

/// Memory of a program.
///
/// # Invariants
///
/// `base` maps `pages` bytes of `memory`, readable and writable; the buffer is
/// `[offset, offset + length)` of them.
pub struct UserBuffer {
    memory: OwnedFd,
    base: NonNull<u8>,
    pages: usize,
    offset: usize,
    length: usize,
}

// SAFETY: the mapping belongs to the buffer and is only accessed by volatile copies of bytes: a
// program's threads and the driver may race on it, which is its purpose.
unsafe impl Send for UserBuffer {}
// SAFETY: as above.
unsafe impl Sync for UserBuffer {}

impl UserBuffer {
    /// Makes a zeroed buffer of `length` bytes that starts `offset` bytes into a page.
    ///
    /// # Errors
    ///
    /// What the host says when it has no memory.
    pub fn new(length: usize, offset: usize) -> io::Result<Self> {
        let offset = offset % PAGE;
        let pages = (offset + length).max(1).next_multiple_of(PAGE);
        // SAFETY: a valid C string; the descriptor is owned from the next line on.
        let memory = unsafe { libc::memfd_create(c"user-buffer".as_ptr(), libc::MFD_CLOEXEC) };
        if memory < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        let memory = unsafe { OwnedFd::from_raw_fd(memory) };
        // SAFETY: a descriptor of ours.
        if unsafe { libc::ftruncate(memory.as_raw_fd(), pages as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let base = map(&memory, pages)?;
        Ok(Self { memory, base, pages, offset, length })
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Writes as the program, also while a driver has the buffer; what does not fit is left out.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate().take(self.length.saturating_sub(at)) {
            // SAFETY: by the type invariant and the limit above the byte is in the mapping.
            let to = unsafe { self.base.as_ptr().add(self.offset + at + index) };
            // SAFETY: as above.
            unsafe { to.write_volatile(*byte) }
        }
    }

    /// Reads as the program; what lies outside is left out.
    #[must_use]
    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        let end = at.saturating_add(length).min(self.length);
        let byte = |index| {
            // SAFETY: `index < self.length`, so by the type invariant the byte is in the mapping.
            let from = unsafe { self.base.as_ptr().add(self.offset + index) };
            // SAFETY: as above.
            unsafe { from.read_volatile() }
        };
        (at.min(end)..end).map(byte).collect()
    }

    /// Locks the pages for a driver: an MDL and its mapping.
    ///
    /// # Errors
    ///
    /// What the host says when it has no memory.
    pub(crate) fn lock(&self, machine: &Machine) -> io::Result<Mapping> {
        let base = map(&self.memory, self.pages)?;
        let view = base.as_ptr() as u64;
        let size = MDL_SIZE + 8 * (self.pages / PAGE);
        let mdl = Address(machine.allocate(size) as u64);
        mdl.write(8, size as u16);
        mdl.write(10, MDL_PAGES_LOCKED);
        // MappedSystemVa counts only once the flag says so.
        mdl.write(24, view + self.offset as u64);
        mdl.write(32, view);
        mdl.write(40, self.length as u32);
        mdl.write(44, self.offset as u32);
        Ok(Mapping { mdl, base, pages: self.pages, address: view + self.offset as u64 })
    }
}

impl Drop for UserBuffer {
    fn drop(&mut self) {
        // SAFETY: by the type invariant this is our own mapping, and nobody uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.pages) };
    }
}

/// A driver's view of a [`UserBuffer`]. Its address range is never used again.
pub(crate) struct Mapping {
    /// The MDL.
    pub(crate) mdl: Address,
    /// Where the driver sees the first byte.
    pub(crate) address: u64,
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: the view is only unmapped here, by whoever completes the request, once.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Says that the buffer has been mapped, as `MmGetSystemAddressForMdlSafe` leaves the MDL.
    pub(crate) fn set_mapped(&self) {
        self.mdl.write(10, MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA);
    }

    /// Ends the driver's access.
    pub(crate) fn unlock(self, machine: &Machine) {
        let (address, flags) = (self.base.as_ptr().cast(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let flags = flags | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: replaces our own mapping by one that faults.
        unsafe { libc::mmap(address, self.pages, libc::PROT_NONE, flags, -1, 0) };
        machine.release(self.mdl.0 as usize);
    }
}

fn map(memory: &OwnedFd, length: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of a descriptor of ours, wherever the host likes.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            protection,
            libc::MAP_SHARED,
            memory.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_to_its_length() {
        let buffer = UserBuffer::new(5, 4094).unwrap();
        buffer.write(3, b"abc");
        assert_eq!(buffer.read(0, 9), [0, 0, 0, b'a', b'b'], "across a page, cut at the end");
        assert_eq!(buffer.read(6, 1), []);
        assert!(UserBuffer::new(0, 0).unwrap().is_empty());
    }
}
