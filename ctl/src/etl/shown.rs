//! Events as lines for a person, or as JSON.

use std::fmt::Write;

use abi::discard::Discard;
use abi::ioctl::UNIX_EPOCH_FILETIME;
use abi::trace::decode::{self, Value, decode};
use serde_json::{Map, json};
use time::UtcDateTime;

use super::{Event, Log};
use crate::tunnel::guid::Guid;

/// Names of levels, from 1 on: `WINEVENT_LEVEL_*`.
const LEVELS: [&str; 5] = ["critical", "error", "warning", "info", "verbose"];
/// Left out of lines: it has the true order, and is no time that says a person anything.
const TICKS: &str = "Tsc";
/// A word of [`abi::events::Event::Discarded`], the number of a [`Discard`].
const REASON: &str = "reason";

/// An event as a line: time, level, name, whether something starts or stops with it, fields, activity.
#[must_use]
pub fn line(event: &Event) -> String {
    let mut line = format!("{} {:8}", time(event.time), level(event));
    match read(event) {
        None => {
            let _ = write!(line, "event {}: it does not say what it is", event.id);
        }
        Some(read) => {
            line += &read.name.escape_debug().to_string();
            line += opcode(event)
                .map_or("", |word| if word == "start" { " (start)" } else { " (stop)" });
            for field in read.fields {
                let _ = match field {
                    Some((TICKS, _)) => Ok(()),
                    Some((REASON, Value::Unsigned(number))) => {
                        write!(line, " {REASON}={}", reason(number))
                    }
                    Some((name, value)) => write!(line, " {}={value}", name.escape_debug()),
                    None => write!(line, " ?"),
                };
            }
        }
    }
    if event.activity != [0; 16] {
        let _ = write!(line, " {}", guid(&event.activity));
    }
    line
}

/// An event as a line of JSON.
#[must_use]
pub fn json(event: &Event) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value| object.insert(name.to_owned(), value);
    put("time", json!(time(event.time)));
    put("cpu", json!(event.cpu));
    put("process", json!(event.process));
    put("thread", json!(event.thread));
    put("level", json!(level(event)));
    put("keywords", json!(event.keywords));
    for (name, id) in [("activity", Some(event.activity)), ("related", event.related)] {
        if let Some(id) = id.filter(|id| *id != [0; 16]) {
            put(name, json!(guid(&id).to_string()));
        }
    }
    if let Some(word) = opcode(event) {
        put("opcode", json!(word));
    }
    match read(event) {
        None => {
            put("id", json!(event.id));
        }
        Some(read) => {
            put("name", json!(read.name));
            let mut is_whole = true;
            let mut fields = Map::new();
            for field in read.fields {
                match field {
                    Some((name, value)) => fields.insert(name.to_owned(), self::value(value)),
                    None => {
                        is_whole = false;
                        None
                    }
                };
            }
            put("fields", fields.into());
            if !is_whole {
                put("unread", json!(true));
            }
        }
    }
    serde_json::Value::Object(object).to_string()
}

/// What is told besides events: nothing where all is as it should be.
#[must_use]
pub fn missing(log: &Log) -> Option<String> {
    let mut parts = Vec::new();
    let lost = u64::from(log.lost_events);
    for (number, one, several) in [
        (lost, "event was lost when it was recorded", "events were lost when they were recorded"),
        (log.lost_buffers.into(), "buffer was lost", "buffers were lost"),
        (log.damaged, "buffer of the file is damaged", "buffers of the file are damaged"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {}", if number == 1 { one } else { several }));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn read(event: &Event) -> Option<decode::Read<'_>> {
    decode(&event.metadata, &event.values)
}

fn reason(number: u64) -> String {
    let row = usize::try_from(number).ok().and_then(|number| Discard::ALL.get(number));
    row.map_or_else(|| number.to_string(), |row| row.name().to_owned())
}

fn value(value: Value<'_>) -> serde_json::Value {
    match value {
        Value::Unsigned(number) => number.into(),
        Value::Signed(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Hex(_) | Value::Bytes(_) => value.to_string().into(),
    }
}

fn level(event: &Event) -> &'static str {
    let at = usize::from(event.level).checked_sub(1);
    at.and_then(|at| LEVELS.get(at)).copied().unwrap_or("always")
}

fn opcode(event: &Event) -> Option<&'static str> {
    match event.opcode {
        abi::trace::START => Some("start"),
        abi::trace::STOP => Some("stop"),
        _ => None,
    }
}

fn guid(guid: &super::Guid) -> Guid {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let mut number = 0;
    for byte in [d, c, b, a, f, e, h, g].into_iter().chain(rest) {
        number = number << 8 | u128::from(byte);
    }
    Guid(number)
}

/// A FILETIME by the calendar, in UTC.
fn time(filetime: i64) -> String {
    let since_1970 = i128::from(filetime) - i128::from(UNIX_EPOCH_FILETIME);
    let Ok(at) = UtcDateTime::from_unix_timestamp_nanos(since_1970 * 100) else {
        return filetime.to_string();
    };
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second, units) =
        (at.hour(), at.minute(), at.second(), at.nanosecond() / 100);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{units:07}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_of_the_calendar() {
        for (filetime, text) in [
            (0, "1601-01-01T00:00:00.0000000Z"),
            (116_444_736_000_000_000, "1970-01-01T00:00:00.0000000Z"),
            // The day behind the last of February, in a year with a leap day.
            (133_537_248_000_000_001, "2024-03-01T00:00:00.0000001Z"),
            (-1, "1600-12-31T23:59:59.9999999Z"),
            (i64::MAX, "9223372036854775807"),
        ] {
            assert_eq!(time(filetime), text);
        }
    }

    #[test]
    fn a_guid_is_written_as_windows_does() {
        let bytes = [
            0x24, 0x87, 0x89, 0x8C, 0xA0, 0x58, 0xCD, 0x59, 0x07, 0xA6, 0xCE, 0x95, 0xC5, 0xFF,
            0x66, 0xF7,
        ];
        assert_eq!(guid(&bytes).to_string(), "{8c898724-58a0-59cd-07a6-ce95c5ff66f7}");
    }
}
