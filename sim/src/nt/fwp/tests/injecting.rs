//! Injection: what leaves, when lists come back, and one wrong list for each rule.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

const TAG: u64 = u32::from_le_bytes(*b"Test") as u64;
const REMOTE: &str = "198.51.100.7:9";
const ROUTE: usize = 48;

/// What a completion routine saw.
#[derive(Default)]
struct Completed {
    count: AtomicUsize,
    status: AtomicUsize,
}

extern "win64" fn completed(context: u64, list: usize, _dispatch_level: u8) {
    // SAFETY: the test passed the address of its own, which outlives the injection.
    let seen = unsafe { &*std::ptr::with_exposed_provenance::<Completed>(context as usize) };
    seen.status.store(probe::read::<u32>(list + 140).unwrap() as usize, Ordering::SeqCst);
    seen.count.fetch_add(1, Ordering::SeqCst);
}

pub(super) struct Injector {
    pub(super) bench: Bench,
    pub(super) handle: u64,
    pool: u64,
    seen: Box<Completed>,
}

impl Injector {
    pub(super) fn new(seed: u64, local: &str, choices: &[(&str, bool)]) -> Self {
        let bench = Bench::new(seed, local, choices);
        let place = bench.machine.allocate(8);
        assert_eq!(bench.call("FwpsInjectionHandleCreate0", &[0, 2, place as u64]), 0);
        let handle = probe::read(place).unwrap();
        let parameters = bench.memory(&[0x80, 1, 16, 0, 0, 1, 0, 0, b'T', 0, 0, 0, 0, 0, 0, 0]);
        let pool = bench.machine.call_import(
            "ndis.sys",
            "NdisAllocateNetBufferListPool",
            &[0, parameters as u64],
        );
        Self { bench, handle, pool: pool.unwrap(), seen: Box::default() }
    }

    /// A list of one buffer over `bytes`, in nonpaged pool.
    pub(super) fn list(&self, bytes: &[u8]) -> u64 {
        let nt = |name, arguments: &[u64]| {
            self.bench.machine.call_import("ntoskrnl.exe", name, arguments).unwrap()
        };
        let block = nt("ExAllocatePool2", &[0x40, bytes.len() as u64, TAG]);
        probe::write_bytes(block as usize, bytes).unwrap();
        let mdl = nt("IoAllocateMdl", &[block, bytes.len() as u64, 0, 0, 0]);
        nt("MmBuildMdlForNonPagedPool", &[mdl]);
        let place = self.bench.machine.allocate(8) as u64;
        let arguments = [self.pool, 0, 0, mdl, 0, bytes.len() as u64, place];
        assert_eq!(self.bench.call("FwpsAllocateNetBufferAndNetBufferList0", &arguments), 0);
        probe::read(place as usize).unwrap()
    }

    /// `FWPS_TRANSPORT_SEND_PARAMS1` for a remote address, with control messages.
    pub(super) fn route(&self, remote: &[u8], control: &[u8]) -> usize {
        let at = self.bench.machine.allocate(ROUTE);
        probe::write(at, self.bench.memory(remote)).unwrap();
        probe::write(at + 16, self.bench.memory(control)).unwrap();
        probe::write(at + 24, control.len() as u32).unwrap();
        at
    }

    fn arguments(&self, list: u64, route: usize, family: u64) -> [u64; 10] {
        let seen = std::ptr::from_ref(&*self.seen).expose_provenance() as u64;
        let routine = completed as *const () as u64;
        [self.handle, 0xC0, self.bench.endpoint, 0, route as u64, family, 0, list, routine, seen]
    }

    pub(super) fn inject(&self, list: u64, route: usize, family: u64) -> i32 {
        let arguments = self.arguments(list, route, family);
        self.bench.call("FwpsInjectTransportSendAsync1", &arguments).cast_signed()
    }

    pub(super) fn done(&self, count: usize) {
        for _ in 0..100 {
            if self.seen.count.load(Ordering::SeqCst) >= count {
                break;
            }
            self.bench.machine.world().sleep(Duration::from_millis(1));
        }
        assert_eq!(self.seen.count.load(Ordering::SeqCst), count, "{}", self.bench.report());
    }
}

/// A datagram with its header; `check` over the addresses if they are given.
pub(super) fn datagram(to: u16, payload: &[u8], addresses: Option<(&str, &str)>) -> Vec<u8> {
    let mut bytes = PORT.to_be_bytes().to_vec();
    bytes.extend(to.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    if let Some((from, to)) = addresses {
        let check = udp::checksum(from.parse().unwrap(), to.parse().unwrap(), &bytes);
        bytes[6..8].copy_from_slice(&check.to_be_bytes());
    }
    bytes
}

#[test]
fn datagrams_leave_and_lists_come_back_whenever() {
    let mut inline = 0;
    for seed in 1..30 {
        let injector = Injector::new(seed, "192.0.2.1:51820", &[]);
        let list = injector.list(&datagram(9, b"payload", None));
        let route = injector.route(&[198, 51, 100, 7], &[]);
        assert_eq!(injector.inject(list, route, 2), 0);
        inline += injector.seen.count.load(Ordering::SeqCst);
        injector.done(1);
        assert_eq!(injector.seen.status.load(Ordering::SeqCst), 0);
        let expected = vec![(REMOTE.parse().unwrap(), None, b"payload".to_vec())];
        assert_eq!(*lock(&injector.bench.socket.host.sent), expected);
        injector.bench.call("FwpsFreeNetBufferList0", &[list]);
        assert_eq!(injector.bench.call("FwpsInjectionHandleDestroy0", &[injector.handle]), 0);
        injector
            .bench
            .machine
            .call_import("ndis.sys", "NdisFreeNetBufferListPool", &[injector.pool])
            .unwrap();
    }
    assert!((3..27).contains(&inline), "{inline} of 29 were completed inside the call");
}

#[test]
fn a_list_of_several_buffers_is_several_datagrams() {
    let injector = Injector::new(4, "192.0.2.1:51820", &[]);
    let lists = [&b"one"[..], b"two", b"three"]
        .map(|payload| injector.list(&datagram(9, payload, Some(("192.0.2.1", "198.51.100.7")))));
    let buffers = lists.map(|list| probe::read::<usize>(list as usize + 8).unwrap());
    probe::write(buffers[0], buffers[1]).unwrap();
    probe::write(buffers[1], buffers[2]).unwrap();
    let route = injector.route(&[198, 51, 100, 7], &[]);
    assert_eq!(injector.inject(lists[0], route, 2), 0);
    injector.done(1);
    let sent = lock(&injector.bench.socket.host.sent);
    let payloads: Vec<&[u8]> = sent.iter().map(|(_, _, payload)| &payload[..]).collect();
    assert_eq!(payloads, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn ipv6_wants_its_checksum_and_packet_info_counts() {
    let injector = Injector::new(4, "[2001:db8::1]:51820", &[]);
    let mut control = [0; 64];
    let info = PacketInfo { address: "2001:db8::1".parse().unwrap(), interface: 2 };
    let used =
        crate::nt::wsk::control_messages::append_packet_info(&mut control, 0, &info).unwrap();
    let remote: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
    let route = injector.route(&remote.octets(), &control[..used]);
    let list = injector.list(&datagram(9, b"payload", Some(("2001:db8::1", "2001:db8::9"))));
    assert_eq!(injector.inject(list, route, 23), 0);
    injector.done(1);
    assert_eq!(lock(&injector.bench.socket.host.sent)[0].1, Some(info));
    assert_eq!(injector.inject(list, route, 2).cast_unsigned(), 0xC000_000D, "the wrong family");
}

#[test]
fn each_wrong_list_stops_its_driver() {
    type Wrong = fn(&Injector) -> ([u64; 10], &'static str);
    fn over(injector: &Injector, bytes: &[u8]) -> [u64; 10] {
        let route = injector.route(&[198, 51, 100, 7], &[]);
        injector.arguments(injector.list(bytes), route, 2)
    }
    fn changed(injector: &Injector, at: usize, to: u64) -> [u64; 10] {
        let mut arguments = over(injector, &datagram(9, b"payload", None));
        arguments[at] = to;
        arguments
    }
    let wrongs: [Wrong; 14] = [
        |i| (over(i, &[1, 2, 3]), "has no UDP header"),
        |i| (over(i, &[0, 1, 0, 9, 0, 8, 0, 0]), "is not the socket's"),
        |i| (over(i, &datagram(0, b"x", None)), "no destination port"),
        |i| {
            let mut bytes = datagram(9, b"x", None);
            bytes[5] += 1;
            (over(i, &bytes), "its length says")
        },
        |i| {
            let mut bytes = datagram(9, b"x", Some(("192.0.2.1", "198.51.100.7")));
            bytes[8] ^= 1;
            (over(i, &bytes), "is wrong for")
        },
        |i| {
            (
                changed(i, 0, 64),
                "WFP_VIOLATION: FwpsInjectTransportSendAsync1: 0x40 is no injection handle",
            )
        },
        |i| (changed(i, 2, 7), "or its socket is closed"),
        |i| (changed(i, 3, 1), "flags"),
        |i| (changed(i, 7, i.bench.machine.allocate(400) as u64), "no list of the driver's"),
        |i| (changed(i, 8, 0), "no completion routine"),
        |i| {
            let arguments = over(i, &datagram(9, b"x", None));
            probe::write(arguments[7] as usize, 1_u64).unwrap();
            (arguments, "a next one")
        },
        |i| {
            let arguments = over(i, &datagram(9, b"x", None));
            probe::write(arguments[7] as usize + 144, 3_u64).unwrap();
            (arguments, "NBL_VIOLATION: L7")
        },
        |i| {
            let arguments = over(i, &datagram(9, b"x", None));
            let buffer: usize = probe::read(arguments[7] as usize + 8).unwrap();
            probe::write(buffer, buffer).unwrap();
            (arguments, "NBL_VIOLATION: L1")
        },
        |i| {
            let arguments = over(i, &datagram(9, b"x", None));
            let buffer: usize = probe::read(arguments[7] as usize + 8).unwrap();
            let mdl: usize = probe::read(buffer + 8).unwrap();
            probe::write(mdl + 24, 0x1000_u64).unwrap();
            probe::write(mdl + 32, 0x1000_u64).unwrap();
            (arguments, "NBL_VIOLATION: N6")
        },
    ];
    for (number, wrong) in wrongs.into_iter().enumerate() {
        let injector = Injector::new(1, "192.0.2.1:51820", &[]);
        let (arguments, expected) = wrong(&injector);
        let report = injector.bench.stops("FwpsInjectTransportSendAsync1", &arguments);
        assert!(report.contains(expected), "case {number}: {report}");
    }
    let injector = Injector::new(1, "[2001:db8::1]:51820", &[]);
    let route = injector.route(&[9; 16], &[]);
    let list = injector.list(&datagram(9, b"x", None));
    let report =
        injector.bench.stops("FwpsInjectTransportSendAsync1", &injector.arguments(list, route, 23));
    assert!(report.contains("a checksum must be"), "{report}");
}

/// A list that is held in the stack while `spoil` is done, and what the machine says then.
fn held(spoil: impl FnOnce(&Injector, u64, usize)) -> String {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    hold_injections(&injector.bench.machine, true);
    let list = injector.list(&datagram(9, b"payload", None));
    let route = injector.route(&[198, 51, 100, 7], &[0; 0]);
    assert_eq!(injector.inject(list, route, 2), 0);
    injector.bench.machine.world().sleep(Duration::from_secs(5));
    assert_eq!(
        (injector.seen.count.load(Ordering::SeqCst), pending_injections(&injector.bench.machine)),
        (0, 1)
    );
    spoil(&injector, list, route);
    hold_injections(&injector.bench.machine, false);
    for _ in 0..10 {
        injector.bench.machine.world().sleep(Duration::from_millis(1));
    }
    if injector.bench.report().is_empty() {
        injector.done(1);
    }
    injector.bench.report()
}

#[test]
fn what_is_under_way_is_not_touched() {
    assert_eq!(held(|_, _, _| {}), "");
    let buffer = |list: u64| probe::read::<usize>(list as usize + 8).unwrap();
    let mdl = |list: u64| probe::read::<usize>(buffer(list) + 8).unwrap();
    let free = |i: &Injector, name, at: u64| {
        let _ = i.bench.machine.call_import("ntoskrnl.exe", name, &[at, TAG]);
    };
    for (report, expected) in [
        (held(|_, list, _| probe::write(buffer(list) + 24, 3_u64).unwrap()), "NBL_VIOLATION: L8"),
        (held(|_, list, _| probe::write(mdl(list) + 40, 3_u32).unwrap()), "NBL_VIOLATION: L8"),
        (
            held(|_, list, _| {
                let start: usize = probe::read(mdl(list) + 24).unwrap();
                probe::write(start + 9, 0_u8).unwrap();
            }),
            "NBL_VIOLATION: L8",
        ),
        (
            held(|_, _, route| probe::write(probe::read(route).unwrap(), 0_u8).unwrap()),
            "WFP_VIOLATION: injection: the address or control messages changed",
        ),
        (held(|i, list, _| free(i, "IoFreeMdl", mdl(list) as u64)), "NBL_VIOLATION: M5"),
        (
            held(|i, list, _| {
                let data: u64 = probe::read(mdl(list) + 24).unwrap();
                free(i, "ExFreePoolWithTag", data);
            }),
            "NBL_VIOLATION: L8",
        ),
        (
            held(|i, list, _| {
                i.bench.stops("FwpsFreeNetBufferList0", &[list]);
            }),
            "NBL_VIOLATION: L8",
        ),
        (
            held(|i, list, route| {
                i.bench.stops("FwpsInjectTransportSendAsync1", &i.arguments(list, route, 2));
            }),
            "NBL_VIOLATION: L8",
        ),
        (
            held(|i, list, route| {
                let other = i.list(&datagram(9, b"payload", None));
                let shared = crate::nt::ndis::layout::Buffer::read(buffer(list)).unwrap();
                shared.write(buffer(other)).unwrap();
                i.bench.stops("FwpsInjectTransportSendAsync1", &i.arguments(other, route, 2));
            }),
            "NBL_VIOLATION: N7",
        ),
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
}

#[test]
fn a_list_is_freed_by_the_function_of_its_kind() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    let list = injector.list(&datagram(9, b"x", None));
    assert!(
        injector.bench.machine.call_import("ndis.sys", "NdisFreeNetBufferList", &[list]).is_err()
    );
    assert!(injector.bench.report().contains("is Fwps's"), "{}", injector.bench.report());
}

#[test]
fn a_handle_is_destroyed_after_all_its_lists() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    hold_injections(&injector.bench.machine, true);
    let route = injector.route(&[198, 51, 100, 7], &[]);
    for _ in 0..5 {
        assert_eq!(injector.inject(injector.list(&datagram(9, b"x", None)), route, 2), 0);
    }
    assert_eq!(injector.bench.call("FwpsInjectionHandleDestroy0", &[injector.handle]), 0);
    injector.done(5);
    let report = injector.bench.stops("FwpsInjectionHandleDestroy0", &[injector.handle]);
    assert!(report.contains("no injection handle"), "{report}");
}

#[test]
fn a_handle_is_not_destroyed_by_what_it_waits_for() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    let list = injector.list(&datagram(9, b"x", None));
    let route = injector.route(&[198, 51, 100, 7], &[]);
    hold_injections(&injector.bench.machine, true);
    assert_eq!(injector.inject(list, route, 2), 0);
    lock(&fwp(&injector.bench.machine).injections.handles)
        .get_mut(&(injector.handle as usize))
        .unwrap()
        .pending += 1;
    let report = injector.bench.stops("FwpsInjectionHandleDestroy0", &[injector.handle]);
    assert!(report.starts_with("DEADLOCK: FwpsInjectionHandleDestroy0: "), "{report}");
}

#[test]
fn a_socket_that_closes_lets_its_lists_go_and_takes_its_endpoint_with_it() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    hold_injections(&injector.bench.machine, true);
    let route = injector.route(&[198, 51, 100, 7], &[]);
    let lists = [(); 2].map(|()| injector.list(&datagram(9, b"x", None)));
    assert_eq!(injector.inject(lists[0], route, 2), 0);
    fwp(&injector.bench.machine).close_endpoint(&injector.bench.machine, injector.bench.endpoint);
    injector.done(1);
    let report = injector
        .bench
        .stops("FwpsInjectTransportSendAsync1", &injector.arguments(lists[1], route, 2));
    assert!(report.contains("or its socket is closed"), "{report}");
}

#[test]
fn a_closing_handle_answers_so() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    hold_injections(&injector.bench.machine, true);
    let route = injector.route(&[198, 51, 100, 7], &[]);
    let lists = [(); 2].map(|()| injector.list(&datagram(9, b"x", None)));
    assert_eq!(injector.inject(lists[0], route, 2), 0);
    let (machine, handle) = (injector.bench.machine.clone(), injector.handle);
    inject::close_for_test(&machine, handle as usize);
    assert_eq!(injector.inject(lists[1], route, 2), answer::INJECT_HANDLE_CLOSING);
    injector.bench.call("FwpsFreeNetBufferList0", &[lists[1]]);
}

#[test]
fn what_is_injected_meets_the_outbound_layer_again_with_its_state() {
    let injector = Injector::new(1, "192.0.2.1:51820", &[]);
    let bench = &injector.bench;
    bench.engaged(Layer::OutboundTransportV4, 0);
    let route = injector.route(&[198, 51, 100, 7], &[]);
    let (handle, endpoint) = (injector.handle, bench.endpoint);
    let context = bench.machine.allocate(8) as u64;
    for (number, blocks) in [(1, false), (2, true)] {
        drive(move |asked| {
            if asked.list != 0 {
                assert_eq!(
                    import(
                        "FwpsQueryPacketInjectionState0",
                        [handle, asked.list as u64, context, 0]
                    ),
                    1
                );
                assert_eq!(probe::read::<u64>(context as usize), Ok(0xC0));
            }
            if asked.present() & 0x8000 != 0 {
                assert_eq!(probe::read::<u64>(asked.metadata + 112), Ok(endpoint));
            }
            if blocks { asked.answer(BLOCK, 0, 0) } else { asked.permit() }
        });
        let list = injector.list(&datagram(9, b"x", None));
        assert_eq!(injector.inject(list, route, 2), 0, "{}", bench.report());
        injector.done(number);
        let status = injector.seen.status.load(Ordering::SeqCst) as u32;
        assert_eq!(status.cast_signed(), if blocks { answer::ACCESS_DENIED } else { 0 });
    }
    assert_eq!(lock(&bench.socket.host.sent).len(), 1);
}

#[test]
fn whether_injected_packets_keep_the_flow_is_run_both_ways() {
    for keep in [false, true] {
        let injector =
            Injector::new(1, "192.0.2.1:51820", &[("INJECTED_PACKETS_KEEP_THE_FLOW", keep)]);
        let bench = &injector.bench;
        bench.engaged(INBOUND, 0);
        assert!(bench.classified(REMOTE, b"x", |asked| asked.permit()));
        let route = injector.route(&[198, 51, 100, 7], &[]);
        for _ in 0..3 {
            bench.machine.world().sleep(Duration::from_secs(25));
            assert_eq!(injector.inject(injector.list(&datagram(9, b"x", None)), route, 2), 0);
        }
        let flows = &fwp(&bench.machine).flows;
        let now = bench.machine.world().now();
        assert_eq!(flows.is_authorised(now, &(PORT, REMOTE.parse().unwrap())), keep);
    }
}

#[test]
fn a_send_of_the_socket_meets_the_outbound_layer() {
    let bench = Bench::v4(1);
    bench.engaged(Layer::OutboundTransportV4, 0);
    let from = Destination { endpoint: bench.endpoint, local: bench.socket.local };
    for blocks in [false, true] {
        drive(move |asked| {
            if asked.list != 0 {
                let length: u32 = probe::read(asked.buffer() as usize + 24).unwrap();
                let next: usize = probe::read(asked.buffer() as usize).unwrap();
                assert_eq!((length, next != 0), (12, true), "the UDP header and four bytes, twice");
            }
            if blocks { asked.answer(BLOCK, 0, 0) } else { asked.permit() }
        });
        let payloads = |_| vec![vec![1; 4], vec![2; 4]];
        let to = (REMOTE.parse().unwrap(), &Sending::default());
        let goes =
            matches!(outbound::leave(&bench.machine, from, to, payloads), outbound::Leave::Goes);
        assert_eq!(goes, !blocks, "{}", bench.report());
    }
}
