//! UDP sockets of the kernel: batches in, batches out.
//!
//! Receiving is a thread per socket: it waits, then takes up to [`MESSAGES`] messages in one `recvmmsg`, each written
//! straight into the place where the driver will read it. A message may be many datagrams that the kernel has coalesced
//! (`UDP_GRO`): one who takes it so gets it so ([`Landing::takes_coalesced`]); for others the first stays where it is, the
//! others are copied to places of their own, and the driver sees them as it sees every burst, as a list of datagrams. Sending is a `sendmmsg` in the caller's thread, from the driver's own memory;
//! datagrams of one length that follow each other leave as one message (`UDP_SEGMENT`). Local address and interface travel
//! both ways as PKTINFO.
//!
//! Both stand for what lies below WSK on Windows: a stack that takes a whole `WSK_BUF_LIST` in one call, and a network card
//! that hands over a burst at a time (`WSK_DATAGRAM_INDICATION` is a list). WSK's own segmentation (`UDP_SEND_MSG_SIZE`), which a
//! driver asks for, is cut apart above, and leaves as one message again.

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

/// Messages taken from the kernel at once, and given.
const MESSAGES: usize = 16;
/// Datagrams handed to the landing at once.
const BATCH: usize = 64;
/// Payload bytes of one message: what fits a UDP datagram of either family, and a little less.
const MESSAGE_BYTES: usize = 65_000;
/// Payload bytes of a datagram that no usual network has to fragment; segments may not be fragmented.
const UNFRAGMENTED: usize = 1452;
/// `SOL_UDP`, and its options.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
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
    /// Whether the kernel cuts messages into datagrams.
    segments: AtomicBool,
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
            segments: AtomicBool::new(true),
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
        let mut places: Vec<Place> = Vec::with_capacity(MESSAGES);
        let mut filled: Vec<Place> = Vec::with_capacity(BATCH);
        let mut batch = Box::new(Receiving::new());
        while !self.closed.load(Ordering::Acquire) {
            let missing = MESSAGES - places.len();
            landing.places(&mut places, missing);
            if places.is_empty() {
                self.world.sleep(NO_PLACES);
                continue;
            }
            let count = batch.receive(&self.fd, &mut places);
            match count {
                Ok(count) => {
                    for (place, segment) in places.drain(..count).zip(batch.segments) {
                        self.land(landing, &mut filled, place, segment);
                    }
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

    /// Adds a message, as the datagrams it is, to `filled`, and hands that on whenever it is full.
    fn land(
        &self,
        landing: &dyn Landing,
        filled: &mut Vec<Place>,
        mut place: Place,
        segment: usize,
    ) {
        let whole = place.len;
        if (1..whole).contains(&segment) && landing.takes_coalesced() {
            place.segment = segment;
            filled.push(place);
            if filled.len() == BATCH {
                landing.landed(filled);
            }
            return;
        }
        let segment = if segment == 0 { whole } else { segment.min(whole) };
        place.len = segment;
        // SAFETY: the network has written so many bytes there; nobody writes them while the place is ours.
        let bytes = unsafe { std::slice::from_raw_parts(place.payload.as_ptr(), whole) };
        let rest = bytes.get(segment..).unwrap_or_default().chunks(segment.max(1));
        let mut others = Vec::new();
        while others.len() < rest.len() && !self.closed.load(Ordering::Acquire) {
            let missing = rest.len() - others.len();
            landing.places(&mut others, missing);
            if others.len() < rest.len() {
                self.world.sleep(NO_PLACES);
            }
        }
        for (other, datagram) in others.iter_mut().zip(rest) {
            other.fill(datagram);
            (other.remote, other.local) = (place.remote, place.local);
            other.traffic_class = place.traffic_class;
        }
        for place in std::iter::once(place).chain(others) {
            filled.push(place);
            if filled.len() == BATCH {
                landing.landed(filled);
            }
        }
    }

    /// Sends datagrams `first` to `end` of `batch`: as few messages as may be, or with `whole` each by itself.
    fn transmit(
        &self,
        to: &mut (libc::sockaddr_storage, u32),
        how: &Sending,
        batch: &Batch<'_>,
        (first, end): (usize, usize),
        whole: bool,
    ) -> Result<(), SendError> {
        let lens: [usize; BATCH_DATAGRAMS] = lengths(batch);
        let mut controls: [Control; MESSAGES] = std::array::from_fn(|_| Control([0; CONTROL]));
        let mut at = first;
        while at < end {
            let mut messages: [libc::mmsghdr; MESSAGES] = zeroed();
            let mut starts = [end; MESSAGES + 1];
            let mut count = 0;
            while count < MESSAGES && at < end {
                let run = if whole { 1 } else { run_length(&lens[at..end]) };
                let segment = (run > 1).then(|| lens[at] as u16);
                let pieces = batch.run(at, run);
                let header = &mut messages[count].msg_hdr;
                header.msg_name = (&raw mut to.0).cast();
                header.msg_namelen = to.1;
                // An IoSlice is an iovec; the kernel only reads it.
                header.msg_iov = pieces.as_ptr().cast_mut().cast();
                header.msg_iovlen = pieces.len();
                let control = &mut controls[count];
                let used = control.write(how, self.ipv6, segment);
                if used > 0 {
                    header.msg_control = control.0.as_mut_ptr().cast();
                    header.msg_controllen = used;
                }
                starts[count] = at;
                (at, count) = (at + run, count + 1);
            }
            starts[count] = at;
            self.send_messages(&mut messages[..count], |failed, error| {
                let range = (starts[failed], starts[failed + 1]);
                if whole || range.1 - range.0 == 1 || !refuses_segments(&error) {
                    return Err(send_error(&error));
                }
                // Perhaps they are too long for the way they take; perhaps there is nothing that cuts them.
                if lens[range.0] <= UNFRAGMENTED && self.segments.swap(false, Ordering::Relaxed) {
                    eprintln!(
                        "penstock-sim: the kernel sends no UDP segments ({error}); it works without"
                    );
                }
                self.transmit(to, how, batch, range, true)
            })?;
        }
        Ok(())
    }

    /// Hands over `messages`; `failed` decides about each that the kernel does not take.
    fn send_messages(
        &self,
        messages: &mut [libc::mmsghdr],
        mut failed: impl FnMut(usize, io::Error) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            let (at, left) = (rest.as_mut_ptr(), rest.len() as u32);
            // SAFETY: `left` messages whose names, pieces and control outlive the call.
            match check(unsafe { libc::sendmmsg(self.fd.as_raw_fd(), at, left, 0) }) {
                Ok(more) => sent += more as usize,
                Err(error) => match error.raw_os_error() {
                    // The second is an ICMP error of an earlier datagram: it is cleared by having been told.
                    Some(libc::EINTR | libc::ECONNREFUSED) => {}
                    _ => {
                        failed(sent, error)?;
                        sent += 1;
                    }
                },
            }
        }
        Ok(())
    }
}

/// The length of each datagram.
fn lengths(batch: &Batch<'_>) -> [usize; BATCH_DATAGRAMS] {
    let mut lens = [0; BATCH_DATAGRAMS];
    for (len, pieces) in lens.iter_mut().zip(batch.datagrams()) {
        *len = pieces.iter().map(|piece| piece.len()).sum();
    }
    lens
}

/// How many datagrams at the front make one message: of one length, the last perhaps shorter.
fn run_length(lens: &[usize]) -> usize {
    let Some(&first) = lens.first() else { return 0 };
    let most = (MESSAGE_BYTES / first.max(1)).clamp(1, lens.len());
    let same = lens[..most].iter().take_while(|len| **len == first).count();
    let shorter = lens[..most].get(same).is_some_and(|len| (1..first).contains(len));
    if first == 0 { 1 } else { same + usize::from(shorter) }
}

/// Whether a message may have been refused for what it is, and its datagrams would not be.
fn refuses_segments(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

impl Socket for UdpSocket {
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError> {
        let mut to = descriptor::to_native(to);
        let whole = !self.segments.load(Ordering::Relaxed);
        self.transmit(&mut to, how, batch, (0, batch.datagrams().len()), whole)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        descriptor::signal(&self.wake);
        if *lock(&self.reader) != Some(std::thread::current().id()) {
            let deadline = self.world.now() + Duration::from_secs(5);
            let ended = || self.ended.load(Ordering::Acquire).then_some(());
            // A reader that is stuck in the driver's callback is found by WSK, which waits for it.
            let _ =
                self.world.wait(Key::of(&self.ended), Some(deadline), "UDP reader to end", ended);
        }
        // Whoever closes a port may open it again at once, while its reader is still on its way out.
        // If there is no descriptor left for it, it is closed with its last owner.
        let _ = descriptor::close_now(&self.fd);
    }
}

/// Buffers of one `recvmmsg`.
struct Receiving {
    messages: [libc::mmsghdr; MESSAGES],
    pieces: [libc::iovec; MESSAGES],
    names: [libc::sockaddr_storage; MESSAGES],
    controls: [Control; MESSAGES],
    /// Bytes of each datagram of a coalesced message; 0 for one that is none.
    segments: [usize; MESSAGES],
}

impl Receiving {
    fn new() -> Self {
        let controls = std::array::from_fn(|_| Control([0; CONTROL]));
        let segments = [0; MESSAGES];
        Self { messages: zeroed(), pieces: zeroed(), names: zeroed(), controls, segments }
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
        let count = places.len().min(MESSAGES) as u32;
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
            (place.local, place.traffic_class, self.segments[number]) = read_control(control);
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
    /// Writes what `how` asks for, and into how long datagrams the message is to be cut; returns the length.
    fn write(&mut self, how: &Sending, ipv6: bool, segment: Option<u16>) -> usize {
        let mut used = 0;
        if let Some(segment) = segment {
            used = self.append(used, SOL_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
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

/// Where a message arrived, its traffic class, and the length of its datagrams if it was coalesced.
fn read_control(mut control: &[u8]) -> (Option<PacketInfo>, Option<u8>, usize) {
    let (mut local, mut class, mut segment) = (None, None, 0);
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
            (SOL_UDP, UDP_GRO, &[a, b, ..]) => segment = usize::from(u16::from_ne_bytes([a, b])),
            (libc::IPPROTO_IP, libc::IP_TOS, &[tos, ..]) => class = Some(tos),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[tclass, ..]) => class = Some(tclass),
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    (local, class, segment)
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
    // Without it datagrams come one by one.
    let _ = descriptor::set_option(&fd, SOL_UDP, UDP_GRO, 1);
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
            let used = control.write(&how, ipv6, Some(1452));
            if !ipv6 {
                // What is sent as the address to use is received as the header's destination.
                let info = HEADER + 8 + HEADER;
                control.0.copy_within(info + 4..info + 8, info + 8);
            }
            // What is sent as UDP_SEGMENT is received as UDP_GRO.
            assert_eq!(read_control(&control.0[..used]), (Some(info), Some(2), 0));
            control.0[12] = UDP_GRO as u8;
            assert_eq!(read_control(&control.0[..used]), (Some(info), Some(2), 1452));
            for cut in 0..used {
                let _ = read_control(&control.0[..cut]);
            }
        }
    }

    #[test]
    fn runs_are_of_one_length_and_end_with_a_shorter_one() {
        assert_eq!(run_length(&[100, 100, 100]), 3);
        assert_eq!(run_length(&[100, 100, 60, 100]), 3);
        assert_eq!(run_length(&[100, 101]), 1);
        assert_eq!(run_length(&[100, 0]), 1);
        assert_eq!(run_length(&[0, 0]), 1);
        assert_eq!(run_length(&[60_000, 60_000]), 1);
        assert_eq!(run_length(&[65_507]), 1);
        assert_eq!(run_length(&[]), 0);
        assert_eq!(run_length(&[1452; 64]), 44);
    }

    /// A landing that keeps what it gets.
    #[derive(Default)]
    struct Kept {
        datagrams: Mutex<Vec<Vec<u8>>>,
        rooms: Mutex<Vec<Box<[u8]>>>,
    }

    impl Landing for Kept {
        fn places(&self, places: &mut Vec<Place>, count: usize) {
            for name in 0..count {
                let mut room = vec![0; 1 << 16].into_boxed_slice();
                let payload = std::ptr::NonNull::new(room.as_mut_ptr()).unwrap();
                lock(&self.rooms).push(room);
                let remote = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                let (capacity, len) = (1 << 16, 0);
                let (local, traffic_class) = (None, None);
                places.push(Place {
                    payload,
                    capacity,
                    name,
                    len,
                    segment: 0,
                    remote,
                    local,
                    traffic_class,
                });
            }
        }

        fn landed(&self, filled: &mut Vec<Place>) {
            assert!(filled.len() <= BATCH);
            for place in filled.drain(..) {
                // SAFETY: filled, in a room that is kept.
                let bytes =
                    unsafe { std::slice::from_raw_parts(place.payload.as_ptr(), place.len) };
                lock(&self.datagrams).push(bytes.to_vec());
            }
        }

        fn unused(&self, _: &mut Vec<Place>) {}
    }

    /// Batches of every shape over the loopback interface: every datagram arrives, alone, whole, in order.
    #[test]
    fn what_leaves_in_one_message_arrives_as_datagrams() {
        let world = World::new(crate::verifier::schedule::Mode::Parallel);
        let _main = world.enter("main");
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let kept = Arc::new(Kept::default());
        let receiver = UdpSocket::open(&world, any, kept.clone()).unwrap();
        let sender = UdpSocket::open(&world, any, Arc::new(Kept::default())).unwrap();
        let to = local_address(&receiver);
        let shapes: [&[usize]; 6] = [
            &[1452; 64],
            &[96; 64],
            &[700, 700, 300, 700, 0, 5, 5, 5, 6, 1],
            &[60_000, 60_000, 1],
            // Longer than the loopback's MTU is fragmented, which segments may not be.
            &[32_000, 32_000],
            &[1],
        ];
        let mut sent = Vec::new();
        for shape in shapes {
            let datagrams: Vec<Vec<u8>> =
                shape.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
            let mut batch = Batch::default();
            for datagram in &datagrams {
                let (front, back) = datagram.split_at(datagram.len() / 3);
                assert!(batch.push([front, back].into_iter()));
            }
            assert_eq!(sender.send(to, &Sending::default(), &batch), Ok(()));
            sent.extend(datagrams);
            let arrived = || (lock(&kept.datagrams).len() >= sent.len()).then_some(());
            while arrived().is_none() {
                world.sleep(Duration::from_millis(1));
            }
        }
        assert!(*lock(&kept.datagrams) == sent);
        assert!(
            sender.segments.load(Ordering::Relaxed),
            "what was too long says nothing about the kernel"
        );
        receiver.close();
        sender.close();
    }

    #[test]
    fn a_port_that_was_closed_may_be_opened_at_once() {
        let world = World::new(crate::verifier::schedule::Mode::Parallel);
        let _main = world.enter("main");
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let first = UdpSocket::open(&world, any, Arc::new(Kept::default())).unwrap();
        let local = local_address(&first);
        // The first is still somebody's.
        first.close();
        let second = UdpSocket::open(&world, local, Arc::new(Kept::default())).unwrap();
        assert_eq!(local_address(&second), local);
        second.close();
    }

    fn local_address(socket: &UdpSocket) -> SocketAddr {
        let mut storage: libc::sockaddr_storage = zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        let at = (&raw mut storage).cast();
        // SAFETY: room for an address, of the length that is said.
        check(unsafe { libc::getsockname(socket.fd.as_raw_fd(), at, &raw mut len) }).unwrap();
        descriptor::from_native(&storage).unwrap()
    }
}
