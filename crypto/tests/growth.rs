//! Tables grow with their locks open: what has a lock waits for no memory and moves no table.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use abi::ioctl::Set;
use crypto::{
    protocol::{HandshakeLoad, IndexTable, Instant, Now, Tunnel, hash_table::HashKey},
    sync::{Ground, Shared},
};
use net::{Attached, Request, request::PeerRequest};

thread_local! {
    /// How many locks this thread has.
    static PINNED: Cell<usize> = const { Cell::new(0) };
    /// Blocks that were asked for, moved or freed meanwhile.
    static UNDER_LOCKS: Cell<usize> = const { Cell::new(0) };
}

struct Watched;

impl Watched {
    fn note(&self) {
        if PINNED.get() > 0 {
            UNDER_LOCKS.set(UNDER_LOCKS.get() + 1);
        }
    }
}

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note();
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.note();
        // SAFETY: passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Counts the locks of its thread.
struct Counted;

impl Ground for Counted {
    fn pinned<R>(&self, body: impl FnOnce() -> R) -> R {
        PINNED.set(PINNED.get() + 1);
        let done = body();
        PINNED.set(PINNED.get() - 1);
        done
    }
}

fn key(number: u32) -> [u8; 32] {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    key
}

#[test]
fn no_table_grows_under_a_lock() {
    let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
    let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
    let tunnel: Tunnel<Attached> =
        Tunnel::try_new(1, index.clone(), load, HashKey::new([2; 16])).unwrap();
    let now =
        Now { monotonic: Instant(Duration::from_secs(5)), wall: Duration::from_secs(1 << 30) };
    let mut peers = 0;
    for more in [1, 700, 1, 1, 3000, 2500, 1] {
        let mut request = Request::new();
        for _ in 0..more {
            let [.., b, c, d] = u32::to_be_bytes(peers);
            request.peers.push(PeerRequest::new(key(peers)).allow(&format!("10.{b}.{c}.{d}/32")));
            peers += 1;
        }
        let request = request.encode();
        let set = Set::parse(&request).unwrap();
        let prepared = tunnel.prepare(&Counted, &set).map_err(|_| "refused").unwrap();
        drop(prepared.commit(&Counted, now));
        assert_eq!(UNDER_LOCKS.get(), 0, "{more} more peers, {peers} in all");
        assert_eq!(tunnel.peer_count(&Counted), peers as usize);
    }
    for number in 0..peers {
        let peer = tunnel.find_peer(&Counted, &key(number)).unwrap();
        let [.., b, c, d] = u32::to_be_bytes(number);
        let routed = tunnel.peer_for(&Counted, [10, b, c, d].into()).unwrap();
        assert!(Shared::ptr_eq(&peer, &routed), "peer {number}");
    }
    tunnel.close(&Counted);
    assert_eq!(tunnel.peer_count(&Counted), 0);
    assert_eq!(UNDER_LOCKS.get(), 0, "peers go");
}
