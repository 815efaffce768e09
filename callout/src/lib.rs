//! The outer side of the tunnel.
#![no_std]
