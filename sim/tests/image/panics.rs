//! What runs at `DISPATCH_LEVEL`, the data path before all: that it cannot panic.

use std::collections::BTreeMap;

use crate::code::{self, Code, is_crate, is_panic};

/// The data path's beginnings, each of which is to be there: what NDIS, NetAdapterCx, WFP and WSK call, our DPCs and their threads.
const DATA_PATH: [&str; 12] = [
    "evt_advance<",
    "evt_cancel<",
    "evt_set_notification",
    "return_rx_buffer<",
    "fwp::callout::classify<",
    "fwp::callout::enter<",
    "injection::complete<",
    "interception::drain<",
    "processors::serve(",
    "thread::run<penstock::processors::",
    "socket::receive_from_event<",
    "socket::send_completed<",
];

/// What is called at `PASSIVE_LEVEL`, and is not looked at: start and stop, control requests, handshakes.
const PASSIVE: [&str; 8] = [
    "FxDriverEntry(",
    "evt_driver_device_add<",
    "evt_adapter_create_rx_queue<",
    "evt_adapter_create_tx_queue<",
    "evt_cleanup<penstock::control::Context>",
    "evt_io_device_control<",
    "evt_io_in_caller_context<",
    "thread::run<penstock::workers::",
];

/// The one function that stops the machine on purpose: where memory is not what we left it.
const STOP: &str = "nt::bugcheck::impossible(";

#[test]
fn the_data_path_reaches_no_panic() {
    let code = Code::read();
    let named = |at: &u32, parts: &[&str]| parts.iter().any(|part| code.name(*at).contains(part));
    let entries = code.entries();
    for part in DATA_PATH.iter().chain(&PASSIVE) {
        assert!(entries.iter().any(|at| named(at, &[*part])), "Windows calls no {part}");
    }
    let entries: Vec<u32> = entries.into_iter().filter(|at| !named(at, &PASSIVE)).collect();
    let ends = |name: &str| is_panic(name) || is_crate(name) || name.starts_with(STOP);
    let reached = code.reach(&entries, ends);
    println!("{} functions from {} entries", reached.len(), entries.len());
    assert!(code.named(STOP).len() == 1 && reached.len() > 300, "what has become of the others?");
    let sites: BTreeMap<u32, (u32, u32)> = (reached.keys())
        .flat_map(|own| code.0[own].sites.iter().map(|(at, to)| (*at, (*own, *to))))
        .filter(|(_, (_, to))| code.0.get(to).is_some_and(|target| is_panic(&target.name)))
        .collect();
    for ((at, (own, to)), lines) in sites.iter().zip(code::lines(sites.keys().copied())) {
        println!("{} at {at:#x}", code.name(*to));
        code.way(&reached, *own).iter().for_each(|name| println!("    in {name:.150}"));
        lines.iter().for_each(|line| println!("        {line}"));
    }
    assert!(sites.is_empty(), "{} panics", sites.len());
}
