//! Flows by remote address: when the firewall last saw each, how many of its datagrams are held.
//!
//! The firewall keeps the state of a UDP flow for 60 seconds after the last datagram it saw; whether
//! it sees what is absorbed or injected is not known. So each way at least one datagram of a flow in
//! 20 seconds takes the path through the socket.
//!
//! A table of a fixed size, indexed by a keyed hash, without a lock. Two flows that share a place
//! push each other out: then more datagrams than need take the socket path, and they share the bound
//! on what is held. Nothing goes wrong by it, so nothing is done about it. Any thread, any IRQL.

use alloc::{collections::TryReserveError, vec::Vec};
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// How long a flow may stay on the fast path without the firewall's seeing it.
pub const REFRESH: Duration = Duration::from_secs(20);
/// Places; a power of two.
const PLACES: usize = 1 << 12;
const LAST_PLACE: u16 = 0xFFF;
const _: () = assert!(PLACES == LAST_PLACE as usize + 1);

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the network.
    In,
    /// To the network.
    Out,
}

/// Where a flow is in the table, and by what it is known there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Index of the place.
    pub place: u16,
    tag: u32,
}

/// The table.
#[derive(Debug)]
pub struct Flows {
    seed: u64,
    places: Vec<Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// Which flow was seen, and when, in each direction; zero is none.
    seen: [AtomicU64; 2],
    held: AtomicU32,
}

impl Flows {
    /// An empty table; `seed` is nobody else's to know.
    ///
    /// # Errors
    ///
    /// Memory is short.
    pub fn try_new(seed: u64) -> Result<Self, TryReserveError> {
        let mut places = Vec::new();
        places.try_reserve_exact(PLACES)?;
        places.resize_with(PLACES, Place::default);
        Ok(Self { seed, places })
    }

    /// The key of the flow between `remote` and our `port`.
    #[must_use]
    pub fn key(&self, remote: &SocketAddr, port: u16) -> Key {
        let [low, high] = match remote.ip() {
            IpAddr::V4(ip) => [u64::from(ip.to_bits()), 4],
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                [bits as u64, (bits >> 64) as u64]
            }
        };
        let ports = u64::from(remote.port()) << 16 | u64::from(port);
        let hash = [low, high, ports].into_iter().fold(self.seed, mix);
        // Zero is no flow's tag.
        Key { place: hash as u16 & LAST_PLACE, tag: (hash >> 32) as u32 | 1 }
    }

    /// Whether the firewall has not seen the flow within [`REFRESH`] before `now`, or never.
    #[must_use]
    pub fn is_due(&self, key: Key, way: Way, now: Duration) -> bool {
        let seen = self.seen(key, way).map_or(0, |seen| seen.load(Ordering::Relaxed));
        let (tag, at) = ((seen >> 32) as u32, seen as u32);
        tag != key.tag || tenths(now).wrapping_sub(at) >= tenths(REFRESH)
    }

    /// Notes that the firewall sees a datagram of the flow at `now`.
    pub fn refresh(&self, key: Key, way: Way, now: Duration) {
        if let Some(seen) = self.seen(key, way) {
            let value = u64::from(key.tag) << 32 | u64::from(tenths(now));
            // Relaxed, as everywhere here: each word stands for itself.
            seen.store(value, Ordering::Relaxed);
        }
    }

    /// How many datagrams of the flow, or of one with the same place, are held.
    #[must_use]
    pub fn held(&self, place: u16) -> u32 {
        self.place(place).map_or(0, |place| place.held.load(Ordering::Relaxed))
    }

    /// Notes that a datagram is held.
    pub fn hold(&self, place: u16) {
        if let Some(place) = self.place(place) {
            place.held.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a datagram is no longer held.
    pub fn release(&self, place: u16) {
        if let Some(place) = self.place(place) {
            place.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn seen(&self, key: Key, way: Way) -> Option<&AtomicU64> {
        let [inbound, outbound] = &self.place(key.place)?.seen;
        Some(match way {
            Way::In => inbound,
            Way::Out => outbound,
        })
    }

    fn place(&self, place: u16) -> Option<&Place> {
        self.places.get(usize::from(place))
    }
}

/// Tenths of a second; wraps after 13 years.
const fn tenths(time: Duration) -> u32 {
    (time.as_millis() / 100) as u32
}

/// Folds a word into a hash; multiplying spreads it upwards, the shift brings it down again.
const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ hash >> 29
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn table() -> Flows {
        Flows::try_new(0x1234_5678_9ABC_DEF0).expect("memory")
    }

    #[test]
    fn one_datagram_in_twenty_seconds_is_seen_each_way() {
        let flows = table();
        let key = flows.key(&"192.0.2.1:7".parse().unwrap(), 51820);
        let at = Duration::from_millis;
        assert!(flows.is_due(key, Way::In, at(0)), "never seen");
        flows.refresh(key, Way::In, at(1000));
        for (now, due) in
            [(1000, false), (20_900, false), (21_000, true), (u64::from(u32::MAX), true)]
        {
            assert_eq!(flows.is_due(key, Way::In, at(now)), due, "{now} ms");
        }
        assert!(flows.is_due(key, Way::Out, at(1000)), "the other way is another flow");
        let other = Key { tag: key.tag ^ 2, ..key };
        assert!(flows.is_due(other, Way::In, at(1000)), "another flow at the same place");
        flows.refresh(other, Way::In, at(2000));
        assert!(flows.is_due(key, Way::In, at(2000)), "pushed out");
    }

    #[test]
    fn what_is_held_is_counted() {
        let flows = table();
        let key = flows.key(&"[2001:db8::1]:7".parse().unwrap(), 1);
        flows.hold(key.place);
        flows.hold(key.place);
        assert_eq!(flows.held(key.place), 2);
        flows.release(key.place);
        assert_eq!(flows.held(key.place), 1);
        assert_eq!(flows.held(u16::MAX), 0, "no such place");
        flows.hold(u16::MAX);
    }

    #[test]
    fn flows_spread_over_the_table() {
        let flows = table();
        let mut keys = HashSet::new();
        let mut places = HashSet::new();
        for host in 0..4096_u32 {
            let ip = IpAddr::V4(core::net::Ipv4Addr::from_bits(0x0A00_0000 + host));
            let key = flows.key(&SocketAddr::new(ip, 51820), 51820);
            keys.insert((key.place, key.tag));
            places.insert(key.place);
        }
        assert_eq!(keys.len(), 4096, "no two flows are taken for one");
        // 4096 balls in 4096 bins leave about 37 % of them empty.
        assert!(places.len() > 2200, "{} places", places.len());
        let remote = "192.0.2.1:7".parse().unwrap();
        assert_ne!(flows.key(&remote, 1), flows.key(&remote, 2), "by our port");
        let other = Flows::try_new(1).unwrap();
        assert_ne!(flows.key(&remote, 1), other.key(&remote, 1), "by the seed");
    }
}
