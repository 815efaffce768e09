//! Interfaces, addresses and routes of one host: what the kernel's IP Helper answers from.
//!
//! One immutable snapshot, replaced as a whole. Route changes are rare and route questions are not,
//! so whoever asks takes the current snapshot and looks no further; what changed between two of
//! them is computed, never tracked. The memory host builds its own, the Linux host reads the
//! network namespace's. Plain data: any thread.

use std::net::IpAddr;

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network's address; bits past `length` are zero.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32 or 0 to 128.
    pub length: u8,
}

impl Prefix {
    /// Makes the prefix that `length` bits of `address` name; a length past the address is cut.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self { address, length }
    }

    /// Whether `address` is inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self::new(address, self.length).address == self.address
    }
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The index, as PKTINFO carries it; never 0.
    pub index: u32,
    /// The locally unique identifier Windows would give it.
    pub luid: u64,
    /// What a person calls it.
    pub name: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Added to the metric of each of its routes.
    pub metric: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its addresses with the length of their network.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// The gateway; none if the destination is on the link.
    pub next_hop: Option<IpAddr>,
    /// Index of the interface it leaves by.
    pub interface: u32,
    /// Its own metric, without the interface's.
    pub metric: u32,
}

/// What happened to one row of a table between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row is new.
    Added,
    /// The row is gone.
    Deleted,
    /// The row's key stayed, something else in it did not.
    Parameter,
}

/// The routes and interfaces of one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Every interface.
    pub interfaces: Vec<Interface>,
    /// Every route, both families.
    pub routes: Vec<Route>,
}

impl Tables {
    /// The interface with this index.
    #[must_use]
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.index == index)
    }

    /// The interface that has `address`.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.addresses.iter().any(|(own, _)| *own == address))
    }

    /// The best route to `destination`: longest prefix, then smallest effective metric, over
    /// interfaces that are up; only routes of interface `on` if one is given.
    #[must_use]
    pub fn best_route(&self, destination: IpAddr, on: Option<u32>) -> Option<&Route> {
        let usable = |route: &&Route| {
            on.is_none_or(|index| route.interface == index)
                && route.destination.contains(destination)
                && self.interface(route.interface).is_some_and(|interface| interface.up)
        };
        let metric = |route: &Route| {
            let of_interface = self.interface(route.interface).map_or(0, |i| i.metric);
            u64::from(route.metric) + u64::from(of_interface)
        };
        self.routes
            .iter()
            .filter(usable)
            .min_by_key(|route| (u8::MAX - route.destination.length, metric(route)))
    }

    /// The local address a packet to `destination` by `route` gets: the destination itself if it
    /// is local, else the interface's address that shares most leading bits with the next hop.
    #[must_use]
    pub fn source(&self, route: &Route, destination: IpAddr) -> Option<IpAddr> {
        if self.owner(destination).is_some() {
            return Some(destination);
        }
        let toward = route.next_hop.unwrap_or(destination);
        let shared = |address: IpAddr| match (address, toward) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
            _ => 0,
        };
        self.interface(route.interface)?
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .filter(|address| address.is_ipv4() == destination.is_ipv4())
            .max_by_key(|address| shared(*address))
    }

    /// The routes that differ from `before`. A metric is a parameter; the rest is the key.
    #[must_use]
    pub fn route_changes(&self, before: &Self) -> Vec<(Route, Change)> {
        let same = |a: &Route, b: &Route| Route { metric: 0, ..*a } == Route { metric: 0, ..*b };
        let mut changes = Vec::new();
        for route in &self.routes {
            match before.routes.iter().find(|old| same(old, route)) {
                None => changes.push((*route, Change::Added)),
                Some(old) if old.metric != route.metric => {
                    changes.push((*route, Change::Parameter));
                }
                Some(_) => {}
            }
        }
        let gone = before.routes.iter().filter(|old| !self.routes.iter().any(|r| same(old, r)));
        changes.extend(gone.map(|old| (*old, Change::Deleted)));
        changes
    }

    /// The interfaces that differ from `before`, by index.
    #[must_use]
    pub fn interface_changes(&self, before: &Self) -> Vec<(Interface, Change)> {
        let mut changes = Vec::new();
        for interface in &self.interfaces {
            match before.interface(interface.index) {
                None => changes.push((interface.clone(), Change::Added)),
                Some(old) if old != interface => {
                    changes.push((interface.clone(), Change::Parameter));
                }
                Some(_) => {}
            }
        }
        let gone = before.interfaces.iter().filter(|old| self.interface(old.index).is_none());
        changes.extend(gone.map(|old| (old.clone(), Change::Deleted)));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(index: u32, addresses: &[(&str, u8)]) -> Interface {
        Interface {
            index,
            luid: u64::from(index) << 24,
            name: format!("if{index}"),
            mtu: 1500,
            metric: 10,
            up: true,
            addresses: addresses.iter().map(|(a, l)| (ip(a), *l)).collect(),
        }
    }

    fn route(
        destination: &str,
        length: u8,
        via: Option<&str>,
        interface: u32,
        metric: u32,
    ) -> Route {
        let destination = Prefix::new(ip(destination), length);
        Route { destination, next_hop: via.map(ip), interface, metric }
    }

    fn tables() -> Tables {
        Tables {
            interfaces: vec![
                interface(1, &[("192.0.2.7", 24), ("2001:db8::7", 64), ("192.0.2.200", 24)]),
                interface(2, &[("10.0.0.1", 8)]),
            ],
            routes: vec![
                route("0.0.0.0", 0, Some("192.0.2.254"), 1, 5),
                route("0.0.0.0", 0, None, 2, 0),
                route("192.0.2.0", 24, None, 1, 0),
                route("::", 0, Some("2001:db8::1"), 1, 0),
            ],
        }
    }

    #[test]
    fn a_prefix_is_its_leading_bits() {
        for (address, length, inside, expected) in [
            ("10.1.2.3", 8, "10.255.0.1", true),
            ("10.1.2.3", 8, "11.0.0.1", false),
            ("10.1.2.3", 0, "255.255.255.255", true),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("10.1.2.3", 0, "::", false),
            ("2001:db8::1", 127, "2001:db8::", true),
            ("2001:db8::1", 128, "2001:db8::", false),
            ("::", 0, "ffff::", true),
        ] {
            let contains = Prefix::new(ip(address), length).contains(ip(inside));
            assert_eq!(contains, expected, "{inside} in {address}/{length}");
        }
    }

    #[test]
    fn the_best_route_is_longest_then_cheapest_and_up() {
        let mut tables = tables();
        let best =
            |tables: &Tables, to: &str, on| tables.best_route(ip(to), on).map(|r| r.interface);
        assert_eq!(best(&tables, "192.0.2.9", None), Some(1), "longest prefix");
        assert_eq!(best(&tables, "8.8.8.8", None), Some(2), "metric 0 + 10 beats 5 + 10");
        assert_eq!(best(&tables, "8.8.8.8", Some(1)), Some(1), "restricted");
        tables.interfaces[1].up = false;
        assert_eq!(best(&tables, "8.8.8.8", None), Some(1), "the other is down");
        tables.interfaces[0].up = false;
        assert_eq!(best(&tables, "8.8.8.8", None), None);
    }

    #[test]
    fn the_source_is_of_the_interface_and_near_the_next_hop() {
        let tables = tables();
        let source = |to: &str| {
            let route = tables.best_route(ip(to), Some(1)).unwrap();
            tables.source(route, ip(to))
        };
        assert_eq!(source("8.8.8.8"), Some(ip("192.0.2.200")), "shares more bits with .254");
        assert_eq!(source("192.0.2.3"), Some(ip("192.0.2.7")));
        assert_eq!(source("2001:db8:1::"), Some(ip("2001:db8::7")));
        assert_eq!(source("192.0.2.200"), Some(ip("192.0.2.200")), "to ourselves, from ourselves");
    }

    #[test]
    fn what_changed_is_said_once() {
        let before = tables();
        let mut after = before.clone();
        assert!(
            after.route_changes(&before).is_empty() && after.interface_changes(&before).is_empty()
        );
        after.routes[0].metric = 6;
        after.routes.remove(3);
        after.routes.push(route("198.51.100.0", 24, None, 2, 0));
        let kinds: Vec<_> = after.route_changes(&before).into_iter().map(|c| c.1).collect();
        assert_eq!(kinds, [Change::Parameter, Change::Added, Change::Deleted]);
        after.interfaces[0].mtu = 1400;
        after.interfaces.remove(1);
        let kinds: Vec<_> =
            after.interface_changes(&before).into_iter().map(|c| (c.0.index, c.1)).collect();
        assert_eq!(kinds, [(1, Change::Parameter), (2, Change::Deleted)]);
    }
}
