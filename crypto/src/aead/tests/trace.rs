//! Constant time, as a trace of instructions: neither what is executed nor which memory it touches
//! may depend on secrets.
//!
//! A child process seals or opens while its parent single-steps it and hashes the address of every
//! instruction and of every memory operand. Keys, texts and the place where a forged tag is wrong
//! differ from child to child, in the same memory; lengths, counts and verdicts, which anybody may
//! know, do not. This sees every secret-dependent branch, loop, call, index and table. What it
//! cannot see is an instruction whose own time depends on its operands: the code uses none that is
//! known to (no division; the multiplications take the same time for all numbers).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register};

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

/// The memory that all children of a comparison work in: buffers of one length, one key.
struct Place {
    key: Key,
    buffers: Vec<Vec<u8>>,
}

impl Place {
    fn for_work(work: Work) -> Self {
        let buffers = (0..work.count).map(|_| vec![0; work.len + TAG_LEN]).collect();
        Self { key: Key::new([0; 32]), buffers }
    }

    /// Puts a key and packets there that only `seed` knows.
    fn fill(&mut self, work: Work, seed: u64) {
        let random = &mut Random(seed);
        let key = random.bytes();
        self.key = Key::new(key);
        for (index, buffer) in self.buffers.iter_mut().enumerate() {
            let text: Vec<u8> = (0..work.len).map(|_| random.next() as u8).collect();
            buffer.fill(0);
            if !work.opens {
                buffer[..work.len].copy_from_slice(&text);
                continue;
            }
            buffer.copy_from_slice(&expected(key, index as u64, &text));
            if let Some(byte) = work.wrong {
                buffer[work.len + byte] ^= (random.next() as u8) | 1;
            }
        }
    }
}

/// The hash of the addresses of all instructions and operands, and the number of instructions.
fn trace(state: &ExtendedState, work: Work, place: &mut Place, seed: u64) -> (u64, u64) {
    place.fill(work, seed);
    let key = &place.key;
    let mut jobs: [Option<Job<'_>>; 16] = [const { None }; 16];
    for ((index, buffer), job) in place.buffers.iter_mut().enumerate().zip(&mut jobs) {
        *job = Some(Job {
            key,
            counter: index as u64,
            source: Source::InPlace { len: work.len + if work.opens { TAG_LEN } else { 0 } },
            destination: buffer,
            verdict: Verdict::Pending,
        });
    }
    let mut jobs = jobs.map(|job| {
        job.unwrap_or(Job {
            key,
            counter: 0,
            source: Source::InPlace { len: 0 },
            destination: &mut [],
            verdict: Verdict::Pending,
        })
    });
    let jobs = &mut jobs[..work.count];
    hash(child(|| if work.opens { open(Some(state), jobs) } else { seal(Some(state), jobs) }))
}

/// A child that stops, is to be followed, and then does the work, which allocates nothing.
pub(crate) fn child(work: impl FnOnce() -> usize) -> libc::pid_t {
    // SAFETY: the child only runs the code under test, which allocates nothing, and leaves.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: asks the parent to trace this process, and stops until it does.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        // SAFETY: a signal to this process.
        unsafe { libc::raise(libc::SIGSTOP) };
        work();
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    child
}

/// Single-steps the child to its end: the hash of all addresses, and how many steps that took.
pub(crate) fn hash(child: libc::pid_t) -> (u64, u64) {
    let (mut hash, mut steps) = (0xcbf2_9ce4_8422_2325_u64, 0);
    follow(child, |step| {
        let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        add(step.address);
        for (_, place, _) in step.operands {
            add(*place);
        }
        steps += 1;
    });
    (hash, steps)
}

/// One instruction, about to be executed.
pub(super) struct Step<'s> {
    address: u64,
    /// Its operands in memory: access, address and size.
    pub(super) operands: &'s [(OpAccess, u64, usize)],
}

/// Single-steps the child to its end, and shows each step.
pub(super) fn follow(child: libc::pid_t, mut show: impl FnMut(Step<'_>)) {
    let mut status = 0;
    let mut operands = Vec::new();
    let mut decoded: HashMap<u64, Instruction> = HashMap::new();
    let mut info = InstructionInfoFactory::new();
    // SAFETY: waits for the stop that the child asked for.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(libc::WIFSTOPPED(status), "the child did not stop");
    loop {
        // SAFETY: plain words, all of which the call below fills.
        let mut registers: libc::user_regs_struct = unsafe { core::mem::zeroed() };
        // SAFETY: the child is stopped and traced by this thread; the place lives through the call.
        let read = unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers) };
        assert_eq!(read, 0, "registers");
        let instruction = decoded.entry(registers.rip).or_insert_with(|| decode(registers.rip));
        operands.clear();
        for operand in info.info(instruction).used_memory() {
            if operand.access() != OpAccess::NoMemAccess {
                let place = operand.virtual_address(0, |name, _, _| value(&registers, name));
                let size = operand.memory_size().size();
                operands.push((operand.access(), place.unwrap_or(0), size));
            }
        }
        show(Step { address: registers.rip, operands: &operands });
        // SAFETY: as above.
        let stepped = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        assert_eq!(stepped, 0, "single step");
        // SAFETY: waits for the step to end.
        unsafe { libc::waitpid(child, &mut status, 0) };
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0);
            return;
        }
    }
}

/// The instruction at an address of this process; the child has the same code.
fn decode(address: u64) -> Instruction {
    let mut code = [0_u8; 15];
    for (at, byte) in code.iter_mut().enumerate() {
        // SAFETY: the child has just stopped before an instruction here, and code is not at the end
        // of a mapping: sections are padded to pages.
        *byte = unsafe { (address as *const u8).wrapping_add(at).read_volatile() };
    }
    Decoder::with_ip(64, &code, address, DecoderOptions::NONE).decode()
}

/// What a register of the child has; segments begin at 0, and no address is made of vectors.
fn value(registers: &libc::user_regs_struct, name: Register) -> Option<u64> {
    Some(match name {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}

// spec-test: WG 5.4-k
#[test]
fn neither_code_nor_addresses_depend_on_secrets() {
    let plain = |opens, count, len| Work { opens, count, len, wrong: None };
    let work: Vec<Vec<Work>> = vec![
        vec![plain(false, 1, 70); 2],
        vec![plain(false, 6, 20); 2],
        vec![plain(true, 6, 20); 2],
        [0, 15].map(|byte| Work { wrong: Some(byte), ..plain(true, 1, 70) }).into(),
        [0, 15].map(|byte| Work { wrong: Some(byte), ..plain(true, 6, 20) }).into(),
        // With Poly1305 beside the rounds of every tier.
        vec![plain(false, 12, 300); 2],
        vec![plain(true, 10, 1040); 2],
        [0, 15].map(|byte| Work { wrong: Some(byte), ..plain(true, 10, 1040) }).into(),
    ];
    // A debug build takes a hundred times the steps.
    let work = if cfg!(debug_assertions) { &work[..1] } else { &work[..] };
    for state in tiers() {
        for same in work {
            let mut place = Place::for_work(same[0]);
            let mut traces = Vec::with_capacity(same.len());
            for (index, work) in same.iter().enumerate() {
                traces.push(trace(&state, *work, &mut place, 0x7ac3 + index as u64));
            }
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
