//! What of a peer is secret, in a block of its own; see [`crate::protocol::SECRETS`].

use core::alloc::Layout;

use crate::{
    protocol::{cookie::CookieJar, handshake::Handshake},
    sync::{Shared, SpinLock},
};

#[repr(align(32))]
pub(in crate::protocol) struct Secrets {
    pub(in crate::protocol) handshake: SpinLock<Handshake>,
    pub(in crate::protocol) jar: SpinLock<CookieJar>,
}

/// The block that the secrets of a peer are in.
pub(in crate::protocol) const SECRETS: Layout = Shared::<Secrets>::LAYOUT;

crate::never_printed!(Secrets);

impl Secrets {
    pub(super) fn new() -> Self {
        Self {
            handshake: SpinLock::new(Handshake::new()),
            jar: SpinLock::new(CookieJar::default()),
        }
    }
}
