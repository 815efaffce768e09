//! The outbound transport layer, for what sockets send: lists whose data begins at the UDP header.
//!
//! One list with a buffer per datagram stands for a whole send; the checksums are for the network card to fill in, as with
//! checksum offload. This is where a driver can see the endpoint handle of its own socket first.
//!
//! Source: WDD network/data-offset-positions; `facts/wfp.md` 1.

use std::net::SocketAddr;

use super::classify::{self, Decision, Indication, Metadata};
use super::flows::Traffic;
use super::inbound::Destination;
use super::layers::{Facts, Layer};
use super::received::{About, Received};
use super::{fwp, udp};
use crate::nt::machine::Machine;
use crate::nt::ndis::lent::Packet;
use crate::nt::thread::Level;

/// Whether the datagrams of a send may leave; `payloads` is not asked for if nobody looks.
pub(crate) fn may_leave(
    machine: &Machine,
    from: Destination,
    remote: SocketAddr,
    payloads: impl FnOnce() -> Vec<Vec<u8>>,
) -> bool {
    let fwp = fwp(machine);
    if !fwp.is_in_use() {
        return true;
    }
    let layer = Layer::transport(false, remote.is_ipv6());
    if fwp.is_busy(layer) {
        let packets: Vec<Packet> = payloads()
            .into_iter()
            .map(|payload| {
                let mut bytes = udp::headers(from.local, remote, 0, payload.len());
                bytes.drain(..bytes.len() - udp::HEADER);
                bytes.extend(payload);
                Packet { bytes, lead: 0 }
            })
            .collect();
        let about = About { ipv6: remote.is_ipv6(), ..About::default() };
        let Some(list) = Received::scattered(machine, &packets, about) else { return false };
        let list = fwp.nic.show(list);
        let facts = Facts { local: from.local, remote, interface: 0, luid: 0, flags: 0 };
        let metadata = Metadata {
            transport_header: udp::HEADER as u32,
            endpoint: from.endpoint,
            ..Metadata::default()
        };
        let indication =
            Indication { layer, facts, metadata, list: list.at, received: Some(&list) };
        let decided = classify::run(machine, &fwp, &indication, Decision::OPEN, Level::Current);
        fwp.nic.retract(machine, &list, true);
        if !decided.is_ok_and(Decision::permits) {
            return false;
        }
    }
    fwp.flows.sent(machine, (from.local.port(), remote), Traffic::Socket);
    true
}
