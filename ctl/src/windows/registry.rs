//! Values of the registry, read.

use std::io;

use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_MORE_DATA};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_DWORD, REG_SZ, RRF_NOEXPAND, RRF_RT_ANY, RegGetValueW,
};

use super::wide::{text, wide};
use crate::policy::{Registry, Value};

/// How often a value is read that grows meanwhile.
const TRIES: usize = 8;

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
