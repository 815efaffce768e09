//! A list whose nodes are made beforehand: nothing that is done with it needs memory.
//!
//! Values are put on a list where memory may be short, and moved from list to list where it may not
//! matter. Singly linked, with a way to its end; one owner, as a `Vec` has.

use core::{
    fmt,
    iter::FusedIterator,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, NonNull},
};

use crate::{
    pool::{self, Tag},
    status::NtError,
};

/// Tag of the nodes' memory.
const TAG: Tag = Tag::new(*b"PnsC");

/// Memory of one node: a link, and room for a value.
pub(crate) struct Link<T> {
    next: *mut Self,
    value: MaybeUninit<T>,
}

impl<T> Link<T> {
    pub(crate) const fn next(&self) -> *mut Self {
        self.next
    }

    pub(crate) const fn set_next(&mut self, next: *mut Self) {
        self.next = next;
    }
}

/// Memory for a node, without a value.
///
/// # Invariants
///
/// Owns a block under [`TAG`], whose `next` is initialised.
pub(crate) struct Blank<T>(NonNull<Link<T>>);

// SAFETY: owned memory.
unsafe impl<T> Send for Blank<T> {}

impl<T> Blank<T> {
    fn try_new() -> Result<Self, NtError> {
        let block = pool::try_block(TAG)?;
        // SAFETY: fresh, and of a link's size and alignment.
        unsafe { block.write(Link { next: ptr::null_mut(), value: MaybeUninit::uninit() }) };
        // INVARIANT: just made.
        Ok(Self(block))
    }

    /// Moves `value` into it.
    pub(crate) fn fill(self, value: T) -> Node<T> {
        let mut block = ManuallyDrop::new(self).0;
        // SAFETY: owned (type invariant).
        unsafe { block.as_mut() }.value.write(value);
        // INVARIANT: the block was given up, and holds a value now.
        Node(block)
    }

    /// Gives the block up, for [`Blank::from_raw`].
    pub(crate) fn into_raw(self) -> *mut Link<T> {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// It came from [`Blank::into_raw`], and is nobody else's.
    pub(crate) unsafe fn from_raw(link: *mut Link<T>) -> Self {
        // SAFETY: never null, as it came out of a NonNull.
        // INVARIANT: the caller's promise.
        Self(unsafe { NonNull::new_unchecked(link) })
    }
}

impl<T> Drop for Blank<T> {
    fn drop(&mut self) {
        // SAFETY: owned (type invariant), and this is its end.
        unsafe { pool::free_block(self.0, TAG) };
    }
}

/// A value that is on no list yet, or no longer.
///
/// # Invariants
///
/// Owns a block as a [`Blank`] does, which holds a value.
pub struct Node<T>(NonNull<Link<T>>);

// SAFETY: an owned value.
unsafe impl<T: Send> Send for Node<T> {}
// SAFETY: a shared node gives out a shared value.
unsafe impl<T: Sync> Sync for Node<T> {}

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
        Ok(Blank::try_new()?.fill(value))
    }

    /// The value.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn value(&self) -> &T {
        // SAFETY: owned (type invariant).
        let link = unsafe { self.0.as_ref() };
        // SAFETY: with a value (type invariant).
        unsafe { link.value.assume_init_ref() }
    }

    /// Drops the value, and keeps the memory.
    pub(crate) fn vacate(self) -> Blank<T> {
        let mut block = ManuallyDrop::new(self).0;
        // SAFETY: owned (type invariant).
        let link = unsafe { block.as_mut() };
        // SAFETY: with a value (type invariant), which is not used again.
        unsafe { link.value.assume_init_drop() };
        // INVARIANT: the block was given up, and holds no value now.
        Blank(block)
    }
}

impl<T> Drop for Node<T> {
    fn drop(&mut self) {
        // SAFETY: owned (type invariant).
        let link = unsafe { self.0.as_mut() };
        // SAFETY: with a value (type invariant), and this is its end.
        unsafe { link.value.assume_init_drop() };
        // SAFETY: owned, and holds no value any more.
        unsafe { pool::free_block(self.0, TAG) };
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
        let mut node = ManuallyDrop::new(node).0;
        // SAFETY: just given up by the node, so the chain's.
        unsafe { node.as_mut() }.next = ptr::null_mut();
        match self.last.replace(node) {
            // SAFETY: a node of this chain (type invariant), borrowed uniquely as the chain is.
            Some(mut last) => unsafe { last.as_mut() }.next = node.as_ptr(),
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
        // SAFETY: owned by this chain (type invariant).
        self.first = NonNull::new(unsafe { first.as_ref() }.next);
        if self.first.is_none() {
            self.last = None;
        }
        self.len -= 1;
        // INVARIANT: given up by a node in `push`, and off the chain.
        Some(Node(first))
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
        self.next = NonNull::new(link.next);
        // SAFETY: what is on a chain holds a value.
        Some(unsafe { link.value.assume_init_ref() })
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
