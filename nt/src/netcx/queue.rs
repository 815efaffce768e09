//! Packet queues: creation, and the callbacks that carry a queue's events to its context.
//!
//! NetAdapterCx makes queues when the data path comes up and deletes them when it goes down; in
//! between it may start and stop one and the same queue many times. The callbacks of a queue never
//! overlap. Advance, cancel and the arming of notifications may run at `PASSIVE_LEVEL` or at
//! `DISPATCH_LEVEL`, start and stop at `PASSIVE_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/transmit-and-receive-queues>

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use wdk_sys::{BOOLEAN, ULONG};

use super::ring::{Column, RawRings, RingView, Rings};
use crate::{
    irql::{AtMostDispatch, Passive},
    status::{NtError, check},
    sys::netcx::{
        NET_EXTENSION, NET_EXTENSION_QUERY, NET_PACKET_QUEUE_CONFIG, NET_RING_COLLECTION,
        NETPACKETQUEUE, NetExtensionTypeFragment, NetExtensionTypePacket, NetRingTypeFragment,
        NetRingTypePacket, NetRxQueueCreate, NetRxQueueGetExtension, NetRxQueueGetRingCollection,
        NetRxQueueInitGetQueueId, NetTxQueueCreate, NetTxQueueGetExtension,
        NetTxQueueGetRingCollection,
    },
    wdf::context,
};

/// Which way a queue's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From this machine.
    Transmit,
    /// To this machine.
    Receive,
}

/// What a packet queue does; the value is the context of the queue object.
pub trait PacketQueueEvents: Send + Sync + 'static {
    /// The queue starts; all indices of its rings are 0.
    fn start(&self, queue: &Started<'_>, passive: &mut Passive);

    /// The queue has stopped: its rings are empty, and it must not be notified any more.
    fn stop(&self, passive: &mut Passive);

    /// There may be new elements, or NetAdapterCx wants to know what is done.
    fn advance(&self, rings: &mut Rings<'_>, level: &AtMostDispatch);

    /// The queue is about to stop: everything is to be returned, on receive at once.
    fn cancel(&self, rings: &mut Rings<'_>, level: &AtMostDispatch);

    /// NetAdapterCx advances the queue once more and then sleeps until it is notified.
    fn arm(&self, enabled: bool);
}

/// A queue that is starting.
///
/// # Invariants
///
/// The handle is of a queue of `kind` whose start callback is running.
#[derive(Debug)]
pub struct Started<'callback> {
    pub(super) queue: NETPACKETQUEUE,
    pub(super) kind: Kind,
    _callback: PhantomData<(&'callback mut (), *const ())>,
}

/// The context of a queue object.
struct QueueContext<Q> {
    kind: Kind,
    rings: RawRings,
    events: Q,
}

/// A queue about to be created.
///
/// # Invariants
///
/// The pointer is the init of the create callback that is running, not used yet.
#[derive(Debug)]
pub struct QueueInit<'callback> {
    init: NonNull<c_void>,
    kind: Kind,
    _callback: PhantomData<(&'callback mut (), *const ())>,
}

/// What a queue's context is built from.
#[derive(Debug)]
pub struct QueueParts {
    rings: RawRings,
    packets: u32,
    identity: QueueIdentity,
}

/// Tells queues that are there at the same time from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIdentity(usize);

impl QueueIdentity {
    /// The identity of `queue`.
    pub(super) fn of(queue: NETPACKETQUEUE) -> Self {
        Self(queue.addr())
    }

    /// A number that no other queue has.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0
    }
}

impl QueueParts {
    /// How many packets the ring has room for; a power of two.
    #[must_use]
    pub fn packet_count(&self) -> u32 {
        self.packets
    }

    /// What the stack's table names the queue by.
    #[must_use]
    pub const fn identity(&self) -> QueueIdentity {
        self.identity
    }

    /// The queue's rings, to read transmit packets outside of callbacks.
    #[must_use]
    pub fn view(&self) -> RingView {
        RingView::new(self.rings)
    }

    /// Whether checksums can be declared valid: receive only, and if it was granted.
    #[must_use]
    pub fn has_checksum(&self) -> bool {
        self.rings.checksum.is_some()
    }
}

impl QueueInit<'_> {
    /// Wraps what a create callback was given.
    ///
    /// # Safety
    ///
    /// It is the init of the create callback for `kind` that is running, unused so far, and the
    /// value does not leave the callback.
    pub(super) unsafe fn new(init: *mut c_void, kind: Kind) -> Result<Self, NtError> {
        let init = NonNull::new(init).ok_or(NtError::INVALID_PARAMETER)?;
        Ok(Self { init, kind, _callback: PhantomData })
    }

    /// The number of the queue among those of its kind that there are; of a transmit queue 0.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn number(&self, _passive: &Passive) -> u32 {
        match self.kind {
            Kind::Transmit => 0,
            // SAFETY: the init of the create callback that is running, by the type invariant.
            Kind::Receive => unsafe { NetRxQueueInitGetQueueId(self.init.as_ptr()) },
        }
    }

    /// Creates the queue, and then its context by `build`.
    ///
    /// # Errors
    ///
    /// Whatever NetAdapterCx or `build` answers, or [`NtError::NOT_SUPPORTED`] if the rings lack an
    /// extension without which the queue cannot work. The create callback must return it; the
    /// adapter then fails, and a queue created by then is deleted with it.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create<Q: PacketQueueEvents>(
        self,
        _passive: &Passive,
        build: impl FnOnce(&QueueParts) -> Result<Q, NtError>,
    ) -> Result<(), NtError> {
        let mut attributes = context::attributes::<QueueContext<Q>>();
        let mut config = NET_PACKET_QUEUE_CONFIG {
            Size: size_of::<NET_PACKET_QUEUE_CONFIG>() as ULONG,
            EvtStart: Some(evt_start::<Q>),
            EvtStop: Some(evt_stop::<Q>),
            EvtAdvance: Some(evt_advance::<Q>),
            EvtSetNotificationEnabled: Some(evt_set_notification_enabled::<Q>),
            EvtCancel: Some(evt_cancel::<Q>),
            ExecutionContext: ptr::null_mut(),
        };
        let create = match self.kind {
            Kind::Transmit => NetTxQueueCreate,
            Kind::Receive => NetRxQueueCreate,
        };
        let mut queue: NETPACKETQUEUE = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token, on the create callback's own thread; the init is
        // unused; attributes, config and the handle's place live through the call.
        check(unsafe {
            create(self.init.as_ptr(), &raw mut attributes, &raw mut config, &raw mut queue)
        })?;
        // SAFETY: just created, of this kind, at PASSIVE_LEVEL.
        let parts = unsafe { parts_of(queue, self.kind) }?;
        let events = build(&parts)?;
        let context = QueueContext { kind: self.kind, rings: parts.rings, events };
        // SAFETY: created above with the attributes of this type; the queue starts after the create
        // callback has returned.
        unsafe { context::fill(queue, context) }.map_err(|_context| NtError::INSUFFICIENT_RESOURCES)
    }
}

/// Finds the rings and extensions of `queue`.
///
/// # Safety
///
/// `queue` has just been created, is of `kind`, and the thread is at `PASSIVE_LEVEL`.
unsafe fn parts_of(queue: NETPACKETQUEUE, kind: Kind) -> Result<QueueParts, NtError> {
    let collection = match kind {
        Kind::Transmit => NetTxQueueGetRingCollection,
        Kind::Receive => NetRxQueueGetRingCollection,
    };
    // SAFETY: the caller's promise.
    let collection = unsafe { collection(queue) };
    // SAFETY: a queue's collection is never null and lives as long as the queue.
    let rings = unsafe { (*collection.cast::<NET_RING_COLLECTION>()).Rings };
    let ring = |kind: usize| NonNull::new(rings[kind]).ok_or(NtError::NOT_SUPPORTED);
    let packets = ring(NetRingTypePacket)?;
    // SAFETY: the ring lives as long as the queue, and its size does not change.
    let count = unsafe { (*packets.as_ptr()).NumberOfElements };
    // SAFETY: the caller's promise, as for the other two.
    let virtual_address = unsafe { column(queue, kind, Extension::VIRTUAL_ADDRESS) };
    let (mut return_context, mut checksum, mut gso) = (None, None, None);
    if kind == Kind::Transmit {
        // SAFETY: as above.
        gso = unsafe { column(queue, kind, Extension::GSO) };
    } else {
        // SAFETY: as above.
        return_context = unsafe { column(queue, kind, Extension::RETURN_CONTEXT) };
        // SAFETY: as above.
        checksum = unsafe { column(queue, kind, Extension::CHECKSUM) };
        return_context.ok_or(NtError::NOT_SUPPORTED)?;
    }
    let rings = RawRings {
        packets,
        fragments: ring(NetRingTypeFragment)?,
        virtual_address: virtual_address.ok_or(NtError::NOT_SUPPORTED)?,
        return_context,
        checksum,
        gso,
    };
    Ok(QueueParts { rings, packets: count, identity: QueueIdentity::of(queue) })
}

/// An extension that can be asked for.
struct Extension {
    name: &'static str,
    version: ULONG,
    kind: i32,
}

impl Extension {
    const VIRTUAL_ADDRESS: Self =
        Self { name: "ms_fragment_virtualaddress", version: 1, kind: NetExtensionTypeFragment };
    const RETURN_CONTEXT: Self =
        Self { name: "ms_fragment_returncontext", version: 1, kind: NetExtensionTypeFragment };
    const CHECKSUM: Self =
        Self { name: "ms_packet_checksum", version: 1, kind: NetExtensionTypePacket };
    const GSO: Self = Self { name: "ms_packet_gso", version: 1, kind: NetExtensionTypePacket };
}

/// Where `extension` lies in the rings of `queue`; `None` if it is not enabled.
///
/// # Safety
///
/// `queue` exists, is of `kind`, and the thread is at `PASSIVE_LEVEL`.
unsafe fn column(queue: NETPACKETQUEUE, kind: Kind, extension: Extension) -> Option<Column> {
    let mut name = [0_u16; 32];
    let last = name.len() - 1; // stays zero
    for (unit, byte) in name[..last].iter_mut().zip(extension.name.bytes()) {
        *unit = u16::from(byte);
    }
    let query = NET_EXTENSION_QUERY {
        Size: size_of::<NET_EXTENSION_QUERY>() as ULONG,
        Name: name.as_ptr(),
        Version: extension.version,
        Type: extension.kind,
    };
    let mut answer = NET_EXTENSION { Reserved: [ptr::null_mut(); 4], Enabled: 0, Padding: [0; 7] };
    let get = match kind {
        Kind::Transmit => NetTxQueueGetExtension,
        Kind::Receive => NetRxQueueGetExtension,
    };
    // SAFETY: the caller's promise; query, name and answer live through the call.
    unsafe { get(queue, &raw const query, &raw mut answer) };
    Column::new(&answer)
}

/// The context of `queue`.
///
/// # Safety
///
/// This is a callback of `queue`, which was created for `Q`, and the result does not leave it.
unsafe fn context_of<'c, Q: PacketQueueEvents>(
    queue: NETPACKETQUEUE,
) -> Option<&'c QueueContext<Q>> {
    // SAFETY: the caller's promise; a queue is deleted after its last callback.
    unsafe { context::get::<QueueContext<Q>>(queue) }
}

/// `EvtPacketQueueStart`.
unsafe extern "system" fn evt_start<Q: PacketQueueEvents>(queue: NETPACKETQUEUE) {
    // SAFETY: documented to be called at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered for a queue of `Q`.
    let context = unsafe { context_of::<Q>(queue) };
    context.iter().for_each(|context| {
        let started = Started { queue, kind: context.kind, _callback: PhantomData };
        context.events.start(&started, &mut passive);
    });
}

/// `EvtPacketQueueStop`.
unsafe extern "system" fn evt_stop<Q: PacketQueueEvents>(queue: NETPACKETQUEUE) {
    // SAFETY: documented to be called at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered for a queue of `Q`.
    let context = unsafe { context_of::<Q>(queue) };
    context.iter().for_each(|context| context.events.stop(&mut passive));
}

/// `EvtPacketQueueAdvance`.
unsafe extern "system" fn evt_advance<Q: PacketQueueEvents>(queue: NETPACKETQUEUE) {
    // SAFETY: called in a DPC or a thread, never above DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: registered for a queue of `Q`.
    let context = unsafe { context_of::<Q>(queue) };
    context.iter().for_each(|context| {
        // SAFETY: the callbacks of one queue do not overlap, and this is one of them.
        let mut rings = unsafe { Rings::new(context.rings) };
        context.events.advance(&mut rings, &level);
    });
}

/// `EvtPacketQueueCancel`.
unsafe extern "system" fn evt_cancel<Q: PacketQueueEvents>(queue: NETPACKETQUEUE) {
    // SAFETY: called in a DPC or a thread, never above DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: registered for a queue of `Q`.
    let context = unsafe { context_of::<Q>(queue) };
    context.iter().for_each(|context| {
        // SAFETY: the callbacks of one queue do not overlap, and this is one of them.
        let mut rings = unsafe { Rings::new(context.rings) };
        context.events.cancel(&mut rings, &level);
    });
}

/// `EvtPacketQueueSetNotificationEnabled`.
unsafe extern "system" fn evt_set_notification_enabled<Q: PacketQueueEvents>(
    queue: NETPACKETQUEUE,
    enabled: BOOLEAN,
) {
    // SAFETY: registered for a queue of `Q`.
    let context = unsafe { context_of::<Q>(queue) };
    context.iter().for_each(|context| context.events.arm(enabled != 0));
}
