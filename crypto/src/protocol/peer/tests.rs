//! The limits of messages, and which session takes whose place.

use core::time::Duration;
use std::{collections::BTreeSet, thread, vec::Vec};

use super::*;
use crate::{
    protocol::{
        Instant,
        keypair::SessionFacts,
        limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME},
        noise::SessionKeys,
        sessions::Retired,
    },
    sync::Unpinned,
};

const G: Unpinned = Unpinned;

fn now(seconds: u64) -> Now {
    Now { monotonic: Instant(Duration::from_secs(seconds)), wall: Duration::from_secs(1) }
}

fn peer() -> Shared<Peer<()>> {
    let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
    let peer = Peer::try_new([1; 32], 1, index, 1).unwrap();
    peer.enable(&G);
    peer
}

fn keypair(peer: &Shared<Peer<()>>, initiator: bool) -> Shared<Keypair<()>> {
    let keys = SessionKeys { sending: Secret::new([2; 32]), receiving: Secret::new([3; 32]) };
    let born = now(0).monotonic;
    let facts = SessionFacts { local_index: 1, remote_index: 2, born, initiator };
    Keypair::try_new(peer.clone(), &keys, &facts).unwrap()
}

fn install(peer: &Shared<Peer<()>>, keypair: &Shared<Keypair<()>>) {
    let _ = peer.sessions.with(&G, |sessions| sessions.begin_as_initiator(keypair.clone()));
}

/// The peer refers to its sessions and they to it.
fn done(peer: &Shared<Peer<()>>) {
    assert_eq!(peer.disable(&G, Discard::PeerRemoved), 0);
}

// spec-test: WG 5.4.6-b, WG 6.2-a, WG 6.2-b
#[test]
fn message_limits_at_their_edges() {
    let peer = peer();
    for (sent, count, given, wants) in [
        (0, 32, true, Wants::NONE),
        (REKEY_AFTER_MESSAGES - 1, 1, true, Wants::NONE),
        (REKEY_AFTER_MESSAGES, 1, true, Wants::SERVICE),
        (REJECT_AFTER_MESSAGES - 1, 1, true, Wants::SERVICE),
        (REJECT_AFTER_MESSAGES - 1, 2, false, Wants::SERVICE),
        (REJECT_AFTER_MESSAGES, 1, false, Wants::SERVICE),
        (u64::MAX, u32::MAX, false, Wants::SERVICE),
    ] {
        // Either role rekeys by messages.
        for initiator in [false, true] {
            let keypair = keypair(&peer, initiator);
            keypair.pretend_sent(sent);
            install(&peer, &keypair);
            let got = match peer.reserve(&G, count, now(1)) {
                Ok(reserved) => {
                    assert_eq!(reserved.first_counter, sent);
                    (true, reserved.wants)
                }
                Err(NoSession { wants }) => (false, wants),
            };
            assert_eq!(got, (given, wants), "{count} after {sent}");
            assert_eq!(
                keypair.usable_for_sending(now(1).monotonic),
                given && sent + 1 < REJECT_AFTER_MESSAGES
            );
        }
    }
    done(&peer);
}

// spec-test: WG 6.2-a, WG 6.2-b
#[test]
fn age_limits_at_their_edges() {
    let peer = peer();
    for (age, initiator, given, wants) in [
        (REKEY_AFTER_TIME.as_secs() - 1, true, true, Wants::NONE),
        (REKEY_AFTER_TIME.as_secs(), true, true, Wants::SERVICE),
        (REKEY_AFTER_TIME.as_secs(), false, true, Wants::NONE),
        (REJECT_AFTER_TIME.as_secs() - 1, false, true, Wants::NONE),
        (REJECT_AFTER_TIME.as_secs(), false, false, Wants::SERVICE),
        (REJECT_AFTER_TIME.as_secs(), true, false, Wants::SERVICE),
    ] {
        install(&peer, &keypair(&peer, initiator));
        let got = match peer.reserve(&G, 1, now(age)) {
            Ok(reserved) => (true, reserved.wants),
            Err(NoSession { wants }) => (false, wants),
        };
        assert_eq!(got, (given, wants), "{age} s, initiator: {initiator}");
    }
    done(&peer);
}

// spec-test: WG 6.2-c
#[test]
fn receiving_asks_once_from_165_seconds() {
    let peer = peer();
    let from = Endpoint { remote: "192.0.2.1:1".parse().unwrap(), local: None };
    for initiator in [true, false] {
        let keypair = keypair(&peer, initiator);
        install(&peer, &keypair);
        peer.timers.stop();
        for (age, asks) in [(164, false), (165, initiator), (166, false), (179, false)] {
            peer.timers.initiation_wanted.store(false, Ordering::Relaxed);
            let _ = peer.received(&G, &keypair, &from, now(age), Received::default());
            let asked = peer.timers.initiation_wanted.load(Ordering::Relaxed);
            assert_eq!(asked, asks, "{age} s, initiator: {initiator}");
        }
    }
    done(&peer);
}

// spec-test: WG 5.4.6-b
#[test]
fn no_counter_is_given_twice() {
    let peer = peer();
    let keypair = keypair(&peer, true);
    install(&peer, &keypair);
    let given = thread::scope(|scope| {
        let take = || -> Vec<u64> {
            let chunks = (0..2000).map(|n| (peer.reserve(&G, n % 32 + 1, now(1)), n % 32 + 1));
            let counters = chunks.flat_map(|(reserved, count)| {
                let first = reserved.ok().map(|reserved| reserved.first_counter).unwrap();
                first..first + u64::from(count)
            });
            counters.collect()
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(take)).collect();
        let lists = threads.into_iter().map(|thread| thread.join().unwrap());
        lists.flatten().collect::<Vec<_>>()
    });
    let distinct: BTreeSet<_> = given.iter().copied().collect();
    assert_eq!(distinct.len(), given.len());
    assert_eq!(distinct.last().copied(), Some(given.len() as u64 - 1), "and none is left out");
    done(&peer);
}

// spec-test: WG 6.3-a, WG 6.3-b, WG 6.3-c, WG 6.3-d
#[test]
fn sessions_take_turns() {
    let peer = peer();
    let [a, b, c, d, e] = [(); 5].map(|()| keypair(&peer, true));
    let mut sessions = Sessions::new();
    let letters = |sessions: &Sessions<()>| {
        let letter = |session: &Option<Shared<Keypair<()>>>| match session {
            Some(session) => {
                let all = [(&a, 'a'), (&b, 'b'), (&c, 'c'), (&d, 'd'), (&e, 'e')];
                all.into_iter().find(|(k, _)| Shared::ptr_eq(k, session)).map_or('?', |(_, l)| l)
            }
            None => '-',
        };
        [&sessions.previous, &sessions.current, &sessions.next].map(letter)
    };
    let count = |retired: Retired<()>| retired.into_iter().flatten().count();
    assert_eq!(count(sessions.begin_as_initiator(a.clone())), 0);
    assert_eq!(letters(&sessions), ['-', 'a', '-']);
    assert_eq!(count(sessions.begin_as_initiator(b.clone())), 0);
    assert_eq!(letters(&sessions), ['a', 'b', '-']);
    assert_eq!(count(sessions.begin_as_responder(c.clone())), 1, "the previous goes");
    assert_eq!(letters(&sessions), ['-', 'b', 'c']);
    assert_eq!(count(sessions.begin_as_responder(d.clone())), 1, "an older next goes");
    assert_eq!(letters(&sessions), ['-', 'b', 'd']);
    assert!(sessions.promote(&b).is_none() && sessions.promote(&c).is_none());
    assert_eq!(sessions.promote(&d).map(count), Some(0));
    assert_eq!(letters(&sessions), ['b', 'd', '-']);
    assert_eq!(count(sessions.begin_as_responder(a.clone())), 1);
    assert_eq!(count(sessions.begin_as_initiator(e.clone())), 1, "the old current goes");
    assert_eq!(letters(&sessions), ['a', 'e', '-'], "an unconfirmed next is kept to receive");
    drop(sessions);
    done(&peer);
}

#[test]
fn a_message_that_does_not_tell_where_it_came_to_keeps_what_is_known() {
    let peer = peer();
    let remote = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
    let local = Some(crate::protocol::Local { address: [10, 0, 0, 1].into(), interface: 7 });
    for (said, known, why) in [
        ((1, local), (1, local), "the first"),
        ((1, None), (1, local), "from the same place"),
        ((2, None), (2, None), "from another place nothing is known"),
        ((1, local), (1, local), "and back"),
    ] {
        let at = |(port, local)| Endpoint { remote: remote(port), local };
        peer.roam(&G, &at(said));
        assert_eq!(peer.endpoint(&G), Some(at(known)), "{why}");
    }
    let version = peer.endpoint_version();
    peer.roam(&G, &Endpoint { remote: remote(1), local: None });
    assert_eq!(peer.endpoint_version(), version, "a route that was found stays good");
    peer.move_to(&G, remote(1));
    assert_eq!(peer.endpoint(&G), Some(Endpoint { remote: remote(1), local: None }));
    done(&peer);
}
