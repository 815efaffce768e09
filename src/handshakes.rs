//! Handshake messages on their way to a worker: looked at where they arrive, copied, and bounded.
//!
//! The CPU that receives them tells those that are worth nothing before they cost anything: no memory, no
//! place in the queue, no worker. For that and for keeping the others it has half of each clock tick:
//! what comes beyond is discarded unseen, so that no flood keeps a CPU from everything else. All of it
//! comes after the transport data that arrived with it. Under load, messages with a valid cookie wait in a
//! line of their own, which is served first.
//!
//! The queue's list is allocated with the adapter, so under a flood only the messages themselves are, and
//! those one by one. `<= DISPATCH_LEVEL`.

use alloc::{boxed::Box, collections::VecDeque};
use core::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use abi::{descriptor::Places, discard::Discard, places};
use callout::{Datagram, Datagrams};
use crypto::{
    aead::ExtendedState,
    mac1::{BATCH, is_worth_state},
    protocol::{Endpoint, Instant, messages::INITIATION_LEN, screen::has_cookie},
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
#[derive(Clone)]
pub(crate) struct Message {
    bytes: [u8; INITIATION_LEN],
    len: usize,
    /// Who sent it, and to which of our addresses.
    pub(crate) from: Endpoint,
}

/// Copies that have no memory of their own yet.
type Copies = heapless::Vec<Message, BATCH>;

impl Message {
    /// Copies the datagram to the end of `to`.
    ///
    /// # Errors
    ///
    /// [`Discard::MalformedMessage`] if it is longer than the longest handshake message.
    fn copy(datagram: &Datagram<'_>, to: &mut Copies) -> Result<(), Discard> {
        let (len, from) = (datagram.payload.len(), datapath::endpoint(datagram));
        if len > INITIATION_LEN {
            return Err(Discard::MalformedMessage);
        }
        // There is room for a batch.
        let _ = to.push(Self { bytes: [0; INITIATION_LEN], len, from });
        if let Some(message) = to.last_mut() {
            let _all_of_it = datagram.payload.copy_to(&mut message.bytes);
        }
        Ok(())
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
                    kept = kept.saturating_add(self.keep_some(
                        &mut left,
                        state,
                        Instant(began),
                        level,
                    ));
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
        now: Instant,
        level: &Dispatch<'_>,
    ) -> usize {
        let ground = At(level.at_most());
        let mut messages = Copies::new();
        let is_full = self.handshakes.is_full();
        for datagram in datagrams.take(BATCH) {
            let copied = datagram.and_then(|datagram| Message::copy(&datagram, &mut messages));
            let hopeless = is_full && !messages.last().is_some_and(|last| has_cookie(last.bytes()));
            match copied {
                Ok(()) if hopeless => {
                    messages.truncate(messages.len().saturating_sub(1));
                    self.counters.discard(Discard::HandshakeQueueFull, 1);
                }
                Ok(()) => {}
                Err(reason) => self.counters.discard(reason, 1),
            }
        }
        let bytes: [&[u8]; BATCH] =
            core::array::from_fn(|index| messages.get(index).map_or(&[][..], Message::bytes));
        let bytes = bytes.get(..messages.len()).unwrap_or_default();
        let verdicts = self.tunnel.screen(&ground, state, bytes);
        let mut kept = 0_usize;
        for (message, verdict) in messages.iter().zip(verdicts) {
            let standing = verdict.and_then(|()| {
                self.tunnel.goes_first(&ground, message.bytes(), message.from.remote, now)
            });
            let added = standing.and_then(|goes_first| {
                let message = try_box(message.clone()).map_err(|_| Discard::OutOfMemory)?;
                self.handshakes.push(&ground, message, goes_first)
            });
            match added {
                Ok(()) => kept = kept.saturating_add(1),
                Err(reason) => self.counters.discard(reason, 1),
            }
        }
        kept
    }
}

/// The queue of one adapter.
pub(crate) struct HandshakeQueue {
    lines: SpinLock<Lines>,
    /// How many there are, for who has no need to be exact.
    waiting: AtomicUsize,
    most: usize,
}

/// Each with room for all.
struct Lines {
    first: VecDeque<Box<Message>>,
    others: VecDeque<Box<Message>>,
}

impl Lines {
    fn len(&self) -> usize {
        self.first.len().saturating_add(self.others.len())
    }
}

impl HandshakeQueue {
    /// For a debugger.
    pub(crate) const PLACES: Places = places!("HandshakeQueue", waiting, most);

    /// A queue for at most `most` messages.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new(most: usize) -> Result<Self, NtError> {
        let mut lines = Lines { first: VecDeque::new(), others: VecDeque::new() };
        for line in [&mut lines.first, &mut lines.others] {
            line.try_reserve_exact(most).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        }
        Ok(Self { lines: SpinLock::new(lines), waiting: AtomicUsize::new(0), most })
    }

    /// Whether a message would have been refused just now.
    fn is_full(&self) -> bool {
        // Relaxed: a hint; the lock decides.
        self.waiting.load(Ordering::Relaxed) >= self.most
    }

    /// Adds a message; one that goes first takes the place of the newest of the others, if there is no
    /// other.
    ///
    /// # Errors
    ///
    /// [`Discard::HandshakeQueueFull`]: one message was dropped, this one or the other.
    // spec: WG 7.4-d
    fn push(
        &self,
        ground: &impl Ground,
        message: Box<Message>,
        goes_first: bool,
    ) -> Result<(), Discard> {
        let dropped = self.lines.with(ground, |lines| {
            let is_full = lines.len() >= self.most;
            let dropped = match (is_full, goes_first) {
                (true, false) => return Some(message),
                (true, true) => match lines.others.pop_back() {
                    Some(newest) => Some(newest),
                    None => return Some(message),
                },
                (false, _) => None,
            };
            let line = if goes_first { &mut lines.first } else { &mut lines.others };
            // Each has room for all; it would grow without asking.
            if line.len() == line.capacity() {
                return Some(message);
            }
            line.push_back(message);
            self.waiting.store(lines.len(), Ordering::Relaxed);
            dropped
        });
        dropped.map_or(Ok(()), |_message| Err(Discard::HandshakeQueueFull))
    }

    /// Takes the next message. Tells how many there were with it.
    pub(crate) fn pop(&self, ground: &impl Ground) -> Option<(Box<Message>, usize)> {
        self.lines.with(ground, |lines| {
            let waiting = lines.len();
            let message = lines.first.pop_front().or_else(|| lines.others.pop_front())?;
            self.waiting.store(lines.len(), Ordering::Relaxed);
            Some((message, waiting))
        })
    }

    /// Drops all messages, and tells how many there were.
    pub(crate) fn clear(&self, ground: &impl Ground) -> usize {
        core::iter::from_fn(|| self.pop(ground)).count()
    }
}
