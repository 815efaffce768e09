//! What a device does, and the callbacks that carry it there.
//!
//! Requests reach the driver in this order: CREATE is judged by [`DeviceEvents::open`]; each control
//! request comes to [`DeviceEvents::in_caller_context`], in the thread that made it, the only place
//! where the caller can be judged; and from there, if it is handed on by [`Request::enqueue`], to
//! [`DeviceEvents::device_control`] in whatever thread the framework likes. A request made above
//! `PASSIVE_LEVEL`, which only another driver can, is refused in both places.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/>

use wdk_sys::{
    NTSTATUS, PASSIVE_LEVEL, ULONG, WDF_POWER_DEVICE_STATE, WDFCMRESLIST, WDFDEVICE, WDFFILEOBJECT,
    WDFOBJECT, WDFQUEUE, WDFREQUEST,
};

use super::{Control, Device, File, Request, call, context};
use crate::{
    irql::{self, Passive},
    status::{NtError, to_status},
};

/// What a device does; the value is the context of the device object.
///
/// Start is `prepare_hardware`, `d0_entry`; the rings of a network adapter appear after the latter
/// and disappear before `d0_exit`; then `release_hardware` and, when the device goes for good,
/// `cleanup`. A device may be stopped and started again without being cleaned up.
///
/// All callbacks run at `PASSIVE_LEVEL`; those of power one at a time.
pub trait DeviceEvents: Send + Sync + 'static {
    /// The device starts.
    ///
    /// # Errors
    ///
    /// The device does not start; `release_hardware` follows.
    fn prepare_hardware(&self, _device: Device, _passive: &mut Passive) -> Result<(), NtError> {
        Ok(())
    }

    /// The device stops, whether it had started or not.
    fn release_hardware(&self, _device: Device, _passive: &mut Passive) {}

    /// The machine runs: at start, and after a sleep.
    ///
    /// # Errors
    ///
    /// The device fails; `release_hardware` follows.
    fn d0_entry(
        &self,
        _device: Device,
        _from: PowerState,
        _passive: &mut Passive,
    ) -> Result<(), NtError> {
        Ok(())
    }

    /// The machine goes to sleep, or the device stops.
    fn d0_exit(&self, _device: Device, _to: PowerState, _passive: &mut Passive) {}

    /// The device has gone without being asked.
    fn surprise_removal(&self, _device: Device, _passive: &mut Passive) {}

    /// The device is about to be deleted; the value is dropped right afterwards, and the device's
    /// handle, its queues and its adapter must not be used any more.
    fn cleanup(&self, _passive: &mut Passive) {}

    /// Somebody opens the device, in whose thread this runs.
    ///
    /// # Errors
    ///
    /// The status the caller gets instead of a handle.
    fn open(&self, request: &Request, passive: &mut Passive) -> Result<(), NtError>;

    /// What somebody had opened is closed, and every request made with it completed; in an arbitrary thread.
    fn closed(&self, _file: File, _passive: &mut Passive) {}

    /// A control request, in the thread of the caller, to be completed or handed on with
    /// [`Request::enqueue`].
    fn in_caller_context(
        &self,
        device: Device,
        request: Request,
        control: Control,
        passive: &mut Passive,
    );

    /// A control request that was handed on, in an arbitrary thread.
    fn device_control(&self, request: Request, control: Control, passive: &mut Passive);
}

/// A device's power, as far as this driver is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// Working.
    Working,
    /// Asleep, to come back.
    Sleeping,
    /// Off for good, or before the first start.
    Off,
}

impl From<WDF_POWER_DEVICE_STATE> for PowerState {
    fn from(state: WDF_POWER_DEVICE_STATE) -> Self {
        match state {
            wdk_sys::_WDF_POWER_DEVICE_STATE::WdfPowerDeviceD0 => Self::Working,
            wdk_sys::_WDF_POWER_DEVICE_STATE::WdfPowerDeviceD3Final => Self::Off,
            _ => Self::Sleeping,
        }
    }
}

/// The context of `device`, and the level its callbacks run at.
///
/// # Safety
///
/// `device` was created with `attributes::<D>()`, this is a callback of it that is documented to run
/// at `PASSIVE_LEVEL`, and the results do not leave the callback.
unsafe fn enter<'c, D: DeviceEvents>(
    device: WDFDEVICE,
) -> Result<(&'c D, Device, Passive), NtError> {
    // SAFETY: the caller's promise.
    let passive = unsafe { Passive::assume() };
    // SAFETY: the caller's promise; the framework does not clean a device up within a callback.
    let context = unsafe { context::get::<D>(device.cast()) };
    // SAFETY: the device exists, as this is one of its callbacks.
    let handle = unsafe { Device::from_raw(device) };
    Ok((context.ok_or(NtError::DEVICE_NOT_READY)?, handle, passive))
}

/// `EvtDevicePrepareHardware`.
pub(super) unsafe extern "C" fn evt_device_prepare_hardware<D: DeviceEvents>(
    device: WDFDEVICE,
    _raw: WDFCMRESLIST,
    _translated: WDFCMRESLIST,
) -> NTSTATUS {
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    to_status(
        entered.and_then(|(context, device, mut passive)| {
            context.prepare_hardware(device, &mut passive)
        }),
    )
}

/// `EvtDeviceReleaseHardware`.
pub(super) unsafe extern "C" fn evt_device_release_hardware<D: DeviceEvents>(
    device: WDFDEVICE,
    _translated: WDFCMRESLIST,
) -> NTSTATUS {
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    // A device whose context was never made has nothing to release.
    let _ = entered.map(|(context, device, mut passive)| {
        context.release_hardware(device, &mut passive);
    });
    wdk_sys::STATUS_SUCCESS
}

/// `EvtDeviceD0Entry`.
pub(super) unsafe extern "C" fn evt_device_d0_entry<D: DeviceEvents>(
    device: WDFDEVICE,
    from: WDF_POWER_DEVICE_STATE,
) -> NTSTATUS {
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    to_status(entered.and_then(|(context, device, mut passive)| {
        context.d0_entry(device, from.into(), &mut passive)
    }))
}

/// `EvtDeviceD0Exit`.
pub(super) unsafe extern "C" fn evt_device_d0_exit<D: DeviceEvents>(
    device: WDFDEVICE,
    to: WDF_POWER_DEVICE_STATE,
) -> NTSTATUS {
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    let _ = entered.map(|(context, device, mut passive)| {
        context.d0_exit(device, to.into(), &mut passive);
    });
    wdk_sys::STATUS_SUCCESS
}

/// `EvtDeviceSurpriseRemoval`.
pub(super) unsafe extern "C" fn evt_device_surprise_removal<D: DeviceEvents>(device: WDFDEVICE) {
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    let _ = entered.map(|(context, device, mut passive)| {
        context.surprise_removal(device, &mut passive);
    });
}

/// `EvtCleanup` of a device.
pub(super) unsafe extern "C" fn evt_cleanup<D: DeviceEvents>(object: WDFOBJECT) {
    // SAFETY: a device is disposed of at PASSIVE_LEVEL only, if need be by a work item.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered together with `attributes::<D>`. Requests, file objects and the adapter are
    // gone before the device is cleaned up, so no callback uses the context.
    let context = unsafe { context::take::<D>(object) };
    context.iter().for_each(|context| context.cleanup(&mut passive));
}

/// `EvtDeviceFileCreate`.
pub(super) unsafe extern "C" fn evt_device_file_create<D: DeviceEvents>(
    device: WDFDEVICE,
    request: WDFREQUEST,
    _file: WDFFILEOBJECT,
) {
    // SAFETY: the framework hands the request over with this call.
    let request = unsafe { Request::from_raw(request) };
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    let opened =
        entered.and_then(|(context, _device, mut passive)| context.open(&request, &mut passive));
    request.complete(opened, 0);
}

/// `EvtFileClose`.
///
/// Not `EvtFileCleanup`: requests may still be under way then, and begin what belongs to the file.
pub(super) unsafe extern "C" fn evt_file_close<D: DeviceEvents>(file: WDFFILEOBJECT) {
    // SAFETY: the file exists, as this is a callback of it; it is a child of its device.
    let device = unsafe { call!(WdfFileObjectGetDevice, file) };
    // SAFETY: registered for a device of `D`, and documented to run at PASSIVE_LEVEL.
    let entered = unsafe { enter::<D>(device) };
    // What was opened before the context was there had no requests.
    let _ = entered.map(|(context, _device, mut passive)| {
        context.closed(File::of(file), &mut passive);
    });
}

/// `EvtIoInCallerContext`.
pub(super) unsafe extern "C" fn evt_io_in_caller_context<D: DeviceEvents>(
    device: WDFDEVICE,
    request: WDFREQUEST,
) {
    // SAFETY: the framework hands the request over with this call.
    let request = unsafe { Request::from_raw(request) };
    // SAFETY: registered for a device of `D`; `at_passive` has looked at the level.
    let entered =
        at_passive(&request).and_then(|control| Ok((control, unsafe { enter::<D>(device) }?)));
    match entered {
        Ok((control, (context, device, mut passive))) => {
            context.in_caller_context(device, request, control, &mut passive);
        }
        Err(error) => request.complete(Err(error), 0),
    }
}

/// `EvtIoDeviceControl` of the default queue.
pub(super) unsafe extern "C" fn evt_io_device_control<D: DeviceEvents>(
    queue: WDFQUEUE,
    request: WDFREQUEST,
    _output_length: usize,
    _input_length: usize,
    _code: ULONG,
) {
    // SAFETY: the framework hands the request over with this call.
    let request = unsafe { Request::from_raw(request) };
    // SAFETY: the queue exists, as it is presenting a request.
    let device = unsafe { call!(WdfIoQueueGetDevice, queue) };
    // SAFETY: the queue was created for a device of `D`; `at_passive` has looked at the level.
    let entered =
        at_passive(&request).and_then(|control| Ok((control, unsafe { enter::<D>(device) }?)));
    match entered {
        Ok((control, (context, _device, mut passive))) => {
            context.device_control(request, control, &mut passive);
        }
        Err(error) => request.complete(Err(error), 0),
    }
}

/// The control request that `request` is, if it came at `PASSIVE_LEVEL`.
///
/// Both callbacks are documented for `<= DISPATCH_LEVEL`, and are at `PASSIVE_LEVEL` whenever the
/// request is a user's.
fn at_passive(request: &Request) -> Result<Control, NtError> {
    if u32::from(irql::current()) != PASSIVE_LEVEL {
        return Err(NtError::INVALID_DEVICE_REQUEST);
    }
    request.control().ok_or(NtError::INVALID_DEVICE_REQUEST)
}
