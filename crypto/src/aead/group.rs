//! The packets that go through the lanes together, and what is known of each.
//!
//! A group is up to sixteen jobs of similar length, whose lengths have been checked. It keeps raw
//! addresses, because the destinations are written lane by lane and no two slices of one packet
//! could be borrowed at the same time. It owns what is derived from the keys; that is
//! wiped with the stack it lies on, see `wipe`.
#![allow(unsafe_code)] // Raw places of packets.

use super::lanes::xor_part;
use super::piece;
use super::{Job, Piece, Source, TAG_LEN};

/// Most packets in a group: two registers of eight Poly1305 lanes.
pub(super) const GROUP: usize = 16;

/// Where one packet is.
///
/// # Invariants
///
/// While the borrow of its job lasts: `destination` is valid for reads and writes of `len` bytes
/// and nobody else has them; `source` is valid for reads of `len` bytes, or, if `in_pieces`, is the
/// address of the first of some [`Piece`]s that have at least as many together.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    /// First byte of the input text, or its first piece. The text may be the destination's, but does
    /// not overlap it otherwise.
    pub(super) source: *const u8,
    /// First byte of the output text.
    pub(super) destination: *mut u8,
    /// Length of the text, without the tag.
    len: u32,
    /// Which job it is.
    job: u8,
    pub(super) in_pieces: bool,
    /// Whether the text was copied to the destination before the cipher came by.
    copied: bool,
}

/// The one-time Poly1305 key of a packet: `r`, then `s`, unclamped. [RFC 8439 §2.6]
pub(super) type OneTimeKey = [u64; 4];

/// The one-time keys of a group.
#[repr(C, align(32))]
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
    /// What is known of each packet, in one place after the other. First the tag found (open) or zero
    /// (seal) where `s` will be; then the one-time key, that tag subtracted from its `s`; last, where `r`
    /// was, the difference of the tags, which is the tag itself when sealing.
    pub(super) one_time: OneTimeKeys,
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
        let places = self.packets.iter_mut().zip(&mut self.one_time.0);
        for ((packet, [_, _, low, high]), &index) in places.zip(members) {
            let Some(job) = self.jobs.get_mut(usize::from(index)) else { break };
            let (taken, tag) = Packet::to_open(job, index);
            (*packet, [*low, *high]) = (taken, tag);
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

    /// Takes a packet's one-time key, which is the first half of its block 0; once.
    #[inline(always)]
    pub(super) fn put_one_time_key(&mut self, index: usize, put: impl FnOnce(&mut OneTimeKey)) {
        let key = &mut self.one_time.0[index % GROUP];
        let found = join(key[2], key[3]);
        put(key);
        let s = join(key[2], key[3]).wrapping_sub(found);
        (key[2], key[3]) = (s as u64, (s >> 64) as u64);
    }

    /// Keeps a packet's tag, as computed with the key that there was.
    #[inline(always)]
    pub(super) fn put_tag(&mut self, index: usize, tag: Tag) {
        let [low, high, ..] = &mut self.one_time.0[index % GROUP];
        [*low, *high] = tag;
    }

    /// Writes each computed tag behind its text; returns how many bytes those are.
    pub(super) fn write_tags(&mut self) -> usize {
        for (packet, [low, high, ..]) in self.packets.iter().zip(&self.one_time.0).take(self.count)
        {
            packet.write_tag([*low, *high]);
        }
        self.count * TAG_LEN
    }

    /// Takes the forged ones of these packets out: zeroes their places, and leaves them without
    /// bytes. They have been authenticated.
    ///
    /// Returns which are authentic, as bits.
    pub(super) fn reject_forged(&mut self, indices: core::ops::Range<usize>) -> u16 {
        let mut authentic = 0;
        for index in indices.start..indices.end.min(self.count) {
            let [low, high, ..] = self.one_time.0[index % GROUP];
            if is_zero([low, high]) {
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
    pub(super) const NONE: Self = Self {
        source: core::ptr::null(),
        destination: core::ptr::null_mut(),
        len: 0,
        job: 0,
        in_pieces: false,
        copied: false,
    };

    /// The place of a job to seal, whose destination has room for text and tag.
    pub(super) fn to_seal(job: &mut Job<'_>, index: u8) -> Self {
        let len = job.destination.len().saturating_sub(TAG_LEN);
        match job.source {
            Source::Pieces(pieces) if len > 0 => Self::from_pieces(pieces, job, len, index),
            _ => Self::in_place(job, len, index),
        }
    }

    /// The place of a job to open, whose source has a tag and whose destination has room; and the
    /// tag. A source that may change is copied to the destination here, and never read again.
    pub(super) fn to_open(job: &mut Job<'_>, index: u8) -> (Self, Tag) {
        let len = job.source.len().saturating_sub(TAG_LEN);
        let mut tag = [0; TAG_LEN];
        let packet = match job.source {
            Source::InPlace { .. } => {
                if let Some(found) = job.destination.get(len..).and_then(<[u8]>::first_chunk) {
                    tag = *found;
                }
                Self::in_place(job, len, index)
            }
            Source::Pieces(pieces) if len > 0 && pieces.iter().all(Piece::is_steady) => {
                match pieces.iter().rfind(|piece| !piece.is_empty()).and_then(Piece::last) {
                    Some(last) => tag = last,
                    None => piece::copy_from(pieces, len, &mut tag),
                }
                Self::from_pieces(pieces, job, len, index)
            }
            Source::Pieces([whole, ..]) if whole.len() == len + TAG_LEN => {
                let (text, found) = whole.split_at(len);
                let copied = text.copy_to(job.destination.get_mut(..len).unwrap_or(&mut [])) > 0;
                found.copy_to(&mut tag);
                Self { copied, ..Self::in_place(job, len, index) }
            }
            Source::Pieces(_) => {
                let copied = job.source.gather_split(job.destination, len, &mut tag) > 0;
                Self { copied, ..Self::in_place(job, len, index) }
            }
        };
        let tag = u128::from_le_bytes(tag);
        (packet, [tag as u64, (tag >> 64) as u64])
    }

    /// A packet whose text is where it is to be.
    fn in_place(job: &mut Job<'_>, len: usize, job_index: u8) -> Self {
        let destination = job.destination.as_mut_ptr();
        // INVARIANT: the lengths agree.
        Self { source: destination, destination, len: len as u32, job: job_index, ..Self::NONE }
    }

    /// A packet whose text is the first `len` bytes, at least one, of these pieces.
    fn from_pieces(pieces: &[Piece<'_>], job: &mut Job<'_>, len: usize, job_index: u8) -> Self {
        let empty = pieces.iter().take_while(|piece| piece.is_empty()).count();
        let pieces = pieces.get(empty..).unwrap_or(pieces);
        let in_pieces = pieces.first().is_none_or(|first| first.len() < len);
        // INVARIANT: the lengths agree; a borrowed piece cannot overlap the destination, a raw one
        // was promised not to.
        let source = match pieces.first() {
            Some(first) if !in_pieces => first.start(),
            _ => pieces.as_ptr().cast(),
        };
        Self { source, in_pieces, ..Self::in_place(job, len, job_index) }
    }

    /// Whether the text lies in one piece, at `source`.
    #[inline(always)]
    pub(super) fn is_together(&self) -> bool {
        !self.in_pieces
    }

    /// Where the text from `start` on is, and how many bytes of it lie there one after the other.
    #[inline(always)]
    pub(super) fn run(&self, start: usize) -> (*const u8, usize) {
        let left = self.len().saturating_sub(start);
        if !self.in_pieces || left == 0 {
            return (self.source.wrapping_add(start), left);
        }
        // SAFETY: by the type invariant the pieces have a byte at `start`.
        let (place, len) = unsafe { piece::run(self.source.cast(), start) };
        (place, len.min(left))
    }

    /// Where the `count` bytes of text from `start` on are, which the packet has, if they lie one after
    /// the other.
    #[inline(always)]
    pub(super) fn whole(&self, start: usize, count: usize) -> Option<*const u8> {
        if self.is_together() {
            return Some(self.source.wrapping_add(start));
        }
        let (place, len) = self.run(start);
        (len >= count).then_some(place)
    }

    /// Adds this key stream to the text from `start` on, which has as many bytes.
    #[inline(never)]
    pub(super) fn add_stream(&self, start: usize, stream: &[u8]) {
        let mut done = 0;
        while let (source, len) = self.run(start + done)
            && let Some(stream) = stream.get(done..).filter(|stream| !stream.is_empty() && len > 0)
        {
            let count = len.min(stream.len());
            let destination = self.destination.wrapping_add(start + done);
            // SAFETY: source and destination have `count` bytes here, by the type invariant.
            unsafe { xor_part(source, destination, &stream[..count]) };
            done += count;
        }
    }

    /// Length of the text, without the tag.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes of text written to the destination when all is done, each as often as it is written.
    pub(super) fn written(&self) -> usize {
        self.len() << u32::from(self.copied)
    }

    /// From here on the output is the input.
    pub(super) fn read_back(&mut self) {
        // INVARIANT: the destination is readable.
        (self.source, self.in_pieces) = (self.destination, false);
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

/// The number of two words.
#[inline(always)]
pub(super) fn join(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Whether the difference of two tags is none. Takes the same time wherever they differ.
pub(super) fn is_zero(difference: Tag) -> bool {
    subtle::ConstantTimeEq::ct_eq(&(difference[0] | difference[1]), &0).into()
}
