//! What a thread costs: its own CPU time ([`Clock`]), so that whoever else uses the machine is not measured; and where that
//! goes: its program counter, 8,000 times a second, while [`Armed`].
//!
//! What interrupts is a timer of the kernel, so what it finds is unbiased by what the code does; time in the kernel is seen
//! as the system call that asked for it. Interruptions before which the thread had not run do not count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use object::{Object as _, ObjectSymbol as _};

use super::pair::Pair;

const PERIOD_NS: i64 = 125_000;
const ROOM: usize = 1 << 16;
/// A sample counts if the thread has run this long since the last.
const RAN_NS: u64 = 60_000;
static LAST: AtomicU64 = AtomicU64::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
static USED: AtomicUsize = AtomicUsize::new(0);
static SEEN: [AtomicUsize; ROOM] = [const { AtomicUsize::new(0) }; ROOM];

/// CPU time of the calling thread, from its making on.
pub(super) struct Clock(u64);

impl Clock {
    pub(super) fn start() -> Self {
        Self(thread_time())
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_nanos(thread_time() - self.0)
    }
}

/// CPU time of the calling thread, in ns. Safe in a signal handler.
fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for a time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The part of the run that is measured.
pub(super) struct Armed;

impl Armed {
    pub(super) fn new() -> Self {
        ARMED.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.store(false, Ordering::SeqCst);
    }
}

extern "C" fn note(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let now = thread_time();
    let ran = now - LAST.swap(now, Ordering::Relaxed);
    if !ARMED.load(Ordering::Relaxed) || ran < RAN_NS {
        return;
    }
    // SAFETY: the kernel gives a handler with SA_SIGINFO its context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let slot = USED.fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = SEEN.get(slot) {
        slot.store(at as usize, Ordering::Relaxed);
    }
}

/// Samples the calling thread while `body` runs: addresses, and how often each was seen.
pub(super) fn during(body: impl FnOnce()) -> HashMap<usize, usize> {
    USED.store(0, Ordering::SeqCst);
    let timer = start();
    body();
    // SAFETY: made by `start`, and not deleted before.
    unsafe { libc::timer_delete(timer) };
    let used = USED.load(Ordering::SeqCst).min(ROOM);
    let mut counted = HashMap::new();
    for slot in &SEEN[..used] {
        *counted.entry(slot.load(Ordering::Relaxed)).or_default() += 1;
    }
    counted
}

fn start() -> libc::timer_t {
    // SAFETY: all-zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = note as *const () as usize;
    // The driver's own stacks are too small for a signal frame.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler touches atomics alone.
    assert_eq!(unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) }, 0);
    // SAFETY: all-zero is a valid `sigevent`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = libc::SIGPROF;
    // SAFETY: no arguments.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = std::ptr::null_mut();
    // SAFETY: an event and room for a timer.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &raw mut timer) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
    let times = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: the timer just made.
    assert_eq!(unsafe { libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) }, 0);
    timer
}

/// Who an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Owner {
    /// penstock.sys, its AEAD.
    Aead,
    /// penstock.sys, all the rest, and the copies it asks the kernel for.
    Driver,
    /// This process: the simulator, the null host, its libraries, and system calls.
    Simulator,
}

/// Whether a symbol is a label of ours in assembly, which has neither type nor size.
fn is_assembly(symbol: &object::Symbol<'_, '_>) -> bool {
    let name = symbol.name().unwrap_or_default();
    ["gate_", "raw_", "probe_"].iter().any(|start| name.starts_with(start))
}

/// Names of addresses.
pub(super) struct Names {
    /// Start and name of each function of this program, in order.
    program: Vec<(usize, String)>,
    end: usize,
}

impl Names {
    pub(super) fn read() -> Self {
        let file = std::fs::read("/proc/self/exe").expect("this program");
        let file = object::File::parse(&*file).expect("an ELF file");
        let own = Self::read as *const () as usize;
        let mut program: Vec<(usize, String)> = file
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text || is_assembly(symbol))
            .map(|symbol| (symbol.address() as usize, symbol.name().unwrap_or("?").to_owned()))
            .collect();
        program.sort();
        let mangled = |(_, name): &&(usize, String)| {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            name.contains("sample::Names") && name.ends_with("read")
        };
        let here = program.iter().find(mangled).map_or(0, |(address, _)| *address);
        let shift = own.wrapping_sub(here);
        program.iter_mut().for_each(|(address, _)| *address = address.wrapping_add(shift));
        let end = program.last().map_or(0, |(address, _)| address + 4096);
        Self { program, end }
    }

    /// Owner and name: of driver code the innermost inlined function of its own crates.
    pub(super) fn of(&self, pair: &Pair, address: usize) -> (Owner, String) {
        if let Some(lines) = pair.driver_code(address) {
            return of_driver(&lines);
        }
        let at = self.program.partition_point(|(start, _)| *start <= address);
        match at.checked_sub(1).filter(|_| address < self.end) {
            // What the driver calls without a gate is as good as its own.
            Some(at) if self.program[at].1.starts_with("raw_") => {
                (Owner::Driver, format!("{} (the kernel's)", &self.program[at].1[4..]))
            }
            Some(at) => {
                (Owner::Simulator, format!("{:#}", rustc_demangle::demangle(&self.program[at].1)))
            }
            None => (Owner::Simulator, "libc, and the kernel behind it".to_owned()),
        }
    }
}

/// Directories of the driver's own crates.
const OURS: [&str; 5] = ["crypto", "nt", "callout", "netadapter", "penstock"];

/// Owner and name of driver code: `function [path:line] <- ...`, inlined functions first.
fn of_driver(lines: &str) -> (Owner, String) {
    let frames: Vec<(&str, String)> = lines.split(" <- ").map(frame).collect();
    let aead = frames.iter().any(|(_, file)| file.contains("/aead/"));
    let ours =
        |(_, file): &&(&str, String)| OURS.iter().any(|own| file.starts_with(&format!("{own}/")));
    let owner = if aead { Owner::Aead } else { Owner::Driver };
    match frames.iter().find(ours).or(frames.first()) {
        Some((function, file)) => (owner, format!("{function} ({file})")),
        None => (owner, lines.to_owned()),
    }
}

/// Function, without types and arguments, and file, from its crate's directory on.
fn frame(line: &str) -> (&str, String) {
    let (function, place) = line.rsplit_once(" [").unwrap_or((line, ""));
    let function = function.trim_start_matches("penstock!");
    let function = function.split(['(', '<']).next().unwrap_or(function);
    let path = place.split(':').next().unwrap_or_default();
    let from = path.rfind("/src/").map_or(0, |at| path[..at].rfind('/').map_or(0, |at| at + 1));
    (function.split('+').next().unwrap_or(function), path[from..].to_owned())
}
