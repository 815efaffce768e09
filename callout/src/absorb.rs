//! Datagrams taken out of the stack: noted in the classify, handed over in batches.
//!
//! A classify does as little as it can: it notes in 96 bytes what dies with it, keeps the network
//! adapter's buffer by a reference, and puts both on its CPU's ring; the first one queues a DPC on
//! the same CPU, which runs when the network adapter's own is done, and takes the whole ring. So
//! batches form where the network adapter makes them. What is held is bounded per CPU and per remote
//! address: a small ring of a network adapter must not starve. The memory of descriptors goes round:
//! from whoever is done with a batch back to the CPU that took it.
//!
//! The ring is used at `DISPATCH_LEVEL` on its own CPU and by nobody else, so it needs no lock.

use alloc::vec::Vec;
use core::{
    mem,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::atomic::{AtomicU32, Ordering},
};

use abi::discard::Discard;
use nt::{
    chain::{Chain, Iter, Node},
    irql::{Dispatch, Passive},
    mdl::ChainError,
    nbl::ReferencedNbl,
    per_cpu::PerCpu,
    rundown::{Rundown, Stay},
    shared::Shared,
    status::NtError,
    stock::Stock,
};

use crate::{datagrams::Datagram, endpoint::Local, flows::Flows};

/// The most datagrams on a CPU's ring.
const RING: usize = 256;
/// Descriptors' memory that is kept for each CPU: for as many as it holds, unless policy says more.
const KEPT: u32 = 512;

/// How many datagrams may be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Of one CPU.
    pub per_cpu: u32,
    /// Of one remote address and port.
    pub per_peer: u32,
}

impl Default for Caps {
    /// Half a common network adapter's ring of 1,024.
    fn default() -> Self {
        Self { per_cpu: 512, per_peer: 256 }
    }
}

/// One datagram that was taken.
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) nbl: ReferencedNbl,
    pub(crate) remote: SocketAddr,
    pub(crate) local: Local,
    /// Which adapter it is for.
    pub(crate) context: u64,
    /// Where its flow is in the table.
    pub(crate) place: u16,
    /// The CPU that took it.
    pub(crate) cpu: u16,
    /// Its ECN bits.
    pub(crate) ecn: u8,
}

const _: () = {
    assert!(size_of::<Descriptor>() == 96);
    assert!(mem::offset_of!(Descriptor, remote) == 24);
    assert!(mem::offset_of!(Descriptor, local) == 56);
    assert!(mem::offset_of!(Descriptor, context) == 80);
    assert!(mem::offset_of!(Descriptor, ecn) == 92);
};

impl Descriptor {
    fn read(&self) -> Result<Datagram<'_>, Discard> {
        let payload = self.nbl.payload().map_err(discarded)?;
        let remote = scoped(self.remote, self.local.interface);
        Ok(Datagram { payload, remote, local: Some(self.local), ecn: self.ecn })
    }
}

/// Why the bytes of a datagram cannot be read, as it is counted.
pub(crate) const fn discarded(error: ChainError) -> Discard {
    match error {
        ChainError::Unmapped => Discard::Unmapped,
        ChainError::Short => Discard::MalformedMessage,
    }
}

/// An address as a socket tells it: a link-local one names its interface.
fn scoped(remote: SocketAddr, interface: u32) -> SocketAddr {
    match remote.ip() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, remote.port(), 0, interface).into()
        }
        _ => remote,
    }
}

/// The rings of all CPUs.
pub(crate) struct Rings(PerCpu<Chain<Descriptor>>);

/// Why datagrams are not on the ring.
pub(crate) struct Full;

impl Rings {
    pub(crate) fn try_new() -> Result<Self, NtError> {
        PerCpu::try_new(|_| Ok(Chain::default())).map(Self)
    }

    /// Puts all of `taken` on this CPU's ring, or none; `true` if they are the first there.
    pub(crate) fn push(
        &self,
        level: &Dispatch<'_>,
        taken: &mut Chain<Descriptor>,
    ) -> Result<bool, Full> {
        let pushed = self.0.with(level, |ring| {
            if ring.len().saturating_add(taken.len()) > RING {
                return Err(Full);
            }
            let is_first = ring.is_empty();
            while let Some(node) = taken.pop() {
                ring.push(node);
            }
            Ok(is_first)
        });
        pushed.unwrap_or(Err(Full))
    }

    /// Takes everything from this CPU's ring.
    pub(crate) fn take(&self, level: &Dispatch<'_>) -> Chain<Descriptor> {
        self.0.with(level, mem::take).unwrap_or_default()
    }
}

/// Makes a descriptor of each datagram in `whole`: of `segment` bytes, the last maybe shorter; of all
/// its bytes if that is zero. `None` when memory is short.
pub(crate) fn descriptors(
    whole: ReferencedNbl,
    segment: u16,
    node: impl Fn(ReferencedNbl) -> Option<Node<Descriptor>>,
) -> Option<Chain<Descriptor>> {
    let mut all = Chain::default();
    if segment == 0 {
        all.push(node(whole)?);
        return Some(all);
    }
    let (mut from, segment) = (0_usize, usize::from(segment));
    while from < whole.len() {
        let length = segment.min(whole.len().saturating_sub(from));
        all.push(node(whole.part(from, length)?)?);
        from = from.saturating_add(length);
    }
    Some(all)
}

/// What is held, and by whom: shared by everything that holds.
pub(crate) struct Holding {
    pub(crate) flows: Flows,
    by_cpu: Vec<AtomicU32>,
    /// For descriptors.
    pub(crate) stock: Stock<Descriptor>,
    /// One reference for each batch that is out.
    out: Shared<Rundown>,
}

impl Holding {
    pub(crate) fn try_new(seed: u64) -> Result<Self, NtError> {
        let no_memory = |_| NtError::INSUFFICIENT_RESOURCES;
        let count = nt::processor::maximum() as usize;
        let mut by_cpu = Vec::new();
        by_cpu.try_reserve_exact(count).map_err(no_memory)?;
        by_cpu.resize_with(count, || AtomicU32::new(0));
        let flows = Flows::try_new(seed).map_err(no_memory)?;
        let stock = Stock::try_new(KEPT)?;
        Ok(Self { flows, by_cpu, stock, out: Shared::try_new(Rundown::new())? })
    }

    /// How many datagrams of a CPU are held; as many as can be for one that there is not.
    pub(crate) fn of_cpu(&self, cpu: u32) -> u32 {
        self.by_cpu.get(cpu as usize).map_or(u32::MAX, |held| held.load(Ordering::Relaxed))
    }

    /// Notes that a datagram is held.
    pub(crate) fn hold(&self, descriptor: &Descriptor) {
        // Relaxed, as everywhere here: a count publishes nothing.
        if let Some(held) = self.by_cpu.get(usize::from(descriptor.cpu)) {
            held.fetch_add(1, Ordering::Relaxed);
        }
        self.flows.hold(descriptor.place);
    }

    /// Waits until every batch has been dropped; none can be made afterwards.
    pub(crate) fn wait(&self, passive: &Passive) {
        self.out.wait(passive);
    }

    /// Gives datagrams back that one CPU took: their buffers, and the descriptors' memory.
    pub(crate) fn release(&self, taken: Chain<Descriptor>) {
        let Some(cpu) = taken.iter().next().map(|first| first.cpu) else { return };
        for descriptor in &taken {
            if let Some(held) = self.by_cpu.get(usize::from(descriptor.cpu)) {
                held.fetch_sub(1, Ordering::Relaxed);
            }
            self.flows.release(descriptor.place);
        }
        self.stock.give_back(cpu.into(), taken);
    }
}

/// Datagrams of one adapter that were taken together; their buffers go back on drop.
pub(crate) struct Batch {
    taken: Chain<Descriptor>,
    holding: Shared<Holding>,
    /// Last: what the driver waits for at its end.
    _stay: Stay,
}

impl Batch {
    /// An empty batch; `None` when everything is being taken down.
    pub(crate) fn empty(holding: &Shared<Holding>) -> Option<Self> {
        let stay = Stay::enter(&holding.out)?;
        Some(Self { taken: Chain::default(), holding: holding.clone(), _stay: stay })
    }

    /// An empty batch of the same kind.
    pub(crate) fn split(&self) -> Option<Self> {
        Self::empty(&self.holding)
    }

    /// Adds a datagram at the end.
    pub(crate) fn push(&mut self, node: Node<Descriptor>) {
        self.taken.push(node);
    }

    /// Moves the first datagram to the end of `to`; false if there is none.
    pub(crate) fn move_first(&mut self, to: &mut Self) -> bool {
        self.taken.pop().map(|node| to.taken.push(node)).is_some()
    }

    /// How many datagrams there are.
    pub(crate) const fn len(&self) -> usize {
        self.taken.len()
    }

    /// The datagrams, in order.
    pub(crate) const fn iter(&self) -> BatchIter<'_> {
        BatchIter(self.taken.iter())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.holding.release(mem::take(&mut self.taken));
    }
}

/// The datagrams of a batch.
#[derive(Clone)]
pub(crate) struct BatchIter<'b>(Iter<'b, Descriptor>);

impl<'b> Iterator for BatchIter<'b> {
    type Item = Result<Datagram<'b>, Discard>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(Descriptor::read)
    }
}
