//! Texts as Windows has them: UTF-16, up to a NUL.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;

/// The text, with its NUL.
pub(super) fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

/// The text up to the NUL, or to the end.
pub(super) fn text(units: &[u16]) -> String {
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16_lossy(units.get(..end).unwrap_or_default())
}

/// The texts of a list: each has its NUL, and an empty one ends it.
pub(super) fn list(units: &[u16]) -> Vec<String> {
    units.split(|unit| *unit == 0).take_while(|part| !part.is_empty()).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_lists_end_where_windows_ends_them() {
        assert_eq!(text(&wide("Zürich 🜨")), "Zürich 🜨");
        assert_eq!(text(&[65, 0, 66]), "A");
        assert_eq!(text(&[]), "");
        assert_eq!(list(&[65, 0, 66, 67, 0, 0, 68]), ["A", "BC"]);
        assert_eq!(list(&[0, 0]), [""; 0]);
    }
}
