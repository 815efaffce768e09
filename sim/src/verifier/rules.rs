//! The bugcheck codes that stops carry, by the names of `bugcodes.h`.
//!
//! Source: WDD debugger/bug-check-code-reference2.

/// 0x0A.
pub const IRQL_NOT_LESS_OR_EQUAL: u32 = 0x0A;
/// 0x1E.
pub const KMODE_EXCEPTION_NOT_HANDLED: u32 = 0x1E;
/// 0x50.
pub const PAGE_FAULT_IN_NONPAGED_AREA: u32 = 0x50;
/// 0x0F: a spin lock acquired by its owner.
pub const SPIN_LOCK_ALREADY_OWNED: u32 = 0x0F;
/// 0x10: a spin lock released by another than its owner.
pub const SPIN_LOCK_NOT_OWNED: u32 = 0x10;
/// 0x18.
pub const REFERENCE_BY_POINTER: u32 = 0x18;
/// 0x44: an IRP completed twice.
pub const MULTIPLE_IRP_COMPLETE_REQUESTS: u32 = 0x44;
/// 0xB8: a wait at `DISPATCH_LEVEL`.
pub const ATTEMPTED_SWITCH_FROM_DPC: u32 = 0xB8;
/// 0xC2.
pub const BAD_POOL_CALLER: u32 = 0xC2;
/// 0xC4.
pub const DRIVER_VERIFIER: u32 = 0xC4;
/// 0xC7: a timer or DPC in memory that is freed.
pub const TIMER_OR_DPC_INVALID: u32 = 0xC7;
/// 0xC8.
pub const IRQL_UNEXPECTED_VALUE: u32 = 0xC8;
/// 0xE2: what a driver's own panic is turned into when its code has no name.
pub const MANUALLY_INITIATED_CRASH: u32 = 0xE2;

/// The name of a code.
pub fn name(code: u32) -> &'static str {
    match code {
        IRQL_NOT_LESS_OR_EQUAL => "IRQL_NOT_LESS_OR_EQUAL",
        KMODE_EXCEPTION_NOT_HANDLED => "KMODE_EXCEPTION_NOT_HANDLED",
        PAGE_FAULT_IN_NONPAGED_AREA => "PAGE_FAULT_IN_NONPAGED_AREA",
        SPIN_LOCK_ALREADY_OWNED => "SPIN_LOCK_ALREADY_OWNED",
        SPIN_LOCK_NOT_OWNED => "SPIN_LOCK_NOT_OWNED",
        REFERENCE_BY_POINTER => "REFERENCE_BY_POINTER",
        MULTIPLE_IRP_COMPLETE_REQUESTS => "MULTIPLE_IRP_COMPLETE_REQUESTS",
        ATTEMPTED_SWITCH_FROM_DPC => "ATTEMPTED_SWITCH_FROM_DPC",
        BAD_POOL_CALLER => "BAD_POOL_CALLER",
        DRIVER_VERIFIER => "DRIVER_VERIFIER_DETECTED_VIOLATION",
        TIMER_OR_DPC_INVALID => "TIMER_OR_DPC_INVALID",
        IRQL_UNEXPECTED_VALUE => "IRQL_UNEXPECTED_VALUE",
        MANUALLY_INITIATED_CRASH => "MANUALLY_INITIATED_CRASH",
        _ => "BUGCHECK",
    }
}
