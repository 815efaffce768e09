//! Programs: whoever opens a device and sends it IOCTLs.
//!
//! A [`FileHandle`] is a program's handle. CREATE, CLEANUP, CLOSE and `EvtIoInCallerContext` run in
//! the calling thread as a thread of the handle's process, so an access check sees its token; queue
//! handlers do not. Dropping a handle closes it.
//!
//! Source: `facts/kmdf.md` §8-§10; that opening without an enabled interface finds no device is
//! documented.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Wdf;
use super::attributes::ContextType;
use super::device::Device;
use super::file::File;
use super::request::{Major, Mode, Owner, Parameters, Request};
use super::status::{self, NtStatus};
use super::user_buffer::UserBuffer;
use crate::nt::machine::{Call, Level, Machine};
use crate::nt::ps::Process;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// How long CLOSE waits for the driver to complete what it has of a file.
const PATIENCE: Duration = Duration::from_secs(60);

impl Machine {
    /// Opens the first started device with an interface of `class` and `reference`, as `process`.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_NOT_FOUND` when no such interface is enabled, else what the driver said.
    pub fn open(
        &self,
        class: [u8; 16],
        reference: &str,
        process: &Arc<Process>,
    ) -> Result<FileHandle, NtStatus> {
        let has = |device: &&Arc<Device>| {
            let interfaces = device.interfaces();
            device.open.load(Ordering::Acquire)
                && interfaces.iter().any(|known| {
                    known.class == class && known.reference.as_deref() == Some(reference)
                })
        };
        let devices = Wdf::of(self).devices();
        let device = devices.iter().find(has).ok_or(status::OBJECT_NAME_NOT_FOUND)?;
        self.open_device(device, process)
    }

    /// Opens one device, as `process`, by whatever interface it has with a reference string.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_NOT_FOUND` when none is enabled, else what the driver said.
    pub fn open_device(
        &self,
        device: &Arc<Device>,
        process: &Arc<Process>,
    ) -> Result<FileHandle, NtStatus> {
        self.open_by(device, process, Mode::User)
    }

    /// Opens one device as another driver does: its requests, this CREATE included, come from kernel mode, in a
    /// thread of `process`.
    ///
    /// # Errors
    ///
    /// As [`Machine::open_device`].
    pub fn open_device_from_kernel(
        &self,
        device: &Arc<Device>,
        process: &Arc<Process>,
    ) -> Result<FileHandle, NtStatus> {
        self.open_by(device, process, Mode::Kernel)
    }

    fn open_by(
        &self,
        device: &Arc<Device>,
        process: &Arc<Process>,
        mode: Mode,
    ) -> Result<FileHandle, NtStatus> {
        let machine = self.weak().upgrade().ok_or(status::NO_SUCH_DEVICE)?;
        // An interface without a reference string of a network adapter leads to NDIS, not to the driver.
        let reachable = device.interfaces().iter().any(|interface| interface.reference.is_some());
        if !reachable || !device.open.load(Ordering::Acquire) {
            return Err(status::OBJECT_NAME_NOT_FOUND);
        }
        device.handles.fetch_add(1, Ordering::AcqRel);
        let config = device.file_config();
        let context = config.map_or_else(ContextType::default, |config| config.context);
        let file = File::new(&machine, device, context);
        let handle = FileHandle {
            machine,
            file: file.clone(),
            process: process.clone(),
            mode,
            open: AtomicU32::new(0),
        };
        let status = match config.map(|config| config.create).filter(|create| *create != 0) {
            Some(create) => handle.create(create),
            None => status::SUCCESS,
        };
        if !status::is_success(status) {
            file.delete(self);
            return Err(status);
        }
        handle.open.store(1, Ordering::Release);
        Ok(handle)
    }
}

/// A program's open handle of a device.
pub struct FileHandle {
    machine: Arc<Machine>,
    file: Arc<File>,
    process: Arc<Process>,
    mode: Mode,
    open: AtomicU32,
}

impl FileHandle {
    fn create(&self, callback: u64) -> NtStatus {
        let parameters =
            Parameters { major: Major::Create, code: 0, input: &[], output: None, mode: self.mode };
        let request = match Request::new(&self.machine, &self.file, &parameters) {
            Ok(request) => request,
            Err(status) => return status,
        };
        let arguments =
            [self.file.device.handle(), request.object().handle(), self.file.object.handle()];
        self.call(&self.process, "EvtDeviceFileCreate", callback, &arguments);
        request.wait(&self.machine).0
    }

    /// Sends an IOCTL and waits for its completion: status and Information. `output` is what the
    /// program's buffer holds, before and after.
    pub fn device_io_control(&self, code: u32, input: &[u8], output: &mut [u8]) -> (NtStatus, u64) {
        let offset = self.machine.world().random() as usize & 0xFFF;
        let Ok(buffer) = UserBuffer::new(output.len(), offset) else {
            return (status::INSUFFICIENT_RESOURCES, 0);
        };
        buffer.write(0, output);
        let answer = self.device_io_control_shared(code, input, &buffer);
        output.copy_from_slice(&buffer.read(0, output.len()));
        answer
    }

    /// As [`FileHandle::device_io_control`], with a buffer that the program may change meanwhile.
    pub fn device_io_control_shared(
        &self,
        code: u32,
        input: &[u8],
        output: &UserBuffer,
    ) -> (NtStatus, u64) {
        match self.begin(code, input, output) {
            Ok(pending) => pending.wait(output),
            Err(status) => (status, 0),
        }
    }

    /// Sends an IOCTL without waiting, as overlapped I/O does.
    ///
    /// # Errors
    ///
    /// What it was refused with before the driver saw it.
    pub fn begin(&self, code: u32, input: &[u8], output: &UserBuffer) -> Result<Pending, NtStatus> {
        self.begin_in(&self.process, code, input, output)
    }

    /// As [`FileHandle::begin`], from a thread of another process than the one that opened the handle: one that
    /// inherited it or was given a duplicate.
    ///
    /// # Errors
    ///
    /// As [`FileHandle::begin`].
    pub fn begin_in(
        &self,
        process: &Arc<Process>,
        code: u32,
        input: &[u8],
        output: &UserBuffer,
    ) -> Result<Pending, NtStatus> {
        if self.open.load(Ordering::Acquire) == 0 {
            return Err(status::INVALID_DEVICE_STATE);
        }
        let parameters = Parameters {
            major: Major::DeviceControl,
            code,
            input,
            output: Some(output),
            mode: self.mode,
        };
        let request = Request::new(&self.machine, &self.file, &parameters)?;
        let device = &self.file.device;
        if device.in_caller_context() != 0 {
            let arguments = [device.handle(), request.object().handle()];
            self.call(process, "EvtIoInCallerContext", device.in_caller_context(), &arguments);
        } else if let Some(queue) = device.default_queue() {
            request.enter_queue(&queue);
            if queue.push(&self.machine, device, &request).is_err() {
                request.back_to(Owner::CallerContext);
                request.complete(&self.machine, status::INVALID_DEVICE_STATE, 0);
            }
        } else {
            request.complete(&self.machine, status::INVALID_DEVICE_REQUEST, 0);
        }
        Ok(Pending { machine: self.machine.clone(), request })
    }

    /// Closes the handle: CLEANUP, then CLOSE.
    pub fn close(self) {
        drop(self);
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.file.device
    }

    fn call(&self, process: &Arc<Process>, name: &'static str, callback: u64, arguments: &[u64]) {
        let call = Call::new(name, callback as usize, Level::Passive);
        // A stop ends the machine; what waits for an answer gives up by itself.
        let _ = self.machine.as_process(process, || self.machine.call(call, arguments));
    }

    fn cleanup_and_close(&self) {
        let config = self.file.device.file_config();
        let handle = [self.file.object.handle()];
        if let Some(cleanup) = config.map(|config| config.cleanup).filter(|callback| *callback != 0)
        {
            self.call(&self.process, "EvtFileCleanup", cleanup, &handle);
        }
        let queues: Vec<_> = lock(&self.file.device.queues).clone();
        for queue in &queues {
            for request in queue.withdraw(|request| request.is_of(&self.file)) {
                request.cancel_in_queue(&self.machine, Some(queue));
            }
        }
        let all_gone = || (self.file.outstanding.load(Ordering::Acquire) == 0).then_some(());
        let (key, deadline) =
            (Key::of(&self.file.outstanding), self.machine.world().now() + PATIENCE);
        if let Err(Some(_)) =
            self.machine.wait(key, Some(deadline), "the file's requests before CLOSE", all_gone)
        {
            self.machine.die(
                &rules::WDF_DEFERRED_REQUEST_COMPLETED,
                "the driver has kept requests of a closed handle for 60 s",
            );
        }
        if let Some(close) = config.map(|config| config.close).filter(|callback| *callback != 0) {
            let call = Call::new("EvtFileClose", close as usize, Level::Passive);
            // CLOSE comes in an arbitrary process: here System. A stop ends the machine.
            let _ = self.machine.call(call, &handle);
        }
        self.file.delete(&self.machine);
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if self.open.swap(0, Ordering::AcqRel) != 0 && !self.machine.is_dead() {
            self.cleanup_and_close();
        }
        self.file.device.handles.fetch_sub(1, Ordering::AcqRel);
        self.machine.world().wake(Key::of(&self.file.device.handles));
    }
}

/// An IOCTL on its way.
pub struct Pending {
    machine: Arc<Machine>,
    request: Arc<Request>,
}

impl Pending {
    /// Waits for its completion, and copies a buffered answer into `output`.
    pub fn wait(&self, output: &UserBuffer) -> (NtStatus, u64) {
        let (status, information, copied) = self.request.wait(&self.machine);
        output.write(0, &copied);
        (status, information)
    }

    /// The status, if it has been completed.
    #[must_use]
    pub fn poll(&self) -> Option<NtStatus> {
        self.request.result().map(|(status, ..)| status)
    }

    /// `CancelIo`: reaches the request while it is in a queue; `false` if it is not.
    pub fn cancel(&self) -> bool {
        let Some(queue) = self.request.queue().filter(|_| self.request.owner() == Owner::Queue)
        else {
            return false;
        };
        let mut found = queue.withdraw(|request| std::ptr::eq(request, &*self.request));
        let Some(request) = found.pop() else { return false };
        request.cancel_in_queue(&self.machine, Some(&queue));
        true
    }
}
