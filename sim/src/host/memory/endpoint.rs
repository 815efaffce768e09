//! A small host behind an adapter: answers pings, pings, and moves files reliably.
//!
//! What the adapter delivers is put into an inbox and looked at by the endpoint's own actor: an
//! adapter's callback must not send. File transfer is a sliding window over UDP with cumulative
//! acknowledgements and one retransmission timer, enough to get bytes through loss and reordering
//! and to compare them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::packet::{self, Packet, Payload};
use crate::verifier::schedule::{Key, World, lock};

/// The port of file transfers.
const FILE_PORT: u16 = 9;
/// The port that takes single datagrams.
pub const DATAGRAM_PORT: u16 = 10;
/// Bytes of a file in one datagram.
const CHUNK: usize = 1200;
/// Chunks on their way at once.
const WINDOW: u32 = 64;
/// How long the sender waits without news before it sends the window again.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Datagrams that are kept for somebody to take.
const MAILBOX: usize = 65_536;

/// Gives a packet to the adapter, to be cut into segments of so much payload if that is not 0; false if it
/// was not taken.
pub type Transmit = dyn Fn(&[u8], usize) -> bool + Send + Sync;

/// A host behind an adapter.
pub struct Endpoint {
    world: Arc<World>,
    addresses: Vec<IpAddr>,
    transmit: Box<Transmit>,
    inbox: Mutex<VecDeque<Vec<u8>>>,
    state: Mutex<State>,
    next_id: AtomicU16,
    stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Replies by identifier and sequence number.
    replies: FxHashMap<(u16, u16), Duration>,
    /// Files being received, by sender.
    files: FxHashMap<IpAddr, File>,
    /// What receivers acknowledged, by receiver: the next chunk they want.
    acknowledged: FxHashMap<IpAddr, u32>,
    datagrams: VecDeque<(IpAddr, Vec<u8>)>,
    /// Packets as they came, if they are kept and not looked at.
    kept: Option<VecDeque<Vec<u8>>>,
    counts: Counts,
}

#[derive(Default)]
struct File {
    chunks: BTreeMap<u32, Vec<u8>>,
    total: u32,
}

/// What an endpoint saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets given to the adapter.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets the adapter would not take.
    pub refused: u64,
    /// Packets from the adapter.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets from the adapter that were not intact or not for us.
    pub strange: u64,
    /// Errors of ICMP or ICMPv6 that were for us.
    pub errors: u64,
}

impl Endpoint {
    /// Makes a host with these addresses that sends by `transmit`, and starts its actor.
    #[must_use]
    pub fn new(world: &Arc<World>, addresses: &[IpAddr], transmit: Box<Transmit>) -> Arc<Self> {
        let endpoint = Arc::new(Self {
            world: world.clone(),
            addresses: addresses.to_vec(),
            transmit,
            inbox: Mutex::default(),
            state: Mutex::default(),
            next_id: AtomicU16::new(1),
            stopped: AtomicBool::new(false),
        });
        let actor = endpoint.clone();
        world.spawn("endpoint", move || actor.run());
        endpoint
    }

    /// Ends its actor.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.world.wake(Key::of(&self.inbox));
    }

    /// Takes a packet from the adapter; from any thread, at any time.
    pub fn deliver(&self, packet: Vec<u8>) {
        lock(&self.inbox).push_back(packet);
        self.world.wake(Key::of(&self.inbox));
    }

    /// What it saw so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// Sends an echo request with `size` bytes of data and waits for its reply: the time it took.
    #[must_use]
    pub fn ping(&self, to: IpAddr, size: usize, patience: Duration) -> Option<Duration> {
        let id = (0x5057, self.next_id.fetch_add(1, Ordering::Relaxed));
        let data = (0..size).map(|at| at as u8).collect();
        let sent_at = self.world.now();
        self.send(to, Payload::Echo { reply: false, id, data });
        let deadline = sent_at + patience;
        let reply = || lock(&self.state).replies.remove(&id);
        let arrived = self.world.wait(self.key(), Some(deadline), "echo reply", reply).ok()?;
        Some(arrived.saturating_sub(sent_at))
    }

    /// Sends one datagram to the other's [`DATAGRAM_PORT`]; false if it was not taken.
    pub fn send_datagram(&self, to: IpAddr, data: Vec<u8>) -> bool {
        self.send(to, Payload::Datagram { ports: (DATAGRAM_PORT, DATAGRAM_PORT), data })
    }

    /// Sends the payload of a packet of TCP or UDP, whose IP header has its length, in segments of at most
    /// `mss` bytes; false if it was not taken.
    pub fn send_super(&self, packet: &[u8], mss: usize) -> bool {
        self.give(packet, mss)
    }

    /// From now on keeps packets as they come for [`Endpoint::take_packet`], and does nothing with them; or
    /// no longer.
    pub fn keep_packets(&self, keep: bool) {
        lock(&self.state).kept = keep.then(VecDeque::new);
    }

    /// The next packet that was kept, waiting for it.
    #[must_use]
    pub fn take_packet(&self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = self.world.now() + patience;
        let next = || lock(&self.state).kept.as_mut().and_then(VecDeque::pop_front);
        self.world.wait(self.key(), Some(deadline), "a packet", next).ok()
    }

    /// The next datagram that arrived, waiting for it.
    #[must_use]
    pub fn take_datagram(&self, patience: Duration) -> Option<(IpAddr, Vec<u8>)> {
        let deadline = self.world.now() + patience;
        let next = || lock(&self.state).datagrams.pop_front();
        self.world.wait(self.key(), Some(deadline), "a datagram", next).ok()
    }

    /// Sends a file and waits until the other end has all of it; the time it took.
    #[must_use]
    pub fn send_file(&self, to: IpAddr, bytes: &[u8], patience: Duration) -> Option<Duration> {
        let begun = self.world.now();
        let total = bytes.len().div_ceil(CHUNK) as u32;
        lock(&self.state).acknowledged.insert(to, 0);
        let (mut next, mut news) = (0, begun);
        loop {
            let acknowledged = lock(&self.state).acknowledged.get(&to).copied().unwrap_or(0);
            if acknowledged >= total {
                return Some(self.world.now() - begun);
            }
            let now = self.world.now();
            if now > begun + patience {
                return None;
            }
            if now >= news + RETRANSMIT {
                (next, news) = (acknowledged, now);
            }
            next = next.max(acknowledged);
            while next < total && next < acknowledged + WINDOW {
                let start = next as usize * CHUNK;
                let chunk = &bytes[start..bytes.len().min(start + CHUNK)];
                let mut data = Vec::with_capacity(8 + chunk.len());
                data.extend(next.to_be_bytes());
                data.extend(total.to_be_bytes());
                data.extend(chunk);
                self.send(to, Payload::Datagram { ports: (FILE_PORT, FILE_PORT), data });
                next += 1;
            }
            let moved =
                || (lock(&self.state).acknowledged.get(&to) != Some(&acknowledged)).then_some(());
            if self
                .world
                .wait(self.key(), Some(news + RETRANSMIT), "an acknowledgement", moved)
                .is_ok()
            {
                news = self.world.now();
            }
        }
    }

    /// The file that `from` has sent, if all of it is here; it is forgotten.
    #[must_use]
    pub fn take_file(&self, from: IpAddr) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        let file = state.files.get(&from)?;
        if file.chunks.len() as u32 != file.total {
            return None;
        }
        state.files.remove(&from).map(|file| file.chunks.into_values().flatten().collect())
    }

    fn key(&self) -> Key {
        Key::of(&self.state)
    }

    fn send(&self, to: IpAddr, payload: Payload) -> bool {
        let source = self.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        let Some(&source) = source else { return false };
        self.give(&Packet { source, destination: to, payload }.to_bytes(), 0)
    }

    fn give(&self, bytes: &[u8], mss: usize) -> bool {
        let taken = (self.transmit)(bytes, mss);
        let counts = &mut lock(&self.state).counts;
        if taken {
            counts.packets_out += 1;
            counts.bytes_out += bytes.len() as u64;
        } else {
            counts.refused += 1;
        }
        taken
    }

    fn run(&self) {
        let next = || {
            let packet = lock(&self.inbox).pop_front();
            packet.map(Some).or_else(|| self.stopped.load(Ordering::Acquire).then_some(None))
        };
        while let Ok(Some(packet)) =
            self.world.wait(Key::of(&self.inbox), None, "inner packets", next)
        {
            self.look_at(&packet);
            self.world.wake(self.key());
        }
    }

    fn look_at(&self, bytes: &[u8]) {
        {
            let state = &mut *lock(&self.state);
            if let Some(kept) = &mut state.kept {
                kept.push_back(bytes.to_vec());
                state.counts.packets_in += 1;
                state.counts.bytes_in += bytes.len() as u64;
                return;
            }
        }
        let parsed =
            Packet::parse(bytes).filter(|packet| self.addresses.contains(&packet.destination));
        {
            let counts = &mut lock(&self.state).counts;
            counts.packets_in += 1;
            counts.bytes_in += bytes.len() as u64;
            let error = packet::is_error_for(bytes, &self.addresses);
            counts.errors += u64::from(error);
            counts.strange += u64::from(parsed.is_none() && !error);
        }
        let Some(Packet { source, payload, .. }) = parsed else { return };
        match payload {
            Payload::Echo { reply: false, id, data } => {
                self.send(source, Payload::Echo { reply: true, id, data });
            }
            Payload::Echo { reply: true, id, .. } => {
                lock(&self.state).replies.insert(id, self.world.now());
            }
            Payload::Datagram { ports: (_, FILE_PORT), data } => self.file_chunk(source, &data),
            Payload::Datagram { data, .. } => {
                let datagrams = &mut lock(&self.state).datagrams;
                if datagrams.len() < MAILBOX {
                    datagrams.push_back((source, data));
                }
            }
        }
    }

    /// A chunk of a file (eight bytes of header) or an acknowledgement (four bytes).
    fn file_chunk(&self, from: IpAddr, data: &[u8]) {
        if let Some(next) = data.as_array::<4>() {
            let next = u32::from_be_bytes(*next);
            let mut state = lock(&self.state);
            let known = state.acknowledged.entry(from).or_default();
            *known = next.max(*known);
            return;
        }
        let Some(([a, b, c, d, e, f, g, h], chunk)) = data.split_first_chunk::<8>() else { return };
        let number = u32::from_be_bytes([*a, *b, *c, *d]);
        let wanted = {
            let mut state = lock(&self.state);
            let file = state.files.entry(from).or_default();
            file.total = u32::from_be_bytes([*e, *f, *g, *h]);
            if number < file.total {
                file.chunks.insert(number, chunk.to_vec());
            }
            (0..).zip(file.chunks.keys()).take_while(|(n, have)| n == *have).count() as u32
        };
        let data = wanted.to_be_bytes().to_vec();
        self.send(from, Payload::Datagram { ports: (FILE_PORT, FILE_PORT), data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::schedule::Mode;

    /// Two endpoints whose packets meet, one in `every` of them lost.
    fn pair(every: u64) -> (Arc<World>, [Arc<Endpoint>; 2]) {
        let world = World::new(Mode::Virtual { seed: 11 });
        let slots: Arc<Mutex<Vec<Arc<Endpoint>>>> = Arc::default();
        let make = |own: usize| {
            let (slots, world) = (slots.clone(), world.clone());
            let address = IpAddr::from([10, 0, 0, own as u8 + 1]);
            let other = world.clone();
            Endpoint::new(
                &world,
                &[address],
                Box::new(move |packet, _| {
                    if every == 0 || !other.random().is_multiple_of(every) {
                        let to = lock(&slots).get(1 - own).cloned();
                        to.inspect(|to| to.deliver(packet.to_vec()));
                    }
                    true
                }),
            )
        };
        let both = [make(0), make(1)];
        lock(&slots).extend(both.clone());
        (world, both)
    }

    #[test]
    fn pings_are_answered() {
        let (world, [a, b]) = pair(0);
        let _main = world.enter("main");
        assert!(a.ping([10, 0, 0, 2].into(), 56, Duration::from_secs(1)).is_some());
        assert_eq!(
            a.ping([10, 0, 0, 3].into(), 56, Duration::from_secs(1)),
            None,
            "not his address"
        );
        assert_eq!(b.counts().strange, 1);
    }

    #[test]
    fn a_file_gets_through_loss() {
        let (world, [a, b]) = pair(5);
        let _main = world.enter("main");
        let file: Vec<u8> = (0..100_001_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        assert!(a.send_file([10, 0, 0, 2].into(), &file, Duration::from_secs(120)).is_some());
        assert_eq!(b.take_file([10, 0, 0, 1].into()), Some(file));
    }
}
