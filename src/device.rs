//! One adapter: its tunnel, its sockets, and what ties them together.
//!
//! A device is made when the system adds it and lives until its cleanup; whatever the driver shares
//! between adapters is in [`Core`]. The control path (configure, up, down, sockets lost) is one
//! thread at a time, by [`Device::control`]; the data path takes the open sockets by reference and
//! asks workers for what it may not do itself.

use core::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use abi::{discard::Discard, events, ioctl::Set, statistics::Counter};
use callout::{Outside, Route};
use crypto::{
    protocol::{
        ConfigError, Endpoint, Now, Output, Tunnel,
        limits::MAX_QUEUED_HANDSHAKES,
        send::{PathMtu, inner_mtu},
    },
    sync::{RwSpinLock, Shared},
};
use netadapter::Adapter;
use nt::{
    event::{Event, Kind},
    irql::{AtMostDispatch, Passive},
    mutex::Mutex,
    process::Process,
    processor, recorder,
    status::NtError,
};

use crate::{
    Core,
    capture::Capture,
    counters::Counters,
    datapath,
    ends::Outer,
    ground::{At, AtPassive},
    handshakes::HandshakeQueue,
    log::{Level, Log},
    peer::{Paths, Peer, ServiceQueue},
};

mod back_pressure;
mod coalescing;
mod errands;
mod places;
mod reopening;
mod ways;

pub(crate) use back_pressure::Waiters;
use back_pressure::WaitsSince;
use coalescing::Coalescing;
use reopening::Reopening;

/// How often it is looked whether the last send by sockets that are going has returned.
const CLOSE_POLL: Duration = Duration::from_millis(1);

/// An adapter's tunnel and sockets.
pub(crate) struct Device {
    pub(crate) core: Shared<Core>,
    pub(crate) tunnel: Tunnel<Paths>,
    pub(crate) adapter: Adapter,
    pub(crate) counters: Counters,
    pub(crate) capture: Capture,
    pub(crate) log: Log,
    pub(crate) handshakes: HandshakeQueue,
    pub(crate) service: ServiceQueue,
    sockets: RwSpinLock<Option<Shared<Outside<Outer>>>>,
    reopening: Reopening,
    /// Counts failed sends: a route resolved before the last one may be stale.
    failures: AtomicU64,
    /// What other CPUs are to do.
    errands: AtomicUsize,
    waits_since: WaitsSince,
    coalescing: Coalescing,
    /// To packets that are too long.
    pub(crate) answers: datapath::Answers,
    /// The interface's LUID while it is kept out of routes; 0 otherwise.
    luid: AtomicU64,
    control: Mutex<Control>,
}

/// What the control path keeps.
struct Control {
    /// The port that was asked for; 0 is any.
    port: u16,
    /// Who brought the adapter up; the sockets are its own in the eyes of the firewall.
    owner: Option<Process>,
    /// The port of sockets that were lost and could not be opened anew yet.
    missing: Option<u16>,
    /// Closing sockets wait on it.
    pause: Event,
}

/// Why a configuration was not applied.
pub(crate) enum Refused {
    /// The protocol says no.
    Config(ConfigError),
    /// The new port cannot be had.
    Port(NtError),
}

impl Device {
    /// An adapter that is down and has no configuration.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new(core: &Shared<Core>, adapter: Adapter) -> Result<Shared<Self>, NtError> {
        let no_memory = |_| NtError::INSUFFICIENT_RESOURCES;
        let tunnel = Tunnel::try_new(
            core.next_number(),
            core.indices.clone(),
            core.load.clone(),
            core.hash_key.clone(),
        )
        .map_err(no_memory)?;
        let pause = Event::try_new(Kind::Notification)?;
        let device = Self {
            core: core.clone(),
            tunnel,
            adapter,
            counters: Counters::try_new()?,
            capture: Capture::default(),
            log: Log::default(),
            handshakes: HandshakeQueue::try_new(MAX_QUEUED_HANDSHAKES)?,
            service: ServiceQueue::default(),
            sockets: RwSpinLock::new(None),
            reopening: Reopening::default(),
            failures: AtomicU64::new(0),
            errands: AtomicUsize::new(0),
            waits_since: WaitsSince::default(),
            coalescing: Coalescing::default(),
            answers: datapath::Answers::default(),
            luid: AtomicU64::new(0),
            control: Mutex::try_new(Control { port: 0, owner: None, missing: None, pause })?,
        };
        Shared::try_new(device).map_err(no_memory)
    }

    /// Keeps the adapter, whose LUID this is, out of every outer route.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when there are too many adapters.
    pub(crate) fn exclude_luid(&self, luid: u64) -> Result<(), NtError> {
        self.core.routes.exclude(luid)?;
        self.luid.store(luid, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes [`Device::exclude_luid`].
    pub(crate) fn include_luid(&self) {
        self.core.routes.include(self.luid.swap(0, Ordering::Relaxed));
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        crate::now()
    }

    /// Notes how long a callback took that began at `began`, and how many packets it was for.
    pub(crate) fn note_time_at_dispatch(&self, began: Now, packets: usize, level: &AtMostDispatch) {
        let ended = nt::time::monotonic();
        let took_100ns = nt::time::to_100ns(ended.saturating_sub(began.monotonic.0));
        let cpu = level.pinned(|level| {
            let cpu = processor::current(level);
            self.counters.stayed(cpu, took_100ns);
            cpu
        });
        self.core.processors.note(cpu, ended, took_100ns, packets);
        if self.counters.raise(Counter::LongestAtDispatch100ns, took_100ns) {
            self.note(events::Event::LongestAtDispatch, [took_100ns, packets as u64, 0]);
        }
    }

    /// The open sockets. Not to be kept: who closes them waits until nobody has them.
    pub(crate) fn open_sockets(&self, level: &AtMostDispatch) -> Option<Shared<Outside<Outer>>> {
        self.sockets.read(&At(level), |sockets| sockets.clone())
    }

    /// How the peer is reached: `None` until a worker has resolved it.
    ///
    /// A route of an old routing table, or one by which a send has failed, is used on while a worker
    /// looks again. That there was none is not believed: the packet waits while a worker looks, and is
    /// discarded by it for the reason there is then.
    ///
    /// # Errors
    ///
    /// [`Discard::NoEndpoint`].
    pub(crate) fn route_to(
        &self,
        peer: &Shared<Peer>,
        level: &AtMostDispatch,
    ) -> Result<Option<Route>, Discard> {
        let ground = At(level);
        let version = peer.endpoint_version();
        if let Some(known) = peer.attached().route(&ground, version) {
            if self.is_stale(&known) {
                self.ask_for_service(peer, level);
            }
            return Ok(known.route.ok());
        }
        let endpoint = peer.endpoint(&ground).ok_or(Discard::NoEndpoint)?;
        let Some(route) = self.learned_route(&endpoint) else {
            // Only the address it knows us by was forgotten: the last way there is used on while a
            // worker looks for it again.
            let last = peer.attached().last_route(&ground);
            let last = last.filter(|last| last.remote == endpoint.remote);
            let last = last.and_then(|last| last.route.ok());
            if last.is_some() {
                self.ask_for_service(peer, level);
            }
            return Ok(last);
        };
        let generation = route.generation;
        let failures = self.failures.load(Ordering::Acquire);
        let remote = endpoint.remote;
        let dated = DatedRoute { remote, route: Ok(route), generation, failures };
        peer.attached().set_route(&ground, version, dated);
        // A worker finds out how much its interface takes.
        self.ask_for_service(peer, level);
        Ok(Some(route))
    }

    /// The route back to an endpoint that was learned from a packet: from the address and interface
    /// that packet came to.
    fn learned_route(&self, endpoint: &Endpoint) -> Option<Route> {
        let local = endpoint.local?;
        Some(Route {
            remote: endpoint.remote,
            source: Some(local.address),
            interface: local.interface,
            mtu: 0,
            generation: self.core.routes.generation(),
        })
    }

    /// Resolves the peer's route anew if it has none or a stale one; returns whether it had none.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(crate) fn refresh_route(&self, peer: &Peer, passive: &Passive) -> Result<bool, Discard> {
        let ground = AtPassive(passive);
        let version = peer.endpoint_version();
        let known = peer.attached().route(&ground, version);
        if let Some(known) = known.filter(|known| !self.is_stale(known)) {
            if let Ok(route) = known.route
                && route.mtu == 0
            {
                let route = Ok(route.measured(passive));
                peer.attached().set_route(&ground, version, DatedRoute { route, ..known });
            }
            return Ok(false);
        }
        let endpoint = peer.endpoint(&ground).ok_or(Discard::NoEndpoint)?;
        self.resolve(peer, version, &endpoint, passive)?;
        Ok(known.is_none_or(|known| known.route.is_err()))
    }

    /// Resolves the way to `endpoint`, and remembers it for the peer, or that there is none.
    pub(crate) fn resolve(
        &self,
        peer: &Peer,
        version: u64,
        endpoint: &Endpoint,
        passive: &Passive,
    ) -> Result<Route, Discard> {
        let preferred = endpoint
            .local
            .map(|local| callout::Local { address: local.address, interface: local.interface });
        // Before the table is read: a failure or a change in between makes the answer doubtful again.
        let failures = self.failures.load(Ordering::Acquire);
        let generation = self.core.routes.generation();
        let remote = endpoint.remote;
        let route = self.core.routes.resolve(passive, remote, preferred);
        let dated = DatedRoute { remote, route, generation, failures };
        peer.attached().set_route(&AtPassive(passive), version, dated);
        route
    }

    /// The way a handshake message to `endpoint` takes: that of the peer's packets if it leads there,
    /// or else back where the message it answers came from.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(crate) fn message_route(
        &self,
        peer: Option<&Shared<Peer>>,
        endpoint: &Endpoint,
        passive: &Passive,
    ) -> Result<Route, Discard> {
        let Some(peer) = peer else {
            return match self.learned_route(endpoint) {
                Some(route) => Ok(route),
                None => self.core.routes.resolve(passive, endpoint.remote, None),
            };
        };
        let version = peer.endpoint_version();
        let known = peer.attached().route(&AtPassive(passive), version);
        let fresh = known.is_some_and(|known| !self.is_stale(&known));
        match known.filter(|known| known.remote == endpoint.remote) {
            Some(DatedRoute { route: Ok(route), .. }) if fresh => Ok(route),
            Some(_) => self.resolve(peer, version, endpoint, passive),
            None => match self.learned_route(endpoint) {
                Some(route) => Ok(route),
                None => self.resolve(peer, version, endpoint, passive),
            },
        }
    }

    /// How long packets to the peer may be.
    pub(crate) fn mtu_to(&self, peer: &Peer) -> PathMtu {
        PathMtu::new(self.tunnel.mtu(), peer.attached().inner_mtu())
    }

    /// Whether it is to be looked for again.
    fn is_stale(&self, known: &DatedRoute) -> bool {
        known.route.is_err()
            || known.generation != self.core.routes.generation()
            || known.failures != self.failures.load(Ordering::Acquire)
    }

    /// A send failed: every route is looked at again when it is next used.
    pub(crate) fn doubt_routes(&self) {
        self.failures.fetch_add(1, Ordering::Release);
    }

    /// Has a worker serve the peer.
    pub(crate) fn ask_for_service(&self, peer: &Shared<Peer>, level: &AtMostDispatch) {
        if self.service.push(&At(level), peer) {
            self.core.call_workers();
        }
    }

    /// Drops what waits for a way to the peer: there is none.
    pub(crate) fn discard_staged(&self, peer: &Peer, reason: Discard, passive: &Passive) {
        let ground = AtPassive(passive);
        while peer.take_staged(&ground).is_some() {
            self.counters.discard(reason, 1);
        }
    }

    /// Brings the adapter up for `owner`. Nothing happens if it is up.
    ///
    /// # Errors
    ///
    /// Why no socket could be opened.
    pub(crate) fn bring_up(
        this: &Shared<Self>,
        owner: Process,
        out: &mut dyn Output<Paths>,
        passive: &Passive,
    ) -> Result<(), NtError> {
        if this.tunnel.is_up() {
            return Ok(());
        }
        let reading = this.core.follow_policy(passive);
        let mut control = this.control.lock(passive);
        if this.tunnel.is_up() {
            return Ok(());
        }
        this.trust_coalescing();
        let sockets = Self::open(this, control.port, &owner, passive)?;
        let port = sockets.port();
        this.replace_sockets(Some(sockets), &control.pause, passive);
        control.owner = Some(owner);
        this.tunnel.up(&AtPassive(passive), out);
        this.adapter.set_link_up(true);
        drop(control);
        this.note(events::Event::AdapterUp, [port.into(), 0, 0]);
        this.say(passive, Level::Info, format_args!("up, listening on port {port}"));
        this.say_refused(&reading, passive);
        this.core.call_workers();
        Ok(())
    }

    /// Takes the adapter down. Nothing happens if it is down.
    pub(crate) fn take_down(&self, passive: &Passive) {
        let mut control = self.control.lock(passive);
        if !self.tunnel.is_up() {
            return;
        }
        self.tunnel.down(&AtPassive(passive));
        self.adapter.set_link_up(false);
        self.replace_sockets(None, &control.pause, passive);
        control.owner = None;
        drop(control);
        self.note(events::Event::AdapterDown, [0; 3]);
        let dropped = self.handshakes.clear(&AtPassive(passive));
        self.counters.discard(Discard::NotUp, dropped);
        self.say(passive, Level::Info, format_args!("down"));
    }

    /// Applies a configuration, all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing was changed.
    pub(crate) fn configure(
        this: &Shared<Self>,
        set: &Set<'_>,
        out: &mut dyn Output<Paths>,
        passive: &Passive,
    ) -> Result<(), Refused> {
        let ground = AtPassive(passive);
        let mut control = this.control.lock(passive);
        let prepared = this.tunnel.prepare(&ground, set).map_err(Refused::Config)?;
        let port = set.listen_port().filter(|port| *port != control.port);
        let fresh = match (port, &control.owner) {
            (Some(port), Some(owner)) => {
                Some(Self::open(this, port, owner, passive).map_err(Refused::Port)?)
            }
            _ => None,
        };
        let committed = prepared.commit(&ground, crate::now());
        if let Some(port) = port {
            control.port = port;
            this.tunnel.forget_sources(&ground);
        }
        if let Some(fresh) = fresh {
            let port = fresh.port();
            this.replace_sockets(Some(fresh), &control.pause, passive);
            this.say(passive, Level::Info, format_args!("listening on port {port} from now on"));
        }
        drop(control);
        for next in &committed.try_now {
            out.flush(&next.peer, next.keepalive);
        }
        this.core.call_workers();
        Ok(())
    }

    /// The port the adapter listens on, or will.
    pub(crate) fn port(&self, passive: &Passive) -> u16 {
        let control = self.control.lock(passive);
        self.sockets
            .read(&AtPassive(passive), |sockets| sockets.as_ref().map(|sockets| sockets.port()))
            .unwrap_or(control.port)
    }

    /// Takes everything down for good.
    pub(crate) fn close(&self, passive: &Passive) {
        self.take_down(passive);
        passive.pinned(|level| self.log.close(level.at_most()));
        let ground = AtPassive(passive);
        self.capture.close(None, &ground);
        self.tunnel.close(&ground);
        while self.service.pop(&ground).is_some() {}
        self.stop_waiting();
        self.recall(passive);
    }

    /// Notes what happened to the adapter in the flight recorder.
    pub(crate) fn note(&self, event: events::Event, words: [u64; 3]) {
        let [a, b, c] = words;
        recorder::note(event, [self.tunnel.number(), a, b, c]);
    }

    /// Writes a line to the log.
    pub(crate) fn say(&self, passive: &Passive, weight: Level, text: core::fmt::Arguments<'_>) {
        passive.pinned(|level| self.log.line(level.at_most(), weight, text));
    }

    fn open(
        this: &Shared<Self>,
        port: u16,
        owner: &Process,
        passive: &Passive,
    ) -> Result<Shared<Outside<Outer>>, NtError> {
        let outer = Outer(this.clone());
        let sockets = Outside::open(passive, &this.core.provider, port, owner, outer)?;
        // Before the callouts: from the filters on nothing may fail.
        let mut sockets = Shared::try_new(sockets).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        if let Some((family, error)) = sockets.missing() {
            this.say(passive, Level::Warning, format_args!("no {family}: {error}"));
        }
        this.coalesce(&sockets, passive);
        this.intercept(&mut sockets, passive);
        Ok(sockets)
    }

    /// Publishes the sockets, and closes those before them once nobody sends by them.
    fn replace_sockets(
        &self,
        sockets: Option<Shared<Outside<Outer>>>,
        pause: &Event,
        passive: &Passive,
    ) {
        let ground = AtPassive(passive);
        let old = self.sockets.write(&ground, |slot| core::mem::replace(slot, sockets));
        if let Some(mut old) = old {
            // A sender has them for the length of one call; none can get them any more.
            while Shared::get_mut(&mut old).is_none() {
                let _never_set = pause.wait_for(passive, CLOSE_POLL);
            }
        }
    }
}

impl DatedRoute {
    /// The longest inner packet that this way takes without cutting the datagram, in bytes; 0 is not known.
    pub(crate) fn inner_mtu(&self) -> u32 {
        let known = self.route.ok().filter(|route| route.mtu != 0);
        // At least a byte, or it would not be known.
        known.map_or(0, |route| inner_mtu(route.mtu as usize, route.remote.is_ipv6()).max(1) as u32)
    }
}

/// What was found when the way to `remote` was looked for, and when that was.
#[derive(Clone, Copy)]
pub(crate) struct DatedRoute {
    remote: SocketAddr,
    route: Result<Route, Discard>,
    /// Of the network.
    generation: u64,
    /// How many sends had failed.
    failures: u64,
}
