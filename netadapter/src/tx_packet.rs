//! A packet to send: where its bytes are, and how it ends.
//!
//! The bytes stay where the stack has them until the packet is returned, which is after every value
//! here that stands for it has been dropped. They are the sender's, who may still be writing, so
//! they are given out as addresses and lengths, to be read once, and never as slices.
#![allow(unsafe_code)] // Reads ring elements that are the driver's, outside of callbacks.

use core::{fmt, marker::PhantomData, ops::Range};

use nt::netcx::{Indices, Packet, Piece};

use crate::{ring::step, tx_queue::TxState};

/// The packets that NetAdapterCx has given us and that nobody has looked at yet.
///
/// Packets are given in the order in which they were sent, as long as fewer than half of the ring are
/// in flight. What is not taken stays in the ring, and comes again with the next advance, which comes
/// at once if this one returns packets, and else when a packet in flight is done; or see
/// [`crate::TxQueue::resume`].
pub struct TxBatch<'advance> {
    state: &'advance TxState,
    next: u32,
    end: u32,
    mask: u32,
    /// Packets NetAdapterCx has no bytes for.
    malformed: u64,
    /// Packets whose memory could not be mapped.
    unmapped: u64,
}

impl<'advance> TxBatch<'advance> {
    /// What lies between the indices of a transmit ring.
    pub(crate) fn new(state: &'advance TxState, packets: Indices) -> Self {
        let Indices { next, end, mask, .. } = packets;
        Self { state, next, end, mask, malformed: 0, unmapped: 0 }
    }

    /// Where looking stopped, and how many packets were malformed and unmapped.
    pub(crate) fn finish(self) -> (u32, u64, u64) {
        (self.next, self.malformed, self.unmapped)
    }

    /// Leaves the packet that was given last in the ring, with those after it.
    pub fn put_back(&mut self, packet: TxPacket<'advance>) {
        let packet = core::mem::ManuallyDrop::new(packet);
        debug_assert!(step(packet.body.index, 1, self.mask) == self.next);
        self.state.slots.forget(packet.body.index);
        self.next = packet.body.index;
    }

    /// The first bytes of each of the packets that come next, as far as `N` and the packet reach, in order. They are looked at
    /// and not taken, so they may be others when the packet comes; one that is not going to come has none.
    pub fn fronts<const N: usize>(&self) -> impl Iterator<Item = ([u8; N], usize)> {
        (0..self.remaining()).map(|at| {
            let index = step(self.next, at, self.mask);
            // SAFETY: as in `next`.
            let packet = unsafe { self.state.view.packet(index) };
            let mut head = [0; N];
            if packet.ignore {
                return (head, 0);
            }
            // SAFETY: as above, for as long as the batch is borrowed.
            let pieces = unsafe { Pieces::of(self.state, Body { packet, index }) };
            let seen = pieces.copy_to(0, &mut head);
            (head, seen)
        })
    }

    /// How many packets there are still, at most.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        crate::ring::distance(self.next, self.end, self.mask)
    }
}

impl<'advance> Iterator for TxBatch<'advance> {
    type Item = TxPacket<'advance>;

    fn next(&mut self) -> Option<TxPacket<'advance>> {
        while self.next != self.end && self.state.slots.has_room() {
            let index = self.next;
            self.next = step(index, 1, self.mask);
            self.state.slots.hold(index);
            // SAFETY: this is an advance of the queue, and the packet is the driver's: it lies
            // between NextIndex and EndIndex, and is returned after it has been marked done.
            let packet = unsafe { self.state.view.packet(index) };
            let body = Body { packet, index };
            // SAFETY: as above.
            match unsafe { body.len(self.state) } {
                Some(len) if len != 0 && !packet.ignore => {
                    let (state, shared) = (self.state, false);
                    return Some(TxPacket { state, body, len, shared, _thread: PhantomData });
                }
                Some(_) => self.malformed += 1,
                None => self.unmapped += 1,
            }
            self.state.slots.finish(index);
        }
        None
    }
}

impl fmt::Debug for TxBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxBatch").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// A packet in the ring.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    packet: Packet,
    pub(crate) index: u32,
}

impl Body {
    /// The bytes of all fragments; `None` if one of them could not be mapped.
    ///
    /// # Safety
    ///
    /// The packet is the driver's, and the queue exists.
    unsafe fn len(&self, state: &TxState) -> Option<usize> {
        (0..self.packet.fragment_count).try_fold(0_usize, |len, at| {
            // SAFETY: the caller's promise.
            let piece = unsafe { state.view.piece(self.fragment(at)) }?;
            len.checked_add(piece.len)
        })
    }

    /// Index of the fragment after `at` others; the ring masks it.
    fn fragment(&self, at: u32) -> u32 {
        self.packet.fragment_index.wrapping_add(at)
    }
}

/// A packet in the advance that gave it. Dropping it is being done with it.
#[must_use = "dropping a packet returns it to the stack"]
pub struct TxPacket<'advance> {
    pub(crate) state: &'advance TxState,
    pub(crate) body: Body,
    pub(crate) len: usize,
    /// Flights have it too.
    pub(crate) shared: bool,
    /// Of the thread the advance runs on.
    _thread: PhantomData<*const ()>,
}

impl<'advance> TxPacket<'advance> {
    /// The packet's bytes, all together; never 0.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.len
    }

    /// If the packet is to be cut into segments: the most payload of each, in bytes, which may be
    /// anything. 0 if it is to leave as it is.
    #[must_use]
    pub fn mss(&self) -> usize {
        self.body.packet.mss as usize
    }

    /// Where the bytes are, in order.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces { state: self.state, body: self.body, at: 0 }
    }

    /// Where the bytes of a range are, in order; as far as the packet has them.
    pub fn pieces_of(&self, range: Range<usize>) -> impl Iterator<Item = Piece> {
        within(self.pieces(), range)
    }

    /// Copies the packet's bytes from `from` on, as many as there are and `to` has room for; returns
    /// how many.
    #[must_use]
    pub fn copy_to(&self, from: usize, to: &mut [u8]) -> usize {
        copy(self.pieces(), from, to)
    }
}

impl Drop for TxPacket<'_> {
    fn drop(&mut self) {
        if self.shared {
            self.state.slots.release(self.body.index);
        } else {
            self.state.slots.finish(self.body.index);
        }
    }
}

impl fmt::Debug for TxPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxPacket").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The pieces of a packet.
#[derive(Clone)]
pub struct Pieces<'packet> {
    state: &'packet TxState,
    body: Body,
    at: u32,
}

impl<'packet> Pieces<'packet> {
    /// Those of a packet.
    ///
    /// # Safety
    ///
    /// The packet is the driver's, and the queue exists, for as long as `'packet`.
    pub(crate) unsafe fn of(state: &'packet TxState, body: Body) -> Self {
        Self { state, body, at: 0 }
    }

    /// Copies their bytes from `from` on, as many as there are and `to` has room for; returns how many.
    #[must_use]
    pub fn copy_to(self, from: usize, to: &mut [u8]) -> usize {
        copy(self, from, to)
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.at < self.body.packet.fragment_count {
            let index = self.body.fragment(self.at);
            self.at += 1;
            // SAFETY: the packet is the driver's as long as the value that lent this is not dropped,
            // and so is the queue's existence.
            let piece = unsafe { self.state.view.piece(index) };
            // All pieces were mapped when the packet was first looked at, and they do not change.
            if let Some(piece) = piece.filter(|piece| piece.len != 0) {
                return Some(piece);
            }
        }
        None
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("at", &self.at).finish_non_exhaustive()
    }
}

/// The parts of `pieces` that lie in a range of all their bytes.
pub(crate) fn within(
    pieces: impl Iterator<Item = Piece>,
    range: Range<usize>,
) -> impl Iterator<Item = Piece> {
    let (mut before, mut left) = (range.start, range.len());
    pieces.filter_map(move |piece| {
        let part = piece.after(before);
        before = before.saturating_sub(piece.len);
        let len = part.len.min(left);
        left -= len;
        (len != 0).then_some(Piece { len, ..part })
    })
}

/// Copies `pieces` from byte `from` on to `to`.
pub(crate) fn copy(pieces: Pieces<'_>, from: usize, to: &mut [u8]) -> usize {
    let mut copied = 0;
    for piece in within(pieces, from..from.saturating_add(to.len())) {
        let rest = to.get_mut(copied..).unwrap_or_default();
        let len = piece.len.min(rest.len());
        // SAFETY: the piece is mapped as long as `pieces` is borrowed; `rest` is our own memory,
        // which is no part of it, and has at least `len` bytes. The sender may be writing: then we
        // get bytes of before and after, as from any buffer it does not leave alone.
        unsafe { piece.address.as_ptr().copy_to_nonoverlapping(rest.as_mut_ptr(), len) };
        copied += len;
    }
    copied
}
