//! The filter engine: sessions, transactions, and the objects added in them.
//!
//! Everything a driver adds hangs on a dynamic session: when it closes, or the driver dies, nothing
//! stays behind. The engine (BFE) is a service that may not run yet, or stop: a session of before is
//! then worth nothing, and everything has to be added anew.
//!
//! Everything at `PASSIVE_LEVEL`, but for looking whether the engine runs.
//!
//! Source: DDI fwpmk; WDD network/calling-other-windows-filtering-platform-functions;
//! LEARN win32/fwp/object-management.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    fmt,
    ptr::{self, NonNull},
};

use super::Layer;
use crate::{
    irql::Passive,
    pool,
    status::{NtError, check},
    sys::fwp::{
        FWP_ACTION_CALLOUT_INSPECTION, FWP_ACTION_CALLOUT_TERMINATING, FWP_BYTE_BLOB,
        FWP_MATCH_EQUAL, FWP_UINT8, FWP_UINT16, FWP_VALUE0, FWPM_ACTION0, FWPM_CALLOUT0,
        FWPM_CONDITION_IP_LOCAL_PORT, FWPM_CONDITION_IP_PROTOCOL, FWPM_DISPLAY_DATA0,
        FWPM_FILTER_CONDITION0, FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FWPM_FILTER0,
        FWPM_PROVIDER0, FWPM_SERVICE_RUNNING, FWPM_SESSION_FLAG_DYNAMIC, FWPM_SESSION0,
        FWPM_SUBLAYER0, FwpmBfeStateGet0, FwpmBfeStateSubscribeChanges0,
        FwpmBfeStateUnsubscribeChanges0, FwpmCalloutAdd0, FwpmEngineClose0, FwpmEngineOpen0,
        FwpmFilterAdd0, FwpmFilterDeleteById0, FwpmProviderAdd0, FwpmSubLayerAdd0,
        FwpmTransactionAbort0, FwpmTransactionBegin0, FwpmTransactionCommit0, GUID,
        RPC_C_AUTHN_DEFAULT,
    },
    wdf::ControlDevice,
};

/// `IPPROTO_UDP`.
const UDP: u64 = 17;

/// The key of an object in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub u32, pub u16, pub u16, pub [u8; 8]);

impl From<Guid> for GUID {
    fn from(Guid(data1, data2, data3, data4): Guid) -> Self {
        Self { Data1: data1, Data2: data2, Data3: data3, Data4: data4 }
    }
}

/// A name that the engine shows to people: UTF-16, terminated.
#[derive(Clone, Copy, Debug)]
pub struct Text(&'static [u16]);

impl Text {
    /// Wraps what [`text`] made.
    ///
    /// # Panics
    ///
    /// When it is not terminated. Use it in a `const`.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn new(units: &'static [u16]) -> Self {
        assert!(matches!(units.last(), Some(0)));
        Self(units)
    }

    const fn display(self) -> FWPM_DISPLAY_DATA0 {
        FWPM_DISPLAY_DATA0 { name: self.0.as_ptr(), description: ptr::null() }
    }
}

/// ASCII letters as UTF-16, terminated; `N` is one more than there are.
///
/// # Panics
///
/// When `N` is not that, or a letter is not ASCII. Use it in a `const`.
///
/// # IRQL
///
/// Any.
#[must_use]
pub const fn text<const N: usize>(ascii: &str) -> [u16; N] {
    let ascii = ascii.as_bytes();
    assert!(ascii.len() + 1 == N);
    let mut units = [0; N];
    let mut at = 0;
    while at < ascii.len() {
        assert!(ascii[at].is_ascii());
        units[at] = ascii[at] as u16;
        at += 1;
    }
    units
}

/// Whether the engine runs, so that a session can be opened.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
///
/// Source: DDI fwpmk/nf-fwpmk-fwpmbfestateget0.
#[must_use]
pub fn is_running() -> bool {
    // SAFETY: only asks.
    unsafe { FwpmBfeStateGet0() == FWPM_SERVICE_RUNNING }
}

/// A dynamic session with the engine: closing it, on drop, removes everything that was added.
///
/// # Invariants
///
/// An open handle of ours.
#[derive(Debug)]
pub struct Session(NonNull<c_void>);

// SAFETY: a handle may be used from any thread, one at a time, as `&mut` sees to.
unsafe impl Send for Session {}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    ///
    /// What the engine answers, such as that it does not run.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping it.
    pub fn open(_passive: &Passive, name: Text) -> Result<Self, NtError> {
        let session = FWPM_SESSION0 {
            sessionKey: ZERO.into(),
            displayData: name.display(),
            flags: FWPM_SESSION_FLAG_DYNAMIC,
            txnWaitTimeoutInMSec: 0,
            processId: 0,
            sid: ptr::null_mut(),
            username: ptr::null_mut(),
            kernelMode: 0,
        };
        let mut handle = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; this machine, no identity, as a kernel session has to be; the
        // session and the handle's place live through the call.
        check(unsafe {
            FwpmEngineOpen0(
                ptr::null(),
                RPC_C_AUTHN_DEFAULT,
                ptr::null_mut(),
                &raw const session,
                &raw mut handle,
            )
        })?;
        // INVARIANT: just opened.
        NonNull::new(handle).map(Self).ok_or(NtError::UNSUCCESSFUL)
    }

    /// Begins a transaction: everything in it happens together, or not at all.
    ///
    /// # Errors
    ///
    /// What the engine answers, such as that another transaction did not end in time.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn begin<'s>(&'s mut self, _passive: &'s Passive) -> Result<Transaction<'s>, NtError> {
        // SAFETY: an open handle (type invariant), at PASSIVE_LEVEL; a transaction that writes.
        check(unsafe { FwpmTransactionBegin0(self.0.as_ptr(), 0) })?;
        // INVARIANT: begun, and by the unique borrow the session's only one.
        Ok(Transaction { session: self, committed: false })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: open (type invariant), closed once; sessions are dropped at PASSIVE_LEVEL. An
        // engine that has stopped fails this, and has already forgotten the session.
        let _ = unsafe { FwpmEngineClose0(self.0.as_ptr()) };
    }
}

/// What goes through a callout.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// Who provides it.
    pub provider: Guid,
    /// Among which others it is weighed.
    pub sublayer: Guid,
    /// Where it applies.
    pub layer: Layer,
    /// What it calls.
    pub callout: Guid,
    /// What the callout is told; an id, never an address.
    pub context: u64,
    /// The local UDP port it is for.
    pub port: u16,
    /// Its name.
    pub name: Text,
}

/// A transaction, undone on drop unless it was committed.
///
/// # Invariants
///
/// The session's transaction is in progress unless `committed`.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is undone"]
pub struct Transaction<'s> {
    session: &'s mut Session,
    committed: bool,
}

impl Transaction<'_> {
    /// Adds a provider: whose all other objects are.
    ///
    /// # Errors
    ///
    /// What the engine answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn add_provider(&mut self, key: Guid, name: Text) -> Result<(), NtError> {
        let provider = FWPM_PROVIDER0 {
            providerKey: key.into(),
            displayData: name.display(),
            flags: 0,
            providerData: NO_DATA,
            serviceName: ptr::null_mut(),
        };
        // SAFETY: an open handle (its invariant), at PASSIVE_LEVEL, as where the transaction began;
        // the provider lives through the call, and has the default security.
        check(unsafe { FwpmProviderAdd0(self.handle(), &raw const provider, ptr::null_mut()) })
    }

    /// Adds a sublayer of `weight`; 0 is below everything else.
    ///
    /// # Errors
    ///
    /// What the engine answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn add_sublayer(
        &mut self,
        key: Guid,
        provider: Guid,
        name: Text,
        weight: u16,
    ) -> Result<(), NtError> {
        let provider = provider.into();
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: key.into(),
            displayData: name.display(),
            flags: 0,
            providerKey: &raw const provider,
            providerData: NO_DATA,
            weight,
        };
        // SAFETY: as in `add_provider`.
        check(unsafe { FwpmSubLayerAdd0(self.handle(), &raw const sublayer, ptr::null_mut()) })
    }

    /// Adds a callout, which the driver has registered under `key`.
    ///
    /// # Errors
    ///
    /// What the engine answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn add_callout(
        &mut self,
        key: Guid,
        provider: Guid,
        layer: Layer,
        name: Text,
    ) -> Result<(), NtError> {
        let provider = provider.into();
        let callout = FWPM_CALLOUT0 {
            calloutKey: key.into(),
            displayData: name.display(),
            flags: 0,
            providerKey: &raw const provider,
            providerData: NO_DATA,
            applicableLayer: layer.key(),
            calloutId: 0,
        };
        // SAFETY: as in `add_provider`; the number is not asked for.
        check(unsafe {
            FwpmCalloutAdd0(self.handle(), &raw const callout, ptr::null_mut(), ptr::null_mut())
        })
    }

    /// Adds a filter; returns its number, to delete it by.
    ///
    /// It permits what it matches while its callout is not registered.
    ///
    /// # Errors
    ///
    /// What the engine answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn add_filter(&mut self, filter: &Filter) -> Result<u64, NtError> {
        let provider = filter.provider.into();
        let equal = |field: GUID, kind, value| FWPM_FILTER_CONDITION0 {
            fieldKey: field,
            matchType: FWP_MATCH_EQUAL,
            conditionValue: FWP_VALUE0 { kind, value },
        };
        let conditions = [
            equal(FWPM_CONDITION_IP_PROTOCOL, FWP_UINT8, UDP),
            equal(FWPM_CONDITION_IP_LOCAL_PORT, FWP_UINT16, filter.port.into()),
        ];
        let raw = FWPM_FILTER0 {
            filterKey: ZERO.into(),
            displayData: filter.name.display(),
            flags: FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
            providerKey: &raw const provider,
            providerData: NO_DATA,
            layerKey: filter.layer.key(),
            subLayerKey: filter.sublayer.into(),
            weight: EMPTY,
            numFilterConditions: conditions.len() as u32,
            filterCondition: conditions.as_ptr(),
            action: FWPM_ACTION0 {
                kind: if filter.layer.is_inbound() {
                    FWP_ACTION_CALLOUT_TERMINATING
                } else {
                    FWP_ACTION_CALLOUT_INSPECTION
                },
                calloutKey: filter.callout.into(),
            },
            rawContext: filter.context,
            UnusedContext: 0,
            reserved: ptr::null_mut(),
            filterId: 0,
            effectiveWeight: EMPTY,
        };
        let mut number = 0;
        // SAFETY: as in `add_provider`; the conditions live through the call as well.
        check(unsafe {
            FwpmFilterAdd0(self.handle(), &raw const raw, ptr::null_mut(), &raw mut number)
        })?;
        Ok(number)
    }

    /// Deletes a filter by the number that [`Transaction::add_filter`] returned.
    ///
    /// # Errors
    ///
    /// What the engine answers, such as that there is no such filter.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn delete_filter(&mut self, number: u64) -> Result<(), NtError> {
        // SAFETY: an open handle (its invariant), at PASSIVE_LEVEL.
        check(unsafe { FwpmFilterDeleteById0(self.handle(), number) })
    }

    /// Makes everything that was done in the transaction happen.
    ///
    /// # Errors
    ///
    /// What the engine answers; nothing has happened then.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn commit(mut self) -> Result<(), NtError> {
        // SAFETY: a transaction in progress (type invariant), at PASSIVE_LEVEL.
        check(unsafe { FwpmTransactionCommit0(self.handle()) })?;
        self.committed = true;
        Ok(())
    }

    const fn handle(&self) -> *mut c_void {
        self.session.0.as_ptr()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // SAFETY: in progress (type invariant). An engine that has stopped fails this, and has
            // undone it already.
            let _ = unsafe { FwpmTransactionAbort0(self.handle()) };
        }
    }
}

/// No key: the engine makes one.
const ZERO: Guid = Guid(0, 0, 0, [0; 8]);
/// No value: the engine chooses the weight.
const EMPTY: FWP_VALUE0 = FWP_VALUE0 { kind: 0, value: 0 };
const NO_DATA: FWP_BYTE_BLOB = FWP_BYTE_BLOB { size: 0, data: ptr::null_mut() };

/// Who is told that the engine starts or stops.
pub trait EngineEvents: Send + Sync + 'static {
    /// The engine's state has changed; `runs` says whether it runs now.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn changed(&self, runs: bool);
}

/// A subscription to the engine's starting and stopping; ends on drop.
///
/// # Invariants
///
/// `handle` is a subscription of ours with `events` as its context.
pub struct EngineStates<E: EngineEvents> {
    handle: NonNull<c_void>,
    /// Only kept: what the subscription refers to.
    _events: Box<E>,
}

// SAFETY: a subscription belongs to no thread.
unsafe impl<E: EngineEvents> Send for EngineStates<E> {}
// SAFETY: nothing can be done with a shared one.
unsafe impl<E: EngineEvents> Sync for EngineStates<E> {}

impl<E: EngineEvents> EngineStates<E> {
    /// Has `events` told of every change from now on.
    ///
    /// # Errors
    ///
    /// What the platform answers: memory is short.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result, which waits for calls in progress (inferred: the
    /// page does not say so, and nothing else could end them).
    ///
    /// Source: DDI fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0.
    pub fn subscribe(
        _passive: &Passive,
        device: &ControlDevice,
        events: E,
    ) -> Result<Self, NtError> {
        let events = pool::try_box(events)?;
        let mut handle = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; a live device object; the context stays where it is until the
        // subscription has ended (`drop`).
        check(unsafe {
            FwpmBfeStateSubscribeChanges0(
                device.device_object(),
                changed::<E>,
                ptr::from_ref::<E>(&events).cast_mut().cast(),
                &raw mut handle,
            )
        })?;
        // INVARIANT: just made.
        let handle = NonNull::new(handle).ok_or(NtError::UNSUCCESSFUL)?;
        Ok(Self { handle, _events: events })
    }
}

impl<E: EngineEvents> Drop for EngineStates<E> {
    fn drop(&mut self) {
        // SAFETY: ours (type invariant), ended once, at PASSIVE_LEVEL. It cannot fail for a handle
        // that is one.
        let ended = unsafe { FwpmBfeStateUnsubscribeChanges0(self.handle.as_ptr()) };
        debug_assert!(ended == 0);
    }
}

impl<E: EngineEvents> fmt::Debug for EngineStates<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineStates")
    }
}

/// `FWPM_SERVICE_STATE_CHANGE_CALLBACK0`.
unsafe extern "system" fn changed<E: EngineEvents>(context: *mut c_void, state: u32) {
    // SAFETY: the context is the events, which outlive the subscription (`EngineStates::drop`).
    let events = unsafe { &*context.cast::<E>() };
    events.changed(state == FWPM_SERVICE_RUNNING);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_terminated_utf16() {
        const UNITS: [u16; 4] = text("Gif");
        assert_eq!(UNITS, [71, 105, 102, 0]);
        assert_eq!(Text::new(&UNITS).0.len(), 4);
    }
}
