//! What a datagram socket is told about its datagrams: options, each set or asked for once.
//!
//! Source: wsk/nc-wsk-pfn_wsk_control_socket, WDD network/winsock-kernel-socket-options.

use core::{ffi::c_void, ptr};

use super::{
    AF_INET6,
    socket::{Events, Socket, dispatch},
};
use crate::{
    irp::Irp,
    irql::Passive,
    status::NtError,
    sys::wsk::{
        IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_TCLASS, IPV6_V6ONLY, PKTINFO, RECVECN,
        SO_EXCLUSIVEADDRUSE, SOL_SOCKET, UDP_RECV_MAX_COALESCED_SIZE, UDP_SEND_MSG_SIZE,
        WSK_GET_OPTION, WSK_SET_OPTION, WSK_SOCKET,
    },
};

impl<E: Events> Socket<E> {
    /// Keeps every other socket off the port, on whatever address.
    ///
    /// # Errors
    ///
    /// What WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, before binding.
    pub fn exclusive(&mut self, level: &Passive) -> Result<(), NtError> {
        self.set_option(level, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)
    }

    /// Keeps an IPv6 socket to IPv6; nothing for an IPv4 one.
    ///
    /// # Errors
    ///
    /// What WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, before binding.
    pub fn only_its_family(&mut self, level: &Passive) -> Result<(), NtError> {
        if self.family != AF_INET6 {
            return Ok(());
        }
        self.set_option(level, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    }

    /// Has each datagram tell the local address and interface it came to.
    ///
    /// # Errors
    ///
    /// What WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, before binding.
    pub fn packet_information(&mut self, level: &Passive) -> Result<(), NtError> {
        self.set_option(level, self.ip_level(), PKTINFO, 1)
    }

    /// Has each datagram tell its ECN bits.
    ///
    /// # Errors
    ///
    /// What WSK answers; builds before Windows Server 2022 do not know the option.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn congestion_notification(&mut self, level: &Passive) -> Result<(), NtError> {
        self.set_option(level, self.ip_level(), RECVECN, 1)
    }

    /// Has datagrams leave with a traffic class of 0, as they do anyhow: a stack that takes the option of an IPv6
    /// socket (`IPV6_TCLASS`) also takes it, and `IP_TOS` of an IPv4 one, with a send.
    ///
    /// # Errors
    ///
    /// What WSK answers, for instance that it does not know the option, or that this is an IPv4 socket.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: msquic, `src/platform/datapath_winkernel.c`, which asks in this way before it sends so.
    pub fn traffic_class(&mut self, level: &Passive) -> Result<(), NtError> {
        self.set_option(level, IPPROTO_IPV6, IPV6_TCLASS, 0)
    }

    /// Whether the stack cuts what is sent into datagrams, when a control message of the send says how
    /// long each is (`UDP_SEND_MSG_SIZE`).
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: msquic, which asks in this way before it sends so.
    pub fn segments(&mut self, level: &Passive) -> bool {
        let socket = self.raw();
        let option = (IPPROTO_UDP, UDP_SEND_MSG_SIZE);
        control(level, &mut self.irp, socket, WSK_GET_OPTION, option, 0).is_ok()
    }

    /// Lets datagrams of one sender come several as one, of at most so many bytes; 0 lets none
    /// (`UDP_RECV_MAX_COALESCED_SIZE`).
    ///
    /// # Errors
    ///
    /// What WSK answers, for instance that it does not know the option;
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; not while the socket is being dropped.
    pub fn coalesce(&self, level: &Passive, bytes: u32) -> Result<(), NtError> {
        let option = (IPPROTO_UDP, UDP_RECV_MAX_COALESCED_SIZE);
        let mut irp = Irp::allocate()?;
        control(level, &mut irp, self.raw(), WSK_SET_OPTION, option, bytes).map(drop)
    }

    /// `IPPROTO_IP` or `IPPROTO_IPV6`.
    const fn ip_level(&self) -> u32 {
        if self.family == AF_INET6 { IPPROTO_IPV6 } else { IPPROTO_IP }
    }

    /// Sets an option that is a `ULONG`, and waits for it.
    fn set_option(
        &mut self,
        level: &Passive,
        option_level: u32,
        option: u32,
        value: u32,
    ) -> Result<(), NtError> {
        let socket = self.raw();
        control(level, &mut self.irp, socket, WSK_SET_OPTION, (option_level, option), value)
            .map(drop)
    }
}

/// Sets or asks for an option, of this level and number, that is a `ULONG`; returns its value.
fn control(
    level: &Passive,
    irp: &mut Irp,
    socket: *mut WSK_SOCKET,
    request: i32,
    (option_level, option): (u32, u32),
    value: u32,
) -> Result<u32, NtError> {
    let mut value = value;
    // SAFETY: whoever calls this has an open socket.
    let control = unsafe { dispatch(socket) }.WskControlSocket;
    let place = (&raw mut value).cast::<c_void>();
    let (none, whole) = ((0, ptr::null_mut()), (size_of::<u32>(), place));
    let (input, output) = if request == WSK_SET_OPTION { (whole, none) } else { (none, whole) };
    irp.call(level, |irp| {
        // SAFETY: the value lives until the call is complete, which `Irp::call` waits for.
        unsafe {
            control(
                socket,
                request,
                option,
                option_level,
                input.0,
                input.1,
                output.0,
                output.1,
                ptr::null_mut(),
                irp,
            )
        }
    })?;
    Ok(value)
}
