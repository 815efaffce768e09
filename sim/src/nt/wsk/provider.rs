//! WSK's dispatch tables: the functions a client reaches through `WSK_PROVIDER_DISPATCH` and
//! through a socket's `WSK_PROVIDER_DATAGRAM_DISPATCH`.
//!
//! Each function checks what the documentation makes the caller's duty (a violation stops the
//! machine), then hands the work to [`completion`](super::completion), which decides when and
//! where the IRP is completed. Functions of the tables that nobody here provides stop by name.
//!
//! Source: DDI wsk.h, `facts/wsk.md` 3 and 6.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::completion::{finish, finish_now};
use super::layout::{self, AF_INET, AF_INET6};
use super::send::{self, Request};
use super::socket::{self, Inside, Socket, State};
use super::{Wsk, answer, options, receive, wsk};
use crate::loader::probe;
use crate::nt::imports;
use crate::nt::io;
use crate::nt::level::PASSIVE;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

const SOCK_DGRAM: u16 = 2;
const IPPROTO_UDP: u32 = 17;
const WSK_FLAG_DATAGRAM_SOCKET: u32 = 4;
const WSK_SET_STATIC_EVENT_CALLBACKS: u32 = 7;
const WSK_TDI_BEHAVIOR: u32 = 8;

/// A table of function addresses in memory that lives as long as the process.
fn leak_table(version: u16, names: &[(&str, &str)]) -> usize {
    let mut table: Vec<usize> = Vec::new();
    if version != 0 {
        table.push(version.into());
    }
    for (group, name) in names {
        let provided = crate::nt::address(group, name);
        table.push(provided.unwrap_or_else(|| crate::nt::missing(name)));
    }
    Box::leak(table.into_boxed_slice()).as_ptr().expose_provenance()
}

/// Address of the `WSK_PROVIDER_DISPATCH`.
pub(super) fn table() -> usize {
    static TABLE: OnceLock<usize> = OnceLock::new();
    *TABLE.get_or_init(|| {
        leak_table(
            super::VERSION_1_0,
            &[
                ("wsk", "WskSocket"),
                ("wsk", "WskSocketConnect"),
                ("wsk", "WskControlClient"),
                ("wsk", "WskGetAddressInfo"),
                ("wsk", "WskFreeAddressInfo"),
                ("wsk", "WskGetNameInfo"),
            ],
        )
    })
}

/// Address of the `WSK_PROVIDER_DATAGRAM_DISPATCH`.
fn datagram_table() -> usize {
    static TABLE: OnceLock<usize> = OnceLock::new();
    *TABLE.get_or_init(|| {
        let names = [
            "WskControlSocket",
            "WskCloseSocket",
            "WskBind",
            "WskSendTo",
            "WskReceiveFrom",
            "WskRelease",
            "WskGetLocalAddress",
            "WskSendMessages",
        ];
        leak_table(0, &names.map(|name| ("wsk datagram", name)))
    })
}

imports! {
    pub(crate) static PROVIDER_IMPORTS: "wsk";

    /// Makes a socket; the IRP's information is its address.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_socket", point: true]
    fn WskSocket(
        thread, client: usize, family: u16, kind: u16, protocol: u32, flags: u32, context: u64,
        dispatch: usize, owning_process: usize, owning_thread: usize, security: usize, irp: usize,
    ) -> i32 {
        if !takes(thread, irp, "WskSocket") {
            return 0;
        }
        let wsk = wsk(thread.machine());
        let registration =
            lock(&wsk.registrations).values().find(|r| r.client == client).map(|r| (r.captures, r.static_events));
        let Some((1.., events)) = registration else {
            thread.stop(&rules::WSK_SOCKET, format!("{client:#x} is no captured client"));
            return 0;
        };
        let datagram = kind == SOCK_DGRAM && protocol == IPPROTO_UDP && flags == WSK_FLAG_DATAGRAM_SOCKET;
        if !datagram || !matches!(family, AF_INET | AF_INET6) {
            thread.stop(&rules::NOT_PROVIDED, format!("WskSocket: family {family}, type {kind}, protocol {protocol}, flags {flags}"));
            return 0;
        }
        let receive = if dispatch == 0 { Ok(0) } else { probe::read::<usize>(dispatch) };
        let Ok(receive) = receive else {
            return thread.bad_pointer("Dispatch", dispatch);
        };
        let fails = thread.machine().faults().strikes("WskSocket");
        let all = wsk.clone();
        finish(thread, &wsk, "WskSocket", irp, Box::new(move |thread| {
            if fails {
                return Some((answer::INSUFFICIENT_RESOURCES, 0));
            }
            let address = thread.machine().allocate(64);
            let _ = probe::write(address, datagram_table());
            let made = Socket::new(thread.machine(), (address, context, receive), family == AF_INET6, events);
            lock(&all.sockets).insert(address, Arc::new(made));
            Some((answer::SUCCESS, address))
        }))
    }

    /// Sets what holds for all sockets of a client.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_control_client"]
    fn WskControlClient(
        thread, client: usize, code: u32, in_size: usize, input: usize, out_size: usize,
        output: usize, out_returned: usize, irp: usize,
    ) -> i32 {
        let wsk = wsk(thread.machine());
        let sockets = lock(&wsk.sockets).len();
        let mut registrations = lock(&wsk.registrations);
        let Some(known) = registrations.values_mut().find(|r| r.client == client) else {
            drop(registrations);
            thread.stop(&rules::WSK_CONTROL_CLIENT, format!("{client:#x} is no client"));
            return 0;
        };
        match code {
            WSK_SET_STATIC_EVENT_CALLBACKS if irp != 0 || sockets > 0 => {
                drop(registrations);
                thread.stop(&rules::WSK_CONTROL_CLIENT, "takes no IRP, and comes before any socket");
                0
            }
            WSK_SET_STATIC_EVENT_CALLBACKS => match probe::read::<u32>(input.wrapping_add(8)) {
                Ok(mask) if in_size == 16 => {
                    known.static_events = mask;
                    answer::SUCCESS
                }
                _ => answer::INVALID_PARAMETER,
            },
            // A preference that has no effect here; its result may be ignored.
            WSK_TDI_BEHAVIOR => {
                drop(registrations);
                if irp != 0 && takes(thread, irp, "WskControlClient") {
                    return finish_now(thread, &wsk, "WskControlClient", irp, Box::new(|_| Some((answer::SUCCESS, 0))));
                }
                answer::SUCCESS
            }
            _ => {
                drop(registrations);
                thread.stop(&rules::NOT_PROVIDED, format!("WskControlClient: control code {code}"));
                0
            }
        }
    }
}

imports! {
    pub(crate) static DATAGRAM_IMPORTS: "wsk datagram";

    /// Sets an option of a socket, or tells it.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_control_socket"]
    fn WskControlSocket(
        thread, socket: usize, request: u32, code: u32, level: u32, in_size: usize, input: usize,
        out_size: usize, output: usize, out_returned: usize, irp: usize,
    ) -> i32 {
        let Some((wsk, inside)) = enter(thread, socket, "WskControlSocket") else { return 0 };
        if irp != 0 && out_returned != 0 {
            thread.stop(&rules::WSK_CONTROL_SOCKET, "OutputSizeReturned beside an IRP");
            return 0;
        }
        let control = options::Control { request, code, level, in_size, input, out_size, output };
        if control.is_event_callback() && irp == 0 {
            return control.apply(thread, &inside.0).0;
        }
        if !takes(thread, irp, "WskControlSocket") {
            return 0;
        }
        let socket = inside.0.clone();
        // The input is read when the request is carried out: it must last until then.
        finish(thread, &wsk, "WskControlSocket", irp, Box::new(move |thread| Some(control.apply(thread, &socket))))
    }

    /// Closes a socket.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_close_socket", point: true]
    fn WskCloseSocket(thread, socket: usize, irp: usize) -> i32 {
        let Some((wsk, inside)) = enter(thread, socket, "WskCloseSocket") else { return 0 };
        if !takes(thread, irp, "WskCloseSocket") {
            return 0;
        }
        socket::close(thread, &wsk, &inside.0, irp)
    }

    /// Binds a socket to a local address.
    [max: PASSIVE, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_bind", point: true]
    fn WskBind(thread, socket: usize, local: usize, flags: u32, irp: usize) -> i32 {
        let Some((wsk, inside)) = enter(thread, socket, "WskBind") else { return 0 };
        if !takes(thread, irp, "WskBind") {
            return 0;
        }
        let Some(local) = address_at(thread, local, "WskBind") else { return 0 };
        if flags != 0 || local.is_ipv6() != inside.0.ipv6 {
            return finish_now(thread, &wsk, "WskBind", irp, Box::new(|_| Some((answer::INVALID_PARAMETER, 0))));
        }
        let (all, socket) = (wsk.clone(), inside.0.clone());
        let fails = thread.machine().faults().strikes("WskBind");
        let collides = collides(thread, &wsk, local);
        finish(thread, &wsk, "WskBind", irp, Box::new(move |thread| {
            let status = if fails {
                answer::INSUFFICIENT_RESOURCES
            } else if collides {
                answer::ADDRESS_ALREADY_EXISTS
            } else {
                socket::bind(thread, &all, &socket, local)
            };
            Some((status, 0))
        }))
    }

    /// Writes the address a socket is bound to.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_get_local_address"]
    fn WskGetLocalAddress(thread, socket: usize, local: usize, irp: usize) -> i32 {
        let Some((wsk, inside)) = enter(thread, socket, "WskGetLocalAddress") else { return 0 };
        if !takes(thread, irp, "WskGetLocalAddress") {
            return 0;
        }
        let socket = inside.0.clone();
        finish(thread, &wsk, "WskGetLocalAddress", irp, Box::new(move |thread| {
            let bound = lock(&socket.settings).local;
            let Some(bound) = bound else { return Some((answer::INVALID_DEVICE_STATE, 0)) };
            let bytes = layout::address_bytes(bound);
            let length = if bound.is_ipv4() { 16 } else { layout::SOCKADDR_LEN };
            if probe::write_bytes(local, &bytes[..length]).is_err() {
                thread.machine().die(&rules::WSK_ADDRESS, format!("cannot write {local:#x}"));
            }
            Some((answer::SUCCESS, 0))
        }))
    }

    /// Sends one datagram.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_send_to"]
    fn WskSendTo(
        thread, socket: usize, buffer: *const layout::Buf, flags: u32, remote: usize,
        control_length: u32, control: usize, irp: usize,
    ) -> i32 {
        let buffers = send::Buffers::One(buffer);
        send_request(thread, socket, Request { buffers, flags, remote, control_length, control, irp })
    }

    /// Sends a list of datagrams to one place.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_send_messages"]
    fn WskSendMessages(
        thread, socket: usize, list: *const layout::BufList, flags: u32, remote: usize,
        control_length: u32, control: usize, irp: usize,
    ) -> i32 {
        let buffers = send::Buffers::List(list);
        send_request(thread, socket, Request { buffers, flags, remote, control_length, control, irp })
    }

    /// Gives a chain of received datagrams back.
    [max: DISPATCH, mark: Documented, source: "DDI wsk/nc-wsk-pfn_wsk_release_datagram_indication_list"]
    fn WskRelease(thread, socket: usize, list: *mut layout::Indication) -> i32 {
        let Some((wsk, inside)) = enter(thread, socket, "WskRelease") else { return 0 };
        receive::release(thread, &wsk, &inside.0, list);
        answer::SUCCESS
    }
}

fn send_request(thread: &Thread, socket: usize, request: Request) -> i32 {
    let Some((wsk, inside)) = enter(thread, socket, "a send") else { return 0 };
    if !takes(thread, request.irp, "a send") {
        return 0;
    }
    send::send(thread, &wsk, &inside.0, request)
}

/// Finds the socket and counts the call as inside it; stops the machine if it is none or closing.
fn enter(thread: &Thread, socket: usize, function: &str) -> Option<(Arc<Wsk>, Inside)> {
    let wsk = wsk(thread.machine());
    let Some(found) = wsk.find(socket) else {
        thread.stop(&rules::WSK_NO_SUCH_SOCKET, format!("{function} of {socket:#x}"));
        return None;
    };
    if lock(&found.settings).state == State::Closing {
        thread.stop(&rules::WSK_SOCKET_IS_CLOSING, format!("{function}: {}", found.describe()));
        return None;
    }
    found.calls.fetch_add(1, Ordering::AcqRel);
    Some((wsk, Inside(found)))
}

/// Takes the IRP of a call; stops the machine if there is none, or it cannot be sent.
fn takes(thread: &Thread, irp: usize, function: &str) -> bool {
    if irp == 0 {
        thread.stop(&rules::WSK_NO_IRP, format!("{function} needs an IRP"));
        return false;
    }
    io::take_irp(thread, irp)
}

/// The socket address at `address`; stops the machine if there is none.
fn address_at(thread: &Thread, address: usize, function: &str) -> Option<std::net::SocketAddr> {
    let mut bytes = [0; layout::SOCKADDR_LEN];
    let family = probe::read::<u16>(address).unwrap_or(0);
    let length = if family == AF_INET { 16 } else { layout::SOCKADDR_LEN };
    if address != 0
        && let Ok(copy) = probe::bytes(address, length)
    {
        bytes[..length].copy_from_slice(&copy);
        // SAFETY: `bytes` has room for either family.
        if let Some(parsed) = unsafe { layout::read_address(bytes.as_ptr()) } {
            return Some(parsed);
        }
    }
    thread.stop(&rules::WSK_ADDRESS, format!("{function}: no socket address at {address:#x}"));
    None
}

/// Whether this bind of IPv6 to the port that the system chose for IPv4 is one of the unlucky
/// (`SECOND_FAMILY_MAY_COLLIDE`).
fn collides(thread: &Thread, wsk: &Wsk, local: std::net::SocketAddr) -> bool {
    let machine = thread.machine();
    let paired = || {
        let sockets: Vec<_> = lock(&wsk.sockets).values().cloned().collect();
        sockets.iter().any(|other| {
            let settings = lock(&other.settings);
            let same = settings.local.is_some_and(|other| other.port() == local.port());
            !other.ipv6 && settings.ephemeral && same
        })
    };
    machine.options().verified
        && thread.irql() == PASSIVE
        && local.is_ipv6()
        && paired()
        && machine.world().random().is_multiple_of(8)
}
