//! Fault injection: every call that Windows may fail is counted, and the chosen one fails.
//!
//! A test runs a scenario with `fail_at(0)`, `fail_at(1)` and so on until a run has fewer such calls: then every single
//! failure has been seen. [`Faults::refuse`] has one function fail for as long as the test likes.
//!
//! Late is a fault, too: [`Faults::slow`] and [`Faults::stall`] keep a CPU in the middle of driver code, where it calls one
//! function.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::verifier::schedule::lock;

/// See the module.
#[derive(Debug)]
pub struct Faults {
    count: AtomicU64,
    at: AtomicU64,
    struck: Mutex<Option<&'static str>>,
    refused: Mutex<Option<&'static str>>,
    delays: AtomicBool,
    delayed: Mutex<Vec<Delayed>>,
    stalled: AtomicU64,
}

/// A function whose calls take time.
#[derive(Debug)]
struct Delayed {
    function: &'static str,
    /// Calls before the one that takes it; `None` if each does.
    before: Option<u64>,
    time: Duration,
}

/// How long a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    /// At most so long.
    Upto(Duration),
    /// So long.
    For(Duration),
}

impl Default for Faults {
    fn default() -> Self {
        let (count, at) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let (struck, refused, delays) = Default::default();
        let (delayed, stalled) = Default::default();
        Self { count, at, struck, refused, delays, delayed, stalled }
    }
}

impl Faults {
    /// Counts one call, of the function `name`, that may fail; true if it is the one that shall.
    pub(crate) fn strikes(&self, name: &'static str) -> bool {
        let strikes = self.count.fetch_add(1, Ordering::Relaxed) == self.at.load(Ordering::Relaxed)
            || *lock(&self.refused) == Some(name);
        if strikes {
            *lock(&self.struck) = Some(name);
        }
        strikes
    }

    /// The `n`th call from now on (0: the next) fails, no other.
    pub fn fail_at(&self, n: u64) {
        *lock(&self.struck) = None;
        self.count.store(0, Ordering::Relaxed);
        self.at.store(n, Ordering::Relaxed);
    }

    /// The function whose call has failed since [`Faults::fail_at`].
    pub fn struck(&self) -> Option<&'static str> {
        *lock(&self.struck)
    }

    /// Every call of the function `name` fails from now on, until [`Faults::never`].
    pub fn refuse(&self, name: &'static str) {
        *lock(&self.refused) = Some(name);
    }

    /// From now on each call of the function `name` takes up to `time`, at whichever IRQL, and the other CPUs go on meanwhile, in
    /// Virtual mode, too: so what the driver does there takes time. They would spin for ever for a lock that
    /// is held, so `name` is to be a function that is called with none.
    pub fn slow(&self, name: &'static str, time: Duration) {
        self.delay(Delayed { function: name, before: None, time });
    }

    /// The CPU that makes the `n`th call of the function `name` from now on (0: the next) stops there for `time`, as in
    /// [`Faults::slow`]: an interrupt that does not end, or a hypervisor that runs another machine.
    pub fn stall(&self, name: &'static str, n: u64, time: Duration) {
        self.delay(Delayed { function: name, before: Some(n), time });
    }

    fn delay(&self, delayed: Delayed) {
        lock(&self.delayed).push(delayed);
        self.delays.store(true, Ordering::Release);
    }

    /// How long a call of the function `name` takes.
    pub(crate) fn delay_of(&self, name: &'static str) -> Option<Delay> {
        if !self.delays.load(Ordering::Acquire) {
            return None;
        }
        let mut all = lock(&self.delayed);
        let (mut delay, mut over) = (None, None);
        for (at, one) in all.iter_mut().enumerate().filter(|(_, one)| one.function == name) {
            match &mut one.before {
                None => delay = delay.or(Some(Delay::Upto(one.time))),
                Some(0) => (delay, over) = (Some(Delay::For(one.time)), Some(at)),
                Some(before) => *before -= 1,
            }
        }
        if let Some(at) = over {
            all.swap_remove(at);
            self.stalled.fetch_add(1, Ordering::Relaxed);
        }
        delay
    }

    /// How many calls have stalled so far.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    /// No call fails.
    pub fn never(&self) {
        *lock(&self.refused) = None;
        self.at.store(u64::MAX, Ordering::Relaxed);
    }

    /// Calls that could have failed since [`Faults::fail_at`].
    pub fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Delay, Faults};

    #[test]
    fn exactly_the_chosen_call_fails() {
        let faults = Faults::default();
        assert!(!faults.strikes("call"));
        faults.fail_at(2);
        assert_eq!([(); 4].map(|()| faults.strikes("call")), [false, false, true, false]);
        assert_eq!(faults.struck(), Some("call"));
        faults.fail_at(0);
        assert_eq!(faults.struck(), None);
        assert!(faults.strikes("call"));
        faults.never();
        assert!(!faults.strikes("call"));
        faults.refuse("call");
        assert_eq!(["call", "other", "call"].map(|name| faults.strikes(name)), [true, false, true]);
        faults.never();
        assert!(!faults.strikes("call"));
    }

    #[test]
    fn the_chosen_call_stalls_and_the_others_are_slow() {
        let (faults, slow, long) =
            (Faults::default(), Duration::from_micros(1), Duration::from_secs(1));
        assert_eq!(faults.delay_of("call"), None);
        faults.stall("call", 1, long);
        faults.slow("call", slow);
        let delays = ["call", "other", "call", "call"].map(|name| faults.delay_of(name));
        let slow = Some(Delay::Upto(slow));
        assert_eq!(delays, [slow, None, Some(Delay::For(long)), slow]);
        assert_eq!(faults.stalled(), 1);
    }
}
