//! The TUN device: the inner side of a simulated adapter, as Linux programs see it.
//!
//! Every packet has a `virtio_net_hdr` before it ([`super::vnet`]): a read gives up to 64 KiB of one flow at once, whose
//! checksums and segments are the reader's to finish. It has a queue for each reader; the kernel gives a flow to one of
//! them. The device lives as long as its descriptors; when somebody deletes it, reads fail with `EBADFD`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::descriptor::{self, check, zeroed};
use super::vnet;

/// Most bytes an interface name has: IFNAMSIZ less its NUL.
pub const NAME_MAX: usize = 15;
/// `TUNSETOFFLOAD`, and what a reader can finish: checksums; TCP over IPv4 and IPv6, with ECN; UDP (Linux 6.2 and later).
const SET_OFFLOAD: libc::c_ulong = 0x4004_54D0;
const CHECKSUMS: libc::c_ulong = 1;
const TCP_SEGMENTS: libc::c_ulong = 2 | 4 | 8;
const UDP_SEGMENTS: libc::c_ulong = 32 | 64;

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
    queues: Vec<OwnedFd>,
    wake: OwnedFd,
    name: String,
    index: u32,
    lacks: Option<&'static str>,
}

impl Tun {
    /// Makes the device `name` with the given MTU and as many queues as may be read at once; it is down.
    ///
    /// # Errors
    ///
    /// [`TunError`].
    pub fn create(name: &str, mtu: u32, queues: usize) -> Result<Self, TunError> {
        check_name(name)?;
        if Path::new("/sys/class/net").join(name).exists() {
            return Err(TunError::Exists);
        }
        let many = queues > 1;
        let queues: Result<Vec<OwnedFd>, TunError> =
            (0..queues.max(1)).map(|_| queue(name, many)).collect();
        let queues = queues?;
        let lacks = offloads(&queues);
        let index = set_mtu(name, mtu).and_then(|()| index_of(name)).map_err(TunError::Other)?;
        let wake = descriptor::event().map_err(TunError::Other)?;
        Ok(Self { queues, wake, name: name.to_owned(), index, lacks })
    }

    /// What this kernel does not give, in words.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        self.lacks
    }

    /// How many queues it has.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.len()
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

    /// Reads a `virtio_net_hdr` and a packet from one of the queues: the packet's length, or `None` if there is none at
    /// the moment.
    ///
    /// # Errors
    ///
    /// An error if the device is gone.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn read(
        &self,
        queue: usize,
        header: &mut [u8; vnet::HEADER],
        packet: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let fd = self.queues[queue].as_raw_fd();
        let mut pieces = [IoSliceMut::new(header), IoSliceMut::new(packet)];
        // SAFETY: an IoSliceMut is an iovec; the kernel writes as many as it is told of.
        let read = unsafe { libc::readv(fd, pieces.as_mut_ptr().cast(), pieces.len() as i32) };
        match usize::try_from(read) {
            Ok(read) => Ok(read.checked_sub(vnet::HEADER)),
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

    /// Waits until there may be a packet in a queue, at most `timeout_ms`; false after [`Tun::wake`].
    ///
    /// # Errors
    ///
    /// Whatever `poll` says.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn wait(&self, queue: usize, timeout_ms: i32) -> io::Result<bool> {
        let fd = self.queues[queue].as_raw_fd();
        let (_, woken) = descriptor::wait_readable(fd, self.wake.as_raw_fd(), timeout_ms)?;
        Ok(!woken)
    }

    /// Ends every [`Tun::wait`], now and later.
    pub fn wake(&self) {
        descriptor::signal(&self.wake);
    }

    /// Writes a `virtio_net_hdr` and a packet, in pieces, which go to the kernel's stack; false if the stack would not
    /// have them.
    #[must_use]
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> bool {
        let count = pieces.len() as i32;
        // SAFETY: an IoSlice is an iovec; the kernel reads as many as it is told of.
        let written = unsafe { libc::writev(self.as_raw_fd(), pieces.as_ptr().cast(), count) };
        usize::try_from(written) == Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    /// Whether the interface is up, asked by its descriptor alone: for a device that was moved to
    /// another network namespace, where rtnetlink does not see it. `None`: it is gone.
    ///
    /// A packet of one byte is refused with EIO if the interface is down; if it is up the kernel
    /// counts one more malformed packet, so this is not for a device that can be seen.
    #[must_use]
    pub fn probe_up(&self) -> Option<bool> {
        let mut packet = [0; vnet::HEADER + 1];
        packet[vnet::HEADER] = 0x45;
        // SAFETY: as many readable bytes as it says.
        let written =
            unsafe { libc::write(self.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
        match (written, io::Error::last_os_error().raw_os_error()) {
            (1.., _) => Some(true),
            (_, Some(libc::EIO)) => Some(false),
            (_, Some(libc::EBADFD)) => None,
            _ => Some(true),
        }
    }
}

/// Opens one queue of the device `name`, the first of which makes it.
fn queue(name: &str, many: bool) -> Result<OwnedFd, TunError> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let fd: OwnedFd = match opened {
        Ok(file) => file.into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TunError::NoDevice),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(TunError::Denied);
        }
        Err(error) => return Err(TunError::Other(error)),
    };
    let mut request: libc::ifreq = named(name);
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = (flags | if many { libc::IFF_MULTI_QUEUE } else { 0 }) as i16;
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
    Ok(fd)
}

/// Asks for as much as the kernel has, and says what it has not.
fn offloads(queues: &[OwnedFd]) -> Option<&'static str> {
    let all = |wanted: libc::c_ulong| {
        // SAFETY: TUNSETOFFLOAD takes flags.
        queues.iter().all(|fd| unsafe { libc::ioctl(fd.as_raw_fd(), SET_OFFLOAD, wanted) } == 0)
    };
    if all(CHECKSUMS | TCP_SEGMENTS | UDP_SEGMENTS) {
        None
    } else if all(CHECKSUMS | TCP_SEGMENTS) {
        Some("segments of UDP through a TUN device (Linux 6.2)")
    } else {
        Some("segments of TCP and UDP through a TUN device")
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.queues[0].as_raw_fd()
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
