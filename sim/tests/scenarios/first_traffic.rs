//! Two machines, one tunnel: handshake, pings of both families, a file each way, and nothing left behind.
//!
//! ```text
//!   10.9.0.1 ┌───────┐ 192.0.2.1        198.51.100.1 ┌──────┐ 10.9.0.2
//!   fd09::1 ─┤ alpha ├───────────── 500 µs ──────────┤ beta ├─ fd09::2
//!            └───────┘                               └──────┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use abi::statistics::{Counter, Statistics};
use sim::host::memory::link::Link;
use sim::host::memory::pair::Pair;

const PATIENCE: Duration = Duration::from_secs(10);

fn counter(pair: &Pair, counter: Counter) -> [u64; 2] {
    [&pair.alpha, &pair.beta].map(|station| {
        let block = station.tunnel().statistics().unwrap();
        Statistics::parse(&block).unwrap().counter(counter)
    })
}

#[test]
fn pings_of_both_families_are_answered() {
    machines::with_pair(1, |pair| {
        for to in pair.beta.inner() {
            let first = pair.alpha.endpoint().ping(to, 56, PATIENCE);
            assert!(first.is_some(), "{to}: no answer");
        }
        for to in pair.alpha.inner() {
            assert!(pair.beta.endpoint().ping(to, 1000, PATIENCE).is_some(), "{to}: no answer");
        }
        assert_eq!(counter(pair, Counter::PacketsIn), [4, 4]);
        assert_eq!(pair.alpha.endpoint().counts().strange, 0);
    });
}

#[test]
fn a_file_gets_through_bad_weather() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            pair.network.set_weather(Link {
                loss_per_mille: 30,
                duplicate_per_mille: 30,
                reorder_per_mille: 50,
                jitter: Duration::from_micros(400),
                ..Link::default()
            });
            let file: Vec<u8> =
                (0..200_000_u32).map(|at| ((at * 31) >> 5) as u8 ^ at as u8).collect();
            let [to, _] = pair.beta.inner();
            let took = pair.alpha.endpoint().send_file(to, &file, Duration::from_secs(300));
            assert!(took.is_some(), "seed {seed}: the file did not get through");
            assert_eq!(
                pair.beta.endpoint().take_file(pair.alpha.inner()[0]),
                Some(file),
                "seed {seed}"
            );
        });
    }
}
