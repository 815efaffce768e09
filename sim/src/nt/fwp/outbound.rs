//! The outbound transport layer, for what sockets send: lists whose data begins at the UDP header.
//!
//! One list with a buffer per datagram stands for a whole send (in fast mode: a buffer for its first datagram); the checksums
//! are for the network card to fill in, as with checksum offload. This is where a driver can see the endpoint handle of its own socket first.
//!
//! Source: WDD network/data-offset-positions; `facts/wfp.md` 1.

use std::net::SocketAddr;
use std::sync::Arc;

use super::classify::{self, Decision, Indication, Metadata};
use super::clones::{self, Parent};
use super::flows::Traffic;
use super::inbound::{Destination, somewhere};
use super::layers::{Facts, Layer};
use super::received::{About, Received};
use super::{Fwp, fwp, neighbour, udp};
use crate::host::{Batch, Sending};
use crate::nt::machine::{Dead, Machine};
use crate::nt::ndis::layout;
use crate::nt::ndis::lent::Packet;
use crate::nt::thread::Level;

/// What becomes of a send.
pub(crate) enum Leave {
    /// It goes on to the network.
    Goes,
    /// It may not, and its socket hears of it.
    Denied,
    /// Somebody else's callout has absorbed it, and may go on with it.
    Absorbed(Arc<Received>),
}

impl Leave {
    /// Whether somebody still works on what was absorbed: until then the send is not over.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Self::Absorbed(list) if list.references() > 0)
    }
}

/// Shows the datagrams of a send to callouts; `payloads` is not asked for if nobody looks. It is told how many are to be
/// shown.
pub(crate) fn leave(
    machine: &Machine,
    from: Destination,
    (remote, how): (SocketAddr, &Sending),
    payloads: impl FnOnce(usize) -> Vec<Vec<u8>>,
) -> Leave {
    let fwp = fwp(machine);
    if !fwp.is_in_use() {
        return Leave::Goes;
    }
    let layer = Layer::transport(false, remote.is_ipv6());
    if fwp.is_busy(layer) || fwp.neighbour.sees_sent() {
        let all = machine.options().verified || fwp.neighbour.sees_sent();
        let packets: Vec<Packet> = payloads(if all { usize::MAX } else { 1 })
            .into_iter()
            .map(|payload| {
                let mut bytes = udp::headers(from.local, remote, 0, payload.len());
                bytes.drain(..bytes.len() - udp::HEADER);
                bytes.extend(payload);
                Packet { bytes, ..Packet::default() }
            })
            .collect();
        let about = About { ipv6: remote.is_ipv6(), ..About::default() };
        let Some(list) = Received::scattered(machine, &packets, about) else {
            return Leave::Denied;
        };
        let list = fwp.nic.show(list);
        let facts = Facts { local: from.local, remote, interface: 0, luid: 0, flags: 0 };
        let whose = (from.endpoint, facts);
        let parent = (Parent::Shown(list.clone()), list.buffers());
        let so_far = neighbour::look_at_sent(machine, &fwp, whose, parent, ((0, 0), how));
        let decided = classify_list(machine, &fwp, whose, &list, (so_far, Level::Current));
        fwp.nic.retract(machine, &list, true);
        match decided {
            Ok(decided) if decided.permits() => {}
            Ok(decided) if decided.absorbed => return Leave::Absorbed(list),
            _ => return Leave::Denied,
        }
    }
    fwp.flows.sent(machine, (from.local.port(), remote), Traffic::Socket);
    Leave::Goes
}

/// Asks the callouts of the layer.
fn classify_list(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    list: &Received,
    (so_far, level): (Decision, Level),
) -> Result<Decision, Dead> {
    let layer = Layer::transport(false, facts.remote.is_ipv6());
    let transport_header = udp::HEADER as u32;
    let metadata = Metadata { transport_header, endpoint, ..Metadata::default() };
    let indication = Indication { layer, facts, metadata, list: list.at, received: Some(list) };
    classify::run(machine, fwp, &indication, so_far, level)
}

/// A list that somebody else's callout has put into the stack is classified, and leaves if it passes, by its endpoint's
/// socket; without one it is lost.
pub(crate) fn reinject(
    machine: &Machine,
    fwp: &Fwp,
    (endpoint, facts): (u64, Facts),
    list: Received,
    how: &Sending,
) {
    let list = fwp.nic.show(list);
    let (cpu, level) = somewhere(machine);
    let whose = (endpoint, facts);
    let asked = || classify_list(machine, fwp, whose, &list, (Decision::OPEN, level));
    let decided = machine.on_cpu(cpu, asked);
    let host = fwp.endpoints.find(endpoint).and_then(|endpoint| endpoint.host());
    if let Some(host) = host.filter(|_| decided.is_ok_and(Decision::permits)) {
        for (_, said) in list.buffers() {
            let bytes = layout::bytes(said).unwrap_or_default();
            let mut batch = Batch::default();
            let payload = bytes.get(udp::HEADER..).unwrap_or_default();
            // What the network does not take is lost, as UDP may be.
            let _ = batch.push(std::iter::once(payload))
                && host.send(facts.remote, how, &batch).is_ok();
        }
        let tuple = (facts.local.port(), facts.remote);
        fwp.flows.sent(machine, tuple, Traffic::Injected);
    }
    debug_assert_eq!(clones::children(list.at), 0, "a clone is not cloned again");
    fwp.nic.retract(machine, &list, true);
}
