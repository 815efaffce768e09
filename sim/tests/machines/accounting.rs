//! Where every packet went: what the drivers counted, added up, and compared with what was seen around them.
//!
//! ```text
//!   adapter.sent ──► PacketsOut ─┐                        ┌─► DatagramsOut ──► network.sent
//!                 KeepalivesOut ─┼─► discarded, staged or ┤
//!                 HandshakesOut ─┘                        └───────────────┐
//!                                                                         ▼
//!   adapter.got ◄── PacketsIn, KeepalivesIn, HandshakesIn or discarded ◄── DatagramsIn ◄── network.delivered
//! ```
//!
//! The two sums are exact at rest, with every adapter down: then nothing waits any more.

use std::time::Duration;

use abi::discard::{Direction, Discard};
use abi::statistics::{Counter, Statistics};
use sim::host::computer;
use sim::host::memory::pair::Station;
use sim::host::memory::{Carried, Network};

/// What a driver counted for one adapter.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Vec<u8>);

impl Ledger {
    /// Reads it.
    #[must_use]
    pub(crate) fn of(station: &Station) -> Self {
        Self(station.tunnel().statistics().unwrap())
    }

    /// A counter.
    #[must_use]
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.statistics().counter(counter)
    }

    /// Discards for one reason.
    #[must_use]
    pub(crate) fn discarded(&self, reason: Discard) -> u64 {
        self.statistics().discarded(reason)
    }

    /// Discards of one direction.
    #[must_use]
    pub(crate) fn discards(&self, direction: Direction) -> u64 {
        self.statistics().discards(direction)
    }

    /// Datagrams that callouts were asked about and let pass, for whatever reason.
    #[must_use]
    pub(crate) fn permitted(&self) -> u64 {
        let reasons = Counter::ALL.iter().filter(|c| c.name().starts_with("Permitted"));
        reasons.map(|reason| self.counter(*reason)).sum()
    }

    /// See [`Statistics::waiting`].
    #[must_use]
    pub(crate) fn waiting(&self) -> i64 {
        self.statistics().waiting()
    }

    /// See [`Statistics::lost`].
    #[must_use]
    pub(crate) fn lost(&self) -> i64 {
        self.statistics().lost()
    }

    fn statistics(&self) -> Statistics<'_> {
        Statistics::parse(&self.0).unwrap()
    }
}

/// Every counter and every discard that is not 0, for a failure's message.
impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for counter in Counter::ALL {
            writeln!(f, "  {:24}{:>10}", counter.name(), self.counter(*counter))?;
        }
        for reason in Discard::ALL.iter().filter(|reason| self.discarded(**reason) > 0) {
            writeln!(
                f,
                "  {:?} {:16}{:>10}",
                reason.direction(),
                reason.name(),
                self.discarded(*reason)
            )?;
        }
        Ok(())
    }
}

/// Checks every sum there is of `stations`, which are all there are on `network` but for those who sent `others`; takes
/// their adapters down.
///
/// # Panics
///
/// With the report of a machine that stopped, or the sum that is wrong.
pub(crate) fn check(stations: &[&Station], network: &Network, others: Carried) {
    let Some(world) = stations.first().map(|station| station.computer().machine().world()) else {
        return;
    };
    world.sleep(Duration::from_secs(1));
    for station in stations {
        alive(station);
        let ledger = Ledger::of(station);
        let name = station.inner()[0];
        assert!(ledger.waiting() >= 0, "{name}: more left than came\n{ledger}");
        station.set_up(false).unwrap();
    }
    world.sleep(Duration::from_secs(1));
    let ledgers: Vec<Ledger> = stations.iter().map(|station| Ledger::of(station)).collect();
    for (station, ledger) in stations.iter().zip(&ledgers) {
        alive(station);
        let (name, adapter) = (station.inner()[0], station.tunnel().adapter());
        assert_eq!(ledger.waiting(), 0, "{name}: outbound does not add up\n{ledger}");
        assert_eq!(ledger.lost(), 0, "{name}: inbound does not add up\n{ledger}");
        let sent = adapter.sent();
        assert_eq!(sent.accepted, sent.completed + sent.paused, "{name}: slots are not given back");
        // What was cut is counted as what became of it.
        let given = ledger.counter(Counter::PacketsOut) - ledger.counter(Counter::SegmentsOut)
            + ledger.counter(Counter::SuperPacketsOut);
        assert_eq!(given, sent.completed, "{name}: from the adapter\n{ledger}");
        let (got, seen) = (adapter.received(), station.endpoint().counts());
        let given = got.indicated + got.discarded;
        assert_eq!(ledger.counter(Counter::PacketsIn), given, "{name}: to the adapter\n{ledger}");
        let by_callouts = ledger.counter(Counter::Absorbed);
        assert!(by_callouts <= ledger.counter(Counter::DatagramsIn), "{name}: absorbed\n{ledger}");
        let injected = ledger.counter(Counter::InjectedOut);
        assert!(injected <= ledger.counter(Counter::DatagramsOut), "{name}: injected\n{ledger}");
        assert_eq!(got.dropped, 0, "{name}: packets the adapter would not take\n{ledger}");
        assert_eq!(
            (seen.packets_in, seen.strange),
            (got.indicated, 0),
            "{name}: to the host\n{ledger}"
        );
    }
    let all = |counter| ledgers.iter().map(|ledger| ledger.counter(counter)).sum::<u64>();
    let carried = network.carried();
    assert_eq!(all(Counter::DatagramsOut), carried.sent - others.sent, "datagrams that left");
    assert_eq!(all(Counter::DatagramBytesOut), carried.bytes - others.bytes, "bytes that left");
    assert!(all(Counter::DatagramsIn) <= carried.delivered, "more datagrams came than were there");
}

fn alive(station: &Station) {
    let machine = station.computer().machine();
    assert!(!machine.is_dead(), "the driver stopped the machine:\n{}", computer::report(machine));
}
