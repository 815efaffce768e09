//! A capture sees what passes through an adapter, outside always and inside by policy, within its bounds, and ends with its handle.
//!
//! ```text
//!             inside                outside
//!   10.9.0.1 ── tap ──┌───────┐── tap ───────── 192.0.2.1 ═══ beta
//!                     │ alpha │
//!   another program ──┤ handle│ START_CAPTURE, READ_CAPTURE, close
//!                     └───────┘
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use abi::capture::{
    Answer, BUFFER_MIN, Count, Counts, Head, INNER, OUTER, Place, SNAP_MAX, Start, record_len,
};
use abi::ioctl::{READ_CAPTURE, START_CAPTURE};
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{PORT, Pair, Station};
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::nt::wdf::requestor::FileHandle;

use crate::machines::accounting::Ledger;
use crate::machines::{self, Load};

const NOT_BY_POLICY: i32 = 0xC000_0364_u32.cast_signed();
const BUSY: i32 = 0x8000_0011_u32.cast_signed();
const NOT_YOURS: i32 = 0xC000_0184_u32.cast_signed();

const ALL: Start =
    Start { what: OUTER | INNER, snap: SNAP_MAX, buffer: 1 << 20, per_second: 1_000_000 };

const ALL_OUTER: Start = Start { what: OUTER, ..ALL };
/// Between two packets of a load.
const SOON: Duration = Duration::from_micros(500);

/// What an answer has.
struct Seen {
    counts: Counts,
    records: Vec<(Head, Vec<u8>)>,
}

fn handle(station: &Station) -> FileHandle {
    let process = Process::start("tracer", Token::administrator());
    let device = station.tunnel().handle().device();
    station.tunnel().machine().open_device(device, &process).unwrap()
}

fn start(handle: &FileHandle, start: &Start) -> Result<(), i32> {
    let (status, written) = handle.device_io_control(START_CAPTURE, &start.encode(), &mut []);
    assert_eq!(written, 0);
    if status == 0 { Ok(()) } else { Err(status) }
}

fn read(handle: &FileHandle, of: &Start) -> Result<Seen, i32> {
    let mut buffer = vec![0xA5; of.answer_len()];
    let (status, written) = handle.device_io_control(READ_CAPTURE, &[], &mut buffer);
    if status != 0 {
        return Err(status);
    }
    let answer = Answer::parse(&buffer[..written as usize]).unwrap();
    let records = answer.records().map(|record| (record.head, record.bytes.to_vec())).collect();
    Ok(Seen { counts: answer.counts, records })
}

fn tracing(station: &Station, what: &Start) -> FileHandle {
    let handle = handle(station);
    start(&handle, what).unwrap();
    handle
}

/// How many there are of each place.
fn places(seen: &Seen) -> BTreeMap<u8, u64> {
    let mut places = BTreeMap::new();
    for (head, _) in &seen.records {
        *places.entry(head.place as u8).or_default() += 1;
    }
    places
}

#[test]
fn datagrams_and_packets_are_seen_as_they_pass() {
    let options = machines::with_policy(Policy::TraceInner, 1);
    machines::with_pair_of(1, &options, |pair| {
        let handle = tracing(&pair.alpha, &ALL);
        let counted = |counter| Ledger::of(&pair.alpha).counter(counter);
        let before = [Counter::DatagramsIn, Counter::DatagramsOut, Counter::PacketsIn].map(counted);
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.beta, &pair.alpha);
        // What answers itself, keepalives and the like.
        pair.world.sleep(Duration::from_secs(15));
        let seen = read(&handle, &ALL).unwrap();
        let after = [Counter::DatagramsIn, Counter::DatagramsOut, Counter::PacketsIn].map(counted);
        let of = |place: Place| places(&seen).get(&(place as u8)).copied().unwrap_or(0);
        assert_eq!(
            [of(Place::OuterIn), of(Place::OuterOut), of(Place::InnerIn)],
            [after[0] - before[0], after[1] - before[1], after[2] - before[2]]
        );
        assert_eq!(of(Place::InnerOut), 4, "two pings and two answers");
        let total = seen.records.len() as u64;
        let (outer, inner) = (seen.counts.outer, seen.counts.inner);
        assert_eq!((outer.seen + inner.seen, outer.missed, inner.missed), (total, 0, 0));
        // The first handshake was ours: an initiation, its response, and data both ways.
        for (place, kind, len) in [
            (Place::OuterOut, 1, Some(148)),
            (Place::OuterIn, 2, Some(92)),
            (Place::OuterOut, 4, None),
            (Place::OuterIn, 4, None),
        ] {
            let found = seen.records.iter().find(|(head, bytes)| {
                head.place == place && bytes[0] == kind && bytes[1..4] == [0; 3]
            });
            let (head, bytes) = found.unwrap_or_else(|| panic!("no message {kind}, {place:?}"));
            assert_eq!(bytes.len(), head.original as usize);
            assert!(len.is_none_or(|len| bytes.len() == len), "{} bytes", bytes.len());
            let (local, remote) = (head.local.unwrap(), head.remote.unwrap());
            assert_eq!((local.port(), remote.port()), (PORT, PORT));
            assert!(pair.beta.outer().contains(&remote.ip()), "{remote}");
            // An initiation may leave before it is known from where.
            let known = local.ip().is_unspecified() || pair.alpha.outer().contains(&local.ip());
            assert!(known, "{local}");
        }
        let echo = seen.records.iter().find(|(head, _)| head.place == Place::InnerOut).unwrap();
        assert_eq!((echo.0.local, echo.0.remote), (None, None));
        let [to] = [pair.beta.inner()[0]].map(|ip| match ip {
            std::net::IpAddr::V4(ip) => ip.octets(),
            std::net::IpAddr::V6(_) => unreachable!(),
        });
        assert_eq!((echo.1[0], &echo.1[16..20]), (0x45, &to[..]), "IPv4, to beta");
        let times = seen.records.iter().map(|(head, _)| head.time_100ns);
        let now = 10_000_000 * 1_600_000_000;
        assert!(times.clone().is_sorted() && times.clone().all(|time| time > now), "{times:?}");
        // All of it was given once.
        assert_eq!(read(&handle, &ALL).unwrap().records.len(), 0);
        handle.close();
    });
}

#[test]
fn the_inside_is_seen_by_policy_alone() {
    machines::with_pair(2, |pair| {
        let alpha = &pair.alpha;
        let handle = handle(alpha);
        for what in [INNER, INNER | OUTER] {
            assert_eq!(start(&handle, &Start { what, ..ALL }), Err(NOT_BY_POLICY));
        }
        let outer = Start { what: OUTER, ..ALL };
        start(&handle, &outer).unwrap();
        machines::ping(alpha, &pair.beta);
        let seen = read(&handle, &outer).unwrap();
        assert!(places(&seen).keys().all(|place| *place < 2) && seen.records.len() > 4);
        assert_eq!(seen.counts.inner, Count::default());
        handle.close();
        let allow = |value| alpha.tunnel().set_policy(&[(Policy::TraceInner, value)]).unwrap();
        allow(Some(1));
        let inner = Start { what: INNER, ..ALL };
        let handle = tracing(alpha, &inner);
        machines::ping(alpha, &pair.beta);
        let seen = read(&handle, &inner).unwrap();
        assert!(places(&seen).keys().eq(&[2, 3]), "{:?}", places(&seen));
        // A capture that is open is no way around it.
        allow(None);
        machines::ping(alpha, &pair.beta);
        let later = read(&handle, &inner).unwrap();
        assert_eq!((later.records.len(), later.counts), (0, seen.counts));
        handle.close();
    });
}

#[test]
fn what_is_taken_is_bounded_and_the_rest_counted() {
    machines::with_pair(3, |pair| {
        let (alpha, to) = (&pair.alpha, pair.beta.inner()[0]);
        machines::ping(alpha, &pair.beta);
        let send = |packets: u32| {
            for _ in 0..packets {
                alpha.endpoint().send_datagram(to, vec![0; 1000]);
            }
            pair.world.sleep(Duration::from_millis(200));
        };
        let small = Start { what: OUTER, buffer: BUFFER_MIN, ..ALL };
        let handle = tracing(alpha, &small);
        send(400);
        let seen = read(&handle, &small).unwrap();
        let len: usize = seen.records.iter().map(|(_, bytes)| record_len(bytes.len())).sum();
        let Count { seen: all, missed } = seen.counts.outer;
        assert!(all >= 400 && missed > 200, "{all}, {missed} missed");
        assert_eq!(seen.records.len() as u64, all - missed);
        assert!(len <= BUFFER_MIN as usize && len + 2000 > BUFFER_MIN as usize, "{len} bytes");
        // The next buffer is as large, and has what came next.
        send(10);
        assert_eq!(read(&handle, &small).unwrap().records.len(), 10);
        send(10);
        assert_eq!(read(&handle, &small).unwrap().counts.outer, Count { seen: all + 20, missed });
        handle.close();
        // A part of each packet, and so many of a second.
        let few = Start { what: OUTER, snap: 40, per_second: 50, ..ALL };
        let handle = tracing(alpha, &few);
        let whole = Duration::from_secs(1);
        let into = Duration::from_nanos(u64::from(pair.world.now().subsec_nanos()));
        pair.world.sleep(whole - into + Duration::from_millis(300));
        send(120);
        let seen = read(&handle, &few).unwrap();
        assert_eq!(
            (seen.records.len(), seen.counts.outer.missed),
            (50, seen.counts.outer.seen - 50)
        );
        for (head, bytes) in &seen.records {
            assert_eq!((bytes.len(), head.original > 1000), (40, true));
        }
        pair.world.sleep(whole);
        send(20);
        assert_eq!(read(&handle, &few).unwrap().records.len(), 20, "another second");
        handle.close();
    });
}

#[test]
fn a_capture_is_its_handles_and_there_is_one() {
    machines::with_pair(4, |pair| {
        let alpha = &pair.alpha;
        let used = || alpha.computer().machine().pool_use().bytes;
        machines::ping(alpha, &pair.beta);
        let load = Load::start(&pair.world, alpha, pair.beta.inner()[0], 900, SOON);
        for round in 0..5 {
            let mine = tracing(alpha, &ALL_OUTER);
            let others = handle(alpha);
            assert_eq!(start(&others, &ALL_OUTER), Err(BUSY), "one at a time");
            assert_eq!(start(&mine, &ALL_OUTER), Err(BUSY), "of the same handle, too");
            assert_eq!(read(&others, &ALL_OUTER).err(), Some(NOT_YOURS));
            pair.world.sleep(Duration::from_millis(20 + round));
            assert!(!read(&mine, &ALL_OUTER).unwrap().records.is_empty());
            // Closing another is nothing to it.
            others.close();
            pair.world.sleep(Duration::from_millis(20));
            assert!(!read(&mine, &ALL_OUTER).unwrap().records.is_empty());
            // In the middle of the traffic.
            let before = used();
            mine.close();
            assert!(used() + 2 * (ALL_OUTER.buffer as usize) <= before + (64 << 10));
            let again = handle(alpha);
            assert_eq!(read(&again, &ALL_OUTER).err(), Some(NOT_YOURS));
        }
        drop(load);
        machines::ping(alpha, &pair.beta);
    });
}

#[test]
fn an_adapter_that_sleeps_or_goes_takes_no_notice_of_its_capture() {
    machines::on_virtual_time(5, |world, driver| {
        let options = machines::verified("machine");
        let pair = Pair::boot(world, &options, driver).unwrap();
        let handle = tracing(&pair.alpha, &ALL_OUTER);
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.tunnel().sleep().unwrap();
        assert!(!read(&handle, &ALL_OUTER).unwrap().records.is_empty(), "while it sleeps");
        pair.alpha.tunnel().wake().unwrap();
        pair.alpha.tunnel().rebalance().unwrap();
        pair.alpha.set_up(false).unwrap();
        assert!(read(&handle, &ALL_OUTER).is_ok(), "down");
        pair.alpha.set_up(true).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        assert!(!read(&handle, &ALL_OUTER).unwrap().records.is_empty(), "up again");
        // Pulled out under traffic with the handle open: closed when its program hears of it.
        let load = Load::start(world, &pair.beta, pair.alpha.inner()[0], 900, SOON);
        let clock = world.clone();
        let tracer = world.spawn("tracer", move || {
            let mut reads = 0;
            while read(&handle, &ALL_OUTER).is_ok() && reads < 100 {
                reads += 1;
                clock.sleep(Duration::from_millis(1));
            }
            handle.close();
        });
        world.sleep(Duration::from_millis(20));
        let Pair { alpha, beta, .. } = pair;
        let place = alpha.pull_out().unwrap_or_else(|error| panic!("{error}"));
        tracer.join(None);
        drop(load);
        let alpha = place.plug_in().unwrap();
        machines::join(&alpha, &beta);
        machines::ping(&alpha, &beta);
        // What the first adapter counted is gone with it, so nothing adds up.
        for station in [beta, alpha] {
            machines::nothing_left(&station.shut_down().unwrap_or_else(|error| panic!("{error}")));
        }
    });
}
