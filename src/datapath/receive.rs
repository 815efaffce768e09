//! Inbound: datagrams become inner packets.
//!
//! A chunk is transport data of one session, with its datagrams. It is opened straight into buffers that
//! the adapter will indicate, and delivered in the order it came by whoever owns the peer's lane: only then
//! is the receive window looked at, and only by that owner, so it needs no lock. Whatever goes no further
//! is counted, once.

use alloc::boxed::Box;
use core::net::IpAddr;

use abi::{descriptor::Places, discard::Discard, places, policy::Policy, statistics::Counter};
use callout::{Datagram, Datagrams};
use crypto::{
    aead::{self, ExtendedState, Job, Piece, Source, TAG_LEN, Verdict},
    pipeline::{Baton, CHUNK_PACKETS, Chunk, Claim, Owner, Refused},
    protocol::{
        Endpoint, Local, Now, Received, Wants,
        messages::TRANSPORT_HEADER_LEN,
        receive::{InnerPacket, decapsulate_ecn},
        verify::{Checksums, Finding, Worth},
    },
    sync::Shared,
};
use heapless::Vec as Batch;
use netadapter::{Indication, LastFlow, MOST_RX_QUEUES, RxBuffer, RxChecksums};
use nt::{irql::AtMostDispatch, pool::try_box};

use super::{
    MOST_CHUNKS, WORTH_DEALING_BYTES,
    turn::{Stage, Turn},
};
use crate::{
    device::Device,
    ground::At,
    peer::{Keypair, Peer},
    processors::Task,
};

/// Packets opened in one call: their jobs and pieces lie on the stack.
const OPEN_PACKETS: usize = 16;
/// Senders of one chunk. Strangers who have seen the session's index must not make many small chunks of
/// it: each costs more than the packets that it holds.
const SENDERS: usize = 8;
/// Pieces of one datagram. One in more is put together in its buffer first.
const DATAGRAM_PIECES: usize = 6;

/// A packet being opened.
pub(super) struct Opening {
    /// Where to; `None` if there was no buffer, which was counted.
    pub(super) buffer: Option<RxBuffer>,
    pub(super) counter: u64,
    /// Payload bytes of the datagram.
    pub(super) datagram_len: usize,
    /// Who sent it, of the chunk's senders.
    pub(super) sender: u8,
    pub(super) ecn: u8,
    pub(super) verdict: Verdict,
}

/// A chunk to be opened and delivered.
///
/// Lives in the pool from its first packet on: kernel stacks have no room for 32 of them.
#[derive(Default)]
pub(crate) struct ReceiveWork {
    pub(super) packets: Batch<Opening, CHUNK_PACKETS>,
    /// What they are opened from, in the same order; given back when they are.
    pub(super) datagrams: Option<Datagrams>,
    pub(super) receiver: u32,
    keypair: Option<Shared<Keypair>>,
    /// Where its packets came from: the peer, and whoever says he is.
    senders: Batch<Endpoint, SENDERS>,
}

impl ReceiveWork {
    /// For a debugger.
    pub(crate) const PLACES: Places = {
        // A pointer, or null.
        assert!(size_of::<Option<Box<Self>>>() == size_of::<usize>());
        places!("ReceiveWork", keypair, receiver)
    };

    /// An empty chunk, in the pool.
    #[inline(never)] // The value is on the stack for as long as it takes to move it.
    pub(super) fn boxed(
        datagrams: Datagrams,
        receiver: u32,
        keypair: Shared<Keypair>,
        from: Endpoint,
    ) -> Result<Box<Self>, Discard> {
        let (datagrams, keypair) = (Some(datagrams), Some(keypair));
        let mut work = Self { datagrams, receiver, keypair, ..Self::default() };
        // There is room for several.
        let _ = work.senders.push(from);
        try_box(work).map_err(|_| Discard::OutOfMemory)
    }

    /// The number of a sender, if there is room for him and for a packet of his.
    pub(super) fn sender(&mut self, from: &Endpoint) -> Option<u8> {
        if self.packets.is_full() {
            return None;
        }
        let known = self.senders.iter().position(|sender| sender == from);
        let number = known.or_else(|| {
            self.senders.push(*from).ok().map(|()| self.senders.len().saturating_sub(1))
        });
        number.map(|number| number as u8)
    }

    /// Bytes of its datagrams.
    fn bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.datagram_len).fold(0, usize::saturating_add)
    }

    /// Packets that were not counted as discarded yet.
    fn packets_left(&self) -> usize {
        self.packets.iter().filter(|packet| packet.buffer.is_some()).count()
    }
}

/// What travels through the lane of the way in.
pub(crate) type Receiving = Option<Box<ReceiveWork>>;

impl Device {
    /// Orders, opens and delivers a chunk.
    ///
    /// With `dealt`, the number of chunks of this batch that were, another CPU may open it.
    pub(super) fn receive_chunk(
        this: &Shared<Self>,
        work: Box<ReceiveWork>,
        dealt: Option<&mut usize>,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let Some(peer) = work.keypair.as_ref().map(|keypair| keypair.peer().clone()) else {
            return;
        };
        let (count, bytes) = (work.packets_left(), work.bytes());
        let ground = At(level);
        match peer.attached().open.reserve(&ground, Some(work), MOST_CHUNKS, |_| Ok::<(), ()>(())) {
            Ok(claim) => {
                let dealt = dealt.filter(|_| bytes >= WORTH_DEALING_BYTES);
                Self::deal_or_do(this, &peer, Task::Open(claim), dealt, now, level);
            }
            Err(Refused::Full | Refused::Unnumbered(())) => {
                this.counters.discard(Discard::HeldFull, count);
            }
            Err(Refused::OutOfMemory) => this.counters.discard(Discard::OutOfMemory, count),
        }
    }

    /// Opens a chunk unless somebody has, and delivers what has its turn; returns how many packets.
    pub(crate) fn open_chunk(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        claim: &Claim<Receiving>,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let ground = At(level);
        if !claim.run(&ground, |work| this.open_packets(work, level)) {
            return 0;
        }
        let mut opener = Opener(Turn::begin(Stage::Open, this, peer, now, level));
        peer.attached().open.drain(&ground, &mut opener);
        opener.0.packets()
    }

    /// Goes on as the owner of the peer's lane; returns for how many packets.
    pub(crate) fn go_on_opening(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        baton: Baton,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let mut opener = Opener(Turn::begin(Stage::Open, this, peer, now, level));
        peer.attached().open.resume(&At(level), baton, &mut opener);
        opener.0.packets()
    }

    /// Opens each packet of a chunk into its buffer, and gives its datagrams back: WSK has its memory before the chunk's
    /// turn comes.
    fn open_packets(&self, work: &mut Receiving, level: &AtMostDispatch) {
        let Some(work) = work else { return };
        let (bytes, opened) = (work.bytes(), work.packets_left());
        let (Some(keypair), Some(datagrams)) = (&work.keypair, work.datagrams.take()) else {
            return;
        };
        let packets = &mut work.packets;
        let mut sources = datagrams.iter();
        let worth = self.checksums_worth();
        let mut written = 0_usize;
        self.core.with_extended_state(bytes, |state| {
            for packets in packets.chunks_mut(OPEN_PACKETS) {
                let opened = open_some(state, keypair, packets, &mut sources);
                written = written.saturating_add(opened);
                // Their bytes are in this CPU's cache.
                verify(packets, worth);
            }
        });
        let counts = [(Counter::PayloadWrittenIn, written), (Counter::PacketsOpened, opened)];
        self.counters.add_here(&counts, level);
    }

    /// Which checksums of received packets are verified.
    fn checksums_worth(&self) -> Worth {
        if self.core.policies.get(Policy::ReceiveChecksum) == 0 {
            return Worth::NOTHING;
        }
        let RxChecksums { ipv4, tcp, udp } = self.adapter.rx().checksums();
        Worth { ipv4, tcp, udp }
    }

    /// Hands a chunk's packets to the adapter, in the order they came.
    fn deliver_opened(
        this: &Shared<Self>,
        work: &mut ReceiveWork,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let Some(keypair) = work.keypair.take() else { return };
        let peer = keypair.peer();
        if !peer.is_enabled() {
            let reason = if this.tunnel.is_up() { Discard::PeerGone } else { Discard::NotUp };
            return this.counters.discard(reason, work.packets_left());
        }
        let mut received = Received::default();
        let mut last_sender = None;
        let mut last_source = None;
        for packet in &mut work.packets {
            let Some(buffer) = packet.buffer.take() else { continue };
            let bytes = packet.datagram_len as u64;
            match this.judge(packet, buffer, &keypair, &mut last_source, &mut last_sender, level) {
                Ok(Some(mut deliverable)) => {
                    let inner = deliverable.as_mut_slice();
                    decapsulate_ecn(inner, packet.ecn);
                    this.lower_mss(peer, inner);
                    packet.buffer = Some(deliverable);
                    received.data_packets = received.data_packets.saturating_add(1);
                    received.bytes = received.bytes.saturating_add(bytes);
                }
                Ok(None) => {
                    this.counters.add(Counter::KeepalivesIn, 1);
                    received.bytes = received.bytes.saturating_add(bytes);
                }
                Err((reason, is_data)) => {
                    received.data_packets = received.data_packets.saturating_add(is_data.into());
                    this.counters.discard(reason, 1);
                }
            }
        }
        let from = last_sender.and_then(|number: u8| work.senders.get(usize::from(number)));
        let wants = from
            .map_or(Wants::NONE, |from| peer.received(&At(level), &keypair, from, now, received));
        if this.is_tapped_inside() {
            this.tap_opened(work, level);
        }
        this.indicate(work, level);
        this.attend(peer, wants, level);
    }

    /// Decides what becomes of an opened packet: delivered, a keepalive, or discarded, authentic data or not.
    // spec: WG 5.4.6-d, WG 5.4.6-e, WG 2-b, WG 2-c
    fn judge(
        &self,
        packet: &Opening,
        mut buffer: RxBuffer,
        keypair: &Keypair,
        last_source: &mut Option<IpAddr>,
        last_sender: &mut Option<u8>,
        level: &AtMostDispatch,
    ) -> Result<Option<RxBuffer>, (Discard, bool)> {
        if packet.verdict != Verdict::Done {
            return Err((Discard::BadTag, false));
        }
        keypair.accept(packet.counter).map_err(|reason| (reason, false))?;
        // spec: WG 2.1-b — of several that are authentic the last one counts.
        *last_sender = Some(packet.sender);
        let available = buffer.as_slice().len();
        if available == 0 {
            return Ok(None);
        }
        let inner = InnerPacket::parse(buffer.as_slice(), available).map_err(|e| (e, true))?;
        if *last_source != Some(inner.source) {
            if !self.tunnel.owns(&At(level), inner.source, keypair.peer()) {
                return Err((Discard::WrongSource, true));
            }
            *last_source = Some(inner.source);
        }
        buffer.set_len(inner.len);
        Ok(Some(buffer))
    }

    /// Gives packets to the adapter's queues, each of which is woken once for all of its own. Those of a
    /// flow stay in order: they are of one queue.
    fn indicate(&self, work: &mut ReceiveWork, level: &AtMostDispatch) {
        let rx = self.adapter.rx();
        let mut last = LastFlow::default();
        let mut numbers: Batch<u8, CHUNK_PACKETS> = Batch::new();
        let mut sizes = [0_usize; MOST_RX_QUEUES];
        for packet in &work.packets {
            let buffer = packet.buffer.as_ref();
            let number = buffer.map_or(0, |buffer| rx.queue_of(buffer.as_slice(), &mut last));
            // There are as many places as packets.
            let _ = numbers.push(number);
            if let Some(size) = sizes.get_mut(usize::from(number)).filter(|_| buffer.is_some()) {
                *size = size.saturating_add(1);
            }
        }
        let (mut packets, mut bytes) = (0_usize, 0_usize);
        for (number, size) in sizes.iter().enumerate().filter(|(_, size)| **size != 0) {
            let mut queue = rx.open(number, *size);
            let of_queue = work.packets.iter_mut().zip(&numbers);
            let of_queue = of_queue.filter(|(_, of)| usize::from(**of) == number);
            for buffer in of_queue.filter_map(|(packet, _)| packet.buffer.take()) {
                let len = buffer.as_slice().len();
                match queue.as_mut().map(|queue: &mut Indication<'_>| queue.push(buffer)) {
                    Some(Ok(())) => {
                        packets = packets.saturating_add(1);
                        bytes = bytes.saturating_add(len);
                    }
                    Some(Err(_buffer)) => self.counters.discard(Discard::RingFull, 1),
                    None => self.counters.discard(Discard::NotUp, 1),
                }
            }
        }
        let counts =
            [(Counter::Chunks, 1), (Counter::PacketsIn, packets), (Counter::BytesIn, bytes)];
        self.counters.add_here(&counts, level);
    }

    /// Has a worker do what the protocol wants for a peer. What waited is sent there, too: here it would be sealed on top of the
    /// stack of whoever delivers.
    pub(crate) fn attend(&self, peer: &Shared<Peer>, wants: Wants, level: &AtMostDispatch) {
        if wants.contains(Wants::FLUSH) || wants.contains(Wants::SERVICE) {
            self.ask_for_service(peer, level);
        }
    }
}

/// The owner of a peer's lane: what is opened goes to the adapter.
struct Opener<'d>(Turn<'d>);

impl Owner<Receiving> for Opener<'_> {
    fn run(&mut self, work: &mut Receiving) {
        self.0.device.open_packets(work, self.0.level);
    }

    fn deliver(&mut self, mut chunk: Chunk<Receiving>) {
        let Turn { device, now, level, .. } = self.0;
        let Some(mut work) = chunk.work_mut().and_then(Option::take) else { return };
        self.0.count(work.packets.len());
        Device::deliver_opened(device, &mut work, now, level);
    }

    fn has_enough(&mut self) -> bool {
        self.0.is_over()
    }

    fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
        self.0.hand_over(baton)
    }
}

/// Where a datagram came from, and which of our addresses it came to.
pub(crate) fn endpoint(datagram: &Datagram<'_>) -> Endpoint {
    let local =
        datagram.local.map(|local| Local { address: local.address, interface: local.interface });
    Endpoint { remote: datagram.remote, local }
}

/// Opens up to [`OPEN_PACKETS`] packets, whose datagrams are the next of `sources`; kept apart so
/// that its jobs leave the stack when it returns.
///
/// Returns how many bytes it wrote.
#[inline(never)]
fn open_some<'d>(
    state: Option<&ExtendedState>,
    keypair: &Keypair,
    packets: &mut [Opening],
    sources: &mut impl Iterator<Item = Result<Datagram<'d>, Discard>>,
) -> usize {
    let mut pieces: Batch<_, OPEN_PACKETS> = Batch::new();
    for (packet, source) in packets.iter_mut().zip(sources) {
        let (Some(buffer), Ok(source)) = (&mut packet.buffer, source) else { continue };
        let sealed = packet.datagram_len.saturating_sub(TRANSPORT_HEADER_LEN);
        buffer.set_len(sealed.saturating_sub(TAG_LEN));
        // As many as there are packets, which are at most as many.
        let _ = pieces
            .push(sealed_pieces(&source).ok_or_else(|| gather(&source, buffer.as_mut_slice())));
    }
    let mut jobs: Batch<Job<'_>, OPEN_PACKETS> = Batch::new();
    let gathered = pieces.iter().filter_map(|piece| piece.as_ref().err());
    let gathered = gathered.fold(0_usize, |sum, len| sum.saturating_add(*len));
    let with_buffer = packets.iter_mut().filter_map(|packet| {
        packet.buffer.as_mut().map(|buffer| (packet.counter, buffer.as_mut_slice()))
    });
    for ((counter, destination), pieces) in with_buffer.zip(&pieces) {
        let source = match pieces {
            Ok(pieces) => Source::Pieces(pieces),
            Err(len) => Source::InPlace { len: *len },
        };
        let (key, verdict) = (keypair.receiving(), Verdict::Pending);
        let _ = jobs.push(Job { key, counter, source, destination, verdict });
    }
    let written = aead::open(state, &mut jobs);
    let mut verdicts: Batch<Verdict, OPEN_PACKETS> = Batch::new();
    // As many as there are jobs.
    for job in &jobs {
        let _ = verdicts.push(job.verdict);
    }
    drop(jobs);
    let opened = packets.iter_mut().filter(|packet| packet.buffer.is_some());
    for (packet, verdict) in opened.zip(&verdicts) {
        packet.verdict = *verdict;
    }
    gathered.saturating_add(written)
}

/// Notes what is found of the checksums of packets that were opened.
///
/// What becomes of a packet later spoils no finding: padding is no part of it, and a mark of ECN and a
/// lower segment size take their checksum along.
fn verify(packets: &mut [Opening], worth: Worth) {
    if worth == Worth::NOTHING {
        return;
    }
    for packet in packets.iter_mut().filter(|packet| packet.verdict == Verdict::Done) {
        let Some(buffer) = &mut packet.buffer else { continue };
        let bytes = buffer.as_slice();
        let Ok(inner) = InnerPacket::parse(bytes, bytes.len()) else { continue };
        let found = Checksums::of(bytes.get(..inner.len).unwrap_or_default(), worth);
        buffer.set_checksums(netadapter::Checksums {
            layer3: told(found.ip),
            layer4: told(found.transport),
        });
    }
}

/// A finding as the adapter tells it.
fn told(finding: Finding) -> netadapter::Finding {
    match finding {
        Finding::NotChecked => netadapter::Finding::NotChecked,
        Finding::Valid => netadapter::Finding::Valid,
        Finding::Invalid => netadapter::Finding::Invalid,
    }
}

/// The datagram's bytes after its header; `None` if they are in too many pieces.
fn sealed_pieces<'d>(datagram: &Datagram<'d>) -> Option<Batch<Piece<'d>, DATAGRAM_PIECES>> {
    let mut pieces = Batch::new();
    after_header(datagram).try_for_each(|piece| pieces.push(piece.into()).ok())?;
    Some(pieces)
}

/// Copies the datagram's bytes after its header to the front of `to`, and returns how many.
fn gather(datagram: &Datagram<'_>, to: &mut [u8]) -> usize {
    after_header(datagram).fold(0, |at: usize, piece| {
        let rest = to.get_mut(at..).unwrap_or_default();
        if let Some(place) = rest.get_mut(..piece.len()) {
            place.copy_from_slice(piece);
        }
        at.saturating_add(piece.len())
    })
}

/// The datagram's bytes after its header, in pieces of at least one byte.
fn after_header<'d>(datagram: &Datagram<'d>) -> impl Iterator<Item = &'d [u8]> + use<'d> {
    let mut skip = TRANSPORT_HEADER_LEN;
    datagram.payload.pieces().filter_map(move |piece| {
        let (skipped, rest) = piece.split_at(skip.min(piece.len()));
        skip = skip.saturating_sub(skipped.len());
        (!rest.is_empty()).then_some(rest)
    })
}
