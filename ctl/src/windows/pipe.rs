//! The named pipe where the stock `wg.exe` looks for an interface: it is the system's, and only administrators may open it.
//!
//! `wg.exe` believes a pipe that LocalSystem owns and no other, so that nobody else is asked in its place; only LocalSystem can make one.
//!
//! Source: <https://learn.microsoft.com/windows/win32/ipc/named-pipe-security-and-access-rights>; `wg`'s `ipc-uapi-windows.h`.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::mpsc::channel;

use windows_sys::Win32::Foundation::ERROR_PIPE_CONNECTED;
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, RevertToSelf, SetKernelObjectSecurity,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, PIPE_ACCESS_DUPLEX, WRITE_DAC,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, ImpersonateNamedPipeClient,
    PIPE_REJECT_REMOTE_CLIENTS,
};

use super::access::Access;
use super::token;
use super::wide::wide;
use crate::service::descriptor::Sid;
use crate::uapi::Rights;

/// Where `wg.exe` looks; what stands behind it is the interface's name.
pub const PREFIX: &str = r"\\.\pipe\ProtectedPrefix\Administrators\WireGuard\";
/// The system's own. It and administrators may do everything, and nobody who is not of high integrity may do anything.
const ACCESS: &str = "O:SYD:P(A;;GA;;;SY)(A;;GA;;;BA)S:(ML;;NWNRNX;;;HI)";
/// The same list, and Network Configuration Operators may read and write.
const WITH_OPERATORS: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GRGW;;;S-1-5-32-556)";
/// Clients that are served at once. All instances are made before anybody can connect, and none is ever closed: who may write may make one
/// of his own, and would be taken for the system there.
const INSTANCES: u32 = 8;
/// Bytes that the pipe keeps each way.
const BUFFER: u32 = 4096;

/// A pipe that waits for clients.
pub struct Listener {
    instances: Vec<OwnedHandle>,
    operators: bool,
}

/// Serves a client: its pipe, and what it may do, which is known once something was read.
pub type Serve = dyn Fn(&File, &dyn Fn() -> Rights) + Send + Sync;

impl Listener {
    /// Makes the pipe of the interface `name`; with `operators` Network Configuration Operators may ask how it does.
    ///
    /// # Errors
    ///
    /// There is one already, or this is not the system.
    pub fn new(name: &str, operators: bool) -> io::Result<Self> {
        let path = wide(format!("{PREFIX}{name}"));
        let access = Access::of(ACCESS)?;
        let mut instances = vec![instance(&path, &access, FILE_FLAG_FIRST_PIPE_INSTANCE)?];
        for _ in 1..INSTANCES {
            instances.push(instance(&path, &access, 0)?);
        }
        if let (true, Some(first)) = (operators, instances.first()) {
            let access = Access::of(WITH_OPERATORS)?;
            // The list is the pipe's, and so each instance's.
            let descriptor = access.attributes().lpSecurityDescriptor;
            // SAFETY: the pipe was opened for it, and the descriptor lives as long as the call.
            super::done(unsafe {
                SetKernelObjectSecurity(
                    first.as_raw_handle(),
                    DACL_SECURITY_INFORMATION,
                    descriptor,
                )
            })?;
        }
        Ok(Self { instances, operators })
    }

    /// Serves each instance's clients one after the other, until waiting for one fails.
    ///
    /// # Errors
    ///
    /// Why it did.
    pub fn run(self, serve: Arc<Serve>) -> io::Error {
        let (failed, failures) = channel();
        let operators = self.operators;
        for instance in self.instances {
            let (serve, failed) = (serve.clone(), failed.clone());
            let clients = move || {
                // Who hears it does not wait for a second one.
                let _ = failed.send(clients(&File::from(instance), operators, &*serve));
            };
            if let Err(error) = std::thread::Builder::new().spawn(clients) {
                return error;
            }
        }
        failures.recv().unwrap_or_else(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The clients of one instance.
fn clients(pipe: &File, operators: bool, serve: &Serve) -> io::Error {
    loop {
        // SAFETY: a pipe of ours that is not connected, and not for overlapped requests.
        let connected = super::done(unsafe { ConnectNamedPipe(pipe.as_raw_handle(), null_mut()) });
        match connected {
            // It was there before it was waited for.
            Err(error) if error.raw_os_error() != Some(ERROR_PIPE_CONNECTED.cast_signed()) => {
                return error;
            }
            _ => {}
        }
        serve(pipe, &|| rights(pipe, operators));
        // Until it has read what it was told last; it may have gone.
        let _ = pipe.sync_all();
        // SAFETY: a pipe of ours.
        if let Err(error) = super::done(unsafe { DisconnectNamedPipe(pipe.as_raw_handle()) }) {
            return error;
        }
    }
}

/// What the client of a pipe may do. Without operators the pipe's list let nobody in but whoever may do everything.
fn rights(pipe: &File, operators: bool) -> Rights {
    if !operators || is_administrator(pipe).unwrap_or(false) { Rights::All } else { Rights::Status }
}

/// Whether the client of a pipe is the system or an administrator: both are of the same group.
fn is_administrator(pipe: &File) -> io::Result<bool> {
    // SAFETY: a pipe of ours, which was read from.
    super::done(unsafe { ImpersonateNamedPipeClient(pipe.as_raw_handle()) })?;
    let asked = token::is_of(&Sid::nt(&[32, 544]));
    // SAFETY: takes nothing.
    if unsafe { RevertToSelf() } == 0 {
        // As somebody else nothing may be done.
        std::process::abort();
    }
    asked
}

fn instance(path: &[u16], access: &Access, flags: u32) -> io::Result<OwnedHandle> {
    let attributes = access.attributes();
    // SAFETY: the path ends with a NUL, and the descriptor lives as long as the call.
    let handle = unsafe {
        CreateNamedPipeW(
            path.as_ptr(),
            PIPE_ACCESS_DUPLEX | WRITE_DAC | flags,
            PIPE_REJECT_REMOTE_CLIENTS,
            INSTANCES,
            BUFFER,
            BUFFER,
            0,
            &raw const attributes,
        )
    };
    // SAFETY: it was just made, and nobody else has it.
    unsafe { super::owned(handle) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    use super::*;
    use crate::driver::{Answer, Device, Status};

    /// An interface without a key.
    struct Empty;

    impl Device for Empty {
        fn control(&self, _: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
            output.fill(0);
            Ok(Answer { status: Status::SUCCESS, information: abi::ioctl::INTERFACE_LEN })
        }
    }

    /// More clients than there are instances, beside each other, with and without operators; no further instance can be made.
    #[test]
    fn clients_are_served_beside_and_behind_each_other() {
        for operators in [false, true] {
            let name = format!("penstock-test-{operators}");
            let listener = Listener::new(&name, operators).unwrap();
            let path = format!("{PREFIX}{name}");
            let another = instance(&wide(&path), &Access::of(ACCESS).unwrap(), 0);
            assert!(another.is_err(), "another instance of {path}");
            std::thread::spawn(move || {
                listener.run(Arc::new(|pipe, rights| {
                    // A client that goes is nobody's fault.
                    let _ = crate::uapi::serve(pipe, &Empty, rights);
                }))
            });
            let client = move |_| {
                let path = path.clone();
                std::thread::spawn(move || {
                    // All may be busy.
                    let open = || OpenOptions::new().read(true).write(true).open(&path);
                    let mut pipe = loop {
                        match open() {
                            Ok(pipe) => break pipe,
                            Err(_) => std::thread::yield_now(),
                        }
                    };
                    pipe.write_all(b"get=1\n\nset=1\nlisten_port=7\n\nnonsense\n").unwrap();
                    let mut answers = Vec::new();
                    // A pipe that is disconnected fails when all of it was read.
                    let _ = pipe.read_to_end(&mut answers);
                    String::from_utf8(answers).unwrap()
                })
            };
            let clients: Vec<_> = (0..3 * INSTANCES).map(client).collect();
            for client in clients {
                let answer = "listen_port=0\nerrno=0\n\nerrno=0\n\nerrno=-71\n\n";
                assert_eq!(client.join().unwrap(), answer);
            }
        }
    }
}
