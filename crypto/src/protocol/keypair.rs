//! A session: two keys, a counter to send with, a window to receive with.
//!
//! Immutable but for atomics, so any CPU may use a referenced keypair without a lock. Each
//! direction has a validity flag of its own: after a change of the private key a session still
//! receives, and a wiped one does neither, although a chunk may hold it a little longer. Its keys
//! are zeroed when the last reference goes. [WG §6]

use core::{alloc::Layout, mem::offset_of, time::Duration};

use abi::{descriptor::Places, discard::Discard, places};

use super::{
    Instant,
    limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME},
    noise::SessionKeys,
    peer::Peer,
    replay::ReceiveWindow,
    timers::nanoseconds,
};
use crate::{
    aead::Key,
    sync::{
        OutOfMemory, Shared,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// One session with a peer.
pub struct Keypair<E> {
    peer: Shared<Peer<E>>,
    keys: Shared<Keys>,
    /// How the peer addresses us.
    local_index: u32,
    /// How we address the peer.
    remote_index: u32,
    /// When the keys were derived, in nanoseconds.
    born: u64,
    initiator: bool,
    may_send: AtomicBool,
    may_receive: AtomicBool,
    /// The next counter to send.
    next_counter: AtomicU64,
    window: ReceiveWindow,
}

/// What of a session is secret, in a block of its own; see [`super::SECRETS`].
struct Keys {
    sending: Key,
    receiving: Key,
}

crate::never_printed!(Keys);

/// The block that the keys of a session are in.
pub(super) const SECRETS: Layout = Shared::<Keys>::LAYOUT;

/// Which session this is; see [`Keypair::try_new`].
pub(super) struct SessionFacts {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) born: Instant,
    pub(super) initiator: bool,
}

impl<E> Keypair<E> {
    /// For a debugger: all but the keys.
    pub const PLACES: Places = places!(
        "Keypair",
        shared = Shared::<Self>::VALUE,
        peer,
        local_index,
        remote_index,
        born,
        initiator,
        may_send,
        may_receive,
        next_counter,
        received = offset_of!(Self, window) + ReceiveWindow::NEXT,
    );

    /// A fresh session whose counters are 0.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    // spec: WG 5.4.6-h
    pub(super) fn try_new(
        peer: Shared<Peer<E>>,
        keys: &SessionKeys,
        facts: &SessionFacts,
    ) -> Result<Shared<Self>, OutOfMemory> {
        let keys = Shared::try_new(Keys {
            sending: Key::new(*keys.sending.expose()),
            receiving: Key::new(*keys.receiving.expose()),
        })?;
        Shared::try_new(Self {
            peer,
            keys,
            local_index: facts.local_index,
            remote_index: facts.remote_index,
            born: facts.born.nanoseconds(),
            initiator: facts.initiator,
            may_send: AtomicBool::new(true),
            may_receive: AtomicBool::new(true),
            next_counter: AtomicU64::new(0),
            window: ReceiveWindow::new(),
        })
    }

    /// The peer the session is with.
    #[must_use]
    pub fn peer(&self) -> &Shared<Peer<E>> {
        &self.peer
    }

    /// The key to seal with.
    #[must_use]
    pub fn sending(&self) -> &Key {
        &self.keys.sending
    }

    /// The key to open with.
    #[must_use]
    pub fn receiving(&self) -> &Key {
        &self.keys.receiving
    }

    /// The receiver index of messages to the peer.
    #[must_use]
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// The receiver index of messages from the peer.
    #[must_use]
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Whether we sent the initiation the session came from.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Whether at `now` it is so long ago, or longer, that the keys were derived.
    #[must_use]
    // spec: WG 6.2-a
    pub fn is_as_old_as(&self, age: Duration, now: Instant) -> bool {
        now.nanoseconds().saturating_sub(self.born) >= nanoseconds(age)
    }

    /// Whether packets may be sealed with it at `now`.
    #[must_use]
    pub fn usable_for_sending(&self, now: Instant) -> bool {
        // Relaxed, here and below: flags and counters publish nothing; a CPU that reads them late
        // is one that ran early.
        self.may_send.load(Ordering::Relaxed)
            && !self.is_as_old_as(REJECT_AFTER_TIME, now)
            && self.sent_messages() < REJECT_AFTER_MESSAGES
    }

    /// Whether packets may be opened with it at `now`.
    #[must_use]
    pub fn usable_for_receiving(&self, now: Instant) -> bool {
        self.may_receive.load(Ordering::Relaxed)
            && !self.is_as_old_as(REJECT_AFTER_TIME, now)
            && !self.window.is_exhausted()
    }

    /// How many counters were taken.
    #[must_use]
    pub fn sent_messages(&self) -> u64 {
        self.next_counter.load(Ordering::Relaxed)
    }

    /// Takes `count` counters in a row and returns the first; `None` if not all of them are below
    /// the limit.
    // spec: WG 5.4.6-b — each counter is given out once; the exchange cannot wrap.
    pub(super) fn take_counters(&self, count: u32) -> Option<u64> {
        self.next_counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(u64::from(count)).filter(|end| *end <= REJECT_AFTER_MESSAGES)
            })
            .ok()
    }

    /// Checks that `counter` is new and marks it as seen. Called by the drain owner alone, after
    /// the tag has verified.
    ///
    /// # Errors
    ///
    /// [`Discard::Replayed`], or [`Discard::SessionExpired`] past the limit of messages or once the
    /// session is wiped.
    // spec: WG 5.4.6-e
    pub fn accept(&self, counter: u64) -> Result<(), Discard> {
        if !self.may_receive.load(Ordering::Relaxed) {
            return Err(Discard::SessionExpired);
        }
        self.window.accept(counter)
    }

    /// Ends sending; receiving goes on.
    pub(super) fn stop_sending(&self) {
        self.may_send.store(false, Ordering::Relaxed);
    }

    /// Ends both directions.
    pub(super) fn stop(&self) {
        self.stop_sending();
        self.may_receive.store(false, Ordering::Relaxed);
    }

    /// As if `count` messages had been sent, to come near the limits.
    #[cfg(test)]
    pub(super) fn pretend_sent(&self, count: u64) {
        self.next_counter.store(count, Ordering::Relaxed);
    }
}
