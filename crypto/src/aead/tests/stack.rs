//! How much stack a call takes, and what it leaves there and in the registers.
//!
//! The call runs on a stack of its own, painted beforehand. Afterwards the lowest word that changed
//! says how deep it went below its caller, and the rest is searched for key words, one-time keys and key stream.
//! Meaningful for optimised code only: in a debug build every intrinsic has a frame.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(debug_assertions)))]

use std::collections::HashSet;
use std::vec;
use std::vec::Vec;

use super::*;

const PAINT: u64 = 0xa5a5_a5a5_a5a5_a5a5;
const STACK_WORDS: usize = 8192;
/// What a call uses at most, its return address included.
const BOUND: usize = 4096;

/// Runs `body` on a painted stack; returns the stack, lowest address first, and the ZMM registers
/// as they were right after.
fn on_painted_stack(wide: bool, body: &mut dyn FnMut()) -> (Vec<u64>, Vec<u64>) {
    extern "C" fn enter(body: *mut &mut dyn FnMut()) {
        // SAFETY: the address of a `&mut` that `on_painted_stack` holds meanwhile.
        (unsafe { &mut *body })();
    }
    let mut stack = vec![PAINT; STACK_WORDS];
    let mut registers = vec![0_u64; 32 * 8];
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_byte_sub(top as usize % 64);
    let mut body = body;
    let body = &raw mut body;
    // SAFETY: `enter` runs on a stack of 64 KiB that is nobody else's and returns to this one; R12
    // and R13 are kept by the ABI. The registers are stored where there is room for them.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {enter}",
            "mov rsp, r12",
            top = in(reg) top, enter = sym enter, in("rdi") body,
            out("r12") _, clobber_abi("C"),
        );
    }
    if wide {
        // SAFETY: only for tiers that have the registers; there is room for all of them.
        unsafe { store_registers(registers.as_mut_ptr()) };
    }
    (stack, registers)
}

#[target_feature(enable = "avx512f")]
unsafe fn store_registers(room: *mut u64) {
    // SAFETY: the caller has room for 32 registers.
    unsafe {
        core::arch::asm!(
            "vmovdqu64 [{room}], zmm0", "vmovdqu64 [{room} + 64], zmm1",
            "vmovdqu64 [{room} + 128], zmm2", "vmovdqu64 [{room} + 192], zmm3",
            "vmovdqu64 [{room} + 256], zmm4", "vmovdqu64 [{room} + 320], zmm5",
            "vmovdqu64 [{room} + 384], zmm6", "vmovdqu64 [{room} + 448], zmm7",
            "vmovdqu64 [{room} + 512], zmm8", "vmovdqu64 [{room} + 576], zmm9",
            "vmovdqu64 [{room} + 640], zmm10", "vmovdqu64 [{room} + 704], zmm11",
            "vmovdqu64 [{room} + 768], zmm12", "vmovdqu64 [{room} + 832], zmm13",
            "vmovdqu64 [{room} + 896], zmm14", "vmovdqu64 [{room} + 960], zmm15",
            "vmovdqu64 [{room} + 1024], zmm16", "vmovdqu64 [{room} + 1088], zmm17",
            "vmovdqu64 [{room} + 1152], zmm18", "vmovdqu64 [{room} + 1216], zmm19",
            "vmovdqu64 [{room} + 1280], zmm20", "vmovdqu64 [{room} + 1344], zmm21",
            "vmovdqu64 [{room} + 1408], zmm22", "vmovdqu64 [{room} + 1472], zmm23",
            "vmovdqu64 [{room} + 1536], zmm24", "vmovdqu64 [{room} + 1600], zmm25",
            "vmovdqu64 [{room} + 1664], zmm26", "vmovdqu64 [{room} + 1728], zmm27",
            "vmovdqu64 [{room} + 1792], zmm28", "vmovdqu64 [{room} + 1856], zmm29",
            "vmovdqu64 [{room} + 1920], zmm30", "vmovdqu64 [{room} + 1984], zmm31",
            room = in(reg) room, options(nostack),
        );
    }
}

/// What must not be found: the words of the keys, of the one-time keys and of the key stream, and
/// the factors and limbs that Poly1305 makes of them.
fn secrets(
    keys: &[[u8; 32]],
    counters: core::ops::Range<u64>,
    len: usize,
) -> (HashSet<u32>, HashSet<u64>) {
    let mut words = HashSet::new();
    let mut factors = HashSet::new();
    for key in keys {
        words.extend(key.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
        for counter in counters.clone() {
            let stream = expected(*key, counter, &vec![0; len]);
            words.extend(
                stream[..len].as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)),
            );
            let block = block_zero(key, counter);
            words.extend(&block[..8]);
            let r = u128::from(block[0])
                | u128::from(block[1]) << 32
                | u128::from(block[2]) << 64
                | u128::from(block[3]) << 96;
            let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
            let (low, high) = (r as u64, (r >> 64) as u64);
            factors.extend([low, high, high + (high >> 2)]);
            let limbs =
                [r as u64 & ((1 << 44) - 1), (r >> 44) as u64 & ((1 << 44) - 1), (r >> 88) as u64];
            factors.extend(limbs);
            factors.extend([limbs[1] * 20, limbs[2] * 20]);
        }
    }
    (words, factors)
}

/// Block 0, by the generic rounds on one lane.
fn block_zero(key: &[u8; 32], counter: u64) -> [u32; 16] {
    let mut start = [0; 16];
    start[..4].copy_from_slice(&chacha::CONSTANTS);
    for (word, bytes) in start[4..12].iter_mut().zip(key.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    start[14] = counter as u32;
    start[15] = (counter >> 32) as u32;
    let mut state = start;
    for _ in 0..chacha::DOUBLE_ROUNDS {
        chacha::double_round(&mut state);
    }
    core::array::from_fn(|word| state[word].wrapping_add(start[word]))
}

/// Runs one batch of `count` packets on the painted stack and judges what it left.
fn check(state: &ExtendedState, opens: bool, count: usize, len: usize, forged: bool) {
    let random = &mut Random(0x51ac_0000 + count as u64);
    let raw: Vec<[u8; 32]> = (0..2).map(|_| random.bytes()).collect();
    let keys: Vec<Key> = raw.iter().map(|key| Key::new(*key)).collect();
    let mut buffers: Vec<Vec<u8>> = (0..count)
        .map(|index| {
            let text = vec![0x11; len];
            let mut packet = if opens {
                expected(raw[index % 2], index as u64, &text)
            } else {
                text.into_iter().chain([0; TAG_LEN]).collect()
            };
            packet[0] ^= u8::from(forged);
            packet
        })
        .collect();
    let mut jobs: Vec<Job<'_>> = buffers
        .iter_mut()
        .enumerate()
        .map(|(index, buffer)| Job {
            key: &keys[index % 2],
            counter: index as u64,
            source: Source::InPlace { len: if opens { len + TAG_LEN } else { len } },
            destination: buffer,
            verdict: Verdict::Pending,
        })
        .collect();
    let wide = state.tier() >= Tier::Avx512;
    let mut caller = 0;
    let (stack, registers) = on_painted_stack(wide, &mut || {
        // SAFETY: reads the stack pointer.
        unsafe { core::arch::asm!("mov {}, rsp", out(reg) caller, options(nomem, nostack)) };
        if opens {
            open(Some(state), &mut jobs)
        } else {
            seal(Some(state), &mut jobs)
        };
    });
    let what = std::format!("{:?}, opens {opens}, {count} of {len}, forged {forged}", state.tier());
    let want = if opens && forged { Verdict::Forged } else { Verdict::Done };
    assert!(jobs.iter().all(|job| job.verdict == want), "{what}");

    let lowest = stack.iter().position(|word| *word != PAINT).unwrap();
    let depth = caller - stack[lowest..].as_ptr() as usize;
    std::eprintln!("{what}: {depth} bytes of stack");
    if state.tier() == Tier::Portable {
        // The crate's own frames are not ours to wipe, and are of several sizes, as the compiler puts them together for
        // this host. The driver's are read by `sim/tests/image/aead.rs`, against the bound itself.
        assert!(depth <= BOUND + 1024, "{what}: {depth} bytes of stack");
        return;
    }
    assert!(depth <= BOUND, "{what}: {depth} bytes of stack");
    let (words, factors) = secrets(&raw, 0..count as u64, len);
    for (place, memory) in [("stack", &stack), ("registers", &registers)] {
        for (at, word) in memory.iter().enumerate() {
            let (low, high) = (*word as u32, (*word >> 32) as u32);
            let found = words.contains(&low) && low != 0 || words.contains(&high) && high != 0;
            assert!(!found, "{what}: a secret word at {at} of the {place}: {word:#x}");
            assert!(!factors.contains(word), "{what}: a factor at {at} of the {place}: {word:#x}");
        }
    }
}

#[test]
fn the_stack_is_bounded_and_nothing_left_there() {
    for state in tiers() {
        for (count, len) in
            [(1, 64), (1, 1420), (1, 4000), (3, 300), (8, 64), (17, 1420), (64, 200)]
        {
            for (opens, forged) in [(false, false), (true, false), (true, true)] {
                check(&state, opens, count, len, forged);
            }
        }
    }
}
