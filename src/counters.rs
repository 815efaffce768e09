//! What an adapter counts: packets and bytes by direction, and every discard by its reason.
//!
//! Plain atomics, added to once per chunk or per batch rather than once per packet wherever the
//! caller has a sum. What is added for each chunk has a place for each CPU besides ([`Counters::add_here`]), so that it takes no
//! locked instruction and no line that others write. They only ever grow (but see [`Counters::take_back`]), and a reader takes
//! them one by one: two counters read under traffic need not be of the same instant. Any IRQL.
//!
//! At rest they add up, each way, in the words of [`Counter`]:
//!
//! ```text
//! packets of the adapter = PacketsOut - SegmentsOut + SuperPacketsOut
//! PacketsOut + KeepalivesOut + HandshakesOut = DatagramsOut + still staged + outbound discards
//! DatagramsIn + TooBigTold = PacketsIn + KeepalivesIn + HandshakesIn + inbound discards
//! ```

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{
    descriptor::Places,
    discard::Discard,
    events::Event,
    places,
    statistics::{self, Counter, Kind, OF_CPU},
};
use nt::{irql::AtMostDispatch, processor, recorder, status::NtError};

/// The counters of one adapter.
pub(crate) struct Counters {
    /// Each CPU's share, written by it alone.
    own: Vec<Own>,
    /// What is counted at any IRQL.
    counters: [AtomicU64; Counter::COUNT],
    discards: [AtomicU64; Discard::COUNT],
}

/// One CPU's share, on cache lines of its own. A debugger finds the counts first.
#[repr(C, align(64))]
struct Own {
    counts: [AtomicU64; Counter::COUNT],
    /// As [`Counter::LongestAtDispatch100ns`], of this CPU.
    longest_100ns: AtomicU64,
}

impl Own {
    const PLACES: Places = places!("OwnCounters");
}

impl Counters {
    /// For a debugger: those of an adapter, and one CPU's share.
    pub(crate) const PLACES: [Places; 2] =
        [places!("Counters", own, counters, discards), Own::PLACES];

    /// The shares of all CPUs, which stay where they are.
    pub(crate) fn of_cpus(&self) -> &[impl Sized + use<>] {
        &self.own
    }

    /// All at zero.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new() -> Result<Self, NtError> {
        let cpus = processor::maximum() as usize;
        let mut own = Vec::new();
        own.try_reserve_exact(cpus).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        own.resize_with(cpus, || Own {
            counts: [const { AtomicU64::new(0) }; Counter::COUNT],
            longest_100ns: AtomicU64::new(0),
        });
        Ok(Self {
            own,
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            discards: [const { AtomicU64::new(0) }; Discard::COUNT],
        })
    }

    /// Adds each amount to its counter, in this CPU's share.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; raises to it meanwhile.
    pub(crate) fn add_here(&self, amounts: &[(Counter, usize)], level: &AtMostDispatch) {
        level.pinned(|level| {
            let own = self.own.get(processor::current(level) as usize);
            for (counter, amount) in amounts {
                match own.and_then(|own| own.counts.get(*counter as usize)) {
                    Some(value) => {
                        // Relaxed, and two steps: at DISPATCH_LEVEL nobody else writes what is this CPU's.
                        let sum = value.load(Ordering::Relaxed).wrapping_add(*amount as u64);
                        value.store(sum, Ordering::Relaxed);
                    }
                    None => self.add(*counter, *amount),
                }
            }
        });
    }

    /// Adds `amount` to `counter`.
    pub(crate) fn add(&self, counter: Counter, amount: usize) {
        if amount == 0 {
            return;
        }
        if let Some(value) = self.counters.get(counter as usize) {
            // Relaxed: a count publishes nothing.
            value.fetch_add(amount as u64, Ordering::Relaxed);
        }
    }

    /// Takes `amount` back from `counter`: counted once, and then it did not happen.
    pub(crate) fn take_back(&self, counter: Counter, amount: usize) {
        if let Some(value) = self.counters.get(counter as usize) {
            // Relaxed: as above.
            value.fetch_sub(amount as u64, Ordering::Relaxed);
        }
    }

    /// Keeps the longest time that a CPU stayed at `DISPATCH_LEVEL`, where it still is.
    pub(crate) fn stayed(&self, cpu: u32, took_100ns: u64) {
        let longest = self.own.get(cpu as usize).map(|own| &own.longest_100ns);
        // Relaxed: as above.
        if let Some(longest) = longest.filter(|l| l.load(Ordering::Relaxed) < took_100ns) {
            longest.store(took_100ns, Ordering::Relaxed);
        }
    }

    /// Keeps the greatest value seen; returns whether it is this one.
    pub(crate) fn raise(&self, counter: Counter, value: u64) -> bool {
        let greatest = self.counters.get(counter as usize);
        // Relaxed: as above. A look first: as a rule it is not greater.
        let greatest = greatest.filter(|seen| seen.load(Ordering::Relaxed) < value);
        greatest.is_some_and(|greatest| greatest.fetch_max(value, Ordering::Relaxed) < value)
    }

    /// Counts `packets` discarded for `reason`.
    pub(crate) fn discard(&self, reason: Discard, packets: usize) {
        if packets == 0 {
            return;
        }
        if let Some(value) = self.discards.get(reason as usize) {
            // Relaxed: as above.
            value.fetch_add(packets as u64, Ordering::Relaxed);
        }
        recorder::note(Event::Discarded, [reason as u64, packets as u64, 0, 0]);
    }

    /// Writes the statistics block, with a part for each CPU that has counted anything. `elsewhere` is discards that were counted
    /// elsewhere, and `dpc_100ns` the longest DPC of a CPU. `None` if `out` is too short.
    pub(crate) fn write(
        &self,
        out: &mut [u8],
        elsewhere: [(Discard, u64); 2],
        dpc_100ns: impl Fn(u32) -> u64,
    ) -> Option<usize> {
        let read = |values: &[AtomicU64], at: usize| {
            values.get(at).map_or(0, |value| value.load(Ordering::Relaxed))
        };
        let cpus = || (0_u32..).zip(&self.own);
        let counted = |counter: Counter| {
            if counter == Counter::LongestDpc100ns {
                return cpus().map(|(cpu, _)| dpc_100ns(cpu)).fold(0, u64::max);
            }
            let own = self.own.iter().map(|own| read(&own.counts, counter as usize));
            // What was taken back may be more than what is counted in common.
            own.fold(read(&self.counters, counter as usize), u64::wrapping_add)
        };
        let len = statistics::write(out, counted, |reason| {
            let too = elsewhere.iter().filter(|(other, _)| *other == reason).map(|(_, n)| *n);
            too.fold(read(&self.discards, reason as usize), u64::wrapping_add)
        })?;
        Some(cpus().fold(len, |len, (cpu, own)| {
            let words = OF_CPU.map(|counter| match counter {
                Counter::LongestDpc100ns => dpc_100ns(cpu),
                Counter::LongestAtDispatch100ns => own.longest_100ns.load(Ordering::Relaxed),
                counter => read(&own.counts, counter as usize),
            });
            if words == [0; OF_CPU.len()] {
                return len;
            }
            statistics::write_part(out, len, Kind::Cpu, cpu, &words)
        }))
    }
}
