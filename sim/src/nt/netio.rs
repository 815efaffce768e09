//! IP Helper in the kernel: routes, interfaces, and word of their changes.
//!
//! Everything is answered from the snapshot of the network under the machine
//! ([`Outer::tables`](crate::host::Outer::tables)). The one interface the network cannot know is
//! the driver's own adapter: [`adopt`] says which of the network's interfaces it is, so that its
//! rows carry the LUID that NetAdapterCx gave it.
//!
//! Notifications come on a thread of their own, at PASSIVE, with only the key fields of the row
//! filled; cancelling waits for a running callback, and doing it inside one is a stop.
//!
//! Source: `facts/wsk.md` 9; WDD network/getbestroute2, network/notifyroutechange2.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use crate::host::Outer;
use crate::host::routes::{Change, Interface, Route, Tables};
use crate::loader::probe;
use crate::nt::machine::Machine;
use crate::nt::thread::{Call, Level, Thread};
use crate::nt::wsk::{self, layout};
use crate::nt::{behaviours, imports};
use crate::verifier::report::Leak;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

const SUCCESS: i32 = 0;
const INVALID_PARAMETER: i32 = 0xC000_000D_u32 as i32;
const NOT_FOUND: i32 = 0xC000_0225_u32 as i32;
const INSUFFICIENT_RESOURCES: i32 = 0xC000_009A_u32 as i32;
const NETWORK_UNREACHABLE: i32 = 0xC000_023C_u32 as i32;

/// Bytes of a `MIB_IPFORWARD_ROW2` and of a `MIB_IPINTERFACE_ROW`.
const FORWARD_ROW: usize = 104;
const INTERFACE_ROW: usize = 168;
/// Where the rows of a `MIB_IPFORWARD_TABLE2` begin.
const TABLE_HEAD: usize = 8;

imports! {
    pub(crate) static IMPORTS: "netio.sys";

    /// Allocates the table of routes of one family, or of both.
    [max: PASSIVE, mark: Documented, source: "WDD network/getipforwardtable2", fail: INSUFFICIENT_RESOURCES]
    fn GetIpForwardTable2(thread, family: u16, table: usize) -> i32 {
        let Some(ipv6) = families(family) else { return INVALID_PARAMETER };
        let (machine, netio) = (thread.machine(), netio(thread.machine()));
        let tables = tables(machine);
        let wanted = |route: &&Route| ipv6.is_none_or(|ipv6| route.destination.address.is_ipv6() == ipv6);
        let rows: Vec<_> = tables.routes.iter().filter(wanted).map(|r| netio.forward_row(&tables, r)).collect();
        if rows.is_empty() {
            return NOT_FOUND;
        }
        let made = machine.allocate(TABLE_HEAD + rows.len() * FORWARD_ROW);
        lock(&netio.tables).push(made);
        let written = probe::write(made, rows.len() as u32)
            .and_then(|()| probe::write_bytes(made + TABLE_HEAD, &rows.concat()))
            .and_then(|()| probe::write(table, made));
        if written.is_err() {
            return thread.bad_pointer("Table", table);
        }
        SUCCESS
    }

    /// Frees what a table function allocated.
    [max: PASSIVE, mark: Documented, source: "WDD network/freemibtable"]
    fn FreeMibTable(thread, table: usize) {
        let netio = netio(thread.machine());
        let known = lock(&netio.tables).iter().position(|made| *made == table);
        match known {
            Some(at) => {
                lock(&netio.tables).swap_remove(at);
                thread.machine().release(table);
            }
            None => thread.stop(&rules::IP_HELPER_TABLE, format!("{table:#x} is no table, or was freed")),
        }
    }

    /// The best route to an address over one interface, and the source address for it.
    [max: PASSIVE, mark: Documented, source: "WDD network/getbestroute2"]
    fn GetBestRoute2(
        thread, luid: usize, index: u32, source: usize, destination: usize, sort: u32, row: usize, best: usize,
    ) -> i32 {
        let (machine, netio) = (thread.machine(), netio(thread.machine()));
        let destination = probe::bytes(destination, layout::SOCKADDR_LEN).ok().and_then(|bytes| {
            // SAFETY: `bytes` has room for either family.
            unsafe { layout::read_address(bytes.as_ptr()) }
        });
        let luid = if luid == 0 { Ok(0) } else { probe::read::<u64>(luid) };
        let (Some(destination), Ok(luid)) = (destination, luid) else { return INVALID_PARAMETER };
        if row == 0 || best == 0 || (luid == 0 && index == 0) {
            return INVALID_PARAMETER;
        }
        let tables = tables(machine);
        let Some(interface) = netio.find(&tables, luid, index) else { return NOT_FOUND };
        let to = destination.ip();
        let Some(route) = tables.best_route(to, Some(interface.index)) else { return NETWORK_UNREACHABLE };
        let asked = probe::bytes(source, layout::SOCKADDR_LEN).ok().filter(|_| source != 0).and_then(|bytes| {
            // SAFETY: as above.
            unsafe { layout::read_address(bytes.as_ptr()) }
        });
        let from = match asked.map(|asked| asked.ip()).filter(|asked| !asked.is_unspecified()) {
            Some(asked) => Some(asked).filter(|asked| tables.owner(*asked).is_some()),
            None => tables.source(route, to),
        };
        if from.is_none() {
            return NETWORK_UNREACHABLE;
        }
        let written = probe::write_bytes(row, &netio.forward_row(&tables, route))
            .and_then(|()| probe::write_bytes(best, &layout::ip_bytes(from, to.is_ipv6())));
        if written.is_err() {
            return thread.bad_pointer("BestRoute or BestSourceAddress", row);
        }
        SUCCESS
    }

    /// Fills in the row of one interface and family.
    [max: PASSIVE, mark: Documented, source: "WDD network/getipinterfaceentry"]
    fn GetIpInterfaceEntry(thread, row: usize) -> i32 {
        let netio = netio(thread.machine());
        let family = probe::read::<u16>(row);
        let luid = probe::read::<u64>(row + 8);
        let index = probe::read::<u32>(row + 16);
        let (Ok(family), Ok(luid), Ok(index)) = (family, luid, index) else {
            return thread.bad_pointer("Row", row);
        };
        if !matches!(family, layout::AF_INET | layout::AF_INET6) {
            return INVALID_PARAMETER;
        }
        let tables = tables(thread.machine());
        let Some(interface) = netio.find(&tables, luid, index) else { return NOT_FOUND };
        let filled = netio.interface_row(interface, family);
        if probe::write_bytes(row, &filled).is_err() {
            return thread.bad_pointer("Row", row);
        }
        SUCCESS
    }

    /// Asks to be called when a route changes.
    [max: PASSIVE, mark: Documented, source: "WDD network/notifyroutechange2", fail: INSUFFICIENT_RESOURCES]
    fn NotifyRouteChange2(thread, family: u16, callback: usize, context: u64, initial: u8, handle: usize) -> i32 {
        subscribe(thread, Subject::Routes, (family, callback, context, initial), handle)
    }

    /// Asks to be called when an interface changes.
    [max: PASSIVE, mark: Documented, source: "WDD network/notifyipinterfacechange", fail: INSUFFICIENT_RESOURCES]
    fn NotifyIpInterfaceChange(thread, family: u16, callback: usize, context: u64, initial: u8, handle: usize) -> i32 {
        subscribe(thread, Subject::Interfaces, (family, callback, context, initial), handle)
    }

    /// Ends a subscription; waits for its running callback.
    [max: PASSIVE, mark: Inferred, source: "WDD network/cancelmibchangenotify2: that it waits is said of user mode", point: true]
    fn CancelMibChangeNotify2(thread, handle: usize) -> i32 {
        if handle == 0 {
            return INVALID_PARAMETER;
        }
        let (machine, netio) = (thread.machine(), netio(thread.machine()));
        let Some(gone) = lock(&netio.subscriptions).remove(&handle) else {
            thread.stop(&rules::IP_HELPER_NOTIFICATION, format!("{handle:#x} is no handle"));
            return 0;
        };
        gone.cancelled.store(true, Ordering::SeqCst);
        machine.release(handle);
        if lock(&gone.runs_on).is_some_and(|id| id == std::thread::current().id()) {
            thread.stop(&rules::DEADLOCK_CHANGE_NOTIFICATION, "called inside the callback it waits for");
            return 0;
        }
        let idle = || lock(&gone.runs_on).is_none().then_some(());
        let deadline = machine.world().now() + std::time::Duration::from_secs(20);
        if machine.wait(gone.key(), Some(deadline), "CancelMibChangeNotify2", idle).is_err() && !machine.is_dead() {
            thread.stop(&rules::DEADLOCK_CHANGE_NOTIFICATION, "the callback it waits for does not return");
        }
        SUCCESS
    }
}

behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A notification's row has its key fields filled and nothing else.
    [mark: Documented, source: "WDD network/notifyroutechange2"] NOTIFICATION_ROW_IS_ITS_KEY;
    /// Notifications of one registration never overlap.
    [mark: Inferred, source: "facts/wsk.md 9"] NOTIFICATIONS_ARE_SERIAL;
    /// The initial notification comes before the registering call returns, or soon after it.
    [mark: Unknown, source: "facts/wsk.md 9"] INITIAL_NOTIFICATION_IS_SYNCHRONOUS;
    /// A source address that is not local has no best route.
    [mark: Inferred, source: "facts/wsk.md 9"] FOREIGN_SOURCE_HAS_NO_ROUTE;
    /// No route at all is STATUS_NETWORK_UNREACHABLE.
    [mark: Inferred, source: "facts/wsk.md 9"] NO_ROUTE_IS_UNREACHABLE;
}

/// What a subscription is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Routes,
    Interfaces,
}

/// One registered callback.
struct Subscription {
    subject: Subject,
    ipv6: Option<bool>,
    callback: usize,
    context: u64,
    cancelled: AtomicBool,
    /// The host thread inside the callback.
    runs_on: Mutex<Option<std::thread::ThreadId>>,
}

/// A callback to make: row (none for the initial one) and `MIB_NOTIFICATION_TYPE`.
type Note = (Arc<Subscription>, Option<Vec<u8>>, u32);

/// IP Helper of one machine.
#[derive(Default)]
pub(crate) struct Netio {
    tables: Mutex<Vec<usize>>,
    subscriptions: Mutex<FxHashMap<usize, Arc<Subscription>>>,
    notes: Mutex<Vec<Note>>,
    /// LUIDs of the driver's own adapters, by interface index.
    adopted: Mutex<FxHashMap<u32, u64>>,
}

fn netio(machine: &Machine) -> Arc<Netio> {
    machine.extension::<Netio>()
}

/// Says that the network's interface `index` is the driver's adapter `luid`.
pub fn adopt(machine: &Machine, index: u32, luid: u64) {
    lock(&netio(machine).adopted).insert(index, luid);
}

/// Takes back what [`adopt`] said.
pub fn disown(machine: &Machine, index: u32) {
    lock(&netio(machine).adopted).remove(&index);
}

/// Joins the machine's IP Helper to the network under it; once, before the driver is loaded.
pub fn attach(machine: &Machine, outer: &Arc<dyn Outer>) {
    let weak = machine.weak();
    outer.watch(Box::new(move |before, after| {
        if let Some(machine) = weak.upgrade() {
            netio(&machine).changed(&machine, before, after);
        }
    }));
    machine.background("netio", |machine| {
        let netio = self::netio(machine);
        while !machine.is_off() && !machine.is_dead() {
            let next = || if machine.is_off() { Some(None) } else { netio.first_note().map(Some) };
            if let Ok(Some(note)) = machine.wait(netio.key(), None, "IP Helper notifications", next)
            {
                netio.deliver(machine, note);
            }
        }
    });
    machine.at_unload(|machine, leaks| {
        let netio = self::netio(machine);
        let tables = lock(&netio.tables).len();
        if tables > 0 {
            leaks.push(Leak::new("IP Helper", format!("{tables} tables not freed")));
        }
        let left = lock(&netio.subscriptions).len();
        if left > 0 {
            leaks
                .push(Leak::new("IP Helper", format!("{left} change notifications not cancelled")));
        }
    });
}

fn tables(machine: &Machine) -> Arc<Tables> {
    wsk::wsk(machine).outer().map(|outer| outer.tables()).unwrap_or_default()
}

/// The family a caller asked for: none is both.
fn families(family: u16) -> Option<Option<bool>> {
    match family {
        0 => Some(None),
        layout::AF_INET => Some(Some(false)),
        layout::AF_INET6 => Some(Some(true)),
        _ => None,
    }
}

fn subscribe(thread: &Thread, subject: Subject, what: (u16, usize, u64, u8), handle: usize) -> i32 {
    let (family, callback, context, initial) = what;
    let Some(ipv6) = families(family) else { return INVALID_PARAMETER };
    let (machine, netio) = (thread.machine(), netio(thread.machine()));
    let made = machine.allocate(16);
    let subscription = Arc::new(Subscription {
        subject,
        ipv6,
        callback,
        context,
        cancelled: AtomicBool::new(false),
        runs_on: Mutex::new(None),
    });
    lock(&netio.subscriptions).insert(made, subscription.clone());
    if initial != 0 {
        let note = (subscription, None, 3);
        if machine.either(&INITIAL_NOTIFICATION_IS_SYNCHRONOUS) {
            netio.deliver(machine, note);
        } else {
            lock(&netio.notes).push(note);
            machine.world().wake(netio.key());
        }
    }
    if probe::write(handle, made).is_err() {
        return thread.bad_pointer("NotificationHandle", handle);
    }
    SUCCESS
}

impl Subscription {
    fn key(&self) -> Key {
        Key::of(&self.runs_on)
    }
}

impl Netio {
    fn key(&self) -> Key {
        Key::of(&self.notes)
    }

    fn first_note(&self) -> Option<Note> {
        let mut notes = lock(&self.notes);
        (!notes.is_empty()).then(|| notes.remove(0))
    }

    fn luid(&self, interface: &Interface) -> u64 {
        lock(&self.adopted).get(&interface.index).copied().unwrap_or(interface.luid)
    }

    /// The interface a caller means: the LUID wins over the index.
    fn find<'t>(&self, tables: &'t Tables, luid: u64, index: u32) -> Option<&'t Interface> {
        tables
            .interfaces
            .iter()
            .find(|i| if luid != 0 { self.luid(i) == luid } else { i.index == index })
    }

    /// Turns a change of the network's tables into notes.
    fn changed(&self, machine: &Machine, before: &Tables, after: &Tables) {
        let mut notes = Vec::new();
        let all: Vec<_> = lock(&self.subscriptions).values().cloned().collect();
        for subscription in all {
            match subscription.subject {
                Subject::Routes => {
                    for (route, change) in after.route_changes(before) {
                        if subscription
                            .ipv6
                            .is_none_or(|v6| route.destination.address.is_ipv6() == v6)
                        {
                            let tables = if change == Change::Deleted { before } else { after };
                            let row = key_of_forward(self.forward_row(tables, &route));
                            notes.push((subscription.clone(), Some(row), kind(change)));
                        }
                    }
                }
                Subject::Interfaces => {
                    for (interface, change) in after.interface_changes(before) {
                        for family in [layout::AF_INET, layout::AF_INET6] {
                            if subscription.ipv6.is_none_or(|v6| v6 == (family == layout::AF_INET6))
                            {
                                let row = key_of_interface(&self.interface_row(&interface, family));
                                notes.push((subscription.clone(), Some(row), kind(change)));
                            }
                        }
                    }
                }
            }
        }
        lock(&self.notes).extend(notes);
        machine.world().wake(self.key());
    }

    /// Makes one callback, unless it was cancelled.
    fn deliver(&self, machine: &Machine, (subscription, row, kind): Note) {
        *lock(&subscription.runs_on) = Some(std::thread::current().id());
        if !subscription.cancelled.load(Ordering::SeqCst) {
            let copy = row.as_ref().map_or(0, |row| {
                let copy = machine.allocate(row.len());
                let _ = probe::write_bytes(copy, row);
                copy
            });
            let call =
                Call::new("IP Helper change notification", subscription.callback, Level::Passive);
            // A machine that died has its report; there is nobody to tell here.
            let _ = machine.call(call, &[subscription.context, copy as u64, kind.into()]);
            machine.release(copy);
        }
        *lock(&subscription.runs_on) = None;
        machine.world().wake(subscription.key());
    }

    /// A `MIB_IPFORWARD_ROW2`.
    fn forward_row(&self, tables: &Tables, route: &Route) -> [u8; FORWARD_ROW] {
        let mut row = [0; FORWARD_ROW];
        let ipv6 = route.destination.address.is_ipv6();
        let luid = tables.interface(route.interface).map_or(0, |interface| self.luid(interface));
        put(&mut row, 0, &luid.to_le_bytes());
        put(&mut row, 8, &route.interface.to_le_bytes());
        put(&mut row, 12, &layout::ip_bytes(Some(route.destination.address), ipv6));
        put(&mut row, 40, &[route.destination.length]);
        put(&mut row, 44, &layout::ip_bytes(route.next_hop, ipv6));
        put(&mut row, 76, &u32::MAX.to_le_bytes());
        put(&mut row, 80, &u32::MAX.to_le_bytes());
        put(&mut row, 84, &route.metric.to_le_bytes());
        put(&mut row, 88, &3_u32.to_le_bytes()); // MIB_IPPROTO_NETMGMT
        let loopback = route.destination.address == IpAddr::from([127, 0, 0, 0]);
        put(&mut row, 92, &[u8::from(loopback), 0, 0, 1]);
        row
    }

    /// A `MIB_IPINTERFACE_ROW`.
    fn interface_row(&self, interface: &Interface, family: u16) -> [u8; INTERFACE_ROW] {
        let mut row = [0; INTERFACE_ROW];
        put(&mut row, 0, &family.to_le_bytes());
        put(&mut row, 8, &self.luid(interface).to_le_bytes());
        put(&mut row, 16, &interface.index.to_le_bytes());
        put(&mut row, 148, &interface.metric.to_le_bytes());
        put(&mut row, 152, &interface.mtu.to_le_bytes());
        put(&mut row, 156, &[u8::from(interface.up)]);
        row
    }
}

/// The part of a route's row that identifies it.
fn key_of_forward(mut row: [u8; FORWARD_ROW]) -> Vec<u8> {
    row[72..].fill(0);
    row.to_vec()
}

/// The part of an interface's row that identifies it.
fn key_of_interface(row: &[u8; INTERFACE_ROW]) -> Vec<u8> {
    let mut key = vec![0; INTERFACE_ROW];
    key[..20].copy_from_slice(&row[..20]);
    key
}

/// `MIB_NOTIFICATION_TYPE`.
fn kind(change: Change) -> u32 {
    match change {
        Change::Parameter => 0,
        Change::Added => 1,
        Change::Deleted => 2,
    }
}

fn put(row: &mut [u8], at: usize, bytes: &[u8]) {
    row[at..at + bytes.len()].copy_from_slice(bytes);
}
