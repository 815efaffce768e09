//! What crosses the edge of the driver: the same bytes for the driver, its tools and the simulator.
//!
//! Nothing here touches NT: the driver copies a caller's buffer once into its own memory and parses
//! the copy with these functions; tools build the same bytes. Numbers and layouts are facts of the
//! interface (each names its source), asserted at compile time where they are sizes or offsets.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod capture;
pub mod cpu_list;
pub mod descriptor;
pub mod discard;
pub mod dump;
pub mod events;
pub mod ioctl;
pub mod policy;
pub mod statistics;
mod table;
pub mod trace;
