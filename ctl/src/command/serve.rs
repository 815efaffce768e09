//! The stock `wg.exe` sees an interface: while `serve` runs, or the tunnel's service.

use std::fs::File;
use std::io;
use std::sync::Arc;

use ctl::driver::Driver;
use ctl::policy::limited_operators;
use ctl::uapi::Rights;
use ctl::windows::device::Adapters;
use ctl::windows::pipe::Listener;
use ctl::windows::registry::LocalMachine;
use ctl::words::said;

use super::reach::no_access;
use super::{Failure, Outcome};

/// Serves the interface `name` until it is stopped.
pub(crate) fn serve(name: &str) -> Outcome {
    // Whether there is one is known before anybody is told so.
    drop(Adapters.open(name).map_err(no_access)?);
    let listener = listener(name).map_err(|error| {
        let why = "`wg` believes a pipe of the system's alone, which only LocalSystem can make";
        Failure::new("Unable to make the pipe", format!("{} ({why})", said(&error)))
    })?;
    Err(Failure::new("pipe", said(&listener.run(clients(name)))))
}

/// The pipe, as policy wants it.
fn listener(name: &str) -> io::Result<Listener> {
    Listener::new(name, limited_operators(&LocalMachine))
}

/// The same beside what else a process does, until that ends or the pipe fails, which is told.
pub(crate) fn listen(name: &str, told: impl FnOnce(io::Error) + Send + 'static) -> io::Result<()> {
    let (listener, clients) = (listener(name)?, clients(name));
    std::thread::Builder::new().spawn(move || told(listener.run(clients))).map(drop)
}

/// Serves a client. One that goes in the middle of something is nobody's fault, and whom the adapter's going meets is told nothing.
fn clients(name: &str) -> Arc<ctl::windows::pipe::Serve> {
    let name = name.to_owned();
    Arc::new(move |pipe: &File, rights: &dyn Fn() -> Rights| {
        if let Ok(device) = Adapters.open(&name) {
            let _ = ctl::uapi::serve(pipe, &*device, rights);
        }
    })
}
