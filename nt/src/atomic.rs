//! Atomics: `core`'s, or loom's when a model checker is in charge.

#[cfg(not(feature = "loom"))]
pub(crate) use core::sync::atomic::*;

#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic::*;
