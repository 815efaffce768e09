//! WireGuard without I/O, clock or randomness.
//!
//! Every rule of the protocol is a row of `docs/conformance.md`, and cited here where it is met
//! (`spec`) and where it is tested (`spec-test`). Where the paper, Linux, WireGuardNT and
//! wireguard-go differ, the choice is this:
//!
//! | what | choice, and why |
//! |---|---|
//! | counters of a session | the paper's 2^64 − 8193, the smallest: what we send everybody accepts |
//! | receive window | 8128, as all three have; the paper leaves it open |
//! | giving up a handshake | after 20 initiations (Linux), not 90 s: one more try while it may help |
//! | jitter | up to 333 ms (Linux, wireguard-go); the paper says "some" |
//! | a cookie is used for | 115 s (Linux), not 120 s: it would lapse on its way |
//! | timestamps | Linux's steps of 2^24 ns, and never back when the clock is set back: a peer would refuse us |
//! | two initiations of a peer | 20 ms apart, exactly 20 ms is enough (Linux) |
//! | a request for a handshake that comes too early | kept for the retransmit timer; Linux forgets it until the next packet |
//! | a second keepalive for data heard meanwhile | Linux's: called off by whatever is sent first |
//! | under load | Linux's numbers: 512 waiting, a second's memory, 20 messages a second, bursts of five |
//! | no peer, no endpoint | discarded and counted, no ICMP (WireGuardNT) |
//! | a configuration that is refused | changes nothing; Linux and WireGuardNT keep what came before the error |
//! | sleep | ages count it, and what is too old goes on waking; Linux wipes before |
//! | ECN, DSCP | Linux's, as far as a Windows socket does it; WireGuardNT has none |
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

/// Refuses to compile if a type that holds secrets can be printed: then there are two impls to choose from.
// spec: WG 7.4-a
macro_rules! never_printed {
    ($($type:ty),+ $(,)?) => {
        const _: fn() = || {
            trait Printed<Which> {
                fn it() {}
            }
            impl<T: ?Sized> Printed<()> for T {}
            impl<T: ?Sized + core::fmt::Debug> Printed<u8> for T {}
            impl<T: ?Sized + core::fmt::Display> Printed<u16> for T {}
            $(let _ = <$type as Printed<_>>::it;)+
        };
    };
}
pub(crate) use never_printed;

pub mod aead;
pub mod mac1;
pub mod pipeline;
pub mod protocol;
pub mod sync;
