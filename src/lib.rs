//! The driver: builds the layers, joins them, and nothing else.
//!
//! So far it binds to the framework and takes no device.
#![no_std]

use core::ffi::c_void;

use nt::{
    irql::Passive,
    status::{NtError, to_status},
    wdf::{DeviceInit, DriverEvents, Entry},
};

#[global_allocator]
static ALLOCATOR: nt::pool::PoolAllocator = nt::pool::PoolAllocator;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    nt::bugcheck::panic(info)
}

/// Everything the driver builds.
struct Driver;

impl DriverEvents for Driver {
    fn device_add(&self, _init: DeviceInit, _passive: &mut Passive) -> Result<(), NtError> {
        Err(NtError::NOT_SUPPORTED)
    }
}

/// Where the framework's entry point hands over to us.
///
/// # Safety
///
/// Called once, at `PASSIVE_LEVEL`, with the driver object and the path of its registry key.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(driver: *mut c_void, registry: *const c_void) -> i32 {
    // SAFETY: the caller's promise.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: the caller's promise; used up before we return.
    let entry = unsafe { Entry::new(driver.cast(), registry.cast()) };
    to_status(entry.create(&mut passive, |_driver, _passive| Ok(Driver)))
}
