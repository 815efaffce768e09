//! The outer side: WSK sockets that own the port, callouts before them, run buffers, routes of our own.
//!
//! Everything `unsafe` about WSK, WFP and the IP helper is in `nt`; this crate decides: which sockets a
//! port needs, how datagrams lie in a run, which of our addresses a datagram leaves from. What is a
//! pure function of bytes or tables needs no driver kit and is tested on any host:
//!
//! ```text
//! cargo test -p callout --no-default-features
//! ```
//!
//! | file | its subject |
//! |---|---|
//! | `outside` | one port's outer side: the sockets, and the callouts before them |
//! | `socket` | the pair of sockets of a port |
//! | `datagrams` | what arrived together, by the sockets or by the callouts |
//! | `coalesced`, `parts` | datagrams that came several as one, and how a socket's are cut apart |
//! | `interception` | the callouts at work: who is led where, taken or let pass |
//! | `classify` | what is taken, and why not, as one table |
//! | `absorb` | what is noted of a datagram that is taken, rings and batches |
//! | `flows` | when the firewall last saw a flow, and what is held of it |
//! | `engine`, `layers` | what stands in the filter engine, whenever it runs |
//! | `inject`, `udp` | sending by injection, and the header that needs |
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
pub mod coalesced;
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
pub mod outside;
#[cfg(feature = "kernel")]
mod parts;
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
pub use datagrams::{Datagram, Datagrams, Sequence};
pub use endpoint::{Family, Local};
#[cfg(feature = "kernel")]
pub use interception::{Intercepted, Interception, Ways};
#[cfg(feature = "kernel")]
pub use nt::{fwp::Shape, wsk::Provider};
#[cfg(feature = "kernel")]
pub use outside::Outside;
#[cfg(feature = "kernel")]
pub use route::{Route, Routes};
#[cfg(feature = "kernel")]
pub use run::{Run, RunCaps, RunPool};
pub use run_layout::Layout;
#[cfg(feature = "kernel")]
pub use socket::{Receiver, Sockets};
