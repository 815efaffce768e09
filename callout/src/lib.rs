//! The outer side: WSK sockets that own the port, run buffers, and routes of our own.
//!
//! Everything `unsafe` about WSK and the IP helper is in `nt`; this crate decides: which sockets a
//! port needs, how datagrams lie in a run, which of our addresses a datagram leaves from. What is a
//! pure function of bytes or tables needs no driver kit and is tested on any host:
//!
//! ```text
//! cargo test -p callout --no-default-features
//! ```
//!
//! | file | its subject |
//! |---|---|
//! | `socket` | the pair of sockets of a port, what they receive and send |
//! | `run` | up to 32 datagrams sent by one call, and the pool they live in |
//! | `run_layout` | where they lie in it |
//! | `route` | the best route that leaves by none of our adapters |
//! | `best_route` | the choice among rows of the forwarding table |
//! | `control_messages` | `WSACMSGHDR` lists |
//! | `endpoint` | `SOCKADDR_INET`, and our own end of a datagram |
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "kernel")]
pub mod absorb;
pub mod best_route;
pub mod classify;
pub mod control_messages;
#[cfg(feature = "kernel")]
pub mod datagrams;
pub mod endpoint;
#[cfg(feature = "kernel")]
mod engine;
pub mod flows;
#[cfg(feature = "kernel")]
pub mod inject;
#[cfg(feature = "kernel")]
pub mod interception;
#[cfg(feature = "kernel")]
mod layers;
#[cfg(feature = "kernel")]
pub mod route;
#[cfg(feature = "kernel")]
pub mod run;
pub mod run_layout;
#[cfg(feature = "kernel")]
pub mod socket;
pub mod udp;

#[cfg(feature = "kernel")]
pub use absorb::Caps;
#[cfg(feature = "kernel")]
pub use datagrams::{Datagram, Datagrams};
pub use endpoint::{Family, Local};
#[cfg(feature = "kernel")]
pub use interception::{Intercepted, Interception};
#[cfg(feature = "kernel")]
pub use nt::wsk::Provider;
#[cfg(feature = "kernel")]
pub use route::{Route, Routes};
#[cfg(feature = "kernel")]
pub use run::{Run, RunCaps, RunPool};
#[cfg(feature = "kernel")]
pub use socket::{Receiver, Sockets};
