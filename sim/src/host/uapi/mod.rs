//! The cross-platform configuration protocol: how `wg` talks to a userspace implementation.
//!
//! A Unix socket at `/var/run/wireguard/NAME.sock`, mode 0600. A request is a block of lines ended
//! by an empty one; it is read to its end before anything is answered or done. `set=1` becomes one
//! SET IOCTL, `get=1` one GET; an error is an `errno=` line with the negative number that `wg`
//! expects. One connection may carry several requests. `policy=1`, `trace=` and `ioctl=CODE` are ours ([`policy`], [`trace`],
//! [`ioctl`]).
//!
//! Source: wireguard.com/xplatform; `wg`'s side of it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::linux::descriptor;
use crate::verifier::schedule::{World, lock};

pub mod ioctl;
pub mod policy;
pub mod request;
pub mod trace;
pub mod translate;

use policy::Setting;
use request::{Refusal, SetParser, SetRequest};

/// Where `wg` looks for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";
/// The longest line that is looked at.
const LINE_MAX: u64 = 4096;
/// The most lines of one request: room for more than a million allowed IPs.
const LINES_MAX: usize = 4 << 20;
/// Connections served at once.
const CONNECTIONS: usize = 64;

/// What the protocol configures.
pub trait Configured: Send + Sync {
    /// Applies a request, all of it or nothing.
    ///
    /// # Errors
    ///
    /// A positive errno.
    fn set(&self, request: &SetRequest) -> Result<(), i32>;

    /// The configuration as `key=value` lines.
    ///
    /// # Errors
    ///
    /// A positive errno.
    fn get(&self) -> Result<String, i32>;

    /// Sets and removes policy values, which then apply.
    ///
    /// # Errors
    ///
    /// A positive errno.
    fn set_policy(&self, settings: &[Setting]) -> Result<(), i32>;

    /// Starts a session of event tracing.
    ///
    /// # Errors
    ///
    /// A positive errno.
    fn start_trace(&self, request: &trace::Request) -> Result<(), i32>;

    /// Stops one: the events it lost, and its file.
    ///
    /// # Errors
    ///
    /// A positive errno.
    fn stop_trace(&self, name: &str) -> Result<(u64, String), i32>;

    /// Opens an administrator's handle, for the control requests of one connection.
    ///
    /// # Errors
    ///
    /// An NTSTATUS.
    fn open(&self) -> Result<Box<dyn Handle>, i32>;
}

/// An open handle; dropping it closes it.
pub trait Handle {
    /// Makes a control request; its NTSTATUS, and the length that is told beside it.
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> (i32, u64);
}

/// The listening socket; dropping it ends all connections and removes the file.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    configured: Arc<dyn Configured>,
    connections: Mutex<Vec<UnixStream>>,
    stopped: AtomicBool,
    wake: OwnedFd,
}

impl Server {
    /// Begins to listen for the interface `name` in `directory`.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process answers there, else whatever the system says.
    pub fn listen(
        world: &Arc<World>,
        directory: &Path,
        name: &str,
        configured: Arc<dyn Configured>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.sock"));
        if UnixStream::connect(&path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // What a crashed predecessor left: nobody answers there.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // SAFETY: sets the process's file mode mask; the socket must never be anybody else's to use.
        let mask = unsafe { libc::umask(0o077) };
        let listener = UnixListener::bind(&path);
        // SAFETY: puts the mask back.
        unsafe { libc::umask(mask) };
        let listener = listener?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            configured,
            connections: Mutex::default(),
            stopped: AtomicBool::new(false),
            wake: descriptor::event()?,
        });
        let (server, inner) = (shared.clone(), world.clone());
        world.spawn("uapi", move || server.accept(&inner, &listener));
        Ok(Self { path, shared })
    }

    /// Whether the socket's file is still there; when it is removed, so shall we be.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.path.exists()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        descriptor::signal(&self.shared.wake);
        for connection in &*lock(&self.shared.connections) {
            // It may have ended by itself.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, world: &Arc<World>, listener: &UnixListener) {
        while !self.stopped.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, _)) => self.serve(world, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if descriptor::wait_readable(listener.as_raw_fd(), self.wake.as_raw_fd(), -1)
                        .is_err()
                    {
                        return;
                    }
                }
                Err(_) => world.sleep(std::time::Duration::from_millis(20)),
            }
        }
    }

    /// Serves one connection in a thread of its own.
    fn serve(self: &Arc<Self>, world: &Arc<World>, stream: UnixStream) {
        let mut connections = lock(&self.connections);
        let (Ok(kept), true) = (stream.try_clone(), connections.len() < CONNECTIONS) else {
            return;
        };
        let number = kept.as_raw_fd();
        connections.push(kept);
        drop(connections);
        let shared = self.clone();
        world.spawn("uapi client", move || {
            if stream.set_nonblocking(false).is_ok() {
                // A client that goes away in the middle has nothing to be told.
                let _ = talk(&*shared.configured, &stream);
            }
            lock(&shared.connections).retain(|kept| kept.as_raw_fd() != number);
        });
    }
}

/// Answers requests until the client has no more.
fn talk(configured: &dyn Configured, stream: &UnixStream) -> io::Result<()> {
    let mut client = Client::new(configured);
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(answer) = client.answer(&mut reader)? {
        writer.write_all(&answer)?;
    }
    Ok(())
}

/// A connection, and the handle that its control requests have in common, from the first on: what ends with a handle ends with
/// the connection.
pub struct Client<'c> {
    configured: &'c dyn Configured,
    handle: Option<Box<dyn Handle>>,
}

impl<'c> Client<'c> {
    /// One that has made no request yet.
    #[must_use]
    pub fn new(configured: &'c dyn Configured) -> Self {
        Self { configured, handle: None }
    }

    /// Reads one request to its end and carries it out; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// Whatever reading says; a bad request is an answer.
    pub fn answer(&mut self, reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        let Some(first) = read_line(reader)? else { return Ok(None) };
        if let Some(code) = first.as_deref().ok().and_then(ioctl::code) {
            return ioctl::answer(self, code, reader).map(Some);
        }
        text_answer(self.configured, &first, reader).map(|text| Some(text.into_bytes()))
    }

    fn control(&mut self, code: u32, input: &[u8], output: &mut [u8]) -> (i32, u64) {
        let handle = match self.handle.take().map_or_else(|| self.configured.open(), Ok) {
            Ok(handle) => self.handle.insert(handle),
            Err(status) => return (status, 0),
        };
        handle.control(code, input, output)
    }
}

/// The answer to a request of lines alone.
fn text_answer(
    configured: &dyn Configured,
    first: &Result<String, ()>,
    reader: &mut impl BufRead,
) -> io::Result<String> {
    let (mut parser, mut settings) = (SetParser::default(), Vec::new());
    let mut session = trace::Request::default();
    let mut wrong: Option<i32> = None;
    for number in 0.. {
        let line = match &read_line(reader)? {
            None => return Ok(errno_line(libc::EPROTO)),
            Some(Ok(line)) if line.is_empty() => break,
            Some(line) => line.clone(),
        };
        if number >= LINES_MAX {
            return Ok(errno_line(libc::E2BIG));
        }
        if wrong.is_some() {
            continue;
        }
        wrong = match (first, line) {
            (Ok(first), Ok(line)) if first == "set=1" => {
                parser.line(&line).err().map(|Refusal { errno, .. }| errno)
            }
            (Ok(first), Ok(line)) if first == policy::FIRST_LINE => {
                let setting = policy::parse(&line);
                settings.extend(setting);
                setting.is_none().then_some(libc::EINVAL)
            }
            (Ok(first), Ok(line)) if [trace::START, trace::STOP].contains(&first.as_str()) => {
                session.line(&line).is_none().then_some(libc::EINVAL)
            }
            _ => Some(libc::EINVAL),
        };
    }
    let answer = match (first.as_deref(), wrong) {
        (_, Some(errno)) => errno_line(errno),
        (Ok("set=1"), None) => errno_line(configured.set(&parser.finish()).err().unwrap_or(0)),
        (Ok(policy::FIRST_LINE), None) => {
            errno_line(configured.set_policy(&settings).err().unwrap_or(0))
        }
        (Ok(trace::START), None) => errno_line(configured.start_trace(&session).err().unwrap_or(0)),
        (Ok(trace::STOP), None) => match configured.stop_trace(&session.name) {
            Ok((lost, file)) => format!("lost={lost}\nfile={file}\n") + &errno_line(0),
            Err(errno) => errno_line(errno),
        },
        (Ok("get=1"), None) => match configured.get() {
            Ok(text) => text + &errno_line(0),
            Err(errno) => errno_line(errno),
        },
        _ => errno_line(libc::EINVAL),
    };
    Ok(answer)
}

/// The end of every answer. The number is negative, as in other implementations: `wg` negates it.
fn errno_line(errno: i32) -> String {
    format!("errno={}\n\n", -errno)
}

/// One line without its end; `Err` if it is too long or no UTF-8, `None` at the end.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Result<String, ()>>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let read = io::Read::take(&mut *reader, LINE_MAX).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') {
            line.pop();
            break;
        }
        if read == 0 {
            if line.is_empty() && !too_long {
                return Ok(None);
            }
            break;
        }
        too_long = true;
        line.clear();
    }
    Ok(Some(if too_long { Err(()) } else { String::from_utf8(line).map_err(drop) }))
}

#[cfg(test)]
mod tests {
    use abi::policy::Policy;
    use proptest::prelude::*;

    use super::*;

    /// Counts what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<SetRequest>>, Mutex<Vec<Setting>>);

    impl Configured for Told {
        fn set(&self, request: &SetRequest) -> Result<(), i32> {
            lock(&self.0).push(request.clone());
            if request.listen_port == Some(1) { Err(libc::EADDRINUSE) } else { Ok(()) }
        }

        fn get(&self) -> Result<String, i32> {
            Ok("listen_port=7\n".to_owned())
        }

        fn set_policy(&self, settings: &[Setting]) -> Result<(), i32> {
            lock(&self.1).extend(settings);
            if settings.is_empty() { Err(libc::EIO) } else { Ok(()) }
        }

        fn start_trace(&self, request: &trace::Request) -> Result<(), i32> {
            if request.level == 4 { Ok(()) } else { Err(libc::EEXIST) }
        }

        fn stop_trace(&self, name: &str) -> Result<(u64, String), i32> {
            if name == "a" { Ok((7, "/b=c".to_owned())) } else { Err(libc::ENOENT) }
        }

        fn open(&self) -> Result<Box<dyn Handle>, i32> {
            Err(-1)
        }
    }

    fn ask(told: &Told, text: &[u8]) -> Vec<String> {
        let (mut reader, mut client) = (text, Client::new(told));
        std::iter::from_fn(|| client.answer(&mut reader).unwrap())
            .map(|answer| String::from_utf8(answer).unwrap())
            .collect()
    }

    #[test]
    fn requests_are_answered_in_turn() {
        let told = Told::default();
        let long = "x".repeat(10_000);
        for (text, expected) in [
            ("get=1\n\n", vec!["listen_port=7\nerrno=0\n\n"]),
            (
                "set=1\nlisten_port=2\n\nget=1\n\n",
                vec!["errno=0\n\n", "listen_port=7\nerrno=0\n\n"],
            ),
            ("set=1\nlisten_port=1\n\n", vec!["errno=-98\n\n"]),
            (
                "set=1\nlisten_port=x\nfwmark=1\n\nget=1\n\n",
                vec!["errno=-22\n\n", "listen_port=7\nerrno=0\n\n"],
            ),
            ("set=1\nlisten_port=2", vec!["errno=-71\n\n"]),
            ("get=1\nlisten_port=2\n\n", vec!["errno=-22\n\n"]),
            ("put=1\n\n", vec!["errno=-22\n\n"]),
            ("policy=1\nSendEngine=2\nFastPath=\n\n", vec!["errno=0\n\n"]),
            ("policy=1\nSendEngine=1\nNoSuch=1\n\n", vec!["errno=-22\n\n"]),
            ("policy=1\n\n", vec!["errno=-5\n\n"]),
            ("trace=start\nname=a\nfile=/b=c\nlevel=4\nkeywords=3\n\n", vec!["errno=0\n\n"]),
            ("trace=start\nname=a\nfile=/b\nlevel=5\n\n", vec!["errno=-17\n\n"]),
            ("trace=start\nlevel=256\n\n", vec!["errno=-22\n\n"]),
            ("trace=start\nevents=all\n\n", vec!["errno=-22\n\n"]),
            ("trace=stop\nname=a\n\n", vec!["lost=7\nfile=/b=c\nerrno=0\n\n"]),
            ("trace=stop\nname=b\n\n", vec!["errno=-2\n\n"]),
            ("ioctl=1\ninput=0\noutput=0\n\n", vec!["status=-1\ninformation=0\nerrno=0\n\n"]),
            (&format!("set=1\n{long}\n\n"), vec!["errno=-22\n\n"]),
            (&format!("{long}\n\nget=1\n\n"), vec!["errno=-22\n\n", "listen_port=7\nerrno=0\n\n"]),
            ("", vec![]),
        ] {
            assert_eq!(ask(&told, text.as_bytes()), expected, "{text:.40}");
        }
        let ports: Vec<_> = lock(&told.0).iter().map(|r| r.listen_port).collect();
        assert_eq!(ports, [Some(2), Some(1)], "a refused request is not applied in part");
        let settings = [(Policy::SendEngine, Some(2)), (Policy::FastPath, None)];
        assert_eq!(*lock(&told.1), settings, "nor is a policy");
    }

    #[test]
    fn a_socket_is_private_and_goes_with_its_server() {
        let world = World::new(crate::verifier::schedule::Mode::Parallel);
        let directory = std::env::temp_dir().join(format!("penstock-uapi-{}", std::process::id()));
        let server = Server::listen(&world, &directory, "t0", Arc::new(Told::default())).unwrap();
        let path = directory.join("t0.sock");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"get=1\n\n").unwrap();
        let mut answer = [0; 64];
        let read = io::Read::read(&mut client, &mut answer).unwrap();
        assert_eq!(&answer[..read], b"listen_port=7\nerrno=0\n\n");
        let refused = policy::change(&directory, "t0", &[]);
        assert_eq!(refused.unwrap(), libc::EIO, "what the interface says of it");
        let changed = policy::change(&directory, "t0", &[(Policy::SendEngine, Some(1))]);
        assert_eq!(changed.unwrap(), 0);
        assert!(policy::change(&directory, "t1", &[]).is_err(), "nobody is there");
        let second = Server::listen(&world, &directory, "t0", Arc::new(Told::default()));
        assert_eq!(second.err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        drop(server);
        assert!(!path.exists());
        assert_eq!(
            io::Read::read(&mut client, &mut answer).unwrap(),
            0,
            "the connection has ended"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_answers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let told = Told::default();
            for answer in ask(&told, &bytes) {
                prop_assert!(answer.ends_with("\n\n"));
            }
        }
    }
}
