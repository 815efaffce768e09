//! The peers that the next packets of the ring are for, looked up together.
//!
//! Where many peers are sent to, finding each waits for memory; the first destination that is not known has those of
//! the packets behind it looked up with it, so that they wait once. Packets to one destination never come here.

use core::net::IpAddr;

use crypto::{
    protocol::{Tunnel, receive::InnerPacket},
    sync::Shared,
};
use netadapter::TxBatch;
use nt::irql::AtMostDispatch;

use crate::{
    ground::At,
    peer::{Paths, Peer},
};

/// Destinations that are looked up together.
const TOGETHER: usize = 16;
/// Bytes of a packet's front in which its destination is: an IPv6 header.
const FRONT_LEN: usize = 40;

/// See the module.
#[derive(Default)]
pub(super) struct Ahead {
    /// Each once.
    destinations: heapless::Vec<IpAddr, TOGETHER>,
    peers: [Option<Shared<Peer>>; TOGETHER],
    /// Where the next packet's is, if it was looked up for it.
    next: usize,
}

impl Ahead {
    /// The peer that a packet's destination belongs to; `batch` has the packets behind it.
    ///
    /// It was so in this advance, as if the packets behind had been looked at at once.
    pub(super) fn peer_for(
        &mut self,
        destination: IpAddr,
        batch: &TxBatch<'_>,
        tunnel: &Tunnel<Paths>,
        level: &AtMostDispatch,
    ) -> Option<Shared<Peer>> {
        let likely = self.destinations.get(self.next) == Some(&destination);
        let known = match likely {
            true => Some(self.next),
            false => self.destinations.iter().position(|known| *known == destination),
        };
        let at = match known {
            Some(at) => at,
            None if batch.remaining() == 0 => return tunnel.peer_for(&At(level), destination),
            None => {
                self.look_up(destination, batch, tunnel, level);
                0
            }
        };
        self.next = at.saturating_add(1);
        self.peers.get(at)?.clone()
    }

    /// Looks up a destination, and those of the packets behind it.
    #[inline(never)] // What it has on the stack is not to be below what seals.
    fn look_up(
        &mut self,
        first: IpAddr,
        batch: &TxBatch<'_>,
        tunnel: &Tunnel<Paths>,
        level: &AtMostDispatch,
    ) {
        self.destinations.clear();
        let _ = self.destinations.push(first);
        for (front, seen) in batch.fronts::<FRONT_LEN>().take(TOGETHER) {
            let front = front.get(..seen).unwrap_or_default();
            // Whether it is as long as it says is seen when it comes.
            let Ok(packet) = InnerPacket::parse(front, usize::MAX) else { continue };
            if !self.destinations.contains(&packet.destination)
                && self.destinations.push(packet.destination).is_err()
            {
                break;
            }
        }
        self.peers = tunnel.peers_for(&At(level), &self.destinations);
    }
}
