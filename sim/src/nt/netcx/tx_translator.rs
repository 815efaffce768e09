//! Packets of the host into the transmit ring, and back.
//!
//! [`Outbox`] is what lies between tcpip and the ring: a bounded queue with its gate, which lives as
//! long as the adapter. [`TxTranslator`] moves packets between it and one queue's rings, a round per
//! call, inside the queue's execution context.
//!
//! Under the verifier what tcpip sends is a NET_BUFFER_LIST ([`SendList`]) of one to three NET_BUFFERs,
//! each a packet over a chain of awkward MDLs. A list is complete once the driver has returned its last
//! packet: it must then be as it was, and is gone. In fast mode a packet is a buffer and nothing more.
//!
//! Source: `facts/netcx-os.md` §5 (`translator/nxtxxlat.cpp`, read in Microsoft's source). Of offloads
//! there is segmentation; bounce for DMA does not occur.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::packet_layout;
use super::poll_thread::Poll;
use super::queue::PacketQueue;
use super::ring::{Fragment, GSO, Packet, VIRTUAL_ADDRESS};
use super::stopping::Stopping;
use crate::nt::machine::{Level, Machine};
use crate::nt::ndis::layout::Stretch;
use crate::nt::ndis::lent::{Lent, PIECES, Packet as ListPacket};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// NET_BUFFERs of one list at most.
const LIST_MAX: usize = 3;
/// Pool tag of lists of tcpip.
const TAG: u32 = u32::from_le_bytes(*b"NblT");
/// Completed packets of one round at most.
const COMPLETION_BATCH: u32 = 64;
/// Bytes before and behind a packet in its buffer.
const GAP: usize = 32;
const POISON: u8 = 0xA5;

/// A packet on its way to the driver. Its bytes do not move while it has a slot.
struct TxPacket {
    /// What holds its bytes: a buffer, a list, or both if the list's were joined in the buffer.
    bytes: Box<[u8]>,
    list: Option<Arc<SendList>>,
    pieces: [Stretch; PIECES],
    count: usize,
    length: usize,
    /// Into segments of how much payload it is to be cut; 0 if it is not.
    mss: u32,
}

impl TxPacket {
    /// A packet whose bytes are in `bytes`, behind the gap.
    fn whole(bytes: Box<[u8]>, length: usize, list: Option<Arc<SendList>>) -> Self {
        let mut pieces = [(0, 0); PIECES];
        pieces[0] = (bytes.as_ptr().expose_provenance() + GAP, length);
        Self { bytes, list, pieces, count: 1, length, mss: 0 }
    }

    /// A packet of a list, in the pieces it has there.
    fn of_list(list: &Arc<SendList>, stretches: &[Stretch]) -> Self {
        let mut pieces = [(0, 0); PIECES];
        let count = stretches.len().min(PIECES);
        pieces[..count].copy_from_slice(&stretches[..count]);
        let length = stretches.iter().map(|(_, length)| length).sum();
        Self { bytes: Box::default(), list: Some(list.clone()), pieces, count, length, mss: 0 }
    }

    /// Its pieces.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces[..self.count].iter().map(|(address, length)| {
            // SAFETY: bytes of its buffer or its list, both of which it keeps.
            unsafe {
                std::slice::from_raw_parts(std::ptr::with_exposed_provenance(*address), *length)
            }
        })
    }
}

/// A NET_BUFFER_LIST of tcpip, until its last packet is back.
struct SendList {
    list: Lent,
    left: AtomicUsize,
}

impl SendList {
    /// One of its packets is back. With the last the list is complete, and must be as it was.
    fn packet_is_back(&self, machine: &Machine) {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(wrong) = self.list.changed() {
            machine.die(&rules::NBL_L5, wrong);
        }
        self.list.free(machine);
    }
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The adapter is paused, stopped or halted: `NDIS_STATUS_PAUSED`.
    Paused,
    /// As many packets are out as may be.
    Full,
}

/// Counts of an adapter's transmit side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets taken from the host.
    pub accepted: u64,
    /// Packets the driver has returned.
    pub completed: u64,
    /// Packets completed unseen because the adapter paused.
    pub paused: u64,
}

/// The bounded queue before the transmit ring.
pub(crate) struct Outbox {
    queue: Mutex<VecDeque<TxPacket>>,
    spare: Mutex<Vec<Box<[u8]>>>,
    open: AtomicBool,
    armed: AtomicBool,
    out: AtomicUsize,
    limit: usize,
    scatter: bool,
    accepted: AtomicU64,
    completed: AtomicU64,
    paused: AtomicU64,
}

impl Outbox {
    /// Makes a closed outbox for `limit` packets; `scatter` cuts them into pieces.
    pub(crate) fn new(limit: usize, scatter: bool) -> Self {
        Self {
            queue: Mutex::default(),
            spare: Mutex::default(),
            open: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            out: AtomicUsize::new(0),
            limit,
            scatter,
            accepted: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            paused: AtomicU64::new(0),
        }
    }

    /// Opens or closes the gate.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// What went through.
    pub(crate) fn sent(&self) -> Sent {
        Sent {
            accepted: self.accepted.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
        }
    }

    /// Whether the poll sleeps and must be told of packets; it is told once.
    pub(crate) fn take_armed(&self) -> bool {
        self.armed.swap(false, Ordering::AcqRel)
    }

    /// Whether there is room for a packet, or none will ever be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.out.load(Ordering::Acquire) < self.limit || !self.open.load(Ordering::Acquire)
    }

    /// Whether no packet is queued or with the driver.
    pub(crate) fn is_empty(&self) -> bool {
        self.out.load(Ordering::Acquire) == 0
    }

    /// Takes packets as `fill` writes them into buffers of `capacity` bytes, until it gives `None` or
    /// there is no room; how many. It gives their length, and the payload of the segments that they are
    /// to be cut into, or 0.
    pub(crate) fn take(
        &self,
        machine: &Machine,
        capacity: usize,
        mut fill: impl FnMut(&mut [u8]) -> Option<(usize, usize)>,
    ) -> Result<usize, Refused> {
        let mut taken = VecDeque::new();
        // Packets that are to be made into lists.
        let mut loose = Vec::new();
        let refused = loop {
            if !self.open.load(Ordering::Acquire) {
                break Some(Refused::Paused);
            }
            if self.out.load(Ordering::Acquire) + taken.len() + loose.len() >= self.limit {
                break Some(Refused::Full);
            }
            let mut bytes = self.buffer(capacity);
            match fill(&mut bytes[GAP..GAP + capacity]) {
                Some((length, mss)) if self.scatter => {
                    loose.push((bytes[GAP..GAP + length.min(capacity)].to_vec(), mss));
                    lock(&self.spare).push(bytes);
                }
                Some((length, mss)) => {
                    let packet = TxPacket::whole(bytes, length.min(capacity), None);
                    taken.push_back(TxPacket { mss: mss as u32, ..packet });
                }
                None => {
                    lock(&self.spare).push(bytes);
                    break None;
                }
            }
        };
        taken.extend(lists(machine, loose));
        let count = taken.len();
        if count == 0 {
            return refused.map_or(Ok(0), Err);
        }
        self.out.fetch_add(count, Ordering::AcqRel);
        self.accepted.fetch_add(count as u64, Ordering::Relaxed);
        lock(&self.queue).append(&mut taken);
        Ok(count)
    }

    fn buffer(&self, capacity: usize) -> Box<[u8]> {
        let size = capacity + 2 * GAP;
        let spare = lock(&self.spare).pop().filter(|spare| spare.len() >= size);
        // Zeroes cost nothing until they are touched, which of 64 KiB most are not.
        let untouched = if self.scatter { POISON } else { 0 };
        spare.unwrap_or_else(|| vec![untouched; size].into_boxed_slice())
    }

    fn done(&self, machine: &Machine, packets: &mut Vec<TxPacket>, counter: &AtomicU64) {
        if packets.is_empty() {
            return;
        }
        counter.fetch_add(packets.len() as u64, Ordering::Relaxed);
        let count = packets.len();
        {
            let mut spare = lock(&self.spare);
            for packet in packets.drain(..) {
                if let Some(list) = &packet.list {
                    list.packet_is_back(machine);
                } else {
                    spare.push(packet.bytes);
                }
            }
        }
        self.out.fetch_sub(count, Ordering::AcqRel);
        machine.world().wake(Key::of(&self.out));
    }

    /// What to wait on for room, or for emptiness.
    pub(crate) fn key(&self) -> Key {
        Key::of(&self.out)
    }
}

/// Packets of tcpip, and what each is to be cut into, in lists of one to [`LIST_MAX`]; one that is to be cut is alone in its.
fn lists(machine: &Machine, mut loose: Vec<(Vec<u8>, usize)>) -> Vec<TxPacket> {
    let mut packets = Vec::with_capacity(loose.len());
    while let Some((_, mss)) = loose.first() {
        let mss = *mss as u32;
        let whole = loose.iter().take_while(|(_, mss)| *mss == 0).count();
        let most = if mss == 0 { LIST_MAX.min(whole) } else { 1 };
        let count = 1 + machine.world().random() as usize % most;
        let group: Vec<_> = loose
            .drain(..count)
            .map(|(bytes, _)| ListPacket { bytes, ..ListPacket::default() })
            .collect();
        // Without memory in tcpip the packets are lost before they are the driver's.
        if let Some(list) = Lent::scattered(machine, TAG, &group) {
            let list = Arc::new(SendList { list, left: AtomicUsize::new(count) });
            let of_list = |pieces: Vec<_>| TxPacket { mss, ..TxPacket::of_list(&list, &pieces) };
            packets.extend(list.list.packets().map(of_list));
        }
    }
    packets
}

/// What only the execution context touches.
struct Slots {
    chain: VecDeque<TxPacket>,
    in_ring: Vec<Option<TxPacket>>,
    finished: Vec<TxPacket>,
}

/// Moves packets between the outbox and one queue.
pub(crate) struct TxTranslator {
    queue: Arc<PacketQueue>,
    outbox: Arc<Outbox>,
    slots: Mutex<Option<Box<Slots>>>,
    max_fragment: usize,
    max_fragments: usize,
    stopping: Stopping,
}

impl TxTranslator {
    /// Makes the translator of `queue`.
    pub(crate) fn new(
        queue: Arc<PacketQueue>,
        outbox: Arc<Outbox>,
        max_fragment: usize,
        max_fragments: usize,
    ) -> Arc<Self> {
        let in_ring = (0..queue.packets.count()).map(|_| None).collect();
        let max_fragments = max_fragments.min(queue.fragments.count() as usize - 1);
        let slots = Slots { chain: VecDeque::new(), in_ring, finished: Vec::new() };
        let slots = Mutex::new(Some(Box::new(slots)));
        Arc::new(Self {
            queue,
            outbox,
            slots,
            max_fragment,
            max_fragments,
            stopping: Stopping::default(),
        })
    }

    /// Its queue.
    pub(crate) fn queue(&self) -> &Arc<PacketQueue> {
        &self.queue
    }

    /// How it stops.
    pub(crate) fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    fn translate(&self, slots: &mut Slots) -> usize {
        let queue = self.queue();
        let (packets, fragments) = (&queue.packets, &queue.fragments);
        if slots.chain.is_empty() {
            std::mem::swap(&mut slots.chain, &mut lock(&self.outbox.queue));
        }
        // The driver gives fragments back by moving BeginIndex; nothing else of them is kept.
        fragments.set_drained(fragments.begin());
        let mut produced = 0;
        while let Some(next) = slots.chain.front() {
            if packets.free() == 0 {
                break;
            }
            let unfit = next.length == 0 || next.length > self.max_fragment;
            let pieces = if unfit { 0 } else { next.count };
            if pieces > self.max_fragments {
                self.bounce(slots);
                continue;
            }
            if pieces as u32 > fragments.free() {
                break;
            }
            let Some(packet) = slots.chain.pop_front() else { break };
            let at = packets.end();
            packets.set_packet(at, self.place(&packet, pieces));
            packets.write_extension(at, &GSO, packet.mss.into());
            packets.set_end(packets.increment(at));
            slots.in_ring[at as usize] = Some(packet);
            produced += 1;
        }
        produced
    }

    fn place(&self, packet: &TxPacket, pieces: usize) -> Packet {
        let fragments = &self.queue().fragments;
        let first = fragments.end();
        for (address, length) in &packet.pieces[..pieces] {
            let (at, length) = (fragments.end(), *length as u32);
            fragments.set_fragment(
                at,
                Fragment { valid_length: length, capacity: length, ..Fragment::default() },
            );
            fragments.write_extension(at, &VIRTUAL_ADDRESS, *address as u64);
            fragments.set_end(fragments.increment(at));
        }
        if pieces == 0 {
            return Packet { fragment_index: first, ignore: true, ..Packet::default() };
        }
        let head = packet.pieces().next().unwrap_or_default();
        Packet {
            fragment_index: first,
            fragment_count: pieces as u16,
            layout: packet_layout::parse(head),
            ..Packet::default()
        }
    }

    fn bounce(&self, slots: &mut Slots) {
        let Some(packet) = slots.chain.front_mut() else { return };
        let mut joined = vec![POISON; GAP];
        packet.pieces().for_each(|piece| joined.extend_from_slice(piece));
        joined.resize(joined.len() + GAP, POISON);
        let (bytes, list, mss) = (joined.into_boxed_slice(), packet.list.take(), packet.mss);
        *packet = TxPacket { mss, ..TxPacket::whole(bytes, packet.length, list) };
    }

    fn drain(&self, slots: &mut Slots) -> usize {
        let packets = &self.queue().packets;
        let mut completed = 0;
        while packets.drained() != packets.begin() && completed < COMPLETION_BATCH {
            let at = packets.drained();
            slots.finished.extend(slots.in_ring[at as usize].take());
            packets.clear(at);
            packets.set_drained(packets.increment(at));
            completed += 1;
        }
        completed as usize
    }

    fn normal_round(&self, machine: &Machine, level: Level, slots: &mut Slots) -> usize {
        let produced = self.translate(slots);
        if !self.queue().is_drained() {
            self.queue().advance(machine, level);
        }
        if machine.is_dead() {
            return 0;
        }
        produced + self.drain(slots)
    }

    fn stopping_round(&self, machine: &Machine, level: Level, slots: &mut Slots) -> usize {
        let queue = self.queue();
        if !queue.is_drained() {
            queue.advance(machine, level);
            if machine.is_dead() {
                return 0;
            }
        }
        let completed = self.drain(slots);
        if queue.is_drained() && queue.packets.drained() == queue.packets.begin() {
            let mut waiting: Vec<_> = slots.chain.drain(..).collect();
            waiting.extend(lock(&self.outbox.queue).drain(..));
            self.outbox.done(machine, &mut waiting, &self.outbox.paused);
            self.stopping.set_ready();
        }
        completed
    }
}

impl Poll for TxTranslator {
    fn round(&self, machine: &Machine, level: Level) -> usize {
        // Taken out, not borrowed: the driver runs inside.
        let Some(mut slots) = lock(&self.slots).take() else { return 0 };
        let work = if self.stopping.has_begun() {
            self.stopping_round(machine, level, &mut slots)
        } else {
            self.normal_round(machine, level, &mut slots)
        };
        self.outbox.done(machine, &mut slots.finished, &self.outbox.completed);
        *lock(&self.slots) = Some(slots);
        if self.stopping.is_ready() {
            self.stopping.wake(machine);
        }
        work
    }

    fn arm(&self, machine: &Machine, level: Level) {
        self.outbox.armed.store(true, Ordering::Release);
        self.queue().arm(machine, level);
    }

    fn disarm(&self) {
        self.outbox.armed.store(false, Ordering::Release);
    }
}
