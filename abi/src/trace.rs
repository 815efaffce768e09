//! Events as ETW has them: TraceLogging, which tells with each event what it is called and what its fields are.
//!
//! Provider, levels, opcodes, activities and the bytes of an event are made of the table in [`crate::events`] and of nothing
//! else. [`decode`](decode()) reads any event that says of itself what it is, of whichever provider, and knows no table.
//!
//! Source: the format is that of `TraceLoggingProvider.h` and of the crate `tracelogging` (MIT), which are published.

use crate::events::{Event, Level, Noted};

pub mod decode;

pub use decode::decode;

/// The provider's name.
pub const PROVIDER_NAME: &str = "Penstock";
/// The provider, as a GUID of `{8C898724-58A0-59CD-07A6-CE95C5FF66F7}`: what tools make of `*Penstock`.
pub const PROVIDER: (u32, u16, u16, [u8; 8]) =
    (0x8C89_8724, 0x58A0, 0x59CD, [0x07, 0xA6, 0xCE, 0x95, 0xC5, 0xFF, 0x66, 0xF7]);
/// The same, as memory has it.
pub const PROVIDER_BYTES: [u8; 16] = {
    let (first, second, third, [h, i, j, k, l, m, n, o]) = PROVIDER;
    let ([a, b, c, d], [e, f], [g, p]) =
        (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    [a, b, c, d, e, f, g, p, h, i, j, k, l, m, n, o]
};
/// What each event says of its provider, and the provider of itself (`EventProviderSetTraits`): length and name.
pub const TRAITS: &[u8] = &const { traits::<{ 2 + PROVIDER_NAME.len() + 1 }>() };
/// `WINEVENT_CHANNEL_TRACELOGGING`.
pub const CHANNEL: u8 = 11;

/// `WINEVENT_LEVEL_INFO` and `WINEVENT_LEVEL_VERBOSE`.
const INFO: u8 = 4;
/// See [`INFO`].
const VERBOSE: u8 = 5;
/// `WINEVENT_OPCODE_INFO`, `_START` and `_STOP`.
const OPCODE_INFO: u8 = 0;
/// See [`OPCODE_INFO`].
pub const START: u8 = 1;
/// See [`OPCODE_INFO`].
pub const STOP: u8 = 2;
/// `TlgInUINT8`, `TlgInUINT32` and `TlgInUINT64`.
const UINT8: u8 = 4;
/// See [`UINT8`].
const UINT32: u8 = 8;
/// See [`UINT8`].
const UINT64: u8 = 10;

/// The fields that each event has before its words: the time stamp counter when it happened, and where.
const COMMON: [(&str, u8); 3] = [("Tsc", UINT64), ("Cpu", UINT32), ("Irql", UINT8)];
/// Bytes of their values.
const COMMON_BYTES: usize = 13;
/// The most bytes that the values of an event take.
pub const MOST_BYTES: usize = COMMON_BYTES + 4 * 8;

const fn traits<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let [low, high] = (N as u16).to_le_bytes();
    out[0] = low;
    out[1] = high;
    put(&mut out, 2, PROVIDER_NAME);
    out
}

/// Writes a name and the zero behind it; where it ends.
const fn put(out: &mut [u8], at: usize, name: &str) -> usize {
    let name = name.as_bytes();
    let mut from = 0;
    while from < name.len() {
        out[at + from] = name[from];
        from += 1;
    }
    at + name.len() + 1
}

/// How long [`metadata`] is.
#[must_use]
pub const fn metadata_bytes(name: &str, words: &[&str]) -> usize {
    // Length, no tags, and each name with what ends it; each field's type.
    let mut bytes = 2 + 1 + name.len() + 1;
    let mut field = 0;
    while field < COMMON.len() {
        bytes += COMMON[field].0.len() + 2;
        field += 1;
    }
    let mut word = 0;
    while word < words.len() {
        bytes += words[word].len() + 2;
        word += 1;
    }
    bytes
}

/// What an event of this name says of itself, with a field for each word. To be computed when it is compiled.
///
/// # Panics
///
/// If `N` is not [`metadata_bytes`].
#[must_use]
pub const fn metadata<const N: usize>(name: &str, words: &[&str]) -> [u8; N] {
    assert!(N == metadata_bytes(name, words) && N <= u16::MAX as usize);
    let mut out = [0; N];
    let [low, high] = (N as u16).to_le_bytes();
    out[0] = low;
    out[1] = high;
    let mut at = put(&mut out, 3, name);
    let mut field = 0;
    while field < COMMON.len() {
        at = put(&mut out, at, COMMON[field].0);
        out[at] = COMMON[field].1;
        at += 1;
        field += 1;
    }
    let mut word = 0;
    while word < words.len() {
        at = put(&mut out, at, words[word]);
        out[at] = UINT64;
        at += 1;
        word += 1;
    }
    out
}

impl Level {
    /// ETW's number.
    #[must_use]
    pub const fn of_etw(self) -> u8 {
        match self {
            Self::Info => INFO,
            Self::Verbose => VERBOSE,
        }
    }
}

impl Event {
    /// The events that sessions want which together ask for this level (0 is any), for one of the keywords `any` (0 is any) and
    /// for all of the keywords `all`: a bit for each, as of [`Event::noted`].
    #[must_use]
    pub fn wanted(level: u8, any: u64, all: u64) -> u32 {
        let is_wanted = |event: &&Self| {
            let keyword = event.keyword() as u64;
            let matches =
                keyword == 0 || ((any == 0 || keyword & any != 0) && keyword & all == all);
            matches && (level == 0 || event.level().of_etw() <= level)
        };
        Self::ALL.iter().filter(is_wanted).fold(0, |wanted, event| wanted | event.bit())
    }
}

/// A GUID as memory has it.
pub type Guid = [u8; 16];

impl Noted {
    /// The word of this name.
    fn word(&self, name: &str) -> Option<u64> {
        let at = self.event.words().iter().position(|word| *word == name)?;
        self.words.get(at).copied()
    }

    /// The activity that it is part of: a handshake of a tunnel, or the tunnel; none if it is of no tunnel.
    ///
    /// Made of the tunnel's number and the index that the initiation went by, which everybody saw on its way.
    #[must_use]
    pub fn activity(&self) -> Option<Guid> {
        let tunnel = self.word("tunnel")?;
        Some(activity(tunnel, self.word("handshake").unwrap_or(0)))
    }

    /// The activity that this one began in, if it begins here: the tunnel.
    #[must_use]
    pub fn related(&self) -> Option<Guid> {
        let begins = self.opcode() == START;
        self.word("tunnel").filter(|_| begins).map(|tunnel| activity(tunnel, 0))
    }

    /// Where it was begun, a handshake begins with its initiation and ends with the response. (The other side answers at once, and
    /// notes the initiation when it has answered.)
    #[must_use]
    pub fn opcode(&self) -> u8 {
        match (self.event, self.word("type")) {
            (Event::MessageMade, Some(1)) => START,
            (Event::MessageTaken, Some(2)) => STOP,
            _ => OPCODE_INFO,
        }
    }

    /// The values of its fields, one behind the other, as [`Event::metadata`] says.
    pub fn values(&self, cpu: u32) -> impl Iterator<Item = u8> {
        let [a, b, c, d] = self.words.map(u64::to_le_bytes);
        let words = [a, b, c, d].into_iter().flatten().take(8 * self.event.words().len());
        let front = self.time.to_le_bytes().into_iter().chain(cpu.to_le_bytes());
        front.chain([self.irql]).chain(words)
    }
}

/// A GUID that the provider alone makes: part of its own, the tunnel's number, and the handshake's.
fn activity(tunnel: u64, handshake: u64) -> Guid {
    let (first, ..) = PROVIDER;
    let parts = [first, tunnel as u32, (tunnel >> 32) as u32, handshake as u32];
    let mut bytes = parts.into_iter().flat_map(u32::to_le_bytes);
    core::array::from_fn(|_| bytes.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use sha1::{Digest, Sha1};

    use super::*;
    use crate::events::Keyword;

    /// As tools make a provider's GUID of its name, if they are told `*Penstock`. Source, of the known answer too: the crate
    /// `tracelogging`, <https://docs.rs/tracelogging/0.1.0/tracelogging/struct.Guid.html>.
    #[test]
    fn the_provider_is_what_tools_make_of_its_name() {
        let of = |name: &str| {
            // {482C2DB2-C390-47C8-87F8-1A15BFC130FB}, as RFC 4122 has it on the wire.
            let namespace = 0x482C_2DB2_C390_47C8_87F8_1A15_BFC1_30FB_u128.to_be_bytes();
            let upper = name.to_uppercase();
            let name = upper.encode_utf16().flat_map(u16::to_be_bytes);
            let hash = Sha1::digest(namespace.into_iter().chain(name).collect::<Vec<u8>>());
            let mut guid: Guid = *hash.first_chunk().unwrap();
            // A UUID of version 5, which memory has as it was hashed.
            guid[7] = guid[7] & 0x0F | 0x50;
            guid
        };
        let memory = |(first, second, third, rest): (u32, u16, u16, [u8; 8])| {
            let mut guid = [0; 16];
            guid[..4].copy_from_slice(&first.to_le_bytes());
            guid[4..6].copy_from_slice(&second.to_le_bytes());
            guid[6..8].copy_from_slice(&third.to_le_bytes());
            guid[8..].copy_from_slice(&rest);
            guid
        };
        let known = 0x545B_8B36_0834_3471_u64.to_be_bytes();
        assert_eq!(of("MyProvider"), memory((0xB386_4C38, 0x4273, 0x58C5, known)));
        assert_eq!(of(PROVIDER_NAME), memory(PROVIDER));
    }

    #[test]
    fn sessions_get_what_they_ask_for() {
        let always = Event::RecordsLost.bit();
        let all = Event::noted(2, Keyword::ALL);
        assert_eq!((Event::wanted(0, 0, 0), Event::wanted(5, u64::MAX, 0)), (all, all));
        assert_eq!(Event::wanted(4, 0, 0), all & !Event::Discarded.bit());
        assert_eq!(Event::wanted(3, 0, 0), 0);
        let discards = Keyword::Discard as u64;
        assert_eq!(Event::wanted(5, discards, 0), always | Event::Discarded.bit());
        assert_eq!(Event::wanted(5, 0, discards), always | Event::Discarded.bit());
        assert_eq!(Event::wanted(5, discards, discards | 1), always);
    }

    #[test]
    fn a_handshake_is_one_activity_which_an_initiation_begins_in_its_tunnel() {
        let of = |event, kind, handshake| {
            let noted = Noted { time: 1, event, irql: 0, words: [7, kind, handshake, 0] };
            (noted.opcode(), noted.activity(), noted.related())
        };
        let (start, begun, from) = of(Event::MessageMade, 1, 0xAB);
        let (stop, ended, none) = of(Event::MessageTaken, 2, 0xAB);
        assert_eq!((start, stop, begun, none), (START, STOP, ended, None));
        assert_ne!(begun, of(Event::MessageMade, 1, 0xAC).1);
        assert_eq!(of(Event::MessageTaken, 1, 0xAB), (OPCODE_INFO, begun, None));
        let up = Noted { time: 1, event: Event::AdapterUp, irql: 0, words: [7, 51820, 0, 0] };
        assert_eq!((up.activity(), up.related(), up.opcode()), (from, None, 0));
        let loaded = Noted { event: Event::Loaded, ..up };
        assert_eq!(loaded.activity(), None);
    }

    #[test]
    fn an_event_says_of_itself_what_the_table_says() {
        for event in Event::ALL {
            let noted = Noted { time: 9, event: *event, irql: 2, words: [11, 22, 33, 44] };
            let values: Vec<u8> = noted.values(3).collect();
            assert!(values.len() <= MOST_BYTES);
            let read = decode(event.metadata(), &values).expect("an event");
            assert_eq!(read.name, event.name());
            let fields: Vec<_> = read.fields.map(|field| field.expect("whole")).collect();
            let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [&["Tsc", "Cpu", "Irql"], event.words()].concat());
            let told: Vec<_> = fields.iter().map(|(_, value)| std::format!("{value}")).collect();
            assert_eq!(told, ["9", "3", "2", "11", "22", "33", "44"][..names.len()]);
        }
    }
}
