//! What one CPU is to do: a bounded queue, served by one at a time, that nobody has to watch.
//!
//! Whoever puts something into a queue that nobody serves is told so, and wakes a server; a server
//! that finds it empty is one no more. So what is in the queue always has a server on its way, and a
//! busy queue costs its users no wake-ups. A server that must stop while there is something left
//! passes its part on to another, who goes on in its place.

use heapless::Deque;

use crate::sync::{Ground, SpinLock};

/// Up to `N` things to do. `N` is at least 1.
pub struct Queue<T, const N: usize>(SpinLock<State<T, N>>);

struct State<T, const N: usize> {
    waiting: Deque<T, N>,
    /// Somebody was told to serve, and has not found the queue empty since.
    served: bool,
}

/// Whether something that was put into a queue is taken care of.
#[must_use = "a queue that has no server is served by nobody"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The queue has a server already.
    Awake,
    /// The caller has to wake one.
    ToWake,
}

impl<T, const N: usize> Default for Queue<T, N> {
    fn default() -> Self {
        Self(SpinLock::new(State { waiting: Deque::new(), served: false }))
    }
}

impl<T, const N: usize> Queue<T, N> {
    /// Whether it has a server is said there, for a debugger.
    pub const SERVED: usize = core::mem::offset_of!(Self, 0)
        + SpinLock::<State<T, N>>::VALUE
        + core::mem::offset_of!(State<T, N>, served);

    /// Puts `item` behind what is waiting, if that is fewer than `most`; only then it becomes a `T`.
    ///
    /// # Errors
    ///
    /// The item, if as many are waiting.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn push<I: Into<T>>(
        &self,
        ground: &impl Ground,
        item: I,
        most: usize,
    ) -> Result<Server, I> {
        self.0.with(ground, |state| {
            if state.waiting.len() >= most || state.waiting.is_full() {
                return Err(item);
            }
            // There is room.
            let _ = state.waiting.push_back(item.into());
            let served = core::mem::replace(&mut state.served, true);
            Ok(if served { Server::Awake } else { Server::ToWake })
        })
    }

    /// Takes the first, as the server. After `None` the caller is the server no more.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn pop(&self, ground: &impl Ground) -> Option<T> {
        self.0.with(ground, |state| {
            let first = state.waiting.pop_front();
            state.served = first.is_some();
            first
        })
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sync::Unpinned;

    proptest! {
        /// First in, first out, never more than may be; a server is called for exactly when there is
        /// none.
        #[test]
        fn it_is_a_bounded_queue_with_one_server(steps in prop::collection::vec(0..6_usize, 0..100)) {
            let queue = Queue::<u32, 4>::default();
            let (mut model, mut served, mut next) = (std::collections::VecDeque::new(), false, 0);
            for most in steps {
                if most == 0 {
                    let first = queue.pop(&Unpinned);
                    prop_assert_eq!(first, model.pop_front());
                    served = first.is_some();
                    continue;
                }
                let expected = if model.len() >= most.min(4) {
                    Err(next)
                } else {
                    model.push_back(next);
                    Ok(if core::mem::replace(&mut served, true) { Server::Awake } else { Server::ToWake })
                };
                prop_assert_eq!(queue.push(&Unpinned, next, most), expected);
                next += 1;
            }
        }
    }
}
