//! mac1 of forged initiations, in batches, against the `blake2` crate one by one; by itself, and of copies as
//! the driver takes them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use blake2::Blake2sMac;
use blake2::digest::{FixedOutput, Update, consts::U16};
use crypto::aead::Tier;
use crypto::mac1::{BATCH, Claim, Mac1Key};
use crypto::protocol::messages::{INITIATION_LEN, Message};

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

/// Forged initiations: copied, eight at a time, and refused, as the driver does where they arrive.
pub(super) fn measure_copied(tier: Tier) -> Row {
    let (state, raw) = (state(tier), [7; 32]);
    let mut datagrams = [[9; INITIATION_LEN]; MESSAGES];
    for datagram in &mut datagrams {
        datagram[..4].copy_from_slice(&[1, 0, 0, 0]);
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let key = Mac1Key::new(&raw);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(350) {
        let (start, mut forged) = (Instant::now(), 0);
        for datagrams in black_box(&datagrams).as_chunks::<BATCH>().0 {
            let copies = black_box(*datagrams);
            let messages = copies.each_ref().map(<[u8; INITIATION_LEN]>::as_slice);
            forged += key.forged(Some(&state), &messages).count_ones() as usize;
        }
        ours.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(forged, MESSAGES);
        let (start, mut forged) = (Instant::now(), 0);
        for datagram in black_box(&datagrams) {
            let copy = black_box(*datagram);
            let Ok(Message::Initiation(message)) = Message::parse(&copy) else { continue };
            let mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(&raw), &[], &[]);
            let mut mac = mac.expect("a key of 32 bytes");
            Update::update(&mut mac, message.macs.before_mac1);
            forged += usize::from(mac.finalize_fixed()[..] != message.macs.mac1[..]);
        }
        theirs.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        assert_eq!(forged, MESSAGES);
    }
    row("mac1, copied and refused", INITIATION_LEN, ours, theirs)
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
