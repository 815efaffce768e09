//! What the ways to compute Poly1305 share: the clamp, the order of reading, the last step.
//!
//! The packets of a group end together and may start at different times: the reading is aligned to
//! their ends, so that a short packet's lane is still zero when its first block comes, and no lane
//! has to be kept from multiplying after its end.

use super::group::{Group, Packet, Tag};

/// What of `r` is used. [RFC 8439 §2.5]
pub(super) const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];

/// Which bytes of which packet are read when, in chunks of `CHUNK` bytes by up to `N` lanes.
///
/// # Invariants
///
/// `base[i]` is the packet's first byte moved back by `lead[i]`; both belong to a packet of the
/// group the schedule was made of. If it is in pieces, the base is that of the piece that was last
/// asked for.
pub(super) struct Schedule<const N: usize, const CHUNK: usize> {
    base: [*const u8; N],
    /// The packets.
    pub(super) packets: core::ops::Range<usize>,
    /// Bytes of the first chunks that are before the packet.
    lead: [u32; N],
    /// Length of each packet.
    pub(super) len: [u32; N],
    /// The lanes whose packets lie in pieces, as bits.
    in_pieces: u32,
    /// Those of which a piece ends in the full chunk that was last looked for.
    pub(super) parted: u32,
    /// How many chunks there are, without the block of lengths.
    pub(super) chunks: usize,
    /// The chunks in which every packet has all bytes.
    pub(super) full: core::ops::Range<usize>,
}

impl<const N: usize, const CHUNK: usize> Schedule<N, CHUNK> {
    /// For these packets, in the first `lanes`. A lane without a packet reads the first one along.
    #[inline(always)]
    pub(super) fn of(
        group: &Group<'_, '_>,
        packets: core::ops::Range<usize>,
        lanes: usize,
    ) -> Self {
        let longest = packets.clone().map(|index| group.packet(index).len()).max().unwrap_or(0);
        let per_chunk = CHUNK / 16;
        let chunks = longest.div_ceil(16).div_ceil(per_chunk);
        let (mut base, mut lead, mut len) = ([core::ptr::null(); N], [0; N], [0; N]);
        let (mut full, mut in_pieces) = (0..chunks, 0);
        for lane in 0..lanes.min(N) {
            let packet = Self::packet_of(group, &packets, lane);
            let before = 16 * (per_chunk * chunks - packet.len().div_ceil(16));
            lead[lane] = before as u32;
            len[lane] = packet.len() as u32;
            base[lane] = packet.source.wrapping_sub(before);
            in_pieces |= u32::from(!packet.is_together()) << lane;
            full.start = full.start.max(before.div_ceil(CHUNK));
            full.end = full.end.min((packet.len() + before) / CHUNK);
        }
        Self { base, packets, lead, len, in_pieces, parted: 0, chunks, full }
    }

    /// The packet that a lane reads.
    #[inline(always)]
    pub(super) fn packet<'g>(&self, group: &'g Group<'_, '_>, lane: usize) -> &'g Packet {
        Self::packet_of(group, &self.packets, lane)
    }

    #[inline(always)]
    fn packet_of<'g>(
        group: &'g Group<'_, '_>,
        packets: &core::ops::Range<usize>,
        lane: usize,
    ) -> &'g Packet {
        group.packet(packets.start + if lane < packets.len() { lane } else { 0 })
    }

    /// Finds where the bytes of a full chunk are, and returns up to which chunk that holds.
    #[inline(always)]
    pub(super) fn find_runs(&mut self, group: &Group<'_, '_>, chunk: usize) -> usize {
        let (mut end, in_pieces) = (self.full.end, self.in_pieces);
        if in_pieces == 0 {
            return end;
        }
        self.parted = 0;
        for lane in (0..N).filter(|lane| in_pieces >> lane & 1 == 1) {
            let (place, len) = self.packet(group, lane).run(self.start(lane, chunk));
            self.base[lane] = place.wrapping_sub(CHUNK * chunk);
            end = end.min(chunk + (len / CHUNK).max(1));
            self.parted |= u32::from(len < CHUNK) << lane;
        }
        end
    }

    /// Whether the lane's packet is in pieces.
    #[inline(always)]
    pub(super) fn is_in_pieces(&self, lane: usize) -> bool {
        self.in_pieces >> lane & 1 == 1
    }

    /// Where in the text of the lane's packet a chunk starts, if that is not before it.
    #[inline(always)]
    pub(super) fn start(&self, lane: usize, chunk: usize) -> usize {
        (CHUNK * chunk).saturating_sub(self.lead[lane % N] as usize)
    }

    /// Where a lane's chunk starts. Only the bytes of [`Schedule::part`] may be read there; of a packet
    /// in pieces, those of a full chunk that [`Schedule::find_runs`] has found and no piece ends in.
    #[inline(always)]
    pub(super) fn place(&self, lane: usize, chunk: usize) -> *const u8 {
        self.base[lane % N].wrapping_add(CHUNK * chunk)
    }

    /// The bytes of a chunk that the lane's packet has: from, and to.
    #[inline(always)]
    pub(super) fn part(&self, lane: usize, chunk: usize) -> (u32, u32) {
        let (start, lead) = (CHUNK * chunk, self.lead[lane % N] as usize);
        let skip = lead.saturating_sub(start).min(CHUNK);
        let end = (self.len[lane % N] as usize + lead).saturating_sub(start).min(CHUNK);
        (skip as u32, end as u32)
    }
}

/// The lowest `count` of 128 bits.
#[inline(always)]
pub(super) fn bytes(count: u32) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

/// The tag of a number in limbs of 44, 44 and 42 bits that may be too large by some bits.
#[inline(always)]
pub(super) fn finish44(limbs: [u64; 3], key: &[u64; 4]) -> Tag {
    const MASK44: u64 = (1 << 44) - 1;
    const MASK42: u64 = (1 << 42) - 1;
    let [mut h0, mut h1, mut h2] = limbs;
    for _ in 0..2 {
        h1 += h0 >> 44;
        h2 += h1 >> 44;
        h0 = (h0 & MASK44) + (h2 >> 42) * 5;
        (h1, h2) = (h1 & MASK44, h2 & MASK42);
    }
    h1 += h0 >> 44;
    h2 += h1 >> 44;
    (h0, h1) = (h0 & MASK44, h1 & MASK44);
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    // All ones if the number was below 2^130 - 5, so that nothing may be taken off.
    let keep = (g2.cast_signed() >> 63).cast_unsigned();
    let pick = |kept: u64, reduced: u64| (kept & keep) | (reduced & !keep);
    let (h0, h1, h2) = (pick(h0, g0 & MASK44), pick(h1, g1 & MASK44), pick(h2, g2));
    let number = u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88;
    let tag = number.wrapping_add(u128::from(key[2]) | u128::from(key[3]) << 64);
    [tag as u64, (tag >> 64) as u64]
}
