//! PnP and power: what a device node goes through, and in which order its driver hears of it.
//!
//! All callbacks run at `PASSIVE_LEVEL`, one at a time per device, in whatever thread asks for the
//! transition. A class extension (NetAdapterCx) is told before or after the driver as KMDF does.
//!
//! Source: `facts/kmdf.md` §7 (`irphandlers/pnp`, read in Microsoft's source).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::nt::wdf::device::{Device, PnpCallback};
use crate::nt::wdf::status::{self, NtStatus};
use crate::nt::wdf::{Wdf, driver};
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

const D3: u64 = 4;
const D3_FINAL: u64 = 5;
/// What the driver gets as its resource lists: a virtual device has none.
const NO_RESOURCES: u64 = 0xFFFF_8A60_0000_0000;
/// How long a removal waits for programs to close their handles.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Added,
    Working,
    Asleep,
    Stopped,
    Gone,
}

struct Node {
    stand: Stand,
    self_managed: bool,
}

/// A device of the driver, from `EvtDriverDeviceAdd` to its removal.
///
/// Dropping it removes the device as [`DeviceNode::remove`] does.
pub struct DeviceNode {
    machine: Arc<Machine>,
    device: Arc<Device>,
    node: Mutex<Node>,
}

impl Machine {
    /// Finds a new device: `EvtDriverDeviceAdd`.
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the status with which the driver declined.
    pub fn add_device(&self) -> Result<Result<DeviceNode, NtStatus>, Dead> {
        let machine = self.weak().upgrade().ok_or(Dead)?;
        let device = match driver::add_device(&machine)? {
            Ok(device) => device,
            Err(status) => return Ok(Err(status)),
        };
        let node = Mutex::new(Node { stand: Stand::Added, self_managed: false });
        Ok(Ok(DeviceNode { machine, device, node }))
    }

    /// Registers the framework's part of the audit after the driver's unload.
    pub fn audit_frameworks(&self) {
        self.at_unload(|machine, leaks| {
            for (kind, handle, references) in Wdf::of(machine).objects.alive() {
                let detail =
                    format!("{} {handle:#x}, {references} references of the driver", kind.name());
                leaks.push(Leak::new("framework object", detail));
            }
        });
    }
}

impl DeviceNode {
    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Whether the driver has declared it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.device.failed().is_some()
    }

    /// Starts the device, the first time or after [`DeviceNode::stop`].
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the status with which the driver failed. It then has been undone and the
    /// device waits to be removed.
    pub fn start(&self) -> Result<Result<(), NtStatus>, Dead> {
        let extension = self.device.extension();
        if let Some(extension) = &extension {
            extension.pre_prepare_hardware(&self.machine)?;
        }
        let resources = [self.device.handle(), NO_RESOURCES, NO_RESOURCES + 0x10];
        let status = self.status_of(PnpCallback::PrepareHardware, &resources)?;
        if !status::is_success(status) {
            self.release_hardware()?;
            return Ok(Err(status));
        }
        if let Err(status) = self.power_up_from(D3_FINAL)? {
            self.release_hardware()?;
            return Ok(Err(status));
        }
        self.device.open.store(true, Ordering::Release);
        if let Some(extension) = &extension {
            extension.interfaces_arrived(&self.machine)?;
        }
        lock(&self.node).stand = Stand::Working;
        Ok(Ok(()))
    }

    /// The system goes to sleep: D3, with the interfaces left enabled.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn sleep(&self) -> Result<(), Dead> {
        self.power_down_to(D3)?;
        lock(&self.node).stand = Stand::Asleep;
        Ok(())
    }

    /// The system wakes up.
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the status with which the driver failed.
    pub fn wake(&self) -> Result<Result<(), NtStatus>, Dead> {
        let result = self.power_up_from(D3)?;
        lock(&self.node).stand = Stand::Working;
        Ok(result)
    }

    /// Stops the device for a rebalance; [`DeviceNode::start`] may follow on the same `WDFDEVICE`.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn stop(&self) -> Result<(), Dead> {
        self.power_down_to(D3_FINAL)?;
        self.release_hardware()?;
        lock(&self.node).stand = Stand::Stopped;
        Ok(())
    }

    /// Asks to remove the device, which somebody else refuses (a program that has it open, another driver): after the driver's
    /// `EvtDeviceQueryRemove` the removal is cancelled. The device stays in D0 all the while, and hears of nothing else.
    ///
    /// Source: `facts/kmdf.md` 7 (QUERY_REMOVE, CANCEL).
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the status if it is the driver that refuses.
    pub fn query_remove_in_vain(&self) -> Result<Result<(), NtStatus>, Dead> {
        let status = self.status_of(PnpCallback::QueryRemove, &[self.device.handle()])?;
        Ok(if status::is_success(status) { Ok(()) } else { Err(status) })
    }

    /// Disables or uninstalls the device: the driver may veto.
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the status with which the driver refuses: the device goes on.
    pub fn remove(self) -> Result<Result<(), (Self, NtStatus)>, Dead> {
        let status = self.status_of(PnpCallback::QueryRemove, &[self.device.handle()])?;
        if !status::is_success(status) {
            return Ok(Err((self, status)));
        }
        self.take_down(false)?;
        Ok(Ok(()))
    }

    /// The device is gone without warning. Programs still have handles; REMOVE waits until they
    /// close them, so close them from another thread or before.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn surprise_remove(self) -> Result<(), Dead> {
        self.take_down(true)
    }

    fn take_down(&self, surprise: bool) -> Result<(), Dead> {
        let stand = std::mem::replace(&mut lock(&self.node).stand, Stand::Gone);
        if stand == Stand::Gone {
            return Ok(());
        }
        let extension = self.device.extension();
        if surprise {
            if let Some(extension) = &extension {
                extension.pre_surprise_removal(&self.machine)?;
            }
            self.notify(PnpCallback::SurpriseRemoval)?;
        }
        if stand == Stand::Working {
            self.power_down_to(D3_FINAL)?;
        }
        if matches!(stand, Stand::Working | Stand::Asleep) {
            self.release_hardware()?;
        }
        self.device.open.store(false, Ordering::Release);
        self.device.purge(&self.machine, true);
        if lock(&self.node).self_managed {
            self.notify(PnpCallback::SelfManagedIoFlush)?;
        }
        self.device.purge(&self.machine, false);
        self.wait_for_handles();
        if std::mem::take(&mut lock(&self.node).self_managed) {
            self.notify(PnpCallback::SelfManagedIoCleanup)?;
        }
        if let Some(extension) = &extension {
            extension.cleanup(&self.machine)?;
        }
        self.device.delete(&self.machine);
        if self.machine.is_dead() { Err(Dead) } else { Ok(()) }
    }

    fn wait_for_handles(&self) {
        let closed = || (self.device.handles.load(Ordering::Acquire) == 0).then_some(());
        let deadline = self.machine.world().now() + PATIENCE;
        let key = Key::of(&self.device.handles);
        if let Err(Some(_)) =
            self.machine.wait(key, Some(deadline), "programs to close their handles", closed)
        {
            self.machine.die(
                &rules::SIMULATOR,
                "a device is removed while a program keeps its handle for 60 s",
            );
        }
    }

    fn power_up_from(&self, from: u64) -> Result<Result<(), NtStatus>, Dead> {
        let handle = self.device.handle();
        let status = self.status_of(PnpCallback::D0Entry, &[handle, from])?;
        if !status::is_success(status) {
            return Ok(Err(status));
        }
        let status = self.status_of(PnpCallback::D0EntryPostInterruptsEnabled, &[handle, from])?;
        if !status::is_success(status) {
            return Ok(Err(status));
        }
        if let Some(extension) = self.device.extension() {
            extension.post_d0_entry(&self.machine)?;
        }
        self.device.set_power(&self.machine, true);
        let first = !std::mem::replace(&mut lock(&self.node).self_managed, true);
        let callback =
            if first { PnpCallback::SelfManagedIoInit } else { PnpCallback::SelfManagedIoRestart };
        let status = self.status_of(callback, &[handle])?;
        Ok(if status::is_success(status) { Ok(()) } else { Err(status) })
    }

    fn power_down_to(&self, target: u64) -> Result<(), Dead> {
        let handle = self.device.handle();
        if lock(&self.node).self_managed {
            self.status_of(PnpCallback::SelfManagedIoSuspend, &[handle])?;
        }
        self.device.set_power(&self.machine, false);
        if let Some(extension) = self.device.extension() {
            extension.pre_d0_exit(&self.machine, target == D3_FINAL)?;
        }
        self.status_of(PnpCallback::D0ExitPreInterruptsDisabled, &[handle, target])?;
        self.status_of(PnpCallback::D0Exit, &[handle, target])?;
        Ok(())
    }

    fn release_hardware(&self) -> Result<(), Dead> {
        if let Some(extension) = self.device.extension() {
            extension.pre_release_hardware(&self.machine)?;
        }
        self.status_of(PnpCallback::ReleaseHardware, &[self.device.handle(), NO_RESOURCES])?;
        Ok(())
    }

    fn notify(&self, callback: PnpCallback) -> Result<(), Dead> {
        self.status_of(callback, &[self.device.handle()]).map(drop)
    }

    fn status_of(&self, callback: PnpCallback, arguments: &[u64]) -> Result<NtStatus, Dead> {
        let address = self.device.pnp(callback);
        if address == 0 {
            return Ok(status::SUCCESS);
        }
        let call = Call::new(callback.name(), address as usize, Level::Passive);
        Ok(self.machine.call(call, arguments)? as NtStatus)
    }
}

impl Drop for DeviceNode {
    fn drop(&mut self) {
        if !self.machine.is_dead() {
            // A stop is in the machine's report; nobody else asks here.
            let _ = self.take_down(false);
        }
    }
}

impl PnpCallback {
    fn name(self) -> &'static str {
        match self {
            Self::D0Entry => "EvtDeviceD0Entry",
            Self::D0EntryPostInterruptsEnabled => "EvtDeviceD0EntryPostInterruptsEnabled",
            Self::D0Exit => "EvtDeviceD0Exit",
            Self::D0ExitPreInterruptsDisabled => "EvtDeviceD0ExitPreInterruptsDisabled",
            Self::PrepareHardware => "EvtDevicePrepareHardware",
            Self::ReleaseHardware => "EvtDeviceReleaseHardware",
            Self::SelfManagedIoCleanup => "EvtDeviceSelfManagedIoCleanup",
            Self::SelfManagedIoFlush => "EvtDeviceSelfManagedIoFlush",
            Self::SelfManagedIoInit => "EvtDeviceSelfManagedIoInit",
            Self::SelfManagedIoSuspend => "EvtDeviceSelfManagedIoSuspend",
            Self::SelfManagedIoRestart => "EvtDeviceSelfManagedIoRestart",
            Self::SurpriseRemoval => "EvtDeviceSurpriseRemoval",
            Self::QueryRemove => "EvtDeviceQueryRemove",
        }
    }
}
