//! A lane: the order of one peer's chunks in one direction, and who delivers them.

use core::mem::offset_of;

use abi::{descriptor::Places, places};

use super::chunk::{Chunk, Claim, Head, List};
use crate::sync::{
    Ground, OutOfMemory, SpinLock,
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

/// What the owner of a lane does. The lane calls with nothing locked.
pub trait Owner<W> {
    /// Does the work of a chunk whose turn has come and that nobody has begun.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`: it runs as [`Claim::run`] does.
    fn run(&mut self, work: &mut W);

    /// Delivers a chunk; each is delivered once, in the lane's order.
    ///
    /// # IRQL
    ///
    /// That of who drains; may call out.
    fn deliver(&mut self, chunk: Chunk<W>);

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
    order: SpinLock<Order<W>>,
    /// How long the list is; written under its lock.
    len: AtomicUsize,
}

/// What a lane's lock guards.
struct Order<W> {
    list: List<W>,
    /// Somebody delivers. Whoever finishes a chunk meanwhile leaves it to that one, who looks at the head once more
    /// before it lets go.
    owned: bool,
}

/// What the owner is to do.
enum Step<W> {
    Deliver(Chunk<W>),
    Run(Claim<W>),
    HandOver,
    /// Nothing: it is the owner no more, or another one is.
    Leave,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        let order = Order { list: List::new(), owned: false };
        Self { order: SpinLock::new(order), len: AtomicUsize::new(0) }
    }
}

impl<W> Order<W> {
    /// What the owner does next; it lets go if there is nothing. With `enough` it does no more than hand over.
    fn next(&mut self, enough: bool) -> Step<W> {
        if enough && self.list.is_ready() {
            return Step::HandOver;
        }
        match self.list.next() {
            Some(Head::Done(chunk)) => Step::Deliver(chunk),
            Some(Head::Queued(claim)) => Step::Run(claim),
            None => {
                self.owned = false;
                Step::Leave
            }
        }
    }
}

impl<W> Lane<W> {
    /// For a debugger: the lane, and its chunks.
    pub const PLACES: [Places; 2] = [
        places!(
            "Lane",
            head = Self::ORDER + offset_of!(Order<W>, list) + List::<W>::HEAD,
            owned = Self::ORDER + offset_of!(Order<W>, owned),
            len,
        ),
        Chunk::<W>::PLACES,
    ];
    const ORDER: usize = offset_of!(Self, order) + SpinLock::<Order<W>>::VALUE;

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
    ) -> Result<Claim<W>, Refused<E>> {
        let (mut chunk, claim) = Chunk::try_new(work)?;
        self.with_order(ground, |order| {
            if order.list.len() >= most {
                return Err(Refused::Full);
            }
            // It is not queued yet; one that is not numbered must not go on.
            number(chunk.work_mut().ok_or(OutOfMemory)?).map_err(Refused::Unnumbered)?;
            chunk.queue();
            order.list.push(chunk);
            Ok(())
        })?;
        Ok(claim)
    }

    /// Appends a chunk that another lane has delivered.
    ///
    /// The caller then calls [`Lane::drain`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn append(&self, ground: &impl Ground, chunk: Chunk<W>) {
        self.with_order(ground, |order| order.list.push(chunk));
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
        let step = self.with_order(ground, |order| {
            if core::mem::replace(&mut order.owned, true) { Step::Leave } else { order.next(false) }
        });
        self.go_on(ground, step, owner);
    }

    /// Goes on where another CPU handed the lane over.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn resume(&self, ground: &impl Ground, Baton(()): Baton, owner: &mut impl Owner<W>) {
        let step = self.with_order(ground, |order| order.next(false));
        self.go_on(ground, step, owner);
    }

    /// Does a step, as the owner, and those that follow.
    fn go_on(&self, ground: &impl Ground, mut step: Step<W>, owner: &mut impl Owner<W>) {
        loop {
            let enough = match step {
                Step::Leave => return,
                Step::Deliver(chunk) => {
                    owner.deliver(chunk);
                    owner.has_enough()
                }
                Step::Run(claim) => {
                    claim.run(ground, |work| owner.run(work));
                    false
                }
                Step::HandOver => match owner.hand_over(Baton(())) {
                    Ok(()) => return,
                    Err(Baton(())) => false,
                },
            };
            step = self.with_order(ground, |order| order.next(enough));
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

    fn with_order<R>(&self, ground: &impl Ground, body: impl FnOnce(&mut Order<W>) -> R) -> R {
        self.order.with(ground, |order| {
            let result = body(order);
            self.len.store(order.list.len(), Ordering::Relaxed);
            result
        })
    }
}
