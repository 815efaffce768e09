//! Receive buffers: memory that packets are opened into and that the stack then has for a while.
//!
//! One pool for the driver, because the stack may keep a buffer long after the adapter it came
//! through has gone. Buffers are cut from large nonpaged blocks, made when they are first needed, up
//! to a cap. A buffer is at every moment one of: *free* (in a list without locks), *held* (an
//! [`RxBuffer`]), *waiting* (in an adapter's [`crate::RxQueue`]), or *lent* (linked into a ring: in
//! NetAdapterCx's hands or the stack's). Which, is in the buffer's own word, so that a handle that
//! comes back is checked and not believed.
//!
//! Nothing counts owners per packet. When the last [`RxPool`] handle goes, the free buffers are
//! counted off, and whoever brings the last missing one home frees the memory.
//!
//! Everything at `<= DISPATCH_LEVEL`, any CPU.
#![allow(unsafe_code)] // Owns the buffers' memory, and lends it out.

use alloc::{boxed::Box, vec::Vec};
use core::{
    cell::UnsafeCell,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

use abi::{descriptor, places};
use nt::{
    bugcheck::{Impossible, impossible},
    netcx::{Checksums, Finding, RxFragment},
    pool::{Buffer, Tag, push_within, try_box},
    status::NtError,
};

mod waiting;

pub(crate) use waiting::{Places, Waiting};

/// Bytes that are asked for at once.
const BLOCK_BYTES: usize = 256 << 10;
/// The alignment of every buffer: a cache line, and what vector stores like.
const BUFFER_ALIGN: usize = 64;
/// The largest buffer: a fragment's length has 26 bits, and no IP packet is longer than 64 KiB.
const BUFFER_MAX: u32 = 128 << 10;
/// The tag under which a debugger finds the blocks.
const TAG: Tag = Tag::new(*b"PnRx");

/// Words of a buffer that is not in a list; below them, and above 0, a link: index plus one.
const HELD: u32 = u32::MAX;
const LENT: u32 = u32::MAX - 1;
const LINK_MAX: u32 = u32::MAX - 2;
/// The end of a list.
const END: u32 = 0;

/// Bit of [`Memory::free`] that says that the last handle has gone.
const CLOSED: u64 = 1 << 63;

/// What is known of one buffer besides its bytes.
struct Slot {
    /// [`HELD`], [`LENT`], or the link to the next buffer of the list this one is in.
    word: AtomicU32,
    /// While it waits: what [`RxBuffer`] keeps, and the kind of packet in the high two bits.
    packet: AtomicU32,
}

/// The pool's memory.
struct Memory {
    /// Head of the free list: link in the low half; in the high half a number that changes with
    /// each change of the list, so that a head seen twice is the same list, and [`CLOSED`].
    free: AtomicU64,
    /// Handles there are.
    handles: AtomicUsize,
    /// Buffers made, less those counted off after the last handle went.
    buffers: AtomicU32,
    /// Whether some CPU is adding a block: the others do without.
    growing: AtomicBool,
    slots: Vec<Slot>,
    /// Where each block begins, once it is there.
    begins: Vec<AtomicPtr<u8>>,
    /// The blocks themselves; pushed to by the CPU that is `growing`, with room reserved.
    blocks: UnsafeCell<Vec<Buffer>>,
    buffer_bytes: u32,
    /// Buffers of a block, as a power of two: where the block's number begins in a buffer's index.
    block_shift: u32,
}

/// A handle of the driver's receive buffers.
///
/// # Invariants
///
/// The memory came from a box, and `handles` counts this handle, so it has not been freed.
pub struct RxPool(NonNull<Memory>);

// SAFETY: everything in the memory is shared by atomics, and a buffer's bytes belong to one owner.
unsafe impl Send for RxPool {}
// SAFETY: as above.
unsafe impl Sync for RxPool {}

impl RxPool {
    /// For a debugger: the handle is a pointer to its memory, where each buffer has a slot.
    pub const PLACES: [descriptor::Places; 2] = [Memory::PLACES, Slot::PLACES];

    /// A pool of buffers of `buffer_bytes` each (rounded up to 64), at most `cap_bytes` together.
    ///
    /// `buffer_bytes` is the longest packet that can be received. No buffer is made yet.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] for buffers of more than 128 KiB or a cap that not one block
    /// fits in or whose buffers could not be numbered; [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(buffer_bytes: NonZeroU32, cap_bytes: usize) -> Result<Self, NtError> {
        if buffer_bytes.get() > BUFFER_MAX {
            return Err(NtError::INVALID_PARAMETER);
        }
        let buffer_bytes = buffer_bytes.get().next_multiple_of(BUFFER_ALIGN as u32);
        // Rounded down to a power of two: an index is taken apart for every packet.
        let block_shift = (BLOCK_BYTES as u32 / buffer_bytes).ilog2();
        let blocks = cap_bytes / BLOCK_BYTES;
        let buffers = blocks
            .checked_mul(1 << block_shift)
            .filter(|buffers| (1..LINK_MAX as usize).contains(buffers))
            .ok_or(NtError::INVALID_PARAMETER)?;
        let slot = || Slot { word: AtomicU32::new(HELD), packet: AtomicU32::new(0) };
        let mut room = Vec::new();
        room.try_reserve_exact(blocks).map_err(|_error| NtError::INSUFFICIENT_RESOURCES)?;
        let memory = try_box(Memory {
            free: AtomicU64::new(u64::from(END)),
            handles: AtomicUsize::new(1),
            buffers: AtomicU32::new(0),
            growing: AtomicBool::new(false),
            slots: filled(buffers, slot)?,
            begins: filled(blocks, || AtomicPtr::new(ptr::null_mut()))?,
            blocks: UnsafeCell::new(room),
            buffer_bytes,
            block_shift,
        })?;
        // INVARIANT: from a box, and counted.
        Ok(Self(NonNull::from(Box::leak(memory))))
    }

    /// Bytes of every buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> NonZeroU32 {
        // Rounded up from something above 0.
        NonZeroU32::new(self.memory().buffer_bytes).unwrap_or(NonZeroU32::MIN)
    }

    /// A free buffer; `None` at the cap, or when there is no memory.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn take(&self) -> Option<RxBuffer> {
        let memory = self.memory();
        let index = match memory.pop() {
            Some(index) => index,
            None => memory.grow()?,
        };
        // INVARIANT: out of the free list, or new: nobody else has it.
        Some(RxBuffer { memory: self.0, index, packet: 0 })
    }

    /// Up to `count` free buffers, taken together.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn stash(&self, count: usize) -> RxStash<'_> {
        // INVARIANT: just taken off the free list.
        RxStash { pool: self, chain: self.memory().pop_chain(count) }
    }

    /// The buffer that was lent under `handle`; `None` if none is.
    pub(crate) fn reclaim(&self, handle: NonZeroUsize) -> Option<RxBuffer> {
        let index = u32::try_from(handle.get() - 1).ok()?;
        let slot = self.memory().slots.get(index as usize)?;
        // Acquire pairs with the release in `RxBuffer::lend`. A handle that comes twice is refused the second time; that it
        // comes twice at once is NetAdapterCx's to keep from happening, so a look and a store are enough for every packet.
        if slot.word.load(Ordering::Acquire) != LENT {
            return None;
        }
        slot.word.store(HELD, Ordering::Relaxed);
        // INVARIANT: it was lent, so nobody held it, and it is held from here on.
        Some(RxBuffer { memory: self.0, index, packet: 0 })
    }

    fn memory(&self) -> &Memory {
        // SAFETY: not freed, by the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for RxPool {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones has a handle already.
        self.memory().handles.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: just counted.
        Self(self.0)
    }
}

impl Drop for RxPool {
    fn drop(&mut self) {
        if self.memory().handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the releases of the other handles.
        fence(Ordering::Acquire);
        let home = self.memory().close();
        // SAFETY: `home` buffers have just been taken off the list for good.
        unsafe { Memory::count_off(self.0, home) };
    }
}

impl fmt::Debug for RxPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory();
        f.debug_struct("RxPool")
            .field("buffers", &memory.buffers.load(Ordering::Relaxed))
            .field("buffer_bytes", &memory.buffer_bytes)
            .finish_non_exhaustive()
    }
}

impl Slot {
    /// Above the links are buffers that are held, and those that are lent.
    const PLACES: descriptor::Places = places!("RxSlot", word);
}

impl Memory {
    const PLACES: descriptor::Places =
        places!("RxMemory", free, handles, buffers, slots, buffer_bytes);

    /// Takes the first buffer off the free list.
    fn pop(&self) -> Option<u32> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let index = link_index(head)?;
            let new = changed(head, self.link_of(index));
            match self.free.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    self.slot(index).word.store(HELD, Ordering::Relaxed);
                    return Some(index);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Takes up to `count` buffers off the free list at once, linked to each other.
    fn pop_chain(&self, count: usize) -> Option<Chain> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let first = link_index(head)?;
            let mut last = first;
            let mut rest = self.link_of(first);
            for _ in 1..count {
                let Some(next) = rest.checked_sub(1) else { break };
                last = next;
                rest = self.link_of(next);
            }
            let new = changed(head, rest);
            match self.free.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    self.slot(last).word.store(END, Ordering::Relaxed);
                    return Some(Chain { first, last });
                }
                Err(now) => head = now,
            }
        }
    }

    /// What the buffer at `index` is linked to, if it is in a list. If somebody takes it meanwhile its
    /// word says something else, and the head of the list has changed.
    fn link_of(&self, index: u32) -> u32 {
        let link = self.slots.get(index as usize).map(|slot| slot.word.load(Ordering::Relaxed));
        link.filter(|link| *link <= LINK_MAX).unwrap_or(END)
    }

    /// Puts the chain of buffers from `first` to `last` on the free list; says no if the pool closed.
    fn push(&self, first: u32, last: u32) -> bool {
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            if head & CLOSED != 0 {
                return false;
            }
            self.slot(last).word.store(head as u32, Ordering::Relaxed);
            let new = changed(head, first + 1);
            // Release: what was done to the buffer comes before whoever takes it next.
            match self.free.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Adds a block and gives its first buffer.
    fn grow(&self) -> Option<u32> {
        if self.growing.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: this CPU is the one that is growing, until the store below.
        let blocks = unsafe { &mut *self.blocks.get() };
        let grown = self.add_block(blocks);
        self.growing.store(false, Ordering::Release);
        grown
    }

    fn add_block(&self, blocks: &mut Vec<Buffer>) -> Option<u32> {
        let begin = self.begins.get(blocks.len())?;
        let block = Buffer::try_new(BLOCK_BYTES, BUFFER_ALIGN, TAG).ok()?;
        let address = block.as_ptr();
        let first = (blocks.len() as u32) << self.block_shift;
        let count = 1 << self.block_shift;
        let last = first + count - 1;
        // There is room: reserved for as many as there are places for beginnings.
        push_within(blocks, block).ok()?;
        begin.store(address, Ordering::Release);
        self.buffers.fetch_add(count, Ordering::Relaxed);
        for index in first + 1..last {
            self.slot(index).word.store(index + 2, Ordering::Relaxed);
        }
        if first != last {
            self.push(first + 1, last);
        }
        Some(first)
    }

    /// Takes everything off the free list for good, and counts it.
    fn close(&self) -> u32 {
        let mut head = self.free.fetch_or(CLOSED, Ordering::AcqRel);
        let mut home = 0;
        while let Some(index) = link_index(head) {
            home += 1;
            head = u64::from(self.slot(index).word.load(Ordering::Relaxed));
        }
        home
    }

    /// Counts `home` buffers off, and frees the memory if they were the last.
    ///
    /// # Safety
    ///
    /// The pool is closed, the buffers are not in use, and have not been counted off before; whoever
    /// calls does not use `memory` afterwards.
    unsafe fn count_off(memory: NonNull<Self>, home: u32) {
        // SAFETY: not freed: the buffers that are counted off now are counted still.
        let left = unsafe { memory.as_ref() }.buffers.fetch_sub(home, Ordering::AcqRel) - home;
        if left == 0 {
            // SAFETY: it came from a box; there is no handle, and no buffer is left to come home.
            drop(unsafe { Box::from_raw(memory.as_ptr()) });
        }
    }

    /// The slot of a buffer that exists: its index came from a list, or from whoever holds it.
    fn slot(&self, index: u32) -> &Slot {
        let Some(slot) = self.slots.get(index as usize) else {
            impossible(Impossible::ReceiveBuffer)
        };
        slot
    }

    /// Where the bytes of the buffer at `index` begin.
    fn address(&self, index: u32) -> NonNull<u8> {
        let Some(begin) = self.begins.get((index >> self.block_shift) as usize) else {
            impossible(Impossible::ReceiveBuffer)
        };
        let begin = begin.load(Ordering::Acquire);
        let offset = (index & ((1 << self.block_shift) - 1)) as usize * self.buffer_bytes as usize;
        // SAFETY: the buffer exists, so its block does, in which it lies.
        let address = unsafe { begin.add(offset) };
        // SAFETY: inside a block.
        unsafe { NonNull::new_unchecked(address) }
    }
}

/// A vector of `len` values, if there is memory for it.
fn filled<T>(len: usize, value: impl Fn() -> T) -> Result<Vec<T>, NtError> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(len).map_err(|_error| NtError::INSUFFICIENT_RESOURCES)?;
    vector.resize_with(len, value);
    Ok(vector)
}

/// The index a link leads to.
fn link_index(head: u64) -> Option<u32> {
    (head as u32).checked_sub(1)
}

/// The head after `head`, with another link and another number.
fn changed(head: u64, link: u32) -> u64 {
    let number = (head >> 32).wrapping_add(1) & (CLOSED - 1) >> 32;
    (head & CLOSED) | number << 32 | u64::from(link)
}

/// Buffers that are linked to each other, the last to none.
#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
}

/// Free buffers of a pool for a batch of packets, taken together; those left over go back together.
///
/// # Invariants
///
/// The buffers of `chain` are in no other list, and nobody else has them.
#[must_use = "dropping a stash puts its buffers back"]
pub struct RxStash<'pool> {
    pool: &'pool RxPool,
    chain: Option<Chain>,
}

impl RxStash<'_> {
    /// The next buffer: of the stash, or of the pool when that is empty; `None` at the cap, or when there
    /// is no memory.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn take(&mut self) -> Option<RxBuffer> {
        let Some(Chain { first, last }) = self.chain else { return self.pool.take() };
        let word = &self.pool.memory().slot(first).word;
        let next = link_index(u64::from(word.load(Ordering::Relaxed)));
        self.chain = next.map(|first| Chain { first, last });
        word.store(HELD, Ordering::Relaxed);
        // INVARIANT: out of the chain: nobody else has it.
        Some(RxBuffer { memory: self.pool.0, index: first, packet: 0 })
    }
}

impl Drop for RxStash<'_> {
    fn drop(&mut self) {
        if let Some(Chain { first, last }) = self.chain {
            // There is a handle, so the pool has not closed.
            let _ = self.pool.memory().push(first, last);
        }
    }
}

impl fmt::Debug for RxStash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RxStash")
    }
}

/// A receive buffer, to be filled. Dropping it puts it back.
///
/// # Invariants
///
/// The buffer at `index` is held, by this value alone, and so counted: the memory has not been freed.
#[must_use = "dropping a buffer puts it back into the pool"]
pub struct RxBuffer {
    memory: NonNull<Memory>,
    index: u32,
    /// Length of the packet in the low 26 bits, what was found of its checksums in the next four.
    packet: u32,
}

/// The length in a buffer's `packet`.
const LEN_MASK: u32 = (1 << 26) - 1;
/// Where the findings of layer 3 and 4 are in a buffer's `packet`; two bits each.
const LAYER3_SHIFT: u32 = 26;
/// See [`LAYER3_SHIFT`].
const LAYER4_SHIFT: u32 = 28;
const _: () = assert!(BUFFER_MAX <= LEN_MASK);

// SAFETY: the buffer's bytes are this value's alone, whatever thread has it.
unsafe impl Send for RxBuffer {}
// SAFETY: shared, it only lends shared slices.
unsafe impl Sync for RxBuffer {}

impl RxBuffer {
    /// All bytes of the buffer: what is in them was the content of some earlier packet.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let memory = self.memory();
        let (address, len) = (memory.address(self.index), memory.buffer_bytes as usize);
        // SAFETY: the bytes lie in a block that was zeroed at first, and are this value's alone by
        // the type invariant; its unique borrow makes this one unique.
        unsafe { slice::from_raw_parts_mut(address.as_ptr(), len) }
    }

    /// The packet: the bytes up to the length that was set.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let address = self.memory().address(self.index);
        // SAFETY: as in `as_mut_slice`; `len` is at most the buffer's.
        unsafe { slice::from_raw_parts(address.as_ptr(), self.len() as usize) }
    }

    /// Says that the packet is the first `len` bytes; cut off at the buffer's end.
    pub fn set_len(&mut self, len: usize) {
        let most = self.memory().buffer_bytes;
        let len = u32::try_from(len).unwrap_or(most).min(most);
        self.packet = self.packet & !LEN_MASK | len;
    }

    /// Says what was found of the packet's checksums; nothing, if this is not called.
    pub fn set_checksums(&mut self, Checksums { layer3, layer4 }: Checksums) {
        let found = (layer3 as u32) << LAYER3_SHIFT | (layer4 as u32) << LAYER4_SHIFT;
        self.packet = self.packet & LEN_MASK | found;
    }

    fn len(&self) -> u32 {
        self.packet & LEN_MASK
    }

    fn checksums(&self) -> Checksums {
        let finding = |shift: u32| match self.packet >> shift & 3 {
            1 => Finding::Valid,
            2 => Finding::Invalid,
            _ => Finding::NotChecked,
        };
        Checksums { layer3: finding(LAYER3_SHIFT), layer4: finding(LAYER4_SHIFT) }
    }

    /// Whether the buffer is of `pool`.
    pub(crate) fn is_of(&self, pool: &RxPool) -> bool {
        self.memory == pool.0
    }

    /// Lends the buffer out, to be linked into a ring; it comes back by [`RxPool::reclaim`].
    pub(crate) fn lend(self) -> RxFragment {
        let memory = self.memory();
        let (address, capacity) = (memory.address(self.index), memory.buffer_bytes);
        // Release: what was done to the bytes comes before whoever brings them back.
        memory.slot(self.index).word.store(LENT, Ordering::Release);
        let handle = NonZeroUsize::MIN.saturating_add(self.index as usize);
        let (len, checksums) = (self.len(), self.checksums());
        core::mem::forget(self);
        // SAFETY: nonpaged memory of the pool, which is not freed while a buffer is away, and which
        // nobody touches until the buffer is reclaimed; lengths are bounded by `BUFFER_MAX`.
        unsafe { RxFragment::new(address, capacity, len, handle) }.with_checksums(checksums)
    }

    /// Leaves the buffer to a list of waiting ones, linked to `next` of the same list.
    fn wait(self, link: u32, packet: u32) -> u32 {
        let index = self.index;
        let slot = self.memory().slot(index);
        slot.packet.store(packet, Ordering::Relaxed);
        slot.word.store(link, Ordering::Relaxed);
        core::mem::forget(self);
        index
    }

    fn memory(&self) -> &Memory {
        // SAFETY: not freed, by the type invariant.
        unsafe { self.memory.as_ref() }
    }
}

impl Drop for RxBuffer {
    fn drop(&mut self) {
        if !self.memory().push(self.index, self.index) {
            // SAFETY: the pool has closed without this buffer, which nobody uses any more.
            unsafe { Memory::count_off(self.memory, 1) };
        }
    }
}

impl fmt::Debug for RxBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
