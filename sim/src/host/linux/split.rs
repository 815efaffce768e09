//! A packet of up to 64 KiB into packets of the MTU, as tcpip cuts what its adapter may not be given whole.
//!
//! Every segment is finished: lengths, IP identification counting on, sequence number, FIN and PSH on the last only, CWR on
//! the first only, both checksums.

use super::vnet::{
    GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CSUM, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM,
    VnetHeader, addresses, finish, finish_ip,
};
use crate::checksum::{pseudo, sum};

/// The flags FIN and PSH, and CWR.
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;

/// What is left to cut of a packet, which stays with the caller.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    protocol: u8,
    l4: usize,
    headers: usize,
    mss: usize,
    len: usize,
    at: usize,
    number: u16,
}

impl Split {
    /// Begins to cut `packet`; `None` if `header` makes no sense for it.
    #[must_use]
    pub fn new(header: &VnetHeader, packet: &[u8]) -> Option<Self> {
        let version = packet.first()? >> 4;
        let protocol = match (header.gso_type & !GSO_ECN, version) {
            (GSO_TCP4, 4) | (GSO_TCP6, 6) => TCP,
            (GSO_UDP, 4 | 6) => UDP,
            _ => return None,
        };
        let (l4, mss) = (usize::from(header.csum_start), usize::from(header.gso_size));
        let fits = match version {
            4 => l4 >= 20 && usize::from(packet[0] & 15) * 4 == l4 && *packet.get(9)? == protocol,
            _ => l4 > 40 || (l4 == 40 && *packet.get(6)? == protocol),
        };
        let own = if protocol == TCP { usize::from(packet.get(l4 + 12)? >> 4) * 4 } else { 8 };
        let least = if protocol == TCP { 20 } else { 8 };
        let headers = l4 + own;
        let sane = fits && mss > 0 && own >= least && headers <= packet.len();
        (sane && header.flags & NEEDS_CSUM != 0 && headers + mss <= usize::from(u16::MAX))
            .then_some(Self {
                protocol,
                l4,
                headers,
                mss,
                len: packet.len(),
                at: headers,
                number: 0,
            })
    }

    /// Writes the next segment of `packet` to the front of `into`; its length, or that of `into` if it does not fit: such a
    /// segment is cut, as a packet is that is longer than its reader's buffer.
    pub fn next(&mut self, packet: &[u8], into: &mut [u8]) -> Option<usize> {
        if self.at >= self.len && self.number > 0 {
            return None;
        }
        let payload = self.mss.min(self.len - self.at);
        let len = self.headers + payload;
        let (first, last) = (self.number == 0, self.at + payload >= self.len);
        let (from, number) = (self.at, self.number);
        (self.at, self.number) = (from + payload, number.wrapping_add(1));
        let Some(segment) = into.get_mut(..len) else { return Some(into.len()) };
        let (head, body) = segment.split_at_mut(self.headers);
        head.copy_from_slice(&packet[..self.headers]);
        body.copy_from_slice(&packet[from..from + payload]);
        if head[0] >> 4 == 4 {
            let id = u16::from_be_bytes([head[4], head[5]]).wrapping_add(number);
            head[4..6].copy_from_slice(&id.to_be_bytes());
        }
        finish_ip(head, self.l4, len);
        let transport = &mut head[self.l4..];
        if self.protocol == TCP {
            let sequence =
                u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            let sequence = sequence.wrapping_add((from - self.headers) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                transport[13] &= !LAST_ONLY;
            }
            if !first {
                transport[13] &= !FIRST_ONLY;
            }
        } else {
            transport[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
        }
        self.finish_transport(segment);
        Some(len)
    }

    fn finish_transport(&self, segment: &mut [u8]) {
        let at = self.l4 + if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        segment[at..at + 2].copy_from_slice(&[0, 0]);
        let pseudo = pseudo(addresses(segment), self.protocol, segment.len() - self.l4);
        let checksum = finish(self.protocol, pseudo + sum(&segment[self.l4..]));
        segment[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    }
}
