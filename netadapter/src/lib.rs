//! The inner side of the tunnel: a network adapter that carries bare IP packets.
//!
//! [`Adapter`] is what the driver makes on a device. Packets the machine sends come to its
//! [`Datapath::transmit`] as a [`TxBatch`]; each is either done at once, or taken along as a
//! [`TxFlight`] and done when that is dropped, on any CPU. Packets for the machine are written into an
//! [`RxBuffer`] of the driver's [`RxPool`] and given to the adapter's [`RxQueue`], on any CPU.
//!
//! | file | subject |
//! |---|---|
//! | `adapter` | the adapter, and what its queues do for NetAdapterCx |
//! | `ring` | indices that wrap; which packets can be returned (pure) |
//! | `tx_queue` | advance and cancel of the transmit queue, slots |
//! | `tx_packet` | a packet to send: its bytes, and its end |
//! | `tx_flight` | packets that are taken along together |
//! | `rx_pool` | receive buffers, from taking one to its return by the stack |
//! | `rx_queue` | handing buffers to the ring, where they wait; advance and cancel of the receive queue |
//! | `steering` | which of several receive queues a packet goes to |
//!
//! `unsafe` is allowed in `tx_packet` and `tx_flight` (read ring elements that are the driver's, also
//! outside of callbacks) and `rx_pool` (owns the buffers' memory); the trampolines are in `nt`.
//!
//! ```text
//! . scripts/wdk/env.sh && cargo test -p netadapter
//! ```
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod adapter;
mod queue_counts;
mod ring;
mod rx_pool;
mod rx_queue;
mod steering;
mod tx_flight;
mod tx_packet;
mod tx_queue;

pub use adapter::{Adapter, Config, Datapath};
pub use nt::netcx::{Checksums, Finding, Piece, RxChecksums};
pub use queue_counts::QueueCounts;
pub use rx_pool::{RxBuffer, RxPool, RxStash};
pub use rx_queue::{Indication, MOST_RX_QUEUES, RxQueue};
pub use steering::LastFlow;
pub use tx_flight::TxFlight;
pub use tx_packet::{Pieces, TxBatch, TxPacket};
pub use tx_queue::TxQueue;
