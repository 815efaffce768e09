//! Looks after a tunnel that is up: names of hosts are looked up again, and the MTU follows the network.
//!
//! A name is looked up when its peer does not answer, and when the network changed; a peer that moved by itself (roaming) and answers is
//! left where it is. [`Watch`] is told the time and does what is due; [`run`] is the loop around it, until it is told to stop.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use abi::ioctl::Set;

use super::mtu;
use super::system::{Interface, System};
use crate::change::{Change, PeerChange};
use crate::config::{Config, Endpoint};
use crate::key::PublicKey;
use crate::words::said;

/// A peer that is sent something makes a new handshake every 120 s, and tries for some time: later it does not answer.
/// [whitepaper §6.1, Rekey-After-Time]
const SILENCE: Duration = Duration::from_secs(135);
/// Between two looks at the peers.
const LOOK: Duration = Duration::from_secs(15);
/// Between the first change of the network and what is done about it: changes come many at once.
const SETTLING: Duration = Duration::from_secs(2);
/// Between two look-ups for a peer that does not answer, which doubles from the first to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// What is looked after of one tunnel.
pub struct Watch {
    hosts: Vec<Host>,
    /// Whether the MTU is that of what is around.
    follows: bool,
    look_at: Duration,
    changed_at: Option<Duration>,
    /// What was wrong last with the MTU, and with the peers: it is told once.
    trouble: [Option<String>; 2],
}

/// A peer whose endpoint has a name.
struct Host {
    public_key: PublicKey,
    name: String,
    port: u16,
    /// What was seen of it last.
    seen: Option<Seen>,
    /// Where it was put last by its name.
    put: Option<SocketAddr>,
    again_at: Duration,
    pause: Duration,
    trouble: Option<String>,
}

/// What was seen of a peer.
#[derive(Clone, Copy)]
struct Seen {
    /// When the last handshake was, by the driver's clock.
    handshake: u64,
    /// When that was first seen.
    since: Duration,
    /// What had been sent to it while it was not yet silent.
    sent: u64,
    endpoint: Option<SocketAddr>,
    /// Whether it was sent something, and is silent.
    fails: bool,
}

/// Why a name is looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    PeerIsSilent,
    NetworkChanged,
}

/// What [`run`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An interface, an address or a route of the system changed, or it woke up.
    Changed,
    /// The tunnel is to go down.
    Stop,
}

/// Looks after a tunnel until it is to stop, or nobody is left who could say so. What a person may want to know is given to `tell`.
pub fn run<S: System>(
    mut watch: Watch,
    system: &mut S,
    signals: &Receiver<Signal>,
    mut tell: impl FnMut(&str),
) {
    let began = Instant::now();
    loop {
        let wait = watch.step(began.elapsed(), system, &mut tell);
        match signals.recv_timeout(wait) {
            Ok(Signal::Changed) => watch.changed(began.elapsed()),
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Watch {
    /// What is looked after of the tunnel of this file.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let hosts = config.peers.iter().filter_map(|peer| match &peer.endpoint {
            Some(Endpoint::Host(name, port)) => Some(Host::of(peer.public_key, name, *port)),
            _ => None,
        });
        Self {
            hosts: hosts.collect(),
            follows: config.interface.tunnel.mtu.is_none(),
            look_at: Duration::ZERO,
            changed_at: None,
            trouble: [None, None],
        }
    }

    /// The network changed. It is looked at a little later.
    pub fn changed(&mut self, now: Duration) {
        self.changed_at.get_or_insert(now + SETTLING);
    }

    /// Does what is due, and says how long nothing is.
    pub fn step<S: System>(
        &mut self,
        now: Duration,
        system: &mut S,
        tell: &mut impl FnMut(&str),
    ) -> Duration {
        let changed = self.changed_at.take_if(|at| *at <= now).is_some();
        if changed && self.follows {
            let followed = follow(system);
            tell_once(&mut self.trouble[0], followed, tell);
        }
        if !self.hosts.is_empty() && (changed || self.look_at <= now) {
            self.look_at = now + LOOK;
            let looked = self.look(now, changed, system, tell).map(|()| None);
            tell_once(&mut self.trouble[1], looked, tell);
        }
        let look_at = if self.hosts.is_empty() { Duration::MAX } else { self.look_at };
        let next = self.changed_at.map_or(look_at, |at| at.min(look_at));
        next.saturating_sub(now)
    }

    /// Looks at the peers, and names up that are due.
    fn look<S: System>(
        &mut self,
        now: Duration,
        changed: bool,
        system: &mut S,
        tell: &mut impl FnMut(&str),
    ) -> io::Result<()> {
        let configuration = system.configuration()?;
        let set = Set::parse(&configuration).map_err(|_| io::ErrorKind::InvalidData)?;
        for peer in set.peers() {
            let key = PublicKey(*peer.public_key());
            let host = self.hosts.iter_mut().find(|host| host.public_key == key);
            if let Some(host) = host {
                host.see(now, &peer);
            }
        }
        for host in &mut self.hosts {
            let Some(because) = host.due(now, changed) else { continue };
            let moved = host.look_up(because, system);
            tell_once(&mut host.trouble, moved, tell);
        }
        Ok(())
    }
}

impl Host {
    fn of(public_key: PublicKey, name: &str, port: u16) -> Self {
        let (again_at, pause) = (Duration::ZERO, PAUSE.0);
        let name = name.to_owned();
        Self { public_key, name, port, seen: None, put: None, again_at, pause, trouble: None }
    }

    /// Takes note of what the driver says of the peer.
    fn see(&mut self, now: Duration, peer: &abi::ioctl::Peer<'_>) {
        let (handshake, sent) = (peer.last_handshake_filetime(), peer.tx_bytes());
        let endpoint = peer.endpoint();
        let before = self.seen.filter(|seen| seen.handshake == handshake);
        if before.is_none() {
            // It answered, or is seen for the first time.
            (self.again_at, self.pause) = (now, PAUSE.0);
        }
        let mut seen =
            before.unwrap_or(Seen { handshake, since: now, sent, endpoint, fails: false });
        let silent = now.saturating_sub(seen.since) > SILENCE;
        if !silent {
            seen.sent = sent;
        }
        seen.endpoint = endpoint;
        seen.fails = silent && sent > seen.sent;
        self.put = self.put.or(endpoint);
        self.seen = Some(seen);
    }

    /// Why the name is to be looked up now, if it is.
    fn due(&mut self, now: Duration, changed: bool) -> Option<Because> {
        let seen = self.seen?;
        if (seen.fails || seen.endpoint.is_none()) && self.again_at <= now {
            self.again_at = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
            return Some(Because::PeerIsSilent);
        }
        changed.then_some(Because::NetworkChanged)
    }

    /// Looks the name up, and puts the peer where it leads; says where, if that is another place.
    fn look_up<S: System>(
        &mut self,
        because: Because,
        system: &mut S,
    ) -> io::Result<Option<String>> {
        let named = |why: io::Error| io::Error::other(format!("{}: {}", self.name, said(&why)));
        let addresses = system.resolve(&self.name, self.port).map_err(named)?;
        let current = self.seen.and_then(|seen| seen.endpoint);
        let Some(endpoint) = choose(because, &addresses, current, self.put) else {
            return Ok(None);
        };
        let peer = PeerChange {
            update_only: true,
            endpoint: Some(Endpoint::Address(endpoint)),
            ..PeerChange::of(self.public_key)
        };
        let change = Change { peers: vec![peer], ..Change::default() };
        system.configure(change.encode()).map_err(named)?;
        self.put = Some(endpoint);
        if let Some(seen) = &mut self.seen {
            seen.endpoint = self.put;
        }
        Ok(Some(format!("peer {}: {} is {endpoint} now", self.public_key, self.name)))
    }
}

/// Where a peer is put whose name leads to these addresses, if not where it is.
fn choose(
    because: Because,
    addresses: &[SocketAddr],
    current: Option<SocketAddr>,
    put: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let at = |wanted| addresses.iter().position(|address| Some(*address) == wanted);
    match (because, at(current)) {
        // The one behind that which does not answer: of the other family, perhaps.
        (Because::PeerIsSilent, Some(at)) => {
            addresses.iter().cycle().nth(at + 1).copied().filter(|next| Some(*next) != current)
        }
        (Because::NetworkChanged, Some(_)) => None,
        // It moved by itself, and its name says what it did before.
        (Because::NetworkChanged, None) if at(put).is_some() => None,
        (_, None) => addresses.first().copied(),
    }
}

/// Has the MTU follow what is around; says so, if it did.
fn follow<S: System>(system: &mut S) -> io::Result<Option<String>> {
    let (mtu, before) = (mtu(None, system)?, system.interface()?);
    if before.mtu == mtu {
        return Ok(None);
    }
    system.set_interface(Interface { mtu, ..before })?;
    Ok(Some(format!("the MTU is {mtu} now, and was {}", before.mtu)))
}

/// Tells what was done, and what is wrong unless that was told last.
fn tell_once(
    trouble: &mut Option<String>,
    done: io::Result<Option<String>>,
    tell: &mut impl FnMut(&str),
) {
    let wrong = match done {
        Ok(what) => {
            what.iter().for_each(|what| tell(what));
            None
        }
        Err(why) => Some(said(&why)),
    };
    let before = mem::replace(trouble, wrong);
    trouble.iter().filter(|now| before.as_ref() != Some(now)).for_each(|now| tell(now));
}
