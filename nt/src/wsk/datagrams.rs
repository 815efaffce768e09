//! Received datagrams, held until they are released to WSK.
//!
//! WSK indicates a list. Whoever answers `STATUS_PENDING` owns all of it and gives it back with
//! `WskRelease`, from any thread and before the socket closes; answering otherwise leaves all of it
//! with WSK. [`Datagrams`] is the list once it was decided to own it. It is released as a whole,
//! with one call. While a list is held its socket cannot close, so who holds one for long holds up
//! the driver.
//!
//! Source: wsk/nc-wsk-pfn_wsk_receive_from_event, wsk/ns-wsk-_wsk_datagram_indication.

use core::{iter::FusedIterator, marker::PhantomData, ptr::NonNull, slice};

use super::{AF_INET, AF_INET6, socket::Core};
use crate::{
    mdl::{ChainError, MdlChain},
    sys::wsk::WSK_DATAGRAM_INDICATION,
};

/// A list of datagrams of one socket, released to WSK on drop.
///
/// # Invariants
///
/// `first` is the head of a list that WSK indicated for the socket of `core` and that this value
/// owns; `core` counts it: its `count` among those held, and itself among the calls in progress.
#[must_use = "dropping releases the datagrams unread"]
#[derive(Debug)]
pub struct Datagrams {
    first: NonNull<WSK_DATAGRAM_INDICATION>,
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
        count: usize,
        core: NonNull<Core>,
    ) -> Self {
        // INVARIANT: promised by the caller.
        Self { first, count, core }
    }

    /// How many there are; at least one.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a list is never empty")]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// The datagrams, in WSK's order.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn iter(&self) -> DatagramsIter<'_> {
        DatagramsIter { next: Some(self.first), list: PhantomData }
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
