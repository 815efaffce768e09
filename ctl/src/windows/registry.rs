//! Values of the registry: read, written, and watched.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_MORE_DATA, ERROR_NO_MORE_ITEMS};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_NOTIFY, KEY_QUERY_VALUE, REG_DWORD, REG_NOTIFY_CHANGE_LAST_SET,
    REG_NOTIFY_CHANGE_NAME, REG_OPTION_NON_VOLATILE, REG_SZ, RRF_NOEXPAND, RRF_RT_ANY, RegCloseKey,
    RegCreateKeyExW, RegDeleteKeyValueW, RegEnumValueW, RegGetValueW, RegNotifyChangeKeyValue,
    RegOpenKeyExW, RegSetKeyValueW,
};

use super::event::Event;
use super::wide::{text, wide};
use crate::policy::engine::Writable;
use crate::policy::tunnel::Listed;
use crate::policy::{Registry, Value};

/// How often a value is read that grows meanwhile.
const TRIES: usize = 8;

/// Units of the longest name of a value, with its NUL.
///
/// Source: <https://learn.microsoft.com/windows/win32/sysinfo/registry-element-size-limits>.
const NAME_MAX: u32 = 16_384;

/// HKEY_LOCAL_MACHINE.
pub struct LocalMachine;

impl Registry for LocalMachine {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        let (key, name) = (wide(key), wide(name));
        let mut units = vec![0_u16; 128];
        for _ in 0..TRIES {
            let mut len = u32::try_from(units.len() * 2).unwrap_or(u32::MAX);
            let mut kind = 0;
            // SAFETY: both texts end with a NUL; the buffer has `len` bytes.
            let code = unsafe {
                RegGetValueW(
                    HKEY_LOCAL_MACHINE,
                    key.as_ptr(),
                    name.as_ptr(),
                    RRF_RT_ANY | RRF_NOEXPAND,
                    &raw mut kind,
                    units.as_mut_ptr().cast(),
                    &raw mut len,
                )
            };
            match code {
                ERROR_FILE_NOT_FOUND => return Ok(None),
                ERROR_MORE_DATA => units.resize(len as usize / 2 + 1, 0),
                _ => {
                    super::checked(code)?;
                    units.truncate(len.div_ceil(2) as usize);
                    return Ok(Some(value(kind, len, &units)));
                }
            }
        }
        Err(io::Error::from_raw_os_error(ERROR_MORE_DATA.cast_signed()))
    }
}

fn value(kind: u32, len: u32, units: &[u16]) -> Value {
    match (kind, len, units) {
        (REG_DWORD, 4, &[low, high]) => Value::Dword(u32::from(high) << 16 | u32::from(low)),
        (REG_SZ, ..) => Value::Text(text(units)),
        _ => Value::Other,
    }
}

impl Listed for LocalMachine {
    fn names(&self, key: &str) -> io::Result<Vec<String>> {
        let (key, mut open) = (wide(key), null_mut());
        // SAFETY: the text ends with a NUL, and there is a place for the handle.
        let code = unsafe {
            RegOpenKeyExW(HKEY_LOCAL_MACHINE, key.as_ptr(), 0, KEY_QUERY_VALUE, &raw mut open)
        };
        if code == ERROR_FILE_NOT_FOUND {
            return Ok(Vec::new());
        }
        super::checked(code)?;
        let open = Open(open);
        let mut names = Vec::new();
        let mut units = vec![0_u16; NAME_MAX as usize];
        for index in 0.. {
            let mut len = NAME_MAX;
            // SAFETY: the key is open; the buffer has `len` units, and no type, data or class is asked for.
            let code = unsafe {
                RegEnumValueW(
                    open.0,
                    index,
                    units.as_mut_ptr(),
                    &raw mut len,
                    null(),
                    null_mut(),
                    null_mut(),
                    null_mut(),
                )
            };
            if code == ERROR_NO_MORE_ITEMS {
                break;
            }
            super::checked(code)?;
            names.push(text(units.get(..len as usize).unwrap_or_default()));
        }
        Ok(names)
    }
}

/// A key that is open.
struct Open(HKEY);

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: whoever made it opened it, and it is closed once.
        unsafe { RegCloseKey(self.0) };
    }
}

impl Writable for LocalMachine {
    fn set(&self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        let (kind, bytes) = match value {
            Value::Dword(number) => (REG_DWORD, number.to_le_bytes().to_vec()),
            Value::Text(text) => {
                (REG_SZ, wide(text).iter().flat_map(|unit| unit.to_le_bytes()).collect())
            }
            Value::Other => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (key, name) = (wide(key), wide(name));
        // SAFETY: both texts end with a NUL; the value has `len` bytes, and ends with a NUL if it is a text.
        super::checked(unsafe {
            RegSetKeyValueW(
                HKEY_LOCAL_MACHINE,
                key.as_ptr(),
                name.as_ptr(),
                kind,
                bytes.as_ptr().cast(),
                len,
            )
        })
    }

    fn remove(&self, key: &str, name: &str) -> io::Result<()> {
        let (key, name) = (wide(key), wide(name));
        // SAFETY: both texts end with a NUL.
        match unsafe { RegDeleteKeyValueW(HKEY_LOCAL_MACHINE, key.as_ptr(), name.as_ptr()) } {
            ERROR_FILE_NOT_FOUND => Ok(()),
            code => super::checked(code),
        }
    }
}

/// A key below HKEY_LOCAL_MACHINE of which it is known when something in it, or below it, has changed.
pub struct Watched {
    key: HKEY,
    changed: Event,
}

impl Watched {
    /// Watches `key`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn new(key: &str) -> io::Result<Self> {
        let changed = Event::new()?;
        let (name, mut key) = (wide(key), null_mut());
        // SAFETY: the text ends with a NUL, and there is a place for the handle.
        super::checked(unsafe {
            RegCreateKeyExW(
                HKEY_LOCAL_MACHINE,
                name.as_ptr(),
                0,
                null(),
                REG_OPTION_NON_VOLATILE,
                KEY_NOTIFY,
                null(),
                &raw mut key,
                null_mut(),
            )
        })?;
        Ok(Self { key, changed })
    }

    /// Has the event be set at the next change. Whoever looks at the key after this misses none.
    ///
    /// It holds for as long as the thread that calls it lives.
    ///
    /// # Errors
    ///
    /// What Windows says; that the key is gone, for one.
    pub fn arm(&self) -> io::Result<&Event> {
        let what = REG_NOTIFY_CHANGE_NAME | REG_NOTIFY_CHANGE_LAST_SET;
        // SAFETY: key and event are open, and stay so for as long as this does.
        super::checked(unsafe {
            RegNotifyChangeKeyValue(self.key, 1, what, self.changed.handle(), 1)
        })?;
        Ok(&self.changed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: opened by `new`, and closed once.
        unsafe { RegCloseKey(self.key) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: &str = r"SOFTWARE\PenstockTest";

    #[test]
    fn what_is_written_is_read_and_what_is_removed_is_not() {
        for value in [Value::Dword(0), Value::Dword(u32::MAX), Value::Text("0-1, 1:3".to_owned())] {
            LocalMachine.set(KEY, "Value", &value).unwrap();
            assert_eq!(LocalMachine.value(KEY, "Value").unwrap(), Some(value));
        }
        assert_eq!(LocalMachine.names(KEY).unwrap(), ["Value"]);
        LocalMachine.remove(KEY, "Value").unwrap();
        assert_eq!(LocalMachine.value(KEY, "Value").unwrap(), None);
        assert!(LocalMachine.names(KEY).unwrap().is_empty());
        assert!(LocalMachine.names(r"SOFTWARE\PenstockNone").unwrap().is_empty());
        LocalMachine.remove(KEY, "Value").unwrap();
        assert!(LocalMachine.set(KEY, "Value", &Value::Other).is_err());
    }

    #[test]
    fn a_change_below_a_key_is_told_of() {
        let watched = Watched::new(r"SOFTWARE\PenstockWatched").unwrap();
        let below = r"SOFTWARE\PenstockWatched\Below";
        let changed = watched.arm().unwrap();
        assert!(!changed.wait(Duration::ZERO).unwrap());
        LocalMachine.set(below, "Value", &Value::Dword(1)).unwrap();
        assert!(changed.wait(Duration::from_secs(10)).unwrap());
        let changed = watched.arm().unwrap();
        LocalMachine.remove(below, "Value").unwrap();
        assert!(changed.wait(Duration::from_secs(10)).unwrap());
    }
}
