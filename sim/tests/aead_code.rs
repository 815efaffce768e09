//! What the built `penstock.sys` says about its AEAD: that it cannot panic, and how much stack it takes.
//!
//! The code of each function is read from the image, its frame from the unwind data that Windows uses, and its name from the
//! PDB. Calls are followed from where a batch begins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection};

/// What a batch uses at most below whoever calls it, its return address included.
const BOUND: usize = 4096;
/// The machine code that wipes has the length of what it wipes in its name.
const CLEARERS: [&str; 3] = ["wipe::after128", "wipe::after256", "wipe::after512"];

/// A function of the image.
#[derive(Default)]
struct Function {
    name: String,
    /// Bytes of stack, with the registers it pushes.
    frame: usize,
    /// Functions it calls or jumps to.
    calls: BTreeSet<u32>,
    /// Calls whose target the code does not say.
    is_open: bool,
}

/// All functions by their address in the image.
struct Code(BTreeMap<u32, Function>);

impl Code {
    fn read() -> Self {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
        let bytes =
            std::fs::read(&built).expect("scripts/build.sh makes target/driver/penstock.sys");
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
        let pdb = pdb_addr2line::pdb::PDB::open(File::open(built.with_extension("pdb")).unwrap());
        let data = pdb_addr2line::ContextPdbData::try_from_pdb(pdb.unwrap()).unwrap();
        let context = data.make_context().unwrap();
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
            }
        }
        Self(functions)
    }

    /// Functions whose name has `part` in it.
    fn named(&self, part: &str) -> Vec<u32> {
        let found: Vec<u32> =
            self.0.iter().filter(|(_, f)| f.name.contains(part)).map(|(at, _)| *at).collect();
        assert!(!found.is_empty(), "no function is named {part}");
        found
    }

    /// What is reached from `roots`, with the way there. Code behind `stop` is not looked at.
    fn reach(&self, roots: &[u32], stop: impl Fn(&str) -> bool) -> BTreeMap<u32, Option<u32>> {
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

    /// The most stack from `at` down, its return address included; code behind `stop` takes none.
    fn depth(&self, at: u32, stop: &dyn Fn(&str) -> bool) -> usize {
        let Some(function) = self.0.get(&at).filter(|f| !stop(&f.name)) else { return 0 };
        let below = function.calls.iter().map(|to| self.depth(*to, stop)).max().unwrap_or(0);
        8 + function.frame + below
    }

    fn name(&self, at: u32) -> &str {
        &self.0[&at].name
    }
}

impl Function {
    /// Finds what the function calls.
    fn scan(&mut self, code: &[u8], own: std::ops::Range<u32>) {
        let start = u64::from(own.start);
        for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
            match instruction.flow_control() {
                FlowControl::Call
                | FlowControl::UnconditionalBranch
                | FlowControl::ConditionalBranch
                    if matches!(instruction.op0_kind(), OpKind::NearBranch64) =>
                {
                    let to = instruction.near_branch_target() as u32;
                    if !own.contains(&to) {
                        self.calls.insert(to);
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

/// Where batches begin, whatever the compiler inlined into its callers.
fn roots(code: &Code) -> Vec<u32> {
    ["crypto::aead::batch::seal_all<", "crypto::aead::batch::open_all<", "crypto::aead::seal"]
        .iter()
        .flat_map(|name| code.named(name))
        .collect()
}

/// The crate's cipher, which is there for a policy that wants no vector code. It panics when a key stream is longer than
/// 256 GiB, which no text of ours is.
fn is_crate(name: &str) -> bool {
    name.starts_with("chacha20poly1305::")
}

#[test]
fn no_batch_reaches_a_panic() {
    let code = Code::read();
    let reached = code.reach(&roots(&code), is_crate);
    let way = |mut at: u32| {
        let mut way = vec![code.name(at)];
        while let Some(from) = reached[&at] {
            at = from;
            way.push(code.name(at));
        }
        way
    };
    for at in reached.keys() {
        let name = code.name(*at);
        assert!(!name.contains("panic") && !name.contains("_failed"), "{:?}", way(*at));
        assert!(!code.0[at].is_open, "calls through a pointer: {:?}", way(*at));
    }
    for part in
        ["chacha512::wide_pass", "poly52::full_chunks", "vector256::pass", "engines::ifma_open_one"]
    {
        assert!(reached.keys().any(|at| code.name(*at).contains(part)), "{part} was not looked at");
    }
}

#[test]
fn a_batch_takes_at_most_four_kibibytes_of_stack_and_wipes_all_of_it() {
    let code = Code::read();
    for root in roots(&code) {
        let depth = code.depth(root, &|_| false);
        println!("{depth:5} {}", code.name(root));
        assert!(depth <= BOUND, "{}: {depth} bytes", code.name(root));
    }
    let groups: Vec<usize> = (code.named("batch::seal_all<").iter())
        .chain(&code.named("batch::open_all<"))
        .map(|at| code.depth(*at, &is_crate))
        .collect();
    let alone = |name: &str| name.contains("_group<");
    let few: Vec<usize> = (code.named("batch::seal_all<").iter())
        .chain(&code.named("batch::open_all<"))
        .map(|at| code.depth(*at, &alone))
        .collect();
    for name in CLEARERS {
        for at in code.named(name) {
            let frame = 8 + code.0[&at].frame;
            let mut wiped: Vec<usize> = (code.0[&at].calls.iter())
                .filter(|to| code.name(**to).contains("wipe::stack"))
                .map(|to| frame + 8 + code.0[to].frame)
                .collect();
            wiped.sort_unstable();
            println!("{name}: {wiped:?}, groups {groups:?}, alone {few:?}");
            assert_eq!(wiped.len(), 2, "{name}");
            assert!(
                few.iter().all(|depth| *depth <= wiped[0]),
                "alone goes deeper than {name} wipes"
            );
            assert!(
                groups.iter().all(|depth| *depth <= wiped[1]),
                "a group goes deeper than {name} wipes"
            );
        }
    }
}
