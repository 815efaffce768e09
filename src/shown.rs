//! What of ours dumps are to hold: values that stay where they are while they are shown.

#![expect(unsafe_code, reason = "who owns a value knows how long it lives, and where")]

use alloc::vec::Vec;
use core::{mem::ManuallyDrop, ops::Deref};

use crypto::sync::Shared;
use nt::crash::Shown;

/// Has dumps hold a value, or what it owns.
pub(crate) struct Kept<T> {
    /// Before what it shows.
    _shown: Option<Shown>,
    _owner: Shared<T>,
}

impl<T> Kept<T> {
    /// Shows `part` of a value, which nobody can change but by what it shares as long as this lives.
    pub(crate) fn new<U: ?Sized>(owner: &Shared<T>, part: impl for<'t> Fn(&'t T) -> &'t U) -> Self {
        // SAFETY: a reference that is good for as long as anybody borrows the value is good for as long as it is shared.
        let shown = unsafe { Shown::new(part(owner)) };
        Self { _shown: shown, _owner: owner.clone() }
    }
}

/// A list that dumps hold, and that is moved as a whole only.
///
/// One that is dropped is shown on, since drops that are deep in a chain of calls have no room for more: it may be part of [`Core`]
/// alone, which outlives the callbacks that show anything.
///
/// [`Core`]: crate::Core
pub(crate) struct ShownList<T> {
    list: Vec<T>,
    shown: Option<ManuallyDrop<Shown>>,
}

impl<T> ShownList<T> {
    /// Where the list is, for a debugger.
    pub(crate) const LIST: usize = core::mem::offset_of!(Self, list);

    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), shown: None }
    }

    /// Moves everything behind what `roomier` has, which becomes the list, and then `last`, if there is room for all of it; the old
    /// list, which is empty then.
    pub(crate) fn move_to(&mut self, mut roomier: Vec<T>, last: T) -> Vec<T> {
        drop(self.shown.take().map(ManuallyDrop::into_inner));
        if roomier.capacity().saturating_sub(roomier.len()) > self.list.len() {
            roomier.append(&mut self.list);
            roomier.push(last);
            core::mem::swap(&mut self.list, &mut roomier);
        }
        // SAFETY: the list's memory is its own as long as it does not grow, and here alone it may.
        self.shown = unsafe { Shown::new(self.list.as_slice()) }.map(ManuallyDrop::new);
        roomier
    }

    /// Takes out the value at `at`; `None` if there is none.
    pub(crate) fn take(&mut self, at: usize) -> Option<T> {
        (at < self.list.len()).then(|| self.list.swap_remove(at))
    }
}

impl<T> Deref for ShownList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.list
    }
}
