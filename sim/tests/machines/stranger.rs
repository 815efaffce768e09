//! Somebody else on the network, who sends whatever he likes and hears nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sim::host::memory::pair::{Pair, Station};
use sim::host::memory::{Carried, Host, Network};
use sim::host::{Batch, Landing, Outer, Place, Sending, Socket};
use sim::nt::machine::Options;

use super::{finish_beside, on_virtual_time};

/// A program with a socket, on a computer of its own.
pub(crate) struct Stranger {
    socket: Arc<dyn Socket>,
    sent: [AtomicU64; 2],
    _host: Arc<Host>,
}

/// Takes nothing.
struct Deaf;

impl Landing for Deaf {
    fn places(&self, _places: &mut Vec<Place>, _count: usize) {}

    fn landed(&self, filled: &mut Vec<Place>) {
        filled.clear();
    }

    fn unused(&self, places: &mut Vec<Place>) {
        places.clear();
    }
}

impl Stranger {
    /// Plugs in a computer at 203.0.113.9.
    #[must_use]
    pub(crate) fn new(network: &Network) -> Self {
        let host = network.plug_in(&[IpAddr::from([203, 0, 113, 9])]);
        let socket = host.open(SocketAddr::from(([0, 0, 0, 0], 9)), Arc::new(Deaf)).unwrap();
        Self { socket, sent: Default::default(), _host: host }
    }

    /// Sends a datagram to the port that `station` listens on.
    pub(crate) fn send(&self, station: &Station, datagram: &[u8]) {
        let mut batch = Batch::default();
        assert!(batch.push([datagram].into_iter()));
        self.socket.send(address(station), &Sending::default(), &batch).unwrap();
        self.note(datagram);
    }

    /// The same, as if it came from another address, where answers go.
    pub(crate) fn forge(&self, network: &Network, from: SocketAddr, to: &Station, datagram: &[u8]) {
        network.forge(from, address(to), datagram);
        self.note(datagram);
    }

    fn note(&self, datagram: &[u8]) {
        for (sum, more) in self.sent.iter().zip([1, datagram.len() as u64]) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// What it sent.
    #[must_use]
    pub(crate) fn sent(&self) -> Carried {
        let [sent, bytes] = [0, 1].map(|which: usize| self.sent[which].load(Ordering::Relaxed));
        Carried { sent, bytes, ..Carried::default() }
    }
}

/// Where a station listens.
fn address(station: &Station) -> SocketAddr {
    SocketAddr::new(station.outer()[0], station.port())
}

/// Every datagram between two addresses, as it was sent.
pub(crate) type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps what goes from one station to the other; one for a network.
#[must_use]
pub(crate) fn overhear(network: &Network, from: &Station, to: &Station) -> Heard {
    let heard = Heard::default();
    let (keep, ends) = (heard.clone(), (from.outer()[0], to.outer()[0]));
    network.tap(move |seen| {
        if (seen.from.ip(), seen.to.ip()) == ends {
            keep.lock().unwrap().push(seen.payload.to_vec());
        }
    });
    heard
}

/// Two machines like `options` whose tunnels are up and know each other, and a stranger.
pub(crate) fn with_stranger(seed: u64, options: &Options, scenario: impl FnOnce(&Pair, &Stranger)) {
    on_virtual_time(seed, |world, driver| {
        let pair = Pair::boot(world, options, driver)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let stranger = Stranger::new(&pair.network);
        scenario(&pair, &stranger);
        let Pair { alpha, beta, network, .. } = pair;
        finish_beside(vec![alpha, beta], &network, stranger.sent());
    });
}
