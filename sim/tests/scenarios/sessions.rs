//! How long a session lives, on virtual time: rekey after 120 s, expiry at 180 s, silence where nothing is to be said.
//!
//! ```text
//!   0 s          120 s              165 s               180 s              540 s
//!   ├─ handshake ──┼─ initiator's next ─┼─ … or when it    ─┼─ neither sends ───┼─ keys erased
//!   │              │  packet: rekey     │  receives: rekey  │  nor receives     │
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::{Direction, Discard};
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, PeerSettings};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Handshake messages that alpha and beta have made.
fn messages(pair: &Pair) -> [u64; 2] {
    [&pair.alpha, &pair.beta].map(|station| Ledger::of(station).counter(Counter::HandshakesOut))
}

// spec-test: WG 6.2-b
#[test]
fn under_traffic_there_is_a_new_session_every_120_seconds() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            let begun = pair.world.now();
            for second in 1..=600_u64 {
                machines::ping(&pair.alpha, &pair.beta);
                pair.world.sleep((begun + seconds(second)).saturating_sub(pair.world.now()));
                let due = 1 + second.saturating_sub(1) / 120;
                assert!(
                    messages(pair)[0].abs_diff(due) <= 1,
                    "seed {seed}, {second} s: {:?}",
                    messages(pair)
                );
            }
            assert_eq!(messages(pair), [5, 5], "seed {seed}: at 0, 120, 240, 360 and 480 s");
            let waited = Ledger::of(&pair.alpha).counter(Counter::PacketsStaged);
            assert_eq!(waited, 1, "seed {seed}: no packet waits for a rekey");
            // Not one packet was lost on the way from one session to the next.
            assert_eq!(Ledger::of(&pair.alpha).counter(Counter::PacketsIn), 1200, "seed {seed}");
        });
    }
}

// spec-test: WG 6.2-a, WG 6.2-c
#[test]
fn a_session_is_used_up_to_its_age_and_not_longer() {
    // Who sends after so many silent seconds, and how many more handshake messages each then makes.
    for (age, from_initiator, more, why) in [
        (100, true, [0, 0], "young"),
        (125, true, [1, 1], "the initiator sends: rekey"),
        (125, false, [1, 1], "the responder's packet is answered by the initiator: rekey"),
        (175, false, [1, 1], "the responder's packet is late: the initiator rekeys"),
        (185, true, [1, 1], "too old to send"),
        (185, false, [1, 1], "too old to send"),
        (1000, true, [1, 1], "long forgotten"),
    ] {
        machines::with_pair(9, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let staged =
                || [&pair.alpha, &pair.beta].map(|s| Ledger::of(s).counter(Counter::PacketsStaged));
            let (before, waited) = (messages(pair), staged());
            pair.world.sleep(seconds(age));
            let (one, other) =
                if from_initiator { (&pair.alpha, &pair.beta) } else { (&pair.beta, &pair.alpha) };
            machines::ping(one, other);
            pair.world.sleep(seconds(2));
            let now = messages(pair);
            assert_eq!([now[0] - before[0], now[1] - before[1]], more, "{age} s: {why}");
            let kept =
                staged()[usize::from(!from_initiator)] - waited[usize::from(!from_initiator)];
            assert_eq!(
                kept > 0,
                age > 180,
                "{age} s: a packet waits only when there is no session"
            );
        });
    }
}

// spec-test: WG 6.5-b, WG 6.5-e
#[test]
fn silence_is_silent() {
    machines::with_pair(2, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        // Whoever heard last says that it has, once, after 10 s.
        pair.world.sleep(seconds(30));
        let keepalives = [&pair.alpha, &pair.beta]
            .map(|station| Ledger::of(station).counter(Counter::KeepalivesOut));
        assert_eq!(keepalives, [1, 0]);
        let sent = pair.network.carried().sent;
        pair.world.sleep(seconds(3600));
        assert_eq!(pair.network.carried().sent, sent, "an hour without a word");
    });
}

// spec-test: WG 2.1-f
#[test]
fn persistent_keepalives_come_and_keep_the_session() {
    machines::with_pair(3, |pair| {
        let every = |interval| {
            let peer = pair.beta.as_peer().unwrap();
            pair.alpha
                .set_peers(&[PeerSettings { persistent_keepalive_s: interval, ..peer }])
                .unwrap();
        };
        every(25);
        pair.world.sleep(seconds(1000));
        let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
        let (out, into) =
            (alpha.counter(Counter::KeepalivesOut), beta.counter(Counter::KeepalivesIn));
        assert!((38..=50).contains(&out), "{out} keepalives in 1,000 s\n{alpha}");
        assert_eq!(into, out);
        assert_eq!(
            messages(pair),
            [8, 8],
            "each session lasts to the first keepalive past 120 s: 125 s"
        );
        every(0);
        pair.world.sleep(seconds(60));
        let sent = pair.network.carried().sent;
        pair.world.sleep(seconds(600));
        assert_eq!(pair.network.carried().sent, sent, "off");
    });
}

// spec-test: WG 6.2-a
#[test]
fn what_comes_with_a_dead_session_is_discarded() {
    machines::with_pair(4, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        // A datagram that is on its way for three minutes.
        let slow = sim::host::memory::link::Link { delay: seconds(182), ..Default::default() };
        pair.network.set_link(pair.beta.outer()[0], pair.alpha.outer()[0], slow);
        assert!(pair.beta.endpoint().send_datagram(pair.alpha.inner()[0], vec![1; 50]));
        pair.world.sleep(seconds(1));
        pair.network.set_link(pair.beta.outer()[0], pair.alpha.outer()[0], Default::default());
        pair.world.sleep(seconds(190));
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!(alpha.discarded(Discard::SessionExpired), 1, "{alpha}");
        assert_eq!(alpha.discards(Direction::Inbound), 1, "{alpha}");
        machines::ping(&pair.alpha, &pair.beta);
    });
}
