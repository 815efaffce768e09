//! Sessions, transactions, objects, and the service that comes and goes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::verifier::rules;

#[test]
fn each_wrong_object_has_its_status() {
    let bench = Bench::v4(1);
    let engine = bench.open(true);
    let layer = INBOUND.key();
    assert_eq!(bench.sublayer(engine, 2, 0x100), 0);
    assert_eq!(bench.callout(engine, 3, layer), 0);
    assert_eq!(bench.callout(engine, 5, Layer::InboundTransportV6.key()), 0);
    let good = || bench.filter(9, 2, (objects::TERMINATING, 3), layer);
    type Spoil = fn(usize);
    let wrongs: [(Spoil, i32); 13] = [
        (|at| probe::write(at + 16, 0_u64).unwrap(), answer::NULL_DISPLAY_NAME),
        (|at| probe::write(at + 32, 1_u32).unwrap(), answer::LIFETIME_MISMATCH),
        (|at| probe::write(at + 32, 32_u32).unwrap(), answer::INVALID_FLAGS),
        (|at| probe::write(at + 40, at).unwrap(), answer::PROVIDER_NOT_FOUND),
        (|at| probe::write_bytes(at + 64, &[9; 16]).unwrap(), answer::LAYER_NOT_FOUND),
        (|at| probe::write_bytes(at + 80, &[9; 16]).unwrap(), answer::SUBLAYER_NOT_FOUND),
        (|at| probe::write(at + 96, 3_u32).unwrap(), answer::INVALID_WEIGHT),
        (
            |at| probe::write_bytes(at + 96, &[1, 0, 0, 0, 0, 0, 0, 0, 16]).unwrap(),
            answer::INVALID_WEIGHT,
        ),
        (|at| probe::write(at + 128, 7_u32).unwrap(), answer::INVALID_ACTION_TYPE),
        (|at| probe::write_bytes(at + 132, &[8; 16]).unwrap(), answer::CALLOUT_NOT_FOUND),
        (|at| probe::write_bytes(at + 132, &[5; 16]).unwrap(), answer::INCOMPATIBLE_LAYER),
        (
            |at| probe::write_bytes(probe::read(at + 120).unwrap(), &[8; 16]).unwrap(),
            answer::CONDITION_NOT_FOUND,
        ),
        (
            |at| probe::write(probe::read::<usize>(at + 120).unwrap() + 24, 3_u32).unwrap(),
            answer::TYPE_MISMATCH,
        ),
    ];
    for (number, (spoil, expected)) in wrongs.into_iter().enumerate() {
        let filter = good();
        spoil(filter);
        assert_eq!(bench.add(engine, filter).0.cast_signed(), expected, "case {number}");
    }
    assert_eq!(bench.add(engine, good()).0, 0);
    // A second filter of the same key clashes with the first.
    assert_eq!(bench.add(engine, good()).0.cast_signed(), answer::ALREADY_EXISTS);
    assert_eq!(bench.sublayer(engine, 2, 7).cast_signed(), answer::ALREADY_EXISTS);
    assert_eq!(bench.callout(engine, 3, layer).cast_signed(), answer::ALREADY_EXISTS);
}

#[test]
fn filters_are_deleted_by_those_that_may() {
    let bench = Bench::v4(1);
    let (engine, _) = bench.engaged(INBOUND, 0);
    let (_, id) = bench.add(engine, bench.filter(9, 2, (BLOCK, 0), INBOUND.key()));
    let other = bench.open(true);
    let delete = |engine, id| bench.call("FwpmFilterDeleteById0", &[engine, id]).cast_signed();
    assert_eq!(delete(other, id), answer::WRONG_SESSION);
    assert_eq!(delete(engine, id), 0);
    assert_eq!(delete(engine, id), answer::FILTER_NOT_FOUND);
    // What stays may not stand on what goes.
    let forever = bench.open(false);
    let filter = bench.filter(8, 2, (BLOCK, 0), INBOUND.key());
    assert_eq!(bench.add(forever, filter).0.cast_signed(), answer::LIFETIME_MISMATCH);
    assert_eq!(NOTES.with(|notes| notes.borrow().clone()), [0], "our own filter was announced");
    assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0);
    assert_eq!(NOTES.with(|notes| notes.borrow().clone()), [0, 1], "and taken back");
    assert_eq!(objects(&bench.machine), 0);
}

#[test]
fn a_transaction_holds_or_leaves_nothing() {
    let bench = Bench::v4(1);
    let engine = bench.open(true);
    let (begin, commit, abort) =
        ("FwpmTransactionBegin0", "FwpmTransactionCommit0", "FwpmTransactionAbort0");
    assert_eq!(bench.call(commit, &[engine]).cast_signed(), answer::NO_TXN_IN_PROGRESS);
    assert_eq!(bench.call(begin, &[engine, 0]), 0);
    assert_eq!(bench.call(begin, &[engine, 0]).cast_signed(), answer::TXN_IN_PROGRESS);
    assert_eq!(bench.sublayer(engine, 2, 1), 0);
    assert_eq!(bench.add(engine, bench.filter(4, 2, (BLOCK, 0), INBOUND.key())).0, 0);
    assert_eq!(bench.receive(PEER, &[b"seen before the commit"]), 1);
    // Another session waits for it, and gives up.
    let other = bench.open(true);
    let before = bench.machine.world().now();
    assert_eq!(bench.provider(other, 7).cast_signed(), answer::TIMEOUT);
    assert!(bench.machine.world().now() - before >= std::time::Duration::from_secs(15));
    assert_eq!(bench.call(abort, &[engine]), 0);
    assert_eq!(objects(&bench.machine), 0);
    assert_eq!(bench.call(begin, &[engine, 0]), 0);
    assert_eq!(bench.sublayer(engine, 2, 1), 0);
    assert_eq!(bench.add(engine, bench.filter(4, 2, (BLOCK, 0), INBOUND.key())).0, 0);
    assert_eq!(bench.call(commit, &[engine]), 0);
    assert_eq!(bench.receive(PEER, &[b"blocked by the filter"]), 0);
    assert_eq!(bench.call(begin, &[engine, 0]), 0);
    assert_eq!(bench.provider(engine, 7), 0);
    assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0, "with a transaction: aborted");
    assert_eq!(objects(&bench.machine), 0);
    assert_eq!(bench.receive(PEER, &[b"free again"]), 1);
}

static HEARD: AtomicU64 = AtomicU64::new(0);

extern "win64" fn hear(_context: u64, state: u64) {
    HEARD.store(HEARD.load(Ordering::SeqCst) << 4 | state, Ordering::SeqCst);
}

#[test]
fn a_service_that_stops_takes_everything_with_it() {
    for aborted in [false, true] {
        let choices = [("ORPHANED_SESSION_IS_ABORTED", aborted)];
        let bench = Bench::new(3, "192.0.2.1:51820", &choices);
        let machine = &bench.machine;
        HEARD.store(0, Ordering::SeqCst);
        let handle = machine.allocate(8);
        let callback = hear as *const () as u64;
        assert_eq!(
            bench.call("FwpmBfeStateSubscribeChanges0", &[1, callback, 0, handle as u64]),
            0
        );
        let (engine, id) = bench.engaged(INBOUND, 0);
        assert_eq!(bench.call("FwpmBfeStateGet0", &[]), 3);
        stop_bfe(machine);
        assert_eq!((bench.call("FwpmBfeStateGet0", &[]), objects(machine)), (0, 0));
        let refused = bench.call("FwpmEngineOpen0", &[0, 10, 0, 0, handle as u64]).cast_signed();
        assert_eq!(refused, answer::RPC_SERVER_UNAVAILABLE);
        let expected =
            if aborted { answer::SESSION_ABORTED } else { answer::RPC_SERVER_UNAVAILABLE };
        assert_eq!(bench.provider(engine, 1).cast_signed(), expected);
        start_bfe(machine);
        machine.world().sleep(std::time::Duration::from_millis(1));
        assert_eq!(
            HEARD.load(Ordering::SeqCst),
            0x2013,
            "STOP_PENDING, STOPPED, START_PENDING, RUNNING"
        );
        assert_eq!(bench.provider(engine, 1).cast_signed(), expected, "the session is still over");
        assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0);
        // The callout in the kernel is still registered.
        assert_eq!(bench.register(3, 0).0.cast_signed(), answer::ALREADY_EXISTS);
        assert_eq!(bench.call("FwpsCalloutUnregisterById0", &[u64::from(id)]), 0);
        let subscription: u64 = probe::read(handle).unwrap();
        assert_eq!(bench.call("FwpmBfeStateUnsubscribeChanges0", &[subscription]), 0);
        assert_eq!(machine.unload().unwrap(), []);
    }
}

#[test]
fn unregistering_may_have_to_be_tried_again() {
    let bench = Bench::v4(1);
    let (_, id) = bench.engaged(INBOUND, 0);
    let busy = 0x8000_0011_u32.cast_signed();
    refuse_unregistering(&bench.machine, &[busy, answer::IN_USE]);
    let answers =
        [(); 4].map(|()| bench.call("FwpsCalloutUnregisterById0", &[u64::from(id)]).cast_signed());
    assert_eq!(answers, [busy, answer::IN_USE, 0, answer::CALLOUT_NOT_FOUND]);
}

#[test]
fn a_classify_that_runs_is_waited_for_or_answered() {
    use std::sync::atomic::AtomicBool;

    static INSIDE: AtomicBool = AtomicBool::new(false);
    for waits in [true, false] {
        let bench =
            Bench::new(6, "192.0.2.1:51820", &[("UNREGISTERING_WAITS_FOR_CLASSIFIES", waits)]);
        let (_, id) = bench.engaged(INBOUND, 0);
        let world = bench.machine.world().clone();
        let (machine, socket, endpoint) =
            (bench.machine.clone(), bench.socket.clone(), bench.endpoint);
        let sleeper = world.clone();
        INSIDE.store(false, Ordering::SeqCst);
        let classifying = world.spawn("classifying", move || {
            drive(move |asked| {
                INSIDE.store(true, Ordering::SeqCst);
                sleeper.sleep(std::time::Duration::from_millis(20));
                asked.permit();
                INSIDE.store(false, Ordering::SeqCst);
            });
            let mut bytes = *b"x";
            let place = Place {
                payload: NonNull::new(bytes.as_mut_ptr()).unwrap(),
                capacity: 1,
                name: 0,
                len: 1,
                segment: 0,
                remote: PEER.parse().unwrap(),
                local: None,
                traffic_class: None,
            };
            let to = Destination { endpoint, local: socket.local };
            inbound::receive(&machine, &fwp(&machine), to, &mut vec![place]);
        });
        world.sleep(std::time::Duration::from_millis(5));
        assert!(INSIDE.load(Ordering::SeqCst), "{}", bench.report());
        let answered = bench.call("FwpsCalloutUnregisterById0", &[u64::from(id)]).cast_signed();
        assert_eq!(
            (answered, INSIDE.load(Ordering::SeqCst)),
            if waits { (0, false) } else { (answer::IN_USE, true) }
        );
        assert!(classifying.join(None));
        let again = bench.call("FwpsCalloutUnregisterById0", &[u64::from(id)]).cast_signed();
        assert_eq!(again, if waits { answer::CALLOUT_NOT_FOUND } else { 0 });
    }
}

#[test]
fn wrong_handles_stop() {
    let at = Bench::v4(1).machine.allocate(64) as u64;
    for (name, arguments, rule) in [
        ("FwpmEngineClose0", &[64_u64][..], &rules::WFP_ENGINE_HANDLE),
        ("FwpmTransactionBegin0", &[64, 0], &rules::WFP_ENGINE_HANDLE),
        ("FwpmProviderAdd0", &[64, 0, 0], &rules::WFP_ENGINE_HANDLE),
        ("FwpmBfeStateUnsubscribeChanges0", &[64], &rules::WFP_SUBSCRIPTION),
        ("FwpmBfeStateSubscribeChanges0", &[64, 0, 0, 0], &rules::WFP_SUBSCRIPTION),
        ("FwpsInjectionHandleDestroy0", &[64], &rules::WFP_INJECTION_HANDLE),
        ("FwpsQueryPacketInjectionState0", &[64, 0, 0], &rules::WFP_INJECTION_STATE),
        ("FwpsReferenceNetBufferList0", &[64, 0], &rules::WFP_LIST_REFERENCE),
        ("FwpsDereferenceNetBufferList0", &[64, 0], &rules::WFP_LIST_REFERENCE),
        ("FwpsCalloutRegister2", &[0, 0, 0], &rules::PAGE_FAULT_IN_NONPAGED_AREA),
    ] {
        let report = Bench::v4(1).stops(name, arguments);
        assert!(report.starts_with(rule.name), "{name}: {report}");
    }
    let bench = Bench::v4(1);
    let callout = bench.machine.allocate(64) as u64;
    let report = bench.stops("FwpsCalloutRegister2", &[0, callout, at]);
    assert!(report.starts_with(rules::WFP_CALLOUT.name), "{report}");
}

/// What waits for a callback is called inside it.
#[test]
fn nobody_waits_for_himself() {
    let bench = Bench::new(6, "192.0.2.1:51820", &[("UNREGISTERING_WAITS_FOR_CLASSIFIES", true)]);
    let (_, id) = bench.engaged(INBOUND, 0);
    bench.classified(PEER, b"x", move |asked| {
        import("FwpsCalloutUnregisterById0", [u64::from(id), 0, 0, 0]);
        asked.permit();
    });
    assert!(bench.report().starts_with(rules::DEADLOCK_CALLOUT.name), "{}", bench.report());

    extern "win64" fn unsubscribes(context: u64, _: u32) {
        import(
            "FwpmBfeStateUnsubscribeChanges0",
            [probe::read(context as usize).unwrap(), 0, 0, 0],
        );
    }
    let bench = Bench::v4(1);
    let handle = bench.machine.allocate(8) as u64;
    let callback = unsubscribes as *const () as u64;
    assert_eq!(bench.call("FwpmBfeStateSubscribeChanges0", &[64, callback, handle, handle]), 0);
    stop_bfe(&bench.machine);
    bench.machine.world().sleep(std::time::Duration::from_millis(50));
    assert!(
        bench.report().starts_with(rules::DEADLOCK_BFE_SUBSCRIPTION.name),
        "{}",
        bench.report()
    );
}

#[test]
fn each_call_that_may_fail_does() {
    let bench = Bench::v4(1);
    let machine = &bench.machine;
    machine.faults().fail_at(0);
    assert_eq!(bench.register(3, 0).0.cast_signed(), answer::INSUFFICIENT_RESOURCES);
    machine.faults().fail_at(0);
    let handle = machine.allocate(8) as u64;
    assert_eq!(
        bench.call("FwpsInjectionHandleCreate0", &[2, 2, handle]).cast_signed(),
        answer::TCPIP_NOT_READY
    );
    let engine = bench.open(true);
    machine.faults().fail_at(0);
    assert_eq!(bench.provider(engine, 1).cast_signed(), answer::INSUFFICIENT_RESOURCES);
    assert_eq!(bench.provider(engine, 1), 0, "a call that failed has left nothing");
}
