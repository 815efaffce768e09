//! Outer routing: by which interface, and from which of our addresses, a peer is reached.
//!
//! The stack's own choice may be the tunnel itself, so it is not asked. Routes are resolved here,
//! at `PASSIVE_LEVEL` and once per change of the network, from a copy of the forwarding table
//! without our own adapters' rows ([`crate::best_route`]); datagrams then name interface and source
//! in their packet information. Who keeps a [`Route`] compares its generation with
//! [`Routes::generation`] when it uses it, and asks again when they differ.

use core::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::atomic::{AtomicU64, Ordering},
};

use abi::discard::Discard;
use nt::{
    irql::Passive,
    netio::{self, Changes, ForwardTable, SockaddrInet},
    status::NtError,
};

use crate::{
    best_route::{Found, Row, Wanted, choose},
    endpoint::{Family, Local, canonical, decode, encode},
};

/// How many adapters there can be at once.
const ADAPTERS: usize = 64;

/// How one remote endpoint is reached, as found out under one generation of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the datagrams go.
    pub remote: SocketAddr,
    /// Which of our addresses they leave from; `None` leaves it to the stack.
    pub source: Option<IpAddr>,
    /// Index of the interface they leave by.
    pub interface: u32,
    /// The longest IP packet that interface sends without cutting it, in bytes; 0 is not known.
    pub mtu: u32,
    /// What [`Routes::generation`] was.
    pub generation: u64,
}

impl Route {
    /// The same route with what is known now of its interface's MTU.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn measured(self, level: &Passive) -> Self {
        let family = Family::of(&self.remote.ip()).number();
        let mtu = netio::interface_mtu(level, family, self.interface).unwrap_or(0);
        Self { mtu, ..self }
    }
}

/// The driver's view of the routes that are not its own.
pub struct Routes {
    /// LUIDs of our own adapters; zero is a free place.
    excluded: [AtomicU64; ADAPTERS],
    _changes: Changes,
}

impl Routes {
    /// Subscribes to changes of routes and interfaces; ends on drop.
    ///
    /// # Errors
    ///
    /// What NT answers: memory is short.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result.
    pub fn start(level: &Passive) -> Result<Self, NtError> {
        let changes = Changes::subscribe(level)?;
        Ok(Self { excluded: [const { AtomicU64::new(0) }; ADAPTERS], _changes: changes })
    }

    /// Leaves the adapter `luid` out of every route from now on.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when 64 adapters are left out already,
    /// [`NtError::INVALID_PARAMETER`] for zero, which is no LUID.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn exclude(&self, luid: u64) -> Result<(), NtError> {
        if luid == 0 {
            return Err(NtError::INVALID_PARAMETER);
        }
        if !self.is_excluded(luid) && !self.replace(0, luid) {
            return Err(NtError::INSUFFICIENT_RESOURCES);
        }
        netio::advance();
        Ok(())
    }

    /// Undoes [`Routes::exclude`], when the adapter is gone.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn include(&self, luid: u64) {
        // Twice excluded at once, on two threads, it may be in two places.
        while luid != 0 && self.replace(luid, 0) {
            netio::advance();
        }
    }

    /// Grows with every change: a [`Route`] of another generation may be stale.
    ///
    /// Never zero, which can stand for a route that was never resolved.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn generation(&self) -> u64 {
        netio::generation()
    }

    /// Finds the way to `remote` that leaves by none of our adapters.
    ///
    /// `preferred` is the address of ours that the peer last sent to. It stays the source for as
    /// long as its interface has a route to the peer and the address is good there, so that a peer
    /// behind a NAT or a firewall hears from whom it spoke to.
    ///
    /// # Errors
    ///
    /// [`Discard::NoRoute`], also when NT could not say; [`Discard::RoutingLoop`] when every route
    /// leads back into one of our adapters.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    // spec: WG 2.1-d
    pub fn resolve(
        &self,
        level: &Passive,
        remote: SocketAddr,
        preferred: Option<Local>,
    ) -> Result<Route, Discard> {
        // Read before the table: a change in between makes the result stale, not wrong for ever.
        let generation = self.generation();
        let remote = canonical(remote);
        let family = Family::of(&remote.ip());
        let table = ForwardTable::get(level, family.number()).map_err(|_| Discard::NoRoute)?;
        let scope = scope(&remote);
        let kept = preferred.filter(|local| {
            Family::of(&local.address) == family
                && !local.address.is_unspecified()
                && !local.address.is_multicast()
                && scope.is_none_or(|scope| scope == local.interface)
        });
        if let Some(local) = kept
            && let Found::Row(row) = self.choose(level, &table, &remote, Some(local.interface))
            && best_source(level, &row, Some(local.address), &remote) == Some(local.address)
        {
            return Ok(route(remote, Some(local.address), &row, generation).measured(level));
        }
        match self.choose(level, &table, &remote, scope) {
            Found::Row(row) => {
                let source = best_source(level, &row, None, &remote);
                Ok(route(remote, source, &row, generation).measured(level))
            }
            Found::OnlyExcluded => Err(Discard::RoutingLoop),
            Found::Nothing => Err(Discard::NoRoute),
        }
    }

    /// The best row of the table, of one interface if one is given.
    fn choose(
        &self,
        level: &Passive,
        table: &ForwardTable,
        remote: &SocketAddr,
        interface: Option<u32>,
    ) -> Found {
        let rows = table.rows().filter_map(|row| {
            Some(Row {
                luid: row.luid,
                interface: row.interface,
                prefix: decode(&row.prefix.0)?.ip(),
                prefix_length: row.prefix_length,
                metric: row.metric,
            })
        });
        let family = Family::of(&remote.ip()).number();
        let wanted = Wanted { destination: remote.ip(), interface };
        let metric = |luid| {
            let interface = netio::interface(level, family, luid).ok()?;
            interface.connected.then_some(interface.metric)
        };
        choose(rows, wanted, |luid| self.is_excluded(luid), metric)
    }

    fn is_excluded(&self, luid: u64) -> bool {
        // Acquire pairs with the Release of `replace`.
        luid != 0 && self.excluded.iter().any(|place| place.load(Ordering::Acquire) == luid)
    }

    /// Replaces one place that holds `from`; `false` when there is none.
    fn replace(&self, from: u64, to: u64) -> bool {
        self.excluded.iter().any(|place| {
            // Release pairs with the Acquire of `is_excluded`.
            place.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
        })
    }
}

/// The interface that the remote address is only valid on, if it is of that kind.
fn scope(remote: &SocketAddr) -> Option<u32> {
    match remote {
        SocketAddr::V6(remote) if remote.scope_id() != 0 => Some(remote.scope_id()),
        _ => None,
    }
}

/// The source NT would take by the row's interface, or `source` if it is good there.
fn best_source(
    level: &Passive,
    row: &Row,
    source: Option<IpAddr>,
    remote: &SocketAddr,
) -> Option<IpAddr> {
    let source = source.map(|address| SockaddrInet(encode(scoped(address, 0, row.interface))));
    let destination = SockaddrInet(encode(scoped(remote.ip(), remote.port(), row.interface)));
    let best = netio::best_source(level, row.luid, source.as_ref(), &destination).ok()?;
    decode(&best.0).map(|best| best.ip()).filter(|best| !best.is_unspecified())
}

/// A route by `row`, not measured yet.
fn route(remote: SocketAddr, source: Option<IpAddr>, row: &Row, generation: u64) -> Route {
    let remote = scoped(remote.ip(), remote.port(), row.interface);
    Route { remote, source, interface: row.interface, mtu: 0, generation }
}

/// An address with the scope it needs to leave by `interface`: a link-local one names it.
fn scoped(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() || address.is_multicast() => {
            SocketAddrV6::new(address, port, 0, interface).into()
        }
        _ => SocketAddr::new(address, port),
    }
}
