//! A small driver written as host functions: it binds, makes one device with one adapter, echoes every
//! transmitted packet to its receive queue, and answers IOCTLs. Each [`Wrong`] makes it break one rule.
//!
//! Its functions run where a driver's do, behind the gate and on a driver stack. They copy byte by
//! byte, because a library copy may use registers that a driver must save. Tests that use it hold
//! [`turn`], since the driver's state is static as a driver's is.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sim::nt::machine::{Call, Dead, Level, Machine};

use super::mistakes;

/// Deliberate mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(clippy::enum_variant_names, reason = "they are named for what is wrong")]
pub(crate) enum Wrong {
    Nothing,
    BindSize,
    BindVersion,
    ClassSize,
    ClassVersion,
    CompletesTwice,
    TooMuchInformation,
    UnlistedFunction,
    NullHandle,
    WrongHandle,
    DereferencesTooOften,
    FileConfigSize,
    StartsTwice,
    MtuZero,
    NoReturnCallback,
    QueueWithoutCancel,
    WritesTxPacket,
    WritesTxData,
    MovesBeginBack,
    LinksTwice,
    WritesRxBuffer,
    ForgetsFragments,
    LeaksReference,
    KeepsTxPackets,
    KeepsControlDevice,
    NobodyMayOpen,
    DeletesPnpDevice,
    // One call each: `mistakes`.
    TakesFsContext,
    NoFileConfig,
    FreesDeviceInit,
    ForeignGlobals,
    UsesDeviceInitLate,
    FinishesPnpDevice,
    EnqueuesPresented,
    CompletesPending,
    UsesCompletedRequest,
    ShortStructure,
    NoCallbacks,
    NoAdapterInit,
    NoPlaceForAdapter,
    ForeignNetGlobals,
    SecondAdapter,
    StartsBare,
    QueueOutside,
    NoSuchOffload,
    NoSuchLink,
    TransmitsNothing,
    OddAlignment,
    CutsNothing,
    CutsIntoNone,
    ForeignQueueInit,
    QueueWithParent,
    SecondQueue,
    QueueOfOtherKind,
    ExtensionOfOtherRing,
    ExtensionOfNothing,
    // In the rings, and with requests.
    MovesBeginOutside,
    WildRxBuffer,
    LosesRxBuffer,
    LiesAboutChecksum,
    KeepsRequest,
    RefusesScaling,
}

static WRONG: AtomicU32 = AtomicU32::new(0);
static TURN: Mutex<()> = Mutex::new(());

/// Takes the driver for one test and resets it.
pub(crate) fn turn(wrong: Wrong) -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for word in
        [&GLOBALS, &NET_GLOBALS, &TABLE, &DRIVER, &DEVICE, &MANUAL, &ADAPTER, &TX, &RX, &PENDING]
    {
        word.store(0, SeqCst);
    }
    for word in [&HEAD, &TAIL, &RETURNED, &CLEANUPS, &DESTROYS, &CREATED_BY, &HANDLED_BY] {
        word.store(0, SeqCst);
    }
    RX_ARMED.store(false, SeqCst);
    WRONG.store(wrong as u32, SeqCst);
    turn
}

pub(crate) fn wrong(which: Wrong) -> bool {
    WRONG.load(SeqCst) == which as u32
}

static GLOBALS: AtomicU64 = AtomicU64::new(0);
static NET_GLOBALS: AtomicU64 = AtomicU64::new(0);
static TABLE: AtomicU64 = AtomicU64::new(0);
static NET_TABLE: [AtomicU64; 122] = [const { AtomicU64::new(0) }; 122];
static DRIVER: AtomicU64 = AtomicU64::new(0);
pub(crate) static DEVICE: AtomicU64 = AtomicU64::new(0);
static MANUAL: AtomicU64 = AtomicU64::new(0);
pub(crate) static ADAPTER: AtomicU64 = AtomicU64::new(0);
pub(crate) static TX: AtomicU64 = AtomicU64::new(0);
pub(crate) static RX: AtomicU64 = AtomicU64::new(0);
static PENDING: AtomicU64 = AtomicU64::new(0);
static RX_ARMED: AtomicBool = AtomicBool::new(false);
pub(crate) static CLEANUPS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static DESTROYS: AtomicUsize = AtomicUsize::new(0);
/// The process of `EvtIoInCallerContext` and of the queue handler, as `IoGetCurrentProcess` says.
pub(crate) static CREATED_BY: AtomicUsize = AtomicUsize::new(0);
pub(crate) static HANDLED_BY: AtomicUsize = AtomicUsize::new(0);

type Function = extern "win64" fn(u64, u64, u64, u64, u64, u64, u64) -> u64;

fn function(address: u64) -> Function {
    // SAFETY: an entry of a bound function table; win64 lets a caller pass more arguments than are taken.
    unsafe { std::mem::transmute::<usize, Function>(address as usize) }
}

pub(crate) fn wdf(index: u64, a: [u64; 6]) -> u64 {
    wdf_function(index)(GLOBALS.load(SeqCst), a[0], a[1], a[2], a[3], a[4], a[5])
}

/// As [`wdf`], with globals that are another driver's.
pub(crate) fn foreign(index: u64, a: [u64; 2]) -> u64 {
    wdf_function(index)(GLOBALS.load(SeqCst) + 8, a[0], a[1], 0, 0, 0, 0)
}

fn wdf_function(index: u64) -> Function {
    let entry = (TABLE.load(SeqCst) + 8 * index) as *const u64;
    // SAFETY: the table has 458 entries and every index here is below that.
    function(unsafe { entry.read() })
}

pub(crate) fn net(index: usize, a: [u64; 4]) -> u64 {
    function(NET_TABLE[index].load(SeqCst))(NET_GLOBALS.load(SeqCst), a[0], a[1], a[2], a[3], 0, 0)
}

/// As [`net`], with globals that are another driver's.
pub(crate) fn foreign_net(index: usize, a: [u64; 4]) -> u64 {
    let function = function(NET_TABLE[index].load(SeqCst));
    function(NET_GLOBALS.load(SeqCst) + 8, a[0], a[1], a[2], a[3], 0, 0)
}

pub(crate) fn address<T>(place: &T) -> u64 {
    std::ptr::from_ref(place).expose_provenance() as u64
}

/// What the image imports. Bound by the loader, that is by [`load`].
const IMPORTS: [(&str, &str); 6] = [
    ("wdfldr.sys", "WdfVersionBind"),
    ("wdfldr.sys", "WdfVersionUnbind"),
    ("wdfldr.sys", "WdfVersionBindClass"),
    ("wdfldr.sys", "WdfVersionUnbindClass"),
    ("wdf01000", "FxDriverUnload"),
    ("ntoskrnl.exe", "IoGetCurrentProcess"),
];
static IMPORTED: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
const BIND: usize = 0;
const UNBIND: usize = 1;
const BIND_CLASS: usize = 2;
const UNBIND_CLASS: usize = 3;
const FRAMEWORK_UNLOAD: usize = 4;
const CURRENT_PROCESS: usize = 5;

fn imported(number: usize) -> Function {
    function(IMPORTED[number].load(SeqCst))
}

/// `WDF_OBJECT_CONTEXT_TYPE_INFO` of a 32-byte context.
static TYPE: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

fn attributes(with_callbacks: bool) -> [u64; 7] {
    TYPE[0].store(40, SeqCst);
    TYPE[1].store(1, SeqCst);
    TYPE[2].store(32, SeqCst);
    let (cleanup, destroy) = if with_callbacks {
        (on_cleanup as *const () as u64, on_destroy as *const () as u64)
    } else {
        (0, 0)
    };
    [56, cleanup, destroy, 1 << 32 | 1, 0, 0, address(&TYPE)]
}

pub(crate) extern "win64" fn on_cleanup(_: u64) {
    CLEANUPS.fetch_add(1, SeqCst);
}

extern "win64" fn on_destroy(_: u64) {
    DESTROYS.fetch_add(1, SeqCst);
}

pub(crate) fn wide<const N: usize>(text: &str) -> [u16; N] {
    let mut units = [0; N];
    for (unit, byte) in units.iter_mut().zip(text.bytes()) {
        *unit = byte.into();
    }
    units
}

/// The image's entry point: binds, then makes the `WDFDRIVER`.
extern "win64" fn entry(driver_object: u64, path: u64) -> i32 {
    let component: [u16; 12] = wide("KmdfLibrary");
    let minor: u64 = if wrong(Wrong::BindVersion) { 99 } else { 31 };
    let size: u64 = if wrong(Wrong::BindSize) { 40 } else { 48 };
    let info = [size, address(&component), 1 | minor << 32, 458 << 32, address(&TABLE), 0];
    let bind = imported(BIND);
    let status = bind(driver_object, path, address(&info), address(&GLOBALS), 0, 0, 0) as i32;
    if status < 0 {
        return status;
    }
    let name: [u16; 13] = wide("NetAdapterCx");
    let minor: u64 = if wrong(Wrong::ClassVersion) { 9 } else { 1 };
    let size: u64 = if wrong(Wrong::ClassSize) { 79 } else { 80 };
    let class = [
        size,
        address(&name),
        2 | minor << 32,
        0,
        address(&NET_TABLE),
        122,
        address(&NET_GLOBALS),
        0,
        0,
        0,
    ];
    let bind = imported(BIND_CLASS);
    let status = bind(address(&info), GLOBALS.load(SeqCst), address(&class), 0, 0, 0, 0) as i32;
    if status < 0 {
        let unbind = imported(UNBIND);
        unbind(path, address(&info), GLOBALS.load(SeqCst), 0, 0, 0, 0);
        return status;
    }
    let config = [32, device_add as *const () as u64, 0, 0];
    let attributes = attributes(true);
    wdf(116, [driver_object, path, address(&attributes), address(&config), address(&DRIVER), 0])
        as i32
}

/// The stub's unload: the framework's own, then unbinding.
extern "win64" fn unload(driver_object: u64, path: u64) {
    imported(FRAMEWORK_UNLOAD)(driver_object, 0, 0, 0, 0, 0, 0);
    let unbind = imported(UNBIND_CLASS);
    unbind(1, GLOBALS.load(SeqCst), 1, 0, 0, 0, 0);
    let unbind = imported(UNBIND);
    unbind(path, 0, GLOBALS.load(SeqCst), 0, 0, 0, 0);
}

extern "win64" fn device_add(_: u64, init: u64) -> i32 {
    let init = AtomicU64::new(init);
    let status = net(46, [init.load(SeqCst), 0, 0, 0]) as i32;
    if status < 0 {
        return status;
    }
    let token = init.load(SeqCst);
    mistakes::with_device_init(token);
    let file_size = if wrong(Wrong::FileConfigSize) { 39 } else { 40 };
    let file = [file_size, on_create as *const () as u64, 0, 0, 2 | 4 << 32];
    wdf(71, [init.load(SeqCst), address(&file), 0, 0, 0, 0]);
    wdf(74, [init.load(SeqCst), in_caller_context as *const () as u64, 0, 0, 0, 0]);
    let attributes_of_device = attributes(true);
    let status =
        wdf(75, [address(&init), address(&attributes_of_device), address(&DEVICE), 0, 0, 0]) as i32;
    if status < 0 {
        return status;
    }
    let device = DEVICE.load(SeqCst);
    mistakes::with_device(token);
    if wrong(Wrong::UnlistedFunction) {
        wdf(0, [device, 0, 0, 0, 0, 0]);
    }
    if wrong(Wrong::LeaksReference) {
        wdf(205, [device, 0, 0, 0, 0, 0]);
    }
    if wrong(Wrong::DereferencesTooOften) {
        wdf(206, [device, 0, 0, 0, 0, 0]);
    }
    if wrong(Wrong::DeletesPnpDevice) {
        wdf(208, [device, 0, 0, 0, 0, 0]);
    }
    make_queues(device);
    make_control_device();
    let class = [0x1111_1111_1111_1111_u64; 2];
    let reference: [u16; 8] = wide("penstock");
    let string = [16 | 16 << 16, address(&reference)];
    let status = wdf(77, [device, address(&class), address(&string), 0, 0, 0]) as i32;
    if status < 0 { status } else { make_adapter(device) }
}

/// A device of the driver's own, asked for its object, and deleted again.
fn make_control_device() {
    let access: [u16; 4] = wide("D:P");
    let string = [6 | 6 << 16, address(&access)];
    let string = if wrong(Wrong::NobodyMayOpen) { 0 } else { address(&string) };
    let unused = wdf(25, [DRIVER.load(SeqCst), string, 0, 0, 0, 0]);
    wdf(54, [unused, 0, 0, 0, 0, 0]);
    let init = AtomicU64::new(wdf(25, [DRIVER.load(SeqCst), string, 0, 0, 0, 0]));
    let device = AtomicU64::new(0);
    if wdf(75, [address(&init), 0, address(&device), 0, 0, 0]) as i32 >= 0 {
        let device = device.load(SeqCst);
        wdf(27, [device, 0, 0, 0, 0, 0]);
        assert_ne!(wdf(31, [device, 0, 0, 0, 0, 0]), 0, "a DEVICE_OBJECT");
        if !wrong(Wrong::KeepsControlDevice) {
            wdf(208, [device, 0, 0, 0, 0, 0]);
        }
    }
}

fn make_queues(device: u64) {
    let mut config = [0_u64; 12];
    config[0] = 96 | 2 << 32;
    config[1] = 1 << 40;
    config[5] = device_control as *const () as u64;
    config[10] = u32::MAX.into();
    wdf(152, [device, address(&config), 0, 0, 0, 0]);
    let mut manual = [0_u64; 12];
    manual[0] = 96 | 3 << 32;
    wdf(152, [device, address(&manual), 0, address(&MANUAL), 0, 0]);
}

fn make_adapter(device: u64) -> i32 {
    let init = net(0, [device, 0, 0, 0]);
    mistakes::with_adapter_init(init);
    let callbacks = [24, create_tx as *const () as u64, create_rx as *const () as u64];
    net(2, [init, address(&callbacks), 0, 0]);
    let status = net(3, [init, 0, address(&ADAPTER), 0]) as i32;
    mistakes::with_used_adapter_init(init);
    net(1, [init, 0, 0, 0]);
    if status < 0 {
        return status;
    }
    mistakes::with_bare_adapter();
    let adapter = ADAPTER.load(SeqCst);
    let link_layer = [24_u64, 1 << 30, 1 << 30];
    net(6, [adapter, address(&link_layer), 0, 0]);
    net(7, [adapter, if wrong(Wrong::MtuZero) { 0 } else { 1420 }, 0, 0]);
    let tx = [56_u64, 0, u64::MAX, 1, 0, 1, 0];
    let give_back =
        if wrong(Wrong::NoReturnCallback) { 0 } else { return_buffer as *const () as u64 };
    let rx = [56 | 1 << 32, 1, BUFFER as u64, 1, give_back, 0, 0];
    net(14, [adapter, address(&tx), address(&rx), 0]);
    let checksum = [16_u64, on_cleanup as *const () as u64];
    net(93, [adapter, address(&checksum), 0, 0]);
    let link = [40_u64, 1 << 30, 1 << 30, 1 | 2 << 32, 0];
    net(15, [adapter, address(&link), 0, 0]);
    let status = net(4, [adapter, 0, 0, 0]) as i32;
    if wrong(Wrong::StartsTwice) {
        net(4, [adapter, 0, 0, 0]);
    }
    status
}

extern "win64" fn on_create(_: u64, request: u64, _: u64) {
    wdf(263, [request, 0, 0, 0, 0, 0]);
}

extern "win64" fn in_caller_context(device: u64, request: u64) {
    CREATED_BY.store(imported(CURRENT_PROCESS)(0, 0, 0, 0, 0, 0, 0) as usize, SeqCst);
    let status = wdf(91, [device, request, 0, 0, 0, 0]) as i32;
    if status < 0 {
        wdf(263, [request, status as u32 as u64, 0, 0, 0, 0]);
    }
}

/// Function codes: 0x800 doubles a byte, 0x801 waits in the manual queue, 0x802 completes what waits.
extern "win64" fn device_control(_: u64, request: u64, output: u64, input: u64, code: u64) {
    HANDLED_BY.store(imported(CURRENT_PROCESS)(0, 0, 0, 0, 0, 0, 0) as usize, SeqCst);
    let (buffer, length) = (AtomicU64::new(0), AtomicU64::new(0));
    mistakes::with_request(DEVICE.load(SeqCst), request);
    match code >> 2 & 0xFFF {
        0x800 if wrong(Wrong::KeepsRequest) => {}
        0x800 => {
            let status = wdf(269, [request, 1, address(&buffer), address(&length), 0, 0]) as i32;
            if status < 0 {
                wdf(263, [request, status as u32 as u64, 0, 0, 0, 0]);
                return;
            }
            let at = buffer.load(SeqCst) as *mut u8;
            // SAFETY: the framework gave the buffer, and says that it has a byte.
            let byte = unsafe { at.read_volatile() };
            if wdf(270, [request, 1, address(&buffer), 0, 0, 0]) as i32 >= 0 {
                let at = buffer.load(SeqCst) as *mut u8;
                // SAFETY: as above.
                unsafe { at.write_volatile(byte.wrapping_mul(2)) };
            }
            let information = if wrong(Wrong::TooMuchInformation) {
                output + 1
            } else {
                output.min(input).min(1)
            };
            wdf(265, [request, 0, information, 0, 0, 0]);
            mistakes::with_completed_request(request);
            if wrong(Wrong::CompletesTwice) {
                wdf(263, [request, 0, 0, 0, 0, 0]);
            }
        }
        0x801 => {
            let status = wdf(281, [request, MANUAL.load(SeqCst), 0, 0, 0, 0]) as i32;
            if status < 0 {
                wdf(263, [request, status as u32 as u64, 0, 0, 0, 0]);
            }
        }
        0x802 => {
            if wdf(158, [MANUAL.load(SeqCst), address(&PENDING), 0, 0, 0, 0]) as i32 >= 0 {
                wdf(263, [PENDING.load(SeqCst), 0, 0, 0, 0, 0]);
            }
            wdf(263, [request, 0, 0, 0, 0, 0]);
        }
        _ if wrong(Wrong::NullHandle) => {
            wdf(263, [0, 0, 0, 0, 0, 0]);
        }
        _ if wrong(Wrong::WrongHandle) => {
            wdf(263, [DEVICE.load(SeqCst), 0, 0, 0, 0, 0]);
        }
        _ => {
            wdf(263, [request, 0xC000_0010, 0, 0, 0, 0]);
        }
    }
}

/// Bytes of a receive buffer, and how many there are.
const BUFFER: usize = 2048;
const BUFFERS: usize = 256;
static MEMORY: [[AtomicU64; BUFFER / 8]; BUFFERS] =
    [const { [const { AtomicU64::new(0) }; BUFFER / 8] }; BUFFERS];
static LENGTHS: [AtomicU64; BUFFERS] = [const { AtomicU64::new(0) }; BUFFERS];
/// Echoed packets between the queues: `[HEAD, TAIL)`; `RETURNED` buffers are free again.
static HEAD: AtomicUsize = AtomicUsize::new(0);
static TAIL: AtomicUsize = AtomicUsize::new(0);
pub(crate) static RETURNED: AtomicUsize = AtomicUsize::new(0);

/// A ring as the driver sees it.
struct Ring(u64);

/// Packet and fragment ring of transmit, then of receive.
static RINGS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Base and stride of the addresses of transmit, those of receive, the return contexts of receive.
static SLOTS: [[AtomicU64; 5]; 4] = [const { [const { AtomicU64::new(0) }; 5] }; 4];
const TX_ADDRESS: usize = 0;
const RX_ADDRESS: usize = 1;
const RX_CONTEXT: usize = 2;
/// Of a packet.
const RX_CHECKSUM: usize = 3;
/// The IP header is right, in a `NET_PACKET_CHECKSUM`.
const CHECKSUM_VALID: u8 = 1 << 2;

/// Asks for a queue's rings, as a driver does once, in the creating callback.
fn find_rings(queue: u64, get: usize, into: usize) {
    let collection = net(get, [queue, 0, 0, 0]);
    for number in 0..2 {
        // SAFETY: a NET_RING_COLLECTION has three pointers.
        let ring = unsafe { ((collection + 8 * number) as *const u64).read() };
        RINGS[into + number as usize].store(ring, SeqCst);
    }
}

/// Asks for an extension of a fragment, or the one of a packet.
fn find_extension(queue: u64, get: usize, name: &str, into: usize) {
    let name: [u16; 28] = wide(name);
    let of: u64 = if into == RX_CHECKSUM { 1 } else { 2 };
    let query = [24, address(&name), 1 | of << 32];
    net(get, [queue, address(&query), address(&SLOTS[into]), 0]);
}

/// The slot of an extension in element `index`.
fn slot(of: usize, index: u32) -> u64 {
    SLOTS[of][0].load(SeqCst) + SLOTS[of][1].load(SeqCst) * u64::from(index)
}

impl Ring {
    fn number(number: usize) -> Self {
        Self(RINGS[number].load(SeqCst))
    }

    fn word(&self, offset: u64) -> u32 {
        // SAFETY: an index in the header of a live ring.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    fn set_begin(&self, index: u32) {
        // SAFETY: BeginIndex is the driver's.
        unsafe { ((self.0 + 48) as *mut u32).write_volatile(index) }
    }

    fn begin(&self) -> u32 {
        self.word(48)
    }

    fn end(&self) -> u32 {
        self.word(12)
    }

    fn next(&self, index: u32) -> u32 {
        index.wrapping_add(1) & self.word(8)
    }

    fn element(&self, index: u32) -> u64 {
        let stride = u64::from(self.word(0) >> 16);
        self.0 + 64 + stride * u64::from(index & self.word(8))
    }
}

fn read<T: Copy>(at: u64) -> T {
    // SAFETY: the callers pass places in live ring elements or in packets they own.
    unsafe { (at as *const T).read_unaligned() }
}

fn write<T: Copy>(at: u64, value: T) {
    // SAFETY: as in `read`, in elements the driver may write.
    unsafe { (at as *mut T).write_unaligned(value) }
}

extern "win64" fn create_tx(_: u64, init: u64) -> i32 {
    let cancel = if wrong(Wrong::QueueWithoutCancel) { 0 } else { tx_advance as *const () as u64 };
    let config =
        [56, 0, 0, tx_advance as *const () as u64, notify_tx as *const () as u64, cancel, 0];
    mistakes::with_queue_init(init, address(&config));
    let status = net(63, [init, 0, address(&config), address(&TX)]) as i32;
    if status >= 0 {
        mistakes::with_queue(init, address(&config));
        find_rings(TX.load(SeqCst), 66, 0);
        find_extension(TX.load(SeqCst), 67, "ms_fragment_virtualaddress", TX_ADDRESS);
    }
    status
}

extern "win64" fn create_rx(_: u64, init: u64) -> i32 {
    let config = [
        56,
        0,
        0,
        rx_advance as *const () as u64,
        notify_rx as *const () as u64,
        rx_cancel as *const () as u64,
        0,
    ];
    let status = net(58, [init, 0, address(&config), address(&RX)]) as i32;
    if status >= 0 {
        find_rings(RX.load(SeqCst), 61, 2);
        find_extension(RX.load(SeqCst), 62, "ms_fragment_virtualaddress", RX_ADDRESS);
        find_extension(RX.load(SeqCst), 62, "ms_fragment_returncontext", RX_CONTEXT);
        find_extension(RX.load(SeqCst), 62, "ms_packet_checksum", RX_CHECKSUM);
    }
    status
}

extern "win64" fn notify_tx(_: u64, _: u8) {}

extern "win64" fn notify_rx(_: u64, _: u8) {
    RX_ARMED.store(true, SeqCst);
    if wrong(Wrong::MovesBeginOutside) {
        let fragments = Ring::number(3);
        fragments.set_begin(fragments.next(fragments.begin()));
    }
}

extern "win64" fn tx_advance(_: u64) {
    if wrong(Wrong::KeepsTxPackets) {
        return;
    }
    let (packets, fragments) = (Ring::number(0), Ring::number(1));
    if wrong(Wrong::MovesBeginBack) && packets.begin() != packets.end() {
        packets.set_begin(packets.begin().wrapping_sub(1) & packets.word(8));
        return;
    }
    let mut at = packets.begin();
    while at != packets.end() {
        let element = packets.element(at);
        let (first, count): (u32, u16) = (read(element), read(element + 4));
        if wrong(Wrong::WritesTxPacket) {
            write(element + 11, 1_u8);
        }
        if wrong(Wrong::WritesTxData) && count > 0 {
            let data: u64 = read(slot(TX_ADDRESS, first));
            write(data, read::<u8>(data) ^ 1);
        }
        let full = TAIL.load(SeqCst) - RETURNED.load(SeqCst) >= BUFFERS;
        if !full && read::<u8>(element + 11) & 1 == 0 {
            echo(&fragments, first, count);
        }
        at = packets.next(at);
    }
    packets.set_begin(at);
    if !wrong(Wrong::ForgetsFragments) {
        fragments.set_begin(fragments.end());
    }
    if RX_ARMED.swap(false, SeqCst) {
        net(59, [RX.load(SeqCst), 0, 0, 0]);
    }
}

fn echo(fragments: &Ring, first: u32, count: u16) {
    let tail = TAIL.load(SeqCst);
    let mut to = address(&MEMORY[tail % BUFFERS]);
    let mut length = 0;
    let mut index = first;
    for _ in 0..count {
        let valid = read::<u64>(fragments.element(index)) & 0x3FF_FFFF;
        let from: u64 = read(slot(TX_ADDRESS, index));
        for byte in 0..valid {
            write(to, read::<u8>(from + byte));
            to += 1;
        }
        length += valid;
        index = fragments.next(index);
    }
    LENGTHS[tail % BUFFERS].store(length, SeqCst);
    TAIL.store(tail + 1, SeqCst);
}

extern "win64" fn rx_advance(_: u64) {
    let outside = RETURNED.load(SeqCst);
    if wrong(Wrong::WritesRxBuffer) && HEAD.load(SeqCst) > outside {
        write(address(&MEMORY[outside % BUFFERS]), 0xEE_u8);
    }
    let (packets, fragments) = (Ring::number(2), Ring::number(3));
    let (mut packet, mut fragment) = (packets.begin(), fragments.begin());
    while HEAD.load(SeqCst) != TAIL.load(SeqCst)
        && packet != packets.end()
        && fragment != fragments.end()
    {
        let head = HEAD.load(SeqCst);
        let buffer = head % BUFFERS;
        let bits = LENGTHS[buffer].load(SeqCst) | (BUFFER as u64) << 26;
        write(fragments.element(fragment), bits);
        let at = if wrong(Wrong::WildRxBuffer) { 0x1000 } else { address(&MEMORY[buffer]) };
        write(slot(RX_ADDRESS, fragment), at);
        let handle = if wrong(Wrong::LinksTwice) { 1 } else { head as u64 + 1 };
        write(slot(RX_CONTEXT, fragment), handle);
        let element = packets.element(packet);
        write(element, fragment);
        write(element + 4, 1_u16);
        write(element + 6, 0_u32);
        write(element + 10, 0_u8);
        if wrong(Wrong::LiesAboutChecksum) && SLOTS[RX_CHECKSUM][0].load(SeqCst) != 0 {
            write(slot(RX_CHECKSUM, packet), CHECKSUM_VALID);
        }
        packet = packets.next(packet);
        fragment = fragments.next(fragment);
        HEAD.store(head + 1, SeqCst);
    }
    if wrong(Wrong::LosesRxBuffer) && fragment != fragments.begin() && fragment != fragments.end() {
        // One fragment more than packets refer to.
        write(fragments.element(fragment), (BUFFER as u64) << 26);
        write(slot(RX_ADDRESS, fragment), address(&MEMORY[BUFFERS - 1]));
        write(slot(RX_CONTEXT, fragment), 0xBAD_u64);
        fragment = fragments.next(fragment);
    }
    packets.set_begin(packet);
    fragments.set_begin(fragment);
}

extern "win64" fn rx_cancel(_: u64) {
    let (packets, fragments) = (Ring::number(2), Ring::number(3));
    let mut at = packets.begin();
    while at != packets.end() {
        let flags = packets.element(at) + 11;
        write(flags, read::<u8>(flags) | 1);
        at = packets.next(at);
    }
    packets.set_begin(packets.end());
    fragments.set_begin(fragments.end());
}

extern "win64" fn return_buffer(_: u64, handle: u64) {
    if handle != 0 {
        RETURNED.fetch_add(1, SeqCst);
    }
}

/// Loads the driver: its status, or the machine's end.
pub(crate) fn load(machine: &Machine) -> Result<i32, Dead> {
    for ((dll, name), slot) in IMPORTS.iter().zip(&IMPORTED) {
        slot.store(sim::nt::address(dll, name).expect("declared") as u64, SeqCst);
    }
    let (object, path) = (machine.allocate(336), machine.unicode(&machine.service_key()));
    let call = Call::new("DriverEntry", entry as *const () as usize, Level::Passive);
    machine.call(call, &[object as u64, path as u64]).map(|status| status as i32)
}

/// Unloads it.
pub(crate) fn release(machine: &Machine) -> Result<(), Dead> {
    let path = machine.unicode(&machine.service_key());
    let call = Call::new("DriverUnload", unload as *const () as usize, Level::Passive);
    machine.call(call, &[0, path as u64]).map(drop)
}
