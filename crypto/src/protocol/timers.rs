//! The five timers of a peer.
//!
//! A timer is a deadline in an atomic word of the peer, so that the data path can arm and cancel it
//! with a store. The tunnel's schedule ([`super::schedule`]) is told only of what it does not know yet: it keeps one entry per peer, remembered in `scheduled`, and when that fires
//! it looks at the words. A deadline pushed out or cancelled costs nothing; one that is earlier
//! than what the schedule knows makes the data path ask for service ([`super::Wants::SERVICE`]).
//! Under traffic that is about once in ten seconds and peer.
//!
//! | timer | armed by | when it fires |
//! |---|---|---|
//! | Retransmit | an initiation sent | another one, or giving up |
//! | Keepalive | data received | a keepalive |
//! | NewHandshake | data sent | the session is dead: an initiation |
//! | Erase | a session made | sessions and handshake are wiped |
//! | Persistent | anything authentic, either way | a keepalive |
//!
//! [WG §6; events E1 to E20 are those of Linux `timers.c`]

use core::time::Duration;

use abi::{descriptor::Places, places};

use super::{
    Wants,
    limits::{JITTER_MAX, KEEPALIVE_TIMEOUT, NEW_HANDSHAKE_TIMEOUT, REKEY_TIMEOUT},
};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// No deadline; also "no such time yet".
pub(super) const NEVER: u64 = u64::MAX;

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    Retransmit,
    Keepalive,
    NewHandshake,
    Erase,
    Persistent,
}

impl Timer {
    /// All timers, in the order they fire if several are due at once.
    pub(super) const ALL: [Self; 5] =
        [Self::Erase, Self::Retransmit, Self::NewHandshake, Self::Keepalive, Self::Persistent];
}

/// The timers of one peer. Times are nanoseconds of the monotonic clock.
///
/// Deadlines and `scheduled` are `SeqCst`: whoever arms stores a deadline and then reads
/// `scheduled`, whoever schedules stores `scheduled` and then reads the deadlines, so one of the
/// two sees the other.
pub(super) struct Timers {
    deadlines: [AtomicU64; 5],
    /// When the schedule will look at this peer; never later than it has to.
    pub(super) scheduled: AtomicU64,
    /// Initiations sent again since the first.
    pub(super) attempts: AtomicU32,
    /// When an initiation or response was last sent.
    last_sent: AtomicU64,
    /// Data came while the keepalive timer ran.
    pub(super) needs_another_keepalive: AtomicBool,
    /// The session has asked for its successor because of its age when receiving.
    pub(super) asked_at_last_minute: AtomicBool,
    /// An initiation is to be sent as soon as a worker comes by.
    pub(super) initiation_wanted: AtomicBool,
    jitter_seed: u64,
}

impl Timers {
    /// For a debugger. The deadlines are in the order of [`Timer`].
    pub(super) const PLACES: Places = places!(
        "Timers",
        deadlines,
        scheduled,
        attempts,
        last_sent,
        needs_another_keepalive,
        initiation_wanted,
    );

    /// All timers idle; peers with different seeds jitter differently.
    pub(super) fn new(jitter_seed: u64) -> Self {
        Self {
            deadlines: core::array::from_fn(|_| AtomicU64::new(NEVER)),
            scheduled: AtomicU64::new(NEVER),
            attempts: AtomicU32::new(0),
            last_sent: AtomicU64::new(NEVER),
            needs_another_keepalive: AtomicBool::new(false),
            asked_at_last_minute: AtomicBool::new(false),
            initiation_wanted: AtomicBool::new(false),
            jitter_seed,
        }
    }

    /// Sets a timer, running or not, to `at`.
    pub(super) fn arm(&self, timer: Timer, at: u64) -> Wants {
        self.deadline(timer).store(at, Ordering::SeqCst);
        self.wants_schedule(at)
    }

    /// Sets a timer to `at` unless it runs. Returns whether it did not, and what is wanted.
    pub(super) fn arm_if_idle(&self, timer: Timer, at: u64) -> (bool, Wants) {
        let deadline = self.deadline(timer);
        // A plain look first, as in `cancel`: under load it runs. Whoever stops it meanwhile might have done so right after.
        let armed = deadline.load(Ordering::SeqCst) == NEVER
            && deadline.compare_exchange(NEVER, at, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        (armed, if armed { self.wants_schedule(at) } else { Wants::NONE })
    }

    /// Stops a timer.
    pub(super) fn cancel(&self, timer: Timer) {
        // A plain look first: on the data path most cancels find nothing, and need not own the
        // cache line.
        if self.deadline(timer).load(Ordering::Relaxed) != NEVER {
            self.deadline(timer).store(NEVER, Ordering::SeqCst);
        }
    }

    /// Stops a timer if it is due and returns whether it was: it fires once, whoever looks.
    pub(super) fn take_due(&self, timer: Timer, now: u64) -> bool {
        let deadline = self.deadline(timer);
        let at = deadline.load(Ordering::SeqCst);
        at <= now
            && deadline.compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Whether a timer runs.
    pub(super) fn is_armed(&self, timer: Timer) -> bool {
        self.deadline(timer).load(Ordering::SeqCst) != NEVER
    }

    /// Stops all timers and forgets everything that was wanted.
    pub(super) fn stop(&self) {
        for timer in Timer::ALL {
            self.cancel(timer);
        }
        // Relaxed, also below: each of these is a fact of its own, none announces another.
        self.attempts.store(0, Ordering::Relaxed);
        self.needs_another_keepalive.store(false, Ordering::Relaxed);
        self.asked_at_last_minute.store(false, Ordering::Relaxed);
        self.initiation_wanted.store(false, Ordering::Relaxed);
        self.forget_last_sent();
    }

    /// The earliest deadline.
    pub(super) fn earliest(&self) -> u64 {
        Timer::ALL
            .map(|timer| self.deadline(timer).load(Ordering::SeqCst))
            .into_iter()
            .fold(NEVER, u64::min)
    }

    /// Asks for an initiation that nobody has retried yet (E1, E13, and rekeys).
    // spec: WG 6.4-c
    pub(super) fn request_new_initiation(&self, now: u64) -> Wants {
        self.attempts.store(0, Ordering::Relaxed);
        self.request_initiation(now)
    }

    /// Asks for an initiation (E2): at once, or when the last handshake message is old enough.
    // spec: WG 6.1-a, WG 6.1-b — a request that comes too early is kept by the retransmit timer,
    // not lost.
    pub(super) fn request_initiation(&self, now: u64) -> Wants {
        match self.may_send_at() {
            at if at > now => {
                self.arm_if_idle(Timer::Retransmit, at.saturating_add(self.jitter(now))).1
            }
            _ => {
                self.initiation_wanted.store(true, Ordering::Relaxed);
                Wants::SERVICE
            }
        }
    }

    /// Claims the right to send an initiation at `now`; at most one caller in [`REKEY_TIMEOUT`]
    /// gets it.
    pub(super) fn claim_initiation(&self, now: u64) -> bool {
        let last = self.last_sent.load(Ordering::Relaxed);
        (last == NEVER || now >= last.saturating_add(nanoseconds(REKEY_TIMEOUT)))
            && self
                .last_sent
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// An initiation leaves (E3), except for the persistent timer.
    // spec: WG 6.4-b, WG 6.1-c
    pub(super) fn initiation_sent(&self, now: u64) {
        self.handshake_sent(now);
        let at = now.saturating_add(nanoseconds(REKEY_TIMEOUT)).saturating_add(self.jitter(now));
        let _scheduled_by_the_caller = self.arm(Timer::Retransmit, at);
    }

    /// An initiation or a response leaves.
    pub(super) fn handshake_sent(&self, now: u64) {
        self.last_sent.store(now, Ordering::Relaxed);
        self.cancel(Timer::Keepalive);
    }

    /// A handshake has completed: nothing is retried any more (E7, E10).
    pub(super) fn handshake_complete(&self) {
        self.cancel(Timer::Retransmit);
        self.attempts.store(0, Ordering::Relaxed);
        self.asked_at_last_minute.store(false, Ordering::Relaxed);
        self.initiation_wanted.store(false, Ordering::Relaxed);
    }

    /// Lets the next initiation go at once.
    pub(super) fn forget_last_sent(&self) {
        self.last_sent.store(NEVER, Ordering::Relaxed);
    }

    /// Data was sent (E8): somebody must answer.
    // spec: WG 6.5-c — sending more does not push it out.
    pub(super) fn data_sent(&self, now: u64) -> Wants {
        let at = now.saturating_add(nanoseconds(NEW_HANDSHAKE_TIMEOUT));
        self.arm_if_idle(Timer::NewHandshake, at.saturating_add(self.jitter(now))).1
    }

    /// Data was received (E11): we must answer. A keepalive is not answered.
    // spec: WG 6.5-b, WG 6.5-e
    pub(super) fn data_received(&self, now: u64) -> Wants {
        let at = now.saturating_add(nanoseconds(KEEPALIVE_TIMEOUT));
        let (armed, wants) = self.arm_if_idle(Timer::Keepalive, at);
        if !armed && !self.needs_another_keepalive.load(Ordering::Relaxed) {
            self.needs_another_keepalive.store(true, Ordering::Relaxed);
        }
        wants
    }

    /// Up to a third of a second that differs between peers and moments. Not a secret.
    pub(super) fn jitter(&self, now: u64) -> u64 {
        self.spread(now, JITTER_MAX)
    }

    /// A time in `[0, within]` that differs between peers and moments.
    pub(super) fn spread(&self, now: u64, within: Duration) -> u64 {
        // SplitMix64's finisher.
        let mut bits = (self.jitter_seed ^ now).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        bits.checked_rem(nanoseconds(within).saturating_add(1)).unwrap_or(0)
    }

    /// When an initiation may be sent at the earliest; 0 is at once.
    fn may_send_at(&self) -> u64 {
        match self.last_sent.load(Ordering::Relaxed) {
            NEVER => 0,
            last => last.saturating_add(nanoseconds(REKEY_TIMEOUT)),
        }
    }

    fn wants_schedule(&self, at: u64) -> Wants {
        if at < self.scheduled.load(Ordering::SeqCst) { Wants::SERVICE } else { Wants::NONE }
    }

    fn deadline(&self, timer: Timer) -> &AtomicU64 {
        let [retransmit, keepalive, new_handshake, erase, persistent] = &self.deadlines;
        match timer {
            Timer::Retransmit => retransmit,
            Timer::Keepalive => keepalive,
            Timer::NewHandshake => new_handshake,
            Timer::Erase => erase,
            Timer::Persistent => persistent,
        }
    }
}

/// A duration as the peers' words hold it.
pub(super) const fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn arming_tells_the_schedule_only_what_it_does_not_know() {
        let timers = Timers::new(1);
        assert_eq!(timers.arm(Timer::Erase, 500), Wants::SERVICE);
        timers.scheduled.store(500, Ordering::SeqCst);
        assert_eq!(timers.arm(Timer::Persistent, 500), Wants::NONE, "it will look then anyway");
        assert_eq!(timers.arm(Timer::Persistent, 499), Wants::SERVICE);
        assert_eq!(timers.arm_if_idle(Timer::Persistent, 1), (false, Wants::NONE));
        assert_eq!(timers.earliest(), 499);
        assert!(!timers.take_due(Timer::Persistent, 498));
        assert!(timers.take_due(Timer::Persistent, 499));
        assert!(!timers.take_due(Timer::Persistent, 499), "it fires once");
        assert_eq!(timers.earliest(), 500);
    }

    // spec-test: WG 6.1-a
    #[test]
    fn initiations_are_five_seconds_apart() {
        let second = 1_000_000_000;
        let timers = Timers::new(1);
        assert_eq!(timers.request_new_initiation(0), Wants::SERVICE);
        assert!(timers.claim_initiation(0));
        assert!(!timers.claim_initiation(5 * second - 1));
        assert!(timers.claim_initiation(5 * second));
        timers.handshake_sent(7 * second);
        let _ = timers.request_new_initiation(8 * second);
        let kept = timers.earliest();
        assert!((12 * second..=12 * second + 333_000_000).contains(&kept), "{kept}");
        timers.forget_last_sent();
        assert!(timers.claim_initiation(8 * second));
    }

    // spec-test: WG 6.1-c
    #[test]
    fn jitter_is_within_a_third_of_a_second_and_varies() {
        let timers = Timers::new(7);
        let jitters: Vec<_> = (0..1000).map(|now| timers.jitter(now * 1_000_003)).collect();
        assert!(jitters.iter().all(|jitter| *jitter <= 333_000_000));
        assert!(jitters.iter().any(|jitter| *jitter > 300_000_000));
        assert!(jitters.iter().any(|jitter| *jitter < 33_000_000));
    }
}
