//! One flow on several CPUs: its chunks are sealed and opened by all of the scaling set, and nobody can tell.
//!
//! ```text
//!             ┌─ CPU 0 ─┐                               ┌─ CPU 0 ─┐
//!   a burst ──┼─ CPU 1 ─┼── counters in order on the ───┼─ CPU 1 ─┼── the burst, in order
//!             └─ CPU 2 ─┘   wire                        └─ CPU 2 ─┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::endpoint::DATAGRAM_PORT;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{Pair, Station};
use sim::nt::dpc;
use sim::nt::machine::Options;

use crate::machines::accounting::Ledger;
use crate::machines::{self, with_pair_of};

const BURST: u16 = 400;

/// Sockets only: between callouts and sockets order is as either hands over.
fn four(policies: &[(Policy, u32)]) -> Options {
    let policies = [policies, &[(Policy::FastPath, 0), (Policy::SendEngine, 0)]].concat();
    Options { cpus: 4, ..machines::with_policies(&policies) }
}

/// Transport data on the wire whose counter does not follow the last one of its session.
fn watch(pair: &Pair) -> Arc<Mutex<(HashMap<u32, u64>, usize)>> {
    let seen = Arc::new(Mutex::new((HashMap::new(), 0)));
    let wire = seen.clone();
    pair.network.tap(move |seen| {
        let datagram = seen.payload;
        let [4, 0, 0, 0, r0, r1, r2, r3, ..] = *datagram else { return };
        let receiver = u32::from_le_bytes([r0, r1, r2, r3]);
        let counter = u64::from_le_bytes(*datagram[8..].first_chunk().unwrap());
        let (next, disorder) = &mut *wire.lock().unwrap();
        let expected = next.insert(receiver, counter + 1).unwrap_or(counter);
        *disorder += usize::from(expected != counter);
    });
    seen
}

/// Sends numbered datagrams as fast as the ring takes them; those that arrive, by number.
fn burst(pair: &Pair, size: usize) -> Vec<u16> {
    let (from, to) = (pair.alpha.endpoint(), pair.beta.endpoint());
    for number in 0..BURST {
        let mut data = vec![0x3C; size];
        data[..2].copy_from_slice(&number.to_be_bytes());
        assert!(from.send_datagram(pair.beta.inner()[0], data), "{number}");
    }
    let next = || to.take_datagram(Duration::from_millis(200));
    let numbers = std::iter::from_fn(next)
        .map(|(_, data)| {
            assert_eq!(data.len(), size);
            u16::from_be_bytes(*data.first_chunk().unwrap())
        })
        .collect();
    pair.world.sleep(Duration::from_millis(100));
    numbers
}

/// It is the sender who deals: a list that a socket is shown is one chunk here, whether or not all of it says which address it came to.
#[test]
fn a_burst_goes_by_several_cpus_and_arrives_in_order() {
    let mut dealt = 0;
    for seed in 1..=6 {
        with_pair_of(seed, &four(&[]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let wire = watch(pair);
            let numbers = burst(pair, 1000);
            assert!(numbers.iter().copied().eq(0..BURST), "seed {seed}: {numbers:?}");
            assert_eq!(wire.lock().unwrap().1, 0, "seed {seed}: counters out of order on the wire");
            dealt += Ledger::of(&pair.alpha).counter(Counter::ChunksDealt);
        });
    }
    assert!(dealt > 0, "dealt by the sender");
}

#[test]
fn so_does_one_that_callouts_take() {
    let mut dealt = 0;
    for seed in 1..=4 {
        let options = Options { cpus: 4, ..machines::with_policy(Policy::FastPath, 1) };
        with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            // So that a DPC that comes late finds more than one chunk in its ring.
            dpc::keep_busy(pair.beta.computer().machine(), Duration::from_millis(1));
            let mut numbers = burst(pair, 1000);
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..BURST), "seed {seed}: {numbers:?}");
            let ledger = Ledger::of(&pair.beta);
            assert!(ledger.counter(Counter::Absorbed) > 100, "seed {seed}: {ledger}");
            dealt += ledger.counter(Counter::ChunksDealt);
        });
    }
    assert!(dealt > 0, "dealt by the receiver");
}

#[test]
fn a_set_of_one_shares_nothing() {
    with_pair_of(3, &four(&[(Policy::ScalingMax, 1)]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let numbers = burst(pair, 1000);
        assert!(numbers.iter().copied().eq(0..BURST), "{numbers:?}");
        assert_eq!([&pair.alpha, &pair.beta].map(dealt_by), [0, 0]);
    });
}

#[test]
fn chunks_of_one_small_packet_stay_where_they_are() {
    with_pair_of(3, &four(&[]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let (from, to) = (pair.alpha.endpoint(), pair.beta.endpoint());
        let inner = |station: &Station| *station.inner().iter().find(|ip| ip.is_ipv6()).unwrap();
        let ports = (DATAGRAM_PORT, DATAGRAM_PORT);
        for number in 0..BURST {
            let data = number.to_be_bytes().to_vec();
            let (source, destination) = (inner(&pair.alpha), inner(&pair.beta));
            let payload = Payload::Datagram { ports, data };
            let mut packet = Packet { source, destination, payload }.to_bytes();
            // Each in a chunk of its own: the outer type-of-service changes with ECT(0).
            packet[1] |= ((number % 2) << 5) as u8;
            assert!(from.send_super(&packet, 0), "{number}");
        }
        let next = || to.take_datagram(Duration::from_millis(200));
        let numbers = std::iter::from_fn(next).map(|(_, data)| {
            assert_eq!(data.len(), 2);
            u16::from_be_bytes([data[0], data[1]])
        });
        assert!(numbers.eq(0..BURST));
        // The other end sees one flow, and has full chunks if a list is long enough.
        assert_eq!(dealt_by(&pair.alpha), 0);
    });
}

/// Chunks that one end gave to another CPU.
fn dealt_by(end: &Station) -> u64 {
    Ledger::of(end).counter(Counter::ChunksDealt)
}

#[test]
fn a_set_begins_where_policy_says() {
    for (base, most) in [(1, 2), (3, 8), (2_000, 2)] {
        with_pair_of(
            4,
            &four(&[(Policy::ScalingBase, base), (Policy::ScalingMax, most)]),
            |pair| {
                machines::ping(&pair.alpha, &pair.beta);
                let numbers = burst(pair, 1000);
                assert!(numbers.iter().copied().eq(0..BURST), "{numbers:?}");
            },
        );
    }
}
