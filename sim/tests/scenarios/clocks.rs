//! System time jumps; interrupt time cannot.
//!
//! ```text
//!   wall   ──────► 2026 ──┐ set back a year, to 1601, on to 2099 ┌──►     TAI64N grows all the same: each handshake is accepted
//!   uptime ──────────────────────────────────────────────────────►        keys expire by this one
//! ```
//!
//! An administrator, a time service or a firmware battery may set the system time at any moment, either way. The interrupt time
//! is documented to count up from boot; nothing sets it, so nothing plays that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use abi::discard::Discard;
use abi::statistics::Counter;
use sim::nt::timer::move_system_time;

use crate::machines;
use crate::machines::Load;
use crate::machines::accounting::Ledger;

const YEAR: i64 = 365 * 24 * 3600;
/// Forward, back, before 1970, before 1601, and to where it was.
const JUMPS: [i64; 6] = [YEAR, -2 * YEAR, -70 * YEAR, -500 * YEAR, 600 * YEAR, -29 * YEAR];

#[test]
fn system_time_jumps_between_handshakes() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        for (round, jump) in JUMPS.into_iter().enumerate() {
            let ends = [&pair.alpha, &pair.beta];
            move_system_time(ends[round % 2].computer().machine(), jump);
            let [before, _] = ends.map(|end| Ledger::of(end).counter(Counter::HandshakesOut));
            // Alpha began the session, so alpha renews it.
            pair.world.sleep(Duration::from_secs(121));
            machines::ping(&pair.alpha, &pair.beta);
            let alpha = Ledger::of(&pair.alpha);
            assert!(alpha.counter(Counter::HandshakesOut) > before, "round {round}\n{alpha}");
        }
        for end in [&pair.alpha, &pair.beta] {
            let ledger = Ledger::of(end);
            assert_eq!(ledger.discarded(Discard::StaleTimestamp), 0, "{ledger}");
        }
    });
}

#[test]
fn system_time_jumps_under_load() {
    machines::with_pair(2, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let every = Duration::from_millis(200);
        let loads = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)]
            .map(|(from, to)| Load::start(&pair.world, from, to.inner()[0], 200, every));
        let rounds = JUMPS.iter().cycle().take(60);
        for (round, jump) in rounds.enumerate() {
            let ends = [&pair.alpha, &pair.beta];
            move_system_time(ends[round % 2].computer().machine(), *jump);
            pair.world.sleep(Duration::from_secs(10));
        }
        drop(loads);
        pair.world.sleep(Duration::from_secs(1));
        let [alpha, beta] = [&pair.alpha, &pair.beta].map(Ledger::of);
        for (one, other) in [(&alpha, &beta), (&beta, &alpha)] {
            let (sent, got) = (one.counter(Counter::PacketsOut), other.counter(Counter::PacketsIn));
            assert_eq!(sent, got, "lost\n{one}\n{other}");
        }
        // A rekey each 120 s, as if nothing had been.
        assert_eq!(alpha.counter(Counter::HandshakesOut), 5, "{alpha}");
    });
}

/// Loaded anew with a clock that was set back it knows nothing of the timestamps it gave: its peer refuses them. The peer's own
/// are as good as ever, so the next thing that the peer sends makes a session.
#[test]
fn a_clock_set_back_before_the_driver_is_loaded_anew_waits_for_the_peer() {
    let file = machines::driver();
    machines::on_virtual_time(3, |world, driver| {
        let network = sim::host::memory::Network::new(world);
        let boot = |name: &str, number| {
            let options = machines::verified(name);
            sim::host::memory::pair::Station::boot(world, &network, number, options, driver)
                .unwrap()
        };
        let (alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        machines::join(&alpha, &beta);
        machines::ping(&alpha, &beta);
        move_system_time(alpha.computer().machine(), -YEAR);
        let (alpha, leaks) = alpha.restart(&file).unwrap();
        machines::nothing_left(&leaks);
        alpha.set_peers(&[beta.as_peer().unwrap()]).unwrap();
        alpha.set_up(true).unwrap();
        let answered = alpha.endpoint().ping(beta.inner()[0], 56, Duration::from_secs(9));
        let ledger = Ledger::of(&beta);
        assert!(answered.is_none() && ledger.discarded(Discard::StaleTimestamp) > 0, "{ledger}");
        // What beta sends by the session that alpha has forgotten is not answered: after 15 s it begins another.
        world.sleep(Duration::from_secs(20));
        machines::ping(&beta, &alpha);
        machines::ping(&alpha, &beta);
        for station in [alpha, beta] {
            machines::nothing_left(&station.shut_down().unwrap());
        }
    });
}
