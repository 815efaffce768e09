//! Handshake messages waiting for a worker: copied out of the network's memory, and bounded.
//!
//! The list is allocated with the adapter, so under a flood only the messages themselves are, and
//! those one by one. `<= DISPATCH_LEVEL`.

use alloc::{boxed::Box, collections::VecDeque};

use abi::discard::Discard;
use callout::Datagram;
use crypto::{
    protocol::{Endpoint, messages::INITIATION_LEN},
    sync::{Ground, SpinLock},
};
use nt::{pool::try_box, status::NtError};

/// A copy of a datagram that may be a handshake message or a cookie reply.
pub(crate) struct Message {
    bytes: [u8; INITIATION_LEN],
    len: usize,
    /// Who sent it, and to which of our addresses.
    pub(crate) from: Endpoint,
}

impl Message {
    /// Copies the datagram.
    ///
    /// # Errors
    ///
    /// [`Discard::MalformedMessage`] if it is longer than the longest handshake message,
    /// [`Discard::OutOfMemory`].
    pub(crate) fn copy(datagram: &Datagram<'_>, from: Endpoint) -> Result<Box<Self>, Discard> {
        let len = datagram.payload.len();
        let mut message = Self { bytes: [0; INITIATION_LEN], len, from };
        if datagram.payload.copy_to(&mut message.bytes) != len {
            return Err(Discard::MalformedMessage);
        }
        try_box(message).map_err(|_| Discard::OutOfMemory)
    }

    /// The datagram's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The queue of one adapter.
pub(crate) struct HandshakeQueue {
    messages: SpinLock<VecDeque<Box<Message>>>,
    most: usize,
}

impl HandshakeQueue {
    /// A queue for at most `most` messages.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new(most: usize) -> Result<Self, NtError> {
        let mut messages = VecDeque::new();
        messages.try_reserve_exact(most).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        Ok(Self { messages: SpinLock::new(messages), most })
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`Discard::HandshakeQueueFull`].
    pub(crate) fn push(&self, ground: &impl Ground, message: Box<Message>) -> Result<(), Discard> {
        let refused = self.messages.with(ground, |messages| {
            if messages.len() >= self.most {
                return Some(message);
            }
            messages.push_back(message);
            None
        });
        refused.map_or(Ok(()), |_message| Err(Discard::HandshakeQueueFull))
    }

    /// Takes the oldest message, and tells how many there were with it.
    pub(crate) fn pop(&self, ground: &impl Ground) -> Option<(Box<Message>, usize)> {
        self.messages.with(ground, |messages| {
            let waiting = messages.len();
            messages.pop_front().map(|message| (message, waiting))
        })
    }

    /// Drops all messages, and tells how many there were.
    pub(crate) fn clear(&self, ground: &impl Ground) -> usize {
        let mut dropped = 0_usize;
        while self.pop(ground).is_some() {
            dropped = dropped.saturating_add(1);
        }
        dropped
    }
}
