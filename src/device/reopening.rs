//! Sockets whose transport is gone are opened anew, by a worker, and again after a while if they cannot be.

use core::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use abi::events::Event;
use crypto::sync::Shared;
use nt::{irql::Passive, time::monotonic};

use super::Device;
use crate::{ground::AtPassive, log::Level};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether there is something to open.
#[derive(Default)]
pub(super) struct Reopening {
    /// A socket has told that its transport is gone.
    lost: AtomicBool,
    /// When it is tried again, in nanoseconds since boot; 0 if there is nothing to try. Written under the control lock.
    again: AtomicU64,
}

impl Reopening {
    /// Whether now is the time.
    fn is_due(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel) || self.next().is_some_and(|at| at <= monotonic())
    }

    /// When it is tried again.
    fn next(&self) -> Option<Duration> {
        // Relaxed: who comes too early comes again.
        let at = self.again.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_nanos(at))
    }

    fn set(&self, at: Option<Duration>) {
        let at = at.map_or(0, |at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        self.again.store(at, Ordering::Relaxed);
    }
}

impl Device {
    /// Has a worker open the sockets anew: their transport is gone.
    pub(crate) fn ask_for_sockets(&self) {
        if !self.reopening.lost.swap(true, Ordering::AcqRel) {
            self.core.call_workers();
        }
    }

    /// When a worker is to open the sockets that it could not open before.
    pub(crate) fn next_attempt(&self) -> Option<Duration> {
        self.reopening.next()
    }

    /// Opens the sockets anew if their transport is gone.
    pub(crate) fn reopen(this: &Shared<Self>, passive: &Passive) {
        if !this.reopening.is_due() {
            return;
        }
        let mut control = this.control.lock(passive);
        this.reopening.set(None);
        let Some(owner) = control.owner.clone() else { return };
        let current = this.sockets.read(&AtPassive(passive), |sockets| {
            sockets.as_ref().map(|sockets| sockets.is_lost().then(|| sockets.port()))
        });
        let port = match current {
            Some(lost) => lost,
            None => control.missing,
        };
        let Some(port) = port else { return };
        let first = current.is_some();
        if first {
            this.note(Event::SocketsLost, [0; 3]);
        }
        // The port is free for the new ones only when the old ones are gone.
        this.replace_sockets(None, &control.pause, passive);
        match Self::open(this, port, &owner, passive) {
            Ok(sockets) => {
                this.replace_sockets(Some(sockets), &control.pause, passive);
                this.note(Event::SocketsReopened, [port.into(), 0, 0]);
                this.say(passive, Level::Warning, format_args!("sockets opened anew"));
            }
            Err(error) => {
                control.missing = Some(port);
                this.reopening.set(Some(monotonic().saturating_add(AGAIN)));
                if first {
                    let what = format_args!("sockets are lost, and tried again: {error}");
                    this.say(passive, Level::Error, what);
                }
            }
        }
    }
}
