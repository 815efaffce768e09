//! Rules of `docs/conformance.md` that need a wire stopped at one moment, or a message put where it does not belong.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use abi::discard::Discard;
use net::{
    A, B, G, KEYS, Pair, Request, Traced, inner,
    request::{PeerRequest, public},
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An address that nobody has.
fn elsewhere(number: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, number], 4711))
}

/// Where a host thinks that the other is.
fn known(pair: &Pair, host: usize) -> SocketAddr {
    pair.hosts[host].only_peer().endpoint(&G).unwrap().remote
}

/// Whether a host knows which of its own addresses the other writes to.
fn knows_source(pair: &Pair, host: usize) -> bool {
    pair.hosts[host].only_peer().endpoint(&G).unwrap().local.is_some()
}

/// The last datagram a host sent.
fn last(pair: &Pair, host: usize) -> Traced {
    pair.trace.iter().rfind(|sent| sent.from == host).unwrap().clone()
}

/// Restarts the adapter, so that the next packet begins a handshake at once.
fn restart(pair: &mut Pair, host: usize) {
    pair.hosts[host].down();
    let now = pair.clock(host);
    pair.hosts[host].up(now);
}

// spec-test: WG 5.4.3-c
#[test]
fn a_response_to_an_initiation_that_was_retried_is_dropped() {
    let mut pair = Pair::new(1);
    pair.wire.delay = s(6);
    pair.send(A, 1);
    pair.run_s(13);
    assert_eq!(pair.sent(A, 1, Duration::ZERO).len(), 3, "at 0, 5 and 10 s");
    assert_eq!(pair.sent(B, 2, Duration::ZERO).len(), 1 + 1, "to those that have come by");
    assert_eq!(pair.hosts[A].discards, [Discard::UnknownReceiver]);
    assert!(pair.hosts[A].only_peer().current_session(&G).is_none());
    assert_eq!(pair.hosts[A].index.len(&G), 1, "one handshake is pending");
}

// spec-test: WG 5.1-c
#[test]
fn the_greatest_timestamp_is_kept_as_long_as_the_peer() {
    let mut pair = Pair::new(2);
    pair.connect();
    let initiation = pair.trace[0].bytes.clone();
    let with = |key| Request::new().peer(PeerRequest::new(public(&KEYS[A])).preshared_key(key));
    let with_key = |key| Request::new().private_key(key);
    type Change<'c> = (&'c str, &'c dyn Fn(&mut Pair));
    let changes: [Change<'_>; 4] = [
        ("nothing", &|_| ()),
        ("another preshared key", &|pair| pair.configure(B, &with([9; 32]))),
        ("another private key, and back", &|pair| {
            pair.configure(B, &with_key([9; 32]));
            pair.configure(B, &with_key(KEYS[B]));
        }),
        ("keys erased", &|pair| {
            pair.run_s(600);
            assert!(pair.hosts[B].index.is_empty(&G));
        }),
    ];
    for (why, change) in changes {
        change(&mut pair);
        pair.inject(B, &initiation, elsewhere(1));
        assert_eq!(pair.hosts[B].discards.pop(), Some(Discard::StaleTimestamp), "after {why}");
    }
}

// spec-test: WG 6.1-c
#[test]
fn initiations_by_a_timer_have_jitter_and_those_for_a_packet_have_none() {
    let mut after_silence = BTreeSet::new();
    for moment in 0..8 {
        let mut pair = Pair::new(30);
        pair.connect();
        pair.run(s(30) + ms(moment));
        pair.wire.lose = 1000;
        let start = pair.now;
        pair.send(A, 1);
        pair.run_s(16);
        after_silence.insert(pair.sent(A, 1, start)[0].at - start);
    }
    assert!(after_silence.len() >= 4, "{after_silence:?}");

    let mut pair = Pair::new(3);
    pair.wire.lose = 1000;
    let start = pair.now;
    pair.send(A, 1);
    pair.run_s(110);
    let tries = pair.sent(A, 1, Duration::ZERO);
    assert_eq!(tries[0].at, start);
    let gaps: BTreeSet<_> = tries.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps.len() >= 10, "{gaps:?}");
    assert!(gaps.first().unwrap() >= &s(5) && gaps.last().unwrap() <= &ms(5334), "{gaps:?}");
}

// spec-test: WG 6.4-c, WG 6.4-d
#[test]
fn new_data_gives_a_handshake_all_its_tries_again() {
    let mut pair = Pair::new(4);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    pair.run_s(90);
    let since = pair.now;
    pair.send(A, 2);
    pair.run_s(300);
    let tries = pair.sent(A, 1, since).len();
    assert!((19..=20).contains(&tries), "{tries} more");
}

// spec-test: WG 6.3-f
#[test]
fn a_handshake_that_was_given_up_is_erased_too() {
    let mut pair = Pair::new(5);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    pair.run_s(110);
    let tries = pair.sent(A, 1, Duration::ZERO);
    let given_up = tries.last().unwrap().at + s(5);
    assert_eq!((tries.len(), pair.hosts[A].index.len(&G)), (20, 1));
    pair.run(given_up + s(540) - pair.now - ms(1));
    assert_eq!(pair.hosts[A].index.len(&G), 1);
    pair.run_ms(400);
    assert!(pair.hosts[A].index.is_empty(&G));
    assert_eq!(pair.hosts[A].tunnel.next_wake(&G), None);
}

// spec-test: WG 6.3-f
#[test]
fn erasing_keys_leaves_the_packets_that_wait() {
    let mut pair = Pair::new(6);
    pair.connect();
    let born = pair.now - ms(80);
    pair.run(born + s(538) - pair.now);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    pair.run_s(4);
    assert!(pair.hosts[A].only_peer().current_session(&G).is_none());
    assert_eq!(pair.hosts[A].only_peer().staged_packets(&G), 1);
    pair.wire.lose = 0;
    pair.run_s(6);
    assert_eq!(pair.numbers(B), [1]);
}

// spec-test: WG 2.1-a, WG 2.1-e
#[test]
fn the_endpoint_follows_every_authentic_message_and_nothing_else() {
    let mut pair = Pair::new(7);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    let home = [pair.hosts[A].address, pair.hosts[B].address];
    let initiation = last(&pair, A).bytes;
    let mut forged = initiation.clone();
    forged[120] ^= 1;
    pair.inject(B, &forged, elsewhere(1));
    assert_eq!((known(&pair, B), pair.hosts[B].discards.pop()), (home[A], Some(Discard::BadMac1)));

    pair.inject(B, &initiation, elsewhere(2));
    let response = last(&pair, B);
    assert_eq!((response.kind(), response.to), (2, elsewhere(2)), "it is answered there");
    assert_eq!(known(&pair, B), elsewhere(2), "an initiation");
    pair.inject(B, &initiation, elsewhere(3));
    assert_eq!(pair.hosts[B].discards.pop(), Some(Discard::StaleTimestamp));
    assert_eq!(known(&pair, B), elsewhere(2), "the same again");

    let mut forged = response.bytes.clone();
    forged[64] ^= 1;
    pair.inject(A, &forged, elsewhere(4));
    assert_eq!((known(&pair, A), pair.hosts[A].discards.pop()), (home[B], Some(Discard::BadMac1)));
    pair.inject(A, &response.bytes, elsewhere(5));
    assert_eq!(known(&pair, A), elsewhere(5), "a response");
    pair.inject(A, &response.bytes, elsewhere(6));
    assert_eq!(pair.hosts[A].discards.pop(), Some(Discard::UnknownReceiver));
    assert_eq!(known(&pair, A), elsewhere(5), "the same again");

    let data = last(&pair, A);
    assert_eq!((data.kind(), data.to), (4, elsewhere(5)));
    pair.inject(B, &data.bytes, elsewhere(7));
    assert_eq!((known(&pair, B), pair.numbers(B)), (elsewhere(7), vec![1]), "data");
    pair.run_s(11);
    let keepalive = last(&pair, B);
    assert!(keepalive.is_keepalive());
    pair.inject(A, &keepalive.bytes, elsewhere(8));
    assert_eq!(known(&pair, A), elsewhere(8), "a keepalive");
    pair.inject(A, &keepalive.bytes, elsewhere(9));
    assert_eq!(pair.hosts[A].discards.pop(), Some(Discard::Replayed));
    assert_eq!(known(&pair, A), elsewhere(8), "the same again");
}

// spec-test: WG 2.1-d
#[test]
fn the_source_is_forgotten_where_nobody_answers() {
    // After 15 seconds of silence.
    let mut pair = Pair::new(8);
    pair.connect();
    pair.run_s(30);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    pair.run(ms(14_999));
    assert!(knows_source(&pair, A));
    pair.run_ms(400);
    assert!(!knows_source(&pair, A));

    // When an initiation is sent again.
    let mut pair = Pair::new(9);
    pair.connect();
    pair.wire.lose = 1000;
    restart(&mut pair, A);
    pair.send(A, 1);
    pair.run(ms(4_999));
    assert!(knows_source(&pair, A));
    pair.run_ms(400);
    assert!(!knows_source(&pair, A));
}

// spec-test: WG 5.4.7-g, WG 5.4.7-f
#[test]
fn who_is_under_load_takes_a_cookie_all_the_same() {
    let mut pair = Pair::new(10);
    for host in &mut pair.hosts {
        host.queued = 512;
    }
    pair.send(A, 1);
    pair.run_ms(15);
    let reply = last(&pair, B).bytes;
    assert_eq!(reply[0], 3);
    let mut stray = reply.clone();
    stray[4] ^= 1;
    pair.inject(A, &stray, elsewhere(1));
    assert_eq!(pair.hosts[A].discards.pop(), Some(Discard::UnknownReceiver));
    let mut forged = reply.clone();
    forged[63] ^= 1;
    pair.inject(A, &forged, elsewhere(1));
    assert_eq!(pair.hosts[A].discards.pop(), Some(Discard::BadCookieReply));
    pair.run_s(4);
    assert!(pair.hosts[A].discards.is_empty());
    assert_eq!(pair.sent(A, 3, Duration::ZERO).len(), 0, "it is not asked for a MAC");
    pair.run_s(2);
    assert_ne!(pair.sent(A, 1, Duration::ZERO)[1].bytes[132..], [0; 16]);
}

// spec-test: WG 5.4.6-i
#[test]
fn what_was_sent_is_not_sent_again() {
    let mut pair = Pair::new(11);
    pair.connect();
    pair.run_s(30);
    pair.wire.lose = 1000;
    pair.send(A, 1);
    let start = pair.now;
    pair.run_s(1);
    pair.wire.lose = 0;
    pair.run_s(60);
    assert_eq!(pair.sent(A, 1, start).len(), 1, "silence was noticed, and a session made");
    assert!(pair.sent(A, 4, start + ms(1)).iter().all(|sent| sent.is_keepalive()));
    assert!(pair.numbers(B).is_empty());
}

// spec-test: WG 2-c, WG 5.4.6-d, WG 6.3-d
#[test]
fn a_false_source_is_authentic_all_the_same() {
    let mut pair = Pair::new(12);
    pair.wire.lose = 1000;
    let now = pair.clock(A);
    pair.hosts[A].transmit(net::packet("10.9.9.9".parse().unwrap(), inner(B), 1), now);
    pair.collect();
    pair.inject(B, &last(&pair, A).bytes, pair.hosts[A].address);
    pair.inject(A, &last(&pair, B).bytes, pair.hosts[B].address);
    let data = last(&pair, A);
    assert_eq!(data.kind(), 4);
    let peer = pair.hosts[B].only_peer();
    assert!(peer.current_session(&G).is_none());
    let before = peer.status(&G).rx_bytes;
    pair.inject(B, &data.bytes, elsewhere(1));
    assert_eq!(pair.hosts[B].discards, [Discard::WrongSource]);
    assert!(pair.hosts[B].delivered.is_empty());
    assert_eq!(peer.status(&G).rx_bytes, before, "not counted");
    assert_eq!(known(&pair, B), elsewhere(1), "but followed");
    assert!(peer.current_session(&G).is_some(), "and the session is confirmed");
    assert!(peer.status(&G).latest_handshake.is_some());
    let heard = pair.now;
    pair.run_s(11);
    let answer = last(&pair, B);
    assert!(answer.is_keepalive() && answer.at == heard + s(10), "and answered");
    pair.inject(B, &data.bytes, elsewhere(2));
    assert_eq!(pair.hosts[B].discards.pop(), Some(Discard::Replayed), "and once only");
}

/// With a session, with a handshake pending, and with a keepalive to send: one initiation at most, and traffic.
// spec-test: WG 6-a, WG 6.1-a
#[test]
fn a_week_of_sleep() {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    for (why, lose, keepalive) in
        [("a session", 0, 0), ("a pending handshake", 1000, 0), ("a keepalive to send", 0, 25)]
    {
        let mut pair = Pair::new(16);
        let to_b = PeerRequest::new(public(&KEYS[B])).keepalive(keepalive);
        pair.configure(A, &Request::new().peer(to_b));
        pair.run_s(1);
        pair.wire.lose = lose;
        pair.send(A, 1);
        pair.run_s(7);
        let delivered = pair.numbers(B).len();
        assert_eq!(delivered, usize::from(lose == 0), "{why}");
        pair.wire.lose = 0;
        pair.now += WEEK;
        let woke = pair.now;
        for host in [A, B] {
            let now = pair.clock(host);
            pair.hosts[host].poll(now);
            assert!(pair.hosts[host].only_peer().current_session(&G).is_none(), "{why}");
        }
        pair.collect();
        pair.run_s(6);
        let expected = usize::from(lose != 0 || keepalive != 0);
        let initiations = pair.sent(A, 1, woke);
        assert_eq!(initiations.len(), expected, "{why}");
        assert!(initiations.iter().all(|sent| sent.at <= woke + s(5)), "{why}");
        assert!(pair.sent(B, 1, woke).is_empty(), "{why}");
        pair.send(A, 2);
        pair.run_ms(100);
        assert_eq!(pair.numbers(B), [1, 2], "{why}");
    }
}

// spec-test: WG 6.5-d, WG 6.5-b
#[test]
fn data_heard_meanwhile_is_answered_by_the_same_keepalive() {
    let mut pair = Pair::new(14);
    pair.connect();
    let start = pair.now;
    pair.run_s(5);
    pair.send(A, 1);
    pair.run_s(100);
    let answers = pair.sent(B, 4, start);
    assert_eq!(answers.len(), 1, "the second one is called off");
    assert!(answers[0].is_keepalive() && answers[0].at < start + s(10));
}

// spec-test: WG 2.1-f
#[test]
fn what_is_sent_pushes_the_persistent_keepalive_out() {
    let mut pair = Pair::new(15);
    let to_b = PeerRequest::new(public(&KEYS[B])).keepalive(25);
    pair.configure(A, &Request::new().peer(to_b));
    pair.run_s(20);
    pair.wire.lose = 1000;
    let start = pair.now;
    pair.send(A, 1);
    pair.run_s(14);
    assert_eq!(pair.sent(A, 4, start + ms(1)).len(), 0, "not 25 s after the last one");
    // At 15 s of silence an initiation leaves, and at 20 s the next: each counts as well.
    pair.run_s(25);
    assert_eq!(pair.sent(A, 4, start + ms(1)).len(), 0);
}

// spec-test: WG 5.4-c
#[test]
fn no_handshake_is_begun_with_a_key_of_low_order() {
    let mut one = [0; 32];
    one[0] = 1;
    for (number, key) in [[0; 32], one].into_iter().enumerate() {
        let mut pair = Pair::new(13);
        let low = PeerRequest::new(key).endpoint(elsewhere(1)).allow("10.0.0.9/32").keepalive(5);
        pair.configure(A, &Request::new().peer(low));
        let now = pair.clock(A);
        let packet = net::packet(inner(A), "10.0.0.9".parse().unwrap(), 1);
        pair.hosts[A].transmit(packet, now);
        pair.collect();
        pair.run_s(60);
        assert!(pair.trace.is_empty(), "key {number}");
        assert!(pair.hosts[A].index.is_empty(&G), "key {number}");
    }
}

/// What a worker would discard at once never reaches one; and that is all that is held back.
// spec-test: WG 5.3-a, WG 5.4.7-f, WG 5.1-h
#[test]
fn what_no_worker_has_to_see_is_told_before() {
    let mut pair = Pair::new(40);
    pair.hosts[B].queued = 512;
    pair.send(A, 1);
    pair.run_ms(100);
    let [initiation, reply] = [0, 1].map(|at| pair.trace[at].bytes.clone());
    // Another one, so that a cookie reply is awaited.
    pair.hosts[B].queued = 1;
    pair.run_s(6);
    let response = pair.sent(B, 2, Duration::ZERO)[0].bytes.clone();
    let changed = |message: &[u8], at: usize| {
        let mut message = message.to_vec();
        message[at] ^= 0x40;
        message
    };
    let forged = changed(&initiation, 120);
    let malformed = Discard::MalformedMessage;
    type Row<'r> = (usize, &'r [u8], Result<(), Discard>, &'r str);
    let rows: [Row<'_>; 10] = [
        (B, &initiation, Ok(()), "an initiation, though heard before"),
        (B, &forged, Err(Discard::BadMac1), "a wrong mac1"),
        (A, &initiation, Err(Discard::BadMac1), "a mac1 for somebody else"),
        (A, &response, Ok(()), "a response, though heard before"),
        (A, &changed(&response, 65), Err(Discard::BadMac1), "a response's mac1"),
        (A, &reply, Err(Discard::UnknownReceiver), "to an initiation that was replaced"),
        (A, &reply[..63], Err(malformed), "cut"),
        (A, &[], Err(malformed), "nothing"),
        (A, &[4; 32], Err(malformed), "no message"),
        (B, &changed(&initiation, 132), Ok(()), "mac2 is no matter here"),
    ];
    for (host, message, expected, why) in rows {
        let verdicts = pair.hosts[host].tunnel.screen(&G, None, &[message]);
        assert_eq!(verdicts[0], expected, "{why}");
        assert_eq!(verdicts[1..], [Ok(()); 7], "{why}: of others nothing is said");
    }
    // All at once, each its own.
    let many = [&initiation[..], &forged, &reply[..10], &forged, &initiation];
    let bad = Err(Discard::BadMac1);
    let verdicts = pair.hosts[B].tunnel.screen(&G, None, &many);
    assert_eq!(verdicts[..5], [Ok(()), bad, Err(malformed), bad, Ok(())]);
    // A cookie reply is looked at while it is awaited, and only then.
    pair.wire.lose = 1000;
    restart(&mut pair, A);
    pair.send(A, 2);
    let sender = last(&pair, A).bytes[4..8].to_vec();
    let mut reply = reply;
    reply[4..8].copy_from_slice(&sender);
    let screened = |pair: &Pair, host: usize, message: &[u8]| {
        pair.hosts[host].tunnel.screen(&G, None, &[message])[0]
    };
    assert_eq!(screened(&pair, A, &reply), Ok(()), "only a worker opens it");
    assert_eq!(screened(&pair, B, &reply), Err(Discard::UnknownReceiver));
    pair.hosts[B].down();
    assert_eq!(screened(&pair, B, &initiation), Err(Discard::NotUp));
    let now = pair.clock(B);
    pair.hosts[B].up(now);
    pair.configure(B, &Request::new().private_key([0; 32]));
    assert_eq!(screened(&pair, B, &initiation), Err(Discard::NoIdentity));
}

/// Who has a cookie of his own is served before all who have none, as long as he does not come too often.
// spec-test: WG 5.3-b, WG 7.4-e
#[test]
fn under_load_a_valid_cookie_goes_first() {
    let mut pair = Pair::new(41);
    pair.hosts[B].queued = 512;
    pair.send(A, 1);
    pair.run_s(6);
    let [first, second] = [0, 1].map(|at| pair.sent(A, 1, Duration::ZERO)[at].bytes.clone());
    let from = pair.hosts[A].address;
    let now = pair.now;
    let goes_first = |pair: &Pair, message: &[u8], from: SocketAddr, at: Duration| {
        pair.hosts[B].tunnel.goes_first(&G, message, from, crypto::protocol::Instant(at))
    };
    let mut forged = second.clone();
    forged[147] ^= 1;
    for (message, from, at, expected, why) in [
        (&first, from, now, false, "without a cookie"),
        (&second, from, now, true, "with one"),
        (&forged, from, now, false, "with a wrong one"),
        (&second, elsewhere(1), now, false, "with somebody else's"),
        (&second, from, now + s(2), false, "without load"),
    ] {
        assert_eq!(goes_first(&pair, message, from, at), Ok(expected), "{why}");
    }
    // It is the worker who charges: once the source's credit is used up, nothing more comes in.
    while pair.hosts[B].discards.last() != Some(&Discard::RateLimited) {
        pair.inject(B, &second, from);
    }
    assert_eq!(goes_first(&pair, &second, from, now), Err(Discard::RateLimited));
    assert_eq!(goes_first(&pair, &second, from, now + ms(50)), Ok(true));
    let stale = pair.hosts[B].discarded(Discard::StaleTimestamp);
    assert!((4..=5).contains(&stale), "five at once: {stale}");
}
