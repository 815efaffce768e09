//! The network on its own: datagrams between sockets whose memory is this file's.

use super::*;
use crate::host::Place;
use crate::verifier::schedule::Mode;

/// A landing that keeps what it gets.
struct Kept {
    world: Arc<World>,
    datagrams: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

impl Landing for Kept {
    fn places(&self, places: &mut Vec<Place>, count: usize) {
        for _ in 0..count {
            let room: &'static mut [u8] = Box::leak(vec![0; 2048].into_boxed_slice());
            let payload = std::ptr::NonNull::from(room).cast();
            let remote = "0.0.0.0:0".parse().unwrap();
            places.push(Place {
                payload,
                capacity: 2048,
                name: 0,
                len: 0,
                segment: 0,
                remote,
                local: None,
                traffic_class: None,
            });
        }
    }

    fn landed(&self, filled: &mut Vec<Place>) {
        for place in filled.drain(..) {
            // SAFETY: `len` bytes were written to the leaked room.
            let bytes = unsafe { std::slice::from_raw_parts(place.payload.as_ptr(), place.len) };
            lock(&self.datagrams).push((place.remote, bytes.to_vec()));
        }
        self.world.wake(Key::of(&self.datagrams));
    }

    fn unused(&self, places: &mut Vec<Place>) {
        places.clear();
    }
}

struct Pair {
    world: Arc<World>,
    network: Network,
    hosts: [Arc<Host>; 2],
    kept: [Arc<Kept>; 2],
    sockets: [Arc<dyn Socket>; 2],
}

fn pair(seed: u64) -> Pair {
    let world = World::new(Mode::Virtual { seed });
    let network = Network::new(&world);
    let hosts = ["192.0.2.1", "198.51.100.1"].map(|ip| network.plug_in(&[ip.parse().unwrap()]));
    let kept = [0, 1].map(|_| Arc::new(Kept { world: world.clone(), datagrams: Mutex::default() }));
    let sockets =
        [0, 1].map(|n| hosts[n].open("0.0.0.0:7".parse().unwrap(), kept[n].clone()).unwrap());
    Pair { world, network, hosts, kept, sockets }
}

impl Pair {
    fn send(&self, from: usize, to: &str, payload: &[u8]) -> Result<(), SendError> {
        let mut batch = Batch::default();
        assert!(batch.push(payload.chunks(3)));
        self.sockets[from].send(to.parse().unwrap(), &Sending::default(), &batch)
    }

    fn got(&self, at: usize, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let deadline = self.world.now() + Duration::from_secs(1);
        let _ =
            self.world.wait(Key::of(&self.kept[at].datagrams), Some(deadline), "datagrams", || {
                (lock(&self.kept[at].datagrams).len() >= count).then_some(())
            });
        std::mem::take(&mut lock(&self.kept[at].datagrams))
    }
}

#[test]
fn a_datagram_takes_the_links_delay() {
    let pair = pair(1);
    let _main = pair.world.enter("main");
    let before = pair.world.now();
    pair.send(0, "198.51.100.1:7", b"0123456789").unwrap();
    let got = pair.got(1, 1);
    assert_eq!(got, [("192.0.2.1:7".parse().unwrap(), b"0123456789".to_vec())]);
    assert_eq!(pair.world.now() - before, Link::default().delay);
}

#[test]
fn weather_loses_and_repeats() {
    let pair = pair(2);
    let _main = pair.world.enter("main");
    pair.network.set_weather(Link {
        loss_per_mille: 500,
        jitter: Duration::from_millis(5),
        ..Link::default()
    });
    for n in 0..200_u8 {
        pair.send(0, "198.51.100.1:7", &[n]).unwrap();
    }
    let got = pair.got(1, 201);
    let carried = pair.network.carried();
    assert_eq!(carried.delivered + carried.lost, 200);
    assert_eq!(got.len() as u64, carried.delivered);
    assert!((60..140).contains(&carried.lost), "{carried:?}");
    assert!(!got.is_sorted_by_key(|(_, bytes)| bytes[0]), "jitter reorders");
}

#[test]
fn a_nat_hides_and_rebinds() {
    let pair = pair(3);
    let _main = pair.world.enter("main");
    pair.hosts[0].rebind("203.0.113.9".parse().unwrap());
    pair.send(0, "198.51.100.1:7", b"out").unwrap();
    let first = pair.got(1, 1)[0].0;
    assert_eq!(first.ip().to_string(), "203.0.113.9");
    pair.send(1, &first.to_string(), b"back").unwrap();
    assert_eq!(pair.got(0, 1)[0].1, b"back");
    pair.hosts[0].rebind("203.0.113.9".parse().unwrap());
    pair.send(1, &first.to_string(), b"lost").unwrap();
    assert!(pair.got(0, 1).is_empty(), "the old mapping is gone");
    pair.send(0, "198.51.100.1:7", b"out").unwrap();
    assert_ne!(pair.got(1, 1)[0].0, first);
}

#[test]
fn sources_and_routes_are_checked() {
    let pair = pair(4);
    let _main = pair.world.enter("main");
    let send = |address: &str, interface| {
        let info = PacketInfo { address: address.parse().unwrap(), interface };
        let how = Sending { packet_info: Some(info), ..Sending::default() };
        let mut batch = Batch::default();
        assert!(batch.push([&b"x"[..]].into_iter()));
        pair.sockets[0].send("198.51.100.1:7".parse().unwrap(), &how, &batch)
    };
    assert_eq!(send("192.0.2.1", CARD), Ok(()));
    assert_eq!(send("0.0.0.0", 0), Ok(()));
    assert_eq!(send("192.0.2.99", 0), Err(SendError::BadSource));
    assert_eq!(send("0.0.0.0", 99), Err(SendError::BadSource));
    pair.hosts[0].change(|tables| tables.interfaces[0].up = false);
    assert_eq!(send("0.0.0.0", 0), Err(SendError::Unreachable));
}

#[test]
fn watchers_hear_of_changes_once() {
    let pair = pair(5);
    let _main = pair.world.enter("main");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    pair.hosts[0].watch(Box::new(move |before, after| {
        lock(&hears).push(after.route_changes(before).len());
    }));
    let index =
        pair.hosts[0].plug_in_adapter(7, &[], &[Prefix::new("10.0.0.0".parse().unwrap(), 8)]);
    pair.hosts[0].unplug(index);
    assert_eq!(*lock(&heard), [1, 1]);
}
