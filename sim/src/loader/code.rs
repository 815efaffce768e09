//! The driver's instructions around an address, for reports.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, NasmFormatter};

use crate::loader::pe::Image;
use crate::loader::probe;
use crate::nt::machine::Machine;

/// Lines before and behind the one that matters.
const BEFORE: usize = 4;
const BEHIND: usize = 2;
/// Bytes of the longest instruction.
const LONGEST: usize = 15;
/// Bytes of a function that are looked at: from further away than this, decoding begins in the middle.
const FAR: usize = 4096;

/// Lines of the code around `address`, which they mark: offset in the image, and the instruction. None outside the driver.
pub(crate) fn around(machine: &Machine, address: usize) -> Vec<String> {
    let image = machine.image().filter(|image| image.contains(address));
    let Some(image) = image else { return Vec::new() };
    let start = begin(&image, address).unwrap_or(address);
    let Ok(mut bytes) = probe::bytes(start, address - start + (BEHIND + 1) * LONGEST) else {
        return Vec::new();
    };
    image.sites().restore(start, &mut bytes);
    let mut decoder = Decoder::with_ip(64, &bytes, start as u64, DecoderOptions::NONE);
    let mut all: Vec<Instruction> = Vec::new();
    while decoder.can_decode()
        && all.iter().filter(|one| one.ip() > address as u64).count() < BEHIND
    {
        all.push(decoder.decode());
    }
    let Some(at) = all.iter().rposition(|one| one.ip() <= address as u64) else {
        return Vec::new();
    };
    let mut formatter = NasmFormatter::new();
    let shown = all.iter().enumerate().skip(at.saturating_sub(BEFORE));
    let line = |(number, one): (usize, &Instruction)| {
        let mut text = String::new();
        formatter.format(one, &mut text);
        let mark = if number == at { "=>" } else { "  " };
        format!("{mark} +{:#x}  {text}", one.ip() as usize - image.base())
    };
    shown.map(line).collect()
}

/// Where the function with `address` begins, by the unwind data, or something in it that is not far.
fn begin(image: &Image, address: usize) -> Option<usize> {
    let offset = (address - image.base()) as u32;
    let table = image.section_bytes(b".pdata")?;
    let word = |entry: &[u8; 12], at: usize| {
        u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
    };
    let entries = table.as_chunks::<12>().0;
    let holds = |entry: &&[u8; 12]| (word(entry, 0)..word(entry, 4)).contains(&offset);
    let begin = image.base() + word(entries.iter().find(holds)?, 0) as usize;
    (address - begin <= FAR).then_some(begin)
}
