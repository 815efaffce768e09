//! Packets of the host into the transmit ring, and back.
//!
//! [`Outbox`] is what lies between tcpip and the ring: a bounded queue with its gate, which lives as
//! long as the adapter. [`TxTranslator`] moves packets between it and one queue's rings, a round per
//! call, inside the queue's execution context.
//!
//! Under the verifier a packet is cut into pieces at random, each with poison around it, and
//! overwritten once the driver has returned it.
//!
//! Source: `facts/netcx-os.md` §5 (`translator/nxtxxlat.cpp`, read in Microsoft's source). Packets
//! stand for NBLs with one NET_BUFFER each; offloads and bounce for DMA do not occur.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::packet_layout;
use super::poll_thread::Poll;
use super::queue::PacketQueue;
use super::ring::{Fragment, Packet, VIRTUAL_ADDRESS};
use super::stopping::Stopping;
use crate::nt::machine::{Level, Machine};
use crate::verifier::schedule::{Key, lock};

/// Pieces of one packet at most.
pub const MAX_PIECES: usize = 4;
/// Completed packets of one round at most.
const COMPLETION_BATCH: u32 = 64;
/// Poison before, between and behind pieces, and over a packet that was returned.
const GAP: usize = 32;
const POISON: u8 = 0xA5;
const RETURNED: u8 = 0xDD;

/// A packet on its way to the driver. Its bytes do not move while it has a slot.
struct TxPacket {
    bytes: Box<[u8]>,
    pieces: [(u32, u32); MAX_PIECES],
    count: usize,
    length: usize,
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
    /// there is no room; how many.
    pub(crate) fn take(
        &self,
        machine: &Machine,
        capacity: usize,
        mut fill: impl FnMut(&mut [u8]) -> Option<usize>,
    ) -> Result<usize, Refused> {
        let mut taken = VecDeque::new();
        let refused = loop {
            if !self.open.load(Ordering::Acquire) {
                break Some(Refused::Paused);
            }
            if self.out.load(Ordering::Acquire) + taken.len() >= self.limit {
                break Some(Refused::Full);
            }
            let mut bytes = self.buffer(capacity);
            match fill(&mut bytes[GAP..GAP + capacity]) {
                Some(length) => taken.push_back(self.packet(machine, bytes, length.min(capacity))),
                None => {
                    lock(&self.spare).push(bytes);
                    break None;
                }
            }
        };
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
        let gaps = if self.scatter { MAX_PIECES + 1 } else { 2 };
        let size = capacity + gaps * GAP;
        let spare = lock(&self.spare).pop().filter(|spare| spare.len() >= size);
        spare.unwrap_or_else(|| vec![POISON; size].into_boxed_slice())
    }

    fn packet(&self, machine: &Machine, mut bytes: Box<[u8]>, length: usize) -> TxPacket {
        let mut pieces = [(0, 0); MAX_PIECES];
        pieces[0] = (GAP as u32, length as u32);
        let mut count = 1;
        if self.scatter && length > 1 {
            // From the last piece to the first, so that each moves into room that is free already.
            let wanted = 1 + machine.world().random() as usize % MAX_PIECES.min(length);
            let mut cuts: Vec<usize> =
                (1..wanted).map(|_| 1 + machine.world().random() as usize % (length - 1)).collect();
            cuts.sort_unstable();
            cuts.dedup();
            count = cuts.len() + 1;
            let mut end = length;
            for index in (0..count).rev() {
                let start = if index == 0 { 0 } else { cuts[index - 1] };
                let to = GAP + start + index * GAP;
                bytes.copy_within(GAP + start..GAP + end, to);
                bytes[to + (end - start)..to + (end - start) + GAP].fill(POISON);
                pieces[index] = (to as u32, (end - start) as u32);
                end = start;
            }
        }
        TxPacket { bytes, pieces, count, length }
    }

    fn done(&self, machine: &Machine, packets: &mut Vec<TxPacket>, counter: &AtomicU64) {
        if packets.is_empty() {
            return;
        }
        counter.fetch_add(packets.len() as u64, Ordering::Relaxed);
        let count = packets.len();
        {
            let mut spare = lock(&self.spare);
            for mut packet in packets.drain(..) {
                if self.scatter {
                    packet.bytes.fill(RETURNED);
                }
                spare.push(packet.bytes);
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
                // Windows bounces into one buffer; here packets have at most four pieces.
                self.bounce(slots);
                continue;
            }
            if pieces as u32 > fragments.free() {
                break;
            }
            let Some(packet) = slots.chain.pop_front() else { break };
            let at = packets.end();
            packets.set_packet(at, self.place(&packet, pieces));
            packets.set_end(packets.increment(at));
            slots.in_ring[at as usize] = Some(packet);
            produced += 1;
        }
        produced
    }

    fn place(&self, packet: &TxPacket, pieces: usize) -> Packet {
        let fragments = &self.queue().fragments;
        let first = fragments.end();
        let base = packet.bytes.as_ptr().expose_provenance() as u64;
        for (start, length) in &packet.pieces[..pieces] {
            let at = fragments.end();
            fragments.set_fragment(
                at,
                Fragment { valid_length: *length, capacity: *length, ..Fragment::default() },
            );
            fragments.write_extension(at, &VIRTUAL_ADDRESS, base + u64::from(*start));
            fragments.set_end(fragments.increment(at));
        }
        if pieces == 0 {
            return Packet { fragment_index: first, ignore: true, ..Packet::default() };
        }
        let (start, length) = packet.pieces[0];
        let head = packet.bytes.get(start as usize..(start + length) as usize).unwrap_or_default();
        Packet {
            fragment_index: first,
            fragment_count: pieces as u16,
            layout: packet_layout::parse(head),
            ..Packet::default()
        }
    }

    fn bounce(&self, slots: &mut Slots) {
        let Some(packet) = slots.chain.front_mut() else { return };
        let mut whole = Vec::with_capacity(packet.length);
        for (start, length) in &packet.pieces[..packet.count] {
            whole.extend_from_slice(&packet.bytes[*start as usize..(*start + *length) as usize]);
        }
        packet.bytes[GAP..GAP + whole.len()].copy_from_slice(&whole);
        (packet.pieces[0], packet.count) = ((GAP as u32, whole.len() as u32), 1);
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
