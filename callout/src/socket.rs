//! The sockets that own the port: one per address family, on the same port.
//!
//! The pair is exclusive (`SO_EXCLUSIVEADDRUSE`): without it another program could bind the same
//! port on one of our addresses and take the tunnel's datagrams, and we could open beside one that
//! has, and never hear why nothing arrives. The price is that a port is refused while anybody has
//! it on any address. A family that the machine lacks is a warning, not a failure.
//!
//! Nothing here holds a lock. What arrives goes to the [`Receiver`] in the callback that brought
//! it, and stays WSK's memory until the receiver drops it; what is sent is a [`Run`], which comes
//! back to its pool by the completion of the call.
//!
//! Opening and closing: `PASSIVE_LEVEL`. Everything else: any thread, `<= DISPATCH_LEVEL`.

use core::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use abi::{discard::Discard, statistics::Counter};
use nt::{
    irql::{AtMostDispatch, Passive},
    netio::SockaddrInet,
    process::Process,
    status::NtError,
    wsk::{self, CONTROL_LEN, Events, Provider, Refused, SendRequest, Sender, Socket},
};

use crate::{
    control_messages::{DEPARTURE_LEN, Departure, without_dscp, write, write_segment},
    datagrams::{Datagrams, Sequence},
    endpoint::{Family, decode, encode},
    parts::{Fate, Parts},
    route::Route,
    run::Run,
};

/// How often a port is tried anew that is free in one family and taken in the other.
const PORT_ATTEMPTS: usize = 100;

const _: () = assert!(DEPARTURE_LEN == CONTROL_LEN);

/// The most bytes of datagrams that come as one: whatever a UDP header can say.
const COALESCED_BYTES: u32 = 65_535 - 8;

/// Who the sockets work for. Called on any CPU, on several at once.
///
/// Every datagram that the sockets were given, from either side, ends in exactly one of these:
/// [`Receiver::receive`], [`Receiver::sent`] or [`Receiver::discarded`].
///
/// Each socket keeps a clone until it has closed, and drops it at `PASSIVE_LEVEL`. A receiver that
/// owns its sockets is thus a cycle, which its owner breaks by dropping the sockets.
pub trait Receiver: Clone + Send + Sync + 'static {
    /// Datagrams arrived. They go back to WSK when they are dropped, on any thread; that should be
    /// soon, and the sockets do not close before.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn receive(&self, datagrams: Datagrams, level: &AtMostDispatch);

    /// Datagrams of a run were handed to the network, with so many bytes in all.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Sockets::send`].
    fn sent(&self, datagrams: usize, bytes: usize);

    /// Datagrams went no further: to be counted, each once.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Sockets::send`].
    fn discarded(&self, reason: Discard, datagrams: usize);

    /// A run is back in its pool, sent or not.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Sockets::send`].
    fn returned(&self);

    /// Datagrams took one of several ways: to be counted, each once. Besides that they end as others do.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; maybe inside a classify, so that nothing may be called or locked.
    fn counted(&self, counter: Counter, datagrams: usize);

    /// The stack does not cut apart what it is sent by the socket of a family, although it said that it
    /// would; it is not asked to any more. At most once for each socket.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Sockets::send`].
    fn segmentation_refused(&self, family: Family, error: NtError, level: &AtMostDispatch);

    /// Whether transport data that is for `receiver` is for a session of ours.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn has_session(&self, receiver: u32, level: &AtMostDispatch) -> bool;

    /// Datagrams that came as one do not come apart as the system says: it is to be asked to keep them
    /// apart ([`Sockets::coalesce`]), elsewhere and at `PASSIVE_LEVEL`. May come repeatedly.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn coalescing_distrusted(&self, level: &AtMostDispatch);

    /// Sending to `remote` failed, as was already counted: its route may be stale.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, and maybe inside [`Sockets::send`].
    fn failed(&self, remote: SocketAddr, error: NtError);

    /// The transport under a socket is gone. The sockets are to be dropped, since they hold the
    /// port, and opened anew, elsewhere and at `PASSIVE_LEVEL`; until then what is sent in that
    /// family is discarded. May come repeatedly.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn lost(&self, family: Family);
}

/// The sockets of one port; closed on drop.
///
/// Dropping waits, at `PASSIVE_LEVEL`, for the datagrams held and the runs in flight. It must not
/// happen in a call to the [`Receiver`]. A new pair is opened before the old one is dropped.
pub struct Sockets<R: Receiver> {
    v6: Result<Half<R>, NtError>,
    v4: Result<Half<R>, NtError>,
    port: u16,
    receiver: R,
}

/// The socket of one family.
struct Half<R: Receiver> {
    socket: Socket<Ear<R>>,
    /// Whether the system knows ECN control messages.
    ecn: bool,
}

impl<R: Receiver> Sockets<R> {
    /// Opens both sockets on `port`, or on a free one for zero, and lets datagrams come.
    ///
    /// They belong to the process `owner` in the eyes of the firewall.
    ///
    /// # Errors
    ///
    /// [`NtError::ADDRESS_ALREADY_EXISTS`] when the port is taken in either family, or when for
    /// zero a hundred ports were; [`NtError::ACCESS_DENIED`] when it is reserved;
    /// [`NtError::INSUFFICIENT_RESOURCES`]; what WSK answers when neither family is there.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn open(
        level: &Passive,
        provider: &Provider,
        port: u16,
        owner: &Process,
        receiver: R,
    ) -> Result<Self, NtError> {
        let mut outcome = Err(NtError::ADDRESS_ALREADY_EXISTS);
        for _ in 0..PORT_ATTEMPTS {
            outcome = Self::attempt(level, provider, port, owner, &receiver);
            match &outcome {
                // Free in one family, taken in the other: another free port may be so in both.
                Err(error) if port == 0 && is_taken(*error) => {}
                _ => break,
            }
        }
        let mut sockets = outcome?;
        for half in [&mut sockets.v4, &mut sockets.v6].into_iter().flatten() {
            half.socket.listen(level)?;
        }
        Ok(sockets)
    }

    /// Binds both families to one port.
    // spec: WG 2.1-c
    fn attempt(
        level: &Passive,
        provider: &Provider,
        port: u16,
        owner: &Process,
        receiver: &R,
    ) -> Result<Self, NtError> {
        let bind = |family, port| match Half::bound(level, provider, family, port, owner, receiver)
        {
            Err(error) if is_fatal(error) => Err(error),
            half => Ok(half),
        };
        let mut v4 = bind(Family::V4, port)?;
        let v4_port = v4.as_mut().ok().map(|half| half.port(level)).transpose()?;
        let mut v6 = bind(Family::V6, v4_port.unwrap_or(port))?;
        // An IPv4 socket takes the option from everybody, and on most builds nothing follows: the IPv6 one
        // tells for both.
        let dscp = v6.as_mut().is_ok_and(|half| half.socket.traffic_class(level).is_ok());
        for half in [&v4, &v6].into_iter().flatten() {
            half.socket.events().dscp.store(dscp, Ordering::Relaxed);
        }
        let v6_port = v6.as_mut().ok().map(|half| half.port(level)).transpose()?;
        let port = match (v4_port.or(v6_port), &v4) {
            (Some(port), _) => port,
            (None, Err(error)) => return Err(*error),
            (None, Ok(_)) => return Err(NtError::UNSUCCESSFUL),
        };
        Ok(Self { v6, v4, port, receiver: receiver.clone() })
    }

    /// The port, of both families.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The family that has no socket, and why; `None` when both have.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn missing(&self) -> Option<(Family, NtError)> {
        let v4 = self.v4.as_ref().err().map(|error| (Family::V4, *error));
        v4.or_else(|| self.v6.as_ref().err().map(|error| (Family::V6, *error)))
    }

    /// Whether the transport under one of the sockets is gone, so that they must be opened anew.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        [&self.v4, &self.v6].into_iter().flatten().any(|half| half.socket.is_lost())
    }

    /// Who the sockets work for.
    pub(crate) const fn receiver(&self) -> &R {
        &self.receiver
    }

    /// Whether the system knows ECN control messages in every family that has a socket.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn knows_ecn(&self) -> bool {
        [&self.v4, &self.v6].into_iter().flatten().all(|half| half.ecn)
    }

    /// Lets the stack give datagrams of one sender several as one, or no longer. Those that come so are cut
    /// apart either way.
    ///
    /// # Errors
    ///
    /// What WSK answers of one of the sockets, for instance that it does not know how; the other one follows
    /// all the same.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, one at a time.
    pub fn coalesce(&self, level: &Passive, wanted: bool) -> Result<(), NtError> {
        let mut outcome = Ok(());
        for half in [&self.v4, &self.v6].into_iter().flatten() {
            let ear = half.socket.events();
            if ear.asked.load(Ordering::Relaxed) == wanted {
                continue;
            }
            // Before the first comes; and some may come when no more are asked for.
            ear.coalesced.store(true, Ordering::Relaxed);
            match half.socket.coalesce(level, if wanted { COALESCED_BYTES } else { 0 }) {
                Ok(()) => ear.asked.store(wanted, Ordering::Relaxed),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Sends the run's datagrams to where `route` leads, by one call.
    ///
    /// Those that lie back to back are handed over as one, to be cut apart by the stack, if that can;
    /// if it then does not, the same run is sent once more without.
    ///
    /// Of `tos` the ECN bits are sent, and the DSCP if it has one, where the system can; otherwise they are the
    /// stack's. The [`Receiver`] is told what became of the datagrams, maybe before this returns.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    pub fn send(&self, run: Run, route: &Route, tos: u8, _level: &AtMostDispatch) {
        let datagrams = run.len();
        if datagrams == 0 {
            return;
        }
        let remote = route.remote.ip();
        let family = Family::of(&remote);
        let half = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let Ok(half) = half else {
            return self.receiver.discarded(Discard::NoSocket, datagrams);
        };
        let source = route.source.filter(|source| Family::of(source) == family);
        let departure = Departure {
            source: source.unwrap_or(family.unspecified()),
            interface: route.interface,
            ecn: if half.ecn { tos } else { 0 },
            dscp: if half.socket.events().dscp.load(Ordering::Relaxed) { tos & !3 } else { 0 },
        };
        let segment = run.segment().filter(|_| half.socket.events().segments());
        let mut request = run.into_request();
        request.address(SockaddrInet(encode(route.remote)), |list| write(&departure, list));
        if let Some(segment) = segment.filter(|segment| request.joins(*segment)) {
            request.join(segment, |list| write_segment(segment, list));
        }
        if half.socket.send(request).is_err() {
            let lost = half.socket.is_lost();
            let reason = if lost { Discard::NoSocket } else { Discard::Stopping };
            self.receiver.discarded(reason, datagrams);
        }
    }
}

/// Whether a port is somebody else's, or reserved.
fn is_taken(error: NtError) -> bool {
    error == NtError::ADDRESS_ALREADY_EXISTS || error == NtError::ACCESS_DENIED
}

/// Whether opening fails for it; otherwise it is the family that is missing.
fn is_fatal(error: NtError) -> bool {
    is_taken(error) || error == NtError::INSUFFICIENT_RESOURCES
}

impl<R: Receiver> Half<R> {
    /// A socket of `family`, bound to `port` on every address.
    // spec: WG 13-b — no option keeps the stack from cutting datagrams.
    fn bound(
        level: &Passive,
        provider: &Provider,
        family: Family,
        port: u16,
        owner: &Process,
        receiver: &R,
    ) -> Result<Self, NtError> {
        let ear = Ear::new(receiver.clone(), family);
        let mut socket = Socket::create(level, provider, family.number(), owner.clone(), ear)?;
        socket.exclusive(level)?;
        socket.only_its_family(level)?;
        socket.packet_information(level)?;
        // Older builds do not know it, and say so in more than one way.
        let ecn = socket.congestion_notification(level).is_ok();
        let segments = socket.segments(level);
        socket.events().segments.store(segments, Ordering::Relaxed);
        let local = SocketAddr::new(family.unspecified(), port);
        socket.bind(level, SockaddrInet(encode(local)))?;
        Ok(Self { socket, ecn })
    }

    /// The port the socket is bound to.
    fn port(&mut self, level: &Passive) -> Result<u16, NtError> {
        let local = self.socket.local_address(level)?;
        decode(&local.0).map(|local| local.port()).ok_or(NtError::UNSUCCESSFUL)
    }
}

/// What the socket of one family tells.
struct Ear<R> {
    receiver: R,
    family: Family,
    /// Whether the stack cuts apart what it is sent; relaxed, since nothing depends on when that is seen.
    segments: AtomicBool,
    /// Whether the stack takes a DSCP; the same.
    dscp: AtomicBool,
    /// Whether datagrams may come several as one, and whether that was ever asked for.
    asked: AtomicBool,
    coalesced: AtomicBool,
}

impl<R: Receiver> Ear<R> {
    const fn new(receiver: R, family: Family) -> Self {
        let [segments, dscp, asked, coalesced] = [const { AtomicBool::new(false) }; 4];
        Self { receiver, family, segments, dscp, asked, coalesced }
    }

    /// Hands datagrams on in their order, those that are several cut apart.
    fn cut_apart(&self, mut datagrams: wsk::Datagrams, level: &AtMostDispatch) {
        let has_session = |receiver| self.receiver.has_session(receiver, level);
        let (mut plain, mut before) = (None, 0);
        while let Some(first) = datagrams.iter().next() {
            let fate = Fate::of(&first, has_session);
            if fate != Fate::Whole {
                let list = plain.take().map(Datagrams::of_socket);
                self.hand_on(list, &mut before, true, level);
            }
            let Some(mut to) = plain.take().or_else(|| datagrams.split()) else {
                // The socket is closing.
                return self.receiver.discarded(Discard::NotUp, datagrams.len());
            };
            datagrams.move_first(&mut to);
            let more = !datagrams.is_empty();
            match fate {
                Fate::Whole => plain = Some(to),
                Fate::Cut(size) => self.hand_on(self.parts(to, size), &mut before, more, level),
                Fate::Discarded(ours) => {
                    self.receiver.discarded(Discard::BadCoalescing, 1);
                    if ours {
                        self.receiver.coalescing_distrusted(level);
                    }
                }
            }
        }
        self.hand_on(plain.map(Datagrams::of_socket), &mut before, false, level);
    }

    /// Hands on the next of the lists that one becomes.
    fn hand_on(
        &self,
        datagrams: Option<Datagrams>,
        before: &mut usize,
        more: bool,
        level: &AtMostDispatch,
    ) {
        let Some(datagrams) = datagrams else { return };
        let sequence = Sequence { before: *before, more };
        *before = before.saturating_add(1);
        self.receiver.receive(datagrams.in_sequence(sequence), level);
    }

    /// The parts of a datagram that is several; `None` if they had to be discarded.
    fn parts(&self, one: wsk::Datagrams, size: usize) -> Option<Datagrams> {
        match Parts::try_new(one, size) {
            Ok(parts) => {
                self.receiver.counted(Counter::CoalescedIn, parts.len());
                self.receiver.counted(Counter::CoalescedIndications, 1);
                Some(Datagrams::of_parts(parts))
            }
            Err((reason, count)) => {
                self.receiver.discarded(reason, count);
                None
            }
        }
    }

    fn segments(&self) -> bool {
        self.segments.load(Ordering::Relaxed)
    }

    /// Takes the DSCP from a run, and from all that follow: it may have failed for that. False if it had none.
    fn gives_up_dscp(&self, request: &mut SendRequest) -> bool {
        let had_one = request.shorten(without_dscp);
        if had_one {
            self.dscp.store(false, Ordering::Relaxed);
        }
        had_one
    }

    /// Counts a run that was sent: it left as it was handed over at last.
    fn left(&self, request: &SendRequest, bytes: usize, level: &AtMostDispatch) {
        let (datagrams, sends) = request.joined();
        if sends > 0 {
            self.receiver.counted(Counter::SegmentedOut, datagrams);
            self.receiver.counted(Counter::SegmentedSends, sends);
        }
        // The very same run was refused when it was to be cut apart, and nothing else was different.
        if let Some(error) = request.parted_for()
            && self.segments.swap(false, Ordering::Relaxed)
        {
            self.receiver.segmentation_refused(self.family, error, level);
        }
        self.receiver.sent(request.message_count(), bytes);
    }
}

impl<R: Receiver> Events for Ear<R> {
    fn received(&self, datagrams: wsk::Datagrams, level: &AtMostDispatch) {
        if self.coalesced.load(Ordering::Relaxed) {
            return self.cut_apart(datagrams, level);
        }
        self.receiver.receive(Datagrams::of_socket(datagrams), level);
    }

    fn refused(&self, count: usize, why: Refused, _level: &AtMostDispatch) {
        let reason = match why {
            Refused::Full => Discard::HeldFull,
            Refused::Closing => Discard::NotUp,
        };
        self.receiver.discarded(reason, count);
    }

    fn sent(
        &self,
        mut request: SendRequest,
        outcome: Result<usize, NtError>,
        sender: Sender<'_>,
        level: &AtMostDispatch,
    ) {
        let datagrams = request.message_count();
        match outcome {
            Ok(bytes) => self.left(&request, bytes, level),
            Err(error)
                if may_be_about_messages(error)
                    && (request.part(error) || self.gives_up_dscp(&mut request)) =>
            {
                let Err(back) = sender.send(request) else { return };
                request = back;
                self.receiver.discarded(Discard::Stopping, datagrams);
            }
            Err(error) => {
                self.receiver.discarded(Discard::SendFailed, datagrams);
                if let Some(remote) = decode(&request.remote().0) {
                    self.receiver.failed(remote, error);
                }
            }
        }
        drop(request);
        self.receiver.returned();
    }

    fn lost(&self, _level: &AtMostDispatch) {
        self.receiver.lost(self.family);
    }
}

/// Whether a send may have failed because of what its control messages asked for. The same statuses have other
/// reasons, too: whether it was that it was to be cut apart, the same run tells, sent without.
fn may_be_about_messages(error: NtError) -> bool {
    [
        NtError::INVALID_PARAMETER,
        NtError::NOT_SUPPORTED,
        NtError::NOT_IMPLEMENTED,
        NtError::INVALID_DEVICE_REQUEST,
        NtError::INVALID_BUFFER_SIZE,
    ]
    .contains(&error)
}
