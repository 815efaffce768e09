//! The inner side of the tunnel.
#![no_std]
