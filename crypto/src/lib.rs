//! WireGuard without I/O, clock or randomness.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aead;
pub mod pipeline;
pub mod protocol;
pub mod sync;
