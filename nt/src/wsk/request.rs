//! Everything one call to `WskSendMessages` needs until it is complete, and the pool of them.
//!
//! WSK copies nothing of a datagram: the bytes, the list that describes them, the nodes of the message list and the control messages
//! all stay where and as they are until the IRP completes. So they live in one block, made once and used again and again: nothing is
//! allocated for a send. A block is a [`SendRequest`] while the driver fills it, WSK's between call and completion, and in its
//! pool's list otherwise.
//!
//! Source: wsk/nc-wsk-pfn_wsk_send_messages.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::socket::Core;
use crate::{
    irp::Irp,
    irql::{AtMostDispatch, Passive},
    mdl::Mdl,
    netio::SockaddrInet,
    pool::{Buffer, Tag, try_box},
    rundown::Rundown,
    spin_lock::SpinLock,
    status::NtError,
    sys::wsk::{WSK_BUF, WSK_BUF_LIST},
};

mod places;

/// The most datagrams in one request.
pub const MESSAGES: usize = 32;
/// Room for control messages.
pub const CONTROL_LEN: usize = 104;
/// Tag of the bytes of datagrams to be sent.
const TAG: Tag = Tag::new(*b"PnsR");
/// Where datagrams' bytes begin: at a cache line, so that a stride of cache lines stays on them.
const ALIGNMENT: usize = 64;

/// Control messages begin at a multiple of eight.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// One request's memory. `mdl` stands before the buffer it describes, and so is dropped before it.
pub(super) struct Block {
    irp: Irp,
    mdl: Mdl,
    buffer: Buffer,
    datagrams: [Extent; MESSAGES],
    used: usize,
    /// What they are handed over as, made when they are sent.
    nodes: [WSK_BUF_LIST; MESSAGES],
    control: Control,
    control_len: usize,
    joining: Joining,
    remote: SockaddrInet,
    /// The socket it is being sent by; null otherwise.
    core: *const Core,
    home: NonNull<Home>,
    /// The next free block of the pool, while this one is free.
    next: Option<NonNull<Self>>,
}

/// Where a datagram lies in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    offset: u32,
    length: u32,
}

/// Whether WSK is given several datagrams as one, to cut apart.
#[derive(Clone, Copy)]
enum Joining {
    /// Never asked for.
    Never,
    /// Of `segment` bytes each, as `control_len` bytes more of control messages say.
    Joined { segment: u32, control_len: usize },
    /// It was asked for, and given up after this failure.
    GivenUp(NtError),
}

/// A place for up to [`MESSAGES`] datagrams of one destination, and all that sending them needs.
///
/// Goes back to its pool on drop.
///
/// # Invariants
///
/// `block` is a live block of a pool that waits for it, and nobody else's.
#[must_use = "dropping returns the request to its pool unsent"]
pub struct SendRequest {
    block: NonNull<Block>,
}

// SAFETY: the block is owned, and nothing in it belongs to a thread.
unsafe impl Send for SendRequest {}
// SAFETY: a shared request is only read.
unsafe impl Sync for SendRequest {}

impl SendRequest {
    /// The bytes that datagrams are written to; they begin at a multiple of 64.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.block_mut().buffer.as_mut_slice()
    }

    /// How many bytes there are.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.block().buffer.len()
    }

    /// Adds bytes `offset..offset + length` as the next datagram.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] when they begin before the last datagram's end, are not all
    /// in the buffer, or [`MESSAGES`] datagrams are there already; nothing changes.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn push(&mut self, offset: usize, length: usize) -> Result<(), NtError> {
        let last = self.messages().next_back().map_or(0, |(offset, length)| offset + length);
        let end = offset.checked_add(length).ok_or(NtError::INVALID_PARAMETER)?;
        let block = self.block_mut();
        let fits = offset >= last && end <= block.buffer.len();
        let number = |number| u32::try_from(number).map_err(|_| NtError::INVALID_PARAMETER);
        let extent = Extent { offset: number(offset)?, length: number(length)? };
        let place = block.datagrams.get_mut(block.used).filter(|_| fits);
        *place.ok_or(NtError::INVALID_PARAMETER)? = extent;
        block.used += 1;
        Ok(())
    }

    /// The bytes of each datagram, in order, to write.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let Block { datagrams, used, buffer, .. } = self.block_mut();
        let mut rest = buffer.as_mut_slice();
        let mut passed = 0;
        datagrams.get(..*used).unwrap_or_default().iter().filter_map(move |extent| {
            // `push` keeps them ascending and apart.
            let skip = (extent.offset as usize).checked_sub(passed)?;
            let (_, at) = core::mem::take(&mut rest).split_at_mut_checked(skip)?;
            let (datagram, behind) = at.split_at_mut_checked(extent.length as usize)?;
            passed += skip + datagram.len();
            rest = behind;
            Some(datagram)
        })
    }

    /// Offset and length of each datagram, in order.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = (usize, usize)> {
        self.datagrams().iter().map(|extent| (extent.offset as usize, extent.length as usize))
    }

    /// How many datagrams there are.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.block().used
    }

    /// Sets where the datagrams go and their control messages, which `write` puts into the room for them and returns the bytes of.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn address(
        &mut self,
        remote: SockaddrInet,
        write: impl FnOnce(&mut [u8; CONTROL_LEN]) -> usize,
    ) {
        let block = self.block_mut();
        block.remote = remote;
        block.control_len = write(&mut block.control.0).min(CONTROL_LEN);
        block.joining = Joining::Never;
    }

    /// Leaves out control messages from the back: `keep` gets all of them and says how many of their bytes stay. False if
    /// none was left out.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn shorten(&mut self, keep: impl FnOnce(&[u8]) -> usize) -> bool {
        let block = self.block_mut();
        let before = block.control_len;
        let messages = block.control.0.get(..before).unwrap_or_default();
        block.control_len = keep(messages).min(before);
        block.control_len < before
    }

    /// Has datagrams of `segment` bytes, and a shorter one behind them, handed over as one where they lie
    /// back to back. `write` puts the control message that says so behind those that are there, and
    /// returns its bytes. To be called after [`SendRequest::address`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn join(&mut self, segment: u32, write: impl FnOnce(&mut [u8]) -> usize) {
        let block = self.block_mut();
        let Some(rest) = block.control.0.get_mut(block.control_len..) else { return };
        let room = rest.len();
        let control_len = write(rest).min(room);
        block.joining = Joining::Joined { segment, control_len };
    }

    /// Whether [`SendRequest::join`] makes fewer of its datagrams.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn joins(&self, segment: u32) -> bool {
        stretches(self.datagrams(), segment).any(|(_, count)| count > 1)
    }

    /// Has each datagram handed over by itself after all, because of this failure; false if that is how
    /// they were.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn part(&mut self, error: NtError) -> bool {
        let block = self.block_mut();
        let joined = matches!(block.joining, Joining::Joined { .. });
        if joined {
            block.joining = Joining::GivenUp(error);
        }
        joined
    }

    /// The failure for which its datagrams had to be parted, if so.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn parted_for(&self) -> Option<NtError> {
        match self.block().joining {
            Joining::GivenUp(error) => Some(error),
            Joining::Never | Joining::Joined { .. } => None,
        }
    }

    /// How many datagrams share what is handed over with others, and how many such there are.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn joined(&self) -> (usize, usize) {
        let Joining::Joined { segment, .. } = self.block().joining else { return (0, 0) };
        let counts = stretches(self.datagrams(), segment).map(|(_, count)| count);
        counts
            .filter(|count| *count > 1)
            .fold((0, 0), |(datagrams, sends), count| (datagrams + count, sends + 1))
    }

    fn datagrams(&self) -> &[Extent] {
        let block = self.block();
        block.datagrams.get(..block.used).unwrap_or_default()
    }

    /// Where the datagrams go.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn remote(&self) -> SockaddrInet {
        self.block().remote
    }

    /// Where everything lies that whoever sends the request otherwise than by WSK needs; it stays
    /// there until the request is dropped.
    pub(crate) fn sending(&mut self) -> Sending {
        let block = self.block_mut();
        let control_len = u32::try_from(block.control_len).unwrap_or(0);
        // SAFETY: the buffer is never null.
        let buffer = unsafe { NonNull::new_unchecked(block.buffer.as_ptr()) };
        Sending {
            buffer,
            remote: NonNull::from(&mut block.remote),
            control: NonNull::from(&mut block.control).cast(),
            control_len,
        }
    }

    /// Hands the request over to `call`, which sends it by the socket of `core`.
    ///
    /// After `call` was entered the block may be anybody's: it is not looked at again.
    pub(super) fn send(
        self,
        core: NonNull<Core>,
        routine: crate::irp::CompletionRoutine,
        call: impl FnOnce(Outgoing),
    ) {
        let mut this = ManuallyDrop::new(self);
        let raw = this.block.as_ptr();
        // SAFETY: by the type invariant the block is live; this only forms an address in it.
        let nodes = unsafe { &raw mut (*raw).nodes }.cast::<WSK_BUF_LIST>();
        // SAFETY: the same.
        let remote = unsafe { &raw mut (*raw).remote };
        // SAFETY: the same.
        let control = unsafe { &raw mut (*raw).control };
        let block = this.block_mut();
        block.core = core.as_ptr();
        let (segment, more) = match block.joining {
            Joining::Joined { segment, control_len } => (segment, control_len),
            Joining::Never | Joining::GivenUp(_) => (0, 0),
        };
        let control_len = u32::try_from(block.control_len + more).unwrap_or(0);
        let mdl = block.mdl.as_ptr();
        let datagrams = block.datagrams.get(..block.used).unwrap_or_default();
        let mut used = 0;
        for ((Extent { offset, length }, _), node) in
            stretches(datagrams, segment).zip(&mut block.nodes)
        {
            node.Buffer = WSK_BUF { Mdl: mdl, Offset: offset, Length: length as usize };
            used += 1;
            node.Next = nodes.wrapping_add(used);
        }
        // There is at least one: a request without datagrams is not sent.
        if let Some(last) = block.nodes.get_mut(..used).and_then(<[_]>::last_mut) {
            last.Next = ptr::null_mut();
        }
        let irp = block.irp.prepare(routine, raw.cast());
        let outgoing = Outgoing { nodes, remote, control: control.cast(), control_len, irp };
        call(outgoing);
    }

    /// Takes back what [`SendRequest::send`] handed over: the request, its socket and its outcome.
    ///
    /// # Safety
    ///
    /// `context` is what the completion routine was given, and this is that routine.
    pub(super) unsafe fn completed(
        context: *mut c_void,
    ) -> (Self, NonNull<Core>, Result<usize, NtError>) {
        // SAFETY: `send` passed its block, which no pool frees while it is away.
        let block = unsafe { NonNull::new_unchecked(context.cast::<Block>()) };
        // INVARIANT: completed, so it is ours again, and the pool waits for it.
        let mut this = Self { block };
        let block = this.block_mut();
        let core = core::mem::replace(&mut block.core, ptr::null()).cast_mut();
        let outcome = block.irp.outcome();
        // SAFETY: `send` put the pointer to a live core there, which is never null.
        let core = unsafe { NonNull::new_unchecked(core) };
        (this, core, outcome)
    }

    fn block(&self) -> &Block {
        // SAFETY: by the type invariant.
        unsafe { self.block.as_ref() }
    }

    fn block_mut(&mut self) -> &mut Block {
        // SAFETY: by the type invariant; unique, as the borrow of `self` is.
        unsafe { self.block.as_mut() }
    }
}

impl Drop for SendRequest {
    fn drop(&mut self) {
        let block = self.block_mut();
        block.used = 0;
        block.joining = Joining::Never;
        let home = block.home;
        // SAFETY: by the type invariant the pool waits for this block, so its home is live until
        // the block is back.
        unsafe { Home::put(home, self.block) };
    }
}

/// What [`SendRequest::sending`] returns.
pub(crate) struct Sending {
    pub(crate) buffer: NonNull<u8>,
    pub(crate) remote: NonNull<SockaddrInet>,
    pub(crate) control: NonNull<c_void>,
    pub(crate) control_len: u32,
}

/// The arguments of one call to `WskSendMessages`.
pub(super) struct Outgoing {
    pub(super) nodes: *mut WSK_BUF_LIST,
    pub(super) remote: *mut SockaddrInet,
    pub(super) control: *mut c_void,
    pub(super) control_len: u32,
    pub(super) irp: wdk_sys::PIRP,
}

/// Where free blocks are, at an address that blocks know.
struct Home {
    free: SpinLock<Free>,
    /// Blocks in the list; written with the lock held.
    count: AtomicUsize,
    /// One reference for each block that is away.
    away: Rundown,
}

/// A list of free blocks.
struct Free {
    first: Option<NonNull<Block>>,
}

// SAFETY: the blocks in the list are owned by it, and belong to no thread.
unsafe impl Send for Free {}

impl Home {
    /// Puts a block back; the home may be gone afterwards.
    ///
    /// # Safety
    ///
    /// The home is live, `block` is one of its own that is away, and nobody uses it any more.
    unsafe fn put(home: NonNull<Self>, block: NonNull<Block>) {
        // SAFETY: requests live at or below DISPATCH_LEVEL only: so do the calls that make, send
        // and complete them.
        let level = unsafe { AtMostDispatch::assume() };
        // SAFETY: live until the release below, as the caller promises.
        let home = unsafe { home.as_ref() };
        {
            let mut free = home.free.lock(&level);
            // SAFETY: the caller gives the block up, so this borrow is the only one.
            unsafe { &mut *block.as_ptr() }.next = free.first;
            free.first = Some(block);
            home.count.store(home.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        // SAFETY: entered when the block left.
        drop(unsafe { home.away.from_raw() });
    }
}

/// A bounded set of requests of one size.
///
/// Everything is allocated when the pool is made, so sending can run out of requests, and then is
/// told so, but never of memory half-way.
///
/// # Invariants
///
/// `home` is live; every block made is in its list or counted as away.
pub struct SendPool {
    home: NonNull<Home>,
}

// SAFETY: the list is locked, the rest of a home is shared state.
unsafe impl Send for SendPool {}
// SAFETY: the same.
unsafe impl Sync for SendPool {}

impl SendPool {
    /// Makes `count` requests with room for `capacity` bytes each.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; nothing is left behind.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the pool, which waits until every request is back. Every
    /// socket that may still be sending one is closed before.
    pub fn new(_level: &Passive, count: usize, capacity: usize) -> Result<Self, NtError> {
        let free = SpinLock::new(Free { first: None });
        let home = Home { free, count: AtomicUsize::new(0), away: Rundown::new() };
        let home = NonNull::from(Box::leak(try_box(home)?));
        // INVARIANT: just made, with no blocks; dropped by `?` below it frees those made so far.
        let pool = Self { home };
        for _ in 0..count {
            let block = try_box(Block::new(home, capacity)?)?;
            // SAFETY: the home is live in `pool`.
            let inside = unsafe { home.as_ref() }.away.enter().ok_or(NtError::UNSUCCESSFUL)?;
            inside.into_raw();
            // SAFETY: counted as away above; the box gives the block up.
            unsafe { Home::put(home, NonNull::from(Box::leak(block))) };
        }
        Ok(pool)
    }

    /// Takes a request; `None` when all of them are away.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn take(&self) -> Option<SendRequest> {
        // SAFETY: by the type invariant.
        let home = unsafe { self.home.as_ref() };
        let inside = home.away.enter()?;
        // SAFETY: `take` is documented for up to DISPATCH_LEVEL.
        let level = unsafe { AtMostDispatch::assume() };
        let mut free = home.free.lock(&level);
        let block = free.first?;
        // SAFETY: a block in the list is owned by it.
        free.first = unsafe { block.as_ref() }.next;
        home.count.store(home.count.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        drop(free);
        inside.into_raw();
        // INVARIANT: out of the list, and counted as away.
        Some(SendRequest { block })
    }

    /// How many requests are not away; a moment later it may be another number.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn available(&self) -> usize {
        // SAFETY: by the type invariant.
        unsafe { self.home.as_ref() }.count.load(Ordering::Relaxed)
    }
}

impl Drop for SendPool {
    fn drop(&mut self) {
        // SAFETY: a pool is dropped at PASSIVE_LEVEL, as `new` says.
        let level = unsafe { Passive::assume() };
        // SAFETY: by the type invariant.
        let home = unsafe { self.home.as_ref() };
        home.away.wait(&level);
        // SAFETY: nothing is away, so nobody has the home but this value.
        let mut home = unsafe { Box::from_raw(self.home.as_ptr()) };
        let mut next = home.free.get_mut().first.take();
        while let Some(block) = next {
            // SAFETY: made by a box in `new`, and in the list once.
            let mut block = unsafe { Box::from_raw(block.as_ptr()) };
            next = block.next.take();
        }
    }
}

impl Block {
    fn new(home: NonNull<Home>, capacity: usize) -> Result<Self, NtError> {
        let buffer = Buffer::try_new(capacity, ALIGNMENT, TAG)?;
        // SAFETY: both go into one block, in which the list stands, and is dropped, before the
        // buffer.
        let mdl = unsafe { Mdl::describing(&buffer)? };
        let none = WSK_BUF { Mdl: ptr::null_mut(), Offset: 0, Length: 0 };
        Ok(Self {
            irp: Irp::allocate()?,
            mdl,
            buffer,
            datagrams: [Extent { offset: 0, length: 0 }; MESSAGES],
            used: 0,
            nodes: [WSK_BUF_LIST { Next: ptr::null_mut(), Buffer: none }; MESSAGES],
            control: Control([0; CONTROL_LEN]),
            control_len: 0,
            joining: Joining::Never,
            remote: SockaddrInet([0; 28]),
            core: ptr::null(),
            home,
            next: None,
        })
    }
}

/// What may be handed over as one, to be cut into datagrams of `segment` bytes: those that lie back to
/// back, have that many bytes each, and a shorter one behind them; and how many each is.
fn stretches(
    datagrams: &[Extent],
    segment: u32,
) -> impl Iterator<Item = (Extent, usize)> + use<'_> {
    let mut rest = datagrams.iter().peekable();
    core::iter::from_fn(move || {
        let mut all = *rest.next()?;
        let (mut last, mut count) = (all.length, 1);
        while let Some(next) = rest.next_if(|next| {
            last == segment && next.length <= segment && next.offset == all.offset + all.length
        }) {
            all.length += next.length;
            (last, count) = (next.length, count + 1);
        }
        Some((all, count))
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Datagrams of these lengths, back to back but for a gap before those at `gaps`.
    fn laid_out(lengths: &[u32], gaps: &[usize]) -> Vec<Extent> {
        let mut end = 48;
        let place = |(at, length): (usize, &u32)| {
            let offset = end + if gaps.contains(&at) { 16 } else { 0 };
            end = offset + length;
            Extent { offset, length: *length }
        };
        lengths.iter().enumerate().map(place).collect()
    }

    #[test]
    fn what_the_stack_can_cut_apart_is_joined() {
        for (lengths, gaps, segment, expected, why) in [
            (&[96, 96, 96][..], &[][..], 96, &[3][..], "all alike"),
            (&[96, 96, 32], &[], 96, &[3], "a shorter last"),
            (&[96, 32, 96, 96], &[], 96, &[2, 2], "a shorter one ends a stretch"),
            (&[32, 96, 96], &[], 96, &[1, 2], "and begins none"),
            (&[32, 32, 96], &[], 96, &[1, 1, 1], "nothing but the longest is joined"),
            (&[96, 96, 96], &[1], 96, &[1, 2], "not over a gap"),
            (&[96, 96], &[1], 96, &[1, 1], "nor at the end"),
            (&[96, 96, 96], &[], 0, &[1, 1, 1], "not asked for"),
            (&[96], &[], 96, &[1], "alone"),
            (&[], &[], 96, &[], "none"),
        ] {
            let all = laid_out(lengths, gaps);
            let counts: Vec<usize> = stretches(&all, segment).map(|(_, count)| count).collect();
            assert_eq!(counts, expected, "{why}");
            // Every byte is in one of them, in order.
            let mut at = 0;
            for (stretch, count) in stretches(&all, segment) {
                let parts = &all[at..at + count];
                assert_eq!(stretch.offset, parts[0].offset, "{why}");
                let all: u32 = parts.iter().map(|part| part.length).sum();
                assert_eq!(stretch.length, all, "{why}");
                at += count;
            }
            assert_eq!(at, all.len(), "{why}");
        }
    }
}
