//! NT on Linux: loads `penstock.sys` as built for Windows, runs it, and checks it more strictly than Windows would.
//!
//! * [`loader`] maps the image and carries calls between the driver and this program.
//! * [`host`] is what is outside: networks, programs, the configuration protocol.
//! * [`nt`] is Windows as the driver sees it, one file per family of functions.
//! * [`verifier`] is time, faults, rules and reports.
//!
//! Start at [`nt::machine::Machine`], a simulated Windows, and [`verifier::schedule::World`], the time it lives in. What this
//! cannot show: paging, interrupt latency, real race timing, a user/kernel address split, PatchGuard, HVCI and CFG rules,
//! structures beyond those modelled. It knows the driver by its file alone.

// Driver code runs in place, so on any other host there is nothing of this: `cargo test` tests the rest of the workspace.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

pub mod checksum;
pub mod host;
pub mod loader;
pub mod nt;
pub mod verifier;
