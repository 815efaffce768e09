//! mac1 of a batch of handshake messages: which of them know our public key. [WG §5.4.4]
//!
//! The check that a flood of forged messages meets first. Eight messages of one length are hashed
//! side by side where the AVX2 registers may be used; what is left over goes one by one. A worker finds
//! the forged ones of a batch before it consumes the others, which are then looked at once more: next to
//! their curve multiplications that is nothing.

use subtle::ConstantTimeEq;

use crate::aead::blake2s::{LANES, MAC_LEN, MacKey};
use crate::aead::{ExtendedState, Tier};
use crate::protocol::messages::{Macs, Message};

/// Most messages of a batch.
pub const BATCH: usize = LANES;

/// Eight side by side take as long as so many one by one, the saving of registers included.
const FEW: usize = 4;

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

    /// Finds forged ones among datagrams, of which the first [`BATCH`] are looked at: bits say which are
    /// initiations or responses with a wrong mac1.
    ///
    /// It says so only where the registers allow several at once, and of a kind there are several.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn forged(&self, state: Option<&ExtendedState>, datagrams: &[&[u8]]) -> u8 {
        if state.is_none_or(|state| state.tier() < Tier::Avx2) {
            return 0;
        }
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
            let Some((_, last)) = found.last().copied().filter(|_| found.len() >= FEW) else {
                continue;
            };
            // Lanes that are left over do the last one again.
            let claims: [Claim<'_>; BATCH] = core::array::from_fn(|lane| {
                let macs = found.get(lane).map_or(last, |(_, macs)| *macs);
                Claim { covered: macs.before_mac1, mac1: macs.mac1 }
            });
            let mut valid = [true; BATCH];
            self.check(state, &claims, &mut valid);
            for ((index, _), valid) in found.iter().zip(valid) {
                forged |= u8::from(!valid).unbounded_shl(*index as u32);
            }
        }
        forged
    }
}

#[cfg(test)]
mod tests;
