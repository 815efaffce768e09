//! `WskSendTo` and `WskSendMessages`: datagrams out of the driver's memory onto the network.
//!
//! The datagrams are handed to the network inside the call, in the driver's own memory and without
//! an allocation; only the completion may be late. Verified mode keeps a copy of what it read
//! (payloads, the list's nodes, control messages) and compares it when the IRP completes: the
//! driver may not change any of it before.
//!
//! Source: DDI wsk/nc-wsk-pfn_wsk_send_messages; `facts/wsk.md` 6 and 7.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::completion::{Done, finish, finish_now};
use super::control_messages::{self, SendControl};
use super::layout::{self, Buf, BufList, Pieces};
use super::socket::{Socket, State};
use super::{TRAFFIC_CLASS_IS_REFUSED, TRAFFIC_CLASS_IS_TAKEN, Wsk, answer, segments};
use crate::host::{self, Batch, SendError, Sending};
use crate::loader::probe;
use crate::nt::fwp::inbound::Destination;
use crate::nt::fwp::outbound::{self, Leave};
use crate::nt::machine::Machine;
use crate::nt::pool;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// Payload bytes of the largest datagram over IPv4 and over IPv6.
const LARGEST: [usize; 2] = [65507, 65527];
/// Bytes of a `SOCKADDR_IN`.
const SOCKADDR_IN_LEN: usize = 16;
/// The longest control list that makes sense.
const CONTROL_MAX: u32 = 4096;

/// One call of either function.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) buffers: Buffers,
    pub(super) flags: u32,
    pub(super) remote: usize,
    pub(super) control_length: u32,
    pub(super) control: usize,
    pub(super) irp: usize,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub(super) enum Buffers {
    One(*const Buf),
    List(*const BufList),
}

// SAFETY: addresses of driver memory, which stays until the request's IRP is completed.
unsafe impl Send for Request {}

impl Buffers {
    /// The `WSK_BUF`s, in order.
    fn each(self) -> impl Iterator<Item = Buf> {
        let (mut one, mut list) = match self {
            Self::One(one) => (one, std::ptr::null()),
            Self::List(list) => (std::ptr::null(), list),
        };
        std::iter::from_fn(move || {
            if !one.is_null() {
                // SAFETY: not null; the driver's, alive during the call.
                return Some(unsafe {
                    layout::read(std::mem::replace(&mut one, std::ptr::null()))
                });
            }
            if list.is_null() {
                return None;
            }
            // SAFETY: not null; the list's nodes stay until completion.
            let node = unsafe { layout::read(list) };
            list = node.next;
            Some(node.buffer)
        })
    }

    /// What each is cut into.
    fn datagrams(self, segment: Option<u32>) -> impl Iterator<Item = Buf> {
        self.each().flat_map(move |buffer| segments::cut(buffer, segment))
    }
}

/// Whether a machine's network keeps what it is given.
#[derive(Default)]
struct Holds(AtomicBool);

/// Has sends of a machine not be completed until this is called with `false`. Verified mode only.
pub fn hold_sends(machine: &Machine, hold: bool) {
    machine.extension::<Holds>().0.store(hold, Ordering::Release);
}

/// To whom nothing is sent.
#[derive(Default)]
struct Keeps(Mutex<Option<IpAddr>>);

/// Has the network keep what a machine sends to `to` from now on, for good: it does not leave, and its IRPs are completed when
/// their socket closes, with STATUS_CANCELLED. With `None` it sends again. Verified mode only.
///
/// Source: DDI wsk/nc-wsk-pfn_wsk_close_socket: requests that are pending do not keep a socket from closing. That the
/// close is what completes them is inferred, and so is the status.
pub fn keep_sends(machine: &Machine, to: Option<IpAddr>) {
    *lock(&machine.extension::<Keeps>().0) = to;
}

/// Reads what a request points to, so that what comes may; the chains of its buffers in verified mode only.
fn examine(request: &Request, verified: bool) -> Result<Option<Vec<u8>>, probe::Fault> {
    if request.remote != 0 {
        let ipv6 = probe::read::<u16>(request.remote)? == layout::AF_INET6;
        probe::bytes(request.remote, if ipv6 { layout::SOCKADDR_LEN } else { SOCKADDR_IN_LEN })?;
    }
    if let Buffers::One(buffer) = request.buffers {
        probe::bytes(buffer.expose_provenance(), size_of::<Buf>())?;
    }
    verified.then(|| snapshot(request)).transpose()
}

/// Whether the network keeps what is sent to `remote`.
fn is_kept(machine: &Machine, remote: usize) -> bool {
    let Some(kept) = *lock(&machine.extension::<Keeps>().0) else { return false };
    // SAFETY: the driver's address, if it is not null, alive during the call.
    let to = (remote != 0)
        .then(|| unsafe { layout::read_address(std::ptr::with_exposed_provenance(remote)) });
    to.flatten().is_some_and(|to| to.ip() == kept)
}

/// Whether the network keeps anything.
pub(super) fn holds(machine: &Machine) -> bool {
    is_held(machine) || lock(&machine.extension::<Keeps>().0).is_some()
}

/// Whether it keeps everything until a test says otherwise.
fn is_held(machine: &Machine) -> bool {
    machine.extension::<Holds>().0.load(Ordering::Acquire)
}

/// Sends, and completes the request's IRP.
pub(super) fn send(thread: &Thread, wsk: &Wsk, socket: &Arc<Socket>, request: Request) -> i32 {
    let (bound, host) = {
        let settings = lock(&socket.settings);
        let bound = settings.state == State::Bound;
        (bound, settings.host.clone().filter(|_| bound))
    };
    let verified = thread.machine().options().verified;
    let before = match examine(&request, verified) {
        Ok(before) => before,
        Err(probe::Fault(at)) => return thread.bad_pointer("the request", at),
    };
    if verified {
        let mut bytes = Vec::new();
        if let Err(probe::Fault(at)) =
            request.buffers.each().try_for_each(|buffer| chain(&buffer, &mut bytes))
        {
            return thread.bad_pointer("a buffer's MDL", at);
        }
        pool::judge_leaving(thread.machine(), "a datagram", &bytes);
    }
    let kept = verified && is_kept(thread.machine(), request.remote);
    let (done, left) = match host {
        _ if kept => ((answer::CANCELLED, 0), Leave::Goes),
        _ if verified && thread.machine().faults().strikes("WskSendTo or WskSendMessages") => {
            ((answer::INSUFFICIENT_RESOURCES, 0), Leave::Goes)
        }
        Some(host) => transmit(thread, &*host, socket, &request),
        None if bound => ((answer::FILE_FORCED_CLOSED, 0), Leave::Goes),
        None => ((answer::INVALID_DEVICE_STATE, 0), Leave::Goes),
    };
    // What somebody else's callout still has is not yet sent.
    let Some(before) = before else {
        let work = Box::new(move |_: &Thread| (!left.is_held()).then_some(done));
        return finish_now(thread, wsk, "a send", request.irp, work);
    };
    socket.sending.fetch_add(1, Ordering::AcqRel);
    let socket = socket.clone();
    let work = Box::new(move |thread: &Thread| {
        if left.is_held() || is_held(thread.machine()) {
            return None;
        }
        if kept && lock(&socket.settings).state != State::Closing {
            return None;
        }
        socket.sending.fetch_sub(1, Ordering::AcqRel);
        if snapshot(&request).as_ref() != Ok(&before) {
            let detail =
                format!("{}: buffers changed before the IRP was completed", socket.describe());
            thread.machine().die(&rules::WSK_SEND, detail);
        }
        Some(done)
    });
    finish(thread, wsk, "a send", request.irp, work)
}

/// Everything that must not change before the IRP is completed.
fn snapshot(request: &Request) -> Result<Vec<u8>, probe::Fault> {
    let mut copy = Vec::new();
    if let Buffers::List(mut node) = request.buffers {
        while !node.is_null() {
            let bytes = probe::bytes(node.expose_provenance(), size_of::<BufList>())?;
            // `Next`, and the three fields of the WSK_BUF without the padding after `Offset`.
            copy.extend_from_slice(&bytes[..20]);
            copy.extend_from_slice(&bytes[24..]);
            node =
                std::ptr::with_exposed_provenance(probe::read::<usize>(node.expose_provenance())?);
        }
    }
    // A lone WSK_BUF may die when the call returns; its MDL and pages may not. Only the list is read again.
    if let Buffers::List(_) = request.buffers {
        for buffer in request.buffers.each() {
            chain(&buffer, &mut copy)?;
        }
    }
    if request.control_length > 0 {
        copy.extend(probe::bytes(
            request.control,
            request.control_length.min(CONTROL_MAX) as usize,
        )?);
    }
    Ok(copy)
}

/// The bytes of a buffer, through its MDLs.
fn chain(buffer: &Buf, copy: &mut Vec<u8>) -> Result<(), probe::Fault> {
    let (mut skip, mut left) = (buffer.offset as usize, buffer.length);
    let mut mdl = buffer.mdl.expose_provenance();
    while left > 0 && mdl != 0 {
        let header = probe::bytes(mdl, size_of::<layout::Mdl>())?;
        // SAFETY: `header` has the size of an MDL, of which any bytes are one.
        let header: layout::Mdl = unsafe { layout::read(header.as_ptr().cast()) };
        let count = header.byte_count as usize;
        let from = skip.min(count);
        let length = (count - from).min(left);
        copy.extend(probe::bytes(header.address().expose_provenance() + from, length)?);
        (skip, left) = (skip - from, left - length);
        mdl = header.next.expose_provenance();
    }
    Ok(())
}

/// Hands the datagrams to the network; what comes of it, and who may still have them.
fn transmit(
    thread: &Thread,
    host: &dyn host::Socket,
    socket: &Socket,
    request: &Request,
) -> (Done, Leave) {
    let refused = |status| ((status, 0), Leave::Goes);
    if request.flags != 0 || request.remote == 0 {
        return refused(answer::INVALID_PARAMETER);
    }
    // SAFETY: not null; the driver's address, alive during the call.
    let remote = unsafe { layout::read_address(std::ptr::with_exposed_provenance(request.remote)) };
    let remote = match remote {
        Some(remote) if remote.is_ipv6() == socket.ipv6 => remote,
        _ => return refused(answer::INVALID_PARAMETER),
    };
    let Some(control) = control_of(socket, request) else {
        return refused(answer::INVALID_PARAMETER);
    };
    let taken = |machine: &Machine| {
        machine.either(&TRAFFIC_CLASS_IS_TAKEN) && !machine.either(&TRAFFIC_CLASS_IS_REFUSED)
    };
    if control.traffic_class.is_some_and(|class| class >> 2 != 0) && !taken(thread.machine()) {
        return refused(answer::INVALID_PARAMETER);
    }
    let segment = control.segment;
    if let Some(segment) = segment
        && let Err(status) = segments::may_cut(thread.machine(), segment, request.buffers.each())
    {
        return refused(status);
    }
    let how = Sending { packet_info: control.packet_info, traffic_class: control.traffic_class };
    let local = lock(&socket.settings).local.unwrap_or(remote);
    let from = Destination { endpoint: socket.endpoint.load(Ordering::Acquire), local };
    let left = outbound::leave(thread.machine(), from, (remote, &how), |most| {
        payloads(request, segment, most)
    });
    let done = match left {
        Leave::Goes => match send_all(host, (remote, &how), request, segment) {
            Ok(bytes) => (answer::SUCCESS, bytes),
            Err(status) => (status, 0),
        },
        Leave::Denied => (answer::ACCESS_DENIED, 0),
        Leave::Absorbed(_) => {
            (answer::SUCCESS, request.buffers.each().map(|buffer| buffer.length).sum())
        }
    };
    (done, left)
}

/// The payloads of the first `most` datagrams of a request, copied.
fn payloads(request: &Request, segment: Option<u32>, most: usize) -> Vec<Vec<u8>> {
    let copy = |buffer: Buf| {
        // SAFETY: the chain of a request whose IRP is completed only after this call.
        let pieces = unsafe { Pieces::of(&buffer) };
        pieces.map(|pieces| pieces.flatten().copied().collect()).unwrap_or_default()
    };
    request.buffers.datagrams(segment).take(most).map(copy).collect()
}

fn control_of(socket: &Socket, request: &Request) -> Option<SendControl> {
    if request.control_length == 0 {
        return Some(SendControl::default());
    }
    if request.control == 0 || request.control_length > CONTROL_MAX {
        return None;
    }
    let start = std::ptr::with_exposed_provenance::<u8>(request.control);
    // SAFETY: not null; the driver's control messages, of the length it says, alive during the call.
    let list = unsafe { std::slice::from_raw_parts(start, request.control_length as usize) };
    control_messages::parse_send(list, socket.ipv6).ok()
}

fn send_all(
    host: &dyn host::Socket,
    (remote, how): (SocketAddr, &Sending),
    request: &Request,
    segment: Option<u32>,
) -> Result<usize, i32> {
    let largest = LARGEST[usize::from(remote.is_ipv6())];
    let mut batch = Batch::default();
    let mut bytes = 0;
    // With or without segments: what is to be cut apart is a UDP datagram as well.
    if request.buffers.each().any(|buffer| buffer.length > largest) {
        return Err(answer::INVALID_BUFFER_SIZE);
    }
    for buffer in request.buffers.datagrams(segment) {
        bytes += buffer.length;
        // SAFETY: the chain of a request whose IRP is completed only after this call.
        let pieces = || unsafe { Pieces::of(&buffer) }.map_err(|_| answer::INVALID_PARAMETER);
        if batch.push(pieces()?) {
            continue;
        }
        host.send(remote, how, &batch).map_err(status_of)?;
        batch.clear();
        if !batch.push(pieces()?) {
            // More pieces than a whole batch holds: join them.
            let joined: Vec<u8> = pieces()?.flatten().copied().collect();
            let mut alone = Batch::default();
            let _ = alone.push(std::iter::once(&joined[..]));
            host.send(remote, how, &alone).map_err(status_of)?;
        }
    }
    if !batch.is_empty() {
        host.send(remote, how, &batch).map_err(status_of)?;
    }
    Ok(bytes)
}

/// The status of a send that the network did not take.
pub(crate) fn status_of(error: SendError) -> i32 {
    match error {
        SendError::Unreachable => answer::NETWORK_UNREACHABLE,
        SendError::BadSource => answer::INVALID_PARAMETER,
        SendError::TooBig => answer::INVALID_BUFFER_SIZE,
        SendError::Denied => answer::ACCESS_DENIED,
        SendError::Resources => answer::INSUFFICIENT_RESOURCES,
    }
}
