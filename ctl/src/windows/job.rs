//! Processes that end together: a program, and all that it starts.
//!
//! The program is put into the job before its first instruction, so that nothing it starts is outside. They end, too, when this process does.
//!
//! Source: <https://learn.microsoft.com/windows/win32/procthread/job-objects>.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command};
use std::ptr::null;
use std::time::Duration;

use windows_sys::Win32::Foundation::{WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{
    CREATE_SUSPENDED, OpenThread, ResumeThread, THREAD_SUSPEND_RESUME, WaitForSingleObject,
};

/// A program that runs, and what it started.
pub(super) struct Job {
    job: OwnedHandle,
    child: Child,
}

impl Job {
    /// Starts a program, whose creation flags these are besides.
    pub(super) fn start(command: &mut Command, flags: u32) -> io::Result<Self> {
        // SAFETY: no attributes and no name.
        let job = unsafe { CreateJobObjectW(null(), null()) };
        // SAFETY: it was just made, and nobody else has it.
        let job = unsafe { super::owned(job) }?;
        let child = command.creation_flags(flags | CREATE_SUSPENDED).spawn()?;
        let mut started = Self { job, child };
        let runs = started.limit(JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE).and_then(|()| {
            let (job, process) = (started.job.as_raw_handle(), started.child.as_raw_handle());
            // SAFETY: both are open.
            super::done(unsafe { AssignProcessToJobObject(job, process) })?;
            resume(started.child.id())
        });
        if let Err(why) = runs {
            // It did nothing yet, and may not be of the job.
            let _ = started.child.kill();
            return Err(why);
        }
        Ok(started)
    }

    /// How the program ended; none if it did not within this time, and was ended with all that it started. What goes on when it ends in time
    /// is left alone.
    pub(super) fn wait(mut self, limit: Duration) -> io::Result<Option<std::process::ExitStatus>> {
        let wait_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX - 1);
        // SAFETY: the process is open.
        match unsafe { WaitForSingleObject(self.child.as_raw_handle(), wait_ms) } {
            WAIT_OBJECT_0 => {
                self.limit(0)?;
                self.child.wait().map(Some)
            }
            WAIT_TIMEOUT => {
                // SAFETY: the job is open.
                super::done(unsafe { TerminateJobObject(self.job.as_raw_handle(), 1) })?;
                self.child.wait().map(|_| None)
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn limit(&self, flags: JOB_OBJECT_LIMIT) -> io::Result<()> {
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = flags;
        // SAFETY: the job is open; the structure is this class's.
        super::done(unsafe {
            SetInformationJobObject(
                self.job.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_val(&limits) as u32,
            )
        })
    }
}

/// Lets the threads of a process go on; of one that was started suspended there is one.
fn resume(process: u32) -> io::Result<()> {
    // SAFETY: all threads; the process is not looked at then.
    let list = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) };
    // SAFETY: it was just made, and nobody else has it.
    let list = unsafe { super::owned(list) }?;
    let mut entry =
        THREADENTRY32 { dwSize: size_of::<THREADENTRY32>() as u32, ..Default::default() };
    // SAFETY: the list is open; the structure says how long it is.
    let mut there = unsafe { Thread32First(list.as_raw_handle(), &raw mut entry) };
    let mut resumed = Err(io::ErrorKind::NotFound.into());
    while there != 0 {
        if entry.th32OwnerProcessID == process {
            // SAFETY: takes a number, and gives a handle or none.
            let thread = unsafe { OpenThread(THREAD_SUSPEND_RESUME, 0, entry.th32ThreadID) };
            // SAFETY: it was just opened, and nobody else has it.
            let thread = unsafe { super::owned(thread) }?;
            // SAFETY: the thread is open for it.
            if unsafe { ResumeThread(thread.as_raw_handle()) } == u32::MAX {
                return Err(io::Error::last_os_error());
            }
            resumed = Ok(());
        }
        // SAFETY: as above.
        there = unsafe { Thread32Next(list.as_raw_handle(), &raw mut entry) };
    }
    resumed
}
