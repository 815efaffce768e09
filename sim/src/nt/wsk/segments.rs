//! Sends that the stack cuts into datagrams (`UDP_SEND_MSG_SIZE`, called USO where a network adapter does it).
//!
//! A control message says how long each datagram is to be; every buffer of the send is cut into such, the last perhaps shorter.
//! Here tcpip cuts, before its callouts see anything: what a callout that allows USO is shown is not modelled. A machine
//! may not know it, may say that it does and refuse the sends, or refuse lists of several buffers, by its seed.
//!
//! Source: `facts/wsk.md` 4 and 7, `facts/wfp.md` "USO"; msquic (MIT), `datapath_winkernel.c`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Buf;
use super::{
    SEGMENTED_LISTS_ARE_REFUSED, SEGMENTED_SENDS_ARE_REFUSED, SEND_SEGMENTATION_IS_MISSING,
    UNKNOWN_OPTION_IS_NOT_SUPPORTED, answer,
};
use crate::nt::machine::Machine;
use crate::verifier::rules;

/// What faults are injected by.
const NAME: &str = "UDP_SEND_MSG_SIZE";
/// The most datagrams that msquic has one buffer cut into.
const MOST: usize = 512;
/// The longest datagram there is.
const LONGEST: u32 = 65_527;

/// What the sends of a machine were cut into.
#[derive(Default)]
struct Cut {
    buffers: AtomicU64,
    datagrams: AtomicU64,
}

/// How many buffers of a machine's sends were cut apart so far, and into how many datagrams.
pub fn segmented(machine: &Machine) -> [u64; 2] {
    let cut = machine.extension::<Cut>();
    [&cut.buffers, &cut.datagrams].map(|count| count.load(Ordering::Relaxed))
}

/// What asking for the option answers.
pub(super) fn probe(machine: &Machine) -> i32 {
    if machine.faults().strikes(NAME) || machine.either(&SEND_SEGMENTATION_IS_MISSING) {
        return unknown(machine);
    }
    answer::SUCCESS
}

/// Whether buffers can be cut into datagrams of `segment` bytes, or the status of the send.
pub(super) fn may_cut(
    machine: &Machine,
    segment: u32,
    buffers: impl Iterator<Item = Buf>,
) -> Result<(), i32> {
    let lengths: Vec<usize> = buffers.map(|buffer| buffer.length).collect();
    if segment == 0 || segment > LONGEST {
        return Err(answer::INVALID_PARAMETER);
    }
    if let Some(many) = lengths.iter().find(|length| length.div_ceil(segment as usize) > MOST) {
        let detail = format!("{many} bytes in datagrams of {segment}: more than {MOST}");
        machine.die(&rules::WSK_SEND_MSG_SIZE, detail);
        return Err(answer::INVALID_PARAMETER);
    }
    if machine.faults().strikes(NAME)
        || machine.either(&SEND_SEGMENTATION_IS_MISSING)
        || machine.either(&SEGMENTED_SENDS_ARE_REFUSED)
        || (lengths.len() > 1 && machine.either(&SEGMENTED_LISTS_ARE_REFUSED))
    {
        return Err(unknown(machine));
    }
    let cut = machine.extension::<Cut>();
    for length in lengths.iter().filter(|length| **length > segment as usize) {
        cut.buffers.fetch_add(1, Ordering::Relaxed);
        cut.datagrams.fetch_add(length.div_ceil(segment as usize) as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// The datagrams that a buffer is cut into; itself if it is not to be.
pub(super) fn cut(buffer: Buf, segment: Option<u32>) -> impl Iterator<Item = Buf> {
    let segment = segment.map_or(usize::MAX, |segment| segment as usize);
    // A buffer of no bytes is a datagram of none.
    let count = buffer.length.div_ceil(segment).max(1);
    (0..count).map(move |number| {
        let at = number * segment;
        let length = segment.min(buffer.length - at);
        Buf { offset: buffer.offset + at as u32, length, ..buffer }
    })
}

/// The status of what the machine does not know.
pub(super) fn unknown(machine: &Machine) -> i32 {
    let other = machine.either(&UNKNOWN_OPTION_IS_NOT_SUPPORTED);
    if other { answer::NOT_SUPPORTED } else { answer::INVALID_PARAMETER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_cut_into_equal_parts_and_a_rest() {
        for (length, segment, expected) in [
            (300, Some(100), &[(8, 100), (108, 100), (208, 100)][..]),
            (250, Some(100), &[(8, 100), (108, 100), (208, 50)]),
            (100, Some(100), &[(8, 100)]),
            (99, Some(100), &[(8, 99)]),
            (0, Some(100), &[(8, 0)]),
            (250, None, &[(8, 250)]),
        ] {
            let buffer = Buf { mdl: std::ptr::null_mut(), offset: 8, length };
            let parts: Vec<_> =
                cut(buffer, segment).map(|part| (part.offset, part.length)).collect();
            assert_eq!(parts, expected, "{length} by {segment:?}");
        }
    }
}
