//! Nothing that is not authentic is opened, whatever bit is wrong and whatever changes meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::vec;
use std::vec::Vec;

use super::*;

#[test]
fn every_single_bit_is_refused() {
    let key_bytes = [0xb1; 32];
    let key = Key::new(key_bytes);
    let lens: &[usize] = if cfg!(debug_assertions) {
        &[0, 17, 65]
    } else {
        &[0, 1, 15, 16, 17, 63, 64, 65, 200, 600]
    };
    for state in tiers() {
        for &len in lens {
            let sealed = expected(key_bytes, 7, &vec![0x5a; len]);
            // Alone, and as one lane of many.
            for count in [1, 16] {
                for bit in 0..8 * sealed.len() {
                    let victim = bit % count;
                    let mut buffers = vec![sealed.clone(); count];
                    buffers[victim][bit / 8] ^= 1 << (bit % 8);
                    let mut jobs: Vec<Job<'_>> = buffers
                        .iter_mut()
                        .map(|buffer| Job {
                            key: &key,
                            counter: 7,
                            source: Source::InPlace { len: sealed.len() },
                            destination: buffer,
                            verdict: Verdict::Pending,
                        })
                        .collect();
                    open(Some(&state), &mut jobs);
                    for (index, job) in jobs.iter().enumerate() {
                        let forged = index == victim;
                        let want = if forged { Verdict::Forged } else { Verdict::Done };
                        assert_eq!(job.verdict, want, "{:?}, {len} bytes, bit {bit}", state.tier());
                        let byte = if forged { 0 } else { 0x5a };
                        assert!(job.destination[..len].iter().all(|found| *found == byte));
                    }
                }
            }
        }
    }
}

/// Packets long enough that some are authenticated beside the rounds of others.
#[test]
fn forged_packets_among_long_ones_are_refused_and_the_others_opened() {
    let rounds = if cfg!(debug_assertions) { 20 } else { 200 };
    let random = &mut Random(0x51ed_270b);
    for state in tiers() {
        for round in 0..rounds {
            let (count, spread) = (9 + random.below(12), [1, 16, 300][round % 3]);
            let shortest = [400, 900, 1024, 1420, 4000][random.below(5)];
            let forged = if round % 4 == 0 { 0 } else { random.next() };
            let key = random.bytes();
            let texts: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let len = shortest + random.below(spread);
                    random.text(len)
                })
                .collect();
            let mut buffers: Vec<Vec<u8>> = Vec::new();
            for (index, text) in texts.iter().enumerate() {
                let mut sealed = expected(key, index as u64, text);
                if forged >> index & 1 == 1 {
                    let at = random.below(sealed.len());
                    sealed[at] ^= 1 << random.below(8);
                }
                buffers.push(sealed);
            }
            let key = Key::new(key);
            let mut jobs: Vec<Job<'_>> = (buffers.iter_mut().enumerate())
                .map(|(index, buffer)| Job {
                    key: &key,
                    counter: index as u64,
                    source: Source::InPlace { len: buffer.len() },
                    destination: buffer,
                    verdict: Verdict::Pending,
                })
                .collect();
            open(Some(&state), &mut jobs);
            let verdicts: Vec<Verdict> = jobs.iter().map(|job| job.verdict).collect();
            for (index, text) in texts.iter().enumerate() {
                let is_forged = forged >> index & 1 == 1;
                let wanted = if is_forged { Verdict::Forged } else { Verdict::Done };
                assert_eq!(verdicts[index], wanted, "{:?} {index}", state.tier());
                let text = if is_forged { std::vec![0; text.len()] } else { text.clone() };
                assert!(buffers[index][..text.len()] == text[..], "{:?} {index}", state.tier());
            }
        }
    }
}

#[test]
fn another_counter_or_key_is_refused() {
    let sealed = expected([1; 32], 1 << 32, b"datagram");
    for state in tiers() {
        for (key, counter, verdict) in [
            ([1; 32], 1 << 32, Verdict::Done),
            ([1; 32], 0, Verdict::Forged),
            ([1; 32], (1 << 32) + 1, Verdict::Forged),
            ([2; 32], 1 << 32, Verdict::Forged),
        ] {
            let key = Key::new(key);
            let mut buffer = sealed.clone();
            let mut jobs = [Job {
                key: &key,
                counter,
                source: Source::InPlace { len: sealed.len() },
                destination: &mut buffer,
                verdict: Verdict::Pending,
            }];
            open(Some(&state), &mut jobs);
            assert_eq!(jobs[0].verdict, verdict, "{:?}", state.tier());
        }
    }
}

/// One thread keeps flipping a byte of the source while another seals and opens from it.
#[test]
fn a_source_that_changes_cannot_split_tag_and_text() {
    let key_bytes = [0xc4; 32];
    let key = Key::new(key_bytes);
    let rounds = if cfg!(debug_assertions) { 300 } else { 4000 };
    for state in tiers() {
        for count in [1, 16] {
            let text = vec![0x33; 333];
            let sealed = expected(key_bytes, 9, &text);
            let shared: Vec<AtomicU8> = sealed.iter().map(|byte| AtomicU8::new(*byte)).collect();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        shared[200].fetch_xor(0x80, Ordering::Relaxed);
                        shared[201].fetch_xor(0x01, Ordering::Relaxed);
                    }
                });
                // Also when an assertion fails: the other thread would never end.
                let _stop = Stop(&stop);
                for _ in 0..rounds {
                    race(&state, &key, key_bytes, &shared, &text, count);
                }
            });
        }
    }
}

/// Stops the other thread when dropped.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens and seals from bytes that another thread changes.
fn race(
    state: &ExtendedState,
    key: &Key,
    key_bytes: [u8; 32],
    shared: &[AtomicU8],
    text: &[u8],
    count: usize,
) {
    // SAFETY: the bytes outlive the jobs and are not their destination; that they change is what
    // raw pieces allow.
    let whole = [unsafe { Piece::from_raw(shared.as_ptr().cast(), shared.len()) }];
    let mut outs = vec![vec![0xee; text.len()]; count];
    let mut jobs: Vec<Job<'_>> = outs.iter_mut().map(|out| raw_job(key, &whole, out)).collect();
    open(Some(state), &mut jobs);
    for job in &jobs {
        match job.verdict {
            Verdict::Done => assert!(job.destination[..] == *text, "{:?}", state.tier()),
            Verdict::Forged => assert!(job.destination.iter().all(|byte| *byte == 0)),
            Verdict::Pending => panic!("not run"),
        }
    }
    let mut outs = vec![vec![0; shared.len() + TAG_LEN]; count];
    let mut jobs: Vec<Job<'_>> = outs.iter_mut().map(|out| raw_job(key, &whole, out)).collect();
    seal(Some(state), &mut jobs);
    for out in outs {
        // Whatever was read is what was authenticated: the crate opens it, and finds what the
        // source was at some moment.
        let mut back = out[..shared.len()].to_vec();
        let stream = expected(key_bytes, 9, &vec![0; back.len()]);
        back.iter_mut().zip(&stream).for_each(|(byte, stream)| *byte ^= stream);
        assert!(
            expected(key_bytes, 9, &back) == out,
            "{:?}: the tag is of other bytes",
            state.tier()
        );
    }
}

fn raw_job<'a>(key: &'a Key, pieces: &'a [Piece<'a>], destination: &'a mut [u8]) -> Job<'a> {
    let source = Source::Pieces(pieces);
    Job { key, counter: 9, source, destination, verdict: Verdict::Pending }
}
