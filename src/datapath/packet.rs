//! A packet on its way out: where its bytes are until they are sealed.

use alloc::vec::Vec;
use core::alloc::Layout;

use abi::{discard::Discard, statistics::Counter};
use crypto::{
    aead::Piece,
    pipeline::CHUNK_PACKETS,
    protocol::{checksum::Sum, mss, segment::Segment, send::PathMtu},
};
use heapless::Vec as Batch;
use netadapter::{Pieces, TxFlight, TxPacket};
use nt::pool::push_within;

use crate::counters::Counters;

/// Pieces of one packet, its padding included. A packet in more is copied together first.
pub(super) const PACKET_PIECES: usize = 7;
/// What padding is made of.
const ZEROES: [u8; 16] = [0; 16];

/// The most pieces that the payload of a segment may be in: there are its headers, too, and padding.
const SEGMENT_PIECES: usize = PACKET_PIECES - 2;

/// The layout of a chunk's segments.
pub(crate) const SEGMENTS: Layout = Layout::new::<[Segment; CHUNK_PACKETS]>();

/// What the packets of a chunk refer to.
#[derive(Default)]
pub(super) struct Held {
    /// Packets of the adapter's ring that the chunk has taken along, or some segments of them.
    flight: TxFlight<CHUNK_PACKETS>,
    /// Room for a chunk of them, once there is one.
    segments: Vec<Segment>,
}

impl Held {
    /// Computes the checksums of those of `packets` that are segments, and so reads their payload.
    pub(super) fn finish(&mut self, packets: &[Packet]) {
        for packet in packets {
            let Packet::Segment { position, at, .. } = *packet else { continue };
            let Some(segment) = self.segments.get_mut(at) else { continue };
            let mut sum = Sum::default();
            let payload = self.flight.shared_bytes_of(position, segment.payload());
            payload.for_each(|bytes| sum.add(&bytes.into()));
            segment.finish(sum);
        }
    }

    /// Keeps a segment; returns where.
    fn keep(&mut self, segment: Segment) -> Result<usize, Discard> {
        if self.segments.is_empty() {
            self.segments.try_reserve_exact(CHUNK_PACKETS).map_err(|_| Discard::NoMemory)?;
        }
        // A chunk has no more packets.
        push_within(&mut self.segments, segment).map_err(|_| Discard::NoMemory)?;
        Ok(self.segments.len().saturating_sub(1))
    }
}

/// An inner packet on its way.
pub(super) enum Packet {
    /// In the adapter's ring, at a position of the chunk's flight.
    Flying { position: usize, len: usize },
    /// Headers among the chunk's segments, and payload in the adapter's ring, at a position of the
    /// chunk's flight.
    Segment { position: usize, at: usize, len: usize },
    /// A copy: it was in too many pieces.
    Copied(Vec<u8>),
    /// A copy that has waited for a session or a route.
    Waited(Vec<u8>),
    /// None: a keepalive.
    Keepalive,
}

impl Packet {
    /// Takes a packet along: in its place if that can be, or else by a copy.
    pub(super) fn of(
        packet: TxPacket<'_>,
        held: &mut Held,
        counters: &Counters,
    ) -> Result<Self, Discard> {
        let len = packet.byte_count();
        let packet = if packet.pieces().count() < PACKET_PIECES {
            match held.flight.add(packet) {
                Ok(position) => return Ok(Self::Flying { position, len }),
                Err(packet) => packet,
            }
        } else {
            packet
        };
        copied(len, |bytes| packet.copy_to(0, bytes), counters).map(Self::Copied)
    }

    /// A copy of a SYN of `len` bytes that announces longer segments than `mtu` lets pass, in which it does not;
    /// `None` of anything else.
    // Lent, the packet itself would have to be in memory for all that is none.
    #[cold]
    #[inline(never)]
    pub(super) fn with_lower_mss(
        pieces: Pieces<'_>,
        len: usize,
        mtu: PathMtu,
        counters: &Counters,
    ) -> Result<Option<Self>, Discard> {
        let mut head = [0; mss::FRONT_LEN];
        let seen = pieces.clone().copy_to(0, &mut head);
        if !mss::is_too_high(head.get(..seen).unwrap_or_default(), mtu) {
            return Ok(None);
        }
        let mut bytes = copied(len, |bytes| pieces.copy_to(0, bytes), counters)?;
        // The stack's bytes may have changed since: then there may be nothing to do.
        counters.add(Counter::MssLowered, mss::lower(&mut bytes, mtu).into());
        Ok(Some(Self::Copied(bytes)))
    }

    /// Takes a segment of a packet along, as [`Packet::of`] does.
    pub(super) fn segment_of(
        packet: &mut TxPacket<'_>,
        segment: Segment,
        held: &mut Held,
        counters: &Counters,
    ) -> Result<Self, Discard> {
        let len = segment.byte_count();
        if packet.pieces_of(segment.payload()).count() <= SEGMENT_PIECES
            && let Some(position) = held.flight.share(packet)
        {
            return Ok(Self::Segment { position, at: held.keep(segment)?, len });
        }
        copied_segment(segment, |at, to| packet.copy_to(at, to), counters).map(Self::Copied)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Flying { len, .. } | Self::Segment { len, .. } => *len,
            Self::Copied(bytes) | Self::Waited(bytes) => bytes.len(),
            Self::Keepalive => 0,
        }
    }

    /// Writes the packet's first bytes for a capture, as many as it has and there is room for.
    pub(super) fn front(&self, held: &Held, place: &mut [u8]) {
        let flight = &held.flight;
        let (front, rest): (&[u8], _) = match self {
            Self::Flying { position, .. } => (&[], Some((*position, 0))),
            Self::Segment { position, at, .. } => match held.segments.get(*at) {
                Some(segment) => (segment.headers(), Some((*position, segment.payload().start))),
                None => (&[], None),
            },
            Self::Copied(bytes) | Self::Waited(bytes) => (bytes, None),
            Self::Keepalive => (&[], None),
        };
        let (headers, payload) = place.split_at_mut(front.len().min(place.len()));
        headers.iter_mut().zip(front).for_each(|(place, byte)| *place = *byte);
        if let Some((position, from)) = rest {
            let _as_many = flight.copy_to(position, from, payload);
        }
    }

    /// The packet as something that may wait: keepalives do not.
    pub(super) fn into_copy(
        self,
        held: &Held,
        counters: &Counters,
    ) -> Result<Option<Vec<u8>>, Discard> {
        let flight = &held.flight;
        match self {
            Self::Flying { position, len } => {
                copied(len, |bytes| flight.copy_to(position, 0, bytes), counters).map(Some)
            }
            Self::Segment { position, at, .. } => {
                let Some(segment) = held.segments.get(at).copied() else { return Ok(None) };
                copied_segment(segment, |at, to| flight.copy_to(position, at, to), counters)
                    .map(Some)
            }
            Self::Copied(bytes) | Self::Waited(bytes) => Ok(Some(bytes)),
            Self::Keepalive => Ok(None),
        }
    }

    /// The packet's bytes and then `padding` zeroes.
    pub(super) fn pieces<'p>(
        &'p self,
        held: &'p Held,
        padding: usize,
    ) -> Batch<Piece<'p>, PACKET_PIECES> {
        let mut pieces = Batch::new();
        match self {
            // A packet in more pieces than there is room for was copied together in `of`.
            Self::Flying { position, .. } => {
                held.flight.shared_bytes(*position).for_each(|bytes| {
                    let _ = pieces.push(bytes.into());
                })
            }
            Self::Segment { position, at, .. } => {
                let Some(segment) = held.segments.get(*at) else { return pieces };
                let _ = pieces.push(segment.headers().into());
                let payload = held.flight.shared_bytes_of(*position, segment.payload());
                payload.for_each(|bytes| {
                    let _ = pieces.push(bytes.into());
                });
            }
            Self::Copied(bytes) | Self::Waited(bytes) => {
                let _ = pieces.push(bytes.as_slice().into());
            }
            Self::Keepalive => {}
        }
        if let Some(zeroes) = ZEROES.get(..padding).filter(|zeroes| !zeroes.is_empty()) {
            let _ = pieces.push(zeroes.into());
        }
        pieces
    }
}

/// Makes a packet of a segment, its payload by `copy`, and counts its bytes.
fn copied_segment(
    segment: Segment,
    copy: impl FnOnce(usize, &mut [u8]) -> usize,
    counters: &Counters,
) -> Result<Vec<u8>, Discard> {
    copied(segment.byte_count(), |bytes| segment.write(bytes, copy), counters)
}

/// Copies a packet of `len` bytes by `copy`, and counts them.
fn copied(
    len: usize,
    copy: impl FnOnce(&mut [u8]) -> usize,
    counters: &Counters,
) -> Result<Vec<u8>, Discard> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Discard::NoMemory)?;
    bytes.resize(len, 0);
    counters.add(Counter::PayloadWrittenOut, copy(&mut bytes));
    Ok(bytes)
}
