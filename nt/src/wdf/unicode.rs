//! Short names as counted UTF-16 strings, made on the stack.

use wdk_sys::UNICODE_STRING;

use crate::status::NtError;

/// Up to `N` UTF-16 units.
pub(super) struct Name<const N: usize> {
    units: [u16; N],
    length: usize,
}

impl<const N: usize> Name<N> {
    /// The UTF-16 form of `text`.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] if it does not fit.
    pub(super) fn new(text: &str) -> Result<Self, NtError> {
        let mut name = Self { units: [0; N], length: 0 };
        for unit in text.encode_utf16() {
            *name.units.get_mut(name.length).ok_or(NtError::INVALID_PARAMETER)? = unit;
            name.length += 1;
        }
        Ok(name)
    }

    /// Calls `body` with the string; it is not valid afterwards, and must not be written.
    pub(super) fn with<R>(&mut self, body: impl FnOnce(*const UNICODE_STRING) -> R) -> R {
        const { assert!(N < u16::MAX as usize / 2) };
        let bytes = (self.length * 2) as u16;
        let string =
            UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: self.units.as_mut_ptr() };
        body(&raw const string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_counted_in_bytes_and_must_fit() {
        for (text, bytes) in [("", 0), ("penstock", 16), ("\u{10437}", 4)] {
            let mut name = Name::<8>::new(text).unwrap();
            // SAFETY: the string is read while `with` keeps it.
            name.with(|string| assert_eq!(unsafe { (*string).Length }, bytes, "{text}"));
        }
        assert!(Name::<8>::new("penstocks").is_err());
    }
}
