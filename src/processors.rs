//! The CPUs that share the work: chunks to be sealed and opened, and lanes whose owner has had enough.
//!
//! Each CPU of the *scaling set* has a short queue, a DPC and a thread. The DPC is soon there and does
//! what fits into its share of a clock tick; what is more the thread does, at `PASSIVE_LEVEL`,
//! raising for one errand at a time, so that nothing else on that CPU waits for long. Whoever has
//! something for a CPU wakes the one or the other, and only if neither is at it.
//!
//! An errand keeps its device alive, and the last reference to a device must not go here: a device
//! that closes waits until none of its errands is left ([`Processors::settle`]).
//!
//! Queueing: any CPU, `<= DISPATCH_LEVEL`. Errands are done at `DISPATCH_LEVEL`.

use alloc::vec::Vec;
use core::{
    mem::offset_of,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use abi::{descriptor::Places, places};
use crypto::{
    pipeline::{Baton, Claim, Queue, Server},
    sync::Shared,
};
use nt::{
    dpc::{self, Dpc, Importance},
    event::{Event, Kind},
    irql::{AtMostDispatch, Dispatch, Passive},
    processor::{self, Processor},
    status::NtError,
    thread::{self, Thread},
    time::{monotonic, to_100ns},
};

mod choice;

pub(crate) use choice::Choice;

use crate::{
    account::{Account, Share},
    datapath::{Receiving, Sending, Stage},
    device::Device,
    ground::At,
    peer::Peer,
};

/// Errands that may wait for one CPU.
const MOST_WAITING: usize = 32;
/// Chunks are dealt to a CPU that has fewer errands than this waiting: so many that it does not run dry
/// while who deals does one itself, or sends.
const MOST_BEFORE_DEALT: usize = 3;
/// Below those of the workers, above ordinary threads.
const PRIORITY: i32 = 12;
/// What a DPC may do in a clock tick.
const SHARE: Share = Share { packets: 64, time_100ns: 1_000 };
/// How often it is looked whether the errands of a device are over.
const SETTLE_POLL: Duration = Duration::from_millis(1);

/// Something for another CPU to do.
pub(crate) struct Errand<T = Task> {
    pub(crate) task: T,
    pub(crate) peer: Shared<Peer>,
    /// Last: it is what the rest is a part of.
    pub(crate) device: Shared<Device>,
}

/// What there is to do for a peer.
pub(crate) enum Task {
    /// Go on as the owner of a lane.
    GoOn(GoOn),
    /// Seal a chunk, unless somebody has.
    Seal(Claim<Sending>),
    /// Open a chunk, unless somebody has.
    Open(Claim<Receiving>),
}

/// Going on as the owner of a lane.
pub(crate) struct GoOn(pub(crate) Stage, pub(crate) Baton);

impl From<Errand<GoOn>> for Errand {
    fn from(Errand { task, peer, device }: Errand<GoOn>) -> Self {
        Self { task: Task::GoOn(task), peer, device }
    }
}

/// The scaling set. Dropped at `PASSIVE_LEVEL`, after the last adapter: waits for its threads.
pub(crate) struct Processors {
    set: Vec<Cpu>,
    /// Why it is these.
    pub(crate) choice: Choice,
    /// Never set: who settles waits on it.
    pause: Event,
}

/// A CPU of the set.
struct Cpu {
    index: u32,
    post: Shared<Post>,
    dpc: Dpc<Shared<Post>>,
    /// Its end is waited for when it is dropped.
    _thread: Thread,
}

/// What waits for one CPU, and how it is kept from taking too much of it.
struct Post {
    queue: Queue<Errand, MOST_WAITING>,
    /// What was spent on packets at `DISPATCH_LEVEL`.
    account: Account,
    /// Wakes the thread.
    more: Event,
    stop: AtomicBool,
    /// Odd while the thread is about an errand.
    errands: AtomicU64,
    /// Whether an errand is being done. Written by its CPU only, at `DISPATCH_LEVEL`.
    is_at_work: AtomicBool,
    /// The longest time its DPC took. Written by it alone.
    longest_dpc_100ns: AtomicU64,
}

impl Processors {
    /// For a debugger: the set, one CPU of it, and what waits for that.
    pub(crate) const PLACES: [Places; 4] =
        [places!("Processors", set), Cpu::PLACES, Post::PLACES, Account::PLACES];

    /// Starts the set that was chosen.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says of a CPU or a thread; what was started by
    /// then is ended.
    pub(crate) fn start(choice: Choice, passive: &Passive) -> Result<Self, NtError> {
        let mut set = Vec::new();
        set.try_reserve_exact(choice.indices().len())
            .map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        // From here on dropping `processors` ends those that run.
        let mut processors = Self { set, choice, pause: Event::try_new(Kind::Notification)? };
        for index in processors.choice.indices() {
            processors.set.push(Cpu::start(*index, passive)?);
        }
        Ok(processors)
    }

    /// Whether there are several.
    pub(crate) fn share(&self) -> bool {
        self.set.len() > 1
    }

    /// Gives a chunk to another CPU, if that one has little to do.
    ///
    /// `turn` counts the chunks of one batch, so that they go around the set. This CPU is passed over: it
    /// has the batch to go on with, and does what no other one takes.
    ///
    /// # Errors
    ///
    /// The errand: this CPU does it.
    pub(crate) fn deal(
        &self,
        errand: Errand,
        turn: &mut usize,
        level: &AtMostDispatch,
    ) -> Result<(), Errand> {
        let here = level.pinned(processor::current);
        let Some(other) = self.other(here, *turn) else { return Err(errand) };
        *turn = turn.wrapping_add(1);
        other.give(errand, MOST_BEFORE_DEALT, level)
    }

    /// Has an errand done behind what this CPU is about, if that is one, too; or else by the next CPU.
    ///
    /// Between two errands a thread lowers the IRQL, and whoever waits for this CPU has it: so a lane
    /// changes CPUs only where a callback of the stack has had enough of it.
    ///
    /// # Errors
    ///
    /// The errand, when there is no other CPU or that one has as many as it may.
    pub(crate) fn hand_on(
        &self,
        errand: Errand<GoOn>,
        level: &AtMostDispatch,
    ) -> Result<(), Errand<GoOn>> {
        let here = level.pinned(processor::current);
        let busy = self.cpu(here).filter(|cpu| cpu.post.is_at_work.load(Ordering::Relaxed));
        match busy.or_else(|| self.other(here, 0)) {
            Some(cpu) => cpu.give(errand, MOST_WAITING, level),
            None => Err(errand),
        }
    }

    /// The CPU of this index, if it is in the set.
    fn cpu(&self, index: u32) -> Option<&Cpu> {
        self.set.iter().find(|cpu| cpu.index == index)
    }

    /// The CPU of the set that comes next after `here`, or one that is so many others later; none if it is
    /// a set of one, which shares nothing.
    fn other(&self, here: u32, later: usize) -> Option<&Cpu> {
        if !self.share() {
            return None;
        }
        let count = self.set.len();
        let position = self.set.iter().position(|cpu| cpu.index == here);
        let (next, others) = match position {
            Some(position) => (position.wrapping_add(1), count.wrapping_sub(1)),
            None => (here as usize, count),
        };
        let at = next.wrapping_add(later.checked_rem(others)?);
        self.set.get(at.checked_rem(count)?)
    }

    /// Notes that a CPU was kept at `DISPATCH_LEVEL` until `ended`, for so long and so many packets.
    pub(crate) fn note(&self, index: u32, ended: Duration, took_100ns: u64, packets: usize) {
        if let Some(cpu) = self.cpu(index) {
            cpu.post.account.note(ended, took_100ns, packets);
        }
    }

    /// The longest time that the DPC of a CPU took; 0 of one that is not in the set. Any IRQL.
    pub(crate) fn longest_dpc_100ns(&self, index: u32) -> u64 {
        self.cpu(index).map_or(0, |cpu| cpu.post.longest_dpc_100ns.load(Ordering::Relaxed))
    }

    /// Waits until every errand that a CPU was about is over, and what it referred to was dropped.
    pub(crate) fn settle(&self, passive: &Passive) {
        dpc::flush(passive);
        for Cpu { post, .. } in &self.set {
            // Acquire pairs with the Release in `Post::do_one`.
            let errand = post.errands.load(Ordering::Acquire);
            while errand % 2 == 1 && post.errands.load(Ordering::Acquire) == errand {
                let _never_set = self.pause.wait_for(passive, SETTLE_POLL);
            }
        }
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        self.set.iter().for_each(|cpu| cpu.post.end());
    }
}

impl Cpu {
    const PLACES: Places = places!("Cpu", index, post);

    fn start(index: u32, passive: &Passive) -> Result<Self, NtError> {
        let processor = Processor::of_index(index)?;
        let post = Post {
            queue: Queue::default(),
            account: Account::new(SHARE),
            more: Event::try_new(Kind::Synchronization)?,
            stop: AtomicBool::new(false),
            errands: AtomicU64::new(0),
            is_at_work: AtomicBool::new(false),
            longest_dpc_100ns: AtomicU64::new(0),
        };
        let post = Shared::try_new(post).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        let mut dpc = Dpc::try_new(post.clone(), serve)?;
        dpc.set_target(processor)?;
        // Of medium importance it would wait for the other CPU's next clock tick.
        dpc.set_importance(Importance::MediumHigh);
        let own = post.clone();
        let thread = Thread::spawn(passive, move |passive| {
            thread::stay_on(&passive, processor);
            own.work(&passive);
        })?;
        thread.set_priority(passive, PRIORITY);
        Ok(Self { index, post, dpc, _thread: thread })
    }

    /// Puts an errand behind fewer than `most`, and wakes who is to do it.
    fn give<E: Into<Errand>>(
        &self,
        errand: E,
        most: usize,
        level: &AtMostDispatch,
    ) -> Result<(), E> {
        match self.post.queue.push(&At(level), errand, most)? {
            Server::Awake => {}
            Server::ToWake if self.post.account.is_spent(monotonic()) => self.post.more.set(),
            Server::ToWake => {
                self.dpc.queue();
            }
        }
        Ok(())
    }
}

impl Post {
    const PLACES: Places = places!(
        "Post",
        shared = Shared::<Self>::VALUE,
        served = offset_of!(Self, queue) + Queue::<Errand, MOST_WAITING>::SERVED,
        account,
        errands,
        is_at_work,
    );

    /// The thread's body.
    fn work(&self, passive: &Passive) {
        loop {
            self.more.wait(passive);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            while passive.pinned(|level| self.do_one(level.at_most())) {}
        }
    }

    /// Does the first errand, in the thread; returns whether there was one.
    fn do_one(&self, level: &AtMostDispatch) -> bool {
        // Before the errand is taken: who finds an even number finds the queue as it is, too.
        self.errands.fetch_add(1, Ordering::Relaxed);
        let errand = self.queue.pop(&At(level));
        let found = errand.is_some();
        if let Some(errand) = errand {
            self.run(errand, level);
        }
        // Release pairs with the Acquire in `settle`: all that the errand referred to is dropped.
        self.errands.fetch_add(1, Ordering::Release);
        found
    }

    /// Does an errand of this CPU's.
    fn run(&self, errand: Errand, level: &AtMostDispatch) {
        self.is_at_work.store(true, Ordering::Relaxed);
        Device::run_errand(errand, level);
        self.is_at_work.store(false, Ordering::Relaxed);
    }

    /// Has the thread end.
    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        self.more.set();
    }
}

/// The DPC's routine: does what there is, as far as it may, and leaves the rest to the thread.
fn serve(post: &Shared<Post>, level: &Dispatch<'_>) {
    let level = level.at_most();
    let began = monotonic();
    let mut now = began;
    loop {
        if post.account.is_spent(now) {
            post.more.set();
            break;
        }
        let Some(errand) = post.queue.pop(&At(level)) else { break };
        post.run(errand, level);
        now = monotonic();
    }
    let took_100ns = to_100ns(now.saturating_sub(began));
    // Relaxed: at DISPATCH_LEVEL nobody else writes what is this CPU's.
    if post.longest_dpc_100ns.load(Ordering::Relaxed) < took_100ns {
        post.longest_dpc_100ns.store(took_100ns, Ordering::Relaxed);
    }
}
