//! The Windows Filtering Platform in the kernel (`Fwpm*`, `Fwps*`), as far as UDP at the transport layer needs it.
//!
//! * [`bfe`] is the service, [`engine`] sessions and transactions, `objects` what is in it;
//! * [`callouts`] are a driver's functions, `layers` and `classify` how packets meet them, `bind` how sockets do;
//! * [`inbound`] is the way of received datagrams, `received` their lists, [`flows`] who may be heard;
//! * [`inject`] is the way of injected ones;
//! * [`neighbour`] is somebody else's callout, [`clones`] what it makes of lists, [`foreign`] somebody else's objects.
//!
//! Not modelled: layers other than the transport layers, ALE_AUTH_RECV_ACCEPT and ALE_RESOURCE_ASSIGNMENT; flow contexts,
//! pending, lists that the driver clones, enumeration, provider contexts, security descriptors, boot-time objects and
//! the driver's own persistent ones. Outbound, one classify stands for all datagrams of a send.
//!
//! Tests set what a machine does beside its unknown behaviours: [`set_neighbour`], [`set_firewall`], [`set_coalescing`],
//! [`set_path_mtu`], [`limit_nic_buffers`], [`receive_on`], [`hold_injections`], [`refuse_unregistering`], [`stop_bfe`],
//! [`start_bfe`], [`restart_bfe_later`], [`change_policy`], [`foreign::add_foreign`].
//!
//! Source: `facts/wfp.md`, which quotes DDI fwpsk and fwpmk and WDD network row by row.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::host;
use crate::nt::behaviours;
use crate::nt::machine::Machine;
use crate::verifier::report::Leak;
use crate::verifier::schedule::lock;

pub(crate) mod bfe;
pub(crate) mod bind;
pub(crate) mod callouts;
pub(crate) mod classify;
pub(crate) mod clones;
pub(crate) mod engine;
pub(crate) mod flows;
pub mod foreign;
pub(crate) mod inbound;
pub(crate) mod inject;
pub(crate) mod layers;
pub(crate) mod neighbour;
pub(crate) mod objects;
pub(crate) mod outbound;
pub(crate) mod received;
pub(crate) mod udp;

pub use bfe::{ServiceState, restart_bfe_later, start_bfe, stop_bfe};
pub use callouts::refuse_unregistering;
pub use clones::held_clones;
pub use flows::{Firewall, IDLE, change_policy, set_firewall};
pub use foreign::{Foreign, Object, Verdict};
pub use inbound::{Coalescing, Counts, set_path_mtu};
pub use inject::hold_injections;
pub use layers::Layer;
pub use neighbour::{Neighbour, set_neighbour};
pub use received::{held_nic_buffers, limit_nic_buffers, receive_on};

/// The statuses WFP answers.
pub(crate) mod answer {
    pub(crate) use crate::nt::status::{
        STATUS_ACCESS_DENIED as ACCESS_DENIED,
        STATUS_INSUFFICIENT_RESOURCES as INSUFFICIENT_RESOURCES,
        STATUS_INVALID_HANDLE as INVALID_HANDLE, STATUS_INVALID_PARAMETER as INVALID_PARAMETER,
        STATUS_SUCCESS as SUCCESS,
    };
    pub(crate) const FILE_FORCED_CLOSED: i32 = 0xC000_00B6_u32 as i32;
    pub(crate) const RPC_SERVER_UNAVAILABLE: i32 = 0xC002_0017_u32 as i32;
    pub(crate) const CALLOUT_NOT_FOUND: i32 = 0xC022_0001_u32 as i32;
    pub(crate) const CONDITION_NOT_FOUND: i32 = 0xC022_0002_u32 as i32;
    pub(crate) const FILTER_NOT_FOUND: i32 = 0xC022_0003_u32 as i32;
    pub(crate) const LAYER_NOT_FOUND: i32 = 0xC022_0004_u32 as i32;
    pub(crate) const PROVIDER_NOT_FOUND: i32 = 0xC022_0005_u32 as i32;
    pub(crate) const SUBLAYER_NOT_FOUND: i32 = 0xC022_0007_u32 as i32;
    pub(crate) const ALREADY_EXISTS: i32 = 0xC022_0009_u32 as i32;
    pub(crate) const IN_USE: i32 = 0xC022_000A_u32 as i32;
    pub(crate) const WRONG_SESSION: i32 = 0xC022_000C_u32 as i32;
    pub(crate) const NO_TXN_IN_PROGRESS: i32 = 0xC022_000D_u32 as i32;
    pub(crate) const TXN_IN_PROGRESS: i32 = 0xC022_000E_u32 as i32;
    pub(crate) const SESSION_ABORTED: i32 = 0xC022_0010_u32 as i32;
    pub(crate) const TIMEOUT: i32 = 0xC022_0012_u32 as i32;
    pub(crate) const INCOMPATIBLE_LAYER: i32 = 0xC022_0014_u32 as i32;
    pub(crate) const LIFETIME_MISMATCH: i32 = 0xC022_0016_u32 as i32;
    pub(crate) const INVALID_FLAGS: i32 = 0xC022_001E_u32 as i32;
    pub(crate) const NULL_DISPLAY_NAME: i32 = 0xC022_0023_u32 as i32;
    pub(crate) const INVALID_ACTION_TYPE: i32 = 0xC022_0024_u32 as i32;
    pub(crate) const INVALID_WEIGHT: i32 = 0xC022_0025_u32 as i32;
    pub(crate) const MATCH_TYPE_MISMATCH: i32 = 0xC022_0026_u32 as i32;
    pub(crate) const TYPE_MISMATCH: i32 = 0xC022_0027_u32 as i32;
    pub(crate) const CALLOUT_NOTIFICATION_FAILED: i32 = 0xC022_0037_u32 as i32;
    pub(crate) const TCPIP_NOT_READY: i32 = 0xC022_0100_u32 as i32;
    pub(crate) const INJECT_HANDLE_CLOSING: i32 = 0xC022_0101_u32 as i32;
}

behaviours! {
    pub(crate) static BEHAVIOURS;

    /// At the inbound transport layer data begins behind the UDP header; outbound, at it.
    [mark: Documented, source: "WDD network/data-offset-positions"] DATA_OFFSETS;
    /// Headers and data may be cut over MDLs anywhere, with slack behind, unmapped, reassembled.
    [mark: Documented, source: "WDD network/packet-indication-format"] LISTS_ARE_CUT_ANYWHERE;
    /// One list a call, at PASSIVE or DISPATCH, on any CPU.
    [mark: Documented, source: "WDD network/callout-driver-programming-considerations"] CLASSIFY_ANYWHERE;
    /// Metadata may be missing, and the list too.
    [mark: Documented, source: "WDD network/metadata-fields-at-each-filtering-layer, network/data-offset-positions"] METADATA_MAY_BE_MISSING;
    /// A value that is not an address, port, protocol or flags may be empty.
    [mark: Documented, source: "LEARN win32/fwp/ale-re-authorization: what is unknown is FWP_EMPTY"] VALUES_MAY_BE_EMPTY;
    /// Ports and IPv4 addresses are values in host order.
    [mark: ReadInSource, source: "microsoft/Windows-driver-samples network/trans/ddproxy/sys/DD_proxy.c"] VALUES_IN_HOST_ORDER;
    /// A heavier sublayer decides first; a lighter one may decide otherwise while the right is there.
    [mark: Documented, source: "LEARN win32/fwp/filter-arbitration"] ARBITRATION;
    /// A callout that has not the right is asked all the same.
    [mark: Documented, source: "LEARN win32/fwp/filter-arbitration: all sublayers are evaluated"] CALLOUTS_WITHOUT_RIGHT_ARE_ASKED;
    /// A callout may block what was permitted without the right to change that: a veto.
    [mark: Documented, source: "LEARN win32/fwp/filter-arbitration, WDD network/types-of-callouts"] CALLOUTS_MAY_VETO;
    /// Of filters of one weight in a sublayer, and of sublayers of one weight, the later is asked first, or else the earlier.
    [mark: Unknown, source: "LEARN win32/fwp/filter-weight-assignment says only that it is a problem"] OF_EQUAL_WEIGHT_THE_LATER_IS_ASKED_FIRST;
    /// A filter whose callout is not registered blocks, unless it says otherwise; if it only inspects, it is passed over.
    [mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpscalloutunregisterbyid0"] FILTERS_WITHOUT_CALLOUT_BLOCK;
    /// What is absorbed is no discard: nothing hears of it.
    [mark: Documented, source: "WDD network/types-of-callouts"] ABSORBING_IS_SILENT;
    /// The first datagram of a remote address has to be authorised, and the first after 60 s without traffic.
    [mark: Documented, source: "WDD network/ale-stateful-filtering; facts/wfp.md 9"] FLOWS_ARE_AUTHORISED;
    /// Absorbed packets are traffic of their flow.
    [mark: Unknown, source: "facts/risks.md 5"] ABSORBED_PACKETS_KEEP_THE_FLOW;
    /// Injected packets are traffic of their flow.
    [mark: Unknown, source: "facts/risks.md 5"] INJECTED_PACKETS_KEEP_THE_FLOW;
    /// A socket that sends makes a flow, too, whose answers need no authorisation.
    [mark: Documented, source: "LEARN win32/fwp/ale-stateful-filtering"] SENDING_AUTHORISES_ANSWERS;
    /// A filter that comes or goes at the layer where a flow was authorised has it authorised again.
    [mark: Documented, source: "LEARN win32/fwp/ale-re-authorization"] POLICY_CHANGES_REAUTHORISE;
    /// A socket that binds has to pass ALE_RESOURCE_ASSIGNMENT, where its endpoint handle is known and there is no packet.
    [mark: Documented, source: "WDD network/metadata-fields-at-each-filtering-layer, network/data-offset-positions"] BINDS_ARE_AUTHORISED;
    /// A bind that is blocked fails with STATUS_ACCESS_DENIED.
    [mark: Inferred, source: "WSAEACCES of user mode"] BLOCKED_BINDS_ARE_DENIED;
    /// Objects of a dynamic session go with it, all others with the service.
    [mark: Documented, source: "LEARN win32/fwp/object-management"] LIFETIMES;
    /// A session that outlived the service answers STATUS_FWP_SESSION_ABORTED, or else RPC_NT_SERVER_UNAVAILABLE.
    [mark: Unknown, source: "facts/wfp.md 8"] ORPHANED_SESSION_IS_ABORTED;
    /// A service that stops waits until its subscribers have heard of it.
    [mark: Unknown, source: "DDI fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0"] STOPPING_BFE_WAITS_FOR_SUBSCRIBERS;
    /// Unregistering a callout waits for classifies that run, or else answers STATUS_FWP_IN_USE.
    [mark: Unknown, source: "facts/wfp.md 8"] UNREGISTERING_WAITS_FOR_CLASSIFIES;
    /// A list that does not say that it was put together has the headers of its first datagram, not those of the whole.
    [mark: Unknown, source: "WDD network/udp-rsc-offload asks for the whole's"] UNSAID_COALESCING_KEEPS_HEADERS;
    /// An endpoint handle is good until its socket is closed.
    [mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1"] ENDPOINTS_LIVE_AS_LONG_AS_SOCKETS;
    /// An injected list may have several buffers, each a datagram.
    [mark: ReadInSource, source: "microsoft/Windows-driver-samples network/trans/ddproxy/sys/DD_proxy.c injects clones of such"] INJECTED_LISTS_OF_MANY_BUFFERS;
    /// An injected list comes back at any IRQL up to DISPATCH, on any CPU, in any order, inside the call or after it.
    [mark: Documented, source: "DDI fwpsk/nc-fwpsk-fwps_inject_complete0"] INJECTIONS_COMPLETE_ANYWHERE;
    /// An injected list that the outbound layer blocks completes with STATUS_ACCESS_DENIED.
    [mark: Inferred, source: "facts/wfp.md 4"] BLOCKED_INJECTIONS_ARE_DENIED;
    /// An injected list that goes to an address of the same machine comes back with its injection state, or else without.
    [mark: Unknown, source: "WDD network/packet-injection-functions does not say"] LOOPED_LISTS_STAY_INJECTED;
    /// A clone has descriptors of its own over the bytes of its parent, which stays until the clone is freed.
    [mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsallocateclonenetbufferlist0, WDD network/types-of-callouts"] CLONES_KEEP_THEIR_PARENT;
    /// A list that others have injected says so; a clone of one's own that others have injected, that it was one's own before.
    [mark: Documented, source: "DDI fwpsk/ne-fwpsk-fwps_packet_injection_state_"] CLONES_REMEMBER_WHO_INJECTED;
    /// A send or injection that somebody absorbed succeeds, once he is done with it.
    [mark: Inferred, source: "WDD network/types-of-callouts: it is discarded silently"] ABSORBED_SENDS_SUCCEED;
    /// PKTINFO and TOS of an injected list are honoured as a socket's.
    [mark: Documented, source: "DDI fwpsk/ns-fwpsk-fwps_transport_send_params1_: control data as of WSASendMsg"] INJECTED_CONTROL_DATA_COUNTS;
}

/// The socket behind an endpoint handle, as WFP sees it.
pub(crate) trait Endpoint: Send + Sync {
    /// Where it is bound.
    fn local(&self) -> SocketAddr;
    /// The host's socket; none once the transport is lost.
    fn host(&self) -> Option<Arc<dyn host::Socket>>;
    /// Indicates a datagram to it that passed the layers by another way.
    fn deliver(&self, machine: &Machine, facts: &layers::Facts, payload: &[u8]);
}

/// Sockets by endpoint handle.
#[derive(Default)]
pub(crate) struct Endpoints {
    all: inject::Endpoints,
    made: AtomicU64,
}

impl Endpoints {
    pub(crate) fn find(&self, handle: u64) -> Option<Arc<dyn Endpoint>> {
        lock(&self.all).get(&handle).cloned()
    }
}

/// WFP of one machine.
#[derive(Default)]
pub(crate) struct Fwp {
    bfe: bfe::Bfe,
    engine: engine::Shared,
    callouts: callouts::Callouts,
    compiled: Mutex<Arc<classify::Compiled>>,
    /// Whether a layer has filters.
    busy: [AtomicBool; layers::LAYERS],
    flows: flows::Flows,
    nic: received::Nic,
    clones: AtomicUsize,
    inbound: inbound::Inbound,
    injections: inject::Injections,
    neighbour: neighbour::Next,
    endpoints: Endpoints,
    attached: AtomicBool,
}

/// WFP of a machine.
pub(crate) fn fwp(machine: &Machine) -> Arc<Fwp> {
    machine.extension::<Fwp>()
}

/// Starts what WFP does on its own; once, before the driver is loaded.
pub fn attach(machine: &Machine) {
    if fwp(machine).attached.swap(true, Ordering::SeqCst) {
        return;
    }
    machine.background("BFE", |machine| fwp(machine).bfe.run(machine));
    machine.background("injections", |machine| fwp(machine).injections.run(machine));
    machine.background("neighbour", |machine| fwp(machine).neighbour.run(machine));
    machine.at_unload(|machine, leaks| fwp(machine).leaks(leaks));
}

/// What passed the inbound transport layer since its first filter.
#[must_use]
pub fn counts(machine: &Machine) -> Counts {
    fwp(machine).inbound.counts()
}

/// Sets whether the network card coalesces datagrams; it does so only if every callout that may see them allows it.
pub fn set_coalescing(machine: &Machine, coalescing: Coalescing) {
    fwp(machine).inbound.set_coalescing(coalescing);
}

/// Objects in the engine: what enumerating them would show.
#[must_use]
pub fn objects(machine: &Machine) -> usize {
    lock(&fwp(machine).engine).open_things().1
}

/// Lists that were injected and are not completed.
#[must_use]
pub fn pending_injections(machine: &Machine) -> usize {
    fwp(machine).injections.pending()
}

impl Fwp {
    /// Whether packets of a layer meet filters.
    pub(crate) fn is_busy(&self, layer: Layer) -> bool {
        self.busy[layer as usize].load(Ordering::Acquire)
    }

    /// Whether anything here looks at packets.
    pub(crate) fn is_in_use(&self) -> bool {
        self.busy.iter().any(|busy| busy.load(Ordering::Acquire)) || self.neighbour.is_there()
    }

    /// A bound socket gets its endpoint handle.
    pub(crate) fn open_endpoint(&self, machine: &Machine, endpoint: Arc<dyn Endpoint>) -> u64 {
        let number = self.endpoints.made.fetch_add(1, Ordering::Relaxed) + 1;
        // Nothing that looks like an index or an address.
        let handle = (number << 32 | machine.world().random() & 0xFFFF_FFFF) | 1;
        lock(&self.endpoints.all).insert(handle, endpoint);
        handle
    }

    /// A socket is being closed: its handle is nothing any more.
    pub(crate) fn close_endpoint(&self, machine: &Machine, handle: u64) {
        let gone = lock(&self.endpoints.all).remove(&handle);
        if gone.is_some() {
            self.injections.endpoint_closes(machine, handle);
        }
    }

    fn leaks(&self, leaks: &mut Vec<Leak>) {
        let (sessions, objects) = lock(&self.engine).open_things();
        for (count, what) in [
            (sessions, "engine handles not closed"),
            (objects, "objects left in the engine"),
            (self.callouts.len(), "callouts not unregistered"),
            (self.bfe.subscriptions(), "subscriptions to BFE's state not ended"),
            (self.injections.handles(), "injection handles not destroyed"),
            (self.injections.pending(), "injected lists not completed"),
            (self.nic.held(), "received lists referenced"),
            (self.clones.load(Ordering::SeqCst), "clones of lists not freed"),
        ] {
            if count > 0 {
                leaks.push(Leak::new("WFP", format!("{count} {what}")));
            }
        }
    }
}

#[cfg(test)]
mod tests;
