//! A network that costs next to nothing: what is sent is counted, what arrives is put in by hand.
//!
//! [`Null`] stands between a machine and its host in a [`super::memory::Network`]. Until it is told to
//! count it passes everything on; then Transport Data is counted and gone, and whoever measures
//! lands datagrams himself. Handshake messages always pass, so sessions are renewed as usual.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::memory::{CARD, Host};
use super::routes::Tables;
use super::{Batch, Landing, OpenError, Outer, Place, SendError, Sending, Socket, Watcher};
use crate::nt::wsk::control_messages::PacketInfo;
use crate::verifier::schedule::lock;

/// The first byte of Transport Data.
const TRANSPORT_DATA: u8 = 4;

/// What becomes of Transport Data that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes to its destination.
    Pass,
    /// It is counted.
    Count,
    /// It is kept, for [`Null::take_recorded`].
    Record,
}

/// See the module.
pub struct Null {
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
    /// Stands before `inner`.
    #[must_use]
    pub fn new(inner: Arc<Host>) -> Arc<Self> {
        Arc::new(Self { inner, shared: Arc::default() })
    }

    /// What becomes of Transport Data from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Datagrams of Transport Data that were not passed on.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// What was recorded.
    #[must_use]
    pub fn take_recorded(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *lock(&self.shared.recorded))
    }

    /// The landing of the newest IPv4 socket.
    #[must_use]
    pub fn landing(&self) -> Option<Arc<dyn Landing>> {
        let landings = lock(&self.shared.landings);
        landings.iter().rev().find(|(local, _)| local.is_ipv4()).map(|(_, landing)| landing.clone())
    }
}

/// Fills places of `landing` with `datagrams` from `remote` to `local`.
///
/// # Panics
///
/// If the driver has kept too many to have room for these.
#[must_use]
pub fn fill(
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
        lock(&self.shared.landings).push((local, landing));
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
            lock(&self.shared.recorded).extend(datagrams.map(copy));
        }
        Ok(())
    }

    fn close(&self) {
        self.inner.close();
    }
}
