//! Packets that a driver saw: as its capture gives them ([`capture`]), and as a file that others read ([`pcapng`]).

pub mod capture;
mod headers;
pub mod pcapng;
