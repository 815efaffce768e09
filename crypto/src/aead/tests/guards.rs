//! Buffers that end where the memory ends: not a byte is read or written beside them.
#![cfg(unix)]

use std::vec::Vec;

use super::*;

const PAGE: usize = 4096;
const PAGES: usize = 3;

/// Three pages between two that may not be touched.
struct Guarded(*mut u8);

impl Guarded {
    fn new() -> Self {
        let (len, private) = ((PAGES + 2) * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new memory anywhere.
        let start =
            unsafe { libc::mmap(core::ptr::null_mut(), len, libc::PROT_NONE, private, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let inner = start.wrapping_byte_add(PAGE);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the pages were just mapped and nobody has them.
        assert_eq!(unsafe { libc::mprotect(inner, PAGES * PAGE, access) }, 0);
        Self(inner.cast())
    }

    /// `len` bytes that begin where the memory does, or end where it does.
    fn bytes(&mut self, len: usize, at_end: bool) -> &mut [u8] {
        assert!(len <= PAGES * PAGE);
        let start = self.0.wrapping_add(if at_end { PAGES * PAGE - len } else { 0 });
        // SAFETY: inside the pages, which this value owns.
        unsafe { core::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the pages that `new` mapped.
        unsafe { libc::munmap(self.0.wrapping_sub(PAGE).cast(), (PAGES + 2) * PAGE) };
    }
}

#[test]
fn nothing_beside_the_buffers_is_touched() {
    let random = &mut Random(0x0009_0a8d);
    let guarded = || (0..COUNT).map(|_| Guarded::new()).collect::<Vec<Guarded>>();
    let (mut sources, mut targets) = ([guarded(), guarded()], guarded());
    let step = if cfg!(debug_assertions) { 11 } else { 1 };
    for state in tiers() {
        for count in [1, 2, 7, COUNT] {
            for len in (0..300).step_by(step).chain([1419, 1420, 1421, 4095, 4097]) {
                let at_end = random.below(2) == 0;
                check(&state, count, len, at_end, &mut sources, &mut targets);
            }
        }
    }
}

const COUNT: usize = 19;

/// Seals and opens `count` packets of about `len` bytes from guarded to guarded buffers.
fn check(
    state: &ExtendedState,
    count: usize,
    len: usize,
    at_end: bool,
    [firsts, seconds]: &mut [Vec<Guarded>; 2],
    targets: &mut [Guarded],
) {
    let key = Key::new([0x3c; 32]);
    let lens: Vec<usize> = (0..count).map(|index| len + index % 3).collect();
    for opens in [false, true] {
        for pieces_count in [0, 1, 2] {
            let in_place = pieces_count == 0;
            let what = (state.tier(), count, len, at_end, opens, pieces_count);
            let texts: Vec<Vec<u8>> = lens.iter().map(|len| std::vec![0x77; *len]).collect();
            let sealed: Vec<Vec<u8>> = texts
                .iter()
                .enumerate()
                .map(|(index, text)| expected([0x3c; 32], index as u64, text))
                .collect();
            let (inputs, wanted) = if opens { (&sealed, &texts) } else { (&texts, &sealed) };
            // The second of two pieces is guarded on the other side.
            let pieces: Vec<[Piece<'_>; 2]> = firsts
                .iter_mut()
                .zip(&mut *seconds)
                .zip(inputs)
                .enumerate()
                .map(|(index, ((first, second), input))| {
                    let split =
                        if pieces_count == 2 { input.len() * index / COUNT } else { input.len() };
                    let (head, tail) = input.split_at(split);
                    let place = |guarded: &mut Guarded, bytes: &[u8], at_end| -> &[u8] {
                        let place = guarded.bytes(bytes.len(), at_end);
                        place.copy_from_slice(bytes);
                        // SAFETY: not written again while the pieces are used.
                        unsafe { core::slice::from_raw_parts(place.as_ptr(), place.len()) }
                    };
                    [place(first, head, at_end).into(), place(second, tail, !at_end).into()]
                })
                .collect();
            let mut jobs: Vec<Job<'_>> = Vec::new();
            for (index, target) in targets.iter_mut().take(count).enumerate() {
                let input = &inputs[index];
                let room = wanted[index].len().max(if in_place { input.len() } else { 0 });
                let destination = target.bytes(room, at_end);
                let source = if in_place {
                    destination[..input.len()].copy_from_slice(input);
                    Source::InPlace { len: input.len() }
                } else {
                    Source::Pieces(&pieces[index])
                };
                let counter = index as u64;
                let verdict = Verdict::Pending;
                jobs.push(Job { key: &key, counter, source, destination, verdict });
            }
            if opens {
                open(Some(state), &mut jobs)
            } else {
                seal(Some(state), &mut jobs)
            };
            for (job, wanted) in jobs.iter().zip(wanted) {
                assert_eq!(job.verdict, Verdict::Done, "{what:?}");
                assert!(job.destination[..wanted.len()] == wanted[..], "{what:?}");
            }
        }
    }
}
