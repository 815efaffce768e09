//! mac1 of a batch of handshake messages: which of them know our public key. [WG §5.4.4]
//!
//! The check that a flood of forged messages meets first. Eight messages of one length are hashed
//! side by side where the AVX2 registers may be used; what is left over goes one by one.

use subtle::ConstantTimeEq;

use crate::aead::blake2s::{LANES, MAC_LEN, MacKey};
use crate::aead::{ExtendedState, Tier};
use crate::protocol::messages::{Macs, Message};

/// Most messages of a batch.
pub const BATCH: usize = LANES;

/// Eight side by side take as long as so many one by one.
const FEW: usize = 4;

/// Whether of so many messages several are looked at side by side, if the registers may be used.
#[must_use]
pub const fn is_worth_state(messages: usize) -> bool {
    messages >= FEW
}

/// The key of mac1 for messages to one public key.
#[derive(Clone)]
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

    /// The mac1 of a message of which this comes before it; not empty.
    pub(crate) fn mac(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        self.0.mac(covered)
    }

    /// Whether a message's mac1 is right.
    // spec: WG 5.3-a, WG 5.4-k
    pub(crate) fn is_valid(&self, macs: &Macs<'_>) -> bool {
        are_same(&self.mac(macs.before_mac1), macs.mac1)
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
                *valid = are_same(&mac, claim.mac1);
            }
        }
    }

    /// Finds forged ones among datagrams, of which the first [`BATCH`] are looked at: bits say which are
    /// initiations or responses with a wrong mac1.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn forged(&self, state: Option<&ExtendedState>, datagrams: &[&[u8]]) -> u8 {
        let is_wide = state.is_some_and(|state| state.tier() >= Tier::Avx2);
        let mut forged = 0;
        for responses in [false, true] {
            let mut found: heapless::Vec<(usize, Macs<'_>), BATCH> = heapless::Vec::new();
            for (index, datagram) in datagrams.iter().enumerate().take(BATCH) {
                let macs = match Message::parse(datagram) {
                    Ok(Message::Initiation(message)) if !responses => message.macs,
                    Ok(Message::Response(message)) if responses => message.macs,
                    _ => continue,
                };
                // There is room: no more are looked at.
                let _ = found.push((index, macs));
            }
            let Some((_, last)) = found.last().copied() else { continue };
            // Lanes that are left over do the last one again.
            let claims: [Claim<'_>; BATCH] = core::array::from_fn(|lane| {
                let macs = found.get(lane).map_or(last, |(_, macs)| *macs);
                Claim { covered: macs.before_mac1, mac1: macs.mac1 }
            });
            let lanes = if is_wide && is_worth_state(found.len()) { BATCH } else { found.len() };
            let mut valid = [true; BATCH];
            self.check(state, claims.get(..lanes).unwrap_or_default(), &mut valid);
            for ((index, _), valid) in found.iter().zip(valid) {
                forged |= u8::from(!valid).unbounded_shl(*index as u32);
            }
        }
        forged
    }
}

/// Compares two MACs in constant time: as one number, where byte by byte would take a third as long as a MAC.
fn are_same(one: &[u8; MAC_LEN], other: &[u8; MAC_LEN]) -> bool {
    let differs = u128::from_le_bytes(*one) ^ u128::from_le_bytes(*other);
    (differs as u64 | (differs >> 64) as u64).ct_eq(&0).into()
}

#[cfg(test)]
mod tests;
