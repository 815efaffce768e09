//! Brings a Windows driver image to life in a Linux process: maps it, carries calls across, names its addresses.

pub(crate) mod code;
pub mod gate;
pub(crate) mod gdb;
pub mod pe;
pub mod probe;
pub(crate) mod raw;
pub(crate) mod sites;
pub mod symbols;
pub mod trap;
