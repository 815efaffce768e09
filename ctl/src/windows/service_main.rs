//! The inside of a service: what the control manager calls, and what it is told.
//!
//! The manager calls back on threads of its own; what it wants becomes a [`Signal`] in a channel, and whoever runs the service receives
//! them one by one. While a service starts or stops, its status says every second that it goes on.
//!
//! When the machine shuts down services are told together, beside each other (SHUTDOWN). No earlier word (PRESHUTDOWN) is asked for: with it a
//! tunnel would be gone while all others still run, and need it.
//!
//! Source: <https://learn.microsoft.com/windows/win32/services/service-status-transitions>.

use std::ffi::c_void;
use std::io;
use std::ptr::null;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_CALL_NOT_IMPLEMENTED, ERROR_SERVICE_SPECIFIC_ERROR, NO_ERROR,
};
use windows_sys::Win32::System::Services::{
    RegisterServiceCtrlHandlerExW, SERVICE_ACCEPT_POWEREVENT, SERVICE_ACCEPT_SHUTDOWN,
    SERVICE_ACCEPT_STOP, SERVICE_CONTROL_INTERROGATE, SERVICE_CONTROL_POWEREVENT,
    SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_STOP, SERVICE_RUNNING, SERVICE_START_PENDING,
    SERVICE_STATUS, SERVICE_STATUS_HANDLE, SERVICE_STOP_PENDING, SERVICE_STOPPED,
    SERVICE_TABLE_ENTRYW, SERVICE_WIN32_OWN_PROCESS, SetServiceStatus, StartServiceCtrlDispatcherW,
};

use super::wide::wide;
use crate::service::events::Event;
use crate::tunnel::watch::Signal;

/// PBT_APMRESUMEAUTOMATIC: told whenever the machine wakes, whether somebody is there or not.
const RESUMED: u32 = 18;
/// How often a status that is about to change says that it goes on, and for how long it holds.
const BEAT: Duration = Duration::from_secs(1);
const HINT_MS: u32 = 10_000;

/// What runs as a service, and what it ends with: an event that was told, if it failed.
type Body = Box<dyn FnOnce(&Running) -> Result<(), Event> + Send>;

/// There is one service in a process.
static SERVICE: OnceLock<Service> = OnceLock::new();

struct Service {
    body: Mutex<Option<Body>>,
    signals: Sender<Signal>,
    received: Mutex<Option<Receiver<Signal>>>,
    status: Mutex<Status>,
}

/// What the control manager was told last.
struct Status {
    /// None before the manager has called.
    handle: Option<Reported>,
    state: u32,
    checkpoint: u32,
    failed: Option<Event>,
    /// Whether the machine shuts down.
    machine_ends: bool,
    /// Whether this process is to be there until then.
    stays: bool,
}

/// What a status is reported by.
struct Reported(SERVICE_STATUS_HANDLE);

// SAFETY: it is a number that any thread may report by, and it is never closed.
unsafe impl Send for Reported {}

/// Runs `body` as the service that this process was started as.
///
/// # Errors
///
/// What Windows says: that the control manager did not start this process, above all.
pub fn run(body: impl FnOnce(&Running) -> Result<(), Event> + Send + 'static) -> io::Result<()> {
    let (signals, received) = channel();
    let status = Status {
        handle: None,
        state: SERVICE_START_PENDING,
        checkpoint: 0,
        failed: None,
        machine_ends: false,
        stays: false,
    };
    let service = Service {
        body: Mutex::new(Some(Box::new(body))),
        signals,
        received: Mutex::new(Some(received)),
        status: Mutex::new(status),
    };
    SERVICE.set(service).map_err(|_| io::ErrorKind::AlreadyExists)?;
    // Of a process's only service the name is not looked at.
    let mut name = wide("");
    let table = [
        SERVICE_TABLE_ENTRYW { lpServiceName: name.as_mut_ptr(), lpServiceProc: Some(main) },
        SERVICE_TABLE_ENTRYW::default(),
    ];
    // SAFETY: the table ends with an empty row, and lives until the call comes back, which is when the service has stopped.
    let ended = super::done(unsafe { StartServiceCtrlDispatcherW(table.as_ptr()) });
    while SERVICE.get().is_some_and(|service| service.status().stays) {
        // Windows ends this process with the machine, and waits for it no more.
        std::thread::park();
    }
    ended
}

/// What the manager calls when the service starts.
extern "system" fn main(_: u32, _: *mut *mut u16) {
    let Some(service) = SERVICE.get() else { return };
    let name = wide("");
    // SAFETY: the name ends with a NUL; the function is there as long as the process.
    let handle = unsafe { RegisterServiceCtrlHandlerExW(name.as_ptr(), Some(handler), null()) };
    if handle.is_null() {
        return;
    }
    service.status().handle = Some(Reported(handle));
    service.report(SERVICE_START_PENDING);
    // A thread that is not made only means that nobody says that it goes on.
    let _ = std::thread::Builder::new().spawn(|| beat(service));
    let body = service.body.lock().ok().and_then(|mut body| body.take());
    let received = service.received.lock().ok().and_then(|mut received| received.take());
    let ended = match (body, received) {
        (Some(body), Some(received)) => body(&Running { service, received }),
        _ => Ok(()),
    };
    service.status().failed = ended.err();
    service.report(SERVICE_STOPPED);
}

/// What the manager calls when it wants something.
extern "system" fn handler(control: u32, event: u32, _: *mut c_void, _: *mut c_void) -> u32 {
    let signal = match control {
        SERVICE_CONTROL_STOP | SERVICE_CONTROL_SHUTDOWN => Signal::Stop,
        SERVICE_CONTROL_POWEREVENT if event == RESUMED => Signal::Changed,
        // What the manager knows already is what is so.
        SERVICE_CONTROL_POWEREVENT | SERVICE_CONTROL_INTERROGATE => return NO_ERROR,
        _ => return ERROR_CALL_NOT_IMPLEMENTED,
    };
    if let Some(service) = SERVICE.get() {
        if control == SERVICE_CONTROL_SHUTDOWN {
            service.status().machine_ends = true;
        }
        if signal == Signal::Stop {
            service.report(SERVICE_STOP_PENDING);
        }
        // Who has ended receives no more.
        let _ = service.signals.send(signal);
    }
    NO_ERROR
}

/// Says that it goes on, until nothing is pending.
fn beat(service: &'static Service) {
    loop {
        std::thread::sleep(BEAT);
        let state = service.status().state;
        match state {
            SERVICE_STOPPED => return,
            SERVICE_RUNNING => {}
            state => service.report(state),
        }
    }
}

impl Service {
    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, state: u32) {
        let mut status = self.status();
        // Who stops does not run any more, and who has stopped does nothing.
        if status.state == SERVICE_STOPPED
            || status.state == SERVICE_STOP_PENDING && state == SERVICE_RUNNING
        {
            return;
        }
        let pending = matches!(state, SERVICE_START_PENDING | SERVICE_STOP_PENDING);
        status.checkpoint =
            if pending && status.state == state { status.checkpoint + 1 } else { 0 };
        status.state = state;
        let failed = status.failed.filter(|_| state == SERVICE_STOPPED);
        let told = SERVICE_STATUS {
            dwServiceType: SERVICE_WIN32_OWN_PROCESS,
            dwCurrentState: state,
            dwControlsAccepted: match state {
                SERVICE_RUNNING => {
                    SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN | SERVICE_ACCEPT_POWEREVENT
                }
                _ => 0,
            },
            dwWin32ExitCode: failed.map_or(NO_ERROR, |_| ERROR_SERVICE_SPECIFIC_ERROR),
            dwServiceSpecificExitCode: failed.map_or(0, |event| event.number().into()),
            dwCheckPoint: if pending { status.checkpoint } else { 0 },
            dwWaitHint: if pending { HINT_MS } else { 0 },
        };
        if let Some(Reported(handle)) = &status.handle {
            // SAFETY: the handle is this service's, and the status is whole. There is nothing to do if nobody hears it.
            unsafe { SetServiceStatus(*handle, &raw const told) };
        }
    }
}

/// A service that runs.
pub struct Running {
    service: &'static Service,
    received: Receiver<Signal>,
}

impl Running {
    /// Says that it has started.
    pub fn started(&self) {
        self.service.report(SERVICE_RUNNING);
    }

    /// Whether it is to stop because the machine shuts down.
    #[must_use]
    pub fn ends_with_the_machine(&self) -> bool {
        self.service.status().machine_ends
    }

    /// Has this process be there until the machine is off, although the service has stopped by then.
    pub fn stay(&self) {
        self.service.status().stays = true;
    }

    /// What it is told.
    #[must_use]
    pub fn received(&self) -> &Receiver<Signal> {
        &self.received
    }

    /// Where others tell it something.
    #[must_use]
    pub fn signals(&self) -> Sender<Signal> {
        self.service.signals.clone()
    }
}
