//! What the exported descriptor tells a debugger: where the driver's structures have what ([`abi::descriptor`]).
//!
//! Each structure says so itself, beside its fields; here they are put together.

use core::mem::offset_of;

use abi::{
    descriptor::{Descriptor, Group, Places},
    places,
};
use callout::RunPool;
use crypto::{aead::Tier, pipeline::Lane, protocol::Tunnel};
use netadapter::RxPool;
use nt::{layout, recorder, wsk::SendPool};

use crate::{
    Core,
    counters::Counters,
    datapath::{ReceiveWork, Receiving, SendWork, Sending},
    device::Device,
    handshakes::HandshakeQueue,
    peer::{Paths, Peer},
    policy::Policies,
    processors::Processors,
    workers::Workers,
};

/// How many groups there are.
pub(crate) const GROUPS: usize = 10;

impl Core {
    const PLACES: Places = places!(
        "Core",
        workers,
        processors,
        buffers,
        runs,
        waiters,
        policies,
        tier = {
            assert!(size_of::<Tier>() == 1);
            offset_of!(Self, detected)
        },
    );
}

/// The descriptor of a driver that is not loaded yet.
pub(crate) const fn descriptor() -> Descriptor<GROUPS> {
    const NO_PREFIX: &str = " ";
    const ALONE: &[Places] = &[
        Core::PLACES,
        Policies::PLACES,
        Device::PLACES,
        HandshakeQueue::PLACES,
        Tunnel::<Paths>::PLACES,
        SendWork::PLACES,
        ReceiveWork::PLACES,
        RunPool::PLACES,
        layout::SOCKET_ADDRESS,
    ];
    Descriptor::new(
        &recorder::DESCRIPTOR,
        [
            Group::new(NO_PREFIX, ALONE),
            Group::new(NO_PREFIX, const { &Workers::PLACES }),
            Group::new(NO_PREFIX, const { &Processors::PLACES }),
            Group::new(NO_PREFIX, const { &Counters::PLACES }),
            Group::new(NO_PREFIX, const { &Peer::PLACES }),
            Group::new(NO_PREFIX, const { &Paths::PLACES }),
            Group::new("Send", const { &Lane::<Sending>::PLACES }),
            Group::new("Receive", const { &Lane::<Receiving>::PLACES }),
            Group::new(NO_PREFIX, const { &RxPool::PLACES }),
            Group::new(NO_PREFIX, const { &SendPool::PLACES }),
        ],
    )
}
