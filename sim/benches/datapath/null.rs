//! A network that costs next to nothing: what is sent is counted, what arrives is put in by hand.
//!
//! [`Null`] stands between a machine and its host in a [`sim::host::memory::Network`]. Until the
//! tunnel is up it passes everything on; then Transport Data is counted and gone, and a benchmark
//! lands datagrams itself. Handshake messages always pass, so sessions are renewed as usual.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sim::host::memory::{CARD, Host};
use sim::host::routes::Tables;
use sim::host::{Batch, Landing, OpenError, Outer, Place, SendError, Sending, Socket, Watcher};
use sim::nt::wsk::control_messages::PacketInfo;

/// The first byte of Transport Data.
const TRANSPORT_DATA: u8 = 4;

/// What becomes of Transport Data that is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It goes to its destination.
    Pass,
    /// It is counted.
    Count,
    /// It is kept, for [`Null::take_recorded`].
    Record,
}

/// See the module.
pub(super) struct Null {
    inner: Arc<Host>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    sent: AtomicU64,
    recorded: Mutex<Vec<Vec<u8>>>,
    landings: Mutex<Vec<(SocketAddr, Arc<dyn Landing>)>>,
}

impl Null {
    pub(super) fn new(inner: Arc<Host>) -> Arc<Self> {
        Arc::new(Self { inner, shared: Arc::default() })
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Datagrams of Transport Data that were not passed on.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    pub(super) fn take_recorded(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.shared.recorded())
    }

    /// The landing of the newest IPv4 socket.
    pub(super) fn landing(&self) -> Option<Arc<dyn Landing>> {
        let landings = self.shared.landings.lock().unwrap_or_else(PoisonError::into_inner);
        landings.iter().rev().find(|(local, _)| local.is_ipv4()).map(|(_, landing)| landing.clone())
    }
}

impl Shared {
    fn recorded(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills places of `landing` with `datagrams` from `remote` to `local`.
pub(super) fn fill(
    landing: &dyn Landing,
    datagrams: &[Vec<u8>],
    remote: SocketAddr,
    local: IpAddr,
) -> Vec<Place> {
    let mut places = Vec::with_capacity(datagrams.len());
    landing.places(&mut places, datagrams.len());
    assert_eq!(places.len(), datagrams.len(), "the driver gives its datagrams back");
    for (place, datagram) in places.iter_mut().zip(datagrams) {
        place.fill(datagram);
        place.remote = remote;
        place.local = Some(PacketInfo { address: local, interface: CARD });
        place.traffic_class = Some(0);
    }
    places
}

impl Outer for Null {
    fn tables(&self) -> Arc<Tables> {
        self.inner.tables()
    }

    fn watch(&self, watcher: Watcher) {
        self.inner.watch(watcher);
    }

    fn open(
        &self,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<dyn Socket>, OpenError> {
        let inner = self.inner.open(local, landing.clone())?;
        let mut landings = self.shared.landings.lock().unwrap_or_else(PoisonError::into_inner);
        landings.push((local, landing));
        Ok(Arc::new(NullSocket { inner, shared: self.shared.clone() }))
    }
}

struct NullSocket {
    inner: Arc<dyn Socket>,
    shared: Arc<Shared>,
}

impl Socket for NullSocket {
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError> {
        let first = batch.datagrams().next().and_then(|pieces| pieces.first()?.first().copied());
        let mode = self.shared.mode.load(Ordering::Relaxed);
        if mode == Mode::Pass as u8 || first != Some(TRANSPORT_DATA) {
            return self.inner.send(to, how, batch);
        }
        let datagrams = batch.datagrams();
        self.shared.sent.fetch_add(datagrams.len() as u64, Ordering::Relaxed);
        if mode == Mode::Record as u8 {
            let copy = |pieces: &[std::io::IoSlice<'_>]| {
                pieces.iter().flat_map(|p| p.iter().copied()).collect()
            };
            self.shared.recorded().extend(datagrams.map(copy));
        }
        Ok(())
    }

    fn close(&self) {
        self.inner.close();
    }
}
