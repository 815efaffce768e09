//! What Windows refuses, and what we promise about the image: headers, imports, instructions, stack.

use std::collections::{BTreeMap, BTreeSet};

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, IMAGE_DIRECTORY_ENTRY_RESOURCE, IMAGE_DIRECTORY_ENTRY_TLS,
    RT_VERSION,
};
use object::read::pe::{ImageOptionalHeader, PeFile64, ResourceDirectoryEntryData};

use crate::code::{self, Code, is_panic};

/// Bytes of stack that a chain of calls below one callback may take: half of what a thread of the kernel has.
const CALLBACK: usize = 12 * 1024;
/// The same for threads of ours and what the I/O manager calls at `PASSIVE_LEVEL`: nearly the whole stack is theirs.
const PASSIVE: usize = 16 * 1024;
const AT_PASSIVE: [&str; 3] =
    ["FxDriverEntry(", "nt::thread::run<", "nt::wdf::events::evt_io_device_control<"];
/// The same where others are above us on a stack of theirs.
const CLASSIFY: usize = 4096;
/// How often a destructor may be on the stack: what is dropped may own the last reference to something of its kind.
const ROUNDS: usize = 2;
/// How the names of the types begin that vector code asks for: who has one has saved the registers.
const TOKEN: &str = "crypto::aead::tier::cpu::";

#[test]
fn the_checksum_is_that_of_the_file() {
    let bytes = code::bytes();
    let file = PeFile64::parse(&*bytes).unwrap();
    let stored = file.nt_headers().optional_header.check_sum();
    let at = bytes.windows(4).position(|four| four == stored.to_le_bytes()).unwrap();
    let sum = (0..bytes.len()).step_by(2).filter(|place| !(at..at + 4).contains(place)).fold(
        0_u32,
        |sum, place| {
            let word = [bytes[place], bytes.get(place + 1).copied().unwrap_or(0)];
            let sum = sum + u32::from(u16::from_le_bytes(word));
            (sum & 0xFFFF) + (sum >> 16)
        },
    );
    // Source: facts/deploy-debug.md; the algorithm is CheckSumMappedFile's.
    assert_eq!(stored, sum + bytes.len() as u32);
}

#[test]
fn nothing_is_loaded_late_or_by_thread_and_the_version_is_there() {
    let bytes = code::bytes();
    let file = PeFile64::parse(&*bytes).unwrap();
    let directories = file.data_directories();
    for (number, what) in [
        (IMAGE_DIRECTORY_ENTRY_TLS, "thread-local storage"),
        (IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, "delayed imports"),
    ] {
        let there = directories.get(number).is_some_and(|entry| entry.virtual_address.get(LE) != 0);
        assert!(!there, "{what}");
    }
    let resources = directories.get(IMAGE_DIRECTORY_ENTRY_RESOURCE).expect("no resources");
    let section = resources.data(&*bytes, &file.section_table()).unwrap();
    let directory = object::read::pe::ResourceDirectory::new(section);
    let mut table = directory.root().unwrap();
    let mut levels = Vec::new();
    let data = loop {
        let entry = table.entries.first().expect("no resource");
        levels.push(entry.name_or_id().id());
        match entry.data(directory).unwrap() {
            ResourceDirectoryEntryData::Table(below) => table = below,
            ResourceDirectoryEntryData::Data(data) => break data,
        }
    };
    assert_eq!(levels[0], Some(RT_VERSION));
    let address = data.offset_to_data.get(LE);
    let content = file.section_table().pe_data_at(&*bytes, address).unwrap();
    let content = &content[..data.size.get(LE) as usize];
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    for text in ["FileVersion\0", env!("CARGO_PKG_VERSION"), "penstock.sys", "ProductName\0"] {
        let text_is = |part: &[u8]| part == wide(text);
        assert!(content.windows(2 * text.len()).any(text_is), "no {text:?} in the version");
    }
}

#[test]
fn every_import_is_one_that_the_oldest_windows_has() {
    let listed: BTreeMap<(&str, &str), &str> = include_str!("imports.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            ((word(), word()), word())
        })
        .collect();
    let bytes = code::bytes();
    let file = PeFile64::parse(&*bytes).unwrap();
    let table = file.import_table().unwrap().unwrap();
    let mut imported = BTreeSet::new();
    let mut libraries = table.descriptors().unwrap();
    while let Some(library) = libraries.next().unwrap() {
        let name = String::from_utf8(table.name(library.name.get(LE)).unwrap().to_vec()).unwrap();
        let mut thunks = table.thunks(library.original_first_thunk.get(LE)).unwrap();
        while let Some(thunk) = thunks.next::<object::pe::ImageNtHeaders64>().unwrap() {
            let (_, function) = table.hint_name(thunk.0.get(LE) as u32).unwrap();
            imported.insert((name.to_lowercase(), String::from_utf8(function.to_vec()).unwrap()));
        }
    }
    let known: BTreeSet<(String, String)> =
        listed.keys().map(|(dll, name)| ((*dll).to_owned(), (*name).to_owned())).collect();
    let new: Vec<_> = imported.difference(&known).collect();
    let old: Vec<_> = known.difference(&imported).collect();
    assert!(new.is_empty(), "not in imports.txt: since which Windows are they exported? {new:?}");
    assert!(old.is_empty(), "in imports.txt, and not imported: {old:?}");
    for ((dll, name), how) in listed {
        match how {
            "export" => (),
            "declared" => println!("warning: {dll}!{name} is in no export list"),
            other => panic!("{name}: {other} is neither export nor declared"),
        }
    }
}

#[test]
fn no_instruction_is_privileged() {
    for function in Code::read().0.values() {
        assert!(function.privileged.is_empty(), "{}: {:?}", function.name, function.privileged);
    }
}

/// Vector registers beyond SSE are whoever's was interrupted. A function that uses them asks for a token, or is called only by
/// those that do.
#[test]
fn who_has_a_frame_has_unwind_data() {
    // Without, the kernel takes a function for a leaf: stack traces end there, and exceptions go astray.
    // Source: <https://learn.microsoft.com/cpp/build/exception-handling-x64>.
    let code = Code::read();
    let framed = code.0.values().filter(|function| function.moves_stack);
    let (with, without): (Vec<_>, Vec<_>) = framed.partition(|function| function.is_unwound);
    let without: Vec<&str> = without.iter().map(|function| &*function.name).collect();
    assert!(with.len() > 400, "{}", with.len());
    assert_eq!(without, [""; 0]);
}

#[test]
fn vector_instructions_are_where_a_token_is_held() {
    let code = Code::read();
    let holds = |at: &u32| code.name(*at).contains(TOKEN);
    let mut looked_at = 0;
    for (at, function) in code.0.iter().filter(|(_, function)| !function.vector.is_empty()) {
        looked_at += 1;
        let callers: Vec<_> = code.0.iter().filter(|(_, other)| other.calls.contains(at)).collect();
        let within = !callers.is_empty() && callers.iter().all(|(caller, _)| holds(caller));
        let outside: Vec<&str> =
            callers.iter().filter(|(at, _)| !holds(at)).map(|(_, f)| &*f.name).collect();
        assert!(
            holds(at) || within,
            "{} uses vector registers at {:#x}; called by {outside:?}",
            function.name,
            function.vector[0]
        );
    }
    assert!(looked_at > 20, "{looked_at} functions with vector code: what has become of them?");
}

/// The most stack that each function takes with all that it calls, and where the deepest chain goes on.
///
/// A panic and a call through a pointer end a chain. No function calls itself, but destructors: of those that call each other the
/// sum of the frames counts, [`ROUNDS`] times, and the deepest chain out of them.
fn depths(code: &Code) -> BTreeMap<u32, (usize, Option<u32>)> {
    let calls = |at: &u32| -> Vec<u32> {
        let known = |to: &&u32| code.0.get(to).is_some_and(|function| !is_panic(&function.name));
        code.0[at].calls.iter().filter(known).copied().collect()
    };
    let below: BTreeMap<u32, BTreeSet<u32>> = (code.0.keys())
        .map(|at| {
            let (mut found, mut next) = (BTreeSet::new(), calls(at));
            while let Some(to) = next.pop() {
                if found.insert(to) {
                    next.extend(calls(&to));
                }
            }
            (*at, found)
        })
        .collect();
    let frame = |at: &u32| 8 + code.0[at].frame;
    let mut depths = BTreeMap::new();
    // Whoever reaches fewer functions is reached by those that reach more.
    let mut order: Vec<&u32> = code.0.keys().collect();
    order.sort_by_key(|at| below[at].len());
    for at in order {
        let around = below[at].iter().filter(|other| below[other].contains(at));
        let around: BTreeSet<u32> = around.copied().collect();
        let drops = |other: &u32| code.name(*other).contains("drop");
        assert!(
            around.is_empty() || around.iter().any(drops),
            "calls itself: {:?}",
            around.iter().map(|other| code.name(*other)).collect::<Vec<_>>()
        );
        let own = if around.is_empty() {
            frame(at)
        } else {
            ROUNDS * around.iter().map(frame).sum::<usize>()
        };
        let from = around.iter().chain((around.is_empty()).then_some(at));
        let deepest = from
            .flat_map(calls)
            .filter(|to| !around.contains(to))
            .map(|to| (depths.get(&to).map_or(0, |(depth, _)| *depth), to))
            .max();
        let next = deepest.map(|(_, to)| to);
        depths.insert(*at, (own + deepest.map_or(0, |(depth, _)| depth), next));
    }
    depths
}

#[test]
fn no_chain_of_calls_takes_more_stack_than_there_is() {
    let code = Code::read();
    let (depths, mut roots) = (depths(&code), code.entries());
    roots.sort_by_key(|at| std::cmp::Reverse(depths[at].0));
    for root in &roots[..12] {
        println!("{:6} {}", depths[root].0, code.name(*root));
        let mut at = *root;
        while let Some(next) = depths[&at].1 {
            at = next;
            println!("       {:5} {:.120}", code.0[&at].frame, code.name(at));
        }
    }
    for root in roots {
        let (name, depth) = (code.name(root), depths[&root].0);
        let most = if name.contains("fwp::callout::") {
            CLASSIFY
        } else if AT_PASSIVE.iter().any(|passive| name.starts_with(passive)) {
            PASSIVE
        } else {
            CALLBACK
        };
        assert!(depth <= most, "{name}: {depth} bytes");
    }
}
