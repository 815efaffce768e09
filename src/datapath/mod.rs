//! The way of packets through the driver: from the adapter's ring to a socket, and back.
//!
//! [`send`] and [`sort`] with [`receive`] each turn a batch into chunks of one peer, have them sealed or opened in
//! place, and deliver them in the peer's order. Everything here runs at `<= DISPATCH_LEVEL` on any
//! CPU; whatever needs a worker (a curve multiplication, a timer, a route) is asked for and not
//! done. Nothing calls into the network stack with a lock held.

mod ahead;
mod collect;
mod length;
mod packet;
mod receive;
mod send;
mod sort;
mod tapped;
mod turn;

pub(crate) use length::Answers;
pub(crate) use packet::SEGMENTS;
pub(crate) use receive::{ReceiveWork, Receiving, endpoint};
pub(crate) use send::{SendWork, Sending};
pub(crate) use turn::Stage;

/// The most chunks of one peer and direction that may be under way.
const MOST_CHUNKS: usize = 64;
/// With so many, packets stay in the adapter's ring; the rest is for what has waited for a session.
const MOST_CHUNKS_FROM_RING: usize = 48;
/// Bytes from which on a chunk is worth another CPU's attention: below, fetching it from here costs as
/// much as the cipher. One that is full has as many.
const WORTH_DEALING_BYTES: usize = 2048;
