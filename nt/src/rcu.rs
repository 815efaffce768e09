//! Values read without a lock, and replaced whole: read, copy, update.
//!
//! Being at `DISPATCH_LEVEL` is the read side: a [`Dispatch`] token is not `Send`, cannot outlive the
//! raised level, and while it is held this CPU runs nothing else. So when a DPC has run on every CPU
//! after a value was replaced, nobody reads the old one any more (a grace period). One thread, the
//! [`Reclaimer`], runs one grace period at a time and then drops everything that was retired before
//! it began, at `PASSIVE_LEVEL`. Nobody waits for it but [`Reclaimer::barrier`]. Counting references
//! was tried first and serves wherever a batch shares one; a classify has no batch.
//!
//! A reader must not call out of the driver with what it read: that may take long, and others wait.

use alloc::{boxed::Box, vec::Vec};
use core::{
    fmt,
    ptr::{self, NonNull},
};

use crate::{
    atomic::{AtomicPtr, AtomicU64, Ordering},
    dpc::{Dpc, Importance},
    event::{Event, Kind},
    irql::{Dispatch, Passive},
    mutex::Mutex,
    pool,
    processor::{self, Processor},
    status::NtError,
    thread::Thread,
};

/// What is retired, whatever its type: the front of a [`Node`].
struct Retired {
    next: *mut Retired,
    /// Drops the node that this is the front of.
    ///
    /// Called once, when nobody uses the node any more.
    free: unsafe fn(*mut Retired),
}

/// A value on the heap with what retiring it takes, so that retiring needs no memory.
#[repr(C)] // `retired` lies at the front
struct Node<T> {
    retired: Retired,
    value: T,
}

impl<T> Node<T> {
    fn try_new(value: T) -> Result<NonNull<Self>, NtError> {
        let retired = Retired { next: ptr::null_mut(), free: Self::free };
        Ok(NonNull::from(Box::leak(pool::try_box(Self { retired, value })?)))
    }

    /// # Safety
    ///
    /// `retired` is the front of a node of this type, made by [`Node::try_new`], and nobody uses it.
    unsafe fn free(retired: *mut Retired) {
        // SAFETY: the caller's promise; `repr(C)` puts the front where the node begins.
        drop(unsafe { Box::from_raw(retired.cast::<Self>()) });
    }
}

/// A value that was made ready to be published, which then cannot fail.
///
/// # Invariants
///
/// The node is owned.
#[derive(Debug)]
pub struct Prepared<T>(NonNull<Node<T>>);

// SAFETY: an owned value.
unsafe impl<T: Send> Send for Prepared<T> {}

impl<T> Prepared<T> {
    /// Moves `value` to where it can be published from.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(value: T) -> Result<Self, NtError> {
        Node::try_new(value).map(Self)
    }

    /// The value, before anybody else sees it.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn get_mut(&mut self) -> &mut T {
        // SAFETY: owned (type invariant), and the borrow of `self` is unique.
        &mut unsafe { self.0.as_mut() }.value
    }

    /// Gives the node up.
    fn into_node(self) -> NonNull<Node<T>> {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl<T> Drop for Prepared<T> {
    fn drop(&mut self) {
        // SAFETY: owned (type invariant), and this is its end.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A value that is read at `DISPATCH_LEVEL` without a lock.
///
/// Dropping it needs that nobody reads any more, as the unique borrow says.
///
/// # Invariants
///
/// `current` points to a node that is published here; one that was is retired, or in the hands of
/// the one who replaced it.
pub struct Rcu<T> {
    current: AtomicPtr<Node<T>>,
}

// SAFETY: the value is read on several threads at once, and dropped on another.
unsafe impl<T: Send + Sync> Send for Rcu<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Rcu<T> {}

impl<T: Send + Sync + 'static> Rcu<T> {
    /// Publishes the first value.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn new(first: Prepared<T>) -> Self {
        // INVARIANT: the node is owned, and from now on published.
        Self { current: AtomicPtr::new(first.into_node().as_ptr()) }
    }

    /// The value as it is now; it stays as it is for as long as this thread stays raised.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    pub fn read<'read>(&'read self, _level: &'read Dispatch<'_>) -> &'read T {
        // Acquire pairs with the exchange in `publish`: who sees the node sees what is in it.
        let node = self.current.load(Ordering::Acquire);
        // SAFETY: by the type invariant published; it is dropped only after a grace period that
        // begins after it was replaced, and none ends while this CPU is at DISPATCH_LEVEL, as the
        // token says it is throughout `'read`.
        &unsafe { &*node }.value
    }

    /// Publishes `next`, and has `reclaimer` drop what was there before when nobody reads it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn publish(&self, next: Prepared<T>, reclaimer: &Reclaimer) {
        reclaimer.home().retired.push(self.exchange(next));
        reclaimer.home().work.set();
    }

    /// Puts `next` in the place of what was there before, which the caller is to retire.
    fn exchange(&self, next: Prepared<T>) -> NonNull<Retired> {
        // Release pairs with the Acquire of `read`; Acquire with that of another `publish`.
        let old = self.current.swap(next.into_node().as_ptr(), Ordering::AcqRel);
        // SAFETY: by the type invariant never null; the front lies where the node begins.
        unsafe { NonNull::new_unchecked(old.cast()) }
    }
}

impl<T> Drop for Rcu<T> {
    fn drop(&mut self) {
        let node = self.current.load(Ordering::Acquire);
        // SAFETY: published (type invariant), and by the unique borrow read by nobody.
        drop(unsafe { Box::from_raw(node) });
    }
}

impl<T> fmt::Debug for Rcu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rcu")
    }
}

/// What waits for a grace period: pushed by anybody, taken as a whole by the reclaimer.
///
/// # Invariants
///
/// Owns the nodes that hang on `first`.
struct RetiredList {
    first: AtomicPtr<Retired>,
}

impl RetiredList {
    fn new() -> Self {
        Self { first: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Takes over a node that is no longer published.
    fn push(&self, node: NonNull<Retired>) {
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            // SAFETY: only the one who replaced a node has its front, until the exchange succeeds.
            unsafe { &mut *node.as_ptr() }.next = first;
            // Release pairs with the Acquire of `take`. Whole lists are taken, so a node that comes
            // back at the same address is no danger.
            match self.first.compare_exchange_weak(
                first,
                node.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }

    /// Everything pushed so far.
    fn take(&self) -> TakenList {
        // INVARIANT: no longer in the list.
        TakenList(self.first.swap(ptr::null_mut(), Ordering::AcqRel))
    }
}

impl Drop for RetiredList {
    fn drop(&mut self) {
        // SAFETY: the owner of the list goes, after the last reader (see `Reclaimer`).
        unsafe { self.take().free() };
    }
}

/// Nodes that were taken from the list. Forgotten if not freed.
///
/// # Invariants
///
/// Owns the nodes that hang on it.
#[must_use]
struct TakenList(*mut Retired);

impl TakenList {
    /// Drops the nodes; returns how many.
    ///
    /// # Safety
    ///
    /// A grace period began after they were taken, and is over.
    unsafe fn free(self) -> usize {
        let mut count = 0;
        let mut next = self.0;
        while let Some(retired) = NonNull::new(next) {
            // SAFETY: owned (type invariant).
            let Retired { next: rest, free } = *unsafe { retired.as_ref() };
            next = rest;
            count += 1;
            // SAFETY: `free` came with the node; by the caller's promise nobody uses it.
            unsafe { free(retired.as_ptr()) };
        }
        count
    }
}

/// The thread that drops what was replaced. One for the whole driver.
///
/// Dropped at `PASSIVE_LEVEL`, when nobody publishes or reads any more: it ends the thread, and what
/// is still retired is dropped.
pub struct Reclaimer {
    /// Ended, and so dropped, before what it uses.
    thread: Option<Thread>,
    home: Box<Home>,
}

/// What the thread and its DPCs share with everybody, at an address that stays.
struct Home {
    retired: RetiredList,
    /// Lets the thread go on.
    work: Event,
    /// How many barriers were asked for, and how many of those are passed.
    asked: AtomicU64,
    passed: AtomicU64,
    /// Lets the one who waits at a barrier look again.
    passing: Event,
    turn: Mutex<()>,
    stop: core::sync::atomic::AtomicBool,
    /// CPUs whose DPC has not run yet in this grace period.
    absent: core::sync::atomic::AtomicU32,
    /// Set by the last of them.
    present: Event,
}

// SAFETY: the list is made of atomics and owns values that may be sent (`Rcu` asks for it); the rest
// is shared state of NT's.
unsafe impl Send for Home {}
// SAFETY: the same.
unsafe impl Sync for Home {}

/// The home, for the thread and the DPCs, which end before it.
#[derive(Clone, Copy)]
struct HomeRef(NonNull<Home>);

// SAFETY: refers to what is `Sync`.
unsafe impl Send for HomeRef {}
// SAFETY: the same.
unsafe impl Sync for HomeRef {}

impl HomeRef {
    fn get(&self) -> &Home {
        // SAFETY: the reclaimer joins the thread, which owns the DPCs, before it drops the home.
        unsafe { self.0.as_ref() }
    }
}

impl Reclaimer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says of the thread.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn start(passive: &Passive) -> Result<Self, NtError> {
        let home = pool::try_box(Home {
            retired: RetiredList::new(),
            work: Event::try_new(Kind::Synchronization)?,
            asked: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            passing: Event::try_new(Kind::Synchronization)?,
            turn: Mutex::try_new(())?,
            stop: core::sync::atomic::AtomicBool::new(false),
            absent: core::sync::atomic::AtomicU32::new(0),
            present: Event::try_new(Kind::Synchronization)?,
        })?;
        let shared = HomeRef(NonNull::from(&*home));
        let mut grace = Grace::try_new(shared)?;
        let thread = Thread::spawn(passive, move |passive| run(shared, &mut grace, &passive))?;
        Ok(Self { thread: Some(thread), home })
    }

    /// Waits until everything that was retired before has been dropped, and everybody who was
    /// reading anything when this was called has finished.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn barrier(&self, passive: &Passive) {
        // One at a time: the event lets one through.
        let _turn = self.home.turn.lock(passive);
        // AcqRel and Acquire order what the caller did before with the thread's look at the list.
        let ticket = self.home.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.home.work.set();
        while self.home.passed.load(Ordering::Acquire) < ticket {
            self.home.passing.wait(passive);
        }
    }

    fn home(&self) -> &Home {
        &self.home
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.home.stop.store(true, Ordering::Release);
        self.home.work.set();
        drop(self.thread.take());
    }
}

impl fmt::Debug for Reclaimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reclaimer")
    }
}

/// The thread.
fn run(home: HomeRef, grace: &mut Grace, passive: &Passive) {
    let home = home.get();
    loop {
        home.work.wait(passive);
        if home.stop.load(Ordering::Acquire) {
            return;
        }
        // Read before the list is taken: what was retired before a barrier is in it.
        let ticket = home.asked.load(Ordering::Acquire);
        let taken = home.retired.take();
        if taken.0.is_null() && ticket == home.passed.load(Ordering::Relaxed) {
            continue;
        }
        grace.period(passive);
        // SAFETY: the period began after the list was taken.
        unsafe { taken.free() };
        home.passed.store(ticket, Ordering::Release);
        home.passing.set();
    }
}

/// One DPC for each CPU there may be, by index.
struct Grace {
    home: HomeRef,
    dpcs: Vec<Dpc<HomeRef>>,
}

impl Grace {
    fn try_new(home: HomeRef) -> Result<Self, NtError> {
        let count = processor::maximum();
        let mut dpcs = Vec::new();
        dpcs.try_reserve_exact(count as usize).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for _ in 0..count {
            let mut dpc = Dpc::try_new(home, arrive)?;
            // Nobody waits for it: it need not interrupt an idle CPU.
            dpc.set_importance(Importance::Low);
            dpcs.push(dpc);
        }
        Ok(Self { home, dpcs })
    }

    /// Waits until every CPU has been below `DISPATCH_LEVEL`.
    ///
    /// A CPU that becomes active meanwhile sees what was published before.
    fn period(&mut self, passive: &Passive) {
        let home = self.home.get();
        let active = processor::count();
        // One for ourselves, so that the last DPC is the last even if others were quicker.
        home.absent.store(1, Ordering::Relaxed);
        for (dpc, index) in self.dpcs.iter_mut().zip(0..active) {
            // An index below the count is of a processor that exists.
            let target = Processor::of_index(index).and_then(|cpu| dpc.set_target(cpu));
            debug_assert!(target.is_ok());
            home.absent.fetch_add(1, Ordering::Relaxed);
            dpc.queue();
        }
        arrive_at(home);
        home.present.wait(passive);
    }
}

/// The DPCs' routine: running on a CPU is proof that no reader is on it.
fn arrive(home: &HomeRef, _level: &Dispatch<'_>) {
    arrive_at(home.get());
}

fn arrive_at(home: &Home) {
    // AcqRel: what a reader did on this CPU before happens before what is dropped after the last.
    if home.absent.fetch_sub(1, Ordering::AcqRel) == 1 {
        home.present.set();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    extern crate std;

    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    };

    use super::*;

    /// Values that are alive, and how many were dropped; a read of a dead one is seen by its mark.
    struct Watched {
        number: usize,
        alive: AtomicBool,
        drops: Arc<AtomicUsize>,
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.alive.store(false, Ordering::SeqCst);
            self.drops.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn watched(number: usize, drops: &Arc<AtomicUsize>) -> Prepared<Watched> {
        let alive = AtomicBool::new(true);
        Prepared::try_new(Watched { number, alive, drops: drops.clone() }).expect("memory")
    }

    #[test]
    fn what_is_retired_is_dropped_once_and_not_before_it_is_freed() {
        let drops = Arc::new(AtomicUsize::new(0));
        let (list, rcu) = (RetiredList::new(), Rcu::new(watched(0, &drops)));
        for number in 1..4 {
            list.push(rcu.exchange(watched(number, &drops)));
        }
        let level = Dispatch::in_a_test();
        assert_eq!(rcu.read(&level).number, 3);
        let taken = list.take();
        list.push(rcu.exchange(watched(4, &drops)));
        assert_eq!(drops.load(Ordering::SeqCst), 0);
        // SAFETY: this thread is the only reader, and reads nothing.
        assert_eq!(unsafe { taken.free() }, 3);
        assert_eq!(drops.load(Ordering::SeqCst), 3);
        drop(list);
        assert_eq!(drops.load(Ordering::SeqCst), 4, "the list's end frees what is in it");
        drop(rcu);
        assert_eq!(drops.load(Ordering::SeqCst), 5);
        drop(watched(6, &drops));
        assert_eq!(drops.load(Ordering::SeqCst), 6, "one that was never published");
    }

    /// CPUs as mutexes: being at DISPATCH_LEVEL is holding one's own, and a DPC takes it in turn.
    #[test]
    fn readers_never_see_what_was_dropped() {
        const READERS: usize = 3;
        let drops = Arc::new(AtomicUsize::new(0));
        let rcu = Arc::new(Rcu::new(watched(0, &drops)));
        let cpus: Arc<[Mutex<()>; READERS]> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let readers: std::vec::Vec<_> = (0..READERS)
            .map(|cpu| {
                let (rcu, cpus, stop) = (rcu.clone(), cpus.clone(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let _raised = cpus[cpu].lock().unwrap();
                        let level = Dispatch::in_a_test();
                        let value = rcu.read(&level);
                        let number = value.number;
                        std::thread::yield_now();
                        assert!(value.alive.load(Ordering::SeqCst), "{number} was dropped early");
                    }
                })
            })
            .collect();
        let list = RetiredList::new();
        for number in 1..2000 {
            list.push(rcu.exchange(watched(number, &drops)));
            let taken = list.take();
            cpus.iter().for_each(|cpu| drop(cpu.lock().unwrap()));
            // SAFETY: every CPU was free once since the list was taken.
            unsafe { taken.free() };
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(drops.load(Ordering::SeqCst), 1999);
    }
}

/// `. scripts/wdk/env.sh; cargo test -p nt --features loom --release --lib loom`
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::*;

    /// Loom's cell reports a read and a write that are not ordered.
    struct Watched(loom::cell::UnsafeCell<u8>);
    // SAFETY: what this test is about.
    unsafe impl Sync for Watched {}

    impl Drop for Watched {
        fn drop(&mut self) {
            self.0.with_mut(|_| ());
        }
    }

    fn watched() -> Prepared<Watched> {
        Prepared::try_new(Watched(loom::cell::UnsafeCell::new(0))).expect("memory")
    }

    #[test]
    fn loom_a_value_outlives_its_readers() {
        loom::model(|| {
            let rcu = Arc::new(Rcu::new(watched()));
            // Being at DISPATCH_LEVEL is holding the CPU; the reclaimer's DPC has to wait for it.
            let cpu = Arc::new(loom::sync::Mutex::new(()));
            let (other, its_cpu) = (rcu.clone(), cpu.clone());
            let reader = loom::thread::spawn(move || {
                let raised = its_cpu.lock().unwrap();
                let level = Dispatch::in_a_test();
                other.read(&level).0.with(|_| ());
                drop(raised);
            });
            let list = RetiredList::new();
            list.push(rcu.exchange(watched()));
            let taken = list.take();
            drop(cpu.lock().unwrap());
            // SAFETY: the CPU was free once since the list was taken.
            unsafe { taken.free() };
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_nothing_retired_is_lost() {
        loom::model(|| {
            let rcu = Arc::new(Rcu::new(watched()));
            let list = Arc::new(RetiredList::new());
            let (its_rcu, its_list) = (rcu.clone(), list.clone());
            let other = loom::thread::spawn(move || {
                its_list.push(its_rcu.exchange(watched()));
            });
            list.push(rcu.exchange(watched()));
            let early = list.take();
            other.join().unwrap();
            // SAFETY: nobody reads.
            let early = unsafe { early.free() };
            // SAFETY: the same.
            assert_eq!(early + unsafe { list.take().free() }, 2);
        });
    }
}
