//! What a driver says: `DbgPrintEx`, and its last words, `KeBugCheckEx`.

use crate::loader::probe::{self, Fault};
use crate::nt::thread::Thread;
use crate::verifier::schedule::lock;

/// Longest line. Source: DDI wdm/nf-wdm-dbgprintex (512 bytes a call).
const LINE: usize = 512;
/// Lines kept.
const KEPT: usize = 4096;
/// The stop code of a panic of the driver: `Pnst`, with file name, its length, line and column.
const PANIC: u32 = u32::from_be_bytes(*b"Pnst");

/// One conversion of a format.
struct Conversion {
    zeroes: bool,
    width: usize,
    precision: Option<usize>,
    wide: bool,
    kind: u8,
}

/// Parses what follows a percent sign; returns it and the rest.
fn parse(mut format: &[u8]) -> Option<(Conversion, &[u8])> {
    let mut conversion =
        Conversion { zeroes: false, width: 0, precision: None, wide: false, kind: 0 };
    while let [flag @ (b'0' | b'-' | b'#' | b'+' | b' '), rest @ ..] = format {
        conversion.zeroes |= *flag == b'0';
        format = rest;
    }
    let number = |format: &mut &[u8]| {
        let mut value = 0_usize;
        while let [digit @ b'0'..=b'9', rest @ ..] = *format {
            value = (value * 10 + usize::from(digit - b'0')).min(LINE);
            *format = rest;
        }
        value
    };
    conversion.width = number(&mut format);
    if let [b'.', rest @ ..] = format {
        format = rest;
        conversion.precision = Some(number(&mut format));
    }
    while let [length @ (b'l' | b'h' | b'I' | b'z' | b'w' | b'6' | b'4'), rest @ ..] = format {
        conversion.wide |= format.starts_with(b"ll") || matches!(length, b'I' | b'z');
        format = rest;
    }
    let (kind, rest) = format.split_first()?;
    conversion.kind = *kind;
    Some((conversion, rest))
}

fn convert(conversion: &Conversion, value: u64) -> Result<String, Fault> {
    let narrow = if conversion.wide { value } else { value & 0xFFFF_FFFF };
    let text = match conversion.kind {
        b'd' | b'i' if conversion.wide => value.cast_signed().to_string(),
        b'd' | b'i' => (value as i32).to_string(),
        b'u' => narrow.to_string(),
        b'x' => format!("{narrow:x}"),
        b'X' => format!("{narrow:X}"),
        b'p' => format!("{value:016X}"),
        b'c' => char::from(value as u8).to_string(),
        b's' if value == 0 => "(null)".into(),
        b's' => {
            let limit = conversion.precision.unwrap_or(LINE).min(LINE);
            String::from_utf8_lossy(&probe::c_string(value as usize, limit)?).into_owned()
        }
        b'Z' => probe::unicode_string(value as usize)?,
        other => format!("%{}", char::from(other)),
    };
    let fill = if conversion.zeroes { '0' } else { ' ' };
    let missing = conversion.width.saturating_sub(text.len());
    Ok(std::iter::repeat_n(fill, missing).collect::<String>() + &text)
}

/// Formats as the kernel does, with the arguments that are there.
pub(crate) fn format(format: &[u8], arguments: &[u64]) -> Result<String, Fault> {
    let mut out = String::new();
    let (mut rest, mut arguments) = (format, arguments.iter());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(char::from(byte));
        } else if let [b'%', after @ ..] = rest {
            out.push('%');
            rest = after;
        } else if let Some((conversion, after)) = parse(rest) {
            out.push_str(&convert(&conversion, arguments.next().copied().unwrap_or(0))?);
            rest = after;
        }
    }
    out.truncate(out.floor_char_boundary(LINE));
    Ok(out)
}

fn print(thread: &Thread, pattern: usize, arguments: &[u64]) -> Result<(), Fault> {
    let line = format(&probe::c_string(pattern, LINE)?, arguments)?;
    let machine = thread.machine();
    if machine.options().print {
        eprintln!("[{}] {}", machine.name(), line.trim_end());
    }
    let mut kept = lock(&machine.prints);
    if kept.len() < KEPT {
        kept.push(line);
    }
    Ok(())
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Prints a line; up to seven arguments are looked at.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-dbgprintex"]
    fn DbgPrintEx(thread, component: u32, level: u32, format: usize, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64) -> i32 {
        match print(thread, format, &[a, b, c, d, e, f, g]) {
            Ok(()) => 0,
            Err(Fault(address)) => thread.bad_pointer("Format or an argument", address),
        }
    }

    /// Stops the machine.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kebugcheckex"]
    fn KeBugCheckEx(thread, code: u32, a: u64, b: u64, c: u64, d: u64) {
        let detail = if code == PANIC {
            let file = probe::bytes(a as usize, (b as usize).min(LINE)).unwrap_or_default();
            format!("the driver panicked at {}:{c}:{d}", String::from_utf8_lossy(&file))
        } else {
            "the driver stopped the machine".into()
        };
        thread.bugcheck_of_driver(code, [a, b, c, d], detail);
    }
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn formats_as_c_does() {
        crate::loader::trap::install();
        let text = c"abc";
        let place = text.as_ptr().expose_provenance() as u64;
        let show = |pattern: &str, values: &[u64]| format(pattern.as_bytes(), values).unwrap();
        assert_eq!(show("%d %u %llu%%", &[u64::MAX, 5, 1 << 40]), "-1 5 1099511627776%");
        assert_eq!(show("%08x|%4d|%s|%.2s", &[0xAB, 7, place, place]), "000000ab|   7|abc|ab");
        assert_eq!(show("%p %c", &[0x10, 65]), "0000000000000010 A");
        assert_eq!(show("tail %", &[]), "tail ");
        assert!(format(b"%s", &[8]).is_err());
    }
}
