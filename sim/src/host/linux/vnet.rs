//! `virtio_net_hdr`, with which the kernel gives and takes packets that are not finished: longer than the MTU, and with
//! checksums half done.
//!
//! A Windows host gives an adapter that was granted no segmentation and no checksums whole packets of its MTU; the
//! simulated adapter makes them of the kernel's as tcpip would. [`super::merge`] is the way back.
//!
//! Source: `include/uapi/linux/virtio_net.h`, `include/uapi/linux/if_tun.h`.

use crate::checksum::{TCP, UDP, finish, sum};

/// Bytes of the header.
pub const HEADER: usize = 10;
/// The packet's checksum is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// `gso_type`: a packet as it is.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCP4: u8 = 1;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// `gso_type`: UDP datagrams of one length, the last perhaps shorter.
pub const GSO_UDP: u8 = 5;
/// Set in `gso_type`: CWR is set in the first segment.
pub const GSO_ECN: u8 = 0x80;

/// Where the checksum is in a TCP and in a UDP header.
pub const TCP_CHECKSUM: usize = 16;
/// See [`TCP_CHECKSUM`].
pub const UDP_CHECKSUM: usize = 6;

/// `virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the `GSO` constants, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of the headers; a hint.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum begins to count: at the transport header.
    pub csum_start: u16,
    /// Where it is, from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads a header and gives what follows it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = bytes.split_first_chunk()?;
        Some((Self::from_bytes(header), packet))
    }

    /// Reads a header.
    #[must_use]
    pub fn from_bytes(header: &[u8; HEADER]) -> Self {
        let &[flags, gso_type, a, b, c, d, e, f, g, h] = header;
        let word = |low, high| u16::from_ne_bytes([low, high]);
        let (hdr_len, gso_size) = (word(a, b), word(c, d));
        let (csum_start, csum_offset) = (word(e, f), word(g, h));
        Self { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset }
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Into segments of how much payload `packet` is to be cut; `None` if the header makes no sense for it.
    #[must_use]
    pub fn segment_size(&self, packet: &[u8]) -> Option<usize> {
        let version = packet.first()? >> 4;
        let protocol = match (self.gso_type & !GSO_ECN, version) {
            (GSO_TCP4, 4) | (GSO_TCP6, 6) => TCP,
            (GSO_UDP, 4 | 6) => UDP,
            _ => return None,
        };
        let l4 = usize::from(self.csum_start);
        let fits = match version {
            4 => l4 >= 20 && usize::from(packet[0] & 15) * 4 == l4 && *packet.get(9)? == protocol,
            _ => l4 > 40 || (l4 == 40 && *packet.get(6)? == protocol),
        };
        let sane = fits && self.gso_size > 0 && self.flags & NEEDS_CSUM != 0;
        sane.then_some(self.gso_size.into())
    }

    /// Completes the checksum of a packet that is none of several; false if the header makes no sense for it.
    #[must_use]
    pub fn complete(&self, packet: &mut [u8]) -> bool {
        if self.flags & NEEDS_CSUM == 0 {
            return true;
        }
        let start = usize::from(self.csum_start);
        let at = start + usize::from(self.csum_offset);
        if start >= packet.len() || at + 2 > packet.len() {
            return false;
        }
        // The field holds the sum of the pseudo header; so it is part of what is summed.
        let protocol = if at - start == UDP_CHECKSUM { UDP } else { TCP };
        let checksum = finish(protocol, sum(&packet[start..]));
        packet[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
        true
    }
}
