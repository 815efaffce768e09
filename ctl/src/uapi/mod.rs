//! The text protocol by which the stock `wg` reads and changes an interface, before the driver's IOCTLs.
//!
//! A request is `get=1` or `set=1`, lines of `KEY=VALUE`, and an empty line; an answer is lines, the last of them `errno=`, and an
//! empty line. It is served over any stream: a named pipe for `wg.exe`, a socket for `wg` on Linux. Who may ask is the stream's to
//! say. A SET is one request to the driver: all of it is applied, or nothing.
//!
//! Source: <https://www.wireguard.com/xplatform/#configuration-protocol>.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use abi::ioctl::Set;
use zeroize::{Zeroize, Zeroizing};

use crate::driver::{self, Device, Failure};

mod ask;
mod get;
mod set;

pub use ask::ask;

/// The longest line: every one that means something is shorter.
const LINE_MAX: usize = 256;
/// EINVAL of Linux, which every implementation of the protocol answers with.
const EINVAL: i32 = -22;
/// EACCES.
const EACCES: i32 = -13;
/// EPROTO.
const EPROTO: i32 = -71;
/// EIO.
const EIO: i32 = -5;

/// What whoever asks may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    All,
    /// See how an interface does: no secret key, and nothing is changed.
    Status,
}

/// Answers the requests of a stream until it ends. What whoever asks may do is looked at for each, after some of it was read.
///
/// # Errors
///
/// Whatever the stream says.
pub fn serve(
    mut stream: impl Read + Write,
    device: &dyn Device,
    rights: impl Fn() -> Rights,
) -> io::Result<()> {
    let mut lines = Lines::default();
    while let Some(first) = lines.next(&mut stream)? {
        let answer = match first.as_ref().map(|line| line.as_str()) {
            Ok("") => continue,
            Ok("get=1") => match lines.next(&mut stream)? {
                Some(Ok(line)) if line.is_empty() => get(device, rights()),
                _ => Err(EPROTO),
            },
            Ok("set=1") => set(device, &mut lines, &mut stream, rights())?,
            _ => Err(EPROTO),
        };
        let (mut text, errno) = match answer {
            Ok(text) => (text, 0),
            Err(errno) => (Zeroizing::new(String::new()), errno),
        };
        // A push to a String cannot fail.
        let _ = write!(text, "errno={errno}\n\n");
        stream.write_all(text.as_bytes())?;
        stream.flush()?;
        if errno == EPROTO {
            // Where the next request begins is not known.
            break;
        }
    }
    Ok(())
}

fn get(device: &dyn Device, rights: Rights) -> Result<Zeroizing<String>, i32> {
    let answer = driver::get(device).map_err(|failure| errno(&failure))?;
    let set = Set::parse(&answer).map_err(|_| EIO)?;
    Ok(get::text(&set, rights))
}

/// Reads the lines of a change, and makes it. All lines are read, whatever is wrong with one.
fn set(
    device: &dyn Device,
    lines: &mut Lines,
    stream: &mut impl Read,
    rights: Rights,
) -> io::Result<Result<Zeroizing<String>, i32>> {
    let mut asked = set::Reading::default();
    let mut wrong = (rights != Rights::All).then_some(EACCES);
    loop {
        match lines.next(stream)? {
            None | Some(Err(TooLong)) => return Ok(Err(EPROTO)),
            Some(Ok(line)) if line.is_empty() => break,
            Some(Ok(line)) if wrong.is_none() => wrong = asked.line(&line).err(),
            Some(Ok(_)) => {}
        }
    }
    if let Some(errno) = wrong {
        return Ok(Err(errno));
    }
    let done = driver::set(device, asked.change().encode());
    Ok(done.map(|()| Zeroizing::new(String::new())).map_err(|failure| errno(&failure)))
}

fn errno(failure: &Failure) -> i32 {
    match failure {
        Failure::Refused(status) => status.errno(),
        Failure::Io(_) | Failure::Unknown => EIO,
    }
}

/// A line that means nothing, whatever it says.
struct TooLong;

/// Lines of a stream; what was read of them is wiped.
struct Lines {
    buffer: Zeroizing<[u8; 4096]>,
    read: usize,
    used: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { buffer: Zeroizing::new([0; 4096]), read: 0, used: 0 }
    }
}

impl Lines {
    /// The next line; `None` at the end, or if it ends within one.
    fn next(
        &mut self,
        stream: &mut impl Read,
    ) -> io::Result<Option<Result<Zeroizing<String>, TooLong>>> {
        let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX));
        loop {
            if self.used == self.read {
                self.buffer.zeroize();
                (self.read, self.used) = match stream.read(&mut *self.buffer) {
                    Ok(0) => return Ok(None),
                    Ok(read) => (read, 0),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
            }
            let byte = self.buffer.get(self.used).copied().unwrap_or(b'\n');
            self.used += 1;
            match byte {
                b'\n' => break,
                _ if line.len() == LINE_MAX => return Ok(Some(Err(TooLong))),
                byte => line.push(byte),
            }
        }
        let text = str::from_utf8(&line).map(str::to_owned).map(Zeroizing::new);
        Ok(Some(text.map_err(|_| TooLong)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use abi::ioctl::{GET, SET};

    use super::*;
    use crate::driver::{Answer, Status};

    const ALICE: &str = "9c0c24b0b4ef3d6ab3c3a2de0c4c2a0ff2f1f4b4b4c2b4b0a3e1f0d2c3b4a506";
    const SECRET: &str = "98064642f68390e67e0c5541384319102bd188ecce47c1592199f81fe4acdd45";

    /// Answers a GET with the last SET that it accepted.
    #[derive(Default)]
    struct Kept(RefCell<Vec<u8>>);

    impl Device for Kept {
        fn control(&self, code: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
            let kept = &mut *self.0.borrow_mut();
            if code == SET {
                if Set::parse(output).is_err() {
                    return Ok(Answer { status: Status(0xC000_000D_u32 as i32), information: 0 });
                }
                *kept = output.to_vec();
            } else {
                assert_eq!(code, GET);
                let room = output.len().min(kept.len());
                output[..room].copy_from_slice(&kept[..room]);
            }
            Ok(Answer { status: Status::SUCCESS, information: kept.len() })
        }
    }

    /// What is read, a few bytes at a time, and what was written.
    struct Stream<'a>(&'a [u8], Vec<u8>);

    impl Read for Stream<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(7);
            self.0.read(&mut buffer[..len])
        }
    }

    impl Write for Stream<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ask(device: &Kept, text: &str) -> String {
        let mut stream = Stream(text.as_bytes(), Vec::new());
        serve(&mut stream, device, || Rights::All).unwrap();
        String::from_utf8(stream.1).unwrap()
    }

    #[test]
    fn who_may_see_the_status_sees_no_secret_and_changes_nothing() {
        let device = Kept::default();
        let peer = format!("public_key={ALICE}\npreshared_key={SECRET}\nallowed_ip=10.0.0.0/8\n");
        ask(&device, &format!("set=1\nprivate_key={SECRET}\nlisten_port=7\n{peer}\n"));
        let before = device.0.borrow().clone();
        let text = format!("get=1\n\nset=1\nlisten_port=8\n{peer}\nget=1\n\n");
        let mut stream = Stream(text.as_bytes(), Vec::new());
        serve(&mut stream, &device, || Rights::Status).unwrap();
        let told = String::from_utf8(stream.1).unwrap();
        assert!(!told.contains(&SECRET[..16]) && !told.contains("private_key"), "{told}");
        let answers: Vec<_> = told.split_inclusive("\n\n").collect();
        assert_eq!(answers[1..], ["errno=-13\n\n", answers[0]]);
        let zero = format!("preshared_key={}", "0".repeat(64));
        let peer = format!("public_key={ALICE}");
        for line in ["listen_port=7", &peer, &zero, "allowed_ip=10.0.0.0/8"] {
            assert!(answers[0].lines().any(|other| other == line), "{line} is not in:\n{told}");
        }
        assert_eq!(*device.0.borrow(), before);
    }

    #[test]
    fn what_is_set_is_what_is_got() {
        let device = Kept::default();
        let interface = format!("private_key={SECRET}\nlisten_port=7\n");
        let peer = format!(
            "public_key={ALICE}\npreshared_key={SECRET}\nprotocol_version=1\nendpoint=[fd00::1]:9\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n"
        );
        let told = ask(
            &device,
            &format!("set=1\n{interface}fwmark=0\nreplace_peers=true\n{peer}\nget=1\n\n"),
        );
        let (first, second) = told.split_once("\n\n").unwrap();
        assert_eq!(first, "errno=0");
        for line in interface.lines().chain(peer.lines()) {
            assert!(second.lines().any(|other| other == line), "{line} is not in:\n{second}");
        }
        assert!(second.ends_with("\nerrno=0\n\n"), "{second}");
        assert!(Set::parse(&device.0.borrow()).unwrap().replaces_peers());
    }

    #[test]
    fn a_change_says_what_its_lines_say() {
        let device = Kept::default();
        let told = ask(
            &device,
            &format!(
                "set=1\npublic_key={ALICE}\nupdate_only=true\nreplace_allowed_ips=true\nallowed_ip=-10.0.0.0/8\n\
                 public_key={}\nremove=true\n\n",
                ALICE.replace('9', "8")
            ),
        );
        assert_eq!(told, "errno=0\n\n");
        let bytes = device.0.borrow();
        let set = Set::parse(&bytes).unwrap();
        let peers: Vec<_> = set.peers().collect();
        assert!(
            !set.replaces_peers() && set.private_key().is_none() && set.listen_port().is_none()
        );
        assert!(peers[0].updates_only() && peers[0].replaces_allowed_ips() && !peers[0].removes());
        assert!(peers[0].allowed_ips().all(|ip| ip.remove) && peers[1].removes());
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        for (text, answer) in [
            ("set=1\nlisten_port=x\nlisten_port=1\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nlisten_port=65536\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nprivate_key=00\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nnonsense=1\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nreplace_peers=false\n\n".to_owned(), "errno=-22\n\n"),
            ("set=1\nallowed_ip=10.0.0.0/8\n\n".to_owned(), "errno=-22\n\n"),
            (format!("set=1\npublic_key={ALICE}\nlisten_port=1\n\n"), "errno=-22\n\n"),
            (format!("set=1\npublic_key={ALICE}\nallowed_ip=10.0.0.0/33\n\n"), "errno=-22\n\n"),
            (format!("set=1\npublic_key={ALICE}\nendpoint=name:1\n\n"), "errno=-22\n\n"),
            (format!("set=1\npublic_key={ALICE}\nprotocol_version=2\n\n"), "errno=-95\n\n"),
            (format!("set=1\n{}\n\n", "x".repeat(LINE_MAX + 1)), "errno=-71\n\n"),
            ("get=2\n\n".to_owned(), "errno=-71\n\n"),
            ("get=1\nmore=1\n\n".to_owned(), "errno=-71\n\n"),
            ("set=1\nlisten_port=1\n".to_owned(), "errno=-71\n\n"),
            ("set=1".to_owned(), ""),
            (String::new(), ""),
        ] {
            let device = Kept::default();
            assert_eq!(ask(&device, &text), answer, "{text}");
            assert!(device.0.borrow().is_empty(), "{text}");
        }
    }
}
