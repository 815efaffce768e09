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
    irql::{AtMostDispatch, Dispatch},
    status::{NtError, check},
    sys::ke::{ALL_PROCESSOR_GROUPS, KeQueryLogicalProcessorRelationship},
};

// The extraction that `nt::sys` is compared with lacks these: from `winnt.h`, as its page has them,
// <https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-system_logical_processor_information_ex>.

/// `RelationProcessorCore` and `RelationNumaNode` of `LOGICAL_PROCESSOR_RELATIONSHIP` (`ntdef.h`).
const RELATION_PROCESSOR_CORE: u32 = 0;
/// See [`RELATION_PROCESSOR_CORE`].
const RELATION_NUMA_NODE: u32 = 1;
/// Bytes of a `SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX` about the core, or the node, of one processor:
/// `Relationship` and `Size`, and from 8 on 24 bytes and one `GROUP_AFFINITY`.
const PROCESSOR_INFORMATION: usize = 48;
/// Where in it `Processor.EfficiencyClass` is (one byte).
const EFFICIENCY_CLASS_AT: usize = 9;
/// Where in it `NumaNode.NodeNumber` is (four bytes).
const NODE_NUMBER_AT: usize = 8;

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

    /// Its processor group.
    #[must_use]
    pub const fn group(self) -> u16 {
        self.0.Group
    }

    /// Its number within the group, 0 to 63.
    #[must_use]
    pub const fn in_group(self) -> u8 {
        self.0.Number
    }

    /// The number of its NUMA node.
    ///
    /// # Errors
    ///
    /// What NT answers.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerylogicalprocessorrelationship>
    pub fn node(self, _level: &AtMostDispatch) -> Result<u32, NtError> {
        let about = self.about(RELATION_NUMA_NODE)?;
        about
            .get(NODE_NUMBER_AT..)
            .and_then(<[u8]>::first_chunk)
            .map(|bytes| u32::from_le_bytes(*bytes))
            .ok_or(NtError::UNSUCCESSFUL)
    }

    /// The efficiency class of its core: the greater, the faster; 0 where all are alike.
    ///
    /// # Errors
    ///
    /// What NT answers.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-processor_relationship>
    pub fn efficiency_class(self, _level: &AtMostDispatch) -> Result<u8, NtError> {
        let about = self.about(RELATION_PROCESSOR_CORE)?;
        about.get(EFFICIENCY_CLASS_AT).copied().ok_or(NtError::UNSUCCESSFUL)
    }

    /// What NT says of this processor and others: one structure, because a core is in one group and of a
    /// node only the group of the processor that is asked about is told.
    fn about(self, relation: u32) -> Result<[u8; PROCESSOR_INFORMATION], NtError> {
        /// As the structure is aligned.
        #[repr(C, align(8))]
        struct Room([u8; PROCESSOR_INFORMATION]);

        let (mut number, mut room) = (self.0, Room([0; PROCESSOR_INFORMATION]));
        let mut length = PROCESSOR_INFORMATION as u32;
        // SAFETY: <= DISPATCH_LEVEL, by the callers' tokens; number, room and its length are ours for the
        // call, and NT writes no more than the length.
        check(unsafe {
            KeQueryLogicalProcessorRelationship(
                &raw mut number,
                relation,
                room.0.as_mut_ptr().cast(),
                &raw mut length,
            )
        })?;
        Ok(room.0)
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
