//! Deferred procedure calls: work for one CPU, at `DISPATCH_LEVEL`, soon.
//!
//! A `KDPC` is linked into its CPU's queue, so it lives in a block of its own together with what
//! its routine works on. Dropping a [`Dpc`] takes it off the queue and waits for routines that have
//! begun.

use alloc::boxed::Box;
use core::{cell::UnsafeCell, ffi::c_void, fmt, ptr};

use wdk_sys::{
    _KDPC_IMPORTANCE, KDPC,
    ntddk::{
        KeFlushQueuedDpcs, KeInitializeDpc, KeInsertQueueDpc, KeRemoveQueueDpc, KeSetImportanceDpc,
        KeSetTargetProcessorDpcEx,
    },
};

use crate::{
    irql::{Dispatch, Passive},
    pool,
    processor::Processor,
    status::{NtError, check},
};

/// How soon a queued routine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// When the CPU gets to it; for another CPU possibly only at its next clock tick.
    Low,
    /// The default: at once on this CPU; on another one as `Low`.
    Medium,
    /// At once on whichever CPU. What is meant for another CPU and cannot wait for a tick.
    MediumHigh,
}

/// A routine that can be queued, and what it works on. Wraps `KDPC`.
///
/// Dropped at `PASSIVE_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/introduction-to-dpc-objects>
pub struct Dpc<C: Sync>(Box<Block<C>>);

/// # Invariants
///
/// `dpc` was initialised by `KeInitializeDpc` where it lies, with this block as its context.
struct Block<C> {
    dpc: UnsafeCell<KDPC>,
    context: C,
    routine: fn(&C, &Dispatch<'_>),
}

// SAFETY: NT serialises all access to the KDPC; the context goes where `C: Send` may.
unsafe impl<C: Sync + Send> Send for Dpc<C> {}
// SAFETY: as above; the routine has a shared borrow of the context, possibly on several CPUs.
unsafe impl<C: Sync> Sync for Dpc<C> {}

impl<C: Sync + Send + 'static> Dpc<C> {
    /// Makes a DPC that runs `routine` on `context`, on the CPU that queues it.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when the pool is empty.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinitializedpc>
    pub fn try_new(context: C, routine: fn(&C, &Dispatch<'_>)) -> Result<Self, NtError> {
        let dpc = UnsafeCell::new(KDPC::default());
        let block = pool::try_box(Block { dpc, context, routine })?;
        // SAFETY: the block is nonpaged and stays where it is until the DPC is flushed (`drop`).
        unsafe {
            KeInitializeDpc(
                block.dpc.get(),
                Some(run::<C>),
                ptr::from_ref::<Block<C>>(&block).cast_mut().cast(),
            );
        }
        // INVARIANT: just initialised so.
        Ok(Self(block))
    }
}

impl<C: Sync> Dpc<C> {
    /// Has the routine run on `processor` from the next time it is queued.
    ///
    /// # Errors
    ///
    /// What NT says of the processor.
    ///
    /// # IRQL
    ///
    /// Any; not while it is queued.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesettargetprocessordpcex>
    pub fn set_target(&mut self, processor: Processor) -> Result<(), NtError> {
        let mut number = processor.number();
        // SAFETY: initialised (invariant); the unique borrow keeps others from queueing it now.
        check(unsafe { KeSetTargetProcessorDpcEx(self.0.dpc.get(), &raw mut number) })
    }

    /// Sets how soon the routine runs from the next time it is queued.
    ///
    /// # IRQL
    ///
    /// Any; not while it is queued.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetimportancedpc>
    pub fn set_importance(&mut self, importance: Importance) {
        let importance = match importance {
            Importance::Low => _KDPC_IMPORTANCE::LowImportance,
            Importance::Medium => _KDPC_IMPORTANCE::MediumImportance,
            Importance::MediumHigh => _KDPC_IMPORTANCE::MediumHighImportance,
        };
        // SAFETY: as in `set_target`.
        unsafe { KeSetImportanceDpc(self.0.dpc.get(), importance) };
    }

    /// Queues the routine; false if it was queued already and has not begun.
    ///
    /// # IRQL
    ///
    /// Any.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keinsertqueuedpc>
    pub fn queue(&self) -> bool {
        // SAFETY: initialised, and in memory that stays (invariant).
        unsafe { KeInsertQueueDpc(self.0.dpc.get(), ptr::null_mut(), ptr::null_mut()) != 0 }
    }

    /// What the routine works on.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn context(&self) -> &C {
        &self.0.context
    }
}

impl<C: Sync> Drop for Dpc<C> {
    fn drop(&mut self) {
        // SAFETY: initialised (invariant); nobody queues it any more, the borrow is unique.
        unsafe { KeRemoveQueueDpc(self.0.dpc.get()) };
        // SAFETY: at PASSIVE_LEVEL, where a Dpc is dropped (type documentation). Returns when every
        // routine that had begun on any CPU is over, so the block may go.
        unsafe { KeFlushQueuedDpcs() };
    }
}

impl<C: Sync> fmt::Debug for Dpc<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dpc")
    }
}

/// `KDEFERRED_ROUTINE`.
unsafe extern "C" fn run<C>(
    _dpc: *mut KDPC,
    context: *mut c_void,
    _first: *mut c_void,
    _second: *mut c_void,
) {
    // SAFETY: the context is the block (its invariant), which outlives the routine (`drop`).
    let block = unsafe { &*context.cast::<Block<C>>() };
    // SAFETY: DPC routines run at DISPATCH_LEVEL, to their end.
    let level = unsafe { Dispatch::assume() };
    (block.routine)(&block.context, &level);
}

/// Waits until every DPC that is queued on any CPU now has run.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-keflushqueueddpcs>
pub fn flush(_passive: &Passive) {
    // SAFETY: at PASSIVE_LEVEL, as the token says.
    unsafe { KeFlushQueuedDpcs() };
}
