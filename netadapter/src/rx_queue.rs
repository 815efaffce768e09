//! The receive queue: buffers in, packets up.
//!
//! Whoever has opened a packet gives its buffer to [`RxQueue`], from any CPU; it waits there until
//! NetAdapterCx advances the queue, which only links it: the packet's bytes are not touched again.
//! A buffer goes into a ring only when there is a packet and a fragment for it, and both are returned
//! in the same call, so that no buffer is ever attached to a slot that is then skipped or ignored:
//! NetAdapterCx would not give it back.
//!
//! Advance and cancel run at PASSIVE_LEVEL or DISPATCH_LEVEL, one at a time, on any CPU.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use abi::discard::Discard;
use nt::{
    irql::{AtMostDispatch, Passive},
    netcx::{
        Entered, Kind, Notifier, PacketQueueEvents, QueueIdentity, QueueParts, Rings, RxChecksums,
        Started,
    },
    shared::Shared,
    status::NtError,
};

use crate::{
    adapter::Datapath,
    queue_counts::{Counting, QueueCounts},
    ring,
    rx_pool::{Places, RxBuffer, RxPool, Waiting},
    steering::{LastFlow, Steering},
};

/// The adapter's receive side, from any thread.
#[derive(Clone)]
pub struct RxQueue(Shared<RxState>);

struct RxState {
    lines: Vec<Line>,
    steering: Steering,
    /// Bits of [`RxChecksums`] that the stack wants, and [`GRANTED`].
    checksums: AtomicU8,
}

/// What belongs to one queue object.
struct Line {
    waiting: Waiting,
    notifier: Notifier,
    /// The object's identity, once there is one.
    identity: AtomicUsize,
    counting: Counting,
}

/// The most receive queues of an adapter.
pub const MOST_RX_QUEUES: usize = 16;

/// IPv4, TCP and UDP.
const WANTED: [u8; 3] = [1, 2, 4];
/// The ring has room for what was found.
const GRANTED: u8 = 8;

impl RxQueue {
    /// A receive side of up to `queues` queues, [`MOST_RX_QUEUES`] at most, without a ring, for at most `limit` waiting buffers of
    /// `pool` each.
    pub(crate) fn try_new(
        pool: &RxPool,
        queues: usize,
        limit: u32,
        passive: &Passive,
    ) -> Result<Self, NtError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(queues).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for _ in 0..queues {
            lines.push(Line {
                waiting: Waiting::new(pool.clone(), limit),
                notifier: Notifier::new(Kind::Receive, passive),
                identity: AtomicUsize::new(0),
                counting: Counting::default(),
            });
        }
        let checksums = AtomicU8::new(WANTED.iter().sum());
        Shared::try_new(RxState { lines, steering: Steering::new(), checksums }).map(Self)
    }

    /// Starts handing up to `count` buffers over to queue `number`, or to the first if that one is not
    /// there; `None` if there is no ring or it is being stopped. Dropping the indication puts them in line
    /// and wakes the queue, once for all buffers.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and the queue waits for the indication when it stops.
    #[must_use]
    pub fn open(&self, number: usize, count: usize) -> Option<Indication<'_>> {
        let enter = |number| {
            let line = self.line(number)?;
            Some((line, line.notifier.enter()?))
        };
        // A table may name a queue that is gone until the stack has seen that.
        let (line, inside) = enter(number).or_else(|| enter(0))?;
        Some(Indication { places: line.waiting.places(count), wake: Wake(inside) })
    }

    /// The numbers of all queues there may be, and what each counted. Any IRQL.
    pub fn counts(&self) -> impl Iterator<Item = (u32, QueueCounts)> {
        (0..).zip(self.0.lines.iter().map(|line| line.counting.read()))
    }

    /// The queue that a packet goes to, as the stack has said. Any IRQL.
    #[must_use]
    pub fn queue_of(&self, packet: &[u8], last: &mut LastFlow) -> u8 {
        if self.0.lines.len() == 1 { 0 } else { self.0.steering.queue_of(packet, last) }
    }

    /// What says which queue that is.
    pub(crate) fn steering(&self) -> &Steering {
        &self.0.steering
    }

    /// The number of a queue.
    pub(crate) fn number_of(&self, queue: QueueIdentity) -> Option<u8> {
        let is = |line: &Line| line.identity.load(Ordering::Acquire) == queue.as_usize();
        self.0.lines.iter().position(is).map(|number| number as u8)
    }

    fn line(&self, number: usize) -> Option<&Line> {
        self.0.lines.get(number)
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
    #[inline(always)] // A packet's way has one such call; others are rare.
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
    number: usize,
    cancelled: AtomicBool,
    datapath: Shared<D>,
}

impl<D: Datapath> RxQueueContext<D> {
    /// The context of queue `number` of `queue`.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] if there is none of that number.
    pub(crate) fn try_new(
        parts: &QueueParts,
        queue: RxQueue,
        number: usize,
        datapath: Shared<D>,
    ) -> Result<Self, NtError> {
        let line = queue.line(number).ok_or(NtError::INVALID_PARAMETER)?;
        line.identity.store(parts.identity().as_usize(), Ordering::Release);
        queue.set_bit(GRANTED, parts.has_checksum());
        Ok(Self { queue, number, cancelled: AtomicBool::new(false), datapath })
    }

    /// Returns everything: the ring's unused elements, and the buffers that wait for them.
    fn empty(&self, rings: &mut Rings<'_>) {
        ring::return_unused(rings);
        self.discard_waiting();
    }

    /// Puts the waiting buffers back into the pool, and counts them.
    fn discard_waiting(&self) {
        let (mut discarded, mut bytes) = (0, 0);
        let waiting = self.queue.line(self.number).map(|line| line.waiting.consume());
        for (buffer, _layer3) in waiting.into_iter().flatten() {
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
        if let Some(line) = self.queue.line(self.number) {
            line.notifier.open(queue, passive);
        }
    }

    fn stop(&self, passive: &mut Passive) {
        // From here on nobody pushes, so that what waits now is all.
        if let Some(line) = self.queue.line(self.number) {
            line.notifier.close(passive);
        }
        self.discard_waiting();
    }

    fn advance(&self, rings: &mut Rings<'_>, _level: &AtMostDispatch) {
        if self.cancelled.load(Ordering::Relaxed) {
            return self.empty(rings);
        }
        let Some(line) = self.queue.line(self.number) else { return };
        line.counting.found(line.waiting.count());
        let (mut waiting, mut packets, mut bytes) = (line.waiting.consume(), 0, 0);
        ring::fill(rings, || {
            let (buffer, layer3) = waiting.next()?;
            packets += 1;
            bytes += buffer.as_slice().len() as u64;
            Some((buffer.lend(), layer3))
        });
        line.counting.took(packets, bytes);
    }

    fn cancel(&self, rings: &mut Rings<'_>, _level: &AtMostDispatch) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.empty(rings);
    }

    fn arm(&self, enabled: bool) {
        if let Some(line) = self.queue.line(self.number) {
            line.notifier.arm(enabled);
        }
    }
}
