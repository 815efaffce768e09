//! The driver's callouts: their registration, and the way a packet comes in.
//!
//! One registration for the whole driver, because a classify is told nothing but a number that the
//! filter carries: what it leads to is found through one static, which is read, like everything a
//! classify reads, at `DISPATCH_LEVEL` and without a lock. Unregistering is tried until it succeeds;
//! then the static is cleared, and after a grace period nobody is inside any more, whatever the
//! platform waits for itself (its page does not say).
//!
//! Every callout allows every offload: one that did not would slow the whole machine.
//!
//! Source: DDI fwpsk/nf-fwpsk-fwpscalloutregister2, fwpsk/nf-fwpsk-fwpscalloutunregisterbyid0,
//! fwpsk/ns-fwpsk-fwps_callout2_.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    fmt,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
    time::Duration,
};

use wdk_sys::{NTSTATUS, STATUS_SUCCESS};

use super::{
    Guid,
    classify::{Classify, Raw},
};
use crate::{
    event::{Event, Kind},
    irql::{AtMostDispatch, Dispatch, Passive},
    pool,
    rcu::Reclaimer,
    shared::Shared,
    status::{NtError, check},
    sys::fwp::{
        FWP_CALLOUT_FLAG_ALLOW_OFFLOAD, FWP_CALLOUT_FLAG_ALLOW_RSC, FWP_CALLOUT_FLAG_ALLOW_URO,
        FWP_CALLOUT_FLAG_ALLOW_USO, FWPM_LAYER_INBOUND_TRANSPORT_V4,
        FWPM_LAYER_INBOUND_TRANSPORT_V6, FWPM_LAYER_OUTBOUND_TRANSPORT_V4,
        FWPM_LAYER_OUTBOUND_TRANSPORT_V6, FWPS_CALLOUT_CLASSIFY_FN2, FWPS_CALLOUT2,
        FWPS_CLASSIFY_OUT0, FWPS_FILTER2, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0,
        FwpsCalloutRegister2, FwpsCalloutUnregisterById0, GUID, STATUS_DEVICE_BUSY,
        STATUS_FWP_IN_USE,
    },
    wdf::ControlDevice,
};

/// Where packets are met: the transport layer, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// IPv4, from the network; the data start is behind the UDP header.
    InboundV4,
    /// IPv6, from the network; the data start is behind the UDP header.
    InboundV6,
    /// IPv4, from a socket; the data start is the UDP header.
    OutboundV4,
    /// IPv6, from a socket; the data start is the UDP header.
    OutboundV6,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::InboundV4, Self::InboundV6, Self::OutboundV4, Self::OutboundV6];

    /// Whether packets come from the network here.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_inbound(self) -> bool {
        matches!(self, Self::InboundV4 | Self::InboundV6)
    }

    /// Whether packets are IPv4 here.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        matches!(self, Self::InboundV4 | Self::OutboundV4)
    }

    /// The layer's key in the engine.
    pub(super) fn key(self) -> GUID {
        match self {
            Self::InboundV4 => FWPM_LAYER_INBOUND_TRANSPORT_V4,
            Self::InboundV6 => FWPM_LAYER_INBOUND_TRANSPORT_V6,
            Self::OutboundV4 => FWPM_LAYER_OUTBOUND_TRANSPORT_V4,
            Self::OutboundV6 => FWPM_LAYER_OUTBOUND_TRANSPORT_V6,
        }
    }
}

/// The keys of the driver's callouts, by layer, in the order of [`Layer::ALL`].
#[derive(Clone, Copy, Debug)]
pub struct Keys(pub [Guid; 4]);

/// Who judges packets.
pub trait Classifier: Send + Sync + 'static {
    /// Answers for one packet, on any CPU, on several at once: absorbs it or lets it pass.
    ///
    /// May be called inside a call into the stack. Takes no lock and needs little stack.
    ///
    /// # IRQL
    ///
    /// `DISPATCH_LEVEL`, to which it was raised.
    fn classify(&self, packet: Classify<'_>, level: &Dispatch<'_>);
}

/// The way from the one static to the one classifier, whatever its type.
struct Entrance {
    classifier: *const (),
    /// Calls the classifier, which is of the type that this is an instance for.
    classify: unsafe fn(*const (), Classify<'_>, &Dispatch<'_>),
}

/// Null while no callouts are registered.
static ENTRANCE: AtomicPtr<Entrance> = AtomicPtr::new(ptr::null_mut());

/// The four callouts of the driver, unregistered on drop.
///
/// # Invariants
///
/// [`ENTRANCE`] leads to `entrance` and from there to `classifier`; `ids` are those of callouts that
/// are registered.
pub struct Callouts<C: Classifier> {
    ids: [Option<u32>; 4],
    entrance: Box<Entrance>,
    classifier: Box<C>,
    reclaimer: Shared<Reclaimer>,
    /// Never set: only to wait.
    pause: Event,
}

// SAFETY: what it refers to is its own, and `Send` and `Sync` by the trait.
unsafe impl<C: Classifier> Send for Callouts<C> {}
// SAFETY: the same.
unsafe impl<C: Classifier> Sync for Callouts<C> {}

impl<C: Classifier> Callouts<C> {
    /// Registers a callout at each layer, under `keys`.
    ///
    /// # Errors
    ///
    /// [`NtError::OBJECT_NAME_COLLISION`] when the driver has callouts already, or what the platform
    /// answers; nothing is left behind.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result, which waits for packets that are being judged.
    /// The device outlives it.
    pub fn register(
        passive: &Passive,
        device: &ControlDevice,
        reclaimer: &Shared<Reclaimer>,
        keys: Keys,
        classifier: C,
    ) -> Result<Self, NtError> {
        let classifier = pool::try_box(classifier)?;
        let entrance = pool::try_box(Entrance {
            classifier: ptr::from_ref::<C>(&classifier).cast(),
            classify: enter::<C>,
        })?;
        let pause = Event::try_new(Kind::Notification)?;
        let address = ptr::from_ref::<Entrance>(&entrance).cast_mut();
        ENTRANCE
            .compare_exchange(ptr::null_mut(), address, Ordering::Release, Ordering::Relaxed)
            .map_err(|_| NtError::OBJECT_NAME_COLLISION)?;
        // INVARIANT: the static leads here; dropped by `?` below, what was registered goes again.
        let reclaimer = reclaimer.clone();
        let mut callouts = Self { ids: [None; 4], entrance, classifier, reclaimer, pause };
        for (at, key) in keys.0.into_iter().enumerate() {
            callouts.ids[at] = Some(register(passive, device, key, CLASSIFY[at])?);
        }
        Ok(callouts)
    }

    /// Who judges the packets.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn classifier(&self) -> &C {
        &self.classifier
    }
}

impl<C: Classifier> Drop for Callouts<C> {
    fn drop(&mut self) {
        // SAFETY: callouts are dropped at PASSIVE_LEVEL (`register`).
        let passive = unsafe { Passive::assume() };
        for id in self.ids.iter_mut().filter_map(Option::take) {
            // A driver must not go on before this has succeeded.
            while let Err(busy) = unregister(&passive, id) {
                if !is_busy(busy) {
                    break;
                }
                let _never_set = self.pause.wait_for(&passive, RETRY);
            }
        }
        ENTRANCE.store(ptr::null_mut(), Ordering::Release);
        // Whoever found the way in before is out when this returns.
        self.reclaimer.barrier(&passive);
        let _ = &self.entrance;
    }
}

impl<C: Classifier> fmt::Debug for Callouts<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callouts")
    }
}

/// How long to wait before unregistering is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Whether unregistering is to be tried again.
fn is_busy(error: NtError) -> bool {
    [STATUS_DEVICE_BUSY, STATUS_FWP_IN_USE].contains(&error.status().cast_unsigned())
}

fn register(
    _passive: &Passive,
    device: &ControlDevice,
    key: Guid,
    classify: FWPS_CALLOUT_CLASSIFY_FN2,
) -> Result<u32, NtError> {
    let callout = FWPS_CALLOUT2 {
        calloutKey: key.into(),
        flags: FWP_CALLOUT_FLAG_ALLOW_OFFLOAD
            | FWP_CALLOUT_FLAG_ALLOW_RSC
            | FWP_CALLOUT_FLAG_ALLOW_USO
            | FWP_CALLOUT_FLAG_ALLOW_URO,
        classifyFn: Some(classify),
        notifyFn: Some(notify),
        // No flow has a context of ours, so none is ever deleted.
        flowDeleteFn: ptr::null(),
    };
    let mut id = 0;
    // SAFETY: at PASSIVE_LEVEL; a live device object; the callout lives through the call, and its
    // routines as long as the driver, which unregisters them.
    check(unsafe {
        FwpsCalloutRegister2(device.device_object(), &raw const callout, &raw mut id)
    })?;
    Ok(id)
}

fn unregister(_passive: &Passive, id: u32) -> Result<(), NtError> {
    // SAFETY: at PASSIVE_LEVEL; only asks.
    check(unsafe { FwpsCalloutUnregisterById0(id) })
}

/// `FWPS_CALLOUT_NOTIFY_FN2`: filters come and go as they like.
unsafe extern "system" fn notify(_: i32, _: *const GUID, _: *mut FWPS_FILTER2) -> NTSTATUS {
    STATUS_SUCCESS
}

/// What is registered at each layer, in the order of [`Layer::ALL`].
const CLASSIFY: [FWPS_CALLOUT_CLASSIFY_FN2; 4] =
    [classify::<0>, classify::<1>, classify::<2>, classify::<3>];

/// `FWPS_CALLOUT_CLASSIFY_FN2` of the layer with the index `LAYER`.
unsafe extern "system" fn classify<const LAYER: usize>(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _context: *const c_void,
    filter: *const FWPS_FILTER2,
    _flow: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    let raw = Raw { values, metadata, layer_data, filter, out };
    // SAFETY: classifies run at or below DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // First of all, so that what is found on the way stays until the end.
    level.pinned(|level| {
        // SAFETY: the parameters of this classify, at the layer it is registered at.
        let Some(packet) = (unsafe { Classify::new(Layer::ALL[LAYER], &raw) }) else { return };
        // Acquire pairs with the exchange in `register`.
        match NonNull::new(ENTRANCE.load(Ordering::Acquire)) {
            // SAFETY: it leads where `Callouts` says, and stays until a grace period after it was
            // cleared; none ends while this CPU is at DISPATCH_LEVEL.
            Some(entrance) => unsafe { through(entrance, packet, level) },
            None => packet.permit(),
        }
    });
}

/// # Safety
///
/// The entrance is live, and stays so for the call.
unsafe fn through(entrance: NonNull<Entrance>, packet: Classify<'_>, level: &Dispatch<'_>) {
    // SAFETY: the caller's promise.
    let &Entrance { classifier, classify } = unsafe { entrance.as_ref() };
    // SAFETY: `register` paired the two.
    unsafe { classify(classifier, packet, level) };
}

/// # Safety
///
/// `classifier` is a live `C`.
unsafe fn enter<C: Classifier>(classifier: *const (), packet: Classify<'_>, level: &Dispatch<'_>) {
    // SAFETY: the caller's promise.
    let classifier = unsafe { &*classifier.cast::<C>() };
    classifier.classify(packet, level);
}
