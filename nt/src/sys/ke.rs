//! Kernel routines and constants that the driver kit hides in macros, or writes so that bindings
//! do not get them (`wdm.h`, WDK 10.0.26100).

use wdk_sys::{
    ACCESS_MASK, KIRQL, LONG_PTR, NTSTATUS, PROCESSOR_NUMBER, PVOID, ULONG, ULONG64, USHORT,
};

/// For counts and masks over every group.
pub const ALL_PROCESSOR_GROUPS: USHORT = 0xFFFF;
/// An `EX_TIMER` whose expiry does not wake a CPU.
pub const EX_TIMER_NO_WAKE: ULONG = 8;
/// Every right over a thread.
pub const THREAD_ALL_ACCESS: ACCESS_MASK = 0x001F_FFFF;
/// To read a file.
pub const FILE_READ_DATA: ACCESS_MASK = 1;
/// To write a file.
pub const FILE_WRITE_DATA: ACCESS_MASK = 2;
/// The upper halves of the YMM registers.
pub const XSTATE_MASK_AVX: ULONG64 = 4;
/// Mask registers, the upper halves of ZMM0 to 15, and ZMM16 to 31.
pub const XSTATE_MASK_AVX512: ULONG64 = 0xE0;

unsafe extern "system" {
    /// Not in our headers, which have neither its enumeration nor its structure.
    pub fn KeQueryLogicalProcessorRelationship(
        ProcessorNumber: *mut PROCESSOR_NUMBER,
        RelationshipType: ULONG,
        Information: PVOID,
        Length: *mut ULONG,
    ) -> NTSTATUS;
    /// What the macro `KeRaiseIrql` calls on x64.
    pub fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL;
    /// What the macro `ObReferenceObject` calls.
    pub fn ObfReferenceObject(Object: PVOID) -> LONG_PTR;
    /// What the macro `ObDereferenceObject` calls.
    pub fn ObfDereferenceObject(Object: PVOID) -> LONG_PTR;
}
