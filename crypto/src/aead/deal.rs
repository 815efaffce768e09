//! Deals the blocks of a group's packets to ChaCha20 lanes.
//!
//! A lane is one block of one packet. Lanes are dealt packet after packet, so a short packet leaves
//! no lane idle, and where one packet ends the next begins in the middle of a register. Block 0,
//! whose first half is the one-time key of Poly1305, is a lane like any other; its stream goes to
//! the group's table. [RFC 8439 §2.6]

use core::ops::Range;

use super::chacha::BLOCK_LEN;
use super::group::{GROUP, Group, Packet};

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
/// `rest` 32, or one that starts inside the packet's text, of which `rest <= 64` bytes follow. With
/// [`IN_PIECES`] added a piece ends among them; without, they lie together.
#[repr(C, align(64))]
pub(super) struct Lanes<const N: usize> {
    /// Where the packet's text would begin if all of it lay as the wanted bytes do.
    pub(super) text: [*const u8; N],
    /// The block counter; `MAX_LEN` keeps it in 16 bits.
    pub(super) block: [u16; N],
    /// The packet, as index into the group; idle lanes have that of the last one that is not.
    pub(super) packet: [u8; N],
    /// How many bytes of the block are wanted, and whether a piece ends in them; 0 for an idle lane.
    pub(super) rest: [u8; N],
}

impl<const N: usize> Lanes<N> {
    /// Lanes that do nothing.
    pub(super) const IDLE: Self =
        Self { text: [core::ptr::null(); N], block: [0; N], packet: [0; N], rest: [0; N] };

    /// Block 0 of each of a group's first `count` packets, in its own lane.
    #[inline(always)]
    pub(super) fn of_blocks_zero(count: usize) -> Self {
        let mut lanes = Self::IDLE;
        for (lane, (packet, rest)) in
            lanes.packet.iter_mut().zip(&mut lanes.rest).enumerate().take(GROUP)
        {
            // INVARIANT: each is below `GROUP`.
            (*packet, *rest) = (lane as u8, if lane < count { ONE_TIME_LEN } else { 0 });
        }
        lanes
    }

    /// How many bytes of a lane's block are wanted.
    #[inline(always)]
    pub(super) fn len(&self, lane: usize) -> usize {
        usize::from(self.rest[lane % N] & !IN_PIECES)
    }

    /// Whether all lanes are of one packet. As they are dealt in order, their blocks then follow each
    /// other.
    #[inline(always)]
    pub(super) fn are_of_one_packet(&self) -> bool {
        self.packet[0] == self.packet[N - 1]
    }

    /// Whether all lanes are of one packet, and of 64 bytes of text that lie together.
    #[inline(always)]
    pub(super) fn are_whole(&self) -> bool {
        self.are_of_one_packet() && self.block[0] > 0 && self.rest == [BLOCK_LEN as u8; N]
    }

    /// The lane's packet and where in its text the block starts; `None` for block 0.
    #[inline(always)]
    pub(super) fn place(&self, lane: usize) -> (usize, Option<usize>) {
        let packet = usize::from(self.packet[lane % N]) % GROUP;
        let start = usize::from(self.block[lane % N]).checked_sub(1);
        (packet, start.map(|block| block * BLOCK_LEN))
    }
}

/// What is added to `rest` where a piece ends inside the block.
const IN_PIECES: u8 = 0x80;

/// How much of block 0 is used. [RFC 8439 §2.6]
const ONE_TIME_LEN: u8 = 32;

/// Where dealing has got to.
pub(super) struct Dealer {
    next: Position,
}

/// A block of a packet: the first that is not dealt. Small, so that it goes in a register.
#[derive(Clone, Copy)]
pub(super) struct Position {
    /// Which blocks were dealt before it.
    pub(super) blocks: Blocks,
    /// The packet, as index into the group.
    packet: u8,
    /// In 16 bits as in [`Lanes`].
    block: u16,
}

impl Position {
    /// Behind every packet's block 0 and text.
    pub(super) const END: Self = Self { blocks: Blocks::Text, packet: GROUP as u8, block: 0 };

    /// How much text of a packet of length `len` comes before, if its block 0 does.
    #[inline(always)]
    pub(super) fn text_of(&self, packet: usize, len: usize) -> Option<usize> {
        if packet < usize::from(self.packet) {
            return Some(len);
        }
        let is_this = packet == usize::from(self.packet);
        let before = usize::from(self.block).checked_sub(1).filter(|_| is_this)?;
        Some((before * BLOCK_LEN).min(len))
    }
}

impl Dealer {
    /// At the first packet.
    pub(super) fn new(blocks: Blocks) -> Self {
        Self { next: Position { blocks, packet: 0, block: Self::first(blocks) as u16 } }
    }

    /// The next block.
    pub(super) fn position(&self) -> Position {
        self.next
    }

    /// Whether at least `lanes` blocks are left of packets before `limit`.
    #[inline(always)]
    pub(super) fn has_ahead(&self, group: &Group<'_, '_>, limit: usize, lanes: usize) -> bool {
        let Position { blocks, packet, mut block } = self.next;
        let mut left = lanes;
        for index in packet.into()..limit {
            let count = Self::end(blocks, group.packet(index).len()) - usize::from(block);
            if count >= left {
                return true;
            }
            left -= count;
            block = Self::first(blocks) as u16;
        }
        false
    }

    /// The block behind the last of a packet of this length.
    fn end(blocks: Blocks, len: usize) -> usize {
        if blocks == Blocks::Zero { 1 } else { len.div_ceil(BLOCK_LEN) + 1 }
    }

    fn first(blocks: Blocks) -> usize {
        usize::from(blocks == Blocks::Text)
    }

    /// Fills `lanes` if the next blocks, of a packet before `limit`, are so many that are whole and lie
    /// together, and not its last; returns whether they are. So most of a long packet is dealt.
    #[inline(always)]
    pub(super) fn deal_whole<P: Put<N>, const N: usize>(
        &mut self,
        put: P,
        group: &Group<'_, '_>,
        lanes: &mut Lanes<N>,
        limit: usize,
    ) -> bool {
        let Position { packet, block, .. } = self.next;
        let place = group.packet(packet.into());
        let is_whole = usize::from(packet) < limit.min(group.packets().len())
            && block > 0
            && place.is_together()
            && (usize::from(block) + N - 1) * BLOCK_LEN < place.len();
        if is_whole {
            // INVARIANT: each block starts and ends inside the text.
            put.blocks(lanes, 0..N, (packet, block, place.source));
            self.next.block += N as u16;
        }
        is_whole
    }

    /// Fills `lanes` with the next blocks of packets before `limit`; returns how many there were.
    /// The others do nothing.
    #[inline(always)]
    pub(super) fn deal<P: Put<N>, const N: usize>(
        &mut self,
        put: P,
        group: &Group<'_, '_>,
        lanes: &mut Lanes<N>,
        limit: usize,
    ) -> usize {
        let Position { blocks, packet, block } = self.next;
        let (mut packet, mut block) = (usize::from(packet), usize::from(block));
        let limit = limit.min(group.packets().len());
        let mut filled = 0;
        while filled < N && packet < limit {
            let place = group.packet(packet);
            let end = Self::end(blocks, place.len());
            let count = (end - block).min(N - filled);
            if count > 0 {
                let into = filled..filled + count;
                put.blocks(lanes, into.clone(), (packet as u8, block as u16, place.source));
                // INVARIANT: each block starts inside the text and ends at its end.
                let is_all = block + count == end;
                let edge =
                    if is_all { (place.len().wrapping_sub(1)) % BLOCK_LEN + 1 } else { BLOCK_LEN };
                lanes.rest[(into.end - 1) % N] = edge as u8;
                if block == 0 {
                    lanes.rest[filled % N] = ONE_TIME_LEN;
                }
                if !place.is_together() {
                    find_runs(put, place, block, into, lanes);
                }
            }
            block += count;
            filled += count;
            if block == end {
                packet += 1;
                block = Self::first(blocks);
            }
        }
        self.next = Position { blocks, packet: packet as u8, block: block as u16 };
        if filled < N {
            let last = lanes.packet[filled.saturating_sub(1) % N];
            for lane in filled..N {
                lanes.packet[lane] = last;
                lanes.rest[lane] = 0;
            }
        }
        filled
    }
}

/// Finds where the blocks of a packet in pieces are that go into these lanes, from `block` on, and marks
/// those in which a piece ends.
#[inline(always)]
fn find_runs<P: Put<N>, const N: usize>(
    put: P,
    packet: &Packet,
    block: usize,
    into: Range<usize>,
    lanes: &mut Lanes<N>,
) {
    if packet.len() <= BLOCK_LEN {
        // A piece ends in its only block.
        if block + into.len() > 1 {
            lanes.rest[(into.end - 1) % N] |= IN_PIECES;
        }
        return;
    }
    let mut at = block.saturating_sub(1) * BLOCK_LEN;
    let end = ((block + into.len() - 1) * BLOCK_LEN).min(packet.len());
    let lane = |at: usize| into.start + at / BLOCK_LEN + 1 - block;
    while at < end {
        let (run, len) = packet.run(at);
        // INVARIANT: the blocks that end before the run does have their bytes from here.
        put.text(lanes, lane(at)..into.end, run.wrapping_sub(at));
        at += len;
        if at < end && !at.is_multiple_of(BLOCK_LEN) {
            lanes.rest[lane(at) % N] |= IN_PIECES;
            at = at.next_multiple_of(BLOCK_LEN);
        }
    }
}

/// How a run of lanes gets its values.
pub(super) trait Put<const N: usize>: Copy {
    /// These lanes are of the blocks of a packet from one on, all of them wanted; where its text begins.
    fn blocks(self, lanes: &mut Lanes<N>, into: Range<usize>, which: (u8, u16, *const u8));
    /// The text of these lanes begins here.
    fn text(self, lanes: &mut Lanes<N>, into: Range<usize>, text: *const u8);
}

/// One by one, unless all lanes get theirs.
impl<const N: usize> Put<N> for () {
    #[inline(always)]
    fn blocks(
        self,
        lanes: &mut Lanes<N>,
        into: Range<usize>,
        (packet, block, text): (u8, u16, *const u8),
    ) {
        if into.len() == N {
            lanes.text = [text; N];
            lanes.block = core::array::from_fn(|lane| block + lane as u16);
            lanes.packet = [packet; N];
            lanes.rest = [BLOCK_LEN as u8; N];
            return;
        }
        for (at, lane) in into.enumerate() {
            lanes.text[lane % N] = text;
            lanes.block[lane % N] = block + at as u16;
            lanes.packet[lane % N] = packet;
            lanes.rest[lane % N] = BLOCK_LEN as u8;
        }
    }
    #[inline(always)]
    fn text(self, lanes: &mut Lanes<N>, into: Range<usize>, text: *const u8) {
        for lane in into {
            lanes.text[lane % N] = text;
        }
    }
}
