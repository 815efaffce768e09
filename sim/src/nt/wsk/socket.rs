//! One datagram socket: its states, its options, and who is inside it.
//!
//! ```text
//! CREATED --WskBind--> BOUND --WskCloseSocket--> CLOSING --no callback inside--> gone
//!    \----------------------WskCloseSocket-------/
//! ```
//!
//! A socket whose transport is gone is BOUND to nothing: it has no host's socket any more.
//!
//! The short lock guards the state alone and is never held across a call; receive callbacks are
//! counted, so that closing can wait for them.
//!
//! Source: `facts/wsk.md` 3.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::completion::{Done, later};
use super::ports::{Refused, Sharing};
use super::receive::SocketLanding;
use super::{Wsk, answer};
use crate::host::{self, OpenError};
use crate::nt::fwp;
use crate::nt::machine::Machine;
use crate::nt::thread::{Call, Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// `WSK_EVENT_RECEIVE_FROM`.
pub(super) const EVENT_RECEIVE_FROM: u32 = 0x100;

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Created,
    Bound,
    Closing,
}

/// What a socket was told.
pub(super) struct Settings {
    pub(super) state: State,
    pub(super) local: Option<SocketAddr>,
    /// Whether the port is one that the system chose.
    pub(super) ephemeral: bool,
    pub(super) sharing: Sharing,
    pub(super) events: u32,
    pub(super) wants_packet_info: bool,
    pub(super) wants_traffic_class: bool,
    /// Bytes of datagrams that may come as one; 0 is none.
    pub(super) coalesces: usize,
    pub(super) host: Option<Arc<dyn host::Socket>>,
}

/// One socket.
pub(super) struct Socket {
    /// What the driver knows it by: its `PWSK_SOCKET`.
    pub(super) address: usize,
    /// The driver's context for callbacks.
    pub(super) context: u64,
    /// The driver's `WskReceiveFromEvent`, or 0.
    pub(super) receive: usize,
    pub(super) ipv6: bool,
    pub(super) settings: Mutex<Settings>,
    /// Calls of the driver that are inside this moment.
    pub(super) calls: AtomicUsize,
    /// Receive callbacks that are running.
    pub(super) callbacks: AtomicUsize,
    /// Indications the driver has kept.
    pub(super) retained: AtomicUsize,
    /// Indications whose callback is running: the driver may have kept or released them, or not yet seen them.
    pub(super) offered: AtomicUsize,
    /// Sends that are not completed.
    pub(super) sending: AtomicUsize,
    /// Its endpoint handle, once it is bound.
    pub(super) endpoint: AtomicU64,
    pub(super) machine: Weak<Machine>,
}

/// A driver's call is inside the socket while this lives.
pub(super) struct Inside(pub(super) Arc<Socket>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Socket {
    /// Makes a socket in state CREATED.
    pub(super) fn new(machine: &Machine, at: (usize, u64, usize), ipv6: bool, events: u32) -> Self {
        let (address, context, receive) = at;
        let settings = Settings {
            state: State::Created,
            local: None,
            ephemeral: false,
            sharing: Sharing::Default,
            events,
            wants_packet_info: false,
            wants_traffic_class: false,
            coalesces: 0,
            host: None,
        };
        Self {
            address,
            context,
            receive,
            ipv6,
            settings: Mutex::new(settings),
            calls: AtomicUsize::new(0),
            callbacks: AtomicUsize::new(0),
            retained: AtomicUsize::new(0),
            offered: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            endpoint: AtomicU64::new(0),
            machine: machine.weak(),
        }
    }

    /// Who it is, for reports.
    pub(super) fn describe(&self) -> String {
        let settings = lock(&self.settings);
        let local =
            settings.local.map_or_else(|| "not bound".to_owned(), |local| local.to_string());
        format!(
            "socket {:#x} ({local}, {:?}, {} indications retained, {} sends pending)",
            self.address,
            settings.state,
            self.retained.load(Ordering::Acquire),
            self.sending.load(Ordering::Acquire),
        )
    }

    /// Enters a receive callback if there may be one.
    pub(super) fn begin_callback(&self) -> bool {
        let settings = lock(&self.settings);
        let may = settings.state == State::Bound && settings.events & EVENT_RECEIVE_FROM != 0;
        if may {
            self.callbacks.fetch_add(1, Ordering::AcqRel);
        }
        may
    }

    /// The transport is gone: nothing comes or goes any more, and the driver is told once.
    pub(super) fn lose_transport(&self, machine: &Machine) {
        if !self.begin_callback() {
            return;
        }
        let host = {
            let mut settings = lock(&self.settings);
            settings.events &= !EVENT_RECEIVE_FROM;
            settings.host.take()
        };
        if let Some(host) = host {
            host.close();
        }
        // The list is NULL; the answer is not looked at.
        let call = Call::new("WskReceiveFromEvent", self.receive, Level::Passive);
        let _ = machine.call(call, &[self.context, 0, 0]);
        self.end_callback();
    }

    /// Leaves a receive callback.
    pub(super) fn end_callback(&self) {
        self.callbacks.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Binds `socket` to `local`; port 0 gets one of the dynamic range.
pub(super) fn bind(thread: &Thread, wsk: &Wsk, socket: &Arc<Socket>, local: SocketAddr) -> i32 {
    let sharing = {
        let settings = lock(&socket.settings);
        if settings.state != State::Created {
            return answer::INVALID_DEVICE_STATE;
        }
        settings.sharing
    };
    let machine = thread.machine();
    let landing = Arc::new(SocketLanding::new(socket.clone(), wsk.arena.clone()));
    let Some(outer) = wsk.outer() else { return answer::DEVICE_NOT_READY };
    let key = socket.address as u64;
    let mut last = answer::ADDRESS_ALREADY_EXISTS;
    for _ in 0..if local.port() == 0 { 100 } else { 1 } {
        let mut ports = lock(&wsk.ports);
        let claimed = if local.port() == 0 {
            ports.claim_ephemeral(key, local.ip(), sharing, machine.world().random())
        } else {
            ports.claim(key, local, sharing).map(|()| local)
        };
        drop(ports);
        let at = match claimed {
            Ok(at) => at,
            Err(Refused::Denied) => return answer::ACCESS_DENIED,
            Err(Refused::InUse | Refused::Exhausted) => return answer::ADDRESS_ALREADY_EXISTS,
        };
        last = match outer.open(at, landing.clone()) {
            Ok(open) => {
                let mut settings = lock(&socket.settings);
                (settings.state, settings.local, settings.host) =
                    (State::Bound, Some(at), Some(open));
                settings.ephemeral = local.port() == 0;
                drop(settings);
                let endpoint = fwp::fwp(machine).open_endpoint(machine, landing.clone());
                socket.endpoint.store(endpoint, Ordering::Release);
                if fwp::bind::may_bind(machine, endpoint, at) {
                    return answer::SUCCESS;
                }
                unbind(machine, socket);
                answer::ACCESS_DENIED
            }
            Err(error) => status_of(error),
        };
        lock(&wsk.ports).release(key);
        if last != answer::ADDRESS_ALREADY_EXISTS {
            break;
        }
    }
    last
}

/// Undoes a bind that was not authorised.
fn unbind(machine: &Machine, socket: &Socket) {
    let host = {
        let mut settings = lock(&socket.settings);
        (settings.state, settings.local) = (State::Created, None);
        settings.host.take()
    };
    if let Some(host) = host {
        host.close();
    }
    fwp::fwp(machine).close_endpoint(machine, socket.endpoint.swap(0, Ordering::AcqRel));
}

fn status_of(error: OpenError) -> i32 {
    match error {
        OpenError::InUse => answer::ADDRESS_ALREADY_EXISTS,
        OpenError::Denied => answer::ACCESS_DENIED,
        OpenError::NotLocal => answer::INVALID_ADDRESS_COMPONENT,
        OpenError::NoFamily => answer::NOT_SUPPORTED,
        OpenError::Resources => answer::INSUFFICIENT_RESOURCES,
    }
}

/// Closes `socket`: no callback begins any more; the IRP is completed when none is inside.
pub(super) fn close(thread: &Thread, wsk: &Arc<Wsk>, socket: &Arc<Socket>, irp: usize) -> i32 {
    let calls = socket.calls.load(Ordering::Acquire);
    // A list that is just being indicated is not yet the driver's: its callback may still refuse it.
    let offered = socket.offered.load(Ordering::Acquire);
    let retained = socket.retained.load(Ordering::Acquire).saturating_sub(offered);
    if calls > 1 || retained > 0 {
        let detail =
            format!("{}: {} other calls inside", socket.describe(), calls.saturating_sub(1));
        thread.stop(&rules::WSK_CLOSE_SOCKET, detail);
        return answer::INVALID_DEVICE_STATE;
    }
    let mut host = {
        let mut settings = lock(&socket.settings);
        if std::mem::replace(&mut settings.state, State::Closing) == State::Closing {
            drop(settings);
            thread.stop(
                &rules::WSK_CLOSE_SOCKET,
                format!("{} is closing already", socket.describe()),
            );
            return answer::INVALID_DEVICE_STATE;
        }
        settings.host.take()
    };
    let machine = thread.machine();
    fwp::fwp(machine).close_endpoint(machine, socket.endpoint.load(Ordering::Acquire));
    let (socket, all) = (socket.clone(), wsk.clone());
    let work = Box::new(move |thread: &Thread| -> Option<Done> {
        if let Some(host) = host.take() {
            host.close();
        }
        let busy =
            socket.callbacks.load(Ordering::Acquire) + socket.sending.load(Ordering::Acquire);
        if busy > 0 {
            return None;
        }
        lock(&all.ports).release(socket.address as u64);
        lock(&all.sockets).remove(&socket.address);
        thread.machine().release(socket.address);
        thread.machine().world().wake(all.key());
        Some((answer::SUCCESS, 0))
    });
    later(thread, wsk, std::time::Duration::ZERO, ("WskCloseSocket", irp, work))
}
