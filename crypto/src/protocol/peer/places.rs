//! Where a debugger finds what a peer is made of; no key but the public one.

use core::mem::offset_of;

use abi::{descriptor::Places, places};

use super::{Endpoint, Keypair, Peer, Sessions, Staged, Timers};
use crate::sync::{Shared, SpinLock};

impl<E> Peer<E> {
    /// The peer, its timers, its sessions, and how an endpoint is kept.
    pub const PLACES: [Places; 4] = [
        places!(
            "Peer",
            shared = Shared::<Self>::VALUE,
            public_key,
            attached,
            tunnel,
            slot,
            enabled,
            endpoint = offset_of!(Self, endpoint) + SpinLock::<Option<Endpoint>>::VALUE,
            persistent_keepalive_s,
            tx_bytes,
            rx_bytes,
            data_tx_bytes,
            data_rx_bytes,
            staged_discarded,
            latest_handshake,
            staged_bytes = offset_of!(Self, staged) + Staged::BYTES,
            timers,
            previous = Self::SESSIONS + offset_of!(Sessions<E>, previous),
            current = Self::SESSIONS + offset_of!(Sessions<E>, current),
            next = Self::SESSIONS + offset_of!(Sessions<E>, next),
        ),
        Timers::PLACES,
        Keypair::<E>::PLACES,
        Endpoint::PLACES,
    ];
    const SESSIONS: usize = offset_of!(Self, sessions) + SpinLock::<Sessions<E>>::VALUE;
}
