//! What is looked at of handshake messages before they cost anything: the first thing a flood meets.
//!
//! The data path asks on the CPU that received them, a batch at a time, and keeps only what is left for a
//! worker. So a stranger who does not know our public key, or sends cookie replies that nobody waits
//! for, takes no memory, no place in the queue, and puts nobody under load. Nothing changes here. A worker
//! judges once more what it gets, as the keys may be others by then: beside its curve multiplications
//! that is nothing. `<= DISPATCH_LEVEL`. [WG §5.3]

use abi::discard::Discard;

use super::{messages::Message, tunnel::Tunnel};
use crate::{aead::ExtendedState, mac1::BATCH, sync::Ground};

impl<E> Tunnel<E> {
    /// Says of the first [`BATCH`] of `messages` whether each is worth a worker's time; of those that are not
    /// there nothing is said.
    ///
    /// `state` is the proof that the extended registers may be used; without it mac1s are checked one by
    /// one.
    ///
    /// # Errors
    ///
    /// Of each, why [`Tunnel::consume`] would discard it, as far as one can tell here:
    /// [`Discard::MalformedMessage`] (also for transport data), [`Discard::NotUp`],
    /// [`Discard::NoIdentity`], [`Discard::BadMac1`], [`Discard::UnknownReceiver`] and
    /// [`Discard::BadCookieReply`] for cookie replies.
    // spec: WG 5.3-a, WG 5.1-h
    pub fn screen(
        &self,
        ground: &impl Ground,
        state: Option<&ExtendedState>,
        messages: &[&[u8]],
    ) -> [Result<(), Discard>; BATCH] {
        let key = self.identity.with(ground, |state| {
            state.identity.as_ref().map(|(_, mac_keys)| mac_keys.mac1_key().clone())
        });
        let forged = key.as_ref().map_or(0, |key| key.forged(state, messages));
        core::array::from_fn(|index| {
            let Some(message) = messages.get(index) else { return Ok(()) };
            match Message::parse(message)? {
                _ if !self.is_up() => Err(Discard::NotUp),
                Message::Initiation(_) | Message::Response(_) => match &key {
                    None => Err(Discard::NoIdentity),
                    Some(_) if forged.unbounded_shr(index as u32) & 1 == 1 => Err(Discard::BadMac1),
                    Some(_) => Ok(()),
                },
                // spec: WG 5.4.7-f
                Message::CookieReply(message) => self.awaited(ground, &message).map(drop),
                Message::Transport(_) => Err(Discard::MalformedMessage),
            }
        })
    }
}
