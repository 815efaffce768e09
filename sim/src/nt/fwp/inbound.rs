//! The inbound transport layer: between the network and the sockets.
//!
//! Every datagram that a host has received for a socket comes here first, as NDIS's NET_BUFFER_LIST with the data behind the
//! UDP header. What callouts leave is authorised if it must be, and then indicated by WSK as if nothing had been.
//!
//! Coalesced datagrams (URO) are one list here and separate again for the socket.
//!
//! Source: WDD network/packet-inspection-points, network/data-offset-positions, network/udp-rsc-offload.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::classify::{self, Decision, Indication, Metadata};
use super::flows::{Traffic, Tuple};
use super::layers::{Facts, Layer};
use super::neighbour;
use super::received::{About, Received};
use super::{Fwp, fwp, udp};
use crate::host::Place;
use crate::host::routes::Tables;
use crate::nt::level::DISPATCH;
use crate::nt::machine::{Dead, Machine};
use crate::nt::ndis::lent::Packet;
use crate::nt::thread::Level;
use crate::nt::wsk;
use crate::verifier::schedule::lock;

/// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
const LOOPBACK: u32 = 1;
/// `FWP_CONDITION_FLAG_IS_REASSEMBLED`.
const REASSEMBLED: u32 = 0x400;
/// `FWP_CONDITION_FLAG_REQUIRES_ALE_CLASSIFY`.
const REQUIRES_ALE_CLASSIFY: u32 = 0x100;
/// Datagrams that are coalesced at most, and their bytes.
const COALESCED_MAX: usize = 16;
const COALESCED_BYTES: usize = 60_000;
/// The MTU of the path unless a test says otherwise.
const PATH_MTU: usize = 1500;
/// Bytes of the data that may be cut one by one, beside all the headers.
const SHREDDED: usize = 20;

/// Whether a network card coalesces datagrams (URO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coalescing {
    /// It does not.
    #[default]
    Off,
    /// It does, and the list says how many datagrams of which length.
    WithBoundaries,
    /// It does, and the list does not say.
    WithoutBoundaries,
    /// It does, and what the list says is wrong.
    WrongBoundaries,
}

/// What passed the inbound transport layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that callouts were asked about.
    pub classified: u64,
    /// Datagrams that a callout absorbed.
    pub absorbed: u64,
    /// Datagrams that a filter or callout blocked, reported as discards.
    pub blocked: u64,
    /// Datagrams that went on to their socket.
    pub permitted: u64,
    /// Datagrams that had to be authorised.
    pub authorised: u64,
    /// Datagrams that the firewall refused.
    pub refused: u64,
    /// Datagrams lost because callouts hold the network card's buffers.
    pub no_buffer: u64,
}

/// The counters behind [`Counts`], in its order.
pub(crate) struct Inbound {
    counts: [AtomicU64; 7],
    coalescing: AtomicU8,
    path_mtu: AtomicUsize,
}

impl Default for Inbound {
    fn default() -> Self {
        let path_mtu = AtomicUsize::new(PATH_MTU);
        Self { counts: Default::default(), coalescing: AtomicU8::new(0), path_mtu }
    }
}

/// Sets the MTU of the paths to this machine: longer datagrams come in fragments, and are shown reassembled.
pub fn set_path_mtu(machine: &Machine, mtu: usize) {
    fwp(machine).inbound.path_mtu.store(mtu, Ordering::Release);
}

#[derive(Clone, Copy)]
enum Count {
    Classified,
    Absorbed,
    Blocked,
    Permitted,
    Authorised,
    Refused,
    NoBuffer,
}

impl Inbound {
    fn count(&self, which: Count, datagrams: usize) {
        self.counts[which as usize].fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let [classified, absorbed, blocked, permitted, authorised, refused, no_buffer] =
            [0, 1, 2, 3, 4, 5, 6].map(|which: usize| self.counts[which].load(Ordering::Relaxed));
        Counts { classified, absorbed, blocked, permitted, authorised, refused, no_buffer }
    }

    pub(crate) fn set_coalescing(&self, coalescing: Coalescing) {
        self.coalescing.store(coalescing as u8, Ordering::Release);
    }
}

/// The socket that datagrams came for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    pub(crate) endpoint: u64,
    pub(crate) local: SocketAddr,
}

/// What becomes of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    ToSocket,
    /// Nothing is left of them.
    Gone,
    /// A callout holds the receive block they are in.
    Held,
}

/// Whether anybody looks at the layer.
pub(crate) fn is_watched(fwp: &Fwp, ipv6: bool) -> bool {
    fwp.is_busy(Layer::transport(true, ipv6)) || fwp.neighbour.is_there()
}

/// Shows the datagrams of `filled` to callouts, takes out what they absorb or block, and returns the names of the receive
/// blocks that are free again.
pub(crate) fn receive(
    machine: &Machine,
    fwp: &Fwp,
    to: Destination,
    filled: &mut Vec<Place>,
) -> Vec<usize> {
    let layer = Layer::transport(true, to.local.is_ipv6());
    if !is_watched(fwp, to.local.is_ipv6()) {
        return Vec::new();
    }
    if machine.options().verified {
        return show(machine, fwp, to, layer, filled);
    }
    // As a network card's DPC does it, at DISPATCH_LEVEL from the first to the last: a DPC that a callout queues on this CPU
    // runs when all of them have been shown. Under the verifier each comes from where it likes.
    machine.with_thread(|thread| {
        let Ok(before) = thread.raise(DISPATCH) else { return Vec::new() };
        let free = show(machine, fwp, to, layer, filled);
        thread.lower(before);
        free
    })
}

/// Shows each of `filled`.
fn show(
    machine: &Machine,
    fwp: &Fwp,
    to: Destination,
    layer: Layer,
    filled: &mut Vec<Place>,
) -> Vec<usize> {
    let mut free = Vec::new();
    let tables = wsk::wsk(machine).outer().map(|outer| outer.tables()).unwrap_or_default();
    let mut kept = Vec::with_capacity(filled.len());
    let mut waiting: std::collections::VecDeque<Place> = filled.drain(..).collect();
    while !waiting.is_empty() && !machine.is_dead() {
        let count = together(fwp, layer, &waiting);
        let group: Vec<Place> = waiting.drain(..count).collect();
        match judge(machine, fwp, to, &tables, &group) {
            Ok(Fate::ToSocket) => kept.extend(group),
            Ok(Fate::Held) => {}
            Ok(Fate::Gone) | Err(Dead) => free.extend(group.iter().map(|place| place.name)),
        }
    }
    free.extend(waiting.iter().map(|place| place.name));
    *filled = kept;
    free
}

/// How many datagrams at the front come as one list.
fn together(fwp: &Fwp, layer: Layer, waiting: &std::collections::VecDeque<Place>) -> usize {
    if fwp.inbound.coalescing.load(Ordering::Acquire) == Coalescing::Off as u8
        || !lock(&fwp.compiled).takes_coalesced(layer)
    {
        return 1;
    }
    let Some(first) = waiting.front() else { return 0 };
    let mut bytes = 0;
    let fits = |place: &&Place| {
        bytes += place.len;
        place.remote == first.remote
            && place.len <= first.len
            && place.len > 0
            && bytes <= COALESCED_BYTES
    };
    // All are of one length, but the last may be shorter.
    let fitting = waiting.iter().take(COALESCED_MAX).take_while(fits);
    let lengths: Vec<usize> = fitting.map(|place| place.len).collect();
    let same = lengths.iter().take_while(|length| **length == first.len).count();
    lengths.len().min(same + 1).max(1)
}

/// Judges one list.
fn judge(
    machine: &Machine,
    fwp: &Fwp,
    to: Destination,
    tables: &Tables,
    group: &[Place],
) -> Result<Fate, Dead> {
    let Some(first) = group.first() else { return Ok(Fate::Gone) };
    fwp.inbound.count(Count::Classified, group.len());
    if !fwp.nic.has_room() {
        fwp.inbound.count(Count::NoBuffer, group.len());
        return Ok(Fate::Gone);
    }
    let tuple = (to.local.port(), first.remote);
    let required = !fwp.flows.is_authorised(machine.world().now(), &tuple);
    let facts = facts(machine, to, tables, first, required);
    let about = about(machine, fwp, group, &facts);
    let Some(built) = build(machine, first, group, &facts, about) else {
        fwp.inbound.count(Count::NoBuffer, group.len());
        return Ok(Fate::Gone);
    };
    let in_place = !machine.options().verified && group.len() == 1;
    let received = fwp.nic.show(built);
    let packet = Classified { facts, tuple, required, endpoint: to.endpoint };
    let decided = classify_list(machine, fwp, &packet, &received);
    let passes = decided.is_ok_and(Decision::permits);
    let held = fwp.nic.retract(machine, &received, !passes);
    let decided = decided?;
    if !decided.permits() {
        let which = if decided.absorbed { Count::Absorbed } else { Count::Blocked };
        fwp.inbound.count(which, group.len());
        // In its block a list that was not referenced has just been given back.
        return Ok(if in_place { Fate::Held } else { Fate::Gone });
    }
    if held && in_place {
        // Who permits and keeps leaves nothing for the socket here; the verifier calls it an error.
        return Ok(Fate::Held);
    }
    fwp.inbound.count(Count::Permitted, group.len());
    Ok(Fate::ToSocket)
}

/// A packet and what is known of it.
struct Classified {
    facts: Facts,
    tuple: Tuple,
    required: bool,
    endpoint: u64,
}

impl Classified {
    /// How it is shown at `layer`.
    fn indication<'r>(
        &self,
        layer: Layer,
        metadata: Metadata,
        received: &'r Received,
    ) -> Indication<'r> {
        let (facts, list) = (self.facts, received.at);
        Indication { layer, facts, metadata, list, received: Some(received) }
    }
}

/// Asks the transport layer, and if need be the one that authorises.
fn classify_list(
    machine: &Machine,
    fwp: &Fwp,
    packet: &Classified,
    received: &Received,
) -> Result<Decision, Dead> {
    let ipv6 = packet.facts.local.is_ipv6();
    let metadata = Metadata {
        ip_header: if ipv6 { 40 } else { 20 },
        transport_header: udp::HEADER as u32,
        endpoint: packet.endpoint,
        flow: if packet.required { 0 } else { packet.endpoint ^ 0x5A5A },
        ale_required: packet.required,
    };
    let whose = (packet.endpoint, packet.facts);
    let so_far = neighbour::look(machine, fwp, whose, received, packet.required);
    let layer = Layer::transport(true, ipv6);
    let indication = packet.indication(layer, metadata, received);
    let decided = classify_somewhere(machine, fwp, &indication, so_far)?;
    if !decided.permits() {
        if decided.absorbed {
            fwp.flows.refresh(machine, &packet.tuple, Traffic::Absorbed);
        }
        return Ok(decided);
    }
    if packet.required {
        return authorise(machine, fwp, packet, received);
    }
    fwp.flows.refresh(machine, &packet.tuple, Traffic::Socket);
    Ok(decided)
}

/// Classifies a packet at ALE_AUTH_RECV_ACCEPT.
fn authorise(
    machine: &Machine,
    fwp: &Fwp,
    packet: &Classified,
    received: &Received,
) -> Result<Decision, Dead> {
    fwp.inbound.count(Count::Authorised, 1);
    let layer = Layer::auth_recv_accept(packet.facts.local.is_ipv6());
    let metadata = Metadata { endpoint: packet.endpoint, ..Metadata::default() };
    let indication = packet.indication(layer, metadata, received);
    let decided = classify_somewhere(machine, fwp, &indication, Decision::OPEN)?;
    if !decided.permits() || !fwp.flows.lets_in(&packet.tuple) {
        fwp.inbound.count(Count::Refused, 1);
        return Ok(Decision::hard(super::objects::BLOCK, false));
    }
    fwp.flows.authorise(machine.world().now(), packet.tuple);
    Ok(decided)
}

/// Asks the callouts of a layer, on some CPU and at some IRQL.
fn classify_somewhere(
    machine: &Machine,
    fwp: &Fwp,
    indication: &Indication<'_>,
    so_far: Decision,
) -> Result<Decision, Dead> {
    let (cpu, level) = somewhere(machine);
    let cpu = fwp.nic.cpu().unwrap_or(cpu);
    machine.on_cpu(cpu, || classify::run(machine, fwp, indication, so_far, level))
}

/// On which CPU and at which IRQL a packet is classified.
pub(crate) fn somewhere(machine: &Machine) -> (u32, Level) {
    if !machine.options().verified {
        let own = machine.with_thread(|thread| thread.cpu());
        return (own, Level::Dispatch);
    }
    let random = machine.world().random();
    // Mostly where the network card's DPC is; now and then elsewhere, and below DISPATCH_LEVEL.
    let level = if random.is_multiple_of(4) { Level::Current } else { Level::Dispatch };
    ((random >> 8) as u32 % machine.options().cpus, level)
}

fn facts(
    machine: &Machine,
    to: Destination,
    tables: &Tables,
    place: &Place,
    required: bool,
) -> Facts {
    let ip = place.local.map_or(to.local.ip(), |info| info.address);
    let interface = place.local.map_or(0, |info| info.interface);
    let own = |address: IpAddr| tables.owner(address).is_some();
    let mut flags = 0;
    if own(place.remote.ip()) {
        flags |= LOOPBACK;
    }
    if required {
        flags |= REQUIRES_ALE_CLASSIFY;
    }
    if machine.options().verified && is_reassembled(machine, to.local.is_ipv6(), place.len) {
        flags |= REASSEMBLED;
    }
    let luid = tables.interface(interface).map_or(0, |interface| interface.luid);
    Facts {
        local: SocketAddr::new(ip, to.local.port()),
        remote: place.remote,
        interface,
        luid,
        flags,
    }
}

fn about(machine: &Machine, fwp: &Fwp, group: &[Place], facts: &Facts) -> About {
    let coalescing = fwp.inbound.coalescing.load(Ordering::Acquire);
    let coalesced = if group.len() < 2 {
        (0, 0)
    } else if coalescing == Coalescing::WithBoundaries as u8 {
        (group.len() as u16, group.first().map_or(0, |place| place.len) as u16)
    } else if coalescing == Coalescing::WrongBoundaries as u8 {
        wrong_boundaries(machine, group)
    } else {
        (0, 0)
    };
    let looped = facts.flags & LOOPBACK != 0 && group.len() == 1;
    let injected_by = group.first().filter(|_| looped).map_or(0, |place| {
        // SAFETY: a filled place: its `len` bytes are ours until it is given on.
        let payload = unsafe { std::slice::from_raw_parts(place.payload.as_ptr(), place.len) };
        fwp.injections.looped(machine, payload)
    });
    About {
        ipv6: facts.local.is_ipv6(),
        inbound: true,
        loopback: facts.flags & LOOPBACK != 0,
        coalesced,
        merged: group.len() > 1,
        injected_by,
        ..About::default()
    }
}

/// Datagrams and their length as a card says that has it wrong: never so small that there would be more than came.
fn wrong_boundaries(machine: &Machine, group: &[Place]) -> (u16, u16) {
    let count = group.len() as u16;
    let length = group.first().map_or(0, |place| place.len);
    let total: usize = group.iter().map(|place| place.len).sum();
    match machine.world().random() % 5 {
        0 => (count, 0),
        1 => (count, 31),
        2 => (count, total as u16),
        3 => (0, length as u16 + 1),
        _ => (count, length as u16 + 16),
    }
}

/// Builds the list of one group.
fn build(
    machine: &Machine,
    first: &Place,
    group: &[Place],
    facts: &Facts,
    about: About,
) -> Option<Received> {
    let class = first.traffic_class.unwrap_or(0);
    let payload = |place: &Place| {
        // SAFETY: a filled place: its `len` bytes are ours until it is given on.
        unsafe { std::slice::from_raw_parts(place.payload.as_ptr(), place.len) }
    };
    let unsaid = about.merged && about.coalesced == (0, 0);
    let said = if unsaid && machine.either(&super::UNSAID_COALESCING_KEEPS_HEADERS) {
        first.len
    } else {
        group.iter().map(|place| place.len).sum()
    };
    let headers = udp::headers(facts.remote, facts.local, class, said);
    if !machine.options().verified && group.len() == 1 {
        let at = first.payload.as_ptr().expose_provenance();
        crate::loader::probe::write_bytes(at - headers.len(), &headers).ok()?;
        return Received::in_place(first.name, (at, first.len), headers.len(), about).ok();
    }
    let lead = headers.len();
    let mut packet = Packet { lead, bytes: headers, ..Packet::default() };
    group.iter().for_each(|place| packet.bytes.extend(payload(place)));
    if facts.flags & REASSEMBLED != 0 && group.len() == 1 {
        packet.cuts = fragments(machine, &mut packet.bytes, lead - udp::HEADER);
    } else if machine.world().random().is_multiple_of(16) {
        // Every byte of the headers, and the first of the data, in an MDL of its own.
        packet.cuts = (0..packet.bytes.len().min(lead + SHREDDED)).collect();
    }
    Received::scattered(machine, &[packet], about)
}

/// Whether a datagram of that many payload bytes came in fragments.
fn is_reassembled(machine: &Machine, ipv6: bool, payload: usize) -> bool {
    let headers = udp::HEADER + if ipv6 { 40 } else { 20 };
    headers + payload > fwp(machine).inbound.path_mtu.load(Ordering::Acquire)
}

/// Where the fragments of an IP packet begin whose header has `header` bytes; the header becomes that of the first.
fn fragments(machine: &Machine, packet: &mut [u8], header: usize) -> Vec<usize> {
    let mtu = fwp(machine).inbound.path_mtu.load(Ordering::Acquire);
    let each = (mtu.saturating_sub(header) & !7).max(8);
    if header == 20 {
        // Length and flags of the first fragment; whether its checksum is right nobody promises.
        let length = (header + each) as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6] |= 0x20;
    }
    (header..packet.len()).step_by(each).collect()
}

/// A datagram that somebody else's callout had taken comes back into the stack as a copy: classified again, then indicated.
pub(crate) fn reinject_copy(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    about: About,
    payload: &[u8],
) {
    let about = About { injected_by: neighbour::HANDLE, ..about };
    let mut bytes = udp::headers(facts.remote, facts.local, 0, payload.len());
    let lead = bytes.len();
    bytes.extend(payload);
    let packet = Packet { bytes, lead, ..Packet::default() };
    if let Some(built) = Received::scattered(machine, &[packet], about) {
        reinject(machine, fwp, (endpoint, facts), built);
    }
}

/// A list that somebody else's callout has put into the stack is classified, and indicated if it passes.
pub(crate) fn reinject(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    list: Received,
) {
    let received = fwp.nic.show(list);
    let payload = received.payload();
    let Some(socket) = fwp.endpoints.find(endpoint) else {
        fwp.nic.retract(machine, &received, true);
        return;
    };
    let tuple = (facts.local.port(), facts.remote);
    let packet = Classified { facts, tuple, required: false, endpoint };
    let decided = classify_list(machine, fwp, &packet, &received);
    fwp.nic.retract(machine, &received, true);
    match decided {
        Ok(decided) if decided.permits() => {
            fwp.inbound.count(Count::Permitted, 1);
            socket.deliver(machine, &facts, &payload);
        }
        Ok(decided) if decided.absorbed => fwp.inbound.count(Count::Absorbed, 1),
        Ok(_) => fwp.inbound.count(Count::Blocked, 1),
        Err(Dead) => {}
    }
}
