//! Every tier this machine has, against the `chacha20poly1305` crate and against fixed vectors.
#![allow(unsafe_code)] // States are assumed, pieces are raw, buffers are mapped by hand.

extern crate std;

mod differential;
mod forgery;
mod guards;
mod interface;
mod stack;
pub(crate) mod trace;
mod vectors;
mod writes;

use std::vec::Vec;

use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::*;

/// The tiers that this machine can run, slowest first. A test process owns its registers.
pub(crate) fn tiers() -> impl Iterator<Item = ExtendedState> {
    let best = detect(u64::MAX);
    Tier::ALL.into_iter().filter(move |tier| *tier <= best).map(|tier| {
        // SAFETY: not above what was detected; the registers are this thread's.
        unsafe { ExtendedState::assume(tier) }
    })
}

/// What the crate makes of it: ciphertext and tag.
fn expected(key: [u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let cipher = chacha20poly1305::ChaCha20Poly1305::new(&key.into());
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut out = text.to_vec();
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &[], out.as_mut_slice().into()).unwrap();
    out.extend_from_slice(&tag);
    out
}

/// A repeatable source of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.next() as u8)
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        // All ones now and then: carries are then as long as they can be.
        if self.below(6) == 0 {
            std::vec![0xff; len]
        } else {
            (0..len).map(|_| self.next() as u8).collect()
        }
    }
}
