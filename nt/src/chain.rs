//! A list whose nodes are made beforehand: nothing that is done with it needs memory.
//!
//! Values are put on a list where memory may be short, and moved from list to list where it may not
//! matter. Singly linked, with a way to its end; one owner, as a `Vec` has.

use alloc::boxed::Box;
use core::{fmt, iter::FusedIterator, marker::PhantomData, ptr::NonNull};

use crate::{pool, status::NtError};

struct Link<T> {
    next: Option<NonNull<Self>>,
    value: T,
}

/// A value that is on no list yet, or no longer.
pub struct Node<T>(Box<Link<T>>);

impl<T> Node<T> {
    /// Moves `value` to a node.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; `value` is then dropped.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn try_new(value: T) -> Result<Self, NtError> {
        pool::try_box(Link { next: None, value }).map(Self)
    }

    /// The value.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn value(&self) -> &T {
        &self.0.value
    }
}

/// Values in order.
///
/// # Invariants
///
/// `first` and `last` are the ends of a chain of `len` nodes, all owned; both are `None` for none.
pub struct Chain<T> {
    first: Option<NonNull<Link<T>>>,
    last: Option<NonNull<Link<T>>>,
    len: usize,
}

// SAFETY: the nodes are owned.
unsafe impl<T: Send> Send for Chain<T> {}
// SAFETY: a shared chain gives out shared values.
unsafe impl<T: Sync> Sync for Chain<T> {}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { first: None, last: None, len: 0 }
    }
}

impl<T> Chain<T> {
    /// Puts a node at the end.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn push(&mut self, node: Node<T>) {
        let node = NonNull::from(Box::leak(node.0));
        match self.last.replace(node) {
            // SAFETY: a node of this chain (type invariant), borrowed uniquely as the chain is.
            Some(mut last) => unsafe { last.as_mut() }.next = Some(node),
            None => self.first = Some(node),
        }
        self.len += 1;
    }

    /// Takes the first node; `None` when there is none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn pop(&mut self) -> Option<Node<T>> {
        let first = self.first?;
        // SAFETY: owned by this chain (type invariant), made of a box in `push`.
        let mut node = unsafe { Box::from_raw(first.as_ptr()) };
        self.first = node.next.take();
        if self.first.is_none() {
            self.last = None;
        }
        self.len -= 1;
        Some(Node(node))
    }

    /// How many values there are.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, in order.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn iter(&self) -> Iter<'_, T> {
        Iter { next: self.first, chain: PhantomData }
    }
}

impl<'c, T> IntoIterator for &'c Chain<T> {
    type Item = &'c T;
    type IntoIter = Iter<'c, T>;

    fn into_iter(self) -> Iter<'c, T> {
        self.iter()
    }
}

impl<T> Drop for Chain<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T: fmt::Debug> fmt::Debug for Chain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The values of a chain.
#[derive(Debug)]
pub struct Iter<'c, T> {
    next: Option<NonNull<Link<T>>>,
    chain: PhantomData<&'c Chain<T>>,
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Self { next: self.next, chain: PhantomData }
    }
}

impl<'c, T> Iterator for Iter<'c, T> {
    type Item = &'c T;

    fn next(&mut self) -> Option<&'c T> {
        // SAFETY: a node of the chain that is borrowed for `'c`.
        let link = unsafe { self.next?.as_ref() };
        self.next = link.next;
        Some(&link.value)
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{rc::Rc, vec::Vec};

    use super::*;

    #[test]
    fn order_is_kept_and_everything_is_dropped_once() {
        let counted = Rc::new(());
        let node = |number: u32| Node::try_new((number, counted.clone())).unwrap();
        let numbers = |chain: &Chain<(u32, Rc<()>)>| {
            chain.iter().map(|(number, _)| *number).collect::<Vec<_>>()
        };
        let (mut chain, mut odd) = (Chain::default(), Chain::default());
        assert!(chain.pop().is_none());
        for number in 0..6 {
            chain.push(node(number));
        }
        assert_eq!((numbers(&chain), chain.len()), (std::vec![0, 1, 2, 3, 4, 5], 6));
        for _ in 0..6 {
            let node = chain.pop().unwrap();
            if node.value().0 % 2 == 1 { odd.push(node) } else { chain.push(node) }
        }
        assert_eq!((numbers(&chain), numbers(&odd)), (std::vec![0, 2, 4], std::vec![1, 3, 5]));
        assert_eq!(Rc::strong_count(&counted), 7);
        drop(odd);
        assert_eq!(Rc::strong_count(&counted), 4);
        while chain.pop().is_some() {}
        chain.push(node(9));
        assert_eq!((numbers(&chain), Rc::strong_count(&counted)), (std::vec![9], 2));
    }
}
