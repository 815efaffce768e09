//! Object contexts: one Rust value inside a framework object.
//!
//! The framework identifies a context by the address of its type record, and a generic static does
//! not exist in Rust. So there is one record for all contexts of this driver, whose real size goes
//! into `ContextSizeOverride`, and each object has exactly one context. Which type it holds is known
//! by whoever created the object: the trampolines of an object's callbacks are instances for the
//! same type as its attributes.
//!
//! The framework zero-fills the memory, which is the empty state. The value is dropped in
//! `EvtCleanup`, which for every kind of object used here runs at `PASSIVE_LEVEL`, except a
//! request's, which runs where it is completed.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/framework-object-context-space>

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use wdk_sys::{
    _WDF_EXECUTION_LEVEL::WdfExecutionLevelInheritFromParent,
    _WDF_SYNCHRONIZATION_SCOPE::WdfSynchronizationScopeInheritFromParent, ULONG,
    WDF_OBJECT_ATTRIBUTES, WDF_OBJECT_CONTEXT_TYPE_INFO, WDFOBJECT,
};

use super::call;

/// A type record with one address for the life of the driver.
#[repr(transparent)]
struct TypeInfo(WDF_OBJECT_CONTEXT_TYPE_INFO);

// SAFETY: immutable, and what its pointers lead to is static and immutable too.
unsafe impl Sync for TypeInfo {}

static CONTEXT_TYPE: TypeInfo = TypeInfo(WDF_OBJECT_CONTEXT_TYPE_INFO {
    Size: size_of::<WDF_OBJECT_CONTEXT_TYPE_INFO>() as ULONG,
    ContextName: c"penstock".as_ptr(),
    ContextSize: size_of::<Slot<()>>(),
    UniqueType: &raw const CONTEXT_TYPE.0,
    EvtDriverGetUniqueContextType: None,
});

/// The memory of a context.
///
/// # Invariants
///
/// `value` is initialised exactly while `state` is [`FILLED`].
#[repr(C)]
struct Slot<T> {
    state: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// What the framework's zero-filled memory says.
const EMPTY: u64 = 0;
const FILLED: u64 = 1;

/// Attributes of an object whose context holds at most one `T`.
///
/// A zeroed structure would be refused: execution level and synchronisation scope have no valid
/// zero.
pub(crate) fn attributes<T: Send + 'static>() -> WDF_OBJECT_ATTRIBUTES {
    // The framework aligns a context as a pointer and no better.
    const { assert!(align_of::<Slot<T>>() <= align_of::<*const ()>()) };
    WDF_OBJECT_ATTRIBUTES {
        Size: size_of::<WDF_OBJECT_ATTRIBUTES>() as ULONG,
        EvtCleanupCallback: Some(evt_cleanup::<T>),
        EvtDestroyCallback: None,
        ExecutionLevel: WdfExecutionLevelInheritFromParent,
        SynchronizationScope: WdfSynchronizationScopeInheritFromParent,
        ParentObject: ptr::null_mut(),
        ContextSizeOverride: size_of::<Slot<T>>(),
        ContextTypeInfo: &raw const CONTEXT_TYPE.0,
    }
}

/// `EvtCleanup` of every object made with [`attributes`].
unsafe extern "C" fn evt_cleanup<T: Send + 'static>(object: WDFOBJECT) {
    // SAFETY: this callback is registered by `attributes::<T>` only, on the object it is called for;
    // no callback of the object runs any more, so nobody else uses the value.
    drop(unsafe { take::<T>(object) });
}

/// Where the context of `object` lies; `None` if it has none.
///
/// # Safety
///
/// `object` exists and was created with `attributes::<T>()`.
unsafe fn slot<'o, T>(object: WDFOBJECT) -> Option<&'o Slot<T>> {
    // SAFETY: the object exists by the caller's word; the call has no level and takes no lock.
    let slot = unsafe { call!(WdfObjectGetTypedContextWorker, object, &raw const CONTEXT_TYPE.0) };
    // SAFETY: null or the object's context, which `attributes::<T>` made large enough; it stays as
    // long as the object, and is only ever changed through the cell.
    unsafe { slot.cast::<Slot<T>>().as_ref() }
}

/// The value in the context of `object`; `None` before [`fill`] and after the object's cleanup.
///
/// # Safety
///
/// `object` exists for `'o`, was created with `attributes::<T>()`, and is not cleaned up within `'o`.
///
/// # IRQL
///
/// Any up to `DISPATCH_LEVEL`.
pub(crate) unsafe fn get<'o, T: Sync + 'static>(object: WDFOBJECT) -> Option<&'o T> {
    // SAFETY: the caller's promise.
    let slot = unsafe { slot::<T>(object) }?;
    if slot.state.load(Ordering::Acquire) != FILLED {
        return None;
    }
    // SAFETY: `fill` wrote the cell before `state`, and the only later writer is the cleanup.
    let value = unsafe { &*slot.value.get() };
    // SAFETY: initialised, by the invariant of `Slot`.
    Some(unsafe { value.assume_init_ref() })
}

/// Puts `value` into the empty context of `object`; gives it back if there is no room.
///
/// # Safety
///
/// As for [`get`], and no other thread fills, takes or gets the same context meanwhile.
pub(crate) unsafe fn fill<T: Send + 'static>(object: WDFOBJECT, value: T) -> Result<(), T> {
    // SAFETY: the caller's promise.
    match unsafe { slot::<T>(object) } {
        Some(slot) if slot.state.load(Ordering::Acquire) == EMPTY => {
            // SAFETY: the cell is empty and by the caller's word used by nobody else.
            let cell = unsafe { &mut *slot.value.get() };
            cell.write(value);
            slot.state.store(FILLED, Ordering::Release);
            Ok(())
        }
        _ => Err(value),
    }
}

/// Takes the value out of the context of `object`.
///
/// # Safety
///
/// `object` exists, was created with `attributes::<T>()`, and nobody uses its context meanwhile or
/// holds a reference to the value.
pub(crate) unsafe fn take<T: Send + 'static>(object: WDFOBJECT) -> Option<T> {
    // SAFETY: the caller's promise.
    let slot = unsafe { slot::<T>(object) }?;
    if slot.state.swap(EMPTY, Ordering::AcqRel) != FILLED {
        return None;
    }
    // SAFETY: the cell was filled, is now marked empty, and by the caller's word nobody looks.
    let cell = unsafe { &*slot.value.get() };
    // SAFETY: initialised until now, and from here on counted as empty.
    Some(unsafe { cell.assume_init_read() })
}
