//! Socket options: which exist, when they may be set, and how large their argument is.
//!
//! Source: `facts/wsk.md` 4, the table of options.

use std::sync::Arc;

use super::answer;
use super::completion::Done;
use super::ports::Sharing;
use super::socket::{EVENT_RECEIVE_FROM, Socket, State};
use super::{
    TRAFFIC_CLASS_IS_TAKEN, UNKNOWN_OPTION_IS_NOT_SUPPORTED, coalesce, control_messages as cmsg,
    segments,
};
use crate::loader::probe;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::lock;
use std::sync::atomic::Ordering;

const SET_OPTION: u32 = 0;
const GET_OPTION: u32 = 1;
const SOL_SOCKET: u32 = 0xFFFF;
const IPPROTO_IP: u32 = cmsg::IPPROTO_IP as u32;
const IPPROTO_IPV6: u32 = cmsg::IPPROTO_IPV6 as u32;
const IPPROTO_UDP: u32 = cmsg::IPPROTO_UDP as u32;
const SO_REUSEADDR: u32 = 4;
const SO_EXCLUSIVEADDRUSE: u32 = !4;
const SO_RCVBUF: u32 = 0x1002;
const SO_SNDBUF: u32 = 0x1001;
const SO_WSK_EVENT_CALLBACK: u32 = 0x4002;
const PKTINFO: u32 = cmsg::PKTINFO as u32;
const DONT_FRAGMENT: u32 = 14;
const V6ONLY: u32 = 27;
const UNICAST_IF: u32 = 31;
const RECV_TRAFFIC_CLASS: u32 = 40;
const ECN: u32 = cmsg::ECN as u32;
const TRAFFIC_CLASS: u32 = cmsg::IPV6_TCLASS as u32;
const UDP_NOCHECKSUM: u32 = 1;
const UDP_SEND_MSG_SIZE: u32 = cmsg::UDP_SEND_MSG_SIZE as u32;
const UDP_RECV_MAX_COALESCED_SIZE: u32 = 3;
/// In an event mask: disable instead of enable.
const EVENT_DISABLE: u32 = 0x8000_0000;

/// One `WskControlSocket`.
#[derive(Clone, Copy)]
pub(super) struct Control {
    pub(super) request: u32,
    pub(super) code: u32,
    pub(super) level: u32,
    pub(super) in_size: usize,
    pub(super) input: usize,
    pub(super) out_size: usize,
    pub(super) output: usize,
}

impl Control {
    /// Whether it enables or disables receive callbacks, which may come without an IRP.
    pub(super) fn is_event_callback(&self) -> bool {
        (self.request, self.level, self.code) == (SET_OPTION, SOL_SOCKET, SO_WSK_EVENT_CALLBACK)
    }

    /// Carries it out.
    pub(super) fn apply(&self, thread: &Thread, socket: &Arc<Socket>) -> Done {
        if self.request == GET_OPTION {
            return self.get_word(thread);
        }
        (self.status(thread, socket), 0)
    }

    /// Tells the value of an option.
    fn get_word(&self, thread: &Thread) -> Done {
        let machine = thread.machine();
        let status = match (self.level, self.code) {
            (IPPROTO_UDP, UDP_SEND_MSG_SIZE) => segments::probe(machine),
            (level, code) => {
                let detail = format!("WskControlSocket: the value of option {code} at {level:#x}");
                machine.die(&rules::NOT_PROVIDED, detail);
                answer::NOT_SUPPORTED
            }
        };
        if status != answer::SUCCESS {
            return (status, 0);
        }
        if self.out_size != 4 {
            return (answer::INVALID_PARAMETER, 0);
        }
        // Unless the socket was told otherwise, nothing is cut apart.
        if probe::write(self.output, 0_u32).is_err() {
            machine.die(&rules::WSK_CONTROL_SOCKET, format!("cannot write {:#x}", self.output));
        }
        (answer::SUCCESS, 4)
    }

    fn status(&self, thread: &Thread, socket: &Arc<Socket>) -> i32 {
        if self.request != SET_OPTION {
            let detail =
                format!("WskControlSocket: request {} code {:#x}", self.request, self.code);
            thread.machine().die(&rules::NOT_PROVIDED, detail);
            return answer::NOT_SUPPORTED;
        }
        if self.is_event_callback() {
            return self.set_events(socket);
        }
        if self.in_size != 4 {
            return answer::INVALID_PARAMETER;
        }
        let Ok(value) = probe::read::<u32>(self.input) else {
            thread
                .machine()
                .die(&rules::WSK_CONTROL_SOCKET, format!("cannot read {:#x}", self.input));
            return answer::INVALID_PARAMETER;
        };
        self.set_word(thread, socket, value)
    }

    fn set_word(&self, thread: &Thread, socket: &Arc<Socket>, value: u32) -> i32 {
        let family = if socket.ipv6 { IPPROTO_IPV6 } else { IPPROTO_IP };
        let mut settings = lock(&socket.settings);
        let created = settings.state == State::Created;
        match (self.level, self.code) {
            (SOL_SOCKET, SO_REUSEADDR | SO_EXCLUSIVEADDRUSE) | (IPPROTO_IPV6, V6ONLY)
                if !created =>
            {
                return answer::INVALID_PARAMETER;
            }
            (SOL_SOCKET, SO_REUSEADDR) => {
                settings.sharing = if value != 0 { Sharing::Reuse } else { Sharing::Default };
            }
            (SOL_SOCKET, SO_EXCLUSIVEADDRUSE) => {
                settings.sharing = if value != 0 { Sharing::Exclusive } else { Sharing::Default };
            }
            (IPPROTO_UDP, UDP_RECV_MAX_COALESCED_SIZE) => {
                let status = coalesce::may_coalesce(thread.machine());
                if status == answer::SUCCESS {
                    settings.coalesces = value as usize;
                }
                return status;
            }
            (SOL_SOCKET, SO_RCVBUF | SO_SNDBUF) | (IPPROTO_UDP, UDP_NOCHECKSUM) => {}
            // Dual-stack sockets are not modelled: both networks open one socket per family.
            (IPPROTO_IPV6, V6ONLY) if socket.ipv6 && value != 0 => {}
            (level, PKTINFO) if level == family => settings.wants_packet_info = value != 0,
            (level, ECN | RECV_TRAFFIC_CLASS) if level == family => {
                settings.wants_traffic_class = value != 0;
            }
            (level, DONT_FRAGMENT | UNICAST_IF) if level == family => {}
            // Of datagrams without a message of their own, for which nobody asks here.
            (IPPROTO_IPV6, TRAFFIC_CLASS)
                if socket.ipv6 && thread.machine().either(&TRAFFIC_CLASS_IS_TAKEN) => {}
            (IPPROTO_IP | IPPROTO_IPV6, PKTINFO | ECN | DONT_FRAGMENT | UNICAST_IF) => {
                return answer::INVALID_PARAMETER;
            }
            _ => {
                drop(settings);
                let other = thread.machine().either(&UNKNOWN_OPTION_IS_NOT_SUPPORTED);
                return if other { answer::NOT_SUPPORTED } else { answer::INVALID_PARAMETER };
            }
        }
        answer::SUCCESS
    }

    /// Enables or disables the receive callback.
    fn set_events(&self, socket: &Arc<Socket>) -> i32 {
        let mask = probe::read::<u32>(self.input.wrapping_add(8));
        let (Ok(mask), 16) = (mask, self.in_size) else { return answer::INVALID_PARAMETER };
        let events = mask & !EVENT_DISABLE;
        if events != EVENT_RECEIVE_FROM {
            return answer::INVALID_PARAMETER;
        }
        let mut settings = lock(&socket.settings);
        if mask & EVENT_DISABLE == 0 {
            settings.events |= events;
            return answer::SUCCESS;
        }
        settings.events &= !events;
        if socket.callbacks.load(Ordering::Acquire) > 0 {
            answer::EVENT_PENDING
        } else {
            answer::SUCCESS
        }
    }
}
