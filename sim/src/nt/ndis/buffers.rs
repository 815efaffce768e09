//! NET_BUFFERs on their own, and their pools: what a driver hangs into a list behind the first.
//!
//! Whoever allocates such a buffer frees it; freeing a list does not.
//!
//! Source: DDI nblapi/nf-nblapi-ndisallocatenetbufferpool, …-ndisallocatenetbuffer, …-ndisfreenetbuffer.

use std::sync::Mutex;

use rustc_hash::FxHashMap;

use super::invariants::{self, Broken};
use super::layout::{Buffer, buffer};
use super::lists::{self, ndis};
use super::violation;
use crate::loader::probe::{self, Fault};
use crate::nt::imports;
use crate::nt::thread::Thread;
use crate::verifier::report::Leak;
use crate::verifier::rules::{self, Rule};
use crate::verifier::schedule::lock;

struct Pool {
    tag: u32,
    out: usize,
    /// Blocks for the next buffers; fast mode only.
    spare: Vec<usize>,
}

/// The buffers of one machine that are in no list's allocation.
#[derive(Default)]
pub(crate) struct Buffers {
    pools: Mutex<FxHashMap<usize, Pool>>,
    /// Live buffers by address, with their pool.
    all: Mutex<FxHashMap<usize, usize>>,
}

fn wrong<T>(rule: &'static Rule, detail: String) -> Result<T, Broken> {
    Err(Broken { rule, detail })
}

impl Buffers {
    pub(crate) fn leaks(&self, leaks: &mut Vec<Leak>) {
        for (at, pool) in &*lock(&self.pools) {
            let detail = format!("buffer pool {at:#x} not freed, {} buffers out", pool.out);
            leaks.push(Leak::new("NDIS", detail));
        }
    }

    fn make_pool(&self, thread: &Thread, parameters: usize) -> Result<usize, Broken> {
        let read = |at| probe::read::<u32>(parameters + at);
        let (Ok(header), Ok(tag), Ok(data)) = (read(0), read(4), read(8)) else {
            return wrong(&rules::NBL_L4, format!("{parameters:#x} is not memory"));
        };
        if header != 0x000C_0180 || tag == 0 {
            return wrong(&rules::NBL_L4, format!("header {header:#x}, tag {tag:#x}"));
        }
        if data != 0 {
            return wrong(
                &rules::NBL_L4,
                "a pool with data is for NdisAllocateNetBufferMdlAndData, which is not provided"
                    .into(),
            );
        }
        let handle = thread.machine().allocate(16);
        lock(&self.pools).insert(handle, Pool { tag, out: 0, spare: Vec::new() });
        Ok(handle)
    }

    fn free_pool(&self, thread: &Thread, handle: usize) -> Result<(), Broken> {
        let mut pools = lock(&self.pools);
        match pools.get(&handle) {
            None => return wrong(&rules::NBL_L4, format!("{handle:#x} is no buffer pool")),
            Some(pool) if pool.out > 0 => {
                return wrong(
                    &rules::NBL_L4,
                    format!("pool {handle:#x} is freed with {} buffers out", pool.out),
                );
            }
            Some(_) => {}
        }
        let Some(pool) = pools.remove(&handle) else { return Ok(()) };
        drop(pools);
        for block in pool.spare {
            let freed = thread.machine().pool().free(block, pool.tag, thread.caller());
            debug_assert_eq!(freed, Ok(()));
        }
        thread.machine().release(handle);
        Ok(())
    }

    /// Allocates a buffer over a chain of MDLs; 0: no memory.
    fn allocate(&self, thread: &Thread, handle: usize, mut said: Buffer) -> Result<usize, Broken> {
        if said.chain == 0 && (said.offset != 0 || said.length != 0) {
            return wrong(&rules::NBL_N2, "an offset or a length without an MDL".into());
        }
        let (tag, spare) = match lock(&self.pools).get_mut(&handle) {
            None => return wrong(&rules::NBL_L4, format!("{handle:#x} is no buffer pool")),
            Some(pool) => {
                pool.out += 1;
                (pool.tag, pool.spare.pop())
            }
        };
        let machine = thread.machine();
        let block =
            spare.or_else(|| machine.pool().allocate(buffer::SIZE, tag, 0, thread.caller()));
        let Some(block) = block else {
            lock(&self.pools).get_mut(&handle).into_iter().for_each(|pool| pool.out -= 1);
            return Ok(0);
        };
        lock(&self.all).insert(block, handle);
        let built = probe::fill(block, 0, buffer::SIZE).and_then(|()| {
            if machine.options().verified {
                lists::poison_buffer(block)?;
            }
            probe::write(block + buffer::POOL, handle)?;
            said.adjust()?;
            said.write(block)
        });
        built.map_err(|Fault(at)| Broken {
            rule: &rules::NBL_N1,
            detail: format!("{at:#x} is not memory"),
        })?;
        if machine.options().verified {
            invariants::buffer(block)?;
        }
        Ok(block)
    }

    fn free(&self, thread: &Thread, at: usize) -> Result<(), Broken> {
        let machine = thread.machine();
        if let Some(list) = ndis(machine).user_of(at) {
            return wrong(
                &rules::NBL_L8,
                format!("buffer {at:#x} is in list {list:#x}, which is under way"),
            );
        }
        let Some(handle) = lock(&self.all).remove(&at) else {
            return wrong(
                &rules::NBL_L4,
                format!("{at:#x} is no buffer of a buffer pool, or was freed"),
            );
        };
        let mut pools = lock(&self.pools);
        let Some(pool) = pools.get_mut(&handle) else {
            return wrong(&rules::NBL_L4, format!("the pool of buffer {at:#x} is gone"));
        };
        pool.out -= 1;
        if !machine.options().verified {
            pool.spare.push(at);
            return Ok(());
        }
        let tag = pool.tag;
        drop(pools);
        let freed = machine.pool().free(at, tag, thread.caller());
        freed.map_err(|detail| Broken { rule: &rules::NBL_L4, detail })
    }
}

/// The answer, or `nothing` after a stop.
fn answer<T>(thread: &Thread, function: &str, done: Result<T, Broken>, nothing: T) -> T {
    done.unwrap_or_else(|broken| {
        violation(thread, function, broken);
        nothing
    })
}

imports! {
    pub(crate) static IMPORTS: "ndis.sys";

    /// Makes a pool of buffers without memory of their own.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisallocatenetbufferpool", fail: 0]
    fn NdisAllocateNetBufferPool(thread, handle: usize, parameters: usize) -> usize {
        let ndis = ndis(thread.machine());
        if !ndis.is_handle(handle) {
            thread.stop(&rules::NBL_L4, format!("NdisAllocateNetBufferPool: {handle:#x} is no NDIS handle"));
            return 0;
        }
        answer(thread, "NdisAllocateNetBufferPool", ndis.buffers.make_pool(thread, parameters), 0)
    }

    /// Frees a pool, all of whose buffers are back.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisfreenetbufferpool"]
    fn NdisFreeNetBufferPool(thread, pool: usize) {
        answer(thread, "NdisFreeNetBufferPool", ndis(thread.machine()).buffers.free_pool(thread, pool), ());
    }

    /// Allocates a buffer over a chain of MDLs.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisallocatenetbuffer", fail: 0]
    fn NdisAllocateNetBuffer(thread, pool: usize, chain: usize, offset: u32, length: usize) -> usize {
        let said = Buffer { chain, offset, length: length as u32, ..Buffer::default() };
        answer(thread, "NdisAllocateNetBuffer", ndis(thread.machine()).buffers.allocate(thread, pool, said), 0)
    }

    /// Frees a buffer that its owner has taken out of every list.
    [max: DISPATCH, mark: Documented, source: "DDI nblapi/nf-nblapi-ndisfreenetbuffer"]
    fn NdisFreeNetBuffer(thread, at: usize) {
        answer(thread, "NdisFreeNetBuffer", ndis(thread.machine()).buffers.free(thread, at), ());
    }
}
