//! Fixed answers that share no code with this crate or with any other.

use std::vec;
use std::vec::Vec;

use super::*;

const VECTORS: &str = include_str!("../../../tests/vectors/aead.txt");

struct Vector {
    why: &'static str,
    key: [u8; 32],
    counter: u64,
    text: Vec<u8>,
    sealed: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let (source, rest) = VECTORS.split_once("\n\n").unwrap();
    assert!(source.starts_with("source: "));
    rest.split("\n\n").filter(|record| !record.trim().is_empty()).map(parse).collect()
}

fn parse(record: &'static str) -> Vector {
    let field = |name: &str| {
        let line = record.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line[name.len()..].trim()
    };
    let hex = |name: &str| -> Vec<u8> {
        let digits = field(name);
        assert_eq!(digits.len() % 2, 0);
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect()
    };
    Vector {
        why: field("why"),
        key: hex("key").try_into().unwrap(),
        counter: field("counter").parse().unwrap(),
        text: hex("text"),
        sealed: hex("sealed"),
    }
}

#[test]
fn every_vector_by_every_tier_alone_and_together() {
    let vectors = vectors();
    assert!(vectors.len() > 50, "{} vectors", vectors.len());
    let keys: Vec<Key> = vectors.iter().map(|vector| Key::new(vector.key)).collect();
    for state in tiers() {
        for batch in [1, 7, 64] {
            for opens in [false, true] {
                let mut buffers: Vec<Vec<u8>> = vectors
                    .iter()
                    .map(|vector| {
                        if opens {
                            vector.sealed.clone()
                        } else {
                            [&vector.text[..], &[0; TAG_LEN]].concat()
                        }
                    })
                    .collect();
                let mut jobs: Vec<Job<'_>> = Vec::new();
                for ((vector, key), buffer) in vectors.iter().zip(&keys).zip(&mut buffers) {
                    let len = vector.text.len() + if opens { TAG_LEN } else { 0 };
                    jobs.push(Job {
                        key,
                        counter: vector.counter,
                        source: Source::InPlace { len },
                        destination: buffer,
                        verdict: Verdict::Pending,
                    });
                }
                for jobs in jobs.chunks_mut(batch) {
                    if opens {
                        open(Some(&state), jobs)
                    } else {
                        seal(Some(&state), jobs)
                    };
                }
                for (vector, job) in vectors.iter().zip(&jobs) {
                    let what = (state.tier(), batch, opens, vector.why);
                    assert_eq!(job.verdict, Verdict::Done, "{what:?}");
                    let want = if opens { &vector.text } else { &vector.sealed };
                    assert!(job.destination[..want.len()] == want[..], "{what:?}");
                }
            }
        }
    }
}

/// A tag that belongs to the sum not reduced, or reduced once too often, is refused.
#[test]
fn a_tag_beside_the_right_one_is_refused() {
    for state in tiers() {
        for vector in vectors().iter().filter(|vector| vector.why.starts_with("sum ")) {
            let key = Key::new(vector.key);
            let right = u128::from_le_bytes(*vector.sealed.last_chunk().unwrap());
            for off in [1, 4, 5, 1 << 64, 5 << 64, u128::MAX, u128::MAX - 4] {
                let mut buffer = vector.sealed.clone();
                *buffer.last_chunk_mut().unwrap() = right.wrapping_add(off).to_le_bytes();
                let len = buffer.len();
                let mut jobs = vec![Job {
                    key: &key,
                    counter: vector.counter,
                    source: Source::InPlace { len },
                    destination: &mut buffer,
                    verdict: Verdict::Pending,
                }];
                open(Some(&state), &mut jobs);
                assert_eq!(jobs[0].verdict, Verdict::Forged, "{:?} {}", state.tier(), vector.why);
            }
        }
    }
}
