//! Event tracing: providers that drivers register, sessions that listen to them, and the events that these get.
//!
//! A session asks a provider for a level and keywords, before or after it is there, and keeps the events it is then given with all
//! that they say of themselves; what has no room is counted. A provider is told what all its sessions want together, at PASSIVE,
//! in the thread that begins or ends one. Nothing of an event is understood here.
//!
//! Source: DDI wdm/nf-wdm-etwregister and its neighbours; WDD devtest/adding-event-tracing-to-kernel-mode-drivers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use crate::loader::probe::{self, Fault};
use crate::nt::level::APC;
use crate::nt::machine::Machine;
use crate::nt::status::{
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_NO_MEMORY, STATUS_SUCCESS,
};
use crate::nt::thread::{Call, Level, Thread};
use crate::nt::timer;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// A GUID as memory has it.
pub type Guid = [u8; 16];
/// The session of [`Options::traced`](crate::nt::machine::Options::traced).
pub const AT_BOOT: u64 = 1;

/// `EventProviderSetTraits`.
const SET_TRAITS: u32 = 2;
/// `EVENT_CONTROL_CODE_*`.
const DISABLE: u64 = 0;
const ENABLE: u64 = 1;
const CAPTURE_STATE: u64 = 2;
/// `MAX_EVENT_DATA_DESCRIPTORS`.
const MOST_PARTS: u32 = 128;
/// The bytes of an event, with its header.
const MOST_BYTES: usize = 64 << 10;
/// `STATUS_BUFFER_OVERFLOW`: it is longer.
const STATUS_BUFFER_OVERFLOW: i32 = 0x8000_0005_u32.cast_signed();
/// Bytes of an `EVENT_DESCRIPTOR` and an `EVENT_DATA_DESCRIPTOR`.
const DESCRIPTOR: usize = 16;
/// Kinds of parts: `EVENT_DATA_DESCRIPTOR_TYPE_*`.
const EVENT_METADATA: u8 = 1;
const PROVIDER_METADATA: u8 = 2;
/// Events of a session: beyond, it counts.
const ROOM: usize = 1 << 18;

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A provider whose sessions were there first is told before EtwRegister returns.
    [mark: Documented, source: "LEARN evntprov/nf-evntprov-eventregister: of user mode"] SESSIONS_MAY_BE_THERE_FIRST;
    /// It is called at PASSIVE_LEVEL, with the highest level of its sessions, all of their keywords, and those they all want.
    [mark: Inferred, source: "LEARN evntprov/nc-evntprov-penablecallback"] PROVIDERS_ARE_TOLD_WHAT_ALL_WANT;
    /// Level 0 and no keywords are any; an event without keywords is of all.
    [mark: Documented, source: "LEARN evntrace/nf-evntrace-enabletraceex2"] NONE_IS_ANY;
    /// A session that has no room counts the event as lost, and EtwWriteTransfer says STATUS_NO_MEMORY.
    [mark: Documented, source: "LEARN evntprov/nf-evntprov-eventwritetransfer: of user mode"] SESSIONS_COUNT_WHAT_THEY_LOSE;
}

/// What a session wants of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The provider.
    pub provider: Guid,
    /// Up to this level; 0 is any.
    pub level: u8,
    /// With one of these keywords; 0 is any.
    pub any: u64,
    /// And with all of these.
    pub all: u64,
}

impl Wanted {
    fn wants(&self, event: &Traced) -> bool {
        let keywords = (self.any == 0 || event.keyword & self.any != 0)
            && event.keyword & self.all == self.all;
        self.provider == event.provider
            && (self.level == 0 || event.level <= self.level)
            && (event.keyword == 0 || keywords)
    }
}

/// An event that a session was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// Whose it is.
    pub provider: Guid,
    /// System time, in 100 ns since 1601.
    pub time: u64,
    /// Which thread wrote it.
    pub thread: u32,
    /// On which CPU.
    pub cpu: u32,
    /// `EVENT_DESCRIPTOR`, but for keyword and level, as memory has it.
    pub descriptor: [u8; DESCRIPTOR],
    /// Its level.
    pub level: u8,
    /// Its keywords.
    pub keyword: u64,
    /// The activity it is part of.
    pub activity: Option<Guid>,
    /// The one that this came of.
    pub related: Option<Guid>,
    /// What it says of its provider.
    pub about_provider: Vec<u8>,
    /// What it says of itself.
    pub metadata: Vec<u8>,
    /// Its values.
    pub values: Vec<u8>,
}

/// What a session has kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What it was given, in order.
    pub events: Vec<Traced>,
    /// Events it had no room for.
    pub lost: u64,
    /// When it began, and when it ended, in 100 ns since 1601.
    pub began: u64,
    /// See [`Kept::began`].
    pub ended: u64,
}

/// A provider.
#[derive(Clone)]
struct Provider {
    guid: Guid,
    callback: usize,
    context: u64,
    traits: Vec<u8>,
    /// The threads that are in its callback.
    told_by: Vec<ThreadId>,
}

#[derive(Default)]
struct State {
    providers: BTreeMap<u64, Provider>,
    sessions: BTreeMap<u64, (Wanted, Kept)>,
    last: u64,
}

/// Tracing on a machine.
#[derive(Default)]
pub(crate) struct Tracing {
    state: Mutex<State>,
    watched: AtomicBool,
}

impl Tracing {
    fn key(&self) -> Key {
        Key::of(&self.watched)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What a provider is told: code, level, and keywords.
    fn told(&self, guid: &Guid) -> [u64; 4] {
        let mut wanted = self.sessions.values().filter(|(wanted, _)| wanted.provider == *guid);
        let Some((first, _)) = wanted.next() else { return [DISABLE, 0, 0, 0] };
        let all = wanted.fold(*first, |sum, (wanted, _)| Wanted {
            level: if sum.level == 0 || wanted.level == 0 {
                0
            } else {
                sum.level.max(wanted.level)
            },
            any: if sum.any == 0 || wanted.any == 0 { 0 } else { sum.any | wanted.any },
            all: sum.all & wanted.all,
            ..sum
        });
        // Windows tells a provider the highest level and all keywords where any will do.
        let level = if all.level == 0 { u8::MAX } else { all.level };
        let keywords = if all.any == 0 { u64::MAX } else { all.any };
        [ENABLE, level.into(), keywords, all.all]
    }
}

impl Machine {
    /// Begins a session that wants events of a provider, which may be there already or come later; its number.
    pub fn begin_trace(&self, wanted: Wanted) -> u64 {
        let tracing = self.extension::<Tracing>();
        let number = {
            let mut state = lock(&tracing.state);
            let number = state.number();
            let kept = Kept { began: timer::system_time(self), ..Kept::default() };
            state.sessions.insert(number, (wanted, kept));
            number
        };
        self.tell_providers(&wanted.provider, None);
        number
    }

    /// Has the providers of a session tell what they have.
    pub fn flush_trace(&self, number: u64) {
        let tracing = self.extension::<Tracing>();
        let wanted = lock(&tracing.state).sessions.get(&number).map(|(wanted, _)| *wanted);
        if let Some(wanted) = wanted {
            let keywords = [CAPTURE_STATE, wanted.level.into(), wanted.any, wanted.all];
            self.tell_providers(&wanted.provider, Some(keywords));
        }
    }

    /// Ends a session, as it is; what it has kept.
    pub fn end_trace(&self, number: u64) -> Kept {
        let tracing = self.extension::<Tracing>();
        let ended = lock(&tracing.state).sessions.remove(&number);
        let Some((wanted, mut kept)) = ended else { return Kept::default() };
        kept.ended = timer::system_time(self);
        self.tell_providers(&wanted.provider, None);
        kept
    }

    /// The names of the providers that are registered: what their traits say.
    pub fn traced_providers(&self) -> Vec<(Guid, Vec<u8>)> {
        let tracing = self.extension::<Tracing>();
        let state = lock(&tracing.state);
        state.providers.values().map(|provider| (provider.guid, provider.traits.clone())).collect()
    }

    fn tell_providers(&self, guid: &Guid, told: Option<[u64; 4]>) {
        let tracing = self.extension::<Tracing>();
        let of_this =
            |(handle, provider): (&u64, &Provider)| (provider.guid == *guid).then_some(*handle);
        let handles: Vec<u64> = lock(&tracing.state).providers.iter().filter_map(of_this).collect();
        for handle in handles {
            Thread::with(self, |thread| tell(thread, handle, told));
        }
    }
}

/// Calls a provider back.
fn tell(thread: &Thread, handle: u64, told: Option<[u64; 4]>) {
    let machine = thread.machine();
    let tracing = machine.extension::<Tracing>();
    let own = std::thread::current().id();
    let called = {
        let mut state = lock(&tracing.state);
        let told = match (told, state.providers.get(&handle)) {
            (Some(told), _) => told,
            (None, Some(provider)) => state.told(&provider.guid),
            (None, None) => return,
        };
        let Some(provider) = state.providers.get_mut(&handle) else { return };
        provider.told_by.push(own);
        (told, provider.callback, provider.context)
    };
    let ([code, level, any, all], callback, context) = called;
    if callback != 0 {
        let source = machine.allocate(16);
        let call = Call::new("EnableCallback", callback, Level::Passive);
        let _ = thread.call(call, &[source as u64, code, level, any, all, 0, context]);
        machine.release(source);
    }
    if let Some(provider) = lock(&tracing.state).providers.get_mut(&handle)
        && let Some(at) = provider.told_by.iter().position(|id| *id == own)
    {
        provider.told_by.remove(at);
    }
    machine.world().wake(tracing.key());
}

fn register(thread: &Thread, guid: Guid, callback: usize, context: u64) -> u64 {
    let machine = thread.machine();
    let tracing = machine.extension::<Tracing>();
    let (handle, is_wanted) = {
        let mut state = lock(&tracing.state);
        let handle = state.number();
        let provider =
            Provider { guid, callback, context, traits: Vec::new(), told_by: Vec::new() };
        state.providers.insert(handle, provider);
        (handle, state.told(&guid)[0] == ENABLE)
    };
    if !tracing.watched.swap(true, Ordering::AcqRel) {
        machine.at_unload(|machine, _| {
            let left = lock(&machine.extension::<Tracing>().state).providers.len();
            if left > 0 {
                machine.die(&rules::ETW_REGISTRATION, format!("{left} of them"));
            }
        });
    }
    if is_wanted {
        tell(thread, handle, None);
    }
    handle
}

fn unregister(thread: &Thread, handle: u64) {
    let machine = thread.machine();
    let tracing = machine.extension::<Tracing>();
    let told_by = |tracing: &Tracing| {
        lock(&tracing.state).providers.get(&handle).map(|provider| provider.told_by.clone())
    };
    let Some(callers) = told_by(&tracing) else {
        return thread.stop(&rules::ETW_HANDLE, format!("{handle:#x} is no provider"));
    };
    if callers.contains(&std::thread::current().id()) {
        return thread.stop(&rules::DEADLOCK_ETW, "called inside the callback that it waits for");
    }
    let idle = || told_by(&tracing).is_none_or(|callers| callers.is_empty()).then_some(());
    let deadline = machine.world().now() + Duration::from_secs(20);
    let waited = machine.wait(tracing.key(), Some(deadline), "EtwUnregister", idle);
    if waited.is_err() && !machine.is_dead() {
        return thread.stop(&rules::DEADLOCK_ETW, "the callback that it waits for does not return");
    }
    lock(&tracing.state).providers.remove(&handle);
}

/// What a call to write an event has.
struct Written {
    handle: u64,
    descriptor: usize,
    activity: usize,
    related: usize,
    count: u32,
    parts: usize,
}

impl Written {
    /// The event, and where its bytes are.
    fn read(
        &self,
        thread: &Thread,
        provider: &Provider,
    ) -> Result<(Traced, Vec<(usize, usize)>), Fault> {
        let guid = |at: usize| -> Result<Option<Guid>, Fault> {
            Ok(if at == 0 { None } else { Some(probe::read::<[u8; 16]>(at)?) })
        };
        let descriptor = probe::read::<[u8; DESCRIPTOR]>(self.descriptor)?;
        let mut event = Traced {
            provider: provider.guid,
            time: timer::system_time(thread.machine()),
            thread: thread.id() as u32,
            cpu: thread.cpu(),
            descriptor,
            level: descriptor[4],
            keyword: probe::read(self.descriptor + 8)?,
            activity: guid(self.activity)?,
            related: guid(self.related)?,
            about_provider: provider.traits.clone(),
            ..Traced::default()
        };
        let mut places =
            vec![(self.descriptor, DESCRIPTOR), (self.parts, self.count as usize * DESCRIPTOR)];
        for number in 0..self.count as usize {
            let part = self.parts + number * DESCRIPTOR;
            let (at, size) = (probe::read::<usize>(part)?, probe::read::<u32>(part + 8)? as usize);
            let bytes = probe::bytes(at, size)?;
            places.push((at, size));
            match probe::read::<u8>(part + 12)? {
                PROVIDER_METADATA => event.about_provider = bytes,
                EVENT_METADATA => event.metadata = bytes,
                _ => event.values.extend(bytes),
            }
        }
        Ok((event, places))
    }

    fn give(&self, thread: &Thread) -> i32 {
        let machine = thread.machine();
        let tracing = machine.extension::<Tracing>();
        let provider = lock(&tracing.state).providers.get(&self.handle).cloned();
        let Some(provider) = provider else {
            thread.stop(&rules::ETW_HANDLE, format!("{:#x} is no provider", self.handle));
            return STATUS_INVALID_PARAMETER;
        };
        if self.count > MOST_PARTS {
            return STATUS_INVALID_PARAMETER;
        }
        let (event, places) = match self.read(thread, &provider) {
            Ok(read) => read,
            Err(Fault(address)) => {
                return thread.bad_pointer("EventDescriptor or UserData", address);
            }
        };
        let paged =
            |(at, size): &&(usize, usize)| machine.pool().nonpaged(*at, *size) == Some(false);
        if let Some((at, _)) = places.iter().find(paged).filter(|_| thread.irql() > APC) {
            thread.stop(&rules::ETW_PAGED_DATA, format!("{at:#x}, at IRQL {}", thread.irql()));
            return STATUS_INVALID_PARAMETER;
        }
        if event.metadata.len() + event.values.len() + event.about_provider.len() > MOST_BYTES {
            return STATUS_BUFFER_OVERFLOW;
        }
        let mut status = STATUS_SUCCESS;
        for (wanted, kept) in lock(&tracing.state).sessions.values_mut() {
            if !wanted.wants(&event) {
                continue;
            }
            if kept.events.len() < ROOM {
                kept.events.push(event.clone());
            } else {
                kept.lost += 1;
                status = STATUS_NO_MEMORY;
            }
        }
        status
    }
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Registers a provider.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-etwregister", fail: STATUS_INSUFFICIENT_RESOURCES]
    fn EtwRegister(thread, provider: usize, callback: usize, context: u64, handle: usize) -> i32 {
        let guid = match probe::read::<[u8; 16]>(provider) {
            Ok(guid) => guid,
            Err(Fault(address)) => return thread.bad_pointer("ProviderId", address),
        };
        match probe::write(handle, register(thread, guid, callback, context)) {
            Ok(()) => STATUS_SUCCESS,
            Err(Fault(address)) => thread.bad_pointer("RegHandle", address),
        }
    }

    /// Ends a registration; waits for its running callback.
    [max: PASSIVE, mark: Inferred, source: "DDI wdm/nf-wdm-etwunregister, without that it waits", point: true]
    fn EtwUnregister(thread, handle: u64) -> i32 {
        unregister(thread, handle);
        STATUS_SUCCESS
    }

    /// Sets a provider's traits; other classes are not known.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-etwsetinformation", fail: STATUS_INSUFFICIENT_RESOURCES]
    fn EtwSetInformation(thread, handle: u64, class: u32, information: usize, length: u32) -> i32 {
        let tracing = thread.machine().extension::<Tracing>();
        let traits = match probe::bytes(information, length as usize) {
            Ok(bytes) => bytes,
            Err(Fault(address)) => return thread.bad_pointer("EventInformation", address),
        };
        let mut state = lock(&tracing.state);
        let Some(provider) = state.providers.get_mut(&handle) else {
            drop(state);
            thread.stop(&rules::ETW_HANDLE, format!("{handle:#x} is no provider"));
            return STATUS_INVALID_PARAMETER;
        };
        let is_whole = traits.first_chunk().is_some_and(|size| u16::from_le_bytes(*size) as usize == traits.len());
        if class != SET_TRAITS || !is_whole {
            return STATUS_INVALID_PARAMETER;
        }
        provider.traits = traits;
        STATUS_SUCCESS
    }

    /// Gives an event to the sessions that want it.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-etwwritetransfer", fail: STATUS_NO_MEMORY]
    fn EtwWriteTransfer(thread, handle: u64, descriptor: usize, activity: usize, related: usize, count: u32, parts: usize) -> i32 {
        Written { handle, descriptor, activity, related, count, parts }.give(thread)
    }
}
