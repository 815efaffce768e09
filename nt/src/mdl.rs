//! Memory descriptor lists: nonpaged bytes of ours shown to others, and chains of theirs read.
//!
//! A chain received from the network stack may be of any number of lists, some of no bytes, longer
//! than the datagram it holds, and not mapped yet; mapping may fail. [`MdlChain::map`] settles all
//! of that once, and what it returns can only be read.

use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::{self, NonNull},
    slice,
};

use wdk_sys::{
    _MEMORY_CACHING_TYPE, _MODE, MDL, PMDL, PVOID,
    ntddk::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool, MmMapLockedPagesSpecifyCache},
};

use crate::{pool::Buffer, status::NtError};

/// `MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL`: `MappedSystemVa` is valid.
const MDL_HAS_SYSTEM_ADDRESS: i16 = 0x0001 | 0x0004;
/// `NormalPagePriority | MdlMappingNoExecute`.
const MAPPING_PRIORITY: u32 = 16 | 0x4000_0000;

// `km/wdm.h`, WDK 10.0.26100.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<MDL>() == 48);
    assert!(offset_of!(MDL, MdlFlags) == 10);
    assert!(offset_of!(MDL, MappedSystemVa) == 24);
    assert!(offset_of!(MDL, ByteCount) == 40);
};

/// A list that describes a buffer of ours, freed on drop.
///
/// # Invariants
///
/// `raw` came from `IoAllocateMdl` and describes the whole of a nonpaged [`Buffer`], which whoever
/// holds both drops later.
pub(crate) struct Mdl {
    raw: NonNull<MDL>,
}

// SAFETY: the list belongs to no thread, and is not changed once it is built.
unsafe impl Send for Mdl {}
// SAFETY: the same.
unsafe impl Sync for Mdl {}

impl Mdl {
    /// Describes `buffer`, all of it.
    ///
    /// # Safety
    ///
    /// The list is dropped before the buffer is.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or [`NtError::INVALID_PARAMETER`] for 4 GiB and more.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) unsafe fn describing(buffer: &Buffer) -> Result<Self, NtError> {
        let length = u32::try_from(buffer.len()).map_err(|_| NtError::INVALID_PARAMETER)?;
        // SAFETY: no preconditions but the level; the list is no secondary one, charges no quota,
        // and hangs on no IRP.
        let raw = unsafe { IoAllocateMdl(buffer.as_ptr().cast(), length, 0, 0, ptr::null_mut()) };
        let raw = NonNull::new(raw).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        // SAFETY: the list was allocated for exactly these bytes, which are nonpaged pool.
        unsafe { MmBuildMdlForNonPagedPool(raw.as_ptr()) };
        // INVARIANT: allocated and built above; the caller drops it before the buffer.
        Ok(Self { raw })
    }

    /// The list, for a structure that refers to it.
    pub(crate) const fn as_ptr(&self) -> PMDL {
        self.raw.as_ptr()
    }
}

impl Drop for Mdl {
    fn drop(&mut self) {
        // SAFETY: by the type invariant allocated by us; a list built for nonpaged pool holds no
        // mapping of its own to be undone.
        unsafe { IoFreeMdl(self.raw.as_ptr()) };
    }
}

/// The most bytes one [`PartMdl`] describes.
pub(crate) const PART_BYTES: usize = 64 << 10;
const PAGE: usize = 4096;
/// Pages that so many bytes touch at most.
const PART_PAGES: usize = PART_BYTES / PAGE + 1;

/// A list that describes one part of one buffer after another, in memory of its own: making it
/// describe another needs none.
#[repr(C)]
pub(crate) struct PartMdl {
    header: MDL,
    pages: [u64; PART_PAGES],
}

// SAFETY: the list belongs to no thread.
unsafe impl Send for PartMdl {}

impl PartMdl {
    /// A list that describes nothing.
    pub(crate) fn new() -> Self {
        Self { header: MDL::default(), pages: [0; PART_PAGES] }
    }

    /// Makes the list describe `length` bytes at `begin`, and nothing else.
    ///
    /// What `MmInitializeMdl`, a macro, writes; then the pages.
    ///
    /// # Safety
    ///
    /// The bytes are in one block of nonpaged pool that outlives every use of the list, and the
    /// list stays where it is, and in no chain of anybody's, until it describes something else.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] for no, or more than 64 KiB of bytes.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: DDI wdm/nf-wdm-mminitializemdl, wdm/nf-wdm-mmbuildmdlfornonpagedpool.
    pub(crate) unsafe fn describe(
        &mut self,
        begin: NonNull<u8>,
        length: usize,
    ) -> Result<NonNull<MDL>, NtError> {
        if length == 0 || length > PART_BYTES {
            return Err(NtError::INVALID_PARAMETER);
        }
        self.header = initialised(begin, length);
        // The whole of the list, whose pages lie behind its header.
        let list = NonNull::from(&mut *self).cast::<MDL>();
        // SAFETY: initialised above for bytes of nonpaged pool, with room for all their pages.
        unsafe { MmBuildMdlForNonPagedPool(list.as_ptr()) };
        Ok(list)
    }
}

/// The header of a list that describes `length` bytes at `begin`: a list that is built for nothing
/// yet.
fn initialised(begin: NonNull<u8>, length: usize) -> MDL {
    let offset = begin.addr().get() % PAGE;
    let pages = (offset + length).div_ceil(PAGE);
    MDL {
        Next: ptr::null_mut(),
        Size: (size_of::<MDL>() + pages * size_of::<u64>()) as i16,
        MdlFlags: 0,
        StartVa: begin.as_ptr().wrapping_sub(offset).cast(),
        ByteOffset: offset as u32,
        ByteCount: length as u32,
        ..MDL::default()
    }
}

/// Why the bytes of a chain cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// NT could not map a list's pages: it is short of address space.
    Unmapped,
    /// The chain ends before its length does.
    Short,
}

/// Bytes in a chain of lists, mapped and proven to be there.
///
/// # Invariants
///
/// From `first`, skipping `offset` bytes of it, the chain has `length` bytes; each list that holds
/// some of them has a system address. Chain and bytes stay as they are for `'m`.
#[derive(Clone, Copy, Debug)]
pub struct MdlChain<'m> {
    first: *const MDL,
    offset: usize,
    length: usize,
    lists: PhantomData<&'m [u8]>,
}

// SAFETY: the chain is only read, and by the type invariant does not change.
unsafe impl Send for MdlChain<'_> {}
// SAFETY: the same.
unsafe impl Sync for MdlChain<'_> {}

impl<'m> MdlChain<'m> {
    /// Maps the lists that hold `length` bytes from byte `offset` of `first` on.
    ///
    /// `first` may be null when `length` is zero.
    ///
    /// # Safety
    ///
    /// `first` is null or the head of a chain of locked or nonpaged lists that, with the bytes they
    /// describe, nobody changes, unmaps or frees during `'m`.
    ///
    /// # Errors
    ///
    /// See [`ChainError`]. Lists mapped before the failure stay mapped, as their owner expects.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) unsafe fn map(first: PMDL, offset: u32, length: usize) -> Result<Self, ChainError> {
        let offset = offset as usize;
        let mut list = first;
        let mut skip = offset;
        let mut rest = length;
        while rest > 0 {
            let here = NonNull::new(list).ok_or(ChainError::Short)?;
            // SAFETY: the caller promises a live chain.
            let count = unsafe { here.as_ref() }.ByteCount as usize;
            // The offset is into the first list; a list it passes over would be another chain.
            let available = count.checked_sub(skip).ok_or(ChainError::Short)?;
            if available > 0 {
                // SAFETY: the caller promises that the list is locked or nonpaged.
                unsafe { system_address(here) }.ok_or(ChainError::Unmapped)?;
            }
            rest = rest.saturating_sub(available);
            skip = 0;
            // SAFETY: as above; the next is null at the end of the chain.
            list = unsafe { here.as_ref() }.Next;
        }
        // INVARIANT: the loop found `length` bytes, each in a list with a system address.
        Ok(Self { first, offset, length, lists: PhantomData })
    }

    /// How many bytes there are.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The `length` bytes from byte `from` on; `None` when there are fewer.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn part(&self, from: usize, length: usize) -> Option<Self> {
        if from.checked_add(length)? > self.length {
            return None;
        }
        let (mut first, mut offset) = (self.first, self.offset);
        let mut skip = if length == 0 { 0 } else { from };
        while skip > 0 {
            // SAFETY: by the type invariant the chain goes on, since there are bytes behind these.
            let list = unsafe { NonNull::new(first.cast_mut())?.as_ref() };
            let here = (list.ByteCount as usize).saturating_sub(offset);
            if skip < here {
                offset += skip;
                break;
            }
            skip -= here;
            (first, offset) = (list.Next, 0);
        }
        // INVARIANT: `length` of this chain's bytes lie from there on.
        Some(Self { first, offset, length, lists: PhantomData })
    }

    /// The bytes, in order, in pieces of at least one byte.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn pieces(&self) -> Pieces<'m> {
        Pieces { list: self.first, skip: self.offset, rest: self.length, lists: PhantomData }
    }

    /// Copies the first bytes into `buffer`, as many as both have; returns how many.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces() {
            let Some(place) = buffer.get_mut(copied..) else { break };
            let count = piece.len().min(place.len());
            place[..count].copy_from_slice(&piece[..count]);
            copied += count;
        }
        copied
    }
}

/// The pieces of an [`MdlChain`].
///
/// # Invariants
///
/// As the chain's, with `rest` bytes left from byte `skip` of `list` on.
#[derive(Clone, Debug)]
pub struct Pieces<'m> {
    list: *const MDL,
    skip: usize,
    rest: usize,
    lists: PhantomData<&'m [u8]>,
}

impl<'m> Iterator for Pieces<'m> {
    type Item = &'m [u8];

    fn next(&mut self) -> Option<&'m [u8]> {
        while self.rest > 0 {
            let list = NonNull::new(self.list.cast_mut())?;
            let skip = core::mem::take(&mut self.skip);
            // SAFETY: by the type invariant the chain goes on as long as there is a rest.
            let mdl = unsafe { list.as_ref() };
            self.list = mdl.Next;
            let length = (mdl.ByteCount as usize).saturating_sub(skip).min(self.rest);
            if length == 0 {
                continue;
            }
            self.rest -= length;
            // SAFETY: by the type invariant the list is locked or nonpaged, and mapped already.
            let begin = unsafe { system_address(list) }?;
            // SAFETY: `skip` is less than the list's bytes, since some are left behind it.
            let begin = unsafe { begin.add(skip) };
            // SAFETY: `length` bytes from there are in this list, and by the type invariant nobody
            // changes or unmaps them during `'m`.
            return Some(unsafe { slice::from_raw_parts(begin.as_ptr(), length) });
        }
        None
    }
}

/// `MmGetSystemAddressForMdlSafe`: where a list's bytes are, mapping them if they are not yet.
///
/// # Safety
///
/// The list is live, and locked or built for nonpaged pool.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
unsafe fn system_address(list: NonNull<MDL>) -> Option<NonNull<u8>> {
    // SAFETY: the caller promises a live list.
    let mdl = unsafe { list.as_ref() };
    let address: PVOID = if mdl.MdlFlags & MDL_HAS_SYSTEM_ADDRESS != 0 {
        mdl.MappedSystemVa
    } else {
        // SAFETY: the caller promises locked pages; KernelMode mappings may be made up to
        // DISPATCH_LEVEL, and with no bug check on failure null is the answer.
        unsafe {
            MmMapLockedPagesSpecifyCache(
                list.as_ptr(),
                _MODE::KernelMode as i8,
                _MEMORY_CACHING_TYPE::MmCached,
                ptr::null_mut(),
                0,
                MAPPING_PRIORITY,
            )
        }
    };
    NonNull::new(address.cast())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// In the place of NT's, on a host that has none: the mapping that fails.
    #[unsafe(no_mangle)]
    extern "system" fn MmMapLockedPagesSpecifyCache(
        _: PMDL,
        _: i8,
        _: u32,
        _: PVOID,
        _: u32,
        _: u32,
    ) -> PVOID {
        ptr::null_mut()
    }

    /// Lists over `bytes`, of the given lengths, each mapped where it is.
    fn lists(bytes: &[u8], lengths: &[usize]) -> Vec<MDL> {
        let mut at = 0;
        let mut lists: Vec<MDL> = lengths
            .iter()
            .map(|length| {
                let begin = bytes[at..].as_ptr().cast_mut();
                at += length;
                MDL {
                    MdlFlags: 4,
                    MappedSystemVa: begin.cast(),
                    ByteCount: *length as u32,
                    ..MDL::default()
                }
            })
            .collect();
        let first = lists.as_mut_ptr();
        for (at, list) in lists.iter_mut().enumerate() {
            list.Next =
                if at + 1 < lengths.len() { first.wrapping_add(at + 1) } else { ptr::null_mut() };
        }
        lists
    }

    #[test]
    fn every_part_of_a_chain_is_found() {
        let bytes: Vec<u8> = (0..40).collect();
        let mut lists = lists(&bytes, &[5, 0, 1, 20, 0, 14]);
        // SAFETY: the lists and their bytes live through the test, and nobody changes them.
        let chain = unsafe { MdlChain::map(lists.as_mut_ptr(), 3, 35) }.unwrap();
        for from in 0..=35 {
            for length in 0..=35 - from {
                let part = chain.part(from, length).unwrap();
                let found: Vec<u8> = part.pieces().flatten().copied().collect();
                assert_eq!(found, bytes[3 + from..3 + from + length], "{from}+{length}");
                assert_eq!(part.len(), length);
            }
            assert!(chain.part(from, 36 - from).is_none(), "{from}: one more");
        }
        assert!(chain.part(usize::MAX, 2).is_none());
        let part = chain.part(4, 20).unwrap().part(3, 5).unwrap();
        let found: Vec<u8> = part.pieces().flatten().copied().collect();
        assert_eq!(found, bytes[10..15], "a part of a part");
        lists[3].MdlFlags = 0;
        // SAFETY: as above.
        let mut map = |length| unsafe { MdlChain::map(lists.as_mut_ptr(), 0, length) }.err();
        assert_eq!(map(6), None, "what comes before the list that cannot be mapped");
        assert_eq!(map(7), Some(ChainError::Unmapped));
        lists[3].MdlFlags = 4;
        // SAFETY: as above.
        let mut map = |length| unsafe { MdlChain::map(lists.as_mut_ptr(), 0, length) }.err();
        assert_eq!(map(41), Some(ChainError::Short));
    }

    #[test]
    fn a_part_is_described_as_the_macro_does() {
        let at = |address: usize| NonNull::new(ptr::without_provenance_mut(address)).unwrap();
        for (address, length, start, offset, pages) in [
            (0x1_0000, 1, 0x1_0000, 0, 1),
            (0x1_0FFF, 1, 0x1_0000, 0xFFF, 1),
            (0x1_0FFF, 2, 0x1_0000, 0xFFF, 2),
            (0x1_0000, PAGE, 0x1_0000, 0, 1),
            (0x1_0FFF, PART_BYTES, 0x1_0000, 0xFFF, PART_PAGES),
        ] {
            let mdl = initialised(at(address), length);
            assert_eq!(mdl.StartVa.addr(), start, "{address:#x}+{length}");
            assert_eq!((mdl.ByteOffset, mdl.ByteCount as usize), (offset, length));
            assert_eq!(mdl.Size as usize, 48 + 8 * pages, "{address:#x}+{length}");
            assert!(mdl.Size as usize <= size_of::<PartMdl>());
        }
    }
}
