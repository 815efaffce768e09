//! What a chunk and a packet cost the driver, counted and not timed: instructions, atomics, and calls out of it.
//!
//! Memory, too: bytes of the pool. Two machines with one CPU each, in fast mode, their queues polled here; what the first one sends is counted and gone
//! ([`null`](sim::host::null)), and what the other one receives is landed by hand. A chunk of 32 packets less a chunk of 16
//! is 16 packets; two chunks less one are a chunk. `scripts/bench.sh cost` prints the tables of
//! `docs/tuning.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use abi::policy::Policy;
use sim::host::memory::Network;
use sim::host::polled::{End, Polled};
use sim::host::routes::Prefix;
use sim::nt::machine::Options;
use sim::verifier::schedule::{Mode as Time, World};
use sim::verifier::steps::{Counted, count};

/// Packets of a chunk.
const CHUNK: usize = 32;
/// Bytes of each packet.
const SIZE: usize = 64;

fn driver() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys")
}

/// Puts so many packets into the ring.
fn put(ends: &Polled, packets: usize) {
    assert_eq!(ends.put(&ends.packet(SIZE), packets), packets);
}

/// Has the driver send so many packets of its ring.
fn send(ends: &Polled, packets: usize) -> Counted {
    // What the first packet after a while starts, and a worker is told of, is no part of the cost.
    put(ends, 1);
    ends.from.poll();
    put(ends, packets);
    let sent = ends.from.outer.sent();
    let counted = count(ends.from.machine(), || ends.from.poll());
    assert!(ends.from.outer.sent() - sent >= packets as u64, "one thread sends all of them");
    counted
}

/// Lands so many datagrams at once, and has the driver deliver them.
fn receive(ends: &Polled, packets: usize) -> Counted {
    let mut counted = Counted::default();
    // As above: the keepalive that is to answer.
    land(ends, 1, |body| body());
    land(ends, packets, |body| counted = count(ends.to.machine(), body));
    counted
}

fn land(ends: &Polled, packets: usize, around: impl FnOnce(&mut dyn FnMut())) {
    let before = ends.to.received();
    let send = || {
        put(ends, packets);
        ends.from.poll();
    };
    ends.land(send, packets, around);
    let received = ends.to.received() - before;
    assert_eq!(received, packets as u64, "one thread delivers all of them");
}

/// What `more` has besides `less`, for each of `parts`; what is below zero is none.
fn each(more: &Counted, less: &Counted, parts: usize) -> Vec<(String, f64)> {
    let share = |more: usize, less: usize| (more as f64 - less as f64) / parts as f64;
    let mut all = vec![
        ("instructions".to_owned(), share(more.instructions, less.instructions)),
        ("atomics".to_owned(), share(more.all_atomics(), less.all_atomics())),
    ];
    let get = |map: &std::collections::BTreeMap<String, usize>, key: &String| {
        map.get(key).copied().unwrap_or(0)
    };
    for (prefix, more, less) in
        [("  atomic ", &more.atomics, &less.atomics), ("  call ", &more.calls, &less.calls)]
    {
        let names: std::collections::BTreeSet<_> = more.keys().chain(less.keys()).collect();
        for name in names {
            let share = share(get(more, name), get(less, name));
            if share != 0.0 {
                all.push((format!("{prefix}{name}"), share));
            }
        }
    }
    all
}

fn print(what: &str, all: &[(String, f64)]) {
    println!("{what}");
    for (name, value) in all {
        println!("  {value:10.2} {name}");
    }
}

/// The most that a way may cost: atomics of a packet, and of a chunk besides those of its packets.
struct Bound {
    packet: f64,
    chunk: f64,
}

/// Attempts at one way: a busy machine takes so long to step that a timer comes in between, of which a worker is told.
const ATTEMPTS: usize = 6;

/// One way: a packet, and a chunk of 32 with them.
fn look(name: &str, bound: &Bound, run: impl Fn(usize) -> Counted) {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match attempt(name, bound, &run) {
            Ok(()) => return,
            Err(over) => last = over,
        }
        println!("{last}");
    }
    panic!("{last}, in each of {ATTEMPTS} attempts");
}

fn attempt(name: &str, bound: &Bound, run: impl Fn(usize) -> Counted) -> Result<(), String> {
    let [half, one, two] = [CHUNK / 2, CHUNK, 2 * CHUNK].map(run);
    let packet = each(&one, &half, CHUNK / 2);
    let chunk = each(&two, &one, 1);
    print(&format!("{name}: a packet"), &packet);
    print(&format!("{name}: a chunk of {CHUNK} packets"), &chunk);
    let of = |all: &[(String, f64)], what: &str| {
        all.iter().find(|(name, _)| name == what).map_or(0.0, |(_, value)| *value)
    };
    let (packet_atomics, chunk_atomics) = (of(&packet, "atomics"), of(&chunk, "atomics"));
    if [&half, &one, &two].iter().any(|counted| counted.calls_of("KeSetEvent") != 0) {
        return Err(format!("{name}: a worker was told of something"));
    }
    for counted in [&half, &one, &two] {
        assert!(counted.all_atomics() > 0, "{name}: something was counted");
        assert_eq!(
            counted.calls_of("ExAllocatePool2"),
            0,
            "{name}: nothing is allocated once warm"
        );
    }
    if packet_atomics > bound.packet {
        return Err(format!("{name}: {packet_atomics} atomics a packet"));
    }
    let chunk_alone = chunk_atomics - packet_atomics * CHUNK as f64;
    if chunk_alone > bound.chunk {
        return Err(format!("{name}: {chunk_alone} atomics a chunk"));
    }
    Ok(())
}

/// Both ends with some policies, warm, and what one of their ways costs.
fn with_ends(policies: &[(Policy, u32)], body: impl FnOnce(&Polled)) {
    let world = World::new(Time::Parallel);
    let _main = world.enter("main");
    let parameters = policies.iter().map(|(policy, value)| (policy.name().to_owned(), *value));
    let options = Options {
        cpus: 1,
        verified: false,
        parameters: parameters.collect(),
        choices: ["GSO_IS_GRANTED", "RX_CHECKSUM_IS_GRANTED"]
            .map(|name| (name.to_owned(), false))
            .into(),
        ..Options::default()
    };
    let ends = Polled::boot(&world, &options, &driver());
    for _ in 0..4 {
        land(&ends, 8 * CHUNK, |body| body());
    }
    body(&ends);
    ends.shut_down();
}

#[test]
fn sockets() {
    with_ends(&[(Policy::FastPath, 0)], |ends| {
        let bound = Bound { packet: 0.0, chunk: 26.0 };
        look("out, sockets", &bound, |packets| send(ends, packets));
        // A buffer at a time comes back from NetAdapterCx.
        let bound = Bound { packet: 1.0, chunk: 28.0 };
        look("in, sockets", &bound, |packets| receive(ends, packets));
    });
}

/// Pool bytes of a peer with one IPv4 and one IPv6 address, and of a driver with one that is up.
#[test]
fn a_peer_takes_few_bytes() {
    const PEERS: u32 = 10_000;
    let world = World::new(Time::Parallel);
    let _main = world.enter("main");
    let network = Network::new(&world);
    let options = Options { cpus: 2, verified: false, ..Options::default() };
    let end = End::boot(&world, &network, 1, &options, &driver());
    let used = || end.machine().pool_use().bytes as f64;
    let peers = |from: u32, to: u32| -> Vec<_> {
        let made = (from..to).map(|number| {
            let mut peer = end.station.as_peer().unwrap();
            peer.public_key = [0; 32];
            peer.public_key[..4].copy_from_slice(&(number + 1).to_le_bytes());
            let [_, b, c, d] = number.to_be_bytes();
            let addresses: [IpAddr; 2] = [
                [10, b, c, d].into(),
                [0xFD00, 0, 0, 0, 0, 0, b.into(), u16::from_be_bytes([c, d])].into(),
            ];
            peer.allowed_ips = addresses.map(|address| Prefix::new(address, 128)).to_vec();
            peer
        });
        made.collect()
    };
    let loaded = used();
    end.station.set_up(true).unwrap();
    end.station.set_peers(&peers(0, 1)).unwrap();
    let one = used();
    end.station.set_peers(&peers(1, PEERS)).unwrap();
    let each = (used() - one) / f64::from(PEERS - 1);
    println!("pool, bytes: {loaded} loaded, {one} up with a peer, {each:.0} for each more");
    assert!(each < 4096.0, "{each} bytes a peer");
    assert!(end.station.shut_down().unwrap().is_empty());
}

/// What the flight recorder adds to a discard that it notes: a few instructions, a call for the IRQL and one for the CPU, nothing locked.
#[test]
fn a_record_takes_few_instructions_and_no_lock() {
    const PACKETS: usize = 32;
    with_ends(&[], |ends| {
        let mut packet = ends.packet(SIZE);
        // To nobody.
        packet[16..20].copy_from_slice(&[192, 0, 2, 77]);
        let tunnel = ends.from.station.tunnel();
        let discard = |level| {
            // Discards alone: a busy machine has callbacks take long, of which there are records, too.
            let values =
                [(Policy::RecorderLevel, Some(level)), (Policy::RecorderKeywords, Some(8))];
            tunnel.set_policy(&values).unwrap();
            let run = || {
                assert_eq!(ends.put(&packet, PACKETS), PACKETS);
                let before = ends.from.machine().recorded(usize::MAX).len();
                let counted = count(ends.from.machine(), || ends.from.poll());
                (counted, ends.from.machine().recorded(usize::MAX).len() - before)
            };
            run();
            run()
        };
        // As above, of a busy machine; the ring has room for so many records.
        let holds = (0..3).any(|_| {
            let ((without, none), (with, records)) = (discard(1), discard(2));
            assert!(none == 0 && records > 0, "{none} and {records} records");
            let cost = each(&with, &without, records);
            print(&format!("a record, of {records}"), &cost);
            let (_, instructions) = cost[0];
            (1.0..60.0).contains(&instructions)
                && with.calls_of("KfRaiseIrql") == without.calls_of("KfRaiseIrql")
                && with.all_atomics() == without.all_atomics()
        });
        assert!(holds, "a record takes more");
        // And timed, for `docs/performance.md`: with records and without in turn, what the middle of each took.
        let mut times = [const { Vec::new() }; 2];
        let mut records = 0;
        for round in 0..2 * 301 {
            let level = 1 + round % 2;
            let values =
                [(Policy::RecorderLevel, Some(level)), (Policy::RecorderKeywords, Some(8))];
            tunnel.set_policy(&values).unwrap();
            assert_eq!(ends.put(&packet, PACKETS), PACKETS);
            let began = Instant::now();
            ends.from.poll();
            times[round as usize % 2].push(began.elapsed());
            if level == 2 {
                records = ends.from.machine().recorded(usize::MAX).len();
            }
        }
        let [without, with] = times.map(|mut all| {
            all.sort();
            all[all.len() / 2].as_secs_f64() * 1e9
        });
        println!("a poll: {without:.0} ns without records, {with:.0} with {records} in all rings");
    });
}
