//! Call frame information from the image's unwind data.
//!
//! What is said holds in prologs and bodies; within the few instructions of an epilog gdb is wrong about the caller.
//!
//! Source: <https://learn.microsoft.com/cpp/build/exception-handling-x64>; registers by the System V ABI for AMD64, figure 3.36.

use gimli::write::{Address, CallFrameInstruction as Rule, CommonInformationEntry};
use gimli::write::{FrameDescriptionEntry, FrameTable};
use gimli::{Encoding, Format, Register, X86_64};

use crate::loader::pe::Image;
use crate::loader::probe;

/// One step of a prolog: where it has been made, and what it is.
struct Step {
    behind: u32,
    what: What,
}

enum What {
    Push(u8),
    Allocate(u32),
    /// The frame register, and how far above RSP it points.
    SetFrame(u8, u32),
    /// A register, saved at an offset from the canonical frame address.
    Save(u8, i32),
}

/// `UNW_FLAG_CHAININFO`.
const CHAINED: u8 = 4;

/// Frames of every function of the image.
pub(super) fn table(image: &Image) -> Option<FrameTable> {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
    let mut table = FrameTable::default();
    let mut common = CommonInformationEntry::new(encoding, 1, -8, X86_64::RA);
    common.add_instruction(Rule::Cfa(X86_64::RSP, 8));
    common.add_instruction(Rule::Offset(X86_64::RA, -8));
    let common = table.add_cie(common);
    for entry in image.section_bytes(b".pdata")?.as_chunks::<12>().0 {
        let [begin, end, unwind] = words(entry);
        // The section is padded with zeroes.
        if begin == 0 {
            continue;
        }
        let start = Address::Constant((image.base() + begin as usize) as u64);
        let mut frame = FrameDescriptionEntry::new(start, end - begin);
        let Some((steps, _)) = steps(image, unwind) else { continue };
        describe(&mut frame, &steps);
        table.add_fde(common, frame);
    }
    Some(table)
}

impl What {
    /// Bytes by which it lowers RSP.
    fn allocates(&self) -> i32 {
        match self {
            Self::Push(_) => 8,
            Self::Allocate(bytes) => *bytes as i32,
            Self::SetFrame(..) | Self::Save(..) => 0,
        }
    }
}

fn describe(frame: &mut FrameDescriptionEntry, steps: &[Step]) {
    let (mut depth, mut by_frame) = (8, false);
    for Step { behind, what } in steps {
        depth += what.allocates();
        let moved = match what {
            What::Push(_) | What::Allocate(_) => (!by_frame).then_some(Rule::CfaOffset(depth)),
            What::SetFrame(register, above) => {
                by_frame = true;
                Some(Rule::Cfa(dwarf(*register), depth - *above as i32))
            }
            What::Save(..) => None,
        };
        let saved = match what {
            What::Push(register) => Some(Rule::Offset(dwarf(*register), -depth)),
            What::Save(register, at) => Some(Rule::Offset(dwarf(*register), *at)),
            What::Allocate(_) | What::SetFrame(..) => None,
        };
        for rule in [moved, saved].into_iter().flatten() {
            frame.add_instruction(*behind, rule);
        }
    }
}

/// The steps of a prolog in the order in which they are made, those of the function it is a part of first; and how far below
/// the canonical frame address RSP is then.
fn steps(image: &Image, unwind: u32) -> Option<(Vec<Step>, i32)> {
    let at = image.base() + unwind as usize;
    let [flags, _, count, frame]: [u8; 4] = bytes(image, at)?;
    let count = usize::from(count);
    let slot = |index: usize| {
        let code: [u8; 2] = bytes(image, at + 4 + 2 * index)?;
        Some(code)
    };
    let word = |index: usize| Some(u32::from(u16::from_le_bytes(slot(index)?)));
    let long = |index: usize| Some(word(index)? | word(index + 1)? << 16);
    let (mut own, mut index) = (Vec::new(), 0);
    while index < count {
        let [behind, code] = slot(index)?;
        let info = code >> 4;
        let (what, slots) = match (code & 15, info) {
            (0, _) => (Some(What::Push(info)), 1),
            (1, 0) => (Some(What::Allocate(8 * word(index + 1)?)), 2),
            (1, _) => (Some(What::Allocate(long(index + 1)?)), 3),
            (2, _) => (Some(What::Allocate(8 * u32::from(info) + 8)), 1),
            (3, _) => (Some(What::SetFrame(frame & 15, 16 * u32::from(frame >> 4))), 1),
            (4, _) => (Some(What::Save(info, 8 * word(index + 1)? as i32)), 2),
            (5, _) => (Some(What::Save(info, long(index + 1)? as i32)), 3),
            // Vector registers are left out, and so is where an epilog is.
            (6 | 8, _) => (None, 2),
            (9, _) => (None, 3),
            _ => return None,
        };
        own.extend(what.map(|what| Step { behind: behind.into(), what }));
        index += slots;
    }
    own.reverse();
    let (mut all, above) = if flags >> 3 & CHAINED == 0 {
        (Vec::new(), 8)
    } else {
        let [_, _, parent] = words(&bytes(image, at + 4 + 2 * count.next_multiple_of(2))?);
        let (mut steps, depth) = steps(image, parent)?;
        steps.iter_mut().for_each(|step| step.behind = 0);
        (steps, depth)
    };
    let depth = above + own.iter().map(|step| step.what.allocates()).sum::<i32>();
    for step in &mut own {
        if let What::Save(_, at) = &mut step.what {
            *at -= depth;
        }
    }
    all.extend(own);
    Some((all, depth))
}

fn bytes<const N: usize>(image: &Image, at: usize) -> Option<[u8; N]> {
    let inside = image.contains(at) && image.contains(at + N - 1);
    inside.then(|| probe::bytes(at, N).ok()?.try_into().ok()).flatten()
}

fn words(entry: &[u8; 12]) -> [u32; 3] {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| entry[at + byte]));
    [0, 4, 8].map(word)
}

/// DWARF's number of a register, by Windows' own.
fn dwarf(register: u8) -> Register {
    Register(
        [0, 2, 1, 3, 7, 6, 4, 5].get(usize::from(register)).copied().unwrap_or(register.into()),
    )
}
