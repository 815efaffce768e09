//! What other CPUs are to do for an adapter: chunks to seal and open, lanes to go on with.
//!
//! Counted from the moment somebody is sent until it is done, so that a device that closes can wait. `<= DISPATCH_LEVEL`, but
//! for the waiting.

use core::sync::atomic::Ordering;

use abi::statistics::Counter;
use crypto::{protocol::Now, sync::Shared};
use nt::irql::{AtMostDispatch, Passive};

use super::Device;
use crate::{
    datapath::Stage,
    peer::Peer,
    processors::{Errand, GoOn, Processors, Task},
};

impl Device {
    /// Has the next CPU, or this one after what else it has to do, go on with one of the device's lanes.
    ///
    /// # Errors
    ///
    /// What was to be done, if that cannot be had now.
    pub(crate) fn hand_on(
        errand: Errand<GoOn>,
        level: &AtMostDispatch,
    ) -> Result<(), Errand<GoOn>> {
        Self::send_on(errand, Counter::Handovers, |processors, errand| {
            processors.hand_on(errand, level)
        })
    }

    /// Has another CPU seal or open a chunk, or does it here: it is this CPU's turn, or the other one has
    /// enough to do.
    ///
    /// `dealt` counts the chunks of one batch; without it the chunk stays here.
    pub(crate) fn deal_or_do(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        task: Task,
        dealt: Option<&mut usize>,
        now: Now,
        level: &AtMostDispatch,
    ) {
        let task = match dealt.filter(|_| this.core.processors.share()) {
            None => task,
            Some(turn) => {
                let errand = Errand { task, peer: peer.clone(), device: this.clone() };
                let given = Self::send_on(errand, Counter::ChunksDealt, |processors, errand| {
                    processors.deal(errand, turn, level)
                });
                let Err(Errand { task, .. }) = given else { return };
                task
            }
        };
        Self::do_task(this, peer, task, now, level);
    }

    /// Sends another CPU on an errand, and counts it.
    #[inline(never)] // What it has on the stack is not to be below what seals.
    fn send_on<T>(
        errand: Errand<T>,
        counter: Counter,
        give: impl FnOnce(&Processors, Errand<T>) -> Result<(), Errand<T>>,
    ) -> Result<(), Errand<T>> {
        let device = errand.device.clone();
        // Relaxed: the queue's lock publishes it with the errand.
        device.errands.fetch_add(1, Ordering::Relaxed);
        let given = give(&device.core.processors, errand);
        if given.is_ok() {
            device.counters.add(counter, 1);
        } else {
            device.errands.fetch_sub(1, Ordering::Relaxed);
        }
        given
    }

    /// Does what another CPU sent this one to do.
    pub(crate) fn run_errand(errand: Errand, level: &AtMostDispatch) {
        let Errand { task, peer, device } = errand;
        let began = device.now();
        let packets = Self::do_task(&device, &peer, task, began, level);
        device.note_time_at_dispatch(began, packets, level);
        drop(peer);
        // Release pairs with the Acquire of `recall`.
        device.errands.fetch_sub(1, Ordering::Release);
    }

    /// Does a task here; returns for how many packets.
    fn do_task(
        this: &Shared<Self>,
        peer: &Shared<Peer>,
        task: Task,
        now: Now,
        level: &AtMostDispatch,
    ) -> usize {
        match task {
            Task::GoOn(GoOn(Stage::Seal, baton)) => {
                Self::go_on_sealing(this, peer, baton, now, level)
            }
            Task::GoOn(GoOn(Stage::Send, baton)) => {
                Self::go_on_sending(this, peer, baton, now, level)
            }
            Task::GoOn(GoOn(Stage::Open, baton)) => {
                Self::go_on_opening(this, peer, baton, now, level)
            }
            Task::Seal(claim) => Self::seal_chunk(this, peer, &claim, now, level),
            Task::Open(claim) => Self::open_chunk(this, peer, &claim, now, level),
        }
    }

    /// Waits until no CPU has anything to do for this device, nor a reference to it.
    pub(super) fn recall(&self, passive: &Passive) {
        // Acquire pairs with the Release of `run_errand`.
        while self.errands.load(Ordering::Acquire) != 0 {
            self.core.processors.settle(passive);
        }
        // The last one may not have returned.
        self.core.processors.settle(passive);
    }
}
