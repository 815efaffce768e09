//! The capture of an adapter's packets: what its taps copy, until whoever opened it reads that, or goes.
//!
//! A tap asks [`Capture::wants`] once a chunk, which is one load; all else is there only while a capture is open. Then there are two
//! buffers of nonpaged memory: taps write to the one, packet by packet under a spin lock, and a reader takes it and puts the other in
//! its place, so that nothing is copied for him with a lock held. Nobody waits here: what has no room is counted and forgotten.
//!
//! A capture is of the file it was opened with, and ends when that is closed, or with the device.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::capture::{ANSWER_HEAD_LEN, Count, Counts, Head, OUTER, Start, answer_head, record_len};
use crypto::sync::{Ground, SpinLock};
use nt::{
    status::NtError,
    time::{to_100ns, wall},
    wdf::File,
};

const SECOND_100NS: u64 = 10_000_000;

/// What an adapter's taps copy to.
#[derive(Default)]
pub(crate) struct Capture {
    /// What is wanted, as in [`Start`]; 0 while there is no capture.
    wanted: AtomicU32,
    open: SpinLock<Option<Open>>,
}

/// One that is open.
struct Open {
    file: File,
    start: Start,
    filling: Buffer,
    /// The other one, unless a reader has it.
    spare: Option<Buffer>,
    counts: Counts,
    /// Which second it is, and how many packets may still be taken in it.
    second: u64,
    left: u32,
}

/// Room for one answer: its head, and records behind it.
struct Buffer {
    bytes: Vec<u8>,
    /// How many of them there are, with the head.
    used: usize,
}

impl Buffer {
    fn try_new(start: &Start) -> Result<Self, NtError> {
        let (mut bytes, len) = (Vec::new(), start.answer_len());
        bytes.try_reserve_exact(len).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        bytes.resize(len, 0);
        Ok(Self { bytes, used: ANSWER_HEAD_LEN })
    }

    /// The next bytes, so many; `None` if there is no room.
    fn take(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.used.checked_add(len)?;
        let taken = self.bytes.get_mut(self.used..end)?;
        self.used = end;
        Some(taken)
    }

    /// What there is, as an answer.
    fn answer(&mut self, counts: &Counts) -> &[u8] {
        let records = self.used.saturating_sub(ANSWER_HEAD_LEN);
        if let Some(head) = self.bytes.first_chunk_mut() {
            *head = answer_head(records, counts);
        }
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

impl Capture {
    /// Whether packets of this kind are wanted. Any IRQL.
    pub(crate) fn wants(&self, what: u32) -> bool {
        // Relaxed: a hint; the lock decides.
        self.wanted.load(Ordering::Relaxed) & what != 0
    }

    /// Opens a capture for `file`.
    ///
    /// # Errors
    ///
    /// [`NtError::DEVICE_BUSY`] if there is one, [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn open(
        &self,
        file: File,
        start: Start,
        ground: &impl Ground,
    ) -> Result<(), NtError> {
        let filling = Buffer::try_new(&start)?;
        let spare = Some(Buffer::try_new(&start)?);
        let (counts, second, left) = (Counts::default(), 0, 0);
        let open = Open { file, start, filling, spare, counts, second, left };
        // If there is one, ours is dropped with the lock given back.
        let refused = self.open.with(ground, |slot| {
            if slot.is_some() {
                return Some(open);
            }
            self.wanted.store(open.start.what, Ordering::Relaxed);
            *slot = Some(open);
            None
        });
        refused.map_or(Ok(()), |_open| Err(NtError::DEVICE_BUSY))
    }

    /// Ends the capture of `file`, or whosoever it is. `<= DISPATCH_LEVEL`.
    pub(crate) fn close(&self, file: Option<File>, ground: &impl Ground) {
        let closed = self.open.with(ground, |slot| {
            let closed = slot.take_if(|open| file.is_none_or(|file| open.file == file));
            if closed.is_some() {
                self.wanted.store(0, Ordering::Relaxed);
            }
            closed
        });
        // With the lock given back.
        drop(closed);
    }

    /// Takes a packet, if it is wanted: `copy` writes its first bytes, as many as it is given room for.
    ///
    /// `<= DISPATCH_LEVEL`.
    pub(crate) fn record(&self, head: &Head, ground: &impl Ground, copy: impl FnOnce(&mut [u8])) {
        self.open.with(ground, |slot| {
            let open = slot.as_mut().filter(|open| open.start.what & head.place.what() != 0);
            if let Some(open) = open {
                open.record(head, copy);
            }
        });
    }

    /// Takes what there is for `file`, as an answer, and has `read` do something with it.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_DEVICE_STATE`] if the capture is not its own, [`NtError::BUFFER_TOO_SMALL`] if an answer may be longer
    /// than `room`, [`NtError::DEVICE_BUSY`] while another reads, or what `read` says.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`; `read` is called at the caller's.
    pub(crate) fn read(
        &self,
        file: File,
        room: usize,
        ground: &impl Ground,
        read: impl FnOnce(&[u8]) -> Result<(), NtError>,
    ) -> Result<usize, NtError> {
        let (mut taken, counts) = self.open.with(ground, |slot| {
            let open = slot.as_mut().filter(|open| open.file == file);
            let open = open.ok_or(NtError::INVALID_DEVICE_STATE)?;
            if room < open.start.answer_len() {
                return Err(NtError::BUFFER_TOO_SMALL);
            }
            let spare = open.spare.take().ok_or(NtError::DEVICE_BUSY)?;
            Ok((core::mem::replace(&mut open.filling, spare), open.counts))
        })?;
        let done = read(taken.answer(&counts)).map(|()| taken.used);
        taken.used = ANSWER_HEAD_LEN;
        let mut taken = Some(taken);
        self.open.with(ground, |slot| {
            // The file is open as long as a request of its own is under way, and so is its capture.
            if let Some(open) = slot.as_mut().filter(|open| open.file == file) {
                open.spare = taken.take();
            }
        });
        done
    }
}

impl Open {
    fn record(&mut self, head: &Head, copy: impl FnOnce(&mut [u8])) {
        let captured = self.start.snap.min(head.original);
        let len = record_len(captured as usize);
        let in_time = self.is_in_time(head.time_100ns);
        let place = if in_time { self.filling.take(len) } else { None };
        let Counts { outer, inner } = &mut self.counts;
        let count: &mut Count = if head.place.what() == OUTER { outer } else { inner };
        count.seen = count.seen.saturating_add(1);
        let Some((encoded, packet)) = place.and_then(<[u8]>::split_first_chunk_mut) else {
            count.missed = count.missed.saturating_add(1);
            return;
        };
        self.left = self.left.saturating_sub(1);
        *encoded = head.encode(captured);
        // What is behind the packet, up to the next record, is of an older one.
        let (packet, padding) = packet.split_at_mut(packet.len().min(captured as usize));
        copy(packet);
        padding.fill(0);
    }

    /// Whether another packet may be taken in the second that a time is in.
    fn is_in_time(&mut self, time_100ns: u64) -> bool {
        let second = time_100ns / SECOND_100NS;
        if self.second != second {
            (self.second, self.left) = (second, self.start.per_second);
        }
        self.left != 0
    }
}

/// What time it is, as records tell it.
pub(crate) fn time_100ns() -> u64 {
    to_100ns(wall())
}
