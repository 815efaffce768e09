//! The TUN device and the simulated adapter, joined: packets both ways.
//!
//! Towards the driver a thread reads packets straight into the buffers the transmit ring will
//! show. From the driver packets are written where the receive queue's poll hands them over; the
//! write is the last thing done with the buffer, so none is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::tun::Tun;
use crate::nt::machine::Machine;
use crate::nt::netcx::adapter::Adapter;
use crate::nt::netcx::tx_translator::Refused;
use crate::verifier::schedule::JoinHandle;

/// How long a paused adapter is left alone.
const PAUSED: Duration = Duration::from_millis(5);
/// How long to wait for room in the ring before looking whether to stop.
const FULL: Duration = Duration::from_millis(100);

/// Packets between a TUN device and an adapter; ends when dropped.
pub struct Bridge {
    tun: Arc<Tun>,
    flags: Arc<Flags>,
    reader: Option<JoinHandle>,
    machine: Arc<Machine>,
}

#[derive(Default)]
struct Flags {
    stopped: AtomicBool,
    gone: AtomicBool,
    refused: AtomicU64,
}

impl Bridge {
    /// Joins `tun` and `adapter`.
    #[must_use]
    pub fn join(machine: &Arc<Machine>, tun: &Arc<Tun>, adapter: &Arc<Adapter>) -> Self {
        let flags = Arc::new(Flags::default());
        let (sink, counts) = (tun.clone(), flags.clone());
        adapter.on_receive(move |packets| {
            for packet in packets.iter() {
                let written = match packet.contiguous() {
                    Some(bytes) => sink.write(bytes),
                    None => sink.write(&packet.pieces().collect::<Vec<_>>().concat()),
                };
                if !written {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let pump = Pump {
            machine: machine.clone(),
            tun: tun.clone(),
            adapter: adapter.clone(),
            flags: flags.clone(),
        };
        let reader = machine.world().spawn("tun", move || pump.run());
        Self { tun: tun.clone(), flags, reader: Some(reader), machine: machine.clone() }
    }

    /// Whether the TUN device has been deleted.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.flags.gone.load(Ordering::Acquire)
    }

    /// Packets of the driver that the kernel would not take.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.flags.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.flags.stopped.store(true, Ordering::Release);
        self.tun.wake();
        if let Some(reader) = self.reader.take() {
            reader.join(Some(self.machine.world().now() + Duration::from_secs(5)));
        }
    }
}

/// The thread that reads the TUN device.
struct Pump {
    machine: Arc<Machine>,
    tun: Arc<Tun>,
    adapter: Arc<Adapter>,
    flags: Arc<Flags>,
}

impl Pump {
    fn run(&self) {
        while !self.flags.stopped.load(Ordering::Acquire) && !self.machine.is_dead() {
            // What is sent before the adapter's link is up waits where tcpip would keep it too.
            if !self.adapter.link().connected {
                self.machine.world().sleep(PAUSED);
                continue;
            }
            let mut failed: Option<io::Error> = None;
            let mut read = 0;
            let taken = self.adapter.send_with(&self.machine, |buffer| {
                let room = buffer.len();
                match self.tun.read(buffer) {
                    // A packet that fills the buffer was cut by the kernel: longer than the
                    // adapter's MTU allows, and the driver discards and counts it as such.
                    Ok(length) => {
                        read += usize::from(length.is_some());
                        length.map(|length| length.min(room))
                    }
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                }
            });
            if failed.is_some() {
                self.flags.gone.store(true, Ordering::Release);
                return;
            }
            match taken {
                Ok(_) if read > 0 => {}
                Ok(_) => {
                    if self.tun.wait(-1).is_err() {
                        return;
                    }
                }
                Err(Refused::Full) => {
                    let deadline = self.machine.world().now() + FULL;
                    self.adapter.wait_for_room(&self.machine, Some(deadline));
                }
                Err(Refused::Paused) => self.machine.world().sleep(PAUSED),
            }
        }
    }
}
