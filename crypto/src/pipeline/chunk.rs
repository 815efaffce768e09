//! Chunks, who may run them, and lists of them.
//!
//! Of each there is one [`Chunk`], which is in a lane's list or with whoever delivers it, and one [`Claim`], with whoever is to
//! run it; an owner that does not wait makes itself another. A chunk goes QUEUED → RUNNING → DONE, each step once, and the state
//! says whose its work is: while RUNNING that of the claim that won, afterwards that of the chunk. So neither the work nor the
//! link to the next chunk needs a lock.
//!
//! Its lists are linked through the chunks themselves, so a chunk that exists can always be put into one.
#![allow(unsafe_code)] // What one has after the other, and lists that are entered at the end.

use core::{mem::offset_of, ptr::NonNull};

use abi::{descriptor::Places, places};

use crate::sync::{
    Ground, OutOfMemory, Shared,
    atomic::{AtomicU8, Ordering},
    cell::{UnsafeCell, value_of},
};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
/// The work is the chunk's; before it is queued, too.
const DONE: u8 = 2;

/// Packets that are worked on, and delivered, together.
///
/// # Invariants
///
/// There is one `Chunk` of a body.
pub struct Chunk<W>(Shared<Body<W>>);

/// That a chunk may be run, by one who gets there first.
pub struct Claim<W>(Shared<Body<W>>);

/// What a chunk and its claims share.
///
/// # Invariants
///
/// `work` is used while RUNNING by the claim that made it so, while DONE by the one [`Chunk`]; `next` by that always.
pub(super) struct Body<W> {
    state: AtomicU8,
    work: UnsafeCell<W>,
    next: UnsafeCell<Option<Chunk<W>>>,
}

// SAFETY: by the type invariant what is in the cells is used by one thread at a time, so sharing only moves it.
unsafe impl<W: Send> Sync for Body<W> {}
// SAFETY: a list's tail leads to a chunk that the list has.
unsafe impl<W: Send> Send for List<W> {}

impl<W> Body<W> {
    /// For a debugger. The states are 0 queued, 1 running, 2 done.
    const PLACES: Places = {
        // A link is a pointer, or null.
        assert!(size_of::<Option<Chunk<W>>>() == size_of::<usize>());
        places!(
            "Chunk",
            shared = Shared::<Self>::VALUE,
            state,
            work = offset_of!(Self, work) + value_of::<W>(),
            next = offset_of!(Self, next) + value_of::<Option<Chunk<W>>>(),
        )
    };

    /// Whether the work is done.
    fn is_done(&self) -> bool {
        // Acquire pairs with the Release store in `run`: who delivers sees what the body wrote.
        self.state.load(Ordering::Acquire) == DONE
    }
}

impl<W> Chunk<W> {
    /// For a debugger.
    pub(super) const PLACES: Places = Body::<W>::PLACES;

    /// A chunk that may not be run yet, and the claim to do so.
    pub(super) fn try_new(work: W) -> Result<(Self, Claim<W>), OutOfMemory> {
        let state = AtomicU8::new(DONE);
        let (work, next) = (UnsafeCell::new(work), UnsafeCell::new(None));
        let (chunk, claim) = Shared::try_pair(Body { state, work, next })?;
        // INVARIANT: the first of this body.
        Ok((Self(chunk), Claim(claim)))
    }

    /// The work of a chunk that is done, or that is not queued yet; `None` of one that is being run, or may be.
    pub fn work_mut(&mut self) -> Option<&mut W> {
        if !self.0.is_done() {
            return None;
        }
        // SAFETY: DONE, so the work is the one chunk's, which is borrowed mutably for as long as the result lives; only
        // `queue` leads out of DONE, which wants that borrow, too.
        Some(self.0.work.with_mut(|work| unsafe { &mut *work }))
    }

    /// Lets it be run.
    pub(super) fn queue(&mut self) {
        // Release pairs with the Acquire in `Claim::run`: who runs it sees the work as it was left here.
        self.0.state.store(QUEUED, Ordering::Release);
    }

    /// Another claim to run it.
    fn claim(&self) -> Claim<W> {
        Claim(self.0.clone())
    }

    /// Whether nobody has begun. Only a hint: somebody may begin right after.
    fn is_queued(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == QUEUED
    }

    fn take_next(&mut self) -> Option<Self> {
        // SAFETY: the link is the one chunk's, which is borrowed mutably.
        self.0.next.with_mut(|next| unsafe { (*next).take() })
    }
}

impl<W> Claim<W> {
    /// The layout of the block that a chunk is in.
    pub const LAYOUT: core::alloc::Layout = Shared::<Body<W>>::LAYOUT;

    /// Does the chunk's work unless somebody else does or did; returns whether this call did it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it for the length of `body`.
    pub fn run(&self, ground: &impl Ground, body: impl FnOnce(&mut W)) -> bool {
        let Body { state, work, .. } = &*self.0;
        // Acquire pairs with the Release in `Chunk::queue`: the numbered work is seen.
        let won = state.compare_exchange(QUEUED, RUNNING, Ordering::Acquire, Ordering::Relaxed);
        if won.is_err() {
            return false;
        }
        // SAFETY: this call made it RUNNING, and is the one to end that.
        ground.pinned(|| work.with_mut(|work| body(unsafe { &mut *work })));
        // Release pairs with the Acquire in `is_done`: who delivers sees what `body` wrote.
        state.store(DONE, Ordering::Release);
        true
    }
}

/// Chunks in the order they were added.
///
/// # Invariants
///
/// `tail` leads to the last of the chunks that begin with `head`; it is `None` if there is none.
pub(super) struct List<W> {
    head: Option<Chunk<W>>,
    tail: Option<NonNull<Body<W>>>,
    len: usize,
}

/// What is at the head of a list.
pub(super) enum Head<W> {
    /// A chunk that is done; it is in the list no more.
    Done(Chunk<W>),
    /// The claim to one that nobody has begun; it still is in the list.
    Queued(Claim<W>),
}

impl<W> List<W> {
    /// Where its first chunk is, for a debugger.
    pub(super) const HEAD: usize = offset_of!(Self, head);

    pub(super) const fn new() -> Self {
        Self { head: None, tail: None, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a chunk.
    pub(super) fn push(&mut self, chunk: Chunk<W>) {
        // INVARIANT: the chunk becomes the last one below.
        match self.tail.replace(NonNull::from(&*chunk.0)) {
            Some(tail) => {
                // SAFETY: by the type invariant `tail` is a chunk of this list, so it is alive.
                let tail = unsafe { tail.as_ref() };
                // SAFETY: the link is that chunk's, and the list, which has it, is borrowed mutably.
                tail.next.with_mut(|next| unsafe { *next = Some(chunk) });
            }
            None => self.head = Some(chunk),
        }
        self.len = self.len.saturating_add(1);
    }

    /// Whether something can be done about the head.
    pub(super) fn is_ready(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.0.is_done() || head.is_queued())
    }

    /// Takes the head if it is done, or claims it if nobody has begun it; `None` if there is none, or
    /// somebody is at it.
    pub(super) fn next(&mut self) -> Option<Head<W>> {
        let head = self.head.as_ref()?;
        if !head.0.is_done() {
            return head.is_queued().then(|| Head::Queued(head.claim()));
        }
        let mut head = self.head.take()?;
        self.head = head.take_next();
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.saturating_sub(1);
        Some(Head::Done(head))
    }
}
