//! What `penstock` is made of: configuration files, the driver's IOCTLs from the outside, and what is shown of them.
//!
//! It knows the driver by `abi` alone. How its IOCTLs are reached is a [`driver::Driver`]: on Windows the adapters, on Linux the
//! simulated one. Secrets
//! are of a type that wipes them and cannot be printed by mistake ([`key::SecretKey`]); texts that hold some are wiped too.
#![deny(unsafe_code)]

pub mod change;
pub mod config;
pub mod doctor;
pub mod driver;
pub mod etl;
pub mod key;
#[cfg(unix)]
pub mod linux;
pub mod packets;
pub mod policy;
pub mod service;
pub mod show;
pub mod tunnel;
pub mod uapi;
#[cfg(windows)]
#[allow(unsafe_code)]
pub mod windows;
pub mod words;

// Refuses to compile if what holds secrets can be printed: then there are two impls to choose from.
const _: fn() = || {
    trait Printed<Which> {
        fn it() {}
    }
    impl<T> Printed<()> for T {}
    impl<T: std::fmt::Debug> Printed<u8> for T {}
    impl<T: std::fmt::Display> Printed<u16> for T {}
    let _ = <key::SecretKey as Printed<_>>::it;
    let _ = <config::Config as Printed<_>>::it;
    let _ = <change::Change as Printed<_>>::it;
};
