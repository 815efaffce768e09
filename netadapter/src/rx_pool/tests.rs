//! The pool's life: buffers go round, come home from any thread, and the last one frees the memory.

use core::ffi::c_void;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    vec::Vec,
};

use nt::netcx::Layer3;

use super::*;

/// Bytes of pool in use, and how many more blocks there are to be had.
static BYTES: AtomicUsize = AtomicUsize::new(0);
static BLOCKS_LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The counters are the whole process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    BLOCKS_LEFT.store(usize::MAX, Ordering::Relaxed);
    guard
}

/// The kernel's pool, each block with its size in front.
#[unsafe(no_mangle)]
extern "C" fn ExAllocatePool2(_flags: u64, bytes: u64, _tag: u32) -> *mut c_void {
    let Some(left) = BLOCKS_LEFT.load(Ordering::Relaxed).checked_sub(1) else {
        return ptr::null_mut();
    };
    BLOCKS_LEFT.store(left, Ordering::Relaxed);
    let layout = Layout::from_size_align(bytes as usize + 16, 16).unwrap();
    // SAFETY: not of size 0.
    let block = unsafe { alloc_zeroed(layout) };
    // SAFETY: the block has at least 16 bytes, aligned to 16.
    unsafe { block.cast::<u64>().write(bytes) };
    BYTES.fetch_add(bytes as usize, Ordering::Relaxed);
    block.wrapping_add(16).cast()
}

#[unsafe(no_mangle)]
extern "C" fn ExFreePoolWithTag(block: *mut c_void, _tag: u32) {
    let block = block.cast::<u8>().wrapping_sub(16);
    // SAFETY: written by `ExAllocatePool2` above.
    let bytes = unsafe { block.cast::<u64>().read() } as usize;
    BYTES.fetch_sub(bytes, Ordering::Relaxed);
    // SAFETY: allocated there, with this layout.
    unsafe { dealloc(block, Layout::from_size_align(bytes + 16, 16).unwrap()) };
}

/// The end of the machine.
#[unsafe(no_mangle)]
extern "C" fn KeBugCheckEx(code: u32, what: u64, _: u64, _: u64, _: u64) {
    std::eprintln!("stopped by {code:#x}, {what}");
    std::process::abort();
}

fn pool(buffer_bytes: u32, blocks: usize) -> RxPool {
    RxPool::try_new(NonZeroU32::new(buffer_bytes).unwrap(), blocks * BLOCK_BYTES).unwrap()
}

#[test]
fn sizes_have_limits() {
    let _alone = alone();
    for (bytes, cap, valid, rounded) in [
        (1, BLOCK_BYTES, true, 64),
        (2048, BLOCK_BYTES, true, 2048),
        (2049, 3 * BLOCK_BYTES, true, 2112),
        (BUFFER_MAX, BLOCK_BYTES, true, BUFFER_MAX),
        (BUFFER_MAX + 1, BLOCK_BYTES, false, 0),
        (2048, BLOCK_BYTES - 1, false, 0),
        (64, usize::MAX, false, 0),
    ] {
        let made = RxPool::try_new(NonZeroU32::new(bytes).unwrap(), cap);
        assert_eq!(made.is_ok(), valid, "{bytes} of {cap}");
        if let Ok(made) = made {
            assert_eq!(made.buffer_bytes().get(), rounded, "{bytes}");
        }
    }
}

#[test]
fn buffers_are_distinct_aligned_and_capped() {
    let _alone = alone();
    let pool = pool(100 << 10, 3); // two to a block
    let mut held: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
    assert_eq!(held.len(), 6);
    let mut begins = HashSet::new();
    for (fill, buffer) in held.iter_mut().enumerate() {
        let bytes = buffer.as_mut_slice();
        assert_eq!((bytes.len(), bytes.as_ptr().addr() % BUFFER_ALIGN), (100 << 10, 0));
        assert!(begins.insert(bytes.as_ptr().addr()));
        bytes.fill(fill as u8);
    }
    for (fill, mut buffer) in held.into_iter().enumerate() {
        assert!(buffer.as_mut_slice().iter().all(|byte| *byte == fill as u8), "overlap");
    }
    assert_eq!(core::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(), 6, "they went back");
}

#[test]
fn without_memory_there_is_no_buffer_and_no_harm() {
    let _alone = alone();
    let pool = pool(128 << 10, 2);
    BLOCKS_LEFT.store(0, Ordering::Relaxed);
    assert!(pool.take().is_none());
    BLOCKS_LEFT.store(1, Ordering::Relaxed);
    let held: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
    assert_eq!(held.len(), 2);
}

#[test]
fn a_length_is_cut_off_at_the_buffer() {
    let _alone = alone();
    let pool = pool(2048, 1);
    let mut buffer = pool.take().unwrap();
    for (len, kept) in [(0, 0), (2047, 2047), (2048, 2048), (2049, 2048), (usize::MAX, 2048)] {
        buffer.set_len(len);
        assert_eq!(buffer.as_slice().len(), kept, "{len}");
    }
}

#[test]
fn a_stash_holds_what_it_took_and_gives_the_rest_back() {
    let _alone = alone();
    let pool = pool(64 << 10, 2); // four to a block
    assert!(pool.stash(3).take().is_some(), "of a block that is made for it");
    for (asked, taken) in [(0, 2), (1, 1), (3, 2), (9, 9)] {
        let mut stash = pool.stash(asked);
        let held: Vec<_> = core::iter::from_fn(|| stash.take()).take(taken).collect();
        let others: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        let held: HashSet<_> = held.iter().chain(&others).map(|buffer| buffer.index).collect();
        assert_eq!(held.len(), if asked == 3 { 7 } else { 8 }, "{asked}: each once");
        drop(others);
    }
    assert_eq!(core::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(), 8, "all are back");
}

#[test]
fn only_what_is_lent_comes_back_and_only_once() {
    let _alone = alone();
    let pool = pool(2048, 1);
    let held = pool.take().unwrap();
    let lent = pool.take().unwrap();
    let (held_handle, lent_handle) = (held.index as usize + 1, lent.index as usize + 1);
    let _fragment = lent.lend();
    for (handle, comes, why) in [
        (held_handle, false, "held"),
        (held_handle.max(lent_handle) + 1, false, "free"),
        (usize::MAX, false, "no index"),
        (BLOCK_BYTES / 2048 + 1, false, "past the last"),
        (lent_handle, true, "lent"),
        (lent_handle, false, "back already"),
    ] {
        let back = pool.reclaim(NonZeroUsize::new(handle).unwrap());
        assert_eq!(back.is_some(), comes, "{why}");
    }
}

#[test]
fn the_last_to_come_home_frees_the_memory() {
    let _alone = alone();
    let before = BYTES.load(Ordering::Relaxed);
    for away in 0..4 {
        let pool = pool(64 << 10, 2);
        let others: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!(others.len(), 8);
        let mut others = others.into_iter();
        let kept: Vec<_> = others.by_ref().take(away).collect();
        drop(others);
        let second = pool.clone();
        drop(pool);
        assert_ne!(BYTES.load(Ordering::Relaxed), before, "a handle is left");
        drop(second);
        assert_eq!(BYTES.load(Ordering::Relaxed) == before, away == 0, "{away} away");
        drop(kept);
        assert_eq!(BYTES.load(Ordering::Relaxed), before, "all home");
    }
    drop(pool(2048, 1)); // never had a block
    assert_eq!(BYTES.load(Ordering::Relaxed), before);
}

#[test]
fn a_buffer_keeps_what_was_found_of_its_packet_and_the_next_one_begins_anew() {
    let _alone = alone();
    let pool = pool(2048, 1);
    let waiting = Waiting::new(pool.clone(), 5);
    let findings = [Finding::NotChecked, Finding::Valid, Finding::Invalid];
    for (layer3, layer4) in findings.iter().flat_map(|one| findings.map(|other| (*one, other))) {
        let mut buffer = pool.take().unwrap();
        assert_eq!(buffer.checksums(), Checksums::default());
        let found = Checksums { layer3, layer4 };
        buffer.set_checksums(found);
        buffer.as_mut_slice()[0] = 0x60;
        // Cut to its length afterwards, as padding is.
        buffer.set_len(2048);
        buffer.set_len(1999);
        waiting.places(1).push(buffer).unwrap();
        let (buffer, kind) = waiting.consume().next().unwrap();
        assert_eq!((buffer.len(), kind, buffer.checksums()), (1999, Layer3::Ipv6, found));
    }
}

#[test]
fn waiting_buffers_keep_their_order_length_and_kind() {
    let _alone = alone();
    let (pool, other) = (pool(2048, 1), pool(2048, 1));
    let waiting = Waiting::new(pool.clone(), 5);
    let push = |buffer| waiting.places(1).push(buffer);
    let packet = |first: u8, len: usize| {
        let mut buffer = pool.take().unwrap();
        buffer.as_mut_slice()[0] = first;
        buffer.set_len(len);
        buffer
    };
    push(packet(0x45, 20)).unwrap();
    push(packet(0x60, 40)).unwrap();
    assert_eq!(waiting.consume().next().map(|(b, kind)| (b.len(), kind)), Some((20, Layer3::Ipv4)));
    let mut two = waiting.places(2);
    two.push(packet(0x10, 2048)).unwrap();
    two.push(packet(0x40, 0)).unwrap();
    assert!(two.push(packet(0x40, 0)).is_err(), "not announced");
    drop(two);
    for expected in [(40, Layer3::Ipv6), (2048, Layer3::Unknown), (0, Layer3::Unknown)] {
        assert_eq!(waiting.consume().next().map(|(b, kind)| (b.len(), kind)), Some(expected));
    }
    assert!(waiting.consume().next().is_none());
    for at in 0..6 {
        assert_eq!(push(packet(0x45, at)).is_ok(), at < 5, "{at}");
    }
    assert!(waiting.places(1).push(packet(0x45, 1)).is_err(), "full");
    waiting.consume().take(2).for_each(drop);
    assert!(push(other.take().unwrap()).is_err(), "another pool's");
    let mut three = waiting.places(3);
    for at in 0..3 {
        assert_eq!(three.push(packet(0x45, at)).is_ok(), at < 2, "two places were left");
    }
}

#[test]
fn many_threads_lose_nothing_and_keep_their_own_order() {
    const THREADS: u32 = 4;
    const PACKETS: u32 = 20_000;
    let _alone = alone();
    let before = BYTES.load(Ordering::Relaxed);
    let pool = pool(4096, 1);
    let waiting = Waiting::new(pool.clone(), 50);
    let send = |from: u32| {
        let mut number = 0;
        while number < PACKETS {
            let mut stash = pool.stash(3);
            let mut places = waiting.places(2);
            for _ in 0..2 {
                let Some(mut buffer) = stash.take() else { break };
                buffer.as_mut_slice()[..8].copy_from_slice(&pair(from, number));
                buffer.set_len(8);
                if number < PACKETS && places.push(buffer).is_ok() {
                    number += 1;
                }
            }
        }
    };
    thread::scope(|scope| {
        for from in 0..THREADS {
            scope.spawn(move || send(from));
        }
        let (mut next, mut lent) = ([0; THREADS as usize], Vec::new());
        while next.iter().any(|number| *number < PACKETS) {
            let Some((buffer, _kind)) = waiting.consume().next() else { continue };
            let from = u32::from_le_bytes(buffer.as_slice()[..4].try_into().unwrap());
            let number = u32::from_le_bytes(buffer.as_slice()[4..8].try_into().unwrap());
            assert_eq!(number, next[from as usize], "of thread {from}");
            next[from as usize] += 1;
            lent.push(NonZeroUsize::new(buffer.index as usize + 1).unwrap());
            let _fragment = buffer.lend();
            if lent.len() == 5 {
                lent.drain(..).for_each(|handle| drop(pool.reclaim(handle).unwrap()));
            }
        }
        lent.drain(..).for_each(|handle| drop(pool.reclaim(handle).unwrap()));
    });
    assert!(waiting.consume().next().is_none());
    assert_eq!(core::iter::from_fn(|| pool.take()).collect::<Vec<_>>().len(), 64);
    drop(waiting);
    drop(pool);
    assert_eq!(BYTES.load(Ordering::Relaxed), before);
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}
