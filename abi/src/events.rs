//! What the driver notes of itself: one table of events, and the flight recorder that keeps the last of them.
//!
//! Sessions of ETW that listen are told the same events ([`crate::trace`] says as what).
//!
//! Each CPU has a ring of [`RECORDS`] fixed records in nonpaged memory, written at `DISPATCH_LEVEL` by that CPU alone, newest over
//! oldest. One [`Descriptor`] says where they are; the driver's own ([`crate::descriptor`]), where a debugger, a dump's reader and
//! the simulator begin, leads to it. No record has a key, an address or a packet's byte in it.
//!
//! The numbers are part of what tools read, so an event is only ever added at the end of the list, never renumbered.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::{table::table, trace};

/// When an event is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Once in a while: something was done to an adapter, or a handshake message went or came.
    Info = 1,
    /// For each discard.
    Verbose = 2,
}

/// What an event is about. The numbers are bits of the policy value `RecorderKeywords`, and ETW's keywords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Keyword {
    /// All there is: noted whatever is chosen.
    Everything = 0,
    /// The driver itself.
    Driver = 1,
    /// What is done to an adapter.
    Adapter = 2,
    /// Handshake messages.
    Handshake = 4,
    /// Discards.
    Discard = 8,
    /// Times at `DISPATCH_LEVEL`.
    Time = 16,
}

impl Keyword {
    /// All of them.
    pub const ALL: u32 = 31;
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $level:ident $keyword:ident $name:ident($($word:literal),*),)*) => {
        table! {
            /// Something that happened.
            Event { $($(#[doc = $doc])+ $name,)* }
        }

        impl Event {
            /// For each, what an event of TraceLogging says of itself: [`crate::trace::metadata`].
            #[must_use]
            pub const fn metadata(self) -> &'static [u8] {
                match self {
                    $(Self::$name => {
                        const WORDS: &[&str] = &[$($word),*];
                        const NAME: &str = stringify!($name);
                        &const { trace::metadata::<{ trace::metadata_bytes(NAME, WORDS) }>(NAME, WORDS) }
                    })*
                }
            }

            /// A line for each, in the order of its number: its name, and what its words are, with semicolons between.
            pub const TABLE: &str = concat!($(stringify!($name), $(";", $word,)* "\n"),*);

            /// From which level on it is noted.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            /// What it is about.
            #[must_use]
            pub const fn keyword(self) -> Keyword {
                match self { $(Self::$name => Keyword::$keyword,)* }
            }

            /// What its words are, at most four.
            #[must_use]
            pub const fn words(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($word),*],)* }
            }
        }
    };
}

events! {
    /// The driver was loaded.
    Info Driver Loaded("processors"),
    /// The driver is about to be unloaded.
    Info Driver Unloading(),
    /// A device was made.
    Info Adapter DeviceAdded("tunnel"),
    /// A device goes, or its adapter does.
    Info Adapter DeviceRemoved("tunnel"),
    /// The device is in D0.
    Info Adapter PoweredUp("tunnel"),
    /// The device leaves D0.
    Info Adapter PoweredDown("tunnel"),
    /// The adapter was brought up.
    Info Adapter AdapterUp("tunnel", "port"),
    /// The adapter was taken down.
    Info Adapter AdapterDown("tunnel"),
    /// A configuration was applied.
    Info Adapter Configured("tunnel", "bytes"),
    /// A configuration was refused: nothing of it was applied.
    Info Adapter Refused("tunnel", "bytes"),
    /// The policy was read.
    Info Driver PolicyRead("values refused"),
    /// Sockets were lost: the network stack took them back.
    Info Adapter SocketsLost("tunnel"),
    /// Sockets were opened anew.
    Info Adapter SocketsReopened("tunnel", "port"),
    /// A handshake message or cookie reply was made, to be sent. The handshake is the index that its initiation went by.
    Info Handshake MessageMade("tunnel", "type", "handshake"),
    /// A handshake message or cookie reply was taken and was in order.
    Info Handshake MessageTaken("tunnel", "type", "handshake"),
    /// A handshake message or cookie reply was taken and discarded.
    Info Handshake MessageRefused("tunnel", "type", "handshake", "reason"),
    /// Packets were discarded.
    Verbose Discard Discarded("reason", "packets"),
    /// A callback was at `DISPATCH_LEVEL` longer than any before it.
    Info Time LongestAtDispatch("tunnel", "100 ns", "packets"),
    /// Records were overwritten before listening sessions had been told of them. Only sessions are told.
    Info Everything RecordsLost("processor", "records"),
}

impl Event {
    /// A bit for each event, by its number, that is of one of these keywords and noted at this level.
    #[must_use]
    pub fn noted(level: u32, keywords: u32) -> u32 {
        let is_noted = |event: &&Self| {
            let of_these =
                event.keyword() == Keyword::Everything || event.keyword() as u32 & keywords != 0;
            event.level() as u32 <= level && of_these
        };
        Self::ALL.iter().filter(is_noted).fold(0, |noted, event| noted | event.bit())
    }

    /// Its bit of those.
    #[must_use]
    pub const fn bit(self) -> u32 {
        const { assert!(Self::COUNT <= 32) };
        1_u32.wrapping_shl(self as u32)
    }
}

/// Records of one CPU.
pub const RECORDS: usize = 256;

/// One record, as eight-byte words: the time stamp counter; the event, the IRQL and the low half of how many records were before
/// it; and the event's words.
#[derive(Debug)]
#[repr(C)]
pub struct Record([AtomicU64; 6]);

/// The records of one CPU. Zeroes are an empty one.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ring {
    /// How many records were written, ever.
    next: AtomicU64,
    records: [Record; RECORDS],
}

/// Where everything is.
#[derive(Debug)]
#[repr(C)]
pub struct Descriptor {
    /// `PENSTOCK`.
    pub magic: [u8; 8],
    /// Of this layout: 1.
    pub version: u32,
    /// Bytes of this descriptor.
    pub size: u32,
    /// Address of the first ring; 0 while there is none.
    pub rings: AtomicU64,
    /// How many there are, one for each CPU.
    pub ring_count: AtomicU32,
    /// Bytes from one to the next.
    pub ring_bytes: u32,
    /// Where in a ring the records begin.
    pub records_at: u32,
    /// Records of a ring.
    pub records: u32,
    /// Bytes of a record.
    pub record_bytes: u32,
    /// The events that are noted: [`Event::noted`].
    pub noted: AtomicU32,
}

const _: () = assert!(size_of::<Record>() == 48 && size_of::<Descriptor>() == 48);

impl Descriptor {
    /// One without rings.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            magic: *b"PENSTOCK",
            version: 1,
            size: size_of::<Self>() as u32,
            rings: AtomicU64::new(0),
            ring_count: AtomicU32::new(0),
            ring_bytes: size_of::<Ring>() as u32,
            records_at: core::mem::offset_of!(Ring, records) as u32,
            records: RECORDS as u32,
            record_bytes: size_of::<Record>() as u32,
            // Until the policy is read: what happens once in a while is rare then.
            noted: AtomicU32::new(u32::MAX),
        }
    }

    /// Reads a descriptor that was copied from somewhere; `None` if it is none, or of another layout.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Found> {
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        // What is noted is the last word.
        let known = bytes.get(..8)? == b"PENSTOCK"
            && (word(8)?, word(12)?) == (1, 48)
            && word(44).is_some();
        let found = Found {
            rings: long(16)?,
            ring_count: word(24)?,
            ring_bytes: word(28)? as usize,
            records_at: word(32)? as usize,
            records: word(36)? as usize,
            record_bytes: word(40)? as usize,
        };
        (known && found.record_bytes == 48).then_some(found)
    }
}

impl Default for Descriptor {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Address of the first ring, 0 if there is none.
    pub rings: u64,
    /// How many rings there are.
    pub ring_count: u32,
    /// Bytes from one to the next.
    pub ring_bytes: usize,
    /// Where in a ring the records begin.
    pub records_at: usize,
    /// Records of a ring.
    pub records: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
}

impl Ring {
    /// Records that can be read while others are written: over the oldest there may be another already.
    pub const READABLE: u64 = RECORDS as u64 - 1;

    /// How many records were written, ever.
    #[must_use]
    pub fn written(&self) -> u64 {
        // Acquire: with the store in `note`, they are there.
        self.next.load(Ordering::Acquire)
    }

    /// The record that is the `number`th, if it is still there, and whole.
    #[must_use]
    pub fn read(&self, number: u64) -> Option<Noted> {
        let Record(record) = self.records.get(number as usize % RECORDS)?;
        let load = |at| record.get(at).map_or(0, |word: &AtomicU64| word.load(Ordering::Relaxed));
        let words = core::array::from_fn(load);
        // With the fence in `note`: who has seen a word of a record that is being written there sees that those before it are.
        fence(Ordering::Acquire);
        let is_there = (1..=Self::READABLE).contains(&self.written().wrapping_sub(number));
        Noted::of_words(words, number).filter(|_| is_there)
    }

    /// Writes a record over the oldest. Only on the ring's CPU, at `DISPATCH_LEVEL`: two steps do for one.
    pub fn note(&self, time: u64, event: Event, irql: u8, words: [u64; 4]) {
        let number = self.next.load(Ordering::Relaxed);
        let Some(Record(record)) = self.records.get(number as usize % RECORDS) else { return };
        let what = event as u64 | u64::from(irql) << 16 | number << 32;
        let [a, b, c, d] = words;
        // Before any of its words, all that was written is; it costs nothing on x64. See `read`.
        fence(Ordering::Release);
        for (place, value) in record.iter().zip([time, what, a, b, c, d]) {
            place.store(value, Ordering::Relaxed);
        }
        // Release: who counts it finds it.
        self.next.store(number.wrapping_add(1), Ordering::Release);
    }
}

/// A record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The time stamp counter.
    pub time: u64,
    /// What happened.
    pub event: Event,
    /// At which IRQL.
    pub irql: u8,
    /// The event's words.
    pub words: [u64; 4],
}

impl Noted {
    /// Reads the record that is the `number`th of its ring, if that is what is there.
    #[must_use]
    pub fn parse(bytes: &[u8; 48], number: u64) -> Option<Self> {
        let word = |at: usize| bytes.get(8 * at..)?.first_chunk().copied().map(u64::from_le_bytes);
        Self::of_words(core::array::from_fn(|at| word(at).unwrap_or(0)), number)
    }

    fn of_words([time, what, a, b, c, d]: [u64; 6], number: u64) -> Option<Self> {
        let event = *Event::ALL.get(usize::from(what as u16))?;
        let noted = Self { time, event, irql: (what >> 16) as u8, words: [a, b, c, d] };
        (what >> 32 == number & 0xFFFF_FFFF).then_some(noted)
    }
}

impl core::fmt::Display for Noted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.event.name())?;
        for (name, value) in self.event.words().iter().zip(self.words) {
            write!(f, ", {name} {value}")?;
            if *name == "reason"
                && let Some(reason) = crate::discard::Discard::ALL.get(value as usize)
            {
                write!(f, " ({})", reason.name())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{format, vec::Vec};

    use super::*;

    fn bytes(record: &Record) -> [u8; 48] {
        let words = record.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        words.collect::<Vec<u8>>().try_into().expect("48 bytes")
    }

    #[test]
    fn numbers_are_positions_and_every_event_speaks() {
        for (position, event) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, position, "{}", event.name());
            assert!(
                event.words().len() <= 4 && event.description().ends_with('.'),
                "{}",
                event.name()
            );
            let line = Event::TABLE.lines().nth(position).expect("a line for each");
            let told: Vec<&str> = line.split(';').collect();
            assert_eq!(told, [&[event.name()], event.words()].concat());
        }
        assert_eq!(Event::TABLE.lines().count(), Event::COUNT);
    }

    #[test]
    fn level_and_keywords_choose_what_is_noted() {
        assert_eq!(Event::noted(0, Keyword::ALL), 0);
        assert_eq!(Event::noted(2, 0), Event::RecordsLost.bit());
        assert_eq!(Event::noted(2, Keyword::ALL), (1 << Event::COUNT) - 1);
        let handshakes = [Event::MessageMade, Event::MessageTaken, Event::MessageRefused];
        let always = Event::RecordsLost.bit();
        let expected = handshakes.iter().fold(always, |bits, event| bits | event.bit());
        assert_eq!(Event::noted(1, Keyword::Handshake as u32), expected);
        let discards = Keyword::Discard as u32;
        assert_eq!(
            (Event::noted(1, discards), Event::noted(2, discards)),
            (always, always | Event::Discarded.bit())
        );
        let all = [
            Keyword::Driver,
            Keyword::Adapter,
            Keyword::Handshake,
            Keyword::Discard,
            Keyword::Time,
        ];
        assert_eq!(all.iter().map(|keyword| *keyword as u32).sum::<u32>(), Keyword::ALL);
        assert_eq!(*crate::policy::Policy::RecorderKeywords.range().end(), Keyword::ALL);
    }

    #[test]
    fn the_newest_are_kept_and_what_was_overwritten_is_not_taken_for_another() {
        let ring = Ring {
            next: AtomicU64::new(0),
            records: [const { Record([const { AtomicU64::new(0) }; 6]) }; RECORDS],
        };
        for number in 0..RECORDS as u64 + 3 {
            ring.note(number, Event::AdapterUp, 2, [number, 51820, 0, 0]);
        }
        let at =
            |number: u64| Noted::parse(&bytes(&ring.records[number as usize % RECORDS]), number);
        assert_eq!((at(2), ring.read(2)), (None, None));
        assert_eq!(ring.read(RECORDS as u64 + 2), at(RECORDS as u64 + 2));
        assert_eq!(ring.read(RECORDS as u64 + 3), None, "one that is to come");
        let noted = at(RECORDS as u64 + 2).expect("the newest");
        assert_eq!((noted.time, noted.irql), (RECORDS as u64 + 2, 2));
        assert_eq!(format!("{noted}"), "AdapterUp, tunnel 258, port 51820");
        let mut unknown = bytes(&ring.records[7]);
        unknown[8] = 0xFF;
        assert_eq!(Noted::parse(&unknown, 7), None);
    }

    #[test]
    fn a_reason_is_told_by_name() {
        let reason = crate::discard::Discard::BadTag as u64;
        let noted =
            Noted { time: 0, event: Event::MessageRefused, irql: 0, words: [1, 4, 77, reason] };
        assert!(format!("{noted}").ends_with("(BadTag)"), "{noted}");
    }

    #[test]
    fn a_descriptor_is_read_back_and_nothing_else_is() {
        let made = Descriptor::new();
        made.rings.store(0x1000, Ordering::Relaxed);
        made.ring_count.store(4, Ordering::Relaxed);
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&made.magic);
        bytes[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
        let words = [
            (8, made.version),
            (12, made.size),
            (24, 4),
            (28, made.ring_bytes),
            (32, made.records_at),
            (36, made.records),
            (40, made.record_bytes),
        ];
        for (at, value) in words {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let found = Descriptor::parse(&bytes).expect("it is one");
        assert_eq!((found.rings, found.ring_count, found.records), (0x1000, 4, RECORDS));
        for at in [0, 8, 12, 40] {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(Descriptor::parse(&wrong), None, "byte {at}");
        }
        assert_eq!(Descriptor::parse(&bytes[..47]), None);
    }
}
