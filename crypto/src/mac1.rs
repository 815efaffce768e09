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
#[allow(unsafe_code)] // A state is assumed.
mod tests {
    use std::vec::Vec;

    use blake2::Blake2sMac;
    use blake2::digest::{FixedOutput, Update, consts::U16};

    use super::*;
    use crate::aead::{Tier, detect};

    fn by_the_crate(key: &[u8; 32], message: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(key), &[], &[]).unwrap();
        Update::update(&mut mac, message);
        mac.finalize_fixed().into()
    }

    /// Every tier of this machine, and none.
    fn states() -> Vec<Option<ExtendedState>> {
        let best = detect(u64::MAX);
        let tiers = Tier::ALL.into_iter().filter(|tier| *tier <= best);
        // SAFETY: not above what was detected; the registers are this thread's.
        tiers.map(|tier| Some(unsafe { ExtendedState::assume(tier) })).chain([None]).collect()
    }

    #[test]
    fn batches_agree_with_the_crate() {
        let lens = [1_usize, 4, 60, 63, 64, 65, 116, 127, 128, 129, 300];
        for state in &states() {
            for (round, len) in lens.into_iter().enumerate() {
                let key: [u8; 32] = core::array::from_fn(|at| (at * 7 + round) as u8);
                let messages: Vec<Vec<u8>> = (0..21)
                    // The last group has a length that is not the others'.
                    .map(|index| {
                        (0..len + index / 16 * (index % 3))
                            .map(|at| (at * 31 + index * 5) as u8)
                            .collect()
                    })
                    .collect();
                let mut macs: Vec<[u8; MAC_LEN]> =
                    messages.iter().map(|message| by_the_crate(&key, message)).collect();
                // Wrong in one bit, in the first byte or the last.
                for index in (0..21).step_by(4) {
                    macs[index][if index % 8 == 0 { 0 } else { MAC_LEN - 1 }] ^=
                        0x80 >> (index % 7);
                }
                let claims: Vec<Claim<'_>> = messages
                    .iter()
                    .zip(&macs)
                    .map(|(covered, mac1)| Claim { covered, mac1 })
                    .collect();
                let mut valid = [true; 21];
                Mac1Key::new(&key).check(state.as_ref(), &claims, &mut valid);
                for (index, valid) in valid.into_iter().enumerate() {
                    assert_eq!(valid, index % 4 != 0, "{len} bytes, claim {index}");
                }
            }
        }
    }
}
