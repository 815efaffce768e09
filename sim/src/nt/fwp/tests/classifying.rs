//! What a classify function is given, how answers are weighed, and one wrong answer for each rule.

use super::*;

#[test]
fn values_metadata_and_list_are_what_windows_gives() {
    for seed in 1..40 {
        let bench = Bench::v4(seed);
        bench.engaged(INBOUND, 0);
        let endpoint = bench.endpoint;
        let payload = b"the quick brown fox jumps over the lazy dog";
        let permitted = bench.classified(PEER, payload, move |asked| {
            assert_eq!(probe::read::<u16>(asked.values), Ok(12));
            assert_eq!(probe::read::<u32>(asked.values + 4), Ok(15));
            assert_eq!(asked.value(0), (1, 17));
            assert_eq!(asked.value(1), (3, 0xC000_0201), "host order");
            assert_eq!(asked.value(2), (3, 0xC633_6407));
            assert_eq!((asked.value(4), asked.value(5)), ((2, 51820), (2, 9)));
            let interface = asked.value(7);
            assert!(interface == (3, 2) || interface == (0, 0), "{interface:?}");
            let present = asked.present();
            assert!(present & 0x40_0000 != 0, "the first datagram is to be authorised");
            if present & 0x8000 != 0 {
                assert_eq!(probe::read::<u64>(asked.metadata + 112), Ok(endpoint));
            }
            if present & 4 != 0 {
                assert_eq!(probe::read::<u32>(asked.metadata + 40), Ok(20));
            }
            assert_eq!(probe::read::<u64>(asked.filter + 48), Ok(0xC0_FFEE));
            assert_eq!(asked.rights(), RIGHT);
            if asked.list != 0 {
                let length: u32 = probe::read(asked.buffer() as usize + 24).unwrap();
                assert_eq!(length as usize, payload.len());
                let mut storage = [0_u8; 43];
                let to = storage.as_mut_ptr().expose_provenance() as u64;
                let at = import5("NdisGetDataBuffer", [asked.buffer(), 43, to, 1, 0]) as usize;
                if at != 0 {
                    let mut seen = [0_u8; 43];
                    probe::copy(seen.as_mut_ptr().expose_provenance(), at, 43).unwrap();
                    assert_eq!(&seen, payload);
                }
            }
            asked.permit();
        });
        assert!(permitted, "seed {seed}: {}", bench.report());
        assert_eq!(bench.report(), "");
    }
}

/// As [`import`], for five arguments.
fn import5(name: &str, arguments: [u64; 5]) -> u64 {
    let address = crate::nt::address("ndis.sys", name).unwrap();
    let [a, b, c, d, e] = arguments;
    // SAFETY: as in `import`.
    let function: extern "win64" fn(u64, u64, u64, u64, u64) -> u64 =
        unsafe { std::mem::transmute(address) };
    function(a, b, c, d, e)
}

#[test]
fn ipv6_addresses_are_arrays() {
    let bench = Bench::new(1, "[2001:db8::1]:51820", &[]);
    bench.engaged(Layer::InboundTransportV6, 0);
    let permitted = bench.classified("[2001:db8::9]:9", b"x", |asked| {
        assert_eq!(probe::read::<u16>(asked.values), Ok(14));
        let (kind, at) = asked.value(2);
        assert_eq!((kind, probe::read::<u8>(at as usize + 15)), (11, Ok(9)));
        asked.permit();
    });
    assert!(permitted, "{}", bench.report());
}

#[test]
fn the_ip_header_is_in_front_and_the_retreat_must_be_undone() {
    for undone in [true, false] {
        let bench = Bench::v4(5);
        bench.engaged(INBOUND, 0);
        let permitted = bench.classified(PEER, b"payload", move |asked| {
            if asked.list == 0 {
                return asked.permit();
            }
            assert_eq!(import("NdisRetreatNetBufferDataStart", [asked.buffer(), 28, 0, 0]), 0);
            let mut header = [0_u8; 28];
            let to = header.as_mut_ptr().expose_provenance() as u64;
            let at = import5("NdisGetDataBuffer", [asked.buffer(), 28, to, 1, 0]) as usize;
            let mut seen = [0_u8; 28];
            probe::copy(seen.as_mut_ptr().expose_provenance(), at, 28).unwrap();
            assert_eq!((seen[0], seen[1], seen[9], seen[21]), (0x45, 2, 17, 9));
            if undone {
                import("NdisAdvanceNetBufferDataStart", [asked.buffer(), 28, 0, 0]);
            }
            asked.permit();
        });
        assert_eq!(permitted, undone, "{}", bench.report());
        assert_eq!(
            bench.report().contains("is not as it was given"),
            !undone,
            "{}",
            bench.report()
        );
    }
}

#[test]
fn a_filter_without_its_callout_blocks_unless_it_says_otherwise() {
    for (action, flags, passes) in [
        (objects::TERMINATING, 0, false),
        (objects::UNKNOWN, 0, false),
        (objects::TERMINATING, objects::PERMIT_IF_CALLOUT_UNREGISTERED, true),
        (objects::INSPECTION, 0, true),
    ] {
        let bench = Bench::v4(1);
        let engine = bench.open(true);
        assert_eq!((bench.sublayer(engine, 2, 1), bench.callout(engine, 3, INBOUND.key())), (0, 0));
        let filter = bench.filter(4, 2, (action, 3), INBOUND.key());
        probe::write(filter + 32, flags).unwrap();
        assert_eq!(bench.add(engine, filter).0, 0);
        assert_eq!(bench.receive(PEER, &[b"x"]) == 1, passes, "action {action:#x}, flags {flags}");
    }
}

#[test]
fn heavier_sublayers_decide_first() {
    /// Filters as (sublayer, weight of it, action, filter flags).
    type Rule = (u8, u16, u32, u32);
    let clear = objects::CLEAR_ACTION_RIGHT;
    let cases: [(&[Rule], bool); 6] = [
        (&[(2, 9, BLOCK, 0), (3, 1, PERMIT, 0)], false),
        (&[(2, 1, BLOCK, 0), (3, 9, PERMIT, 0)], false),
        (&[(2, 1, BLOCK, 0), (3, 9, PERMIT, clear)], true),
        (&[(2, 9, PERMIT, clear), (3, 1, BLOCK, 0)], true),
        (&[(2, 1, PERMIT, 0), (3, 2, PERMIT, 0)], true),
        (&[], true),
    ];
    for (number, (rules, passes)) in cases.into_iter().enumerate() {
        let bench = Bench::v4(1);
        let engine = bench.open(true);
        for (key, (sublayer, weight, action, flags)) in (10..).zip(rules) {
            assert_eq!(bench.sublayer(engine, *sublayer, *weight), 0);
            let filter = bench.filter(key, *sublayer, (*action, 0), INBOUND.key());
            probe::write(filter + 32, *flags).unwrap();
            assert_eq!(bench.add(engine, filter).0, 0);
        }
        assert_eq!(bench.receive(PEER, &[b"x"]) == 1, passes, "case {number}");
    }
}

#[test]
fn in_a_sublayer_the_heaviest_filter_decides() {
    for (ours, theirs, passes) in [(15_u8, 1_u8, true), (1, 15, false)] {
        let bench = Bench::v4(1);
        let engine = bench.open(true);
        assert_eq!(bench.sublayer(engine, 2, 1), 0);
        for (key, action, weight) in [(10, PERMIT, ours), (11, BLOCK, theirs)] {
            let filter = bench.filter(key, 2, (action, 0), INBOUND.key());
            probe::write_bytes(filter + 96, &[1, 0, 0, 0, 0, 0, 0, 0, weight]).unwrap();
            assert_eq!(bench.add(engine, filter).0, 0);
        }
        assert_eq!(bench.receive(PEER, &[b"x"]) == 1, passes);
    }
}

/// What a wrong driver does with a packet of a flow that is authorised, and what the machine says to it.
#[test]
fn each_rule_stops_the_driver_that_breaks_it() {
    type Wrong = fn(Asked);
    let wrongs: [(Wrong, &str); 9] = [
        (|asked| asked.answer(0x77, 0, 0), "is no answer"),
        (|asked| asked.answer(PERMIT, 0, ABSORB), "only what is blocked is absorbed"),
        (|asked| asked.answer(BLOCK, RIGHT, ABSORB), "left to others"),
        (
            |asked| {
                asked.reference();
                asked.permit();
            },
            "permitted and kept",
        ),
        (
            |asked| {
                asked.reference();
                asked.answer(BLOCK, 0, 0);
            },
            "kept, but not absorbed",
        ),
        (
            |asked| {
                let mdl: usize = probe::read(asked.buffer() as usize + 8).unwrap();
                let offset: u32 = probe::read(asked.buffer() as usize + 16).unwrap();
                let start: usize = probe::read(mdl + 32).unwrap();
                let within: u32 = probe::read(mdl + 44).unwrap();
                probe::write(start + (within + offset) as usize, 0xEE_u8).unwrap();
                asked.permit();
            },
            "were written",
        ),
        (
            |asked| {
                let length: u64 = probe::read(asked.buffer() as usize + 24).unwrap();
                probe::write(asked.buffer() as usize + 24, length - 1).unwrap();
                asked.absorb();
            },
            "is not as it was given",
        ),
        (
            |asked| {
                import("FwpsDereferenceNetBufferList0", [asked.list as u64, 0, 0, 0]);
            },
            "is not referenced",
        ),
        (
            |asked| {
                let mut deep = [0_u8; 7000];
                std::hint::black_box(&mut deep);
                asked.permit();
            },
            "STACK BUDGET",
        ),
    ];
    for (number, (wrong, expected)) in wrongs.into_iter().enumerate() {
        let bench = Bench::v4(7);
        bench.engaged(INBOUND, 0);
        assert!(bench.classified(PEER, b"the first", |asked| asked.permit()));
        for _ in 0..8 {
            bench.classified(PEER, b"payload", move |asked| {
                if asked.list == 0 { asked.permit() } else { wrong(asked) }
            });
        }
        assert!(bench.report().contains(expected), "case {number}: {}", bench.report());
    }
}

#[test]
fn what_is_to_be_authorised_may_not_be_absorbed() {
    let bench = Bench::v4(1);
    bench.engaged(INBOUND, 0);
    assert!(!bench.classified(PEER, b"the first", |asked| asked.absorb()));
    let report = bench.report();
    assert!(report.starts_with("WFP_VIOLATION: classifyFn: "), "{report}");
    assert!(report.contains("ALE has still to classify"), "{report}");
}

#[test]
fn without_the_right_nothing_is_decided() {
    for obeys in [true, false] {
        let bench = Bench::v4(1);
        bench.engaged(INBOUND, 0);
        set_neighbour(&bench.machine, Neighbour { clears_right: 1, ..Neighbour::default() });
        let permitted = bench.classified(PEER, b"x", move |asked| {
            assert_eq!((asked.rights(), probe::read(asked.out)), (0, Ok(PERMIT)));
            if !obeys {
                asked.absorb();
            }
        });
        assert_eq!(permitted, obeys);
        assert_eq!(bench.report().contains("without the right"), !obeys, "{}", bench.report());
    }
}

#[test]
fn a_filter_may_want_the_right_cleared() {
    for obeys in [true, false] {
        let bench = Bench::v4(1);
        let engine = bench.open(true);
        assert_eq!((bench.sublayer(engine, 2, 1), bench.register(3, 0).0), (0, 0));
        assert_eq!(bench.callout(engine, 3, INBOUND.key()), 0);
        let filter = bench.filter(4, 2, (objects::TERMINATING, 3), INBOUND.key());
        probe::write(filter + 32, objects::CLEAR_ACTION_RIGHT).unwrap();
        assert_eq!(bench.add(engine, filter).0, 0);
        let rights = if obeys { 0 } else { RIGHT };
        let permitted = bench.classified(PEER, b"x", move |asked| {
            assert_eq!(probe::read::<u16>(asked.filter + 26), Ok(1));
            asked.answer(PERMIT, rights, 0);
        });
        assert_eq!(permitted, obeys, "{}", bench.report());
    }
}
