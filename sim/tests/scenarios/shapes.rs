//! The shapes that datagrams come in: each byte of a header in an MDL of its own, fragments put together, several as one.
//!
//! ```text
//!   4│0│0│0│i│n│d│e│x│… │ ciphertext, in fragments of 500 │ … │        one list, many MDLs
//!   ├─ 932 ─┼─ 932 ─┼─ 932 ─┼─ 332 ┤  932 × 4                         one list, four datagrams
//!   ├─ 932 ─┼─ 932 ─┼─ 932 ─┤          ?                              goes to the socket
//!   ├─ 932 ─┼─ 932 ─┼─ 932 ─┤  948 × 3                                discarded, each part counted
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::fwp::{self, Coalescing};
use sim::nt::machine::Machine;

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

/// Sends `rounds` bursts of datagrams of these lengths, and waits for them to come.
fn bursts(pair: &Pair, rounds: usize, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for round in 0..rounds {
        for (number, length) in lengths.iter().enumerate() {
            let data: Vec<u8> =
                (0..*length).map(|at| (at * 3 + round * 7 + number) as u8).collect();
            while !pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], data.clone()) {
                pair.world.sleep(Duration::from_micros(50));
            }
            sent.push(data);
        }
        pair.world.sleep(Duration::from_millis(1));
    }
    pair.world.sleep(Duration::from_secs(1));
    sent
}

/// Takes what came, and checks that it is what was `sent`, in whatever order two paths have brought it.
fn all_came(pair: &Pair, mut sent: Vec<Vec<u8>>, why: &str) {
    let beta = pair.beta.endpoint();
    let mut got: Vec<Vec<u8>> = Vec::new();
    while got.len() < sent.len() {
        got.push(beta.take_datagram(machines::PATIENCE).unwrap_or_else(|| panic!("{why}")).1);
    }
    sent.sort_unstable();
    got.sort_unstable();
    assert!(sent == got, "{why}: other bytes");
}

#[test]
fn fragments_are_taken_as_they_were_put_together() {
    for (seed, engine) in [(1, 0), (2, 1), (3, 2)] {
        for mtu in [576, 68] {
            let options = machines::with_policy(Policy::SendEngine, engine);
            machines::with_pair_of(seed, &options, |pair| {
                let why = format!("seed {seed}, engine {engine}, path MTU {mtu}");
                machines::ping(&pair.alpha, &pair.beta);
                fwp::set_path_mtu(machine(&pair.beta), mtu);
                let sent = bursts(pair, 20, &[8, 60, 500, 800, 1392]);
                all_came(pair, sent, &why);
                let beta = Ledger::of(&pair.beta);
                assert!(beta.counter(Counter::Absorbed) > 60, "{why}\n{beta}");
                assert_eq!(beta.discards(Direction::Inbound), 0, "{why}\n{beta}");
            });
        }
    }
}

const SAME: [usize; 12] = [900; 12];

/// Two machines whose cards coalesce, after bursts of these lengths.
fn coalesced(
    seed: u64,
    coalescing: Coalescing,
    lengths: &[usize],
    check: impl Fn(&Pair, Vec<Vec<u8>>, &Ledger, &str),
) {
    machines::with_pair(seed, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        fwp::set_coalescing(machine(&pair.beta), coalescing);
        let sent = bursts(pair, 30, lengths);
        fwp::set_coalescing(machine(&pair.beta), Coalescing::Off);
        let beta = Ledger::of(&pair.beta);
        let why = format!("seed {seed}: {coalescing:?}, {lengths:?}\n{beta}");
        check(pair, sent, &beta, &why);
        machines::ping(&pair.beta, &pair.alpha);
    });
}

#[test]
fn a_last_part_may_be_shorter() {
    for seed in 1..4 {
        for lengths in [&[900, 900, 900, 300][..], &[900, 900, 8], &[16, 0]] {
            coalesced(seed, Coalescing::WithBoundaries, lengths, |pair, sent, beta, why| {
                assert!(beta.counter(Counter::Absorbed) > 30, "{why}");
                assert_eq!(beta.counter(Counter::PermittedCoalesced), 0, "{why}");
                assert_eq!(beta.discards(Direction::Inbound), 0, "{why}");
                all_came(pair, sent, why);
            });
        }
    }
}

#[test]
fn parts_of_unknown_length_go_by_the_socket() {
    for seed in 1..4 {
        coalesced(seed, Coalescing::WithoutBoundaries, &SAME, |pair, sent, beta, why| {
            assert!(beta.counter(Counter::PermittedCoalesced) > 5, "{why}");
            assert_eq!(beta.discards(Direction::Inbound), 0, "{why}");
            all_came(pair, sent, why);
        });
    }
}

#[test]
fn parts_that_are_cut_wrongly_are_discarded_and_counted() {
    for seed in 1..4 {
        coalesced(seed, Coalescing::WrongBoundaries, &SAME, |pair, sent, beta, why| {
            // What makes no sense is the socket's; what might, is opened, and found to be nothing.
            assert!(beta.counter(Counter::PermittedCoalesced) > 5, "{why}");
            let discards = beta.discards(Direction::Inbound);
            let known = [Discard::BadTag, Discard::MalformedMessage, Discard::UnknownReceiver];
            let expected: u64 = known.map(|reason| beta.discarded(reason)).iter().sum();
            assert!(beta.discarded(Discard::BadTag) > 5, "{why}");
            assert_eq!(discards, expected, "{why}");
            let got = beta.counter(Counter::PacketsIn);
            let lost = Ledger::of(&pair.alpha).counter(Counter::PacketsOut) - got;
            assert!(lost >= discards && got > sent.len() as u64 / 4, "{why}");
            let mut taken = 0;
            while let Some((_, data)) = pair.beta.endpoint().take_datagram(Duration::from_millis(1))
            {
                assert!(sent.contains(&data), "{why}: other bytes");
                taken += 1;
            }
            assert!(taken > 50, "{why}: {taken}");
        });
    }
}
