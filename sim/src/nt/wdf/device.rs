//! `WDFDEVICE_INIT` and `WDFDEVICE`: what a driver sets before and after it makes a device.
//!
//! Windows ignores a setter it does not like; here it stops, because the callbacks would silently
//! never come. What a class extension hooks into the device's life is [`ClassExtension`].
//!
//! Source: `facts/kmdf.md` §5, §6 (`core/fxdeviceinitapi.cpp`, `core/fxdeviceapi.cpp`, read in
//! Microsoft's source).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::attributes::{self, Attributes, ContextType};
use super::driver_memory::Address;
use super::file::FileConfig;
use super::object::{Kind, Object};
use super::queue::Queue;
use super::status::{self, NtStatus};
use super::{Entered, Wdf};
use crate::nt::imports;
use crate::nt::machine::{Dead, Machine};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// What a class extension does in a device's life, around the driver's own callbacks.
pub(crate) trait ClassExtension: Send + Sync {
    /// Before `EvtDevicePrepareHardware`.
    fn pre_prepare_hardware(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
    /// After `EvtDeviceD0EntryPostInterruptsEnabled`.
    fn post_d0_entry(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
    /// After the start: the device's interfaces have arrived.
    fn interfaces_arrived(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
    /// Before `EvtDeviceD0ExitPreInterruptsDisabled`; `last` for D3Final.
    fn pre_d0_exit(&self, machine: &Arc<Machine>, last: bool) -> Result<(), Dead>;
    /// Before `EvtDeviceReleaseHardware`.
    fn pre_release_hardware(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
    /// Before `EvtDeviceSurpriseRemoval`.
    fn pre_surprise_removal(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
    /// The device goes for good.
    fn cleanup(&self, machine: &Arc<Machine>) -> Result<(), Dead>;
}

/// `WDF_PNPPOWER_EVENT_CALLBACKS`, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PnpCallback {
    D0Entry = 1,
    D0EntryPostInterruptsEnabled = 2,
    D0Exit = 3,
    D0ExitPreInterruptsDisabled = 4,
    PrepareHardware = 5,
    ReleaseHardware = 6,
    SelfManagedIoCleanup = 7,
    SelfManagedIoFlush = 8,
    SelfManagedIoInit = 9,
    SelfManagedIoSuspend = 10,
    SelfManagedIoRestart = 11,
    SurpriseRemoval = 12,
    QueryRemove = 13,
}

#[derive(Clone, Default)]
struct Settings {
    pnp: [u64; 18],
    file: Option<FileConfig>,
    in_caller_context: u64,
    request: ContextType,
    extension: Option<Arc<dyn ClassExtension>>,
    /// A control device's, not PnP's.
    is_control: bool,
}

/// `WDFDEVICE_INIT`.
#[derive(Default)]
pub struct DeviceInit {
    settings: Mutex<Settings>,
    device: Mutex<Option<Arc<Device>>>,
}

const FIRST_INIT: u64 = 0xFFFF_8A70_0000_0000;

impl DeviceInit {
    /// Makes one for `EvtDriverDeviceAdd`, and its opaque address.
    pub(crate) fn new(machine: &Machine, wdf: &Wdf) -> (u64, Arc<Self>) {
        let init = Arc::new(Self::default());
        let mut state = lock(&wdf.state);
        let handle = FIRST_INIT + (machine.world().random() & 0xFFFF_FFF0);
        state.inits.push((handle, init.clone()));
        (handle, init)
    }

    /// Ends its validity.
    pub(crate) fn free(_: &Machine, wdf: &Wdf, handle: u64) {
        lock(&wdf.state).inits.retain(|(known, _)| *known != handle);
    }

    /// The device that was made from it.
    pub(crate) fn take_device(&self) -> Option<Arc<Device>> {
        lock(&self.device).take()
    }

    /// Hooks a class extension in; `false` if one is there.
    pub(crate) fn set_extension(&self, extension: Arc<dyn ClassExtension>) -> bool {
        lock(&self.settings).extension.replace(extension).is_none()
    }

    /// Makes it one of a control device.
    pub(crate) fn set_control(&self) {
        lock(&self.settings).is_control = true;
    }

    /// Whether it is one of a control device.
    pub(crate) fn is_control(&self) -> bool {
        lock(&self.settings).is_control
    }

    /// Whether the device has been made.
    pub(crate) fn is_consumed(&self) -> bool {
        lock(&self.device).is_some()
    }
}

impl Entered<'_> {
    /// The `WDFDEVICE_INIT` at `address`; `None` after a stop.
    pub(crate) fn init(&self, address: u64) -> Option<Arc<DeviceInit>> {
        let known = {
            let state = lock(&self.wdf.state);
            state.inits.iter().find(|(known, _)| *known == address).map(|(_, init)| init.clone())
        };
        if known.is_none() {
            self.violation(
                &rules::WDF_DEVICE_INIT,
                format!("{address:#x} is no WDFDEVICE_INIT, or one that is gone"),
            );
        }
        known
    }
}

/// A device interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its class, as the 16 bytes of a `GUID`.
    pub class: [u8; 16],
    /// Its reference string.
    pub reference: Option<String>,
}

/// A `WDFDEVICE`.
pub struct Device {
    object: Arc<Object>,
    settings: Settings,
    interfaces: Mutex<Vec<Interface>>,
    /// Whether the interfaces are enabled.
    pub(crate) open: AtomicBool,
    /// Set by `WdfDeviceSetFailed`: the action.
    failed: AtomicU32,
    /// Cleared when the device goes: ends the delivering threads.
    pub(crate) delivering: AtomicBool,
    pub(crate) queues: Mutex<Vec<Arc<Queue>>>,
    /// User handles that are open, waited for before removal.
    pub(crate) handles: AtomicU32,
    /// The `DEVICE_OBJECT` that file objects and IRPs point at.
    pub(crate) device_object: u64,
}

const DEVICE_OBJECT_SIZE: usize = 336;
const PNP_CALLBACKS_SIZE: u32 = 144;
const FILE_CONFIG_SIZE: u32 = 40;

impl Device {
    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.object.handle()
    }

    /// Its object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The interfaces it has registered.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        lock(&self.interfaces).clone()
    }

    /// The action of `WdfDeviceSetFailed`, once called: 1 to restart, 2 not to.
    #[must_use]
    pub fn failed(&self) -> Option<u32> {
        Some(self.failed.load(Ordering::Acquire)).filter(|action| *action != 0)
    }

    /// Address of a PnP callback, or 0.
    pub(crate) fn pnp(&self, callback: PnpCallback) -> u64 {
        self.settings.pnp[callback as usize]
    }

    /// `EvtIoInCallerContext`, or 0.
    pub(crate) fn in_caller_context(&self) -> u64 {
        self.settings.in_caller_context
    }

    /// How file objects are made.
    pub(crate) fn file_config(&self) -> Option<FileConfig> {
        self.settings.file
    }

    /// The context of each request.
    pub(crate) fn request_context(&self) -> ContextType {
        self.settings.request
    }

    /// Whether the driver made it for itself.
    pub(crate) fn is_control(&self) -> bool {
        self.settings.is_control
    }

    /// The class extension that hooked itself in.
    pub(crate) fn extension(&self) -> Option<Arc<dyn ClassExtension>> {
        self.settings.extension.clone()
    }

    /// Marks the device as failed, as `WdfDeviceSetFailed` does.
    pub(crate) fn set_failed(&self, machine: &Machine, action: u32) {
        self.failed.store(action, Ordering::Release);
        machine.world().wake(Key::of(&self.failed));
    }

    /// Deletes the device: all children are cleaned up, then it.
    pub(crate) fn delete(&self, machine: &Arc<Machine>) {
        let wdf = Wdf::of(machine);
        self.stop_delivering(machine);
        wdf.objects.delete(&**machine, &self.object);
        lock(&wdf.state).devices.retain(|device| device.handle() != self.handle());
        machine.release(self.device_object as usize);
    }
}

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Sets the callback that sees each request in its requestor's thread.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 5"]
    fn WdfDeviceInitSetIoInCallerContextCallback(thread, globals: u64, init: u64, callback: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(init) = entered.init(init) else { return };
        if entered.required("EvtIoInCallerContext", callback).is_some() {
            lock(&init.settings).in_caller_context = callback;
        }
    }

    /// Sets the file object callbacks and context.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 5, 10"]
    fn WdfDeviceInitSetFileObjectConfig(thread, globals: u64, init: u64, config: u64, attributes: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(init) = entered.init(init) else { return };
        let Some(config) = entered.required("FileObjectConfig", config) else { return };
        if config.read::<u32>(0) != FILE_CONFIG_SIZE {
            entered.violation(&rules::WDF_IGNORED_CALL, "WdfDeviceInitSetFileObjectConfig: wrong Size; Windows ignores the call");
            return;
        }
        let attributes = match Attributes::read(Address(attributes), attributes::FILE_OBJECT) {
            Ok(attributes) => attributes,
            Err(status) => {
                entered.violation(&rules::WDF_IGNORED_CALL, format!("WdfDeviceInitSetFileObjectConfig: attributes refused with {status:#x}; Windows ignores the call"));
                return;
            }
        };
        let [_, create, close, cleanup, forward_class] = config.words::<5>(0);
        let class = (forward_class >> 32) as u32 & 0x7FFF_FFFF;
        if class == 0 || class > 4 {
            entered.violation(&rules::WDF_IGNORED_CALL, format!("WdfDeviceInitSetFileObjectConfig: FileObjectClass {class}"));
            return;
        }
        if class == 2 {
            entered.violation(&rules::WDF_FS_CONTEXT, "FileObjectClass WdfFileObjectWdfCanUseFsContext: NetAdapterCx uses FsContext itself");
            return;
        }
        lock(&init.settings).file = Some(FileConfig { create, close, cleanup, context: attributes.context });
    }

    /// Sets the PnP and power callbacks.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 5, 7"]
    fn WdfDeviceInitSetPnpPowerEventCallbacks(thread, globals: u64, init: u64, callbacks: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(init) = entered.init(init) else { return };
        let Some(callbacks) = entered.required("PnpPowerEventCallbacks", callbacks) else { return };
        if callbacks.read::<u32>(0) != PNP_CALLBACKS_SIZE {
            entered.violation(&rules::WDF_IGNORED_CALL, "WdfDeviceInitSetPnpPowerEventCallbacks: wrong Size; Windows ignores the call");
            return;
        }
        lock(&init.settings).pnp = callbacks.words(0);
    }

    /// Sets the context of each request.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 5"]
    fn WdfDeviceInitSetRequestAttributes(thread, globals: u64, init: u64, attributes: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(init) = entered.init(init) else { return };
        let Some(attributes) = entered.required("RequestAttributes", attributes) else { return };
        match Attributes::read(attributes, attributes::REQUEST) {
            Ok(attributes) => lock(&init.settings).request = attributes.context,
            Err(status) => {
                entered.violation(&rules::WDF_IGNORED_CALL, format!("WdfDeviceInitSetRequestAttributes: refused with {status:#x}; Windows ignores the call"));
            }
        }
    }

    /// Makes the device.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 6", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfDeviceCreate(thread, globals: u64, init: u64, attributes: u64, device: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        create(&entered, init, attributes, device)
    }

    /// Registers an interface; programs find it once the device has started.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 6", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfDeviceCreateDeviceInterface(thread, globals: u64, device: u64, class: u64, reference: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(device) = entered.body::<Device>(device, Kind::Device) else { return 0 };
        let Some(class) = entered.required("InterfaceClassGUID", class) else { return 0 };
        let class: [u8; 16] = std::array::from_fn(|index| class.read(index as u64));
        let reference = Address(reference).unicode_string();
        lock(&device.interfaces).push(Interface { class, reference });
        status::SUCCESS
    }

    /// Gives the device up; PnP removes it later.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 6"]
    fn WdfDeviceSetFailed(thread, globals: u64, device: u64, action: u32) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(device) = entered.body::<Device>(device, Kind::Device) else { return };
        if !(1..=2).contains(&action) {
            entered.violation(&rules::WDF_IGNORED_CALL, format!("WdfDeviceSetFailed: action {action}; Windows ignores the call"));
            return;
        }
        device.set_failed(&entered.machine, action);
    }
}

fn create(entered: &Entered<'_>, init_variable: u64, attributes: u64, device_out: u64) -> NtStatus {
    let Some(init_variable) = entered.required("DeviceInit", init_variable) else { return 0 };
    let Some(device_out) = entered.required("Device", device_out) else { return 0 };
    device_out.write(0, 0_u64);
    let init_handle: u64 = init_variable.read(0);
    let Some(init) = entered.init(init_handle) else { return 0 };
    if init.is_consumed() {
        return status::INVALID_DEVICE_STATE;
    }
    let attributes = match Attributes::read(Address(attributes), attributes::DRIVER_OR_DEVICE) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    let Some(driver) = entered.wdf.driver() else { return status::INVALID_DEVICE_STATE };
    let settings = lock(&init.settings).clone();
    let machine = &entered.machine;
    let object = entered.wdf.objects.create(
        &**machine,
        Kind::Device,
        attributes.context,
        Some(&driver.object),
    );
    let device_object = machine.allocate(DEVICE_OBJECT_SIZE) as u64;
    let device = Arc::new(Device {
        object: object.clone(),
        settings,
        interfaces: Mutex::default(),
        open: AtomicBool::new(false),
        failed: AtomicU32::new(0),
        delivering: AtomicBool::new(true),
        queues: Mutex::default(),
        handles: AtomicU32::new(0),
        device_object,
    });
    object.set_body(device.clone());
    if device.is_control() {
        lock(&entered.wdf.state).control_devices.push(device);
        DeviceInit::free(machine, &entered.wdf, init_handle);
    } else {
        lock(&entered.wdf.state).devices.push(device.clone());
        device.start_delivering(machine);
        *lock(&init.device) = Some(device);
    }
    device_out.write(0, object.handle());
    init_variable.write(0, 0_u64);
    status::SUCCESS
}
