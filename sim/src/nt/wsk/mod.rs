//! Winsock Kernel: registration, and what one machine's sockets share.
//!
//! WSK is asynchronous throughout: every call takes an IRP and may complete it before it returns,
//! later, on another CPU, at PASSIVE or DISPATCH. In verified mode the simulator draws one of these
//! for each call ([`completion`]); in fast mode it always completes inline. A forgotten socket
//! makes `WskDeregister` wait for ever on Windows; here it is a stop that names the socket.
//!
//! Not modelled: stream, listening and connection sockets, name resolution, receive IRPs
//! (`WskReceiveFrom`), TDI. A driver that calls those is stopped by the function's name.
//!
//! Source: `facts/wsk.md`, which quotes the driver documentation row by row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::host::Outer;
use crate::loader::probe;
use crate::nt::fwp;
use crate::nt::level::PASSIVE;
use crate::nt::machine::Machine;
use crate::nt::{behaviours, imports};
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

mod coalesce;
mod completion;
pub mod control_messages;
pub(crate) mod layout;
mod options;
pub mod ports;
mod provider;
mod receive;
mod segments;
mod send;
mod socket;

pub use coalesce::{Boundaries, coalesced, set_boundaries};
pub(crate) use provider::{DATAGRAM_IMPORTS, PROVIDER_IMPORTS};
pub(crate) use receive::descriptors;
pub use segments::segmented;
pub(crate) use send::status_of as send_status;
pub use send::{hold_sends, keep_sends};

/// The statuses WSK answers.
pub(crate) mod answer {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const PENDING: i32 = 0x103;
    pub(crate) const FILE_FORCED_CLOSED: i32 = 0xC000_00B6_u32 as i32;
    pub(crate) const DATA_NOT_ACCEPTED: i32 = 0xC000_021B_u32 as i32;
    pub(crate) const EVENT_PENDING: i32 = 0x4000_0013;
    pub(crate) const INVALID_PARAMETER: i32 = 0xC000_000D_u32 as i32;
    pub(crate) const ACCESS_DENIED: i32 = 0xC000_0022_u32 as i32;
    pub(crate) const INSUFFICIENT_RESOURCES: i32 = 0xC000_009A_u32 as i32;
    pub(crate) const NOT_SUPPORTED: i32 = 0xC000_00BB_u32 as i32;
    pub(crate) const DEVICE_NOT_READY: i32 = 0xC000_00A3_u32 as i32;
    pub(crate) const NOINTERFACE: i32 = 0xC000_02B9_u32 as i32;
    pub(crate) const CANCELLED: i32 = 0xC000_0120_u32 as i32;
    pub(crate) const INVALID_DEVICE_STATE: i32 = 0xC000_0184_u32 as i32;
    pub(crate) const INVALID_BUFFER_SIZE: i32 = 0xC000_0206_u32 as i32;
    pub(crate) const INVALID_ADDRESS_COMPONENT: i32 = 0xC000_0207_u32 as i32;
    pub(crate) const ADDRESS_ALREADY_EXISTS: i32 = 0xC000_020A_u32 as i32;
    pub(crate) const NETWORK_UNREACHABLE: i32 = 0xC000_023C_u32 as i32;
}

/// The lowest WSK version: 1.0.
const VERSION_1_0: u16 = 0x0100;
/// How long deregistration may wait before it is called a deadlock (real time in Parallel mode).
const PATIENCE: Duration = Duration::from_secs(20);

imports! {
    pub(crate) static IMPORTS: "netio.sys";

    /// Registers a client with its dispatch table; both stay where they are until deregistration.
    [max: PASSIVE, mark: Documented, source: "DDI wsk/nf-wsk-wskregister",
     fail: answer::INSUFFICIENT_RESOURCES]
    fn WskRegister(thread, client_npi: usize, registration: usize) -> i32 {
        let dispatch = probe::read::<usize>(client_npi.wrapping_add(8)).unwrap_or(0);
        let Ok(version) = probe::read::<u16>(dispatch) else {
            return thread.bad_pointer("WskClientNpi", client_npi);
        };
        let wsk = wsk(thread.machine());
        let mut registrations = lock(&wsk.registrations);
        if registrations.contains_key(&registration) {
            thread.stop(&rules::WSK_REGISTRATION, format!("{registration:#x} is registered already"));
            return 0;
        }
        let client = thread.machine().allocate(16);
        let made = Registration { version, client, captures: 0, leaving: false, static_events: 0 };
        registrations.insert(registration, made);
        answer::SUCCESS
    }

    /// Waits until every socket is closed and every provider interface released.
    [max: PASSIVE, mark: Documented, source: "DDI wsk/nf-wsk-wskderegister", point: true]
    fn WskDeregister(thread, registration: usize) {
        let (machine, wsk) = (thread.machine(), wsk(thread.machine()));
        match lock(&wsk.registrations).get_mut(&registration) {
            Some(known) => known.leaving = true,
            None => return thread.stop(&rules::WSK_REGISTRATION, "there is no such registration"),
        }
        let deadline = machine.world().now() + PATIENCE;
        let done = machine.wait(wsk.key(), Some(deadline), "WskDeregister", || wsk.is_idle().then_some(()));
        if done.is_err() && !machine.is_dead() {
            let open = wsk.open_things().join("; ");
            return thread.stop(&rules::DEADLOCK_WSK, format!("waits for ever: {open}"));
        }
        if let Some(gone) = lock(&wsk.registrations).remove(&registration) {
            machine.release(gone.client);
        }
    }

    /// Gives the provider's dispatch table, waiting for the provider if asked to.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nf-wsk-wskcaptureprovidernpi"]
    fn WskCaptureProviderNPI(thread, registration: usize, wait_ms: u32, npi: usize) -> i32 {
        if wait_ms != 0 && thread.irql() > PASSIVE {
            thread.stop(&rules::WSK_PROVIDER, "a wait above PASSIVE_LEVEL");
            return 0;
        }
        let machine = thread.machine();
        let wsk = wsk(machine);
        let client = match lock(&wsk.registrations).get_mut(&registration) {
            None => {
                thread.stop(&rules::WSK_PROVIDER, "the client is not registered");
                return 0;
            }
            Some(known) if known.leaving => return answer::DEVICE_NOT_READY,
            Some(known) if known.version != VERSION_1_0 => return answer::NOINTERFACE,
            Some(known) => {
                known.captures += 1;
                known.client
            }
        };
        let written = probe::write(npi, client).and_then(|()| probe::write(npi + 8, provider::table()));
        if written.is_err() {
            return thread.bad_pointer("WskProviderNpi", npi);
        }
        answer::SUCCESS
    }

    /// Gives the provider's dispatch table back.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nf-wsk-wskreleaseprovidernpi"]
    fn WskReleaseProviderNPI(thread, registration: usize) {
        let wsk = wsk(thread.machine());
        match lock(&wsk.registrations).get_mut(&registration) {
            Some(known) if known.captures > 0 => known.captures -= 1,
            _ => return thread.stop(&rules::WSK_PROVIDER, "nothing was captured"),
        }
        thread.machine().world().wake(wsk.key());
    }
}

behaviours! {
    pub(crate) static BEHAVIOURS;

    /// An IRP may be completed before the call returns, later, elsewhere, at PASSIVE or DISPATCH.
    [mark: Documented, source: "WDD network/using-irps-with-winsock-kernel-functions"]
    IRP_COMPLETION_ANYWHERE;
    /// A datagram may come without control messages: one in 32 does.
    [mark: Unknown, source: "facts/asks.md 17 has seen one of them missing; no page promises any"]
    CONTROL_MESSAGES_MAY_BE_MISSING;
    /// Received datagrams come as lists of 1 to 32, on any CPU, in MDL chains.
    [mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_receive_from_event"]
    INDICATIONS_AS_LISTS;
    /// The datagrams of one send that have the same length go down the stack together.
    [mark: Inferred, source: "DDI wsk/nc-wsk-pfn_wsk_send_messages takes a list; host/linux/udp.rs"]
    SENT_LISTS_STAY_TOGETHER;
    /// A build may not know `UDP_SEND_MSG_SIZE`, and then says so when it is asked for.
    [mark: Unknown, source: "facts/wsk.md 4; Windows 10 2004 and later have it"]
    SEND_SEGMENTATION_IS_MISSING;
    /// One that knows it may refuse the sends all the same.
    [mark: Unknown, source: "facts/asks.md 17: network adapters that have it wrong"]
    SEGMENTED_SENDS_ARE_REFUSED;
    /// A list of several buffers, each to be cut apart, may be refused.
    [mark: Unknown, source: "msquic sends one buffer at a time; DDI wsk/nc-wsk-pfn_wsk_send_messages is silent"]
    SEGMENTED_LISTS_ARE_REFUSED;
    /// Each buffer is cut into datagrams of the length that the control message says, the last maybe shorter.
    [mark: ReadInSource, source: "msquic, datapath_winkernel.c; WDD network/udp-segmentation-offload-uso-"]
    BUFFERS_ARE_CUT_APART;
    /// A build may not know `UDP_RECV_MAX_COALESCED_SIZE`.
    [mark: Unknown, source: "facts/wsk.md 4"]
    RECEIVE_COALESCING_IS_MISSING;
    /// With it a datagram that came alone may say its own length.
    [mark: Unknown, source: "msquic takes either"]
    LONE_DATAGRAMS_SAY_THEIR_LENGTH;
    /// Datagrams of one sender and length come as one, the last maybe shorter, with `UDP_COALESCED_INFO` among the others.
    [mark: ReadInSource, source: "msquic, datapath_winkernel.c; facts/wsk.md 5"]
    DATAGRAMS_COME_AS_ONE;
    /// Memory for that message is always there, or the datagrams would not have been put together.
    [mark: Inferred, source: "facts/asks.md 17 has seen it missing; wsk::set_boundaries plays that"]
    COALESCED_LENGTH_IS_TOLD;
    /// They are put together behind the callouts.
    [mark: Inferred, source: "facts/wfp.md 5: where coalescing by the stack has its place is not known"]
    CALLOUTS_SEE_THEM_APART;
    /// They are cut apart before callouts see them.
    [mark: Inferred, source: "facts/wfp.md 5: without ALLOW_USO; what is shown with it is not modelled"]
    CALLOUTS_SEE_WHAT_WAS_CUT;
    /// The control messages of a send are read until the IRP completes; address and WSK_BUF are not.
    [mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_send_messages"]
    CONTROL_INFO_LIVES_TO_COMPLETION;
    /// A source address that is not local fails the send.
    [mark: Inferred, source: "facts/wsk.md 6: WSAEINVAL of user mode"]
    FOREIGN_SOURCE_IS_INVALID_PARAMETER;
    /// The sharing table of binds, with its access checks always passing inside one driver.
    [mark: Documented, source: "WDD network/sharing-transport-addresses"]
    SHARING_TABLE;
    /// Binding IPv6 to the ephemeral port IPv4 got may fail with STATUS_ADDRESS_ALREADY_EXISTS.
    [mark: Inferred, source: "facts/wsk.md 3: the retries of other drivers"]
    SECOND_FAMILY_MAY_COLLIDE;
    /// An option nobody knows is STATUS_INVALID_PARAMETER, or else STATUS_NOT_SUPPORTED.
    [mark: Unknown, source: "facts/wsk.md 4"]
    UNKNOWN_OPTION_IS_NOT_SUPPORTED;
    /// The stack takes a whole TOS or traffic class, DSCP included, where an IPv6 socket takes the option of it.
    [mark: Unknown, source: "msquic src/platform/datapath_winkernel.c, which asks so before it sends so: some builds do not"]
    TRAFFIC_CLASS_IS_TAKEN;
    /// Sends with a DSCP are refused all the same.
    [mark: Unknown, source: "no page says what the option of a socket tells of a send's message"]
    TRAFFIC_CLASS_IS_REFUSED;
    /// Datagrams leave in the order of the calls that sent them.
    [mark: Inferred, source: "facts/wsk.md 6"]
    SENDS_KEEP_ORDER;
}

/// The answers of a stack that cuts sends apart and puts datagrams together as it is asked to, for `Options::choices`.
pub fn good_offloads() -> impl Iterator<Item = (String, bool)> {
    let unknown = [
        &SEND_SEGMENTATION_IS_MISSING,
        &SEGMENTED_SENDS_ARE_REFUSED,
        &SEGMENTED_LISTS_ARE_REFUSED,
        &RECEIVE_COALESCING_IS_MISSING,
        &TRAFFIC_CLASS_IS_REFUSED,
    ];
    unknown.into_iter().map(|behaviour| (behaviour.name.to_owned(), false))
}

/// One `WskRegister`.
struct Registration {
    version: u16,
    /// What the driver gets as its `PWSK_CLIENT`.
    client: usize,
    captures: u32,
    leaving: bool,
    /// Mask of the events enabled for every socket made from now on.
    static_events: u32,
}

/// What one machine's sockets share.
#[derive(Default)]
pub(crate) struct Wsk {
    registrations: Mutex<FxHashMap<usize, Registration>>,
    sockets: Mutex<FxHashMap<usize, Arc<socket::Socket>>>,
    ports: Mutex<ports::Ports>,
    queue: completion::Queue,
    arena: Arc<receive::Arena>,
    outer: OnceLock<Arc<dyn Outer>>,
    attached: AtomicBool,
}

/// Joins a machine's WSK and IP Helper to the network under it; once, before the driver is loaded.
pub fn attach(machine: &Machine, outer: Arc<dyn Outer>) {
    let wsk = wsk(machine);
    if wsk.attached.swap(true, Ordering::SeqCst) {
        return;
    }
    let _ = wsk.outer.set(outer);
    fwp::attach(machine);
    machine.background("wsk", |machine| completion::run(machine, &self::wsk(machine)));
    machine.at_unload(|machine, leaks| {
        let wsk = self::wsk(machine);
        leaks.extend(wsk.open_things().into_iter().map(|thing| Leak::new("WSK", thing)));
    });
}

/// Takes the transport from under every socket of a machine, as when tcpip goes: each hears of it by
/// a list that is NULL, and what is sent by it from then on fails with STATUS_FILE_FORCED_CLOSED.
pub fn lose_transport(machine: &Machine) {
    let sockets: Vec<_> = lock(&wsk(machine).sockets).values().cloned().collect();
    for socket in sockets {
        socket.lose_transport(machine);
    }
}

pub(crate) fn wsk(machine: &Machine) -> Arc<Wsk> {
    machine.extension::<Wsk>()
}

impl Wsk {
    /// The network under the machine.
    pub(crate) fn outer(&self) -> Option<&Arc<dyn Outer>> {
        self.outer.get()
    }

    /// Gives a receive block back that a callout held.
    pub(crate) fn give_block(&self, name: usize) {
        self.arena.give(std::iter::once(name));
    }

    /// Receive blocks, as a network takes them.
    #[cfg(test)]
    pub(crate) fn take_blocks(&self, count: usize) -> Vec<crate::host::Place> {
        let mut places = Vec::new();
        self.arena.take(&mut places, count);
        places
    }

    fn key(&self) -> Key {
        Key::of(&self.registrations)
    }

    fn find(&self, socket: usize) -> Option<Arc<socket::Socket>> {
        lock(&self.sockets).get(&socket).cloned()
    }

    /// Whether nothing keeps a client from deregistering.
    fn is_idle(&self) -> bool {
        lock(&self.sockets).is_empty()
            && lock(&self.registrations).values().all(|r| r.captures == 0)
    }

    /// Everything that is registered, captured or open, in words.
    fn open_things(&self) -> Vec<String> {
        let mut things: Vec<String> = lock(&self.sockets).values().map(|s| s.describe()).collect();
        for (at, registration) in &*lock(&self.registrations) {
            if registration.captures > 0 {
                things.push(format!(
                    "registration {at:#x}: {} NPIs not released",
                    registration.captures
                ));
            } else if !registration.leaving {
                things.push(format!("registration {at:#x}: not deregistered"));
            }
        }
        things
    }
}
