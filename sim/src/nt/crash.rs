//! What drivers say when a machine stops, or is dumped: the callbacks of `KeRegisterBugCheckReasonCallback`, at `HIGH_LEVEL`.
//!
//! They are called whenever a dump is made, and once when a machine that has stopped is switched off, so that each stop of a
//! test tries them wherever it found the driver. Nothing else of the machine runs meanwhile. A driver may be unloaded with none
//! registered only.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::memory;
use crate::nt::status::{STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::nt::thread::{Call, Level, Outcome, Thread};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// `KbCallbackSecondaryDumpData`, `KbCallbackRemovePages` and `KbCallbackTriageDumpData`.
const SECONDARY: u32 = 2;
const REMOVE: u32 = 6;
const TRIAGE: u32 = 7;
/// Bytes of a `KBUGCHECK_REASON_CALLBACK_RECORD`, and where its fields are.
const RECORD: usize = 48;
const ROUTINE: usize = 16;
const COMPONENT: usize = 24;
const REASON: usize = 40;
/// The pages that one callback may name: more than memory has is a callback that does not end.
const MOST_PAGES: usize = 1 << 20;
/// `KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS` and `KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST`.
const VIRTUAL: u32 = 1;
const MORE: u32 = 0x8000_0000;
/// Where a `KTRIAGE_DUMP_DATA_ARRAY` has its fields: blocks used, blocks there is room for, and blocks.
const USED: usize = 16;
const ROOM: usize = 20;
const BLOCKS: usize = 48;
/// An address and a length.
const BLOCK: usize = 16;
/// `KE_MAX_TRIAGE_DUMP_DATA_MEMORY_SIZE`.
const MOST_TRIAGE: u32 = 32 << 20;
/// The buffer that a callback for secondary data is given.
const IN_BUFFER: u32 = 4096;
const PAGE: usize = 4096;

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A callback for pages to remove is called until it asks for no more, each time with the context that it left.
    [mark: Documented, source: "DDI wdm/ns-wdm-_kbugcheck_remove_pages"] PAGES_ARE_REMOVED_ONE_CALL_A_RANGE;
    /// It is asked for a dump of any size.
    [mark: Inferred, source: "DDI wdm/ns-wdm-_kbugcheck_remove_pages: \"from the crash dump file\""] REMOVED_FROM_ANY_DUMP;
    /// A callback for secondary data is asked for their size, then for them; there may be 1 MiB of them.
    [mark: Inferred, source: "WDD kernel/writing-a-bug-check-callback-routine, without the limit"] SECONDARY_DATA;
}

/// The callbacks of a machine.
#[derive(Default)]
pub(crate) struct Callbacks {
    registered: Mutex<Vec<usize>>,
    watched: AtomicBool,
    last: Mutex<Option<CrashData>>,
}

/// What the driver's callbacks have a dump hold, and not hold.
#[derive(Clone, Debug, Default)]
pub struct CrashData {
    /// Pages that no dump has.
    pub removed: BTreeSet<usize>,
    /// Memory that a small dump has: where, and its bytes.
    pub triage: Vec<(u64, Vec<u8>)>,
    /// Data behind a dump: their GUID, as memory has it, and the bytes.
    pub secondary: Vec<([u8; 16], Vec<u8>)>,
    /// Callbacks that did something wrong, in words.
    pub failed: Vec<String>,
}

/// One call of a callback.
struct Calling<'machine> {
    machine: &'machine Machine,
    record: usize,
    reason: u32,
    /// What it is called with.
    data: usize,
    length: usize,
}

impl Calling<'_> {
    fn call(&self) -> Result<(), String> {
        let routine = self.read::<usize>(self.record + ROUTINE)?;
        let call = Call::new("BugCheckReasonCallback", routine, Level::Current);
        let arguments =
            [self.reason.into(), self.record as u64, self.data as u64, self.length as u64];
        match Thread::with(self.machine, |thread| thread.last_words(call, &arguments)) {
            Outcome::Returned(_) => Ok(()),
            other => Err(format!("the callback for reason {} ended with {other:?}", self.reason)),
        }
    }

    fn read<T: probe::Plain>(&self, at: usize) -> Result<T, String> {
        probe::read(at).map_err(|Fault(at)| format!("reason {}: nothing at {at:#x}", self.reason))
    }

    fn set<T: probe::Plain>(&self, at: usize, value: T) {
        self.machine.poke(self.data + at, value);
    }

    fn get<T: probe::Plain>(&self, at: usize) -> Result<T, String> {
        self.read(self.data + at)
    }

    fn remove(&self, removed: &mut BTreeSet<usize>) -> Result<(), String> {
        self.set(12, self.code());
        for _ in 0..MOST_PAGES {
            self.call()?;
            let (flags, at, count) =
                (self.get::<u32>(8)?, self.get::<usize>(16)?, self.get::<usize>(24)?);
            if flags & VIRTUAL == 0 || !at.is_multiple_of(PAGE) || count > MOST_PAGES {
                return Err(format!("no pages: flags {flags:#x}, {count} at {at:#x}"));
            }
            removed.extend((0..count).map(|page| at + page * PAGE));
            if flags & MORE == 0 {
                return Ok(());
            }
        }
        Err("pages are removed without end".into())
    }

    fn triage(&self, all: &mut Vec<(u64, Vec<u8>)>) -> Result<(), String> {
        self.set(8, 1_u32);
        self.set(12, MOST_TRIAGE);
        self.set(16, self.code());
        let stop = self.machine.stop_report();
        for (at, word) in stop.map_or([0; 4], |stop| stop.parameters).iter().enumerate() {
            self.set(24 + 8 * at, *word);
        }
        self.call()?;
        let array = self.get::<usize>(0)?;
        if array == 0 {
            return Ok(());
        }
        for block in 0..self.read::<u32>(array + USED)? as usize {
            let at = self.read::<usize>(array + BLOCKS + block * BLOCK)?;
            let bytes = self.read::<usize>(array + BLOCKS + block * BLOCK + 8)?;
            all.push((at as u64, memory::bytes(at, bytes)));
        }
        Ok(())
    }

    fn secondary(&self, all: &mut Vec<([u8; 16], Vec<u8>)>) -> Result<(), String> {
        let room = self.machine.allocate(IN_BUFFER as usize);
        let most = 1_u32 << 20;
        let mut asked = Ok(());
        for out in [0, room] {
            self.set(0, room);
            self.set(8, IN_BUFFER);
            self.set(12, most);
            self.set(32, out);
            self.set(40, 0_u32);
            asked = asked.and_then(|()| self.call());
        }
        self.machine.release(room);
        asked?;
        let (at, bytes) = (self.get::<usize>(32)?, self.get::<u32>(40)?);
        if bytes > most {
            return Err(format!("{bytes} bytes of secondary data, of at most {most}"));
        }
        let guid: [u64; 2] = [self.get(16)?, self.get(24)?];
        let guid: Vec<u8> = guid.iter().flat_map(|word| word.to_le_bytes()).collect();
        let guid = guid.try_into().map_err(|_| "a GUID".to_owned())?;
        all.push((guid, memory::bytes(at, bytes as usize)));
        Ok(())
    }

    fn code(&self) -> u32 {
        self.machine.stop_report().map_or(0, |stop| stop.code)
    }
}

impl Machine {
    /// What the driver's callbacks say of a dump that is made now. Nothing of the machine may run meanwhile (Virtual mode), or
    /// it has stopped; then they are called once.
    pub fn crash_data(&self) -> CrashData {
        let callbacks = self.extension::<Callbacks>();
        let mut last = lock(&callbacks.last);
        if let Some(known) = last.as_ref().filter(|_| self.is_dead()) {
            return known.clone();
        }
        let mut told = CrashData::default();
        for record in lock(&callbacks.registered).clone() {
            let reason = probe::read::<u32>(record + REASON).unwrap_or(0);
            let length = match reason {
                REMOVE => 32,
                TRIAGE => 56,
                _ => 48,
            };
            let data = self.allocate(length);
            let calling = Calling { machine: self, record, reason, data, length };
            let done = match reason {
                REMOVE => calling.remove(&mut told.removed),
                TRIAGE => calling.triage(&mut told.triage),
                SECONDARY => calling.secondary(&mut told.secondary),
                other => Err(format!("reason {other} of a record that was changed")),
            };
            told.failed.extend(done.err());
            self.release(data);
        }
        *last = Some(told.clone());
        told
    }
}

/// Whether the callback was taken.
fn register(
    machine: &Machine,
    record: usize,
    routine: usize,
    reason: u32,
    component: usize,
) -> Result<bool, Fault> {
    let callbacks = machine.extension::<Callbacks>();
    let mut registered = lock(&callbacks.registered);
    if registered.contains(&record) || !matches!(reason, SECONDARY | REMOVE | TRIAGE) {
        return Ok(false);
    }
    probe::bytes(record, RECORD)?;
    probe::write(record + ROUTINE, routine)?;
    probe::write(record + COMPONENT, component)?;
    probe::write(record + REASON, reason)?;
    registered.push(record);
    if !callbacks.watched.swap(true, Ordering::AcqRel) {
        machine.at_unload(|machine, _| {
            let left = lock(&machine.extension::<Callbacks>().registered).len();
            if left > 0 {
                machine.die(&rules::BUGCHECK_CALLBACK, format!("{left} of them"));
            }
        });
    }
    Ok(true)
}

fn add_block(array: usize, at: usize, bytes: usize) -> Result<i32, Fault> {
    let (used, room) = (probe::read::<u32>(array + USED)?, probe::read::<u32>(array + ROOM)?);
    for block in 0..used as usize {
        let place = array + BLOCKS + block * BLOCK;
        if (probe::read(place)?, probe::read(place + 8)?) == (at, bytes) {
            return Ok(STATUS_SUCCESS);
        }
    }
    if used >= room {
        return Ok(STATUS_INSUFFICIENT_RESOURCES);
    }
    let place = array + BLOCKS + used as usize * BLOCK;
    probe::write(place, at)?;
    probe::write(place + 8, bytes)?;
    probe::write(array + USED, used + 1)?;
    Ok(STATUS_SUCCESS)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Registers a callback; a record that is registered is not taken again.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-keregisterbugcheckreasoncallback", fail: 0]
    fn KeRegisterBugCheckReasonCallback(thread, record: usize, routine: usize, reason: u32, component: usize) -> u8 {
        match register(thread.machine(), record, routine, reason, component) {
            Ok(taken) => u8::from(taken),
            Err(Fault(address)) => {
                thread.bad_pointer("CallbackRecord", address);
                0
            }
        }
    }

    /// Removes a callback; false if it is not registered.
    [max: HIGH, mark: Documented, source: "DDI wdm/nf-wdm-kederegisterbugcheckreasoncallback"]
    fn KeDeregisterBugCheckReasonCallback(thread, record: usize) -> u8 {
        let callbacks = thread.machine().extension::<Callbacks>();
        let mut registered = lock(&callbacks.registered);
        let before = registered.len();
        registered.retain(|other| *other != record);
        u8::from(registered.len() < before)
    }

    /// Makes an array of no blocks, and of as many as there is room for.
    [max: HIGH, mark: Inferred, source: "DDI wdm/nf-wdm-keinitializetriagedumpdataarray, without statuses and IRQL", fail: STATUS_INSUFFICIENT_RESOURCES]
    fn KeInitializeTriageDumpDataArray(thread, array: usize, size: u32) -> i32 {
        let Some(room) = (size as usize).checked_sub(BLOCKS + BLOCK) else { return STATUS_INVALID_PARAMETER };
        let made = probe::fill(array, 0, size as usize)
            .and_then(|()| probe::write(array + ROOM, (room / BLOCK + 1) as u32));
        match made {
            Ok(()) => STATUS_SUCCESS,
            Err(Fault(address)) => thread.bad_pointer("KtriageDumpDataArray", address),
        }
    }

    /// Adds memory to a small dump; the same memory again is not added twice.
    [max: HIGH, mark: Inferred, source: "DDI wdm/nf-wdm-keaddtriagedumpdatablock, without statuses and IRQL"]
    fn KeAddTriageDumpDataBlock(thread, array: usize, at: usize, bytes: usize) -> i32 {
        match add_block(array, at, bytes) {
            Ok(status) => status,
            Err(Fault(address)) => thread.bad_pointer("KtriageDumpDataArray", address),
        }
    }
}
