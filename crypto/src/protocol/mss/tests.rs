//! Announcements of every shape, and what is none.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::protocol::checksum::Sum;

/// A SYN with these options, behind an IPv4 header with options of 4 bytes, or IPv6 extension headers.
fn syn(version: u8, extended: bool, options: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 2, 0xFF, 0xFF, 0, 0, 0, 0];
    tcp.extend(options);
    tcp.resize(tcp.len().next_multiple_of(4), 0);
    tcp[12] = (tcp.len() as u8 / 4) << 4;
    let mut packet = match (version, extended) {
        (4, false) => vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0],
        (4, true) => vec![0x46, 0, 0, 0, 0, 0, 0x20, 0, 64, 6, 0, 0],
        (_, false) => vec![0x60, 0, 0, 0, 0, 0, 6, 64],
        (_, true) => vec![0x60, 0, 0, 0, 0, 0, 0, 64],
    };
    packet.extend(if version == 4 { vec![10; 8] } else { vec![0xFD; 32] });
    match (version, extended) {
        (4, true) => packet.extend([1, 1, 1, 0]),
        // Hop-by-hop options, and then a first fragment.
        (6, true) => packet.extend([44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 7]),
        _ => {}
    }
    let sum = Sum::of_pseudo_header(addresses(&packet), 6, tcp.len()).and(&tcp).checksum();
    tcp[16..18].copy_from_slice(&sum);
    packet.extend(tcp);
    packet
}

fn addresses(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] }
}

fn fits(packet: &[u8]) -> bool {
    let (_, at) = transport_at(packet).unwrap();
    let tcp = &packet[at..];
    Sum::of_pseudo_header(addresses(packet), 6, tcp.len()).and(tcp).checksum() == [0, 0]
}

#[test]
fn what_can_be_none_is_told_at_a_glance() {
    let packet = syn(4, false, &[2, 4, 5, 180]);
    assert!(may_be_syn(&packet) && may_be_syn(&packet[..40]));
    assert!(!may_be_syn(&packet[..39]), "the flags may be missing");
    let mut other = packet.clone();
    for (at, byte, why) in [
        (0, 0x55, "no IP"),
        (0, 0x44, "IPv4's header is shorter than it can be"),
        (9, 17, "UDP"),
        (33, 0x10, "an ACK"),
    ] {
        let before = std::mem::replace(&mut other[at], byte);
        assert!(!may_be_syn(&other), "{why}");
        other[at] = before;
    }
    let packet = syn(6, false, &[2, 4, 5, 180]);
    assert!(may_be_syn(&packet[..54]) && !may_be_syn(&packet[..53]), "no flags");
}

#[test]
fn it_is_lowered_to_what_the_path_takes() {
    for (version, header) in [(4, 40), (6, 60)] {
        for extended in [false, true] {
            for (said, path, expected) in [
                (1460, 1440, 1420 - header),
                (65_535, 1400, 1392 - header),
                (1420 - header, 1420, 1420 - header),
                (1420 - header + 1, 1420, 1420 - header),
                (1392 - header, 1400, 1392 - header),
                (1392 - header + 1, 1400, 1392 - header),
                (1000, 1420, 1000),
                (0, 1420, 0),
            ] {
                // At an even and at an odd place.
                for before in [&[][..], &[1, 3, 3, 7], &[1], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0]] {
                    let [high, low] = u16::to_be_bytes(said);
                    let options = [before, &[2, 4, high, low], &[4, 2]].concat();
                    let before = syn(version, extended, &options);
                    assert!(may_be_syn(&before) && fits(&before));
                    let mut packet = before.clone();
                    let mtu = PathMtu::new(1420, path);
                    assert_eq!(is_too_high(&packet, mtu), said != expected);
                    assert_eq!(lower(&mut packet, mtu), said != expected);
                    let [high, low] = u16::to_be_bytes(expected);
                    let options =
                        [&options[..options.len() - 6], &[2, 4, high, low, 4, 2]].concat();
                    assert_eq!(packet, syn(version, extended, &options), "{version}, {said}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_announcement_stays() {
    let mtu = PathMtu::new(0, 1300);
    for (version, extended) in [(4, false), (4, true), (6, false), (6, true)] {
        for (options, why) in [
            (&[][..], "none"),
            (&[1, 1, 1, 1], "nothing"),
            (&[0, 2, 4, 5, 0xB4, 0, 0, 0], "behind the end"),
            (&[2, 3, 5, 0xB4], "another length"),
            (&[2, 4, 4], "padded with a zero it is low"),
            (&[3, 0, 2, 4, 5, 0xB4], "an option without length"),
            (&[3, 1, 2, 4, 5, 0xB4], "an option shorter than itself"),
            (&[3, 200, 2, 4, 5, 0xB4, 0, 0], "an option longer than all"),
            (&[1, 1, 1, 2], "cut off behind the kind"),
        ] {
            let mut packet = syn(version, extended, options);
            let before = packet.clone();
            assert_eq!((lower(&mut packet, mtu), &packet), (false, &before), "{version}: {why}");
        }
        let whole = syn(version, extended, &[2, 4, 5, 0xB4]);
        let (_, tcp_at) = transport_at(&whole).unwrap();
        for (at, value, why) in [
            (tcp_at + 13, 0x10, "no SYN"),
            (tcp_at + 12, 0x70, "a header longer than all"),
            (tcp_at + 12, 0x50, "a header without options"),
            (tcp_at + 12, 0x10, "a header shorter than itself"),
            if version == 4 { (7, 1, "a later fragment") } else { (6, 17, "UDP") },
            if version == 4 { (9, 17, "UDP") } else { (6, 59, "nothing") },
            (0, 0x05, "version 0"),
        ] {
            let mut packet = whole.clone();
            packet[at] = value;
            let before = packet.clone();
            assert_eq!((lower(&mut packet, mtu), &packet), (false, &before), "{version}: {why}");
        }
        for len in 0..whole.len() {
            assert!(!lower(&mut whole[..len].to_vec(), mtu), "{len} bytes of it");
        }
    }
    let mut later = syn(6, true, &[2, 4, 5, 0xB4]);
    later[51] |= 8;
    assert!(!lower(&mut later, mtu), "a later fragment");
}

proptest! {
    /// Whatever it is: no panic, and nothing but an announcement and the checksum is written.
    #[test]
    fn nothing_else_is_touched(
        version in prop_oneof![Just(4_u8), Just(6)],
        extended: bool,
        options in prop::collection::vec(prop_oneof![0..5_u8, any::<u8>()], 0..41),
        spoilt in prop::collection::vec((0..120_usize, any::<u8>()), 0..4),
        len in 0..160_usize,
        path in 0..3000_usize,
    ) {
        let mut packet = syn(version, extended, &options[..options.len().min(40)]);
        let spoils = !spoilt.is_empty() || len < packet.len();
        for (at, value) in spoilt {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(len);
        let (before, mtu) = (packet.clone(), PathMtu::new(1420, path));
        let says = is_too_high(&packet, mtu);
        let lowered = lower(&mut packet, mtu);
        prop_assert_eq!(says, lowered);
        prop_assert!(!lowered || may_be_syn(&before));
        let changed: Vec<usize> = (0..packet.len()).filter(|at| packet[*at] != before[*at]).collect();
        if !lowered {
            prop_assert!(changed.is_empty());
            return Ok(());
        }
        let (_, tcp_at) = transport_at(&before).unwrap();
        let outside: Vec<&usize> = changed.iter().filter(|at| !(tcp_at + 16..tcp_at + 18).contains(*at)).collect();
        let first = **outside.first().unwrap();
        prop_assert!(outside.iter().all(|at| **at <= first + 1 && **at >= tcp_at + 20));
        prop_assert!(spoils || fits(&packet));
    }

    #[test]
    fn any_bytes(mut packet in prop::collection::vec(any::<u8>(), 0..200), path in 0..2000_usize) {
        let before = packet.clone();
        let lowered = lower(&mut packet, PathMtu::new(0, path));
        prop_assert!(lowered || packet == before);
        prop_assert!(before.iter().zip(&packet).filter(|(a, b)| a != b).count() <= 4);
    }
}
