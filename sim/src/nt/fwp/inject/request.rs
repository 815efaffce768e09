//! What one injection asks for: read out of the driver's memory, and checked as Windows cannot check it.
//!
//! A wrong port, length or checksum in a UDP header leaves the machine and is noticed by the receiver alone, which says
//! nothing. Under the verifier it stops the driver here.
//!
//! Source: DDI fwpsk/ns-fwpsk-fwps_transport_send_params1_; RFC 768, RFC 8200 8.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::{Endpoint, Fwp, udp};
use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::ndis::layout::{self, Buffer, list};
use crate::nt::wsk::control_messages::{self, SendControl};
use crate::nt::wsk::layout::AF_INET6;

/// The longest control list that makes sense.
const CONTROL_MAX: u32 = 4096;

/// The arguments of one injection.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) handle: usize,
    pub(super) context: u64,
    pub(super) endpoint: u64,
    pub(super) arguments: usize,
    pub(super) family: u16,
    pub(super) list: usize,
    pub(super) routine: usize,
    pub(super) routine_context: u64,
}

/// Where a list shall go, and what must not change meanwhile.
pub(super) struct Route {
    pub(super) remote: IpAddr,
    pub(super) scope: u32,
    pub(super) control: SendControl,
    pub(super) frozen: Vec<(usize, Vec<u8>)>,
}

/// Reads `FWPS_TRANSPORT_SEND_PARAMS1`; `Err(None)`: the parameters are wrong.
pub(super) fn route(at: usize, family: u16) -> Result<Route, Option<Fault>> {
    let ipv6 = family == AF_INET6;
    let address: usize = probe::read(at)?;
    let (control, length): (usize, u32) = (probe::read(at + 16)?, probe::read(at + 24)?);
    let header: usize = probe::read(at + 32)?;
    if address == 0 || header != 0 || length > CONTROL_MAX || (length > 0 && control == 0) {
        return Err(None);
    }
    let bytes = probe::bytes(address, if ipv6 { 16 } else { 4 })?;
    let remote = match bytes.as_array::<4>() {
        Some(v4) => IpAddr::V4(Ipv4Addr::from(*v4)),
        None => IpAddr::V6(Ipv6Addr::from(*bytes.as_array::<16>().ok_or(None)?)),
    };
    let list = probe::bytes(control, length as usize)?;
    let asked = control_messages::parse_send(&list, ipv6).map_err(|_| None)?;
    let frozen = vec![(address, bytes), (control, list)];
    Ok(Route { remote, scope: probe::read(at + 8)?, control: asked, frozen })
}

/// One datagram of a list: where it goes, and where its payload is.
pub(super) struct Datagram {
    pub(super) to: SocketAddr,
    pub(super) stretches: Vec<layout::Stretch>,
}

/// Reads the UDP headers of a list, and checks what only the receiver would.
pub(super) fn datagrams(
    machine: &Machine,
    endpoint: &dyn Endpoint,
    route: &Route,
    buffers: &[(usize, Buffer)],
) -> Result<Vec<Datagram>, String> {
    let verified = machine.options().verified;
    let source = verified.then(|| source(machine, endpoint, route)).flatten();
    let mut all = Vec::with_capacity(buffers.len());
    for (at, said) in buffers {
        let gone = |Fault(at)| format!("{at:#x} is not memory");
        let mut stretches = layout::data(said).map_err(gone)?;
        let mut header = Vec::with_capacity(udp::HEADER);
        while header.len() < udp::HEADER {
            let Some((address, length)) = stretches.first_mut() else {
                return Err(format!("buffer {at:#x} of {} bytes has no UDP header", said.length));
            };
            let taken = (udp::HEADER - header.len()).min(*length);
            header.extend(probe::bytes(*address, taken).map_err(gone)?);
            (*address, *length) = (*address + taken, *length - taken);
            if *length == 0 {
                stretches.remove(0);
            }
        }
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (from, to, length, check) = (word(0), word(2), word(4), word(6));
        let wrong = if from != endpoint.local().port() {
            format!("source port {from} is not the socket's, {}", endpoint.local().port())
        } else if to == 0 {
            "there is no destination port".to_owned()
        } else if u32::from(length) != said.length {
            format!("its length says {length}, there are {} bytes", said.length)
        } else if check == 0 && route.remote.is_ipv6() {
            "over IPv6 a checksum must be".to_owned()
        } else if let Some(source) = source.filter(|_| check != 0)
            && udp::checksum(source, route.remote, &layout::bytes(said).map_err(gone)?) != 0
        {
            format!("checksum {check:#06x} is wrong for {source} to {}", route.remote)
        } else {
            let mut to = SocketAddr::new(route.remote, to);
            if let SocketAddr::V6(v6) = &mut to {
                v6.set_scope_id(route.scope);
            }
            all.push(Datagram { to, stretches });
            continue;
        };
        return Err(format!("UDP header of buffer {at:#x}: {wrong}"));
    }
    Ok(all)
}

/// The source address that the stack will use.
fn source(machine: &Machine, endpoint: &dyn Endpoint, route: &Route) -> Option<IpAddr> {
    let asked = route.control.packet_info;
    let named = asked.map(|info| info.address).filter(|address| !address.is_unspecified());
    let bound = Some(endpoint.local().ip()).filter(|address| !address.is_unspecified());
    named.or(bound).or_else(|| {
        let tables = crate::nt::wsk::wsk(machine).outer()?.tables();
        let on = asked.map(|info| info.interface).filter(|interface| *interface != 0);
        let best = tables.best_route(route.remote, on)?;
        tables.source(best, route.remote)
    })
}

/// What is wrong with a request before anything is read, in words.
pub(super) fn wrong(fwp: &Fwp, request: &Request, flags: u32) -> Option<String> {
    if request.routine == 0 {
        return Some("no completion routine".into());
    }
    if flags != 0 {
        return Some(format!("flags {flags:#x}"));
    }
    if probe::read::<usize>(request.list + list::NEXT) != Ok(0) {
        return Some("the list has a next one, or is no memory".into());
    }
    if fwp.endpoints.find(request.endpoint).is_none() {
        return Some(format!("endpoint {:#x} is none, or its socket is closed", request.endpoint));
    }
    None
}
