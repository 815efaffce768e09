//! The bare AEAD on one thread and on two.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crypto::aead::{self, ExtendedState, Job, Key, Piece, Source, TAG_LEN, Verdict, detect};

/// Packets of one call, as many as a chunk has.
const CHUNK: usize = 32;
const SLOT: usize = 2048 + 64;

/// Packets of `size` bytes that `threads` threads seal in a second together, each with its own memory.
pub(super) fn sealed_a_second(threads: usize, size: usize, time: Duration) -> f64 {
    let barrier = Barrier::new(threads);
    let tier = detect(u64::MAX);
    std::thread::scope(|scope| {
        let work = || {
            // SAFETY: the tier that was detected; the registers are this process's.
            let state = unsafe { ExtendedState::assume(tier) };
            let key = Key::new([7; 32]);
            let source = vec![0x5A; CHUNK * SLOT];
            let mut slots = vec![0; CHUNK * SLOT];
            barrier.wait();
            let begun = Instant::now();
            let mut counter = 0;
            while begun.elapsed() < time {
                let pieces: [[Piece<'_>; 1]; CHUNK] =
                    std::array::from_fn(|n| [source[n * SLOT..][..size].into()]);
                let mut rooms = slots.chunks_mut(SLOT);
                let mut jobs: [Job<'_>; CHUNK] = std::array::from_fn(|n| Job {
                    key: &key,
                    counter: counter + n as u64,
                    source: Source::Pieces(&pieces[n]),
                    destination: &mut rooms.next().expect("a slot each")[16..][..size + TAG_LEN],
                    verdict: Verdict::Pending,
                });
                aead::seal(Some(&state), &mut jobs);
                assert!(jobs.iter().all(|job| job.verdict == Verdict::Done));
                counter += CHUNK as u64;
            }
            counter as f64 / begun.elapsed().as_secs_f64()
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a thread")).sum()
    })
}
