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

/// The longest text that is read behind a pointer.
const UNITS_MAX: usize = 32_768;

/// The text behind a pointer of Windows'; none is empty.
///
/// # Safety
///
/// There is a NUL in what can be read from there, or the pointer is null.
pub(super) unsafe fn pointed(text: *const u16) -> String {
    let mut units = Vec::new();
    while !text.is_null() && units.len() < UNITS_MAX {
        // SAFETY: every unit before this one was no NUL, so it belongs to the text.
        let unit = unsafe { *text.wrapping_add(units.len()) };
        if unit == 0 {
            break;
        }
        units.push(unit);
    }
    String::from_utf16_lossy(&units)
}

/// The texts of a list: each has its NUL, and an empty one ends it.
pub(super) fn list(units: &[u16]) -> Vec<String> {
    units.split(|unit| *unit == 0).take_while(|part| !part.is_empty()).map(text).collect()
}

/// A list of texts: each with its NUL, and one more at the end.
pub(super) fn wide_list(texts: &[&str]) -> Vec<u16> {
    // A list of nothing has two.
    let nothing = texts.is_empty().then_some(0);
    texts.iter().flat_map(wide).chain(nothing).chain([0]).collect()
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
        assert_eq!(list(&wide_list(&["a", "bc"])), ["a", "bc"]);
        assert_eq!(wide_list(&[]), [0, 0]);
        let units = wide("Zürich");
        // SAFETY: it ends with a NUL.
        assert_eq!(unsafe { pointed(units.as_ptr()) }, "Zürich");
        // SAFETY: null.
        assert_eq!(unsafe { pointed(std::ptr::null()) }, "");
    }
}
