//! The statistics IOCTL: what an adapter counted, one versioned block of 64-bit words.
//!
//! Words are little-endian, in the order of [`Counter::ALL`], then one word per discard reason in
//! the order of [`Discard::ALL`]. Both lists only grow at their end, and both lengths are in the
//! header, so an old tool reads a new driver and the other way round.
//!
//! Behind them stand *parts*, as many as the buffer has room for and the header's last word says: what of it one CPU counted, or one
//! queue. Each says its kind, its number and how many words it has, so that kinds and words may be added. What a driver without parts
//! leaves 0 is their number.

use crate::{
    discard::{Direction, Discard},
    table::table,
};

/// Version of the block's layout.
pub const VERSION: u32 = 1;
/// Bytes of the header: version, counter words, discard words, parts (each a `u32`).
pub const HEADER_LEN: usize = 16;
/// Bytes of the block this version writes, without parts.
pub const LEN: usize = HEADER_LEN + 8 * (Counter::COUNT + Discard::COUNT);
/// Room that a reader gives it: a newer driver counts more, and writes nothing where all of it but the parts has no room. The parts of as
/// many CPUs as there can be have room, too.
pub const ROOM: usize = 256 << 10;
/// What readers without parts gave it.
const FIRST_ROOM: usize = 16 << 10;
const _: () = assert!(LEN <= FIRST_ROOM / 4);
const _: () = assert!(LEN + (2048 + 64) * (PART_HEAD_LEN + 8 * OF_CPU.len()) <= ROOM);

/// Bytes of a part before its words: kind, number, words, reserved (each a `u32`).
const PART_HEAD_LEN: usize = 16;

/// What a part is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A CPU, by its index through all groups: the words of [`OF_CPU`].
    Cpu = 0,
    /// A receive queue: the words of [`QueueCounter`].
    ReceiveQueue = 1,
    /// A transmit queue: the same.
    TransmitQueue = 2,
}

/// What is counted by CPU. Their sum is the adapter's, and the longest of times; but no CPU has in `PacketsIn` and `BytesIn` what the driver
/// itself answered ([`Counter::TooBigTold`]), nor are they less by what a ring that stopped did not take.
pub const OF_CPU: [Counter; 7] = [
    Counter::Chunks,
    Counter::PacketsSealed,
    Counter::PacketsOpened,
    Counter::PacketsIn,
    Counter::BytesIn,
    Counter::LongestAtDispatch100ns,
    Counter::LongestDpc100ns,
];

table! {
    /// What a queue counts.
    QueueCounter {
        /// Packets that it took: of the driver, or of the network stack.
        Packets,
        /// Their bytes; 0 of a transmit queue, which does not look at them.
        Bytes,
        /// Packets that wait for it now.
        Waiting,
        /// The most that it found waiting.
        MostWaiting,
    }
}

table! {
    /// What an adapter counts besides discards.
    Counter {
        /// Inner packets the adapter was given to send; of one that was cut, its segments.
        PacketsOut,
        /// Bytes of those packets.
        BytesOut,
        /// Datagrams the network took, of any type.
        DatagramsOut,
        /// Their payload bytes.
        DatagramBytesOut,
        /// Datagrams received from the network, of any type.
        DatagramsIn,
        /// Their payload bytes.
        DatagramBytesIn,
        /// Inner packets given to the network stack.
        PacketsIn,
        /// Bytes of those packets.
        BytesIn,
        /// Keepalives to send. One that then does not leave is a discard.
        KeepalivesOut,
        /// Authentic keepalives received.
        KeepalivesIn,
        /// Handshake messages and cookie replies to send. One that then does not leave is a discard.
        HandshakesOut,
        /// Handshake messages and cookie replies received and accepted.
        HandshakesIn,
        /// Packets copied to wait for a session or a route, each once.
        PacketsStaged,
        /// Chunks sealed or opened.
        Chunks,
        /// Longest time one of our callbacks stayed at DISPATCH_LEVEL, in 100 ns.
        LongestAtDispatch100ns,
        /// Times one CPU had delivered enough of a peer's chunks at a time: the next one went on, or this one
        /// after what else it had to do.
        Handovers,
        /// Datagrams that the callout took out of the network stack, past the socket.
        Absorbed,
        /// Datagrams that the callout let pass to the socket: another callout had decided already.
        PermittedNoRight,
        /// ... this driver had injected them itself.
        PermittedInjected,
        /// ... they never left this machine.
        PermittedLoopback,
        /// ... the firewall was to authorise their flow (anew).
        PermittedAuthorisation,
        /// ... the fast path is switched off.
        PermittedOff,
        /// ... the adapter is going down.
        PermittedDraining,
        /// ... the stack did not say all that is needed of them.
        PermittedNoMetadata,
        /// ... they are shorter than transport data, or their headers could not be read.
        PermittedTooShort,
        /// ... they are not transport data.
        PermittedNotTransport,
        /// ... the network adapter put several into one, and where each ends is not known.
        PermittedCoalesced,
        /// ... as many are held of this CPU as may be.
        PermittedCpuFull,
        /// ... as many are held of this peer as may be.
        PermittedPeerFull,
        /// ... the firewall has to see their flow now and then, or it forgets it.
        PermittedRefresh,
        /// ... the ring of this CPU is full, or there was no memory for it.
        PermittedRingFull,
        /// Datagrams sent by injection.
        InjectedOut,
        /// Datagrams that were to be injected and went by the socket: so that the firewall sees their
        /// flow, or because injection refused them.
        InjectionPassed,
        /// Bytes of packets and of their datagrams that the driver wrote on their way out, each as often as
        /// it wrote it: a datagram once, and a packet once more for each time that it had to be copied.
        PayloadWrittenOut,
        /// Bytes of packets that the driver wrote on their way in: a packet once, and once more if its
        /// datagram lay in more than six pieces.
        PayloadWrittenIn,
        /// Chunks that were given to another CPU to be sealed or opened.
        ChunksDealt,
        /// Packets the adapter was given that were cut into segments.
        SuperPacketsOut,
        /// Those segments. The adapter was given `PacketsOut` less these and as many as were cut.
        SegmentsOut,
        /// Datagrams that were sent several as one, for the network stack to cut apart (USO).
        SegmentedOut,
        /// ... as how many.
        SegmentedSends,
        /// Times a socket's stack turned out not to cut them apart, and was asked no more.
        SegmentationRefused,
        /// Datagrams that came to a socket several as one (URO), and were cut apart.
        CoalescedIn,
        /// ... as how many.
        CoalescedIndications,
        /// Times what came as one did not come apart, and the sockets were told to keep datagrams apart.
        CoalescingDistrusted,
        /// Packets longer than the way to their peer takes, that were sent all the same: their datagrams are
        /// cut on the way. One that is several segments is one.
        OversizeCut,
        /// Answers to packets that were too long and may not be cut, given to the network stack; each is in
        /// `PacketsIn`, too.
        TooBigTold,
        /// Packets that were too long and got no answer: one may not be answered, or too many were.
        TooBigUntold,
        /// TCP connections whose maximum segment size was lowered on its way out or in.
        MssLowered,
        /// Packets and keepalives that were sealed.
        PacketsSealed,
        /// Packets and keepalives that were opened, or turned out not to be what they seemed.
        PacketsOpened,
        /// Longest time that one of our DPCs took on what CPUs do for each other, in 100 ns, whichever adapter that was for.
        LongestDpc100ns,
    }
}

/// A statistics block that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    counters: &'a [u8],
    discards: &'a [u8],
    parts: &'a [u8],
}

/// A part of the block.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    kind: u32,
    /// Of the CPU or the queue.
    pub number: u32,
    words: &'a [u8],
}

impl Part<'_> {
    /// Whether it is of a kind.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u32
    }

    /// The value of one of [`OF_CPU`], of a CPU; 0 if the driver is older than it.
    #[must_use]
    pub fn of_cpu(&self, counter: Counter) -> u64 {
        let at = OF_CPU.iter().position(|other| *other == counter);
        at.map_or(0, |at| word(self.words, at))
    }

    /// The value of `counter`, of a queue; 0 if the driver is older than it.
    #[must_use]
    pub fn of_queue(&self, counter: QueueCounter) -> u64 {
        word(self.words, counter as usize)
    }
}

impl<'a> Statistics<'a> {
    /// Parses the block; `None` if it is short or of another layout.
    #[must_use]
    pub fn parse(block: &'a [u8]) -> Option<Self> {
        let (header, words) = block.split_first_chunk::<HEADER_LEN>()?;
        let [version, counters, discards, parts] = split_u32(header);
        let counters = usize::try_from(counters).ok()?.checked_mul(8)?;
        let discards = usize::try_from(discards).ok()?.checked_mul(8)?;
        let (counters, rest) = words.split_at_checked(counters)?;
        let (discards, rest) = rest.split_at_checked(discards)?;
        let all = Self { counters, discards, parts: rest };
        (version == VERSION && all.parts().count() >= parts as usize).then_some(all)
    }

    /// What single CPUs and queues counted.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let mut rest = self.parts;
        core::iter::from_fn(move || {
            let (head, others) = rest.split_first_chunk::<PART_HEAD_LEN>()?;
            let [kind, number, words, _] = split_u32(head);
            let (words, others) =
                others.split_at_checked(usize::try_from(words).ok()?.checked_mul(8)?)?;
            rest = others;
            Some(Part { kind, number, words })
        })
    }

    /// The value of `counter`; 0 if the driver is older than it.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        word(self.counters, counter as usize)
    }

    /// How many packets were discarded for `reason`; 0 if the driver is older than it.
    #[must_use]
    pub fn discarded(&self, reason: Discard) -> u64 {
        word(self.discards, reason as usize)
    }

    /// Discards of one direction.
    #[must_use]
    pub fn discards(&self, direction: Direction) -> u64 {
        let of = Discard::ALL.iter().filter(|reason| reason.direction() == direction);
        of.map(|reason| self.discarded(*reason)).fold(0, u64::saturating_add)
    }

    /// Packets that came from the adapter or were made, and that neither left nor were discarded: they wait. None do with the
    /// adapter down.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        let came = [Counter::PacketsOut, Counter::KeepalivesOut, Counter::HandshakesOut];
        self.left_over(&came, &[Counter::DatagramsOut], Direction::Outbound)
    }

    /// Datagrams that came, and of which nothing became: none, once what is under way has arrived.
    #[must_use]
    pub fn lost(&self) -> i64 {
        // An answer to a packet that was too long is indicated, and came from nowhere.
        let came = [Counter::DatagramsIn, Counter::TooBigTold];
        let became = [Counter::PacketsIn, Counter::KeepalivesIn, Counter::HandshakesIn];
        self.left_over(&came, &became, Direction::Inbound)
    }

    /// What came less what became of it, and less what was discarded.
    fn left_over(&self, came: &[Counter], became: &[Counter], direction: Direction) -> i64 {
        let sum = |all: &[Counter]| {
            all.iter().map(|counter| self.counter(*counter)).fold(0, u64::saturating_add)
        };
        let gone = sum(became).saturating_add(self.discards(direction));
        sum(came).wrapping_sub(gone).cast_signed()
    }
}

/// Writes the block into `out` and returns its length; `None` if `out` is too short.
pub fn write(
    out: &mut [u8],
    counter: impl Fn(Counter) -> u64,
    discarded: impl Fn(Discard) -> u64,
) -> Option<usize> {
    let out = out.get_mut(..LEN)?;
    let header = [VERSION, Counter::COUNT as u32, Discard::COUNT as u32, 0];
    let (head, words) = out.split_at_mut_checked(HEADER_LEN)?;
    for (slot, value) in head.chunks_exact_mut(4).zip(header) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    let values = Counter::ALL.iter().map(|c| counter(*c));
    let values = values.chain(Discard::ALL.iter().map(|d| discarded(*d)));
    for (slot, value) in words.chunks_exact_mut(8).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    Some(LEN)
}

/// Adds a part to a block of `len` bytes, if `out` has room for it; returns how long the block is.
pub fn write_part(out: &mut [u8], len: usize, kind: Kind, number: u32, values: &[u64]) -> usize {
    let Some((block, rest)) = out.split_at_mut_checked(len) else { return len };
    let part = PART_HEAD_LEN.saturating_add(values.len().saturating_mul(8));
    let parts = block.first_chunk_mut::<HEADER_LEN>().and_then(|head| head.last_chunk_mut::<4>());
    let (Some(parts), Some(place)) = (parts, rest.get_mut(..part)) else { return len };
    *parts = u32::from_le_bytes(*parts).saturating_add(1).to_le_bytes();
    let (head, words) = place.split_at_mut(PART_HEAD_LEN);
    for (slot, value) in head.chunks_exact_mut(4).zip([kind as u32, number, values.len() as u32, 0])
    {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    for (slot, value) in words.chunks_exact_mut(8).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    len.saturating_add(part)
}

fn split_u32(bytes: &[u8; HEADER_LEN]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = chunk.try_into().map_or(0, u32::from_le_bytes);
    }
    words
}

fn word(words: &[u8], index: usize) -> u64 {
    words.chunks_exact(8).nth(index).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reads_back() {
        let mut block = [0; LEN];
        let len = write(&mut block, |c| 1000 + c as u64, |d| 2000 + d as u64);
        assert_eq!(len, Some(LEN));
        let statistics = Statistics::parse(&block).unwrap();
        for counter in Counter::ALL {
            assert_eq!(statistics.counter(*counter), 1000 + *counter as u64);
        }
        for reason in Discard::ALL {
            assert_eq!(statistics.discarded(*reason), 2000 + *reason as u64);
        }
    }

    #[test]
    fn what_waits_and_what_is_lost_add_up() {
        let mut block = [0; LEN];
        let counter = |counter| match counter {
            Counter::PacketsOut => 10,
            Counter::KeepalivesOut | Counter::HandshakesOut | Counter::TooBigTold => 1,
            Counter::DatagramsOut => 7,
            Counter::DatagramsIn => 20,
            Counter::PacketsIn => 15,
            Counter::KeepalivesIn => 2,
            _ => 0,
        };
        let discarded = |reason| match reason {
            Discard::QueueFull => 3,
            Discard::Replayed => 5,
            _ => 0,
        };
        write(&mut block, counter, discarded);
        let statistics = Statistics::parse(&block).unwrap();
        assert_eq!((statistics.discards(Direction::Outbound), statistics.waiting()), (3, 2));
        assert_eq!((statistics.discards(Direction::Inbound), statistics.lost()), (5, -1));
    }

    #[test]
    fn short_and_foreign_blocks_are_refused() {
        let mut block = [0; LEN];
        assert_eq!(write(&mut block[..LEN - 1], |_| 0, |_| 0), None);
        write(&mut block, |_| 1, |_| 1);
        for len in 0..LEN {
            assert!(Statistics::parse(&block[..len]).is_none(), "{len} bytes");
        }
        block[0] = 2;
        assert!(Statistics::parse(&block).is_none(), "another version");
        block[0] = 1;
        block[4..8].fill(0xFF);
        assert!(Statistics::parse(&block).is_none(), "a count past the end");
    }

    #[test]
    fn parts_read_back_as_far_as_there_is_room() {
        let mut block = [0; LEN + 200];
        let mut len = write(&mut block, |_| 1, |_| 2).unwrap();
        len = write_part(&mut block, len, Kind::Cpu, 7, &[5, 6]);
        len = write_part(&mut block, len, Kind::ReceiveQueue, 1, &[8; QueueCounter::COUNT]);
        assert_eq!(len, LEN + 32 + 48);
        assert_eq!(write_part(&mut block, len, Kind::Cpu, 8, &[0; 14]), len, "no room");
        let read = Statistics::parse(&block[..len]).unwrap();
        let parts: std::vec::Vec<_> = read.parts().collect();
        assert_eq!((read.counter(Counter::Chunks), parts.len()), (1, 2));
        assert!(parts[0].is(Kind::Cpu) && parts[1].is(Kind::ReceiveQueue));
        assert_eq!((parts[0].number, parts[0].of_cpu(Counter::PacketsSealed)), (7, 6));
        assert_eq!(parts[0].of_cpu(Counter::PacketsOpened), 0, "an older driver's");
        assert_eq!(parts[0].of_cpu(Counter::PacketsOut), 0, "not counted by CPU");
        assert_eq!(parts[1].of_queue(QueueCounter::MostWaiting), 8);
        for cut in LEN..len {
            assert!(Statistics::parse(&block[..cut]).is_none(), "{cut} bytes");
        }
    }

    #[test]
    fn an_older_driver_has_fewer_words() {
        let mut block = [0; HEADER_LEN + 16];
        block[..4].copy_from_slice(&VERSION.to_le_bytes());
        block[4] = 1;
        block[8] = 1;
        block[16] = 7;
        block[24] = 9;
        let statistics = Statistics::parse(&block).unwrap();
        assert_eq!(statistics.counter(Counter::PacketsOut), 7);
        assert_eq!(statistics.counter(Counter::BytesOut), 0);
        assert_eq!(statistics.discarded(Discard::MalformedPacket), 9);
        assert_eq!(statistics.discarded(Discard::NoPeer), 0);
    }
}
