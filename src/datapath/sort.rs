//! Inbound, first of all: what the datagrams of one indication are, and where each belongs.
//!
//! Transport data of one session is collected into a chunk, which is received when it is full or another
//! begins. What no session is for ends no chunk: strangers' datagrams between a peer's
//! would make many small ones of it. Everything else that could be a handshake message is set aside, and
//! looked at when the transport data that came with it is done with (`handshakes.rs`).

use abi::{discard::Discard, statistics::Counter};
use callout::{Datagram, Datagrams, Sequence};
use crypto::{
    aead::{TAG_LEN, Verdict},
    protocol::{
        Now,
        messages::{TRANSPORT_HEADER_LEN, Transport},
    },
    sync::Shared,
};
use netadapter::RxStash;
use nt::irql::AtMostDispatch;

use super::receive::{Opening, ReceiveWork, Receiving, endpoint};
use crate::{device::Device, ground::At, peer::Keypair};

/// What a datagram's first bytes say it is.
enum Kind {
    Transport { receiver: u32, counter: u64 },
    Handshake,
}

/// What became of a datagram that was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sorted {
    /// It is to be opened with the chunk being collected.
    Chunk,
    /// It may be a handshake message, and waits with those of this list.
    Message,
}

/// Sorts the datagrams of one indication: into chunks, which are received when they are full, and
/// handshake messages.
struct Sorter<'d> {
    device: &'d Shared<Device>,
    now: Now,
    level: &'d AtMostDispatch,
    buffers: RxStash<'d>,
    /// The chunk being collected.
    open: Receiving,
    /// What may be handshake messages.
    messages: Option<Datagrams>,
    /// How many chunks were dealt, or would have been.
    dealt: usize,
}

impl Sorter<'_> {
    /// Finds the first of `list` a place in the chunk being collected, in another, or among the handshake
    /// messages.
    fn sort(&mut self, list: &Datagrams, datagram: &Datagram<'_>) -> Result<Sorted, Discard> {
        let (receiver, counter) = match kind(datagram)? {
            Kind::Transport { receiver, counter } => (receiver, counter),
            Kind::Handshake => return self.expect_message(list),
        };
        let from = endpoint(datagram);
        let sender = self.open.as_mut().and_then(|work| {
            let continues = work.datagrams.as_ref().is_some_and(|own| own.is_continued_by(list));
            if continues && work.receiver == receiver { work.sender(&from) } else { None }
        });
        if sender.is_none() {
            let keypair = self.session(receiver)?;
            self.receive(true);
            let datagrams = list.split().ok_or(Discard::NotUp)?;
            self.open = Some(ReceiveWork::boxed(datagrams, receiver, keypair, from)?);
        }
        let opening = self.opening(datagram, counter, sender.unwrap_or(0));
        if let Some(work) = &mut self.open {
            // There is room: a full chunk was received above.
            let _ = work.packets.push(opening);
        }
        Ok(Sorted::Chunk)
    }

    /// The session that transport data for `receiver` is of.
    fn session(&self, receiver: u32) -> Result<Shared<Keypair>, Discard> {
        let Self { device, now, level, .. } = self;
        let keypair = device.core.indices.session(&At(level), receiver);
        let keypair = keypair.ok_or(Discard::UnknownReceiver)?;
        // The index table is the driver's: the session may be another adapter's.
        if keypair.peer().tunnel() != device.tunnel.number() {
            return Err(Discard::UnknownReceiver);
        }
        let usable = keypair.usable_for_receiving(now.monotonic);
        if usable { Ok(keypair) } else { Err(Discard::SessionExpired) }
    }

    /// Makes room for the first of `list` among the handshake messages.
    fn expect_message(&mut self, list: &Datagrams) -> Result<Sorted, Discard> {
        if self.messages.as_ref().is_some_and(|own| !own.is_continued_by(list)) {
            self.keep_messages();
        }
        if self.messages.is_none() {
            self.messages = Some(list.split().ok_or(Discard::NotUp)?);
        }
        Ok(Sorted::Message)
    }

    /// Keeps the handshake messages there are for a worker.
    fn keep_messages(&mut self) {
        if let Some(messages) = self.messages.take() {
            self.device.keep_messages(&messages, self.level);
        }
    }

    /// A place to open the datagram into, if there is a buffer that holds it.
    fn opening(&mut self, datagram: &Datagram<'_>, counter: u64, sender: u8) -> Opening {
        let datagram_len = datagram.payload.len();
        // The tag has to fit as well: a datagram in many pieces is put together in the buffer.
        let fits = datagram_len.saturating_sub(TRANSPORT_HEADER_LEN)
            <= self.device.core.buffers.buffer_bytes().get() as usize;
        let buffer = if fits { self.buffers.take() } else { None };
        if buffer.is_none() {
            self.device.counters.discard(Discard::NoBuffer, 1);
        }
        Opening {
            buffer,
            counter,
            datagram_len,
            sender,
            ecn: datagram.ecn,
            verdict: Verdict::Pending,
        }
    }

    /// Receives the chunk there is, if there is one; one that others follow may be dealt.
    fn receive(&mut self, others_follow: bool) {
        let Some(work) = self.open.take() else { return };
        let (device, now) = (self.device, self.now);
        let dealt = Some(&mut self.dealt).filter(|_| others_follow);
        // Once for all the locks of a chunk.
        self.level.pinned(|level| {
            Device::receive_chunk(device, work, dealt, now, level.at_most());
        });
    }
}

impl Device {
    /// Takes the datagrams of one indication.
    pub(crate) fn receive_batch(
        this: &Shared<Self>,
        mut datagrams: Datagrams,
        level: &AtMostDispatch,
    ) {
        let now = this.now();
        let (count, mut bytes) = (datagrams.len(), 0_usize);
        this.counters.add(Counter::DatagramsIn, count);
        if this.is_tapped_outside() {
            this.tap_arrived(&datagrams, level);
        }
        // Those that are not opened, to be given back together.
        let Some(mut seen) = datagrams.split() else {
            return this.counters.discard(Discard::NotUp, count);
        };
        let buffers = this.core.buffers.stash(count);
        let Sequence { before, more } = datagrams.sequence();
        let (open, messages, dealt) = (None, None, before);
        let mut sorter = Sorter { device: this, now, level, buffers, open, messages, dealt };
        while let Some(entry) = datagrams.first() {
            let sorted = entry.and_then(|datagram| {
                bytes = bytes.saturating_add(datagram.payload.len());
                sorter.sort(&datagrams, &datagram)
            });
            if let Err(reason) = sorted {
                this.counters.discard(reason, 1);
            }
            let to = match sorted {
                Ok(Sorted::Chunk) => sorter.open.as_mut().and_then(|work| work.datagrams.as_mut()),
                Ok(Sorted::Message) => sorter.messages.as_mut(),
                Err(_) => None,
            };
            let moved = match to {
                Some(to) => datagrams.move_first(to),
                None => datagrams.set_aside_first(&mut seen),
            };
            if !moved {
                break;
            }
        }
        // The last one here, if there is nothing else for this CPU to do.
        sorter.receive(more);
        // Transport data overtakes them.
        sorter.keep_messages();
        this.counters.add(Counter::DatagramBytesIn, bytes);
        this.note_time_at_dispatch(now, count, level);
    }
}

/// Tells transport data from what may be a handshake message, by the first bytes and the length.
fn kind(datagram: &Datagram<'_>) -> Result<Kind, Discard> {
    let mut header = [0; TRANSPORT_HEADER_LEN];
    if datagram.payload.copy_to(&mut header) < TRANSPORT_HEADER_LEN {
        return Err(Discard::MalformedMessage);
    }
    match Transport::parse_header(&header) {
        Some((receiver, counter)) if datagram.payload.len() >= TRANSPORT_HEADER_LEN + TAG_LEN => {
            Ok(Kind::Transport { receiver, counter })
        }
        Some(_) => Err(Discard::MalformedMessage),
        None => Ok(Kind::Handshake),
    }
}
