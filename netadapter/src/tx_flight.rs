//! Packets in flight: their bytes are read, and their places in the ring given back, together.
//!
//! The queue stops only when no flight is left, so one must not be kept for longer than its packets'
//! bytes are needed; what has to wait for something is copied.
#![allow(unsafe_code)] // Refers to a queue that somebody inside its notifier keeps alive.

use core::{fmt, ops::Range, ptr::NonNull, slice, sync::atomic::AtomicU8};

use heapless::Vec;

use crate::{
    tx_packet::{Body, Pieces, TxPacket, copy, within},
    tx_queue::TxState,
};

/// Up to `N` packets of one queue, on any thread at or below `DISPATCH_LEVEL`. Dropping it is being
/// done with them: they go back to the stack, and a queue that sleeps is woken, once for all.
#[must_use = "dropping a flight returns its packets to the stack"]
pub struct TxFlight<const N: usize>(Option<Inside<N>>);

/// # Invariants
///
/// Each packet is marked as in flight, by this value alone, or one of its shares is this value's;
/// somebody is inside the queue's notifier for it, once, so that the queue, and with it `state`, exists.
struct Inside<const N: usize> {
    state: NonNull<TxState>,
    packets: Vec<Flying, N>,
}

/// A packet in flight.
#[derive(Clone, Copy)]
struct Flying {
    body: Body,
    len: usize,
    /// Others may have it too.
    shared: bool,
}

// SAFETY: what a flight refers to is shared by atomics, and the packets in the ring are not written.
unsafe impl<const N: usize> Send for Inside<N> {}
// SAFETY: as above; a shared flight only reads.
unsafe impl<const N: usize> Sync for Inside<N> {}

impl<const N: usize> Default for TxFlight<N> {
    fn default() -> Self {
        Self(None)
    }
}

impl<const N: usize> TxFlight<N> {
    /// Takes a packet along, beyond its advance; returns its position.
    ///
    /// # Errors
    ///
    /// The packet itself, when the queue is stopping, as many packets are in flight as may be, the
    /// flight is full or one of another queue: it must then be done here.
    ///
    /// # IRQL
    ///
    /// That of the advance.
    pub fn add<'advance>(
        &mut self,
        packet: TxPacket<'advance>,
    ) -> Result<usize, TxPacket<'advance>> {
        let Some(inside) = self.with_room(packet.state) else { return Err(packet) };
        if packet.shared || !packet.state.slots.defer(packet.body.index) {
            return Err(packet);
        }
        let packet = core::mem::ManuallyDrop::new(packet);
        // INVARIANT: marked as in flight, and no `TxPacket` is left. There is room.
        let _ = inside.packets.push(Flying { body: packet.body, len: packet.len, shared: false });
        Ok(inside.packets.len() - 1)
    }

    /// Takes a packet along that others may take along, too; returns its position, the same one if it
    /// is the last that was taken. The packet is done when it has been dropped and so have all flights
    /// that share it.
    ///
    /// `None` where [`TxFlight::add`] gives the packet back; it is then as it was.
    ///
    /// # IRQL
    ///
    /// That of the advance.
    pub fn share(&mut self, packet: &mut TxPacket<'_>) -> Option<usize> {
        let index = packet.body.index;
        let last = self.0.as_ref().and_then(|inside| {
            let last = inside.packets.last()?;
            let same = inside.state == NonNull::from(packet.state);
            (same && last.shared && last.body.index == index).then(|| inside.packets.len() - 1)
        });
        if last.is_some() {
            return last;
        }
        let inside = self.with_room(packet.state)?;
        if packet.shared {
            packet.state.slots.share(index);
        } else if packet.state.slots.share_first(index) {
            packet.shared = true;
        } else {
            return None;
        }
        // INVARIANT: one of its shares is this value's. There is room.
        let _ = inside.packets.push(Flying { body: packet.body, len: packet.len, shared: true });
        Some(inside.packets.len() - 1)
    }

    /// The inside, if it is of the queue of `state`, which is not stopping, and has room.
    fn with_room(&mut self, state: &TxState) -> Option<&mut Inside<N>> {
        let inside = match &mut self.0 {
            Some(inside) => inside,
            none => {
                state.notifier.enter()?.into_raw();
                // INVARIANT: entered for this value, and there is no packet yet.
                none.insert(Inside { state: NonNull::from(state), packets: Vec::new() })
            }
        };
        (inside.state == NonNull::from(state) && !inside.packets.is_full()).then_some(inside)
    }

    /// Bytes of the packet at a position; 0 where there is none.
    #[must_use]
    pub fn byte_count(&self, position: usize) -> usize {
        let packet = self.0.as_ref().and_then(|inside| inside.packets.get(position));
        packet.map_or(0, |packet| packet.len)
    }

    /// The bytes of the packet at a position, in order, as memory that its sender may still write.
    pub fn shared_bytes(&self, position: usize) -> impl Iterator<Item = &[AtomicU8]> {
        self.shared_bytes_of(position, 0..usize::MAX)
    }

    /// The same, of a range of the packet's bytes; as far as it has them.
    pub fn shared_bytes_of(
        &self,
        position: usize,
        range: Range<usize>,
    ) -> impl Iterator<Item = &[AtomicU8]> {
        within(self.pieces(position).into_iter().flatten(), range).map(|piece| {
            // SAFETY: mapped as long as the packet is the driver's, which it is while this value
            // lives, and the borrow of it is what the slice is borrowed from. An atomic is as large
            // as its byte, and shares it with whoever else writes.
            unsafe { slice::from_raw_parts(piece.address.as_ptr().cast(), piece.len) }
        })
    }

    /// Copies the bytes of the packet at a position from `from` on, as many as there are and `to` has
    /// room for; returns how many.
    #[must_use]
    pub fn copy_to(&self, position: usize, from: usize, to: &mut [u8]) -> usize {
        self.pieces(position).map_or(0, |pieces| copy(pieces, from, to))
    }

    fn pieces(&self, position: usize) -> Option<Pieces<'_>> {
        let inside = self.0.as_ref()?;
        let Flying { body, .. } = inside.packets.get(position)?;
        // SAFETY: exists by the type invariant, for as long as this value is borrowed.
        let state = unsafe { inside.state.as_ref() };
        // SAFETY: the packet is the driver's while it is in flight (type invariant).
        Some(unsafe { Pieces::of(state, *body) })
    }
}

impl<const N: usize> Drop for Inside<N> {
    fn drop(&mut self) {
        // SAFETY: exists by the type invariant, until `inside` is dropped below.
        let state = unsafe { self.state.as_ref() };
        // SAFETY: entered by `TxFlight::add`, once for this value.
        let inside = unsafe { state.notifier.from_raw() };
        for Flying { body, shared, .. } in &self.packets {
            if *shared {
                state.slots.release(body.index);
            } else {
                state.slots.land(body.index);
            }
        }
        inside.notify();
    }
}

impl<const N: usize> fmt::Debug for TxFlight<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = self.0.as_ref().map_or(0, |inside| inside.packets.len());
        f.debug_struct("TxFlight").field("packets", &packets).finish_non_exhaustive()
    }
}
