//! What one CPU leaves to the next: lanes whose owner has delivered enough.
//!
//! Each CPU has a short queue and a DPC of its own. The queue may be full; then the owner goes on
//! itself. A handover keeps its device alive, and the last reference to a device must not go at
//! `DISPATCH_LEVEL`: a device that closes waits until none is left of its own.
//!
//! Queueing: any CPU, `<= DISPATCH_LEVEL`. The lanes are gone on with at `DISPATCH_LEVEL`.

use alloc::vec::Vec;

use crypto::{
    pipeline::Baton,
    sync::{Shared, SpinLock},
};
use heapless::Deque;
use nt::{
    dpc::{Dpc, Importance},
    irql::{AtMostDispatch, Dispatch},
    processor::{self, Processor},
    status::NtError,
};

use crate::{datapath::Stage, device::Device, ground::At, peer::Peer};

/// Lanes that may wait for one CPU.
const MOST_WAITING: usize = 32;

/// A lane to go on with.
pub(crate) struct Handover {
    pub(crate) stage: Stage,
    pub(crate) baton: Baton,
    pub(crate) peer: Shared<Peer>,
    /// Last: it is what the rest is a part of.
    pub(crate) device: Shared<Device>,
}

/// The CPUs. Dropped at `PASSIVE_LEVEL`, after the last adapter.
pub(crate) struct Processors(Vec<Dpc<Queue>>);

/// The lanes that wait for one CPU.
#[derive(Default)]
struct Queue(SpinLock<Deque<Handover, MOST_WAITING>>);

impl Processors {
    /// Makes a queue and a DPC for each CPU.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says of a CPU.
    pub(crate) fn try_new() -> Result<Self, NtError> {
        let count = processor::count();
        let mut all = Vec::new();
        all.try_reserve_exact(count as usize).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for index in 0..count {
            let mut dpc = Dpc::try_new(Queue::default(), serve)?;
            dpc.set_target(Processor::of_index(index)?)?;
            // Of medium importance it would wait for the other CPU's next clock tick.
            dpc.set_importance(Importance::MediumHigh);
            all.push(dpc);
        }
        Ok(Self(all))
    }

    /// Has the CPU after this one go on with a lane.
    ///
    /// # Errors
    ///
    /// What was to be handed over, when there is no other CPU or that one has as many as it may.
    pub(crate) fn hand_to_next(
        &self,
        handover: Handover,
        level: &AtMostDispatch,
    ) -> Result<(), Handover> {
        let here = level.pinned(processor::current) as usize;
        let next = here.checked_add(1).filter(|next| *next < self.0.len()).unwrap_or(0);
        let Some(dpc) = self.0.get(next).filter(|_| next != here) else { return Err(handover) };
        dpc.context().0.with(&At(level), |queue| queue.push_back(handover))?;
        dpc.queue();
        Ok(())
    }
}

/// The DPC's routine: goes on with the lanes there are. Those that come meanwhile queue it again.
fn serve(queue: &Queue, level: &Dispatch<'_>) {
    let level = level.at_most();
    let ground = At(level);
    for _ in 0..queue.0.with(&ground, |queue| queue.len()) {
        let Some(handover) = queue.0.with(&ground, Deque::pop_front) else { return };
        Device::go_on(handover, level);
    }
}
