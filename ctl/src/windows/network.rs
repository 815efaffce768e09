//! The IP stack's part of an adapter: addresses, routes, MTU and metric.
//!
//! None of it is kept over a restart of Windows, nor when the adapter goes; MTU and metric may be, and are set each time.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/netioapi/>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::null_mut;
use std::{io, slice};

use windows_sys::Win32::Foundation::{ERROR_NOT_FOUND, ERROR_OBJECT_ALREADY_EXISTS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CreateIpForwardEntry2, CreateUnicastIpAddressEntry, DeleteIpForwardEntry2,
    DeleteUnicastIpAddressEntry, FreeMibTable, GetIfEntry2, GetIpForwardTable2,
    GetIpInterfaceTable, GetUnicastIpAddressEntry, InitializeIpForwardEntry,
    InitializeUnicastIpAddressEntry, MIB_IF_ROW2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW,
    MIB_UNICASTIPADDRESS_ROW, SetIpInterfaceEntry,
};
use windows_sys::Win32::NetworkManagement::Ndis::{IfOperStatusUp, NET_LUID_LH};
use windows_sys::Win32::Networking::WinSock::{
    ADDRESS_FAMILY, AF_INET, AF_INET6, IN_ADDR, IN_ADDR_0, IN6_ADDR, IN6_ADDR_0,
    IpDadStatePreferred, RouterDiscoveryDisabled, SOCKADDR_IN, SOCKADDR_IN6, SOCKADDR_INET,
};

use crate::config::Prefix;
use crate::tunnel::system::{Before, Interface};

/// The least MTU of IPv6. [RFC 8200 §5]
const IPV6_MTU_MIN: u32 = 1280;

/// The families, as Windows numbers them.
const FAMILIES: [ADDRESS_FAMILY; 2] = [AF_INET, AF_INET6];

/// The number of an interface, by which the stack knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Luid(pub(super) u64);

impl Luid {
    fn sys(self) -> NET_LUID_LH {
        NET_LUID_LH { Value: self.0 }
    }

    /// Whether this is the interface's number.
    fn is(self, luid: NET_LUID_LH) -> bool {
        self == Self::of(luid)
    }

    pub(super) fn of(luid: NET_LUID_LH) -> Self {
        // SAFETY: every bit of the union is the number.
        Self(unsafe { luid.Value })
    }

    /// Whether the stack has it, with every family that there is.
    pub(super) fn is_known(self) -> io::Result<bool> {
        for family in FAMILIES {
            // A family that is switched off has no interfaces.
            let all = ip_interfaces(family)?;
            if !all.is_empty() && !all.iter().any(|row| self.is(row.InterfaceLuid)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The largest MTU that the adapter takes.
    pub(super) fn largest_mtu(self) -> io::Result<u16> {
        Ok(u16::try_from(adapter(self)?.Mtu).unwrap_or(u16::MAX))
    }

    /// MTU and metric; of IPv4, or of IPv6 alone.
    pub(super) fn interface(self) -> io::Result<Interface> {
        let row = self.rows()?.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        let mtu = u16::try_from(row.NlMtu).unwrap_or(u16::MAX);
        Ok(Interface { mtu, first: !row.UseAutomaticMetric && row.Metric == 0 })
    }

    /// Sets both families, as far as they are there. No router is looked for, and no duplicate of an address: nobody else is there.
    pub(super) fn set_interface(self, interface: Interface) -> io::Result<()> {
        for mut row in self.rows()? {
            row.NlMtu = interface.mtu.into();
            if row.Family == AF_INET6 {
                row.NlMtu = row.NlMtu.max(IPV6_MTU_MIN);
            } else {
                // What is read here cannot be set.
                row.SitePrefixLength = 0;
            }
            row.UseAutomaticMetric = !interface.first;
            if interface.first {
                row.Metric = 0;
            }
            row.RouterDiscoveryBehavior = RouterDiscoveryDisabled;
            row.DadTransmits = 0;
            row.ManagedAddressConfigurationSupported = false;
            row.OtherStatefulConfigurationSupported = false;
            // SAFETY: a row that the stack made.
            super::checked(unsafe { SetIpInterfaceEntry(&raw mut row) })?;
        }
        Ok(())
    }

    fn rows(self) -> io::Result<Vec<MIB_IPINTERFACE_ROW>> {
        let mut rows = Vec::new();
        for family in FAMILIES {
            let mut all = ip_interfaces(family)?;
            all.retain(|row| self.is(row.InterfaceLuid));
            rows.extend(all);
        }
        Ok(rows)
    }

    /// Gives it an address, which is not looked for elsewhere first.
    pub(super) fn add_address(self, address: Prefix) -> io::Result<Before> {
        let mut row = self.address(address);
        row.DadState = IpDadStatePreferred;
        // SAFETY: a row that was initialised.
        match unsafe { CreateUnicastIpAddressEntry(&raw const row) } {
            ERROR_OBJECT_ALREADY_EXISTS => {
                // SAFETY: a row with an address and an interface.
                let read = unsafe { GetUnicastIpAddressEntry(&raw mut row) };
                let is_same = read == 0 && row.OnLinkPrefixLength == address.length;
                if is_same {
                    return Ok(Before::There);
                }
                let why = "this machine has the address already, on another interface or with another prefix";
                Err(io::Error::other(why))
            }
            code => super::checked(code).map(|()| Before::Absent),
        }
    }

    /// Takes it.
    pub(super) fn remove_address(self, address: Prefix) -> io::Result<()> {
        let row = self.address(address);
        // SAFETY: a row that was initialised.
        gone(unsafe { DeleteUnicastIpAddressEntry(&raw const row) })
    }

    fn address(self, address: Prefix) -> MIB_UNICASTIPADDRESS_ROW {
        let mut row = MIB_UNICASTIPADDRESS_ROW::default();
        // SAFETY: a place for a row.
        unsafe { InitializeUnicastIpAddressEntry(&raw mut row) };
        row.InterfaceLuid = self.sys();
        row.Address = socket_address(address.address);
        row.OnLinkPrefixLength = address.length;
        row
    }

    /// Makes a route through it.
    pub(super) fn add_route(self, route: Prefix) -> io::Result<Before> {
        let row = self.route(route);
        // SAFETY: a row that was initialised.
        match unsafe { CreateIpForwardEntry2(&raw const row) } {
            ERROR_OBJECT_ALREADY_EXISTS => Ok(Before::There),
            code => super::checked(code).map(|()| Before::Absent),
        }
    }

    /// Removes it.
    pub(super) fn remove_route(self, route: Prefix) -> io::Result<()> {
        let row = self.route(route);
        // SAFETY: a row that was initialised.
        gone(unsafe { DeleteIpForwardEntry2(&raw const row) })
    }

    fn route(self, route: Prefix) -> MIB_IPFORWARD_ROW2 {
        let mut row = MIB_IPFORWARD_ROW2::default();
        // SAFETY: a place for a row.
        unsafe { InitializeIpForwardEntry(&raw mut row) };
        row.InterfaceLuid = self.sys();
        row.DestinationPrefix.Prefix = socket_address(route.address);
        row.DestinationPrefix.PrefixLength = route.length;
        row.NextHop = socket_address(match route.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        row.Metric = 0;
        row
    }
}

/// The least MTU of the interfaces that the default routes of both families leave by, but for those of `beside`.
pub(super) fn default_mtu(beside: Option<Luid>) -> io::Result<Option<u16>> {
    let mut least: Option<u32> = None;
    for family in FAMILIES {
        let interfaces = ip_interfaces(family)?;
        let mut best: Option<(u64, u32)> = None;
        for route in routes(family)? {
            let luid = Luid::of(route.InterfaceLuid);
            if route.DestinationPrefix.PrefixLength != 0
                || beside == Some(luid)
                || adapter(luid)?.OperStatus != IfOperStatusUp
            {
                continue;
            }
            let Some(row) = interfaces.iter().find(|row| luid.is(row.InterfaceLuid)) else {
                continue;
            };
            let metric = u64::from(route.Metric) + u64::from(row.Metric);
            if best.is_none_or(|(other, _)| metric < other) {
                best = Some((metric, row.NlMtu));
            }
        }
        least = least.into_iter().chain(best.map(|(_, mtu)| mtu)).min();
    }
    Ok(least.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)))
}

/// What was not there is gone.
fn gone(code: u32) -> io::Result<()> {
    if code == ERROR_NOT_FOUND { Ok(()) } else { super::checked(code) }
}

fn adapter(luid: Luid) -> io::Result<MIB_IF_ROW2> {
    let mut row = MIB_IF_ROW2 { InterfaceLuid: luid.sys(), ..MIB_IF_ROW2::default() };
    // SAFETY: a row that says which.
    super::checked(unsafe { GetIfEntry2(&raw mut row) })?;
    Ok(row)
}

/// A table of IP Helper's, which is freed.
struct Table<T>(*mut T);

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the stack's, which the caller is to free; nothing looks at it any more.
        unsafe { FreeMibTable(self.0.cast()) };
    }
}

/// The rows of a table that `get` has the stack make; none, if there is nothing of the kind. `rows` says how many there are, and where.
fn rows_of<T, R: Clone>(
    get: impl FnOnce(*mut *mut T) -> u32,
    rows: impl FnOnce(*const T) -> (u32, *const R),
) -> io::Result<Vec<R>> {
    let mut table = null_mut();
    match get(&raw mut table) {
        ERROR_NOT_FOUND => return Ok(Vec::new()),
        code => super::checked(code)?,
    }
    let table = Table(table);
    let (count, first) = rows(table.0);
    // SAFETY: so many rows are there from the first on, until the table is freed.
    Ok(unsafe { slice::from_raw_parts(first, count as usize) }.to_vec())
}

fn ip_interfaces(family: ADDRESS_FAMILY) -> io::Result<Vec<MIB_IPINTERFACE_ROW>> {
    rows_of(
        // SAFETY: a number, and a place for the table.
        |table| unsafe { GetIpInterfaceTable(family, table) },
        |table| {
            // SAFETY: a place in the table; nothing is read.
            let first = unsafe { &raw const (*table).Table };
            // SAFETY: the table was made, and begins with the count.
            (unsafe { (*table).NumEntries }, first.cast())
        },
    )
}

fn routes(family: ADDRESS_FAMILY) -> io::Result<Vec<MIB_IPFORWARD_ROW2>> {
    rows_of(
        // SAFETY: a number, and a place for the table.
        |table| unsafe { GetIpForwardTable2(family, table) },
        |table| {
            // SAFETY: a place in the table; nothing is read.
            let first = unsafe { &raw const (*table).Table };
            // SAFETY: the table was made, and begins with the count.
            (unsafe { (*table).NumEntries }, first.cast())
        },
    )
}

fn socket_address(address: IpAddr) -> SOCKADDR_INET {
    match address {
        IpAddr::V4(address) => SOCKADDR_INET {
            Ipv4: SOCKADDR_IN {
                sin_family: AF_INET,
                sin_addr: IN_ADDR {
                    S_un: IN_ADDR_0 { S_addr: u32::from_ne_bytes(address.octets()) },
                },
                ..SOCKADDR_IN::default()
            },
        },
        IpAddr::V6(address) => SOCKADDR_INET {
            Ipv6: SOCKADDR_IN6 {
                sin6_family: AF_INET6,
                sin6_addr: IN6_ADDR { u: IN6_ADDR_0 { Byte: address.octets() } },
                ..SOCKADDR_IN6::default()
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_where_windows_reads_it() {
        let bytes = |address: &str| {
            let address = socket_address(address.parse().unwrap());
            // SAFETY: 28 bytes, all of which were written.
            unsafe { std::mem::transmute::<SOCKADDR_INET, [u8; 28]>(address) }
        };
        assert_eq!(bytes("192.0.2.7")[..8], [2, 0, 0, 0, 192, 0, 2, 7]);
        let v6 = bytes("2001:db8::7");
        assert_eq!(
            (&v6[..8], &v6[8..12], v6[23]),
            (&[23, 0, 0, 0, 0, 0, 0, 0][..], &[0x20, 1, 0xD, 0xB8][..], 7)
        );
    }

    /// Wine has routes and adapters, and no table of IP interfaces.
    #[test]
    fn routes_and_their_adapters_are_read() {
        for family in FAMILIES {
            for route in routes(family).unwrap() {
                let adapter = adapter(Luid::of(route.InterfaceLuid)).unwrap();
                assert!(Luid::of(route.InterfaceLuid).is(adapter.InterfaceLuid));
                assert!(adapter.Mtu >= 576, "{}", adapter.Mtu);
            }
        }
        let loopback = routes(AF_INET).unwrap();
        assert!(!loopback.is_empty(), "not even one of loopback");
    }
}
