//! The callouts take datagrams or let them pass: either way the same bytes reach the adapter, and each has one counter.
//!
//! ```text
//!              ┌─ taken (Absorbed) ───────────────────┐
//!   datagram ──┤                                      ├── opened ── adapter
//!              └─ let pass, and why (Permitted…) ─ socket ┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use crate::machines::stranger::with_stranger;
use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp::{self, Coalescing, Neighbour};

/// What callouts were asked about, as the stack counted it; it counts those it had no buffer for, too.
fn asked(station: &Station) -> u64 {
    let counts = fwp::counts(station.computer().machine());
    counts.classified - counts.no_buffer
}

/// Sends packets of every kind of length from alpha to beta, and takes them there: sorted, because two paths may overtake
/// each other.
fn packets_of_every_length(pair: &Pair) {
    let to = pair.beta.inner();
    let mut sent: Vec<_> = (0..400_usize)
        .map(|number| {
            // Runs of one length, for cards that put such together.
            let length = 8 + number / 8 * 26;
            (number % 16 / 8, (0..length).map(|at| (at * 7 + number) as u8).collect::<Vec<u8>>())
        })
        .collect();
    for (number, (family, data)) in sent.iter().enumerate() {
        while !pair.alpha.endpoint().send_datagram(to[*family], data.clone()) {
            pair.world.sleep(Duration::from_micros(50));
        }
        if number % 16 == 15 {
            pair.world.sleep(Duration::from_micros(300));
        }
    }
    let mut got: Vec<_> = (0..sent.len())
        .map(|_| {
            let (from, data) = pair.beta.endpoint().take_datagram(machines::PATIENCE).unwrap();
            (usize::from(from.is_ipv6()), data)
        })
        .collect();
    sent.sort_unstable();
    got.sort_unstable();
    assert!(sent == got, "other bytes");
}

fn either_path(coalescing: Coalescing, outer: usize, seed: u64) {
    for fast in [0, 1] {
        let options = machines::with_policy(Policy::FastPath, fast);
        machines::with_pair_of(seed, &options, |pair| {
            let mut peer = pair.beta.as_peer().unwrap();
            peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[outer], pair.beta.port()));
            pair.alpha.set_peers(&[peer]).unwrap();
            for station in [&pair.alpha, &pair.beta] {
                fwp::set_coalescing(station.computer().machine(), coalescing);
            }
            machines::ping(&pair.alpha, &pair.beta);
            packets_of_every_length(pair);
            let beta = Ledger::of(&pair.beta);
            let (taken, passed) = (beta.counter(Counter::Absorbed), beta.permitted());
            if fast == 0 {
                assert_eq!((taken, passed, asked(&pair.beta)), (0, 0, 0), "seed {seed}\n{beta}");
                return;
            }
            assert!(taken > 100, "seed {seed}: {coalescing:?}\n{beta}");
            assert!(passed > 0, "seed {seed}: {coalescing:?}\n{beta}");
            if coalescing == Coalescing::Off {
                assert_eq!(taken + passed, asked(&pair.beta), "seed {seed}\n{beta}");
            }
        });
    }
}

#[test]
fn the_same_bytes_by_either_path() {
    for seed in 1..3 {
        for outer in [0, 1] {
            either_path(Coalescing::Off, outer, seed);
        }
    }
}

#[test]
fn the_same_bytes_of_coalesced_datagrams() {
    for seed in 1..3 {
        for outer in [0, 1] {
            either_path(Coalescing::WithBoundaries, outer, seed);
        }
    }
}

/// A list of several datagrams that does not say so: its header may give it away, and then the socket gets the parts. If the
/// header is the whole's, a list that is no longer than a datagram can be is taken for one, and no tag verifies.
#[test]
fn a_list_that_hides_its_parts_is_known_by_its_header() {
    for (seed, outer) in [(1, 0), (2, 1)] {
        for keeps_headers in [true, false] {
            let mut options = machines::with_policy(Policy::FastPath, 1);
            options.choices.insert("UNSAID_COALESCING_KEEPS_HEADERS".to_owned(), keeps_headers);
            machines::with_pair_of(seed, &options, |pair| {
                let mut peer = pair.beta.as_peer().unwrap();
                peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[outer], pair.beta.port()));
                pair.alpha.set_peers(&[peer]).unwrap();
                machines::ping(&pair.alpha, &pair.beta);
                machines::ping(&pair.alpha, &pair.beta);
                fwp::set_coalescing(machine(&pair.beta), Coalescing::WithoutBoundaries);
                let before = Ledger::of(&pair.beta);
                // Eight of 144, of 448 and of 1344 bytes: below and above what one datagram can be.
                for number in 0..3 * 64_usize {
                    let (to, size) = (pair.beta.inner()[0], [100, 400, 1300][number / 64]);
                    while !pair.alpha.endpoint().send_datagram(to, vec![number as u8; size]) {
                        pair.world.sleep(Duration::from_micros(50));
                    }
                    if number % 8 == 7 {
                        pair.world.sleep(Duration::from_millis(2));
                    }
                }
                let after = Ledger::of(&pair.beta);
                let more = |counter| after.counter(counter) - before.counter(counter);
                let why = format!("seed {seed}, headers kept {keeps_headers}\n{after}");
                let forged = after.discarded(Discard::BadTag);
                assert!(more(Counter::PermittedCoalesced) > 0, "{why}");
                if keeps_headers {
                    assert_eq!((forged, more(Counter::PacketsIn)), (0, 3 * 64), "{why}");
                } else {
                    assert!(forged > 0, "one that can be told from a datagram after all: {why}");
                }
            });
        }
    }
}

/// Runs two machines with `policies` after `prepare`, under load in bursts, and checks that `counter` counts, that what
/// callouts were asked about adds up, and that nothing was lost by it.
fn counts(
    counter: Counter,
    policies: &[(Policy, u32)],
    verified: bool,
    prepare: impl Fn(&Pair, &machines::stranger::Stranger),
) {
    let engine = policies.iter().any(|(policy, value)| *policy == Policy::SendEngine && *value > 0);
    for seed in 1..3 {
        let mut options = machines::with_policies(policies);
        options.verified = verified;
        with_stranger(seed, &options, |pair, stranger| {
            machines::ping(&pair.alpha, &pair.beta);
            prepare(pair, stranger);
            for _ in 0..30 {
                for _ in 0..32 {
                    let to = pair.beta.inner()[0];
                    while !pair.alpha.endpoint().send_datagram(to, vec![3; 700]) {
                        pair.world.sleep(Duration::from_micros(50));
                    }
                }
                pair.world.sleep(Duration::from_millis(1));
            }
            pair.world.sleep(Duration::from_secs(1));
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            let name = counter.name();
            let handed_over = alpha.counter(Counter::InjectionPassed);
            assert!(engine || handed_over == 0, "seed {seed}: none is injected\n{alpha}");
            assert!(beta.counter(counter) > 0, "seed {seed}: {name}\n{beta}");
            let judged = beta.counter(Counter::Absorbed) + beta.permitted();
            assert_eq!(judged, asked(&pair.beta), "seed {seed}: {name}\n{beta}");
            let [sent, got] = [(&alpha, Counter::PacketsOut), (&beta, Counter::PacketsIn)]
                .map(|(ledger, counter)| ledger.counter(counter));
            assert_eq!(got, sent, "seed {seed}: {name}\n{alpha}\n{beta}");
        });
    }
}

fn machine(station: &Station) -> &sim::nt::machine::Machine {
    station.computer().machine()
}

#[test]
fn what_the_stack_says_is_counted() {
    counts(Counter::PermittedNoMetadata, &[], true, |_, _| {});
    counts(Counter::PermittedAuthorisation, &[], true, |pair, _| {
        fwp::change_policy(machine(&pair.beta));
    });
    counts(Counter::PermittedNoRight, &[], true, |pair, _| {
        let clears = Neighbour { clears_right: 3, ..Neighbour::default() };
        fwp::set_neighbour(machine(&pair.beta), clears);
    });
}

#[test]
fn what_a_datagram_is_is_counted() {
    for (counter, datagram) in [
        (Counter::PermittedTooShort, [4; 31].as_slice()),
        (Counter::PermittedNotTransport, &[1; 148]),
    ] {
        counts(counter, &[], true, |pair, stranger| {
            // The first ones are the firewall's to authorise.
            for _ in 0..10 {
                stranger.send(&pair.beta, datagram);
                pair.world.sleep(Duration::from_millis(1));
            }
        });
    }
}

#[test]
fn what_the_policy_says_is_counted() {
    counts(
        Counter::PermittedOff,
        &[(Policy::FastPath, 0), (Policy::SendEngine, 1)],
        true,
        |_, _| {},
    );
    counts(Counter::PermittedCpuFull, &[(Policy::HeldPerCpu, 0)], true, |_, _| {});
    counts(Counter::PermittedPeerFull, &[(Policy::HeldPerPeer, 0)], true, |_, _| {});
    counts(Counter::PermittedRefresh, &[], false, |pair, _| {
        pair.world.sleep(Duration::from_secs(21));
    });
}

#[test]
fn a_port_that_goes_down_takes_nothing_more() {
    let mut seen = [0; 2];
    for seed in 1..60 {
        if seen.iter().all(|count| *count > 0) {
            break;
        }
        machines::with_pair(seed, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_micros(20);
            let load = Load::start(&pair.world, &pair.alpha, pair.beta.inner()[0], 900, every);
            for _ in 0..10 {
                pair.world.sleep(Duration::from_millis(3));
                pair.beta.set_up(false).unwrap();
                assert_eq!(fwp::held_nic_buffers(machine(&pair.beta)), 0, "seed {seed}");
                pair.beta.set_up(true).unwrap();
            }
            drop(load);
            machines::ping(&pair.beta, &pair.alpha);
            let beta = Ledger::of(&pair.beta);
            seen[0] += beta.counter(Counter::PermittedDraining);
            seen[1] += beta.counter(Counter::Absorbed);
        });
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?} met a port that was going down, and others");
}
