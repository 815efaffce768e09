//! The IP helper in the kernel: `shared/netioapi.h`, WDK 10.0.26100.
//!
//! Exports of `netio.sys`; all of it at `PASSIVE_LEVEL`. Fields that are never used are bytes, so
//! that the layout stays whole. `wdk-sys` has none of this.
#![allow(non_camel_case_types, non_snake_case)]

use core::{ffi::c_void, mem::offset_of};

use wdk_sys::NTSTATUS;

use super::wsk::SOCKADDR_INET;

/// `IP_ADDRESS_PREFIX`.
#[repr(C)]
pub(crate) struct IP_ADDRESS_PREFIX {
    pub(crate) Prefix: SOCKADDR_INET,
    pub(crate) PrefixLength: u8,
}

/// `MIB_IPFORWARD_ROW2`.
#[repr(C)]
pub(crate) struct MIB_IPFORWARD_ROW2 {
    /// A `NET_LUID`.
    pub(crate) InterfaceLuid: u64,
    pub(crate) InterfaceIndex: u32,
    pub(crate) DestinationPrefix: IP_ADDRESS_PREFIX,
    pub(crate) NextHop: SOCKADDR_INET,
    pub(crate) SitePrefixLength: u8,
    pub(crate) ValidLifetime: u32,
    pub(crate) PreferredLifetime: u32,
    pub(crate) Metric: u32,
    pub(crate) Protocol: i32,
    pub(crate) Loopback: u8,
    pub(crate) AutoconfigureAddress: u8,
    pub(crate) Publish: u8,
    pub(crate) Immortal: u8,
    pub(crate) Age: u32,
    pub(crate) Origin: i32,
}

/// `MIB_IPFORWARD_TABLE2`. `Table` has `NumEntries` rows.
#[repr(C)]
pub(crate) struct MIB_IPFORWARD_TABLE2 {
    pub(crate) NumEntries: u32,
    pub(crate) Table: [MIB_IPFORWARD_ROW2; 1],
}

/// `MIB_IPINTERFACE_ROW`.
#[repr(C)]
pub(crate) struct MIB_IPINTERFACE_ROW {
    pub(crate) Family: u16,
    /// A `NET_LUID`.
    pub(crate) InterfaceLuid: u64,
    pub(crate) InterfaceIndex: u32,
    /// `MaxReassemblySize` to `SitePrefixLength`.
    pub(crate) Unused: [u32; 32],
    pub(crate) Metric: u32,
    pub(crate) NlMtu: u32,
    pub(crate) Connected: u8,
    /// `SupportsWakeUpPatterns` to `DisableDefaultRoutes`.
    pub(crate) UnusedFlags: [u8; 11],
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<IP_ADDRESS_PREFIX>() == 32);
    assert!(offset_of!(IP_ADDRESS_PREFIX, PrefixLength) == 28);
    assert!(size_of::<MIB_IPFORWARD_ROW2>() == 104);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, InterfaceIndex) == 8);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, DestinationPrefix) == 12);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, NextHop) == 44);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, SitePrefixLength) == 72);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, Metric) == 84);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, Loopback) == 92);
    assert!(offset_of!(MIB_IPFORWARD_ROW2, Origin) == 100);
    assert!(size_of::<MIB_IPFORWARD_TABLE2>() == 112);
    assert!(offset_of!(MIB_IPFORWARD_TABLE2, Table) == 8);
    assert!(size_of::<MIB_IPINTERFACE_ROW>() == 168);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, InterfaceLuid) == 8);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, InterfaceIndex) == 16);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, Unused) == 20);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, Metric) == 148);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, NlMtu) == 152);
    assert!(offset_of!(MIB_IPINTERFACE_ROW, Connected) == 156);
};

/// `PIPFORWARD_CHANGE_CALLBACK`. `CallerContext, Row, NotificationType`.
pub(crate) type PIPFORWARD_CHANGE_CALLBACK =
    unsafe extern "C" fn(*mut c_void, *mut MIB_IPFORWARD_ROW2, i32);

/// `PIPINTERFACE_CHANGE_CALLBACK`. `CallerContext, Row, NotificationType`.
pub(crate) type PIPINTERFACE_CHANGE_CALLBACK =
    unsafe extern "C" fn(*mut c_void, *mut MIB_IPINTERFACE_ROW, i32);

unsafe extern "C" {
    /// Source: network/getipforwardtable2.
    pub(crate) fn GetIpForwardTable2(
        family: u16,
        table: *mut *mut MIB_IPFORWARD_TABLE2,
    ) -> NTSTATUS;
    /// Source: network/getbestroute2. `luid, index, source, destination, options, route, source`.
    pub(crate) fn GetBestRoute2(
        luid: *const u64,
        index: u32,
        source: *const SOCKADDR_INET,
        destination: *const SOCKADDR_INET,
        sort_options: u32,
        best_route: *mut MIB_IPFORWARD_ROW2,
        best_source: *mut SOCKADDR_INET,
    ) -> NTSTATUS;
    /// Source: network/getipinterfaceentry.
    pub(crate) fn GetIpInterfaceEntry(row: *mut MIB_IPINTERFACE_ROW) -> NTSTATUS;
    /// Source: network/freemibtable.
    pub(crate) fn FreeMibTable(memory: *mut c_void);
    /// Source: network/notifyroutechange2.
    pub(crate) fn NotifyRouteChange2(
        family: u16,
        callback: PIPFORWARD_CHANGE_CALLBACK,
        context: *mut c_void,
        initial_notification: u8,
        handle: *mut *mut c_void,
    ) -> NTSTATUS;
    /// Source: network/notifyipinterfacechange.
    pub(crate) fn NotifyIpInterfaceChange(
        family: u16,
        callback: PIPINTERFACE_CHANGE_CALLBACK,
        context: *mut c_void,
        initial_notification: u8,
        handle: *mut *mut c_void,
    ) -> NTSTATUS;
    /// Source: network/cancelmibchangenotify2.
    pub(crate) fn CancelMibChangeNotify2(handle: *mut c_void) -> NTSTATUS;
}
