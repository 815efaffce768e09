//! boringtun's `Tunn`, which has no rings and no sockets: a packet in a buffer becomes a datagram in a buffer, and back.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::pair::PACKETS;
use super::sample::Clock;

/// Bytes from one buffer to the next.
const SLOT: usize = 2048;

/// Two ends with a session.
pub(super) struct Boringtun {
    from: Tunn,
    to: Tunn,
    datagrams: Vec<[u8; SLOT]>,
    lens: Vec<usize>,
}

impl Boringtun {
    pub(super) fn new() -> Self {
        let secrets = [(); 2].map(|()| StaticSecret::random_from_rng(rand_core::OsRng));
        let publics = [&secrets[0], &secrets[1]].map(PublicKey::from);
        let [one, other] = secrets;
        let limiter = |key| Some(Arc::new(RateLimiter::new(key, u64::MAX)));
        let from = Tunn::new(one, publics[1], None, None, 1, limiter(&publics[0]));
        let to = Tunn::new(other, publics[0], None, None, 2, limiter(&publics[1]));
        let mut pair =
            Self { from, to, datagrams: vec![[0; SLOT]; PACKETS], lens: vec![0; PACKETS] };
        pair.handshake();
        pair
    }

    /// A session; also before it would be 3 minutes old.
    pub(super) fn handshake(&mut self) {
        let mut room = [[0; SLOT]; 3];
        let [first, second, third] = &mut room;
        let initiation = datagram(self.from.format_handshake_initiation(first, true));
        let response = datagram(self.to.decapsulate(None, initiation, second));
        let keepalive = datagram(self.from.decapsulate(None, response, third));
        let taken = self.to.decapsulate(None, keepalive, first);
        assert!(matches!(taken, TunnResult::Done), "{taken:?}");
    }

    /// Seals [`PACKETS`] times `packet`, each into a buffer of its own.
    pub(super) fn send(&mut self, packet: &[u8]) -> Duration {
        let clock = Clock::start();
        for (room, len) in self.datagrams.iter_mut().zip(&mut self.lens) {
            match self.from.encapsulate(black_box(packet), room) {
                TunnResult::WriteToNetwork(datagram) => *len = datagram.len(),
                other => panic!("{other:?}"),
            }
        }
        clock.elapsed()
    }

    /// Opens what [`Boringtun::send`] made, into one buffer.
    pub(super) fn receive(&mut self) -> Duration {
        let mut room = [0; SLOT];
        let clock = Clock::start();
        for (datagram, len) in self.datagrams.iter().zip(&self.lens) {
            match self.to.decapsulate(None, &datagram[..*len], &mut room) {
                TunnResult::WriteToTunnelV4(packet, _) => drop(black_box(packet)),
                other => panic!("{other:?}"),
            }
        }
        clock.elapsed()
    }
}

fn datagram<'a>(result: TunnResult<'a>) -> &'a [u8] {
    match result {
        TunnResult::WriteToNetwork(datagram) => datagram,
        other => panic!("{other:?}"),
    }
}
