//! Sending datagrams of our own from the transport layer.
//!
//! The run that is sent is the same as for WSK: one buffer, in which every datagram has room for
//! headers before it. Around it goes an *envelope*, taken from a bounded set: an MDL for each
//! datagram, which begins at its head room, and what the call needs until it is complete. Lists and
//! NET_BUFFERs are allocated for each call and freed when the stack gives them back. Nothing of ours
//! is held while the stack is called.
//!
//! Source: DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1, WDD network/packet-injection-functions.

use alloc::{boxed::Box, vec::Vec};
use core::{
    cell::UnsafeCell,
    ffi::c_void,
    fmt,
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
};

use wdk_sys::MDL;

use crate::{
    irql::{AtMostDispatch, Passive},
    mdl::{PART_BYTES, PartMdl},
    nbl::{NblPools, SendNbl},
    pool::{self, push_within},
    rundown::Rundown,
    spin_lock::SpinLock,
    status::{NtError, check},
    sys::{
        fwp::{
            FWPS_INJECTION_TYPE_TRANSPORT, FWPS_TRANSPORT_SEND_PARAMS1,
            FwpsInjectTransportSendAsync1, FwpsInjectionHandleCreate0, FwpsInjectionHandleDestroy0,
        },
        ndis::NET_BUFFER_LIST,
    },
    wsk::{AF_INET, AF_INET6, MESSAGES, SendRequest},
};

/// Bytes of a UDP header, which the caller writes right before each datagram.
pub const UDP_HEADER_LEN: usize = 8;
/// `AF_UNSPEC`: one handle for both families.
const AF_UNSPEC: u16 = 0;
/// Room that an IPv6 and a UDP header take: no more than that is shown before a datagram.
const MOST_ROOM: usize = 48;

/// How a run's datagrams are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One list for the run, with a NET_BUFFER for each datagram.
    OneList,
    /// One list for each datagram, and one call.
    ListEach,
}

/// Where a run goes, besides the remote address and control messages that are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The socket's endpoint, as a classify told; the socket stays open during the call.
    pub endpoint: u64,
    /// The routing compartment, as a classify told; 0 when it did not.
    pub compartment: u32,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Datagrams that the network took.
    pub sent: usize,
    /// Their bytes, UDP headers not counted.
    pub bytes: usize,
    /// Datagrams that it did not.
    pub failed: usize,
    /// Why; one of the reasons if there were several.
    pub error: Option<NtError>,
}

/// Why a run was not injected; it comes back as it was, to be sent otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many runs are with the stack as may be.
    Full,
    /// The injection is being taken down.
    Closing,
    /// No memory for the lists.
    NoMemory,
    /// The run is not laid out for injection, or is of no family.
    Layout,
    /// The stack refused it.
    Stack(NtError),
}

/// Who is told what became of a run.
pub trait InjectionEvents: Send + Sync + 'static {
    /// A run is complete; dropping it gives it back to its pool.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Injection::send`].
    fn completed(&self, request: SendRequest, outcome: Outcome, level: &AtMostDispatch);
}

/// A handle to inject with, and everything its runs need; taken down on drop.
///
/// # Invariants
///
/// `core` is live, and counts what refers to it besides this value.
pub struct Injection<E: InjectionEvents> {
    core: NonNull<Core<E>>,
}

// SAFETY: the core is shared by every thread that sends or completes.
unsafe impl<E: InjectionEvents> Send for Injection<E> {}
// SAFETY: the same.
unsafe impl<E: InjectionEvents> Sync for Injection<E> {}

struct Core<E> {
    handle: Handle,
    /// One reference for each envelope that is with the stack.
    away: Rundown,
    #[expect(clippy::vec_box, reason = "the stack is told an envelope's address")]
    free: SpinLock<Vec<Box<Envelope<E>>>>,
    pools: NblPools,
    events: E,
}

/// What one run needs while it is with the stack.
struct Envelope<E> {
    parts: Vec<PartMdl>,
    shown: Vec<Shown>,
    arguments: UnsafeCell<FWPS_TRANSPORT_SEND_PARAMS1>,
    family: u16,
    request: Option<SendRequest>,
    /// Lists with the stack, and one more while they are handed over.
    lists: AtomicU32,
    /// Datagrams of a list.
    each: u32,
    failed: AtomicU32,
    /// Bytes of the lists that did not fail, UDP headers included.
    taken: AtomicU32,
    /// The status of one that failed, or 0.
    error: AtomicI32,
    core: NonNull<Core<E>>,
}

// SAFETY: owned, and nothing in it belongs to a thread.
unsafe impl<E: InjectionEvents> Send for Envelope<E> {}

/// One datagram as the stack is shown it, UDP header first.
struct Shown {
    mdl: NonNull<MDL>,
    offset: u32,
    length: usize,
}

/// An injection handle, destroyed on drop, at `PASSIVE_LEVEL`.
struct Handle(NonNull<c_void>);

// SAFETY: a handle is used from any thread.
unsafe impl Send for Handle {}
// SAFETY: the same.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, and not used again; waits for what is still being injected.
        let _ = unsafe { FwpsInjectionHandleDestroy0(self.0.as_ptr()) };
    }
}

/// Which injection a packet is asked about; lives as long as the [`Injection`].
#[derive(Clone, Copy, Debug)]
pub struct InjectionId<'i>(NonNull<c_void>, PhantomData<&'i ()>);

impl InjectionId<'_> {
    pub(super) const fn as_raw(self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl<E: InjectionEvents> Injection<E> {
    /// Creates a handle, and envelopes for `count` runs at once.
    ///
    /// # Errors
    ///
    /// What the platform answers, such as `STATUS_FWP_TCPIP_NOT_READY` early in the life of a
    /// machine; [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping it, which waits for every completion. Not in a completion.
    ///
    /// Source: DDI fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0.
    pub fn new(passive: &Passive, count: usize, events: E) -> Result<Self, NtError> {
        let pools = NblPools::new(passive)?;
        let mut handle = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; the handle's place lives through the call.
        check(unsafe {
            FwpsInjectionHandleCreate0(AF_UNSPEC, FWPS_INJECTION_TYPE_TRANSPORT, &raw mut handle)
        })?;
        let handle = Handle(NonNull::new(handle).ok_or(NtError::UNSUCCESSFUL)?);
        let free = SpinLock::new(Vec::new());
        let core = pool::try_box(Core { handle, away: Rundown::new(), free, pools, events })?;
        // INVARIANT: just made; dropped by `?` below, it takes down what there is.
        let mut this = Self { core: NonNull::from(Box::leak(core)) };
        let core = this.core;
        let free = this.core_mut().free.get_mut();
        free.try_reserve_exact(count).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for _ in 0..count {
            let envelope = Envelope::try_new(core)?;
            free.push(envelope);
        }
        Ok(this)
    }

    /// Which injection packets of ours are known by.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn id(&self) -> InjectionId<'_> {
        InjectionId(self.core().handle.0, PhantomData)
    }

    /// Injects the datagrams of `request`, each with the UDP header before it, to the remote address
    /// and with the control messages in it.
    ///
    /// # Errors
    ///
    /// The request, when nothing of it was injected, and why; [`InjectionEvents`] is not told then.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    pub fn send(
        &self,
        request: SendRequest,
        to: &Address,
        shape: Shape,
        level: &AtMostDispatch,
    ) -> Result<(), (SendRequest, Refused)> {
        let core = self.core();
        let Some(inside) = core.away.enter() else { return Err((request, Refused::Closing)) };
        let Some(mut envelope) = core.free.lock(level).pop() else {
            return Err((request, Refused::Full));
        };
        if let Err(request) = envelope.fill(request, shape) {
            let _ = push_within(&mut core.free.lock(level), envelope);
            return Err((request, Refused::Layout));
        }
        let at = NonNull::from(Box::leak(envelope));
        inside.into_raw();
        // SAFETY: filled, and one turn on it is ours until it is given up below.
        let handed = unsafe { Self::hand_over(core, at, to, shape) };
        match handed {
            Ok(()) => {
                // SAFETY: our turn, which ends here.
                unsafe { Core::end_turn(at, level) };
                Ok(())
            }
            Err(refused) => {
                // SAFETY: nothing was injected, so ours is the only turn.
                let request = unsafe { Core::reclaim(at, level) };
                // Filled above; a run of nothing was refused there.
                request.map_or(Ok(()), |request| Err((request, refused)))
            }
        }
    }

    /// Makes the lists and injects them. An error means that none was.
    ///
    /// # Safety
    ///
    /// `at` is a filled envelope, and the caller has a turn on it.
    unsafe fn hand_over(
        core: &Core<E>,
        at: NonNull<Envelope<E>>,
        to: &Address,
        shape: Shape,
    ) -> Result<(), Refused> {
        // SAFETY: live while the caller has its turn; what others change meanwhile is atomic.
        let envelope = unsafe { at.as_ref() };
        if shape == Shape::OneList {
            // SAFETY: the parts were described for this run, and each is shown once.
            let list = unsafe { list_of(&core.pools, &envelope.shown) };
            // SAFETY: the caller's promise.
            return unsafe { inject(core, at, to, list.map_err(|_| Refused::NoMemory)?) };
        }
        let mut injected = 0_u32;
        for shown in &envelope.shown {
            // SAFETY: as above.
            let list = unsafe { list_of(&core.pools, core::slice::from_ref(shown)) };
            let outcome = list.map_err(|_| Refused::NoMemory).and_then(|list| {
                // SAFETY: the caller's promise.
                unsafe { inject(core, at, to, list) }
            });
            match outcome {
                Ok(()) => injected += 1,
                Err(refused) if injected == 0 => return Err(refused),
                Err(refused) => {
                    // Too late to send the run otherwise: what is left of it has failed.
                    let left = envelope.shown.len() as u32 - injected;
                    envelope.note_failure(left, refused.error());
                    break;
                }
            }
        }
        Ok(())
    }

    fn core(&self) -> &Core<E> {
        // SAFETY: by the type invariant.
        unsafe { self.core.as_ref() }
    }

    /// Only while the value is being made or dropped, when nobody else refers to the core.
    fn core_mut(&mut self) -> &mut Core<E> {
        // SAFETY: by the type invariant live; no envelope is away.
        unsafe { self.core.as_mut() }
    }
}

impl Refused {
    /// As a status.
    const fn error(self) -> NtError {
        match self {
            Self::Stack(error) => error,
            Self::Full | Self::NoMemory => NtError::INSUFFICIENT_RESOURCES,
            Self::Closing => NtError::DELETE_PENDING,
            Self::Layout => NtError::INVALID_PARAMETER,
        }
    }
}

impl<E: InjectionEvents> Drop for Injection<E> {
    fn drop(&mut self) {
        // SAFETY: an injection is dropped at PASSIVE_LEVEL (`new`).
        let passive = unsafe { Passive::assume() };
        self.core().away.wait(&passive);
        // SAFETY: nothing is away, so nobody has the core but this value.
        drop(unsafe { Box::from_raw(self.core.as_ptr()) });
    }
}

impl<E: InjectionEvents> fmt::Debug for Injection<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Injection")
    }
}

impl<E: InjectionEvents> Core<E> {
    /// Ends a turn on an envelope; the last one tells what became of the run.
    ///
    /// # Safety
    ///
    /// The turn is the caller's; the envelope is not used by it afterwards.
    unsafe fn end_turn(at: NonNull<Envelope<E>>, level: &AtMostDispatch) {
        // SAFETY: live while there is a turn on it.
        let envelope = unsafe { at.as_ref() };
        // AcqRel: what every turn noted happens before the last one reads it.
        if envelope.lists.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let failed = envelope.failed.load(Ordering::Relaxed) as usize;
        let taken = envelope.taken.load(Ordering::Relaxed) as usize;
        let error = check(envelope.error.load(Ordering::Relaxed)).err();
        let core = envelope.core;
        // SAFETY: the last turn.
        let Some(request) = (unsafe { Self::take_back(at, level) }) else { return };
        let failed = failed.min(request.message_count());
        let sent = request.message_count() - failed;
        let bytes = taken.saturating_sub(sent * UDP_HEADER_LEN);
        // SAFETY: the envelope's reference to the door keeps the core until it is given up below.
        let core = unsafe { core.as_ref() };
        core.events.completed(request, Outcome { sent, bytes, failed, error }, level);
        // SAFETY: entered in `send`. The core may be gone from here on.
        drop(unsafe { core.away.from_raw() });
    }

    /// Takes a run back of which nothing was injected.
    ///
    /// # Safety
    ///
    /// The caller has the only turn on the envelope, and does not use it afterwards.
    unsafe fn reclaim(at: NonNull<Envelope<E>>, level: &AtMostDispatch) -> Option<SendRequest> {
        // SAFETY: live while there is a turn on it.
        let core = unsafe { at.as_ref() }.core;
        // SAFETY: the only turn.
        let request = unsafe { Self::take_back(at, level) };
        // SAFETY: the injection, which is borrowed by the caller's caller, keeps the core.
        let core = unsafe { core.as_ref() };
        // SAFETY: entered in `send`.
        drop(unsafe { core.away.from_raw() });
        request
    }

    /// Puts the envelope back; returns the run that was in it.
    ///
    /// # Safety
    ///
    /// Nobody else uses the envelope.
    unsafe fn take_back(at: NonNull<Envelope<E>>, level: &AtMostDispatch) -> Option<SendRequest> {
        // SAFETY: leaked in `send`, and by the caller's promise nobody else's.
        let mut envelope = unsafe { Box::from_raw(at.as_ptr()) };
        let request = envelope.request.take();
        // SAFETY: kept by the envelope's reference to the door.
        let core = unsafe { envelope.core.as_ref() };
        // There is room: as many were allocated as can be away.
        let _ = push_within(&mut core.free.lock(level), envelope);
        request
    }
}

impl<E: InjectionEvents> Envelope<E> {
    fn try_new(core: NonNull<Core<E>>) -> Result<Box<Self>, NtError> {
        let (mut parts, mut shown) = (Vec::new(), Vec::new());
        parts.try_reserve_exact(MESSAGES).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        shown.try_reserve_exact(MESSAGES).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        parts.resize_with(MESSAGES, PartMdl::new);
        pool::try_box(Self {
            parts,
            shown,
            arguments: UnsafeCell::new(NO_ARGUMENTS),
            family: AF_UNSPEC,
            request: None,
            lists: AtomicU32::new(0),
            each: 0,
            failed: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            error: AtomicI32::new(0),
            core,
        })
    }

    /// Takes a run over and describes its datagrams; gives it back if it cannot be injected.
    fn fill(&mut self, mut request: SendRequest, shape: Shape) -> Result<(), SendRequest> {
        if self.describe(&mut request).is_none() {
            return Err(request);
        }
        self.each = if shape == Shape::OneList { self.shown.len() as u32 } else { 1 };
        *self.lists.get_mut() = 1;
        *self.failed.get_mut() = 0;
        *self.taken.get_mut() = 0;
        *self.error.get_mut() = 0;
        self.request = Some(request);
        Ok(())
    }

    /// Describes the datagrams of `request`, at least one, and how they are sent.
    fn describe(&mut self, request: &mut SendRequest) -> Option<()> {
        let sending = request.sending();
        let (family, address, scope) = remote_parts(&request.remote().0)?;
        self.shown.clear();
        let mut end = 0;
        for ((offset, length), part) in request.messages().zip(&mut self.parts) {
            let (begin, room) = head_room(end, offset, length)?;
            end = offset + length;
            // SAFETY: in the buffer, before a message.
            let begin = unsafe { sending.buffer.add(begin) };
            // SAFETY: within the request's buffer, one block of nonpaged pool, which lives as long
            // as the request, and that as long as the envelope is away.
            let mdl = unsafe { part.describe(begin, room + length) }.ok()?;
            let offset = (room - UDP_HEADER_LEN) as u32;
            let shown = Shown { mdl, offset, length: UDP_HEADER_LEN + length };
            push_within(&mut self.shown, shown).ok()?;
        }
        if self.shown.is_empty() {
            return None;
        }
        let no_control = sending.control_len == 0;
        let control = if no_control { ptr::null_mut() } else { sending.control.as_ptr() };
        self.family = family;
        *self.arguments.get_mut() = FWPS_TRANSPORT_SEND_PARAMS1 {
            remoteAddress: sending.remote.cast::<u8>().as_ptr().wrapping_add(address),
            remoteScopeId: scope,
            controlData: control,
            controlDataLength: sending.control_len,
            ..NO_ARGUMENTS
        };
        Some(())
    }

    fn note_failure(&self, datagrams: u32, error: NtError) {
        self.failed.fetch_add(datagrams, Ordering::Relaxed);
        self.error.store(error.status(), Ordering::Relaxed);
    }
}

const NO_ARGUMENTS: FWPS_TRANSPORT_SEND_PARAMS1 = FWPS_TRANSPORT_SEND_PARAMS1 {
    remoteAddress: ptr::null_mut(),
    remoteScopeId: 0,
    controlData: ptr::null_mut(),
    controlDataLength: 0,
    headerIncludeHeader: ptr::null_mut(),
    headerIncludeHeaderLength: 0,
};

/// Family, place of the address, and scope of a `SOCKADDR_INET`.
fn remote_parts(remote: &[u8; 28]) -> Option<(u16, usize, u32)> {
    match u16::from_ne_bytes([remote[0], remote[1]]) {
        AF_INET => Some((AF_INET, 4, 0)),
        AF_INET6 => {
            let scope = u32::from_ne_bytes([remote[24], remote[25], remote[26], remote[27]]);
            Some((AF_INET6, 8, scope))
        }
        _ => None,
    }
}

/// Where the room before a datagram begins and how much it is: what is behind `end`, where the one
/// before ends, and no more than headers take. `None` if a UDP header does not fit.
fn head_room(end: usize, offset: usize, length: usize) -> Option<(usize, usize)> {
    let room = offset.checked_sub(end)?.min(MOST_ROOM);
    (room >= UDP_HEADER_LEN && room.checked_add(length)? <= PART_BYTES)
        .then_some((offset - room, room))
}

/// Makes a list that shows each of `shown`, at least one.
///
/// # Safety
///
/// The MDLs are described, in no other list, and outlive this one.
unsafe fn list_of(pools: &NblPools, shown: &[Shown]) -> Result<SendNbl, NtError> {
    let (first, rest) = shown.split_first().ok_or(NtError::INVALID_PARAMETER)?;
    // SAFETY: the caller's promise.
    let mut list = unsafe { pools.allocate(first.mdl, first.offset, first.length)? };
    for Shown { mdl, offset, length } in rest {
        // SAFETY: the same.
        unsafe { pools.add(&mut list, *mdl, *offset, *length)? };
    }
    Ok(list)
}

/// Injects one list, which is freed if it is refused.
///
/// # Safety
///
/// `list` shows datagrams of the envelope at `at`, on which the caller has a turn.
unsafe fn inject<E: InjectionEvents>(
    core: &Core<E>,
    at: NonNull<Envelope<E>>,
    to: &Address,
    list: SendNbl,
) -> Result<(), Refused> {
    // SAFETY: live while the caller has its turn.
    let envelope = unsafe { at.as_ref() };
    envelope.lists.fetch_add(1, Ordering::Relaxed);
    let list = list.into_raw();
    // SAFETY: a live handle; arguments, remote address, control messages and bytes stay as they are
    // until the completion, which ends the turn that was just added.
    let status = unsafe {
        FwpsInjectTransportSendAsync1(
            core.handle.0.as_ptr(),
            ptr::null_mut(),
            to.endpoint,
            0,
            envelope.arguments.get(),
            envelope.family,
            to.compartment,
            list,
            complete::<E>,
            at.as_ptr().cast(),
        )
    };
    check(status).map_err(|error| {
        // SAFETY: refused, so it stayed ours, and the completion does not come.
        drop(unsafe { SendNbl::from_raw(list) });
        envelope.lists.fetch_sub(1, Ordering::Relaxed);
        Refused::Stack(error)
    })
}

/// `FWPS_INJECT_COMPLETE0`.
unsafe extern "system" fn complete<E: InjectionEvents>(
    context: *mut c_void,
    list: *mut NET_BUFFER_LIST,
    _at_dispatch: u8,
) {
    // SAFETY: completions run at or below DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: the list that was injected with this routine, given back.
    let (list, outcome) = unsafe { SendNbl::from_raw(list) };
    let length = list.data_length() as u32;
    drop(list);
    // SAFETY: the envelope whose address was passed along, never null.
    let at = unsafe { NonNull::new_unchecked(context.cast::<Envelope<E>>()) };
    // SAFETY: live while there is a turn on it; this list's ends below.
    let envelope = unsafe { at.as_ref() };
    match outcome {
        Ok(()) => _ = envelope.taken.fetch_add(length, Ordering::Relaxed),
        Err(error) => envelope.note_failure(envelope.each, error),
    }
    // SAFETY: the turn that `inject` added.
    unsafe { Core::end_turn(at, &level) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_before_a_datagram_never_reaches_into_the_one_before() {
        for (end, offset, length, room, why) in [
            (0, 48, 148, Some((0, 48)), "the first of a run"),
            (196, 304, 100, Some((256, 48)), "no more than headers take"),
            (256, 304, 0, Some((256, 48)), "right behind the one before"),
            (0, 8, 1, Some((0, 8)), "just the UDP header"),
            (0, 7, 1, None, "one byte short"),
            (10, 9, 1, None, "overlapping"),
            (0, 48, PART_BYTES - 48, Some((0, 48)), "the largest"),
            (0, 48, PART_BYTES - 47, None, "one more"),
            (0, 48, usize::MAX, None, "no such length"),
        ] {
            assert_eq!(head_room(end, offset, length), room, "{why}");
        }
    }

    #[test]
    fn addresses_are_found_in_both_layouts() {
        let mut remote = [0; 28];
        assert_eq!(remote_parts(&remote), None);
        remote[0] = 2;
        assert_eq!(remote_parts(&remote), Some((AF_INET, 4, 0)));
        (remote[0], remote[24]) = (23, 9);
        assert_eq!(remote_parts(&remote), Some((AF_INET6, 8, 9)));
    }
}
