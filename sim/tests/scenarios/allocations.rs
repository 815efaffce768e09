//! What packets and datagrams cost in allocations once everything is warm: chunks none, callouts none, injection none.
//!
//! ```text
//!   classify ── descriptor ◄─── memory comes round ───┐          run ── lists ◄── NDIS's pools ──┐
//!      │                                              │           │                             │
//!      └──► ring ──► batch ──► opened, on any CPU ────┘           └──► injected ──► completed ──┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::segmentation::{Super, each_kind, granted};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;

/// Nodes of chains: descriptors of what was taken.
const DESCRIPTORS: [u8; 4] = *b"PnsC";
/// Everything that has no tag of its own: chunks, and what they carry.
const GENERAL: [u8; 4] = *b"Pnst";
/// Lists and buffers of what is injected.
const LISTS: [u8; 4] = *b"PnsN";

fn allocations(station: &Station, tag: [u8; 4]) -> u64 {
    station.computer().machine().pool_allocations(tag)
}

/// Sends `bursts` of 32 from alpha to beta.
fn send(pair: &Pair, bursts: usize) {
    for _ in 0..bursts {
        for _ in 0..32 {
            let to = pair.beta.inner()[0];
            while !pair.alpha.endpoint().send_datagram(to, vec![7; 900]) {
                pair.world.sleep(Duration::from_micros(20));
            }
        }
        pair.world.sleep(Duration::from_millis(1));
    }
}

/// What a thousand datagrams that were injected and absorbed cost, after as many: allocations for descriptors, for lists.
fn cost(options: &Options, seed: u64) -> [u64; 2] {
    let mut cost = [0; 2];
    machines::with_pair_of(seed, options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        send(pair, 32);
        let seen = || {
            let (alpha, beta) = (Ledger::of(&pair.alpha), Ledger::of(&pair.beta));
            [beta.counter(Counter::Absorbed), alpha.counter(Counter::InjectedOut)]
        };
        let allocated = || [allocations(&pair.beta, DESCRIPTORS), allocations(&pair.alpha, LISTS)];
        let (seen_before, before) = (seen(), allocated());
        assert!(before[0] > 0, "seed {seed}: descriptors are allocated under another tag");
        send(pair, 32);
        let (seen_after, after) = (seen(), allocated());
        assert!(
            seen_after[0] - seen_before[0] > 700,
            "seed {seed}: {seen_before:?}, {seen_after:?}"
        );
        if options.parameters.get(Policy::SendEngine.name()).is_some_and(|engine| *engine != 0) {
            assert!(before[1] > 0, "seed {seed}: lists are allocated under another tag");
            assert!(
                seen_after[1] - seen_before[1] > 700,
                "seed {seed}: {seen_before:?}, {seen_after:?}"
            );
        }
        cost = [after[0] - before[0], after[1] - before[1]];
    });
    cost
}

#[test]
fn a_datagram_that_is_taken_costs_none() {
    for (seed, verified) in [(1, true), (2, true), (3, false)] {
        for cpus in [1, 4] {
            let options =
                machines::with_policies(&[(Policy::FastPath, 1), (Policy::SendEngine, 0)]);
            let [descriptors, _] = cost(&Options { verified, cpus, ..options }, seed);
            assert_eq!(descriptors, 0, "seed {seed}, {cpus} CPUs");
        }
    }
}

/// Lists come from pools of NDIS, which keep what is given back, in the simulator in fast mode only: under the verifier every
/// list's memory goes, so that a later use is seen.
#[test]
fn a_run_that_is_injected_costs_none() {
    for engine in [1, 2] {
        let options =
            machines::with_policies(&[(Policy::FastPath, 1), (Policy::SendEngine, engine)]);
        let [descriptors, lists] = cost(&Options { verified: false, ..options }, 4);
        assert_eq!((descriptors, lists), (0, 0), "engine {engine}");
    }
}

/// What a thousand packets from one end to the other cost in chunks at both, after as many; `send` sends them, and `counter` says of at
/// least so many of something. To ask for counters costs a block itself.
fn chunks_cost(
    options: &Options,
    seed: u64,
    (counter, least): (Counter, u64),
    send: impl Fn(&Pair),
) -> u64 {
    let mut cost = 0;
    machines::with_pair_of(seed, options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        send(pair);
        let allocated =
            || [&pair.alpha, &pair.beta].map(|end| allocations(end, GENERAL)).iter().sum::<u64>();
        let counted = || Ledger::of(&pair.alpha).counter(counter);
        let (counted_before, before) = (counted(), allocated());
        send(pair);
        cost = allocated() - before;
        let more = counted() - counted_before;
        assert!(more >= least, "seed {seed}: {more}");
    });
    cost
}

/// Blocks of chunks are kept, unless Driver Verifier looks on.
#[test]
fn a_chunk_costs_none() {
    for cpus in [1, 4] {
        for fast_path in [0, 1] {
            let options = machines::with_policy(Policy::FastPath, fast_path);
            let options = Options { cpus, ..options };
            let send = |pair: &Pair| send(pair, 32);
            let many = (Counter::Chunks, 32);
            let fast = Options { verified: false, ..options.clone() };
            let kept = chunks_cost(&fast, 5, many, send);
            assert_eq!(kept, 0, "{cpus} CPUs, FastPath {fast_path}");
            let verified = chunks_cost(&options, 5, many, send);
            assert!(verified >= 64, "{verified} with {cpus} CPUs: the pool sees every chunk");
        }
    }
}

/// Sends packets that are cut into a thousand, of each kind.
fn send_super_packets(pair: &Pair) {
    pair.beta.endpoint().keep_packets(true);
    for (from, to, tcp) in (0..6).flat_map(|_| each_kind(pair)) {
        Super::new(from, to, tcp, |mss| 45 * mss).send(&pair.alpha);
        pair.world.sleep(Duration::from_millis(1));
    }
}

/// Chunks of segments have their headers in a block besides.
#[test]
fn a_chunk_of_segments_costs_none() {
    for cpus in [1, 4] {
        for fast_path in [0, 1] {
            let options = machines::with_policy(Policy::FastPath, fast_path);
            let options = granted(Options { cpus, ..options }, true);
            let fast = Options { verified: false, ..options.clone() };
            let cut = (Counter::SegmentsOut, 24 * 45);
            let kept = chunks_cost(&fast, 6, cut, send_super_packets);
            assert_eq!(kept, 0, "{cpus} CPUs, FastPath {fast_path}");
            let verified = chunks_cost(&options, 6, cut, send_super_packets);
            assert!(verified >= 96, "{verified} with {cpus} CPUs: the pool sees every chunk");
        }
    }
}
