//! How long packets may be: those that are longer than the way to their peer takes, and what TCP announces.
//!
//! What may be cut is sent all the same, and its datagram cut outside, as it would be if nobody knew the way:
//! cutting it here would give the peer's network as many packets, and the host behind it two to put together
//! instead of the peer. What may not be cut is discarded, and its sender told how long it may be, by a packet
//! that the adapter gives to the stack like one that was received; never by one on the network.

use core::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use abi::{discard::Discard, policy::Policy, statistics::Counter};
use crypto::protocol::{
    Now, mss,
    segment::SuperPacket,
    send::PathMtu,
    too_big::{MOST_BYTES, answer, may_be_cut},
};
use netadapter::{Pieces, TxPacket};

use crate::{device::Device, peer::Peer};

/// Bytes of a packet's front that are looked at: all headers, but for very long ones.
const FRONT_LEN: usize = 128;
/// The time in which one answer may follow the other on average, as Linux has it.
const APART: Duration = Duration::from_millis(1);
/// How many may come at once.
const AT_ONCE: u32 = 50;

/// How many answers there were lately.
#[derive(Default)]
pub(crate) struct Answers {
    /// When the next may follow if all came [`APART`], in nanoseconds since boot.
    next: AtomicU64,
}

impl Answers {
    /// Whether there may be another, which is then counted. [RFC 4443 2.4 f]
    fn may_follow(&self, now: Duration) -> bool {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        let (now, latest) = (nanoseconds(now), now.saturating_add(APART.saturating_mul(AT_ONCE)));
        let latest = nanoseconds(latest);
        let later = |next: u64| {
            let next = next.max(now).saturating_add(nanoseconds(APART));
            (next <= latest).then_some(next)
        };
        // Relaxed: the number stands for itself.
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }
}

impl Device {
    /// Lowers the segment size that a received SYN announces to what the way to its peer takes.
    pub(super) fn lower_mss(&self, peer: &Peer, packet: &mut [u8]) {
        if mss::may_be_syn(packet) {
            self.lower_mss_of_syn(peer, packet);
        }
    }

    #[cold]
    #[inline(never)]
    fn lower_mss_of_syn(&self, peer: &Peer, packet: &mut [u8]) {
        if self.core.policies.get(Policy::MssClamp) != 0 {
            let lowered = mss::lower(packet, self.mtu_to(peer));
            self.counters.add(Counter::MssLowered, lowered.into());
        }
    }

    /// Decides about a packet that is longer than its path takes: it is sent all the same, or its sender told.
    ///
    /// Of it there are the pieces: lent, every packet would have to be in memory.
    ///
    /// # Errors
    ///
    /// [`Discard::Oversize`] if the adapter lets none of this length pass, [`Discard::TooBig`] if the path does not.
    #[cold]
    #[inline(never)]
    pub(super) fn hold_to_mtu(
        &self,
        pieces: Pieces<'_>,
        len: usize,
        mtu: PathMtu,
        now: Now,
    ) -> Result<(), Discard> {
        let mut head = [0; FRONT_LEN];
        let seen = pieces.clone().copy_to(0, &mut head);
        let head = head.get(..seen).unwrap_or_default();
        self.judge_length(head, len, mtu, now, |to| pieces.copy_to(0, to))
    }

    /// The same for the segments of a packet, which are datagrams of UDP.
    #[cold]
    #[inline(never)]
    pub(super) fn hold_segments_to_mtu(
        &self,
        packet: &TxPacket<'_>,
        whole: &SuperPacket,
        mtu: PathMtu,
        now: Now,
    ) -> Result<(), Discard> {
        let Some(first) = whole.segment(0) else { return Ok(()) };
        let quote = |to: &mut [u8]| {
            let (headers, payload) = to.split_at_mut(first.headers().len().min(to.len()));
            headers.iter_mut().zip(first.headers()).for_each(|(place, byte)| *place = *byte);
            headers.len().saturating_add(packet.copy_to(first.payload().start, payload))
        };
        let len = first.byte_count();
        self.judge_length(first.headers(), len, mtu, now, quote)
    }

    fn judge_length(
        &self,
        front: &[u8],
        len: usize,
        mtu: PathMtu,
        now: Now,
        quote: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), Discard> {
        // What is cut may be longer, and so NetAdapterCx lets everything pass that is.
        let reason = if len > mtu.adapter() { Discard::Oversize } else { Discard::TooBig };
        let may_be = mtu.of(front.first().is_some_and(|first| first >> 4 == 6));
        let cut = reason == Discard::TooBig && (len <= may_be || may_be_cut(front));
        if cut {
            self.counters.add(Counter::OversizeCut, 1);
            return Ok(());
        }
        if !may_be_cut(front) {
            let told = self.tell_too_big(front, len, may_be, now, quote).is_some();
            let counter = if told { Counter::TooBigTold } else { Counter::TooBigUntold };
            self.counters.add(counter, 1);
        }
        Err(reason)
    }

    /// Tells the sender of a packet how long it may be; `None` if it is not told.
    fn tell_too_big(
        &self,
        front: &[u8],
        len: usize,
        may_be: usize,
        now: Now,
        quote: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<()> {
        let mut buffer = self.core.buffers.take()?;
        buffer.set_len(MOST_BYTES);
        let bytes = answer(front, len, may_be, buffer.as_mut_slice(), quote)?;
        if !self.answers.may_follow(now.monotonic.0) {
            return None;
        }
        buffer.set_len(bytes);
        self.adapter.rx().open(0, 1)?.push(buffer).ok()?;
        self.counters.add(Counter::PacketsIn, 1);
        self.counters.add(Counter::BytesIn, bytes);
        Some(())
    }
}
