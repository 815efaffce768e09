//! Objects and handles (`Ob*`).
//!
//! An object here is what the driver can hold a reference to: a thread, a process, a registry key, a file. It has an address
//! (of simulator memory that begins with a dispatcher header), a pointer count and handles. Source for counts:
//! WDD kernel/life-cycle-of-an-object.md.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use crate::loader::probe;
use crate::nt::machine::Machine;
use crate::nt::ps::Process;
use crate::nt::status::{STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS};
use crate::nt::thread::Thread;
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A thread; signalled when it has ended.
    Thread,
    /// An open registry key, by path.
    Key(String),
    /// A file object of a framework.
    File,
}

/// `ThreadObject` of `KOBJECTS`, the type byte of a thread's dispatcher header.
pub(crate) const THREAD_TYPE: u8 = 6;
/// Bytes of an object that the driver may see: the dispatcher header and some.
const BODY: usize = 8;

struct Object {
    kind: Kind,
    pointers: u64,
    handles: u64,
    /// References the driver took itself, for the leak report.
    driver: i64,
    /// What the driver may see; only its address is used here.
    _body: Box<[u64; BODY]>,
}

#[derive(Default)]
struct State {
    objects: FxHashMap<usize, Object>,
    handles: BTreeMap<u64, usize>,
    next_handle: u64,
    /// Processes the driver has seen, and the references it has to each. They are kept until the machine goes.
    processes: FxHashMap<usize, (Arc<Process>, i64)>,
    /// Host threads that have run code of this machine, by thread object.
    hosts: FxHashMap<usize, libc::pthread_t>,
}

/// The objects and handles of a machine.
#[derive(Default)]
pub(crate) struct Objects {
    state: Mutex<State>,
    /// Subject contexts captured and not released.
    pub(crate) captures: AtomicI64,
}

impl Objects {
    /// Makes an object with one reference and returns its address.
    pub(crate) fn create(&self, kind: Kind) -> usize {
        let mut body = Box::new([0; BODY]);
        if kind == Kind::Thread {
            body[0] = THREAD_TYPE.into();
        }
        let address = body.as_mut_ptr().expose_provenance();
        lock(&self.state)
            .objects
            .insert(address, Object { kind, pointers: 1, handles: 0, driver: 0, _body: body });
        address
    }

    /// The object of a new thread.
    pub(crate) fn create_thread(&self) -> usize {
        self.create(Kind::Thread)
    }

    /// The host thread behind a thread object has begun.
    pub(crate) fn begin_thread(&self, object: usize) {
        // SAFETY: always succeeds.
        let host = unsafe { libc::pthread_self() };
        lock(&self.state).hosts.insert(object, host);
    }

    /// The host thread of a thread object is gone; the object goes with its last reference.
    pub(crate) fn forget_thread(&self, object: usize) {
        lock(&self.state).hosts.remove(&object);
        self.dereference(object);
    }

    /// Runs `body` for each host thread that has a simulated thread here. None of them can end meanwhile: it would first have
    /// to take its entry out.
    pub(crate) fn each_host_thread(&self, body: impl Fn(libc::pthread_t)) {
        lock(&self.state).hosts.values().for_each(|host| body(*host));
    }

    /// Whether a thread object says that its thread has ended.
    pub(crate) fn has_ended(&self, thread: usize) -> bool {
        let known = lock(&self.state).objects.contains_key(&thread);
        !known || probe::read::<u32>(thread + 4).is_ok_and(|state| state != 0)
    }

    /// A new handle to an object.
    pub(crate) fn open(&self, address: usize) -> u64 {
        let mut state = lock(&self.state);
        // Handles are multiples of four; kernel handles have the top bits set.
        state.next_handle += 4;
        let handle = 0xFFFF_FFFF_8000_0000 + state.next_handle;
        state.handles.insert(handle, address);
        if let Some(object) = state.objects.get_mut(&address) {
            object.handles += 1;
        }
        handle
    }

    /// Closes a handle; false if there is none.
    pub(crate) fn close(&self, handle: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(address) = state.handles.remove(&handle) else { return false };
        if let Some(object) = state.objects.get_mut(&address) {
            object.handles -= 1;
            // The reference that came with the handle's creation.
            object.pointers -= 1;
        }
        state.reap(address);
        true
    }

    /// The object and kind behind a handle.
    pub(crate) fn resolve(&self, handle: u64) -> Option<(usize, Kind)> {
        let state = lock(&self.state);
        let address = *state.handles.get(&handle)?;
        Some((address, state.objects.get(&address)?.kind.clone()))
    }

    /// The address by which the driver knows a process.
    pub(crate) fn show_process(&self, process: &Arc<Process>) -> usize {
        let address = process.object();
        lock(&self.state).processes.entry(address).or_insert_with(|| (process.clone(), 0));
        address
    }

    /// The process that the driver knows by an address.
    pub(crate) fn process(&self, address: usize) -> Option<Arc<Process>> {
        lock(&self.state).processes.get(&address).map(|(process, _)| process.clone())
    }

    /// One more reference; false if it is no object.
    pub(crate) fn reference(&self, address: usize) -> bool {
        let mut state = lock(&self.state);
        if state.processes.contains_key(&address) {
            return true;
        }
        let Some(object) = state.objects.get_mut(&address) else { return false };
        object.pointers += 1;
        true
    }

    /// One reference fewer; false if it is no object.
    pub(crate) fn dereference(&self, address: usize) -> bool {
        let mut state = lock(&self.state);
        if state.processes.contains_key(&address) {
            return true;
        }
        let Some(object) = state.objects.get_mut(&address) else { return false };
        object.pointers = object.pointers.saturating_sub(1);
        state.reap(address);
        true
    }

    /// Notes a reference the driver took (+1) or gave back (-1).
    fn note_driver(&self, address: usize, change: i64) {
        let mut state = lock(&self.state);
        if let Some((_, driver)) = state.processes.get_mut(&address) {
            *driver += change;
        } else if let Some(object) = state.objects.get_mut(&address) {
            object.driver += change;
        }
    }

    /// Signals a thread object: the thread has ended.
    pub(crate) fn signal(&self, machine: &Machine, address: usize) {
        if let Ok(state) = probe::atomic_u32(address + 4) {
            state.store(1, Ordering::SeqCst);
        }
        machine.world().wake(Key(address));
    }

    /// Whether `address` is an object of this machine.
    pub(crate) fn is_object(&self, address: usize) -> bool {
        lock(&self.state).objects.contains_key(&address)
    }

    pub(crate) fn leaks(&self, leaks: &mut Vec<Leak>) {
        let state = lock(&self.state);
        for (process, driver) in state.processes.values().filter(|(_, driver)| *driver > 0) {
            leaks.push(Leak::new(
                "process reference",
                format!("{driver} to {} ({})", process.name(), process.id()),
            ));
        }
        let captures = self.captures.load(Ordering::Relaxed);
        if captures != 0 {
            leaks.push(Leak::new(
                "subject context",
                format!("{captures} captured and not released"),
            ));
        }
        for (handle, address) in &state.handles {
            let kind = state
                .objects
                .get(address)
                .map(|object| format!("{:?}", object.kind))
                .unwrap_or_default();
            leaks.push(Leak::new("handle", format!("{handle:#x} to {kind}")));
        }
        for (address, object) in state.objects.iter().filter(|(_, object)| object.driver > 0) {
            leaks.push(Leak::new(
                "object reference",
                format!("{} to {:?} {address:#x}", object.driver, object.kind),
            ));
        }
    }
}

impl State {
    fn reap(&mut self, address: usize) {
        if self.objects.get(&address).is_some_and(|object| object.pointers == 0) {
            self.objects.remove(&address);
        }
    }
}

/// What both forms of dereferencing do.
fn drop_reference(thread: &Thread, object: usize) {
    let machine = thread.machine();
    // Noted first: the last reference takes the object away.
    machine.objects().note_driver(object, -1);
    if machine.objects().dereference(object) {
        return;
    }
    let detail = format!("ObDereferenceObject of {object:#x}, which is no object");
    thread.bugcheck(&rules::REFERENCE_BY_POINTER, [0, object as u64, 0, 0], detail);
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// A referenced pointer to the object behind a handle.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-obreferenceobjectbyhandle"]
    fn ObReferenceObjectByHandle(thread, handle: u64, access: u32, kind: usize, mode: u8, object: usize, information: usize) -> i32 {
        let objects = thread.machine().objects();
        let Some((address, _)) = objects.resolve(handle) else { return STATUS_INVALID_HANDLE };
        // Object types are data exports, of which the driver imports none, so only NULL can be passed.
        if kind != 0 {
            return STATUS_OBJECT_TYPE_MISMATCH;
        }
        objects.reference(address);
        objects.note_driver(address, 1);
        match probe::write(object, address) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => thread.bad_pointer("Object", object),
        }
    }

    /// One more reference to an object.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-obreferenceobject"]
    fn ObfReferenceObject(thread, object: usize) -> u64 {
        let objects = thread.machine().objects();
        if objects.reference(object) {
            objects.note_driver(object, 1);
        } else {
            let detail = format!("ObReferenceObject of {object:#x}, which is no object");
            thread.bugcheck(&rules::REFERENCE_BY_POINTER, [0, object as u64, 0, 0], detail);
        }
        0
    }

    /// One reference fewer.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-obdereferenceobject"]
    fn ObfDereferenceObject(thread, object: usize) -> u64 {
        drop_reference(thread, object);
        0
    }
}
