//! Datagrams that cross the sockets several as one: the stack cuts them apart, or says that it will not; and puts others
//! together, which the driver cuts apart.
//!
//! ```text
//!   packets ──► run, back to back ──► one buffer, "1032 bytes each" ──► WSK cuts ──► datagrams on the wire
//!                                     └─ refused: the same run again, one by one                 │
//!   packets ◄── opened where they lie ◄── cut apart ◄── one indication, "1032 bytes each" ◄── WSK puts together
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::nt::wsk;
use sim::verifier::schedule::JoinHandle;

use crate::machines::accounting::Ledger;
use crate::machines::{self, Load, with_pair_of};

/// Packets of a burst.
const BURST: u16 = 300;
/// What refuses sends that are to be cut apart, as faults are injected by.
const OPTION: &str = "UDP_SEND_MSG_SIZE";

/// Machines with these values, whose stack is good but for `unlike`.
fn options(values: &[(Policy, u32)], unlike: Option<&str>) -> Options {
    let mut options = machines::with_policies(values);
    options.parameters.retain(|name, _| values.iter().any(|(policy, _)| policy.name() == name));
    // By two paths order is as either hands over.
    options.parameters.insert(Policy::FastPath.name().to_owned(), 0);
    if let Some(unlike) = unlike {
        options.choices.insert(unlike.to_owned(), true);
    }
    options
}

fn segmenting(unlike: Option<&str>) -> Options {
    options(&[(Policy::OuterSegmentation, 1)], unlike)
}

/// Bytes of the data of packet `number`: all alike, or of lengths that follow each other like those of two flows.
fn size(number: u16, mixed: bool) -> usize {
    match number % 7 {
        2 | 5 if mixed => 300,
        6 if mixed => 40,
        _ => 1000,
    }
}

/// Sends numbered packets from alpha to beta as fast as the ring takes them; each must arrive, whole, and in order but for
/// `overtaken`.
fn burst(pair: &Pair, mixed: bool, overtaken: bool, why: &str) {
    let [from, to] = [&pair.alpha, &pair.beta];
    for number in 0..BURST {
        let mut data = vec![number as u8; size(number, mixed)];
        data[..2].copy_from_slice(&number.to_be_bytes());
        while !from.endpoint().send_datagram(to.inner()[0], data.clone()) {
            pair.world.sleep(Duration::from_micros(50));
        }
    }
    let mut numbers: Vec<u16> = Vec::new();
    for _ in 0..BURST {
        let (_, data) = to.endpoint().take_datagram(machines::PATIENCE).unwrap();
        let number = u16::from_be_bytes(*data.first_chunk().unwrap());
        assert_eq!(data.len(), size(number, mixed), "{why}");
        assert!(data[2..].iter().all(|byte| *byte == number as u8), "{why}");
        numbers.push(number);
    }
    if overtaken {
        numbers.sort_unstable();
    }
    assert!(numbers.iter().copied().eq(0..BURST), "{why}: {numbers:?}");
    pair.world.sleep(Duration::from_millis(50));
}

/// Datagrams that alpha's driver sent several as one, as how many, and how often it gave up.
fn counted(station: &Station) -> [u64; 3] {
    let ledger = Ledger::of(station);
    [Counter::SegmentedOut, Counter::SegmentedSends, Counter::SegmentationRefused]
        .map(|counter| ledger.counter(counter))
}

/// What the stack says it was.
fn cut_apart(station: &Station) -> [u64; 2] {
    let [sends, datagrams] = wsk::segmented(station.computer().machine());
    [datagrams, sends]
}

/// Datagrams that came to a station several as one, and as how many: as its driver says, and its stack.
fn came_as_one(station: &Station) -> [[u64; 2]; 2] {
    let ledger = Ledger::of(station);
    let driver = [Counter::CoalescedIn, Counter::CoalescedIndications];
    let [indications, datagrams] = wsk::coalesced(station.computer().machine());
    [driver.map(|counter| ledger.counter(counter)), [datagrams, indications]]
}

fn said(station: &Station, text: &str) -> usize {
    let lines = station.computer().machine().prints();
    lines.iter().filter(|line| line.contains(text)).count()
}

/// Nothing that came to a driver was discarded, and one handshake did.
fn nothing_lost(pair: &Pair, why: &str) {
    for station in [&pair.alpha, &pair.beta] {
        let ledger = Ledger::of(station);
        for direction in [Direction::Outbound, Direction::Inbound] {
            assert_eq!(ledger.discards(direction), 0, "{why}\n{ledger}");
        }
        assert_eq!(ledger.counter(Counter::HandshakesOut), 1, "{why}\n{ledger}");
    }
}

/// What one gave its driver the other was given by its own, both ways.
fn everything_arrived(pair: &Pair, why: &str) {
    let [one, other] = [&pair.alpha, &pair.beta].map(Ledger::of);
    for (one, other) in [(&one, &other), (&other, &one)] {
        let (sent, got) = (Counter::PacketsOut, Counter::PacketsIn);
        assert_eq!(one.counter(sent), other.counter(got), "{why}\n{one}\n{other}");
    }
}

#[test]
fn datagrams_of_one_length_leave_as_one() {
    for (seed, outer, mixed) in [(1, 0, false), (2, 0, true), (3, 1, false), (4, 1, true)] {
        with_pair_of(seed, &segmenting(None), |pair| {
            let why = format!("seed {seed}, family {outer}, mixed {mixed}");
            let mut peer = pair.beta.as_peer().unwrap();
            peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[outer], pair.beta.port()));
            pair.alpha.set_peers(&[peer]).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            burst(pair, mixed, false, &why);
            let [datagrams, sends, refused] = counted(&pair.alpha);
            assert_eq!([datagrams, sends], cut_apart(&pair.alpha), "{why}: as the stack says");
            assert_eq!(refused, 0, "{why}");
            assert!(datagrams > u64::from(BURST) / 2, "{why}: {datagrams} in {sends}");
            let each = if mixed { 2 } else { 4 };
            assert!(sends > 0 && datagrams >= each * sends, "{why}: {datagrams} in {sends}");
            nothing_lost(pair, &why);
        });
    }
}

#[test]
fn nothing_is_joined_that_is_to_be_injected_or_if_nobody_asked() {
    for (engine, segmentation) in [(0, 0), (1, 1), (2, 1)] {
        let values = [(Policy::SendEngine, engine), (Policy::OuterSegmentation, segmentation)];
        with_pair_of(5, &options(&values, None), |pair| {
            let why = format!("SendEngine {engine}, OuterSegmentation {segmentation}");
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.alpha, &pair.beta);
            burst(pair, false, false, &why);
            assert_eq!(counted(&pair.alpha), [0; 3], "{why}");
            let injected = Ledger::of(&pair.alpha).counter(Counter::InjectedOut);
            assert_eq!(injected >= u64::from(BURST), engine != 0, "{why}: {injected}");
            nothing_lost(pair, &why);
        });
    }
}

#[test]
fn a_stack_that_does_not_know_it_is_not_asked_to() {
    with_pair_of(6, &segmenting(Some("SEND_SEGMENTATION_IS_MISSING")), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        burst(pair, false, false, "missing");
        assert_eq!(counted(&pair.alpha), [0; 3]);
        nothing_lost(pair, "missing");
    });
}

#[test]
fn a_stack_that_refuses_it_after_all_loses_nothing() {
    for (seed, unlike, mixed) in [
        (7, "SEGMENTED_SENDS_ARE_REFUSED", false),
        (8, "SEGMENTED_SENDS_ARE_REFUSED", true),
        (9, "SEGMENTED_LISTS_ARE_REFUSED", true),
    ] {
        with_pair_of(seed, &segmenting(Some(unlike)), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            for round in 0..2 {
                burst(pair, mixed, round == 0, unlike);
                let [datagrams, sends, refused] = counted(&pair.alpha);
                assert_eq!([datagrams, sends], cut_apart(&pair.alpha), "{unlike}");
                assert_eq!(refused, 1, "{unlike}, round {round}: once, and never again");
            }
            assert_eq!(said(&pair.alpha, "IPv4 does not cut apart what it is sent"), 1, "{unlike}");
            nothing_lost(pair, unlike);
        });
    }
}

#[test]
fn a_stack_that_refuses_it_under_load_loses_nothing() {
    for seed in 10..13 {
        with_pair_of(seed, &segmenting(None), |pair| {
            let why = format!("seed {seed}");
            machines::ping(&pair.alpha, &pair.beta);
            burst(pair, false, false, &why);
            let before = counted(&pair.alpha);
            assert!(before[0] > 0 && before[2] == 0, "{why}: {before:?}");
            let faults = pair.alpha.computer().machine().faults();
            faults.refuse(OPTION);
            // Several runs are out when the first is refused.
            wsk::hold_sends(pair.alpha.computer().machine(), true);
            let to = pair.beta.inner()[0];
            for _ in 0..200 {
                assert!(pair.alpha.endpoint().send_datagram(to, vec![9; 1000]), "{why}");
            }
            pair.world.sleep(Duration::from_millis(5));
            wsk::hold_sends(pair.alpha.computer().machine(), false);
            for _ in 0..200 {
                assert!(pair.beta.endpoint().take_datagram(machines::PATIENCE).is_some(), "{why}");
            }
            faults.never();
            burst(pair, false, false, &why);
            assert_eq!(counted(&pair.alpha), [before[0], before[1], 1], "{why}");
            nothing_lost(pair, &why);
        });
    }
}

/// A source that is no longer ours fails a send with the same status. That says nothing about segments.
#[test]
fn a_send_that_fails_for_another_reason_changes_nothing() {
    with_pair_of(14, &segmenting(None), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        burst(pair, false, false, "before");
        let before = counted(&pair.alpha);
        let tables = pair.alpha.host().clone();
        let mut kept = Vec::new();
        tables.change(|tables| {
            for interface in &mut tables.interfaces {
                let own = pair.alpha.outer();
                let (gone, left) = std::mem::take(&mut interface.addresses)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(address, _)| own.contains(address));
                kept.extend(gone.iter().map(|address| (interface.index, *address)));
                interface.addresses = left;
            }
        });
        for _ in 0..64 {
            assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![3; 1000]));
        }
        pair.world.sleep(Duration::from_millis(50));
        tables.change(|tables| {
            for (index, address) in &kept {
                let interface = tables.interfaces.iter_mut().find(|one| one.index == *index);
                interface.unwrap().addresses.push(*address);
            }
        });
        let ledger = Ledger::of(&pair.alpha);
        assert!(ledger.discarded(Discard::SendFailed) > 0, "the source was still there\n{ledger}");
        pair.world.sleep(Duration::from_secs(1));
        while pair.beta.endpoint().take_datagram(Duration::from_millis(10)).is_some() {}
        burst(pair, false, false, "after");
        let after = counted(&pair.alpha);
        assert!(after[0] > before[0] + u64::from(BURST) / 2, "{before:?}, {after:?}");
        assert_eq!(after[2], 0);
    });
}

/// Bursts from alpha to beta, for as long as the flag is not set.
fn bursts(pair: &Pair) -> (Arc<AtomicBool>, JoinHandle) {
    let stop = Arc::new(AtomicBool::new(false));
    let (endpoint, to, clock) =
        (pair.alpha.endpoint().clone(), pair.beta.inner()[0], pair.world.clone());
    let ended = stop.clone();
    let actor = pair.world.spawn("bursts", move || {
        while !ended.load(Ordering::Acquire) {
            for _ in 0..8 {
                endpoint.send_datagram(to, vec![0x5A; 900]);
            }
            clock.sleep(Duration::from_micros(100));
        }
    });
    (stop, actor)
}

/// Runs that were laid out for one way out meet the other while filters are exchanged.
#[test]
fn policy_changes_under_load_and_nothing_is_lost() {
    for seed in 15..18 {
        let mut options = options(&[(Policy::OuterSegmentation, 1)], None);
        options.parameters.insert(Policy::FastPath.name().to_owned(), seed % 2);
        with_pair_of(seed.into(), &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            let (stop, actor) = bursts(pair);
            let back = Duration::from_micros(300);
            let load = Load::start(&pair.world, &pair.beta, pair.alpha.inner()[0], 900, back);
            for (engine, segmentation, grows) in [
                (0, 1, true),
                (0, 0, false),
                (1, 1, false),
                (0, 1, true),
                (2, 1, false),
                (0, 1, true),
            ] {
                let why = format!("seed {seed}, SendEngine {engine}, {segmentation}");
                for station in [&pair.alpha, &pair.beta] {
                    let values = [
                        (Policy::SendEngine, Some(engine)),
                        (Policy::OuterSegmentation, Some(segmentation)),
                    ];
                    station.tunnel().set_policy(&values).unwrap();
                }
                pair.world.sleep(Duration::from_millis(10));
                let before = counted(&pair.alpha)[0];
                // What comes at once shares a run.
                let to = pair.beta.inner()[0];
                for _ in 0..100 {
                    while !pair.alpha.endpoint().send_datagram(to, vec![4; 700]) {
                        pair.world.sleep(Duration::from_micros(50));
                    }
                }
                pair.world.sleep(Duration::from_millis(30));
                let after = counted(&pair.alpha)[0];
                assert_eq!(after > before, grows, "{why}: {before}, {after}");
            }
            stop.store(true, Ordering::Release);
            actor.join(None);
            drop(load);
            pair.world.sleep(Duration::from_secs(1));
            nothing_lost(pair, &format!("seed {seed}"));
            everything_arrived(pair, &format!("seed {seed}"));
        });
    }
}

/// Sends are out, some of them refused, and the sockets close: every datagram is counted once, as it ends.
#[test]
fn an_adapter_goes_while_sends_are_out() {
    for (seed, unlike) in [(18, None), (19, Some("SEGMENTED_SENDS_ARE_REFUSED")), (20, None)] {
        with_pair_of(seed, &segmenting(unlike), |pair| {
            for round in 0..10 {
                machines::ping(&pair.alpha, &pair.beta);
                let to = pair.beta.inner()[0];
                for _ in 0..100 {
                    if !pair.alpha.endpoint().send_datagram(to, vec![8; 1000]) {
                        break;
                    }
                }
                pair.world.sleep(Duration::from_micros(30 * round));
                pair.alpha.set_up(false).unwrap();
                pair.alpha.set_up(true).unwrap();
            }
            let [datagrams, sends, refused] = counted(&pair.alpha);
            assert_eq!([datagrams, sends], cut_apart(&pair.alpha), "seed {seed}");
            assert_eq!(refused > 0, unlike.is_some(), "seed {seed}");
        });
    }
}

fn coalescing(unlike: Option<&str>) -> Options {
    options(&[(Policy::OuterCoalescing, 1)], unlike)
}

#[test]
fn datagrams_that_come_as_one_are_cut_apart() {
    for (seed, outer, mixed) in [(21, 0, false), (22, 0, true), (23, 1, false), (24, 1, true)] {
        with_pair_of(seed, &coalescing(None), |pair| {
            let why = format!("seed {seed}, family {outer}, mixed {mixed}");
            let mut peer = pair.beta.as_peer().unwrap();
            peer.endpoint = Some(SocketAddr::new(pair.beta.outer()[outer], pair.beta.port()));
            pair.alpha.set_peers(&[peer]).unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            for _ in 0..3 {
                burst(pair, mixed, false, &why);
            }
            let [driver, stack] = came_as_one(&pair.beta);
            assert_eq!(driver, stack, "{why}");
            let [datagrams, indications] = driver;
            assert!(datagrams > u64::from(BURST) / 2, "{why}: {datagrams} in {indications}");
            assert!(indications > 0 && datagrams >= 2 * indications, "{why}: {indications}");
            assert_eq!(Ledger::of(&pair.beta).counter(Counter::CoalescingDistrusted), 0, "{why}");
            nothing_lost(pair, &why);
        });
    }
}

/// Whether a datagram that came alone says its length nobody knows.
#[test]
fn what_came_alone_may_say_so() {
    for says in [false, true] {
        let mut options = coalescing(None);
        options.choices.insert("LONE_DATAGRAMS_SAY_THEIR_LENGTH".to_owned(), says);
        with_pair_of(25, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            burst(pair, true, false, "alone");
            assert_eq!(came_as_one(&pair.beta)[0], came_as_one(&pair.beta)[1], "{says}");
            nothing_lost(pair, "alone");
        });
    }
}

#[test]
fn a_stack_that_puts_nothing_together_is_said_and_used_as_it_is() {
    with_pair_of(26, &coalescing(Some("RECEIVE_COALESCING_IS_MISSING")), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        burst(pair, false, false, "missing");
        assert_eq!(came_as_one(&pair.beta), [[0; 2]; 2]);
        assert_eq!(said(&pair.beta, "datagrams come one by one"), 1);
        nothing_lost(pair, "missing");
    });
    with_pair_of(27, &options(&[], None), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        burst(pair, false, false, "nobody asked");
        assert_eq!(came_as_one(&pair.beta), [[0; 2]; 2]);
        nothing_lost(pair, "nobody asked");
    });
}

#[test]
fn coalescing_comes_and_goes_under_load() {
    for seed in 28..31 {
        with_pair_of(seed, &options(&[], None), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            for (wanted, segments) in [(1, 0), (0, 1), (1, 1), (0, 0), (1, 0)] {
                let why = format!("seed {seed}, OuterCoalescing {wanted}, segments {segments}");
                let load = Load::start(
                    &pair.world,
                    &pair.beta,
                    pair.alpha.inner()[0],
                    900,
                    Duration::from_micros(150),
                );
                for station in [&pair.alpha, &pair.beta] {
                    let values = [
                        (Policy::OuterCoalescing, Some(wanted)),
                        (Policy::OuterSegmentation, Some(segments)),
                    ];
                    station.tunnel().set_policy(&values).unwrap();
                }
                let before = came_as_one(&pair.beta)[0][0];
                burst(pair, false, false, &why);
                drop(load);
                pair.world.sleep(Duration::from_millis(20));
                let after = came_as_one(&pair.beta)[0][0];
                assert_eq!(after > before, wanted == 1, "{why}: {before}, {after}");
            }
            nothing_lost(pair, &format!("seed {seed}"));
            everything_arrived(pair, &format!("seed {seed}"));
        });
    }
}

/// The callouts take most of it; what they let pass may still come as one.
#[test]
fn callouts_before_the_sockets_change_nothing() {
    let mut options = options(&[(Policy::OuterCoalescing, 1), (Policy::HeldPerCpu, 0)], None);
    options.parameters.insert(Policy::FastPath.name().to_owned(), 1);
    with_pair_of(31, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        burst(pair, false, true, "callouts");
        let [driver, stack] = came_as_one(&pair.beta);
        assert_eq!(driver, stack);
        assert!(driver[0] > 0, "{driver:?}");
        let ledger = Ledger::of(&pair.beta);
        assert!(ledger.counter(Counter::PermittedCpuFull) > 0, "{ledger}");
        nothing_lost(pair, "callouts");
    });
}

#[test]
fn an_adapter_goes_while_datagrams_come_as_one() {
    for seed in 32..35 {
        with_pair_of(seed, &coalescing(None), |pair| {
            for round in 0..10 {
                machines::ping(&pair.alpha, &pair.beta);
                let to = pair.beta.inner()[0];
                for _ in 0..100 {
                    if !pair.alpha.endpoint().send_datagram(to, vec![8; 1000]) {
                        break;
                    }
                }
                pair.world.sleep(Duration::from_micros(480 + 40 * round));
                pair.beta.set_up(false).unwrap();
                pair.beta.set_up(true).unwrap();
                // Alpha does not know yet that beta forgot its session.
                machines::ping(&pair.beta, &pair.alpha);
            }
            let [driver, stack] = came_as_one(&pair.beta);
            assert!(driver[0] > 0 && driver[0] <= stack[0], "seed {seed}: {driver:?}, {stack:?}");
        });
    }
}
