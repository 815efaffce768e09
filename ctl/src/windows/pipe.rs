//! The named pipe where the stock `wg.exe` looks for an interface: it is the system's, and only administrators may open it.
//!
//! `wg.exe` believes a pipe that LocalSystem owns and no other, so that nobody else is asked in its place; only LocalSystem can make one.
//!
//! Source: <https://learn.microsoft.com/windows/win32/ipc/named-pipe-security-and-access-rights>; `wg`'s `ipc-uapi-windows.h`.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_FIRST_PIPE_INSTANCE, PIPE_ACCESS_DUPLEX};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, PIPE_REJECT_REMOTE_CLIENTS, PIPE_UNLIMITED_INSTANCES,
};

use super::access::Access;
use super::wide::wide;

/// Where `wg.exe` looks; what stands behind it is the interface's name.
pub const PREFIX: &str = r"\\.\pipe\ProtectedPrefix\Administrators\WireGuard\";
/// The system's own. It and administrators may do everything, and nobody who is not of high integrity may do anything.
const ACCESS: &str = "O:SYD:P(A;;GA;;;SY)(A;;GA;;;BA)S:(ML;;NWNRNX;;;HI)";
/// Bytes that the pipe keeps each way.
const BUFFER: u32 = 4096;

/// A pipe that waits for clients.
pub struct Listener {
    path: Vec<u16>,
    access: Access,
    /// The instance that the next client gets.
    next: OwnedHandle,
}

impl Listener {
    /// Makes the pipe of the interface `name`.
    ///
    /// # Errors
    ///
    /// There is one already, or this is not the system.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = wide(format!("{PREFIX}{name}"));
        let access = Access::of(ACCESS)?;
        let next = instance(&path, &access, FILE_FLAG_FIRST_PIPE_INSTANCE)?;
        Ok(Self { path, access, next })
    }

    /// Waits for a client.
    ///
    /// # Errors
    ///
    /// Whatever Windows says.
    pub fn accept(&mut self) -> io::Result<File> {
        // SAFETY: a pipe of ours that is not connected, and not for overlapped requests.
        let connected =
            super::done(unsafe { ConnectNamedPipe(self.next.as_raw_handle(), null_mut()) });
        match connected {
            // It was there before it was waited for.
            Err(error) if error.raw_os_error() != Some(ERROR_PIPE_CONNECTED.cast_signed()) => {
                return Err(error);
            }
            _ => {}
        }
        let next = instance(&self.path, &self.access, 0)?;
        Ok(std::mem::replace(&mut self.next, next).into())
    }
}

fn instance(path: &[u16], access: &Access, flags: u32) -> io::Result<OwnedHandle> {
    let attributes = access.attributes();
    // SAFETY: the path ends with a NUL, and the descriptor lives as long as the call.
    let handle = unsafe {
        CreateNamedPipeW(
            path.as_ptr(),
            PIPE_ACCESS_DUPLEX | flags,
            PIPE_REJECT_REMOTE_CLIENTS,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER,
            BUFFER,
            0,
            &raw const attributes,
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
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

    #[test]
    fn clients_are_served_one_after_the_other() {
        let mut listener = Listener::new("penstock-test").unwrap();
        let client = std::thread::spawn(|| {
            let mut answers = String::new();
            for _ in 0..2 {
                let path = format!("{PREFIX}penstock-test");
                let mut pipe = OpenOptions::new().read(true).write(true).open(path).unwrap();
                pipe.write_all(b"get=1\n\nnonsense\n").unwrap();
                pipe.read_to_string(&mut answers).unwrap();
            }
            answers
        });
        for _ in 0..2 {
            crate::uapi::serve(listener.accept().unwrap(), &Empty).unwrap();
        }
        let answer = "listen_port=0\nerrno=0\n\nerrno=-71\n\n";
        assert_eq!(client.join().unwrap(), answer.repeat(2));
    }
}
