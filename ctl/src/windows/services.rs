//! Whether a service is there, and runs.

use std::io;
use std::ptr::null;

use windows_sys::Win32::Foundation::ERROR_SERVICE_DOES_NOT_EXIST;
use windows_sys::Win32::System::Services::{
    CloseServiceHandle, OpenSCManagerW, OpenServiceW, QueryServiceStatus, SC_HANDLE,
    SC_MANAGER_CONNECT, SERVICE_QUERY_STATUS, SERVICE_STATUS, SERVICE_STOP_PENDING,
    SERVICE_STOPPED,
};

use super::wide::wide;
use crate::doctor::machine::Service;

/// What the service or driver `name` does.
///
/// # Errors
///
/// What Windows says.
pub fn state(name: &str) -> io::Result<Service> {
    // SAFETY: this machine's manager, and its usual database.
    let manager = Handle::of(unsafe { OpenSCManagerW(null(), null(), SC_MANAGER_CONNECT) })?;
    let name = wide(name);
    // SAFETY: the manager is open, and the name ends with a NUL.
    let service =
        Handle::of(unsafe { OpenServiceW(manager.0, name.as_ptr(), SERVICE_QUERY_STATUS) });
    let service = match service {
        Err(error) if error.raw_os_error() == Some(ERROR_SERVICE_DOES_NOT_EXIST.cast_signed()) => {
            return Ok(Service::Absent);
        }
        service => service?,
    };
    let mut status = SERVICE_STATUS::default();
    // SAFETY: the service is open; a place for its status.
    super::done(unsafe { QueryServiceStatus(service.0, &raw mut status) })?;
    Ok(match status.dwCurrentState {
        SERVICE_STOPPED | SERVICE_STOP_PENDING => Service::Stopped,
        _ => Service::Running,
    })
}

/// The manager, or a service.
struct Handle(SC_HANDLE);

impl Handle {
    fn of(handle: SC_HANDLE) -> io::Result<Self> {
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once.
        unsafe { CloseServiceHandle(self.0) };
    }
}
