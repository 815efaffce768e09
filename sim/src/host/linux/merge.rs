//! TCP segments of one flow into one packet for the kernel, as a Windows host's receive path coalesces them (RSC) before its
//! TCP looks at them, and as Linux does behind a network card (GRO).
//!
//! [`merge`] takes the packets of one indication. What may not be merged passes as it is: segments that do not follow each
//! other, whose headers differ in anything but sequence number, length, identification and checksums, whose checksums are
//! wrong, that carry flags beyond ACK; PSH ends a run. A flow's packets keep their order; those of several flows may pass
//! each other. Nothing waits for a later indication.
//!
//! Source: WDD network/rules-for-coalescing-tcp-ip-segments (which segments); Linux's `tcp_gro_receive` for identification.

use std::io::IoSlice;

use super::vnet::{GSO_TCP4, GSO_TCP6, NEEDS_CSUM, TCP_CHECKSUM, VnetHeader};
use crate::checksum::{TCP, addresses, finish_ip, fold, pseudo, sum};

/// Segments of one packet at most.
pub const SEGMENTS: usize = 64;
/// Flows that are merged at the same time.
const FLOWS: usize = 8;
/// The longest headers that are merged: IPv6 and a full TCP header.
const HEADERS: usize = 100;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A TCP segment that may be part of a run.
#[derive(Clone, Copy)]
struct Segment<'p> {
    packet: &'p [u8],
    l4: usize,
    headers: usize,
    sequence: u32,
    push: bool,
}

impl<'p> Segment<'p> {
    /// Reads `packet`; `None` if it has to stay alone.
    fn parse(packet: &'p [u8]) -> Option<Self> {
        let (l4, len) = match packet.first()? >> 4 {
            4 => {
                // No options, no fragments: the flag DF alone.
                let plain =
                    packet[0] == 0x45 && *packet.get(6)? & 0xBF == 0 && *packet.get(7)? == 0;
                let good =
                    plain && *packet.get(9)? == TCP && fold(sum(packet.get(..20)?)) == 0xFFFF;
                (20, good.then(|| usize::from(u16::from_be_bytes([packet[2], packet[3]])))?)
            }
            6 => {
                let words = packet.get(4..7)?;
                let len = usize::from(u16::from_be_bytes([words[0], words[1]]));
                (40, (words[2] == TCP).then_some(40 + len)?)
            }
            _ => return None,
        };
        let transport = packet.get(l4..)?;
        let flags = *transport.get(13)?;
        let own = usize::from(transport[12] >> 4) * 4;
        let headers = l4 + own;
        // The reserved bits of the 13th byte are compared with the rest of the header.
        let whole = len == packet.len() && own >= 20 && headers < len;
        if !whole || flags & !PSH != ACK || transport.get(18..20)? != [0, 0] {
            return None;
        }
        let pseudo = pseudo(addresses(packet), TCP, transport.len());
        if fold(pseudo + sum(transport)) != 0xFFFF {
            return None;
        }
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        Some(Self { packet, l4, headers, sequence, push: flags & PSH != 0 })
    }

    fn payload(&self) -> &'p [u8] {
        &self.packet[self.headers..]
    }

    fn identification(&self) -> u16 {
        u16::from_be_bytes([self.packet[4], self.packet[5]])
    }

    /// Whether both are of one flow: addresses and ports.
    fn is_of_flow(&self, other: &Self) -> bool {
        self.packet[0] >> 4 == other.packet[0] >> 4
            && addresses(self.packet) == addresses(other.packet)
            && self.packet[self.l4..][..4] == other.packet[other.l4..][..4]
    }

    /// Whether their headers are the same but for what the segments of one packet differ in.
    fn is_like(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.packet[..self.headers], &other.packet[..other.headers]);
        let same = |range: std::ops::Range<usize>| mine.get(range.clone()) == theirs.get(range);
        let ip = if self.l4 == 20 { same(0..2) && same(6..10) } else { same(0..4) && same(6..8) };
        // Ports and sequence apart: acknowledgement, length of the header, window, options. The flags are ACK, perhaps PSH.
        let l4 = self.l4;
        ip && mine.len() == theirs.len()
            && same(l4 + 8..l4 + 13)
            && same(l4 + 14..l4 + 16)
            && same(l4 + 20..self.headers)
    }
}

/// Segments that follow each other.
struct Run<'p> {
    first: Segment<'p>,
    payloads: [&'p [u8]; SEGMENTS],
    count: usize,
    bytes: usize,
    push: bool,
    ended: bool,
}

impl<'p> Run<'p> {
    fn new(first: Segment<'p>) -> Self {
        let mut payloads: [&[u8]; SEGMENTS] = [&[]; SEGMENTS];
        payloads[0] = first.payload();
        let bytes = first.payload().len();
        Self { first, payloads, count: 1, bytes, push: first.push, ended: first.push }
    }

    /// Adds a segment of its flow; false if it does not follow.
    fn add(&mut self, next: &Segment<'p>) -> bool {
        let (mss, length) = (self.payloads[0].len(), next.payload().len());
        let identified = self.first.l4 == 40
            || next.identification() == self.first.identification().wrapping_add(self.count as u16);
        let follows = !self.ended
            && self.count < SEGMENTS
            && next.sequence == self.first.sequence.wrapping_add(self.bytes as u32)
            && length <= mss
            && self.first.headers + self.bytes + length <= usize::from(u16::MAX)
            && identified
            && self.first.is_like(next);
        if follows {
            self.payloads[self.count] = next.payload();
            self.count += 1;
            self.bytes += length;
            self.push = next.push;
            self.ended = next.push || length < mss;
        }
        follows
    }

    /// Writes the run.
    fn flush(&self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        let (packet, l4) = (self.first.packet, self.first.l4);
        if self.count == 1 {
            return alone(packet, write);
        }
        let headers = self.first.headers;
        let mut head = [0; HEADERS];
        head[..headers].copy_from_slice(&packet[..headers]);
        let len = headers + self.bytes;
        finish_ip(&mut head, l4, len);
        if self.push {
            head[l4 + 13] |= PSH;
        }
        // The sum of the pseudo header, not inverted: the kernel, or whoever splits it, goes on from there.
        let begun = fold(pseudo(addresses(packet), TCP, len - l4));
        head[l4 + TCP_CHECKSUM..][..2].copy_from_slice(&begun.to_ne_bytes());
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: if l4 == 20 { GSO_TCP4 } else { GSO_TCP6 },
            hdr_len: headers as u16,
            gso_size: self.payloads[0].len() as u16,
            csum_start: l4 as u16,
            csum_offset: TCP_CHECKSUM as u16,
        };
        let header = header.to_bytes();
        let mut pieces: [IoSlice<'_>; SEGMENTS + 2] = std::array::from_fn(|_| IoSlice::new(&[]));
        pieces[0] = IoSlice::new(&header);
        pieces[1] = IoSlice::new(&head[..headers]);
        for (piece, payload) in pieces[2..].iter_mut().zip(&self.payloads[..self.count]) {
            *piece = IoSlice::new(payload);
        }
        write(&pieces[..self.count + 2]);
    }
}

/// Writes one packet as it is.
fn alone(packet: &[u8], write: &mut impl FnMut(&[IoSlice<'_>])) {
    let header = VnetHeader::default().to_bytes();
    write(&[IoSlice::new(&header), IoSlice::new(packet)]);
}

/// Merges `packets` and writes each result: a `virtio_net_hdr` and a packet, in pieces.
pub fn merge<'p>(packets: impl Iterator<Item = &'p [u8]>, mut write: impl FnMut(&[IoSlice<'_>])) {
    let mut runs: [Option<Run<'p>>; FLOWS] = [const { None }; FLOWS];
    let mut next = 0;
    for packet in packets {
        let Some(segment) = Segment::parse(packet) else {
            // It may be of a flow that is being merged, and must not pass it.
            let of_flow = |run: &Run<'_>| same_flow(run.first.packet, packet);
            runs.iter_mut().filter(|run| run.as_ref().is_some_and(of_flow)).for_each(|run| {
                run.take().iter().for_each(|run| run.flush(&mut write));
            });
            alone(packet, &mut write);
            continue;
        };
        let of_flow =
            |run: &Option<Run<'_>>| run.as_ref().is_some_and(|run| run.first.is_of_flow(&segment));
        let at = runs.iter().position(of_flow).unwrap_or(next);
        if of_flow(&runs[at]) && runs[at].as_mut().is_some_and(|run| run.add(&segment)) {
            continue;
        }
        if at == next {
            next = (next + 1) % FLOWS;
        }
        if let Some(before) = runs[at].replace(Run::new(segment)) {
            before.flush(&mut write);
        }
    }
    runs.iter().flatten().for_each(|run| run.flush(&mut write));
}

/// Whether a packet that may be anything has the addresses of one that is a TCP segment.
fn same_flow(segment: &[u8], packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == segment[0] >> 4)
        && addresses(segment) == addresses(packet)
}
