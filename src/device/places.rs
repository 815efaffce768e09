//! Where a debugger finds what an adapter is made of.

use core::mem::offset_of;

use abi::{descriptor::Places, places};
use callout::Outside;
use crypto::sync::{RwSpinLock, Shared};
use nt::mutex::Mutex;

use super::{Control, Device};
use crate::ends::Outer;

impl Device {
    /// The adapter.
    pub(crate) const PLACES: Places = places!(
        "Device",
        shared = Shared::<Self>::VALUE,
        tunnel,
        counters,
        handshakes,
        service,
        sockets = offset_of!(Self, sockets) + RwSpinLock::<Option<Shared<Outside<Outer>>>>::VALUE,
        failures,
        errands,
        waits_since,
        luid,
        port = offset_of!(Self, control) + Mutex::<Control>::VALUE + offset_of!(Control, port),
    );
}
