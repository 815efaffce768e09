//! KMDF, NetAdapterCx and PnP of the simulator, driven by a small driver of host functions.
//!
//! ```text
//!   program ── IOCTL ──┐                      ┌── tx ring ──► echo ──┐
//!                      ├── device ── adapter ─┤                      │
//!   PnP ── start, … ───┘                      └── rx ring ◄──────────┘
//! ```
//!
//! The last table makes the driver wrong in one place at a time and expects the stop by its name.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim::nt::machine::{Machine, Options, Power};
use sim::nt::netcx::tx_translator::Refused;
use sim::nt::netcx::{NetCx, Sizes};
use sim::nt::pnp::DeviceNode;
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::nt::wdf::Wdf;
use sim::nt::wdf::status;
use sim::nt::wdf::user_buffer::UserBuffer;
use sim::verifier::schedule::{Mode, Presence, World};

mod copies;
mod driver;
mod mistakes;
use driver::Wrong;

const CLASS: [u8; 16] = [0x11; 16];

fn code(function: u32, method: u32) -> u32 {
    0xB098 << 16 | 3 << 14 | function << 2 | method
}

struct Bench {
    machine: Power,
    _here: Presence,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let world = World::new(mode);
        let here = world.enter("main");
        let machine = Machine::boot(&world, Options::default());
        Self { machine, _here: here }
    }

    fn stopped(&self) -> String {
        self.machine
            .stop_report()
            .map_or_else(String::new, |stop| format!("{}: {}", stop.rule, stop.detail))
    }

    /// Loads the driver and starts its device.
    fn started(&self) -> DeviceNode {
        assert_eq!(driver::load(&self.machine), Ok(0), "{}", self.stopped());
        let node = self.machine.add_device().unwrap_or_else(|_| panic!("{}", self.stopped()));
        let node = node.unwrap_or_else(|status| panic!("declined: {status:#x}"));
        assert_eq!(node.start(), Ok(Ok(())), "{}", self.stopped());
        node
    }

    fn finish(&self, node: DeviceNode) {
        assert!(matches!(node.remove(), Ok(Ok(()))), "{}", self.stopped());
        assert_eq!(driver::release(&self.machine), Ok(()), "{}", self.stopped());
        assert_eq!(self.stopped(), "");
    }

    fn alive(&self) -> Vec<String> {
        let alive = Wdf::of(&self.machine).objects_alive();
        alive.iter().map(|(kind, ..)| kind.name().to_owned()).collect()
    }
}

const MODES: [Mode; 3] = [Mode::Virtual { seed: 1 }, Mode::Virtual { seed: 2 }, Mode::Parallel];

#[test]
fn a_device_comes_and_goes_and_nothing_is_left() {
    for mode in MODES {
        let _turn = driver::turn(Wrong::Nothing);
        let bench = Bench::new(mode);
        let node = bench.started();
        assert!(NetCx::of(&bench.machine).adapters()[0].is_running());
        bench.finish(node);
        assert_eq!(bench.alive(), [""; 0]);
        assert_eq!(
            (driver::CLEANUPS.load(SeqCst), driver::DESTROYS.load(SeqCst)),
            (2, 2),
            "driver and device"
        );
    }
}

#[test]
fn an_ioctl_is_seen_by_its_requestor_first_and_handled_elsewhere() {
    let _turn = driver::turn(Wrong::Nothing);
    let bench = Bench::new(Mode::Virtual { seed: 3 });
    let node = bench.started();
    let process = Process::start("program", Token::system());
    let handle = bench.machine.open(CLASS, "penstock", &process).unwrap();
    assert_eq!(
        bench.machine.open(CLASS, "other", &process).err(),
        Some(status::OBJECT_NAME_NOT_FOUND)
    );
    for method in [0, 2] {
        let mut output = [7, 7];
        assert_eq!(
            handle.device_io_control(code(0x800, method), &[21], &mut output),
            (0, 1),
            "{}",
            bench.stopped()
        );
        assert_eq!(output, [42, 7], "method {method}");
    }
    assert_eq!(driver::CREATED_BY.load(SeqCst), process.object());
    assert_eq!(driver::HANDLED_BY.load(SeqCst), bench.machine.system_process().object());
    let answer = handle.device_io_control(code(0x800, 0), &[], &mut []);
    assert_eq!(answer, (status::BUFFER_TOO_SMALL, 0));
    assert_eq!(
        handle.device_io_control(code(0x8FF, 0), &[], &mut []).0,
        status::INVALID_DEVICE_REQUEST
    );
    handle.close();
    bench.finish(node);
}

#[test]
fn a_request_in_a_manual_queue_is_completed_or_cancelled() {
    let _turn = driver::turn(Wrong::Nothing);
    let bench = Bench::new(Mode::Virtual { seed: 4 });
    let node = bench.started();
    let process = Process::start("program", Token::system());
    let handle = bench.machine.open(CLASS, "penstock", &process).unwrap();
    let buffer = UserBuffer::new(0, 0).unwrap();
    let world = bench.machine.world().clone();
    let waits = |pending: &sim::nt::wdf::requestor::Pending| {
        world.sleep(Duration::from_millis(5));
        pending.poll().is_none()
    };
    let first = handle.begin(code(0x801, 0), &[], &buffer).unwrap();
    assert!(waits(&first));
    assert_eq!(handle.device_io_control(code(0x802, 0), &[], &mut []).0, 0);
    assert_eq!(first.wait(&buffer).0, 0);
    let second = handle.begin(code(0x801, 0), &[], &buffer).unwrap();
    assert!(waits(&second));
    assert!(second.cancel());
    assert_eq!(second.wait(&buffer).0, status::CANCELLED);
    let third = handle.begin(code(0x801, 0), &[], &buffer).unwrap();
    assert!(waits(&third));
    handle.close();
    assert_eq!(third.wait(&buffer).0, status::CANCELLED, "CLEANUP flushes the queue");
    bench.finish(node);
}

#[test]
fn packets_are_echoed_whatever_the_rings_sizes() {
    for (mode, packets, fragments) in [
        (Mode::Virtual { seed: 5 }, 2, 8),
        (Mode::Virtual { seed: 6 }, 4, 4),
        (Mode::Parallel, 256, 256),
    ] {
        let _turn = driver::turn(Wrong::Nothing);
        let bench = Bench::new(mode);
        let sizes = Sizes { packets, fragments, receive_pool: 16, outstanding: 64, dpc_rounds: 3 };
        NetCx::of(&bench.machine).set_sizes(sizes);
        let node = bench.started();
        let adapter = NetCx::of(&bench.machine).adapters().remove(0);
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = got.clone();
        adapter.on_receive(move |packets| {
            let mut got = into.lock().unwrap();
            got.extend(packets.iter().map(|packet| packet.pieces().collect::<Vec<_>>().concat()));
        });
        let sent: Vec<Vec<u8>> =
            (0..200_usize).map(|number| vec![number as u8; 1 + number * 7]).collect();
        for packet in &sent {
            assert!(adapter.wait_for_room(&bench.machine, None), "{}", bench.stopped());
            assert_eq!(adapter.send(&bench.machine, packet), Ok(()));
        }
        for _ in 0..2000 {
            if got.lock().unwrap().len() == sent.len() || bench.machine.is_dead() {
                break;
            }
            bench.machine.world().sleep(Duration::from_millis(1));
        }
        assert_eq!(bench.stopped(), "");
        assert!(*got.lock().unwrap() == sent, "rings of {packets}: order and bytes");
        bench.finish(node);
        let counts = adapter.sent();
        assert_eq!((counts.accepted, counts.completed + counts.paused), (200, 200));
        assert_eq!(adapter.send(&bench.machine, &[1]), Err(Refused::Paused));
        assert_eq!(driver::RETURNED.load(SeqCst), 200, "every buffer came back");
    }
}

#[test]
fn an_adapter_survives_pauses_and_sleeps() {
    let _turn = driver::turn(Wrong::Nothing);
    let bench = Bench::new(Mode::Virtual { seed: 7 });
    let node = bench.started();
    let adapter = NetCx::of(&bench.machine).adapters().remove(0);
    assert_eq!(adapter.pause_and_restart(&bench.machine), Ok(()));
    assert!(adapter.is_running());
    assert_eq!(node.sleep(), Ok(()));
    assert!(!adapter.is_running());
    assert_eq!(adapter.send(&bench.machine, &[1]), Err(Refused::Paused));
    assert_eq!(node.wake(), Ok(Ok(())));
    assert!(adapter.is_running());
    assert_eq!(adapter.send(&bench.machine, &[1; 20]), Ok(()));
    bench.finish(node);
}

#[test]
fn a_packet_the_host_keeps_holds_the_pause_up() {
    let _turn = driver::turn(Wrong::Nothing);
    let bench = Bench::new(Mode::Virtual { seed: 8 });
    let node = bench.started();
    let adapter = NetCx::of(&bench.machine).adapters().remove(0);
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = held.clone();
    adapter.on_receive(move |packets| {
        keep.lock()
            .unwrap()
            .extend(packets.iter_mut().map(sim::nt::netcx::rx_translator::RxPacket::hold))
    });
    assert_eq!(adapter.send(&bench.machine, &[9; 100]), Ok(()));
    bench.machine.world().sleep(Duration::from_millis(50));
    assert_eq!(held.lock().unwrap().len(), 1);
    assert_eq!(held.lock().unwrap()[0].contiguous(), Some(&[9; 100][..]));
    let (world, release) = (bench.machine.world().clone(), held.clone());
    let later = world.clone();
    let thread = world.spawn("late", move || {
        later.sleep(Duration::from_secs(3));
        drop(std::mem::take(&mut *release.lock().unwrap()));
    });
    let before = world.now();
    assert_eq!(node.sleep(), Ok(()));
    assert!(world.now() - before >= Duration::from_secs(2), "it waited for the host");
    thread.join(None);
    bench.finish(node);
}

#[test]
fn a_surprise_removal_takes_everything_down() {
    let _turn = driver::turn(Wrong::Nothing);
    let bench = Bench::new(Mode::Virtual { seed: 9 });
    let node = bench.started();
    assert_eq!(node.surprise_remove(), Ok(()), "{}", bench.stopped());
    assert_eq!(driver::release(&bench.machine), Ok(()));
    assert_eq!(bench.alive(), [""; 0]);
}

#[test]
fn a_wrong_record_is_not_bound() {
    for (wrong, expected) in [
        (Wrong::BindSize, status::INVALID_PARAMETER),
        (Wrong::BindVersion, status::REVISION_MISMATCH),
        (Wrong::ClassSize, status::INVALID_IMAGE_FORMAT),
        (Wrong::ClassVersion, status::NOT_SUPPORTED),
    ] {
        let _turn = driver::turn(wrong);
        let bench = Bench::new(Mode::Virtual { seed: 1 });
        assert_eq!(driver::load(&bench.machine), Ok(expected), "{wrong:?}");
        assert_eq!(bench.stopped(), "");
    }
}

#[test]
fn each_mistake_is_stopped_by_name() {
    for (wrong, rule) in [
        (Wrong::UnlistedFunction, "NOT PROVIDED: WdfChildListCreate"),
        (Wrong::DereferencesTooOften, "WDF_OBJECT_ERROR: "),
        (Wrong::FileConfigSize, "WDF_VIOLATION: ignored call: WdfDeviceInitSetFileObjectConfig"),
        (Wrong::CompletesTwice, "DoubleCompletion: "),
        (Wrong::UsesCompletedRequest, "BufAfterReqCompleted: "),
        (Wrong::TooMuchInformation, "WDF_REQUEST_FATAL_ERROR: "),
        (Wrong::CompletesPending, "WDF_REQUEST_FATAL_ERROR: "),
        (Wrong::EnqueuesPresented, "WDF_QUEUE_FATAL_ERROR: "),
        (Wrong::NullHandle, "WDF_INVALID_HANDLE: NULL"),
        (Wrong::WrongHandle, "WDF_INVALID_HANDLE: "),
        (Wrong::NoFileConfig, "WDF_REQUIRED_PARAMETER_IS_NULL: FileObjectConfig"),
        (Wrong::ForeignGlobals, "WDF_VIOLATION: driver globals: "),
        (Wrong::TakesFsContext, "WDF_VIOLATION: FsContext: "),
        (Wrong::FreesDeviceInit, "ChildDeviceInitAPI: "),
        (Wrong::UsesDeviceInitLate, "ChildDeviceInitAPI: "),
        (Wrong::NobodyMayOpen, "CtlDeviceFinishInit: WdfControlDeviceInitAllocate"),
        (Wrong::FinishesPnpDevice, "CtlDeviceFinishInit: "),
        (Wrong::DeletesPnpDevice, "WDF_OBJECT_ERROR: WdfObjectDelete on a WDFDEVICE"),
        (Wrong::ForeignNetGlobals, "CorruptedPrivateGlobals: "),
        (Wrong::ShortStructure, "InvalidStructTypeSize: "),
        (Wrong::NoCallbacks, "InvalidDatapathCallbacks: "),
        (Wrong::NoAdapterInit, "InvalidNetAdapterInitSignature: "),
        (Wrong::NoPlaceForAdapter, "ParameterCantBeNull: Adapter"),
        (Wrong::SecondAdapter, "NetAdapterInitAlreadyUsed: "),
        (Wrong::StartsBare, "AdapterNotConfigured: "),
        (Wrong::StartsTwice, "AdapterAlreadyStarted: "),
        (Wrong::MtuZero, "MtuMustBeGreaterThanZero: "),
        (Wrong::NoSuchLink, "InvalidLinkState: "),
        (Wrong::NoSuchOffload, "InvalidNetOffload: "),
        (Wrong::TransmitsNothing, "InvalidAdapterTxCapabilities: "),
        (Wrong::OddAlignment, "NotPowerOfTwo: "),
        (Wrong::CutsNothing, "InvalidGsoHardwareCapabilities: "),
        (Wrong::CutsIntoNone, "InvalidGsoCapabilities: "),
        (Wrong::NoReturnCallback, "InvalidAdapterRxCapabilities: "),
        (Wrong::QueueOutside, "CreatingNetQueueFromWrongThread: "),
        (Wrong::ForeignQueueInit, "BadQueueInitContext: "),
        (Wrong::QueueWithParent, "ParentObjectNotNull: "),
        (Wrong::SecondQueue, "QueueAlreadyCreated: "),
        (Wrong::QueueOfOtherKind, "InvalidQueueHandle: "),
        (Wrong::QueueWithoutCancel, "NetQueueInvalidConfiguration: "),
        (Wrong::ExtensionOfOtherRing, "InvalidNetExtensionName: "),
        (Wrong::ExtensionOfNothing, "InvalidNetExtensionType: "),
        (Wrong::WritesTxPacket, "InvalidRingImmutableDriverTxPacket: "),
        (Wrong::WritesTxData, "NBL_VIOLATION: L5: "),
        (Wrong::MovesBeginBack, "InvalidRingBeginIndex: "),
        (Wrong::MovesBeginOutside, "RingMovedOutsideCallback: "),
        (Wrong::LinksTwice, "RX BUFFER LINKED TWICE: "),
        (Wrong::WritesRxBuffer, "RX BUFFER WRITTEN: "),
        (Wrong::WildRxBuffer, "INVALID RX BUFFER: "),
        (Wrong::LosesRxBuffer, "RX BUFFER LOST: "),
        (Wrong::LiesAboutChecksum, "RX CHECKSUM NOT TRUE: "),
        (Wrong::RefusesScaling, "RECEIVE SCALING: "),
        (Wrong::KeepsTxPackets, "DRIVER_POWER_STATE_FAILURE: "),
    ] {
        let _turn = driver::turn(wrong);
        let bench = Bench::new(Mode::Virtual { seed: 1 });
        run_into_it(&bench);
        assert!(bench.stopped().starts_with(rule), "{wrong:?}: {:?}", bench.stopped());
    }
}

#[test]
fn a_request_that_is_kept_for_ever_is_a_stop() {
    let _turn = driver::turn(Wrong::KeepsRequest);
    let bench = Bench::new(Mode::Virtual { seed: 1 });
    let _node = bench.started();
    let process = Process::start("program", Token::system());
    let handle = bench.machine.open(CLASS, "penstock", &process).unwrap();
    let buffer = UserBuffer::new(1, 4).unwrap();
    let _kept = handle.begin(code(0x800, 0), &[1], &buffer).unwrap();
    bench.machine.world().sleep(Duration::from_millis(5));
    handle.close();
    assert!(bench.stopped().starts_with("DeferredRequestCompleted: "), "{:?}", bench.stopped());
}

/// Does a little of everything until the machine stops.
fn run_into_it(bench: &Bench) -> Option<()> {
    driver::load(&bench.machine).ok()?;
    let node = bench.machine.add_device().ok()?.ok()?;
    node.start().ok()?.ok()?;
    let process = Process::start("program", Token::system());
    let handle = bench.machine.open(CLASS, "penstock", &process).ok()?;
    let mut output = [0; 4];
    handle.device_io_control(code(0x800, 0), &[1], &mut output);
    handle.device_io_control(code(0x8FF, 0), &[], &mut []);
    drop(handle);
    let adapter = NetCx::of(&bench.machine).adapters().remove(0);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    adapter.on_receive(move |packets| {
        keep.lock()
            .unwrap()
            .extend(packets.iter_mut().map(sim::nt::netcx::rx_translator::RxPacket::hold))
    });
    for _ in 0..3 {
        adapter.send(&bench.machine, &[0x45; 64]).ok()?;
    }
    bench.machine.world().sleep(Duration::from_secs(1));
    kept.lock().unwrap().clear();
    node.remove().ok()?.ok()
}

/// A driver that never moves the fragment ring's BeginIndex starves, as on Windows: seen by its queue.
#[test]
fn forgotten_fragments_starve_the_ring() {
    let _turn = driver::turn(Wrong::ForgetsFragments);
    let bench = Bench::new(Mode::Virtual { seed: 1 });
    let sizes = Sizes { packets: 8, fragments: 8, outstanding: 64, ..Sizes::default() };
    NetCx::of(&bench.machine).set_sizes(sizes);
    let node = bench.started();
    let adapter = NetCx::of(&bench.machine).adapters().remove(0);
    for _ in 0..20 {
        assert_eq!(adapter.send(&bench.machine, &[1]), Ok(()));
    }
    bench.machine.world().sleep(Duration::from_secs(1));
    assert_eq!(adapter.sent().completed, 7, "one fragment each, and one slot stays free");
    bench.finish(node);
    assert_eq!(adapter.sent().paused, 13);
}

#[test]
fn a_leaked_reference_is_found_at_unload() {
    let _turn = driver::turn(Wrong::LeaksReference);
    let bench = Bench::new(Mode::Virtual { seed: 1 });
    let node = bench.started();
    bench.finish(node);
    assert_eq!(bench.alive(), ["WDFDEVICE"]);
}

#[test]
fn a_driver_with_a_control_device_is_not_unloaded() {
    let _turn = driver::turn(Wrong::KeepsControlDevice);
    let bench = Bench::new(Mode::Virtual { seed: 1 });
    let node = bench.started();
    assert!(matches!(node.remove(), Ok(Ok(()))), "{}", bench.stopped());
    assert!(driver::release(&bench.machine).is_err());
    let rule = "WDF_VIOLATION: DriverUnload: DriverUnload while there is a control device";
    assert!(bench.stopped().starts_with(rule), "{:?}", bench.stopped());
}
