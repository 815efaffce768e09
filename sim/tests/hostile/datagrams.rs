//! What the network may send: anything.
//!
//! ```text
//!   10.9.0.1 ┌───────┐          ┌─────────────┐          ┌──────┐ 10.9.0.2
//!   fd09::1 ─┤ alpha ├── 51820 ─┤ 203.0.113.1 ├─ 51821 ──┤ beta ├─ fd09::2
//!            └───────┘          │   between   │          └──────┘
//!                               └─────────────┘             ▲
//!              203.0.113.9: stranger ────────────────────────┘
//! ```
//!
//! Whoever sits between the two hears every datagram and sends them on, so that it can send them again, cut, changed or
//! grown, from the very address the peer has. The verifier splits payloads over MDLs, indicates lists of 1 to 32 and leaves
//! control messages out. Nothing may stop a machine; nobody may get an answer; every datagram is counted once; the session
//! goes on.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::discard::Discard;
use abi::statistics::Counter;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sim::host::memory::pair::{PORT, Station};
use sim::host::memory::{Host, Network};
use sim::host::{Batch, Landing, Outer, Place, Sending, Socket};
use sim::nt::machine::Options;
use sim::verifier::schedule::World;

use crate::{Counted, assert_clean, driver, on_virtual_time, options};

const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any answer or passive keepalive takes, much shorter than a session lives.
const QUIET: Duration = Duration::from_secs(25);
/// Sent at once; with the verifier they arrive as lists of 1 to 32.
const BURST: usize = 64;
const INITIATION: usize = 148;
const RESPONSE: usize = 92;

/// Where the network puts a datagram for us.
struct Slot {
    bytes: Box<[AtomicU8]>,
    busy: AtomicBool,
}

const SLOT: usize = 2048;

/// What is done with a datagram that came: who sent it, and what it is.
pub(crate) type Taken = dyn Fn(SocketAddr, Vec<u8>) + Send + Sync;

/// A program's UDP socket.
pub(crate) struct Program {
    slots: Vec<Slot>,
    taken: Box<Taken>,
}

impl Program {
    pub(crate) fn new(taken: impl Fn(SocketAddr, Vec<u8>) + Send + Sync + 'static) -> Arc<Self> {
        let slot = || Slot {
            bytes: (0..SLOT).map(|_| AtomicU8::new(0)).collect(),
            busy: AtomicBool::new(false),
        };
        Arc::new(Self { slots: (0..BURST).map(|_| slot()).collect(), taken: Box::new(taken) })
    }
}

impl Landing for Program {
    fn places(&self, places: &mut Vec<Place>, count: usize) {
        let free = |(name, slot): (usize, &Slot)| {
            let payload = NonNull::new(slot.bytes.first()?.as_ptr())?;
            let was_free = !slot.busy.swap(true, Ordering::AcqRel);
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            was_free.then_some(Place {
                payload,
                capacity: SLOT,
                name,
                len: 0,
                segment: 0,
                remote: nobody,
                local: None,
                traffic_class: None,
            })
        };
        places.extend(self.slots.iter().enumerate().filter_map(free).take(count));
    }

    fn landed(&self, filled: &mut Vec<Place>) {
        for place in filled.iter() {
            let bytes = self.slots[place.name].bytes.iter().take(place.len);
            let datagram = bytes.map(|byte| byte.load(Ordering::Relaxed)).collect();
            (self.taken)(place.remote, datagram);
        }
        self.unused(filled);
    }

    fn unused(&self, places: &mut Vec<Place>) {
        for place in places.drain(..) {
            self.slots[place.name].busy.store(false, Ordering::Release);
        }
    }
}

pub(crate) fn send(socket: &Arc<dyn Socket>, to: SocketAddr, datagram: &[u8]) {
    let mut batch = Batch::default();
    assert!(batch.push([datagram].into_iter()));
    socket.send(to, &Sending::default(), &batch).unwrap();
}

/// Everything that was heard in one direction.
pub(crate) type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Sits between the two: one socket for each.
pub(crate) struct Between {
    to_alpha: Arc<dyn Socket>,
    pub(crate) to_beta: Arc<dyn Socket>,
    pub(crate) from_alpha: Heard,
    from_beta: Heard,
    _host: Arc<Host>,
}

impl Between {
    fn new(network: &Network, alpha: SocketAddr, beta: SocketAddr) -> Self {
        let host = network.plug_in(&["203.0.113.1".parse().unwrap()]);
        let (from_alpha, from_beta) = (Heard::default(), Heard::default());
        type Later = Arc<Mutex<Option<Arc<dyn Socket>>>>;
        let sockets: [Later; 2] = Default::default();
        let open = |port: u16, heard: &Heard, on: &Later, to| {
            let (heard, on) = (heard.clone(), on.clone());
            let taken = move |_, datagram: Vec<u8>| {
                let socket = on.lock().unwrap().clone();
                send(&socket.unwrap(), to, &datagram);
                heard.lock().unwrap().push(datagram);
            };
            host.open(SocketAddr::from(([0, 0, 0, 0], port)), Program::new(taken)).unwrap()
        };
        let to_alpha = open(51820, &from_alpha, &sockets[1], beta);
        let to_beta = open(51821, &from_beta, &sockets[0], alpha);
        *sockets[0].lock().unwrap() = Some(to_alpha.clone());
        *sockets[1].lock().unwrap() = Some(to_beta.clone());
        Self { to_alpha, to_beta, from_alpha, from_beta, _host: host }
    }

    fn heard(&self) -> [usize; 2] {
        [&self.from_alpha, &self.from_beta].map(|heard| heard.lock().unwrap().len())
    }
}

/// The drawing: two stations that know each other by whoever sits between, and a stranger.
pub(crate) struct Scene {
    pub(crate) world: Arc<World>,
    pub(crate) alpha: Station,
    pub(crate) beta: Station,
    pub(crate) between: Between,
    pub(crate) stranger: Arc<dyn Socket>,
    answers: Heard,
    _strange: Arc<Host>,
    network: Network,
}

impl Scene {
    fn run(seed: u64, body: impl FnOnce(&Self)) {
        Self::run_on(seed, &options("one"), body);
    }

    /// The same, with stations like `kind`.
    pub(crate) fn run_on(seed: u64, kind: &Options, body: impl FnOnce(&Self)) {
        on_virtual_time(seed, |world| {
            let network = Network::new(world);
            let boot = |name: &str, number| {
                let options = Options { name: name.to_owned(), ..kind.clone() };
                Station::boot(world, &network, number, options, &driver())
                    .unwrap_or_else(|error| panic!("{error}"))
            };
            let (alpha, beta) = (boot("alpha", 1), boot("beta", 2));
            let at = |station: &Station| SocketAddr::new(station.outer()[0], PORT);
            let between = Between::new(&network, at(&alpha), at(&beta));
            let strange = network.plug_in(&["203.0.113.9".parse().unwrap()]);
            let answers = Heard::default();
            let inbox = answers.clone();
            let program = Program::new(move |_, datagram| inbox.lock().unwrap().push(datagram));
            let stranger = strange.open("0.0.0.0:9".parse().unwrap(), program).unwrap();
            let mut peer = beta.as_peer().unwrap();
            peer.endpoint = Some("203.0.113.1:51820".parse().unwrap());
            alpha.set_peers(&[peer]).unwrap();
            let mut peer = alpha.as_peer().unwrap();
            peer.endpoint = Some("203.0.113.1:51821".parse().unwrap());
            beta.set_peers(&[peer]).unwrap();
            alpha.set_up(true).unwrap();
            beta.set_up(true).unwrap();
            let world = world.clone();
            let scene =
                Self { world, alpha, beta, between, stranger, answers, _strange: strange, network };
            scene.ping();
            scene.world.sleep(QUIET);
            body(&scene);
            let Self { alpha, beta, .. } = scene;
            for station in [alpha, beta] {
                assert_clean(&station.shut_down().unwrap_or_else(|error| panic!("{error}")));
            }
        });
    }

    /// Both ways, both families.
    pub(crate) fn ping(&self) {
        for (one, other) in [(&self.alpha, &self.beta), (&self.beta, &self.alpha)] {
            for to in other.inner() {
                assert!(one.endpoint().ping(to, 600, PATIENCE).is_some(), "{to}: no answer");
            }
        }
    }

    /// Sends `datagrams` to `station` from where its peer is, or as a stranger, in bursts, and holds the station to what
    /// the file's head says. Returns the counters before and after.
    fn attack(&self, station: &Station, disguised: bool, datagrams: &[Vec<u8>]) -> [Counted; 2] {
        let to = SocketAddr::new(station.outer()[0], PORT);
        let is_beta = std::ptr::eq(station, &raw const self.beta);
        let disguise = if is_beta { &self.between.to_beta } else { &self.between.to_alpha };
        let socket = if disguised { disguise } else { &self.stranger };
        let before = Counted::of(station.tunnel());
        let heard = self.between.heard();
        for burst in datagrams.chunks(BURST) {
            for datagram in burst {
                send(socket, to, datagram);
            }
            self.world.sleep(Duration::from_millis(5));
        }
        self.world.sleep(Duration::from_millis(100));
        let after = Counted::of(station.tunnel());
        let grown = |counter| after.counter(counter) - before.counter(counter);
        assert_eq!(grown(Counter::DatagramsIn), datagrams.len() as u64);
        assert_eq!(grown(Counter::PacketsIn), 0, "a packet came of it: {}", after.discards());
        assert_eq!(grown(Counter::HandshakesIn) + grown(Counter::KeepalivesIn), 0);
        assert_eq!(grown(Counter::DatagramBytesIn), datagrams.iter().map(|d| d.len() as u64).sum());
        after.assert_inbound_identity();
        assert_eq!(self.answers.lock().unwrap().len(), 0, "a stranger was answered");
        assert_eq!(self.between.heard(), heard, "somebody answered");
        [before, after]
    }

    /// The last datagram heard from alpha that `is` likes.
    pub(crate) fn heard_from(heard: &Heard, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        heard.lock().unwrap().iter().rev().find(|datagram| is(datagram)).unwrap().clone()
    }
}

/// Draws `count` values.
fn draw<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Every way to cut `datagram`, change one byte of it, or lengthen it.
fn mutations(datagram: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..datagram.len()).map(|len| datagram[..len].to_vec());
    let changed = (0..datagram.len()).map(|at| {
        let mut copy = datagram.to_vec();
        copy[at] ^= 1 << (at % 8);
        copy
    });
    let grown = (1..40).map(|by| [datagram, &vec![0; by]].concat());
    cut.chain(changed).chain(grown).collect()
}

// spec-test: WG 5.1-g, WG 5.4-m, WG 5.4-n
#[test]
fn random_payloads_are_counted_and_forgotten() {
    Scene::run(1, |scene| {
        let length = prop_oneof![
            6 => 0..200_usize,
            2 => prop::sample::select(vec![16, 31, 32, 33, 48, 64, 92, 148, 1452, 1500]),
            1 => 200..9000_usize,
            1 => prop::sample::select(vec![65_000, 65_507]),
        ];
        let payload = (length, 0..7_u8, any::<bool>(), any::<u64>()).prop_map(
            |(len, kind, plausible, seed)| {
                let mut bytes: Vec<u8> = (0..len as u64)
                    .map(|at| {
                        (seed.wrapping_add(at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
                    })
                    .collect();
                if plausible {
                    bytes.iter_mut().zip([kind, 0, 0, 0]).for_each(|(to, from)| *to = from);
                }
                bytes
            },
        );
        let payloads = draw(&payload, 1500);
        for disguised in [false, true] {
            for station in [&scene.alpha, &scene.beta] {
                let [before, after] = scene.attack(station, disguised, &payloads);
                for reason in
                    [Discard::MalformedMessage, Discard::UnknownReceiver, Discard::BadMac1]
                {
                    assert!(
                        after.discarded(reason) > before.discarded(reason),
                        "{}",
                        reason.name()
                    );
                }
            }
        }
        scene.ping();
    });
}

/// Workers take a queue that grows in batches, whose mac1 are checked together: each message gets its own verdict.
// spec-test: WG 5.3-a
#[test]
fn a_flood_of_forged_handshake_messages_is_counted_one_by_one() {
    Scene::run(5, |scene| {
        let initiation = Scene::heard_from(&scene.between.from_alpha, |d| d.len() == INITIATION);
        let response = Scene::heard_from(&scene.between.from_beta, |d| d.len() == RESPONSE);
        let mut forged = [0_u64; 2];
        let flood = |one: &[u8], other: &[u8], forged: &mut u64| -> Vec<Vec<u8>> {
            (0..4096_usize)
                .map(|at| {
                    let mut message = if at % 5 < 4 { one } else { other }.to_vec();
                    // Some are genuine, and discarded as repeated ones are.
                    if at % 7 != 3 {
                        let mac1 = message.len() - 32;
                        message[mac1 + at % 16] ^= 1 << (at % 8);
                        *forged += 1;
                    } else if at % 5 == 4 {
                        message = one.to_vec();
                    }
                    message
                })
                .collect()
        };
        let floods = [
            (&scene.beta, flood(&initiation, &response, &mut forged[0])),
            (&scene.alpha, flood(&response, &initiation, &mut forged[1])),
        ];
        for disguised in [false, true] {
            for ((station, flood), forged) in floods.iter().zip(forged) {
                let [before, after] = scene.attack(station, disguised, flood);
                let refused =
                    after.discarded(Discard::BadMac1) - before.discarded(Discard::BadMac1);
                assert_eq!(refused, forged, "{}", after.discards());
            }
        }
        scene.ping();
    });
}

// spec-test: WG 5.1-g, WG 5.4.6-e, WG 2.1-a
#[test]
fn genuine_messages_that_were_changed_are_nothing() {
    Scene::run(2, |scene| {
        let initiation = Scene::heard_from(&scene.between.from_alpha, |d| d.len() == INITIATION);
        let response = Scene::heard_from(&scene.between.from_beta, |d| d.len() == RESPONSE);
        let data = Scene::heard_from(&scene.between.from_alpha, |d| d[0] == 4 && d.len() > 32);
        for (station, message) in
            [(&scene.beta, &initiation), (&scene.alpha, &response), (&scene.beta, &data)]
        {
            for disguised in [true, false] {
                scene.attack(station, disguised, &mutations(message));
            }
            scene.ping();
            scene.world.sleep(QUIET);
        }
    });
}

// spec-test: WG 5.1-g, WG 5.4.6-f, WG 5.1-b
#[test]
fn what_was_heard_once_is_not_heard_twice() {
    Scene::run(3, |scene| {
        let all = |heard: &Heard| heard.lock().unwrap().clone();
        let (from_alpha, from_beta) =
            (all(&scene.between.from_alpha), all(&scene.between.from_beta));
        assert!(from_alpha.len() > 4 && from_beta.len() > 4);
        for disguised in [true, false] {
            for (station, heard) in [(&scene.beta, &from_alpha), (&scene.alpha, &from_beta)] {
                let data = heard.iter().filter(|d| d[0] == 4).count() as u64;
                let repeated: Vec<Vec<u8>> =
                    heard.iter().cycle().take(3 * heard.len()).cloned().collect();
                let [before, after] = scene.attack(station, disguised, &repeated);
                let replays =
                    after.discarded(Discard::Replayed) - before.discarded(Discard::Replayed);
                assert_eq!(replays, 3 * data, "{}", after.discards());
            }
        }
        assert!(Counted::of(scene.beta.tunnel()).discarded(Discard::StaleTimestamp) > 0);
        scene.ping();
        // Nor does a stranger who repeats the peer's packets become the peer's endpoint.
        let carried = scene.network.carried();
        scene.ping();
        assert!(scene.network.carried().sent > carried.sent);
        assert_eq!(scene.answers.lock().unwrap().len(), 0);
    });
}

#[test]
fn an_adapter_that_is_down_hears_nothing() {
    Scene::run(4, |scene| {
        let data = Scene::heard_from(&scene.between.from_alpha, |d| d[0] == 4);
        scene.beta.set_up(false).unwrap();
        let before = Counted::of(scene.beta.tunnel());
        for datagram in mutations(&data) {
            send(&scene.between.to_beta, SocketAddr::new(scene.beta.outer()[0], PORT), &datagram);
        }
        scene.world.sleep(Duration::from_millis(100));
        let after = Counted::of(scene.beta.tunnel());
        after.assert_inbound_identity();
        assert_eq!(after.counter(Counter::DatagramsIn), before.counter(Counter::DatagramsIn));
        scene.beta.set_up(true).unwrap();
        // Beta forgot its sessions and begins anew; alpha would find out after 15 seconds.
        let to = scene.alpha.inner()[0];
        assert!(scene.beta.endpoint().ping(to, 10, PATIENCE).is_some());
        scene.ping();
    });
}
