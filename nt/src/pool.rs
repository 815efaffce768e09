//! Nonpaged pool: the global allocator, and buffers under a tag of their own.
//!
//! `ExAllocatePool2` aligns to 16 bytes (to a page from a page up) and knows nothing of a Rust
//! `Layout`; `wdk-alloc` hands that alignment on as it is. Here a greater alignment is kept by
//! allocating more and noting where the block began just below what is handed out.
//!
//! Everything is nonpaged, because the data path may touch anything at `DISPATCH_LEVEL`; and not
//! executable, as `POOL_FLAG_NON_PAGED` is. Any thread, `<= DISPATCH_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool2>

use alloc::{boxed::Box, vec::Vec};
use core::{
    alloc::{GlobalAlloc, Layout},
    mem::{self, size_of},
    ptr::{self, NonNull},
    slice,
};

#[cfg(test)]
use host_pool::{ExAllocatePool2, ExFreePoolWithTag};
#[cfg(not(test))]
use wdk_sys::ntddk::{ExAllocatePool2, ExFreePoolWithTag};
use wdk_sys::{POOL_FLAG_NON_PAGED, POOL_FLAG_UNINITIALIZED, POOL_FLAGS, PVOID};

pub use self::secret::SecretPages;
use self::{kept::Kept, secret::Secrets};
use crate::{processor, status::NtError};

mod kept;
pub(crate) mod secret;

/// What `ExAllocatePool2` promises for every block.
const POOL_ALIGNMENT: usize = 16;

/// The four letters under which a debugger finds an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// What the global allocator uses.
    pub const GENERAL: Self = Self::new(*b"Pnst");
    /// Pages with secrets.
    pub(crate) const SECRET: Self = Self::new(*b"PnsS");

    /// A tag that reads as `letters` in the output of `!poolused`.
    ///
    /// # Panics
    ///
    /// When a letter is not printable ASCII: NT ignores such tags. Use it in a `const`.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn new(letters: [u8; 4]) -> Self {
        let mut at = 0;
        while at < letters.len() {
            assert!(letters[at].is_ascii_graphic());
            at += 1;
        }
        Self(u32::from_le_bytes(letters))
    }

    /// As NT writes it.
    pub(crate) const fn value(self) -> u32 {
        self.0
    }
}

/// The nonpaged pool as Rust's allocator; the driver crate declares it `#[global_allocator]`.
///
/// Blocks of `KINDS` layouts may be kept ([`PoolAllocator::keep`]): those then cost the pool nothing
/// once as many have been freed as are needed at a time. Blocks of `SECRETS` other layouts lie on pages that have nothing else
/// ([`PoolAllocator::secret_pages`]).
#[derive(Debug)]
pub struct PoolAllocator<const KINDS: usize, const SECRETS: usize> {
    kept: Kept<KINDS>,
    secrets: Secrets<SECRETS>,
}

/// As long as this lives blocks are kept; then all of them go back to the pool.
#[must_use = "nothing is kept once it is dropped"]
#[derive(Debug)]
pub struct Keeping<const KINDS: usize>(&'static Kept<KINDS>);

impl<const KINDS: usize, const SECRETS: usize> PoolAllocator<KINDS, SECRETS> {
    /// An allocator that may keep blocks of `kept` layouts, and keeps none yet, and has those of `secrets` apart: these are
    /// aligned to more than 16 bytes.
    ///
    /// # Panics
    ///
    /// If they are not, or do not fit a page. Use it in a `static`.
    #[must_use]
    #[cfg(not(feature = "loom"))]
    pub const fn new(kept: [Layout; KINDS], secrets: [Layout; SECRETS]) -> Self {
        Self { kept: Kept::new(kept), secrets: Secrets::new(secrets) }
    }

    /// The pages that secrets are on, and nothing else.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn secret_pages(&'static self) -> SecretPages {
        self.secrets.pages()
    }

    /// Keeps blocks from now on, at most 136 of a layout and 8 more for each CPU. Not to be asked of a
    /// driver that is being verified: the pool finds no wrong use of what does not come back to it.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn keep(&'static self) -> Keeping<KINDS> {
        self.kept.set_keeping(true);
        Keeping(&self.kept)
    }
}

impl<const KINDS: usize> Drop for Keeping<KINDS> {
    fn drop(&mut self) {
        self.0.set_keeping(false);
        self.0.empty(|block, layout| {
            // SAFETY: kept blocks are this allocator's, of this layout, and nobody uses them.
            unsafe { free(block, layout, Tag::GENERAL) };
        });
    }
}

// SAFETY: blocks come from the pool, are of the layout's size and alignment (see `allocate`), and
// belong to the caller until `dealloc`; one that is kept then is nobody's until it is taken for the
// same layout. Nothing here unwinds.
unsafe impl<const KINDS: usize, const SECRETS: usize> GlobalAlloc
    for PoolAllocator<KINDS, SECRETS>
{
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.kept.take(layout, processor::nearby) {
            kept if kept.is_null() => match self.secrets.kind(layout) {
                Some(kind) => self.secrets.take(kind),
                None => allocate(layout, POOL_FLAG_UNINITIALIZED, Tag::GENERAL),
            },
            kept => kept,
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.secrets.kind(layout) {
            Some(kind) => self.secrets.take(kind),
            None => allocate(layout, 0, Tag::GENERAL),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller passes a block of this allocator and the layout it was made with, and does
        // not use it any more.
        let kept = unsafe { self.kept.keep(block, layout, processor::nearby) };
        if !kept {
            // Moved values take what lay on the stack between their parts along, and leave it here.
            // SAFETY: as above: the block is of this size, and nobody's.
            unsafe { block.write_bytes(0, layout.size()) };
            if self.secrets.kind(layout).is_some() {
                // SAFETY: as above: a block of such a layout came from there.
                unsafe { self.secrets.give(block) };
            } else {
                // SAFETY: as above.
                unsafe { free(block, layout, Tag::GENERAL) };
            }
        }
    }
}

/// Allocates nonpaged memory of `layout`; null when there is none.
fn allocate(layout: Layout, flags: POOL_FLAGS, tag: Tag) -> *mut u8 {
    let over_aligned = layout.align() > POOL_ALIGNMENT;
    // Room to move up to the alignment, and for the note of where the block begins.
    let extra = if over_aligned { layout.align() + size_of::<PVOID>() } else { 0 };
    let Some(size) = layout.size().checked_add(extra) else { return ptr::null_mut() };
    // SAFETY: the size is not zero (`GlobalAlloc` and `Buffer` ask for none such), the flags are
    // valid ones without POOL_FLAG_RAISE_ON_FAILURE, and every caller is at or below
    // DISPATCH_LEVEL, the most this crate's tokens speak of.
    let block =
        unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED | flags, size as u64, tag.0) }.cast::<u8>();
    if block.is_null() || !over_aligned {
        return block;
    }
    let free_from = block.wrapping_add(size_of::<PVOID>());
    // An alignment is a power of two.
    let missing = free_from.addr().wrapping_neg() & (layout.align() - 1);
    let aligned = free_from.wrapping_add(missing);
    let note = aligned.cast::<PVOID>().wrapping_sub(1);
    // SAFETY: `aligned` is at least a pointer's size past `block`, and at most `extra` bytes, so
    // the note lies inside the block; it is aligned for a pointer, because `aligned` is.
    unsafe { note.write(block.cast()) };
    aligned
}

/// Frees what [`allocate`] returned.
///
/// # Safety
///
/// `block` came from `allocate` with this layout and tag, and nobody uses it any more.
unsafe fn free(block: *mut u8, layout: Layout, tag: Tag) {
    let begin = if layout.align() > POOL_ALIGNMENT {
        let note = block.cast::<PVOID>().wrapping_sub(1);
        // SAFETY: for this alignment `allocate` wrote the block's beginning right below it.
        unsafe { note.read() }
    } else {
        block.cast()
    };
    // SAFETY: `begin` is what ExAllocatePool2 returned under this tag, and is not in use.
    unsafe { ExFreePoolWithTag(begin, tag.0) };
}

/// Moves `value` to the pool.
///
/// # Errors
///
/// [`NtError::INSUFFICIENT_RESOURCES`]; `value` is then dropped.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
pub fn try_box<T>(value: T) -> Result<Box<T>, NtError> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        mem::forget(value); // lives on in the box, which for no bytes needs no block
        // SAFETY: for a type of no size any aligned address is a valid box.
        return Ok(unsafe { Box::from_raw(NonNull::dangling().as_ptr()) });
    }
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc::alloc::alloc(layout) }.cast::<T>();
    if block.is_null() {
        return Err(NtError::INSUFFICIENT_RESOURCES);
    }
    // SAFETY: the block is fresh, of T's size and alignment.
    unsafe { block.write(value) };
    // SAFETY: allocated by the global allocator with T's layout, and now holds a T.
    Ok(unsafe { Box::from_raw(block) })
}

/// Puts `value` at the end of a list that has room for it: a full one would grow by itself, and panic without memory.
///
/// # Errors
///
/// The value, if there is no room.
///
/// # IRQL
///
/// Any.
pub fn push_within<T>(list: &mut Vec<T>, value: T) -> Result<(), T> {
    if list.len() == list.capacity() {
        return Err(value);
    }
    list.push(value);
    Ok(())
}

/// Uninitialised memory for a `T`, which has a size, under a tag of its own.
///
/// # Errors
///
/// [`NtError::INSUFFICIENT_RESOURCES`].
pub(crate) fn try_block<T>(tag: Tag) -> Result<NonNull<T>, NtError> {
    const { assert!(size_of::<T>() != 0) };
    let block = allocate(Layout::new::<T>(), POOL_FLAG_UNINITIALIZED, tag);
    NonNull::new(block.cast()).ok_or(NtError::INSUFFICIENT_RESOURCES)
}

/// Frees what [`try_block`] returned; what is in it is not dropped.
///
/// # Safety
///
/// `block` came from there for this type and tag, and nobody uses it any more.
pub(crate) unsafe fn free_block<T>(block: NonNull<T>, tag: Tag) {
    // SAFETY: the caller's promise.
    unsafe { free(block.as_ptr().cast(), Layout::new::<T>(), tag) };
}

/// Zeroed nonpaged bytes under a tag and alignment of their own, freed on drop.
///
/// # Invariants
///
/// `begin` came from [`allocate`] with `layout` and `tag`, is not null, and belongs to this value
/// alone.
#[derive(Debug)]
pub struct Buffer {
    begin: NonNull<u8>,
    layout: Layout,
    tag: Tag,
}

// SAFETY: the bytes are owned, and the pool is the same for every thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared `Buffer` only gives out shared slices.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Allocates `len` zero bytes that begin at a multiple of `align`.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] when `len` is zero or `align` no power of two,
    /// [`NtError::INSUFFICIENT_RESOURCES`] when the pool has none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(len: usize, align: usize, tag: Tag) -> Result<Self, NtError> {
        let layout = Layout::from_size_align(len, align)
            .ok()
            .filter(|layout| layout.size() != 0)
            .ok_or(NtError::INVALID_PARAMETER)?;
        let begin =
            NonNull::new(allocate(layout, 0, tag)).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        // INVARIANT: just allocated so.
        Ok(Self { begin, layout, tag })
    }

    /// Where the bytes begin; valid for as long as the buffer lives.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.begin.as_ptr()
    }

    /// The number of bytes.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.layout.size()
    }

    /// Always false: a buffer of no bytes cannot be made.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The bytes.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: by the type invariant these bytes are ours, and they were zeroed at the start.
        unsafe { slice::from_raw_parts(self.begin.as_ptr(), self.layout.size()) }
    }

    /// The bytes, to write.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; the unique borrow of `self` makes this one unique.
        unsafe { slice::from_raw_parts_mut(self.begin.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; nobody has the bytes after their owner.
        unsafe { free(self.begin.as_ptr(), self.layout, self.tag) };
    }
}

/// The pool of a test, where there is no NT: the host's, with the size before each block.
#[cfg(test)]
mod host_pool {
    #![expect(non_snake_case, reason = "NT's names")]
    extern crate std;

    use std::alloc::{GlobalAlloc, Layout, System};

    use super::{POOL_ALIGNMENT, PVOID, secret::PAGE};

    /// Of what a block begins in, and at the same time what is before it; as NT, which aligns to a page from a page on.
    fn before(size: usize) -> usize {
        if size < PAGE { POOL_ALIGNMENT } else { PAGE }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size + before(size), before(size)).unwrap()
    }

    pub(super) unsafe fn ExAllocatePool2(_flags: u64, size: u64, _tag: u32) -> PVOID {
        // SAFETY: of some size.
        let begin = unsafe { System.alloc_zeroed(layout(size as usize)) };
        let block = begin.wrapping_add(before(size as usize));
        // SAFETY: there is room for it before the block.
        unsafe { block.wrapping_sub(POOL_ALIGNMENT).cast::<usize>().write(size as usize) };
        block.cast()
    }

    pub(super) unsafe fn ExFreePoolWithTag(block: PVOID, _tag: u32) {
        let block = block.cast::<u8>();
        // SAFETY: written when it was allocated.
        let size = unsafe { block.wrapping_sub(POOL_ALIGNMENT).cast::<usize>().read() };
        // SAFETY: from `ExAllocatePool2`, with this layout.
        unsafe { System.dealloc(block.wrapping_sub(before(size)), layout(size)) };
    }
}
