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

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the simulator runs x64 driver code in place: it needs Linux on x86-64");

pub mod host;
pub mod loader;
pub mod nt;
pub mod verifier;
