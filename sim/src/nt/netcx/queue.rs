//! `NETPACKETQUEUE`: the rings of one direction and the driver's callbacks for them.
//!
//! Callbacks of one queue are serialised by its execution context. Under the verifier the rings are
//! checked around each, Advance alternates between its own level and `DISPATCH_LEVEL`, and Cancel
//! runs at `DISPATCH_LEVEL`.
//!
//! Source: `facts/netcx-os.md` §3, §9 (`adapter/nxqueue.cpp`, `nxqueueapi.cpp`, read in Microsoft's
//! source).

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::adapter::Adapter;
use super::poll_thread::ExecutionContext;
use super::ring::{self, Ring};
use super::ring_verifier::{Direction, RingVerifier};
use super::{Called, Sizes};
use crate::nt::imports;
use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::nt::wdf::attributes::{self, Attributes};
use crate::nt::wdf::driver_memory::Address;
use crate::nt::wdf::object::{Kind, Object};
use crate::nt::wdf::status::{self, NtStatus};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

const CONFIG_SIZE: u32 = 56;
const QUERY_SIZE: u32 = 24;
const EXTENSION_ENABLED: u64 = 32;
const TYPE_PACKET: u32 = 1;
const TYPE_FRAGMENT: u32 = 2;

/// Which queue `EvtAdapterCreateTxQueue` or `…RxQueue` is being asked for, on which thread.
pub(crate) struct QueueInit {
    pub(crate) adapter: Arc<Adapter>,
    pub(crate) direction: Direction,
    /// Among the adapter's queues of that direction.
    pub(crate) number: u32,
    pub(crate) sizes: Sizes,
    pub(crate) made: OnceLock<Arc<PacketQueue>>,
}

thread_local! {
    /// The queue creation this thread is in: `NetTxQueueCreate` must be called inside it.
    static CREATING: Cell<Option<(u64, *const QueueInit)>> = const { Cell::new(None) };
}

/// The opaque `NETTXQUEUE_INIT` or `NETRXQUEUE_INIT` of the creation on this thread.
const INIT_TOKEN: u64 = 0xFFFF_8A50_0000_0000;

#[derive(Clone, Copy)]
struct Callbacks {
    start: u64,
    stop: u64,
    advance: u64,
    set_notification_enabled: u64,
    cancel: u64,
}

/// One packet queue.
pub(crate) struct PacketQueue {
    object: Arc<Object>,
    direction: Direction,
    callbacks: Callbacks,
    pub(crate) packets: Ring,
    pub(crate) fragments: Ring,
    collection: Box<[u64; 3]>,
    pub(crate) context: Arc<ExecutionContext>,
    verifier: Option<Mutex<RingVerifier>>,
    advances: AtomicU32,
    begins: Mutex<(u32, u32)>,
}

impl PacketQueue {
    /// Asks the driver for a queue.
    ///
    /// # Errors
    ///
    /// The status of its callback, or `STATUS_UNSUCCESSFUL` if it succeeded without making one.
    pub(crate) fn ask(
        machine: &Machine,
        adapter: &Arc<Adapter>,
        (direction, number): (Direction, u32),
        sizes: Sizes,
    ) -> Result<Result<Arc<Self>, NtStatus>, Dead> {
        let adapter_of = adapter.clone();
        let init =
            QueueInit { adapter: adapter_of, direction, number, sizes, made: OnceLock::new() };
        let (name, callback) = match direction {
            Direction::Transmit => ("EvtAdapterCreateTxQueue", adapter.create_tx_queue),
            Direction::Receive => ("EvtAdapterCreateRxQueue", adapter.create_rx_queue),
        };
        let outer = CREATING.replace(Some((INIT_TOKEN, &raw const init)));
        let call = Call::new(name, callback as usize, Level::Passive);
        let status = machine.call(call, &[adapter.handle(), INIT_TOKEN]);
        CREATING.set(outer);
        let status = status? as NtStatus;
        Ok(match init.made.into_inner() {
            _ if !status::is_success(status) => Err(status),
            Some(queue) => Ok(queue),
            None => Err(status::UNSUCCESSFUL),
        })
    }

    /// Its object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Puts all indices at 0 and calls `EvtStart`, if there is one.
    pub(crate) fn start(&self, machine: &Machine) {
        self.packets.reset();
        self.fragments.reset();
        *lock(&self.begins) = (0, 0);
        if let Some(verifier) = &self.verifier {
            lock(verifier).restart();
        }
        self.call(machine, "EvtPacketQueueStart", self.callbacks.start, Level::Passive);
    }

    /// Calls `EvtStop`, if there is one.
    pub(crate) fn stop(&self, machine: &Machine) {
        self.call(machine, "EvtPacketQueueStop", self.callbacks.stop, Level::Passive);
    }

    /// Calls `EvtAdvance`, checked.
    pub(crate) fn advance(&self, machine: &Machine, level: Level) {
        let odd = self.advances.fetch_add(1, Ordering::Relaxed) & 1 != 0;
        let level = if odd && self.verifier.is_some() { Level::Dispatch } else { level };
        self.checked(machine, "EvtPacketQueueAdvance", self.callbacks.advance, level);
    }

    /// Calls `EvtCancel`, checked.
    pub(crate) fn cancel(&self, machine: &Machine) {
        let level = if self.verifier.is_some() { Level::Dispatch } else { Level::Passive };
        self.checked(machine, "EvtPacketQueueCancel", self.callbacks.cancel, level);
    }

    /// Calls `EvtSetNotificationEnabled(TRUE)`; on transmit only while the driver has packets.
    pub(crate) fn arm(&self, machine: &Machine, level: Level) {
        if self.direction == Direction::Transmit && self.is_drained() {
            return;
        }
        let call = Call::new(
            "EvtPacketQueueSetNotificationEnabled",
            self.callbacks.set_notification_enabled as usize,
            level,
        );
        // A stop ends the machine; the poll sees it dead.
        let _ = machine.call(call, &[self.object.handle(), 1]);
    }

    /// Whether the driver has returned every packet.
    pub(crate) fn is_drained(&self) -> bool {
        self.packets.begin() == self.packets.end()
    }

    fn checked(&self, machine: &Machine, name: &'static str, callback: u64, level: Level) {
        let (packets, fragments) = (&self.packets, &self.fragments);
        if *lock(&self.begins) != (packets.begin(), fragments.begin()) {
            machine.die(
                &rules::RING_MOVED_OUTSIDE_CALLBACK,
                format!("{name}: BeginIndex moved since the last callback"),
            );
            return;
        }
        if let Some(verifier) = &self.verifier {
            lock(verifier).before(packets, fragments);
        }
        self.call(machine, name, callback, level);
        *lock(&self.begins) = (packets.begin(), fragments.begin());
        if machine.is_dead() {
            return;
        }
        let verdict = match &self.verifier {
            Some(verifier) => lock(verifier).after(packets, fragments),
            None => Ok(()),
        };
        if let Err(violation) = verdict {
            machine.die(
                violation.rule,
                format!("{name} of {:#x}: {}", self.object.handle(), violation.detail),
            );
        } else if packets.begin() >= packets.count() || fragments.begin() >= fragments.count() {
            machine.die(
                &rules::INVALID_RING_BEGIN_INDEX,
                format!("{name}: BeginIndex beyond the ring"),
            );
        }
    }

    fn call(&self, machine: &Machine, name: &'static str, callback: u64, level: Level) {
        if callback != 0 {
            // A stop ends the machine; the caller sees it dead.
            let _ =
                machine.call(Call::new(name, callback as usize, level), &[self.object.handle()]);
        }
    }
}

imports! {
    pub(crate) static IMPORTS: "netadaptercx";

    /// The number of the receive queue that is being asked for.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 3"]
    fn NetRxQueueInitGetQueueId(thread, globals: u64, init: u64) -> u32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        match CREATING.get() {
            // SAFETY: as in `create`: `ask` waits for the callback inside which this runs, on its thread.
            Some((token, asked)) if token == init => unsafe { (*asked).number },
            _ => {
                called.fail(&rules::BAD_QUEUE_INIT_CONTEXT, format!("{init:#x}"));
                0
            }
        }
    }

    /// Makes the transmit queue that is being asked for.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 3, 9", fail: status::INSUFFICIENT_RESOURCES]
    fn NetTxQueueCreate(thread, globals: u64, init: u64, attributes: u64, config: u64, queue: u64) -> i32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        create(&called, Direction::Transmit, [init, attributes, config, queue])
    }

    /// Makes the receive queue that is being asked for.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 3, 9", fail: status::INSUFFICIENT_RESOURCES]
    fn NetRxQueueCreate(thread, globals: u64, init: u64, attributes: u64, config: u64, queue: u64) -> i32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        create(&called, Direction::Receive, [init, attributes, config, queue])
    }

    /// The rings of a transmit queue.
    [max: PASSIVE, mark: Documented, source: "DDI nettxqueue/nf-nettxqueue-nettxqueuegetringcollection"]
    fn NetTxQueueGetRingCollection(thread, globals: u64, queue: u64) -> u64 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        called.queue(queue, Direction::Transmit).map_or(0, |queue| queue.collection_address())
    }

    /// The rings of a receive queue.
    [max: PASSIVE, mark: Documented, source: "DDI netrxqueue/nf-netrxqueue-netrxqueuegetringcollection"]
    fn NetRxQueueGetRingCollection(thread, globals: u64, queue: u64) -> u64 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        called.queue(queue, Direction::Receive).map_or(0, |queue| queue.collection_address())
    }

    /// Where an extension of a transmit ring is.
    [max: PASSIVE, mark: ReadInSource, source: "adapter/nxqueue.cpp GetExtension"]
    fn NetTxQueueGetExtension(thread, globals: u64, queue: u64, query: u64, extension: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        get_extension(&called, Direction::Transmit, queue, query, extension);
    }

    /// Where an extension of a receive ring is.
    [max: PASSIVE, mark: ReadInSource, source: "adapter/nxqueue.cpp GetExtension"]
    fn NetRxQueueGetExtension(thread, globals: u64, queue: u64, query: u64, extension: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        get_extension(&called, Direction::Receive, queue, query, extension);
    }

    /// Packets can be completed: the queue is polled.
    [max: HIGH, mark: ReadInSource, source: "facts/netcx-os.md 4"]
    fn NetTxQueueNotifyMoreCompletedPacketsAvailable(thread, globals: u64, queue: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        if let Some(queue) = called.queue(queue, Direction::Transmit) {
            queue.context.notify(thread.machine());
        }
    }

    /// Packets can be indicated: the queue is polled.
    [max: HIGH, mark: ReadInSource, source: "facts/netcx-os.md 4"]
    fn NetRxQueueNotifyMoreReceivedPacketsAvailable(thread, globals: u64, queue: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        if let Some(queue) = called.queue(queue, Direction::Receive) {
            queue.context.notify(thread.machine());
        }
    }
}

impl Called<'_> {
    /// The queue of a handle of the given direction; `None` after a stop.
    fn queue(&self, handle: u64, direction: Direction) -> Option<Arc<PacketQueue>> {
        let object = self.wdf.any(handle)?;
        let wanted = kind(direction);
        if object.kind() != wanted {
            self.fail(
                &rules::INVALID_QUEUE_HANDLE,
                format!("{handle:#x} is a {}, not a {}", object.kind().name(), wanted.name()),
            );
            return None;
        }
        self.wdf.body(handle, wanted)
    }
}

impl PacketQueue {
    fn collection_address(&self) -> u64 {
        self.collection.as_ptr().expose_provenance() as u64
    }
}

fn kind(direction: Direction) -> Kind {
    match direction {
        Direction::Transmit => Kind::TxQueue,
        Direction::Receive => Kind::RxQueue,
    }
}

fn create(called: &Called<'_>, direction: Direction, arguments: [u64; 4]) -> NtStatus {
    let [token, attributes, config, out] = arguments;
    let Some((known, init)) = CREATING.get() else {
        called.fail(
            &rules::CREATING_NET_QUEUE_FROM_WRONG_THREAD,
            "outside EvtAdapterCreateTxQueue and EvtAdapterCreateRxQueue",
        );
        return 0;
    };
    // SAFETY: `ask` put the address of its own variable there and takes it away before it returns;
    // this import runs inside the callback that `ask` waits for, on its thread.
    let init = unsafe { &*init };
    if token != known || init.direction != direction {
        called.fail(&rules::BAD_QUEUE_INIT_CONTEXT, format!("{token:#x}"));
        return 0;
    }
    if init.made.get().is_some() {
        called.fail(&rules::QUEUE_ALREADY_CREATED, "");
        return 0;
    }
    let Some(config) = called.structure("NET_PACKET_QUEUE_CONFIG", config, CONFIG_SIZE) else {
        return 0;
    };
    if out == 0 {
        called.fail(&rules::PARAMETER_CANT_BE_NULL, "PacketQueue");
        return 0;
    }
    let attributes = match Attributes::read(Address(attributes), attributes::KEY) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    if attributes.parent != 0 {
        called.fail(&rules::PARENT_OBJECT_NOT_NULL, "queue attributes");
        return 0;
    }
    let [start, stop, advance, set_notification_enabled, cancel, own_context] = config.words(8);
    if own_context != 0 {
        called
            .fail(&rules::NOT_PROVIDED, "an execution context of the driver's own is not modelled");
        return 0;
    }
    if advance == 0 || cancel == 0 || set_notification_enabled == 0 {
        called.fail(
            &rules::NET_QUEUE_INVALID_CONFIGURATION,
            "Advance, Cancel and SetNotificationEnabled are required",
        );
        return 0;
    }
    let callbacks = Callbacks { start, stop, advance, set_notification_enabled, cancel };
    let machine = &called.wdf.machine;
    let object = called.wdf.wdf.objects.create(
        &**machine,
        kind(direction),
        attributes.context,
        Some(init.adapter.object()),
    );
    let queue = Arc::new(init.queue(machine, object.clone(), callbacks));
    object.set_body(queue.clone());
    // Nobody else has this variable: it is the callback's own.
    let _ = init.made.set(queue);
    Address(out).write(0, object.handle());
    status::SUCCESS
}

impl QueueInit {
    fn queue(&self, machine: &Machine, object: Arc<Object>, callbacks: Callbacks) -> PacketQueue {
        let (sizes, transmit) = (self.sizes, self.direction == Direction::Transmit);
        let of_packets: &[ring::Extension] = match transmit {
            true if self.adapter.gso(machine).is_some() => &[ring::GSO],
            false if self.adapter.rx_checksum(machine) => &[ring::CHECKSUM],
            _ => &[],
        };
        let addresses: &[ring::Extension] = if transmit {
            &[ring::VIRTUAL_ADDRESS]
        } else {
            &[ring::VIRTUAL_ADDRESS, ring::RETURN_CONTEXT]
        };
        let packets = Ring::new(sizes.packets, ring::PACKET_SIZE, of_packets);
        let fragments = Ring::new(sizes.fragments, ring::FRAGMENT_SIZE, addresses);
        let collection = Box::new([packets.address() as u64, fragments.address() as u64, 0]);
        let verified = machine.options().verified;
        PacketQueue {
            object,
            direction: self.direction,
            callbacks,
            packets,
            fragments,
            collection,
            context: ExecutionContext::new(
                sizes.dpc_rounds,
                if transmit { 0 } else { (1 + self.number) % machine.options().cpus },
            ),
            verifier: verified.then(|| Mutex::new(RingVerifier::new(self.direction))),
            advances: AtomicU32::new(0),
            begins: Mutex::default(),
        }
    }
}

fn get_extension(
    called: &Called<'_>,
    direction: Direction,
    queue: u64,
    query: u64,
    extension: u64,
) {
    let Some(queue) = called.queue(queue, direction) else { return };
    let Some(query) = called.structure("NET_EXTENSION_QUERY", query, QUERY_SIZE) else { return };
    if extension == 0 {
        called.fail(&rules::PARAMETER_CANT_BE_NULL, "Extension");
        return;
    }
    let (name, version, of): (u64, u32, u32) = (query.read(8), query.read(16), query.read(20));
    if name == 0 {
        called.fail(&rules::INVALID_NET_EXTENSION_NAME, "NULL");
        return;
    }
    let name = Address(name).wide_string();
    let ring = match of {
        TYPE_PACKET if name.starts_with("ms_packet_") => &queue.packets,
        TYPE_FRAGMENT if name.starts_with("ms_fragment_") => &queue.fragments,
        TYPE_PACKET | TYPE_FRAGMENT => {
            called.fail(&rules::INVALID_NET_EXTENSION_NAME, name);
            return;
        }
        _ => {
            called.fail(&rules::INVALID_NET_EXTENSION_TYPE, format!("{of}"));
            return;
        }
    };
    let extension = Address(extension);
    let found = ring.extension(&name, version);
    extension.write(EXTENSION_ENABLED, 0_u64);
    extension.write(EXTENSION_ENABLED, u8::from(found.is_some()));
    let (base, stride) = found.unwrap_or_default();
    extension.write(0, base as u64);
    extension.write(8, stride as u64);
}
