//! The index table: from a message's `receiver` to the session or pending handshake it names.
//!
//! One for all adapters of the driver. Indices are random and ours to choose, so they are their own
//! hash and nobody outside can make them collide. The table is split into shards by the low byte of
//! the index, each under a lock of its own, so that CPUs looking up different sessions rarely meet
//! and growing one shard is short. A shard without room refuses an index, and the caller draws
//! another, which lands in another shard. Look-ups are typed: a response finds pending handshakes
//! only, transport data sessions only. [WG §5.4.2, 5.4.3]

use alloc::vec::Vec;

use super::{Random, hash_table::HashTable, keypair::Keypair, peer::Peer};
use crate::sync::{Ground, OutOfMemory, RwSpinLock, Shared, SpinLock};

/// Live indices of all tunnels.
pub struct IndexTable<E> {
    shards: Vec<RwSpinLock<HashTable<Slot<E>>>>,
    /// How many peers there are, in all tunnels.
    peers: SpinLock<usize>,
}

struct Slot<E> {
    index: u32,
    entry: Entry<E>,
}

/// What an index stands for.
pub(super) enum Entry<E> {
    /// An initiation of ours that waits for its response.
    Handshake(Shared<Peer<E>>),
    /// A session.
    Session(Shared<Keypair<E>>),
}

impl<E> Entry<E> {
    fn peer(&self) -> &Shared<Peer<E>> {
        match self {
            Self::Handshake(peer) => peer,
            Self::Session(keypair) => keypair.peer(),
        }
    }
}

const SHARDS: usize = 256;
/// Indices one peer can hold at once: a handshake of each role and three sessions, and one being
/// replaced.
pub(super) const PER_PEER: usize = 6;
/// Draws until a free index counts as not to be had; each fails with probability below one half.
const DRAWS: usize = 64;

impl<E> IndexTable<E> {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn try_new() -> Result<Self, OutOfMemory> {
        let mut shards = Vec::new();
        shards.try_reserve_exact(SHARDS)?;
        shards.resize_with(SHARDS, || RwSpinLock::new(HashTable::new()));
        Ok(Self { shards, peers: SpinLock::new(0) })
    }

    /// The session that transport data for `receiver` belongs to.
    // spec: WG 5.4.2-g
    pub fn session(&self, ground: &impl Ground, receiver: u32) -> Option<Shared<Keypair<E>>> {
        self.find(ground, receiver, |entry| match entry {
            Entry::Session(keypair) => Some(keypair.clone()),
            Entry::Handshake(_) => None,
        })
    }

    /// How many indices are live, for tests and reports.
    pub fn len(&self, ground: &impl Ground) -> usize {
        self.shards.iter().map(|shard| shard.read(ground, HashTable::len)).sum()
    }

    /// Whether no index is live.
    pub fn is_empty(&self, ground: &impl Ground) -> bool {
        self.len(ground) == 0
    }

    /// The peer whose pending handshake a response for `receiver` belongs to.
    pub(super) fn handshake(&self, ground: &impl Ground, receiver: u32) -> Option<Shared<Peer<E>>> {
        self.find(ground, receiver, |entry| match entry {
            Entry::Handshake(peer) => Some(peer.clone()),
            Entry::Session(_) => None,
        })
    }

    /// The peer a cookie reply for `receiver` belongs to: a pending handshake's or a session's.
    pub(super) fn either(&self, ground: &impl Ground, receiver: u32) -> Option<Shared<Peer<E>>> {
        self.find(ground, receiver, |entry| Some(entry.peer().clone()))
    }

    /// Makes room for the indices of `peers` more peers, who are not counted yet. `PASSIVE_LEVEL`.
    pub(super) fn reserve(&self, ground: &impl Ground, peers: usize) -> Result<(), OutOfMemory> {
        let counted = self.peers.with(ground, |counted| *counted);
        let total = counted.saturating_add(peers).saturating_mul(PER_PEER);
        // Twice the average: the fullest shard of 256 is then still unlikely to be full, and if it
        // is, so what.
        let each = total.div_ceil(SHARDS).saturating_mul(2).saturating_add(2);
        for shard in &self.shards {
            if shard.read(ground, |table| table.has_room(each.saturating_sub(table.len()))) {
                continue;
            }
            // Made and freed with the lock open; under it only the indices of one shard move.
            let mut larger = HashTable::with_room(each)?;
            shard.write(ground, |table| table.move_to(&mut larger));
        }
        Ok(())
    }

    /// Counts a peer that was added.
    pub(super) fn peer_added(&self, ground: &impl Ground) {
        self.peers.with(ground, |counted| *counted = counted.saturating_add(1));
    }

    /// Counts a peer that was removed.
    pub(super) fn peer_removed(&self, ground: &impl Ground) {
        self.peers.with(ground, |counted| *counted = counted.saturating_sub(1));
    }

    /// Draws a free index and makes it stand for a pending handshake of `peer`.
    // spec: WG 5.4.2-f
    pub(super) fn insert(
        &self,
        ground: &impl Ground,
        peer: &Shared<Peer<E>>,
        random: &mut dyn Random,
    ) -> Option<u32> {
        for _ in 0..DRAWS {
            let mut bytes = [0; 4];
            random.fill(&mut bytes);
            let index = u32::from_le_bytes(bytes);
            let slot = Slot { index, entry: Entry::Handshake(peer.clone()) };
            let inserted = self.shard(index)?.write(ground, |table| {
                match table.find(hash(index), |slot| slot.index == index) {
                    Some(_) => Err(slot),
                    None => table.insert(hash(index), slot),
                }
            });
            if inserted.is_ok() {
                return Some(index);
            }
        }
        None
    }

    /// Makes an index of a pending handshake of the same peer stand for `keypair`.
    pub(super) fn replace(&self, ground: &impl Ground, keypair: &Shared<Keypair<E>>) -> bool {
        let index = keypair.local_index();
        let mut entry = Entry::Session(keypair.clone());
        self.shard(index).is_some_and(|shard| {
            shard.write(ground, |table| {
                let found = table.find_mut(hash(index), |slot| slot.index == index);
                let found = found.filter(|slot| Shared::ptr_eq(slot.entry.peer(), keypair.peer()));
                found.map(|slot| core::mem::swap(&mut slot.entry, &mut entry)).is_some()
            })
        })
    }

    /// Takes an index of `peer` out of the table.
    pub(super) fn remove(&self, ground: &impl Ground, index: u32, peer: &Peer<E>) {
        let removed = self.shard(index).and_then(|shard| {
            shard.write(ground, |table| {
                table.remove(hash(index), |slot| {
                    slot.index == index && core::ptr::eq(&**slot.entry.peer(), peer)
                })
            })
        });
        // May be the last reference to a session: dropped here, outside the shard's lock.
        drop(removed);
    }

    fn find<R>(
        &self,
        ground: &impl Ground,
        index: u32,
        look: impl FnOnce(&Entry<E>) -> Option<R>,
    ) -> Option<R> {
        self.shard(index)?
            .read(ground, |table| look(&table.find(hash(index), |slot| slot.index == index)?.entry))
    }

    fn shard(&self, index: u32) -> Option<&RwSpinLock<HashTable<Slot<E>>>> {
        self.shards.get(index as usize % SHARDS)
    }
}

/// Within a shard all low bytes are equal: hash with the others.
fn hash(index: u32) -> u64 {
    u64::from(index / SHARDS as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Unpinned;

    /// Draws the same index twice before it goes on.
    struct Stutter(u32);

    impl Random for Stutter {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&(self.0 / 2).to_le_bytes());
            self.0 = self.0.wrapping_add(1);
        }
    }

    // spec-test: WG 5.4.2-f, WG 5.4.2-g
    #[test]
    fn an_index_is_given_once_and_looked_up_by_kind() {
        let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
        index.reserve(&Unpinned, 600).unwrap();
        let peer: Shared<Peer<()>> = Peer::try_new([1; 32], 1, index.clone(), 1).unwrap();
        let other = Peer::try_new([2; 32], 1, index.clone(), 1).unwrap();
        let mut random = Stutter(0);
        for expected in 0..600 {
            assert_eq!(index.insert(&Unpinned, &peer, &mut random), Some(expected));
        }
        assert_eq!(index.len(&Unpinned), 600);
        assert!(index.session(&Unpinned, 5).is_none(), "a handshake is no session");
        assert!(index.handshake(&Unpinned, 5).is_some() && index.either(&Unpinned, 5).is_some());
        assert!(index.handshake(&Unpinned, 600).is_none());
        index.remove(&Unpinned, 5, &other);
        assert!(index.handshake(&Unpinned, 5).is_some(), "not that peer's to remove");
        (0..600).for_each(|n| index.remove(&Unpinned, n, &peer));
        assert!(index.is_empty(&Unpinned));
    }

    #[test]
    fn a_full_table_gives_no_index() {
        let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
        let peer: Shared<Peer<()>> = Peer::try_new([1; 32], 1, index.clone(), 1).unwrap();
        assert_eq!(index.insert(&Unpinned, &peer, &mut Stutter(0)), None);
    }
}
