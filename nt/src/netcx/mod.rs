//! NetAdapterCx objects: adapter, packet queues, and the rings the queues work on.
//!
//! As in [`crate::wdf`], a driver implements traits, [`AdapterEvents`] and [`PacketQueueEvents`],
//! whose values are the contexts of the framework's objects, and trampolines find them. Whatever a
//! driver may do to a ring it does through [`Rings`], which exist only inside a queue's callback:
//! that indices move nowhere else is a rule of NetAdapterCx, and here a matter of types. Every index
//! is masked before it is used, so no value that arrives there reaches past a ring.
//!
//! What a packet queue must do about its rings is the business of the crate `netadapter`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/>

mod adapter;
mod notifier;
mod queue;
mod ring;

pub use adapter::{
    Adapter, AdapterEvents, DataPath, HASH_KEY_BYTES, Hashed, INDIRECTION_ENTRIES, LinkSpeed,
    RxChecksums,
};
pub use notifier::{Entered, Notifier};
pub use queue::{Kind, PacketQueueEvents, QueueIdentity, QueueInit, QueueParts, Started};
pub use ring::{Checksums, Finding, Indices, Layer3, Packet, Piece, RingView, Rings, RxFragment};
