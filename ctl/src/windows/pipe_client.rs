//! The other end of the pipe: asks a tunnel's service how the tunnel does, for whoever may not ask the driver.
//!
//! A pipe that LocalSystem owns is believed, and no other. The service may find out who asks and nothing more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::sync::mpsc::channel;
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;
use windows_sys::Win32::Storage::FileSystem::SECURITY_IDENTIFICATION;

use super::files::descriptor_of;
use super::pipe::PREFIX;
use crate::service::descriptor::{Descriptor, Sid};
use crate::uapi;

/// How long a service may take that is asked by many, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is not asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// What the driver would have said of the interface `name`, without its secrets.
///
/// # Errors
///
/// There is no such pipe, it is not the system's, or it does not answer.
pub fn ask(name: &str) -> io::Result<Vec<u8>> {
    asked_of(name, &Sid::nt(&[18]))
}

fn asked_of(name: &str, system: &Sid) -> io::Result<Vec<u8>> {
    if name.contains(['\\', '/']) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pipe = opened(&format!("{PREFIX}{name}"))?;
    let owner = Descriptor::parse(&descriptor_of(&pipe)?).map(|descriptor| descriptor.owner);
    if owner.as_ref() != Some(system) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (answered, answer) = channel();
    // Reading has no limit of its own; this thread ends with the program.
    Builder::new().spawn(move || {
        // Who does not wait any more has been told so.
        let _ = answered.send(uapi::ask(pipe));
    })?;
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Opens a pipe, when one of its instances is free.
fn opened(path: &str) -> io::Result<File> {
    let deadline = Instant::now() + PATIENCE;
    let mut options = OpenOptions::new();
    options.read(true).write(true).security_qos_flags(SECURITY_IDENTIFICATION);
    loop {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed()) => {
                if Instant::now() > deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sleep(PAUSE);
            }
            pipe => return pipe,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use abi::ioctl::Set;

    use super::*;
    use crate::driver::{Answer, Device, Status};
    use crate::windows::pipe::Listener;

    /// An interface without a key, on a port.
    struct OnPort;

    impl Device for OnPort {
        fn control(&self, _: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
            let change = crate::change::Change { listen_port: Some(7), ..Default::default() };
            let bytes = change.encode();
            output[..bytes.len()].copy_from_slice(&bytes);
            Ok(Answer { status: Status::SUCCESS, information: bytes.len() })
        }
    }

    /// More of them than there are instances; and a pipe that is somebody else's.
    #[test]
    fn a_service_is_asked_and_nobody_else() {
        let name = "penstock-test-asked";
        assert_eq!(ask(name).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(ask(r"..\x").unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = Listener::new(name, true).unwrap();
        std::thread::spawn(move || {
            listener.run(Arc::new(|pipe, rights| {
                // A client that goes is nobody's fault.
                let _ = uapi::serve(pipe, &OnPort, rights);
            }))
        });
        let pipe = opened(&format!("{PREFIX}{name}")).unwrap();
        // Wine does not keep who owns a pipe: it is whoever runs this.
        let owner = Descriptor::parse(&descriptor_of(&pipe).unwrap()).unwrap().owner;
        drop(pipe);
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let owner = owner.clone();
                std::thread::spawn(move || asked_of(name, &owner).unwrap())
            })
            .collect();
        for answer in asked {
            let answer = answer.join().unwrap();
            let set = Set::parse(&answer).unwrap();
            assert_eq!((set.listen_port(), set.private_key()), (Some(7), None));
        }
        let other = Sid::nt(&[32, 545]);
        assert_ne!(owner, other);
        let refused = asked_of(name, &other).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
