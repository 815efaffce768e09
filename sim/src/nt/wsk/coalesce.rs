//! Datagrams that a socket is indicated several as one (`UDP_RECV_MAX_COALESCED_SIZE`, called URO where a network adapter does
//! it).
//!
//! What comes for a socket that asked for it, one behind the other, from one sender and of one length, is put together in the
//! first one's block, and a control message says the length (`UDP_COALESCED_INFO`); the last may be shorter. A test may have that
//! message wrong, or missing ([`set_boundaries`]), as it has been on real machines. Callouts see datagrams before that; what
//! comes from the host's kernel several as one ([`Place::segment`]) stays so if no callout looks.
//!
//! Source: `facts/wsk.md` 4, 5 and 7, `facts/wfp.md` "URO", `facts/asks.md` 17; msquic (MIT), `datapath_winkernel.c`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::{LONE_DATAGRAMS_SAY_THEIR_LENGTH, RECEIVE_COALESCING_IS_MISSING, answer, segments};
use crate::host::Place;
use crate::nt::machine::Machine;

/// What faults are injected by.
const NAME: &str = "UDP_RECV_MAX_COALESCED_SIZE";
/// Datagrams put together at most under the verifier; otherwise as many as fit.
const VERIFIED_MOST: usize = 24;

/// What the control message of a coalesced datagram says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Boundaries {
    /// The length of each datagram.
    #[default]
    Right,
    /// There is no such message.
    Missing,
    /// 0.
    Zero,
    /// Half of it.
    Half,
    /// Sixteen bytes more.
    More,
    /// More than all of them have.
    TooMuch,
}

const ALL: [Boundaries; 6] = [
    Boundaries::Right,
    Boundaries::Missing,
    Boundaries::Zero,
    Boundaries::Half,
    Boundaries::More,
    Boundaries::TooMuch,
];

/// What a machine's sockets were indicated.
#[derive(Default)]
struct Coalesced {
    boundaries: AtomicU8,
    indications: AtomicU64,
    datagrams: AtomicU64,
}

/// Has the control messages of what a machine's sockets get say this from now on.
pub fn set_boundaries(machine: &Machine, boundaries: Boundaries) {
    machine.extension::<Coalesced>().boundaries.store(boundaries as u8, Ordering::Release);
}

/// How many times a machine's sockets were indicated several datagrams as one so far, and how many these were.
pub fn coalesced(machine: &Machine) -> [u64; 2] {
    let all = machine.extension::<Coalesced>();
    [&all.indications, &all.datagrams].map(|count| count.load(Ordering::Relaxed))
}

/// What setting the option answers.
pub(super) fn may_coalesce(machine: &Machine) -> i32 {
    if machine.faults().strikes(NAME) || machine.either(&RECEIVE_COALESCING_IS_MISSING) {
        return segments::unknown(machine);
    }
    answer::SUCCESS
}

/// Puts together what may be of `filled`, up to `most` bytes each; what is empty by that goes to `empty`.
pub(super) fn put_together(
    machine: &Machine,
    most: usize,
    filled: &mut Vec<Place>,
    empty: &mut Vec<Place>,
) {
    let mut waiting: VecDeque<Place> = filled.drain(..).collect();
    while let Some(mut first) = waiting.pop_front() {
        let wanted = if machine.options().verified {
            1 + machine.world().random() as usize % VERIFIED_MOST
        } else {
            usize::MAX
        };
        let (segment, mut count) = (first.len, 1);
        while count < wanted
            && first.segment == 0
            && let Some(next) = waiting.pop_front_if(|next| follows(&first, next, segment, most))
        {
            let ended = next.len < segment;
            append(&mut first, &next);
            empty.push(next);
            count += 1;
            if ended {
                break;
            }
        }
        if count > 1 {
            first.segment = segment;
        }
        if first.segment != 0 {
            let all = machine.extension::<Coalesced>();
            let datagrams = first.len.div_ceil(first.segment) as u64;
            all.indications.fetch_add(1, Ordering::Relaxed);
            all.datagrams.fetch_add(datagrams, Ordering::Relaxed);
        }
        filled.push(first);
    }
}

/// Whether `next` may be put behind what is in `first`, of datagrams of `segment` bytes.
fn follows(first: &Place, next: &Place, segment: usize, most: usize) -> bool {
    let alike = (first.remote, first.local, first.traffic_class)
        == (next.remote, next.local, next.traffic_class);
    alike
        && next.segment == 0
        && (1..=segment).contains(&next.len)
        && first.len + next.len <= most.min(first.capacity)
}

fn append(first: &mut Place, next: &Place) {
    let to = first.payload.as_ptr().wrapping_add(first.len);
    // SAFETY: both places are ours, apart, and `follows` found that there is room.
    unsafe { to.copy_from_nonoverlapping(next.payload.as_ptr(), next.len) };
    first.len += next.len;
}

/// What the control message of a place says; `None` if it has none.
pub(super) fn said(machine: &Machine, place: &Place) -> Option<u32> {
    if place.segment == 0 {
        let says = machine.either(&LONE_DATAGRAMS_SAY_THEIR_LENGTH);
        return says.then_some(place.len as u32);
    }
    let boundaries = machine.extension::<Coalesced>().boundaries.load(Ordering::Acquire);
    let segment = place.segment as u32;
    match ALL[usize::from(boundaries)] {
        Boundaries::Right => Some(segment),
        Boundaries::Missing => None,
        Boundaries::Zero => Some(0),
        Boundaries::Half => Some(segment / 2),
        Boundaries::More => Some(segment + 16),
        Boundaries::TooMuch => Some(place.len as u32 + 1),
    }
}
