//! Sending by injection: the second way out, beside the sockets.
//!
//! A run is the same for both: every datagram has 48 bytes of room before it, into which a UDP header
//! is written here. What an injection needs besides is the socket's endpoint, which nobody gives
//! out; it is learned from packets that the callouts see, and forgotten with the port. A run that
//! injection does not take comes back and goes by the sockets, and so does one run of each flow in
//! 20 seconds, that the firewall may see it.

use core::{
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use abi::{discard::Discard, statistics::Counter};
use nt::{
    fwp::{Address, Injection, InjectionEvents, InjectionId, Metadata, Outcome, Shape},
    irql::{AtMostDispatch, Passive},
    netio::SockaddrInet,
    status::NtError,
    wsk::SendRequest,
};

use crate::{
    control_messages::{Departure, write},
    endpoint::{Family, decode, encode},
    flows::{Flows, Way},
    route::Route,
    run::Run,
    socket::Receiver,
    udp,
};

/// Runs that may be with the stack at once.
const RUNS: usize = 64;

/// Sends for one port by injection.
pub(crate) struct Injector<R: Receiver> {
    injection: Injection<Ear<R>>,
    v4: Endpoint,
    v6: Endpoint,
    port: u16,
    shape: Shape,
    /// Whether the system knows ECN control messages.
    ecn: bool,
}

/// How one family's datagrams are sent.
#[derive(Default)]
struct Endpoint {
    /// Zero is none.
    handle: AtomicU64,
    compartment: AtomicU32,
}

impl Endpoint {
    /// Notes what a packet of ours says, if it says it and it is news.
    fn learn(&self, metadata: &Metadata) {
        let Some(handle) = metadata.endpoint.filter(|handle| *handle != 0) else { return };
        // Relaxed: the same socket's packets say the same; only the handle's store publishes.
        if self.handle.load(Ordering::Relaxed) != handle {
            self.compartment.store(metadata.compartment.unwrap_or(0), Ordering::Relaxed);
            // Release pairs with the Acquire of `address`.
            self.handle.store(handle, Ordering::Release);
        }
    }

    fn address(&self) -> Option<Address> {
        let endpoint = self.handle.load(Ordering::Acquire);
        let compartment = self.compartment.load(Ordering::Relaxed);
        if endpoint == 0 {
            return None;
        }
        Some(Address { endpoint, compartment })
    }
}

impl<R: Receiver> Injector<R> {
    /// Makes everything for sending from `port`; nothing is sent before an endpoint was learned.
    ///
    /// # Errors
    ///
    /// What the platform answers; [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn new(
        passive: &Passive,
        port: u16,
        shape: Shape,
        ecn: bool,
        receiver: R,
    ) -> Result<Self, NtError> {
        let injection = Injection::new(passive, RUNS, Ear { receiver })?;
        let (v4, v6) = (Endpoint::default(), Endpoint::default());
        Ok(Self { injection, v4, v6, port, shape, ecn })
    }

    /// What packets sent here are known by.
    pub(crate) fn id(&self) -> InjectionId<'_> {
        self.injection.id()
    }

    /// Learns the socket's endpoint from a packet that is for it, or comes from it.
    pub(crate) fn learn(&self, is_v4: bool, metadata: &Metadata) {
        self.endpoint(is_v4).learn(metadata);
    }

    /// Sends a run, or gives it back as it was: nothing of it was sent or counted then.
    pub(crate) fn send(
        &self,
        mut run: Run,
        route: &Route,
        tos: u8,
        (flows, now): (&Flows, Duration),
        level: &AtMostDispatch,
    ) -> Result<(), Run> {
        let family = Family::of(&route.remote.ip());
        let Some(address) = self.endpoint(family == Family::V4).address() else { return Err(run) };
        let key = flows.key(&route.remote, self.port);
        if flows.is_due(key, Way::Out, now) {
            flows.refresh(key, Way::Out, now);
            return Err(run);
        }
        let source = route.source.filter(|source| Family::of(source) == family);
        let source = source.unwrap_or(family.unspecified());
        if run.write_headers(|payload| self.header(source, route, payload)).is_none() {
            return Err(run);
        }
        let ecn = if self.ecn { tos } else { 0 };
        let departure = Departure { source, interface: route.interface, ecn, dscp: 0 };
        let mut request = run.into_request();
        request.address(SockaddrInet(encode(route.remote)), |list| write(&departure, list));
        self.injection
            .send(request, &address, self.shape, level)
            .map_err(|(request, _why)| Run::from_request(request))
    }

    fn header(&self, source: IpAddr, route: &Route, payload: &[u8]) -> Option<[u8; 8]> {
        udp::header((source, self.port), (route.remote.ip(), route.remote.port()), payload)
    }

    const fn endpoint(&self, is_v4: bool) -> &Endpoint {
        if is_v4 { &self.v4 } else { &self.v6 }
    }
}

/// What an injection tells.
struct Ear<R> {
    receiver: R,
}

impl<R: Receiver> InjectionEvents for Ear<R> {
    fn completed(&self, request: SendRequest, outcome: Outcome, _level: &AtMostDispatch) {
        if outcome.sent > 0 {
            self.receiver.sent(outcome.sent, outcome.bytes);
            self.receiver.counted(Counter::InjectedOut, outcome.sent);
        }
        if outcome.failed > 0 {
            self.receiver.discarded(Discard::SendFailed, outcome.failed);
        }
        if let (Some(error), Some(remote)) = (outcome.error, decode(&request.remote().0)) {
            self.receiver.failed(remote, error);
        }
        drop(request);
        self.receiver.returned();
    }
}
