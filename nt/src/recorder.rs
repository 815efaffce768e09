//! The flight recorder: what the driver noted last, for a debugger or a dump.
//!
//! Layout and events are [`abi::events`]. Each CPU writes its own ring, at `DISPATCH_LEVEL`, with plain stores and nothing
//! locked; what happens above that level is not noted. The time is the time stamp counter, which needs no call.

use alloc::vec::Vec;
use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

use abi::events::{Descriptor, Event, Noted, Ring};
use wdk_sys::DISPATCH_LEVEL;

use crate::{
    crash::Shown,
    event as nt_event,
    irql::{self, AtMostDispatch, Dispatch, Passive},
    processor,
    status::NtError,
};

/// Where the rings are; the driver's own descriptor leads here.
pub static DESCRIPTOR: Descriptor = Descriptor::new();

/// The events that sessions want to be told ([`Event::wanted`]), whatever the rings keep else.
static WANTED: AtomicU32 = AtomicU32::new(0);
/// Rung when one of them was noted.
static BELL: AtomicPtr<Bell> = AtomicPtr::new(ptr::null_mut());

/// Calls who tells sessions, once for all that happens meanwhile.
#[derive(Debug)]
pub(crate) struct Bell {
    event: nt_event::Event,
    /// Rung, and not yet heard.
    is_rung: AtomicBool,
}

impl Bell {
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new() -> Result<Self, NtError> {
        let event = nt_event::Event::try_new(nt_event::Kind::Synchronization)?;
        Ok(Self { event, is_rung: AtomicBool::new(false) })
    }

    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn ring(&self) {
        // Release: who hears it finds what was written before.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.event.set();
        }
    }

    /// Waits until it is rung. What is written from now on rings it again.
    pub(crate) fn wait(&self, passive: &Passive) {
        self.event.wait(passive);
        self.is_rung.swap(false, Ordering::AcqRel);
    }
}

/// A cache line of a ring. Rings are made line by line, so that none is ever on the stack.
#[derive(Debug)]
#[repr(C, align(64))]
struct Line([AtomicU64; 8]);

/// Lines of a ring.
const LINES: usize = size_of::<Ring>() / size_of::<Line>();
const _: () = assert!(LINES * size_of::<Line>() == size_of::<Ring>());
const _: () = assert!(align_of::<Line>() == align_of::<Ring>());

/// The rings, which are written to until this is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// In dumps: the rings, and what leads to them.
    shown: [Option<Shown>; 2],
    lines: Vec<Line>,
}

impl Recorder {
    /// Makes a ring for each processor there may be, and begins.
    ///
    /// There is one recorder at a time.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn start() -> Result<Self, NtError> {
        let count = processor::maximum();
        let all = LINES.checked_mul(count as usize).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        let mut lines = Vec::new();
        lines.try_reserve_exact(all).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        // An empty ring is zeroes.
        lines.resize_with(all, || Line([const { AtomicU64::new(0) }; 8]));
        DESCRIPTOR.ring_count.store(count, Ordering::Relaxed);
        // Release: who finds the rings finds them made.
        DESCRIPTOR.rings.store(lines.as_ptr().expose_provenance() as u64, Ordering::Release);
        // SAFETY: the lines stay where they are until this is dropped, which shows them no more before.
        let rings = unsafe { Shown::new(&*lines) };
        // SAFETY: a static of the image, which is nonpaged.
        let descriptor = unsafe { Shown::new(&DESCRIPTOR) };
        Ok(Self { shown: [rings, descriptor], lines })
    }

    /// How much memory the rings take.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}

impl Drop for Recorder {
    /// Nobody notes any more: what could is gone.
    fn drop(&mut self) {
        DESCRIPTOR.rings.store(0, Ordering::Release);
        DESCRIPTOR.ring_count.store(0, Ordering::Relaxed);
        self.shown = [None, None];
        self.lines.clear();
    }
}

/// Notes that `event` happened, with the IRQL it happened at; nothing above `DISPATCH_LEVEL`, or if it is not to be noted, or
/// there is no recorder. Any IRQL; is at `DISPATCH_LEVEL` meanwhile.
#[inline(never)] // Many call it, none often.
pub fn note(event: Event, words: [u64; 4]) {
    let wanted = WANTED.load(Ordering::Relaxed);
    if (DESCRIPTOR.noted.load(Ordering::Relaxed) | wanted) & event.bit() == 0 {
        return;
    }
    let irql = irql::current();
    if irql <= DISPATCH_LEVEL as u8 {
        if irql == DISPATCH_LEVEL as u8 {
            // SAFETY: just looked at, and whoever changes it changes it back before this thread goes on.
            let level = unsafe { Dispatch::assume() };
            write(event, irql, words, &level);
        } else {
            // SAFETY: as above.
            let level = unsafe { AtMostDispatch::assume() };
            level.pinned(|level| write(event, irql, words, level));
        }
        if wanted & event.bit() != 0 {
            // SAFETY: who owns it takes it from here before it goes, when nobody notes any more.
            let bell = unsafe { BELL.load(Ordering::Acquire).as_ref() };
            bell.inspect(|bell| bell.ring());
        }
    }
}

/// Has somebody be called when an event that sessions want is noted.
pub(crate) fn call(bell: Option<&Bell>) {
    let bell = bell.map_or(ptr::null_mut(), |bell| ptr::from_ref(bell).cast_mut());
    BELL.store(bell, Ordering::Release);
}

/// Has events be noted that sessions want, besides those that are chosen.
pub(crate) fn want(events: u32) {
    WANTED.store(events, Ordering::Relaxed);
}

/// The events that sessions want.
pub(crate) fn wanted() -> u32 {
    WANTED.load(Ordering::Relaxed)
}

/// What happens now, without being noted.
pub(crate) fn noted_now(event: Event, words: [u64; 4]) -> Noted {
    Noted { time: time_stamp(), event, irql: irql::current(), words }
}

/// The rings there are, each processor's. Nobody has one when the recorder is dropped.
pub(crate) fn rings() -> impl Iterator<Item = &'static Ring> {
    (0..DESCRIPTOR.ring_count.load(Ordering::Relaxed)).filter_map(ring)
}

/// Has events of these keywords up to a level be noted; level 0 is none. Any IRQL.
pub fn choose(level: u32, keywords: u32) {
    DESCRIPTOR.noted.store(Event::noted(level, keywords), Ordering::Relaxed);
}

fn write(event: Event, irql: u8, words: [u64; 4], level: &Dispatch<'_>) {
    if let Some(ring) = ring(processor::current(level)) {
        ring.note(time_stamp(), event, irql, words);
    }
}

/// The ring of a processor.
fn ring(cpu: u32) -> Option<&'static Ring> {
    let rings = DESCRIPTOR.rings.load(Ordering::Acquire) as usize;
    if rings == 0 || cpu >= DESCRIPTOR.ring_count.load(Ordering::Relaxed) {
        return None;
    }
    let ring = ptr::with_exposed_provenance::<Ring>(rings).wrapping_add(cpu as usize);
    // SAFETY: lines of so many rings are there until the recorder is dropped, which its owner does when nobody notes any more;
    // both types are atomics and nothing else.
    Some(unsafe { &*ring })
}

fn time_stamp() -> u64 {
    // SAFETY: every x64 CPU has it, and it reads nothing of ours.
    unsafe { core::arch::x86_64::_rdtsc() }
}
