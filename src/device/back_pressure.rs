//! Back-pressure: packets stay in the adapter's ring while enough are under way.
//!
//! Sealing may be faster than sending, or one CPU slower than another, and then a packet more has no
//! run to be sealed into, or no place in its peer's order. It is left where it is, so that the stack
//! above sees a full queue and slows down, and is looked at again when a run comes back, of whichever
//! adapter. Nothing is waited for longer than a while: then packets are taken, and discarded for want
//! of room, so that a peer whose datagrams the network keeps does not stop the others for good. That
//! nothing comes back is nothing to be woken by, so a worker looks when the while is over.
//!
//! `<= DISPATCH_LEVEL`.

use core::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    time::Duration,
};

use crypto::protocol::Now;

use super::Device;

/// Runs that are left for those who do not ask: other CPUs at the same moment, what has waited for a
/// session.
const SPARE_RUNS: usize = 8;
/// How long room is waited for.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT_NANOSECONDS: u64 = LONGEST_WAIT.as_nanos() as u64;

/// How many adapters wait for runs; the driver's.
#[derive(Default)]
pub(crate) struct Waiters(AtomicUsize);

/// Since when an adapter waits for runs, in nanoseconds since boot; 0 if it does not.
#[derive(Default)]
pub(crate) struct WaitsSince(AtomicU64);

impl Device {
    /// Whether a packet of the ring's may be taken, where `also` has to be true, too; if not, the queue is
    /// resumed when a run has come back.
    pub(crate) fn has_room(&self, now: Now, also: impl Fn() -> bool) -> bool {
        let enough = || self.core.runs.full_runs() > SPARE_RUNS && also();
        if enough() {
            self.stop_waiting();
            return true;
        }
        let nanoseconds = nanoseconds(now.monotonic.0).max(1);
        let since = self.waits_since.0.compare_exchange(
            0,
            nanoseconds,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if since.is_ok() {
            self.core.waiters.0.fetch_add(1, Ordering::Relaxed);
            self.core.call_workers_within(LONGEST_WAIT);
        }
        // Pairs with the fence in `run_returned`: it sees that we wait, or we see its run.
        fence(Ordering::SeqCst);
        if enough() {
            self.stop_waiting();
            return true;
        }
        since.is_err_and(|since| is_over(since, nanoseconds))
    }

    /// A run is back in the pool: who waits for one looks again.
    pub(crate) fn run_returned(&self) {
        // Pairs with the fence in `has_room`.
        fence(Ordering::SeqCst);
        let waiters = self.core.waiters.0.load(Ordering::Relaxed);
        if waiters == 0 {
            return;
        }
        if waiters > usize::from(self.look_for_runs()) {
            // Other adapters, which are not known here.
            self.core.call_workers();
        }
    }

    /// Has the ring looked at again if it waits for runs; returns whether it does, which is until there is
    /// room.
    pub(crate) fn look_for_runs(&self) -> bool {
        let waits = self.waits_since.0.load(Ordering::Relaxed) != 0;
        if waits {
            self.adapter.tx().resume();
        }
        waits
    }

    /// When nothing is waited for any longer, if the ring waits and that is still to come.
    pub(crate) fn gives_up_at(&self, now: Duration) -> Option<Duration> {
        let since = self.waits_since.0.load(Ordering::Relaxed);
        (since != 0 && !is_over(since, nanoseconds(now)))
            .then(|| Duration::from_nanos(since).saturating_add(LONGEST_WAIT))
    }

    /// Waits for nothing any more.
    pub(super) fn stop_waiting(&self) {
        // Loaded first: as a rule it does not.
        if self.waits_since.0.load(Ordering::Relaxed) != 0
            && self.waits_since.0.swap(0, Ordering::Relaxed) != 0
        {
            self.core.waiters.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A time since boot in nanoseconds, of which there are enough for five centuries.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether who waits since then has waited for as long as may be; both in nanoseconds since boot.
fn is_over(since: u64, now: u64) -> bool {
    now.saturating_sub(since) >= LONGEST_WAIT_NANOSECONDS
}
