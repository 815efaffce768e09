//! Winsock Kernel's own structures and routines: `km/wsk.h`, WDK 10.0.26100.
//!
//! Only what a datagram client uses is declared with its true type; a routine or field that is never
//! used is a pointer, so that the layout stays whole. `wdk-sys` has none of this.
//!
//! Exports of `netio.sys`.
#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use core::{ffi::c_void, mem::offset_of};

use wdk_sys::{NTSTATUS, PIRP, PMDL};

/// `MAKE_WSK_VERSION(1, 0)`.
pub(crate) const WSK_VERSION_1_0: u16 = 0x0100;
/// `WSK_FLAG_DATAGRAM_SOCKET`.
pub(crate) const WSK_FLAG_DATAGRAM_SOCKET: u32 = 4;
/// `WSK_TDI_BEHAVIOR`: a control code of the client object.
pub(crate) const WSK_TDI_BEHAVIOR: u32 = 8;
/// `WSK_TDI_BEHAVIOR_BYPASS_TDI`.
pub(crate) const WSK_TDI_BEHAVIOR_BYPASS_TDI: u32 = 1;
/// `WSK_EVENT_RECEIVE_FROM`.
pub(crate) const WSK_EVENT_RECEIVE_FROM: u32 = 0x100;
/// `WskSetOption` of `WSK_CONTROL_SOCKET_TYPE`.
pub(crate) const WSK_SET_OPTION: i32 = 0;
/// `WskGetOption` of `WSK_CONTROL_SOCKET_TYPE`.
pub(crate) const WSK_GET_OPTION: i32 = 1;

/// `SOCK_DGRAM`.
pub(crate) const SOCK_DGRAM: u16 = 2;
/// `IPPROTO_UDP`.
pub(crate) const IPPROTO_UDP: u32 = 17;
/// `IPPROTO_IP`.
pub(crate) const IPPROTO_IP: u32 = 0;
/// `IPPROTO_IPV6`.
pub(crate) const IPPROTO_IPV6: u32 = 41;
/// `SOL_SOCKET`.
pub(crate) const SOL_SOCKET: u32 = 0xFFFF;
/// `SO_EXCLUSIVEADDRUSE`, `(int)(~SO_REUSEADDR)`.
pub(crate) const SO_EXCLUSIVEADDRUSE: u32 = 0xFFFF_FFFB;
/// `SO_WSK_EVENT_CALLBACK`.
pub(crate) const SO_WSK_EVENT_CALLBACK: u32 = 0x4002;
/// `IPV6_V6ONLY`.
pub(crate) const IPV6_V6ONLY: u32 = 27;
/// `IPV6_TCLASS`.
pub(crate) const IPV6_TCLASS: u32 = 39;
/// `IP_PKTINFO` and `IPV6_PKTINFO`.
pub(crate) const PKTINFO: u32 = 19;
/// `IP_RECVECN` and `IPV6_RECVECN`.
pub(crate) const RECVECN: u32 = 50;
/// `UDP_SEND_MSG_SIZE`.
pub(crate) const UDP_SEND_MSG_SIZE: u32 = 2;
/// `UDP_RECV_MAX_COALESCED_SIZE`.
pub(crate) const UDP_RECV_MAX_COALESCED_SIZE: u32 = 3;

/// `GUID`, the type of an `NPIID`. `shared/guiddef.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct GUID {
    pub(crate) Data1: u32,
    pub(crate) Data2: u16,
    pub(crate) Data3: u16,
    pub(crate) Data4: [u8; 8],
}

/// `NPI_WSK_INTERFACE_ID`, {2227E803-8D8B-11D4-ABAD-009027719E09}.
pub(crate) static NPI_WSK_INTERFACE_ID: GUID = GUID {
    Data1: 0x2227_E803,
    Data2: 0x8D8B,
    Data3: 0x11D4,
    Data4: [0xAB, 0xAD, 0x00, 0x90, 0x27, 0x71, 0x9E, 0x09],
};

/// `WSK_CLIENT_DISPATCH`.
#[repr(C)]
pub(crate) struct WSK_CLIENT_DISPATCH {
    pub(crate) Version: u16,
    pub(crate) Reserved: u16,
    /// `PFN_WSK_CLIENT_EVENT`; none for a client that wants no client-level events.
    pub(crate) WskClientEvent:
        Option<unsafe extern "C" fn(*mut c_void, u32, *mut c_void, usize) -> NTSTATUS>,
}

/// `WSK_CLIENT_NPI`.
#[repr(C)]
pub(crate) struct WSK_CLIENT_NPI {
    pub(crate) ClientContext: *mut c_void,
    pub(crate) Dispatch: *const WSK_CLIENT_DISPATCH,
}

/// `WSK_REGISTRATION`. WSK's own; never moved while registered.
#[repr(C)]
pub(crate) struct WSK_REGISTRATION {
    pub(crate) ReservedRegistrationState: u64,
    pub(crate) ReservedRegistrationContext: *mut c_void,
    pub(crate) ReservedRegistrationLock: usize,
}

/// `WSK_CLIENT`: opaque.
#[repr(C)]
pub(crate) struct WSK_CLIENT {
    opaque: [u8; 0],
}

/// `WSK_PROVIDER_NPI`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct WSK_PROVIDER_NPI {
    pub(crate) Client: *mut WSK_CLIENT,
    pub(crate) Dispatch: *const WSK_PROVIDER_DISPATCH,
}

/// `PFN_WSK_SOCKET`. `AddressFamily, SocketType, Protocol, Flags, SocketContext, Dispatch,
/// OwningProcess, OwningThread, SecurityDescriptor, Irp`.
pub(crate) type PFN_WSK_SOCKET = unsafe extern "C" fn(
    *mut WSK_CLIENT,
    u16,
    u16,
    u32,
    u32,
    *mut c_void,
    *const c_void,
    *mut c_void,
    *mut c_void,
    *mut c_void,
    PIRP,
) -> NTSTATUS;

/// `PFN_WSK_CONTROL_CLIENT`.
pub(crate) type PFN_WSK_CONTROL_CLIENT = unsafe extern "C" fn(
    *mut WSK_CLIENT,
    u32,
    usize,
    *mut c_void,
    usize,
    *mut c_void,
    *mut usize,
    PIRP,
) -> NTSTATUS;

/// `WSK_PROVIDER_DISPATCH`.
#[repr(C)]
pub(crate) struct WSK_PROVIDER_DISPATCH {
    pub(crate) Version: u16,
    pub(crate) Reserved: u16,
    pub(crate) WskSocket: PFN_WSK_SOCKET,
    pub(crate) WskSocketConnect: *const c_void,
    pub(crate) WskControlClient: PFN_WSK_CONTROL_CLIENT,
    pub(crate) WskGetAddressInfo: *const c_void,
    pub(crate) WskFreeAddressInfo: *const c_void,
    pub(crate) WskGetNameInfo: *const c_void,
}

/// `WSK_SOCKET`, as its creator sees it. The real object is longer.
#[repr(C)]
pub(crate) struct WSK_SOCKET {
    /// For a datagram socket, a [`WSK_PROVIDER_DATAGRAM_DISPATCH`].
    pub(crate) Dispatch: *const WSK_PROVIDER_DATAGRAM_DISPATCH,
}

/// `SOCKADDR_INET`: a `SOCKADDR_IN` or a `SOCKADDR_IN6`, told apart by the first field.
///
/// Kept as bytes; who makes and reads addresses knows both layouts. `shared/ws2ipdef.h`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SOCKADDR_INET(pub [u8; 28]);

/// `PFN_WSK_CONTROL_SOCKET`. `RequestType, ControlCode, Level, InputSize, InputBuffer, OutputSize,
/// OutputBuffer, OutputSizeReturned, Irp`.
pub(crate) type PFN_WSK_CONTROL_SOCKET = unsafe extern "C" fn(
    *mut WSK_SOCKET,
    i32,
    u32,
    u32,
    usize,
    *mut c_void,
    usize,
    *mut c_void,
    *mut usize,
    PIRP,
) -> NTSTATUS;

/// `PFN_WSK_CLOSE_SOCKET`.
pub(crate) type PFN_WSK_CLOSE_SOCKET = unsafe extern "C" fn(*mut WSK_SOCKET, PIRP) -> NTSTATUS;

/// `PFN_WSK_BIND`. `LocalAddress, Flags, Irp`.
pub(crate) type PFN_WSK_BIND =
    unsafe extern "C" fn(*mut WSK_SOCKET, *mut SOCKADDR_INET, u32, PIRP) -> NTSTATUS;

/// `PFN_WSK_GET_LOCAL_ADDRESS`.
pub(crate) type PFN_WSK_GET_LOCAL_ADDRESS =
    unsafe extern "C" fn(*mut WSK_SOCKET, *mut SOCKADDR_INET, PIRP) -> NTSTATUS;

/// `PFN_WSK_RELEASE_DATAGRAM_INDICATION_LIST`.
pub(crate) type PFN_WSK_RELEASE_DATAGRAM_INDICATION_LIST =
    unsafe extern "C" fn(*mut WSK_SOCKET, *mut WSK_DATAGRAM_INDICATION) -> NTSTATUS;

/// `PFN_WSK_SEND_MESSAGES`. `BufferList, Flags, RemoteAddress, ControlInfoLength, ControlInfo, Irp`.
pub(crate) type PFN_WSK_SEND_MESSAGES = unsafe extern "C" fn(
    *mut WSK_SOCKET,
    *mut WSK_BUF_LIST,
    u32,
    *mut SOCKADDR_INET,
    u32,
    *mut c_void,
    PIRP,
) -> NTSTATUS;

/// `WSK_PROVIDER_DATAGRAM_DISPATCH`, with the `WSK_PROVIDER_BASIC_DISPATCH` it begins with.
#[repr(C)]
pub(crate) struct WSK_PROVIDER_DATAGRAM_DISPATCH {
    pub(crate) WskControlSocket: PFN_WSK_CONTROL_SOCKET,
    pub(crate) WskCloseSocket: PFN_WSK_CLOSE_SOCKET,
    pub(crate) WskBind: PFN_WSK_BIND,
    pub(crate) WskSendTo: *const c_void,
    pub(crate) WskReceiveFrom: *const c_void,
    pub(crate) WskRelease: PFN_WSK_RELEASE_DATAGRAM_INDICATION_LIST,
    pub(crate) WskGetLocalAddress: PFN_WSK_GET_LOCAL_ADDRESS,
    pub(crate) WskSendMessages: PFN_WSK_SEND_MESSAGES,
}

/// `PFN_WSK_RECEIVE_FROM_EVENT`. `SocketContext, Flags, DataIndication`.
pub(crate) type PFN_WSK_RECEIVE_FROM_EVENT =
    unsafe extern "C" fn(*mut c_void, u32, *mut WSK_DATAGRAM_INDICATION) -> NTSTATUS;

/// `WSK_CLIENT_DATAGRAM_DISPATCH`.
#[repr(C)]
pub(crate) struct WSK_CLIENT_DATAGRAM_DISPATCH {
    pub(crate) WskReceiveFromEvent: PFN_WSK_RECEIVE_FROM_EVENT,
}

/// `WSK_BUF`. `Offset` is into the first MDL; `Length` may end before the chain does.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct WSK_BUF {
    pub(crate) Mdl: PMDL,
    pub(crate) Offset: u32,
    pub(crate) Length: usize,
}

/// `WSK_BUF_LIST`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct WSK_BUF_LIST {
    pub(crate) Next: *mut WSK_BUF_LIST,
    pub(crate) Buffer: WSK_BUF,
}

/// `WSK_DATAGRAM_INDICATION`.
#[repr(C)]
pub(crate) struct WSK_DATAGRAM_INDICATION {
    pub(crate) Next: *mut WSK_DATAGRAM_INDICATION,
    pub(crate) Buffer: WSK_BUF,
    pub(crate) ControlInfo: *const u8,
    pub(crate) ControlInfoLength: u32,
    /// A `SOCKADDR_IN` or `SOCKADDR_IN6`, no longer than its family says.
    pub(crate) RemoteAddress: *const u8,
}

/// `WSK_EVENT_CALLBACK_CONTROL`.
#[repr(C)]
pub(crate) struct WSK_EVENT_CALLBACK_CONTROL {
    pub(crate) NpiId: *const GUID,
    pub(crate) EventMask: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<GUID>() == 16);
    assert!(offset_of!(GUID, Data4) == 8);
    assert!(size_of::<WSK_CLIENT_DISPATCH>() == 16);
    assert!(offset_of!(WSK_CLIENT_DISPATCH, WskClientEvent) == 8);
    assert!(size_of::<WSK_CLIENT_NPI>() == 16);
    assert!(offset_of!(WSK_CLIENT_NPI, Dispatch) == 8);
    assert!(size_of::<WSK_REGISTRATION>() == 24);
    assert!(offset_of!(WSK_REGISTRATION, ReservedRegistrationLock) == 16);
    assert!(size_of::<WSK_PROVIDER_NPI>() == 16);
    assert!(offset_of!(WSK_PROVIDER_NPI, Dispatch) == 8);
    assert!(size_of::<WSK_PROVIDER_DISPATCH>() == 56);
    assert!(offset_of!(WSK_PROVIDER_DISPATCH, WskSocket) == 8);
    assert!(offset_of!(WSK_PROVIDER_DISPATCH, WskControlClient) == 24);
    assert!(size_of::<WSK_SOCKET>() == 8);
    assert!(size_of::<SOCKADDR_INET>() == 28);
    assert!(align_of::<SOCKADDR_INET>() == 4);
    assert!(size_of::<WSK_PROVIDER_DATAGRAM_DISPATCH>() == 64);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskControlSocket) == 0);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskCloseSocket) == 8);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskBind) == 16);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskRelease) == 40);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskGetLocalAddress) == 48);
    assert!(offset_of!(WSK_PROVIDER_DATAGRAM_DISPATCH, WskSendMessages) == 56);
    assert!(size_of::<WSK_CLIENT_DATAGRAM_DISPATCH>() == 8);
    assert!(size_of::<WSK_BUF>() == 24);
    assert!(offset_of!(WSK_BUF, Offset) == 8);
    assert!(offset_of!(WSK_BUF, Length) == 16);
    assert!(size_of::<WSK_BUF_LIST>() == 32);
    assert!(offset_of!(WSK_BUF_LIST, Buffer) == 8);
    assert!(size_of::<WSK_DATAGRAM_INDICATION>() == 56);
    assert!(offset_of!(WSK_DATAGRAM_INDICATION, Buffer) == 8);
    assert!(offset_of!(WSK_DATAGRAM_INDICATION, ControlInfo) == 32);
    assert!(offset_of!(WSK_DATAGRAM_INDICATION, ControlInfoLength) == 40);
    assert!(offset_of!(WSK_DATAGRAM_INDICATION, RemoteAddress) == 48);
    assert!(size_of::<WSK_EVENT_CALLBACK_CONTROL>() == 16);
    assert!(offset_of!(WSK_EVENT_CALLBACK_CONTROL, EventMask) == 8);
};

unsafe extern "C" {
    /// Source: wsk/nf-wsk-wskregister.
    pub(crate) fn WskRegister(
        client_npi: *mut WSK_CLIENT_NPI,
        registration: *mut WSK_REGISTRATION,
    ) -> NTSTATUS;
    /// Source: wsk/nf-wsk-wskcaptureprovidernpi.
    pub(crate) fn WskCaptureProviderNPI(
        registration: *mut WSK_REGISTRATION,
        wait_milliseconds: u32,
        provider_npi: *mut WSK_PROVIDER_NPI,
    ) -> NTSTATUS;
    /// Source: wsk/nf-wsk-wskreleaseprovidernpi.
    pub(crate) fn WskReleaseProviderNPI(registration: *mut WSK_REGISTRATION);
    /// Source: wsk/nf-wsk-wskderegister.
    pub(crate) fn WskDeregister(registration: *mut WSK_REGISTRATION);
}
