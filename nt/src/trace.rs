//! Lines for a kernel debugger.
//!
//! For what happens once in a while: never per packet, because the one who sends packets would
//! decide how much is printed. A line is made on the stack and cut at [`LINE`] bytes; nothing is
//! allocated. Shown when bit `level` of the mask of the component `IHVDRIVER` is set. Any IRQL up
//! to `DISPATCH_LEVEL`.

use core::fmt::{self, Write};

use wdk_sys::ntddk::DbgPrintEx;

/// Bytes of text in a line, the prefix included, the terminating zero not.
pub const LINE: usize = 255;

/// The component under which drivers of other vendors print: `DPFLTR_IHVDRIVER_ID`. [dpfilter.h]
const COMPONENT: u32 = 77;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed that should not.
    Error = 0,
    /// Something is not as it was meant, and goes on.
    Warning = 1,
    /// Something happened.
    Info = 3,
}

/// Prints one line: `trace!(Info, "listening on port {port}")`.
#[macro_export]
macro_rules! trace {
    ($level:ident, $($text:tt)+) => {
        $crate::trace::print($crate::trace::Level::$level, ::core::format_args!($($text)+))
    };
}

/// Prints `text` as a line; what [`trace!`](crate::trace!) calls.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-dbgprintex>
pub fn print(level: Level, text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    // A cut line is an error to `write_fmt` and good enough for us.
    let _cut = write!(line, "penstock: {text}");
    // SAFETY: the format takes one string, which is terminated (`Line`'s invariant); allowed up to
    // DIRQL.
    unsafe { DbgPrintEx(COMPONENT, level as u32, c"%s\n".as_ptr(), line.text.as_ptr()) };
}

/// Text being written.
///
/// # Invariants
///
/// `len` is at most [`LINE`], and what follows the first `len` bytes is zero.
struct Line {
    text: [u8; LINE + 1],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { text: [0; LINE + 1], len: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(|byte| *byte != 0) {
            let Some(place) = self.text[..LINE].get_mut(self.len) else { return Err(fmt::Error) };
            *place = byte;
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_and_terminated() {
        let mut line = Line::new();
        assert!(line.write_str("a\0b").is_ok());
        assert_eq!(&line.text[..3], b"ab\0");
        for _ in 2..LINE {
            assert!(line.write_str("x").is_ok());
        }
        assert!(line.write_str("y").is_err());
        assert_eq!((line.text[LINE - 1], line.text[LINE]), (b'x', 0));
    }
}
