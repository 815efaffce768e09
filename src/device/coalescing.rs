//! Whether the sockets are given datagrams several as one: as policy says, until that turns out wrong.
//!
//! What the data path finds out a worker puts right: options are set at `PASSIVE_LEVEL`.

use core::sync::atomic::{AtomicBool, Ordering};

use abi::{policy::Policy, statistics::Counter};
use callout::Outside;
use nt::irql::{AtMostDispatch, Passive};

use super::Device;
use crate::{
    ends::Outer,
    ground::{At, AtPassive},
    log::Level,
};

/// What an adapter has found out.
#[derive(Default)]
pub(crate) struct Coalescing {
    /// Datagrams did not come apart: no more until the adapter comes up again.
    distrusted: AtomicBool,
    /// The sockets are still to be told.
    news: AtomicBool,
}

impl Device {
    /// Whether one of this adapter's sessions has that receiver index.
    pub(crate) fn has_session(&self, receiver: u32, level: &AtMostDispatch) -> bool {
        let session = self.core.indices.session(&At(level), receiver);
        session.is_some_and(|keypair| keypair.peer().tunnel() == self.tunnel.number())
    }

    /// Has a worker tell the sockets to keep datagrams apart.
    pub(crate) fn distrust_coalescing(&self, level: &AtMostDispatch) {
        if self.coalescing.distrusted.swap(true, Ordering::Relaxed) {
            return;
        }
        self.counters.add(Counter::CoalescingDistrusted, 1);
        let what = format_args!("datagrams that came as one do not come apart: no more of them");
        self.log.line(level, Level::Warning, what);
        // Release pairs with the Acquire of `tell_sockets`.
        self.coalescing.news.store(true, Ordering::Release);
        self.core.call_workers();
    }

    /// Tells the sockets, if there is news.
    pub(crate) fn tell_sockets(&self, passive: &Passive) {
        if !self.coalescing.news.swap(false, Ordering::AcqRel) {
            return;
        }
        // One at a time; and while it is held the sockets are not exchanged.
        let _control = self.control.lock(passive);
        let sockets = self.sockets.read(&AtPassive(passive), |sockets| sockets.clone());
        if let Some(sockets) = sockets {
            self.coalesce(&sockets, passive);
        }
    }

    /// The adapter comes up: what was found out is to be found out anew.
    pub(super) fn trust_coalescing(&self) {
        self.coalescing.distrusted.store(false, Ordering::Relaxed);
    }

    /// Tells sockets what policy says, and what was found out. The caller has the control lock.
    pub(super) fn coalesce(&self, sockets: &Outside<Outer>, passive: &Passive) {
        let distrusted = self.coalescing.distrusted.load(Ordering::Relaxed);
        let wanted = self.core.policies.get(Policy::OuterCoalescing) != 0 && !distrusted;
        if let Err(error) = sockets.coalesce(passive, wanted) {
            let what =
                if wanted { "datagrams come one by one" } else { "datagrams still come as one" };
            self.say(passive, Level::Warning, format_args!("{what}: {error}"));
        }
    }
}
