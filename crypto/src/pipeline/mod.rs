//! Chunks and lanes: packets are worked on anywhere, and leave in the order they were numbered.
//!
//! A *chunk* is up to [`CHUNK_PACKETS`] packets of one peer, direction and keypair. A *lane* is the
//! order of one peer's chunks in one direction. A chunk is numbered and appended in one step under
//! the lane's lock ([`Lane::reserve`]), so counter order is list order and a refused chunk leaves no
//! hole. It is then run by whoever wins it ([`Lane::run`]); several CPUs may run chunks of one lane
//! at once, nothing is locked meanwhile. Whoever finishes one tries to become the lane's *owner*
//! ([`Lane::drain`]); the owner alone delivers, always from the head of the list, so what the
//! delivery does (the receive window, the endpoint) needs no lock of its own.
//!
//! The word {IDLE, OWNED, OWNED|AGAIN} is what makes leaving safe: a finisher that finds an owner
//! sets AGAIN and leaves, and an owner can only let go while AGAIN is clear, so a chunk that became
//! done while the owner looked elsewhere is never left behind. `loom` checks exactly that below.
//!
//! Everything runs at `<= DISPATCH_LEVEL`. Per chunk this costs two list locks, one state exchange,
//! one state store, the word's two, and the chunk's references; per packet nothing.

use crate::sync::{
    Ground, OutOfMemory, Shared, SpinLock,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

/// The most packets in one chunk.
pub const CHUNK_PACKETS: usize = 32;

/// Chunk states. A chunk goes QUEUED → RUNNING → DONE, or QUEUED → DEAD.
const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const DEAD: u8 = 3;

/// Lane words.
const IDLE: u32 = 0;
const OWNED: u32 = 1;
const AGAIN: u32 = 2;

/// Packets that are worked on, and delivered, together.
pub struct Chunk<W> {
    state: AtomicU8,
    /// Never contended: the runner has it while RUNNING, the owner of the lane afterwards.
    work: SpinLock<W>,
    next: SpinLock<Option<Shared<Chunk<W>>>>,
}

/// How a chunk came to its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was run.
    Done,
    /// The lane was stopped before anybody ran it: its packets are to be discarded.
    Dead,
}

/// Why a chunk was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<E> {
    /// As many chunks of this lane are under way as may be.
    Full,
    /// The lane was stopped.
    Stopped,
    /// No memory for the chunk.
    OutOfMemory,
    /// What [`Lane::reserve`] was given to number the chunk said no.
    Unnumbered(E),
}

impl<E> From<OutOfMemory> for Refused<E> {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The order of one peer's chunks in one direction.
pub struct Lane<W> {
    order: SpinLock<Order<W>>,
    word: AtomicU32,
}

struct Order<W> {
    head: Option<Shared<Chunk<W>>>,
    tail: Option<Shared<Chunk<W>>>,
    len: usize,
    stopped: bool,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        Self {
            order: SpinLock::new(Order { head: None, tail: None, len: 0, stopped: false }),
            word: AtomicU32::new(IDLE),
        }
    }
}

impl<W> Lane<W> {
    /// Numbers `work` and appends it, both or neither.
    ///
    /// `number` runs under the lane's lock and takes the chunk's counters; at most `most` chunks
    /// may be under way.
    ///
    /// # Errors
    ///
    /// [`Refused`], together with nothing: `work` is dropped, no counter was taken unless `number`
    /// took one and then failed.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn reserve<E>(
        &self,
        ground: &impl Ground,
        work: W,
        most: usize,
        number: impl FnOnce(&mut W) -> Result<(), E>,
    ) -> Result<Shared<Chunk<W>>, Refused<E>> {
        let chunk = Shared::try_new(Chunk {
            state: AtomicU8::new(QUEUED),
            work: SpinLock::new(work),
            next: SpinLock::new(None),
        })?;
        self.order.with(ground, |order| {
            if order.stopped {
                return Err(Refused::Stopped);
            }
            if order.len >= most {
                return Err(Refused::Full);
            }
            chunk.work.with(ground, number).map_err(Refused::Unnumbered)?;
            match order.tail.replace(chunk.clone()) {
                Some(tail) => tail.next.with(ground, |next| *next = Some(chunk.clone())),
                None => order.head = Some(chunk.clone()),
            }
            order.len = order.len.saturating_add(1);
            Ok(())
        })?;
        Ok(chunk)
    }

    /// Runs the chunk unless somebody else does or did; returns whether this call ran it.
    ///
    /// The caller then calls [`Lane::drain`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it for the length of `body`.
    pub fn run(&self, ground: &impl Ground, chunk: &Chunk<W>, body: impl FnOnce(&mut W)) -> bool {
        // Acquire pairs with the lane lock's Release in `reserve`: the numbered work is seen.
        let won =
            chunk.state.compare_exchange(QUEUED, RUNNING, Ordering::Acquire, Ordering::Relaxed);
        if won.is_err() {
            return false;
        }
        chunk.work.with(ground, body);
        // Release pairs with the Acquire in `pop`: the owner sees what `body` wrote.
        chunk.state.store(DONE, Ordering::Release);
        true
    }

    /// Delivers every chunk that is finished and has nothing unfinished before it, in order.
    ///
    /// If another CPU owns the lane, that CPU will do so and this call returns at once. `deliver`
    /// runs with no lock of the lane held and may call out.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; `deliver` runs at the caller's level, except for what it does with the
    /// chunk's work, which it is given at `DISPATCH_LEVEL`.
    pub fn drain(&self, ground: &impl Ground, mut deliver: impl FnMut(&Shared<Chunk<W>>, Fate)) {
        // AcqRel: Release publishes our DONE to the owner that sees AGAIN; Acquire, if we become
        // the owner, sees what the last one did.
        if self.word.fetch_or(OWNED | AGAIN, Ordering::AcqRel) & OWNED != 0 {
            return;
        }
        loop {
            // Acquire pairs with the fetch_or of whoever set AGAIN: its DONE is seen below.
            self.word.fetch_and(!AGAIN, Ordering::AcqRel);
            while let Some((chunk, fate)) = self.pop(ground) {
                deliver(&chunk, fate);
            }
            let let_go =
                self.word.compare_exchange(OWNED, IDLE, Ordering::AcqRel, Ordering::Relaxed);
            if let_go.is_ok() {
                return;
            }
        }
    }

    /// Refuses new chunks and marks those nobody has started as dead; a drain then delivers them so.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn stop(&self, ground: &impl Ground) {
        self.order.with(ground, |order| {
            order.stopped = true;
            let mut at = order.head.clone();
            while let Some(chunk) = at {
                // Relaxed: a dead chunk's work was published by the lane's lock, which is held.
                let _ = chunk.state.compare_exchange(
                    QUEUED,
                    DEAD,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                at = chunk.next.with(ground, |next| next.clone());
            }
        });
    }

    /// Takes chunks again after a [`Lane::stop`].
    pub fn restart(&self, ground: &impl Ground) {
        self.order.with(ground, |order| order.stopped = false);
    }

    /// How many chunks are under way.
    pub fn len(&self, ground: &impl Ground) -> usize {
        self.order.with(ground, |order| order.len)
    }

    /// Whether no chunk is under way.
    pub fn is_empty(&self, ground: &impl Ground) -> bool {
        self.len(ground) == 0
    }

    /// Takes the head if it is finished. Only the owner calls this.
    fn pop(&self, ground: &impl Ground) -> Option<(Shared<Chunk<W>>, Fate)> {
        self.order.with(ground, |order| {
            // Acquire pairs with the Release store of DONE in `run`.
            let fate = match order.head.as_ref()?.state.load(Ordering::Acquire) {
                DONE => Fate::Done,
                DEAD => Fate::Dead,
                _ => return None,
            };
            let head = order.head.take()?;
            order.head = head.next.with(ground, |next| next.take());
            if order.head.is_none() {
                order.tail = None;
            }
            order.len = order.len.saturating_sub(1);
            Some((head, fate))
        })
    }
}

impl<W> Chunk<W> {
    /// Gives the work to its deliverer.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it for the length of `body`.
    pub fn with_work<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut W) -> R) -> R {
        self.work.with(ground, body)
    }
}

#[cfg(test)]
mod tests;
