//! An NTSTATUS as a person reads it: the words that `wg` has for the same failure, or the number.

use std::fmt;

use super::Failure;

/// What the driver answers a request with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// STATUS_SUCCESS.
    pub const SUCCESS: Self = Self(0);
    /// STATUS_BUFFER_OVERFLOW: the answer is longer than the buffer.
    pub const BUFFER_OVERFLOW: Self = Self(0x8000_0005_u32 as i32);

    /// Whether it is a success.
    ///
    /// # Errors
    ///
    /// [`Failure::Refused`].
    pub fn check(self) -> Result<(), Failure> {
        if self.0 < 0 { Err(Failure::Refused(self)) } else { Ok(()) }
    }

    fn words(self) -> Option<&'static str> {
        Some(match self.0 as u32 {
            // STATUS_ACCESS_DENIED.
            0xC000_0022 => "Permission denied",
            // STATUS_INVALID_PARAMETER, STATUS_INVALID_BUFFER_SIZE, STATUS_BUFFER_TOO_SMALL.
            0xC000_000D | 0xC000_0206 | 0xC000_0023 => "Invalid argument",
            // STATUS_ADDRESS_ALREADY_EXISTS.
            0xC000_020A => "Address already in use",
            // STATUS_INVALID_ADDRESS, STATUS_INVALID_ADDRESS_COMPONENT.
            0xC000_0141 | 0xC000_0207 => "Cannot assign requested address",
            // STATUS_INSUFFICIENT_RESOURCES, STATUS_NO_MEMORY.
            0xC000_009A | 0xC000_0017 => "Cannot allocate memory",
            // STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED, STATUS_INVALID_DEVICE_REQUEST.
            0xC000_0002 | 0xC000_00BB | 0xC000_0010 => "Operation not supported",
            // STATUS_NO_SUCH_DEVICE, STATUS_DELETE_PENDING, NDIS_STATUS_ADAPTER_REMOVED, STATUS_DEVICE_REMOVED.
            0xC000_000E | 0xC000_0056 | 0xC001_0018 | 0xC000_02B6 => "No such device",
            // STATUS_DEVICE_NOT_READY.
            0xC000_00A3 => "Device or resource busy",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(words),
            None => write!(f, "the driver answered {:#010x}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
