//! A datagram of a socket that is several: cut apart where it lies, and given back when the last is done with.
//!
//! Before it is cut its parts are looked at (`coalesced`). If one of them cannot be a message although the first is
//! transport data of a session of ours, whoever put it together has it wrong: all of it goes, and the adapter asks
//! for no more. If the first is not, then anybody may have sent it, and nothing follows: what can be cut is, and
//! each part is judged as if it had come alone.
//!
//! `<= DISPATCH_LEVEL`.

use core::ops::Range;

use abi::discard::Discard;
use nt::{
    mdl::MdlChain,
    shared::Shared,
    wsk::{self, Datagram as Indication},
};

use crate::{
    coalesced::{HEADER_LEN, Whole, is_message, receiver},
    control_messages::Arrival,
    datagrams::Datagram,
};

/// What is to be done with a datagram of a socket that may be several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is one, or is to be treated as one.
    Whole,
    /// It is cut into parts of so many bytes.
    Cut(usize),
    /// It cannot be cut: all of it goes. Whether it begins as transport data of a session of ours: then
    /// whoever put it together has it wrong.
    Discarded(bool),
}

impl Fate {
    /// Judges a datagram; `has_session` says whether a session has a receiver index.
    pub(crate) fn of(datagram: &Indication<'_>, has_session: impl Fn(u32) -> bool) -> Self {
        // What cannot be read is counted by whoever tries.
        let Ok(payload) = datagram.payload() else { return Self::Whole };
        let said = Arrival::read(datagram.control()).segment.map(|bytes| bytes as usize);
        let whole = Whole::of(payload.len(), said);
        if whole == Whole::One {
            return Self::Whole;
        }
        if let Whole::Several(size) = whole
            && are_messages(&payload, size)
        {
            return Self::Cut(size);
        }
        let ours = receiver_of(&payload).is_some_and(has_session);
        match whole {
            Whole::Several(size) if !ours => Self::Cut(size),
            _ => Self::Discarded(ours),
        }
    }
}

fn header(payload: &MdlChain<'_>) -> Option<[u8; HEADER_LEN]> {
    let mut header = [0; HEADER_LEN];
    (payload.copy_to(&mut header) == HEADER_LEN).then_some(header)
}

fn receiver_of(payload: &MdlChain<'_>) -> Option<u32> {
    header(payload).as_ref().and_then(receiver)
}

/// Whether all the parts of `size` bytes can be messages.
fn are_messages(payload: &MdlChain<'_>, size: usize) -> bool {
    cut(*payload, size).all(|part| header(&part).is_some_and(|head| is_message(&head, part.len())))
}

/// The parts of `size` bytes, the last perhaps shorter.
fn cut(payload: MdlChain<'_>, size: usize) -> impl Iterator<Item = MdlChain<'_>> + Clone {
    let mut rest = payload;
    core::iter::from_fn(move || {
        let length = size.min(rest.len());
        let part = rest.part(0, length).filter(|part| !part.is_empty())?;
        rest = rest.part(length, rest.len().saturating_sub(length))?;
        Some(part)
    })
}

/// Parts of one datagram, that follow each other. It is given back with the last list of its parts.
pub(crate) struct Parts {
    whole: Shared<Cut>,
    range: Range<usize>,
}

/// A datagram that is cut apart.
struct Cut {
    datagram: wsk::Datagrams,
    size: usize,
}

impl Parts {
    /// All parts of the one datagram of a list.
    ///
    /// # Errors
    ///
    /// Why there are none, and how many there would have been.
    pub(crate) fn try_new(datagram: wsk::Datagrams, size: usize) -> Result<Self, (Discard, usize)> {
        let length = datagram.iter().next().and_then(|datagram| datagram.payload().ok());
        let count = length.map_or(1, |payload| payload.len().div_ceil(size.max(1)));
        let whole = Shared::try_new(Cut { datagram, size });
        let whole = whole.map_err(|_| (Discard::OutOfMemory, count))?;
        Ok(Self { whole, range: 0..count })
    }

    /// None of its parts.
    pub(crate) fn split(&self) -> Self {
        Self { whole: self.whole.clone(), range: 0..0 }
    }

    /// Whether the first of `others`, of the same datagram, follows the last of these.
    pub(crate) fn is_continued_by(&self, others: &Self) -> bool {
        self.range.is_empty() || self.range.end == others.range.start
    }

    /// Moves the first part to the end of `to`, which it has to follow; false if it does not, or there is none.
    pub(crate) fn move_first(&mut self, to: &mut Self) -> bool {
        if !Shared::ptr_eq(&self.whole, &to.whole) || !to.is_continued_by(self) {
            return false;
        }
        let Some(first) = self.range.next() else { return false };
        let begin = if to.range.is_empty() { first } else { to.range.start };
        to.range = begin..first.saturating_add(1);
        true
    }

    /// Is done with the first part; false if there is none.
    pub(crate) fn drop_first(&mut self) -> bool {
        self.range.next().is_some()
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.range.end.saturating_sub(self.range.start)
    }

    /// The parts, in order.
    pub(crate) fn iter(&self) -> PartsIter<'_> {
        let Cut { datagram, size } = &*self.whole;
        let all = datagram.iter().next().map(|datagram| Datagram::read(&datagram));
        let skipped = self.range.start.saturating_mul(*size);
        let all = all.unwrap_or(Err(Discard::MalformedMessage)).and_then(|all| {
            let rest = all.payload.len().saturating_sub(skipped);
            let payload = all.payload.part(skipped, rest).ok_or(Discard::MalformedMessage)?;
            Ok(Datagram { payload, ..all })
        });
        PartsIter { rest: all, size: *size, left: self.len() }
    }
}

/// Parts of a datagram.
#[derive(Clone)]
pub(crate) struct PartsIter<'p> {
    /// What is left of the whole.
    rest: Result<Datagram<'p>, Discard>,
    size: usize,
    left: usize,
}

impl<'p> Iterator for PartsIter<'p> {
    type Item = Result<Datagram<'p>, Discard>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let rest = match &mut self.rest {
            Ok(rest) => rest,
            Err(reason) => return Some(Err(*reason)),
        };
        let length = self.size.min(rest.payload.len());
        let part = rest.payload.part(0, length)?;
        let behind = rest.payload.len().saturating_sub(length);
        let behind = rest.payload.part(length, behind)?;
        let part = Datagram { payload: part, ..*rest };
        rest.payload = behind;
        Some(Ok(part))
    }
}
