//! `wdfldr.sys`: how a driver and its class extension's client record get their function tables.
//!
//! `FuncTable` of a KMDF record is the address of the pointer variable `WdfFunctions`; the table it
//! is pointed at is the framework's. `FunctionTable` of a class record is the client's own array.
//!
//! Source: `abi/binding-semantics.md` §2-4. Which status a wrong record gets is inferred, but for a
//! wrong class record size, which is in `fxldr.h`.

use super::driver_memory::Address;
use super::status::{self, NtStatus};
use super::{Wdf, driver};
use crate::nt::imports;
use crate::nt::machine::Machine;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

const BIND_INFO_1: u32 = 0x30;
const BIND_INFO_2: u32 = 0x58;
const CLASS_INFO_1: u32 = 80;
const CLASS_INFO_2: u32 = 120;
const KMDF_MAJOR: u32 = 1;
/// This framework is 1.33, whose table has as many entries as that of 1.31.
const KMDF_MINOR: u32 = 33;
const KMDF_STRUCTURES: u32 = 81;
const GLOBALS_SIZE: usize = 56;

/// The names of the 458 functions, in table order.
pub(crate) fn function_names() -> impl Iterator<Item = &'static str> {
    include_str!("functions.txt").lines().skip(1)
}

/// A framework's table: the address of each function, or of a stub that stops by the function's name.
pub(crate) fn function_table(group: &str, names: impl Iterator<Item = &'static str>) -> Vec<u64> {
    let resolve =
        |name| crate::nt::address(group, name).unwrap_or_else(|| crate::nt::missing(name));
    names.map(|name| resolve(name) as u64).collect()
}

imports! {
    pub(crate) static IMPORTS: "wdfldr.sys";

    /// Binds a KMDF client.
    [max: PASSIVE, mark: Inferred, source: "abi/binding-semantics.md 2, 3", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfVersionBind(thread, driver_object: u64, path: u64, info: u64, globals: u64) -> i32 {
        if driver_object == 0 || path == 0 || info == 0 || globals == 0 {
            return status::INVALID_PARAMETER;
        }
        bind(thread.machine(), Address(info), Address(globals))
    }

    /// Unbinds it.
    [max: PASSIVE, mark: Inferred, source: "abi/binding-semantics.md 1, 2"]
    fn WdfVersionUnbind(thread, path: u64, info: u64, globals: u64) -> i32 {
        let wdf = Wdf::of(thread.machine());
        if globals == 0 || globals != lock(&wdf.state).globals {
            thread.stop(&rules::WDF_DRIVER_GLOBALS, format!("WdfVersionUnbind with globals {globals:#x}"));
            return 0;
        }
        unbind(thread.machine(), &wdf);
        status::SUCCESS
    }

    /// Binds a client of a class extension.
    [max: PASSIVE, mark: Inferred, source: "abi/binding-semantics.md 2, 4", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfVersionBindClass(thread, info: u64, globals: u64, class: u64) -> i32 {
        let wdf = Wdf::of(thread.machine());
        if info == 0 || class == 0 || globals == 0 || globals != lock(&wdf.state).globals {
            return status::INVALID_PARAMETER;
        }
        let record = match class_record(Address(class)) {
            Ok(record) => record,
            Err(status) => return status,
        };
        match record.name.as_str() {
            "NetAdapterCx" => crate::nt::netcx::binding::bind(thread.machine(), &record),
            _ => status::NOT_FOUND,
        }
    }

    /// Unbinds it.
    [max: PASSIVE, mark: Inferred, source: "abi/binding-semantics.md 1, 2"]
    fn WdfVersionUnbindClass(thread, info: u64, globals: u64, class: u64) {
        let wdf = Wdf::of(thread.machine());
        if globals == 0 || globals != lock(&wdf.state).globals {
            thread.stop(&rules::WDF_DRIVER_GLOBALS, format!("WdfVersionUnbindClass with globals {globals:#x}"));
            return;
        }
        crate::nt::netcx::binding::unbind(thread.machine());
    }
}

fn bind(machine: &Machine, info: Address, globals_out: Address) -> NtStatus {
    let size: u32 = info.read(0);
    if size != BIND_INFO_1 && size != BIND_INFO_2 {
        return status::INVALID_PARAMETER;
    }
    let [_, component, major_minor, build_count, table, _] = info.words::<6>(0);
    if component == 0 || table == 0 {
        return status::INVALID_PARAMETER;
    }
    if Address(component).wide_string() != "KmdfLibrary" {
        return status::NOT_FOUND;
    }
    let (major, minor) = (major_minor as u32, (major_minor >> 32) as u32);
    if major != KMDF_MAJOR || minor > KMDF_MINOR {
        return status::REVISION_MISMATCH;
    }
    let functions = function_table("wdf01000", function_names());
    if (build_count >> 32) as usize != functions.len() {
        return status::INVALID_PARAMETER;
    }
    let wdf = Wdf::of(machine);
    let globals = machine.allocate(GLOBALS_SIZE) as u64;
    Address(globals).at(16).fill(b"penstock");
    let functions = {
        let mut state = lock(&wdf.state);
        state.globals = globals;
        state.tables = functions;
        state.tables.as_ptr() as u64
    };
    Address(table).write(0, functions);
    if size == BIND_INFO_2 {
        fill_version_2(info);
    }
    globals_out.write(0, globals);
    status::SUCCESS
}

/// Fills what the longer record asks for: whether the client is newer, and the counts.
fn fill_version_2(info: Address) {
    let [_, higher, functions, structures, _] = info.words::<5>(48);
    let count = function_names().count() as u32;
    for (address, value) in [(functions, count), (structures, KMDF_STRUCTURES)] {
        if address != 0 {
            Address(address).write(0, value);
        }
    }
    if higher != 0 {
        Address(higher).write(0, 0_u8);
    }
}

fn unbind(machine: &Machine, wdf: &Wdf) {
    driver::delete(machine, wdf);
    let globals = {
        let mut state = lock(&wdf.state);
        state.tables.clear();
        std::mem::take(&mut state.globals)
    };
    machine.release(globals as usize);
}

/// What a class record says.
pub(crate) struct ClassRecord {
    /// `ClassName`.
    pub(crate) name: String,
    /// Major, minor, build.
    pub(crate) version: (u32, u32, u32),
    /// The client's array.
    pub(crate) functions: Address,
    /// Its length.
    pub(crate) count: u32,
    /// `ClassBindInfo`: for NetAdapterCx the variable `NetDriverGlobals`.
    pub(crate) globals: Address,
}

fn class_record(class: Address) -> Result<ClassRecord, NtStatus> {
    let size: u32 = class.read(0);
    if size != CLASS_INFO_1 && size != CLASS_INFO_2 {
        return Err(status::INVALID_IMAGE_FORMAT);
    }
    let [_, name, major_minor, build, functions, count, globals] = class.words::<7>(0);
    if name == 0 || functions == 0 {
        return Err(status::INVALID_PARAMETER);
    }
    Ok(ClassRecord {
        name: Address(name).wide_string(),
        version: (major_minor as u32, (major_minor >> 32) as u32, build as u32),
        functions: Address(functions),
        count: count as u32,
        globals: Address(globals),
    })
}
