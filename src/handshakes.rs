//! Handshake messages on their way to a worker: looked at where they arrive, copied, and bounded.
//!
//! The CPU that receives them tells those that are worth nothing before they cost anything: no memory, no
//! place in the queue, no worker. For that and for keeping the others it has half of each clock tick:
//! what comes beyond is discarded unseen, so that no flood keeps a CPU from everything else. All of it
//! comes after the transport data that arrived with it.
//!
//! The queue's list is allocated with the adapter, so under a flood only the messages themselves are, and
//! those one by one. `<= DISPATCH_LEVEL`.

use alloc::{boxed::Box, collections::VecDeque};
use core::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use abi::discard::Discard;
use callout::{Datagram, Datagrams};
use crypto::{
    aead::ExtendedState,
    mac1::{BATCH, is_worth_state},
    protocol::{Endpoint, messages::INITIATION_LEN},
    sync::{Ground, SpinLock},
};
use nt::{
    irql::{AtMostDispatch, Dispatch},
    per_cpu::PerCpu,
    pool::try_box,
    status::NtError,
    time::{monotonic, to_100ns},
};

use crate::{
    account::{Account, Share},
    datapath,
    device::Device,
    ground::At,
};

/// What each CPU has spent of the present tick on handshake messages.
pub(crate) struct Accounts(PerCpu<Account>);

impl Accounts {
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new() -> Result<Self, NtError> {
        PerCpu::try_new(|_| Ok(Account::new(Share::HALF))).map(Self)
    }

    /// Whether this CPU has nothing left.
    fn is_spent(&self, now: Duration, level: &Dispatch<'_>) -> bool {
        self.0.with(level, |account| account.is_spent(now)).unwrap_or(true)
    }

    /// Charges this CPU for so many messages, from `began` to `ended`.
    fn note(&self, began: Duration, ended: Duration, messages: usize, level: &Dispatch<'_>) {
        let took = to_100ns(ended.saturating_sub(began));
        self.0.with(level, |account| account.note(ended, took, messages));
    }
}

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
    /// [`Discard::MalformedMessage`] if it is longer than the longest handshake message.
    fn copy(datagram: &Datagram<'_>) -> Result<Self, Discard> {
        let (len, from) = (datagram.payload.len(), datapath::endpoint(datagram));
        let mut message = Self { bytes: [0; INITIATION_LEN], len, from };
        if datagram.payload.copy_to(&mut message.bytes) != len {
            return Err(Discard::MalformedMessage);
        }
        Ok(message)
    }

    /// The datagram's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Device {
    /// Keeps datagrams that may be handshake messages for the workers: those that are worth it, as far as
    /// this CPU has time and the queue has room.
    // spec: WG 5.4.7-g — also cookie replies.
    pub(crate) fn keep_messages(&self, datagrams: &Datagrams, level: &AtMostDispatch) {
        let count = datagrams.len();
        let kept = level.pinned(|level| {
            // Saving the registers is a part of the cost.
            let mut began = monotonic();
            if self.core.handshake_accounts.is_spent(began, level) {
                self.counters.discard(Discard::HandshakeShareSpent, count);
                return 0;
            }
            let bytes =
                if is_worth_state(count) { count.saturating_mul(INITIATION_LEN) } else { 0 };
            self.core.with_extended_state(bytes, |state| {
                let (mut left, mut kept) = (datagrams.iter(), 0_usize);
                for done in (0..count).step_by(BATCH) {
                    if self.core.handshake_accounts.is_spent(began, level) {
                        let unseen = count.saturating_sub(done);
                        self.counters.discard(Discard::HandshakeShareSpent, unseen);
                        break;
                    }
                    kept = kept.saturating_add(self.keep_some(&mut left, state, level));
                    let ended = monotonic();
                    self.core.handshake_accounts.note(began, ended, BATCH, level);
                    began = ended;
                }
                kept
            })
        });
        if kept > 0 {
            self.core.call_workers();
        }
    }

    /// Keeps those of the next [`BATCH`] datagrams that are worth it; returns how many these are.
    #[inline(never)] // Copies leave the stack when it returns.
    fn keep_some<'d>(
        &self,
        datagrams: &mut impl Iterator<Item = Result<Datagram<'d>, Discard>>,
        state: Option<&ExtendedState>,
        level: &Dispatch<'_>,
    ) -> usize {
        let ground = At(level.at_most());
        let mut messages: heapless::Vec<Message, BATCH> = heapless::Vec::new();
        for datagram in datagrams.take(BATCH) {
            if self.handshakes.is_full() {
                self.counters.discard(Discard::HandshakeQueueFull, 1);
                continue;
            }
            match datagram.and_then(|datagram| Message::copy(&datagram)) {
                // There is room for a batch.
                Ok(message) => drop(messages.push(message)),
                Err(reason) => self.counters.discard(reason, 1),
            }
        }
        let bytes: [&[u8]; BATCH] =
            core::array::from_fn(|index| messages.get(index).map_or(&[][..], Message::bytes));
        let bytes = bytes.get(..messages.len()).unwrap_or_default();
        let verdicts = self.tunnel.screen(&ground, state, bytes);
        let mut kept = 0_usize;
        for (message, verdict) in messages.into_iter().zip(verdicts) {
            let boxed = verdict.and_then(|()| try_box(message).map_err(|_| Discard::OutOfMemory));
            match boxed.and_then(|message| self.handshakes.push(&ground, message)) {
                Ok(()) => kept = kept.saturating_add(1),
                Err(reason) => self.counters.discard(reason, 1),
            }
        }
        kept
    }
}

/// The queue of one adapter.
pub(crate) struct HandshakeQueue {
    messages: SpinLock<VecDeque<Box<Message>>>,
    /// How many there are, for who has no need to be exact.
    waiting: AtomicUsize,
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
        Ok(Self { messages: SpinLock::new(messages), waiting: AtomicUsize::new(0), most })
    }

    /// Whether a message would have been refused just now.
    fn is_full(&self) -> bool {
        // Relaxed: a hint; the lock decides.
        self.waiting.load(Ordering::Relaxed) >= self.most
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`Discard::HandshakeQueueFull`].
    // spec: WG 7.4-d
    fn push(&self, ground: &impl Ground, message: Box<Message>) -> Result<(), Discard> {
        let refused = self.messages.with(ground, |messages| {
            if messages.len() >= self.most {
                return Some(message);
            }
            messages.push_back(message);
            self.waiting.store(messages.len(), Ordering::Relaxed);
            None
        });
        refused.map_or(Ok(()), |_message| Err(Discard::HandshakeQueueFull))
    }

    /// Takes the oldest message. Tells how many there were with it.
    pub(crate) fn pop(&self, ground: &impl Ground) -> Option<(Box<Message>, usize)> {
        self.messages.with(ground, |messages| {
            let waiting = messages.len();
            let message = messages.pop_front()?;
            self.waiting.store(messages.len(), Ordering::Relaxed);
            Some((message, waiting))
        })
    }

    /// Drops all messages, and tells how many there were.
    pub(crate) fn clear(&self, ground: &impl Ground) -> usize {
        core::iter::from_fn(|| self.pop(ground)).count()
    }
}
