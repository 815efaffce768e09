//! The code of `penstock.sys`, function by function: read from the image, their frames from the unwind data that Windows uses,
//! their names from the PDB.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use iced_x86::{Decoder, DecoderOptions, EncodingKind, FlowControl, OpKind, Register};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection};
use pdb_addr2line::ContextPdbData;
use pdb_addr2line::pdb::PDB;

/// A function of the image.
#[derive(Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Bytes of stack, with the registers it pushes.
    pub(crate) frame: usize,
    /// Whether it changes RSP between its calls, and whether there is unwind data for it.
    pub(crate) moves_stack: bool,
    pub(crate) is_unwound: bool,
    /// Functions it calls or jumps to.
    pub(crate) calls: BTreeSet<u32>,
    /// By which instructions it does: their addresses, and where they lead.
    pub(crate) sites: Vec<(u32, u32)>,
    /// Instructions that may go one way or another.
    pub(crate) branches: usize,
    /// Calls whose target the code does not say.
    pub(crate) is_open: bool,
    /// Addresses of instructions that need vector state beyond SSE: those that are encoded as VEX, EVEX or XOP.
    pub(crate) vector: Vec<u32>,
    /// Instructions that only a kernel may use, as text.
    pub(crate) privileged: Vec<String>,
}

/// All functions by their address in the image.
pub(crate) struct Code(pub(crate) BTreeMap<u32, Function>);

/// Where the built driver is.
pub(crate) fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys")
}

/// The built driver's bytes.
pub(crate) fn bytes() -> Vec<u8> {
    std::fs::read(built()).expect("scripts/build.sh makes target/driver/penstock.sys")
}

/// Whether a function never returns: what it takes of the stack, the crash has.
pub(crate) fn is_panic(name: &str) -> bool {
    let parts = ["panic", "_failed", "slice_index_fail", "handle_error", "handle_alloc_error"];
    parts.iter().any(|part| name.contains(part)) || name.contains("capacity_overflow")
}

/// The crate's cipher, which is there for a policy that wants no vector code. It panics when a key stream is longer than
/// 256 GiB, which none is, as one of its messages is a packet.
pub(crate) fn is_crate(name: &str) -> bool {
    name.starts_with("chacha20poly1305::")
}

/// The names and lines in the PDB.
fn names<'p>() -> ContextPdbData<'p, 'p, File> {
    let pdb = PDB::open(File::open(built().with_extension("pdb")).unwrap());
    ContextPdbData::try_from_pdb(pdb.unwrap()).unwrap()
}

/// The lines of source that each of these instructions stands for: its function's, innermost of what was inlined first.
pub(crate) fn lines(instructions: impl IntoIterator<Item = u32>) -> Vec<Vec<String>> {
    let names = names();
    let context = names.make_context().unwrap();
    let line = |frame: &pdb_addr2line::Frame<'_>| {
        format!("{}:{}", frame.file.as_deref().unwrap_or("?"), frame.line.unwrap_or(0))
    };
    (instructions.into_iter())
        .map(|at| {
            let found = context.find_frames(at).unwrap();
            found.map(|found| found.frames.iter().map(line).collect()).unwrap_or_default()
        })
        .collect()
}

impl Code {
    pub(crate) fn read() -> Self {
        let bytes = bytes();
        let file = PeFile64::parse(&*bytes).unwrap();
        let base = file.relative_address_base();
        let at = |rva: u32, len: usize| -> Option<&[u8]> {
            let section = file.sections().find(|section| {
                let start = (section.address() - base) as u32;
                (start..start + section.size() as u32).contains(&rva)
            })?;
            let offset = (u64::from(rva) - (section.address() - base)) as usize;
            section.data().ok()?.get(offset..offset + len)
        };
        let names = names();
        let context = names.make_context().unwrap();
        let mut functions = BTreeMap::new();
        for found in context.functions() {
            let end = found.end_rva.unwrap_or(found.start_rva);
            let code = at(found.start_rva, (end - found.start_rva) as usize).unwrap_or(&[]);
            let mut function =
                Function { name: found.name.unwrap_or_default(), ..Function::default() };
            function.scan(code, found.start_rva..end);
            functions.insert(found.start_rva, function);
        }
        let unwind = file.section_by_name(".pdata").unwrap().data().unwrap().as_chunks::<12>().0;
        for entry in unwind {
            let word =
                |index: usize| u32::from_le_bytes(*entry[4 * index..].first_chunk().unwrap());
            if let Some(function) = functions.get_mut(&word(0)) {
                function.frame = frame(|len| at(word(2), len).unwrap());
                function.is_unwound = true;
            }
        }
        Self(functions)
    }

    /// Functions whose name has `part` in it.
    pub(crate) fn named(&self, part: &str) -> Vec<u32> {
        let found: Vec<u32> =
            self.0.iter().filter(|(_, f)| f.name.contains(part)).map(|(at, _)| *at).collect();
        assert!(!found.is_empty(), "no function is named {part}");
        found
    }

    /// Functions that nobody calls directly: Windows does, or somebody through a pointer.
    pub(crate) fn entries(&self) -> Vec<u32> {
        let called: BTreeSet<u32> =
            self.0.values().flat_map(|function| function.calls.iter().copied()).collect();
        self.0.keys().filter(|at| !called.contains(at)).copied().collect()
    }

    /// What is reached from `roots`, with the way there. Code behind `stop` is not looked at.
    pub(crate) fn reach(
        &self,
        roots: &[u32],
        stop: impl Fn(&str) -> bool,
    ) -> BTreeMap<u32, Option<u32>> {
        let mut reached = BTreeMap::new();
        let mut next: Vec<(u32, Option<u32>)> = roots.iter().map(|root| (*root, None)).collect();
        while let Some((at, from)) = next.pop() {
            let Some(function) = self.0.get(&at).filter(|f| !stop(&f.name)) else { continue };
            if reached.insert(at, from).is_none() {
                next.extend(
                    function
                        .calls
                        .iter()
                        .filter(|to| !reached.contains_key(to))
                        .map(|to| (*to, Some(at))),
                );
            }
        }
        reached
    }

    /// The way by which `at` was reached, from there up.
    pub(crate) fn way(&self, reached: &BTreeMap<u32, Option<u32>>, mut at: u32) -> Vec<&str> {
        let mut way = vec![self.name(at)];
        while let Some(from) = reached[&at] {
            at = from;
            way.push(self.name(at));
        }
        way
    }

    /// The most stack from `at` down, its return address included; code behind `stop` takes none.
    pub(crate) fn depth(&self, at: u32, stop: &dyn Fn(&str) -> bool) -> usize {
        let Some(function) = self.0.get(&at).filter(|f| !stop(&f.name)) else { return 0 };
        let below = function.calls.iter().map(|to| self.depth(*to, stop)).max().unwrap_or(0);
        8 + function.frame + below
    }

    pub(crate) fn name(&self, at: u32) -> &str {
        &self.0[&at].name
    }
}

impl Function {
    /// Finds what the function calls.
    fn scan(&mut self, code: &[u8], own: std::ops::Range<u32>) {
        let start = u64::from(own.start);
        for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            if instruction.encoding() != EncodingKind::Legacy {
                self.vector.push(instruction.ip() as u32);
            }
            if instruction.is_privileged() {
                self.privileged.push(instruction.to_string());
            }
            self.moves_stack |= instruction.is_stack_instruction()
                && instruction.flow_control() != FlowControl::Return
                || instruction.op0_register() == Register::RSP;
            self.branches +=
                usize::from(instruction.flow_control() == FlowControl::ConditionalBranch);
            match instruction.flow_control() {
                FlowControl::Call
                | FlowControl::UnconditionalBranch
                | FlowControl::ConditionalBranch
                    if matches!(instruction.op0_kind(), OpKind::NearBranch64) =>
                {
                    let to = instruction.near_branch_target() as u32;
                    if !own.contains(&to) {
                        self.calls.insert(to);
                        self.sites.push((instruction.ip() as u32, to));
                    }
                }
                FlowControl::IndirectCall => self.is_open = true,
                _ => (),
            }
        }
    }
}

/// The frame that unwind data describes: what was allocated and what was pushed.
///
/// Source: <https://learn.microsoft.com/cpp/build/exception-handling-x64>.
fn frame<'d>(data: impl Fn(usize) -> &'d [u8]) -> usize {
    let count = usize::from(data(4)[2]);
    let codes: Vec<u16> = data(4 + 2 * count)[4..]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|code| u16::from_le_bytes(*code))
        .collect();
    let (mut bytes, mut at) = (0, 0);
    while at < count {
        let (operation, info) = (codes[at] >> 8 & 15, usize::from(codes[at] >> 12));
        let slot = |index: usize| usize::from(codes[at + index]);
        let (size, slots) = match (operation, info) {
            (0, _) => (8, 1),
            (1, 0) => (8 * slot(1), 2),
            (1, _) => (slot(1) | slot(2) << 16, 3),
            (2, _) => (8 * info + 8, 1),
            (3, _) => (0, 1),
            (4 | 8, _) => (0, 2),
            (5 | 9, _) => (0, 3),
            (10, _) => (40, 1),
            other => panic!("unwind code {other:?}"),
        };
        bytes += size;
        at += slots;
    }
    bytes
}
