//! Deals the blocks of a group's packets to ChaCha20 lanes.
//!
//! A lane is one block of one packet. Lanes are dealt packet after packet, so a short packet leaves
//! no lane idle, and where one packet ends the next begins in the middle of a register. Block 0,
//! whose first half is the one-time key of Poly1305, is a lane like any other; its stream goes to
//! the group's table. [RFC 8439 §2.6]

use super::chacha::BLOCK_LEN;
use super::group::{GROUP, Group};

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
/// While the group lasts, a lane with `rest > 0` is a block of packet `packet < GROUP`: block 0 with
/// `rest` 32, or one that starts inside the packet's text, of which `rest <= 64` bytes follow.
#[repr(C, align(64))]
pub(super) struct Lanes<const N: usize> {
    /// The block counter.
    pub(super) block: [u32; N],
    /// The packet, as index into the group.
    pub(super) packet: [u8; N],
    /// How many bytes of the block are wanted; 0 for an idle lane.
    pub(super) rest: [u8; N],
}

impl<const N: usize> Lanes<N> {
    /// Lanes that do nothing.
    pub(super) const IDLE: Self = Self { block: [0; N], packet: [0; N], rest: [0; N] };

    /// The lane's packet and where in its text the block starts; `None` for block 0.
    #[inline(always)]
    pub(super) fn place(&self, lane: usize) -> (usize, Option<usize>) {
        let packet = usize::from(self.packet[lane % N]) % GROUP;
        let start = (self.block[lane % N] as usize).checked_sub(1);
        (packet, start.map(|block| block * BLOCK_LEN))
    }
}

/// How much of block 0 is used. [RFC 8439 §2.6]
const ONE_TIME_LEN: u8 = 32;

/// Where dealing has got to.
pub(super) struct Dealer {
    blocks: Blocks,
    /// The packet that is being dealt.
    packet: usize,
    /// Its next block.
    block: usize,
}

impl Dealer {
    /// At the first packet.
    pub(super) fn new(blocks: Blocks) -> Self {
        Self { blocks, packet: 0, block: Self::first(blocks) }
    }

    fn first(blocks: Blocks) -> usize {
        usize::from(blocks == Blocks::Text)
    }

    /// Fills `lanes` with the next blocks; returns how many there were. The others do nothing.
    #[inline(always)]
    pub(super) fn deal<const N: usize>(
        &mut self,
        group: &Group<'_, '_>,
        lanes: &mut Lanes<N>,
    ) -> usize {
        let mut filled = 0;
        while filled < N && self.packet < group.packets().len() {
            let len = group.packet(self.packet).len();
            let blocks = if self.blocks == Blocks::Zero { 0 } else { len.div_ceil(BLOCK_LEN) };
            let count = (blocks + 1).saturating_sub(self.block).min(N - filled);
            for lane in filled..filled + count {
                lanes.block[lane] = self.block as u32;
                lanes.packet[lane] = self.packet as u8;
                lanes.rest[lane] = match self.block.checked_sub(1) {
                    // INVARIANT: the block starts inside the text and ends at its end.
                    Some(before) => (len - before * BLOCK_LEN).min(BLOCK_LEN) as u8,
                    None => ONE_TIME_LEN,
                };
                self.block += 1;
            }
            filled += count;
            if self.block > blocks {
                self.packet += 1;
                self.block = Self::first(self.blocks);
            }
        }
        for lane in filled..N {
            lanes.rest[lane] = 0;
        }
        filled
    }
}
