//! Configurations through the writer and back through the parser, and everything a parser may be fed.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use abi::ioctl::{
    ALLOWED_IP_LEN, AllowedIp, INTERFACE_LEN, PEER_LEN, ParseError, Set, Writer, interface_flag,
    peer_flag,
    writer::{InterfaceFields, PeerFields},
};
use proptest::prelude::*;

const NO_KEY: [u8; 32] = [0; 32];

fn interface(flags: u32) -> InterfaceFields<'static> {
    InterfaceFields { flags, listen_port: 51820, private_key: &[1; 32], public_key: &[2; 32] }
}

fn peer(key: &[u8; 32], flags: u32, endpoint: Option<SocketAddr>) -> PeerFields<'_> {
    PeerFields {
        flags: flags | peer_flag::HAS_PUBLIC_KEY,
        public_key: key,
        preshared_key: &NO_KEY,
        persistent_keepalive_s: 25,
        endpoint,
        tx_bytes: 1,
        rx_bytes: 2,
        last_handshake_filetime: 3,
    }
}

fn v4(cidr: u8) -> AllowedIp {
    AllowedIp { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), cidr, remove: false }
}

fn one_peer() -> Vec<u8> {
    let mut buffer = vec![0xCC; INTERFACE_LEN + PEER_LEN + 2 * ALLOWED_IP_LEN];
    let mut writer = Writer::new(&mut buffer, &interface(interface_flag::HAS_LISTEN_PORT));
    let endpoint = "192.0.2.7:1234".parse().unwrap();
    writer.peer(&peer(&[7; 32], peer_flag::HAS_ENDPOINT, Some(endpoint)));
    writer.allowed_ip(&v4(32));
    writer.allowed_ip(&v4(8));
    assert_eq!(writer.len_bytes(), buffer.len());
    buffer
}

#[test]
fn what_is_absent_stays_absent() {
    let buffer = one_peer();
    let set = Set::parse(&buffer).unwrap();
    assert_eq!(
        (set.listen_port(), set.private_key(), set.replaces_peers()),
        (Some(51820), None, false)
    );
    let peer = set.peers().next().unwrap();
    assert_eq!(peer.preshared_key(), None);
    assert_eq!(peer.persistent_keepalive_s(), None);
    assert_eq!(peer.endpoint(), Some("192.0.2.7:1234".parse().unwrap()));
    assert_eq!(peer.allowed_ips().collect::<Vec<_>>(), [v4(32), v4(8)]);
    assert_eq!((peer.tx_bytes(), peer.rx_bytes(), peer.last_handshake_filetime()), (1, 2, 3));
}

#[test]
fn the_layout_is_wireguardnts() {
    let buffer = one_peer();
    assert_eq!(buffer[0..4], [4, 0, 0, 0], "flags");
    assert_eq!(buffer[4..6], 51820_u16.to_le_bytes(), "listen port");
    assert_eq!(buffer[72..76], [1, 0, 0, 0], "peers");
    let peer = &buffer[INTERFACE_LEN..];
    assert_eq!(peer[8..40], [7; 32], "public key");
    assert_eq!(peer[76..84], [2, 0, 0x04, 0xD2, 192, 0, 2, 7], "endpoint");
    assert_eq!(peer[128..132], [2, 0, 0, 0], "allowed IPs");
    let allowed_ip = &peer[PEER_LEN..];
    assert_eq!(allowed_ip[..4], [10, 0, 0, 5]);
    assert_eq!(allowed_ip[16..19], [2, 0, 32], "family and cidr");
}

#[test]
fn an_ipv6_endpoint_keeps_its_scope_and_flow() {
    let endpoint =
        SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 9, 0x0001_2345, 0x0A0B_0C0D));
    let mut buffer = vec![0; INTERFACE_LEN + PEER_LEN];
    let mut writer = Writer::new(&mut buffer, &interface(0));
    writer.peer(&peer(&[7; 32], peer_flag::HAS_ENDPOINT, Some(endpoint)));
    assert_eq!(Set::parse(&buffer).unwrap().peers().next().unwrap().endpoint(), Some(endpoint));
}

#[test]
fn every_cut_is_refused() {
    let buffer = one_peer();
    for len in 0..buffer.len() {
        assert_eq!(Set::parse(&buffer[..len]).err(), Some(ParseError::Truncated), "{len} bytes");
    }
    let mut longer = buffer.clone();
    longer.extend([0xFF; 100]);
    assert_eq!(Set::parse(&longer).unwrap().len_bytes(), buffer.len(), "what follows is ignored");
}

#[test]
fn every_bad_field_is_refused() {
    let peer_at = INTERFACE_LEN;
    let allowed_ip_at = INTERFACE_LEN + PEER_LEN;
    for (at, bytes, error, why) in [
        (0, &[0x10][..], ParseError::UnknownFlag, "interface flag"),
        (72, &[2, 0, 0, 0], ParseError::Truncated, "one peer too many"),
        (72, &[0xFF; 4], ParseError::Truncated, "as many peers as can be counted"),
        (peer_at + 1, &[1], ParseError::UnknownFlag, "peer flag"),
        (peer_at, &[8], ParseError::NoPublicKey, "no public key"),
        (peer_at, &[0x19, 0, 0, 0, 2, 0, 0, 0], ParseError::ProtocolVersion, "version 2"),
        (peer_at + 76, &[10, 0], ParseError::AddressFamily, "AF_INET6 of another system"),
        (peer_at + 128, &[3, 0, 0, 0], ParseError::Truncated, "one allowed IP too many"),
        (peer_at + 128, &[0xAB, 0xAA, 0xAA, 0x0A], ParseError::Truncated, "length past 2^32"),
        (allowed_ip_at + 16, &[0, 0], ParseError::AddressFamily, "no family"),
        (allowed_ip_at + 18, &[33], ParseError::PrefixLength, "/33"),
        (allowed_ip_at + 16, &[23, 0, 129], ParseError::PrefixLength, "/129"),
        (allowed_ip_at + 20, &[2], ParseError::UnknownFlag, "allowed IP flag"),
    ] {
        let mut buffer = one_peer();
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Set::parse(&buffer).err(), Some(error), "{why}");
    }
}

#[test]
fn too_small_a_buffer_tells_the_length_needed() {
    let whole = one_peer().len();
    for len in 0..whole {
        let mut buffer = vec![0xCC; len];
        let mut writer = Writer::new(&mut buffer, &interface(0));
        writer.peer(&peer(&[7; 32], 0, None));
        writer.allowed_ip(&v4(32));
        writer.allowed_ip(&v4(8));
        assert_eq!(writer.len_bytes(), whole);
    }
}

fn allowed_ip() -> impl Strategy<Value = AllowedIp> {
    let address = prop_oneof![
        (any::<[u8; 4]>().prop_map(IpAddr::from), 0..=32_u8),
        (any::<[u8; 16]>().prop_map(IpAddr::from), 0..=128_u8),
    ];
    (address, any::<bool>()).prop_map(|((address, cidr), remove)| AllowedIp {
        address,
        cidr,
        remove,
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(mut buffer in prop::collection::vec(any::<u8>(), 0..600), peers in 0..4_u32) {
        let _ = Set::parse(&buffer);
        // The same with a header that passes, so that the peers are reached.
        if buffer.len() >= INTERFACE_LEN {
            buffer[..4].fill(0);
            buffer[72..76].copy_from_slice(&peers.to_le_bytes());
            if let Ok(set) = Set::parse(&buffer) {
                prop_assert!(set.len_bytes() <= buffer.len());
                prop_assert_eq!(set.peers().count(), peers as usize);
            }
        }
    }

    #[test]
    fn what_is_written_reads_back(
        peers in prop::collection::vec((any::<[u8; 32]>(), prop::collection::vec(allowed_ip(), 0..5)), 0..6),
    ) {
        let mut buffer = vec![0; 8192];
        let mut writer = Writer::new(&mut buffer, &interface(interface_flag::REPLACE_PEERS));
        for (key, allowed_ips) in &peers {
            writer.peer(&peer(key, 0, None));
            allowed_ips.iter().for_each(|a| writer.allowed_ip(a));
        }
        let len = writer.len_bytes();
        let set = Set::parse(&buffer).unwrap();
        prop_assert_eq!(set.len_bytes(), len);
        let read: Vec<_> = set.peers().map(|p| (*p.public_key(), p.allowed_ips().collect::<Vec<_>>())).collect();
        prop_assert_eq!(read, peers);
    }
}
