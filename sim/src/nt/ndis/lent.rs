//! Lists of the simulator's own, lent to the driver: built to be awkward, and compared when they come back.
//!
//! A [`Lent::scattered`] list's bytes are cut over up to six MDLs a buffer, some of one byte or none, at odd addresses with gaps
//! between, unmapped, with slack behind the data and bytes in front of it. It is special pool: once given back it is gone.
//! [`Lent::in_place`] describes bytes where they are and copies nothing; nor does [`Lent::clone_of`], which has descriptors of
//! its own over the bytes of another list.
//!
//! Source: `facts/ndis.md` 10; WDD network/packet-indication-format.

use super::invariants;
use super::layout::{self, Buffer, Stretch, buffer, list};
use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::mm;

/// MDLs of one buffer at most, unless its packet asks for more cuts.
pub(crate) const PIECES: usize = 6;
/// Where a list's first buffer is; behind each buffer come its MDLs.
const BUFFERS_AT: usize = 384;
const MDL_STRIDE: usize = 48 + 8 * 18;
/// Room for the descriptors of one packet in one MDL.
pub(crate) const DESCRIPTORS: usize = BUFFERS_AT + buffer::SIZE + MDL_STRIDE;
/// Bytes of slack and gaps.
const GAP: u8 = 0xA5;
/// `MDL_PAGES_LOCKED`.
const LOCKED: u16 = 2;

/// One packet of a list to build.
#[derive(Default)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    /// How many of the bytes come before the data.
    pub(crate) lead: usize,
    /// Before which of the bytes a new MDL begins, beside where chance has it.
    pub(crate) cuts: Vec<usize>,
}

/// A list, and how it was when it was lent.
pub(crate) struct Lent {
    pub(crate) at: usize,
    said: Vec<(usize, Buffer)>,
    frozen: Vec<(usize, Vec<u8>)>,
    /// The tag of its block, if it is in the pool.
    tag: Option<u32>,
}

impl Lent {
    /// A list with its descriptors at `descriptors`, around a payload that has `lead` bytes of headers in front of it.
    pub(crate) fn in_place(
        descriptors: usize,
        (payload, length): (usize, usize),
        lead: usize,
    ) -> Result<Self, Fault> {
        probe::fill(descriptors, 0, DESCRIPTORS - MDL_STRIDE)?;
        let mdl = descriptors + BUFFERS_AT + buffer::SIZE;
        mm::fill(mdl, payload - lead, (lead + length) as u32, mm::NONPAGED)?;
        let offset = lead as u32;
        let first = Buffer {
            chain: mdl,
            current_mdl: mdl,
            current_offset: offset,
            offset,
            length: length as u32,
            next: 0,
        };
        Self::finish(descriptors, vec![(descriptors + BUFFERS_AT, first)], Vec::new(), None)
    }

    /// An awkward list in pool of that tag; `None` if there is no memory.
    pub(crate) fn scattered(machine: &Machine, tag: u32, packets: &[Packet]) -> Option<Self> {
        let plans: Vec<Plan> = packets.iter().map(|packet| Plan::draw(machine, packet)).collect();
        let (places, descriptors) = places(plans.iter().map(|plan| plan.pieces.len()));
        let size = descriptors + plans.iter().map(Plan::room).sum::<usize>();
        let block = machine.pool().allocate(size, tag, 0, 0)?;
        let built = probe::fill(block + descriptors, GAP, size - descriptors).and_then(|()| {
            let mut at = block + descriptors;
            let mut buffers = Vec::new();
            let mut frozen = Vec::new();
            for (number, (packet, plan)) in packets.iter().zip(&plans).enumerate() {
                let place = block + places[number];
                let next = places.get(number + 1).map_or(0, |next| block + next);
                buffers.push((place, plan.build(place, at, packet, next)?));
                frozen.push((at, probe::bytes(at, plan.room())?));
                at += plan.room();
            }
            Self::finish(block, buffers, frozen, Some(tag))
        });
        built.ok()
    }

    /// A clone, in pool of that tag, of the list whose buffers are `parent`: from `lead` bytes before their data on, which is
    /// where the clone's own data begins, too. `None` if there is no memory.
    pub(crate) fn clone_of(
        machine: &Machine,
        tag: u32,
        parent: &[(usize, Buffer)],
        lead: u32,
    ) -> Option<Self> {
        let data = |said: &Buffer| {
            let whole = Buffer { offset: said.offset - lead, length: said.length + lead, ..*said };
            layout::data(&whole)
        };
        let stretches: Vec<Vec<Stretch>> =
            parent.iter().map(|(_, said)| data(said)).collect::<Result<_, _>>().ok()?;
        let (places, size) = places(stretches.iter().map(Vec::len));
        let block = machine.pool().allocate(size, tag, 0, 0)?;
        let mut buffers = Vec::new();
        let built = parent.iter().zip(&stretches).enumerate().try_for_each(
            |(number, ((_, said), stretches))| {
                let place = block + places[number];
                let next = places.get(number + 1).map_or(0, |next| block + next);
                for (number, (address, length)) in stretches.iter().enumerate() {
                    let mdl = place + buffer::SIZE + number * MDL_STRIDE;
                    mm::fill(mdl, *address, *length as u32, mm::NONPAGED)?;
                    if number + 1 < stretches.len() {
                        probe::write(mdl, mdl + MDL_STRIDE)?;
                    }
                }
                let chain = if stretches.is_empty() { 0 } else { place + buffer::SIZE };
                let (offset, length) = (lead, said.length);
                let mut clone = Buffer { next, chain, offset, length, ..Buffer::default() };
                clone.adjust()?;
                buffers.push((place, clone));
                Ok(())
            },
        );
        built.and_then(|()| Self::finish(block, buffers, Vec::new(), Some(tag))).ok()
    }

    /// Its buffers, and what they say.
    pub(crate) fn buffers(&self) -> &[(usize, Buffer)] {
        &self.said
    }

    fn finish(
        at: usize,
        said: Vec<(usize, Buffer)>,
        frozen: Vec<(usize, Vec<u8>)>,
        tag: Option<u32>,
    ) -> Result<Self, Fault> {
        for (place, buffer) in &said {
            buffer.write(*place)?;
        }
        probe::write(at + list::FIRST_BUFFER, said.first().map_or(0, |(place, _)| *place))?;
        debug_assert!(invariants::check(at).is_ok(), "{:?}", invariants::check(at));
        Ok(Self { at, said, frozen, tag })
    }

    /// What somebody has changed of it, in words.
    pub(crate) fn changed(&self) -> Option<String> {
        for (at, said) in &self.said {
            if Buffer::read(*at).as_ref() != Ok(said) {
                let detail = format!("buffer {at:#x} of list {:#x}", self.at);
                return Some(format!("{detail} is not as it was given: {said:?}"));
            }
        }
        let written =
            |(at, bytes): &&(usize, Vec<u8>)| probe::bytes(*at, bytes.len()).as_ref() != Ok(bytes);
        let (at, bytes) = self.frozen.iter().find(written)?;
        let which = format!("some of the {} bytes at {at:#x} of list {:#x}", bytes.len(), self.at);
        Some(format!("{which} were written: they are others' too"))
    }

    /// Where the data of its packets is, packet by packet.
    pub(crate) fn packets(&self) -> impl Iterator<Item = Vec<Stretch>> {
        self.said.iter().map(|(_, said)| layout::data(said).unwrap_or_default())
    }

    /// The bytes of its first packet.
    pub(crate) fn first_payload(&self) -> Vec<u8> {
        self.said.first().and_then(|(_, said)| layout::bytes(said).ok()).unwrap_or_default()
    }

    /// Gives its block back to the pool.
    pub(crate) fn free(&self, machine: &Machine) {
        if let Some(tag) = self.tag {
            let freed = machine.pool().free(self.at, tag, 0);
            debug_assert_eq!(freed, Ok(()));
        }
    }
}

/// Where the buffers of a list are in its block, when they have so many MDLs; and where what comes behind them is.
fn places(mdls: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
    let mut at = BUFFERS_AT;
    let mut all = Vec::new();
    for mdls in mdls {
        all.push(at);
        at += buffer::SIZE + mdls * MDL_STRIDE;
    }
    (all, at)
}

/// Where the bytes of one packet go.
struct Plan {
    /// Bytes before the headers.
    front: usize,
    /// Bytes behind the data.
    slack: usize,
    /// Lengths of the pieces; their sum is everything.
    pieces: Vec<usize>,
    /// Gap before each piece.
    gaps: Vec<usize>,
    mapped: u64,
}

impl Plan {
    fn draw(machine: &Machine, packet: &Packet) -> Self {
        let random = || machine.world().random() as usize;
        let (front, slack) = ([0, 14, 64][random() % 3], [0, 0, 1, 18, 300][random() % 5]);
        let total = front + packet.bytes.len() + slack;
        // Cuts are taken from where they hurt: around the start of the data and in the first bytes behind it.
        let start = front + packet.lead;
        let mut cuts: Vec<usize> = (0..random() % PIECES)
            .map(|_| match random() % 6 {
                0 => start,
                1 => start + 1,
                2 => start + 1 + random() % 32,
                3 => start.saturating_sub(1 + random() % 8),
                4 => total.saturating_sub(slack + 1 + random() % 16),
                _ => random() % (total + 1),
            })
            .chain(packet.cuts.iter().map(|cut| front + cut))
            .map(|cut| cut.min(total))
            .collect();
        cuts.sort_unstable();
        // Two cuts at one place leave an MDL without a byte between them, which is legal.
        let ends = cuts.iter().copied().chain([total]);
        let pieces =
            ends.scan(0, |from, to| Some(to - std::mem::replace(from, to))).collect::<Vec<_>>();
        let gaps = pieces.iter().map(|_| random() % 40).collect();
        Self { front, slack, pieces, gaps, mapped: machine.world().random() }
    }

    fn room(&self) -> usize {
        self.pieces.iter().sum::<usize>() + self.gaps.iter().sum::<usize>()
    }

    /// Writes the packet at `memory` and its MDLs behind the buffer at `place`.
    fn build(
        &self,
        place: usize,
        memory: usize,
        packet: &Packet,
        next: usize,
    ) -> Result<Buffer, Fault> {
        let mut whole = vec![GAP; self.front];
        whole.extend(&packet.bytes);
        whole.resize(whole.len() + self.slack, GAP);
        let first = place + buffer::SIZE;
        let (mut at, mut from) = (memory, 0);
        for (number, (length, gap)) in self.pieces.iter().zip(&self.gaps).enumerate() {
            let mdl = first + number * MDL_STRIDE;
            at += gap;
            probe::write_bytes(at, &whole[from..from + length])?;
            let flags = if self.mapped >> number & 1 == 0 { mm::NONPAGED } else { LOCKED };
            mm::fill(mdl, at, *length as u32, flags)?;
            if number + 1 < self.pieces.len() {
                probe::write(mdl, mdl + MDL_STRIDE)?;
            }
            (at, from) = (at + length, from + length);
        }
        let offset = (self.front + packet.lead) as u32;
        let length = (packet.bytes.len() - packet.lead) as u32;
        let mut said = Buffer { next, chain: first, offset, length, ..Buffer::default() };
        said.adjust()?;
        Ok(said)
    }
}
