//! Random batches, each packet compared with what the crate makes of it alone.

use std::vec;
use std::vec::Vec;

use super::*;

/// One packet of a random batch.
struct Packet {
    key: usize,
    counter: u64,
    text: Vec<u8>,
    sealed: Vec<u8>,
    /// Lengths of the source's pieces; empty means in place.
    pieces: Vec<usize>,
    /// Pieces are given as raw memory.
    raw: bool,
    /// Bytes before the destination, so that it has any alignment.
    offset: usize,
}

/// Random packets and their keys.
struct Batch {
    keys: Vec<[u8; 32]>,
    packets: Vec<Packet>,
}

impl Batch {
    fn random(random: &mut Random) -> Self {
        let most = [3, 8, 20, 64, 70][random.below(5)];
        let count = 1 + random.below(most);
        let longest = [1, 70, 300, 1500, 9000][random.below(5)];
        let same = (random.below(2) == 0).then(|| random.below(longest));
        let keys: Vec<[u8; 32]> =
            (0..[1, 2, 64][random.below(3)]).map(|_| random.bytes()).collect();
        let packets = (0..count)
            .map(|_| {
                let len = same.unwrap_or_else(|| random.below(longest));
                let key = random.below(keys.len());
                let counter = random.next() >> (8 * random.below(8));
                let text = random.text(len);
                let sealed = expected(keys[key], counter, &text);
                let pieces = (0..random.below(5)).map(|_| random.below(200)).collect();
                let (raw, offset) = (random.below(2) == 0, random.below(80));
                Packet { key, counter, text, sealed, pieces, raw, offset }
            })
            .collect();
        Self { keys, packets }
    }

    /// Runs all packets through `run`; the input of packet `i` is `input(i)`, the destination has
    /// `room(i)` bytes. Returns verdicts and destinations, with a margin of 0xee around them.
    fn run(
        &self,
        run: impl Fn(&mut [Job<'_>]) -> usize,
        input: impl Fn(usize) -> Vec<u8>,
        room: impl Fn(usize) -> usize,
    ) -> Vec<(Verdict, Vec<u8>)> {
        let keys: Vec<Key> = self.keys.iter().map(|key| Key::new(*key)).collect();
        let inputs: Vec<Vec<u8>> = (0..self.packets.len()).map(&input).collect();
        let mut outs: Vec<Vec<u8>> = Vec::new();
        let mut pieces: Vec<Vec<Piece<'_>>> = Vec::new();
        for (index, packet) in self.packets.iter().enumerate() {
            let mut out = vec![0xee; packet.offset + room(index) + MARGIN];
            let input = &inputs[index][..];
            if packet.pieces.is_empty() {
                out[packet.offset..][..input.len()].copy_from_slice(input);
            }
            outs.push(out);
            let mut rest = input;
            let mut list = Vec::new();
            for len in packet.pieces.iter().copied().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(len.min(rest.len()));
                rest = after;
                list.push(if packet.raw {
                    // SAFETY: the input outlives the jobs and is not their destination.
                    unsafe { Piece::from_raw(piece.as_ptr(), piece.len()) }
                } else {
                    Piece::from(piece)
                });
            }
            pieces.push(list);
        }
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for (index, out) in outs.iter_mut().enumerate() {
            let packet = &self.packets[index];
            let len = inputs[index].len();
            let source = if packet.pieces.is_empty() {
                Source::InPlace { len }
            } else {
                Source::Pieces(&pieces[index])
            };
            jobs.push(Job {
                key: &keys[packet.key],
                counter: packet.counter,
                source,
                destination: &mut out[packet.offset..][..room(index)],
                verdict: Verdict::Pending,
            });
        }
        run(&mut jobs);
        let verdicts: Vec<Verdict> = jobs.iter().map(|job| job.verdict).collect();
        verdicts
            .into_iter()
            .zip(outs)
            .enumerate()
            .map(|(index, (verdict, out))| {
                let offset = self.packets[index].offset;
                assert!(out[..offset].iter().all(|byte| *byte == 0xee), "before the destination");
                let end = offset + room(index);
                assert!(out[end..].iter().all(|byte| *byte == 0xee), "behind the destination");
                (verdict, out[offset..end].to_vec())
            })
            .collect()
    }
}

/// Bytes behind a destination that nobody may write.
const MARGIN: usize = 70;

/// Seals and opens one random batch, with some packets forged, and compares.
fn check(state: &ExtendedState, seed: u64) {
    let random = &mut Random(seed);
    let batch = Batch::random(random);
    let what = |index: usize| {
        let packet = &batch.packets[index];
        std::format!(
            "{:?}, seed {seed:#x}, packet {index} of {}, {} bytes, pieces {:?}",
            state.tier(),
            batch.packets.len(),
            packet.text.len(),
            packet.pieces
        )
    };
    let sealed = batch.run(
        |jobs| seal(Some(state), jobs),
        |index| batch.packets[index].text.clone(),
        |index| batch.packets[index].sealed.len(),
    );
    for (index, (verdict, bytes)) in sealed.iter().enumerate() {
        assert_eq!(*verdict, Verdict::Done, "{}", what(index));
        assert!(*bytes == batch.packets[index].sealed, "seal: {}", what(index));
    }
    let flips: Vec<Option<usize>> = batch
        .packets
        .iter()
        .map(|packet| (random.below(4) == 0).then(|| random.below(8 * packet.sealed.len())))
        .collect();
    let extra = random.below(40);
    let opened = batch.run(
        |jobs| open(Some(state), jobs),
        |index| {
            let mut sealed = batch.packets[index].sealed.clone();
            if let Some(bit) = flips[index] {
                sealed[bit / 8] ^= 1 << (bit % 8);
            }
            sealed
        },
        |index| {
            let packet = &batch.packets[index];
            if packet.pieces.is_empty() { packet.sealed.len() } else { packet.text.len() + extra }
        },
    );
    for (index, (verdict, bytes)) in opened.iter().enumerate() {
        let text = &batch.packets[index].text;
        if flips[index].is_some() {
            assert_eq!(*verdict, Verdict::Forged, "{}", what(index));
            assert!(bytes[..text.len()].iter().all(|byte| *byte == 0), "left: {}", what(index));
        } else {
            assert_eq!(*verdict, Verdict::Done, "open: {}", what(index));
            assert!(bytes[..text.len()] == text[..], "open: {}", what(index));
        }
        if !batch.packets[index].pieces.is_empty() {
            assert!(bytes[text.len()..].iter().all(|byte| *byte == 0xee), "{}", what(index));
        }
    }
}

#[test]
fn random_batches_agree_with_the_crate() {
    let rounds = if cfg!(debug_assertions) { 150 } else { 3000 };
    for state in tiers() {
        std::eprintln!("tier {:?}", state.tier());
        for round in 0..rounds {
            check(&state, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round + 1));
        }
    }
}
