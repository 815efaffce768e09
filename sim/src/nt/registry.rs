//! The registry of a machine: keys by path, values by name, both case-insensitive.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::verifier::schedule::lock;

/// `REG_SZ`.
pub const REG_SZ: u32 = 1;
/// `REG_BINARY`.
pub const REG_BINARY: u32 = 3;
/// `REG_DWORD`.
pub const REG_DWORD: u32 = 4;

/// A value: its type (`REG_*`) and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// `REG_SZ` and so on.
    pub kind: u32,
    /// The data as the registry keeps it.
    pub bytes: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub struct Registry(Mutex<BTreeMap<String, BTreeMap<String, Value>>>);

impl Registry {
    /// Makes a key (and remembers nothing of its parents: nobody enumerates them).
    pub fn create(&self, path: &str) {
        lock(&self.0).entry(path.to_lowercase()).or_default();
    }

    /// Whether a key is there.
    pub fn exists(&self, path: &str) -> bool {
        lock(&self.0).contains_key(&path.to_lowercase())
    }

    /// Sets a value; makes the key.
    pub fn set(&self, path: &str, name: &str, value: Value) {
        lock(&self.0).entry(path.to_lowercase()).or_default().insert(name.to_lowercase(), value);
    }

    /// Sets a `REG_DWORD`.
    pub fn set_u32(&self, path: &str, name: &str, value: u32) {
        self.set(path, name, Value { kind: REG_DWORD, bytes: value.to_le_bytes().into() });
    }

    /// Sets a `REG_SZ`.
    pub fn set_text(&self, path: &str, name: &str, value: &str) {
        let bytes = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.set(path, name, Value { kind: REG_SZ, bytes });
    }

    /// Removes a value, if it is there.
    pub fn remove(&self, path: &str, name: &str) {
        if let Some(values) = lock(&self.0).get_mut(&path.to_lowercase()) {
            values.remove(&name.to_lowercase());
        }
    }

    /// A value.
    pub fn get(&self, path: &str, name: &str) -> Option<Value> {
        lock(&self.0).get(&path.to_lowercase())?.get(&name.to_lowercase()).cloned()
    }

    /// A `REG_DWORD`.
    pub fn get_u32(&self, path: &str, name: &str) -> Option<u32> {
        let value = self.get(path, name).filter(|value| value.kind == REG_DWORD)?;
        Some(u32::from_le_bytes(value.bytes.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ignore_case_and_types_are_kept() {
        let registry = Registry::default();
        registry.set_u32(r"\A\B", "Limit", 7);
        registry.set_text(r"\A\B", "Text", "x");
        assert_eq!(registry.get_u32(r"\a\b", "LIMIT"), Some(7));
        assert_eq!(registry.get_u32(r"\a\b", "text"), None);
        assert_eq!(registry.get(r"\a\c", "limit"), None);
        assert!(registry.exists(r"\A\b") && !registry.exists(r"\A"));
        registry.remove(r"\A\B", "LIMIT");
        registry.remove(r"\A\B", "limit");
        assert_eq!(registry.get_u32(r"\a\b", "Limit"), None);
        assert!(registry.get(r"\a\b", "text").is_some());
    }
}
