//! Kernel routines and constants that the driver kit hides in macros, or writes so that bindings
//! do not get them (`wdm.h`, WDK 10.0.26100).
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    clippy::upper_case_acronyms
)]

use core::{ffi::c_void, mem::offset_of};

use wdk_sys::{
    ACCESS_MASK, BOOLEAN, KIRQL, LONG_PTR, NTSTATUS, PROCESSOR_NUMBER, PUCHAR, PVOID, SIZE_T,
    ULONG, ULONG64, USHORT,
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

/// Why a callback at a bugcheck is called (`KBUGCHECK_CALLBACK_REASON`): for data behind the dump.
pub const KbCallbackSecondaryDumpData: ULONG = 2;
/// For pages that the dump is to do without.
pub const KbCallbackRemovePages: ULONG = 6;
/// For memory that a small dump is to have.
pub const KbCallbackTriageDumpData: ULONG = 7;

/// A callback at a bugcheck.
pub type KBUGCHECK_REASON_CALLBACK_ROUTINE = unsafe extern "system" fn(
    Reason: ULONG,
    Record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    ReasonSpecificData: PVOID,
    ReasonSpecificDataLength: ULONG,
);

/// A registered callback; all zeroes is what `KeInitializeCallbackRecord` leaves.
#[repr(C)]
pub struct KBUGCHECK_REASON_CALLBACK_RECORD {
    /// A `LIST_ENTRY`.
    pub Entry: [*mut c_void; 2],
    pub CallbackRoutine: Option<KBUGCHECK_REASON_CALLBACK_ROUTINE>,
    pub Component: *mut u8,
    pub Checksum: u64,
    pub Reason: u32,
    pub State: u8,
}

/// What the callback for data behind the dump fills in.
#[repr(C)]
pub struct KBUGCHECK_SECONDARY_DUMP_DATA {
    pub InBuffer: *mut c_void,
    pub InBufferLength: u32,
    pub MaximumAllowed: u32,
    pub Guid: [u8; 16],
    pub OutBuffer: *mut c_void,
    pub OutBufferLength: u32,
}

/// What the callback for pages that the dump does without fills in.
#[repr(C)]
pub struct KBUGCHECK_REMOVE_PAGES {
    pub Context: *mut c_void,
    pub Flags: u32,
    pub BugCheckCode: u32,
    pub Address: u64,
    pub Count: u64,
}

/// What the callback for memory of a small dump fills in.
#[repr(C)]
pub struct KBUGCHECK_TRIAGE_DUMP_DATA {
    pub DataArray: *mut c_void,
    pub Flags: u32,
    pub MaxVirtMemSize: u32,
    pub BugCheckCode: u32,
    pub BugCheckParameter1: u64,
    pub BugCheckParameter2: u64,
    pub BugCheckParameter3: u64,
    pub BugCheckParameter4: u64,
}

const _: () = {
    assert!(size_of::<KBUGCHECK_REASON_CALLBACK_RECORD>() == 48);
    assert!(offset_of!(KBUGCHECK_SECONDARY_DUMP_DATA, OutBuffer) == 32);
    assert!(offset_of!(KBUGCHECK_REMOVE_PAGES, Address) == 16);
    assert!(size_of::<KBUGCHECK_TRIAGE_DUMP_DATA>() == 56);
};

unsafe extern "system" {
    /// Not in our headers, which have neither its enumeration nor its structures.
    pub fn KeRegisterBugCheckReasonCallback(
        CallbackRecord: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
        CallbackRoutine: KBUGCHECK_REASON_CALLBACK_ROUTINE,
        Reason: ULONG,
        Component: PUCHAR,
    ) -> BOOLEAN;
    /// As above.
    pub fn KeDeregisterBugCheckReasonCallback(
        CallbackRecord: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    ) -> BOOLEAN;
    /// As above; the array is the kernel's to lay out.
    pub fn KeInitializeTriageDumpDataArray(KtriageDumpDataArray: PVOID, Size: ULONG) -> NTSTATUS;
    /// As above.
    pub fn KeAddTriageDumpDataBlock(
        KtriageDumpDataArray: PVOID,
        Address: PVOID,
        Size: SIZE_T,
    ) -> NTSTATUS;
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
