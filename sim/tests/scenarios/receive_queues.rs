//! Several receive queues, where Windows uses them: each flow by the queue that the stack's hash and table name, in order.
//!
//! ```text
//!                 ┌ queue 0 ─ CPU 1 ┐
//!   many flows ──►│ queue 1 ─ CPU 2 │──► each as the table says; one queue where it is not granted
//!                 └ ...             ┘
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::policy::Policy;
use sim::host::memory::packet::{Packet, Payload};
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;

use crate::machines::{self, PATIENCE, with_pair_of};

const FLOWS: u16 = 24;

/// Machines whose adapters may have so many queues, if that is granted. By sockets: between callouts and sockets order is as
/// either hands over.
fn machines(queues: u32, granted: bool) -> Options {
    let policies =
        [(Policy::ReceiveQueues, queues), (Policy::FastPath, 0), (Policy::SendEngine, 0)];
    let mut options = Options { cpus: 4, ..machines::with_policies(&policies) };
    options.choices.insert("RSS_IS_GRANTED".to_owned(), granted);
    options
}

/// By which queue each packet came, and its bytes.
type Came = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// Notes what `station` gets from now on.
fn listen(station: &Station) -> Came {
    station.endpoint().keep_packets(true);
    let (came, endpoint) = (Came::default(), station.endpoint().clone());
    let notes = came.clone();
    station.tunnel().adapter().on_receive(move |packets| {
        for packet in packets.iter() {
            let bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
            notes.lock().unwrap().push((packet.queue(), bytes.clone()));
            endpoint.deliver(bytes);
        }
    });
    came
}

/// Sends `rounds` numbered packets of each of many flows, and looks at what comes: all of it, each flow in order and by the
/// queue that the stack expects; returns how many queues that were.
fn flows_arrive(pair: &Pair, came: &Came, rounds: u8, why: &str) -> usize {
    let (alpha, adapter) = (&pair.alpha, pair.beta.tunnel().adapter());
    let mut sent = 0;
    for round in 0..rounds {
        for flow in 0..FLOWS {
            let family = usize::from(flow % 2);
            let packet = Packet {
                source: alpha.inner()[family],
                destination: pair.beta.inner()[family],
                payload: Payload::Datagram {
                    ports: (9000 + flow, 9),
                    data: [vec![round], vec![7; 700]].concat(),
                },
            };
            let machine = alpha.computer().machine();
            while alpha.tunnel().adapter().send(machine, &packet.to_bytes()).is_err() {
                pair.world.sleep(Duration::from_micros(50));
            }
            sent += 1;
        }
    }
    for number in 0..sent {
        assert!(pair.beta.endpoint().take_packet(PATIENCE).is_some(), "{why}: {number} of {sent}");
    }
    let mut queues: HashMap<usize, usize> = HashMap::new();
    let mut rounds_of: HashMap<u16, u8> = HashMap::new();
    for (queue, bytes) in came.lock().unwrap().drain(..) {
        assert_eq!(queue, adapter.expected_queue(&bytes), "{why}: {:02x?}", &bytes[..48]);
        *queues.entry(queue).or_default() += 1;
        let Payload::Datagram { ports, data } = Packet::parse(&bytes).unwrap().payload else {
            panic!("{why}: {bytes:02x?}")
        };
        let next = rounds_of.entry(ports.0).or_default();
        assert_eq!(data[0], *next, "{why}: flow {}", ports.0);
        *next += 1;
    }
    assert!(rounds_of.len() == usize::from(FLOWS) && rounds_of.values().all(|n| *n == rounds));
    queues.len()
}

#[test]
fn flows_are_spread_as_the_stack_says_and_stay_in_order() {
    for (seed, queues) in [(1, 4), (2, 4), (3, 2), (4, 7), (5, 16)] {
        with_pair_of(seed, &machines(queues, true), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let (machine, adapter) = (pair.beta.computer().machine(), pair.beta.tunnel().adapter());
            assert_eq!(
                adapter.receive_queues(),
                1 << queues.ilog2(),
                "the next power of two below"
            );
            let came = listen(&pair.beta);
            for time in 0..3 {
                let why = format!("seed {seed}, {queues} queues, time {time}");
                assert!(flows_arrive(pair, &came, 20, &why) > 1, "{why}");
                // Another key, another table.
                adapter.program_receive_scaling(machine);
            }
        });
    }
}

#[test]
fn there_is_one_queue_where_several_are_not_granted_or_not_wanted() {
    for (seed, queues, granted) in [(1, 4, false), (2, 1, true)] {
        with_pair_of(seed, &machines(queues, granted), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let came = listen(&pair.beta);
            assert_eq!(pair.beta.tunnel().adapter().receive_queues(), 1);
            assert_eq!(flows_arrive(pair, &came, 5, "one"), 1);
        });
    }
}

#[test]
fn queues_stop_and_start_and_are_programmed_anew() {
    with_pair_of(6, &machines(4, true), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let came = listen(&pair.beta);
        let (machine, adapter) = (pair.beta.computer().machine(), pair.beta.tunnel().adapter());
        for time in 0..3 {
            assert!(flows_arrive(pair, &came, 10, &format!("time {time}")) > 1);
            adapter.pause_and_restart(machine).unwrap();
        }
    });
}
