//! Where the data of a `NET_BUFFER` begins: retreat, advance, and a view of its first bytes.
//!
//! Each retreat is remembered until an advance of the same size undoes it. A retreat beyond the room in front puts an MDL
//! of NDIS's own before the chain; only an advance with `FreeMdl` takes it away again.
//!
//! Source: DDI nblapi/nf-nblapi-ndisretreatnetbufferdatastart, …-ndisadvancenetbufferdatastart, …-ndisgetdatabuffer.

use super::invariants::{self, Broken};
use super::layout::{Buffer, Mdl};
use super::lists::ndis;
use crate::loader::probe::{self, Fault};
use crate::nt::mm;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// Tag of the MDLs that retreats allocate.
const TAG: u32 = u32::from_le_bytes(*b"NDrt");
const MDL_ROOM: usize = 64;
/// `MDL_MAPPED_TO_SYSTEM_VA` and `MDL_SOURCE_IS_NONPAGED_POOL`.
const MAPPED: u16 = 0x5;

/// One retreat that is not undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    delta: u32,
    /// The MDL that was put in front, or 0.
    mdl: usize,
}

fn fault(Fault(at): Fault) -> Broken {
    Broken { rule: &rules::NBL_N6, detail: format!("{at:#x} is not memory") }
}

/// What a buffer says; checked, but not in fast mode.
fn look(thread: &Thread, at: usize) -> Result<Buffer, Broken> {
    if thread.machine().options().verified {
        return invariants::buffer(at);
    }
    Buffer::read(at).map_err(fault)
}

/// Moves the data start back by `delta`; false if there is no memory.
pub(crate) fn retreat(
    thread: &Thread,
    at: usize,
    delta: u32,
    backfill: u32,
) -> Result<bool, Broken> {
    let mut buffer = look(thread, at)?;
    let mut mdl = 0;
    if buffer.offset >= delta {
        buffer.offset -= delta;
    } else {
        let room = delta + backfill;
        let pool = thread.machine().pool();
        let Some(block) = pool.allocate(MDL_ROOM + room as usize, TAG, 0, thread.caller()) else {
            return Ok(false);
        };
        mm::fill(block, block + MDL_ROOM, room, mm::NONPAGED).map_err(fault)?;
        probe::write(block, buffer.chain).map_err(fault)?;
        // What was before the data stays where it is: the bytes just in front of it are the old room, then the new MDL.
        buffer.offset += room;
        buffer.offset -= delta;
        (buffer.chain, mdl) = (block, block);
    }
    buffer.length += delta;
    buffer.adjust().and_then(|()| buffer.write(at)).map_err(fault)?;
    let ndis = ndis(thread.machine());
    let mut moves = lock(&ndis.moves);
    // In fast mode nobody asks for a move that took no memory, unless one that did is below it.
    if mdl != 0 || thread.machine().options().verified || moves.contains_key(&at) {
        moves.entry(at).or_default().push(Move { delta, mdl });
    }
    Ok(true)
}

/// Moves the data start forward by `delta`.
pub(crate) fn advance(thread: &Thread, at: usize, delta: u32, free: bool) -> Result<(), Broken> {
    let mut buffer = look(thread, at)?;
    if delta > buffer.length {
        let detail = format!("buffer {at:#x} of {} bytes is advanced by {delta}", buffer.length);
        return Err(Broken { rule: &rules::NBL_N5, detail });
    }
    buffer.length -= delta;
    buffer.offset += delta;
    let undone = undo(thread, at, delta);
    if let Some(Move { mdl: mdl @ 1.., .. }) = undone.filter(|_| free) {
        let head = Mdl::read(mdl).map_err(fault)?;
        if buffer.chain != mdl || buffer.offset < head.count {
            let detail = format!(
                "MDL {mdl:#x}, which a retreat put in front of buffer {at:#x}, is not in front any more"
            );
            return Err(Broken { rule: &rules::NBL_M5, detail });
        }
        buffer.chain = head.next;
        buffer.offset -= head.count;
        let freed = thread.machine().pool().free(mdl, TAG, thread.caller());
        freed.map_err(|detail| Broken { rule: &rules::NBL_M5, detail })?;
    }
    buffer.adjust().and_then(|()| buffer.write(at)).map_err(fault)
}

/// Takes the last retreat of `at` off the list, if it was by `delta`.
fn undo(thread: &Thread, at: usize, delta: u32) -> Option<Move> {
    let ndis = ndis(thread.machine());
    let mut moves = lock(&ndis.moves);
    let of_buffer = moves.get_mut(&at)?;
    let last = of_buffer.pop_if(|last| last.delta == delta);
    if of_buffer.is_empty() {
        moves.remove(&at);
    }
    last
}

/// Where the first `needed` bytes of a buffer can be read: in place, in `storage` after a copy, or nowhere (0).
pub(crate) fn view(
    thread: &Thread,
    at: usize,
    needed: u32,
    storage: usize,
    align: (u32, u32),
) -> Result<usize, Broken> {
    let buffer = look(thread, at)?;
    if needed == 0 || buffer.length < needed {
        return Ok(0);
    }
    let head = Mdl::read(buffer.current_mdl).map_err(fault)?;
    map(&head).map_err(fault)?;
    let first = head.address() + buffer.current_offset as usize;
    let in_place = head.count - buffer.current_offset.min(head.count) >= needed;
    if in_place && first % align.0 as usize == align.1 as usize {
        return Ok(first);
    }
    if storage == 0 {
        return Ok(0);
    }
    let (mut mdl, mut skip, mut left, mut to) = (head, buffer.current_offset, needed, storage);
    loop {
        map(&mdl).map_err(fault)?;
        let count = mdl.count.saturating_sub(skip).min(left);
        probe::copy(to, mdl.address() + skip as usize, count as usize).map_err(fault)?;
        (to, left, skip) = (to + count as usize, left - count, 0);
        if left == 0 {
            return Ok(storage);
        }
        mdl = Mdl::read(mdl.next).map_err(fault)?;
    }
}

/// Maps an MDL that is not: here its system address is its only one.
fn map(mdl: &Mdl) -> Result<(), Fault> {
    if mdl.flags & MAPPED == 0 {
        probe::write(mdl.at + 24, mdl.address())?;
        probe::write(mdl.at + 10, mdl.flags | 1)?;
    }
    Ok(())
}
