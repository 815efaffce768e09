//! Packets of the driver out of the receive ring, and its buffers back.
//!
//! The driver manages the buffers: it links one into each fragment, with a handle by which it wants
//! it back. A host sees an [`RxPacket`] inside its callback and may keep it ([`HeldPacket`]) for as
//! long as it likes; the handle goes back through `EvtAdapterReturnRxBuffer` in a later poll of the
//! same queue, never inside the host's return.
//!
//! Source: `facts/netcx-os.md` §6 (`translator/nxrxxlat.cpp`, read in Microsoft's source). System
//! managed buffers are not modelled. A buffer lost in an ignored packet or a skipped fragment, and a
//! handle that is linked twice, and a buffer that is written while the host has it, stop here under the
//! verifier; Windows loses or corrupts silently.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rustc_hash::FxHashMap;

use super::poll_thread::{ExecutionContext, Poll};
use super::queue::PacketQueue;
use super::ring::{CHECKSUM, Fragment, Layout, Packet, RETURN_CONTEXT, VIRTUAL_ADDRESS};
use super::stopping::Stopping;
use super::{packet_layout, rx_checksum};
use crate::loader::probe;
use crate::nt::machine::{Call, Level, Machine};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// Fragments of one packet at most.
pub const MAX_FRAGMENTS: usize = 4;
/// Indicated packets of one round at most.
const INDICATION_BATCH: usize = 32;

/// What the host does with packets.
pub(crate) type Receiver = dyn Fn(&mut [RxPacket]) + Send + Sync;

#[derive(Clone, Copy, Default)]
struct Piece {
    address: u64,
    length: u32,
    handle: u64,
}

/// Buffers on their way back to the driver.
pub(crate) struct Returns {
    waiting: Mutex<Vec<Piece>>,
    packets: AtomicU64,
    outside: AtomicU64,
    context: Arc<ExecutionContext>,
    machine: std::sync::Weak<Machine>,
}

impl Returns {
    fn give_back(&self, pieces: &[Piece], packets: u64) {
        lock(&self.waiting).extend_from_slice(pieces);
        self.packets.fetch_add(packets, Ordering::AcqRel);
        let Some(machine) = self.machine.upgrade() else { return };
        self.context.notify(&machine);
    }

    /// What to wait on for the last packet outside.
    pub(crate) fn key(&self) -> Key {
        Key::of(&self.outside)
    }

    /// Whether the host has returned every packet, and the poll has seen it.
    pub(crate) fn all_back(&self) -> bool {
        self.outside.load(Ordering::Acquire) == 0
    }
}

/// A received packet, valid inside the host's callback.
pub struct RxPacket {
    pieces: [Piece; MAX_FRAGMENTS],
    count: usize,
    layout: Layout,
    checksum: u8,
    number: usize,
    held: bool,
    returns: Arc<Returns>,
}

impl RxPacket {
    /// The bytes of the packet, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces[..self.count].iter().map(|piece| {
            // SAFETY: both ends of the driver's buffer were read when the packet was taken from the
            // ring, and until the handle is returned the driver may neither write nor free it.
            unsafe { std::slice::from_raw_parts(piece.address as *const u8, piece.length as usize) }
        })
    }

    /// The packet as one slice, if it has one piece.
    #[must_use]
    pub fn contiguous(&self) -> Option<&[u8]> {
        self.pieces().next().filter(|_| self.count == 1)
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces[..self.count].iter().map(|piece| piece.length as usize).sum()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What NetAdapterCx found in its headers.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// `NET_PACKET_CHECKSUM`: two bits each for layers 2, 3, 4; 1 is valid.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.checksum
    }

    /// The number of the receive queue it came by.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.number
    }

    /// Keeps the packet beyond the callback: its buffer goes back when the result is dropped.
    pub fn hold(&mut self) -> HeldPacket {
        self.held = true;
        let inner = Self { returns: self.returns.clone(), ..*self };
        HeldPacket(inner)
    }
}

/// A received packet that the host keeps.
pub struct HeldPacket(RxPacket);

impl std::ops::Deref for HeldPacket {
    type Target = RxPacket;

    fn deref(&self) -> &RxPacket {
        &self.0
    }
}

impl Drop for HeldPacket {
    fn drop(&mut self) {
        self.0.returns.give_back(&self.0.pieces[..self.0.count], 1);
    }
}

/// Counts of an adapter's receive side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets given to the host.
    pub indicated: u64,
    /// Packets dropped by NetAdapterCx's own rules.
    pub dropped: u64,
    /// Packets discarded because the adapter was pausing.
    pub discarded: u64,
}

/// The host's side of the receive direction; lives as long as the adapter.
#[derive(Default)]
pub(crate) struct Inbox {
    receiver: RwLock<Option<Arc<Receiver>>>,
    open: AtomicBool,
    indicated: AtomicU64,
    dropped: AtomicU64,
    discarded: AtomicU64,
}

impl Inbox {
    /// Sets what is done with packets.
    pub(crate) fn set_receiver(&self, receiver: Arc<Receiver>) {
        *self.receiver.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(receiver);
    }

    /// Opens or closes the gate.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// What went through.
    pub(crate) fn received(&self) -> Received {
        Received {
            indicated: self.indicated.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            discarded: self.discarded.load(Ordering::Relaxed),
        }
    }

    fn indicate(&self, packets: &mut [RxPacket]) {
        let receiver =
            self.receiver.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match receiver.filter(|_| self.open.load(Ordering::Acquire)) {
            Some(receiver) => {
                self.indicated.fetch_add(packets.len() as u64, Ordering::Relaxed);
                receiver(packets);
            }
            None => {
                self.discarded.fetch_add(packets.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

/// What only the execution context touches.
struct Slots {
    free_packets: u32,
    free_fragments: u32,
    batch: Vec<RxPacket>,
    returning: Vec<Piece>,
    dropping: Vec<Piece>,
    /// Buffers that are outside, by handle: what the host was shown of them, and where.
    known: FxHashMap<u64, (u64, Vec<u8>)>,
}

/// Moves packets between one queue and the host.
pub(crate) struct RxTranslator {
    queue: Arc<PacketQueue>,
    number: usize,
    inbox: Arc<Inbox>,
    adapter: u64,
    return_buffer: u64,
    max_frame: u32,
    pool: u32,
    verified: bool,
    slots: Mutex<Option<Box<Slots>>>,
    returns: Arc<Returns>,
    stopping: Stopping,
}

/// What an [`RxTranslator`] is made of.
pub(crate) struct Parts {
    pub(crate) queue: Arc<PacketQueue>,
    /// Among the adapter's receive queues.
    pub(crate) number: usize,
    pub(crate) inbox: Arc<Inbox>,
    /// The adapter's handle.
    pub(crate) adapter: u64,
    /// `EvtAdapterReturnRxBuffer`.
    pub(crate) return_buffer: u64,
    pub(crate) max_frame: u32,
    /// NBLs and MDLs.
    pub(crate) pool: u32,
}

impl RxTranslator {
    /// Makes the translator of a queue.
    pub(crate) fn new(machine: &Machine, parts: Parts) -> Arc<Self> {
        let Parts { queue, number, inbox, adapter, return_buffer, max_frame, pool } = parts;
        let returns = Arc::new(Returns {
            waiting: Mutex::default(),
            packets: AtomicU64::new(0),
            outside: AtomicU64::new(0),
            context: queue.context.clone(),
            machine: machine.weak(),
        });
        let slots = Slots {
            free_packets: pool,
            free_fragments: pool,
            batch: Vec::new(),
            returning: Vec::new(),
            dropping: Vec::new(),
            known: FxHashMap::default(),
        };
        Arc::new(Self {
            queue,
            number,
            inbox,
            adapter,
            return_buffer,
            max_frame,
            pool,
            verified: machine.options().verified,
            slots: Mutex::new(Some(Box::new(slots))),
            returns,
            stopping: Stopping::default(),
        })
    }

    /// Its queue.
    pub(crate) fn queue(&self) -> &Arc<PacketQueue> {
        &self.queue
    }

    /// The way back for what is outside.
    pub(crate) fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// How it stops.
    pub(crate) fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    fn return_buffers(&self, machine: &Machine, level: Level, slots: &mut Slots) -> usize {
        std::mem::swap(&mut slots.returning, &mut lock(&self.returns.waiting));
        let packets = self.returns.packets.swap(0, Ordering::AcqRel);
        slots.returning.append(&mut slots.dropping);
        let count = slots.returning.len();
        for piece in &slots.returning {
            let known = slots.known.remove(&piece.handle);
            let written = |(at, bytes): &(u64, Vec<u8>)| {
                probe::bytes(*at as usize, bytes.len()).as_ref() != Ok(bytes)
            };
            if known.as_ref().is_some_and(written) {
                let detail =
                    format!("the buffer of return context {:#x} changed outside", piece.handle);
                machine.die(&rules::RX_BUFFER_WRITTEN, detail);
                return 0;
            }
            let call = Call::new("EvtAdapterReturnRxBuffer", self.return_buffer as usize, level);
            if machine.call(call, &[self.adapter, piece.handle]).is_err() {
                return 0;
            }
        }
        slots.returning.clear();
        slots.free_fragments += count as u32;
        slots.free_packets += packets as u32;
        if packets > 0 && self.returns.outside.fetch_sub(packets, Ordering::AcqRel) == packets {
            machine.world().wake(self.returns.key());
        }
        count
    }

    fn prepare(&self, slots: &mut Slots) {
        for (ring, free) in [
            (&self.queue.packets, &mut slots.free_packets),
            (&self.queue.fragments, &mut slots.free_fragments),
        ] {
            let count = ring.free().min(*free);
            for _ in 0..count {
                let at = ring.end();
                ring.clear(at);
                ring.set_end(ring.increment(at));
            }
            *free -= count;
        }
    }

    /// Takes returned packets out of the ring into the batch; how many were looked at.
    fn collect(&self, machine: &Machine, slots: &mut Slots) -> usize {
        let packets = &self.queue.packets;
        let mut looked_at = 0;
        while packets.drained() != packets.begin() && slots.batch.len() < INDICATION_BATCH {
            let at = packets.drained();
            let packet = packets.packet(at);
            packets.set_drained(packets.increment(at));
            looked_at += 1;
            if packet.ignore {
                slots.free_packets += 1;
                continue;
            }
            let checksum = packets.read_extension(at, &CHECKSUM).unwrap_or(0) as u8;
            if !self.take_packet(machine, slots, packet, checksum) {
                return looked_at;
            }
        }
        looked_at
    }

    /// Takes one packet and its fragments; `false` if the machine stopped.
    fn take_packet(
        &self,
        machine: &Machine,
        slots: &mut Slots,
        packet: Packet,
        checksum: u8,
    ) -> bool {
        if !self.skip_fragments(machine, slots, packet.fragment_index) {
            return false;
        }
        if usize::from(packet.fragment_count) > MAX_FRAGMENTS {
            machine.die(
                &rules::NOT_PROVIDED,
                format!("a received packet of {} fragments", packet.fragment_count),
            );
            return false;
        }
        let fragments = &self.queue.fragments;
        let mut pieces = [Piece::default(); MAX_FRAGMENTS];
        let mut fits = true;
        for (number, piece) in pieces.iter_mut().enumerate().take(packet.fragment_count.into()) {
            let at = fragments.drained();
            let fragment = fragments.fragment(at);
            let base = fragments.read_extension(at, &VIRTUAL_ADDRESS).unwrap_or(0);
            piece.handle = fragments.read_extension(at, &RETURN_CONTEXT).unwrap_or(0);
            piece.address = base + u64::from(fragment.offset);
            piece.length = fragment.valid_length;
            fits &= self.fits(fragment, number == 0);
            fragments.set_drained(fragments.increment(at));
            if !self.buffer_is_good(machine, slots, base, fragment, piece.handle) {
                return false;
            }
        }
        let count = usize::from(packet.fragment_count);
        if self.verified {
            for piece in &pieces[..count] {
                let bytes = probe::bytes(piece.address as usize, piece.length as usize);
                slots.known.insert(piece.handle, (piece.address, bytes.unwrap_or_default()));
            }
        }
        if !fits {
            self.inbox.dropped.fetch_add(1, Ordering::Relaxed);
            slots.dropping.extend_from_slice(&pieces[..count]);
            slots.free_packets += 1;
            return true;
        }
        let mut received = RxPacket {
            pieces,
            count,
            layout: packet.layout,
            checksum,
            number: self.number,
            held: false,
            returns: self.returns.clone(),
        };
        if packet.layout.layer2_type <= 1 && packet.layout.layer2_length == 0 {
            let layout = packet_layout::parse(received.pieces().next().unwrap_or_default());
            received.layout = layout;
        }
        if self.verified && !rx_checksum::is_true(&received) {
            let detail = format!("{checksum:#04x} of {:02x?}", received.contiguous());
            machine.die(&rules::RX_CHECKSUM_NOT_TRUE, detail);
            return false;
        }
        slots.batch.push(received);
        true
    }

    /// NetAdapterCx's rules for a buffer; a packet that breaks one is dropped, its buffers go back.
    fn fits(&self, fragment: Fragment, first: bool) -> bool {
        fragment.capacity <= self.max_frame
            && u32::from(fragment.offset) + fragment.valid_length <= fragment.capacity
            && (first || fragment.offset == 0)
    }

    fn buffer_is_good(
        &self,
        machine: &Machine,
        slots: &mut Slots,
        base: u64,
        fragment: Fragment,
        handle: u64,
    ) -> bool {
        let last = base + u64::from(fragment.capacity.max(1)) - 1;
        // The MDL is built over the whole capacity, so all of it must be memory.
        if probe::read::<u8>(base as usize).is_err() || probe::read::<u8>(last as usize).is_err() {
            let detail = format!("{base:#x} with capacity {} is not all memory", fragment.capacity);
            machine.die(&rules::RX_BUFFER_INVALID, detail);
            return false;
        }
        // MmBuildMdlForNonPagedPool is what NetAdapterCx does with it.
        let paged = self.verified
            && machine.pool().nonpaged(base as usize, fragment.capacity as usize) == Some(false);
        if paged {
            machine.die(&rules::RX_BUFFER_INVALID, format!("{base:#x} is paged pool"));
            return false;
        }
        let known = self.verified && slots.known.insert(handle, (0, Vec::new())).is_some();
        if self.verified && (handle == 0 || known) {
            machine.die(
                &rules::RX_BUFFER_LINKED_TWICE,
                format!("return context {handle:#x} is 0 or still outside"),
            );
            return false;
        }
        true
    }

    /// Takes back the fragments before `to`, which no packet refers to.
    fn skip_fragments(&self, machine: &Machine, slots: &mut Slots, to: u32) -> bool {
        let fragments = &self.queue.fragments;
        while fragments.drained() != (to & (fragments.count() - 1)) {
            let at = fragments.drained();
            let handle = fragments.read_extension(at, &RETURN_CONTEXT).unwrap_or(0);
            if self.verified && handle != 0 {
                machine.die(
                    &rules::RX_BUFFER_LOST,
                    format!("fragment {at} holds {handle:#x}, and no packet refers to it"),
                );
                return false;
            }
            fragments.set_drained(fragments.increment(at));
            slots.free_fragments += 1;
        }
        true
    }

    fn indicate(&self, slots: &mut Slots) {
        if slots.batch.is_empty() {
            return;
        }
        self.returns.outside.fetch_add(slots.batch.len() as u64, Ordering::AcqRel);
        self.inbox.indicate(&mut slots.batch);
        let back = slots.batch.iter().filter(|packet| !packet.held);
        let mut packets = 0;
        for packet in back {
            slots.returning.extend_from_slice(&packet.pieces[..packet.count]);
            packets += 1;
        }
        slots.batch.clear();
        if packets > 0 {
            lock(&self.returns.waiting).append(&mut slots.returning);
            self.returns.packets.fetch_add(packets, Ordering::AcqRel);
        }
    }

    fn normal_round(&self, machine: &Machine, level: Level, slots: &mut Slots) -> usize {
        let returned = self.return_buffers(machine, level, slots);
        self.prepare(slots);
        self.queue.advance(machine, level);
        if machine.is_dead() {
            return 0;
        }
        let taken = self.collect(machine, slots);
        self.indicate(slots);
        returned + taken
    }

    fn stopping_round(&self, machine: &Machine, level: Level, slots: &mut Slots) -> usize {
        let (packets, fragments) = (&self.queue.packets, &self.queue.fragments);
        let driver_done = packets.begin() == packets.end() && fragments.begin() == fragments.end();
        if driver_done && packets.drained() == packets.begin() && self.returns.all_back() {
            self.recover(machine, level, slots);
            return 0;
        }
        let returned = self.return_buffers(machine, level, slots);
        self.queue.advance(machine, level);
        if machine.is_dead() {
            return 0;
        }
        let taken = self.collect(machine, slots);
        self.indicate(slots);
        returned + taken
    }

    fn recover(&self, machine: &Machine, level: Level, slots: &mut Slots) {
        let end = self.queue.fragments.begin();
        if !self.skip_fragments(machine, slots, end) {
            return;
        }
        self.return_buffers(machine, level, slots);
        if machine.is_dead() {
            return;
        }
        if (slots.free_packets, slots.free_fragments) != (self.pool, self.pool) {
            let detail = format!(
                "a receive queue stops with {} of {} NBLs and {} of {} MDLs back",
                slots.free_packets, self.pool, slots.free_fragments, self.pool
            );
            machine.die(&rules::SIMULATOR, detail);
            return;
        }
        self.stopping.set_ready();
        self.stopping.wake(machine);
    }
}

impl Poll for RxTranslator {
    fn round(&self, machine: &Machine, level: Level) -> usize {
        // Taken out, not borrowed: the driver and the host run inside.
        let Some(mut slots) = lock(&self.slots).take() else { return 0 };
        let work = if self.stopping.is_ready() {
            0
        } else if self.stopping.has_begun() {
            self.stopping_round(machine, level, &mut slots)
        } else {
            self.normal_round(machine, level, &mut slots)
        };
        *lock(&self.slots) = Some(slots);
        work
    }

    fn arm(&self, machine: &Machine, level: Level) {
        if !self.stopping.has_begun() {
            self.queue.arm(machine, level);
        }
    }

    fn disarm(&self) {}
}
