//! The run-time library (`Rtl*`, the C functions the compiler calls).
//!
//! `memcpy` and the like are in `loader/raw.rs`: they are called too often for a gate.

use crate::loader::probe::{self, Fault};
use crate::verifier::rules;

fn copy_string(to: usize, from: usize) -> Result<(), Fault> {
    if from == 0 {
        return probe::write(to, 0_u16);
    }
    let length = probe::read::<u16>(from)?.min(probe::read::<u16>(to + 2)?);
    probe::copy(probe::read(to + 8)?, probe::read(from + 8)?, length.into())?;
    probe::write(to, length)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Copies as much of a counted string as fits.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-rtlcopyunicodestring"]
    fn RtlCopyUnicodeString(thread, to: usize, from: usize) {
        if copy_string(to, from).is_err() {
            thread.bad_pointer("DestinationString or SourceString", to);
        }
    }

    /// The handler of `__try` in C: faults are stops here, so it is never called by the simulator.
    [max: HIGH, mark: Inferred, source: "facts/simulator.md, SEH"]
    fn __C_specific_handler(thread, record: usize, frame: usize, context: usize, dispatcher: usize) -> i32 {
        thread.stop(&rules::NOT_PROVIDED, "exceptions are not modelled: a fault in driver code is a stop");
        1
    }
}
