//! NDIS pools and NET_BUFFER_LISTs, called as a driver calls them; and one wrong caller for each rule.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use sim::loader::probe;
use sim::nt::machine::{Machine, Options, Power};
use sim::verifier::schedule::{Mode, World};

const TAG: u64 = u32::from_le_bytes(*b"Test") as u64;
/// Offsets of NET_BUFFER_LIST and NET_BUFFER.
const FIRST: usize = 8;
const CHILDREN: usize = 132;
const CURRENT_MDL: usize = 8;
const CURRENT_OFFSET: usize = 16;
const LENGTH: usize = 24;
const CHAIN: usize = 32;
const OFFSET: usize = 40;

fn boot() -> Power {
    Machine::boot(&World::new(Mode::Parallel), Options { cpus: 1, ..Options::default() })
}

#[track_caller]
fn ndis(machine: &Machine, name: &'static str, arguments: &[u64]) -> u64 {
    match machine.call_import("ndis.sys", name, arguments) {
        Ok(value) => value,
        Err(_) => panic!("{name} stopped the machine: {}", machine.stop_report().unwrap()),
    }
}

fn nt(machine: &Machine, name: &'static str, arguments: &[u64]) -> u64 {
    machine.call_import("ntoskrnl.exe", name, arguments).unwrap()
}

/// The rule that stops the machine when `name` is called.
#[track_caller]
fn rule(machine: &Machine, name: &'static str, arguments: &[u64]) -> String {
    assert!(machine.call_import("ndis.sys", name, arguments).is_err(), "{name} did not stop");
    machine.stop_report().unwrap().rule.to_string()
}

fn parameters(machine: &Machine, with_buffer: bool, context: u16, tag: u32, data: u32) -> u64 {
    let at = machine.allocate(16);
    probe::write_bytes(at, &[0x80, 1, 16, 0, 0, with_buffer.into()]).unwrap();
    probe::write(at + 6, context).unwrap();
    probe::write(at + 8, tag).unwrap();
    probe::write(at + 12, data).unwrap();
    at as u64
}

fn pool(machine: &Machine, with_buffer: bool, data: u32) -> u64 {
    let parameters = parameters(machine, with_buffer, 0, TAG as u32, data);
    let pool = ndis(machine, "NdisAllocateNetBufferListPool", &[0, parameters]);
    assert_ne!(pool, 0);
    pool
}

/// Nonpaged memory with a counted pattern, and MDLs over its `pieces`.
fn chain(machine: &Machine, pieces: &[u32]) -> (u64, Vec<u64>) {
    let total: u32 = pieces.iter().sum();
    let block = nt(machine, "ExAllocatePool2", &[0x40, u64::from(total), TAG]);
    let pattern: Vec<u8> = (0..total).map(|n| n as u8).collect();
    probe::write_bytes(block as usize, &pattern).unwrap();
    let mut at = block;
    let mdls: Vec<u64> = pieces
        .iter()
        .map(|piece| {
            let mdl = nt(machine, "IoAllocateMdl", &[at, u64::from(*piece), 0, 0, 0]);
            nt(machine, "MmBuildMdlForNonPagedPool", &[mdl]);
            at += u64::from(*piece);
            mdl
        })
        .collect();
    for pair in mdls.windows(2) {
        probe::write(pair[0] as usize, pair[1]).unwrap();
    }
    (block, mdls)
}

fn list(machine: &Machine, pool: u64, mdl: u64, offset: u64, length: u64) -> (u64, usize) {
    let arguments = [pool, 0, 0, mdl, offset, length];
    let list = ndis(machine, "NdisAllocateNetBufferAndNetBufferList", &arguments);
    (list, probe::read::<usize>(list as usize + FIRST).unwrap())
}

fn word(at: usize) -> u32 {
    probe::read(at).unwrap()
}

#[test]
fn a_list_lies_over_its_mdls_and_is_gone_when_freed() {
    let machine = boot();
    let pool = pool(&machine, true, 0);
    let (block, mdls) = chain(&machine, &[10, 5, 100]);
    // The data begins in the third MDL: the current one is that.
    let (list, buffer) = list(&machine, pool, mdls[0], 20, 60);
    assert_eq!(probe::read::<u64>(buffer + CURRENT_MDL).unwrap(), mdls[2]);
    assert_eq!((word(buffer + CURRENT_OFFSET), word(buffer + LENGTH)), (5, 60));
    assert_ne!(probe::read::<u64>(list as usize + 112).unwrap(), 0, "Scratch is not cleared");
    ndis(&machine, "NdisFreeNetBufferList", &[list]);
    assert!(probe::read::<u64>(list as usize).is_err(), "a freed list is still there");
    ndis(&machine, "NdisFreeNetBufferListPool", &[pool]);
    for mdl in mdls {
        nt(&machine, "IoFreeMdl", &[mdl]);
    }
    nt(&machine, "ExFreePoolWithTag", &[block, TAG]);
    assert_eq!(machine.unload().unwrap(), []);
}

#[test]
fn pools_with_data_make_lists_with_data() {
    let machine = boot();
    let object = ndis(&machine, "NdisAllocateGenericObject", &[0, TAG, 32]);
    let parameters = parameters(&machine, true, 32, TAG as u32, 256);
    let pool = ndis(&machine, "NdisAllocateNetBufferListPool", &[object, parameters]);
    let list = ndis(&machine, "NdisAllocateNetBufferList", &[pool, 32, 0]) as usize;
    let buffer: usize = probe::read(list + FIRST).unwrap();
    let mdl: usize = probe::read(buffer + CHAIN).unwrap();
    assert_eq!((word(mdl + 40), word(buffer + LENGTH)), (256, 0));
    assert_eq!(probe::read::<u16>(probe::read::<usize>(list + 16).unwrap() + 8).unwrap(), 32);
    let leaks = machine.unload().unwrap();
    assert_eq!(leaks.iter().filter(|leak| leak.kind == "NDIS").count(), 2, "{leaks:?}");
    ndis(&machine, "NdisFreeNetBufferList", &[list as u64]);
    ndis(&machine, "NdisFreeNetBufferListPool", &[pool]);
    ndis(&machine, "NdisFreeGenericObject", &[object]);
    assert_eq!(machine.unload().unwrap(), []);
}

#[test]
fn any_allocation_may_fail() {
    let machine = boot();
    let parameters = parameters(&machine, true, 0, TAG as u32, 0);
    machine.faults().fail_at(0);
    assert_eq!(ndis(&machine, "NdisAllocateNetBufferListPool", &[0, parameters]), 0);
    let pool = pool(&machine, true, 0);
    machine.faults().fail_at(0);
    let arguments = [pool, 0, 0, 0, 0, 0];
    assert_eq!(ndis(&machine, "NdisAllocateNetBufferAndNetBufferList", &arguments), 0);
    assert_ne!(ndis(&machine, "NdisAllocateNetBufferAndNetBufferList", &arguments), 0);
}

#[test]
fn retreat_uses_the_room_in_front_and_then_grows() {
    let machine = boot();
    let pool = pool(&machine, true, 0);
    let (_, mdls) = chain(&machine, &[13, 87]);
    let (_, buffer) = list(&machine, pool, mdls[0], 20, 80);
    let (retreat, advance) = ("NdisRetreatNetBufferDataStart", "NdisAdvanceNetBufferDataStart");
    let at = buffer as u64;
    assert_eq!(ndis(&machine, retreat, &[at, 12, 0, 0]), 0);
    assert_eq!((word(buffer + OFFSET), word(buffer + LENGTH)), (8, 92));
    assert_eq!(probe::read::<u64>(buffer + CURRENT_MDL).unwrap(), mdls[0]);
    assert_eq!(ndis(&machine, retreat, &[at, 28, 4, 0]), 0);
    let (offset, length) = (word(buffer + OFFSET), word(buffer + LENGTH));
    assert_eq!((offset, length), (4 + 8, 120), "the backfill is left, and as much as was room");
    assert_ne!(probe::read::<u64>(buffer + CHAIN).unwrap(), mdls[0], "an MDL in front");
    ndis(&machine, advance, &[at, 28, 1, 0]);
    ndis(&machine, advance, &[at, 12, 1, 0]);
    assert_eq!(probe::read::<u64>(buffer + CHAIN).unwrap(), mdls[0]);
    assert_eq!((word(buffer + OFFSET), word(buffer + LENGTH)), (20, 80));
    assert_eq!(probe::read::<u64>(buffer + CURRENT_MDL).unwrap(), mdls[1]);
    machine.faults().fail_at(0);
    assert_eq!(ndis(&machine, retreat, &[at, 1, 0, 0]) as u32, 0xC000_009A);
    assert_eq!(word(buffer + OFFSET), 20, "a retreat that fails changes nothing");
}

#[test]
fn data_is_given_in_place_or_as_a_copy_or_not_at_all() {
    let machine = boot();
    let pool = pool(&machine, true, 0);
    let (block, mdls) = chain(&machine, &[8, 1, 0, 91]);
    let (_, buffer) = list(&machine, pool, mdls[0], 4, 90);
    let storage = machine.allocate(100) as u64;
    let get = |needed: u64, storage: u64| {
        ndis(&machine, "NdisGetDataBuffer", &[buffer as u64, needed, storage, 1, 0])
    };
    assert_eq!(get(4, 0), block + 4, "contiguous: in place");
    assert_eq!(get(5, 0), 0, "split, and no storage");
    assert_eq!(get(40, storage), storage);
    let expected: Vec<u8> = (4..44).collect();
    assert_eq!(probe::bytes(storage as usize, 40).unwrap(), expected, "over an empty MDL too");
    assert_eq!((get(91, storage), get(0, storage)), (0, 0), "more than there is, and nothing");
    let misaligned = 1 + (block + 4) % 2;
    let arguments = [buffer as u64, 4, storage, 2, misaligned % 2];
    assert_eq!(ndis(&machine, "NdisGetDataBuffer", &arguments), storage, "not so aligned");
    machine.faults().fail_at(0);
    assert_eq!(get(4, storage), 0, "mapping may fail");
}

#[test]
fn each_rule_stops_the_caller_that_breaks_it() {
    type Wrong = fn(&Machine) -> String;
    const LIST: &str = "NdisFreeNetBufferList";
    const GET: &str = "NdisGetDataBuffer";
    /// A list of 50 bytes over two MDLs, spoilt by `spoil`, then looked at.
    fn spoilt(machine: &Machine, spoil: impl FnOnce(usize, &[u64])) -> String {
        let pool = pool(machine, true, 0);
        let (_, mdls) = chain(machine, &[20, 80]);
        let (_, buffer) = list(machine, pool, mdls[0], 10, 50);
        spoil(buffer, &mdls);
        rule(machine, GET, &[buffer as u64, 4, 0, 1, 0])
    }
    let wrongs: &[(&str, Wrong)] = &[
        ("NBL_VIOLATION: N1", |m| {
            spoilt(m, |_, mdls| probe::write(mdls[1] as usize, mdls[0]).unwrap())
        }),
        ("NBL_VIOLATION: N1", |m| {
            spoilt(m, |_, mdls| probe::write(mdls[1] as usize, 0x10_u64).unwrap())
        }),
        ("NBL_VIOLATION: N2", |m| {
            spoilt(m, |buffer, _| probe::write(buffer + CURRENT_MDL, 1_u64).unwrap())
        }),
        ("NBL_VIOLATION: N2", |m| {
            spoilt(m, |buffer, _| probe::write(buffer + CHAIN, 0_u64).unwrap())
        }),
        ("NBL_VIOLATION: N3", |m| {
            spoilt(m, |buffer, _| probe::write(buffer + OFFSET, 11_u32).unwrap())
        }),
        ("NBL_VIOLATION: N4", |m| {
            spoilt(m, |buffer, _| {
                probe::write(buffer + OFFSET, 20_u32).unwrap();
                probe::write(buffer + CURRENT_OFFSET, 20_u32).unwrap();
            })
        }),
        ("NBL_VIOLATION: N5", |m| {
            spoilt(m, |buffer, _| probe::write(buffer + LENGTH, 91_u64).unwrap())
        }),
        ("NBL_VIOLATION: M1", |m| {
            spoilt(m, |_, mdls| probe::write(mdls[0] as usize + 8, 48_u16).unwrap())
        }),
        ("NBL_VIOLATION: M2", |m| {
            spoilt(m, |_, mdls| probe::write(mdls[0] as usize + 44, 4096_u32).unwrap())
        }),
        ("NBL_VIOLATION: M3", |m| {
            spoilt(m, |_, mdls| probe::write(mdls[0] as usize + 24, 0_u64).unwrap())
        }),
        ("NBL_VIOLATION: L3", |m| {
            let pool = pool(m, true, 0);
            let (list, _) = list(m, pool, 0, 0, 0);
            probe::write(list as usize + CHILDREN, 1_u32).unwrap();
            rule(m, LIST, &[list])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let pool = pool(m, true, 0);
            list(m, pool, 0, 0, 0);
            rule(m, "NdisFreeNetBufferListPool", &[pool])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let pool = pool(m, true, 0);
            let (list, _) = list(m, pool, 0, 0, 0);
            ndis(m, LIST, &[list]);
            rule(m, LIST, &[list])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let pool = pool(m, false, 0);
            rule(m, "NdisAllocateNetBufferAndNetBufferList", &[pool, 0, 0, 0, 0, 0])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let parameters = parameters(m, true, 0, 0, 0);
            rule(m, "NdisAllocateNetBufferListPool", &[0, parameters])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let parameters = parameters(m, true, 8, 7, 0);
            rule(m, "NdisAllocateNetBufferListPool", &[0, parameters])
        }),
        ("NBL_VIOLATION: L4", |m| {
            let parameters = parameters(m, false, 0, 7, 64);
            rule(m, "NdisAllocateNetBufferListPool", &[0, parameters])
        }),
        ("NBL_VIOLATION: L4", |m| rule(m, "NdisFreeGenericObject", &[64])),
        ("NBL_VIOLATION: L5", |m| {
            let pool = pool(m, true, 0);
            let (list, _) = list(m, pool, 0, 0, 0);
            probe::write(list as usize + FIRST, 0_u64).unwrap();
            rule(m, LIST, &[list])
        }),
        ("NBL_VIOLATION: N5", |m| {
            let pool = pool(m, true, 0);
            let (_, mdls) = chain(m, &[20]);
            let (_, buffer) = list(m, pool, mdls[0], 0, 10);
            rule(m, "NdisAdvanceNetBufferDataStart", &[buffer as u64, 11, 0, 0])
        }),
        ("NBL_VIOLATION: alignment", |m| rule(m, GET, &[0, 1, 0, 3, 0])),
    ];
    for (number, (expected, wrong)) in wrongs.iter().enumerate() {
        let machine = boot();
        assert_eq!(wrong(&machine), *expected, "case {number}");
    }
}

fn buffer_pool(machine: &Machine, data: u32) -> Result<u64, String> {
    let parameters = machine.allocate(16);
    probe::write_bytes(parameters, &[0x80, 1, 12, 0]).unwrap();
    probe::write(parameters + 4, TAG as u32).unwrap();
    probe::write(parameters + 8, data).unwrap();
    let made =
        machine.call_import("ndis.sys", "NdisAllocateNetBufferPool", &[0, parameters as u64]);
    made.map_err(|_| machine.stop_report().unwrap().rule.to_string())
}

#[test]
fn buffers_on_their_own_are_freed_on_their_own() {
    let machine = boot();
    let buffers = buffer_pool(&machine, 0).unwrap();
    let (block, mdls) = chain(&machine, &[10, 90]);
    machine.faults().fail_at(0);
    let arguments = [buffers, mdls[0], 20, 60];
    assert_eq!(ndis(&machine, "NdisAllocateNetBuffer", &arguments), 0);
    let buffer = ndis(&machine, "NdisAllocateNetBuffer", &arguments) as usize;
    assert_eq!(probe::read::<u64>(buffer + CURRENT_MDL).unwrap(), mdls[1]);
    assert_eq!((word(buffer + CURRENT_OFFSET), word(buffer + LENGTH)), (10, 60));
    let leaks = machine.unload().unwrap();
    assert!(leaks.iter().any(|leak| leak.detail.ends_with("1 buffers out")), "{leaks:?}");
    ndis(&machine, "NdisFreeNetBuffer", &[buffer as u64]);
    assert!(probe::read::<u64>(buffer).is_err(), "a freed buffer is still there");
    ndis(&machine, "NdisFreeNetBufferPool", &[buffers]);
    for mdl in mdls {
        nt(&machine, "IoFreeMdl", &[mdl]);
    }
    nt(&machine, "ExFreePoolWithTag", &[block, TAG]);
    assert_eq!(machine.unload().unwrap(), []);
    let rule_of = |wrong: fn(&Machine, u64) -> String| {
        let machine = boot();
        let pool = buffer_pool(&machine, 0).unwrap();
        wrong(&machine, pool)
    };
    for (wrong, expected) in [
        (
            (|m, _| rule(m, "NdisFreeNetBuffer", &[64])) as fn(&Machine, u64) -> String,
            "NBL_VIOLATION: L4",
        ),
        (|m, pool| rule(m, "NdisAllocateNetBuffer", &[pool, 0, 0, 1]), "NBL_VIOLATION: N2"),
        (|m, _| rule(m, "NdisAllocateNetBuffer", &[64, 0, 0, 0]), "NBL_VIOLATION: L4"),
        (
            |m, pool| {
                ndis(m, "NdisAllocateNetBuffer", &[pool, 0, 0, 0]);
                rule(m, "NdisFreeNetBufferPool", &[pool])
            },
            "NBL_VIOLATION: L4",
        ),
        (|m, _| buffer_pool(m, 64).unwrap_err(), "NBL_VIOLATION: L4"),
        (
            |m, buffers| {
                let pool = pool(m, true, 0);
                let (list, first) = list(m, pool, 0, 0, 0);
                let more = ndis(m, "NdisAllocateNetBuffer", &[buffers, 0, 0, 0]);
                probe::write(first, more).unwrap();
                rule(m, "NdisFreeNetBufferList", &[list])
            },
            "NBL_VIOLATION: L5",
        ),
    ] {
        assert_eq!(rule_of(wrong), expected);
    }
}

#[test]
fn an_mdl_that_a_retreat_put_in_front_and_nobody_freed_is_a_leak() {
    let machine = boot();
    let pool = pool(&machine, true, 0);
    let (list, buffer) = list(&machine, pool, 0, 0, 0);
    ndis(&machine, "NdisRetreatNetBufferDataStart", &[buffer as u64, 8, 0, 0]);
    ndis(&machine, "NdisAdvanceNetBufferDataStart", &[buffer as u64, 8, 0, 0]);
    ndis(&machine, "NdisFreeNetBufferList", &[list]);
    ndis(&machine, "NdisFreeNetBufferListPool", &[pool]);
    let leaks = machine.unload().unwrap();
    assert!(leaks.iter().any(|leak| leak.detail.contains("'NDrt'")), "{leaks:?}");
}
