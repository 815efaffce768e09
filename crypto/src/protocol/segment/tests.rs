//! Cut, and compared with a model that knows bytes and nothing of this file.
//!
//! The model takes the packet apart as one would on paper. What comes out of both must be the same, and
//! must verify by a checksum that is computed word by word.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;

/// A packet of the stack's.
#[derive(Clone, Debug)]
struct Made {
    ipv6: bool,
    tcp: bool,
    /// IPv4 and TCP options, in words.
    options: (usize, usize),
    /// Whether the IP header has the length, or 0.
    says_length: bool,
    id: u16,
    sequence: u32,
    flags: u8,
    /// What the stack left in the checksum's field.
    checksum: u16,
    payload: Vec<u8>,
}

impl Made {
    fn headers_len(&self) -> usize {
        let ip = if self.ipv6 { 40 } else { 20 + 4 * self.options.0 };
        ip + if self.tcp { 20 + 4 * self.options.1 } else { 8 }
    }

    fn ip_len(&self) -> usize {
        if self.ipv6 { 40 } else { 20 + 4 * self.options.0 }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let len = self.headers_len() + self.payload.len();
        let protocol = if self.tcp { 6 } else { 17 };
        let mut bytes = if self.ipv6 {
            let said = if self.says_length { (len - 40) as u16 } else { 0 };
            let mut bytes = vec![0x6A, 0xB0, 1, 2, 0, 0, protocol, 64];
            bytes[4..6].copy_from_slice(&said.to_be_bytes());
            bytes.extend((0..32).map(|n| 0x20 + n));
            bytes
        } else {
            let said = if self.says_length { len as u16 } else { 0 };
            let mut bytes = vec![0x45 + self.options.0 as u8, 0x02];
            bytes.extend(said.to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, protocol, 0xDE, 0xAD, 10, 0, 0, 1, 10, 9, 8, 7]);
            bytes.extend((0..4 * self.options.0).map(|n| n as u8));
            bytes
        };
        bytes.extend([0x12, 0x34, 0x56, 0x78]);
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend([9, 9, 9, 9, ((5 + self.options.1) as u8) << 4, self.flags, 0x20, 0]);
            bytes.extend(self.checksum.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend((0..4 * self.options.1).map(|n| 0x80 | n as u8));
        } else {
            bytes.extend([0xBE, 0xEF]);
            bytes.extend(self.checksum.to_be_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }
}

fn made() -> impl Strategy<Value = Made> {
    let shape = (any::<bool>(), any::<bool>(), (0_usize..=10, 0_usize..=10), any::<bool>());
    let fields = (any::<u16>(), any::<u32>(), any::<u8>(), prop_oneof![Just(0), any::<u16>()]);
    let payload = proptest::collection::vec(any::<u8>(), 0..6000);
    (shape, fields, payload).prop_map(
        |((ipv6, tcp, options, says_length), (id, sequence, flags, checksum), payload)| Made {
            ipv6,
            tcp,
            options,
            says_length,
            id,
            sequence,
            // SYN, RST and URG are refused; see below.
            flags: flags & !0x26,
            checksum,
            payload,
        },
    )
}

/// All segments, whole.
fn cut(packet: &[u8], mss: usize) -> Result<Vec<Vec<u8>>, Discard> {
    let head = &packet[..packet.len().min(MOST_HEADER_BYTES)];
    let whole = SuperPacket::parse(head, packet.len(), mss, 0)?;
    let segments = (0..whole.segments()).map(|number| {
        let mut segment = whole.segment(number).unwrap();
        let payload = &packet[segment.payload()];
        segment.finish(Sum::default().and(payload));
        let bytes = [segment.headers(), payload].concat();
        assert_eq!(bytes.len(), segment.byte_count());
        let mut written = vec![0; bytes.len()];
        let count = whole.segment(number).unwrap().write(&mut written, |from, to| {
            to.copy_from_slice(&packet[from..from + to.len()]);
            to.len()
        });
        assert_eq!((count, &written), (bytes.len(), &bytes));
        bytes
    });
    let all = segments.collect();
    assert_eq!(whole.segment(whole.segments()), None);
    Ok(all)
}

/// Ones' complement, word by word.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo-header and what it is for.
fn covered(packet: &[u8], ip: usize) -> Vec<u8> {
    let (addresses, protocol) =
        if packet[0] >> 4 == 6 { (8..40, packet[6]) } else { (12..20, packet[9]) };
    let above = &packet[ip..];
    let mut bytes = packet[addresses].to_vec();
    bytes.extend((above.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(above);
    bytes
}

/// What the segments are to be, by the model.
fn model(made: &Made, mss: usize) -> Vec<Vec<u8>> {
    let mut parts: Vec<&[u8]> = made.payload.chunks(mss).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let (last, ip) = (parts.len() - 1, made.ip_len());
    let segment = |(number, part): (usize, &&[u8])| {
        let mut one = made.clone();
        one.payload = part.to_vec();
        one.says_length = true;
        one.id = match made.tcp {
            true => made.id & 0x8000 | made.id.wrapping_add(number as u16) & 0x7FFF,
            false => made.id.wrapping_add(number as u16),
        };
        one.sequence = made.sequence.wrapping_add((number * mss) as u32);
        if number != last {
            one.flags &= 0xF6;
        }
        if number != 0 {
            one.flags &= 0x7F;
        }
        let without = !made.tcp && made.checksum == 0;
        one.checksum = 0;
        let mut bytes = one.to_bytes();
        if !made.tcp {
            let length = (8 + part.len()) as u16;
            bytes[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
        }
        if !made.ipv6 {
            bytes[10..12].fill(0);
            let checksum = !sum(&bytes[..ip]);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        if !without {
            let at = ip + if made.tcp { 16 } else { 6 };
            let checksum = match !sum(&covered(&bytes, ip)) {
                0 if !made.tcp => 0xFFFF,
                checksum => checksum,
            };
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    };
    parts.iter().enumerate().map(segment).collect()
}

proptest! {
    #[test]
    fn segments_are_the_models(made in made(), mss in 6_usize..1500) {
        let cut = cut(&made.to_bytes(), mss).unwrap();
        let ip = made.ip_len();
        for segment in &cut {
            prop_assert_eq!(sum(&segment[..ip]) == 0xFFFF, !made.ipv6, "IP header");
            if made.tcp || made.checksum != 0 {
                prop_assert_eq!(sum(&covered(segment, ip)), 0xFFFF, "transport");
            }
            prop_assert!(segment.len() <= made.headers_len() + mss);
        }
        let payload: Vec<u8> = cut.iter().flat_map(|s| s[made.headers_len()..].to_vec()).collect();
        prop_assert_eq!(&payload, &made.payload);
        prop_assert_eq!(cut, model(&made, mss));
    }

    #[test]
    fn any_bytes_are_cut_or_refused(
        mut head in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x45_u8), Just(0x4F), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        len in prop_oneof![0_usize..300, Just(65_535), Just(usize::MAX), any::<usize>()],
        mss in prop_oneof![0_usize..3, Just(1460), Just((1 << 20) - 1), any::<usize>()],
        mtu in prop_oneof![Just(0_usize), Just(1420), any::<usize>()],
        number in any::<usize>(),
        likely in any::<bool>(),
    ) {
        if let (true, Some(head)) = (likely, head.first_chunk_mut::<10>()) {
            (head[0], head[2], head[3], head[4], head[5]) = (version, 0, 0, 0, 0);
            (head[6], head[7], head[9]) = (if version >> 4 == 6 { protocol } else { 0 }, 0, protocol);
        }
        if let Ok(whole) = SuperPacket::parse(&head, len, mss, mtu) {
            prop_assert!(whole.segments() <= MOST_SEGMENTS);
            for number in [0, whole.segments() - 1, number] {
                let Some(mut segment) = whole.segment(number) else { continue };
                segment.finish(Sum::default());
                prop_assert!(segment.payload().end <= len && segment.byte_count() <= 65_535);
                prop_assert!(mtu == 0 || segment.byte_count() <= mtu);
            }
        }
    }
}

fn plain(ipv6: bool, tcp: bool, payload: usize) -> Made {
    Made {
        ipv6,
        tcp,
        options: (0, 0),
        says_length: true,
        id: 0x7FFE,
        sequence: u32::MAX - 99,
        flags: 0x10 | 0x80 | 0x08 | 0x01,
        checksum: 0x1234,
        payload: (0..payload).map(|n| ((n * 7) >> 3) as u8).collect(),
    }
}

#[test]
fn counts_at_their_edges() {
    for (payload, mss, lens) in [
        (0, 100, vec![0]),
        (1, 100, vec![1]),
        (99, 100, vec![99]),
        (100, 100, vec![100]),
        (101, 100, vec![100, 1]),
        (300, 100, vec![100, 100, 100]),
        (301, 100, vec![100, 100, 100, 1]),
        (3, 1, vec![1, 1, 1]),
        (5, (1 << 20) - 1, vec![5]),
    ] {
        for (ipv6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let made = plain(ipv6, tcp, payload);
            let cut = cut(&made.to_bytes(), mss).unwrap();
            let found: Vec<usize> = cut.iter().map(|s| s.len() - made.headers_len()).collect();
            assert_eq!(found, lens, "{payload} by {mss}");
            assert_eq!(cut, model(&made, mss));
        }
    }
    let largest = plain(false, true, 65_535 - 40);
    assert_eq!(cut(&largest.to_bytes(), 1380).unwrap().len(), 48);
    assert_eq!(cut(&largest.to_bytes(), 64).unwrap(), model(&largest, 64), "1024 segments");
    assert_eq!(cut(&largest.to_bytes(), 63), Err(Discard::Unsegmentable));
}

#[test]
fn identifications_sequence_numbers_and_flags() {
    let tcp = cut(&plain(false, true, 250).to_bytes(), 100).unwrap();
    let fields = tcp.iter().map(|s| {
        (
            u16::from_be_bytes([s[4], s[5]]),
            u32::from_be_bytes(*s[24..].first_chunk().unwrap()),
            s[33],
        )
    });
    let expected = [(0x7FFE, u32::MAX - 99, 0x90), (0x7FFF, 0, 0x10), (0x0000, 100, 0x19)];
    assert!(fields.eq(expected), "the lower half of the identifications is TCP's");
    let udp = cut(&plain(false, false, 250).to_bytes(), 100).unwrap();
    let ids = udp.iter().map(|s| u16::from_be_bytes([s[4], s[5]]));
    assert!(ids.eq([0x7FFE, 0x7FFF, 0x8000]));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let refused = Err(Discard::Unsegmentable);
    let with = |made: &Made, at: usize, value: u8| {
        let mut bytes = made.to_bytes();
        bytes[at] = value;
        cut(&bytes, 100)
    };
    let (v4, v6) = (plain(false, true, 300), plain(true, true, 300));
    assert!(cut(&v4.to_bytes(), 100).is_ok() && cut(&v6.to_bytes(), 100).is_ok());
    for (made, at, value, why) in [
        (&v4, 0, 0x55, "version 5"),
        (&v4, 0, 0x44, "an IP header of 16 bytes"),
        (&v4, 2, 0, "says less than there is"),
        (&v4, 3, 0xFF, "says more than there is"),
        (&v4, 6, 0x20, "more fragments"),
        (&v4, 7, 1, "a later fragment"),
        (&v4, 9, 1, "ICMP"),
        (&v4, 32, 0x40, "a TCP header of 16 bytes"),
        (&v4, 33, 0x12, "SYN"),
        (&v4, 33, 0x14, "RST"),
        (&v4, 33, 0x30, "URG"),
        (&v6, 5, 0xFF, "says more than there is"),
        (&v6, 6, 0, "a hop-by-hop header"),
        (&v6, 6, 43, "a routing header"),
        (&v6, 6, 44, "a fragment header"),
        (&v6, 6, 60, "destination options"),
    ] {
        assert_eq!(with(made, at, value), refused, "{why}");
    }
    assert_eq!(cut(&v4.to_bytes(), 0), refused, "no segment size");
    for made in [&v4, &v6, &plain(false, false, 0), &plain(true, false, 0)] {
        let whole = made.to_bytes();
        for len in 0..made.headers_len() {
            let cut = SuperPacket::parse(&whole[..len], len, 100, 0);
            assert_eq!(cut, Err(Discard::Unsegmentable), "{len} bytes of headers");
        }
    }
}

#[test]
fn segments_are_no_longer_than_the_mtu() {
    // What is made of 5000 bytes: of TCP shorter segments, of UDP none.
    for (tcp, around) in [(true, 40), (false, 28)] {
        let made = plain(false, tcp, 5000);
        let (whole, len) = (made.to_bytes(), made.to_bytes().len());
        for (mss, mtu, shorter) in [
            (1420 - around, 1420, None),
            (1420 - around + 1, 1420, Some(1420 - around)),
            (1381, 0, None),
            (5000, 4999 + around, Some(4999)),
            (60_000, 4999 + around, Some(4999)),
            (1380, around + 5, Some(5)),
            (1380, around + 4, None),
            (1380, around, None),
            (1380, 10, None),
        ] {
            let parsed = SuperPacket::parse(&whole, len, mss, mtu);
            let fits = mtu == 0 || mss + around <= mtu;
            match (tcp, shorter) {
                _ if fits => assert_eq!(parsed.unwrap().mss, mss, "{mss} in {mtu}"),
                (true, Some(shorter)) => {
                    let parsed = parsed.unwrap();
                    assert_eq!(parsed, SuperPacket::parse(&whole, len, shorter, 0).unwrap());
                    let all = (0..parsed.segments()).map(|number| parsed.segment(number).unwrap());
                    assert!(all.map(|segment| segment.byte_count()).all(|bytes| bytes <= mtu));
                }
                _ => assert_eq!(parsed, Err(Discard::Oversize), "{mss} in {mtu}"),
            }
        }
    }
    let short = plain(false, true, 300);
    let (whole, len) = (short.to_bytes(), short.to_bytes().len());
    assert!(SuperPacket::parse(&whole, len, 9000, 1420).is_ok(), "one segment, and it fits");
    let parsed = SuperPacket::parse(&whole, len, 100, 1420).unwrap();
    let expected = Outgoing { destination: "10.9.8.7".parse().unwrap(), outer_tos: 2 };
    assert_eq!(parsed.outgoing(), expected);
}
