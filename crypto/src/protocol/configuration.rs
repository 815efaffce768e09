//! Changing a tunnel's configuration in two phases: prepare, which may fail and applies nothing,
//! and commit, which applies everything and cannot fail.
//!
//! WireGuardNT applies a request step by step and stops at the first error with the earlier steps
//! standing. Here a request is validated whole and all memory it needs is allocated before its
//! first step: it happens, or it does not. In between the driver may do what can fail on its side
//! (bind a port). Within a commit, the data path sees the steps one by one, each of them atomic: a
//! prefix that moves has its old owner or its new one. `PASSIVE_LEVEL`. [WG §2; order and meaning
//! of the steps: WG 11-b to 11-h]

use alloc::vec::Vec;
use core::net::SocketAddr;

use abi::ioctl::Set;

use super::{
    Now,
    allowed_ips::Prefix,
    cookie::MacKeys,
    hash_table::HashTable,
    limits::MAX_PEERS,
    noise::{Identity, Secret},
    peer::Peer,
    schedule::Room,
    tunnel::Tunnel,
};
use crate::sync::{Ground, OutOfMemory, Shared, atomic::Ordering};

/// Why a configuration was not accepted; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The same peer is in the request twice.
    DuplicatePeer,
    /// There would be more than [`MAX_PEERS`] peers.
    TooManyPeers,
    /// Memory ran out.
    OutOfMemory,
    /// Another configuration is being prepared.
    Busy,
}

impl From<OutOfMemory> for ConfigError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<alloc::collections::TryReserveError> for ConfigError {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self::OutOfMemory
    }
}

/// A configuration that can be applied. Dropping it applies nothing.
#[must_use = "a prepared configuration does nothing until it is committed"]
pub struct Prepared<'t, E> {
    tunnel: &'t Tunnel<E>,
    listen_port: Option<u16>,
    replace_peers: bool,
    identity: IdentityChange,
    peers: Vec<PeerChange<E>>,
    prefixes: Vec<PrefixChange>,
    try_now: Vec<TryNow<E>>,
}

enum IdentityChange {
    Keep,
    Clear,
    Replace(Identity, MacKeys),
}

/// What a request says about one peer.
struct PeerChange<E> {
    peer: Shared<Peer<E>>,
    is_new: bool,
    remove: bool,
    preshared_key: Option<Secret>,
    endpoint: Option<SocketAddr>,
    persistent_keepalive_s: Option<u16>,
    replace_allowed_ips: bool,
    /// How many of the list of prefixes are this peer's.
    prefixes: usize,
}

struct PrefixChange {
    prefix: Prefix,
    remove: bool,
}

/// What the driver has to do after a commit.
pub struct Committed<E> {
    /// The listen port that was asked for; 0 is any.
    pub listen_port: Option<u16>,
    /// Peers whose staged packets, or a keepalive, can be tried now: the tunnel is up and something
    /// changed for them.
    pub try_now: Vec<TryNow<E>>,
}

/// A peer to flush; see [`super::Output::flush`].
pub struct TryNow<E> {
    /// The peer.
    pub peer: Shared<Peer<E>>,
    /// Whether to send a keepalive if nothing is staged.
    pub keepalive: bool,
}

crate::never_printed!(
    abi::ioctl::Set<'static>,
    abi::ioctl::Peer<'static>,
    abi::ioctl::writer::InterfaceFields<'static>,
    abi::ioctl::writer::PeerFields<'static>,
    super::PeerStatus,
    super::InterfaceStatus
);

impl<E: Default> Tunnel<E> {
    /// Validates a request against this tunnel and allocates everything it needs.
    ///
    /// One configuration at a time: until the result is committed or dropped, preparing another one
    /// is refused.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; nothing was changed.
    pub fn prepare(
        &self,
        ground: &impl Ground,
        set: &Set<'_>,
    ) -> Result<Prepared<'_, E>, ConfigError> {
        if self.preparing.swap(true, Ordering::Acquire) {
            return Err(ConfigError::Busy);
        }
        // From here on dropping `prepared` ends the preparation.
        let mut prepared = Prepared {
            tunnel: self,
            listen_port: set.listen_port(),
            replace_peers: set.replaces_peers(),
            identity: self.prepare_identity(ground, set.private_key()),
            peers: Vec::new(),
            prefixes: Vec::new(),
            try_now: Vec::new(),
        };
        prepared.collect(ground, set)?;
        prepared.reserve(ground)?;
        Ok(prepared)
    }

    // spec: WG 11-c — the same key changes nothing, in whatever form it is given: compared clamped.
    fn prepare_identity(&self, ground: &impl Ground, key: Option<&[u8; 32]>) -> IdentityChange {
        let Some(key) = key else { return IdentityChange::Keep };
        let identity = Identity::new(key);
        let same = self.secrets.identity.with(ground, |state| match (&state.identity, &identity) {
            (Some((old, _)), Some(new)) => old.public() == new.public(),
            (None, None) => true,
            _ => false,
        });
        match identity {
            _ if same => IdentityChange::Keep,
            None => IdentityChange::Clear,
            Some(identity) => {
                let mac_keys = MacKeys::of(identity.public());
                IdentityChange::Replace(identity, mac_keys)
            }
        }
    }
}

impl<'t, E: Default> Prepared<'t, E> {
    /// Finds or makes each peer of the request.
    fn collect(&mut self, ground: &impl Ground, set: &Set<'_>) -> Result<(), ConfigError> {
        let tunnel = self.tunnel;
        let own_key = self.own_public_key(ground);
        let count = set.peer_count() as usize;
        let mut seen: HashTable<[u8; 32]> = HashTable::new();
        seen.reserve(count)?;
        self.peers.try_reserve_exact(count)?;
        for given in set.peers() {
            let public_key = *given.public_key();
            let hash = tunnel.hash_key.hash(&public_key);
            if seen.find(hash, |key| *key == public_key).is_some() {
                return Err(ConfigError::DuplicatePeer);
            }
            // Room for all was reserved.
            let _ = seen.insert(hash, public_key);
            // spec: WG 11-g
            if own_key == Some(public_key) {
                continue;
            }
            let existing = tunnel.find_peer(ground, &public_key).filter(|_| !self.replace_peers);
            let is_new = existing.is_none();
            let peer = match existing {
                Some(peer) => peer,
                None if given.removes() || given.updates_only() => continue,
                None => {
                    let index = tunnel.index().clone();
                    Peer::try_new(public_key, tunnel.number(), index, hash.rotate_left(32))?
                }
            };
            let before = self.prefixes.len();
            if !given.removes() {
                self.collect_prefixes(&given)?;
            }
            self.peers.push(PeerChange {
                peer,
                is_new,
                remove: given.removes(),
                preshared_key: given.preshared_key().map(|key| Secret::new(*key)),
                endpoint: given.endpoint(),
                persistent_keepalive_s: given.persistent_keepalive_s(),
                replace_allowed_ips: given.replaces_allowed_ips(),
                prefixes: self.prefixes.len().saturating_sub(before),
            });
        }
        Ok(())
    }

    fn collect_prefixes(&mut self, given: &abi::ioctl::Peer<'_>) -> Result<(), ConfigError> {
        self.prefixes.try_reserve(given.allowed_ip_count() as usize)?;
        for allowed_ip in given.allowed_ips() {
            // The view has checked that the length fits the address.
            if let Some(prefix) = Prefix::new(allowed_ip.address, allowed_ip.cidr) {
                self.prefixes.push(PrefixChange { prefix, remove: allowed_ip.remove });
            }
        }
        Ok(())
    }

    /// The public key the interface will have.
    fn own_public_key(&self, ground: &impl Ground) -> Option<[u8; 32]> {
        match &self.identity {
            IdentityChange::Keep => self.tunnel.secrets.identity.with(ground, |state| {
                state.identity.as_ref().map(|(identity, _)| *identity.public())
            }),
            IdentityChange::Clear => None,
            IdentityChange::Replace(identity, _) => Some(*identity.public()),
        }
    }

    /// Makes room in every table, so that the commit allocates nothing.
    fn reserve(&mut self, ground: &impl Ground) -> Result<(), ConfigError> {
        let tunnel = self.tunnel;
        let new = self.peers.iter().filter(|change| change.is_new).count();
        let existing = tunnel.peer_count(ground);
        let removed = match self.replace_peers {
            true => existing,
            false => self.peers.iter().filter(|change| change.remove).count(),
        };
        let total = existing.saturating_add(new);
        if total.saturating_sub(removed) > MAX_PEERS {
            return Err(ConfigError::TooManyPeers);
        }
        self.try_now.try_reserve_exact(existing.saturating_add(self.peers.len()))?;
        let prefixes = self.prefixes.iter().filter(|change| !change.remove).count();
        let slots = tunnel.reserve_peers(ground, new)?;
        tunnel.reserve_allowed_ips(ground, prefixes, slots)?;
        let segments = tunnel.schedule.with(ground, |schedule| schedule.segments());
        if let Some(mut room) = Room::try_new(slots, segments)? {
            tunnel.schedule.with(ground, |schedule| schedule.adopt(&mut room));
        }
        tunnel.index().reserve(ground, new)?;
        Ok(())
    }
}

impl<E> Prepared<'_, E> {
    /// The listen port that is asked for, to be bound before the commit; 0 is any.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.listen_port
    }

    /// Applies the configuration.
    // spec: WG 11-b
    pub fn commit(mut self, ground: &impl Ground, now: Now) -> Committed<E> {
        let tunnel = self.tunnel;
        if self.replace_peers {
            tunnel.each_peer(ground, |peer| tunnel.remove_peer(ground, peer));
        }
        let had_identity = tunnel.secrets.identity.with(ground, |state| state.identity.is_some());
        let gained_identity = match core::mem::replace(&mut self.identity, IdentityChange::Keep) {
            IdentityChange::Keep => false,
            IdentityChange::Clear => {
                self.change_identity(ground, None);
                false
            }
            IdentityChange::Replace(identity, mac_keys) => {
                self.change_identity(ground, Some((identity, mac_keys)));
                !had_identity
            }
        };
        let mut try_now = core::mem::take(&mut self.try_now);
        // spec: WG 11-c — what waited for an identity is tried.
        if gained_identity && tunnel.is_up() {
            tunnel.each_peer(ground, |peer| {
                push(&mut try_now, peer, peer.persistent_keepalive_s() != 0)
            });
        }
        let peers = core::mem::take(&mut self.peers);
        let prefixes = core::mem::take(&mut self.prefixes);
        let mut prefixes = prefixes.as_slice();
        for change in &peers {
            let (own, rest) = prefixes.split_at_checked(change.prefixes).unwrap_or((prefixes, &[]));
            prefixes = rest;
            // A peer with what is now our own key went with the change of identity.
            let Some(keepalive) = change.apply(tunnel, ground, own, now) else { continue };
            if tunnel.is_up() {
                push(&mut try_now, &change.peer, keepalive);
            }
        }
        Committed { listen_port: self.listen_port, try_now }
    }

    // spec: WG 11-c
    fn change_identity(&self, ground: &impl Ground, identity: Option<(Identity, MacKeys)>) {
        let tunnel = self.tunnel;
        let own = identity.as_ref().map(|(identity, _)| *identity.public());
        if let Some(peer) = own.and_then(|own| tunnel.find_peer(ground, &own)) {
            tunnel.remove_peer(ground, &peer);
        }
        let (epoch, old) = tunnel.secrets.identity.with(ground, |state| {
            state.epoch = state.epoch.wrapping_add(1);
            (state.epoch, core::mem::replace(&mut state.identity, identity))
        });
        // Wiped here, with the lock open.
        drop(old);
        tunnel.each_peer(ground, |peer| {
            peer.expire_sending(ground, epoch);
            tunnel.reschedule(ground, peer);
        });
    }
}

impl<E> Drop for Prepared<'_, E> {
    fn drop(&mut self) {
        self.tunnel.preparing.store(false, Ordering::Release);
    }
}

impl<E> PeerChange<E> {
    /// Applies what the request says about the peer. Returns whether to send a keepalive, or `None`
    /// if it is gone.
    fn apply(
        &self,
        tunnel: &Tunnel<E>,
        ground: &impl Ground,
        prefixes: &[PrefixChange],
        now: Now,
    ) -> Option<bool> {
        let peer = &self.peer;
        if self.remove {
            tunnel.remove_peer(ground, peer);
            return None;
        }
        let epoch = tunnel.secrets.identity.with(ground, |state| state.epoch);
        peer.secrets.handshake.with(ground, |handshake| {
            // spec: WG 11-d — running sessions stay.
            if let Some(key) = &self.preshared_key {
                handshake.preshared_key = key.clone();
            }
            if self.is_new {
                handshake.epoch = epoch;
            }
        });
        // spec: WG 11-e — the session is untouched, the source forgotten.
        if let Some(remote) = self.endpoint {
            peer.move_to(ground, remote);
        }
        let interval = self.persistent_keepalive_s;
        let before = interval.map(|seconds| peer.set_persistent_keepalive_s(seconds));
        if self.is_new {
            tunnel.add_peer(ground, peer);
        }
        let slot = peer.slot.load(Ordering::Relaxed);
        if self.replace_allowed_ips {
            while tunnel.table.write(ground, |table| table.allowed_ips.remove_some(slot, CHUNK)) {}
        }
        for some in prefixes.chunks(CHUNK) {
            tunnel.table.write(ground, |table| {
                for PrefixChange { prefix, remove } in some {
                    if *remove {
                        table.allowed_ips.remove(*prefix, slot);
                    } else {
                        // Room was made when this was prepared, so this cannot fail.
                        let _ = table.allowed_ips.insert(*prefix, slot);
                    }
                }
            });
        }
        if tunnel.is_up() && self.is_new {
            peer.enable(ground);
        }
        // spec: WG 2.1-f — from nothing to an interval: one at once.
        let starts = before == Some(0) && interval.is_some_and(|seconds| seconds != 0);
        if starts && tunnel.is_up() {
            let _scheduled_below = peer.traversal(now);
            tunnel.reschedule(ground, peer);
        }
        Some(starts)
    }
}

/// Prefixes changed per taking of the table's lock, for which readers wait.
const CHUNK: usize = 64;

/// Lists a peer once, in room that was reserved.
fn push<E>(list: &mut Vec<TryNow<E>>, peer: &Shared<Peer<E>>, keepalive: bool) {
    if list.len() < list.capacity() {
        list.push(TryNow { peer: peer.clone(), keepalive });
    }
}

impl<E> Tunnel<E> {
    /// Puts a new peer into the table, in room that was reserved.
    fn add_peer(&self, ground: &impl Ground, peer: &Shared<Peer<E>>) {
        let hash = self.hash_key.hash(peer.public_key());
        self.index().peer_added(ground);
        self.table.write(ground, |table| {
            let slot = table.free.pop().unwrap_or(table.slots.len() as u32);
            if table.by_key.insert(hash, slot).is_err() {
                return;
            }
            match table.slots.get_mut(slot as usize) {
                Some(free) => *free = Some(peer.clone()),
                None => table.slots.push(Some(peer.clone())),
            }
            peer.slot.store(slot, Ordering::Relaxed);
            peer.sequence.store(table.sequence, Ordering::Relaxed);
            table.sequence = table.sequence.wrapping_add(1);
        });
    }
}
