//! Winsock Kernel, called as a driver calls it: one wrong caller for each rule.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::time::Duration;

use sim::host::memory::Network;
use sim::loader::probe;
use sim::nt::machine::{Call, Level, Machine, Options, Power};
use sim::nt::wsk;
use sim::verifier::schedule::{Mode, Presence, World};

const HERE: &str = "192.0.2.1";
const PORT: u16 = 5000;
const WILD: &str = "PAGE_FAULT_IN_NONPAGED_AREA";

/// A machine with a registered client that has captured the provider and made a socket.
struct Client {
    machine: Power,
    network: Network,
    registration: u64,
    client: u64,
    socket: u64,
    _here: Presence,
}

/// `IoCompletion` of IRPs of the driver's own.
extern "win64" fn completed(_: u64, _: u64, _: u64) -> u32 {
    0xC000_0016
}

/// Calls `WskSocket` at `address`, for UDP over IPv4.
extern "win64" fn make_socket(address: u64, arguments: &[u64; 4]) -> u64 {
    type Function = extern "win64" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
    // SAFETY: the gate of a function of these arguments.
    let function = unsafe { std::mem::transmute::<usize, Function>(address as usize) };
    let [client, context, dispatch, irp] = *arguments;
    function(client, 2, 2, 17, 4, context, dispatch, 0, 0, 0, irp)
}

/// A `WskReceiveFromEvent` that answers its socket's context.
extern "win64" fn received(context: u64, _: u32, _: u64) -> u32 {
    context as u32
}

impl Client {
    fn new(answer: u64) -> Self {
        let world = World::new(Mode::Virtual { seed: 3 });
        let here = world.enter("main");
        let choices = wsk::good_offloads().collect();
        let machine = Machine::boot(&world, Options { choices, ..Options::default() });
        let network = Network::new(&world);
        let address: IpAddr = HERE.parse().unwrap();
        wsk::attach(&machine, network.plug_in(&[address]));
        let registration = machine.allocate(64) as u64;
        let (client, socket) = (0, 0);
        let mut made = Self { machine, network, registration, client, socket, _here: here };
        let (dispatch, npi) = (made.words(&[0x0100, 0]), made.words(&[0, 0]));
        probe::write(npi as usize + 8, dispatch).unwrap();
        assert_eq!(made.netio("WskRegister", &[npi, registration]), Ok(0));
        let provider = made.words(&[0, 0]);
        assert_eq!(made.netio("WskCaptureProviderNPI", &[registration, 0, provider]), Ok(0));
        made.client = probe::read(provider as usize).unwrap();
        let events = made.words(&[0, 0x100]);
        let arguments = [made.client, 7, 16, events, 0, 0, 0, 0];
        assert_eq!(made.call("wsk", "WskControlClient", &arguments), Ok(0));
        made.socket = made.open(answer);
        made
    }

    fn words(&self, words: &[u64]) -> u64 {
        let at = self.machine.allocate(8 * words.len());
        for (number, word) in words.iter().enumerate() {
            probe::write(at + 8 * number, *word).unwrap();
        }
        at as u64
    }

    fn call(&self, table: &str, name: &'static str, arguments: &[u64]) -> Result<u32, String> {
        let answer = self.machine.call_import(table, name, arguments);
        answer.map(|status| status as u32).map_err(|_| self.report())
    }

    /// `WskSocket` has more arguments than a callback: driver code calls it.
    fn make(&self, client: u64, context: u64, dispatch: u64, irp: u64) -> Result<u32, String> {
        let arguments = self.words(&[client, context, dispatch, irp]);
        let address = sim::nt::address("wsk", "WskSocket").unwrap() as u64;
        let call = Call::new("driver code", make_socket as *const () as usize, Level::Current);
        let answer = self.machine.call(call, &[address, arguments]);
        answer.map(|status| status as u32).map_err(|_| self.report())
    }

    fn netio(&self, name: &'static str, arguments: &[u64]) -> Result<u32, String> {
        self.call("netio.sys", name, arguments)
    }

    fn datagram(&self, name: &'static str, arguments: &[u64]) -> Result<u32, String> {
        self.call("wsk datagram", name, arguments)
    }

    fn report(&self) -> String {
        self.machine
            .stop_report()
            .map_or_else(String::new, |stop| format!("{}: {}", stop.rule, stop.detail))
    }

    fn irp(&self) -> u64 {
        let irp = self.machine.call_import("ntoskrnl.exe", "IoAllocateIrp", &[1, 0]).unwrap();
        let location = irp as usize + 208;
        probe::write(location + 3, 0xE0_u8).unwrap();
        probe::write(location + 56, completed as *const () as u64).unwrap();
        irp
    }

    /// Waits for an IRP and returns its information.
    fn done(&self, irp: u64) -> u64 {
        self.machine.world().sleep(Duration::from_millis(50));
        probe::read(irp as usize + 56).unwrap()
    }

    fn open(&self, answer: u64) -> u64 {
        let irp = self.irp();
        let dispatch = self.words(&[received as *const () as u64]);
        assert!(self.make(self.client, answer, dispatch, irp).is_ok(), "{}", self.report());
        self.done(irp)
    }

    fn bound(&self) {
        let (irp, local) = (self.irp(), self.address(PORT, "0.0.0.0"));
        assert!(self.datagram("WskBind", &[self.socket, local, 0, irp]).is_ok());
        self.machine.world().sleep(Duration::from_millis(50));
    }

    fn address(&self, port: u16, ip: &str) -> u64 {
        let std::net::IpAddr::V4(ip) = ip.parse().unwrap() else { panic!("IPv4") };
        let at = self.machine.allocate(28);
        probe::write(at, 2_u16).unwrap();
        probe::write(at + 2, port.to_be()).unwrap();
        probe::write_bytes(at + 4, &ip.octets()).unwrap();
        at as u64
    }

    /// A `WSK_BUF` over `length` bytes of nonpaged pool, and where they are.
    fn buffer(&self, length: u64) -> (u64, u64) {
        let nt = |name, arguments: &[u64]| {
            self.machine.call_import("ntoskrnl.exe", name, arguments).unwrap()
        };
        let block = nt("ExAllocatePool2", &[0x40, length, 7]);
        let mdl = nt("IoAllocateMdl", &[block, length, 0, 0, 0]);
        nt("MmBuildMdlForNonPagedPool", &[mdl]);
        (self.words(&[mdl, 0, length]), block)
    }

    fn send(&self, buffer: u64, irp: u64) -> Result<u32, String> {
        let remote = self.address(9, "192.0.2.9");
        self.datagram("WskSendTo", &[self.socket, buffer, 0, remote, 0, 0, irp])
    }

    /// A send with some arguments wrong.
    fn wild(&self, name: &'static str, wrong: &[(usize, u64)]) -> Result<u32, String> {
        self.bound();
        let mdl = probe::read(self.buffer(10).0 as usize).unwrap();
        let list: &[u64] = if name == "WskSendTo" { &[mdl, 0, 10] } else { &[0, mdl, 0, 10] };
        let (first, remote) = (self.words(list), self.address(9, "192.0.2.9"));
        let mut arguments = [self.socket, first, 0, remote, 0, 0, self.irp()];
        wrong.iter().for_each(|(at, value)| arguments[*at] = *value);
        self.datagram(name, &arguments)
    }

    fn receives(&self) {
        self.bound();
        let (from, to) = ("192.0.2.9:9".parse().unwrap(), HERE.parse::<IpAddr>().unwrap());
        self.network.forge(from, (to, PORT).into(), b"payload");
        self.machine.world().sleep(Duration::from_millis(50));
    }

    /// Spoils something of a send that the network keeps, and lets it go.
    fn held(&self, spoil: impl FnOnce(u64, u64)) -> Result<u32, String> {
        self.bound();
        wsk::hold_sends(&self.machine, true);
        let ((buffer, block), irp) = (self.buffer(100), self.irp());
        // A list stays until the IRP completes; a lone WSK_BUF need not.
        let mdl = probe::read(buffer as usize).unwrap();
        let (list, remote) = (self.words(&[0, mdl, 0, 100]), self.address(9, "192.0.2.9"));
        self.datagram("WskSendMessages", &[self.socket, list, 0, remote, 0, 0, irp])?;
        spoil(block, irp);
        wsk::hold_sends(&self.machine, false);
        self.machine.world().sleep(Duration::from_millis(50));
        Err(self.report())
    }
}

#[test]
fn each_wrong_call_of_wsk_is_stopped_by_name() {
    type Wrong = fn(&Client) -> Result<u32, String>;
    let wrongs: [(&str, Wrong); 30] = [
        ("WSK_VIOLATION: registration", |c| {
            let npi = c.words(&[0, c.words(&[0x100])]);
            c.netio("WskRegister", &[npi, c.registration])
        }),
        ("WSK_VIOLATION: registration", |c| c.netio("WskDeregister", &[64])),
        ("PAGE_FAULT_IN_NONPAGED_AREA", |c| c.netio("WskRegister", &[64, 64])),
        ("WSK_VIOLATION: provider interface", |c| c.netio("WskCaptureProviderNPI", &[64, 0, 64])),
        ("WSK_VIOLATION: provider interface", |c| c.netio("WskReleaseProviderNPI", &[64])),
        ("PAGE_FAULT_IN_NONPAGED_AREA", |c| {
            c.netio("WskCaptureProviderNPI", &[c.registration, 0, 64])
        }),
        ("DEADLOCK: WskDeregister", |c| c.netio("WskDeregister", &[c.registration])),
        ("WSK_VIOLATION: WskSocket", |c| c.make(64, 0, 0, c.irp())),
        ("WSK_VIOLATION: no IRP", |c| c.make(c.client, 0, 0, 0)),
        ("IRP", |c| c.make(c.client, 0, 0, 64)),
        ("WSK_VIOLATION: WskControlClient", |c| {
            c.call("wsk", "WskControlClient", &[64, 7, 16, 0, 0, 0, 0, 0])
        }),
        ("WSK_VIOLATION: WskControlClient", |c| {
            c.call("wsk", "WskControlClient", &[c.client, 7, 16, 0, 0, 0, 0, 0])
        }),
        ("WSK_VIOLATION: WskControlSocket", |c| {
            let place = c.words(&[0]);
            c.datagram("WskControlSocket", &[c.socket, 0, 1, 0xFFFF, 0, 0, 0, 0, place, c.irp()])
        }),
        ("WSK_VIOLATION: no such socket", |c| c.datagram("WskRelease", &[64, 0])),
        ("WSK_VIOLATION: WskRelease", |c| {
            let indication = c.words(&[0; 8]);
            c.datagram("WskRelease", &[c.socket, indication])
        }),
        ("WSK_VIOLATION: bad address", |c| c.datagram("WskBind", &[c.socket, 64, 0, c.irp()])),
        ("WSK_VIOLATION: bad address", |c| {
            c.bound();
            c.datagram("WskGetLocalAddress", &[c.socket, 64, c.irp()])?;
            c.machine.world().sleep(Duration::from_millis(50));
            Err(c.report())
        }),
        ("WSK_VIOLATION: socket is closing", |c| {
            c.bound();
            wsk::hold_sends(&c.machine, true);
            c.send(c.buffer(10).0, c.irp())?;
            c.datagram("WskCloseSocket", &[c.socket, c.irp()])?;
            c.datagram("WskBind", &[c.socket, c.address(1, HERE), 0, c.irp()])
        }),
        ("WSK_VIOLATION: send", |c| {
            c.held(|block, _| probe::write(block as usize, 0xEE_u8).unwrap())
        }),
        ("WSK_VIOLATION: IRP touched", |c| {
            c.held(|_, irp| probe::write(irp as usize + 80, 0xEE_u8).unwrap())
        }),
        ("WSK_VIOLATION: UDP_SEND_MSG_SIZE", |c| {
            c.bound();
            let (message, remote) = (c.words(&[20, 17 | 2 << 32, 10]), c.address(9, "192.0.2.9"));
            let buffer = c.buffer(50_000).0;
            let arguments = [c.socket, buffer, 0, remote, 24, message, c.irp()];
            c.datagram("WskSendTo", &arguments)?;
            Err(c.report())
        }),
        (WILD, |c| c.wild("WskSendTo", &[(1, 0xDEAD_0000)])),
        (WILD, |c| c.wild("WskSendTo", &[(3, 0xDEAD_0000)])),
        (WILD, |c| c.wild("WskSendTo", &[(4, 24), (5, 0xDEAD_0000)])),
        ("IRP", |c| c.wild("WskSendTo", &[(6, 0xDEAD_0000)])),
        (WILD, |c| c.wild("WskSendTo", &[(1, c.words(&[0xDEAD_0000, 0, 10]))])),
        (WILD, |c| c.wild("WskSendMessages", &[(1, 0xDEAD_0000)])),
        (WILD, |c| c.wild("WskSendMessages", &[(3, 0xDEAD_0000)])),
        (WILD, |c| c.wild("WskSendMessages", &[(1, c.words(&[0, 0xDEAD_0000, 0, 10]))])),
        ("WSK_VIOLATION: WskReceiveFromEvent", |c| {
            c.receives();
            Err(c.report())
        }),
    ];
    for (number, (rule, wrong)) in wrongs.into_iter().enumerate() {
        let client = Client::new(0xC000_0001);
        let report = wrong(&client).expect_err(rule);
        assert!(report.starts_with(&format!("{rule}: ")), "case {number}, {rule}: {report:?}");
    }
}

#[test]
fn memory_that_nobody_wrote_is_not_sent() {
    let client = Client::new(0);
    client.bound();
    let (buffer, block) = client.buffer(100);
    let uninitialised =
        client.machine.call_import("ntoskrnl.exe", "ExAllocatePool2", &[0x42, 100, 7]);
    let bytes = probe::bytes(uninitialised.unwrap() as usize, 20).unwrap();
    probe::write_bytes(block as usize + 50, &bytes[..15]).unwrap();
    assert!(client.send(buffer, client.irp()).is_ok(), "{}", client.report());
    probe::write_bytes(block as usize + 20, &bytes[..16]).unwrap();
    let report =
        client.send(buffer, client.irp()).map(|_| client.report()).unwrap_or_else(|report| report);
    assert!(report.starts_with("UNINITIALISED MEMORY LEAVES: a datagram: byte 20 "), "{report}");
}

#[test]
fn a_socket_is_closed_after_its_datagrams_came_back() {
    let client = Client::new(0x103);
    client.receives();
    let report = client.datagram("WskCloseSocket", &[client.socket, client.irp()]).unwrap_err();
    assert!(report.starts_with("WSK_VIOLATION: WskCloseSocket: "), "{report}");
}
