//! The functions of NetAdapterCx about devices and adapters.
//!
//! Each refuses what Windows refuses always, by the name of its failure code.
//!
//! Source: `facts/netcx-os.md` §1, §8, §9 (`adapter/nxadapterapi.cpp`, `verifier.cpp`, read in
//! Microsoft's source).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Called;
use super::adapter::{Adapter, Link, NetDevice};
use super::receive_scaling::{self, Scaling};
use super::segmentation::{self, Gso};
use crate::nt::imports;
use crate::nt::machine::Thread;
use crate::nt::wdf::attributes::{self, Attributes};
use crate::nt::wdf::device::Device;
use crate::nt::wdf::driver_memory::Address;
use crate::nt::wdf::object::Kind;
use crate::nt::wdf::status::{self, NtStatus};
use crate::verifier::rules::{self, Rule};
use crate::verifier::schedule::lock;

const DATAPATH_CALLBACKS_SIZE: u32 = 24;
const LINK_STATE_SIZE: u32 = 40;
const LINK_LAYER_SIZE: u32 = 24;
const CAPABILITIES_SIZE: u32 = 56;
const RX_CHECKSUM_SIZE: u32 = 16;
const CONNECTED: u32 = 1;
/// `MaximumNumberOfFragments` counts no higher.
const FRAGMENT_LIMIT: u64 = 65535;
/// Interface indices of the simulated machine's own interfaces come before these.
const FIRST_INDEX: u32 = 40;

/// `NETADAPTER_INIT`.
pub(crate) struct AdapterInit {
    token: u64,
    device: Arc<Device>,
    create_tx_queue: AtomicU64,
    create_rx_queue: AtomicU64,
    used: AtomicBool,
    state: Mutex<()>,
}

const FIRST_INIT: u64 = 0xFFFF_8A40_0000_0000;

/// What a `NETOFFLOAD` of ours looks like; the bits below are those of what is enabled.
const OFFLOAD: u64 = 0x4F46_464C_4F41_4400;

/// A `NETOFFLOAD` that says what is enabled: IPv4 headers, TCP, UDP.
pub(crate) fn offload_handle(enabled: [bool; 3]) -> u64 {
    let bits = enabled.iter().zip(0..).map(|(enabled, bit)| u64::from(*enabled) << bit);
    OFFLOAD | bits.sum::<u64>()
}

fn is_enabled(thread: &Thread, globals: u64, offload: u64, bit: u32) -> u8 {
    let Some(called) = Called::new(thread, globals) else { return 0 };
    if offload & !7 != OFFLOAD {
        called.fail(&rules::INVALID_NET_OFFLOAD, format!("{offload:#x}"));
        return 0;
    }
    (offload >> bit & 1) as u8
}

imports! {
    pub(crate) static IMPORTS: "netadaptercx";

    /// Makes the device a network device; before `WdfDeviceCreate`.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 5, facts/netadaptercx.md 3", fail: status::INSUFFICIENT_RESOURCES]
    fn NetDeviceInitConfig(thread, globals: u64, init: u64) -> i32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        let Some(init) = called.wdf.init(init) else { return 0 };
        if init.is_consumed() {
            called.wdf.violation(&rules::WDF_DEVICE_INIT, "NetDeviceInitConfig after WdfDeviceCreate");
            return 0;
        }
        if !init.set_extension(NetDevice::new(called.netcx.clone())) {
            return status::INVALID_DEVICE_STATE;
        }
        status::SUCCESS
    }

    /// Begins the making of an adapter; NULL without memory.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netadaptercx.md 3", fail: 0]
    fn NetAdapterInitAllocate(thread, globals: u64, device: u64) -> u64 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        let Some(device) = called.wdf.body::<Device>(device, Kind::Device) else { return 0 };
        if device.extension().is_none() {
            called.wdf.violation(&rules::WDF_DEVICE_INIT, "NetAdapterInitAllocate for a device without NetDeviceInitConfig");
            return 0;
        }
        let mut state = lock(&called.netcx.state);
        state.made += 1;
        let token = FIRST_INIT + state.made * 0x10;
        state.inits.push(Arc::new(AdapterInit {
            token,
            device,
            create_tx_queue: AtomicU64::new(0),
            create_rx_queue: AtomicU64::new(0),
            used: AtomicBool::new(false),
            state: Mutex::default(),
        }));
        token
    }

    /// Ends it; always needed.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netadaptercx.md 3"]
    fn NetAdapterInitFree(thread, globals: u64, init: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        if called.init(init).is_some() {
            lock(&called.netcx.state).inits.retain(|known| known.token != init);
        }
    }

    /// Sets who makes the queues.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 9"]
    fn NetAdapterInitSetDatapathCallbacks(thread, globals: u64, init: u64, callbacks: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(init) = called.init(init) else { return };
        let Some(callbacks) = called.structure("NET_ADAPTER_DATAPATH_CALLBACKS", callbacks, DATAPATH_CALLBACKS_SIZE) else { return };
        let [tx, rx] = callbacks.words(8);
        if tx == 0 || rx == 0 {
            called.fail(&rules::INVALID_DATAPATH_CALLBACKS, "both are required");
            return;
        }
        init.create_tx_queue.store(tx, Ordering::Release);
        init.create_rx_queue.store(rx, Ordering::Release);
    }

    /// Makes the adapter.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 9", fail: status::INSUFFICIENT_RESOURCES]
    fn NetAdapterCreate(thread, globals: u64, init: u64, attributes: u64, adapter: u64) -> i32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        let Some(init) = called.init(init) else { return 0 };
        create(&called, &init, attributes, adapter)
    }

    /// Starts the adapter, or remembers to once its device is in D0.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 2.2"]
    fn NetAdapterStart(thread, globals: u64, adapter: u64) -> i32 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        let Some(adapter) = called.adapter(adapter) else { return 0 };
        match adapter.start(&called.wdf.machine) {
            Ok(Ok(())) | Err(_) => status::SUCCESS,
            Ok(Err(None)) => status::INVALID_DEVICE_REQUEST,
            Ok(Err(Some(code))) => {
                called.fail(code, "NetAdapterStart");
                0
            }
        }
    }

    /// Stops it; returns after the halt.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 2.2"]
    fn NetAdapterStop(thread, globals: u64, adapter: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        // A stop of the machine is what the driver meets on return.
        let _ = adapter.stop(&called.wdf.machine);
    }

    /// Reports the link.
    [max: DISPATCH, mark: ReadInSource, source: "facts/netcx-os.md 8"]
    fn NetAdapterSetLinkState(thread, globals: u64, adapter: u64, state: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        let Some(state) = called.structure("NET_ADAPTER_LINK_STATE", state, LINK_STATE_SIZE) else { return };
        let [transmit_speed, receive_speed] = state.words(8);
        let values: [u32; 4] = std::array::from_fn(|index| state.read(24 + 4 * index as u64));
        if values[0] > 2 || values[1] > 2 || values[2] > 4 || values[3] > 15 {
            called.fail(&rules::INVALID_LINK_STATE, format!("{values:?}"));
            return;
        }
        let connected = values[0] == CONNECTED;
        adapter.set_link(&called.wdf.machine, Link { connected, transmit_speed, receive_speed });
    }

    /// Declares link speeds.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 8"]
    fn NetAdapterSetLinkLayerCapabilities(thread, globals: u64, adapter: u64, capabilities: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        if called.structure("NET_ADAPTER_LINK_LAYER_CAPABILITIES", capabilities, LINK_LAYER_SIZE).is_none() {
            return;
        }
        if !adapter.declare(|capabilities| capabilities.link_layer = true) {
            called.fail(&rules::ADAPTER_ALREADY_STARTED, "NetAdapterSetLinkLayerCapabilities");
        }
    }

    /// Sets the MTU, also of a started adapter.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 8"]
    fn NetAdapterSetLinkLayerMtuSize(thread, globals: u64, adapter: u64, mtu: u32) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        if mtu == 0 {
            called.fail(&rules::MTU_MUST_BE_GREATER_THAN_ZERO, "NetAdapterSetLinkLayerMtuSize");
            return;
        }
        adapter.set_mtu(mtu);
    }

    /// Declares how packets are passed.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 9"]
    fn NetAdapterSetDataPathCapabilities(thread, globals: u64, adapter: u64, tx: u64, rx: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        let Some(tx) = called.structure("NET_ADAPTER_TX_CAPABILITIES", tx, CAPABILITIES_SIZE) else { return };
        let Some(rx) = called.structure("NET_ADAPTER_RX_CAPABILITIES", rx, CAPABILITIES_SIZE) else { return };
        if let Err((code, detail)) = set_data_path(&adapter, tx, rx) {
            called.fail(code, detail);
        }
    }

    /// Declares that received packets come with their checksums judged.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netadaptercx.md 7"]
    fn NetAdapterOffloadSetRxChecksumCapabilities(thread, globals: u64, adapter: u64, capabilities: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        let name = "NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES";
        let Some(capabilities) = called.structure(name, capabilities, RX_CHECKSUM_SIZE) else { return };
        let callback: u64 = capabilities.read(8);
        if callback == 0 {
            called.fail(&rules::PARAMETER_CANT_BE_NULL, "EvtAdapterOffloadSetRxChecksum");
            return;
        }
        if !adapter.declare(|capabilities| capabilities.rx_checksum = callback) {
            called.fail(&rules::ADAPTER_ALREADY_STARTED, "NetAdapterOffloadSetRxChecksumCapabilities");
        }
    }

    /// Declares that received flows can be spread over queues.
    [max: PASSIVE, mark: ReadInSource, source: "facts/netcx-os.md 7, 9"]
    fn NetAdapterSetReceiveScalingCapabilities(thread, globals: u64, adapter: u64, capabilities: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        let name = "NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES";
        let Some(at) = called.structure(name, capabilities, receive_scaling::CAPABILITIES_SIZE) else { return };
        match Scaling::read(at) {
            Ok(scaling) if adapter.declare(|capabilities| capabilities.scaling = Some(scaling)) => {}
            Ok(_) => called.fail(&rules::ADAPTER_ALREADY_STARTED, "NetAdapterSetReceiveScalingCapabilities"),
            Err((code, detail)) => called.fail(code, detail),
        }
    }

    /// Whether checksums of IPv4 headers are to be looked at.
    [max: PASSIVE, mark: Documented, source: "DDI netadapteroffload/nf-netadapteroffload-netoffloadisrxchecksumipv4enabled"]
    fn NetOffloadIsRxChecksumIPv4Enabled(thread, globals: u64, offload: u64) -> u8 {
        is_enabled(thread, globals, offload, 0)
    }

    /// Whether those of TCP are.
    [max: PASSIVE, mark: Documented, source: "DDI netadapteroffload/nf-netadapteroffload-netoffloadisrxchecksumtcpenabled"]
    fn NetOffloadIsRxChecksumTcpEnabled(thread, globals: u64, offload: u64) -> u8 {
        is_enabled(thread, globals, offload, 1)
    }

    /// Whether those of UDP are.
    [max: PASSIVE, mark: Documented, source: "DDI netadapteroffload/nf-netadapteroffload-netoffloadisrxchecksumudpenabled"]
    fn NetOffloadIsRxChecksumUdpEnabled(thread, globals: u64, offload: u64) -> u8 {
        is_enabled(thread, globals, offload, 2)
    }

    /// Declares that packets may come that are to be cut.
    [max: PASSIVE, mark: ReadInSource, source: "adapter/verifier.cpp, facts/netcx-os.md 5, 9"]
    fn NetAdapterOffloadSetGsoCapabilities(thread, globals: u64, adapter: u64, capabilities: u64) {
        let Some(called) = Called::new(thread, globals) else { return };
        let Some(adapter) = called.adapter(adapter) else { return };
        let (name, size) = ("NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES", segmentation::CAPABILITIES_SIZE);
        let Some(capabilities) = called.structure(name, capabilities, size) else { return };
        match Gso::read(capabilities) {
            Err((code, detail)) => called.fail(code, detail),
            Ok(gso) if adapter.declare(|capabilities| capabilities.gso = Some(gso)) => {}
            Ok(_) => called.fail(&rules::ADAPTER_ALREADY_STARTED, "NetAdapterOffloadSetGsoCapabilities"),
        }
    }

    /// The adapter's `NET_LUID`.
    [max: DISPATCH, mark: Documented, source: "DDI netadapter/nf-netadapter-netadaptergetnetluid"]
    fn NetAdapterGetNetLuid(thread, globals: u64, adapter: u64) -> u64 {
        let Some(called) = Called::new(thread, globals) else { return 0 };
        called.adapter(adapter).map_or(0, |adapter| adapter.luid())
    }
}

impl Called<'_> {
    fn init(&self, token: u64) -> Option<Arc<AdapterInit>> {
        let known =
            lock(&self.netcx.state).inits.iter().find(|known| known.token == token).cloned();
        if known.is_none() {
            self.fail(&rules::INVALID_NET_ADAPTER_INIT_SIGNATURE, format!("{token:#x}"));
        }
        known
    }
}

fn create(called: &Called<'_>, init: &AdapterInit, attributes: u64, out: u64) -> NtStatus {
    if out == 0 {
        called.fail(&rules::PARAMETER_CANT_BE_NULL, "Adapter");
        return 0;
    }
    let _one_at_a_time = lock(&init.state);
    if init.used.load(Ordering::Acquire) {
        called.fail(&rules::NET_ADAPTER_INIT_ALREADY_USED, "NetAdapterCreate");
        return 0;
    }
    let callbacks = [
        init.create_tx_queue.load(Ordering::Acquire),
        init.create_rx_queue.load(Ordering::Acquire),
    ];
    if callbacks[0] == 0 {
        called.fail(
            &rules::INVALID_DATAPATH_CALLBACKS,
            "NetAdapterInitSetDatapathCallbacks was not called",
        );
        return 0;
    }
    let attributes = match Attributes::read(Address(attributes), attributes::KEY) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    if attributes.parent != 0 {
        called.fail(&rules::PARENT_OBJECT_NOT_NULL, "adapter attributes");
        return 0;
    }
    init.used.store(true, Ordering::Release);
    let machine = &called.wdf.machine;
    let objects = &called.wdf.wdf.objects;
    let object =
        objects.create(&**machine, Kind::Adapter, attributes.context, Some(init.device.object()));
    let mut state = lock(&called.netcx.state);
    state.made += 1;
    let index = FIRST_INDEX + state.made as u32;
    let adapter =
        Adapter::new(machine, object.clone(), init.device.clone(), callbacks, index, state.sizes);
    object.set_body(adapter.clone());
    state.adapters.push(adapter);
    drop(state);
    Address(out).write(0, object.handle());
    status::SUCCESS
}

type Refusal = (&'static Rule, String);

fn set_data_path(adapter: &Adapter, tx: Address, rx: Address) -> Result<(), Refusal> {
    let (mapping, backfill): (u32, u64) = (tx.read(4), tx.read(8));
    let [fragments, alignment] = tx.words(16);
    let hint: u32 = tx.read(32);
    let queues: u64 = tx.read(40);
    let refuse = |code, detail: &str| Err((code, detail.to_owned()));
    if queues == 0 || fragments == 0 || alignment == 0 {
        return refuse(
            &rules::INVALID_ADAPTER_TX_CAPABILITIES,
            "queues, fragments and alignment are at least 1",
        );
    }
    if !alignment.is_power_of_two() || (hint != 0 && !hint.is_power_of_two()) {
        return refuse(&rules::NOT_POWER_OF_TWO, "transmit alignment or ring hint");
    }
    if mapping != 0 || backfill != 0 || alignment != 1 {
        return refuse(
            &rules::NOT_PROVIDED,
            "DMA mapping, backfill and alignment are not modelled",
        );
    }
    let modes: [u32; 3] = [rx.read(4), rx.read(8), rx.read(12)];
    let [frame, queues, return_buffer, alignment] = rx.words(16);
    if queues == 0 || frame == 0 || (modes[0] == 1 && (modes[1] != 1 || return_buffer == 0)) {
        return refuse(
            &rules::INVALID_ADAPTER_RX_CAPABILITIES,
            "queues, frame size, or driver mode without attachment and callback",
        );
    }
    if (alignment != 0 && !alignment.is_power_of_two())
        || (modes[2] != 0 && !modes[2].is_power_of_two())
    {
        return refuse(&rules::NOT_POWER_OF_TWO, "receive alignment or ring hint");
    }
    if modes[0] != 1 {
        return refuse(&rules::NOT_PROVIDED, "system-managed receive buffers are not modelled");
    }
    let declared = adapter.declare(|capabilities| {
        capabilities.data_path = true;
        capabilities.tx_fragments = fragments.min(FRAGMENT_LIMIT) as usize;
        capabilities.rx_frame = u32::try_from(frame).unwrap_or(u32::MAX);
        capabilities.return_rx_buffer = return_buffer;
    });
    if declared {
        Ok(())
    } else {
        refuse(&rules::ADAPTER_ALREADY_STARTED, "NetAdapterSetDataPathCapabilities")
    }
}
