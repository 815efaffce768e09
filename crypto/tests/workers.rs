//! Both tunnels at once from several threads: data path, workers, timers and control path.
//!
//! What is checked is that nothing is lost from the books: every reference is given back, no counter or inner packet
//! comes twice, and traffic flows again when the storm is over.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use abi::ioctl::Set;
use crypto::{
    aead::{self, Job, Source, Verdict},
    protocol::{
        Endpoint, HandshakeLoad, IndexTable, Instant, Keypair, Now, Output, Peer, Received, Sent,
        Tunnel, Wants, hash_table::HashKey, messages::Message, messages::Transport,
    },
    sync::Shared,
};
use net::{
    G, KEYS, Request, Seeded,
    request::{PeerRequest, public},
};

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Counts peers over all threads.
struct Counted;

impl Default for Counted {
    fn default() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

type Datagrams = Mutex<VecDeque<Vec<u8>>>;

struct Side {
    tunnel: Tunnel<Counted>,
    index: Shared<IndexTable<Counted>>,
    /// Towards this side.
    inbox: Datagrams,
    /// Session and counter of everything that was accepted.
    accepted: Mutex<HashSet<(u32, u64)>>,
    delivered: AtomicU64,
}

struct World {
    sides: [Side; 2],
    milliseconds: AtomicU64,
}

/// One call's output: datagrams go to the other side, flushes are done by the caller afterwards.
struct Out<'w> {
    to: &'w Datagrams,
    flushes: Vec<(Shared<Peer<Counted>>, bool)>,
}

impl Output<Counted> for Out<'_> {
    fn send(&mut self, _: Option<&Shared<Peer<Counted>>>, _: &Endpoint, datagram: &[u8], _: u8) {
        self.to.lock().unwrap().push_back(datagram.to_vec());
    }

    fn flush(&mut self, peer: &Shared<Peer<Counted>>, keepalive_if_empty: bool) {
        self.flushes.push((peer.clone(), keepalive_if_empty));
    }
}

fn address(side: usize) -> SocketAddr {
    SocketAddr::new("192.0.2.1".parse().unwrap(), 1000 + side as u16)
}

fn introduction(side: usize) -> Request {
    let peer = PeerRequest::new(public(&KEYS[1 - side]));
    let peer = peer.endpoint(address(1 - side)).keepalive(1).allow("10.0.0.0/8");
    Request::new().private_key(KEYS[side]).peer(peer)
}

impl World {
    fn new() -> Self {
        let side = |side: usize| {
            let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
            let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
            let tunnel =
                Tunnel::try_new(side as u64, index.clone(), load, HashKey::new([2; 16])).unwrap();
            let (inbox, accepted) = Default::default();
            Side { tunnel, index, inbox, accepted, delivered: AtomicU64::new(0) }
        };
        Self { sides: [side(0), side(1)], milliseconds: AtomicU64::new(0) }
    }

    fn now(&self) -> Now {
        let since = Duration::from_millis(self.milliseconds.fetch_add(1, Ordering::Relaxed));
        Now { monotonic: Instant(since), wall: Duration::from_secs(1_700_000_000) + since }
    }

    fn out(&self, side: usize) -> Out<'_> {
        Out { to: &self.sides[1 - side].inbox, flushes: Vec::new() }
    }

    /// Does what an output and wants ask for, until nothing more is.
    fn settle(
        &self,
        side: usize,
        mut flushes: Vec<(Shared<Peer<Counted>>, bool)>,
        random: &mut Seeded,
    ) {
        while let Some((peer, keepalive)) = flushes.pop() {
            self.send(side, &peer, keepalive, random);
        }
    }

    fn want(&self, side: usize, peer: &Shared<Peer<Counted>>, wants: Wants, random: &mut Seeded) {
        if wants.contains(Wants::SERVICE) {
            let mut out = self.out(side);
            self.sides[side].tunnel.service(&G, peer, self.now(), random, &mut out);
            self.settle(side, out.flushes, random);
        }
        if wants.contains(Wants::FLUSH) {
            self.send(side, peer, false, random);
        }
    }

    /// Sends what is staged, or an empty packet.
    fn send(
        &self,
        side: usize,
        peer: &Shared<Peer<Counted>>,
        keepalive: bool,
        random: &mut Seeded,
    ) {
        let staged = peer.staged_packets(&G);
        if staged == 0 && !keepalive {
            return;
        }
        match peer.reserve(&G, staged.max(1) as u32, self.now()) {
            Ok(reserved) => {
                for n in 0..staged.max(1) as u64 {
                    let packet = peer.take_staged(&G).unwrap_or_default();
                    self.seal(side, &reserved.keypair, reserved.first_counter + n, packet);
                }
                let sent = Sent { data_packets: staged as u32, bytes: 1 };
                let wants = peer.sent(&reserved.keypair, self.now(), sent);
                self.want(side, peer, wants | reserved.wants, random);
            }
            Err(none) => self.want(side, peer, none.wants, random),
        }
    }

    fn seal(&self, side: usize, keypair: &Keypair<Counted>, counter: u64, packet: Vec<u8>) {
        let mut datagram = Transport::header(keypair.remote_index(), counter).to_vec();
        datagram.extend_from_slice(&packet);
        datagram.resize(16 + packet.len() + 16, 0);
        let (key, source) = (keypair.sending(), Source::InPlace { len: packet.len() });
        let destination = &mut datagram[16..];
        aead::seal(
            None,
            &mut [Job { key, counter, source, destination, verdict: Verdict::Pending }],
        );
        self.sides[1 - side].inbox.lock().unwrap().push_back(datagram);
    }

    fn receive(&self, side: usize, random: &mut Seeded) {
        let this = &self.sides[side];
        let Some(datagram) = this.inbox.lock().unwrap().pop_front() else { return };
        let from = Endpoint { remote: address(1 - side), local: None };
        match Message::parse(&datagram).unwrap() {
            Message::Transport(message) => {
                let Some(keypair) = this.index.session(&G, message.receiver) else { return };
                let mut plain = message.packet.to_vec();
                let (key, counter) = (keypair.receiving(), message.counter);
                let source = Source::InPlace { len: plain.len() };
                let mut jobs = [Job {
                    key,
                    counter,
                    source,
                    destination: &mut plain,
                    verdict: Verdict::Pending,
                }];
                aead::open(None, &mut jobs);
                assert_eq!(jobs[0].verdict, Verdict::Done);
                // The lock is the peer's drain ownership.
                let mut accepted = this.accepted.lock().unwrap();
                if keypair.accept(counter).is_err() {
                    return;
                }
                assert!(accepted.insert((message.receiver, counter)), "accepted twice");
                let received = Received { data_packets: u32::from(plain.len() > 16), bytes: 1 };
                let peer = keypair.peer().clone();
                let wants = peer.received(&G, &keypair, &from, self.now(), received);
                drop(accepted);
                this.delivered.fetch_add(1, Ordering::Relaxed);
                self.want(side, &peer, wants, random);
            }
            _ => {
                let mut out = self.out(side);
                let _ = this.tunnel.consume(&G, &datagram, &from, self.now(), random, &mut out);
                self.settle(side, out.flushes, random);
            }
        }
    }

    /// One random step of the data path or a worker.
    fn step(&self, random: &mut Seeded) {
        let side = random.below(2) as usize;
        let this = &self.sides[side];
        match random.below(8) {
            0..5 => self.receive(side, random),
            5..7 => {
                let Some(peer) = this.tunnel.peer_for(&G, "10.0.0.1".parse().unwrap()) else {
                    return;
                };
                let _ = peer.stage(&G, vec![0; 32]);
                self.send(side, &peer, false, random);
            }
            _ => {
                let mut out = self.out(side);
                this.tunnel.poll(&G, self.now(), random, &mut out);
                self.settle(side, out.flushes, random);
            }
        }
    }

    /// One random step of the control path.
    fn configure(&self, random: &mut Seeded) {
        let side = random.below(2) as usize;
        let this = &self.sides[side];
        let request = match random.below(6) {
            0 => Request::new().peer(PeerRequest::new(public(&KEYS[1 - side])).remove()),
            1 => Request::new().private_key([0x66; 32]),
            2 => {
                this.tunnel.down(&G);
                let mut out = self.out(side);
                this.tunnel.up(&G, &mut out);
                return self.settle(side, out.flushes, random);
            }
            _ => introduction(side),
        };
        self.set(side, &request, random);
    }

    fn set(&self, side: usize, request: &Request, random: &mut Seeded) {
        let buffer = request.encode();
        let tunnel = &self.sides[side].tunnel;
        let committed =
            tunnel.prepare(&G, &Set::parse(&buffer).unwrap()).unwrap().commit(&G, self.now());
        let flushes = committed.try_now.into_iter().map(|entry| (entry.peer, entry.keepalive));
        self.settle(side, flushes.collect(), random);
    }
}

#[test]
fn a_storm_of_threads() {
    let world = World::new();
    let mut random = Seeded(42);
    let calm = |world: &World, random: &mut Seeded| {
        for side in 0..2 {
            world.set(side, &introduction(side).replace_peers(), random);
        }
    };
    calm(&world, &mut random);
    for side in &world.sides {
        side.tunnel.up(&G, &mut Out { to: &Datagrams::default(), flushes: Vec::new() });
    }
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let world = &world;
            scope.spawn(move || {
                let mut random = Seeded(seed);
                (0..6000).for_each(|_| world.step(&mut random));
            });
        }
        for _ in 0..150 {
            (0..20).for_each(|_| world.step(&mut random));
            world.configure(&mut random);
        }
    });
    calm(&world, &mut random);
    let before = world.sides.each_ref().map(|side| side.delivered.load(Ordering::Relaxed));
    let flows = |world: &World| {
        let delivered = world.sides.iter().map(|side| side.delivered.load(Ordering::Relaxed));
        delivered.zip(before).all(|(delivered, before)| delivered > before + 100)
    };
    let seconds = (0..60).take_while(|_| {
        world.milliseconds.fetch_add(1000, Ordering::Relaxed);
        (0..500).for_each(|_| world.step(&mut random));
        !flows(&world)
    });
    assert!(seconds.count() < 60, "traffic flows again");
    world.sides.iter().for_each(|side| side.tunnel.close(&G));
    for side in &world.sides {
        assert!(side.index.is_empty(&G));
    }
    assert_eq!(LIVE.load(Ordering::Relaxed), 0, "every peer and session is gone");
}
