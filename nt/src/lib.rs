//! NT in Rust types.
#![no_std]
