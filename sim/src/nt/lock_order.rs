//! Spin locks as deadlock detection looks at them: in which order they are taken, and for how long they are held.
//!
//! Each lock that is taken under another is an edge. A lock that is taken under one that was ever taken under it, by whatever
//! way, could wait for ever, whether or not it does now. Memory that is given up takes its edges with it. Only locks of
//! `KeAcquireSpinLock` are seen; those that the driver spins on by itself are not.
//!
//! Source: WDD devtest/deadlock-detection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use crate::nt::machine::Machine;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// How long a spin lock may be held; the clock of Virtual mode passes there only in calls that a test has take time.
const LONGEST: Duration = Duration::from_micros(25);

/// A spin lock that a thread holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) lock: usize,
    since: Duration,
}

/// Which locks were taken under each.
#[derive(Default)]
struct Order(Mutex<BTreeMap<usize, BTreeSet<usize>>>);

/// Notes that `taken` is being taken by a thread that has others; false (and a stop) if that is against the order.
pub(crate) fn take(thread: &Thread, taken: usize) -> bool {
    let held: Vec<usize> = thread.locks().borrow().iter().map(|held| held.lock).collect();
    if held.is_empty() || held.contains(&taken) || !thread.machine().options().verified {
        return true;
    }
    let order = thread.machine().extension::<Order>();
    let mut order = lock(&order.0);
    let (mut reached, mut open) = (BTreeSet::new(), vec![taken]);
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(order.get(&next).into_iter().flatten());
        }
    }
    let Some(against) = held.iter().find(|held| reached.contains(held)) else {
        for held in held {
            order.entry(held).or_default().insert(taken);
        }
        return true;
    };
    let detail = format!("{taken:#x} is taken under {against:#x}, which was taken under it before");
    drop(order);
    thread.stop(&rules::SPIN_LOCK_ORDER, detail);
    false
}

/// The thread has got `lock`.
pub(crate) fn taken(thread: &Thread, lock: usize) {
    let since = thread.machine().world().now();
    thread.locks().borrow_mut().push(Held { lock, since });
}

/// The thread has given a lock back.
pub(crate) fn released(thread: &Thread, held: Held) {
    let world = thread.machine().world();
    let time = world.now().saturating_sub(held.since);
    // Where orders of events are explored, whoever holds it is made late on purpose.
    let is_told = world.is_virtual() && !world.explores();
    if is_told && thread.machine().options().verified && time > LONGEST {
        let detail = format!("{:#x} was held for {time:?}, {LONGEST:?} are allowed", held.lock);
        thread.stop(&rules::SPIN_LOCK_HELD_TOO_LONG, detail);
    }
}

/// Memory is given up: locks in it are no more.
pub(crate) fn forget(machine: &Machine, at: usize, size: usize) {
    let order = machine.extension::<Order>();
    let mut order = lock(&order.0);
    if order.is_empty() {
        return;
    }
    let gone = at..at + size;
    order.retain(|lock, under| {
        under.retain(|lock| !gone.contains(lock));
        !gone.contains(lock)
    });
}
