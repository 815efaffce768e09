//! The driver's registration with WSK.
//!
//! WSK keeps pointers to the registration and to the client's dispatch table for as long as the
//! registration lives, so they are statics: never moved, never freed. There is one registration per
//! driver, for all its sockets.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    irql::Passive,
    status::{NtError, check},
    sys::wsk::{
        WSK_CLIENT_DISPATCH, WSK_CLIENT_NPI, WSK_PROVIDER_NPI, WSK_REGISTRATION, WSK_TDI_BEHAVIOR,
        WSK_TDI_BEHAVIOR_BYPASS_TDI, WSK_VERSION_1_0, WskCaptureProviderNPI, WskDeregister,
        WskRegister, WskReleaseProviderNPI,
    },
};

/// How long to wait for the network stack. A driver that is started on demand finds it there; one
/// that is started at boot must not hold the boot up for ever.
const CAPTURE_TIMEOUT_MILLISECONDS: u32 = 10_000;

/// What WSK refers to while the driver is registered.
struct Resident {
    taken: AtomicBool,
    client_npi: UnsafeCell<WSK_CLIENT_NPI>,
    registration: UnsafeCell<WSK_REGISTRATION>,
}

// SAFETY: the cells are written by WSK alone, between WskRegister and WskDeregister, which only the
// one `Provider` that set `taken` calls.
unsafe impl Sync for Resident {}

static CLIENT_DISPATCH: WSK_CLIENT_DISPATCH =
    WSK_CLIENT_DISPATCH { Version: WSK_VERSION_1_0, Reserved: 0, WskClientEvent: None };

static RESIDENT: Resident = Resident {
    taken: AtomicBool::new(false),
    client_npi: UnsafeCell::new(WSK_CLIENT_NPI {
        ClientContext: ptr::null_mut(),
        Dispatch: &raw const CLIENT_DISPATCH,
    }),
    registration: UnsafeCell::new(WSK_REGISTRATION {
        ReservedRegistrationState: 0,
        ReservedRegistrationContext: ptr::null_mut(),
        ReservedRegistrationLock: 0,
    }),
};

/// The driver as a client of WSK; released and deregistered on drop.
///
/// Dropping it waits until every socket is closed. So sockets are dropped first; the other order
/// does not return.
///
/// # Invariants
///
/// `RESIDENT` is registered and its provider captured, once, by this value.
#[derive(Debug)]
pub struct Provider {
    npi: WSK_PROVIDER_NPI,
}

// SAFETY: WSK's client object and dispatch table may be used from any thread.
unsafe impl Send for Provider {}
// SAFETY: the same, at the same time.
unsafe impl Sync for Provider {}

impl Provider {
    /// Registers the driver and waits, at most ten seconds, for WSK to be ready.
    ///
    /// # Errors
    ///
    /// [`NtError::DEVICE_NOT_READY`] when it was not, or when the driver is registered already;
    /// otherwise what WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result.
    ///
    /// Source: wsk/nf-wsk-wskregister, wsk/nf-wsk-wskcaptureprovidernpi.
    pub fn register(_level: &Passive) -> Result<Self, NtError> {
        // Acquire pairs with the Release of `deregister`: the last registration is over.
        if RESIDENT.taken.swap(true, Ordering::Acquire) {
            return Err(NtError::DEVICE_NOT_READY);
        }
        let registration = RESIDENT.registration.get();
        // SAFETY: at PASSIVE_LEVEL; both are static, and `taken` makes this the one registration.
        let status = unsafe { WskRegister(RESIDENT.client_npi.get(), registration) };
        if let Err(error) = check(status) {
            RESIDENT.taken.store(false, Ordering::Release);
            return Err(error);
        }
        let mut npi = MaybeUninit::uninit();
        // SAFETY: registered above; at PASSIVE_LEVEL a wait is allowed.
        let status = unsafe {
            WskCaptureProviderNPI(registration, CAPTURE_TIMEOUT_MILLISECONDS, npi.as_mut_ptr())
        };
        if let Err(error) = check(status) {
            deregister();
            return Err(error);
        }
        // SAFETY: a capture that succeeds fills it in.
        let npi = unsafe { npi.assume_init() };
        // INVARIANT: registered and captured.
        let provider = Self { npi };
        provider.bypass_tdi();
        Ok(provider)
    }

    /// Asks WSK to leave out TDI filters, on whose path packet information is lost.
    ///
    /// The answer does not matter: without such filters there is nothing to leave out.
    ///
    /// Source: network/wsk-tdi-behavior.
    fn bypass_tdi(&self) {
        let mut behavior = WSK_TDI_BEHAVIOR_BYPASS_TDI;
        // SAFETY: by the type invariant the provider is captured, so its table is valid.
        let control = unsafe { (*self.npi.Dispatch).WskControlClient };
        // SAFETY: this request is documented to take no IRP, and to read its input before it
        // returns; no socket exists yet.
        let _ = unsafe {
            control(
                self.npi.Client,
                WSK_TDI_BEHAVIOR,
                size_of_val(&behavior),
                (&raw mut behavior).cast::<c_void>(),
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
    }

    /// The captured provider, valid while this value lives.
    pub(super) const fn npi(&self) -> WSK_PROVIDER_NPI {
        self.npi
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // SAFETY: by the type invariant captured once, and no call into WSK is made after this.
        unsafe { WskReleaseProviderNPI(RESIDENT.registration.get()) };
        deregister();
    }
}

/// Ends the registration and lets the next one be made.
fn deregister() {
    // SAFETY: called by whoever registered, once, at PASSIVE_LEVEL and with no capture left.
    unsafe { WskDeregister(RESIDENT.registration.get()) };
    // Release pairs with the Acquire in `register`.
    RESIDENT.taken.store(false, Ordering::Release);
}
