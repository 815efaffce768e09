//! ChaCha20 and Poly1305 of a group at the same time, for tiers with lanes below 512 bits.
//!
//! ```text
//!   seal   pass   │ A A A A A A A A │ A A B B B B B B │ B B B B C C C C │
//!          beside │                 │ A               │ A  B            │ …
//!   open   pass   │ keys            │ A A A A A A A A │ B B B B B B B B │
//!          beside │ A               │ B  C            │ C  D            │ …
//! ```
//!
//! The rounds of a pass occupy the vector units and leave the general registers idle: there, blocks
//! of Poly1305 are taken at the same time. When sealing those are of what earlier passes have
//! written; when opening, of packets whose text is not touched before their tag is found right.
//!
//! Forced inline into the functions of a tier, like `lanes`.
#![allow(unsafe_code)] // Text is read through raw places.

use super::chacha::{BLOCK_LEN, DOUBLE_ROUNDS};
use super::deal::{Blocks, Dealer, Lanes, Position};
use super::group::{GROUP, Group, Packet};
use super::lanes::{self, Register, Rounds};
use super::poly64::{self, Chain};

/// Seals a group, and computes each packet's tag, for the group to keep.
#[inline(always)]
pub(super) fn seal<R: Register<N>, const N: usize>(proof: R::Proof<'_>, group: &mut Group<'_, '_>) {
    let mut cursor = Cursor::new();
    pass_all::<R, N>(proof, group, Blocks::All, &mut cursor);
    group.read_back();
    cursor.finish_all(group);
}

/// Opens what is authentic of a group and zeroes the places of the others.
///
/// Returns which packets are authentic, as bits.
#[inline(always)]
pub(super) fn open<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &mut Group<'_, '_>,
) -> u16 {
    let mut cursor = Cursor::new();
    pass_all::<R, N>(proof, group, Blocks::Zero, &mut cursor);
    let (mut even, mut odd) = (Lanes::<N>::IDLE, Lanes::<N>::IDLE);
    let (mut now, mut next) = (&mut even, &mut odd);
    let mut dealer = Dealer::new(Blocks::Text);
    let (mut judged, mut authentic) = (0, 0);
    let mut deal = |group: &mut Group<'_, '_>,
                    dealer: &mut Dealer,
                    lanes: &mut Lanes<N>,
                    cursor: &mut Cursor| {
        while !dealer.has_ahead(group, judged, N) && judged < group.packets().len() {
            cursor.finish_one(group, judged);
            authentic |= group.reject_forged(judged..cursor.packet);
            judged = cursor.packet;
        }
        deal_lanes(dealer, group, lanes, judged)
    };
    let mut filled = deal(group, &mut dealer, now, &mut cursor);
    while filled > 0 {
        // The next lanes are dealt before the last are done, so that nothing waits for them; but not if
        // that takes a tag which this pass brings nearer.
        let is_ready =
            cursor.packet == group.packets().len() || dealer.has_ahead(group, cursor.packet, N);
        if is_ready {
            filled = deal(group, &mut dealer, next, &mut cursor);
        }
        R::pass(proof, group, now, &mut cursor, Position::END);
        if !is_ready {
            filled = deal(group, &mut dealer, next, &mut cursor);
        }
        (now, next) = (next, now);
    }
    authentic
}

/// Adds the key stream to these blocks, and authenticates what has been written beside it.
#[inline(always)]
fn pass_all<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &mut Group<'_, '_>,
    blocks: Blocks,
    cursor: &mut Cursor,
) {
    let (mut even, mut odd) = (Lanes::<N>::IDLE, Lanes::<N>::IDLE);
    let (mut now, mut next) = (&mut even, &mut odd);
    let mut dealer = Dealer::new(blocks);
    let mut written = dealer.position();
    let mut filled = deal_lanes(&mut dealer, group, now, GROUP);
    while filled > 0 {
        let after = dealer.position();
        // As above.
        filled = deal_lanes(&mut dealer, group, next, GROUP);
        R::pass(proof, group, now, cursor, written);
        (now, next) = (next, now);
        written = after;
    }
}

/// As [`Dealer::deal`].
#[inline(always)]
fn deal_lanes<const N: usize>(
    dealer: &mut Dealer,
    group: &Group<'_, '_>,
    lanes: &mut Lanes<N>,
    limit: usize,
) -> usize {
    if dealer.deal_whole((), group, lanes, limit) {
        N
    } else {
        dealer.deal((), group, lanes, limit)
    }
}

/// One pass, and beside it what of `written` can be authenticated.
#[inline(always)]
pub(super) fn pass<R: Register<N>, const N: usize>(
    proof: R::Proof<'_>,
    group: &mut Group<'_, '_>,
    lanes: &Lanes<N>,
    cursor: &mut Cursor,
    written: Position,
) {
    lanes::pass::<R, N>(proof, group, lanes, |group, state| {
        rounds::<R, N>(group, state, cursor, written);
    });
}

/// The twenty rounds, and beside them what can be authenticated.
#[inline(always)]
fn rounds<R: Register<N>, const N: usize>(
    group: &mut Group<'_, '_>,
    state: &mut [R; 16],
    cursor: &mut Cursor,
    written: Position,
) {
    let mut left = DOUBLE_ROUNDS;
    while left > 0 {
        let (ready, more) = cursor.ready(group, written);
        let beside = ready.min(left);
        left -= beside;
        let alone = if more { 0 } else { core::mem::take(&mut left) };
        // SAFETY: by its contract `ready` found so many blocks of 64 bytes from here.
        unsafe { R::rounds(state, Rounds { beside, alone }, &mut cursor.chain, cursor.text) };
        cursor.skip(beside);
    }
}

/// Where authenticating has got to.
pub(super) struct Cursor {
    /// The packet that is being authenticated; the tags of those before it are done.
    packet: usize,
    /// Whether its one-time key is in the chain.
    begun: bool,
    chain: Chain,
    /// Where its text is, and how much of it is in the chain.
    place: Packet,
    done: usize,
    /// What of its text is next, so far as `ready` says.
    text: *const u8,
}

impl Cursor {
    fn new() -> Self {
        let chain = Chain::new(&[0; 4]);
        let (place, text) = (Packet::NONE, core::ptr::null());
        Self { packet: 0, begun: false, chain, place, done: 0, text }
    }

    /// How many times 64 bytes from `text` can be authenticated next, of what is written; and
    /// whether there may be more after that.
    ///
    /// Finishes packets of which less is left. What it counts may be read.
    #[inline(always)]
    fn ready(&mut self, group: &mut Group<'_, '_>, written: Position) -> (u32, bool) {
        while self.packet < group.packets().len() {
            let len = group.packet(self.packet).len();
            let Some(available) = written.text_of(self.packet, len) else { break };
            self.begin(group, written);
            let steps = self.steps(available);
            let is_all = available == len;
            if steps > 0 || !is_all {
                return (steps as u32, is_all);
            }
            self.finish(group);
        }
        (0, false)
    }

    /// How many times 64 bytes of the first `available` lie together at `text`, and are next.
    #[inline(always)]
    fn steps(&mut self, available: usize) -> usize {
        while available - self.done >= BLOCK_LEN {
            let (text, len) = self.place.run(self.done);
            self.text = text;
            let steps = len.min(available - self.done) / BLOCK_LEN;
            if steps > 0 {
                return steps;
            }
            self.take_parted();
        }
        0
    }

    /// Authenticates a block where a piece ends.
    #[inline(never)]
    fn take_parted(&mut self) {
        self.done += self.chain.take_parted(&self.place, self.done);
    }

    /// Puts the packet's one-time key into the chain, once.
    #[inline(always)]
    fn begin(&mut self, group: &Group<'_, '_>, written: Position) {
        if !self.begun {
            self.place = *group.packet(self.packet);
            self.chain = Chain::new(&group.one_time.0[self.packet % GROUP]);
            // What is being sealed is authenticated where it was written.
            if written.blocks == Blocks::All {
                self.place.read_back();
            }
            (self.begun, self.done) = (true, 0);
        }
    }

    /// Past so many times 64 bytes.
    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.done += BLOCK_LEN * count as usize;
    }

    /// Authenticates the rest of the packet.
    #[inline(always)]
    fn finish(&mut self, group: &mut Group<'_, '_>) {
        let index = self.packet % GROUP;
        self.chain.take_rest(&self.place, self.done);
        let tag = self.chain.tag_of(self.place.len(), &group.one_time.0[index]);
        group.put_tag(index, tag);
        self.packet += 1;
        self.begun = false;
    }

    /// Finishes packet `index` if that has not happened.
    #[inline(always)]
    fn finish_one(&mut self, group: &mut Group<'_, '_>, index: usize) {
        if self.packet == index {
            self.begin(group, Position::END);
            self.finish(group);
        }
    }

    /// Finishes all packets, after all has been written.
    #[inline(always)]
    fn finish_all(&mut self, group: &mut Group<'_, '_>) {
        if self.begun {
            self.finish(group);
        }
        authenticate_rest(group, self.packet);
    }
}

/// Authenticates the packets from `index` on, which have been written.
#[inline(never)] // Its frame would add to that of a pass.
fn authenticate_rest(group: &mut Group<'_, '_>, index: usize) {
    poly64::authenticate(group, index..group.packets().len());
}
