//! The functions of ntoskrnl and cng, called as a driver calls them: through the gates, in both run modes.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sim::host::memory::Network;
use sim::loader::probe;
use sim::nt::machine::{Call, Level, Machine, Options, Power};
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::verifier::rules::{self, Rule};
use sim::verifier::schedule::{Mode, World};

const NT: &str = "ntoskrnl.exe";
const NETIO: &str = "netio.sys";
const MODES: [Mode; 2] = [Mode::Parallel, Mode::Virtual { seed: 5 }];

fn boot(world: &Arc<World>, cpus: u32) -> Power {
    bind();
    Machine::boot(world, Options { name: "test".into(), cpus, ..Options::default() })
}

/// Calls an import that must not stop the machine.
#[track_caller]
fn nt(machine: &Machine, name: &'static str, arguments: &[u64]) -> u64 {
    match machine.call_import(NT, name, arguments) {
        Ok(value) => value,
        Err(_) => panic!("{name} stopped the machine: {}", machine.stop_report().unwrap()),
    }
}

/// Calls an import that must stop the machine; returns the report.
#[track_caller]
fn stopped(machine: &Machine, name: &'static str, arguments: &[u64]) -> String {
    assert!(machine.call_import(NT, name, arguments).is_err(), "{name} did not stop the machine");
    machine.stop_report().unwrap().to_string()
}

#[test]
fn what_is_for_dispatch_level_is_refused_below_it() {
    for mode in MODES {
        let world = World::new(mode);
        let _main = world.enter("main");
        let machine = boot(&world, 2);
        let lock = machine.allocate(8) as u64;
        let report = stopped(&machine, "KeReleaseSpinLockFromDpcLevel", &[lock]);
        assert!(report.contains("IRQL_NOT_LESS_OR_EQUAL"), "{report}");
        let rule = &rules::IRQL_NOT_LESS_OR_EQUAL;
        assert!(report.contains(&format!("rule: {} (DDI compliance: ", rule.forbids)), "{report}");
    }
}

/// Makes the calls in one driver callback; the last of them must stop the machine.
#[track_caller]
fn breaks(rule: &Rule, calls: &dyn Fn(&Machine)) {
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = boot(&world, 2);
    calls(&machine);
    let report = machine.stop_report().unwrap_or_else(|| panic!("{rule}: nothing stopped"));
    assert_eq!(report.rule, rule, "{report}");
    let shown = report.to_string();
    assert!(shown.contains(rule.name) && shown.contains(rule.forbids), "{shown}");
}

/// Calls an import, whatever comes of it.
fn attempt(machine: &Machine, dll: &str, name: &'static str, arguments: &[u64]) {
    let _ = machine.call_import(dll, name, arguments);
}

#[test]
fn callbacks_at_a_bugcheck_are_deregistered() {
    extern "win64" fn says(_: u64, _: u64) {}
    breaks(&rules::BUGCHECK_CALLBACK, &|machine| {
        let record = machine.allocate(48) as u64;
        let register = |record: u64, reason: u64| {
            let arguments = [record, says as *const () as u64, reason, record];
            nt(machine, "KeRegisterBugCheckReasonCallback", &arguments) as u8
        };
        assert_eq!(register(record, 99), 0, "no reason");
        assert_eq!((register(record, 6), register(record, 6)), (1, 0), "twice");
        assert_eq!(nt(machine, "KeDeregisterBugCheckReasonCallback", &[record]) as u8, 1);
        assert_eq!(nt(machine, "KeDeregisterBugCheckReasonCallback", &[record]) as u8, 0);
        assert_eq!(machine.unload().map(|leaks| leaks.len()), Ok(0));
        assert_eq!(register(record, 7), 1);
        assert!(machine.unload().is_err());
    });
}

/// What a callback says is taken as documented: pages one call after the other, memory of a small dump, data behind it.
#[test]
fn callbacks_at_a_bugcheck_say_what_a_dump_is_to_hold() {
    use std::sync::atomic::AtomicU64;
    static MEMORY: AtomicU64 = AtomicU64::new(0);
    fn at(address: u64) -> *mut u64 {
        std::ptr::with_exposed_provenance_mut(address as usize)
    }
    fn set(address: u64, word: u64) {
        // SAFETY: the simulator's structures, or memory of this test, as aligned as they are.
        unsafe { at(address).write_unaligned(word) }
    }
    extern "win64" fn removes(_: u64, _: u64, data: u64) {
        // SAFETY: as above.
        let round = unsafe { at(data).read_unaligned() };
        set(data, round + 1);
        set(data + 16, 0x1000 * (5 + 2 * round));
        set(data + 24, 2);
        // SAFETY: as above: `Flags` alone.
        unsafe {
            at(data + 8).cast::<u32>().write_unaligned(if round < 2 { 0x8000_0001 } else { 1 })
        }
    }
    extern "win64" fn shows(_: u64, _: u64, data: u64) {
        set(data, MEMORY.load(Ordering::Relaxed));
    }
    extern "win64" fn appends(_: u64, _: u64, data: u64) {
        set(data + 16, 0x1122);
        set(data + 32, MEMORY.load(Ordering::Relaxed));
        set(data + 40, 16);
    }
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = boot(&world, 2);
    let memory = machine.allocate(4096) as u64;
    MEMORY.store(memory, Ordering::Relaxed);
    assert_eq!(nt(&machine, "KeInitializeTriageDumpDataArray", &[memory, 63]) as u32, 0xC000_000D);
    assert_eq!(nt(&machine, "KeInitializeTriageDumpDataArray", &[memory, 64]), 0);
    for (bytes, status) in [(32, 0), (32, 0), (31, 0xC000_009A)] {
        assert_eq!(
            nt(&machine, "KeAddTriageDumpDataBlock", &[memory, memory, bytes]) as u32,
            status
        );
    }
    let callbacks: [(extern "win64" fn(u64, u64, u64), u64); 3] =
        [(removes, 6), (shows, 7), (appends, 2)];
    for (routine, reason) in callbacks {
        let record = machine.allocate(48) as u64;
        let arguments = [record, routine as *const () as u64, reason, record];
        assert_eq!(nt(&machine, "KeRegisterBugCheckReasonCallback", &arguments) as u8, 1);
    }
    for dies in [false, true] {
        if dies {
            machine.die(&rules::SIMULATOR, "on purpose");
        }
        let told = machine.crash_data();
        assert_eq!(told.failed, [""; 0]);
        let pages: Vec<usize> = told.removed.into_iter().collect();
        assert_eq!(pages, [0x5000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000]);
        assert_eq!(told.triage.len(), 1);
        assert_eq!((told.triage[0].0, told.triage[0].1.len()), (memory, 32));
        assert_eq!(told.secondary.len(), 1);
        assert_eq!(
            (told.secondary[0].0[..2].to_vec(), told.secondary[0].1.len()),
            (vec![0x22, 0x11], 16)
        );
    }
}

#[test]
fn spin_locks_have_one_owner() {
    extern "win64" fn twice(lock: u64, _: u64) {
        import(RAISE_AND_ACQUIRE, [lock, 0]);
        import(ACQUIRE, [lock, 0]);
    }
    extern "win64" fn lowers(lock: u64, _: u64) {
        import(RAISE_AND_ACQUIRE, [lock, 0]);
        import(LOWER, [0, 0]);
    }
    extern "win64" fn keeps(lock: u64, _: u64) {
        import(ACQUIRE, [lock, 0]);
    }
    extern "win64" fn releases(lock: u64, _: u64) {
        import(RELEASE, [lock, 0]);
    }
    for (rule, function, level) in [
        (&rules::SPIN_LOCK_ALREADY_OWNED, twice as Callback, Level::Passive),
        (&rules::IRQL_UNDER_SPIN_LOCK, lowers, Level::Passive),
        (&rules::SPIN_LOCK_HELD, keeps, Level::Dispatch),
        (&rules::SPIN_LOCK_NOT_OWNED, releases, Level::Dispatch),
    ] {
        breaks(rule, &|machine| {
            let call = Call::new("callback", function as *const () as usize, level);
            assert!(machine.call(call, &[machine.allocate(8) as u64, 0]).is_err());
        });
    }
}

#[test]
fn spin_locks_are_taken_in_one_order_and_not_for_long() {
    extern "win64" fn both(first: u64, second: u64) {
        import(ACQUIRE, [first, 0]);
        import(ACQUIRE, [second, 0]);
        import(RELEASE, [second, 0]);
        import(IRQL, [0, 0]);
        import(RELEASE, [first, 0]);
    }
    let call = Call::new("callback", both as *const () as usize, Level::Dispatch);
    breaks(&rules::SPIN_LOCK_ORDER, &|machine| {
        let locks = [(); 3].map(|()| machine.allocate(8) as u64);
        for (first, second) in [(0, 1), (1, 2), (0, 2), (0, 1)] {
            assert_eq!(machine.call(call, &[locks[first], locks[second]]).map(drop), Ok(()));
        }
        // Three CPUs could wait for each other.
        assert!(machine.call(call, &[locks[2], locks[0]]).is_err());
    });
    breaks(&rules::SPIN_LOCK_HELD_TOO_LONG, &|machine| {
        let locks = [(); 2].map(|()| machine.allocate(8) as u64);
        assert!(machine.call(call, &locks).is_ok());
        machine.faults().stall("KeGetCurrentIrql", 0, Duration::from_micros(26));
        assert!(machine.call(call, &locks).is_err());
    });
    // A lock in memory that was given up is another one when the memory is used again.
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = boot(&world, 1);
    let locks = [(); 2].map(|()| nt(&machine, "ExAllocatePool2", &[0x40, 8, 7]));
    assert!(machine.call(call, &locks).is_ok());
    let address = locks[0];
    nt(&machine, "ExFreePoolWithTag", &[address, 7]);
    let other = nt(&machine, "ExAllocatePool2", &[0x40, 8, 7]);
    assert!(machine.call(call, &[locks[1], other]).is_ok(), "{}", machine.stop_report().unwrap());
}

#[test]
fn a_cpu_is_not_kept_at_dispatch_level() {
    extern "win64" fn works(_: u64, _: u64) {
        import(IRQL, [0, 0]);
    }
    let call = Call::new("DPC", works as *const () as usize, Level::Dispatch);
    breaks(&rules::DPC_WATCHDOG_VIOLATION, &|machine| {
        machine.faults().stall("KeGetCurrentIrql", 0, Duration::from_millis(999));
        assert!(machine.call(call, &[0, 0]).is_ok());
        machine.faults().stall("KeGetCurrentIrql", 0, Duration::from_millis(1001));
        assert!(machine.call(call, &[0, 0]).is_err());
    });
}

#[test]
fn nobody_waits_at_dispatch_level() {
    extern "win64" fn waits(event: u64, _: u64) {
        import(WAIT, [event, 0]);
    }
    breaks(&rules::ATTEMPTED_SWITCH_FROM_DPC, &|machine| {
        let call = Call::new("DPC", waits as *const () as usize, Level::Dispatch);
        assert!(machine.call(call, &[machine.allocate(24) as u64, 0]).is_err());
    });
}

#[test]
fn vector_state_is_restored_once() {
    breaks(&rules::EXTENDED_STATE, &|machine| {
        let place = machine.allocate(1024) as u64;
        attempt(machine, NT, "KeRestoreExtendedProcessorState", &[place]);
    });
}

#[test]
fn a_driver_may_stop_the_machine() {
    breaks(&rules::KE_BUG_CHECK, &|machine| {
        attempt(machine, NT, "KeBugCheckEx", &[0xE2, 1, 2, 3, 4]);
        assert_eq!(machine.stop_report().unwrap().code, 0xE2);
    });
}

#[test]
fn wrong_objects_are_refused_by_name() {
    extern "win64" fn ends(_: u64, _: u64) {
        import(END_THREAD, [0, 0]);
    }
    let no_dpc = [0_u64, 0];
    type Wrong<'w> = (&'w Rule, &'static str, &'static str, &'w [u64]);
    let wrongs: [Wrong<'_>; 8] = [
        (&rules::EVENT, NT, "KeInitializeEvent", &[64, 2, 0]),
        (&rules::PRIORITY, NT, "KeSetPriorityThread", &[64, 32]),
        (&rules::TIMER_OR_DPC_INVALID, NT, "ExSetTimer", &[64, 0, 0, 0]),
        (&rules::EX_TIMER, NT, "ExDeleteTimer", &[64, 0, 1, 0]),
        (&rules::IP_HELPER_TABLE, NETIO, "FreeMibTable", &[64]),
        (&rules::IP_HELPER_NOTIFICATION, NETIO, "CancelMibChangeNotify2", &[64]),
        (&rules::NOT_PROVIDED, NT, "__C_specific_handler", &no_dpc),
        (&rules::HANDLE, NT, "ZwClose", &[12]),
    ];
    for (rule, dll, name, arguments) in wrongs {
        breaks(rule, &|machine| attempt(machine, dll, name, arguments));
    }
    breaks(&rules::WAIT, &|machine| {
        let place = machine.allocate(64);
        probe::write(place, 77_u8).unwrap();
        attempt(machine, NT, "KeWaitForSingleObject", &[place as u64, 0, 0, 0, 0]);
    });
    breaks(&rules::SUBJECT_CONTEXT, &|machine| {
        attempt(machine, NT, "SeReleaseSubjectContext", &[machine.allocate(32) as u64]);
    });
    breaks(&rules::THREAD_ENDED, &|machine| {
        let _ = machine
            .call(Call::new("callback", ends as *const () as usize, Level::Passive), &[0, 0]);
    });
}

/// Cancelling a notification waits for its callback, so not in the callback.
#[test]
fn a_notification_is_not_cancelled_in_its_callback() {
    extern "win64" fn notified(context: u64, _: u64) {
        import(CANCEL, [probe::read(context as usize).unwrap(), 0]);
    }
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    bind();
    let choices = [("INITIAL_NOTIFICATION_IS_SYNCHRONOUS".to_owned(), false)].into();
    let machine = Machine::boot(&world, Options { choices, ..Options::default() });
    let network = Network::new(&world);
    let host: Arc<dyn sim::host::Outer> = network.plug_in(&["192.0.2.1".parse().unwrap()]);
    sim::nt::netio::attach(&machine, &host);
    let handle = machine.allocate(8) as u64;
    let arguments = [0, notified as *const () as u64, handle, 1, handle];
    attempt(&machine, NETIO, "NotifyIpInterfaceChange", &arguments);
    world.sleep(Duration::from_millis(50));
    let report = machine.stop_report().unwrap();
    assert_eq!(report.rule, &rules::DEADLOCK_CHANGE_NOTIFICATION, "{report}");
}

type Callback = extern "win64" fn(u64, u64);

/// What the callbacks here import, bound before they run: a look-up would use vector registers, which a driver must save.
const IMPORTS: [(&str, &str); 8] = [
    (NT, "KeAcquireSpinLockRaiseToDpc"),
    (NT, "KeAcquireSpinLockAtDpcLevel"),
    (NT, "KeReleaseSpinLockFromDpcLevel"),
    (NT, "KeLowerIrql"),
    (NT, "KeGetCurrentIrql"),
    (NT, "KeWaitForSingleObject"),
    (NT, "PsTerminateSystemThread"),
    (NETIO, "CancelMibChangeNotify2"),
];
const RAISE_AND_ACQUIRE: usize = 0;
const ACQUIRE: usize = 1;
const RELEASE: usize = 2;
const LOWER: usize = 3;
const IRQL: usize = 4;
const WAIT: usize = 5;
const END_THREAD: usize = 6;
const CANCEL: usize = 7;
static BOUND: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

fn bind() {
    for ((dll, name), slot) in IMPORTS.iter().zip(&BOUND) {
        slot.store(sim::nt::address(dll, name).unwrap(), Ordering::SeqCst);
    }
}

/// Calls an import from driver code.
fn import(number: usize, arguments: [u64; 2]) -> u64 {
    let address = BOUND[number].load(Ordering::SeqCst);
    // SAFETY: the gate of a function of at most five arguments, of which those that are not given do not matter here.
    let function: extern "win64" fn(u64, u64, u64, u64, u64) -> u64 =
        unsafe { std::mem::transmute(address) };
    function(arguments[0], arguments[1], 0, 0, 0)
}

#[test]
fn an_irql_that_a_call_leaves_raised_is_a_stop() {
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = boot(&world, 1);
    let report = stopped(&machine, "KfRaiseIrql", &[2]);
    assert!(report.contains("IRQL_UNEXPECTED_VALUE"), "{report}");
    // And the process goes on with another machine.
    let other = boot(&world, 1);
    assert_eq!(nt(&other, "KeGetCurrentIrql", &[]) as u8, 0);
}

#[test]
fn pool_is_aligned_zeroed_tagged_and_counted() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let tag = u64::from(u32::from_le_bytes(*b"Test"));
    for size in [1_u64, 16, 100, 4095, 4096, 70_000] {
        let block = nt(&machine, "ExAllocatePool2", &[0x40, size, tag]) as usize;
        assert_ne!(block, 0);
        assert!(block.is_multiple_of(if size >= 4096 { 4096 } else { 16 }), "{size}: {block:#x}");
        let bytes = probe::bytes(block, size as usize).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        // Special pool: the first byte past the (aligned) block is not there.
        assert!(
            probe::read::<u8>(block + (size as usize).next_multiple_of(16)).is_err()
                || size >= 4096
        );
        nt(&machine, "ExFreePoolWithTag", &[block as u64, tag]);
        assert!(probe::read::<u8>(block).is_err(), "freed memory is still there");
    }
    let leaked = nt(&machine, "ExAllocatePool2", &[0x40, 10, tag]);
    let leaks = machine.unload().unwrap();
    assert_eq!(leaks.len(), 1, "{leaks:?}");
    assert!(leaks[0].to_string().contains("1 blocks, 10 bytes, tag 'Test'"), "{}", leaks[0]);
    let report = stopped(&machine, "ExFreePoolWithTag", &[leaked, 7]);
    assert!(report.contains("BAD_POOL_CALLER") && report.contains("has tag 'Test'"), "{report}");
}

#[test]
fn freeing_twice_and_wrong_flags_are_stops() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let block = nt(&machine, "ExAllocatePool2", &[0x40, 10, 7]);
    nt(&machine, "ExFreePoolWithTag", &[block, 7]);
    let report = stopped(&machine, "ExFreePoolWithTag", &[block, 7]);
    assert!(report.contains("BAD_POOL_CALLER") && report.contains("was freed before"), "{report}");
    for (flags, why) in [(0x140, "exactly one kind"), (0x80, "HVCI"), (0x60, "RAISE_ON_FAILURE")] {
        let machine = boot(&world, 1);
        let report = stopped(&machine, "ExAllocatePool2", &[flags, 10, 7]);
        assert!(report.contains(why), "{report}");
    }
}

#[test]
fn the_chosen_allocation_fails() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    machine.faults().fail_at(1);
    let blocks = [(); 3].map(|()| nt(&machine, "ExAllocatePool2", &[0x40, 10, 7]));
    assert!(blocks[0] != 0 && blocks[1] == 0 && blocks[2] != 0);
    assert_eq!(machine.faults().counted(), 3);
}

#[test]
fn a_bad_pointer_stops_by_name_and_not_the_process() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let report = stopped(&machine, "KeSetEvent", &[0x40, 0, 0]);
    assert!(report.contains("Event of KeSetEvent is 0x40"), "{report}");
}

#[test]
fn events_signal_reset_and_time_out() {
    for mode in MODES {
        let world = World::new(mode);
        let _main = world.enter("main");
        let machine = boot(&world, 2);
        let event = machine.allocate(24) as u64;
        let timeout = machine.allocate(8);
        let wait = |due: i64| {
            probe::write(timeout, due).unwrap();
            nt(&machine, "KeWaitForSingleObject", &[event, 0, 0, 0, timeout as u64]) as i32
        };
        for (kind, second) in [(0, 0), (1, 0x102)] {
            nt(&machine, "KeInitializeEvent", &[event, kind, 0]);
            let before = world.now();
            assert_eq!(wait(-200_000), 0x102, "nobody has set it");
            assert!(world.now() - before >= Duration::from_millis(20));
            assert_eq!(nt(&machine, "KeSetEvent", &[event, 0, 0]), 0);
            assert_eq!(wait(0), 0);
            assert_eq!(wait(0), second, "a synchronization event resets itself");
            nt(&machine, "KeSetEvent", &[event, 0, 0]);
            nt(&machine, "KeClearEvent", &[event]);
            assert_eq!(wait(0), 0x102);
        }
        let (other, waker) = (machine.clone(), world.clone());
        let setter = world.spawn("setter", move || {
            waker.sleep(Duration::from_millis(30));
            nt(&other, "KeSetEvent", &[event, 0, 0]);
        });
        assert_eq!(wait(-50_000_000_000), 0);
        assert!(setter.join(None));
    }
}

#[test]
fn a_wait_that_nobody_can_end_is_a_deadlock() {
    let world = World::new(Mode::Virtual { seed: 2 });
    let _main = world.enter("main");
    let machine = boot(&world, 1);
    let event = machine.allocate(24) as u64;
    nt(&machine, "KeInitializeEvent", &[event, 0, 0]);
    let report = stopped(&machine, "KeWaitForSingleObject", &[event, 0, 0, 0, 0]);
    assert!(report.contains("DEADLOCK"), "{report}");
}

#[test]
fn rundown_waits_for_its_users() {
    for mode in MODES {
        let world = World::new(mode);
        let _main = world.enter("main");
        let machine = boot(&world, 1);
        let rundown = machine.allocate(8) as u64;
        nt(&machine, "ExInitializeRundownProtection", &[rundown]);
        assert_eq!(nt(&machine, "ExAcquireRundownProtection", &[rundown]) as u8, 1);
        let (other, sleeper) = (machine.clone(), world.clone());
        let user = world.spawn("user", move || {
            sleeper.sleep(Duration::from_millis(30));
            nt(&other, "ExReleaseRundownProtection", &[rundown]);
        });
        let before = world.now();
        nt(&machine, "ExWaitForRundownProtectionRelease", &[rundown]);
        assert!(world.now() - before >= Duration::from_millis(25));
        assert_eq!(nt(&machine, "ExAcquireRundownProtection", &[rundown]) as u8, 0);
        nt(&machine, "ExReInitializeRundownProtection", &[rundown]);
        assert_eq!(nt(&machine, "ExAcquireRundownProtection", &[rundown]) as u8, 1);
        nt(&machine, "ExReleaseRundownProtection", &[rundown]);
        assert!(user.join(None));
        let report = stopped(&machine, "ExReleaseRundownProtection", &[rundown]);
        assert!(report.contains("RUNDOWN PROTECTION") && report.contains("more often"), "{report}");
    }
}

#[test]
fn mdls_describe_nonpaged_pool_only() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let block = nt(&machine, "ExAllocatePool2", &[0x40, 9000, 7]);
    let mdl = nt(&machine, "IoAllocateMdl", &[block + 100, 8000, 0, 0, 0]);
    nt(&machine, "MmBuildMdlForNonPagedPool", &[mdl]);
    let pieces = sim::nt::mm::pieces(mdl as usize).unwrap();
    assert_eq!(pieces, [sim::nt::mm::Piece { address: block as usize + 100, length: 8000 }]);
    assert_eq!(probe::read::<u64>(mdl as usize + 24).unwrap(), block + 100);
    assert_eq!(probe::read::<u16>(mdl as usize + 10).unwrap(), 4);
    nt(&machine, "IoFreeMdl", &[mdl]);
    let paged = nt(&machine, "ExAllocatePool2", &[0x100, 100, 7]);
    let mdl = nt(&machine, "IoAllocateMdl", &[paged, 100, 0, 0, 0]);
    let report = stopped(&machine, "MmBuildMdlForNonPagedPool", &[mdl]);
    assert!(report.contains("MDL (0x0") && report.contains("paged pool"), "{report}");
}

#[test]
fn irps_cannot_be_freed_while_sent() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let irp = nt(&machine, "IoAllocateIrp", &[1, 0]);
    assert!(machine.with_thread(|thread| sim::nt::io::take_irp(thread, irp as usize)));
    assert!(stopped(&machine, "IoFreeIrp", &[irp]).contains("has not completed"));
    let machine = boot(&world, 1);
    let irp = nt(&machine, "IoAllocateIrp", &[1, 0]);
    nt(&machine, "IoReuseIrp", &[irp, 5]);
    assert_eq!(probe::read::<u32>(irp as usize + 48).unwrap(), 5);
    nt(&machine, "IoFreeIrp", &[irp]);
    assert!(machine.unload().unwrap().is_empty());
    breaks(&rules::IRP, &|machine| attempt(machine, NT, "IoFreeIrp", &[64]));
    breaks(&rules::MULTIPLE_IRP_COMPLETE_REQUESTS, &|machine| {
        let irp = nt(machine, "IoAllocateIrp", &[1, 0]) as usize;
        assert!(sim::nt::io::complete_irp(machine, irp, 0, 0, Level::Current).is_err());
    });
}

#[test]
fn the_clock_is_nts() {
    let world = World::new(Mode::Virtual { seed: 1 });
    let _main = world.enter("main");
    let machine = boot(&world, 1);
    let place = machine.allocate(8);
    let before = nt(&machine, "KeQueryInterruptTimePrecise", &[place as u64]);
    world.sleep(Duration::from_secs(3));
    assert_eq!(nt(&machine, "KeQueryInterruptTimePrecise", &[place as u64]) - before, 30_000_000);
    nt(&machine, "KeQuerySystemTimePrecise", &[place as u64]);
    // 2026-01-01 and three seconds, in 100 ns since 1601.
    assert_eq!(probe::read::<u64>(place).unwrap(), (11_644_473_600 + 1_767_225_603) * 10_000_000);
}

#[test]
fn random_bytes_repeat_with_the_seed() {
    let draw = |seed| {
        let world = World::new(Mode::Virtual { seed });
        let _main = world.enter("main");
        let machine = boot(&world, 1);
        let buffer = machine.allocate(32);
        assert_eq!(
            machine.call_import("cng.sys", "BCryptGenRandom", &[0, buffer as u64, 32, 2]),
            Ok(0)
        );
        assert_eq!(
            machine.call_import("cng.sys", "BCryptGenRandom", &[0, buffer as u64, 32, 0]).unwrap()
                as u32,
            0xC000_000D
        );
        probe::bytes(buffer, 32).unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_foreign_handle_and_object_are_stops() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let process = nt(&machine, "IoGetCurrentProcess", &[]);
    nt(&machine, "ObfReferenceObject", &[process]);
    let leaks = machine.unload().unwrap();
    assert!(leaks[0].to_string().contains("1 to System (4)"), "{leaks:?}");
    nt(&machine, "ObfDereferenceObject", &[process]);
    assert!(machine.unload().unwrap().is_empty());
    let report = stopped(&machine, "ZwClose", &[12]);
    assert!(report.contains("HANDLE (0x0") && report.contains("no open handle"), "{report}");
    let machine = boot(&world, 1);
    let report = stopped(&machine, "ObfDereferenceObject", &[0x1000]);
    assert!(report.contains("REFERENCE_BY_POINTER") && report.contains("no object"), "{report}");
}

#[test]
fn the_caller_is_the_process_of_the_call() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let process = Process::start("ctl", Token::user());
    let seen = machine.as_process(&process, || nt(&machine, "IoGetCurrentProcess", &[]));
    assert_eq!(seen as usize, process.object());
    assert_ne!(nt(&machine, "IoGetCurrentProcess", &[]) as usize, process.object());
    assert!(machine.process(process.object()).is_some());
}

#[test]
fn a_missing_function_stops_by_name() {
    let world = World::new(Mode::Parallel);
    let machine = boot(&world, 1);
    let address = sim::nt::missing("WdfXyz");
    assert_eq!(address, sim::nt::missing("WdfXyz"));
    let call = sim::nt::thread::Call::new("table slot", address, sim::nt::thread::Level::Passive);
    assert!(machine.call(call, &[]).is_err());
    let report = machine.stop_report().unwrap().to_string();
    assert!(
        report.contains("NOT PROVIDED")
            && report.contains("WdfXyz is not provided by this simulator"),
        "{report}"
    );
}

#[test]
fn every_row_has_a_source_and_guesses_are_counted() {
    for row in sim::nt::rows() {
        assert!(!row.source.is_empty() && !row.name.is_empty(), "{}!{}", row.dll, row.name);
    }
    let guesses = sim::nt::guesses();
    let marked = sim::nt::rows().filter(|row| row.mark.is_guess()).count();
    assert!(guesses.guessed >= marked && guesses.guessed < guesses.total, "{guesses}");
}
