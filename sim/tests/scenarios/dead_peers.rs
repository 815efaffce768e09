//! A thousand peers that never answer, with packets waiting for each, while one that lives runs at full pace.
//!
//! ```text
//!                      ┌─╳ 203.0.113.x:1 … :1000   10.20.x.y, staged up to 128 packets each
//!   ┌───────┐ ═════════┤
//!   │ alpha │          └── beta, a file, as fast as without the others
//!   └───────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, PeerSettings};
use sim::host::routes::Prefix;

const DEAD: u16 = 1_000;

fn dead(number: u16) -> (PeerSettings, IpAddr) {
    let [high, low] = number.to_be_bytes();
    let inner: IpAddr = [10, 20, high, low].into();
    let mut public_key = [0x42; 32];
    public_key[..2].copy_from_slice(&[high, low]);
    let settings = PeerSettings {
        public_key,
        endpoint: Some(SocketAddr::new([203, 0, 113, low].into(), 1 + number)),
        preshared_key: None,
        persistent_keepalive_s: 0,
        allowed_ips: vec![Prefix::new(inner, 32)],
    };
    (settings, inner)
}

/// Copies a file to beta, and says how long it took on the clock of the machines.
fn copy_file(pair: &Pair) -> Duration {
    let file: Vec<u8> = (0..400_000_u32).map(|at| ((at * 37) >> 4) as u8).collect();
    let [to, _] = pair.beta.inner();
    let took = pair.alpha.endpoint().send_file(to, &file, machines::PATIENCE);
    assert_eq!(pair.beta.endpoint().take_file(pair.alpha.inner()[0]), Some(file));
    took.unwrap()
}

/// What alpha has counted once what it is sending is sent: that is counted when it is complete.
fn settled(pair: &Pair) -> Ledger {
    pair.world.sleep(Duration::from_millis(50));
    Ledger::of(&pair.alpha)
}

#[test]
fn the_dead_do_not_hold_up_the_living() {
    machines::with_pair(6, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let alone = copy_file(pair);

        let (settings, addresses): (Vec<_>, Vec<_>) = (0..DEAD).map(dead).unzip();
        pair.alpha.set_peers(&settings).unwrap();
        for _ in 0..3 {
            for to in &addresses {
                while !pair.alpha.endpoint().send_datagram(*to, vec![3; 100]) {
                    pair.world.sleep(Duration::from_micros(100));
                }
            }
        }
        let among = copy_file(pair);
        assert!(among < alone + alone / 10, "{among:?} among the dead, {alone:?} alone");
        let ledger = settled(pair);
        assert_eq!(ledger.waiting(), 3 * i64::from(DEAD), "{ledger}");

        // Ninety seconds and eighteen tries later they are given up, and their packets with them.
        pair.world.sleep(Duration::from_secs(120));
        machines::ping(&pair.alpha, &pair.beta);
        let ledger = settled(pair);
        assert_eq!(ledger.discarded(Discard::StagedDropped), 3 * u64::from(DEAD), "{ledger}");
        let tries = (ledger.counter(Counter::HandshakesOut) - 1) / u64::from(DEAD);
        assert!((18..=20).contains(&tries), "{tries} tries for each\n{ledger}");
        assert_eq!(ledger.waiting(), 0, "{ledger}");
    });
}
