//! Room for more peers and allowed IPs: larger tables are made beside those that are read, and take their places.

use alloc::vec::Vec;

use super::{
    allowed_ips::Growth,
    hash_table::HashTable,
    tunnel::{Table, Tunnel},
};
use crate::sync::{Ground, OutOfMemory};

impl<E> Tunnel<E> {
    /// Makes room for `new` more peers, and returns how many slots there will be. Memory is made, filled and freed with the
    /// lock open: nothing changes meanwhile, as only the control path does that. The control path's.
    pub(super) fn reserve_peers(
        &self,
        ground: &impl Ground,
        new: usize,
    ) -> Result<usize, OutOfMemory> {
        let (slots, enough) = self.table.read(ground, |table| {
            let fresh = new.saturating_sub(table.free.len());
            let slots = table.slots.len().saturating_add(fresh);
            (slots, table.slots.capacity() >= slots && table.free.capacity() >= slots)
        });
        if !enough {
            // An eighth more, so that those who come one by one do not each have all of it copied.
            let room = slots.saturating_add(slots / 8);
            let mut larger = (Vec::new(), Vec::new());
            larger.0.try_reserve_exact(room)?;
            larger.1.try_reserve_exact(room)?;
            while self.table.read(ground, |table| {
                append_some(&mut larger.0, &table.slots) | append_some(&mut larger.1, &table.free)
            }) {}
            self.table.write(ground, |table| {
                core::mem::swap(&mut table.slots, &mut larger.0);
                core::mem::swap(&mut table.free, &mut larger.1);
            });
        }
        let larger = |table: &Table<E>| {
            (!table.by_key.has_room(new)).then(|| table.by_key.len().saturating_add(new))
        };
        if let Some(room) = self.table.read(ground, larger) {
            let (mut larger, mut from) = (HashTable::with_room(room)?, 0);
            let mut copy = |table: &Table<E>| table.by_key.copy_to(&mut larger, &mut from, STEP);
            while self.table.read(ground, &mut copy) {}
            self.table.write(ground, |table| core::mem::swap(&mut table.by_key, &mut larger));
        }
        Ok(slots)
    }

    /// Makes room for `prefixes` more allowed IPs and for slots below `slots`, in steps for which neither
    /// readers nor this CPU wait long. The control path's.
    pub(super) fn reserve_allowed_ips(
        &self,
        ground: &impl Ground,
        prefixes: usize,
        slots: usize,
    ) -> Result<(), OutOfMemory> {
        let wanted = |table: &Table<E>| table.allowed_ips.room_wanted(prefixes, slots);
        let Some(room) = self.table.read(ground, wanted) else { return Ok(()) };
        let mut growth = Growth::try_new(room)?;
        while self.table.read(ground, |table| table.allowed_ips.grow(&mut growth)) {}
        // What was there is freed here, with the lock open.
        drop(self.table.write(ground, |table| table.allowed_ips.adopt(growth)));
        Ok(())
    }
}

/// Slots that are copied per taking of the table's lock, for which writers wait.
const STEP: usize = 256;

/// Copies some more of `from`, for which there is room; returns whether there are others.
fn append_some<T: Clone>(to: &mut Vec<T>, from: &[T]) -> bool {
    let count = STEP.min(to.capacity().saturating_sub(to.len()));
    let before = to.len();
    to.extend(from.iter().skip(before).take(count).cloned());
    before < to.len() && to.len() < from.len()
}
