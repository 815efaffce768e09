//! Whose a `NET_BUFFER_LIST` is: pools, what was allocated from them, and what is under way.
//!
//! A list the driver allocated is the driver's until it hands it over ([`hand_over`]: an injection) and again when it comes
//! back ([`hand_back`]). In between, the verifier keeps a copy of everything the driver might change too early: list,
//! buffers, MDLs and data. A freed list's memory is special pool, so it stays unmapped for a while and a later use of it
//! faults; this is `NET_BUFFER_LIST_POOL_FLAG_VERIFY`, always.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use super::invariants::{self, Broken};
use super::layout::{self, Buffer, buffer, list};
use crate::loader::probe::{self, Fault};
use crate::nt::machine::Machine;
use crate::nt::mm;
use crate::nt::thread::Thread;
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// What reserved fields hold in verified mode: contents that mean nothing.
const POISON: u8 = 0xA5;
/// Where the parts of a block begin.
const BUFFER_AT: usize = 384;
const CONTEXT_AT: usize = BUFFER_AT + buffer::SIZE;
/// Bytes of a `NET_BUFFER_LIST_CONTEXT` before its data.
const CONTEXT_HEAD: usize = 16;
const _: () = assert!(list::SIZE <= BUFFER_AT && CONTEXT_AT.is_multiple_of(16));

/// Which function a list came from, and so which one frees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// `NdisAllocateNetBufferList` or `NdisAllocateNetBufferAndNetBufferList`.
    Ndis,
    /// `FwpsAllocateNetBufferAndNetBufferList0`.
    Fwps,
}

/// What a pool was made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// `fAllocateNetBuffer`.
    pub(crate) with_buffer: bool,
    /// `ContextSize`.
    pub(crate) context: usize,
    /// `DataSize`.
    pub(crate) data: usize,
    /// `PoolTag`.
    pub(crate) tag: u32,
}

struct Pool {
    terms: Terms,
    out: usize,
    /// Blocks for the next lists; fast mode only.
    spare: Vec<usize>,
}

/// One live list of the driver's.
struct Record {
    pool: usize,
    made: Made,
    context: usize,
    /// The buffer that was allocated with it.
    own_buffer: usize,
    under_way: Option<UnderWay>,
}

/// What must not change while a list is another's, as address and bytes.
#[derive(Default)]
struct UnderWay {
    frozen: Vec<(usize, Vec<u8>)>,
    /// MDLs and buffers.
    parts: Vec<usize>,
}

/// NET_BUFFER_LISTs of one machine.
#[derive(Default)]
pub(crate) struct Ndis {
    pools: Mutex<FxHashMap<usize, Pool>>,
    lists: Mutex<FxHashMap<usize, Record>>,
    /// MDLs and buffers under way, by the list they are in.
    parts: Mutex<FxHashMap<usize, usize>>,
    pub(super) moves: Mutex<FxHashMap<usize, Vec<super::data_start::Move>>>,
    pub(super) objects: Mutex<Vec<usize>>,
    pub(super) buffers: super::buffers::Buffers,
    watched: AtomicBool,
}

/// NDIS of a machine.
pub(crate) fn ndis(machine: &Machine) -> Arc<Ndis> {
    let ndis = machine.extension::<Ndis>();
    if !ndis.watched.swap(true, Ordering::AcqRel) {
        machine.at_unload(|machine, leaks| machine.extension::<Ndis>().leaks(leaks));
    }
    ndis
}

impl Ndis {
    fn leaks(&self, leaks: &mut Vec<Leak>) {
        for (at, pool) in &*lock(&self.pools) {
            let detail = format!("NBL pool {at:#x} not freed, {} lists out", pool.out);
            leaks.push(Leak::new("NDIS", detail));
        }
        self.buffers.leaks(leaks);
        let objects = lock(&self.objects).len();
        if objects > 0 {
            leaks.push(Leak::new("NDIS", format!("{objects} generic objects not freed")));
        }
    }

    /// Whether `handle` may stand for a driver: NULL may.
    pub(crate) fn is_handle(&self, handle: usize) -> bool {
        handle == 0 || lock(&self.objects).contains(&handle)
    }

    /// Makes a pool and returns its handle.
    pub(crate) fn make_pool(&self, machine: &Machine, terms: Terms) -> usize {
        let handle = machine.allocate(16);
        lock(&self.pools).insert(handle, Pool { terms, out: 0, spare: Vec::new() });
        handle
    }

    /// Frees a pool.
    pub(crate) fn free_pool(&self, thread: &Thread, handle: usize) -> Result<(), Broken> {
        let mut pools = lock(&self.pools);
        let Some(pool) = pools.get(&handle) else {
            return Err(Broken {
                rule: &rules::NBL_L4,
                detail: format!("{handle:#x} is no NBL pool"),
            });
        };
        if pool.out > 0 {
            let detail = format!("pool {handle:#x} is freed with {} lists out", pool.out);
            return Err(Broken { rule: &rules::NBL_L4, detail });
        }
        let Some(pool) = pools.remove(&handle) else { return Ok(()) };
        drop(pools);
        for block in pool.spare {
            let freed = thread.machine().pool().free(block, pool.terms.tag, thread.caller());
            debug_assert_eq!(freed, Ok(()));
        }
        thread.machine().release(handle);
        Ok(())
    }

    /// What a pool was made for; `None` if it is none.
    pub(crate) fn terms(&self, handle: usize) -> Option<Terms> {
        lock(&self.pools).get(&handle).map(|pool| pool.terms)
    }

    /// Allocates a list from a pool, with the buffer, MDL and data that the pool's lists come with. 0: no memory.
    pub(crate) fn allocate(
        &self,
        thread: &Thread,
        (handle, made): (usize, Made),
        (context, backfill): (usize, usize),
    ) -> Result<usize, Fault> {
        let machine = thread.machine();
        let (terms, spare) = {
            let mut pools = lock(&self.pools);
            let Some(pool) = pools.get_mut(&handle) else { return Ok(0) };
            pool.out += 1;
            (pool.terms, if context == pool.terms.context { pool.spare.pop() } else { None })
        };
        let context = context.max(terms.context);
        let head = if context == 0 { 0 } else { CONTEXT_HEAD + context };
        let mdl_at = (CONTEXT_AT + head).next_multiple_of(16);
        let mdl_size = if terms.data == 0 { 0 } else { mm::size_for(0, terms.data as u32) + 8 };
        let data_at = (mdl_at + mdl_size).next_multiple_of(16);
        let size = data_at + terms.data;
        let block = spare.or_else(|| machine.pool().allocate(size, terms.tag, 0, thread.caller()));
        let Some(block) = block else {
            lock(&self.pools).get_mut(&handle).into_iter().for_each(|pool| pool.out -= 1);
            return Ok(0);
        };
        probe::fill(block, 0, mdl_at)?;
        if machine.options().verified {
            poison(block, Some(block + BUFFER_AT))?;
        }
        probe::write(block + list::POOL, handle)?;
        probe::write(block + list::SOURCE, 0_u64)?;
        if context > 0 {
            probe::write(block + list::CONTEXT, block + CONTEXT_AT)?;
            probe::write(block + CONTEXT_AT + 8, context as u16)?;
            probe::write(block + CONTEXT_AT + 10, (context.min(backfill)) as u16)?;
        }
        let own_buffer = if terms.with_buffer { block + BUFFER_AT } else { 0 };
        probe::write(block + list::FIRST_BUFFER, own_buffer)?;
        if terms.data > 0 {
            mm::fill(block + mdl_at, block + data_at, terms.data as u32, mm::NONPAGED)?;
            let chain = block + mdl_at;
            let buffer = Buffer { chain, current_mdl: chain, ..Buffer::default() };
            buffer.write(own_buffer)?;
        }
        let record = Record { pool: handle, made, context, own_buffer, under_way: None };
        lock(&self.lists).insert(block, record);
        Ok(block)
    }

    /// Frees a list of the driver's.
    pub(crate) fn free(&self, thread: &Thread, at: usize, made: Made) -> Result<(), Broken> {
        let children = probe::read::<i32>(at + list::CHILD_REFERENCES).unwrap_or(0);
        let chained = probe::read::<usize>(at + list::FIRST_BUFFER).unwrap_or(0);
        let more = chained != 0 && probe::read::<usize>(chained).unwrap_or(0) != 0;
        let mut lists = lock(&self.lists);
        let wrong = match lists.get(&at) {
            None => (&rules::NBL_L4, "is no list of the driver's, or was freed".to_owned()),
            Some(record) if record.made != made => (
                &rules::NBL_L4,
                format!("is {:?}'s, and freed by {made:?}'s function", record.made),
            ),
            Some(record) if record.under_way.is_some() => {
                (&rules::NBL_L8, "is under way".to_owned())
            }
            Some(_) if children != 0 => (&rules::NBL_L3, format!("has {children} clones")),
            Some(record) if chained != record.own_buffer => (
                &rules::NBL_L5,
                format!("begins with buffer {chained:#x}, came with {:#x}", record.own_buffer),
            ),
            Some(_) if more => {
                (&rules::NBL_L5, "still has other buffers behind its own".to_owned())
            }
            Some(record) => {
                let (pool, context) = (record.pool, record.context);
                lists.remove(&at);
                drop(lists);
                return self.put_back(thread, at, pool, context);
            }
        };
        Err(Broken { rule: wrong.0, detail: format!("{at:#x} {}", wrong.1) })
    }

    fn put_back(
        &self,
        thread: &Thread,
        at: usize,
        handle: usize,
        context: usize,
    ) -> Result<(), Broken> {
        let machine = thread.machine();
        lock(&self.moves).remove(&(at + BUFFER_AT));
        let mut pools = lock(&self.pools);
        let Some(pool) = pools.get_mut(&handle) else {
            return Err(Broken {
                rule: &rules::NBL_L4,
                detail: format!("the pool of {at:#x} is gone"),
            });
        };
        pool.out -= 1;
        if !machine.options().verified && context == pool.terms.context {
            pool.spare.push(at);
            return Ok(());
        }
        let tag = pool.terms.tag;
        drop(pools);
        let freed = machine.pool().free(at, tag, thread.caller());
        freed.map_err(|detail| Broken { rule: &rules::NBL_L4, detail })
    }

    /// Takes a list from the driver: nothing of it may change until [`Ndis::hand_back`].
    pub(crate) fn hand_over(
        &self,
        machine: &Machine,
        at: usize,
    ) -> Result<Vec<(usize, Buffer)>, Broken> {
        let buffers = invariants::check(at)?;
        let mut lists = lock(&self.lists);
        let Some(record) = lists.get_mut(&at) else {
            return Err(Broken {
                rule: &rules::NBL_L4,
                detail: format!("{at:#x} is no list of the driver's, or was freed"),
            });
        };
        if record.under_way.is_some() {
            return Err(Broken {
                rule: &rules::NBL_L8,
                detail: format!("{at:#x} is handed over twice"),
            });
        }
        let mut under_way = UnderWay::default();
        if machine.options().verified {
            under_way = freeze(at, &buffers).map_err(|Fault(at)| Broken {
                rule: &rules::NBL_N6,
                detail: format!("{at:#x} is not memory"),
            })?;
            self.claim(at, &under_way.parts)?;
        }
        record.under_way = Some(under_way);
        Ok(buffers)
    }

    /// Undoes a [`Ndis::hand_over`] that came to nothing, without a look at the list.
    pub(crate) fn take_back(&self, at: usize) {
        let under_way = lock(&self.lists).get_mut(&at).and_then(|record| record.under_way.take());
        let mut parts = lock(&self.parts);
        for part in under_way.into_iter().flat_map(|under_way| under_way.parts) {
            parts.remove(&part);
        }
    }

    /// Gives a list back: it must be as it was. Its reserved fields are not any more: others have used them.
    pub(crate) fn hand_back(&self, machine: &Machine, at: usize) -> Result<(), Broken> {
        let frozen = {
            let mut lists = lock(&self.lists);
            let under_way = lists.get_mut(&at).and_then(|record| record.under_way.as_mut());
            under_way.map(|under_way| std::mem::take(&mut under_way.frozen)).unwrap_or_default()
        };
        for (address, bytes) in frozen {
            if probe::bytes(address, bytes.len()).as_ref() != Ok(&bytes) {
                let detail = format!(
                    "{} bytes at {address:#x} of list {at:#x} changed while it was under way",
                    bytes.len()
                );
                return Err(Broken { rule: &rules::NBL_L8, detail });
            }
        }
        self.take_back(at);
        if machine.options().verified {
            let poisoned = layout::buffers(at).and_then(|buffers| {
                buffers.into_iter().try_for_each(|buffer| poison(at, Some(buffer)))
            });
            debug_assert_eq!(poisoned, Ok(()));
        }
        Ok(())
    }

    /// Puts MDLs and buffers on the list of those under way, unless one is there (N7).
    fn claim(&self, at: usize, wanted: &[usize]) -> Result<(), Broken> {
        let mut parts = lock(&self.parts);
        if let Some((mdl, other)) =
            wanted.iter().find_map(|part| parts.get(part).map(|other| (part, *other)))
        {
            let detail = format!(
                "MDL {mdl:#x} is in list {at:#x} and in list {other:#x}, which is under way"
            );
            return Err(Broken { rule: &rules::NBL_N7, detail });
        }
        parts.extend(wanted.iter().map(|part| (*part, at)));
        Ok(())
    }

    /// The list under way that an MDL (M5) or a buffer is in.
    pub(crate) fn user_of(&self, part: usize) -> Option<usize> {
        lock(&self.parts).get(&part).copied()
    }
}

/// Everything of a list that its taker relies on.
fn freeze(at: usize, buffers: &[(usize, Buffer)]) -> Result<UnderWay, Fault> {
    let mut under_way = UnderWay::default();
    let mut keep = |from: usize, length: usize| -> Result<(), Fault> {
        under_way.frozen.push((from, probe::bytes(from, length)?));
        Ok(())
    };
    // Up to the fields that the layer below writes; `Status` and the reserved ones are such.
    keep(at, list::PROTOCOL_RESERVED)?;
    keep(at + list::INFO, 8 * list::INFO_SLOTS)?;
    under_way.parts = buffers.iter().map(|(place, _)| *place).collect();
    for (place, said) in buffers {
        keep(*place, buffer::POOL + 8)?;
        for (address, length) in layout::data(said)? {
            keep(address, length)?;
        }
        let mut mdl = said.chain;
        while mdl != 0 {
            keep(mdl, 48)?;
            if !under_way.parts.contains(&mdl) {
                under_way.parts.push(mdl);
            }
            mdl = probe::read(mdl)?;
        }
    }
    Ok(under_way)
}

/// Overwrites what belongs to whoever has a list: the reserved fields of it and of one buffer.
fn poison(at: usize, buffer: Option<usize>) -> Result<(), Fault> {
    probe::fill(at + list::PROTOCOL_RESERVED, POISON, list::SCRATCH + 8 - list::PROTOCOL_RESERVED)?;
    if let Some(at) = buffer {
        poison_buffer(at)?;
    }
    Ok(())
}

/// Overwrites the reserved fields of a buffer.
pub(super) fn poison_buffer(at: usize) -> Result<(), Fault> {
    let length = buffer::MINIPORT_RESERVED + 32 - buffer::PROTOCOL_RESERVED;
    probe::fill(at + buffer::PROTOCOL_RESERVED, POISON, length)
}
