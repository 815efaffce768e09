//! Reads events that say of themselves what they are. What they hold may be anybody's, so nothing is believed.

use core::fmt;

/// Set in a byte of a type that another byte follows.
const MORE: u8 = 0x80;
/// The bits of a type that say how many values there are: a count that the metadata has, or the values.
const FIXED_COUNT: u8 = 0x20;
/// See [`FIXED_COUNT`].
const COUNTED: u8 = 0x40;
/// The bits of a type that are one.
const TYPE: u8 = 0x1F;

/// An event.
#[derive(Clone, Debug)]
pub struct Read<'e> {
    /// What it is called.
    pub name: &'e str,
    /// Its fields.
    pub fields: Fields<'e>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'e> {
    /// A number, or a truth, which is one.
    Unsigned(u64),
    /// A number that may be below zero.
    Signed(i64),
    /// A number that is shown by its bits.
    Hex(u64),
    /// A text.
    Text(&'e str),
    /// What is none of these: its bytes.
    Bytes(&'e [u8]),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Hex(value) => write!(f, "{value:#x}"),
            Self::Text(text) => write!(f, "{}", text.escape_debug()),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// The event of this metadata and these values; `None` if the metadata are none.
#[must_use]
pub fn decode<'e>(metadata: &'e [u8], values: &'e [u8]) -> Option<Read<'e>> {
    let (length, _) = metadata.split_first_chunk()?;
    let mut rest = metadata.get(..usize::from(u16::from_le_bytes(*length)))?.get(2..)?;
    // Tags, which nobody has asked for.
    while number(&mut rest)? & MORE != 0 {}
    let name = name(&mut rest)?;
    Some(Read { name, fields: Fields { rest, values } })
}

/// The fields of an event, in order, each with its name. One that cannot be read, or is of a type that is not known here, ends
/// them as `None`.
#[derive(Clone, Debug)]
pub struct Fields<'e> {
    rest: &'e [u8],
    values: &'e [u8],
}

impl<'e> Iterator for Fields<'e> {
    type Item = Option<(&'e str, Value<'e>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            // What is left is nobody's.
            return (!core::mem::take(&mut self.values).is_empty()).then_some(None);
        }
        let field = self.field();
        if field.is_none() {
            (self.rest, self.values) = (&[], &[]);
        }
        Some(field)
    }
}

impl<'e> Fields<'e> {
    fn field(&mut self) -> Option<(&'e str, Value<'e>)> {
        let name = name(&mut self.rest)?;
        let kind = number(&mut self.rest)?;
        if kind & MORE != 0 {
            // How it is to be shown, and tags.
            let mut more = number(&mut self.rest)?;
            while more & MORE != 0 {
                more = number(&mut self.rest)?;
            }
        }
        if kind & (FIXED_COUNT | COUNTED) != 0 {
            return None;
        }
        Some((name, self.value(kind & TYPE)?))
    }

    fn value(&mut self, kind: u8) -> Option<Value<'e>> {
        Some(match kind {
            // UINT8, 16, 32 and 64; BOOL32.
            4 => Value::Unsigned(self.bits(1)?),
            6 => Value::Unsigned(self.bits(2)?),
            8 | 13 => Value::Unsigned(self.bits(4)?),
            // And FILETIME.
            10 | 17 => Value::Unsigned(self.bits(8)?),
            // INT8, 16, 32 and 64.
            3 => Value::Signed((self.bits(1)? as i8).into()),
            5 => Value::Signed((self.bits(2)? as i16).into()),
            7 => Value::Signed((self.bits(4)? as i32).into()),
            9 => Value::Signed(self.bits(8)?.cast_signed()),
            // HEXINT32 and 64.
            20 => Value::Hex(self.bits(4)?),
            21 => Value::Hex(self.bits(8)?),
            // ANSISTRING.
            2 => text(name_bytes(&mut self.values)?),
            // COUNTEDANSISTRING.
            23 => text(self.counted()?),
            // BINARY, and COUNTEDBINARY.
            14 | 25 => Value::Bytes(self.counted()?),
            // GUID, and SYSTEMTIME.
            15 | 18 => Value::Bytes(take(&mut self.values, 16)?),
            _ => return None,
        })
    }

    fn bits(&mut self, bytes: usize) -> Option<u64> {
        let taken = take(&mut self.values, bytes)?;
        Some(taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn counted(&mut self) -> Option<&'e [u8]> {
        let count = self.bits(2)?;
        take(&mut self.values, count as usize)
    }
}

fn text(bytes: &[u8]) -> Value<'_> {
    core::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
}

fn take<'e>(from: &mut &'e [u8], bytes: usize) -> Option<&'e [u8]> {
    let (taken, rest) = from.split_at_checked(bytes)?;
    *from = rest;
    Some(taken)
}

fn number(from: &mut &[u8]) -> Option<u8> {
    take(from, 1)?.first().copied()
}

/// What is before the next zero, which goes with it.
fn name_bytes<'e>(from: &mut &'e [u8]) -> Option<&'e [u8]> {
    let end = from.iter().position(|byte| *byte == 0)?;
    let name = take(from, end)?;
    number(from)?;
    Some(name)
}

fn name<'e>(from: &mut &'e [u8]) -> Option<&'e str> {
    core::str::from_utf8(name_bytes(from)?).ok()
}

#[cfg(test)]
mod tests {
    use std::{string::String, string::ToString, vec::Vec};

    use super::*;

    fn fields(metadata: &[u8], values: &[u8]) -> Option<Vec<Option<String>>> {
        let told = |(name, value)| std::format!("{name}={value}");
        Some(decode(metadata, values)?.fields.map(|field| field.map(told)).collect())
    }

    /// Events as the crate `tracelogging` has them: tags, ways to show, texts, numbers below zero.
    #[test]
    fn events_of_others_are_read() {
        let metadata = b"\x18\0\x80\x01E\0a\0\x07b\0\x97\x23c\0\x88\x81\x05d\0\x0Fe\0\x02";
        let mut values = (-5_i32).to_le_bytes().to_vec();
        values.extend(b"\x03\0w\"t");
        values.extend(7_u32.to_le_bytes());
        values.extend([0xAB; 16]);
        values.extend(b"end\0");
        let all = fields(metadata, &values).expect("an event");
        let told: Vec<String> = all.into_iter().map(|field| field.unwrap_or_default()).collect();
        let guid = "d=".to_string() + &"ab".repeat(16);
        assert_eq!(told, ["a=-5", "b=w\\\"t", "c=7", &guid, "e=end"]);
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_told() {
        let metadata = b"\x09\0\0E\0a\0\x0A\0";
        assert_eq!(fields(&metadata[..8], &[0; 8]), None, "shorter than it says");
        let metadata = b"\x08\0\0E\0a\0\x0A";
        assert_eq!(fields(metadata, &[1; 7]), Some([None].to_vec()));
        let long = fields(metadata, &[0; 9]).expect("an event");
        assert_eq!((long.len(), long[1].clone()), (2, None));
        let array = b"\x08\0\0E\0a\0\x4A";
        assert_eq!(fields(array, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0]), Some([None].to_vec()));
        for end in 0..metadata.len() {
            assert_eq!(fields(&metadata[..end], &[0; 8]), None, "{end}");
        }
    }
}
