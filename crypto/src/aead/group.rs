//! The packets that go through the lanes together, and what is known of each.
//!
//! A group is up to sixteen jobs of similar length, whose lengths have been checked. It keeps raw
//! addresses, because the destinations are written lane by lane and no two slices of one packet
//! could be borrowed at the same time. It owns what is derived from the keys; that is
//! wiped with the stack it lies on, see `wipe`.
#![allow(unsafe_code)] // Raw places of packets.

use super::{Job, Piece, Source, TAG_LEN};

/// Most packets in a group: two registers of eight Poly1305 lanes.
pub(super) const GROUP: usize = 16;

/// Where one packet is.
///
/// # Invariants
///
/// While the borrow of its job lasts: `destination` is valid for reads and writes of `len` bytes
/// and nobody else has them; `source` is valid for reads of `len` bytes.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    /// First byte of the input text; it may equal `destination`, but does not overlap it otherwise.
    pub(super) source: *const u8,
    /// First byte of the output text.
    pub(super) destination: *mut u8,
    /// Length of the text, without the tag.
    len: u32,
    /// Which job it is.
    job: u8,
    /// Whether the text was brought together in the destination before the cipher came by.
    gathered: bool,
}

/// The one-time Poly1305 key of a packet: `r`, then `s`, unclamped. [RFC 8439 §2.6]
pub(super) type OneTimeKey = [u64; 4];

/// The one-time keys of a group.
#[repr(C, align(64))]
pub(super) struct OneTimeKeys(pub(super) [OneTimeKey; GROUP]);

/// A tag as two words. [RFC 8439 §2.5]
pub(super) type Tag = [u64; 2];

/// Up to [`GROUP`] packets.
pub(super) struct Group<'g, 'j> {
    /// The jobs the packets are taken from.
    jobs: &'g mut [Job<'j>],
    packets: [Packet; GROUP],
    count: usize,
    /// Whether all packets have the same key object.
    pub(super) one_key: bool,
    /// First half of each packet's block 0.
    pub(super) one_time: OneTimeKeys,
    /// The tags found (open) or zero (seal); the computed ones are added to them, bit by bit.
    pub(super) tags: [Tag; GROUP],
}

impl<'g, 'j> Group<'g, 'j> {
    /// No packets yet.
    #[inline(always)]
    pub(super) fn new(jobs: &'g mut [Job<'j>]) -> Self {
        Self {
            jobs,
            packets: [Packet::NONE; GROUP],
            count: 0,
            one_key: false,
            one_time: OneTimeKeys([[0; 4]; GROUP]),
            tags: [[0; 2]; GROUP],
        }
    }

    /// Takes packets to seal. Each of `members` is the index of a job whose lengths agree.
    ///
    /// Returns how many bytes of text will have been written.
    #[inline(never)] // What it needs of the stack is then free again when the group is worked on.
    pub(super) fn take_to_seal(&mut self, members: &[u8]) -> usize {
        for (packet, &index) in self.packets.iter_mut().zip(members) {
            let Some(job) = self.jobs.get_mut(usize::from(index)) else { break };
            *packet = Packet::to_seal(job, index);
            self.count += 1;
        }
        self.compare_keys();
        self.packets().iter().map(Packet::written).sum()
    }

    /// Takes packets to open. Each of `members` is the index of a job whose lengths agree.
    ///
    /// Returns how many bytes of text will have been written.
    #[inline(never)] // As above.
    pub(super) fn take_to_open(&mut self, members: &[u8]) -> usize {
        for ((packet, tag), &index) in self.packets.iter_mut().zip(&mut self.tags).zip(members) {
            let Some(job) = self.jobs.get_mut(usize::from(index)) else { break };
            (*packet, *tag) = Packet::to_open(job, index);
            self.count += 1;
        }
        self.compare_keys();
        self.packets().iter().map(Packet::written).sum()
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
    pub(super) fn key(&self, packet: &Packet) -> Option<(&'j [u32; 8], u64)> {
        self.jobs.get(usize::from(packet.job)).map(|job| (job.key.words(), job.counter))
    }

    /// Finds out whether all packets have the same key object.
    fn compare_keys(&mut self) {
        let mut keys = self.packets().iter().filter_map(|packet| self.key(packet));
        let first = keys.next();
        self.one_key =
            keys.all(|(key, _)| first.is_some_and(|(first, _)| core::ptr::eq(key, first)));
    }

    /// From here on the output is the input: what has been sealed is what is authenticated.
    pub(super) fn read_back(&mut self) {
        for packet in &mut self.packets {
            packet.read_back();
        }
    }

    /// Writes each computed tag behind its text; returns how many bytes those are.
    pub(super) fn write_tags(&mut self) -> usize {
        for (packet, tag) in self.packets.iter().zip(&self.tags).take(self.count) {
            packet.write_tag(*tag);
        }
        self.count * TAG_LEN
    }

    /// Takes the forged ones of these packets out: zeroes their places, and leaves them without
    /// bytes. Their tags are what was found and what was computed, added.
    ///
    /// Returns which are authentic, as bits.
    pub(super) fn reject_forged(&mut self, indices: core::ops::Range<usize>) -> u16 {
        let mut authentic = 0;
        for index in indices.start..indices.end.min(self.count) {
            if is_zero(self.tags[index % GROUP]) {
                authentic |= 1 << (index % GROUP);
            } else {
                let packet = &mut self.packets[index % GROUP];
                packet.zero();
                packet.len = 0;
            }
        }
        authentic
    }
}

impl Packet {
    /// No packet: no bytes. All zero, so that a group of them is made in its place.
    const NONE: Self = Self {
        source: core::ptr::null(),
        destination: core::ptr::null_mut(),
        len: 0,
        job: 0,
        gathered: false,
    };

    /// The place of a job to seal, whose destination has room for text and tag.
    ///
    /// What lies in several pieces is brought together in the destination first.
    pub(super) fn to_seal(job: &mut Job<'_>, index: u8) -> Self {
        let len = job.destination.len().saturating_sub(TAG_LEN) as u32;
        let only = match job.source {
            Source::Pieces(pieces) => only_piece(pieces),
            Source::InPlace { .. } => None,
        };
        let gathered = only.is_none() && job.source.gather(job.destination) > 0;
        let destination = job.destination.as_mut_ptr();
        // INVARIANT: the lengths agree; a borrowed piece cannot overlap the destination, a raw one
        // was promised not to.
        let source = only.map_or(destination.cast_const(), Piece::start);
        Self { source, destination, len, job: index, gathered }
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
        let gathered = match steady {
            Some(piece) => {
                piece.split_at(len).1.copy_to(&mut tag);
                false
            }
            None => job.source.gather_split(job.destination, len, &mut tag) > 0,
        };
        let destination = job.destination.as_mut_ptr();
        // INVARIANT: the lengths agree; a borrowed piece cannot overlap the destination.
        let source = steady.map_or(destination.cast_const(), Piece::start);
        let tag = u128::from_le_bytes(tag);
        let packet = Self { source, destination, len: len as u32, job: index, gathered };
        (packet, [tag as u64, (tag >> 64) as u64])
    }

    /// Length of the text, without the tag.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes of text written to the destination when all is done, each as often as it is written.
    pub(super) fn written(&self) -> usize {
        self.len() << u32::from(self.gathered)
    }

    /// From here on the output is the input.
    pub(super) fn read_back(&mut self) {
        // INVARIANT: the destination is readable.
        self.source = self.destination;
    }

    /// Writes the tag behind the text of a packet that was sealed.
    pub(super) fn write_tag(&self, tag: Tag) {
        let place = self.destination.wrapping_add(self.len()).cast::<[u8; TAG_LEN]>();
        let bytes = (u128::from(tag[1]) << 64 | u128::from(tag[0])).to_le_bytes();
        // SAFETY: a job to seal has exactly `TAG_LEN` bytes behind its text; `[u8; 16]` needs no
        // alignment.
        unsafe { place.write(bytes) };
    }

    /// Zeroes the output of a packet that is forged.
    pub(super) fn zero(&self) {
        // SAFETY: by the type invariant the bytes are ours to write.
        unsafe { self.destination.write_bytes(0, self.len()) };
    }
}

/// Whether the difference of two tags is none. Takes the same time wherever they differ.
pub(super) fn is_zero(difference: Tag) -> bool {
    subtle::ConstantTimeEq::ct_eq(&(difference[0] | difference[1]), &0).into()
}

/// The only piece that has bytes, if there is just one.
fn only_piece<'p, 'a>(pieces: &'p [Piece<'a>]) -> Option<&'p Piece<'a>> {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    let first = filled.next()?;
    filled.next().is_none().then_some(first)
}
