//! Packets that wait for a session, one queue per peer, oldest first.
//!
//! Bounded in packets and bytes; the oldest go when a new one comes. Nothing is allocated for a
//! peer that stages nothing. Packets are freed outside the lock. [WG §6.4]

use alloc::{collections::VecDeque, vec::Vec};

use abi::discard::Discard;

use super::limits::{MAX_STAGED_BYTES, MAX_STAGED_PACKETS};
use crate::sync::{
    Ground, SpinLock,
    atomic::{AtomicBool, Ordering},
};

/// The queue of one peer.
pub(super) struct Staged {
    queue: SpinLock<Queue>,
    /// Whether there are any, to be asked without the lock.
    any: AtomicBool,
}

struct Queue {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Why nothing may be staged, if so.
    closed: Option<Discard>,
}

impl Staged {
    /// Where their bytes are counted, for a debugger.
    pub(super) const BYTES: usize = core::mem::offset_of!(Self, queue)
        + SpinLock::<Queue>::VALUE
        + core::mem::offset_of!(Queue, bytes);

    /// An empty queue that is closed until the adapter is up.
    pub(super) fn new() -> Self {
        let closed = Some(Discard::AdapterDown);
        let queue = Queue { packets: VecDeque::new(), bytes: 0, closed };
        Self { queue: SpinLock::new(queue), any: AtomicBool::new(false) }
    }

    /// Adds a packet; returns how many of the oldest went for it, and whether it is in: they may go, and then the queue is
    /// closed.
    pub(super) fn push(&self, ground: &impl Ground, packet: Vec<u8>) -> (u32, Result<(), Discard>) {
        if packet.len() > MAX_STAGED_BYTES {
            return (0, Err(Discard::Oversize));
        }
        let mut packet = Some(packet);
        let mut discarded = 0;
        loop {
            // One per turn, so that memory is given back with the lock open.
            let oldest = self.with(ground, |queue| {
                if let Some(reason) = queue.closed {
                    return Err(reason);
                }
                if let Some(packet) = packet.take_if(|packet| queue.has_room_for(packet.len())) {
                    // Within its capacity the list does not grow by itself, which could not fail.
                    let reserved = queue.packets.try_reserve(1);
                    if reserved.is_err() || queue.packets.len() == queue.packets.capacity() {
                        return Err(Discard::NoMemory);
                    }
                    queue.bytes = queue.bytes.saturating_add(packet.len());
                    queue.packets.push_back(packet);
                }
                Ok(if packet.is_some() { queue.pop() } else { None })
            });
            match oldest {
                Ok(Some(_)) => discarded = u32::saturating_add(discarded, 1),
                Ok(None) => return (discarded, Ok(())),
                Err(reason) => return (discarded, Err(reason)),
            }
        }
    }

    /// Takes the oldest packet.
    pub(super) fn pop(&self, ground: &impl Ground) -> Option<Vec<u8>> {
        self.with(ground, Queue::pop)
    }

    /// How many packets wait.
    pub(super) fn len(&self, ground: &impl Ground) -> usize {
        self.queue.with(ground, |queue| queue.packets.len())
    }

    /// Drops all packets and returns how many there were.
    pub(super) fn clear(&self, ground: &impl Ground) -> usize {
        let packets = self.with(ground, |queue| {
            queue.bytes = 0;
            core::mem::take(&mut queue.packets)
        });
        packets.len()
    }

    /// Opens the queue, or closes it for a reason.
    pub(super) fn set_closed(&self, ground: &impl Ground, closed: Option<Discard>) {
        self.queue.with(ground, |queue| queue.closed = closed);
    }

    /// Whether any packet waits. One that is being added or taken may be missed.
    pub(super) fn any(&self) -> bool {
        // Relaxed: only a hint.
        self.any.load(Ordering::Relaxed)
    }

    /// Changes the queue.
    fn with<R>(&self, ground: &impl Ground, change: impl FnOnce(&mut Queue) -> R) -> R {
        self.queue.with(ground, |queue| {
            let result = change(queue);
            // Relaxed: as above; stores are ordered by the lock.
            self.any.store(!queue.packets.is_empty(), Ordering::Relaxed);
            result
        })
    }
}

impl Queue {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.packets.len() < MAX_STAGED_PACKETS
            && self.bytes.saturating_add(bytes) <= MAX_STAGED_BYTES
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes = self.bytes.saturating_sub(packet.len());
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::sync::Unpinned;

    fn open() -> Staged {
        let staged = Staged::new();
        staged.set_closed(&Unpinned, None);
        staged
    }

    // spec-test: WG 6.4-a
    #[test]
    fn the_129th_packet_pushes_out_the_first() {
        let staged = open();
        for n in 0..MAX_STAGED_PACKETS {
            assert_eq!(staged.push(&Unpinned, vec![n as u8]), (0, Ok(())));
        }
        assert_eq!(staged.push(&Unpinned, vec![200]), (1, Ok(())));
        assert_eq!(staged.len(&Unpinned), MAX_STAGED_PACKETS);
        assert_eq!(staged.pop(&Unpinned), Some(vec![1]), "order kept, oldest gone");
        assert_eq!(staged.clear(&Unpinned), MAX_STAGED_PACKETS - 1);
        assert_eq!(staged.pop(&Unpinned), None);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let staged = open();
        for _ in 0..4 {
            assert_eq!(staged.push(&Unpinned, vec![0; MAX_STAGED_BYTES / 4]), (0, Ok(())));
        }
        assert_eq!(staged.push(&Unpinned, vec![0; MAX_STAGED_BYTES / 4 + 1]), (2, Ok(())));
        assert_eq!(staged.push(&Unpinned, vec![0; MAX_STAGED_BYTES]), (3, Ok(())));
        let whole = vec![0; MAX_STAGED_BYTES + 1];
        assert_eq!(staged.push(&Unpinned, whole), (0, Err(Discard::Oversize)));
        assert_eq!(staged.len(&Unpinned), 1);
    }

    #[test]
    fn a_closed_queue_says_why() {
        let staged = Staged::new();
        assert_eq!(staged.push(&Unpinned, vec![1]), (0, Err(Discard::AdapterDown)));
        staged.set_closed(&Unpinned, Some(Discard::PeerRemoved));
        assert_eq!(staged.push(&Unpinned, vec![1]), (0, Err(Discard::PeerRemoved)));
    }

    /// Closes a queue before its lock is taken for the third time: the oldest has just gone.
    struct Closing<'s>(&'s Staged, core::cell::Cell<u32>);

    impl Ground for Closing<'_> {
        fn pinned<R>(&self, body: impl FnOnce() -> R) -> R {
            self.1.set(self.1.get() + 1);
            if self.1.get() == 3 {
                self.0.set_closed(&Unpinned, Some(Discard::AdapterDown));
            }
            body()
        }
    }

    #[test]
    fn what_went_before_the_queue_was_closed_is_told() {
        let staged = open();
        for _ in 0..4 {
            let _ = staged.push(&Unpinned, vec![0; MAX_STAGED_BYTES / 4]);
        }
        let closing = Closing(&staged, core::cell::Cell::new(0));
        let pushed = staged.push(&closing, vec![0; MAX_STAGED_BYTES]);
        assert_eq!(pushed, (2, Err(Discard::AdapterDown)));
        assert_eq!(staged.len(&Unpinned), 2);
    }
}
