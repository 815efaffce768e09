//! The adapter object: capabilities, start, link state.
//!
//! An adapter is created while its device is being added, configured, and started last: all
//! capabilities but the MTU must be set before. It is a child of its device, deleted with it; so if
//! a later step fails, the device's addition must fail too.
//!
//! The adapter carries bare IP packets. What that means for its capabilities: any alignment and any
//! number of fragments on transmit, with no room asked for in front, so that NetAdapterCx never has
//! to copy; and on receive buffers of our own, which come back by
//! [`AdapterEvents::return_rx_buffer`].
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/device-and-adapter-initialization>

use core::{
    num::{NonZeroU32, NonZeroUsize},
    ptr::{self, NonNull},
};

use wdk_sys::{NTSTATUS, ULONG};

use super::{Kind, QueueIdentity, QueueInit};
use crate::{
    irql::{AtMostDispatch, Passive},
    status::{NtError, check, to_status},
    sys::netcx::*,
    wdf::{Device, context},
};

/// What an adapter does; the value is the context of the adapter object.
pub trait AdapterEvents: Send + Sync + 'static {
    /// The transmit queue is wanted: `init` must become one.
    ///
    /// # Errors
    ///
    /// The adapter fails.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    fn create_tx_queue(&self, init: QueueInit<'_>, passive: &mut Passive) -> Result<(), NtError>;

    /// A receive queue is wanted: `init` must become one.
    ///
    /// # Errors
    ///
    /// The adapter fails.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    fn create_rx_queue(&self, init: QueueInit<'_>, passive: &mut Passive) -> Result<(), NtError>;

    /// The stack has done with the buffer that was linked under `handle`.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, any thread.
    fn return_rx_buffer(&self, handle: NonZeroUsize, level: &AtMostDispatch);

    /// Which checksums of received packets are looked at has changed; until then all are, if the receive
    /// queue has room for it at all.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, any thread.
    fn set_rx_checksums(&self, wanted: RxChecksums);

    /// Received packets are to be spread over the queues by a hash over that.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, any thread; as for the other three.
    fn enable_receive_scaling(&self, hashed: Hashed);

    /// They are all to go to the queue of the table's first entry.
    fn disable_receive_scaling(&self);

    /// The key of the hash has changed.
    fn set_hash_key(&self, key: &[u8; HASH_KEY_BYTES]);

    /// Packets whose hash ends in `index` are to go to that queue from now on.
    ///
    /// # Errors
    ///
    /// There is no such index, or no such queue.
    fn set_indirection(&self, index: usize, queue: QueueIdentity) -> Result<(), NtError>;
}

/// Bytes of the key of a Toeplitz hash.
pub const HASH_KEY_BYTES: usize = 40;
/// Entries of the table from hashes to queues: the fewest that NetAdapterCx allows.
pub const INDIRECTION_ENTRIES: usize = 128;

/// What a hash over a received packet covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// The addresses of IPv4.
    pub ipv4: bool,
    /// The addresses of IPv6.
    pub ipv6: bool,
    /// And the ports of TCP.
    pub tcp: bool,
    /// And the ports of UDP.
    pub udp: bool,
}

/// Which checksums of received packets the stack wants to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxChecksums {
    /// Those of IPv4 headers.
    pub ipv4: bool,
    /// Those of TCP.
    pub tcp: bool,
    /// Those of UDP.
    pub udp: bool,
}

/// A link's speed, which the system puts into route metrics and ring sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpeed {
    /// Bits per second, each way.
    pub bits_per_second: u64,
}

/// How an adapter hands packets over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPath {
    /// The capacity of every receive buffer, in bytes; a packet in a larger one would be dropped.
    pub max_frame_bytes: NonZeroU32,
    /// The largest packet the stack sends, in bytes.
    pub mtu_bytes: NonZeroU32,
    /// The constant speed of the link.
    pub speed: LinkSpeed,
    /// Whether the stack may give packets that are to be cut into segments.
    pub segmentation: bool,
    /// How many receive queues there may be, a power of two. With more than 1 the stack may spread flows.
    pub receive_queues: NonZeroU32,
}

/// The most payload of a packet that is to be cut: with the longest headers its length fits into an IP
/// header.
const MOST_SUPER_PAYLOAD: usize = 65_535 - 60 - 60;
/// The longest IP header.
const MOST_IP_HEADER: u16 = 60;

/// A handle of an adapter.
///
/// # Invariants
///
/// The adapter's device has not been cleaned up, as for [`Device`].
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    adapter: NETADAPTER,
    speed: LinkSpeed,
    mtu_bytes: NonZeroU32,
}

// SAFETY: NetAdapterCx's functions take an adapter's handle on any thread.
unsafe impl Send for Adapter {}
// SAFETY: as above; NetAdapterCx does its own locking.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Creates an adapter on `device`, its context by `build`, and sets its capabilities.
    ///
    /// # Errors
    ///
    /// Whatever NetAdapterCx or `build` answers; the device's addition must then fail.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create<A: AdapterEvents>(
        device: Device,
        passive: &mut Passive,
        data_path: DataPath,
        build: impl FnOnce(Self, &mut Passive) -> Result<A, NtError>,
    ) -> Result<Self, NtError> {
        let adapter = AdapterInit::new(device)?.create::<A>()?;
        let DataPath { speed, mtu_bytes, .. } = data_path;
        let adapter = Self { adapter, speed, mtu_bytes };
        let context = build(adapter, passive)?;
        // SAFETY: created above with the attributes of `A`; queues are asked for after the start.
        unsafe { context::fill(adapter.adapter, context) }
            .map_err(|_context| NtError::INSUFFICIENT_RESOURCES)?;
        adapter.set_capabilities::<A>(&data_path);
        Ok(adapter)
    }

    /// Hands the adapter to the network stack, unconnected. Its queues come when the device works.
    ///
    /// A device that stops has it stopped, and what NDIS was told of it forgotten: speed and MTU are told with each start.
    ///
    /// # Errors
    ///
    /// Whatever NDIS answers; the adapter is then not started.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn start(self, passive: &Passive) -> Result<(), NtError> {
        let speed = self.speed.bits_per_second;
        let mut link_layer = NET_ADAPTER_LINK_LAYER_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_LINK_LAYER_CAPABILITIES>() as ULONG,
            MaxTxLinkSpeed: speed,
            MaxRxLinkSpeed: speed,
        };
        // SAFETY: PASSIVE_LEVEL by the token, and not started; the adapter exists by the type invariant; copied.
        unsafe { NetAdapterSetLinkLayerCapabilities(self.adapter, &raw mut link_layer) };
        self.set_mtu(passive, self.mtu_bytes);
        self.set_link(false);
        // SAFETY: PASSIVE_LEVEL by the token; the adapter exists by the type invariant.
        check(unsafe { NetAdapterStart(self.adapter) })
    }

    /// Takes the adapter from the network stack; returns when its queues are gone.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn stop(self, _passive: &Passive) {
        // SAFETY: PASSIVE_LEVEL by the token; the adapter exists by the type invariant.
        unsafe { NetAdapterStop(self.adapter) };
    }

    /// The interface's locally unique identifier.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn luid(self, _passive: &Passive) -> u64 {
        // SAFETY: PASSIVE_LEVEL by the token; the adapter exists by the type invariant.
        unsafe { NetAdapterGetNetLuid(self.adapter) }.Value
    }

    /// Sets the largest packet the stack sends.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn set_mtu(self, _passive: &Passive, mtu_bytes: NonZeroU32) {
        // SAFETY: PASSIVE_LEVEL by the token; the adapter exists by the type invariant; not 0.
        unsafe { NetAdapterSetLinkLayerMtuSize(self.adapter, mtu_bytes.get()) };
    }

    /// Connects or disconnects the medium.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn set_link(self, up: bool) {
        let speed = if up { self.speed.bits_per_second } else { 0 };
        let mut state = NET_ADAPTER_LINK_STATE {
            Size: size_of::<NET_ADAPTER_LINK_STATE>() as ULONG,
            TxLinkSpeed: speed,
            RxLinkSpeed: speed,
            MediaConnectState: if up {
                MediaConnectStateConnected
            } else {
                MediaConnectStateDisconnected
            },
            MediaDuplexState: MediaDuplexStateFull,
            SupportedPauseFunctions: NetAdapterPauseFunctionTypeUnsupported,
            AutoNegotiationFlags: NetAdapterAutoNegotiationFlagNone,
        };
        // SAFETY: the adapter exists by the type invariant; documented up to DISPATCH_LEVEL; the
        // state is copied.
        unsafe { NetAdapterSetLinkState(self.adapter, &raw mut state) };
    }

    /// Sets all that must be set before the first start.
    fn set_capabilities<A: AdapterEvents>(self, data_path: &DataPath) {
        let mut tx = NET_ADAPTER_TX_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_TX_CAPABILITIES>() as ULONG,
            MappingRequirement: NetMemoryMappingRequirementNone,
            PayloadBackfill: 0,
            MaximumNumberOfFragments: usize::MAX,
            FragmentBufferAlignment: NET_ADAPTER_FRAGMENT_DEFAULT_ALIGNMENT,
            FragmentRingNumberOfElementsHint: 0,
            MaximumNumberOfQueues: 1,
            DmaCapabilities: ptr::null_mut(),
        };
        let mut rx = NET_ADAPTER_RX_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_RX_CAPABILITIES>() as ULONG,
            AllocationMode: NetRxFragmentBufferAllocationModeDriver,
            AttachmentMode: NetRxFragmentBufferAttachmentModeDriver,
            FragmentRingNumberOfElementsHint: 0,
            MaximumFrameSize: data_path.max_frame_bytes.get() as usize,
            MaximumNumberOfQueues: data_path.receive_queues.get() as usize,
            EvtAdapterReturnRxBuffer: evt_adapter_return_rx_buffer::<A>,
            FragmentBufferAlignment: NET_ADAPTER_FRAGMENT_DEFAULT_ALIGNMENT,
            DmaCapabilities: ptr::null_mut(),
        };
        // SAFETY: called by `create` only, at PASSIVE_LEVEL before the start; copied.
        unsafe { NetAdapterSetDataPathCapabilities(self.adapter, &raw mut tx, &raw mut rx) };
        let checksum = NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES>() as ULONG,
            EvtAdapterOffloadSetRxChecksum: evt_adapter_offload_set_rx_checksum::<A>,
        };
        // SAFETY: as above.
        unsafe { NetAdapterOffloadSetRxChecksumCapabilities(self.adapter, &raw const checksum) };
        if data_path.segmentation {
            self.set_gso_capabilities();
        }
        if data_path.receive_queues.get() > 1 {
            self.set_receive_scaling_capabilities::<A>(data_path.receive_queues.get());
        }
    }

    /// Declares that received flows can be spread over `queues`, by a hash over addresses and ports.
    fn set_receive_scaling_capabilities<A: AdapterEvents>(self, queues: u32) {
        let scaling = NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES>() as ULONG,
            NumberOfQueues: queues as usize,
            IndirectionTableSize: INDIRECTION_ENTRIES,
            UnhashedTargetIndex: 0,
            UnhashedTargetType: NetAdapterReceiveScalingUnhashedTargetTypeHashIndex,
            ReceiveScalingHashTypes: NetAdapterReceiveScalingHashTypeToeplitz,
            ReceiveScalingProtocolTypes: NetAdapterReceiveScalingProtocolTypeIPv4
                | NetAdapterReceiveScalingProtocolTypeIPv4Options
                | NetAdapterReceiveScalingProtocolTypeIPv6
                | NetAdapterReceiveScalingProtocolTypeTcp
                | NetAdapterReceiveScalingProtocolTypeUdp,
            ReceiveScalingEncapsulationTypes: [NetAdapterReceiveScalingEncapsulationTypeNone; 2],
            SynchronizeSetIndirectionEntries: 0,
            EvtAdapterReceiveScalingEnable: evt_receive_scaling_enable::<A>,
            EvtAdapterReceiveScalingDisable: evt_receive_scaling_disable::<A>,
            EvtAdapterReceiveScalingSetHashSecretKey: evt_receive_scaling_set_key::<A>,
            EvtAdapterReceiveScalingSetIndirectionEntries: evt_receive_scaling_set_entries::<A>,
        };
        // SAFETY: called by `create` only, at PASSIVE_LEVEL before the start; copied.
        unsafe { NetAdapterSetReceiveScalingCapabilities(self.adapter, &raw const scaling) };
    }

    /// Declares that TCP and UDP over IPv4 and IPv6 may come as super-packets: all but IPv6 with
    /// extension headers.
    fn set_gso_capabilities(self) {
        let mut gso = NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES {
            Size: size_of::<NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES>() as ULONG,
            Layer3Flags: NetAdapterOffloadLayer3FlagIPv4NoOptions
                | NetAdapterOffloadLayer3FlagIPv4WithOptions
                | NetAdapterOffloadLayer3FlagIPv6NoExtensions,
            Layer4Flags: NetAdapterOffloadLayer4FlagTcpNoOptions
                | NetAdapterOffloadLayer4FlagTcpWithOptions
                | NetAdapterOffloadLayer4FlagUdp,
            Layer4HeaderOffsetLimit: MOST_IP_HEADER,
            MaximumOffloadSize: MOST_SUPER_PAYLOAD,
            MinimumSegmentCount: 2,
            EvtAdapterOffloadSetGso: evt_adapter_offload_set_gso,
        };
        // SAFETY: called by `create` only, at PASSIVE_LEVEL before the start; copied.
        unsafe { NetAdapterOffloadSetGsoCapabilities(self.adapter, &raw mut gso) };
    }
}

/// An adapter about to be created.
///
/// # Invariants
///
/// The pointer came from `NetAdapterInitAllocate` and has not been freed.
struct AdapterInit(NonNull<NETADAPTER_INIT>);

impl AdapterInit {
    /// Starts the making of an adapter on `device`.
    fn new(device: Device) -> Result<Self, NtError> {
        // SAFETY: the device exists by its invariant; called by `Adapter::create` only, which has
        // the token of PASSIVE_LEVEL.
        let init = unsafe { NetAdapterInitAllocate(device.as_raw()) };
        NonNull::new(init).map(Self).ok_or(NtError::INSUFFICIENT_RESOURCES)
    }

    /// Creates the adapter, with an empty context for an `A`.
    fn create<A: AdapterEvents>(self) -> Result<NETADAPTER, NtError> {
        let mut callbacks = NET_ADAPTER_DATAPATH_CALLBACKS {
            Size: size_of::<NET_ADAPTER_DATAPATH_CALLBACKS>() as ULONG,
            EvtAdapterCreateTxQueue: evt_adapter_create_tx_queue::<A>,
            EvtAdapterCreateRxQueue: evt_adapter_create_rx_queue::<A>,
        };
        // SAFETY: the init is not freed, by the type invariant; the callbacks are copied.
        unsafe { NetAdapterInitSetDatapathCallbacks(self.0.as_ptr(), &raw mut callbacks) };
        let mut attributes = context::attributes::<A>();
        let mut adapter: NETADAPTER = ptr::null_mut();
        // SAFETY: as above; attributes and the handle's place live through the call.
        check(unsafe { NetAdapterCreate(self.0.as_ptr(), &raw mut attributes, &raw mut adapter) })?;
        Ok(adapter)
    }
}

impl Drop for AdapterInit {
    fn drop(&mut self) {
        // SAFETY: allocated and not freed, by the type invariant; still in `Adapter::create`, so at
        // PASSIVE_LEVEL. It must be freed whether or not the adapter was created.
        unsafe { NetAdapterInitFree(self.0.as_ptr()) };
    }
}

/// `EvtAdapterCreateTxQueue`.
unsafe extern "system" fn evt_adapter_create_tx_queue<A: AdapterEvents>(
    adapter: NETADAPTER,
    init: *mut NETTXQUEUE_INIT,
) -> NTSTATUS {
    // SAFETY: documented to be called at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) }.ok_or(NtError::DEVICE_NOT_READY);
    // SAFETY: what this callback was given, unused so far.
    let init = unsafe { QueueInit::new(init, Kind::Transmit) };
    to_status(context.and_then(|context| context.create_tx_queue(init?, &mut passive)))
}

/// `EvtAdapterCreateRxQueue`.
unsafe extern "system" fn evt_adapter_create_rx_queue<A: AdapterEvents>(
    adapter: NETADAPTER,
    init: *mut NETRXQUEUE_INIT,
) -> NTSTATUS {
    // SAFETY: documented to be called at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) }.ok_or(NtError::DEVICE_NOT_READY);
    // SAFETY: what this callback was given, unused so far.
    let init = unsafe { QueueInit::new(init, Kind::Receive) };
    to_status(context.and_then(|context| context.create_rx_queue(init?, &mut passive)))
}

/// `EvtAdapterReturnRxBuffer`.
unsafe extern "system" fn evt_adapter_return_rx_buffer<A: AdapterEvents>(
    adapter: NETADAPTER,
    handle: NET_FRAGMENT_RETURN_CONTEXT_HANDLE,
) {
    // SAFETY: documented to be called at or below DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) };
    let returned = context.zip(NonZeroUsize::new(handle.addr()));
    returned.iter().for_each(|(context, handle)| context.return_rx_buffer(*handle, &level));
}

/// `EvtAdapterOffloadSetGso`: what comes is cut whatever is enabled, for one that was on its way when
/// that changed is cut too.
unsafe extern "system" fn evt_adapter_offload_set_gso(_adapter: NETADAPTER, _offload: NETOFFLOAD) {}

/// `EvtAdapterReceiveScalingEnable`.
unsafe extern "system" fn evt_receive_scaling_enable<A: AdapterEvents>(
    adapter: NETADAPTER,
    _hash: u32,
    protocols: u32,
) -> NTSTATUS {
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) }.ok_or(NtError::DEVICE_NOT_READY);
    let has = |protocol: u32| protocols & protocol != 0;
    let hashed = Hashed {
        ipv4: has(NetAdapterReceiveScalingProtocolTypeIPv4),
        ipv6: has(NetAdapterReceiveScalingProtocolTypeIPv6),
        tcp: has(NetAdapterReceiveScalingProtocolTypeTcp),
        udp: has(NetAdapterReceiveScalingProtocolTypeUdp),
    };
    to_status(context.map(|context| context.enable_receive_scaling(hashed)))
}

/// `EvtAdapterReceiveScalingDisable`.
unsafe extern "system" fn evt_receive_scaling_disable<A: AdapterEvents>(adapter: NETADAPTER) {
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) };
    context.iter().for_each(|context| context.disable_receive_scaling());
}

/// `EvtAdapterReceiveScalingSetHashSecretKey`.
unsafe extern "system" fn evt_receive_scaling_set_key<A: AdapterEvents>(
    adapter: NETADAPTER,
    key: *const NET_ADAPTER_RECEIVE_SCALING_HASH_SECRET_KEY,
) -> NTSTATUS {
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) }.ok_or(NtError::DEVICE_NOT_READY);
    // SAFETY: NetAdapterCx gives a key that is there for the call.
    let key = unsafe { &*key };
    if key.Length != HASH_KEY_BYTES {
        return to_status(Err(NtError::INVALID_PARAMETER));
    }
    // SAFETY: as many bytes are there for the call.
    let key = unsafe { key.Key.cast::<[u8; HASH_KEY_BYTES]>().read() };
    to_status(context.map(|context| context.set_hash_key(&key)))
}

/// `EvtAdapterReceiveScalingSetIndirectionEntries`.
unsafe extern "system" fn evt_receive_scaling_set_entries<A: AdapterEvents>(
    adapter: NETADAPTER,
    entries: *mut NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRIES,
) -> NTSTATUS {
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let Some(context) = (unsafe { context::get::<A>(adapter) }) else {
        return to_status(Err(NtError::DEVICE_NOT_READY));
    };
    // SAFETY: NetAdapterCx gives entries that are there for the call.
    let entries = unsafe { &*entries };
    let mut outcome = Ok(());
    for at in 0..entries.Length {
        let entry = entries.Entries.wrapping_add(at);
        // SAFETY: there are `Length` entries, for the call, and this callback's to write.
        let entry = unsafe { &mut *entry };
        let queue = QueueIdentity::of(entry.PacketQueue);
        let set = context.set_indirection(entry.Index as usize, queue);
        entry.Status = to_status(set);
        outcome = outcome.and(set);
    }
    to_status(outcome)
}

/// `EvtAdapterOffloadSetRxChecksum`.
unsafe extern "system" fn evt_adapter_offload_set_rx_checksum<A: AdapterEvents>(
    adapter: NETADAPTER,
    offload: NETOFFLOAD,
) {
    // SAFETY: registered for an adapter of `A`, which outlives its callbacks.
    let context = unsafe { context::get::<A>(adapter) };
    // SAFETY: the offload is what this callback was given.
    let ipv4 = unsafe { NetOffloadIsRxChecksumIPv4Enabled(offload) } != 0;
    // SAFETY: as above.
    let tcp = unsafe { NetOffloadIsRxChecksumTcpEnabled(offload) } != 0;
    // SAFETY: as above.
    let udp = unsafe { NetOffloadIsRxChecksumUdpEnabled(offload) } != 0;
    let wanted = RxChecksums { ipv4, tcp, udp };
    context.iter().for_each(|context| context.set_rx_checksums(wanted));
}
