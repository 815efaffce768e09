//! `WDFREQUEST`: who has it, what it carries, and how it is completed exactly once.
//!
//! A completed request's handle is never valid again, so a second completion is seen for the whole
//! life of the machine. Its buffers are gone when it is completed, too: an access faults.
//!
//! Source: `facts/kmdf.md` §9 (`core/fxrequest.cpp`, `core/fxrequestapi.cpp`, read in Microsoft's
//! source).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::device::Device;
use super::driver_memory::Address;
use super::file::File;
use super::object::{Kind, Object, Objects};
use super::queue::Queue;
use super::status::{self, NtStatus};
use super::user_buffer::{Mapping, UserBuffer};
use super::{Entered, Wdf};
use crate::nt::imports;
use crate::nt::machine::{Call, Level, Machine};
use crate::nt::pool;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// Who has a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// `EvtIoInCallerContext` or `EvtDeviceFileCreate`, in the requestor's thread.
    CallerContext,
    /// A queue.
    Queue,
    /// The driver, after a queue has presented it.
    Driver,
    /// Nobody: it has been completed.
    Completed,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    /// `IRP_MJ_CREATE`.
    Create,
    /// `IRP_MJ_DEVICE_CONTROL`.
    DeviceControl,
}

/// Where a request comes from (`KPROCESSOR_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// `KernelMode`: another driver.
    Kernel = 0,
    /// `UserMode`: a program.
    User = 1,
}

const METHOD_BUFFERED: u32 = 0;
const METHOD_NEITHER: u32 = 3;
const MORE_PROCESSING_REQUIRED: NtStatus = 0xC000_0016_u32.cast_signed();
const POISON: u8 = 0xCD;
const IRP_SIZE: usize = 208;
const STACK_LOCATION: usize = 72;
const REQUEST_PARAMETERS_SIZE: u16 = 40;
const TYPE_CREATE: u32 = 0;
const TYPE_DEVICE_CONTROL: u32 = 14;
/// What `GENERIC_READ | GENERIC_WRITE` of a file is.
const FILE_READ_WRITE: u32 = 0x0012_019F;

struct State {
    owner: Owner,
    queue: Option<Arc<Queue>>,
    presented: bool,
    mapping: Option<Mapping>,
    result: Option<(NtStatus, u64, Vec<u8>)>,
}

/// The simulator's part of a `WDFREQUEST`.
pub(crate) struct Request {
    object: Arc<Object>,
    device: Arc<Device>,
    file: Arc<File>,
    major: Major,
    code: u32,
    mode: Mode,
    input: usize,
    output: usize,
    irp: Address,
    system_buffer: u64,
    extra: Vec<u64>,
    state: Mutex<State>,
}

/// What a program passes to `DeviceIoControl`.
pub(crate) struct Parameters<'p> {
    pub(crate) major: Major,
    pub(crate) code: u32,
    pub(crate) input: &'p [u8],
    pub(crate) output: Option<&'p UserBuffer>,
    pub(crate) mode: Mode,
}

impl Request {
    /// Makes a request with its IRP and buffers.
    ///
    /// # Errors
    ///
    /// `STATUS_INSUFFICIENT_RESOURCES` if the host has no memory for a mapping.
    pub(crate) fn new(
        machine: &Machine,
        file: &Arc<File>,
        parameters: &Parameters<'_>,
    ) -> Result<Arc<Self>, NtStatus> {
        let device = file.device.clone();
        let method = parameters.code & 3;
        let output = parameters.output.map_or(0, UserBuffer::len);
        let direct =
            parameters.major == Major::DeviceControl && matches!(method, 1 | 2) && output > 0;
        let mapping = match parameters.output.filter(|_| direct) {
            Some(buffer) => Some(buffer.lock(machine).map_err(|_| status::INSUFFICIENT_RESOURCES)?),
            None => None,
        };
        let shared = if method == METHOD_BUFFERED {
            parameters.input.len().max(output)
        } else {
            parameters.input.len()
        };
        let system_buffer = if shared == 0 { 0 } else { machine.allocate(shared) as u64 };
        if shared > 0 {
            Address(system_buffer).fill(parameters.input);
            let tail = vec![POISON; shared - parameters.input.len()];
            Address(system_buffer).at(parameters.input.len() as u64).fill(&tail);
        }
        let irp = Address(machine.allocate(IRP_SIZE + STACK_LOCATION) as u64);
        let wdf = Wdf::of(machine);
        let object = wdf.objects.create(
            machine,
            Kind::Request,
            device.request_context(),
            Some(device.object()),
        );
        let mut request = Self {
            object: object.clone(),
            device,
            file: file.clone(),
            major: parameters.major,
            code: parameters.code,
            mode: parameters.mode,
            input: parameters.input.len(),
            output,
            irp,
            system_buffer,
            extra: Vec::new(),
            state: Mutex::new(State {
                owner: Owner::CallerContext,
                queue: None,
                presented: false,
                mapping,
                result: None,
            }),
        };
        request.fill_irp(machine);
        file.outstanding.fetch_add(1, Ordering::AcqRel);
        let request = Arc::new(request);
        object.set_body(request.clone());
        Ok(request)
    }

    fn fill_irp(&mut self, machine: &Machine) {
        let (irp, stack) = (self.irp, self.irp.at(IRP_SIZE as u64));
        irp.write(0, 6_u32 | ((IRP_SIZE + STACK_LOCATION) as u32) << 16);
        irp.write(8, lock(&self.state).mapping.as_ref().map_or(0, |mapping| mapping.mdl.0));
        irp.write(24, self.system_buffer);
        irp.write(64, self.mode as u8);
        irp.write(66, 0x0101_u16);
        irp.write(184, stack.0);
        irp.write(192, self.file.wdm);
        stack.write(40, self.device.device_object);
        stack.write(48, self.file.wdm);
        match self.major {
            Major::Create => {
                let (access_state, context) =
                    (machine.allocate(160) as u64, Address(machine.allocate(24) as u64));
                self.extra = vec![access_state, context.0];
                for offset in [16, 24] {
                    Address(access_state).write(offset, FILE_READ_WRITE);
                }
                context.write(8, access_state);
                context.write(16, FILE_READ_WRITE);
                stack.write(0, 0_u8);
                stack.write(8, context.0);
            }
            Major::DeviceControl => {
                stack.write(0, 0x0E_u8);
                stack.write(8, self.output as u32);
                stack.write(16, self.input as u32);
                stack.write(24, self.code);
            }
        }
    }

    /// Its object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Who has it.
    pub(crate) fn owner(&self) -> Owner {
        lock(&self.state).owner
    }

    /// The queue it is in, or was presented by.
    pub(crate) fn queue(&self) -> Option<Arc<Queue>> {
        lock(&self.state).queue.clone()
    }

    /// Whether it belongs to `file`.
    pub(crate) fn is_of(&self, file: &File) -> bool {
        Arc::ptr_eq(&self.file.object, &file.object)
    }

    /// Input length, output length, code: as `EvtIoDeviceControl` gets them.
    pub(crate) fn lengths(&self) -> (u64, u64, u64) {
        (self.input as u64, self.output as u64, self.code.into())
    }

    /// A queue is about to take it.
    pub(crate) fn enter_queue(&self, queue: &Arc<Queue>) {
        let mut state = lock(&self.state);
        (state.owner, state.queue) = (Owner::Queue, Some(queue.clone()));
    }

    /// The queue refused it.
    pub(crate) fn back_to(&self, owner: Owner) {
        lock(&self.state).owner = owner;
    }

    /// Restores the queue it came from.
    pub(crate) fn set_queue(&self, queue: Option<Arc<Queue>>) {
        lock(&self.state).queue = queue;
    }

    /// A queue has taken it out, for the driver.
    pub(crate) fn give_to_driver(&self, queue: &Arc<Queue>) {
        let mut state = lock(&self.state);
        (state.owner, state.presented) = (Owner::Driver, true);
        state.queue = Some(queue.clone());
    }

    /// Cancels it after it was taken out of `queue` unpresented; the driver hears of it only if it
    /// has seen the request before and asked to.
    pub(crate) fn cancel_in_queue(self: &Arc<Self>, machine: &Machine, queue: Option<&Arc<Queue>>) {
        let presented = lock(&self.state).presented;
        if let Some(queue) = queue.filter(|queue| presented && queue.on_canceled() != 0) {
            lock(&self.state).owner = Owner::CallerContext;
            let call =
                Call::new("EvtIoCanceledOnQueue", queue.on_canceled() as usize, Level::Current);
            // A stop ends the machine, and the requestor's wait with it.
            let _ = machine.call(call, &[queue.object.handle(), self.object.handle()]);
            return;
        }
        self.complete(machine, status::CANCELLED, 0);
    }

    /// Ends the request: contexts are cleaned up, output is copied back, buffers go, the requestor wakes.
    pub(crate) fn complete(&self, machine: &Machine, status: NtStatus, information: u64) {
        let wdf = Wdf::of(machine);
        Objects::dispose(machine, &self.object);
        let status = status::for_requestor(status);
        let mut copied = Vec::new();
        if self.major == Major::DeviceControl
            && self.code & 3 == METHOD_BUFFERED
            && !status::is_error(status)
        {
            copied = Address(self.system_buffer).bytes((information as usize).min(self.output));
        }
        let (queue, mapping) = {
            let mut state = lock(&self.state);
            let counted = state.owner == Owner::Driver;
            state.owner = Owner::Completed;
            (state.queue.take().filter(|_| counted), state.mapping.take())
        };
        if let Some(mapping) = mapping {
            mapping.unlock(machine);
        }
        for memory in [self.system_buffer, self.irp.0]
            .iter()
            .chain(&self.extra)
            .filter(|memory| **memory != 0)
        {
            machine.release(*memory as usize);
        }
        wdf.objects.remove(machine, &self.object);
        lock(&self.state).result = Some((status, information, copied));
        machine.world().wake(Key::of(&self.state));
        self.file.outstanding.fetch_sub(1, Ordering::AcqRel);
        machine.world().wake(Key::of(&self.file.outstanding));
        if let Some(queue) = queue {
            queue.completed(machine);
        }
    }

    /// Waits until it is completed: status, information, what is to be copied to the program's buffer.
    pub(crate) fn wait(&self, machine: &Machine) -> (NtStatus, u64, Vec<u8>) {
        let done = || lock(&self.state).result.clone();
        let what = "a request to be completed";
        match machine.wait(Key::of(&self.state), None, what, done) {
            Ok(result) => result,
            Err(None) => (status::DEVICE_DOES_NOT_EXIST, 0, Vec::new()),
            Err(Some(_)) => {
                let detail = format!(
                    "request {:#x} is never completed: {:?} has it",
                    self.object.handle(),
                    self.owner()
                );
                machine.die(&rules::WDF_DEFERRED_REQUEST_COMPLETED, detail);
                (status::DEVICE_DOES_NOT_EXIST, 0, Vec::new())
            }
        }
    }

    /// What it was completed with, if it was.
    pub(crate) fn result(&self) -> Option<(NtStatus, u64, Vec<u8>)> {
        lock(&self.state).result.clone()
    }

    fn output_mapping(&self) -> Option<(u64, u64)> {
        let state = lock(&self.state);
        state.mapping.as_ref().map(|mapping| (mapping.mdl.0, mapping.address))
    }

    fn input_buffer(&self) -> Result<(u64, usize), NtStatus> {
        if self.major == Major::Create || self.code & 3 == METHOD_NEITHER {
            return Err(status::INVALID_DEVICE_REQUEST);
        }
        Ok((self.system_buffer, self.input))
    }

    fn output_buffer(&self) -> Result<(u64, usize), NtStatus> {
        if self.major == Major::Create || self.code & 3 == METHOD_NEITHER {
            return Err(status::INVALID_DEVICE_REQUEST);
        }
        if self.code & 3 == METHOD_BUFFERED {
            return Ok((self.system_buffer, self.output));
        }
        let state = lock(&self.state);
        let Some(mapping) = &state.mapping else { return Ok((0, 0)) };
        mapping.set_mapped();
        Ok((mapping.address, self.output))
    }
}

fn retrieve(
    found: Result<(u64, usize), NtStatus>,
    minimum: u64,
    buffer: Address,
    length: Address,
) -> NtStatus {
    buffer.write(0, 0_u64);
    if !length.is_null() {
        length.write(0, 0_u64);
    }
    match found {
        Err(status) => status,
        Ok((_, available)) if available == 0 || (available as u64) < minimum => {
            status::BUFFER_TOO_SMALL
        }
        Ok((address, available)) => {
            buffer.write(0, address);
            if !length.is_null() {
                length.write(0, available as u64);
            }
            status::SUCCESS
        }
    }
}

fn complete(entered: &Entered<'_>, handle: u64, status: NtStatus, information: u64) {
    if matches!(entered.wdf.objects.find(handle), super::object::Found::Freed(Kind::Request)) {
        let detail = format!("request {handle:#x} is completed a second time");
        return entered.violation(&rules::DOUBLE_COMPLETION, detail);
    }
    let Some(request) = entered.body::<Request>(handle, Kind::Request) else { return };
    let owner = request.owner();
    if !matches!(owner, Owner::Driver | Owner::CallerContext) {
        entered.violation(
            &rules::DOUBLE_COMPLETION,
            format!("request {handle:#x} completed while {owner:?} has it"),
        );
        return;
    }
    if matches!(status, status::PENDING | MORE_PROCESSING_REQUIRED) {
        entered.violation(
            &rules::WDF_REQUEST_FATAL_ERROR,
            format!("request {handle:#x} completed with {status:#x}, which is no result"),
        );
        return;
    }
    let output = request.output as u64;
    // Of a buffered request the I/O manager copies that many bytes also for a warning.
    let copied = request.code & 3 == METHOD_BUFFERED && !status::is_error(status);
    let counts = request.major == Major::DeviceControl && (status::is_success(status) || copied);
    if counts && information > output {
        let detail = format!(
            "request {handle:#x}: Information {information} exceeds the buffer of {output} bytes"
        );
        entered.thread.stop(&rules::WDF_REQUEST_FATAL_ERROR, detail);
        return;
    }
    if counts && request.code & 3 == METHOD_BUFFERED && entered.machine.options().verified {
        let bytes = Address(request.system_buffer).bytes(information as usize);
        pool::judge_leaving(&entered.machine, "the answer of an IOCTL", &bytes);
    }
    request.complete(&entered.machine, status, information);
}

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Completes a request with no information.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9"]
    fn WdfRequestComplete(thread, globals: u64, request: u64, status: i32) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        complete(&entered, request, status, 0);
    }

    /// Completes a request.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9"]
    fn WdfRequestCompleteWithInformation(thread, globals: u64, request: u64, status: i32, information: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        complete(&entered, request, status, information);
    }

    /// What is asked.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9"]
    fn WdfRequestGetParameters(thread, globals: u64, request: u64, parameters: u64) {
        let Some(entered) = Entered::new(thread, globals) else { return };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return };
        let Some(parameters) = entered.required("Parameters", parameters) else { return };
        if parameters.read::<u16>(0) != REQUEST_PARAMETERS_SIZE {
            entered.violation(&rules::WDF_IGNORED_CALL, "WdfRequestGetParameters: wrong Size");
            return;
        }
        parameters.write(2, 0_u8);
        match request.major {
            Major::Create => {
                parameters.write(4, TYPE_CREATE);
                parameters.write(8, request.extra[1]);
            }
            Major::DeviceControl => {
                parameters.write(4, TYPE_DEVICE_CONTROL);
                parameters.write(8, request.output as u64);
                parameters.write(16, request.input as u64);
                parameters.write(24, request.code);
                parameters.write(32, 0_u64);
            }
        }
    }

    /// `UserMode` for a program, `KernelMode` for another driver.
    [max: DISPATCH, mark: Documented, source: "DDI wdfrequest/nf-wdfrequest-wdfrequestgetrequestormode"]
    fn WdfRequestGetRequestorMode(thread, globals: u64, request: u64) -> i8 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<Request>(request, Kind::Request).map_or(0, |found| (found.mode as u8).cast_signed())
    }

    /// The input buffer.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9"]
    fn WdfRequestRetrieveInputBuffer(thread, globals: u64, request: u64, minimum: u64, buffer: u64, length: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return 0 };
        let Some(buffer) = entered.required("Buffer", buffer) else { return 0 };
        retrieve(request.input_buffer(), minimum, buffer, Address(length))
    }

    /// The output buffer; a direct one is mapped, and the mapping may fail.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfRequestRetrieveOutputBuffer(thread, globals: u64, request: u64, minimum: u64, buffer: u64, length: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return 0 };
        let Some(buffer) = entered.required("Buffer", buffer) else { return 0 };
        retrieve(request.output_buffer(), minimum, buffer, Address(length))
    }

    /// The MDL of a direct output buffer.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 9", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfRequestRetrieveOutputWdmMdl(thread, globals: u64, request: u64, mdl: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return 0 };
        let Some(mdl) = entered.required("Mdl", mdl) else { return 0 };
        mdl.write(0, 0_u64);
        if request.major == Major::Create || request.code & 3 == METHOD_NEITHER {
            return status::INVALID_DEVICE_REQUEST;
        }
        if request.code & 3 == METHOD_BUFFERED && request.output > 0 {
            thread.stop(&rules::NOT_PROVIDED, "an MDL over a METHOD_BUFFERED buffer is not modelled");
            return 0;
        }
        let Some((address, _)) = request.output_mapping() else { return status::BUFFER_TOO_SMALL };
        mdl.write(0, address);
        status::SUCCESS
    }

    /// The IRP.
    [max: DISPATCH, mark: Documented, source: "DDI wdfrequest/nf-wdfrequest-wdfrequestwdmgetirp"]
    fn WdfRequestWdmGetIrp(thread, globals: u64, request: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<Request>(request, Kind::Request).map_or(0, |request| request.irp.0)
    }

    /// The file object.
    [max: DISPATCH, mark: Documented, source: "DDI wdfrequest/nf-wdfrequest-wdfrequestgetfileobject"]
    fn WdfRequestGetFileObject(thread, globals: u64, request: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        entered.body::<Request>(request, Kind::Request).map_or(0, |request| request.file.object.handle())
    }
}
