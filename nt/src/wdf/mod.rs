//! KMDF objects: driver, device, queue, request, parameters key.
//!
//! The framework calls a driver through tables of functions and hands it untyped handles. Here a
//! driver implements two traits instead, [`DriverEvents`] and [`DeviceEvents`], whose values *are*
//! the contexts of the objects: the trampolines beside each registration find the value behind the
//! handle, make the IRQL token their callback is documented to have, and call the trait. So nothing
//! above this crate sees a handle's bits, and nothing above it is `unsafe` but `DriverEntry`.
//!
//! Handles ([`Device`], [`Queue`], ...) are plain values, valid while the framework keeps the object:
//! a device's and its queues' until its [`DeviceEvents::cleanup`] returns. [`Request`] is owned, and completed exactly once.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/wdf/>

pub(crate) mod context;
mod control_device;
mod device;
mod driver;
mod events;
mod queue;
mod registry;
mod request;
mod unicode;

pub use control_device::ControlDevice;
pub use device::{Device, DeviceInit, InterfaceClass};
pub use driver::{DriverEvents, Entry};
pub use events::{DeviceEvents, PowerState};
pub use queue::Queue;
pub use registry::ParametersKey;
pub use request::{Control, File, Request, RequestorMode};

/// Calls a function of the KMDF table.
macro_rules! call {
    ($name:ident $(, $argument:expr)* $(,)?) => {{
        $crate::wdf::assume_table();
        wdk_sys::call_unsafe_wdf_function_binding!($name $(, $argument)*)
    }};
}
use call;

/// How many functions the KMDF table must have: up to the last that this crate calls.
const FUNCTIONS: usize = wdk_sys::_WDFFUNCENUM::WdfRequestForwardToIoQueueTableIndex as usize + 1;

/// How many functions the KMDF table has.
fn functions() -> usize {
    // SAFETY: the entry object wrote it before any code of ours ran, and nobody writes now.
    unsafe { wdk_sys::WdfFunctionCount as usize }
}

/// Has the compiler know that the table is long enough, so that `wdk-sys` looks for no function beyond it, which would be a
/// panic wherever one is called.
///
/// # Safety
///
/// [`Entry::create`] has found it so.
#[inline(always)]
unsafe fn assume_table() {
    // SAFETY: the caller's promise; the table does not change.
    unsafe { core::hint::assert_unchecked(functions() >= FUNCTIONS) };
}
