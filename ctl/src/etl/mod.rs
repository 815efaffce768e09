//! Log files of event tracing (`.etl`): the events of one provider, in the order of their time.
//!
//! A file is buffers of one length, each with a header and the records of one CPU. The first record of all says by which clock
//! the others were stamped. The file may be anybody's: what a length says is believed only where it fits.
//!
//! Source: the structures are those of `evntrace.h`, `evntcons.h` and `evntprov.h`; that a file is made of them so, and the header of
//! a buffer, is at <https://www.geoffchappell.com/studies/windows/km/ntoskrnl/inc/api/ntwmi/> and in files that Windows wrote.

use std::io::{self, Read};

pub mod session;
pub mod shown;

/// Bytes of the header of a buffer, `WMI_BUFFER_HEADER`.
const BUFFER_HEADER: usize = 72;
/// The longest buffer that is read; Windows' are at most 16 MiB.
const BUFFER_MAX: usize = 16 << 20;
/// `ETW_BUFFER_FLAG_COMPRESSED`.
const COMPRESSED: u16 = 0x40;
/// Bytes of `EVENT_HEADER`.
const EVENT_HEADER: usize = 80;
/// Bytes of `SYSTEM_TRACE_HEADER`.
const SYSTEM_HEADER: usize = 32;
/// `TRACE_HEADER_TYPE_*`: those whose length stands behind the type.
const LENGTH_BEHIND: [u8; 6] = [1, 2, 3, 4, 0x10, 0x11];
/// `TRACE_HEADER_TYPE_EVENT_HEADER32` and `_64`.
const EVENTS: [u8; 2] = [0x12, 0x13];
/// `TRACE_HEADER_FLAG`, which every record has.
const RECORD: u8 = 0x80;
/// `EVENT_HEADER_FLAG_EXTENDED_INFO`.
const EXTENDED: u16 = 1;
/// `EVENT_HEADER_EXT_TYPE_RELATED_ACTIVITYID`, and `_EVENT_SCHEMA_TL`.
const RELATED: u16 = 1;
const SCHEMA: u16 = 11;
/// Units of a FILETIME in a second.
const SECOND: i128 = 10_000_000;

/// A GUID as memory has it.
pub type Guid = [u8; 16];

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When it was written, in 100 ns since 1601, UTC.
    pub time: i64,
    /// On which CPU.
    pub cpu: u16,
    /// By which thread.
    pub thread: u32,
    /// Of which process.
    pub process: u32,
    /// Its number, where its provider gives it one.
    pub id: u16,
    /// How much it matters: 1 critical to 5 verbose.
    pub level: u8,
    /// Whether something begins (1) or ends (2) with it.
    pub opcode: u8,
    /// What it is about.
    pub keywords: u64,
    /// The activity it is part of; zeroes if none.
    pub activity: Guid,
    /// The one that this came of.
    pub related: Option<Guid>,
    /// What it says of itself, if it does.
    pub metadata: Vec<u8>,
    /// Its values.
    pub values: Vec<u8>,
}

/// What a file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The provider's events.
    pub events: Vec<Event>,
    /// Records that are of others.
    pub others: u64,
    /// Buffers of which not all could be read.
    pub damaged: u64,
    /// Events that were lost when they were recorded, as the file says.
    pub lost_events: u32,
    /// Buffers of events that were lost.
    pub lost_buffers: u32,
}

/// Why nothing is read.
#[derive(Debug)]
pub enum Failure {
    /// The file cannot be read.
    Io(io::Error),
    /// It is no log file, or one that was not closed.
    NoLog,
    /// It is compressed.
    Compressed,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(why) => f.write_str(&crate::words::said(why)),
            Self::NoLog => f.write_str("it is no log file of event tracing (.etl)"),
            Self::Compressed => f.write_str(
                "its events are compressed, which is not read here: record without compression",
            ),
        }
    }
}

/// By which clock events are stamped.
#[derive(Clone, Copy, Default)]
struct Clock {
    /// Ticks a second; none if a stamp is a FILETIME.
    frequency: Option<i64>,
    /// The stamp of the file's first record.
    first: i64,
    /// The FILETIME of that.
    start: i64,
}

impl Clock {
    fn time(&self, stamp: i64) -> i64 {
        let Some(frequency) = self.frequency else { return stamp };
        let since = (i128::from(stamp) - i128::from(self.first)) * SECOND / i128::from(frequency);
        i64::try_from(i128::from(self.start) + since).unwrap_or(self.start)
    }
}

/// Reads the events of `provider`.
///
/// # Errors
///
/// [`Failure`]. Of a file that is damaged behind its first record, what can be read is.
pub fn read(mut file: impl Read, provider: &Guid) -> Result<Log, Failure> {
    let mut log = Log::default();
    let mut clock = None;
    while let Some(buffer) = Buffer::read(&mut file).map_err(Failure::Io)? {
        let (cpu, records) = match buffer {
            Buffer::Whole { cpu, records } => (cpu, records),
            Buffer::Compressed => return Err(Failure::Compressed),
            Buffer::Damaged => {
                log.damaged = log.damaged.saturating_add(1);
                break;
            }
        };
        if let Some(clock) = clock {
            log.records(&records, cpu, provider, clock);
        } else {
            let (record, rest) = record(&records).ok_or(Failure::NoLog)?;
            let first = log.header(record).ok_or(Failure::NoLog)?;
            clock = Some(first);
            log.records(rest, cpu, provider, first);
        }
    }
    if clock.is_none() {
        return Err(Failure::NoLog);
    }
    // Those of a CPU are in order; a stable sort leaves those of one moment as they are.
    log.events.sort_by_key(|event| event.time);
    Ok(log)
}

/// A buffer of the file.
enum Buffer {
    Whole {
        cpu: u16,
        records: Vec<u8>,
    },
    Compressed,
    /// What follows cannot be told.
    Damaged,
}

impl Buffer {
    /// The next one; `None` at the end of the file.
    fn read(file: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = Vec::new();
        file.by_ref().take(BUFFER_HEADER as u64).read_to_end(&mut header)?;
        if header.is_empty() {
            return Ok(None);
        }
        Self::of(&header, file).map(Some)
    }

    fn of(header: &[u8], file: &mut impl Read) -> io::Result<Self> {
        let Some((length, end, flags, cpu)) = Self::fields(header) else {
            return Ok(Self::Damaged);
        };
        // Its length is that of what is compressed, then.
        if flags & COMPRESSED != 0 {
            return Ok(Self::Compressed);
        }
        let (Some(length), Some(end)) =
            (length.checked_sub(BUFFER_HEADER), end.checked_sub(BUFFER_HEADER))
        else {
            return Ok(Self::Damaged);
        };
        let mut records = Vec::new();
        if length <= BUFFER_MAX {
            file.by_ref().take(length as u64).read_to_end(&mut records)?;
        }
        // The last one may be cut off behind its records.
        if end > records.len() {
            return Ok(Self::Damaged);
        }
        records.truncate(end);
        Ok(Self::Whole { cpu, records })
    }

    /// Length, where records end, flags, CPU.
    fn fields(header: &[u8]) -> Option<(usize, usize, u16, u16)> {
        let (length, end) = (u32_at(header, 0)? as usize, u32_at(header, 4)? as usize);
        Some((length, end, u16_at(header, 52)?, u16_at(header, 40)?))
    }
}

impl Log {
    /// What the file's first record says of all; `None` if it is another.
    fn header(&mut self, record: &[u8]) -> Option<Clock> {
        let (kind, group) = (record.get(2)?, record.get(7)?);
        // EVENT_TRACE_GROUP_HEADER.
        if !matches!(kind, 1 | 2) || *group != 0 {
            return None;
        }
        let about = record.get(SYSTEM_HEADER..)?;
        // Behind two pointers and a time zone.
        let rest = about.get(if u32_at(about, 44)? == 4 { 240 } else { 248 }..)?;
        self.lost_events = u32_at(about, 48)?;
        self.lost_buffers = u32_at(rest, 28)?;
        let (frequency, start) = (i64_at(rest, 8)?, i64_at(rest, 16)?);
        let frequency = match u32_at(rest, 24)? {
            // EVENT_CLOCK_SYSTEMTIME, and _CPUCYCLE.
            2 => None,
            3 => Some(i64::from(u32_at(about, 52)?).saturating_mul(1_000_000)),
            _ => Some(frequency),
        };
        (frequency != Some(0)).then_some(Clock { frequency, first: i64_at(record, 16)?, start })
    }

    fn records(&mut self, mut records: &[u8], cpu: u16, provider: &Guid, clock: Clock) {
        while !records.is_empty() {
            let Some((next, rest)) = record(records) else {
                self.damaged = self.damaged.saturating_add(1);
                return;
            };
            let is_event = next.get(2).is_some_and(|kind| EVENTS.contains(kind));
            if is_event && next.get(24..40) == Some(provider) {
                if let Some(event) = event(next, cpu, clock) {
                    self.events.push(event);
                } else {
                    self.damaged = self.damaged.saturating_add(1);
                    return;
                }
            } else {
                self.others = self.others.saturating_add(1);
            }
            records = rest;
        }
    }
}

/// The first of some records, and those behind it, which begin at the next 8 bytes.
fn record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let (kind, flags) = (records.get(2)?, records.get(3)?);
    let length = u16_at(records, if LENGTH_BEHIND.contains(kind) { 4 } else { 0 })?;
    let length = usize::from(length);
    if flags & RECORD == 0 || length < 8 {
        return None;
    }
    let rest = records.get(length.next_multiple_of(8)..).unwrap_or_default();
    Some((records.get(..length)?, rest))
}

fn event(record: &[u8], cpu: u16, clock: Clock) -> Option<Event> {
    let mut event = Event {
        time: clock.time(i64_at(record, 16)?),
        cpu,
        thread: u32_at(record, 8)?,
        process: u32_at(record, 12)?,
        id: u16_at(record, 40)?,
        level: *record.get(44)?,
        opcode: *record.get(45)?,
        keywords: i64_at(record, 48)?.cast_unsigned(),
        activity: *record.get(64..)?.first_chunk()?,
        ..Event::default()
    };
    let mut rest = record.get(EVENT_HEADER..)?;
    let mut follows = u16_at(record, 4)? & EXTENDED != 0;
    while follows {
        let (kind, length) = (u16_at(rest, 2)?, usize::from(u16_at(rest, 6)?));
        follows = u16_at(rest, 4)? & 1 != 0;
        let item = rest.get(8..)?.get(..length)?;
        match kind {
            RELATED => event.related = item.first_chunk().copied(),
            SCHEMA => item.clone_into(&mut event.metadata),
            _ => {}
        }
        rest = rest.get((8 + length).next_multiple_of(8)..)?;
    }
    rest.clone_into(&mut event.values);
    Some(event)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().copied().map(i64::from_le_bytes)
}

#[cfg(all(test, not(windows)))] // proptest is not there for Windows
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROVIDER: Guid = *b"a provider's own";

    /// A file of events of CPUs, with their stamps and values. The session began at 500, which are 1,000 a second.
    fn file(events: &[(u8, i64, &[u8])]) -> Vec<u8> {
        let mut first = vec![0; SYSTEM_HEADER + 280];
        let length = (first.len() as u16).to_le_bytes();
        first[..8].copy_from_slice(&[2, 0, 2, 0xC0, length[0], length[1], 0, 0]);
        let mut put = |at: usize, bytes: &[u8]| first[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &500_i64.to_le_bytes());
        put(SYSTEM_HEADER + 44, &8_u32.to_le_bytes());
        put(SYSTEM_HEADER + 48, &7_u32.to_le_bytes());
        put(SYSTEM_HEADER + 248 + 8, &1000_i64.to_le_bytes());
        put(SYSTEM_HEADER + 248 + 16, &1_000_000_000_i64.to_le_bytes());
        put(SYSTEM_HEADER + 248 + 24, &1_u32.to_le_bytes());
        let mut buffers = vec![(0, first)];
        for (cpu, stamp, values) in events {
            let mut event = vec![0; EVENT_HEADER];
            event[2..5].copy_from_slice(&[0x13, 0xC0, 1]);
            event[16..24].copy_from_slice(&stamp.to_le_bytes());
            event[24..40].copy_from_slice(&PROVIDER);
            event.extend([16, 0, 11, 0, 0, 0, 8, 0]);
            event.extend(b"\x08\0\0E\0a\0\x02");
            event.extend(*values);
            let length = (event.len() as u16).to_le_bytes();
            event[..2].copy_from_slice(&length);
            buffers.push((*cpu, event));
        }
        let mut file = Vec::new();
        for (cpu, records) in buffers {
            let (begin, end) = (file.len(), (BUFFER_HEADER + records.len()) as u32);
            file.extend([1024, end].map(u32::to_le_bytes).concat());
            file.resize(begin + BUFFER_HEADER, 0);
            file[begin + 40] = cpu;
            file.extend(records);
            file.resize(begin + 1024, 0xFF);
        }
        file
    }

    #[test]
    fn an_event_has_its_time_and_what_it_says_of_itself() {
        let log = read(&*file(&[(3, 2500, b"text\0")]), &PROVIDER).unwrap();
        let counts = (log.others, log.damaged, log.lost_events, log.lost_buffers);
        assert_eq!((counts, log.events.len()), ((0, 0, 7, 0), 1));
        let event = &log.events[0];
        assert_eq!((event.time, event.cpu), (1_000_000_000 + 2 * 10_000_000, 3));
        assert_eq!(event.metadata, b"\x08\0\0E\0a\0\x02", "of the length that is said");
        assert_eq!(event.values, b"text\0");
        let log = read(&*file(&[(3, 2500, b"text\0")]), &[0; 16]).unwrap();
        assert_eq!((log.events.len(), log.others), (0, 1));
    }

    #[test]
    fn events_are_in_the_order_of_their_time() {
        let log =
            read(&*file(&[(1, 700, b"b"), (2, 600, b"a"), (3, 700, b"c")]), &PROVIDER).unwrap();
        let values: Vec<_> = log.events.iter().map(|event| &*event.values).collect();
        assert_eq!(values, [b"a", b"b", b"c"]);
    }

    #[test]
    fn what_is_damaged_is_counted() {
        let whole = file(&[(1, 700, b"a"), (1, 800, b"b")]);
        let counts = |file: &[u8]| {
            let log = read(file, &PROVIDER).unwrap();
            (log.events.len(), log.damaged)
        };
        assert_eq!(counts(&whole), (2, 0));
        let (second, third) = (1024, 2048);
        assert_eq!(counts(&whole[..third + BUFFER_HEADER + 10]), (1, 1), "cut in a record");
        assert_eq!(counts(&whole[..third + 10]), (1, 1), "cut in a header");
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = whole.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            counts(&file)
        };
        assert_eq!(changed(second + BUFFER_HEADER, &[0, 0]), (1, 1), "a record of no length");
        assert_eq!(changed(second + BUFFER_HEADER, &[90, 0]), (1, 1), "one that ends too early");
        assert_eq!(changed(second + 4, &[71, 0, 0, 0]), (0, 1), "records end in the header");
        assert_eq!(changed(second, &[0xFF; 4]), (0, 1), "a buffer of 4 GiB");
    }

    proptest! {
        /// Bytes of a file may be anything: it is read to some end, and what is shown of it is text.
        #[test]
        fn changed_files_are_read_to_some_end(
            changes in proptest::collection::vec((0..2048_usize, any::<u8>()), 0..8),
            length in 0..=2048_usize,
            values in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut file = file(&[(0, 1, &values)]);
            for (at, byte) in changes {
                file[at] = byte;
            }
            file.truncate(length);
            if let Ok(log) = read(&*file, &PROVIDER) {
                for event in &log.events {
                    prop_assert!(!shown::line(event).contains('\n'));
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&shown::json(event)).is_ok());
                }
            }
        }

        /// No length that a file tells has memory be taken for what is not there.
        #[test]
        fn any_bytes_are_no_log(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&*bytes, &PROVIDER).is_err());
        }
    }
}
