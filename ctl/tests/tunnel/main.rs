//! Tunnels on a system of plain values: brought up, taken down, looked after.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

mod executed;
mod fake;
mod watched;
