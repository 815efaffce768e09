//! Two machines with a tunnel whose queues are polled by whoever measures them, in his own thread.
//!
//! Each stands before a [`Null`] network: what is sent is counted and gone, what arrives is landed by hand. Only for fast
//! mode. What goes wrong here panics: it is a measurement's end.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Outer;
use super::memory::Network;
use super::memory::packet::{Packet, Payload};
use super::memory::pair::{PORT, Station};
use super::null::{Mode, Null, fill};
use crate::nt::machine::{Machine, Options};
use crate::nt::netcx::adapter::Adapter;
use crate::verifier::schedule::World;

/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of IPv4's and UDP's headers, which a packet has at least.
pub const HEADERS: usize = 28;

/// Both machines; the first one sends.
pub struct Polled {
    /// Dropped first: whoever takes a machine down waits for its queues.
    by_hand: [ByHand; 2],
    /// What sends.
    pub from: End,
    /// What receives.
    pub to: End,
    _network: Network,
}

/// As long as this lives, nobody else polls a machine's queues.
struct ByHand(Arc<Adapter>, Weak<Machine>);

impl ByHand {
    fn new(end: &End) -> Self {
        end.adapter().poll_by_hand(end.machine(), true);
        Self(end.adapter().clone(), end.machine().weak())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        if let Some(machine) = self.1.upgrade() {
            self.0.poll_by_hand(&machine, false);
        }
    }
}

/// One of the machines.
pub struct End {
    /// The machine, with its tunnel.
    pub station: Station,
    /// Its network.
    pub outer: Arc<Null>,
    received: Arc<AtomicU64>,
}

impl End {
    /// Boots a machine before a null network that still passes everything on.
    ///
    /// # Panics
    ///
    /// If it does not boot.
    #[must_use]
    pub fn boot(
        world: &Arc<World>,
        network: &Network,
        number: u8,
        options: &Options,
        driver: &Path,
    ) -> Self {
        let mut outer = None;
        let wrap = |host| {
            let null = Null::new(host);
            outer = Some(null.clone());
            null as Arc<dyn Outer>
        };
        let station = Station::boot_behind(world, network, number, options.clone(), driver, wrap)
            .unwrap_or_else(|error| panic!("station {number}: {error}"));
        let Some(outer) = outer else { panic!("station {number} asked for no network") };
        Self { station, outer, received: Arc::default() }
    }

    /// Its machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.station.computer().machine()
    }

    /// Its adapter.
    #[must_use]
    pub fn adapter(&self) -> &Arc<Adapter> {
        self.station.tunnel().adapter()
    }

    /// Polls both queues until neither has work.
    pub fn poll(&self) {
        self.adapter().poll_here(self.machine());
    }

    /// Packets that its host was given.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Polled {
    /// Boots both, and lets packets go both ways until sessions and flows are there.
    ///
    /// # Panics
    ///
    /// If anything of that fails.
    #[must_use]
    pub fn boot(world: &Arc<World>, options: &Options, driver: &Path) -> Self {
        let network = Network::new(world);
        let [from, to] = [1, 2].map(|number| End::boot(world, &network, number, options, driver));
        for (one, other) in [(&from, &to), (&to, &from)] {
            let peer = other.station.as_peer();
            let set = peer.and_then(|peer| one.station.set_peers(&[peer]));
            let up = set.and_then(|()| one.station.set_up(true));
            up.unwrap_or_else(|status| panic!("configuring a station: {status:#010x}"));
        }
        for _ in 0..20 {
            let pong = from.station.endpoint().ping(to.station.inner()[0], 56, PATIENCE);
            assert!(pong.is_some(), "no ping came back");
        }
        for end in [&from, &to] {
            let received = end.received.clone();
            end.adapter().on_receive(move |packets| {
                received.fetch_add(packets.len() as u64, Ordering::Relaxed);
            });
            end.outer.set_mode(Mode::Count);
        }
        Self { by_hand: [&from, &to].map(ByHand::new), from, to, _network: network }
    }

    /// A UDP packet of `size` bytes in all, from inside to inside.
    #[must_use]
    pub fn packet(&self, size: usize) -> Vec<u8> {
        let [source, destination]: [IpAddr; 2] =
            [&self.from, &self.to].map(|end| end.station.inner()[0]);
        let payload = Payload::Datagram { ports: (4000, 4001), data: vec![0x5A; size - HEADERS] };
        Packet { source, destination, payload }.to_bytes()
    }

    /// Puts up to `count` copies of `packet` into the ring; how many there was room for.
    ///
    /// # Panics
    ///
    /// If the adapter is paused.
    #[must_use]
    pub fn put(&self, packet: &[u8], count: usize) -> usize {
        let mut left = count;
        let taken = self.from.adapter().send_with(self.from.machine(), |buffer| {
            left = left.checked_sub(1)?;
            buffer[..packet.len()].copy_from_slice(packet);
            Some((packet.len(), 0))
        });
        taken.unwrap_or_else(|refused| panic!("the adapter takes nothing: {refused:?}"))
    }

    /// Has the datagrams kept that `send` sends, and `around` land them at the other end, `batch` at once, each batch followed
    /// by a poll, when it calls what it is given.
    ///
    /// # Panics
    ///
    /// If the other end has no socket.
    pub fn land(&self, send: impl FnOnce(), batch: usize, around: impl FnOnce(&mut dyn FnMut())) {
        self.from.outer.set_mode(Mode::Record);
        send();
        self.from.outer.set_mode(Mode::Count);
        let datagrams = self.from.outer.take_recorded();
        let Some(landing) = self.to.outer.landing() else { panic!("no open socket") };
        let remote = SocketAddr::new(self.from.station.outer()[0], PORT);
        let local = self.to.station.outer()[0];
        let batches = datagrams.chunks(batch);
        let mut batches: Vec<_> =
            batches.map(|batch| fill(&*landing, batch, remote, local)).collect();
        around(&mut || {
            for batch in &mut batches {
                landing.landed(batch);
                self.to.poll();
            }
        });
    }

    /// Takes both machines down.
    ///
    /// # Panics
    ///
    /// If anything is left behind.
    pub fn shut_down(self) {
        drop(self.by_hand);
        for end in [self.from, self.to] {
            end.outer.set_mode(Mode::Pass);
            let leaks = end.station.shut_down().unwrap_or_else(|error| panic!("{error}"));
            assert!(leaks.is_empty(), "{} things were left behind", leaks.len());
        }
    }
}
