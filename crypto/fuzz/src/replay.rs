//! The receive window against a set of all counters it took.

use std::collections::HashSet;

use crypto::protocol::{
    limits::{REJECT_AFTER_MESSAGES, WINDOW},
    replay::ReceiveWindow,
};

use super::Input;

/// Runs counters that begin anywhere and go on in steps, small and large, forth and back.
///
/// # Panics
///
/// If the window and the set disagree.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let window = ReceiveWindow::new();
    let mut seen = HashSet::new();
    let mut greatest = 0;
    let mut counter = u64::from_le_bytes(input.bytes());
    while !input.is_empty() {
        let expected = counter < REJECT_AFTER_MESSAGES
            && counter.saturating_add(WINDOW) >= greatest
            && seen.insert(counter);
        assert_eq!(window.accept(counter).is_ok(), expected, "{counter} after {greatest}");
        if expected {
            greatest = greatest.max(counter);
        }
        assert!(!window.is_exhausted());
        let step = u64::from(u16::from_le_bytes(input.bytes()));
        counter = match step >> 14 {
            0 => counter.wrapping_add(step & 0xFF),
            1 => counter.wrapping_add(step & 0x3FFF),
            2 => greatest.wrapping_sub(step & 0x3FFF),
            _ => counter.wrapping_add(1 << (step & 63)),
        };
    }
}
