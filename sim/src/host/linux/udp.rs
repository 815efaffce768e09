//! UDP sockets of the kernel: batches in, batches out.
//!
//! Receiving is a thread per socket: it waits, then takes up to [`BATCH`] datagrams in one
//! `recvmmsg`, each written straight into the place where the driver will read it. Sending is one
//! `sendmmsg` in the caller's thread, from the driver's own memory. Local address and interface
//! travel both ways as PKTINFO.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use super::descriptor::{self, check, zeroed};
use crate::host::{BATCH_DATAGRAMS, Batch, Landing, OpenError, Place, SendError, Sending, Socket};
use crate::nt::wsk::control_messages::PacketInfo;
use crate::verifier::schedule::{Key, World, lock};

/// Datagrams taken from the kernel at once.
const BATCH: usize = 64;
/// Bytes of the kernel's receive and send buffers: what WireGuard implementations ask for.
const KERNEL_BUFFER: i32 = 7 << 20;
/// Room for the control messages of one datagram.
const CONTROL: usize = 96;
/// How long a reader waits for the driver to give places back.
const NO_PLACES: Duration = Duration::from_millis(1);

/// One socket and its reader.
pub struct UdpSocket {
    fd: OwnedFd,
    wake: OwnedFd,
    ipv6: bool,
    world: Arc<World>,
    closed: AtomicBool,
    ended: AtomicBool,
    reader: Mutex<Option<ThreadId>>,
}

impl UdpSocket {
    /// Opens and binds a socket and starts its reader.
    ///
    /// # Errors
    ///
    /// [`OpenError`], from the kernel's.
    pub fn open(
        world: &Arc<World>,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<Self>, OpenError> {
        let ipv6 = local.is_ipv6();
        let made = bound(local).and_then(|fd| Ok((fd, descriptor::event()?)));
        let (fd, wake) = made.map_err(|error| open_error(&error))?;
        let socket = Arc::new(Self {
            fd,
            wake,
            ipv6,
            world: world.clone(),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            reader: Mutex::new(None),
        });
        let reader = socket.clone();
        world.spawn(if ipv6 { "udp6" } else { "udp4" }, move || {
            *lock(&reader.reader) = Some(std::thread::current().id());
            reader.read(&*landing);
            reader.ended.store(true, Ordering::Release);
            reader.world.wake(Key::of(&reader.ended));
        });
        Ok(socket)
    }

    /// Marks what is sent from now on.
    pub fn set_mark(&self, mark: u32) {
        // Needs CAP_NET_ADMIN, which whoever made the TUN device has.
        let _ = descriptor::set_option(&self.fd, libc::SOL_SOCKET, libc::SO_MARK, mark as i32);
    }

    fn read(&self, landing: &dyn Landing) {
        let mut places: Vec<Place> = Vec::with_capacity(BATCH);
        let mut filled: Vec<Place> = Vec::with_capacity(BATCH);
        let mut batch = Box::new(Receiving::new());
        while !self.closed.load(Ordering::Acquire) {
            let missing = BATCH - places.len();
            landing.places(&mut places, missing);
            if places.is_empty() {
                self.world.sleep(NO_PLACES);
                continue;
            }
            let count = batch.receive(&self.fd, &mut places);
            match count {
                Ok(count) => {
                    filled.extend(places.drain(..count));
                    landing.landed(&mut filled);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready =
                        descriptor::wait_readable(self.fd.as_raw_fd(), self.wake.as_raw_fd(), -1);
                    if ready.is_err() {
                        break;
                    }
                }
                // ICMP errors of earlier sends come up here; they say nothing about receiving.
                Err(_) => {}
            }
        }
        landing.unused(&mut places);
    }
}

impl Socket for UdpSocket {
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError> {
        let (mut name, name_len) = descriptor::to_native(to);
        let mut control = Control([0; CONTROL]);
        let control_len = control.write(how, self.ipv6);
        let mut messages: [libc::mmsghdr; BATCH_DATAGRAMS] = zeroed();
        let mut count = 0;
        for (message, pieces) in messages.iter_mut().zip(batch.datagrams()) {
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = name_len;
            // An IoSlice is an iovec; the kernel only reads it.
            header.msg_iov = pieces.as_ptr().cast_mut().cast();
            header.msg_iovlen = pieces.len();
            if control_len > 0 {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = control_len;
            }
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            let (rest, left) = (&mut messages[sent..count], (count - sent) as u32);
            // SAFETY: `left` messages whose names, pieces and control outlive the call.
            let result =
                check(unsafe { libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), left, 0) });
            match result {
                Ok(more) => sent += more as usize,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // An ICMP error of an earlier datagram: it is cleared by having been told.
                    Some(libc::ECONNREFUSED) => {}
                    _ => return Err(send_error(&error)),
                },
            }
        }
        Ok(())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        descriptor::signal(&self.wake);
        if *lock(&self.reader) == Some(std::thread::current().id()) {
            return;
        }
        let deadline = self.world.now() + Duration::from_secs(5);
        let ended = || self.ended.load(Ordering::Acquire).then_some(());
        // A reader that is stuck in the driver's callback is found by WSK, which waits for it.
        let _ = self.world.wait(Key::of(&self.ended), Some(deadline), "UDP reader to end", ended);
    }
}

/// Buffers of one `recvmmsg`.
struct Receiving {
    messages: [libc::mmsghdr; BATCH],
    pieces: [libc::iovec; BATCH],
    names: [libc::sockaddr_storage; BATCH],
    controls: [Control; BATCH],
}

impl Receiving {
    fn new() -> Self {
        let controls = std::array::from_fn(|_| Control([0; CONTROL]));
        Self { messages: zeroed(), pieces: zeroed(), names: zeroed(), controls }
    }

    /// Fills places from the front and returns how many.
    fn receive(&mut self, fd: &OwnedFd, places: &mut [Place]) -> io::Result<usize> {
        let parts = self
            .messages
            .iter_mut()
            .zip(&mut self.pieces)
            .zip(&mut self.names)
            .zip(&mut self.controls);
        for ((((message, piece), name), control), place) in parts.zip(places.iter()) {
            *piece =
                libc::iovec { iov_base: place.payload.as_ptr().cast(), iov_len: place.capacity };
            let header = &mut message.msg_hdr;
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            header.msg_flags = 0;
        }
        let count = places.len().min(BATCH) as u32;
        let (flags, no_timeout) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        // SAFETY: `count` messages with names, pieces (free places) and control buffers of their lengths.
        let taken = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), self.messages.as_mut_ptr(), count, flags, no_timeout)
        };
        let taken = check(taken)? as usize;
        for (number, place) in places[..taken].iter_mut().enumerate() {
            let message = &self.messages[number];
            place.len = message.msg_len as usize;
            let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            place.remote = descriptor::from_native(&self.names[number]).unwrap_or(unknown);
            let control = &self.controls[number].0[..message.msg_hdr.msg_controllen.min(CONTROL)];
            (place.local, place.traffic_class) = read_control(control);
        }
        Ok(taken)
    }
}

/// Control messages, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Bytes of a `cmsghdr`.
const HEADER: usize = 16;

impl Control {
    /// Writes what `how` asks for and returns the length.
    fn write(&mut self, how: &Sending, ipv6: bool) -> usize {
        let mut used = 0;
        match how.packet_info {
            Some(PacketInfo { address: IpAddr::V4(address), interface }) if !ipv6 => {
                let mut data = [0; 12];
                data[..4].copy_from_slice(&interface.to_ne_bytes());
                data[4..8].copy_from_slice(&address.octets());
                used = self.append(used, libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            Some(PacketInfo { address: IpAddr::V6(address), interface }) if ipv6 => {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&address.octets());
                data[16..].copy_from_slice(&interface.to_ne_bytes());
                used = self.append(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            _ => {}
        }
        if let Some(class) = how.traffic_class.filter(|class| *class != 0) {
            let data = i32::from(class).to_ne_bytes();
            let (level, kind) = if ipv6 {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            } else {
                (libc::IPPROTO_IP, libc::IP_TOS)
            };
            used = self.append(used, level, kind, &data);
        }
        used
    }

    fn append(&mut self, used: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let room = &mut self.0[used..];
        room[..8].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..HEADER + data.len()].copy_from_slice(data);
        used + HEADER + data.len().next_multiple_of(8)
    }
}

/// Where a datagram arrived, and its traffic class.
fn read_control(mut control: &[u8]) -> (Option<PacketInfo>, Option<u8>) {
    let (mut local, mut class) = (None, None);
    while let Some(header) = control.first_chunk::<HEADER>() {
        let (len, kinds) = header.split_at(8);
        let len = usize::from_ne_bytes(len.try_into().unwrap_or_default());
        let kinds: &[u8; 8] = kinds.try_into().unwrap_or(&[0; 8]);
        let [l0, l1, l2, l3, k0, k1, k2, k3] = *kinds;
        let Some(data) = control.get(HEADER..len) else { break };
        match (i32::from_ne_bytes([l0, l1, l2, l3]), i32::from_ne_bytes([k0, k1, k2, k3]), data) {
            // in_pktinfo: interface, then the address routing chose, then the header's destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &[a, b, c, d, _, _, _, _, i, j, k, l]) => {
                let address = IpAddr::V4(Ipv4Addr::new(i, j, k, l));
                local = Some(PacketInfo { address, interface: u32::from_ne_bytes([a, b, c, d]) });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data) if data.len() == 20 => {
                let (address, interface) = data.split_at(16);
                let address: [u8; 16] = address.try_into().unwrap_or_default();
                let interface = u32::from_ne_bytes(interface.try_into().unwrap_or_default());
                local = Some(PacketInfo { address: IpAddr::from(address), interface });
            }
            (libc::IPPROTO_IP, libc::IP_TOS, &[tos, ..]) => class = Some(tos),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[tclass, ..]) => class = Some(tclass),
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    (local, class)
}

/// A socket with the options we want, bound to `local`.
fn bound(local: SocketAddr) -> io::Result<OwnedFd> {
    let (family, level) = if local.is_ipv6() {
        (libc::AF_INET6, libc::IPPROTO_IPV6)
    } else {
        (libc::AF_INET, libc::IPPROTO_IP)
    };
    let fd = descriptor::socket(family, libc::SOCK_DGRAM, 0)?;
    if local.is_ipv6() {
        descriptor::set_option(&fd, level, libc::IPV6_V6ONLY, 1)?;
        descriptor::set_option(&fd, level, libc::IPV6_RECVPKTINFO, 1)?;
        descriptor::set_option(&fd, level, libc::IPV6_RECVTCLASS, 1)?;
    } else {
        descriptor::set_option(&fd, level, libc::IP_PKTINFO, 1)?;
        descriptor::set_option(&fd, level, libc::IP_RECVTOS, 1)?;
        // As on Windows: datagrams may be fragmented on their way.
        descriptor::set_option(&fd, level, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    }
    for (forced, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        if descriptor::set_option(&fd, libc::SOL_SOCKET, forced, KERNEL_BUFFER).is_err() {
            // Without the privilege the kernel's own limit must do.
            let _ = descriptor::set_option(&fd, libc::SOL_SOCKET, plain, KERNEL_BUFFER);
        }
    }
    let (name, len) = descriptor::to_native(local);
    descriptor::bind(&fd, &name, len)?;
    Ok(fd)
}

fn open_error(error: &io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => OpenError::InUse,
        Some(libc::EACCES | libc::EPERM) => OpenError::Denied,
        Some(libc::EADDRNOTAVAIL) => OpenError::NotLocal,
        Some(libc::EAFNOSUPPORT) => OpenError::NoFamily,
        _ => OpenError::Resources,
    }
}

fn send_error(error: &io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => SendError::Unreachable,
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO) => {
            SendError::BadSource
        }
        Some(libc::EMSGSIZE) => SendError::TooBig,
        Some(libc::EPERM | libc::EACCES) => SendError::Denied,
        _ => SendError::Resources,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_read_back() {
        for (address, ipv6) in [("192.0.2.1", false), ("2001:db8::1", true)] {
            let info = PacketInfo { address: address.parse().unwrap(), interface: 7 };
            let how = Sending { packet_info: Some(info), traffic_class: Some(2) };
            let mut control = Control([0; CONTROL]);
            let used = control.write(&how, ipv6);
            if !ipv6 {
                // What is sent as the address to use is received as the header's destination.
                control.0.copy_within(HEADER + 4..HEADER + 8, HEADER + 8);
            }
            assert_eq!(read_control(&control.0[..used]), (Some(info), Some(2)));
            for cut in 0..used {
                let _ = read_control(&control.0[..cut]);
            }
        }
    }
}
