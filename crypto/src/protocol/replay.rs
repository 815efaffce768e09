//! The receive window: which counters of a session have been seen. [RFC 6479]
//!
//! A ring of words, not a shifted bit string: moving the window forward clears whole words and
//! never shifts. One word of the ring is always being cleared, so of 8192 bits 8128 are the window.
//!
//! Called once per packet, after its tag has verified, by the one thread that drains this peer;
//! before the tag has verified it must not be called, or anyone could move the window. The words
//! are atomics only so that safe code can share them: each is a plain load or store, and two drains
//! at once would be the caller's mistake (a replay might pass, nothing else). [WG §5.4.6]

use abi::discard::Discard;

use super::limits::{REJECT_AFTER_MESSAGES, WINDOW};
use crate::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 128;
const _: () = assert!(WORDS as u64 * 64 == WINDOW + 64);

/// The counters of one direction of one session.
pub struct ReceiveWindow {
    /// One more than the greatest counter seen; 0 if none was.
    next: AtomicU64,
    /// Bit `c` of the ring, `c` modulo 8192, is set if counter `c` of the window was seen.
    seen: [AtomicU64; WORDS],
}

impl ReceiveWindow {
    /// Where one more than the greatest counter is, for a debugger.
    pub(super) const NEXT: usize = core::mem::offset_of!(Self, next);

    /// A window in which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self { next: AtomicU64::new(0), seen: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Whether the session has received the last counter it may.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        // Relaxed: one thread drains; others see the limit a packet late at worst.
        self.next.load(Ordering::Relaxed) > REJECT_AFTER_MESSAGES
    }

    /// Marks `counter` as seen.
    ///
    /// # Errors
    ///
    /// [`Discard::Replayed`] if it was seen before or is older than the window,
    /// [`Discard::SessionExpired`] if it is at or past the limit of messages; nothing changes then.
    // spec: WG 5.4.6-f, WG 5.4.6-g
    pub fn accept(&self, counter: u64) -> Result<(), Discard> {
        // Relaxed throughout: only the drain owner comes here, and handing that ownership on orders
        // memory.
        let next = self.next.load(Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Discard::SessionExpired);
        }
        // `next` is one past the greatest seen, hence strictly more than the window behind it.
        if counter.saturating_add(WINDOW) < next.saturating_sub(1) {
            return Err(Discard::Replayed);
        }
        if counter >= next {
            self.clear_between(next, counter);
            self.next.store(counter.saturating_add(1), Ordering::Relaxed);
        }
        let Some(word) = self.seen.get(word_of(counter)) else { return Err(Discard::Replayed) };
        let bit = 1 << (counter % 64);
        let seen = word.load(Ordering::Relaxed);
        if seen & bit != 0 {
            return Err(Discard::Replayed);
        }
        word.store(seen | bit, Ordering::Relaxed);
        Ok(())
    }

    /// Clears the words entered by moving from `next - 1` to `counter`.
    fn clear_between(&self, next: u64, counter: u64) {
        // Nothing seen yet means word 0 is the one we are in.
        let from = next.saturating_sub(1) / 64;
        let words = (counter / 64).saturating_sub(from).min(WORDS as u64);
        for step in 1..=words {
            if let Some(word) = self.seen.get(from.wrapping_add(step) as usize % WORDS) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// The ring's word that holds `counter`.
fn word_of(counter: u64) -> usize {
    (counter / 64) as usize % WORDS
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const L: u64 = REJECT_AFTER_MESSAGES;
    const M: u64 = WINDOW + 1;

    fn run(rows: &[(u64, bool)]) {
        let window = ReceiveWindow::new();
        for (row, (counter, fresh)) in rows.iter().enumerate() {
            assert_eq!(window.accept(*counter).is_ok(), *fresh, "row {row}: {counter}");
        }
    }

    /// The case list every WireGuard of the kernel family runs, with our limit.
    // spec-test: WG 5.4.6-f, WG 5.4.6-g
    #[test]
    fn the_kernel_self_test_list() {
        #[rustfmt::skip]
        run(&[
            (0, true), (1, true), (1, false), (9, true), (8, true), (7, true), (7, false),
            (M, true), (M - 1, true), (M - 1, false), (M - 2, true), (2, true), (2, false),
            (M + 16, true), (3, false), (M + 16, false), (M * 4, true), (M * 4 - (M - 1), true),
            (10, false), (M * 4 - M, false), (M * 4 - (M + 1), false), (M * 4 - (M - 2), true),
            (M * 4 + 1 - M, false), (0, false), (L, false), (L - 1, true), (L, false),
            (L - 1, false), (L - 2, true), (L + 1, false), (L + 2, false), (L - 2, false),
            (L - 3, true), (0, false),
        ]);
    }

    #[test]
    fn the_kernel_self_test_sweeps() {
        let rows = |counters: &mut dyn Iterator<Item = u64>, end: &[(u64, bool)]| {
            let mut rows: Vec<_> = counters.map(|counter| (counter, true)).collect();
            rows.extend_from_slice(end);
            run(&rows);
        };
        rows(&mut (1..=WINDOW), &[(0, true), (0, false)]);
        rows(&mut (2..=WINDOW + 1), &[(1, true), (0, false)]);
        rows(&mut (0..=WINDOW).rev(), &[]);
        rows(&mut (1..=WINDOW + 1).rev(), &[(0, false)]);
        rows(&mut (1..=WINDOW).rev(), &[(WINDOW + 1, true), (0, false)]);
        rows(&mut (1..=WINDOW).rev(), &[(0, true), (WINDOW + 1, true)]);
    }

    #[test]
    fn reasons_are_told_apart() {
        let window = ReceiveWindow::new();
        assert_eq!(window.accept(L), Err(Discard::SessionExpired));
        assert_eq!(window.accept(u64::MAX), Err(Discard::SessionExpired));
        assert_eq!(window.accept(5), Ok(()));
        assert_eq!(window.accept(5), Err(Discard::Replayed));
        assert!(!window.is_exhausted());
        assert_eq!(window.accept(L - 1), Ok(()));
        assert!(!window.is_exhausted(), "L - 1 is the last that may be sent");
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            base in prop_oneof![Just(0), Just(1_u64 << 32), Just(L - 40_000)],
            offsets in proptest::collection::vec(0_u64..30_000, 1..300),
        ) {
            let window = ReceiveWindow::new();
            let mut seen = HashSet::new();
            let mut greatest = 0;
            for offset in offsets {
                let counter = base + offset;
                let fresh = counter + WINDOW >= greatest && seen.insert(counter);
                prop_assert_eq!(window.accept(counter).is_ok(), fresh, "{}", counter);
                if fresh {
                    greatest = greatest.max(counter);
                }
            }
        }
    }
}
