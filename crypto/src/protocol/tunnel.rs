//! A tunnel: one interface's identity, its peers and their timers.
//!
//! Three kinds of callers meet here, see the module's documentation. The table of peers is under
//! one read-write lock; everybody who needs a peer for longer than a look takes a reference out of
//! it. [WG §2, 6]

use alloc::vec::Vec;
use core::{
    alloc::Layout,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use zeroize::Zeroizing;

use abi::{descriptor::Places, discard::Discard, places};

use super::{
    HandshakeLoad, IndexTable, Instant, Now, Output, Random,
    allowed_ips::{AllowedIps, Cursor, Prefix},
    cookie::{CookieSecret, MacKeys},
    hash_table::{HashKey, HashTable},
    limits::{CLOCK_JUMP, RESUME_SPREAD},
    noise::{Identity, Secret},
    peer::{NO_SLOT, Peer, PeerStatus, Retry},
    schedule::Schedule,
    tai64n::Tai64n,
    timers::{NEVER, Timer},
};
use crate::sync::{
    Ground, OutOfMemory, RwSpinLock, Shared, SpinLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    prefetch,
};

/// One WireGuard interface.
///
/// Its peers refer to the index table, which refers to them: [`Tunnel::close`] before dropping it.
pub struct Tunnel<E> {
    number: u64,
    index: Shared<IndexTable<E>>,
    load: Shared<HandshakeLoad>,
    pub(super) hash_key: HashKey,
    up: AtomicBool,
    mtu: AtomicU32,
    pub(super) secrets: Shared<Secrets>,
    /// The greatest timestamp sent.
    timestamp_floor: SpinLock<Tai64n>,
    pub(super) table: RwSpinLock<Table<E>>,
    pub(super) schedule: SpinLock<Schedule>,
    /// A configuration is being prepared.
    pub(super) preparing: AtomicBool,
    /// Staged packets that went with a handshake given up or the adapter.
    staged_dropped: Count,
    /// Staged packets that went with their peer.
    staged_removed: Count,
}

/// What of a tunnel is secret, in a block of its own; see [`super::SECRETS`].
#[repr(align(32))]
pub(super) struct Secrets {
    pub(super) identity: SpinLock<IdentityState>,
    cookie: SpinLock<CookieSecret>,
}

crate::never_printed!(Secrets);

/// The block that the secrets of a tunnel are in.
pub(super) const SECRETS: Layout = Shared::<Secrets>::LAYOUT;

/// A number that only grows.
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        // Relaxed: a statistic.
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// The interface's private key, if it has one.
pub(super) struct IdentityState {
    pub(super) identity: Option<(Identity, MacKeys)>,
    /// Counts changes.
    pub(super) epoch: u64,
}

/// A copy of the interface's identity, for one step.
pub(super) struct Interface {
    pub(super) identity: Identity,
    pub(super) mac_keys: MacKeys,
    pub(super) epoch: u64,
}

/// The peers of a tunnel and what finds them.
pub(super) struct Table<E> {
    pub(super) slots: Vec<Option<Shared<Peer<E>>>>,
    pub(super) free: Vec<u32>,
    pub(super) by_key: HashTable<u32>,
    pub(super) allowed_ips: AllowedIps,
    /// Given to the next peer.
    pub(super) sequence: u64,
}

impl<E> Table<E> {
    pub(super) fn peer(&self, slot: u32) -> Option<&Shared<Peer<E>>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The peer with this key.
    pub(super) fn find(&self, hash: u64, public_key: &[u8; 32]) -> Option<&Shared<Peer<E>>> {
        let is_it =
            |slot: &u32| self.peer(*slot).is_some_and(|peer| peer.public_key() == public_key);
        self.peer(*self.by_key.find(hash, is_it)?)
    }
}

/// What GET tells about the interface.
pub struct InterfaceStatus {
    /// The clamped private key, if there is one.
    pub private_key: Option<Secret>,
    /// The public key that goes with it.
    pub public_key: Option<[u8; 32]>,
}

/// Takes what [`Tunnel::get`] enumerates, in this order.
pub trait Visitor {
    /// The interface, once.
    fn interface(&mut self, interface: &InterfaceStatus);
    /// A peer, in the order they were configured.
    fn peer(&mut self, peer: &PeerStatus);
    /// An allowed IP of the peer before.
    fn allowed_ip(&mut self, prefix: Prefix);
}

impl<E> Tunnel<E> {
    /// For a debugger.
    pub const PLACES: Places = places!(
        "Tunnel",
        number,
        up,
        mtu,
        peers =
            offset_of!(Self, table) + RwSpinLock::<Table<E>>::VALUE + offset_of!(Table<E>, slots),
        staged_dropped,
        staged_removed,
    );

    /// A tunnel without identity or peers, down.
    ///
    /// `number` is the driver's name for it, unique while it lives; `hash_key` is secret and keys
    /// its table of peers.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn try_new(
        number: u64,
        index: Shared<IndexTable<E>>,
        load: Shared<HandshakeLoad>,
        hash_key: HashKey,
    ) -> Result<Self, OutOfMemory> {
        let secrets = Secrets {
            identity: SpinLock::new(IdentityState { identity: None, epoch: 0 }),
            cookie: SpinLock::new(CookieSecret::new()),
        };
        Ok(Self {
            number,
            index,
            load,
            hash_key,
            up: AtomicBool::new(false),
            mtu: AtomicU32::new(0),
            secrets: Shared::try_new(secrets)?,
            timestamp_floor: SpinLock::new(Tai64n::ZERO),
            table: RwSpinLock::new(Table {
                slots: Vec::new(),
                free: Vec::new(),
                by_key: HashTable::new(),
                allowed_ips: AllowedIps::new(),
                sequence: 0,
            }),
            schedule: SpinLock::new(Schedule::new()),
            preparing: AtomicBool::new(false),
            staged_dropped: Count(AtomicU64::new(0)),
            staged_removed: Count(AtomicU64::new(0)),
        })
    }

    /// The driver's name for the tunnel.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the tunnel sends and receives.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The MTU that padding must not exceed; 0 is not known.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }

    /// Sets the interface's MTU.
    pub fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Staged packets that were discarded here, by reason. ([`Discard::StagedFull`] is told by
    /// [`Peer::stage`] to its caller.)
    #[must_use]
    pub fn staged_discards(&self) -> [(Discard, u64); 2] {
        let value = |count: &Count| count.0.load(Ordering::Relaxed);
        [
            (Discard::StagedDropped, value(&self.staged_dropped)),
            (Discard::PeerRemoved, value(&self.staged_removed)),
        ]
    }

    /// The peer an inner packet to `destination` goes to.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; once per run of packets with the same destination.
    // spec: WG 2-a
    pub fn peer_for(&self, ground: &impl Ground, destination: IpAddr) -> Option<Shared<Peer<E>>> {
        self.table.read(ground, |table| table.peer(table.allowed_ips.lookup(destination)?).cloned())
    }

    /// The same for the first `N` of some destinations, which take hardly longer together than one does alone.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    // spec: WG 2-a
    pub fn peers_for<const N: usize>(
        &self,
        ground: &impl Ground,
        destinations: &[IpAddr],
    ) -> [Option<Shared<Peer<E>>>; N] {
        self.table.read(ground, |table| {
            let owners = table.allowed_ips.lookup_all::<N>(destinations);
            owners.iter().flatten().for_each(|slot| prefetch(&table.slots, *slot as usize));
            let peers = owners.map(|slot| table.peer(slot?));
            peers.iter().flatten().for_each(|peer| Shared::prefetch(peer));
            peers.map(|peer| peer.cloned())
        })
    }

    /// Whether packets from `source` may come from `peer`: whether it is the peer packets to
    /// `source` would go to.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; once per run of packets with the same source.
    // spec: WG 2-b
    pub fn owns(&self, ground: &impl Ground, source: IpAddr, peer: &Peer<E>) -> bool {
        self.table.read(ground, |table| {
            let owner = table.allowed_ips.lookup(source).and_then(|slot| table.peer(slot));
            owner.is_some_and(|owner| core::ptr::eq(&**owner, peer))
        })
    }

    /// The peer with a public key.
    pub fn find_peer(
        &self,
        ground: &impl Ground,
        public_key: &[u8; 32],
    ) -> Option<Shared<Peer<E>>> {
        let hash = self.hash_key.hash(public_key);
        self.table.read(ground, |table| table.find(hash, public_key).cloned())
    }

    /// How many peers are configured.
    pub fn peer_count(&self, ground: &impl Ground) -> usize {
        self.table.read(ground, |table| table.by_key.len())
    }

    /// Does what the data path asked for with [`super::Wants::SERVICE`]. `PASSIVE_LEVEL`, from
    /// several threads at once.
    pub fn service(
        &self,
        ground: &impl Ground,
        peer: &Shared<Peer<E>>,
        now: Now,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) {
        if peer.timers.initiation_wanted.swap(false, Ordering::Relaxed) {
            self.send_initiation(ground, peer, now, random, out);
        }
        self.reschedule(ground, peer);
    }

    /// Fires what is due and returns when to call again, if at all. `PASSIVE_LEVEL`.
    ///
    /// Called when that time has come (early or late does no harm), and after [`Tunnel::service`]
    /// or [`Tunnel::consume`] if [`Tunnel::next_wake`] is then earlier than the timer that is set.
    /// If the clock has jumped by more than ten seconds past the time that was asked for, the
    /// machine slept: what [`Tunnel::resumed`] does is done first.
    pub fn poll(
        &self,
        ground: &impl Ground,
        now: Now,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) -> Option<Instant> {
        if self.has_slept(ground, now) {
            self.resumed(ground, now);
        }
        while let Some(slot) = self.schedule.with(ground, |due| due.pop_due(now.nanoseconds())) {
            // The slot's peer may be another one by now, or none: then there is nothing due.
            if let Some(peer) = self.table.read(ground, |table| table.peer(slot).cloned()) {
                self.fire(ground, &peer, now, random, out);
                self.reschedule(ground, &peer);
            }
        }
        self.next_wake(ground)
    }

    /// When [`Tunnel::poll`] is to be called next.
    pub fn next_wake(&self, ground: &impl Ground) -> Option<Instant> {
        self.schedule.with(ground, |schedule| schedule.next()).map(Instant::from_nanoseconds)
    }

    /// Whether the earliest timer is overdue by so much that nobody can have been awake.
    fn has_slept(&self, ground: &impl Ground, now: Now) -> bool {
        self.next_wake(ground).is_some_and(|due| now.monotonic.since(due) > CLOCK_JUMP)
    }

    /// Fires the timers of one peer that are due.
    fn fire(
        &self,
        ground: &impl Ground,
        peer: &Shared<Peer<E>>,
        now: Now,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) {
        if !peer.is_enabled() {
            return;
        }
        for timer in Timer::ALL {
            if !peer.timers.take_due(timer, now.nanoseconds()) {
                continue;
            }
            match timer {
                // E14
                Timer::Erase => peer.wipe(ground),
                // E4, E5
                Timer::Retransmit => match peer.retry_or_give_up(ground, now) {
                    Retry::Initiation => self.send_initiation(ground, peer, now, random, out),
                    Retry::GaveUp { discarded } => self.staged_dropped.add(discarded),
                },
                // E13
                Timer::NewHandshake => {
                    peer.forget_source(ground);
                    if !peer.request_new_initiation(now).is_none() {
                        peer.timers.initiation_wanted.store(false, Ordering::Relaxed);
                        self.send_initiation(ground, peer, now, random, out);
                    }
                }
                // E12; spec: WG 6.5-d
                Timer::Keepalive => {
                    if peer.timers.needs_another_keepalive.swap(false, Ordering::Relaxed) {
                        // Before the keepalive leaves: if it does, it is answer enough and cancels
                        // this.
                        let _scheduled_by_the_caller = peer.timers.data_received(now.nanoseconds());
                    }
                    out.flush(peer, true);
                }
                // E15
                Timer::Persistent => {
                    if peer.persistent_keepalive_s() != 0 {
                        let _scheduled_by_the_caller = peer.traversal(now);
                        out.flush(peer, true);
                    }
                }
            }
        }
    }

    /// Tells the schedule the peer's earliest deadline.
    pub(super) fn reschedule(&self, ground: &impl Ground, peer: &Peer<E>) {
        loop {
            let at = peer.earliest_deadline();
            self.schedule.with(ground, |schedule| {
                // A removed peer has no slot any more: it is taken away under this lock.
                let slot = peer.slot.load(Ordering::Relaxed);
                if slot != NO_SLOT {
                    schedule.set(slot, at);
                }
                peer.timers.scheduled.store(at, Ordering::SeqCst);
            });
            // A deadline armed meanwhile either saw the new `scheduled` or is seen here.
            if peer.earliest_deadline() >= at {
                return;
            }
        }
    }

    /// Brings the tunnel up (E17): peers may be sent to. The sockets are open already.
    pub fn up(&self, ground: &impl Ground, out: &mut dyn Output<E>) {
        self.up.store(true, Ordering::Release);
        self.each_peer(ground, |peer| peer.enable(ground));
        self.each_peer(ground, |peer| out.flush(peer, peer.persistent_keepalive_s() != 0));
    }

    /// Takes the tunnel down (E18): sessions are wiped, staged packets dropped, timers stopped. The
    /// configuration stays.
    pub fn down(&self, ground: &impl Ground) {
        self.up.store(false, Ordering::Release);
        self.each_peer(ground, |peer| {
            self.staged_dropped.add(peer.disable(ground, Discard::AdapterDown));
            self.reschedule(ground, peer);
        });
    }

    /// The machine slept: sessions that are too old go, nobody waits out an old back-off, and
    /// handshakes are spread over five seconds. [`Tunnel::poll`] notices by itself; a driver told
    /// by the system calls this at once.
    // spec: WG 6-a
    pub fn resumed(&self, ground: &impl Ground, now: Now) {
        self.each_peer(ground, |peer| {
            if !peer.is_enabled() {
                return;
            }
            if peer.has_expired_session(ground, now) {
                peer.wipe(ground);
                // What they were about went with the session; the first packet makes a new one.
                peer.timers.cancel(Timer::Keepalive);
                peer.timers.cancel(Timer::NewHandshake);
            }
            let at = now
                .nanoseconds()
                .saturating_add(peer.timers.spread(now.nanoseconds(), RESUME_SPREAD));
            peer.timers.forget_last_sent();
            peer.timers.attempts.store(0, Ordering::Relaxed);
            for timer in [Timer::Retransmit, Timer::NewHandshake, Timer::Persistent] {
                if peer.timers.is_armed(timer) {
                    let _scheduled_below = peer.timers.arm(timer, at);
                }
            }
            self.reschedule(ground, peer);
        });
    }

    /// Forgets which of our addresses the peers know us by: the listen port or the routes changed.
    // spec: WG 11-f
    pub fn forget_sources(&self, ground: &impl Ground) {
        self.each_peer(ground, |peer| peer.forget_source(ground));
    }

    /// Removes everything. The tunnel may be dropped then; it is down.
    pub fn close(&self, ground: &impl Ground) {
        self.down(ground);
        self.each_peer(ground, |peer| self.remove_peer(ground, peer));
        self.secrets.identity.with(ground, |state| state.identity = None);
    }

    /// Enumerates the configuration.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] for the list of peers; the visitor has then seen nothing.
    // spec: WG 11-i, WG 11-j
    pub fn get(&self, ground: &impl Ground, visitor: &mut dyn Visitor) -> Result<(), OutOfMemory> {
        let mut peers = Vec::new();
        peers.try_reserve_exact(self.peer_count(ground))?;
        self.each_peer(ground, |peer| {
            // Within what was reserved: only the control path adds peers, and this is it.
            if peers.len() < peers.capacity() {
                peers.push(peer.clone());
            }
        });
        peers.sort_unstable_by_key(|peer| peer.sequence.load(Ordering::Relaxed));
        visitor.interface(&self.secrets.identity.with(ground, |state| InterfaceStatus {
            private_key: state.identity.as_ref().map(|(id, _)| Secret::new(*id.private())),
            public_key: state.identity.as_ref().map(|(id, _)| *id.public()),
        }));
        for peer in &peers {
            visitor.peer(&peer.status(ground));
            let slot = peer.slot.load(Ordering::Relaxed);
            let mut cursor = Cursor::default();
            while let Some(prefix) =
                self.table.read(ground, |table| table.allowed_ips.next_of(slot, &mut cursor))
            {
                visitor.allowed_ip(prefix);
            }
        }
        Ok(())
    }

    /// Calls `body` for each peer, with no lock held.
    pub(super) fn each_peer(&self, ground: &impl Ground, mut body: impl FnMut(&Shared<Peer<E>>)) {
        let mut slot = 0_u32;
        loop {
            let next = self.table.read(ground, |table| {
                let peer = table.slots.get(slot as usize)?;
                Some(peer.clone())
            });
            match next {
                Some(Some(peer)) => body(&peer),
                Some(None) => {}
                None => return,
            }
            slot = slot.saturating_add(1);
        }
    }

    /// Takes a peer out of everything that finds it, and wipes it (E19).
    // spec: WG 11-h
    pub(super) fn remove_peer(&self, ground: &impl Ground, peer: &Shared<Peer<E>>) {
        let slot = peer.slot.load(Ordering::Relaxed);
        // A few prefixes at a time: readers wait for this lock.
        while self.table.write(ground, |table| table.allowed_ips.remove_some(slot, 64)) {}
        let hash = self.hash_key.hash(peer.public_key());
        let removed = self.table.write(ground, |table| {
            table.by_key.remove(hash, |found| *found == slot)?;
            table.slots.get_mut(slot as usize)?.take()
        });
        self.staged_removed.add(peer.disable(ground, Discard::PeerRemoved));
        self.schedule.with(ground, |schedule| {
            schedule.set(slot, NEVER);
            peer.slot.store(NO_SLOT, Ordering::Relaxed);
        });
        if removed.is_some() {
            // The slot is free only now that the schedule has forgotten it. Room for it was made
            // with the slot.
            self.table.write(ground, |table| {
                if table.free.len() < table.free.capacity() {
                    table.free.push(slot);
                }
            });
            self.index.peer_removed(ground);
        }
    }

    pub(super) fn index(&self) -> &Shared<IndexTable<E>> {
        &self.index
    }

    pub(super) fn load(&self) -> &HandshakeLoad {
        &self.load
    }

    /// A copy of the identity; `None` without a private key.
    // spec: WG 5.4-d
    pub(super) fn interface(&self, ground: &impl Ground) -> Option<Interface> {
        self.secrets.identity.with(ground, |state| {
            let (identity, mac_keys) = state.identity.clone()?;
            Some(Interface { identity, mac_keys, epoch: state.epoch })
        })
    }

    /// The cookie we give to a source address.
    pub(super) fn cookie_for(
        &self,
        ground: &impl Ground,
        source: SocketAddr,
        now: Instant,
        random: &mut dyn Random,
    ) -> Zeroizing<[u8; 16]> {
        if self.secrets.cookie.with(ground, |secret| secret.is_due(now)) {
            let mut fresh = Zeroizing::new([0; 32]);
            random.fill(&mut *fresh);
            self.secrets.cookie.with(ground, |secret| secret.replace(&fresh, now));
        }
        self.secrets.cookie.with(ground, |secret| secret.cookie(source))
    }

    /// The same, if we have given out any.
    pub(super) fn cookie_of(
        &self,
        ground: &impl Ground,
        source: SocketAddr,
        now: Instant,
    ) -> Option<Zeroizing<[u8; 16]>> {
        self.secrets
            .cookie
            .with(ground, |secret| (!secret.is_due(now)).then(|| secret.cookie(source)))
    }

    /// A timestamp greater than all before.
    pub(super) fn next_timestamp(&self, ground: &impl Ground, now: Now) -> Tai64n {
        self.timestamp_floor.with(ground, |floor| {
            *floor = Tai64n::after(*floor, now.wall);
            *floor
        })
    }
}

const _: () = assert!(RESUME_SPREAD.as_secs() < Duration::from_secs(10).as_secs());
