//! Control messages of datagrams: the WSACMSGHDR list beside a payload, read and written.
//!
//! The list is the one structure of WSK that both sides parse from raw bytes, and its rules are
//! easily got wrong: `cmsg_len` counts the header and the data but not the padding, the next header
//! stands at the next multiple of eight, and the last one may lack its padding. Here they exist
//! once, over byte slices, for the driver's sends (read strictly) and its receives (written).
//!
//! Source: facts of `ws2def.h` (WSACMSGHDR, WSA_CMSG_*) and `ws2ipdef.h` (IN_PKTINFO); x64 layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a WSACMSGHDR.
pub const HEADER_LEN: usize = 16;
/// `IPPROTO_IP`, the level of IPv4 messages.
pub const IPPROTO_IP: i32 = 0;
/// `IPPROTO_IPV6`, the level of IPv6 messages.
pub const IPPROTO_IPV6: i32 = 41;
/// `IPPROTO_UDP`, the level of UDP's messages.
pub const IPPROTO_UDP: i32 = 17;
/// `UDP_SEND_MSG_SIZE`: how long each datagram is to be that a buffer is cut into.
pub const UDP_SEND_MSG_SIZE: i32 = 2;
/// `UDP_COALESCED_INFO`: how long each datagram is of those that came as one.
pub const UDP_COALESCED_INFO: i32 = 3;
/// `IP_PKTINFO` and `IPV6_PKTINFO`.
pub const PKTINFO: i32 = 19;
/// `IP_ECN` and `IPV6_ECN`.
pub const ECN: i32 = 50;
/// `IP_TOS`.
pub const IP_TOS: i32 = 3;
/// `IPV6_TCLASS`.
pub const IPV6_TCLASS: i32 = 39;
/// `IP_OPTIONS`; empty, it is padding that keeps a lone PKTINFO from being dropped.
pub const IP_OPTIONS: i32 = 1;
/// `IPV6_RTHDR`; empty, the same for IPv6.
pub const IPV6_RTHDR: i32 = 32;

/// Which local address and interface a datagram came to or shall leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    /// The local address; unspecified lets the stack choose.
    pub address: IpAddr,
    /// The interface index; 0 lets the stack choose.
    pub interface: u32,
}

/// What the control messages of one send ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendControl {
    /// Source address and interface.
    pub packet_info: Option<PacketInfo>,
    /// The byte for the TOS or traffic class field.
    pub traffic_class: Option<u8>,
    /// Bytes of each datagram that a buffer is to be cut into.
    pub segment: Option<u32>,
}

/// Why a list is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A `cmsg_len` is smaller than a header or larger than the rest.
    Length {
        /// Where its header stands.
        offset: usize,
    },
    /// The data of a known message has the wrong length.
    Data {
        /// Where its header stands.
        offset: usize,
    },
    /// The level of a known message is not that of the address family.
    Family {
        /// Where its header stands.
        offset: usize,
    },
    /// The message's type is none this stack knows.
    Unknown {
        /// `cmsg_level`.
        level: i32,
        /// `cmsg_type`.
        kind: i32,
    },
}

/// One message: level, type, data.
pub type Message<'a> = (i32, i32, &'a [u8]);

/// Walks a list of control messages.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    list: &'a [u8],
    offset: usize,
}

impl<'a> Walk<'a> {
    /// Starts at the head of `list`.
    #[must_use]
    pub fn new(list: &'a [u8]) -> Self {
        Self { list, offset: 0 }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(usize, Message<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let rest = self.list.get(offset..)?;
        let header = rest.first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, t0, t1, t2, t3] = *header;
        let len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let data = usize::try_from(len).ok().and_then(|len| rest.get(HEADER_LEN..len));
        let Some(data) = data else {
            self.offset = self.list.len();
            return Some(Err(Malformed::Length { offset }));
        };
        self.offset = offset + HEADER_LEN + data.len().next_multiple_of(8);
        let level = i32::from_le_bytes([v0, v1, v2, v3]);
        let kind = i32::from_le_bytes([t0, t1, t2, t3]);
        Some(Ok((offset, (level, kind, data))))
    }
}

/// Reads what a send's control messages ask for, strictly.
///
/// # Errors
///
/// [`Malformed`], with the first message that is wrong for a socket of this family.
pub fn parse_send(list: &[u8], ipv6: bool) -> Result<SendControl, Malformed> {
    let family = if ipv6 { IPPROTO_IPV6 } else { IPPROTO_IP };
    let mut control = SendControl::default();
    for message in Walk::new(list) {
        let (offset, (level, kind, data)) = message?;
        match (level, kind) {
            (IPPROTO_IP | IPPROTO_IPV6, PKTINFO | ECN) if level != family => {
                return Err(Malformed::Family { offset });
            }
            (_, PKTINFO) => {
                let info = if ipv6 { packet_info_v6(data) } else { packet_info_v4(data) };
                control.packet_info = Some(info.ok_or(Malformed::Data { offset })?);
            }
            (IPPROTO_IP, ECN | IP_TOS) | (IPPROTO_IPV6, ECN | IPV6_TCLASS) => {
                let value: [u8; 4] = data.try_into().map_err(|_| Malformed::Data { offset })?;
                let value = u8::try_from(i32::from_le_bytes(value));
                control.traffic_class = Some(value.map_err(|_| Malformed::Data { offset })?);
            }
            (IPPROTO_UDP, UDP_SEND_MSG_SIZE) => {
                let value: [u8; 4] = data.try_into().map_err(|_| Malformed::Data { offset })?;
                control.segment = Some(u32::from_le_bytes(value));
            }
            (IPPROTO_IP, IP_OPTIONS) | (IPPROTO_IPV6, IPV6_RTHDR) if data.is_empty() => {}
            _ => return Err(Malformed::Unknown { level, kind }),
        }
    }
    Ok(control)
}

/// Appends one message at `used` bytes of `list` and returns the bytes used after it, padding
/// included; `None` if there is no room.
#[must_use]
pub fn append(list: &mut [u8], used: usize, (level, kind, data): Message<'_>) -> Option<usize> {
    let len = HEADER_LEN.checked_add(data.len())?;
    let end = used.checked_add(len.next_multiple_of(8))?;
    let room = list.get_mut(used..end)?;
    let (header, body) = room.split_first_chunk_mut::<HEADER_LEN>()?;
    let (length, kinds) = header.split_at_mut(8);
    length.copy_from_slice(&(len as u64).to_le_bytes());
    let (level_bytes, kind_bytes) = kinds.split_at_mut(4);
    level_bytes.copy_from_slice(&level.to_le_bytes());
    kind_bytes.copy_from_slice(&kind.to_le_bytes());
    let (data_bytes, padding) = body.split_at_mut(data.len());
    data_bytes.copy_from_slice(data);
    padding.fill(0);
    Some(end)
}

/// Appends the PKTINFO of a received datagram; as [`append`].
#[must_use]
pub fn append_packet_info(list: &mut [u8], used: usize, info: &PacketInfo) -> Option<usize> {
    match info.address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let [i, j, k, l] = info.interface.to_le_bytes();
            append(list, used, (IPPROTO_IP, PKTINFO, &[a, b, c, d, i, j, k, l]))
        }
        IpAddr::V6(address) => {
            let mut data = [0; 20];
            data[..16].copy_from_slice(&address.octets());
            data[16..].copy_from_slice(&info.interface.to_le_bytes());
            append(list, used, (IPPROTO_IPV6, PKTINFO, &data))
        }
    }
}

fn packet_info_v4(data: &[u8]) -> Option<PacketInfo> {
    let [a, b, c, d, interface @ ..] = *data.as_array::<8>()?;
    let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    Some(PacketInfo { address, interface: u32::from_le_bytes(interface) })
}

fn packet_info_v6(data: &[u8]) -> Option<PacketInfo> {
    let data = data.as_array::<20>()?;
    let (address, interface) = data.split_first_chunk::<16>()?;
    let address = IpAddr::V6(Ipv6Addr::from(*address));
    Some(PacketInfo { address, interface: u32::from_le_bytes(interface.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_macros() {
        let mut list = [0xFF; 64];
        let v4 = PacketInfo { address: "192.0.2.1".parse().unwrap(), interface: 7 };
        let v6 = PacketInfo { address: "2001:db8::1".parse().unwrap(), interface: 7 };
        assert_eq!(append_packet_info(&mut list, 0, &v4), Some(24));
        assert_eq!(append_packet_info(&mut list, 0, &v6), Some(40));
        assert_eq!(append(&mut list, 40, (IPPROTO_IPV6, IPV6_RTHDR, &[])), Some(56));
        assert_eq!(append(&mut list, 56, (IPPROTO_IPV6, IPV6_RTHDR, &[])), None);
        assert_eq!(list[0], 36, "the length is without the padding");
        assert_eq!(parse_send(&list[..56], true).unwrap().packet_info, Some(v6));
        assert_eq!(
            parse_send(&list[..36], true).unwrap().packet_info,
            Some(v6),
            "no padding at the end"
        );
    }

    #[test]
    fn wrong_lists_are_refused_by_reason() {
        let list = |level: i32, kind, data: &[u8]| {
            let mut list = [0; 64];
            let used = append(&mut list, 0, (level, kind, data)).unwrap();
            list[..used].to_vec()
        };
        let mut long = list(IPPROTO_IP, PKTINFO, &[0; 8]);
        long[0] = 25;
        let mut short = long.clone();
        short[0] = 15;
        for (list, expected) in [
            (long, Malformed::Length { offset: 0 }),
            (short, Malformed::Length { offset: 0 }),
            (list(IPPROTO_IP, PKTINFO, &[0; 7]), Malformed::Data { offset: 0 }),
            (list(IPPROTO_IPV6, PKTINFO, &[0; 20]), Malformed::Family { offset: 0 }),
            (list(IPPROTO_IP, ECN, &256_i32.to_le_bytes()), Malformed::Data { offset: 0 }),
            (list(IPPROTO_IP, IP_OPTIONS, &[1]), Malformed::Unknown { level: 0, kind: 1 }),
            (list(9, 9, &[]), Malformed::Unknown { level: 9, kind: 9 }),
            (list(IPPROTO_UDP, UDP_SEND_MSG_SIZE, &[0; 2]), Malformed::Data { offset: 0 }),
            (
                list(IPPROTO_IP, UDP_SEND_MSG_SIZE, &[0; 4]),
                Malformed::Unknown { level: 0, kind: 2 },
            ),
        ] {
            assert_eq!(parse_send(&list, false), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let walked = Walk::new(&bytes).count();
            prop_assert!(walked <= bytes.len() / HEADER_LEN + 1);
            let _ = parse_send(&bytes, false);
            let _ = parse_send(&bytes, true);
        }
    }
}
