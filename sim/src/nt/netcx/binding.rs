//! The client record of NetAdapterCx: version, count, and the table that is copied into the client's array.
//!
//! Source: `abi/binding-semantics.md` §4. Which status a wrong version gets is inferred.

use super::NetCx;
use crate::nt::machine::Machine;
use crate::nt::wdf::binding::{ClassRecord, function_table};
use crate::nt::wdf::status::{self, NtStatus};
use crate::verifier::schedule::lock;

/// The version of this extension.
const VERSION: (u32, u32, u32) = (2, 1, 0);
const GLOBALS_SIZE: usize = 16;

/// The names of the 122 functions, in table order.
pub(crate) fn function_names() -> impl Iterator<Item = &'static str> {
    include_str!("functions.txt").lines().skip(1)
}

/// Binds a client: fills its array and gives it globals.
pub(crate) fn bind(machine: &Machine, record: &ClassRecord) -> NtStatus {
    if record.version != VERSION {
        return status::NOT_SUPPORTED;
    }
    let functions = function_table("netadaptercx", function_names());
    if record.count as usize != functions.len() || record.globals.is_null() {
        return status::INVALID_PARAMETER;
    }
    let globals = machine.allocate(GLOBALS_SIZE) as u64;
    for (index, function) in functions.iter().enumerate() {
        record.functions.write(8 * index as u64, *function);
    }
    record.globals.write(0, globals);
    lock(&NetCx::of(machine).state).globals = globals;
    status::SUCCESS
}

/// Unbinds it.
pub(crate) fn unbind(machine: &Machine) {
    let globals = std::mem::take(&mut lock(&NetCx::of(machine).state).globals);
    machine.release(globals as usize);
}
