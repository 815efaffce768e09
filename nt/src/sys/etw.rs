//! Event tracing for Windows (`wdm.h`, `evntprov.h`, WDK 10.0.26100).
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs)]

use wdk_sys::{GUID, NTSTATUS, PVOID, UCHAR, ULONG, ULONGLONG};

/// A registered provider.
pub type REGHANDLE = u64;

/// The provider's traits (`EVENT_INFO_CLASS`).
pub const EventProviderSetTraits: ULONG = 2;
/// What kind of event it is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EVENT_DESCRIPTOR {
    pub Id: u16,
    pub Version: u8,
    pub Channel: u8,
    pub Level: u8,
    pub Opcode: u8,
    pub Task: u16,
    pub Keyword: u64,
}

/// A part of an event.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EVENT_DATA_DESCRIPTOR {
    pub Ptr: u64,
    pub Size: u32,
    /// The kit has a union here: its first byte is the type.
    pub Reserved: u32,
}

const _: () = {
    assert!(size_of::<EVENT_DESCRIPTOR>() == 16 && size_of::<EVENT_DATA_DESCRIPTOR>() == 16);
};

/// What is called when sessions begin or cease to listen.
pub type ETWENABLECALLBACK = unsafe extern "system" fn(
    SourceId: *const GUID,
    ControlCode: ULONG,
    Level: UCHAR,
    MatchAnyKeyword: ULONGLONG,
    MatchAllKeyword: ULONGLONG,
    FilterData: PVOID,
    CallbackContext: PVOID,
);

unsafe extern "system" {
    pub fn EtwRegister(
        ProviderId: *const GUID,
        EnableCallback: ETWENABLECALLBACK,
        CallbackContext: PVOID,
        RegHandle: *mut REGHANDLE,
    ) -> NTSTATUS;
    pub fn EtwUnregister(RegHandle: REGHANDLE) -> NTSTATUS;
    pub fn EtwSetInformation(
        RegHandle: REGHANDLE,
        InformationClass: ULONG,
        EventInformation: PVOID,
        InformationLength: ULONG,
    ) -> NTSTATUS;
    pub fn EtwWriteTransfer(
        RegHandle: REGHANDLE,
        EventDescriptor: *const EVENT_DESCRIPTOR,
        ActivityId: *const GUID,
        RelatedActivityId: *const GUID,
        UserDataCount: ULONG,
        UserData: *mut EVENT_DATA_DESCRIPTOR,
    ) -> NTSTATUS;
}
