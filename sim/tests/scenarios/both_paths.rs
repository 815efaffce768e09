//! Replayed, forged, truncated and misrouted datagrams, and a peer that moves, with callouts and sockets both receiving.
//!
//! ```text
//!   ┌───────┐ ══════════ heard by a stranger ═════════► ┌──────┐ callouts ─┐
//!   │ alpha │                                           │ beta │           ├─ each discarded for its reason
//!   └───────┘    stranger ── again, changed, cut ─────► └──────┘ socket ───┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use crate::machines::stranger::{overhear, with_stranger};
use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;

const COUNT: usize = 40;

fn options(engine: u32, fast: u32) -> Options {
    machines::with_policies(&[(Policy::SendEngine, engine), (Policy::FastPath, fast)])
}

/// What is done to transport data that was heard, and what it is to be discarded for.
type Change = (Discard, fn(&mut Vec<u8>));

const CHANGES: [Change; 8] = [
    (Discard::Replayed, |_| {}),
    // A counter that was not yet seen, and the tag of another.
    (Discard::BadTag, |datagram| datagram[10] ^= 1),
    (Discard::BadTag, |datagram| {
        datagram[10] = 2;
        *datagram.last_mut().unwrap() ^= 0x80;
    }),
    (Discard::BadTag, |datagram| {
        datagram[10] = 3;
        datagram.truncate(datagram.len() - 16);
    }),
    (Discard::MalformedMessage, |datagram| datagram.truncate(31)),
    (Discard::MalformedMessage, |datagram| datagram[0] = 5),
    (Discard::MalformedMessage, |datagram| datagram[3] = 1),
    (Discard::UnknownReceiver, |datagram| datagram[4] ^= 0x55),
];

/// Sends each of `heard` to beta once, changed, and checks that each was discarded for that reason and no other.
fn discarded(pair: &Pair, send: impl Fn(&Station, &[u8]), heard: &[Vec<u8>], change: Change) {
    let before = Ledger::of(&pair.beta);
    for datagram in heard {
        let mut datagram = datagram.clone();
        change.1(&mut datagram);
        send(&pair.beta, &datagram);
        pair.world.sleep(Duration::from_micros(100));
    }
    pair.world.sleep(Duration::from_millis(100));
    let after = Ledger::of(&pair.beta);
    let [more, all] = [
        after.discarded(change.0) - before.discarded(change.0),
        after.discards(Direction::Inbound) - before.discards(Direction::Inbound),
    ];
    let sent = heard.len() as u64;
    assert_eq!((more, all), (sent, sent), "{:?}\n{before}\n{after}", change.0);
    let [before, after] = [before, after].map(|ledger| ledger.counter(Counter::PacketsIn));
    assert_eq!(after, before, "{:?}: nothing reaches the adapter", change.0);
}

#[test]
fn each_is_discarded_for_its_reason_by_either_path() {
    for (seed, engine, fast) in [(1, 0, 0), (2, 0, 1), (3, 1, 0), (4, 1, 1), (5, 2, 1)] {
        with_stranger(seed, &options(engine, fast), |pair, stranger| {
            let heard = overhear(&pair.network, &pair.alpha, &pair.beta);
            machines::ping(&pair.alpha, &pair.beta);
            for number in 0..COUNT {
                let data = vec![number as u8; 200];
                assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], data));
                pair.world.sleep(Duration::from_micros(100));
            }
            pair.world.sleep(Duration::from_millis(100));
            let heard: Vec<_> = heard
                .lock()
                .unwrap()
                .iter()
                .filter(|d| d[0] == 4 && d.len() > 200)
                .cloned()
                .collect();
            assert_eq!(heard.len(), COUNT, "seed {seed}");
            let before = Ledger::of(&pair.beta);
            for change in CHANGES {
                discarded(pair, |to, datagram| stranger.send(to, datagram), &heard, change);
            }
            let after = Ledger::of(&pair.beta);
            let taken = after.counter(Counter::Absorbed) - before.counter(Counter::Absorbed);
            let passed = after.permitted() - before.permitted();
            let sent = (CHANGES.len() * COUNT) as u64;
            match (fast, engine) {
                (0, 0) => assert_eq!((taken, passed), (0, 0), "seed {seed}\n{after}"),
                (0, _) => assert_eq!((taken, passed), (0, sent), "seed {seed}\n{after}"),
                _ => {
                    assert_eq!(taken + passed, sent, "seed {seed}\n{after}");
                    // Three of the eight kinds are no transport data, and go by the socket.
                    assert!(passed >= sent * 3 / 8 && taken > sent / 3, "seed {seed}\n{after}");
                }
            }
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
}

#[test]
fn a_peer_that_moves_is_followed_with_both_paths_live() {
    for (seed, engine, fast) in [(1, 0, 0), (2, 0, 1), (3, 1, 0), (4, 1, 1), (5, 2, 1)] {
        machines::with_pair_of(seed, &options(engine, fast), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_millis(1);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 300, every));
            for host in [7, 7, 8, 7] {
                let ledger = || Ledger::of(&pair.beta);
                let before = ledger();
                pair.alpha.host().rebind(IpAddr::from([100, 64, 0, host]));
                pair.world.sleep(Duration::from_millis(80));
                let (after, why) = (ledger(), format!("seed {seed}, engine {engine}"));
                let more = |counter| after.counter(counter) - before.counter(counter);
                assert!(more(Counter::PacketsIn) > 60, "{why}\n{after}");
                if fast != 0 {
                    assert!(
                        more(Counter::PermittedAuthorisation) > 0,
                        "{why}: a new flow\n{after}"
                    );
                    assert!(more(Counter::Absorbed) > 30, "{why}: taken again\n{after}");
                }
                let known = pair.beta.tunnel().get().unwrap();
                let set = abi::ioctl::Set::parse(&known).unwrap();
                let known = set.peers().next().and_then(|peer| peer.endpoint()).unwrap();
                assert_eq!(known.ip(), IpAddr::from([100, 64, 0, host]), "{why}");
            }
            drop(loads);
            machines::ping(&pair.beta, &pair.alpha);
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            assert_eq!(beta.counter(Counter::HandshakesOut), 1, "seed {seed}\n{beta}");
            let (sent, got) =
                (alpha.counter(Counter::PacketsOut), beta.counter(Counter::PacketsIn));
            assert_eq!(got, sent, "seed {seed}: what the mover sends arrives\n{alpha}\n{beta}");
        });
    }
}
