//! The service's `Parameters` key, read through the framework.
//!
//! Policy reaches the driver there. The key is opened read-only, and closed when the value is
//! dropped. Everything at `PASSIVE_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdriveropenparametersregistrykey>

use core::{marker::PhantomData, ptr};

use wdk_sys::{UNICODE_STRING, WDFKEY, WdfDriverGlobals};

use super::{call, unicode::Name};
use crate::{
    irql::Passive,
    status::{NtError, check},
};

/// The right to read a key (`wdm.h`).
const KEY_READ: u32 = 0x0002_0019;

/// The longest value name that can be asked for, in UTF-16 units.
const NAME_MAX: usize = 64;

/// An open key.
///
/// # Invariants
///
/// The handle is open, and this value's alone. Not `Send`: it lives and dies on a thread that has
/// shown to be at `PASSIVE_LEVEL`.
#[derive(Debug)]
pub struct ParametersKey {
    key: WDFKEY,
    _thread: PhantomData<*const ()>,
}

impl ParametersKey {
    /// Opens the key of this driver's service, to read.
    ///
    /// # Errors
    ///
    /// Whatever the registry answers, such as that there is no such key.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, after the driver object was made.
    pub fn open(_passive: &Passive) -> Result<Self, NtError> {
        // SAFETY: written by the loader before DriverEntry, and live until the driver is unloaded.
        let globals = unsafe { WdfDriverGlobals };
        // SAFETY: as above; the framework put the driver's handle there when it made the object.
        let driver = unsafe { (*globals).Driver };
        let mut key: WDFKEY = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; this driver's handle; no attributes; the key's place
        // lives through the call.
        check(unsafe {
            call!(
                WdfDriverOpenParametersRegistryKey,
                driver,
                KEY_READ,
                ptr::null_mut(),
                &raw mut key,
            )
        })?;
        // INVARIANT: just opened.
        Ok(Self { key, _thread: PhantomData })
    }

    /// The `REG_DWORD` value called `name`.
    ///
    /// # Errors
    ///
    /// [`NtError::OBJECT_NAME_NOT_FOUND`] if there is none, [`NtError::INVALID_PARAMETER`] if the
    /// name is longer than 64 UTF-16 units, or what the registry answers, such as for a value of
    /// another type.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn query_u32(&self, _passive: &Passive, name: &str) -> Result<u32, NtError> {
        let mut value = 0_u32;
        let status = Name::<NAME_MAX>::new(name)?.with(|name| {
            // SAFETY: PASSIVE_LEVEL by the token; the key is open by the type invariant; name and
            // value live through the call.
            unsafe { call!(WdfRegistryQueryULong, self.key, name, (&raw mut value).cast()) }
        });
        check(status)?;
        Ok(value)
    }

    /// Puts the `REG_SZ` value called `name` into `text`; returns how many UTF-16 units it has, which are
    /// none if it is empty. A zero at its end is not counted.
    ///
    /// # Errors
    ///
    /// [`NtError::OBJECT_NAME_NOT_FOUND`] if there is none, [`NtError::INVALID_PARAMETER`] if the
    /// name is longer than 64 UTF-16 units, or what the registry answers, such as for a value of
    /// another type or that is longer than `text`.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryqueryunicodestring>
    pub fn query_text(
        &self,
        _passive: &Passive,
        name: &str,
        text: &mut [u16],
    ) -> Result<usize, NtError> {
        let room = u16::try_from(size_of_val(text)).unwrap_or(u16::MAX - 1);
        let mut value =
            UNICODE_STRING { Length: 0, MaximumLength: room, Buffer: text.as_mut_ptr() };
        let status = Name::<NAME_MAX>::new(name)?.with(|name| {
            let value = &raw mut value;
            // SAFETY: as in `query_u32`; the string says how much room there is in `text`.
            unsafe { call!(WdfRegistryQueryUnicodeString, self.key, name, ptr::null_mut(), value) }
        });
        match check(status) {
            // There is one, and it is empty.
            Err(NtError::RESOURCE_DATA_NOT_FOUND) => Ok(0),
            Err(error) => Err(error),
            Ok(()) => {
                let units = usize::from(value.Length / 2).min(text.len());
                Ok(text.iter().take(units).position(|unit| *unit == 0).unwrap_or(units))
            }
        }
    }
}

impl Drop for ParametersKey {
    fn drop(&mut self) {
        // SAFETY: open by the type invariant, and the value has not left its PASSIVE_LEVEL thread.
        unsafe { call!(WdfRegistryClose, self.key) };
    }
}
