//! The Windows Filtering Platform in the kernel: `km/fwpsk.h`, `km/fwpmk.h`, `shared/fwptypes.h`,
//! `shared/fwpmtypes.h`, `shared/fwpstypes.h`, WDK 10.0.26100.
//!
//! Unions are the word that lies where they lie. Exports of `fwpkclnt.sys`.
#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use core::{ffi::c_void, mem::offset_of};

use wdk_sys::{NTSTATUS, PMDL};

use super::ndis::NET_BUFFER_LIST;
pub(crate) use super::wsk::GUID;

/// `FWP_UINT8`.
pub(crate) const FWP_UINT8: u32 = 1;
/// `FWP_UINT16`.
pub(crate) const FWP_UINT16: u32 = 2;
/// `FWP_UINT32`.
pub(crate) const FWP_UINT32: u32 = 3;
/// `FWP_BYTE_ARRAY16_TYPE`.
pub(crate) const FWP_BYTE_ARRAY16_TYPE: u32 = 11;
/// `FWP_MATCH_EQUAL`.
pub(crate) const FWP_MATCH_EQUAL: u32 = 0;
/// `FWP_ACTION_BLOCK`.
pub(crate) const FWP_ACTION_BLOCK: u32 = 0x1001;
/// `FWP_ACTION_PERMIT`.
pub(crate) const FWP_ACTION_PERMIT: u32 = 0x1002;
/// `FWP_ACTION_CONTINUE`.
pub(crate) const FWP_ACTION_CONTINUE: u32 = 0x2006;
/// `FWP_ACTION_CALLOUT_TERMINATING`.
pub(crate) const FWP_ACTION_CALLOUT_TERMINATING: u32 = 0x5003;
/// `FWP_ACTION_CALLOUT_INSPECTION`.
pub(crate) const FWP_ACTION_CALLOUT_INSPECTION: u32 = 0x6004;
/// `FWPS_RIGHT_ACTION_WRITE`.
pub(crate) const FWPS_RIGHT_ACTION_WRITE: u32 = 1;
/// `FWPS_CLASSIFY_OUT_FLAG_ABSORB`.
pub(crate) const FWPS_CLASSIFY_OUT_FLAG_ABSORB: u32 = 1;
/// `FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT`.
pub(crate) const FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT: u16 = 1;
/// `FWP_CALLOUT_FLAG_ALLOW_OFFLOAD`.
pub(crate) const FWP_CALLOUT_FLAG_ALLOW_OFFLOAD: u32 = 2;
/// `FWP_CALLOUT_FLAG_ALLOW_RSC`.
pub(crate) const FWP_CALLOUT_FLAG_ALLOW_RSC: u32 = 0x40;
/// `FWP_CALLOUT_FLAG_ALLOW_USO`.
pub(crate) const FWP_CALLOUT_FLAG_ALLOW_USO: u32 = 0x100;
/// `FWP_CALLOUT_FLAG_ALLOW_URO`.
pub(crate) const FWP_CALLOUT_FLAG_ALLOW_URO: u32 = 0x200;
/// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
pub(crate) const FWP_CONDITION_FLAG_IS_LOOPBACK: u32 = 1;
/// `FWPS_METADATA_FIELD_IP_HEADER_SIZE`.
pub(crate) const FWPS_METADATA_FIELD_IP_HEADER_SIZE: u32 = 4;
/// `FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE`.
pub(crate) const FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE: u32 = 0x400;
/// `FWPS_METADATA_FIELD_COMPARTMENT_ID`.
pub(crate) const FWPS_METADATA_FIELD_COMPARTMENT_ID: u32 = 0x800;
/// `FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE`.
pub(crate) const FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE: u32 = 0x8000;
/// `FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED`.
pub(crate) const FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED: u32 = 0x40_0000;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_LOCAL_ADDRESS`, and so at the other three layers:
/// `FWPS_FIELD_INBOUND_TRANSPORT_V6_IP_LOCAL_ADDRESS`,
/// `FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_LOCAL_ADDRESS`,
/// `FWPS_FIELD_OUTBOUND_TRANSPORT_V6_IP_LOCAL_ADDRESS`.
pub(crate) const FIELD_LOCAL_ADDRESS: usize = 1;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_REMOTE_ADDRESS`, and with V6.
pub(crate) const FIELD_REMOTE_ADDRESS_INBOUND: usize = 2;
/// `FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_REMOTE_ADDRESS`, and with V6.
pub(crate) const FIELD_REMOTE_ADDRESS_OUTBOUND: usize = 3;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_LOCAL_PORT`, and so at the other three layers.
pub(crate) const FIELD_LOCAL_PORT: usize = 4;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_REMOTE_PORT`, and so at the other three layers.
pub(crate) const FIELD_REMOTE_PORT: usize = 5;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_INTERFACE_INDEX`, and so at the other three layers.
pub(crate) const FIELD_INTERFACE: usize = 7;
/// `FWPS_FIELD_INBOUND_TRANSPORT_V4_FLAGS`, and with V6.
pub(crate) const FIELD_FLAGS_INBOUND: usize = 9;
/// `FWPS_FIELD_OUTBOUND_TRANSPORT_V4_FLAGS`, and with V6.
pub(crate) const FIELD_FLAGS_OUTBOUND: usize = 10;
/// `FWPM_SESSION_FLAG_DYNAMIC`.
pub(crate) const FWPM_SESSION_FLAG_DYNAMIC: u32 = 1;
/// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`.
pub(crate) const FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u32 = 0x10;
/// `FWPM_SERVICE_RUNNING`.
pub(crate) const FWPM_SERVICE_RUNNING: u32 = 3;
/// `FWPS_INJECTION_TYPE_TRANSPORT`.
pub(crate) const FWPS_INJECTION_TYPE_TRANSPORT: u32 = 2;
/// `FWPS_PACKET_NOT_INJECTED`.
pub(crate) const FWPS_PACKET_NOT_INJECTED: u32 = 0;
/// `FWPS_PACKET_INJECTED_BY_OTHER`.
pub(crate) const FWPS_PACKET_INJECTED_BY_OTHER: u32 = 2;
/// `RPC_C_AUTHN_DEFAULT`, the only service a kernel session may name beside `RPC_C_AUTHN_WINNT`.
/// `shared/rpcdce.h`.
pub(crate) const RPC_C_AUTHN_DEFAULT: u32 = 0xFFFF_FFFF;
/// `STATUS_FWP_IN_USE`.
pub(crate) const STATUS_FWP_IN_USE: u32 = 0xC022_000A;
/// `STATUS_DEVICE_BUSY`.
pub(crate) const STATUS_DEVICE_BUSY: u32 = 0x8000_0011;

/// `FWPM_LAYER_INBOUND_TRANSPORT_V4`.
pub(crate) static FWPM_LAYER_INBOUND_TRANSPORT_V4: GUID = GUID {
    Data1: 0x5926_DFC8,
    Data2: 0xE3CF,
    Data3: 0x4426,
    Data4: [0xA2, 0x83, 0xDC, 0x39, 0x3F, 0x5D, 0x0F, 0x9D],
};

/// `FWPM_LAYER_INBOUND_TRANSPORT_V6`.
pub(crate) static FWPM_LAYER_INBOUND_TRANSPORT_V6: GUID = GUID {
    Data1: 0x634A_869F,
    Data2: 0xFC23,
    Data3: 0x4B90,
    Data4: [0xB0, 0xC1, 0xBF, 0x62, 0x0A, 0x36, 0xAE, 0x6F],
};

/// `FWPM_LAYER_OUTBOUND_TRANSPORT_V4`.
pub(crate) static FWPM_LAYER_OUTBOUND_TRANSPORT_V4: GUID = GUID {
    Data1: 0x09E6_1AEA,
    Data2: 0xD214,
    Data3: 0x46E2,
    Data4: [0x9B, 0x21, 0xB2, 0x6B, 0x0B, 0x2F, 0x28, 0xC8],
};

/// `FWPM_LAYER_OUTBOUND_TRANSPORT_V6`.
pub(crate) static FWPM_LAYER_OUTBOUND_TRANSPORT_V6: GUID = GUID {
    Data1: 0xE173_5BDE,
    Data2: 0x013F,
    Data3: 0x4655,
    Data4: [0xB3, 0x51, 0xA4, 0x9E, 0x15, 0x76, 0x2D, 0xF0],
};

/// `FWPM_CONDITION_IP_PROTOCOL`.
pub(crate) static FWPM_CONDITION_IP_PROTOCOL: GUID = GUID {
    Data1: 0x3971_EF2B,
    Data2: 0x623E,
    Data3: 0x4F9A,
    Data4: [0x8C, 0xB1, 0x6E, 0x79, 0xB8, 0x06, 0xB9, 0xA7],
};

/// `FWPM_CONDITION_IP_LOCAL_PORT`.
pub(crate) static FWPM_CONDITION_IP_LOCAL_PORT: GUID = GUID {
    Data1: 0x0C1B_A1AF,
    Data2: 0x5765,
    Data3: 0x453F,
    Data4: [0xAF, 0x22, 0xA8, 0xF7, 0x91, 0xAC, 0x77, 0x5B],
};

/// `FWP_BYTE_BLOB`.
#[repr(C)]
pub(crate) struct FWP_BYTE_BLOB {
    pub(crate) size: u32,
    pub(crate) data: *mut u8,
}

/// `FWP_VALUE0`, and `FWP_CONDITION_VALUE0`, which begins alike.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FWP_VALUE0 {
    pub(crate) kind: u32,
    /// A number, or a pointer to what does not fit.
    pub(crate) value: u64,
}

/// `FWPM_DISPLAY_DATA0`.
#[repr(C)]
pub(crate) struct FWPM_DISPLAY_DATA0 {
    pub(crate) name: *const u16,
    pub(crate) description: *const u16,
}

/// `FWPM_SESSION0`.
#[repr(C)]
pub(crate) struct FWPM_SESSION0 {
    pub(crate) sessionKey: GUID,
    pub(crate) displayData: FWPM_DISPLAY_DATA0,
    pub(crate) flags: u32,
    pub(crate) txnWaitTimeoutInMSec: u32,
    pub(crate) processId: u32,
    pub(crate) sid: *mut c_void,
    pub(crate) username: *mut u16,
    pub(crate) kernelMode: i32,
}

/// `FWPM_PROVIDER0`.
#[repr(C)]
pub(crate) struct FWPM_PROVIDER0 {
    pub(crate) providerKey: GUID,
    pub(crate) displayData: FWPM_DISPLAY_DATA0,
    pub(crate) flags: u32,
    pub(crate) providerData: FWP_BYTE_BLOB,
    pub(crate) serviceName: *mut u16,
}

/// `FWPM_SUBLAYER0`.
#[repr(C)]
pub(crate) struct FWPM_SUBLAYER0 {
    pub(crate) subLayerKey: GUID,
    pub(crate) displayData: FWPM_DISPLAY_DATA0,
    pub(crate) flags: u32,
    pub(crate) providerKey: *const GUID,
    pub(crate) providerData: FWP_BYTE_BLOB,
    pub(crate) weight: u16,
}

/// `FWPM_CALLOUT0`.
#[repr(C)]
pub(crate) struct FWPM_CALLOUT0 {
    pub(crate) calloutKey: GUID,
    pub(crate) displayData: FWPM_DISPLAY_DATA0,
    pub(crate) flags: u32,
    pub(crate) providerKey: *const GUID,
    pub(crate) providerData: FWP_BYTE_BLOB,
    pub(crate) applicableLayer: GUID,
    pub(crate) calloutId: u32,
}

/// `FWPM_FILTER_CONDITION0`.
#[repr(C)]
pub(crate) struct FWPM_FILTER_CONDITION0 {
    pub(crate) fieldKey: GUID,
    pub(crate) matchType: u32,
    pub(crate) conditionValue: FWP_VALUE0,
}

/// `FWPM_ACTION0`.
#[repr(C)]
pub(crate) struct FWPM_ACTION0 {
    pub(crate) kind: u32,
    pub(crate) calloutKey: GUID,
}

/// `FWPM_FILTER0`.
#[repr(C)]
pub(crate) struct FWPM_FILTER0 {
    pub(crate) filterKey: GUID,
    pub(crate) displayData: FWPM_DISPLAY_DATA0,
    pub(crate) flags: u32,
    pub(crate) providerKey: *const GUID,
    pub(crate) providerData: FWP_BYTE_BLOB,
    pub(crate) layerKey: GUID,
    pub(crate) subLayerKey: GUID,
    pub(crate) weight: FWP_VALUE0,
    pub(crate) numFilterConditions: u32,
    pub(crate) filterCondition: *const FWPM_FILTER_CONDITION0,
    pub(crate) action: FWPM_ACTION0,
    pub(crate) rawContext: u64,
    /// The second half of `providerContextKey`, which shares its place with `rawContext`.
    pub(crate) UnusedContext: u64,
    pub(crate) reserved: *mut GUID,
    pub(crate) filterId: u64,
    pub(crate) effectiveWeight: FWP_VALUE0,
}

/// `FWPS_INCOMING_VALUES0`. `incomingValue` is an array of `FWPS_INCOMING_VALUE0`, each of which is
/// an `FWP_VALUE0`.
#[repr(C)]
pub(crate) struct FWPS_INCOMING_VALUES0 {
    pub(crate) layerId: u16,
    pub(crate) valueCount: u32,
    pub(crate) incomingValue: *const FWP_VALUE0,
}

/// `FWPS_INCOMING_METADATA_VALUES0`.
#[repr(C)]
pub(crate) struct FWPS_INCOMING_METADATA_VALUES0 {
    pub(crate) currentMetadataValues: u32,
    pub(crate) flags: u32,
    pub(crate) ReservedBegin: [u64; 3],
    pub(crate) flowHandle: u64,
    pub(crate) ipHeaderSize: u32,
    pub(crate) transportHeaderSize: u32,
    pub(crate) ReservedProcess: [u64; 4],
    pub(crate) compartmentId: u32,
    pub(crate) ReservedFragment: [u32; 7],
    pub(crate) transportEndpointHandle: u64,
    pub(crate) remoteScopeId: u32,
    pub(crate) controlData: *const u8,
    pub(crate) controlDataLength: u32,
    pub(crate) packetDirection: u32,
    pub(crate) ReservedEnd: [u64; 17],
}

/// `FWPS_ACTION0`.
#[repr(C)]
pub(crate) struct FWPS_ACTION0 {
    pub(crate) kind: u32,
    pub(crate) calloutId: u32,
}

/// `FWPS_FILTER2`.
#[repr(C)]
pub(crate) struct FWPS_FILTER2 {
    pub(crate) filterId: u64,
    pub(crate) weight: FWP_VALUE0,
    pub(crate) subLayerWeight: u16,
    pub(crate) flags: u16,
    pub(crate) numFilterConditions: u32,
    pub(crate) filterCondition: *mut c_void,
    pub(crate) action: FWPS_ACTION0,
    pub(crate) context: u64,
    pub(crate) providerContext: *mut c_void,
}

/// `FWPS_CLASSIFY_OUT0`.
#[repr(C)]
pub(crate) struct FWPS_CLASSIFY_OUT0 {
    pub(crate) actionType: u32,
    pub(crate) outContext: u64,
    pub(crate) filterId: u64,
    pub(crate) rights: u32,
    pub(crate) flags: u32,
    pub(crate) reserved: u32,
}

/// `FWPS_CALLOUT_CLASSIFY_FN2`. `inFixedValues, inMetaValues, layerData, classifyContext, filter,
/// flowContext, classifyOut`.
pub(crate) type FWPS_CALLOUT_CLASSIFY_FN2 = unsafe extern "system" fn(
    *const FWPS_INCOMING_VALUES0,
    *const FWPS_INCOMING_METADATA_VALUES0,
    *mut c_void,
    *const c_void,
    *const FWPS_FILTER2,
    u64,
    *mut FWPS_CLASSIFY_OUT0,
);

/// `FWPS_CALLOUT_NOTIFY_FN2`. `notifyType, filterKey, filter`.
pub(crate) type FWPS_CALLOUT_NOTIFY_FN2 =
    unsafe extern "system" fn(i32, *const GUID, *mut FWPS_FILTER2) -> NTSTATUS;

/// `FWPS_CALLOUT2`.
#[repr(C)]
pub(crate) struct FWPS_CALLOUT2 {
    pub(crate) calloutKey: GUID,
    pub(crate) flags: u32,
    pub(crate) classifyFn: Option<FWPS_CALLOUT_CLASSIFY_FN2>,
    pub(crate) notifyFn: Option<FWPS_CALLOUT_NOTIFY_FN2>,
    pub(crate) flowDeleteFn: *const c_void,
}

/// `FWPS_TRANSPORT_SEND_PARAMS1`.
#[repr(C)]
pub(crate) struct FWPS_TRANSPORT_SEND_PARAMS1 {
    pub(crate) remoteAddress: *mut u8,
    pub(crate) remoteScopeId: u32,
    pub(crate) controlData: *mut c_void,
    pub(crate) controlDataLength: u32,
    pub(crate) headerIncludeHeader: *mut u8,
    pub(crate) headerIncludeHeaderLength: u32,
}

/// `FWPS_INJECT_COMPLETE0`. `context, netBufferList, dispatchLevel`.
pub(crate) type FWPS_INJECT_COMPLETE0 =
    unsafe extern "system" fn(*mut c_void, *mut NET_BUFFER_LIST, u8);

/// `FWPM_SERVICE_STATE_CHANGE_CALLBACK0`. `context, newState`.
pub(crate) type FWPM_SERVICE_STATE_CHANGE_CALLBACK0 = unsafe extern "system" fn(*mut c_void, u32);

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<FWP_BYTE_BLOB>() == 16);
    assert!(size_of::<FWP_VALUE0>() == 16);
    assert!(offset_of!(FWP_VALUE0, value) == 8);
    assert!(size_of::<FWPM_SESSION0>() == 72);
    assert!(offset_of!(FWPM_SESSION0, flags) == 32);
    assert!(size_of::<FWPM_PROVIDER0>() == 64);
    assert!(size_of::<FWPM_SUBLAYER0>() == 72);
    assert!(offset_of!(FWPM_SUBLAYER0, weight) == 64);
    assert!(size_of::<FWPM_CALLOUT0>() == 88);
    assert!(offset_of!(FWPM_CALLOUT0, applicableLayer) == 64);
    assert!(size_of::<FWPM_FILTER_CONDITION0>() == 40);
    assert!(offset_of!(FWPM_FILTER_CONDITION0, conditionValue) == 24);
    assert!(size_of::<FWPM_ACTION0>() == 20);
    assert!(size_of::<FWPM_FILTER0>() == 200);
    assert!(offset_of!(FWPM_FILTER0, filterCondition) == 120);
    assert!(offset_of!(FWPM_FILTER0, action) == 128);
    assert!(offset_of!(FWPM_FILTER0, rawContext) == 152);
    assert!(offset_of!(FWPM_FILTER0, filterId) == 176);
    assert!(size_of::<FWPS_INCOMING_VALUES0>() == 16);
    assert!(size_of::<FWPS_INCOMING_METADATA_VALUES0>() == 280);
    assert!(offset_of!(FWPS_INCOMING_METADATA_VALUES0, ipHeaderSize) == 40);
    assert!(offset_of!(FWPS_INCOMING_METADATA_VALUES0, compartmentId) == 80);
    assert!(offset_of!(FWPS_INCOMING_METADATA_VALUES0, transportEndpointHandle) == 112);
    assert!(size_of::<FWPS_FILTER2>() == 64);
    assert!(offset_of!(FWPS_FILTER2, context) == 48);
    assert!(size_of::<FWPS_CLASSIFY_OUT0>() == 40);
    assert!(offset_of!(FWPS_CLASSIFY_OUT0, rights) == 24);
    assert!(size_of::<FWPS_CALLOUT2>() == 48);
    assert!(offset_of!(FWPS_CALLOUT2, classifyFn) == 24);
    assert!(size_of::<FWPS_TRANSPORT_SEND_PARAMS1>() == 48);
    assert!(offset_of!(FWPS_TRANSPORT_SEND_PARAMS1, controlData) == 16);
};

unsafe extern "system" {
    /// Source: fwpsk/nf-fwpsk-fwpscalloutregister2.
    pub(crate) fn FwpsCalloutRegister2(
        deviceObject: *mut c_void,
        callout: *const FWPS_CALLOUT2,
        calloutId: *mut u32,
    ) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpscalloutunregisterbyid0.
    pub(crate) fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmbfestateget0.
    pub(crate) fn FwpmBfeStateGet0() -> u32;
    /// Source: fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0.
    pub(crate) fn FwpmBfeStateSubscribeChanges0(
        deviceObject: *mut c_void,
        callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
        context: *mut c_void,
        changeHandle: *mut *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmbfestateunsubscribechanges0.
    pub(crate) fn FwpmBfeStateUnsubscribeChanges0(changeHandle: *mut c_void) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmengineopen0.
    pub(crate) fn FwpmEngineOpen0(
        serverName: *const u16,
        authnService: u32,
        authIdentity: *mut c_void,
        session: *const FWPM_SESSION0,
        engineHandle: *mut *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmengineclose0.
    pub(crate) fn FwpmEngineClose0(engineHandle: *mut c_void) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmtransactionbegin0.
    pub(crate) fn FwpmTransactionBegin0(engineHandle: *mut c_void, flags: u32) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmtransactioncommit0.
    pub(crate) fn FwpmTransactionCommit0(engineHandle: *mut c_void) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmtransactionabort0.
    pub(crate) fn FwpmTransactionAbort0(engineHandle: *mut c_void) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmprovideradd0.
    pub(crate) fn FwpmProviderAdd0(
        engineHandle: *mut c_void,
        provider: *const FWPM_PROVIDER0,
        sd: *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmsublayeradd0.
    pub(crate) fn FwpmSubLayerAdd0(
        engineHandle: *mut c_void,
        subLayer: *const FWPM_SUBLAYER0,
        sd: *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmcalloutadd0.
    pub(crate) fn FwpmCalloutAdd0(
        engineHandle: *mut c_void,
        callout: *const FWPM_CALLOUT0,
        sd: *mut c_void,
        id: *mut u32,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmfilteradd0.
    pub(crate) fn FwpmFilterAdd0(
        engineHandle: *mut c_void,
        filter: *const FWPM_FILTER0,
        sd: *mut c_void,
        id: *mut u64,
    ) -> NTSTATUS;
    /// Source: fwpmk/nf-fwpmk-fwpmfilterdeletebyid0.
    pub(crate) fn FwpmFilterDeleteById0(engineHandle: *mut c_void, id: u64) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0.
    pub(crate) fn FwpsReferenceNetBufferList0(
        netBufferList: *mut NET_BUFFER_LIST,
        intendToModify: u8,
    );
    /// Source: fwpsk/nf-fwpsk-fwpsdereferencenetbufferlist0.
    pub(crate) fn FwpsDereferenceNetBufferList0(
        netBufferList: *mut NET_BUFFER_LIST,
        dispatchLevel: u8,
    );
    /// Source: fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0.
    pub(crate) fn FwpsQueryPacketInjectionState0(
        injectionHandle: *mut c_void,
        netBufferList: *const NET_BUFFER_LIST,
        injectionContext: *mut *mut c_void,
    ) -> u32;
    /// Source: fwpsk/nf-fwpsk-fwpsinjectionhandlecreate0.
    pub(crate) fn FwpsInjectionHandleCreate0(
        addressFamily: u16,
        flags: u32,
        injectionHandle: *mut *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpsinjectionhandledestroy0.
    pub(crate) fn FwpsInjectionHandleDestroy0(injectionHandle: *mut c_void) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1.
    pub(crate) fn FwpsInjectTransportSendAsync1(
        injectionHandle: *mut c_void,
        injectionContext: *mut c_void,
        endpointHandle: u64,
        flags: u32,
        sendArgs: *mut FWPS_TRANSPORT_SEND_PARAMS1,
        addressFamily: u16,
        compartmentId: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: *mut c_void,
    ) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpsallocatenetbufferandnetbufferlist0.
    pub(crate) fn FwpsAllocateNetBufferAndNetBufferList0(
        poolHandle: *mut c_void,
        contextSize: u16,
        contextBackFill: u16,
        mdlChain: PMDL,
        dataOffset: u32,
        dataLength: usize,
        netBufferList: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;
    /// Source: fwpsk/nf-fwpsk-fwpsfreenetbufferlist0.
    pub(crate) fn FwpsFreeNetBufferList0(netBufferList: *mut NET_BUFFER_LIST);
}
