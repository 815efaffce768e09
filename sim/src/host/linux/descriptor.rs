//! File descriptors and socket addresses of the kernel, in Rust types.
//!
//! The little that the standard library leaves out: options by number, waiting on two descriptors,
//! and addresses as `sockaddr_storage` for the batched calls.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Turns -1 into the error it means.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A zeroed value of one of the kernel's plain structures.
pub(crate) fn zeroed<T: Copy>() -> T {
    // SAFETY: callers use it for libc's C structures of integers and pointers, for which all zeros
    // is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Makes a socket that closes on exec.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An event counter, to wake a thread that polls.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Wakes whoever polls `event`.
pub(crate) fn signal(event: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight readable bytes. A full counter is as good as a written one.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Sets an event's counter back to zero.
pub(crate) fn drain(event: &OwnedFd) {
    let mut count = [0; 8];
    // SAFETY: eight writable bytes. There may be nothing to read, as the event does not block.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Closes what a descriptor stands for, now and whoever else still has it: from here on it is an empty event.
pub(crate) fn close_now(fd: &OwnedFd) -> io::Result<()> {
    let empty = event()?;
    // SAFETY: both are open. The number stays its owner's, who closes it once more.
    check(unsafe { libc::dup3(empty.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) }).map(drop)
}

/// Sets an option that is an `int`.
pub(crate) fn set_option(fd: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let (data, len) = ((&raw const value).cast(), size_of::<i32>() as libc::socklen_t);
    // SAFETY: `data` is `len` readable bytes.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, data, len) }).map(drop)
}

/// Binds a socket.
pub(crate) fn bind(
    fd: &impl AsRawFd,
    address: &libc::sockaddr_storage,
    len: u32,
) -> io::Result<()> {
    // SAFETY: a storage has at least `len` bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), len) }).map(drop)
}

/// Waits until `first` or `second` is readable, at most `timeout_ms` (-1: for ever); says which are.
pub(crate) fn wait_readable(
    first: RawFd,
    second: RawFd,
    timeout_ms: i32,
) -> io::Result<(bool, bool)> {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polled = [entry(first), entry(second)];
    // SAFETY: two entries.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout_ms) }) {
        Ok(_) => Ok((polled[0].revents != 0, polled[1].revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok((false, false)),
        Err(error) => Err(error),
    }
}

/// An address as the kernel takes it, and its length.
pub(crate) fn to_native(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    let mut storage: libc::sockaddr_storage = zeroed();
    let at = &raw mut storage;
    match address {
        SocketAddr::V4(v4) => {
            let mut native: libc::sockaddr_in = zeroed();
            native.sin_family = libc::AF_INET as u16;
            native.sin_port = v4.port().to_be();
            native.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            // SAFETY: a storage has room and alignment for any address.
            unsafe { at.cast::<libc::sockaddr_in>().write(native) };
            (storage, size_of::<libc::sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            let mut native: libc::sockaddr_in6 = zeroed();
            native.sin6_family = libc::AF_INET6 as u16;
            native.sin6_port = v6.port().to_be();
            native.sin6_flowinfo = v6.flowinfo();
            native.sin6_addr.s6_addr = v6.ip().octets();
            native.sin6_scope_id = v6.scope_id();
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(native) };
            (storage, size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

/// An address as the kernel gave it.
pub(crate) fn from_native(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says so, and a storage is large enough.
            let native = unsafe { at.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(native.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(native.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let native = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(native.sin6_addr.s6_addr);
            let port = u16::from_be(native.sin6_port);
            Some(SocketAddrV6::new(ip, port, native.sin6_flowinfo, native.sin6_scope_id).into())
        }
        _ => None,
    }
}
