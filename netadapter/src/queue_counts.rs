//! What a queue counts: by whoever advances it, one at a time, so with plain stores.

use core::sync::atomic::{AtomicU64, Ordering};

/// The counts of one queue, as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Packets it took.
    pub packets: u64,
    /// Their bytes; 0 of a transmit queue.
    pub bytes: u64,
    /// Packets that wait for it now.
    pub waiting: u64,
    /// The most that it found waiting.
    pub most_waiting: u64,
}

/// Where they are kept.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    packets: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
    most_waiting: AtomicU64,
}

impl Counting {
    /// So many packets wait. Only by who advances the queue.
    pub(crate) fn found(&self, waiting: u32) {
        let waiting = waiting.into();
        // Relaxed, and in several steps: nobody else writes.
        self.waiting.store(waiting, Ordering::Relaxed);
        if self.most_waiting.load(Ordering::Relaxed) < waiting {
            self.most_waiting.store(waiting, Ordering::Relaxed);
        }
    }

    /// So many were taken, and as many wait no longer. As above.
    pub(crate) fn took(&self, packets: u32, bytes: u64) {
        let (packets, add) = (packets.into(), |value: &AtomicU64, more: u64| {
            value.store(value.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        });
        add(&self.packets, packets);
        add(&self.bytes, bytes);
        let waiting = self.waiting.load(Ordering::Relaxed).saturating_sub(packets);
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// The counts. Any IRQL.
    pub(crate) fn read(&self) -> QueueCounts {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        QueueCounts {
            packets: read(&self.packets),
            bytes: read(&self.bytes),
            waiting: read(&self.waiting),
            most_waiting: read(&self.most_waiting),
        }
    }
}
