//! A provider of events for ETW, and who tells its sessions what the flight recorder's rings have.
//!
//! Nothing is written where it happens: that may be deep in somebody's stack, and under locks. A thread of its own tells the
//! sessions, at `PASSIVE_LEVEL`, what is new in the rings ([`crate::recorder`]), oldest first; it sleeps while nobody listens. An
//! event carries the time at which it happened. What was overwritten before its turn is counted, and that count told.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/devtest/adding-event-tracing-to-kernel-mode-drivers>

use alloc::vec::Vec;
use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use abi::{
    events::{Event, Noted, RECORDS, Ring},
    trace::{self, Guid},
};
use wdk_sys::{GUID, PVOID, STATUS_SUCCESS, UCHAR, ULONG, ULONGLONG};

use crate::{
    irql::Passive,
    mutex::Mutex,
    recorder::{self, Bell},
    shared::Shared,
    status::{NtError, check},
    sys::etw::{
        EVENT_DATA_DESCRIPTOR, EVENT_DESCRIPTOR, EtwRegister, EtwSetInformation, EtwUnregister,
        EtwWriteTransfer, EventProviderSetTraits, REGHANDLE,
    },
    thread::Thread,
};

// The extraction that `nt::sys` is compared with lacks these: from `evntprov.h`, as its pages have them,
// <https://learn.microsoft.com/windows/win32/api/evntprov/ns-evntprov-event_data_descriptor> and
// <https://learn.microsoft.com/windows/win32/api/evntprov/nc-evntprov-penablecallback>.

/// `EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA`; that of a field's bytes is 0.
const EVENT_METADATA: ULONG = 1;
/// `EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA`.
const PROVIDER_METADATA: ULONG = 2;
/// `EVENT_CONTROL_CODE_DISABLE_PROVIDER`: no session listens any more.
const DISABLE_PROVIDER: ULONG = 0;
/// `EVENT_CONTROL_CODE_ENABLE_PROVIDER`: a session listens, or others than before, or otherwise.
const ENABLE_PROVIDER: ULONG = 1;
/// `EVENT_CONTROL_CODE_CAPTURE_STATE`: a session wants to be told what there is.
const CAPTURE_STATE: ULONG = 2;

static PROVIDER: GUID = {
    let (first, second, third, last) = trace::PROVIDER;
    GUID { Data1: first, Data2: second, Data3: third, Data4: last }
};

/// The registered provider, and the thread that tells its sessions. There is one at a time, and it goes before the recorder.
#[must_use = "sessions are told nothing once it is dropped"]
#[derive(Debug)]
pub struct Provider {
    /// There until this is dropped.
    thread: Option<Thread>,
    state: Shared<State>,
}

/// What thread and callback share.
#[derive(Debug)]
struct State {
    /// 0 before there is one.
    handle: AtomicU64,
    bell: Bell,
    stop: AtomicBool,
    /// Of each processor's ring, up to which record sessions were told. Whoever has it tells them.
    told: Mutex<Vec<u64>>,
}

impl Provider {
    /// Registers the provider; from now on, until this is dropped, sessions are told what is noted.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-etwregister>
    pub fn register(passive: &Passive) -> Result<Self, NtError> {
        let count = recorder::rings().count();
        let mut told = Vec::new();
        told.try_reserve_exact(count).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        told.resize(count, 0);
        let state = Shared::try_new(State {
            handle: AtomicU64::new(0),
            bell: Bell::try_new()?,
            stop: AtomicBool::new(false),
            told: Mutex::try_new(told)?,
        })?;
        let teller = state.clone();
        let thread = Thread::spawn(passive, move |passive| teller.run(&passive))?;
        // From here on dropping it ends the thread, and the registration if there is one.
        let this = Self { thread: Some(thread), state };
        recorder::call(Some(&this.state.bell));
        let mut handle: REGHANDLE = 0;
        let context = ptr::from_ref::<State>(&this.state).cast_mut();
        // SAFETY: at PASSIVE_LEVEL; the GUID is a static; what the callback is given lives until this is dropped, which ends the
        // registration first.
        check(unsafe {
            EtwRegister(&raw const PROVIDER, listens, context.cast(), &raw mut handle)
        })?;
        this.state.handle.store(handle, Ordering::Release);
        let traits = trace::TRAITS;
        let (at, bytes) = (traits.as_ptr().cast_mut().cast(), traits.len() as ULONG);
        // SAFETY: a registered provider, and bytes that are only read. Without them, events still say whose they are.
        let _status = unsafe { EtwSetInformation(handle, EventProviderSetTraits, at, bytes) };
        // A session that was there before us has had records wait for the handle.
        this.state.bell.ring();
        Ok(this)
    }
}

impl Drop for Provider {
    #[inline(never)] // Its owner's own drop may be deep in a chain of calls, which has no room for this.
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        self.state.bell.ring();
        // Waits for it; it tells what there is first.
        self.thread = None;
        let handle = self.state.handle.swap(0, Ordering::Relaxed);
        if handle != 0 {
            // SAFETY: registered, and nobody writes events any more: the thread has ended, and callbacks end before this returns.
            let status = unsafe { EtwUnregister(handle) };
            debug_assert!(status == STATUS_SUCCESS);
        }
        recorder::want(0);
        recorder::call(None);
    }
}

impl State {
    /// The thread.
    fn run(&self, passive: &Passive) {
        loop {
            self.bell.wait(passive);
            // Read first: what was noted before the stop is told.
            let stops = self.stop.load(Ordering::Acquire);
            while self.tell(passive) {}
            if stops {
                return;
            }
        }
    }

    /// Tells sessions what is new; whether there may be more.
    fn tell(&self, passive: &Passive) -> bool {
        let handle = self.handle.load(Ordering::Acquire);
        if handle == 0 {
            return false;
        }
        let mut told = self.told.lock(passive);
        // No more at once than there is room for: who waits for the lock gets it.
        for _ in 0..told.len().saturating_mul(RECORDS) {
            let wanted = recorder::wanted();
            let Some((cpu, noted)) = next(handle, &mut told) else { return false };
            if wanted & noted.event.bit() != 0 {
                write(handle, cpu, &noted);
            }
        }
        true
    }

    /// Has sessions be told what happens from now on, of the events `wanted`.
    fn listen(&self, wanted: u32, passive: &Passive) {
        let mut told = self.told.lock(passive);
        if recorder::wanted() == 0 {
            for (told, ring) in told.iter_mut().zip(recorder::rings()) {
                *told = ring.written();
            }
        }
        recorder::want(wanted);
    }
}

/// The oldest record that sessions have not been told of, with the number of its processor.
fn next(handle: REGHANDLE, told: &mut [u64]) -> Option<(u32, Noted)> {
    let mut oldest: Option<(u32, Noted)> = None;
    for (cpu, (told, ring)) in (0_u32..).zip(told.iter_mut().zip(recorder::rings())) {
        let mut lost = 0_u64;
        let noted = loop {
            let written = ring.written();
            if *told == written {
                break None;
            }
            if let Some(noted) = ring.read(*told) {
                break Some(noted);
            }
            // Overwritten: at least this one.
            let kept = written.saturating_sub(Ring::READABLE).max(told.saturating_add(1));
            lost = lost.saturating_add(kept.saturating_sub(*told));
            *told = kept;
        };
        if lost > 0 {
            write(handle, cpu, &recorder::noted_now(Event::RecordsLost, [cpu.into(), lost, 0, 0]));
        }
        let older = |noted: &Noted| oldest.is_none_or(|(_, oldest)| noted.time < oldest.time);
        if let Some(noted) = noted.filter(older) {
            oldest = Some((cpu, noted));
        }
    }
    let (cpu, noted) = oldest?;
    let told = told.get_mut(cpu as usize)?;
    *told = told.saturating_add(1);
    Some((cpu, noted))
}

/// Has the sessions that want it have an event. What a session has no room for, it counts itself.
fn write(handle: REGHANDLE, cpu: u32, noted: &Noted) {
    let kind = EVENT_DESCRIPTOR {
        Id: 0,
        Version: 0,
        Channel: trace::CHANNEL,
        Level: noted.event.level().of_etw(),
        Opcode: noted.opcode(),
        Task: 0,
        Keyword: noted.event.keyword() as u64,
    };
    let mut values = [0_u8; trace::MOST_BYTES];
    let mut used = 0_usize;
    for (place, byte) in values.iter_mut().zip(noted.values(cpu)) {
        *place = byte;
        used = used.saturating_add(1);
    }
    let part = |bytes: &[u8], length: usize, kind: ULONG| EVENT_DATA_DESCRIPTOR {
        Ptr: bytes.as_ptr().expose_provenance() as u64,
        Size: length as ULONG,
        Reserved: kind,
    };
    let about = noted.event.metadata();
    let mut parts = [
        part(trace::TRAITS, trace::TRAITS.len(), PROVIDER_METADATA),
        part(about, about.len(), EVENT_METADATA),
        part(&values, used, 0),
    ];
    let (activity, related) = (noted.activity(), noted.related());
    let pointer = |guid: &Option<Guid>| {
        guid.as_ref().map_or(ptr::null(), |guid| guid.as_ptr().cast::<GUID>())
    };
    // SAFETY: a registered provider; all that is pointed at is there, and as long as is said, until this returns. A GUID is read
    // as bytes, by x64's rules wherever they are.
    let _status = unsafe {
        EtwWriteTransfer(
            handle,
            &raw const kind,
            pointer(&activity),
            pointer(&related),
            parts.len() as ULONG,
            parts.as_mut_ptr(),
        )
    };
}

/// Called when a session begins to listen, asks for something else, or ceases to.
unsafe extern "system" fn listens(
    _source: *const GUID,
    code: ULONG,
    level: UCHAR,
    any: ULONGLONG,
    all: ULONGLONG,
    _filter: PVOID,
    context: PVOID,
) {
    // SAFETY: what the provider was registered with; it lives until it is unregistered, and callbacks have returned then.
    let state = unsafe { &*context.cast::<State>() };
    // SAFETY: sessions are begun and ended at PASSIVE_LEVEL, in the thread that does, and so is a provider.
    let passive = unsafe { Passive::assume() };
    match code {
        ENABLE_PROVIDER => {
            state.listen(Event::wanted(level, any, all), &passive);
        }
        DISABLE_PROVIDER => recorder::want(0),
        CAPTURE_STATE => while state.tell(&passive) {},
        _ => (),
    }
}
