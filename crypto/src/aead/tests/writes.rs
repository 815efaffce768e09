//! How often a byte of a destination is written: as often as the call says, by what the machine does.
//!
//! A child process seals or opens while its parent single-steps it and adds up the bytes of every store
//! into the destinations' text. A store that reaches past the text has a mask that keeps it from it, so only
//! its bytes of the text count.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::vec;
use std::vec::Vec;

use iced_x86::OpAccess;

use super::trace::{child, follow};
use super::*;

/// Where a packet's bytes lie before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    InPlace,
    InOnePiece,
    /// In one piece, whose bytes others may change.
    Unsteady,
    InPieces,
}

/// Bytes written to destinations of `len` bytes of text: those of the text, counted, and all, as the call says.
fn written(state: &ExtendedState, opens: bool, lies: Lies, lens: &[usize]) -> (usize, usize) {
    let key = Key::new([9; 32]);
    let sealed = |at: usize, len: usize| expected([9; 32], at as u64, &vec![at as u8; len]);
    let sources: Vec<Vec<u8>> = lens
        .iter()
        .enumerate()
        .map(|(at, len)| if opens { sealed(at, *len) } else { vec![at as u8; *len] })
        .collect();
    let pieces: Vec<Vec<Piece<'_>>> = sources
        .iter()
        .map(|source| match lies {
            // SAFETY: the source lives as long as the pieces, and nobody writes to it.
            Lies::Unsteady => vec![unsafe { Piece::from_raw(source.as_ptr(), source.len()) }],
            Lies::InPieces => {
                let (a, b) = source.split_at(source.len() / 2);
                vec![a.into(), b.into()]
            }
            Lies::InPlace | Lies::InOnePiece => vec![source.as_slice().into()],
        })
        .collect();
    let mut places: Vec<Vec<u8>> = lens.iter().map(|len| vec![0; len + TAG_LEN]).collect();
    if lies == Lies::InPlace {
        for (place, source) in places.iter_mut().zip(&sources) {
            place[..source.len()].copy_from_slice(source);
        }
    }
    let ranges: Vec<(u64, u64)> =
        places.iter().zip(lens).map(|(place, len)| (place.as_ptr() as u64, *len as u64)).collect();
    let mut jobs: Vec<Job<'_>> = places
        .iter_mut()
        .enumerate()
        .map(|(at, destination)| Job {
            key: &key,
            counter: at as u64,
            source: match lies {
                Lies::InPlace => Source::InPlace { len: sources[at].len() },
                _ => Source::Pieces(&pieces[at]),
            },
            destination,
            verdict: Verdict::Pending,
        })
        .collect();
    let mut call =
        || if opens { open(Some(state), &mut jobs) } else { seal(Some(state), &mut jobs) };
    let mut counted = 0;
    follow(child(&mut call), |step| {
        for (access, place, size) in step.operands {
            if !matches!(access, OpAccess::Read | OpAccess::CondRead) {
                counted +=
                    ranges.iter().map(|range| inside(*range, *place, *size as u64)).sum::<u64>();
            }
        }
    });
    let says = call();
    assert!(jobs.iter().all(|job| job.verdict == Verdict::Done));
    (counted as usize, says)
}

/// Bytes of the text at `start` that a store writes.
fn inside((start, len): (u64, u64), place: u64, size: u64) -> u64 {
    let end = start + len;
    if (start..end).contains(&place) { size.min(end - place) } else { 0 }
}

#[test]
fn every_byte_is_written_as_often_as_is_said() {
    let sets: [&[usize]; 2] = [&[70], &[16, 20, 65, 3, 40]];
    // A debug build takes a hundred times the steps.
    let sets = if cfg!(debug_assertions) { &sets[..1] } else { &sets[..] };
    for state in tiers() {
        for lens in sets {
            let text: usize = lens.iter().sum();
            for opens in [false, true] {
                let whole = text + if opens { 0 } else { TAG_LEN * lens.len() };
                for lies in [Lies::InPlace, Lies::InOnePiece, Lies::Unsteady, Lies::InPieces] {
                    let first_brought_together = match lies {
                        Lies::InPlace => false,
                        Lies::InOnePiece | Lies::InPieces => state.tier() == Tier::Portable,
                        Lies::Unsteady => opens || state.tier() == Tier::Portable,
                    };
                    let again = if first_brought_together { text } else { 0 };
                    // Tags are not payload, and a build that is not optimised may write one twice.
                    let want = (text + again, whole + again);
                    let what = (state.tier(), opens, lies, lens);
                    assert_eq!(written(&state, opens, lies, lens), want, "{what:?}");
                }
            }
        }
    }
}
