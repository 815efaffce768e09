//! NT on Linux.
