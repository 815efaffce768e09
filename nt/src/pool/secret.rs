//! Blocks that hold secrets, on pages of their own: a dump can do without such a page ([`crate::crash`]).
//!
//! A page has blocks of one layout, and before them its head. All pages are linked, so that they can be found when the machine
//! has stopped, by following pointers and without the lock: a page is linked before any of its blocks is given out, and
//! unlinked after the last has come back. A page that is not in use goes back to the pool.

use core::{
    alloc::Layout,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use super::{Tag, allocate, free};

/// Bytes of a page, which `ExAllocatePool2` aligns to itself.
pub(crate) const PAGE: usize = 4096;
/// A page, as the pool is asked for it.
const PAGE_LAYOUT: Layout = match Layout::from_size_align(PAGE, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a page has a size"),
};
/// Where a page's blocks begin.
const BLOCKS_AT: usize = 64;

#[cfg(not(test))]
type Lock = crate::spin_lock::SpinLock<()>;
#[cfg(test)]
type Lock = std::sync::Mutex<()>;
#[cfg(test)]
extern crate std;

/// The pages of `KINDS` layouts.
///
/// # Invariants
///
/// What `first` and `open` lead to are pages of [`Secrets::grow`], linked under `lock`; a page of kind `i` has blocks of
/// `layouts[i]`, of which a bit of `used` is set for each that somebody has.
#[derive(Debug)]
pub(super) struct Secrets<const KINDS: usize> {
    layouts: [Layout; KINDS],
    /// Of all pages.
    first: AtomicPtr<Page>,
    /// Of those that have a free block, by layout.
    open: [AtomicPtr<Page>; KINDS],
    lock: Lock,
}

/// The head of a page. All but `next` is read and written under the lock.
#[derive(Debug)]
pub(crate) struct Page {
    next: AtomicPtr<Page>,
    previous: AtomicPtr<Page>,
    next_open: AtomicPtr<Page>,
    previous_open: AtomicPtr<Page>,
    kind: usize,
    used: AtomicU64,
}

const _: () = assert!(size_of::<Page>() <= BLOCKS_AT);

/// Pages with secrets, as whoever writes a dump finds them.
#[derive(Clone, Copy, Debug)]
pub struct SecretPages(&'static AtomicPtr<Page>);

impl SecretPages {
    /// The first page, null if there is none.
    pub(crate) fn first(self) -> *mut Page {
        self.0.load(Ordering::Acquire)
    }

    /// The page behind `page`, null behind the last.
    ///
    /// # Safety
    ///
    /// `page` is one of these, and nobody gives secrets back meanwhile: the machine has stopped.
    pub(crate) unsafe fn after(self, page: *mut Page) -> *mut Page {
        // SAFETY: a linked page is live, by the caller's promise.
        unsafe { &*page }.next.load(Ordering::Acquire)
    }
}

impl<const KINDS: usize> Secrets<KINDS> {
    /// No pages yet.
    #[cfg(not(feature = "loom"))]
    pub(super) const fn new(layouts: [Layout; KINDS]) -> Self {
        let mut at = 0;
        while at < KINDS {
            // What else is aligned so would be looked for in vain, and a page must have room for one.
            assert!(layouts[at].align() > super::POOL_ALIGNMENT);
            assert!(BLOCKS_AT.is_multiple_of(layouts[at].align()));
            assert!(layouts[at].size() <= PAGE - BLOCKS_AT);
            at += 1;
        }
        let open = [const { AtomicPtr::new(ptr::null_mut()) }; KINDS];
        Self { layouts, first: AtomicPtr::new(ptr::null_mut()), open, lock: Lock::new(()) }
    }

    /// The pages, for whoever writes a dump.
    pub(super) const fn pages(&'static self) -> SecretPages {
        SecretPages(&self.first)
    }

    /// Which of the layouts this is, if it is one.
    pub(super) fn kind(&self, layout: Layout) -> Option<usize> {
        // Most layouts are aligned as the pool aligns.
        (layout.align() > super::POOL_ALIGNMENT)
            .then(|| self.layouts.iter().position(|secret| *secret == layout))?
    }

    /// A block of this kind, all zeroes; null if there is no memory.
    #[inline(never)]
    pub(super) fn take(&self, kind: usize) -> *mut u8 {
        match self.locked(|| self.take_open(kind)) {
            block if !block.is_null() => block,
            _ => self.grow(kind),
        }
    }

    /// Takes a block back, whose bytes are zeroes again.
    ///
    /// # Safety
    ///
    /// `block` came from [`Secrets::take`], and nobody uses it any more.
    #[inline(never)]
    pub(super) unsafe fn give(&self, block: *mut u8) {
        let at = block.addr() % PAGE;
        let page = block.wrapping_sub(at).cast::<Page>();
        if self.locked(|| self.give_open(page, at)) {
            // SAFETY: from `grow`, by the type invariant; without a block in use, and in no list, it is nobody's.
            unsafe { free(page.cast(), PAGE_LAYOUT, Tag::SECRET) };
        }
    }

    fn locked<R>(&self, body: impl FnOnce() -> R) -> R {
        #[cfg(not(test))]
        // SAFETY: memory is allocated and freed at or below DISPATCH_LEVEL.
        let level = unsafe { crate::irql::AtMostDispatch::assume() };
        #[cfg(not(test))]
        let _held = self.lock.lock(&level);
        #[cfg(test)]
        let _held = self.lock.lock();
        body()
    }

    /// Under the lock: a block of an open page; null if there is none.
    fn take_open(&self, kind: usize) -> *mut u8 {
        let (Some(open), Some(layout)) = (self.open.get(kind), self.layouts.get(kind)) else {
            return ptr::null_mut();
        };
        let page = open.load(Ordering::Relaxed);
        let Some(head) = head(page) else { return ptr::null_mut() };
        let used = head.used.load(Ordering::Relaxed);
        let at = used.trailing_ones();
        let more = used | 1_u64.wrapping_shl(at);
        head.used.store(more, Ordering::Relaxed);
        if more.trailing_ones() >= capacity(layout) {
            self.unlink_open(page, head);
        }
        page.cast::<u8>().wrapping_add(BLOCKS_AT + at as usize * layout.size())
    }

    /// Another page, and a block of it.
    fn grow(&self, kind: usize) -> *mut u8 {
        let page = allocate(PAGE_LAYOUT, 0, Tag::SECRET).cast::<Page>();
        let Some(made) = NonNull::new(page) else { return ptr::null_mut() };
        let none = || AtomicPtr::new(ptr::null_mut());
        let head = Page {
            next: none(),
            previous: none(),
            next_open: none(),
            previous_open: none(),
            kind,
            used: AtomicU64::new(0),
        };
        // SAFETY: fresh, of a page's size and alignment, and the head is no larger than what is before its blocks.
        unsafe { made.write(head) };
        self.locked(|| {
            self.link(page);
            self.take_open(kind)
        })
    }

    /// Under the lock: a new page is one of all, and open.
    fn link(&self, page: *mut Page) {
        let Some(new) = head(page) else { return };
        let first = self.first.load(Ordering::Relaxed);
        new.next.store(first, Ordering::Relaxed);
        if let Some(first) = head(first) {
            first.previous.store(page, Ordering::Relaxed);
        }
        // Release: who finds it without the lock finds its head.
        self.first.store(page, Ordering::Release);
        self.link_open(page, new);
    }

    /// Under the lock: takes the block at `at` back; true if the page is nobody's now.
    fn give_open(&self, page: *mut Page, at: usize) -> bool {
        let Some(given) = head(page) else { return false };
        let Some(layout) = self.layouts.get(given.kind) else { return false };
        let bit = at.saturating_sub(BLOCKS_AT).checked_div(layout.size()).unwrap_or(0);
        let used = given.used.load(Ordering::Relaxed);
        let less = used & !(1_u64.wrapping_shl(bit as u32));
        given.used.store(less, Ordering::Relaxed);
        if used.trailing_ones() >= capacity(layout) {
            self.link_open(page, given);
        }
        if less != 0 {
            return false;
        }
        self.unlink_open(page, given);
        let (previous, next) =
            (given.previous.load(Ordering::Relaxed), given.next.load(Ordering::Relaxed));
        match head(previous) {
            Some(previous) => previous.next.store(next, Ordering::Release),
            None => self.first.store(next, Ordering::Release),
        }
        if let Some(next) = head(next) {
            next.previous.store(previous, Ordering::Relaxed);
        }
        true
    }

    /// Under the lock: the page has a free block.
    fn link_open(&self, page: *mut Page, head_of: &Page) {
        let Some(open) = self.open.get(head_of.kind) else { return };
        let first = open.load(Ordering::Relaxed);
        head_of.next_open.store(first, Ordering::Relaxed);
        head_of.previous_open.store(ptr::null_mut(), Ordering::Relaxed);
        if let Some(first) = head(first) {
            first.previous_open.store(page, Ordering::Relaxed);
        }
        open.store(page, Ordering::Relaxed);
    }

    /// Under the lock: the page has none any more.
    fn unlink_open(&self, page: *mut Page, head_of: &Page) {
        let Some(open) = self.open.get(head_of.kind) else { return };
        let previous = head_of.previous_open.load(Ordering::Relaxed);
        let next = head_of.next_open.load(Ordering::Relaxed);
        match head(previous) {
            Some(previous) => previous.next_open.store(next, Ordering::Relaxed),
            None => {
                debug_assert!(open.load(Ordering::Relaxed) == page);
                open.store(next, Ordering::Relaxed);
            }
        }
        if let Some(next) = head(next) {
            next.previous_open.store(previous, Ordering::Relaxed);
        }
    }
}

/// The head of a page that is linked, or is being; `None` of none.
fn head<'page>(page: *mut Page) -> Option<&'page Page> {
    // SAFETY: null, or a page of `grow` that is in a list or in its caller's hand (the type invariant of `Secrets`), used under
    // the lock; atomics and what never changes are all that is in it.
    unsafe { page.as_ref() }
}

/// How many blocks of a layout a page has.
const fn capacity(layout: &Layout) -> u32 {
    match (PAGE - BLOCKS_AT).checked_div(layout.size()) {
        Some(count) if count < 64 => count as u32,
        _ => 64,
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::collections::HashSet;
    use std::vec::Vec;

    use super::*;

    const fn layout(size: usize) -> Layout {
        match Layout::from_size_align(size, 32) {
            Ok(layout) => layout,
            Err(_) => panic!("a layout"),
        }
    }

    const KINDS: [Layout; 2] = [layout(96), layout(352)];

    /// The pages that a dump would do without.
    fn pages<const N: usize>(secrets: &'static Secrets<N>) -> HashSet<usize> {
        let (pages, mut all) = (secrets.pages(), HashSet::new());
        let mut page = pages.first();
        while !page.is_null() {
            assert!(all.insert(page.addr()), "a page twice");
            // SAFETY: nobody else gives anything back.
            page = unsafe { pages.after(page) };
        }
        all
    }

    fn page_of(block: *mut u8) -> usize {
        block.addr() / PAGE * PAGE
    }

    #[test]
    fn every_block_in_use_is_on_a_page_that_is_found_and_no_page_is_left() {
        static SECRETS: Secrets<2> = Secrets::new(KINDS);
        assert_eq!(SECRETS.kind(KINDS[1]), Some(1));
        assert_eq!(SECRETS.kind(layout(128)), None);
        assert_eq!(SECRETS.kind(Layout::new::<[u64; 12]>()), None, "of the same size");
        let mut live: Vec<(usize, *mut u8)> = Vec::new();
        let mut draw = 1_u64;
        for round in 0..20_000_u32 {
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            // More and more, then fewer and fewer.
            if live.is_empty() || draw % 8 < if round < 10_000 { 5 } else { 3 } {
                let kind = (draw >> 32) as usize % 2;
                let block = SECRETS.take(kind);
                assert!(!block.is_null() && block.addr().is_multiple_of(32));
                let size = KINDS[kind].size();
                let free = |other: &(usize, *mut u8)| {
                    let end = other.1.addr() + KINDS[other.0].size();
                    block.addr() + size <= other.1.addr() || end <= block.addr()
                };
                assert!(live.iter().all(free), "a block that somebody has");
                assert!(block.addr() + size <= page_of(block) + PAGE);
                live.push((kind, block));
            } else {
                let (_, block) = live.swap_remove((draw >> 16) as usize % live.len());
                // SAFETY: from `take`, and given back once.
                unsafe { SECRETS.give(block) };
            }
            if round % 500 == 0 {
                let expected: HashSet<usize> = live.iter().map(|(_, at)| page_of(*at)).collect();
                assert_eq!(pages(&SECRETS), expected);
            }
        }
        for (_, block) in live {
            // SAFETY: as above.
            unsafe { SECRETS.give(block) };
        }
        assert_eq!(pages(&SECRETS), HashSet::new());
    }

    #[test]
    fn a_page_is_filled_before_there_is_another() {
        static SECRETS: Secrets<2> = Secrets::new(KINDS);
        let count = capacity(&KINDS[0]) as usize;
        let blocks: Vec<*mut u8> = (0..=count).map(|_| SECRETS.take(0)).collect();
        assert_eq!((count, pages(&SECRETS).len()), (42, 2));
        for block in blocks {
            // SAFETY: from `take`, and given back once.
            unsafe { SECRETS.give(block) };
        }
    }
}
