//! Buffers that wait to be linked into a ring, in the order in which they came.
//!
//! Any CPU appends to a stack, several buffers at once; the one consumer takes it whole and turns it
//! round, so that buffers come out in the order in which any one CPU appended them. What the consumer
//! could not use it keeps.

use core::sync::atomic::{AtomicU32, Ordering};

use nt::netcx::Layer3;

use super::{Chain, END, HELD, RxBuffer, RxPool, link_index};

/// The list.
pub(crate) struct Waiting {
    pool: RxPool,
    /// Link of the newest.
    newest: AtomicU32,
    /// Link of the oldest that the consumer has taken; the consumer's alone.
    oldest: AtomicU32,
    /// Buffers in both, and places that were promised.
    count: AtomicU32,
    limit: u32,
}

impl Waiting {
    /// An empty list for at most `limit` buffers of `pool`.
    pub(crate) fn new(pool: RxPool, limit: u32) -> Self {
        let (newest, oldest) = (AtomicU32::new(END), AtomicU32::new(END));
        Self { pool, newest, oldest, count: AtomicU32::new(0), limit }
    }

    /// Promises places for up to `count` buffers.
    pub(crate) fn places(&self, count: usize) -> Places<'_> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX).min(self.limit);
        let before = self.count.fetch_add(wanted, Ordering::Relaxed);
        let left = wanted.min(self.limit.saturating_sub(before));
        if left != wanted {
            self.count.fetch_sub(wanted - left, Ordering::Relaxed);
        }
        Places { waiting: self, left, chain: None }
    }

    /// How many there are, and places that were promised.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes buffers out, the oldest first. Only one consumer at a time.
    pub(crate) fn consume(&self) -> Consumption<'_> {
        Consumption { waiting: self, taken: 0 }
    }

    /// Takes all that was appended, and gives the link of the oldest.
    fn turn_round(&self) -> u32 {
        let slots = &self.pool.memory().slots;
        // Acquire pairs with the release in `Places::drop`.
        let (mut link, mut turned) = (self.newest.swap(END, Ordering::Acquire), END);
        while let Some(slot) = link.checked_sub(1).and_then(|index| slots.get(index as usize)) {
            let next = slot.word.load(Ordering::Relaxed);
            slot.word.store(turned, Ordering::Relaxed);
            turned = link;
            link = next;
        }
        turned
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.consume().for_each(drop);
    }
}

/// Places in the list, and the buffers that are put there together when this is dropped.
#[must_use = "dropping it puts its buffers into the list"]
pub(crate) struct Places<'w> {
    waiting: &'w Waiting,
    left: u32,
    /// From the newest to the oldest.
    chain: Option<Chain>,
}

impl Places<'_> {
    /// Puts a buffer behind those before it.
    ///
    /// # Errors
    ///
    /// The buffer, if there is no place left or it is of another pool.
    #[inline(always)] // As `Indication::push`.
    pub(crate) fn push(&mut self, buffer: RxBuffer) -> Result<(), RxBuffer> {
        if self.left == 0 || !buffer.is_of(&self.waiting.pool) {
            return Err(buffer);
        }
        self.left -= 1;
        let packet = buffer.packet | kind_bits(buffer.as_slice().first());
        let older = self.chain.map_or(END, |chain| chain.first + 1);
        let first = buffer.wait(older, packet);
        let last = self.chain.map_or(first, |chain| chain.last);
        self.chain = Some(Chain { first, last });
        Ok(())
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        let Waiting { pool, newest, count, .. } = self.waiting;
        if self.left != 0 {
            count.fetch_sub(self.left, Ordering::Relaxed);
        }
        let Some(Chain { first, last }) = self.chain else { return };
        let oldest = &pool.memory().slot(last).word;
        let mut head = newest.load(Ordering::Relaxed);
        loop {
            oldest.store(head, Ordering::Relaxed);
            // Release: the buffers' bytes, lengths and links come before the consumer's look. Nothing
            // is taken out of the middle, so that a link seen twice is no danger.
            match newest.compare_exchange_weak(
                head,
                first + 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// Buffers being taken out; their places are free when this is dropped.
pub(crate) struct Consumption<'w> {
    waiting: &'w Waiting,
    taken: u32,
}

impl Iterator for Consumption<'_> {
    type Item = (RxBuffer, Layer3);

    fn next(&mut self) -> Option<(RxBuffer, Layer3)> {
        let Waiting { pool, oldest, .. } = self.waiting;
        let link = match oldest.load(Ordering::Relaxed) {
            END => self.waiting.turn_round(),
            link => link,
        };
        let index = link_index(u64::from(link))?;
        let slot = pool.memory().slots.get(index as usize)?;
        oldest.store(slot.word.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.word.store(HELD, Ordering::Relaxed);
        self.taken += 1;
        let packet = slot.packet.load(Ordering::Relaxed);
        // INVARIANT: it was in this list alone, and is out of it.
        let buffer = RxBuffer { memory: pool.0, index, packet: packet & !KIND_MASK };
        Some((buffer, kind_of(packet)))
    }
}

impl Drop for Consumption<'_> {
    fn drop(&mut self) {
        if self.taken != 0 {
            self.waiting.count.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

/// The kind in a slot's `packet`; the rest is the buffer's.
const KIND_MASK: u32 = 3 << 30;

/// The kind of packet that begins with `first`, as bits of a slot's `packet`.
fn kind_bits(first: Option<&u8>) -> u32 {
    match first.map(|byte| byte >> 4) {
        Some(4) => 1 << 30,
        Some(6) => 2 << 30,
        _ => 0,
    }
}

/// The kind in a slot's `packet`.
fn kind_of(packet: u32) -> Layer3 {
    match packet >> 30 {
        1 => Layer3::Ipv4,
        2 => Layer3::Ipv6,
        _ => Layer3::Unknown,
    }
}
