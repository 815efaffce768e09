//! `serve`: the stock `wg.exe` sees an interface while this runs.

use ctl::driver::Driver;
use ctl::windows::device::Adapters;
use ctl::windows::pipe::Listener;
use ctl::words::said;

use super::reach::no_access;
use super::{Failure, Outcome, note};

/// Serves the interface `name` until it is stopped.
pub(crate) fn serve(name: &str) -> Outcome {
    // Whether there is one is known before anybody is told so.
    drop(Adapters.open(name).map_err(no_access)?);
    let listener = Listener::new(name).map_err(|error| {
        let why = "`wg` believes a pipe of the system's alone, which only LocalSystem can make";
        Failure::new("Unable to make the pipe", format!("{} ({why})", said(&error)))
    })?;
    Err(Failure::new("pipe", said(&clients(listener, name))))
}

/// Serves one client beside the other, until the pipe fails.
fn clients(mut listener: Listener, name: &str) -> std::io::Error {
    loop {
        let client = match listener.accept() {
            Ok(client) => client,
            Err(error) => return error,
        };
        let name = name.to_owned();
        std::thread::spawn(move || match Adapters.open(&name) {
            // A client that goes in the middle of something is nobody's fault.
            Ok(device) => drop(ctl::uapi::serve(client, &*device)),
            Err(failure) => note(failure),
        });
    }
}
