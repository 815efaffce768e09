//! The interface, checked against the `chacha20poly1305` crate.
use std::vec;
use std::vec::Vec;

use super::*;

#[test]
fn pieces_and_places_agree_with_the_crate() {
    for len in [0_usize, 1, 15, 16, 17, 63, 64, 65, 1419, 1420] {
        let text: Vec<u8> = (0..len).map(|at| at as u8 ^ 0x5a).collect();
        let key = Key::new([7; 32]);
        let counter = u64::MAX - len as u64;
        let want = expected([7; 32], counter, &text);
        let (a, b) = text.split_at(len / 3);
        let pieces = [Piece::from(a), Piece::from(&[0_u8; 0][..]), Piece::from(b)];

        let mut out = vec![0xee; len + TAG_LEN];
        let mut jobs = [Job {
            key: &key,
            counter,
            source: Source::Pieces(&pieces),
            destination: &mut out,
            verdict: Verdict::Pending,
        }];
        seal(None, &mut jobs);
        assert_eq!(jobs[0].verdict, Verdict::Done);
        assert_eq!(out, want, "pieces, {len}");

        let mut place = text.clone();
        place.resize(len + TAG_LEN, 0);
        let mut jobs = [Job {
            key: &key,
            counter,
            source: Source::InPlace { len },
            destination: &mut place,
            verdict: Verdict::Pending,
        }];
        seal(None, &mut jobs);
        assert_eq!(place, want, "in place, {len}");

        for split in [0, 1, len, len + 1, len + 15] {
            let (a, b) = want.split_at(split);
            let pieces = [Piece::from(a), Piece::from(b)];
            let mut back = vec![0xee; len + 3];
            let mut jobs = [Job {
                key: &key,
                counter,
                source: Source::Pieces(&pieces),
                destination: &mut back,
                verdict: Verdict::Pending,
            }];
            open(None, &mut jobs);
            assert_eq!(jobs[0].verdict, Verdict::Done);
            assert_eq!(back[..len], text, "open, {len} split {split}");
            assert_eq!(back[len..], [0xee; 3], "past the plaintext");
        }
    }
}

#[test]
fn forged_packets_leave_zeroes() {
    let key = Key::new([9; 32]);
    let sealed = expected([9; 32], 5, &[0x41; 40]);
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        let pieces = [Piece::from(&bad[..])];
        let mut out = vec![0xee; 50];
        let mut jobs = [Job {
            key: &key,
            counter: 5,
            source: Source::Pieces(&pieces),
            destination: &mut out,
            verdict: Verdict::Pending,
        }];
        open(None, &mut jobs);
        assert_eq!(jobs[0].verdict, Verdict::Forged);
        assert_eq!(out[..40], [0; 40]);
        assert_eq!(out[40..], [0xee; 10]);

        let len = bad.len();
        let mut jobs = [Job {
            key: &key,
            counter: 5,
            source: Source::InPlace { len },
            destination: &mut bad,
            verdict: Verdict::Pending,
        }];
        open(None, &mut jobs);
        assert_eq!(jobs[0].verdict, Verdict::Forged);
        assert_eq!(bad[..40], [0; 40]);
    }
}

#[test]
fn lengths_that_disagree_are_left_alone() {
    let key = Key::new([1; 32]);
    let run = |seals: bool, source_len: usize, destination_len: usize, in_place: bool| {
        let text = vec![3; source_len];
        let pieces = [Piece::from(&text[..])];
        let mut out = vec![0xee; destination_len];
        let source =
            if in_place { Source::InPlace { len: source_len } } else { Source::Pieces(&pieces) };
        let mut jobs = [Job {
            key: &key,
            counter: 0,
            source,
            destination: &mut out,
            verdict: Verdict::Pending,
        }];
        if seals {
            seal(None, &mut jobs)
        } else {
            open(None, &mut jobs)
        };
        let verdict = jobs[0].verdict;
        (verdict, out.iter().all(|byte| *byte == 0xee))
    };
    for (seals, source, destination, in_place, verdict, why) in [
        (true, 10, 25, false, Verdict::Pending, "no room for the tag"),
        (true, 10, 27, false, Verdict::Pending, "a byte too many"),
        (true, 10, 10, true, Verdict::Pending, "no room for the tag, in place"),
        (true, usize::MAX, 16, true, Verdict::Pending, "absurd length"),
        (false, 15, 15, false, Verdict::Forged, "shorter than a tag"),
        (false, 0, 0, false, Verdict::Forged, "empty"),
        (false, 26, 9, false, Verdict::Pending, "no room for the plaintext"),
        (false, 26, 25, true, Verdict::Pending, "longer than its place"),
    ] {
        if source == usize::MAX && !in_place {
            continue;
        }
        let (found, untouched) = if source == usize::MAX {
            absurd(&key)
        } else {
            run(seals, source, destination, in_place)
        };
        assert_eq!(found, verdict, "{why}");
        assert!(untouched, "{why}");
    }
}

fn absurd(key: &Key) -> (Verdict, bool) {
    let mut out = [0xee; 16];
    let mut jobs = [Job {
        key,
        counter: 0,
        source: Source::InPlace { len: usize::MAX },
        destination: &mut out,
        verdict: Verdict::Pending,
    }];
    seal(None, &mut jobs);
    let verdict = jobs[0].verdict;
    (verdict, out == [0xee; 16])
}
