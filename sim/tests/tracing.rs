//! Event tracing, called as a driver calls it: what sessions are given, what a provider is told, and what stops a machine.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sim::loader::probe;
use sim::nt::etw::Wanted;
use sim::nt::machine::{Call, Level, Machine, Options};
use sim::verifier::rules::{self, Rule};
use sim::verifier::schedule::{Mode, World};

const NT: &str = "ntoskrnl.exe";
const GUID: [u8; 16] = *b"a provider's own";

fn on_a_machine(body: impl FnOnce(&Machine)) {
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = Machine::boot(&world, Options { name: "test".into(), ..Options::default() });
    body(&machine);
}

/// Makes the calls, of which the last must stop the machine.
#[track_caller]
fn breaks(rule: &'static Rule, calls: impl FnOnce(&Machine)) {
    on_a_machine(|machine| {
        calls(machine);
        let report = machine.stop_report().unwrap_or_else(|| panic!("{rule}: nothing stopped"));
        assert_eq!(report.rule, rule, "{report}");
    });
}

/// Calls an import: its status, or that the machine has stopped.
fn nt(machine: &Machine, name: &'static str, arguments: &[u64]) -> Option<i32> {
    machine.call_import(NT, name, arguments).ok().map(|status| status as i32)
}

/// The same, at `DISPATCH_LEVEL`.
fn nt_at_dispatch(machine: &Machine, name: &'static str, arguments: &[u64]) -> Option<i32> {
    let call = Call::new(name, sim::nt::address(NT, name).unwrap(), Level::Dispatch);
    machine.call(call, arguments).ok().map(|status| status as i32)
}

/// Memory of the machine that has these bytes.
fn bytes(machine: &Machine, bytes: &[u8]) -> u64 {
    let at = machine.allocate(bytes.len());
    probe::write_bytes(at, bytes).unwrap();
    at as u64
}

fn register(machine: &Machine, callback: u64, context: u64) -> u64 {
    let handle = machine.allocate(8);
    let guid = bytes(machine, &GUID);
    assert_eq!(nt(machine, "EtwRegister", &[guid, callback, context, handle as u64]), Some(0));
    probe::read(handle).unwrap()
}

/// The arguments of `EtwWriteTransfer` for an event of a level and a keyword, whose one part is `part`.
fn event(machine: &Machine, handle: u64, level: u8, keyword: u64, part: (u64, u32)) -> [u64; 6] {
    let mut descriptor = [0; 16];
    descriptor[4] = level;
    descriptor[8..].copy_from_slice(&keyword.to_le_bytes());
    let (at, size) = part;
    let parts = [at, u64::from(size)].map(u64::to_le_bytes).concat();
    let (descriptor, parts) = (bytes(machine, &descriptor), bytes(machine, &parts));
    [handle, descriptor, 0, 0, 1, parts]
}

fn write(machine: &Machine, handle: u64, level: u8, keyword: u64, part: (u64, u32)) -> Option<i32> {
    nt(machine, "EtwWriteTransfer", &event(machine, handle, level, keyword, part))
}

static TOLD: [[AtomicU64; 4]; 8] = [const { [const { AtomicU64::new(0) }; 4] }; 8];
static TIMES_TOLD: AtomicUsize = AtomicUsize::new(0);

/// One by one: a driver may not use vector registers.
extern "win64" fn told(_: u64, code: u64, level: u64, any: u64, all: u64, _: u64, _: u64) {
    let [a, b, c, d] = &TOLD[TIMES_TOLD.fetch_add(1, Ordering::Relaxed) % 8];
    a.store(code & 0xFFFF_FFFF, Ordering::Relaxed);
    b.store(level & 0xFF, Ordering::Relaxed);
    c.store(any, Ordering::Relaxed);
    d.store(all, Ordering::Relaxed);
}

#[test]
fn sessions_get_what_they_want_and_providers_are_told_what_all_want() {
    on_a_machine(|machine| {
        let wanted = |level, any, all| Wanted { provider: GUID, level, any, all };
        let early = machine.begin_trace(wanted(4, 1, 0));
        let handle = register(machine, told as *const () as u64, 0);
        let late = machine.begin_trace(wanted(5, 6, 2));
        machine.flush_trace(late);
        let data = bytes(machine, b"values");
        for (level, keyword) in [(4, 1), (4, 0), (5, 2), (5, 4), (6, 0), (4, 3)] {
            assert_eq!(write(machine, handle, level, keyword, (data, 6)), Some(0));
        }
        let kept = |number| -> Vec<(u8, u64)> {
            let kept = machine.end_trace(number);
            assert!(
                kept.events.iter().all(|event| event.values == b"values" && event.provider == GUID)
            );
            kept.events.iter().map(|event| (event.level, event.keyword)).collect()
        };
        assert_eq!(kept(early), [(4, 1), (4, 0), (4, 3)]);
        assert_eq!(kept(late), [(4, 0), (5, 2), (4, 3)]);
        assert_eq!(write(machine, handle, 4, 1, (data, 6)), Some(0), "for nobody");
        assert_eq!(nt(machine, "EtwUnregister", &[handle]), Some(0));
        let all = [[1, 4, 1, 0], [1, 5, 7, 0], [2, 5, 6, 2], [1, 5, 6, 2], [0, 0, 0, 0]];
        assert_eq!(TIMES_TOLD.load(Ordering::Relaxed), all.len());
        for (told, all) in TOLD.iter().zip(all) {
            assert_eq!(told.each_ref().map(|word| word.load(Ordering::Relaxed)), all);
        }
        assert_eq!(machine.unload().map(|leaks| leaks.len()), Ok(0));
    });
}

#[test]
fn wrong_calls_are_stopped_by_name() {
    breaks(&rules::ETW_HANDLE, |machine| {
        let handle = register(machine, 0, 0);
        assert_eq!(nt(machine, "EtwUnregister", &[handle]), Some(0));
        assert_eq!(write(machine, handle, 4, 0, (0, 0)), None, "after it was unregistered");
    });
    breaks(&rules::ETW_HANDLE, |machine| {
        assert_eq!(nt(machine, "EtwUnregister", &[77]), None);
    });
    breaks(&rules::ETW_HANDLE, |machine| {
        let traits = bytes(machine, b"\x04\0A\0");
        let handle = register(machine, 0, 0);
        assert_eq!(nt(machine, "EtwSetInformation", &[handle, 2, traits, 4]), Some(0));
        assert_ne!(nt(machine, "EtwSetInformation", &[handle, 2, traits, 3]), Some(0));
        assert_eq!(nt(machine, "EtwSetInformation", &[handle + 1, 2, traits, 4]), None);
    });
    breaks(&rules::IRQL_NOT_LESS_OR_EQUAL, |machine| {
        let handle = register(machine, 0, 0);
        assert_eq!(nt_at_dispatch(machine, "EtwUnregister", &[handle]), None);
    });
    breaks(&rules::ETW_PAGED_DATA, |machine| {
        let handle = register(machine, 0, 0);
        let pool =
            |flags| machine.call_import(NT, "ExAllocatePool2", &[flags, 64, 0x7473_6554]).unwrap();
        let (paged, nonpaged) = (pool(0x100), pool(0x40));
        for place in [paged, nonpaged] {
            probe::write_bytes(place as usize, &[1; 64]).unwrap();
        }
        assert_eq!(write(machine, handle, 4, 0, (paged, 64)), Some(0), "at PASSIVE_LEVEL");
        let write_at_dispatch = |at| {
            let event = event(machine, handle, 4, 0, (at, 64));
            nt_at_dispatch(machine, "EtwWriteTransfer", &event)
        };
        assert_eq!(write_at_dispatch(nonpaged), Some(0));
        assert_eq!(write_at_dispatch(paged), None);
    });
}

#[test]
fn providers_are_unregistered_before_the_driver_goes() {
    breaks(&rules::ETW_REGISTRATION, |machine| {
        register(machine, 0, 0);
        assert!(machine.unload().is_err());
    });
}

static UNREGISTER: AtomicUsize = AtomicUsize::new(0);
static HANDLE: AtomicU64 = AtomicU64::new(0);

extern "win64" fn unregisters(_: u64, _: u64) {
    let address = UNREGISTER.load(Ordering::Relaxed);
    // SAFETY: the gate of EtwUnregister.
    let function: extern "win64" fn(u64) -> i32 = unsafe { std::mem::transmute(address) };
    function(HANDLE.load(Ordering::Relaxed));
}

#[test]
fn a_provider_is_not_unregistered_in_its_callback() {
    breaks(&rules::DEADLOCK_ETW, |machine| {
        UNREGISTER.store(sim::nt::address(NT, "EtwUnregister").unwrap(), Ordering::Relaxed);
        HANDLE.store(register(machine, unregisters as *const () as u64, 0), Ordering::Relaxed);
        machine.begin_trace(Wanted { provider: GUID, level: 0, any: 0, all: 0 });
    });
}
