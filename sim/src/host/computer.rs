//! A simulated computer with the driver on it, and its tunnels: what every user of the simulator builds on.
//!
//! [`Computer`] is a machine joined to a network, with the driver loaded. [`Tunnel`] is one device
//! of that driver: its adapter, and an administrator's open handle for the IOCTLs. The order of
//! taking down is Windows': handles closed, devices removed, driver unloaded, leftovers counted.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use abi::ioctl::{self, AdapterState};
use abi::policy::Policy;
use abi::statistics;

use super::Outer;
use crate::loader::pe::LoadError;
use crate::nt::machine::{Dead, Machine, Options, Power};
use crate::nt::netcx::NetCx;
use crate::nt::netcx::adapter::Adapter;
use crate::nt::pnp::DeviceNode;
use crate::nt::ps::Process;
use crate::nt::se::Token;
use crate::nt::wdf::requestor::FileHandle;
use crate::nt::{netio, wsk};
use crate::verifier::report::Leak;
use crate::verifier::schedule::World;

/// STATUS_BUFFER_OVERFLOW: the answer is longer than the buffer.
const BUFFER_OVERFLOW: i32 = 0x8000_0005_u32 as i32;
/// How often a GET is tried whose answer grows meanwhile.
const GET_TRIES: usize = 8;

/// Why a computer or a tunnel did not come up.
#[derive(Debug)]
pub enum BootError {
    /// The file is no driver that can be loaded.
    Load(LoadError),
    /// The driver stopped the machine; the report.
    Stopped(String),
    /// `DriverEntry` failed with this status.
    Entry(i32),
    /// The driver would not have, or could not start, its device: what, and the status.
    Device(&'static str, i32),
    /// The device has no network adapter.
    NoAdapter,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "{error}"),
            Self::Stopped(report) => write!(f, "the driver stopped the machine:\n{report}"),
            Self::Entry(status) => write!(f, "DriverEntry failed with {status:#010x}"),
            Self::Device(what, status) => write!(f, "{what} failed with {status:#010x}"),
            Self::NoAdapter => f.write_str("the driver's device made no network adapter"),
        }
    }
}

impl std::error::Error for BootError {}

impl From<LoadError> for BootError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// A machine on a network, with the driver loaded.
pub struct Computer {
    power: Power,
}

impl Computer {
    /// Boots a machine, joins it to `outer`, and loads and starts the driver.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn boot(
        world: &Arc<World>,
        options: Options,
        outer: Arc<dyn Outer>,
        driver: &Path,
    ) -> Result<Self, BootError> {
        let power = Machine::boot(world, options);
        netio::attach(&power, &outer);
        wsk::attach(&power, outer);
        power.audit_frameworks();
        let computer = Self { power };
        computer.load(driver)?;
        Ok(computer)
    }

    /// Loads and starts the driver, again after [`Computer::unload`].
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn load(&self, driver: &Path) -> Result<(), BootError> {
        self.power.load(driver)?;
        let status = self.power.start().map_err(|Dead| self.stopped())?;
        if status < 0 {
            // What is left behind by a failed DriverEntry is a matter for tests, not for this error.
            let _ = self.power.unmap();
            return Err(BootError::Entry(status));
        }
        Ok(())
    }

    /// Unloads the driver and says what it left behind.
    ///
    /// # Errors
    ///
    /// The report, if the machine stopped.
    pub fn unload(&self) -> Result<Vec<Leak>, BootError> {
        self.power.unload().map_err(|Dead| self.stopped())
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.power
    }

    /// Plugs in a device: the driver makes an adapter for it.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn add_tunnel(&self) -> Result<Tunnel, BootError> {
        let machine: &Arc<Machine> = &self.power;
        let added = machine.add_device().map_err(|Dead| self.stopped())?;
        let node = added.map_err(|status| BootError::Device("EvtDriverDeviceAdd", status))?;
        let started = node.start().map_err(|Dead| self.stopped())?;
        started.map_err(|status| BootError::Device("starting the device", status))?;
        let adapters = NetCx::of(machine).adapters();
        let own = adapters.into_iter().find(|adapter| Arc::ptr_eq(&adapter.device, node.device()));
        let adapter = own.ok_or(BootError::NoAdapter)?;
        let process = Process::start("administrator", Token::administrator());
        let handle = machine.open_device(node.device(), &process);
        let handle = handle.map_err(|status| BootError::Device("opening the device", status))?;
        Ok(Tunnel { machine: machine.clone(), adapter, handle, node })
    }

    fn stopped(&self) -> BootError {
        BootError::Stopped(report(&self.power))
    }
}

/// Why `machine` stopped, in words.
#[must_use]
pub fn report(machine: &Machine) -> String {
    machine.stop_report().map_or_else(|| "no report".to_owned(), |stop| stop.to_string())
}

/// One device of the driver and an administrator's handle of it.
pub struct Tunnel {
    machine: Arc<Machine>,
    adapter: Arc<Adapter>,
    handle: FileHandle,
    node: DeviceNode,
}

impl Tunnel {
    /// Its adapter.
    #[must_use]
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// The machine it is on.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Its open handle, for IOCTLs that have no method here.
    #[must_use]
    pub fn handle(&self) -> &FileHandle {
        &self.handle
    }

    /// Applies a configuration (WG_IOCTL_SET).
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set(&self, configuration: &[u8]) -> Result<(), i32> {
        // METHOD_IN_DIRECT: the data is in the output buffer.
        let mut buffer = configuration.to_vec();
        let (status, _) = self.handle.device_io_control(ioctl::SET, &[], &mut buffer);
        check(status)
    }

    /// Reads the configuration (WG_IOCTL_GET).
    ///
    /// # Errors
    ///
    /// The status.
    pub fn get(&self) -> Result<Vec<u8>, i32> {
        let mut buffer = vec![0; 4096];
        let mut last = BUFFER_OVERFLOW;
        for _ in 0..GET_TRIES {
            let (status, length) = self.handle.device_io_control(ioctl::GET, &[], &mut buffer);
            last = status;
            let length = usize::try_from(length).unwrap_or(0);
            if status != BUFFER_OVERFLOW {
                check(status)?;
                buffer.truncate(length);
                return Ok(buffer);
            }
            buffer.resize(length.max(buffer.len()), 0);
        }
        Err(last)
    }

    /// Brings the adapter up or down (WG_IOCTL_SET_ADAPTER_STATE).
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set_state(&self, state: AdapterState) -> Result<(), i32> {
        let word = (state as u32).to_le_bytes();
        let (status, _) = self.handle.device_io_control(ioctl::SET_ADAPTER_STATE, &word, &mut []);
        check(status)
    }

    /// Reads the counters (our own IOCTL); parse them with [`statistics::Statistics::parse`].
    ///
    /// # Errors
    ///
    /// The status.
    pub fn statistics(&self) -> Result<Vec<u8>, i32> {
        let mut block = vec![0; statistics::ROOM];
        let (status, length) =
            self.handle.device_io_control(ioctl::GET_STATISTICS, &[], &mut block);
        check(status)?;
        block.truncate(usize::try_from(length).unwrap_or(0));
        Ok(block)
    }

    /// Sets values of the driver's Parameters key, removes those that are `None`, and has the driver read it anew (our own
    /// IOCTL): what an administrator does.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set_policy(&self, values: &[(Policy, Option<u32>)]) -> Result<(), i32> {
        let (registry, key) = (self.machine.registry(), self.machine.parameters_key());
        for (policy, value) in values {
            match value {
                Some(value) => registry.set_u32(&key, policy.name(), *value),
                None => registry.remove(&key, policy.name()),
            }
        }
        let (status, _) = self.handle.device_io_control(ioctl::RELOAD_POLICY, &[], &mut []);
        check(status)
    }

    /// The system goes to sleep: the device leaves D0, handles stay open.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped.
    pub fn sleep(&self) -> Result<(), BootError> {
        self.node.sleep().map_err(|Dead| BootError::Stopped(report(&self.machine)))
    }

    /// It wakes up.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped, or the device does not come back.
    pub fn wake(&self) -> Result<(), BootError> {
        let woken = self.node.wake().map_err(|Dead| BootError::Stopped(report(&self.machine)))?;
        woken.map_err(|status| BootError::Device("waking the device", status))
    }

    /// Somebody asks to remove the device, and somebody else refuses: it goes on.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped, or it was the driver that refused.
    pub fn query_remove_in_vain(&self) -> Result<(), BootError> {
        let asked = self.node.query_remove_in_vain();
        let asked = asked.map_err(|Dead| BootError::Stopped(report(&self.machine)))?;
        asked.map_err(|status| BootError::Device("asking to remove the device", status))
    }

    /// Stops the device and starts it again, as for other resources.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped, or the device does not start.
    pub fn rebalance(&self) -> Result<(), BootError> {
        let stopped = |Dead| BootError::Stopped(report(&self.machine));
        self.node.stop().map_err(stopped)?;
        let started = self.node.start().map_err(stopped)?;
        started.map_err(|status| BootError::Device("starting the device again", status))
    }

    /// Closes the handle and removes the device.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped, or the driver refused.
    pub fn remove(self) -> Result<(), BootError> {
        let Self { machine, adapter, handle, node } = self;
        handle.close();
        drop(adapter);
        match node.remove() {
            Ok(Ok(())) => Ok(()),
            Ok(Err((_, status))) => Err(BootError::Device("removing the device", status)),
            Err(Dead) => Err(BootError::Stopped(report(&machine))),
        }
    }

    /// Closes the handle; then the device is gone without warning, whatever it was doing.
    ///
    /// # Errors
    ///
    /// [`BootError`]: the machine stopped.
    pub fn pull_out(self) -> Result<(), BootError> {
        let Self { machine, adapter, handle, node } = self;
        handle.close();
        drop(adapter);
        node.surprise_remove().map_err(|Dead| BootError::Stopped(report(&machine)))
    }
}

fn check(status: i32) -> Result<(), i32> {
    if status < 0 { Err(status) } else { Ok(()) }
}
