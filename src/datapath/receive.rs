//! Inbound: datagrams become inner packets.
//!
//! Transport data of one session and one sender is collected into a chunk, opened straight into
//! buffers that the adapter will indicate, and delivered in the order it came by whoever owns the
//! peer's lane: only then is the receive window looked at, and only by that owner, so it needs no
//! lock. Everything else that could be a handshake message is copied to a bounded queue for a
//! worker. Whatever goes no further is counted, once.

use abi::{discard::Discard, statistics::Counter};
use callout::{Datagram, Datagrams};
use crypto::{
    aead::{self, Job, Piece, Source, TAG_LEN, Verdict},
    pipeline::{CHUNK_PACKETS, Chunk, Fate, Refused},
    protocol::{
        Endpoint, Local, Now, Received, Wants,
        messages::{TRANSPORT_HEADER_LEN, Transport},
        receive::{InnerPacket, decapsulate_ecn},
    },
    sync::Shared,
};
use heapless::Vec as Batch;
use netadapter::{Indication, RxBuffer};
use nt::irql::AtMostDispatch;

use super::MOST_CHUNKS;
use crate::{
    device::Device,
    ground::At,
    peer::{Keypair, Peer},
};

/// Packets opened in one call: their jobs and pieces lie on the stack.
const OPEN_PACKETS: usize = 16;
/// Pieces of one datagram. One in more is discarded: no network card splits a datagram so.
const DATAGRAM_PIECES: usize = 8;

/// A packet being opened.
struct Opening {
    buffer: RxBuffer,
    counter: u64,
    /// Payload bytes of the datagram.
    datagram_len: usize,
    ecn: u8,
    verdict: Verdict,
}

/// A chunk to be opened and delivered.
#[derive(Default)]
pub(crate) struct ReceiveWork {
    packets: Batch<Opening, CHUNK_PACKETS>,
    keypair: Option<Shared<Keypair>>,
    from: Option<Endpoint>,
}

/// Datagrams of one session and one sender, being collected.
struct Collected<'d> {
    receiver: u32,
    from: Endpoint,
    keypair: Shared<Keypair>,
    datagrams: Batch<(Datagram<'d>, u64), CHUNK_PACKETS>,
}

/// What a datagram's first bytes say it is.
enum Kind {
    Transport { receiver: u32, counter: u64 },
    Handshake,
}

impl Device {
    /// Takes the datagrams of one indication.
    pub(crate) fn receive_batch(&self, datagrams: &Datagrams, level: &AtMostDispatch) {
        let now = self.now();
        let mut open: Option<Collected<'_>> = None;
        let mut bytes = 0_usize;
        for datagram in datagrams.iter() {
            let taken = datagram.and_then(|datagram| {
                bytes = bytes.saturating_add(datagram.payload.len());
                self.sort(datagram, &mut open, now, level)
            });
            if let Err(reason) = taken {
                self.counters.discard(reason, 1);
            }
        }
        if let Some(last) = open {
            self.receive_chunk(last, now, level);
        }
        self.counters.add(Counter::DatagramsIn, datagrams.len());
        self.counters.add(Counter::DatagramBytesIn, bytes);
        self.note_time_at_dispatch(now);
    }

    /// Adds a datagram to the chunk being collected, or begins another, or queues it for a worker.
    fn sort<'d>(
        &self,
        datagram: Datagram<'d>,
        open: &mut Option<Collected<'d>>,
        now: Now,
        level: &AtMostDispatch,
    ) -> Result<(), Discard> {
        let (receiver, counter) = match kind(&datagram)? {
            Kind::Transport { receiver, counter } => (receiver, counter),
            Kind::Handshake => return self.queue_handshake(&datagram, level),
        };
        let from = endpoint(&datagram);
        let fits = open.as_ref().is_some_and(|open| {
            open.receiver == receiver && open.from == from && !open.datagrams.is_full()
        });
        if !fits {
            if let Some(full) = open.take() {
                self.receive_chunk(full, now, level);
            }
            let keypair =
                self.core.indices.session(&At(level), receiver).ok_or(Discard::UnknownReceiver)?;
            // The index table is the driver's: the session may be another adapter's.
            if keypair.peer().tunnel() != self.tunnel.number() {
                return Err(Discard::UnknownReceiver);
            }
            *open = Some(Collected { receiver, from, keypair, datagrams: Batch::new() });
        }
        if let Some(open) = open {
            // There is room: a full chunk was received above.
            let _ = open.datagrams.push((datagram, counter));
        }
        Ok(())
    }

    /// Orders, opens and delivers a chunk.
    fn receive_chunk(&self, chunk: Collected<'_>, now: Now, level: &AtMostDispatch) {
        let Collected { from, keypair, datagrams, .. } = chunk;
        if !keypair.usable_for_receiving(now.monotonic) {
            return self.counters.discard(Discard::SessionExpired, datagrams.len());
        }
        let (packets, sources) = self.take_buffers(&datagrams);
        let count = packets.len();
        if count == 0 {
            return;
        }
        let peer = keypair.peer().clone();
        let work = ReceiveWork { packets, keypair: Some(keypair), from: Some(from) };
        let ground = At(level);
        let lane = &peer.attached().receive;
        match lane.reserve(&ground, work, MOST_CHUNKS, |_| Ok::<(), ()>(())) {
            Ok(chunk) => {
                lane.run(&ground, &chunk, |work| self.open_packets(work, &sources));
                lane.drain(&ground, |chunk, fate| self.deliver_received(chunk, fate, now, level));
            }
            Err(Refused::Full | Refused::Unnumbered(())) => {
                self.counters.discard(Discard::HeldFull, count);
            }
            Err(Refused::Stopped) => self.counters.discard(Discard::PeerGone, count),
            Err(Refused::OutOfMemory) => self.counters.discard(Discard::OutOfMemory, count),
        }
    }

    /// Takes a receive buffer for each datagram; those without one are counted and left out.
    fn take_buffers<'d>(
        &self,
        datagrams: &Batch<(Datagram<'d>, u64), CHUNK_PACKETS>,
    ) -> (Batch<Opening, CHUNK_PACKETS>, Batch<Datagram<'d>, CHUNK_PACKETS>) {
        let (mut packets, mut sources) = (Batch::new(), Batch::new());
        for (datagram, counter) in datagrams {
            let datagram_len = datagram.payload.len();
            let buffer = self.core.buffers.take();
            // The tag has to fit as well: a datagram in many pieces is put together in the buffer.
            let fits = |_: &RxBuffer| {
                datagram_len.saturating_sub(TRANSPORT_HEADER_LEN)
                    <= self.core.buffers.buffer_bytes().get() as usize
            };
            match buffer.filter(fits) {
                Some(buffer) => {
                    let (counter, ecn, verdict) = (*counter, datagram.ecn, Verdict::Pending);
                    // As many as there are datagrams, at most.
                    let _ = packets.push(Opening { buffer, counter, datagram_len, ecn, verdict });
                    let _ = sources.push(*datagram);
                }
                None => self.counters.discard(Discard::NoBuffer, 1),
            }
        }
        (packets, sources)
    }

    /// Opens each packet into its buffer.
    fn open_packets(&self, work: &mut ReceiveWork, sources: &[Datagram<'_>]) {
        let Some(keypair) = &work.keypair else { return };
        self.core.with_extended_state(work.packets.len(), |state| {
            let batches = work.packets.chunks_mut(OPEN_PACKETS);
            for (packets, sources) in batches.zip(sources.chunks(OPEN_PACKETS)) {
                let pieces: Batch<_, OPEN_PACKETS> = sources.iter().map(sealed_pieces).collect();
                let mut jobs: Batch<Job<'_>, OPEN_PACKETS> = Batch::new();
                for ((packet, source), pieces) in packets.iter_mut().zip(sources).zip(&pieces) {
                    let sealed = packet.datagram_len.saturating_sub(TRANSPORT_HEADER_LEN);
                    let (counter, key) = (packet.counter, keypair.receiving());
                    packet.buffer.set_len(sealed.saturating_sub(TAG_LEN));
                    let destination = packet.buffer.as_mut_slice();
                    let source = match pieces {
                        Some(pieces) => Source::Pieces(pieces),
                        None => Source::InPlace { len: gather(source, destination) },
                    };
                    let verdict = Verdict::Pending;
                    let _ = jobs.push(Job { key, counter, source, destination, verdict });
                }
                aead::open(state, &mut jobs);
                let verdicts: Batch<Verdict, OPEN_PACKETS> =
                    jobs.iter().map(|job| job.verdict).collect();
                drop(jobs);
                for (packet, verdict) in packets.iter_mut().zip(verdicts) {
                    packet.verdict = verdict;
                }
            }
        });
    }

    /// Hands a chunk's packets to the adapter, in the order they came.
    fn deliver_received(
        &self,
        chunk: &Chunk<ReceiveWork>,
        fate: Fate,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let work = chunk.with_work(&At(level), core::mem::take);
        let (Some(keypair), Some(from)) = (work.keypair, work.from) else { return };
        if fate == Fate::Dead {
            return self.counters.discard(Discard::PeerGone, work.packets.len());
        }
        let peer = keypair.peer();
        let mut received = Received::default();
        let mut authentic = false;
        let mut good: Batch<RxBuffer, CHUNK_PACKETS> = Batch::new();
        let mut last_source = None;
        for packet in work.packets {
            let datagram_len = packet.datagram_len as u64;
            match self.judge(packet, &keypair, &mut last_source, &mut authentic, level) {
                Ok(Some(deliverable)) => {
                    received.data_packets = received.data_packets.saturating_add(1);
                    received.bytes = received.bytes.saturating_add(datagram_len);
                    let _ = good.push(deliverable);
                }
                Ok(None) => {
                    self.counters.add(Counter::KeepalivesIn, 1);
                    received.bytes = received.bytes.saturating_add(datagram_len);
                }
                Err((reason, is_data)) => {
                    received.data_packets = received.data_packets.saturating_add(is_data.into());
                    self.counters.discard(reason, 1);
                }
            }
        }
        self.counters.add(Counter::Chunks, 1);
        let wants = if authentic {
            peer.received(&At(level), &keypair, &from, now, received)
        } else {
            Wants::NONE
        };
        self.indicate(good);
        self.attend(peer, wants, now, level);
    }

    /// Decides what becomes of an opened packet: delivered, a keepalive, or discarded, and then
    /// whether it was authentic data all the same.
    fn judge(
        &self,
        packet: Opening,
        keypair: &Keypair,
        last_source: &mut Option<core::net::IpAddr>,
        authentic: &mut bool,
        level: &AtMostDispatch,
    ) -> Result<Option<RxBuffer>, (Discard, bool)> {
        let Opening { mut buffer, counter, ecn, verdict, .. } = packet;
        if verdict != Verdict::Done {
            return Err((Discard::BadTag, false));
        }
        keypair.accept(counter).map_err(|reason| (reason, false))?;
        *authentic = true;
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
        decapsulate_ecn(buffer.as_mut_slice(), ecn);
        Ok(Some(buffer))
    }

    /// Gives packets to the adapter, which is woken once for all of them.
    fn indicate(&self, buffers: Batch<RxBuffer, CHUNK_PACKETS>) {
        let mut queue = self.adapter.rx().open();
        let (mut packets, mut bytes) = (0, 0_usize);
        for buffer in buffers {
            let len = buffer.as_slice().len();
            match queue.as_mut().map(|queue: &mut Indication<'_>| queue.push(buffer)) {
                Some(Ok(())) => {
                    packets += 1_usize;
                    bytes = bytes.saturating_add(len);
                }
                Some(Err(_buffer)) => self.counters.discard(Discard::RingFull, 1),
                None => self.counters.discard(Discard::NotUp, 1),
            }
        }
        self.counters.add(Counter::PacketsIn, packets);
        self.counters.add(Counter::BytesIn, bytes);
    }

    /// Does, or has somebody do, what the protocol wants for a peer.
    pub(crate) fn attend(
        &self,
        peer: &Shared<Peer>,
        wants: Wants,
        now: Now,
        level: &AtMostDispatch,
    ) {
        if wants.contains(Wants::FLUSH) {
            self.flush(peer, false, now, level);
        }
        if wants.contains(Wants::SERVICE) {
            self.ask_for_service(peer, level);
        }
    }
}

/// Tells transport data from what may be a handshake message, by the first bytes and the length.
fn kind(datagram: &Datagram<'_>) -> Result<Kind, Discard> {
    let mut header = [0; TRANSPORT_HEADER_LEN];
    let len = datagram.payload.len();
    if datagram.payload.copy_to(&mut header) < TRANSPORT_HEADER_LEN {
        return Err(Discard::MalformedMessage);
    }
    match Transport::parse_header(&header) {
        Some((receiver, counter)) if len >= TRANSPORT_HEADER_LEN + TAG_LEN => {
            Ok(Kind::Transport { receiver, counter })
        }
        Some(_) => Err(Discard::MalformedMessage),
        None => Ok(Kind::Handshake),
    }
}

/// Where a datagram came from, and which of our addresses it came to.
pub(crate) fn endpoint(datagram: &Datagram<'_>) -> Endpoint {
    let local =
        datagram.local.map(|local| Local { address: local.address, interface: local.interface });
    Endpoint { remote: datagram.remote, local }
}

/// The datagram's bytes after its header; `None` if they are in too many pieces.
fn sealed_pieces<'d>(datagram: &Datagram<'d>) -> Option<Batch<Piece<'d>, DATAGRAM_PIECES>> {
    let mut pieces = Batch::new();
    let mut sealed = after_header(datagram);
    sealed.try_for_each(|piece| pieces.push(piece.into()).ok())?;
    Some(pieces)
}

/// Copies the datagram's bytes after its header to the front of `to`, and returns how many.
fn gather(datagram: &Datagram<'_>, to: &mut [u8]) -> usize {
    after_header(datagram).fold(0, |at: usize, piece| {
        let end = at.saturating_add(piece.len());
        if let Some(place) = to.get_mut(at..end) {
            place.copy_from_slice(piece);
        }
        end
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
