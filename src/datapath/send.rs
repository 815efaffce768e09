//! Outbound: inner packets become datagrams.
//!
//! Packets of one peer and one outer type-of-service are collected into a chunk. A chunk is given a
//! run buffer, its counters and its place in the peer's order in one step, and is sealed into the
//! run with nothing locked. Whoever owns the peer's order puts what is sealed behind what its sender
//! has, and whoever owns the sender hands it to WSK: the stack may take its time, and keeps no CPU
//! from sealing. A packet that comes from the adapter keeps its ring slot until it is sealed; one
//! that must wait for a session is copied and gives its slot back at once.

use alloc::boxed::Box;

use abi::{descriptor::Places, discard::Discard, places, statistics::Counter};
use callout::{Route, Run};
use crypto::{
    aead::{self, ExtendedState, Job, Piece, Source, TAG_LEN, Verdict},
    pipeline::{Baton, CHUNK_PACKETS, Chunk, Claim, Owner, Refused},
    protocol::{
        Now, Sent, Wants,
        messages::{TRANSPORT_HEADER_LEN, Transport},
        send::{PathMtu, outgoing, padded_len},
    },
    sync::Shared,
};
use heapless::Vec as Batch;
use nt::{irql::AtMostDispatch, pool::try_box};

use super::{
    MOST_CHUNKS, WORTH_DEALING_BYTES,
    collect::HEAD_LEN,
    packet::{Held, PACKET_PIECES, Packet},
    turn::{Stage, Turn},
};
use crate::{
    device::Device,
    ground::At,
    peer::{Keypair, Peer},
    processors::Task,
};

/// Packets sealed in one call: their jobs and pieces lie on the stack.
const SEAL_PACKETS: usize = 16;

/// A chunk to be sealed and sent.
///
/// Lives in the pool from its first packet on: kernel stacks have no room for 32 of them.
#[derive(Default)]
pub(crate) struct SendWork {
    pub(super) packets: Batch<Packet, CHUNK_PACKETS>,
    /// What they refer to, in the adapter's ring above all.
    pub(super) held: Held,
    run: Option<Run>,
    /// Where to, unless that is known better when it leaves, and for which version of the peer's endpoint.
    route: Option<Route>,
    endpoint: u64,
    keypair: Option<Shared<Keypair>>,
    first_counter: u64,
    pub(super) tos: u8,
    mtu: usize,
    /// Packets that are not keepalives.
    data_packets: usize,
    wants: Wants,
}

impl SendWork {
    /// For a debugger.
    pub(crate) const PLACES: Places = {
        // A pointer, or null.
        assert!(size_of::<Option<Box<Self>>>() == size_of::<usize>());
        places!("SendWork", keypair, first_counter, data_packets)
    };

    /// An empty chunk, in the pool.
    #[inline(never)] // The value is on the stack for as long as it takes to move it.
    pub(super) fn boxed(tos: u8) -> Result<Box<Self>, Discard> {
        try_box(Self { tos, ..Self::default() }).map_err(|_| Discard::NoMemory)
    }
}

impl Device {
    /// Sends a chunk of the adapter's packets, behind what waited.
    ///
    /// With `dealt`, the number of chunks of this batch that were, another CPU may seal it.
    pub(super) fn send_chunk(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        work: Box<SendWork>,
        dealt: Option<&mut usize>,
        now: Now,
        level: &AtMostDispatch,
    ) {
        if work.packets.is_empty() {
            return; // there was no memory for its first
        }
        if peer.has_staged() && peer.has_session(&At(level), now) {
            // Save what another CPU is about to send.
            Self::flush(this, peer, false, now, level);
        }
        Self::send_at_once(this, peer, work, dealt, now, level);
    }

    /// Numbers, seals and sends a chunk, or has its packets wait for a session or a route. As [`Device::send_chunk`].
    fn send_at_once(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        mut work: Box<SendWork>,
        dealt: Option<&mut usize>,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let count = work.packets.len();
        // A keepalive that is not numbered was none: it is no discard either.
        let data = work.packets.iter().filter(|packet| packet.len() > 0).count();
        // Before the route: if it is another by then, the route is looked for anew when the chunk leaves.
        work.endpoint = peer.endpoint_version();
        let ready = this.route_to(peer, level).and_then(|route| {
            work.route = route;
            if route.is_some() {
                this.lay_out(&mut work, this.mtu_to(peer)).map(|()| true)
            } else {
                Ok(false)
            }
        });
        match ready {
            Ok(true) => {}
            Ok(false) => {
                this.stage(peer, &mut work, level);
                return this.ask_for_service(peer, level);
            }
            Err(reason) => return this.counters.discard(reason, data),
        }
        let bytes = work.run.as_ref().map_or(0, Run::bytes);
        let mut waiting = None;
        let ground = At(level);
        let reserved = peer.attached().seal.reserve(&ground, Some(work), MOST_CHUNKS, |work| {
            match peer.reserve(&ground, count as u32, now) {
                Ok(reserved) => {
                    if let Some(work) = work {
                        work.keypair = Some(reserved.keypair);
                        work.first_counter = reserved.first_counter;
                        work.wants = reserved.wants;
                    }
                    Ok(())
                }
                Err(no_session) => {
                    waiting = work.take();
                    Err(no_session)
                }
            }
        });
        match reserved {
            Ok(claim) => {
                this.counters.add(Counter::KeepalivesOut, count.saturating_sub(data));
                let dealt = dealt.filter(|_| bytes >= WORTH_DEALING_BYTES);
                Self::deal_or_do(this, peer, Task::Seal(claim), dealt, now, level);
            }
            Err(Refused::Unnumbered(no_session)) => {
                waiting.iter_mut().for_each(|work| this.stage(peer, work, level));
                this.attend(peer, no_session.wants, level);
            }
            Err(Refused::Full) => this.counters.discard(Discard::QueueFull, data),
            Err(Refused::OutOfMemory) => this.counters.discard(Discard::NoMemory, data),
        }
    }

    /// Seals a chunk unless somebody has, and sends what has its turn; returns how many packets.
    pub(crate) fn seal_chunk(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        claim: &Claim<Sending>,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let ground = At(level);
        if !claim.run(&ground, |work| work.iter_mut().for_each(|work| this.seal(work, level))) {
            return 0;
        }
        let mut sealer = Sealer(Turn::begin(Stage::Seal, this, peer, now, level));
        peer.attached().seal.drain(&ground, &mut sealer);
        sealer.0.packets().saturating_add(Self::send_sealed(this, peer, now, level))
    }

    /// Has the peer's sender send what it has, unless it is about it; returns how many packets.
    fn send_sealed(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let mut sender = Sender(Turn::begin(Stage::Send, this, peer, now, level));
        peer.attached().send.drain(&At(level), &mut sender);
        sender.0.packets()
    }

    /// Goes on as the owner of the peer's order; returns for how many packets.
    pub(crate) fn go_on_sealing(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        baton: Baton,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let mut sealer = Sealer(Turn::begin(Stage::Seal, this, peer, now, level));
        peer.attached().seal.resume(&At(level), baton, &mut sealer);
        sealer.0.packets().saturating_add(Self::send_sealed(this, peer, now, level))
    }

    /// Goes on as the peer's sender; returns for how many packets.
    pub(crate) fn go_on_sending(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        baton: Baton,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        let mut sender = Sender(Turn::begin(Stage::Send, this, peer, now, level));
        peer.attached().send.resume(&At(level), baton, &mut sender);
        sender.0.packets()
    }

    /// Finds a place in a run buffer for each packet's datagram.
    #[inline(never)] // What it has on the stack is not to be below what seals.
    fn lay_out(&self, work: &mut SendWork, mtu: PathMtu) -> Result<(), Discard> {
        let mtu = mtu.path();
        let packets = &work.packets;
        let datagram_len = |packet: &Packet| {
            padded_len(packet.len(), mtu).saturating_add(TRANSPORT_HEADER_LEN + TAG_LEN)
        };
        let bytes = packets.iter().map(datagram_len).fold(0, usize::saturating_add);
        let run = self.core.runs.take(packets.len(), bytes, self.layout());
        let mut run = run.ok_or(Discard::QueueFull)?;
        for packet in packets {
            run.push(datagram_len(packet)).ok_or(Discard::Oversize)?;
        }
        work.data_packets = packets.iter().filter(|packet| packet.len() > 0).count();
        work.mtu = mtu;
        work.run = Some(run);
        Ok(())
    }

    /// Writes each packet's datagram into the run: header, ciphertext and tag.
    fn seal(&self, work: &mut SendWork, level: &AtMostDispatch) {
        let (Some(run), Some(keypair)) = (&mut work.run, &work.keypair) else { return };
        let (packets, held) = (&work.packets, &mut work.held);
        let (mtu, mut counter) = (work.mtu, work.first_counter);
        let tapped = self.is_tapped_inside();
        let mut written = 0_usize;
        self.core.with_extended_state(run.bytes(), |state| {
            let mut datagrams = run.datagrams_mut();
            for packets in packets.chunks(SEAL_PACKETS) {
                held.finish(packets);
                if tapped {
                    self.tap_sealing(packets, held, level);
                }
                let pieces = packets.iter().map(|packet| {
                    let padding = padded_len(packet.len(), mtu).saturating_sub(packet.len());
                    packet.pieces(held, padding)
                });
                let sealed = seal_some(state, keypair, counter, pieces, &mut datagrams);
                written = written.saturating_add(sealed);
                counter = counter.wrapping_add(packets.len() as u64);
            }
        });
        let counts =
            [(Counter::PayloadWrittenOut, written), (Counter::PacketsSealed, packets.len())];
        self.counters.add_here(&counts, level);
        // The bytes are in the run: the ring may have its slots back.
        work.packets.clear();
        work.held = Held::default();
    }

    /// Hands a chunk to the network.
    fn send_run(this: &Shared<Self>, mut work: Box<SendWork>, now: Now, level: &AtMostDispatch) {
        let (Some(run), Some(keypair)) = (work.run.take(), work.keypair.take()) else { return };
        let peer = keypair.peer();
        let count = run.len();
        if !peer.is_enabled() {
            let up = this.tunnel.is_up();
            let reason = if up { Discard::PeerRemoved } else { Discard::AdapterDown };
            return this.counters.discard(reason, count);
        }
        let same = work.route.filter(|route| {
            work.endpoint == peer.endpoint_version()
                && route.generation == this.core.routes.generation()
        });
        // While a changed endpoint is being resolved, what was sealed before goes where it was to go.
        let route = match same {
            Some(route) => Ok(Some(route)),
            None => this.route_to(peer, level).map(|route| route.or(work.route)),
        };
        let route = match route {
            Ok(Some(route)) => route,
            Ok(None) => return this.counters.discard(Discard::NoRoute, count),
            Err(reason) => return this.counters.discard(reason, count),
        };
        let sent = Sent { data_packets: work.data_packets as u32, bytes: run.bytes() as u64 };
        this.counters.add_here(&[(Counter::Chunks, 1)], level);
        this.hand_over(run, &route, work.tos, level);
        let wants = work.wants | peer.sent(&keypair, now, sent);
        this.attend(peer, wants, level);
    }

    /// Gives a run to the sockets, if there are any.
    pub(crate) fn hand_over(&self, mut run: Run, route: &Route, tos: u8, level: &AtMostDispatch) {
        match self.open_sockets(level) {
            Some(sockets) => {
                if self.is_tapped_outside() {
                    self.tap_leaving(&mut run, route, (tos, sockets.port()), level);
                }
                sockets.send(run, route, tos, level);
            }
            None => self.counters.discard(Discard::AdapterDown, run.len()),
        }
    }

    /// Moves a chunk's packets to where they wait for a session or a route.
    fn stage(&self, peer: &Peer, work: &mut SendWork, level: &AtMostDispatch) {
        for packet in &mut work.packets {
            let packet = core::mem::replace(packet, Packet::Keepalive);
            let first = usize::from(!matches!(packet, Packet::Waited(_)));
            let (older, staged) = match packet.into_copy(&work.held, &self.counters) {
                Ok(Some(copy)) => {
                    let (older, kept) = peer.stage(&At(level), copy);
                    (older, kept.map(|()| first))
                }
                Ok(None) => (0, Ok(0)),
                Err(reason) => (0, Err(reason)),
            };
            self.counters.discard(Discard::StagedFull, older as usize);
            match staged {
                Ok(staged) => self.counters.add(Counter::PacketsStaged, staged),
                Err(reason) => self.counters.discard(reason, 1),
            }
        }
        work.held = Held::default();
    }

    /// Sends what the peer has staged, or a keepalive if it has nothing and `keepalive`.
    pub(crate) fn flush(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        keepalive: bool,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let ground = At(level);
        let send = |work: Option<Box<SendWork>>| {
            let Some(work) = work else { return };
            // Once for all the locks of a chunk.
            level.pinned(|level| {
                Self::send_at_once(this, peer, work, None, now, level.at_most());
            });
        };
        let mut work: Option<Box<SendWork>> = None;
        // Not more than are there now: without a session they come back to where they were.
        let waiting = peer.staged_packets(&ground);
        for _ in 0..waiting {
            let Some(packet) = peer.take_staged(&ground) else { break };
            let head = packet.get(..HEAD_LEN.min(packet.len())).unwrap_or_default();
            let tos = outgoing(head, packet.len()).map_or(0, |outgoing| outgoing.outer_tos);
            let takes = |work: &SendWork| work.tos == tos && !work.packets.is_full();
            if !work.as_deref().is_some_and(takes) {
                send(work.take());
                match SendWork::boxed(tos) {
                    Ok(empty) => work = Some(empty),
                    Err(reason) => this.counters.discard(reason, 1),
                }
            }
            if let Some(work) = &mut work {
                let _ = work.packets.push(Packet::Waited(packet));
            }
        }
        if waiting == 0 && keepalive {
            // Without memory for it there is none this time.
            work = SendWork::boxed(0).ok();
            if let Some(work) = &mut work {
                let _ = work.packets.push(Packet::Keepalive);
            }
        }
        send(work);
    }
}

/// What travels through the lanes of the way out.
pub(crate) type Sending = Option<Box<SendWork>>;

/// The owner of a peer's order: what is sealed goes to the peer's sender.
struct Sealer<'d>(Turn<'d>);

impl Owner<Sending> for Sealer<'_> {
    fn run(&mut self, work: &mut Sending) {
        work.iter_mut().for_each(|work| self.0.device.seal(work, self.0.level));
    }

    fn deliver(&mut self, mut chunk: Chunk<Sending>) {
        self.0.count(chunk.work_mut().map_or(0, |work| packets_in(work)));
        self.0.peer.attached().send.append(&At(self.0.level), chunk);
    }

    fn has_enough(&mut self) -> bool {
        self.0.is_over()
    }

    fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
        self.0.hand_over(baton)
    }
}

/// The owner of a peer's sender.
struct Sender<'d>(Turn<'d>);

impl Owner<Sending> for Sender<'_> {
    fn run(&mut self, _sealed: &mut Sending) {}

    fn deliver(&mut self, mut chunk: Chunk<Sending>) {
        let Turn { device, now, level, .. } = self.0;
        let Some(work) = chunk.work_mut().and_then(Option::take) else { return };
        self.0.count(work.run.as_ref().map_or(0, Run::len));
        Device::send_run(device, work, now, level);
        // If it was discarded, nobody else tells.
        device.run_returned();
    }

    fn has_enough(&mut self) -> bool {
        self.0.is_over()
    }

    fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
        self.0.hand_over(baton)
    }
}

/// Datagrams of a chunk.
fn packets_in(work: &Sending) -> usize {
    work.as_ref().and_then(|work| work.run.as_ref()).map_or(0, Run::len)
}

/// Seals up to [`SEAL_PACKETS`] packets; kept apart so that its jobs leave the stack when it returns.
///
/// Returns how many bytes it wrote.
#[inline(never)]
fn seal_some<'p, 'r>(
    state: Option<&ExtendedState>,
    keypair: &Keypair,
    first_counter: u64,
    packets: impl Iterator<Item = Batch<Piece<'p>, PACKET_PIECES>>,
    datagrams: &mut impl Iterator<Item = &'r mut [u8]>,
) -> usize {
    let mut pieces: Batch<_, SEAL_PACKETS> = Batch::new();
    // As many as packets, which are at most as many.
    for packet in packets {
        let _ = pieces.push(packet);
    }
    let mut jobs: Batch<Job<'_>, SEAL_PACKETS> = Batch::new();
    for ((pieces, counter), datagram) in pieces.iter().zip(first_counter..).zip(datagrams) {
        let Some((header, sealed)) = datagram.split_first_chunk_mut() else { break };
        *header = Transport::header(keypair.remote_index(), counter);
        let source = Source::Pieces(pieces);
        let (key, verdict) = (keypair.sending(), Verdict::Pending);
        // As above.
        let _ = jobs.push(Job { key, counter, source, destination: sealed, verdict });
    }
    let sealed = aead::seal(state, &mut jobs);
    debug_assert!(jobs.iter().all(|job| job.verdict == Verdict::Done));
    jobs.len().saturating_mul(TRANSPORT_HEADER_LEN).saturating_add(sealed)
}
