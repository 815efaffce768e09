//! Datagrams that arrived together, by whichever path.
//!
//! The socket indicates lists, the callouts hand over batches of what they took from the stack; who
//! receives them need not know which, nor whether some came as one. Order is that in which either path handed them over. Their
//! bytes stay where the network adapter put them until they are dropped, which should be soon.

use core::net::SocketAddr;

use abi::discard::Discard;
use nt::{mdl::MdlChain, wsk};

use crate::{
    absorb::{Batch, BatchIter, discarded},
    control_messages::Arrival,
    endpoint::{Local, decode},
    parts::{Parts, PartsIter},
};

/// Datagrams that arrived together; given back on drop, all at once.
#[must_use = "dropping gives the datagrams back unread"]
pub struct Datagrams {
    source: Source,
    sequence: Sequence,
}

/// Which of several lists that arrived together a list is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Lists before it.
    pub before: usize,
    /// Whether others follow at once.
    pub more: bool,
}

enum Source {
    Socket(wsk::Datagrams),
    /// Of one of a socket's.
    Parts(Parts),
    Callout(Batch),
}

impl Datagrams {
    const fn of(source: Source) -> Self {
        Self { source, sequence: Sequence { before: 0, more: false } }
    }

    /// The same, as one of several lists.
    pub(crate) fn in_sequence(self, sequence: Sequence) -> Self {
        Self { source: self.source, sequence }
    }

    /// Which of several lists that arrived together it is: what is done with one may depend on whether there is
    /// more to do.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        self.sequence
    }

    pub(crate) const fn of_socket(datagrams: wsk::Datagrams) -> Self {
        Self::of(Source::Socket(datagrams))
    }

    pub(crate) const fn of_parts(parts: Parts) -> Self {
        Self::of(Source::Parts(parts))
    }

    pub(crate) const fn of_callout(batch: Batch) -> Self {
        Self::of(Source::Callout(batch))
    }

    /// An empty list of the same source, to move datagrams to; `None` if that is closing.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn split(&self) -> Option<Self> {
        match &self.source {
            Source::Socket(datagrams) => datagrams.split().map(Self::of_socket),
            Source::Parts(parts) => Some(Self::of_parts(parts.split())),
            Source::Callout(batch) => batch.split().map(Self::of_callout),
        }
    }

    /// Whether the first of `others`, a list of the same source, may be moved to the end of this one: parts
    /// of one datagram only where they follow each other.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn is_continued_by(&self, others: &Self) -> bool {
        match (&self.source, &others.source) {
            (Source::Parts(parts), Source::Parts(others)) => parts.is_continued_by(others),
            _ => true,
        }
    }

    /// Moves the first datagram to the end of `to`, a list of the same source; false if there is
    /// none, or it does not continue `to`.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn move_first(&mut self, to: &mut Self) -> bool {
        match (&mut self.source, &mut to.source) {
            (Source::Socket(datagrams), Source::Socket(to)) => datagrams.move_first(to),
            (Source::Parts(parts), Source::Parts(to)) => parts.move_first(to),
            (Source::Callout(batch), Source::Callout(to)) => batch.move_first(to),
            _ => false,
        }
    }

    /// Is done with the first datagram, which goes back with those in `seen`, a list of the same source, or
    /// with the whole it is a part of; false if there is none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn set_aside_first(&mut self, seen: &mut Self) -> bool {
        match &mut self.source {
            Source::Parts(parts) => parts.drop_first(),
            Source::Socket(_) | Source::Callout(_) => self.move_first(seen),
        }
    }

    /// How many there are.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.source {
            Source::Socket(datagrams) => datagrams.len(),
            Source::Parts(parts) => parts.len(),
            Source::Callout(batch) => batch.len(),
        }
    }

    /// Whether there are none.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first datagram, or why it cannot be read; `None` if there is none.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn first(&self) -> Option<Result<Datagram<'_>, Discard>> {
        self.iter().next()
    }

    /// The datagrams, in order; in place of one that cannot be read, why, to be counted.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn iter(&self) -> impl Iterator<Item = Result<Datagram<'_>, Discard>> + Clone {
        match &self.source {
            Source::Socket(datagrams) => Entries::Socket(datagrams.iter()),
            Source::Parts(parts) => Entries::Parts(parts.iter()),
            Source::Callout(batch) => Entries::Callout(batch.iter()),
        }
    }
}

/// The datagrams of whichever source.
#[derive(Clone)]
enum Entries<'d> {
    Socket(wsk::DatagramsIter<'d>),
    Parts(PartsIter<'d>),
    Callout(BatchIter<'d>),
}

impl<'d> Iterator for Entries<'d> {
    type Item = Result<Datagram<'d>, Discard>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Socket(datagrams) => datagrams.next().map(|datagram| Datagram::read(&datagram)),
            Self::Parts(parts) => parts.next(),
            Self::Callout(batch) => batch.next(),
        }
    }
}

/// One datagram that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'d> {
    /// Its bytes, in pieces.
    pub payload: MdlChain<'d>,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Which of our addresses it was sent to, if the system tells.
    pub local: Option<Local>,
    /// Its ECN bits; 0 where the system does not tell.
    pub ecn: u8,
}

impl<'d> Datagram<'d> {
    /// Reads everything about a datagram of a socket.
    pub(crate) fn read(datagram: &wsk::Datagram<'d>) -> Result<Self, Discard> {
        let payload = datagram.payload().map_err(discarded)?;
        let remote = decode(datagram.remote()).ok_or(Discard::MalformedMessage)?;
        let Arrival { local, ecn, .. } = Arrival::read(datagram.control());
        Ok(Self { payload, remote, local, ecn })
    }
}
