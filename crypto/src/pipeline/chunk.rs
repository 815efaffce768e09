//! Chunks, and lists of them.
//!
//! A chunk goes QUEUED → RUNNING → DONE, each step once. Its lists are linked through the chunks
//! themselves, so a chunk that exists can always be put into one; it is in one list at a time.

use crate::sync::{
    Ground, OutOfMemory, Shared, SpinLock,
    atomic::{AtomicU8, Ordering},
};

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;

/// Packets that are worked on, and delivered, together.
pub struct Chunk<W> {
    state: AtomicU8,
    /// Never contended: the runner has it while RUNNING, the owner of the lane afterwards.
    work: SpinLock<W>,
    next: SpinLock<Option<Shared<Self>>>,
}

impl<W> Chunk<W> {
    /// A chunk that nobody has begun.
    pub(super) fn try_new(work: W) -> Result<Shared<Self>, OutOfMemory> {
        Shared::try_new(Self {
            state: AtomicU8::new(QUEUED),
            work: SpinLock::new(work),
            next: SpinLock::new(None),
        })
    }

    /// The work of a chunk that nobody else has.
    pub(super) fn work_mut(&mut self) -> &mut W {
        self.work.get_mut()
    }

    /// Does the chunk's work unless somebody else does or did; returns whether this call did it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it for the length of `body`.
    pub fn run(&self, ground: &impl Ground, body: impl FnOnce(&mut W)) -> bool {
        // Acquire pairs with the lane lock's Release in `Lane::reserve`: the numbered work is seen.
        let won =
            self.state.compare_exchange(QUEUED, RUNNING, Ordering::Acquire, Ordering::Relaxed);
        if won.is_err() {
            return false;
        }
        self.work.with(ground, body);
        // Release pairs with the Acquire in `is_done`: who delivers sees what `body` wrote.
        self.state.store(DONE, Ordering::Release);
        true
    }

    /// Gives the work to whoever delivers it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it for the length of `body`.
    pub fn with_work<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut W) -> R) -> R {
        self.work.with(ground, body)
    }

    /// Whether the work is done.
    fn is_done(&self) -> bool {
        // Acquire pairs with the Release store in `run`.
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Whether nobody has begun. Only a hint: somebody may begin right after.
    fn is_queued(&self) -> bool {
        self.state.load(Ordering::Relaxed) == QUEUED
    }
}

/// Chunks in the order they were added.
pub(super) struct List<W> {
    head: Option<Shared<Chunk<W>>>,
    tail: Option<Shared<Chunk<W>>>,
    len: usize,
}

/// What is at the head of a list.
pub(super) enum Head<W> {
    /// A chunk that is done; it is in the list no more, and others are unless it was the last.
    Done { chunk: Shared<Chunk<W>>, is_last: bool },
    /// A chunk that nobody has begun; it still is in the list.
    Queued(Shared<Chunk<W>>),
}

impl<W> List<W> {
    pub(super) const fn new() -> Self {
        Self { head: None, tail: None, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a chunk that is in no list.
    pub(super) fn push(&mut self, ground: &impl Ground, chunk: Shared<Chunk<W>>) {
        match self.tail.replace(chunk.clone()) {
            Some(tail) => tail.next.with(ground, |next| *next = Some(chunk)),
            None => self.head = Some(chunk),
        }
        self.len = self.len.saturating_add(1);
    }

    /// Whether something can be done about the head.
    pub(super) fn is_ready(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.is_done() || head.is_queued())
    }

    /// Takes the head if it is done, or shows it if nobody has begun it; `None` if there is none, or
    /// somebody is at it.
    pub(super) fn next(&mut self, ground: &impl Ground) -> Option<Head<W>> {
        let head = self.head.as_ref()?;
        if !head.is_done() {
            return head.is_queued().then(|| Head::Queued(head.clone()));
        }
        let head = self.head.take()?;
        self.head = head.next.with(ground, Option::take);
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.saturating_sub(1);
        let is_last = self.head.is_none();
        Some(Head::Done { chunk: head, is_last })
    }
}
