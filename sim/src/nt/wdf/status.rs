//! The `NTSTATUS` values the frameworks return. Numbers from `ntstatus.h`, WDK 10.0.26100.

/// An `NTSTATUS`.
pub type NtStatus = i32;

/// `NT_SUCCESS`: success and informational values.
#[must_use]
pub fn is_success(status: NtStatus) -> bool {
    status >= 0
}

/// `NT_ERROR`: the two top bits are set; warnings are neither success nor error.
#[must_use]
pub fn is_error(status: NtStatus) -> bool {
    status.cast_unsigned() >> 30 == 3
}

/// Turns WDF's own facility into what a requestor sees, as `WdfRequestComplete` does.
///
/// Source: `facts/kmdf.md` §9, step 3.
#[must_use]
pub fn for_requestor(status: NtStatus) -> NtStatus {
    match status {
        WDF_PAUSED | WDF_BUSY => DEVICE_BUSY,
        WDF_INTERNAL_ERROR => INTERNAL_ERROR,
        WDF_NOT_ENOUGH_MAP_REGISTERS => INSUFFICIENT_RESOURCES,
        _ if status.cast_unsigned() >> 16 == 0xC020 => INVALID_DEVICE_REQUEST,
        _ => status,
    }
}

/// `STATUS_SUCCESS`.
pub const SUCCESS: NtStatus = 0x0000_0000_u32.cast_signed();
/// `STATUS_PENDING`.
pub const PENDING: NtStatus = 0x0000_0103_u32.cast_signed();
/// `STATUS_OBJECT_NAME_EXISTS`.
pub const OBJECT_NAME_EXISTS: NtStatus = 0x4000_0000_u32.cast_signed();
/// `STATUS_BUFFER_OVERFLOW`.
pub const BUFFER_OVERFLOW: NtStatus = 0x8000_0005_u32.cast_signed();
/// `STATUS_NO_MORE_ENTRIES`.
pub const NO_MORE_ENTRIES: NtStatus = 0x8000_001A_u32.cast_signed();
/// `STATUS_UNSUCCESSFUL`.
pub const UNSUCCESSFUL: NtStatus = 0xC000_0001_u32.cast_signed();
/// `STATUS_INFO_LENGTH_MISMATCH`.
pub const INFO_LENGTH_MISMATCH: NtStatus = 0xC000_0004_u32.cast_signed();
/// `STATUS_INVALID_PARAMETER`.
pub const INVALID_PARAMETER: NtStatus = 0xC000_000D_u32.cast_signed();
/// `STATUS_INVALID_PARAMETER_4`.
pub const INVALID_PARAMETER_4: NtStatus = 0xC000_00F2_u32.cast_signed();
/// `STATUS_NO_SUCH_DEVICE`.
pub const NO_SUCH_DEVICE: NtStatus = 0xC000_000E_u32.cast_signed();
/// `STATUS_INVALID_DEVICE_REQUEST`.
pub const INVALID_DEVICE_REQUEST: NtStatus = 0xC000_0010_u32.cast_signed();
/// `STATUS_ACCESS_DENIED`.
pub const ACCESS_DENIED: NtStatus = 0xC000_0022_u32.cast_signed();
/// `STATUS_BUFFER_TOO_SMALL`.
pub const BUFFER_TOO_SMALL: NtStatus = 0xC000_0023_u32.cast_signed();
/// `STATUS_RESOURCE_DATA_NOT_FOUND`.
pub const RESOURCE_DATA_NOT_FOUND: NtStatus = 0xC000_0089_u32.cast_signed();
/// `STATUS_OBJECT_TYPE_MISMATCH`.
pub const OBJECT_TYPE_MISMATCH: NtStatus = 0xC000_0024_u32.cast_signed();
/// `STATUS_OBJECT_NAME_INVALID`.
pub const OBJECT_NAME_INVALID: NtStatus = 0xC000_0033_u32.cast_signed();
/// `STATUS_OBJECT_NAME_NOT_FOUND`.
pub const OBJECT_NAME_NOT_FOUND: NtStatus = 0xC000_0034_u32.cast_signed();
/// `STATUS_DELETE_PENDING`.
pub const DELETE_PENDING: NtStatus = 0xC000_0056_u32.cast_signed();
/// `STATUS_INSUFFICIENT_RESOURCES`.
pub const INSUFFICIENT_RESOURCES: NtStatus = 0xC000_009A_u32.cast_signed();
/// `STATUS_DEVICE_NOT_READY`.
pub const DEVICE_NOT_READY: NtStatus = 0xC000_00A3_u32.cast_signed();
/// `STATUS_INTERNAL_ERROR`.
pub const INTERNAL_ERROR: NtStatus = 0xC000_00E5_u32.cast_signed();
/// `STATUS_DRIVER_INTERNAL_ERROR`.
pub const DRIVER_INTERNAL_ERROR: NtStatus = 0xC000_0183_u32.cast_signed();
/// `STATUS_INVALID_IMAGE_FORMAT`.
pub const INVALID_IMAGE_FORMAT: NtStatus = 0xC000_007B_u32.cast_signed();
/// `STATUS_REVISION_MISMATCH`.
pub const REVISION_MISMATCH: NtStatus = 0xC000_0059_u32.cast_signed();
/// `STATUS_INVALID_DEVICE_STATE`.
pub const INVALID_DEVICE_STATE: NtStatus = 0xC000_0184_u32.cast_signed();
/// `STATUS_CANCELLED`.
pub const CANCELLED: NtStatus = 0xC000_0120_u32.cast_signed();
/// `STATUS_DEVICE_BUSY`.
pub const DEVICE_BUSY: NtStatus = 0x8000_0011_u32.cast_signed();
/// `STATUS_NOT_FOUND`.
pub const NOT_FOUND: NtStatus = 0xC000_0225_u32.cast_signed();
/// `STATUS_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: NtStatus = 0xC000_00BB_u32.cast_signed();
/// `STATUS_OBJECT_NAME_COLLISION`.
pub const OBJECT_NAME_COLLISION: NtStatus = 0xC000_0035_u32.cast_signed();
/// `STATUS_WDF_PAUSED`.
pub const WDF_PAUSED: NtStatus = 0xC020_0203_u32.cast_signed();
/// `STATUS_WDF_BUSY`.
pub const WDF_BUSY: NtStatus = 0xC020_0204_u32.cast_signed();
/// `STATUS_WDF_INTERNAL_ERROR`.
pub const WDF_INTERNAL_ERROR: NtStatus = 0xC020_0201_u32.cast_signed();
/// `STATUS_WDF_NOT_ENOUGH_MAP_REGISTERS`.
pub const WDF_NOT_ENOUGH_MAP_REGISTERS: NtStatus = 0xC020_0214_u32.cast_signed();
/// `STATUS_WDF_NO_CALLBACK`.
pub const WDF_NO_CALLBACK: NtStatus = 0xC020_020B_u32.cast_signed();
/// `STATUS_WDF_OBJECT_ATTRIBUTES_INVALID`.
pub const WDF_OBJECT_ATTRIBUTES_INVALID: NtStatus = 0xC020_0209_u32.cast_signed();
/// `STATUS_WDF_PARENT_NOT_SPECIFIED`.
pub const WDF_PARENT_NOT_SPECIFIED: NtStatus = 0xC020_0212_u32.cast_signed();
/// `STATUS_WDF_PARENT_ASSIGNMENT_NOT_ALLOWED`.
pub const WDF_PARENT_ASSIGNMENT_NOT_ALLOWED: NtStatus = 0xC020_020F_u32.cast_signed();
/// `STATUS_WDF_SYNCHRONIZATION_SCOPE_INVALID`.
pub const WDF_SYNCHRONIZATION_SCOPE_INVALID: NtStatus = 0xC020_0210_u32.cast_signed();
/// `STATUS_WDF_EXECUTION_LEVEL_INVALID`.
pub const WDF_EXECUTION_LEVEL_INVALID: NtStatus = 0xC020_0211_u32.cast_signed();
/// `STATUS_DEVICE_REMOVED`.
pub const DEVICE_REMOVED: NtStatus = 0xC000_02B6_u32.cast_signed();
/// `STATUS_DEVICE_DOES_NOT_EXIST`.
pub const DEVICE_DOES_NOT_EXIST: NtStatus = 0xC000_00C0_u32.cast_signed();
/// `STATUS_OBJECT_PATH_NOT_FOUND`.
pub const OBJECT_PATH_NOT_FOUND: NtStatus = 0xC000_003A_u32.cast_signed();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_status() {
        for (status, success, error) in [
            (SUCCESS, true, false),
            (PENDING, true, false),
            (OBJECT_NAME_EXISTS, true, false),
            (BUFFER_OVERFLOW, false, false),
            (UNSUCCESSFUL, false, true),
        ] {
            assert_eq!((is_success(status), is_error(status)), (success, error), "{status:#x}");
        }
    }

    #[test]
    fn a_requestor_sees_no_framework_status() {
        for (given, seen) in [
            (WDF_PAUSED, DEVICE_BUSY),
            (WDF_INTERNAL_ERROR, INTERNAL_ERROR),
            (WDF_NO_CALLBACK, INVALID_DEVICE_REQUEST),
            (ACCESS_DENIED, ACCESS_DENIED),
            (SUCCESS, SUCCESS),
        ] {
            assert_eq!(for_requestor(given), seen, "{given:#x}");
        }
    }
}
