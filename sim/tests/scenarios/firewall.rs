//! The firewall forgets a UDP flow after 60 s without traffic that it sees; whether it sees what callouts absorb or
//! inject is not known, so all four kinds of Windows.
//!
//! ```text
//!   a datagram every 7 s:  │  │  │  │  │  │  │  │  │  │  │  │  …  eight minutes
//!   by the socket:         ▲        ▲        ▲        ▲            one in 20 s at least
//!   the flow:              ════════════════════════════════════    authorised once
//! ```

use std::time::Duration;

use crate::machines;
use crate::machines::accounting::Ledger;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::Station;
use sim::nt::fwp::{self, Firewall};

/// How often a machine's firewall had to authorise a datagram.
fn authorised(station: &Station) -> u64 {
    fwp::counts(station.computer().machine()).authorised
}

fn minutes_of_traffic(seed: u64, verified: bool, engine: u32, [absorbed, injected]: [bool; 2]) {
    let mut options = machines::with_policy(Policy::SendEngine, engine);
    options.verified = verified;
    let kinds = [
        ("ABSORBED_PACKETS_KEEP_THE_FLOW", absorbed),
        ("INJECTED_PACKETS_KEEP_THE_FLOW", injected),
    ];
    options.choices.extend(kinds.map(|(name, is)| (name.to_owned(), is)));
    machines::with_pair_of(seed, &options, |pair| {
        let why = format!("seed {seed}, verified {verified}, engine {engine}: {kinds:?}");
        let stations = [&pair.alpha, &pair.beta];
        fwp::set_firewall(pair.alpha.computer().machine(), Firewall::OnlyAnswers);
        fwp::set_firewall(pair.beta.computer().machine(), Firewall::IgnoresSends);
        machines::ping(&pair.alpha, &pair.beta);
        let (before, ledgers) = (stations.map(authorised), stations.map(Ledger::of));
        // Nothing is answered: what goes one way must keep that way open.
        for _ in 0..8 * 60 / 7 {
            pair.world.sleep(Duration::from_secs(7));
            for (from, to) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
                assert!(from.endpoint().send_datagram(to.inner()[0], vec![7; 100]), "{why}");
            }
        }
        pair.world.sleep(Duration::from_secs(1));
        assert_eq!(stations.map(authorised), before, "{why}: a flow was forgotten");
        for (station, old) in stations.into_iter().zip(&ledgers) {
            let now = Ledger::of(station);
            let more = |counter| now.counter(counter) - old.counter(counter);
            let counts = fwp::counts(station.computer().machine());
            assert_eq!((counts.refused, counts.blocked), (0, 0), "{why}\n{now}");
            assert_eq!(more(Counter::PacketsIn), 8 * 60 / 7, "{why}\n{now}");
            assert!(more(Counter::Absorbed) > 25, "{why}\n{now}");
            // As often as must be, and no more often.
            let refreshed = more(Counter::PermittedRefresh);
            assert!((10..=24).contains(&refreshed), "{why}: {refreshed} refreshes\n{now}");
            if engine != 0 {
                assert!(more(Counter::InjectedOut) > 25, "{why}\n{now}");
                let passed = more(Counter::InjectionPassed);
                assert!((15..=26).contains(&passed), "{why}: {passed} by the socket\n{now}");
            }
        }
    });
}

#[test]
fn minutes_of_traffic_keep_their_flow() {
    for absorbed in [false, true] {
        for injected in [false, true] {
            for engine in 0..3 {
                minutes_of_traffic(1, false, engine, [absorbed, injected]);
                minutes_of_traffic(2, true, engine, [absorbed, injected]);
            }
        }
    }
}
