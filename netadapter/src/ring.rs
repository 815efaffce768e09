//! Indices that wrap, and the bookkeeping of packets between "looked at" and "returned".
//!
//! Packets are looked at in ring order, done in any order, and returned in ring order again: each
//! has a state, and what is returned is the prefix of done ones. Everything here is arithmetic over
//! numbers; the rings themselves are behind [`TxRing`] and [`RxRing`], which the tests implement by a
//! model of NetAdapterCx and its verifier.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use nt::{
    netcx::{Indices, Layer3, Packet, Rings, RxFragment},
    status::NtError,
};

/// Elements from `from` up to, not including, `to`.
pub(crate) const fn distance(from: u32, to: u32, mask: u32) -> u32 {
    to.wrapping_sub(from) & mask
}

/// The element `count` after `index`.
pub(crate) const fn step(index: u32, count: u32, mask: u32) -> u32 {
    index.wrapping_add(count) & mask
}

/// What the transmit queue's advance does to its rings.
pub(crate) trait TxRing {
    /// How far the packet ring is.
    fn packets(&self) -> Indices;
    /// How far the fragment ring is.
    fn fragments(&self) -> Indices;
    /// The packet at an index.
    fn packet(&self, index: u32) -> Packet;
    /// Returns the packets before `begin`, and notes that those before `next` were looked at.
    fn set_packets(&mut self, begin: u32, next: u32);
    /// Returns the fragments before `begin`.
    fn set_fragments(&mut self, begin: u32);
}

/// What the receive queue's advance does to its rings. `Buffer` is what gets linked.
pub(crate) trait RxRing<Buffer> {
    /// How far the packet ring is.
    fn packets(&self) -> Indices;
    /// How far the fragment ring is.
    fn fragments(&self) -> Indices;
    /// Fills a packet and its one fragment.
    fn link(&mut self, packet: u32, fragment: u32, buffer: Buffer, layer3: Layer3);
    /// Marks a packet as one without bytes.
    fn ignore(&mut self, packet: u32);
    /// Returns the packets before `begin`.
    fn set_packets(&mut self, begin: u32);
    /// Returns the fragments before `begin`.
    fn set_fragments(&mut self, begin: u32);
}

impl TxRing for Rings<'_> {
    fn packets(&self) -> Indices {
        Rings::packets(self)
    }
    fn fragments(&self) -> Indices {
        Rings::fragments(self)
    }
    fn packet(&self, index: u32) -> Packet {
        Rings::packet(self, index)
    }
    fn set_packets(&mut self, begin: u32, next: u32) {
        Rings::set_packets(self, begin, next);
    }
    fn set_fragments(&mut self, begin: u32) {
        Rings::set_fragments(self, begin);
    }
}

impl RxRing<RxFragment> for Rings<'_> {
    fn packets(&self) -> Indices {
        Rings::packets(self)
    }
    fn fragments(&self) -> Indices {
        Rings::fragments(self)
    }
    fn link(&mut self, packet: u32, fragment: u32, buffer: RxFragment, layer3: Layer3) {
        Rings::link(self, packet, fragment, buffer, layer3);
    }
    fn ignore(&mut self, packet: u32) {
        Rings::ignore(self, packet);
    }
    fn set_packets(&mut self, begin: u32) {
        Rings::set_packets(self, begin, begin);
    }
    fn set_fragments(&mut self, begin: u32) {
        Rings::set_fragments(self, begin);
    }
}

/// Not looked at.
const IDLE: u8 = 0;
/// Looked at in the advance that is running.
const HELD: u8 = 1;
/// Taken along: in flight until a slot is dropped.
const DEFERRED: u8 = 2;
/// Done without having been in flight.
const DONE: u8 = 3;
/// Done after having been in flight.
const LANDED: u8 = 4;

/// The state of every packet of a transmit ring.
///
/// States change in the queue's callbacks, which do not overlap, except for one transition:
/// [`Slots::land`], from any thread, for a packet that is in flight; or [`Slots::release`], for one
/// that several flights share.
#[derive(Debug)]
pub(crate) struct Slots {
    states: Vec<AtomicU8>,
    /// How many have a packet that is shared.
    shares: Vec<AtomicU32>,
    /// In flight, or landed and not yet returned; used by the callbacks alone.
    deferred: AtomicU32,
}

impl Slots {
    /// States for a ring of `count` packets, which is a power of two.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or [`NtError::INVALID_PARAMETER`] for another `count`.
    pub(crate) fn try_new(count: u32) -> Result<Self, NtError> {
        if !count.is_power_of_two() {
            return Err(NtError::INVALID_PARAMETER);
        }
        let states = try_vec(count as usize, || AtomicU8::new(IDLE))?;
        let shares = try_vec(count as usize, || AtomicU32::new(0))?;
        Ok(Self { states, shares, deferred: AtomicU32::new(0) })
    }

    /// Forgets everything: the queue starts, with empty rings.
    pub(crate) fn reset(&self) {
        self.states.iter().for_each(|state| state.store(IDLE, Ordering::Relaxed));
        self.deferred.store(0, Ordering::Relaxed);
    }

    /// The packet is being looked at.
    pub(crate) fn hold(&self, index: u32) {
        self.set(index, HELD, Ordering::Relaxed);
    }

    /// The packet was not looked at after all.
    pub(crate) fn forget(&self, index: u32) {
        self.set(index, IDLE, Ordering::Relaxed);
    }

    /// The packet is done, in the callback that looked at it.
    pub(crate) fn finish(&self, index: u32) {
        self.set(index, DONE, Ordering::Relaxed);
    }

    /// Whether another packet may go in flight. Not when half of the ring is: the stack must not be
    /// left without room to send.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        (self.deferred.load(Ordering::Relaxed) as usize) < self.states.len().div_ceil(2)
    }

    /// The packet goes in flight, if there is room.
    #[must_use]
    pub(crate) fn defer(&self, index: u32) -> bool {
        if !self.has_room() {
            return false;
        }
        self.deferred.store(self.deferred.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.set(index, DEFERRED, Ordering::Relaxed);
        true
    }

    /// The packet that was in flight is done.
    pub(crate) fn land(&self, index: u32) {
        // Release: whoever returns the packet comes after the last read of its bytes.
        self.set(index, LANDED, Ordering::Release);
    }

    /// The packet goes in flight, if there is room, and several may have it: the callback that looks at
    /// it, and a first flight.
    #[must_use]
    pub(crate) fn share_first(&self, index: u32) -> bool {
        let Some(shares) = self.shares.get(index as usize) else { return false };
        let deferred = self.defer(index);
        if deferred {
            shares.store(2, Ordering::Relaxed);
        }
        deferred
    }

    /// One flight more has the packet; by the callback, which has it too.
    pub(crate) fn share(&self, index: u32) {
        if let Some(shares) = self.shares.get(index as usize) {
            // Relaxed: who hands the flight on orders it.
            shares.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One that had the packet is done with it; with the last of them it has landed.
    pub(crate) fn release(&self, index: u32) {
        let shares = self.shares.get(index as usize);
        // Release: as in `land`; Acquire: the last one answers for the reads of the others.
        if shares.is_some_and(|shares| shares.fetch_sub(1, Ordering::AcqRel) == 1) {
            self.land(index);
        }
    }

    /// Returns what can be returned of the packets from `BeginIndex` to `next`, with their fragments.
    pub(crate) fn return_done(&self, ring: &mut impl TxRing, next: u32) {
        let Indices { begin, mask, .. } = ring.packets();
        let fragments = ring.fragments();
        let (mut new_begin, mut fragment_begin) = (begin, fragments.begin);
        while new_begin != next && self.take_done(new_begin) {
            let packet = ring.packet(new_begin);
            // A packet without fragments says nothing about the fragment ring.
            if packet.fragment_count != 0 {
                fragment_begin = step(packet.fragment_index, packet.fragment_count, fragments.mask);
            }
            new_begin = step(new_begin, 1, mask);
        }
        ring.set_fragments(fragment_begin);
        ring.set_packets(new_begin, next);
    }

    /// Whether the packet at `index` is done; it is idle afterwards.
    fn take_done(&self, index: u32) -> bool {
        let Some(state) = self.states.get(index as usize) else { return false };
        // Acquire pairs with the release in `land`.
        match state.load(Ordering::Acquire) {
            DONE => {}
            LANDED => {
                let deferred = self.deferred.load(Ordering::Relaxed);
                self.deferred.store(deferred.saturating_sub(1), Ordering::Relaxed);
            }
            _ => return false,
        }
        state.store(IDLE, Ordering::Relaxed);
        true
    }

    fn set(&self, index: u32, value: u8, ordering: Ordering) {
        // The ring's own indices are always in range.
        if let Some(state) = self.states.get(index as usize) {
            state.store(value, ordering);
        }
    }
}

/// `count` values that `make` makes.
fn try_vec<T>(count: usize, make: impl FnMut() -> T) -> Result<Vec<T>, NtError> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_error| NtError::INSUFFICIENT_RESOURCES)?;
    values.resize_with(count, make);
    Ok(values)
}

/// Links buffers that `next` gives into the ring, each as one packet of one fragment, as long as
/// there is room in both rings; returns how many.
///
/// `next` is only called when there is room: what it gives is linked.
pub(crate) fn fill<Buffer>(
    ring: &mut impl RxRing<Buffer>,
    mut next: impl FnMut() -> Option<(Buffer, Layer3)>,
) -> u32 {
    let (packets, fragments) = (ring.packets(), ring.fragments());
    let room = distance(packets.begin, packets.end, packets.mask).min(distance(
        fragments.begin,
        fragments.end,
        fragments.mask,
    ));
    let mut filled = 0;
    while filled < room {
        let Some((buffer, layer3)) = next() else { break };
        let packet = step(packets.begin, filled, packets.mask);
        let fragment = step(fragments.begin, filled, fragments.mask);
        ring.link(packet, fragment, buffer, layer3);
        filled += 1;
    }
    ring.set_fragments(step(fragments.begin, filled, fragments.mask));
    ring.set_packets(step(packets.begin, filled, packets.mask));
    filled
}

/// Returns everything unused, as the cancellation of a receive queue must: packets marked as without
/// bytes, fragments with nothing attached.
pub(crate) fn return_unused<Buffer>(ring: &mut impl RxRing<Buffer>) {
    let (packets, fragments) = (ring.packets(), ring.fragments());
    let mut index = packets.begin;
    while index != packets.end {
        ring.ignore(index);
        index = step(index, 1, packets.mask);
    }
    ring.set_fragments(fragments.end);
    ring.set_packets(packets.end);
}

#[cfg(test)]
mod tests;
