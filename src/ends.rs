//! The adapter's ends: what its sockets and its rings call.
//!
//! Both hold a reference to the device, so both are taken down before it: the sockets when the
//! adapter goes down, the adapter's data path with the adapter.

use core::net::SocketAddr;

use abi::{
    discard::{Direction, Discard},
    statistics::Counter,
};
use callout::{Datagrams, Family, Receiver};
use crypto::sync::Shared;
use netadapter::{Datapath, TxBatch};
use nt::{irql::AtMostDispatch, status::NtError};

use crate::{device::Device, log::Level};

/// What the sockets call.
#[derive(Clone)]
pub(crate) struct Outer(pub(crate) Shared<Device>);

impl Receiver for Outer {
    fn receive(&self, datagrams: Datagrams, level: &AtMostDispatch) {
        Device::receive_batch(&self.0, datagrams, level);
    }

    fn sent(&self, datagrams: usize, bytes: usize) {
        self.0.counters.add(Counter::DatagramsOut, datagrams);
        self.0.counters.add(Counter::DatagramBytesOut, bytes);
    }

    fn discarded(&self, reason: Discard, datagrams: usize) {
        if reason.direction() == Direction::Inbound {
            // They came, but `receive` was never shown them.
            self.0.counters.add(Counter::DatagramsIn, datagrams);
        }
        self.0.counters.discard(reason, datagrams);
    }

    fn returned(&self) {
        self.0.run_returned();
    }

    fn counted(&self, counter: Counter, datagrams: usize) {
        self.0.counters.add(counter, datagrams);
    }

    fn segmentation_refused(&self, family: Family, error: NtError, level: &AtMostDispatch) {
        self.0.counters.add(Counter::SegmentationRefused, 1);
        let what = format_args!("{family} does not cut apart what it is sent: {error}");
        self.0.log.line(level, Level::Warning, what);
    }

    fn has_session(&self, receiver: u32, level: &AtMostDispatch) -> bool {
        self.0.has_session(receiver, level)
    }

    fn coalescing_distrusted(&self, level: &AtMostDispatch) {
        self.0.distrust_coalescing(level);
    }

    fn failed(&self, _remote: SocketAddr, _error: NtError) {
        self.0.doubt_routes();
    }

    fn lost(&self, _family: Family) {
        self.0.ask_for_sockets();
    }
}

/// What the rings call.
pub(crate) struct Inner(pub(crate) Shared<Device>);

impl Datapath for Inner {
    fn transmit(&self, batch: &mut TxBatch<'_>, level: &AtMostDispatch) {
        Device::send_batch(&self.0, batch, level);
    }

    fn discard(&self, reason: Discard, packets: u64, bytes: u64) {
        let clamped = |count| usize::try_from(count).unwrap_or(usize::MAX);
        let (packets, bytes) = (clamped(packets), clamped(bytes));
        match reason.direction() {
            // They came, but `transmit` was never shown them.
            Direction::Outbound => {
                self.0.counters.add(Counter::PacketsOut, packets);
                self.0.counters.add(Counter::BytesOut, bytes);
            }
            // They were handed to the ring, which stopped before it took them.
            Direction::Inbound => {
                self.0.counters.take_back(Counter::PacketsIn, packets);
                self.0.counters.take_back(Counter::BytesIn, bytes);
            }
        }
        self.0.counters.discard(reason, packets);
    }
}
