//! Packets in flight: their bytes are read, and their places in the ring given back, together.
//!
//! The queue stops only when no flight is left, so one must not be kept for longer than its packets'
//! bytes are needed; what has to wait for something is copied.
#![allow(unsafe_code)] // Refers to a queue that somebody inside its notifier keeps alive.

use core::{fmt, ptr::NonNull, slice, sync::atomic::AtomicU8};

use heapless::Vec;

use crate::{
    tx_packet::{Body, Pieces, TxPacket, copy},
    tx_queue::TxState,
};

/// Up to `N` packets of one queue, on any thread at or below `DISPATCH_LEVEL`. Dropping it is being
/// done with them: they go back to the stack, and a queue that sleeps is woken, once for all.
#[must_use = "dropping a flight returns its packets to the stack"]
pub struct TxFlight<const N: usize>(Option<Inside<N>>);

/// # Invariants
///
/// Each packet is marked as in flight, by this value alone; somebody is inside the queue's notifier
/// for it, once, so that the queue, and with it `state`, exists.
struct Inside<const N: usize> {
    state: NonNull<TxState>,
    packets: Vec<(Body, usize), N>,
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
        let state = NonNull::from(packet.state);
        let inside = match &mut self.0 {
            Some(inside) => inside,
            none => {
                let Some(entered) = packet.state.notifier.enter() else { return Err(packet) };
                entered.into_raw();
                // INVARIANT: entered for this value, and there is no packet yet.
                none.insert(Inside { state, packets: Vec::new() })
            }
        };
        if inside.state != state
            || inside.packets.is_full()
            || !packet.state.slots.defer(packet.body.index)
        {
            return Err(packet);
        }
        let packet = core::mem::ManuallyDrop::new(packet);
        // INVARIANT: marked as in flight, and no `TxPacket` is left. There is room.
        let _ = inside.packets.push((packet.body, packet.len));
        Ok(inside.packets.len() - 1)
    }

    /// Bytes of the packet at a position; 0 where there is none.
    #[must_use]
    pub fn byte_count(&self, position: usize) -> usize {
        let packet = self.0.as_ref().and_then(|inside| inside.packets.get(position));
        packet.map_or(0, |(_, len)| *len)
    }

    /// The bytes of the packet at a position, in order, as memory that its sender may still write.
    pub fn shared_bytes(&self, position: usize) -> impl Iterator<Item = &[AtomicU8]> {
        self.pieces(position).into_iter().flatten().map(|piece| {
            // SAFETY: mapped as long as the packet is the driver's, which it is while this value
            // lives, and the borrow of it is what the slice is borrowed from. An atomic is as large
            // as its byte, and shares it with whoever else writes.
            unsafe { slice::from_raw_parts(piece.address.as_ptr().cast(), piece.len) }
        })
    }

    /// Copies the first bytes of the packet at a position, as many as there are and `to` has room for;
    /// returns how many.
    #[must_use]
    pub fn copy_to(&self, position: usize, to: &mut [u8]) -> usize {
        self.pieces(position).map_or(0, |pieces| copy(pieces, to))
    }

    fn pieces(&self, position: usize) -> Option<Pieces<'_>> {
        let inside = self.0.as_ref()?;
        let (body, _) = inside.packets.get(position)?;
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
        for (body, _) in &self.packets {
            state.slots.land(body.index);
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
