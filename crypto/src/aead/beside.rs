//! Poly1305 of whole packets beside the rounds of a wide pass.
//!
//! The rounds of thirty-two lanes occupy the vector units and leave the general registers idle: there,
//! eight blocks of one packet go beside each double round. Two packets are at hand, so that where one
//! ends in the middle of a pass the other goes on; their ends are done between passes.
#![allow(unsafe_code)] // What assembly reads has been counted here.

use super::chacha::DOUBLE_ROUNDS;
use super::deal::{Blocks, Dealer, Position};
use super::group::{GROUP, Group, Packet};
use super::poly64::Chain;

/// Bytes of text beside a double round.
pub(super) const STEP: usize = 128;

/// One packet and its sum. Its fields are also read and written by assembly, see `rounds512`.
///
/// # Invariants
///
/// While the packets last: `text` is followed by `steps` times [`STEP`] bytes that may be read.
#[repr(C)]
pub(super) struct Link {
    pub(super) chain: Chain,
    /// What of the text is next.
    pub(super) text: *const u8,
    /// Double rounds of the next pass that it goes beside.
    pub(super) steps: u32,
    /// Bytes of text after those.
    left: u32,
}

/// What goes beside the passes over a group.
#[repr(C)]
pub(super) struct Beside {
    /// Of the packets with even and with odd index.
    pub(super) links: [Link; 2],
    /// Double rounds of the next pass that nothing goes beside.
    pub(super) alone: u32,
    /// The first packet that is not done, the first that is not begun, and the end.
    next: u8,
    begun: u8,
    end: u8,
    /// When opening, the first packet whose tag has not been looked at.
    judged: u8,
    /// Which packets are authentic, as bits.
    pub(super) authentic: u16,
}

impl Link {
    /// Finds what is next of the text, and how many steps of it lie together there.
    #[inline(always)]
    fn steps_from(&mut self, place: &Packet) -> u32 {
        loop {
            let start = place.len() - self.left as usize;
            let (text, len) = place.run(start);
            let steps = (len / STEP) as u32;
            if steps > 0 || (self.left as usize) < STEP {
                self.text = text;
                return steps;
            }
            self.left -= self.chain.take_run(place, start, STEP / 16) as u32;
        }
    }

    const NONE: Self = Self {
        chain: Chain { sum: [0; 3], r0: 0, r1: 0, s1: 0 },
        text: core::ptr::null(),
        steps: 0,
        left: 0,
    };
}

impl Beside {
    /// Takes packets from `next` to before `end`, which lie together. The tags of those before are
    /// done, or are somebody else's.
    pub(super) fn new(next: usize, end: usize) -> Self {
        let (next, end) = (next.min(GROUP) as u8, end.min(GROUP) as u8);
        let links = [const { Link::NONE }; 2];
        let alone = DOUBLE_ROUNDS;
        Self { links, alone, next, begun: next, end, judged: 0, authentic: 0 }
    }

    /// Looks at so many tags that `lanes` lanes can be dealt of authentic packets, and takes the forged
    /// ones out; returns the first packet that may not be dealt.
    #[inline(never)] // As below.
    pub(super) fn judge(
        &mut self,
        group: &mut Group<'_, '_>,
        dealer: &Dealer,
        lanes: usize,
    ) -> usize {
        let count = group.packets().len();
        while usize::from(self.judged) < count
            && !dealer.has_ahead(group, usize::from(self.judged), lanes)
        {
            if self.next == self.judged {
                if self.begun == self.next {
                    self.begin(group, Position::END);
                }
                self.finish(group, Position::END);
            }
            self.authentic |= group.reject_forged(self.judged.into()..self.next.into());
            self.judged = self.next;
        }
        self.judged.into()
    }

    /// Whether every tag has been looked at.
    #[inline(always)]
    pub(super) fn has_judged(&self, group: &Group<'_, '_>) -> bool {
        usize::from(self.judged) >= group.packets().len()
    }

    /// Whether nothing goes beside any pass from here on, and what was planned says so.
    #[inline(always)]
    pub(super) fn is_done(&self) -> bool {
        self.next == self.end && self.alone == DOUBLE_ROUNDS
    }

    /// Finds what may go beside the next pass, of the packets that are wholly written.
    #[inline(never)] // What it needs of the stack is then free again in the pass.
    pub(super) fn plan(&mut self, group: &mut Group<'_, '_>, written: Position) {
        for index in self.next..self.begun {
            if (self.links[usize::from(index) % 2].left as usize) < STEP && index == self.next {
                self.finish(group, written);
            }
        }
        let mut free = DOUBLE_ROUNDS;
        for link in &mut self.links {
            link.steps = 0;
        }
        let end = self.end.min(group.packets().len() as u8);
        for index in self.next..end.min(self.next + 2) {
            let packet = group.packet(usize::from(index));
            let len = packet.len();
            if written.text_of(usize::from(index), len) != Some(len) {
                break;
            }
            if index == self.begun {
                self.begin(group, written);
            }
            let link = &mut self.links[usize::from(index) % 2];
            // INVARIANT: the packet has the bytes, and they are together.
            let mut place = *packet;
            if written.blocks == Blocks::All {
                place.read_back();
            }
            link.steps = link.steps_from(&place).min(free);
            link.left -= link.steps * STEP as u32;
            free -= link.steps;
        }
        self.alone = free;
    }

    /// Puts the one-time key of the first packet that is not begun into its link.
    #[inline(always)]
    fn begin(&mut self, group: &Group<'_, '_>, written: Position) {
        let index = usize::from(self.begun) % GROUP;
        let packet = group.packet(index);
        // What is being sealed is authenticated where it was written.
        let is_sealed = written.blocks == Blocks::All;
        self.links[index % 2] = Link {
            chain: Chain::new(&group.one_time.0[index]),
            text: if is_sealed { packet.destination } else { packet.source },
            steps: 0,
            left: packet.len() as u32,
        };
        self.begun += 1;
    }

    /// Authenticates the rest of the first packet that is not done.
    #[inline(never)] // As above.
    fn finish(&mut self, group: &mut Group<'_, '_>, written: Position) {
        let index = usize::from(self.next) % GROUP;
        let mut place = *group.packet(index);
        if written.blocks == Blocks::All {
            place.read_back();
        }
        let link = &mut self.links[index % 2];
        link.chain.take_rest(&place, place.len() - link.left as usize);
        let tag = link.chain.tag_of(place.len(), &group.one_time.0[index]);
        group.put_tag(index, tag);
        self.next += 1;
    }

    /// How many packets are done.
    pub(super) fn done(&self) -> usize {
        self.next.into()
    }

    /// Finishes what has been begun.
    #[inline(never)] // As above.
    pub(super) fn finish_begun(&mut self, group: &mut Group<'_, '_>, written: Position) {
        while self.next < self.begun {
            self.finish(group, written);
        }
    }
}
