//! Memory for the nodes of chains, kept by the CPU that needs it again.
//!
//! A classify notes each datagram it takes in a node; some other CPU is done with it soon after. If
//! that one kept the memory, the first would ask the pool for more for ever. So what is done goes back
//! to where it came from: a list that anybody may push to and its CPU takes whole, and a list of that
//! CPU's own behind it. Neither needs a lock, and taking whole is what keeps a pushed list from the
//! ABA problem. What is kept is bounded; beyond it, and when a CPU has none, there is the pool.

use alloc::vec::Vec;
use core::{fmt, ptr};

use crate::{
    atomic::{AtomicPtr, AtomicU32, Ordering},
    chain::{Blank, Chain, Link, Node},
    irql::Dispatch,
    per_cpu::PerCpu,
    processor,
    status::NtError,
};

/// Memory for nodes of `T`, by CPU.
pub struct Stock<T> {
    own: PerCpu<Blanks<T>>,
    returned: Vec<Returned<T>>,
    /// The most that is kept for one CPU.
    most: u32,
}

/// What was given back to one CPU.
///
/// # Invariants
///
/// Owns the blanks that hang on `first`.
#[repr(align(64))]
struct Returned<T> {
    first: AtomicPtr<Link<T>>,
    /// Blanks here and on the CPU's own list, and maybe some more that are just coming or going.
    kept: AtomicU32,
}

/// Blanks, the last one first.
///
/// # Invariants
///
/// Owns the chain of blanks that begins at `first`, which is null for none.
struct Blanks<T> {
    first: *mut Link<T>,
}

// SAFETY: the memory is owned, and holds no value.
unsafe impl<T> Send for Blanks<T> {}
// SAFETY: as above; a shared one gives nothing out.
unsafe impl<T> Sync for Blanks<T> {}
// SAFETY: blanks hold no value, so moving them between threads moves memory only.
unsafe impl<T> Send for Returned<T> {}
// SAFETY: as above; the word is atomic.
unsafe impl<T> Sync for Returned<T> {}

impl<T> Stock<T> {
    /// Nothing yet; later up to `most` nodes for each CPU.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(most: u32) -> Result<Self, NtError> {
        let count = processor::maximum() as usize;
        let mut returned = Vec::new();
        returned.try_reserve_exact(count).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        returned.resize_with(count, Returned::default);
        Ok(Self { own: PerCpu::try_new(|_| Ok(Blanks::default()))?, returned, most })
    }

    /// Moves `value` to a node: in memory that this CPU has, or else from the pool.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; `value` is then dropped.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`.
    pub fn node(&self, level: &Dispatch<'_>, value: T) -> Result<Node<T>, NtError> {
        match self.blank(level) {
            Some(blank) => Ok(blank.fill(value)),
            None => Node::try_new(value),
        }
    }

    fn blank(&self, level: &Dispatch<'_>) -> Option<Blank<T>> {
        let returned = self.returned.get(processor::current(level) as usize)?;
        self.own.with(level, |own| returned.pop(own))?
    }

    /// Drops the values of `chain`; their memory is kept for the CPU whose index is `cpu`, or goes back
    /// to the pool when that one has enough.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, on any CPU.
    pub fn give_back(&self, cpu: u32, chain: Chain<T>) {
        if let Some(returned) = self.returned.get(cpu as usize) {
            returned.take_in(chain, self.most);
        }
    }
}

impl<T> Default for Returned<T> {
    fn default() -> Self {
        Self { first: AtomicPtr::new(ptr::null_mut()), kept: AtomicU32::new(0) }
    }
}

impl<T> Returned<T> {
    /// Takes a blank off `own`, which is filled with everything here if there is none. By one CPU.
    fn pop(&self, own: &mut Blanks<T>) -> Option<Blank<T>> {
        if own.first.is_null() {
            // Acquire pairs with the Release of `push`. INVARIANT: what hung here is `own`'s now.
            own.first = self.first.swap(ptr::null_mut(), Ordering::Acquire);
        }
        let blank = own.pop()?;
        // Relaxed, as every use of it: a bound, not a fact.
        self.kept.fetch_sub(1, Ordering::Relaxed);
        Some(blank)
    }

    /// Keeps the memory of `chain`, as long as there is not more than `most`.
    fn take_in(&self, mut chain: Chain<T>, most: u32) {
        let count = chain.len() as u32;
        let kept = self.kept.fetch_add(count, Ordering::Relaxed);
        let room = most.saturating_sub(kept).min(count);
        self.kept.fetch_sub(count - room, Ordering::Relaxed);
        let mut blanks = Blanks::default();
        for node in core::iter::from_fn(|| chain.pop()).take(room as usize) {
            blanks.push(node.vacate());
        }
        self.push(blanks);
    }

    /// Adds `blanks` to the list.
    fn push(&self, blanks: Blanks<T>) {
        let Some(last) = blanks.last() else { return };
        let first = core::mem::ManuallyDrop::new(blanks).first;
        let mut before = self.first.load(Ordering::Relaxed);
        loop {
            // SAFETY: a blank of the chain that was given up above, and not published yet.
            unsafe { (*last).set_next(before) };
            // Release: who takes the list sees its links. INVARIANT: the chain hangs on `first` now.
            match self.first.compare_exchange_weak(
                before,
                first,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(other) => before = other,
            }
        }
    }
}

impl<T> Drop for Returned<T> {
    fn drop(&mut self) {
        let first = self.first.swap(ptr::null_mut(), Ordering::Acquire);
        // INVARIANT: what hung here is the new value's.
        drop(Blanks { first });
    }
}

impl<T> Default for Blanks<T> {
    fn default() -> Self {
        Self { first: ptr::null_mut() }
    }
}

impl<T> Blanks<T> {
    fn push(&mut self, blank: Blank<T>) {
        let link = blank.into_raw();
        // SAFETY: just given up, so ours.
        unsafe { (*link).set_next(self.first) };
        // INVARIANT: the blank before the others.
        self.first = link;
    }

    fn pop(&mut self) -> Option<Blank<T>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the first of the chain that this value owns (type invariant).
        let next = unsafe { (*self.first).next() };
        let link = core::mem::replace(&mut self.first, next);
        // SAFETY: a blank that was given up, and is off the chain.
        Some(unsafe { Blank::from_raw(link) })
    }

    /// The last one.
    fn last(&self) -> Option<*mut Link<T>> {
        let mut last = None;
        let mut link = self.first;
        while !link.is_null() {
            last = Some(link);
            // SAFETY: a blank of the chain that this value owns (type invariant).
            link = unsafe { (*link).next() };
        }
        last
    }
}

impl<T> Drop for Blanks<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T> fmt::Debug for Stock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stock(of {} a CPU)", self.most)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    extern crate std;

    use std::{rc::Rc, vec::Vec};

    use super::*;

    fn chain<T: Clone>(count: usize, value: &T) -> Chain<T> {
        let mut chain = Chain::default();
        (0..count).for_each(|_| chain.push(Node::try_new(value.clone()).expect("memory")));
        chain
    }

    fn all<T>(returned: &Returned<T>, own: &mut Blanks<T>) -> Vec<*mut Link<T>> {
        core::iter::from_fn(|| returned.pop(own)).map(Blank::into_raw).collect()
    }

    #[test]
    fn values_are_dropped_at_once_and_memory_is_kept_up_to_a_bound() {
        let value = Rc::new(());
        for (most, given, kept, why) in [
            (4, &[3][..], 3, "room"),
            (4, &[4], 4, "the last room"),
            (4, &[5], 4, "one too many"),
            (4, &[3, 3], 4, "in two goes"),
            (4, &[9, 9], 4, "full"),
            (0, &[1], 0, "none is to be kept"),
            (4, &[0], 0, "nothing"),
        ] {
            let (returned, mut own) = (Returned::default(), Blanks::default());
            for count in given {
                returned.take_in(chain(*count, &value), most);
                assert_eq!(Rc::strong_count(&value), 1, "{why}: a value lives on");
            }
            let blanks = all(&returned, &mut own);
            assert_eq!(blanks.len(), kept, "{why}");
            assert_eq!(returned.kept.load(Ordering::Relaxed), 0, "{why}: all are gone");
            // SAFETY: each came from a blank just now.
            blanks.into_iter().for_each(|link| drop(unsafe { Blank::from_raw(link) }));
        }
    }

    #[test]
    fn memory_is_used_again_and_holds_the_new_value() {
        let (returned, mut own) = (Returned::default(), Blanks::default());
        let (old, new) = (Rc::new(1), Rc::new(2));
        returned.take_in(chain(2, &old), 8);
        let node = returned.pop(&mut own).unwrap().fill(new.clone());
        assert_eq!((**node.value(), Rc::strong_count(&old), Rc::strong_count(&new)), (2, 1, 2));
        drop(node);
        assert_eq!(Rc::strong_count(&new), 1);
        assert!(!own.first.is_null(), "the rest waits on the CPU's own list");
    }
}

/// `. scripts/wdk/env.sh; cargo test -p nt --features loom --release --lib loom`
#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    extern crate std;

    use std::sync::Arc;

    use super::*;

    fn chain(values: &[u32]) -> Chain<u32> {
        let mut chain = Chain::default();
        values.iter().for_each(|value| chain.push(Node::try_new(*value).expect("memory")));
        chain
    }

    /// Two CPUs give back what the third takes meanwhile: each blank comes once.
    #[test]
    fn loom_every_blank_is_had_once() {
        loom::model(|| {
            let returned = Arc::new(Returned::default());
            let givers: std::vec::Vec<_> = [&[1, 2][..], &[3]]
                .into_iter()
                .map(|values| {
                    let returned = returned.clone();
                    loom::thread::spawn(move || returned.take_in(chain(values), 8))
                })
                .collect();
            let mut own = Blanks::default();
            let mut had = std::vec::Vec::new();
            had.extend(returned.pop(&mut own).map(Blank::into_raw));
            givers.into_iter().for_each(|giver| giver.join().unwrap());
            had.extend(core::iter::from_fn(|| returned.pop(&mut own)).map(Blank::into_raw));
            assert_eq!(had.len(), 3);
            had.sort_unstable();
            had.dedup();
            assert_eq!(had.len(), 3, "one came twice");
            // SAFETY: each came from a blank just now, once.
            had.into_iter().for_each(|link| drop(unsafe { Blank::from_raw(link) }));
        });
    }
}
