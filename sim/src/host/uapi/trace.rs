//! `trace=start` and `trace=stop`: sessions of event tracing on the simulated machine, and their log files.
//!
//! An addition of ours to the protocol, for `penstock trace`: lines `name=NAME`, and to start `file=PATH`, `level=N` and
//! `keywords=N`. The answer to a stop has `lost=N`, the events the session had no room for, and `file=PATH`. A file is there from
//! the start, and written when its session is stopped, or the machine is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use abi::trace::PROVIDER_BYTES;

use crate::nt::etl::{self, About};
use crate::nt::etw::Wanted;
use crate::nt::machine::Machine;
use crate::nt::timer;
use crate::verifier::schedule::lock;

/// The first line of a request that starts a session.
pub const START: &str = "trace=start";
/// The first line of a request that stops one.
pub const STOP: &str = "trace=stop";
/// The most sessions of a machine, as on Windows.
const SESSIONS: usize = 64;

/// What a request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The session.
    pub name: String,
    /// Its file.
    pub file: String,
    /// See [`Wanted::level`].
    pub level: u8,
    /// See [`Wanted::any`].
    pub keywords: u64,
}

impl Request {
    /// Takes a line; `None` if it is nobody's.
    pub fn line(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        match key {
            "name" => value.clone_into(&mut self.name),
            "file" => value.clone_into(&mut self.file),
            "level" => self.level = value.parse().ok()?,
            "keywords" => self.keywords = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// The sessions of a machine, by name.
pub struct Sessions {
    machine: Arc<Machine>,
    running: Mutex<BTreeMap<String, Session>>,
}

struct Session {
    number: u64,
    path: String,
    file: File,
}

impl Sessions {
    /// None yet.
    #[must_use]
    pub fn new(machine: Arc<Machine>) -> Self {
        Self { machine, running: Mutex::default() }
    }

    /// Starts a session that wants events of the driver's provider.
    ///
    /// # Errors
    ///
    /// A positive errno: `EEXIST` if it runs, `ENOSPC` if there are too many, what the system says of the file.
    pub fn start(&self, request: &Request) -> Result<(), i32> {
        let mut running = lock(&self.running);
        if running.contains_key(&request.name) {
            return Err(libc::EEXIST);
        }
        if running.len() >= SESSIONS {
            return Err(libc::ENOSPC);
        }
        let file = File::create(&request.file)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        let wanted = Wanted {
            provider: PROVIDER_BYTES,
            level: request.level,
            any: request.keywords,
            all: 0,
        };
        let number = self.machine.begin_trace(wanted);
        let session = Session { number, path: request.file.clone(), file };
        running.insert(request.name.clone(), session);
        Ok(())
    }

    /// Stops a session and writes its file: the events it had no room for, and the file's path.
    ///
    /// # Errors
    ///
    /// A positive errno: `ENOENT` if none of the name runs, what the system says of the file.
    pub fn stop(&self, name: &str) -> Result<(u64, String), i32> {
        let session = lock(&self.running).remove(name).ok_or(libc::ENOENT)?;
        self.write(name, session)
    }

    fn write(&self, name: &str, mut session: Session) -> Result<(u64, String), i32> {
        let machine = &self.machine;
        // As `penstock trace stop` asks for on Windows: what the driver has not told yet.
        machine.flush_trace(session.number);
        let kept = machine.end_trace(session.number);
        let now = timer::in_100ns(machine.world().now());
        let about = About {
            session: name,
            path: &session.path,
            cpus: machine.options().cpus,
            booted: timer::system_time(machine).saturating_sub(now),
        };
        let written = session.file.write_all(&etl::file(&kept, &about));
        written.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        Ok((kept.lost, session.path))
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        for (name, session) in std::mem::take(&mut *lock(&self.running)) {
            // Nobody is there to be told.
            let _ = self.write(&name, session);
        }
    }
}
