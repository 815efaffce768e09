//! Processes and system threads (`Ps*`).
//!
//! A driver's system thread is a host thread with its own driver stack. It ends by `PsTerminateSystemThread` or by returning;
//! then its object is signalled and whoever waits on it goes on. Not modelled: client ids, thread priorities' effect on who
//! runs (host threads are scheduled by Linux, or by the seed).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::loader::probe;
use crate::nt::machine::Machine;
use crate::nt::se::Token;
use crate::nt::status::{STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS};
use crate::nt::thread::{self, Call, Level, Outcome};
use crate::verifier::schedule::lock;

/// A simulated process: who a thread's calls are made for.
#[derive(Debug)]
pub struct Process {
    id: u32,
    name: String,
    token: Token,
    // What the driver sees as `EPROCESS`: an address nobody may look behind.
    object: Box<[u64; 8]>,
}

impl Process {
    /// Makes a process.
    pub fn new(id: u32, name: &str, token: Token) -> Arc<Self> {
        Arc::new(Self { id, name: name.to_owned(), token, object: Box::new([0; 8]) })
    }

    /// Makes a process with the next free id.
    pub fn start(name: &str, token: Token) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1000);
        Self::new(NEXT.fetch_add(4, Ordering::Relaxed), name, token)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its primary token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The address that the driver knows it by.
    pub fn object(&self) -> usize {
        self.object.as_ptr().expose_provenance()
    }
}

/// Starts a system thread; returns its handle.
fn create(machine: &Machine, routine: usize, context: u64) -> u64 {
    let object = machine.objects().create_thread();
    let handle = machine.objects().open(object);
    machine.objects().reference(object);
    let Some(shared) = machine.weak().upgrade() else { return handle };
    let number = lock(&machine.driver_threads).len();
    let name = format!("{} thread {number}", machine.name());
    let label = name.clone();
    let body = move || {
        thread::attach(&shared, &label, Some(object), |thread| {
            let call = Call::new("system thread", routine, Level::Passive);
            let ended = thread.invoke(call, &[context]);
            debug_assert!(ended != Outcome::Stopped || shared.is_dead());
            shared.objects().signal(&shared, object);
        });
    };
    let joined = machine.world().spawn(&name, body);
    lock(&machine.driver_threads).push((object, joined));
    handle
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Starts a system thread in the System process and gives a handle to it.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-pscreatesystemthread", fail: STATUS_INSUFFICIENT_RESOURCES, point: true]
    fn PsCreateSystemThread(thread, handle: usize, access: u32, attributes: usize, process: usize, client: usize, routine: usize, context: u64) -> i32 {
        let opened = create(thread.machine(), routine, context);
        match probe::write(handle, opened) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => thread.bad_pointer("ThreadHandle", handle),
        }
    }

    /// Ends the calling system thread.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-psterminatesystemthread"]
    fn PsTerminateSystemThread(thread, status: i32) -> i32 {
        thread.end();
        status
    }

    /// The process of the calling thread.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-iogetcurrentprocess"]
    fn IoGetCurrentProcess(thread) -> usize {
        thread.machine().objects().show_process(&thread.process())
    }

    /// The process of the calling thread, by its other name.
    [max: DISPATCH, mark: Documented, source: "DDI ntddk/nf-ntddk-psgetcurrentprocess"]
    fn PsGetCurrentProcess(thread) -> usize {
        thread.machine().objects().show_process(&thread.process())
    }
}
