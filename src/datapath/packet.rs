//! A packet on its way out: where its bytes are until they are sealed.

use alloc::vec::Vec;

use abi::{discard::Discard, statistics::Counter};
use crypto::{aead::Piece, pipeline::CHUNK_PACKETS};
use heapless::Vec as Batch;
use netadapter::{TxFlight, TxPacket};

use crate::counters::Counters;

/// Pieces of one packet, its padding included. A packet in more is copied together first.
pub(super) const PACKET_PIECES: usize = 7;
/// What padding is made of.
const ZEROES: [u8; 16] = [0; 16];

/// Packets of the adapter's ring that a chunk has taken along.
pub(super) type Flight = TxFlight<CHUNK_PACKETS>;

/// An inner packet on its way.
pub(super) enum Packet {
    /// In the adapter's ring, at a position of the chunk's flight.
    Flying { position: usize, len: usize },
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
        flight: &mut Flight,
        counters: &Counters,
    ) -> Result<Self, Discard> {
        let len = packet.byte_count();
        let packet = if packet.pieces().count() < PACKET_PIECES {
            match flight.add(packet) {
                Ok(position) => return Ok(Self::Flying { position, len }),
                Err(packet) => packet,
            }
        } else {
            packet
        };
        copied(len, |bytes| packet.copy_to(bytes), counters).map(Self::Copied)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Flying { len, .. } => *len,
            Self::Copied(bytes) | Self::Waited(bytes) => bytes.len(),
            Self::Keepalive => 0,
        }
    }

    /// The packet as something that may wait: keepalives do not.
    pub(super) fn into_copy(
        self,
        flight: &Flight,
        counters: &Counters,
    ) -> Result<Option<Vec<u8>>, Discard> {
        match self {
            Self::Flying { position, len } => {
                copied(len, |bytes| flight.copy_to(position, bytes), counters).map(Some)
            }
            Self::Copied(bytes) | Self::Waited(bytes) => Ok(Some(bytes)),
            Self::Keepalive => Ok(None),
        }
    }

    /// The packet's bytes and then `padding` zeroes.
    pub(super) fn pieces<'p>(
        &'p self,
        flight: &'p Flight,
        padding: usize,
    ) -> Batch<Piece<'p>, PACKET_PIECES> {
        let mut pieces = Batch::new();
        match self {
            // A packet in more pieces than there is room for was copied together in `of`.
            Self::Flying { position, .. } => flight.shared_bytes(*position).for_each(|bytes| {
                let _ = pieces.push(bytes.into());
            }),
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
