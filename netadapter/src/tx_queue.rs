//! The transmit queue: from NetAdapterCx's ring to the driver and back.
//!
//! Advance offers the new packets to [`Datapath::transmit`] and then returns the prefix of those that
//! are done, new or old. Nothing in the rings is written but the two indices of each. A packet in
//! flight is done by whoever drops its slot, which wakes the queue if it sleeps; a queue that is
//! being cancelled offers nothing any more and returns what was not looked at, and stops when the
//! last slot has been dropped.
//!
//! Advance and cancel run at PASSIVE_LEVEL or DISPATCH_LEVEL, one at a time, on any CPU.

use core::sync::atomic::{AtomicBool, Ordering};

use abi::discard::Discard;
use nt::{
    irql::{AtMostDispatch, Passive},
    netcx::{Notifier, PacketQueueEvents, QueueParts, RingView, Rings, Started},
    shared::Shared,
    status::NtError,
};

use crate::{
    adapter::Datapath,
    queue_counts::{Counting, QueueCounts},
    ring::{Slots, distance},
    tx_packet::TxBatch,
};

/// What a transmit queue's packets refer to.
#[derive(Debug)]
pub(crate) struct TxState {
    pub(crate) slots: Slots,
    pub(crate) view: RingView,
    pub(crate) notifier: Shared<Notifier>,
}

/// The adapter's transmit side, from any thread.
#[derive(Clone, Debug)]
pub struct TxQueue {
    pub(crate) notifier: Shared<Notifier>,
    pub(crate) counting: Shared<Counting>,
}

impl TxQueue {
    /// Has the packets offered again that [`Datapath::transmit`] left in the ring.
    ///
    /// To be called when what they were left for is there again. Nothing happens if the queue does
    /// not sleep, for then it looks again anyway, or if there is none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn resume(&self) {
        self.notifier.notify();
    }

    /// What it counted. Any IRQL.
    #[must_use]
    pub fn counts(&self) -> QueueCounts {
        self.counting.read()
    }
}

/// The context of the queue object.
pub(crate) struct TxQueueContext<D> {
    state: TxState,
    draining: AtomicBool,
    datapath: Shared<D>,
    counting: Shared<Counting>,
}

impl<D: Datapath> TxQueueContext<D> {
    /// The context of a queue with `parts`.
    pub(crate) fn try_new(
        parts: &QueueParts,
        TxQueue { notifier, counting }: TxQueue,
        datapath: Shared<D>,
    ) -> Result<Self, NtError> {
        let slots = Slots::try_new(parts.packet_count())?;
        let state = TxState { slots, view: parts.view(), notifier };
        Ok(Self { state, draining: AtomicBool::new(false), datapath, counting })
    }

    /// Offers the new packets, or returns them if the queue is being cancelled; then returns what is
    /// done.
    fn run(&self, rings: &mut Rings<'_>, level: &AtMostDispatch) {
        let packets = rings.packets();
        self.counting.found(distance(packets.next, packets.end, packets.mask));
        let next = if self.draining.load(Ordering::Relaxed) {
            let unseen = distance(packets.next, packets.end, packets.mask);
            let indices = (0..unseen).map(|at| crate::ring::step(packets.next, at, packets.mask));
            indices.for_each(|index| self.state.slots.finish(index));
            self.count(Discard::Stopping, u64::from(unseen));
            packets.end
        } else {
            let mut batch = TxBatch::new(&self.state, packets);
            self.datapath.transmit(&mut batch, level);
            let (next, malformed, unmapped) = batch.finish();
            self.count(Discard::MalformedPacket, malformed);
            self.count(Discard::NoMemory, unmapped);
            next
        };
        self.count_taken(rings, next);
        self.state.slots.return_done(rings, next);
    }

    /// Counts the packets before `next`, which are new until they are returned.
    #[inline(never)] // Nothing of it is on the stack while they are sent.
    fn count_taken(&self, rings: &Rings<'_>, next: u32) {
        let packets = rings.packets();
        self.counting.took(distance(packets.next, next, packets.mask), 0);
    }

    /// Counts discarded packets, if there are any.
    fn count(&self, reason: Discard, packets: u64) {
        if packets != 0 {
            self.datapath.discard(reason, packets, 0);
        }
    }
}

impl<D: Datapath> PacketQueueEvents for TxQueueContext<D> {
    fn start(&self, queue: &Started<'_>, passive: &mut Passive) {
        self.state.slots.reset();
        self.draining.store(false, Ordering::Relaxed);
        self.state.notifier.open(queue, passive);
    }

    fn stop(&self, passive: &mut Passive) {
        self.state.notifier.close(passive);
    }

    fn advance(&self, rings: &mut Rings<'_>, level: &AtMostDispatch) {
        self.run(rings, level);
    }

    fn cancel(&self, rings: &mut Rings<'_>, level: &AtMostDispatch) {
        self.draining.store(true, Ordering::Relaxed);
        self.datapath.transmit_cancelled(level);
        self.run(rings, level);
    }

    fn arm(&self, enabled: bool) {
        self.state.notifier.arm(enabled);
    }
}
