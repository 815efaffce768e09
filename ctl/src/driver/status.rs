//! An NTSTATUS as a person reads it: the words that `wg` has for the same failure, or the number.

use std::fmt;

use super::Failure;

/// What the driver answers a request with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// STATUS_SUCCESS.
    pub const SUCCESS: Self = Self(0);
    /// STATUS_ACCESS_DENIED.
    pub const ACCESS_DENIED: Self = Self(0xC000_0022_u32.cast_signed());
    /// STATUS_BUFFER_OVERFLOW: the answer is longer than the buffer.
    pub const BUFFER_OVERFLOW: Self = Self(0x8000_0005_u32 as i32);
    /// STATUS_ACCESS_DISABLED_BY_POLICY_OTHER.
    pub const NOT_BY_POLICY: Self = Self(0xC000_0364_u32 as i32);
    /// STATUS_DEVICE_BUSY.
    pub const BUSY: Self = Self(0x8000_0011_u32 as i32);

    /// Whether it is a success.
    ///
    /// # Errors
    ///
    /// [`Failure::Refused`].
    pub fn check(self) -> Result<(), Failure> {
        if self.0 < 0 { Err(Failure::Refused(self)) } else { Ok(()) }
    }

    /// Those that Windows makes a number of their own of.
    #[cfg(all(windows, test))]
    pub(crate) fn known() -> impl Iterator<Item = Self> {
        TOLD.iter()
            .filter(|(_, code, ..)| *code != 0)
            .map(|(status, ..)| Self(status.cast_signed()))
    }

    /// What Windows made this error of, if it has words; `DeviceIoControl` tells no other number.
    #[cfg(any(windows, test))]
    pub(crate) fn of_win32(code: i32) -> Option<Self> {
        const MORE_DATA: u32 = 234;
        let code = code.cast_unsigned();
        let known = TOLD.iter().find(|(_, error, ..)| *error == code);
        known
            .map(|(status, ..)| Self(status.cast_signed()))
            .or((code == MORE_DATA).then_some(Self::BUFFER_OVERFLOW))
    }

    /// What the text protocol of [`crate::uapi`] has for it: an errno of Linux, negative, and EIO for what has none.
    pub(crate) fn errno(self) -> i32 {
        const EIO: i32 = 5;
        let status = self.0.cast_unsigned();
        TOLD.iter().find(|(known, ..)| *known == status).map_or(-EIO, |(_, _, errno, _)| -errno)
    }

    fn words(self) -> Option<&'static str> {
        let status = self.0.cast_unsigned();
        TOLD.iter().find(|(known, ..)| *known == status).map(|(.., words)| *words)
    }
}

/// NTSTATUS, the number that Windows makes of it for `GetLastError` (0: one that says something else), the errno of Linux, and
/// the words of `wg`.
///
/// Source: `RtlNtStatusToDosError`, which a test asks where there is one.
const TOLD: [(u32, u32, i32, &str); 19] = [
    // STATUS_ACCESS_DENIED.
    (0xC000_0022, 5, 13, "Permission denied"),
    // STATUS_ACCESS_DISABLED_BY_POLICY_OTHER.
    (0xC000_0364, 1260, 1, "Policy does not allow it"),
    // STATUS_INVALID_PARAMETER, STATUS_INVALID_BUFFER_SIZE, STATUS_BUFFER_TOO_SMALL.
    (0xC000_000D, 87, 22, "Invalid argument"),
    (0xC000_0206, 1784, 22, "Invalid argument"),
    (0xC000_0023, 122, 22, "Invalid argument"),
    // STATUS_ADDRESS_ALREADY_EXISTS.
    (0xC000_020A, 52, 98, "Address already in use"),
    // STATUS_INVALID_ADDRESS, STATUS_INVALID_ADDRESS_COMPONENT.
    (0xC000_0141, 59, 99, "Cannot assign requested address"),
    (0xC000_0207, 1214, 99, "Cannot assign requested address"),
    // STATUS_INSUFFICIENT_RESOURCES, STATUS_NO_MEMORY.
    (0xC000_009A, 1450, 12, "Cannot allocate memory"),
    (0xC000_0017, 8, 12, "Cannot allocate memory"),
    // STATUS_NOT_IMPLEMENTED, STATUS_INVALID_DEVICE_REQUEST, STATUS_NOT_SUPPORTED.
    (0xC000_0002, 1, 95, "Operation not supported"),
    (0xC000_0010, 1, 95, "Operation not supported"),
    (0xC000_00BB, 50, 95, "Operation not supported"),
    // STATUS_NO_SUCH_DEVICE, STATUS_DELETE_PENDING, STATUS_DEVICE_REMOVED, NDIS_STATUS_ADAPTER_REMOVED.
    (0xC000_000E, 433, 19, "No such device"),
    (0xC000_0056, 0, 19, "No such device"),
    (0xC000_02B6, 1617, 19, "No such device"),
    (0xC001_0018, 0, 19, "No such device"),
    // STATUS_DEVICE_NOT_READY.
    (0xC000_00A3, 21, 16, "Device or resource busy"),
    // STATUS_DEVICE_BUSY.
    (0x8000_0011, 170, 16, "Device or resource busy"),
];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_windows_is_what_it_was_made_of() {
        assert_eq!(Status::of_win32(234), Some(Status::BUFFER_OVERFLOW));
        for (status, code, _, words) in TOLD.into_iter().filter(|(_, code, ..)| *code != 0) {
            let read = Status::of_win32(code.cast_signed()).map(|status| status.to_string());
            assert_eq!(read.as_deref(), Some(words), "{status:#x}");
        }
        assert_eq!(Status::of_win32(9999), None);
    }
}
