//! Injection at the transport layer: datagrams of the driver's own into the top of the stack (`FwpsInject*`).
//!
//! A list is checked as Windows cannot check it (ports, lengths and checksum of the UDP header, which nobody but the receiver
//! would notice), shown to OUTBOUND_TRANSPORT again with its injection state, and leaves by the socket of its endpoint, as
//! `WskSendMessages` does. Its completion comes inside the call, soon, later, on another CPU, at either IRQL; or, if a test
//! wants that, not before the socket is closed or the handle destroyed.
//!
//! Until then list, buffers, MDLs, data, address and control messages must stay as they are.
//!
//! Source: DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1, nc-fwpsk-fwps_inject_complete0; WDD network/packet-injection-functions.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::classify::{self, Decision, Indication, Metadata};
use super::clones::{self, Parent};
use super::flows::Traffic;
use super::layers::{Facts, Layer};
use super::objects::BLOCK;
use super::{Endpoint, Fwp, answer, fwp, neighbour, udp};
use crate::host::{Batch, Sending};
use crate::loader::probe::{self, Fault};
use crate::nt::imports;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::ndis::invariants::{self, Broken};
use crate::nt::ndis::layout::list;
use crate::nt::ndis::lists::{Made, ndis};
use crate::nt::ndis::{allocate_over, violation};
use crate::nt::thread::{Call, Level, Thread};
use crate::nt::wsk::layout::{AF_INET, AF_INET6};
use crate::nt::wsk::send_status;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

mod request;

use request::{Datagram, Request, Route, datagrams, route, wrong};

/// `FWPS_INJECTION_TYPE_TRANSPORT`.
const TRANSPORT: u32 = 2;
/// The latest a completion is delayed, if it comes at all.
const LATEST_US: u64 = 2000;
/// How long a handle's destruction waits before it is called a deadlock.
const PATIENCE: Duration = Duration::from_secs(20);

/// `FWPS_PACKET_INJECTION_STATE`.
mod state {
    pub(super) const NOT_INJECTED: u32 = 0;
    pub(super) const BY_SELF: u32 = 1;
    pub(super) const BY_OTHER: u32 = 2;
    pub(super) const PREVIOUSLY_BY_SELF: u32 = 3;
}

/// One injection handle.
pub(super) struct Handle {
    family: u16,
    pub(super) pending: usize,
    closing: bool,
}

/// A list whose completion is late.
struct Late {
    due: Option<Duration>,
    endpoint: u64,
    raised: bool,
    cpu: u32,
    done: Done,
}

impl Late {
    /// When it is to complete; not while it has clones.
    fn due(&self) -> Option<Duration> {
        self.due.filter(|_| clones::children(self.done.list) == 0)
    }
}

/// What is left to do for an injected list.
struct Done {
    handle: usize,
    list: usize,
    status: i32,
    routine: usize,
    context: u64,
    frozen: Vec<(usize, Vec<u8>)>,
}

/// The injections of one machine.
#[derive(Default)]
pub(crate) struct Injections {
    pub(super) handles: Mutex<FxHashMap<usize, Handle>>,
    /// Lists inside the stack: by which handle, and with which context.
    inside: Mutex<FxHashMap<usize, (usize, u64)>>,
    late: Mutex<Vec<Late>>,
    /// Datagrams on their way back to this machine, and the handles that injected them.
    looped: Mutex<Vec<(Vec<u8>, usize)>>,
    holds: AtomicBool,
}

/// Whether completions of injections wait until their socket is closed or their handle destroyed.
pub fn hold_injections(machine: &Machine, hold: bool) {
    let injections = &fwp(machine).injections;
    injections.holds.store(hold, Ordering::Release);
    if !hold {
        injections.release(machine, |_| true);
    }
}

impl Injections {
    pub(crate) fn handles(&self) -> usize {
        lock(&self.handles).len()
    }

    /// Lists that are not completed.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.handles).values().map(|handle| handle.pending).sum()
    }

    /// The handle that a datagram was injected by, if it was for this machine itself and the stack still says so; 0 otherwise.
    pub(crate) fn looped(&self, machine: &Machine, payload: &[u8]) -> usize {
        let mut looped = lock(&self.looped);
        let Some(at) = looped.iter().position(|(bytes, _)| bytes == payload) else { return 0 };
        let (_, handle) = looped.swap_remove(at);
        if machine.either(&super::LOOPED_LISTS_STAY_INJECTED) { handle } else { 0 }
    }

    fn key(&self) -> Key {
        Key::of(&self.late)
    }

    fn idle_key(&self) -> Key {
        Key::of(&self.handles)
    }

    /// Lets those that wait for a socket or handle complete.
    fn release(&self, machine: &Machine, which: impl Fn(&Late) -> bool) {
        let now = machine.world().now();
        lock(&self.late)
            .iter_mut()
            .filter(|late| late.due.is_none() && which(late))
            .for_each(|late| late.due = Some(now));
        machine.world().wake(self.key());
    }

    /// A clone of an injected list is gone.
    pub(crate) fn look_again(&self, machine: &Machine) {
        machine.world().wake(self.key());
    }

    /// The socket of an endpoint is being closed.
    pub(crate) fn endpoint_closes(&self, machine: &Machine, endpoint: u64) {
        self.release(machine, |late| late.endpoint == endpoint);
    }

    /// Completes what is late, until the machine is off.
    pub(crate) fn run(&self, machine: &Machine) {
        while !machine.is_off() && !machine.is_dead() {
            let next = lock(&self.late).iter().filter_map(Late::due).min();
            let due = || {
                if machine.is_off() {
                    return Some(None);
                }
                let now = machine.world().now();
                let mut late = lock(&self.late);
                let ready = |late: &Late| late.due().is_some_and(|due| due <= now);
                if let Some(at) = late.iter().position(ready) {
                    return Some(Some(late.swap_remove(at)));
                }
                (late.iter().filter_map(Late::due).min() != next).then_some(None)
            };
            if let Ok(Some(late)) = machine.wait(self.key(), next, "injections to complete", due) {
                let level = if late.raised { Level::Dispatch } else { Level::Passive };
                machine.on_cpu(late.cpu, || complete(machine, late.done, level));
            }
        }
    }
}

/// Gives a list back to the driver and calls its completion routine.
fn complete(machine: &Machine, done: Done, level: Level) {
    let fwp = fwp(machine);
    let changed =
        |(at, bytes): &(usize, Vec<u8>)| probe::bytes(*at, bytes.len()).as_ref() != Ok(bytes);
    if done.frozen.iter().any(changed) {
        return machine.die(
            &rules::WFP_INJECTION_CHANGED,
            "the address or control messages changed before completion",
        );
    }
    if let Err(Broken { rule, detail }) = ndis(machine).hand_back(machine, done.list) {
        return machine.die(rule, detail);
    }
    lock(&fwp.injections.inside).remove(&done.list);
    if probe::write(done.list + list::STATUS, done.status).is_err() {
        return machine
            .die(&rules::NBL_L8, format!("list {:#x} is gone before its completion", done.list));
    }
    let raised = match level {
        Level::Dispatch => true,
        Level::Passive => false,
        Level::Current => machine.with_thread(|thread| thread.irql() >= DISPATCH),
    };
    let arguments = [done.context, done.list as u64, raised.into()];
    // A machine that died over it has its report.
    let _ = machine.call(Call::new("completionFn", done.routine, level), &arguments);
    if let Some(handle) = lock(&fwp.injections.handles).get_mut(&done.handle) {
        handle.pending -= 1;
    }
    machine.world().wake(fwp.injections.idle_key());
}

/// Shows an injected list to the callouts of the outbound transport layer; what they decide.
fn judge(
    machine: &Machine,
    fwp: &Fwp,
    (request, how): (&Request, &Sending),
    to: SocketAddr,
    from: SocketAddr,
) -> Decision {
    let layer = Layer::transport(false, from.is_ipv6());
    let neighbour = fwp.neighbour.sees_sent();
    if !fwp.is_busy(layer) && !neighbour {
        return Decision::OPEN;
    }
    let facts = Facts { local: from, remote: to, interface: 0, luid: 0, flags: 0 };
    let mut so_far = Decision::OPEN;
    if neighbour && let Ok(buffers) = invariants::check(request.list) {
        let (whose, by) = ((request.endpoint, facts), (request.handle, request.context));
        let parent = (Parent::Injected(request.list), &buffers[..]);
        so_far = neighbour::look_at_sent(machine, fwp, whose, parent, (by, how));
    }
    let metadata = Metadata {
        transport_header: udp::HEADER as u32,
        endpoint: request.endpoint,
        ..Metadata::default()
    };
    let indication = Indication { layer, facts, metadata, list: request.list, received: None };
    let decided = classify::run(machine, fwp, &indication, so_far, Level::Current);
    decided.unwrap_or(Decision::hard(BLOCK, false))
}

/// Hands the datagrams to the network; the status of the list.
fn transmit(
    machine: &Machine,
    fwp: &Fwp,
    request: &Request,
    endpoint: &dyn Endpoint,
    route: &Route,
    datagrams: &[Datagram],
) -> i32 {
    let Some(host) = endpoint.host() else { return answer::FILE_FORCED_CLOSED };
    let how = Sending {
        packet_info: route.control.packet_info,
        traffic_class: route.control.traffic_class,
    };
    let mut sent = 0;
    while sent < datagrams.len() {
        let to = datagrams[sent].to;
        match judge(machine, fwp, (request, &how), to, endpoint.local()) {
            decided if decided.permits() => {}
            // All of the list is somebody else's to go on with; that is no failure.
            decided if decided.absorbed => return answer::SUCCESS,
            _ => return answer::ACCESS_DENIED,
        }
        let tables = super::super::wsk::wsk(machine).outer().map(|outer| outer.tables());
        let loops = tables.is_some_and(|tables| tables.owner(to.ip()).is_some());
        let mut batch = Batch::default();
        let first = sent;
        while let Some(datagram) = datagrams.get(sent).filter(|datagram| datagram.to == to) {
            let pieces = datagram.stretches.iter().map(|(address, length)| {
                // SAFETY: stretches of the list's data, which the driver may not touch before completion.
                unsafe {
                    std::slice::from_raw_parts(
                        std::ptr::with_exposed_provenance::<u8>(*address),
                        *length,
                    )
                }
            });
            if loops {
                let bytes = pieces.clone().flatten().copied().collect();
                lock(&fwp.injections.looped).push((bytes, request.handle));
            }
            if !batch.push(pieces) {
                break;
            }
            sent += 1;
        }
        if sent == first {
            return answer::INVALID_PARAMETER;
        }
        if let Err(error) = host.send(to, &how, &batch) {
            return send_status(error);
        }
        fwp.flows.sent(machine, (endpoint.local().port(), to), Traffic::Injected);
    }
    answer::SUCCESS
}

fn inject(thread: &Thread, request: Request, flags: u32) -> i32 {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    let family = match lock(&fwp.injections.handles).get(&request.handle) {
        None => None,
        Some(handle) if handle.closing => return answer::INJECT_HANDLE_CLOSING,
        Some(handle) => Some(handle.family),
    };
    let Some(family) = family else {
        thread.stop(&rules::WFP_INJECTION, format!("{:#x} is no injection handle", request.handle));
        return 0;
    };
    if let Some(wrong) = wrong(&fwp, &request, flags) {
        thread.stop(&rules::WFP_INJECTION, wrong);
        return 0;
    }
    let Some(endpoint) = fwp.endpoints.find(request.endpoint) else {
        return answer::INVALID_PARAMETER;
    };
    let fits = (request.family == AF_INET6) == endpoint.local().is_ipv6()
        && matches!(request.family, AF_INET | AF_INET6);
    if !fits || (family != 0 && family != request.family) {
        return answer::INVALID_PARAMETER;
    }
    let route = match route(request.arguments, request.family) {
        Ok(route) => route,
        Err(None) => return answer::INVALID_PARAMETER,
        Err(Some(Fault(at))) => return thread.bad_pointer("sendArgs", at),
    };
    let taken = ndis(machine).hand_over(machine, request.list);
    let checked = taken.and_then(|buffers| invariants::send_info(request.list).map(|()| buffers));
    let buffers = match checked {
        Ok(buffers) => buffers,
        Err(broken) => {
            violation(thread, "FwpsInjectTransportSendAsync1", broken);
            return 0;
        }
    };
    match datagrams(machine, &*endpoint, &route, &buffers) {
        Ok(datagrams) if !datagrams.is_empty() => {
            send(thread, &fwp, request, &*endpoint, route, &datagrams)
        }
        Ok(_) => {
            thread.stop(&rules::WFP_INJECTION, "the list has no buffer");
            0
        }
        Err(wrong) => {
            thread.stop(&rules::WFP_INJECTION, wrong);
            0
        }
    }
}

/// Sends, and completes now or later.
fn send(
    thread: &Thread,
    fwp: &Fwp,
    request: Request,
    endpoint: &dyn Endpoint,
    route: Route,
    datagrams: &[Datagram],
) -> i32 {
    let machine = thread.machine();
    let injections = &fwp.injections;
    if let Some(handle) = lock(&injections.handles).get_mut(&request.handle) {
        handle.pending += 1;
    }
    lock(&injections.inside).insert(request.list, (request.handle, request.context));
    let status = transmit(machine, fwp, &request, endpoint, &route, datagrams);
    let Request { handle, list, routine, routine_context: context, .. } = request;
    let frozen = if machine.options().verified { route.frozen } else { Vec::new() };
    let done = Done { handle, list, status, routine, context, frozen };
    let random = machine.world().random();
    let holds = injections.holds.load(Ordering::Acquire);
    let is_cloned = clones::children(list) != 0;
    if !holds && !is_cloned && (!machine.options().verified || random.is_multiple_of(3)) {
        complete(machine, done, Level::Current);
        return answer::SUCCESS;
    }
    let delay = if random & 0x100 == 0 { 0 } else { (random >> 16) % LATEST_US };
    let due = (!holds).then(|| machine.world().now() + Duration::from_micros(delay));
    let cpu = (random >> 32) as u32 % machine.options().cpus;
    lock(&injections.late).push(Late {
        due,
        endpoint: request.endpoint,
        raised: random & 0x200 == 0,
        cpu,
        done,
    });
    machine.world().wake(injections.key());
    if thread.irql() < DISPATCH && delay == 0 {
        // Lets the completion come before the call has returned.
        machine.world().point();
    }
    answer::SUCCESS
}

/// Waits for everything that was injected by a handle.
fn destroy(thread: &Thread, handle: usize) -> i32 {
    let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
    let injections = &fwp.injections;
    let known = match lock(&injections.handles).get_mut(&handle) {
        Some(known) if !known.closing => {
            known.closing = true;
            true
        }
        _ => false,
    };
    if !known {
        thread.stop(&rules::WFP_INJECTION_HANDLE, format!("{handle:#x} is no injection handle"));
        return 0;
    }
    injections.release(machine, |late| late.done.handle == handle);
    let idle = || {
        lock(&injections.handles).get(&handle).is_none_or(|known| known.pending == 0).then_some(())
    };
    let deadline = machine.world().now() + PATIENCE;
    let ended = machine.wait(injections.idle_key(), Some(deadline), "injections of a handle", idle);
    if ended.is_err() && !machine.is_dead() {
        thread.stop(&rules::DEADLOCK_INJECTION, "an injection is not completed");
        return 0;
    }
    lock(&injections.handles).remove(&handle);
    machine.release(handle);
    answer::SUCCESS
}

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// Makes an injection handle; early at boot tcpip may not be there yet.
    [max: PASSIVE, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0", fail: answer::TCPIP_NOT_READY]
    fn FwpsInjectionHandleCreate0(thread, family: u16, flags: u32, handle: usize) -> i32 {
        if flags != TRANSPORT {
            thread.stop(&rules::NOT_PROVIDED, format!("FwpsInjectionHandleCreate0 with flags {flags:#x}"));
            return 0;
        }
        if !matches!(family, 0 | AF_INET | AF_INET6) {
            return answer::INVALID_PARAMETER;
        }
        let machine = thread.machine();
        let made = machine.allocate(16);
        lock(&fwp(machine).injections.handles).insert(made, Handle { family, pending: 0, closing: false });
        if probe::write(handle, made).is_err() {
            return thread.bad_pointer("injectionHandle", handle);
        }
        answer::SUCCESS
    }

    /// Destroys an injection handle, once everything injected by it is completed.
    [max: PASSIVE, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsinjectionhandledestroy0", point: true]
    fn FwpsInjectionHandleDestroy0(thread, handle: usize) -> i32 {
        destroy(thread, handle)
    }

    /// Who has put a list into the stack.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0"]
    fn FwpsQueryPacketInjectionState0(thread, handle: usize, at: usize, context: usize) -> u32 {
        let fwp = fwp(thread.machine());
        let known = lock(&fwp.injections.handles).contains_key(&handle);
        if !known {
            thread.stop(&rules::WFP_INJECTION_STATE, format!("{handle:#x} is no injection handle"));
            return 0;
        }
        let inside = lock(&fwp.injections.inside).get(&at).copied();
        let (by, before) = match (inside, fwp.nic.find(at)) {
            (Some(inside), _) => (inside, (0, 0)),
            (None, Some(received)) => ((received.about.injected_by, 0), received.about.before),
            (None, None) => {
                thread.stop(&rules::WFP_INJECTION_STATE, format!("{at:#x} is no list in the stack"));
                return 0;
            }
        };
        let own = [by, before].into_iter().find(|(by, _)| *by == handle);
        if let Some((_, theirs)) = own.filter(|_| context != 0)
            && probe::write(context, theirs).is_err()
        {
            thread.bad_pointer("injectionContext", context);
        }
        match (by.0, before.0) {
            (0, _) => state::NOT_INJECTED,
            (by, _) if by == handle => state::BY_SELF,
            (_, before) if before == handle => state::PREVIOUSLY_BY_SELF,
            _ => state::BY_OTHER,
        }
    }

    /// Injects one list of datagrams that begin with their UDP header.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpsInjectTransportSendAsync1(
        thread, handle: usize, context: u64, endpoint: u64, flags: u32, arguments: usize, family: u16,
        compartment: u32, list: usize, routine: usize, routine_context: u64,
    ) -> i32 {
        let request = Request { handle, context, endpoint, arguments, family, list, routine, routine_context };
        inject(thread, request, flags)
    }

    /// Allocates a list with a buffer over the driver's MDLs, to inject.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsallocatenetbufferandnetbufferlist0", fail: answer::INSUFFICIENT_RESOURCES]
    fn FwpsAllocateNetBufferAndNetBufferList0(
        thread, pool: usize, context: u16, backfill: u16, chain: usize, offset: u32, length: usize, list: usize,
    ) -> i32 {
        let made = allocate_over(thread, (pool, Made::Fwps), (context, backfill), (chain, offset, length));
        let Some(made) = made else { return answer::INSUFFICIENT_RESOURCES };
        if probe::write(list, made).is_err() {
            return thread.bad_pointer("netBufferList", list);
        }
        answer::SUCCESS
    }

    /// Frees such a list.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsfreenetbufferlist0"]
    fn FwpsFreeNetBufferList0(thread, list: usize) {
        if let Err(broken) = ndis(thread.machine()).free(thread, list, Made::Fwps) {
            violation(thread, "FwpsFreeNetBufferList0", broken);
        }
    }
}

/// Marks a handle as one that is being destroyed.
#[cfg(test)]
pub(crate) fn close_for_test(machine: &Machine, handle: usize) {
    lock(&fwp(machine).injections.handles).entry(handle).and_modify(|known| known.closing = true);
}

/// An endpoint by its handle.
pub(crate) type Endpoints = Mutex<FxHashMap<u64, Arc<dyn Endpoint>>>;
