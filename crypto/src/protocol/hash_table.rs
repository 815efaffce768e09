//! A hash table whose growth may fail: open addressing, linear probing, no tombstones.
//!
//! Callers bring the hash. Growing is a separate step, so that what must not fail can be prepared:
//! `insert` never allocates. Hashes of what strangers choose must be keyed ([`keyed_hash`]).

use alloc::vec::Vec;
use core::hash::Hasher;

use crate::sync::OutOfMemory;

/// Values found by hash and a test for equality.
pub struct HashTable<V> {
    /// A power of two of slots, or none; at least a quarter of them is empty.
    slots: Vec<Option<Entry<V>>>,
    len: usize,
}

struct Entry<V> {
    hash: u64,
    value: V,
}

impl<V> HashTable<V> {
    /// An empty table without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `additional` more values, in one go: for a table that nobody waits for.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the table is unchanged.
    pub fn reserve(&mut self, additional: usize) -> Result<(), OutOfMemory> {
        if !self.has_room(additional) {
            let values = self.len.checked_add(additional).ok_or(OutOfMemory)?;
            self.move_to(&mut Self::with_room(values)?);
        }
        Ok(())
    }

    /// An empty table with room for so many values.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn with_room(values: usize) -> Result<Self, OutOfMemory> {
        let slots = values.checked_mul(2).and_then(usize::checked_next_power_of_two);
        let count = slots.ok_or(OutOfMemory)?.max(8);
        let mut slots = Vec::new();
        slots.try_reserve_exact(count)?;
        slots.resize_with(count, || None);
        Ok(Self { slots, len: 0 })
    }

    /// Whether so many more values have room.
    #[must_use]
    pub fn has_room(&self, additional: usize) -> bool {
        self.len.saturating_add(additional) <= room(self.slots.len())
    }

    /// Moves all values to `larger`, which is empty, and takes its place; it becomes what was here, to be freed where nobody
    /// waits. Nothing happens if it has less room.
    pub fn move_to(&mut self, larger: &mut Self) {
        if larger.slots.len() <= self.slots.len() {
            return;
        }
        for entry in self.slots.iter_mut().filter_map(Option::take) {
            // It has room for more than these.
            let _ = larger.insert(entry.hash, entry.value);
        }
        self.len = 0;
        core::mem::swap(self, larger);
    }

    /// Copies what is in some of the slots from `from` on to `larger`, and moves `from` behind them; returns whether there are
    /// others.
    pub fn copy_to(&self, larger: &mut Self, from: &mut usize, count: usize) -> bool
    where
        V: Clone,
    {
        for entry in self.slots.iter().skip(*from).take(count).flatten() {
            // It has room for more than these.
            let _ = larger.insert(entry.hash, entry.value.clone());
        }
        *from = from.saturating_add(count);
        *from < self.slots.len()
    }

    /// Adds a value, which must not be in the table yet.
    ///
    /// # Errors
    ///
    /// The value, if no room was reserved for it.
    pub fn insert(&mut self, hash: u64, value: V) -> Result<(), V> {
        if self.len >= room(self.slots.len()) {
            return Err(value);
        }
        let mut at = self.home(hash);
        while self.entry(at).is_some() {
            at = self.after(at);
        }
        match self.slots.get_mut(at) {
            Some(slot) => *slot = Some(Entry { hash, value }),
            None => return Err(value),
        }
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// The value with this hash that `matches`.
    pub fn find(&self, hash: u64, matches: impl FnMut(&V) -> bool) -> Option<&V> {
        let at = self.position(hash, matches)?;
        self.entry(at).map(|entry| &entry.value)
    }

    /// The value with this hash that `matches`, to be changed.
    pub fn find_mut(&mut self, hash: u64, matches: impl FnMut(&V) -> bool) -> Option<&mut V> {
        let at = self.position(hash, matches)?;
        self.slots.get_mut(at)?.as_mut().map(|entry| &mut entry.value)
    }

    /// Takes out the value with this hash that `matches`.
    pub fn remove(&mut self, hash: u64, matches: impl FnMut(&V) -> bool) -> Option<V> {
        let mut hole = self.position(hash, matches)?;
        let removed = self.slots.get_mut(hole)?.take()?;
        self.len = self.len.saturating_sub(1);
        // Entries behind the hole move up if the hole lies between their home and them: then every
        // entry can again be reached from its home without crossing an empty slot.
        let mut at = self.after(hole);
        while let Some(entry) = self.entry(at) {
            let home = self.home(entry.hash);
            if self.distance(home, at) >= self.distance(hole, at) {
                let moved = self.slots.get_mut(at).and_then(Option::take);
                if let Some(place) = self.slots.get_mut(hole) {
                    *place = moved;
                }
                hole = at;
            }
            at = self.after(at);
        }
        Some(removed.value)
    }

    fn position(&self, hash: u64, mut matches: impl FnMut(&V) -> bool) -> Option<usize> {
        let mut at = self.home(hash);
        while let Some(entry) = self.entry(at) {
            if entry.hash == hash && matches(&entry.value) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    fn entry(&self, at: usize) -> Option<&Entry<V>> {
        self.slots.get(at)?.as_ref()
    }

    /// Where a hash begins its search.
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask()
    }

    fn after(&self, at: usize) -> usize {
        at.wrapping_add(1) & self.mask()
    }

    /// Steps from one slot forward to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.slots.len().saturating_sub(1)
    }
}

impl<V> Default for HashTable<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// How many values `slots` slots may hold: three quarters, so that a search ends soon.
fn room(slots: usize) -> usize {
    slots / 4 * 3
}

/// A secret that keys hashes, so that nobody outside can choose colliding keys.
#[derive(Clone)]
pub struct HashKey([u64; 2]);

impl HashKey {
    /// Takes 16 random bytes.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(random);
        Self([whole as u64, (whole >> 64) as u64])
    }

    /// SipHash-2-4 of `bytes`.
    // spec: WG 7.4-b
    #[must_use]
    #[expect(
        deprecated,
        reason = "core's only keyed SipHash; std's DefaultHasher, its replacement, is not in core"
    )]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let [k0, k1] = self.0;
        let mut hasher = core::hash::SipHasher::new_with_keys(k0, k1);
        hasher.write(bytes);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn inserting_needs_reserved_room() {
        let mut table = HashTable::new();
        assert_eq!(table.insert(0, 'a'), Err('a'));
        table.reserve(1).unwrap();
        assert_eq!(table.insert(0, 'a'), Ok(()));
        assert_eq!(table.find(0, |_| true), Some(&'a'));
        assert_eq!(table.find(8, |_| true), None);
    }

    // spec-test: WG 7.4-b
    #[test]
    fn the_hash_is_siphash_2_4() {
        // The last row of the table in the SipHash paper's appendix: key 00..0f, input 00..0e.
        let key = HashKey::new(core::array::from_fn(|i| i as u8));
        let input: [u8; 15] = core::array::from_fn(|i| i as u8);
        assert_eq!(key.hash(&input), 0xA129_CA61_49BE_45E5);
    }

    proptest! {
        /// Few distinct hashes, so that runs are long and wrap around the end.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 0..400)) {
            let mut table = HashTable::new();
            let mut map = HashMap::new();
            for (add, key, spread) in steps {
                let hash = key % 12 * spread.max(1);
                let hash = *map.get(&key).map_or(&hash, |(hash, _): &(u64, u64)| hash);
                if add && !map.contains_key(&key) {
                    table.reserve(1).unwrap();
                    table.insert(hash, (key, spread)).unwrap();
                    map.insert(key, (hash, spread));
                } else if !add {
                    let removed = table.remove(hash, |(found, _)| *found == key);
                    prop_assert_eq!(removed.map(|(_, v)| v), map.remove(&key).map(|(_, v)| v));
                }
                prop_assert_eq!(table.len(), map.len());
                for (key, (hash, value)) in &map {
                    prop_assert_eq!(table.find(*hash, |(found, _)| found == key), Some(&(*key, *value)));
                }
            }
        }
    }
}
