//! The device that an adapter is: made as a software device, which Windows removes when the handle closes.
//!
//! Its instance is the tunnel's GUID, which the interface gets, too (`SuggestedInstanceId`, written to the device's driver key while nothing
//! is installed on it), so that Windows knows the network again.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/swdevice/nf-swdevice-swdevicecreate>; `SuggestedInstanceId` and
//! `NciSetConnectionName` are in no document, and used by WireGuardNT.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem};

use windows_sys::Win32::Devices::DeviceAndDriverInstallation::GUID_DEVCLASS_NET;
use windows_sys::Win32::Devices::Enumeration::Pnp::{
    HSWDEVICE, SW_DEVICE_CREATE_INFO, SWDeviceCapabilitiesDriverRequired,
    SWDeviceCapabilitiesSilentInstall, SwDeviceClose, SwDeviceCreate,
};
use windows_sys::Win32::Devices::Properties::{
    DEVPKEY_Device_ClassGuid, DEVPROP_STORE_SYSTEM, DEVPROP_TYPE_GUID, DEVPROPCOMPKEY, DEVPROPERTY,
};
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, ERROR_DUP_NAME};
use windows_sys::core::{GUID, HRESULT, PCWSTR};

use super::device::SoftwareKey;
use super::library::Library;
use super::wide::{pointed, wide};
use crate::tunnel::guid::Guid;

/// What `inf/penstock.inf` is for, and what stands before the instance in a device's identifier.
const ENUMERATOR: &str = "Penstock";
const HARDWARE_ID: &str = r"SWD\Penstock";
/// The root of all devices.
const PARENT: &str = r"HTREE\ROOT\0";
/// What is shown of the device.
const DESCRIPTION: &str = "Penstock Tunnel";
/// How long Windows may take to enumerate it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Where a network adapter of this instance is to have this interface.
const SUGGESTED_INSTANCE: &str = "SuggestedInstanceId";

/// A device of ours.
#[derive(Debug)]
pub(super) struct SoftwareDevice {
    handle: HSWDEVICE,
    /// Its identifier: `SWD\Penstock\{...}`.
    pub(super) instance: String,
}

/// What making a device came to.
pub(super) enum Made {
    /// It is there, and goes with this.
    Here(SoftwareDevice),
    /// Another process has made it: its identifier.
    Elsewhere(String),
}

/// What Windows said of a device that was made.
#[derive(Default)]
struct Answer {
    said: Mutex<Option<Result<String, HRESULT>>>,
    came: Condvar,
}

impl SoftwareDevice {
    /// Makes the adapter's device, or finds it.
    pub(super) fn make(guid: Guid) -> io::Result<Made> {
        let there = || Made::Elsewhere(format!(r"{HARDWARE_ID}\{guid}"));
        let interface = GUID::from_u128(guid.0);
        match Self::create(guid, None) {
            Err(why) if is_there(&why) => return Ok(there()),
            // Without a driver: its key is written, and it goes again.
            bare => SoftwareKey::make(&bare?.instance)?
                .set_binary(SUGGESTED_INSTANCE, &bytes_of(&interface))?,
        }
        match Self::create(guid, Some(HARDWARE_ID)) {
            Err(why) if is_there(&why) => Ok(there()),
            device => device.map(Made::Here),
        }
    }

    fn create(guid: Guid, hardware_id: Option<&str>) -> io::Result<Self> {
        let (enumerator, parent) = (wide(ENUMERATOR), wide(PARENT));
        let (instance, description) = (wide(guid.to_string()), wide(DESCRIPTION));
        // A list: an empty text ends it.
        let hardware_ids: Vec<_> = hardware_id.iter().flat_map(wide).chain([0]).collect();
        let info = SW_DEVICE_CREATE_INFO {
            cbSize: mem::size_of::<SW_DEVICE_CREATE_INFO>() as u32,
            pszInstanceId: instance.as_ptr(),
            pszzHardwareIds: if hardware_id.is_some() { hardware_ids.as_ptr() } else { null() },
            CapabilityFlags: match hardware_id {
                Some(_) => SWDeviceCapabilitiesSilentInstall | SWDeviceCapabilitiesDriverRequired,
                None => SWDeviceCapabilitiesSilentInstall,
            }
            .cast_unsigned(),
            pszDeviceDescription: description.as_ptr(),
            ..SW_DEVICE_CREATE_INFO::default()
        };
        let mut class = GUID_DEVCLASS_NET;
        let property = DEVPROPERTY {
            CompKey: DEVPROPCOMPKEY {
                Key: DEVPKEY_Device_ClassGuid,
                Store: DEVPROP_STORE_SYSTEM,
                LocaleName: null(),
            },
            Type: DEVPROP_TYPE_GUID,
            BufferSize: mem::size_of::<GUID>() as u32,
            Buffer: (&raw mut class).cast(),
        };
        let answer = Arc::new(Answer::default());
        let context = Arc::into_raw(Arc::clone(&answer));
        let mut handle = null_mut();
        // SAFETY: all texts end with a NUL; the context is the callback's, which drops it.
        let code = unsafe {
            SwDeviceCreate(
                enumerator.as_ptr(),
                parent.as_ptr(),
                &raw const info,
                1,
                &raw const property,
                Some(created),
                context.cast(),
                &raw mut handle,
            )
        };
        if code < 0 {
            // SAFETY: nothing was begun, so that the callback does not come.
            drop(unsafe { Arc::from_raw(context) });
            return Err(hresult(code));
        }
        let mut device = Self { handle, instance: String::new() };
        device.instance = answer.wait()?;
        Ok(device)
    }
}

impl Drop for SoftwareDevice {
    fn drop(&mut self) {
        // SAFETY: made here, and closed once.
        unsafe { SwDeviceClose(self.handle) };
    }
}

impl Answer {
    fn wait(&self) -> io::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(said) = said.take() {
                return said.map_err(hresult);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            said = self.came.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What Windows calls once when the device was enumerated, or could not be.
unsafe extern "system" fn created(
    _: HSWDEVICE,
    result: HRESULT,
    context: *const c_void,
    instance: PCWSTR,
) {
    // SAFETY: what `create` gave, for this one call.
    let answer = unsafe { Arc::from_raw(context.cast::<Answer>()) };
    // SAFETY: null, or an identifier with its NUL, for as long as this call.
    let instance = unsafe { pointed(instance) };
    let said = if result < 0 { Err(result) } else { Ok(instance) };
    *answer.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    answer.came.notify_all();
}

/// Gives an interface's connection the tunnel's name.
pub(super) fn name_connection(interface: &GUID, name: &str) -> io::Result<()> {
    type SetName = unsafe extern "system" fn(*const GUID, PCWSTR) -> u32;
    let (library, name) = (Library::of("nci.dll")?, wide(name));
    let function = library.function(c"NciSetConnectionName").ok_or(io::ErrorKind::Unsupported)?;
    // SAFETY: the function of this name is of this type, as WireGuardNT has it.
    let set_name: SetName = unsafe { mem::transmute(function) };
    // SAFETY: a GUID, and a text that ends with a NUL.
    match unsafe { set_name(interface, name.as_ptr()) } {
        ERROR_DUP_NAME => Err(io::Error::other(
            "another connection has this name: `Get-NetAdapter -IncludeHidden` shows which",
        )),
        code => super::checked(code),
    }
}

/// A GUID as it lies in memory.
fn bytes_of(guid: &GUID) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&guid.data1.to_le_bytes());
    bytes[4..6].copy_from_slice(&guid.data2.to_le_bytes());
    bytes[6..8].copy_from_slice(&guid.data3.to_le_bytes());
    bytes[8..].copy_from_slice(&guid.data4);
    bytes
}

/// The error that an HRESULT says; one that is made of a number of Win32 is that.
fn hresult(code: HRESULT) -> io::Error {
    const FACILITY_WIN32: u32 = 0x8007_0000;
    let number = code.cast_unsigned();
    if number & 0xFFFF_0000 == FACILITY_WIN32 {
        return io::Error::from_raw_os_error((number & 0xFFFF).cast_signed());
    }
    io::Error::other(format!("Windows answered {number:#x}"))
}

fn is_there(why: &io::Error) -> bool {
    why.raw_os_error() == Some(ERROR_ALREADY_EXISTS.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for() {
        for (result, said) in [(0, Ok(())), (0x8007_00B7_u32.cast_signed(), Err(183))] {
            let answer = Arc::new(Answer::default());
            let context = Arc::into_raw(Arc::clone(&answer));
            let instance = wide(r"SWD\Penstock\{1}");
            let thread = std::thread::spawn({
                let (context, instance) = (context.addr(), instance.clone());
                move || {
                    // SAFETY: the context is an answer's, and this is the one call for it.
                    unsafe {
                        created(
                            null_mut(),
                            result,
                            std::ptr::with_exposed_provenance(context),
                            instance.as_ptr(),
                        );
                    }
                }
            });
            context.expose_provenance();
            let waited = answer.wait();
            thread.join().unwrap();
            match (waited, said) {
                (Ok(waited), Ok(())) => assert_eq!(waited, r"SWD\Penstock\{1}"),
                (Err(why), Err(code)) => {
                    assert_eq!(why.raw_os_error(), Some(code));
                    assert!(is_there(&why));
                }
                (waited, _) => panic!("{waited:?}"),
            }
            // The callback's part is gone.
            assert_eq!(Arc::strong_count(&answer), 1);
        }
        assert_eq!(
            hresult(0x8000_FFFF_u32.cast_signed()).to_string(),
            "Windows answered 0x8000ffff"
        );
    }

    #[test]
    fn a_guid_lies_as_windows_has_it() {
        let guid = GUID::from_u128(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF);
        let bytes = bytes_of(&guid);
        assert_eq!(bytes[..8], [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]);
        assert_eq!(bytes[8..], [0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF]);
    }
}
