//! mac1 of forged initiations, in batches, against the `blake2` crate one by one.

use std::hint::black_box;
use std::time::{Duration, Instant};

use blake2::Blake2sMac;
use blake2::digest::{FixedOutput, Update, consts::U16};
use crypto::aead::Tier;
use crypto::mac1::{Claim, Mac1Key};

use super::{Row, median, state};

/// Messages in a sample.
const MESSAGES: usize = 64;
/// What mac1 covers of an initiation.
const COVERED: usize = 116;

/// Interleaved rounds of both, then the medians.
pub(super) fn measure(tier: Tier) -> Row {
    let state = state(tier);
    let (raw, forged) = ([7; 32], [0; 16]);
    let key = Mac1Key::new(&raw);
    let messages: Vec<[u8; COVERED]> = (0..MESSAGES).map(|index| [index as u8; COVERED]).collect();
    let claims: Vec<Claim<'_>> =
        messages.iter().map(|covered| Claim { covered, mac1: &forged }).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(350) {
        let mut valid = [true; MESSAGES];
        let start = Instant::now();
        key.check(Some(&state), black_box(&claims), &mut valid);
        ours.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(valid, [false; MESSAGES]);
        let start = Instant::now();
        for message in black_box(&messages) {
            let mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(&raw), &[], &[]);
            let mut mac = mac.expect("a key of 32 bytes");
            Update::update(&mut mac, message);
            black_box(mac.finalize_fixed()[..] == forged);
        }
        theirs.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!(
        "mac1, refused: ours {ours:.1}  blake2 {theirs:.1} ({:.2}x), {:.1} million a second",
        theirs / ours,
        1e3 / ours
    );
    let (what, size) = ("mac1, refused".into(), COVERED.to_string());
    Row { what, size, unit: "ns/message", ours, peer: "blake2", theirs }
}
