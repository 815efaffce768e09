//! ALE_RESOURCE_ASSIGNMENT: a socket that binds asks for its address and port, and shows its endpoint handle for the first time.
//!
//! There is no packet at this layer.
//!
//! Source: WDD network/metadata-fields-at-each-filtering-layer, network/data-offset-positions.

use std::net::SocketAddr;

use super::classify::{self, Decision, Indication, Metadata};
use super::fwp;
use super::layers::{Facts, Layer};
use crate::nt::machine::Machine;
use crate::nt::thread::Level;

/// Whether the socket behind `endpoint` may have the address `local`.
pub(crate) fn may_bind(machine: &Machine, endpoint: u64, local: SocketAddr) -> bool {
    let fwp = fwp(machine);
    let layer = Layer::resource_assignment(local.is_ipv6());
    if !fwp.is_busy(layer) {
        return true;
    }
    let nobody: SocketAddr =
        if local.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
    let facts = Facts { local, remote: nobody, interface: 0, luid: 0, flags: 0 };
    let metadata = Metadata { endpoint, ..Metadata::default() };
    let indication = Indication { layer, facts, metadata, list: 0, received: None };
    let decided = classify::run(machine, &fwp, &indication, Decision::OPEN, Level::Current);
    decided.is_ok_and(Decision::permits)
}
