//! Deals the blocks of a group's packets to ChaCha20 lanes.
//!
//! A lane is one block of one packet. Lanes are dealt packet after packet, so a short packet leaves
//! no lane idle, and where one packet ends the next begins in the middle of a register. Block 0,
//! whose first half is the one-time key of Poly1305, is a lane like any other: it is added to
//! zeroes and goes to the group's table. [RFC 8439 §2.6]
#![allow(unsafe_code)] // The bytes of a block that lies in two pieces are brought together.

use super::chacha::BLOCK_LEN;
use super::group::{EMPTY, GROUP, Group, Packet};
use super::piece::copy_once;

/// Which blocks of each packet are dealt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    /// Only block 0.
    Zero,
    /// Block 0 and the text.
    All,
    /// Only the text.
    Text,
}

/// What `N` lanes work on.
///
/// # Invariants
///
/// For lane `i`, while the group lasts: `source[i]` is valid for reads and `destination[i]` for
/// writes of `rest[i]` bytes, and they are the same or do not overlap; `rest[i] <= 64`;
/// `packet[i] < GROUP`.
#[repr(C, align(64))]
pub(super) struct Lanes<const N: usize> {
    /// The block counter.
    pub(super) block: [u32; N],
    /// The packet, as index into the group.
    pub(super) packet: [u8; N],
    /// How many bytes of the block are wanted.
    pub(super) rest: [u8; N],
    /// Where the input is.
    pub(super) source: [*const u8; N],
    /// Where the output goes.
    pub(super) destination: [*mut u8; N],
}

impl<const N: usize> Lanes<N> {
    /// Lanes that do nothing.
    pub(super) const IDLE: Self = Self {
        block: [0; N],
        packet: [0; N],
        rest: [0; N],
        source: [EMPTY.as_ptr(); N],
        destination: [core::ptr::dangling_mut(); N],
    };
}

/// How much of block 0 is used. [RFC 8439 §2.6]
const ONE_TIME_LEN: u8 = 32;

/// The place of a packet's one-time key.
#[inline(always)]
fn one_time(group: &mut Group<'_, '_>, index: usize) -> *mut u8 {
    (&raw mut group.one_time.0[index % GROUP]).cast()
}

/// Where dealing has got to.
pub(super) struct Dealer {
    blocks: Blocks,
    /// The packet that is being dealt.
    packet: usize,
    /// Its next block.
    block: usize,
    /// Where in the pieces of a scattered packet that block starts.
    cursor: Cursor,
}

/// A place in a list of pieces.
#[derive(Clone, Copy, Default)]
struct Cursor {
    piece: usize,
    offset: usize,
}

impl Dealer {
    /// At the first packet.
    pub(super) fn new(blocks: Blocks) -> Self {
        Self { blocks, packet: 0, block: Self::first(blocks), cursor: Cursor::default() }
    }

    fn first(blocks: Blocks) -> usize {
        usize::from(blocks == Blocks::Text)
    }

    /// Fills `lanes` with the next blocks; returns how many there were. The others do nothing.
    #[inline(always)]
    pub(super) fn deal<const N: usize>(
        &mut self,
        group: &mut Group<'_, '_>,
        lanes: &mut Lanes<N>,
    ) -> usize {
        let mut filled = 0;
        while filled < N && self.packet < group.packets().len() {
            let packet = *group.packet(self.packet);
            let blocks =
                if self.blocks == Blocks::Zero { 0 } else { packet.len.div_ceil(BLOCK_LEN) };
            let count = (blocks + 1).saturating_sub(self.block).min(N - filled);
            for lane in filled..filled + count {
                self.lane(group, &packet, lanes, lane);
            }
            filled += count;
            if self.block > blocks {
                self.packet += 1;
                self.block = Self::first(self.blocks);
                self.cursor = Cursor::default();
            }
        }
        for lane in filled..N {
            lanes.rest[lane] = 0;
        }
        filled
    }

    /// Fills one lane with the next block of `packet`.
    #[inline(always)]
    fn lane<const N: usize>(
        &mut self,
        group: &mut Group<'_, '_>,
        packet: &Packet,
        lanes: &mut Lanes<N>,
        lane: usize,
    ) {
        let block = self.block;
        self.block += 1;
        lanes.block[lane] = block as u32;
        lanes.packet[lane] = self.packet as u8;
        let Some(before) = block.checked_sub(1) else {
            lanes.rest[lane] = ONE_TIME_LEN;
            lanes.source[lane] = EMPTY.as_ptr();
            lanes.destination[lane] = one_time(group, self.packet);
            return;
        };
        // INVARIANT: the block starts inside the packet's text, `rest` ends at its end.
        let start = before * BLOCK_LEN;
        let rest = (packet.len - start).min(BLOCK_LEN);
        let destination = packet.destination.wrapping_add(start);
        lanes.rest[lane] = rest as u8;
        lanes.destination[lane] = destination;
        lanes.source[lane] = if packet.scattered {
            self.cursor.take(group, packet, destination, rest)
        } else {
            packet.source.wrapping_add(start)
        };
    }
}

impl Cursor {
    /// The next `rest` bytes of a scattered packet: where they lie, or, if a piece ends among them,
    /// `destination`, where they are brought together.
    #[cold]
    fn take(
        &mut self,
        group: &Group<'_, '_>,
        packet: &Packet,
        destination: *mut u8,
        rest: usize,
    ) -> *const u8 {
        let mut taken = 0;
        while let Some(piece) = group.pieces(packet).get(self.piece) {
            let left = piece.len() - self.offset;
            let from = piece.start().wrapping_add(self.offset);
            let count = left.min(rest - taken);
            if count == rest {
                self.offset += rest;
                return from;
            }
            // SAFETY: `count` bytes are left in the piece, and `taken + count <= rest` bytes of the
            // destination are this block's; pieces do not overlap it.
            unsafe { copy_once(from, destination.wrapping_add(taken), count) };
            taken += count;
            self.offset += count;
            if taken == rest {
                break;
            }
            self.piece += 1;
            self.offset = 0;
        }
        destination
    }
}
