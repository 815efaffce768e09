//! The driver's atomics as places where another CPU may run first.
//!
//! Each instruction of the image that locks its memory, each `mfence` and each `pause` begins with a breakpoint. The handler (`trap.rs`)
//! lets the schedule decide who goes on, and then has the thread execute a copy of the instruction, which lies behind the image
//! and jumps back. Nothing is put back and nothing is stepped, so all CPUs can be in it.
//!
//! The code is decoded from the beginning of each section on: the compiler keeps data out of it and fills gaps with `int3`.

use std::sync::{Arc, Mutex};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};
use rustc_hash::{FxHashMap, FxHasher};

use crate::verifier::schedule::lock;

/// Bytes kept behind an image for the copies: 8,192 of them.
pub(crate) const ROOM: usize = 256 << 10;
/// A copy and a jump with its target behind it.
const SLOT: usize = 32;
const BREAKPOINT: u8 = 0xCC;

/// What happens at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The thread goes on in a copy of the instruction, here.
    Copy(usize),
    /// It was a `pause`: the thread goes on behind it, here, when others have run.
    Spins(usize),
}

/// An instruction as found.
#[derive(Clone, Copy, Debug)]
struct Found {
    offset: usize,
    length: u8,
    pauses: bool,
    /// Where its displacement from RIP is.
    displacement: Option<u8>,
}

/// The sites of a mapped image.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    next: FxHashMap<usize, Next>,
    /// The site of each copy, by its number.
    sites: Vec<usize>,
    first_bytes: FxHashMap<usize, u8>,
    copies: usize,
}

/// Whether an instruction locks its memory: with the prefix, or as an exchange, which does without saying so.
pub(crate) fn locks(instruction: &Instruction) -> bool {
    let exchanges = matches!(
        instruction.code(),
        Code::Xchg_rm8_r8 | Code::Xchg_rm16_r16 | Code::Xchg_rm32_r32 | Code::Xchg_rm64_r64
    );
    instruction.has_lock_prefix() || (exchanges && instruction.op0_kind() == OpKind::Memory)
}

/// The instructions in `code`. Many machines load the same file: they are looked for once.
fn found(code: &[u8]) -> Arc<[Found]> {
    static KNOWN: Mutex<Option<FxHashMap<u64, Arc<[Found]>>>> = Mutex::new(None);
    let hash = {
        use std::hash::Hasher;
        let mut hasher = FxHasher::default();
        hasher.write(code);
        hasher.finish()
    };
    lock(&KNOWN).get_or_insert_default().entry(hash).or_insert_with(|| find(code)).clone()
}

fn find(code: &[u8]) -> Arc<[Found]> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut found = Vec::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let pauses = instruction.code() == Code::Pause;
        let fences = instruction.code() == Code::Mfence;
        if !pauses && !fences && !locks(&instruction) {
            continue;
        }
        let offsets = decoder.get_constant_offsets(&instruction);
        let relative = instruction.is_ip_rel_memory_operand();
        found.push(Found {
            offset: instruction.ip() as usize,
            length: instruction.len() as u8,
            pauses,
            displacement: relative.then_some(offsets.displacement_offset() as u8),
        });
    }
    found.into()
}

impl Sites {
    /// Puts breakpoints into `length` bytes of code at `address`, which are writable now, and copies to `copies`, [`ROOM`]
    /// bytes that are, too.
    ///
    /// # Safety
    ///
    /// Both ranges are mapped, nobody executes them, and they are less than 2 GiB apart.
    pub(crate) unsafe fn set(&mut self, address: usize, length: usize, copies: usize) {
        self.copies = copies;
        let code = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the caller's promise; the slice ends before anything is written.
        let found = found(unsafe { std::slice::from_raw_parts(code, length) });
        for one in &*found {
            let (site, length) = (address + one.offset, usize::from(one.length));
            // SAFETY: inside the code.
            let first = unsafe { code.add(one.offset) };
            // SAFETY: as above.
            self.first_bytes.insert(site, unsafe { first.read() });
            let next = if one.pauses {
                Next::Spins(site + length)
            } else {
                let slot = copies + self.sites.len() * SLOT;
                if slot + SLOT > copies + ROOM {
                    return;
                }
                self.sites.push(site);
                let mut bytes = [BREAKPOINT; SLOT];
                // SAFETY: the instruction is inside the code, and a slot is longer than any.
                unsafe { std::ptr::copy_nonoverlapping(first, bytes.as_mut_ptr(), length) };
                if let Some(at) = one.displacement.map(usize::from) {
                    let mut word = [0; 4];
                    word.copy_from_slice(&bytes[at..at + 4]);
                    let moved =
                        i32::from_le_bytes(word).wrapping_add((site as i64 - slot as i64) as i32);
                    bytes[at..at + 4].copy_from_slice(&moved.to_le_bytes());
                }
                // jmp [rip]: the target follows.
                bytes[length..length + 6].copy_from_slice(&[0xFF, 0x25, 0, 0, 0, 0]);
                bytes[length + 6..length + 14]
                    .copy_from_slice(&((site + length) as u64).to_le_bytes());
                let to = std::ptr::with_exposed_provenance_mut::<u8>(slot);
                // SAFETY: the slot is inside the room for them.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, SLOT) };
                Next::Copy(slot)
            };
            self.next.insert(site, next);
            // SAFETY: inside the code.
            unsafe { first.write(BREAKPOINT) };
        }
    }

    /// What happens at a site; `None` if `address` is none.
    pub(crate) fn next(&self, address: usize) -> Option<Next> {
        self.next.get(&address).copied()
    }

    /// The instruction whose copy is at `address`.
    pub(crate) fn original(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.copies).filter(|_| self.copies != 0)?;
        self.sites.get(offset / SLOT).copied()
    }

    /// Puts what the file has into `bytes`, copied from `address`.
    pub(crate) fn restore(&self, address: usize, bytes: &mut [u8]) {
        for (offset, byte) in bytes.iter_mut().enumerate() {
            if let Some(first) = self.first_bytes.get(&(address + offset)) {
                *byte = *first;
            }
        }
    }
}
