//! The real network: the namespace the process runs in.
//!
//! [`Linux`] is the [`Outer`] network of one machine: UDP sockets of the kernel ([`udp`]), its
//! interfaces and routes ([`netlink`]), kept fresh by a thread that listens for changes. The inner
//! side is a TUN device ([`tun`]), which gives and takes up to 64 KiB at once. Only for worlds in Parallel mode: threads here block in the
//! kernel, where a virtual clock has no say.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use super::routes::Tables;
use super::{Landing, OpenError, Outer, Socket, Watcher};
use crate::verifier::schedule::{World, lock};

pub mod bridge;
pub(crate) mod descriptor;
pub mod merge;
pub mod netlink;
pub mod tun;
pub mod udp;
pub mod vnet;

#[cfg(test)]
mod tests;

/// The network namespace as one machine's outer network.
pub struct Linux {
    this: Weak<Self>,
    world: Arc<World>,
    tables: RwLock<Arc<Tables>>,
    watchers: Mutex<Vec<Watcher>>,
    sockets: Mutex<Vec<Weak<udp::UdpSocket>>>,
    mark: AtomicU32,
    /// Counts changes of the tables, for whoever waits for one.
    changes: OwnedFd,
    stopped: Arc<AtomicBool>,
}

impl Linux {
    /// Reads the tables and begins to listen for their changes.
    ///
    /// # Errors
    ///
    /// Whatever rtnetlink says.
    pub fn new(world: &Arc<World>) -> io::Result<Arc<Self>> {
        let mut listener = netlink::Listener::new()?;
        let tables = netlink::read_tables()?;
        let changes = descriptor::event()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let linux = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            world: world.clone(),
            tables: RwLock::new(Arc::new(tables)),
            watchers: Mutex::default(),
            sockets: Mutex::default(),
            mark: AtomicU32::new(0),
            changes,
            stopped: stopped.clone(),
        });
        let weak = Arc::downgrade(&linux);
        world.spawn("netlink", move || {
            while !stopped.load(Ordering::Acquire) {
                let Ok(changed) = listener.wait(netlink::LISTEN_MS) else { return };
                let Some(linux) = weak.upgrade() else { return };
                if changed {
                    linux.refresh();
                }
            }
        });
        Ok(linux)
    }

    /// Waits until the tables have changed, `other` is readable, or `timeout_ms` have passed; says
    /// whether `other` is readable. One thread waits at a time.
    ///
    /// # Errors
    ///
    /// Whatever poll says.
    pub fn wait_for_change(&self, other: &impl AsRawFd, timeout_ms: i32) -> io::Result<bool> {
        let (changed, other) =
            descriptor::wait_readable(self.changes.as_raw_fd(), other.as_raw_fd(), timeout_ms)?;
        if changed {
            descriptor::drain(&self.changes);
        }
        Ok(other)
    }

    /// The mark of all datagrams sent from now on; 0 is none.
    pub fn set_mark(&self, mark: u32) {
        self.mark.store(mark, Ordering::Release);
        lock(&self.sockets).retain(|socket| match socket.upgrade() {
            Some(socket) => {
                socket.set_mark(mark);
                true
            }
            None => false,
        });
    }

    /// The mark that was set.
    pub fn mark(&self) -> u32 {
        self.mark.load(Ordering::Acquire)
    }

    /// Ends the listening thread soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn refresh(&self) {
        let Ok(after) = netlink::read_tables().map(Arc::new) else { return };
        let before = {
            let mut tables = self.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *tables, after.clone())
        };
        if *before != *after {
            for watcher in &*lock(&self.watchers) {
                watcher(&before, &after);
            }
            descriptor::signal(&self.changes);
        }
    }
}

impl Outer for Linux {
    fn tables(&self) -> Arc<Tables> {
        self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn watch(&self, watcher: Watcher) {
        lock(&self.watchers).push(watcher);
    }

    fn open(
        &self,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<dyn Socket>, OpenError> {
        let socket = udp::UdpSocket::open(&self.world, local, landing)?;
        socket.set_mark(self.mark());
        if let Some(this) = self.this.upgrade() {
            lock(&this.sockets).push(Arc::downgrade(&socket));
        }
        Ok(socket)
    }
}
