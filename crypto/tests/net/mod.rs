//! Two tunnels, a lossy wire and a clock that jumps from event to event.
//!
//! [`Host`] is what a driver is to the protocol: it seals, opens, stages, flushes and services. [`Pair`] joins two of
//! them by a wire that may lose, delay, reorder and duplicate, and keeps a trace of every datagram. Nothing sleeps, and
//! everything random comes from one seed, which is printed when a test fails.
#![allow(dead_code)] // Each test file uses its part.

pub(crate) mod model;
pub(crate) mod request;

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use abi::{discard::Discard, ioctl::Set};
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{KeyInit, Mac, consts::U16},
};
use crypto::{
    aead::{self, Job, Piece, Source, Verdict},
    protocol::{
        Endpoint, HandshakeLoad, IndexTable, Instant, Local, NoSession, Now, Output, Peer, Random,
        Received, Sent, Tunnel, Wants,
        hash_table::HashKey,
        messages::{Message, Transport},
        receive::InnerPacket,
        send::padded_len,
    },
    sync::{Shared, Unpinned},
};

pub(crate) use request::Request;

/// The lock's ground on a host.
pub(crate) const G: Unpinned = Unpinned;
/// When the virtual clocks begin.
pub(crate) const BOOT: Duration = Duration::from_secs(1000);
pub(crate) const EPOCH: Duration = Duration::from_secs(1_700_000_000);

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// What the "driver" keeps with a peer: it counts the peers that are alive on this thread, that is, in this test.
pub(crate) struct Attached;

impl Attached {
    pub(crate) fn live() -> usize {
        LIVE.get()
    }
}

impl Default for Attached {
    fn default() -> Self {
        LIVE.set(LIVE.get() + 1);
        Self
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        LIVE.set(LIVE.get() - 1);
    }
}

/// SplitMix64: reproducible, and random enough for a wire.
#[derive(Clone)]
pub(crate) struct Seeded(pub u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next() as u8;
        }
    }
}

/// What a tunnel asked for.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) datagrams: Vec<(Endpoint, Vec<u8>, u8)>,
    pub(crate) flushes: VecDeque<(Shared<Peer<Attached>>, bool)>,
}

impl Output<Attached> for Outbox {
    fn send(
        &mut self,
        _: Option<&Shared<Peer<Attached>>>,
        to: &Endpoint,
        datagram: &[u8],
        tos: u8,
    ) {
        self.datagrams.push((*to, datagram.to_vec(), tos));
    }

    fn flush(&mut self, peer: &Shared<Peer<Attached>>, keepalive_if_empty: bool) {
        self.flushes.push_back((peer.clone(), keepalive_if_empty));
    }
}

/// A driver with one adapter.
pub(crate) struct Host {
    pub(crate) tunnel: Tunnel<Attached>,
    pub(crate) index: Shared<IndexTable<Attached>>,
    pub(crate) load: Shared<HandshakeLoad>,
    pub(crate) address: SocketAddr,
    pub(crate) random: Seeded,
    pub(crate) out: Outbox,
    /// Inner packets that came through.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// Everything that did not, in order.
    pub(crate) discards: Vec<Discard>,
    /// As if this many handshake messages waited.
    pub(crate) queued: usize,
    service: VecDeque<Shared<Peer<Attached>>>,
}

impl Host {
    pub(crate) fn new(number: u64, address: &str, seed: u64) -> Self {
        let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
        let load = Shared::try_new(HandshakeLoad::new(HashKey::new([3; 16]))).unwrap();
        let key = HashKey::new([number as u8; 16]);
        let tunnel = Tunnel::try_new(number, index.clone(), load.clone(), key).unwrap();
        tunnel.set_mtu(1420);
        Self {
            tunnel,
            index,
            load,
            address: address.parse().unwrap(),
            random: Seeded(seed),
            out: Outbox::default(),
            delivered: Vec::new(),
            discards: Vec::new(),
            queued: 1,
            service: VecDeque::new(),
        }
    }

    /// Applies a request as the control path does.
    pub(crate) fn set(&mut self, request: &Request, now: Now) {
        let buffer = request.encode();
        let set = Set::parse(&buffer).unwrap();
        let committed = self.tunnel.prepare(&G, &set).unwrap().commit(&G, now);
        for entry in committed.try_now {
            self.flush(&entry.peer, entry.keepalive, now);
        }
        self.settle(now);
    }

    pub(crate) fn up(&mut self, now: Now) {
        self.tunnel.up(&G, &mut self.out);
        self.settle(now);
    }

    pub(crate) fn down(&mut self) {
        self.tunnel.down(&G);
        self.service.clear();
    }

    pub(crate) fn only_peer(&self) -> Shared<Peer<Attached>> {
        let mut peers = Vec::new();
        struct Keys<'k>(&'k mut Vec<[u8; 32]>);
        impl crypto::protocol::Visitor for Keys<'_> {
            fn interface(&mut self, _: &crypto::protocol::InterfaceStatus) {}
            fn peer(&mut self, peer: &crypto::protocol::PeerStatus) {
                self.0.push(peer.public_key);
            }
            fn allowed_ip(&mut self, _: crypto::protocol::allowed_ips::Prefix) {}
        }
        self.tunnel.get(&G, &mut Keys(&mut peers)).unwrap();
        assert_eq!(peers.len(), 1);
        self.tunnel.find_peer(&G, &peers[0]).unwrap()
    }

    /// The stack gives an inner packet to send.
    pub(crate) fn transmit(&mut self, packet: Vec<u8>, now: Now) {
        let destination = InnerPacket::parse(&packet, packet.len()).unwrap().destination;
        let Some(peer) = self.tunnel.peer_for(&G, destination) else {
            return self.discards.push(Discard::NoPeer);
        };
        if peer.endpoint(&G).is_none() {
            return self.discards.push(Discard::NoEndpoint);
        }
        match peer.reserve(&G, 1, now) {
            Ok(reserved) => {
                self.want(&peer, reserved.wants, now);
                self.seal(&peer, &reserved.keypair, reserved.first_counter, &packet, now);
            }
            Err(NoSession { wants }) => {
                let (older, kept) = peer.stage(&G, packet);
                self.discards.extend((0..older).map(|_| Discard::StagedFull));
                self.discards.extend(kept.err());
                self.want(&peer, wants, now);
            }
        }
        self.settle(now);
    }

    /// A datagram arrives.
    pub(crate) fn receive(&mut self, datagram: &[u8], from: SocketAddr, now: Now) {
        let local = Some(Local { address: self.address.ip(), interface: 7 });
        let from = Endpoint { remote: from, local };
        if let Err(reason) = self.take(datagram, &from, now) {
            self.discards.push(reason);
        }
        self.settle(now);
    }

    fn take(&mut self, datagram: &[u8], from: &Endpoint, now: Now) -> Result<(), Discard> {
        match Message::parse(datagram)? {
            Message::Transport(message) => self.open(&message, datagram.len(), from, now),
            _ => {
                let [verdict, ..] = self.tunnel.screen(&G, None, &[datagram]);
                verdict?;
                self.load.observe(self.queued, now.monotonic);
                self.tunnel.consume(&G, datagram, from, now, &mut self.random, &mut self.out)
            }
        }
    }

    fn open(
        &mut self,
        message: &Transport<'_>,
        len: usize,
        from: &Endpoint,
        now: Now,
    ) -> Result<(), Discard> {
        if !self.tunnel.is_up() {
            return Err(Discard::NotUp);
        }
        let keypair = self.index.session(&G, message.receiver).ok_or(Discard::UnknownReceiver)?;
        if !keypair.usable_for_receiving(now.monotonic) {
            return Err(Discard::SessionExpired);
        }
        let mut plain = open(&keypair, message)?;
        let peer = keypair.peer().clone();
        let inner = match plain.len() {
            0 => Ok(None),
            len => InnerPacket::parse(&plain, len).and_then(|inner| {
                let owned = self.tunnel.owns(&G, inner.source, &peer);
                if owned { Ok(Some(inner)) } else { Err(Discard::WrongSource) }
            }),
        };
        let received = Received {
            data_packets: u32::from(!plain.is_empty()),
            bytes: if inner.is_ok() { len as u64 } else { 0 },
        };
        let wants = peer.received(&G, &keypair, from, now, received);
        self.want(&peer, wants, now);
        if let Some(inner) = inner? {
            plain.truncate(inner.len);
            self.delivered.push(plain);
        }
        Ok(())
    }

    pub(crate) fn poll(&mut self, now: Now) {
        self.tunnel.poll(&G, now, &mut self.random, &mut self.out);
        self.settle(now);
    }

    /// Does what was asked for until nothing more is.
    pub(crate) fn settle(&mut self, now: Now) {
        loop {
            if let Some((peer, keepalive)) = self.out.flushes.pop_front() {
                self.flush(&peer, keepalive, now);
            } else if let Some(peer) = self.service.pop_front() {
                self.tunnel.service(&G, &peer, now, &mut self.random, &mut self.out);
            } else {
                return;
            }
        }
    }

    fn want(&mut self, peer: &Shared<Peer<Attached>>, wants: Wants, _: Now) {
        if wants.contains(Wants::SERVICE) {
            self.service.push_back(peer.clone());
        }
        if wants.contains(Wants::FLUSH) {
            self.out.flushes.push_back((peer.clone(), false));
        }
    }

    fn flush(&mut self, peer: &Shared<Peer<Attached>>, keepalive: bool, now: Now) {
        let staged = peer.staged_packets(&G);
        let count = if staged == 0 && keepalive { 1 } else { staged };
        if count == 0 {
            return;
        }
        match peer.reserve(&G, count as u32, now) {
            Ok(reserved) => {
                self.want(peer, reserved.wants, now);
                for n in 0..count as u64 {
                    let packet = peer.take_staged(&G).unwrap_or_default();
                    self.seal(peer, &reserved.keypair, reserved.first_counter + n, &packet, now);
                }
            }
            Err(NoSession { wants }) => self.want(peer, wants, now),
        }
    }

    fn seal(
        &mut self,
        peer: &Shared<Peer<Attached>>,
        keypair: &crypto::protocol::Keypair<Attached>,
        counter: u64,
        packet: &[u8],
        now: Now,
    ) {
        let Some(endpoint) = peer.endpoint(&G) else { return };
        let mut padded = packet.to_vec();
        padded.resize(padded_len(packet.len(), self.tunnel.mtu()), 0);
        let mut datagram = Transport::header(keypair.remote_index(), counter).to_vec();
        datagram.resize(16 + padded.len() + 16, 0);
        let pieces = [Piece::from(padded.as_slice())];
        let (key, source) = (keypair.sending(), Source::Pieces(&pieces));
        let destination = &mut datagram[16..];
        let mut jobs = [Job { key, counter, source, destination, verdict: Verdict::Pending }];
        aead::seal(None, &mut jobs);
        assert_eq!(jobs[0].verdict, Verdict::Done);
        let sent =
            Sent { data_packets: u32::from(!packet.is_empty()), bytes: datagram.len() as u64 };
        self.out.datagrams.push((endpoint, datagram, 0));
        let wants = peer.sent(keypair, now, sent);
        self.want(peer, wants, now);
    }

    /// How often a reason was given.
    pub(crate) fn discarded(&self, reason: Discard) -> usize {
        self.discards.iter().filter(|given| **given == reason).count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.service.clear();
        self.out.flushes.clear();
        self.tunnel.close(&G);
    }
}

/// What the wire does to datagrams, in parts of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wire {
    pub(crate) lose: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
}

/// A datagram somebody sent.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) at: Duration,
    pub(crate) from: usize,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tos: u8,
}

impl Traced {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }

    pub(crate) fn is_keepalive(&self) -> bool {
        self.kind() == 4 && self.bytes.len() == 32
    }
}

/// Two hosts and the wire between them.
pub(crate) struct Pair {
    pub(crate) hosts: [Host; 2],
    pub(crate) wire: Wire,
    /// Time since boot of both.
    pub(crate) now: Duration,
    /// Added to the wall clock of each.
    pub(crate) wall: [Duration; 2],
    pub(crate) trace: Vec<Traced>,
    /// Datagrams to nowhere, because nobody has the address.
    pub(crate) lost: usize,
    in_flight: BTreeMap<(Duration, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
    random: Seeded,
    seed: u64,
}

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const KEYS: [[u8; 32]; 2] = [[0x11; 32], [0x22; 32]];

/// Opens transport data of a session and takes its counter, as the data path does.
pub(crate) fn open(
    keypair: &crypto::protocol::Keypair<Attached>,
    message: &Transport<'_>,
) -> Result<Vec<u8>, Discard> {
    let mut plain = message.packet.to_vec();
    let source = Source::InPlace { len: plain.len() };
    let (key, counter) = (keypair.receiving(), message.counter);
    let mut jobs =
        [Job { key, counter, source, destination: &mut plain, verdict: Verdict::Pending }];
    aead::open(None, &mut jobs);
    if jobs[0].verdict != Verdict::Done {
        return Err(Discard::BadTag);
    }
    keypair.accept(counter)?;
    plain.truncate(message.packet.len() - 16);
    Ok(plain)
}

/// Writes the mac1 that the owner of a public key wants to see, if there is room for one.
pub(crate) fn sign(datagram: &mut [u8], receiver: &[u8; 32]) {
    let Some((before, macs)) = datagram.len().checked_sub(32).map(|at| datagram.split_at_mut(at))
    else {
        return;
    };
    macs[..16].copy_from_slice(&mac(&labelled(b"mac1----", receiver), before));
}

/// The key that a label and a public key make.
pub(crate) fn labelled(label: &[u8; 8], public: &[u8; 32]) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(public).finalize().into()
}

/// BLAKE2s of 16 bytes, keyed.
pub(crate) fn mac(key: &[u8], bytes: &[u8]) -> [u8; 16] {
    <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .unwrap()
        .chain_update(bytes)
        .finalize()
        .into_bytes()
        .into()
}

/// The inner address of a host.
pub(crate) fn inner(host: usize) -> IpAddr {
    if host == A { "10.0.0.1".parse().unwrap() } else { "10.0.0.2".parse().unwrap() }
}

/// An IPv4 packet of 28 bytes and `number`.
pub(crate) fn packet(from: IpAddr, to: IpAddr, number: u32) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The number in such a packet.
pub(crate) fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

impl Pair {
    /// Two hosts that know each other, both up, nothing sent.
    pub(crate) fn new(seed: u64) -> Self {
        let mut pair = Self::unconfigured(seed);
        for host in [A, B] {
            let request = pair.introduction(host);
            pair.configure(host, &request);
            let now = pair.clock(host);
            pair.hosts[host].up(now);
        }
        pair.collect();
        pair
    }

    /// Two hosts that know nothing, both down.
    pub(crate) fn unconfigured(seed: u64) -> Self {
        let mut random = Seeded(seed);
        let hosts = [
            Host::new(1, "192.0.2.1:51820", random.next()),
            Host::new(2, "198.51.100.2:51821", random.next()),
        ];
        Self {
            hosts,
            wire: Wire { delay: Duration::from_millis(10), ..Wire::default() },
            now: BOOT,
            wall: [EPOCH; 2],
            trace: Vec::new(),
            lost: 0,
            in_flight: BTreeMap::new(),
            sequence: 0,
            random,
            seed,
        }
    }

    /// What tells a host its key and the other's.
    pub(crate) fn introduction(&self, host: usize) -> Request {
        let other = 1 - host;
        let peer = request::PeerRequest::new(request::public(&KEYS[other]))
            .endpoint(self.hosts[other].address)
            .allow(&format!("{}/32", inner(other)));
        Request::new().private_key(KEYS[host]).peer(peer)
    }

    pub(crate) fn configure(&mut self, host: usize, request: &Request) {
        let now = self.clock(host);
        self.hosts[host].set(request, now);
        self.collect();
    }

    pub(crate) fn clock(&self, host: usize) -> Now {
        Now { monotonic: Instant(self.now), wall: self.wall[host] + self.now }
    }

    /// Sends inner packet `number` from `host` to the other.
    pub(crate) fn send(&mut self, host: usize, number: u32) {
        let now = self.clock(host);
        self.hosts[host].transmit(packet(inner(host), inner(1 - host), number), now);
        self.collect();
    }

    /// Gives a host a datagram out of nowhere.
    pub(crate) fn inject(&mut self, host: usize, datagram: &[u8], from: SocketAddr) {
        let now = self.clock(host);
        self.hosts[host].receive(datagram, from, now);
        self.collect();
    }

    /// Puts what the hosts sent on the wire.
    pub(crate) fn collect(&mut self) {
        for from in [A, B] {
            for (to, bytes, tos) in core::mem::take(&mut self.hosts[from].out.datagrams) {
                let traced = Traced { at: self.now, from, to: to.remote, bytes, tos };
                self.trace.push(traced.clone());
                if self.random.below(1000) < self.wire.lose {
                    continue;
                }
                let copies = 1 + u64::from(self.random.below(1000) < self.wire.duplicate);
                for _ in 0..copies {
                    let jitter = self.random.below(self.wire.jitter.as_nanos() as u64 + 1);
                    let at = self.now + self.wire.delay + Duration::from_nanos(jitter);
                    self.sequence += 1;
                    let source = self.hosts[from].address;
                    let flight = (source, traced.to, traced.bytes.clone());
                    self.in_flight.insert((at, self.sequence), flight);
                }
            }
        }
    }

    /// Goes to the next event at or before `end`; false if there is none.
    fn step(&mut self, end: Duration) -> bool {
        let wake = |host: &Host| host.tunnel.next_wake(&G).map(|at| at.0);
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let next = [wake(&self.hosts[A]), wake(&self.hosts[B]), arrival];
        let Some(next) = next.into_iter().flatten().min().filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let Some((_, (from, to, bytes))) = self.in_flight.pop_first() else { return false };
            match (0..2).find(|host| self.hosts[*host].address == to) {
                Some(host) => self.inject(host, &bytes, from),
                None => self.lost += 1,
            }
        } else {
            for host in [A, B] {
                if wake(&self.hosts[host]).is_some_and(|at| at <= self.now) {
                    let now = self.clock(host);
                    self.hosts[host].poll(now);
                }
            }
        }
        self.collect();
        true
    }

    /// Lets time pass and everything happen that is to happen in it.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(steps < 200_000, "no progress at {:?}", self.now);
        }
        self.now = end;
    }

    pub(crate) fn run_ms(&mut self, milliseconds: u64) {
        self.run(Duration::from_millis(milliseconds));
    }

    pub(crate) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// A first packet from A to B, and the handshake for it.
    pub(crate) fn connect(&mut self) {
        self.send(A, 0);
        self.run_ms(100);
        assert_eq!(self.hosts[B].delivered.len(), 1, "the pair connects");
        self.hosts[B].delivered.clear();
    }

    /// Datagrams of one kind that a host sent since `since`.
    pub(crate) fn sent(&self, host: usize, kind: u8, since: Duration) -> Vec<&Traced> {
        let matches = |sent: &&Traced| sent.from == host && sent.kind() == kind && sent.at >= since;
        self.trace.iter().filter(matches).collect()
    }

    pub(crate) fn numbers(&self, host: usize) -> Vec<u32> {
        self.hosts[host].delivered.iter().map(|packet| number(packet)).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, at {:?} after boot", self.seed, self.now);
        }
    }
}
