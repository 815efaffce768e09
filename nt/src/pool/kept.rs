//! Blocks of a few layouts, kept for whoever needs one of them next.
//!
//! What the data path allocates for each chunk is of a few layouts, and is freed soon, maybe on another
//! CPU. Such a block goes to a place of the CPU that frees it, or, if those are taken, to one of those
//! that all CPUs share; whoever allocates looks in the same order. So memory that one CPU takes and
//! another gives back comes round again. A place is one pointer, which is put and taken whole: no lock,
//! no list, nothing that could be mistaken for what it was before.

use core::{alloc::Layout, ptr};

use crate::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Places of one CPU, a cache line of them.
const OWN: usize = if cfg!(feature = "loom") { 1 } else { 8 };
/// Places that all CPUs share.
const SHARED: usize = if cfg!(feature = "loom") { 1 } else { 128 };
/// CPUs with places of their own; those of higher indices have some together.
const CPUS: usize = if cfg!(feature = "loom") { 1 } else { 64 };

/// Kept blocks of `KINDS` layouts.
///
/// # Invariants
///
/// A pointer in a place of `kinds[i]` is a block of `layouts[i]` that nobody else has.
#[derive(Debug)]
pub(super) struct Kept<const KINDS: usize> {
    layouts: [Layout; KINDS],
    kinds: [Kind; KINDS],
    keeps: AtomicBool,
}

#[derive(Debug)]
struct Kind {
    own: [Places<OWN>; CPUS],
    shared: Places<SHARED>,
}

#[derive(Debug)]
#[repr(align(64))]
struct Places<const COUNT: usize>([AtomicPtr<u8>; COUNT]);

impl<const KINDS: usize> Kept<KINDS> {
    /// Keeps nothing yet.
    #[cfg(not(feature = "loom"))]
    pub(super) const fn new(layouts: [Layout; KINDS]) -> Self {
        Self { layouts, kinds: [const { Kind::new() }; KINDS], keeps: AtomicBool::new(false) }
    }

    /// Whether blocks are kept from now on.
    pub(super) fn set_keeping(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::Release);
    }

    /// A kept block of `layout`; null if there is none. `cpu` is where this runs, or ran a moment ago.
    #[inline(never)] // There are hundreds of places that allocate.
    pub(super) fn take(&self, layout: Layout, cpu: impl FnOnce() -> u32) -> *mut u8 {
        match self.kind(layout) {
            Some(kind) => kind.take(cpu()),
            None => ptr::null_mut(),
        }
    }

    /// Keeps a block, or says no.
    ///
    /// # Safety
    ///
    /// `block` is one of `layout`, and if the answer is yes nobody uses it any more.
    #[inline(never)] // As above.
    pub(super) unsafe fn keep(
        &self,
        block: *mut u8,
        layout: Layout,
        cpu: impl FnOnce() -> u32,
    ) -> bool {
        let Some(kind) = self.kind(layout) else { return false };
        // INVARIANT: the caller's promise.
        self.keeps.load(Ordering::Acquire) && kind.keep(block, cpu())
    }

    /// Gives every kept block to `free`, with its layout.
    pub(super) fn empty(&self, mut free: impl FnMut(*mut u8, Layout)) {
        for (kind, layout) in self.kinds.iter().zip(self.layouts) {
            let own = kind.own.iter().flat_map(|places| &places.0);
            for place in own.chain(&kind.shared.0) {
                let block = place.swap(ptr::null_mut(), Ordering::Acquire);
                if !block.is_null() {
                    free(block, layout);
                }
            }
        }
    }

    fn kind(&self, layout: Layout) -> Option<&Kind> {
        self.layouts
            .iter()
            .zip(&self.kinds)
            .find(|(kept, _)| **kept == layout)
            .map(|(_, kind)| kind)
    }
}

impl Kind {
    #[cfg(not(feature = "loom"))]
    const fn new() -> Self {
        Self { own: [const { Places::new() }; CPUS], shared: Places::new() }
    }

    fn take(&self, cpu: u32) -> *mut u8 {
        match self.own[cpu as usize % CPUS].take() {
            block if block.is_null() => self.shared.take(),
            block => block,
        }
    }

    fn keep(&self, block: *mut u8, cpu: u32) -> bool {
        self.own[cpu as usize % CPUS].put(block) || self.shared.put(block)
    }
}

impl<const COUNT: usize> Places<COUNT> {
    #[cfg(not(feature = "loom"))]
    const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; COUNT])
    }

    /// Empties a place; null if none has a block.
    fn take(&self) -> *mut u8 {
        for place in &self.0 {
            // The line is looked at before it is asked for.
            if !place.load(Ordering::Relaxed).is_null() {
                // Acquire pairs with the release in `put`: the last user is done with it.
                let block = place.swap(ptr::null_mut(), Ordering::Acquire);
                if !block.is_null() {
                    return block;
                }
            }
        }
        ptr::null_mut()
    }

    /// Fills an empty place; says no if there is none.
    fn put(&self, block: *mut u8) -> bool {
        self.0.iter().any(|place| {
            place.load(Ordering::Relaxed).is_null()
                && place
                    .compare_exchange(ptr::null_mut(), block, Ordering::Release, Ordering::Relaxed)
                    .is_ok()
        })
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    extern crate std;

    use std::collections::HashSet;
    use std::vec::Vec;

    use super::*;

    const SMALL: Layout = Layout::new::<[u8; 100]>();
    const LARGE: Layout = Layout::new::<[u64; 500]>();

    fn block(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(number * 16)
    }

    #[test]
    fn what_is_kept_comes_back_by_layout() {
        let kept = Kept::new([SMALL, LARGE]);
        let keep = |number, layout| {
            // SAFETY: an address that nobody looks behind.
            unsafe { kept.keep(block(number), layout, || 3) }
        };
        assert!(!keep(1, SMALL), "not before it is told to");
        kept.set_keeping(true);
        assert!(keep(1, SMALL) && keep(2, LARGE));
        assert!(!keep(3, Layout::new::<u64>()), "of another layout");
        assert!(!keep(3, Layout::new::<[u64; 13]>()), "of almost the same");
        assert_eq!(kept.take(LARGE, || 3), block(2));
        assert!(kept.take(LARGE, || 3).is_null());
        assert_eq!(kept.take(SMALL, || 3), block(1));
        kept.set_keeping(false);
        assert!(!keep(4, SMALL));
    }

    #[test]
    fn what_one_cpu_frees_another_may_have_once_its_own_places_are_full() {
        let kept = Kept::new([SMALL]);
        kept.set_keeping(true);
        let room = OWN + SHARED;
        for number in 1..=room {
            // SAFETY: an address that nobody looks behind.
            assert!(unsafe { kept.keep(block(number), SMALL, || 1) });
        }
        // SAFETY: as above.
        assert!(!unsafe { kept.keep(block(room + 1), SMALL, || 1) }, "bounded");
        let others: HashSet<_> = (0..SHARED).map(|_| kept.take(SMALL, || 2)).collect();
        assert_eq!(others.len(), SHARED);
        assert!(kept.take(SMALL, || 2).is_null(), "another CPU's own are its own");
        let mut rest = Vec::new();
        kept.empty(|block, layout| rest.push((block, layout)));
        assert_eq!(rest.len(), OWN);
        assert!(rest.iter().all(|(block, layout)| *layout == SMALL && !others.contains(block)));
    }

    /// Threads take, mark and give back; a block that two had at once would show the other's mark.
    #[test]
    fn nobody_has_what_another_has() {
        use core::sync::atomic::AtomicUsize;
        let kept = Kept::new([SMALL]);
        kept.set_keeping(true);
        let owners: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
        for number in 1..100 {
            // SAFETY: an address that nobody looks behind.
            let _full = unsafe { kept.keep(block(number), SMALL, || number as u32) };
        }
        std::thread::scope(|scope| {
            for thread in 1..5_usize {
                let (kept, owners) = (&kept, &owners);
                scope.spawn(move || {
                    for round in 0..20_000_u32 {
                        let block = kept.take(SMALL, || round % 7);
                        if block.is_null() {
                            continue;
                        }
                        let owner = &owners[block.addr() / 16];
                        assert_eq!(owner.swap(thread, Ordering::Relaxed), 0);
                        assert_eq!(owner.swap(0, Ordering::Relaxed), thread);
                        // SAFETY: as above.
                        assert!(unsafe { kept.keep(block, SMALL, || round % 5) });
                    }
                });
            }
        });
    }
}

/// `. scripts/wdk/env.sh; cargo test -p nt --features loom --release --lib loom`
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::*;

    const LAYOUT: Layout = Layout::new::<[u8; 100]>();

    /// What lies in a block: loom's cell reports two users that are not ordered.
    type Block = loom::cell::UnsafeCell<u8>;

    impl<const COUNT: usize> Places<COUNT> {
        fn empty() -> Self {
            Self(core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
        }
    }

    fn kept() -> Kept<1> {
        let kind = Kind { own: core::array::from_fn(|_| Places::empty()), shared: Places::empty() };
        Kept { layouts: [LAYOUT], kinds: [kind], keeps: AtomicBool::new(true) }
    }

    fn made() -> *mut u8 {
        std::boxed::Box::into_raw(std::boxed::Box::new(Block::new(0))).cast()
    }

    /// Uses a block as its only owner does.
    fn write(block: *mut u8) {
        // SAFETY: whoever was given it by `made` or `take` has it.
        unsafe { &*block.cast::<Block>() }.with_mut(|_| ());
    }

    fn keep(kept: &Kept<1>, block: *mut u8) -> bool {
        write(block);
        // SAFETY: a block has any layout here, and whoever keeps it is done with it.
        unsafe { kept.keep(block, LAYOUT, || 0) }
    }

    /// All blocks that are left: in the places, and in hands.
    fn end(kept: &Kept<1>, hands: impl IntoIterator<Item = *mut u8>) -> usize {
        let mut left: std::vec::Vec<_> =
            hands.into_iter().filter(|block| !block.is_null()).collect();
        kept.empty(|block, _| left.push(block));
        left.sort_unstable();
        left.dedup();
        for block in &left {
            write(*block);
            // SAFETY: from `made`; nobody else has it, being in one place or in one hand.
            drop(unsafe { std::boxed::Box::from_raw(block.cast::<Block>()) });
        }
        left.len()
    }

    /// The block that another thread ends with.
    fn hand(thread: loom::thread::JoinHandle<usize>) -> *mut u8 {
        ptr::with_exposed_provenance_mut(thread.join().unwrap())
    }

    /// One CPU gives a block back while two look for one: one of them has it, alone.
    #[test]
    fn loom_a_block_has_one_owner_after_the_other() {
        loom::model(|| {
            let kept = Arc::new(kept());
            let others = [(); 2].map(|()| {
                let kept = kept.clone();
                loom::thread::spawn(move || {
                    let block = kept.take(LAYOUT, || 0);
                    if !block.is_null() {
                        write(block);
                    }
                    block.expose_provenance()
                })
            });
            assert!(keep(&kept, made()), "there is room");
            let hands = others.map(hand);
            assert!(hands[0].is_null() || hands[0] != hands[1], "both have it");
            assert_eq!(end(&kept, hands), 1, "a block was lost");
        });
    }

    /// Two CPUs give blocks back into places where one lies: none is put over another.
    #[test]
    fn loom_no_block_is_put_over_another() {
        loom::model(|| {
            let kept = Arc::new(kept());
            assert!(keep(&kept, made()), "there is room");
            let other = {
                let kept = kept.clone();
                loom::thread::spawn(move || {
                    let block = made();
                    if keep(&kept, block) { 0 } else { block.expose_provenance() }
                })
            };
            let block = made();
            let mine = if keep(&kept, block) { ptr::null_mut() } else { block };
            let others = hand(other);
            assert!(mine.is_null() != others.is_null(), "room for one more");
            assert_eq!(end(&kept, [mine, others]), 3, "a block was lost");
        });
    }
}
