//! What is looked at of handshake messages before they cost anything: the first thing a flood meets.
//!
//! The data path asks on the CPU that received them, a batch at a time, and keeps only what is left for a
//! worker. So a stranger who does not know our public key, or sends cookie replies that nobody waits
//! for, takes no memory, no place in the queue, and puts nobody under load. Nothing changes here. A worker
//! judges once more what it gets, as the keys may be others by then: beside its curve multiplications
//! that is nothing. `<= DISPATCH_LEVEL`. [WG §5.3]

use core::net::SocketAddr;

use abi::discard::Discard;

use super::{
    Instant,
    cookie::mac2_is_valid,
    messages::{Macs, Message},
    tunnel::Tunnel,
};
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
        let key = self.secrets.identity.with(ground, |state| {
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

    /// Whether a message that [`Tunnel::screen`] has nothing against is to be served before others: while we
    /// are under load, if it comes from where it says. Those without a valid cookie, however many they
    /// are, must not keep those with one waiting.
    ///
    /// # Errors
    ///
    /// [`Discard::RateLimited`] if its source has no credit left.
    pub fn goes_first(
        &self,
        ground: &impl Ground,
        message: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<bool, Discard> {
        let Some(macs) = macs_with_cookie(message).filter(|_| self.load().is_under_load(now))
        else {
            return Ok(false);
        };
        let Some(cookie) = self.cookie_of(ground, from, now) else { return Ok(false) };
        if !mac2_is_valid(&cookie, &macs) {
            return Ok(false);
        }
        let has_credit = self.load().has_credit(ground, from.ip(), now);
        if has_credit { Ok(true) } else { Err(Discard::RateLimited) }
    }
}

/// The MACs of a message that may have been made with a cookie: of a few kinds, whose mac2 is not zeros.
fn macs_with_cookie(message: &[u8]) -> Option<Macs<'_>> {
    let macs = match Message::parse(message) {
        Ok(Message::Initiation(message)) => message.macs,
        Ok(Message::Response(message)) => message.macs,
        _ => return None,
    };
    Some(macs).filter(|macs| macs.mac2.iter().any(|byte| *byte != 0))
}

/// Whether a message may have been made with a cookie.
#[must_use]
pub fn has_cookie(message: &[u8]) -> bool {
    macs_with_cookie(message).is_some()
}
