//! The driver's callouts at work: registered, led to by filters, judging and taking datagrams.
//!
//! One [`Interception`] for the driver, made with its first adapter and dropped with its last (see
//! `nt::wdf::ControlDevice` for why), and for each pair of sockets one [`Intercepted`]. A filter
//! carries a number, which is looked up in a table that is read without a lock; numbers are never
//! used again, so a packet that meets an old filter finds nobody and goes to the socket.
//!
//! Taken down in this order: filters, callouts, what waits on rings, batches that are out, device.

use alloc::vec::Vec;
use core::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use abi::statistics::Counter;
use nt::{
    chain::Chain,
    closing::{Close, Closing},
    dpc::{self, Dpc},
    fwp::{Callouts, Classifier, Classify, Injected, Metadata, Shape},
    irql::{AtMostDispatch, Dispatch, Passive},
    mutex::Mutex,
    pool::push_within,
    processor,
    rcu::{Prepared, Rcu, Reclaimer},
    shared::Shared,
    status::NtError,
    time::monotonic,
    wdf::ControlDevice,
};

use crate::{
    absorb::{Batch, Caps, Descriptor, Full, Holding, Rings, descriptors},
    classify::{Coalesced, Reason, Seen, judge},
    datagrams::Datagrams,
    endpoint::Local,
    engine::Engine,
    flows::{Key, Way},
    inject::Injector,
    layers::CALLOUTS,
    route::Route,
    run::Run,
    socket::{Receiver, Sockets},
    udp,
};

/// The callouts of the driver.
pub struct Interception<R: Receiver>(Shared<Closing<Core<R>>>);

/// Newest first, and the first two are taken down by hand.
struct Core<R: Receiver> {
    engine: Option<Engine>,
    callouts: Option<Callouts<Judge<R>>>,
    state: Shared<State<R>>,
    book: Mutex<Book<R>>,
    contexts: AtomicU64,
    reclaimer: Shared<Reclaimer>,
    _device: ControlDevice,
}

/// Which ways datagrams take besides the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Datagrams are taken from the stack; otherwise all of them pass to the socket.
    pub absorb: bool,
    /// Runs are injected, in this shape; otherwise the sockets send.
    pub inject: Option<Shape>,
}

impl Ways {
    /// The sockets do everything.
    pub const NONE: Self = Self { absorb: false, inject: None };
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.absorb { "callouts" } else { "the sockets" };
        let by = match self.inject {
            None => "the sockets",
            Some(Shape::OneList) => "injection, a list a run",
            Some(Shape::ListEach) => "injection, a list a datagram",
        };
        write!(f, "receiving by {from}, sending by {by}")
    }
}

type Ports<R> = Vec<Shared<Port<R>>>;

/// The most ports at once: as many as there can be adapters, and one more for each that changes.
const PORTS: usize = 128;

/// Every port, to make the next table from.
struct Book<R: Receiver> {
    /// With room for [`PORTS`].
    ports: Ports<R>,
    /// An empty table with room for [`PORTS`] for each port, so that taking it out cannot fail.
    spares: Vec<Prepared<Ports<R>>>,
}

/// One pair of sockets.
struct Port<R: Receiver> {
    context: u64,
    receiver: R,
    ways: Ways,
    draining: AtomicBool,
    injector: Option<Injector<R>>,
}

/// What a classify reads, and the DPCs.
struct State<R: Receiver> {
    ports: Rcu<Ports<R>>,
    rings: Rings,
    holding: Shared<Holding>,
    /// Of one CPU, and of one remote address; see [`Caps`].
    caps: [AtomicU32; 2],
}

/// Who answers for packets. The DPCs stand, and are dropped, before what they work on.
struct Judge<R: Receiver> {
    dpcs: Vec<Dpc<Shared<State<R>>>>,
    state: Shared<State<R>>,
}

impl<R: Receiver> Interception<R> {
    /// Registers the callouts, and begins to watch the filter engine. `seed` is a random number.
    ///
    /// # Errors
    ///
    /// What NT answers; nothing is left behind.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`. Dropped there too, after every [`Intercepted`], which waits for datagrams
    /// that are held.
    pub fn start(
        passive: &Passive,
        reclaimer: &Shared<Reclaimer>,
        caps: Caps,
        seed: u64,
    ) -> Result<Self, NtError> {
        let device = ControlDevice::create(passive)?;
        let state = Shared::try_new(State {
            ports: Rcu::new(Prepared::try_new(Vec::new())?),
            rings: Rings::try_new()?,
            holding: Shared::try_new(Holding::try_new(seed)?)?,
            caps: [caps.per_cpu, caps.per_peer].map(AtomicU32::new),
        })?;
        let book = Mutex::try_new(Book { ports: room()?, spares: room()? })?;
        let mut core = Closing::new(Core {
            engine: None,
            callouts: None,
            state: state.clone(),
            book,
            contexts: AtomicU64::new(1),
            reclaimer: reclaimer.clone(),
            _device: device,
        });
        let judge = Judge::try_new(state)?;
        let callouts = Callouts::register(passive, &core._device, reclaimer, CALLOUTS, judge)?;
        core.callouts = Some(callouts);
        core.engine = Some(Engine::start(passive, &core._device)?);
        Shared::try_new(core).map(Self)
    }

    /// Has no more datagrams taken than these allow, from now on.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn set_caps(&self, caps: Caps) {
        for (cap, value) in self.0.state.caps.iter().zip([caps.per_cpu, caps.per_peer]) {
            // Relaxed: each stands for itself.
            cap.store(value, Ordering::Relaxed);
        }
    }

    /// Why the filter engine, although it runs, shows no packets: somebody else's object has our key, say.
    /// It is tried again every second; meanwhile the sockets do all.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn trouble(&self, passive: &Passive) -> Option<NtError> {
        self.0.engine.as_ref().and_then(|engine| engine.trouble(passive))
    }

    /// Has the datagrams of `sockets` judged, and those of `instead_of` no longer, without a gap.
    ///
    /// `instead_of` is dropped next: the same sockets with other ways, or others, which go then.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what the platform answers; nothing has changed then.
    /// That the filter engine does not run is none: the sockets have all datagrams until it does.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result.
    pub fn intercept(
        &self,
        passive: &Passive,
        sockets: &Sockets<R>,
        ways: Ways,
        instead_of: Option<&Intercepted<R>>,
    ) -> Result<Intercepted<R>, NtError> {
        let context = self.0.contexts.fetch_add(1, Ordering::Relaxed);
        let (port, receiver) = (sockets.port(), sockets.receiver().clone());
        let injector = ways.inject.map(|shape| {
            Injector::new(passive, port, shape, sockets.knows_ecn(), receiver.clone())
        });
        let port_state = Shared::try_new(Port {
            context,
            receiver,
            ways,
            draining: AtomicBool::new(false),
            injector: injector.transpose()?,
        })?;
        self.0.enter(passive, &port_state)?;
        // From here on dropping it undoes what was done.
        let inner = Inner { core: self.0.clone(), port: port_state };
        let intercepted = Intercepted(Closing::new(inner));
        let instead_of = instead_of.map(|old| old.0.port.context);
        self.0.engine()?.want(passive, port, context, instead_of)?;
        Ok(intercepted)
    }
}

impl<R: Receiver> Core<R> {
    fn engine(&self) -> Result<&Engine, NtError> {
        self.engine.as_ref().ok_or(NtError::INVALID_DEVICE_STATE)
    }

    /// Puts a port into the table.
    fn enter(&self, passive: &Passive, port: &Shared<Port<R>>) -> Result<(), NtError> {
        let (table, spare) = (Prepared::try_new(room()?)?, Prepared::try_new(room()?)?);
        let mut book = self.book.lock(passive);
        if book.ports.len() >= PORTS {
            return Err(NtError::INSUFFICIENT_RESOURCES);
        }
        book.ports.push(port.clone());
        book.spares.push(spare);
        self.publish(&book.ports, table);
        Ok(())
    }

    /// Takes a port out of the table.
    fn leave(&self, passive: &Passive, context: u64) {
        let mut book = self.book.lock(passive);
        book.ports.retain(|port| port.context != context);
        // There is one for each port.
        if let Some(table) = book.spares.pop() {
            self.publish(&book.ports, table);
        }
    }

    fn publish(&self, ports: &Ports<R>, mut table: Prepared<Ports<R>>) {
        for port in ports.iter().cloned() {
            // There is room for all.
            let _ = push_within(table.get_mut(), port);
        }
        self.state.ports.publish(table, &self.reclaimer);
    }
}

/// Room for [`PORTS`] of something.
fn room<T>() -> Result<Vec<T>, NtError> {
    let mut room = Vec::new();
    room.try_reserve_exact(PORTS).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
    Ok(room)
}

impl<R: Receiver> Close for Core<R> {
    fn close(&mut self, passive: &Passive) {
        self.engine = None;
        self.callouts = None;
        self.state.holding.wait(passive);
        self.reclaimer.barrier(passive);
    }
}

/// The datagrams of one pair of sockets are judged for as long as this lives.
///
/// Dropped at `PASSIVE_LEVEL`, before the sockets: it waits for runs that are being injected, and
/// not for datagrams that are held.
pub struct Intercepted<R: Receiver>(Closing<Inner<R>>);

struct Inner<R: Receiver> {
    /// Last owner at `PASSIVE_LEVEL`, when [`Close::close`] has taken it out of the table.
    port: Shared<Port<R>>,
    core: Shared<Closing<Core<R>>>,
}

impl<R: Receiver> Intercepted<R> {
    /// Which ways there are; without injection no run is to be sent by this way out.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn ways(&self) -> Ways {
        self.0.port.ways
    }

    /// Injects the run's datagrams, to where `route` leads.
    ///
    /// The [`Receiver`] is told what became of them, maybe before this returns.
    ///
    /// # Errors
    ///
    /// The run as it was, for another way out; nothing of it was sent or counted.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    pub fn inject(
        &self,
        run: Run,
        route: &Route,
        tos: u8,
        level: &AtMostDispatch,
    ) -> Result<(), Run> {
        let Some(injector) = &self.0.port.injector else { return Err(run) };
        let flows = &self.0.core.state.holding.flows;
        injector.send(run, route, tos, (flows, monotonic()), level)
    }
}

impl<R: Receiver> Close for Inner<R> {
    fn close(&mut self, passive: &Passive) {
        let context = self.port.context;
        self.port.draining.store(true, Ordering::Release);
        if let Some(engine) = &self.core.engine {
            engine.unwant(passive, context);
        }
        // A classify that found the port open has ended, and what it took is handed over: only then does
        // the port leave the table, or nobody would count it.
        self.core.reclaimer.barrier(passive);
        dpc::flush(passive);
        self.core.leave(passive, context);
        // Nobody looks at the port any more, and the table that led to it is gone.
        self.core.reclaimer.barrier(passive);
    }
}

/// What is noted of a datagram before its fate is decided.
struct Noted {
    remote: SocketAddr,
    local: Local,
    key: Key,
    ecn: u8,
    /// Bytes of data, as the UDP header says.
    said: Option<usize>,
}

impl<R: Receiver> Judge<R> {
    fn try_new(state: Shared<State<R>>) -> Result<Self, NtError> {
        let count = processor::maximum() as usize;
        let mut dpcs = Vec::new();
        dpcs.try_reserve_exact(count).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for _ in 0..count {
            dpcs.push(Dpc::try_new(state.clone(), drain)?);
        }
        Ok(Self { dpcs, state })
    }

    /// Takes the datagram, or says why not.
    fn take(
        &self,
        packet: &mut Classify<'_>,
        port: &Port<R>,
        metadata: &Metadata,
        level: &Dispatch<'_>,
    ) -> Result<(), Reason> {
        let holding = &self.state.holding;
        let (cpu, now) = (processor::current(level), monotonic());
        let noted = self.note(packet, metadata);
        let key = noted.as_ref().map(|noted| noted.key);
        let seen = self.see(packet, port, metadata, cpu, noted.as_ref());
        let due = key.is_none_or(|key| holding.flows.is_due(key, Way::In, now));
        let seen = Seen { refresh_due: due, ..seen };
        let pushed = match (judge(&seen), noted, packet.packet()) {
            (None, Some(noted), Some(indicated)) => {
                let segment = seen.coalesced.map_or(0, |how| how.size);
                let taken = descriptors(indicated.reference(), segment, |nbl| {
                    let descriptor = Descriptor {
                        nbl,
                        remote: noted.remote,
                        local: noted.local,
                        context: port.context,
                        place: noted.key.place,
                        cpu: cpu as u16,
                        ecn: noted.ecn,
                    };
                    holding.stock.node(level, descriptor).ok()
                });
                self.enqueue(taken, level).map_err(|_full| Reason::RingFull)
            }
            (reason, ..) => Err(reason.unwrap_or(Reason::NoMetadata)),
        };
        match pushed {
            Ok(is_first) => {
                if is_first && let Some(dpc) = self.dpcs.get(cpu as usize) {
                    dpc.queue();
                }
                Ok(())
            }
            Err(reason) => {
                // The firewall sees what passes, unless somebody has already blocked it.
                if let Some(key) = key.filter(|_| reason != Reason::NoRight) {
                    holding.flows.refresh(key, Way::In, now);
                }
                Err(reason)
            }
        }
    }

    /// Puts what was taken on this CPU's ring; `true` if it is the first there.
    fn enqueue(
        &self,
        taken: Option<Chain<Descriptor>>,
        level: &Dispatch<'_>,
    ) -> Result<bool, Full> {
        let State { holding, rings, .. } = &*self.state;
        let mut taken = taken.ok_or(Full)?;
        // Counted before the DPC can take them off the ring; undone if they do not get there.
        taken.iter().for_each(|descriptor| holding.hold(descriptor));
        let pushed = rings.push(level, &mut taken);
        // Empty unless the ring is full.
        holding.release(taken);
        pushed
    }

    /// What the packet says of itself; `None` when anything is missing.
    fn note(&self, packet: &mut Classify<'_>, metadata: &Metadata) -> Option<Noted> {
        let (remote, local) = (packet.remote()?, packet.local()?);
        let interface = packet.interface()?;
        packet.is_loopback()?;
        let transport = metadata.transport_header.filter(|len| *len == udp::HEADER_LEN as u32)?;
        let back = metadata.ip_header?.checked_add(transport)?;
        let [first, second] = packet.packet()?.bytes_before::<2>(back)?;
        let header = packet.packet()?.bytes_before(transport)?;
        let class = match first >> 4 {
            4 => second,
            6 => first << 4 | second >> 4,
            _ => return None,
        };
        Some(Noted {
            remote,
            local: Local { address: local.ip(), interface },
            key: self.state.holding.flows.key(&remote, local.port()),
            ecn: class & 3,
            said: udp::data_len(&header),
        })
    }

    /// Everything the table of reasons asks for, but whether a refresh is due.
    fn see(
        &self,
        packet: &mut Classify<'_>,
        port: &Port<R>,
        metadata: &Metadata,
        cpu: u32,
        noted: Option<&Noted>,
    ) -> Seen {
        let State { holding, caps, .. } = &*self.state;
        let [per_cpu, per_peer] = caps.each_ref().map(|cap| cap.load(Ordering::Relaxed));
        let injected = |injector: &Injector<R>| packet.injected(injector.id()) == Injected::ByUs;
        let injected = port.injector.as_ref().is_some_and(injected);
        let held_of_peer = noted.map_or(0, |noted| holding.flows.held(noted.key.place));
        let (may_decide, loopback) = (packet.may_decide(), packet.is_loopback() == Some(true));
        let data = packet.packet();
        Seen {
            may_decide,
            injected,
            loopback,
            authorisation_required: metadata.authorisation_required,
            fast: port.ways.absorb,
            draining: port.draining.load(Ordering::Acquire),
            whole: noted.is_some(),
            length: data.as_ref().map_or(0, |data| data.len()),
            said: noted.and_then(|noted| noted.said),
            header: data.as_ref().and_then(|data| data.first_bytes()),
            coalesced: data
                .and_then(|data| data.coalesced())
                .map(|how| Coalesced { size: how.size }),
            held_of_cpu: (holding.of_cpu(cpu), per_cpu),
            held_of_peer: (held_of_peer, per_peer),
            refresh_due: false,
        }
    }
}

impl<R: Receiver> Classifier for Judge<R> {
    fn classify(&self, mut packet: Classify<'_>, level: &Dispatch<'_>) {
        // By a filter that is gone by now: nobody's, and so the socket's.
        let Some(port) = find(self.state.ports.read(level), packet.context()) else {
            return packet.permit();
        };
        let metadata = packet.metadata();
        if let Some(injector) = &port.injector {
            injector.learn(packet.layer().is_v4(), &metadata);
        }
        if !packet.layer().is_inbound() {
            return packet.permit();
        }
        match self.take(&mut packet, port, &metadata, level) {
            Ok(()) => packet.absorb(),
            Err(reason) => {
                port.receiver.counted(reason.counter(), 1);
                packet.permit();
            }
        }
    }
}

fn find<R: Receiver>(ports: &Ports<R>, context: u64) -> Option<&Port<R>> {
    ports.iter().find(|port| port.context == context).map(|port| &**port)
}

/// The DPCs' routine: hands over what is on this CPU's ring.
///
/// The table is read for as long as the receivers work; in a DPC the CPU is at `DISPATCH_LEVEL`
/// anyhow.
fn drain<R: Receiver>(state: &Shared<State<R>>, level: &Dispatch<'_>) {
    let mut ring = state.rings.take(level);
    let ports = state.ports.read(level);
    while let Some(context) = ring.iter().next().map(|first| first.context) {
        let Some(mut batch) = Batch::empty(&state.holding) else {
            // Nobody waits for what is taken from here on: it goes back at once.
            return state.holding.release(ring);
        };
        // One adapter at a time; what is another's keeps its order.
        for _ in 0..ring.len() {
            let Some(node) = ring.pop() else { break };
            if node.value().context == context {
                batch.push(node);
            } else {
                ring.push(node);
            }
        }
        // It is there: a port leaves the table after the rings were drained of what was taken for it.
        if let Some(port) = find(ports, context) {
            port.receiver.counted(Counter::Absorbed, batch.len());
            port.receiver.receive(Datagrams::of_callout(batch), level.at_most());
        }
    }
}
