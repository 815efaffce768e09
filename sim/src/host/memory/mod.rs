//! A network inside the process: hosts with addresses, joined by links with weather.
//!
//! Every machine of a [`World`] plugs into one [`Network`] by a [`Host`]. Datagrams travel as
//! copies on the world's clock: one actor, the wire, delivers what falls due, in batches per
//! socket as a network card would. In Virtual mode a run is repeatable from its seed. A host may
//! stand behind a NAT whose mapping can be changed in mid-flow. What is longer than the card's MTU leaves in
//! fragments, which travel each by itself and are put together by the receiver.
//!
//! [`packet`] and [`endpoint`] are the inner side: IP packets for the adapter, and a small host
//! that answers pings and counts what it gets.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::routes::{Interface, Prefix, Route, Tables};
use super::{Batch, Landing, OpenError, Outer, SendError, Sending, Socket, Watcher};
use crate::nt::wsk::control_messages::PacketInfo;
use crate::verifier::schedule::{Key, World, lock};

pub mod endpoint;
mod fragments;
pub mod link;
pub mod packet;
pub mod pair;
pub mod trial;

use fragments::{Part, Reassembly};
use link::Link;

/// The interface index of every host's network card.
pub const CARD: u32 = 2;
/// The interface index of the first adapter that is plugged in.
const FIRST_ADAPTER: u32 = 10;
/// Datagrams delivered to one socket at once.
const DELIVERY: usize = 64;
/// Datagrams that may be under way; more are lost, as in a full router.
const UNDER_WAY: usize = 16_384;
/// First port that a NAT gives.
const NAT_FIRST_PORT: u16 = 20_000;

/// What a network carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams sent into it.
    pub sent: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams that reached a socket.
    pub delivered: u64,
    /// Datagrams the links lost.
    pub lost: u64,
    /// Datagrams for which no socket was open.
    pub refused: u64,
    /// Parts of datagrams that were longer than the sender's link takes.
    pub fragments: u64,
}

/// A network; dropping it ends its wire.
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    world: Arc<World>,
    state: Mutex<State>,
    stopped: AtomicBool,
    carried: Mutex<Carried>,
    tap: OnceLock<Box<Tap>>,
    order: AtomicU64,
}

/// A datagram as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'s> {
    /// Who sent it, as the network sees it.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// Its TOS or traffic class.
    pub traffic_class: u8,
    /// Its payload.
    pub payload: &'s [u8],
    /// How many IP packets it is in.
    pub packets: usize,
}

/// Sees a datagram.
type Tap = dyn Fn(&Seen<'_>) + Send + Sync;

#[derive(Default)]
struct State {
    hosts: FxHashMap<IpAddr, Weak<Host>>,
    links: FxHashMap<(IpAddr, IpAddr), Link>,
    weather: Link,
    under_way: Vec<UnderWay>,
    fragments: Reassembly,
    nat_ports: u16,
}

struct UnderWay {
    due: Duration,
    order: u64,
    from: SocketAddr,
    to: SocketAddr,
    traffic_class: u8,
    payload: Arc<[u8]>,
    part: Part,
}

impl Network {
    /// Makes a network without hosts.
    #[must_use]
    pub fn new(world: &Arc<World>) -> Self {
        let shared = Arc::new(Shared {
            world: world.clone(),
            state: Mutex::new(State { nat_ports: NAT_FIRST_PORT, ..State::default() }),
            stopped: AtomicBool::new(false),
            carried: Mutex::default(),
            tap: OnceLock::new(),
            order: AtomicU64::new(0),
        });
        let wire = shared.clone();
        world.spawn("wire", move || wire.run());
        Self { shared }
    }

    /// Plugs in a host with these addresses, each in a network of its own with a gateway.
    #[must_use]
    pub fn plug_in(&self, addresses: &[IpAddr]) -> Arc<Host> {
        let host = Arc::new_cyclic(|this| Host {
            this: this.clone(),
            network: self.shared.clone(),
            tables: RwLock::new(Arc::new(card_tables(addresses))),
            watchers: Mutex::default(),
            sockets: Mutex::default(),
            nat: Mutex::default(),
        });
        let mut state = lock(&self.shared.state);
        for address in addresses {
            state.hosts.insert(*address, Arc::downgrade(&host));
        }
        host
    }

    /// Sets the weather everywhere that has none of its own.
    pub fn set_weather(&self, link: Link) {
        lock(&self.shared.state).weather = link;
    }

    /// Sets the weather from one address to another, one way.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, link: Link) {
        lock(&self.shared.state).links.insert((from, to), link);
    }

    /// Shows every datagram to `tap` in the order they were sent, before the weather.
    ///
    /// # Panics
    ///
    /// If there is a tap already.
    pub fn tap(&self, tap: impl Fn(&Seen<'_>) + Send + Sync + 'static) {
        assert!(self.shared.tap.set(Box::new(tap)).is_ok(), "one tap at a time");
    }

    /// Sends a datagram for somebody who lies about where he is.
    pub fn forge(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        self.shared.post((from, to), 0, payload.to_vec(), usize::MAX);
    }

    /// What it carried so far.
    #[must_use]
    pub fn carried(&self) -> Carried {
        *lock(&self.shared.carried)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.world.wake(self.shared.key());
    }
}

impl Shared {
    fn key(&self) -> Key {
        Key::of(&self.state)
    }

    /// Puts a datagram on its way, in as many packets as a link of `mtu` bytes makes it.
    fn post(
        &self,
        (from, to): (SocketAddr, SocketAddr),
        traffic_class: u8,
        payload: Vec<u8>,
        mtu: usize,
    ) {
        let now = self.world.now();
        let parts = fragments::cut(payload.len(), from.is_ipv4(), mtu);
        let random: Vec<u64> = parts.iter().map(|_| self.world.random()).collect();
        let datagram = self.order.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        if let Some(tap) = self.tap.get() {
            let packets = parts.len();
            tap(&Seen { from, to, traffic_class, payload: &payload, packets });
        }
        let key = (from.ip(), to.ip());
        let link = state.links.get(&key).copied().unwrap_or(state.weather);
        let traffic_class = link.mark(traffic_class);
        let mut lost = state.under_way.len() >= UNDER_WAY;
        let count = parts.len();
        for ((number, (bytes, length)), random) in parts.into_iter().enumerate().zip(random) {
            if lost {
                break;
            }
            let arrivals = link.carry(length, random);
            lost |= arrivals[0].is_none();
            let payload: Arc<[u8]> = payload[bytes].into();
            for after in arrivals.into_iter().flatten() {
                let order = self.order.fetch_add(1, Ordering::Relaxed);
                let (due, payload) = (now + after, payload.clone());
                let part = Part { datagram, number, count };
                state.under_way.push(UnderWay {
                    due,
                    order,
                    from,
                    to,
                    traffic_class,
                    payload,
                    part,
                });
            }
        }
        let mut carried = lock(&self.carried);
        carried.sent += 1;
        carried.bytes += payload.len() as u64;
        carried.lost += u64::from(lost);
        carried.fragments += if count > 1 { count as u64 } else { 0 };
        drop((carried, state));
        self.world.wake(self.key());
    }

    /// The wire: delivers what falls due until the network is gone.
    fn run(&self) {
        while !self.stopped.load(Ordering::Acquire) {
            let next = lock(&self.state).under_way.iter().map(|d| d.due).min();
            let due = || {
                if self.stopped.load(Ordering::Acquire) {
                    return Some(Vec::new());
                }
                let batch = self.take_due();
                let earlier = || lock(&self.state).under_way.iter().map(|d| d.due).min() != next;
                (!batch.is_empty() || earlier()).then_some(batch)
            };
            if let Ok(batch) = self.world.wait(self.key(), next, "the wire", due) {
                self.deliver(batch);
            }
        }
    }

    /// The datagrams for one socket that are due, in order.
    fn take_due(&self) -> Vec<UnderWay> {
        let now = self.world.now();
        let mut state = lock(&self.state);
        let first =
            state.under_way.iter().filter(|d| d.due <= now).min_by_key(|d| (d.due, d.order));
        let Some(to) = first.map(|datagram| datagram.to) else { return Vec::new() };
        let (mut taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut state.under_way)
            .into_iter()
            .partition(|d| d.due <= now && d.to == to);
        state.under_way = kept;
        taken.sort_by_key(|d| (d.due, d.order));
        if taken.len() > DELIVERY {
            state.under_way.extend(taken.split_off(DELIVERY));
        }
        taken
    }

    fn deliver(&self, batch: Vec<UnderWay>) {
        let batch: Vec<UnderWay> = {
            let fragments = &mut lock(&self.state).fragments;
            batch.into_iter().filter_map(|packet| fragments.whole(packet)).collect()
        };
        let Some(to) = batch.first().map(|datagram| datagram.to) else { return };
        let host = lock(&self.state).hosts.get(&to.ip()).and_then(Weak::upgrade);
        let inside = host.as_ref().and_then(|host| host.translate(to));
        let socket = host.as_ref().zip(inside).and_then(|(host, local)| host.socket(local));
        let (Some(socket), Some(local)) = (socket, inside) else {
            lock(&self.carried).refused += batch.len() as u64;
            return;
        };
        let mut places = Vec::new();
        socket.landing.places(&mut places, batch.len());
        let count = places.len();
        for (place, datagram) in places.iter_mut().zip(&batch) {
            place.fill(&datagram.payload);
            place.remote = datagram.from;
            place.local = Some(PacketInfo { address: local.ip(), interface: CARD });
            place.traffic_class = Some(datagram.traffic_class);
        }
        let mut carried = lock(&self.carried);
        carried.delivered += count as u64;
        carried.lost += (batch.len() - count) as u64;
        drop(carried);
        if count > 0 {
            socket.landing.landed(&mut places);
        }
    }
}

/// One machine's place in a network.
pub struct Host {
    this: Weak<Self>,
    network: Arc<Shared>,
    tables: RwLock<Arc<Tables>>,
    watchers: Mutex<Vec<Watcher>>,
    sockets: Mutex<Vec<Weak<MemorySocket>>>,
    nat: Mutex<Nat>,
}

/// The mapping of a NAT: inside address and port to outside port.
#[derive(Default)]
struct Nat {
    outside: Option<IpAddr>,
    mapping: FxHashMap<SocketAddr, u16>,
}

impl Host {
    /// Changes interfaces and routes, and tells whoever watches.
    pub fn change(&self, change: impl FnOnce(&mut Tables)) {
        let before = self.tables();
        let mut after = (*before).clone();
        change(&mut after);
        let after = Arc::new(after);
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = after.clone();
        for watcher in &*lock(&self.watchers) {
            watcher(&before, &after);
        }
    }

    /// Adds the driver's adapter as an interface with its addresses and routes; returns its index.
    #[must_use]
    pub fn plug_in_adapter(&self, luid: u64, addresses: &[(IpAddr, u8)], routes: &[Prefix]) -> u32 {
        let mut index = FIRST_ADAPTER;
        self.change(|tables| {
            while tables.interface(index).is_some() {
                index += 1;
            }
            let name = format!("adapter{index}");
            let addresses = addresses.to_vec();
            tables.interfaces.push(Interface {
                index,
                luid,
                name,
                mtu: 1420,
                metric: 5,
                up: true,
                addresses,
            });
            let route = |destination: &Prefix| Route {
                destination: *destination,
                next_hop: None,
                interface: index,
                metric: 0,
            };
            tables.routes.extend(routes.iter().map(route));
        });
        index
    }

    /// Takes an interface and its routes away.
    pub fn unplug(&self, index: u32) {
        self.change(|tables| {
            tables.interfaces.retain(|interface| interface.index != index);
            tables.routes.retain(|route| route.interface != index);
        });
    }

    /// Puts the host behind a NAT with this address, or gives an existing one new ports.
    pub fn rebind(&self, outside: IpAddr) {
        let mut nat = lock(&self.nat);
        nat.mapping.clear();
        nat.outside = Some(outside);
        lock(&self.network.state).hosts.insert(outside, self.this.clone());
    }

    /// The source that the network sees.
    fn source(&self, local: SocketAddr) -> SocketAddr {
        let mut nat = lock(&self.nat);
        let Some(outside) = nat.outside else { return local };
        let port = *nat.mapping.entry(local).or_insert_with(|| {
            let mut state = lock(&self.network.state);
            state.nat_ports = state.nat_ports.checked_add(1).unwrap_or(NAT_FIRST_PORT);
            state.nat_ports
        });
        SocketAddr::new(outside, port)
    }

    /// The inside of an address the network sees; none if a NAT has no mapping for it.
    fn translate(&self, to: SocketAddr) -> Option<SocketAddr> {
        let nat = lock(&self.nat);
        if nat.outside != Some(to.ip()) {
            return nat.outside.is_none().then_some(to);
        }
        nat.mapping.iter().find(|(_, port)| **port == to.port()).map(|(inside, _)| *inside)
    }

    fn socket(&self, local: SocketAddr) -> Option<Arc<MemorySocket>> {
        let sockets: Vec<_> = lock(&self.sockets).iter().filter_map(Weak::upgrade).collect();
        let fits = |s: &Arc<MemorySocket>, exact: bool| {
            s.local.port() == local.port()
                && s.local.is_ipv4() == local.is_ipv4()
                && if exact { s.local.ip() == local.ip() } else { s.local.ip().is_unspecified() }
        };
        let found = sockets
            .iter()
            .find(|s| fits(s, true))
            .or_else(|| sockets.iter().find(|s| fits(s, false)));
        found.cloned()
    }
}

impl Outer for Host {
    fn tables(&self) -> Arc<Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn watch(&self, watcher: Watcher) {
        lock(&self.watchers).push(watcher);
    }

    fn open(
        &self,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<dyn Socket>, OpenError> {
        let tables = self.tables();
        if !local.ip().is_unspecified() && tables.owner(local.ip()).is_none() {
            return Err(OpenError::NotLocal);
        }
        let addresses = || tables.interfaces.iter().flat_map(|i| &i.addresses);
        if !addresses().any(|(address, _)| address.is_ipv4() == local.is_ipv4()) {
            return Err(OpenError::NoFamily);
        }
        let Some(host) = self.this.upgrade() else { return Err(OpenError::Resources) };
        let socket = Arc::new(MemorySocket { host, local, landing });
        let mut sockets = lock(&self.sockets);
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(&socket));
        Ok(socket)
    }
}

/// A UDP socket of a [`Host`].
struct MemorySocket {
    host: Arc<Host>,
    local: SocketAddr,
    landing: Arc<dyn Landing>,
}

impl Socket for MemorySocket {
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError> {
        let tables = self.host.tables();
        let info = how.packet_info;
        let interface = info.map_or(0, |info| info.interface);
        if interface != 0 && tables.interface(interface).is_none() {
            return Err(SendError::BadSource);
        }
        let asked = info.map(|info| info.address).filter(|address| !address.is_unspecified());
        if asked.is_some_and(|address| tables.owner(address).is_none()) {
            return Err(SendError::BadSource);
        }
        let on = (interface != 0).then_some(interface);
        let route = tables.best_route(to.ip(), on).ok_or(SendError::Unreachable)?;
        if route.interface != CARD {
            // It leads into a tunnel or nowhere: the wire is not there.
            return Err(SendError::Unreachable);
        }
        let mtu = tables.interface(CARD).map_or(usize::MAX, |card| card.mtu as usize);
        let bound = Some(self.local.ip()).filter(|address| !address.is_unspecified());
        let source = asked
            .or(bound)
            .or_else(|| tables.source(route, to.ip()))
            .ok_or(SendError::Unreachable)?;
        let from = self.host.source(SocketAddr::new(source, self.local.port()));
        for pieces in batch.datagrams() {
            let payload: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.host.network.post((from, to), how.traffic_class.unwrap_or(0), payload, mtu);
        }
        Ok(())
    }

    fn close(&self) {
        let this: *const Self = self;
        lock(&self.host.sockets).retain(|socket| !std::ptr::eq(socket.as_ptr(), this));
    }
}

/// The tables of a host with one card: each address on link, and a default route per family.
fn card_tables(addresses: &[IpAddr]) -> Tables {
    let mut tables = Tables::default();
    let mut card = Interface {
        index: CARD,
        luid: 6 << 48 | u64::from(CARD) << 24,
        name: "card".to_owned(),
        mtu: 1500,
        metric: 25,
        up: true,
        addresses: Vec::new(),
    };
    for address in addresses {
        let (length, any, gateway): (u8, IpAddr, IpAddr) = match address {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                (24, [0, 0, 0, 0].into(), [a, b, c, 254].into())
            }
            IpAddr::V6(v6) => {
                let mut gateway = v6.octets();
                gateway[15] = 0xFE;
                (64, [0; 16].into(), gateway.into())
            }
        };
        card.addresses.push((*address, length));
        let route =
            |destination, next_hop| Route { destination, next_hop, interface: CARD, metric: 0 };
        tables.routes.push(route(Prefix::new(*address, length), None));
        let default = route(Prefix::new(any, 0), Some(gateway));
        if !tables.routes.iter().any(|known| known.destination == default.destination) {
            tables.routes.push(default);
        }
    }
    tables.interfaces.push(card);
    tables
}

#[cfg(test)]
mod tests;
