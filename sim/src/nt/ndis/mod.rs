//! NDIS, as far as a driver needs it that is no NDIS driver: pools, NET_BUFFER_LISTs and their data (`Ndis*`).
//!
//! [`lists`] knows whose a list is, [`buffers`] are NET_BUFFERs on their own, [`invariants`] what must hold of it, [`data_start`] moves its data; [`layout`] reads it.
//! Driver Verifier's checks and NDIS's own are one here and stricter than both: every breach stops the machine with the
//! number of the rule.
//!
//! Not modelled: clones, fragments, reassembly and scatter-gather lists; a retreat with a driver's own MDL allocator.
//!
//! Source: `facts/ndis.md`, which quotes DDI nblapi and nbl row by row.

use crate::loader::probe::{self, Fault};
use crate::nt::thread::Thread;
use crate::nt::{behaviours, imports};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

pub(crate) mod buffers;
pub(crate) mod data_start;
pub(crate) mod invariants;
pub(crate) mod layout;
pub(crate) mod lent;
pub(crate) mod lists;

use invariants::Broken;
use layout::{Buffer, list};
use lists::{Made, Terms, ndis};

/// `NDIS_STATUS_RESOURCES`.
const RESOURCES: i32 = 0xC000_009A_u32 as i32;
/// `MEMORY_ALLOCATION_ALIGNMENT`.
const ALIGNMENT: usize = 16;
/// Bytes of an `NDIS_GENERIC_OBJECT` that the driver may look at.
const GENERIC_OBJECT: usize = 64;

behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A freed list is not used again at once, and its memory is not there any more.
    [mark: Documented, source: "DDI nblapi/ns-nblapi-net_buffer_list_pool_parameters: the VERIFY flag"] FREED_LISTS_ARE_GONE;
    /// Reserved fields of a new list, and of one that comes back, hold anything.
    [mark: Inferred, source: "DDI nbl/ns-nbl-net_buffer_list: each layer may use them"] RESERVED_FIELDS_ARE_NOT_KEPT;
    /// A pool whose lists have data but no buffer is not made.
    [mark: Inferred, source: "DDI nblapi/ns-nblapi-net_buffer_list_pool_parameters forbids it, without a reaction"] DATA_NEEDS_A_BUFFER;
    /// The MDL of a retreat beyond the room in front holds as many bytes as are added, and the backfill.
    [mark: Documented, source: "DDI nblapi/nf-nblapi-ndisretreatnetbufferdatastart: DataBackFill"] RETREAT_GROWS_BY_DELTA_AND_BACKFILL;
    /// Data that is not aligned as asked is copied, or not given at all without storage.
    [mark: Inferred, source: "DDI nblapi/nf-nblapi-ndisgetdatabuffer does not say who frees what NDIS allocates"] MISALIGNED_DATA_IS_COPIED;
}

/// Stops the machine over a broken rule.
pub(crate) fn violation(thread: &Thread, function: &str, Broken { rule, detail }: Broken) {
    thread.stop(rule, format!("{function}: {detail}"));
}

/// What a pool is to be made for; `None` if the parameters forbid it, after a stop.
fn terms(thread: &Thread, parameters: usize) -> Option<Terms> {
    let read = || -> Result<(u32, Terms), Fault> {
        let terms = Terms {
            with_buffer: probe::read::<u8>(parameters + 5)? != 0,
            context: probe::read::<u16>(parameters + 6)?.into(),
            tag: probe::read(parameters + 8)?,
            data: probe::read::<u32>(parameters + 12)? as usize,
        };
        Ok((probe::read(parameters)?, terms))
    };
    let Ok((header, terms)) = read() else {
        thread.bad_pointer("Parameters", parameters);
        return None;
    };
    let wrong = if header != 0x0010_0180 {
        "the header is not that of revision 1"
    } else if terms.tag == 0 {
        "there is no pool tag"
    } else if !terms.context.is_multiple_of(ALIGNMENT) {
        "ContextSize is not aligned"
    } else if terms.data > 0 && !terms.with_buffer {
        "lists with data and without a buffer"
    } else {
        return Some(terms);
    };
    thread.stop(&rules::NBL_L4, format!("NdisAllocateNetBufferListPool: {wrong}"));
    None
}

/// Where a list's data lies: chain, offset and length.
type Data = (usize, u32, usize);

/// Allocates a list with a buffer over the caller's MDLs: `NdisAllocateNetBufferAndNetBufferList`, and WFP's name for it.
pub(crate) fn allocate_over(
    thread: &Thread,
    (pool, made): (usize, Made),
    context: (u16, u16),
    (chain, offset, length): Data,
) -> Option<usize> {
    let fits = |terms: &Terms| terms.with_buffer && terms.data == 0;
    let ndis = ndis(thread.machine());
    let wrong = if !ndis.terms(pool).as_ref().is_some_and(fits) {
        format!("{pool:#x} is no pool whose lists come with a buffer and without data")
    } else if chain == 0 && (offset != 0 || length != 0) {
        "an offset or a length without an MDL".to_owned()
    } else if !usize::from(context.0).is_multiple_of(ALIGNMENT) {
        "the context size is not aligned".to_owned()
    } else {
        String::new()
    };
    if !wrong.is_empty() {
        thread.stop(&rules::NBL_L4, format!("{made:?}AllocateNetBufferAndNetBufferList: {wrong}"));
        return None;
    }
    let made = ndis.allocate(thread, (pool, made), (context.0.into(), context.1.into()));
    let list = made.ok().filter(|list| *list != 0)?;
    let mut buffer = Buffer { chain, offset, length: length as u32, ..Buffer::default() };
    let first = probe::read::<usize>(list + list::FIRST_BUFFER);
    let built = first.and_then(|first| {
        buffer.adjust()?;
        buffer.write(first)?;
        Ok(first)
    });
    match built
        .map_err(|Fault(at)| Broken {
            rule: &rules::NBL_N1,
            detail: format!("{at:#x} is not memory"),
        })
        .and_then(invariants::buffer)
    {
        Ok(_) => Some(list),
        Err(broken) => {
            violation(thread, "an allocation over the driver's MDLs", broken);
            None
        }
    }
}

imports! {
    pub(crate) static IMPORTS: "ndis.sys";

    /// Makes a pool of lists; the handle may be NULL for a driver that is none of NDIS's.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisallocatenetbufferlistpool", fail: 0]
    fn NdisAllocateNetBufferListPool(thread, handle: usize, parameters: usize) -> usize {
        let ndis = ndis(thread.machine());
        if !ndis.is_handle(handle) {
            thread.stop(&rules::NBL_L4, format!("NdisAllocateNetBufferListPool: {handle:#x} is no NDIS handle"));
            return 0;
        }
        let Some(terms) = terms(thread, parameters) else { return 0 };
        ndis.make_pool(thread.machine(), terms)
    }

    /// Frees a pool, all of whose lists are back.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisfreenetbufferlistpool"]
    fn NdisFreeNetBufferListPool(thread, pool: usize) {
        if let Err(broken) = ndis(thread.machine()).free_pool(thread, pool) {
            violation(thread, "NdisFreeNetBufferListPool", broken);
        }
    }

    /// Allocates a list, with buffer, MDL and data if the pool says so.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisallocatenetbufferlist", fail: 0]
    fn NdisAllocateNetBufferList(thread, pool: usize, context: u16, backfill: u16) -> usize {
        let ndis = ndis(thread.machine());
        let fits = |terms: &Terms| terms.with_buffer == (terms.data > 0);
        if !ndis.terms(pool).as_ref().is_some_and(fits) {
            thread.stop(&rules::NBL_L4, format!("NdisAllocateNetBufferList: {pool:#x} is no pool for this function"));
            return 0;
        }
        ndis.allocate(thread, (pool, Made::Ndis), (context.into(), backfill.into())).unwrap_or(0)
    }

    /// Allocates a list with a buffer over a chain of MDLs.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisallocatenetbufferandnetbufferlist", fail: 0]
    fn NdisAllocateNetBufferAndNetBufferList(
        thread, pool: usize, context: u16, backfill: u16, chain: usize, offset: u32, length: usize,
    ) -> usize {
        allocate_over(thread, (pool, Made::Ndis), (context, backfill), (chain, offset, length)).unwrap_or(0)
    }

    /// Frees a list and what was allocated with it.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisfreenetbufferlist"]
    fn NdisFreeNetBufferList(thread, at: usize) {
        if let Err(broken) = ndis(thread.machine()).free(thread, at, Made::Ndis) {
            violation(thread, "NdisFreeNetBufferList", broken);
        }
    }

    /// Moves the data start towards the front, in a new MDL if there is no room.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisretreatnetbufferdatastart", fail: RESOURCES]
    fn NdisRetreatNetBufferDataStart(thread, buffer: usize, delta: u32, backfill: u32, allocator: usize) -> i32 {
        if allocator != 0 {
            thread.stop(&rules::NOT_PROVIDED, "NdisRetreatNetBufferDataStart with an allocator of MDLs");
            return RESOURCES;
        }
        match data_start::retreat(thread, buffer, delta, backfill) {
            Ok(true) => 0,
            Ok(false) => RESOURCES,
            Err(broken) => {
                violation(thread, "NdisRetreatNetBufferDataStart", broken);
                RESOURCES
            }
        }
    }

    /// Moves the data start towards the end.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisadvancenetbufferdatastart"]
    fn NdisAdvanceNetBufferDataStart(thread, buffer: usize, delta: u32, free: u8, freer: usize) {
        if freer != 0 {
            return thread.stop(&rules::NOT_PROVIDED, "NdisAdvanceNetBufferDataStart with a routine that frees MDLs");
        }
        if let Err(broken) = data_start::advance(thread, buffer, delta, free != 0) {
            violation(thread, "NdisAdvanceNetBufferDataStart", broken);
        }
    }

    /// The first bytes of a buffer: where they are, or a copy of them, or NULL. NULL can happen to any call: mapping may fail.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisgetdatabuffer", fail: 0]
    fn NdisGetDataBuffer(thread, buffer: usize, needed: u32, storage: usize, multiple: u32, offset: u32) -> usize {
        if !multiple.is_power_of_two() || offset >= multiple {
            thread.stop(&rules::NBL_ALIGNMENT, format!("NdisGetDataBuffer: multiple {multiple}, offset {offset}"));
            return 0;
        }
        match data_start::view(thread, buffer, needed, storage, (multiple, offset)) {
            Ok(at) => at,
            Err(broken) => {
                violation(thread, "NdisGetDataBuffer", broken);
                0
            }
        }
    }

    /// An object by which a driver that is no NDIS driver may name itself to NDIS.
    [max: DISPATCH, mark: Documented, source: "DDI ndis/nf-ndis-ndisallocategenericobject", fail: 0]
    fn NdisAllocateGenericObject(thread, driver: usize, tag: u32, size: u16) -> usize {
        let made = thread.machine().allocate(GENERIC_OBJECT.max(size.into()));
        lock(&ndis(thread.machine()).objects).push(made);
        made
    }

    /// Frees such an object.
    [max: DISPATCH, mark: Documented, source: "DDI ndis/nf-ndis-ndisfreegenericobject"]
    fn NdisFreeGenericObject(thread, object: usize) {
        let ndis = ndis(thread.machine());
        let known = lock(&ndis.objects).iter().position(|made| *made == object);
        match known {
            Some(at) => {
                lock(&ndis.objects).swap_remove(at);
                thread.machine().release(object);
            }
            None => thread.stop(&rules::NBL_L4, format!("NdisFreeGenericObject: {object:#x} is no object")),
        }
    }
}
