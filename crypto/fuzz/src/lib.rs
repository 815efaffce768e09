//! What is fuzzed, a file each: a function of bytes that panics where something clever and something stupid disagree.
//!
//! `fuzz_targets/` gives them to libFuzzer; `crypto/tests/fuzz_corpus.rs` takes this file as a module and runs what was
//! found worth keeping again, with plain `cargo test`. Beside these stands [`uapi.rs`](../src/uapi.rs), which needs the simulator.

#![allow(unreachable_pub, dead_code, reason = "a library here, a module of a test there")]
#![allow(clippy::unwrap_used, reason = "whatever is wrong here has failed")]

pub mod aead_batch;
pub mod allowed_ips;
pub mod configuration;
pub mod messages;
#[path = "../../tests/net/mod.rs"]
mod net;
pub mod replay;
pub mod tunnel;

/// Bytes as choices; zeros when they have run out.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(u16::from_le_bytes(self.bytes())) % limit
    }

    /// The next `count` bytes, or as many as there are.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
