//! What a responder does for a message, in one thread: `Tunnel::consume`, beside boringtun's `Tunn` and `RateLimiter`.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use abi::discard::Discard;
use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{AllowedIp, Set, Writer, interface_flag, peer_flag};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use crypto::protocol::hash_table::HashKey;
use crypto::protocol::noise::Identity;
use crypto::protocol::{
    Endpoint, HandshakeLoad, IndexTable, Instant, Now, Output, Peer, Random, Tunnel,
};
use crypto::sync::{Shared, Unpinned};

use super::sample::Clock;

/// Bytes of an initiation.
pub(super) const INITIATION: usize = 148;
const G: Unpinned = Unpinned;
const BEGIN: Duration = Duration::from_secs(1000);
/// As long as an initiator waits until he tries again, and some more.
const STEP: Duration = Duration::from_secs(6);

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Output<()> for Sent {
    fn send(&mut self, _: Option<&Shared<Peer<()>>>, _: &Endpoint, datagram: &[u8], _: u8) {
        self.0.push(datagram.to_vec());
    }

    fn flush(&mut self, _: &Shared<Peer<()>>, _: bool) {}
}

/// Numbers that need not be secret here.
struct Numbers(u64);

impl Random for Numbers {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// One end, with one peer.
pub(super) struct Side {
    tunnel: Tunnel<()>,
    load: Shared<HandshakeLoad>,
    sent: Sent,
    random: Numbers,
}

pub(super) fn public(private: &[u8; 32]) -> [u8; 32] {
    *Identity::new(private).expect("a key").public()
}

fn at(step: usize) -> Now {
    let since = BEGIN + STEP * step as u32;
    Now { monotonic: Instant(since), wall: Duration::from_secs(1_700_000_000) + since }
}

fn source(number: usize) -> Endpoint {
    let [_, .., b, c, d] = number.to_be_bytes();
    Endpoint { remote: SocketAddr::from(([100, b, c, d], 1000)), local: None }
}

impl Side {
    pub(super) fn new(private: &[u8; 32], peer: &[u8; 32]) -> Self {
        let index = Shared::try_new(IndexTable::try_new().expect("memory")).expect("memory");
        let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).expect("memory");
        let tunnel = Tunnel::try_new(1, index, load.clone(), HashKey::new([2; 16]));
        let mut side = Self {
            tunnel: tunnel.expect("memory"),
            load,
            sent: Sent::default(),
            random: Numbers(u64::from(private[0])),
        };
        let write = |buffer: &mut [u8]| {
            let flags = interface_flag::HAS_PRIVATE_KEY;
            let fields = InterfaceFields {
                flags,
                listen_port: 0,
                private_key: private,
                public_key: &[0; 32],
            };
            let mut writer = Writer::new(buffer, &fields);
            writer.peer(&PeerFields {
                flags: peer_flag::HAS_PUBLIC_KEY | peer_flag::HAS_ENDPOINT,
                endpoint: Some(SocketAddr::from(([192, 0, 2, 1], 1))),
                ..PeerFields::of(peer)
            });
            let address = IpAddr::from([10, 0, 0, 0]);
            writer.allowed_ip(&AllowedIp { address, cidr: 8, remove: false });
            writer.len_bytes()
        };
        let mut buffer = vec![0; write(&mut [])];
        write(&mut buffer);
        let set = Set::parse(&buffer).expect("our own request");
        let Ok(prepared) = side.tunnel.prepare(&G, &set) else { panic!("our own request") };
        let _ = prepared.commit(&G, at(0));
        side.tunnel.up(&G, &mut side.sent);
        side
    }

    /// `count` initiations, and when each is sent.
    pub(super) fn initiations(&mut self, count: usize) -> Vec<(Vec<u8>, Now)> {
        let peer = self.tunnel.peer_for(&G, IpAddr::from([10, 0, 0, 1])).expect("the peer");
        let made = (1..=count).map(|step| {
            let now = at(step);
            let _asks_for_a_handshake = peer.reserve(&G, 1, now);
            self.tunnel.service(&G, &peer, now, &mut self.random, &mut self.sent);
            (self.sent.0.pop().expect("an initiation each time"), now)
        });
        made.collect()
    }

    /// Answers each, and tells how long one takes, in ns.
    fn respond(&mut self, initiations: &[(Vec<u8>, Now)]) -> f64 {
        let Self { tunnel, sent, random, .. } = self;
        let clock = Clock::start();
        for (message, now) in initiations {
            let taken = tunnel.consume(&G, black_box(message), &source(0), *now, random, sent);
            assert_eq!(taken, Ok(()));
        }
        let each = clock.elapsed().as_nanos() as f64 / initiations.len() as f64;
        assert_eq!(sent.0.len(), initiations.len());
        sent.0.clear();
        each
    }

    /// Answers `message` from `count` sources with cookies, and tells how long one takes, in ns.
    fn reply(&mut self, message: &[u8], count: usize) -> f64 {
        let now = at(0);
        let Self { tunnel, sent, random, load } = self;
        let clock = Clock::start();
        for number in 0..count {
            load.observe(4096, now.monotonic);
            let from = source(number);
            let taken = tunnel.consume(&G, black_box(message), &from, now, random, sent);
            assert_eq!(taken, Err(Discard::CookieRequired));
        }
        let each = clock.elapsed().as_nanos() as f64 / count as f64;
        assert_eq!(sent.0.len(), count);
        sent.0.clear();
        each
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.tunnel.close(&G);
    }
}

/// boringtun's.
struct Theirs {
    from: Tunn,
    to: Tunn,
    limiter: RateLimiter,
}

impl Theirs {
    fn new() -> Self {
        let secrets = [(); 2].map(|()| StaticSecret::random_from_rng(rand_core::OsRng));
        let publics = [&secrets[0], &secrets[1]].map(PublicKey::from);
        let [one, other] = secrets;
        let limiter = |key| Some(std::sync::Arc::new(RateLimiter::new(key, u64::MAX)));
        Self {
            from: Tunn::new(one, publics[1], None, None, 1, limiter(&publics[0])),
            to: Tunn::new(other, publics[0], None, None, 2, limiter(&publics[1])),
            limiter: RateLimiter::new(&publics[1], 0),
        }
    }

    fn initiation(&mut self) -> Vec<u8> {
        let mut room = [0; 2048];
        match self.from.format_handshake_initiation(&mut room, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn respond(&mut self, count: usize) -> f64 {
        let initiations: Vec<_> = (0..count).map(|_| self.initiation()).collect();
        let mut room = [0; 2048];
        let clock = Clock::start();
        for message in &initiations {
            let taken = self.to.decapsulate(None, black_box(message), &mut room);
            assert!(matches!(taken, TunnResult::WriteToNetwork(_)), "{taken:?}");
        }
        clock.elapsed().as_nanos() as f64 / count as f64
    }

    fn verify(&mut self, message: &[u8], count: usize, answers: bool) -> f64 {
        let mut room = [0; 2048];
        let from = Some(IpAddr::from([100, 0, 0, 1]));
        let clock = Clock::start();
        for _ in 0..count {
            let taken = self.limiter.verify_packet(from, black_box(message), &mut room);
            match taken {
                Err(TunnResult::WriteToNetwork(_)) if answers => {}
                Err(TunnResult::Err(_)) if !answers => {}
                _ => panic!("another verdict"),
            }
        }
        clock.elapsed().as_nanos() as f64 / count as f64
    }
}

/// What is measured.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) ours: f64,
    pub(super) theirs: f64,
}

/// Interleaved rounds of both; the best tenth of each, in ns a message. And what boringtun takes for a bad mac1.
pub(super) fn measure(rounds: usize) -> ([Row; 2], f64) {
    const MANY: usize = 1024;
    const FEW: usize = 48;
    let keys = [[0x11; 32], [0x22; 32]];
    let publics = keys.map(|key| public(&key));
    let mut theirs = Theirs::new();
    let mut taken: [[Vec<f64>; 2]; 2] = Default::default();
    let mut refused = Vec::new();
    for _ in 0..rounds {
        let mut initiator = Side::new(&keys[0], &publics[1]);
        let mut responder = Side::new(&keys[1], &publics[0]);
        let initiations = initiator.initiations(FEW + 1);
        // The first one computes what is kept.
        responder.respond(&initiations[..1]);
        taken[0][0].push(responder.respond(&initiations[1..]));
        taken[0][1].push(theirs.respond(FEW));
        taken[1][0].push(responder.reply(&initiations[0].0, MANY));
        let message = theirs.initiation();
        taken[1][1].push(theirs.verify(&message, MANY, true));
        let mut bad = theirs.initiation();
        bad[120] ^= 1;
        refused.push(theirs.verify(&bad, MANY, false));
    }
    let [respond, reply] = taken.map(|both| both.map(undisturbed));
    let rows = [
        Row { what: "initiation answered", ours: respond[0], theirs: respond[1] },
        Row { what: "cookie reply", ours: reply[0], theirs: reply[1] },
    ];
    (rows, undisturbed(refused))
}

/// What one sample in ten comes down to, when neighbours leave this core alone.
fn undisturbed(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 10]
}
