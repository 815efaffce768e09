//! NetAdapterCx 2.1 as it is on the wire: rings, records, function table, and the class record.
//!
//! wdk-sys has no bindings for NetAdapterCx, so its layouts are written here, each asserted, from
//! the headers `netcx/kmdf/adapter/2.1/*.h` and `netcx/shared/1.0/net/*.h` of WDK 10.0.26100.
//! A driver reaches the extension's functions through an array of pointers that the extension fills
//! in when the loader binds the class, which is before `DriverEntry`; the loader finds out that it
//! must do so by the record in section `.kmdfclassbind$b`. With 2.1 that array has 122 entries, and
//! the record, 80 bytes long, asks for exactly this version.
#![allow(
    clippy::upper_case_acronyms,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    reason = "names of the headers"
)]

use core::{cell::UnsafeCell, ffi::c_void, mem::offset_of};

use wdk_sys::{BOOLEAN, NTSTATUS, PWDFDEVICE_INIT, ULONG, WDF_OBJECT_ATTRIBUTES, WDFDEVICE};

use crate::bugcheck::{Impossible, impossible};

pub(crate) type NETADAPTER = *mut c_void;
pub(crate) type NETPACKETQUEUE = *mut c_void;
pub(crate) type NETOFFLOAD = *mut c_void;
pub(crate) type NETADAPTER_INIT = c_void;
pub(crate) type NETTXQUEUE_INIT = c_void;
pub(crate) type NETRXQUEUE_INIT = c_void;
pub(crate) type NET_FRAGMENT_RETURN_CONTEXT_HANDLE = *mut c_void;

/// `net/ring.h`. Elements follow the header, `ElementStride` bytes apart.
#[repr(C, align(64))]
pub(crate) struct NET_RING {
    pub(crate) OSReserved1: u16,
    pub(crate) ElementStride: u16,
    pub(crate) NumberOfElements: u32,
    pub(crate) ElementIndexMask: u32,
    pub(crate) EndIndex: u32,
    /// A union with `OSReserved0`; the framework's own.
    pub(crate) OSReserved2: [*mut c_void; 4],
    pub(crate) BeginIndex: u32,
    pub(crate) NextIndex: u32,
    pub(crate) Scratch: *mut c_void,
    pub(crate) Buffer: [u8; 64],
}

/// `net/ringcollection.h`: packets, fragments, data buffers.
#[repr(C)]
pub(crate) struct NET_RING_COLLECTION {
    pub(crate) Rings: [*mut NET_RING; 3],
}

pub(crate) const NetRingTypePacket: usize = 0;
pub(crate) const NetRingTypeFragment: usize = 1;

/// `net/packet.h`. The bit fields are read and written through [`layout`] and [`packet_flag`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NET_PACKET {
    pub(crate) FragmentIndex: u32,
    pub(crate) FragmentCount: u16,
    /// `NET_PACKET_LAYOUT`: two 16-bit header lengths' worth of bits, then bytes of types.
    pub(crate) Layout: [u8; 5],
    /// Bit 0 `Ignore`, bit 1 `Scratch`, the rest reserved.
    pub(crate) Flags: u8,
}

/// Bits of [`NET_PACKET::Flags`].
pub(crate) mod packet_flag {
    pub(crate) const IGNORE: u8 = 1;
}

/// Bytes and bits of `NET_PACKET_LAYOUT`.
pub(crate) mod layout {
    /// Layer 2 length in bits 0..7, layer 3 length in bits 7..16 of the two bytes from here.
    pub(crate) const HEADER_LENGTHS: usize = 0;
    pub(crate) const LAYER4_LENGTH: usize = 2;
    /// Layer 2 type in the low, layer 3 type in the high four bits.
    pub(crate) const LAYER2_AND_LAYER3_TYPE: usize = 3;
    /// Layer 4 type in the low four bits; the high four are reserved.
    pub(crate) const LAYER4_TYPE: usize = 4;
    pub(crate) const LAYER2_NULL: u8 = 1;
    pub(crate) const LAYER3_UNSPECIFIED: u8 = 0;
    pub(crate) const LAYER3_IPV4_UNSPECIFIED_OPTIONS: u8 = 1;
    pub(crate) const LAYER3_IPV4_NO_OPTIONS: u8 = 3;
    pub(crate) const LAYER3_IPV6_UNSPECIFIED_EXTENSIONS: u8 = 4;
    pub(crate) const LAYER3_IPV6_NO_EXTENSIONS: u8 = 6;
    pub(crate) const LAYER4_UNSPECIFIED: u8 = 0;
}

/// `net/fragment.h`: one word of bit fields, see [`fragment`].
pub(crate) type NET_FRAGMENT = u64;

/// Bit fields of a [`NET_FRAGMENT`].
pub(crate) mod fragment {
    pub(crate) const VALID_LENGTH_SHIFT: u32 = 0;
    pub(crate) const CAPACITY_SHIFT: u32 = 26;
    pub(crate) const OFFSET_SHIFT: u32 = 52;
    /// `ValidLength` and `Capacity` have 26 bits each.
    pub(crate) const LENGTH_MASK: u64 = (1 << 26) - 1;
    pub(crate) const OFFSET_MASK: u64 = (1 << 10) - 1;
    /// `Scratch` and `OsReserved_Bounced`, which are not ours on receive.
    pub(crate) const RESERVED: u64 = 3 << 62;
}

/// `net/extension.h`. `NetExtensionGetData` is `Reserved[0] + index * Reserved[1]`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NET_EXTENSION {
    pub(crate) Reserved: [*mut c_void; 4],
    pub(crate) Enabled: BOOLEAN,
    pub(crate) Padding: [u8; 7],
}

/// `kmdf/adapter/2.1/netadapterpacket.h`.
#[repr(C)]
pub(crate) struct NET_EXTENSION_QUERY {
    pub(crate) Size: ULONG,
    pub(crate) Name: *const u16,
    pub(crate) Version: ULONG,
    pub(crate) Type: i32,
}

pub(crate) const NetExtensionTypePacket: i32 = 1;
pub(crate) const NetExtensionTypeFragment: i32 = 2;

/// `net/checksumtypes.h`: layer 2 in bits 0..2, layer 3 in 2..4, layer 4 in 4..6.
pub(crate) const NetPacketRxChecksumEvaluationNotChecked: u8 = 0;
pub(crate) const NetPacketRxChecksumEvaluationValid: u8 = 1;
pub(crate) const NetPacketRxChecksumEvaluationInvalid: u8 = 2;

/// `kmdf/adapter/2.1/netadapter.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_DATAPATH_CALLBACKS {
    pub(crate) Size: ULONG,
    pub(crate) EvtAdapterCreateTxQueue: PFN_NET_ADAPTER_CREATE_TXQUEUE,
    pub(crate) EvtAdapterCreateRxQueue: PFN_NET_ADAPTER_CREATE_RXQUEUE,
}

/// `kmdf/adapter/2.1/netadapter.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_LINK_LAYER_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) MaxTxLinkSpeed: u64,
    pub(crate) MaxRxLinkSpeed: u64,
}

/// `kmdf/adapter/2.1/netadapter.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_LINK_STATE {
    pub(crate) Size: ULONG,
    pub(crate) TxLinkSpeed: u64,
    pub(crate) RxLinkSpeed: u64,
    pub(crate) MediaConnectState: i32,
    pub(crate) MediaDuplexState: i32,
    pub(crate) SupportedPauseFunctions: i32,
    pub(crate) AutoNegotiationFlags: i32,
}

pub(crate) const MediaConnectStateConnected: i32 = 1;
pub(crate) const MediaConnectStateDisconnected: i32 = 2;
pub(crate) const MediaDuplexStateFull: i32 = 2;
pub(crate) const NetAdapterPauseFunctionTypeUnsupported: i32 = 0;
pub(crate) const NetAdapterAutoNegotiationFlagNone: i32 = 0;

/// `kmdf/adapter/2.1/netadapter.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_TX_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) MappingRequirement: i32,
    pub(crate) PayloadBackfill: usize,
    pub(crate) MaximumNumberOfFragments: usize,
    pub(crate) FragmentBufferAlignment: usize,
    pub(crate) FragmentRingNumberOfElementsHint: u32,
    pub(crate) MaximumNumberOfQueues: usize,
    pub(crate) DmaCapabilities: *mut c_void,
}

pub(crate) const NetMemoryMappingRequirementNone: i32 = 0;
pub(crate) const NET_ADAPTER_FRAGMENT_DEFAULT_ALIGNMENT: usize = 1;

/// `kmdf/adapter/2.1/netadapter.h`, its union in the form for buffers of the driver.
#[repr(C)]
pub(crate) struct NET_ADAPTER_RX_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) AllocationMode: i32,
    pub(crate) AttachmentMode: i32,
    pub(crate) FragmentRingNumberOfElementsHint: u32,
    pub(crate) MaximumFrameSize: usize,
    pub(crate) MaximumNumberOfQueues: usize,
    pub(crate) EvtAdapterReturnRxBuffer: PFN_NET_ADAPTER_RETURN_RX_BUFFER,
    pub(crate) FragmentBufferAlignment: usize,
    pub(crate) DmaCapabilities: *mut c_void,
}

pub(crate) const NetRxFragmentBufferAllocationModeDriver: i32 = 1;
pub(crate) const NetRxFragmentBufferAttachmentModeDriver: i32 = 1;

/// `kmdf/adapter/2.1/netadapteroffload.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) EvtAdapterOffloadSetRxChecksum: PFN_NET_ADAPTER_OFFLOAD_SET_RX_CHECKSUM,
}

/// `kmdf/adapter/2.1/netadapteroffload.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) Layer3Flags: u32,
    pub(crate) Layer4Flags: u32,
    pub(crate) Layer4HeaderOffsetLimit: u16,
    pub(crate) MaximumOffloadSize: usize,
    pub(crate) MinimumSegmentCount: usize,
    pub(crate) EvtAdapterOffloadSetGso: PFN_NET_ADAPTER_OFFLOAD_SET_GSO,
}

pub(crate) const NetAdapterOffloadLayer3FlagIPv4NoOptions: u32 = 1;
pub(crate) const NetAdapterOffloadLayer3FlagIPv4WithOptions: u32 = 2;
pub(crate) const NetAdapterOffloadLayer3FlagIPv6NoExtensions: u32 = 4;
pub(crate) const NetAdapterOffloadLayer4FlagTcpNoOptions: u32 = 1;
pub(crate) const NetAdapterOffloadLayer4FlagTcpWithOptions: u32 = 2;
pub(crate) const NetAdapterOffloadLayer4FlagUdp: u32 = 4;

/// `net/gsotypes.h`, `NET_PACKET_GSO`: a union of the same for TCP and UDP.
pub(crate) mod gso {
    /// `Mss` in bits 0..20, the rest reserved.
    pub(crate) const MSS_MASK: u32 = (1 << 20) - 1;
}

/// `kmdf/adapter/2.1/netreceivescaling.h`.
#[repr(C)]
pub(crate) struct NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES {
    pub(crate) Size: ULONG,
    pub(crate) NumberOfQueues: usize,
    pub(crate) IndirectionTableSize: usize,
    pub(crate) UnhashedTargetIndex: usize,
    pub(crate) UnhashedTargetType: u32,
    pub(crate) ReceiveScalingHashTypes: u32,
    pub(crate) ReceiveScalingProtocolTypes: u32,
    /// Outer and inner.
    pub(crate) ReceiveScalingEncapsulationTypes: [u32; 2],
    pub(crate) SynchronizeSetIndirectionEntries: BOOLEAN,
    pub(crate) EvtAdapterReceiveScalingEnable: PFN_NET_ADAPTER_RECEIVE_SCALING_ENABLE,
    pub(crate) EvtAdapterReceiveScalingDisable: PFN_NET_ADAPTER_RECEIVE_SCALING_DISABLE,
    pub(crate) EvtAdapterReceiveScalingSetHashSecretKey:
        PFN_NET_ADAPTER_RECEIVE_SCALING_SET_HASH_SECRET_KEY,
    pub(crate) EvtAdapterReceiveScalingSetIndirectionEntries:
        PFN_NET_ADAPTER_RECEIVE_SCALING_SET_INDIRECTION_ENTRIES,
}

#[repr(C)]
pub(crate) struct NET_ADAPTER_RECEIVE_SCALING_HASH_SECRET_KEY {
    pub(crate) Key: *const u8,
    pub(crate) Length: usize,
}

#[repr(C)]
pub(crate) struct NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRIES {
    pub(crate) Entries: *mut NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRY,
    pub(crate) Length: usize,
}

#[repr(C)]
pub(crate) struct NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRY {
    pub(crate) PacketQueue: NETPACKETQUEUE,
    pub(crate) Status: NTSTATUS,
    pub(crate) Index: u32,
}

pub(crate) const NetAdapterReceiveScalingUnhashedTargetTypeHashIndex: u32 = 1;
pub(crate) const NetAdapterReceiveScalingHashTypeToeplitz: u32 = 1;
pub(crate) const NetAdapterReceiveScalingProtocolTypeIPv4: u32 = 1;
pub(crate) const NetAdapterReceiveScalingProtocolTypeIPv4Options: u32 = 2;
pub(crate) const NetAdapterReceiveScalingProtocolTypeIPv6: u32 = 4;
pub(crate) const NetAdapterReceiveScalingProtocolTypeTcp: u32 = 16;
pub(crate) const NetAdapterReceiveScalingProtocolTypeUdp: u32 = 32;
pub(crate) const NetAdapterReceiveScalingEncapsulationTypeNone: u32 = 0;

/// `kmdf/adapter/2.1/netpacketqueue.h`.
#[repr(C)]
pub(crate) struct NET_PACKET_QUEUE_CONFIG {
    pub(crate) Size: ULONG,
    pub(crate) EvtStart: Option<PFN_PACKET_QUEUE>,
    pub(crate) EvtStop: Option<PFN_PACKET_QUEUE>,
    pub(crate) EvtAdvance: Option<PFN_PACKET_QUEUE>,
    pub(crate) EvtSetNotificationEnabled: Option<PFN_PACKET_QUEUE_SET_NOTIFICATION_ENABLED>,
    pub(crate) EvtCancel: Option<PFN_PACKET_QUEUE>,
    pub(crate) ExecutionContext: *mut c_void,
}

/// `shared/ifdef.h`: a union of one word.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NET_LUID {
    pub(crate) Value: u64,
}

pub(crate) type PFN_PACKET_QUEUE = unsafe extern "system" fn(NETPACKETQUEUE);
pub(crate) type PFN_PACKET_QUEUE_SET_NOTIFICATION_ENABLED =
    unsafe extern "system" fn(NETPACKETQUEUE, BOOLEAN);
pub(crate) type PFN_NET_ADAPTER_CREATE_TXQUEUE =
    unsafe extern "system" fn(NETADAPTER, *mut NETTXQUEUE_INIT) -> NTSTATUS;
pub(crate) type PFN_NET_ADAPTER_CREATE_RXQUEUE =
    unsafe extern "system" fn(NETADAPTER, *mut NETRXQUEUE_INIT) -> NTSTATUS;
pub(crate) type PFN_NET_ADAPTER_RETURN_RX_BUFFER =
    unsafe extern "system" fn(NETADAPTER, NET_FRAGMENT_RETURN_CONTEXT_HANDLE);
pub(crate) type PFN_NET_ADAPTER_OFFLOAD_SET_RX_CHECKSUM =
    unsafe extern "system" fn(NETADAPTER, NETOFFLOAD);
pub(crate) type PFN_NET_ADAPTER_RECEIVE_SCALING_ENABLE =
    unsafe extern "system" fn(NETADAPTER, u32, u32) -> NTSTATUS;
pub(crate) type PFN_NET_ADAPTER_RECEIVE_SCALING_DISABLE = unsafe extern "system" fn(NETADAPTER);
pub(crate) type PFN_NET_ADAPTER_RECEIVE_SCALING_SET_HASH_SECRET_KEY =
    unsafe extern "system" fn(
        NETADAPTER,
        *const NET_ADAPTER_RECEIVE_SCALING_HASH_SECRET_KEY,
    ) -> NTSTATUS;
pub(crate) type PFN_NET_ADAPTER_RECEIVE_SCALING_SET_INDIRECTION_ENTRIES =
    unsafe extern "system" fn(
        NETADAPTER,
        *mut NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRIES,
    ) -> NTSTATUS;
pub(crate) type PFN_NET_ADAPTER_OFFLOAD_SET_GSO = unsafe extern "system" fn(NETADAPTER, NETOFFLOAD);

const _: () = {
    assert!(size_of::<NET_RING>() == 128 && align_of::<NET_RING>() == 64);
    assert!(offset_of!(NET_RING, ElementStride) == 2);
    assert!(offset_of!(NET_RING, NumberOfElements) == 4);
    assert!(offset_of!(NET_RING, ElementIndexMask) == 8);
    assert!(offset_of!(NET_RING, EndIndex) == 12);
    assert!(offset_of!(NET_RING, OSReserved2) == 16);
    assert!(offset_of!(NET_RING, BeginIndex) == 48);
    assert!(offset_of!(NET_RING, NextIndex) == 52);
    assert!(offset_of!(NET_RING, Scratch) == 56);
    assert!(offset_of!(NET_RING, Buffer) == 64);
    assert!(size_of::<NET_RING_COLLECTION>() == 24);
    assert!(size_of::<NET_PACKET>() == 12 && align_of::<NET_PACKET>() == 4);
    assert!(offset_of!(NET_PACKET, FragmentCount) == 4);
    assert!(offset_of!(NET_PACKET, Layout) == 6);
    assert!(offset_of!(NET_PACKET, Flags) == 11);
    assert!(size_of::<NET_EXTENSION>() == 40 && offset_of!(NET_EXTENSION, Enabled) == 32);
    assert!(size_of::<NET_EXTENSION_QUERY>() == 24);
    assert!(offset_of!(NET_EXTENSION_QUERY, Name) == 8);
    assert!(offset_of!(NET_EXTENSION_QUERY, Version) == 16);
    assert!(offset_of!(NET_EXTENSION_QUERY, Type) == 20);
    assert!(size_of::<NET_LUID>() == 8);
};

const _: () = {
    assert!(size_of::<NET_ADAPTER_DATAPATH_CALLBACKS>() == 24);
    assert!(offset_of!(NET_ADAPTER_DATAPATH_CALLBACKS, EvtAdapterCreateTxQueue) == 8);
    assert!(offset_of!(NET_ADAPTER_DATAPATH_CALLBACKS, EvtAdapterCreateRxQueue) == 16);
    assert!(size_of::<NET_ADAPTER_LINK_LAYER_CAPABILITIES>() == 24);
    assert!(offset_of!(NET_ADAPTER_LINK_LAYER_CAPABILITIES, MaxRxLinkSpeed) == 16);
    assert!(size_of::<NET_ADAPTER_LINK_STATE>() == 40);
    assert!(offset_of!(NET_ADAPTER_LINK_STATE, TxLinkSpeed) == 8);
    assert!(offset_of!(NET_ADAPTER_LINK_STATE, MediaConnectState) == 24);
    assert!(offset_of!(NET_ADAPTER_LINK_STATE, AutoNegotiationFlags) == 36);
    assert!(size_of::<NET_ADAPTER_TX_CAPABILITIES>() == 56);
    assert!(offset_of!(NET_ADAPTER_TX_CAPABILITIES, PayloadBackfill) == 8);
    assert!(offset_of!(NET_ADAPTER_TX_CAPABILITIES, MaximumNumberOfFragments) == 16);
    assert!(offset_of!(NET_ADAPTER_TX_CAPABILITIES, FragmentBufferAlignment) == 24);
    assert!(offset_of!(NET_ADAPTER_TX_CAPABILITIES, FragmentRingNumberOfElementsHint) == 32);
    assert!(offset_of!(NET_ADAPTER_TX_CAPABILITIES, MaximumNumberOfQueues) == 40);
    assert!(size_of::<NET_ADAPTER_RX_CAPABILITIES>() == 56);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, AllocationMode) == 4);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, AttachmentMode) == 8);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, FragmentRingNumberOfElementsHint) == 12);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, MaximumFrameSize) == 16);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, MaximumNumberOfQueues) == 24);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, EvtAdapterReturnRxBuffer) == 32);
    assert!(offset_of!(NET_ADAPTER_RX_CAPABILITIES, FragmentBufferAlignment) == 40);
    assert!(size_of::<NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES>() == 16);
    assert!(size_of::<NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES>() == 40);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, Layer3Flags) == 4);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, Layer4Flags) == 8);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, Layer4HeaderOffsetLimit) == 12);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, MaximumOffloadSize) == 16);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, MinimumSegmentCount) == 24);
    assert!(offset_of!(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES, EvtAdapterOffloadSetGso) == 32);
    assert!(size_of::<NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES>() == 88);
    assert!(
        offset_of!(NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES, SynchronizeSetIndirectionEntries)
            == 52
    );
    assert!(
        offset_of!(NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES, EvtAdapterReceiveScalingEnable) == 56
    );
    assert!(size_of::<NET_ADAPTER_RECEIVE_SCALING_INDIRECTION_ENTRY>() == 16);
    assert!(size_of::<NET_PACKET_QUEUE_CONFIG>() == 56);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, EvtStart) == 8);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, EvtStop) == 16);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, EvtAdvance) == 24);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, EvtSetNotificationEnabled) == 32);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, EvtCancel) == 40);
    assert!(offset_of!(NET_PACKET_QUEUE_CONFIG, ExecutionContext) == 48);
    // The bit fields, against their places in a whole word.
    assert!(fragment::LENGTH_MASK == 0x03FF_FFFF && fragment::OFFSET_MASK == 0x3FF);
    assert!(fragment::CAPACITY_SHIFT == 26 && fragment::OFFSET_SHIFT == 26 + 26);
    assert!(fragment::RESERVED == 0xC000_0000_0000_0000);
};

/// Functions of NetAdapterCx 2.1.
const FUNCTION_COUNT: usize = 122;

/// An entry of the function table before it is cast to its real type.
type NetFunction = Option<unsafe extern "system" fn()>;

/// Written by NetAdapterCx (and the loader) before `DriverEntry`, read by us ever after.
#[repr(transparent)]
struct WrittenByLoader<T>(UnsafeCell<T>);

// SAFETY: the only writes are the loader's, while the class is bound and unbound, and then no code
// of the driver runs.
unsafe impl<T> Sync for WrittenByLoader<T> {}

/// `NetFunctions`: the extension copies the addresses of its functions here.
static NET_FUNCTIONS: WrittenByLoader<[NetFunction; FUNCTION_COUNT]> =
    WrittenByLoader(UnsafeCell::new([None; FUNCTION_COUNT]));

/// `NetDriverGlobals`: the first argument of every function.
static NET_DRIVER_GLOBALS: WrittenByLoader<*mut c_void> =
    WrittenByLoader(UnsafeCell::new(core::ptr::null_mut()));

/// `L"NetAdapterCx"`.
static CLASS_NAME: [u16; 13] = {
    let (text, mut wide, mut at) = (b"NetAdapterCx", [0; 13], 0);
    while at < text.len() {
        wide[at] = text[at] as u16;
        at += 1;
    }
    wide
};

/// `WDF_CLASS_BIND_INFO`, the record of a client whose minimum version is its target version.
#[repr(C)]
struct WDF_CLASS_BIND_INFO {
    Size: ULONG,
    ClassName: *const u16,
    /// Major, minor, build; the build of a stable client is 0.
    Version: [ULONG; 3],
    FunctionTable: *mut NetFunction,
    FunctionTableCount: ULONG,
    ClassBindInfo: *mut c_void,
    ClientBindClass: *const c_void,
    ClientUnbindClass: *const c_void,
    /// The loader's own.
    ClassModule: *mut c_void,
}

const _: () = {
    assert!(size_of::<WDF_CLASS_BIND_INFO>() == 80);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, ClassName) == 8);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, Version) == 16);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, FunctionTable) == 32);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, FunctionTableCount) == 40);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, ClassBindInfo) == 48);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, ClientBindClass) == 56);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, ClientUnbindClass) == 64);
    assert!(offset_of!(WDF_CLASS_BIND_INFO, ClassModule) == 72);
};

/// The record by which the driver's entry stub learns that NetAdapterCx must be bound. The stub
/// walks the section from `$a` to `$c`; ours is the only class, so it is the only record.
#[cfg_attr(windows, unsafe(link_section = ".kmdfclassbind$b"))]
#[used]
static NET_ADAPTER_CX_BIND_INFO: WrittenByLoader<WDF_CLASS_BIND_INFO> =
    WrittenByLoader(UnsafeCell::new(WDF_CLASS_BIND_INFO {
        Size: size_of::<WDF_CLASS_BIND_INFO>() as ULONG,
        ClassName: CLASS_NAME.as_ptr(),
        Version: [2, 1, 0],
        FunctionTable: NET_FUNCTIONS.0.get().cast(),
        FunctionTableCount: FUNCTION_COUNT as ULONG,
        ClassBindInfo: NET_DRIVER_GLOBALS.0.get().cast(),
        ClientBindClass: core::ptr::null(),
        ClientUnbindClass: core::ptr::null(),
        ClassModule: core::ptr::null_mut(),
    }));

/// The entry of the function table at `index`.
///
/// There is none in a build without the class record: the loader binds before `DriverEntry` or does not load the driver.
fn function(index: usize) -> unsafe extern "system" fn() {
    let table = NET_FUNCTIONS.0.get();
    // SAFETY: the loader filled the table before any code of the driver ran, and nobody writes now.
    let entry = unsafe { (*table)[index] };
    entry.unwrap_or_else(|| impossible(Impossible::NotBound))
}

/// `NetDriverGlobals`.
fn globals() -> *mut c_void {
    // SAFETY: as in `function`.
    unsafe { NET_DRIVER_GLOBALS.0.get().read() }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $index:literal $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// What the DDI page of the function asks of its arguments and IRQL.
            pub(crate) unsafe fn $name($($argument: $type),*) $(-> $result)? {
                const { assert!($index < FUNCTION_COUNT) };
                type Function = unsafe extern "system" fn(*mut c_void, $($type),*) $(-> $result)?;
                // SAFETY: the entry at this index has this signature in NetAdapterCx 2.1.
                let call = unsafe { core::mem::transmute::<unsafe extern "system" fn(), Function>(function($index)) };
                // SAFETY: the caller keeps the function's contract.
                unsafe { call(globals(), $($argument),*) }
            }
        )*
        /// Name and index of each function above, for the test against the ABI data.
        #[cfg(test)]
        pub(crate) const INDEXES: &[(&str, usize)] = &[$((stringify!($name), $index)),*];
    };
}

functions! {
    /// Starts the making of an adapter; null if there is no memory. PASSIVE.
    0 NetAdapterInitAllocate(device: WDFDEVICE) -> *mut NETADAPTER_INIT;
    /// Always follows, whether the adapter was created or not. PASSIVE.
    1 NetAdapterInitFree(init: *mut NETADAPTER_INIT);
    /// The two queue callbacks. PASSIVE.
    2 NetAdapterInitSetDatapathCallbacks(init: *mut NETADAPTER_INIT, callbacks: *mut NET_ADAPTER_DATAPATH_CALLBACKS);
    /// Makes the adapter, a child of its device. PASSIVE.
    3 NetAdapterCreate(init: *mut NETADAPTER_INIT, attributes: *mut WDF_OBJECT_ATTRIBUTES, adapter: *mut NETADAPTER) -> NTSTATUS;
    /// Hands the adapter to NDIS. PASSIVE.
    4 NetAdapterStart(adapter: NETADAPTER) -> NTSTATUS;
    /// Takes it back, and returns when NDIS has halted it. PASSIVE.
    5 NetAdapterStop(adapter: NETADAPTER);
    /// Maximum speeds; before the start. PASSIVE.
    6 NetAdapterSetLinkLayerCapabilities(adapter: NETADAPTER, capabilities: *mut NET_ADAPTER_LINK_LAYER_CAPABILITIES);
    /// The MTU, above 0; any time. PASSIVE.
    7 NetAdapterSetLinkLayerMtuSize(adapter: NETADAPTER, mtu: ULONG);
    /// How frames are handed over; before the start. PASSIVE.
    14 NetAdapterSetDataPathCapabilities(adapter: NETADAPTER, tx: *mut NET_ADAPTER_TX_CAPABILITIES, rx: *mut NET_ADAPTER_RX_CAPABILITIES);
    /// Connected or not. `<= DISPATCH_LEVEL`.
    15 NetAdapterSetLinkState(adapter: NETADAPTER, state: *mut NET_ADAPTER_LINK_STATE);
    /// The interface's LUID.
    16 NetAdapterGetNetLuid(adapter: NETADAPTER) -> NET_LUID;
    /// Makes a device ready to carry adapters; before it is created. PASSIVE.
    46 NetDeviceInitConfig(init: PWDFDEVICE_INIT) -> NTSTATUS;
    /// Declares that received flows can be spread over queues. PASSIVE, before the start.
    57 NetAdapterSetReceiveScalingCapabilities(adapter: NETADAPTER, capabilities: *const NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES);
    /// Inside `EvtAdapterCreateRxQueue` only. PASSIVE.
    58 NetRxQueueCreate(init: *mut NETRXQUEUE_INIT, attributes: *mut WDF_OBJECT_ATTRIBUTES, config: *mut NET_PACKET_QUEUE_CONFIG, queue: *mut NETPACKETQUEUE) -> NTSTATUS;
    /// Wakes the queue's execution context.
    59 NetRxQueueNotifyMoreReceivedPacketsAvailable(queue: NETPACKETQUEUE);
    /// The number of the queue that is to be created, from 0 on. Inside `EvtAdapterCreateRxQueue`. PASSIVE.
    60 NetRxQueueInitGetQueueId(init: *mut NETRXQUEUE_INIT) -> ULONG;
    /// The queue's rings. PASSIVE.
    61 NetRxQueueGetRingCollection(queue: NETPACKETQUEUE) -> *const NET_RING_COLLECTION;
    /// Where an extension lies, if it is enabled. PASSIVE.
    62 NetRxQueueGetExtension(queue: NETPACKETQUEUE, query: *const NET_EXTENSION_QUERY, extension: *mut NET_EXTENSION);
    /// Inside `EvtAdapterCreateTxQueue` only. PASSIVE.
    63 NetTxQueueCreate(init: *mut NETTXQUEUE_INIT, attributes: *mut WDF_OBJECT_ATTRIBUTES, config: *mut NET_PACKET_QUEUE_CONFIG, queue: *mut NETPACKETQUEUE) -> NTSTATUS;
    /// Wakes the queue's execution context.
    64 NetTxQueueNotifyMoreCompletedPacketsAvailable(queue: NETPACKETQUEUE);
    /// The queue's rings. PASSIVE.
    66 NetTxQueueGetRingCollection(queue: NETPACKETQUEUE) -> *const NET_RING_COLLECTION;
    /// Where an extension lies, if it is enabled. PASSIVE.
    67 NetTxQueueGetExtension(queue: NETPACKETQUEUE, query: *const NET_EXTENSION_QUERY, extension: *mut NET_EXTENSION);
    /// Declares that received checksums were checked (2.1). PASSIVE, before the start.
    93 NetAdapterOffloadSetRxChecksumCapabilities(adapter: NETADAPTER, capabilities: *const NET_ADAPTER_OFFLOAD_RX_CHECKSUM_CAPABILITIES);
    /// Whether the checksums of IPv4 headers are to be checked (2.1). Inside `EvtAdapterOffloadSetRxChecksum`.
    94 NetOffloadIsRxChecksumIPv4Enabled(offload: NETOFFLOAD) -> BOOLEAN;
    /// Whether those of TCP are (2.1). There.
    95 NetOffloadIsRxChecksumTcpEnabled(offload: NETOFFLOAD) -> BOOLEAN;
    /// Whether those of UDP are (2.1). There.
    96 NetOffloadIsRxChecksumUdpEnabled(offload: NETOFFLOAD) -> BOOLEAN;
    /// Declares what super-packets can be cut (2.1). PASSIVE, before the start.
    97 NetAdapterOffloadSetGsoCapabilities(adapter: NETADAPTER, capabilities: *mut NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    /// The data the indexes were taken from: `function_tables` of the ABI file.
    const ABI: &str = include_str!("../../tests/abi.json");

    #[test]
    fn functions_are_at_their_indexes() {
        let abi: serde_json::Value = serde_json::from_str(ABI).unwrap();
        let table = &abi["function_tables"]["NetAdapterCx_2_1"];
        assert_eq!(table["count"].as_u64(), Some(FUNCTION_COUNT as u64));
        for (name, index) in INDEXES {
            assert_eq!(table["index"][name].as_u64(), Some(*index as u64), "{name}");
        }
    }

    #[test]
    fn the_class_record_is_what_the_loader_reads() {
        // SAFETY: nobody binds in a test, so nobody writes.
        let record = unsafe { &*NET_ADAPTER_CX_BIND_INFO.0.get() };
        assert_eq!((record.Size, record.Version, record.FunctionTableCount), (80, [2, 1, 0], 122));
        // SAFETY: thirteen units, of which the last is the end of the string.
        let name = unsafe { core::slice::from_raw_parts(record.ClassName, 13) };
        assert_eq!(std::string::String::from_utf16(name).unwrap(), "NetAdapterCx\0");
        assert_eq!(record.FunctionTable, NET_FUNCTIONS.0.get().cast());
        assert_eq!(record.ClassBindInfo, NET_DRIVER_GLOBALS.0.get().cast());
    }
}
