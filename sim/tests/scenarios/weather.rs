//! Loss, delay, reordering and duplicates: a file arrives byte for byte, once; what was seen before counts as replayed.
//!
//! ```text
//!   ┌───────┐  ~ ~ lost 5 % ~ twice 5 % ~ late 10 % ~ ~  ┌──────┐
//!   │ alpha ├────────────────────────────────────────────┤ beta │
//!   └───────┘            files both ways at once         └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::with_policy;
use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::link::Link;

#[test]
fn files_arrive_byte_for_byte_through_bad_weather() {
    for seed in 1..6 {
        machines::with_pair(seed, |pair| {
            pair.network.set_weather(Link {
                delay: Duration::from_millis(3),
                jitter: Duration::from_millis(2),
                loss_per_mille: 50,
                duplicate_per_mille: 50,
                reorder_per_mille: 100,
                ..Link::default()
            });
            let file = |of: u32| -> Vec<u8> {
                (0..120_000 + of).map(|at| ((at * 31 * (of + 1)) >> 5) as u8 ^ at as u8).collect()
            };
            let ends = [(&pair.alpha, &pair.beta, 0), (&pair.beta, &pair.alpha, 1)];
            let copies = ends.map(|(from, at, number)| {
                let (endpoint, to) = (from.endpoint().clone(), at.inner()[0]);
                let bytes = file(number);
                pair.world.spawn("file", move || {
                    let took = endpoint.send_file(to, &bytes, Duration::from_secs(300));
                    assert!(took.is_some(), "the file to {to} did not get through");
                })
            });
            for copy in copies {
                assert!(
                    copy.join(Some(pair.world.now() + Duration::from_secs(600))),
                    "seed {seed}"
                );
            }
            for (from, at, number) in ends {
                let got = at.endpoint().take_file(from.inner()[0]);
                assert!(got == Some(file(number)), "seed {seed}: another file");
            }
            pair.network.set_weather(Link::default());
            for station in [&pair.alpha, &pair.beta] {
                let ledger = Ledger::of(station);
                assert!(
                    ledger.discarded(Discard::Replayed) > 0,
                    "seed {seed}: duplicates were sent\n{ledger}"
                );
                assert_eq!(ledger.discarded(Discard::BadTag), 0, "seed {seed}\n{ledger}");
            }
        });
    }
}

// spec-test: WG 5.4.6-f
#[test]
fn every_duplicate_is_a_replay() {
    machines::with_pair(3, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let twice =
            Link { duplicate_per_mille: 1000, jitter: Duration::from_millis(1), ..Link::default() };
        pair.network.set_weather(twice);
        for number in 0..500_u32 {
            assert!(
                pair.alpha
                    .endpoint()
                    .send_datagram(pair.beta.inner()[0], number.to_be_bytes().to_vec())
            );
            pair.world.sleep(Duration::from_micros(100));
        }
        let mut got: Vec<u32> = (0..500)
            .map(|_| {
                let (_, data) = pair.beta.endpoint().take_datagram(machines::PATIENCE).unwrap();
                u32::from_be_bytes(data.try_into().unwrap())
            })
            .collect();
        pair.world.sleep(Duration::from_secs(1));
        got.sort_unstable();
        assert!(got.iter().copied().eq(0..500), "each once");
        let beta = Ledger::of(&pair.beta);
        assert_eq!(beta.discarded(Discard::Replayed), 500, "{beta}");
        assert_eq!(beta.counter(Counter::PacketsIn), 502, "{beta}");
    });
}

// spec-test: WG 7.2-a
#[test]
fn without_weather_order_is_kept() {
    for seed in 1..5 {
        // By one path: between two the order is that in which either hands over.
        machines::with_pair_of(seed, &with_policy(Policy::FastPath, 0), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let (from, to) = (pair.alpha.inner()[0], pair.beta.inner()[0]);
            for number in 0..1000_u32 {
                while !pair.alpha.endpoint().send_datagram(to, number.to_be_bytes().to_vec()) {
                    pair.world.sleep(Duration::from_micros(50));
                }
            }
            for number in 0..1000_u32 {
                let got = pair.beta.endpoint().take_datagram(machines::PATIENCE);
                assert_eq!(got, Some((from, number.to_be_bytes().to_vec())), "seed {seed}");
            }
        });
    }
}
