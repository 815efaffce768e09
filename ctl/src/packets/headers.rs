//! The headers of a datagram that the driver saw without them: made of its addresses, as a program that reads packets wants them.
//!
//! What the driver does not know stands there as a constant: identification and flow label 0, 64 hops, no fragments. The checksums are
//! right; that of UDP is 0 where the datagram was cut off.

use std::net::{IpAddr, SocketAddr};

use abi::capture::Head;

const UDP: u8 = 17;
const HOPS: u8 = 64;
const UDP_LEN: u16 = 8;

/// Headers of IP and UDP for a datagram of which these bytes were seen; none if it has no addresses.
pub(super) fn of(head: &Head, bytes: &[u8]) -> Vec<u8> {
    let (Some(local), Some(remote)) = (head.local, head.remote) else { return Vec::new() };
    let (from, to) = if head.place.is_out() { (local, remote) } else { (remote, local) };
    // No datagram is longer.
    let udp_len = u16::try_from(head.original).unwrap_or(u16::MAX).saturating_add(UDP_LEN);
    let mut headers = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, head.tos];
            ip.extend(udp_len.saturating_add(20).to_be_bytes());
            ip.extend([0, 0, 0, 0, HOPS, UDP, 0, 0]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            let checksum = (!Sum::of(&ip).folded()).to_be_bytes();
            ip.splice(10..12, checksum);
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60 | head.tos >> 4, head.tos << 4, 0, 0];
            ip.extend(udp_len.to_be_bytes());
            ip.extend([UDP, HOPS]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        // The driver has both of one family.
        _ => return Vec::new(),
    };
    let is_whole = bytes.len() == head.original as usize;
    let checksum = if is_whole { udp_checksum(from, to, udp_len, bytes) } else { 0 };
    for word in [from.port(), to.port(), udp_len, checksum] {
        headers.extend(word.to_be_bytes());
    }
    headers
}

/// The checksum of a datagram, of RFC 768 and RFC 8200: never 0, which is none.
fn udp_checksum(from: SocketAddr, to: SocketAddr, udp_len: u16, bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(ip) => sum.add(&ip.octets()),
            IpAddr::V6(ip) => sum.add(&ip.octets()),
        }
        sum.add(&address.port().to_be_bytes());
    }
    // Of the pseudo-header and of UDP's own.
    for word in [UDP.into(), udp_len, udp_len] {
        sum.add(&word.to_be_bytes());
    }
    sum.add(bytes);
    match !sum.folded() {
        0 => u16::MAX,
        checksum => checksum,
    }
}

/// A sum of the internet's: RFC 1071.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.add(bytes);
        sum
    }

    /// Adds bytes that begin at an even place, and end at one unless they are the last.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
            self.0 = self.0.wrapping_add(u16::from_be_bytes(word).into());
        }
    }

    fn folded(&self) -> u16 {
        let once = (self.0 >> 32) + (self.0 & 0xFFFF_FFFF);
        let twice = (once >> 16) + (once & 0xFFFF);
        let thrice = (twice >> 16) + (twice & 0xFFFF);
        ((thrice >> 16) + (thrice & 0xFFFF)) as u16
    }
}

#[cfg(test)]
mod tests {
    use abi::capture::Place;

    use super::*;

    fn head(place: Place, local: &str, remote: &str, original: u32) -> Head {
        let (local, remote) = (local.parse().ok(), remote.parse().ok());
        Head { place, time_100ns: 0, original, tos: 0xB8, local, remote }
    }

    /// An example that others have worked out: 192.168.0.31 to 192.168.0.30, port 20 to 10, "Hi".
    #[test]
    fn checksums_are_those_of_the_rfcs() {
        let head = head(Place::OuterOut, "192.168.0.31:20", "192.168.0.30:10", 2);
        let made = of(&head, b"Hi");
        assert_eq!(Sum::of(&made[..20]).folded(), 0xFFFF, "IPv4's");
        assert_eq!(made[26..], [0x35, 0xC5], "UDP's");
        assert_eq!(made[20..26], [0, 20, 0, 10, 0, 10]);
    }

    #[test]
    fn what_came_in_is_from_the_other_end() {
        let head = head(Place::OuterIn, "[2001:db8::1]:51820", "[2001:db8::2]:9", 148);
        let made = of(&head, &[0; 100]);
        assert_eq!(made.len(), 48);
        assert_eq!(made[..8], [0x6B, 0x80, 0, 0, 0, 156, UDP, HOPS]);
        assert_eq!((made[23], made[39]), (2, 1), "from and to");
        assert_eq!(made[40..], [0, 9, 0xCA, 0x6C, 0, 156, 0, 0], "no checksum of a part");
        assert_ne!(of(&head, &[0; 148])[46..], [0, 0]);
    }
}
