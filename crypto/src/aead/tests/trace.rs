//! Constant time, as a trace of instructions: what is executed must not depend on secrets.
//!
//! A child process seals or opens while its parent single-steps it and hashes the address of every
//! instruction. Keys, texts and the place where a forged tag is wrong differ from child to child;
//! lengths, counts and verdicts, which anybody may know, do not. This sees every secret-dependent
//! branch, loop and call. It does not see secret-dependent addresses: there is no table in this
//! code, and every index comes from a length.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::vec;
use std::vec::Vec;

use super::*;

/// What a child does.
#[derive(Clone, Copy)]
struct Work {
    opens: bool,
    count: usize,
    len: usize,
    /// The byte of the tag that is wrong.
    wrong: Option<usize>,
}

/// The hash of the addresses of all instructions, and their number.
fn trace(state: &ExtendedState, work: Work, seed: u64) -> (u64, u64) {
    let random = &mut Random(seed);
    let key_bytes = random.bytes();
    let key = Key::new(key_bytes);
    let mut buffers: Vec<Vec<u8>> = (0..work.count)
        .map(|index| {
            let text: Vec<u8> = (0..work.len).map(|_| random.next() as u8).collect();
            if !work.opens {
                return text.into_iter().chain([0; TAG_LEN]).collect();
            }
            let mut sealed = expected(key_bytes, index as u64, &text);
            if let Some(byte) = work.wrong {
                sealed[work.len + byte] ^= (random.next() as u8) | 1;
            }
            sealed
        })
        .collect();
    let mut jobs: Vec<Job<'_>> = buffers
        .iter_mut()
        .enumerate()
        .map(|(index, buffer)| Job {
            key: &key,
            counter: index as u64,
            source: Source::InPlace { len: work.len + if work.opens { TAG_LEN } else { 0 } },
            destination: buffer,
            verdict: Verdict::Pending,
        })
        .collect();
    // SAFETY: the child only runs the code under test, which allocates nothing, and leaves.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: asks the parent to trace this process, and stops until it does.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        // SAFETY: a signal to this process.
        unsafe { libc::raise(libc::SIGSTOP) };
        if work.opens {
            open(Some(state), &mut jobs)
        } else {
            seal(Some(state), &mut jobs)
        }
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    follow(child)
}

/// Single-steps the child to its end.
fn follow(child: libc::pid_t) -> (u64, u64) {
    let (mut hash, mut steps, mut status) = (0xcbf2_9ce4_8422_2325_u64, 0, 0);
    // SAFETY: waits for the stop that the child asked for.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(libc::WIFSTOPPED(status), "the child did not stop");
    loop {
        // SAFETY: the child is stopped and traced by this thread.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        assert_eq!(stepped, 0, "single step");
        // SAFETY: waits for the step to end.
        unsafe { libc::waitpid(child, &mut status, 0) };
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0);
            return (hash, steps);
        }
        let offset = core::mem::offset_of!(libc::user_regs_struct, rip);
        // SAFETY: reads one word of the stopped child's registers.
        let place = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, child, offset, 0) };
        hash = (hash ^ place.cast_unsigned()).wrapping_mul(0x0100_0000_01b3);
        steps += 1;
    }
}

#[test]
fn what_is_executed_does_not_depend_on_secrets() {
    let plain = |opens, count, len| Work { opens, count, len, wrong: None };
    let work: Vec<Vec<Work>> = vec![
        vec![plain(false, 1, 70); 2],
        vec![plain(false, 6, 20); 2],
        vec![plain(true, 6, 20); 2],
        [0, 15].map(|byte| Work { wrong: Some(byte), ..plain(true, 1, 70) }).into(),
        [0, 15].map(|byte| Work { wrong: Some(byte), ..plain(true, 6, 20) }).into(),
    ];
    // A debug build takes a hundred times the steps.
    let work = if cfg!(debug_assertions) { &work[..1] } else { &work[..] };
    for state in tiers() {
        for same in work {
            let traces: Vec<_> = same
                .iter()
                .enumerate()
                .map(|(index, work)| trace(&state, *work, 0x7ac3 + index as u64))
                .collect();
            assert!(traces[0].1 > 500, "nothing was traced");
            assert!(
                traces.iter().all(|trace| *trace == traces[0]),
                "{:?}, opens {}, {} of {}: {traces:x?}",
                state.tier(),
                same[0].opens,
                same[0].count,
                same[0].len
            );
        }
    }
}
