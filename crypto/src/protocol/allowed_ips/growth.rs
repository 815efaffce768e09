//! Room for more prefixes: a larger table is made beside the one that is read, and takes its place.

use super::{AllowedIps, Cursor, FILLED, Family, Group, NONE, Owner, SLOTS, Slot};
use crate::sync::OutOfMemory;

impl AllowedIps {
    /// Makes room for `prefixes` more prefixes and for owners below `owners`, in one go: for a table
    /// that nobody else reads.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; nothing has changed.
    pub fn reserve(&mut self, prefixes: usize, owners: usize) -> Result<(), OutOfMemory> {
        let Some(room) = self.room_wanted(prefixes, owners) else { return Ok(()) };
        let mut growth = Growth::try_new(room)?;
        while self.grow(&mut growth) {}
        drop(self.adopt(growth));
        Ok(())
    }

    /// The room that a table has to have for `prefixes` more prefixes and for owners below `owners`;
    /// `None` if this one has it.
    #[must_use]
    pub fn room_wanted(&self, prefixes: usize, owners: usize) -> Option<Room> {
        let prefixes = self.len.saturating_add(prefixes);
        let has_room = self.room() >= prefixes && self.owners.len() >= owners;
        // An eighth more, so that those who come one by one do not each have all of it copied.
        let owners = match owners > self.owners.len() {
            true => owners.saturating_add(owners / 8),
            false => self.owners.len(),
        };
        (!has_room).then_some(Room { prefixes, owners })
    }

    /// Copies some of the prefixes to where there is more room; returns whether there are others. From
    /// the first call until [`AllowedIps::adopt`] nothing may change here.
    pub fn grow(&self, growth: &mut Growth) -> bool {
        for _ in 0..GROWTH_STEP {
            if growth.owner as usize >= self.owners.len() {
                return false;
            }
            match self.next_of(growth.owner, &mut growth.cursor) {
                // There is room for more than these.
                Some(prefix) => _ = growth.grown.insert(prefix, growth.owner),
                None => {
                    growth.owner = growth.owner.saturating_add(1);
                    growth.cursor = Cursor::default();
                }
            }
        }
        true
    }

    /// Takes the place with more room. Returns the memory of the one before, to be freed where nobody
    /// waits.
    #[must_use]
    pub fn adopt(&mut self, growth: Growth) -> Self {
        core::mem::replace(self, growth.grown)
    }
}

/// How much room a table has.
#[derive(Clone, Copy)]
pub struct Room {
    prefixes: usize,
    owners: usize,
}

/// A table with more room that is being made beside the one that is read.
pub struct Growth {
    grown: AllowedIps,
    /// Whose prefixes are being copied, and how far.
    owner: Owner,
    cursor: Cursor,
}

/// Prefixes and owners that one step of growing copies.
pub(super) const GROWTH_STEP: usize = 256;

impl Growth {
    /// One of which nothing is copied yet. It takes a while: memory is written.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn try_new(room: Room) -> Result<Self, OutOfMemory> {
        let [share, of] = FILLED;
        let slots = room.prefixes.max(1).checked_mul(of).ok_or(OutOfMemory)? / share;
        let groups = slots.div_ceil(SLOTS);
        let slots = groups.checked_mul(SLOTS).filter(|slots| *slots < NONE as usize);
        let slots = slots.ok_or(OutOfMemory)?;
        let mut grown = AllowedIps::new();
        grown.groups.try_reserve_exact(groups)?;
        grown.groups.resize(groups, Group::EMPTY);
        grown.slots.try_reserve_exact(slots)?;
        grown.slots.resize(slots, Slot::EMPTY);
        grown.owners.try_reserve_exact(room.owners)?;
        grown.owners.resize(room.owners, [NONE; 2]);
        for (lengths, family) in grown.lengths.iter_mut().zip(Family::BOTH) {
            lengths.try_reserve_exact(usize::from(family.bits()).saturating_add(1))?;
        }
        Ok(Self { grown, owner: 0, cursor: Cursor::default() })
    }
}
