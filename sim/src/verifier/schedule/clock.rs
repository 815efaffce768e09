//! What time it is in a world.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{UPTIME, World, lock};

impl World {
    /// Time since the machines were switched on.
    pub fn now(&self) -> Duration {
        if self.is_virtual() {
            return lock(&self.baton).now;
        }
        let skipped = Duration::from_nanos(self.skipped.load(Ordering::Relaxed));
        UPTIME + self.started.elapsed() + skipped
    }

    /// In Parallel mode `time` passes at once, as for a virtual machine that its host had paused.
    pub fn skip(&self, time: Duration) {
        self.skipped.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        self.wake_all();
    }

    /// Time since the Unix epoch.
    pub fn wall(&self) -> Duration {
        self.wall + (self.now() - UPTIME)
    }
}
