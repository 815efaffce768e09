//! What the kernel may give and what the driver may: `virtio_net_hdr`s and TCP segments, good, odd and hostile.

use proptest::prelude::*;

use super::merge::merge;
use super::vnet::{GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADER, NEEDS_CSUM, VnetHeader};
use crate::checksum::{TCP, UDP, addresses, finish, finish_ip, fold, pseudo, sum};
use crate::nt::netcx::segmentation::{Cut, cut};

/// A packet of `payload` in a flow; `vary` changes the packet before its checksums are made.
struct Made {
    ipv6: bool,
    protocol: u8,
    sequence: u32,
    id: u16,
    flags: u8,
    options: usize,
    payload: Vec<u8>,
}

impl Made {
    fn tcp(ipv6: bool, sequence: u32, id: u16, payload: &[u8]) -> Self {
        Self {
            ipv6,
            protocol: TCP,
            sequence,
            id,
            flags: 0x10,
            options: 12,
            payload: payload.to_vec(),
        }
    }

    fn l4(&self) -> usize {
        if self.ipv6 { 40 } else { 20 }
    }

    fn bytes(&self, vary: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let l4 = self.l4();
        let mut packet = vec![0; l4];
        if self.ipv6 {
            packet[0] = 0x60;
            packet[6..8].copy_from_slice(&[self.protocol, 64]);
            packet[8..40].copy_from_slice(&[7; 32]);
            packet[39] = 8;
        } else {
            packet[0] = 0x45;
            packet[4..6].copy_from_slice(&self.id.to_be_bytes());
            packet[6] = 0x40;
            packet[8..10].copy_from_slice(&[64, self.protocol]);
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        packet.extend([0x12, 0x34, 0x56, 0x78]);
        if self.protocol == TCP {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend([
                1,
                2,
                3,
                4,
                (((20 + self.options) / 4) << 4) as u8,
                self.flags,
                1,
                0,
                0,
                0,
                0,
                0,
            ]);
            packet.extend(vec![1; self.options]);
        } else {
            packet.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            packet.extend([0, 0]);
        }
        packet.extend(&self.payload);
        vary(&mut packet);
        let len = packet.len();
        finish_ip(&mut packet, l4, len);
        let at = self.checksum_at();
        let total = pseudo(addresses(&packet), self.protocol, len - l4) + sum(&packet[l4..]);
        packet[at..at + 2].copy_from_slice(&finish(self.protocol, total).to_ne_bytes());
        packet
    }

    fn checksum_at(&self) -> usize {
        self.l4() + if self.protocol == TCP { 16 } else { 6 }
    }

    /// As the kernel gives it to be cut in segments of `mss`.
    fn unfinished(&self, mss: usize) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.bytes(|_| {});
        let (l4, at) = (self.l4(), self.checksum_at());
        let begun = fold(pseudo(addresses(&packet), self.protocol, packet.len() - l4));
        packet[at..at + 2].copy_from_slice(&begun.to_ne_bytes());
        let gso_type = match (self.protocol, self.ipv6) {
            (UDP, _) => GSO_UDP,
            (_, false) => GSO_TCP4,
            (_, true) => GSO_TCP6,
        };
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: 0,
            gso_size: mss as u16,
            csum_start: l4 as u16,
            csum_offset: (at - l4) as u16,
        };
        (header, packet)
    }
}

fn split(header: &VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    cut(packet, header.segment_size(packet)?)
}

/// What is written for `packets`.
fn merged(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    merge(packets.iter().map(|packet| &packet[..]), |pieces| {
        written.push(pieces.iter().flat_map(|piece| piece.iter().copied()).collect());
    });
    written
}

/// What the kernel makes of it for somebody who wants whole packets.
fn resplit(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let each = |bytes: &Vec<u8>| {
        let (header, packet) = VnetHeader::parse(bytes).unwrap();
        if header.gso_type == 0 { vec![packet.to_vec()] } else { split(&header, packet).unwrap() }
    };
    written.iter().flat_map(each).collect()
}

fn is_good(packet: &[u8], protocol: u8) -> bool {
    let l4 = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let ip = l4 == 40 || fold(sum(&packet[..20])) == 0xFFFF;
    ip && fold(pseudo(addresses(packet), protocol, packet.len() - l4) + sum(&packet[l4..]))
        == 0xFFFF
}

/// A stream of segments of `mss` bytes, the last with `last`, and PSH.
fn stream(ipv6: bool, count: usize, mss: usize, last: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            let ends = number + 1 == count;
            let payload = vec![number as u8; if ends { last } else { mss }];
            let sequence = 0xFFFF_F000_u32.wrapping_add((number * mss) as u32);
            let mut made =
                Made::tcp(ipv6, sequence, 0xFFFE_u16.wrapping_add(number as u16), &payload);
            made.flags |= if ends { 8 } else { 0 };
            made.bytes(|_| {})
        })
        .collect()
}

proptest! {
    /// Cut and joined again, payload and order are those of the whole; every segment has good sums.
    #[test]
    fn what_is_cut_is_whole(
        ipv6: bool, udp: bool, mss in 1_usize..1500, payload in proptest::collection::vec(any::<u8>(), 1..20_000),
    ) {
        let mut made = Made::tcp(ipv6, 0xFFFF_FF00, 0xFFFF, &payload);
        made.flags = 0x80 | 0x10 | 0x09;
        if udp {
            made.protocol = UDP;
        }
        let (header, packet) = made.unfinished(mss);
        let segments = split(&header, &packet).unwrap();
        let headers = packet.len() - payload.len();
        prop_assert_eq!(segments.len(), payload.len().div_ceil(mss));
        let joined: Vec<u8> = segments.iter().flat_map(|s| s[headers..].iter().copied()).collect();
        prop_assert_eq!(joined, payload);
        let l4 = made.l4();
        for (number, segment) in segments.iter().enumerate() {
            prop_assert!(is_good(segment, made.protocol));
            if !ipv6 {
                prop_assert_eq!(&segment[4..6], &0xFFFF_u16.wrapping_add(number as u16).to_be_bytes()[..]);
            }
            if !udp {
                let sequence = 0xFFFF_FF00_u32.wrapping_add((number * mss) as u32);
                prop_assert_eq!(&segment[l4 + 4..l4 + 8], &sequence.to_be_bytes()[..]);
                let (first, last) = (number == 0, number + 1 == segments.len());
                let flags = 0x10 | if first { 0x80 } else { 0 } | if last { 9 } else { 0 };
                prop_assert_eq!(segment[l4 + 13], flags);
            }
        }
    }

    /// Merged and cut again every byte is as it was, whatever the lengths.
    #[test]
    fn what_is_merged_cuts_back(ipv6: bool, count in 1_usize..100, mss in 1_usize..1400, last in 1_usize..1400) {
        let packets = stream(ipv6, count, mss, last.min(mss));
        prop_assert_eq!(resplit(&merged(&packets)), packets);
    }

    /// One field of one packet changed at random: nothing is lost, and every flow keeps its order.
    #[test]
    fn whatever_is_different_stays_itself(
        ipv6: bool, count in 2_usize..20, at in 0_usize..20, byte in 0_usize..90, to: u8, sums: bool,
    ) {
        let mut packets = stream(ipv6, count, 100, 100);
        let chosen = at % count;
        if sums {
            let made = Made::tcp(ipv6, 0, 0, &packets[chosen][if ipv6 { 72 } else { 52 }..]);
            let old = packets[chosen].clone();
            packets[chosen] = made.bytes(|packet| {
                packet.copy_from_slice(&old);
                packet[byte] = to;
                packet[made.checksum_at()..made.checksum_at() + 2].fill(0);
            });
        } else {
            packets[chosen][byte] = to;
        }
        let mut before = packets.clone();
        let mut after = resplit(&merged(&packets));
        if packets[chosen][0] >> 4 == packets[(chosen + 1) % count][0] >> 4
            && addresses(&packets[chosen]) == addresses(&packets[(chosen + 1) % count])
            && packets[chosen].get(if ipv6 { 40..44 } else { 20..24 }) == packets[(chosen + 1) % count].get(if ipv6 { 40..44 } else { 20..24 })
        {
            prop_assert_eq!(&after, &before);
        }
        before.sort();
        after.sort();
        prop_assert_eq!(after, before);
    }

    /// Nothing that the kernel might say makes a cut panic, or a segment that is longer than its room.
    #[test]
    fn any_header_and_any_packet(
        header: [u8; HEADER], packet in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()], room in 0_usize..200,
    ) {
        let mut bytes = header.to_vec();
        bytes.extend(&packet);
        if let Some(first) = bytes.get_mut(HEADER) {
            *first = version;
        }
        for len in 0..bytes.len() {
            let Some((header, packet)) = VnetHeader::parse(&bytes[..len]) else { continue };
            prop_assert_eq!(header.to_bytes().to_vec(), bytes[..HEADER].to_vec());
            let _ = header.complete(&mut packet.to_vec());
            let mut into = vec![0; room];
            let size = header.segment_size(packet);
            if let Some(mut cut) = size.and_then(|size| Cut::new(packet, size)) {
                while let Some(len) = cut.next(packet, &mut into) {
                    prop_assert!(len <= room);
                }
            }
        }
        let cuts: Vec<Vec<u8>> = (0..bytes.len()).map(|len| bytes[..len].to_vec()).collect();
        prop_assert_eq!(merged(&cuts).len(), cuts.len());
    }
}

#[test]
fn a_run_is_one_packet_and_ends_where_it_must() {
    for ipv6 in [false, true] {
        let packets = stream(ipv6, 30, 1368, 500);
        let written = merged(&packets);
        assert_eq!(written.len(), 1);
        let (header, packet) = VnetHeader::parse(&written[0]).unwrap();
        let gso_type = if ipv6 { GSO_TCP6 } else { GSO_TCP4 };
        assert_eq!((header.gso_type, header.gso_size, header.flags), (gso_type, 1368, NEEDS_CSUM));
        assert_eq!(packet[usize::from(header.csum_start) + 13], 0x18, "PSH of the last");

        // Behind a short segment, and behind PSH, another run begins.
        let mut twice = packets.clone();
        twice.extend(packets);
        assert_eq!(merged(&twice).len(), 2);
    }
    // Behind a short one without PSH too: a run's segments are of one length, or the kernel would cut it elsewhere.
    let lens = [(0, 100), (100, 50), (150, 100)];
    let odd = lens.map(|(sequence, len)| {
        Made::tcp(false, sequence, (sequence / 75) as u16, &vec![3; len]).bytes(|_| {})
    });
    assert_eq!(merged(&odd).len(), 2);
    assert_eq!(resplit(&merged(&odd)), odd);
    // Longer than an IP packet can be.
    assert_eq!(merged(&stream(false, 60, 1368, 1368)).len(), 2);
}

#[test]
fn what_differs_is_not_merged() {
    let at = |number: u32, vary: &dyn Fn(&mut Made), edit: &dyn Fn(&mut [u8])| {
        let mut made = Made::tcp(false, number * 100, number as u16, &[9; 100]);
        vary(&mut made);
        made.bytes(|packet| edit(packet))
    };
    let plain = |number| at(number, &|_| {}, &|_| {});
    assert_eq!(merged(&[plain(0), plain(1)]).len(), 1);
    let odd: [(&str, Vec<u8>); 14] = [
        ("a gap", plain(2)),
        ("the same again", plain(0)),
        ("longer than the first", at(1, &|made| made.payload.push(1), &|_| {})),
        ("no data", at(1, &|made| made.payload.clear(), &|_| {})),
        ("another identification", at(1, &|made| made.id = 5, &|_| {})),
        ("CE", at(1, &|_| {}, &|packet| packet[1] = 3)),
        ("another TTL", at(1, &|_| {}, &|packet| packet[8] = 63)),
        ("a fragment", at(1, &|_| {}, &|packet| packet[6] = 0x20)),
        ("FIN", at(1, &|made| made.flags |= 1, &|_| {})),
        ("CWR", at(1, &|made| made.flags |= 0x80, &|_| {})),
        ("ECE", at(1, &|made| made.flags |= 0x40, &|_| {})),
        ("another acknowledgement", at(1, &|_| {}, &|packet| packet[28] = 9)),
        ("another window", at(1, &|_| {}, &|packet| packet[34] = 9)),
        ("another timestamp", at(1, &|_| {}, &|packet| packet[45] = 9)),
    ];
    for (what, packet) in odd {
        let packets = [plain(0), packet];
        let written = merged(&packets);
        assert_eq!(written.len(), 2, "{what}");
        assert_eq!(resplit(&written), packets, "{what}");
    }
    for wrong in [11, 37, 100] {
        let mut bad = plain(1);
        bad[wrong] ^= 1;
        assert_eq!(merged(&[plain(0), bad.clone()]).len(), 2, "byte {wrong} wrong");
        assert_eq!(resplit(&merged(&[plain(0), bad.clone()])), [plain(0), bad]);
    }
}

#[test]
fn flows_beside_each_other_are_merged_apart() {
    let of = |port: u8, number: u32| {
        Made::tcp(false, number * 100, number as u16, &[port; 100])
            .bytes(|packet| packet[20] = port)
    };
    let mixed: Vec<_> =
        (0..10).flat_map(|number| [of(1, number), of(2, number), of(3, number)]).collect();
    let written = merged(&mixed);
    assert_eq!(written.len(), 3);
    let apart: Vec<_> =
        (1..4).flat_map(|port| (0..10).map(move |number| of(port, number))).collect();
    assert_eq!(resplit(&written), apart);
    // More flows than places: all there.
    let many: Vec<_> =
        (0..3).flat_map(|number| (0..20).map(move |port| of(port, number))).collect();
    let (mut before, mut after) = (many.clone(), resplit(&merged(&many)));
    before.sort();
    after.sort();
    assert_eq!(after, before);
}

#[test]
fn a_checksum_is_completed() {
    for protocol in [TCP, UDP] {
        for len in [0, 1, 2, 3, 1371] {
            let mut made = Made::tcp(false, 1, 1, &vec![0xEE; len]);
            made.protocol = protocol;
            let (header, mut packet) = made.unfinished(1);
            let header = VnetHeader { gso_type: 0, ..header };
            assert!(header.complete(&mut packet));
            assert_eq!(packet, made.bytes(|_| {}));
            let end = packet.len() as u16 - header.csum_start;
            for outside in [end - 1, end, u16::MAX] {
                assert!(!VnetHeader { csum_offset: outside, ..header }.complete(&mut packet));
            }
        }
    }
}

#[test]
fn cwr_is_a_bit_of_its_own() {
    let (header, packet) = Made::tcp(false, 1, 1, &[1; 300]).unfinished(100);
    let with = VnetHeader { gso_type: header.gso_type | GSO_ECN, ..header };
    assert_eq!(split(&with, &packet), split(&header, &packet));
    assert_eq!(split(&VnetHeader { gso_type: GSO_TCP6, ..header }, &packet), None);
    assert_eq!(split(&VnetHeader { gso_size: 0, ..header }, &packet), None);
    assert_eq!(split(&VnetHeader { flags: 0, ..header }, &packet), None);
}
