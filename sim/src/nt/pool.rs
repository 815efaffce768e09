//! The pool (`ExAllocatePool2`, `ExFreePoolWithTag`).
//!
//! In verified mode each block is special pool: it ends at a guard page, is filled with a pattern if the driver asked for
//! uninitialised memory, and stays unmapped for a while after it is freed, so an overrun or a use after free faults at once
//! and the report names the block. In fast mode blocks come from the host's heap. In both, every block is known by tag and
//! by the driver's code that allocated it.
//!
//! Alignment: 16 bytes below a page, a page from a page on. Source: DDI wdm/nf-wdm-exallocatepool2.

use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::loader::{pe, probe};
use crate::nt::level::APC;
use crate::nt::lock_order;
use crate::nt::machine::Machine;
use crate::nt::memory::{self, Region};
use crate::nt::thread::Thread;
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

mod arena;

use arena::Arena;

const PAGE: usize = 4096;
/// Guarded blocks at most: each takes up to two of the 65,530 mappings that the host gives this process, all
/// its machines together. Further blocks come from the heap.
const MAX_GUARDED: usize = 20_000;
/// Guarded blocks of all machines.
static GUARDED: AtomicUsize = AtomicUsize::new(0);
/// Freed blocks that stay unmapped.
const QUARANTINE: usize = 2_000;
const POOL_FLAG_UNINITIALIZED: u64 = 0x2;
const POOL_FLAG_CACHE_ALIGNED: u64 = 0x8;
const POOL_FLAG_RAISE_ON_FAILURE: u64 = 0x20;
const POOL_FLAG_NON_PAGED: u64 = 0x40;
const POOL_FLAG_NON_PAGED_EXECUTE: u64 = 0x80;
const POOL_FLAG_PAGED: u64 = 0x100;
/// What uninitialised memory is filled with in verified mode.
const GARBAGE: u8 = 0xCD;

/// What cannot be chance: so many bytes of uninitialised memory after another.
const CERTAIN: usize = 16;

/// Stops the machine if `bytes`, which leave it by `way`, were never written.
pub(crate) fn judge_leaving(machine: &Machine, way: &str, bytes: &[u8]) {
    let found = bytes.windows(CERTAIN).position(|part| part.iter().all(|byte| *byte == GARBAGE));
    if let Some(at) = found {
        let detail = format!("{way}: byte {at} of {} and those after it", bytes.len());
        machine.die(&rules::UNINITIALISED_MEMORY_LEAVES, detail);
    }
}

/// Fills memory as uninitialised memory is filled.
pub(crate) fn spoil(address: usize, size: usize) {
    let filled = probe::fill(address, GARBAGE, size);
    debug_assert!(filled.is_ok());
}

#[derive(Clone, Debug)]
struct Block {
    size: usize,
    tag: u32,
    allocated_at: usize,
    freed_at: usize,
    paged: bool,
    /// Start and length of the pages of the arena that end in the guard page; `None` if it is from the heap.
    mapping: Option<(usize, usize)>,
    layout: Layout,
}

#[derive(Default)]
struct State {
    arena: Arena,
    live: BTreeMap<usize, Block>,
    freed: BTreeMap<usize, Block>,
    order: VecDeque<usize>,
    /// Blocks allocated so far, by tag.
    allocations: BTreeMap<u32, u64>,
    bytes: usize,
    most_bytes: usize,
}

/// The pool of a machine.
pub(crate) struct Pool {
    verified: bool,
    /// Whether freed blocks' bytes are kept.
    remembers: bool,
    remains: Mutex<Vec<(Block, Vec<u8>)>>,
    state: Mutex<State>,
}

/// How much of the pool the driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// Blocks allocated now.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Most bytes at any time.
    pub most_bytes: usize,
}

/// The four characters of a tag.
pub(crate) fn tag_name(tag: u32) -> String {
    tag.to_le_bytes()
        .iter()
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
        .collect()
}

impl Pool {
    pub(crate) fn new(verified: bool, remembers: bool) -> Self {
        Self { verified, remembers, remains: Mutex::default(), state: Mutex::default() }
    }

    pub(crate) fn allocate(&self, size: usize, tag: u32, flags: u64, at: usize) -> Option<usize> {
        let align = if size >= PAGE {
            PAGE
        } else if flags & POOL_FLAG_CACHE_ALIGNED != 0 {
            64
        } else {
            16
        };
        let layout = Layout::from_size_align(size.max(1), align).ok()?;
        let mut state = lock(&self.state);
        let more = |guarded: usize| (guarded < MAX_GUARDED).then_some(guarded + 1);
        let guarded = self.verified
            && GUARDED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        let (address, mapping) = if guarded {
            let body = size.max(1).next_multiple_of(align).next_multiple_of(PAGE);
            let unguarded = |_: &std::io::Error| {
                GUARDED.fetch_sub(1, Ordering::Relaxed);
            };
            let base = state.arena.take(body + PAGE).inspect_err(unguarded).ok()?;
            let accessible = libc::PROT_READ | libc::PROT_WRITE;
            pe::protect(base, body, accessible).inspect_err(unguarded).ok()?;
            (base + body - size.max(1).next_multiple_of(align), Some((base, body + PAGE)))
        } else {
            // SAFETY: the layout's size is at least one byte.
            let block = unsafe { std::alloc::alloc_zeroed(layout) };
            if block.is_null() {
                return None;
            }
            (block.expose_provenance(), None)
        };
        let paged = flags & POOL_FLAG_PAGED != 0;
        *state.allocations.entry(tag).or_default() += 1;
        state.live.insert(
            address,
            Block { size, tag, allocated_at: at, freed_at: 0, paged, mapping, layout },
        );
        state.bytes += size;
        state.most_bytes = state.most_bytes.max(state.bytes);
        drop(state);
        if self.verified && flags & POOL_FLAG_UNINITIALIZED != 0 {
            spoil(address, size);
        }
        Some(address)
    }

    /// How long the block at `address` is; 0 if there is none.
    fn size(&self, address: usize) -> usize {
        lock(&self.state).live.get(&address).map_or(0, |block| block.size)
    }

    /// Frees a block.
    ///
    /// # Errors
    ///
    /// What is wrong with the call, in words.
    pub(crate) fn free(&self, address: usize, tag: u32, at: usize) -> Result<(), String> {
        let mut state = lock(&self.state);
        let Some(block) = state.live.get(&address) else {
            return Err(match state.freed.get(&address) {
                Some(_) => format!("{address:#x} was freed before"),
                None => format!("{address:#x} is no pool block"),
            });
        };
        if tag != 0 && tag != block.tag {
            return Err(format!(
                "{address:#x} has tag '{}', freed under '{}'",
                tag_name(block.tag),
                tag_name(tag)
            ));
        }
        let Some(mut block) = state.live.remove(&address) else { return Ok(()) };
        state.bytes -= block.size;
        block.freed_at = at;
        if self.remembers {
            lock(&self.remains).push((block.clone(), memory::bytes(address, block.size)));
        }
        match block.mapping {
            Some((base, length)) => {
                // If the host refuses, the block is only not guarded any more.
                let _ = pe::protect(base, length, libc::PROT_NONE);
                state.freed.insert(address, block);
                state.order.push_back(address);
                if state.order.len() > QUARANTINE {
                    state.forget_oldest();
                }
            }
            // SAFETY: from `alloc_zeroed` with this layout, and no longer known as live.
            None => unsafe {
                std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(address), block.layout)
            },
        }
        Ok(())
    }

    /// What the pool knows of an address that was accessed wrongly.
    pub(crate) fn note(&self, machine: &Machine, address: usize) -> Option<String> {
        let state = lock(&self.state);
        let find = |blocks: &BTreeMap<usize, Block>| {
            let (start, block) =
                blocks.range(..=address.saturating_add(PAGE)).rev().find(|(start, block)| {
                    let (base, length) = block.mapping.unwrap_or((**start, block.size));
                    (base..base + length).contains(&address)
                })?;
            Some((*start, block.clone()))
        };
        let (freed, live) = (find(&state.freed), find(&state.live));
        drop(state);
        let by = |at: usize| machine.describe_caller(at);
        if let Some((start, block)) = live {
            let past = address.wrapping_sub(start + block.size).cast_signed();
            return Some(format!(
                "{past} bytes past pool block {start:#x} of {} bytes, tag '{}', allocated by {}",
                block.size,
                tag_name(block.tag),
                by(block.allocated_at)
            ));
        }
        let (start, block) = freed?;
        Some(format!(
            "{} bytes into the freed pool block {start:#x} of {} bytes, tag '{}', allocated by {}, freed by {}",
            address.wrapping_sub(start).cast_signed(),
            block.size,
            tag_name(block.tag),
            by(block.allocated_at),
            by(block.freed_at)
        ))
    }

    /// Whether `count` bytes at `address` are nonpaged pool of the driver's (`None`: not pool).
    pub(crate) fn nonpaged(&self, address: usize, count: usize) -> Option<bool> {
        let state = lock(&self.state);
        let (start, block) = state.live.range(..=address).next_back()?;
        let inside = address + count <= start + block.size;
        inside.then_some(!block.paged)
    }

    /// What is allocated, and, if the machine remembers, what was freed.
    pub(crate) fn memory(&self, machine: &Machine) -> Vec<Region> {
        let live: Vec<(Block, Vec<u8>)> = {
            let state = lock(&self.state);
            let bytes =
                |(at, block): (&usize, &Block)| (block.clone(), memory::bytes(*at, block.size));
            state.live.iter().map(bytes).collect()
        };
        let remains = lock(&self.remains);
        let region = |(block, bytes): &(Block, Vec<u8>)| {
            let state = if block.freed_at == 0 { "live" } else { "freed" };
            let (tag, by) = (tag_name(block.tag), machine.describe_caller(block.allocated_at));
            Region {
                what: format!("{state} pool, '{tag}', allocated by {by}"),
                bytes: bytes.clone(),
            }
        };
        remains.iter().chain(&live).map(region).collect()
    }

    /// What is allocated: where, and its bytes.
    pub(crate) fn live(&self) -> Vec<(usize, Vec<u8>)> {
        let state = lock(&self.state);
        state.live.iter().map(|(at, block)| (*at, memory::bytes(*at, block.size))).collect()
    }

    pub(crate) fn usage(&self) -> PoolUse {
        let state = lock(&self.state);
        PoolUse { blocks: state.live.len(), bytes: state.bytes, most_bytes: state.most_bytes }
    }

    /// How often memory under `tag` was allocated so far.
    pub(crate) fn allocations(&self, tag: u32) -> u64 {
        lock(&self.state).allocations.get(&tag).copied().unwrap_or(0)
    }

    pub(crate) fn leaks(&self, machine: &Machine, leaks: &mut Vec<Leak>) {
        let live = lock(&self.state).live.clone();
        let mut sites: BTreeMap<(u32, usize), (usize, usize)> = BTreeMap::new();
        for block in live.values() {
            let site = sites.entry((block.tag, block.allocated_at)).or_default();
            site.0 += 1;
            site.1 += block.size;
        }
        for ((tag, at), (blocks, bytes)) in sites {
            let by = machine.describe_caller(at);
            leaks.push(Leak::new(
                "pool",
                format!(
                    "{blocks} blocks, {bytes} bytes, tag '{}', allocated by {by}",
                    tag_name(tag)
                ),
            ));
        }
    }
}

impl State {
    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        if let Some((base, length)) = self.freed.remove(&oldest).and_then(|block| block.mapping) {
            self.arena.give_back(base, length);
            GUARDED.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = std::mem::take(&mut *lock(&self.state));
        for (address, block) in state.live.into_iter().chain(state.freed) {
            match block.mapping {
                // With the arena.
                Some(_) => _ = GUARDED.fetch_sub(1, Ordering::Relaxed),
                // SAFETY: from `alloc_zeroed` with this layout; the machine is gone, so no driver code uses it.
                None => unsafe {
                    std::alloc::dealloc(
                        std::ptr::with_exposed_provenance_mut(address),
                        block.layout,
                    )
                },
            }
        }
    }
}

/// Checks the flags; false if the call is an error that Windows answers with a bugcheck.
fn flags_are_right(thread: &Thread, flags: u64, tag: u32) -> bool {
    let kinds = (flags & (POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE | POOL_FLAG_PAGED))
        .count_ones();
    let wrong = if kinds != 1 {
        "exactly one kind of pool must be named"
    } else if flags & POOL_FLAG_NON_PAGED_EXECUTE != 0 {
        "executable pool is refused under HVCI"
    } else if flags & POOL_FLAG_PAGED != 0 && thread.irql() > APC {
        "paged pool above APC_LEVEL"
    } else if flags & POOL_FLAG_RAISE_ON_FAILURE != 0 {
        "POOL_FLAG_RAISE_ON_FAILURE needs exception handling, which a Rust driver does not have"
    } else if tag == 0 {
        "the tag is zero"
    } else {
        return true;
    };
    thread.bugcheck(
        &rules::BAD_POOL_CALLER,
        [0, flags, tag.into(), 0],
        format!("ExAllocatePool2: {wrong}"),
    );
    false
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Allocates pool, zeroed unless the driver says otherwise.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exallocatepool2", fail: 0]
    fn ExAllocatePool2(thread, flags: u64, size: usize, tag: u32) -> usize {
        if !flags_are_right(thread, flags, tag) {
            return 0;
        }
        thread.machine().pool().allocate(size, tag, flags, thread.caller()).unwrap_or(0)
    }

    /// Frees pool under its own tag; tag 0 fits any.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exfreepoolwithtag"]
    fn ExFreePoolWithTag(thread, address: usize, tag: u32) {
        let size = thread.machine().pool().size(address);
        lock_order::forget(thread.machine(), address, size);
        if let Err(wrong) = thread.machine().pool().free(address, tag, thread.caller()) {
            let detail = format!("ExFreePoolWithTag: {wrong}");
            thread.bugcheck(&rules::BAD_POOL_CALLER, [0x7, 0, tag.into(), address as u64], detail);
        }
    }
}
