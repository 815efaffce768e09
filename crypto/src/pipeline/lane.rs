//! A lane: the order of one peer's chunks in one direction, and who delivers them.

use super::{
    chunk::{Chunk, Head, List},
    ownership::Ownership,
};
use crate::sync::{
    Ground, OutOfMemory, Shared, SpinLock,
    atomic::{AtomicUsize, Ordering},
};

/// Why a chunk was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<E> {
    /// As many chunks of this lane are under way as may be.
    Full,
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

/// The ownership of a lane, on its way from one CPU to another.
///
/// Made by a lane for [`Owner::hand_over`], used up by [`Lane::resume`] of the same lane. A lane
/// whose baton is dropped never delivers again.
#[must_use = "a lane whose baton is lost never delivers again"]
#[derive(Debug)]
pub struct Baton(());

/// What the owner of a lane does. The lane calls with none of its locks held, but see
/// [`Owner::run`].
pub trait Owner<W> {
    /// Does the work of a chunk whose turn has come and that nobody has begun.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`; must not call out of the driver: it runs as [`Chunk::run`] does.
    fn run(&mut self, work: &mut W);

    /// Delivers a chunk; each is delivered once, in the lane's order.
    ///
    /// # IRQL
    ///
    /// That of who drains; may call out.
    fn deliver(&mut self, chunk: Shared<Chunk<W>>);

    /// Whether this CPU has delivered enough for one time.
    fn has_enough(&mut self) -> bool;

    /// Has another CPU go on, by [`Lane::resume`].
    ///
    /// # Errors
    ///
    /// The baton, if that cannot be had now: then this CPU goes on.
    fn hand_over(&mut self, baton: Baton) -> Result<(), Baton>;
}

/// The order of one peer's chunks in one direction.
pub struct Lane<W> {
    order: SpinLock<List<W>>,
    /// How long the list is; written under its lock.
    len: AtomicUsize,
    ownership: Ownership,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        let (order, len) = (SpinLock::new(List::new()), AtomicUsize::new(0));
        Self { order, len, ownership: Ownership::new() }
    }
}

impl<W> Lane<W> {
    /// Numbers `work` and appends it, both or neither.
    ///
    /// `number` runs under the lane's lock and takes the chunk's counters; at most `most` chunks
    /// may be under way. The caller then runs the chunk, or has it run, and calls [`Lane::drain`].
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
        let mut chunk = Chunk::try_new(work)?;
        self.with_order(ground, |order| {
            if order.len() >= most {
                return Err(Refused::Full);
            }
            // Nobody else has it yet; one that is not numbered must not go on.
            let fresh = Shared::get_mut(&mut chunk).ok_or(OutOfMemory)?;
            number(fresh.work_mut()).map_err(Refused::Unnumbered)?;
            order.push(ground, chunk.clone());
            Ok(())
        })?;
        Ok(chunk)
    }

    /// Appends a chunk that is done, and that another lane has delivered.
    ///
    /// The caller then calls [`Lane::drain`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn append(&self, ground: &impl Ground, chunk: Shared<Chunk<W>>) {
        self.with_order(ground, |order| order.push(ground, chunk));
    }

    /// Delivers every chunk that is done and has nothing unfinished before it, in order; a chunk whose
    /// turn has come and that nobody has begun is run here.
    ///
    /// If another CPU owns the lane, that CPU does so and this call returns at once; so it does when
    /// `owner` has had enough and another CPU goes on.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    // spec: WG 7.2-a
    pub fn drain(&self, ground: &impl Ground, owner: &mut impl Owner<W>) {
        if self.ownership.claim() {
            self.go_on(ground, Baton(()), owner);
        }
    }

    /// Goes on where another CPU handed the lane over.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn resume(&self, ground: &impl Ground, baton: Baton, owner: &mut impl Owner<W>) {
        self.ownership.look();
        self.go_on(ground, baton, owner);
    }

    /// As the owner, who has begun a look.
    fn go_on(&self, ground: &impl Ground, mut baton: Baton, owner: &mut impl Owner<W>) {
        loop {
            while let Some(head) = self.with_order(ground, |order| order.next(ground)) {
                match head {
                    Head::Done { chunk, is_last } => {
                        owner.deliver(chunk);
                        if is_last {
                            // What was added meanwhile asks for another look when it is done.
                            break;
                        }
                    }
                    Head::Queued(chunk) => {
                        chunk.run(ground, |work| owner.run(work));
                        continue;
                    }
                }
                if owner.has_enough() && self.order.with(ground, |order| order.is_ready()) {
                    match owner.hand_over(baton) {
                        Ok(()) => return,
                        Err(returned) => baton = returned,
                    }
                }
            }
            if self.ownership.let_go() {
                return;
            }
            self.ownership.look();
        }
    }

    /// How many chunks are under way; a moment later it may be another number.
    pub fn len(&self) -> usize {
        // Relaxed: only a hint.
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no chunk is under way; as [`Lane::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with_order<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut List<W>) -> R) -> R {
        self.order.with(ground, |order| {
            let result = body(order);
            self.len.store(order.len(), Ordering::Relaxed);
            result
        })
    }
}
