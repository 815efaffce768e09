//! Batches by every tier of this machine, against the `blake2` crate.

use std::vec::Vec;

use blake2::Blake2sMac;
use blake2::digest::{FixedOutput, Update, consts::U16};

use super::*;
use crate::aead::tests::tiers;

fn by_the_crate(key: &[u8; 32], message: &[u8]) -> [u8; MAC_LEN] {
    let mut mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(key), &[], &[]).unwrap();
    Update::update(&mut mac, message);
    mac.finalize_fixed().into()
}

/// Every tier of this machine, and none.
fn states() -> Vec<Option<ExtendedState>> {
    tiers().map(Some).chain([None]).collect()
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
                macs[index][if index % 8 == 0 { 0 } else { MAC_LEN - 1 }] ^= 0x80 >> (index % 7);
            }
            let claims: Vec<Claim<'_>> =
                messages.iter().zip(&macs).map(|(covered, mac1)| Claim { covered, mac1 }).collect();
            let mut valid = [true; 21];
            Mac1Key::new(&key).check(state.as_ref(), &claims, &mut valid);
            for (index, valid) in valid.into_iter().enumerate() {
                assert_eq!(valid, index % 4 != 0, "{len} bytes, claim {index}");
            }
        }
    }
}
