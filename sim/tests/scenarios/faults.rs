//! One thing breaks while a flow is at full pace on four CPUs: nothing hangs or is left, what arrives is in order, and what does
//! not is counted.
//!
//! ```text
//!            ✂ pool, state save, send, socket, peer, key
//!   ┌───────┐                                            ┌──────┐
//!   │ alpha │ ═══ 0 1 2 3 … numbered, in order ═════════► │ beta │    sent = arrived + discarded
//!   └───────┘                                            └──────┘
//!       └── a CPU stalls 50 ms: idle, in the middle of a chunk, in the middle of a send ──┘
//! ```
//!
//! By the sockets: between them and callouts order is as either hands over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

use abi::discard::Discard;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::computer::report;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::{Machine, Options};
use sim::nt::{dpc, fwp, wsk};

use crate::machines::accounting::Ledger;
use crate::machines::flow::{Ended, Flow, SETTLES, watch_order};
use crate::machines::{self, with_pair_of};

/// How long a CPU stalls: half of what back-pressure waits.
const STALL: Duration = Duration::from_millis(50);
/// What is sent: a batch is worth dealing.
const SIZE: usize = 1000;
/// Where a CPU is in the middle of sealing or opening a chunk.
const IN_A_CHUNK: &str = "KeSaveExtendedProcessorState";
/// Where the owner of a peer's sender is in the middle of a send.
const IN_A_SEND: &str = "WskSendMessages";
/// The first thing that NetAdapterCx's callbacks do; of the receiver's hardly any is another.
const IN_AN_ADVANCE: &str = "WdfObjectGetTypedContextWorker";

fn four() -> Options {
    let policies = [(Policy::FastPath, 0), (Policy::SendEngine, 0)];
    Options { cpus: 4, ..machines::with_policies(&policies) }
}

fn machine(station: &Station) -> &Machine {
    station.computer().machine()
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Has a chunk take time, so that several CPUs are about some at once.
fn take_time(pair: &Pair) {
    for end in [&pair.alpha, &pair.beta] {
        machine(end).faults().slow(IN_A_CHUNK, Duration::from_micros(40));
        machine(end).faults().slow(IN_A_SEND, Duration::from_micros(20));
    }
}

/// Runs `happens` under a flow that has a session, with each of `seeds`; then the flow goes on for a while, and ends. On
/// the wire its counters must be in order, and afterwards both must answer.
fn under_a_flow(
    seeds: RangeInclusive<u64>,
    happens: impl Fn(&Pair, u64),
    judge: impl Fn(&Ended, &str),
) {
    under_a_flow_of(&four(), seeds, happens, judge);
}

/// The same, with machines like `options`.
fn under_a_flow_of(
    options: &Options,
    seeds: RangeInclusive<u64>,
    happens: impl Fn(&Pair, u64),
    judge: impl Fn(&Ended, &str),
) {
    for seed in seeds {
        let why = format!("seed {seed}");
        with_pair_of(seed, options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            take_time(pair);
            let disorder = watch_order(&pair.network);
            let flow = Flow::start(pair, SIZE);
            pair.world.sleep(milliseconds(10));
            happens(pair, seed);
            let before = Ledger::of(&pair.beta).counter(Counter::PacketsIn);
            pair.world.sleep(milliseconds(30));
            let ended = flow.end();
            let beta = &ended.after[1];
            assert!(beta.counter(Counter::PacketsIn) > before + 1000, "{why}: it goes on\n{beta}");
            judge(&ended, &why);
            assert_eq!(*disorder.lock().unwrap(), 0, "{why}: counters out of order on the wire");
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
}

fn in_order_and_accounted(ended: &Ended, why: &str) {
    ended.assert_in_order(why);
    ended.assert_accounted(why);
}

/// Has one of the ends, whose session is gone, begin another, and waits until packets arrive again.
fn begin_anew(pair: &Pair, end: usize) {
    // Alpha has something to say; of it beta cannot know that its own was lost.
    if end == 1 {
        machines::ping(&pair.beta, &pair.alpha);
    }
    let arrived = || Ledger::of(&pair.beta).counter(Counter::PacketsIn);
    let (before, deadline) = (arrived(), pair.world.now() + milliseconds(100));
    while arrived() == before {
        assert!(pair.world.now() < deadline, "nothing comes\n{}", Ledger::of(&pair.alpha));
        pair.world.sleep(milliseconds(1));
    }
}

/// Waits until `machine` stands still in a call of `function`, does `body`, and lets it go on when its time is over.
fn while_stalled(
    pair: &Pair,
    machine: &Machine,
    function: &'static str,
    seed: u64,
    body: impl FnOnce(),
) {
    let before = machine.faults().stalled();
    // Each seed another call, and so maybe another CPU.
    machine.faults().stall(function, seed, STALL);
    let deadline = pair.world.now() + milliseconds(100);
    while machine.faults().stalled() == before {
        assert!(pair.world.now() < deadline, "nobody calls {function}");
        pair.world.sleep(Duration::from_micros(20));
    }
    body();
    pair.world.sleep(STALL);
}

#[test]
fn a_cpu_that_stands_still_delays_and_loses_nothing_on_its_way_out() {
    for number in 0..4 {
        under_a_flow(
            number..=number,
            |pair, _| {
                machine(&pair.alpha).keep_cpu(number as u32, STALL);
                pair.world.sleep(STALL);
            },
            |ended, why| ended.assert_all_arrived(why),
        );
    }
    for function in [IN_A_CHUNK, IN_A_SEND] {
        under_a_flow(
            1..=3,
            |pair, seed| while_stalled(pair, machine(&pair.alpha), function, seed, || {}),
            |ended, why| ended.assert_all_arrived(&format!("{why}, in {function}")),
        );
    }
}

#[test]
fn a_cpu_that_stands_still_on_the_way_in_keeps_the_order() {
    for number in 0..4 {
        under_a_flow(
            number..=number,
            |pair, _| {
                machine(&pair.beta).keep_cpu(number as u32, STALL);
                pair.world.sleep(STALL);
            },
            in_order_and_accounted,
        );
    }
    under_a_flow(
        1..=3,
        |pair, seed| while_stalled(pair, machine(&pair.beta), IN_A_CHUNK, seed, || {}),
        in_order_and_accounted,
    );
}

/// Inbound there is nobody to say stop to: of what other CPUs open behind the chunk of the one that stands still only so much is
/// kept (`HeldFull`), if so much comes meanwhile. Callouts take it: what they are shown comes on several CPUs.
#[test]
fn a_cpu_that_stands_still_under_callouts_loses_nothing_uncounted() {
    under_a_flow_of(
        &Options { cpus: 4, ..machines::with_policies(&[(Policy::FastPath, 1)]) },
        1..=4,
        |pair, seed| {
            // So that it is not the network that stands still with the CPU.
            dpc::keep_busy(machine(&pair.beta), milliseconds(1));
            while_stalled(pair, machine(&pair.beta), IN_A_CHUNK, seed, || {});
        },
        |ended, why| ended.assert_accounted(why),
    );
}

/// The same where it comes to that: the network card gives the flow to one CPU, whose callouts take all of it, and another one
/// stands still with a chunk that it was dealt.
#[test]
fn what_the_others_keep_behind_a_cpu_that_stands_still_is_bounded() {
    const CALLS: u64 = 48;
    const NO_BOUND: u32 = 65_536;
    let policies =
        [(Policy::FastPath, 1), (Policy::HeldPerCpu, NO_BOUND), (Policy::HeldPerPeer, NO_BOUND)];
    under_a_flow_of(
        &Options { cpus: 4, ..machines::with_policies(&policies) },
        1..=3,
        |pair, seed| {
            let beta = machine(&pair.beta);
            fwp::receive_on(beta, 0);
            // What comes meanwhile comes together, so that there is something to deal.
            dpc::keep_busy(beta, milliseconds(1));
            let full = || Ledger::of(&pair.beta).discarded(Discard::HeldFull);
            // Which CPU makes a call is the scheduler's choice.
            for call in 0..CALLS {
                if full() == 0 {
                    while_stalled(pair, beta, IN_A_CHUNK, seed + call, || {});
                }
            }
        },
        |ended, why| {
            ended.assert_accounted(why);
            assert!(ended.more(1, Discard::HeldFull) > 0, "{why}\n{}", ended.after[1]);
        },
    );
}

#[test]
fn state_that_cannot_be_saved_is_done_without() {
    under_a_flow(
        1..=3,
        |pair, _| {
            for _ in 0..20 {
                for end in [&pair.alpha, &pair.beta] {
                    machine(end).faults().refuse(IN_A_CHUNK);
                    pair.world.sleep(milliseconds(1));
                    machine(end).faults().never();
                }
            }
        },
        Ended::assert_all_arrived,
    );
}

#[test]
fn without_pool_packets_are_discarded_and_counted() {
    for end in [0, 1] {
        under_a_flow(
            1..=3,
            |pair, _| {
                let machine = machine([&pair.alpha, &pair.beta][end]);
                for _ in 0..10 {
                    machine.faults().refuse("ExAllocatePool2");
                    pair.world.sleep(milliseconds(2));
                    machine.faults().never();
                    pair.world.sleep(milliseconds(2));
                }
            },
            |ended, why| {
                in_order_and_accounted(ended, why);
                let reason = [Discard::NoMemory, Discard::OutOfMemory][end];
                assert!(ended.more(end, reason) > 500, "{why}\n{}", ended.after[end]);
            },
        );
    }
}

#[test]
fn sends_that_fail_are_counted() {
    under_a_flow(
        1..=3,
        |pair, _| {
            for _ in 0..10 {
                machine(&pair.alpha).faults().refuse("WskSendTo or WskSendMessages");
                pair.world.sleep(milliseconds(2));
                machine(&pair.alpha).faults().never();
                pair.world.sleep(milliseconds(2));
            }
        },
        |ended, why| {
            in_order_and_accounted(ended, why);
            assert!(ended.more(0, Discard::SendFailed) > 500, "{why}\n{}", ended.after[0]);
        },
    );
}

#[test]
fn datagrams_that_cannot_be_mapped_are_counted() {
    under_a_flow(
        1..=3,
        |pair, _| {
            for _ in 0..10 {
                machine(&pair.beta).faults().refuse("MmMapLockedPagesSpecifyCache");
                pair.world.sleep(milliseconds(2));
                machine(&pair.beta).faults().never();
                pair.world.sleep(milliseconds(2));
            }
        },
        |ended, why| {
            in_order_and_accounted(ended, why);
            assert!(ended.more(1, Discard::Unmapped) > 0, "{why}\n{}", ended.after[1]);
        },
    );
}

/// The CPU that gives the stack what was opened stands still, and the others open more than may wait for it.
#[test]
fn what_waits_for_the_receive_ring_is_bounded() {
    under_a_flow(
        1..=3,
        |pair, _| {
            machine(&pair.beta).faults().stall(IN_AN_ADVANCE, 0, milliseconds(100));
            pair.world.sleep(milliseconds(110));
        },
        |ended, why| {
            in_order_and_accounted(ended, why);
            assert!(ended.more(1, Discard::RingFull) > 0, "{why}\n{}", ended.after[1]);
        },
    );
}

/// The same, and the queue ends meanwhile.
#[test]
fn what_waits_for_a_receive_ring_that_ends_is_counted() {
    under_a_flow(
        1..=3,
        |pair, _| {
            machine(&pair.beta).faults().stall(IN_AN_ADVANCE, 0, STALL);
            pair.world.sleep(STALL / 2);
            let beta = pair.beta.computer().machine();
            let restarted = pair.beta.tunnel().adapter().pause_and_restart(beta);
            assert!(restarted.is_ok(), "{}", report(beta));
        },
        |ended, why| {
            // What is in the ring already, NetAdapterCx does not give to a stack that pauses, and counts itself.
            ended.assert_in_order(why);
            assert!(ended.more(1, Discard::NotUp) > 0, "{why}\n{}", ended.after[1]);
        },
    );
}

/// What ends sends that never complete, but for their sockets' end nothing does.
fn ends(pair: &Pair, way: usize) {
    let alpha = &pair.alpha;
    match way {
        0 => {
            alpha.set_up(false).unwrap();
            alpha.set_up(true).unwrap();
        }
        1 => machines::set_port(alpha, 4501),
        2 => wsk::lose_transport(machine(alpha)),
        _ => {
            for engine in [1, 0] {
                alpha.tunnel().set_policy(&[(Policy::SendEngine, Some(engine))]).unwrap();
            }
            machines::set_port(alpha, 4502);
        }
    }
}

#[test]
fn sends_that_never_complete_end_with_their_socket() {
    for way in 0..4 {
        under_a_flow(
            1..=2,
            |pair, _| {
                wsk::keep_sends(machine(&pair.alpha), Some(pair.beta.outer()[0]));
                pair.world.sleep(milliseconds(300));
                wsk::keep_sends(machine(&pair.alpha), None);
                ends(pair, way);
            },
            |ended, why| {
                let (why, alpha) = (format!("{why}, way {way}"), &ended.after[0]);
                ended.assert_accounted(&why);
                assert!(ended.more(0, Discard::SendFailed) > 1000, "{why}\n{alpha}");
            },
        );
    }
}

#[test]
fn sockets_die_at_full_pace() {
    for end in [0, 1] {
        under_a_flow(
            1..=3,
            |pair, _| {
                for _ in 0..5 {
                    wsk::lose_transport(machine([&pair.alpha, &pair.beta][end]));
                    pair.world.sleep(milliseconds(10));
                }
            },
            |ended, why| {
                // What comes to a port that is closed is nobody's.
                let closed = ended.unheard();
                assert_eq!(closed > 0, end == 1, "{why}\n{}", ended.after[1]);
                in_order_and_accounted(ended, why);
                let alpha = &ended.after[0];
                let lost = ended.more(0, Discard::NoSocket)
                    + ended.more(0, Discard::AdapterDown)
                    + ended.more(0, Discard::SendFailed);
                assert_eq!(lost > 0, end == 0, "{why}\n{alpha}");
            },
        );
    }
}

/// Others cannot be opened for a while: they are when they can.
#[test]
fn sockets_that_cannot_be_opened_anew_are_tried_again() {
    under_a_flow(
        1..=3,
        |pair, _| {
            let alpha = machine(&pair.alpha);
            alpha.faults().refuse("WskSocket");
            wsk::lose_transport(alpha);
            pair.world.sleep(milliseconds(50));
            alpha.faults().never();
            // It is tried every second.
            pair.world.sleep(milliseconds(970));
        },
        |ended, why| {
            in_order_and_accounted(ended, why);
            assert!(ended.more(0, Discard::AdapterDown) > 1000, "{why}\n{}", ended.after[0]);
        },
    );
}

#[test]
fn a_peer_goes_in_the_middle_of_a_chunk() {
    for (end, function, reason) in [
        (0, IN_A_CHUNK, Discard::PeerRemoved),
        (0, IN_A_SEND, Discard::PeerRemoved),
        (1, IN_A_CHUNK, Discard::PeerGone),
    ] {
        let gone = Cell::new(0);
        under_a_flow(
            1..=3,
            |pair, seed| {
                let ends = [&pair.alpha, &pair.beta];
                let other = ends[1 - end].as_peer().unwrap();
                while_stalled(pair, machine(ends[end]), function, seed, || {
                    machines::remove_peer(ends[end], &other.public_key);
                });
                ends[end].set_peers(&[other]).unwrap();
                begin_anew(pair, end);
            },
            |ended, why| {
                // What waited for a session may be overtaken by what comes when there is one.
                ended.assert_accounted(&format!("{why}, {function}"));
                gone.set(gone.get() + ended.more(end, reason));
            },
        );
        assert!(gone.get() > 0, "{function}: none of what was under way");
    }
}

#[test]
fn an_adapter_goes_down_in_the_middle_of_a_chunk() {
    for (end, function) in [(0, IN_A_CHUNK), (0, IN_A_SEND), (1, IN_A_CHUNK)] {
        under_a_flow(
            1..=3,
            |pair, seed| {
                let station = [&pair.alpha, &pair.beta][end];
                while_stalled(pair, machine(station), function, seed, || {
                    station.set_up(false).unwrap();
                });
                station.set_up(true).unwrap();
                begin_anew(pair, end);
            },
            |ended, why| {
                ended.assert_accounted(&format!("{why}, {function}"));
            },
        );
    }
}

/// Nobody has sent anything for so long that the key expires while a CPU is about the first chunk.
#[test]
fn a_key_expires_in_the_middle_of_a_chunk() {
    let mut expired = 0;
    for (seed, end, function) in [
        (1, 0, IN_A_CHUNK),
        (2, 0, IN_A_SEND),
        (3, 1, IN_A_CHUNK),
        (4, 0, IN_A_CHUNK),
        (5, 0, IN_A_SEND),
    ] {
        with_pair_of(seed, &four(), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            take_time(pair);
            let why = format!("seed {seed}, {function}");
            pair.world.sleep(Duration::from_secs(180) - milliseconds(20) - SETTLES);
            let disorder = watch_order(&pair.network);
            let flow = Flow::start(pair, SIZE);
            let ends = [&pair.alpha, &pair.beta];
            while_stalled(pair, machine(ends[end]), function, seed, || {});
            pair.world.sleep(milliseconds(30));
            let ended = flow.end();
            ended.assert_accounted(&why);
            assert_eq!(*disorder.lock().unwrap(), 0, "{why}");
            expired += ended.more(1, Discard::SessionExpired);
            let handshakes = ended.after[0].counter(Counter::HandshakesOut);
            assert_eq!(handshakes, 2, "{why}: a new session\n{}", ended.after[0]);
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
    assert!(expired > 0);
}

/// The key is renewed after 120 s of a flow that has just begun to run at full pace.
#[test]
fn a_rekey_at_full_pace_loses_nothing() {
    for seed in 1..=4 {
        with_pair_of(seed, &four(), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            take_time(pair);
            pair.world.sleep(Duration::from_secs(120) - milliseconds(20) - SETTLES);
            let disorder = watch_order(&pair.network);
            let flow = Flow::start(pair, SIZE);
            pair.world.sleep(milliseconds(60));
            let ended = flow.end();
            ended.assert_all_arrived(&format!("seed {seed}"));
            assert_eq!(*disorder.lock().unwrap(), 0, "seed {seed}");
            let alpha = &ended.after[0];
            assert_eq!(alpha.counter(Counter::HandshakesOut), 2, "seed {seed}\n{alpha}");
        });
    }
}
