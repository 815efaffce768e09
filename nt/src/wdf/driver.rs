//! The driver object: what `DriverEntry` makes and unload takes down.
//!
//! The value given to [`Entry::create`] is the driver's context. It is dropped when the framework
//! deletes the driver object, which happens after the last device is gone at unload, and as well
//! when `DriverEntry` fails after the driver object was made. `EvtDriverUnload` would only run in
//! the first case, so taking down is `Drop` and nothing else.
//!
//! Everything here runs at `PASSIVE_LEVEL`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdriver/nf-wdfdriver-wdfdrivercreate>

use core::ptr;

use wdk_sys::{
    NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT, PWDFDEVICE_INIT, ULONG, WDF_DRIVER_CONFIG,
    WDFDRIVER, WDFOBJECT, ntddk::MmIsDriverVerifying,
};

use super::{DeviceInit, FUNCTIONS, call, context, functions};
use crate::{
    irql::Passive,
    status::{NtError, check, to_status},
};

/// What a driver does; the value is the context of the driver object.
pub trait DriverEvents: Send + Sync + 'static {
    /// A device was found: `init` becomes it.
    ///
    /// # Errors
    ///
    /// The device does not start; a device created by then is deleted by the framework.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    fn device_add(&self, init: DeviceInit, passive: &mut Passive) -> Result<(), NtError>;

    /// The driver is about to go, and with it this value, which is dropped right afterwards.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    fn cleanup(&self, _passive: &mut Passive) {}
}

/// The arguments of `DriverEntry`.
///
/// # Invariants
///
/// Both are as the I/O manager gave them, and `DriverEntry` has not returned.
#[derive(Debug)]
pub struct Entry {
    object: PDRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
}

impl Entry {
    /// Wraps the arguments of `DriverEntry`.
    ///
    /// # Safety
    ///
    /// They are those of the `DriverEntry` that is running now, at `PASSIVE_LEVEL`, and the value is
    /// not used after it returned.
    #[must_use]
    pub unsafe fn new(object: PDRIVER_OBJECT, registry_path: PCUNICODE_STRING) -> Self {
        // INVARIANT: the caller's promise.
        Self { object, registry_path }
    }

    /// Whether Driver Verifier looks at this driver.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmisdriververifying>
    #[must_use]
    pub fn is_verified(&self, _passive: &Passive) -> bool {
        // SAFETY: the driver object of the type invariant.
        unsafe { MmIsDriverVerifying(self.object) != 0 }
    }

    /// Creates the driver object, and then its context by `build`.
    ///
    /// # Errors
    ///
    /// [`NtError::NOT_SUPPORTED`] if the framework's table is too short for what is called; whatever the framework or `build`
    /// answers. `DriverEntry` must then return it, upon which the
    /// framework deletes the driver object.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn create<D: DriverEvents>(
        self,
        passive: &mut Passive,
        build: impl FnOnce(&mut Passive) -> Result<D, NtError>,
    ) -> Result<(), NtError> {
        if functions() < FUNCTIONS {
            return Err(NtError::NOT_SUPPORTED);
        }
        let mut attributes = context::attributes::<D>();
        attributes.EvtCleanupCallback = Some(evt_cleanup::<D>);
        let mut config = WDF_DRIVER_CONFIG {
            Size: size_of::<WDF_DRIVER_CONFIG>() as ULONG,
            EvtDriverDeviceAdd: Some(evt_driver_device_add::<D>),
            // It would not run when DriverEntry fails; the context's cleanup always does.
            EvtDriverUnload: None,
            DriverInitFlags: 0,
            DriverPoolTag: u32::from_le_bytes(*b"Pnst"),
        };
        let mut driver: WDFDRIVER = ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL by the token; object and path by the type invariant; attributes,
        // config and the handle's place live through the call, which copies the first two.
        check(unsafe {
            call!(
                WdfDriverCreate,
                self.object,
                self.registry_path,
                &raw mut attributes,
                &raw mut config,
                &raw mut driver,
            )
        })?;
        let context = build(passive)?;
        // SAFETY: created above with `attributes::<D>`; no device is added before `DriverEntry`
        // returns, so nobody else looks at the context.
        unsafe { context::fill(driver.cast(), context) }
            .map_err(|_context| NtError::INSUFFICIENT_RESOURCES)
    }
}

/// `EvtDriverDeviceAdd`.
unsafe extern "C" fn evt_driver_device_add<D: DriverEvents>(
    driver: WDFDRIVER,
    init: PWDFDEVICE_INIT,
) -> NTSTATUS {
    // SAFETY: documented to be called at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: `driver` was created with `attributes::<D>` beside the registration of this callback,
    // and is not deleted while it runs.
    let context = unsafe { context::get::<D>(driver.cast()) };
    let Some(context) = context else { return NtError::DEVICE_NOT_READY.status() };
    // SAFETY: the framework's init for this call, not used yet.
    let init = unsafe { DeviceInit::from_raw(init) };
    to_status(context.device_add(init, &mut passive))
}

/// `EvtCleanup` of the driver object: the last the driver hears, unloaded or failed.
unsafe extern "C" fn evt_cleanup<D: DriverEvents>(object: WDFOBJECT) {
    // SAFETY: the driver object is cleaned up by the loader's thread, at PASSIVE_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: registered together with `attributes::<D>`; nothing else of the driver runs any more.
    let context = unsafe { context::take::<D>(object) };
    context.iter().for_each(|context| context.cleanup(&mut passive));
}
