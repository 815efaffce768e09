//! The simulated driver, in the process of `penstock-sim up NAME`: its IOCTLs over the socket that `wg` uses, too.
//!
//! `/var/run/wireguard/NAME.sock`; a request is `ioctl=CODE`, the lengths of both buffers, and their bytes. Sockets of other
//! implementations are there as well, and answer that with an error: they are not listed.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use abi::ioctl::{AdapterState, SET_ADAPTER_STATE, reads_output};

use super::{Answer, Device, Driver, Failure, Status};

/// Where the sockets are.
pub const DIRECTORY: &str = "/var/run/wireguard";
/// The longest line of an answer.
const LINE_MAX: usize = 64;

/// Every simulated driver that runs.
pub struct Simulated {
    /// [`DIRECTORY`], but for tests.
    pub directory: PathBuf,
}

impl Default for Simulated {
    fn default() -> Self {
        Self { directory: PathBuf::from(DIRECTORY) }
    }
}

impl Driver for Simulated {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".sock"));
            names.extend(name.filter(|name| self.answers(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Device>, Failure> {
        Ok(Box::new(Socket(RefCell::new(self.connect(name)?))))
    }
}

impl Simulated {
    /// A connection to the interface's socket.
    pub(crate) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        // A name is one file of the directory.
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(io::ErrorKind::NotFound.into());
        }
        UnixStream::connect(self.directory.join(format!("{name}.sock")))
    }

    /// Whether a simulated driver is behind the name.
    fn answers(&self, name: &str) -> bool {
        let query = (AdapterState::Query as u32).to_le_bytes();
        let asked =
            |device: Box<dyn Device>| device.control(SET_ADAPTER_STATE, &query, &mut [0; 4]);
        self.open(name).is_ok_and(|device| asked(device).is_ok())
    }
}

/// A connection to the socket of one interface: its requests are made with one handle of the driver's.
struct Socket(RefCell<UnixStream>);

impl Device for Socket {
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<Answer> {
        let socket = &mut *self.0.borrow_mut();
        let head = format!("ioctl={code}\ninput={}\noutput={}\n\n", input.len(), output.len());
        socket.write_all(head.as_bytes())?;
        socket.write_all(input)?;
        if reads_output(code) {
            socket.write_all(output)?;
        }
        let status = number(socket, "status=")?;
        let information = number(socket, "information=")?;
        if (number::<i32>(socket, "errno=")?, &*line(socket)?) != (0, "") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !reads_output(code) {
            let written = output.len().min(information);
            socket.read_exact(output.get_mut(..written).unwrap_or_default())?;
        }
        Ok(Answer { status: Status(status), information })
    }
}

/// The number behind `key` in the next line of an answer.
fn number<N: std::str::FromStr>(socket: &mut UnixStream, key: &str) -> io::Result<N> {
    let line = line(socket)?;
    let number = line.strip_prefix(key).and_then(|number| number.parse().ok());
    number.ok_or_else(|| match line.strip_prefix("errno=").and_then(|errno| errno.parse().ok()) {
        // Another implementation does not know the request.
        Some(0) | None => io::ErrorKind::InvalidData.into(),
        Some(errno) => io::Error::from_raw_os_error(i32::wrapping_neg(errno)),
    })
}

/// The next line. A byte at a time: what follows is the caller's, and nothing else keeps a copy of it.
fn line(socket: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => break,
            _ if line.len() == LINE_MAX => return Err(io::ErrorKind::InvalidData.into()),
            [byte] => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use abi::ioctl::{GET, SET};

    use super::*;

    /// Reads so many bytes of a connection and answers with these, one after the other, and gives back what it read.
    fn with_server(
        answers: Vec<(usize, &'static [u8])>,
        test: impl FnOnce(&Simulated),
    ) -> Vec<Vec<u8>> {
        let test_name = std::thread::current().name().unwrap_or_default().replace("::", "-");
        let directory =
            std::env::temp_dir().join(format!("penstock-{}-{test_name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("t0.sock")).unwrap();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let serve = |(len, answer): (usize, &[u8])| {
                let mut asked = vec![0; len];
                client.read_exact(&mut asked).unwrap();
                client.write_all(answer).unwrap();
                asked
            };
            answers.into_iter().map(serve).collect()
        });
        test(&Simulated { directory: directory.clone() });
        let asked = server.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        asked
    }

    #[test]
    fn a_request_carries_the_bytes_its_method_reads() {
        const GET_BYTES: &[u8] = b"ioctl=2962801926\ninput=2\noutput=4\n\nin";
        const SET_BYTES: &[u8] = b"ioctl=2962801929\ninput=0\noutput=4\n\nOK..";
        let answers = vec![
            (GET_BYTES.len(), &b"status=0\ninformation=2\nerrno=0\n\nOK"[..]),
            (SET_BYTES.len(), b"status=-3\ninformation=9\nerrno=0\n\n"),
        ];
        let asked = with_server(answers, |driver| {
            let device = driver.open("t0").unwrap();
            let mut output = *b"....";
            let answer = device.control(GET, b"in", &mut output).unwrap();
            assert_eq!(answer, Answer { status: Status(0), information: 2 });
            assert_eq!(output, *b"OK..");
            let answer = device.control(SET, b"", &mut output).unwrap();
            assert_eq!(answer, Answer { status: Status(-3), information: 9 });
            assert_eq!(output, *b"OK..");
        });
        assert_eq!(asked, [GET_BYTES, SET_BYTES]);
    }

    #[test]
    fn who_does_not_answer_so_is_not_there() {
        let answers = vec![(39, &b"errno=-22\n\n"[..])];
        with_server(answers, |driver| assert_eq!(driver.names().unwrap(), [""; 0]));
        let yes = b"status=0\ninformation=4\nerrno=0\n\n\0\0\0\0";
        let answers = vec![(39, &yes[..])];
        with_server(answers, |driver| assert_eq!(driver.names().unwrap(), ["t0"]));
        let nobody = Simulated { directory: "/nonexistent".into() };
        assert_eq!(nobody.names().unwrap(), [""; 0]);
        for name in ["t0", "", "../t0", "a\0b"] {
            let failure = nobody.open(name).err().unwrap();
            assert_eq!(failure.to_string(), "No such device", "{name}");
        }
    }
}
