//! WireGuard without I/O, clock or randomness.
#![no_std]

extern crate alloc;

// Left alone, these crates look for AVX2 by CPUID and use it behind the kernel's back, which destroys
// registers of whatever thread was interrupted. A RUSTFLAGS variable silently takes the place of the
// flags in .cargo/config.toml, so they are asked for here.
#[cfg(all(
    target_os = "windows",
    not(all(
        any(chacha20_backend = "soft", chacha20_backend = "sse2"),
        poly1305_backend = "soft",
        curve25519_dalek_backend = "serial",
    ))
))]
compile_error!("build for Windows with the flags of .cargo/config.toml: unset RUSTFLAGS");
#[cfg(test)]
extern crate std;

pub mod aead;
pub mod mac1;
pub mod pipeline;
pub mod protocol;
pub mod sync;
