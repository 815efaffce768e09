//! Everything one call to `WskSendMessages` needs until it is complete, and the pool of them.
//!
//! WSK copies nothing of a datagram: the bytes, the list that describes them, the nodes of the
//! message list and the control messages all stay where and as they are until the IRP completes. So
//! they live in one block, made once and used again and again: nothing is allocated for a send.
//! A block is a [`SendRequest`] while the driver fills it, WSK's between call and completion, and
//! in its pool's list otherwise.
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

/// The most datagrams in one request.
pub const MESSAGES: usize = 32;
/// Room for control messages.
pub const CONTROL_LEN: usize = 80;
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
    nodes: [WSK_BUF_LIST; MESSAGES],
    used: usize,
    control: Control,
    control_len: usize,
    remote: SockaddrInet,
    /// The socket it is being sent by; null otherwise.
    core: *const Core,
    home: NonNull<Home>,
    /// The next free block of the pool, while this one is free.
    next: Option<NonNull<Self>>,
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
        let place = u32::try_from(offset).ok().filter(|_| fits);
        let place = place.ok_or(NtError::INVALID_PARAMETER)?;
        let mdl = block.mdl.as_ptr();
        let node = block.nodes.get_mut(block.used).ok_or(NtError::INVALID_PARAMETER)?;
        node.Buffer = WSK_BUF { Mdl: mdl, Offset: place, Length: length };
        block.used += 1;
        Ok(())
    }

    /// The bytes of each datagram, in order, to write.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let Block { nodes, used, buffer, .. } = self.block_mut();
        let mut rest = buffer.as_mut_slice();
        let mut passed = 0;
        nodes.get(..*used).unwrap_or_default().iter().filter_map(move |node| {
            // `push` keeps them ascending and apart.
            let skip = (node.Buffer.Offset as usize).checked_sub(passed)?;
            let (_, at) = core::mem::take(&mut rest).split_at_mut_checked(skip)?;
            let (datagram, behind) = at.split_at_mut_checked(node.Buffer.Length)?;
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
        let block = self.block();
        let nodes = block.nodes.get(..block.used).unwrap_or_default();
        nodes.iter().map(|node| (node.Buffer.Offset as usize, node.Buffer.Length))
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

    /// Sets where the datagrams go and their control messages, which `write` puts into the room
    /// for them and returns the bytes of.
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
        let used = block.used;
        for (at, node) in block.nodes.iter_mut().take(used).enumerate() {
            let next = at + 1;
            node.Next = if next < used { nodes.wrapping_add(next) } else { ptr::null_mut() };
        }
        let control_len = u32::try_from(block.control_len).unwrap_or(0);
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
            nodes: [WSK_BUF_LIST { Next: ptr::null_mut(), Buffer: none }; MESSAGES],
            used: 0,
            control: Control([0; CONTROL_LEN]),
            control_len: 0,
            remote: SockaddrInet([0; 28]),
            core: ptr::null(),
            home,
            next: None,
        })
    }
}
