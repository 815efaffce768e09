//! Winsock Kernel: datagram sockets, what they receive, and what is sent through them.
//!
//! | file | its subject |
//! |---|---|
//! | `provider` | the driver's registration with WSK |
//! | `socket`, `options` | one datagram socket, its callbacks, and what it is told |
//! | `datagrams` | received datagrams, held until they are released to WSK |
//! | `request` | everything one call to send needs until it is complete, and the pool of them |
//!
//! WSK's rules are kept by types: a registration is resident and undone once; a socket closes only
//! when no call is in progress on it and every held datagram was released; a send owns its memory
//! until its completion. None of this takes a lock while it calls WSK.

mod datagrams;
mod options;
mod provider;
mod request;
mod socket;

pub use datagrams::{Datagram, Datagrams, DatagramsIter};
pub use provider::Provider;
pub use request::{CONTROL_LEN, MESSAGES, SendPool, SendRequest};
pub use socket::{Events, Refused, Sender, Socket};

/// `AF_INET`.
pub(crate) const AF_INET: u16 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u16 = 23;
