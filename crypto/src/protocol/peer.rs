//! A peer: its keys, its sessions, where it is, and what the data path tells about it.
//!
//! Data path functions here run on any CPU at `<= DISPATCH_LEVEL` and cost a few short locks per
//! chunk, never per packet. What they may not do, a curve multiplication or a change of the
//! schedule, they ask for with [`Wants`]. A peer that is removed or whose adapter is down is
//! *disabled*: it keeps its memory but takes no packet, arms no timer and wants nothing. [WG §2.1,
//! 6]

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use abi::discard::Discard;

use super::{
    Endpoint, Now, Wants,
    cookie::MacKeys,
    index::IndexTable,
    keypair::Keypair,
    limits::{
        ERASE_AFTER_TIME, MAX_HANDSHAKE_RETRIES, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
        REKEY_AFTER_TIME_RECEIVING,
    },
    noise::Secret,
    sessions::Sessions,
    staged::Staged,
    timers::{NEVER, Timer, Timers, nanoseconds},
};
use crate::sync::{
    Ground, OutOfMemory, Shared, SpinLock,
    atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

mod places;
mod secrets;

pub(super) use secrets::SECRETS;
use secrets::Secrets;

/// A configured peer. `E` is what the driver keeps with it.
///
/// The last reference may go anywhere the driver holds one, so dropping `E` must be fit for that
/// level.
pub struct Peer<E> {
    public_key: [u8; 32],
    attached: E,
    /// Which tunnel it belongs to.
    pub(super) tunnel: u64,
    pub(super) index: Shared<IndexTable<E>>,
    pub(super) mac_keys: MacKeys,
    /// Where in the tunnel's table it is, or [`NO_SLOT`].
    pub(super) slot: AtomicU32,
    /// Position in the order of creation.
    pub(super) sequence: AtomicU64,
    enabled: AtomicBool,
    pub(super) secrets: Shared<Secrets>,
    pub(super) sessions: SpinLock<Sessions<E>>,
    pub(super) staged: Staged,
    pub(super) timers: Timers,
    endpoint: SpinLock<Option<Endpoint>>,
    endpoint_version: AtomicU64,
    persistent_keepalive_s: AtomicU16,
    /// Bytes of messages, by direction.
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
    /// Bytes of transport data. Each is written by the owner of that direction's order alone.
    data_tx_bytes: AtomicU64,
    data_rx_bytes: AtomicU64,
    staged_discarded: AtomicU64,
    /// Wall time in nanoseconds since 1970; 0 is never.
    latest_handshake: AtomicU64,
}

/// A peer that is in no table.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// What a peer does when its handshake was not answered.
pub(super) enum Retry {
    /// Another initiation (E4).
    Initiation,
    /// Nothing any more (E5); so many staged packets went.
    GaveUp {
        /// Packets.
        discarded: u64,
    },
}

/// Counters given to a chunk.
pub struct Reserved<E> {
    /// The session to seal with.
    pub keypair: Shared<Keypair<E>>,
    /// The first of the counters in a row.
    pub first_counter: u64,
    /// What is to be done besides: a rekey may be due.
    pub wants: Wants,
}

/// There is no session to send with; a handshake was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSession {
    /// [`Wants::SERVICE`], unless a handshake is already under way or the peer is disabled.
    pub wants: Wants,
}

/// What left in a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Messages that were not keepalives.
    pub data_packets: u32,
    /// UDP payload bytes of all messages.
    pub bytes: u64,
}

/// What came in a chunk: authentic and new messages only, and at least one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Messages that were not keepalives, deliverable or not.
    pub data_packets: u32,
    /// UDP payload bytes of keepalives and of what was delivered. (Linux does not count what failed
    /// the inner checks.)
    pub bytes: u64,
}

/// What GET tells about a peer.
pub struct PeerStatus {
    /// Its static public key.
    pub public_key: [u8; 32],
    /// The preshared key; all zeros is none.
    pub preshared_key: Secret,
    /// Where it is, if known.
    pub endpoint: Option<Endpoint>,
    /// Seconds between persistent keepalives; 0 is off.
    pub persistent_keepalive_s: u16,
    /// UDP payload bytes sent.
    pub tx_bytes: u64,
    /// UDP payload bytes received in authentic messages.
    pub rx_bytes: u64,
    /// Wall time since 1970 when the last handshake completed.
    pub latest_handshake: Option<Duration>,
    /// Staged packets that were discarded, for whatever reason.
    pub staged_discarded: u64,
}

impl<E: Default> Peer<E> {
    /// A peer in no table yet, disabled.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub(super) fn try_new(
        public_key: [u8; 32],
        tunnel: u64,
        index: Shared<IndexTable<E>>,
        jitter_seed: u64,
    ) -> Result<Shared<Self>, OutOfMemory> {
        Shared::try_new(Self {
            public_key,
            attached: E::default(),
            tunnel,
            index,
            mac_keys: MacKeys::of(&public_key),
            slot: AtomicU32::new(NO_SLOT),
            sequence: AtomicU64::new(0),
            enabled: AtomicBool::new(false),
            secrets: Shared::try_new(Secrets::new())?,
            sessions: SpinLock::new(Sessions::new()),
            staged: Staged::new(),
            timers: Timers::new(jitter_seed),
            endpoint: SpinLock::new(None),
            endpoint_version: AtomicU64::new(0),
            persistent_keepalive_s: AtomicU16::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            data_tx_bytes: AtomicU64::new(0),
            data_rx_bytes: AtomicU64::new(0),
            staged_discarded: AtomicU64::new(0),
            latest_handshake: AtomicU64::new(0),
        })
    }
}

impl<E> Peer<E> {
    /// What the driver keeps with the peer.
    #[must_use]
    pub fn attached(&self) -> &E {
        &self.attached
    }

    /// The static public key.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The number of the tunnel the peer belongs to, as given to [`super::Tunnel::try_new`].
    #[must_use]
    pub fn tunnel(&self) -> u64 {
        self.tunnel
    }

    /// Whether the peer is configured and its adapter up.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Takes `count` counters of the current session. Called under the peer's send order.
    ///
    /// # Errors
    ///
    /// [`NoSession`]: the packets are to be staged ([`Peer::stage`]) after a look at
    /// [`Peer::endpoint`]: without one they are discarded instead.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    // spec: WG 5-a — the next session is not looked at. spec: WG 6.2-a
    // spec: WG 5.4.6-i — what has a counter goes to the network, and nothing of it is kept.
    pub fn reserve(
        &self,
        ground: &impl Ground,
        count: u32,
        now: Now,
    ) -> Result<Reserved<E>, NoSession> {
        let current = self.sessions.with(ground, |sessions| sessions.current.clone());
        if let Some(keypair) = current {
            if keypair.usable_for_sending(now.monotonic)
                && let Some(first_counter) = keypair.take_counters(count)
            {
                let wants = self.rekey_after_sending(&keypair, now);
                return Ok(Reserved { keypair, first_counter, wants });
            }
            keypair.stop_sending();
        }
        // E1
        Err(NoSession { wants: self.request_new_initiation(now) })
    }

    /// Asks for a new session if the one that sends is old: by messages either side, by age the
    /// initiator only.
    // spec: WG 6.2-b
    fn rekey_after_sending(&self, keypair: &Keypair<E>, now: Now) -> Wants {
        let old = keypair.is_initiator() && keypair.is_as_old_as(REKEY_AFTER_TIME, now.monotonic);
        if old || keypair.sent_messages() > REKEY_AFTER_MESSAGES {
            self.request_new_initiation(now)
        } else {
            Wants::NONE
        }
    }

    /// Keeps a packet until there is a session. Returns how many older packets were discarded for
    /// it ([`Discard::StagedFull`]), also if it is then not kept itself.
    ///
    /// # Errors
    ///
    /// Inside, why the packet was discarded itself: [`Discard::AdapterDown`], [`Discard::PeerRemoved`],
    /// [`Discard::Oversize`] or [`Discard::NoMemory`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    // spec: WG 6.4-a
    pub fn stage(&self, ground: &impl Ground, packet: Vec<u8>) -> (u32, Result<(), Discard>) {
        let (discarded, kept) = self.staged.push(ground, packet);
        self.staged_discarded.fetch_add(discarded.into(), Ordering::Relaxed);
        (discarded, kept)
    }

    /// Takes the oldest staged packet.
    pub fn take_staged(&self, ground: &impl Ground) -> Option<Vec<u8>> {
        self.staged.pop(ground)
    }

    /// Whether there is a session to send with. `<= DISPATCH_LEVEL`.
    pub fn has_session(&self, ground: &impl Ground, now: Now) -> bool {
        self.current_session(ground).is_some_and(|it| it.usable_for_sending(now.monotonic))
    }

    /// Whether any packet is staged. One that is being staged or taken may be missed. Any IRQL.
    pub fn has_staged(&self) -> bool {
        self.staged.any()
    }

    /// How many packets are staged.
    pub fn staged_packets(&self, ground: &impl Ground) -> usize {
        self.staged.len(ground)
    }

    /// Tells that a chunk of `keypair` was given to the network (E8, E9).
    ///
    /// Called by the owner of the peer's sender alone.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn sent(&self, keypair: &Keypair<E>, now: Now, sent: Sent) -> Wants {
        add_alone(&self.data_tx_bytes, sent.bytes);
        // A session that was wiped meanwhile has no timers any more.
        if !self.is_enabled() || !keypair.usable_for_receiving(now.monotonic) {
            return Wants::NONE;
        }
        let mut wants = self.traversal(now);
        self.timers.cancel(Timer::Keepalive);
        if sent.data_packets > 0 {
            wants |= self.timers.data_sent(now.nanoseconds());
        }
        wants
    }

    /// Tells that messages of `keypair` from `from` were authentic and new (E10, E11).
    ///
    /// Called by the drain owner once per chunk, after [`Keypair::accept`] and before the packets
    /// are delivered. If [`Wants::PROMOTED`] comes back, the session has just been confirmed.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    // spec: WG 5.4.6-d, WG 2.1-a, WG 2-c
    pub fn received(
        &self,
        ground: &impl Ground,
        keypair: &Shared<Keypair<E>>,
        from: &Endpoint,
        now: Now,
        received: Received,
    ) -> Wants {
        if !self.is_enabled() || !keypair.usable_for_receiving(now.monotonic) {
            return Wants::NONE;
        }
        add_alone(&self.data_rx_bytes, received.bytes);
        self.roam(ground, from);
        let mut wants = self.promote(ground, keypair, now);
        // spec: WG 6.2-c
        let last_minute = keypair.is_initiator()
            && keypair.is_as_old_as(REKEY_AFTER_TIME_RECEIVING, now.monotonic);
        if last_minute && !self.timers.asked_at_last_minute.swap(true, Ordering::Relaxed) {
            wants |= self.request_new_initiation(now);
        }
        self.timers.cancel(Timer::NewHandshake);
        wants |= self.traversal(now);
        if received.data_packets > 0 {
            wants |= self.timers.data_received(now.nanoseconds());
        }
        wants
    }

    /// Makes the next session the current one, if it is the one that was received with.
    // spec: WG 6.3-d
    fn promote(&self, ground: &impl Ground, keypair: &Shared<Keypair<E>>, now: Now) -> Wants {
        let Some(retired) = self.sessions.with(ground, |sessions| sessions.promote(keypair)) else {
            return Wants::NONE;
        };
        self.retire(ground, retired.into_iter());
        self.timers.handshake_complete();
        self.note_handshake(now);
        Wants::FLUSH | Wants::PROMOTED
    }

    /// Where the peer is.
    pub fn endpoint(&self, ground: &impl Ground) -> Option<Endpoint> {
        self.endpoint.with(ground, |endpoint| *endpoint)
    }

    /// A number that changes with the endpoint, so that a cached route can be told to be stale
    /// without a lock.
    #[must_use]
    pub fn endpoint_version(&self) -> u64 {
        self.endpoint_version.load(Ordering::Acquire)
    }

    /// Seconds between persistent keepalives; 0 is off.
    #[must_use]
    pub fn persistent_keepalive_s(&self) -> u16 {
        self.persistent_keepalive_s.load(Ordering::Relaxed)
    }

    /// What GET tells.
    pub fn status(&self, ground: &impl Ground) -> PeerStatus {
        let latest = self.latest_handshake.load(Ordering::Relaxed);
        PeerStatus {
            public_key: self.public_key,
            preshared_key: self
                .secrets
                .handshake
                .with(ground, |handshake| handshake.preshared_key.clone()),
            endpoint: self.endpoint(ground),
            persistent_keepalive_s: self.persistent_keepalive_s(),
            tx_bytes: sum([&self.tx_bytes, &self.data_tx_bytes]),
            rx_bytes: sum([&self.rx_bytes, &self.data_rx_bytes]),
            latest_handshake: (latest != 0).then(|| Duration::from_nanos(latest)),
            staged_discarded: self.staged_discarded.load(Ordering::Relaxed),
        }
    }

    /// The session that sends, if there is one, whatever its age.
    pub fn current_session(&self, ground: &impl Ground) -> Option<Shared<Keypair<E>>> {
        self.sessions.with(ground, |sessions| sessions.current.clone())
    }

    /// Asks for an initiation (E1, E13).
    pub(super) fn request_new_initiation(&self, now: Now) -> Wants {
        if self.is_enabled() {
            self.timers.request_new_initiation(now.nanoseconds())
        } else {
            Wants::NONE
        }
    }

    /// Something authentic went either way: the persistent keepalive is pushed out.
    // spec: WG 2.1-f
    pub(super) fn traversal(&self, now: Now) -> Wants {
        match u64::from(self.persistent_keepalive_s()) {
            0 => Wants::NONE,
            seconds => {
                let interval = seconds.saturating_mul(1_000_000_000);
                self.timers.arm(Timer::Persistent, now.nanoseconds().saturating_add(interval))
            }
        }
    }

    /// An authentic message came from `from`: the peer is there now.
    ///
    /// A message that does not tell which of our addresses it came to says nothing against the last.
    // spec: WG 2.1-b
    pub(super) fn roam(&self, ground: &impl Ground, from: &Endpoint) {
        self.change_endpoint(ground, |endpoint| {
            let known = endpoint.filter(|known| known.remote == from.remote);
            let local = from.local.or_else(|| known?.local);
            *endpoint = Some(Endpoint { local, ..*from });
        });
    }

    /// The peer is said to be at `remote`; how it is reached is to be found out.
    // spec: WG 11-e
    pub(super) fn move_to(&self, ground: &impl Ground, remote: SocketAddr) {
        self.change_endpoint(ground, |endpoint| *endpoint = Some(Endpoint { remote, local: None }));
    }

    /// Forgets which of our addresses the peer knows us by.
    // spec: WG 2.1-d
    pub(super) fn forget_source(&self, ground: &impl Ground) {
        self.change_endpoint(ground, |endpoint| {
            if let Some(endpoint) = endpoint {
                endpoint.local = None;
            }
        });
    }

    fn change_endpoint(&self, ground: &impl Ground, change: impl FnOnce(&mut Option<Endpoint>)) {
        self.endpoint.with(ground, |endpoint| {
            let before = *endpoint;
            change(endpoint);
            if *endpoint != before {
                // Release pairs with the Acquire in `endpoint_version`.
                self.endpoint_version.fetch_add(1, Ordering::Release);
            }
        });
    }

    pub(super) fn add_tx_bytes(&self, bytes: u64) {
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_rx_bytes(&self, bytes: u64) {
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets the interval of persistent keepalives and returns the old one.
    pub(super) fn set_persistent_keepalive_s(&self, seconds: u16) -> u16 {
        self.persistent_keepalive_s.swap(seconds, Ordering::Relaxed)
    }

    // spec: WG 11-j
    pub(super) fn note_handshake(&self, now: Now) {
        let wall = u64::try_from(now.wall.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.latest_handshake.store(wall, Ordering::Relaxed);
    }

    /// A session was made: it and its like are erased 540 s from now.
    pub(super) fn arm_erase(&self, now: Now) {
        let at = now.nanoseconds().saturating_add(nanoseconds(ERASE_AFTER_TIME));
        let _scheduled_by_the_caller = self.timers.arm(Timer::Erase, at);
    }

    /// The retransmit timer fired: whether to try again (E4), or else everything is given up (E5).
    // spec: WG 6.4-d
    pub(super) fn retry_or_give_up(&self, ground: &impl Ground, now: Now) -> Retry {
        let attempts = &self.timers.attempts;
        if attempts.load(Ordering::Relaxed) < MAX_HANDSHAKE_RETRIES {
            attempts.fetch_add(1, Ordering::Relaxed);
            self.forget_source(ground);
            return Retry::Initiation;
        }
        self.timers.cancel(Timer::Keepalive);
        let discarded = self.discard_staged(ground);
        let at = now.nanoseconds().saturating_add(nanoseconds(ERASE_AFTER_TIME));
        let _scheduled_by_the_caller = self.timers.arm_if_idle(Timer::Erase, at);
        Retry::GaveUp { discarded }
    }

    fn discard_staged(&self, ground: &impl Ground) -> u64 {
        let discarded = self.staged.clear(ground) as u64;
        self.staged_discarded.fetch_add(discarded, Ordering::Relaxed);
        discarded
    }

    /// Lets the peer take packets.
    pub(super) fn enable(&self, ground: &impl Ground) {
        self.staged.set_closed(ground, None);
        self.enabled.store(true, Ordering::Release);
    }

    /// Ends everything the peer does (E18, E19); `reason` is what staging says from now on. Returns how
    /// many staged packets went.
    // spec: WG 11-a
    pub(super) fn disable(&self, ground: &impl Ground, reason: Discard) -> u64 {
        self.enabled.store(false, Ordering::Release);
        self.staged.set_closed(ground, Some(reason));
        let discarded = self.discard_staged(ground);
        self.wipe(ground);
        self.timers.stop();
        discarded
    }

    /// Wipes the pending handshake and all sessions (E14).
    // spec: WG 6.3-f
    pub(super) fn wipe(&self, ground: &impl Ground) {
        let (pending, retired) = self.secrets.handshake.with(ground, |handshake| {
            (handshake.wipe(), self.sessions.with(ground, Sessions::take_all))
        });
        if let Some(pending) = pending {
            self.index.remove(ground, pending, self);
        }
        self.retire(ground, retired.into_iter());
    }

    /// Ends sessions that are in the peer's hands no more.
    pub(super) fn retire(
        &self,
        ground: &impl Ground,
        keypairs: impl Iterator<Item = Option<Shared<Keypair<E>>>>,
    ) {
        for keypair in keypairs.flatten() {
            keypair.stop();
            self.index.remove(ground, keypair.local_index(), self);
        }
    }

    /// The private key changed: nothing more is sent on the sessions there are, and a handshake may
    /// start at once.
    // spec: WG 11-c
    pub(super) fn expire_sending(&self, ground: &impl Ground, epoch: u64) {
        let pending = self.secrets.handshake.with(ground, |handshake| {
            self.sessions.with(ground, |sessions| {
                for keypair in [&sessions.current, &sessions.next].into_iter().flatten() {
                    keypair.stop_sending();
                }
            });
            handshake.change_identity(epoch)
        });
        if let Some(pending) = pending {
            self.index.remove(ground, pending, self);
        }
        self.timers.cancel(Timer::Retransmit);
        self.timers.forget_last_sent();
    }

    /// Whether a session is older than sessions may be.
    pub(super) fn has_expired_session(&self, ground: &impl Ground, now: Now) -> bool {
        self.sessions.with(ground, |sessions| {
            let all = [&sessions.previous, &sessions.current, &sessions.next];
            all.into_iter().flatten().any(|keypair| !keypair.usable_for_receiving(now.monotonic))
        })
    }

    /// Whether anything is to be done for the peer without new packets.
    pub(super) fn earliest_deadline(&self) -> u64 {
        if self.is_enabled() { self.timers.earliest() } else { NEVER }
    }
}

/// Adds to what nobody else writes: each direction's order has one owner at a time, and passes from one to the next by a lock.
/// Of two that did all the same one sum would be lost, and nothing else.
fn add_alone(sum: &AtomicU64, amount: u64) {
    sum.store(sum.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// The sum of what was counted apart.
fn sum(parts: [&AtomicU64; 2]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.wrapping_add(part.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests;
