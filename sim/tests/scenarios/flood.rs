//! Floods: whoever may send whatever he likes, a million times a second and from a hundred thousand addresses.
//!
//! ```text
//!   ┌───────┐ ═══ a flow, numbered ═════════════► ┌──────┐   bad mac1: looked at where it arrives, and gone
//!   │ alpha │                                     │ beta │   right mac1: 4096 wait, cookie replies, the rest dropped
//!   └───────┘  ≡≡≡ 100,000 addresses, forged ≡≡≡► └──────┘   mac2 too: handshakes, 20 a second for each address
//!                                                            data of the session that was seen: opened, in full chunks
//! ```
//!
//! Time is virtual, and what the driver computes takes none of it: where a CPU or a worker is to be slow, one of the calls
//! that it makes takes time. So rates here are ratios; `scripts/bench.sh flood` measures what a message costs. By the sockets,
//! but for data: handshake messages have no other way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::{Machine, Options};

use crate::machines::accounting::Ledger;
use crate::machines::flow::{Ended, Flow};
use crate::machines::stranger::{Stranger, with_stranger};
use crate::machines::{self, Load};

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

/// A pair with a session, whose last initiation is heard: its mac1 is right, from wherever it comes.
fn under_flood(
    seed: u64,
    cpus: u32,
    scenario: impl FnOnce(&Pair, &Stranger, &dyn Fn() -> Vec<u8>),
) {
    let policies = [(Policy::FastPath, 0), (Policy::SendEngine, 0)];
    let options = Options { cpus, ..machines::with_policies(&policies) };
    with_stranger(seed, &options, |pair, stranger| {
        let last = Arc::new(Mutex::new(Vec::new()));
        let (keep, alpha) = (last.clone(), pair.alpha.outer()[0]);
        pair.network.tap(move |seen| {
            if seen.from.ip() == alpha && seen.payload.len() == INITIATION {
                *keep.lock().unwrap() = seen.payload.to_vec();
            }
        });
        machines::ping(&pair.alpha, &pair.beta);
        scenario(pair, stranger, &|| last.lock().unwrap().clone());
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
    under_flood(1, 2, |pair, stranger, heard| {
        let initiation = &heard();
        // The next packet of the flow begins a handshake.
        pair.world.sleep(Duration::from_secs(121));
        // Whatever waits for a worker would wait on.
        sleepy(&pair.beta, milliseconds(50));
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
    under_flood(2, 2, |pair, stranger, heard| {
        let initiation = &heard();
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
        // Also in the half of their time that prompt workers do not have.
        let share = cookies * 10 / u64::from(SOURCES);
        assert!((3..=5).contains(&share), "{cookies} were answered\n{after}");
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
    under_flood(3, 2, |pair, stranger, heard| {
        let initiation = &heard();
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

/// Who has a session renews it in the middle of a flood of twice what workers can answer: his cookie is his way past the queue.
/// Whoever sends his message again from his address does not get further than his bucket.
// spec-test: WG 5.3-b, WG 7.4-e
#[test]
fn a_session_is_renewed_in_a_flood_and_each_address_has_its_bucket() {
    under_flood(1, 2, |pair, stranger, heard| {
        let initiation = &heard();
        pair.world.sleep(Duration::from_secs(121));
        // Two workers at half a millisecond each.
        machine(&pair.beta).faults().slow(AT_AN_ANSWER, milliseconds(1));
        sleepy(&pair.beta, milliseconds(500));
        let flood = |count: u32| {
            for number in 0..count {
                stranger.forge(&pair.network, source(number % SOURCES), &pair.beta, initiation);
                if number % 8 == 7 {
                    pair.world.sleep(milliseconds(1));
                }
            }
        };
        flood(4 * QUEUE as u32);
        let before = [&pair.alpha, &pair.beta].map(Ledger::of);
        let every = milliseconds(1);
        let load = Load::start(&pair.world, &pair.alpha, pair.beta.inner()[0], 200, every);
        let renewed = || {
            let now = Ledger::of(&pair.alpha);
            now.counter(Counter::HandshakesIn) - before[0].counter(Counter::HandshakesIn)
        };
        let mut seconds = 0;
        // A cookie, and a response. Until he has the cookie, three of four of his messages find the queue full, and he sends one in
        // five seconds: in a third of all runs he has none after 30.
        while renewed() < 2 {
            assert!(seconds < 90, "no new session\n{}", Ledger::of(&pair.beta));
            flood(8_000);
            seconds += 1;
        }
        let before_again = Ledger::of(&pair.beta);
        let again = heard();
        assert_ne!(again[INITIATION - 16..], [0; 16], "with a cookie");
        let alpha = SocketAddr::new(pair.alpha.outer()[0], pair.alpha.port());
        for _ in 0..200 {
            stranger.forge(&pair.network, alpha, &pair.beta, &again);
            flood(8);
        }
        drop(load);
        pair.world.sleep(Duration::from_secs(2));
        let [alpha, beta] = [&pair.alpha, &pair.beta].map(Ledger::of);
        let [limited, stale] = [Discard::RateLimited, Discard::StaleTimestamp]
            .map(|reason| more(&before_again, &beta, reason));
        assert_eq!(limited + stale, 200, "{beta}");
        assert!(
            (5..=10).contains(&stale),
            "five, and one more each 50 ms, of 200: {stale}\n{beta}"
        );
        assert!(beta.discarded(Discard::HandshakeQueueFull) > QUEUE, "{beta}");
        let sent = alpha.counter(Counter::PacketsOut) - before[0].counter(Counter::PacketsOut);
        let got = beta.counter(Counter::PacketsIn) - before[1].counter(Counter::PacketsIn);
        assert_eq!(got, sent, "no packet was lost\n{beta}");
    });
}

/// A CPU that has spent half of a tick on handshake messages looks at no more of them in that tick.
#[test]
fn a_cpu_looks_at_handshake_messages_for_half_of_its_time() {
    under_flood(4, 1, |pair, stranger, heard| {
        let initiation = &heard();
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

/// Whoever has seen the session's index has data opened that does not open, and with it whatever has no session: as many at
/// a time as of the peer, whose packets and next session come through.
#[test]
fn forged_data_makes_no_small_chunks_and_stops_nobody() {
    for (seed, fast_path) in [(6, 0), (7, 1)] {
        let why = format!("FastPath {fast_path}");
        let policies = [(Policy::FastPath, fast_path), (Policy::SendEngine, 0)];
        let options = Options { cpus: 2, ..machines::with_policies(&policies) };
        with_stranger(seed, &options, |pair, stranger| {
            let data = Arc::new(Mutex::new(Vec::new()));
            let (keep, ends) = (data.clone(), [&pair.alpha, &pair.beta].map(|end| end.outer()[0]));
            pair.network.tap(move |seen| {
                if [seen.from.ip(), seen.to.ip()] == ends && seen.payload[0] == 4 {
                    *keep.lock().unwrap() = seen.payload.to_vec();
                }
            });
            machines::ping(&pair.alpha, &pair.beta);
            // The next packet of the flow begins a handshake.
            pair.world.sleep(Duration::from_secs(121));
            let before = Ledger::of(&pair.beta);
            let flow = Flow::start(pair, 200);
            for number in 0..SOURCES / 4 {
                let mut forged = data.lock().unwrap().clone();
                // One in five is nobody's.
                let spoilt = if number % 5 == 0 { 4 } else { forged.len() - 1 };
                forged[spoilt] ^= 0x80;
                stranger.forge(&pair.network, source(number), &pair.beta, &forged);
                if number % 20 == 19 {
                    pair.world.sleep(Duration::from_micros(100));
                }
            }
            let ended = flow.end();
            ended.assert_accounted(&why);
            let after = &ended.after[1];
            assert_eq!(ended.numbers.len() as u32, ended.sent, "{why}\n{after}");
            let [forged, nobodys] = [Discard::BadTag, Discard::UnknownReceiver]
                .map(|reason| more(&before, after, reason));
            assert_eq!([forged, nobodys], [20_000, 5_000], "{why}\n{after}");
            let grown = |counter| after.counter(counter) - before.counter(counter);
            assert_eq!(grown(Counter::HandshakesIn), 1, "{why}: the session was renewed\n{after}");
            let packets = grown(Counter::PacketsIn) + forged;
            let each = packets / grown(Counter::Chunks);
            // Callouts are shown strangers' datagrams one by one, and let them pass.
            let least = if fast_path == 0 { 5 } else { 2 };
            assert!(each >= least, "{why}: {each} packets a chunk\n{after}");
        });
    }
}
