//! Fault injection: every call that Windows may fail is counted, and the chosen one fails.
//!
//! A test runs a scenario with `fail_at(0)`, `fail_at(1)` and so on until a run has fewer such calls: then every single
//! failure has been seen. [`Faults::refuse`] has one function fail for as long as the test likes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::verifier::schedule::lock;

/// See the module.
#[derive(Debug)]
pub struct Faults {
    count: AtomicU64,
    at: AtomicU64,
    struck: Mutex<Option<&'static str>>,
    refused: Mutex<Option<&'static str>>,
}

impl Default for Faults {
    fn default() -> Self {
        let (count, at) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { count, at, struck: Mutex::default(), refused: Mutex::default() }
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
    use super::Faults;

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
}
