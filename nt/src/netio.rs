//! The IP helper: the forwarding table, an interface's metric, source addresses, and news of change.
//!
//! Everything here talks to another component and may page: `PASSIVE_LEVEL`, but for reading the
//! generation. Addresses are [`SockaddrInet`] bytes; who asks knows how to read them.
//!
//! News of change comes as a number that grows. The callbacks only count, in a static, because they
//! may run before the registration has returned its handle, and because the kernel's page of
//! `CancelMibChangeNotify2` does not promise that none is running when it returns: there is no
//! memory of ours that such a late one could miss.

use core::{
    ffi::c_void,
    mem::{self, MaybeUninit},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

pub use crate::sys::wsk::SOCKADDR_INET as SockaddrInet;
use crate::{
    irql::Passive,
    status::{NtError, check},
    sys::netio::{
        CancelMibChangeNotify2, FreeMibTable, GetBestRoute2, GetIpForwardTable2,
        GetIpInterfaceEntry, MIB_IPFORWARD_ROW2, MIB_IPFORWARD_TABLE2, MIB_IPINTERFACE_ROW,
        NotifyIpInterfaceChange, NotifyRouteChange2,
    },
};

/// `AF_UNSPEC`: both families.
const AF_UNSPEC: u16 = 0;

/// A copy of the forwarding table of one family.
///
/// # Invariants
///
/// `table` is what `GetIpForwardTable2` returned and has not been freed; `None` stands for an empty
/// table that NT did not return.
#[derive(Debug)]
pub struct ForwardTable {
    table: Option<NonNull<MIB_IPFORWARD_TABLE2>>,
}

/// One row of a [`ForwardTable`].
#[derive(Clone, Copy, Debug)]
pub struct ForwardRow {
    /// LUID of the interface the route leaves by.
    pub luid: u64,
    /// Index of that interface.
    pub interface: u32,
    /// The destinations it is for.
    pub prefix: SockaddrInet,
    /// How many bits of `prefix` count.
    pub prefix_length: u8,
    /// The route's part of the metric.
    pub metric: u32,
}

impl ForwardTable {
    /// Copies the table of `family`, which may be empty.
    ///
    /// # Errors
    ///
    /// What `GetIpForwardTable2` answers: memory is short, or the family is not installed.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: network/getipforwardtable2.
    pub fn get(_level: &Passive, family: u16) -> Result<Self, NtError> {
        let mut table = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; `table` is valid for the write of one pointer.
        let status = unsafe { GetIpForwardTable2(family, &raw mut table) };
        match check(status) {
            // INVARIANT: what the call returned, to be freed on drop.
            Ok(()) => Ok(Self { table: NonNull::new(table) }),
            // Some builds say so of a table without rows.
            Err(NtError::NOT_FOUND) => Ok(Self { table: None }),
            Err(error) => Err(error),
        }
    }

    /// The rows, in NT's order.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn rows(&self) -> impl Iterator<Item = ForwardRow> {
        self.raw_rows().iter().map(|row| ForwardRow {
            luid: row.InterfaceLuid,
            interface: row.InterfaceIndex,
            prefix: row.DestinationPrefix.Prefix,
            prefix_length: row.DestinationPrefix.PrefixLength,
            metric: row.Metric,
        })
    }

    /// The rows as they lie in the table.
    fn raw_rows(&self) -> &[MIB_IPFORWARD_ROW2] {
        let Some(table) = self.table else { return &[] };
        // SAFETY: by the type invariant the table is live.
        let count = unsafe { (*table.as_ptr()).NumEntries };
        // SAFETY: the same; the address of a field, formed without a reference, because the table
        // goes on behind the one row its type declares.
        let first = unsafe { &raw const (*table.as_ptr()).Table };
        // SAFETY: NT put `NumEntries` rows there, and changes none of them until they are freed.
        unsafe { slice::from_raw_parts(first.cast(), count as usize) }
    }
}

impl Drop for ForwardTable {
    fn drop(&mut self) {
        if let Some(table) = self.table {
            // SAFETY: by the type invariant NT's own allocation, freed once.
            unsafe { FreeMibTable(table.as_ptr().cast()) };
        }
    }
}

/// What matters of an IP interface.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Its part of every metric of its routes.
    pub metric: u32,
    /// Whether it is up and attached to a network.
    pub connected: bool,
}

/// Reads the interface `luid` in `family`.
///
/// # Errors
///
/// [`NtError::NOT_FOUND`] when it is gone; otherwise what NT answers.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: network/getipinterfaceentry.
pub fn interface(level: &Passive, family: u16, luid: u64) -> Result<Interface, NtError> {
    let row = interface_row(level, family, luid, 0)?;
    Ok(Interface { metric: row.Metric, connected: row.Connected != 0 })
}

/// The longest packet of `family`, in bytes with its IP header, that the interface of this index sends without
/// cutting it (`NlMtu`); 0 if NT does not say.
///
/// A change of it is a change of the interface, which [`generation`] counts.
///
/// # Errors
///
/// [`NtError::NOT_FOUND`] when it is gone; otherwise what NT answers.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: network/mib-ipinterface-row; network/notifyipinterfacechange ("changes to all IP interfaces"), on
/// which WireGuard for Windows relies for the MTU (`tunnel/mtumonitor.go`).
pub fn interface_mtu(level: &Passive, family: u16, index: u32) -> Result<u32, NtError> {
    interface_row(level, family, 0, index).map(|row| row.NlMtu)
}

/// The row of an interface, by its LUID or, if that is 0, its index.
fn interface_row(
    _level: &Passive,
    family: u16,
    luid: u64,
    index: u32,
) -> Result<MIB_IPINTERFACE_ROW, NtError> {
    // SAFETY: integers and bytes only, for which zero is a value; it says "not given" to NT.
    let mut row: MIB_IPINTERFACE_ROW = unsafe { mem::zeroed() };
    row.Family = family;
    row.InterfaceLuid = luid;
    row.InterfaceIndex = index;
    // SAFETY: at PASSIVE_LEVEL; the row is whole, its keys set and the rest zero, as asked for.
    check(unsafe { GetIpInterfaceEntry(&raw mut row) })?;
    Ok(row)
}

/// The source address NT would take towards `destination` by the interface `luid`.
///
/// With `source`, it has to be that address.
///
/// # Errors
///
/// What NT answers: no route by that interface, or `source` is not an address to use there.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`.
///
/// Source: network/getbestroute2. An interface is always given: whether the kernel's form works
/// without one is not documented.
pub fn best_source(
    _level: &Passive,
    luid: u64,
    source: Option<&SockaddrInet>,
    destination: &SockaddrInet,
) -> Result<SockaddrInet, NtError> {
    let mut route = MaybeUninit::<MIB_IPFORWARD_ROW2>::zeroed();
    let mut best = SockaddrInet([0; 28]);
    // SAFETY: at PASSIVE_LEVEL; every pointer but `source`, which may be null, is to a live value
    // of its type, and those written to are ours.
    let status = unsafe {
        GetBestRoute2(
            &raw const luid,
            0,
            source.map_or(ptr::null(), ptr::from_ref),
            destination,
            0,
            route.as_mut_ptr(),
            &raw mut best,
        )
    };
    check(status).map(|()| best)
}

/// Counts every change of a route or an IP interface. Starts at one: zero is "never".
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// How many changes there have been: what was found out under another number may be stale.
///
/// # IRQL
///
/// Any.
#[must_use]
pub fn generation() -> u64 {
    // Acquire pairs with the Release of `advance`: who sees the number sees what it counts.
    GENERATION.load(Ordering::Acquire)
}

/// Declares everything found out so far stale.
///
/// # IRQL
///
/// Any.
pub fn advance() {
    // Release pairs with the Acquire of `generation`.
    GENERATION.fetch_add(1, Ordering::Release);
}

/// A subscription to changes, which counts them in [`generation`]; ends on drop.
///
/// # Invariants
///
/// Each handle is a registration of ours that has not been cancelled.
#[derive(Debug)]
pub struct Changes {
    interfaces: NonNull<c_void>,
    routes: NonNull<c_void>,
}

// SAFETY: a registration belongs to no thread.
unsafe impl Send for Changes {}
// SAFETY: nothing can be done with a shared one.
unsafe impl Sync for Changes {}

impl Changes {
    /// Subscribes, for both families.
    ///
    /// # Errors
    ///
    /// What the registration answers: memory is short.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result.
    ///
    /// Source: network/notifyroutechange2, network/notifyipinterfacechange.
    pub fn subscribe(_level: &Passive) -> Result<Self, NtError> {
        let mut routes = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; the callback touches nothing but a static, and is part of the
        // driver's image, which outlives the registration (cancelled on drop).
        let status = unsafe {
            NotifyRouteChange2(AF_UNSPEC, route_changed, ptr::null_mut(), 0, &raw mut routes)
        };
        check(status)?;
        let routes = NonNull::new(routes).ok_or(NtError::UNSUCCESSFUL)?;
        let mut interfaces = ptr::null_mut();
        // SAFETY: the same.
        let status = unsafe {
            NotifyIpInterfaceChange(
                AF_UNSPEC,
                interface_changed,
                ptr::null_mut(),
                0,
                &raw mut interfaces,
            )
        };
        match check(status).and(NonNull::new(interfaces).ok_or(NtError::UNSUCCESSFUL)) {
            // INVARIANT: both registrations succeeded.
            Ok(interfaces) => Ok(Self { interfaces, routes }),
            Err(error) => {
                // SAFETY: registered above, cancelled once, at PASSIVE_LEVEL.
                let _ = unsafe { CancelMibChangeNotify2(routes.as_ptr()) };
                Err(error)
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        for handle in [self.interfaces, self.routes] {
            // SAFETY: by the type invariant, each once; no lock is held that a callback takes,
            // because the callbacks take none. A handle that NT does not know any more (the only
            // failure) needs no cancelling.
            let _ = unsafe { CancelMibChangeNotify2(handle.as_ptr()) };
        }
    }
}

/// `PIPFORWARD_CHANGE_CALLBACK`.
unsafe extern "C" fn route_changed(_: *mut c_void, _: *mut MIB_IPFORWARD_ROW2, _: i32) {
    advance();
}

/// `PIPINTERFACE_CHANGE_CALLBACK`.
unsafe extern "C" fn interface_changed(_: *mut c_void, _: *mut MIB_IPINTERFACE_ROW, _: i32) {
    advance();
}
