//! mac1 of forged initiations, in batches, against the `blake2` crate one by one; by itself, and from a
//! queue to the verdict as a worker of the driver does it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use blake2::Blake2sMac;
use blake2::digest::{FixedOutput, Update, consts::U16};
use crypto::aead::Tier;
use crypto::mac1::{BATCH, Claim, Mac1Key};
use crypto::protocol::messages::{INITIATION_LEN, Message};
use crypto::sync::{SpinLock, Unpinned};

use super::{Row, median, state};

/// Messages in a sample.
const MESSAGES: usize = 64;
/// What mac1 covers of an initiation.
const COVERED: usize = 116;

/// Interleaved rounds of both, then the medians.
pub(super) fn measure(tier: Tier) -> Row {
    let state = state(tier);
    let (raw, forged) = ([7; 32], [0; 16]);
    let key = Mac1Key::new(&raw);
    let messages: Vec<[u8; COVERED]> = (0..MESSAGES).map(|index| [index as u8; COVERED]).collect();
    let claims: Vec<Claim<'_>> =
        messages.iter().map(|covered| Claim { covered, mac1: &forged }).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(350) {
        let mut valid = [true; MESSAGES];
        let start = Instant::now();
        key.check(Some(&state), black_box(&claims), &mut valid);
        ours.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(valid, [false; MESSAGES]);
        let start = Instant::now();
        for message in black_box(&messages) {
            let mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(&raw), &[], &[]);
            let mut mac = mac.expect("a key of 32 bytes");
            Update::update(&mut mac, message);
            black_box(mac.finalize_fixed()[..] == forged);
        }
        theirs.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
    }
    row("mac1, refused", COVERED, ours, theirs)
}

/// Copies of datagrams, as the driver keeps them for a worker.
type Queue = SpinLock<VecDeque<Box<[u8; INITIATION_LEN]>>>;

/// Forged initiations: copied into memory of their own, queued, taken by a worker and refused.
pub(super) fn measure_queue(tier: Tier) -> Row {
    let (state, raw) = (state(tier), [7; 32]);
    let mut datagrams = [[9; INITIATION_LEN]; MESSAGES];
    for datagram in &mut datagrams {
        datagram[..4].copy_from_slice(&[1, 0, 0, 0]);
    }
    let queue = Queue::new(VecDeque::with_capacity(MESSAGES));
    let fill = |queue: &Queue| {
        for datagram in black_box(&datagrams) {
            queue.with(&Unpinned, |queue| queue.push_back(Box::new(*datagram)));
        }
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(350) {
        let (start, mut forged) = (Instant::now(), 0);
        fill(&queue);
        loop {
            let mut batch: [Option<Box<[u8; INITIATION_LEN]>>; BATCH] = Default::default();
            queue.with(&Unpinned, |queue| batch.fill_with(|| queue.pop_front()));
            if batch[0].is_none() {
                break;
            }
            let key = Mac1Key::new(&raw);
            let messages =
                batch.each_ref().map(|message| message.as_ref().map_or(&[][..], |m| &m[..]));
            forged += key.forged(Some(&state), &messages).count_ones() as usize;
        }
        ours.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(forged, MESSAGES);
        let (start, mut forged) = (Instant::now(), 0);
        fill(&queue);
        while let Some(message) = queue.with(&Unpinned, VecDeque::pop_front) {
            let Ok(Message::Initiation(message)) = Message::parse(&message[..]) else { continue };
            let mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(&raw), &[], &[]);
            let mut mac = mac.expect("a key of 32 bytes");
            Update::update(&mut mac, message.macs.before_mac1);
            forged += usize::from(mac.finalize_fixed()[..] != message.macs.mac1[..]);
        }
        theirs.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(forged, MESSAGES);
    }
    row("mac1, queued and refused", INITIATION_LEN, ours, theirs)
}

/// The medians of both, in ns a message of `size` bytes, printed and as a row.
fn row(what: &str, size: usize, mut ours: Vec<f64>, mut theirs: Vec<f64>) -> Row {
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!(
        "{what}: ours {ours:.1}  blake2 {theirs:.1} ({:.2}x), {:.1} million a second",
        theirs / ours,
        1e3 / ours
    );
    let (what, size) = (what.into(), size.to_string());
    Row { what, size, unit: "ns/message", ours, peer: "blake2", theirs }
}
