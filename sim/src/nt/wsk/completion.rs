//! When, where and at which IRQL an IRP given to WSK is completed.
//!
//! Fast mode completes inline. Verified mode draws for each call: inline, soon on another thread,
//! or up to two milliseconds later; and for the latter two, PASSIVE or DISPATCH. One thread per
//! machine carries out what is late, in the order it falls due. Between the call and the completion
//! the IRP must not be touched by the driver: it is compared.
//!
//! Source: WDD network/using-irps-with-winsock-kernel-functions.

use std::sync::Mutex;
use std::time::Duration;

use super::send;
use super::{Wsk, answer};
use crate::loader::probe;
use crate::nt::io;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::thread::{Level, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// What a finished request puts into its IRP: status and information.
pub(super) type Done = (i32, usize);

/// What is left to do for a request: called until it gives an answer.
pub(super) type Work = Box<dyn FnMut(&Thread) -> Option<Done> + Send>;

/// The latest a completion is delayed.
const LATEST_US: u64 = 2000;
/// How long work that is not ready waits for its next try.
const RETRY: Duration = Duration::from_micros(200);
/// The same while the network keeps what it is given ([`send::hold_sends`], [`send::keep_sends`]).
const RETRY_HELD: Duration = Duration::from_millis(5);
/// The part of an IRP that belongs to WSK until completion: all of it but the list entry and the
/// stack location, which the I/O manager walks.
const IRP_LEN: usize = 0x70;

/// Requests that are completed later.
#[derive(Default)]
pub(super) struct Queue {
    late: Mutex<Vec<Late>>,
}

struct Late {
    due: Duration,
    irp: usize,
    before: Vec<u8>,
    raised: bool,
    function: &'static str,
    work: Work,
}

/// Completes `irp` with what `work` gives: now or later, here or elsewhere. Returns what the WSK
/// function returns.
pub(super) fn finish(
    thread: &Thread,
    wsk: &Wsk,
    function: &'static str,
    irp: usize,
    work: Work,
) -> i32 {
    let machine = thread.machine();
    if machine.options().verified && !machine.world().random().is_multiple_of(3) {
        let random = machine.world().random();
        let delay = if random & 1 == 0 { 0 } else { (random >> 8) % LATEST_US };
        return later(thread, wsk, Duration::from_micros(delay), (function, irp, work));
    }
    finish_now(thread, wsk, function, irp, work)
}

/// As [`finish`], inline if the work is ready.
pub(super) fn finish_now(
    thread: &Thread,
    wsk: &Wsk,
    function: &'static str,
    irp: usize,
    mut work: Work,
) -> i32 {
    match work(thread) {
        Some((status, information)) => {
            complete(thread, irp, (status, information), Level::Current);
            status
        }
        None => later(thread, wsk, RETRY, (function, irp, work)),
    }
}

/// Completes `irp` on the machine's completion thread after `delay`. Returns STATUS_PENDING.
pub(super) fn later(
    thread: &Thread,
    wsk: &Wsk,
    delay: Duration,
    (function, irp, work): (&'static str, usize, Work),
) -> i32 {
    let machine = thread.machine();
    let before = if machine.options().verified {
        probe::bytes(irp, IRP_LEN).unwrap_or_default()
    } else {
        Vec::new()
    };
    let raised = machine.world().random() & 1 == 0;
    let due = machine.world().now() + delay;
    lock(&wsk.queue.late).push(Late { due, irp, before, raised, function, work });
    machine.world().wake(key(wsk));
    if thread.irql() < DISPATCH && delay.is_zero() {
        // Lets the completion come before the call has returned.
        machine.world().point();
    }
    answer::PENDING
}

/// The completion thread: until the machine is off or has stopped.
pub(super) fn run(machine: &Machine, wsk: &Wsk) {
    let world = machine.world().clone();
    while !machine.is_off() && !machine.is_dead() {
        let next = lock(&wsk.queue.late).iter().map(|late| late.due).min();
        let take = || {
            if machine.is_off() {
                return Some(None);
            }
            let now = world.now();
            let mut late = lock(&wsk.queue.late);
            let due =
                late.iter().enumerate().filter(|(_, l)| l.due <= now).min_by_key(|(_, l)| l.due);
            if let Some(at) = due.map(|(at, _)| at) {
                return Some(Some(late.remove(at)));
            }
            // A request that falls due earlier than the one waited for: look again.
            let earliest = late.iter().map(|late| late.due).min();
            (earliest != next).then_some(None)
        };
        if let Ok(Some(late)) = machine.wait(key(wsk), next, "WSK completions", take) {
            machine.with_thread(|thread| carry_out(thread, wsk, late));
        }
    }
}

fn carry_out(thread: &Thread, wsk: &Wsk, mut late: Late) {
    let Some(done) = (late.work)(thread) else {
        let machine = thread.machine();
        let retry = if send::holds(machine) { RETRY_HELD } else { RETRY };
        late.due = machine.world().now() + retry;
        lock(&wsk.queue.late).push(late);
        return;
    };
    if !late.before.is_empty() && probe::bytes(late.irp, IRP_LEN).as_ref() != Ok(&late.before) {
        let detail = format!("IRP {:#x} of {} changed while WSK had it", late.irp, late.function);
        return thread.machine().die(&rules::WSK_IRP_TOUCHED, detail);
    }
    let level = if late.raised { Level::Dispatch } else { Level::Passive };
    complete(thread, late.irp, done, level);
}

fn complete(thread: &Thread, irp: usize, (status, information): Done, level: Level) {
    // A machine that died over it has its report; the caller has nothing to add.
    let _ = io::complete_irp(thread.machine(), irp, status, information as u64, level);
}

fn key(wsk: &Wsk) -> Key {
    Key::of(&wsk.queue)
}
