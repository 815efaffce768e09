//! A flow of numbered datagrams, as fast as the adapter takes them, and what is known of it afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::discard::{Direction, Discard};
use abi::statistics::Counter;
use sim::host::memory::Network;
use sim::host::memory::pair::Pair;
use sim::verifier::schedule::JoinHandle;

use super::accounting::Ledger;

/// Packets that are given to the adapter at once: several chunks, so that there is something to deal.
const BATCH: usize = 160;
/// How long a batch is apart from the next: 80,000 packets a second.
const PACE: Duration = Duration::from_millis(2);
/// The latest that a send is complete.
pub(crate) const SETTLES: Duration = Duration::from_millis(10);

/// Sends from alpha to beta for as long as it lives.
pub(crate) struct Flow<'p> {
    pair: &'p Pair,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    actor: JoinHandle,
    before: [Ledger; 2],
}

/// What became of a flow.
pub(crate) struct Ended {
    /// How many the adapter took; they are numbered from 0.
    pub(crate) sent: u32,
    /// Those that arrived, in the order of their arrival.
    pub(crate) numbers: Vec<u32>,
    /// Ledgers of alpha and beta, before and after.
    pub(crate) before: [Ledger; 2],
    pub(crate) after: [Ledger; 2],
}

impl<'p> Flow<'p> {
    /// Begins to send datagrams of `size` bytes of data.
    #[must_use]
    pub(crate) fn start(pair: &'p Pair, size: usize) -> Self {
        // What was sent before is counted when it is complete.
        pair.world.sleep(SETTLES);
        let before = [&pair.alpha, &pair.beta].map(Ledger::of);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (from, to) = (pair.alpha.endpoint().clone(), pair.beta.inner()[0]);
        let (ended, count, clock) = (stop.clone(), sent.clone(), pair.world.clone());
        let actor = pair.world.spawn("flow", move || {
            let mut data = vec![0x6B; size];
            while !ended.load(Ordering::Acquire) {
                for _ in 0..BATCH {
                    data[..4].copy_from_slice(&count.load(Ordering::Relaxed).to_be_bytes());
                    if !from.send_datagram(to, data.clone()) {
                        break;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                clock.sleep(PACE);
            }
        });
        Self { pair, stop, sent, actor, before }
    }

    /// Ends it, and waits until all of it is where it goes.
    #[must_use]
    pub(crate) fn end(self) -> Ended {
        let Self { pair, stop, sent, actor, before } = self;
        stop.store(true, Ordering::Release);
        assert!(actor.join(Some(pair.world.now() + Duration::from_secs(1))));
        let next = || pair.beta.endpoint().take_datagram(Duration::from_millis(300));
        let numbers = std::iter::from_fn(next)
            .map(|(_, data)| u32::from_be_bytes(*data.first_chunk().unwrap()))
            .collect();
        let after = [&pair.alpha, &pair.beta].map(Ledger::of);
        let sent = sent.load(Ordering::Relaxed);
        Ended { sent, numbers, before, after }
    }
}

impl Ended {
    /// None arrived before one that was sent earlier.
    pub(crate) fn assert_in_order(&self, why: &str) {
        let disorder = self.numbers.windows(2).find(|two| two[0] >= two[1]);
        assert_eq!(disorder, None, "{why}: out of order");
    }

    /// Each arrived once, and those that did not were discarded and counted.
    pub(crate) fn assert_accounted(&self, why: &str) {
        let different: HashSet<u32> = self.numbers.iter().copied().collect();
        assert_eq!(different.len(), self.numbers.len(), "{why}: some came twice");
        let [out, into] = [Direction::Outbound, Direction::Inbound];
        let discarded = self.discarded(0, out) + self.discarded(1, into) + self.unheard();
        let [sent, got] = [u64::from(self.sent), self.numbers.len() as u64];
        let detail = || {
            let [alpha, beta] = &self.after;
            format!("{why}: {got} of {sent}, {} unheard\n{alpha}\n{beta}", self.unheard())
        };
        assert_eq!(sent, got + discarded, "{}", detail());
    }

    /// Datagrams that alpha sent and that came to no socket of beta's: it was closed.
    pub(crate) fn unheard(&self) -> u64 {
        let grown = |end: usize, counter| {
            self.after[end].counter(counter) - self.before[end].counter(counter)
        };
        grown(0, Counter::DatagramsOut) - grown(1, Counter::DatagramsIn)
    }

    /// How many more were discarded at an end (0 is alpha) for one reason.
    pub(crate) fn more(&self, end: usize, reason: Discard) -> u64 {
        self.after[end].discarded(reason) - self.before[end].discarded(reason)
    }

    /// All of that, and all of them arrived.
    pub(crate) fn assert_all_arrived(&self, why: &str) {
        self.assert_in_order(why);
        self.assert_accounted(why);
        let [alpha, beta] = &self.after;
        assert_eq!(self.numbers.len() as u32, self.sent, "{why}\n{alpha}\n{beta}");
    }

    fn discarded(&self, end: usize, direction: Direction) -> u64 {
        self.after[end].discards(direction) - self.before[end].discards(direction)
    }
}

/// How many transport data came on the wire after a later one of their session.
#[must_use]
pub(crate) fn watch_order(network: &Network) -> Arc<Mutex<usize>> {
    let (disorder, greatest) = (Arc::new(Mutex::new(0)), Mutex::new(HashMap::new()));
    let seen = disorder.clone();
    network.tap(move |sent| {
        let datagram = sent.payload;
        let [4, 0, 0, 0, r0, r1, r2, r3, ..] = *datagram else { return };
        let counter = u64::from_le_bytes(*datagram[8..].first_chunk().unwrap());
        let before = greatest.lock().unwrap().insert([r0, r1, r2, r3], counter);
        if before.is_some_and(|before| before >= counter) {
            *seen.lock().unwrap() += 1;
        }
    });
    disorder
}
