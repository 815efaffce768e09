//! Nothing is ever sent in answer to what is malformed, replayed or made with a wrong key, class by class.
//!
//! ```text
//!   10.9.0.1 ┌───────┐             203.0.113.7 ┌─────────┐
//!   fd09::1 ─┤ alpha ├── 51820 ────────── 4711 ┤ insider │ 10.9.0.2: a peer with the right keys,
//!            └───────┘                         └─────────┘ that gets everything right but one thing
//! ```
//!
//! Each message is otherwise what alpha would take: fresh, with a right mac1 where only something behind it is wrong. Nothing
//! may leave alpha, each is counted once and for its reason, and the session goes on. The one answer that is allowed is a cookie
//! reply under load, to a right mac1. All of it on the way of the callouts, by sockets alone, and with datagrams that come as one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{PORT, PeerSettings, Station};
use sim::host::memory::{Host, Network};
use sim::host::routes::Prefix;
use sim::host::{Outer, Socket};
use sim::nt::machine::Options;
use sim::nt::wsk;
use sim::verifier::report::Leak;
use sim::verifier::schedule::World;

use crate::datagrams::{Heard, Program, send};
use crate::insider::{
    Initiation, Key, LOW_ORDER, Pending, Responder, Session, cookie_reply, mac, open_cookie,
    public, sign,
};
use crate::{Counted, assert_clean, driver, on_virtual_time, options};

/// Sent at once; with the verifier they arrive as lists of 1 to 32.
const BURST: usize = 64;
/// Lengths are tried up to here.
const LONGEST: usize = 420;
/// The insider's private key, and one of nobody's.
pub(crate) const PRIVATE: Key = [0x61; 32];
const NOBODY: Key = [0x62; 32];
pub(crate) const PRESHARED: Key = [0x63; 32];
/// What its initiations are called.
const SENDER: u32 = 0x1122_3344;

/// The drawing.
pub(crate) struct Scene {
    pub(crate) world: Arc<World>,
    pub(crate) alpha: Station,
    /// Alpha's public key.
    pub(crate) key: Key,
    socket: Arc<dyn Socket>,
    /// Alpha's ephemeral public keys, of its initiations and its responses.
    pub(crate) ephemerals: Mutex<Vec<Key>>,
    /// What the insider heard and has not looked at.
    heard: Heard,
    /// How much alpha has sent, to anybody.
    left: Arc<Mutex<usize>>,
    coalesces: bool,
    /// The wall clock of initiations, in seconds.
    clock: Mutex<u64>,
    _host: Arc<Host>,
    _network: Network,
}

impl Scene {
    /// A station like `kind` that knows the insider, and is up.
    pub(crate) fn new(world: &Arc<World>, kind: &Options) -> Self {
        let network = Network::new(world);
        let options = Options { name: "alpha".to_owned(), ..kind.clone() };
        let alpha = Station::boot(world, &network, 1, options, &driver())
            .unwrap_or_else(|error| panic!("{error}"));
        let host = network.plug_in(&["203.0.113.7".parse().unwrap()]);
        let heard = Heard::default();
        let inbox = heard.clone();
        let program = Program::new(move |_, datagram| inbox.lock().unwrap().push(datagram));
        let socket = host.open("0.0.0.0:4711".parse().unwrap(), program).unwrap();
        let left = Arc::new(Mutex::new(0));
        let (count, own) = (left.clone(), alpha.outer());
        network
            .tap(move |seen| *count.lock().unwrap() += usize::from(own.contains(&seen.from.ip())));
        let key = alpha.public_key().unwrap();
        let scene = Self {
            world: world.clone(),
            alpha,
            key,
            socket,
            ephemerals: Mutex::default(),
            heard,
            left,
            coalesces: kind.parameters.get(Policy::OuterCoalescing.name()) == Some(&1),
            clock: Mutex::new(0),
            _host: host,
            _network: network,
        };
        scene.introduce();
        scene.alpha.set_up(true).unwrap();
        scene
    }

    /// Tells alpha of the insider.
    pub(crate) fn introduce(&self) {
        let peer = PeerSettings {
            public_key: public(&PRIVATE),
            endpoint: Some("203.0.113.7:4711".parse().unwrap()),
            preshared_key: Some(PRESHARED),
            persistent_keepalive_s: 0,
            allowed_ips: vec![Prefix::new("10.9.0.2".parse().unwrap(), 32)],
        };
        self.alpha.set_peers(&[peer]).unwrap();
    }

    /// Has alpha forget the insider.
    pub(crate) fn forget(&self) {
        self.alpha.remove_peer(&public(&PRIVATE)).unwrap();
    }

    /// Takes alpha down, unloads the driver, and says what it left behind.
    pub(crate) fn shut_down(self) -> Vec<Leak> {
        self.alpha.shut_down().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        send(&self.socket, SocketAddr::new(self.alpha.outer()[0], PORT), datagram);
    }

    /// The next datagram that alpha sends to the insider.
    pub(crate) fn hear(&self) -> Vec<u8> {
        for _ in 0..1000 {
            let mut heard = self.heard.lock().unwrap();
            if !heard.is_empty() {
                return heard.remove(0);
            }
            drop(heard);
            self.world.sleep(Duration::from_millis(10));
        }
        panic!("alpha says nothing");
    }

    /// An initiation that alpha takes, if nothing is changed.
    fn initiation(&self) -> Initiation {
        let mut clock = self.clock.lock().unwrap();
        *clock += 1;
        Initiation::new(PRIVATE, self.key, SENDER, *clock)
    }

    /// A session that the insider begins, and confirms; and the secrets of its handshake.
    pub(crate) fn connect(&self) -> (Session, Vec<(&'static str, Key)>) {
        // Initiations of a peer are taken 20 ms apart.
        self.world.sleep(Duration::from_millis(50));
        let (message, pending) = self.initiation().write();
        self.send(&message);
        let response = self.hear();
        self.ephemerals.lock().unwrap().push(*response[12..].first_chunk().unwrap());
        let connected = pending.consume(&PRESHARED, &response);
        let (mut session, secrets) = connected.expect("alpha's response is right");
        self.talk(&mut session);
        (session, secrets)
    }

    /// A session that alpha begins; `before` sees what the insider could answer.
    pub(crate) fn answer(
        &self,
        before: impl FnOnce(&Responder, &[u8]),
    ) -> (Session, Vec<(&'static str, Key)>) {
        assert!(self.alpha.endpoint().send_datagram("10.9.0.2".parse().unwrap(), b"who".to_vec()));
        let initiation = self.hear();
        self.ephemerals.lock().unwrap().push(*initiation[8..].first_chunk().unwrap());
        let responder = Responder::read(&PRIVATE, &PRESHARED, &initiation).expect("an initiation");
        before(&responder, &initiation);
        let (message, mut session, secrets) = responder.write();
        self.send(&message);
        let waited = session.open(&self.hear()).expect("what waited");
        assert!(waited.windows(3).any(|three| three == b"who"));
        self.talk(&mut session);
        (session, secrets)
    }

    /// A datagram each way. The last is the insider's, so nothing is due from alpha for ten seconds.
    pub(crate) fn talk(&self, session: &mut Session) {
        let number = session.counter.to_be_bytes().to_vec();
        self.send(&session.seal(&inner(&number)));
        let (_, data) = self.alpha.endpoint().take_datagram(Duration::from_secs(1)).expect("heard");
        assert_eq!(data, number);
        assert!(self.alpha.endpoint().send_datagram("10.9.0.2".parse().unwrap(), number.clone()));
        let answer = session.open(&self.hear()).expect("alpha's packet opens");
        assert!(answer.windows(8).any(|eight| eight == number));
        self.send(&session.seal(&inner(&number)));
        assert!(self.alpha.endpoint().take_datagram(Duration::from_secs(1)).is_some());
    }

    /// Sends all of it: nothing may leave alpha, nothing come through, and each is counted once, for one of `reasons`.
    fn silent(&self, what: &str, reasons: &[Discard], datagrams: &[Vec<u8>]) {
        assert!(!datagrams.is_empty(), "{what}");
        self.heard.lock().unwrap().clear();
        let (before, left) = (Counted::of(self.alpha.tunnel()), *self.left.lock().unwrap());
        for burst in datagrams.chunks(BURST) {
            burst.iter().for_each(|datagram| self.send(datagram));
            self.world.sleep(Duration::from_millis(2));
        }
        self.world.sleep(Duration::from_millis(50));
        assert_eq!(*self.left.lock().unwrap(), left, "{what}: alpha has sent something");
        let after = Counted::of(self.alpha.tunnel());
        let grown = |counter| after.counter(counter) - before.counter(counter);
        for counter in [Counter::PacketsIn, Counter::KeepalivesIn, Counter::HandshakesIn] {
            assert_eq!(grown(counter), 0, "{what}: something was taken, {}", after.discards());
        }
        for counter in [Counter::DatagramsOut, Counter::HandshakesOut] {
            assert_eq!(grown(counter), 0, "{what}");
        }
        let discarded = |reason: &Discard| after.discarded(*reason) - before.discarded(*reason);
        let all =
            after.all_discarded(Direction::Inbound) - before.all_discarded(Direction::Inbound);
        let those: u64 = reasons.iter().map(discarded).sum();
        assert_eq!(grown(Counter::DatagramsIn), datagrams.len() as u64, "{what}");
        assert_eq!([all, those], [datagrams.len() as u64; 2], "{what}: {}", after.discards());
        assert!(reasons.iter().all(|reason| discarded(reason) > 0), "{what}: {}", after.discards());
        after.assert_inbound_identity();
    }
}

/// A datagram from the insider's inner address.
fn inner(data: &[u8]) -> Vec<u8> {
    let [source, destination] = ["10.9.0.2", "10.9.0.1"].map(|address| address.parse().unwrap());
    let payload = Payload::Datagram { ports: (10, 10), data: data.to_vec() };
    Packet { source, destination, payload }.to_bytes()
}

/// Runs on each way that datagrams can take.
fn on_every_way(seed: u64, body: impl Fn(&Scene)) {
    for policies in
        [&[][..], &[(Policy::FastPath, 0)], &[(Policy::FastPath, 0), (Policy::OuterCoalescing, 1)]]
    {
        let mut kind = options("one");
        kind.choices.extend(wsk::good_offloads());
        kind.parameters
            .extend(policies.iter().map(|(policy, value)| (policy.name().to_owned(), *value)));
        println!("{policies:?}");
        on_virtual_time(seed, |world| {
            let scene = Scene::new(world, &kind);
            body(&scene);
            assert_clean(&scene.shut_down());
        });
    }
}

/// The same with one bit of each byte of `range` changed, signed again or not.
fn changed(message: &[u8], range: std::ops::Range<usize>, key: Option<&Key>) -> Vec<Vec<u8>> {
    let change = |at: usize| {
        let mut copy = message.to_vec();
        copy[at] ^= 1 << (at % 8);
        key.inspect(|key| sign(&mut copy, key));
        copy
    };
    range.map(change).collect()
}

/// Every other length, with a mac1 where there is room for one.
fn other_lengths(message: &[u8], key: &Key) -> Vec<Vec<u8>> {
    let lengths = (0..LONGEST).chain([600, 1000, 1452]).filter(|len| *len != message.len());
    let resize = |len: usize| {
        let mut copy = message.to_vec();
        copy.resize(len, 0);
        if len >= 36 {
            sign(&mut copy, key);
        }
        copy
    };
    lengths.map(resize).collect()
}

/// Every value of each reserved byte, and every type there is not.
fn other_types(message: &[u8], key: &Key) -> Vec<Vec<u8>> {
    let reserved = (1..4).flat_map(|at| (1..=255_u8).map(move |value| (at, value)));
    let types = std::iter::once(0).chain(5..=255_u8).map(|value| (0, value));
    let change = |(at, value): (usize, u8)| {
        let mut copy = message.to_vec();
        copy[at] = value;
        sign(&mut copy, key);
        copy
    };
    reserved.chain(types).map(change).collect()
}

// spec-test: WG 5.1-g, WG 5.4-m, WG 5.4-n
#[test]
fn what_is_no_message() {
    on_every_way(1, |scene| {
        let (mut session, _) = scene.connect();
        let initiation = scene.initiation().write().0;
        let response = [&[2, 0, 0, 0][..], &[0x5A; 88]].concat();
        let cookie = [&[3, 0, 0, 0][..], &[0x5A; 60]].concat();
        let data = session.seal(&inner(b"data"));
        let malformed = [Discard::MalformedMessage];
        scene.silent("nothing", &malformed, &[vec![]]);
        for (name, message) in
            [("initiation", initiation), ("response", response), ("cookie reply", cookie)]
        {
            scene.silent(
                &format!("lengths of an {name}"),
                &malformed,
                &other_lengths(&message, &scene.key),
            );
            scene.silent(
                &format!("types of an {name}"),
                &malformed,
                &other_types(&message, &scene.key),
            );
            scene.talk(&mut session);
        }
        let short: Vec<Vec<u8>> = (0..32).map(|len| data[..len].to_vec()).collect();
        scene.silent("short data", &malformed, &short);
        let mut types = other_types(&data, &scene.key);
        // Signing spoils the tag; what is wrong is seen before it.
        types.push([&[0; 4], &data[4..]].concat());
        scene.silent("types of data", &malformed, &types);
        // Each type with the length of each other.
        let lengths = [148, 92, 64];
        let swapped = lengths.into_iter().flat_map(|len| {
            (1..=3_u8).filter(move |kind| lengths[usize::from(*kind) - 1] != len).map(move |kind| {
                let mut message = vec![0x5A; len];
                message[..4].copy_from_slice(&[kind, 0, 0, 0]);
                message
            })
        });
        scene.silent("lengths of others", &malformed, &swapped.collect::<Vec<_>>());
        scene.talk(&mut session);
    });
}

// spec-test: WG 5.1-g, WG 5.3-a, WG 5.1-b, WG 5.1-f, WG 5.4-c
#[test]
fn an_initiation_with_one_thing_wrong() {
    on_every_way(2, |scene| {
        let (mut session, _) = scene.connect();
        let good = scene.initiation().write().0;
        scene.silent("mac1", &[Discard::BadMac1], &changed(&good, 116..132, None));
        scene.silent("what mac1 is of", &[Discard::BadMac1], &changed(&good, 4..116, None));
        let mut others = good.clone();
        sign(&mut others, &public(&PRIVATE));
        scene.silent("mac1 of another", &[Discard::BadMac1], &[others]);

        let bad = [Discard::BadHandshake];
        let with = |change: &dyn Fn(&mut Initiation)| {
            let mut made = scene.initiation();
            change(&mut made);
            let mut message = made.write().0;
            sign(&mut message, &scene.key);
            message
        };
        let other = public(&NOBODY);
        let wrong = [
            with(&|made| made.responder[0] = other),
            with(&|made| made.responder[1] = other),
            with(&|made| made.responder[2] = other),
            with(&|made| made.ephemeral_public = other),
            with(&|made| made.ephemeral = NOBODY),
            with(&|made| made.private = NOBODY),
            with(&|made| made.ephemeral_public = LOW_ORDER),
            // Everything as it would be if a shared secret of zero were taken.
            with(&|made| (made.ephemeral_public, made.responder[1]) = (LOW_ORDER, LOW_ORDER)),
        ];
        scene.silent("a key that is wrong", &bad, &wrong);
        scene.silent("what is sealed", &bad, &changed(&good, 8..116, Some(&scene.key)));
        let strangers = with(&|made| (made.private, made.claimed) = (NOBODY, other));
        scene.silent("a stranger's", &[Discard::UnknownPeer], &[strangers]);
        scene.talk(&mut session);

        scene.world.sleep(Duration::from_millis(50));
        let (again, _) = scene.initiation().write();
        scene.send(&again);
        scene.hear();
        scene.world.sleep(Duration::from_millis(50));
        let older = with(&|made| {
            made.timestamp[..8].copy_from_slice(&0x4000_0000_0000_000A_u64.to_be_bytes())
        });
        scene.silent("heard before", &[Discard::StaleTimestamp], &vec![again; 3]);
        scene.silent("older", &[Discard::StaleTimestamp], &[older]);
        scene.talk(&mut session);

        // One is taken, and the next comes too soon.
        let first = scene.initiation().write().0;
        scene.send(&first);
        scene.hear();
        let soon = scene.initiation().write().0;
        scene.silent("too soon", &[Discard::InitiationFlood], &[soon]);
        scene.talk(&mut session);
    });
}

// spec-test: WG 5.1-g, WG 5.4.3-c, WG 5.4-c, WG 5.2-a, WG 5.4.2-g, WG 5.4.7-f
#[test]
fn an_answer_with_one_thing_wrong() {
    on_every_way(3, |scene| {
        let right = Mutex::new(Vec::new());
        let (mut session, _) = scene.answer(|responder, initiation| {
            let good = responder.write().0;
            *right.lock().unwrap() = good.clone();
            scene.silent("mac1", &[Discard::BadMac1], &changed(&good, 60..76, None));
            scene.silent("what mac1 is of", &[Discard::BadMac1], &changed(&good, 4..60, None));
            let with = |change: &dyn Fn(&mut Responder)| {
                let mut responder = responder.clone();
                change(&mut responder);
                responder.write().0
            };
            let other = public(&NOBODY);
            let wrong = [
                with(&|made| made.preshared = [0; 32]),
                with(&|made| made.preshared = NOBODY),
                with(&|made| made.ephemeral = NOBODY),
                with(&|made| made.ephemeral_public = other),
                with(&|made| made.exchanged_with = other),
                with(&|made| made.ephemeral_public = LOW_ORDER),
            ];
            let bad = [Discard::BadHandshake];
            scene.silent("a key that is wrong", &bad, &wrong);
            scene.silent("what is sealed", &bad, &changed(&good, 12..60, Some(&scene.key)));
            let nobody = [Discard::UnknownReceiver];
            scene.silent("to nobody", &nobody, &changed(&good, 8..12, Some(&scene.key)));
            // A handshake that waits is no session.
            let mut data = vec![4, 0, 0, 0];
            data.extend_from_slice(&responder.receiver.to_le_bytes());
            data.resize(64, 0x5A);
            scene.silent("data for a handshake", &nobody, &[data]);
            let own = public(&PRIVATE);
            let reply = cookie_reply(&own, initiation, &[1; 16]);
            let forged = [Discard::BadCookieReply];
            scene.silent("a cookie that is forged", &forged, &changed(&reply, 8..64, None));
            scene.silent(
                "a cookie of another",
                &forged,
                &[cookie_reply(&other, initiation, &[1; 16])],
            );
            let mut unasked = initiation.to_vec();
            unasked[120] ^= 1;
            scene.silent(
                "a cookie for what was not sent",
                &forged,
                &[cookie_reply(&own, &unasked, &[1; 16])],
            );
            scene.silent("a cookie for nobody", &nobody, &changed(&reply, 4..8, None));
            // The right one is taken once, and answered by nothing.
            let left = *scene.left.lock().unwrap();
            scene.send(&reply);
            scene.world.sleep(Duration::from_millis(50));
            assert_eq!(*scene.left.lock().unwrap(), left);
            scene.silent("a cookie, again", &forged, &vec![reply; 3]);
        });
        let right = right.into_inner().unwrap();
        scene.silent("a response, again", &[Discard::UnknownReceiver], &vec![right.clone(); 3]);
        let fresh = changed(&right, 12..60, Some(&scene.key));
        scene.silent("a response for a session", &[Discard::UnknownReceiver], &fresh);
        scene.talk(&mut session);
    });
}

// spec-test: WG 5.1-g, WG 5.4.6-e, WG 5.4.6-f, WG 5.4.6-g, WG 6.2-a
#[test]
fn data_with_one_thing_wrong() {
    on_every_way(4, |scene| {
        let (old, _) = scene.connect();
        let (mut session, _) = scene.connect();
        let good = session.seal(&inner(b"some data"));
        let len = good.len();
        let bad = [Discard::BadTag];
        scene.silent("tag", &bad, &changed(&good, len - 16..len, None));
        scene.silent("ciphertext", &bad, &changed(&good, 16..len - 16, None));
        // The greatest byte aside: a counter at the limit is not even looked at.
        scene.silent("counter", &bad, &changed(&good, 8..15, None));
        let longer: Vec<Vec<u8>> = (1..300).map(|by| [&good[..], &vec![0; by]].concat()).collect();
        scene.silent("longer", &bad, &longer);
        let shorter: Vec<Vec<u8>> = (32..len).map(|len| good[..len].to_vec()).collect();
        scene.silent("shorter", &bad, &shorter);
        let nobody = [Discard::UnknownReceiver];
        scene.silent("to nobody", &nobody, &changed(&good, 4..8, None));
        let mut mixed = old.clone();
        mixed.theirs = session.theirs;
        scene.silent("the key of another session", &bad, &[mixed.seal_at(900, &inner(b"x"))]);
        (mixed.theirs, mixed.send) = (session.theirs, session.receive);
        scene.silent("the key of the other way", &bad, &[mixed.seal_at(900, &inner(b"x"))]);

        scene.send(&good);
        assert!(scene.alpha.endpoint().take_datagram(Duration::from_secs(1)).is_some());
        let replayed = [Discard::Replayed];
        scene.silent("again", &replayed, &vec![good.clone(); 5]);
        let other = session.seal_at(session.counter - 1, &inner(b"other text, same counter"));
        scene.silent("a counter again", &replayed, &[other]);
        session.counter += 10_000;
        scene.talk(&mut session);
        let late: Vec<Vec<u8>> =
            [20, 21, 500].map(|counter| session.seal_at(counter, &inner(b"late"))).into();
        scene.silent("older than the window", &replayed, &late);
        let limit = u64::MAX - (1 << 13);
        let beyond: Vec<Vec<u8>> = [limit, limit + 1, limit + 70, u64::MAX - 1, u64::MAX]
            .map(|counter| session.seal_at(counter, &inner(b"beyond")))
            .into();
        scene.silent("beyond the last counter", &[Discard::SessionExpired], &beyond);
        // Authentic, and no packet that alpha lets through.
        let mut with = |at: usize, bytes: &[u8]| {
            let mut packet = inner(b"some data");
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            session.seal(&packet)
        };
        let versions = [0x05, 0x35, 0x55, 0x75, 0xF5].map(|first| with(0, &[first]));
        let lengths = [0, 1, 19, 49, 4000, u16::MAX].map(|len| with(2, &len.to_be_bytes()));
        let sources = [[10, 9, 0, 3], [10, 9, 0, 1], [0; 4]].map(|source| with(12, &source));
        // As long as it is, it is none of IPv6, whose header is longer.
        let short = [session.seal(&[0x45; 16]), session.seal(&[0x60; 32])];
        scene.silent("neither IPv4 nor IPv6", &[Discard::InnerVersion], &versions);
        scene.silent("shorter than its header", &[Discard::InnerVersion], &short);
        scene.silent("of another length", &[Discard::InnerLength], &lengths);
        scene.silent("from somebody else", &[Discard::WrongSource], &sources);
        let longer = [[&good[..], &[0; 9000]].concat()];
        // Where datagrams may come as one it is none that came alone.
        let reason = if scene.coalesces { Discard::BadCoalescing } else { Discard::NoBuffer };
        scene.silent("longer than any", &[reason], &longer);
        scene.talk(&mut session);

        scene.world.sleep(Duration::from_secs(200));
        let expired: Vec<Vec<u8>> = (0..5).map(|_| session.seal(&inner(b"too late"))).collect();
        scene.silent("with a key that expired", &[Discard::SessionExpired], &expired);
        let (mut session, _) = scene.connect();
        scene.talk(&mut session);
    });
}

/// The only answer to what is not authentic: a cookie reply, under load, to a right mac1 without a right mac2.
// spec-test: WG 5.3-b, WG 5.4.7-e, WG 5.4.7-a
#[test]
fn under_load_a_right_mac1_draws_a_cookie_and_nothing_else_does() {
    on_every_way(5, |scene| {
        let (mut session, _) = scene.connect();
        let good = scene.initiation().write().0;
        // Forged ones are refused where they arrive, however many: nobody is under load for them.
        let forged: Vec<Vec<u8>> =
            changed(&good, 116..132, None).into_iter().cycle().take(3000).collect();
        scene.silent("a flood of wrong mac1s", &[Discard::BadMac1], &forged);
        let rubbish = |at: u8| {
            let mut message = vec![at ^ 0x5A; if at.is_multiple_of(2) { 148 } else { 92 }];
            message[..4].copy_from_slice(&[1 + at % 2, 0, 0, 0]);
            message[4] = at;
            sign(&mut message, &scene.key);
            message
        };
        // Right mac1s, all at once, so that they wait, and load is seen.
        let flood: Vec<Vec<u8>> = (0..3000_u32).map(|at| rubbish(at as u8)).collect();
        let loaded = || {
            // Both prompt workers ask for randomness before they look at what waits.
            let faults = scene.alpha.computer().machine().faults();
            (0..2).for_each(|_| faults.stall("BCryptGenRandom", 0, Duration::from_millis(400)));
            flood.iter().for_each(|datagram| scene.send(datagram));
            scene.world.sleep(Duration::from_millis(500));
        };
        loaded();
        scene.silent("mac1 under load", &[Discard::BadMac1], &changed(&good, 116..132, None));
        let nothing = [Discard::MalformedMessage];
        scene.silent("lengths under load", &nothing, &other_lengths(&good, &scene.key));

        // Right mac1, wrong mac2: whatever else it is.
        loaded();
        scene.heard.lock().unwrap().clear();
        let messages: Vec<Vec<u8>> = (0..40).map(rubbish).chain([good.clone()]).collect();
        let (before, left) = (Counted::of(scene.alpha.tunnel()), *scene.left.lock().unwrap());
        messages.iter().for_each(|message| scene.send(message));
        scene.world.sleep(Duration::from_millis(100));
        let after = Counted::of(scene.alpha.tunnel());
        let required =
            after.discarded(Discard::CookieRequired) - before.discarded(Discard::CookieRequired);
        assert_eq!(required, messages.len() as u64, "{}", after.discards());
        assert_eq!(*scene.left.lock().unwrap() - left, messages.len(), "one answer to each");
        let replies = std::mem::take(&mut *scene.heard.lock().unwrap());
        let cookies: Vec<[u8; 16]> = messages
            .iter()
            .map(|message| {
                let mine =
                    replies.iter().filter_map(|reply| open_cookie(&scene.key, message, reply));
                let mine: Vec<[u8; 16]> = mine.collect();
                assert_eq!(mine.len(), 1, "a cookie for each");
                mine[0]
            })
            .collect();
        assert!(cookies.iter().all(|cookie| *cookie == cookies[0]), "one source, one cookie");

        // With the cookie it is worth a look, and is found wrong; or right.
        let paid = |mut message: Vec<u8>| {
            let at = message.len() - 16;
            let mac2 = mac(&cookies[0], &message[..at]);
            message[at..].copy_from_slice(&mac2);
            message
        };
        let wrong = [paid(rubbish(2)), paid(rubbish(4))];
        scene.silent("paid, and wrong", &[Discard::BadHandshake], &wrong);
        let (message, pending) = scene.initiation().write();
        scene.send(&paid(message));
        let response = scene.hear();
        assert!(Pending::consume(&pending, &PRESHARED, &response).is_some());
        scene.world.sleep(Duration::from_secs(2));
        scene.talk(&mut session);
    });
}
