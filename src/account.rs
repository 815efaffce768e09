//! How much of a clock tick a CPU, or a thread, has spent on one kind of work.
//!
//! An account is written by the one it belongs to, so that plain loads and stores do; others may look, to
//! see whom to wake. What one tick leaves is not saved up for the next. Any IRQL.

use core::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use abi::{descriptor::Places, places};
use nt::time::to_100ns;

/// The longest that NT lets pass between two ticks.
pub(crate) const TICK: Duration = Duration::from_micros(15_625);
/// The same.
const TICK_100NS: u64 = to_100ns(TICK);

/// What may be spent of a tick.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    /// So many packets.
    pub(crate) packets: u32,
    /// So long.
    pub(crate) time_100ns: u32,
}

impl Share {
    /// All there is.
    pub(crate) const ALL: Self = Self { packets: u32::MAX, time_100ns: u32::MAX };
    /// Half of the time, which leaves as much to all the rest.
    pub(crate) const HALF: Self = Self { packets: u32::MAX, time_100ns: (TICK_100NS / 2) as u32 };
}

/// See the module.
pub(crate) struct Account {
    share: Share,
    /// Number of the tick.
    tick: AtomicU64,
    packets: AtomicU32,
    time_100ns: AtomicU32,
}

impl Account {
    /// For a debugger.
    pub(crate) const PLACES: Places = places!("Account", tick, packets, time_100ns);

    /// One of which nothing is spent.
    pub(crate) const fn new(share: Share) -> Self {
        let (packets, time_100ns) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { share, tick: AtomicU64::new(0), packets, time_100ns }
    }

    /// Adds what was done until `ended`.
    pub(crate) fn note(&self, ended: Duration, took_100ns: u64, packets: usize) {
        let tick = to_100ns(ended) / TICK_100NS;
        let same = self.tick.load(Ordering::Relaxed) == tick;
        let carried = |word: &AtomicU32| if same { word.load(Ordering::Relaxed) } else { 0 };
        let took = u32::try_from(took_100ns).unwrap_or(u32::MAX);
        let time = carried(&self.time_100ns).saturating_add(took);
        let packets = carried(&self.packets).saturating_add(packets as u32);
        self.time_100ns.store(time, Ordering::Relaxed);
        self.packets.store(packets, Ordering::Relaxed);
        self.tick.store(tick, Ordering::Relaxed);
    }

    /// Whether nothing is left of the tick that is `now`.
    pub(crate) fn is_spent(&self, now: Duration) -> bool {
        self.tick.load(Ordering::Relaxed) == to_100ns(now) / TICK_100NS
            && (self.packets.load(Ordering::Relaxed) >= self.share.packets
                || self.time_100ns.load(Ordering::Relaxed) >= self.share.time_100ns)
    }
}
