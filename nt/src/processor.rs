//! Processors, counted through all groups.
//!
//! An index runs from 0 to [`count`], whatever the groups: per-CPU arrays are indexed by it.

use core::ptr;

use wdk_sys::{
    PROCESSOR_NUMBER,
    ntddk::{
        KeGetCurrentProcessorNumberEx, KeGetProcessorNumberFromIndex,
        KeQueryActiveProcessorCountEx, KeQueryMaximumProcessorCountEx,
    },
};

use crate::{
    irql::Dispatch,
    status::{NtError, check},
    sys::ke::ALL_PROCESSOR_GROUPS,
};

/// A processor of this machine.
///
/// # Invariants
///
/// NT gave this number for an active processor; processors are never taken away.
#[derive(Clone, Copy, Debug)]
pub struct Processor(PROCESSOR_NUMBER);

impl Processor {
    /// The processor of `index`.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] when there is none.
    ///
    /// # IRQL
    ///
    /// Any.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetprocessornumberfromindex>
    pub fn of_index(index: u32) -> Result<Self, NtError> {
        let mut number = PROCESSOR_NUMBER::default();
        // SAFETY: `number` is ours for the call; allowed at any level.
        check(unsafe { KeGetProcessorNumberFromIndex(index, &raw mut number) })?;
        // INVARIANT: NT gave it.
        Ok(Self(number))
    }

    /// Group and number.
    pub(crate) const fn number(self) -> PROCESSOR_NUMBER {
        self.0
    }
}

/// How many processors are active, in all groups; at least one.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryactiveprocessorcountex>
#[must_use]
pub fn count() -> u32 {
    // SAFETY: only reads; allowed at any level.
    unsafe { KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS) }.max(1)
}

/// How many processors there may ever be, in all groups: at least as many as are active.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-kequerymaximumprocessorcountex>
#[must_use]
pub fn maximum() -> u32 {
    // SAFETY: only reads; allowed at any level.
    unsafe { KeQueryMaximumProcessorCountEx(ALL_PROCESSOR_GROUPS) }.max(count())
}

/// The index of the processor this runs on, and stays on as long as the token is held.
///
/// # IRQL
///
/// `DISPATCH_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kegetcurrentprocessornumberex>
#[must_use]
pub fn current(_level: &Dispatch<'_>) -> u32 {
    nearby()
}

/// The index of the processor this runs on, or ran on a moment ago: for choosing among things of which
/// any will do.
///
/// # IRQL
///
/// Any.
#[must_use]
pub fn nearby() -> u32 {
    // SAFETY: only reads; null means that the group is not asked for.
    unsafe { KeGetCurrentProcessorNumberEx(ptr::null_mut()) }
}
