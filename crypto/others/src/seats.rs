//! Penstock and boringtun in the same seat: with the same keys, clocks and surroundings.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use crypto::protocol::{Instant, Now};
use mock_instant::MockClock;

use crate::net::{
    BOOT, EPOCH, G, Host, KEYS, Request, inner,
    request::{PeerRequest, public},
};

/// How often boringtun looks at its clock.
const TICK: Duration = Duration::from_millis(100);
/// Where the one on the other side is.
const ADDRESS: &str = "192.0.2.1";

/// What became of a datagram.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Whether it did anything.
    pub(crate) accepted: bool,
    /// The packet that was in it.
    pub(crate) delivered: Option<Vec<u8>>,
    /// Datagrams that it drew.
    pub(crate) answers: Vec<Vec<u8>>,
}

pub(crate) trait Seat {
    fn name(&self) -> &'static str;
    /// A datagram arrives.
    fn take(&mut self, datagram: &[u8]) -> Taken;
    /// The stack sends a packet; the datagrams that leave.
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    /// It is `now`; the datagrams that leave.
    fn pass(&mut self, now: Duration) -> Vec<Vec<u8>>;
    /// Whether a handshake has failed and taken the sessions along.
    fn has_given_up(&self) -> bool;
}

/// Time of both clocks.
pub(crate) fn now(since_boot: Duration) -> Now {
    Now { monotonic: Instant(since_boot), wall: EPOCH + since_boot }
}

/// Penstock.
pub(crate) struct Penstock {
    pub(crate) host: Host,
    now: Duration,
    from: SocketAddr,
}

impl Penstock {
    /// As host `who`.
    pub(crate) fn new(seed: u64, who: usize, preshared: [u8; 32]) -> Self {
        let mut host = Host::new(2, "198.51.100.2:51821", seed);
        let from = SocketAddr::new(ADDRESS.parse().unwrap(), 51820);
        let peer = PeerRequest::new(public(&KEYS[1 - who]))
            .endpoint(from)
            .preshared_key(preshared)
            .allow(&format!("{}/32", inner(1 - who)));
        host.set(&Request::new().private_key(KEYS[who]).peer(peer), now(BOOT));
        host.up(now(BOOT));
        Self { host, now: BOOT, from }
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let datagrams = core::mem::take(&mut self.host.out.datagrams);
        datagrams.into_iter().map(|(_, bytes, _)| bytes).collect()
    }

    /// When it has something to do.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.host.tunnel.next_wake(&G).map(|at| at.0)
    }
}

impl Seat for Penstock {
    fn name(&self) -> &'static str {
        "Penstock"
    }

    fn take(&mut self, datagram: &[u8]) -> Taken {
        self.host.discards.clear();
        self.host.receive(datagram, self.from, now(self.now));
        Taken {
            accepted: self.host.discards.is_empty(),
            delivered: self.host.delivered.pop(),
            answers: self.sent(),
        }
    }

    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.host.transmit(packet.to_vec(), now(self.now));
        self.sent()
    }

    fn pass(&mut self, until: Duration) -> Vec<Vec<u8>> {
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.host.poll(now(self.now));
        }
        self.now = until;
        self.sent()
    }

    fn has_given_up(&self) -> bool {
        false
    }
}

/// boringtun; its clock is the thread's.
pub(crate) struct Boringtun {
    tunn: Tunn,
    other: IpAddr,
}

impl Boringtun {
    /// As host `who`, with room for `limit` handshake messages a second; its own ten if none.
    pub(crate) fn new(who: usize, preshared: [u8; 32], limit: Option<u64>) -> Self {
        MockClock::set_time(BOOT);
        MockClock::set_system_time(EPOCH + BOOT);
        let key = StaticSecret::from(KEYS[who]);
        let limiter = limit.map(|limit| RateLimiter::new(&PublicKey::from(&key), limit).into());
        let other = PublicKey::from(public(&KEYS[1 - who]));
        let tunn = Tunn::new(key, other, Some(preshared), None, 0x4711, limiter);
        Self { tunn, other: inner(1 - who) }
    }
}

impl Seat for Boringtun {
    fn name(&self) -> &'static str {
        "boringtun"
    }

    fn take(&mut self, datagram: &[u8]) -> Taken {
        let mut taken = Taken { accepted: true, ..Taken::default() };
        let mut buffer = vec![0; datagram.len() + 4096];
        let mut result =
            self.tunn.decapsulate(Some(ADDRESS.parse().unwrap()), datagram, &mut buffer);
        loop {
            match result {
                TunnResult::Done => break,
                TunnResult::Err(_) => taken.accepted = false,
                TunnResult::WriteToNetwork(answer) => {
                    // One under load has not taken what it answers.
                    taken.accepted &= answer[0] != 3;
                    taken.answers.push(answer.to_vec());
                    result = self.tunn.decapsulate(None, &[], &mut buffer);
                    continue;
                }
                // differs: boringtun's device looks at the source, its tunnel does not.
                TunnResult::WriteToTunnelV4(packet, from) if self.other == from => {
                    taken.delivered = Some(packet.to_vec());
                }
                TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                    taken.accepted = false;
                }
            }
            break;
        }
        taken
    }

    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; packet.len() + 4096];
        match self.tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => vec![datagram.to_vec()],
            TunnResult::Done => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, until: Duration) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut buffer = vec![0; 4096];
        while MockClock::time() < until {
            MockClock::set_time(until.min(MockClock::time() + TICK));
            // Err is that it has given up until there is something to send.
            if let TunnResult::WriteToNetwork(datagram) = self.tunn.update_timers(&mut buffer) {
                sent.push(datagram.to_vec());
            }
        }
        sent
    }

    fn has_given_up(&self) -> bool {
        self.tunn.is_expired()
    }
}
