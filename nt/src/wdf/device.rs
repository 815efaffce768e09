//! The device object of a network adapter.
//!
//! [`DeviceInit::create`] does all that must happen in one order: NetAdapterCx hooks itself into the
//! init first, then come our callbacks, then the device, its context, and its default queue. The
//! framework ignores a setter's wrong argument silently, so sizes are filled in here and nowhere else.
//!
//! Everything at `PASSIVE_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/device-and-adapter-initialization>

use core::ptr::{self, NonNull};

use wdk_sys::{
    _WDF_DEVICE_FAILED_ACTION::WdfDeviceFailedNoRestart,
    _WDF_FILEOBJECT_CLASS::WdfFileObjectWdfCannotUseFsContexts,
    _WDF_IO_QUEUE_DISPATCH_TYPE::{WdfIoQueueDispatchManual, WdfIoQueueDispatchParallel},
    _WDF_SYNCHRONIZATION_SCOPE::WdfSynchronizationScopeNone,
    _WDF_TRI_STATE::{WdfFalse, WdfUseDefault},
    GUID, PWDFDEVICE_INIT, ULONG, WDF_FILEOBJECT_CONFIG, WDF_IO_QUEUE_CONFIG,
    WDF_PNPPOWER_EVENT_CALLBACKS, WDFDEVICE, WDFDEVICE_INIT, WDFQUEUE,
};

use super::{DeviceEvents, Queue, call, context, events, unicode::Name};
use crate::{
    irql::Passive,
    status::{NtError, check},
    sys::netcx::NetDeviceInitConfig,
};

/// The longest reference string of a device interface, in UTF-16 units.
const REFERENCE_MAX: usize = 32;

/// A device about to be created.
///
/// Dropping it creates none: the framework frees the init itself when `device_add` returns.
///
/// # Invariants
///
/// The pointer is the init of the `EvtDriverDeviceAdd` that is running, and no device was created
/// from it yet. Not `Send`, so it cannot outlive the callback on another thread.
#[derive(Debug)]
pub struct DeviceInit(NonNull<WDFDEVICE_INIT>);

impl DeviceInit {
    /// Wraps what `EvtDriverDeviceAdd` was given.
    ///
    /// # Safety
    ///
    /// It is the init of the callback that is running at `PASSIVE_LEVEL`, unused so far, and the
    /// value does not outlive the callback.
    pub(super) unsafe fn from_raw(init: PWDFDEVICE_INIT) -> Self {
        // SAFETY: the framework passes no null pointer.
        Self(unsafe { NonNull::new_unchecked(init) })
    }

    /// Creates the device, then its context by `build`, then its default queue.
    ///
    /// # Errors
    ///
    /// Whatever NetAdapterCx, the framework or `build` answers; `device_add` must then return it,
    /// upon which the framework deletes what there is.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create<D: DeviceEvents>(
        self,
        passive: &mut Passive,
        build: impl FnOnce(Device, &mut Passive) -> Result<D, NtError>,
    ) -> Result<Device, NtError> {
        // SAFETY: PASSIVE_LEVEL by the token; the init is unused by the type invariant.
        check(unsafe { NetDeviceInitConfig(self.0.as_ptr()) })?;
        self.register::<D>();
        let mut init = self.0.as_ptr();
        let mut attributes = context::attributes::<D>();
        attributes.EvtCleanupCallback = Some(events::evt_cleanup::<D>);
        attributes.SynchronizationScope = WdfSynchronizationScopeNone;
        let mut device: WDFDEVICE = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; the init by the type invariant, and used up here;
        // attributes and the handle's place live through the call.
        check(unsafe {
            call!(WdfDeviceCreate, &raw mut init, &raw mut attributes, &raw mut device)
        })?;
        // SAFETY: just created.
        let handle = unsafe { Device::from_raw(device) };
        let context = build(handle, passive)?;
        // SAFETY: created above with `attributes::<D>`; its callbacks start after `device_add`.
        unsafe { context::fill(device.cast(), context) }
            .map_err(|_context| NtError::INSUFFICIENT_RESOURCES)?;
        handle.create_default_queue::<D>(passive)?;
        Ok(handle)
    }

    /// Registers the callbacks of `D`.
    fn register<D: DeviceEvents>(&self) {
        let mut power = WDF_PNPPOWER_EVENT_CALLBACKS {
            Size: size_of::<WDF_PNPPOWER_EVENT_CALLBACKS>() as ULONG,
            EvtDevicePrepareHardware: Some(events::evt_device_prepare_hardware::<D>),
            EvtDeviceReleaseHardware: Some(events::evt_device_release_hardware::<D>),
            EvtDeviceD0Entry: Some(events::evt_device_d0_entry::<D>),
            EvtDeviceD0Exit: Some(events::evt_device_d0_exit::<D>),
            EvtDeviceSurpriseRemoval: Some(events::evt_device_surprise_removal::<D>),
            ..WDF_PNPPOWER_EVENT_CALLBACKS::default()
        };
        // SAFETY: the init is unused by the type invariant; the callbacks are copied.
        unsafe {
            call!(WdfDeviceInitSetPnpPowerEventCallbacks, self.0.as_ptr(), &raw mut power);
        }
        let mut files = WDF_FILEOBJECT_CONFIG {
            Size: size_of::<WDF_FILEOBJECT_CONFIG>() as ULONG,
            EvtDeviceFileCreate: Some(events::evt_device_file_create::<D>),
            EvtFileClose: Some(events::evt_file_close::<D>),
            EvtFileCleanup: None,
            AutoForwardCleanupClose: WdfUseDefault,
            // NetAdapterCx keeps a mark of its own in FsContext.
            FileObjectClass: WdfFileObjectWdfCannotUseFsContexts,
        };
        // SAFETY: as above; file objects have no context, so there are no attributes.
        unsafe {
            call!(
                WdfDeviceInitSetFileObjectConfig,
                self.0.as_ptr(),
                &raw mut files,
                ptr::null_mut(),
            );
        }
        // SAFETY: the init is unused by the type invariant.
        unsafe {
            call!(
                WdfDeviceInitSetIoInCallerContextCallback,
                self.0.as_ptr(),
                Some(events::evt_io_in_caller_context::<D>),
            );
        }
    }
}

/// A class of device interfaces, by GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceClass(pub u32, pub u16, pub u16, pub [u8; 8]);

/// A handle of a device.
///
/// # Invariants
///
/// The device has not been cleaned up: whoever keeps a copy beyond a callback drops it in
/// [`DeviceEvents::cleanup`] at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Device(WDFDEVICE);

// SAFETY: the framework's functions take a device's handle on any thread.
unsafe impl Send for Device {}
// SAFETY: as above; the framework does its own locking.
unsafe impl Sync for Device {}

impl Device {
    /// Wraps a handle.
    ///
    /// # Safety
    ///
    /// The device exists, and the type's invariant is kept from here on.
    pub(crate) unsafe fn from_raw(device: WDFDEVICE) -> Self {
        Self(device)
    }

    /// The handle.
    pub(crate) fn as_raw(self) -> WDFDEVICE {
        self.0
    }

    /// Registers an interface by which programs find and open the device, under `reference`.
    ///
    /// The reference string must not be empty: without one NDIS takes the opened handles for itself.
    /// The interface can be opened when the device has started.
    ///
    /// # Errors
    ///
    /// [`NtError::INVALID_PARAMETER`] for a reference string of no or more than 32 UTF-16 units, or
    /// what the framework answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create_interface(
        self,
        _passive: &Passive,
        class: InterfaceClass,
        reference: &str,
    ) -> Result<(), NtError> {
        if reference.is_empty() {
            return Err(NtError::INVALID_PARAMETER);
        }
        let InterfaceClass(data1, data2, data3, data4) = class;
        let class = GUID { Data1: data1, Data2: data2, Data3: data3, Data4: data4 };
        check(Name::<REFERENCE_MAX>::new(reference)?.with(|reference| {
            // SAFETY: PASSIVE_LEVEL by the token; the device by the type invariant; GUID and string
            // live through the call.
            unsafe { call!(WdfDeviceCreateDeviceInterface, self.0, &raw const class, reference) }
        }))
    }

    /// Makes a queue that only keeps requests until they are retrieved, or cancelled by the
    /// framework when their caller gives up.
    ///
    /// # Errors
    ///
    /// Whatever the framework answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create_manual_queue(self, passive: &Passive) -> Result<Queue, NtError> {
        let config =
            WDF_IO_QUEUE_CONFIG { DispatchType: WdfIoQueueDispatchManual, ..Self::queue_config() };
        // SAFETY: a manual queue has no callbacks.
        unsafe { self.create_queue(passive, config) }
    }

    /// Tells the system that the device has failed and should not be restarted.
    ///
    /// The device goes on existing until the system removes it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn set_failed(self) {
        // SAFETY: the device exists by the type invariant; documented up to DISPATCH_LEVEL.
        unsafe { call!(WdfDeviceSetFailed, self.0, WdfDeviceFailedNoRestart) };
    }

    /// Makes the queue that presents control requests to `D`, as many at once as there are.
    fn create_default_queue<D: DeviceEvents>(self, passive: &Passive) -> Result<Queue, NtError> {
        let mut config = WDF_IO_QUEUE_CONFIG {
            DispatchType: WdfIoQueueDispatchParallel,
            DefaultQueue: 1,
            EvtIoDeviceControl: Some(events::evt_io_device_control::<D>),
            ..Self::queue_config()
        };
        config.Settings.Parallel.NumberOfPresentedRequests = ULONG::MAX;
        // SAFETY: the only caller has just created this device with `attributes::<D>`.
        unsafe { self.create_queue(passive, config) }
    }

    /// What both queues have in common: they work whatever the device's power.
    fn queue_config() -> WDF_IO_QUEUE_CONFIG {
        WDF_IO_QUEUE_CONFIG {
            Size: size_of::<WDF_IO_QUEUE_CONFIG>() as ULONG,
            PowerManaged: WdfFalse,
            ..WDF_IO_QUEUE_CONFIG::default()
        }
    }

    /// Creates a queue.
    ///
    /// # Safety
    ///
    /// The callbacks in `config` are for a device of this one's context type.
    unsafe fn create_queue(
        self,
        _passive: &Passive,
        mut config: WDF_IO_QUEUE_CONFIG,
    ) -> Result<Queue, NtError> {
        let mut queue: WDFQUEUE = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; the device by the type invariant; config and the
        // handle's place live through the call; a queue has no context.
        check(unsafe {
            call!(WdfIoQueueCreate, self.0, &raw mut config, ptr::null_mut(), &raw mut queue)
        })?;
        // SAFETY: just created, a child of this device.
        Ok(unsafe { Queue::from_raw(queue) })
    }
}
