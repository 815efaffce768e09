//! Handshake messages waiting for a worker: copied out of the network's memory, and bounded.
//!
//! The list is allocated with the adapter, so under a flood only the messages themselves are, and
//! those one by one. `<= DISPATCH_LEVEL`.

use alloc::{boxed::Box, collections::VecDeque};

use abi::discard::Discard;
use callout::Datagram;
use crypto::{
    mac1::BATCH,
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

/// Messages that a worker takes together.
pub(crate) type Batch = heapless::Vec<Box<Message>, BATCH>;

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
    // spec: WG 7.4-d
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

    /// Takes the oldest messages for one of `workers`: its share of what waits, a batch at most. Tells how
    /// many there were with them.
    pub(crate) fn take(&self, ground: &impl Ground, workers: usize) -> (Batch, usize) {
        let mut batch = Batch::new();
        let waiting = self.messages.with(ground, |messages| {
            let waiting = messages.len();
            let share = waiting.div_ceil(workers.max(1)).min(BATCH);
            for _ in 0..share {
                // There is room for a batch.
                let _ = messages.pop_front().map(|message| batch.push(message));
            }
            waiting
        });
        (batch, waiting)
    }

    /// Drops all messages, and tells how many there were.
    pub(crate) fn clear(&self, ground: &impl Ground) -> usize {
        let mut dropped = 0_usize;
        loop {
            match self.take(ground, 1).0.len() {
                0 => return dropped,
                count => dropped = dropped.saturating_add(count),
            }
        }
    }
}
