//! The `NTSTATUS` values that the simulator returns or looks for. Numbers: `ntstatus.h`.

/// The bits as the signed number.
const fn signed(bits: u32) -> i32 {
    bits.cast_signed()
}

/// Declares them as the signed numbers that functions return.
macro_rules! status {
    ($($name:ident = $value:literal;)*) => { $(
        #[doc = concat!("`", stringify!($value), "`.")]
        pub const $name: i32 = signed($value);
    )* };
}

status! {
    STATUS_SUCCESS = 0x0000_0000;
    STATUS_TIMEOUT = 0x0000_0102;
    STATUS_PENDING = 0x0000_0103;
    STATUS_UNSUCCESSFUL = 0xC000_0001;
    STATUS_NOT_IMPLEMENTED = 0xC000_0002;
    STATUS_INFO_LENGTH_MISMATCH = 0xC000_0004;
    STATUS_INVALID_HANDLE = 0xC000_0008;
    STATUS_INVALID_PARAMETER = 0xC000_000D;
    STATUS_INVALID_DEVICE_REQUEST = 0xC000_0010;
    STATUS_MORE_PROCESSING_REQUIRED = 0xC000_0016;
    STATUS_NO_MEMORY = 0xC000_0017;
    STATUS_ACCESS_DENIED = 0xC000_0022;
    STATUS_BUFFER_TOO_SMALL = 0xC000_0023;
    STATUS_OBJECT_TYPE_MISMATCH = 0xC000_0024;
    STATUS_OBJECT_NAME_NOT_FOUND = 0xC000_0034;
    STATUS_INSUFFICIENT_RESOURCES = 0xC000_009A;
    STATUS_DEVICE_NOT_READY = 0xC000_00A3;
    STATUS_NOT_SUPPORTED = 0xC000_00BB;
    STATUS_CANCELLED = 0xC000_0120;
    STATUS_INVALID_DEVICE_STATE = 0xC000_0184;
    STATUS_NOT_FOUND = 0xC000_0225;
}

/// `NT_SUCCESS`.
pub fn is_success(status: i32) -> bool {
    status >= 0
}
