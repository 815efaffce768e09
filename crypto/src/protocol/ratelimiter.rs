//! A token bucket per source of handshake messages, for when we are under load.
//!
//! A source is an IPv4 address or the first 64 bits of an IPv6 address. Each message costs 50 ms of
//! credit, credit grows with time up to 250 ms, a new source starts with 250 ms: 20 messages per
//! second in bursts of five. Two tables in turn forget the idle: a source that is heard of moves to
//! the young table, and once a second the old one is thrown away whole, so no sweep ever runs under
//! the lock. A table is many small ones, which grow each by itself: a source that is new has a few hundred
//! others moved at most. A source idle for a second has full credit again, so forgetting it changes nothing but
//! the room. Runs at any level the lock allows; memory is bounded by [`RATE_SOURCES_MAX`].
//! (Behaviour of Linux `ratelimiter.c`; the paper has no numbers.)

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{
    Instant,
    hash_table::{HashKey, HashTable},
    limits::{RATE_CREDIT_MAX, RATE_PACKET_COST, RATE_SOURCE_LIFE, RATE_SOURCES_MAX},
};
use crate::sync::OutOfMemory;

/// Who sent how much lately.
pub struct RateLimiter {
    key: HashKey,
    young: Sources,
    old: Sources,
    turned_at: Instant,
}

/// Sources by hash: the highest bits choose a table, the lowest a place in it.
#[derive(Default)]
struct Sources {
    /// [`TABLES`], or none.
    tables: Vec<HashTable<Bucket>>,
    len: usize,
}

/// Each has some 256 of [`RATE_SOURCES_MAX`].
const TABLES: usize = 256;

impl Sources {
    const fn new() -> Self {
        Self { tables: Vec::new(), len: 0 }
    }

    fn table(&self, hash: u64) -> Option<&HashTable<Bucket>> {
        self.tables.get(of_tables(hash))
    }

    fn table_mut(&mut self, hash: u64) -> Option<&mut HashTable<Bucket>> {
        self.tables.get_mut(of_tables(hash))
    }

    /// Makes room for a source of this hash.
    fn reserve(&mut self, hash: u64) -> Result<(), OutOfMemory> {
        self.tables.try_reserve_exact(TABLES.saturating_sub(self.tables.len()))?;
        self.tables.resize_with(TABLES, HashTable::new);
        self.table_mut(hash).map_or(Ok(()), |table| table.reserve(1))
    }

    /// Adds a source, for which there is room.
    fn insert(&mut self, hash: u64, bucket: Bucket) {
        if self.table_mut(hash).is_some_and(|table| table.insert(hash, bucket).is_ok()) {
            self.len = self.len.saturating_add(1);
        }
    }

    fn remove(&mut self, hash: u64, matches: impl FnMut(&Bucket) -> bool) {
        if self.table_mut(hash).is_some_and(|table| table.remove(hash, matches).is_some()) {
            self.len = self.len.saturating_sub(1);
        }
    }
}

/// Which of the tables is a hash's.
fn of_tables(hash: u64) -> usize {
    (hash >> (u64::BITS - TABLES.ilog2())) as usize
}

/// One source's credit.
#[derive(Clone, Copy)]
struct Bucket {
    source: Source,
    heard_at: Instant,
    credit_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    // spec: WG 7.4-e — neither the port nor the low 64 bits count.
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [prefix @ .., _, _, _, _, _, _, _, _] = address.octets();
                Self::V6(prefix)
            }
        }
    }

    fn hash(&self, key: &HashKey) -> u64 {
        match self {
            Self::V4(bytes) => key.hash(bytes),
            Self::V6(bytes) => key.hash(bytes),
        }
    }
}

impl RateLimiter {
    /// An empty limiter; `key` keeps strangers from choosing colliding addresses.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let turned_at = Instant(core::time::Duration::ZERO);
        Self { key, young: Sources::new(), old: Sources::new(), turned_at }
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len.saturating_add(self.old.len)
    }

    /// Whether no source is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Charges `source` for one message. Returns whether it may pass, and tables to drop outside
    /// the lock.
    ///
    /// A new source at the limit of sources, or without memory for it, may not.
    pub fn allow(&mut self, source: IpAddr, now: Instant) -> (bool, Forgotten) {
        let forgotten = self.turn(now);
        let source = Source::of(source);
        let hash = source.hash(&self.key);
        let matches = |bucket: &Bucket| bucket.source == source;
        let young = self.young.table_mut(hash);
        if let Some(bucket) = young.and_then(|table| table.find_mut(hash, matches)) {
            return (bucket.charge(now), forgotten);
        }
        let known = self.old.table(hash).and_then(|table| table.find(hash, matches)).copied();
        if known.is_none() && self.len() >= RATE_SOURCES_MAX || self.young.reserve(hash).is_err() {
            return (false, forgotten);
        }
        let mut bucket = known.unwrap_or(Bucket { source, heard_at: now, credit_ns: credit_max() });
        self.old.remove(hash, matches);
        let allowed = bucket.charge(now);
        self.young.insert(hash, bucket);
        (allowed, forgotten)
    }

    /// Whether `source` has credit for one message; nothing is charged.
    #[must_use]
    pub fn has_credit(&self, source: IpAddr, now: Instant) -> bool {
        let source = Source::of(source);
        let hash = source.hash(&self.key);
        let matches = |bucket: &Bucket| bucket.source == source;
        let tables = [&self.young, &self.old].into_iter().filter_map(|sources| sources.table(hash));
        let known = tables.filter_map(|table| table.find(hash, matches)).next();
        known.copied().is_none_or(|mut bucket| bucket.charge(now))
    }

    /// Once a second, the young become old and the old are forgotten.
    fn turn(&mut self, now: Instant) -> Forgotten {
        let since = now.since(self.turned_at);
        if since <= RATE_SOURCE_LIFE {
            return Forgotten { _sources: [Sources::new(), Sources::new()] };
        }
        self.turned_at = now;
        let young = core::mem::take(&mut self.young);
        // Both are idle if the last turn is two lives ago.
        let (kept, idle) = if since > RATE_SOURCE_LIFE * 2 {
            (Sources::new(), young)
        } else {
            (young, Sources::new())
        };
        Forgotten { _sources: [core::mem::replace(&mut self.old, kept), idle] }
    }
}

/// Tables of forgotten sources, whose memory is given back where this drops: not under the lock.
pub struct Forgotten {
    _sources: [Sources; 2],
}

impl Bucket {
    /// Takes the cost of one message if there is credit for it. Time counts as heard either way.
    fn charge(&mut self, now: Instant) -> bool {
        let earned = now.since(self.heard_at).as_nanos();
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        self.heard_at = self.heard_at.max(now);
        let credit = self.credit_ns.saturating_add(earned).min(credit_max());
        let paid = credit.checked_sub(RATE_PACKET_COST.as_nanos() as u64);
        self.credit_ns = paid.unwrap_or(credit);
        paid.is_some()
    }
}

const fn credit_max() -> u64 {
    RATE_CREDIT_MAX.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use core::{net::Ipv4Addr, time::Duration};

    use super::*;

    fn limiter() -> RateLimiter {
        RateLimiter::new(HashKey::new([7; 16]))
    }

    fn at(milliseconds: u64) -> Instant {
        Instant(Duration::from_millis(10_000 + milliseconds))
    }

    // spec-test: WG 7.4-e
    #[test]
    fn bursts_of_five_and_twenty_a_second() {
        let mut limiter = limiter();
        for (time, allowed) in [
            (0, true),
            (0, true),
            (0, true),
            (0, true),
            (0, true),
            (0, false),
            (50, true),
            (50, false),
            (150, true),
            (150, true),
            (150, false),
            (199, false),
            (200, true),
        ] {
            let one: IpAddr = "192.0.2.1".parse().unwrap();
            assert_eq!(limiter.has_credit(one, at(time)), allowed, "at {time} ms");
            assert_eq!(limiter.allow(one, at(time)).0, allowed, "at {time} ms");
            let other: IpAddr = "2001:db8::1".parse().unwrap();
            let neighbour: IpAddr = "2001:db8::ffff:1".parse().unwrap();
            let address = if time % 100 == 0 { other } else { neighbour };
            assert_eq!(limiter.allow(address, at(time)).0, allowed, "at {time} ms, /64");
        }
    }

    // spec-test: WG 7.4-e
    #[test]
    fn sources_are_bounded_and_forgotten() {
        let mut limiter = limiter();
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from(n as u32));
        for n in 0..RATE_SOURCES_MAX {
            assert!(limiter.allow(address(n), at(0)).0, "{n}");
        }
        let largest = limiter.young.tables.iter().map(HashTable::len).max();
        assert!(largest.unwrap() < 2 * RATE_SOURCES_MAX / TABLES, "{largest:?} move at once");
        assert!(!limiter.allow(address(RATE_SOURCES_MAX), at(1)).0, "one too many");
        assert!(limiter.allow(address(0), at(1)).0, "known sources still pass");
        assert!(!limiter.allow(address(RATE_SOURCES_MAX), at(999)).0);
        assert!(limiter.allow(address(RATE_SOURCES_MAX), at(4000)).0, "the idle are forgotten");
        assert_eq!(limiter.len(), 1);
    }

    // spec-test: WG 7.4-e
    #[test]
    fn a_turn_keeps_the_credit_of_who_is_heard() {
        let mut limiter = limiter();
        let one = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // Ten messages in 100 ms of every second: five and then one more or two.
        let mut passed = 0;
        for millisecond in 0..5_000 {
            passed += u32::from(limiter.allow(one, at(millisecond)).0);
        }
        assert!((104..=105).contains(&passed), "{passed} in five seconds");
    }
}
