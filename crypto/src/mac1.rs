//! mac1 of a batch of handshake messages: which of them know our public key. [WG §5.4.4]
//!
//! The check that a flood of forged messages meets first. Eight messages of one length are hashed
//! side by side where the AVX2 registers may be used; what is left over goes one by one.

use subtle::ConstantTimeEq;

use crate::aead::ExtendedState;
use crate::aead::blake2s::{LANES, MAC_LEN, MacKey};

/// The key of mac1 for messages to one public key.
pub struct Mac1Key(MacKey);

/// A handshake message to be checked.
#[derive(Clone, Copy)]
pub struct Claim<'m> {
    /// What comes before mac1; not empty.
    pub covered: &'m [u8],
    /// The mac1 it carries.
    pub mac1: &'m [u8; MAC_LEN],
}

impl Mac1Key {
    /// Takes the key: the hash of the label and the public key. The caller wipes its own copy.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(MacKey::new(key))
    }

    /// Says of each claim whether its mac1 is right; those without a place in `valid` are left out.
    ///
    /// `state` is the proof that the extended registers may be used; without it the claims are
    /// checked one by one.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn check(&self, state: Option<&ExtendedState>, claims: &[Claim<'_>], valid: &mut [bool]) {
        for (claims, valid) in claims.chunks(LANES).zip(valid.chunks_mut(LANES)) {
            let macs = claims
                .first_chunk::<LANES>()
                .and_then(|claims| self.0.macs(state, &claims.map(|claim| claim.covered)));
            for (lane, (claim, valid)) in claims.iter().zip(valid).enumerate() {
                let mac = match macs {
                    Some(macs) => macs[lane % LANES],
                    None => self.0.mac(claim.covered),
                };
                *valid = mac.ct_eq(claim.mac1).into();
            }
        }
    }
}

#[cfg(test)]
mod tests;
