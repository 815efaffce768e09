//! Others' filters: who decides, at which layer, and in what order equals are asked.

use super::foreign::{Object, add_foreign, clean_up, leave_behind, objects_by_key, remove_foreign};
use super::*;

const EQUALS: &str = "OF_EQUAL_WEIGHT_THE_LATER_IS_ASKED_FIRST";
const ALREADY_EXISTS: u32 = 0xC022_0009;

fn foreign(layer: Layer, sublayer: u16, weight: u64, verdict: Verdict) -> Foreign {
    Foreign { layer, sublayer, weight, port: PORT, verdict }
}

#[test]
fn a_decision_without_the_right_stands_but_for_a_veto() {
    use Verdict::*;
    for (filters, passes) in [
        (&[(9, Permit)][..], true),
        (&[(9, Block)], false),
        (&[(9, Permit), (8, Block)], false),
        (&[(9, Block), (8, HardPermit)], false),
        (&[(9, HardPermit), (8, Block)], true),
        (&[(9, HardPermit), (8, SoftBlock)], true),
        (&[(9, HardPermit), (8, Veto)], false),
        (&[(9, Veto), (8, HardPermit)], false),
        (&[(9, SoftBlock), (8, Permit)], true),
        (&[(9, SoftBlock)], false),
        (&[(9, Permit), (8, SoftBlock), (7, HardPermit)], true),
    ] {
        let bench = Bench::v4(1);
        let mut ids = Vec::new();
        for (sublayer, verdict) in filters {
            let filter = foreign(INBOUND, *sublayer, 0, *verdict);
            ids.push(add_foreign(&bench.machine, &filter));
        }
        assert_eq!(bench.receive(PEER, &[b"x"]) == 1, passes, "{filters:?}");
        assert_eq!(objects(&bench.machine), 0, "none of the driver's");
        ids.into_iter().for_each(|id| remove_foreign(&bench.machine, id));
        assert_eq!(bench.receive(PEER, &[b"x"]), 1);
        assert_eq!(bench.machine.unload().unwrap(), []);
    }
}

#[test]
fn of_equals_either_may_be_the_first() {
    for later_first in [false, true] {
        let bench = Bench::new(1, "192.0.2.1:51820", &[(EQUALS, later_first)]);
        for verdict in [Verdict::Permit, Verdict::Block] {
            add_foreign(&bench.machine, &foreign(INBOUND, 9, 5, verdict));
        }
        // In a sublayer of its own each is heard, and a block stands wherever it comes.
        assert_eq!(bench.receive(PEER, &[b"x"]), 0);
        let bench = Bench::new(1, "192.0.2.1:51820", &[(EQUALS, later_first)]);
        for verdict in [Verdict::HardPermit, Verdict::Block] {
            add_foreign(&bench.machine, &foreign(INBOUND, 9, 5, verdict));
        }
        assert_eq!(bench.receive(PEER, &[b"x"]), usize::from(!later_first));
        // In one sublayer only the first of two equals is heard.
        let bench = Bench::new(1, "192.0.2.1:51820", &[(EQUALS, later_first)]);
        let engine = bench.open(true);
        assert_eq!(bench.sublayer(engine, 2, 20), 0);
        for (key, action) in [(4, objects::PERMIT), (5, BLOCK)] {
            let filter = bench.filter(key, 2, (action, 0), INBOUND.key());
            assert_eq!(bench.add(engine, filter).0, 0);
        }
        assert_eq!(bench.receive(PEER, &[b"x"]), usize::from(!later_first));
    }
}

#[test]
fn a_bind_shows_its_endpoint_and_no_packet() {
    let layer = Layer::ResourceAssignmentV4;
    for seed in 1..8 {
        let bench = Bench::v4(seed);
        bench.engaged(layer, 0);
        let endpoint = bench.endpoint;
        let local: SocketAddr = bench.socket.local;
        drive(move |asked| {
            assert_eq!(probe::read::<u16>(asked.values), Ok(36));
            assert_eq!(probe::read::<u32>(asked.values + 4), Ok(19));
            assert_eq!((asked.value(4), asked.value(5)), ((2, PORT.into()), (1, 17)));
            assert_eq!(asked.list, 0);
            if asked.present() & 0x8000 != 0 {
                assert_eq!(probe::read::<u64>(asked.metadata + 112), Ok(endpoint));
            }
            assert_eq!(asked.present() & 0x40_0406, 0, "nothing of a packet");
            asked.permit();
        });
        assert!(bind::may_bind(&bench.machine, bench.endpoint, local), "{}", bench.report());
        drive(|asked| asked.answer(BLOCK, 0, 0));
        assert!(!bind::may_bind(&bench.machine, bench.endpoint, local));
        let other = "192.0.2.1:7".parse().unwrap();
        assert!(bind::may_bind(&bench.machine, bench.endpoint, other), "another port");
        let other = "[2001:db8::1]:51820".parse().unwrap();
        assert!(bind::may_bind(&bench.machine, bench.endpoint, other), "the other layer");
        assert_eq!(bench.report(), "");
    }
}

#[test]
fn what_was_left_behind_has_its_key_through_every_start() {
    let bench = Bench::v4(1);
    let (engine, _) = bench.engaged(INBOUND, 0);
    let ours = objects_by_key(&bench.machine);
    assert_eq!(
        ours,
        [Object::Provider([1; 16]), Object::Sublayer([2; 16]), Object::Callout([3; 16], INBOUND)]
    );
    stop_bfe(&bench.machine);
    ours.iter().for_each(|object| leave_behind(&bench.machine, *object));
    let adds = |engine| {
        let sublayer = bench.sublayer(engine, 2, 0);
        [bench.provider(engine, 1), sublayer, bench.callout(engine, 3, INBOUND.key())]
    };
    let restarted = |engine| {
        start_bfe(&bench.machine);
        assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0);
        bench.open(true)
    };
    let engine = restarted(engine);
    assert_eq!(adds(engine), [ALREADY_EXISTS; 3]);
    stop_bfe(&bench.machine);
    let engine = restarted(engine);
    assert_eq!(adds(engine), [ALREADY_EXISTS; 3], "persistent");
    ours.iter().for_each(|object| clean_up(&bench.machine, *object));
    assert_eq!(adds(engine), [0; 3]);
    assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0);
}
