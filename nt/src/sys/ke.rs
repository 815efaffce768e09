//! Kernel routines and constants that the driver kit hides in macros (`wdm.h`, WDK 10.0.26100).

use wdk_sys::{KIRQL, LONG_PTR, PVOID};

unsafe extern "system" {
    /// What the macro `KeRaiseIrql` calls on x64.
    pub fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL;
    /// What the macro `ObReferenceObject` calls.
    pub fn ObfReferenceObject(Object: PVOID) -> LONG_PTR;
    /// What the macro `ObDereferenceObject` calls.
    pub fn ObfDereferenceObject(Object: PVOID) -> LONG_PTR;
}
