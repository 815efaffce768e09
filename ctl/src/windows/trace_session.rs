//! Sessions of event tracing (ETW).
//!
//! Source: <https://learn.microsoft.com/windows/win32/etw/configuring-and-starting-an-event-tracing-session>.

use std::path::{Component, Prefix};
use std::{io, mem};

use abi::trace::PROVIDER;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, ERROR_WMI_INSTANCE_NOT_FOUND,
};
use windows_sys::Win32::System::Diagnostics::Etw::{
    CONTROLTRACE_HANDLE, ControlTraceW, EVENT_CONTROL_CODE_CAPTURE_STATE,
    EVENT_CONTROL_CODE_ENABLE_PROVIDER, EVENT_TRACE_CONTROL, EVENT_TRACE_CONTROL_QUERY,
    EVENT_TRACE_CONTROL_STOP, EVENT_TRACE_FILE_MODE_CIRCULAR, EVENT_TRACE_PROPERTIES,
    EnableTraceEx2, StartTraceW, WNODE_FLAG_TRACED_GUID,
};
use windows_sys::core::GUID;

use super::checked;
use super::wide::{text, wide};
use crate::etl::session::{Ended, NONE, Session, Why, runs};
use crate::words::said;

/// The longest name of a session or file, with its NUL.
const NAME_MAX: usize = 1024;
/// Stamps are those of the performance counter.
const PERFORMANCE_COUNTER: u32 = 1;
/// KiB of a buffer; each CPU has two.
const BUFFER_KIB: u32 = 64;
/// Seconds until a buffer that is not full is written.
const FLUSHED_S: u32 = 1;
/// Milliseconds until the driver has told what it has.
const TOLD_MS: u32 = 2_000;

/// What Windows is told of a session, with room for its names.
#[repr(C)]
struct Properties {
    head: EVENT_TRACE_PROPERTIES,
    name: [u16; NAME_MAX],
    file: [u16; NAME_MAX],
}

impl Properties {
    fn new() -> Self {
        let mut head = EVENT_TRACE_PROPERTIES::default();
        head.Wnode.BufferSize = size_of::<Self>() as u32;
        head.Wnode.Flags = WNODE_FLAG_TRACED_GUID;
        head.Wnode.ClientContext = PERFORMANCE_COUNTER;
        head.LoggerNameOffset = mem::offset_of!(Self, name) as u32;
        head.LogFileNameOffset = mem::offset_of!(Self, file) as u32;
        Self { head, name: [0; NAME_MAX], file: [0; NAME_MAX] }
    }

    /// Makes a call of a session that runs, about which this then is.
    fn control(&mut self, name: &str, what: EVENT_TRACE_CONTROL) -> io::Result<()> {
        let name = wide(name);
        let none = CONTROLTRACE_HANDLE { Value: 0 };
        // SAFETY: the name ends with a NUL, and the properties say how long they are and where there is room for names.
        checked(unsafe { ControlTraceW(none, name.as_ptr(), &raw mut self.head, what) })
    }
}

/// Starts a session that wants the driver's events.
///
/// # Errors
///
/// The reason, and what to do.
pub fn start(session: &Session) -> Result<(), Why> {
    if let Some(Component::Prefix(prefix)) = session.file.components().next()
        && matches!(prefix.kind(), Prefix::UNC(..) | Prefix::VerbatimUNC(..))
    {
        return Err("its file is to be on a drive of this machine".to_owned());
    }
    let mut properties = Properties::new();
    let (name, file) = (wide(&session.name), wide(&session.file));
    if session.name.is_empty() || name.len() > NAME_MAX || file.len() > NAME_MAX {
        return Err(format!("a name is of 1 to {} letters", NAME_MAX - 1));
    }
    for (place, unit) in properties.file.iter_mut().zip(file) {
        *place = unit;
    }
    let head = &mut properties.head;
    head.BufferSize = BUFFER_KIB;
    head.MaximumFileSize = session.max_mib;
    head.LogFileMode = EVENT_TRACE_FILE_MODE_CIRCULAR;
    head.FlushTimer = FLUSHED_S;
    let mut handle = CONTROLTRACE_HANDLE { Value: 0 };
    // SAFETY: as in `control`; the handle is ours.
    let started = unsafe { StartTraceW(&raw mut handle, name.as_ptr(), head) };
    checked(started).map_err(|error| why(&error, &session.name))?;
    let enabled = enable(handle, EVENT_CONTROL_CODE_ENABLE_PROVIDER, session, 0);
    enabled.map_err(|error| {
        // One that listens to nobody is of no use.
        let _ = Properties::new().control(&session.name, EVENT_TRACE_CONTROL_STOP);
        why(&error, &session.name)
    })
}

/// Stops it, once the driver has told what it has.
///
/// # Errors
///
/// As above.
pub fn stop(name: &str) -> Result<Ended, Why> {
    let mut properties = Properties::new();
    let asked = properties.control(name, EVENT_TRACE_CONTROL_QUERY);
    asked.map_err(|error| why(&error, name))?;
    // SAFETY: both members are numbers.
    let handle = unsafe { properties.head.Wnode.Anonymous1.HistoricalContext };
    let all = Session {
        name: name.to_owned(),
        file: Default::default(),
        level: 0,
        keywords: 0,
        max_mib: 0,
    };
    // If it is not there, it has nothing to tell.
    let _ = enable(
        CONTROLTRACE_HANDLE { Value: handle },
        EVENT_CONTROL_CODE_CAPTURE_STATE,
        &all,
        TOLD_MS,
    );
    let mut properties = Properties::new();
    let stopped = properties.control(name, EVENT_TRACE_CONTROL_STOP);
    stopped.map_err(|error| why(&error, name))?;
    Ok(Ended { file: text(&properties.file), lost: properties.head.EventsLost.into() })
}

/// Tells the driver's provider of a session.
fn enable(
    handle: CONTROLTRACE_HANDLE,
    code: u32,
    wanted: &Session,
    wait_ms: u32,
) -> io::Result<()> {
    let (data1, data2, data3, data4) = PROVIDER;
    let provider = GUID { data1, data2, data3, data4 };
    let Session { level, keywords, .. } = wanted;
    // SAFETY: the provider's name is read before it returns; there are no other parameters.
    checked(unsafe {
        EnableTraceEx2(
            handle,
            &raw const provider,
            code,
            *level,
            *keywords,
            0,
            wait_ms,
            std::ptr::null(),
        )
    })
}

/// What a failure means, and what to do.
fn why(error: &io::Error, name: &str) -> Why {
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(ERROR_ALREADY_EXISTS) => runs(name),
        Some(ERROR_WMI_INSTANCE_NOT_FOUND) => NONE.to_owned(),
        Some(ERROR_ACCESS_DENIED) => {
            "that is for administrators: run it from a terminal that was started as one".to_owned()
        }
        _ => said(error),
    }
}
