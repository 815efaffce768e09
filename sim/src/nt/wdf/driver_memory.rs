//! Structures the driver hands in, read and written at documented offsets.
//!
//! The simulator shares the driver's address space. NULL where Windows requires a pointer is refused
//! by the caller (`FxPointerNotNull` bugchecks, `facts/kmdf.md` §0); a wild pointer stops the machine
//! here, with the import that was given it, and reads as zeros.

use crate::loader::probe::{self, Fault, Plain};
use crate::nt::machine::Thread;
use crate::verifier::rules;

/// The address of a structure in the driver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// Longest name that is read: NT's own limit for a path component, in bytes.
const MAX_WIDE: u64 = 510;

impl Address {
    /// Whether the driver passed NULL.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The structure `offset` bytes further on.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self(self.0.wrapping_add(offset))
    }

    /// The number at `offset`.
    #[must_use]
    pub fn read<T: Plain>(self, offset: u64) -> T {
        checked(probe::read(self.at(offset).0 as usize))
    }

    /// `N` quad words from `offset` on.
    #[must_use]
    pub fn words<const N: usize>(self, offset: u64) -> [u64; N] {
        std::array::from_fn(|index| self.read(offset + 8 * index as u64))
    }

    /// Writes a number at `offset`.
    pub fn write<T: Plain>(self, offset: u64, value: T) {
        checked(probe::write(self.at(offset).0 as usize, value));
    }

    /// Copies `length` bytes out.
    #[must_use]
    pub fn bytes(self, length: usize) -> Vec<u8> {
        checked(probe::bytes(self.0 as usize, length))
    }

    /// Copies `bytes` in.
    pub fn fill(self, bytes: &[u8]) {
        checked(probe::write_bytes(self.0 as usize, bytes));
    }

    /// The text of a `UNICODE_STRING` here; `None` for NULL or an empty one.
    #[must_use]
    pub fn unicode_string(self) -> Option<String> {
        if self.is_null() {
            return None;
        }
        Some(checked(probe::unicode_string(self.0 as usize))).filter(|text| !text.is_empty())
    }

    /// A NUL-terminated wide string here.
    #[must_use]
    pub fn wide_string(self) -> String {
        let units = (0..MAX_WIDE).step_by(2).map(|offset| self.read::<u16>(offset));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        String::from_utf16_lossy(&units)
    }
}

/// Stops the machine for a pointer that cannot be followed.
fn checked<T: Default>(result: Result<T, Fault>) -> T {
    result.unwrap_or_else(|Fault(address)| {
        if let Some(thread) = Thread::current() {
            thread.stop(
                &rules::PAGE_FAULT_IN_NONPAGED_AREA,
                format!("a framework function was given {address:#x}"),
            );
        }
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_by_length_or_by_nul() {
        let text: Vec<u16> = "penstock\0rest".encode_utf16().collect();
        let buffer = text.as_ptr().expose_provenance() as u64;
        assert_eq!(Address(buffer).wide_string(), "penstock");
        let mut string = [0_u64, buffer];
        let at = Address(string.as_mut_ptr().expose_provenance() as u64);
        assert_eq!(at.unicode_string(), None);
        at.write(0, 6_u16);
        assert_eq!(at.unicode_string().as_deref(), Some("pen"));
        assert_eq!(Address(0).unicode_string(), None);
        assert_eq!(at.words::<2>(0)[1], buffer);
    }

    #[test]
    fn a_wild_pointer_reads_as_zero() {
        crate::loader::trap::install();
        assert_eq!(Address(0x10).read::<u64>(0), 0);
        Address(0x10).write(0, 1_u8);
    }
}
