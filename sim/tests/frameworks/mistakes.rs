//! The driver's mistakes that are one call each, by the place they are made at.

use super::driver::{
    ADAPTER, DEVICE, TX, Wrong, address, foreign, net, on_cleanup, wdf, wide, wrong,
};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

fn mistake(which: Wrong, call: impl FnOnce() -> u64) {
    if wrong(which) {
        call();
    }
}

/// In `EvtDriverDeviceAdd`, before there is a device.
pub(crate) fn with_device_init(init: u64) {
    let file = [40, 0, 0, 0, 2_u64 << 32];
    mistake(Wrong::TakesFsContext, || wdf(71, [init, address(&file), 0, 0, 0, 0]));
    mistake(Wrong::NoFileConfig, || wdf(71, [init, 0, 0, 0, 0, 0]));
    mistake(Wrong::FreesDeviceInit, || wdf(54, [init, 0, 0, 0, 0, 0]));
    mistake(Wrong::ForeignGlobals, || foreign(71, [init, address(&file)]));
}

/// With the device that was made of `init`.
pub(crate) fn with_device(init: u64) {
    let device = DEVICE.load(SeqCst);
    mistake(Wrong::UsesDeviceInitLate, || net(46, [init, 0, 0, 0]));
    mistake(Wrong::FinishesPnpDevice, || wdf(27, [device, 0, 0, 0, 0, 0]));
}

/// With a request that the driver has been given by a queue, and with one that it has completed.
pub(crate) fn with_request(device: u64, request: u64) {
    mistake(Wrong::EnqueuesPresented, || wdf(91, [device, request, 0, 0, 0, 0]));
    mistake(Wrong::CompletesPending, || wdf(263, [request, 0x103, 0, 0, 0, 0]));
}

/// After it has completed it.
pub(crate) fn with_completed_request(request: u64) {
    let buffer = AtomicU64::new(0);
    mistake(Wrong::UsesCompletedRequest, || wdf(269, [request, 1, address(&buffer), 0, 0, 0]));
}

/// While an adapter is being made; before its callbacks are set.
pub(crate) fn with_adapter_init(init: u64) {
    let out = AtomicU64::new(0);
    let (short, none) = ([16_u64, 0, 0], [24_u64, 0, 0]);
    mistake(Wrong::ShortStructure, || net(2, [init, address(&short), 0, 0]));
    mistake(Wrong::NoCallbacks, || net(2, [init, address(&none), 0, 0]));
    mistake(Wrong::NoAdapterInit, || net(3, [init + 1, 0, address(&out), 0]));
    mistake(Wrong::NoPlaceForAdapter, || net(3, [init, 0, 0, 0]));
    mistake(Wrong::ForeignNetGlobals, || {
        super::driver::foreign_net(3, [init, 0, address(&out), 0])
    });
}

/// After the adapter was made, before its token is freed.
pub(crate) fn with_used_adapter_init(init: u64) {
    let out = AtomicU64::new(0);
    mistake(Wrong::SecondAdapter, || net(3, [init, 0, address(&out), 0]));
}

/// Before an adapter has declared anything.
pub(crate) fn with_bare_adapter() {
    let adapter = ADAPTER.load(SeqCst);
    let (out, config) = (AtomicU64::new(0), [56_u64; 7]);
    mistake(Wrong::StartsBare, || net(4, [adapter, 0, 0, 0]));
    mistake(Wrong::QueueOutside, || net(63, [1, 0, address(&config), address(&out)]));
    mistake(Wrong::NoSuchOffload, || net(94, [77, 0, 0, 0]));
    let link = [40_u64, 0, 0, 9, 0];
    mistake(Wrong::NoSuchLink, || net(15, [adapter, address(&link), 0, 0]));
    let rx = [56_u64 | 1 << 32, 1, 2048, 1, 1, 0, 0];
    let (none, odd) = ([56_u64, 0, 0, 0, 0, 0, 0], [56_u64, 0, u64::MAX, 3, 0, 1, 0]);
    mistake(Wrong::TransmitsNothing, || net(14, [adapter, address(&none), address(&rx), 0]));
    mistake(Wrong::OddAlignment, || net(14, [adapter, address(&odd), address(&rx), 0]));
    let callback = on_cleanup as *const () as u64;
    let (nothing, zero) = ([40_u64, 0, 0, 1, callback], [40_u64 | 1 << 32, 1, 0, 0, callback]);
    mistake(Wrong::CutsNothing, || net(97, [adapter, address(&nothing), 0, 0]));
    let refuse = refuse as *const () as u64;
    let scaling = [88_u64, 1, 128, 0, 1 << 32, 1, 0, refuse, refuse, refuse, refuse];
    mistake(Wrong::RefusesScaling, || net(57, [adapter, address(&scaling), 0, 0]));
    mistake(Wrong::CutsIntoNone, || net(97, [adapter, address(&zero), 0, 0]));
}

/// In `EvtAdapterCreateTxQueue`, before and after the queue is made.
pub(crate) fn with_queue_init(init: u64, config: u64) {
    let out = AtomicU64::new(0);
    let parent = [56_u64, 0, 0, 1 << 32 | 1, DEVICE.load(SeqCst), 0, 0];
    mistake(Wrong::ForeignQueueInit, || net(63, [init + 1, 0, config, address(&out)]));
    mistake(Wrong::QueueWithParent, || net(63, [init, address(&parent), config, address(&out)]));
}

/// With both queues: in the callback that made the second one.
pub(crate) fn with_queue(init: u64, config: u64) {
    let (out, extension) = (AtomicU64::new(0), [const { AtomicU64::new(0) }; 5]);
    let queue = TX.load(SeqCst);
    mistake(Wrong::SecondQueue, || net(63, [init, 0, config, address(&out)]));
    mistake(Wrong::QueueOfOtherKind, || net(61, [queue, 0, 0, 0]));
    let name: [u16; 28] = wide("ms_fragment_virtualaddress");
    let (of_packet, of_none) =
        ([24, address(&name), 1 | 1 << 32], [24, address(&name), 1 | 7 << 32]);
    mistake(Wrong::ExtensionOfOtherRing, || {
        net(67, [queue, address(&of_packet), address(&extension), 0])
    });
    mistake(Wrong::ExtensionOfNothing, || {
        net(67, [queue, address(&of_none), address(&extension), 0])
    });
}

/// A callback that answers STATUS_UNSUCCESSFUL.
extern "win64" fn refuse(_: u64) -> i32 {
    0xC000_0001_u32.cast_signed()
}
