//! KMDF 1.31: `wdfldr.sys` and the functions of the framework that the driver uses.
//!
//! A slot of the function table that nobody provides stops the machine by name. What Windows does
//! only under the KMDF verifier (refusing a second completion, an Information beyond the buffer, a
//! call with the handle of a deleted object) is always a stop here; a setter that Windows ignores
//! silently is one too (`facts/kmdf.md` §0, §14).
//!
//! | file | what |
//! |---|---|
//! | `binding` | `WdfVersionBind` and the class extension's binding |
//! | `object`, `attributes` | handles, contexts, parents, deletion |
//! | `driver`, `registry` | `WDFDRIVER`, its Parameters key |
//! | `device` | `WDFDEVICE_INIT`, `WDFDEVICE`, interfaces |
//! | `control_device` | devices that the driver makes for itself |
//! | `queue`, `request`, `file` | I/O: `WDFQUEUE`, `WDFREQUEST`, `WDFFILEOBJECT` |
//! | `requestor`, `user_buffer` | the other side: a program that opens the device and sends IOCTLs |
//!
//! Not modelled: automatic serialization, sequential queues, power-managed `EvtIoStop`, timers, DPCs,
//! work items and memory objects of the framework. Each stops by name or by rule when used.

use std::sync::{Arc, Mutex};

use crate::nt::behaviours;
use crate::nt::machine::{Call, Level, Machine, Thread};
use crate::verifier::rules::{self, Rule};
use crate::verifier::schedule::lock;

pub mod attributes;
pub mod binding;
pub mod control_device;
pub mod device;
pub mod driver;
pub mod driver_memory;
pub mod file;
pub mod object;
pub mod queue;
pub mod registry;
pub mod request;
pub mod requestor;
pub mod status;
pub mod user_buffer;

use object::{Found, Host, Kind, Life, Object, Objects};

behaviours! {
    pub(crate) static BEHAVIOURS;
    /// Queue handlers run in a system thread, never in the requestor's.
    [mark: Documented, source: "facts/risks.md 1: arbitrary thread"]
    HANDLERS_RUN_IN_A_FOREIGN_THREAD;
    /// Deleting an object that needs passive disposal above `PASSIVE_LEVEL` stops instead of being deferred to a work item.
    [mark: Inferred, source: "facts/kmdf.md 3: simplified, stricter than Windows"]
    DELETE_IS_NOT_DEFERRED;
    /// A METHOD_BUFFERED buffer holds 0xCD behind the input.
    [mark: ReadInSource, source: "facts/kmdf.md 9: uninitialised pool"]
    BUFFERED_TAIL_IS_POISON;
    /// What a requestor sees of a direct buffer changes while the driver reads it.
    [mark: Documented, source: "facts/kmdf.md 9: shared with running user threads"]
    DIRECT_BUFFER_IS_SHARED;
    /// Handles of completed requests and deleted objects are never used again.
    [mark: Inferred, source: "facts/kmdf.md 9, 14: stricter than Windows"]
    HANDLES_ARE_QUARANTINED;
    /// Children are cleaned up before parents, and everything before the first destroy.
    [mark: ReadInSource, source: "facts/kmdf.md 3"]
    DISPOSE_BEFORE_DESTROY;
    /// CLEANUP flushes what of the file is still in queues, and leaves the driver's own requests alone.
    [mark: ReadInSource, source: "facts/kmdf.md 10"]
    CLEANUP_FLUSHES_QUEUES;
    /// A requestor that cancels reaches only requests that are in a queue.
    [mark: ReadInSource, source: "facts/kmdf.md 9"]
    CANCEL_REACHES_QUEUED_REQUESTS;
    /// A security context in `Parameters.Create` has no captured subject in its access state.
    [mark: Inferred, source: "simplified: the driver captures the subject itself"]
    ACCESS_STATE_WITHOUT_SUBJECT;
    /// Interfaces are enabled at the very end of the start and disabled before queues are purged.
    [mark: ReadInSource, source: "facts/kmdf.md 6"]
    INTERFACES_FOLLOW_START;
}

/// The framework of one machine.
#[derive(Default)]
pub struct Wdf {
    /// Everything with a handle.
    pub(crate) objects: Objects,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    globals: u64,
    tables: Vec<u64>,
    driver: Option<Arc<driver::Driver>>,
    inits: Vec<(u64, Arc<device::DeviceInit>)>,
    devices: Vec<Arc<device::Device>>,
    control_devices: Vec<Arc<device::Device>>,
}

impl Wdf {
    /// The framework of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension::<Self>()
    }

    /// `WDFDRIVER`, once made.
    pub(crate) fn driver(&self) -> Option<Arc<driver::Driver>> {
        lock(&self.state).driver.clone()
    }

    /// What is still alive: kind, handle, references of the driver. The audit at unload.
    #[must_use]
    pub fn objects_alive(&self) -> Vec<(Kind, u64, usize)> {
        self.objects.alive()
    }

    /// Devices that the driver made for itself.
    pub(crate) fn control_devices(&self) -> Vec<Arc<device::Device>> {
        lock(&self.state).control_devices.clone()
    }

    /// All devices of PnP that have not been deleted.
    pub(crate) fn devices(&self) -> Vec<Arc<device::Device>> {
        lock(&self.state).devices.clone()
    }
}

impl Host for Machine {
    fn allocate(&self, size: usize) -> u64 {
        Machine::allocate(self, size) as u64
    }

    fn release(&self, address: u64) {
        Machine::release(self, address as usize);
    }

    fn callback(&self, name: &'static str, address: u64, handle: u64) {
        // A stop in a callback is the machine's end; the caller finds it dead.
        let _ = self.call(Call::new(name, address as usize, Level::Current), &[handle]);
    }
}

/// A framework function that has been entered with the right globals.
pub(crate) struct Entered<'t> {
    /// The thread that called.
    pub(crate) thread: &'t Thread,
    /// Its machine.
    pub(crate) machine: Arc<Machine>,
    /// The framework.
    pub(crate) wdf: Arc<Wdf>,
}

impl<'t> Entered<'t> {
    /// Checks the globals; `None` after a stop.
    pub(crate) fn new(thread: &'t Thread, globals: u64) -> Option<Self> {
        let machine = thread.machine().weak().upgrade()?;
        let wdf = Wdf::of(&machine);
        let known = lock(&wdf.state).globals;
        if globals == 0 || globals != known {
            thread.stop(
                &rules::WDF_DRIVER_GLOBALS,
                format!("driver globals {globals:#x}, bound with {known:#x}"),
            );
            return None;
        }
        Some(Self { thread, machine, wdf })
    }

    /// Enters without globals: for the class extension, which has its own.
    pub(crate) fn for_extension(thread: &'t Thread) -> Option<Self> {
        let machine = thread.machine().weak().upgrade()?;
        let wdf = Wdf::of(&machine);
        Some(Self { thread, machine, wdf })
    }

    /// Stops the machine.
    pub(crate) fn violation(&self, rule: &'static Rule, detail: impl Into<String>) {
        self.thread.stop(rule, detail);
    }

    /// The object of a handle, whatever it is and however dead, if its memory is still there.
    pub(crate) fn any(&self, handle: u64) -> Option<Arc<Object>> {
        let detail = match self.wdf.objects.find(handle) {
            Found::Live(object) => return Some(object),
            Found::Freed(Kind::Request) => {
                let detail = format!("{handle:#x} was a request and has been completed");
                self.violation(&rules::REQUEST_COMPLETED, detail);
                return None;
            }
            Found::Freed(kind) => format!("{handle:#x} was a {} and has been freed", kind.name()),
            Found::Never if handle == 0 => "NULL".into(),
            Found::Never => format!("{handle:#x} is no handle"),
        };
        self.violation(&rules::WDF_INVALID_HANDLE, detail);
        None
    }

    /// The usable object of a handle of the given kind; `None` after a stop.
    pub(crate) fn object(&self, handle: u64, kind: Kind) -> Option<Arc<Object>> {
        let object = self.any(handle)?;
        if object.kind() != kind {
            let (is, wanted) = (object.kind().name(), kind.name());
            self.violation(
                &rules::WDF_INVALID_HANDLE,
                format!("{handle:#x} is a {is}, not a {wanted}"),
            );
            return None;
        }
        if object.life() == Life::Deleted {
            self.violation(
                &rules::WDF_INVALID_HANDLE,
                format!(
                    "{} {handle:#x} has been deleted; it only waits for references",
                    kind.name()
                ),
            );
            return None;
        }
        Some(object)
    }

    /// The simulator's part of an object; `None` after a stop.
    pub(crate) fn body<T: Send + Sync + 'static>(&self, handle: u64, kind: Kind) -> Option<Arc<T>> {
        let body = self.object(handle, kind)?.body();
        if body.is_none() {
            self.violation(
                &rules::WDF_INVALID_HANDLE,
                format!("{handle:#x}: a {} that is still being made", kind.name()),
            );
        }
        body
    }

    /// Checks a pointer that must not be NULL; `None` after a stop.
    pub(crate) fn required(&self, name: &str, pointer: u64) -> Option<driver_memory::Address> {
        if pointer == 0 {
            self.violation(&rules::WDF_REQUIRED_PARAMETER_IS_NULL, name);
            return None;
        }
        Some(driver_memory::Address(pointer))
    }
}

/// What can be done with any object.
pub(crate) mod object_functions {
    use super::attributes::{Attributes, REQUEST};
    use super::driver_memory::Address;
    use super::object::{AddContext, Kind};
    use super::{Entered, status};
    use crate::nt::{imports, level};
    use crate::verifier::rules;

    imports! {
        pub(crate) static IMPORTS: "wdf01000";

        /// Finds a context by the address of its type; NULL when there is none.
        [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 2"]
        fn WdfObjectGetTypedContextWorker(thread, globals: u64, handle: u64, type_info: u64) -> u64 {
            let Some(entered) = Entered::new(thread, globals) else { return 0 };
            let Some(object) = entered.any(handle) else { return 0 };
            let Some(info) = entered.required("TypeInfo", type_info) else { return 0 };
            let unique: u64 = info.read(24);
            object.context(if unique == 0 { type_info } else { unique }).unwrap_or(0)
        }

        /// Attaches another context.
        [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 2", fail: status::INSUFFICIENT_RESOURCES]
        fn WdfObjectAllocateContext(thread, globals: u64, handle: u64, attributes: u64, context: u64) -> i32 {
            let Some(entered) = Entered::new(thread, globals) else { return 0 };
            let Some(object) = entered.any(handle) else { return 0 };
            let Some(attributes) = entered.required("ContextAttributes", attributes) else { return 0 };
            let attributes = match Attributes::read(attributes, REQUEST) {
                Ok(attributes) => attributes,
                Err(status) => return status,
            };
            if attributes.context.unique == 0 {
                return status::OBJECT_NAME_INVALID;
            }
            let (status, memory) = match object.add_context(&*entered.machine, attributes.context) {
                Ok(memory) => (status::SUCCESS, memory),
                Err(AddContext::Exists(memory)) => (status::OBJECT_NAME_EXISTS, memory),
                Err(AddContext::DeletePending) => return status::DELETE_PENDING,
            };
            if context != 0 {
                Address(context).write(0, memory);
            }
            status
        }

        /// Takes a reference.
        [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 3"]
        fn WdfObjectReferenceActual(thread, globals: u64, handle: u64, tag: u64, line: i32, file: u64) {
            let Some(entered) = Entered::new(thread, globals) else { return };
            if let Some(object) = entered.any(handle) {
                object.reference();
            }
        }

        /// Gives a reference back.
        [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 3"]
        fn WdfObjectDereferenceActual(thread, globals: u64, handle: u64, tag: u64, line: i32, file: u64) {
            let Some(entered) = Entered::new(thread, globals) else { return };
            let Some(object) = entered.any(handle) else { return };
            if !entered.wdf.objects.dereference(&*entered.machine, &object) {
                entered.violation(&rules::WDF_OBJECT_ERROR, format!("{handle:#x}: dereferenced below its creation reference"));
            }
        }

        /// Deletes an object with all below it.
        [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 3"]
        fn WdfObjectDelete(thread, globals: u64, handle: u64) {
            let Some(entered) = Entered::new(thread, globals) else { return };
            let Some(object) = entered.any(handle) else { return };
            let kind = object.kind();
            if kind == Kind::Device && super::control_device::delete(&entered, handle) {
                return;
            }
            if matches!(kind, Kind::Driver | Kind::Device | Kind::FileObject | Kind::Request) {
                entered.violation(&rules::WDF_OBJECT_ERROR, format!("WdfObjectDelete on a {}, which the framework owns: Windows ignores it", kind.name()));
            } else if thread.irql() > level::PASSIVE {
                let detail = format!("WdfObjectDelete of a {} above PASSIVE_LEVEL: deferral is not modelled", kind.name());
                entered.thread.stop(&rules::NOT_PROVIDED, detail);
            } else if !entered.wdf.objects.delete(&*entered.machine, &object) {
                entered.violation(&rules::WDF_OBJECT_ERROR, format!("{} {handle:#x} deleted twice", kind.name()));
            }
        }
    }
}
