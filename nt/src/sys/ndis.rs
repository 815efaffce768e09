//! NET_BUFFER_LISTs and NET_BUFFERs: `km/ndis/nbl.h`, `km/ndis/nblapi.h`, `km/ndis/nbluro.h`, WDK 10.0.26100.
//!
//! A NET_BUFFER_LIST grows from version to version of Windows at its end, so what is declared of it
//! is a beginning: it is pointed to and never made, copied or measured. Exports of `ndis.sys`.
#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use core::{ffi::c_void, mem::offset_of};

use wdk_sys::{NTSTATUS, PMDL};

/// `NDIS_OBJECT_TYPE_DEFAULT`.
pub(crate) const NDIS_OBJECT_TYPE_DEFAULT: u8 = 0x80;
/// `NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1`.
pub(crate) const NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1: u8 = 1;
/// `NET_BUFFER_POOL_PARAMETERS_REVISION_1`.
pub(crate) const NET_BUFFER_POOL_PARAMETERS_REVISION_1: u8 = 1;
/// `UdpRecvSegCoalesceOffloadInfo`: the place of a [`NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO`].
pub(crate) const UDP_COALESCED_INFO: usize = 17;

/// `NDIS_OBJECT_HEADER`.
#[repr(C)]
pub(crate) struct NDIS_OBJECT_HEADER {
    pub(crate) Type: u8,
    pub(crate) Revision: u8,
    pub(crate) Size: u16,
}

/// `NET_BUFFER_LIST_POOL_PARAMETERS`.
#[repr(C)]
pub(crate) struct NET_BUFFER_LIST_POOL_PARAMETERS {
    pub(crate) Header: NDIS_OBJECT_HEADER,
    pub(crate) ProtocolId: u8,
    pub(crate) fAllocateNetBuffer: u8,
    pub(crate) ContextSize: u16,
    pub(crate) PoolTag: u32,
    pub(crate) DataSize: u32,
}

/// `NET_BUFFER_POOL_PARAMETERS`.
#[repr(C)]
pub(crate) struct NET_BUFFER_POOL_PARAMETERS {
    pub(crate) Header: NDIS_OBJECT_HEADER,
    pub(crate) PoolTag: u32,
    pub(crate) DataSize: u32,
}

/// `NET_BUFFER`.
#[repr(C, align(16))]
pub(crate) struct NET_BUFFER {
    pub(crate) Next: *mut NET_BUFFER,
    pub(crate) CurrentMdl: PMDL,
    pub(crate) CurrentMdlOffset: u32,
    pub(crate) Padding: u32,
    pub(crate) DataLength: u32,
    pub(crate) ReservedLength: u32,
    pub(crate) MdlChain: PMDL,
    pub(crate) DataOffset: u32,
    pub(crate) PaddingHeader: u32,
    pub(crate) ChecksumBias: u16,
    pub(crate) Reserved: u16,
    pub(crate) NdisPoolHandle: *mut c_void,
    pub(crate) NdisReserved: [*mut c_void; 2],
    pub(crate) ProtocolReserved: [*mut c_void; 6],
    pub(crate) MiniportReserved: [*mut c_void; 4],
    pub(crate) DataPhysicalAddress: u64,
    pub(crate) SharedMemoryInfo: *mut c_void,
}

/// The beginning of a `NET_BUFFER_LIST`.
#[repr(C, align(16))]
pub(crate) struct NET_BUFFER_LIST {
    pub(crate) Next: *mut NET_BUFFER_LIST,
    pub(crate) FirstNetBuffer: *mut NET_BUFFER,
    pub(crate) Context: *mut c_void,
    pub(crate) ParentNetBufferList: *mut NET_BUFFER_LIST,
    pub(crate) NdisPoolHandle: *mut c_void,
    pub(crate) Padding: u64,
    pub(crate) NdisReserved: [*mut c_void; 2],
    pub(crate) ProtocolReserved: [*mut c_void; 4],
    pub(crate) MiniportReserved: [*mut c_void; 2],
    pub(crate) Scratch: *mut c_void,
    pub(crate) SourceHandle: *mut c_void,
    pub(crate) NblFlags: u32,
    pub(crate) ChildRefCount: i32,
    pub(crate) Flags: u32,
    pub(crate) Status: NTSTATUS,
    pub(crate) NetBufferListInfo: [*mut c_void; 18],
}

/// `NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO`: how a coalesced datagram was put together; all zero
/// when it is a plain one. Windows 11 24H2 and later.
#[repr(C, align(8))]
pub(crate) struct NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO {
    pub(crate) SegCount: u16,
    pub(crate) SegSize: u16,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<NDIS_OBJECT_HEADER>() == 4);
    assert!(size_of::<NET_BUFFER_LIST_POOL_PARAMETERS>() == 16);
    assert!(offset_of!(NET_BUFFER_LIST_POOL_PARAMETERS, PoolTag) == 8);
    assert!(size_of::<NET_BUFFER_POOL_PARAMETERS>() == 12);
    assert!(offset_of!(NET_BUFFER_POOL_PARAMETERS, PoolTag) == 4);
    assert!(size_of::<NET_BUFFER>() == 176);
    assert!(offset_of!(NET_BUFFER, CurrentMdlOffset) == 16);
    assert!(offset_of!(NET_BUFFER, DataLength) == 24);
    assert!(offset_of!(NET_BUFFER, MdlChain) == 32);
    assert!(offset_of!(NET_BUFFER, DataOffset) == 40);
    assert!(offset_of!(NET_BUFFER, NdisPoolHandle) == 56);
    assert!(offset_of!(NET_BUFFER_LIST, FirstNetBuffer) == 8);
    assert!(offset_of!(NET_BUFFER_LIST, ChildRefCount) == 132);
    assert!(offset_of!(NET_BUFFER_LIST, Status) == 140);
    assert!(offset_of!(NET_BUFFER_LIST, NetBufferListInfo) == 144);
    assert!(size_of::<NDIS_UDP_RSC_OFFLOAD_NET_BUFFER_LIST_INFO>() == 8);
};

unsafe extern "system" {
    /// Source: nblapi/nf-nblapi-ndisallocatenetbufferlistpool.
    pub(crate) fn NdisAllocateNetBufferListPool(
        NdisHandle: *mut c_void,
        Parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
    ) -> *mut c_void;
    /// Source: nblapi/nf-nblapi-ndisfreenetbufferlistpool.
    pub(crate) fn NdisFreeNetBufferListPool(PoolHandle: *mut c_void);
    /// Source: nblapi/nf-nblapi-ndisallocatenetbufferpool.
    pub(crate) fn NdisAllocateNetBufferPool(
        NdisHandle: *mut c_void,
        Parameters: *const NET_BUFFER_POOL_PARAMETERS,
    ) -> *mut c_void;
    /// Source: nblapi/nf-nblapi-ndisfreenetbufferpool.
    pub(crate) fn NdisFreeNetBufferPool(PoolHandle: *mut c_void);
    /// Source: nblapi/nf-nblapi-ndisallocatenetbuffer.
    pub(crate) fn NdisAllocateNetBuffer(
        PoolHandle: *mut c_void,
        MdlChain: PMDL,
        DataOffset: u32,
        DataLength: usize,
    ) -> *mut NET_BUFFER;
    /// Source: nblapi/nf-nblapi-ndisfreenetbuffer.
    pub(crate) fn NdisFreeNetBuffer(NetBuffer: *mut NET_BUFFER);
    /// Source: nblapi/nf-nblapi-ndisgetdatabuffer.
    pub(crate) fn NdisGetDataBuffer(
        NetBuffer: *mut NET_BUFFER,
        BytesNeeded: u32,
        Storage: *mut c_void,
        AlignMultiple: u32,
        AlignOffset: u32,
    ) -> *mut c_void;
    /// Source: nblapi/nf-nblapi-ndisretreatnetbufferdatastart.
    pub(crate) fn NdisRetreatNetBufferDataStart(
        NetBuffer: *mut NET_BUFFER,
        DataOffsetDelta: u32,
        DataBackFill: u32,
        AllocateMdlHandler: *const c_void,
    ) -> NTSTATUS;
    /// Source: nblapi/nf-nblapi-ndisadvancenetbufferdatastart.
    pub(crate) fn NdisAdvanceNetBufferDataStart(
        NetBuffer: *mut NET_BUFFER,
        DataOffsetDelta: u32,
        FreeMdl: u8,
        FreeMdlHandler: *const c_void,
    );
}
