//! Small images made here: what the loader refuses and why, and driver code that behaves and misbehaves.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sim::loader::pe::{Image, LoadError};
use sim::loader::probe;
use sim::nt::machine::{Call, Level, Machine, Options, Power};
use sim::verifier::explore::{Plan, Preemption};
use sim::verifier::rules;
use sim::verifier::schedule::{Mode, World};

/// Sections are one page each: code at 0x1000, data (an import table and room) at 0x2000, relocations at 0x3000.
const CODE: u32 = 0x1000;
const DATA: u32 = 0x2000;
const RELOCATIONS: u32 = 0x3000;
const FILE_ALIGNMENT: usize = 0x200;

/// What an image is made from.
#[derive(Clone)]
struct Recipe {
    code: Vec<u8>,
    imports: Vec<&'static str>,
    machine: u16,
    subsystem: u16,
    entry: u32,
    code_flags: u32,
}

impl Recipe {
    fn new(code: &[u8], imports: &[&'static str]) -> Self {
        Self {
            code: code.to_vec(),
            imports: imports.to_vec(),
            machine: 0x8664,
            subsystem: 1,
            entry: CODE,
            code_flags: 0x6000_0020,
        }
    }

    /// Offset of the slot of import `number` in the data section; the thunks come first, 8 bytes each.
    fn slot(number: usize) -> u32 {
        DATA + 8 * number as u32
    }

    fn data(&self) -> Vec<u8> {
        let count = self.imports.len();
        let mut data = vec![0_u8; 0x600];
        // 0: import address table, 0x100: import lookup table, 0x200: descriptors, 0x280: dll, 0x300: names.
        let put = |data: &mut [u8], at: usize, bytes: &[u8]| {
            data[at..at + bytes.len()].copy_from_slice(bytes)
        };
        let mut name_at = 0x300;
        for (number, name) in self.imports.iter().enumerate() {
            let thunk = u64::from(DATA + name_at as u32).to_le_bytes();
            put(&mut data, 8 * number, &thunk);
            put(&mut data, 0x100 + 8 * number, &thunk);
            put(&mut data, name_at + 2, name.as_bytes());
            name_at += (name.len() + 4).next_multiple_of(2);
        }
        if count > 0 {
            for (field, value) in [(0, DATA + 0x100), (12, DATA + 0x280), (16, DATA)] {
                put(&mut data, 0x200 + field, &value.to_le_bytes());
            }
            put(&mut data, 0x280, b"ntoskrnl.exe");
        }
        // At 0x500: a pointer that the one relocation fixes, to the start of the code.
        put(&mut data, 0x500, &(0x1_4000_0000_u64 + u64::from(CODE)).to_le_bytes());
        data
    }

    fn build(&self) -> Vec<u8> {
        let mut relocations = Vec::new();
        relocations.extend(DATA.to_le_bytes());
        relocations.extend(12_u32.to_le_bytes());
        relocations.extend((0xA000_u16 | 0x500).to_le_bytes());
        relocations.extend(0_u16.to_le_bytes());
        let parts: [(&[u8; 8], u32, Vec<u8>, u32); 3] = [
            (b".text\0\0\0", CODE, self.code.clone(), self.code_flags),
            (b".data\0\0\0", DATA, self.data(), 0xC000_0040),
            (b".reloc\0\0", RELOCATIONS, relocations, 0x4200_0040),
        ];
        let mut file = vec![0_u8; 0x400];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3C, &0x80_u32.to_le_bytes());
        put(0x80, b"PE\0\0");
        put(0x84, &self.machine.to_le_bytes());
        put(0x86, &3_u16.to_le_bytes());
        put(0x94, &240_u16.to_le_bytes());
        put(0x96, &0x22_u16.to_le_bytes());
        let optional = 0x98;
        put(optional, &0x20B_u16.to_le_bytes());
        put(optional + 16, &self.entry.to_le_bytes());
        put(optional + 24, &0x1_4000_0000_u64.to_le_bytes());
        put(optional + 32, &0x1000_u32.to_le_bytes());
        put(optional + 36, &(FILE_ALIGNMENT as u32).to_le_bytes());
        put(optional + 56, &0x4000_u32.to_le_bytes());
        put(optional + 60, &0x400_u32.to_le_bytes());
        put(optional + 68, &self.subsystem.to_le_bytes());
        put(optional + 108, &16_u32.to_le_bytes());
        if !self.imports.is_empty() {
            put(optional + 112 + 8, &(DATA + 0x200).to_le_bytes());
            put(optional + 112 + 12, &40_u32.to_le_bytes());
        }
        put(optional + 112 + 40, &RELOCATIONS.to_le_bytes());
        put(optional + 112 + 44, &12_u32.to_le_bytes());
        let mut raw = 0x400;
        for (number, (name, address, bytes, flags)) in parts.iter().enumerate() {
            let header = optional + 240 + 40 * number;
            let size = bytes.len().next_multiple_of(FILE_ALIGNMENT);
            put(header, *name);
            put(header + 8, &(bytes.len() as u32).to_le_bytes());
            put(header + 12, &address.to_le_bytes());
            put(header + 16, &(size as u32).to_le_bytes());
            put(header + 20, &(raw as u32).to_le_bytes());
            put(header + 36, &flags.to_le_bytes());
            raw += size;
        }
        for (_, _, bytes, _) in parts {
            let end = file.len() + bytes.len().next_multiple_of(FILE_ALIGNMENT);
            file.extend(bytes);
            file.resize(end, 0);
        }
        file
    }

    fn write(&self, name: &str) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, self.build()).unwrap();
        path
    }
}

/// `call [rip+slot]` at offset `at` of the code.
fn call_import(at: u32, number: usize) -> [u8; 6] {
    let displacement = Recipe::slot(number).wrapping_sub(CODE + at + 6).to_le_bytes();
    [0xFF, 0x15, displacement[0], displacement[1], displacement[2], displacement[3]]
}

/// Code made of parts, and `sub rsp, 40` ... `add rsp, 40; ret` around them.
fn function(parts: &[&dyn Fn(u32) -> Vec<u8>]) -> Vec<u8> {
    let mut code = vec![0x48, 0x83, 0xEC, 0x28];
    for part in parts {
        let at = code.len() as u32;
        code.extend(part(at));
    }
    code.extend([0x48, 0x83, 0xC4, 0x28, 0xC3]);
    code
}

fn boot(verified: bool, mode: Mode) -> (std::sync::Arc<World>, Power) {
    let world = World::new(mode);
    let machine = Machine::boot(&world, Options { cpus: 2, verified, ..Options::default() });
    (world, machine)
}

fn start(
    recipe: &Recipe,
    name: &str,
    verified: bool,
) -> (Power, Result<i32, sim::nt::machine::Dead>) {
    let (_, machine) = boot(verified, Mode::Parallel);
    machine.load(&recipe.write(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let status = machine.start();
    (machine, status)
}

fn refusal(bytes: &[u8]) -> String {
    match Image::from_bytes(Path::new("x.sys"), bytes, |_, _| None) {
        Ok(_) => "loaded".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn bad_files_are_refused_by_name() {
    let good = Recipe::new(&[0x31, 0xC0, 0xC3], &[]);
    assert_eq!(refusal(&good.build()), "loaded");
    let with = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = good.clone();
        change(&mut recipe);
        refusal(&recipe.build())
    };
    for (shown, want) in [
        (refusal(b"#!/bin/sh\n"), "not a Windows image"),
        (refusal(&[]), "not a Windows image"),
        (refusal(&good.build()[..0x90]), "damaged image"),
        (refusal(&good.build()[..0x500]), "lies outside the file"),
        (with(&|recipe| recipe.machine = 0xAA64), "0xaa64"),
        (with(&|recipe| recipe.subsystem = 3), "subsystem is not native"),
        (with(&|recipe| recipe.entry = 0), "no entry point"),
        (with(&|recipe| recipe.entry = DATA), "entry point is not in executable code"),
        (with(&|recipe| recipe.code_flags = 0xE000_0020), "both writable and executable"),
    ] {
        assert!(shown.contains(want), "{shown:?} should say {want:?}");
    }
    let missing = Image::load(Path::new("/nonexistent.sys"), |_, _| None);
    assert!(matches!(missing, Err(LoadError::Read(..))));
}

#[test]
fn all_missing_imports_are_listed_at_once() {
    let recipe = Recipe::new(&[0xC3], &["KeFoo", "KeSetEvent", "KeBar"]);
    let error = Image::from_bytes(Path::new("x.sys"), &recipe.build(), sim::nt::address);
    let Err(LoadError::MissingImports(names)) = error else { panic!("it loaded") };
    assert_eq!(names, ["ntoskrnl.exe!KeFoo", "ntoskrnl.exe!KeBar"]);
}

#[test]
fn damage_never_panics() {
    let good = Recipe::new(&[0x31, 0xC0, 0xC3], &["KeSetEvent"]).build();
    for at in 0..0x400 {
        for value in [0x00, 0x7F, 0xFF] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let _ = Image::from_bytes(Path::new("x.sys"), &bytes, sim::nt::address);
        }
    }
}

#[test]
fn relocations_follow_the_image() {
    let recipe = Recipe::new(&[0xC3], &[]);
    // Two at once: they cannot both be at the preferred base.
    let images = [(); 2].map(|()| {
        Image::from_bytes(Path::new("x.sys"), &recipe.build(), sim::nt::address).unwrap()
    });
    assert_ne!(images[0].base(), images[1].base());
    for image in images {
        let pointer = probe::read::<usize>(image.base() + DATA as usize + 0x500).unwrap();
        assert_eq!(pointer, image.base() + CODE as usize);
    }
}

#[test]
fn the_entry_is_called_and_calls_back() {
    let code = function(&[&|at| call_import(at, 0).to_vec()]);
    for verified in [false, true] {
        let (machine, status) =
            start(&Recipe::new(&code, &["KeQueryActiveProcessorCountEx"]), "entry.sys", verified);
        // Its first argument, the low half of the driver object's address, is no group: none are counted in it, unless it is 0.
        assert!(status.is_ok(), "{}", machine.stop_report().unwrap());
        assert!(machine.unload().unwrap().is_empty());
    }
}

#[test]
fn a_wild_read_is_a_page_fault_with_a_stack() {
    // mov rax, [0x10]
    let code = function(&[&|_| vec![0x48, 0x8B, 0x04, 0x25, 0x10, 0, 0, 0]]);
    let (machine, status) = start(&Recipe::new(&code, &[]), "wild.sys", true);
    assert!(status.is_err());
    let report = machine.stop_report().unwrap();
    assert_eq!((report.code, report.parameters[0]), (0x50, 0x10), "{report}");
    assert_eq!(report.rule, &rules::PAGE_FAULT_IN_NONPAGED_AREA);
    assert!(report.stack[0].0.starts_with("wild+0x1004"), "{report}");
    let code: Vec<&str> = report.around.iter().map(|line| line.trim()).collect();
    // It has no unwind data, which says where a function begins.
    assert_eq!(code[..2], ["=> +0x1004  mov rax,[10h]", "+0x100c  add rsp,28h"], "{report}");
    assert!(
        machine.call_import("ntoskrnl.exe", "KeGetCurrentIrql", &[]).is_err(),
        "a dead machine runs nothing"
    );
}

#[test]
fn executing_data_or_writing_code_is_a_fault() {
    // lea rax, [rip + data]; call rax
    let displacement = (DATA + 0x400).wrapping_sub(CODE + 4 + 7).to_le_bytes();
    let call_data =
        function(&[&|_| [&[0x48, 0x8D, 0x05], &displacement[..], &[0xFF, 0xD0]].concat()]);
    // mov byte ptr [rip-7], 0
    let write_code = function(&[&|_| vec![0xC6, 0x05, 0xF9, 0xFF, 0xFF, 0xFF, 0x00]]);
    for (code, what) in [(call_data, "execution of"), (write_code, "write to")] {
        let (machine, status) = start(&Recipe::new(&code, &[]), "wx.sys", true);
        assert!(status.is_err());
        let report = machine.stop_report().unwrap().to_string();
        assert!(report.contains(what), "{report}");
    }
}

#[test]
fn an_undefined_instruction_is_an_exception() {
    let code = function(&[&|_| vec![0x0F, 0x0B]]);
    let (machine, status) = start(&Recipe::new(&code, &[]), "undefined.sys", true);
    assert!(status.is_err());
    let report = machine.stop_report().unwrap();
    assert_eq!(report.rule, &rules::KMODE_EXCEPTION_NOT_HANDLED, "{report}");
}

#[test]
fn a_stack_overflow_says_so() {
    // push rax; jmp back to it
    let (machine, status) = start(&Recipe::new(&[0x50, 0xEB, 0xFD], &[]), "overflow.sys", true);
    assert!(status.is_err());
    let report = machine.stop_report().unwrap().to_string();
    assert!(report.contains("stack overflow"), "{report}");
}

#[test]
fn spoiled_vector_registers_are_seen() {
    // vxorps ymm1, ymm1, ymm1
    let spoil = vec![0xC5, 0xF4, 0x57, 0xC9];
    // xorps xmm7, xmm7: win64 preserves it; xorps xmm1, xmm1: it does not.
    let (preserved, free) = (vec![0x0F, 0x57, 0xFF], vec![0x0F, 0x57, 0xC9]);
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    for (part, want) in [(spoil, Some("YMM")), (preserved, Some("XMM7")), (free, None)] {
        let code = function(&[&|_| part.clone()]);
        let (machine, status) = start(&Recipe::new(&code, &[]), "vector.sys", true);
        match want {
            None => assert!(status.is_ok(), "{}", machine.stop_report().unwrap()),
            Some(want) => {
                let report = machine.stop_report().unwrap().to_string();
                assert!(
                    report.contains("EXTENDED STATE CORRUPTED") && report.contains(want),
                    "{report}"
                );
            }
        }
    }
}

/// One that draws no steps between the second place of the first actor and the preemption there.
const SEED: u64 = 2;

/// One thread of a driver is preempted, for another that can run, where `plan` says: what its entry returned, and the world.
fn preempted(recipe: &Recipe, seed: u64, plan: Plan) -> (Power, i32, usize) {
    let world = World::exploring(seed, plan);
    let _main = world.enter("main");
    let machine = Machine::boot(&world, Options { cpus: 2, ..Options::default() });
    machine.load(&recipe.write("preempted.sys")).unwrap();
    // Until it is preempted it has the baton: the other can run and does not.
    let other = world.spawn("other", || {});
    let status = machine.start().unwrap_or_else(|_| panic!("{}", machine.stop_report().unwrap()));
    let switches = world.switches().len();
    other.join(None);
    (machine, status, switches)
}

#[test]
fn who_is_preempted_at_an_atomic_finds_other_vector_registers() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    let (place, counter) = (DATA + 0x580, DATA + 0x5C0);
    let with_place = |opcode: &'static [u8], to: u32, behind: &'static [u8]| {
        move |at: u32| {
            let end = CODE + at + (opcode.len() + 4 + behind.len()) as u32;
            [opcode, &to.wrapping_sub(end).to_le_bytes()[..], behind].concat()
        }
    };
    // vextractf128 [place], ymm1, 1; mov rax, [place]; lock inc dword [counter]; and again; sub rax, [place]
    let look = with_place(&[0xC4, 0xE3, 0x7D, 0x19, 0x0D], place, &[1]);
    let load = with_place(&[0x48, 0x8B, 0x05], place, &[]);
    let count = with_place(&[0xF0, 0xFF, 0x05], counter, &[]);
    let differs = with_place(&[0x48, 0x2B, 0x05], place, &[]);
    let recipe = Recipe::new(&function(&[&look, &load, &count, &look, &differs]), &[]);
    let counted = |machine: &Machine| {
        let base = machine.image().unwrap().base();
        probe::read::<u32>(base + counter as usize).unwrap()
    };
    let (machine, status, switches) = preempted(&recipe, SEED, Plan::Listed([].into()));
    assert_eq!((status, switches, counted(&machine)), (0, 0, 1));
    // Its first place is where the entry is called, its second the atomic.
    let at = |point| Plan::Listed([Preemption { actor: 1, point }].into());
    let (machine, status, switches) = preempted(&recipe, SEED, at(1));
    assert_eq!((status, switches, counted(&machine)), (0, 1, 1));
    let (machine, status, switches) = preempted(&recipe, SEED, at(2));
    assert_eq!((switches, counted(&machine)), (1, 1));
    assert_ne!(status, 0, "the upper half of YMM1 is as before");
    // With other seeds some steps behind the atomic: before the second look, or behind it, or it has returned by then.
    let outcomes: BTreeSet<_> = (0..64)
        .map(|seed| {
            let (_machine, status, switches) = preempted(&recipe, seed, at(2));
            (switches, status != 0)
        })
        .collect();
    assert_eq!(outcomes, [(0, false), (1, false), (1, true)].into());
}

#[test]
fn a_loop_that_nobody_can_end_is_a_stop() {
    // pause; jmp back to it
    let recipe = Recipe::new(&[0xF3, 0x90, 0xEB, 0xFC], &[]);
    let world = World::exploring(1, Plan::Listed([].into()));
    let _main = world.enter("main");
    let machine = Machine::boot(&world, Options { cpus: 2, ..Options::default() });
    machine.load(&recipe.write("endless.sys")).unwrap();
    assert!(machine.start().is_err());
    let report = machine.stop_report().unwrap().to_string();
    assert_eq!(machine.stop_report().unwrap().rule, &rules::ENDLESS_SPIN);
    assert!(report.contains("spins for ever") && report.contains("seed 1, 0 pre"), "{report}");
}

#[test]
fn a_saved_and_restored_state_is_whole() {
    // Save all vector parts into the data section, spoil YMM1, restore.
    let place = DATA + 0x580;
    let lea_rdx = |at: u32| {
        let displacement = place.wrapping_sub(CODE + at + 7).to_le_bytes();
        [&[0x48, 0x8D, 0x15], &displacement[..]].concat()
    };
    let lea_rcx = |at: u32| {
        let displacement = place.wrapping_sub(CODE + at + 7).to_le_bytes();
        [&[0x48, 0x8D, 0x0D], &displacement[..]].concat()
    };
    let mask = |_: u32| vec![0xB9, 0xFF, 0xFF, 0xFF, 0xFF]; // mov ecx, -1
    let enabled = |at: u32| call_import(at, 2).to_vec();
    let take = |_: u32| vec![0x48, 0x89, 0xC1]; // mov rcx, rax
    let save = |at: u32| call_import(at, 0).to_vec();
    let spoil = |_: u32| vec![0xC5, 0xF4, 0x57, 0xC9];
    let restore = |at: u32| call_import(at, 1).to_vec();
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    let names = [
        "KeSaveExtendedProcessorState",
        "KeRestoreExtendedProcessorState",
        "RtlGetEnabledExtendedFeatures",
    ];
    let whole = function(&[&mask, &enabled, &take, &lea_rdx, &save, &spoil, &lea_rcx, &restore]);
    let (machine, status) = start(&Recipe::new(&whole, &names), "saved.sys", true);
    assert!(status.is_ok(), "{}", machine.stop_report().unwrap());
    let forgotten = function(&[&mask, &enabled, &take, &lea_rdx, &save]);
    let (machine, status) = start(&Recipe::new(&forgotten, &names), "forgotten.sys", true);
    assert!(status.is_err());
    let report = machine.stop_report().unwrap().to_string();
    assert!(report.contains("EXTENDED STATE NOT RESTORED"), "{report}");
}

#[test]
fn an_endless_loop_ends_with_its_machine() {
    // jmp to itself, in a thread of its own; then the machine is stopped from outside.
    let (world, machine) = boot(true, Mode::Parallel);
    machine.load(&Recipe::new(&[0xEB, 0xFE], &[]).write("loop.sys")).unwrap();
    let looping = machine.clone();
    let thread = world.spawn("loop", move || assert!(looping.start().is_err()));
    world.sleep(Duration::from_millis(50));
    machine.die(&rules::SIMULATOR, "enough");
    assert!(thread.join(Some(world.now() + Duration::from_secs(10))));
}

#[test]
fn dpcs_run_at_dispatch_on_their_own_cpu() {
    // The "DPC" is KeGetCurrentIrql's caller: it stores the IRQL and CPU in the data section.
    let store = |at: u32| {
        let displacement = (DATA + 0x5A0).wrapping_sub(CODE + at + 6).to_le_bytes();
        [&[0x89, 0x05], &displacement[..]].concat() // mov [rip+x], eax
    };
    let store_cpu = |at: u32| {
        let displacement = (DATA + 0x5A4).wrapping_sub(CODE + at + 6).to_le_bytes();
        [&[0x89, 0x05], &displacement[..]].concat()
    };
    let code = function(&[
        &|at| call_import(at, 0).to_vec(),
        &store,
        &|_| vec![0x31, 0xC9], // xor ecx, ecx
        &|at| call_import(at, 1).to_vec(),
        &store_cpu,
    ]);
    for mode in [Mode::Parallel, Mode::Virtual { seed: 8 }] {
        let (world, machine) = boot(true, mode);
        let _main = world.enter("main");
        let names = ["KeGetCurrentIrql", "KeGetCurrentProcessorNumberEx"];
        machine.load(&Recipe::new(&code, &names).write("dpc.sys")).unwrap();
        let image = machine.image().unwrap();
        let dpc = machine.allocate(64) as u64;
        let number = machine.allocate(4);
        let nt = |name, arguments: &[u64]| {
            machine
                .call_import("ntoskrnl.exe", name, arguments)
                .unwrap_or_else(|_| panic!("{}", machine.stop_report().unwrap()))
        };
        nt("KeInitializeDpc", &[dpc, image.entry() as u64, 0]);
        for cpu in [1_u8, 0, 1] {
            probe::write(number + 2, cpu).unwrap();
            assert_eq!(nt("KeSetTargetProcessorDpcEx", &[dpc, number as u64]), 0);
            assert_eq!(nt("KeInsertQueueDpc", &[dpc, 1, 2]) as u8, 1);
            nt("KeFlushQueuedDpcs", &[]);
            let data = image.base() + DATA as usize;
            let irql = probe::read::<u32>(data + 0x5A0).unwrap() & 0xFF;
            assert_eq!((irql, probe::read::<u32>(data + 0x5A4).unwrap()), (2, cpu.into()));
            probe::write(data + 0x5A4, 77_u32).unwrap();
        }
        drop(image);
        assert!(machine.unload().unwrap().is_empty());
    }
}

#[test]
fn system_threads_start_end_and_are_waited_for() {
    // The thread calls PsTerminateSystemThread and, if that returned, would run into an undefined instruction.
    let code =
        [&[0x48, 0x83, 0xEC, 0x28][..], &[0x31, 0xC9], &call_import(6, 0), &[0x0F, 0x0B]].concat();
    for mode in [Mode::Parallel, Mode::Virtual { seed: 8 }] {
        let (world, machine) = boot(true, mode);
        let _main = world.enter("main");
        machine
            .load(&Recipe::new(&code, &["PsTerminateSystemThread"]).write("thread.sys"))
            .unwrap();
        let entry = machine.image().unwrap().entry() as u64;
        let (handle, object) = (machine.allocate(8), machine.allocate(8));
        let nt = |name, arguments: &[u64]| {
            machine
                .call_import("ntoskrnl.exe", name, arguments)
                .unwrap_or_else(|_| panic!("{}", machine.stop_report().unwrap()))
        };
        assert_eq!(nt("PsCreateSystemThread", &[handle as u64, 0, 0, 0, 0, entry, 5]), 0);
        let opened = probe::read::<u64>(handle).unwrap();
        assert_eq!(nt("ObReferenceObjectByHandle", &[opened, 0, 0, 0, object as u64, 0]), 0);
        let thread = probe::read::<u64>(object).unwrap();
        assert_eq!(nt("KeWaitForSingleObject", &[thread, 0, 0, 0, 0]), 0);
        assert_eq!(machine.unload().unwrap().len(), 2, "a handle and a reference are left");
        assert_eq!(nt("ZwClose", &[opened]), 0);
        nt("ObfDereferenceObject", &[thread]);
        assert_eq!(machine.unload().unwrap(), []);
    }
}

#[test]
fn timers_fire_at_dispatch_and_are_waited_for() {
    // Counts its calls in the data section: lock inc dword ptr [rip+x]; ret
    let displacement = (DATA + 0x5A0).wrapping_sub(CODE + 7).to_le_bytes();
    let code = [&[0xF0, 0xFF, 0x05][..], &displacement, &[0xC3]].concat();
    for mode in [Mode::Parallel, Mode::Virtual { seed: 8 }] {
        let (world, machine) = boot(true, mode);
        let _main = world.enter("main");
        machine.load(&Recipe::new(&code, &[]).write("timer.sys")).unwrap();
        let image = machine.image().unwrap();
        let count = || probe::read::<u32>(image.base() + DATA as usize + 0x5A0).unwrap();
        let nt = |name, arguments: &[u64]| {
            machine
                .call_import("ntoskrnl.exe", name, arguments)
                .unwrap_or_else(|_| panic!("{}", machine.stop_report().unwrap()))
        };
        let timer = nt("ExAllocateTimer", &[image.entry() as u64, 0, 4]);
        let due = |milliseconds: i64| (-milliseconds * 10_000).cast_unsigned();
        assert_eq!(nt("ExSetTimer", &[timer, due(40), 0, 0]) as u8, 0);
        assert_eq!(nt("ExSetTimer", &[timer, due(30), 0, 0]) as u8, 1, "it was set");
        assert_eq!(count(), 0);
        world.sleep(Duration::from_millis(300));
        assert_eq!(count(), 1);
        nt("ExSetTimer", &[timer, due(30), 0, 0]);
        assert_eq!(nt("ExCancelTimer", &[timer, 0]) as u8, 1);
        world.sleep(Duration::from_millis(100));
        assert_eq!(count(), 1);
        assert_eq!(machine.unload().unwrap().len(), 1, "the timer is left");
        assert_eq!(nt("ExDeleteTimer", &[timer, 1, 1, 0]) as u8, 0);
        assert_eq!(machine.unload().unwrap(), []);
    }
}

#[test]
fn a_budget_of_stack_is_kept() {
    // sub rsp, 0x1000; mov [rsp], rax; add rsp, 0x1000; ret
    let code = [
        0x48, 0x81, 0xEC, 0, 0x10, 0, 0, 0x48, 0x89, 0x04, 0x24, 0x48, 0x81, 0xC4, 0, 0x10, 0, 0,
        0xC3,
    ];
    for (budget, fits) in [(0x2000, true), (0xF00, false)] {
        let (_, machine) = boot(true, Mode::Parallel);
        machine.load(&Recipe::new(&code, &[]).write("budget.sys")).unwrap();
        let entry = machine.image().unwrap().entry();
        let call = Call::new("Advance", entry, Level::Dispatch).stack(budget);
        assert_eq!(machine.call(call, &[]).is_ok(), fits);
        assert!(machine.stop_report().is_none_or(|stop| stop.rule == &rules::STACK_BUDGET));
        let used = machine.stack_use()["Advance"];
        assert!((0x1000..0x1200).contains(&used), "{used:#x}");
    }
}

#[test]
fn loading_a_hundred_times_leaves_nothing() {
    let (_, machine) = boot(true, Mode::Parallel);
    let path = Recipe::new(&[0x31, 0xC0, 0xC3], &["KeSetEvent"]).write("again.sys");
    for _ in 0..100 {
        machine.load(&path).unwrap();
        assert_eq!(machine.start(), Ok(0));
        assert_eq!(machine.unload().unwrap(), []);
    }
}

/// The driver that `scripts/build.sh` made, or the one that `PENSTOCK_SYS` names.
fn built_driver() -> Option<PathBuf> {
    let named = std::env::var_os("PENSTOCK_SYS").map(PathBuf::from);
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
    named.or_else(|| Some(built()).filter(|path| path.exists()))
}

#[test]
fn everything_the_built_driver_imports_is_provided() {
    let Some(path) = built_driver() else {
        eprintln!("not checked: no penstock.sys (scripts/build.sh makes it)");
        return;
    };
    let image = Image::load(&path, sim::nt::address).unwrap_or_else(|error| panic!("{error}"));
    assert!(!image.imports().is_empty());
}
