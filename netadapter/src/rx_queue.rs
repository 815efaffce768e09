//! The receive queue: buffers in, packets up.
//!
//! Whoever has opened a packet gives its buffer to [`RxQueue`], from any CPU; it waits there until
//! NetAdapterCx advances the queue, which only links it: the packet's bytes are not touched again.
//! A buffer goes into a ring only when there is a packet and a fragment for it, and both are returned
//! in the same call, so that no buffer is ever attached to a slot that is then skipped or ignored:
//! NetAdapterCx would not give it back.
//!
//! Advance and cancel run at PASSIVE_LEVEL or DISPATCH_LEVEL, one at a time, on any CPU.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use abi::discard::Discard;
use nt::{
    irql::{AtMostDispatch, Passive},
    netcx::{Entered, Kind, Notifier, PacketQueueEvents, QueueParts, Rings, RxChecksums, Started},
    shared::Shared,
    status::NtError,
};

use crate::{
    adapter::Datapath,
    ring,
    rx_pool::{Places, RxBuffer, RxPool, Waiting},
};

/// The adapter's receive side, from any thread.
#[derive(Clone)]
pub struct RxQueue(Shared<RxState>);

struct RxState {
    waiting: Waiting,
    notifier: Notifier,
    /// Bits of [`RxChecksums`] that the stack wants, and [`GRANTED`].
    checksums: AtomicU8,
}

/// IPv4, TCP and UDP.
const WANTED: [u8; 3] = [1, 2, 4];
/// The ring has room for what was found.
const GRANTED: u8 = 8;

impl RxQueue {
    /// A receive side without a ring, for at most `limit` waiting buffers of `pool`.
    pub(crate) fn try_new(pool: RxPool, limit: u32, passive: &Passive) -> Result<Self, NtError> {
        let notifier = Notifier::new(Kind::Receive, passive);
        let checksums = AtomicU8::new(WANTED.iter().sum());
        let waiting = Waiting::new(pool, limit);
        Shared::try_new(RxState { waiting, notifier, checksums }).map(Self)
    }

    /// Which checksums of received packets the stack is to be told of now. Any IRQL.
    #[must_use]
    pub fn checksums(&self) -> RxChecksums {
        // Relaxed: a packet on the way when it changes is as it was.
        let bits = self.0.checksums.load(Ordering::Relaxed);
        let [ipv4, tcp, udp] = WANTED.map(|bit| bits & GRANTED != 0 && bits & bit != 0);
        RxChecksums { ipv4, tcp, udp }
    }

    /// Changes which the stack wants.
    pub(crate) fn want_checksums(&self, RxChecksums { ipv4, tcp, udp }: RxChecksums) {
        for (bit, wanted) in WANTED.iter().zip([ipv4, tcp, udp]) {
            self.set_bit(*bit, wanted);
        }
    }

    fn set_bit(&self, bit: u8, set: bool) {
        if set {
            self.0.checksums.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.checksums.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Starts handing up to `count` buffers over; `None` if there is no ring or it is being stopped.
    /// Dropping the indication puts them in line and wakes the queue, once for all buffers.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and the queue waits for the indication when it stops.
    #[must_use]
    pub fn open(&self, count: usize) -> Option<Indication<'_>> {
        let inside = self.0.notifier.enter()?;
        Some(Indication { places: self.0.waiting.places(count), wake: Wake(inside) })
    }
}

impl core::fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RxQueue")
    }
}

/// Buffers being handed over.
#[must_use = "dropping it hands them over and wakes the queue"]
pub struct Indication<'queue> {
    /// First: what is handed over is in line before the queue is woken.
    places: Places<'queue>,
    #[expect(dead_code, reason = "for what its end does")]
    wake: Wake<'queue>,
}

impl Indication<'_> {
    /// Hands one buffer over.
    ///
    /// # Errors
    ///
    /// The buffer, if as many wait as may, or were announced, or it is of another pool.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn push(&mut self, buffer: RxBuffer) -> Result<(), RxBuffer> {
        self.places.push(buffer)
    }
}

/// Wakes the queue on drop.
struct Wake<'queue>(Entered<'queue>);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.notify();
    }
}

impl core::fmt::Debug for Indication<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Indication")
    }
}

/// The context of the queue object.
pub(crate) struct RxQueueContext<D> {
    queue: RxQueue,
    cancelled: AtomicBool,
    datapath: Shared<D>,
}

impl<D: Datapath> RxQueueContext<D> {
    /// The context of a queue that serves `queue`.
    pub(crate) fn new(parts: &QueueParts, queue: RxQueue, datapath: Shared<D>) -> Self {
        queue.set_bit(GRANTED, parts.has_checksum());
        Self { queue, cancelled: AtomicBool::new(false), datapath }
    }

    /// Returns everything: the ring's unused elements, and the buffers that wait for them.
    fn empty(&self, rings: &mut Rings<'_>) {
        ring::return_unused(rings);
        self.discard_waiting();
    }

    /// Puts the waiting buffers back into the pool, and counts them.
    fn discard_waiting(&self) {
        let (mut discarded, mut bytes) = (0, 0);
        for (buffer, _layer3) in self.queue.0.waiting.consume() {
            discarded += 1;
            bytes += buffer.as_slice().len() as u64;
        }
        if discarded != 0 {
            self.datapath.discard(Discard::NotUp, discarded, bytes);
        }
    }
}

impl<D: Datapath> PacketQueueEvents for RxQueueContext<D> {
    fn start(&self, queue: &Started<'_>, passive: &mut Passive) {
        self.cancelled.store(false, Ordering::Relaxed);
        self.queue.0.notifier.open(queue, passive);
    }

    fn stop(&self, passive: &mut Passive) {
        // From here on nobody pushes, so that what waits now is all.
        self.queue.0.notifier.close(passive);
        self.discard_waiting();
    }

    fn advance(&self, rings: &mut Rings<'_>, _level: &AtMostDispatch) {
        if self.cancelled.load(Ordering::Relaxed) {
            return self.empty(rings);
        }
        let mut waiting = self.queue.0.waiting.consume();
        ring::fill(rings, || waiting.next().map(|(buffer, layer3)| (buffer.lend(), layer3)));
    }

    fn cancel(&self, rings: &mut Rings<'_>, _level: &AtMostDispatch) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.empty(rings);
    }

    fn arm(&self, enabled: bool) {
        self.queue.0.notifier.arm(enabled);
    }
}
