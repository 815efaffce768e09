//! Where a machine's CPUs are: processor groups, NUMA nodes and efficiency classes (`KeQueryLogicalProcessorRelationship`).
//!
//! A CPU of the simulator has an index. NT's group and number are its name to the driver, and may have gaps: of a group of 64
//! only some need run, as on a machine whose others may be added. Each CPU is a core of its own; packages and caches are not
//! modelled.

use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::status::{STATUS_INFO_LENGTH_MISMATCH, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::nt::thread::Thread;
use crate::verifier::rules;

/// `RelationProcessorCore`.
const CORE: u32 = 0;
/// `RelationNumaNode`.
const NODE: u32 = 1;
/// Bytes of a structure about one core, or one node, that is in one group.
const INFORMATION: u32 = 48;
/// All groups.
const ALL: u16 = 0xFFFF;

/// Where one CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its processor group.
    pub group: u16,
    /// Its number in the group, below 64.
    pub number: u8,
    /// Its NUMA node.
    pub node: u16,
    /// Its efficiency class; the greater, the faster.
    pub class: u8,
}

/// The CPUs that run, by index, and how many each group has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    places: Vec<Place>,
    room: u32,
}

impl Topology {
    /// `cpus` in one group and node, all alike, and none to come.
    #[must_use]
    pub fn plain(cpus: u32) -> Self {
        let place = |number| Place { group: 0, number, node: 0, class: 0 };
        Self { places: (0..cpus as u8).map(place).collect(), room: cpus }
    }

    /// CPUs at `places`, in groups that have room for 64 each.
    ///
    /// # Panics
    ///
    /// When there is none, more than 64, or not in the order of groups and numbers.
    #[must_use]
    pub fn of(places: &[Place]) -> Self {
        assert!((1..=64).contains(&places.len()), "{} CPUs run", places.len());
        assert!(places.is_sorted_by_key(|place| (place.group, place.number)), "{places:?}");
        assert!(places.iter().all(|place| place.number < 64), "{places:?}");
        Self { places: places.to_vec(), room: 64 }
    }

    /// How many run.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.places.len() as u32
    }

    /// Where the CPU of an index is.
    pub(crate) fn place(&self, index: u32) -> Option<&Place> {
        self.places.get(index as usize)
    }

    /// The index of a CPU that runs.
    pub(crate) fn index(&self, group: u16, number: u8) -> Option<u32> {
        let at = |place: &Place| (place.group, place.number) == (group, number);
        self.places.iter().position(at).map(|index| index as u32)
    }

    /// How many run in a group, or in all.
    pub(crate) fn active(&self, group: u16) -> u32 {
        let of = |place: &&Place| group == ALL || place.group == group;
        self.places.iter().filter(of).count() as u32
    }

    /// How many there may be in a group, or in all.
    pub(crate) fn maximum(&self, group: u16) -> u32 {
        let groups = self.places.iter().map(|place| place.group).max().unwrap_or(0) + 1;
        match group {
            ALL => self.room * u32::from(groups),
            group if group < groups => self.room,
            _ => 0,
        }
    }

    /// The indices, as bits, of CPUs that run and that a group's mask names.
    pub(crate) fn indices(&self, group: u16, mask: u64) -> u64 {
        let named = |place: &Place| place.group == group && mask >> place.number & 1 != 0;
        let bits = self.places.iter().enumerate().filter(|(_, place)| named(place));
        bits.fold(0, |bits, (index, _)| bits | 1 << index)
    }

    /// The mask of those of `indices` that are in a group.
    pub(crate) fn mask(&self, group: u16, indices: u64) -> u64 {
        let named = |index: usize, place: &Place| place.group == group && indices >> index & 1 != 0;
        let places = self.places.iter().enumerate().filter(|(index, place)| named(*index, place));
        places.fold(0, |mask, (_, place)| mask | 1 << place.number)
    }
}

/// Reads a `PROCESSOR_NUMBER`: the index of the CPU, if it runs.
pub(crate) fn read_number(machine: &Machine, number: usize) -> Result<Option<u32>, Fault> {
    let (group, cpu) = (probe::read::<u16>(number)?, probe::read::<u8>(number + 2)?);
    Ok(machine.topology().index(group, cpu))
}

/// Writes the `PROCESSOR_NUMBER` of a CPU.
pub(crate) fn write_number(machine: &Machine, number: usize, index: u32) -> Result<(), Fault> {
    let Some(place) = machine.topology().place(index) else { return Ok(()) };
    probe::write(number, place.group)
        .and_then(|()| probe::write_bytes(number + 2, &[place.number, 0]))
}

/// Puts a `SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX` about the CPU of `index`.
fn put(machine: &Machine, index: u32, relation: u32, to: usize) -> Result<(), Fault> {
    let topology = machine.topology();
    let Some(place) = topology.place(index) else { return Ok(()) };
    let related = |other: &Place| match relation {
        CORE => other == place,
        _ => other.node == place.node,
    };
    let indices = topology.places.iter().enumerate().filter(|(_, other)| related(other));
    let indices = indices.fold(0, |bits, (index, _)| bits | 1 << index);
    probe::fill(to, 0, INFORMATION as usize)?;
    probe::write(to, relation)?;
    probe::write(to + 4, INFORMATION)?;
    match relation {
        CORE => probe::write(to + 9, place.class)?,
        _ => probe::write(to + 8, u32::from(place.node))?,
    }
    // GroupCount, and the one GROUP_AFFINITY.
    probe::write(to + 30, 1_u16)?;
    probe::write(to + 32, topology.mask(place.group, indices))?;
    probe::write(to + 40, place.group)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// What a CPU has in common with others: here its core, with the efficiency class, and its node. Of a node that spans
    /// groups only the group of the CPU that is asked about is told.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kequerylogicalprocessorrelationship"]
    fn KeQueryLogicalProcessorRelationship(thread, number: usize, relation: u32, information: usize, length: usize) -> i32 {
        if number == 0 || !matches!(relation, CORE | NODE) {
            let detail = format!("relation {relation} of {}", if number == 0 { "every CPU" } else { "a CPU" });
            thread.stop(&rules::NOT_PROVIDED, detail);
            return 0;
        }
        match query(thread, number, relation, information, length) {
            Ok(status) => status,
            Err(Fault(address)) => thread.bad_pointer("Information", address),
        }
    }
}

fn query(
    thread: &Thread,
    number: usize,
    relation: u32,
    information: usize,
    length: usize,
) -> Result<i32, Fault> {
    let Some(index) = read_number(thread.machine(), number)? else {
        return Ok(STATUS_INVALID_PARAMETER);
    };
    let room = probe::read::<u32>(length)?;
    probe::write(length, INFORMATION)?;
    if information == 0 || room < INFORMATION {
        return Ok(STATUS_INFO_LENGTH_MISMATCH);
    }
    put(thread.machine(), index, relation, information)?;
    Ok(STATUS_SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_places_are_one_to_one_through_gaps() {
        let place = |group, number| Place { group, number, node: group, class: 0 };
        let topology = Topology::of(&[place(0, 0), place(0, 5), place(1, 63)]);
        assert_eq!((topology.cpus(), topology.active(0), topology.active(1)), (3, 2, 1));
        assert_eq!((topology.active(2), topology.active(ALL)), (0, 3));
        assert_eq!((topology.maximum(1), topology.maximum(2), topology.maximum(ALL)), (64, 0, 128));
        assert_eq!(
            [topology.index(0, 5), topology.index(1, 63), topology.index(0, 1)],
            [Some(1), Some(2), None]
        );
        assert_eq!(topology.indices(0, u64::MAX), 0b011);
        assert_eq!(topology.indices(1, 1 << 63), 0b100);
        assert_eq!(topology.mask(0, u64::MAX), 0b10_0001);
        assert_eq!(Topology::plain(4).maximum(ALL), 4);
    }
}
