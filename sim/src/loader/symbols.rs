//! Names for driver addresses, and driver call stacks across the gates.
//!
//! Names come from the PDB beside the image (`penstock.pdb` beside `penstock.sys`), with inlined functions and lines; without
//! one, an address is `penstock+0x1234`. Stacks are unwound by the image's own `.pdata`; where a stack enters the driver from
//! an import, the import's saved registers lead to the next driver segment.

use std::fs::File;
use std::ops::Range;
use std::sync::Mutex;

use rustc_hash::FxHashMap;

use framehop::x86_64::{CacheX86_64, Reg, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{FrameAddress, MayAllocateDuringUnwind, Module, ModuleSectionInfo, Unwinder};

use crate::loader::gate::{self, ImportFrame, Registers};
use crate::loader::pe::Image;
use crate::loader::{probe, raw};
use crate::nt::thread::Thread;
use crate::verifier::report::Frame;
use crate::verifier::schedule::lock;

/// Frames shown at most.
const DEPTH: usize = 64;

/// Names already looked up: opening a PDB takes milliseconds, and leak reports name the same callers again and again.
#[derive(Default)]
pub(crate) struct Symbols {
    names: Mutex<FxHashMap<(usize, bool), Vec<String>>>,
}

/// A step of a walk.
enum Step {
    Driver { address: usize, is_return: bool },
    Note(String),
}

struct Sections<'i>(&'i Image);

impl ModuleSectionInfo<Vec<u8>> for Sections<'_> {
    fn base_svma(&self) -> u64 {
        self.0.preferred()
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let section = self.0.section(name)?;
        let start = self.0.preferred() + (section.address - self.0.base()) as u64;
        Some(start..start + section.size as u64)
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        self.0.section_bytes(name)
    }
}

/// A source path without the part that only says where a registry or the standard library lives.
fn short(path: &str) -> &str {
    let crates = path
        .rsplit_once("/registry/src/")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map(|(_, rest)| rest);
    let standard = || path.rsplit_once("/rustlib/src/rust/").map(|(_, rest)| rest);
    let vendored = || path.rsplit_once("/library/").map(|(_, rest)| rest);
    crates.or_else(standard).or_else(vendored).unwrap_or(path)
}

impl Symbols {
    /// Forgets the names: another image is mapped.
    pub(crate) fn forget(&self) {
        lock(&self.names).clear();
    }

    /// The name of one address, inlined functions joined by arrows.
    pub(crate) fn name(&self, image: &Image, address: usize, is_return: bool) -> String {
        self.names(image, &[(address, is_return)]).concat().join(" <- ")
    }

    /// The lines of each address, innermost inlined function first.
    fn names(&self, image: &Image, addresses: &[(usize, bool)]) -> Vec<Vec<String>> {
        let mut known = lock(&self.names);
        let unknown: Vec<_> =
            addresses.iter().copied().filter(|address| !known.contains_key(address)).collect();
        if !unknown.is_empty() {
            let found = from_pdb(image, &unknown);
            for (number, address) in unknown.into_iter().enumerate() {
                let lines = found.as_ref().and_then(|found| found[number].clone());
                known.insert(address, lines.unwrap_or_else(|| vec![plain(image, address.0)]));
            }
        }
        addresses.iter().map(|address| known[address].clone()).collect()
    }

    /// The driver's stack of `thread`, from `registers` through every segment of driver code.
    pub(crate) fn walk(
        &self,
        image: &Image,
        thread: &Thread,
        registers: Registers,
        outer: *const ImportFrame,
    ) -> Vec<Frame> {
        let steps = walk(image, thread, registers, outer);
        let addresses: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Driver { address, is_return } => Some((*address, *is_return)),
                Step::Note(_) => None,
            })
            .collect();
        let mut names = self.names(image, &addresses).into_iter();
        let lines = steps.into_iter().flat_map(|step| match step {
            Step::Driver { .. } => names.next().unwrap_or_default(),
            Step::Note(note) => vec![note],
        });
        lines.map(Frame).collect()
    }
}

fn stem(image: &Image) -> String {
    image
        .path()
        .file_stem()
        .map_or_else(|| "driver".into(), |stem| stem.to_string_lossy().into_owned())
}

fn plain(image: &Image, address: usize) -> String {
    if image.contains(address) {
        format!("{}+{:#x}", stem(image), address - image.base())
    } else {
        format!("{address:#x}")
    }
}

fn from_pdb(image: &Image, addresses: &[(usize, bool)]) -> Option<Vec<Option<Vec<String>>>> {
    let pdb =
        pdb_addr2line::pdb::PDB::open(File::open(image.path().with_extension("pdb")).ok()?).ok()?;
    let data = pdb_addr2line::ContextPdbData::try_from_pdb(pdb).ok()?;
    let context = data.make_context().ok()?;
    let module = stem(image);
    let lookup = |&(address, is_return): &(usize, bool)| {
        let rva = u32::try_from(address.checked_sub(image.base())?)
            .ok()
            .filter(|_| image.contains(address))?;
        let found = context.find_frames(rva - u32::from(is_return)).ok()??;
        let last = found.frames.len().checked_sub(1)?;
        let line = |(number, frame): (usize, &pdb_addr2line::Frame<'_>)| {
            let function = frame.function.as_deref().unwrap_or("?");
            let file = short(frame.file.as_deref().unwrap_or("?"));
            let at = frame.line.unwrap_or(0);
            if number == last {
                format!("{module}!{function}+{:#x} [{file}:{at}]", rva - found.start_rva)
            } else {
                format!("{module}!{function} [{file}:{at}] (inlined)")
            }
        };
        Some(found.frames.iter().enumerate().map(line).collect())
    };
    Some(addresses.iter().map(lookup).collect())
}

fn walk(
    image: &Image,
    thread: &Thread,
    mut at: Registers,
    mut outer: *const ImportFrame,
) -> Vec<Step> {
    let mut unwinder = UnwinderX86_64::<Vec<u8>, MayAllocateDuringUnwind>::new();
    let range = image.base() as u64..(image.base() + image.size()) as u64;
    unwinder.add_module(Module::new(stem(image), range, image.base() as u64, Sections(image)));
    let mut cache = CacheX86_64::<_>::new();
    let machine = thread.machine();
    let stacks = [thread.own_stack(), thread.bounds(), machine.processor(thread.cpu()).dpc_stack()];
    let mut read = |address: u64| {
        let at = address as usize;
        let inside = stacks.iter().any(|(low, high)| at >= *low && at.saturating_add(8) <= *high);
        if inside { probe::read::<u64>(at).map_err(|_| ()) } else { Err(()) }
    };
    let mut steps = Vec::new();
    let mut first = true;
    if raw::range().contains(&(at.rip as usize)) {
        steps.push(Step::Note("nt!memory function".into()));
        at.rip = read(at.rsp).unwrap_or(0);
        at.rsp += 8;
        first = false;
    }
    while steps.len() < DEPTH {
        if at.rip == gate::call_return_address() {
            // SAFETY: null, or an import that this thread is still inside of: its frame is on the host stack.
            let Some(frame) = (unsafe { outer.as_ref() }) else {
                steps.push(Step::Note("[called by the simulator]".into()));
                break;
            };
            steps.push(Step::Note(format!("[nt!{}]", crate::nt::name_of(frame.index))));
            at = frame.registers();
            outer = frame.outer;
            first = false;
            continue;
        }
        steps.push(Step::Driver { address: at.rip as usize, is_return: !first });
        if !image.contains(at.rip as usize) {
            if !first {
                steps.push(Step::Note("[not driver code]".into()));
                break;
            }
            // A call through a wild pointer: the caller's address is on top of the stack.
            at.rip = read(at.rsp).unwrap_or(0);
            at.rsp += 8;
            first = false;
            continue;
        }
        match unwind(&unwinder, &mut cache, at, first, &mut read) {
            Ok(Some(next)) => at = next,
            Ok(None) => break,
            Err(why) => {
                steps.push(Step::Note(format!("[unwinding ends: {why}]")));
                break;
            }
        }
        first = false;
    }
    steps
}

fn unwind(
    unwinder: &UnwinderX86_64<Vec<u8>, MayAllocateDuringUnwind>,
    cache: &mut CacheX86_64<MayAllocateDuringUnwind>,
    at: Registers,
    first: bool,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
) -> Result<Option<Registers>, String> {
    let mut registers = UnwindRegsX86_64::new(at.rip, at.rsp, at.rbp);
    let saved = [
        (Reg::RBX, at.rbx),
        (Reg::RSI, at.rsi),
        (Reg::RDI, at.rdi),
        (Reg::R12, at.r12),
        (Reg::R13, at.r13),
        (Reg::R14, at.r14),
        (Reg::R15, at.r15),
    ];
    for (register, value) in saved {
        registers.set(register, value);
    }
    let address = if first {
        FrameAddress::from_instruction_pointer(at.rip)
    } else {
        FrameAddress::from_return_address(at.rip).ok_or("a return address of zero")?
    };
    let caller = unwinder
        .unwind_frame(address, &mut registers, cache, read)
        .map_err(|error| error.to_string())?;
    Ok(caller.map(|rip| Registers {
        rip,
        rsp: registers.sp(),
        rbp: registers.bp(),
        rbx: registers.get(Reg::RBX),
        rsi: registers.get(Reg::RSI),
        rdi: registers.get(Reg::RDI),
        r12: registers.get(Reg::R12),
        r13: registers.get(Reg::R13),
        r14: registers.get(Reg::R14),
        r15: registers.get(Reg::R15),
    }))
}
