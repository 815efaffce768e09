//! A peer is removed under load, both ways, and comes back: nothing leaks, and every packet is accounted for.
//!
//! ```text
//!   ┌───────┐ ══ load ══► ┌──────┐
//!   │ alpha │ ◄══ load ══ │ beta │      alpha forgets beta ✂, and learns of it again
//!   └───────┘             └──────┘
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;

#[test]
fn a_peer_goes_and_comes_under_load() {
    for seed in 1..4 {
        machines::with_pair(seed, |pair| {
            let beta = pair.beta.as_peer().unwrap();
            machines::ping(&pair.alpha, &pair.beta);
            let every = Duration::from_micros(500);
            let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
                .map(|(one, other)| Load::start(&pair.world, one, other.inner()[0], 1200, every));
            for round in 0..10_u64 {
                pair.world.sleep(Duration::from_millis(20 + round));
                machines::remove_peer(&pair.alpha, &beta.public_key);
                pair.world.sleep(Duration::from_millis(5));
                let answer = pair.alpha.tunnel().get().unwrap();
                assert_eq!(
                    abi::ioctl::Set::parse(&answer).unwrap().peers().count(),
                    0,
                    "seed {seed}"
                );
                pair.alpha.set_peers(std::slice::from_ref(&beta)).unwrap();
            }
            drop(loads);
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
            let alpha = Ledger::of(&pair.alpha);
            assert!(
                alpha.discarded(Discard::NoPeer) >= 50,
                "seed {seed}: nobody to send to\n{alpha}"
            );
            assert!(
                alpha.discarded(Discard::UnknownReceiver) >= 50,
                "seed {seed}: no session\n{alpha}"
            );
        });
    }
}

#[test]
fn packets_that_wait_go_with_their_peer() {
    machines::with_pair(1, |pair| {
        // Beta is not there, so alpha's packets wait for a session that never comes.
        pair.beta.set_up(false).unwrap();
        let to = pair.beta.inner()[0];
        for _ in 0..100 {
            assert!(pair.alpha.endpoint().send_datagram(to, vec![0; 200]));
        }
        pair.world.sleep(Duration::from_millis(100));
        assert_eq!(Ledger::of(&pair.alpha).waiting(), 100);
        machines::remove_peer(&pair.alpha, &pair.beta.public_key().unwrap());
        pair.world.sleep(Duration::from_millis(100));
        let alpha = Ledger::of(&pair.alpha);
        assert_eq!((alpha.waiting(), alpha.discarded(Discard::PeerRemoved)), (0, 100), "{alpha}");
    });
}
