//! The log file of a session of event tracing, as it is when the session has ended.
//!
//! Buffers of [`BUFFER`] bytes, each with a header and the events of one CPU; the first has what there is to say of all. Stamps are
//! of a counter of 10 MHz, as Windows 11 on most machines has.
//!
//! Source: `evntrace.h`, `evntcons.h` and `evntprov.h` for the structures; the header of a buffer and the order of it all are
//! inferred, from <https://www.geoffchappell.com/studies/windows/km/ntoskrnl/inc/api/ntwmi/> and from files that Windows wrote.

use super::etw::{Kept, Traced};

/// Bytes of a buffer.
const BUFFER: usize = 64 << 10;
/// Bytes of `WMI_BUFFER_HEADER`.
const HEADER: usize = 72;
/// Ticks a second.
const FREQUENCY: u64 = 10_000_000;
/// `EVENT_CLOCK_PERFCOUNTER`: `EVENT_TRACE_CLOCK_PERFCOUNTER`.
const PERFCOUNTER: u32 = 1;
/// `ETW_BUFFER_FLAG_PROC_INDEX`, the CPU's number has 16 bits, and `_FLUSH_MARKER`.
const BUFFER_FLAGS: u16 = 0x21;
/// `ETW_BUFFER_TYPE_GENERIC`, and `_HEADER`.
const GENERIC: u16 = 0;
/// See [`GENERIC`].
const ABOUT_ALL: u16 = 4;
/// `EtwBufferStateFlush`: it was written.
const WRITTEN: u32 = 3;
/// `EVENT_TRACE_FILE_MODE_SEQUENTIAL`.
const SEQUENTIAL: u32 = 1;
/// `EVENT_HEADER_FLAG_EXTENDED_INFO`.
const EXTENDED: u16 = 1;
/// `EVENT_HEADER_EXT_TYPE_RELATED_ACTIVITYID`, `_EVENT_SCHEMA_TL` and `_PROV_TRAITS`.
const RELATED: u16 = 1;
/// See [`RELATED`].
const SCHEMA: u16 = 11;
/// See [`RELATED`].
const TRAITS: u16 = 12;
/// Bytes of a `TIME_ZONE_INFORMATION`.
const TIME_ZONE: usize = 172;
/// What fills a buffer behind its events.
const FILLING: u8 = 0xFF;

/// What a file says of the session besides its events.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The session's name.
    pub session: &'a str,
    /// The file's path.
    pub path: &'a str,
    /// The machine's CPUs.
    pub cpus: u32,
    /// When the machine was started, in 100 ns since 1601.
    pub booted: u64,
}

/// The file.
#[must_use]
pub fn file(kept: &Kept, about: &About<'_>) -> Vec<u8> {
    let stamp = |time: u64| time.saturating_sub(about.booted);
    let mut buffers: Vec<(u32, Vec<u8>)> = Vec::new();
    for event in &kept.events {
        let record = record(event, stamp(event.time));
        let fits = |(cpu, buffer): &&mut (u32, Vec<u8>)| {
            *cpu == event.cpu && HEADER + buffer.len() + record.len() <= BUFFER
        };
        match buffers.iter_mut().rev().find(fits) {
            Some((_, buffer)) => buffer.extend(&record),
            None => buffers.push((event.cpu, record)),
        }
    }
    let first = header(kept, about, buffers.len() + 1);
    let mut file = Vec::new();
    let ended = stamp(kept.ended);
    put_buffer(&mut file, 0, ABOUT_ALL, &first, stamp(kept.began));
    for (number, (cpu, records)) in buffers.iter().enumerate() {
        put_buffer(&mut file, number as u64 + 1, GENERIC, records, ended);
        let at = file.len() - BUFFER + 40;
        file[at..at + 2].copy_from_slice(&(*cpu as u16).to_le_bytes());
    }
    file
}

fn put_buffer(file: &mut Vec<u8>, number: u64, kind: u16, records: &[u8], stamp: u64) {
    let begin = file.len();
    let end = (HEADER + records.len()) as u32;
    file.extend((BUFFER as u32).to_le_bytes());
    // Where it ends, where it would have gone on, and users.
    file.extend([end, end, 0].map(u32::to_le_bytes).concat());
    file.extend(stamp.to_le_bytes());
    file.extend(number.to_le_bytes());
    file.extend([0; 8]); // the clock, which the first record tells
    // The CPU, and the session's number.
    file.extend([0_u16, 1].map(u16::to_le_bytes).concat());
    file.extend(WRITTEN.to_le_bytes());
    file.extend(end.to_le_bytes());
    file.extend([BUFFER_FLAGS, kind].map(u16::to_le_bytes).concat());
    file.resize(begin + HEADER, 0);
    file.extend(records);
    file.resize(begin + BUFFER, FILLING);
}

/// `SYSTEM_TRACE_HEADER` and `TRACE_LOGFILE_HEADER` of 64-bit Windows.
fn header(kept: &Kept, about: &About<'_>, buffers: usize) -> Vec<u8> {
    let mut record = Vec::new();
    // Version, TRACE_HEADER_TYPE_SYSTEM64 and what every record of that kind has; length and group follow.
    record.extend([2, 0, 2, 0xC0, 0, 0, 0, 0]);
    record.extend([0; 8]); // thread and process
    record.extend(kept.began.saturating_sub(about.booted).to_le_bytes());
    record.extend([0; 8]); // times
    let u32s = |record: &mut Vec<u8>, words: &[u32]| {
        words.iter().for_each(|word| record.extend(word.to_le_bytes()));
    };
    // Windows 10.0, and the build of Server 2022.
    u32s(&mut record, &[BUFFER as u32, 0x0500_000A, 20_348, about.cpus]);
    record.extend(kept.ended.to_le_bytes());
    // Resolution of timers, the longest file (any), mode, buffers; the first one, bytes of a pointer, and what was lost.
    u32s(&mut record, &[156_250, 0, SEQUENTIAL, buffers as u32]);
    u32s(&mut record, &[1, 8, u32::try_from(kept.lost).unwrap_or(u32::MAX), 1_000]);
    record.extend([0; 16]); // pointers, of no meaning in a file
    record.extend([0; TIME_ZONE]);
    record.extend([0; 4]);
    for word in [about.booted, FREQUENCY, kept.began] {
        record.extend(word.to_le_bytes());
    }
    u32s(&mut record, &[PERFCOUNTER, 0]);
    for text in [about.session, about.path] {
        record.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    }
    let length = (record.len() as u16).to_le_bytes();
    record[4..6].copy_from_slice(&length);
    pad(&mut record);
    record
}

/// An `EVENT_HEADER`, what the event says of itself and of its provider, and its values.
fn record(event: &Traced, stamp: u64) -> Vec<u8> {
    let mut items: Vec<(u16, &[u8])> = Vec::new();
    if let Some(related) = &event.related {
        items.push((RELATED, related));
    }
    for (kind, bytes) in [(TRAITS, &event.about_provider), (SCHEMA, &event.metadata)] {
        if !bytes.is_empty() {
            items.push((kind, bytes));
        }
    }
    let mut record = Vec::new();
    // Length, which follows; TRACE_HEADER_TYPE_EVENT_HEADER64 and what every record has.
    record.extend([0, 0, 0x13, 0xC0]);
    let flags = if items.is_empty() { 0 } else { EXTENDED };
    record.extend([flags, 0].map(u16::to_le_bytes).concat());
    record.extend([event.thread, SYSTEM].map(u32::to_le_bytes).concat());
    record.extend(stamp.to_le_bytes());
    record.extend(event.provider);
    record.extend(event.descriptor);
    record.extend([0; 8]); // times of the CPU
    record.extend(event.activity.unwrap_or_default());
    for (number, (kind, bytes)) in items.iter().enumerate() {
        let follows = u16::from(number + 1 < items.len());
        // Its length with this and what fills it up, which no header tells; that another follows; and its length alone.
        let whole = (8 + bytes.len()).next_multiple_of(8) as u16;
        record.extend([whole, *kind, follows, bytes.len() as u16].map(u16::to_le_bytes).concat());
        record.extend(*bytes);
        pad(&mut record);
    }
    record.extend(&event.values);
    let length = (record.len() as u16).to_le_bytes();
    record[..2].copy_from_slice(&length);
    pad(&mut record);
    record
}

/// The process of the system's own threads.
const SYSTEM: u32 = 4;

/// Fills up to where the next record begins.
fn pad(record: &mut Vec<u8>) {
    record.resize(record.len().next_multiple_of(8), 0);
}
