//! What two tunnels do to each other over time.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::time::Duration;

use abi::discard::Discard;
use net::{
    A, Attached, B, EPOCH, G, KEYS, Pair, Request, Wire, inner,
    request::{PeerRequest, public},
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// spec-test: WG 5.4.2-a, WG 5.4.3-b, WG 6.3-e, WG 13-e, WG 11-j
#[test]
fn a_first_packet_makes_a_session() {
    let mut pair = Pair::new(1);
    assert!(pair.trace.is_empty(), "no data, no traffic");
    pair.send(A, 7);
    pair.run_ms(29);
    let kinds: Vec<_> = pair.trace.iter().map(|sent| (sent.from, sent.kind(), sent.tos)).collect();
    assert_eq!(kinds, [(A, 1, 0x88), (B, 2, 0x88), (A, 4, 0)]);
    assert_eq!(pair.trace[2].bytes.len(), 16 + 32 + 16, "the packet itself confirms");
    assert!(pair.hosts[B].only_peer().status(&G).latest_handshake.is_none(), "not confirmed yet");
    pair.run_ms(10);
    assert_eq!(pair.numbers(B), [7]);
    assert!(pair.hosts[B].only_peer().status(&G).latest_handshake.is_some());
    let wall = pair.hosts[A].only_peer().status(&G).latest_handshake.unwrap();
    assert_eq!(wall, EPOCH + net::BOOT + ms(20));
    pair.send(B, 8);
    pair.run_ms(20);
    assert_eq!(pair.numbers(A), [8]);
    assert_eq!(pair.trace.iter().filter(|sent| sent.kind() == 1).count(), 1, "one handshake");
}

// spec-test: WG 6.3-e, WG 6.5-a, WG 2.1-f
#[test]
fn an_idle_initiator_confirms_with_a_keepalive() {
    let mut pair = Pair::unconfigured(2);
    let mut to_b = pair.introduction(A);
    to_b.peers[0].keepalive = Some(25);
    let to_a = pair.introduction(B);
    pair.configure(A, &to_b);
    pair.configure(B, &to_a);
    for host in [B, A] {
        let now = pair.clock(host);
        pair.hosts[host].up(now);
    }
    pair.collect();
    pair.run_ms(40);
    let data = pair.sent(A, 4, Duration::ZERO);
    assert_eq!(data.len(), 1);
    assert!(data[0].is_keepalive());
    assert!(pair.hosts[B].only_peer().status(&G).latest_handshake.is_some());
}

// spec-test: WG 5-a
#[test]
fn a_responder_waits_for_confirmation() {
    let mut pair = Pair::new(3);
    pair.send(A, 0);
    pair.run_ms(15);
    assert_eq!(pair.sent(B, 2, Duration::ZERO).len(), 1, "B has answered and has a next session");
    for number in 1..=3 {
        pair.send(B, number);
    }
    assert_eq!(pair.sent(B, 4, Duration::ZERO).len(), 0);
    pair.run_ms(14);
    assert_eq!(pair.sent(B, 4, Duration::ZERO).len(), 0, "not confirmed yet");
    pair.run_ms(20);
    assert_eq!(pair.numbers(A), [1, 2, 3], "all, in order");
    assert_eq!(pair.sent(B, 1, Duration::ZERO).len(), 0, "no handshake of its own");
}

// spec-test: WG 5.4-p, WG 6.1-b
#[test]
fn simultaneous_initiations_settle() {
    let mut pair = Pair::new(4);
    pair.send(A, 1);
    pair.send(B, 2);
    pair.run_ms(100);
    for host in [A, B] {
        assert_eq!(pair.sent(host, 1, Duration::ZERO).len(), 1);
        assert_eq!(pair.sent(host, 2, Duration::ZERO).len(), 1);
        assert_eq!(
            pair.hosts[host].discarded(Discard::UnknownReceiver),
            1,
            "its response is stale"
        );
    }
    assert!(pair.numbers(A).is_empty() && pair.numbers(B).is_empty());
    pair.run_s(7);
    assert_eq!((pair.numbers(A), pair.numbers(B)), (vec![2], vec![1]));
}

// spec-test: WG 6.2-b
#[test]
fn the_initiator_rekeys_at_120_seconds_and_nothing_is_lost() {
    let mut pair = Pair::new(5);
    pair.connect();
    let born = pair.trace.iter().find(|sent| sent.kind() == 2).unwrap().at + ms(10);
    let mut number = 0;
    let end = born + s(130);
    while pair.now < end {
        pair.send(A, number);
        pair.send(B, number);
        number += 1;
        pair.run_ms(500);
    }
    pair.run_ms(100);
    assert_eq!(pair.numbers(A), Vec::from_iter(0..number));
    assert_eq!(pair.numbers(B), Vec::from_iter(0..number));
    let initiations = pair.sent(A, 1, Duration::ZERO);
    assert_eq!(initiations.len(), 2);
    let age = initiations[1].at - born;
    assert!(age >= s(120) && age < s(121), "{age:?}");
    assert!(pair.sent(B, 1, Duration::ZERO).is_empty(), "the responder does not rekey by age");
}

// spec-test: WG 6.2-b
#[test]
fn a_responder_at_150_seconds_does_not_initiate() {
    let mut pair = Pair::new(6);
    pair.connect();
    pair.run_s(150);
    pair.send(B, 1);
    pair.run_ms(50);
    assert_eq!(pair.numbers(A), [1]);
    assert!(pair.sent(B, 1, Duration::ZERO).is_empty());
}

// spec-test: WG 6.2-c
#[test]
fn a_receiving_initiator_rekeys_once_at_165_seconds() {
    let mut pair = Pair::new(7);
    pair.connect();
    let born = pair.trace.iter().find(|sent| sent.kind() == 2).unwrap().at + ms(10);
    let far = s(10_000);
    pair.run(born + s(164) - pair.now);
    // Nothing A sends gets through from now on, so its rekey does not complete.
    pair.hosts[B].address = "203.0.113.9:9".parse().unwrap();
    let from_b: Vec<_> = (0..6).collect();
    for number in from_b {
        // As if B still sent from its old address.
        let address = pair.hosts[B].address;
        pair.send(B, number);
        pair.hosts[B].address = "198.51.100.2:51821".parse().unwrap();
        pair.collect();
        pair.hosts[B].address = address;
        pair.run_ms(400);
    }
    let initiations = pair.sent(A, 1, born);
    assert_eq!(initiations.len(), 1, "exactly one trigger");
    let age = initiations[0].at - born;
    assert!(age >= s(165) && age < s(166), "{age:?}");
    assert!(pair.now < far);
}

// spec-test: WG 6.2-a
#[test]
fn a_session_dies_at_180_seconds() {
    for (age, alive) in [(ms(179_900), true), (ms(180_000), false)] {
        for sender in [A, B] {
            let mut pair = Pair::new(8);
            pair.connect();
            let response = pair.trace.iter().find(|sent| sent.kind() == 2).unwrap().at;
            // A's keys are 10 ms younger than B's.
            let born = if sender == A { response + ms(10) } else { response };
            pair.run(born + age - pair.now);
            let since = pair.now;
            pair.send(sender, 1);
            let first = pair.trace.last().unwrap();
            let data = pair.sent(sender, 4, since).len();
            assert_eq!(data, usize::from(alive), "{sender} at {age:?}");
            if !alive {
                assert_eq!((first.from, first.kind()), (sender, 1), "whichever role it had");
            }
            pair.run_ms(200);
            assert_eq!(pair.numbers(1 - sender), [1], "it arrives, sooner or later");
        }
    }
}

// spec-test: WG 6.2-a
#[test]
fn an_old_session_does_not_receive_at_180_seconds() {
    let mut pair = Pair::new(9);
    pair.connect();
    let response = pair.trace.iter().find(|sent| sent.kind() == 2).unwrap().at;
    pair.run(response + ms(179_995) - pair.now);
    // B seals at 179.995 s of its own age; its message arrives when A's session is 179.995 s old, and again 10 ms later.
    pair.send(B, 1);
    pair.run_ms(10);
    assert_eq!(pair.numbers(A), [1]);
    let message = pair.sent(B, 4, response).last().unwrap().bytes.clone();
    pair.run_ms(10);
    pair.inject(A, &message, "198.51.100.2:51821".parse().unwrap());
    assert_eq!(pair.hosts[A].discards.last(), Some(&Discard::SessionExpired));
}

// spec-test: WG 6.4-b, WG 6.4-d, WG 6.4-a, WG 5.4.2-e
#[test]
fn a_dead_peer_is_given_up_after_twenty_initiations() {
    let mut pair = Pair::new(10);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    let peer = pair.hosts[A].only_peer();
    pair.run_s(99);
    assert_eq!(peer.staged_packets(&G), 1, "kept while there is hope");
    pair.run_s(9);
    assert_eq!(peer.staged_packets(&G), 0, "dropped with the last try");
    assert_eq!(peer.status(&G).staged_discarded, 1);
    let discards = [(Discard::StagedDropped, 1), (Discard::PeerRemoved, 0)];
    assert_eq!(pair.hosts[A].tunnel.staged_discards(), discards);
    let tries = pair.sent(A, 1, Duration::ZERO);
    assert_eq!(tries.len(), 20);
    for pair in tries.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= s(5) && gap <= ms(5334), "{gap:?}");
        for field in [4..8, 8..40, 40..88, 88..116, 116..132] {
            assert_ne!(pair[0].bytes[field.clone()], pair[1].bytes[field], "made anew");
        }
    }
    pair.run_s(1000);
    assert_eq!(pair.sent(A, 1, Duration::ZERO).len(), 20, "silence");
    // spec-test: WG 6.4-c
    pair.wire.lose = 0;
    pair.send(A, 2);
    pair.run_ms(100);
    assert_eq!(pair.numbers(B), [2], "new data starts again");
}

// spec-test: WG 6.1-a
#[test]
fn no_two_initiations_within_five_seconds_whatever_asks() {
    let mut pair = Pair::new(11);
    pair.wire.lose = 1000;
    for number in 0..400 {
        pair.send(A, number);
        pair.run_ms(50);
    }
    let tries = pair.sent(A, 1, Duration::ZERO);
    assert!((4..=5).contains(&tries.len()), "{}", tries.len());
    assert!(tries.windows(2).all(|pair| pair[1].at - pair[0].at >= s(5)));
    assert_eq!(pair.hosts[A].discarded(Discard::StagedFull), 400 - 128, "the oldest went");
    pair.wire.lose = 0;
    pair.run_s(6);
    assert_eq!(pair.numbers(B), Vec::from_iter(272..400));
}

// spec-test: WG 6.1-a, WG 6.1-b
#[test]
fn a_response_counts_as_a_handshake_sent() {
    let mut pair = Pair::new(12);
    pair.send(A, 0);
    pair.run_ms(15);
    let response = pair.sent(B, 2, Duration::ZERO)[0].at;
    // The session is never confirmed: everything A sends is lost, and B has data.
    pair.wire.lose = 1000;
    pair.run_ms(1000);
    pair.send(B, 1);
    pair.run_s(6);
    let initiations = pair.sent(B, 1, Duration::ZERO);
    assert_eq!(initiations.len(), 1, "kept, not forgotten");
    assert!(initiations[0].at - response >= s(5));
}

// spec-test: WG 6.5-b
#[test]
fn data_is_answered_with_a_keepalive_after_ten_seconds() {
    let mut pair = Pair::new(13);
    pair.connect();
    let arrived = pair.trace.last().unwrap().at + ms(10);
    pair.run_s(9);
    assert!(pair.sent(B, 4, Duration::ZERO).is_empty());
    pair.run_s(2);
    let answers = pair.sent(B, 4, Duration::ZERO);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].is_keepalive());
    assert_eq!(answers[0].at - arrived, s(10));
    // spec-test: WG 6.5-e
    pair.run_s(60);
    assert_eq!(pair.trace.iter().filter(|sent| sent.kind() == 4).count(), 2, "then silence");
}

// spec-test: WG 6.5-b, WG 6.5-d, WG 6.5-c
#[test]
fn a_one_way_flow_is_answered_every_ten_seconds() {
    let mut pair = Pair::new(14);
    pair.connect();
    let since = pair.now;
    for number in 0..350 {
        pair.send(A, number);
        pair.run_ms(100);
    }
    let answers = pair.sent(B, 4, since);
    assert!((3..=4).contains(&answers.len()), "{}", answers.len());
    assert!(answers.iter().all(|answer| answer.is_keepalive()));
    assert_eq!(pair.sent(A, 1, since).len(), 0, "no new handshake");
}

// spec-test: WG 6.5-c, WG 6.1-c
#[test]
fn a_dead_session_is_noticed_after_fifteen_seconds() {
    let mut pair = Pair::new(15);
    pair.connect();
    pair.run_s(30);
    pair.wire.lose = 1000;
    let start = pair.now;
    pair.send(A, 1);
    pair.run_s(5);
    pair.send(A, 2);
    pair.run_s(9);
    pair.send(A, 3);
    pair.run_s(2);
    let initiations = pair.sent(A, 1, start);
    assert_eq!(initiations.len(), 1);
    let after = initiations[0].at - start;
    assert!(after >= s(15) && after <= ms(15_334), "{after:?}");
}

// spec-test: WG 2.1-f
#[test]
fn a_persistent_keepalive_keeps_and_restores_the_session() {
    let mut pair = Pair::new(16);
    let to_b = PeerRequest::new(public(&KEYS[B])).keepalive(25);
    pair.configure(A, &Request::new().peer(to_b));
    pair.run_ms(100);
    assert_eq!(pair.sent(A, 1, Duration::ZERO).len(), 1, "one at once");
    pair.run_s(100);
    let data: Vec<_> = pair.sent(A, 4, Duration::ZERO).iter().map(|sent| sent.at).collect();
    assert_eq!(data.len(), 5);
    assert!(data.windows(2).all(|pair| pair[1] - pair[0] == s(25)));
    // Traffic either way pushes it out.
    pair.run_s(20);
    let since = pair.now;
    pair.send(B, 1);
    pair.run_s(24);
    let sent = pair.sent(A, 4, since + ms(1));
    assert!(sent.iter().all(|sent| sent.at >= since + s(10)), "only the answer to data");
    // A dead peer is tried for ever.
    pair.wire.lose = 1000;
    pair.run_s(1000);
    let since = pair.now;
    pair.run_s(100);
    assert!(pair.sent(A, 1, since).len() > 10);
    pair.wire.lose = 0;
    pair.run_s(30);
    let since = pair.now;
    pair.run_s(60);
    assert!(pair.sent(A, 4, since).len() >= 2, "restored");
    // Off is off.
    let off = PeerRequest::new(public(&KEYS[B])).keepalive(0);
    pair.configure(A, &Request::new().peer(off));
    let since = pair.now;
    pair.run_s(600);
    assert!(pair.sent(A, 4, since).is_empty());
}

// spec-test: WG 2.1-a, WG 2.1-b, WG 2.1-d, WG 11-e
#[test]
fn a_peer_roams_with_its_first_authentic_message() {
    let mut pair = Pair::new(17);
    pair.connect();
    let home = pair.hosts[A].address;
    let away = "203.0.113.7:4711".parse().unwrap();
    pair.hosts[A].address = away;
    pair.send(A, 1);
    pair.run_ms(20);
    let peer = pair.hosts[B].only_peer();
    assert_eq!(peer.endpoint(&G).unwrap().remote, away);
    assert_eq!(peer.endpoint(&G).unwrap().local.unwrap().interface, 7);
    pair.send(B, 2);
    pair.run_ms(20);
    assert_eq!(pair.numbers(A), [2]);
    // Replays and forgeries do not move it.
    let mut message = pair.sent(A, 4, Duration::ZERO).last().unwrap().bytes.clone();
    pair.inject(B, &message, home);
    assert_eq!(pair.hosts[B].discards.last(), Some(&Discard::Replayed));
    *message.last_mut().unwrap() ^= 1;
    pair.inject(B, &message, home);
    assert_eq!(pair.hosts[B].discards.last(), Some(&Discard::BadTag));
    assert_eq!(peer.endpoint(&G).unwrap().remote, away);
    // A configured endpoint wins until the next message.
    let version = peer.endpoint_version();
    let request = PeerRequest::new(public(&KEYS[A])).endpoint(home);
    pair.configure(B, &Request::new().peer(request));
    assert_eq!(peer.endpoint(&G).unwrap().remote, home);
    assert_eq!(peer.endpoint(&G).unwrap().local, None);
    assert_ne!(peer.endpoint_version(), version);
    pair.send(A, 3);
    pair.run_ms(20);
    assert_eq!(peer.endpoint(&G).unwrap().remote, away);
}

// spec-test: WG 5.4.6-e
#[test]
fn a_forgery_does_not_move_the_window() {
    let mut pair = Pair::new(18);
    pair.connect();
    pair.wire.lose = 1000;
    pair.send(A, 1);
    pair.wire.lose = 0;
    let genuine = pair.trace.last().unwrap().bytes.clone();
    let mut forged = genuine.clone();
    forged[8..16].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    let home = pair.hosts[A].address;
    pair.inject(B, &forged, home);
    let mut flipped = genuine.clone();
    *flipped.last_mut().unwrap() ^= 0x80;
    pair.inject(B, &flipped, home);
    assert_eq!(pair.hosts[B].discarded(Discard::BadTag), 2);
    pair.inject(B, &genuine, home);
    assert_eq!(pair.numbers(B), [1]);
}

// spec-test: WG 2-b, WG 2-c, WG 5.4.6-d
#[test]
fn a_source_that_is_another_peers_is_refused() {
    let mut pair = Pair::new(19);
    let wide = PeerRequest::new(public(&KEYS[A])).allow("10.0.0.0/8");
    let other = PeerRequest::new(public(&[0x33; 32])).allow("10.0.0.5/32");
    pair.configure(B, &Request::new().peer(wide).peer(other));
    pair.connect();
    let peer = pair.hosts[B].tunnel.find_peer(&G, &public(&KEYS[A])).unwrap();
    let before = peer.status(&G).rx_bytes;
    for (source, reason) in [("10.0.0.5", Discard::WrongSource), ("11.0.0.1", Discard::WrongSource)]
    {
        let now = pair.clock(A);
        let stray = net::packet(source.parse().unwrap(), inner(B), 9);
        pair.hosts[A].transmit(stray, now);
        pair.collect();
        pair.run_ms(20);
        assert_eq!(pair.hosts[B].discards.last(), Some(&reason), "{source}");
    }
    assert!(pair.hosts[B].delivered.is_empty());
    assert_eq!(peer.status(&G).rx_bytes, before, "not counted");
    let now = pair.clock(A);
    pair.hosts[A].transmit(net::packet("10.0.0.6".parse().unwrap(), inner(B), 1), now);
    pair.collect();
    pair.run_ms(20);
    assert_eq!(pair.numbers(B), [1]);
}

// spec-test: WG 5.3-b, WG 5.4.7-e, WG 5.4.7-f, WG 6.6-a, WG 5.4.4-b, WG 5.4.7-g
#[test]
fn under_load_a_cookie_is_asked_for_and_given() {
    let mut pair = Pair::new(20);
    pair.hosts[B].queued = 512;
    pair.send(A, 1);
    pair.run_s(4);
    let kinds: Vec<_> = pair.trace.iter().map(|sent| (sent.from, sent.kind(), sent.tos)).collect();
    assert_eq!(kinds, [(A, 1, 0x88), (B, 3, 0)], "a cookie reply, and no retry before its time");
    assert_eq!(pair.hosts[B].discards, [Discard::CookieRequired]);
    let reply = pair.trace[1].bytes.clone();
    let elsewhere = "203.0.113.1:1".parse().unwrap();
    pair.inject(A, &reply, elsewhere);
    assert_eq!(pair.hosts[A].discards, [Discard::BadCookieReply], "one cookie per message");
    assert_eq!(pair.hosts[A].only_peer().endpoint(&G).unwrap().remote, pair.hosts[B].address);
    pair.run_s(2);
    assert_eq!(pair.numbers(B), [1], "the retry carries mac2");
    let retry = pair.sent(A, 1, Duration::ZERO)[1];
    assert_ne!(retry.bytes[132..], [0; 16]);
    assert_eq!(pair.hosts[B].discards, [Discard::CookieRequired]);
}

// spec-test: WG 5.4.7-f, WG 5.4.4-b
#[test]
fn a_responders_cookie_comes_through_its_session() {
    let mut pair = Pair::new(21);
    pair.hosts[A].queued = 600;
    pair.send(A, 1);
    pair.run_s(4);
    assert_eq!(pair.hosts[A].discards, [Discard::CookieRequired], "the response lacked mac2");
    assert!(pair.hosts[B].discards.is_empty(), "the reply names a session, not a handshake");
    pair.run_s(2);
    assert_eq!(pair.numbers(B), [1]);
    let responses = pair.sent(B, 2, Duration::ZERO);
    assert_ne!(responses[1].bytes[76..], [0; 16]);
}

// spec-test: WG 5.3-b, WG 5.4.7-e
#[test]
fn under_load_bad_macs_draw_nothing() {
    let mut pair = Pair::new(22);
    pair.hosts[B].queued = 512;
    pair.wire.lose = 1000;
    pair.send(A, 1);
    let mut initiation = pair.trace[0].bytes.clone();
    initiation[116] ^= 1;
    let from = pair.hosts[A].address;
    pair.inject(B, &initiation, from);
    assert_eq!(pair.hosts[B].discards, [Discard::BadMac1]);
    assert!(pair.sent(B, 3, Duration::ZERO).is_empty());
}

// spec-test: WG 6.3-f, WG 6.5-e
#[test]
fn keys_are_erased_after_540_seconds() {
    let mut pair = Pair::new(23);
    pair.connect();
    pair.run_s(30);
    let quiet = pair.trace.len();
    let (a, b) = (pair.hosts[A].only_peer(), pair.hosts[B].only_peer());
    pair.run_s(505);
    assert!(a.current_session(&G).is_some());
    assert!(b.current_session(&G).is_some());
    pair.run_s(10);
    assert!(a.current_session(&G).is_none());
    assert!(b.current_session(&G).is_none());
    assert!(pair.hosts[A].index.is_empty(&G) && pair.hosts[B].index.is_empty(&G));
    assert_eq!(pair.trace.len(), quiet, "nobody says a word");
    assert_eq!(pair.hosts[A].tunnel.next_wake(&G), None);
}

// spec-test: WG 11-a, WG 5.1-c
#[test]
fn down_wipes_and_up_starts_again() {
    let mut pair = Pair::new(24);
    pair.connect();
    let initiation = pair.trace[0].bytes.clone();
    let data = pair.sent(A, 4, Duration::ZERO)[0].bytes.clone();
    let from = pair.hosts[A].address;
    pair.hosts[B].down();
    assert!(pair.hosts[B].index.is_empty(&G));
    assert_eq!(pair.hosts[B].tunnel.next_wake(&G), None);
    pair.inject(B, &data, from);
    pair.inject(B, &initiation, from);
    assert_eq!(pair.hosts[B].discards, [Discard::NotUp, Discard::NotUp]);
    let now = pair.clock(B);
    pair.hosts[B].up(now);
    pair.inject(B, &data, from);
    pair.inject(B, &initiation, from);
    let refused = [Discard::UnknownReceiver, Discard::StaleTimestamp];
    assert_eq!(pair.hosts[B].discards[2..], refused, "timestamps survive");
    let since = pair.now;
    pair.send(B, 1);
    pair.run_ms(100);
    assert_eq!(pair.numbers(A), [1], "at once");
    assert_eq!(pair.sent(B, 1, since).len(), 1);
}

#[test]
fn staged_packets_go_when_the_adapter_goes_down() {
    let mut pair = Pair::new(25);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    let peer = pair.hosts[A].only_peer();
    pair.hosts[A].down();
    assert_eq!(peer.staged_packets(&G), 0);
    assert_eq!(peer.status(&G).staged_discarded, 1);
    pair.send(A, 2);
    assert_eq!(pair.hosts[A].discards, [Discard::AdapterDown]);
    pair.run_s(60);
    assert_eq!(pair.trace.len(), 1, "and no timer runs");
    // spec-test: WG 6.1-a — the limit is forgotten with the state.
    let now = pair.clock(A);
    pair.hosts[A].up(now);
    pair.send(A, 3);
    assert_eq!(pair.trace.len(), 2);
}

// spec-test: WG 11-h, WG 5.1-c
#[test]
fn a_removed_peer_leaves_nothing() {
    {
        let mut pair = Pair::new(26);
        pair.connect();
        let initiation = pair.trace[0].bytes.clone();
        let data = pair.sent(A, 4, Duration::ZERO)[0].bytes.clone();
        let from = pair.hosts[A].address;
        assert_eq!(Attached::live(), 2);
        let session = pair.hosts[B].only_peer().current_session(&G).unwrap();
        let remove = PeerRequest::new(public(&KEYS[A])).remove();
        pair.configure(B, &Request::new().peer(remove));
        assert_eq!(Attached::live(), 2, "a chunk holds its session");
        let now = pair.clock(B);
        assert!(!session.usable_for_receiving(now.monotonic));
        assert!(session.peer().reserve(&G, 1, now).is_err_and(|none| none.wants.is_none()));
        drop(session);
        assert_eq!(Attached::live(), 1, "the last reference takes it away");
        assert!(pair.hosts[B].index.is_empty(&G));
        assert_eq!(pair.hosts[B].tunnel.peer_for(&G, inner(A)).map(|_| ()), None);
        assert_eq!(pair.hosts[B].tunnel.next_wake(&G), None);
        let before = pair.trace.len();
        pair.inject(B, &data, from);
        pair.inject(B, &initiation, from);
        let refused = [Discard::UnknownReceiver, Discard::UnknownPeer];
        assert_eq!(pair.hosts[B].discards, refused);
        assert_eq!(pair.trace.len(), before, "no reply");
        // Added again, it is new: its timestamps are forgotten.
        let back = pair.introduction(B);
        pair.configure(B, &back);
        pair.inject(B, &initiation, from);
        assert_eq!(pair.hosts[B].discards.len(), 2, "accepted");
        pair.inject(B, &initiation, from);
        assert_eq!(pair.hosts[B].discards[2..], [Discard::StaleTimestamp]);
        // Removed with a handshake pending and packets staged.
        pair.wire.lose = 1000;
        pair.hosts[A].down();
        let now = pair.clock(A);
        pair.hosts[A].up(now);
        pair.send(A, 5);
        let remove = PeerRequest::new(public(&KEYS[B])).remove();
        pair.configure(A, &Request::new().peer(remove));
        assert!(pair.hosts[A].index.is_empty(&G));
    }
    assert_eq!(Attached::live(), 0);
}

// spec-test: WG 11-d, WG 5.2-a
#[test]
fn a_preshared_key_counts_from_the_next_handshake() {
    let mut pair = Pair::new(27);
    pair.connect();
    let with_psk = |host: usize| {
        let other = PeerRequest::new(public(&KEYS[1 - host])).preshared_key([0x77; 32]);
        Request::new().peer(other)
    };
    pair.configure(A, &with_psk(A));
    pair.send(A, 1);
    pair.run_ms(20);
    assert_eq!(pair.numbers(B), [1], "the running session stays");
    pair.run_s(181);
    pair.send(A, 2);
    pair.run_s(1);
    assert_eq!(pair.hosts[A].discarded(Discard::BadHandshake), 1, "one side only: refused");
    pair.configure(B, &with_psk(B));
    pair.run_s(6);
    assert_eq!(pair.numbers(B), [1, 2]);
}

// spec-test: WG 11-c, WG 5.4.6-h, WG 5.4.2-d
#[test]
fn a_new_private_key_handshakes_at_once() {
    let mut pair = Pair::new(28);
    pair.connect();
    let fresh = [0x44; 32];
    let add = PeerRequest::new(public(&fresh)).allow("10.0.0.1/32");
    pair.configure(B, &Request::new().peer(add));
    let old = pair.hosts[A].only_peer().current_session(&G).unwrap();
    pair.configure(A, &Request::new().private_key(fresh));
    let now = pair.clock(A);
    assert!(!old.usable_for_sending(now.monotonic), "sending has ended");
    assert!(old.usable_for_receiving(now.monotonic), "receiving goes on");
    let since = pair.now;
    pair.send(A, 1);
    pair.run_ms(100);
    assert_eq!(pair.sent(A, 1, since).len(), 1, "without waiting five seconds");
    assert_eq!(pair.numbers(B), [1]);
    // The same key, in whatever form, changes nothing.
    let mut unclamped = fresh;
    unclamped[0] |= 7;
    unclamped[31] |= 0x80;
    pair.configure(A, &Request::new().private_key(unclamped));
    let since = pair.now;
    pair.send(A, 2);
    pair.run_ms(50);
    assert_eq!(pair.numbers(B), [1, 2]);
    assert!(pair.sent(A, 1, since).is_empty());
}

// spec-test: WG 5.4-d, WG 11-c
#[test]
fn without_a_private_key_nothing_is_sent_or_answered() {
    let mut pair = Pair::new(29);
    pair.configure(B, &Request::new().private_key([0; 32]));
    pair.send(A, 1);
    pair.run_ms(50);
    assert_eq!(pair.hosts[B].discards, [Discard::NoIdentity]);
    pair.send(B, 2);
    pair.run_s(1);
    assert_eq!(pair.trace.len(), 1);
    pair.configure(B, &Request::new().private_key(KEYS[B]));
    pair.run_ms(100);
    assert_eq!(pair.numbers(A), [2], "what was staged is tried as soon as there is a key");
}

// spec-test: WG 3-a
#[test]
fn a_peer_without_endpoint_learns_one() {
    let mut pair = Pair::unconfigured(30);
    let mut to_a = pair.introduction(B);
    to_a.peers[0].endpoint = None;
    to_a.peers[0].keepalive = Some(5);
    let to_b = pair.introduction(A);
    pair.configure(B, &to_a);
    pair.configure(A, &to_b);
    for host in [A, B] {
        let now = pair.clock(host);
        pair.hosts[host].up(now);
    }
    pair.run_s(30);
    assert!(pair.trace.is_empty(), "nobody to send to");
    pair.send(B, 1);
    assert_eq!(pair.hosts[B].discards, [Discard::NoEndpoint]);
    pair.send(A, 1);
    pair.run_ms(100);
    pair.send(B, 2);
    pair.run_ms(100);
    assert_eq!(pair.numbers(A), [2]);
}

/// The machine sleeps: both clocks jump, no timer fires on time.
// spec-test: WG 6-a
#[test]
fn after_a_sleep_the_first_packet_handshakes() {
    let mut pair = Pair::new(31);
    pair.connect();
    pair.now += s(200);
    let since = pair.now;
    for host in [A, B] {
        let now = pair.clock(host);
        pair.hosts[host].poll(now);
        let peer = pair.hosts[host].only_peer();
        assert!(peer.current_session(&G).is_none(), "stale sessions are gone");
    }
    pair.collect();
    pair.send(A, 1);
    assert_eq!(pair.trace.last().map(|sent| (sent.at, sent.kind())), Some((since, 1)));
    pair.run_ms(100);
    assert_eq!(pair.numbers(B), [1]);
}

#[test]
fn after_a_sleep_keepalives_are_spread_over_five_seconds() {
    let mut pair = Pair::new(32);
    let keepalive = PeerRequest::new(public(&KEYS[B])).keepalive(25);
    pair.configure(A, &Request::new().peer(keepalive));
    pair.run_s(1);
    pair.now += s(3600);
    let woke = pair.now;
    let now = pair.clock(A);
    pair.hosts[A].poll(now);
    pair.collect();
    pair.run_s(6);
    let initiations = pair.sent(A, 1, woke);
    assert_eq!(initiations.len(), 1);
    assert!(initiations[0].at > woke && initiations[0].at <= woke + s(5));
}

// spec-test: WG 5.1-d
#[test]
fn a_wall_clock_that_goes_back_does_not_lock_us_out() {
    let mut pair = Pair::new(33);
    pair.connect();
    pair.wall[A] -= s(3600);
    pair.run_s(200);
    pair.send(A, 1);
    pair.run_ms(100);
    assert_eq!(pair.numbers(B), [1]);
}

// spec-test: WG 11-i
#[test]
fn bytes_are_counted_as_the_kernel_counts_them() {
    let mut pair = Pair::new(34);
    pair.connect();
    let (a, b) = (pair.hosts[A].only_peer().status(&G), pair.hosts[B].only_peer().status(&G));
    let data = 16 + 32 + 16;
    assert_eq!((a.tx_bytes, a.rx_bytes), (148 + data, 92));
    assert_eq!((b.tx_bytes, b.rx_bytes), (92, 148 + data));
}

// spec-test: WG 5.1-g, WG 5.1-h, WG 5.3-c
#[test]
fn strangers_draw_no_answer_and_take_no_memory() {
    let mut pair = Pair::new(35);
    let mut stranger = Pair::unconfigured(36);
    let request = stranger.introduction(A).private_key([0x55; 32]);
    stranger.configure(A, &request);
    let now = stranger.clock(A);
    stranger.hosts[A].up(now);
    stranger.wire.lose = 1000;
    for number in 0..20 {
        stranger.send(A, number);
        stranger.run_s(5);
    }
    let from = "203.0.113.200:99".parse().unwrap();
    let initiations = stranger.sent(A, 1, Duration::ZERO);
    assert!(initiations.len() > 10);
    for initiation in &initiations {
        pair.inject(B, &initiation.bytes, from);
    }
    assert_eq!(pair.hosts[B].discarded(Discard::UnknownPeer), initiations.len());
    assert!(pair.trace.is_empty());
    assert!(pair.hosts[B].index.is_empty(&G));
}

/// Loss, delay, reordering and duplication over many rekeys: what arrives, arrives once and unchanged.
#[test]
fn lossy_wires() {
    for (seed, wire) in [
        (100, Wire { lose: 100, duplicate: 100, delay: ms(20), jitter: ms(50) }),
        (101, Wire { lose: 300, duplicate: 0, delay: ms(5), jitter: ms(0) }),
        (102, Wire { lose: 0, duplicate: 500, delay: ms(100), jitter: ms(400) }),
        (103, Wire { lose: 0, duplicate: 0, delay: ms(1), jitter: ms(1) }),
    ] {
        let mut pair = Pair::new(seed);
        pair.wire = wire;
        let count = 4000;
        for number in 0..count {
            pair.send(A, number);
            pair.send(B, number);
            pair.run_ms(250);
        }
        pair.run_s(20);
        for host in [A, B] {
            let mut numbers = pair.numbers(host);
            let arrived = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), arrived, "nothing arrives twice: {wire:?}");
            let expected = count as u64 * (1000 - wire.lose) / 1000 * 9 / 10;
            assert!(arrived as u64 >= expected, "{arrived} of {count}: {wire:?}");
            if wire.lose == 0 {
                assert_eq!(arrived, count as usize, "nothing is lost by us: {wire:?}");
            }
        }
        let rekeys = pair.trace.iter().filter(|sent| sent.kind() == 2).count();
        assert!(rekeys >= 1000 / 121, "{rekeys} handshakes in 1000 s");
    }
}

#[test]
fn everything_is_given_back() {
    {
        let mut pair = Pair::new(200);
        pair.wire = Wire { lose: 200, duplicate: 100, delay: ms(20), jitter: ms(50) };
        for number in 0..1500 {
            pair.send(A, number);
            pair.send(B, number);
            pair.run_ms(500);
        }
        assert_eq!(Attached::live(), 2);
        assert!(pair.hosts[A].index.len(&G) <= 4);
    }
    assert_eq!(Attached::live(), 0, "sessions and peers refer to each other no more");
}

// spec-test: WG 5.1-f
#[test]
fn initiations_of_a_peer_are_twenty_milliseconds_apart() {
    for (gap, verdict) in
        [(ms(19), Err(Discard::InitiationFlood)), (ms(20), Ok(())), (ms(21), Ok(()))]
    {
        let mut pair = Pair::new(37);
        pair.wire.lose = 1000;
        pair.send(A, 1);
        // Down and up, so that A need not wait five seconds.
        pair.hosts[A].down();
        let now = pair.clock(A);
        pair.hosts[A].up(now);
        pair.send(A, 2);
        let [first, second] = [0, 1].map(|n| pair.sent(A, 1, Duration::ZERO)[n].bytes.clone());
        let from = pair.hosts[A].address;
        pair.inject(B, &first, from);
        pair.run(gap);
        pair.inject(B, &second, from);
        let expected: Vec<_> = verdict.err().into_iter().collect();
        assert_eq!(pair.hosts[B].discards, expected, "{gap:?} apart");
        if verdict.is_err() {
            // spec-test: WG 5.1-c — a refused initiation's timestamp is not kept.
            pair.run_ms(1);
            pair.inject(B, &second, from);
            assert_eq!(pair.hosts[B].discards, expected, "now it is accepted");
        }
    }
}

// spec-test: WG 11-f
#[test]
fn sources_are_forgotten_with_the_listen_port() {
    let mut pair = Pair::new(38);
    pair.connect();
    let peer = pair.hosts[B].only_peer();
    assert!(peer.endpoint(&G).unwrap().local.is_some());
    let version = peer.endpoint_version();
    pair.hosts[B].tunnel.forget_sources(&G);
    let endpoint = peer.endpoint(&G).unwrap();
    assert_eq!((endpoint.remote, endpoint.local), (pair.hosts[A].address, None));
    assert_ne!(peer.endpoint_version(), version);
    pair.send(B, 1);
    pair.run_ms(20);
    assert_eq!(pair.numbers(A), [1], "the session lives on");
}
