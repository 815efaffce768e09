//! Structures the driver hands in, read and written at documented offsets.
//!
//! The simulator shares the driver's address space, so a pointer is used as it is. A NULL one is
//! refused by the caller (`FxPointerNotNull` bugchecks, `facts/kmdf.md` §0); a wild one faults.

/// The address of a structure in the driver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

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

    /// Copies a value out.
    ///
    /// # Safety
    ///
    /// The driver's structure holds a `T` at `offset`, and any bytes are a valid `T`.
    #[must_use]
    pub unsafe fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the caller promises a `T` there; the driver promises no alignment.
        unsafe { (self.at(offset).0 as *const T).read_unaligned() }
    }

    /// Copies a value in.
    ///
    /// # Safety
    ///
    /// The driver's structure has room for a `T` at `offset`, writable.
    pub unsafe fn write<T: Copy>(self, offset: u64, value: T) {
        // SAFETY: the caller promises room for a `T`; the driver promises no alignment.
        unsafe { (self.at(offset).0 as *mut T).write_unaligned(value) }
    }

    /// Copies `length` bytes out.
    ///
    /// # Safety
    ///
    /// `length` bytes are readable here.
    #[must_use]
    pub unsafe fn bytes(self, length: usize) -> Vec<u8> {
        // SAFETY: the caller promises the bytes; they are copied before anything else runs.
        unsafe { core::slice::from_raw_parts(self.0 as *const u8, length) }.to_vec()
    }

    /// Copies `bytes` in.
    ///
    /// # Safety
    ///
    /// `bytes.len()` bytes are writable here.
    pub unsafe fn fill(self, bytes: &[u8]) {
        // SAFETY: the caller promises the room; `bytes` is the simulator's own.
        unsafe { (self.0 as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Reads the text of a `UNICODE_STRING` here; `None` for NULL or an empty one.
    ///
    /// # Safety
    ///
    /// NULL, or a `UNICODE_STRING` whose buffer holds `Length` bytes.
    #[must_use]
    pub unsafe fn unicode_string(self) -> Option<String> {
        if self.is_null() {
            return None;
        }
        // SAFETY: `Length`, by the caller's promise.
        let length: u16 = unsafe { self.read(0) };
        // SAFETY: `Buffer`, by the caller's promise.
        let buffer: u64 = unsafe { self.read(8) };
        if length == 0 || buffer == 0 {
            return None;
        }
        // SAFETY: `Length` bytes are there, by the caller's promise.
        let bytes = unsafe { Self(buffer).bytes(length.into()) };
        Some(utf16(&bytes))
    }

    /// Reads a NUL-terminated wide string here.
    ///
    /// # Safety
    ///
    /// Readable up to its NUL.
    #[must_use]
    pub unsafe fn wide_string(self) -> String {
        let mut length = 0;
        loop {
            // SAFETY: the caller promises everything up to the NUL.
            let unit: u16 = unsafe { self.read(length) };
            if unit == 0 || length > 2 * 260 {
                // SAFETY: these bytes were read one by one just now.
                let bytes = unsafe { self.bytes(length as usize) };
                return utf16(&bytes);
            }
            length += 2;
        }
    }
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_by_length_or_by_nul() {
        let text: Vec<u16> = "penstock\0rest".encode_utf16().collect();
        let buffer = text.as_ptr() as u64;
        // SAFETY: the array has a NUL.
        assert_eq!(unsafe { Address(buffer).wide_string() }, "penstock");
        let mut string = [0_u64; 2];
        string[1] = buffer;
        let at = Address(string.as_mut_ptr() as u64);
        // SAFETY: sixteen bytes, of length 0.
        assert_eq!(unsafe { at.unicode_string() }, None);
        // SAFETY: sixteen writable bytes.
        unsafe { at.write(0, 6_u16) };
        // SAFETY: a `UNICODE_STRING` of three characters.
        assert_eq!(unsafe { at.unicode_string() }.as_deref(), Some("pen"));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { Address(0).unicode_string() }, None);
    }
}
