//! WFP called as a driver calls it, and driven as tcpip drives it.
//!
//! The driver here is a thread-local closure behind one classify function. It runs where a driver's code runs: behind the
//! gates, on 6 KiB of stack.

use std::arch::asm;
use std::cell::{RefCell, UnsafeCell};
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::inbound::Destination;
use super::layers::{Guid, Layer};
use super::*;
use crate::host::{Batch, Place, SendError, Sending};
use crate::loader::gate::XsaveArea;
use crate::loader::probe;
use crate::nt::machine::{Dead, Options, Power};
use crate::nt::wsk::control_messages::PacketInfo;
use crate::verifier::schedule::{Mode, Presence, World};

mod clashing;
mod classifying;
mod cloning;
mod engine_objects;
mod injecting;
mod receiving;

/// `FWPM_CONDITION_IP_PROTOCOL` and `FWPM_CONDITION_IP_LOCAL_PORT`.
const PROTOCOL: Guid = layers::guid(0x3971_EF2B, 0x623E, 0x4F9A, 0x8CB1_6E79_B806_B9A7);
const LOCAL_PORT: Guid = layers::guid(0x0C1B_A1AF, 0x5765, 0x453F, 0xAF22_A8F7_91AC_775B);
const PORT: u16 = 51820;
const INBOUND: Layer = Layer::InboundTransportV4;

/// Answers of a classify function.
const PERMIT: u32 = objects::PERMIT;
const BLOCK: u32 = objects::BLOCK;
const RIGHT: u32 = 1;
const ABSORB: u32 = 1;

/// What a classify function was given.
#[derive(Clone, Copy)]
struct Asked {
    values: usize,
    metadata: usize,
    list: usize,
    filter: usize,
    out: usize,
}

impl Asked {
    fn value(&self, number: usize) -> (u32, u64) {
        let first: usize = probe::read(self.values + 8).unwrap();
        (probe::read(first + 16 * number).unwrap(), probe::read(first + 16 * number + 8).unwrap())
    }

    fn present(&self) -> u32 {
        probe::read(self.metadata).unwrap()
    }

    fn rights(&self) -> u32 {
        probe::read(self.out + 24).unwrap()
    }

    fn answer(&self, action: u32, rights: u32, flags: u32) {
        probe::write(self.out, action).unwrap();
        probe::write(self.out + 24, rights).unwrap();
        probe::write(self.out + 28, flags).unwrap();
    }

    fn absorb(&self) {
        self.answer(BLOCK, 0, ABSORB);
    }

    fn permit(&self) {
        self.answer(PERMIT, RIGHT, 0);
    }

    fn reference(&self) {
        import("FwpsReferenceNetBufferList0", [self.list as u64, 0, 0, 0]);
    }

    /// The address of the list's first buffer.
    fn buffer(&self) -> u64 {
        probe::read(self.list + 8).unwrap()
    }
}

/// Calls an import from driver code.
fn import(name: &str, arguments: [u64; 4]) -> u64 {
    let dll = if name.starts_with("Ndis") { "ndis.sys" } else { "fwpkclnt.sys" };
    let address = crate::nt::address(dll, name).unwrap();
    let [a, b, c, d] = arguments;
    // SAFETY: the gate's stub of a function of that convention; more arguments than it has are not looked at.
    let function: extern "win64" fn(u64, u64, u64, u64) -> u64 =
        unsafe { std::mem::transmute(address) };
    function(a, b, c, d)
}

type Driver = Box<dyn FnMut(Asked)>;

thread_local! {
    static DRIVER: RefCell<Option<Driver>> = const { RefCell::new(None) };
    static VECTORS: UnsafeCell<XsaveArea> = const { UnsafeCell::new(XsaveArea::new()) };
    static NOTES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

extern "win64" fn classify(
    values: usize,
    metadata: usize,
    list: usize,
    _: u64,
    filter: usize,
    _: u64,
    out: usize,
) {
    // A driver of host functions: the library's string routines use registers that a kernel driver must save first.
    let area = VECTORS.with(UnsafeCell::get);
    let mask = crate::nt::xstate::mask() as u32;
    // SAFETY: this thread's own area, aligned and with a zeroed header; every component of the mask fits.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") mask, in("edx") 0, options(nostack));
    }
    drive_with(Asked { values, metadata, list, filter, out });
    // SAFETY: the image made above. The compiler takes these registers as changed by the call before.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") mask, in("edx") 0, options(nostack));
    }
}

#[inline(never)]
fn drive_with(asked: Asked) {
    let driver = DRIVER.with(|driver| driver.borrow_mut().take());
    if let Some(mut driver) = driver {
        driver(asked);
        DRIVER.with(|slot| *slot.borrow_mut() = Some(driver));
    }
}

extern "win64" fn notify(what: u64, _key: usize, _filter: usize) -> i32 {
    NOTES.with(|notes| notes.borrow_mut().push(what));
    0
}

/// Where to, how, and what.
type Sent = (SocketAddr, Option<PacketInfo>, Vec<u8>);

/// A host's socket that remembers what was sent.
#[derive(Default)]
struct Recorder {
    sent: Mutex<Vec<Sent>>,
}

impl host::Socket for Recorder {
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError> {
        for pieces in batch.datagrams() {
            let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            lock(&self.sent).push((to, how.packet_info, bytes));
        }
        Ok(())
    }

    fn close(&self) {}
}

struct Fake {
    local: SocketAddr,
    host: Arc<Recorder>,
    delivered: Mutex<Vec<Vec<u8>>>,
}

impl Endpoint for Fake {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn host(&self) -> Option<Arc<dyn host::Socket>> {
        Some(self.host.clone())
    }

    fn deliver(&self, _: &Machine, _: &layers::Facts, payload: &[u8]) {
        lock(&self.delivered).push(payload.to_vec());
    }
}

/// A machine with one socket.
struct Bench {
    machine: Power,
    socket: Arc<Fake>,
    endpoint: u64,
    _here: Presence,
}

impl Bench {
    fn new(seed: u64, local: &str, choices: &[(&str, bool)]) -> Self {
        Self::in_mode(seed, local, choices, true)
    }

    fn in_mode(seed: u64, local: &str, choices: &[(&str, bool)], verified: bool) -> Self {
        let world = World::new(Mode::Virtual { seed });
        let here = world.enter("main");
        let choices = choices.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let machine = Machine::boot(&world, Options { choices, verified, ..Options::default() });
        attach(&machine);
        let socket = Arc::new(Fake {
            local: local.parse().unwrap(),
            host: Arc::default(),
            delivered: Mutex::default(),
        });
        let endpoint = fwp(&machine).open_endpoint(&machine, socket.clone());
        NOTES.with(|notes| notes.borrow_mut().clear());
        Self { machine, socket, endpoint, _here: here }
    }

    fn v4(seed: u64) -> Self {
        Self::new(seed, "192.0.2.1:51820", &[])
    }

    /// Calls an import of WFP, which must not stop the machine.
    #[track_caller]
    fn call(&self, name: &'static str, arguments: &[u64]) -> u32 {
        match self.machine.call_import("fwpkclnt.sys", name, arguments) {
            Ok(value) => value as u32,
            Err(Dead) => panic!("{name}: {}", self.report()),
        }
    }

    /// Calls an import that must stop the machine; the report.
    #[track_caller]
    fn stops(&self, name: &'static str, arguments: &[u64]) -> String {
        assert!(
            self.machine.call_import("fwpkclnt.sys", name, arguments).is_err(),
            "{name} did not stop"
        );
        self.report()
    }

    fn report(&self) -> String {
        self.machine
            .stop_report()
            .map_or_else(String::new, |stop| format!("{}: {}", stop.rule, stop.detail))
    }

    fn memory(&self, bytes: &[u8]) -> usize {
        let at = self.machine.allocate(bytes.len());
        probe::write_bytes(at, bytes).unwrap();
        at
    }

    fn open(&self, dynamic: bool) -> u64 {
        let session = self.machine.allocate(72);
        probe::write(session + 32, u32::from(dynamic)).unwrap();
        let handle = self.machine.allocate(8);
        assert_eq!(self.call("FwpmEngineOpen0", &[0, 10, 0, session as u64, handle as u64]), 0);
        probe::read(handle).unwrap()
    }

    /// An object with key and name.
    fn object(&self, size: usize, key: u8) -> usize {
        let at = self.machine.allocate(size);
        probe::write_bytes(at, &[key; 16]).unwrap();
        let name = self.memory(&[b'x', 0, 0, 0]);
        probe::write(at + 16, name).unwrap();
        at
    }

    fn provider(&self, engine: u64, key: u8) -> u32 {
        self.call("FwpmProviderAdd0", &[engine, self.object(64, key) as u64, 0])
    }

    fn sublayer(&self, engine: u64, key: u8, weight: u16) -> u32 {
        let at = self.object(72, key);
        probe::write(at + 64, weight).unwrap();
        self.call("FwpmSubLayerAdd0", &[engine, at as u64, 0])
    }

    fn callout(&self, engine: u64, key: u8, layer: Guid) -> u32 {
        let at = self.object(88, key);
        probe::write_bytes(at + 64, &layer).unwrap();
        self.call("FwpmCalloutAdd0", &[engine, at as u64, 0, 0])
    }

    fn register(&self, key: u8, flags: u32) -> (u32, u32) {
        let at = self.machine.allocate(48);
        probe::write_bytes(at, &[key; 16]).unwrap();
        probe::write(at + 16, flags).unwrap();
        probe::write(at + 24, classify as *const () as usize).unwrap();
        probe::write(at + 32, notify as *const () as usize).unwrap();
        let id = self.machine.allocate(4);
        let status = self.call("FwpsCalloutRegister2", &[1, at as u64, id as u64]);
        (status, probe::read(id).unwrap())
    }

    /// A filter on our port in sublayer `sublayer`, with an action and its callout; address of the `FWPM_FILTER0`.
    fn filter(&self, key: u8, sublayer: u8, (action, callout): (u32, u8), layer: Guid) -> usize {
        let at = self.object(200, key);
        probe::write_bytes(at + 64, &layer).unwrap();
        probe::write_bytes(at + 80, &[sublayer; 16]).unwrap();
        let conditions = self.machine.allocate(80);
        for (number, (key, kind, value)) in
            [(PROTOCOL, 1, 17), (LOCAL_PORT, 2, PORT)].into_iter().enumerate()
        {
            let at = conditions + 40 * number;
            probe::write_bytes(at, &key).unwrap();
            probe::write(at + 24, kind).unwrap();
            probe::write(at + 32, value).unwrap();
        }
        probe::write(at + 112, 2_u32).unwrap();
        probe::write(at + 120, conditions).unwrap();
        probe::write(at + 128, action).unwrap();
        probe::write_bytes(at + 132, &[callout; 16]).unwrap();
        probe::write(at + 152, 0xC0FFEE_u64).unwrap();
        at
    }

    fn add(&self, engine: u64, filter: usize) -> (u32, u64) {
        let id = self.machine.allocate(8);
        let status = self.call("FwpmFilterAdd0", &[engine, filter as u64, 0, id as u64]);
        (status, probe::read(id).unwrap())
    }

    /// Our sublayer, callout and terminating filter at `layer`, registered.
    fn engaged(&self, layer: Layer, flags: u32) -> (u64, u32) {
        let engine = self.open(true);
        assert_eq!((self.provider(engine, 1), self.sublayer(engine, 2, 0x100)), (0, 0));
        let (status, id) = self.register(3, flags);
        assert_eq!((status, self.callout(engine, 3, layer.key())), (0, 0));
        let filter = self.filter(4, 2, (objects::TERMINATING, 3), layer.key());
        assert_eq!(self.add(engine, filter).0, 0);
        (engine, id)
    }

    /// Datagrams for the socket as a host hands them on; how many are left for it.
    fn receive(&self, from: &str, payloads: &[&[u8]]) -> usize {
        let mut memory: Vec<Vec<u8>> = payloads.iter().map(|payload| payload.to_vec()).collect();
        let local = self.socket.local;
        let place = |bytes: &mut Vec<u8>| Place {
            payload: NonNull::new(bytes.as_mut_ptr()).unwrap(),
            capacity: bytes.len(),
            name: 0,
            len: bytes.len(),
            segment: 0,
            remote: from.parse().unwrap(),
            local: Some(PacketInfo { address: local.ip(), interface: 2 }),
            traffic_class: Some(2),
        };
        let mut places = memory.iter_mut().map(place).collect();
        let to = Destination { endpoint: self.endpoint, local };
        inbound::receive(&self.machine, &fwp(&self.machine), to, &mut places);
        places.len()
    }

    /// As [`Bench::receive`] for one datagram, with what the driver does about it.
    fn classified(&self, from: &str, payload: &[u8], driver: impl FnMut(Asked) + 'static) -> bool {
        drive(driver);
        self.receive(from, &[payload]) == 1
    }
}

fn drive(driver: impl FnMut(Asked) + 'static) {
    DRIVER.with(|slot| *slot.borrow_mut() = Some(Box::new(driver)));
}

const PEER: &str = "198.51.100.7:9";

#[test]
fn the_rows_are_counted() {
    let rows = crate::nt::rows().filter(|row| row.dll == "fwpkclnt.sys").count();
    assert!(rows == 24, "{rows} functions of WFP");
}

#[test]
fn what_is_left_behind_is_named() {
    let bench = Bench::v4(1);
    let (engine, id) = bench.engaged(INBOUND, 0);
    let handle = bench.machine.allocate(8);
    assert_eq!(bench.call("FwpmBfeStateSubscribeChanges0", &[1, 1, 0, handle as u64]), 0);
    let leaks = bench.machine.unload().unwrap();
    let said: Vec<String> = leaks.iter().map(|leak| leak.detail.clone()).collect();
    for expected in ["1 engine handles", "4 objects", "1 callouts", "1 subscriptions"] {
        assert!(said.iter().any(|detail| detail.starts_with(expected)), "{expected}: {said:?}");
    }
    let subscription: u64 = probe::read(handle).unwrap();
    assert_eq!(bench.call("FwpmBfeStateUnsubscribeChanges0", &[subscription]), 0);
    assert_eq!(bench.call("FwpmEngineClose0", &[engine]), 0);
    assert_eq!(bench.call("FwpsCalloutUnregisterById0", &[u64::from(id)]), 0);
    assert_eq!(bench.machine.unload().unwrap(), []);
}
