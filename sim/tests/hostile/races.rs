//! Four CPUs, real threads, no baton: traffic both ways while the configuration changes under it.
//!
//! ```text
//!   alpha ◄═══ pings, bursts of datagrams ═══► beta
//!     ▲ peers replaced, port moved, policy changed, down and up, statistics, a trace and GET, all at once, for three seconds
//! ```
//!
//! Nothing is promised about any one packet: only that nothing stops, nothing hangs and nothing is left, and that
//! afterwards the tunnel works.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::capture::{Answer, BUFFER_MIN, OUTER, RATE_MAX, SNAP_MAX, Start};
use abi::ioctl;
use abi::policy::Policy;
use abi::statistics::{Counter, Statistics};
use sim::host::memory::pair::{PORT, Pair, Station};
use sim::nt::machine::Options;
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::verifier::schedule::{Mode, World};

use crate::{assert_clean, driver, options};

const LASTS: Duration = Duration::from_secs(3);

/// One change of alpha, by its number.
fn change(pair: &Pair, number: u32, key: &[u8; 32]) {
    let alpha = &pair.alpha;
    let stopped = |status: i32| -> () {
        panic!("{status:#x}: {}", sim::host::computer::report(alpha.computer().machine()))
    };
    let done = match number % 10 {
        0 => alpha.configure_interface(key, PORT + (number / 10 % 3) as u16),
        1 | 5 => pair.beta.as_peer().and_then(|peer| alpha.set_peers(&[peer])),
        2 => alpha.tunnel().get().map(drop),
        3 => alpha.tunnel().statistics().map(drop),
        4 => alpha.set_up(false),
        6 => alpha.public_key().map(drop),
        7 => trace(alpha),
        8 => alpha.tunnel().set_policy(&[(Policy::SendEngine, Some(number / 10 % 3))]),
        9 => alpha.tunnel().set_policy(&[(Policy::FastPath, Some(number / 20 % 2))]),
        _ => alpha.set_up(true),
    };
    done.unwrap_or_else(stopped);
}

/// Another program traces, for the length of a read.
fn trace(alpha: &Station) -> Result<(), i32> {
    let start = Start { what: OUTER, snap: SNAP_MAX, buffer: BUFFER_MIN, per_second: RATE_MAX };
    let device = alpha.tunnel().handle().device();
    let process = Process::start("tracer", Token::administrator());
    let handle = alpha.tunnel().machine().open_device(device, &process)?;
    let (status, _) = handle.device_io_control(ioctl::START_CAPTURE, &start.encode(), &mut []);
    assert_eq!(status, 0, "there is no other");
    let mut answer = vec![0; start.answer_len()];
    let (status, read) = handle.device_io_control(ioctl::READ_CAPTURE, &[], &mut answer);
    assert_eq!(status, 0);
    assert!(Answer::parse(&answer[..read as usize]).is_some());
    Ok(())
}

#[test]
fn configuration_changes_under_traffic() {
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    let four = Options { cpus: 4, ..options("four") };
    let pair = Pair::boot(&world, &four, &driver()).unwrap_or_else(|error| panic!("{error}"));
    let key = pair.alpha.private_key().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let ends = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)];
    let threads: Vec<_> = ends
        .into_iter()
        .flat_map(|(from, to)| to.inner().map(|to| (from.endpoint().clone(), to)))
        .map(|(from, to)| {
            let (stop, world) = (stop.clone(), world.clone());
            world.clone().spawn("traffic", move || {
                while !stop.load(Ordering::Relaxed) {
                    for size in 0..24 {
                        from.send_datagram(to, vec![0x5A; size * 50]);
                    }
                    let _ = from.ping(to, 900, Duration::from_millis(20));
                    while from.take_datagram(Duration::ZERO).is_some() {}
                    world.sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    let (began, mut changes) = (Instant::now(), 0);
    while began.elapsed() < LASTS {
        change(&pair, changes, &key);
        changes += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join(Some(world.now() + Duration::from_secs(20)));
    }
    assert!(changes > 16, "{changes} changes");
    pair.alpha.configure_interface(&key, PORT).unwrap();
    pair.alpha.set_up(true).unwrap();
    for to in pair.beta.inner() {
        let works =
            (0..10).any(|_| pair.alpha.endpoint().ping(to, 64, Duration::from_secs(2)).is_some());
        assert!(works, "{to}: no answer after {changes} changes");
    }
    assert_clean(&pair.shut_down().unwrap_or_else(|error| panic!("{error}")));
}

/// What `of` has counted of `counter`.
fn counted(of: &Station, counter: Counter) -> u64 {
    let answer = of.tunnel().statistics().unwrap();
    Statistics::parse(&answer).unwrap().counter(counter)
}

/// Transport data seen on the wire, by receiver index: the greatest counter, and what came after a greater one.
#[derive(Default)]
struct Wire {
    greatest: HashMap<u32, u64>,
    disorder: Vec<(u32, u64, u64)>,
}

impl Wire {
    fn see(&mut self, datagram: &[u8]) {
        let [4, 0, 0, 0, r0, r1, r2, r3, ..] = *datagram else { return };
        let receiver = u32::from_le_bytes([r0, r1, r2, r3]);
        let counter = u64::from_le_bytes(*datagram[8..].first_chunk().unwrap());
        let before = self.greatest.insert(receiver, counter);
        if let Some(before) = before.filter(|before| *before >= counter) {
            self.disorder.push((receiver, before, counter));
        }
    }
}

/// A peer's lanes go from CPU to CPU while several send to it: what waited for a session, and what comes. On the wire each
/// session's counters only grow, and nothing is left.
#[test]
fn lanes_change_hands_and_the_order_holds() {
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    let four = Options { cpus: 4, ..options("four") };
    let pair = Pair::boot(&world, &four, &driver()).unwrap_or_else(|error| panic!("{error}"));
    let wire = Arc::new(Mutex::new(Wire::default()));
    let (tapped, alpha) = (wire.clone(), pair.alpha.outer());
    pair.network.tap(move |seen| {
        if alpha.contains(&seen.from.ip()) {
            tapped.lock().unwrap().see(seen.payload);
        }
    });
    let mut rounds = 0;
    while counted(&pair.alpha, Counter::Handovers) < 3 && rounds < 300 {
        // Without a session, so that packets wait and a worker sends them.
        pair.alpha.set_up(false).unwrap();
        pair.alpha.set_up(true).unwrap();
        for _ in 0..60 {
            for to in pair.beta.inner() {
                pair.alpha.endpoint().send_datagram(to, vec![0xA5; 800]);
            }
            std::thread::yield_now();
        }
        while pair.beta.endpoint().take_datagram(Duration::from_millis(20)).is_some() {}
        rounds += 1;
    }
    let handovers = counted(&pair.alpha, Counter::Handovers);
    assert!(handovers >= 3, "{handovers} in {rounds} rounds");
    for to in pair.beta.inner() {
        let works = pair.alpha.endpoint().ping(to, 64, Duration::from_secs(10)).is_some();
        assert!(works, "{to}: no answer after {handovers} handovers");
    }
    assert_clean(&pair.shut_down().unwrap_or_else(|error| panic!("{error}")));
    let Wire { greatest, disorder } = &*wire.lock().unwrap();
    assert!(greatest.values().any(|counter| *counter > 30), "{greatest:?}");
    assert_eq!(*disorder, [], "after {handovers} handovers in {rounds} rounds");
}
