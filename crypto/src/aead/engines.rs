//! The tiers: which ChaCha20 and which Poly1305 go together, and where the wide code is entered.
//!
//! | tier | ChaCha20 | Poly1305 |
//! |---|---|---|
//! | `Avx512Ifma` | 32 lanes of ZMM | 8 lanes of 52-bit products; above 8 packets general registers too |
//! | `Avx512` | 32 lanes of ZMM | general registers, partly at the same time |
//! | `Avx2` | 8 lanes of YMM | general registers, at the same time |
//! | `Sse2` | 4 lanes of XMM | general registers, at the same time |
//!
//! A packet that goes alone has ChaCha20 by rows, and with IFMA a long one has eight of its blocks of
//! Poly1305 side by side. Poly1305 by 32-bit products in YMM or ZMM lanes was tried as well: with four
//! chains abreast the general registers are as fast for long packets and faster for short ones.
#![allow(unsafe_code)] // Calls into `#[target_feature]` functions, which the proofs allow.

use core::ops::Range;

use super::batch::Engine;
use super::group::{Group, Packet, Tag, is_zero};
use super::rows::{Cipher, Row, Stream};
use super::tier::{Avx2, Avx512, Ifma};
use super::vector128::V128;
use super::vector256::V256;
use super::vector512::V512;
use super::wipe::Depth;
use super::{chacha512, poly52, poly64, stitch, wipe};

/// Any x86-64 CPU.
pub(super) struct Sse2Tier;

impl Engine for Sse2Tier {
    fn seal(&self, group: &mut Group<'_, '_>) {
        stitch::seal::<V128, 4>((), group);
    }

    fn open(&self, group: &mut Group<'_, '_>) -> u16 {
        stitch::open::<V128, 4>((), group)
    }

    const FEW_TO_SEAL: usize = 0;
    const FEW_TO_OPEN: usize = 0;

    fn seal_one(&self, _: &[u32; 8], _: u64, _: &mut Packet) -> Tag {
        // Never called: none is few.
        [0; 2]
    }

    fn open_one(&self, _: &[u32; 8], _: u64, packet: &Packet, _: Tag) -> bool {
        packet.zero();
        false
    }

    fn clear(&self, depth: Depth) {
        // SAFETY: SSE2 is the baseline.
        unsafe { wipe::after128(depth) };
    }
}

/// AVX2 and BMI2: Haswell, Zen and later.
pub(super) struct Avx2Tier<'s>(pub(super) Avx2<'s>);

impl Engine for Avx2Tier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_seal(self.0, group) };
    }

    fn open(&self, group: &mut Group<'_, '_>) -> u16 {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_open(self.0, group) }
    }

    const FEW_TO_SEAL: usize = 1;
    const FEW_TO_OPEN: usize = 1;

    fn seal_one(&self, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_seal_one(self.0, key, counter, packet) }
    }

    fn open_one(&self, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_open_one(self.0, key, counter, packet, tag) }
    }

    fn clear(&self, depth: Depth) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::after256(self.0, depth) };
    }
}

/// AVX-512 F, BW, VL and DQ: Skylake and Cascade Lake servers.
pub(super) struct Avx512Tier<'s>(pub(super) Avx512<'s>);

impl Engine for Avx512Tier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        let count = group.packets().len();
        // SAFETY: the proof is of the features that the function enables.
        let rest = unsafe { chacha512::seal(self.0, group, count) };
        group.read_back();
        // SAFETY: the proof is of the features that the function enables.
        unsafe { bmi2_authenticate(self.0.narrow(), group, rest..count) };
    }

    fn open(&self, group: &mut Group<'_, '_>) -> u16 {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::derive(self.0, group) };
        let first = first_to_open(group, 512);
        // SAFETY: the proof is of the features that the function enables.
        unsafe { bmi2_authenticate(self.0.narrow(), group, 0..first) };
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::open(self.0, group, first) }
    }

    const FEW_TO_SEAL: usize = 3;
    const FEW_TO_OPEN: usize = 4;

    fn seal_one(&self, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx512_seal_one(self.0, key, counter, packet) }
    }

    fn open_one(&self, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx512_open_one(self.0, key, counter, packet, tag) }
    }

    fn clear(&self, depth: Depth) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::after512(self.0, depth) };
    }
}

/// The same and IFMA and VBMI2: Ice Lake, Sapphire Rapids, Zen 4 and later.
pub(super) struct IfmaTier<'s>(pub(super) Ifma<'s>);

impl Engine for IfmaTier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        /// Up to here sixteen side by side are faster. Measured.
        const SHORT: usize = 512;
        let count = group.packets().len();
        // The last eight cost the same side by side as fewer.
        let beside = match group.packets().last() {
            Some(longest) if longest.len() > SHORT => count.saturating_sub(8),
            _ => 0,
        };
        // SAFETY: the proof is of the features that the function enables.
        let rest = unsafe { chacha512::seal(self.0.wide(), group, beside) };
        group.read_back();
        // SAFETY: the proof is of the features that the function enables.
        unsafe { poly52::authenticate(self.0, group, rest..count) };
    }

    fn open(&self, group: &mut Group<'_, '_>) -> u16 {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::derive(self.0.wide(), group) };
        let first = first_to_open(group, 1024);
        // SAFETY: the proof is of the features that the function enables.
        unsafe { poly52::authenticate(self.0, group, 0..first) };
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::open(self.0.wide(), group, first) }
    }

    const FEW_TO_SEAL: usize = 3;
    const FEW_TO_OPEN: usize = 4;

    fn seal_one(&self, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { ifma_seal_one(self.0, key, counter, packet) }
    }

    fn open_one(&self, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { ifma_open_one(self.0, key, counter, packet, tag) }
    }

    fn clear(&self, depth: Depth) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::after512(self.0.wide(), depth) };
    }
}

/// How many packets are authenticated before any text is touched: side by side those that have less than
/// `long` bytes, and eight at least. The others' turn comes beside the rounds of those.
fn first_to_open(group: &Group<'_, '_>, long: usize) -> usize {
    let packets = group.packets();
    // They come shortest first.
    let first = packets.iter().position(|packet| packet.len() >= long);
    first.map_or(packets.len(), |first| first.max(8).min(packets.len()))
}

/// Eight lanes in YMM registers.
#[target_feature(enable = "avx2,bmi2")]
fn avx2_seal(proof: Avx2<'_>, group: &mut Group<'_, '_>) {
    stitch::seal::<V256, 8>(proof, group);
}

/// Eight lanes in YMM registers.
#[target_feature(enable = "avx2,bmi2")]
fn avx2_open(proof: Avx2<'_>, group: &mut Group<'_, '_>) -> u16 {
    stitch::open::<V256, 8>(proof, group)
}

/// Poly1305 in general registers, with the multiplication that leaves the flags alone.
#[target_feature(enable = "avx2,bmi2")]
fn bmi2_authenticate(_: Avx2<'_>, group: &mut Group<'_, '_>, packets: Range<usize>) {
    poly64::authenticate(group, packets);
}

/// Seals one packet with the key stream of `R` and the tag that `mac` computes.
#[inline(always)]
fn seal_one<R: Row>(
    proof: R::Proof<'_>,
    key: &[u32; 8],
    counter: u64,
    packet: &mut Packet,
    mac: impl FnOnce(&Packet, &[u64; 4]) -> Tag,
) -> Tag {
    let mut stream = Stream::new();
    let cipher = Cipher::<R>::new(proof, key, counter);
    cipher.begin(packet, &mut stream);
    let one_time = stream.one_time_key();
    cipher.apply(packet, &mut stream);
    packet.read_back();
    mac(packet, &one_time)
}

/// Opens one packet with the key stream of `R` if the tag is the one that `mac` computes.
#[inline(always)]
fn open_one<R: Row>(
    proof: R::Proof<'_>,
    (key, counter): (&[u32; 8], u64),
    packet: &Packet,
    tag: Tag,
    mac: impl FnOnce(&Packet, &[u64; 4]) -> Tag,
) -> bool {
    let mut stream = Stream::new();
    let cipher = Cipher::<R>::new(proof, key, counter);
    cipher.begin(packet, &mut stream);
    let one_time = stream.one_time_key();
    let computed = mac(packet, &one_time);
    let authentic = is_zero([tag[0] ^ computed[0], tag[1] ^ computed[1]]);
    if authentic {
        cipher.apply(packet, &mut stream);
    } else {
        packet.zero()
    }
    authentic
}

#[target_feature(enable = "avx2,bmi2")]
fn avx2_seal_one(proof: Avx2<'_>, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
    seal_one::<V256>(proof, key, counter, packet, poly64::alone)
}

#[target_feature(enable = "avx2,bmi2")]
fn avx2_open_one(proof: Avx2<'_>, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool {
    open_one::<V256>(proof, (key, counter), packet, tag, poly64::alone)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
fn avx512_seal_one(proof: Avx512<'_>, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
    seal_one::<V512>(proof, key, counter, packet, poly64::alone)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
fn avx512_open_one(
    proof: Avx512<'_>,
    key: &[u32; 8],
    counter: u64,
    packet: &Packet,
    tag: Tag,
) -> bool {
    open_one::<V512>(proof, (key, counter), packet, tag, poly64::alone)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
fn ifma_seal_one(proof: Ifma<'_>, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag {
    seal_one::<V512>(proof.wide(), key, counter, packet, |packet, one_time| {
        ifma_alone(proof, packet, one_time)
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
fn ifma_open_one(proof: Ifma<'_>, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool {
    open_one::<V512>(proof.wide(), (key, counter), packet, tag, |packet, one_time| {
        ifma_alone(proof, packet, one_time)
    })
}

/// The tag of one packet: in general registers while that is faster than making powers, or if the
/// packet is in pieces.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx512vbmi2,bmi2,avx2")]
#[inline]
fn ifma_alone(proof: Ifma<'_>, packet: &Packet, one_time: &[u64; 4]) -> Tag {
    /// Where the two ways cross. Measured.
    const LONG: usize = 512;
    if packet.len() < LONG || !packet.is_together() {
        poly64::alone(packet, one_time)
    } else {
        poly52::alone(proof, packet, one_time)
    }
}
