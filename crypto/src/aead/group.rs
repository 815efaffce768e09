//! The packets that go through the lanes together, and what is known of each.
//!
//! A group is up to sixteen jobs of similar length, whose lengths have been checked. It keeps raw
//! addresses, because the destinations are written lane by lane and no two slices of one packet
//! could be borrowed at the same time. It owns what is derived from the keys, and wipes it.
#![allow(unsafe_code)] // Raw places of packets.

use zeroize::Zeroize;

use super::{Job, Piece, Source, TAG_LEN};

/// Most packets in a group: two registers of eight Poly1305 lanes.
pub(super) const GROUP: usize = 16;

/// Where one packet of a group is.
///
/// # Invariants
///
/// While the group's borrow of its jobs lasts: `destination` is valid for reads and writes of `len`
/// bytes and nobody else has them; `source` is valid for reads of `len` bytes, unless
/// `scattered`. `job` is an index into the group's jobs.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    /// First byte of the input text; it may equal `destination`, but does not overlap it otherwise.
    pub(super) source: *const u8,
    /// First byte of the output text.
    pub(super) destination: *mut u8,
    /// Length of the text, without the tag.
    pub(super) len: usize,
    /// Which job it is.
    pub(super) job: u8,
    /// The input text is in several pieces, and `source` means nothing.
    pub(super) scattered: bool,
}

/// The one-time Poly1305 key of a packet: `r`, then `s`, unclamped. [RFC 8439 §2.6]
#[repr(C, align(64))]
pub(super) struct OneTimeKeys(pub(super) [[u64; 4]; GROUP]);

/// A tag as two words. [RFC 8439 §2.5]
pub(super) type Tag = [u64; 2];

/// Up to [`GROUP`] packets.
pub(super) struct Group<'g, 'j> {
    /// The jobs the packets are taken from.
    jobs: &'g [Job<'j>],
    /// The packets; those past `count` are copies of the first with no bytes.
    packets: [Packet; GROUP],
    count: usize,
    /// First half of each packet's block 0.
    pub(super) one_time: OneTimeKeys,
    /// The tags found (open) or zero (seal); the computed ones are added to them, bit by bit.
    pub(super) tags: [Tag; GROUP],
}

impl<'g, 'j> Group<'g, 'j> {
    /// The packets to seal. Each of `members` is the index of a job whose lengths agree.
    pub(super) fn to_seal(jobs: &'g mut [Job<'j>], members: &[u8]) -> Self {
        let mut packets = [Packet::NONE; GROUP];
        let mut count = 0;
        for (packet, &index) in packets.iter_mut().zip(members) {
            let Some(job) = jobs.get_mut(usize::from(index)) else { break };
            *packet = Packet::to_seal(job, index);
            count += 1;
        }
        Self::new(jobs, packets, count)
    }

    /// The packets to open. Each of `members` is the index of a job whose lengths agree.
    pub(super) fn to_open(jobs: &'g mut [Job<'j>], members: &[u8]) -> Self {
        let mut packets = [Packet::NONE; GROUP];
        let mut tags = [[0; 2]; GROUP];
        let mut count = 0;
        for ((packet, tag), &index) in packets.iter_mut().zip(&mut tags).zip(members) {
            let Some(job) = jobs.get_mut(usize::from(index)) else { break };
            (*packet, *tag) = Packet::to_open(job, index);
            count += 1;
        }
        let mut group = Self::new(jobs, packets, count);
        group.tags = tags;
        group
    }

    fn new(jobs: &'g [Job<'j>], packets: [Packet; GROUP], count: usize) -> Self {
        let one_time = OneTimeKeys([[0; 4]; GROUP]);
        Self { jobs, packets, count, one_time, tags: [[0; 2]; GROUP] }
    }

    /// The packets.
    #[inline(always)]
    pub(super) fn packets(&self) -> &[Packet] {
        self.packets.get(..self.count).unwrap_or(&[])
    }

    /// The place of packet `index`; an empty one past the last.
    #[inline(always)]
    pub(super) fn packet(&self, index: usize) -> &Packet {
        &self.packets[index % GROUP]
    }

    /// The key words and counter of a packet; `None` if the group is empty.
    #[inline(always)]
    pub(super) fn key(&self, packet: &Packet) -> Option<(&'g [u32; 8], u64)> {
        self.jobs.get(usize::from(packet.job)).map(|job| (job.key.words(), job.counter))
    }

    /// The pieces of a scattered packet.
    pub(super) fn pieces(&self, packet: &Packet) -> &'g [Piece<'j>] {
        match self.jobs.get(usize::from(packet.job)).map(|job| &job.source) {
            Some(Source::Pieces(pieces)) => pieces,
            _ => &[],
        }
    }

    /// Whether all packets have the same key object.
    pub(super) fn one_key(&self) -> bool {
        let mut keys = self.packets().iter().filter_map(|packet| self.key(packet));
        let Some((first, _)) = keys.next() else { return true };
        keys.all(|(key, _)| core::ptr::eq(key, first))
    }

    /// From here on the output is the input: what has been sealed is what is authenticated.
    pub(super) fn read_back(&mut self) {
        for packet in &mut self.packets {
            packet.read_back();
        }
    }

    /// Writes each computed tag behind its text.
    pub(super) fn write_tags(&mut self) {
        for (packet, tag) in self.packets.iter().zip(&self.tags).take(self.count) {
            packet.write_tag(*tag);
        }
    }

    /// Whether the computed tag is the one found. Takes the same time wherever they differ.
    pub(super) fn is_authentic(&self, index: usize) -> bool {
        is_zero(self.tags[index % GROUP])
    }

    /// Takes the forged packets out: zeroes their places, and leaves them without bytes.
    ///
    /// Returns which packets are authentic, as bits.
    pub(super) fn reject_forged(&mut self) -> u16 {
        let mut authentic = 0;
        for index in 0..self.count.min(GROUP) {
            if self.is_authentic(index) {
                authentic |= 1 << index;
                continue;
            }
            self.packets[index].zero();
            self.packets[index].len = 0;
        }
        authentic
    }
}

impl Drop for Group<'_, '_> {
    fn drop(&mut self) {
        self.one_time.0.zeroize();
        self.tags.zeroize();
    }
}

impl Packet {
    /// The place past the last packet: no bytes.
    const NONE: Self = Self {
        source: EMPTY.as_ptr(),
        destination: core::ptr::dangling_mut(),
        len: 0,
        job: 0,
        scattered: false,
    };

    /// The place of a job to seal, whose destination has room for text and tag.
    fn to_seal(job: &mut Job<'_>, index: u8) -> Self {
        let destination = job.destination.as_mut_ptr();
        let len = job.destination.len().saturating_sub(TAG_LEN);
        // INVARIANT: the lengths agree; a borrowed piece cannot overlap the destination, a raw one
        // was promised not to.
        let (source, scattered) = match job.source {
            Source::InPlace { .. } => (destination.cast_const(), false),
            Source::Pieces(pieces) => match only_piece(pieces) {
                Some(piece) => (piece.start(), false),
                None => (destination.cast_const(), true),
            },
        };
        Self { source, destination, len, job: index, scattered }
    }

    /// As [`Packet::to_seal`], for a packet that goes alone: its pieces are brought together first.
    pub(super) fn to_seal_alone(job: &mut Job<'_>) -> Self {
        let packet = Self::to_seal(job, 0);
        if packet.scattered {
            job.source.gather(job.destination);
        }
        // INVARIANT: the destination now holds the source, and is readable.
        Self { scattered: false, ..packet }
    }

    /// From here on the output is the input.
    pub(super) fn read_back(&mut self) {
        // INVARIANT: the destination is readable.
        self.source = self.destination;
        self.scattered = false;
    }

    /// Writes the tag behind the text of a packet that was sealed.
    pub(super) fn write_tag(&self, tag: Tag) {
        let place = self.destination.wrapping_add(self.len).cast::<[u8; TAG_LEN]>();
        let bytes = (u128::from(tag[1]) << 64 | u128::from(tag[0])).to_le_bytes();
        // SAFETY: a job to seal has exactly `TAG_LEN` bytes behind its text; `[u8; 16]` needs no
        // alignment.
        unsafe { place.write(bytes) };
    }

    /// Zeroes the output of a packet that is forged.
    pub(super) fn zero(&self) {
        // SAFETY: by the type invariant the bytes are ours to write.
        unsafe { self.destination.write_bytes(0, self.len) };
    }

    /// The place of a job to open, whose source has a tag and whose destination has room; and the
    /// tag. A source that may change is copied to the destination here, and never read again.
    pub(super) fn to_open(job: &mut Job<'_>, index: u8) -> (Self, Tag) {
        let len = job.source.len().saturating_sub(TAG_LEN);
        let mut tag = [0; TAG_LEN];
        let steady = match job.source {
            Source::Pieces(pieces) => only_piece(pieces).filter(|piece| piece.is_steady()),
            Source::InPlace { .. } => None,
        };
        if let Some(piece) = steady {
            piece.split_at(len).1.copy_to(&mut tag);
        } else {
            job.source.gather_split(job.destination, len, &mut tag);
        }
        let destination = job.destination.as_mut_ptr();
        // INVARIANT: the lengths agree; a borrowed piece cannot overlap the destination.
        let source = steady.map_or(destination.cast_const(), |piece| piece.start());
        let tag = u128::from_le_bytes(tag);
        (
            Self { source, destination, len, job: index, scattered: false },
            [tag as u64, (tag >> 64) as u64],
        )
    }
}

/// Whether the difference of two tags is none. Takes the same time wherever they differ.
pub(super) fn is_zero(difference: Tag) -> bool {
    subtle::ConstantTimeEq::ct_eq(&(difference[0] | difference[1]), &0).into()
}

/// What a packet without bytes points to, and what block 0 is added to.
pub(super) static EMPTY: [u8; 64] = [0; 64];

/// The only piece that has bytes, if there is just one.
fn only_piece<'p, 'a>(pieces: &'p [Piece<'a>]) -> Option<&'p Piece<'a>> {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    let first = filled.next()?;
    filled.next().is_none().then_some(first)
}
