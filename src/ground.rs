//! The ground under the protocol core: how its spin locks keep their CPU.
//!
//! `crypto` knows nothing of IRQL; `nt` knows nothing of `crypto`. This is the one place where an
//! IRQL token becomes the core's [`Ground`].

use crypto::sync::Ground;
use nt::irql::{AtMostDispatch, Passive, raise};

/// A thread at or below `DISPATCH_LEVEL`, as the core's ground: locks raise it to that level.
pub(crate) struct At<'l>(pub(crate) &'l AtMostDispatch);

impl Ground for At<'_> {
    fn pinned<R>(&self, body: impl FnOnce() -> R) -> R {
        let _raised = raise(self.0);
        body()
    }
}

/// A thread at `PASSIVE_LEVEL`, as the core's ground.
pub(crate) struct AtPassive<'l>(pub(crate) &'l Passive);

impl Ground for AtPassive<'_> {
    fn pinned<R>(&self, body: impl FnOnce() -> R) -> R {
        self.0.pinned(|_level| body())
    }
}
