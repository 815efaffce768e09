//! Control devices: device objects that a driver makes for itself, and deletes itself.
//!
//! What is modelled is what such a device is to others: a `DEVICE_OBJECT` to register with. It is not opened, and has no
//! queues. A driver is not unloaded while it has one, whatever it would do in its unload routine.
//!
//! Source: LEARN wdf/using-control-device-objects; `core/fxdeviceinitapi.cpp`, `core/fxdeviceapi.cpp`.

use super::Entered;
use super::device::{Device, DeviceInit};
use super::driver_memory::Address;
use super::object::Kind;
use crate::nt::imports;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Makes the `WDFDEVICE_INIT` of a control device, which is freed, or used up by a device.
    [max: PASSIVE, mark: Documented, source: "DDI wdfcontrol/nf-wdfcontrol-wdfcontroldeviceinitallocate", fail: 0]
    fn WdfControlDeviceInitAllocate(thread, globals: u64, driver: u64, access: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        if entered.object(driver, Kind::Driver).is_none() {
            return 0;
        }
        if Address(access).unicode_string().is_none_or(|access| !access.starts_with("D:")) {
            entered.violation(&rules::WDF_CONTROL_DEVICE, "WdfControlDeviceInitAllocate: an SDDL string is required");
            return 0;
        }
        let (handle, init) = DeviceInit::new(&entered.machine, &entered.wdf);
        init.set_control();
        handle
    }

    /// Frees a `WDFDEVICE_INIT` that no device was made from.
    [max: PASSIVE, mark: Documented, source: "DDI wdfdevice/nf-wdfdevice-wdfdeviceinitfree"]
    fn WdfDeviceInitFree(thread, globals: u64, init: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(known) = entered.init(init) else { return };
        if !known.is_control() {
            entered.violation(&rules::WDF_DEVICE_INIT, "WdfDeviceInitFree: the framework frees the init of EvtDriverDeviceAdd itself");
            return;
        }
        DeviceInit::free(&entered.machine, &entered.wdf, init);
    }

    /// Ends the making of a control device.
    [max: PASSIVE, mark: Documented, source: "DDI wdfcontrol/nf-wdfcontrol-wdfcontrolfinishinitializing"]
    fn WdfControlFinishInitializing(thread, globals: u64, device: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(device) = entered.body::<Device>(device, Kind::Device) else { return };
        if !device.is_control() {
            entered.violation(&rules::WDF_CONTROL_DEVICE, "WdfControlFinishInitializing on a device of PnP");
        }
    }

    /// The `DEVICE_OBJECT` of a device.
    [max: DISPATCH, mark: Documented, source: "DDI wdfdevice/nf-wdfdevice-wdfdevicewdmgetdeviceobject"]
    fn WdfDeviceWdmGetDeviceObject(thread, globals: u64, device: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<Device>(device, Kind::Device).map_or(0, |device| device.device_object)
    }
}

/// Deletes a device if it is a control device; `false` if it is one of PnP's.
pub(super) fn delete(entered: &Entered<'_>, handle: u64) -> bool {
    let devices = lock(&entered.wdf.state).control_devices.clone();
    let device = devices.into_iter().find(|device| device.handle() == handle);
    if let Some(device) = &device {
        lock(&entered.wdf.state).control_devices.retain(|other| other.handle() != handle);
        device.delete(&entered.machine);
    }
    device.is_some()
}
