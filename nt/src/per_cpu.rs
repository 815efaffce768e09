//! One value for each processor, used at `DISPATCH_LEVEL` by whoever runs there.
//!
//! At `DISPATCH_LEVEL` a CPU runs one thing at a time, so no lock is needed and nothing atomic. What
//! could go wrong is using the same value again from inside its use; that is noticed, and refused.

use alloc::vec::Vec;
use core::{
    cell::UnsafeCell,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{irql::Dispatch, processor, status::NtError};

/// A value for each processor there may be, each on cache lines of its own.
pub struct PerCpu<T> {
    slots: Vec<Slot<T>>,
}

/// # Invariants
///
/// `value` is borrowed only while `used` is set, by the one who set it, on the slot's processor.
#[repr(align(64))]
struct Slot<T> {
    used: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a value is used by one processor at a time, so sharing only moves it between threads.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// Makes the values, by processor index.
    ///
    /// # Errors
    ///
    /// What `make` answers, or [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(make: impl FnMut(u32) -> Result<T, NtError>) -> Result<Self, NtError> {
        Self::for_count(processor::maximum(), make)
    }

    fn for_count(
        count: u32,
        mut make: impl FnMut(u32) -> Result<T, NtError>,
    ) -> Result<Self, NtError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(count as usize).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        for index in 0..count {
            let value = UnsafeCell::new(make(index)?);
            slots.push(Slot { used: AtomicBool::new(false), value });
        }
        Ok(Self { slots })
    }

    /// Uses this processor's value; `None` inside another use of it.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    pub fn with<R>(&self, level: &Dispatch<'_>, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.slot(processor::current(level))?.with(body)
    }

    fn slot(&self, processor: u32) -> Option<&Slot<T>> {
        self.slots.get(processor as usize)
    }

    /// Every processor's value, when nobody uses them.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|slot| slot.value.get_mut())
    }
}

impl<T> Slot<T> {
    /// Only on the slot's processor, at `DISPATCH_LEVEL`.
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        // One processor's own order would be enough. A swap all the same, so that a thread that lied
        // about its level meets a refusal and not the value.
        if self.used.swap(true, Ordering::Acquire) {
            return None;
        }
        let _used = Used(&self.used);
        // SAFETY: `used` went from false to true in this call, and back only when `_used` drops.
        Some(body(unsafe { &mut *self.value.get() }))
    }
}

/// Ends a use, also when the body panics in a test.
struct Used<'slot>(&'slot AtomicBool);

impl Drop for Used<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> fmt::Debug for PerCpu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PerCpu")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_lent_twice() {
        let mut values = PerCpu::for_count(2, Ok).unwrap();
        let slot = values.slot(1).unwrap();
        let inner = slot.with(|value| {
            *value += 10;
            slot.with(|value| *value)
        });
        assert_eq!(inner, Some(None), "inside itself");
        assert_eq!(slot.with(|value| *value), Some(11), "and afterwards again");
        assert!(values.slot(2).is_none());
        assert_eq!(values.iter_mut().map(|value| *value).sum::<u32>(), 11);
        assert!(PerCpu::for_count(2, |_| Err::<(), _>(NtError::NOT_FOUND)).is_err());
    }
}
