//! A capture: packets and datagrams as they pass through an adapter, for whoever opened it.
//!
//! [`START_CAPTURE`](crate::ioctl::START_CAPTURE) takes a [`Start`]; from then on the driver copies what passes into a buffer, and
//! [`READ_CAPTURE`](crate::ioctl::READ_CAPTURE) gives all of it: a head of [`ANSWER_HEAD_LEN`] bytes with what was counted, then a
//! [`Record`] behind the other. It never waits. What finds no room, or comes faster than the capture may take, is counted as missed.
//! An adapter has one capture at a time; it ends when its handle is closed.
//!
//! No key is in it: outside there is what the network sees, inside what the network stack sees.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version of the layouts.
pub const VERSION: u32 = 1;
/// Bytes of a [`Start`].
pub const START_LEN: usize = 24;
/// Bytes of the head of an answer.
pub const ANSWER_HEAD_LEN: usize = 40;
/// Bytes of a record without its packet.
pub const RECORD_HEAD_LEN: usize = 64;
/// Records begin at multiples of it.
const ALIGN: usize = 8;

/// The datagrams outside, in and out.
pub const OUTER: u32 = 1;
/// The packets inside, in and out: if policy allows it ([`crate::policy::Policy::TraceInner`]).
pub const INNER: u32 = 2;

/// The most bytes of a packet: there are no longer ones.
pub const SNAP_MAX: u32 = 65_535;
/// The smallest buffer has room for the longest packet.
pub const BUFFER_MIN: u32 = 128 << 10;
/// The largest. While a capture is open there are two.
pub const BUFFER_MAX: u32 = 4 << 20;
/// The most packets of a second.
pub const RATE_MAX: u32 = 10_000_000;

const _: () = assert!(BUFFER_MIN as usize >= RECORD_HEAD_LEN + SNAP_MAX as usize + ALIGN);

/// What a capture is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Sum of [`OUTER`] and [`INNER`].
    pub what: u32,
    /// How many bytes of each packet are taken.
    pub snap: u32,
    /// Bytes of the buffer, records with their heads.
    pub buffer: u32,
    /// How many packets of a second are taken.
    pub per_second: u32,
}

impl Start {
    /// Reads one; `None` if it is none, or out of bounds.
    #[must_use]
    pub fn parse(bytes: &[u8; START_LEN]) -> Option<Self> {
        let word = |at| u32_at(bytes, at);
        let (version, reserved) = (word(0)?, word(20)?);
        let start =
            Self { what: word(4)?, snap: word(8)?, buffer: word(12)?, per_second: word(16)? };
        let holds = (version, reserved) == (VERSION, 0)
            && (1..=OUTER | INNER).contains(&start.what)
            && (1..=SNAP_MAX).contains(&start.snap)
            && (BUFFER_MIN..=BUFFER_MAX).contains(&start.buffer)
            && (1..=RATE_MAX).contains(&start.per_second);
        holds.then_some(start)
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; START_LEN] {
        let mut bytes = [0; START_LEN];
        let words = [VERSION, self.what, self.snap, self.buffer, self.per_second, 0];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Bytes of the longest answer.
    #[must_use]
    pub const fn answer_len(&self) -> usize {
        ANSWER_HEAD_LEN + self.buffer as usize
    }
}

/// Where a packet was seen, and which way it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// A datagram that arrived.
    OuterIn = 0,
    /// A datagram that is about to leave.
    OuterOut = 1,
    /// A packet that was opened, and is about to go to the network stack.
    InnerIn = 2,
    /// A packet of the network stack that is about to be sealed.
    InnerOut = 3,
}

impl Place {
    /// Of its number.
    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::OuterIn),
            1 => Some(Self::OuterOut),
            2 => Some(Self::InnerIn),
            3 => Some(Self::InnerOut),
            _ => None,
        }
    }

    /// [`OUTER`] or [`INNER`].
    #[must_use]
    pub const fn what(self) -> u32 {
        match self {
            Self::OuterIn | Self::OuterOut => OUTER,
            Self::InnerIn | Self::InnerOut => INNER,
        }
    }

    /// Whether it went out of this machine.
    #[must_use]
    pub const fn is_out(self) -> bool {
        matches!(self, Self::OuterOut | Self::InnerOut)
    }
}

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where it was seen.
    pub place: Place,
    /// When, in 100 ns since 1970.
    pub time_100ns: u64,
    /// How long it was, in bytes.
    pub original: u32,
    /// Of a datagram: its type of service, as far as the system tells; of one that arrived, ECN alone.
    pub tos: u8,
    /// Of a datagram: our address, unspecified where it is not known, and port.
    pub local: Option<SocketAddr>,
    /// Of a datagram: the other end.
    pub remote: Option<SocketAddr>,
}

impl Head {
    /// Writes the head of a record of `captured` bytes.
    #[must_use]
    pub fn encode(&self, captured: u32) -> [u8; RECORD_HEAD_LEN] {
        let mut bytes = [0; RECORD_HEAD_LEN];
        let len = record_len(captured as usize) as u32;
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
                place.copy_from_slice(value);
            }
        };
        put(0, &len.to_le_bytes());
        put(4, &captured.to_le_bytes());
        put(8, &self.original.to_le_bytes());
        let family = self.remote.map_or(0, |remote| if remote.is_ipv4() { 4 } else { 6 });
        put(12, &[self.place as u8, self.tos, family, 0]);
        put(16, &self.time_100ns.to_le_bytes());
        for (address, port_at, at) in [(self.local, 24, 32), (self.remote, 26, 48)] {
            let Some(address) = address else { continue };
            put(port_at, &address.port().to_le_bytes());
            match address.ip() {
                IpAddr::V4(ip) => put(at, &ip.octets()),
                IpAddr::V6(ip) => put(at, &ip.octets()),
            }
        }
        bytes
    }

    /// Reads one, with the lengths of the record and of what was captured.
    fn parse(bytes: &[u8; RECORD_HEAD_LEN]) -> Option<(Self, usize, usize)> {
        let (len, captured) = (u32_at(bytes, 0)? as usize, u32_at(bytes, 4)? as usize);
        let [_, _, _, _, _, _, _, _, _, _, _, _, place, tos, family, ..] = *bytes;
        let address = |port_at: usize, at: usize| {
            let port = bytes.get(port_at..)?.first_chunk().map(|port| u16::from_le_bytes(*port))?;
            let ip: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
            let ip = match family {
                4 => IpAddr::V4(Ipv4Addr::from_octets(*ip.first_chunk()?)),
                6 => IpAddr::V6(Ipv6Addr::from_octets(ip)),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        };
        let time_100ns = u64_at(bytes, 16)?;
        let head = Self {
            place: Place::of(place)?,
            time_100ns,
            original: u32_at(bytes, 8)?,
            tos,
            local: address(24, 32),
            remote: address(26, 48),
        };
        (len == record_len(captured)).then_some((head, len, captured))
    }
}

/// A packet that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What is known of it.
    pub head: Head,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// Bytes of a record of so many captured ones.
#[must_use]
pub const fn record_len(captured: usize) -> usize {
    RECORD_HEAD_LEN.saturating_add(captured).next_multiple_of(ALIGN)
}

/// What a capture has seen since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets, missed ones included.
    pub seen: u64,
    /// Those that there was no room for, or that came too fast.
    pub missed: u64,
}

/// What has been seen outside, and inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams.
    pub outer: Count,
    /// Packets.
    pub inner: Count,
}

/// Writes the head of an answer of so many bytes of records.
#[must_use]
pub fn answer_head(records: usize, counts: &Counts) -> [u8; ANSWER_HEAD_LEN] {
    let mut bytes = [0; ANSWER_HEAD_LEN];
    let Counts { outer, inner } = counts;
    let first = u64::from(VERSION) | (records as u64) << 32;
    let words = [first, outer.seen, outer.missed, inner.seen, inner.missed];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// An answer to READ_CAPTURE.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What has been seen so far.
    pub counts: Counts,
    records: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Reads one; `None` if it is short or of another layout.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<ANSWER_HEAD_LEN>()?;
        let records = rest.get(..u32_at(head, 4)? as usize)?;
        let count = |at: usize| {
            Some(Count { seen: u64_at(head, at)?, missed: u64_at(head, at.saturating_add(8))? })
        };
        let counts = Counts { outer: count(8)?, inner: count(24)? };
        (u32_at(head, 0)? == VERSION).then_some(Self { counts, records })
    }

    /// The packets, in the order they were seen; ends at the first that is none.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = self.records;
        core::iter::from_fn(move || {
            let (head, len, captured) = Head::parse(rest.first_chunk()?)?;
            let (record, others) = rest.split_at_checked(len)?;
            rest = others;
            Some(Record { head, bytes: record.get(RECORD_HEAD_LEN..)?.get(..captured)? })
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const START: Start = Start { what: OUTER, snap: 96, buffer: BUFFER_MIN, per_second: 1000 };

    fn head(place: Place, local: Option<&str>, remote: Option<&str>) -> Head {
        let address = |text: &str| text.parse().unwrap();
        Head {
            place,
            time_100ns: 0x0102_0304_0506_0708,
            original: 1500,
            tos: 0xB9,
            local: local.map(address),
            remote: remote.map(address),
        }
    }

    fn answer(heads: &[Head], packet: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        for head in heads {
            records.extend(head.encode(packet.len() as u32));
            records.extend(packet);
            records.resize(records.len().next_multiple_of(ALIGN), 0);
        }
        let counts = Counts {
            outer: Count { seen: 9, missed: 2 },
            inner: Count { seen: 1 << 40, missed: 3 },
        };
        let mut answer = answer_head(records.len(), &counts).to_vec();
        answer.extend(records);
        answer
    }

    #[test]
    fn a_start_is_read_back_and_held_to_its_bounds() {
        assert_eq!(Start::parse(&START.encode()), Some(START));
        for wrong in [
            Start { what: 0, ..START },
            Start { what: 4, ..START },
            Start { snap: 0, ..START },
            Start { snap: SNAP_MAX + 1, ..START },
            Start { buffer: BUFFER_MIN - 1, ..START },
            Start { buffer: BUFFER_MAX + 1, ..START },
            Start { per_second: 0, ..START },
            Start { per_second: RATE_MAX + 1, ..START },
        ] {
            assert_eq!(Start::parse(&wrong.encode()), None, "{wrong:?}");
        }
        for at in [0, 20] {
            let mut bytes = START.encode();
            bytes[at] += 1;
            assert_eq!(Start::parse(&bytes), None, "another word at {at}");
        }
    }

    #[test]
    fn records_are_read_back() {
        let heads = [
            head(Place::OuterIn, Some("[2001:db8::1]:1"), Some("[2001:db8::2]:65535")),
            head(Place::OuterOut, Some("0.0.0.0:51820"), Some("192.0.2.7:9")),
            head(Place::InnerIn, None, None),
            head(Place::InnerOut, None, None),
        ];
        for len in [0, 1, 7, 8, 9] {
            let packet = &[0x5A; 9][..len];
            let bytes = answer(&heads, packet);
            let read = Answer::parse(&bytes).unwrap();
            assert_eq!(read.counts.outer, Count { seen: 9, missed: 2 });
            assert_eq!(read.counts.inner, Count { seen: 1 << 40, missed: 3 });
            let expected = heads.map(|head| Record { head, bytes: packet });
            assert!(read.records().eq(expected), "{len} bytes");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_and_what_is_no_record_ends_it() {
        let heads = [head(Place::OuterIn, Some("0.0.0.0:1"), Some("192.0.2.7:9")); 2];
        let whole = answer(&heads, &[1; 20]);
        for len in 0..whole.len() {
            assert!(Answer::parse(&whole[..len]).is_none(), "{len} bytes");
        }
        let mut bytes = whole.clone();
        bytes[0] = 2;
        assert!(Answer::parse(&bytes).is_none(), "another version");
        let second = ANSWER_HEAD_LEN + record_len(20);
        // Its length, how much was captured, the place.
        for at in [second, second + 4, second + 12] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            assert_eq!(Answer::parse(&bytes).unwrap().records().count(), 1, "byte {at}");
        }
    }
}
