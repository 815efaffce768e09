//! `WDFKEY`: the driver's Parameters key, read-only.
//!
//! Source: `facts/kmdf.md` §12 (`support/fxregistryapi.cpp`, read in Microsoft's source).

use std::sync::Arc;

use super::attributes::{self, Attributes};
use super::driver_memory::Address;
use super::object::Kind;
use super::{Entered, status};
use crate::nt::imports;
use crate::verifier::rules;

/// What is behind a `WDFKEY`: a path in the machine's registry.
pub(crate) struct Key {
    path: String,
}

/// Access rights that only read.
const KEY_READ: u32 = 0x0002_0019;
const GENERIC_READ: u32 = 0x8000_0000;

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Opens `Services\NAME\Parameters`.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 4", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfDriverOpenParametersRegistryKey(thread, globals: u64, driver: u64, access: u32, attributes: u64, key: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(driver) = entered.object(driver, Kind::Driver) else { return 0 };
        let Some(key) = entered.required("Key", key) else { return 0 };
        if access & !(KEY_READ | GENERIC_READ) != 0 {
            let detail = format!("access {access:#x}: only reading the Parameters key is modelled");
            entered.thread.stop(&rules::NOT_PROVIDED, detail);
            return 0;
        }
        let attributes = match Attributes::read(Address(attributes), attributes::KEY) {
            Ok(attributes) => attributes,
            Err(status) => return status,
        };
        let object = entered.wdf.objects.create(&*entered.machine, Kind::Key, attributes.context, Some(&driver));
        object.set_body(Arc::new(Key { path: entered.machine.parameters_key() }));
        key.write(0, object.handle());
        status::SUCCESS
    }

    /// Reads a REG_DWORD.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 12"]
    fn WdfRegistryQueryULong(thread, globals: u64, key: u64, name: u64, value: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(key) = entered.body::<Key>(key, Kind::Key) else { return 0 };
        let Some(name) = entered.required("ValueName", name) else { return 0 };
        let Some(value) = entered.required("Value", value) else { return 0 };
        let name = name.unicode_string().unwrap_or_default();
        match entered.machine.registry().get(&key.path, &name) {
            None => status::OBJECT_NAME_NOT_FOUND,
            Some(found) => match <[u8; 4]>::try_from(&found.bytes[..]) {
                Ok(bytes) if found.kind == crate::nt::registry::REG_DWORD => {
                    value.write(0, u32::from_le_bytes(bytes));
                    status::SUCCESS
                }
                _ => status::OBJECT_TYPE_MISMATCH,
            },
        }
    }

    /// Reads a REG_SZ into the caller's string. Whether a zero at its end is counted depends on who wrote it.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 12"]
    fn WdfRegistryQueryUnicodeString(thread, globals: u64, key: u64, name: u64, length: u64, value: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(key) = entered.body::<Key>(key, Kind::Key) else { return 0 };
        let Some(name) = entered.required("ValueName", name) else { return 0 };
        let name = name.unicode_string().unwrap_or_default();
        let Some(found) = entered.machine.registry().get(&key.path, &name) else {
            return status::OBJECT_NAME_NOT_FOUND;
        };
        if found.kind != crate::nt::registry::REG_SZ {
            return status::OBJECT_TYPE_MISMATCH;
        }
        if found.bytes.is_empty() {
            return status::RESOURCE_DATA_NOT_FOUND;
        }
        let bytes = found.bytes.len() as u16;
        if length != 0 {
            Address(length).write(0, bytes);
        }
        let Some(value) = entered.required("Value", value) else { return 0 };
        if value.read::<u16>(2) < bytes {
            return status::BUFFER_OVERFLOW;
        }
        Address(value.read(8)).fill(&found.bytes);
        value.write(0, bytes);
        status::SUCCESS
    }

    /// Closes a key.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 12"]
    fn WdfRegistryClose(thread, globals: u64, key: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        if let Some(object) = entered.object(key, Kind::Key) {
            entered.wdf.objects.delete(&*entered.machine, &object);
        }
    }
}
