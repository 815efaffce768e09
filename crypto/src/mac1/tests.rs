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

/// A message of this type and length, whose mac1 is right.
fn genuine(key: &[u8; 32], kind: u8, len: usize, fill: u8) -> Vec<u8> {
    let mut message = std::vec![fill; len];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    let mac1 = by_the_crate(key, &message[..len - 32]);
    message[len - 32..len - 16].copy_from_slice(&mac1);
    message
}

// spec-test: WG 5.3-a
#[test]
fn forged_ones_of_a_batch_are_found() {
    let raw = [9; 32];
    let key = Mac1Key::new(&raw);
    // What they are, which are forged, and what is found.
    for (kinds, wrong, found, why) in [
        ("iiiiiiii", 0b1111_1111, 0b1111_1111, "a flood"),
        ("iiiiiiii", 0b0101_1010, 0b0101_1010, "some"),
        ("iiiiiiii", 0, 0, "none"),
        ("iiii", 0b0101, 0b0101, "half a batch"),
        ("iii", 0b101, 0b101, "few"),
        ("i", 1, 1, "one"),
        ("", 0, 0, "none at all"),
        ("irirriir", 0b1100_0111, 0b1100_0111, "four of each"),
        ("iiiiirrr", 0b1101_1111, 0b1101_1111, "few of one"),
        ("xiixtici", 0b1111_1111, 0b1010_0110, "others between, of which nothing is said"),
        ("iiiiiiiiii", 0b1111_1111, 0b1111_1111, "more than a batch"),
    ] {
        let messages: Vec<Vec<u8>> = kinds
            .chars()
            .enumerate()
            .map(|(index, kind)| {
                let mut message = match kind {
                    'i' => genuine(&raw, 1, 148, index as u8),
                    'r' => genuine(&raw, 2, 92, index as u8),
                    'c' => genuine(&raw, 3, 64, index as u8),
                    't' => genuine(&raw, 4, 148, index as u8),
                    _ => genuine(&raw, 1, 147, index as u8),
                };
                if wrong >> index & 1 == 1 {
                    let mac1 = message.len() - 32;
                    message[mac1 + index % 16] ^= 1 << (index % 8);
                }
                message
            })
            .collect();
        let datagrams: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        for state in &states() {
            let tier = state.as_ref().map(ExtendedState::tier);
            assert_eq!(key.forged(state.as_ref(), &datagrams), found, "{tier:?}: {why}");
        }
    }
}
