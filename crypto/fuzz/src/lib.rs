//! What is fuzzed, a file each: a function of bytes that panics where something clever and something stupid disagree.
//!
//! `fuzz_targets/` gives them to libFuzzer; `crypto/tests/fuzz_corpus.rs` takes this file as a module and runs what was
//! found worth keeping again, with plain `cargo test`. Beside these stands [`uapi.rs`](../src/uapi.rs), which needs the simulator.

#![allow(unreachable_pub, dead_code, reason = "a library here, a module of a test there")]
#![allow(clippy::unwrap_used, reason = "whatever is wrong here has failed")]

pub mod aead_batch;
pub mod allowed_ips;
pub mod configuration;
mod input;
pub mod messages;
#[path = "../../tests/net/mod.rs"]
mod net;
pub mod replay;
pub mod tunnel;

pub use input::Input;
