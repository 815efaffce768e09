//! What came as one and does not come apart: the stack says wrongly where datagrams end, or somebody has mixed his in.
//!
//! ```text
//!   alpha ── a a a a ──► between ──► [a a a a] "1048 bytes each", or "0", "524", nothing ... ──► beta
//!                        stranger ─► [x x x]   "1048 bytes each"
//! ```
//!
//! Nothing that was cut wrongly is delivered. If it began as a session's own, the stack is wrong: all of it goes, and the
//! adapter asks for no more. If not, anybody may have sent it, and nothing follows.

use std::net::SocketAddr;
use std::time::Duration;

use abi::discard::{Direction, Discard};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{PORT, Station};
use sim::nt::machine::Options;
use sim::nt::wsk::{self, Boundaries};

use crate::datagrams::{Scene, send};
use crate::{Counted, options};

const COUNT: usize = 120;

fn coalescing() -> Options {
    let mut options = options("one");
    options.parameters.insert(Policy::OuterCoalescing.name().to_owned(), 1);
    options.parameters.insert(Policy::FastPath.name().to_owned(), 0);
    options.choices.extend(wsk::good_offloads());
    options
}

/// Sends packets from alpha to beta; how many arrive, each as it was sent.
fn arrive(scene: &Scene, size: usize) -> usize {
    for number in 0..COUNT {
        let to = scene.beta.inner()[0];
        while !scene.alpha.endpoint().send_datagram(to, vec![number as u8; size]) {
            scene.world.sleep(Duration::from_micros(50));
        }
    }
    let next = || scene.beta.endpoint().take_datagram(Duration::from_millis(200));
    std::iter::from_fn(next)
        .map(|(_, data)| assert!(data.len() == size && data.iter().all(|byte| *byte == data[0])))
        .count()
}

fn set(scene: &Scene, boundaries: Boundaries) {
    wsk::set_boundaries(scene.beta.computer().machine(), boundaries);
}

/// How many datagrams beta's stack has put together.
fn put_together(scene: &Scene) -> u64 {
    wsk::coalesced(scene.beta.computer().machine())[1]
}

fn said(station: &Station, text: &str) -> usize {
    let lines = station.computer().machine().prints();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn wrong_boundaries_are_found_out_and_no_more_is_asked_for() {
    for (seed, wrong) in [
        (1, Boundaries::Missing),
        (2, Boundaries::Zero),
        (3, Boundaries::Half),
        (4, Boundaries::More),
        (5, Boundaries::TooMuch),
    ] {
        Scene::run_on(seed, &coalescing(), |scene| {
            assert_eq!(arrive(scene, 1000), COUNT, "{wrong:?}");
            let right = put_together(scene);
            assert!(right > 0, "{wrong:?}");
            set(scene, wrong);
            assert!(arrive(scene, 1000) < COUNT, "{wrong:?}");
            let counted = Counted::of(scene.beta.tunnel());
            counted.assert_inbound_identity();
            let discarded = counted.all_discarded(Direction::Inbound);
            let bad = counted.discarded(Discard::BadCoalescing);
            assert!(bad > 0 && bad == discarded, "{wrong:?}: {}", counted.discards());
            assert_eq!(counted.counter(Counter::CoalescingDistrusted), 1, "{wrong:?}");
            assert_eq!(said(&scene.beta, "do not come apart"), 1, "{wrong:?}");
            // From here on each comes by itself, whatever the stack would say.
            let before = put_together(scene);
            assert!(before > right, "{wrong:?}");
            assert_eq!(arrive(scene, 1000), COUNT, "{wrong:?}");
            assert_eq!(put_together(scene), before, "{wrong:?}");
            // That an administrator asks again does not help; that the adapter comes up does.
            let again = [(Policy::OuterCoalescing, Some(1))];
            scene.beta.tunnel().set_policy(&again).unwrap();
            assert_eq!(arrive(scene, 1000), COUNT, "{wrong:?}");
            assert_eq!(put_together(scene), before, "{wrong:?}");
            set(scene, Boundaries::Right);
            scene.beta.set_up(false).unwrap();
            scene.beta.set_up(true).unwrap();
            let to = scene.alpha.inner()[0];
            assert!(scene.beta.endpoint().ping(to, 10, Duration::from_secs(10)).is_some());
            assert_eq!(arrive(scene, 1000), COUNT, "{wrong:?}");
            assert!(put_together(scene) > before, "{wrong:?}");
        });
    }
}

/// So short that all of them together could be one of ours: that it is none only its tag tells.
#[test]
fn what_cannot_be_told_from_one_is_not_opened() {
    Scene::run_on(6, &coalescing(), |scene| {
        set(scene, Boundaries::Missing);
        let arrived = arrive(scene, 36);
        assert!(arrived < COUNT, "{arrived}");
        let counted = Counted::of(scene.beta.tunnel());
        counted.assert_inbound_identity();
        assert!(counted.discarded(Discard::BadTag) > 0, "{}", counted.discards());
        scene.beta.tunnel().set_policy(&[(Policy::OuterCoalescing, Some(0))]).unwrap();
        assert_eq!(arrive(scene, 36), COUNT);
    });
}

/// Sends `burst` to beta, from where its peer is or as a stranger, again and again; what beta's counters grew by.
fn grown(scene: &Scene, disguised: bool, burst: &[Vec<u8>]) -> impl Fn(Discard) -> u64 + use<> {
    let to = SocketAddr::new(scene.beta.outer()[0], PORT);
    let socket = if disguised { &scene.between.to_beta } else { &scene.stranger };
    let (before, together) = (Counted::of(scene.beta.tunnel()), put_together(scene));
    for _ in 0..20 {
        burst.iter().for_each(|datagram| send(socket, to, datagram));
        scene.world.sleep(Duration::from_millis(5));
    }
    scene.world.sleep(Duration::from_millis(100));
    assert!(put_together(scene) > together, "nothing came as one");
    let after = Counted::of(scene.beta.tunnel());
    after.assert_inbound_identity();
    let left = [Counter::DatagramsOut, Counter::HandshakesOut]
        .map(|of| (before.counter(of), after.counter(of)));
    assert!(left.iter().all(|(before, after)| before == after), "somebody was answered: {left:?}");
    move |reason| after.discarded(reason) - before.discarded(reason)
}

fn distrusted(scene: &Scene) -> u64 {
    Counted::of(scene.beta.tunnel()).counter(Counter::CoalescingDistrusted)
}

/// A datagram of `length` bytes that begins so.
fn begins(first: &[u8], length: usize) -> Vec<u8> {
    let mut datagram = first.to_vec();
    datagram.resize(length, 0xA5);
    datagram
}

#[test]
fn what_strangers_send_says_nothing_about_the_stack() {
    Scene::run_on(7, &coalescing(), |scene| {
        let noise = begins(&[9, 9, 9, 9], 500);
        let unknown = begins(&[4, 0, 0, 0, 1, 2, 3, 4], 500);
        let initiation = begins(&[1, 0, 0, 0], 148);
        for (burst, what) in [
            (vec![noise.clone(); 8], "noise"),
            (vec![unknown.clone(); 8], "nobody's"),
            (vec![unknown.clone(), noise.clone(), unknown.clone(), noise], "mixed"),
            (vec![initiation; 8], "handshakes"),
            (vec![unknown, begins(&[1, 0, 0, 0], 148)], "a handshake at the end"),
            (vec![begins(&[4, 0, 0, 0], 40), begins(&[4, 0, 0, 0], 20)], "too little at the end"),
        ] {
            let grown = grown(scene, false, &burst);
            assert_eq!(distrusted(scene), 0, "{what}");
            let all = 20 * burst.len() as u64;
            let reasons = [
                Discard::MalformedMessage,
                Discard::UnknownReceiver,
                Discard::BadMac1,
                Discard::HandshakeQueueFull,
                Discard::BadCoalescing,
            ];
            let counted: u64 = reasons.into_iter().map(&grown).sum();
            if grown(Discard::BadCoalescing) == 0 {
                assert_eq!(counted, all, "{what}: each for itself");
            } else {
                // What cannot be cut at all is one.
                assert!(counted < all, "{what}");
            }
        }
        scene.ping();
        assert_eq!(said(&scene.beta, "do not come apart"), 0);
    });
}

#[test]
fn parts_of_others_are_theirs_and_noise_among_ours_ends_it() {
    Scene::run_on(8, &coalescing(), |scene| {
        // What beta has seen: discarded once more, as a replay.
        let ours = Scene::heard_from(&scene.between.from_alpha, |d| d[0] == 4 && d.len() > 600);
        let others = begins(&[4, 0, 0, 0, 1, 2, 3, 4], ours.len());
        let burst = [ours.clone(), others.clone(), ours.clone(), others, begins(&[3, 0, 0, 0], 64)];
        let count = grown(scene, true, &burst);
        assert_eq!(count(Discard::Replayed), 40, "our parts");
        assert_eq!(count(Discard::UnknownReceiver), 40 + 20, "and those of others");
        assert_eq!((count(Discard::BadCoalescing), distrusted(scene)), (0, 0));
        // A cookie reply is as long as a short packet: what is a session's need not lie side by side.
        assert!(scene.alpha.endpoint().send_datagram(scene.beta.inner()[0], vec![1; 4]));
        assert!(scene.beta.endpoint().take_datagram(Duration::from_secs(1)).is_some());
        let short = Scene::heard_from(&scene.between.from_alpha, |d| d[0] == 4 && d.len() == 64);
        let cookie = begins(&[3, 0, 0, 0], 64);
        let burst = [short.clone(), cookie.clone(), short.clone(), cookie, short];
        let count = grown(scene, true, &burst);
        assert_eq!(count(Discard::Replayed), 60, "those before and behind");
        assert_eq!((count(Discard::BadTag), distrusted(scene)), (0, 0));
        let noise = begins(&[9, 9, 9, 9], ours.len());
        let count = grown(scene, true, &[ours.clone(), ours, noise]);
        assert_eq!(distrusted(scene), 1);
        assert!(count(Discard::BadCoalescing) > 0);
        assert_eq!(arrive(scene, 1000), COUNT, "one by one it goes on");
    });
}
