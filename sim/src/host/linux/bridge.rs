//! The TUN device and the simulated adapter, joined: packets both ways.
//!
//! Towards the driver a thread for each queue of the device reads up to 64 KiB at once. What the driver declared that it
//! cuts, and Windows lets it have, is put into the transmit ring as it is; else packets of the MTU are, with their checksums
//! done: what tcpip gives an adapter that was granted neither segmentation nor checksums. From the driver packets are written where
//! the receive queue's poll hands them over, consecutive segments of a TCP flow as one ([`super::merge`]); the write is the
//! last thing done with the buffers, so none is kept.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::merge::merge;
use super::tun::Tun;
use super::vnet::{self, VnetHeader};
use crate::nt::machine::Machine;
use crate::nt::netcx::adapter::Adapter;
use crate::nt::netcx::poll_thread::with_dpcs;
use crate::nt::netcx::segmentation::Cut;
use crate::nt::netcx::tx_translator::Refused;
use crate::verifier::schedule::JoinHandle;

/// How long a paused adapter is left alone.
const PAUSED: Duration = Duration::from_millis(5);
/// How long to wait for room in the ring before looking whether to stop.
const FULL: Duration = Duration::from_millis(100);

/// Bytes of a packet at most.
const MOST: usize = 1 << 16;

/// Packets between a TUN device and an adapter; ends when dropped.
pub struct Bridge {
    tun: Arc<Tun>,
    flags: Arc<Flags>,
    readers: Vec<JoinHandle>,
    machine: Arc<Machine>,
}

#[derive(Default)]
struct Flags {
    stopped: AtomicBool,
    gone: AtomicBool,
    refused: AtomicU64,
    malformed: AtomicU64,
}

impl Bridge {
    /// Joins `tun` and `adapter`.
    #[must_use]
    pub fn join(machine: &Arc<Machine>, tun: &Arc<Tun>, adapter: &Arc<Adapter>) -> Self {
        let flags = Arc::new(Flags::default());
        let (sink, counts) = (tun.clone(), flags.clone());
        adapter.on_receive(move |packets| {
            let whole: Vec<Cow<'_, [u8]>> = packets
                .iter()
                .map(|packet| match packet.contiguous() {
                    Some(bytes) => bytes.into(),
                    None => packet.pieces().collect::<Vec<_>>().concat().into(),
                })
                .collect();
            merge(whole.iter().map(|packet| &**packet), |pieces| {
                if !sink.write(pieces) {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let pump = |queue| {
            let pump = Pump {
                machine: machine.clone(),
                tun: tun.clone(),
                queue,
                adapter: adapter.clone(),
                flags: flags.clone(),
            };
            machine.world().spawn("tun", move || pump.run())
        };
        let readers = (0..tun.queues()).map(pump).collect();
        Self { tun: tun.clone(), flags, readers, machine: machine.clone() }
    }

    /// Whether the TUN device has been deleted.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.flags.gone.load(Ordering::Acquire)
    }

    /// Packets of the kernel whose `virtio_net_hdr` made no sense.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.flags.malformed.load(Ordering::Relaxed)
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
        for reader in self.readers.drain(..) {
            reader.join(Some(self.machine.world().now() + Duration::from_secs(5)));
        }
    }
}

/// The thread that reads one queue of the TUN device.
struct Pump {
    machine: Arc<Machine>,
    tun: Arc<Tun>,
    queue: usize,
    adapter: Arc<Adapter>,
    flags: Arc<Flags>,
}

/// What was read and is not in the ring yet.
struct Reading {
    bytes: Box<[u8]>,
    len: usize,
    cut: Option<Cut>,
}

impl Pump {
    fn run(&self) {
        let bytes = vec![0; MOST].into_boxed_slice();
        let mut reading = Reading { bytes, len: 0, cut: None };
        while !self.flags.stopped.load(Ordering::Acquire) && !self.machine.is_dead() {
            // What is sent before the adapter's link is up waits where tcpip would keep it too.
            if !self.adapter.link().connected {
                self.machine.world().sleep(PAUSED);
                continue;
            }
            let mut failed: Option<io::Error> = None;
            let mut read = 0;
            let mut next = |buffer: &mut [u8]| match self.next(&mut reading, buffer) {
                Ok(length) => {
                    read += usize::from(length.is_some());
                    length
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            };
            let taken =
                with_dpcs(&self.machine, || self.adapter.send_with(&self.machine, &mut next));
            if failed.is_some() {
                self.flags.gone.store(true, Ordering::Release);
                return;
            }
            match taken {
                Ok(_) if read > 0 => {}
                Ok(_) => {
                    if self.tun.wait(self.queue, -1).is_err() {
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

    /// The next packet for the ring, into `buffer`: its length, and what it is to be cut into if it is; `None` if there is
    /// none at the moment.
    ///
    /// One that does not fit is cut to the buffer: longer than the adapter's MTU allows, and the driver discards and counts
    /// it as such.
    fn next(&self, reading: &mut Reading, buffer: &mut [u8]) -> io::Result<Option<(usize, usize)>> {
        loop {
            if let Some(cut) = &mut reading.cut {
                if let Some(length) = cut.next(&reading.bytes[..reading.len], buffer) {
                    return Ok(Some((length, 0)));
                }
                reading.cut = None;
            }
            // With room for all of it there it is read to where it goes.
            let in_place = buffer.len() >= MOST;
            let bytes = if in_place { &mut *buffer } else { &mut *reading.bytes };
            let mut header = [0; vnet::HEADER];
            let Some(length) = self.tun.read(self.queue, &mut header, bytes)? else {
                return Ok(None);
            };
            let packet = &mut bytes[..length];
            let header = VnetHeader::from_bytes(&header);
            if header.gso_type == vnet::GSO_NONE && header.complete(packet) {
                let length = length.min(buffer.len());
                if !in_place {
                    buffer[..length].copy_from_slice(&reading.bytes[..length]);
                }
                return Ok(Some((length, 0)));
            }
            if let Some(mss) = header.segment_size(packet) {
                if in_place && self.adapter.may_be_given(&self.machine, packet, mss) {
                    self.adapter.offload(&self.machine, packet);
                    return Ok(Some((length, mss)));
                }
                reading.cut = Cut::new(packet, mss);
            }
            if reading.cut.is_none() {
                self.flags.malformed.fetch_add(1, Ordering::Relaxed);
            } else if in_place {
                reading.bytes[..length].copy_from_slice(&buffer[..length]);
            }
            reading.len = length;
        }
    }
}
