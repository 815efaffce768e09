//! NT in Rust types: what the driver needs of the kernel, each thing with one owner.
//!
//! This is the one crate that is mostly `unsafe`. It stands on `wdk-sys` (bindings) and adds what
//! that lacks: raw declarations in [`sys`], and around them values whose `Drop` gives back what
//! they hold. Raw names (`KDPC`, `WDFDEVICE`) stay in here; the rest of the driver says `Dpc`,
//! `Device`.
//!
//! Three rules hold everywhere:
//!
//! * IRQL is an argument. A routine that waits or pages takes [`irql::Passive`], a lock takes the
//!   caller's level and lends out a higher one; what may be called up to `DISPATCH_LEVEL` takes
//!   nothing. Tokens are made at entry points only.
//! * Every failure is an [`status::NtError`]; nothing here panics on what the kernel answers.
//! * Nothing allocates infallibly.
//!
//! To check it on a build host that is not Windows (bash, workspace root):
//!
//! ```text
//! . scripts/wdk/env.sh && cargo check -p nt
//! ```
#![no_std]

extern crate alloc;

pub mod access;
mod atomic;
pub mod bugcheck;
pub mod chain;
pub mod closing;
pub mod crash;
pub mod dpc;
pub mod etw;
pub mod event;
pub mod extended_state;
pub mod fwp;
pub mod irp;
pub mod irql;
pub mod layout;
pub mod mdl;
pub mod mutex;
pub mod nbl;
pub mod netcx;
pub mod netio;
pub mod per_cpu;
pub mod pool;
pub mod process;
pub mod processor;
pub mod random;
pub mod rcu;
pub mod recorder;
pub mod rundown;
pub mod shared;
pub mod spin_lock;
pub mod status;
pub mod stock;
pub mod sys;
pub mod thread;
pub mod time;
pub mod timer;
pub mod trace;
pub mod untrusted;
pub mod wdf;
pub mod wsk;
