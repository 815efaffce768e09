//! One peer's handshake, and how a tunnel makes and takes the three handshake messages.
//!
//! A step copies what it needs under the peer's lock, computes on the copy, and commits under the
//! lock only if the handshake is still the one it began with: the state's generation and the
//! identity's epoch are what "still" means. So no lock is held over a curve multiplication, several
//! workers may serve one peer at once, and a message that is refused has changed nothing.
//! `PASSIVE_LEVEL`. [WG §5.1, 5.4]

use core::time::Duration;

use abi::discard::Discard;
use zeroize::Zeroizing;

use super::{
    Endpoint, Now, Output, Random,
    cookie::{create_reply, mac2_is_valid, open_reply},
    keypair::{Keypair, SessionFacts},
    limits::{HANDSHAKE_TOS, INITIATION_INTERVAL},
    messages::{CookieReply, INITIATION_LEN, Initiation, Macs, Message, RESPONSE_LEN, Response},
    noise::{
        ConsumedInitiation, CreatedInitiation, NoiseError, Secret, SessionKeys, consume_initiation,
        create_initiation,
    },
    peer::Peer,
    tai64n::Tai64n,
    tunnel::{Interface, Tunnel},
};
use crate::sync::{Ground, Shared};

/// What a peer remembers of handshakes. Lives under the peer's lock.
pub(super) struct Handshake {
    state: State,
    pub(super) preshared_key: Secret,
    /// The greatest timestamp accepted. Survives everything but the peer.
    // spec: WG 5.1-c
    greatest_timestamp: Tai64n,
    last_accepted: Option<Duration>,
    /// The shared secret of the static keys, for the identity of `epoch`.
    static_static: Option<StaticStatic>,
    /// Which identity of the interface the sessions and this state are with.
    pub(super) epoch: u64,
    /// Counts wipes, so that a step that was under way then does not commit.
    generation: u64,
}

enum State {
    Zeroed,
    /// Our initiation waits for its response.
    CreatedInitiation {
        sender: u32,
        created: CreatedInitiation,
    },
}

#[derive(Clone)]
enum StaticStatic {
    /// The peer's key is of low order: no handshake with it can be.
    // spec: WG 5.4.2-d
    Zero,
    Shared(Secret),
}

/// What a step must find unchanged when it commits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket {
    generation: u64,
    epoch: u64,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self {
            state: State::Zeroed,
            preshared_key: Secret::new([0; 32]),
            greatest_timestamp: Tai64n::ZERO,
            last_accepted: None,
            static_static: None,
            epoch: 0,
            generation: 0,
        }
    }

    /// Wipes the pending handshake and returns its index, which is to leave the index table.
    pub(super) fn wipe(&mut self) -> Option<u32> {
        self.generation = self.generation.wrapping_add(1);
        self.set_zeroed()
    }

    /// The interface has another private key.
    pub(super) fn change_identity(&mut self, epoch: u64) -> Option<u32> {
        self.epoch = epoch;
        self.static_static = None;
        self.wipe()
    }

    fn set_zeroed(&mut self) -> Option<u32> {
        let sender = match &self.state {
            State::CreatedInitiation { sender, .. } => Some(*sender),
            State::Zeroed => None,
        };
        // Dropped where it lies: moved out, it would leave its bytes behind.
        self.state = State::Zeroed;
        sender
    }

    fn ticket(&self) -> Ticket {
        Ticket { generation: self.generation, epoch: self.epoch }
    }

    /// Our initiation that a response for `receiver` would answer.
    fn pending(&self, receiver: u32) -> Option<&CreatedInitiation> {
        match &self.state {
            State::CreatedInitiation { sender, created } if *sender == receiver => Some(created),
            _ => None,
        }
    }

    /// Accepts an authentic initiation's timestamp, or says why not.
    // spec: WG 5.1-b, WG 5.1-f
    fn accept_timestamp(&mut self, timestamp: Tai64n, now: Now) -> Result<(), Discard> {
        if timestamp <= self.greatest_timestamp {
            return Err(Discard::StaleTimestamp);
        }
        let since = self.last_accepted.map(|last| now.monotonic.0.saturating_sub(last));
        if since.is_some_and(|since| since < INITIATION_INTERVAL) {
            return Err(Discard::InitiationFlood);
        }
        self.greatest_timestamp = timestamp;
        self.last_accepted = Some(now.monotonic.0);
        Ok(())
    }
}

impl From<NoiseError> for Discard {
    fn from(_: NoiseError) -> Self {
        Self::BadHandshake
    }
}

impl<E> Tunnel<E> {
    /// Takes a handshake message or cookie reply: messages 1 to 3. `PASSIVE_LEVEL`, from several
    /// threads at once.
    ///
    /// The driver tells [`super::HandshakeLoad::observe`] the length of its queue first. Whatever
    /// is to be sent goes to `out`; nothing ever is in answer to what is not authentic, but for a
    /// cookie reply under load.
    ///
    /// # Errors
    ///
    /// Why the message was discarded: [`Discard::MalformedMessage`] (also for transport data),
    /// [`Discard::NotUp`], [`Discard::NoIdentity`], [`Discard::BadMac1`],
    /// [`Discard::CookieRequired`] (a reply was sent), [`Discard::RateLimited`],
    /// [`Discard::BadHandshake`], [`Discard::UnknownPeer`], [`Discard::StaleTimestamp`],
    /// [`Discard::InitiationFlood`], [`Discard::UnknownReceiver`], [`Discard::BadCookieReply`],
    /// [`Discard::PeerGone`], [`Discard::OutOfMemory`].
    // spec: WG 5.3-c, WG 5.1-g, WG 5.1-h
    pub fn consume(
        &self,
        ground: &impl Ground,
        datagram: &[u8],
        from: &Endpoint,
        now: Now,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) -> Result<(), Discard> {
        let message = Message::parse(datagram)?;
        if !self.is_up() {
            return Err(Discard::NotUp);
        }
        match message {
            Message::Initiation(message) => {
                let interface = self.interface(ground).ok_or(Discard::NoIdentity)?;
                let gate = Gate { interface: &interface, from, now };
                self.judge(ground, &gate, message.sender, &message.macs, random, out)?;
                self.respond(ground, &gate, &message, random, out)
            }
            Message::Response(message) => {
                let interface = self.interface(ground).ok_or(Discard::NoIdentity)?;
                let gate = Gate { interface: &interface, from, now };
                self.judge(ground, &gate, message.sender, &message.macs, random, out)?;
                self.take_response(ground, &gate, &message, out)
            }
            // spec: WG 5.4.7-g — before any test of MACs or load.
            Message::CookieReply(message) => self.take_cookie(ground, &message, now),
            Message::Transport(_) => Err(Discard::MalformedMessage),
        }
    }

    /// Decides whether a message is worth a curve multiplication.
    // spec: WG 5.3-b, WG 5.4.7-e, WG 5.4.4-c
    fn judge(
        &self,
        ground: &impl Ground,
        gate: &Gate<'_>,
        sender: u32,
        macs: &Macs<'_>,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) -> Result<(), Discard> {
        let Gate { interface, from, now } = gate;
        if !interface.mac_keys.mac1_key().is_valid(macs) {
            return Err(Discard::BadMac1);
        }
        if !self.load().is_under_load(now.monotonic) {
            return Ok(());
        }
        let cookie = self.cookie_for(ground, from.remote, now.monotonic, random);
        if !mac2_is_valid(&cookie, macs) {
            let reply = create_reply(&interface.mac_keys, &cookie, sender, macs, random);
            out.send(None, from, &reply, 0);
            return Err(Discard::CookieRequired);
        }
        if !self.load().allow(ground, from.remote.ip(), now.monotonic) {
            return Err(Discard::RateLimited);
        }
        Ok(())
    }

    /// Takes an initiation and answers it.
    // spec: WG 5.4.2-c
    fn respond(
        &self,
        ground: &impl Ground,
        gate: &Gate<'_>,
        message: &Initiation<'_>,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) -> Result<(), Discard> {
        let Gate { interface, from, now } = *gate;
        let opened = consume_initiation(&interface.identity, message)?;
        let peer = self.find_peer(ground, &opened.initiator).ok_or(Discard::UnknownPeer)?;
        let secret = self.static_static(ground, &peer, interface).ok_or(Discard::BadHandshake)?;
        let (consumed, timestamp) = opened.authenticate(&secret, message)?;
        let timestamp = Tai64n(timestamp);
        let (ticket, preshared_key) = peer.secrets.handshake.with(ground, |handshake| {
            if handshake.epoch != interface.epoch || !peer.is_enabled() {
                return Err(Discard::PeerGone);
            }
            handshake.accept_timestamp(timestamp, now)?;
            Ok((handshake.ticket(), handshake.preshared_key.clone()))
        })?;
        let index = self.index().insert(ground, &peer, random).ok_or(Discard::OutOfMemory)?;
        let (mut response, keypair) =
            match answer(consumed, &peer, &preshared_key, [index, message.sender], now, random) {
                Ok(answer) => answer,
                Err(reason) => {
                    self.index().remove(ground, index, &peer);
                    return Err(reason);
                }
            };
        let is_newest = |handshake: &Handshake| handshake.greatest_timestamp == timestamp;
        if !self.begin_session(ground, &keypair, ticket, is_newest) {
            self.index().remove(ground, index, &peer);
            return Err(Discard::PeerGone);
        }
        // spec: WG 2.1-e — the endpoint first, then the response to it.
        peer.roam(ground, from);
        peer.add_rx_bytes(INITIATION_LEN as u64);
        peer.secrets.jar.with(ground, |jar| jar.seal(&peer.mac_keys, &mut response, now.monotonic));
        // E6
        peer.timers.handshake_sent(now.nanoseconds());
        peer.arm_erase(now);
        self.authentic(ground, &peer, now);
        peer.add_tx_bytes(RESPONSE_LEN as u64);
        out.send(Some(&peer), from, &response, HANDSHAKE_TOS);
        Ok(())
    }

    /// Takes a response and confirms the session with the first packet.
    // spec: WG 5.4.3-c
    fn take_response(
        &self,
        ground: &impl Ground,
        gate: &Gate<'_>,
        message: &Response<'_>,
        out: &mut dyn Output<E>,
    ) -> Result<(), Discard> {
        let Gate { interface, from, now } = *gate;
        let receiver = message.receiver;
        let peer = self.index().handshake(ground, receiver).ok_or(Discard::UnknownReceiver)?;
        if peer.tunnel != self.number() {
            return Err(Discard::UnknownReceiver);
        }
        let (created, preshared_key, ticket) = peer
            .secrets
            .handshake
            .with(ground, |handshake| {
                let pending = handshake.pending(receiver)?;
                (handshake.epoch == interface.epoch)
                    .then(|| (pending.clone(), handshake.preshared_key.clone(), handshake.ticket()))
            })
            .ok_or(Discard::UnknownReceiver)?;
        let keys = created.consume_response(&interface.identity, &preshared_key, message)?;
        let facts = SessionFacts {
            local_index: receiver,
            remote_index: message.sender,
            born: now.monotonic,
            initiator: true,
        };
        let keypair =
            Keypair::try_new(peer.clone(), &keys, &facts).map_err(|_| Discard::OutOfMemory)?;
        let is_pending = |handshake: &Handshake| handshake.pending(receiver).is_some();
        if !self.begin_session(ground, &keypair, ticket, is_pending) {
            return Err(Discard::UnknownReceiver);
        }
        // E7
        peer.roam(ground, from);
        peer.add_rx_bytes(RESPONSE_LEN as u64);
        peer.arm_erase(now);
        peer.timers.handshake_complete();
        peer.note_handshake(now);
        self.authentic(ground, &peer, now);
        // spec: WG 6.3-e
        out.flush(&peer, true);
        Ok(())
    }

    /// Takes a cookie reply; it changes nothing but the cookie.
    // spec: WG 5.4.7-f, WG 6.6-a
    fn take_cookie(
        &self,
        ground: &impl Ground,
        message: &CookieReply<'_>,
        now: Now,
    ) -> Result<(), Discard> {
        let (peer, mac1) = self.awaited(ground, message)?;
        let cookie = open_reply(&peer.mac_keys, message, &mac1).ok_or(Discard::BadCookieReply)?;
        let kept = peer.secrets.jar.with(ground, |jar| jar.keep(&mac1, &cookie, now.monotonic));
        if kept { Ok(()) } else { Err(Discard::BadCookieReply) }
    }

    /// The peer whose message a cookie reply may answer, and that message's mac1.
    pub(super) fn awaited(
        &self,
        ground: &impl Ground,
        message: &CookieReply<'_>,
    ) -> Result<(Shared<Peer<E>>, [u8; 16]), Discard> {
        let peer = self.index().either(ground, message.receiver);
        let peer = peer.filter(|peer| peer.tunnel == self.number());
        let peer = peer.ok_or(Discard::UnknownReceiver)?;
        let unanswered = peer.secrets.jar.with(ground, |jar| jar.unanswered());
        unanswered.map(|mac1| (peer, mac1)).ok_or(Discard::BadCookieReply)
    }

    /// Sends an initiation to a peer, if one may be sent now (E2, E3).
    // spec: WG 5.4.2-e — every one is made anew.
    pub(super) fn send_initiation(
        &self,
        ground: &impl Ground,
        peer: &Shared<Peer<E>>,
        now: Now,
        random: &mut dyn Random,
        out: &mut dyn Output<E>,
    ) {
        if !self.is_up() || !peer.is_enabled() {
            return;
        }
        // The persistent keepalive asks again, whatever becomes of this.
        let _scheduled_by_the_caller = peer.traversal(now);
        // spec: WG 3-a — no handshake starts without an endpoint.
        let (Some(interface), Some(endpoint)) = (self.interface(ground), peer.endpoint(ground))
        else {
            return;
        };
        if !peer.timers.claim_initiation(now.nanoseconds()) {
            let _scheduled_by_the_caller = peer.timers.request_initiation(now.nanoseconds());
            return;
        }
        peer.timers.initiation_sent(now.nanoseconds());
        let Some(mut message) = self.initiate(ground, peer, &interface, now, random) else {
            return;
        };
        peer.secrets.jar.with(ground, |jar| jar.seal(&peer.mac_keys, &mut message, now.monotonic));
        peer.add_tx_bytes(INITIATION_LEN as u64);
        out.send(Some(peer), &endpoint, &message, HANDSHAKE_TOS);
    }

    /// Makes an initiation and the state that waits for its response. `None` if that cannot be, now
    /// or with this key; the retransmit timer runs in any case.
    fn initiate(
        &self,
        ground: &impl Ground,
        peer: &Shared<Peer<E>>,
        interface: &Interface,
        now: Now,
        random: &mut dyn Random,
    ) -> Option<[u8; INITIATION_LEN]> {
        let secret = self.static_static(ground, peer, interface)?;
        let ticket = peer.secrets.handshake.with(ground, |handshake| handshake.ticket());
        let timestamp = self.next_timestamp(ground, now);
        let sender = self.index().insert(ground, peer, random)?;
        let mut ephemeral = Zeroizing::new([0; 32]);
        random.fill(&mut *ephemeral);
        let created = create_initiation(
            &interface.identity,
            peer.public_key(),
            &secret,
            ephemeral,
            sender,
            &timestamp.0,
        );
        let committed = created.ok().and_then(|(message, created)| {
            peer.secrets.handshake.with(ground, |handshake| {
                if handshake.ticket() != ticket
                    || ticket.epoch != interface.epoch
                    || !peer.is_enabled()
                {
                    return None;
                }
                // spec: WG 5.4-p — one handshake per peer: this one takes the slot.
                let replaced = handshake.set_zeroed();
                handshake.state = State::CreatedInitiation { sender, created };
                Some((message, replaced))
            })
        });
        let stale = match &committed {
            Some((_, replaced)) => *replaced,
            None => Some(sender),
        };
        if let Some(stale) = stale {
            self.index().remove(ground, stale, peer);
        }
        committed.map(|(message, _)| message)
    }

    /// Puts a session in place if the handshake is still the one it came from.
    ///
    /// Sessions and index table change under the handshake's lock, so that a wipe comes wholly
    /// before or wholly after.
    fn begin_session(
        &self,
        ground: &impl Ground,
        keypair: &Shared<Keypair<E>>,
        ticket: Ticket,
        is_current: impl FnOnce(&Handshake) -> bool,
    ) -> bool {
        let peer = keypair.peer();
        let begun = peer.secrets.handshake.with(ground, |handshake| {
            if handshake.ticket() != ticket || !peer.is_enabled() || !is_current(handshake) {
                return None;
            }
            if !self.index().replace(ground, keypair) {
                return None;
            }
            // spec: WG 5.4.5-b — the ephemeral key goes with the state.
            let pending = handshake.set_zeroed().filter(|index| *index != keypair.local_index());
            let session = keypair.clone();
            let retired = peer.sessions.with(ground, |sessions| match keypair.is_initiator() {
                true => sessions.begin_as_initiator(session),
                false => sessions.begin_as_responder(session),
            });
            Some((pending, retired))
        });
        let Some((pending, retired)) = begun else { return false };
        if let Some(pending) = pending {
            self.index().remove(ground, pending, peer);
        }
        peer.retire(ground, retired.into_iter());
        true
    }

    /// What every authentic handshake message does to the timers, and their schedule.
    fn authentic(&self, ground: &impl Ground, peer: &Shared<Peer<E>>, now: Now) {
        peer.timers.cancel(super::timers::Timer::NewHandshake);
        let _scheduled_below = peer.traversal(now);
        self.reschedule(ground, peer);
    }

    /// The shared secret of our static key and the peer's, computed once per identity.
    fn static_static(
        &self,
        ground: &impl Ground,
        peer: &Peer<E>,
        interface: &Interface,
    ) -> Option<Secret> {
        let known = peer.secrets.handshake.with(ground, |handshake| {
            let known = handshake.static_static.clone();
            known.filter(|_| handshake.epoch == interface.epoch)
        });
        let known = known.unwrap_or_else(|| {
            let computed = interface.identity.static_static(peer.public_key());
            let computed = computed.map_or(StaticStatic::Zero, StaticStatic::Shared);
            peer.secrets.handshake.with(ground, |handshake| {
                if handshake.epoch == interface.epoch {
                    handshake.static_static = Some(computed.clone());
                }
            });
            computed
        });
        match known {
            StaticStatic::Zero => None,
            StaticStatic::Shared(secret) => Some(secret),
        }
    }
}

/// Where a handshake message came to, where from, and when.
struct Gate<'g> {
    interface: &'g Interface,
    from: &'g Endpoint,
    now: Now,
}

/// Makes the response and the responder's session. `indices` are ours and the initiator's.
fn answer<E>(
    consumed: ConsumedInitiation,
    peer: &Shared<Peer<E>>,
    preshared_key: &Secret,
    indices: [u32; 2],
    now: Now,
    random: &mut dyn Random,
) -> Result<([u8; RESPONSE_LEN], Shared<Keypair<E>>), Discard> {
    let [local_index, remote_index] = indices;
    let mut ephemeral = Zeroizing::new([0; 32]);
    random.fill(&mut *ephemeral);
    let (response, keys): (_, SessionKeys) =
        consumed.create_response(preshared_key, ephemeral, local_index, remote_index)?;
    let facts = SessionFacts { local_index, remote_index, born: now.monotonic, initiator: false };
    let keypair = Keypair::try_new(peer.clone(), &keys, &facts);
    Ok((response, keypair.map_err(|_| Discard::OutOfMemory)?))
}

#[cfg(test)]
mod tests;
