//! The driver's flight recorder, read from its memory as a debugger would.

use abi::descriptor::{self, HEAD_BYTES, recorder_of};
use abi::events::{Descriptor, Noted};

use crate::loader::probe;
use crate::nt::machine::Machine;

/// Records that a report shows at most.
pub(crate) const TAIL: usize = 16;

/// The newest `most` records of all CPUs, oldest first, each with the CPU that wrote it. None from a driver without a recorder.
pub(crate) fn newest(machine: &Machine, most: usize) -> Vec<(u32, Noted)> {
    let mut all = read(machine).unwrap_or_default();
    all.sort_by_key(|(_, noted)| noted.time);
    all.drain(..all.len().saturating_sub(most));
    all
}

/// The same, as lines.
pub(crate) fn lines(machine: &Machine, most: usize) -> Vec<String> {
    let newest = newest(machine, most);
    let last = newest.last().map_or(0, |(_, noted)| noted.time);
    let line = |(cpu, noted): &(u32, Noted)| {
        let before = last - noted.time;
        format!("{before:>14} ticks before, CPU {cpu}, IRQL {}: {noted}", noted.irql)
    };
    newest.iter().map(line).collect()
}

fn read(machine: &Machine) -> Option<Vec<(u32, Noted)>> {
    let descriptor = machine.image()?.export(descriptor::NAME)?;
    let recorder = recorder_of(&probe::bytes(descriptor, HEAD_BYTES).ok()?)? as usize;
    let found = Descriptor::parse(&probe::bytes(recorder, size_of::<Descriptor>()).ok()?)?;
    let mut all = Vec::new();
    if found.rings == 0 {
        return Some(all);
    }
    for cpu in 0..found.ring_count {
        let ring = found.rings as usize + cpu as usize * found.ring_bytes;
        let Ok(next) = probe::read::<u64>(ring) else { continue };
        for number in next.saturating_sub(found.records as u64)..next {
            let at = number as usize % found.records * found.record_bytes;
            let bytes = probe::bytes(ring + found.records_at + at, found.record_bytes).ok();
            let noted = bytes.and_then(|bytes| Noted::parse(bytes.first_chunk()?, number));
            all.extend(noted.map(|noted| (cpu, noted)));
        }
    }
    Some(all)
}
