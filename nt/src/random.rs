//! Random bytes, from the system's generator.
//!
//! `BCryptGenRandom` may page and wait, so it is asked at `PASSIVE_LEVEL` only; whoever needs
//! random bytes at `DISPATCH_LEVEL` takes them beforehand. Nothing does yet: ephemeral keys, indices
//! and cookie secrets are all made by worker threads.

use core::ptr;

use crate::{
    irql::Passive,
    status::{NtError, check},
    sys::cng::{BCRYPT_USE_SYSTEM_PREFERRED_RNG, BCryptGenRandom},
};

/// Fills `bytes` with what nobody can guess.
///
/// # Errors
///
/// What the generator says; `bytes` must then not be used. [`NtError::INVALID_PARAMETER`] past
/// 4 GiB.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: <https://learn.microsoft.com/windows/win32/api/bcrypt/nf-bcrypt-bcryptgenrandom>
pub fn fill(_passive: &Passive, bytes: &mut [u8]) -> Result<(), NtError> {
    let len = u32::try_from(bytes.len()).map_err(|_| NtError::INVALID_PARAMETER)?;
    // SAFETY: `bytes` is ours for the call and `len` long; a null algorithm goes with this flag; at
    // PASSIVE_LEVEL, as the token says.
    check(unsafe {
        BCryptGenRandom(ptr::null_mut(), bytes.as_mut_ptr(), len, BCRYPT_USE_SYSTEM_PREFERRED_RNG)
    })
}
