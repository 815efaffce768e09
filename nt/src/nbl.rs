//! NET_BUFFER_LISTs by who owns them: lent in a classify, referenced beyond it, our own to send.
//!
//! | value | the list is | it ends by |
//! |---|---|---|
//! | [`Indicated`] | the stack's, lent for one classify | the classify's return |
//! | [`ReferencedNbl`] | the stack's, kept by a reference | dropping the reference |
//! | `SendNbl` | ours, over memory of ours | freeing it, after the stack has given it back |
//!
//! The stack moves a list's data start as it likes once a classify has returned, so what was found
//! in the classify (first MDL, offset, length) is noted then and used later; the MDLs stay as they
//! are for as long as the list is referenced. All of it `<= DISPATCH_LEVEL`.
//!
//! Source: DDI nbl/ns-nbl-net_buffer_list, fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0,
//! WDD network/packet-indication-format.

use core::{
    ffi::c_void,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use wdk_sys::{MDL, PMDL};

use crate::{
    irql::{self, Passive},
    mdl::{ChainError, MdlChain},
    pool::Tag,
    status::{NtError, check},
    sys::{
        fwp::{
            FwpsAllocateNetBufferAndNetBufferList0, FwpsDereferenceNetBufferList0,
            FwpsFreeNetBufferList0, FwpsReferenceNetBufferList0,
        },
        ndis::{
            NDIS_OBJECT_HEADER, NDIS_OBJECT_TYPE_DEFAULT,
            NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO, NET_BUFFER, NET_BUFFER_LIST,
            NET_BUFFER_LIST_POOL_PARAMETERS, NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
            NET_BUFFER_POOL_PARAMETERS, NET_BUFFER_POOL_PARAMETERS_REVISION_1,
            NdisAdvanceNetBufferDataStart, NdisAllocateNetBuffer, NdisAllocateNetBufferListPool,
            NdisAllocateNetBufferPool, NdisFreeNetBuffer, NdisFreeNetBufferListPool,
            NdisFreeNetBufferPool, NdisGetDataBuffer, NdisRetreatNetBufferDataStart,
            UDP_COALESCED_INFO,
        },
    },
};

/// Tag of the pools' memory.
const TAG: Tag = Tag::new(*b"PnsN");

/// A received NET_BUFFER_LIST as a classify lends it.
///
/// # Invariants
///
/// Both are live, `first` is the list's first NET_BUFFER, and but for this value nobody changes
/// them during `'c`.
pub struct Indicated<'c> {
    list: NonNull<NET_BUFFER_LIST>,
    first: NonNull<NET_BUFFER>,
    lent: PhantomData<&'c mut NET_BUFFER_LIST>,
}

/// How a coalesced datagram was put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesced {
    /// Datagrams it was made of.
    pub count: u16,
    /// Bytes of each but the last; 0 when the system does not say.
    pub size: u16,
}

impl<'c> Indicated<'c> {
    /// Wraps a classify's `layerData`; `None` when there is no list, or none of one NET_BUFFER.
    ///
    /// # Safety
    ///
    /// `list` is null or a list that the classify running now lends for `'c`.
    pub(crate) unsafe fn from_raw(list: *mut c_void) -> Option<Self> {
        let list = NonNull::new(list.cast::<NET_BUFFER_LIST>())?;
        // SAFETY: the caller promises a live list.
        let first = NonNull::new(unsafe { list.as_ref() }.FirstNetBuffer)?;
        // SAFETY: a live list's NET_BUFFERs are live.
        let is_only = unsafe { first.as_ref() }.Next.is_null();
        // SAFETY: the caller promises a live list.
        let is_only = is_only && unsafe { list.as_ref() }.Next.is_null();
        // INVARIANT: the caller's promise; documented is one list at this layer.
        if !is_only {
            return None;
        }
        Some(Self { list, first, lent: PhantomData })
    }

    /// Bytes from the data start on.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer().DataLength as usize
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes; `None` when there are fewer, or NT could not map them.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: DDI nblapi/nf-nblapi-ndisgetdatabuffer.
    #[must_use]
    pub fn first_bytes<const N: usize>(&self) -> Option<[u8; N]> {
        const { assert!(N > 0 && N <= 64) };
        let mut storage = [0_u8; N];
        // SAFETY: a live NET_BUFFER (type invariant); the storage holds N bytes; no alignment asked.
        let found = unsafe {
            NdisGetDataBuffer(self.first.as_ptr(), N as u32, storage.as_mut_ptr().cast(), 1, 0)
        };
        let found = NonNull::new(found.cast::<[u8; N]>())?;
        if found.as_ptr().cast_const() == (&raw const storage) {
            return Some(storage);
        }
        // SAFETY: NDIS answered where N bytes lie, mapped and unchanged for as long as the list is
        // lent; bytes have no alignment.
        Some(unsafe { found.as_ptr().read() })
    }

    /// The first bytes of what begins `back` bytes before the data start, as a header does.
    ///
    /// The data start is where it was when this returns.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: WDD network/retreat-and-advance-operations.
    #[must_use]
    pub fn bytes_before<const N: usize>(&mut self, back: u32) -> Option<[u8; N]> {
        // More room than there is would be filled with memory that holds no header.
        if back > self.buffer().DataOffset {
            return None;
        }
        // SAFETY: a live NET_BUFFER that nobody else changes (type invariant); there is room, so
        // that nothing is allocated.
        check(unsafe { NdisRetreatNetBufferDataStart(self.first.as_ptr(), back, 0, ptr::null()) })
            .ok()?;
        let bytes = self.first_bytes();
        // SAFETY: undoes the retreat, which allocated nothing.
        unsafe { NdisAdvanceNetBufferDataStart(self.first.as_ptr(), back, 0, ptr::null()) };
        bytes
    }

    /// How the network adapter put the datagram together out of several; `None` for a plain one.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: DDI nbluro/ns-nbluro-ndis_udp_rsc_offload_net_buffer_list_info.
    #[must_use]
    pub fn coalesced(&self) -> Option<Coalesced> {
        // SAFETY: a live list (type invariant).
        let info = unsafe { self.list.as_ref() }.NetBufferListInfo[UDP_COALESCED_INFO];
        let info: NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO =
            // SAFETY: the slot holds this structure's bytes in a pointer's place, all of which are
            // initialised.
            unsafe { core::mem::transmute_copy(&info) };
        if info.SegCount == 0 && info.SegSize == 0 {
            return None;
        }
        Some(Coalesced { count: info.SegCount, size: info.SegSize })
    }

    /// Keeps the list beyond the classify, which absorbs it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: DDI fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0.
    #[must_use = "dropping it gives the list back to the network adapter"]
    pub fn reference(&self) -> ReferencedNbl {
        // SAFETY: a live list (type invariant), which is not going to be modified.
        unsafe { FwpsReferenceNetBufferList0(self.list.as_ptr(), 0) };
        let NET_BUFFER { CurrentMdl: mdl, CurrentMdlOffset: offset, DataLength: length, .. } =
            *self.buffer();
        // INVARIANT: referenced above; NDIS keeps these three in step.
        ReferencedNbl { list: self.list, mdl, offset, length }
    }

    /// The list, to ask the filtering platform about it.
    pub(crate) fn as_ptr(&self) -> *const NET_BUFFER_LIST {
        self.list.as_ptr()
    }

    fn buffer(&self) -> &NET_BUFFER {
        // SAFETY: live (type invariant), and the borrow keeps this value from changing it.
        unsafe { self.first.as_ref() }
    }
}

impl fmt::Debug for Indicated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Indicated({} bytes)", self.len())
    }
}

/// A reference to a received NET_BUFFER_LIST; its network adapter waits for the buffer.
///
/// # Invariants
///
/// Stands for one call of `FwpsReferenceNetBufferList0` on `list`. From byte `offset` of `mdl` on
/// there are `length` bytes in locked pages, which nobody changes until the list is dereferenced.
pub struct ReferencedNbl {
    list: NonNull<NET_BUFFER_LIST>,
    mdl: PMDL,
    offset: u32,
    length: u32,
}

// SAFETY: a reference may be used and given up on any thread.
unsafe impl Send for ReferencedNbl {}
// SAFETY: a shared one is only read.
unsafe impl Sync for ReferencedNbl {}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ReferencedNbl>() == 24);

impl ReferencedNbl {
    /// The bytes that the classify saw, mapped.
    ///
    /// # Errors
    ///
    /// See [`ChainError`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn payload(&self) -> Result<MdlChain<'_>, ChainError> {
        // SAFETY: by the type invariant, as long as the reference is borrowed.
        unsafe { MdlChain::map(self.mdl, self.offset, self.length as usize) }
    }

    /// Another reference to the list, for `length` of the bytes from byte `from` on; `None` when
    /// there are fewer.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn part(&self, from: usize, length: usize) -> Option<Self> {
        if from.checked_add(length)? > self.len() {
            return None;
        }
        let (mut mdl, mut offset) = (self.mdl, self.offset as usize);
        let mut skip = from;
        while skip > 0 {
            // SAFETY: by the type invariant the chain goes on, since there are bytes behind these.
            let here = unsafe { NonNull::new(mdl)?.as_ref() };
            let count = (here.ByteCount as usize).saturating_sub(offset);
            if skip < count {
                offset += skip;
                break;
            }
            skip -= count;
            (mdl, offset) = (here.Next, 0);
        }
        // SAFETY: live (type invariant), and not going to be modified.
        unsafe { FwpsReferenceNetBufferList0(self.list.as_ptr(), 0) };
        // INVARIANT: referenced above; these bytes are some of ours.
        Some(Self { list: self.list, mdl, offset: offset as u32, length: length as u32 })
    }

    /// How many bytes there are.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Drop for ReferencedNbl {
    fn drop(&mut self) {
        let at_dispatch = u8::from(irql::current() == wdk_sys::DISPATCH_LEVEL as u8);
        // SAFETY: the reference is ours (type invariant) and not used again; the flag is true only
        // at DISPATCH_LEVEL.
        unsafe { FwpsDereferenceNetBufferList0(self.list.as_ptr(), at_dispatch) };
    }
}

impl fmt::Debug for ReferencedNbl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReferencedNbl({} bytes)", self.length)
    }
}

/// The pools that lists to send come from.
///
/// # Invariants
///
/// Handles of two pools of ours; every list and buffer of theirs is given back before they go.
pub(crate) struct NblPools {
    lists: NonNull<c_void>,
    buffers: NonNull<c_void>,
}

// SAFETY: NDIS pools are used from any thread.
unsafe impl Send for NblPools {}
// SAFETY: as above; NDIS does its own locking.
unsafe impl Sync for NblPools {}

impl NblPools {
    /// Makes both pools.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`. Dropped when every list is back.
    ///
    /// Source: DDI nblapi/nf-nblapi-ndisallocatenetbufferlistpool. Without a handle of NDIS's, as
    /// drivers that are not NDIS's do (inferred: the page recommends a generic object).
    pub(crate) fn new(_passive: &Passive) -> Result<Self, NtError> {
        let list = NET_BUFFER_LIST_POOL_PARAMETERS {
            Header: header::<NET_BUFFER_LIST_POOL_PARAMETERS>(
                NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
            ),
            ProtocolId: 0,
            fAllocateNetBuffer: 1,
            ContextSize: 0,
            PoolTag: TAG.value(),
            DataSize: 0,
        };
        // SAFETY: the parameters live through the call.
        let lists = unsafe { NdisAllocateNetBufferListPool(ptr::null_mut(), &raw const list) };
        let lists = NonNull::new(lists).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        let buffer = NET_BUFFER_POOL_PARAMETERS {
            Header: header::<NET_BUFFER_POOL_PARAMETERS>(NET_BUFFER_POOL_PARAMETERS_REVISION_1),
            PoolTag: TAG.value(),
            DataSize: 0,
        };
        // SAFETY: the same.
        let buffers = unsafe { NdisAllocateNetBufferPool(ptr::null_mut(), &raw const buffer) };
        let Some(buffers) = NonNull::new(buffers) else {
            // SAFETY: just made, and empty.
            unsafe { NdisFreeNetBufferListPool(lists.as_ptr()) };
            return Err(NtError::INSUFFICIENT_RESOURCES);
        };
        // INVARIANT: both just made.
        Ok(Self { lists, buffers })
    }

    /// Makes a list of one NET_BUFFER that shows `length` bytes from `offset` of `mdl` on.
    ///
    /// # Safety
    ///
    /// `mdl` describes that many bytes; with them it outlives the list, and is in no other.
    ///
    /// # Errors
    ///
    /// What the filtering platform answers: memory is short.
    pub(crate) unsafe fn allocate(
        &self,
        mdl: NonNull<MDL>,
        offset: u32,
        length: usize,
    ) -> Result<SendNbl, NtError> {
        let mut list = ptr::null_mut();
        // SAFETY: a pool of lists with their NET_BUFFER (type invariant); the caller's MDL.
        check(unsafe {
            FwpsAllocateNetBufferAndNetBufferList0(
                self.lists.as_ptr(),
                0,
                0,
                mdl.as_ptr(),
                offset,
                length,
                &raw mut list,
            )
        })?;
        let list = NonNull::new(list).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        // SAFETY: just made, with its first NET_BUFFER.
        let last = NonNull::new(unsafe { list.as_ref() }.FirstNetBuffer);
        // INVARIANT: made above, and ours.
        last.map(|last| SendNbl { list, last }).ok_or(NtError::INSUFFICIENT_RESOURCES)
    }

    /// Adds a NET_BUFFER to the end of `list`.
    ///
    /// # Safety
    ///
    /// As for [`NblPools::allocate`].
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; the list is as it was.
    pub(crate) unsafe fn add(
        &self,
        list: &mut SendNbl,
        mdl: NonNull<MDL>,
        offset: u32,
        length: usize,
    ) -> Result<(), NtError> {
        // SAFETY: a pool of NET_BUFFERs without memory of their own (type invariant).
        let buffer =
            unsafe { NdisAllocateNetBuffer(self.buffers.as_ptr(), mdl.as_ptr(), offset, length) };
        let mut buffer = NonNull::new(buffer).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        // SAFETY: just made, and ours.
        unsafe { buffer.as_mut() }.Next = ptr::null_mut();
        // SAFETY: the last NET_BUFFER of a list that is ours (its invariant).
        unsafe { list.last.as_mut() }.Next = buffer.as_ptr();
        list.last = buffer;
        Ok(())
    }
}

impl Drop for NblPools {
    fn drop(&mut self) {
        // SAFETY: ours, and by the type invariant everything of theirs is back.
        unsafe { NdisFreeNetBufferPool(self.buffers.as_ptr()) };
        // SAFETY: the same.
        unsafe { NdisFreeNetBufferListPool(self.lists.as_ptr()) };
    }
}

/// The header of parameters of type `T`.
const fn header<T>(revision: u8) -> NDIS_OBJECT_HEADER {
    const { assert!(size_of::<T>() <= u16::MAX as usize) };
    let size = size_of::<T>() as u16;
    NDIS_OBJECT_HEADER { Type: NDIS_OBJECT_TYPE_DEFAULT, Revision: revision, Size: size }
}

/// A list of our own to be sent; freed on drop.
///
/// # Invariants
///
/// Made by [`NblPools`], and not with the stack; `last` is the last of its NET_BUFFERs, all but the
/// first of which came from the pool of NET_BUFFERs.
#[must_use = "dropping it frees the list unsent"]
pub(crate) struct SendNbl {
    list: NonNull<NET_BUFFER_LIST>,
    last: NonNull<NET_BUFFER>,
}

impl SendNbl {
    /// Bytes from the data start on, of all its NET_BUFFERs.
    pub(crate) fn data_length(&self) -> usize {
        let mut bytes = 0;
        // SAFETY: the list is ours (type invariant).
        let mut next = unsafe { self.list.as_ref() }.FirstNetBuffer;
        while let Some(buffer) = NonNull::new(next) {
            // SAFETY: a NET_BUFFER of our list.
            let NET_BUFFER { Next: behind, DataLength: length, .. } = *unsafe { buffer.as_ref() };
            bytes += length as usize;
            next = behind;
        }
        bytes
    }

    /// Gives the list to the stack, whose completion brings it back through
    /// [`SendNbl::from_raw`].
    pub(crate) fn into_raw(self) -> *mut NET_BUFFER_LIST {
        ManuallyDrop::new(self).list.as_ptr()
    }

    /// Takes a list back, with what became of it.
    ///
    /// # Safety
    ///
    /// `list` came from [`SendNbl::into_raw`], and the stack has given it back.
    pub(crate) unsafe fn from_raw(list: *mut NET_BUFFER_LIST) -> (Self, Result<(), NtError>) {
        // SAFETY: never null, as it came out of a NonNull.
        let list = unsafe { NonNull::new_unchecked(list) };
        // SAFETY: given back by the stack, so ours.
        let NET_BUFFER_LIST { FirstNetBuffer: first, Status: status, .. } =
            *unsafe { list.as_ref() };
        // SAFETY: made with a first NET_BUFFER, and given back as it was made.
        let last = unsafe { NonNull::new_unchecked(first) };
        // INVARIANT: ours again. `last` matters no more: nothing is added to a list that was sent.
        (Self { list, last }, check(status))
    }
}

impl Drop for SendNbl {
    fn drop(&mut self) {
        // SAFETY: the list is ours (type invariant), with its first NET_BUFFER.
        let first = unsafe { self.list.as_ref() }.FirstNetBuffer;
        // SAFETY: the same.
        let mut next = core::mem::replace(unsafe { &mut (*first).Next }, ptr::null_mut());
        while let Some(buffer) = NonNull::new(next) {
            // SAFETY: a NET_BUFFER of our list.
            next = unsafe { buffer.as_ref() }.Next;
            // SAFETY: from the pool of NET_BUFFERs (type invariant), unlinked above.
            unsafe { NdisFreeNetBuffer(buffer.as_ptr()) };
        }
        // SAFETY: ours, and with nothing but what it was made with.
        unsafe { FwpsFreeNetBufferList0(self.list.as_ptr()) };
    }
}
