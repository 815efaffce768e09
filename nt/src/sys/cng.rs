//! The kernel's cryptography, as far as random numbers (`bcrypt.h`, SDK 10.0.26100; `cng.lib`).

use wdk_sys::{NTSTATUS, PVOID, ULONG};

/// The generator is the system's, and no algorithm handle is given.
pub const BCRYPT_USE_SYSTEM_PREFERRED_RNG: ULONG = 2;

unsafe extern "system" {
    /// Fills `cbBuffer` bytes at `pbBuffer` with random ones.
    pub fn BCryptGenRandom(
        hAlgorithm: PVOID,
        pbBuffer: *mut u8,
        cbBuffer: ULONG,
        dwFlags: ULONG,
    ) -> NTSTATUS;
}
