//! NET_BUFFER_LISTs that the network gives to callouts: how they look, and who keeps them.
//!
//! In verified mode each is built to be awkward: its bytes are cut over up to six MDLs, some of one byte or none, at odd
//! addresses with gaps between, unmapped, with slack behind the data and headers in front of it. It is special pool, so it is
//! gone once the last reference is, and its bytes are compared then: nobody may have written them. In fast mode it lies in
//! the receive block itself, around the payload, and nothing is copied.
//!
//! What a driver references is a buffer the network card does without. There are only so many.
//!
//! Source: WDD network/packet-indication-format, network/data-offset-positions; DDI fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Fwp, fwp};
use crate::loader::probe::{self, Fault};
use crate::nt::imports;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::mm;
use crate::nt::ndis::invariants;
use crate::nt::ndis::layout::{
    self, Buffer, NBL_IS_IPV4, NBL_IS_IPV6, NBL_IS_UDP, buffer, info, list,
};
use crate::nt::thread::Thread;
use crate::nt::wsk;
use crate::verifier::schedule::lock;

/// Pool tag of lists of the network card.
const TAG: u32 = u32::from_le_bytes(*b"NicB");
/// MDLs of one packet at most.
const PIECES: usize = 6;
/// Where a list's first buffer is, and bytes from one buffer to the next, its MDLs behind it.
const BUFFERS_AT: usize = 384;
const MDL_STRIDE: usize = 48 + 8 * 18;
const BUFFER_STRIDE: usize = buffer::SIZE + PIECES * MDL_STRIDE;
/// Room for the descriptors of one packet in one MDL.
pub(crate) const DESCRIPTORS: usize = BUFFERS_AT + buffer::SIZE + MDL_STRIDE;
/// Bytes of slack and gaps.
const GAP: u8 = 0xA5;
/// `MDL_PAGES_LOCKED`.
const LOCKED: u16 = 2;
/// Network card buffers unless a test says otherwise.
const BUFFERS: usize = 4096;

/// One packet of a list to build: bytes, and how many of them come before the data.
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lead: usize,
}

/// What a list's flags and slots say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About {
    pub(crate) ipv6: bool,
    pub(crate) inbound: bool,
    pub(crate) loopback: bool,
    /// Datagrams and their length, if several came as one; 0 if that is not said.
    pub(crate) coalesced: (u16, u16),
    /// Whether it is several datagrams, said or not.
    pub(crate) merged: bool,
    /// The injection handle of whoever has put it into the stack.
    pub(crate) injected_by: usize,
}

/// Where a list's memory is.
enum Memory {
    Pool(usize),
    /// The name of a receive block.
    Place(usize),
}

/// One list that callouts see.
pub(crate) struct Received {
    pub(crate) at: usize,
    pub(crate) about: About,
    said: Vec<(usize, Buffer)>,
    references: AtomicUsize,
    indicated: AtomicBool,
    frozen: Vec<(usize, Vec<u8>)>,
    memory: Memory,
}

/// The lists of one machine that are out.
pub(crate) struct Nic {
    all: Mutex<HashMap<usize, Arc<Received>>>,
    held: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Nic {
    fn default() -> Self {
        Self { all: Mutex::default(), held: AtomicUsize::new(0), limit: AtomicUsize::new(BUFFERS) }
    }
}

/// Sets how many receive buffers the network card has: what callouts hold is missing from them, and with none left it
/// receives nothing.
pub fn limit_nic_buffers(machine: &Machine, count: usize) {
    fwp(machine).nic.limit.store(count, Ordering::Release);
}

/// Lists of the network card that callouts hold.
#[must_use]
pub fn held_nic_buffers(machine: &Machine) -> usize {
    fwp(machine).nic.held()
}

impl Nic {
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Whether the card has a buffer left.
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.limit.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, at: usize) -> Option<Arc<Received>> {
        lock(&self.all).get(&at).cloned()
    }

    /// Puts a list before callouts; [`Nic::retract`] ends that.
    pub(crate) fn show(&self, received: Received) -> Arc<Received> {
        let received = Arc::new(received);
        lock(&self.all).insert(received.at, received.clone());
        received
    }

    /// The classify is over: the list stays only if it was referenced. True if it did; else its receive block is free, with
    /// `give`, or the socket's next.
    pub(crate) fn retract(&self, machine: &Machine, received: &Received, give: bool) -> bool {
        received.indicated.store(false, Ordering::SeqCst);
        if received.references() > 0 {
            return true;
        }
        self.release(machine, received, give);
        false
    }

    /// Nobody has the list any more; with `give`, its receive block is free.
    fn release(&self, machine: &Machine, received: &Received, give: bool) {
        if lock(&self.all).remove(&received.at).is_none() {
            return;
        }
        if let Some(wrong) = received.changed() {
            machine.die("WFP_VIOLATION: NET_BUFFER_LIST", wrong);
        }
        match received.memory {
            Memory::Pool(block) => {
                let freed = machine.pool().free(block, TAG, 0);
                debug_assert_eq!(freed, Ok(()));
            }
            Memory::Place(name) if give => wsk::wsk(machine).give_block(name),
            Memory::Place(_) => {}
        }
    }
}

impl Received {
    /// How often it is referenced.
    pub(crate) fn references(&self) -> usize {
        self.references.load(Ordering::SeqCst)
    }

    /// What somebody has changed of it, in words.
    pub(crate) fn changed(&self) -> Option<String> {
        for (at, said) in &self.said {
            if Buffer::read(*at).as_ref() != Ok(said) {
                return Some(format!(
                    "buffer {at:#x} of list {:#x} is not as it was given: {said:?}",
                    self.at
                ));
            }
        }
        let written =
            |(at, bytes): &&(usize, Vec<u8>)| probe::bytes(*at, bytes.len()).as_ref() != Ok(bytes);
        let (at, bytes) = self.frozen.iter().find(written)?;
        Some(format!(
            "some of the {} bytes at {at:#x} of list {:#x} were written: they are others' too",
            bytes.len(),
            self.at
        ))
    }

    /// The bytes of its first packet from the data on, as long as it is out.
    pub(crate) fn payload(&self) -> Vec<u8> {
        self.said.first().and_then(|(_, said)| layout::bytes(said).ok()).unwrap_or_default()
    }

    /// A list in the receive block `name`, around a payload that has `lead` bytes of headers in front of it.
    pub(crate) fn in_place(
        descriptors: usize,
        name: usize,
        (payload, length): (usize, usize),
        lead: usize,
        about: About,
    ) -> Result<Self, Fault> {
        probe::fill(descriptors, 0, DESCRIPTORS - MDL_STRIDE)?;
        let mdl = descriptors + BUFFERS_AT + buffer::SIZE;
        mm::fill(mdl, payload - lead, (lead + length) as u32, mm::NONPAGED)?;
        let first = Buffer {
            chain: mdl,
            current_mdl: mdl,
            current_offset: lead as u32,
            offset: lead as u32,
            length: length as u32,
            next: 0,
        };
        Self::finish(
            descriptors,
            vec![(descriptors + BUFFERS_AT, first)],
            about,
            (Memory::Place(name), Vec::new()),
        )
    }

    /// An awkward list; `None` if there is no memory.
    pub(crate) fn scattered(machine: &Machine, packets: &[Packet], about: About) -> Option<Self> {
        let plans: Vec<Plan> = packets.iter().map(|packet| Plan::draw(machine, packet)).collect();
        let descriptors = BUFFERS_AT + BUFFER_STRIDE * packets.len();
        let size = descriptors + plans.iter().map(Plan::room).sum::<usize>();
        let block = machine.pool().allocate(size, TAG, 0, 0)?;
        let built = probe::fill(block + descriptors, GAP, size - descriptors).and_then(|()| {
            let mut at = block + descriptors;
            let mut buffers = Vec::new();
            let mut frozen = Vec::new();
            for (number, (packet, plan)) in packets.iter().zip(&plans).enumerate() {
                let place = block + BUFFERS_AT + number * BUFFER_STRIDE;
                let next = if number + 1 < packets.len() { place + BUFFER_STRIDE } else { 0 };
                buffers.push((place, plan.build(place, at, packet, next)?));
                frozen.push((at, probe::bytes(at, plan.room())?));
                at += plan.room();
            }
            Self::finish(block, buffers, about, (Memory::Pool(block), frozen))
        });
        built.ok()
    }

    fn finish(
        at: usize,
        buffers: Vec<(usize, Buffer)>,
        about: About,
        (memory, frozen): (Memory, Vec<(usize, Vec<u8>)>),
    ) -> Result<Self, Fault> {
        for (place, said) in &buffers {
            said.write(*place)?;
        }
        probe::write(at + list::FIRST_BUFFER, buffers.first().map_or(0, |(place, _)| *place))?;
        let (family, frame) =
            if about.ipv6 { (NBL_IS_IPV6, 0x86DD_u16) } else { (NBL_IS_IPV4, 0x0800) };
        probe::write(at + list::NBL_FLAGS, family | NBL_IS_UDP)?;
        let slot = |number: usize| at + list::INFO + 8 * number;
        probe::write(slot(info::FRAME_TYPE), u64::from(frame.to_be()))?;
        if about.inbound {
            // Checksums of UDP and IP were found right; b6 says that it never left this machine.
            probe::write(slot(info::CHECKSUM), 0b11_0000_u64 | u64::from(about.loopback) << 6)?;
            let (count, length) = about.coalesced;
            probe::write(slot(info::COALESCED), u64::from(count) | u64::from(length) << 16)?;
        }
        debug_assert!(invariants::check(at).is_ok(), "{:?}", invariants::check(at));
        Ok(Self {
            at,
            about,
            said: buffers,
            references: AtomicUsize::new(0),
            indicated: AtomicBool::new(true),
            frozen,
            memory,
        })
    }
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

impl Fwp {
    /// The list at `at`, if callouts may touch it now; a stop otherwise.
    fn usable(&self, thread: &Thread, at: usize, function: &str) -> Option<Arc<Received>> {
        let found = self.nic.find(at);
        let usable =
            found.filter(|list| list.indicated.load(Ordering::SeqCst) || list.references() > 0);
        if usable.is_none() {
            let detail = format!("{at:#x} is no list that is being classified or was referenced");
            thread.stop(&format!("WFP_VIOLATION: {function}"), detail);
        }
        usable
    }
}

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// Keeps a list beyond the classify that shows it.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0"]
    fn FwpsReferenceNetBufferList0(thread, at: usize, intend_to_modify: u8) {
        let fwp = fwp(thread.machine());
        let Some(list) = fwp.usable(thread, at, "FwpsReferenceNetBufferList0") else { return };
        if list.references.fetch_add(1, Ordering::SeqCst) == 0 {
            fwp.nic.held.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Ends that.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsdereferencenetbufferlist0"]
    fn FwpsDereferenceNetBufferList0(thread, at: usize, dispatch_level: u8) {
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        if dispatch_level != 0 && thread.irql() < DISPATCH {
            return thread.stop("WFP_VIOLATION: FwpsDereferenceNetBufferList0", "dispatchLevel below DISPATCH_LEVEL");
        }
        let Some(list) = fwp.usable(thread, at, "FwpsDereferenceNetBufferList0") else { return };
        if list.references() == 0 {
            return thread.stop("WFP_VIOLATION: FwpsDereferenceNetBufferList0", format!("{at:#x} is not referenced"));
        }
        if list.references.fetch_sub(1, Ordering::SeqCst) == 1 {
            fwp.nic.held.fetch_sub(1, Ordering::SeqCst);
            if !list.indicated.load(Ordering::SeqCst) {
                fwp.nic.release(machine, &list, true);
            }
        }
    }
}
