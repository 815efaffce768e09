//! What the driver has to say when the machine stops: what a dump is to hold of it, and what not.
//!
//! Three callbacks are registered as long as [`CrashCallbacks`] lives. Windows calls them at `HIGH_LEVEL`, with all other CPUs
//! halted wherever they were: they take no lock, allocate nothing, and read pointers that are stored whole.
//!
//! * *Pages with secrets* ([`SecretPages`]) are taken out of any dump.
//! * *What is [`Shown`]* is added to small dumps, and
//! * to any dump once more as data of its own ([`abi::dump`]), copied to memory that is made beforehand.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/writing-a-bug-check-callback-routine>

use alloc::boxed::Box;
use core::{
    cell::{Cell, UnsafeCell},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use abi::dump;
use wdk_sys::{PVOID, ULONG};

use crate::{
    pool::{self, Buffer, SecretPages, Tag, secret::PAGE},
    status::{NtError, check},
    sys::ke::{
        KBUGCHECK_REASON_CALLBACK_RECORD, KBUGCHECK_REASON_CALLBACK_ROUTINE,
        KBUGCHECK_REMOVE_PAGES, KBUGCHECK_SECONDARY_DUMP_DATA, KBUGCHECK_TRIAGE_DUMP_DATA,
        KbCallbackRemovePages, KbCallbackSecondaryDumpData, KbCallbackTriageDumpData,
        KeAddTriageDumpDataBlock, KeDeregisterBugCheckReasonCallback,
        KeInitializeTriageDumpDataArray, KeRegisterBugCheckReasonCallback,
    },
};

// The extraction that `nt::sys` is compared with has no flags: from the page of `KBUGCHECK_REMOVE_PAGES`,
// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_kbugcheck_remove_pages>.

/// `KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS`.
const REMOVE_VIRTUAL: ULONG = 1;
/// `KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST`: to be called again.
const REMOVE_MORE: ULONG = 0x8000_0000;

/// What `!bugdump` calls us.
const COMPONENT: &core::ffi::CStr = c"Penstock";
const TAG: Tag = Tag::new(*b"PnsD");
/// How much may be shown, in parts.
const MOST_SHOWN: usize = 64;
/// `KTRIAGE_DUMP_DATA_ARRAY` has 48 bytes before its blocks of 16; a page has room for three times what is shown.
const ARRAY_BYTES: usize = PAGE;

/// Memory that dumps are to show.
static SHOWN: [Part; MOST_SHOWN] = [const { Part::none() }; MOST_SHOWN];

#[derive(Debug)]
struct Part {
    /// 0 if there is none.
    at: AtomicU64,
    /// 0 until it is known.
    bytes: AtomicU64,
}

impl Part {
    const fn none() -> Self {
        Self { at: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    fn get(&self) -> Option<(u64, u64)> {
        let bytes = self.bytes.load(Ordering::Acquire);
        (bytes != 0).then(|| (self.at.load(Ordering::Relaxed), bytes))
    }
}

/// A part of memory that is shown in dumps as long as this lives.
#[must_use = "nothing is shown once it is dropped"]
#[derive(Debug)]
pub struct Shown(&'static Part);

impl Shown {
    /// Shows `value`, which outlives this. It holds no secret. `None` if as much as can be is shown already.
    ///
    /// # Safety
    ///
    /// The value lives in nonpaged memory until this is dropped, and stays where it is.
    ///
    /// # IRQL
    ///
    /// Any.
    pub unsafe fn new<T: ?Sized>(value: &T) -> Option<Self> {
        let at = ptr::from_ref(value).cast::<u8>().expose_provenance() as u64;
        let bytes = size_of_val(value) as u64;
        let free = |part: &&Part| {
            part.at.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let part = SHOWN.iter().find(free).filter(|_| bytes != 0)?;
        // Release: whoever finds its length finds its address.
        part.bytes.store(bytes, Ordering::Release);
        Some(Self(part))
    }
}

impl Drop for Shown {
    #[inline] // Two stores, where a call takes room on the stack.
    fn drop(&mut self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        // Release: the next one's length comes after this one's.
        self.0.at.store(0, Ordering::Release);
    }
}

/// The registered callbacks.
///
/// # Invariants
///
/// What it points at is a box of its own.
#[must_use = "they are registered until this is dropped"]
pub struct CrashCallbacks(NonNull<Registered>);

/// What a callback finds behind its record.
///
/// # Invariants
///
/// Where `is_registered`, the kernel has the record's address; it changes it only when it is (de)registered.
#[repr(C)]
struct Hook {
    record: UnsafeCell<KBUGCHECK_REASON_CALLBACK_RECORD>,
    all: Cell<*const Registered>,
    is_registered: Cell<bool>,
}

struct Registered {
    hooks: [Hook; 3],
    secrets: SecretPages,
    /// A `KTRIAGE_DUMP_DATA_ARRAY`, written by the callback alone.
    array: Buffer,
    /// Written by the callback alone.
    copy: Buffer,
}

// SAFETY: the pointers lead to what this owns itself, or to statics; what is written is written by callbacks, when all else
// stands still, and by the kernel when it registers.
unsafe impl Send for CrashCallbacks {}
// SAFETY: as above; a shared one gives access to nothing.
unsafe impl Sync for CrashCallbacks {}

impl CrashCallbacks {
    /// Registers the callbacks: pages of `secrets` are left out of dumps, and at most `bytes` of what is shown are added.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; [`NtError::UNSUCCESSFUL`] if the kernel does not take them.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keregisterbugcheckreasoncallback>
    pub fn register(secrets: SecretPages, bytes: usize) -> Result<Self, NtError> {
        let hook = || Hook {
            // SAFETY: numbers and pointers, of which all may be zero: what KeInitializeCallbackRecord makes of it.
            record: UnsafeCell::new(unsafe { core::mem::zeroed() }),
            all: Cell::new(ptr::null()),
            is_registered: Cell::new(false),
        };
        let array = Buffer::try_new(ARRAY_BYTES, 16, TAG)?;
        // SAFETY: nonpaged, of this size, and ours.
        check(unsafe {
            KeInitializeTriageDumpDataArray(array.as_ptr().cast(), ARRAY_BYTES as ULONG)
        })?;
        let copy = Buffer::try_new(bytes, 16, TAG)?;
        let hooks = [hook(), hook(), hook()];
        let registered = Registered { hooks, secrets, array, copy };
        let all = NonNull::from(Box::leak(pool::try_box(registered)?));
        // INVARIANT: a box that is ours. From here on dropping it deregisters.
        let this = Self(all);
        let kinds: [(KBUGCHECK_REASON_CALLBACK_ROUTINE, ULONG); 3] = [
            (remove_pages, KbCallbackRemovePages),
            (show, KbCallbackTriageDumpData),
            (append, KbCallbackSecondaryDumpData),
        ];
        for (hook, (routine, reason)) in this.registered().hooks.iter().zip(kinds) {
            hook.all.set(all.as_ptr());
            let component = COMPONENT.as_ptr().cast_mut().cast();
            // SAFETY: the record is nonpaged, initialised, and stays where it is until it is deregistered (`drop`); the routine
            // is of this reason's kind; the component's name is not written to.
            let taken = unsafe {
                KeRegisterBugCheckReasonCallback(hook.record.get(), routine, reason, component)
            };
            if taken == 0 {
                return Err(NtError::UNSUCCESSFUL);
            }
            // INVARIANT: the kernel took it.
            hook.is_registered.set(true);
        }
        Ok(this)
    }

    fn registered(&self) -> &Registered {
        // SAFETY: a live box, by the type invariant, of which nobody has a mutable borrow.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for CrashCallbacks {
    #[inline(never)] // Its owner's own drop may be deep in a chain of calls, which has no room for this.
    fn drop(&mut self) {
        for hook in self.registered().hooks.iter().filter(|hook| hook.is_registered.get()) {
            // SAFETY: registered, by the type invariant.
            let _was_there = unsafe { KeDeregisterBugCheckReasonCallback(hook.record.get()) };
        }
        // SAFETY: a box, by the type invariant, and the kernel has no record any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// What the callback of this record works with.
///
/// # Safety
///
/// `record` is the first field of a [`Hook`] that is registered.
unsafe fn registered<'all>(record: *mut KBUGCHECK_REASON_CALLBACK_RECORD) -> &'all Registered {
    // SAFETY: the caller's promise; `Hook` begins with its record.
    let hook = unsafe { &*record.cast::<Hook>() };
    // SAFETY: set before it was registered, and alive as long as it is.
    unsafe { &*hook.all.get() }
}

/// Names the next page with secrets; called again until there is no other.
unsafe extern "system" fn remove_pages(
    _reason: ULONG,
    record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    data: PVOID,
    _length: ULONG,
) {
    // SAFETY: the kernel calls with a record that we registered.
    let secrets = unsafe { registered(record) }.secrets;
    // SAFETY: what there is for this reason, ours for the call.
    let data = unsafe { &mut *data.cast::<KBUGCHECK_REMOVE_PAGES>() };
    // The page to name now, null at first.
    let page = match data.Context {
        first if first.is_null() => secrets.first(),
        page => page.cast(),
    };
    data.Flags = REMOVE_VIRTUAL;
    data.Address = page.expose_provenance() as u64;
    data.Count = u64::from(!page.is_null());
    if !page.is_null() {
        // SAFETY: a page of these, and the machine has stopped.
        let next = unsafe { secrets.after(page) };
        data.Context = next.cast();
        if !next.is_null() {
            data.Flags |= REMOVE_MORE;
        }
    }
}

/// Has small dumps hold what is shown.
unsafe extern "system" fn show(
    _reason: ULONG,
    record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    data: PVOID,
    _length: ULONG,
) {
    // SAFETY: the kernel calls with a record that we registered.
    let all = unsafe { registered(record) };
    // SAFETY: what there is for this reason, ours for the call.
    let data = unsafe { &mut *data.cast::<KBUGCHECK_TRIAGE_DUMP_DATA>() };
    let array: PVOID = all.array.as_ptr().cast();
    let mut left = u64::from(data.MaxVirtMemSize);
    for (at, bytes) in SHOWN.iter().filter_map(Part::get) {
        let Some(rest) = left.checked_sub(bytes) else { continue };
        let at = ptr::with_exposed_provenance_mut(at as usize);
        // SAFETY: an array that was initialised, and nobody else's; of the memory only address and length are taken.
        if check(unsafe { KeAddTriageDumpDataBlock(array, at, bytes) }).is_ok() {
            left = rest;
        }
    }
    data.DataArray = array;
}

/// Has any dump hold what is shown, behind the memory of the machine.
unsafe extern "system" fn append(
    _reason: ULONG,
    record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    data: PVOID,
    _length: ULONG,
) {
    // SAFETY: the kernel calls with a record that we registered.
    let all = unsafe { registered(record) };
    // SAFETY: what there is for this reason, ours for the call.
    let data = unsafe { &mut *data.cast::<KBUGCHECK_SECONDARY_DUMP_DATA>() };
    let room = all.copy.len().min(data.MaximumAllowed as usize);
    // SAFETY: the buffer's bytes, which nothing but this callback uses, one call after the other.
    let room = unsafe { core::slice::from_raw_parts_mut(all.copy.as_ptr(), room) };
    data.OutBufferLength = gather(room) as ULONG;
    data.OutBuffer = all.copy.as_ptr().cast();
    data.Guid = dump::GUID;
}

/// Writes what is shown and fits; returns how many bytes that are.
fn gather(room: &mut [u8]) -> usize {
    let mut left = room.len().saturating_sub(dump::HEAD);
    let fits = |(_, bytes): &(u64, u64)| match left.checked_sub(*bytes as usize + dump::ENTRY) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    // Chosen once: what is shown does not change, but this is read twice.
    let mut chosen = [None; MOST_SHOWN];
    for (place, part) in chosen.iter_mut().zip(SHOWN.iter().filter_map(Part::get).filter(fits)) {
        *place = Some(part);
    }
    let count = chosen.iter().flatten().count() as u32;
    let head =
        dump::MAGIC.into_iter().chain(dump::VERSION.to_le_bytes()).chain(count.to_le_bytes());
    let entries = chosen.iter().flatten().flat_map(|(at, bytes)| [*at, *bytes]);
    let front = head.chain(entries.flat_map(u64::to_le_bytes));
    let mut written = 0_usize;
    for (place, byte) in room.iter_mut().zip(front) {
        *place = byte;
        written = written.saturating_add(1);
    }
    for (at, bytes) in chosen.iter().flatten() {
        let to = room.get_mut(written..).and_then(|rest| rest.get_mut(..*bytes as usize));
        let Some(to) = to else { break };
        let from = ptr::with_exposed_provenance::<u8>(*at as usize);
        // SAFETY: shown memory is there (`Shown::new`), and is no part of this buffer.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        written = written.saturating_add(to.len());
    }
    written
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn what_is_shown_is_gathered_as_far_as_it_fits() {
        let (long, short) = ([7_u8; 1000], [9_u64; 2]);
        // SAFETY: both live longer than what is made here.
        let shown = [unsafe { Shown::new(&long) }, unsafe { Shown::new(&short) }];
        let read = |room: usize| -> Vec<(u64, Vec<u8>)> {
            let mut room = std::vec![0xEE; room];
            let written = gather(&mut room);
            let parts = dump::parts(&room[..written]).unwrap();
            parts.map(|(at, bytes)| (at, bytes.to_vec())).collect()
        };
        let long = (long.as_ptr().addr() as u64, long.to_vec());
        let short = (short.as_ptr().addr() as u64, short.map(u64::to_le_bytes).concat());
        assert_eq!(read(4096), [long, short.clone()]);
        assert_eq!(read(100), [short]);
        assert_eq!(read(16), []);
        drop(shown);
        assert_eq!(read(4096), []);
    }
}
