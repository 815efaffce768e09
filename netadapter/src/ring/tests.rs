//! The bookkeeping of rings, against a model of NetAdapterCx that remembers everything.
//!
//! The models keep each element in a queue, as no ring can, and check at every step what the queue
//! verifier of NetAdapterCx checks: an index never goes back or past the end, fragments are returned
//! with their packets and not before, nothing is attached to what is ignored, nothing is lost.

use std::{collections::VecDeque, vec::Vec};

use proptest::prelude::*;

use super::*;

#[test]
fn indices_wrap() {
    for (from, count, mask, to) in
        [(0, 1, 1, 1), (1, 1, 1, 0), (6, 3, 7, 1), (7, 0, 7, 7), (0, 7, 7, 7)]
    {
        assert_eq!(step(from, count, mask), to, "{from} + {count} in {mask}");
        assert_eq!(distance(from, to, mask), count, "{from} to {to} in {mask}");
    }
}

#[test]
fn only_a_power_of_two_is_a_ring() {
    for (count, valid) in [(0, false), (1, true), (2, true), (3, false), (4096, true)] {
        assert_eq!(Slots::try_new(count).is_ok(), valid, "{count}");
    }
}

#[test]
fn a_packet_that_is_shared_is_done_with_its_last_share() {
    // The callback drops its share first, last, or between two flights.
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        let slots = Slots::try_new(4).unwrap();
        let mut ring = TxModel::new(4, 4);
        ring.post(1);
        ring.outstanding[0].0 = Fate::InFlight;
        slots.hold(0);
        assert!(slots.share_first(0));
        slots.share(0);
        for (released, _who) in order.iter().enumerate() {
            assert!(!slots.take_done(0), "{released} of 3 released: {order:?}");
            assert_eq!(slots.deferred.load(Ordering::Relaxed), 1, "one slot, however many shares");
            slots.release(0);
        }
        ring.outstanding[0].0 = Fate::Done;
        ring.advancing = true;
        slots.return_done(&mut ring, 1);
        assert_eq!((ring.packets.begin, slots.deferred.load(Ordering::Relaxed)), (1, 0));
    }
    let slots = Slots::try_new(2).unwrap();
    slots.hold(0);
    assert!(slots.share_first(0));
    assert!(!slots.share_first(1), "half of the ring is in flight");
}

/// A packet in the transmit model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unseen,
    InFlight,
    Done,
}

/// A transmit queue as NetAdapterCx sees it, and what it remembers of each packet.
struct TxModel {
    packets: Indices,
    fragments: Indices,
    elements: Vec<Packet>,
    /// From `BeginIndex` on: fate and number of fragments.
    outstanding: VecDeque<(Fate, u32)>,
    /// Whether an advance is running: indices move nowhere else.
    advancing: bool,
}

impl TxModel {
    fn new(packets: u32, fragments: u32) -> Self {
        let indices = |count| Indices { begin: 0, next: 0, end: 0, mask: count - 1 };
        let nothing = Packet {
            fragment_index: 0,
            fragment_count: 0,
            ignore: true,
            layer3: Layer3::Unknown,
            mss: 0,
        };
        Self {
            packets: indices(packets),
            fragments: indices(fragments),
            elements: std::vec![nothing; packets as usize],
            outstanding: VecDeque::new(),
            advancing: false,
        }
    }

    /// Posts a packet of `count` fragments, if there is room; one slot of a ring is always free.
    fn post(&mut self, count: u32) {
        let (packets, fragments) = (self.packets, self.fragments);
        let free = fragments.mask - distance(fragments.begin, fragments.end, fragments.mask);
        if step(packets.end, 1, packets.mask) == packets.begin || count > free {
            return;
        }
        self.elements[packets.end as usize] = Packet {
            fragment_index: if count == 0 { 0 } else { fragments.end },
            fragment_count: count,
            ignore: count == 0,
            layer3: Layer3::Ipv4,
            mss: 0,
        };
        self.packets.end = step(packets.end, 1, packets.mask);
        self.fragments.end = step(fragments.end, count, fragments.mask);
        self.outstanding.push_back((Fate::Unseen, count));
    }

    fn in_flight(&self) -> Vec<usize> {
        let fates = self.outstanding.iter().enumerate();
        fates.filter(|(_, (fate, _))| *fate == Fate::InFlight).map(|(at, _)| at).collect()
    }

    /// One advance that looks at as many packets as there are answers: in flight, or done at once.
    fn advance(&mut self, slots: &Slots, answers: &[bool]) {
        let mut next = self.packets.next;
        for defer in answers {
            if next == self.packets.end {
                break;
            }
            let at = distance(self.packets.begin, next, self.packets.mask) as usize;
            assert_eq!(self.outstanding[at].0, Fate::Unseen, "looked at twice");
            slots.hold(next);
            let flying = slots.deferred.load(Ordering::Relaxed) as usize;
            let deferred = *defer && slots.defer(next);
            assert!(!deferred || flying < self.elements.len().div_ceil(2), "over half in flight");
            if !deferred {
                slots.finish(next);
            }
            self.outstanding[at].0 = if deferred { Fate::InFlight } else { Fate::Done };
            next = step(next, 1, self.packets.mask);
        }
        self.advancing = true;
        slots.return_done(self, next);
        self.advancing = false;
        assert_eq!(self.packets.next, next);
        assert!(
            self.outstanding.front().is_none_or(|(fate, _)| *fate != Fate::Done),
            "not returned"
        );
        let posted: u32 = self.outstanding.iter().map(|(_, count)| count).sum();
        let kept = distance(self.fragments.begin, self.fragments.end, self.fragments.mask);
        assert_eq!(kept, posted, "fragments are returned with their packets");
    }
}

impl TxRing for TxModel {
    fn packets(&self) -> Indices {
        self.packets
    }
    fn fragments(&self) -> Indices {
        self.fragments
    }
    fn packet(&self, index: u32) -> Packet {
        self.elements[index as usize]
    }
    fn set_packets(&mut self, begin: u32, next: u32) {
        assert!(self.advancing);
        while self.packets.begin != begin {
            let (fate, _) = self.outstanding.pop_front().expect("returned past the end");
            assert_eq!(fate, Fate::Done, "returned before it was done");
            self.packets.begin = step(self.packets.begin, 1, self.packets.mask);
        }
        self.packets.next = next;
    }
    fn set_fragments(&mut self, begin: u32) {
        assert!(self.advancing && begin <= self.fragments.mask);
        let Indices { begin: old, end, mask, .. } = self.fragments;
        assert!(
            distance(begin, end, mask) <= distance(old, end, mask),
            "went back or past the end"
        );
        self.fragments.begin = begin;
    }
}

#[derive(Clone, Debug)]
enum TxStep {
    Post(u32),
    Advance(Vec<bool>),
    Land(prop::sample::Index),
}

fn tx_step() -> impl Strategy<Value = TxStep> {
    prop_oneof![
        (0_u32..4).prop_map(TxStep::Post),
        prop::collection::vec(any::<bool>(), 0..6).prop_map(TxStep::Advance),
        any::<prop::sample::Index>().prop_map(TxStep::Land),
    ]
}

/// A receive queue as NetAdapterCx sees it.
struct RxModel {
    packets: Indices,
    fragments: Indices,
    /// What is linked or ignored in the callback that is running.
    linked: Vec<(u32, u32, u64)>,
    ignored: Vec<u32>,
    /// Elements returned and not posted again.
    free_packets: u32,
    free_fragments: u32,
    indicated: Vec<u64>,
}

impl RxModel {
    fn new(packets: u32, fragments: u32) -> Self {
        let indices = |count| Indices { begin: 0, next: 0, end: 0, mask: count - 1 };
        Self {
            packets: indices(packets),
            fragments: indices(fragments),
            linked: Vec::new(),
            ignored: Vec::new(),
            free_packets: packets - 1,
            free_fragments: fragments - 1,
            indicated: Vec::new(),
        }
    }

    fn post(&mut self, packets: u32, fragments: u32) {
        let (packets, fragments) =
            (packets.min(self.free_packets), fragments.min(self.free_fragments));
        self.packets.end = step(self.packets.end, packets, self.packets.mask);
        self.fragments.end = step(self.fragments.end, fragments, self.fragments.mask);
        self.free_packets -= packets;
        self.free_fragments -= fragments;
    }

    /// Takes over what a callback returned, as the verifier would.
    fn collect(&mut self, before: (Indices, Indices)) {
        let (packets, fragments) = before;
        let returned = distance(packets.begin, self.packets.begin, packets.mask);
        let returned_fragments = distance(fragments.begin, self.fragments.begin, fragments.mask);
        assert!(returned <= distance(packets.begin, packets.end, packets.mask));
        assert!(returned_fragments <= distance(fragments.begin, fragments.end, fragments.mask));
        assert_eq!(returned as usize, self.linked.len() + self.ignored.len());
        let mut last = None;
        for (packet, fragment, buffer) in self.linked.drain(..) {
            assert!(!self.ignored.contains(&packet), "a buffer on an ignored packet");
            assert!(distance(packets.begin, packet, packets.mask) < returned);
            let at = distance(fragments.begin, fragment, fragments.mask);
            assert!(at < returned_fragments, "the fragment was not returned");
            assert_eq!(Some(at), last.map_or(Some(0), |last: u32| last.checked_add(1)), "skipped");
            last = Some(at);
            self.indicated.push(buffer);
        }
        self.ignored.clear();
        self.free_packets += returned;
        self.free_fragments += returned_fragments;
    }
}

impl RxRing<u64> for RxModel {
    fn packets(&self) -> Indices {
        self.packets
    }
    fn fragments(&self) -> Indices {
        self.fragments
    }
    fn link(&mut self, packet: u32, fragment: u32, buffer: u64, _layer3: Layer3) {
        assert!(packet <= self.packets.mask && fragment <= self.fragments.mask);
        self.linked.push((packet, fragment, buffer));
    }
    fn ignore(&mut self, packet: u32) {
        assert!(packet <= self.packets.mask);
        self.ignored.push(packet);
    }
    fn set_packets(&mut self, begin: u32) {
        self.packets.begin = begin;
    }
    fn set_fragments(&mut self, begin: u32) {
        self.fragments.begin = begin;
    }
}

#[derive(Clone, Debug)]
enum RxStep {
    Post(u32, u32),
    Wait(u8),
    Advance,
    Cancel,
}

fn rx_step() -> impl Strategy<Value = RxStep> {
    prop_oneof![
        4 => (0_u32..5, 0_u32..5).prop_map(|(packets, fragments)| RxStep::Post(packets, fragments)),
        4 => (0_u8..6).prop_map(RxStep::Wait),
        6 => Just(RxStep::Advance),
        1 => Just(RxStep::Cancel),
    ]
}

proptest! {
    #[test]
    fn transmit_returns_the_done_prefix(
        packets in 0_u32..5,
        fragments in 1_u32..6,
        steps in prop::collection::vec(tx_step(), 1..120),
    ) {
        let (packets, fragments) = (2 << packets, 2 << fragments);
        let slots = Slots::try_new(packets).unwrap();
        let mut model = TxModel::new(packets, fragments);
        for step in steps {
            match step {
                TxStep::Post(count) => model.post(count),
                TxStep::Advance(answers) => model.advance(&slots, &answers),
                TxStep::Land(which) => {
                    let flying = model.in_flight();
                    if !flying.is_empty() {
                        let at = *which.get(&flying);
                        slots.land(super::step(model.packets.begin, at as u32, model.packets.mask));
                        model.outstanding[at].0 = Fate::Done;
                    }
                }
            }
        }
        // Everything lands, and is then returned: nothing is left in the rings or counted.
        for at in model.in_flight() {
            slots.land(super::step(model.packets.begin, at as u32, model.packets.mask));
            model.outstanding[at].0 = Fate::Done;
        }
        model.advance(&slots, &[false; 64]);
        prop_assert!(model.outstanding.is_empty());
        prop_assert_eq!(model.packets.begin, model.packets.end);
        prop_assert_eq!(model.fragments.begin, model.fragments.end);
        prop_assert_eq!(slots.deferred.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn receive_links_each_buffer_once(
        packets in 0_u32..5,
        fragments in 0_u32..5,
        steps in prop::collection::vec(rx_step(), 1..120),
    ) {
        let mut model = RxModel::new(2 << packets, 2 << fragments);
        let mut waiting = VecDeque::new();
        let mut made = 0_u64;
        for step in steps {
            let before = (model.packets, model.fragments);
            match step {
                RxStep::Post(packets, fragments) => {
                    model.post(packets, fragments);
                    continue;
                }
                RxStep::Wait(count) => {
                    waiting.extend(made..made + u64::from(count));
                    made += u64::from(count);
                    continue;
                }
                RxStep::Advance => {
                    let room = distance(before.0.begin, before.0.end, before.0.mask)
                        .min(distance(before.1.begin, before.1.end, before.1.mask));
                    let expected = (room as usize).min(waiting.len());
                    let next = || waiting.pop_front().map(|buffer| (buffer, Layer3::Ipv4));
                    prop_assert_eq!(fill(&mut model, next) as usize, expected);
                }
                RxStep::Cancel => {
                    return_unused(&mut model);
                    prop_assert_eq!(model.packets.begin, model.packets.end);
                    prop_assert_eq!(model.fragments.begin, model.fragments.end);
                }
            }
            model.collect(before);
        }
        // In order, none twice, none lost.
        model.indicated.extend(waiting);
        prop_assert_eq!(model.indicated, (0..made).collect::<Vec<_>>());
    }
}
