//! Order, loss and ownership of lanes: against a model on one thread, under loom on several, and under shuttle for longer.

use std::vec::Vec;

use super::{Baton, Chunk, Claim, Lane, Owner};
use crate::sync::{SpinLock, Unpinned};

#[cfg(feature = "shuttle")]
mod histories;

/// An owner that notes what it delivers, and hands over after so many deliveries if there is a place.
struct Notes<'n> {
    delivered: &'n SpinLock<Vec<u32>>,
    patience: usize,
    place: Option<&'n SpinLock<Option<Baton>>>,
}

impl<'n> Notes<'n> {
    fn patient(delivered: &'n SpinLock<Vec<u32>>) -> Self {
        Self { delivered, patience: usize::MAX, place: None }
    }
}

impl Owner<u32> for Notes<'_> {
    fn run(&mut self, work: &mut u32) {
        *work += 100;
    }

    fn deliver(&mut self, mut chunk: Chunk<u32>) {
        let work = *chunk.work_mut().expect("it is done");
        self.delivered.with(&Unpinned, |delivered| delivered.push(work));
        self.patience = self.patience.saturating_sub(1);
    }

    fn has_enough(&mut self) -> bool {
        self.patience == 0
    }

    fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
        let Some(place) = self.place else { return Err(baton) };
        place.with(&Unpinned, |place| {
            assert!(place.is_none(), "two owners of one lane");
            *place = Some(baton);
        });
        Ok(())
    }
}

/// Takes the lane's baton and goes on with it until nobody hands it over any more.
#[cfg(feature = "loom")]
fn resume_all(
    lane: &Lane<u32>,
    place: &SpinLock<Option<Baton>>,
    delivered: &SpinLock<Vec<u32>>,
) -> usize {
    let mut resumed = 0;
    while let Some(baton) = place.with(&Unpinned, Option::take) {
        resumed += 1;
        let mut owner = Notes { delivered, patience: 1, place: Some(place) };
        lane.resume(&Unpinned, baton, &mut owner);
    }
    resumed
}

fn reserve(lane: &Lane<u32>, work: u32) -> Claim<u32> {
    lane.reserve(&Unpinned, work, 8, |_| Ok::<(), ()>(())).unwrap()
}

#[cfg(not(feature = "loom"))]
mod plain {
    use std::{collections::VecDeque, sync::Mutex, thread, vec::Vec};

    use proptest::prelude::*;

    use super::{
        super::{Baton, Chunk, Claim, Lane, Owner, Refused},
        Notes, reserve,
    };
    use crate::sync::{SpinLock, Unpinned};

    fn drained(lane: &Lane<u32>) -> Vec<u32> {
        let delivered = SpinLock::new(Vec::new());
        lane.drain(&Unpinned, &mut Notes::patient(&delivered));
        delivered.with(&Unpinned, core::mem::take)
    }

    #[test]
    fn a_chunk_waits_for_those_that_are_being_run() {
        let lane = Lane::default();
        let first = reserve(&lane, 1);
        let second = reserve(&lane, 2);
        first.run(&Unpinned, |work| {
            assert!(second.run(&Unpinned, |work| *work += 10));
            assert!(drained(&lane).is_empty(), "the first is not done");
            *work += 20;
        });
        assert!(!first.run(&Unpinned, |_| panic!("run twice")));
        assert_eq!(drained(&lane), [21, 12]);
        assert!(lane.is_empty());
    }

    #[test]
    fn the_owner_runs_what_nobody_has_begun() {
        let lane = Lane::default();
        let first = reserve(&lane, 1);
        let second = reserve(&lane, 2);
        second.run(&Unpinned, |work| *work += 10);
        assert_eq!(drained(&lane), [101, 12], "by the owner, and by its runner");
        assert!(!first.run(&Unpinned, |_| panic!("run twice")));
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
        kept.run(&Unpinned, |_| ());
        assert_eq!(drained(&lane), [1]);
        assert_eq!(lane.reserve(&Unpinned, 4, 1, |_| Ok::<(), ()>(())).err(), None, "room again");
    }

    #[test]
    fn who_has_enough_hands_over_and_keeps_others_out() {
        let lane = Lane::default();
        let (delivered, place) = (SpinLock::new(Vec::new()), SpinLock::new(None));
        for work in 1..=3 {
            reserve(&lane, work).run(&Unpinned, |_| ());
        }
        lane.drain(
            &Unpinned,
            &mut Notes { delivered: &delivered, patience: 2, place: Some(&place) },
        );
        assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [1, 2]);
        reserve(&lane, 4).run(&Unpinned, |_| ());
        assert!(drained(&lane).is_empty(), "the lane is owned while its baton is on its way");
        let baton = place.with(&Unpinned, Option::take).expect("handed over");
        lane.resume(&Unpinned, baton, &mut Notes::patient(&delivered));
        assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [1, 2, 3, 4]);
        reserve(&lane, 5).run(&Unpinned, |_| ());
        assert_eq!(drained(&lane), [5], "and it was let go");
    }

    #[test]
    fn who_has_enough_goes_on_if_nobody_takes_over() {
        let lane = Lane::default();
        let delivered = SpinLock::new(Vec::new());
        for work in 1..=3 {
            reserve(&lane, work).run(&Unpinned, |_| ());
        }
        lane.drain(&Unpinned, &mut Notes { delivered: &delivered, patience: 1, place: None });
        assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [1, 2, 3]);
    }

    #[test]
    fn nobody_hands_over_a_lane_that_has_nothing_to_deliver() {
        let lane = Lane::default();
        let (delivered, place) = (SpinLock::new(Vec::new()), SpinLock::new(None));
        let mut impatient = Notes { delivered: &delivered, patience: 1, place: Some(&place) };
        let first = reserve(&lane, 1);
        let second = reserve(&lane, 2);
        first.run(&Unpinned, |_| ());
        second.run(&Unpinned, |_| lane.drain(&Unpinned, &mut impatient));
        assert!(place.with(&Unpinned, |place| place.is_none()), "the second was being run");
        assert_eq!(drained(&lane), [2]);
    }

    /// What a chunk of the model is in.
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Queued,
        Done,
    }

    proptest! {
        /// Whatever is reserved, run, drained and handed over in whatever order: what comes out is what a
        /// queue would give.
        #[test]
        fn a_lane_is_a_queue(steps in prop::collection::vec((0..5_u8, any::<usize>()), 0..200)) {
            let lane = Lane::default();
            let (delivered, place) = (SpinLock::new(Vec::new()), SpinLock::new(None));
            let (mut chunks, mut next) = (Vec::<(u32, Claim<u32>, State)>::new(), 0);
            let (mut model, mut expected) = (VecDeque::new(), Vec::new());
            for (step, pick) in steps {
                match step {
                    0 | 1 => match lane.reserve(&Unpinned, next, 8, |_| Ok::<(), ()>(())) {
                        Ok(chunk) => {
                            prop_assert!(model.len() < 8);
                            chunks.push((next, chunk, State::Queued));
                            model.push_back(next);
                            next += 1;
                        }
                        Err(refused) => {
                            prop_assert_eq!(refused, Refused::Full);
                            prop_assert_eq!(model.len(), 8);
                        }
                    },
                    2 if !chunks.is_empty() => {
                        let at = pick % chunks.len();
                        let (_, chunk, state) = &mut chunks[at];
                        let ran = chunk.run(&Unpinned, |_| ());
                        prop_assert_eq!(ran, *state == State::Queued, "run once");
                        *state = State::Done;
                    }
                    _ => {
                        let patience = 1 + pick % 3;
                        let owned = place.with(&Unpinned, |place: &mut Option<Baton>| place.is_some());
                        let baton = place.with(&Unpinned, Option::take);
                        let mut owner = Notes { delivered: &delivered, patience, place: Some(&place) };
                        match baton {
                            Some(baton) if step == 3 => lane.resume(&Unpinned, baton, &mut owner),
                            Some(baton) => {
                                lane.drain(&Unpinned, &mut owner);
                                place.with(&Unpinned, |place| *place = Some(baton));
                            }
                            None => lane.drain(&Unpinned, &mut owner),
                        }
                        if !owned || step == 3 {
                            for _ in 0..patience.min(model.len()) {
                                let number: u32 = model.pop_front().unwrap();
                                let (_, _, state) = &mut chunks[number as usize];
                                expected.push(number + if *state == State::Queued { 100 } else { 0 });
                                *state = State::Done;
                            }
                        }
                    }
                }
                prop_assert_eq!(lane.len(), model.len());
                prop_assert_eq!(&delivered.with(&Unpinned, |all| all.clone()), &expected);
            }
        }
    }

    /// Appends to a second lane, as a peer's sender does.
    struct Forward<'f>(&'f Lane<u64>);

    impl Owner<u64> for Forward<'_> {
        fn run(&mut self, _: &mut u64) {}

        fn deliver(&mut self, chunk: Chunk<u64>) {
            self.0.append(&Unpinned, chunk);
        }

        fn has_enough(&mut self) -> bool {
            false
        }

        fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
            Err(baton)
        }
    }

    /// Notes the order, and asserts that nobody else does at the same time.
    struct Last<'l>(&'l Mutex<Vec<u64>>);

    impl Owner<u64> for Last<'_> {
        fn run(&mut self, _: &mut u64) {
            panic!("a sender's chunks are done");
        }

        fn deliver(&mut self, mut chunk: Chunk<u64>) {
            let work = *chunk.work_mut().expect("it is done");
            self.0.try_lock().expect("one sender at a time").push(work);
        }

        fn has_enough(&mut self) -> bool {
            false
        }

        fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
            Err(baton)
        }
    }

    // spec-test: WG 7.2-a
    #[test]
    fn many_threads_lose_nothing_and_keep_the_order_through_two_lanes() {
        let (lane, sender) = (Lane::<u64>::default(), Lane::<u64>::default());
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
                        chunk.run(&Unpinned, |_| ());
                        lane.drain(&Unpinned, &mut Forward(&sender));
                        sender.drain(&Unpinned, &mut Last(&out));
                    }
                });
            }
        });
        assert!(lane.is_empty() && sender.is_empty());
        assert!(out.lock().unwrap().iter().copied().eq(0..20_000));
    }
}

/// `cargo test -p crypto --features loom --release --lib loom`
#[cfg(feature = "loom")]
mod loom_tests {
    use std::{sync::Arc, vec::Vec};

    use super::{
        super::{Baton, Chunk, Claim, Lane, Owner, Queue, Server},
        Notes, reserve, resume_all,
    };
    use crate::sync::{SpinLock, Unpinned};

    /// Runs `finish` of each of `count` chunks on a thread of its own, in every interleaving with so
    /// many preemptions; then `look`.
    fn explore<S: Send + Sync + 'static>(
        count: u32,
        preemptions: usize,
        state: impl Fn() -> S + Send + Sync + 'static,
        finish: impl Fn(&Lane<u32>, &Claim<u32>, &S) + Copy + Send + Sync + 'static,
        look: impl Fn(&Lane<u32>, &S) + Send + Sync + 'static,
    ) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.check(move || {
            let shared = Arc::new((Lane::default(), state()));
            let chunks: Vec<_> = (0..count).map(|work| reserve(&shared.0, work)).collect();
            let threads: Vec<_> = chunks
                .into_iter()
                .map(|chunk| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || finish(&shared.0, &chunk, &shared.1))
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(shared.0.is_empty());
            look(&shared.0, &shared.1);
        });
    }

    /// Two finishers: whatever the interleaving, all is delivered, in order, and run once, by whoever.
    #[test]
    fn loom_no_chunk_is_left_behind() {
        explore(
            2,
            3,
            || SpinLock::new(Vec::new()),
            |lane, chunk, delivered| {
                chunk.run(&Unpinned, |work| *work += 100);
                lane.drain(&Unpinned, &mut Notes::patient(delivered));
            },
            |_, delivered| assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [100, 101]),
        );
    }

    /// Three finishers.
    #[test]
    fn loom_no_chunk_of_three_is_left_behind() {
        explore(
            3,
            2,
            || SpinLock::new(Vec::new()),
            |lane, chunk, delivered| {
                chunk.run(&Unpinned, |work| *work += 100);
                lane.drain(&Unpinned, &mut Notes::patient(delivered));
            },
            |_, delivered| {
                assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [100, 101, 102]);
            },
        );
    }

    /// Owners that have enough after every chunk, and whoever finds the baton goes on: still all is
    /// delivered, in order, and there never are two owners.
    #[test]
    fn loom_a_lane_that_is_handed_over_loses_nothing() {
        explore(
            2,
            3,
            || (SpinLock::new(Vec::new()), SpinLock::new(None)),
            |lane, chunk, (delivered, place)| {
                chunk.run(&Unpinned, |work| *work += 100);
                let mut owner = Notes { delivered, patience: 1, place: Some(place) };
                lane.drain(&Unpinned, &mut owner);
                resume_all(lane, place, delivered);
            },
            |_, (delivered, place)| {
                assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [100, 101]);
                assert!(place.with(&Unpinned, |place: &mut Option<Baton>| place.is_none()));
            },
        );
    }

    /// Appends to the sender's lane.
    struct Forward<'f>(&'f Lane<u32>);

    impl Owner<u32> for Forward<'_> {
        fn run(&mut self, work: &mut u32) {
            *work += 100;
        }

        fn deliver(&mut self, chunk: Chunk<u32>) {
            self.0.append(&Unpinned, chunk);
        }

        fn has_enough(&mut self) -> bool {
            false
        }

        fn hand_over(&mut self, baton: Baton) -> Result<(), Baton> {
            Err(baton)
        }
    }

    /// A sender behind the lane: the same order, and nothing stays with it.
    #[test]
    fn loom_a_sender_loses_nothing() {
        explore(
            2,
            2,
            || (Lane::default(), SpinLock::new(Vec::new())),
            |lane, chunk, (sender, delivered)| {
                chunk.run(&Unpinned, |work| *work += 100);
                lane.drain(&Unpinned, &mut Forward(sender));
                sender.drain(&Unpinned, &mut Notes::patient(delivered));
            },
            |_, (sender, delivered)| {
                assert!(sender.is_empty());
                assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [100, 101]);
            },
        );
    }

    /// A lane, the queue of another CPU, and what was delivered.
    type Dealt = (Lane<u32>, Queue<Claim<u32>, 4>, SpinLock<Vec<u32>>);

    /// The other CPU: runs what it was given, as far as nobody did.
    fn serve((lane, queue, delivered): &Dealt) {
        while let Some(chunk) = queue.pop(&Unpinned) {
            if chunk.run(&Unpinned, |work| *work += 100) {
                lane.drain(&Unpinned, &mut Notes::patient(delivered));
            }
        }
    }

    /// Chunks dealt to another CPU, which is woken when it has to be, and one run here: all are delivered
    /// in order, each run once, also when the maker does not wait for the other CPU; and nothing
    /// stays in the queue.
    #[test]
    fn loom_what_is_dealt_is_served() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared: Arc<Dealt> =
                Arc::new((Lane::default(), Queue::default(), SpinLock::new(Vec::new())));
            let (lane, queue, delivered) = &*shared;
            let mut servers = Vec::new();
            for work in 0..2 {
                let chunk = reserve(lane, work);
                if matches!(queue.push(&Unpinned, chunk, 4), Ok(Server::ToWake)) {
                    let shared = Arc::clone(&shared);
                    servers.push(loom::thread::spawn(move || serve(&shared)));
                }
            }
            reserve(lane, 2).run(&Unpinned, |work| *work += 100);
            lane.drain(&Unpinned, &mut Notes::patient(delivered));
            for server in servers {
                server.join().unwrap();
            }
            assert!(lane.is_empty());
            assert!(queue.pop(&Unpinned).is_none());
            assert_eq!(delivered.with(&Unpinned, |all| all.clone()), [100, 101, 102]);
        });
    }
}
