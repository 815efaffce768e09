//! What the simulator's own doors cost, in fast and in verified mode: a call of the driver into NT, a callback into the driver,
//! and all of what one packet makes of them, with the checks at each.
//!
//! An import is `KeGetCurrentIrql`, which only reads; a callback is a function that returns. Both are called in a loop, from
//! driver code and into it; packets go as `datapath` sends them. Times are the thread's CPU time, fast and verified in turn.
//!
//! ```text
//! scripts/bench.sh gates [--rounds N]      samples of each (default 41)
//! ```
//!
//! Writes `target/bench/gates.json`.

use std::sync::atomic::{AtomicUsize, Ordering};

use sim::host::polled::Polled;
use sim::nt::machine::{Call, Level, Machine, Options, Power};
use sim::nt::wsk;
use sim::verifier::schedule::{Mode, World};

#[allow(dead_code)] // Some of it is for the data path.
mod pair;
mod results;
#[allow(dead_code)]
mod sample;

use pair::{PACKETS, Pair};
use results::{median, root, write};
use sample::Clock;

/// Calls of a sample.
const CALLS: u64 = 20_000;
const SIZE: usize = 1420;

static IMPORT: AtomicUsize = AtomicUsize::new(0);

extern "win64" fn returns() {}

/// Driver code that calls an import again and again.
extern "win64" fn calls(count: u64) {
    // SAFETY: the gate of a function without arguments.
    let import: extern "win64" fn() -> u8 =
        unsafe { std::mem::transmute(IMPORT.load(Ordering::Relaxed)) };
    for _ in 0..count {
        std::hint::black_box(import());
    }
}

/// ns of one import.
fn import(machine: &Machine) -> f64 {
    let call = Call::new("calls", calls as *const () as usize, Level::Current);
    let clock = Clock::start();
    machine.call(call, &[CALLS]).expect("it only reads");
    clock.elapsed().as_nanos() as f64 / CALLS as f64
}

/// ns of one callback at `level`.
fn callback(machine: &Machine, level: Level) -> f64 {
    let call = Call::new("returns", returns as *const () as usize, level);
    let clock = Clock::start();
    for _ in 0..CALLS {
        machine.call(call, &[]).expect("it does nothing");
    }
    clock.elapsed().as_nanos() as f64 / CALLS as f64
}

fn main() {
    let rounds = rounds();
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    let address = sim::nt::address("ntoskrnl.exe", "KeGetCurrentIrql").expect("it is provided");
    IMPORT.store(address, Ordering::Relaxed);
    // Fast, and verified.
    let modes = [false, true];
    let options = |verified| Options { cpus: 1, verified, ..Options::default() };
    let drawn = |verified| Options { choices: wsk::good_offloads().collect(), ..options(verified) };
    let machines: [Power; 2] = modes.map(|verified| Machine::boot(&world, options(verified)));
    let driver = root().join("target/driver/penstock.sys");
    let pairs = modes.map(|verified| Pair::of(Polled::boot(&world, &drawn(verified), &driver)));
    type Sample<'s> = Box<dyn Fn(usize) -> f64 + 's>;
    let kinds: [(&str, Sample<'_>); 5] = [
        ("import", Box::new(|mode| import(&machines[mode]))),
        ("callback", Box::new(|mode| callback(&machines[mode], Level::Current))),
        ("callback at DISPATCH_LEVEL", Box::new(|mode| callback(&machines[mode], Level::Dispatch))),
        ("packet out, sockets", Box::new(|mode| per_packet(pairs[mode].send(SIZE)))),
        ("packet in, callouts", Box::new(|mode| per_packet(pairs[mode].receive(SIZE)))),
    ];
    println!("medians of {rounds}, ns; {SIZE} bytes a packet\n");
    println!("{:28} {:>8} {:>9} {:>8}", "", "fast", "verified", "ratio");
    let mut rows = Vec::new();
    for (what, sample) in &kinds {
        let mut taken = [Vec::new(), Vec::new()];
        for round in 0..2 * rounds {
            taken[round % 2].push(sample(round % 2));
        }
        let [fast, verified] = taken.map(median);
        println!("{what:28} {fast:8.1} {verified:9.1} {:8.1}", verified / fast);
        rows.push(serde_json::json!({
            "what": what, "size": 0, "unit": "ns", "ours": fast, "peer": "verified mode",
            "theirs": verified, "ratio": verified / fast,
        }));
    }
    write("gates.json", &serde_json::to_string_pretty(&rows).expect("plain values"));
    drop(kinds);
    pairs.into_iter().for_each(Pair::shut_down);
}

fn per_packet(taken: pair::Taken) -> f64 {
    taken.cpu.as_nanos() as f64 / PACKETS as f64
}

fn rounds() -> usize {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let number = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(41),
        ["--rounds", number] => number.parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    number.unwrap_or_else(|| {
        eprintln!("usage: scripts/bench.sh gates [--rounds N]");
        std::process::exit(2)
    })
}
