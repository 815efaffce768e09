//! Which CPUs the scaling set has: what this machine is, and what policy wants of it.
//!
//! Looked at once, when the driver is loaded. Windows tells a driver which CPUs run, their groups, nodes
//! and efficiency classes, and not which are parked; one that is runs a DPC or thread of ours all the
//! same, after it has woken.

use alloc::vec::Vec;
use core::fmt;

use abi::{
    cpu_list::{CpuList, CpuListError, MOST_CHARACTERS},
    policy::{Policy, SCALING_EXCLUDE},
};
use crypto::pipeline::scaling::{self, Classes, Cpu, ScalingSet, Unmet, Wanted};
use nt::{
    irql::{AtMostDispatch, Passive},
    processor::{self, Processor},
    status::NtError,
    wdf::ParametersKey,
};

use crate::policy::Policies;

/// "Any", in the policy value for the node.
const ANY_NODE: u32 = *Policy::ScalingNode.range().end();

/// The set, and what was wanted of it.
pub(crate) struct Choice {
    wanted: Wanted,
    set: ScalingSet,
    list: Option<NoList>,
}

/// Why the list of exceptions is not used.
#[derive(Clone, Copy)]
enum NoList {
    Wrong(CpuListError),
    Unreadable(NtError),
}

impl Choice {
    /// Chooses.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`], or what NT says of a CPU.
    pub(crate) fn make(policies: &Policies, passive: &Passive) -> Result<Self, NtError> {
        let (excluded, list) = match excluded(passive) {
            Ok(list) => (list, None),
            Err(why) => (CpuList::NONE, Some(why)),
        };
        let node = policies.get(Policy::ScalingNode);
        let wanted = Wanted {
            base: policies.get(Policy::ScalingBase),
            most: policies.get(Policy::ScalingMax) as usize,
            node: (node != ANY_NODE).then_some(node),
            classes: match policies.get(Policy::ScalingClass) {
                0 => Classes::FastestFirst,
                1 => Classes::FastestOnly,
                _ => Classes::Alike,
            },
            excluded,
        };
        let set = scaling::choose(&active(passive)?, &wanted);
        Ok(Self { wanted, set, list })
    }

    /// The CPUs, by index.
    pub(super) fn indices(&self) -> &[u32] {
        &self.set.indices
    }

    /// Tells each wish that was not followed, and what holds instead.
    pub(crate) fn tell_refused(&self, mut tell: impl FnMut(fmt::Arguments<'_>)) {
        match self.list {
            Some(NoList::Wrong(error)) => {
                tell(format_args!("policy {SCALING_EXCLUDE}: {error}: no CPU is excluded"));
            }
            Some(NoList::Unreadable(error)) => tell(format_args!(
                "policy {SCALING_EXCLUDE} cannot be read as a text ({error}): no CPU is excluded"
            )),
            None => {}
        }
        for unmet in &self.set.unmet {
            match unmet {
                Unmet::AllExcluded => {
                    tell(format_args!("policy {SCALING_EXCLUDE} leaves no CPU: none is excluded"));
                }
                Unmet::NoneOfNode => tell(format_args!(
                    "policy {} is {}, which has no CPU that may be used: any node applies",
                    Policy::ScalingNode.name(),
                    self.wanted.node.unwrap_or(ANY_NODE)
                )),
                Unmet::NoneFromBase => tell(format_args!(
                    "policy {} is {}, and no CPU from there on may be used: 0 applies",
                    Policy::ScalingBase.name(),
                    self.wanted.base
                )),
            }
        }
    }
}

/// The CPUs that are active, by index.
fn active(passive: &Passive) -> Result<Vec<Cpu>, NtError> {
    let count = processor::count();
    let mut cpus = Vec::new();
    cpus.try_reserve_exact(count as usize).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
    for index in 0..count {
        let processor = Processor::of_index(index)?;
        cpus.push(passive.pinned(|level| cpu(index, processor, level.at_most())));
    }
    Ok(cpus)
}

/// What NT says of one; what it does not say is as on a machine whose CPUs are all alike.
fn cpu(index: u32, processor: Processor, level: &AtMostDispatch) -> Cpu {
    Cpu {
        index,
        group: processor.group(),
        number: processor.in_group(),
        node: processor.node(level).ok(),
        class: processor.efficiency_class(level).unwrap_or(0),
    }
}

/// The list of exceptions; one that is not there is empty.
fn excluded(passive: &Passive) -> Result<CpuList, NoList> {
    let Ok(key) = ParametersKey::open(passive) else { return Ok(CpuList::NONE) };
    let mut units = [0; MOST_CHARACTERS];
    let read = key.query_text(passive, SCALING_EXCLUDE, &mut units);
    let count = match read {
        Err(NtError::OBJECT_NAME_NOT_FOUND) => return Ok(CpuList::NONE),
        Err(error) => return Err(NoList::Unreadable(error)),
        Ok(count) => count,
    };
    // What is not ASCII is no part of a list.
    let mut bytes = [0; MOST_CHARACTERS];
    for (byte, unit) in bytes.iter_mut().zip(&units) {
        *byte = u8::try_from(*unit).unwrap_or(b'?').min(b'~');
    }
    let text = bytes.get(..count).and_then(|bytes| core::str::from_utf8(bytes).ok());
    CpuList::parse(text.unwrap_or("?")).map_err(NoList::Wrong)
}
