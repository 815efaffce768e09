//! The adapter: an interface of bare IP packets on a device.
//!
//! [`Adapter::create`] makes it while its device is being added; what the data path needs of it, the
//! queues' ends, it gets before it is built. What NetAdapterCx holds (the data path) and what the
//! driver holds ([`Adapter`], [`RxQueue`], [`TxQueue`]) do not own each other, so that there is no
//! circle to break when the device goes.

use core::num::{NonZeroU32, NonZeroUsize};

use abi::discard::Discard;
use nt::{
    irql::{AtMostDispatch, Passive},
    netcx::{
        self, AdapterEvents, DataPath, HASH_KEY_BYTES, Hashed, Kind, LinkSpeed, Notifier,
        QueueIdentity, QueueInit, RxChecksums,
    },
    shared::Shared,
    status::NtError,
    wdf::Device,
};

use crate::{
    queue_counts::Counting,
    rx_pool::RxPool,
    rx_queue::{MOST_RX_QUEUES, RxQueue, RxQueueContext},
    tx_packet::TxBatch,
    tx_queue::{TxQueue, TxQueueContext},
};

/// What is done with the adapter's packets. Dropped with the adapter, when its device goes.
pub trait Datapath: Send + Sync + 'static {
    /// There are packets to send.
    ///
    /// Called for every advance of the queue, also without any new packets. One call at a time.
    ///
    /// # IRQL
    ///
    /// PASSIVE_LEVEL or DISPATCH_LEVEL, changing from call to call.
    fn transmit(&self, batch: &mut TxBatch<'_>, level: &AtMostDispatch);

    /// The queue is about to stop: slots still in flight should be dropped soon, for the device does
    /// not stop before. [`Datapath::transmit`] is not called again until it has started anew.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn transmit_cancelled(&self, _level: &AtMostDispatch) {}

    /// So many packets, of so many bytes in all, went no further here. Bytes are 0 for packets that
    /// were not looked at.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, any thread.
    fn discard(&self, reason: Discard, packets: u64, bytes: u64);
}

/// How an adapter is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest packet the stack sends, in bytes.
    pub mtu_bytes: NonZeroU32,
    /// The speed the link reports, in bits per second.
    pub speed_bits_per_second: u64,
    /// How many received packets may wait for NetAdapterCx to take them.
    pub waiting_packets: NonZeroU32,
    /// Whether the stack may give packets that are to be cut into segments; see
    /// [`crate::TxPacket::mss`].
    pub segmentation: bool,
    /// How many receive queues there may be; the next power of two below counts.
    pub receive_queues: NonZeroU32,
}

impl Default for Config {
    /// WireGuard's usual MTU on an Ethernet path, 100 Gbit/s, and a full ring's worth of packets; no
    /// segmentation.
    fn default() -> Self {
        // spec: WG 13-a
        const MTU: NonZeroU32 = NonZeroU32::new(1420).expect("not 0");
        const WAITING: NonZeroU32 = NonZeroU32::new(4096).expect("not 0");
        let speed_bits_per_second = 100_000_000_000;
        Self {
            mtu_bytes: MTU,
            speed_bits_per_second,
            waiting_packets: WAITING,
            segmentation: false,
            receive_queues: NonZeroU32::MIN,
        }
    }
}

/// An adapter of the driver. To be dropped, like all handles of its device, by the device's cleanup.
#[derive(Clone, Debug)]
pub struct Adapter {
    adapter: netcx::Adapter,
    rx: RxQueue,
    tx: TxQueue,
    max_frame_bytes: NonZeroU32,
}

impl Adapter {
    /// Creates an adapter on `device`, with its link down; `build` makes its data path.
    ///
    /// Received packets are in buffers of `pool`.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] for an MTU above the length of the pool's buffers, or what
    /// NetAdapterCx or `build` answers; the device's addition must then fail.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create<D: Datapath>(
        passive: &mut Passive,
        device: Device,
        config: &Config,
        pool: &RxPool,
        build: impl FnOnce(&Self, &mut Passive) -> Result<D, NtError>,
    ) -> Result<Self, NtError> {
        let max_frame_bytes = pool.buffer_bytes();
        if config.mtu_bytes > max_frame_bytes {
            return Err(NtError::INVALID_PARAMETER);
        }
        let most = config.receive_queues.get().min(MOST_RX_QUEUES as u32);
        let receive_queues = NonZeroU32::new(1 << most.ilog2()).unwrap_or(NonZeroU32::MIN);
        let (queues, waiting) = (receive_queues.get() as usize, config.waiting_packets.get());
        let rx = RxQueue::try_new(pool, queues, waiting, passive)?;
        let notifier = Shared::try_new(Notifier::new(Kind::Transmit, passive))?;
        let tx = TxQueue { notifier, counting: Shared::try_new(Counting::default())? };
        let speed = LinkSpeed { bits_per_second: config.speed_bits_per_second };
        let data_path = DataPath {
            max_frame_bytes,
            mtu_bytes: config.mtu_bytes,
            speed,
            segmentation: config.segmentation,
            receive_queues,
        };
        let mut created = None;
        netcx::Adapter::create(device, passive, data_path, |adapter, passive| {
            let adapter = Self { adapter, rx, tx, max_frame_bytes };
            let datapath = Shared::try_new(build(&adapter, passive)?)?;
            let context = AdapterContext {
                rx: adapter.rx.clone(),
                tx: adapter.tx.clone(),
                pool: pool.clone(),
                datapath,
            };
            created = Some(adapter);
            Ok(context)
        })?;
        created.ok_or(NtError::UNSUCCESSFUL)
    }

    /// Hands the adapter to the network stack.
    ///
    /// # Errors
    ///
    /// Whatever NDIS answers; the adapter is then not started.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn start(&self, passive: &Passive) -> Result<(), NtError> {
        self.adapter.start(passive)
    }

    /// Takes the adapter from the network stack, which happens by itself when its device stops.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn stop(&self, passive: &Passive) {
        self.adapter.stop(passive);
    }

    /// The interface's locally unique identifier, once the adapter has started.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    #[must_use]
    pub fn luid(&self, passive: &Passive) -> u64 {
        self.adapter.luid(passive)
    }

    /// Connects or disconnects the medium, which tells the stack that packets can be sent.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn set_link_up(&self, up: bool) {
        self.adapter.set_link(up);
    }

    /// Sets the largest packet the stack sends.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] if none of that length could be received.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn set_mtu(&self, passive: &Passive, mtu_bytes: NonZeroU32) -> Result<(), NtError> {
        if mtu_bytes > self.max_frame_bytes {
            return Err(NtError::INVALID_PARAMETER);
        }
        self.adapter.set_mtu(passive, mtu_bytes);
        Ok(())
    }

    /// The receive side.
    #[must_use]
    pub fn rx(&self) -> &RxQueue {
        &self.rx
    }

    /// The transmit side.
    #[must_use]
    pub fn tx(&self) -> &TxQueue {
        &self.tx
    }
}

/// The context of the adapter object.
struct AdapterContext<D> {
    rx: RxQueue,
    tx: TxQueue,
    pool: RxPool,
    datapath: Shared<D>,
}

impl<D: Datapath> AdapterEvents for AdapterContext<D> {
    fn create_tx_queue(&self, init: QueueInit<'_>, passive: &mut Passive) -> Result<(), NtError> {
        init.create(passive, |parts| {
            TxQueueContext::try_new(parts, self.tx.clone(), self.datapath.clone())
        })
    }

    fn create_rx_queue(&self, init: QueueInit<'_>, passive: &mut Passive) -> Result<(), NtError> {
        let number = init.number(passive) as usize;
        init.create(passive, |parts| {
            RxQueueContext::try_new(parts, self.rx.clone(), number, self.datapath.clone())
        })
    }

    fn return_rx_buffer(&self, handle: NonZeroUsize, _level: &AtMostDispatch) {
        // A handle that is not lent is none of ours: there is nothing to put back.
        drop(self.pool.reclaim(handle));
    }

    fn set_rx_checksums(&self, wanted: RxChecksums) {
        self.rx.want_checksums(wanted);
    }

    fn enable_receive_scaling(&self, hashed: Hashed) {
        self.rx.steering().enable(hashed);
    }

    fn disable_receive_scaling(&self) {
        self.rx.steering().disable();
    }

    fn set_hash_key(&self, key: &[u8; HASH_KEY_BYTES]) {
        self.rx.steering().set_key(key);
    }

    fn set_indirection(&self, index: usize, queue: QueueIdentity) -> Result<(), NtError> {
        let number = self.rx.number_of(queue).ok_or(NtError::INVALID_PARAMETER)?;
        let set = self.rx.steering().set_entry(index, number);
        if set { Ok(()) } else { Err(NtError::INVALID_PARAMETER) }
    }
}
