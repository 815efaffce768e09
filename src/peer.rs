//! What the driver keeps with each peer: its lanes, its outer route, and a place in the queue of
//! peers that need a worker.

use alloc::boxed::Box;
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU32, Ordering},
};

use abi::{descriptor::Places, places};
use crypto::{
    pipeline::Lane,
    protocol,
    sync::{Ground, Shared, SpinLock},
};

use crate::{
    datapath::{ReceiveWork, SendWork},
    device::DatedRoute,
};

/// A peer, with what the driver keeps.
pub(crate) type Peer = protocol::Peer<Paths>;
/// A session, of such a peer.
pub(crate) type Keypair = protocol::Keypair<Paths>;

/// What the driver keeps with a peer. Dropped with its last reference, at `<= DISPATCH_LEVEL`.
#[derive(Default)]
pub(crate) struct Paths {
    /// Chunks to be sealed, in counter order.
    pub(crate) seal: Lane<Option<Box<SendWork>>>,
    /// Chunks that are sealed and to be sent, in the same order.
    pub(crate) send: Lane<Option<Box<SendWork>>>,
    /// Chunks to be opened, in the order they came.
    pub(crate) open: Lane<Option<Box<ReceiveWork>>>,
    route: SpinLock<Cached>,
    /// Of the route that was remembered last; 0 is not known.
    inner_mtu: AtomicU32,
    service: SpinLock<Waiting>,
}

/// What was last found, and the version of the endpoint it was looked for.
#[derive(Default)]
struct Cached(Option<(u64, DatedRoute)>);

/// A link in a [`ServiceQueue`].
#[derive(Default)]
struct Waiting {
    queued: bool,
    next: Option<Shared<Peer>>,
}

impl Paths {
    /// For a debugger. A [`ServiceQueue`] goes on by `next_served`.
    pub(crate) const PLACES: [Places; 2] = [
        places!(
            "Paths",
            seal,
            send,
            open,
            inner_mtu,
            queued = Self::SERVICE + offset_of!(Waiting, queued),
            next_served = Self::SERVICE + offset_of!(Waiting, next),
        ),
        ServiceQueue::PLACES,
    ];
    const SERVICE: usize = offset_of!(Self, service) + SpinLock::<Waiting>::VALUE;

    /// What was last found for the endpoint of version `endpoint`, however old the table it came
    /// from.
    pub(crate) fn route(&self, ground: &impl Ground, endpoint: u64) -> Option<DatedRoute> {
        self.route.with(ground, |cached| match &cached.0 {
            Some((version, route)) if *version == endpoint => Some(*route),
            _ => None,
        })
    }

    /// What was last found, for whatever endpoint.
    pub(crate) fn last_route(&self, ground: &impl Ground) -> Option<DatedRoute> {
        self.route.with(ground, |cached| cached.0.map(|(_, route)| route))
    }

    /// Remembers what was found for the endpoint of version `endpoint`.
    pub(crate) fn set_route(&self, ground: &impl Ground, endpoint: u64, route: DatedRoute) {
        let inner_mtu = route.inner_mtu();
        self.route.with(ground, |cached| {
            cached.0 = Some((endpoint, route));
            // Relaxed: a packet on the way when it changes is as it was.
            self.inner_mtu.store(inner_mtu, Ordering::Relaxed);
        });
    }

    /// The longest packet that the last known route takes without cutting its datagram, in bytes; 0 is not
    /// known. Any IRQL.
    pub(crate) fn inner_mtu(&self) -> usize {
        self.inner_mtu.load(Ordering::Relaxed) as usize
    }
}

/// Peers that need a worker, each at most once, first come first served.
///
/// The links are in the peers, so putting one in cannot fail. `<= DISPATCH_LEVEL`.
#[derive(Default)]
pub(crate) struct ServiceQueue(SpinLock<Ends>);

#[derive(Default)]
struct Ends {
    head: Option<Shared<Peer>>,
    tail: Option<Shared<Peer>>,
}

impl ServiceQueue {
    const PLACES: Places = places!(
        "ServiceQueue",
        head = offset_of!(Self, 0) + SpinLock::<Ends>::VALUE + offset_of!(Ends, head),
    );

    /// Adds the peer unless it is in the queue; returns whether it was added.
    pub(crate) fn push(&self, ground: &impl Ground, peer: &Shared<Peer>) -> bool {
        self.0.with(ground, |ends| {
            let queued = peer
                .attached()
                .service
                .with(ground, |waiting| core::mem::replace(&mut waiting.queued, true));
            if queued {
                return false;
            }
            match ends.tail.replace(peer.clone()) {
                Some(tail) => tail
                    .attached()
                    .service
                    .with(ground, |waiting| waiting.next = Some(peer.clone())),
                None => ends.head = Some(peer.clone()),
            }
            true
        })
    }

    /// Takes the first peer. What comes to need a worker from here on puts it in again.
    pub(crate) fn pop(&self, ground: &impl Ground) -> Option<Shared<Peer>> {
        self.0.with(ground, |ends| {
            let head = ends.head.take()?;
            ends.head = head.attached().service.with(ground, |waiting| {
                waiting.queued = false;
                waiting.next.take()
            });
            if ends.head.is_none() {
                ends.tail = None;
            }
            Some(head)
        })
    }
}
