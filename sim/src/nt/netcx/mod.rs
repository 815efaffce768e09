//! NetAdapterCx 2.1: the operating system's side of a network adapter, for an IP medium.
//!
//! Between the driver's rings and the host stand no real NBLs: a packet on its way to the driver is a
//! buffer with up to four pieces ([`tx_translator`]), one on its way from the driver a view of the
//! driver's own buffers ([`rx_translator`]). What NDIS would do to an NBL in between (offload
//! information) is not modelled, but for segmentation; no other offload is offered but Rx checksum.
//!
//! | file | what |
//! |---|---|
//! | `binding` | the class extension's function table |
//! | `adapter`, `adapter_functions` | `NETADAPTER`: capabilities, start, stop, link; its host's side |
//! | `data_path` | creating, starting, stopping, destroying the queues, in order |
//! | `queue` | `NETPACKETQUEUE` and its rings |
//! | `execution_context`, `poll_thread` | who runs a queue's callbacks, when and at which IRQL |
//! | `tx_translator`, `rx_translator` | packets into and out of rings |
//! | `segmentation` | packets that the driver is to cut, and that tcpip cuts itself |
//! | `receive_scaling` | several receive queues: what the stack programs |
//! | `rx_checksum` | whether what the driver says of received packets' checksums is so |
//! | `ring`, `ring_verifier`, `packet_layout` | shared memory, its rules, headers |
//!
//! Source: `facts/netcx-os.md` (microsoft/Network-Adapter-Class-Extension de94903, read in
//! Microsoft's source); newer Windows may differ.

use std::sync::{Arc, Mutex};

use crate::nt::behaviours;
use crate::nt::machine::{Machine, Thread};
use crate::nt::wdf::Entered;
use crate::nt::wdf::object::Kind;
use crate::verifier::rules::{self, Rule};
use crate::verifier::schedule::lock;

pub mod adapter;
pub mod adapter_functions;
pub mod binding;
pub(crate) mod data_path;
pub mod execution_context;
pub mod packet_layout;
pub(crate) mod poll_thread;
pub mod queue;
pub(crate) mod receive_scaling;
pub mod ring;
pub mod ring_verifier;
mod rx_checksum;
pub mod rx_translator;
pub mod segmentation;
mod stopping;
pub mod tx_translator;

use adapter::Adapter;

behaviours! {
    pub(crate) static BEHAVIOURS;
    /// The data path is created before NDIS restarts the adapter, or after.
    [mark: Unknown, source: "facts/netcx-os.md 2.3"]
    DATA_PATH_BEFORE_RESTART;
    /// A poll starts in a DPC and goes on in a thread once its budget is used.
    [mark: ReadInSource, source: "facts/netcx-os.md 4"]
    POLL_STARTS_IN_A_DPC;
    /// A DPC's budget is a number of rounds, not KeShouldYieldProcessor.
    [mark: Inferred, source: "facts/netcx-os.md 0: simplified"]
    DPC_BUDGET_IN_ROUNDS;
    /// A list of tcpip may have several NET_BUFFERs, each a packet; it is complete with the last of them.
    [mark: ReadInSource, source: "facts/netcx-os.md 5"]
    SEND_LISTS_OF_SEVERAL_PACKETS;
    /// For an adapter without granted segmentation and checksums tcpip cuts to the MTU and does the sums.
    [mark: ReadInSource, source: "facts/netcx-os.md 5; host/linux/split.rs"]
    SEGMENTS_ARE_CUT_BEFORE_THE_RING;
    /// Received TCP segments that follow each other are one for the host, though nothing below it coalesced them.
    [mark: Inferred, source: "WDD network/rules-for-coalescing-tcp-ip-segments; host/linux/merge.rs"]
    SEGMENTS_ARE_MERGED_BEHIND_THE_RING;
    /// A driver does not write what it is given to send: the pages may be others' too.
    [mark: Inferred, source: "DDI nbl: NDIS_NBL_FLAGS_SEND_READ_ONLY; clones share their pages"]
    SENT_DATA_IS_READ_ONLY;
    /// A driver does not touch a receive buffer between returning its fragment and getting it back.
    [mark: Inferred, source: "facts/netcx-os.md 10: stricter than Windows"]
    RECEIVED_DATA_IS_THE_HOSTS;
    /// In fast mode packets have no lists behind them.
    [mark: Inferred, source: "simplified, for speed"]
    FAST_PACKETS_WITHOUT_LISTS;
    /// Ring sizes and pool sizes are parameters; Windows' come from NxPerfTuner.
    [mark: Inferred, source: "facts/netcx-os.md 6: not in the repository"]
    RING_SIZES_ARE_PARAMETERS;
    /// An element is padded to its widest extension and to 8 bytes.
    [mark: Inferred, source: "facts/netcx-os.md: not established"]
    ELEMENT_PADDING;
    /// The verifying dispatch alternates Advance between its own level and DISPATCH, and raises for Cancel.
    [mark: ReadInSource, source: "facts/netcx-os.md 9"]
    ADVANCE_ALTERNATES_LEVELS;
    /// `EvtSetNotificationEnabled` is called with TRUE only, on transmit only while packets are out.
    [mark: ReadInSource, source: "facts/netcx-os.md 4"]
    NOTIFICATION_TRUE_ONLY;
    /// An adapter on an IP medium may tell what it found of received packets' checksums, or it may not: then its packets have
    /// no room for it.
    [mark: Unknown, source: "facts/netadaptercx.md 7: NetAdapterCx offers it for Ethernet only"]
    RX_CHECKSUM_IS_GRANTED;
    /// tcpip spreads the flows of an adapter on an IP medium over several receive queues, or it does not.
    [mark: Unknown, source: "facts/netadaptercx.md 4: the decisive experiment"]
    RSS_IS_GRANTED;
    /// Queues beyond the first come with the data path, and are programmed once it has started.
    [mark: ReadInSource, source: "facts/netcx-os.md 3, 7: where RSS was initialised before"]
    RSS_QUEUES_COME_WITH_THE_DATA_PATH;
    /// Whoever says that a checksum is right, or wrong, has added it up.
    [mark: Inferred, source: "stricter: Windows believes what it is told"]
    RX_CHECKSUMS_ARE_TOLD_TRULY;
    /// tcpip gives an adapter on an IP medium packets to be cut, or it does not.
    [mark: Unknown, source: "facts/netadaptercx.md 7: NetAdapterCx offers it for Ethernet only"]
    GSO_IS_GRANTED;
    /// The length in the IP header of a packet to be cut is 0, or the packet's.
    [mark: Unknown, source: "WDD network/offloading-the-segmentation-of-large-tcp-packets: editions differ"]
    SUPER_PACKETS_WITHOUT_LENGTH;
    /// A packet to be cut has in its checksum the sum over addresses and protocol.
    [mark: Documented, source: "WDD network/offloading-the-segmentation-of-large-tcp-packets"]
    SUPER_PACKETS_WITH_PART_OF_A_CHECKSUM;
    /// A list with a packet to be cut has no other.
    [mark: Documented, source: "WDD network/offloading-the-segmentation-of-large-tcp-packets"]
    SUPER_PACKETS_ALONE_IN_THEIR_LISTS;
    /// A packet to be cut lies in pieces like any other, its headers too.
    [mark: Inferred, source: "stricter: they are said to be in the first MDL"]
    SUPER_PACKETS_IN_ANY_PIECES;
    /// What no capability covers is cut before the ring.
    [mark: ReadInSource, source: "facts/netcx-os.md 5"]
    SOFTWARE_SEGMENTATION;
    /// A driver does not write the extensions of a packet to send.
    [mark: Inferred, source: "stricter: the verifier compares packets only"]
    SENT_EXTENSIONS_ARE_READ_ONLY;
    /// `EvtAdapterOffloadSetGso` is not called, and `EvtAdapterOffloadSetRxChecksum` when an administrator changes it.
    [mark: Inferred, source: "simplified: no OID_TCP_OFFLOAD_PARAMETERS here"]
    NO_OFFLOAD_OIDS;
    /// A returned Rx buffer comes back in a later poll of its queue.
    [mark: ReadInSource, source: "facts/netcx-os.md 6"]
    RX_BUFFERS_RETURN_IN_A_POLL;
    /// The Rx gate waits for every indicated packet before the driver hears Cancel.
    [mark: ReadInSource, source: "facts/netcx-os.md 3"]
    RX_GATE_WAITS;
}

/// Sizes that Windows tunes by itself.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Elements of each packet ring; a power of two.
    pub packets: u32,
    /// Elements of each fragment ring; a power of two.
    pub fragments: u32,
    /// NBLs and MDLs of the receive pool.
    pub receive_pool: u32,
    /// Packets that may wait for the driver or be with it.
    pub outstanding: usize,
    /// Rounds of one poll in a DPC.
    pub dpc_rounds: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            packets: 1024,
            fragments: 1024,
            receive_pool: 4096,
            outstanding: 2048,
            dpc_rounds: 32,
        }
    }
}

/// NetAdapterCx of one machine.
#[derive(Default)]
pub struct NetCx {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    globals: u64,
    sizes: Sizes,
    adapters: Vec<Arc<Adapter>>,
    inits: Vec<Arc<adapter_functions::AdapterInit>>,
    made: u64,
}

impl NetCx {
    /// NetAdapterCx of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension::<Self>()
    }

    /// Sets the sizes that adapters started later get.
    pub fn set_sizes(&self, sizes: Sizes) {
        lock(&self.state).sizes = sizes;
    }

    /// All adapters, in the order of their creation.
    pub fn adapters(&self) -> Vec<Arc<Adapter>> {
        lock(&self.state).adapters.clone()
    }
}

/// A NetAdapterCx function that has been entered with the right globals.
struct Called<'t> {
    wdf: Entered<'t>,
    netcx: Arc<NetCx>,
}

impl<'t> Called<'t> {
    fn new(thread: &'t Thread, globals: u64) -> Option<Self> {
        let wdf = Entered::for_extension(thread)?;
        let netcx = NetCx::of(&wdf.machine);
        let known = lock(&netcx.state).globals;
        if globals == 0 || globals != known {
            thread.stop(
                &rules::CORRUPTED_PRIVATE_GLOBALS,
                format!("{globals:#x}, bound with {known:#x}"),
            );
            return None;
        }
        Some(Self { wdf, netcx })
    }

    /// Stops with one of NetAdapterCx's failure codes.
    fn fail(&self, code: &'static Rule, detail: impl Into<String>) {
        self.wdf.thread.stop(code, detail);
    }

    fn adapter(&self, handle: u64) -> Option<Arc<Adapter>> {
        self.wdf.body(handle, Kind::Adapter)
    }

    /// The structure at `pointer`, if it is there and of the size this version has.
    fn structure(
        &self,
        name: &str,
        pointer: u64,
        size: u32,
    ) -> Option<crate::nt::wdf::driver_memory::Address> {
        if pointer == 0 {
            self.fail(&rules::PARAMETER_CANT_BE_NULL, name);
            return None;
        }
        let address = crate::nt::wdf::driver_memory::Address(pointer);
        let found: u32 = address.read(0);
        if found != size {
            self.fail(
                &rules::INVALID_STRUCT_TYPE_SIZE,
                format!("{name}: Size {found}, not {size}"),
            );
            return None;
        }
        Some(address)
    }
}
