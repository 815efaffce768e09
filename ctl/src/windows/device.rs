//! The driver's adapters: found by the class of their interface, named as Windows names the connection.
//!
//! An adapter of ours has one interface of the class [`abi::ioctl::INTERFACE_CLASS`], whose reference string brings its requests to the
//! driver and not to NDIS. Its name is the alias that `Get-NetAdapter` shows.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/cfgmgr32/nf-cfgmgr32-cm_get_device_interface_listw>.

use std::fs::{File, OpenOptions};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::ptr::{null, null_mut};
use std::{io, mem};

use abi::ioctl::{INTERFACE_CLASS, INTERFACE_REFERENCE};
use windows_sys::Win32::Devices::DeviceAndDriverInstallation::{
    CM_GET_DEVICE_INTERFACE_LIST_PRESENT, CM_Get_Device_Interface_List_SizeW,
    CM_Get_Device_Interface_ListW, CM_Get_Device_Interface_PropertyW, CM_LOCATE_DEVNODE_NORMAL,
    CM_Locate_DevNodeW, CM_Open_DevNode_Key, CM_REGISTRY_SOFTWARE, CR_BUFFER_SMALL,
    CR_NO_SUCH_DEVNODE, CR_NO_SUCH_VALUE, CR_SUCCESS, RegDisposition_OpenAlways,
    RegDisposition_OpenExisting,
};
use windows_sys::Win32::Devices::Properties::DEVPKEY_Device_InstanceId;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    ConvertInterfaceGuidToLuid, ConvertInterfaceLuidToAlias,
};
use windows_sys::Win32::NetworkManagement::Ndis::{IF_MAX_STRING_SIZE, NET_LUID_LH};
use windows_sys::Win32::Storage::FileSystem::{FILE_SHARE_READ, FILE_SHARE_WRITE};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Registry::{
    HKEY, KEY_QUERY_VALUE, KEY_SET_VALUE, REG_BINARY, RRF_RT_REG_SZ, RegCloseKey, RegGetValueW,
    RegSetValueExW,
};
use windows_sys::core::GUID;

use super::wide::{list, text, wide};
use crate::driver::{Answer, Device, Driver, Failure, Status};

/// How often the list is read that grows meanwhile.
const TRIES: usize = 8;
/// Room for the identifier of a device (MAX_DEVICE_ID_LEN is 200), and for a GUID in braces.
const ID_UNITS: usize = 256;

/// Every adapter of Penstock's.
pub struct Adapters;

impl Driver for Adapters {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<_> =
            interfaces(None)?.iter().filter_map(|path| alias_of(path).ok()).collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Device>, Failure> {
        let is_named =
            |path: &&String| alias_of(path).is_ok_and(|alias| alias.eq_ignore_ascii_case(name));
        let interfaces = interfaces(None)?;
        let path = interfaces.iter().find(is_named).ok_or(io::ErrorKind::NotFound);
        Ok(open(path.map_err(io::Error::from)?)?)
    }
}

/// Opens the interface of this path.
pub(super) fn open(path: &str) -> io::Result<Box<dyn Device>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE);
    Ok(Box::new(Adapter { file: options.open(path)? }))
}

/// An open adapter.
struct Adapter {
    file: File,
}

impl Device for Adapter {
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<Answer> {
        let len =
            |len| u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let (input_len, output_len) = (len(input.len())?, len(output.len())?);
        let mut information = 0;
        // SAFETY: the handle is a file's that is open, and not for overlapped requests; both buffers are of these lengths.
        let did = unsafe {
            DeviceIoControl(
                self.file.as_raw_handle(),
                code,
                input.as_ptr().cast(),
                input_len,
                output.as_mut_ptr().cast(),
                output_len,
                &raw mut information,
                null_mut(),
            )
        };
        let status = match super::done(did) {
            Ok(()) => Status::SUCCESS,
            Err(error) => error.raw_os_error().and_then(Status::of_win32).ok_or(error)?,
        };
        Ok(Answer { status, information: information as usize })
    }
}

/// Paths of the interfaces that are there; of one device, or of all.
pub(super) fn interfaces(instance: Option<&str>) -> io::Result<Vec<String>> {
    let instance = instance.map(wide);
    let instance = instance.as_ref().map_or_else(null, |instance| instance.as_ptr());
    let (data1, data2, data3, data4) = INTERFACE_CLASS;
    let class = GUID { data1, data2, data3, data4 };
    for _ in 0..TRIES {
        let mut len = 0;
        // SAFETY: a place for the length, a GUID, and a device whose identifier ends with a NUL, or none in particular.
        let code = unsafe {
            CM_Get_Device_Interface_List_SizeW(
                &raw mut len,
                &raw const class,
                instance,
                CM_GET_DEVICE_INTERFACE_LIST_PRESENT,
            )
        };
        configured(code)?;
        let mut units = vec![0; len as usize];
        // SAFETY: as above; the buffer has `len` units.
        let code = unsafe {
            CM_Get_Device_Interface_ListW(
                &raw const class,
                instance,
                units.as_mut_ptr(),
                len,
                CM_GET_DEVICE_INTERFACE_LIST_PRESENT,
            )
        };
        if code == CR_BUFFER_SMALL {
            continue;
        }
        configured(code)?;
        let mut paths = list(&units);
        paths.retain(|path| is_ours(path));
        return Ok(paths);
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Whether a path ends with our reference string.
fn is_ours(path: &str) -> bool {
    path.rsplit_once('\\').is_some_and(|(_, last)| last.eq_ignore_ascii_case(INTERFACE_REFERENCE))
}

/// The name of the connection that an interface's device is.
fn alias_of(path: &str) -> io::Result<String> {
    let luid = luid_of(&guid_of(path)?)?;
    let mut units = [0; IF_MAX_STRING_SIZE as usize + 1];
    // SAFETY: a LUID, and a buffer of this length.
    super::checked(unsafe {
        ConvertInterfaceLuidToAlias(&raw const luid, units.as_mut_ptr(), units.len())
    })?;
    Ok(text(&units))
}

/// The GUID of the network interface that an interface's device is.
pub(super) fn guid_of(path: &str) -> io::Result<GUID> {
    let key = SoftwareKey::of(&instance_of(path)?)?;
    Ok(parse_guid(&key.text("NetCfgInstanceId")?).ok_or(io::ErrorKind::InvalidData)?)
}

/// Its number.
pub(super) fn luid_of(guid: &GUID) -> io::Result<NET_LUID_LH> {
    let mut luid = NET_LUID_LH::default();
    // SAFETY: a GUID, and a place for the LUID.
    super::checked(unsafe { ConvertInterfaceGuidToLuid(guid, &raw mut luid) })?;
    Ok(luid)
}

/// The identifier of an interface's device, with its NUL.
fn instance_of(path: &str) -> io::Result<[u16; ID_UNITS]> {
    let (path, property) = (wide(path), DEVPKEY_Device_InstanceId);
    let mut units = [0; ID_UNITS];
    // The last is left a NUL.
    let mut len = mem::size_of_val(&units) as u32 - 2;
    let mut kind = 0;
    // SAFETY: the path ends with a NUL; the buffer has `len` bytes.
    configured(unsafe {
        CM_Get_Device_Interface_PropertyW(
            path.as_ptr(),
            &raw const property,
            &raw mut kind,
            units.as_mut_ptr().cast(),
            &raw mut len,
            0,
        )
    })?;
    Ok(units)
}

/// The key of a device's driver.
pub(super) struct SoftwareKey(HKEY);

impl SoftwareKey {
    /// That of a device which is there.
    fn of(instance: &[u16]) -> io::Result<Self> {
        Self::open(instance, KEY_QUERY_VALUE, RegDisposition_OpenExisting)
    }

    /// The same, to be written; made if there is none.
    pub(super) fn make(instance: &str) -> io::Result<Self> {
        Self::open(&wide(instance), KEY_SET_VALUE, RegDisposition_OpenAlways)
    }

    fn open(instance: &[u16], access: u32, disposition: u32) -> io::Result<Self> {
        let mut node = 0;
        // SAFETY: the identifier ends with a NUL.
        configured(unsafe {
            CM_Locate_DevNodeW(&raw mut node, instance.as_ptr(), CM_LOCATE_DEVNODE_NORMAL)
        })?;
        let mut key = null_mut();
        // SAFETY: numbers, and a place for the key.
        configured(unsafe {
            CM_Open_DevNode_Key(node, access, 0, disposition, &raw mut key, CM_REGISTRY_SOFTWARE)
        })?;
        Ok(Self(key))
    }

    /// Sets a REG_BINARY.
    pub(super) fn set_binary(&self, name: &str, bytes: &[u8; 16]) -> io::Result<()> {
        let name = wide(name);
        // SAFETY: the key is open, the name ends with a NUL, and there are 16 bytes.
        super::checked(unsafe {
            RegSetValueExW(self.0, name.as_ptr(), 0, REG_BINARY, bytes.as_ptr(), 16)
        })
    }

    fn text(&self, name: &str) -> io::Result<String> {
        let name = wide(name);
        let mut units = [0_u16; ID_UNITS];
        let mut len = mem::size_of_val(&units) as u32;
        // SAFETY: the key is open, the name ends with a NUL, and the buffer has `len` bytes.
        super::checked(unsafe {
            RegGetValueW(
                self.0,
                null(),
                name.as_ptr(),
                RRF_RT_REG_SZ,
                null_mut(),
                units.as_mut_ptr().cast(),
                &raw mut len,
            )
        })?;
        Ok(text(&units))
    }
}

impl Drop for SoftwareKey {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once.
        unsafe { RegCloseKey(self.0) };
    }
}

/// A GUID in braces.
fn parse_guid(text: &str) -> Option<GUID> {
    let text = text.strip_prefix('{')?.strip_suffix('}')?;
    let lengths = text.split('-').map(str::len);
    if !lengths.eq([8, 4, 4, 4, 12]) {
        return None;
    }
    Some(GUID::from_u128(u128::from_str_radix(&text.replace('-', ""), 16).ok()?))
}

/// The error of a function of the configuration manager.
fn configured(code: u32) -> io::Result<()> {
    match code {
        CR_SUCCESS => Ok(()),
        CR_NO_SUCH_DEVNODE | CR_NO_SUCH_VALUE => Err(io::ErrorKind::NotFound.into()),
        _ => Err(io::Error::other(format!("the configuration manager answered {code:#x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::Foundation::RtlNtStatusToDosError;

    #[test]
    fn an_interface_is_ours_by_its_reference() {
        let class = "{8f3c6a52-1d7e-4b0a-9c41-5e60d2873b19}";
        assert!(is_ours(&format!(r"\\?\SWD#Penstock#{{1}}#{class}\Penstock")));
        for other in [format!(r"\\?\SWD#Penstock#{{1}}#{class}"), format!(r"\\?\x#{class}\other")] {
            assert!(!is_ours(&other), "{other}");
        }
    }

    #[test]
    fn a_guid_is_read_strictly() {
        let read = parse_guid("{8F3C6A52-1d7e-4b0a-9c41-5e60d2873b19}").unwrap();
        let (data1, data2, data3, data4) = INTERFACE_CLASS;
        assert_eq!((read.data1, read.data2, read.data3, read.data4), (data1, data2, data3, data4));
        for wrong in [
            "",
            "{}",
            "8f3c6a52-1d7e-4b0a-9c41-5e60d2873b19",
            "{8f3c6a521d7e-4b0a-9c41-5e60d2873b19-}",
        ] {
            assert!(parse_guid(wrong).is_none(), "{wrong}");
        }
    }

    /// DeviceIoControl tells numbers of Win32; what a person is told of them is what the NTSTATUS says.
    #[test]
    fn what_windows_makes_of_a_status_says_the_same() {
        for status in Status::known() {
            // SAFETY: takes a number.
            let code = unsafe { RtlNtStatusToDosError(status.0) };
            let told = Status::of_win32(code.cast_signed());
            let told = told.unwrap_or_else(|| panic!("{status:?} is {code}"));
            assert_eq!(told.to_string(), status.to_string(), "{status:?} is {code}");
        }
    }
}
