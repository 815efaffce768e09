//! Run buffers: up to 32 datagrams for one destination, sealed in place and sent by one call.
//!
//! A datagram is written once, into the buffer it leaves from; everything the call needs is in the
//! same block, made when the pool is made. Three sizes keep a lone handshake from holding 64 KiB
//! until the network adapter is done with it. A run that is dropped goes back to its pool, whether
//! it was sent or not. Any thread, `<= DISPATCH_LEVEL`, but for making and dropping the pool.

use abi::{descriptor::Places, places};
use nt::{
    irql::Passive,
    status::NtError,
    wsk::{SendPool, SendRequest},
};

use crate::run_layout::{Class, HEAD_ROOM, Layout, place};

/// How many runs of each size a pool makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunCaps {
    /// Runs of one datagram, 2 KiB each.
    pub singles: usize,
    /// Runs of four datagrams, 8 KiB each.
    pub fews: usize,
    /// Runs of 32 datagrams, 64 KiB each.
    pub fulls: usize,
}

impl RunCaps {
    /// 10 MiB: enough to keep 4,096 datagrams with the network adapter.
    pub const DRIVER: Self = Self { singles: 512, fews: 128, fulls: 128 };
}

/// All the runs of the driver.
///
/// Dropping it waits, at `PASSIVE_LEVEL`, until every run is back; the sockets that may be sending
/// one are closed before.
pub struct RunPool {
    singles: SendPool,
    fews: SendPool,
    fulls: SendPool,
}

impl RunPool {
    /// For a debugger: a pool of [`RunCaps::DRIVER`].
    pub const PLACES: Places = places!(
        "RunPool",
        singles,
        fews,
        fulls,
        singles_made = RunCaps::DRIVER.singles,
        fews_made = RunCaps::DRIVER.fews,
        fulls_made = RunCaps::DRIVER.fulls,
    );

    /// Makes all runs: from then on sending needs no memory.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`]; nothing is left behind.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn new(level: &Passive, caps: RunCaps) -> Result<Self, NtError> {
        Ok(Self {
            singles: SendPool::new(level, caps.singles, Class::Single.capacity())?,
            fews: SendPool::new(level, caps.fews, Class::Few.capacity())?,
            fulls: SendPool::new(level, caps.fulls, Class::Full.capacity())?,
        })
    }

    /// Takes a run for `packets` datagrams of `bytes` in all, that will lie as `layout` says.
    ///
    /// When there is no such size, the largest: then [`Run::push`] says when it is full. When all
    /// runs of the size are away, a larger one; `None` when those are away, too.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn take(&self, packets: usize, bytes: usize, layout: Layout) -> Option<Run> {
        let request = match Class::for_datagrams(packets, bytes) {
            Class::Single => {
                self.singles.take().or_else(|| self.fews.take()).or_else(|| self.fulls.take())
            }
            Class::Few => self.fews.take().or_else(|| self.fulls.take()),
            Class::Full => self.fulls.take(),
        }?;
        Some(Run { request, layout, end: 0, bytes: 0 })
    }

    /// How many full runs can be taken now.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn full_runs(&self) -> usize {
        self.fulls.available()
    }
}

/// Up to 32 datagrams for one destination.
#[must_use = "dropping a run discards its datagrams uncounted"]
pub struct Run {
    request: SendRequest,
    layout: Layout,
    /// Where the last datagram ends.
    end: usize,
    /// Bytes of all datagrams.
    bytes: usize,
}

impl Run {
    /// Adds a datagram of `length` bytes, to be written by the caller: they are whatever was there.
    ///
    /// `None` when there is no room for it, or 32 datagrams are there already; nothing changes.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn push(&mut self, length: usize) -> Option<&mut [u8]> {
        let (offset, end) = place(self.end, length, self.request.capacity(), self.layout)?;
        self.request.push(offset, length).ok()?;
        self.end = end;
        self.bytes = self.bytes.saturating_add(length);
        self.request.bytes_mut().get_mut(offset..end)
    }

    /// The datagrams, in order, to write: all of them at once, for a cipher that works on many.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.request.datagrams_mut()
    }

    /// How many datagrams there are.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.request.message_count()
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all datagrams.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes what `header` makes of each datagram right before it, into its head room.
    ///
    /// `None` when it makes nothing of one of them, or one has no such room; headers may have been written
    /// by then, and the datagrams are as they were.
    pub(crate) fn write_headers<const N: usize>(
        &mut self,
        header: impl Fn(&[u8]) -> Option<[u8; N]>,
    ) -> Option<()> {
        const { assert!(N <= HEAD_ROOM) };
        let mut end = 0;
        for at in 0..self.len() {
            let message = self.request.messages().nth(at);
            let (offset, length) = message?;
            // Not over the end of the one before.
            offset.checked_sub(end).filter(|room| *room >= HEAD_ROOM)?;
            end = offset.saturating_add(length);
            let bytes = self.request.bytes_mut();
            let (before, datagram) = bytes.split_at_mut_checked(offset)?;
            let made = header(datagram.get(..length)?)?;
            before.last_chunk_mut::<N>()?.copy_from_slice(&made);
        }
        Some(())
    }

    /// A run of what was to be sent, and was not.
    pub(crate) fn from_request(request: SendRequest) -> Self {
        let (end, bytes) = request.messages().fold((0, 0), |(_, bytes), (offset, length)| {
            (offset.saturating_add(length), length.saturating_add(bytes))
        });
        // It had room for headers.
        Self { request, layout: Layout::Apart, end, bytes }
    }

    /// The length of the longest datagram, if the stack may be given several as one and cut them apart
    /// into pieces of that length.
    pub(crate) fn segment(&self) -> Option<u32> {
        let longest = self.request.messages().map(|(_, length)| length).max();
        longest
            .filter(|_| self.layout == Layout::Joined)
            .and_then(|longest| longest.try_into().ok())
    }

    /// What is sent.
    pub(crate) fn into_request(self) -> SendRequest {
        self.request
    }
}
