//! Two adapters of one driver: ports, peers and sessions of their own, one index table, and nothing crosses over.
//!
//! ```text
//!                ┌─────────── alpha ───────────┐
//!   10.9.0.1 ────┤ adapter 1, :51820 ══════════╪══════ beta   10.9.0.2
//!   10.9.0.3 ────┤ adapter 2, :51823 ══════════╪══════ gamma  10.9.0.4
//!                └─────────────────────────────┘
//!           beta, for a while, sends what is for adapter 1 to the port of adapter 2  ✗
//! ```

use std::net::SocketAddr;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::discard::Discard;
use abi::statistics::Counter;
use sim::host::memory::Network;
use sim::host::memory::pair::{PeerSettings, Station};

#[test]
fn what_is_for_one_is_not_taken_by_the_other() {
    machines::on_virtual_time(5, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            Station::boot(world, &network, number, machines::verified(name), driver).unwrap()
        };
        let (alpha, beta, gamma) = (boot("alpha", 1), boot("beta", 2), boot("gamma", 4));
        let second = alpha.beside(3).unwrap();
        machines::join(&alpha, &beta);
        machines::join(&second, &gamma);
        for _ in 0..3 {
            machines::ping(&alpha, &beta);
            machines::ping(&gamma, &second);
        }
        // Each knows its own peer and no other.
        let none = alpha.endpoint().ping(gamma.inner()[0], 56, std::time::Duration::from_secs(1));
        assert_eq!((none, Ledger::of(&alpha).discarded(Discard::NoPeer)), (None, 1));

        // Beta's session is with adapter 1; its datagrams now go to the port of adapter 2.
        let right = alpha.as_peer().unwrap();
        let wrong = Some(SocketAddr::new(alpha.outer()[0], second.port()));
        beta.set_peers(&[PeerSettings { endpoint: wrong, ..right.clone() }]).unwrap();
        let seen = [&alpha, &second].map(|station| Ledger::of(station).counter(Counter::PacketsIn));
        for _ in 0..10 {
            assert!(beta.endpoint().send_datagram(alpha.inner()[0], vec![9; 300]));
        }
        world.sleep(std::time::Duration::from_secs(1));
        let stray = Ledger::of(&second);
        assert_eq!(stray.discarded(Discard::UnknownReceiver), 10, "{stray}");
        let now = [&alpha, &second].map(|station| Ledger::of(station).counter(Counter::PacketsIn));
        assert_eq!(now, seen, "nobody took them");

        beta.set_peers(&[right]).unwrap();
        machines::ping(&beta, &alpha);
        // One goes, and the other stays.
        second.set_up(false).unwrap();
        machines::ping(&alpha, &beta);
        machines::finish(vec![beta, gamma, alpha, second], &network);
    });
}
