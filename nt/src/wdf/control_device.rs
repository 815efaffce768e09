//! A device object of the driver's own, for nobody to open: what others register against.
//!
//! The filtering platform wants a device object with each callout, and keeps the driver loaded by
//! it; the callouts are the driver's and not one adapter's, so no adapter's device will do.
//!
//! A driver of PnP devices is not unloaded while it has a device object, and its unload routine is
//! not called either: a control device is to be made with the first adapter, and dropped with the
//! last.
//!
//! Everything at `PASSIVE_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/using-control-device-objects>

use core::{ffi::c_void, ptr};

use wdk_sys::{PWDFDEVICE_INIT, WDFDEVICE, WdfDriverGlobals};

use super::{call, unicode::Name};
use crate::{
    irql::Passive,
    status::{NtError, check},
};

/// `SDDL_DEVOBJ_KERNEL_ONLY`: nobody opens it from user mode.
const KERNEL_ONLY: &str = "D:P";

/// A control device, deleted on drop, at `PASSIVE_LEVEL`.
///
/// # Invariants
///
/// A live device that this value owns.
#[derive(Debug)]
pub struct ControlDevice(WDFDEVICE);

// SAFETY: the framework's functions take a device's handle on any thread.
unsafe impl Send for ControlDevice {}
// SAFETY: as above.
unsafe impl Sync for ControlDevice {}

impl ControlDevice {
    /// Makes a device without a name, an interface or a queue.
    ///
    /// # Errors
    ///
    /// What the framework answers: memory is short.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, after the driver object was made.
    pub fn create(_passive: &Passive) -> Result<Self, NtError> {
        // SAFETY: written by the loader before DriverEntry, and live until the driver is unloaded.
        let globals = unsafe { WdfDriverGlobals };
        // SAFETY: as above; the framework put the driver's handle there when it made the object.
        let driver = unsafe { (*globals).Driver };
        let mut init: PWDFDEVICE_INIT = Name::<4>::new(KERNEL_ONLY)?.with(|access| {
            // SAFETY: PASSIVE_LEVEL by the token; the string lives through the call.
            unsafe { call!(WdfControlDeviceInitAllocate, driver, access) }
        });
        if init.is_null() {
            return Err(NtError::INSUFFICIENT_RESOURCES);
        }
        let mut device: WDFDEVICE = ptr::null_mut();
        // SAFETY: an unused init; there is no context, so no attributes; the handle's place lives
        // through the call, which takes the init over unless it fails.
        let created = check(unsafe {
            call!(WdfDeviceCreate, &raw mut init, ptr::null_mut(), &raw mut device)
        });
        if let Err(error) = created {
            // SAFETY: not used up, and not used again.
            unsafe { call!(WdfDeviceInitFree, init) };
            return Err(error);
        }
        // SAFETY: a control device just made.
        unsafe { call!(WdfControlFinishInitializing, device) };
        // INVARIANT: just made, and nobody else's.
        Ok(Self(device))
    }

    /// The `DEVICE_OBJECT`, which lives as long as this value.
    pub(crate) fn device_object(&self) -> *mut c_void {
        // SAFETY: a live device (type invariant).
        unsafe { call!(WdfDeviceWdmGetDeviceObject, self.0) }.cast()
    }
}

impl Drop for ControlDevice {
    fn drop(&mut self) {
        // SAFETY: ours (type invariant), and not used again.
        unsafe { call!(WdfObjectDelete, self.0.cast()) };
    }
}
