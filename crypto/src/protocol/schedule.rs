//! The peers of a tunnel by the time they want to be looked at: a hierarchical timing wheel.
//!
//! Eight wheels of 64 buckets. A bucket of the first holds the peers due within one tick of 66 µs, one of the next those within 64
//! ticks, and so on up to the whole 64 bits of a nanosecond clock. A peer lies in the wheel of the highest six bits in which its
//! tick differs from the cursor's, the tick before which nothing waits any more. When the cursor comes to a bucket of a higher wheel, its
//! peers are dealt to lower ones. So setting, taking out and popping cost the same however many peers wait, and a peer is dealt
//! at most seven times in its life.
//!
//! Peers due within the same tick come in no particular order, and none before its time.

use alloc::vec::Vec;

use super::timers::NEVER;
use crate::sync::OutOfMemory;

/// Nanoseconds of a tick, as a power of two.
const TICK_BITS: u32 = 16;
/// Buckets of a wheel, as a power of two: the bits of the words that say which are not empty.
const WHEEL_BITS: u32 = 6;
const BUCKETS: usize = 1 << WHEEL_BITS;
/// As many as the ticks of a 64-bit clock need.
const WHEELS: usize = ((u64::BITS - TICK_BITS) / WHEEL_BITS) as usize;
/// No slot; no bucket.
const NONE: u32 = u32::MAX;

/// A peer's slot in its bucket's list.
#[derive(Clone, Copy)]
struct Entry {
    at: u64,
    before: u32,
    after: u32,
    /// Wheel times [`BUCKETS`] plus bucket, or [`NONE`].
    bucket: u32,
}

const ABSENT: Entry = Entry { at: NEVER, before: NONE, after: NONE, bucket: NONE };

#[derive(Clone, Copy)]
struct Bucket {
    first: u32,
    /// No peer in it is due earlier.
    earliest: u64,
}

const EMPTY: Bucket = Bucket { first: NONE, earliest: NEVER };

/// Entries that are allocated together, as a power of two: 24 KiB.
const SEGMENT_BITS: u32 = 10;
const SEGMENT: usize = 1 << SEGMENT_BITS;

/// Slots of a tunnel's table by the time they want to be looked at.
pub(super) struct Schedule {
    /// In segments, so that nothing of what is there moves when there come to be more.
    segments: Vec<Vec<Entry>>,
    /// Of all wheels, one after the other; none before there is a slot. 8 KiB, which no kernel stack has to spare.
    buckets: Vec<Bucket>,
    /// Of each wheel, the buckets that are not empty.
    occupied: [u64; WHEELS],
    /// Whatever waits is due in this tick or later, or was already late when it came.
    cursor: u64,
}

/// Room for more slots, made where nobody waits for it.
pub(super) struct Room {
    /// Empty, and long enough for all segments.
    list: Vec<Vec<Entry>>,
    more: Vec<Vec<Entry>>,
    /// For the first slots.
    buckets: Vec<Bucket>,
}

impl Room {
    /// Room for slots below `slots`, for a schedule with so many segments; `None` if it has that room.
    pub(super) fn try_new(slots: usize, segments: usize) -> Result<Option<Self>, OutOfMemory> {
        let missing = slots.div_ceil(SEGMENT).saturating_sub(segments);
        if missing == 0 {
            return Ok(None);
        }
        let mut room = Self { list: Vec::new(), more: Vec::new(), buckets: Vec::new() };
        room.list.try_reserve_exact(segments.saturating_add(missing))?;
        room.more.try_reserve_exact(missing)?;
        for _ in 0..missing {
            let mut segment = Vec::new();
            segment.try_reserve_exact(SEGMENT)?;
            segment.resize(SEGMENT, ABSENT);
            room.more.push(segment);
        }
        if segments == 0 {
            room.buckets.try_reserve_exact(WHEELS * BUCKETS)?;
            room.buckets.resize(WHEELS * BUCKETS, EMPTY);
        }
        Ok(Some(room))
    }
}

impl Schedule {
    pub(super) const fn new() -> Self {
        Self { segments: Vec::new(), buckets: Vec::new(), occupied: [0; WHEELS], cursor: 0 }
    }

    /// How many segments there are; only [`Schedule::adopt`] makes them more.
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Takes the room that was made for it: a pointer for each thousand slots moves. What is left of it is to be freed where
    /// nobody waits.
    pub(super) fn adopt(&mut self, room: &mut Room) {
        if self.segments.is_empty() {
            core::mem::swap(&mut self.buckets, &mut room.buckets);
        }
        if room.list.capacity() >= self.segments.len().saturating_add(room.more.len()) {
            room.list.append(&mut self.segments);
            room.list.append(&mut room.more);
            core::mem::swap(&mut self.segments, &mut room.list);
        }
    }

    /// Sets when `slot` is due; [`NEVER`] takes it out.
    pub(super) fn set(&mut self, slot: u32, at: u64) {
        self.take(slot);
        if at != NEVER {
            self.put(slot, at);
        }
    }

    /// Takes out a slot that is due at `now`.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<u32> {
        while let Some((wheel, bucket)) = self.first_bucket() {
            if self.bucket(bucket).earliest > now {
                return None;
            }
            if wheel > 0 {
                self.deal(wheel, bucket);
                continue;
            }
            // Late ones, and perhaps some that are due later in this very tick.
            let mut earliest = NEVER;
            let mut slot = self.bucket(bucket).first;
            while slot != NONE {
                let entry = self.entry(slot);
                if entry.at <= now {
                    self.take(slot);
                    return Some(slot);
                }
                earliest = earliest.min(entry.at);
                slot = entry.after;
            }
            // The one that was the earliest has been taken out or set anew.
            if let Some(bucket) = self.buckets.get_mut(bucket) {
                bucket.earliest = earliest;
            }
        }
        None
    }

    /// A time before which no slot is due, and after which [`Schedule::pop_due`] has found or will find why: the earliest
    /// there is, unless that was taken out again.
    pub(super) fn next(&self) -> Option<u64> {
        self.first_bucket().map(|(_, bucket)| self.bucket(bucket).earliest)
    }

    /// The wheel and index of the earliest bucket that is not empty.
    fn first_bucket(&self) -> Option<(usize, usize)> {
        // All of a wheel is due before all of the next, and within one nothing lies before the cursor.
        self.occupied
            .iter()
            .enumerate()
            .find(|(_, occupied)| **occupied != 0)
            .map(|(wheel, occupied)| (wheel, wheel * BUCKETS + occupied.trailing_zeros() as usize))
    }

    /// Moves the cursor to a bucket's first tick, and what is in it to lower wheels.
    fn deal(&mut self, wheel: usize, bucket: usize) {
        let shift = wheel as u32 * WHEEL_BITS;
        let above = self.cursor >> shift >> WHEEL_BITS << WHEEL_BITS;
        self.cursor = (above | (bucket % BUCKETS) as u64) << shift;
        while self.bucket(bucket).first != NONE {
            let slot = self.bucket(bucket).first;
            let at = self.entry(slot).at;
            self.take(slot);
            self.put(slot, at);
        }
    }

    /// Puts in a slot that is not in.
    fn put(&mut self, slot: u32, at: u64) {
        let tick = (at >> TICK_BITS).max(self.cursor);
        let differs = u64::BITS - (tick ^ self.cursor).leading_zeros();
        let wheel = differs.saturating_sub(1) / WHEEL_BITS;
        let within = (tick >> (wheel * WHEEL_BITS)) as usize % BUCKETS;
        let index = wheel as usize * BUCKETS + within;
        let Some(bucket) = self.buckets.get_mut(index) else { return };
        let Some(entry) = entry_mut(&mut self.segments, slot) else { return };
        *entry = Entry { at, before: NONE, after: bucket.first, bucket: index as u32 };
        let after = core::mem::replace(&mut bucket.first, slot);
        bucket.earliest = bucket.earliest.min(at);
        if let Some(after) = entry_mut(&mut self.segments, after) {
            after.before = slot;
        }
        if let Some(occupied) = self.occupied.get_mut(wheel as usize) {
            *occupied |= 1 << within;
        }
    }

    /// Takes out a slot, if it is in.
    fn take(&mut self, slot: u32) {
        let Some(entry) = entry_mut(&mut self.segments, slot) else { return };
        let Entry { before, after, bucket: index, .. } = core::mem::replace(entry, ABSENT);
        let Some(bucket) = self.buckets.get_mut(index as usize) else { return };
        if let Some(after) = entry_mut(&mut self.segments, after) {
            after.before = before;
        }
        match entry_mut(&mut self.segments, before) {
            Some(before) => before.after = after,
            None => bucket.first = after,
        }
        if bucket.first == NONE {
            *bucket = EMPTY;
            if let Some(occupied) = self.occupied.get_mut(index as usize / BUCKETS) {
                *occupied &= !(1 << (index as usize % BUCKETS));
            }
        }
    }

    fn bucket(&self, index: usize) -> Bucket {
        self.buckets.get(index).copied().unwrap_or(EMPTY)
    }

    fn entry(&self, slot: u32) -> Entry {
        let segment = self.segments.get(slot as usize >> SEGMENT_BITS);
        segment.and_then(|entries| entries.get(slot as usize % SEGMENT)).copied().unwrap_or(ABSENT)
    }
}

fn entry_mut(segments: &mut [Vec<Entry>], slot: u32) -> Option<&mut Entry> {
    segments.get_mut(slot as usize >> SEGMENT_BITS)?.get_mut(slot as usize % SEGMENT)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    impl Schedule {
        fn reserve(&mut self, slots: usize) -> Result<(), OutOfMemory> {
            if let Some(mut room) = Room::try_new(slots, self.segments())? {
                self.adopt(&mut room);
            }
            Ok(())
        }
    }

    #[test]
    fn a_slot_is_due_to_the_nanosecond() {
        for at in [0, 1, 65_535, 65_536, 5_000_000_000, 7 << 40, NEVER - 1] {
            let mut schedule = Schedule::new();
            schedule.reserve(2).unwrap();
            schedule.set(1, at);
            assert_eq!(schedule.next(), Some(at));
            if let Some(before) = at.checked_sub(1) {
                assert_eq!(schedule.pop_due(before), None);
                assert_eq!(schedule.next(), Some(at));
            }
            assert_eq!(schedule.pop_due(at), Some(1));
            assert_eq!((schedule.next(), schedule.pop_due(NEVER)), (None, None));
        }
    }

    #[test]
    fn a_slot_beyond_what_was_reserved_is_not_kept() {
        let mut schedule = Schedule::new();
        schedule.reserve(1).unwrap();
        schedule.set(SEGMENT as u32, 5);
        schedule.set(NONE, 5);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn what_waits_stays_when_there_come_to_be_more_slots() {
        let mut schedule = Schedule::new();
        let mut slots = 1;
        while slots < 5 * SEGMENT as u32 {
            schedule.reserve(slots as usize).unwrap();
            schedule.set(slots - 1, u64::from(slots));
            slots = slots * 3 / 2 + 1;
        }
        let mut due = vec![];
        while let Some(slot) = schedule.pop_due(NEVER - 1) {
            due.push(slot);
        }
        due.sort_unstable();
        let mut expected = core::iter::successors(Some(1_u32), |slots| Some(slots * 3 / 2 + 1));
        assert!(due.len() > 10 && due.iter().all(|slot| Some(slot + 1) == expected.next()));
    }

    #[test]
    fn a_hundred_thousand_that_are_due_at_once_come_once_each() {
        let mut schedule = Schedule::new();
        schedule.reserve(100_000).unwrap();
        for slot in 0..100_000 {
            schedule.set(slot, 120_000_000_000);
        }
        assert_eq!(schedule.pop_due(119_999_999_999), None);
        let mut popped: Vec<_> =
            core::iter::from_fn(|| schedule.pop_due(120_000_000_000)).collect();
        popped.sort_unstable();
        assert!(popped.into_iter().eq(0..100_000));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(
            scale in 0_u32..40,
            steps in proptest::collection::vec((0_u32..20, prop_oneof![3 => 0_u64..5000, 1 => Just(NEVER)], any::<bool>()), 0..200)
        ) {
            let mut schedule = Schedule::new();
            schedule.reserve(20).unwrap();
            let mut model = BTreeMap::new();
            let mut now = 0_u64;
            for (slot, time, pop) in steps {
                let at = if time == NEVER { NEVER } else { time << scale };
                if pop && at != NEVER {
                    // Clocks go forward; what is set may lie in the past all the same.
                    now = now.max(at);
                    match schedule.pop_due(now) {
                        Some(slot) => {
                            let due = model.remove(&slot);
                            prop_assert!(due.is_some_and(|due| due <= now), "{slot} is not due");
                        }
                        None => {
                            prop_assert!(model.values().all(|due| *due > now), "one is due");
                            prop_assert!(schedule.next().is_none_or(|next| next > now), "looked at in vain for ever");
                        }
                    }
                } else {
                    schedule.set(slot, at);
                    if at == NEVER { model.remove(&slot); } else { model.insert(slot, at); }
                }
                let earliest = model.values().min().copied();
                prop_assert_eq!(schedule.next().is_none(), earliest.is_none());
                prop_assert!(schedule.next() <= earliest, "later than the earliest");
            }
        }

        #[test]
        fn what_is_never_taken_out_is_told_exactly(times in proptest::collection::vec(0_u64..1 << 45, 1..50)) {
            let mut schedule = Schedule::new();
            schedule.reserve(times.len()).unwrap();
            for (slot, at) in times.iter().enumerate() {
                schedule.set(slot as u32, *at);
            }
            let mut sorted = times;
            sorted.sort_unstable();
            for at in sorted {
                prop_assert_eq!(schedule.next(), Some(at));
                prop_assert!(schedule.pop_due(at).is_some());
            }
        }
    }
}
