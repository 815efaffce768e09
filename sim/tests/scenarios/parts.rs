//! What CPUs and queues counted adds up to what the adapter did.
//!
//! ```text
//!   endpoint ── ring ──► transmit queue 0 ──► CPU 0 .. 3 seal ──► network
//!   endpoint ◄── receive queues 0 .. 3 ◄── CPU 0 .. 3 open ◄── network
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use abi::discard::Direction;
use abi::policy::Policy;
use abi::statistics::{Counter, Kind, OF_CPU, Part, QueueCounter, Statistics};
use sim::host::memory::pair::Station;
use sim::nt::machine::Options;

use crate::machines;

/// Sums and maxima of one machine's parts, beside what its adapter counted.
fn check(station: &Station) -> (usize, usize) {
    let block = station.tunnel().statistics().unwrap();
    let all = Statistics::parse(&block).unwrap();
    let of = |kind| all.parts().filter(move |part: &Part<'_>| part.is(kind));
    for counter in OF_CPU {
        let values = of(Kind::Cpu).map(|part| part.of_cpu(counter));
        let is_longest = counter.name().starts_with("Longest");
        let together = if is_longest { values.max().unwrap_or(0) } else { values.sum() };
        assert_eq!(together, all.counter(counter), "{}", counter.name());
    }
    let sum = |kind, counter| of(kind).map(|part| part.of_queue(counter)).sum::<u64>();
    let count = |counter| all.counter(counter);
    let given =
        count(Counter::PacketsOut) - count(Counter::SegmentsOut) + count(Counter::SuperPacketsOut);
    assert_eq!(sum(Kind::TransmitQueue, QueueCounter::Packets), given);
    assert_eq!(
        sum(Kind::TransmitQueue, QueueCounter::Packets),
        station.tunnel().adapter().sent().completed
    );
    assert_eq!(sum(Kind::ReceiveQueue, QueueCounter::Packets), count(Counter::PacketsIn));
    assert_eq!(sum(Kind::ReceiveQueue, QueueCounter::Bytes), count(Counter::BytesIn));
    for kind in [Kind::ReceiveQueue, Kind::TransmitQueue] {
        assert_eq!(sum(kind, QueueCounter::Waiting), 0, "at rest");
        assert!(of(kind).any(|part| part.of_queue(QueueCounter::MostWaiting) > 0));
    }
    // By other counts: every datagram but handshake messages was sealed, and every one but these opened.
    assert_eq!(all.discards(Direction::Outbound) + all.discards(Direction::Inbound), 0);
    assert_eq!(
        count(Counter::PacketsSealed),
        count(Counter::DatagramsOut) - count(Counter::HandshakesOut)
    );
    assert_eq!(
        count(Counter::PacketsOpened),
        count(Counter::DatagramsIn) - count(Counter::HandshakesIn)
    );
    let busy = of(Kind::Cpu).filter(|part| part.of_cpu(Counter::PacketsSealed) > 0).count();
    let queues = of(Kind::ReceiveQueue).filter(|part| part.of_queue(QueueCounter::Packets) > 0);
    (busy, queues.count())
}

#[test]
fn cpus_and_queues_add_up() {
    let options = Options { cpus: 4, ..machines::with_policy(Policy::ReceiveQueues, 4) };
    let mut most = (0, 0);
    for seed in 1..=4 {
        machines::with_pair_of(seed, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let ends = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)];
            for (from, to) in ends {
                for to in to.inner() {
                    // In long batches, which CPUs share.
                    for at in 0..400 {
                        from.endpoint().send_datagram(to, vec![0x3C; 600 + at]);
                    }
                }
            }
            pair.world.sleep(Duration::from_secs(1));
            for station in [&pair.alpha, &pair.beta] {
                let (busy, queues) = check(station);
                most = (most.0.max(busy), most.1.max(queues));
            }
        });
    }
    assert!(most.0 > 1 && most.1 > 0, "{most:?} CPUs that seal, and queues that receive");
}
