//! Packets of the adapter's ring are collected into chunks: consecutive ones of one peer and outer type-of-service, and the
//! segments that a longer one is cut into.

use alloc::boxed::Box;
use core::net::IpAddr;

use abi::{discard::Discard, policy::Policy, statistics::Counter};
use crypto::{
    protocol::{
        Now, mss,
        segment::{MOST_HEADER_BYTES, SuperPacket},
        send::{Outgoing, PathMtu, outgoing},
    },
    sync::Shared,
};
use netadapter::{TxBatch, TxPacket};
use nt::irql::AtMostDispatch;

use super::{MOST_CHUNKS_FROM_RING, ahead::Ahead, packet::Packet, send::SendWork};
use crate::{device::Device, peer::Peer};

/// Bytes of a packet's front that are looked at: an IPv6 header, and TCP's flags.
pub(super) const HEAD_LEN: usize = 54;

/// What the adapter gave: packets, or the segments of one.
#[derive(Default)]
struct Given {
    packets: usize,
    bytes: usize,
    /// Of `packets`, those that are segments of a packet that was cut.
    segments: usize,
    /// How many packets were cut.
    cut: usize,
}

/// What became of a packet of the adapter's ring.
enum Collected<'advance> {
    /// It is in chunks.
    Given(Given),
    /// There is no room for it now.
    Left(TxPacket<'advance>),
}

impl Given {
    /// One packet, which is not cut.
    fn packet(bytes: usize) -> Self {
        Self { packets: 1, bytes, ..Self::default() }
    }

    fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
            segments: self.segments.saturating_add(other.segments),
            cut: self.cut.saturating_add(other.cut),
        }
    }
}

/// Collects packets of one peer and type-of-service into chunks, and sends those that are full.
struct Collector<'d> {
    device: &'d Shared<Device>,
    now: Now,
    level: &'d AtMostDispatch,
    /// The destination that was last looked up: packets to it are for `peer`.
    destination: Option<IpAddr>,
    peer: Option<Shared<Peer>>,
    ahead: Ahead,
    /// How long packets to it may be.
    mtu: PathMtu,
    /// Whether the segment sizes that TCP announces are lowered to that.
    lowers_mss: bool,
    /// The chunk being collected, of `peer`'s packets.
    work: Option<Box<SendWork>>,
    /// How many chunks were dealt, or would have been.
    dealt: usize,
}

impl<'d> Collector<'d> {
    fn new(device: &'d Shared<Device>, now: Now, level: &'d AtMostDispatch) -> Self {
        let (destination, peer, work) = (None, None, None);
        let lowers_mss = device.core.policies.get(Policy::MssClamp) != 0;
        let (ahead, mtu) = (Ahead::default(), PathMtu::default());
        Self { device, now, level, destination, peer, ahead, mtu, lowers_mss, work, dealt: 0 }
    }

    /// Adds a packet of the ring's to the chunk of its peer, or its segments to as many as they need;
    /// or gives it back if enough is under way. `batch` has the packets behind it.
    fn collect<'p>(
        &mut self,
        packet: TxPacket<'p>,
        batch: &TxBatch<'p>,
    ) -> Result<Collected<'p>, Discard> {
        if packet.mss() != 0 {
            return self.collect_segments(packet, batch);
        }
        let device = self.device;
        let mut head = [0; HEAD_LEN];
        let seen = packet.copy_to(0, &mut head);
        let len = packet.byte_count();
        let Outgoing { destination, outer_tos: tos } =
            outgoing(head.get(..seen).unwrap_or_default(), len)?;
        self.turn_to_peer_of(destination, batch)?;
        if len > self.mtu.path() {
            device.hold_to_mtu(packet.pieces(), len, self.mtu, self.now)?;
        }
        if !self.has_chunk(tos) && !self.has_room() {
            return Ok(Collected::Left(packet));
        }
        // What was not seen is zero.
        if self.lowers_mss
            && mss::may_be_syn(&head)
            && let Some(lowered) =
                Packet::with_lower_mss(packet.pieces(), len, self.mtu, &device.counters)?
        {
            let _ = self.chunk(tos)?.packets.push(lowered);
            return Ok(Collected::Given(Given::packet(len)));
        }
        let work = self.chunk(tos)?;
        let packet = Packet::of(packet, &mut work.held, &device.counters)?;
        let _ = work.packets.push(packet);
        Ok(Collected::Given(Given::packet(len)))
    }

    /// Cuts a packet, and adds its segments to the chunks of its peer.
    fn collect_segments<'p>(
        &mut self,
        mut packet: TxPacket<'p>,
        batch: &TxBatch<'p>,
    ) -> Result<Collected<'p>, Discard> {
        let device = self.device;
        let mut head = [0; MOST_HEADER_BYTES];
        let seen = packet.copy_to(0, &mut head);
        let (head, len) = (head.get(..seen).unwrap_or_default(), packet.byte_count());
        let mut whole = SuperPacket::parse(head, len, packet.mss(), device.tunnel.mtu())?;
        let Outgoing { destination, outer_tos: tos } = whole.outgoing();
        self.turn_to_peer_of(destination, batch)?;
        if !whole.fit(self.mtu.of(destination.is_ipv6())) {
            device.hold_segments_to_mtu(&packet, &whole, self.mtu, self.now)?;
        }
        if !self.has_room() {
            return Ok(Collected::Left(packet));
        }
        let mut given = Given { cut: 1, ..Given::default() };
        for segment in (0..whole.segments()).map_while(|number| whole.segment(number)) {
            let bytes = segment.byte_count();
            given = given.and(Given { segments: 1, ..Given::packet(bytes) });
            let added = self.chunk(tos).and_then(|work| {
                let counters = &device.counters;
                let segment = Packet::segment_of(&mut packet, segment, &mut work.held, counters)?;
                let _ = work.packets.push(segment);
                Ok(())
            });
            if let Err(reason) = added {
                device.counters.discard(reason, 1);
            }
        }
        Ok(Collected::Given(given))
    }

    /// Collects for the peer that this destination belongs to.
    // spec: WG 2-a
    fn turn_to_peer_of(&mut self, destination: IpAddr, batch: &TxBatch<'_>) -> Result<(), Discard> {
        let tunnel = &self.device.tunnel;
        if !tunnel.is_up() {
            return Err(Discard::AdapterDown);
        }
        if self.destination != Some(destination) {
            let peer = self.ahead.peer_for(destination, batch, tunnel, self.level);
            let peer = peer.ok_or(Discard::NoPeer)?;
            self.mtu = self.device.mtu_to(&peer);
            self.turn_to(peer);
            self.destination = Some(destination);
        }
        Ok(())
    }

    /// Whether one chunk more is not too many, of this peer's or of all; or the few that one packet is cut
    /// into.
    fn has_room(&self) -> bool {
        let lane = self.peer.as_ref().map(|peer| &peer.attached().seal);
        let fits = || lane.is_none_or(|lane| lane.len() < MOST_CHUNKS_FROM_RING);
        self.device.has_room(self.now, fits)
    }

    /// Whether the chunk being collected takes another packet of this type-of-service. If it does not it
    /// is sent.
    fn has_chunk(&mut self, tos: u8) -> bool {
        if self.work.as_ref().is_some_and(|work| work.tos != tos || work.packets.is_full()) {
            self.send(true);
        }
        self.work.is_some()
    }

    /// Collects for `peer` from here on.
    fn turn_to(&mut self, peer: Shared<Peer>) {
        self.destination = None;
        if self.peer.as_ref().is_none_or(|current| !Shared::ptr_eq(current, &peer)) {
            self.send(true);
            self.peer = Some(peer);
        }
    }

    /// A chunk of this type-of-service that has room for a packet.
    fn chunk(&mut self, tos: u8) -> Result<&mut SendWork, Discard> {
        if !self.has_chunk(tos) {
            self.work = Some(SendWork::boxed(tos)?);
        }
        self.work.as_deref_mut().ok_or(Discard::NoMemory)
    }

    /// Sends the chunk there is, if there is one; one that others follow may be dealt.
    fn send(&mut self, others_follow: bool) {
        let (Some(peer), Some(work)) = (&self.peer, self.work.take()) else { return };
        let (device, now) = (self.device, self.now);
        let dealt = Some(&mut self.dealt).filter(|_| others_follow);
        // Once for all the locks of a chunk.
        self.level.pinned(|level| {
            Device::send_chunk(device, peer, work, dealt, now, level.at_most());
        });
    }

    /// Sends what is left: here, since there is nothing else for this CPU to do.
    fn finish(&mut self) {
        self.send(false);
    }
}

impl Device {
    /// Takes a batch of packets from the adapter's ring.
    pub(crate) fn send_batch(this: &Shared<Self>, batch: &mut TxBatch<'_>, level: &AtMostDispatch) {
        let now = this.now();
        let mut collector = Collector::new(this, now, level);
        let mut all = Given::default();
        while let Some(packet) = batch.next() {
            let bytes = packet.byte_count();
            match collector.collect(packet, batch) {
                Ok(Collected::Given(given)) => all = all.and(given),
                Ok(Collected::Left(packet)) => {
                    batch.put_back(packet);
                    break;
                }
                Err(reason) => {
                    this.counters.discard(reason, 1);
                    all = all.and(Given::packet(bytes));
                }
            }
        }
        collector.finish();
        this.counters.add(Counter::PacketsOut, all.packets);
        this.counters.add(Counter::BytesOut, all.bytes);
        if all.cut != 0 {
            this.counters.add(Counter::SuperPacketsOut, all.cut);
            this.counters.add(Counter::SegmentsOut, all.segments);
        }
        this.note_time_at_dispatch(now, all.packets, level);
    }
}
