//! Received datagrams, held until they are released to WSK.
//!
//! WSK indicates a list. Whoever answers `STATUS_PENDING` owns all of it and gives it back with
//! `WskRelease`, from any thread, in whatever parts, and before the socket closes; answering
//! otherwise leaves all of it with WSK. [`Datagrams`] is such a list once it was decided to own it,
//! or a part of one: datagrams move from list to list ([`Datagrams::move_first`]), and each list is
//! released with one call. While a list is held its socket cannot close, so who holds one for long
//! holds up the driver.
//!
//! Source: wsk/nc-wsk-pfn_wsk_receive_from_event, wsk/ns-wsk-_wsk_datagram_indication,
//! wsk/nc-wsk-pfn_wsk_release_datagram_indication_list.

use core::{
    iter::FusedIterator,
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
};

use super::{AF_INET, AF_INET6, socket::Core};
use crate::{
    mdl::{ChainError, MdlChain},
    sys::wsk::WSK_DATAGRAM_INDICATION,
};

/// A list of datagrams of one socket, released to WSK on drop.
///
/// # Invariants
///
/// The `count` nodes from `first` to `last` were indicated by WSK for the socket of `core` and are
/// owned by this value; `first` is `None` exactly when there are none. `core` counts them among
/// those held, and this value among the calls in progress.
#[must_use = "dropping releases the datagrams unread"]
#[derive(Debug)]
pub struct Datagrams {
    first: Option<NonNull<WSK_DATAGRAM_INDICATION>>,
    last: Option<NonNull<WSK_DATAGRAM_INDICATION>>,
    count: usize,
    core: NonNull<Core>,
}

// SAFETY: WSK lets a list be read and released from any thread; `Core` is shared by all of them.
unsafe impl Send for Datagrams {}
// SAFETY: a shared list is only read.
unsafe impl Sync for Datagrams {}

impl Datagrams {
    /// Takes over a list that was counted in `core`.
    ///
    /// # Safety
    ///
    /// The type invariant holds, and the caller answers WSK with `STATUS_PENDING`.
    pub(super) unsafe fn from_raw(
        first: NonNull<WSK_DATAGRAM_INDICATION>,
        last: NonNull<WSK_DATAGRAM_INDICATION>,
        count: usize,
        core: NonNull<Core>,
    ) -> Self {
        // INVARIANT: promised by the caller.
        Self { first: Some(first), last: Some(last), count, core }
    }

    /// An empty list of the same socket, to move datagrams to; `None` if the socket is closing.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn split(&self) -> Option<Self> {
        // SAFETY: by the type invariant this list is counted in `core`, which is kept by that.
        let core = unsafe { self.core.as_ref() };
        // Lazily: a list that is made is one that was counted, for dropping it ends that.
        core.enter().then(|| Self { first: None, last: None, count: 0, core: self.core })
    }

    /// Moves the first datagram to the end of `to`; false if there is none, or `to` is not of the same
    /// socket.
    ///
    /// # IRQL
    ///
    /// Any.
    pub fn move_first(&mut self, to: &mut Self) -> bool {
        let Some(node) = self.first.filter(|_| self.core == to.core) else { return false };
        // SAFETY: by the type invariant the node is ours alone; the links of a list that is held are
        // its owner's to change.
        let next = unsafe { core::mem::replace(&mut (*node.as_ptr()).Next, ptr::null_mut()) };
        self.first = NonNull::new(next);
        if self.first.is_none() {
            self.last = None;
        }
        self.count = self.count.saturating_sub(1);
        match to.last.replace(node) {
            // SAFETY: the other list's node, which is borrowed mutably with it.
            Some(last) => unsafe { (*last.as_ptr()).Next = node.as_ptr() },
            None => to.first = Some(node),
        }
        to.count = to.count.saturating_add(1);
        true
    }

    /// How many there are.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The datagrams, in the order they were indicated or moved here.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn iter(&self) -> DatagramsIter<'_> {
        DatagramsIter { next: self.first, list: PhantomData }
    }
}

impl<'d> IntoIterator for &'d Datagrams {
    type Item = Datagram<'d>;
    type IntoIter = DatagramsIter<'d>;

    fn into_iter(self) -> DatagramsIter<'d> {
        self.iter()
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        // SAFETY: by the type invariant `core` is kept by the call that is counted in it, which
        // `release` ends, and the list is ours to give back.
        unsafe { Core::release(self.core, self.first, self.count) };
    }
}

/// The last node of a list, and how many there are.
///
/// # Safety
///
/// `first` is the head of a list that nobody changes meanwhile.
pub(super) unsafe fn measure(
    first: NonNull<WSK_DATAGRAM_INDICATION>,
) -> (NonNull<WSK_DATAGRAM_INDICATION>, usize) {
    let (mut last, mut count) = (first, 1);
    // SAFETY: promised by the caller.
    while let Some(next) = NonNull::new(unsafe { last.as_ref() }.Next) {
        last = next;
        count += 1;
    }
    (last, count)
}

/// The datagrams of a list.
#[derive(Clone, Debug)]
pub struct DatagramsIter<'d> {
    next: Option<NonNull<WSK_DATAGRAM_INDICATION>>,
    list: PhantomData<&'d Datagrams>,
}

impl<'d> Iterator for DatagramsIter<'d> {
    type Item = Datagram<'d>;

    fn next(&mut self) -> Option<Datagram<'d>> {
        let here = self.next?;
        // SAFETY: by the invariant of `Datagrams`, which is borrowed for `'d`, the whole list is
        // owned and not changed.
        let indication = unsafe { here.as_ref() };
        self.next = NonNull::new(indication.Next);
        Some(Datagram { indication })
    }
}

impl FusedIterator for DatagramsIter<'_> {}

/// One received datagram.
#[derive(Clone, Copy)]
pub struct Datagram<'d> {
    indication: &'d WSK_DATAGRAM_INDICATION,
}

impl<'d> Datagram<'d> {
    /// Its bytes, mapped.
    ///
    /// # Errors
    ///
    /// See [`ChainError`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn payload(&self) -> Result<MdlChain<'d>, ChainError> {
        let buffer = &self.indication.Buffer;
        // SAFETY: WSK's chain of locked lists, which stays as it is until the indication is
        // released; that is after `'d`, for which the list is borrowed.
        unsafe { MdlChain::map(buffer.Mdl, buffer.Offset, buffer.Length) }
    }

    /// Its control messages; empty when there are none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn control(&self) -> &'d [u8] {
        let length = self.indication.ControlInfoLength as usize;
        NonNull::new(self.indication.ControlInfo.cast_mut()).map_or(&[], |control| {
            // SAFETY: WSK gives that many bytes, which live as long as the indication, and does
            // not change them.
            unsafe { slice::from_raw_parts(control.as_ptr(), length) }
        })
    }

    /// The `SOCKADDR` it came from, as long as its family says; empty when there is none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn remote(&self) -> &'d [u8] {
        let Some(address) = NonNull::new(self.indication.RemoteAddress.cast_mut()) else {
            return &[];
        };
        // SAFETY: every SOCKADDR begins with its family, an ADDRESS_FAMILY of two bytes; the
        // address lives as long as the indication.
        let family = unsafe { address.cast::<u16>().read_unaligned() };
        let length = match family {
            AF_INET => SOCKADDR_IN_LEN,
            AF_INET6 => SOCKADDR_IN6_LEN,
            _ => return &[],
        };
        // SAFETY: an address of that family has that many bytes; see above for how long.
        unsafe { slice::from_raw_parts(address.as_ptr(), length) }
    }
}

/// Size of a `SOCKADDR_IN`.
const SOCKADDR_IN_LEN: usize = 16;
/// Size of a `SOCKADDR_IN6`.
const SOCKADDR_IN6_LEN: usize = 28;
