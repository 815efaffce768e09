//! The adapter's log: lines for whoever reads them with READ_LOG_LINE, and for a debugger.
//!
//! The newest lines are kept; when nobody reads, the oldest go. A reader's request waits in a queue
//! of the framework's, which cancels it when its caller gives up. Lines are for what happens to an
//! adapter, never for a packet: an attacker must not be able to write here. `<= DISPATCH_LEVEL`.

use alloc::collections::VecDeque;
use core::fmt::{self, Write};

use abi::ioctl::{LOG_ENTRY_LEN, LOG_TEXT_LEN, UNIX_EPOCH_FILETIME};
use crypto::sync::SpinLock;
use nt::{
    irql::AtMostDispatch,
    status::NtError,
    trace,
    wdf::{Queue, Request},
};

use crate::ground::At;

/// Lines that are kept for a reader.
const KEPT: usize = 32;

/// How much a line matters; the digit it begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// Something does not work.
    Error = b'1' as isize,
    /// Something is not as it was meant, and goes on.
    Warning = b'2' as isize,
    /// Something happened.
    Info = b'3' as isize,
}

/// A `WG_IOCTL_LOG_ENTRY`.
type Entry = [u8; LOG_ENTRY_LEN];

/// The log of one adapter.
#[derive(Default)]
pub(crate) struct Log {
    lines: SpinLock<VecDeque<Entry>>,
    readers: SpinLock<Option<Queue>>,
}

impl Log {
    /// Lets readers wait in `queue`.
    pub(crate) fn open(&self, level: &AtMostDispatch, queue: Queue) {
        self.readers.with(&At(level), |readers| *readers = Some(queue));
    }

    /// Forgets the queue, whose device is going; the framework has cancelled who waited in it.
    pub(crate) fn close(&self, level: &AtMostDispatch) {
        self.readers.with(&At(level), |readers| *readers = None);
    }

    /// Adds a line.
    pub(crate) fn line(&self, level: &AtMostDispatch, weight: Level, text: fmt::Arguments<'_>) {
        match weight {
            Level::Error => trace!(Error, "{text}"),
            Level::Warning => trace!(Warning, "{text}"),
            Level::Info => trace!(Info, "{text}"),
        }
        let entry = entry(weight, text);
        self.lines.with(&At(level), |lines| {
            if lines.len() >= KEPT {
                lines.pop_front();
            }
            // Without memory for it the line is only in the debugger's output.
            if lines.try_reserve(1).is_ok() && lines.len() < lines.capacity() {
                lines.push_back(entry);
            }
        });
        self.answer(level);
    }

    /// Takes a reader's request.
    pub(crate) fn read(&self, level: &AtMostDispatch, request: Request) {
        let queue = self.readers.with(&At(level), |readers| *readers);
        match queue.ok_or(NtError::DELETE_PENDING) {
            Ok(queue) => match request.forward(queue) {
                Ok(()) => self.answer(level),
                Err((request, error)) => request.complete(Err(error), 0),
            },
            Err(error) => request.complete(Err(error), 0),
        }
    }

    /// Gives lines to readers, as long as there are both.
    fn answer(&self, level: &AtMostDispatch) {
        while let Some(queue) = self.readers.with(&At(level), |readers| *readers) {
            if self.lines.with(&At(level), |lines| lines.is_empty()) {
                return;
            }
            let Some(mut request) = queue.retrieve() else { return };
            match self.lines.with(&At(level), |lines| lines.pop_front()) {
                Some(entry) => {
                    let written = request.output().and_then(|mut out| out.write(&entry));
                    request.complete(written, LOG_ENTRY_LEN);
                }
                // Another reader was quicker: back into the queue, or to the caller if it is closed.
                None => {
                    if let Err((request, error)) = request.forward(queue) {
                        request.complete(Err(error), 0);
                    }
                }
            }
        }
    }
}

/// Formats a line as it is read: a FILETIME, the level's digit, the text, zeros to the end.
fn entry(weight: Level, text: fmt::Arguments<'_>) -> Entry {
    struct Text<'e> {
        rest: &'e mut [u8],
    }
    impl Write for Text<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let rest = core::mem::take(&mut self.rest);
            let count = text.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(text.as_bytes().get(..count).unwrap_or_default());
            self.rest = later;
            Ok(())
        }
    }
    let mut entry = [0; LOG_ENTRY_LEN];
    let filetime = nt::time::to_100ns(nt::time::wall()).saturating_add(UNIX_EPOCH_FILETIME);
    if let Some((time, line)) = entry.split_first_chunk_mut::<8>() {
        *time = filetime.to_le_bytes();
        // The last byte stays the terminating NUL.
        if let Some((digit, rest)) =
            line.get_mut(..LOG_TEXT_LEN - 1).and_then(<[u8]>::split_first_mut)
        {
            *digit = weight as u8;
            let _ = Text { rest }.write_fmt(text);
        }
    }
    entry
}
