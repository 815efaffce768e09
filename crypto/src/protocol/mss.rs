//! The maximum segment size that TCP announces with its SYN, lowered to what a path takes.
//!
//! Whoever hears it sends no longer segments, so that nothing has to be cut or answered. It is lowered and
//! never raised or added: the SYN of a host that knows the path stays as it is. Pure functions over bytes
//! that may be anything; any level.

use super::{
    checksum::updated,
    ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP, TCP_HEADER_LEN, flag, transport_at},
    send::PathMtu,
};

/// Bytes of a packet's front that [`lower`] has to see: an IPv4 or IPv6 header with options or extension headers
/// of usual length, and a TCP header. In what has longer ones nothing is found.
pub const FRONT_LEN: usize = 256;

/// Kinds of TCP options. [RFC 9293 §3.1]
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NONE: u8 = 1;
    pub(super) const MSS: u8 = 2;
}

/// Whether [`lower`] may find something; `head` has 54 bytes or is a whole packet, or that with zeroes behind.
///
/// Quick: most packets are told by their protocol or flags.
#[must_use]
#[inline]
pub fn may_be_syn(head: &[u8]) -> bool {
    // An announcement is behind two headers, of which these are the shortest.
    let Some(first) = head.first_chunk::<{ IPV4_HEADER_LEN + TCP_HEADER_LEN }>() else {
        return false;
    };
    let is_syn = |flags: u8| flags & flag::SYN != 0;
    match first[0] {
        0x45 => first[9] == TCP && is_syn(first[IPV4_HEADER_LEN + FLAGS_AT]),
        0x46..=0x4F => first[9] == TCP,
        0x60..=0x6F if first[6] == TCP => {
            head.get(IPV6_HEADER_LEN + FLAGS_AT).is_some_and(|flags| is_syn(*flags))
        }
        0x60..=0x6F => super::ip::is_extension(first[6]),
        _ => false,
    }
}

/// Lowers the maximum segment size in the SYN at the front of `packet`, if there is one that is more than the
/// path takes, and brings the checksum up to date; returns whether it did. Nothing else is written.
///
/// `packet` begins with all headers ([`FRONT_LEN`]); more is fine.
pub fn lower(packet: &mut [u8], mtu: PathMtu) -> bool {
    let Some(found) = find(packet, mtu) else { return false };
    let Found { tcp_at, option_at, most } = found;
    let checksum_at = tcp_at.saturating_add(16);
    let (Some(old), Some(checksum)) = (read(packet, option_at), read(packet, checksum_at)) else {
        return false;
    };
    let new = most.to_be_bytes();
    // Behind an odd number of bytes it lies in the sum the other way round.
    let odd = !option_at.wrapping_sub(tcp_at).is_multiple_of(2);
    let word = |[high, low]: [u8; 2]| if odd { [low, high] } else { [high, low] };
    write(packet, checksum_at, updated(checksum, word(old), word(new)));
    write(packet, option_at, new);
    true
}

/// Whether [`lower`] would do something.
#[must_use]
pub fn is_too_high(front: &[u8], mtu: PathMtu) -> bool {
    find(front, mtu).is_some()
}

/// Where the flags are in a TCP header.
const FLAGS_AT: usize = 13;

/// An announcement that is too high.
struct Found {
    /// Where the TCP header is.
    tcp_at: usize,
    /// Where the number is.
    option_at: usize,
    /// What it may be.
    most: u16,
}

fn find(packet: &[u8], mtu: PathMtu) -> Option<Found> {
    let (protocol, tcp_at) = transport_at(packet)?;
    let header = packet.get(tcp_at..)?.first_chunk::<TCP_HEADER_LEN>()?;
    if protocol != TCP || header[FLAGS_AT] & flag::SYN == 0 {
        return None;
    }
    let len = usize::from(header[12] >> 4).saturating_mul(4);
    let options = packet.get(tcp_at..tcp_at.checked_add(len)?)?.get(TCP_HEADER_LEN..)?;
    let at = mss_at(options)?;
    let option_at = tcp_at.saturating_add(TCP_HEADER_LEN).saturating_add(at);
    let ipv6 = packet.first()? >> 4 == 6;
    let ip = if ipv6 { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN };
    // Without options of either: those the sender subtracts itself. [RFC 6691]
    let most = mtu.told(ipv6).saturating_sub(ip).saturating_sub(TCP_HEADER_LEN);
    let most = u16::try_from(most).ok()?;
    let said = u16::from_be_bytes(read(packet, option_at)?);
    (said > most).then_some(Found { tcp_at, option_at, most })
}

/// Where the number is in the first option of that kind.
fn mss_at(options: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        let len = match *options.get(at..)? {
            [option::END, ..] | [] => return None,
            [option::NONE, ..] => 1,
            [option::MSS, 4, _, _, ..] => return at.checked_add(2),
            [_, len, ..] if len >= 2 => len.into(),
            _ => return None,
        };
        at = at.checked_add(len)?;
    }
}

fn read(packet: &[u8], at: usize) -> Option<[u8; 2]> {
    packet.get(at..)?.first_chunk().copied()
}

fn write(packet: &mut [u8], at: usize, value: [u8; 2]) {
    if let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value;
    }
}

#[cfg(test)]
mod tests;
