//! Chunks and lanes: packets are worked on anywhere, and leave in the order they were numbered.
//!
//! A *chunk* is up to [`CHUNK_PACKETS`] packets of one peer, direction and keypair. A *lane* is the
//! order of one peer's chunks in one direction. A chunk is numbered and appended in one step under
//! the lane's lock ([`Lane::reserve`]), so counter order is list order and a refused chunk leaves no
//! hole. It is then run by whoever wins it ([`Claim::run`]); several CPUs may run chunks of one lane
//! at once, nothing is locked meanwhile. Whoever finishes one tries to become the lane's *owner*
//! ([`Lane::drain`]); the owner alone delivers, always from the head of the list, so what the
//! delivery does (the receive window, the endpoint) needs no lock of its own.
//!
//! An owner waits for nobody: a chunk whose turn has come and that nobody has begun is run by the
//! owner itself. And it does not go on for ever: one that has had enough ([`Owner::has_enough`])
//! hands the lane to another CPU without letting go of it, so that no finisher can slip in between
//! and no CPU is kept at `DISPATCH_LEVEL` by what the others finish.
//!
//! What is delivered by one lane may be appended to another ([`Lane::append`]): the *sender* of a
//! peer is a lane of finished chunks, so that calling the network stack, which is slow, keeps nobody
//! from delivering.
//!
//! Which CPU runs a chunk is its maker's choice: it runs it, or puts its claim into another CPU's
//! [`Queue`]. That CPU may come too late, after an owner who did not wait; the claim is then to
//! a chunk that was run, and nothing happens.
//!
//! Everything runs at `<= DISPATCH_LEVEL`. Per chunk this costs an exchange of its state and one of its references, and its
//! lane's lock three times: to add it, to become the owner and take it, and to let go, where several are taken one after the
//! other once each; per packet nothing.

mod chunk;
mod lane;
mod queue;
pub mod scaling;

pub use chunk::{Chunk, Claim};
pub use lane::{Baton, Lane, Owner, Refused};
pub use queue::{Queue, Server};

/// The most packets in one chunk.
pub const CHUNK_PACKETS: usize = 32;

#[cfg(test)]
mod tests;
