//! Clones: over whose bytes, how long their parents stay, and what their injection state is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::injecting::{Injector, datagram};
use super::*;
use crate::nt::ndis::layout::list;

const REMOTE: &str = "198.51.100.7:9";

/// A neighbour that clones everything and puts nothing back by itself.
fn clones_all(bench: &Bench) {
    let delay = Duration::from_secs(1000);
    let habits = Neighbour { clones: 1, clones_sent: 1, delay, ..Neighbour::default() };
    set_neighbour(&bench.machine, habits);
}

/// The list that a neighbour clones, from a driver that must not decide about it; the first datagram is ALE's.
fn cloned(bench: &Bench, payload: &[u8]) -> usize {
    assert!(bench.classified(PEER, b"the first", |asked| asked.permit()));
    clones_all(bench);
    let seen = Rc::new(Cell::new(0));
    while seen.get() == 0 {
        let sees = seen.clone();
        let left = bench.classified(PEER, payload, move |asked| {
            assert_eq!(asked.rights(), 0, "somebody has decided");
            sees.set(asked.list);
        });
        assert!(!left, "absorbed: {}", bench.report());
    }
    drive(|asked| asked.permit());
    seen.get()
}

#[test]
fn a_clone_shares_its_parents_bytes_and_keeps_it() {
    for seed in 1..20 {
        let bench = Bench::v4(seed);
        bench.engaged(INBOUND, 0);
        let place = bench.machine.allocate(8);
        assert_eq!(bench.call("FwpsInjectionHandleCreate0", &[2, 2, place as u64]), 0);
        let handle: u64 = probe::read(place).unwrap();
        let parent = cloned(&bench, b"cloned");
        let count = held_clones(&bench.machine);
        assert!(count >= 1 && held_nic_buffers(&bench.machine) == count, "each holds its parent");
        assert_eq!(probe::read::<i32>(parent + list::CHILD_REFERENCES), Ok(1));
        let asked_about = Rc::new(Cell::new(0));
        let counts = asked_about.clone();
        drive(move |asked| {
            counts.set(counts.get() + 1);
            assert_eq!(asked.rights(), RIGHT, "nobody has decided about the clone");
            if asked.list == 0 {
                return asked.permit();
            }
            let [up, state] = [
                probe::read::<usize>(asked.list + list::PARENT).unwrap() as u64,
                import("FwpsQueryPacketInjectionState0", [handle, asked.list as u64, 0, 0]),
            ];
            assert_eq!(state, 2, "injected by another");
            assert_eq!(probe::read::<i32>(up as usize + list::CHILD_REFERENCES), Ok(1));
            let retreated = import("NdisRetreatNetBufferDataStart", [asked.buffer(), 28, 0, 0]);
            assert_eq!(retreated, 0, "the headers are there");
            import("NdisAdvanceNetBufferDataStart", [asked.buffer(), 28, 0, 0]);
            asked.permit();
        });
        neighbour::put_back_all(&bench.machine);
        assert_eq!(asked_about.get(), count, "{}", bench.report());
        assert_eq!(*lock(&bench.socket.delivered), vec![b"cloned".to_vec(); count]);
        assert_eq!((held_clones(&bench.machine), held_nic_buffers(&bench.machine)), (0, 0));
        assert_eq!(bench.report(), "");
        assert!(probe::read::<u64>(parent).is_err(), "gone with its clone");
    }
}

#[test]
fn a_clone_that_a_driver_keeps_keeps_its_parent() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let parent = cloned(&bench, b"cloned");
    let kept: Rc<RefCell<Vec<usize>>> = Rc::default();
    let keeps = kept.clone();
    drive(move |asked| {
        if asked.list == 0 {
            return asked.permit();
        }
        asked.reference();
        keeps.borrow_mut().push(asked.list);
        asked.absorb();
    });
    neighbour::put_back_all(&bench.machine);
    let kept = kept.take();
    assert!(!kept.is_empty() && held_clones(&bench.machine) == kept.len(), "{}", bench.report());
    assert_eq!(held_nic_buffers(&bench.machine), kept.len(), "the card's buffers are the parents'");
    let leaks = bench.machine.unload().unwrap();
    let said = format!("{} clones of lists not freed", kept.len());
    assert!(leaks.iter().any(|leak| leak.detail == said), "{leaks:?}");
    for list in kept {
        bench.call("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    }
    assert_eq!((held_clones(&bench.machine), held_nic_buffers(&bench.machine)), (0, 0));
    assert!(probe::read::<u64>(parent).is_err());
}

#[test]
fn a_parent_that_is_given_up_before_its_clone_is_found() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let parent = cloned(&bench, b"cloned");
    // A reference that is the neighbour's.
    let report = bench.stops("FwpsDereferenceNetBufferList0", &[parent as u64, 0]);
    assert!(report.contains("NBL_VIOLATION: L2") && report.contains("has 1 clones"), "{report}");
}

#[test]
fn what_is_written_through_a_parent_is_seen_when_its_clone_is_gone() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let parent = cloned(&bench, b"cloned");
    let buffer: usize = probe::read(parent + 8).unwrap();
    let mdl: usize = probe::read(buffer + 8).unwrap();
    let [start, offset, within] = [
        probe::read::<u64>(mdl + 32).unwrap(),
        u64::from(probe::read::<u32>(buffer + 16).unwrap()),
        u64::from(probe::read::<u32>(mdl + 44).unwrap()),
    ];
    probe::write((start + offset + within) as usize, 0x55_u8).unwrap();
    neighbour::put_back_all(&bench.machine);
    assert!(bench.report().contains("were written"), "{}", bench.report());
    assert_eq!(lock(&bench.socket.delivered)[0][0], 0x55, "one memory");
}

#[test]
fn an_injection_completes_when_its_clone_is_gone_and_not_before() {
    for seed in 1..20 {
        let injector = Injector::new(seed, "192.0.2.1:51820", &[]);
        let bench = &injector.bench;
        bench.engaged(Layer::OutboundTransportV4, 0);
        clones_all(bench);
        let list = injector.list(&datagram(9, b"payload", None));
        let route = injector.route(&[198, 51, 100, 7], &[]);
        drive(|_| {});
        assert_eq!(injector.inject(list, route, 2), 0);
        bench.machine.world().sleep(Duration::from_millis(50));
        injector.done(0);
        assert_eq!(held_clones(&bench.machine), 1);
        assert!(lock(&bench.socket.host.sent).is_empty(), "absorbed");
        let handle = injector.handle;
        let state = Rc::new(Cell::new(99));
        let sees = state.clone();
        drive(move |asked| {
            if asked.list != 0 {
                let context = &mut 0_u64;
                let place = std::ptr::from_mut(context).expose_provenance() as u64;
                let list = asked.list as u64;
                sees.set(import("FwpsQueryPacketInjectionState0", [handle, list, place, 0]));
                assert_eq!(*context, 0xC0, "the context of the first injection");
            }
            asked.permit();
        });
        neighbour::put_back_all(&bench.machine);
        assert!(matches!(state.get(), 3 | 99), "previously by us: {}", state.get());
        let expected = vec![(REMOTE.parse().unwrap(), None, b"payload".to_vec())];
        assert_eq!(*lock(&bench.socket.host.sent), expected, "{}", bench.report());
        injector.done(1);
        assert_eq!((held_clones(&bench.machine), bench.report()), (0, String::new()));
        bench.call("FwpsFreeNetBufferList0", &[list]);
    }
}

#[test]
fn a_send_is_held_for_as_long_as_its_clone() {
    let bench = Bench::v4(1);
    clones_all(&bench);
    let from = Destination { endpoint: bench.endpoint, local: bench.socket.local };
    let to = (REMOTE.parse().unwrap(), &Sending::default());
    let payloads = |_| vec![vec![1; 4], vec![2; 5]];
    let leave = outbound::leave(&bench.machine, from, to, payloads);
    assert!(matches!(leave, outbound::Leave::Absorbed(_)) && leave.is_held());
    neighbour::put_back_all(&bench.machine);
    assert!(!leave.is_held());
    let sent: Vec<Vec<u8>> =
        lock(&bench.socket.host.sent).iter().map(|sent| sent.2.clone()).collect();
    assert_eq!(sent, [vec![1; 4], vec![2; 5]], "{}", bench.report());
    // Without its socket a clone has nowhere to go.
    let leave = outbound::leave(&bench.machine, from, to, payloads);
    fwp(&bench.machine).close_endpoint(&bench.machine, bench.endpoint);
    neighbour::put_back_all(&bench.machine);
    assert_eq!((leave.is_held(), lock(&bench.socket.host.sent).len()), (false, 2));
    assert_eq!((held_clones(&bench.machine), bench.report()), (0, String::new()));
}
