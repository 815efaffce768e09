//! What the driver does, counted: instructions, atomics, and calls out of it.
//!
//! The processor stops the thread at each instruction (its trap flag), and the handler notes where it is if that is in the
//! driver, or where the driver has gone. What runs elsewhere meanwhile, the simulator's own code and other threads, is not
//! counted. An atomic is an instruction with a lock prefix, or an exchange with memory, which has one without saying so:
//! what holds a cache line alone for as long as it takes. Plain stores to memory that others read are not told from any
//! other store.
//!
//! Slow: some microseconds an instruction. One thread at a time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::schedule::lock;
use crate::loader::sites::locks;
use crate::nt::machine::Machine;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Instructions of the driver.
    pub instructions: usize,
    /// Atomics by where they are: `driver!function [file:line]`.
    pub atomics: BTreeMap<String, usize>,
    /// Calls out of the driver by name; returns to who called it are not among them.
    pub calls: BTreeMap<String, usize>,
}

impl Counted {
    /// All atomics.
    #[must_use]
    pub fn all_atomics(&self) -> usize {
        self.atomics.values().sum()
    }

    /// How often the driver called `name`.
    #[must_use]
    pub fn calls_of(&self, name: &str) -> usize {
        self.calls.get(name).copied().unwrap_or(0)
    }
}

/// Places that may be seen: more than the driver's code has in any one path.
const ROOM: usize = 1 << 16;
/// A place: where, and how often. Open addressing.
static PLACES: [(AtomicUsize, AtomicUsize); ROOM] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; ROOM];
static DRIVER: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static WAS_IN_DRIVER: AtomicBool = AtomicBool::new(false);
static FULL: AtomicBool = AtomicBool::new(false);

/// Counts what the driver of `machine` does in this thread while `body` runs.
///
/// # Panics
///
/// If it is at more places than there is room for.
pub fn count(machine: &Machine, body: impl FnOnce()) -> Counted {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = lock(&ONE);
    for (place, times) in &PLACES {
        place.store(0, Ordering::Relaxed);
        times.store(0, Ordering::Relaxed);
    }
    let code = machine.driver_code();
    DRIVER[0].store(code.start, Ordering::Relaxed);
    DRIVER[1].store(code.end, Ordering::Relaxed);
    WAS_IN_DRIVER.store(false, Ordering::Relaxed);
    let before = handle(on_step as *const () as usize);
    step(true);
    body();
    step(false);
    // SAFETY: puts back what was there.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &before, std::ptr::null_mut()) }, 0);
    assert!(!FULL.load(Ordering::Relaxed), "more than {ROOM} places");
    let mut counted = Counted::default();
    for (place, times) in &PLACES {
        let (place, times) = (place.load(Ordering::Relaxed), times.load(Ordering::Relaxed));
        if times == 0 {
            continue;
        }
        if !code.contains(&place) {
            if let Some(name) = crate::nt::name_at(place) {
                *counted.calls.entry(name.to_owned()).or_default() += times;
            }
            continue;
        }
        counted.instructions += times;
        if is_atomic(place, code.end) {
            *counted.atomics.entry(own_code(&machine.describe(place))).or_default() += times;
        }
    }
    counted
}

/// Of what an address is described as, the innermost function that is no part of Rust's own libraries.
pub(crate) fn own_code(description: &str) -> String {
    let foreign =
        |frame: &&str| !["!core::", "!alloc::"].iter().any(|library| frame.contains(library));
    let mut frames = description.split(" (inlined) <- ");
    frames.clone().find(foreign).or(frames.next()).unwrap_or_default().to_owned()
}

/// Whether the instruction of the driver at `place` is one that locks its memory.
fn is_atomic(place: usize, end: usize) -> bool {
    let longest = (end - place).min(15);
    // SAFETY: code of a loaded image, which was just executed.
    let bytes = unsafe {
        std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(place), longest)
    };
    let mut decoder = Decoder::with_ip(64, bytes, place as u64, DecoderOptions::NONE);
    let instruction: Instruction = decoder.decode();
    locks(&instruction)
}

/// Has SIGTRAP handled; what did before.
fn handle(handler: usize) -> libc::sigaction {
    // SAFETY: all-zero is a valid `sigaction`.
    let [mut action, mut before]: [libc::sigaction; 2] = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // The driver's own stacks are too small for a signal frame.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler touches atomics alone.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &action, &mut before) }, 0);
    before
}

/// Sets or clears the trap flag of this thread.
fn step(on: bool) {
    if on {
        // SAFETY: changes one flag, whose trap is handled; the stack is as it was.
        unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    } else {
        // SAFETY: as above.
        unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    }
}

extern "C" fn on_step(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO its context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    let [start, end] = DRIVER.each_ref().map(|word| word.load(Ordering::Relaxed));
    let inside = (start..end).contains(&at);
    if WAS_IN_DRIVER.swap(inside, Ordering::Relaxed) || inside {
        note(at);
    }
}

/// Counts a place. Safe in a signal handler.
fn note(at: usize) {
    let first = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - ROOM.trailing_zeros());
    for offset in 0..ROOM {
        let (place, times) = &PLACES[(first + offset) % ROOM];
        match place.load(Ordering::Relaxed) {
            0 => place.store(at, Ordering::Relaxed),
            seen if seen != at => continue,
            _ => {}
        }
        times.fetch_add(1, Ordering::Relaxed);
        return;
    }
    FULL.store(true, Ordering::Relaxed);
}
