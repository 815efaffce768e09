//! Floods: whoever may send whatever he likes, a million times a second and from a hundred thousand addresses.
//!
//! ```text
//!   ┌───────┐ ═══ a flow, numbered ═════════════► ┌──────┐   bad mac1: looked at where it arrives, and gone
//!   │ alpha │                                     │ beta │   right mac1: 4096 wait, cookie replies, the rest dropped
//!   └───────┘  ≡≡≡ 100,000 addresses, forged ≡≡≡► └──────┘   mac2 too: handshakes, 20 a second for each address
//! ```
//!
//! Time is virtual, and what the driver computes takes none of it: where a CPU or a worker is to be slow, one of the calls
//! that it makes takes time. So rates here are ratios; `scripts/bench.sh flood` measures what a message costs. By the sockets:
//! handshake messages have no other way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Machine;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::flow::{Ended, Flow};
use crate::machines::stranger::{Stranger, overhear, with_stranger};

const SOURCES: u32 = 100_000;
const INITIATION: usize = 148;
/// What may wait. [WG 7.4-d]
const QUEUE: u64 = 4096;
/// How long the CPUs look away, at most.
const TICK: Duration = Duration::from_micros(15_625);
/// More than there are on two CPUs.
const WORKERS: usize = 4;
/// What a worker calls whenever it wakes, before anything else.
const AT_WAKING: &str = "BCryptGenRandom";
/// Where a batch of messages is looked at.
const AT_A_BATCH: &str = "KeSaveExtendedProcessorState";
/// Where a worker is that answers.
const AT_AN_ANSWER: &str = "WskSendMessages";

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// An address of its own for each number; never one that is here.
fn source(number: u32) -> SocketAddr {
    let [a, b, c, d] = (0x6440_0000 + number).to_be_bytes();
    SocketAddr::from(([a, b, c, d], 1024 + (number % 60_000) as u16))
}

fn more(before: &Ledger, after: &Ledger, reason: Discard) -> u64 {
    after.discarded(reason) - before.discarded(reason)
}

/// A pair with a session, whose first initiation was heard: its mac1 is right, from wherever it comes.
fn under_flood(seed: u64, cpus: u32, scenario: impl FnOnce(&Pair, &Stranger, &[u8])) {
    let policies = [(Policy::FastPath, 0), (Policy::SendEngine, 0)];
    let options = sim::nt::machine::Options { cpus, ..machines::with_policies(&policies) };
    with_stranger(seed, &options, |pair, stranger| {
        let heard = overhear(&pair.network, &pair.alpha, &pair.beta);
        machines::ping(&pair.alpha, &pair.beta);
        let initiation =
            heard.lock().unwrap().iter().find(|one| one.len() == INITIATION).unwrap().clone();
        scenario(pair, stranger, &initiation);
    });
}

/// Sends `count` messages, a million a second, each from the next address of [`SOURCES`]; `change` makes each what it is.
fn flood(
    pair: &Pair,
    stranger: &Stranger,
    message: &[u8],
    count: u32,
    change: impl Fn(u32, &mut [u8]),
) {
    let mut message = message.to_vec();
    let original = message.clone();
    for number in 0..count {
        message.copy_from_slice(&original);
        change(number, &mut message);
        stranger.forge(&pair.network, source(number % SOURCES), &pair.beta, &message);
        if number % 50 == 49 {
            pair.world.sleep(Duration::from_micros(50));
        }
    }
}

/// Has every worker wake to sleep on for a time.
fn sleepy(station: &Station, time: Duration) {
    for _ in 0..WORKERS {
        machine(station).faults().stall(AT_WAKING, 0, time);
    }
}

/// Spoils mac1.
fn bad(number: u32, message: &mut [u8]) {
    message[INITIATION - 32 + number as usize % 16] ^= 1 << (number % 8);
}

/// All of a flow arrived, in order.
fn assert_unharmed(flow: Flow<'_>, why: &str) -> Ended {
    let ended = flow.end();
    ended.assert_all_arrived(why);
    assert!(ended.sent > 5_000, "{why}: a flow of {}", ended.sent);
    ended
}

/// What a stranger sends who does not know the public key costs no memory, wakes no worker, and asks nobody for a cookie: a
/// handshake in the middle of it goes as ever.
// spec-test: WG 5.3-a, WG 5.1-h
#[test]
fn bad_mac1s_take_no_memory_and_put_nobody_under_load() {
    under_flood(1, 2, |pair, stranger, initiation| {
        // The next packet of the flow begins a handshake.
        pair.world.sleep(Duration::from_secs(121));
        let flow = Flow::start(pair, 200);
        let before = Ledger::of(&pair.beta);
        let pool = machine(&pair.beta).pool_use().bytes as u64;
        flood(pair, stranger, initiation, SOURCES / 2, bad);
        let during = machine(&pair.beta).pool_use().bytes as u64;
        flood(pair, stranger, initiation, SOURCES / 2, bad);
        let ended = assert_unharmed(flow, "bad mac1s");
        let after = &ended.after[1];
        assert_eq!(more(&before, after, Discard::BadMac1), u64::from(SOURCES), "{after}");
        for reason in [Discard::HandshakeQueueFull, Discard::CookieRequired, Discard::RateLimited] {
            assert_eq!(more(&before, after, reason), 0, "{}\n{after}", reason.name());
        }
        assert!(during < pool + 512 * 1024, "{pool} bytes, and {during} in the flood");
        let handshakes =
            after.counter(Counter::HandshakesIn) - before.counter(Counter::HandshakesIn);
        assert_eq!(handshakes, 1, "the session was renewed\n{after}");
    });
}

/// What has a right mac1 and no cookie is answered by as many cookie replies as workers can make; of the rest 4096 wait.
// spec-test: WG 7.4-d, WG 7.4-c
#[test]
fn right_mac1s_are_answered_and_what_is_too_much_is_dropped() {
    under_flood(2, 2, |pair, stranger, initiation| {
        // Two workers at 5 us each: two in five. They come late, so that the first ones do not cost nothing.
        machine(&pair.beta).faults().slow(AT_AN_ANSWER, Duration::from_micros(10));
        sleepy(&pair.beta, milliseconds(10));
        let flow = Flow::start(pair, 200);
        let before = Ledger::of(&pair.beta);
        let pool = machine(&pair.beta).pool_use().bytes as u64;
        flood(pair, stranger, initiation, SOURCES, |_, _| ());
        let during = machine(&pair.beta).pool_use().bytes as u64;
        pair.world.sleep(milliseconds(200));
        let ended = assert_unharmed(flow, "right mac1s");
        let after = &ended.after[1];
        let [full, cookies] = [Discard::HandshakeQueueFull, Discard::CookieRequired]
            .map(|reason| more(&before, after, reason));
        assert_eq!(full + cookies, u64::from(SOURCES), "one reason each\n{after}");
        assert!(full > QUEUE && cookies > 4 * QUEUE, "{after}");
        let replies =
            after.counter(Counter::HandshakesOut) - before.counter(Counter::HandshakesOut);
        assert_eq!(replies, cookies, "a reply for each\n{after}");
        // A message and what the allocator adds, for each that waits; and as many small things of the flow.
        assert!(
            during < pool + QUEUE * 320 + 512 * 1024,
            "{pool} bytes, and {during} in the flood"
        );
    });
}

/// Exactly 4096 wait.
// spec-test: WG 7.4-d
#[test]
fn of_the_messages_that_wait_the_4097th_is_dropped() {
    under_flood(3, 2, |pair, stranger, initiation| {
        sleepy(&pair.beta, Duration::from_secs(1));
        let before = Ledger::of(&pair.beta);
        let pool = machine(&pair.beta).pool_use().bytes as u64;
        for (extra, dropped) in [(QUEUE as u32 - 1, 0), (1, 0), (1, 1), (99, 100)] {
            flood(pair, stranger, initiation, extra, |_, _| ());
            pair.world.sleep(milliseconds(20));
            let now = Ledger::of(&pair.beta);
            assert_eq!(more(&before, &now, Discard::HandshakeQueueFull), dropped, "{now}");
        }
        let waiting = machine(&pair.beta).pool_use().bytes as u64 - pool;
        assert!((QUEUE * 148..QUEUE * 320).contains(&waiting), "{waiting} bytes wait");
        pair.world.sleep(Duration::from_secs(2));
        let now = Ledger::of(&pair.beta);
        let [cookies, stale] = [Discard::CookieRequired, Discard::StaleTimestamp]
            .map(|reason| more(&before, &now, reason));
        assert_eq!(cookies + stale, QUEUE, "all others had their turn\n{now}");
        assert_eq!(machine(&pair.beta).pool_use().bytes as u64, pool, "and are gone");
    });
}

/// A CPU that has spent half of a tick on handshake messages looks at no more of them in that tick.
#[test]
fn a_cpu_looks_at_handshake_messages_for_half_of_its_time() {
    under_flood(4, 1, |pair, stranger, initiation| {
        let beta = machine(&pair.beta);
        let burst = |count: u32| {
            for number in 0..count {
                let mut message = initiation.to_vec();
                bad(number, &mut message);
                stranger.forge(&pair.network, source(number), &pair.beta, &message);
            }
            pair.world.sleep(milliseconds(1));
        };
        let to_next_tick = || {
            let into = pair.world.now().as_nanos() % TICK.as_nanos();
            pair.world.sleep(TICK - Duration::from_nanos(into as u64));
        };
        for (takes, spent) in [(7, 0), (8, 160)] {
            to_next_tick();
            let before = Ledger::of(&pair.beta);
            // The verifier shows lists of one, too, for which no registers are saved.
            beta.faults().stall(AT_A_BATCH, 0, milliseconds(takes));
            burst(64);
            pair.world.sleep(milliseconds(takes));
            let stalled = Ledger::of(&pair.beta);
            burst(160);
            let after = Ledger::of(&pair.beta);
            assert_eq!(more(&stalled, &after, Discard::HandshakeShareSpent), spent, "{after}");
            assert_eq!(more(&stalled, &after, Discard::BadMac1), 160 - spent, "{after}");
            to_next_tick();
            burst(64);
            let next = Ledger::of(&pair.beta);
            assert_eq!(more(&after, &next, Discard::BadMac1), 64, "a tick later\n{next}");
            let all = [Discard::BadMac1, Discard::HandshakeShareSpent];
            let all: u64 = all.iter().map(|reason| more(&before, &next, *reason)).sum();
            assert_eq!(all, 64 + 160 + 64, "{next}");
        }
        machines::ping(&pair.alpha, &pair.beta);
    });
}
