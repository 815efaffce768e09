//! What an adapter counts: packets and bytes by direction, and every discard by its reason.
//!
//! Plain atomics, added to once per chunk or per batch rather than once per packet wherever the
//! caller has a sum. They only ever grow (but see [`Counters::take_back`]), and a reader takes them one by one: two counters read
//! under traffic need not be of the same instant. Any IRQL.
//!
//! At rest they add up, each way, in the words of [`Counter`]:
//!
//! ```text
//! packets of the adapter = PacketsOut - SegmentsOut + SuperPacketsOut
//! PacketsOut + KeepalivesOut + HandshakesOut = DatagramsOut + still staged + outbound discards
//! DatagramsIn + TooBigTold = PacketsIn + KeepalivesIn + HandshakesIn + inbound discards
//! ```

use core::sync::atomic::{AtomicU64, Ordering};

use abi::{
    discard::Discard,
    statistics::{self, Counter},
};

/// The counters of one adapter.
pub(crate) struct Counters {
    counters: [AtomicU64; Counter::COUNT],
    discards: [AtomicU64; Discard::COUNT],
}

impl Counters {
    /// All at zero.
    pub(crate) const fn new() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            discards: [const { AtomicU64::new(0) }; Discard::COUNT],
        }
    }

    /// Adds `amount` to `counter`.
    pub(crate) fn add(&self, counter: Counter, amount: usize) {
        if amount == 0 {
            return;
        }
        if let Some(value) = self.counters.get(counter as usize) {
            // Relaxed: a count publishes nothing.
            value.fetch_add(amount as u64, Ordering::Relaxed);
        }
    }

    /// Takes `amount` back from `counter`: counted once, and then it did not happen.
    pub(crate) fn take_back(&self, counter: Counter, amount: usize) {
        if let Some(value) = self.counters.get(counter as usize) {
            // Relaxed: as above.
            value.fetch_sub(amount as u64, Ordering::Relaxed);
        }
    }

    /// Keeps the greatest value seen.
    pub(crate) fn raise(&self, counter: Counter, value: u64) {
        if let Some(greatest) = self.counters.get(counter as usize) {
            // Relaxed: as above.
            greatest.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Counts `packets` discarded for `reason`.
    pub(crate) fn discard(&self, reason: Discard, packets: usize) {
        if let Some(value) = self.discards.get(reason as usize) {
            // Relaxed: as above.
            value.fetch_add(packets as u64, Ordering::Relaxed);
        }
    }

    /// Writes the statistics block, `elsewhere` being discards that were counted elsewhere; `None` if
    /// `out` is too short.
    pub(crate) fn write(&self, out: &mut [u8], elsewhere: [(Discard, u64); 2]) -> Option<usize> {
        let read = |values: &[AtomicU64], at: usize| {
            values.get(at).map_or(0, |value| value.load(Ordering::Relaxed))
        };
        statistics::write(
            out,
            |counter| read(&self.counters, counter as usize),
            |reason| {
                let too = elsewhere.iter().filter(|(other, _)| *other == reason).map(|(_, n)| *n);
                too.fold(read(&self.discards, reason as usize), u64::wrapping_add)
            },
        )
    }
}
