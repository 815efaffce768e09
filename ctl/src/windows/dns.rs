//! Servers and domains of one interface, which Windows asks while the interface is there.
//!
//! Windows keeps them for the interface's GUID: an adapter of the same GUID begins with what the last one had, so it is cleared first.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/netioapi/nf-netioapi-setinterfacednssettings>.

use std::io;
use std::net::IpAddr;

use windows_sys::Win32::NetworkManagement::IpHelper::{
    DNS_INTERFACE_SETTINGS, DNS_INTERFACE_SETTINGS_VERSION1, DNS_SETTING_IPV6,
    DNS_SETTING_NAMESERVER, DNS_SETTING_SEARCHLIST, FreeInterfaceDnsSettings,
    GetInterfaceDnsSettings, SetInterfaceDnsSettings,
};
use windows_sys::core::GUID;

use super::wide::{pointed, wide};
use crate::tunnel::system::Dns;

/// What is set, and read: both families have servers of their own.
const WHAT: u32 = DNS_SETTING_NAMESERVER | DNS_SETTING_SEARCHLIST;
const FAMILIES: [(bool, u32); 2] = [(true, WHAT), (false, WHAT | DNS_SETTING_IPV6)];

/// Sets them.
pub(super) fn set(interface: GUID, dns: &Dns) -> io::Result<()> {
    for (is_ipv4, flags) in FAMILIES {
        let (mut servers, mut search) = (wide(servers(dns, is_ipv4)), wide(dns.search.join(",")));
        let settings = DNS_INTERFACE_SETTINGS {
            Version: DNS_INTERFACE_SETTINGS_VERSION1,
            Flags: flags.into(),
            NameServer: servers.as_mut_ptr(),
            SearchList: search.as_mut_ptr(),
            ..DNS_INTERFACE_SETTINGS::default()
        };
        // SAFETY: settings of the version they name; both texts end with a NUL.
        super::checked(unsafe { SetInterfaceDnsSettings(interface, &raw const settings) })?;
    }
    Ok(())
}

/// What it has.
pub(super) fn get(interface: GUID) -> io::Result<Dns> {
    let mut dns = Dns::default();
    for (_, flags) in FAMILIES {
        let mut settings = DNS_INTERFACE_SETTINGS {
            Version: DNS_INTERFACE_SETTINGS_VERSION1,
            Flags: flags.into(),
            ..DNS_INTERFACE_SETTINGS::default()
        };
        // SAFETY: a place for settings of the version it names.
        super::checked(unsafe { GetInterfaceDnsSettings(interface, &raw mut settings) })?;
        // SAFETY: null, or a text with its NUL, as Windows has filled it in.
        let servers = unsafe { pointed(settings.NameServer) };
        // SAFETY: as above.
        let search = unsafe { pointed(settings.SearchList) };
        // SAFETY: settings that Windows filled in; nothing looks at them any more.
        unsafe { FreeInterfaceDnsSettings(&raw mut settings) };
        dns.servers.extend(parts(&servers).filter_map(|server| server.parse::<IpAddr>().ok()));
        dns.search = parts(&search).map(str::to_owned).collect();
    }
    Ok(dns)
}

/// Servers of one family, as Windows has them.
fn servers(dns: &Dns, is_ipv4: bool) -> String {
    let servers = dns.servers.iter().filter(|server| server.is_ipv4() == is_ipv4);
    servers.map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ' ']).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_of_their_family() {
        let servers_of =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let dns = Dns { servers: servers_of.into(), search: Vec::new() };
        assert_eq!(
            (&*servers(&dns, true), &*servers(&dns, false)),
            ("192.0.2.1,192.0.2.2", "2001:db8::1")
        );
        assert_eq!(
            parts("192.0.2.1,192.0.2.2 a").collect::<Vec<_>>(),
            ["192.0.2.1", "192.0.2.2", "a"]
        );
    }
}
