//! What the built `penstock.sys` says about itself without being run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod aead;
mod code;
mod curve25519;
mod natvis;
mod panics;
mod rules;
