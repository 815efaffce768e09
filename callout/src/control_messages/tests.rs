//! Lists of control messages: well formed, cut short, lying about their lengths, and random.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;

/// One message as `ws2def.h` lays it out, padded.
fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((16 + data.len() as u64).to_le_bytes());
    bytes.extend(level.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn arrival(parts: &[Vec<u8>]) -> Arrival {
    Arrival::read(&parts.concat())
}

const V4: [u8; 8] = [192, 0, 2, 1, 7, 0, 0, 0];
const V6: [u8; 20] = [0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0];

#[test]
fn packet_information_is_found_wherever_it_is() {
    let v4 = Some(Local { address: "192.0.2.1".parse().unwrap(), interface: 7 });
    let v6 = Some(Local { address: "2001:db8::1".parse().unwrap(), interface: 9 });
    for (parts, local, why) in [
        (vec![], None, "no messages at all"),
        (vec![message(0, 19, &V4)], v4, "alone"),
        (vec![message(41, 19, &V6)], v6, "IPv6, whose data ends off the alignment"),
        (vec![message(0, 21, &[64, 0, 0, 0]), message(0, 19, &V4)], v4, "behind an unknown one"),
        (vec![message(41, 19, &V6), message(17, 3, &[0; 4])], v6, "before an unknown one"),
        (vec![message(17, 19, &V4)], None, "the number at another level"),
        (vec![message(0, 19, &V4[..7])], None, "too short to be true"),
        (vec![message(41, 19, &V4)], None, "IPv4's data at IPv6's level"),
        (vec![message(0, 19, &V4), message(41, 19, &V6)], v4, "the first of two"),
    ] {
        assert_eq!(arrival(&parts).local, local, "{why}");
    }
}

#[test]
fn the_length_of_parts_is_found_wherever_it_is() {
    let said = message(17, 3, &1452_u32.to_ne_bytes());
    for (parts, segment, why) in [
        (vec![], None, "no messages at all"),
        (vec![said.clone()], Some(1452), "alone"),
        (vec![message(0, 19, &V4), said.clone()], Some(1452), "behind another"),
        (vec![said.clone(), message(41, 19, &V6)], Some(1452), "before another"),
        (vec![message(0, 3, &[1; 4])], None, "the number at another level"),
        (vec![message(17, 3, &[1; 3])], None, "too short to be true"),
        (vec![said, message(17, 3, &[0; 4])], Some(1452), "the first of two"),
    ] {
        assert_eq!(arrival(&parts).segment, segment, "{why}");
    }
}

#[test]
fn a_header_that_does_not_fit_ends_the_walk() {
    let good = message(0, 19, &V4);
    for (length, why) in [
        (0_u64, "zero would loop for ever"),
        (15, "less than a header"),
        (25, "more than there is"),
        (u64::MAX, "wraps when aligned"),
        (u64::MAX - 7, "wraps to zero when aligned"),
    ] {
        let mut bad = good.clone();
        bad[..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(ControlMessages::new(&bad).count(), 0, "{why}");
        assert_eq!(arrival(&[good.clone(), bad]).local.map(|local| local.interface), Some(7));
    }
    for cut in 0..good.len() {
        assert_eq!(ControlMessages::new(&good[..cut]).count(), 0, "cut to {cut} bytes");
    }
}

#[test]
fn the_last_message_may_lack_its_padding() {
    let padded = message(41, 19, &V6);
    assert_eq!(padded.len(), 40);
    assert_eq!(Arrival::read(&padded[..36]).local.map(|local| local.interface), Some(9));
    assert_eq!(Arrival::read(&padded[..35]).local, None);
}

#[test]
fn ecn_is_two_bits() {
    for (value, ecn) in [(0_u32, 0), (1, 1), (2, 2), (3, 3), (4, 0), (0xFFFF_FF02, 2)] {
        assert_eq!(arrival(&[message(0, 50, &value.to_le_bytes())]).ecn, ecn);
        assert_eq!(arrival(&[message(41, 50, &value.to_le_bytes())]).ecn, ecn);
    }
    assert_eq!(arrival(&[message(0, 50, &[1])]).ecn, 0, "not an INT");
}

#[test]
fn packet_information_is_never_alone() {
    let mut list = [0xAA; DEPARTURE_LEN];
    let source = "192.0.2.1".parse().unwrap();
    let written = write(&Departure { source, interface: 7, ecn: 0, dscp: 0 }, &mut list);
    let expected = [message(0, 19, &V4), message(0, 1, &[])].concat();
    assert_eq!(list[..written], expected);

    let source = "2001:db8::1".parse().unwrap();
    let written = write(&Departure { source, interface: 9, ecn: 2, dscp: 0 }, &mut list);
    let expected = [message(41, 19, &V6), message(41, 32, &[]), message(41, 50, &[2, 0, 0, 0])];
    assert_eq!(list[..written], expected.concat());
    // There is room left for one more, and for no other.
    assert_eq!(list[written..].len(), write_segment(1452, &mut list[written..]));
    assert_eq!(list[written..], message(17, 2, &1452_u32.to_ne_bytes()));
    assert_eq!(write_segment(1452, &mut list[..23]), 0, "what does not fit is left out whole");
}

// spec-test: WG 13-e
#[test]
fn a_dscp_is_said_with_the_ecn_bits() {
    for (source, level, kind, before) in
        [("192.0.2.1", 0, 3, 24 + 16), ("2001:db8::1", 41, 39, 40 + 16)]
    {
        let source = source.parse().unwrap();
        for (ecn, dscp, said) in [(0, 0x88, 0x88), (2, 0x88, 0x8A), (0, 0x8B, 0x88)] {
            let mut list = [0xAA; DEPARTURE_LEN];
            let written = write(&Departure { source, interface: 7, ecn, dscp }, &mut list);
            assert_eq!(list[before..written], message(level, kind, &[said, 0, 0, 0]));
            assert_eq!(without_dscp(&list[..written]), before);
            assert_eq!(without_dscp(&list[..before]), before, "there is none to leave out");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(source: IpAddr, interface: u32, ecn in 0_u8..4) {
        let mut list = [0xAA; DEPARTURE_LEN];
        let written = write(&Departure { source, interface, ecn, dscp: 0 }, &mut list);
        let local = Some(Local { address: source, interface });
        prop_assert_eq!(Arrival::read(&list[..written]), Arrival { local, ecn, segment: None });
    }

    #[test]
    fn any_bytes_are_walked_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ControlMessages::new(&bytes).count() <= bytes.len() / 16);
        let _ = Arrival::read(&bytes);
    }

    /// Lengths close to the truth find more than random ones.
    #[test]
    fn a_list_of_messages_with_any_lengths_is_walked(
        messages in prop::collection::vec((0_u64..48, prop::collection::vec(any::<u8>(), 0..32)), 0..6),
        cut in 0_usize..200,
    ) {
        let mut bytes = Vec::new();
        for (length, data) in &messages {
            let start = bytes.len();
            bytes.extend(message(0, 19, data));
            bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
        }
        bytes.truncate(cut);
        let total: usize = ControlMessages::new(&bytes).map(|found| 16 + found.data.len()).sum();
        prop_assert!(total <= bytes.len());
    }

    #[test]
    fn well_formed_lists_are_read_whole(
        messages in prop::collection::vec((any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(l, k, d)| message(*l, *k, d)).collect();
        let read: Vec<_> =
            ControlMessages::new(&bytes).map(|m| (m.level, m.kind, m.data.to_vec())).collect();
        prop_assert_eq!(read, messages);
    }
}
