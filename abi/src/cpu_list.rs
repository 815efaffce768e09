//! A list of CPUs, as an administrator writes it: `0-1, 16, 1:0-3`.
//!
//! Parts with commas between, and spaces anywhere around them. A number is a CPU by its index through all
//! processor groups, as `ScalingBase` counts; `GROUP:NUMBER` is one by its number within a group, as
//! `Get-NetAdapterRss` shows it; `FIRST-LAST` is all from the one to the other. Empty is none. A CPU that
//! the machine does not have may be named.

use core::fmt;

/// The most parts of a list.
pub const MOST_PARTS: usize = 32;
/// The most characters of a list.
pub const MOST_CHARACTERS: usize = 256;
/// The greatest index of a CPU: Windows has room for 2048.
const GREATEST_INDEX: u16 = 2_047;
/// The greatest number of a group, and of a CPU within one.
const GREATEST_GROUP: u16 = 31;
/// See [`GREATEST_GROUP`].
const GREATEST_NUMBER: u16 = 63;

/// CPUs, each by its index or by group and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuList {
    parts: [Part; MOST_PARTS],
    count: usize,
}

/// CPUs from `first` to `last`: of a group, or by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    group: Option<u16>,
    first: u16,
    last: u16,
}

/// Why a text is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuListError {
    /// The part of this number, from 1 on, is no CPU and no range of CPUs, or ends before it begins.
    Part(usize),
    /// More than [`MOST_PARTS`] parts.
    TooMany,
}

impl CpuList {
    /// No CPU.
    pub const NONE: Self =
        Self { parts: [Part { group: None, first: 0, last: 0 }; MOST_PARTS], count: 0 };

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// [`CpuListError`]: nothing of it holds.
    pub fn parse(text: &str) -> Result<Self, CpuListError> {
        let mut list = Self::NONE;
        if text.trim_ascii().is_empty() {
            return Ok(list);
        }
        for (position, part) in text.split(',').enumerate() {
            let place = list.parts.get_mut(position).ok_or(CpuListError::TooMany)?;
            *place = Part::parse(part).ok_or(CpuListError::Part(position + 1))?;
            list.count = position + 1;
        }
        Ok(list)
    }

    /// Whether it names the CPU of this index, which is `number` of `group`.
    #[must_use]
    pub fn contains(&self, index: u32, group: u16, number: u8) -> bool {
        let parts = self.parts.iter().take(self.count);
        parts.into_iter().any(|part| {
            let cpu = match part.group {
                None => index,
                Some(of) if of == group => number.into(),
                Some(_) => return false,
            };
            (u32::from(part.first)..=u32::from(part.last)).contains(&cpu)
        })
    }
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        let (group, range) = match text.split_once(':') {
            Some((group, range)) => (Some(number(group, GREATEST_GROUP)?), range),
            None => (None, text),
        };
        let greatest = if group.is_some() { GREATEST_NUMBER } else { GREATEST_INDEX };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first, greatest)?, number(last, greatest)?);
        (first <= last).then_some(Self { group, first, last })
    }
}

/// Digits only, up to `greatest`.
fn number(text: &str, greatest: u16) -> Option<u16> {
    let text = text.trim_ascii();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= greatest)
}

impl fmt::Display for CpuListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => write!(f, "part {part} is no CPU and no range of CPUs"),
            Self::TooMany => write!(f, "it has more than {MOST_PARTS} parts"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{format, string::String, vec::Vec};

    /// The CPUs of 0 to 255 that it names; of each group 0 to 63.
    fn named(text: &str) -> Vec<u32> {
        let list = CpuList::parse(text).unwrap();
        let named = |index: &u32| list.contains(*index, (*index / 64) as u16, (*index % 64) as u8);
        (0..256).filter(named).collect()
    }

    #[test]
    fn numbers_ranges_and_groups() {
        assert_eq!(named(""), [0; 0]);
        assert_eq!(named("  "), [0; 0]);
        assert_eq!(named("3"), [3]);
        assert_eq!(named(" 0 - 1 ,3,2047"), [0, 1, 3]);
        assert_eq!(named("1:0-2, 3:63"), [64, 65, 66, 255]);
        assert_eq!(named("63-65"), [63, 64, 65]);
    }

    #[test]
    fn what_is_no_list_is_refused_and_the_part_is_named() {
        for (text, part) in [
            ("x", 1),
            ("1,", 2),
            (",1", 1),
            ("1,,2", 2),
            ("0,3-2", 2),
            ("2048", 1),
            ("1:64", 1),
            ("32:0", 1),
            ("1:2:3", 1),
            ("1-2-3", 1),
            ("-1", 1),
            ("+1", 1),
            ("1;2", 1),
            ("0x1", 1),
            ("1:", 1),
            (":1", 1),
            ("65536", 1),
        ] {
            assert_eq!(CpuList::parse(text), Err(CpuListError::Part(part)), "{text}");
        }
        let many: Vec<_> = (0..=MOST_PARTS).map(|cpu| format!("{cpu}")).collect();
        assert_eq!(CpuList::parse(&many.join(",")), Err(CpuListError::TooMany));
        assert!(CpuList::parse(&many[1..].join(",")).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_not(text in ".{0,80}") {
            let _ = CpuList::parse(&text);
        }

        #[test]
        fn a_list_names_what_it_says(ranges in proptest::collection::vec((0_u32..256, 0_u32..40), 0..32)) {
            let text: Vec<String> =
                ranges.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let expected: Vec<u32> = (0..256)
                .filter(|cpu| ranges.iter().any(|(first, more)| (*first..=first + more).contains(cpu)))
                .collect();
            prop_assert_eq!(named(&text.join(", ")), expected);
        }
    }
}
