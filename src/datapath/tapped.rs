//! The taps: where a capture sees the packets of an adapter.
//!
//! Outside, datagrams as they arrive, whatever they are, and as they are handed to the network; inside, packets as they were opened,
//! before they go to the stack, and as they are sealed, what the driver has changed of them included. Each is a call of its own that
//! is not made while no capture is open. What is sealed or opened and then discarded is seen; what is discarded before is not, nor
//! what the driver itself answers to the stack.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::{
    capture::{Head, INNER, OUTER, Place},
    policy::Policy,
};
use callout::{Datagrams, Route, Run};
use nt::irql::AtMostDispatch;

use super::{
    packet::{Held, Packet},
    receive::ReceiveWork,
};
use crate::{capture::time_100ns, device::Device, ground::At};

impl Device {
    /// Whether a capture wants datagrams.
    pub(super) fn is_tapped_outside(&self) -> bool {
        self.capture.wants(OUTER)
    }

    /// Whether a capture wants packets, and may have them.
    pub(super) fn is_tapped_inside(&self) -> bool {
        self.capture.wants(INNER) && self.core.policies.get(Policy::TraceInner) != 0
    }

    /// Datagrams have arrived.
    #[cold]
    #[inline(never)]
    pub(super) fn tap_arrived(&self, datagrams: &Datagrams, level: &AtMostDispatch) {
        let port = self.open_sockets(level).map_or(0, |sockets| sockets.port());
        for datagram in datagrams.iter().flatten() {
            let local = datagram.local.map(|local| local.address);
            let head = Head {
                place: Place::OuterIn,
                time_100ns: time_100ns(),
                original: datagram.payload.len() as u32,
                tos: datagram.ecn,
                local: Some(own_address(local, datagram.remote, port)),
                remote: Some(datagram.remote),
            };
            self.capture.record(&head, &At(level), |place| {
                let _as_many = datagram.payload.copy_to(place);
            });
        }
    }

    /// A run is about to leave.
    #[cold]
    #[inline(never)]
    pub(super) fn tap_leaving(
        &self,
        run: &mut Run,
        route: &Route,
        (tos, port): (u8, u16),
        level: &AtMostDispatch,
    ) {
        let time_100ns = time_100ns();
        for datagram in run.datagrams_mut() {
            let head = Head {
                place: Place::OuterOut,
                time_100ns,
                original: datagram.len() as u32,
                tos,
                local: Some(own_address(route.source, route.remote, port)),
                remote: Some(route.remote),
            };
            self.capture.record(&head, &At(level), |place| fill(place, datagram));
        }
    }

    /// Packets were opened.
    #[cold]
    #[inline(never)]
    pub(super) fn tap_opened(&self, work: &ReceiveWork, level: &AtMostDispatch) {
        let time_100ns = time_100ns();
        for buffer in work.packets.iter().filter_map(|packet| packet.buffer.as_ref()) {
            let bytes = buffer.as_slice();
            let head = inner(Place::InnerIn, time_100ns, bytes.len());
            self.capture.record(&head, &At(level), |place| fill(place, bytes));
        }
    }

    /// Packets are about to be sealed.
    #[cold]
    #[inline(never)]
    pub(super) fn tap_sealing(&self, packets: &[Packet], held: &Held, level: &AtMostDispatch) {
        let time_100ns = time_100ns();
        for packet in packets.iter().filter(|packet| packet.len() > 0) {
            let head = inner(Place::InnerOut, time_100ns, packet.len());
            self.capture.record(&head, &At(level), |place| packet.front(held, place));
        }
    }
}

/// The head of a packet inside.
fn inner(place: Place, time_100ns: u64, len: usize) -> Head {
    Head { place, time_100ns, original: len as u32, tos: 0, local: None, remote: None }
}

/// Our address of a datagram, unspecified if it is not known.
fn own_address(known: Option<IpAddr>, remote: SocketAddr, port: u16) -> SocketAddr {
    let unspecified: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A source of the other family would be somebody else's.
    let known = known.filter(|known| known.is_ipv4() == remote.is_ipv4());
    SocketAddr::new(known.unwrap_or(unspecified), port)
}

/// Writes the front of `bytes`; both are as long, or `bytes` is longer.
fn fill(place: &mut [u8], bytes: &[u8]) {
    place.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
}
