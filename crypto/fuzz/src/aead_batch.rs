//! A batch described by bytes: sealed and opened by one tier, compared with the `chacha20poly1305` crate.
//!
//! The one body of the fuzz target and of the test that replays its corpus. The bytes choose the tier, the number of
//! packets, and of each its key, counter, length, content, pieces, place in its buffer, and the bit that is forged. Bytes
//! that are not there are zero, so every input is a batch.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use crypto::aead::{self, ExtendedState, Job, Key, Piece, Source, TAG_LEN, Tier, Verdict};

use super::Input;

/// Longest text: more than two passes of the widest tier.
const LONGEST: usize = 4500;
/// What is written around every destination, and must still be there.
const MARGIN: usize = 40;

/// Runs the batch that `input` describes.
///
/// # Panics
///
/// If a tier and the crate disagree, or if a byte beside a destination changes.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let tier = Tier::ALL[input.below(Tier::ALL.len())].at_most(aead::detect(u64::MAX));
    // SAFETY: not above what was detected; a process owns its registers.
    let state = unsafe { ExtendedState::assume(tier) };
    let keys: Vec<[u8; 32]> =
        (0..1 + input.below(4)).map(|_| core::array::from_fn(|_| input.byte())).collect();
    let packets: Vec<Packet> =
        (0..1 + input.below(66)).map(|_| Packet::of(&mut input, &keys)).collect();
    let sealed = run_batch(
        &keys,
        &packets,
        |packet| packet.text.clone(),
        TAG_LEN,
        |jobs| {
            aead::seal(Some(&state), jobs);
        },
    );
    for (packet, (verdict, bytes)) in packets.iter().zip(&sealed) {
        assert_eq!(*verdict, Verdict::Done, "{tier:?}: seal");
        assert!(*bytes == packet.sealed, "{tier:?}: sealed {} bytes otherwise", packet.text.len());
    }
    let opened = run_batch(&keys, &packets, Packet::forged, 0, |jobs| {
        aead::open(Some(&state), jobs);
    });
    for (packet, (verdict, bytes)) in packets.iter().zip(&opened) {
        let text = &bytes[..packet.text.len()];
        if packet.flip.is_some() {
            assert_eq!(*verdict, Verdict::Forged, "{tier:?}: open");
            assert!(text.iter().all(|byte| *byte == 0), "{tier:?}: a forged packet's text is left");
        } else {
            assert_eq!(*verdict, Verdict::Done, "{tier:?}: open");
            assert!(text == packet.text, "{tier:?}: opened {} bytes otherwise", packet.text.len());
        }
    }
}

/// One packet.
struct Packet {
    key: usize,
    counter: u64,
    text: Vec<u8>,
    sealed: Vec<u8>,
    /// Where the source is cut; in place if nowhere and not at all in pieces.
    cuts: Vec<usize>,
    in_place: bool,
    raw: bool,
    offset: usize,
    flip: Option<usize>,
}

impl Packet {
    fn of(input: &mut Input<'_>, keys: &[[u8; 32]]) -> Self {
        let (shape, key) = (input.byte(), input.below(keys.len()));
        let counter = u64::from_le_bytes(core::array::from_fn(|_| input.byte()));
        let len = input.below(LONGEST);
        let (first, step) = (input.byte(), input.byte());
        let text: Vec<u8> =
            (0..len).map(|at| first.wrapping_add(step.wrapping_mul(at as u8))).collect();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let cipher = chacha20poly1305::ChaCha20Poly1305::new(&keys[key].into());
        let mut sealed = text.clone();
        let tag = cipher.encrypt_inout_detached(&nonce.into(), &[], sealed.as_mut_slice().into());
        sealed.extend_from_slice(&tag.expect("a short text"));
        Self {
            key,
            counter,
            cuts: (0..shape & 3).map(|_| input.below(len + TAG_LEN + 1)).collect(),
            in_place: shape & 4 != 0,
            raw: shape & 8 != 0,
            offset: input.below(64),
            flip: (shape & 16 != 0).then(|| input.below(8 * sealed.len())),
            text,
            sealed,
        }
    }

    fn forged(&self) -> Vec<u8> {
        let mut sealed = self.sealed.clone();
        if let Some(bit) = self.flip {
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
        sealed
    }
}

/// Runs all packets in one call; returns verdicts and destinations.
fn run_batch(
    keys: &[[u8; 32]],
    packets: &[Packet],
    input: impl Fn(&Packet) -> Vec<u8>,
    more: usize,
    run: impl Fn(&mut [Job<'_>]),
) -> Vec<(Verdict, Vec<u8>)> {
    let keys: Vec<Key> = keys.iter().map(|key| Key::new(*key)).collect();
    let inputs: Vec<Vec<u8>> = packets.iter().map(input).collect();
    let mut pieces: Vec<Vec<Piece<'_>>> = Vec::new();
    let mut rooms: Vec<Vec<u8>> = Vec::new();
    for (packet, input) in packets.iter().zip(&inputs) {
        let mut cuts: Vec<usize> = packet.cuts.iter().map(|cut| (*cut).min(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let piece = |cut: &[usize]| {
            let bytes = &input[cut[0]..cut[1]];
            if !packet.raw {
                return bytes.into();
            }
            // SAFETY: the input outlives the jobs and is not their destination.
            unsafe { Piece::from_raw(bytes.as_ptr(), bytes.len()) }
        };
        pieces.push(cuts.windows(2).map(piece).collect());
        let mut room = vec![0xee; packet.offset + input.len() + more + MARGIN];
        if packet.in_place {
            room[packet.offset..][..input.len()].copy_from_slice(input);
        }
        rooms.push(room);
    }
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for ((packet, pieces), room) in packets.iter().zip(&pieces).zip(&mut rooms) {
        let len = room.len() - packet.offset - MARGIN;
        let source = match packet.in_place {
            true => Source::InPlace { len: len - more },
            false => Source::Pieces(pieces),
        };
        jobs.push(Job {
            key: &keys[packet.key],
            counter: packet.counter,
            source,
            destination: &mut room[packet.offset..][..len],
            verdict: Verdict::Pending,
        });
    }
    run(&mut jobs);
    let verdicts: Vec<Verdict> = jobs.iter().map(|job| job.verdict).collect();
    let beside = |packet: &Packet, room: &[u8]| {
        room[..packet.offset].iter().chain(&room[room.len() - MARGIN..]).all(|byte| *byte == 0xee)
    };
    (packets.iter().zip(verdicts).zip(rooms))
        .map(|((packet, verdict), room)| {
            assert!(beside(packet, &room), "a byte beside the destination has changed");
            (verdict, room[packet.offset..room.len() - MARGIN].to_vec())
        })
        .collect()
}
