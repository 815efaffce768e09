//! The driver from the outside: which interfaces there are, and what their IOCTLs do.
//!
//! A [`Device`] carries a control code and the bytes of both buffers, as `DeviceIoControl` does; what the bytes mean is
//! [`abi::ioctl`]'s. Buffers that may hold keys are wiped.

use std::{fmt, io};

use abi::ioctl::{GET, GET_STATISTICS, SET, Set};
use abi::statistics;
use zeroize::Zeroizing;

#[cfg(unix)]
pub mod simulated;
mod status;

pub use status::Status;

/// How often a GET is tried whose answer grows meanwhile.
const GET_TRIES: usize = 8;
/// What the first GET has room for.
const GET_FIRST: usize = 64 << 10;

/// Where interfaces are.
pub trait Driver {
    /// The names of those there are, in order.
    ///
    /// # Errors
    ///
    /// Whatever looking for them says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens the interface `name`.
    ///
    /// # Errors
    ///
    /// There is none, or it may not be opened.
    fn open(&self, name: &str) -> Result<Box<dyn Device>, Failure>;
}

/// An open interface.
pub trait Device {
    /// Makes a control request. METHOD_IN_DIRECT reads `output`, other methods write it.
    ///
    /// # Errors
    ///
    /// The request did not reach the driver; what the driver says is in the [`Answer`].
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> io::Result<Answer>;
}

/// What the driver said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it did it.
    pub status: Status,
    /// How many bytes it wrote, or would have had to.
    pub information: usize,
}

/// Why an interface could not be asked.
#[derive(Debug)]
pub enum Failure {
    /// The driver was not reached.
    Io(io::Error),
    /// It refused.
    Refused(Status),
    /// Its answer is none that this program knows.
    Unknown,
}

impl Failure {
    /// Whether it is for want of rights.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::PermissionDenied,
            Self::Refused(status) => *status == Status::ACCESS_DENIED,
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    f.write_str("No such device")
                }
                io::ErrorKind::PermissionDenied => f.write_str("Permission denied"),
                _ => write!(f, "{error}"),
            },
            Self::Refused(status) => write!(f, "{status}"),
            Self::Unknown => f.write_str("the driver's answer is not understood"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io(error) => error,
            failure => Self::other(failure),
        }
    }
}

/// Reads the configuration, keys included (WG_IOCTL_GET). [`Set::parse`] takes it.
///
/// # Errors
///
/// [`Failure`].
pub fn get(device: &dyn Device) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut room = GET_FIRST;
    for _ in 0..GET_TRIES {
        let mut buffer = Zeroizing::new(vec![0; room]);
        let answer = device.control(GET, &[], &mut buffer)?;
        if answer.status == Status::BUFFER_OVERFLOW {
            room = answer.information.max(room);
            continue;
        }
        answer.status.check()?;
        buffer.truncate(answer.information);
        return Set::parse(&buffer).is_ok().then_some(buffer).ok_or(Failure::Unknown);
    }
    Err(Failure::Refused(Status::BUFFER_OVERFLOW))
}

/// Applies a configuration, all of it or nothing (WG_IOCTL_SET).
///
/// # Errors
///
/// [`Failure`].
pub fn set(device: &dyn Device, mut configuration: Zeroizing<Vec<u8>>) -> Result<(), Failure> {
    device.control(SET, &[], &mut configuration)?.status.check()
}

/// Reads what the interface counted. [`statistics::Statistics::parse`] takes it.
///
/// # Errors
///
/// [`Failure`].
pub fn get_statistics(device: &dyn Device) -> Result<Vec<u8>, Failure> {
    let mut block = vec![0; statistics::ROOM];
    let answer = device.control(GET_STATISTICS, &[], &mut block)?;
    answer.status.check()?;
    block.truncate(answer.information);
    statistics::Statistics::parse(&block).is_some().then_some(block).ok_or(Failure::Unknown)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use abi::discard::Discard;
    use abi::ioctl::{Writer, writer::InterfaceFields};
    use abi::statistics::Counter;

    use super::*;

    /// Answers a GET with `peers` peers, one more each time while it grows.
    struct Growing {
        peers: Cell<usize>,
        grows: Cell<usize>,
    }

    impl Device for Growing {
        fn control(&self, code: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
            assert_eq!(code, GET);
            if self.grows.get() > 0 {
                self.grows.set(self.grows.get() - 1);
                self.peers.set(self.peers.get() + 1000);
            }
            let room = output.len();
            let no_key = &[0; 32];
            let interface = InterfaceFields {
                flags: 0,
                listen_port: 0,
                private_key: no_key,
                public_key: no_key,
            };
            let mut writer = Writer::new(output, &interface);
            for _ in 0..self.peers.get() {
                writer.peer(&abi::ioctl::writer::PeerFields::of(no_key));
            }
            let information = writer.len_bytes();
            let status = if information > room { Status::BUFFER_OVERFLOW } else { Status::SUCCESS };
            Ok(Answer { status, information })
        }
    }

    /// A driver that counts eight things more than this program knows.
    struct Newer;

    impl Device for Newer {
        fn control(&self, code: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
            assert_eq!(code, GET_STATISTICS);
            let information = statistics::LEN + 64;
            let Some(block) = output.get_mut(..information) else {
                let too_small = Status(0xC000_0023_u32 as i32);
                return Ok(Answer { status: too_small, information });
            };
            statistics::write(block, |_| 7, |_| 9).unwrap();
            // More discards: they are last.
            let discards = Discard::COUNT as u32 + 8;
            block[8..12].copy_from_slice(&discards.to_le_bytes());
            Ok(Answer { status: Status::SUCCESS, information })
        }
    }

    #[test]
    fn a_newer_drivers_statistics_are_read() {
        let block = get_statistics(&Newer).unwrap();
        assert_eq!(block.len(), statistics::LEN + 64);
        let counted = statistics::Statistics::parse(&block).unwrap();
        assert_eq!(counted.counter(Counter::PacketsOut), 7);
        assert_eq!(counted.discarded(Discard::ALL[0]), 9);
    }

    #[test]
    fn an_answer_that_grows_is_asked_for_again() {
        let device = Growing { peers: Cell::new(1000), grows: Cell::new(3) };
        let answer = get(&device).unwrap();
        assert_eq!(Set::parse(&answer).unwrap().peer_count(), 4000);
        let device = Growing { peers: Cell::new(0), grows: Cell::new(1000) };
        assert!(matches!(get(&device), Err(Failure::Refused(Status::BUFFER_OVERFLOW))));
    }
}
