//! Flows, references, network card buffers, coalescing, and the neighbour.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::*;

/// Whether the next datagram is to be authorised, if it is let through.
fn required(bench: &Bench) -> bool {
    let seen = Rc::new(Cell::new(false));
    let sees = seen.clone();
    let passed = bench.classified(PEER, b"question", move |asked| {
        sees.set(asked.present() & 0x40_0000 != 0);
        asked.permit();
    });
    assert!(passed, "{}", bench.report());
    seen.get()
}

fn absorb_one(bench: &Bench) {
    while bench.classified(PEER, b"data", |asked| {
        if asked.list == 0 { asked.permit() } else { asked.absorb() }
    }) {}
}

#[test]
fn a_flow_is_authorised_once_and_again_after_changes_and_idleness() {
    let bench = Bench::v4(2);
    bench.engaged(INBOUND, 0);
    let sleep = |seconds| bench.machine.world().sleep(Duration::from_secs(seconds));
    assert!(required(&bench), "the first");
    assert!(!required(&bench));
    sleep(59);
    assert!(!required(&bench), "59 s are not idle");
    sleep(59);
    assert!(!required(&bench), "traffic keeps it");
    sleep(61);
    assert!(required(&bench), "61 s are");
    change_policy(&bench.machine);
    assert!(required(&bench), "after a change of policy");
    assert!(!required(&bench));
    assert_eq!(counts(&bench.machine).authorised, 3);
}

#[test]
fn whether_absorbed_packets_keep_the_flow_is_run_both_ways() {
    for keep in [false, true] {
        let bench = Bench::new(2, "192.0.2.1:51820", &[("ABSORBED_PACKETS_KEEP_THE_FLOW", keep)]);
        bench.engaged(INBOUND, 0);
        assert!(required(&bench));
        for _ in 0..3 {
            bench.machine.world().sleep(Duration::from_secs(25));
            if fwp(&bench.machine)
                .flows
                .is_authorised(bench.machine.world().now(), &(PORT, PEER.parse().unwrap()))
            {
                absorb_one(&bench);
            }
        }
        assert_eq!(required(&bench), !keep);
        assert_eq!(bench.report(), "");
    }
}

#[test]
fn the_firewall_may_let_only_answers_in() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    set_firewall(&bench.machine, Firewall::OnlyAnswers);
    assert!(!bench.classified(PEER, b"unasked", |asked| asked.permit()));
    assert_eq!(counts(&bench.machine).refused, 1);
    let from = Destination { endpoint: bench.endpoint, local: bench.socket.local };
    let to = (PEER.parse().unwrap(), &Sending::default());
    assert!(matches!(
        outbound::leave(&bench.machine, from, to, |_| Vec::new()),
        outbound::Leave::Goes
    ));
    assert!(bench.classified(PEER, b"answer", |asked| asked.permit()));
}

#[test]
fn filters_of_ale_are_asked_when_a_flow_begins() {
    let bench = Bench::v4(1);
    let (engine, _) = bench.engaged(INBOUND, 0);
    let ale = Layer::AuthRecvAcceptV4;
    let (status, id) = bench.add(engine, bench.filter(9, 2, (BLOCK, 0), ale.key()));
    assert_eq!(status, 0);
    assert!(!bench.classified(PEER, b"x", |asked| asked.permit()), "blocked by ALE");
    assert_eq!(bench.call("FwpmFilterDeleteById0", &[engine, id]), 0);
    assert!(bench.classified(PEER, b"x", |asked| asked.permit()));
    assert!(!required(&bench));
    assert_eq!(bench.add(engine, bench.filter(8, 2, (PERMIT, 0), ale.key())).0, 0);
    assert!(required(&bench), "ALE's policy has changed");
}

/// Absorbs and references one list, and returns it.
fn keep(bench: &Bench) -> usize {
    let kept = Rc::new(Cell::new(0));
    while kept.get() == 0 && bench.report().is_empty() {
        let keeps = kept.clone();
        bench.classified(PEER, b"to be kept", move |asked| {
            if asked.list == 0 || asked.present() & 0x40_0000 != 0 {
                return asked.permit();
            }
            asked.reference();
            keeps.set(asked.list);
            asked.absorb();
        });
    }
    kept.get()
}

#[test]
fn a_referenced_list_stays_until_it_is_given_back() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let list = keep(&bench);
    assert_eq!((held_nic_buffers(&bench.machine), counts(&bench.machine).absorbed), (1, 1));
    assert!(probe::read::<u64>(list).is_ok());
    let leaks = bench.machine.unload().unwrap();
    assert!(leaks.iter().any(|leak| leak.detail == "1 received lists referenced"), "{leaks:?}");
    assert!(
        bench
            .stops("FwpsDereferenceNetBufferList0", &[list as u64, 1])
            .contains("below DISPATCH_LEVEL")
    );
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let list = keep(&bench);
    bench.call("FwpsReferenceNetBufferList0", &[list as u64, 0]);
    bench.call("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    assert!(probe::read::<u64>(list).is_ok(), "referenced twice");
    bench.call("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    assert!(probe::read::<u64>(list).is_err(), "gone with the last reference");
    assert_eq!(held_nic_buffers(&bench.machine), 0);
    assert!(bench.stops("FwpsDereferenceNetBufferList0", &[list as u64, 0]).contains("no list"));
}

#[test]
fn what_a_driver_writes_into_a_kept_list_is_found_when_it_gives_it_back() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    let list = keep(&bench);
    let buffer: usize = probe::read(list + 8).unwrap();
    let mdl: usize = probe::read(buffer + 8).unwrap();
    let offset: u32 = probe::read(buffer + 16).unwrap();
    let start: usize = probe::read(mdl + 32).unwrap();
    let within: u32 = probe::read(mdl + 44).unwrap();
    probe::write(start + (within + offset) as usize, 0x55_u8).unwrap();
    let report = bench.stops("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    assert!(report.starts_with("WFP_VIOLATION: NET_BUFFER_LIST: "), "{report}");
    assert!(report.contains("were written"), "{report}");
}

#[test]
fn a_card_without_buffers_receives_nothing() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    limit_nic_buffers(&bench.machine, 3);
    let lists = [(); 3].map(|()| keep(&bench));
    assert!(!bench.classified(PEER, b"lost", |asked| asked.permit()));
    assert_eq!(counts(&bench.machine).no_buffer, 1);
    bench.call("FwpsDereferenceNetBufferList0", &[lists[0] as u64, 0]);
    assert!(bench.classified(PEER, b"received", |asked| asked.permit()));
}

#[test]
fn ten_thousand_lists_can_be_held() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    limit_nic_buffers(&bench.machine, 20_000);
    let lists: Vec<usize> = (0..10_000).map(|_| keep(&bench)).collect();
    assert_eq!(held_nic_buffers(&bench.machine), 10_000);
    assert_eq!(lists.iter().collect::<BTreeSet<_>>().len(), 10_000);
    for list in lists {
        bench.call("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    }
    assert_eq!((held_nic_buffers(&bench.machine), bench.report()), (0, String::new()));
}

#[test]
fn coalesced_datagrams_are_one_list_only_if_every_callout_takes_them() {
    for (flags, coalescing, lists) in [
        (0, Coalescing::WithBoundaries, 4),
        (callouts::ALLOW_URO, Coalescing::WithBoundaries, 1),
        (callouts::ALLOW_URO, Coalescing::WithoutBoundaries, 1),
        (callouts::ALLOW_URO, Coalescing::Off, 4),
    ] {
        let bench = Bench::v4(3);
        bench.engaged(INBOUND, flags);
        set_coalescing(&bench.machine, coalescing);
        let seen: Rc<RefCell<Vec<u64>>> = Rc::default();
        let sees = seen.clone();
        drive(move |asked| {
            if asked.list != 0 {
                sees.borrow_mut().push(probe::read(asked.list + 144 + 8 * 17).unwrap());
            }
            asked.permit();
        });
        let left = bench.receive(PEER, &[&[1; 100], &[2; 100], &[3; 100], &[4; 99]]);
        assert_eq!(left, 4, "the socket gets them one by one: {}", bench.report());
        let seen = seen.borrow();
        assert!(seen.len() <= lists, "{} lists", seen.len());
        let slots: BTreeSet<u64> = seen.iter().copied().collect();
        let said = flags != 0 && coalescing == Coalescing::WithBoundaries;
        // The last may be shorter.
        assert_eq!(slots.contains(&(4 | 100 << 16)), said, "{slots:x?}");
    }
}

#[test]
fn the_neighbour_puts_back_what_it_took() {
    for seed in 1..20 {
        let bench = Bench::v4(seed);
        bench.engaged(INBOUND, 0);
        let handle = bench.machine.allocate(8);
        assert_eq!(bench.call("FwpsInjectionHandleCreate0", &[2, 2, handle as u64]), 0);
        assert!(bench.classified(PEER, b"the first", |asked| asked.permit()));
        let delay = Duration::from_millis(3);
        set_neighbour(&bench.machine, Neighbour { reinjects: 1, delay, ..Neighbour::default() });
        assert!(!bench.classified(PEER, b"delayed", |asked| assert_eq!(asked.rights(), 0)));
        bench.machine.world().sleep(Duration::from_millis(10));
        assert_eq!(*lock(&bench.socket.delivered), [b"delayed".to_vec()], "{}", bench.report());
        let holds = Neighbour { holds: 1, delay, ..Neighbour::default() };
        set_neighbour(&bench.machine, holds);
        assert!(bench.classified(PEER, b"held", |asked| asked.permit()), "{}", bench.report());
        assert_eq!(held_nic_buffers(&bench.machine), 1);
        bench.machine.world().sleep(Duration::from_millis(10));
        assert_eq!(held_nic_buffers(&bench.machine), 0);
        set_neighbour(&bench.machine, Neighbour { drops: 1, ..Neighbour::default() });
        assert!(!bench.classified(PEER, b"dropped", |_| {}));
        set_neighbour(&bench.machine, Neighbour::default());
        assert!(bench.classified(PEER, b"undisturbed", |asked| asked.permit()));
    }
}

#[test]
fn in_fast_mode_a_list_lies_around_the_payload_and_keeps_its_block() {
    let bench = Bench::in_mode(1, "192.0.2.1:51820", &[], false);
    bench.engaged(INBOUND, 0);
    let wsk = crate::nt::wsk::wsk(&bench.machine);
    let to = Destination { endpoint: bench.endpoint, local: bench.socket.local };
    let receive = |count: usize, driver: Box<dyn FnMut(Asked)>| {
        drive(driver);
        let mut places = wsk.take_blocks(count);
        for place in &mut places {
            place.fill(b"payload");
            place.remote = PEER.parse().unwrap();
        }
        let names: Vec<usize> = places.iter().map(|place| place.name).collect();
        let free = inbound::receive(&bench.machine, &fwp(&bench.machine), to, &mut places);
        (names, free, places)
    };
    let (names, free, places) = receive(1, Box::new(|asked| asked.permit()));
    assert_eq!((free.len(), places.len()), (0, 1), "a permitted block is the socket's");
    wsk.give_block(names[0]);
    let seen: Rc<RefCell<Vec<(usize, u64)>>> = Rc::default();
    let sees = seen.clone();
    let driver = move |asked: Asked| {
        let at = import("NdisRetreatNetBufferDataStart", [asked.buffer(), 28, 0, 0]);
        assert_eq!(at, 0);
        import("NdisAdvanceNetBufferDataStart", [asked.buffer(), 28, 0, 0]);
        let mdl: usize = probe::read(asked.buffer() as usize + 8).unwrap();
        let offset: u32 = probe::read(asked.buffer() as usize + 16).unwrap();
        let data = probe::read::<usize>(mdl + 24).unwrap() + offset as usize;
        sees.borrow_mut().push((asked.list, data as u64));
        if sees.borrow().len() == 1 {
            asked.reference();
        }
        asked.absorb();
    };
    let (names, free, places) = receive(2, Box::new(driver));
    assert_eq!((free.len(), places.len()), (0, 0), "absorbed blocks are given back by the lists");
    let (list, data) = seen.borrow()[0];
    assert_eq!(probe::bytes(data as usize, 7).as_deref(), Ok(&b"payload"[..]), "in place");
    assert!(
        (names[0]..names[0] + 4096).contains(&list)
            && (names[0]..names[0] + 4096).contains(&(data as usize))
    );
    let mut left: Vec<usize> = wsk.take_blocks(4096).iter().map(|place| place.name).collect();
    assert!(!left.contains(&names[0]) && left.contains(&names[1]), "the referenced block is held");
    bench.call("FwpsDereferenceNetBufferList0", &[list as u64, 0]);
    left = wsk.take_blocks(1).iter().map(|place| place.name).collect();
    assert_eq!(left, [names[0]], "and free with its last reference");
    assert_eq!(bench.report(), "");
}
