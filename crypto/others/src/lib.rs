//! The protocol beside other implementations: what one makes the others take, and what one refuses they all refuse.
//!
//! [`noise`] is a peer that has its cryptography from snow, which knows Noise and nothing of WireGuard; [`seats`] are Penstock
//! and boringtun, each in the same seat at its own table. In [`verdicts`] the peer plays the same game at both tables, and the
//! verdicts are compared, message for message; in [`tunnels`] Penstock and boringtun play with each other over a bad wire.
//! Where they differ by right is written at the place that tells, as *differs*.
//!
//! Both are functions of bytes, for `crypto/fuzz`; `cargo test` gives them the corpora and bytes that are drawn.

#![allow(unreachable_pub, reason = "for crypto/fuzz")]
#![allow(clippy::unwrap_used, reason = "whatever is wrong here has failed")]

#[path = "../../fuzz/src/input.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod input;
#[path = "../../tests/net/mod.rs"]
mod net;
#[cfg_attr(not(test), allow(dead_code, reason = "cookies have tests of their own"))]
mod noise;
mod seats;
pub mod tunnels;
pub mod verdicts;

#[cfg(test)]
mod tests;
