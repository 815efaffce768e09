//! The sessions of a peer: the one that sends, the one before it, and the one that is to come. [WG §6.3]

use super::keypair::Keypair;
use crate::sync::Shared;

/// The sessions of a peer: all receive, only the current one sends.
// spec: WG 6.3-a
pub(super) struct Sessions<E> {
    pub(super) previous: Option<Shared<Keypair<E>>>,
    pub(super) current: Option<Shared<Keypair<E>>>,
    pub(super) next: Option<Shared<Keypair<E>>>,
}

/// Sessions that were given up, to be retired with the lock open.
pub(super) type Retired<E> = [Option<Shared<Keypair<E>>>; 3];

impl<E> Sessions<E> {
    pub(super) const fn new() -> Self {
        Self { previous: None, current: None, next: None }
    }

    /// The initiator's new session sends at once.
    // spec: WG 6.3-b
    pub(super) fn begin_as_initiator(&mut self, keypair: Shared<Keypair<E>>) -> Retired<E> {
        let current = self.current.replace(keypair);
        match self.next.take() {
            Some(next) => [self.previous.replace(next), current, None],
            None => [core::mem::replace(&mut self.previous, current), None, None],
        }
    }

    /// The responder's new session waits to be confirmed.
    // spec: WG 6.3-c
    pub(super) fn begin_as_responder(&mut self, keypair: Shared<Keypair<E>>) -> Retired<E> {
        [self.next.replace(keypair), self.previous.take(), None]
    }

    pub(super) fn promote(&mut self, keypair: &Shared<Keypair<E>>) -> Option<Retired<E>> {
        let next = self.next.take_if(|next| Shared::ptr_eq(next, keypair))?;
        let current = self.current.replace(next);
        Some([core::mem::replace(&mut self.previous, current), None, None])
    }

    pub(super) fn take_all(&mut self) -> Retired<E> {
        [self.previous.take(), self.current.take(), self.next.take()]
    }
}
