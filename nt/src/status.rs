//! `NTSTATUS` as a `Result`.
//!
//! NT answers every question with one signed number. Inside the driver a failure is an
//! [`NtError`], so that `?` carries it and nobody compares numbers; at a callback's edge
//! [`to_status`] turns the result back. Pure arithmetic: any IRQL.

use core::{fmt, num::NonZeroI32};

use wdk_sys::NTSTATUS;

/// A failed `NTSTATUS`.
///
/// # Invariants
///
/// The severity bits say warning or error, that is, the value is negative.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct NtError(NonZeroI32);

/// Declares the failures that the driver itself makes; what NT answers passes through unchanged.
macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $status:ident;)*) => {
        impl NtError {
            $($(#[$doc])* pub const $name: Self = Self::from_const(wdk_sys::$status);)*
        }
    };
}

errors! {
    /// The caller is not who may do this.
    ACCESS_DENIED = STATUS_ACCESS_DENIED;
    /// Policy does not allow it, whoever asks.
    ACCESS_DISABLED_BY_POLICY = STATUS_ACCESS_DISABLED_BY_POLICY_OTHER;
    /// An address or port is taken.
    ADDRESS_ALREADY_EXISTS = STATUS_ADDRESS_ALREADY_EXISTS;
    /// The caller's buffer holds part of the answer.
    BUFFER_OVERFLOW = STATUS_BUFFER_OVERFLOW;
    /// The caller's buffer cannot hold the fixed part of the answer.
    BUFFER_TOO_SMALL = STATUS_BUFFER_TOO_SMALL;
    /// What was asked for is being taken down.
    DELETE_PENDING = STATUS_DELETE_PENDING;
    /// Somebody else is at it.
    DEVICE_BUSY = STATUS_DEVICE_BUSY;
    /// The device is not in the state this needs.
    DEVICE_NOT_READY = STATUS_DEVICE_NOT_READY;
    /// A lower layer that this needs is not there.
    DEVICE_DOES_NOT_EXIST = STATUS_DEVICE_DOES_NOT_EXIST;
    /// Memory or another bounded resource has run out.
    INSUFFICIENT_RESOURCES = STATUS_INSUFFICIENT_RESOURCES;
    /// A number added up past its type.
    INTEGER_OVERFLOW = STATUS_INTEGER_OVERFLOW;
    /// More or fewer bytes than may be sent at once.
    INVALID_BUFFER_SIZE = STATUS_INVALID_BUFFER_SIZE;
    /// Nobody knows this control code.
    INVALID_DEVICE_REQUEST = STATUS_INVALID_DEVICE_REQUEST;
    /// The object is not in the state this needs.
    INVALID_DEVICE_STATE = STATUS_INVALID_DEVICE_STATE;
    /// The input is not what it claims to be.
    INVALID_PARAMETER = STATUS_INVALID_PARAMETER;
    /// The input's length is wrong for its kind.
    INFO_LENGTH_MISMATCH = STATUS_INFO_LENGTH_MISMATCH;
    /// There is no such thing.
    NOT_FOUND = STATUS_NOT_FOUND;
    /// A version that this driver does not know.
    NOT_IMPLEMENTED = STATUS_NOT_IMPLEMENTED;
    /// This machine or build cannot do it.
    NOT_SUPPORTED = STATUS_NOT_SUPPORTED;
    /// Nothing more to enumerate.
    NO_MORE_ENTRIES = STATUS_NO_MORE_ENTRIES;
    /// No route leads there.
    NETWORK_UNREACHABLE = STATUS_NETWORK_UNREACHABLE;
    /// It was there already.
    OBJECT_NAME_COLLISION = STATUS_OBJECT_NAME_COLLISION;
    /// No value of that name.
    OBJECT_NAME_NOT_FOUND = STATUS_OBJECT_NAME_NOT_FOUND;
    /// A value of that name, and nothing in it.
    RESOURCE_DATA_NOT_FOUND = STATUS_RESOURCE_DATA_NOT_FOUND;
    /// A failure with no better name.
    UNSUCCESSFUL = STATUS_UNSUCCESSFUL;
}

impl NtError {
    /// The failure as NT writes it; always negative.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn status(self) -> NTSTATUS {
        self.0.get()
    }

    /// A failure known when the driver is compiled; anything else is a compile error.
    const fn from_const(status: NTSTATUS) -> Self {
        assert!(status < 0, "not a failure");
        match NonZeroI32::new(status) {
            // INVARIANT: just checked.
            Some(status) => Self(status),
            None => unreachable!(),
        }
    }
}

impl fmt::Debug for NtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NtError({:#010x})", self.status())
    }
}

impl fmt::Display for NtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:#010x}", self.status())
    }
}

impl core::error::Error for NtError {}

impl From<NtError> for NTSTATUS {
    fn from(error: NtError) -> Self {
        error.status()
    }
}

/// `NT_SUCCESS`, as a `Result`: informational codes such as `STATUS_PENDING` are successes.
///
/// # Errors
///
/// The status itself, when it is a warning or an error.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/using-ntstatus-values>
pub const fn check(status: NTSTATUS) -> Result<(), NtError> {
    match NonZeroI32::new(status) {
        // INVARIANT: the guard is the invariant.
        Some(failure) if !wdk::nt_success(status) => Err(NtError(failure)),
        _ => Ok(()),
    }
}

/// What a callback answers NT.
///
/// # IRQL
///
/// Any.
#[must_use]
pub const fn to_status(result: Result<(), NtError>) -> NTSTATUS {
    match result {
        Ok(()) => wdk_sys::STATUS_SUCCESS,
        Err(error) => error.status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_and_errors_are_failures() {
        for (status, failed, why) in [
            (0, false, "success"),
            (0x103, false, "STATUS_PENDING"),
            (0x4000_0000, false, "informational"),
            (0x8000_0005_u32.cast_signed(), true, "a warning: STATUS_BUFFER_OVERFLOW"),
            (0xC000_009A_u32.cast_signed(), true, "an error"),
        ] {
            assert_eq!(check(status).is_err(), failed, "{why}");
            assert_eq!(to_status(check(status)), if failed { status } else { 0 }, "{why}");
        }
        assert_eq!(check(0xC000_009A_u32.cast_signed()), Err(NtError::INSUFFICIENT_RESOURCES));
    }
}
