//! The Windows Filtering Platform: what the driver asks it to intercept, and what it injects.
//!
//! | file | its subject |
//! |---|---|
//! | `engine` | sessions, transactions, and the objects added in them; whether the engine runs |
//! | `callout` | the driver's registration of its callouts, and the way a packet comes in |
//! | `classify` | one packet, as a classify sees it, and the answer |
//! | `injection` | sending datagrams of our own from the transport layer |
//!
//! The platform's rules are kept by types: a transaction that is not committed is undone; a callout
//! is unregistered, however often that has to be tried, before what it calls is gone; an injection
//! owns what it sends until it is complete.

mod callout;
mod classify;
mod engine;
mod injection;

pub use callout::{Callouts, Classifier, Keys, Layer};
pub use classify::{Classify, Injected, Metadata};
pub use engine::{
    EngineEvents, EngineStates, Filter, Guid, Session, Text, Transaction, is_running, text,
};
pub use injection::{
    Address, Injection, InjectionEvents, InjectionId, Outcome, Refused, Shape, UDP_HEADER_LEN,
};
