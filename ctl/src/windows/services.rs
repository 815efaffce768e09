//! Services: which there are, what they do, and how they are installed, started, stopped and removed.
//!
//! Source: <https://learn.microsoft.com/windows/win32/services/service-control-manager>.

use std::ptr::{null, null_mut};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_LEVEL, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_CANNOT_ACCEPT_CTRL,
    ERROR_SERVICE_DATABASE_LOCKED, ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_MARKED_FOR_DELETE,
    ERROR_SERVICE_NOT_ACTIVE, ERROR_SERVICE_SPECIFIC_ERROR,
};
use windows_sys::Win32::Storage::FileSystem::DELETE;
use windows_sys::Win32::System::Services::{
    ChangeServiceConfig2W, CloseServiceHandle, ControlService, CreateServiceW, DeleteService,
    ENUM_SERVICE_STATUSW, EnumServicesStatusW, OpenSCManagerW, OpenServiceW, QUERY_SERVICE_CONFIGW,
    QueryServiceConfigW, QueryServiceStatus, SC_ACTION, SC_ACTION_RESTART, SC_HANDLE,
    SC_MANAGER_CONNECT, SC_MANAGER_CREATE_SERVICE, SC_MANAGER_ENUMERATE_SERVICE,
    SERVICE_AUTO_START, SERVICE_CHANGE_CONFIG, SERVICE_CONFIG, SERVICE_CONFIG_DESCRIPTION,
    SERVICE_CONFIG_FAILURE_ACTIONS, SERVICE_CONFIG_REQUIRED_PRIVILEGES_INFO,
    SERVICE_CONFIG_SERVICE_SID_INFO, SERVICE_CONTROL_STOP, SERVICE_DESCRIPTIONW,
    SERVICE_ERROR_NORMAL, SERVICE_FAILURE_ACTIONSW, SERVICE_QUERY_CONFIG, SERVICE_QUERY_STATUS,
    SERVICE_REQUIRED_PRIVILEGES_INFOW, SERVICE_RUNNING, SERVICE_SID_INFO,
    SERVICE_SID_TYPE_UNRESTRICTED, SERVICE_START, SERVICE_STATE_ALL, SERVICE_STATUS, SERVICE_STOP,
    SERVICE_STOP_PENDING, SERVICE_STOPPED, SERVICE_WIN32_OWN_PROCESS, StartServiceW,
};

use super::wide::{pointed, wide, wide_list};
use crate::doctor::machine::Service;
use crate::service::definition::Definition;
use crate::service::events::{Event, SOURCE};
use crate::service::folder;
use crate::tunnel::system::COMMAND_MAX;
use crate::words::said;

/// How long a service may take to start or to stop: longer than one of its commands.
const PATIENCE: Duration = Duration::from_secs(3 * COMMAND_MAX.as_secs());
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// Milliseconds until a service that crashed runs again: the first time, the second, and from then on.
const RESTARTS_MS: [u32; 3] = [1_000, 10_000, 60_000];
/// Seconds without a crash until the next one is the first again.
const FORGOTTEN_S: u32 = 86_400;
/// What EnumServicesStatusW may be given room for, and QueryServiceConfigW needs at most.
const LIST_WORDS: usize = (256 << 10) / 8;
const CONFIG_WORDS: usize = (8 << 10) / 8;

/// What the service or driver `name` does.
///
/// # Errors
///
/// What Windows says.
pub fn state(name: &str) -> io::Result<Service> {
    let service = match open(name, SERVICE_QUERY_STATUS)? {
        None => return Ok(Service::Absent),
        Some(service) => service,
    };
    Ok(match service.status()?.dwCurrentState {
        SERVICE_STOPPED | SERVICE_STOP_PENDING => Service::Stopped,
        _ => Service::Running,
    })
}

/// What the service or driver `name` runs, if it is there.
///
/// # Errors
///
/// What Windows says.
pub fn command_line(name: &str) -> io::Result<Option<String>> {
    open(name, SERVICE_QUERY_CONFIG)?.map(|service| service.command_line()).transpose()
}

/// Why a service that was started does not run.
#[derive(Debug)]
pub enum NotRunning {
    /// It stopped, and told this in the event log.
    Told(Event),
    /// It stopped with this error of Windows'.
    Ended(io::Error),
    /// What Windows says of the start.
    NotStarted(io::Error),
}

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(event) => {
                let number = event.number();
                write!(f, "it stopped: event {number} of {SOURCE} in the event log says why")
            }
            Self::Ended(error) => write!(f, "it stopped: {}", said(error)),
            Self::NotStarted(error) => f.write_str(&said(error)),
        }
    }
}

impl std::error::Error for NotRunning {}

/// Installs a service, which must not be there; what this Windows does not take of it is told, and the service does it itself.
///
/// # Errors
///
/// What Windows says; nothing is installed then.
pub fn install(service: &Definition) -> io::Result<Vec<&'static str>> {
    let manager = manager(SC_MANAGER_CONNECT | SC_MANAGER_CREATE_SERVICE)?;
    let (name, display) = (wide(&service.name), wide(&service.display));
    let (command_line, dependencies) =
        (wide(&service.command_line), wide_list(service.dependencies));
    // SAFETY: the manager is open; all texts end with a NUL, the list with two; the account is LocalSystem, which has no password.
    let made = Handle::of(unsafe {
        CreateServiceW(
            manager.0,
            name.as_ptr(),
            display.as_ptr(),
            SERVICE_CHANGE_CONFIG | SERVICE_START | DELETE,
            SERVICE_WIN32_OWN_PROCESS,
            SERVICE_AUTO_START,
            SERVICE_ERROR_NORMAL,
            command_line.as_ptr(),
            null(),
            null_mut(),
            dependencies.as_ptr(),
            null(),
            null(),
        )
    })?;
    configure(&made, service).inspect_err(|_| {
        // The first error is what is told.
        let _ = made.delete();
    })
}

/// Sets what cannot be said when a service is made.
fn configure(made: &Handle, service: &Definition) -> io::Result<Vec<&'static str>> {
    let mut untaken = Vec::new();
    let mut text = wide(service.description);
    let description = SERVICE_DESCRIPTIONW { lpDescription: text.as_mut_ptr() };
    made.change(SERVICE_CONFIG_DESCRIPTION, &description)?;
    let mut actions = RESTARTS_MS.map(|delay| SC_ACTION { Type: SC_ACTION_RESTART, Delay: delay });
    let failure = SERVICE_FAILURE_ACTIONSW {
        dwResetPeriod: FORGOTTEN_S,
        cActions: actions.len() as u32,
        lpsaActions: actions.as_mut_ptr(),
        ..Default::default()
    };
    // After a crash alone: who stops with an error says so, and would say it again.
    made.change(SERVICE_CONFIG_FAILURE_ACTIONS, &failure)?;
    let sid = SERVICE_SID_INFO { dwServiceSidType: SERVICE_SID_TYPE_UNRESTRICTED };
    if !made.change(SERVICE_CONFIG_SERVICE_SID_INFO, &sid)? {
        untaken.push("a SID of its own");
    }
    let mut names = wide_list(service.privileges);
    let privileges =
        SERVICE_REQUIRED_PRIVILEGES_INFOW { pmszRequiredPrivileges: names.as_mut_ptr() };
    if !made.change(SERVICE_CONFIG_REQUIRED_PRIVILEGES_INFO, &privileges)? {
        untaken.push("fewer privileges");
    }
    Ok(untaken)
}

/// Starts a service and waits until it runs, or has stopped.
///
/// # Errors
///
/// Why it does not run.
pub fn start(name: &str) -> Result<(), NotRunning> {
    let status = started(name).map_err(NotRunning::NotStarted)?;
    match (status.dwCurrentState, status.dwWin32ExitCode) {
        (SERVICE_RUNNING, _) => Ok(()),
        (_, ERROR_SERVICE_SPECIFIC_ERROR) => {
            let code = status.dwServiceSpecificExitCode;
            Err(Event::of_number(code).map_or_else(|| ended(code), NotRunning::Told))
        }
        (_, code) => Err(ended(code)),
    }
}

fn ended(code: u32) -> NotRunning {
    NotRunning::Ended(io::Error::from_raw_os_error(code.cast_signed()))
}

/// Starts a service and waits; what its status is then.
fn started(name: &str) -> io::Result<SERVICE_STATUS> {
    let service = there(name, SERVICE_START | SERVICE_QUERY_STATUS)?;
    let since = Instant::now();
    loop {
        // SAFETY: the service is open for it; it gets no arguments.
        match super::done(unsafe { StartServiceW(service.0, 0, null()) }) {
            Err(error) if is(&error, ERROR_SERVICE_ALREADY_RUNNING) => break,
            // Another one is being started.
            Err(error)
                if is(&error, ERROR_SERVICE_DATABASE_LOCKED) && since.elapsed() < PATIENCE =>
            {
                sleep(LOOK);
            }
            started => break started?,
        }
    }
    service.wait(|state| state == SERVICE_RUNNING || state == SERVICE_STOPPED)
}

/// Stops a service, and waits until it has.
///
/// # Errors
///
/// What Windows says.
pub fn stop(name: &str) -> io::Result<()> {
    there(name, SERVICE_STOP | SERVICE_QUERY_STATUS)?.stop()
}

/// Stops a service, removes it, and waits until its name is free.
///
/// # Errors
///
/// What Windows says.
pub fn remove(name: &str) -> io::Result<()> {
    let service = there(name, SERVICE_STOP | SERVICE_QUERY_STATUS | DELETE)?;
    service.stop()?;
    match service.delete() {
        Err(error) if is(&error, ERROR_SERVICE_MARKED_FOR_DELETE) => {}
        deleted => deleted?,
    }
    drop(service);
    let since = Instant::now();
    // It stays while somebody has it open.
    while open(name, SERVICE_QUERY_STATUS)?.is_some() {
        if since.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(LOOK);
    }
    Ok(())
}

/// The services of tunnels, and what they run.
///
/// # Errors
///
/// What Windows says.
pub fn tunnels() -> io::Result<Vec<folder::Service>> {
    let manager = manager(SC_MANAGER_CONNECT | SC_MANAGER_ENUMERATE_SERVICE)?;
    let mut words = vec![0_u64; LIST_WORDS];
    let (mut needed, mut count, mut next) = (0, 0, 0);
    let mut names = Vec::new();
    loop {
        // SAFETY: the manager is open for it; the buffer has this many bytes; places for three numbers.
        let listed = super::done(unsafe {
            EnumServicesStatusW(
                manager.0,
                SERVICE_WIN32_OWN_PROCESS,
                SERVICE_STATE_ALL,
                words.as_mut_ptr().cast(),
                mem::size_of_val(&*words) as u32,
                &raw mut needed,
                &raw mut count,
                &raw mut next,
            )
        });
        let first: *const ENUM_SERVICE_STATUSW = words.as_ptr().cast();
        for at in 0..count as usize {
            // SAFETY: so many were written from the front, and words are aligned enough.
            let row = unsafe { &*first.wrapping_add(at) };
            // SAFETY: the name is in the buffer, and ends with a NUL.
            names.push(unsafe { pointed(row.lpServiceName) });
        }
        match listed {
            Ok(()) => break,
            // More follow.
            Err(_) if next != 0 && count != 0 => {}
            Err(error) => return Err(error),
        }
    }
    names.retain(|name| folder::tunnel_of(name).is_some());
    let mut services = Vec::new();
    for name in names {
        // Gone meanwhile is gone.
        if let Some(service) = open(&name, SERVICE_QUERY_CONFIG)? {
            services.push(folder::Service { command_line: service.command_line()?, name });
        }
    }
    Ok(services)
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// This machine's manager.
fn manager(rights: u32) -> io::Result<Handle> {
    // SAFETY: this machine's, and its usual database.
    Handle::of(unsafe { OpenSCManagerW(null(), null(), rights) })
}

/// A service, if there is one.
fn open(name: &str, rights: u32) -> io::Result<Option<Handle>> {
    let (manager, name) = (manager(SC_MANAGER_CONNECT)?, wide(name));
    // SAFETY: the manager is open, and the name ends with a NUL.
    match Handle::of(unsafe { OpenServiceW(manager.0, name.as_ptr(), rights) }) {
        Err(error) if is(&error, ERROR_SERVICE_DOES_NOT_EXIST) => Ok(None),
        service => service.map(Some),
    }
}

fn there(name: &str, rights: u32) -> io::Result<Handle> {
    open(name, rights)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The manager, or a service.
struct Handle(SC_HANDLE);

impl Handle {
    fn of(handle: SC_HANDLE) -> io::Result<Self> {
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    fn status(&self) -> io::Result<SERVICE_STATUS> {
        let mut status = SERVICE_STATUS::default();
        // SAFETY: the service is open; a place for its status.
        super::done(unsafe { QueryServiceStatus(self.0, &raw mut status) })?;
        Ok(status)
    }

    /// Waits for a state.
    fn wait(&self, is_it: impl Fn(u32) -> bool) -> io::Result<SERVICE_STATUS> {
        let since = Instant::now();
        loop {
            let status = self.status()?;
            if is_it(status.dwCurrentState) {
                return Ok(status);
            }
            if since.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(LOOK);
        }
    }

    fn stop(&self) -> io::Result<()> {
        let since = Instant::now();
        loop {
            let mut status = SERVICE_STATUS::default();
            // SAFETY: the service is open for it; a place for its status.
            let told = super::done(unsafe {
                ControlService(self.0, SERVICE_CONTROL_STOP, &raw mut status)
            });
            match told {
                Err(error) if is(&error, ERROR_SERVICE_NOT_ACTIVE) => return Ok(()),
                // It is about to start, or to stop.
                Err(error)
                    if is(&error, ERROR_SERVICE_CANNOT_ACCEPT_CTRL)
                        && since.elapsed() < PATIENCE =>
                {
                    sleep(LOOK);
                }
                told => break told?,
            }
        }
        self.wait(|state| state == SERVICE_STOPPED).map(drop)
    }

    fn delete(&self) -> io::Result<()> {
        // SAFETY: the service is open for it.
        super::done(unsafe { DeleteService(self.0) })
    }

    /// Sets one part of the configuration; whether this Windows knows it.
    fn change<T>(&self, what: SERVICE_CONFIG, to: &T) -> io::Result<bool> {
        // SAFETY: the service is open for it; the structure is the one of this part, and what it points to lives as long.
        let changed =
            super::done(unsafe { ChangeServiceConfig2W(self.0, what, (&raw const *to).cast()) });
        match changed {
            Err(error) if is(&error, ERROR_INVALID_LEVEL) => Ok(false),
            changed => changed.map(|()| true),
        }
    }

    fn command_line(&self) -> io::Result<String> {
        let mut words = vec![0_u64; CONFIG_WORDS];
        let mut needed = 0;
        let config: *mut QUERY_SERVICE_CONFIGW = words.as_mut_ptr().cast();
        // SAFETY: the service is open for it; the buffer has this many bytes.
        super::done(unsafe {
            QueryServiceConfigW(self.0, config, mem::size_of_val(&*words) as u32, &raw mut needed)
        })?;
        // SAFETY: it was written, and words are aligned enough.
        let path = unsafe { (*config).lpBinaryPathName };
        // SAFETY: the text is in the buffer, and ends with a NUL.
        Ok(unsafe { pointed(path) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once.
        unsafe { CloseServiceHandle(self.0) };
    }
}
