//! What a packet costs in the driver: from the transmit ring to the outgoing send, and from the incoming indication to the
//! receive ring, on one CPU with full batches; beside boringtun's `Tunn` in the same process.
//!
//! `penstock.sys` runs in the simulator's fast mode, between a ring that is filled beforehand (1,024 packets) and a network
//! that counts what is sent and completes it at once; what comes in lies in memory before the clock starts, and is handed
//! over 64 datagrams at a time. Everything from there runs in one thread: NetAdapterCx's poll, the WSK provider or the
//! filter engine, the driver. Times are that thread's CPU time, so neighbours are not measured. **Nothing is subtracted**:
//! the figure holds what the simulator does for each packet. How much that is, is sampled (`sample.rs`) and printed beside
//! it, with the functions that take longest; a driver that does nothing cannot show it, since rings would then be empty.
//!
//! ```text
//! scripts/bench.sh datapath               everything, about two minutes
//! scripts/bench.sh datapath --rounds N    samples of each (default 150)
//! scripts/bench.sh datapath --functions N lines of each profile (default 12)
//! scripts/bench.sh datapath --only 'in,'  the ways whose names have this in them, and nothing else
//! ```
//!
//! Writes `target/bench/datapath.json`: an array of `{what, size, unit, ours, peer, theirs, ratio}`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::policy::Policy;
use sim::verifier::schedule::{Mode, World};

#[allow(dead_code)] // Some of it is for the flood.
mod pair;
mod peer;
mod profile;
mod results;
mod sample;
mod scaling;

use pair::{PACKETS, Pair, Taken};
use peer::Boringtun;
use results::{median, root, write};

const SIZES: [usize; 3] = [64, 256, 1420];
/// boringtun's session is renewed after this: it is refused at 180 s.
const RENEW: Duration = Duration::from_secs(60);
/// Packets of one sample of a flow that does not stop.
const STREAM: u64 = 16 * PACKETS as u64;
/// One sample of the bare AEAD.
const AEAD: Duration = Duration::from_millis(3);

/// A way of packets through the driver.
struct Way {
    name: &'static str,
    inward: bool,
    /// In packets of 64 KiB, which the driver cuts.
    whole: bool,
    policies: &'static [(Policy, u32)],
}

const SOCKETS: &[(Policy, u32)] = &[(Policy::FastPath, 0)];
/// The way that one of what Windows may grant is compared with.
const SURE: &str = "out, sockets";
const DEFAULTS: &[(Policy, u32)] = &[];
const INJECTION_1: &[(Policy, u32)] = &[(Policy::SendEngine, 1)];
const INJECTION_2: &[(Policy, u32)] = &[(Policy::SendEngine, 2)];

const SEGMENTS: &[(Policy, u32)] = &[(Policy::OuterSegmentation, 1)];
const COALESCED: &[(Policy, u32)] = &[(Policy::FastPath, 0), (Policy::OuterCoalescing, 1)];

impl Way {
    const fn out(name: &'static str, policies: &'static [(Policy, u32)]) -> Self {
        Self { name, inward: false, whole: false, policies }
    }

    const fn inward(name: &'static str, policies: &'static [(Policy, u32)]) -> Self {
        Self { inward: true, ..Self::out(name, policies) }
    }
}

const WAYS: [Way; 8] = [
    Way::out("out, sockets", DEFAULTS),
    Way { whole: true, ..Way::out("out, 64 KiB", DEFAULTS) },
    Way::out("out, segments", SEGMENTS),
    Way::out("out, injection 1", INJECTION_1),
    Way::out("out, injection 2", INJECTION_2),
    Way::inward("in, sockets", SOCKETS),
    Way::inward("in, coalesced", COALESCED),
    Way::inward("in, callouts", DEFAULTS),
];

struct Arguments {
    driver: PathBuf,
    rounds: usize,
    functions: usize,
    only: String,
}

fn main() {
    let arguments = arguments();
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    println!(
        "{}; {PACKETS} packets a sample, medians of {}, ns per packet",
        cpu_name(),
        arguments.rounds
    );
    println!("ours holds the simulator's share, which is sampled; nothing is subtracted\n");
    let ways = WAYS.iter().filter(|way| way.name.contains(&arguments.only));
    let ways: Vec<(&Way, Pair)> = ways
        .map(|way| (way, Pair::boot(&world, &arguments.driver, 1, way.policies, way.whole)))
        .collect();
    let mut rows = if ways.is_empty() { Vec::new() } else { against_boringtun(&arguments, &ways) };
    for (_, pair) in ways {
        pair.shut_down();
    }
    if arguments.only.is_empty() || arguments.only == "CPUs" {
        rows.extend(scaling(&world, &arguments));
    }
    let json = serde_json::to_string_pretty(&rows).expect("plain values");
    write("datapath.json", &json);
}

/// Every way at every size.
fn against_boringtun(arguments: &Arguments, ways: &[(&Way, Pair)]) -> Vec<serde_json::Value> {
    let names = sample::Names::read();
    let mut boringtun = Boringtun::new();
    let mut renewed = Instant::now();
    let mut rows = Vec::new();
    let mut profiles = Vec::new();
    println!(
        "{:18} {:>5} {:>8} {:>10} {:>7}   of ours: aead, rest of the driver, simulator; driver alone",
        "", "bytes", "penstock", "boringtun", "ratio"
    );
    for size in SIZES {
        let mut ours = vec![Vec::new(); ways.len()];
        let mut theirs = [Vec::new(), Vec::new()];
        let packet = vec![0x45; 1].into_iter().chain(boringtun_rest(size)).collect::<Vec<u8>>();
        for _ in 0..arguments.rounds {
            if renewed.elapsed() > RENEW {
                boringtun.handshake();
                renewed = Instant::now();
            }
            theirs[0].push(per_packet(boringtun.send(&packet)));
            theirs[1].push(per_packet(boringtun.receive()));
            for ((way, pair), ours) in ways.iter().zip(&mut ours) {
                let (taken, packets) = run(way, pair, size);
                ours.push(taken.cpu.as_nanos() as f64 / packets as f64);
            }
        }
        let theirs = theirs.map(median);
        let mut sure = 0.0;
        for ((way, pair), ours) in ways.iter().zip(ours) {
            let (ours, theirs) = (median(ours), theirs[usize::from(way.inward)]);
            let profile = profile::take(&names, pair, || {
                let _ = run(way, pair, size);
            });
            let [aead, driver, simulator] = profile.shares().map(|share| share * ours);
            println!(
                "{:18} {size:5} {ours:8.0} {theirs:10.0} {:6.2}x   {aead:.0} + {driver:.0} + {simulator:.0}; {:.2}x",
                way.name,
                theirs / ours,
                theirs / (aead + driver)
            );
            if way.name == SURE {
                sure = aead + driver;
            } else if way.whole && sure > 0.0 {
                println!(
                    "{:18} {size:5} AEAD and driver, {SURE}: {:.2}x as fast",
                    "",
                    sure / (aead + driver)
                );
                let ratio = sure / (aead + driver);
                rows.push(row(
                    "out, 64 KiB (granted): driver alone, sampled",
                    size,
                    "ns/packet",
                    aead + driver,
                    "own, sure",
                    sure,
                    ratio,
                ));
            }
            rows.push(row(way.name, size, "ns/packet", ours, "boringtun", theirs, theirs / ours));
            let alone = aead + driver;
            rows.push(row(
                &format!("{}: driver alone, sampled", way.name),
                size,
                "ns/packet",
                alone,
                "boringtun",
                theirs,
                theirs / alone,
            ));
            for (part, value) in [("aead", aead), ("driver", driver), ("simulator", simulator)] {
                rows.push(serde_json::json!({
                    "what": format!("{}: of it {part}", way.name), "size": size, "unit": "ns/packet",
                    "ours": round(value), "peer": null, "theirs": null, "ratio": null,
                }));
            }
            profiles.push((format!("{}, {size} B", way.name), ours, profile));
        }
    }
    println!("\nways that packets took:");
    for (way, pair) in ways {
        println!("{}", way.name);
        pair.print_ways();
    }
    for (name, ours, profile) in &profiles {
        if !name.contains("256 B") {
            profile.print(name, *ours, arguments.functions);
        }
    }
    rows
}

/// One flow with one and with two simulated CPUs, and the bare AEAD on one and on two threads.
fn scaling(world: &std::sync::Arc<World>, arguments: &Arguments) -> Vec<serde_json::Value> {
    // By sockets: the filter engine that the simulator plays would be most of it.
    let pairs = [1, 2].map(|cpus| Pair::boot(world, &arguments.driver, cpus, SOCKETS, false));
    let mut rows = Vec::new();
    println!(
        "\none flow, 1 -> 2 simulated CPUs, beside the bare AEAD on 1 -> 2 threads;\n\
         million packets a second by the clock, the best tenth"
    );
    for size in SIZES {
        let mut rates: [Vec<f64>; 6] = Default::default();
        for _ in 0..arguments.rounds {
            for (index, pair) in pairs.iter().enumerate() {
                let wall = pair.stream(size, STREAM);
                rates[index].push(STREAM as f64 / wall.as_secs_f64() / 1e6);
                rates[2 + index].push(1e3 / per_packet(pair.receive(size).wall));
                rates[4 + index].push(scaling::sealed_a_second(1 + index, size, AEAD) / 1e6);
            }
        }
        let [out1, out2, in1, in2, one, two] = rates.map(undisturbed);
        for (what, first, second) in
            [("1 to 2 CPUs, out", out1, out2), ("1 to 2 CPUs, in", in1, in2)]
        {
            let (ours, theirs) = (second / first, two / one);
            println!(
                "{what:18} {size:5} {first:6.2} -> {second:6.2} = {ours:.2}x; AEAD {one:6.2} -> {two:6.2} = {theirs:.2}x"
            );
            rows.push(row(what, size, "times", ours, "bare AEAD", theirs, ours / theirs));
        }
    }
    for pair in pairs {
        pair.shut_down();
    }
    rows
}

/// What a sample took, and of how many packets.
fn run(way: &Way, pair: &Pair, size: usize) -> (Taken, usize) {
    match (way.inward, way.whole) {
        (true, _) => (pair.receive(size), PACKETS),
        (false, false) => (pair.send(size), PACKETS),
        (false, true) => pair.send_super(size),
    }
}

/// An IPv4 packet as far as boringtun looks at it: all but the first byte.
fn boringtun_rest(size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet.split_off(1)
}

fn row(
    what: &str,
    size: usize,
    unit: &str,
    ours: f64,
    peer: &str,
    theirs: f64,
    ratio: f64,
) -> serde_json::Value {
    let [ours, theirs, ratio] = [ours, theirs, ratio].map(round);
    serde_json::json!({
        "what": what, "size": size, "unit": unit,
        "ours": ours, "peer": peer, "theirs": theirs, "ratio": ratio,
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn per_packet(taken: Duration) -> f64 {
    taken.as_nanos() as f64 / PACKETS as f64
}

/// The rate that one sample in ten reaches: what the clock shows when neighbours leave both CPUs alone.
fn undisturbed(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 9 / 10]
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        driver: root().join("target/driver/penstock.sys"),
        rounds: 150,
        functions: 12,
        only: String::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = |word: Option<String>| {
            word.and_then(|word| word.parse().ok()).unwrap_or_else(|| usage())
        };
        match word.as_str() {
            "--rounds" => arguments.rounds = number(words.next()),
            "--functions" => arguments.functions = number(words.next()),
            "--only" => arguments.only = words.next().unwrap_or_else(|| usage()),
            "--driver" => arguments.driver = words.next().unwrap_or_else(|| usage()).into(),
            _ => usage(),
        }
    }
    arguments
}

fn usage() -> ! {
    eprintln!(
        "usage: scripts/bench.sh datapath [--rounds N] [--functions N] [--only WAY] [--driver PATH]"
    );
    std::process::exit(2)
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned()
}
