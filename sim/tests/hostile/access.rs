//! Who may open the device and who may make a request: judged in the caller's thread, each time anew.
//!
//! | caller | CREATE | each code |
//! |---|---|---|
//! | LocalSystem, elevated administrator | yes | yes |
//! | administrator at medium integrity | no | no, by a handle that an administrator opened |
//! | ordinary user | no | no, the same |
//! | administrator's process at low integrity | no | no, the same |
//! | another driver, whatever its thread's token | yes | yes |

use std::sync::Arc;
use std::time::Duration;

use abi::capture::{BUFFER_MIN, OUTER, Start};
use abi::ioctl::{self, AdapterState, interface_flag};
use abi::policy::Policy;
use abi::statistics;
use sim::host::computer::Tunnel;
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::nt::wdf::requestor::FileHandle;
use sim::nt::wdf::user_buffer::UserBuffer;

use crate::control_requests::{set_buffer, whole_configuration};
use crate::{status, with_tunnel};

fn allowed() -> [Token; 2] {
    [Token::system(), Token::administrator()]
}

fn refused() -> [Token; 3] {
    [Token::filtered_administrator(), Token::user(), Token::low_integrity()]
}

const CAPTURE: Start = Start { what: OUTER, snap: 96, buffer: BUFFER_MIN, per_second: 9 };

/// Every code, known and not, with buffers it would succeed with.
fn requests() -> Vec<(u32, Vec<u8>, Vec<u8>)> {
    let word = |state: AdapterState| (state as u32).to_le_bytes().to_vec();
    let port = set_buffer(interface_flag::HAS_LISTEN_PORT, 4000, &[0; 32], &[]);
    vec![
        (ioctl::GET, vec![], vec![0; 4096]),
        (ioctl::SET, vec![], port),
        (ioctl::SET_ADAPTER_STATE, word(AdapterState::Up), vec![]),
        (ioctl::SET_ADAPTER_STATE, word(AdapterState::Query), vec![0; 4]),
        (ioctl::SET_ADAPTER_STATE, word(AdapterState::Down), vec![]),
        (ioctl::GET_STATISTICS, vec![], vec![0; statistics::LEN]),
        (ioctl::RELOAD_POLICY, vec![], vec![]),
        (ioctl::READ_LOG_LINE, vec![], vec![0; ioctl::LOG_ENTRY_LEN]),
        (ioctl::START_CAPTURE, CAPTURE.encode().to_vec(), vec![]),
        (ioctl::READ_CAPTURE, vec![], vec![0; CAPTURE.answer_len()]),
    ]
}

/// Makes a request by `handle` from a thread of `process`: its status, and what the buffer holds then.
fn request(
    handle: &FileHandle,
    process: &Arc<Process>,
    (code, input, output): &(u32, Vec<u8>, Vec<u8>),
) -> (i32, Vec<u8>) {
    let buffer = UserBuffer::new(output.len(), 8).unwrap();
    buffer.write(0, output);
    let pending = handle.begin_in(process, *code, input, &buffer).unwrap();
    let (status, _) = pending.wait(&buffer);
    (status, buffer.read(0, output.len()))
}

fn open(tunnel: &Tunnel, process: &Arc<Process>) -> Result<FileHandle, i32> {
    tunnel.machine().open_device(tunnel.handle().device(), process)
}

#[test]
fn only_the_powerful_open_the_device() {
    with_tunnel(1, |tunnel| {
        for token in allowed() {
            let (name, process) = (token.name(), Process::start("program", token));
            assert_eq!(open(tunnel, &process).map(drop), Ok(()), "{name}");
        }
        for token in refused() {
            let (name, process) = (token.name(), Process::start("program", token));
            assert_eq!(open(tunnel, &process).map(drop), Err(status::ACCESS_DENIED), "{name}");
        }
    });
}

#[test]
fn every_request_of_the_powerful_succeeds() {
    with_tunnel(2, |tunnel| {
        for token in allowed() {
            let (name, process) = (token.name(), Process::start("program", token));
            let handle = open(tunnel, &process).unwrap();
            for what in requests() {
                let (status, _) = request(&handle, &process, &what);
                assert_eq!(status, status::SUCCESS, "{name}, {:#x}", what.0);
            }
        }
    });
}

#[test]
fn an_administrators_handle_gives_nobody_else_his_power() {
    with_tunnel(3, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let before = tunnel.get().unwrap();
        let machine = tunnel.machine();
        machine.registry().set_u32(&machine.parameters_key(), Policy::SendEngine.name(), 9);
        let unknown = (0x0022_0000, vec![0; 16], vec![0; 16]);
        for token in refused() {
            let (name, process) = (token.name(), Process::start("heir", token));
            for what in requests().into_iter().chain([unknown.clone()]) {
                let (status, buffer) = request(tunnel.handle(), &process, &what);
                assert_eq!(status, status::ACCESS_DENIED, "{name}, {:#x}", what.0);
                assert_eq!(buffer, what.2, "{name}, {:#x}: something was written", what.0);
            }
        }
        assert_eq!(tunnel.get().unwrap(), before, "nothing was done");
        let read = || machine.prints().iter().any(|line| line.contains("policy SendEngine is 9"));
        assert!(!read(), "nor was the policy read anew");
        tunnel.set_policy(&[]).unwrap();
        assert!(read(), "which an administrator can have");
        // The handle is none the worse for it, and its power is the user's, not the opener's.
        for token in allowed() {
            let heir = Process::start("heir", token);
            let query = &requests()[3];
            let (status, word) = request(tunnel.handle(), &heir, query);
            assert_eq!((status, word), (status::SUCCESS, vec![0; 4]), "down");
        }
    });
}

#[test]
fn another_driver_is_not_judged() {
    with_tunnel(4, |tunnel| {
        // Its thread may be anybody's: a kernel requestor answers for itself.
        let user = Process::start("program", Token::user());
        let device = tunnel.handle().device();
        let handle = tunnel.machine().open_device_from_kernel(device, &user).unwrap();
        for what in requests() {
            assert_eq!(request(&handle, &user, &what).0, status::SUCCESS, "{:#x}", what.0);
        }
    });
}

#[test]
fn queued_requests_run_in_no_callers_thread() {
    with_tunnel(5, |tunnel| {
        // The caller's thread comes back from a request that waits, and from one that is served.
        let heir = Process::start("heir", Token::administrator());
        let codes = [
            ioctl::GET,
            ioctl::SET,
            ioctl::GET_STATISTICS,
            ioctl::RELOAD_POLICY,
            ioctl::READ_LOG_LINE,
            ioctl::START_CAPTURE,
            ioctl::READ_CAPTURE,
        ];
        for what in requests().into_iter().filter(|(code, ..)| codes.contains(code)) {
            let buffer = UserBuffer::new(what.2.len(), 0).unwrap();
            buffer.write(0, &what.2);
            let pending = tunnel.handle().begin_in(&heir, what.0, &what.1, &buffer).unwrap();
            assert_eq!(pending.poll(), None, "{:#x} was served in the caller's thread", what.0);
            tunnel.machine().world().sleep(Duration::from_millis(100));
            if what.0 == ioctl::READ_LOG_LINE && pending.poll().is_none() {
                assert!(pending.cancel());
            }
            let (status, _) = pending.wait(&buffer);
            assert!(status == status::SUCCESS || status == status::CANCELLED, "{status:#x}");
        }
    });
}
