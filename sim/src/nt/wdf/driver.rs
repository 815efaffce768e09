//! `WDFDRIVER`: made in `DriverEntry`, asked for devices, deleted at unload.
//!
//! Source: `facts/kmdf.md` §4 (`core/fxdriverapi.cpp`, `core/fxdriver.cpp`, read in Microsoft's source).

use std::sync::Arc;

use super::attributes::{self, Attributes};
use super::device::{Device, DeviceInit};
use super::driver_memory::Address;
use super::object::{Kind, Object};
use super::status::{self, NtStatus};
use super::{Entered, Wdf};
use crate::nt::imports;
use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// The simulator's part of a `WDFDRIVER`.
pub(crate) struct Driver {
    pub(crate) object: Arc<Object>,
    device_add: u64,
    unload: u64,
}

/// `WDF_DRIVER_CONFIG` of KMDF 1.31, and the one of 1.1 without the pool tag.
const CONFIG_SIZES: [u64; 2] = [32, 24];
const NON_PNP: u32 = 1;
const NO_DISPATCH_OVERRIDE: u32 = 2;
const DRIVER_OBJECT_EXTENSION: u64 = 48;
const DRIVER_OBJECT_UNLOAD: u64 = 104;
const DRIVER_OBJECT_MAJOR: u64 = 112;
const EXTENSION_ADD_DEVICE: u64 = 8;
const GLOBALS_DRIVER: u64 = 0;
const GLOBALS_FLAGS: u64 = 8;
const GLOBALS_TAG: u64 = 12;
const GLOBALS_DISPLACE: u64 = 48;

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Makes the one `WDFDRIVER`.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 4", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfDriverCreate(thread, globals: u64, driver_object: u64, path: u64, attributes: u64, config: u64, driver: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        create(&entered, globals, [driver_object, path, attributes, config, driver])
    }

    /// The `DriverUnload` that KMDF puts into the driver object.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 4"]
    fn FxDriverUnload(thread, driver_object: u64) {
        let Some(entered) = Entered::for_extension(thread) else { return };
        if let Some(driver) = entered.wdf.driver() {
            unload(&entered, &driver);
        }
    }

    /// The `AddDevice` that KMDF puts into the driver object. The simulator's PnP does not come this way.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 4"]
    fn FxAddDevice(thread, driver_object: u64, physical_device: u64) -> i32 {
        thread.stop(&rules::NOT_PROVIDED, "AddDevice called by the driver itself");
        0
    }

    /// What KMDF puts into all 28 `MajorFunction`s. The simulator's requestors do not come this way.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 4"]
    fn FxDispatch(thread, device_object: u64, irp: u64) -> i32 {
        thread.stop(&rules::NOT_PROVIDED, "a MajorFunction called by the driver itself");
        0
    }
}

fn create(entered: &Entered<'_>, globals: u64, arguments: [u64; 5]) -> NtStatus {
    let [driver_object, path, attributes, config, driver] = arguments;
    let Some(driver_object) = entered.required("DriverObject", driver_object) else { return 0 };
    let Some(_) = entered.required("RegistryPath", path) else { return 0 };
    let Some(config) = entered.required("DriverConfig", config) else { return 0 };
    let size: u32 = config.read(0);
    if !CONFIG_SIZES.contains(&size.into()) {
        return status::INFO_LENGTH_MISMATCH;
    }
    let [device_add, unload, flags] = config.words::<3>(8);
    let (flags, tag) = (flags as u32, if size == 32 { (flags >> 32) as u32 } else { 0 });
    if flags & !7 != 0 || (flags & NON_PNP != 0 && device_add != 0) {
        return status::INVALID_PARAMETER;
    }
    if entered.wdf.driver().is_some() {
        return status::DRIVER_INTERNAL_ERROR;
    }
    let attributes = match Attributes::read(Address(attributes), attributes::DRIVER_OR_DEVICE) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    let object =
        entered.wdf.objects.create(&*entered.machine, Kind::Driver, attributes.context, None);
    let body = Arc::new(Driver { object: object.clone(), device_add, unload });
    object.set_body(body.clone());
    lock(&entered.wdf.state).driver = Some(body);
    if flags & NO_DISPATCH_OVERRIDE == 0 {
        override_dispatch(driver_object);
    }
    Address(globals).write(GLOBALS_DRIVER, object.handle());
    Address(globals).write(GLOBALS_FLAGS, flags);
    Address(globals).write(GLOBALS_TAG, if tag == 0 { u32::from_le_bytes(*b"FxDr") } else { tag });
    Address(globals).write(GLOBALS_DISPLACE, 1_u8);
    if driver != 0 {
        Address(driver).write(0, object.handle());
    }
    status::SUCCESS
}

fn override_dispatch(driver_object: Address) {
    let entry = |name| crate::nt::address("wdf01000", name).expect("declared above") as u64;
    let dispatch = entry("FxDispatch");
    driver_object.write(DRIVER_OBJECT_UNLOAD, entry("FxDriverUnload"));
    for major in 0..28 {
        driver_object.write(DRIVER_OBJECT_MAJOR + 8 * major, dispatch);
    }
    let extension = Address(driver_object.read(DRIVER_OBJECT_EXTENSION));
    if !extension.is_null() {
        extension.write(EXTENSION_ADD_DEVICE, entry("FxAddDevice"));
    }
}

fn unload(entered: &Entered<'_>, driver: &Driver) {
    if let Some(device) = entered.wdf.control_devices().first() {
        let detail = "DriverUnload while there is a control device: Windows would not call it";
        entered.violation(&rules::WDF_UNLOAD, format!("{detail} ({:#x})", device.handle()));
        return;
    }
    if let Some(device) = entered.wdf.devices().first() {
        entered.violation(
            &rules::WDF_UNLOAD,
            format!("DriverUnload while WDFDEVICE {:#x} exists", device.handle()),
        );
        return;
    }
    if driver.unload != 0 {
        let call = Call::new("EvtDriverUnload", driver.unload as usize, Level::Passive);
        if entered.machine.call(call, &[driver.object.handle()]).is_err() {
            return;
        }
    }
    delete(&entered.machine, &entered.wdf);
}

/// Deletes the `WDFDRIVER`: at unload, or because `DriverEntry` failed after making it (then without
/// `EvtDriverUnload`).
pub(crate) fn delete(machine: &Machine, wdf: &Wdf) {
    let driver = lock(&wdf.state).driver.take();
    if let Some(driver) = driver {
        wdf.objects.delete(machine, &driver.object);
    }
}

/// Asks the driver for a device: `EvtDriverDeviceAdd`.
///
/// # Errors
///
/// The status of the callback, the device that it may have made being deleted; or the machine's end.
pub(crate) fn add_device(machine: &Arc<Machine>) -> Result<Result<Arc<Device>, NtStatus>, Dead> {
    let wdf = Wdf::of(machine);
    let Some(driver) = wdf.driver() else { return Ok(Err(status::NO_SUCH_DEVICE)) };
    if driver.device_add == 0 {
        return Ok(Err(status::NO_SUCH_DEVICE));
    }
    let (handle, init) = DeviceInit::new(machine, &wdf);
    let call = Call::new("EvtDriverDeviceAdd", driver.device_add as usize, Level::Passive);
    let status = machine.call(call, &[driver.object.handle(), handle])? as i32;
    let device = init.take_device();
    DeviceInit::free(machine, &wdf, handle);
    match device {
        Some(device) if status::is_success(status) => Ok(Ok(device)),
        Some(device) => {
            device.delete(machine);
            Ok(Err(status))
        }
        None if status::is_success(status) => Ok(Err(status::NO_SUCH_DEVICE)),
        None => Ok(Err(status)),
    }
}
