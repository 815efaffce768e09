//! Control requests as a program makes them: every code, buffers of every length, ports that somebody has.
//!
//! ```text
//!   program ── handle ──► penstock.sys ── WSK ──► network
//!     GET, SET, SET_ADAPTER_STATE,             UDP 5353: another program's
//!     READ_LOG_LINE, GET_STATISTICS,
//!     RELOAD_POLICY, START_CAPTURE,
//!     READ_CAPTURE
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::capture::{ANSWER_HEAD_LEN, Answer, BUFFER_MIN, OUTER, Start};
use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{self, AdapterState, AllowedIp, Set, Writer, interface_flag, peer_flag};
use abi::policy::Policy;
use abi::statistics;
use sim::host::computer::Tunnel;
use sim::host::routes::Tables;
use sim::host::{Landing, OpenError, Outer, Socket, Watcher};
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::nt::wdf::requestor::FileHandle;
use sim::nt::wdf::user_buffer::UserBuffer;

use crate::{status, with_computer, with_tunnel};

/// The port that another program has.
const TAKEN: u16 = 5353;
/// Time for a request to reach its handler.
const SOON: Duration = Duration::from_millis(100);

pub(crate) const NO_KEY: [u8; 32] = [0; 32];
pub(crate) const PRIVATE_KEY: [u8; 32] = [0x48; 32];

/// What a SET says of a peer.
#[derive(Clone, Copy)]
pub(crate) struct PeerPart<'a> {
    pub(crate) key: [u8; 32],
    pub(crate) flags: u32,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) allowed_ips: &'a [(&'a str, u8)],
}

/// Writes the buffer of a SET.
pub(crate) fn set_buffer(
    flags: u32,
    port: u16,
    private_key: &[u8; 32],
    peers: &[PeerPart<'_>],
) -> Vec<u8> {
    let fields = InterfaceFields { flags, listen_port: port, private_key, public_key: &NO_KEY };
    let write = |buffer: &mut [u8]| {
        let mut writer = Writer::new(buffer, &fields);
        for peer in peers {
            writer.peer(&PeerFields {
                flags: peer.flags | peer_flag::HAS_PUBLIC_KEY,
                preshared_key: &[0x77; 32],
                persistent_keepalive_s: 25,
                endpoint: peer.endpoint,
                ..PeerFields::of(&peer.key)
            });
            for (address, cidr) in peer.allowed_ips {
                let address = address.parse().unwrap();
                writer.allowed_ip(&AllowedIp { address, cidr: *cidr, remove: false });
            }
        }
        writer.len_bytes()
    };
    let mut buffer = vec![0; write(&mut [])];
    write(&mut buffer);
    buffer
}

/// Interface, two peers, one with everything there is.
pub(crate) fn whole_configuration(port: u16) -> Vec<u8> {
    let everything = peer_flag::HAS_PRESHARED_KEY
        | peer_flag::HAS_PERSISTENT_KEEPALIVE
        | peer_flag::HAS_ENDPOINT
        | peer_flag::HAS_PROTOCOL_VERSION
        | peer_flag::REPLACE_ALLOWED_IPS;
    let peers = [
        PeerPart {
            key: [0x11; 32],
            flags: everything,
            endpoint: Some("198.51.100.9:51820".parse().unwrap()),
            allowed_ips: &[("10.1.0.0", 16), ("fd00::", 64), ("10.2.3.4", 32)],
        },
        PeerPart { key: [0x22; 32], flags: 0, endpoint: None, allowed_ips: &[("0.0.0.0", 0)] },
    ];
    let flags = interface_flag::HAS_PRIVATE_KEY
        | interface_flag::HAS_LISTEN_PORT
        | interface_flag::REPLACE_PEERS;
    set_buffer(flags, port, &PRIVATE_KEY, &peers)
}

fn soon(tunnel: &Tunnel) {
    tunnel.machine().world().sleep(SOON);
}

fn another_handle(tunnel: &Tunnel) -> FileHandle {
    let process = Process::start("second program", Token::administrator());
    tunnel.machine().open_device(tunnel.handle().device(), &process).unwrap()
}

fn is_up(tunnel: &Tunnel) -> bool {
    let (word, mut answer) = ((AdapterState::Query as u32).to_le_bytes(), [0xEE; 4]);
    let done = tunnel.handle().device_io_control(ioctl::SET_ADAPTER_STATE, &word, &mut answer);
    assert_eq!(done, (status::SUCCESS, 4));
    match AdapterState::parse(&answer) {
        Some(AdapterState::Up) => true,
        Some(AdapterState::Down) => false,
        other => panic!("the state is {other:?}"),
    }
}

fn listen_port(tunnel: &Tunnel) -> u16 {
    Set::parse(&tunnel.get().unwrap()).unwrap().listen_port().unwrap()
}

#[test]
fn get_tells_the_length_it_needs_whatever_the_buffer() {
    with_tunnel(1, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let whole = tunnel.get().unwrap();
        let needed = whole.len();
        assert_eq!(needed, 80 + 2 * 136 + 4 * 24);
        for len in 0..=needed + 9 {
            let mut buffer = vec![0xA5; len];
            let done = tunnel.handle().device_io_control(ioctl::GET, &[], &mut buffer);
            if len < needed {
                assert_eq!(done, (status::BUFFER_OVERFLOW, needed as u64), "{len} bytes");
                assert!(buffer.iter().all(|byte| *byte == 0xA5), "{len} bytes: written to");
            } else {
                assert_eq!(done, (status::SUCCESS, needed as u64), "{len} bytes");
                assert_eq!(buffer[..needed], whole);
                assert!(buffer[needed..].iter().all(|byte| *byte == 0xA5), "past the answer");
            }
        }
        // An input buffer is none of its business.
        let mut buffer = vec![0; needed];
        let done = tunnel.handle().device_io_control(ioctl::GET, &[1; 300], &mut buffer);
        assert_eq!((done, buffer), ((status::SUCCESS, needed as u64), whole));
    });
}

#[test]
fn what_get_says_set_takes_and_get_says_again() {
    with_tunnel(2, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let first = tunnel.get().unwrap();
        let empty = set_buffer(
            interface_flag::REPLACE_PEERS
                | interface_flag::HAS_PRIVATE_KEY
                | interface_flag::HAS_LISTEN_PORT,
            0,
            &NO_KEY,
            &[],
        );
        tunnel.set(&empty).unwrap();
        let emptied = tunnel.get().unwrap();
        let parsed = Set::parse(&emptied).unwrap();
        assert_eq!(
            (parsed.peer_count(), parsed.private_key(), parsed.listen_port()),
            (0, None, Some(0))
        );
        let mut buffer = first.clone();
        let done = tunnel.handle().device_io_control(ioctl::SET, &[], &mut buffer);
        assert_eq!(done, (status::SUCCESS, first.len() as u64), "all of it is consumed");
        assert_eq!(buffer, first, "a SET does not write to its buffer");
        assert_eq!(tunnel.get().unwrap(), first);
    });
}

#[test]
fn pieces_make_the_same_configuration_as_the_whole() {
    with_tunnel(3, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let at_once = tunnel.get().unwrap();
        let cleared = interface_flag::REPLACE_PEERS | interface_flag::HAS_PRIVATE_KEY;
        tunnel.set(&set_buffer(cleared, 0, &NO_KEY, &[])).unwrap();
        assert_ne!(tunnel.get().unwrap(), at_once);
        let peer = |key, flags, allowed_ips| PeerPart {
            key,
            flags,
            endpoint: Some("198.51.100.9:51820".parse().unwrap()),
            allowed_ips,
        };
        let (one, two) = ([0x11; 32], [0x22; 32]);
        let pieces = [
            (interface_flag::HAS_LISTEN_PORT, None),
            (0, Some(peer(one, 0, &[("10.1.0.0", 16)][..]))),
            (0, Some(peer(one, peer_flag::HAS_ENDPOINT, &[]))),
            (interface_flag::HAS_PRIVATE_KEY, None),
            (0, Some(peer(two, 0, &[]))),
            (0, Some(peer(one, peer_flag::HAS_PERSISTENT_KEEPALIVE, &[("fd00::", 64)][..]))),
            // Moves from one to the other: a prefix has one owner.
            (0, Some(peer(one, 0, &[("0.0.0.0", 0)][..]))),
            (0, Some(peer(two, peer_flag::UPDATE_ONLY, &[("0.0.0.0", 0)][..]))),
            (0, Some(peer([0x33; 32], peer_flag::UPDATE_ONLY, &[("10.1.0.0", 16)][..]))),
            (0, Some(peer(one, peer_flag::HAS_PRESHARED_KEY, &[("10.2.3.4", 32)][..]))),
        ];
        for (flags, peer) in &pieces {
            tunnel.set(&set_buffer(*flags, 51820, &PRIVATE_KEY, peer.as_slice())).unwrap();
        }
        assert_eq!(tunnel.get().unwrap(), at_once);
    });
}

#[test]
fn the_adapters_state_is_a_word_in_and_a_word_out() {
    with_tunnel(4, |tunnel| {
        let up = (AdapterState::Up as u32).to_le_bytes();
        let query = (AdapterState::Query as u32).to_le_bytes();
        for len in (0..=16).filter(|len| *len != 4) {
            let mut input = up.to_vec();
            input.resize(len, 0);
            let (status, written) =
                tunnel.handle().device_io_control(ioctl::SET_ADAPTER_STATE, &input, &mut [0; 4]);
            assert_eq!((status, written), (status::INFO_LENGTH_MISMATCH, 0), "{len} bytes in");
        }
        for word in [3, 0x100, 0x0100_0001, u32::MAX] {
            let done = tunnel.handle().device_io_control(
                ioctl::SET_ADAPTER_STATE,
                &u32::to_le_bytes(word),
                &mut [0; 4],
            );
            assert_eq!(done, (status::INVALID_PARAMETER, 0), "word {word:#x}");
        }
        for len in (0..=16).filter(|len| *len != 4) {
            let mut output = vec![0xA5; len];
            let (status, written) =
                tunnel.handle().device_io_control(ioctl::SET_ADAPTER_STATE, &query, &mut output);
            assert!(status < 0 && written == 0, "{len} bytes out: {status:#x}, {written}");
        }
        assert!(!is_up(tunnel), "no refused request did anything");
        for expected in [true, true, false, false, true] {
            let state = if expected { AdapterState::Up } else { AdapterState::Down };
            tunnel.set_state(state).unwrap();
            assert_eq!(is_up(tunnel), expected);
        }
    });
}

#[test]
fn a_log_line_is_waited_for_answered_and_given_up() {
    with_tunnel(5, |tunnel| {
        let line = || UserBuffer::new(ioctl::LOG_ENTRY_LEN, 100).unwrap();
        let begin = |handle: &FileHandle, buffer: &UserBuffer| {
            handle.begin(ioctl::READ_LOG_LINE, &[], buffer).unwrap()
        };
        for len in 0..ioctl::LOG_ENTRY_LEN {
            let done =
                tunnel.handle().device_io_control(ioctl::READ_LOG_LINE, &[], &mut vec![0; len]);
            assert_eq!(done, (status::BUFFER_TOO_SMALL, 0), "{len} bytes");
        }
        // Whatever was said before.
        loop {
            let buffer = line();
            let pending = begin(tunnel.handle(), &buffer);
            soon(tunnel);
            if pending.poll().is_none() {
                assert!(pending.cancel(), "it waits in a queue");
                assert_eq!(pending.wait(&buffer), (status::CANCELLED, 0));
                break;
            }
        }
        let (first, second, third) = (line(), line(), line());
        let other = another_handle(tunnel);
        let abandoned = begin(&other, &first);
        // One after the other: two that begin together are presented in either order.
        let answered = begin(tunnel.handle(), &second);
        soon(tunnel);
        let later = begin(tunnel.handle(), &third);
        soon(tunnel);
        assert_eq!(abandoned.poll(), None);
        other.close();
        assert_eq!(abandoned.wait(&first), (status::CANCELLED, 0), "closing cancels");
        assert_eq!((answered.poll(), later.poll()), (None, None), "of that handle alone");
        tunnel.set_state(AdapterState::Up).unwrap();
        assert_eq!(answered.wait(&second), (status::SUCCESS, ioctl::LOG_ENTRY_LEN as u64));
        let entry = second.read(0, ioctl::LOG_ENTRY_LEN);
        let text: Vec<u8> = entry[8..].iter().copied().take_while(|byte| *byte != 0).collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("3up, listening on port "), "{text}");
        assert_eq!(entry.last(), Some(&0), "the text ends inside");
        assert_eq!(later.poll(), None, "one line answers one reader");
        tunnel.set_state(AdapterState::Down).unwrap();
        assert_eq!(later.wait(&third).0, status::SUCCESS);
        assert_eq!(third.read(8, 6), b"3down\0");
    });
}

#[test]
fn statistics_need_room_for_the_block() {
    with_tunnel(6, |tunnel| {
        // There is no room for a part.
        for len in 0..statistics::LEN + 9 {
            let mut buffer = vec![0; len];
            let done = tunnel.handle().device_io_control(ioctl::GET_STATISTICS, &[], &mut buffer);
            if len < statistics::LEN {
                assert_eq!(done, (status::BUFFER_TOO_SMALL, 0), "{len} bytes");
            } else {
                assert_eq!(done, (status::SUCCESS, statistics::LEN as u64), "{len} bytes");
                assert!(statistics::Statistics::parse(&buffer).is_some());
            }
        }
    });
}

#[test]
fn a_capture_is_started_by_what_is_one_and_read_into_enough_room() {
    with_tunnel(12, |tunnel| {
        let good = Start { what: OUTER, snap: 96, buffer: BUFFER_MIN, per_second: 9 };
        let start = |input: &[u8], output: &mut [u8]| {
            tunnel.handle().device_io_control(ioctl::START_CAPTURE, input, output)
        };
        let read = |input: &[u8], len: usize| {
            let mut output = vec![0xA5; len];
            let done = tunnel.handle().device_io_control(ioctl::READ_CAPTURE, input, &mut output);
            (done, output)
        };
        let whole = good.encode();
        for len in (0..=40).filter(|len| *len != whole.len()) {
            let mut input = whole.to_vec();
            input.resize(len, 0);
            assert_eq!(start(&input, &mut []), (status::INVALID_PARAMETER, 0), "{len} bytes in");
        }
        for at in 0..whole.len() {
            for bit in [0, 7] {
                let mut input = whole;
                input[at] ^= 1 << bit;
                if Start::parse(&input).is_none() {
                    let done = start(&input, &mut []);
                    assert_eq!(done, (status::INVALID_PARAMETER, 0), "byte {at}, bit {bit}");
                }
            }
        }
        assert_eq!(start(&whole, &mut [0; 8]), (status::INVALID_PARAMETER, 0), "an answer");
        for len in [0, 1, 40, good.answer_len()] {
            assert_eq!(read(&[], len).0, (status::INVALID_DEVICE_STATE, 0), "there is none");
        }
        assert_eq!(start(&whole, &mut []), (status::SUCCESS, 0));
        for len in [0, 1, ANSWER_HEAD_LEN - 1, ANSWER_HEAD_LEN, good.answer_len() - 1] {
            let (done, output) = read(&[], len);
            assert_eq!(done, (status::BUFFER_TOO_SMALL, 0), "{len} bytes");
            assert!(output.iter().all(|byte| *byte == 0xA5), "{len} bytes: written to");
        }
        // An input buffer is none of its business.
        for (input, more) in [(&[][..], 0), (&[7; 300], 0), (&[], 4096)] {
            let (done, output) = read(input, good.answer_len() + more);
            assert_eq!(done, (status::SUCCESS, ANSWER_HEAD_LEN as u64));
            assert!(Answer::parse(&output).is_some_and(|answer| answer.records().count() == 0));
            assert!(output[ANSWER_HEAD_LEN..].iter().all(|byte| *byte == 0xA5), "past the answer");
        }
    });
}

#[test]
fn a_policy_is_reloaded_without_a_byte() {
    with_tunnel(11, |tunnel| {
        let machine = tunnel.machine();
        let said = || {
            let lines = machine.prints();
            lines.iter().filter(|line| line.contains("policy FastPath is 2")).count()
        };
        machine.registry().set_u32(&machine.parameters_key(), Policy::FastPath.name(), 2);
        let reload = |input: &[u8], output: &mut [u8]| {
            tunnel.handle().device_io_control(ioctl::RELOAD_POLICY, input, output)
        };
        for len in [1, 3, 4, 5, 16, 4096] {
            let (input, mut output) = (vec![0; len], vec![0xA5; len]);
            assert_eq!(reload(&input, &mut []), (status::INVALID_PARAMETER, 0), "{len} bytes in");
            assert_eq!(reload(&[], &mut output), (status::INVALID_PARAMETER, 0), "{len} bytes out");
            assert_eq!(reload(&input, &mut output), (status::INVALID_PARAMETER, 0), "{len} bytes");
            assert!(output.iter().all(|byte| *byte == 0xA5), "{len} bytes: written to");
        }
        assert_eq!(said(), 0, "no refused request did anything");
        // Down as well as up, and as often as one likes.
        for (count, state) in [(1, AdapterState::Down), (3, AdapterState::Up)] {
            tunnel.set_state(state).unwrap();
            assert_eq!(reload(&[], &mut []), (status::SUCCESS, 0));
            assert_eq!(said(), count, "coming up reads it, too");
        }
        assert!(is_up(tunnel));
        let handles: Vec<_> = (0..4).map(|_| another_handle(tunnel)).collect();
        let none = UserBuffer::new(0, 0).unwrap();
        let begin = |handle: &FileHandle| handle.begin(ioctl::RELOAD_POLICY, &[], &none).unwrap();
        let pending: Vec<_> = handles.iter().map(begin).collect();
        for pending in pending {
            assert_eq!(pending.wait(&none), (status::SUCCESS, 0), "several at once");
        }
        assert_eq!(said(), 7);
    });
}

#[test]
fn codes_nobody_knows_are_refused() {
    with_tunnel(7, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let before = tunnel.get().unwrap();
        let known = [
            ioctl::GET,
            ioctl::SET,
            ioctl::SET_ADAPTER_STATE,
            ioctl::READ_LOG_LINE,
            ioctl::GET_STATISTICS,
            ioctl::RELOAD_POLICY,
            ioctl::START_CAPTURE,
            ioctl::READ_CAPTURE,
        ];
        // Each known code with another method, access or neighbour, and codes from anywhere.
        let near = known.iter().flat_map(|code| (0..32).map(move |bit| code ^ (1 << bit)));
        let far = (0..200_u32).map(|n| n.wrapping_mul(0x9E37_79B9));
        let mut tried = 0;
        for code in near.chain(far).chain([0, u32::MAX]).filter(|code| !known.contains(code)) {
            // METHOD_NEITHER passes the program's own pointers: nothing here may look at them.
            let mut buffer = before.clone();
            let (status, written) = tunnel.handle().device_io_control(code, &before, &mut buffer);
            assert_eq!((status, written), (status::INVALID_DEVICE_REQUEST, 0), "{code:#010x}");
            tried += 1;
        }
        assert!(tried > 300, "{tried} codes");
        assert_eq!(tunnel.get().unwrap(), before);
    });
}

#[test]
fn buffers_of_no_bytes_are_refused() {
    with_tunnel(8, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let before = tunnel.get().unwrap();
        let none = |code| tunnel.handle().device_io_control(code, &[], &mut []);
        assert_eq!(none(ioctl::GET), (status::BUFFER_OVERFLOW, before.len() as u64));
        for code in [
            ioctl::SET,
            ioctl::SET_ADAPTER_STATE,
            ioctl::READ_LOG_LINE,
            ioctl::GET_STATISTICS,
            ioctl::START_CAPTURE,
            ioctl::READ_CAPTURE,
        ] {
            let (status, written) = none(code);
            assert!(status < 0 && written == 0, "{code:#x}: {status:#x}, {written}");
        }
        // A SET whose configuration is in the wrong buffer.
        let (status, written) = tunnel.handle().device_io_control(ioctl::SET, &before, &mut []);
        assert!(status < 0 && written == 0, "{status:#x}, {written}");
        assert_eq!(tunnel.get().unwrap(), before);
    });
}

/// A network where another program has UDP port [`TAKEN`].
struct Crowded(Arc<dyn Outer>);

impl Outer for Crowded {
    fn tables(&self) -> Arc<Tables> {
        self.0.tables()
    }

    fn watch(&self, watcher: Watcher) {
        self.0.watch(watcher);
    }

    fn open(
        &self,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<dyn Socket>, OpenError> {
        if local.port() == TAKEN { Err(OpenError::InUse) } else { self.0.open(local, landing) }
    }
}

#[test]
fn a_port_that_is_taken_leaves_everything_as_it_was() {
    crate::on_virtual_time(9, |world| {
        let crowded = |network: &sim::host::memory::Network| -> Arc<dyn Outer> {
            Arc::new(Crowded(network.plug_in(&["192.0.2.1".parse().unwrap()])))
        };
        with_computer(world, crowded, |computer| {
            let tunnel = computer.add_tunnel().unwrap_or_else(|error| panic!("{error}"));
            tunnel.set(&whole_configuration(51820)).unwrap();
            tunnel.set_state(AdapterState::Up).unwrap();
            let before = tunnel.get().unwrap();
            // A SET that would do much more than change the port.
            let key = [0x55; 32];
            let flags = interface_flag::HAS_LISTEN_PORT
                | interface_flag::HAS_PRIVATE_KEY
                | interface_flag::REPLACE_PEERS;
            let stranger = PeerPart { key: [9; 32], flags: 0, endpoint: None, allowed_ips: &[] };
            let ambitious = set_buffer(flags, TAKEN, &key, &[stranger]);
            assert_eq!(tunnel.set(&ambitious), Err(status::ADDRESS_ALREADY_EXISTS));
            assert_eq!(tunnel.get().unwrap(), before, "nothing of it was applied");
            assert!(is_up(&tunnel));
            // While down a port is only a number; it is refused when it is needed.
            tunnel.set_state(AdapterState::Down).unwrap();
            assert_eq!(tunnel.set(&ambitious), Ok(()));
            assert_eq!(tunnel.set_state(AdapterState::Up), Err(status::ADDRESS_ALREADY_EXISTS));
            assert!(!is_up(&tunnel));
            tunnel.set(&whole_configuration(51821)).unwrap();
            tunnel.set_state(AdapterState::Up).unwrap();
            assert_eq!(listen_port(&tunnel), 51821);
            tunnel.remove().unwrap_or_else(|error| panic!("{error}"));
        });
    });
}

#[test]
fn two_adapters_do_not_share_a_port() {
    crate::on_virtual_time(10, |world| {
        let alone = |network: &sim::host::memory::Network| -> Arc<dyn Outer> {
            network.plug_in(&["192.0.2.1".parse().unwrap()])
        };
        with_computer(world, alone, |computer| {
            let boot = || computer.add_tunnel().unwrap_or_else(|error| panic!("{error}"));
            let (one, two) = (boot(), boot());
            one.set(&whole_configuration(51820)).unwrap();
            one.set_state(AdapterState::Up).unwrap();
            two.set(&whole_configuration(51820)).unwrap();
            assert_eq!(two.set_state(AdapterState::Up), Err(status::ADDRESS_ALREADY_EXISTS));
            assert!(is_up(&one) && !is_up(&two));
            // Any port is a different one.
            let any = set_buffer(interface_flag::HAS_LISTEN_PORT, 0, &NO_KEY, &[]);
            two.set(&any).unwrap();
            two.set_state(AdapterState::Up).unwrap();
            let (first, second) = (listen_port(&one), listen_port(&two));
            assert!(first == 51820 && second != 0 && second != first, "{first}, {second}");
            let before = two.get().unwrap();
            let same = set_buffer(interface_flag::HAS_LISTEN_PORT, 51820, &NO_KEY, &[]);
            assert_eq!(two.set(&same), Err(status::ADDRESS_ALREADY_EXISTS));
            assert_eq!(two.get().unwrap(), before);
            // Once it is free it can be had.
            one.set_state(AdapterState::Down).unwrap();
            two.set(&same).unwrap();
            assert_eq!(listen_port(&two), 51820);
            for tunnel in [one, two] {
                tunnel.remove().unwrap_or_else(|error| panic!("{error}"));
            }
        });
    });
}
