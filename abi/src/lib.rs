//! What crosses the edge of the driver: the same bytes for the driver, its tools and the simulator.
#![no_std]
#![forbid(unsafe_code)]
