//! `WskReceiveFromEvent` and `WskRelease`: datagrams from the network into the driver.
//!
//! A datagram lands in a [`Block`] of the machine's arena: node, MDL, addresses, control messages
//! and payload in one piece that is never freed, only reused, so that the network can write where
//! the driver will read. In verified mode the block's bytes are taken apart before the driver sees
//! them: payload over several MDLs with an offset, control messages missing or in company, lists
//! of random length, either IRQL.
//!
//! Ownership is a word per block. A list that was indicated is either freed by WSK (the callback
//! returned STATUS_SUCCESS) or released by the driver node by node; doing both is found.
//!
//! Source: DDI wsk/nc-wsk-pfn_wsk_receive_from_event; `facts/wsk.md` 5.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::control_messages::{self as cmsg, append, append_packet_info};
use super::layout::{self, Buf, Indication, Mdl, SOCKADDR_LEN};
use super::socket::{EVENT_RECEIVE_FROM, Socket};
use super::{Wsk, answer, coalesce};
use crate::host::{Landing, Place};
use crate::nt::fwp::inbound::{self, Destination};
use crate::nt::fwp::layers::Facts;
use crate::nt::fwp::{self, Endpoint};
use crate::nt::machine::Machine;
use crate::nt::ndis::lent;
use crate::nt::netcx::poll_thread::with_dpcs;
use crate::nt::thread::{Call, Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// Payload bytes a block has room for: any UDP datagram.
const PAYLOAD: usize = 65536;
/// Bytes from one block to the next; not a power of two, so that heads spread over cache sets.
const STRIDE: usize = 4096 + PAYLOAD + 512;
/// Blocks made at a time.
const GROWTH: usize = 256;
/// Blocks one machine may have: 1,024 received datagrams held by the driver and its readers.
const BLOCKS_MAX: usize = 4096;
/// MDLs a payload is split over at most.
const SPLITS: usize = 4;
/// The longest list indicated at once.
const LIST_MAX: usize = 32;
/// `WSK_FLAG_AT_DISPATCH_LEVEL`.
const AT_DISPATCH: u64 = 8;

/// Who a block belongs to.
const FREE: usize = 0;
const WITH_NETWORK: usize = 1;
const INDICATED: usize = 2;

/// Everything of one received datagram. The node comes first: its address is the block's.
#[repr(C, align(64))]
struct Block {
    node: Indication,
    owner: AtomicUsize,
    mdls: [Mdl; SPLITS],
    remote: [u8; SOCKADDR_LEN],
    control: [u8; 128],
}

/// Where the payload begins in a block.
const PAYLOAD_AT: usize = 1536;
/// Where the descriptors of the datagram as a NET_BUFFER_LIST are, if callouts are to see it.
const DESCRIPTORS_AT: usize = 512;
/// Room in front of the payload for IP and UDP headers.
const HEADERS: usize = 48;
const _: () = assert!(size_of::<Block>() <= DESCRIPTORS_AT && PAYLOAD_AT + PAYLOAD <= STRIDE);
const _: () = assert!(DESCRIPTORS_AT + lent::DESCRIPTORS + HEADERS <= PAYLOAD_AT);

/// Where callouts' view of the datagram in the block `name` is described.
pub(crate) fn descriptors(name: usize) -> usize {
    name + DESCRIPTORS_AT
}

/// The blocks of one machine. They are never unmapped while the machine exists.
#[derive(Default)]
pub(super) struct Arena {
    free: Mutex<Vec<usize>>,
    spans: Mutex<Vec<usize>>,
}

impl Arena {
    pub(super) fn take(&self, places: &mut Vec<Place>, count: usize) {
        let mut free = lock(&self.free);
        if free.len() < count {
            self.grow(&mut free);
        }
        for _ in 0..count {
            let Some(name) = free.pop() else { break };
            block(name).owner.store(WITH_NETWORK, Ordering::Relaxed);
            let payload = std::ptr::with_exposed_provenance_mut::<u8>(name + PAYLOAD_AT);
            let Some(payload) = NonNull::new(payload) else { break };
            let remote = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
            places.push(Place {
                payload,
                capacity: PAYLOAD,
                name,
                len: 0,
                segment: 0,
                remote,
                local: None,
                traffic_class: None,
            });
        }
    }

    pub(super) fn give(&self, names: impl Iterator<Item = usize>) {
        let mut free = lock(&self.free);
        for name in names {
            block(name).owner.store(FREE, Ordering::Relaxed);
            free.push(name);
        }
    }

    /// Maps more blocks; their pages cost nothing until they are written.
    fn grow(&self, free: &mut Vec<usize>) {
        let mut spans = lock(&self.spans);
        if spans.len() * GROWTH >= BLOCKS_MAX {
            return;
        }
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new anonymous mapping; it overlaps nothing.
        let span =
            unsafe { libc::mmap(std::ptr::null_mut(), STRIDE * GROWTH, protection, flags, -1, 0) };
        if span == libc::MAP_FAILED {
            return;
        }
        let span = span.expose_provenance();
        spans.push(span);
        free.extend((0..GROWTH).rev().map(|number| span + number * STRIDE));
    }

    /// Whether `name` is the address of one of these blocks.
    fn owns(&self, name: usize) -> bool {
        let inside = |span: &usize| {
            name.checked_sub(*span)
                .is_some_and(|at| at < STRIDE * GROWTH && at.is_multiple_of(STRIDE))
        };
        lock(&self.spans).iter().any(inside)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for span in lock(&self.spans).drain(..) {
            // SAFETY: mapped by `grow` with this length; the machine and its readers are gone.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(span), STRIDE * GROWTH) };
        }
    }
}

/// The shared head of a block that the arena made. Plain fields are written through raw pointers.
fn block<'b>(name: usize) -> &'b Block {
    // SAFETY: names come from `grow` (zeroed, aligned memory that stays mapped) or were checked by
    // `owns`; through this reference only the atomic owner is used while others write the rest.
    unsafe { &*std::ptr::with_exposed_provenance::<Block>(name) }
}

/// The landing of one socket.
pub(super) struct SocketLanding {
    socket: Arc<Socket>,
    arena: Arc<Arena>,
}

impl SocketLanding {
    pub(super) fn new(socket: Arc<Socket>, arena: Arc<Arena>) -> Self {
        Self { socket, arena }
    }
}

impl Landing for SocketLanding {
    fn places(&self, places: &mut Vec<Place>, count: usize) {
        self.arena.take(places, count);
    }

    fn landed(&self, filled: &mut Vec<Place>) {
        let machine = self.socket.machine.upgrade();
        if let Some(machine) = machine.filter(|machine| !machine.is_dead()) {
            let endpoint = self.socket.endpoint.load(Ordering::Acquire);
            let to = Destination { endpoint, local: self.local() };
            // What was taken as one had passed when the first callout came.
            with_dpcs(&machine, || {
                if filled.iter().all(|place| place.segment == 0) {
                    let free = inbound::receive(&machine, &fwp::fwp(&machine), to, filled);
                    self.arena.give(free.into_iter());
                }
                self.indicate_all(&machine, filled);
            });
        }
        self.unused(filled);
    }

    fn takes_coalesced(&self) -> bool {
        let Some(machine) = self.socket.machine.upgrade() else { return false };
        lock(&self.socket.settings).coalesces > 0
            && !inbound::is_watched(&fwp::fwp(&machine), self.socket.ipv6)
    }

    fn unused(&self, places: &mut Vec<Place>) {
        self.arena.give(places.drain(..).map(|place| place.name));
    }
}

impl Endpoint for SocketLanding {
    fn local(&self) -> SocketAddr {
        let unknown = || SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        lock(&self.socket.settings).local.unwrap_or_else(unknown)
    }

    fn host(&self) -> Option<Arc<dyn crate::host::Socket>> {
        lock(&self.socket.settings).host.clone()
    }

    fn deliver(&self, machine: &Machine, facts: &Facts, payload: &[u8]) {
        let mut places = Vec::new();
        self.arena.take(&mut places, 1);
        for place in &mut places {
            place.fill(payload);
            place.remote = facts.remote;
            let (address, interface) = (facts.local.ip(), facts.interface);
            place.local = Some(cmsg::PacketInfo { address, interface });
        }
        self.indicate_all(machine, &mut places);
        self.unused(&mut places);
    }
}

impl SocketLanding {
    /// Indicates as much of `filled` as the socket takes.
    fn indicate_all(&self, machine: &Machine, filled: &mut Vec<Place>) {
        if !self.socket.begin_callback() {
            return;
        }
        let most = lock(&self.socket.settings).coalesces;
        if most > 0 {
            let mut empty = Vec::new();
            coalesce::put_together(machine, most, filled, &mut empty);
            self.unused(&mut empty);
        }
        while !filled.is_empty() && !machine.is_dead() {
            self.indicate(machine, filled);
        }
        self.socket.end_callback();
    }

    /// Indicates one list from the front of `filled`.
    fn indicate(&self, machine: &Machine, filled: &mut Vec<Place>) {
        let verified = machine.options().verified;
        let random = machine.world().random();
        let longest = if verified { 1 + random as usize % LIST_MAX } else { LIST_MAX };
        let list: Vec<Place> = filled.drain(..longest.min(filled.len())).collect();
        let mut next = std::ptr::null_mut();
        for place in list.iter().rev() {
            self.build(machine, place, next);
            next = std::ptr::with_exposed_provenance_mut(place.name);
            block(place.name).owner.store(INDICATED, Ordering::Release);
        }
        self.socket.offered.fetch_add(list.len(), Ordering::AcqRel);
        self.socket.retained.fetch_add(list.len(), Ordering::AcqRel);
        let raised = !verified || random & 0x10000 != 0;
        let (level, flags) =
            if raised { (Level::Dispatch, AT_DISPATCH) } else { (Level::Passive, 0) };
        let call = Call::new("WskReceiveFromEvent", self.socket.receive, level);
        let answered =
            machine.call(call, &[self.socket.context, flags, next.expose_provenance() as u64]);
        match answered.map(|status| status as i32) {
            Err(_) | Ok(answer::PENDING) => {}
            Ok(answer::SUCCESS) => self.free(machine, &list),
            Ok(answer::DATA_NOT_ACCEPTED) => {
                // The data would be buffered and indicated again; here it is lost, as UDP may be.
                lock(&self.socket.settings).events &= !EVENT_RECEIVE_FROM;
                self.free(machine, &list);
            }
            Ok(status) => {
                let detail =
                    format!("{}: the callback returned {status:#x}", self.socket.describe());
                machine.die(&rules::WSK_RECEIVE_FROM_EVENT, detail);
            }
        }
        self.socket.offered.fetch_sub(list.len(), Ordering::AcqRel);
    }

    /// Takes a list back whose callback did not keep it.
    fn free(&self, machine: &Machine, list: &[Place]) {
        let freed = list.iter().filter(|place| take_back(place.name)).count();
        self.socket.retained.fetch_sub(freed, Ordering::AcqRel);
        self.arena.give(list.iter().map(|place| place.name));
        if freed < list.len() {
            let detail = format!(
                "{}: nodes were released and the list freed as well",
                self.socket.describe()
            );
            machine.die(&rules::WSK_RELEASE, detail);
        }
    }

    /// Writes the node of a filled place.
    fn build(&self, machine: &Machine, place: &Place, next: *mut Indication) {
        let at = std::ptr::with_exposed_provenance_mut::<Block>(place.name);
        let verified = machine.options().verified;
        let random = if verified { machine.world().random() } else { 0 };
        let mut control = [0; 128];
        let length = self.control(machine, place, random, &mut control);
        // SAFETY: `place` is the block's only owner, so nobody else reads or writes these fields.
        let fields = unsafe { BlockFields::of(at) };
        let buffer =
            if verified { scatter(fields.mdls, place, random) } else { whole(fields.mdls, place) };
        *fields.remote = layout::address_bytes(place.remote);
        *fields.control = control;
        let empty = length == 0;
        *fields.node = Indication {
            next,
            buffer,
            control: if empty { std::ptr::null_mut() } else { fields.control.as_mut_ptr() },
            control_length: length as u32,
            remote: fields.remote.as_mut_ptr(),
        };
    }

    /// Writes the control messages of a datagram and returns their length.
    fn control(
        &self,
        machine: &Machine,
        place: &Place,
        random: u64,
        list: &mut [u8; 128],
    ) -> usize {
        let settings = lock(&self.socket.settings);
        let may_say = settings.coalesces > 0 || place.segment != 0;
        let said = if may_say { coalesce::said(machine, place) } else { None };
        let said = said.map(u32::to_le_bytes);
        let coalesced = (cmsg::IPPROTO_UDP, cmsg::UDP_COALESCED_INFO);
        let level = if self.socket.ipv6 { cmsg::IPPROTO_IPV6 } else { cmsg::IPPROTO_IP };
        let mut used = 0;
        // One datagram in 32 comes without, one in 8 with a stranger in front.
        if random & 0x1F == 0x1F
            && place.segment == 0
            && machine.either(&super::CONTROL_MESSAGES_MAY_BE_MISSING)
        {
            return 0;
        }
        // In front of the others, or behind them.
        let in_front = random & 0x100 != 0;
        if let Some(said) = said.filter(|_| in_front) {
            used = append(list, used, (coalesced.0, coalesced.1, &said)).unwrap_or(used);
        }
        if random & 0xE0 == 0xE0 {
            used = append(list, used, (level, 21, &[64, 0, 0, 0])).unwrap_or(used);
        }
        if let Some(info) = place.local.filter(|_| settings.wants_packet_info) {
            used = append_packet_info(list, used, &info).unwrap_or(used);
        }
        if let Some(class) = place.traffic_class.filter(|_| settings.wants_traffic_class) {
            let ecn = i32::from(class & 3).to_le_bytes();
            used = append(list, used, (level, cmsg::ECN, &ecn)).unwrap_or(used);
        }
        if let Some(said) = said.filter(|_| !in_front) {
            used = append(list, used, (coalesced.0, coalesced.1, &said)).unwrap_or(used);
        }
        used
    }
}

/// The plain fields of a block, for its one owner.
struct BlockFields<'b> {
    node: &'b mut Indication,
    mdls: &'b mut [Mdl; SPLITS],
    remote: &'b mut [u8; SOCKADDR_LEN],
    control: &'b mut [u8; 128],
}

impl BlockFields<'_> {
    /// # Safety
    ///
    /// `at` is a block of the arena, and the caller is its only owner.
    unsafe fn of(at: *mut Block) -> Self {
        // SAFETY: the caller's promise; the fields do not overlap, and the owner word is left out.
        let node = unsafe { &mut (*at).node };
        // SAFETY: as above.
        let mdls = unsafe { &mut (*at).mdls };
        // SAFETY: as above.
        let remote = unsafe { &mut (*at).remote };
        // SAFETY: as above.
        let control = unsafe { &mut (*at).control };
        Self { node, mdls, remote, control }
    }
}

/// The payload in one MDL.
fn whole(mdls: &mut [Mdl; SPLITS], place: &Place) -> Buf {
    mdls[0] = Mdl::over(place.payload.as_ptr(), place.len, true);
    Buf { mdl: &raw mut mdls[0], offset: 0, length: place.len }
}

/// The payload over up to [`SPLITS`] MDLs, some of a single byte, behind an offset.
fn scatter(mdls: &mut [Mdl; SPLITS], place: &Place, random: u64) -> Buf {
    let wanted = 1 + (random >> 8) as usize % SPLITS;
    let (mut at, mut used) = (0, 0);
    for number in 0..wanted {
        let left = place.len - at;
        let last = number + 1 == wanted || left <= 1;
        // Half of the cuts fall into the first 20 bytes, where headers are.
        let cut = (random >> (16 + 8 * number)) as usize & 0xFF;
        let far = if place.segment == 0 { 4 } else { 256 };
        let length =
            if last { left } else { 1 + (if cut & 1 == 0 { cut % 20 } else { cut * far }) % left };
        mdls[used] = Mdl::over(
            place.payload.as_ptr().wrapping_add(at),
            length.min(left),
            random >> (40 + number) & 1 == 0,
        );
        at += length.min(left);
        used += 1;
        if last {
            break;
        }
    }
    for number in 1..used {
        let next = &raw mut mdls[number];
        mdls[number - 1].next = next;
    }
    // The first MDL begins before the datagram: what a network card's header would be.
    let lead = if random >> 63 == 1 { 14 } else { 0 };
    let count = mdls[0].byte_count as usize;
    mdls[0] = Mdl {
        next: mdls[0].next,
        ..Mdl::over(place.payload.as_ptr().wrapping_sub(lead), count + lead, random >> 62 & 1 == 0)
    };
    Buf { mdl: &raw mut mdls[0], offset: lead as u32, length: place.len }
}

/// Takes a block from the driver; false if the driver did not have it.
fn take_back(name: usize) -> bool {
    block(name).owner.compare_exchange(INDICATED, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Releases every node of the chain that begins at `list`.
pub(super) fn release(thread: &Thread, wsk: &Wsk, socket: &Socket, list: *mut Indication) {
    let mut names = [0; LIST_MAX];
    let (mut used, mut node) = (0, list);
    while !node.is_null() {
        let name = node.expose_provenance();
        if (thread.machine().options().verified && !wsk.arena.owns(name)) || !take_back(name) {
            let detail =
                format!("{}: {name:#x} is not an indication the driver holds", socket.describe());
            return thread.stop(&rules::WSK_RELEASE, detail);
        }
        // SAFETY: an indication of ours that nobody else has any more.
        node = unsafe { layout::read(node) }.next;
        names[used] = name;
        used += 1;
        if used == LIST_MAX || node.is_null() {
            socket.retained.fetch_sub(used, Ordering::AcqRel);
            wsk.arena.give(names[..used].iter().copied());
            used = 0;
        }
    }
}
