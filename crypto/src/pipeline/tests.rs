//! Order, loss and ownership of lanes: against a model on one thread, and under loom on several.

#[cfg(not(loom))]
mod plain {
    use std::{sync::Mutex, thread, vec::Vec};

    use proptest::prelude::*;

    use super::super::{Fate, Lane, Refused};
    use crate::sync::Unpinned;

    fn delivered(lane: &Lane<u32>) -> Vec<(u32, Fate)> {
        let mut out = Vec::new();
        lane.drain(&Unpinned, |chunk, fate| {
            out.push((chunk.with_work(&Unpinned, |work| *work), fate));
        });
        out
    }

    #[test]
    fn a_chunk_waits_for_those_before_it() {
        let lane = Lane::default();
        let number = |_: &mut u32| Ok::<(), ()>(());
        let first = lane.reserve(&Unpinned, 1, 8, number).unwrap();
        let second = lane.reserve(&Unpinned, 2, 8, number).unwrap();
        assert!(lane.run(&Unpinned, &second, |work| *work += 100));
        assert_eq!(delivered(&lane), []);
        assert!(lane.run(&Unpinned, &first, |work| *work += 100));
        assert!(!lane.run(&Unpinned, &first, |_| panic!("run twice")));
        assert_eq!(delivered(&lane), [(101, Fate::Done), (102, Fate::Done)]);
        assert!(lane.is_empty(&Unpinned));
    }

    #[test]
    fn refusals_leave_nothing_behind() {
        let lane = Lane::default();
        let kept = lane.reserve(&Unpinned, 1, 1, |_| Ok::<(), ()>(())).unwrap();
        let mut numbered = false;
        let full = lane.reserve(&Unpinned, 2, 1, |_| {
            numbered = true;
            Ok::<(), ()>(())
        });
        assert_eq!(full.err(), Some(Refused::Full));
        assert!(!numbered, "no counter is taken for a refused chunk");
        let unnumbered = lane.reserve(&Unpinned, 3, 8, |_| Err("no session"));
        assert_eq!(unnumbered.err(), Some(Refused::Unnumbered("no session")));
        lane.stop(&Unpinned);
        let stopped = lane.reserve(&Unpinned, 4, 8, |_| Ok::<(), ()>(()));
        assert_eq!(stopped.err(), Some(Refused::Stopped));
        assert!(!lane.run(&Unpinned, &kept, |_| panic!("a dead chunk was run")));
        assert_eq!(delivered(&lane), [(1, Fate::Dead)]);
        lane.restart(&Unpinned);
        assert!(lane.reserve(&Unpinned, 5, 8, |_| Ok::<(), ()>(())).is_ok());
    }

    proptest! {
        /// Chunks finished in any order come out in the order they were numbered, once each.
        #[test]
        fn any_finishing_order_is_delivered_in_order(
            order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let lane = Lane::default();
            let chunks: Vec<_> = (0..20_u32)
                .map(|n| lane.reserve(&Unpinned, n, 32, |_| Ok::<(), ()>(())).unwrap())
                .collect();
            let mut finished = [false; 20];
            let mut out = Vec::new();
            for at in order {
                lane.run(&Unpinned, &chunks[at], |_| ());
                finished[at] = true;
                out.extend(delivered(&lane).into_iter().map(|(work, _)| work as usize));
                let prefix = finished.iter().take_while(|f| **f).count();
                prop_assert_eq!(&out, &(0..prefix).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn many_threads_lose_nothing_and_keep_the_order() {
        let lane: Lane<u64> = Lane::default();
        let (next, out) = (Mutex::new(0_u64), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let chunk = loop {
                            let taken = lane.reserve(&Unpinned, 0, 64, |work| {
                                let mut next = next.lock().unwrap();
                                *work = *next;
                                *next += 1;
                                Ok::<(), ()>(())
                            });
                            match taken {
                                Ok(chunk) => break chunk,
                                Err(_) => thread::yield_now(),
                            }
                        };
                        lane.run(&Unpinned, &chunk, |_| ());
                        lane.drain(&Unpinned, |chunk, _| {
                            out.lock().unwrap().push(chunk.with_work(&Unpinned, |work| *work));
                        });
                    }
                });
            }
        });
        assert!(lane.is_empty(&Unpinned));
        assert!(out.lock().unwrap().iter().copied().eq(0..20_000));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p crypto --release --lib loom`
#[cfg(loom)]
mod loom_tests {
    use std::{sync::Arc, vec::Vec};

    use super::super::Lane;
    use crate::sync::{SpinLock, Unpinned};

    /// Two finishers of three chunks: whatever the interleaving, all are delivered, in order.
    #[test]
    fn loom_no_chunk_is_left_behind() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let lane = Arc::new(Lane::default());
            let out = Arc::new(SpinLock::new(Vec::new()));
            let chunks: Vec<_> = (0..2)
                .map(|n| lane.reserve(&Unpinned, n, 8, |_| Ok::<(), ()>(())).unwrap())
                .collect();
            let threads: Vec<_> = chunks
                .into_iter()
                .map(|chunk| {
                    let (lane, out) = (Arc::clone(&lane), Arc::clone(&out));
                    loom::thread::spawn(move || {
                        lane.run(&Unpinned, &chunk, |_| ());
                        lane.drain(&Unpinned, |chunk, _| {
                            let work = chunk.with_work(&Unpinned, |work| *work);
                            out.with(&Unpinned, |out| out.push(work));
                        });
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(out.with(&Unpinned, |out| out.clone()), [0, 1]);
            assert!(lane.is_empty(&Unpinned));
        });
    }
}
