//! The TUN device: the inner side of a simulated adapter, as Linux programs see it.
//!
//! One packet per read and write, without the extra header (offloads are a later matter). The
//! device lives as long as the descriptor; when somebody deletes it, reads fail with `EBADFD`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::descriptor::{self, check, zeroed};

/// Most bytes an interface name has: IFNAMSIZ less its NUL.
pub const NAME_MAX: usize = 15;

/// Why there is no TUN device.
#[derive(Debug)]
pub enum TunError {
    /// The name is empty, longer than 15 bytes, or holds a slash, a space or a percent sign.
    Name,
    /// /dev/net/tun is not there.
    NoDevice,
    /// The user may not make one.
    Denied,
    /// An interface of that name exists.
    Exists,
    /// Anything else.
    Other(io::Error),
}

impl std::fmt::Display for TunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name => write!(
                f,
                "an interface name has 1 to {NAME_MAX} bytes, none of them '/', ':', '%' or white space"
            ),
            Self::NoDevice => f.write_str(
                "/dev/net/tun is missing (modprobe tun; in a container: --device /dev/net/tun)",
            ),
            Self::Denied => f.write_str("making a TUN device needs root (or CAP_NET_ADMIN)"),
            Self::Exists => f.write_str("an interface of this name exists already"),
            Self::Other(error) => write!(f, "making the TUN device failed: {error}"),
        }
    }
}

impl std::error::Error for TunError {}

/// Whether `name` can be an interface's.
///
/// # Errors
///
/// [`TunError::Name`].
pub fn check_name(name: &str) -> Result<(), TunError> {
    let bytes = std::ffi::OsStr::new(name).as_bytes();
    let odd = |byte: &u8| matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace();
    let bad = bytes.is_empty()
        || bytes.len() > NAME_MAX
        || bytes.iter().any(odd)
        || matches!(name, "." | "..");
    if bad { Err(TunError::Name) } else { Ok(()) }
}

/// An open TUN device.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    wake: OwnedFd,
    name: String,
    index: u32,
}

impl Tun {
    /// Makes the device `name` with the given MTU; it is down.
    ///
    /// # Errors
    ///
    /// [`TunError`].
    pub fn create(name: &str, mtu: u32) -> Result<Self, TunError> {
        check_name(name)?;
        if Path::new("/sys/class/net").join(name).exists() {
            return Err(TunError::Exists);
        }
        let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let fd: OwnedFd = match opened {
            Ok(file) => file.into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TunError::NoDevice);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(TunError::Denied);
            }
            Err(error) => return Err(TunError::Other(error)),
        };
        let mut request: libc::ifreq = named(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: TUNSETIFF takes an ifreq and writes back the name.
        let made = check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) });
        made.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::Denied,
            Some(libc::EBUSY) => TunError::Exists,
            _ => TunError::Other(error),
        })?;
        // SAFETY: F_SETFL takes flags.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })
            .map_err(TunError::Other)?;
        let index = set_mtu(name, mtu).and_then(|()| index_of(name)).map_err(TunError::Other)?;
        let wake = descriptor::event().map_err(TunError::Other)?;
        Ok(Self { fd, wake, name: name.to_owned(), index })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interface index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Reads one packet; `None` if there is none at the moment.
    ///
    /// # Errors
    ///
    /// An error if the device is gone.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: as many writable bytes as it says.
        let read =
            unsafe { libc::read(self.fd.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len()) };
        match usize::try_from(read) {
            Ok(read) => Ok(Some(read)),
            Err(_) => match io::Error::last_os_error() {
                // EIO: the device is down, which is no reason to stop reading it.
                error if error.raw_os_error() == Some(libc::EIO) => Ok(None),
                error
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    Ok(None)
                }
                error => Err(error),
            },
        }
    }

    /// Waits until there may be a packet, at most `timeout_ms`; false after [`Tun::wake`].
    ///
    /// # Errors
    ///
    /// Whatever `poll` says.
    pub fn wait(&self, timeout_ms: i32) -> io::Result<bool> {
        let (_, woken) =
            descriptor::wait_readable(self.fd.as_raw_fd(), self.wake.as_raw_fd(), timeout_ms)?;
        Ok(!woken)
    }

    /// Ends every [`Tun::wait`], now and later.
    pub fn wake(&self) {
        descriptor::signal(&self.wake);
    }

    /// Writes one packet, which goes to the kernel's stack; false if the stack would not have it.
    pub fn write(&self, packet: &[u8]) -> bool {
        // SAFETY: as many readable bytes as it says.
        let written =
            unsafe { libc::write(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
        usize::try_from(written) == Ok(packet.len())
    }

    /// Whether the interface is up, asked by its descriptor alone: for a device that was moved to
    /// another network namespace, where rtnetlink does not see it. `None`: it is gone.
    ///
    /// A packet of one byte is refused with EIO if the interface is down; if it is up the kernel
    /// counts one more malformed packet, so this is not for a device that can be seen.
    #[must_use]
    pub fn probe_up(&self) -> Option<bool> {
        let packet = [0x45_u8];
        // SAFETY: one readable byte.
        let written =
            unsafe { libc::write(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
        match (written, io::Error::last_os_error().raw_os_error()) {
            (1, _) => Some(true),
            (_, Some(libc::EIO)) => Some(false),
            (_, Some(libc::EBADFD)) => None,
            _ => Some(true),
        }
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A request about the interface `name`.
fn named(name: &str) -> libc::ifreq {
    let mut request: libc::ifreq = zeroed();
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(NAME_MAX)) {
        *slot = byte as libc::c_char;
    }
    request
}

fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let socket = descriptor::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = named(name);
    request.ifr_ifru.ifru_mtu = mtu as i32;
    // SAFETY: SIOCSIFMTU reads an ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) }).map(drop)
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a NUL-terminated name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for (name, good) in [
            ("wg0", true),
            ("fifteen-bytes-x", true),
            ("sixteen-bytes-xx", false),
            ("", false),
            ("a/b", false),
            ("a b", false),
            ("wg%d", false),
            ("..", false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name:?}");
        }
    }
}
