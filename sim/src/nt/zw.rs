//! System services (`Zw*`).

use crate::nt::status::{STATUS_INVALID_HANDLE, STATUS_SUCCESS};
use crate::verifier::rules;

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Closes a handle.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-zwclose", point: true]
    fn ZwClose(thread, handle: u64) -> i32 {
        if thread.machine().objects().close(handle) {
            return STATUS_SUCCESS;
        }
        thread.stop(&rules::HANDLE, format!("ZwClose of {handle:#x}, which is no open handle"));
        STATUS_INVALID_HANDLE
    }
}
