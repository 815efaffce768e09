//! How often the driver writes a byte of payload: once each way, whichever way datagrams leave and come.
//!
//! ```text
//!                 alpha writes datagrams                    beta writes packets
//!   packet ──► ring ══ seal ══► run ──► socket or injection ──► socket or callout ══ open ══► receive buffer ──► packet
//!               │                ▲
//!               └─ staged ───────┘ once more
//! ```
//!
//! The driver counts what its copying code wrote; that the AEAD counts right is tested instruction by instruction
//! (`crypto/src/aead/tests/writes.rs`), and that nobody else copies is a rule (`scripts/rules.sh`). What it should be
//! is taken from outside: from the wire, and from what was sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::with_policy;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::Pair;
use sim::nt::machine::Options;

/// Packets of each size.
const COUNT: usize = 40;
/// Bytes of inner packets: nothing is to be padded, the largest being the MTU.
const SIZES: [usize; 4] = [64, 576, 1280, 1420];

/// Both machines' counters, and what the wire carried.
struct Seen {
    alpha: Ledger,
    beta: Ledger,
    wire_bytes: u64,
}

impl Seen {
    fn of(pair: &Pair) -> Self {
        let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
        Self { alpha, beta, wire_bytes: pair.network.carried().bytes }
    }
}

/// What happened between two looks.
struct Written {
    /// Bytes alpha wrote on the way out, and bytes that were on the wire.
    out: [u64; 2],
    /// Bytes beta wrote on the way in, and bytes of packets it gave to its host.
    into: [u64; 2],
    /// Datagrams injected and absorbed.
    past_the_socket: [u64; 2],
}

impl Written {
    fn between(before: &Seen, after: &Seen) -> Self {
        let alpha = |counter| after.alpha.counter(counter) - before.alpha.counter(counter);
        let beta = |counter| after.beta.counter(counter) - before.beta.counter(counter);
        // Not only data travels: beta may answer with a keepalive, which is no more than its tag.
        for counter in [Counter::HandshakesOut, Counter::KeepalivesOut] {
            assert_eq!((alpha(counter), beta(counter)), (0, 0), "only data is to be measured");
        }
        Self {
            out: [alpha(Counter::PayloadWrittenOut), after.wire_bytes - before.wire_bytes],
            into: [beta(Counter::PayloadWrittenIn), beta(Counter::BytesIn)],
            past_the_socket: [alpha(Counter::InjectedOut), beta(Counter::Absorbed)],
        }
    }
}

/// Sends packets of every size, and looks at what that took.
fn send_all(pair: &Pair) -> Written {
    let before = Seen::of(pair);
    let to = pair.beta.inner()[0];
    for size in SIZES {
        for number in 0..COUNT {
            let data = vec![number as u8; size - 28];
            while !pair.alpha.endpoint().send_datagram(to, data.clone()) {
                pair.world.sleep(Duration::from_micros(50));
            }
        }
        // By two paths, in the order in which either hands over.
        for _ in 0..COUNT {
            let (_, data) = pair.beta.endpoint().take_datagram(machines::PATIENCE).unwrap();
            assert_eq!(data, vec![data[0]; size - 28], "{size} bytes");
        }
    }
    Written::between(&before, &Seen::of(pair))
}

/// A machine that cuts nothing into pieces, with these ways out and in.
fn whole(engine: u32, fast_path: u32) -> Options {
    let mut options = with_policy(Policy::SendEngine, engine);
    options.parameters.insert(Policy::FastPath.name().to_owned(), fast_path);
    Options { verified: false, ..options }
}

/// Runs `scenario` with each way out and in, once a session is there and every path is open.
fn with_each_way(scenario: impl Fn(&Pair, u32, u32)) {
    for engine in Policy::SendEngine.range() {
        for fast_path in Policy::FastPath.range() {
            machines::with_pair_of(7, &whole(engine, fast_path), |pair| {
                machines::ping(&pair.alpha, &pair.beta);
                machines::ping(&pair.alpha, &pair.beta);
                scenario(pair, engine, fast_path);
            });
        }
    }
}

#[test]
fn a_byte_is_written_once_each_way() {
    with_each_way(|pair, engine, fast_path| {
        let what = format!("SendEngine {engine}, FastPath {fast_path}");
        let Written { out, into, past_the_socket } = send_all(pair);
        let packets = (SIZES.len() * COUNT) as u64;
        let payload = (COUNT * SIZES.iter().sum::<usize>()) as u64;
        assert_eq!(out[1], payload + 32 * packets, "{what}: a datagram is header, text and tag");
        assert_eq!(into[1], payload, "{what}: all of it arrived");
        assert_eq!(out[0], out[1], "{what}: written once on the way out");
        assert_eq!(into[0], into[1], "{what}: written once on the way in");
        let injected = if engine == 0 { 0 } else { packets };
        let absorbed = if fast_path == 0 { 0 } else { packets };
        assert_eq!(past_the_socket, [injected, absorbed], "{what}: the ways that were to be taken");
    });
}

#[test]
fn what_crosses_the_sockets_as_one_is_written_once() {
    let mut options = whole(0, 0);
    for policy in [Policy::OuterSegmentation, Policy::OuterCoalescing] {
        options.parameters.insert(policy.name().to_owned(), 1);
    }
    machines::with_pair_of(7, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.alpha, &pair.beta);
        let Written { out, into, .. } = send_all(pair);
        assert_eq!(out[0], out[1], "written once on the way out");
        assert_eq!(into[0], into[1], "written once on the way in");
        let ledger = Ledger::of(&pair.alpha);
        let joined = ledger.counter(Counter::SegmentedOut);
        assert!(joined > (SIZES.len() * COUNT) as u64 / 2, "{joined}\n{ledger}");
        let ledger = Ledger::of(&pair.beta);
        let joined = ledger.counter(Counter::CoalescedIn);
        assert!(joined > (SIZES.len() * COUNT) as u64 / 2, "{joined}\n{ledger}");
    });
}

#[test]
fn what_is_permitted_costs_no_write() {
    let mut options = whole(0, 1);
    options.parameters.insert(Policy::HeldPerCpu.name().to_owned(), 0);
    machines::with_pair_of(7, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let permitted = || Ledger::of(&pair.beta).counter(Counter::PermittedCpuFull);
        let before = permitted();
        let Written { into, past_the_socket, .. } = send_all(pair);
        assert_eq!(into[0], into[1], "written once, behind the socket");
        assert_eq!(past_the_socket, [0, 0]);
        assert!(permitted() - before > (SIZES.len() * COUNT) as u64 / 2, "the callout saw them");
    });
}

#[test]
fn what_waits_for_a_session_is_copied_once_more() {
    machines::with_pair_of(7, &whole(0, 0), |pair| {
        let size = 576;
        for number in 0..COUNT {
            let data = vec![number as u8; size - 28];
            assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], data));
        }
        for _ in 0..COUNT {
            assert!(pair.beta.endpoint().take_datagram(machines::PATIENCE).is_some());
        }
        let ledger = Ledger::of(&pair.alpha);
        assert_eq!(ledger.counter(Counter::PacketsStaged), COUNT as u64, "all waited\n{ledger}");
        assert_eq!(ledger.counter(Counter::KeepalivesOut), 0, "{ledger}");
        let (copies, datagrams) = (COUNT * size, COUNT * (size + 32));
        let written = ledger.counter(Counter::PayloadWrittenOut);
        assert_eq!(written, (copies + datagrams) as u64, "{ledger}");
    });
}

#[test]
fn padding_costs_no_write() {
    machines::with_pair_of(7, &whole(0, 0), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let before = Seen::of(pair);
        assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![1; 100 - 28]));
        assert!(pair.beta.endpoint().take_datagram(machines::PATIENCE).is_some());
        let Written { out, into, .. } = Written::between(&before, &Seen::of(pair));
        assert_eq!(out, [112 + 32, 112 + 32]);
        // The padding is opened too, and cut off then.
        assert_eq!(into, [112, 100]);
    });
}

#[test]
fn what_lies_in_pieces_is_written_once() {
    let mut twice = Vec::new();
    for seed in 7..15 {
        machines::with_pair_of(seed, &with_policy(Policy::SendEngine, 1), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.alpha, &pair.beta);
            let Written { out, into, .. } = send_all(pair);
            assert_eq!(out[0], out[1], "seed {seed}: written once on the way out");
            // A few are in more than six.
            let more = into[0] - into[1];
            assert!(more < into[1] / 20, "seed {seed}: written once on the way in: {into:?}");
            twice.push(more);
        });
    }
    assert!(twice.contains(&0), "{twice:?}");
}
